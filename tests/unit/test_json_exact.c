#include "internal/json_exact.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        bool exact;
        const char *tree; /* NULL: no JSON that we take */
    } rows[] = {
        {"{\"hash\": 18446744073709551615, \"rows\": 5}", false, "{\"hash\":0,\"rows\":5}"},
        {"9223372036854775807", true, "9223372036854775807"},
        {"-9223372036854775808", true, "-9223372036854775808"},
        {"9223372036854775808", false, "0"},
        {"[0.1,1.5,-2.25]", true, "[0.1,1.5,-2.25]"},
        {"[0.10]", false, "[0]"},
        {"3.14159265358979323846", false, "0"},
        {"-0", false, "0"},
        {"1e5", true, "100000.0"},
        {"1e999", true, NULL},
        {"1.", true, NULL},
        {"01", true, NULL},
        {"NaN", true, NULL},
        {"-", true, NULL},
        {"--1", true, NULL},
        {"1-1", true, NULL},
        {"99999999999999999999x", true, NULL},
        {"\"99999999999999999999\"", true, "\"99999999999999999999\""},
        {"\"a\\\"99999999999999999999\"", true, "\"a\\\"99999999999999999999\""},
        {"\"open", true, NULL},
        {"\"open\\", true, NULL},
        {"", true, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_auto_t *j = NULL;
        bool exact = false;
        struct err e = {0};
        int rc = json_read_exact(rows[i].text, strlen(rows[i].text), &j, &exact, &e);
        char *tree CLEANUP(freep) = rc == 0 ? json_text(j) : NULL;

        if (!rows[i].tree ? rc == 0 : !streq(tree, rows[i].tree) || exact != rows[i].exact) {
            fail_msg("%s: %s, %s", rows[i].text, tree ? tree : e.text,
                     exact ? "exact" : "not exact");
        }
    }
}

static void test_too_many_digits(void **state)
{
    char text[JSON_DIGITS_MAX + 2];
    json_t *j = NULL;
    bool exact = false;

    (void)state;
    memset(text, '9', sizeof(text));
    assert_int_equal(json_read_exact(text, JSON_DIGITS_MAX, &j, &exact, NULL), 0);
    assert_false(exact);
    json_decref(j);
    assert_true(json_read_exact(text, JSON_DIGITS_MAX + 1, &j, &exact, NULL) < 0);
}

static void expect_member(const char *text, const char *key, const char *value)
{
    struct str v = json_raw_member(str_of(text), key);

    if (!str_eq(v, str_of(value))) {
        fail_msg("%s of %s: %.*s", key, text, (int)v.len, v.p);
    }
}

static void test_members(void **state)
{
    static const char text[] = " { \"a\" : 1.10 ,\"b\":{\"a\":[2,\"}\"]} , \"c\":\"x,\\\"y\" }";

    (void)state;
    expect_member(text, "a", "1.10");
    expect_member(text, "b", "{\"a\":[2,\"}\"]}");
    expect_member(text, "c", "\"x,\\\"y\"");
    expect_member(text, "d", "");
    expect_member("[]", "a", "");
    expect_member("{", "a", "");
    expect_member("{\"a", "a", "");
    expect_member("{\"a\":", "a", "");
    expect_member("", "a", "");
}

static void expect_indent(const char *text, const char *value)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1000);
    json_indent(str_of(text), &b);
    assert_string_equal(b.data, value);
}

static void test_indent(void **state)
{
    (void)state;
    expect_indent(
        "{\"a\":1.10,\"b\":[],\"c\":[1,{\"d\":\"x, [y]\"}] , \"e\":{}}",
        "{\n  \"a\": 1.10,\n  \"b\": [],\n  \"c\": [\n    1,\n    {\n      \"d\": \"x, [y]\"\n"
        "    }\n  ],\n  \"e\": {}\n}");
    expect_indent("5", "5");
    expect_indent(" \"x\" ", "\"x\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_too_many_digits),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_indent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
