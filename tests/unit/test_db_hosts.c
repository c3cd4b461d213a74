/* Host lists, and what libpq's messages become. */
#include "internal/db_conn.h"

#include <setjmp.h>

#include <cmocka.h>

static void test_list(void **state)
{
    (void)state;
    static const struct {
        const char *host, *addr;
        int port;
    } expected[] = {{"db1", NULL, 5432},         {"db2", NULL, 6000}, {"10.0.0.7", "10.0.0.7", 7},
                    {"::1", "::1", 5432},        {"::1", "::1", 99},  {"/run/a:b", "", 5432},
                    {"fe80::1", "fe80::1", 5432}};
    struct db_hosts *h = NULL;

    assert_int_equal(db_hosts_parse(" db1, db2:6000,10.0.0.7:7 ,::1,[::1]:99,/run/a:b,[fe80::1]",
                                    5432, &h, NULL),
                     0);
    assert_int_equal(h->count, ARRAY_LEN(expected));
    for (int i = 0; i < h->count; i++) {
        assert_string_equal(h->item[i].host, expected[i].host);
        assert_int_equal(h->item[i].port, expected[i].port);
        if (expected[i].addr) {
            assert_string_equal(h->item[i].addr, expected[i].addr);
        } else {
            assert_null(h->item[i].addr);
        }
    }
    db_hosts_unref(h);
}

static void test_bad_lists(void **state)
{
    (void)state;
    static const char *const lists[] = {
        "",
        ",",
        "a,,b",
        ":5432",
        "a:0",
        "a:65536",
        "a:5x",
        "a:-1",
        "[::1]x",
        "[]",
        "[]:5",
        "a b:x",
        "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a",
    };

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        struct db_hosts *h = NULL;
        struct err why;

        assert_int_equal(db_hosts_parse(lists[i], 5432, &h, &why), ERR_CONFIG);
        assert_non_null(strstr(why.text, "host list"));
        assert_null(h);
    }
}

static void on_found(void *arg, struct db_hosts *found, const struct err *why)
{
    (void)why;
    *(struct db_hosts **)arg = found;
}

static void on_failed(void *arg, struct db_hosts *found, const struct err *why)
{
    assert_null(found);
    *(struct err *)arg = *why;
}

static void test_resolve(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct db_resolver r = {.loop = &loop};
    struct db_hosts *found = NULL;
    struct err why = {0};

    assert_int_equal(uv_loop_init(&loop), 0);
    db_resolve(&r, "127.0.0.1,/tmp", 1, on_found, &found); /* needs no thread */
    assert_non_null(found);
    assert_int_equal(found->count, 2);
    db_hosts_unref(found);

    found = NULL;
    db_resolve(&r, "localhost:77,nothing.invalid,127.0.0.9", 1, on_found, &found);
    assert_null(found);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_non_null(found);
    assert_true(found->count >= 2);
    assert_string_equal(found->item[0].host, "localhost");
    assert_int_equal(found->item[0].port, 77);
    assert_string_equal(found->item[found->count - 1].addr, "127.0.0.9");
    db_hosts_unref(found);

    db_resolve(&r, "nothing.invalid", 1, on_failed, &why);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(why.code, ERR_DB_DOWN);
    assert_non_null(strstr(why.text, "nothing.invalid"));
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_connect_errors(void **state)
{
    (void)state;
    static const struct {
        const char *message, *text;
        int code;
    } rows[] = {
        {"connection to server at \"127.0.0.1\", port 5 failed: Connection refused\n\tIs it "
         "running?",
         "connection to server at \"127.0.0.1\", port 5 failed: Connection refused", ERR_DB_DOWN},
        {"connection to server at \"h\" (::1), port 5 failed: FATAL:  28P01: password "
         "authentication "
         "failed for user \"u\"\nLOCATION:  auth_failed\n",
         "connection to server at \"h\" (::1), port 5 failed: password authentication failed for "
         "user \"u\" [28P01]",
         ERR_CONFIG},
        {"x failed: FATAL:  3D000: database \"d\" does not exist\n",
         "x failed: database \"d\" does not exist [3D000]", ERR_CONFIG},
        {"x failed: FATAL:  57P03: the database system is starting up\n",
         "x failed: the database system is starting up [57P03]", ERR_DB_DOWN},
        {"FATAL:  53300: too many\n", "too many [53300]", ERR_DB_DOWN},
        {"x failed: session is read-only\n", "x failed: session is read-only", ERR_DB_DOWN},
        {"", "connection lost", ERR_DB_DOWN},
        {"\n", "connection lost", ERR_DB_DOWN},
    };
    struct err why;
    char longest[1024];

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(db_error_connect(rows[i].message, &why), rows[i].code);
        assert_string_equal(why.text, rows[i].text);
    }
    memset(longest, 'x', sizeof(longest));
    memcpy(longest, "FATAL:  28P01: ", 15);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(db_error_connect(longest, &why), ERR_CONFIG);
    assert_true(db_is_sqlstate(&why, "28P01")); /* not cut off */
    assert_false(db_is_sqlstate(&why, "28P02"));
    for (size_t shift = 0; shift < 4; shift++) { /* nor a character in its middle */
        memcpy(longest + 15, "xxx", 3);
        for (size_t i = 15 + shift; i + 2 < sizeof(longest); i += 2) {
            memcpy(longest + i, "\xc3\xbc", 2);
        }
        assert_int_equal(db_error_connect(longest, &why), ERR_CONFIG);
        assert_true(str_is_utf8(why.text, strlen(why.text)));
        assert_true(db_is_sqlstate(&why, "28P01"));
    }
    assert_false(db_is_sqlstate(&(struct err){.text = "[1]"}, "28P02"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_bad_lists),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_connect_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
