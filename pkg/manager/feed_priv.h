/* feed_priv.h: the inside of a feeder, for feed*.c.
 *
 *   feed.c          what is held, when it is looked at; marks
 *   feed_lanes.c    which hints compete for the same workers
 *   feed_kinds.c    which of them ask for the same
 *   feed_publish.c  what goes to the shared queues, in which messages
 *   feed_direct.c   what goes to one worker, because not all of them can take it
 *   feed_scan.c     READY and FED rows from the database
 *   feed_lost.c     hints that nobody claims
 */
#ifndef SJE_MANAGER_FEED_PRIV_H
#define SJE_MANAGER_FEED_PRIV_H

#include "internal/heap.h"
#include "pkg/manager/feed.h"
#include "pkg/manager/messages.h"

#define FEED_WINDOW_MAX  20000
#define FEED_BUFFER_LOW  500  /* of a lane: more are read */
#define FEED_BUFFER_HIGH 2000 /* of a lane: so many stay when it is trimmed */
#define FEED_COARSE_HIGH                                                                           \
    20000                   /* the same of a lane that holds what only some of its workers take */
#define FEED_COARSE_MS 5000 /* where these find no room, then come others */
#define FEED_APART_MAX 20000
#define FEED_SCANS_MAX 2   /* of a pool at once */
#define FEED_LOOK_MS   250 /* at hints that are not claimed */
#define FEED_FOR_ALL   4   /* tries to reach one worker; then each second one is for all */

enum feed_hint_state { HELD, SENT, FED, DIRECTED };

/* One message in a shared queue, of one or several hints. */
struct feed_message {
    size_t open; /* hints that are SENT or FED */
};

struct feed_hint {
    struct id id;
    UT_hash_handle hh;
    struct heap_node heap; /* HELD: lane->held */
    struct heap_node same; /* HELD, and not for all workers: kind->held */
    struct feed_kind *kind;
    struct list_node
        node; /* SENT, FED: pool->outstanding[]; DIRECTED: pool->directed; oldest first */
    struct list_node mark; /* FED, not yet written: feed->marks */
    struct list_node at;   /* DIRECTED: the hints of that offer, while there is such a worker */
    struct feed_pool *pool;
    struct feed_lane *lane;       /* HELD */
    struct feed_message *message; /* SENT, FED */
    enum feed_hint_state state;
    bool marked; /* the row is FED, or will be */
    bool keeps;  /* DIRECTED: that worker is kept for it */
    int32_t attempt;
    int32_t priority;
    int tries; /* how often nobody claimed it */
    int64_t rank;
    int64_t since;      /* SENT, FED, DIRECTED: boot ms */
    int64_t give_up;    /* DIRECTED: then it goes elsewhere; boot ms */
    int64_t ready_at;   /* boot ms */
    int64_t look_at;    /* pool->absent: then it may go elsewhere; boot ms */
    int64_t wait_until; /* given back: so long for a worker that may soon take it; boot ms */
    int64_t renew_at;   /* DIRECTED: then the worker that had no room is told again; boot ms */
    struct room room;
    int64_t submitted_at;
    int64_t turn_at; /* failed before: when its turn came; boot ms; 0: not yet */
    char *avoid;     /* the nodes that gave it back, as in its row; owned; NULL: none did */
    char *failed_on; /* the same of those on which attempts failed */
    char type[];     /* of the task */
};

/* Held hints that ask for the same, where not every worker can take it, and that the same nodes
 * gave back: where one of them finds no room, none does. */
struct feed_kind {
    char *key;
    UT_hash_handle hh;
    struct heap held;
    struct heap_node node; /* pool->order[of], by the first of them */
    int of;
};

#define FEED_TOLD_MAX 16 /* ranks of a lane that are looked for apart: a few for each priority */

/* Tasks that the same workers can take: see offers.h. */
struct feed_lane {
    struct feed_pool *pool;
    struct offers_filter filter;
    bool shared; /* every worker can take it */
    struct heap held;
    bool complete; /* horizon is at infinity */
    int64_t horizon_rank;
    struct id horizon_id;
    bool holes;        /* before it, of what found no room for long; it is read again at the end */
    int64_t rotate_at; /* not before; boot ms */
    int scans;         /* in flight */
    int64_t scan_at;   /* not before, for the last one failed; boot ms */
    int failures;      /* in a row */
    bool walks;        /* a scan goes on behind this: it was cut short, or failed */
    int64_t walk_rank;
    struct id walk_id;
    int64_t walk_spent; /* ms */
    int64_t read_spent; /* ms; since it was read from its beginning, until it is full or complete */
    bool missed; /* a task became READY during a scan, which may not have seen it: the best one */
    int64_t missed_rank;
    struct id missed_id;
    bool rescan;                 /* something may be there that we do not know */
    int64_t rescan_at;           /* not before; boot ms */
    int64_t told[FEED_TOLD_MAX]; /* that it is so, from these ranks on; lowest first */
    int n_told;
    int64_t told_at; /* not before; boot ms */
};

