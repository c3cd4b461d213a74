/* Who is the same worker, who a later process of it, and how both are shown. */
#include "pkg/task/who.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct id uuid_of(const char *text)
{
    struct id id;

    assert_true(id_parse(text, strlen(text), &id));
    return id;
}

static void test_same_and_later(void **state)
{
    (void)state;
    struct id one = uuid_of("f81d4fae-7dec-41d0-a765-00a0c93f2a9c");
    struct id other = uuid_of("f81d4fae-7dec-41d0-a765-00a0c93f2a9d");
    struct who a = who_of("node1", &one, 7);
    struct who later = who_of("node1", &one, 8);
    struct who twin = who_of("node1", &other, 8);
    struct who old = who_of("node1", NULL, 7);

    assert_true(who_same_worker(&a, &later));
    assert_false(who_same_process(&a, &later));
    assert_true(who_succeeds(&later, &a));
    assert_false(who_succeeds(&a, &later));
    assert_false(who_same_worker(&a, &twin));
    assert_false(who_succeeds(&twin, &a));
    assert_true(who_continues(&a, &old)); /* it got its UUID */
    assert_false(who_continues(&old, &a));
}

static void test_how_it_is_shown(void **state)
{
    (void)state;
    struct id uuid = uuid_of("f81d4fae-7dec-41d0-a765-00a0c93f2a9c");
    struct who a = who_of("node1", &uuid, 7);
    struct who old = who_of("node1", NULL, 7);
    char tail[WHO_TAIL_LEN];
    char text[WHO_TEXT_LEN];

    who_tail(&a, tail); /* part of a queue's name */
    assert_string_equal(tail, "3f2a9c");
    who_tail(&old, tail);
    assert_string_equal(tail, "000000");
    assert_string_equal(who_text(&a, text), "node1 (uuid …3f2a9c, process 7)");
    assert_string_equal(who_text(&old, text), "node1 (process 7)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_and_later),
        cmocka_unit_test(test_how_it_is_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
