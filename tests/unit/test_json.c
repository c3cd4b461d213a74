#include "internal/json.h"
#include "internal/str.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static json_t *read_ok(const char *text)
{
    json_t *j = NULL;
    struct err e = {0};

    if (json_read(text, strlen(text), &j, &e) != 0) {
        fail_msg("%s: %s", text, e.text);
    }
    return j;
}

static void refused(const char *text, size_t len)
{
    json_t *j = NULL;
    struct err e = {0};

    if (json_read(text, len, &j, &e) != ERR_PARSE) {
        fail_msg("taken: %.*s", (int)len, text);
    }
    assert_int_equal(e.code, ERR_PARSE);
    assert_true(*e.text);
    assert_null(j);
    assert_int_equal(json_read(text, len, &j, NULL), ERR_PARSE);
}

static void round_trips(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "null",
        "true",
        "false",
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "0.1",
        "1.5",
        "-0.0",
        "1e+20",
        "4.94065645841247e-324",
        "1.7976931348623157e+308",
        "3.0",
        "0.30000000000000004",
        "\"\"",
        "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001/\"",
        "\"\xe2\x82\xac \xf0\x9f\x98\x80\"",
        "[]",
        "{}",
        "[1,[2,[3]],{\"a\":[]}]",
        "{\"b\":1,\"a\":2,\"\":{\"x\\ny\":null}}", /* the order stays */
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        json_auto_t *j = read_ok(texts[i]);
        char *text CLEANUP(freep) = json_text(j);

        assert_string_equal(text, texts[i]);
    }
}

static void reals_read_back_the_same(void **state)
{
    (void)state;
    uint64_t bits = 88172645463325252u;

    for (int i = 0; i < 20000; i++) {
        double d = 0;

        bits ^= bits << 13; /* xorshift: any pattern of bits */
        bits ^= bits >> 7;
        bits ^= bits << 17;
        memcpy(&d, &bits, sizeof(d));
        json_auto_t *j = json_real(d);
        if (!j) { /* not finite */
            continue;
        }
        char *text CLEANUP(freep) = json_text(j);
        json_auto_t *back = read_ok(text);
        assert_true(json_is_real(back));
        assert_true(json_real_value(back) == d);
    }
}

static void is_strict(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\":1,\"a\":2}",
        "{a:1}",
        "'a'",
        "[1] x",
        "nul",
        "01",
        "+1",
        "1.",
        ".5",
        "NaN",
        "1e999",
        "99999999999999999999",
        "\"\\u0000\"",
        "\"\xff\"",
        "\"\xed\xa0\x80\"",
        "\"\\ud800\"",
        "\"a\nb\"",
        "\"\\x\"",
        "// c\n1",
        "{\"\\u0000\":1}",
        "]",
        "\xef\xbb\xbf{}",
        "{}\xef\xbb\xbf",
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        refused(texts[i], strlen(texts[i]));
    }
    refused("1\0", 2);
    refused("\"a\0b\"", 5);
    refused("\0", 1);
    refused(NULL, 0);
}

static void says_where(void **state)
{
    (void)state;
    json_t *j = NULL;
    struct err e = {0};

    assert_int_equal(json_read("{\n  \"a\": x}", 11, &j, &e), ERR_PARSE);
    assert_non_null(strstr(e.text, "line 2 column "));
    assert_int_equal(json_read("", 0, &j, &e), ERR_PARSE);
    assert_string_equal(e.text, "is empty");
    assert_int_equal(json_read(" \r\n\t", 4, &j, &e), ERR_PARSE);
    assert_string_equal(e.text, "is empty");
}

