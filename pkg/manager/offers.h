/* offers.h: what the live workers of each pool offer, kept up to date with every change instead of
 * counted whenever somebody asks. No I/O, no clock.
 *
 * A worker offers pools, types of tasks, and room: slots, CPUs, memory. Those that offer the same
 * share a class; a pool has classes. So what a lease changes does not depend on how many pools its
 * worker serves, and what a pool can take is asked of a few classes and not of a thousand workers.
 *
 * A lane is a part of a pool's tasks that the same workers can take: of the types that the same of
 * them offer one for each set that can take the same sizes; and of these one for the plain tasks,
 * which ask for slots only, and one for the others, which may wait although slots are free. The
 * first two are for what every live worker can take: that goes through the shared queues. So no
 * task waits behind one that only other workers could take. What is in no lane fits no live worker.
 */
#ifndef SJE_MANAGER_OFFERS_H
#define SJE_MANAGER_OFFERS_H

#include "internal/heap.h"
#include "internal/list.h"
#include "pkg/manager/names.h"

#define OFFERS_LANES_MAX     64   /* of a pool; the last one takes what is left */
#define OFFERS_LANES_SUM     4096 /* of all pools; once there are so many the next ones get few */
#define OFFERS_KEPT_FOR_NONE INT64_MAX
#define OFFERS_SIZES_MAX     32 /* of the same types; more are not told apart */
#define OFFERS_SHARED        2 /* lanes for all workers, the first plain; the second may be empty */

struct room {
    int64_t slots;
    int64_t cpus_milli; /* thousandths */
    int64_t memory_mb;
};

/* sign -1: takes it off. */
static inline void room_add(struct room *to, const struct room *r, int sign)
{
    to->slots += sign * r->slots;
    to->cpus_milli += sign * r->cpus_milli;
    to->memory_mb += sign * r->memory_mb;
}

/* What one task asks for; 0: nothing. */
struct need {
    const char *type; /* borrowed */
    struct room room;
};

/* Tasks of these types that are within `most`, and within none of `out`. */
struct offers_filter {
    struct names *names; /* held */
    char *const *types;  /* of it; sorted */
    size_t n_types;
    struct room most;
    struct room *out; /* owned */
    size_t n_out;
    uint64_t coarse; /* not 0: not all that it takes fits a live worker; names these workers */
};
bool offers_filter_takes(const struct offers_filter *f, const struct need *n);
bool offers_filter_eq(const struct offers_filter *a, const struct offers_filter *b);
void offers_filter_copy(struct offers_filter *dst, const struct offers_filter *src);
void offers_filter_done(struct offers_filter *f);

/* One worker's part. It belongs to whoever keeps workers. */
struct offer {
    struct offer_class *class; /* NULL: nothing was said yet */
    struct heap_node node;     /* class->live */
    struct room used;          /* by its leases */
    struct room directed;      /* by hints that were sent to it alone and are not claimed yet */
    struct list hints;         /* those, for whoever sends them */
    struct list_node absent;   /* class->absent */
    int64_t kept; /* for a hint of this rank, until it has room; OFFERS_KEPT_FOR_NONE */
    bool deaf;    /* one of them came to nothing; until it is heard again */
    bool avoided; /* by the task that is looked at, for this moment */
};
void offer_init(struct offer *w);

/* What a pool's live workers have together. */
struct offers_slots {
    int workers;
    int64_t total;
    int64_t available;
    int64_t largest; /* worker */
    int64_t smallest;
};

struct offers_pool {
    char *name;
    UT_hash_handle hh;
    struct offers *of;
    struct offer_class **classes; /* owned array */
    size_t n_classes;
    struct list_node changed; /* offers->changed */
    bool stale;               /* what follows from the classes is to be made anew */
    struct offers_slots slots;
    struct offers_filter *lanes; /* owned array */
    size_t n_lanes;              /* 0: no live worker */
};

struct offers {
    struct offer_class *classes;
    struct offers_pool *pools;    /* those that a known worker serves, live or not */
    struct list changed;          /* pools to which live workers came, or which they left */
    void (*on_change)(void *arg); /* the list is not empty any more; may be NULL */
    void *arg;
    struct names_table pool_names;
    struct names_table type_names;
    size_t lanes;
    size_t class_bytes;
    uint64_t marks; /* given to classes */
};
/* That all of this takes, about. */
size_t offers_bytes(const struct offers *o);

void offers_init(struct offers *o);
void offers_done(struct offers *o); /* every worker has been forgotten */

struct offer_facts {
    bool live;           /* takes work */
    struct names *pools; /* of the two tables; borrowed; NULL: none */
    struct names *types;
    struct room room;
};
/* The worker was heard, or is silent now. */
void offers_set(struct offers *o, struct offer *w, const struct offer_facts *f);
void offers_forget(struct offers *o, struct offer *w);
/* It is not live, but may soon offer this; NULL: no more. Such an offer is for this alone. */
void offers_set_absent(struct offers *o, struct offer *w, const struct offer_facts *f);
/* A lease was made (sign 1) or ended (-1); the same of a hint for it alone. */
void offers_use(struct offer *w, const struct room *r, int sign);
void offers_direct(struct offer *w, const struct room *r, int sign);
void offers_deafen(struct offer *w);
/* It is to make room for a hint of this rank. */
void offers_keep(struct offer *w, int64_t rank);
bool offers_is_live(const struct offer *w);
/* Its leases leave room for it, whatever else is directed to it. */
bool offers_has_room(const struct offer *w, const struct need *n);

struct offers_pool *offers_find(const struct offers *o,
                                const char *pool); /* NULL: nobody serves it */
/* The next one that changed; NULL: no more. */
struct offers_pool *offers_next_changed(struct offers *o);
const struct offers_slots *offers_slots(struct offers_pool *p);
/* Of the live workers, in p->lanes. */
size_t offers_lanes(struct offers_pool *p);

/* Some live worker could take it, when it is free. */
bool offers_fits(const struct offers_pool *p, const struct need *n);
/* The same, of those that are not to be avoided; nor does offers_pick() pick these. */
bool offers_fits_elsewhere(const struct offers_pool *p, const struct need *n);
/* One of the absent may soon be able to, of those that are not to be avoided. */
bool offers_fits_absent(const struct offers_pool *p, const struct need *n);
/* What it offers, or as absent may offer, has room for it when it is free. */
bool offers_takes(const struct offer *w, const struct need *n);
bool offers_type(const struct offers_pool *p, const char *type);
/* A live worker that offers the type and has most of what is asked, where none has all of it. */
const struct offer *offers_closest(const struct offers_pool *p, const struct need *n);
struct room offers_room(const struct offer *w); /* when it is free */
/* So much is missing, at most, with one of the workers that could take it. */
struct room offers_missing(const struct offers_pool *p, const struct need *n);
/* One that has room for it now, the one with most free slots; NULL: none. */
struct offer *offers_pick(const struct offers_pool *p, const struct need *n);
/* One that could take it if it were free, and is kept for none that comes before this rank: the one
 * whose own comes last, of those with most free slots. */
struct offer *offers_pick_busy(const struct offers_pool *p, const struct need *n, int64_t rank);

#endif
