#include "pkg/manager/feed_priv.h"

#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#define TICK_MS        50
#define MARK_DELAY_MS  1000 /* a claim within this time saves the mark */
#define WAIT_MARGIN_MS 1000 /* then surely whoever grants it sees the wait as over */
#define FLEET_MS       5    /* many changes of the fleet are looked at once */
#define APART_FEW      1000 /* of what was given back: so many are looked at at once */
#define APART_MS       1000 /* and more no more often */

/* ---- entries ---- */

struct feed_hint *feed_hint_find(struct feed *f, const struct id *id)
{
    struct feed_hint *e = NULL;

    HASH_FIND(hh, f->hints, id, sizeof(*id), e);
    return e;
}

static void hint_leave(struct feed_hint *e)
{
    struct feed_message *m = STEAL(e->message);

    if (m && --m->open == 0) {
        e->pool->messages--;
        free(m);
    }
}

void feed_hint_unlink(struct feed_hint *e)
{
    if (heap_linked(&e->heap)) {
        heap_remove(&e->lane->held, &e->heap);
    }
    if (e->kind) {
        feed_kind_leave(e);
    }
    if (list_linked(&e->at)) {
        struct offer *w = CONTAINER_OF(e->at.owner, struct offer, hints);

        offers_direct(w, &e->room, -1);
        if (e->keeps) {
            offers_keep(w, OFFERS_KEPT_FOR_NONE);
        }
        list_remove(&e->at);
    }
    e->keeps = false;
    if (list_linked(&e->node)) {
        list_remove(&e->node);
    }
    if (list_linked(&e->mark)) {
        list_remove(&e->mark);
    }
    e->lane = NULL;
}

void feed_hint_join(struct feed_hint *e, struct feed_message *m)
{
    e->pool->messages += m->open++ == 0;
    e->message = m;
}

void feed_hint_set(struct feed_hint *e, enum feed_hint_state s)
{
    struct feed_pool *p = e->pool;

    MUST(s != HELD);
    feed_hint_unlink(e);
    e->state = s;
    if (s == DIRECTED) {
        hint_leave(e);
        list_push(&p->directed, &e->node);
        return;
    }
    list_push(&p->outstanding[feed_is_scarce(e)], &e->node);
    if (s == FED) {
        list_push(&p->feed->marks, &e->mark);
    }
}

void feed_hint_hold(struct feed_hint *e)
{
    const struct feed_lane *absent = &e->pool->absent;

    feed_hint_unlink(e);
    hint_leave(e);
    e->state = HELD;
    e->lane = feed_direct_place(e);
    if (!e->lane || (e->lane == absent && absent->held.count >= FEED_APART_MAX)) {
        feed_hint_drop(e);
        return;
    }
    heap_push(&e->lane->held, &e->heap);
    if (!e->lane->shared && e->lane != absent) {
        feed_kind_join(e);
    }
}

void feed_look_apart(struct feed_pool *p)
{
    struct list list;
    struct list_node *n;

    p->looked_apart = clock_boot_ms();
    p->look_apart = false;
    list_init(&list);
    feed_lane_empty(&p->apart, &list);
    feed_lane_empty(&p->absent, &list);
    feed_lane_empty(&p->retries, &list);
    while ((n = list_pop(&list))) {
        feed_hint_hold(CONTAINER_OF(n, struct feed_hint, node));
    }
}

void feed_hint_drop(struct feed_hint *e)
{
    struct feed *f = e->pool->feed;

    if (e->marked) {
        struct task_event ev = {.type = TE_UNFED, .now = f->o.now(f->o.arg), .attempt = e->attempt};

        ledger_submit(f->o.ledger, &e->id, &ev, f->epoch, NULL, NULL);
        e->pool->fed_known = false; /* where that comes to nothing, only that scan finds it again */
    }
    feed_hint_free(f, e);
}

void feed_hint_free(struct feed *f, struct feed_hint *e)
{
    feed_hint_unlink(e);
    hint_leave(e);
    HASH_DEL(f->hints, e);
    free(e->avoid);
    free(e->failed_on);
    free(e);
}

static struct need need_of(const struct task *row)
{
    return (struct need){row->job_type ? row->job_type : "",
                         {row->slots, row->cpus_milli, row->memory_mb}};
}