static void depth_is_bounded(void **state)
{
    (void)state;
    struct buf b CLEANUP(buf_free) = {0};
    json_t *j = NULL;
    struct err e = {0};

    buf_init(&b, 1 << 20);
    for (int i = 0; i < JSON_DEPTH; i++) {
        buf_addc(&b, '[');
    }
    for (int i = 0; i < JSON_DEPTH; i++) {
        buf_addc(&b, ']');
    }
    assert_int_equal(json_read(b.data, b.len, &j, &e), 0);
    json_decref(j);
    j = NULL;
    buf_reset(&b);
    for (int i = 0; i < 100000; i++) {
        buf_adds(&b, i % 2 ? "[" : "{\"a\":");
    }
    assert_int_equal(json_read(b.data, b.len, &j, &e), ERR_PARSE);
    assert_string_equal(e.text, "nested deeper than 64 levels");
    buf_reset(&b);
    buf_adds(&b, "[\""); /* brackets inside of a string are text */
    for (int i = 0; i < 1000; i++) {
        buf_adds(&b, "[{\\\"");
    }
    buf_adds(&b, "\"]");
    assert_int_equal(json_read(b.data, b.len, &j, &e), 0);
    json_decref(j);
}

static void is_measured_before_anything_is_built(void **state)
{
    static const struct {
        const char *text;
        size_t values, bytes;
    } cases[] = {
        {"", 1, 0},
        {"1", 1, 1},
        {" [ 1,\t2 ]\r\n", 3, 5},
        {"{\"a\":[1,{}],\"b\":2}", 6, 18},
        {"\"[,{ \\\",\"", 1, 9},
        {"\"\\u0041\\/\\n\"", 1, 6},
        {"\"\\", 1, 3},
        {"\"\\u00", 1, 2},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json_size size = json_measure(str_of(cases[i].text));

        assert_int_equal(size.values, cases[i].values);
        assert_int_equal(size.bytes, cases[i].bytes);
    }
}

static void writing_is_bounded(void **state)
{
    (void)state;
    json_auto_t *j = read_ok("{\"key\":\"value\"}");
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 10);
    assert_int_equal(json_write(j, &b), ERR_TOO_LARGE);
    assert_true(b.len <= 10);
    buf_free(&b);
    buf_init(&b, 15);
    assert_int_equal(json_write(j, &b), 0);
    assert_string_equal(b.data, "{\"key\":\"value\"}");
}

static void lossy(const char *p, size_t len, const char *want)
{
    json_auto_t *j = json_string_lossy(p, len);
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1000);
    assert_string_equal(json_string_value(j), want);
    assert_int_equal(json_string_length(j), strlen(want));
    json_add_string(&b, p, len);
    json_auto_t *back = read_ok(b.data);
    assert_true(json_equal(j, back));
}

static void any_bytes_become_a_string(void **state)
{
    (void)state;
    lossy("abc", 3, "abc");
    lossy("", 0, "");
    lossy(NULL, 0, "");
    lossy("a\0b", 3,
          "a\xef\xbf\xbd"
          "b");
    lossy("\xff", 1, "\xef\xbf\xbd");
    lossy("\xe2\x82", 2, "\xef\xbf\xbd\xef\xbf\xbd");
    lossy("\xe2\x82\xacx", 4, "\xe2\x82\xacx");
    lossy("x\xf0\x9f\x98\x80\x80\0", 7, "x\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd");
    lossy("\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void members(void **state)
{
    (void)state;
    json_auto_t *j = read_ok("{\"s\":\"x\",\"i\":7,\"b\":true,\"f\":false,\"n\":null,\"r\":1.5}");

    assert_string_equal(json_get_string(j, "s"), "x");
    assert_null(json_get_string(j, "i"));
    assert_null(json_get_string(j, "none"));
    assert_null(json_get_string(NULL, "s"));
    assert_int_equal(json_get_int(j, "i", -1), 7);
    assert_int_equal(json_get_int(j, "s", -1), -1);
    assert_int_equal(json_get_int(j, "r", -1), -1);
    assert_int_equal(json_get_int(NULL, "i", -1), -1);
    assert_true(json_get_bool(j, "b", false));
    assert_false(json_get_bool(j, "f", true));
    assert_true(json_get_bool(j, "n", true));
    assert_false(json_get_bool(NULL, "b", false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(reals_read_back_the_same),
        cmocka_unit_test(is_strict),
        cmocka_unit_test(says_where),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(is_measured_before_anything_is_built),
        cmocka_unit_test(writing_is_bounded),
        cmocka_unit_test(any_bytes_become_a_string),
        cmocka_unit_test(members),
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
