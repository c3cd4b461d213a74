#include "pkg/manager/feed.h"

#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/heap.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/messages.h"
#include "pkg/manager/store.h"

#include <stdio.h>
#include <stdlib.h>

#define BUFFER_LOW    500
#define BUFFER_HIGH   2000
#define SCAN_LIMIT    1000
#define WINDOW_MAX    20000
#define MARK_DELAY_MS 50 /* a claim within this time saves the mark */
#define LOST_AFTER_MS                                                                              \
    15000             /* a hint that is neither claimed nor in the queue is published again        \
                       */
#define PAUSE_MS 1000 /* after a refused publish */

enum entry_state { HELD, SENT, FED };

struct entry {
    struct id id;
    UT_hash_handle hh;
    struct heap_node heap; /* HELD */
    struct list_node node; /* SENT, FED: pool->outstanding, oldest first */
    struct list_node mark; /* FED, not yet written: feed->marks */
    struct feed_pool *pool;
    enum entry_state state;
    int32_t attempt;
    int32_t priority;
    int slots;
    int64_t rank;
    int64_t since; /* SENT, FED: boot ms */
};

struct feed_pool {
    char *name;
    UT_hash_handle hh;
    struct feed *feed;
    struct heap held;
    struct list outstanding;
    bool paused;
    bool served;
    bool declared;
    bool complete;   /* horizon is at infinity */
    int unfit_above; /* 0, or some tasks need more slots than this, the most that a worker has */
    int64_t horizon_rank;
    struct id horizon_id;
    int scans; /* in flight */
    bool rescan;
    int64_t pause_until;
    int granted; /* since the last tick */
    double rate; /* grants per second, smoothed */
    uint32_t depth[TASK_CLASSES];
    int depth_wanted;
};

struct scan {
    struct feed *feed;
    char *pool;
    uint64_t run;
    bool from_start;
};

struct publish {
    struct feed *feed;
    struct id id;
    int32_t attempt;
    uint64_t run;
};

struct feed {
    struct feed_options o;
    struct feed_pool *pools;
    struct entry *entries;
    struct list marks;
    int64_t epoch;  /* 0: not leading */
    uint64_t run;   /* raised by each start and stop: late answers are dropped */
    int open_calls; /* callbacks still to come */
    int64_t last_tick;
    uv_timer_t timer;
    bool closing;
    bool timer_closed;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

void feed_queue_name(char text[FEED_QUEUE_LEN], const char *pool, enum task_class c)
{
    snprintf(text, FEED_QUEUE_LEN, "sje.work.%s.%s", pool, task_class_name(c));
}

static bool key_less(int64_t rank_a, const struct id *a, int64_t rank_b, const struct id *b)
{
    return rank_a != rank_b ? rank_a < rank_b : memcmp(a->b, b->b, ID_LEN) < 0;
}

static bool entry_less(const struct heap_node *a, const struct heap_node *b)
{
    const struct entry *x = CONTAINER_OF_CONST(a, struct entry, heap);
    const struct entry *y = CONTAINER_OF_CONST(b, struct entry, heap);

    return key_less(x->rank, &x->id, y->rank, &y->id);
}

/* ---- entries ---- */

static struct entry *entry_find(struct feed *f, const struct id *id)
{
    struct entry *e = NULL;

