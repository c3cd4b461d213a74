/* The worker over a real broker with the real shim; this file plays the manager. */
#include "tests/integration/worker_bench.h"

#include <sys/mount.h>

static void test_a_command_runs_and_is_reported(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    int i = submit(COMMAND("echo hello; echo oops >&2; echo '{\\\"n\\\":7}' > $SJE_OUTPUT"));
    expect_outcome(i, "succeeded");
    const json_t *r = b.tasks[i].result;
    assert_int_equal(json_get_int(json_object_get(r, "output"), "n", 0), 7);
    assert_true(json_get_int(r, "startedAtMs", 0) > 0);
    assert_true(json_get_int(r, "finishedAtMs", 0) >= json_get_int(r, "startedAtMs", 0));
    AWAIT(has_file(i, "done"));
    assert_int_equal(b.tasks[i].claims, 1);
    ask_log(i, "stdout", 0, 0);
    AWAIT(b.logs);
    assert_string_equal(b.bytes.data, "hello\n");
    assert_true(json_get_bool(b.log, "ended", false));
    assert_int_equal(json_get_int(b.log, "size", 0), 6);
    ask_log(i, "stderr", -3, 0);
    AWAIT(b.logs);
    assert_string_equal(b.bytes.data, "ps\n");
    assert_int_equal(json_get_int(b.log, "offset", 0), 2);
    stop_worker(false);
    assert_true(b.stopping);
    bench_close();
}

static bool offers(const char *type)
{
    const json_t *list = json_object_get(b.beat, "jobTypes");

    for (size_t i = 0; i < json_array_size(list); i++) {
        if (streq(type, json_string_value(json_array_get(list, i)))) {
            return true;
        }
    }
    return false;
}

/* Why no task at all is taken; NULL: it is not so. */
static const char *held_off(void)
{
    const json_t *list = json_object_get(b.beat, "holdOff");

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);

        if (json_is_null(json_object_get(one, "type"))) {
            return json_get_string(one, "reason");
        }
    }
    return NULL;
}

static void test_beats_tell_what_runs(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(3);
    assert_int_equal(json_get_int(b.beat, "slots", 0), 3);
    assert_string_equal(json_string_value(json_array_get(json_object_get(b.beat, "pools"), 0)),
                        b.pool);
    assert_true(offers("Command") && offers("Noop") && !offers("Nonsense"));
    assert_true(json_get_int(b.beat, "cpus", 0) > 0 && json_get_int(b.beat, "memoryMb", 0) > 0);
    int i = submit(SLEEPER);
    AWAIT(is_running(i));
    assert_int_equal(json_get_int(b.beat, "free", -1), 2);
    send_tasks("cancel", i);
    expect_outcome(i, "cancelled");
    AWAIT(!b.tasks[i].seen);
    assert_int_equal(json_get_int(b.beat, "free", -1), 3);
    assert_int_equal(b.tasks[i].results, 1);
    stop_worker(false);
    bench_close();
}

static void test_thousand_noops(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(256);
    uint64_t start = uv_hrtime();
    for (int i = 0; i < 1000; i++) {
        submit(NOOP);
    }
    AWAIT(b.n_results == 1000);
    print_message("1000 Noop tasks: %llu ms, %d claim messages\n",
                  (unsigned long long)(uv_hrtime() - start) / 1000000, b.claims);
    for (int i = 0; i < 1000; i++) {
        assert_string_equal(outcome(i), "succeeded");
        assert_int_equal(b.tasks[i].claims, 1);
        assert_false(has_file(i, "."));
    }
    assert_true(b.claims < 500); /* they were gathered */
    stop_worker(false);
    bench_close();
}

/* An earlier test may have left a shim to "the next process", which is this one too. */
static int count_children(void)
{
    char path[64];
    int n = 0;

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int c; (c = fgetc(f)) != EOF;) {
        n += c == ' ';
    }
    fclose(f);
    return n;
}

