/* What a client may submit: each rule with the field it names. */
#include "pkg/task/task.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const char *const names[] = {"SparkApp", "Command", "Noop", "Report", NULL};
static const struct task_types types = {names};

static struct task_spec *parse(const char *text, struct task_problems *p)
{
    json_t *j = NULL;
    struct err e = {0};

    *p = (struct task_problems){0};
    if (json_read(text, strlen(text), &j, &e) < 0) {
        fail_msg("%s: %s", text, e.text);
    }
    struct task_spec *s = task_spec_parse(j, &types, "", p);
    json_decref(j);
    return s;
}

static void refuse(const char *text, const char *field, const char *part)
{
    struct task_problems p;
    struct task_spec *s = parse(text, &p);

    if (s || p.count == 0 || strcmp(p.list[0].field, field) != 0 ||
        !strstr(p.list[0].message, part)) {
        fail_msg("%s: %s %s: %s", text, s ? "accepted" : "refused", p.count ? p.list[0].field : "",
                 p.count ? p.list[0].message : "");
    }
}

static void test_defaults(void **state)
{
    struct task_problems p;
    struct task_spec *s = parse("{\"jobType\":\" noop \"}", &p);

    (void)state;
    assert_non_null(s);
    assert_string_equal(s->job_type, "Noop");
    assert_string_equal(json_get_string(s->json, "jobType"), "Noop");
    assert_int_equal(s->priority, 5);
    assert_int_equal(s->max_attempts, 1);
    assert_int_equal(s->slots, 1);
    assert_string_equal(s->pool, "default");
    assert_null(s->job_id);
    struct task t;
    task_from_spec(&t, s, 1000);
    assert_int_equal(t.state, TASK_READY);
    assert_int_equal(t.rank, 1000 - 5 * TASK_AGEING_MS);
    assert_true(t.queue_deadline == INT64_MIN);
    task_done(&t);
    task_spec_free(s);
}

static void test_everything(void **state)
{
    struct task_problems p;
    struct task_spec *s = parse(
        "{\"jobType\":\"sparkapp\",\"jobId\":\"abc\",\"sparkAppPath\":\"/a/"
        "b.jar\",\"mainClass\":\"x.Y\","
        "\"parameters\":{\"z\":1,\"a\":{\"b\":[1]}},\"args\":[\"q\"],\"dependencies\":[\"l.jar\"],"
        "\"conf\":{\"spark.executor.instances\":2,\"spark.x\":true,\"spark.y\":\"s\"},\"priority\":"
        "9.0,"
        "\"maxAttempts\":3,\"retryBackoffSeconds\":0,\"timeoutSeconds\":3600,"
        "\"queueTimeoutSeconds\":60,"
        "\"delaySeconds\":0.5,\"leaseSeconds\":60,\"resources\":{\"slots\":2,\"cpus\":1.5,"
        "\"memoryMb\":1024},"
        "\"pool\":\"gpu-1\",\"labels\":{\"team\":\"risk\"},\"env\":{\"A\":\"1\"},\"master\":"
        "\"local[2]\"}",
        &p);

    (void)state;
    assert_non_null(s);
    assert_int_equal(s->priority, 9);
    assert_int_equal(s->delay_ms, 500);
    assert_int_equal(s->slots, 2);
    assert_string_equal(json_get_string(s->conf, "spark.executor.instances"), "2");
    assert_string_equal(json_get_string(s->conf, "spark.x"), "true");
    struct task t;
    task_from_spec(&t, s, 1000);
    assert_int_equal(t.state, TASK_SCHEDULED);
    assert_int_equal(t.run_after, 1500);
    assert_int_equal(t.queue_deadline, 61500);
    /* The order of parameters is the client's. */
    assert_non_null(strstr(t.spec, "\"parameters\":{\"z\":1,\"a\":{\"b\":[1]}}"));
    task_done(&t);
    task_spec_free(s);
}

static void test_little_is_not_nothing(void **state)
{
    static const struct {
        const char *text;
        int milli;
    } rows[] = {{"0", 0}, {"0.0001", 1}, {"0.0014", 1}, {"0.1", 100}, {"1.5", 1500}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *json CLEANUP(freep) =
            xasprintf("{\"jobType\":\"Noop\",\"resources\":{\"cpus\":%s}}", rows[i].text);
        struct task_problems p;
        struct task_spec *s = parse(json, &p);
        struct task t;

        assert_non_null(s);
        task_from_spec(&t, s, 1000);
        assert_int_equal(t.cpus_milli, rows[i].milli);
        task_done(&t);
        task_spec_free(s);
    }
}

