/* Runs from the root of the repository: docs/errors.md is checked too. */
#include "internal/buf.h"
#include "internal/err.h"
#include "internal/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static void set_fills_and_returns(void **state)
{
    (void)state;
    struct err e = {0};

    assert_int_equal(err_set(&e, ERR_BUSY, "%d waiting", 3), ERR_BUSY);
    assert_int_equal(e.code, ERR_BUSY);
    assert_string_equal(e.text, "3 waiting");
    assert_int_equal(err_set(NULL, ERR_BUSY, "x"), ERR_BUSY);
    assert_int_equal(err_errno(NULL, ERR_IO, ENOENT, "x"), ERR_IO);
}

static void errno_is_spelled_out(void **state)
{
    (void)state;
    struct err e = {0};

    assert_int_equal(err_errno(&e, ERR_IO, ENOENT, "cannot read %s", "/x"), ERR_IO);
    assert_string_equal(e.text, "cannot read /x: No such file or directory");
    err_errno(&e, ERR_IO, 99999, "x");
    assert_non_null(strstr(e.text, "99999"));
}

static void a_message_may_quote_itself(void **state)
{
    (void)state;
    struct err e = {0};

    err_set(&e, ERR_IO, "inner");
    err_set(&e, ERR_CONFIG, "outer: %s", e.text);
    assert_string_equal(e.text, "outer: inner");
    err_errno(&e, ERR_IO, ENOENT, "%s", e.text);
    assert_string_equal(e.text, "outer: inner: No such file or directory");
}

static void long_messages_stay_utf8(void **state)
{
    (void)state;
    static const char *const characters[] = {"a", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};

    for (size_t c = 0; c < ARRAY_LEN(characters); c++) {
        for (size_t shift = 0; shift < 5; shift++) {
            struct buf b CLEANUP(buf_free) = {0};
            struct err e = {0};

            buf_init(&b, 4096);
            buf_add(&b, "xxxxx", shift);
            for (int i = 0; i < 300; i++) {
                buf_adds(&b, characters[c]);
            }
            err_set(&e, ERR_IO, "%s", b.data);
            assert_true(str_is_utf8(e.text, strlen(e.text)));
            assert_true(strlen(e.text) >= sizeof(e.text) - 4);
            err_errno(&e, ERR_IO, ENOENT, "%s", b.data);
            assert_true(str_is_utf8(e.text, strlen(e.text)));
        }
    }
}

static void texts_are_one_printable_line(void **state)
{
    (void)state;
    struct err e = {0};

    err_set(&e, ERR_IO, "a%sb", "\n\x1b[31m\x7f\xff\xe2\x82 \xe2\x82\xac");
    assert_string_equal(e.text, "a??[31m???? \xe2\x82\xac"
                                "b");
    err_set(&e, ERR_IO, "cut: %.1s", "\xe2\x82\xac");
    assert_string_equal(e.text, "cut: ?");
}

static void table_is_sound(void **state)
{
    (void)state;
    static const int codes[] = {
#define ERR(name, code, http, exit, retry, text) ERR_##name,
#include "internal/err.def"
#undef ERR
    };

    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        assert_true(codes[i] < 0);
        assert_true(err_http_status(codes[i]) >= 400 && err_http_status(codes[i]) < 600);
        assert_true(err_exit_status(codes[i]) >= 1 && err_exit_status(codes[i]) <= 3);
        assert_true(*err_name(codes[i]) && *err_text(codes[i]));
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(codes[i], codes[k]);
        }
    }
    assert_string_equal(err_name(ERR_NOT_FOUND), "NOT_FOUND");
    assert_int_equal(err_http_status(ERR_DB_DOWN), 503);
    assert_true(err_retryable(ERR_DB_DOWN));
    assert_false(err_retryable(ERR_INVALID));
}

static void docs_are_generated(void **state)
{
    (void)state;
    struct buf want CLEANUP(buf_free) = {0};
    char got[16384] = "";
    FILE *f = fopen("docs/errors.md", "r");

    assert_non_null(f);
    got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
    fclose(f);
    buf_init(&want, sizeof(got));
    err_markdown(&want);
    assert_string_equal(got, want.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_fills_and_returns),        cmocka_unit_test(errno_is_spelled_out),
        cmocka_unit_test(a_message_may_quote_itself),   cmocka_unit_test(long_messages_stay_utf8),
        cmocka_unit_test(texts_are_one_printable_line), cmocka_unit_test(table_is_sound),
        cmocka_unit_test(docs_are_generated),
    };

    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