static void test_many_short_commands(void **unused)
{
    (void)unused;
    bench_open();
    int before = count_children();
    start_worker(16);
    for (int i = 0; i < 200; i++) {
        submit(COMMAND("true"));
    }
    AWAIT(b.n_results == 200);
    for (int i = 0; i < 200; i++) {
        assert_string_equal(outcome(i), "succeeded");
    }
    AWAIT(count_children() <= before + 1); /* the shims are reaped; one waits for a task */
    stop_worker(false);
    bench_close();
}

static void test_failures_say_why(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(8);
    int code = submit(COMMAND("echo broken >&2; exit 3"));
    int missing = submit("{\"jobType\":\"Command\",\"command\":[\"/no/such/program\"]}");
    int type = submit("{\"jobType\":\"Nonsense\"}");
    int spec = submit("{\"jobType\":\"Command\"}");
    int sig = submit(COMMAND("kill -9 $$"));
    int late =
        submit("{\"jobType\":\"Command\",\"timeoutSeconds\":1,\"command\":[\"sleep\",\"100\"]}");
    expect_outcome(code, "failed");
    assert_string_equal(error_kind(code), "exit");
    assert_string_equal(error_text(code), "broken");
    expect_outcome(missing, "failed");
    assert_string_equal(error_kind(missing), "launch");
    assert_non_null(strstr(error_text(missing), "/no/such/program"));
    expect_outcome(type, "returned"); /* it is no fault of the task's that it came here */
    assert_string_equal(error_kind(type), "node");
    expect_outcome(spec, "failed");
    assert_string_equal(error_kind(spec), "launch");
    assert_non_null(strstr(error_text(spec), "command"));
    expect_outcome(sig, "failed");
    assert_string_equal(error_kind(sig), "killed");
    expect_outcome(late, "failed");
    assert_string_equal(error_kind(late), "timeout");
    stop_worker(false);
    bench_close();
}

static void test_a_denied_hint_is_acked(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(1);
    int denied = add_task(NOOP);
    b.tasks[denied].deny = "superseded";
    send_hint(denied, "normal", 1);
    int next = submit(NOOP);
    expect_outcome(next, "succeeded"); /* its slot was free again */
    assert_int_equal(b.tasks[denied].results, 0);
    stop_worker(false);
    start_worker(1); /* nothing is delivered again */
    int last = submit(NOOP);
    expect_outcome(last, "succeeded");
    assert_int_equal(b.tasks[denied].claims, 1);
    stop_worker(false);
    bench_close();
}

/* The manager that fed a task is asked for it; all of them are where that one is gone, is silent or
 * is not known. */
static void test_who_is_asked(void **unused)
{
    char silent[96];

    (void)unused;
    bench_open();
    snprintf(silent, sizeof(silent), "%s.silent", b.queue);
    assert_int_equal(mq_declare_queue(b.mq, silent, MQ_EXCLUSIVE, NULL, NULL), 0);
    start_worker(4);
    expect_outcome(submit(NOOP), "succeeded");
    assert_int_equal(b.claims_to_all, 0);
    b.feeder = "sje.manager.gone";
    expect_outcome(submit(NOOP), "succeeded");
    assert_int_equal(b.claims_to_all, 1);
    b.feeder = "";
    expect_outcome(submit(NOOP), "succeeded");
    assert_int_equal(b.claims_to_all, 2);
    b.feeder = silent;
    expect_outcome(submit(NOOP), "succeeded");
    assert_int_equal(b.claims_to_all, 3);
    b.feeder = NULL;
    expect_outcome(submit(NOOP), "succeeded");
    assert_int_equal(b.claims_to_all, 3);
    stop_worker(false);
    bench_close();
}