    HASH_FIND(hh, f->entries, id, sizeof(*id), e);
    return e;
}

static void entry_unlink(struct entry *e)
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

static void entry_set(struct entry *e, enum entry_state s)
{
    entry_unlink(e);
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

static void entry_free(struct feed *f, struct entry *e)
{
    entry_unlink(e);
    HASH_DEL(f->entries, e);
    free(e);
}

static struct entry *entry_new(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct entry *e = xmalloc(sizeof(*e));

    e->id = row->id;
    e->pool = p;
    e->attempt = row->attempt;
    e->priority = row->priority;
    e->slots = row->slots;
    e->rank = row->rank;
    HASH_ADD(hh, f->entries, id, sizeof(e->id), e);
    return e;
}

/* ---- pools ---- */

static struct feed_pool *pool_find(struct feed *f, const char *name)
{
    struct feed_pool *p = NULL;

    HASH_FIND_STR(f->pools, name, p);
    return p;
}

static struct feed_pool *pool_get(struct feed *f, const char *name)
{
    struct feed_pool *p = pool_find(f, name);

    if (!p) {
        p = xmalloc(sizeof(*p));
        p->name = xstrdup(name);
        p->feed = f;
        p->horizon_rank = INT64_MIN;
        heap_init(&p->held, entry_less);
        list_init(&p->outstanding);
        HASH_ADD_KEYPTR(hh, f->pools, p->name, strlen(p->name), p);
    }
    return p;
}

/* Looks at everything READY again. */
static void pool_restart(struct feed_pool *p)
{
    p->unfit_above = 0;
    p->complete = false;
    p->horizon_rank = INT64_MIN;
    p->horizon_id = (struct id){0};
}

static void pool_empty(struct feed *f, struct feed_pool *p)
{
    struct entry *e;
    struct entry *tmp;

    HASH_ITER(hh, f->entries, e, tmp)
    {
        if (e->pool == p) {
            entry_free(f, e);
        }
    }
    pool_restart(p);
    p->rescan = false;
    p->rate = 0;
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
    return MIN(MAX(window, (size_t)p->rate), (size_t)WINDOW_MAX);
}

/* Too much in memory: the best stay, the horizon is drawn behind them. */
static void pool_trim(struct feed *f, struct feed_pool *p)
{
    struct heap keep;
    size_t n = p->held.count - BUFFER_HIGH;

    if (p->held.count <= 2 * (size_t)BUFFER_HIGH) {
        return;
    }
    heap_init(&keep, entry_less);
    struct entry *last = NULL;
    for (size_t i = 0; i < BUFFER_HIGH; i++) {
        struct heap_node *h = heap_pop(&p->held);

        last = CONTAINER_OF(h, struct entry, heap);
        heap_push(&keep, h);
    }
    for (; n; n--) {
        entry_free(f, CONTAINER_OF(heap_min(&p->held), struct entry, heap));
    }
    heap_done(&p->held);
    p->held = keep;
    p->complete = false;
    p->horizon_rank = last->rank;
    p->horizon_id = last->id;
}

/* ---- publishing ---- */

static void pool_step(struct feed_pool *p);

static void on_confirm(void *arg, int rc)
{
    struct publish *pub CLEANUP(freep) = arg;
    struct feed *f = pub->feed;
    struct entry *e = entry_find(f, &pub->id);

    f->open_calls--;
    CRASH_POINT("feed-before-confirm");
    if (pub->run != f->run || !e || e->state != SENT || e->attempt != pub->attempt) {
        return;
    }
    if (rc == 0) {
        e->since = clock_boot_ms();
        entry_set(e, FED);
        return;
    }
    if (rc == ERR_NOT_FOUND) {
        CRASH_POINT("feed-returned");
        e->pool->declared = false;
    }
    if (rc != ERR_MQ_DOWN) {
        e->pool->pause_until = clock_boot_ms() + PAUSE_MS;
    }
    entry_set(e, HELD);
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

static int publish_hint(struct feed *f, struct mq *mq, const struct entry *e)
{
    struct publish *pub = xmalloc(sizeof(*pub));
    char queue[FEED_QUEUE_LEN];
    char message_id[64];
    char body[HINT_MAX];

    feed_queue_name(queue, e->pool->name, task_class_of(e->priority));
    hint_write(body, message_id, &e->id, e->attempt, e->slots, e->rank);
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

static void scan_start(struct feed_pool *p, bool from_start);

static void pool_step(struct feed_pool *p)
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
        struct entry *e = CONTAINER_OF(heap_min(&p->held), struct entry, heap);

        if (e->slots > largest) {
            /* No worker could take it. It is looked for again when a larger one comes. */
            p->unfit_above = largest;
            entry_free(f, e);
            continue;
        }
        if (publish_hint(f, mq, e) < 0) {
            break;
        }
        e->since = clock_boot_ms();
        entry_set(e, SENT);
    }
    if (p->held.count < BUFFER_LOW && !p->complete && p->scans == 0) {
        scan_start(p, false);
    } else if (p->rescan && p->scans == 0) {
        scan_start(p, true);
    }
}

/* ---- scanning ---- */

static void take_row(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct entry *e = entry_find(f, &row->id);
    const struct task *known = ledger_peek(f->o.ledger, &row->id);

    if (e || (known && known->seq > row->seq)) {
        return;
    }
    ledger_offer(f->o.ledger, row);
    entry_set(entry_new(f, p, row), HELD);
}

static void on_scanned(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct scan *s = arg;
    struct feed *f = s->feed;
    struct feed_pool *p = pool_find(f, s->pool);

    (void)why; /* a database that is away is reported by its owner; the next tick scans again */
    f->open_calls--;
    if (s->run == f->run && p) {
        p->scans--;
        if (rc == 0) {
            for (size_t i = 0; i < n; i++) {
                take_row(f, p, &rows[i]);
            }
            if (n < SCAN_LIMIT) {
                p->complete = true;
            } else if (p->complete || key_less(p->horizon_rank, &p->horizon_id, rows[n - 1].rank,
                                               &rows[n - 1].id)) {
                p->complete = false;
                p->horizon_rank = rows[n - 1].rank;
                p->horizon_id = rows[n - 1].id;
            }
            pool_trim(f, p);
            pool_step(p);
        }
    }
    free(s->pool);
    free(s);
}

static void scan_start(struct feed_pool *p, bool from_start)
{
    struct feed *f = p->feed;
    static const struct id first = {{0}};
    struct scan *s = xmalloc(sizeof(*s));

    *s = (struct scan){f, xstrdup(p->name), f->run, from_start};
    if (from_start) {
        p->rescan = false;
    }
    int rc =
        store_scan_queue(f->o.db, TASK_READY, p->name, from_start ? INT64_MIN : p->horizon_rank,
                         from_start ? &first : &p->horizon_id, SCAN_LIMIT, on_scanned, s);
    if (rc < 0) {
        free(s->pool);
        free(s);
        return;
    }
    p->scans++;
    f->open_calls++;
}

/* Hints that an earlier leader fed: they count as outstanding here. */
static void on_fed_scanned(void *arg, int rc, const struct task *rows, size_t n,
                           const struct err *why)
{
    struct scan *s = arg;
    struct feed *f = s->feed;
    struct feed_pool *p = pool_find(f, s->pool);

    (void)why;
    f->open_calls--;
    if (s->run == f->run && p && rc == 0) {
        for (size_t i = 0; i < n; i++) {
            if (!entry_find(f, &rows[i].id)) {
                struct entry *e = entry_new(f, p, &rows[i]);

                e->since = clock_boot_ms();
                entry_set(e, FED);
                list_remove(&e->mark); /* it is marked */
            }
        }
    }
    free(s->pool);
    free(s);
}

static void scan_fed(struct feed_pool *p)
{
    struct feed *f = p->feed;
    static const struct id first = {{0}};
    struct scan *s = xmalloc(sizeof(*s));

    *s = (struct scan){f, xstrdup(p->name), f->run, true};
    if (store_scan_queue(f->o.db, TASK_FED, p->name, INT64_MIN, &first, WINDOW_MAX, on_fed_scanned,
                         s) < 0) {
        free(s->pool);
        free(s);
        return;
    }
    f->open_calls++;
}

/* ---- marks ---- */

static void write_marks(struct feed *f, int64_t now)
{
    struct list_node *n;

    while ((n = list_first(&f->marks))) {
        struct entry *e = CONTAINER_OF(n, struct entry, mark);
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

/* ---- reconcile: hints that the broker no longer has ---- */

static void republish_old(struct feed_pool *p, int64_t now)
{
    size_t depth = 0;
    size_t lost = 0;

    for (int c = 0; c < TASK_CLASSES; c++) {
        depth += p->depth[c];
    }
    LIST_EACH(&p->outstanding, n)
    {
        struct entry *e = CONTAINER_OF(n, struct entry, node);

        if (now - e->since < LOST_AFTER_MS || p->outstanding.count <= depth) {
            break;
        }
        entry_set(e, HELD);
        lost++;
    }
    if (lost) {
        METRIC_ADD(hints_repeated, lost);
        log_warn(NULL,
                 "pool %s: %zu hints are neither claimed nor in the broker (it has %zu); "
                 "publishing them again",
                 p->name, lost, depth);
        pool_step(p);
    }
}

struct depth_call {
    struct feed *feed;
    char *pool;
    int class;
};

static void on_depth(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct depth_call *c = arg;
    struct feed_pool *p = pool_find(c->feed, c->pool);

    (void)why;
    c->feed->open_calls--;
    if (p) {
        p->depth[c->class] = rc == 0 ? count : 0;
        if (--p->depth_wanted == 0 && rc == 0 && c->feed->epoch) {
            republish_old(p, clock_boot_ms());
        }
    }
    free(c->pool);
    free(c);
}

static void ask_depths(struct feed_pool *p, struct mq *mq)
{
    for (int i = 0; i < TASK_CLASSES; i++) {
        char name[FEED_QUEUE_LEN];
        struct depth_call *c = xmalloc(sizeof(*c));

        feed_queue_name(name, p->name, (enum task_class)i);
        *c = (struct depth_call){p->feed, xstrdup(p->name), i};
        if (mq_declare_queue(mq, name, MQ_QUORUM, on_depth, c) < 0) {
            free(c->pool);
            free(c);
            return;
        }
        p->feed->open_calls++;
        p->depth_wanted++;
    }
}

static void reconcile(struct feed_pool *p, int64_t now)
{
    struct mq *mq = p->feed->o.publisher(p->feed->o.arg);
    struct list_node *n = list_first(&p->outstanding);

    if (mq && n && p->depth_wanted == 0 &&
        now - CONTAINER_OF(n, struct entry, node)->since >= LOST_AFTER_MS) {
        ask_depths(p, mq);
    }
}

/* ---- ticking ---- */

static void tick_rate(struct feed_pool *p, double seconds)
{
    double now = p->granted / seconds;

    p->rate = now > p->rate ? now : p->rate * 0.7 + now * 0.3;
    p->granted = 0;
}

static void on_timer(uv_timer_t *t)
{
    struct feed *f = t->data;
    int64_t now = clock_boot_ms();
    bool second = now - f->last_tick >= 1000;

    write_marks(f, now);
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        if (second) {
            tick_rate(p, (double)(now - f->last_tick) / 1000.0);
            reconcile(p, now);
        }
        pool_step(p);
    }
    if (second) {
        f->last_tick = now;
    }
    /* Sleeps where there is nothing to feed: events wake it. */
    bool busy = f->marks.count > 0;
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        busy = busy || p->held.count;
    }
    MUST(uv_timer_start(&f->timer, on_timer, busy ? MARK_DELAY_MS : 1000, 0) == 0);
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
        HASH_DEL(f->pools, p);
        heap_done(&p->held);
        free(p->name);
        free(p);
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
    MUST(uv_timer_start(&f->timer, on_timer, 0, 0) == 0);
    feed_fleet_changed(f);
}

void feed_stop(struct feed *f)
{
    f->run++;
    f->epoch = 0;
    uv_timer_stop(&f->timer);
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        pool_empty(f, p);
        p->scans = 0;
        p->served = false;
    }
}

void feed_changed(struct feed *f, const struct task *row)
{
    struct entry *e = entry_find(f, &row->id);
    struct feed_pool *p = pool_find(f, row->pool);

    if (row->state == TASK_RUNNING && e && e->attempt == row->attempt) {
        e->pool->granted++;
    }
    if (e && (e->attempt != row->attempt || (row->state != TASK_READY && row->state != TASK_FED))) {
        struct feed_pool *of = e->pool;

        entry_free(f, e);
        e = NULL;
        pool_step(of);
    }
    if (f->epoch == 0 || e || row->state != TASK_READY || !p || !p->served) {
        return;
    }
    if (p->complete || !key_less(p->horizon_rank, &p->horizon_id, row->rank, &row->id)) {
        entry_set(entry_new(f, p, row), HELD);
        pool_trim(f, p);
        pool_step(p);
    }
}

void feed_forget(struct feed *f, const struct id *id)
{
    struct entry *e = entry_find(f, id);

    if (e) {
        struct feed_pool *of = e->pool;

        entry_free(f, e);
        pool_step(of);
    }
}

void feed_fleet_changed(struct feed *f)
{
    if (f->epoch == 0) {
        return;
    }
    for (const struct fleet_worker *w = f->o.fleet->workers; w; w = w->hh.next) {
        for (size_t i = 0; w->pools && w->pools[i] && w->state == WORKER_UP; i++) {
            struct feed_pool *p = pool_get(f, w->pools[i]);

            if (!p->served) {
                p->served = true;
                scan_fed(p);
            }
        }
    }
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        int total = 0;
        int available = 0;
        int largest = 0;

        fleet_slots(f->o.fleet, p->name, &total, &available, &largest);
        if (p->unfit_above && largest > p->unfit_above) {
            pool_restart(p);
        }
        pool_step(p);
    }
}

void feed_rescan(struct feed *f)
{
    for (struct feed_pool *p = f->pools; p && f->epoch; p = p->hh.next) {
        p->rescan = p->served;
        pool_step(p);
    }
}

void feed_broker_up(struct feed *f)
{
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        p->declared = false;
        pool_step(p);
    }
}

void feed_pause(struct feed *f, const char *pool, bool paused)
{
    struct feed_pool *p = pool_get(f, pool);

    p->paused = paused;
    pool_step(p);
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
