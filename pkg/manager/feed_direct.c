/* Hints for one worker, in its own queue: of tasks that not every worker of the pool can take, and
 * of those that were published for all of them and that nobody claimed. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/metrics.h"
#include "pkg/manager/feed_priv.h"

#include <stdlib.h>

#define KEEP_MS       2000 /* where there is room; then it goes elsewhere */
#define KEEP_BUSY_MS  6000 /* where there is none yet, unless it is said again */
#define RENEW_MS      3000
#define SETTLE_MS     300  /* a node that gave something back has told by then what it holds off */
#define RETRY_MS      2000 /* so long, since it or another one got one, a retry waits for a worker */
#define RETRY_MOST_MS 30000 /* on which it has not failed; at most, since its turn came */
#define LOOK_AT       64    /* needs for which a turn looks for room and finds none */
#define PASS          512   /* with those that ask for as much */
#define FORCED        16    /* of these a worker is kept for, where one can be */
#define PAUSE_MS      1000  /* after a refused publish */

struct call {
    struct feed *feed;
    uint64_t run;
    struct id id;
    int32_t attempt;
};

static struct offer *target(const struct feed_hint *e)
{
    return list_linked(&e->at) ? CONTAINER_OF(e->at.owner, struct offer, hints) : NULL;
}

/* It came to nothing. */
static void back(struct feed_hint *e)
{
    struct offer *w = target(e);

    if (w) {
        offers_deafen(w);
    }
    e->tries++;
    feed_hint_hold(e);
}

static void on_confirm(void *arg, int rc)
{
    struct call *c CLEANUP(freep) = arg;
    struct feed *f = c->feed;
    struct feed_hint *e = c->run == f->run ? feed_hint_find(f, &c->id) : NULL;

    f->open_calls--;
    if (rc == 0 || !e || e->state != DIRECTED || e->attempt != c->attempt) {
        return;
    }
    struct feed_pool *p = e->pool;
    if (rc != ERR_NOT_FOUND && rc != ERR_MQ_DOWN) {
        p->pause_until = clock_boot_ms() + PAUSE_MS;
    }
    back(e);
    feed_pool_step(p);
}

static bool direct_to(struct feed_hint *e, struct offer *w, struct mq *mq, int keep_ms)
{
    struct feed *f = e->pool->feed;
    struct hint_task task = feed_hint_task(e);
    char message_id[HINT_ID_LEN];
    struct buf body CLEANUP(buf_free) = {0};

    const struct fleet_worker *of = CONTAINER_OF(w, struct fleet_worker, offer);
    struct call *c = xmalloc(sizeof(*c));
    buf_init(&body, HINT_MAX);
    hint_write(&body, message_id, &task, 1, f->o.reply, keep_ms);
    struct mq_message m = {.exchange = "",
                           .routing_key = of->reply,
                           .body = {body.data, body.len},
                           .message_id = message_id,
                           .mandatory = true};
    *c = (struct call){f, f->run, e->id, e->attempt};
    CRASH_POINT("feed-before-direct");
    if (mq_publish(mq, &m, on_confirm, c) < 0) {
        free(c);
        return false;
    }
    f->open_calls++;
    METRIC_INC(hints_directed);
    feed_hint_set(e, DIRECTED);
    e->since = clock_boot_ms();
    e->give_up = e->since + keep_ms;
    e->renew_at = keep_ms == KEEP_BUSY_MS ? e->since + RENEW_MS : INT64_MAX;
    e->keeps = keep_ms == KEEP_BUSY_MS;
    if (e->keeps) {
        offers_keep(w, e->rank);
    }
    list_push(&w->hints, &e->at);
    offers_direct(w, &e->room, 1);
    return true;
}

/* Who is to take it. */
enum whom { ANY, OTHERS, ABSENT };

/* Until avoid_none() nobody picks those that gave it back. OTHERS: these could take it; ABSENT:
 * none of them now, but one may soon. */
static enum whom avoid(const struct feed_hint *e)
{
    struct fleet *f = e->pool->feed->o.fleet;
    struct offers_pool *o = e->avoid ? feed_pool_offers(e->pool) : NULL;
    struct need need = feed_need(e);

    fleet_avoid(f, e->avoid, e->submitted_at, true);
    return o && (!fleet_is_whole(f) || offers_fits_elsewhere(o, &need))           ? OTHERS
           : o && clock_boot_ms() < e->wait_until && offers_fits_absent(o, &need) ? ABSENT
                                                                                  : ANY;
}