struct feed_pool {
    char *name;
    UT_hash_handle hh;
    struct feed *feed;
    struct feed_lane *lanes; /* as in offers.h: the first OFFERS_SHARED are for all */
    size_t n_lanes;
    /* What workers gave back, read by no scan: others could take it; or may soon, by look_at. */
    struct feed_lane apart;
    struct feed_lane absent;
    /* Whose turn it is, and that wait a moment for workers on which they have not failed: by
     * turn_at. */
    struct feed_lane retries;
    int64_t retried_at;   /* such a worker last took one; boot ms */
    bool look_apart;      /* workers came or went: what is in these three may belong elsewhere */
    int64_t looked_apart; /* boot ms */
    /* All that goes to one worker, of whatever lane, by the rank of the first: a round. Where there
     * are more of them than a turn looks at, it goes on with the next one. */
    struct feed_kind *kinds;
    struct heap order[2];
    int untried;                /* which of the two holds those that were not tried in this round */
    size_t next_lane;           /* to be looked at first, when lanes are read */
    uint64_t shape;             /* raised when the lanes are made anew: late scans are dropped */
    int workers;                /* live ones, when they were looked at last */
    struct list outstanding[2]; /* the second: they ask for CPUs or memory */
    struct list directed;
    size_t messages; /* with something outstanding */
    bool due;        /* a step, at the end of this turn of the loop */
    bool paused;
    bool served;
    bool fed_known; /* what earlier leaders fed */
    bool fed_asked;
    bool declared;
    int scans; /* in flight */
    int64_t pause_until;
    int granted; /* since the last tick */
    double rate; /* grants per second, smoothed */
    uint32_t depth[TASK_CLASSES];
    int depth_wanted;
    int64_t depth_asked; /* boot ms */
    int64_t looked_late; /* boot ms; at hints that nobody claims */
    bool had_room;       /* then */
    int64_t silent_at; /* a worker fell silent: what was published before may be with it; 0: none */
};

