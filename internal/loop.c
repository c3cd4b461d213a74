#include "internal/loop.h"

#include "internal/log.h"
#include "internal/metrics.h"

#include <time.h>

#define NS_PER_MS 1000000u
#define SLOW_MS   1000u
#define MINUTE_NS (60000u * (uint64_t)NS_PER_MS)

static uint64_t cpu_ns(void)
{
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000 * NS_PER_MS + (uint64_t)t.tv_nsec;
}

/* The two are kept apart: where others have the processor a turn is long, and the loop is not to
 * blame. */
static void note_longest(struct loop_watch *w, double worked, double used)
{
    w->longest[0] = MAX(w->longest[0], worked);
    w->longest_cpu[0] = MAX(w->longest_cpu[0], used);
    METRIC_SET(loop_longest_turn_seconds, MAX(w->longest[0], w->longest[1]));
    METRIC_SET(loop_longest_turn_cpu_seconds, MAX(w->longest_cpu[0], w->longest_cpu[1]));
}

/* Comes once a turn. */
static void on_check(uv_check_t *h)
{
    struct loop_watch *w = h->data;
    uint64_t now = uv_hrtime();
    uint64_t cpu = cpu_ns();
    double used = (double)(cpu - w->cpu_ns) / 1e9;
    uint64_t idle = uv_metrics_idle_time(h->loop);
    uint64_t waited = idle - w->idle_ns;
    double worked = now - w->turn_ns > waited ? (double)(now - w->turn_ns - waited) / 1e9 : 0;

    w->turn_ns = now;
    w->cpu_ns = cpu;
    w->idle_ns = idle;
    METRIC_OBSERVE(loop_turn_seconds, worked);
    if (now - w->minute_ns > MINUTE_NS) {
        w->minute_ns = now;
        w->longest[1] = w->longest[0];
        w->longest[0] = 0;
        w->longest_cpu[1] = w->longest_cpu[0];
        w->longest_cpu[0] = 0;
    }
    note_longest(w, worked, used);
}

static void on_timer(uv_timer_t *t)
{
    struct loop_watch *w = t->data;
    uint64_t now = uv_hrtime();
    uint64_t due = w->last_ns + w->interval_ms * NS_PER_MS;
    uint64_t lag_ms = now > due ? (now - due) / NS_PER_MS : 0;

    w->last_ns = now;
    METRIC_OBSERVE(loop_lag_seconds, (double)lag_ms / 1000);
    if (lag_ms > SLOW_MS) {
        log_warn(NULL, "the loop stood still for %llu ms; leases may be at risk",
                 (unsigned long long)lag_ms);
    }
    if (w->on_tick) {
        w->on_tick(w->arg);
    }
}

static void on_check_closed(uv_handle_t *h)
{
    struct loop_watch *w = h->data;

    if (w->on_closed) {
        w->on_closed(w->arg);
    }
}

void loop_watch_start(struct loop_watch *w, uv_loop_t *loop, int64_t max_ms,
                      void (*on_tick)(void *arg), void *arg)
{
    *w = (struct loop_watch){.on_tick = on_tick, .arg = arg, .last_ns = uv_hrtime()};
    w->interval_ms = max_ms > 0 ? MIN(MAX((uint64_t)max_ms / 2, 1u), LOOP_TICK_MS) : LOOP_TICK_MS;
    w->timer.data = w;
    MUST(uv_timer_init(loop, &w->timer) == 0);
    MUST(uv_timer_start(&w->timer, on_timer, w->interval_ms, w->interval_ms) == 0);
    (void)uv_loop_configure(loop, UV_METRICS_IDLE_TIME); /* else all time counts as work */
    w->turn_ns = w->minute_ns = w->last_ns;
    w->cpu_ns = cpu_ns();
    w->idle_ns = uv_metrics_idle_time(loop);
    w->check.data = w;
    MUST(uv_check_init(loop, &w->check) == 0);
    MUST(uv_check_start(&w->check, on_check) == 0);
    uv_unref((uv_handle_t *)&w->check);
}

void loop_watch_close(struct loop_watch *w, void (*on_closed)(void *arg))
{
    w->on_closed = on_closed;
    uv_close((uv_handle_t *)&w->timer, NULL);
    uv_close((uv_handle_t *)&w->check, on_check_closed);
}
