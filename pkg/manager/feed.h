/* feed.h: the leader's feeder: READY tasks go to the broker just in time and in exact order.
 *
 * Per pool that some live worker serves it holds the best READY tasks (bounded) in heaps by (rank,
 * id), one for each lane (offers.h), and keeps about as many hints in the broker as the pool can
 * start at once. Everything READY of a lane up to its `horizon` is in its heap; what lies behind is
 * read from the database when the heap runs low. What fits no live worker stays there. A hint is
 * only a hint: publishing one twice is harmless, so the mark FED is written lazily, and not at all
 * where the claim is faster.
 */
#ifndef SJE_MANAGER_FEED_H
#define SJE_MANAGER_FEED_H

#include "internal/mq.h"
#include "pkg/manager/fleet.h"
#include "pkg/manager/ledger.h"

struct feed;

struct feed_options {
    uv_loop_t *loop;
    struct db *db;
    struct ledger *ledger;
    struct fleet *fleet;
    const char *reply; /* our queue, for claims; not copied */
    void *arg;
    struct mq *(*publisher)(void *arg); /* the connection, or NULL while it is down */
    int64_t (*now)(void *arg);          /* wall ms, by the database's clock */
};

struct feed *feed_new(const struct feed_options *o);
void feed_close(struct feed *f, void (*on_closed)(void *arg), void *arg);

/* Leadership. Stopping forgets everything. */
void feed_start(struct feed *f, int64_t epoch);
void feed_stop(struct feed *f);

/* A row changed (any manager's accept, the ledger's hook, a scan). */
void feed_changed(struct feed *f, const struct task *row);
/* Another manager granted this attempt. */
void feed_granted(struct feed *f, const struct id *id, int32_t attempt);
/* The task needs no hint any more: another manager granted or ended it, or there is no such task.
 */
void feed_forget(struct feed *f, const struct id *id);
/* Somebody else made tasks of the pool ready that need this (NULL: not told), the best of them of
 * this rank (INT64_MIN: not told). */
void feed_ready(struct feed *f, const char *pool, const struct need *n, int64_t rank);
/* The same may be so for any pool. */
void feed_rescan(struct feed *f);
/* The publishing connection is new: queues are declared again. */
void feed_broker_up(struct feed *f);
void feed_pause(struct feed *f, const char *pool, bool paused);

struct feed_pool_info {
    const char *pool;
    bool paused;
    size_t buffered;    /* READY tasks in memory */
    size_t outstanding; /* hints published and not yet claimed */
    size_t window;
};
/* False: the pool is not fed here. */
bool feed_look(const struct feed *f, const char *pool, struct feed_pool_info *ret);
/* It waits for others that the same workers could take. Only the leader knows. */
bool feed_is_behind(struct feed *f, const struct task *t);
void feed_each(const struct feed *f, void (*fn)(void *arg, const struct feed_pool_info *info),
               void *arg);

/* "sje.work.<pool>.<class>" into text. */
#define FEED_QUEUE_LEN 96
void feed_queue_name(char text[FEED_QUEUE_LEN], const char *pool, enum task_class c);

#endif
