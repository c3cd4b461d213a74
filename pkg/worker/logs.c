#include "pkg/worker/logs.h"

#include "internal/clock.h"
#include "pkg/executors/shimdir.h"

#include <stdlib.h>
#include <unistd.h>

#define HEADER_MAX 256

struct question {
    struct logs *of;
    struct list_node node; /* of->waiting, or of->reading */
    struct order_log q;    /* strings are owned here */
    char *stream;
    char *reply;
    int64_t deadline;

    struct lane_job job;
    char *dir;
    bool live;    /* asked before the log is read: what is read then is all there will be */
    int64_t took; /* ms; these by the lane */
    bool found;
    int64_t size;
    int64_t offset;
    struct buf data;
};

struct logs {
    struct logs_options o;
    uv_timer_t timer;
    bool ticking;
    struct list waiting; /* for something to read */
    struct list reading;
    int64_t took; /* all reads since the last look */
    bool closing;
    bool timer_closed;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* In the lane. */
static void read_piece(struct lane_job *j)
{
    struct question *w = CONTAINER_OF(j, struct question, job);
    int64_t began = clock_boot_ms();

    w->found = access(w->dir, F_OK) == 0;
    w->offset = w->q.offset;
    w->size = w->found ? shim_log_size(w->dir, w->q.stream) : 0;
    if (w->offset < 0) {
        w->offset = MAX(w->size + w->offset, (int64_t)0);
    }
    if (w->found && shim_log_read(w->dir, w->q.stream, w->offset, (size_t)w->q.limit, &w->data,
                                  &w->offset, &w->size, NULL) < 0) {
        buf_reset(&w->data); /* nothing of it can be had now */
    }
    w->took = clock_boot_ms() - began;
}

static void send_piece(const struct question *w, bool found)
{
    struct buf b CLEANUP(buf_free);
    bool more = w->offset + (int64_t)w->data.len < w->size;

    buf_init(&b, LOG_LIMIT_MAX + HEADER_MAX);
    buf_addf(&b,
             "{\"v\":1,\"type\":\"log\",\"rid\":%lld,\"found\":%s,\"size\":%lld,\"offset\":%lld,"
             "\"ended\":%s}\n",
             (long long)w->q.rid, found ? "true" : "false", (long long)w->size,
             (long long)w->offset, w->live || more ? "false" : "true");
    buf_add(&b, w->data.data ? w->data.data : "", w->data.len);
    w->of->o.answer(w->of->o.arg, w->q.reply, (struct str){b.data, b.len});
}

static void question_free(struct question *w)
{
    if (list_linked(&w->node)) {
        list_remove(&w->node);
    }
    buf_free(&w->data);
    free(w->dir);
    free(w->stream);
    free(w->reply);
    free(w);
}

static void free_if_closed(struct logs *l)
{
    if (l->timer_closed && l->reading.count == 0) {
        void (*on_closed)(void *arg) = l->on_closed;
        void *arg = l->closed_arg;

        free(l);
        on_closed(arg);
    }
}

static void on_tick(uv_timer_t *t);

/* Until there is something to read. */
static void wait(struct question *w)
{
    struct logs *l = w->of;

    list_push(&l->waiting, &w->node);
    if (!l->ticking) {
        l->ticking = true;
        MUST(uv_timer_start(&l->timer, on_tick, (uint64_t)MAX(LOGS_LOOK_MS, LOGS_REST * l->took),
                            0) == 0);
    }
}

static void on_read(struct lane_job *j)
{
    struct question *w = CONTAINER_OF(j, struct question, job);
    struct logs *l = w->of;
    bool ready = !w->live || w->data.len || clock_boot_ms() >= w->deadline ||
                 l->waiting.count >= LOGS_WAITING_MAX || (w->q.limit == 0 && w->size > w->q.offset);
    bool found = w->found || l->o.is_known(l->o.arg, &w->q.key);

    l->took += w->took;
    list_remove(&w->node);
    if (!l->closing && found && !ready) {
        wait(w);
        return;
    }
    if (!l->closing) {
        send_piece(w, found);
    }
    question_free(w);
    if (l->closing) {
        free_if_closed(l);
    }
}

static void ask(struct question *w)
{
    struct logs *l = w->of;

    w->live = l->o.is_live(l->o.arg, &w->q.key);
    buf_reset(&w->data);
    list_push(&l->reading, &w->node);
    w->job = (struct lane_job){.work = read_piece, .done = on_read};
    lane_do(l->o.lane, &w->job);
}

static void on_tick(uv_timer_t *t)
{
    struct logs *l = t->data;

    LIST_EACH(&l->waiting, it)
    {
        struct question *w = CONTAINER_OF(it, struct question, node);

        list_remove(&w->node);
        ask(w);
    }
    l->ticking = false;
    l->took = 0;
}

/* Who waits long asks again. */
static bool is_being_read(struct logs *l, const struct order_log *q)
{
    LIST_EACH(&l->reading, it)
    {
        const struct question *w = CONTAINER_OF(it, struct question, node);

        if (w->q.rid == q->rid && streq(w->reply, q->reply)) {
            return true;
        }
    }
    return false;
}

void logs_ask(struct logs *l, const struct order_log *q)
{
    if (l->reading.count >= LOGS_READING_MAX || is_being_read(l, q)) {
        return;
    }
    struct question *w = xcalloc(1, sizeof(*w));
    w->of = l;
    w->q = *q;
    w->q.stream = w->stream = xstrdup(q->stream);
    w->q.reply = w->reply = xstrdup(q->reply);
    w->dir = shimdir_path(l->o.tasks_dir, &q->key.task, q->key.attempt);
    w->deadline = clock_boot_ms() + q->wait_ms;
    buf_init(&w->data, LOG_LIMIT_MAX);
    ask(w);
}

void logs_kick(struct logs *l)
{
    if (l->ticking) {
        MUST(uv_timer_start(&l->timer, on_tick, 0, 0) == 0);
    }
}

struct logs *logs_open(uv_loop_t *loop, const struct logs_options *o)
{
    struct logs *l = xcalloc(1, sizeof(*l));

    l->o = *o;
    list_init(&l->waiting);
    list_init(&l->reading);
    MUST(uv_timer_init(loop, &l->timer) == 0);
    l->timer.data = l;
    return l;
}

static void on_timer_closed(uv_handle_t *h)
{
    struct logs *l = h->data;

    l->timer_closed = true;
    free_if_closed(l);
}

void logs_close(struct logs *l, void (*on_closed)(void *arg), void *arg)
{
    LIST_EACH(&l->waiting, it)
    {
        question_free(CONTAINER_OF(it, struct question, node));
    }
    l->closing = true;
    l->on_closed = on_closed;
    l->closed_arg = arg;
    uv_close((uv_handle_t *)&l->timer, on_timer_closed);
}
