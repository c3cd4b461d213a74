/* loop.h: watches that the loop turns. One timer; how late it fires is the loop's lag.
 *
 * The lag is observed as sje_loop_lag_seconds; a lag over a second is logged, because leases and
 * heartbeats live on this thread. Threads: the loop thread only.
 */
#ifndef SJE_LOOP_H
#define SJE_LOOP_H

#include "internal/base.h"

#include <uv.h>

#define LOOP_TICK_MS 1000

struct loop_watch {
    uv_timer_t timer;
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
