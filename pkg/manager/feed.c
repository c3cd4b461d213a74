#include "pkg/manager/feed_priv.h"

#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/messages.h"

#include <stdio.h>
#include <stdlib.h>

#define BUFFER_LOW    500
#define BUFFER_HIGH   2000
#define TICK_MS       50
#define DRAIN_S       0.25 /* so much work is in the broker, or twice the free slots */
#define MARK_DELAY_MS 1000 /* a claim within this time saves the mark */
#define FLEET_MS      5    /* many beats are looked at once */
#define PAUSE_MS      1000 /* after a refused publish */

void feed_queue_name(char text[FEED_QUEUE_LEN], const char *pool, enum task_class c)
{
    snprintf(text, FEED_QUEUE_LEN, "sje.work.%s.%s", pool, task_class_name(c));
}

static bool hint_less(const struct heap_node *a, const struct heap_node *b)
{
    const struct feed_hint *x = CONTAINER_OF_CONST(a, struct feed_hint, heap);
    const struct feed_hint *y = CONTAINER_OF_CONST(b, struct feed_hint, heap);

    return feed_before(x->rank, &x->id, y->rank, &y->id);
}

/* ---- entries ---- */

struct feed_hint *feed_hint_find(struct feed *f, const struct id *id)
{
    struct feed_hint *e = NULL;

    HASH_FIND(hh, f->hints, id, sizeof(*id), e);
    return e;
}

static void hint_unlink(struct feed_hint *e)
{
    if (heap_linked(&e->heap)) {
        heap_remove(&e->pool->held, &e->heap);
    }
    if (list_linked(&e->node)) {
        list_remove(&e->node);
    }
    if (list_linked(&e->mark)) {
        list_remove(&e->mark);
    }
}

void feed_hint_set(struct feed_hint *e, enum feed_hint_state s)
{
    hint_unlink(e);
    e->state = s;
    switch (s) {
    case HELD:
        heap_push(&e->pool->held, &e->heap);
        break;
    case SENT:
        list_push(&e->pool->outstanding, &e->node);
        break;
    case FED:
        list_push(&e->pool->outstanding, &e->node);
        list_push(&e->pool->feed->marks, &e->mark);
        break;
    }
}

static void hint_free(struct feed *f, struct feed_hint *e)
{
    hint_unlink(e);
    HASH_DEL(f->hints, e);
    free(e);
}

struct feed_hint *feed_hint_new(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct feed_hint *e = xmalloc(sizeof(*e));

    e->id = row->id;
    e->pool = p;
    e->attempt = row->attempt;
    e->priority = row->priority;
    e->slots = row->slots;
    e->rank = row->rank;
    HASH_ADD(hh, f->hints, id, sizeof(e->id), e);
    return e;
}

/* ---- pools ---- */

struct feed_pool *feed_pool_find(struct feed *f, const char *name)
{
    struct feed_pool *p = NULL;

    HASH_FIND_STR(f->pools, name, p);
    return p;
}

/* Looks at everything READY again. */
static void pool_restart(struct feed_pool *p)
{
    p->fits = -1;
    p->complete = false;
    p->horizon_rank = INT64_MIN;
    p->horizon_id = (struct id){0};
}

static struct feed_pool *pool_get(struct feed *f, const char *name)
{
    struct feed_pool *p = feed_pool_find(f, name);

    if (!p) {
        p = xmalloc(sizeof(*p));
        p->name = xstrdup(name);
        p->feed = f;
        pool_restart(p);
        heap_init(&p->held, hint_less);
        list_init(&p->outstanding);
        HASH_ADD_KEYPTR(hh, f->pools, p->name, strlen(p->name), p);
    }
    return p;
}

static void pool_empty(struct feed *f, struct feed_pool *p)
{
    struct feed_hint *e;
    struct feed_hint *tmp;

    HASH_ITER(hh, f->hints, e, tmp)
    {
        if (e->pool == p) {
            hint_free(f, e);
        }
    }
    pool_restart(p);
    p->rescan = false;
    p->rate = 0;
}

static void pool_free(struct feed *f, struct feed_pool *p)
{
    HASH_DEL(f->pools, p);
    heap_done(&p->held);
    free(p->name);
    free(p);
}

