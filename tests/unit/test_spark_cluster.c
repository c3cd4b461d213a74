/* What a Spark standalone cluster says (as 4.1 says it), progress out of jobs, and how the end of
 * an application in the cluster is judged. */
#include "internal/buf.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"
#include "pkg/executors/sparkjobs.h"
#include "pkg/executors/sparkmaster.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define TASK "01a20653-3d91-7000-a6f4-a7524e16c1b7"

static json_t *parse(const char *text)
{
    struct err e = {0};
    json_t *j = NULL;

    if (json_read(text, strlen(text), &j, &e) < 0) {
        fail_msg("%s: %s", text, e.text);
    }
    return j;
}

/* ---- the master's page ---- */

static const char page[] =
    "{\"url\":\"spark://127.0.0.1:7077\",\"status\":\"ALIVE\",\"workers\":["
    "{\"id\":\"worker-1\",\"host\":\"a.example\",\"webuiaddress\":\"http://a.example:8081\","
    "\"state\":\"ALIVE\"},"
    "{\"id\":\"worker-2\",\"host\":\"b.example\",\"webuiaddress\":\"http://b.example:8081\","
    "\"state\":\"DEAD\"}],"
    "\"activeapps\":[{\"id\":\"app-1\",\"starttime\":1795401458962,\"state\":\"RUNNING\"}],"
    "\"completedapps\":[{\"id\":\"app-0\"}],"
    "\"activedrivers\":[{\"id\":\"driver-1\",\"starttime\":\"1795401454575\",\"state\":\"RUNNING\","
    "\"worker\":\"worker-1\",\"mainclass\":\"example.Steps\"},"
    "{\"id\":\"driver-2\",\"starttime\":\"7\",\"state\":\"SUBMITTED\",\"worker\":\"None\"},"
    "{\"id\":\"driver-3\",\"state\":\"RELAUNCHING\",\"worker\":\"worker-2\"}],"
    "\"completeddrivers\":[{\"id\":\"driver-0\",\"state\":\"FAILED\",\"worker\":\"worker-1\"}]}";

static void test_the_masters_page(void **state)
{
    json_auto_t *master = parse(page);
    struct spark_driver d;

    (void)state;
    assert_true(spark_master_is_active(master));
    assert_int_equal(spark_master_driver_count(master), 4);
    assert_true(spark_master_driver(master, "driver-1", &d));
    assert_int_equal(d.state, SPARK_RUNNING);
    assert_int_equal(d.started_at, 1795401454575);
    assert_string_equal(d.main_class, "example.Steps");
    assert_string_equal(d.host, "a.example");
    assert_string_equal(d.worker_ui, "http://a.example:8081");
    assert_true(spark_master_driver(master, "driver-2", &d));
    assert_int_equal(d.state, SPARK_WAITING);
    assert_null(d.worker_ui);
    assert_true(spark_master_driver(master, "driver-3", &d));
    assert_int_equal(d.state, SPARK_WAITING);
    assert_null(d.worker_ui); /* a dead worker shows nothing */
    assert_true(spark_master_driver(master, "driver-0", &d));
    assert_int_equal(d.state, SPARK_FAILED);
    assert_false(spark_master_driver(master, "driver-9", &d));
    assert_true(spark_master_has_app(master, "app-1"));
    assert_false(spark_master_has_app(master, "app-0"));
    assert_false(spark_master_has_app(master, ""));
}

/* Whatever it sends instead: nothing is read that is not there. */
static void test_pages_that_are_none(void **state)
{
    static const char *const texts[] = {
        "[]", "{}", "7", "{\"activedrivers\":7,\"workers\":{}}",
        "{\"activedrivers\":[null,7,{\"id\":7},{\"state\":\"RUNNING\"}],\"workers\":[3]}"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        json_auto_t *master = parse(texts[i]);
        struct spark_driver d;

        assert_false(spark_master_is_active(master));
        assert_false(spark_master_has_app(master, "app-1"));
        for (size_t n = 0; n < spark_master_driver_count(master); n++) {
            assert_false(spark_master_driver_at(master, n, &d));
        }
    }
    /* A state that is new to us is taken for one in which it may run. */
    json_auto_t *master = parse("{\"activedrivers\":[{\"id\":\"d\",\"state\":\"DREAMING\"}]}");
    struct spark_driver d;
    assert_true(spark_master_driver(master, "d", &d));
    assert_true(spark_state_is_live(d.state));
}

