#include "internal/log.h"
#include "internal/loop.h"
#include "internal/metrics.h"

#include <poll.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static int ticks;
static int closed;
static char line[512];

static void sink(const char *text, size_t len)
{
    snprintf(line, sizeof(line), "%.*s", (int)len, text);
}

static void on_closed(void *arg)
{
    (void)arg;
    closed++;
}

static void on_third_tick(void *arg)
{
    struct loop_watch *w = arg;

    if (++ticks == 3) {
        loop_watch_close(w, on_closed);
    }
}

static void ticks_and_closes(void **state)
{
    (void)state;
    struct loop_watch w;
    uv_loop_t loop;

    ticks = closed = 0;
    metrics_reset();
    assert_int_equal(uv_loop_init(&loop), 0);
    loop_watch_start(&w, &loop, 4, on_third_tick, &w);
    assert_int_equal(w.interval_ms, 2);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_int_equal(ticks, 3);
    assert_int_equal(closed, 1);
    assert_int_equal(metric_value(METRIC_loop_lag_seconds, NULL), 3);
    metrics_reset();
}

/* Stands still for longer than is healthy, once. */
static void on_first_tick_block(void *arg)
{
    struct loop_watch *w = arg;

    if (ticks++ == 0) {
        poll(NULL, 0, 1100);
    } else {
        loop_watch_close(w, NULL);
    }
}

static void tells_of_a_lag(void **state)
{
    (void)state;
    struct loop_watch w;
    uv_loop_t loop;

    ticks = 0;
    line[0] = '\0';
    log_set_sink(sink);
    assert_int_equal(uv_loop_init(&loop), 0);
    loop_watch_start(&w, &loop, 2, on_first_tick_block, &w);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    log_set_sink(NULL);
    assert_non_null(strstr(line, "level=warn"));
    assert_non_null(strstr(line, "the loop stood still for 1"));
    double longest = metric_value(METRIC_loop_longest_turn_seconds, NULL);
    assert_true(longest >= 1.1 && longest < 60);
    assert_true(metric_value(METRIC_loop_longest_turn_cpu_seconds, NULL) <
                longest / 2); /* it slept */
    metrics_reset();
}

static void interval_is_bounded(void **state)
{
    (void)state;
    static const int64_t cases[][2] = {{0, 1000}, {1, 1}, {900, 450}, {30000, 1000}, {-1, 1000}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct loop_watch w;
        uv_loop_t loop;

        assert_int_equal(uv_loop_init(&loop), 0);
        loop_watch_start(&w, &loop, cases[i][0], NULL, NULL);
        assert_int_equal(w.interval_ms, cases[i][1]);
        loop_watch_close(&w, NULL);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(&loop), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks_and_closes),
        cmocka_unit_test(tells_of_a_lag),
        cmocka_unit_test(interval_is_bounded),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
