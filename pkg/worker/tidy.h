/* tidy.h: removes the directories of finished attempts: when their time has come, and the oldest
 * first while the disk is nearly full. Only what is marked as done (run.h) ever goes.
 *
 * The work is done in the thread pool, a bounded piece at a time. Threads: the loop thread.
 */
#ifndef SJE_WORKER_TIDY_H
#define SJE_WORKER_TIDY_H

#include "internal/base.h"

#include <uv.h>

#define TIDY_PAUSE_FACTOR 20u /* pauses are at least that much longer than the work */
#define TIDY_EVERY_MS     60000u
#define TIDY_AGAIN_MS     1000u                /* when there was more to remove */
#define TIDY_REMOVE_MAX   32                   /* at a time */
#define TIDY_FREE_PERCENT 5                    /* of the disk that should stay free, */
#define TIDY_FREE_MIN     ((uint64_t)32 << 20) /* nor less: with 16 MiB a node takes no task */
#define TIDY_FREE_MAX     ((uint64_t)2 << 30)  /* but no more than that */

struct tidy;

struct tidy_report {
    size_t removed;
    size_t left; /* more that should go */
    bool short_of_space;
    char error[160]; /* of one that could not be removed; "" where none */
};

/* One piece of work, without a loop: what tidy does in the pool. `now` is wall ms. */
void tidy_once(const char *tasks_dir, int64_t now, int64_t keep_ms, struct tidy_report *ret);

/* tasks_dir lives as long as it. */
struct tidy *tidy_open(uv_loop_t *loop, const char *tasks_dir, int64_t keep_ms);
void tidy_configure(struct tidy *t, int64_t keep_ms);
void tidy_close(struct tidy *t, void (*on_closed)(void *arg), void *arg);

#endif
