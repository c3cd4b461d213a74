/* What a client sees of a task. */
#include "api/view.h"

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

static json_t *view_of(const char *spec)
{
    struct task t = {.id = id_new(),
                     .state = TASK_READY,
                     .attempt = 1,
                     .max_attempts = 1,
                     .spec = xstrdup(spec),
                     .started_at = INT64_MIN,
                     .finished_at = INT64_MIN};
    struct buf b CLEANUP(buf_free) = {0};
    json_t *j = NULL;

    buf_init(&b, 1 << 20);
    view_task(&b, &t, NULL);
    assert_int_equal(json_read(b.data, b.len, &j, NULL), 0);
    task_done(&t);
    return j;
}

static void check_spec(const char *spec, const char *expected)
{
    json_auto_t *view = view_of(spec);
    char *text CLEANUP(freep) = json_text(json_object_get(view, "spec"));

    assert_string_equal(text, expected);
}

static void test_secrets_are_masked(void **state)
{
    (void)state;
    check_spec(
        "{\"conf\":{\"spark.ssl.keyPassword\":\"a\",\"spark.hadoop.fs.s3a.secret.key\":\"b\","
        "\"spark.hadoop.fs.s3a.access.key\":\"c\",\"spark.executor.memory\":\"2g\"}}",
        "{\"conf\":{\"spark.ssl.keyPassword\":\"***\",\"spark.hadoop.fs.s3a.secret.key\":\"***\","
        "\"spark.hadoop.fs.s3a.access.key\":\"***\",\"spark.executor.memory\":\"2g\"}}");
    check_spec(
        "{\"env\":{\"AWS_SECRET_ACCESS_KEY\":\"a\",\"GITHUB_TOKEN\":\"b\",\"HOME\":\"/x\"}}",
        "{\"env\":{\"AWS_SECRET_ACCESS_KEY\":\"***\",\"GITHUB_TOKEN\":\"***\",\"HOME\":\"/x\"}}");
}

static void test_the_rest_is_as_submitted(void **state)
{
    (void)state;
    check_spec(
        "{\"parameters\":{\"token\":1},\"labels\":{\"secret\":\"no\"},\"args\":[\"password\"]}",
        "{\"parameters\":{\"token\":1},\"labels\":{\"secret\":\"no\"},\"args\":[\"password\"]}");
    check_spec("{\"labels\":{\"secret\":\"no\"},\"args\":[\"ftp://u:p@h\"]}",
               "{\"labels\":{\"secret\":\"no\"},\"args\":[\"ftp://u:***@h\"]}");
    check_spec("{\"conf\":{\"spark.executor.memory\":\"2g\"},\"env\":{}}",
               "{\"conf\":{\"spark.executor.memory\":\"2g\"},\"env\":{}}");
    json_auto_t *view = view_of("{\"labels\":{\"secret\":\"no\"}}");
    assert_string_equal(json_get_string(json_object_get(view, "labels"), "secret"), "no");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secrets_are_masked),
        cmocka_unit_test(test_the_rest_is_as_submitted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
