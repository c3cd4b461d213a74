#include "internal/str.h"

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static const struct str none = {NULL, 0};

static void comparing(void **state)
{
    (void)state;
    assert_true(str_eq(STR("ab"), STR("ab")));
    assert_false(str_eq(STR("ab"), STR("aB")));
    assert_false(str_eq(STR("ab"), STR("abc")));
    assert_true(str_eq(none, STR("")));
    assert_true(str_eq(STR("a\0b"), STR("a\0b")));
    assert_false(str_eq(STR("a\0b"), STR("a\0c")));
    assert_true(str_ieq(STR("SparkApp"), STR("sparkapp")));
    assert_false(str_ieq(STR("a"), STR("b")));
    assert_true(str_ieq(none, none));
    assert_true(str_starts(STR("abc"), STR("ab")));
    assert_true(str_starts(STR("abc"), none));
    assert_true(str_starts(none, none));
    assert_false(str_starts(STR("a"), STR("ab")));
    assert_true(str_ends(STR("x.jar"), STR(".jar")));
    assert_true(str_ends(none, none));
    assert_false(str_ends(STR("jar"), STR(".jar")));
    assert_int_equal(str_of(NULL).len, 0);
    assert_int_equal(str_of("abc").len, 3);
}

static void trimming(void **state)
{
    (void)state;
    assert_true(str_eq(str_trim(STR(" \t\r\n a b \n")), STR("a b")));
    assert_int_equal(str_trim(STR("   ")).len, 0);
    assert_int_equal(str_trim(none).len, 0);
    assert_true(str_eq(str_trim(STR("\xc2\xa0x")), STR("\xc2\xa0x"))); /* ASCII spaces only */
}

static void cutting(void **state)
{
    (void)state;
    struct str rest = STR("a,,b");

    assert_true(str_eq(str_cut(rest, ',', &rest), STR("a")));
    assert_true(str_eq(str_cut(rest, ',', &rest), STR("")));
    assert_true(str_eq(str_cut(rest, ',', &rest), STR("b")));
    assert_int_equal(rest.len, 0);
    assert_int_equal(str_cut(rest, ',', &rest).len, 0);
    assert_true(str_eq(str_cut(STR(","), ',', &rest), STR("")));
    assert_int_equal(rest.len, 0);
    assert_int_equal(str_cut(none, ',', &rest).len, 0);
    assert_int_equal(rest.len, 0);
}

static void integers(void **state)
{
    (void)state;
    static const struct {
        struct str text;
        int64_t value;
    } good[] = {
        {{"0", 1}, 0},
        {{"-0", 2}, 0},
        {{"42", 2}, 42},
        {{"007", 3}, 7},
        {{"9223372036854775807", 19}, INT64_MAX},
        {{"-9223372036854775808", 20}, INT64_MIN},
    };
    static const char *const bad[] = {"",
                                      "-",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1.0",
                                      "0x10",
                                      "1e3",
                                      "--1",
                                      "1-",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "99999999999999999999999",
                                      "\xd9\xa1"};
    int64_t v = 77;

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(str_to_i64(good[i].text, INT64_MIN, INT64_MAX, &v));
        assert_int_equal(v, good[i].value);
    }
    v = 77;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(str_to_i64(str_of(bad[i]), INT64_MIN, INT64_MAX, &v));
    }
    assert_false(str_to_i64(STR("1\0"), INT64_MIN, INT64_MAX, &v));
    assert_false(str_to_i64(STR("5"), 6, 9, &v));
    assert_false(str_to_i64(STR("10"), 6, 9, &v));
    assert_false(str_to_i64(none, 0, 9, &v));
    assert_int_equal(v, 77);
    assert_true(str_to_i64((struct str){"123456", 3}, 0, 200, &v)); /* not beyond the slice */
    assert_int_equal(v, 123);
}

static void doubles(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    " 1", "1 ", "inf", "nan", "0x1p3", "1e999",   "-1e999",
                                      "1,5", "1e", ".",  "-",   "1f",  "1..2",  "infinity"};
    double v = 77;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (str_to_double(str_of(bad[i]), &v)) {
            fail_msg("\"%s\" was taken for %g", bad[i], v);
        }
    }
    assert_false(str_to_double(STR("1\0"), &v));
    assert_false(str_to_double(STR("1\0abc"), &v));
    assert_false(str_to_double(
        STR("0.0000000000000000000000000000000000000000000000000000000000000001"), &v));
    assert_true(v == 77);
    assert_true(str_to_double(STR("1.5"), &v) && v == 1.5);
    assert_true(str_to_double(STR("-2e3"), &v) && v == -2000);
    assert_true(str_to_double(STR("1e-320"), &v) && v > 0 && v < 1e-300);
    assert_true(str_to_double(STR("1e-999"), &v) && v == 0);
    assert_true(str_to_double((struct str){"1234", 2}, &v) && v == 12);
}

static void utf8(void **state)
{
    (void)state;
    static const struct {
        struct str text;
        bool good;
    } cases[] = {
        {{"", 0}, true},
        {{"a\0b", 3}, true},
        {{"\x7f", 1}, true},
        {{"\x80", 1}, false},
        {{"\xc0\x80", 2}, false}, /* overlong NUL */
        {{"\xc1\xbf", 2}, false},
        {{"\xc2\x80", 2}, true},
        {{"\xc2", 1}, false},
        {{"\xc2\x41", 2}, false},
        {{"\xe0\x9f\xbf", 3}, false}, /* overlong */
        {{"\xe0\xa0\x80", 3}, true},
        {{"\xed\x9f\xbf", 3}, true},
        {{"\xed\xa0\x80", 3}, false}, /* surrogate */
        {{"\xef\xbf\xbf", 3}, true},
        {{"\xf0\x8f\xbf\xbf", 4}, false}, /* overlong */
        {{"\xf0\x90\x80\x80", 4}, true},
        {{"\xf4\x8f\xbf\xbf", 4}, true}, /* U+10FFFF */
        {{"\xf4\x90\x80\x80", 4}, false},
        {{"\xf5\x80\x80\x80", 4}, false},
        {{"\xff", 1}, false},
        {{"\xe2\x82", 2}, false},
        {{"a\xf0\x9f\x98\x80z", 6}, true},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(str_is_utf8(cases[i].text.p, cases[i].text.len), cases[i].good);
    }
    assert_true(str_is_utf8(NULL, 0));
    assert_int_equal(str_utf8_head(none), 0);
    assert_int_equal(str_utf8_head(STR("\xe2\x82\xac!")), 3);
    assert_int_equal(str_utf8_head(STR("\xe2\x82")), 0);
    assert_int_equal(str_chars(STR("a\xe2\x82\xac\xf0\x9f\x98\x80")), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparing), cmocka_unit_test(trimming), cmocka_unit_test(cutting),
        cmocka_unit_test(integers),  cmocka_unit_test(doubles),  cmocka_unit_test(utf8),
    };

    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
