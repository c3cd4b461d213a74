/* What becomes of tasks when their worker is stopped, killed, started again or cut off. */
#include "tests/integration/worker_bench.h"

#define PATIENT COMMAND("echo $$ > pid; echo one; while [ ! -e go ]; do sleep 0.05; done; echo two")

/* ---- a worker in a process of its own ---- */

static struct {
    uv_process_t process;
    bool ended;
} remote;

static void on_remote_end(uv_process_t *p, int64_t status, int sig)
{
    (void)status;
    (void)sig;
    remote.ended = true;
    uv_close((uv_handle_t *)p, NULL);
}

static void start_remote(int slots)
{
    char exe[4096] = "";
    char number[16];
    char *args[] = {exe, (char[]){"--worker"}, b.node, b.pool, b.dir, number, NULL};
    uv_stdio_container_t io[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_INHERIT_FD, .data.fd = 2}};
    uv_process_options_t o = {
        .file = exe, .args = args, .exit_cb = on_remote_end, .stdio = io, .stdio_count = 3};

    assert_true(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
    snprintf(number, sizeof(number), "%d", slots);
    remote.ended = false;
    b.beats = 0;
    assert_int_equal(uv_spawn(&loop, &remote.process, &o), 0);
    AWAIT(b.beats > 0);
}

static void kill_remote(int sig)
{
    assert_int_equal(uv_process_kill(&remote.process, sig), 0);
    AWAIT(remote.ended);
}

static void on_remote_stopped(void *arg)
{
    uv_stop(arg);
}

static void on_remote_term(uv_signal_t *s, int sig)
{
    (void)sig;
    worker_stop(s->data, false, on_remote_stopped, s->loop);
    uv_close((uv_handle_t *)s, NULL);
}