struct feed {
    struct feed_options o;
    struct offers *offers;
    struct feed_pool *pools;
    struct feed_hint *hints;
    struct list marks;
    int64_t epoch;  /* 0: not leading */
    uint64_t run;   /* raised by each start and stop: late answers are dropped */
    int open_calls; /* callbacks still to come */
    bool fleet_changed;
    int64_t last_tick;
    uv_timer_t timer;
    uv_check_t gather; /* what became READY in one turn of the loop goes out together */
    uv_idle_t spin;    /* keeps that turn from sleeping */
    int open_handles;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

static inline bool feed_before(int64_t rank_a, const struct id *a, int64_t rank_b,
                               const struct id *b)
{
    return rank_a != rank_b ? rank_a < rank_b : memcmp(a->b, b->b, ID_LEN) < 0;
}

static inline struct need feed_need(const struct feed_hint *e)
{
    return (struct need){e->type, e->room};
}

/* It may wait although slots are free. */
static inline bool feed_is_scarce(const struct feed_hint *e)
{
    return e->room.cpus_milli || e->room.memory_mb;
}

static inline size_t feed_outstanding(const struct feed_pool *p)
{
    return p->outstanding[0].count + p->outstanding[1].count;
}

struct feed_hint *feed_hint_find(struct feed *f, const struct id *id);
struct feed_hint *feed_hint_new(struct feed *f, struct feed_pool *p, const struct task *row);
/* SENT, FED, DIRECTED. */
void feed_hint_set(struct feed_hint *e, enum feed_hint_state s);
/* Into its lane; where no live worker can take it, it is dropped. */
void feed_hint_hold(struct feed_hint *e);
/* Workers came or went: what is apart or waits for some may belong into another lane now. */
void feed_look_apart(struct feed_pool *p);
/* Forgotten: the database keeps it, READY. */
void feed_hint_drop(struct feed_hint *e);
void feed_hint_unlink(struct feed_hint *e); /* in no heap and no list, with no message */
void feed_hint_free(struct feed *f, struct feed_hint *e);
void feed_hint_join(struct feed_hint *e, struct feed_message *m);
struct hint_task feed_hint_task(const struct feed_hint *e);

struct feed_pool *feed_pool_find(struct feed *f, const char *name);
/* Soon: publishes what fits into the window, reads what is missing. */
void feed_pool_step(struct feed_pool *p);
/* What its workers offer now; NULL: nobody serves it any more. */
struct offers_pool *feed_pool_offers(const struct feed_pool *p);

/* feed_lanes.c */
bool feed_hint_less(const struct heap_node *a, const struct heap_node *b);
/* Where the task goes; NULL: no live worker can take it. */
struct feed_lane *feed_lane_of(struct feed_pool *p, const struct need *n);
/* As the live workers are now. What was held stays held where it still has a lane. */
void feed_lanes_make(struct feed_pool *p, struct offers_pool *o);
void feed_lanes_free(struct feed_pool *p);
/* Too much in memory: the best stay, the horizon is drawn behind them. */
void feed_lane_trim(struct feed_lane *l);
/* Only the best so many stay; returns the last of them. */
struct feed_hint *feed_lane_keep(struct feed_lane *l, size_t most);
/* So much is in memory that nothing more is read. */
bool feed_lane_is_full(const struct feed_lane *l);
/* A coarse lane is full of what finds no room: what is behind has its turn. */
void feed_lane_rotate(struct feed_lane *l);
size_t feed_held(const struct feed_pool *p);
/* All that it holds; for a moment it is in no lane. */
void feed_lane_empty(struct feed_lane *l, struct list *to);

/* feed_kinds.c */
void feed_kinds_init(struct feed_pool *p);
void feed_kinds_done(struct feed_pool *p); /* nothing is held */
void feed_kind_join(struct feed_hint *e);
void feed_kind_leave(struct feed_hint *e);
/* The one whose first hint comes first, of those not tried in this round; NULL: no more. */
struct feed_kind *feed_kind_next(struct feed_pool *p);
struct feed_hint *feed_kind_first(const struct feed_kind *k);
void feed_kind_tried(struct feed_pool *p, struct feed_kind *k);
/* A round begins; or goes on, and the first ones are tried again before. */
void feed_kinds_begin(struct feed_pool *p);

/* feed_publish.c */
/* So many hints are to be in the broker. */
size_t feed_pool_window(const struct feed_pool *p, const struct offers_slots *s);
/* The best READY tasks, in their order, as far as the window goes. */
void feed_publish(struct feed_pool *p, struct mq *mq);
/* For all workers, although not all can take it. */
int feed_publish_one(struct feed_hint *e, struct mq *mq);

/* feed_direct.c */
/* Where it is held; NULL: no live worker can take it. */
struct feed_lane *feed_direct_place(struct feed_hint *e);
/* Its turn has come; true: it waits for one on which it has not failed. */
bool feed_direct_retry(struct feed_hint *e);
/* What has waited long enough for workers that are not there, or have no room, goes to any. */
void feed_direct_late(struct feed_pool *p, int64_t now);
/* To a worker that has room now; false: there is none, or the broker takes nothing. */
bool feed_direct(struct feed_hint *e, struct mq *mq);
/* What is held and not for all, in its order, as far as there is room. */
void feed_direct_held(struct feed_pool *p, struct mq *mq);
/* What was not claimed in time goes elsewhere; so does what went to workers that are gone. */
void feed_direct_check(struct feed_pool *p, int64_t now);

/* feed_scan.c */
void feed_scan_more(struct feed_lane *l);  /* behind the horizon */
void feed_scan_again(struct feed_lane *l); /* all of it */
void feed_scan_told(struct feed_lane *l);  /* from the lowest that was told */
void feed_scan_on(struct feed_lane *l);    /* either of them */
void feed_lane_told(struct feed_lane *l, int64_t rank);
/* It became READY behind the horizon: a scan that is under way may not have seen it. */
void feed_lane_missed(struct feed_lane *l, int64_t rank, const struct id *id);
void feed_scan_fed(struct feed_pool *p); /* hints of an earlier leader: they count as outstanding */

/* feed_lost.c */
void feed_lost_check(struct feed_pool *p, int64_t now);

#endif
