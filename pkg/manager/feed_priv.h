/* feed_priv.h: the inside of a feeder, for feed*.c.
 *
 *   feed.c          what is held, when it is looked at; marks
 *   feed_publish.c  what is published, in which messages
 *   feed_scan.c     READY and FED rows from the database
 *   feed_lost.c     hints that the broker no longer has
 */
#ifndef SJE_MANAGER_FEED_PRIV_H
#define SJE_MANAGER_FEED_PRIV_H

#include "internal/heap.h"
#include "pkg/manager/feed.h"

#define FEED_WINDOW_MAX 20000

enum feed_hint_state { HELD, SENT, FED };

/* One message in the broker, of one or several hints. */
struct feed_message {
    size_t open; /* hints that are SENT or FED */
};

struct feed_hint {
    struct id id;
    UT_hash_handle hh;
    struct heap_node heap; /* HELD */
    struct list_node node; /* SENT, FED: pool->outstanding, oldest first */
    struct list_node mark; /* FED, not yet written: feed->marks */
    struct feed_pool *pool;
    struct feed_message *message; /* SENT, FED */
    enum feed_hint_state state;
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
    size_t messages; /* with something outstanding */
    bool due;        /* a step, at the end of this turn of the loop */
    bool paused;
    bool served;
    bool fed_known; /* what earlier leaders fed */
    bool fed_asked;
    bool declared;
    bool complete; /* horizon is at infinity */
    int fits;      /* tasks of more slots are left in the database; -1: not read yet */
    int64_t horizon_rank;
    struct id horizon_id;
    int scans;   /* in flight */
    bool missed; /* a task became READY during a scan, which may not have seen it: the best one */
    int64_t missed_rank;
    struct id missed_id;
    bool rescan;
    int64_t pause_until;
    int granted; /* since the last tick */
    double rate; /* grants per second, smoothed */
    uint32_t depth[TASK_CLASSES];
    int depth_wanted;
};

struct feed {
    struct feed_options o;
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

struct feed_hint *feed_hint_find(struct feed *f, const struct id *id);
struct feed_hint *feed_hint_new(struct feed *f, struct feed_pool *p, const struct task *row);
void feed_hint_set(struct feed_hint *e, enum feed_hint_state s);
void feed_hint_free(struct feed *f, struct feed_hint *e);
void feed_hint_join(struct feed_hint *e, struct feed_message *m);

struct feed_pool *feed_pool_find(struct feed *f, const char *name);
/* Soon: publishes what fits into the window, reads what is missing. */
void feed_pool_step(struct feed_pool *p);
void feed_pool_trim(struct feed *f, struct feed_pool *p);

/* feed_publish.c */
/* So many hints are to be in the broker. */
size_t feed_pool_window(const struct feed_pool *p, const struct fleet_slots *s);
/* The best READY tasks, in their order, as far as the window goes. */
int feed_publish(struct feed_pool *p, struct mq *mq);

/* feed_scan.c */
void feed_scan_ready(struct feed_pool *p, bool from_start);
void feed_scan_fed(struct feed_pool *p); /* hints of an earlier leader: they count as outstanding */

/* feed_lost.c */
void feed_lost_check(struct feed_pool *p, int64_t now);

#endif