static void avoid_none(const struct feed_hint *e)
{
    fleet_avoid(e->pool->feed->o.fleet, e->avoid, e->submitted_at, false);
}

struct feed_lane *feed_direct_place(struct feed_hint *e)
{
    bool settles = e->avoid && clock_boot_ms() < e->ready_at + SETTLE_MS;
    struct need need = feed_need(e);
    enum whom whom = avoid(e);

    avoid_none(e);
    e->look_at = settles ? e->ready_at + SETTLE_MS : e->wait_until;
    return settles          ? &e->pool->absent
           : whom == OTHERS ? &e->pool->apart
           : whom == ABSENT ? &e->pool->absent
                            : feed_lane_of(e->pool, &need);
}

/* It waits for a worker on which it has not failed. */
static bool is_retry(const struct feed_hint *e)
{
    return e->lane == &e->pool->retries;
}

static bool retry_waits(const struct feed_hint *e, int64_t now)
{
    return now - MAX(e->turn_at, e->pool->retried_at) < RETRY_MS &&
           now - e->turn_at < RETRY_MOST_MS;
}

/* The nodes on which it failed are avoided too, or no more. */
static void avoid_failed(const struct feed_hint *e, bool yes)
{
    fleet_avoid(e->pool->feed->o.fleet, e->failed_on, INT64_MAX, yes);
}

bool feed_direct_retry(struct feed_hint *e)
{
    struct feed_pool *p = e->pool;
    struct feed_lane *l = &p->retries;
    struct offers_pool *o = e->failed_on ? feed_pool_offers(p) : NULL;
    struct need need = feed_need(e);
    int64_t now = clock_boot_ms();

    if (!o || e->lane == l || l->held.count >= FEED_APART_MAX) {
        return false;
    }
    e->turn_at = e->turn_at ? e->turn_at : now;
    (void)avoid(e);
    avoid_failed(e, true);
    bool others = offers_fits_elsewhere(o, &need);
    avoid_failed(e, false);
    avoid_none(e);
    if (!others || !retry_waits(e, now)) {
        return false;
    }
    feed_hint_unlink(e);
    e->lane = l;
    heap_push(&l->held, &e->heap);
    feed_kind_join(e);
    return true;
}

void feed_direct_late(struct feed_pool *p, int64_t now)
{
    struct heap *held = &p->absent.held;

    while (held->count) {
        struct feed_hint *e = CONTAINER_OF(heap_min(held), struct feed_hint, heap);

        if (now < e->look_at) {
            break;
        }
        feed_hint_hold(e);
    }
    held = &p->retries.held;
    while (held->count) {
        struct feed_hint *e = CONTAINER_OF(heap_min(held), struct feed_hint, heap);

        if (retry_waits(e, now)) {
            break;
        }
        feed_hint_hold(e);
    }
}

/* Where all that could take it have given it back, one of these. While it waits for one on which it
 * has not failed, only such. */
static struct offer *pick(const struct feed_hint *e, bool busy)
{
    struct offers_pool *o = feed_pool_offers(e->pool);
    struct need need = feed_need(e);
    struct offer *w = NULL;
    bool retries = is_retry(e);

    if (avoid(e) == ANY) {
        avoid_none(e);
    }
    if (retries) {
        avoid_failed(e, true);
    }
    if (o) {
        w = busy ? offers_pick_busy(o, &need, e->rank) : offers_pick(o, &need);
    }
    if (retries) {
        avoid_failed(e, false);
    }
    avoid_none(e);
    return w;
}

bool feed_direct(struct feed_hint *e, struct mq *mq)
{
    const struct offers_pool *o = feed_pool_offers(e->pool);
    struct offer *w = o && o->slots.available > 0 ? pick(e, false) : NULL;

    return w && direct_to(e, w, mq, KEEP_MS);
}

static bool is_before(const struct feed_hint *a, const struct feed_hint *b)
{
    return feed_before(a->rank, &a->id, b->rank, &b->id);
}

/* Nothing that all workers take comes before it, here or in the broker. What asks for slots only
 * waits for nothing that asks for more. */
static bool is_next(const struct feed_hint *e)
{
    bool yes = true;

    for (size_t i = 0; i < OFFERS_SHARED && i <= feed_is_scarce(e); i++) {
        const struct heap *held = &e->pool->lanes[i].held;
        struct list *sent = &e->pool->outstanding[i];

        yes =
            yes &&
            !(held->count && is_before(CONTAINER_OF(heap_min(held), struct feed_hint, heap), e)) &&
            !(sent->count && is_before(CONTAINER_OF(list_first(sent), struct feed_hint, node), e));
    }
    return yes;
}

