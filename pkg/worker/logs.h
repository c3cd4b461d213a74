/* logs.h: answers a manager's questions for pieces of logs (docs/protocol.md, Log reply).
 *
 * A question with waitMs is answered when there is something behind its offset, when the attempt
 * has ended, or when the time is over; at most LOGS_WAITING_MAX wait, others are answered at once.
 * Threads: the loop thread only; the disk is read in a lane.
 */
#ifndef SJE_WORKER_LOGS_H
#define SJE_WORKER_LOGS_H

#include "internal/lane.h"
#include "pkg/worker/orders.h"

#define LOGS_WAITING_MAX 256
#define LOGS_READING_MAX 256 /* at a time; more are left unanswered, and come again */
#define LOGS_LOOK_MS     100 /* between two looks for those that wait, */
#define LOGS_REST        10  /* or that many times what the last took: a task can make them slow */

struct logs;

struct logs_options {
    struct lane *lane;     /* outlives it */
    const char *tasks_dir; /* lives as long as the logs */
    void *arg;
    /* The attempt may still write. */
    bool (*is_live)(void *arg, const struct wcore_key *k);
    /* The attempt is known, be it without a directory. */
    bool (*is_known)(void *arg, const struct wcore_key *k);
    void (*answer)(void *arg, const char *queue, struct str body);
};

struct logs *logs_open(uv_loop_t *loop, const struct logs_options *o);
void logs_close(struct logs *l, void (*on_closed)(void *arg), void *arg); /* answers nobody */
void logs_ask(struct logs *l, const struct order_log *q);
/* An attempt has ended: whoever waits for it is answered soon. */
void logs_kick(struct logs *l);

#endif