static bool tag(const char *line, int32_t *attempt, uint16_t *port)
{
    return spark_driver_tag(str_of(line), TASK, attempt, port);
}

static void test_a_driver_is_known_by_its_command_line(void **state)
{
    int32_t attempt = 0;
    uint16_t port = 0;

    (void)state;
    assert_true(tag("Launch Command: \"java\" \"-Dspark.ui.port=4321\" \"-Dspark.sje.tag=sje-" TASK
                    "-12\" \"a.B\"\n====\n",
                    &attempt, &port));
    assert_int_equal(attempt, 12);
    assert_int_equal(port, 4321);
    assert_true(tag("Launch Command: \"-Dspark.sje.tag=sje-" TASK "-1\"", &attempt, &port));
    assert_int_equal(port, 0);
    /* Another task; cut off; said by the application itself, further down. */
    assert_false(tag("Launch Command: \"-Dspark.sje.tag=sje-" TASK "x-1\"", &attempt, &port));
    assert_false(tag("Launch Command: \"-Dspark.sje.tag=sje-" TASK "-", &attempt, &port));
    assert_false(tag("Launch Command: \"-Dspark.sje.tag=sje-" TASK "-x\"", &attempt, &port));
    assert_false(tag("x\nLaunch Command: \"-Dspark.sje.tag=sje-" TASK "-1\"", &attempt, &port));
    assert_false(tag("Launch Command: \"a\"\n\"-Dspark.sje.tag=sje-" TASK "-1\"", &attempt, &port));
    assert_false(tag("", &attempt, &port));
}

static void test_ids_in_lines(void **state)
{
    char id[64] = "";
    char small[8] = "";

    (void)state;
    assert_true(spark_find_id(
        STR("INFO ClientEndpoint: Driver successfully submitted as driver-20261123023734-0000\n"),
        "submitted as ", id, sizeof(id)));
    assert_string_equal(id, "driver-20261123023734-0000");
    assert_false(spark_find_id(STR("submitted as "), "submitted as ", id, sizeof(id)));
    assert_false(spark_find_id(STR("submitted as ../x"), "as ", id, sizeof(id)));
    assert_false(spark_find_id(STR("as driver-20261123023734-0000"), "as ", small, sizeof(small)));
}

/* ---- progress ---- */

static bool jobs(struct spark_progress *p, const char *text)
{
    json_auto_t *j = parse(text);

    return spark_progress_update(p, j);
}

static void test_progress_only_grows(void **state)
{
    struct spark_progress p = {0};

    (void)state;
    assert_false(jobs(&p, "[]"));
    assert_true(jobs(&p, "[{\"numTasks\":8,\"numCompletedTasks\":2,\"stageIds\":[0,1],"
                         "\"status\":\"RUNNING\"}]"));
    assert_int_equal(p.done, 2);
    assert_int_equal(p.total, 8);
    assert_string_equal(p.text, "job 1 of 1, stage 1 of 2: 2/8 tasks");
    assert_false(jobs(&p, "[{\"numTasks\":8,\"numCompletedTasks\":2,\"stageIds\":[0,1],"
                          "\"status\":\"RUNNING\"}]"));
    /* The second job finds the first stage's result: skipped is settled, and the total stays. */
    assert_true(jobs(&p, "[{\"numTasks\":8,\"numCompletedTasks\":8,\"numCompletedStages\":2,"
                         "\"stageIds\":[0,1],\"status\":\"SUCCEEDED\"},"
                         "{\"numTasks\":12,\"numCompletedTasks\":0,\"stageIds\":[2,3],"
                         "\"status\":\"RUNNING\"}]"));
    assert_int_equal(p.total, 20);
    assert_true(jobs(&p, "[{\"numTasks\":8,\"numCompletedTasks\":8,\"numCompletedStages\":2,"
                         "\"stageIds\":[0,1],\"status\":\"SUCCEEDED\"},"
                         "{\"numTasks\":12,\"numCompletedTasks\":4,\"numSkippedTasks\":8,"
                         "\"numCompletedStages\":1,\"numSkippedStages\":1,\"stageIds\":[2,3],"
                         "\"status\":\"SUCCEEDED\"}]"));
    assert_int_equal(p.done, 20);
    assert_int_equal(p.total, 20);
    /* Spark has forgotten the first. */
    assert_false(jobs(&p, "[{\"numTasks\":12,\"numCompletedTasks\":12,\"stageIds\":[2,3]}]"));
    assert_int_equal(p.total, 20);
    /* Tasks that ran again. */
    assert_true(jobs(&p, "[{\"numTasks\":21,\"numCompletedTasks\":25,\"stageIds\":[2,3]}]"));
    assert_int_equal(p.done, 21);
}