struct feed_hint *feed_hint_new(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct need need = need_of(row);
    size_t len = strlen(need.type) + 1;
    struct feed_hint *e = xmalloc(sizeof(*e) + len);

    e->id = row->id;
    e->pool = p;
    e->attempt = row->attempt;
    e->priority = row->priority;
    e->rank = row->rank;
    e->room = need.room;
    e->avoid = xstrdup(row->returned_by);
    e->failed_on = xstrdup(row->failed_on);
    e->submitted_at = row->submitted_at;
    e->ready_at = clock_boot_ms() + row->run_after - f->o.now(f->o.arg);
    e->wait_until = e->ready_at + fleet_patience_ms(f->o.fleet) + WAIT_MARGIN_MS;
    memcpy(e->type, need.type, len);
    HASH_ADD(hh, f->hints, id, sizeof(e->id), e);
    return e;
}

struct hint_task feed_hint_task(const struct feed_hint *e)
{
    return (struct hint_task){e->id, e->attempt, e->rank, feed_need(e)};
}

/* ---- pools ---- */

struct feed_pool *feed_pool_find(struct feed *f, const char *name)
{
    struct feed_pool *p = NULL;

    HASH_FIND_STR(f->pools, name, p);
    return p;
}

struct offers_pool *feed_pool_offers(const struct feed_pool *p)
{
    return offers_find(p->feed->offers, p->name);
}

static bool look_less(const struct heap_node *a, const struct heap_node *b)
{
    return CONTAINER_OF_CONST(a, struct feed_hint, heap)->look_at <
           CONTAINER_OF_CONST(b, struct feed_hint, heap)->look_at;
}

static bool turn_less(const struct heap_node *a, const struct heap_node *b)
{
    int64_t x = CONTAINER_OF_CONST(a, struct feed_hint, heap)->turn_at;
    int64_t y = CONTAINER_OF_CONST(b, struct feed_hint, heap)->turn_at;

    return x != y ? x < y : feed_hint_less(a, b);
}

static struct feed_pool *pool_get(struct feed *f, const char *name)
{
    struct feed_pool *p = feed_pool_find(f, name);