static size_t pool_window(const struct feed_pool *p)
{
    int total = 0;
    int available = 0;
    int largest = 0;

    fleet_slots(p->feed->o.fleet, p->name, &total, &available, &largest);
    if (total == 0) {
        return 0;
    }
    size_t window = MAX((size_t)available * 2, (size_t)MIN(total, 4));
    return MIN(MAX(window, (size_t)(p->rate * DRAIN_S)), (size_t)FEED_WINDOW_MAX);
}

/* Too much in memory: the best stay, the horizon is drawn behind them. */
void feed_pool_trim(struct feed *f, struct feed_pool *p)
{
    struct heap keep;
    size_t n = p->held.count - BUFFER_HIGH;

    if (p->held.count <= 2 * (size_t)BUFFER_HIGH) {
        return;
    }
    heap_init(&keep, hint_less);
    struct feed_hint *last = NULL;
    for (size_t i = 0; i < BUFFER_HIGH; i++) {
        struct heap_node *h = heap_pop(&p->held);

        last = CONTAINER_OF(h, struct feed_hint, heap);
        heap_push(&keep, h);
    }
    for (; n; n--) {
        hint_free(f, CONTAINER_OF(heap_min(&p->held), struct feed_hint, heap));
    }
    heap_done(&p->held);
    p->held = keep;
    p->complete = false;
    p->horizon_rank = last->rank;
    p->horizon_id = last->id;
}

/* ---- publishing ---- */

struct publish {
    struct feed *feed;
    struct id id;
    int32_t attempt;
    uint64_t run;
};

static void on_confirm(void *arg, int rc)
{
    struct publish *pub CLEANUP(freep) = arg;
    struct feed *f = pub->feed;
    struct feed_hint *e = feed_hint_find(f, &pub->id);

    f->open_calls--;
    CRASH_POINT("feed-before-confirm");
    if (pub->run != f->run || !e || e->state != SENT || e->attempt != pub->attempt) {
        return;
    }
    if (rc == 0) {
        e->since = clock_boot_ms();
        feed_hint_set(e, FED);
        return;
    }
    if (rc == ERR_NOT_FOUND) {
        CRASH_POINT("feed-returned");
        e->pool->declared = false;
    }
    if (rc != ERR_MQ_DOWN) {
        e->pool->pause_until = clock_boot_ms() + PAUSE_MS;
    }
    feed_hint_set(e, HELD);
}

static int declare_queues(struct feed_pool *p, struct mq *mq)
{
    for (int c = 0; c < TASK_CLASSES; c++) {
        char name[FEED_QUEUE_LEN];

        feed_queue_name(name, p->name, (enum task_class)c);
        int rc = mq_declare_queue(mq, name, MQ_QUORUM, NULL, NULL);
        if (rc < 0) {
            return rc;
        }
    }
    p->declared = true;
    return 0;
}

static int publish_hint(struct feed *f, struct mq *mq, const struct feed_hint *e)
{
    struct publish *pub = xmalloc(sizeof(*pub));
    char queue[FEED_QUEUE_LEN];
    char message_id[64];
    char body[HINT_MAX];

    feed_queue_name(queue, e->pool->name, task_class_of(e->priority));
    hint_write(body, message_id, &e->id, e->attempt, e->slots, e->rank, f->o.reply);
    *pub = (struct publish){f, e->id, e->attempt, f->run};
    CRASH_POINT("feed-before-publish");
    struct mq_message m = {.exchange = "",
                           .routing_key = queue,
                           .body = str_of(body),
                           .message_id = message_id,
                           .persistent = true,
                           .mandatory = true};
    int rc = mq_publish(mq, &m, on_confirm, pub);
    if (rc < 0) {
        free(pub);
    } else {
        METRIC_INC(hints_published);
        f->open_calls++;
    }
    return rc;
}

