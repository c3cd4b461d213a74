#include "pkg/manager/feed_priv.h"

#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#define BUFFER_LOW    500
#define BUFFER_HIGH   2000
#define TICK_MS       50
#define MARK_DELAY_MS 1000 /* a claim within this time saves the mark */
#define FLEET_MS      5    /* many beats are looked at once */

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

void feed_hint_join(struct feed_hint *e, struct feed_message *m)
{
    e->pool->messages += m->open++ == 0;
    e->message = m;
}

static void hint_leave(struct feed_hint *e)
{
    struct feed_message *m = STEAL(e->message);

    if (m && --m->open == 0) {
        e->pool->messages--;
        free(m);
    }
}

void feed_hint_set(struct feed_hint *e, enum feed_hint_state s)
{
    hint_unlink(e);
    e->state = s;
    switch (s) {
    case HELD:
        hint_leave(e);
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

void feed_hint_free(struct feed *f, struct feed_hint *e)
{
    hint_unlink(e);
    hint_leave(e);
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
            feed_hint_free(f, e);
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
        feed_hint_free(f, CONTAINER_OF(heap_min(&p->held), struct feed_hint, heap));
    }
    heap_done(&p->held);
    p->held = keep;
    p->complete = false;
    p->horizon_rank = last->rank;
    p->horizon_id = last->id;
}

/* ---- steps ---- */

static void pool_act(struct feed_pool *p)
{
    struct feed *f = p->feed;
    struct mq *mq = f->o.publisher(f->o.arg);

    if (f->epoch == 0 || p->paused || !p->served || !mq || mq_is_blocked(mq) ||
        clock_boot_ms() < p->pause_until) {
        return;
    }
    if (feed_publish(p, mq) < 0) {
        return;
    }
    if (p->held.count < BUFFER_LOW && !p->complete && p->scans == 0) {
        feed_scan_ready(p, false);
    } else if (p->rescan && p->scans == 0) {
        feed_scan_ready(p, true);
    }
}

static void on_spin(uv_idle_t *h)
{
    (void)h;
}

void feed_pool_step(struct feed_pool *p)
{
    if (p->feed->epoch) {
        p->due = true;
        MUST(uv_idle_start(&p->feed->spin, on_spin) == 0);
    }
}

static void on_gather(uv_check_t *h)
{
    struct feed *f = h->data;

    uv_idle_stop(&f->spin);
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        if (p->due) {
            p->due = false;
            pool_act(p);
        }
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
        if (p->fits >= 0 && fleet_slots(f->o.fleet, p->name).largest > p->fits) {
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
    MUST(uv_check_init(o->loop, &f->gather) == 0);
    MUST(uv_idle_init(o->loop, &f->spin) == 0);
    f->timer.data = f->gather.data = f->spin.data = f;
    f->open_handles = 3;
    MUST(uv_check_start(&f->gather, on_gather) == 0);
    return f;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct feed *f = h->data;
    struct feed_pool *p;
    struct feed_pool *tmp;

    if (--f->open_handles) {
        return;
    }
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

/* Broker and database are closed by now: no callback is open. */
void feed_close(struct feed *f, void (*on_closed)(void *arg), void *arg)
{
    feed_stop(f);
    f->on_closed = on_closed;
    f->on_closed_arg = arg;
    uv_close((uv_handle_t *)&f->timer, on_handle_closed);
    uv_close((uv_handle_t *)&f->gather, on_handle_closed);
    uv_close((uv_handle_t *)&f->spin, on_handle_closed);
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

        feed_hint_free(f, e);
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
        feed_hint_free(f, e);
        feed_pool_step(of);
    }
}

void feed_forget(struct feed *f, const struct id *id)
{
    struct feed_hint *e = feed_hint_find(f, id);

    if (e) {
        struct feed_pool *of = e->pool;

        feed_hint_free(f, e);
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
        struct fleet_slots s = fleet_slots(f->o.fleet, p->name);
        struct feed_pool_info info = {
            p->name,    p->paused, p->held.count, p->outstanding.count, feed_pool_window(p, &s),
            p->complete};
        fn(arg, &info);
    }
}