static void test_slots_limit_what_runs(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    int low = add_task(SLEEPER);
    int first = submit(SLEEPER);
    int second = submit(SLEEPER);
    AWAIT(is_running(first) && is_running(second));
    int high = add_task(SLEEPER);
    send_hint(high, "high", 2);
    send_hint(low, "low", 1);
    int beats = b.beats;
    AWAIT(b.beats > beats + 1);
    assert_int_equal(b.tasks[low].claims + b.tasks[high].claims, 0);
    send_tasks("cancel", first);
    AWAIT(is_running(low)); /* its rank is the smaller one: it waits for longer */
    send_tasks("cancel", second);
    expect_outcome(second, "cancelled");
    assert_int_equal(b.tasks[high].claims, 0);
    send_tasks("cancel", low);
    AWAIT(is_running(high)); /* both slots */
    stop_worker(true);
    assert_string_equal(outcome(high), "lost");
    bench_close();
}

static void test_cancel_ends_the_whole_tree(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(1);
    int i = submit(
        COMMAND("trap '' TERM; sh -c 'trap \\\"\\\" TERM; echo $$ > pid; sleep 1000' & wait"));
    AWAIT(pid_of(i));
    pid_t pid = pid_of(i);
    AWAIT(is_running(i));
    send_tasks("cancel", i);
    expect_outcome(i, "cancelled");
    assert_string_equal(error_kind(i), "cancelled");
    assert_true(is_dead(pid));
    stop_worker(false);
    bench_close();
}

static void test_without_answers_the_lease_ends_the_task(void **unused)
{
    (void)unused;
    bench_open();
    b.lease_ms = 3000;
    start_worker(1);
    int i = submit(SLEEPER);
    AWAIT(is_running(i) && pid_of(i));
    pid_t pid = pid_of(i);
    uint64_t start = uv_hrtime();
    while (uv_hrtime() - start < 4000000000U) { /* longer than the lease: it is renewed */
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_false(is_dead(pid));
    b.unsure = i; /* answered, but not renewed */
    expect_outcome(i, "lost");
    assert_string_equal(error_kind(i), "lost");
    assert_true(is_dead(pid));
    stop_worker(false);
    bench_close();
}

static void test_a_revoked_task_is_stopped_and_forgotten(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(1);
    int i = submit(SLEEPER);
    AWAIT(is_running(i) && pid_of(i));
    pid_t pid = pid_of(i);
    b.revoke = i;
    AWAIT(is_dead(pid) && has_file(i, "done"));
    b.revoke = -1;
    AWAIT(!b.tasks[i].seen);
    int next = submit(NOOP);
    expect_outcome(next, "succeeded");
    assert_int_equal(b.tasks[i].results, 0);
    stop_worker(false);
    bench_close();
}

static void test_a_killed_shim_is_a_loss(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(1);
    /* Its parent is the shim; its child is in a session of its own and does not die with it. */
    int i = submit(COMMAND("echo $PPID > shim; setsid sh -c 'echo $$ > pid; sleep 1000' & wait"));
    AWAIT(is_running(i) && number_in(i, "work/shim") && pid_of(i));
    pid_t pid = pid_of(i);
    assert_int_equal(kill(number_in(i, "work/shim"), SIGKILL), 0);
    expect_outcome(i, "lost");
    assert_true(is_dead(pid));
    stop_worker(false);
    bench_close();
}

static void test_a_log_is_waited_for(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(1);
    int i = submit(COMMAND("echo one; while [ ! -e go ]; do sleep 0.05; done; echo two"));
    AWAIT(is_running(i));
    ask_log(i, "stdout", 0, 10000);
    AWAIT(b.logs);
    assert_string_equal(b.bytes.data, "one\n");
    assert_false(json_get_bool(b.log, "ended", true));
    ask_log(i, "stdout", 4, 10000);
    int beats = b.beats;
    AWAIT(b.beats > beats + 1);
    assert_int_equal(b.logs, 0);
    make_file(i, "work/go");
    AWAIT(b.logs);
    assert_string_equal(b.bytes.data, "two\n");
    assert_int_equal(json_get_int(b.log, "offset", 0), 4);
    ask_log(i, "stdout", 8, 10000); /* nothing more will come */
    AWAIT(b.logs);
    assert_true(json_get_bool(b.log, "ended", false));
    int unknown = add_task(NOOP);
    ask_log(unknown, "stdout", 0, 10000);
    AWAIT(b.logs);
    assert_false(json_get_bool(b.log, "found", true));
    ask_log(i, "stdout", 1000, 300); /* far behind the end */
    AWAIT(b.logs);
    assert_int_equal(b.bytes.len, 0);
    stop_worker(false);
    bench_close();
}

static void test_messages_that_are_not_understood(void **unused)
{
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "null",
                                      "{\"v\":2,\"type\":\"grants\"}",
                                      "{\"v\":1,\"type\":\"nonsense\"}",
                                      "{\"v\":1,\"type\":\"grants\",\"grants\":[{}]}",
                                      "{\"v\":1,\"type\":\"applied\",\"tasks\":7}",
                                      "{\"v\":1,\"type\":\"beat-ack\",\"beat\":99999}",
                                      "{\"v\":1,\"type\":\"log\",\"rid\":1}"};
    char queue[96];

    (void)unused;
    bench_open();
    start_worker(1);
    snprintf(queue, sizeof(queue), "sje.work.%s.high", b.pool);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        send_text(b.reply, bad[i]);
        send_text(queue, bad[i]);
    }
    int i = submit(NOOP);
    expect_outcome(i, "succeeded");
    stop_worker(false);
    bench_close();
}