void feed_pool_step(struct feed_pool *p)
{
    struct feed *f = p->feed;
    struct mq *mq = f->o.publisher(f->o.arg);
    int total = 0;
    int available = 0;
    int largest = 0;

    if (f->epoch == 0 || p->paused || !p->served || !mq || mq_is_blocked(mq) ||
        clock_boot_ms() < p->pause_until) {
        return;
    }
    if (!p->declared && declare_queues(p, mq) < 0) {
        return;
    }
    fleet_slots(f->o.fleet, p->name, &total, &available, &largest);
    size_t window = pool_window(p);
    while (p->outstanding.count < window && p->held.count) {
        struct feed_hint *e = CONTAINER_OF(heap_min(&p->held), struct feed_hint, heap);

        if (e->slots > largest) {
            /* No worker could take it. It is looked for again when a larger one comes. */
            p->fits = p->fits < 0 ? largest : MIN(p->fits, largest);
            hint_free(f, e);
            continue;
        }
        if (publish_hint(f, mq, e) < 0) {
            break;
        }
        e->since = clock_boot_ms();
        feed_hint_set(e, SENT);
    }
    if (p->held.count < BUFFER_LOW && !p->complete && p->scans == 0) {
        feed_scan_ready(p, false);
    } else if (p->rescan && p->scans == 0) {
        feed_scan_ready(p, true);
    }
}

/* ---- marks ---- */

static void write_marks(struct feed *f, int64_t now)
{
    struct list_node *n;

    while ((n = list_first(&f->marks))) {
        struct feed_hint *e = CONTAINER_OF(n, struct feed_hint, mark);
        const struct task *row = ledger_peek(f->o.ledger, &e->id);

        if (now - e->since < MARK_DELAY_MS) {
            break;
        }
        list_remove(n);
        if (!row || row->state == TASK_READY) {
            CRASH_POINT("feed-before-mark");
            struct task_event ev = {
                .type = TE_FED, .now = f->o.now(f->o.arg), .attempt = e->attempt};
            ledger_submit(f->o.ledger, &e->id, &ev, f->epoch, NULL, NULL);
        }
    }
}

/* ---- ticking ---- */

static void tick_rate(struct feed_pool *p, double seconds)
{
    double now = p->granted / seconds;

    p->rate = now > p->rate ? now : p->rate * 0.7 + now * 0.3;
    p->granted = 0;
}

static bool pool_wanted(const struct feed_pool *p)
{
    for (const struct fleet_worker *w = p->feed->o.fleet->workers; w; w = w->hh.next) {
        if (fleet_serves(w, p->name)) {
            return true;
        }
    }
    return p->paused || p->scans || p->depth_wanted;
}

/* Pools that no known worker serves any more. */
static void forget_pools(struct feed *f)
{
    struct feed_pool *p;
    struct feed_pool *tmp;

    HASH_ITER(hh, f->pools, p, tmp)
    {
        if (!pool_wanted(p)) {
            pool_empty(f, p);
            pool_free(f, p);
        }
    }
}

static void look_at_fleet(struct feed *f)
{
    f->fleet_changed = false;
    for (const struct fleet_worker *w = f->o.fleet->workers; w; w = w->hh.next) {
        for (size_t i = 0; w->pools && w->pools[i] && w->state == WORKER_UP; i++) {
            struct feed_pool *p = pool_get(f, w->pools[i]);

            if (!p->served) {
                p->served = true;
                feed_scan_fed(p);
            }
        }
    }
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        int total = 0;
        int available = 0;
        int largest = 0;

        fleet_slots(f->o.fleet, p->name, &total, &available, &largest);
        if (p->fits >= 0 && largest > p->fits) {
            pool_restart(p);
        }
        feed_pool_step(p);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct feed *f = t->data;
    int64_t now = clock_boot_ms();
    bool second = now - f->last_tick >= 1000;

    write_marks(f, now);
    if (second) {
        forget_pools(f);
    }
    if (f->fleet_changed) {
        look_at_fleet(f);
    }
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        if (second) {
            tick_rate(p, (double)(now - f->last_tick) / 1000.0);
            feed_lost_check(p, now);
        }
        feed_pool_step(p);
    }
    if (second) {
        f->last_tick = now;
    }
    /* Sleeps where there is nothing to feed: events wake it. */
    bool busy = f->marks.count > 0;
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        busy = busy || p->held.count;
    }
    MUST(uv_timer_start(&f->timer, on_timer, busy ? TICK_MS : 1000, 0) == 0);
}

/* ---- life ---- */

struct feed *feed_new(const struct feed_options *o)
{
    struct feed *f = xmalloc(sizeof(*f));

    f->o = *o;
    list_init(&f->marks);
    MUST(uv_timer_init(o->loop, &f->timer) == 0);
    f->timer.data = f;
    return f;
}

