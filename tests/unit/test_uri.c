#include "internal/uri.h"

#include "internal/buf.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static char text[4096];
static struct uri u;
static struct err why;

static int parse(const char *s)
{
    MUST((size_t)snprintf(text, sizeof(text), "%s", s) < sizeof(text));
    return uri_parse(text, &u, &why);
}

static void test_paths(void **state)
{
    static const struct {
        const char *in;
        const char *path;
    } cases[] = {
        {"/", "/"},
        {"/task/a", "/task/a"},
        {"//task//", "//task//"},
        {"/a%20b%2Fc", "/a b/c"},
        {"/a+b", "/a+b"},
        {"/%C3%A4", "/\xc3\xa4"},
        {"/x?", "/x"},
        {"http://host:80/task", "/task"},
        {"HTTPS://host", "/"},
        {"http://host?a=b", "/"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(parse(cases[i].in), 0);
        assert_string_equal(u.path, cases[i].path);
    }
}

static void test_queries(void **state)
{
    (void)state;
    assert_int_equal(parse("/x?a=1&b&&c=%26%3D=&=v&d=x+y%2B"), 0);
    assert_int_equal(u.n_args, 5);
    assert_string_equal(u.args[0].name, "a");
    assert_string_equal(u.args[0].value, "1");
    assert_string_equal(u.args[1].name, "b");
    assert_string_equal(u.args[1].value, "");
    assert_string_equal(u.args[2].value, "&==");
    assert_string_equal(u.args[3].name, "");
    assert_string_equal(u.args[3].value, "v");
    assert_string_equal(u.args[4].value, "x y+");
    assert_int_equal(parse("/x?a=?&b=/"), 0);
    assert_string_equal(u.args[0].value, "?");
}

static void test_refused(void **state)
{
    static const char *const cases[] = {
        "",       "*",        "host:80", "task",       "?a=b",       "/%",
        "/%1",    "/%zz",     "/%00",    "/a b",       "/a#b",       "/\x7f",
        "/a\tb",  "/%ff",     "/%c0%80", "/%ed%a0%80", "/x?a=%0",    "/x?%g0=",
        "/x?%00", "/x?a=%FE", "http:/x", "ftp://x/",   "/x?a=b\x01",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(parse(cases[i]), ERR_PARSE);
        assert_true(*why.text);
    }
}

static void test_too_many_arguments(void **state)
{
    struct buf many CLEANUP(buf_free);

    (void)state;
    buf_init(&many, 1024);
    buf_adds(&many, "/x?");
    for (int i = 0; i < URI_ARGS_MAX; i++) {
        buf_adds(&many, "a=1&");
    }
    assert_int_equal(parse(many.data), 0);
    assert_int_equal(u.n_args, URI_ARGS_MAX);
    buf_adds(&many, "b");
    assert_int_equal(parse(many.data), ERR_PARSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_too_many_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
