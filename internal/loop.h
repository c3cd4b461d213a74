/* loop.h: watches that the loop turns: how late a timer fires, and how long each turn works.
 *
 * The lag is observed as sje_loop_lag_seconds; a lag over a second is logged, because leases and
 * heartbeats live on this thread. A turn is what is done between two waits for something to happen:
 * sje_loop_turn_seconds, and the longest of the last one to two minutes, by the wall and by the
 * processor time of the thread.
 * Threads: the loop thread only.
 */
#ifndef SJE_LOOP_H
#define SJE_LOOP_H

#include "internal/base.h"

#include <uv.h>

#define LOOP_TICK_MS 1000

struct loop_watch {
    uv_timer_t timer;
    uv_check_t check;
    uint64_t turn_ns; /* when the present turn began */
    uint64_t cpu_ns;  /* of the thread, then */
    uint64_t idle_ns; /* how long the loop had waited by then, in all */
    uint64_t minute_ns;
    double longest[2]; /* of this minute and of the one before; seconds */
    double longest_cpu[2];
    uint64_t interval_ms;
    uint64_t last_ns;
    void (*on_tick)(void *arg);
    void (*on_closed)(void *arg);
    void *arg;
};

/* on_tick (may be NULL) is called at least every max_ms, where that is not 0: proof that the loop
 * turns. */
void loop_watch_start(struct loop_watch *w, uv_loop_t *loop, int64_t max_ms,
                      void (*on_tick)(void *arg), void *arg);
void loop_watch_close(struct loop_watch *w, void (*on_closed)(void *arg)); /* with start's arg */

#endif