/* ---- the end ---- */

static char dir[64];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/sje-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return shimdir_remove(dir, NULL);
}

static void judge(const char *status, const char *reason, int code, int sig, int outcome,
                  const char *kind, const char *part)
{
    struct exec_attempt a = {.dir = dir, .attempt = 2};
    struct exec_exit e = {.launched = true, .exit_code = sig ? -1 : code, .signal = sig};
    struct exec_result r = {0};

    snprintf(e.reason, sizeof(e.reason), "%s", reason);
    assert_int_equal(shimdir_write_file(dir, SPARK_STATUS_FILE, status, strlen(status), NULL), 0);
    bool judged = spark_cluster_judge(&a, &e, code == 1 ? "a cause" : NULL, &r);
    assert_int_equal(judged, outcome >= 0);
    if (judged) {
        assert_int_equal(r.outcome, outcome);
        assert_string_equal(json_get_string(r.error, "kind"), kind);
        if (!strstr(json_get_string(r.error, "message"), part)) {
            fail_msg("%s", json_get_string(r.error, "message"));
        }
    }
    exec_result_free(&r);
}

static void test_the_clusters_word_counts(void **state)
{
    (void)state;
    judge("{\"id\":\"d-1\",\"state\":\"FINISHED\"}", "exit", 0, 0, -1, NULL, NULL);
    judge("{\"id\":\"d-1\",\"state\":\"FAILED\"}", "exit", 1, 0, EXEC_FAILED, "exit", "a cause");
    judge("{\"id\":\"d-1\",\"state\":\"FAILED\"}", "exit", 0, 0, EXEC_FAILED, "exit", "d-1");
    judge("{\"id\":\"d-1\",\"state\":\"KILLED\"}", "exit", 1, 0, EXEC_FAILED, "killed", "d-1");
    judge("{\"id\":\"d-1\",\"state\":\"ERROR\"}", "exit", 1, 0, EXEC_FAILED, "launch", "a cause");
    judge("{\"id\":\"d-1\",\"state\":\"GONE\"}", "exit", 1, 0, EXEC_LOST, "lost", "d-1");
    /* Only spark-submit ran: judged as any process. */
    judge("{}", "exit", 1, 0, -1, NULL, NULL);
    judge("{}", "exit", SPARK_EXIT_UNSURE, 0, EXEC_LOST, "lost", "earlier attempts");
    /* sje-spark was killed while the driver ran: found by the next attempt. */
    judge("{\"id\":\"d-1\",\"state\":\"RUNNING\"}", "exit", 0, 9, EXEC_LOST, "lost", "d-1");
    judge("not json", "exit", 0, 9, EXEC_LOST, "lost", "next attempt");
}

/* Cancelled is what is known to be gone. */
static void test_a_stop_counts_when_it_is_confirmed(void **state)
{
    (void)state;
    judge("{\"id\":\"d-1\",\"state\":\"KILLED\",\"gone\":true}", "cancel", 143, 0, -1, NULL, NULL);
    judge("{\"id\":\"d-1\",\"state\":\"RUNNING\",\"gone\":false}", "cancel", 0, 9, EXEC_LOST,
          "lost", "d-1");
    judge("{}", "cancel", 0, 15, EXEC_LOST, "lost", "cancel");
    judge("{\"id\":\"d-1\",\"state\":\"KILLED\",\"gone\":true}", "timeout", 143, 0, -1, NULL, NULL);
    judge("{\"id\":\"d-1\",\"state\":\"RUNNING\"}", "timeout", 0, 9, EXEC_LOST, "lost", "d-1");
    judge("{\"id\":\"d-1\",\"state\":\"RUNNING\"}", "shutdown", 0, 9, -1, NULL, NULL);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_the_masters_page),
        T(test_pages_that_are_none),
        T(test_a_driver_is_known_by_its_command_line),
        T(test_ids_in_lines),
        T(test_progress_only_grows),
        T(test_the_clusters_word_counts),
        T(test_a_stop_counts_when_it_is_confirmed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