    if (!p) {
        p = xmalloc(sizeof(*p));
        p->name = xstrdup(name);
        p->feed = f;
        list_init(&p->outstanding[0]);
        list_init(&p->outstanding[1]);
        list_init(&p->directed);
        p->apart = (struct feed_lane){.pool = p, .complete = true};
        heap_init(&p->apart.held, feed_hint_less);
        p->absent = (struct feed_lane){.pool = p, .complete = true};
        heap_init(&p->absent.held, look_less);
        p->retries = (struct feed_lane){.pool = p, .complete = true};
        heap_init(&p->retries.held, turn_less);
        feed_kinds_init(p);
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
    feed_lanes_free(p);
    p->rate = 0;
}

static void pool_free(struct feed *f, struct feed_pool *p)
{
    HASH_DEL(f->pools, p);
    feed_kinds_done(p);
    heap_done(&p->apart.held);
    heap_done(&p->absent.held);
    heap_done(&p->retries.held);
    free(p->name);
    free(p);
}

/* ---- steps ---- */

/* True where a scan was begun. */
static bool lane_read(struct feed_lane *l)
{
    int before = l->scans;

    if (l->scans || l->pool->scans >= FEED_SCANS_MAX || clock_boot_ms() < l->scan_at) {
        return false;
    }
    feed_lane_rotate(l);
    if (l->n_told && clock_boot_ms() >= l->told_at) {
        feed_scan_told(l);
    } else if (l->walks) {
        feed_scan_on(l);
    } else if (!feed_lane_is_full(l) && !l->complete) {
        feed_scan_more(l);
    } else if (l->rescan && clock_boot_ms() >= l->rescan_at) {
        feed_scan_again(l);
    }
    return l->scans > before;
}

/* Not where hints are put there: whoever does that may have others of them at hand. */
static void trim_apart(struct feed_pool *p)
{
    if (p->apart.held.count > FEED_APART_MAX) {
        (void)feed_lane_keep(&p->apart, FEED_APART_MAX / 2);
    }
}

static void pool_act(struct feed_pool *p)
{
    struct feed *f = p->feed;
    struct mq *mq = f->o.publisher(f->o.arg);

    trim_apart(p);
    if (f->epoch == 0 || p->paused || !p->served || !mq || mq_is_blocked(mq) ||
        clock_boot_ms() < p->pause_until) {
        return;
    }
    feed_publish(p, mq);
    /* Each in its turn: with many lanes the first ones would be read again and again. */
    for (size_t i = 0, first = p->next_lane; i < p->n_lanes; i++) {
        size_t k = (first + i) % p->n_lanes;

        if (lane_read(&p->lanes[k])) {
            p->next_lane = k + 1;
        }
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
            e->marked = true;
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

/* Pools that no known worker serves any more. */
static void forget_pools(struct feed *f)
{
    struct feed_pool *p;
    struct feed_pool *tmp;

    HASH_ITER(hh, f->pools, p, tmp)
    {
        if (!feed_pool_offers(p) && !p->paused && !p->scans && !p->depth_wanted) {
            pool_empty(f, p);
            pool_free(f, p);
        }
    }
}

/* It takes a moment for each of them, and workers may come and go all the time. */
static void look_apart_soon(struct feed_pool *p, int64_t now)
{
    size_t n = p->apart.held.count + p->absent.held.count + p->retries.held.count;

    if (p->look_apart && (n < APART_FEW || now - p->looked_apart >= APART_MS)) {
        feed_look_apart(p);
    }
}

static void look_at_pool(struct feed *f, struct offers_pool *o, int64_t now)
{
    struct feed_pool *p = feed_pool_find(f, o->name);
    int workers = offers_slots(o)->workers;

    if (!p && workers == 0) {
        return;
    }
    p = p ? p : pool_get(f, o->name);
    if (workers && !p->served) {
        p->served = true;
        feed_scan_fed(p);
    }
    if (workers < p->workers) {
        p->silent_at = now;
    }
    p->workers = workers;
    feed_lanes_make(p, o);
    p->look_apart = true;
    look_apart_soon(p, now);
    feed_direct_check(p, now);
    feed_pool_step(p);
}

static void look_at_fleet(struct feed *f, int64_t now)
{
    struct offers_pool *o;

    f->fleet_changed = false;
    while ((o = offers_next_changed(f->offers))) {
        look_at_pool(f, o, now);
    }
}

/* Sleeps where there is nothing to feed: events wake it. */
static uint64_t next_tick(const struct feed *f)
{
    uint64_t next = f->marks.count ? TICK_MS : 1000;

    for (const struct feed_pool *p = f->pools; p; p = p->hh.next) {
        if (feed_held(p)) {
            return TICK_MS;
        }
        next = feed_outstanding(p) || p->directed.count ? MIN(next, (uint64_t)FEED_LOOK_MS) : next;
    }
    return next;
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
        look_at_fleet(f, now);
    }
    for (struct feed_pool *p = f->pools; p; p = p->hh.next) {
        if (second) {
            tick_rate(p, (double)(now - f->last_tick) / 1000.0);
        }
        look_apart_soon(p, now);
        feed_direct_check(p, now);
        feed_direct_late(p, now);
        feed_lost_check(p, now);
        feed_pool_step(p);
    }
    if (second) {
        f->last_tick = now;
    }
    MUST(uv_timer_start(&f->timer, on_timer, next_tick(f), 0) == 0);
}

/* Workers came or went. */
static void on_offers(void *arg)
{
    struct feed *f = arg;

    if (f->epoch && !f->fleet_changed) {
        f->fleet_changed = true;
        MUST(uv_timer_start(&f->timer, on_timer, FLEET_MS, 0) == 0);
    }
}

/* ---- life ---- */

struct feed *feed_new(const struct feed_options *o)
{
    struct feed *f = xmalloc(sizeof(*f));

    f->o = *o;
    f->offers = &o->fleet->offers;
    f->offers->on_change = on_offers;
    f->offers->arg = f;
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
    f->offers->on_change = NULL;
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
    for (struct offers_pool *o = f->offers->pools; o; o = o->hh.next) {
        look_at_pool(f, o, f->last_tick);
    }
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
        p->workers = 0;
        p->silent_at = 0;
        p->served = p->fed_known = p->fed_asked = false;
    }
}

/* A task became READY: it is held, or lies behind the horizon, or fits nobody. */
static void ready(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct need need = need_of(row);
    struct feed_lane *l = feed_lane_of(p, &need);

    if (!l) {
        return;
    }
    if (l->complete || !feed_before(l->horizon_rank, &l->horizon_id, row->rank, &row->id)) {
        feed_hint_hold(feed_hint_new(f, p, row));
        feed_lane_trim(l);
        feed_pool_step(p);
    } else {
        feed_lane_missed(l, row->rank, &row->id);
    }
}

static void granted(struct feed *f, struct feed_hint *e, int32_t attempt)
{
    struct feed_pool *of = e->pool;

    of->granted += e->attempt == attempt;
    if (e->turn_at && e->state == DIRECTED) {
        of->retried_at = clock_boot_ms();
    }
    feed_hint_free(f, e);
    feed_pool_step(of);
}

void feed_changed(struct feed *f, const struct task *row)
{
    struct feed_hint *e = feed_hint_find(f, &row->id);
    struct feed_pool *p = feed_pool_find(f, row->pool);

    if (row->state == TASK_RUNNING) {
        if (e && e->attempt <= row->attempt) {
            granted(f, e, row->attempt);
        }
        return;
    }
    if (e && (e->attempt != row->attempt || (row->state != TASK_READY && row->state != TASK_FED))) {
        struct feed_pool *of = e->pool;

        feed_hint_free(f, e);
        e = NULL;
        feed_pool_step(of);
    }
    if (f->epoch == 0 || !p || !p->served) {
        return;
    }
    if (!e && row->state == TASK_READY) {
        ready(f, p, row);
    } else if (p->n_lanes > OFFERS_SHARED) {
        feed_pool_step(p); /* what it took is free for what waits for that very worker */
    }
}

/* What others say may be wrong. Then its row is FED and told by nobody: the next rescan looks. */
static void doubt(struct feed_hint *e)
{
    e->pool->fed_known = e->pool->fed_known && !e->marked;
}

void feed_granted(struct feed *f, const struct id *id, int32_t attempt)
{
    struct feed_hint *e = feed_hint_find(f, id);

    if (e && e->attempt <= attempt) {
        doubt(e);
        granted(f, e, attempt);
    }
}

void feed_forget(struct feed *f, const struct id *id)
{
    struct feed_hint *e = feed_hint_find(f, id);

    if (e) {
        struct feed_pool *of = e->pool;

        doubt(e);
        feed_hint_free(f, e);
        feed_pool_step(of);
    }
}

void feed_ready(struct feed *f, const char *pool, const struct need *n, int64_t rank)
{
    struct feed_pool *p = f->epoch ? feed_pool_find(f, pool) : NULL;
    const struct feed_lane *only = p && n ? feed_lane_of(p, n) : NULL;

    for (size_t i = 0; p && i < p->n_lanes; i++) {
        if (!n || &p->lanes[i] == only) {
            feed_lane_told(&p->lanes[i], rank);
        }
    }
    if (p) {
        feed_pool_step(p);
    }
}

void feed_rescan(struct feed *f)
{
    for (struct feed_pool *p = f->pools; p && f->epoch; p = p->hh.next) {
        if (p->served) {
            feed_scan_fed(p);
        }
        for (size_t i = 0; i < p->n_lanes; i++) {
            p->lanes[i].rescan = p->lanes[i].filter.n_types > 0;
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
    struct feed_pool *p = paused ? pool_get(f, pool) : feed_pool_find(f, pool);

    if (p) {
        p->paused = paused;
        feed_pool_step(p);
    }
}

static struct feed_pool_info info_of(const struct feed_pool *p)
{
    struct offers_pool *o = feed_pool_offers(p);
    struct feed_pool_info info = {.pool = p->name,
                                  .paused = p->paused,
                                  .buffered = feed_held(p),
                                  .outstanding = feed_outstanding(p) + p->directed.count,
                                  .window = o ? feed_pool_window(p, offers_slots(o)) : 0};

    return info;
}

void feed_each(const struct feed *f, void (*fn)(void *arg, const struct feed_pool_info *info),
               void *arg)
{
    for (const struct feed_pool *p = f->pools; p; p = p->hh.next) {
        struct feed_pool_info info = info_of(p);

        fn(arg, &info);
    }
}

bool feed_look(const struct feed *f, const char *pool, struct feed_pool_info *ret)
{
    const struct feed_pool *p = NULL;

    HASH_FIND_STR(f->pools, pool, p);
    if (p) {
        *ret = info_of(p);
    }
    return p != NULL;
}

bool feed_is_behind(struct feed *f, const struct task *t)
{
    struct feed_pool *p = feed_pool_find(f, t->pool);
    struct feed_hint *e = feed_hint_find(f, &t->id);
    struct need need = need_of(t);
    const struct feed_lane *l = p ? feed_lane_of(p, &need) : NULL;

    return l && l->held.count && (!e || (e->state == HELD && heap_min(&l->held) != &e->heap));
}
