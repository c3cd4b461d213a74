/* offers_priv.h: the inside of offers*.c.
 *
 *   offers.c        workers, classes, pools; who has room
 *   offers_lanes.c  what a pool's live workers can take together
 */
#ifndef SJE_MANAGER_OFFERS_PRIV_H
#define SJE_MANAGER_OFFERS_PRIV_H

#include "pkg/manager/offers.h"

#include "internal/str.h"

struct offer_key {
    struct room room;
    struct names *pools; /* held */
    struct names *types;
};

/* Workers that offer the same. */
struct offer_class {
    struct offer_key key;
    UT_hash_handle hh;
    uint64_t mark;              /* other classes have others */
    struct offers_pool **pools; /* owned array, none twice */
    size_t n_pools;
    int known;          /* workers, live or not */
    struct heap live;   /* of struct offer: the one with most free slots first, the deaf last */
    struct list absent; /* of struct offer */
};

/* What asks for nothing takes nothing. */
static inline bool room_within(const struct room *n, const struct room *r)
{
    return (n->slots == 0 || n->slots <= r->slots) &&
           (n->cpus_milli == 0 || n->cpus_milli <= r->cpus_milli) &&
           (n->memory_mb == 0 || n->memory_mb <= r->memory_mb);
}

static inline struct room room_least(const struct room *a, const struct room *b)
{
    return (struct room){MIN(a->slots, b->slots), MIN(a->cpus_milli, b->cpus_milli),
                         MIN(a->memory_mb, b->memory_mb)};
}

static inline struct room room_most(const struct room *a, const struct room *b)
{
    return (struct room){MAX(a->slots, b->slots), MAX(a->cpus_milli, b->cpus_milli),
                         MAX(a->memory_mb, b->memory_mb)};
}

static inline bool room_eq(const struct room *a, const struct room *b)
{
    return a->slots == b->slots && a->cpus_milli == b->cpus_milli && a->memory_mb == b->memory_mb;
}

/* offers_lanes.c */
void offers_refresh(struct offers_pool *p);
void offers_lanes_clear(struct offers_pool *p);

#endif
