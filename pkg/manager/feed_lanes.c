/* Which hints compete for the same workers: the lanes of a pool, each in its own order. */
#include "pkg/manager/feed_priv.h"

#include "internal/clock.h"

#include <stdlib.h>

bool feed_hint_less(const struct heap_node *a, const struct heap_node *b)
{
    const struct feed_hint *x = CONTAINER_OF_CONST(a, struct feed_hint, heap);
    const struct feed_hint *y = CONTAINER_OF_CONST(b, struct feed_hint, heap);

    return feed_before(x->rank, &x->id, y->rank, &y->id);
}

/* A coarse lane takes what each worker has a part of. */
static bool takes(const struct feed_lane *l, const struct need *n)
{
    const struct offers_pool *o;

    return offers_filter_takes(&l->filter, n) &&
           (!l->filter.coarse || ((o = feed_pool_offers(l->pool)) && offers_fits(o, n)));
}

struct feed_lane *feed_lane_of(struct feed_pool *p, const struct need *n)
{
    for (size_t i = 0; i < p->n_lanes; i++) {
        if (takes(&p->lanes[i], n)) {
            return &p->lanes[i];
        }
    }
    return NULL;
}

size_t feed_held(const struct feed_pool *p)
{
    size_t n = p->apart.held.count + p->absent.held.count + p->retries.held.count;

    for (size_t i = 0; i < p->n_lanes; i++) {
        n += p->lanes[i].held.count;
    }
    return n;
}

void feed_lane_empty(struct feed_lane *l, struct list *to)
{
    struct heap_node *h;

    while ((h = heap_min(&l->held))) {
        struct feed_hint *e = CONTAINER_OF(h, struct feed_hint, heap);

        feed_hint_unlink(e);
        list_push(to, &e->node);
    }
}

struct feed_hint *feed_lane_keep(struct feed_lane *l, size_t most)
{
    struct heap keep;
    struct feed_hint *last = NULL;

    heap_init(&keep, feed_hint_less);
    while (l->held.count && keep.count < most) {
        struct heap_node *h = heap_pop(&l->held);

        last = CONTAINER_OF(h, struct feed_hint, heap);
        heap_push(&keep, h);
    }
    while (l->held.count) {
        feed_hint_drop(CONTAINER_OF(heap_min(&l->held), struct feed_hint, heap));
    }
    heap_done(&l->held);
    l->held = keep;
    return last;
}

static size_t high_of(const struct feed_lane *l)
{
    return l->filter.coarse ? FEED_COARSE_HIGH : FEED_BUFFER_HIGH;
}

void feed_lane_trim(struct feed_lane *l)
{
    if (l->held.count > 2 * high_of(l)) {
        const struct feed_hint *last = feed_lane_keep(l, high_of(l));

        l->complete = false;
        l->horizon_rank = last->rank;
        l->horizon_id = last->id;
    }
}

bool feed_lane_is_full(const struct feed_lane *l)
{
    return l->held.count >= (l->filter.coarse ? FEED_COARSE_HIGH : FEED_BUFFER_LOW);
}

void feed_lane_rotate(struct feed_lane *l)
{
    const struct offers_pool *o = feed_pool_offers(l->pool);
    int64_t now = clock_boot_ms();

    if (l->filter.coarse && !l->complete && feed_lane_is_full(l) && o && o->slots.available > 0 &&
        now >= l->rotate_at) {
        (void)feed_lane_keep(l, FEED_BUFFER_HIGH);
        l->holes = true;
        l->rotate_at = now + FEED_COARSE_MS;
    }
}

static bool as_it_is(const struct feed_pool *p, const struct offers_pool *o)
{
    bool same = p->n_lanes == o->n_lanes;

    for (size_t i = 0; same && i < p->n_lanes; i++) {
        same = offers_filter_eq(&p->lanes[i].filter, &o->lanes[i]);
    }
    return same;
}

void feed_lanes_free(struct feed_pool *p)
{
    for (size_t i = 0; i < p->n_lanes; i++) {
        MUST(p->lanes[i].held.count == 0);
        heap_done(&p->lanes[i].held);
        offers_filter_done(&p->lanes[i].filter);
    }
    free(STEAL(p->lanes));
    p->n_lanes = 0;
    p->shape++;
}

void feed_lanes_make(struct feed_pool *p, struct offers_pool *o)
{
    struct list held;
    struct list_node *n;

    if (offers_lanes(o) == 0 || as_it_is(p, o)) {
        return; /* who comes back may be as before */
    }
    list_init(&held);
    for (size_t i = 0; i < p->n_lanes; i++) {
        feed_lane_empty(&p->lanes[i], &held);
    }
    feed_lanes_free(p);
    p->n_lanes = o->n_lanes;
    p->lanes = xcalloc(p->n_lanes, sizeof(*p->lanes));
    for (size_t i = 0; i < p->n_lanes; i++) {
        struct feed_lane *l = &p->lanes[i];

        l->pool = p;
        offers_filter_copy(&l->filter, &o->lanes[i]);
        heap_init(&l->held, feed_hint_less);
        l->horizon_rank = INT64_MIN;
        l->shared = i < OFFERS_SHARED;
        l->complete = l->filter.n_types == 0;
    }
    while ((n = list_pop(&held))) {
        feed_hint_hold(CONTAINER_OF(n, struct feed_hint, node));
    }
    feed_scan_fed(p); /* of those that had no lane until now */
}