static int run_remote(char **argv)
{
    char *shim CLEANUP(freep) = shim_path();
    int64_t slots = 0;
    struct worker *w = NULL;
    struct err e = {0};
    uv_signal_t term;

    if (!str_to_i64(str_of(argv[5]), 1, 100, &slots)) {
        return 2;
    }
    struct config *c = make_config(argv[2], argv[3], argv[4], (int)slots);
    if (uv_loop_init(&loop) < 0 || worker_start(&loop, c, shim, &w, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    uv_signal_init(&loop, &term);
    term.data = w;
    uv_signal_start(&term, on_remote_term, SIGTERM);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_run(&loop, UV_RUN_DEFAULT);
    config_free(c);
    return uv_loop_close(&loop) == 0 ? 0 : 1;
}

/* ---- tests ---- */

static void test_a_survivor_goes_on(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    int64_t first = json_get_int(b.beat, "inc", 0);
    int i = submit(PATIENT);
    AWAIT(is_running(i) && pid_of(i));
    stop_worker(false);
    assert_true(b.stopping);
    assert_false(is_dead(pid_of(i)));
    b.tasks[i].seen = false;
    start_worker(2);
    assert_true(json_get_int(b.beat, "inc", 0) > first);
    assert_true(b.tasks[i].seen); /* in the very first beat */
    assert_int_equal(json_get_int(b.beat, "free", 0), 1);
    ask_log(i, "stdout", 0, 0);
    AWAIT(b.logs);
    assert_string_equal(b.bytes.data, "one\n");
    make_file(i, "work/go");
    expect_outcome(i, "succeeded");
    assert_string_equal(json_string_value(json_object_get(b.tasks[i].result, "output")),
                        "one\ntwo\n");
    ask_log(i, "stdout", 4, 5000);
    AWAIT(b.logs);
    assert_string_equal(b.bytes.data, "two\n");
    assert_int_equal(b.tasks[i].claims, 1);
    stop_worker(false);
    bench_close();
}

static void test_a_killed_worker_loses_nothing(void **unused)
{
    (void)unused;
    bench_open();
    start_remote(4);
    int going = submit(PATIENT);
    int ending = submit(PATIENT);
    int reported = submit(COMMAND("true"));
    expect_outcome(reported, "succeeded");
    AWAIT(is_running(going) && is_running(ending) && has_file(reported, "done"));
    kill_remote(SIGKILL);
    make_file(ending, "work/go");
    AWAIT(has_file(ending, "exit.json"));
    start_remote(4);
    expect_outcome(ending, "succeeded");
    AWAIT(is_running(going));
    make_file(going, "work/go");
    expect_outcome(going, "succeeded");
    AWAIT(has_file(going, "done") && has_file(ending, "done"));
    assert_int_equal(b.tasks[reported].results, 1); /* not once more */
    kill_remote(SIGTERM);
    assert_true(b.stopping);
    bench_close();
}

static void test_a_survivor_can_be_cancelled(void **unused)
{
    (void)unused;
    bench_open();
    start_remote(1);
    int i = submit(SLEEPER);
    AWAIT(is_running(i) && pid_of(i));
    pid_t pid = pid_of(i);
    kill_remote(SIGKILL);
    start_remote(1);
    send_tasks("cancel", i);
    expect_outcome(i, "cancelled");
    assert_true(is_dead(pid));
    kill_remote(SIGTERM);
    bench_close();
}

static void test_the_lease_binds_without_a_worker(void **unused)
{
    (void)unused;
    bench_open();
    b.lease_ms = 3000;
    start_remote(1);
    int i = submit(SLEEPER);
    AWAIT(is_running(i) && pid_of(i));
    pid_t pid = pid_of(i);
    kill_remote(SIGKILL);
    AWAIT(is_dead(pid));
    AWAIT(has_file(i, "exit.json"));
    start_remote(1);
    expect_outcome(i, "lost");
    kill_remote(SIGTERM);
    bench_close();
}

static void test_worker_and_shim_both_killed(void **unused)
{
    (void)unused;
    bench_open();
    start_remote(1);
    int i = submit(COMMAND("echo $PPID > shim; setsid sh -c 'echo $$ > pid; sleep 1000' & wait"));
    AWAIT(is_running(i) && number_in(i, "work/shim") && pid_of(i));
    pid_t pid = pid_of(i);
    kill_remote(SIGKILL);
    assert_int_equal(kill(number_in(i, "work/shim"), SIGKILL), 0);
    AWAIT(is_dead(number_in(i, "work/shim")));
    start_remote(1);
    expect_outcome(i, "lost");
    assert_string_equal(error_kind(i), "lost");
    assert_true(is_dead(pid)); /* before it was called lost */
    kill_remote(SIGTERM);
    bench_close();
}

static void test_stop_with_its_tasks(void **unused)
{
    (void)unused;
    bench_open();
    start_worker(2);
    int i = submit(SLEEPER);
    AWAIT(is_running(i) && pid_of(i));
    pid_t pid = pid_of(i);
    stop_worker(true);
    assert_true(is_dead(pid));
    expect_outcome(i, "lost");
    assert_true(b.stopping);
    bench_close();
}

static void test_two_workers_need_two_directories(void **unused)
{
    struct config *c = NULL;
    struct worker *w = NULL;
    struct err e = {0};
    char *shim CLEANUP(freep) = NULL;

    (void)unused;
    bench_open();
    shim = shim_path();
    start_worker(1);
    c = make_config("another", b.pool, b.dir, 1);
    assert_int_equal(worker_start(&loop, c, shim, &w, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "another worker"));
    assert_int_equal(worker_start(&loop, c, "/no/such/shim", &w, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "/no/such/shim"));
    config_free(c);
    stop_worker(false);
    bench_close();
}

/* All connections to our virtual host are cut off; they come back by themselves. */
static void cut_off(void)
{
    char *command CLEANUP(freep) =
        xasprintf("tools/services.sh ctl '%s' close_all_connections --vhost '%s' test >/dev/null",
                  env("SJE_SERVICES"), env("SJE_TEST_AMQP_VHOST"));
    char *args[] = {(char[]){"sh"}, (char[]){"-c"}, command, NULL};
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        execv("/bin/sh", args);
        _exit(127);
    }
    while (waitpid(child, &status, WNOHANG) == 0) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(status, 0);
}

static void test_connections_come_back(void **unused)
{
    (void)unused;
    if (!getenv("SJE_SERVICES")) {
        skip();
    }
    bench_open();
    start_worker(4);
    int running = submit(PATIENT);
    AWAIT(is_running(running));
    b.keep_results = true;
    int ended = submit(COMMAND("true"));
    expect_outcome(ended, "succeeded");
    cut_off();
    AWAIT(b.up && b.tasks[ended].results >= 2); /* sent again at once */
    b.keep_results = false;
    AWAIT(has_file(ended, "done"));
    int later = submit(COMMAND("echo later"));
    expect_outcome(later, "succeeded");
    make_file(running, "work/go");
    expect_outcome(running, "succeeded");
    stop_worker(false);
    bench_close();
}

/* As when the broker has not yet noticed that our last connection is dead. */
static void test_our_queue_is_taken(void **unused)
{
    (void)unused;
    bench_open();
    static const char identity[] = "f81d4fae-7dec-41d0-a765-00a0c93f2a9c\n1999999999999\n";
    char *taken CLEANUP(freep) = xasprintf("sje.worker.%s.3f2a9c.2000000000000", b.node);
    char *path CLEANUP(freep) = xasprintf("%s/identity", b.dir);
    assert_int_equal(mkdir(b.dir, 0700), 0);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, identity, strlen(identity)), strlen(identity));
    close(fd);
    b.up = false;
    assert_int_equal(mq_declare_queue(b.mq, taken, MQ_EXCLUSIVE, on_bench_ready, NULL), 0);
    AWAIT(b.up);
    start_worker(1);
    int i = submit(COMMAND("true"));
    expect_outcome(i, "succeeded");
    assert_string_not_equal(b.reply, taken);
    assert_memory_equal(b.reply, taken, strlen(taken));
    stop_worker(false);
    bench_close();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_survivor_goes_on),
        cmocka_unit_test(test_a_killed_worker_loses_nothing),
        cmocka_unit_test(test_a_survivor_can_be_cancelled),
        cmocka_unit_test(test_the_lease_binds_without_a_worker),
        cmocka_unit_test(test_worker_and_shim_both_killed),
        cmocka_unit_test(test_stop_with_its_tasks),
        cmocka_unit_test(test_two_workers_need_two_directories),
        cmocka_unit_test(test_connections_come_back),
        cmocka_unit_test(test_our_queue_is_taken),
    };
    struct err e = {0};

    log_setup(getenv("SJE_TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT, "test");
    if (executors_init("", &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int rc = argc == 6 ? run_remote(argv) : cmocka_run_group_tests(tests, NULL, NULL);
    executors_done();
    return rc;
}