static void test_null_is_absent(void **state)
{
    struct task_problems p;
    struct task_spec *s = parse(
        "{\"jobType\":\"Noop\",\"jobId\":null,\"priority\":null,\"labels\":{\"a\":null,\"b\":\"c\"}"
        ","
        "\"resources\":{\"slots\":null,\"cpus\":2},\"command\":null,\"parameters\":{\"p\":null}}",
        &p);

    (void)state;
    assert_non_null(s);
    char *text CLEANUP(freep) = json_text(s->json);
    assert_string_equal(text, "{\"jobType\":\"Noop\",\"labels\":{\"b\":\"c\"},"
                              "\"resources\":{\"cpus\":2},\"parameters\":{\"p\":null}}");
    task_spec_free(s);
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("{}", "jobType", "SparkApp, Command, Noop");
    refuse("[]", "", "must be an object");
    refuse("{\"jobType\":7}", "jobType", "must be a string");
    refuse("{\"jobType\":\"Sprak\"}", "jobType", "not known");
    refuse("{\"jobType\":\"Noop\",\"prioritty\":5}", "prioritty", "not a known field");
    refuse("{\"jobType\":\"Noop\",\"command\":[\"x\"]}", "command", "not a field of a Noop");
    refuse("{\"jobType\":\"Noop\",\"priority\":10}", "priority", "0 to 9");
    refuse("{\"jobType\":\"Noop\",\"priority\":-1}", "priority", "0 to 9");
    refuse("{\"jobType\":\"Noop\",\"priority\":5.5}", "priority", "integer");
    refuse("{\"jobType\":\"Noop\",\"priority\":\"5\"}", "priority", "an integer");
    refuse("{\"jobType\":\"Noop\",\"priority\":1e300}", "priority", "integer");
    refuse("{\"jobType\":\"Noop\",\"maxAttempts\":0}", "maxAttempts", "1 to 100");
    refuse("{\"jobType\":\"Noop\",\"delaySeconds\":-0.1}", "delaySeconds",
           "number from 0 to 31536000");
    refuse("{\"jobType\":\"Noop\",\"resources\":{\"slots\":0}}", "resources.slots", "1 to");
    refuse("{\"jobType\":\"Noop\",\"resources\":{\"gpus\":1}}", "resources.gpus", "not known");
    refuse("{\"jobType\":\"Noop\",\"resources\":[]}", "resources", "an object");
    refuse("{\"jobType\":\"Noop\",\"pool\":\"A b\"}", "pool", "lower-case");
    refuse("{\"jobType\":\"Noop\",\"pool\":\"-x\"}", "pool", "not first");
    refuse("{\"jobType\":\"Noop\",\"pool\":\"\"}", "pool", "must not be empty");
    refuse("{\"jobType\":null}", "jobType", "is required");
    refuse("{\"jobType\":\"Noop\",\"args\":[null]}", "args[0]", "a string");
    refuse("{\"jobType\":\"Noop\",\"nothing\":null}", "nothing", "not a known field");
    refuse("{\"jobType\":\"Noop\",\"labels\":{\"a\":{}}}", "labels.a", "a string");
    refuse("{\"jobType\":\"SparkApp\"}", "sparkAppPath", "required");
    refuse("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"a.sh\"}", "sparkAppPath", ".jar or .py");
    refuse("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"--kill.py\"}", "sparkAppPath",
           "begin with '-'");
    refuse("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"a.py\",\"mainClass\":\"X\"}", "mainClass",
           "with a .jar");
    refuse("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"a.py\",\"args\":[1]}", "args[0]",
           "a string");
    refuse("{\"jobType\":\"Command\"}", "command", "required");
    refuse("{\"jobType\":\"Command\",\"command\":[]}", "command", "must not be empty");
    refuse("{\"jobType\":\"Command\",\"command\":\"ls\"}", "command", "array of strings");
    refuse("{\"jobType\":\"Command\",\"command\":[\"\"]}", "command[0]", "must not be empty");
    refuse("{\"jobType\":\"Command\",\"command\":[\"x\"],\"env\":{\"A=B\":\"1\"}}", "env.A=B",
           "'='");
    refuse("{\"jobType\":\"Command\",\"command\":[\"x\"],\"env\":{\"SJE_TOKEN\":\"1\"}}",
           "env.SJE_TOKEN", "SJE_");
    refuse("{\"jobType\":\"SparkApp\",\"sparkAppPath\":\"a.py\",\"env\":{\"SJE_X\":\"1\"}}",
           "env.SJE_X", "SJE_");
}

/* Rules that came later do not fail a task that was accepted before. */
static void test_accepted_before(void **state)
{
    struct task_problems p = {0};
    json_t *j = json_pack("{s:s, s:[s], s:{s:s}}", "jobType", "Command", "command", "x", "env",
                          "SJE_TOKEN", "1");

    (void)state;
    struct task_spec *s = task_spec_parse_accepted(j, &types, &p);
    assert_non_null(s);
    task_spec_free(s);
    json_decref(j);
}

static void test_long_id(void **state)
{
    char text[1200];
    char id[2 * 256 + 1] = "";
    struct task_problems p;

    (void)state;
    for (int i = 0; i < 256; i++) {
        memcpy(id + 2 * (size_t)i, "\xc3\xa4", 2);
    }
    snprintf(text, sizeof(text), "{\"jobType\":\"Noop\",\"jobId\":\"%s\"}", id);
    struct task_spec *s = parse(text, &p);
    assert_non_null(s); /* characters are counted, not bytes */
    task_spec_free(s);
    snprintf(text, sizeof(text), "{\"jobType\":\"Noop\",\"jobId\":\"%sx\"}", id);
    refuse(text, "jobId", "257 characters");
}

static void test_all_problems_are_told_and_bounded(void **state)
{
    struct task_problems p = {0};
    json_t *j = json_object();

    (void)state;
    for (int i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof(name), "f%d", i);
        json_object_set_new(j, name, json_null());
    }
    assert_null(task_spec_parse(j, &types, "tasks[7].", &p));
    assert_int_equal(p.count, TASK_PROBLEMS_MAX);
    assert_string_equal(p.list[0].field, "tasks[7].jobType");
    json_decref(j);
    p = (struct task_problems){0};
    j = json_integer(3);
    assert_null(task_spec_parse(j, &types, "tasks[7].", &p));
    assert_string_equal(p.list[0].field, "tasks[7]");
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_little_is_not_nothing),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_accepted_before),
        cmocka_unit_test(test_long_id),
        cmocka_unit_test(test_all_problems_are_told_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
