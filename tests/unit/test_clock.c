#include "internal/clock.h"

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static void expect(int64_t ms, const char *text)
{
    char got[CLOCK_TEXT_LEN];

    clock_format(ms, got);
    assert_string_equal(got, text);
}

static void formats(void **state)
{
    (void)state;
    expect(0, "1970-01-01T00:00:00.000Z");
    expect(1, "1970-01-01T00:00:00.001Z");
    expect(-1, "1969-12-31T23:59:59.999Z");
    expect(-1000, "1969-12-31T23:59:59.000Z");
    expect(1582934400123, "2020-02-29T00:00:00.123Z");
    expect(1767322984056, "2026-01-02T03:03:04.056Z");
    expect(253402300799999, "9999-12-31T23:59:59.999Z");
    expect(-30610224000000, "1000-01-01T00:00:00.000Z");
}

/* Any number that a peer may send. */
static void absurd_times(void **state)
{
    (void)state;
    expect(253402300800000, "9999-12-31T23:59:59.999Z");
    expect(INT64_MAX, "9999-12-31T23:59:59.999Z");
    expect(INT64_MIN, "1000-01-01T00:00:00.000Z");
    expect(-30610224000001, "1000-01-01T00:00:00.000Z");
}

static void real_time_goes_on(void **state)
{
    (void)state;
    int64_t boot = clock_boot_ms();
    int64_t wall = clock_wall_ms();

    assert_true(boot > 0);
    assert_true(wall > 1700000000000);
    assert_true(clock_boot_ms() >= boot);
}

static void virtual_time_stands_still(void **state)
{
    (void)state;
    clock_virtual_set(1000, 5000);
    assert_int_equal(clock_boot_ms(), 1000);
    assert_int_equal(clock_wall_ms(), 5000);
    clock_virtual_advance(7);
    assert_int_equal(clock_boot_ms(), 1007);
    assert_int_equal(clock_wall_ms(), 5007);
    clock_virtual_advance(0);
    assert_int_equal(clock_boot_ms(), 1007);
}

static void what_the_wall_clock_gains(void **state)
{
    (void)state;
    clock_virtual_set(1000, 5000);
    struct moment at = clock_moment();
    struct moment first = at;
    clock_virtual_set(1000, 6000); /* adjusted */
    assert_int_equal(clock_gained(&at), 0);
    clock_virtual_set(3000, 9500); /* a jump of 1.5 s while 2 s passed */
    assert_int_equal(clock_since(&first), 4500);
    assert_int_equal(clock_gained(&at), 1500);
    assert_int_equal(clock_gained(&at), 0);
    clock_virtual_set(4000, 500); /* set back */
    assert_int_equal(clock_gained(&at), 0);
    assert_int_equal(clock_since(&first), 3000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),
        cmocka_unit_test(absurd_times),
        cmocka_unit_test(real_time_goes_on),
        cmocka_unit_test(virtual_time_stands_still), /* last: there is no way back */
        cmocka_unit_test(what_the_wall_clock_gains),
    };

    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
