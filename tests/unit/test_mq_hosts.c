#include "internal/mq_hosts.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect_list(const char *list, const char *want)
{
    struct mq_hosts h = {0};
    char got[512] = "";
    size_t n = 0;

    mq_hosts_parse(&h, (struct str){list, strlen(list)}, 5672);
    for (size_t i = 0; i < h.count; i++) {
        n += (size_t)snprintf(got + n, sizeof(got) - n, "%s%s=%u", i ? " " : "",
                              h.items[i].name ? h.items[i].name : "?", h.items[i].port);
    }
    assert_string_equal(got, want);
    mq_hosts_done(&h);
}

static void parses_lists(void **state)
{
    (void)state;
    expect_list("rabbit", "rabbit=5672");
    expect_list("rabbit:5673", "rabbit=5673");
    expect_list(" a , b:1,c:65535 ", "a=5672 b=1 c=65535");
    expect_list("10.0.0.1,,10.0.0.2,", "10.0.0.1=5672 10.0.0.2=5672");
    expect_list("[::1]:99,[fe80::1],::1", "::1=99 fe80::1=5672 ::1=5672");
}

static void marks_entries_that_make_no_sense(void **state)
{
    (void)state;
    expect_list("", "?=0");
    expect_list(",", "?=0");
    expect_list("a:,a:0,a:65536,a:x,a:-1,:5", "?=0 ?=0 ?=0 ?=0 ?=0 ?=0");
    expect_list("[::1,[::1]x,[::1]:,[]", "?=0 ?=0 ?=0 ?=0");
}

static void a_default_port_out_of_range_is_noticed(void **state)
{
    struct mq_hosts h = {0};

    (void)state;
    mq_hosts_parse(&h, STR("a,b:7"), 0);
    assert_null(h.items[0].name);
    assert_string_equal(h.items[0].text, "a");
    assert_string_equal(h.items[1].name, "b");
    mq_hosts_done(&h);
}

static void shuffles_without_loss(void **state)
{
    struct mq_hosts h = {0};
    int first[3] = {0};

    (void)state;
    mq_hosts_parse(&h, STR("h:1,h:2,h:3"), 9);
    for (int i = 0; i < 200; i++) {
        mq_hosts_shuffle(&h);
        assert_int_equal(h.items[0].port + h.items[1].port + h.items[2].port, 6);
        first[h.items[0].port - 1]++;
    }
    assert_true(first[0] > 0 && first[1] > 0 && first[2] > 0);
    mq_hosts_done(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses_lists),
        cmocka_unit_test(marks_entries_that_make_no_sense),
        cmocka_unit_test(a_default_port_out_of_range_is_noticed),
        cmocka_unit_test(shuffles_without_loss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