static void close_done(struct feed *f)
{
    struct feed_pool *p;
    struct feed_pool *tmp;

    MUST(f->open_calls == 0);
    HASH_ITER(hh, f->pools, p, tmp)
    {
        pool_free(f, p);
    }
    if (f->on_closed) {
        f->on_closed(f->on_closed_arg);
    }
    free(f);
}

static void on_timer_closed(uv_handle_t *h)
{
    close_done(h->data);
}

/* Broker and database are closed by now: no callback is open. */
void feed_close(struct feed *f, void (*on_closed)(void *arg), void *arg)
{
    feed_stop(f);
    f->closing = true;
    f->on_closed = on_closed;
    f->on_closed_arg = arg;
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

void feed_start(struct feed *f, int64_t epoch)
{
    f->run++;
    f->epoch = epoch;
    f->last_tick = clock_boot_ms();
    f->fleet_changed = true;
    MUST(uv_timer_start(&f->timer, on_timer, 0, 0) == 0);
}

void feed_stop(struct feed *f)
{
    f->run++;
    f->epoch = 0;
    uv_timer_stop(&f->timer);
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        pool_empty(f, p);
        p->scans = 0;
        p->served = p->fed_known = p->fed_asked = false;
    }
}

void feed_changed(struct feed *f, const struct task *row)
{
    struct feed_hint *e = feed_hint_find(f, &row->id);
    struct feed_pool *p = feed_pool_find(f, row->pool);

    if (row->state == TASK_RUNNING) {
        feed_granted(f, &row->id, row->attempt);
        return;
    }
    if (e && (e->attempt != row->attempt || (row->state != TASK_READY && row->state != TASK_FED))) {
        struct feed_pool *of = e->pool;

        hint_free(f, e);
        e = NULL;
        feed_pool_step(of);
    }
    if (f->epoch == 0 || e || row->state != TASK_READY || !p || !p->served) {
        return;
    }
    if (p->complete || !feed_before(p->horizon_rank, &p->horizon_id, row->rank, &row->id)) {
        feed_hint_set(feed_hint_new(f, p, row), HELD);
        feed_pool_trim(f, p);
        feed_pool_step(p);
    } else if (p->scans &&
               (!p->missed || feed_before(row->rank, &row->id, p->missed_rank, &p->missed_id))) {
        p->missed = true;
        p->missed_rank = row->rank;
        p->missed_id = row->id;
    }
}

void feed_granted(struct feed *f, const struct id *id, int32_t attempt)
{
    struct feed_hint *e = feed_hint_find(f, id);

    if (e && e->attempt <= attempt) {
        struct feed_pool *of = e->pool;

        of->granted += e->attempt == attempt;
        hint_free(f, e);
        feed_pool_step(of);
    }
}

void feed_forget(struct feed *f, const struct id *id)
{
    struct feed_hint *e = feed_hint_find(f, id);

    if (e) {
        struct feed_pool *of = e->pool;

        hint_free(f, e);
        feed_pool_step(of);
    }
}

void feed_fleet_changed(struct feed *f)
{
    if (f->epoch && !f->fleet_changed) {
        f->fleet_changed = true;
        MUST(uv_timer_start(&f->timer, on_timer, FLEET_MS, 0) == 0);
    }
}

void feed_rescan(struct feed *f)
{
    for (struct feed_pool *p = f->pools; p && f->epoch; p = p->hh.next) {
        p->rescan = p->served;
        if (p->served) {
            feed_scan_fed(p);
        }
        feed_pool_step(p);
    }
}

void feed_broker_up(struct feed *f)
{
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        p->declared = false;
        feed_pool_step(p);
    }
}

void feed_pause(struct feed *f, const char *pool, bool paused)
{
    struct feed_pool *p = pool_get(f, pool);

    p->paused = paused;
    feed_pool_step(p);
}

void feed_each(const struct feed *f, void (*fn)(void *arg, const struct feed_pool_info *info),
               void *arg)
{
    for (const struct feed_pool *p = f->pools; p; p = p->hh.next) {
        struct feed_pool_info info = {
            p->name, p->paused, p->held.count, p->outstanding.count, pool_window(p), p->complete};
        fn(arg, &info);
    }
}