static void test_results_are_resent_until_applied(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    b.keep_results = true;
    int i = submit(COMMAND("true"));
    int j = submit(NOOP);
    AWAIT(b.tasks[i].results == 1 && b.tasks[j].results == 1);
    AWAIT(streq(b.tasks[i].phase, "ended") && b.tasks[i].seen && b.tasks[j].seen);
    b.keep_results = false;
    AWAIT(b.tasks[i].results == 2 && b.tasks[j].results == 2);
    AWAIT(!b.tasks[i].seen && !b.tasks[j].seen);
    stop_worker(false);
    bench_close();
}

static void fill_disk(int fd)
{
    char block[4096] = "";

    while (write(fd, block, sizeof(block)) > 0) {
    }
}

static void test_a_full_disk(void **unused)
{
    (void)unused;
    bench_open();
    assert_int_equal(mkdir(b.dir, 0700), 0);
    if (mount("none", b.dir, "tmpfs", 0, "size=32m") != 0) {
        bench_close();
        skip(); /* only root may */
    }
    start_worker(2);
    int fine = submit(COMMAND("true"));
    expect_outcome(fine, "succeeded");
    char *path CLEANUP(freep) = xasprintf("%s/filler", b.dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    fill_disk(fd);
    int i = submit(COMMAND("true"));
    expect_outcome(i, "returned");
    assert_string_equal(error_kind(i), "node");
    assert_non_null(strstr(error_text(i), "No space left"));
    AWAIT(held_off());
    assert_non_null(strstr(held_off(), "No space left"));
    assert_int_equal(json_get_int(b.beat, "free", -1), 0);
    assert_false(offers("Noop"));
    int later = submit(NOOP);
    int beats = b.beats;
    AWAIT(b.beats > beats + 1);
    assert_int_equal(b.tasks[later].claims, 0);   /* takes no work */
    assert_int_equal(ftruncate(fd, 24 << 20), 0); /* a little is not enough */
    AWAIT(held_off() && strstr(held_off(), "less than 16 MiB"));
    close(fd);
    assert_int_equal(unlink(path), 0);
    expect_outcome(later, "succeeded"); /* it looks by itself */
    AWAIT(!held_off() && offers("Noop"));
    stop_worker(false);
    assert_int_equal(umount(b.dir), 0);
    bench_close();
}

/* No task of the queue fails for it. */
static void test_a_work_directory_that_vanishes(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    expect_outcome(submit(COMMAND("true")), "succeeded");
    char *tasks CLEANUP(freep) = xasprintf("%s/tasks", b.dir);
    char *away CLEANUP(freep) = xasprintf("%s/away", b.dir);
    assert_int_equal(rename(tasks, away), 0);
    int ids[8];
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        ids[i] = submit(COMMAND("true"));
    }
    AWAIT(held_off());
    assert_non_null(strstr(held_off(), "No such file"));
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        assert_true(!b.tasks[ids[i]].results || streq(outcome(ids[i]), "returned"));
    }
    assert_int_equal(rename(away, tasks), 0);
    for (size_t i = 0; i < ARRAY_LEN(ids);
         i++) { /* an attempt that was returned ends; the next would come */
        AWAIT(b.tasks[ids[i]].results);
        assert_true(streq(outcome(ids[i]), "returned") || streq(outcome(ids[i]), "succeeded"));
    }
    expect_outcome(submit(COMMAND("true")), "succeeded");
    AWAIT(!held_off());
    stop_worker(false);
    bench_close();
}

