#include "internal/buf.h"
#include "internal/err.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void appends(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1000);
    assert_int_equal(buf_adds(&b, "ab"), 0);
    assert_int_equal(buf_addc(&b, 'c'), 0);
    assert_int_equal(buf_addf(&b, "%d", 42), 0);
    assert_int_equal(buf_add(&b, "x\0y", 3), 0);
    assert_int_equal(buf_add(&b, NULL, 0), 0);
    assert_int_equal(b.len, 8);
    assert_memory_equal(b.data, "abc42x\0y", 9);
    assert_false(b.failed);
}

static void the_limit_is_exact(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 4);
    assert_int_equal(buf_adds(&b, "abc"), 0);
    assert_int_equal(buf_addf(&b, "%s", "de"), ERR_TOO_LARGE);
    assert_true(b.failed);
    assert_string_equal(b.data, "abc");                 /* nothing of it */
    assert_int_equal(buf_addc(&b, 'd'), ERR_TOO_LARGE); /* failed for good */
    assert_null(buf_reserve(&b, 0));
    buf_reset(&b);
    assert_false(b.failed);
    assert_string_equal(b.data, "");
    assert_int_equal(buf_adds(&b, "abcd"), 0);
    assert_int_equal(b.len, 4);
    assert_true(b.cap <= 5); /* no more memory than the limit needs */
}

static void data_is_never_null(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    assert_int_equal(buf_adds(&b, "x"), ERR_TOO_LARGE); /* a zeroed buffer holds nothing */
    assert_string_equal(b.data, "");
    buf_free(&b);
    assert_int_equal(buf_adds(&b, ""), 0);
    assert_string_equal(b.data, "");
}

static void sizes_do_not_wrap(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, SIZE_MAX);
    assert_int_equal(buf_adds(&b, "abc"), 0);
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_true(b.failed);
    buf_reset(&b);
    buf_adds(&b, "abc");
    assert_null(buf_reserve(&b, SIZE_MAX - 3));
    assert_string_equal(b.data, "abc");
}

static void grows_by_doubling(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};
    int grown = 0;
    size_t cap = 0;

    buf_init(&b, 1 << 20);
    for (int i = 0; i < 1 << 20; i++) {
        assert_int_equal(buf_addc(&b, (char)('a' + i % 26)), 0);
        grown += b.cap != cap;
        cap = b.cap;
    }
    assert_int_equal(buf_addc(&b, 'x'), ERR_TOO_LARGE);
    assert_true(grown < 20);
    for (int i = 0; i < 1 << 20; i += 997) {
        assert_int_equal(b.data[i], 'a' + i % 26);
    }
}

static void reserve_and_commit(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 100);
    char *at = buf_reserve(&b, 10);
    assert_non_null(at);
    memcpy(at, "hello", 5);
    buf_commit(&b, 5);
    assert_string_equal(b.data, "hello");
    buf_commit(&b, 0);
    assert_int_equal(b.len, 5);
}

static void shifting(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 100);
    buf_shift(&b, 0);
    buf_adds(&b, "abcdef");
    buf_shift(&b, 2);
    assert_string_equal(b.data, "cdef");
    buf_shift(&b, 4);
    assert_string_equal(b.data, "");
    assert_int_equal(b.len, 0);
}

static void taking(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 100);
    char *empty CLEANUP(freep) = buf_take(&b);
    assert_string_equal(empty, "");
    buf_adds(&b, "abc");
    char *text CLEANUP(freep) = buf_take(&b);
    assert_string_equal(text, "abc");
    assert_int_equal(b.len, 0);
    assert_int_equal(b.max, 100);
    assert_int_equal(buf_adds(&b, "again"), 0);
}

static void long_formats(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 10000);
    assert_int_equal(buf_addf(&b, "%*d", 5000, 7), 0);
    assert_int_equal(b.len, 5000);
    assert_int_equal(b.data[4999], '7');
    assert_int_equal(buf_addf(&b, "%*d", 5001, 7), ERR_TOO_LARGE);
    assert_int_equal(b.len, 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends),
        cmocka_unit_test(the_limit_is_exact),
        cmocka_unit_test(data_is_never_null),
        cmocka_unit_test(sizes_do_not_wrap),
        cmocka_unit_test(grows_by_doubling),
        cmocka_unit_test(reserve_and_commit),
        cmocka_unit_test(shifting),
        cmocka_unit_test(taking),
        cmocka_unit_test(long_formats),
    };

    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