/* What was to have it before comes later. */
static void withdraw(struct offer *w)
{
    LIST_EACH(&w->hints, it)
    {
        struct feed_hint *e = CONTAINER_OF(it, struct feed_hint, at);

        if (e->keeps) {
            struct feed_pool *of = e->pool;

            feed_hint_hold(e);
            feed_pool_step(of);
        }
    }
}

/* It finds no room, while later ones would take what becomes free. A worker that is kept for it
 * takes nothing else until there is room. */
static bool force(struct feed_hint *e, struct mq *mq)
{
    struct offer *w = !is_retry(e) && is_next(e) ? pick(e, true) : NULL;

    if (w) {
        withdraw(w);
    }
    return w && direct_to(e, w, mq, KEEP_BUSY_MS);
}

/* It stays with that worker, unless another has room, or something comes before it now. What the
 * worker has room for it must claim soon. */
static void renew(struct feed_hint *e, struct offer *w)
{
    struct feed_pool *p = e->pool;
    struct offers_pool *o = feed_pool_offers(p);
    struct mq *mq = p->feed->o.publisher(p->feed->o.arg);
    struct need need = feed_need(e);

    if (p->paused) {
        feed_hint_hold(e);
        return;
    }
    if (!mq || !o || p->n_lanes == 0 || mq_is_blocked(mq) || clock_boot_ms() < p->pause_until) {
        return;
    }
    if (offers_has_room(w, &need)) {
        (void)direct_to(e, w, mq, KEEP_MS);
    } else if (!is_next(e) || pick(e, false)) {
        feed_hint_hold(e);
        feed_pool_step(p);
    } else {
        (void)direct_to(e, w, mq, KEEP_BUSY_MS);
    }
}

/* And of no more workers: one that failed before looks only at those on which it has not. */
static bool asks_as_much(const struct feed_hint *e, const struct feed_hint *than)
{
    return e->room.slots >= than->room.slots && e->room.cpus_milli >= than->room.cpus_milli &&
           e->room.memory_mb >= than->room.memory_mb && streq(e->type, than->type) &&
           (!than->avoid || streq(e->avoid, than->avoid)) &&
           (!is_retry(than) || (is_retry(e) && streq(e->failed_on, than->failed_on)));
}

/* Where there was no room for one of these there is none for it. */
static bool is_hopeless(const struct feed_hint *e, struct feed_hint *const *tried, size_t n)
{
    for (; n; n--) {
        if (asks_as_much(e, tried[n - 1])) {
            return true;
        }
    }
    return false;
}

void feed_direct_held(struct feed_pool *p, struct mq *mq)
{
    const struct offers_pool *o = feed_pool_offers(p);
    struct feed_hint *stuck[LOOK_AT];
    struct feed_kind *k;
    size_t n = 0;

    feed_kinds_begin(p);
    for (int i = 0; i < PASS && n < LOOK_AT && (k = feed_kind_next(p));) {
        struct feed_hint *e = feed_kind_first(k);

        if (e->tries >= FEED_FOR_ALL && e->tries % 2 == 0) {
            /* A worker of an earlier version knows no hints in its own queue. */
            if (feed_publish_one(e, mq) < 0) {
                return;
            }
            continue;
        }
        if (feed_direct_retry(e)) {
            continue;
        }
        if (!is_hopeless(e, stuck, n)) {
            if (feed_direct(e, mq)) {
                continue;
            }
            stuck[n++] = e;
        }
        feed_kind_tried(p, k);
        i++;
    }
    for (size_t i = 0; i < MIN(n, (size_t)FORCED); i++) {
        (void)force(stuck[i], mq);
    }
    if (feed_kind_next(p) && o && o->slots.available > 0) {
        feed_pool_step(p); /* there may be room for those behind */
    }
}

void feed_direct_check(struct feed_pool *p, int64_t now)
{
    size_t n = 0;

    LIST_EACH(&p->directed, it)
    {
        struct feed_hint *e = CONTAINER_OF(it, struct feed_hint, node);
        struct offer *w = target(e);

        if (!w || !offers_is_live(w) || now >= e->give_up) {
            back(e);
            n++;
        } else if (now >= e->renew_at) {
            renew(e, w);
        }
    }
    if (n) {
        METRIC_ADD(hints_repeated, n);
        feed_pool_step(p);
    }
}