static void test_what_it_does_not_offer_goes_back(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    int other = add_task("{\"jobType\":\"Report\"}");
    send_hint_with(other, ",\"type\":\"Report\"");
    int wide = add_task("{\"jobType\":\"Noop\",\"resources\":{\"memoryMb\":1000000000}}");
    send_hint_with(wide, ",\"type\":\"Noop\",\"memoryMb\":1000000000");
    int fine = add_task(NOOP);
    send_hint_with(fine, ",\"type\":\"Noop\",\"cpusMilli\":1000,\"memoryMb\":1");
    expect_outcome(fine, "succeeded");
    int beats = b.beats;
    AWAIT(b.beats > beats + 2); /* it comes again and again, and is never claimed */
    assert_int_equal(b.tasks[other].claims + b.tasks[wide].claims, 0);
    int unsaid = add_task("{\"jobType\":\"Noop\",\"resources\":{\"cpus\":100000}}");
    send_hint(unsaid, "normal", 1); /* an earlier manager's */
    expect_outcome(unsaid, "returned");
    assert_string_equal(error_kind(unsaid), "node");
    stop_worker(false);
    bench_close();
}

static void test_a_directed_hint(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(1);
    int i = add_task(NOOP);
    send_hint_to(b.reply, i, 1, ",\"type\":\"Noop\"");
    expect_outcome(i, "succeeded");
    assert_int_equal(b.claims_to_all, 0);
    int other = add_task("{\"jobType\":\"Report\"}");
    send_hint_to(b.reply, other, 1, ",\"type\":\"Report\"");
    expect_outcome(submit(NOOP), "succeeded");
    assert_int_equal(b.tasks[other].claims, 0);
    stop_worker(false);
    bench_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_command_runs_and_is_reported),
        cmocka_unit_test(test_beats_tell_what_runs),
        cmocka_unit_test(test_thousand_noops),
        cmocka_unit_test(test_many_short_commands),
        cmocka_unit_test(test_failures_say_why),
        cmocka_unit_test(test_a_denied_hint_is_acked),
        cmocka_unit_test(test_who_is_asked),
        cmocka_unit_test(test_slots_limit_what_runs),
        cmocka_unit_test(test_cancel_ends_the_whole_tree),
        cmocka_unit_test(test_without_answers_the_lease_ends_the_task),
        cmocka_unit_test(test_a_revoked_task_is_stopped_and_forgotten),
        cmocka_unit_test(test_a_killed_shim_is_a_loss),
        cmocka_unit_test(test_a_log_is_waited_for),
        cmocka_unit_test(test_messages_that_are_not_understood),
        cmocka_unit_test(test_results_are_resent_until_applied),
        cmocka_unit_test(test_a_full_disk),
        cmocka_unit_test(test_a_work_directory_that_vanishes),
        cmocka_unit_test(test_what_it_does_not_offer_goes_back),
        cmocka_unit_test(test_a_directed_hint),
    };
    struct err e = {0};

    log_setup(getenv("SJE_TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT, "test");
    if (executors_init("", &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    executors_done();
    return failed;
}
