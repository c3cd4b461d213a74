#include "pkg/worker/logs.h"

#include "internal/clock.h"
#include "pkg/executors/shimdir.h"

#include <stdlib.h>
#include <unistd.h>

#define HEADER_MAX 256

struct question {
    struct list_node node;
    struct order_log q; /* strings are owned here */
    char *stream;
    char *reply;
    int64_t deadline;
};

struct logs {
    struct logs_options o;
    uv_timer_t timer;
    bool ticking;
    struct list waiting;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

struct piece {
    bool found;
    bool live;
    int64_t size;
    int64_t offset;
    struct buf data;
};

static void read_piece(struct logs *l, const struct order_log *q, struct piece *p)
{
    char *dir CLEANUP(freep) = shimdir_path(l->o.tasks_dir, &q->key.task, q->key.attempt);

    /* Asked before the log is read: what is read then is all there will be. */
    p->live = l->o.is_live(l->o.arg, &q->key);
    p->found = access(dir, F_OK) == 0;
    p->offset = q->offset;
    buf_init(&p->data, LOG_LIMIT_MAX);
    if (!p->found) {
        p->found = l->o.is_known(l->o.arg, &q->key);
        p->offset = MAX(p->offset, (int64_t)0);
        return;
    }
    p->size = shim_log_size(dir, q->stream);
    if (p->offset < 0) {
        p->offset = MAX(p->size + p->offset, (int64_t)0);
    }
    if (shim_log_read(dir, q->stream, p->offset, (size_t)q->limit, &p->data, &p->offset, &p->size,
                      NULL) < 0) {
        buf_reset(&p->data); /* nothing of it can be had now */
    }
}

static void send_piece(struct logs *l, const struct order_log *q, const struct piece *p)
{
    struct buf b CLEANUP(buf_free);
    bool more = p->offset + (int64_t)p->data.len < p->size;

    buf_init(&b, LOG_LIMIT_MAX + HEADER_MAX);
    buf_addf(&b,
             "{\"v\":1,\"type\":\"log\",\"rid\":%lld,\"found\":%s,\"size\":%lld,\"offset\":%lld,"
             "\"ended\":%s}\n",
             (long long)q->rid, p->found ? "true" : "false", (long long)p->size,
             (long long)p->offset, p->live || more ? "false" : "true");
    buf_add(&b, p->data.data ? p->data.data : "", p->data.len);
    l->o.answer(l->o.arg, q->reply, (struct str){b.data, b.len});
}

/* True where it was answered. */
static bool try_answer(struct logs *l, const struct order_log *q, bool now)
{
    struct piece p = {0};

    read_piece(l, q, &p);
    bool ready = now || !p.found || !p.live || p.data.len || (q->limit == 0 && p.size > q->offset);
    if (ready) {
        send_piece(l, q, &p);
    }
    buf_free(&p.data);
    return ready;
}

static void question_free(struct question *w)
{
    if (list_linked(&w->node)) {
        list_remove(&w->node);
    }
    free(w->stream);
    free(w->reply);
    free(w);
}

static void on_tick(uv_timer_t *t)
{
    struct logs *l = t->data;
    int64_t now = clock_boot_ms();

    LIST_EACH(&l->waiting, it)
    {
        struct question *w = CONTAINER_OF(it, struct question, node);

        if (try_answer(l, &w->q, now >= w->deadline)) {
            question_free(w);
        }
    }
    if (l->waiting.count == 0) {
        l->ticking = false;
        uv_timer_stop(t);
    }
}

void logs_ask(struct logs *l, const struct order_log *q)
{
    bool now = q->wait_ms == 0 || l->waiting.count >= LOGS_WAITING_MAX;

    if (try_answer(l, q, now)) {
        return;
    }
    struct question *w = xcalloc(1, sizeof(*w));
    w->q = *q;
    w->q.stream = w->stream = xstrdup(q->stream);
    w->q.reply = w->reply = xstrdup(q->reply);
    w->deadline = clock_boot_ms() + q->wait_ms;
    list_push(&l->waiting, &w->node);
    if (!l->ticking) {
        l->ticking = true;
        MUST(uv_timer_start(&l->timer, on_tick, LOGS_LOOK_MS, LOGS_LOOK_MS) == 0);
    }
}

void logs_kick(struct logs *l)
{
    if (l->ticking) {
        MUST(uv_timer_start(&l->timer, on_tick, 0, LOGS_LOOK_MS) == 0);
    }
}

struct logs *logs_open(uv_loop_t *loop, const struct logs_options *o)
{
    struct logs *l = xcalloc(1, sizeof(*l));

    l->o = *o;
    list_init(&l->waiting);
    MUST(uv_timer_init(loop, &l->timer) == 0);
    l->timer.data = l;
    return l;
}

static void on_timer_closed(uv_handle_t *h)
{
    struct logs *l = h->data;
    void (*on_closed)(void *arg) = l->on_closed;
    void *arg = l->closed_arg;

    free(l);
    on_closed(arg);
}

void logs_close(struct logs *l, void (*on_closed)(void *arg), void *arg)
{
    LIST_EACH(&l->waiting, it)
    {
        question_free(CONTAINER_OF(it, struct question, node));
    }
    l->on_closed = on_closed;
    l->closed_arg = arg;
    uv_close((uv_handle_t *)&l->timer, on_timer_closed);
}
