/* The elements of an array, whatever the text is, and however small the steps are. */
#include "internal/json.h"
#include "internal/json_list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The elements, each behind a '|', and the rest. */
static void check(const char *text, const char *expected)
{
    for (size_t budget = 1; budget < 100; budget += 7) {
        struct json_list l;
        struct buf found CLEANUP(buf_free) = {0};
        struct str element;
        bool more = true;

        buf_init(&found, 10000);
        json_list_init(&l, str_of(text), "tasks", 1000);
        for (int turn = 0; turn < 2 && l.begin; turn++) {
            json_list_rewind(&l);
            buf_reset(&found);
            more = true;
            while (more) {
                if (json_list_next(&l, budget, &element, &more)) {
                    buf_addc(&found, '|');
                    buf_add(&found, element.p, element.len);
                    more = true;
                }
            }
            buf_addc(&found, '|');
            if (json_list_rest(&l, &found) < 0) {
                buf_adds(&found, "no end");
            }
        }
        assert_string_equal(l.begin ? found.data : "none", expected);
    }
}

static void test_elements(void **state)
{
    (void)state;
    check("[]", "|[]");
    check(" [ \n]\t", "| []\t");
    check("[1]", "|1|[]");
    check("[{\"a\":[1,2]} , \"x,]\" ,[[],{}]]", "|{\"a\":[1,2]}|\"x,]\"|[[],{}]|[]");
    check("[\"\\\"]\",\"\\\\\"]", "|\"\\\"]\"|\"\\\\\"|[]");
    check("[1,]", "|1||[]");
    check("[,]", "|||[]");
    check("[1] x", "|1|[] x");
}

static void test_members(void **state)
{
    (void)state;
    check("{\"tasks\":[1,2]}", "|1|2|{\"tasks\":[]}");
    check("{ \"a\":{\"tasks\":[9]}, \"tasks\" : [ 1 ] , \"b\":2}",
          "|1|{ \"a\":{\"tasks\":[9]}, \"tasks\" : [] , \"b\":2}");
    check("{\"tasks\":3}", "none");
    check("{\"tasks\":{\"tasks\":[1]}}", "none");
    check("{\"task\":[1]}", "none");
    check("{\"x\":\"tasks\",\"y\":[1]}", "none");
    check("{\"x\":\"\\\"tasks\\\":[1]\"}", "none");
}

static void test_broken(void **state)
{
    (void)state;
    check("", "none");
    check("   ", "none");
    check("1", "none");
    check("\"[1]\"", "none");
    check("[", "|no end");
    check("[1", "|no end");
    check("[1,2", "|1|no end");
    check("[\"1,2]", "|no end");
    check("[\"\\", "|no end");
    check("[{]", "|no end");
    check("[1}]", "|1}|[]");
    check("{\"tasks", "none");
    check("{\"tasks\":[", "|no end");
}

/* Where all elements and the rest are JSON, the text is; and the other way round. */
static void test_it_is_json_as_a_whole(void **state)
{
    static const char letters[] = "[]{},:\"\\ 1a";
    uint32_t seed = 7;

    (void)state;
    for (int i = 0; i < 300000; i++) {
        char text[16] = "[";
        size_t n = 1 + i % 12;
        struct json_list l;
        struct buf rest CLEANUP(buf_free) = {0};
        struct str element;
        bool more = true;
        bool good = true;

        for (size_t k = 1; k <= n; k++) {
            seed = seed * 1664525U + 1013904223U;
            text[k] = letters[(seed >> 16) % (sizeof(letters) - 1)];
        }
        json_auto_t *whole = NULL;
        bool is_json = json_read(text, strlen(text), &whole, NULL) == 0;
        buf_init(&rest, 100);
        json_list_init(&l, str_of(text), "tasks", 1000);
        while (json_list_next(&l, 1000, &element, &more)) {
            json_auto_t *j = NULL;

            good = json_read(element.p, element.len, &j, NULL) == 0 && good;
        }
        json_auto_t *j = NULL;
        good =
            good && json_list_rest(&l, &rest) == 0 && json_read(rest.data, rest.len, &j, NULL) == 0;
        if (good != is_json) {
            fail_msg("%s: %d", text, good);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_it_is_json_as_a_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
