/* Which requests a browser may send for a page, and which names are ours. */
#include "api/door.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct row {
    const char *host;
    const char *origin;
    const char *site;
    bool in;
};

static void check(const char *yaml, const struct row *rows, size_t n)
{
    struct config *c = NULL;
    struct err e = {0};

    assert_int_equal(config_load_text("test", yaml, strlen(yaml), &c, &e), 0);
    for (size_t i = 0; i < n; i++) {
        struct door_head h = {rows[i].host, rows[i].origin, rows[i].site, false};
        bool in = door_check(c, "node7", &h, &e) == 0;

        if (in != rows[i].in) {
            fail_msg("Host %s, Origin %s, %s: %s", h.host, h.origin, h.fetch_site,
                     in ? "in" : e.text);
        }
    }
    config_free(c);
}

static void test_names(void **state)
{
    static const struct row rows[] = {
        {NULL, NULL, NULL, true}, /* HTTP/1.0 */
        {"127.0.0.1:8082", NULL, NULL, true},
        {"127.9.9.9", NULL, NULL, true},
        {"[::1]:8082", NULL, NULL, true},
        {"localhost:9000", NULL, NULL, true}, /* through a tunnel */
        {"LocalHost", NULL, NULL, true},
        {"node7:8082", NULL, NULL, true},
        {"evil.example", NULL, NULL, false},
        {"evil.example:8082", NULL, NULL, false},
        {"localhost.evil.example", NULL, NULL, false},
        {"127.0.0.1.evil.example", NULL, NULL, false},
        {"node7.evil.example", NULL, NULL, false},
        {"10.0.0.1:8082", NULL, NULL, false}, /* we do not listen there */
        {"[::2]", NULL, NULL, false},
        {"127.1", NULL, NULL, false},
        {"2130706433", NULL, NULL, false},
        {"[::1", NULL, NULL, true},
        {"[", NULL, NULL, false},
        {":8082", NULL, NULL, false},
        {"", NULL, NULL, false},
    };

    (void)state;
    check("", rows, ARRAY_LEN(rows));
}

static void test_names_where_all_reach_it(void **state)
{
    static const struct row rows[] = {
        {"10.0.0.1:8082", NULL, NULL, true},
        {"[2001:db8::7]:8082", NULL, NULL, true},
        {"sje.example", NULL, NULL, true},
        {"SJE.example:8443", NULL, NULL, true},
        {"proxy.example:444", NULL, NULL, true},
        {"example", NULL, NULL, false},
        {"localhost.:8082", NULL, NULL, true},
        {"sje.example.", NULL, NULL, true},
        {".", NULL, NULL, false},
        {"localhost..", NULL, NULL, false},
        {"evil.example", NULL, NULL, false},
        {"10.0.0.1.evil.example", NULL, NULL, false},
    };

    (void)state;
    check("apiConfig: {bind: 0.0.0.0, hosts: [sje.example, 'proxy.example:8443']}", rows,
          ARRAY_LEN(rows));
}

static void test_pages(void **state)
{
    static const struct row rows[] = {
        {"localhost:8082", "http://localhost:8082", "same-origin", true},
        {"localhost:8082", NULL, "none", true}, /* typed by somebody */
        {"localhost:8082", NULL, "same-origin", true},
        {"localhost:8082", "http://localhost:3000", NULL, false},
        {"localhost:8082", "http://localhost", NULL, false},
        {"localhost:8082", "http://evil.example", NULL, false},
        {"localhost:8082", "http://evil.example", "same-origin", false},
        {"localhost:8082", "null", NULL, false},
        {"localhost:8082", "", NULL, false},
        {"localhost:8082", "ftp://localhost:8082", NULL, false},
        {"localhost:8082", "chrome-extension://localhost:8082", NULL, false},
        {"localhost:8082", "http:localhost:8082", NULL, false},
        {"localhost:8082", NULL, "cross-site", false},
        {"localhost:8082", NULL, "same-site", false}, /* another port of this machine */
        {"localhost:8082", NULL, "something new", false},
        {"localhost:8082", "https://sje.example", NULL, true}, /* a proxy calls us so */
        {"localhost:8082", "https://sje.example:3000", NULL, false},
        {"localhost:8082", "https://proxy.example:8443", NULL, true},
        {"sje.example", "https://sje.example", "same-origin", true},
    };

    (void)state;
    check("apiConfig: {hosts: [sje.example, 'proxy.example:8443']}", rows, ARRAY_LEN(rows));
}

/* A worker knows a manager by any name; a page says where it comes from. */
static void test_beats(void **state)
{
    struct door_head h = {"any.example", NULL, NULL, true};
    struct config *c = NULL;
    struct err e = {0};

    (void)state;
    assert_int_equal(config_load_text("test", "", 0, &c, &e), 0);
    assert_int_equal(door_check(c, "node7", &h, &e), 0);
    h.origin = "http://any.example"; /* rebinding */
    assert_int_equal(door_check(c, "node7", &h, &e), ERR_FORBIDDEN);
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_names_where_all_reach_it),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_beats),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
