/* What a worker makes of directories and shims that another version left behind. tests/data/shim/vN
 * is a directory as version N of the shim's protocol leaves it; the live shims are played here,
 * byte for byte. And how it keeps a real shim ready for the next task.
 */
#include "pkg/worker/run_priv.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/strays.h"
#include "pkg/worker/look.h"
#include "tests/unit/fewfds.h"
#include "tests/unit/norights.h"
#include "tests/unit/realgroup.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define FIXTURE "tests/data/shim/v1"
#define TASK    "0190b5a4-0000-7000-8000-000000000001"
#define MANY    40
#define NEWER   "{\"v\":2,\"what\":\"nobody knows yet\"}\n"

/* No process can have these numbers. */
#define NOBODY_THERE "hello 1 2147483001 2147483002\n"
#define REFUSED                                                                                    \
    "{\"v\":1,\"launched\":false,\"exitCode\":-1,\"signal\":0,\"reason\":\"launch\",\"oom\":"      \
    "false,"                                                                                       \
    "\"startedAtMs\":1,\"finishedAtMs\":2,\"stdoutBytes\":0,\"stderrBytes\":0,\"droppedBytes\":0," \
    "\"maxRssKb\":0,\"cpuMs\":0,\"stage\":\"plan\",\"errno\":0,\"message\":\"no plan\"}\n"

static uv_loop_t loop;
static char tasks_dir[64];
static char *dir; /* of the attempt */
static struct task_types types;
static struct exec_node node = {
    .spark_home = "", .python = "", .plugin_dir = "", .log_limit = 65536, .kill_grace_ms = 1000};
static struct run_context context;
static struct wcore_attempt attempt;
static struct run *run;
static struct run_found found;
static bool found_ended;
static struct wcore_fault fault; /* of the last start */
static int n_started;
static int n_ended;
static int n_freed;
static int n_made; /* runs: so many are to be freed */
static int listener = -1;
static int shim = -1; /* our end of the control connection */

static void on_started(void *arg, struct wcore_attempt *a)
{
    (void)arg;
    assert_ptr_equal(a, &attempt);
    n_started++;
}

static void on_ended(void *arg, struct wcore_attempt *a)
{
    (void)arg;
    assert_ptr_equal(a, &attempt);
    n_ended++;
}

static void on_news(void *arg, bool application)
{
    (void)arg;
    (void)application;
}

static void on_freed(void *arg)
{
    (void)arg;
    n_freed++;
}

static void put(const char *name, const char *text)
{
    assert_int_equal(shimdir_write_file(dir, name, text, strlen(text), NULL), 0);
}

static void take_fixture(const char *name)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, 65536);
    assert_int_equal(shimdir_read_file(FIXTURE, name, &b, NULL), 0);
    assert_int_equal(shimdir_write_file(dir, name, b.data, b.len, NULL), 0);
}

static int setup(void **state)
{
    struct id id;

    (void)state;
    snprintf(tasks_dir, sizeof(tasks_dir), "/tmp/sje-run.XXXXXX");
    assert_non_null(mkdtemp(tasks_dir));
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(executors_init("", NULL), 0);
    types.names = executor_names();
    assert_true(id_parse(TASK, strlen(TASK), &id));
    attempt = (struct wcore_attempt){.key = {.task = id, .attempt = 1}};
    dir = shimdir_path(tasks_dir, &id, 1);
    assert_int_equal(shimdir_create(dir, NULL), 0);
    take_fixture("plan");
    take_fixture("grant.json");
    take_fixture("stdout.00000000000000000000");
    take_fixture("stderr.00000000000000000000");
    context = (struct run_context){.loop = &loop,
                                   .node = &node,
                                   .types = &types,
                                   .tasks_dir = tasks_dir,
                                   .on_started = on_started,
                                   .on_ended = on_ended,
                                   .on_news = on_news,
                                   .on_freed = on_freed};
    list_init(&context.runs);
    lane_init(&context.disk, &loop);
    lane_init(&context.proc, &loop);
    n_started = n_ended = n_freed = 0;
    n_made = 1;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    run_release_all(&context);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_freed, n_made);
    assert_int_equal(uv_loop_close(&loop), 0);
    executors_done();
    if (shim >= 0) {
        close(shim);
    }
    if (listener >= 0) {
        close(listener);
    }
    shim = listener = -1;
    free(dir);
    assert_int_equal(shimdir_remove(tasks_dir, NULL), 0);
    return 0;
}

static void adopt(void)
{
    assert_int_equal(run_find(&context, &attempt.key, &found, &run, NULL), 0);
    assert_non_null(run);
    found_ended = run_adopt(run);
    run_attach(run, &attempt);
}

/* ---- a live shim ---- */

static void listen_as_shim(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof(a.sun_path), "%s/sock", dir);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(listener, 4), 0);
}

static void say(const char *line)
{
    assert_int_equal(send(shim, line, strlen(line), MSG_NOSIGNAL), (ssize_t)strlen(line));
}

static void leave(void)
{
    char *path CLEANUP(freep) = xasprintf("%s/sock", dir);

    unlink(path);
    close(listener);
    close(shim);
    shim = listener = -1;
}

static void adopt_live(const char *hello)
{
    listen_as_shim();
    adopt();
    assert_false(found_ended);
    shim = accept(listener, NULL, NULL);
    assert_true(shim >= 0);
    say(hello);
}

/* What the worker has said since; the loop has turned. */
static const char *hear(void)
{
    static char text[512];
    ssize_t n = 0;

    for (int i = 0; i < 20; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    n = recv(shim, text, sizeof(text) - 1, MSG_DONTWAIT);
    text[MAX(n, (ssize_t)0)] = '\0';
    return text;
}

static void await(const int *count)
{
    while (!*count) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(*count, 1);
}

/* ---- tests ---- */

static void test_an_ended_attempt_of_version_1(void **state)
{
    struct buf b CLEANUP(buf_free) = {0};
    int64_t offset = 0;
    int64_t size = 0;

    (void)state;
    take_fixture("exit.json");
    adopt();
    assert_true(found_ended && found.token == 8123456789 && found.need.slots == 2);
    assert_int_equal(found.lease_ms, 30000);
    assert_string_equal(run_outcome(run), "succeeded");
    assert_non_null(strstr(run_result(run), "\"output\":\"hello\\n\""));
    assert_non_null(strstr(run_result(run), "\"startedAtMs\":1700000000000"));
    buf_init(&b, 100);
    assert_int_equal(shim_log_read(dir, "stderr", 1, 100, &b, &offset, &size, NULL), 0);
    assert_true(offset == 1 && size == 5);
    assert_string_equal(b.data, "ops\n");
    assert_int_equal(n_ended, 0); /* adoption itself says so */
}

static int find(struct err *reterr)
{
    return run_find(&context, &attempt.key, &found, &run, reterr);
}

/* What cannot be told may run. */
static void test_a_grant_that_cannot_be_read(void **state)
{
    char *path CLEANUP(freep) = xasprintf("%s/" RUN_GRANT_FILE, dir);
    struct few_fds few;
    struct err e = {0};

    (void)state;
    n_made = 1;
    few_fds_begin(&few, 0);
    int rc = find(&e);
    few_fds_end(&few);
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(e.text, path));
    assert_false(run_is_done(tasks_dir, &attempt.key.task, 1));
}

/* The task can do that to its own, so it does not keep the worker from starting, once it is dead.
 */
static void test_a_grant_that_is_spoilt(void **state)
{
    char *path CLEANUP(freep) = xasprintf("%s/" RUN_GRANT_FILE, dir);
    char *mark CLEANUP(freep) = xasprintf("%s/" RUN_DONE_FILE, dir);
    char *sock CLEANUP(freep) = xasprintf("%s/sock", dir);

    (void)state;
    n_made = 12;
    for (int way = 0; way < 4; way++) {
        assert_int_equal(unlink(path), 0);
        if (way == 0) {
            assert_int_equal(symlink(path, path), 0);
        } else if (way == 1) {
            put(RUN_GRANT_FILE, "{}");
        } else if (way == 2) { /* it would be over long ago, or never */
            put(RUN_GRANT_FILE, "{\"v\":1,\"token\":\"8\",\"leaseMs\":9223372036854775807,"
                                "\"slots\":1,\"spec\":{\"jobType\":\"Noop\"}}");
        }
        listen_as_shim();
        assert_int_equal(find(NULL), ERR_BUSY);
        context.is_new = true; /* nobody takes its silence for the end of that */
        assert_int_equal(find(NULL), 0);
        assert_null(run);
        context.is_new = false;
        assert_false(run_is_done(tasks_dir, &attempt.key.task, 1));
        leave();
        assert_int_equal(find(NULL), 0);
        assert_null(run);
        assert_true(run_is_done(tasks_dir, &attempt.key.task, 1));
        assert_int_equal(unlink(mark), 0);
        assert_int_equal(unlink(sock), 0);
    }
}

static void test_a_live_shim_of_version_1(void **state)
{
    (void)state;
    adopt_live("hello 1 4711 4712\n");
    await(&n_started);
    run_lease(run, 123456);
    run_stop(run, WCORE_STOP_LEASE, 0); /* it knows that by itself */
    run_stop(run, WCORE_STOP_CANCEL, 2000);
    assert_string_equal(hear(), "lease 123456\nstop cancel 2000\n");
    run_stop(run, WCORE_STOP_REVOKED, 0);
    run_stop(run, WCORE_STOP_SHUTDOWN, 10);
    assert_string_equal(hear(), "stop revoked 0\nstop shutdown 10\n");
    take_fixture("exit.json");
    say("bye\n");
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
}

static void test_lines_in_pieces(void **state)
{
    (void)state;
    adopt_live("hello");
    hear();
    say(" 1 47");
    hear();
    assert_int_equal(n_started, 0);
    take_fixture("exit.json");
    say("11 4712\nbye\n");
    await(&n_ended);
    assert_int_equal(n_started, 1);
}

/* It is neither spoken to nor killed; it holds its lease itself, and its end is seen. */
static void test_a_live_shim_of_a_newer_version(void **state)
{
    char line[300];

    (void)state;
    adopt_live("hello 2 {\"whatever\":true}\n");
    run_lease(run, 123456);
    run_stop(run, WCORE_STOP_CANCEL, 2000);
    assert_string_equal(hear(), "");
    say("progress 17 of 18\nbye\n");
    memset(line, 'x', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\0';
    say(line);
    assert_string_equal(hear(), "");
    assert_int_equal(n_started + n_ended, 0);
    put("exit.json", NEWER);
    leave();
    await(&n_ended);
    assert_string_equal(run_outcome(run), "lost");
    assert_non_null(strstr(run_result(run), "version 2"));
}

static void test_an_ended_attempt_of_a_newer_version(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    put("exit.json", NEWER);
    adopt();
    assert_true(found_ended);
    assert_string_equal(run_outcome(run), "lost");
    assert_non_null(strstr(run_result(run), "version 2"));
    assert_false(run_is_done(tasks_dir, &attempt.key.task, 1)); /* a newer worker may come back */
    buf_init(&b, 1000);
    assert_int_equal(shimdir_read_file(dir, "exit.json", &b, NULL), 0);
    assert_string_equal(b.data, NEWER);
}

static void test_nonsense_is_not_a_shim(void **state)
{
    static const char *const words[] = {"hello\n", "hello 0 2 2\n", "hello x\n", "hello 1 1\n",
                                        "hi\n"};

    (void)state;
    listen_as_shim();
    adopt();
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        char end = 0;

        shim = accept(listener, NULL, NULL); /* it looks again and again, as long as one listens */
        say(words[i]);
        while (recv(shim, &end, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) {
            uv_run(&loop, UV_RUN_NOWAIT);
        }
        close(shim);
        struct pollfd p = {.fd = listener, .events = POLLIN};
        while (poll(&p, 1, 0) == 0) {
            uv_run(&loop, UV_RUN_ONCE);
        }
    }
    shim = accept(listener, NULL, NULL);
    take_fixture("exit.json");
    leave();
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
    assert_int_equal(n_started, 0);
}

/* Until the worker connects again, or the attempt has ended. */
static void await_connection(void)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};

    close(shim);
    while (poll(&p, 1, 0) == 0 && !n_ended) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(n_ended, 0);
    shim = accept(listener, NULL, NULL);
    assert_true(shim >= 0);
}

/* The task can make a shim drop its worker, write a record, and listen in the place of the shim. */
static void test_a_record_without_a_bye(void **state)
{
    (void)state;
    adopt_live(NOBODY_THERE);
    await(&n_started);
    take_fixture("exit.json");
    await_connection();
    say(NOBODY_THERE "bye\n");
    hear();
    await_connection();
    leave();
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
}

/* Who cannot connect does not know whether a shim is there. */
static void test_a_record_while_descriptors_are_short(void **state)
{
    struct few_fds few;

    (void)state;
    listen_as_shim();
    take_fixture("exit.json");
    few_fds_begin(&few, 1);
    adopt();
    few_fds_end(&few);
    assert_false(found_ended);
    leave();
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
}

static void test_a_record_while_the_shim_is_busy(void **state)
{
    int fds[16];
    size_t n = 0;

    (void)state;
    listen_as_shim();
    take_fixture("exit.json");
    while (n < ARRAY_LEN(fds) && shim_connect(dir, &fds[n], NULL) == 0) {
        n++;
    }
    assert_in_range(n, 1, ARRAY_LEN(fds) - 1);
    adopt();
    assert_false(found_ended);
    while (n) {
        close(fds[--n]);
    }
    leave();
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
}

/* Its process was there, so it may have begun, and written this; the shim says nothing of it. */
static void test_a_forged_record_and_a_forged_shim(void **state)
{
    (void)state;
    adopt_live(NOBODY_THERE);
    await(&n_started);
    put("exit.json", REFUSED);
    await_connection();
    say("hello 1 2147483001 0\nbye\n");
    hear();
    leave();
    await(&n_ended);
    assert_string_equal(run_outcome(run), "lost");
}

/* Short of descriptors, or a disk that does not read: that says nothing of the task. */
static void test_a_record_that_cannot_be_read(void **state)
{
    struct errand d = {.kind = ERRAND_SETTLE,
                       .fd = -1,
                       .node = &node,
                       .exec = {.dir = dir},
                       .fenced = true,
                       .cleared = true};
    struct few_fds few;

    (void)state;
    n_made = 0;
    take_fixture("exit.json");
    few_fds_begin(&few, 0);
    errand_work(&d);
    few_fds_end(&few);
    assert_false(d.over);
    errand_work(&d);
    assert_true(d.over);
    assert_string_equal(d.exit.reason, "exit");
    errand_done(&d);
}

/* A task can take its directory from us: it is ours all the same. Another's is not. */
static void test_a_directory_without_rights(void **state)
{
    static const mode_t modes[] = {0, 0500, 0300, 0600};
    char *sock CLEANUP(freep) = xasprintf("%s/sock", dir);

    (void)state;
    n_made = 0;
    rights_count(true);
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        struct errand d = {.kind = ERRAND_SETTLE, .fd = -1, .node = &node, .exec = {.dir = dir}};
        struct errand mark = {.kind = ERRAND_FORGET, .fd = -1, .exec = {.dir = dir}};

        assert_int_equal(chmod(dir, modes[i]), 0);
        errand_work(&d);
        assert_true(d.fenced && !d.over);
        assert_int_equal(access(sock, F_OK), 0);
        errand_done(&d);
        assert_int_equal(chmod(dir, modes[i]), 0);
        errand_work(&mark);
        assert_int_equal(mark.rc, 0);
        assert_true(run_is_done(tasks_dir, &attempt.key.task, 1));
        errand_done(&mark);
        assert_int_equal(unlink(sock), 0);
    }
    rights_count(false);
    assert_false(shimdir_take_back("/no/such") || shimdir_take_back(dir));
    assert_int_equal(symlink(tasks_dir, sock), 0);
    assert_int_equal(chmod(tasks_dir, 0500), 0);
    assert_false(shimdir_take_back(sock));
    assert_int_equal(chmod(tasks_dir, 0700), 0);
}

/* A task may make a file of that name beside its output; the record is written after that. */
static void test_a_mark_that_is_not_ours(void **state)
{
    (void)state;
    n_made = 0;
    put(RUN_DONE_FILE, "");
    assert_true(run_is_done(tasks_dir, &attempt.key.task, 1)); /* without a record: see astray.h */
    poll(NULL, 0, 20);
    take_fixture("exit.json");
    assert_false(run_is_done(tasks_dir, &attempt.key.task, 1));
    poll(NULL, 0, 20);
    put(RUN_DONE_FILE, ""); /* by an earlier version */
    assert_true(run_is_done(tasks_dir, &attempt.key.task, 1));
    put(RUN_DONE_FILE, "finished");
    assert_false(run_is_done(tasks_dir, &attempt.key.task, 1));
    run_disown(tasks_dir, &attempt.key.task, 1);
    assert_true(run_is_done(tasks_dir, &attempt.key.task, 1));
}

/* ---- a plug-in that is not there after a restart ---- */

static void test_a_plugin_that_has_gone(void **state)
{
    (void)state;
    put(RUN_GRANT_FILE, "{\"v\":1,\"token\":\"8123456789\",\"leaseMs\":30000,\"slots\":2,"
                        "\"spec\":{\"jobType\":\"Report\",\"parameters\":{\"p\":1}}}");
    take_fixture("exit.json");
    adopt();
    assert_true(found_ended);
    assert_string_equal(run_outcome(run), "succeeded");
    assert_non_null(strstr(run_result(run), "\"output\":\"hello\\n\""));
}

/* ---- a shim that was started in advance ---- */

static int keep_spare(void)
{
    run_keep_spare(&context, clock_boot_ms());
    assert_non_null(context.spare);
    return context.spare->process.pid;
}

static enum wcore_started start(const char *text)
{
    json_t *spec = NULL;

    assert_int_equal(json_read(text, strlen(text), &spec, NULL), 0);
    attempt.key.attempt = 2;
    attempt.token = getpid(); /* or another run of this program would hunt our tasks */
    attempt.lease_ms = 30000;
    attempt.need.slots = 1;
    attempt.deadline = clock_boot_ms() + 30000;
    struct run_grant grant = {.spec = spec};
    enum wcore_started s = run_start(&context, &attempt, &grant, &fault);
    json_decref(spec);
    run = attempt.user;
    return s;
}

#define COMMAND                                                                                    \
    "{\"jobType\":\"Command\",\"command\":[\"sh\",\"-c\",\"cut -d' ' -f4 /proc/$PPID/stat\"]}" /* its grandparent */

static void use_real_shim(void)
{
    char *self CLEANUP(freep) = realpath("/proc/self/exe", NULL);
    const char *named = getenv("SJE_TEST_SHIM");
    static char path[PATH_MAX];

    *strrchr(self, '/') = '\0';
    snprintf(path, sizeof(path), "%s/../../bin/sje-shim", self);
    context.shim_path = named ? named : path;
}

static void test_the_spare_runs_the_next_task(void **state)
{
    char parent[64];

    (void)state;
    use_real_shim();
    int pid = keep_spare();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    assert_null(context.spare);
    assert_true(context.spare_at > clock_boot_ms() - 1000);
    await(&n_ended);
    assert_int_equal(n_started, 1);
    assert_string_equal(run_outcome(run), "succeeded");
    snprintf(parent, sizeof(parent), "\"output\":\"%d\\n\"", pid);
    assert_non_null(strstr(run_result(run), parent));
}

static void test_what_needs_no_shim_leaves_the_spare(void **state)
{
    (void)state;
    n_made = 2;
    use_real_shim();
    keep_spare();
    assert_int_equal(start("{\"jobType\":\"Noop\"}"), WCORE_START_ENDED);
    assert_string_equal(run_outcome(run), "succeeded");
    assert_non_null(context.spare);
}

static void test_a_spare_for_a_task_that_cannot_start(void **state)
{
    (void)state;
    use_real_shim();
    keep_spare();
    assert_int_equal(start("{\"jobType\":\"Command\"}"), WCORE_START_ENDED);
    assert_string_equal(run_outcome(run), "failed");
}

static void test_a_spare_that_has_ended_is_forgotten(void **state)
{
    (void)state;
    n_made = 2;
    use_real_shim();
    kill(keep_spare(), SIGKILL);
    await(&n_freed);
    assert_null(context.spare);
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
}

/* Nobody knows yet that it has, or it is seen before it is told: nothing of the attempt began. */
static void test_a_spare_that_has_just_ended(void **state)
{
    siginfo_t info;

    (void)state;
    use_real_shim();
    int pid = keep_spare();
    kill(pid, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "returned");
    assert_int_equal(run_fault(run)->of, WCORE_FAULT_ATTEMPT);
    assert_int_equal(n_started, 0);
}

/* ---- a disk that hangs ---- */

static void turn_until(bool (*done)(void))
{
    for (int64_t end = clock_boot_ms() + 30000; !done();) {
        assert_true(clock_boot_ms() < end);
        uv_run(&loop, UV_RUN_NOWAIT);
        poll(NULL, 0, 1);
    }
}

static bool spare_is_gone(void)
{
    return !run->has_process && !run->has_pipe;
}

/* The lane is kept up by a read that nobody answers. */
static struct {
    struct lane_job job;
    int pipe[2];
} hang;

static void hang_work(struct lane_job *j)
{
    char c = 0;

    (void)j;
    assert_int_equal(read(hang.pipe[0], &c, 1), 1);
}

static void hang_done(struct lane_job *j)
{
    (void)j;
}

static void hang_in(struct lane *l)
{
    assert_int_equal(pipe(hang.pipe), 0);
    hang.job = (struct lane_job){.work = hang_work, .done = hang_done};
    lane_do(l, &hang.job);
}

static void begin_hang(void)
{
    hang_in(run_starter(&context, executor_find(JOB_COMMAND)));
}

static void end_hang(void)
{
    assert_int_equal(write(hang.pipe[1], "", 1), 1);
    uv_run(&loop, UV_RUN_DEFAULT);
    close(hang.pipe[0]);
    close(hang.pipe[1]);
}

/* It waited behind what hangs, so nothing of it is ever made. */
static void expect_not_started(const char *outcome)
{
    char *its CLEANUP(freep) = shimdir_path(tasks_dir, &attempt.key.task, 2);

    await(&n_ended);
    assert_string_equal(run_outcome(run), outcome);
    run_forget(run);
    await(&n_freed);
    end_hang();
    assert_int_equal(n_started, 0);
    assert_int_equal(access(its, F_OK), -1);
}

static void test_a_cancel_on_a_disk_that_hangs(void **state)
{
    (void)state;
    use_real_shim();
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    run_stop(run, WCORE_STOP_CANCEL, 1000);
    assert_int_equal(n_ended, 0); /* not from within */
    expect_not_started("cancelled");
}

static void test_a_lease_on_a_disk_that_hangs(void **state)
{
    (void)state;
    use_real_shim();
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    run_stop(run, WCORE_STOP_LEASE, 0);
    run_kill(run);
    expect_not_started("returned");
}

/* A shutdown kills what runs; of this nothing does. */
static void test_a_shutdown_on_a_disk_that_hangs(void **state)
{
    (void)state;
    use_real_shim();
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    run_stop(run, WCORE_STOP_SHUTDOWN, 1000);
    expect_not_started("returned");
}

/* The same while it is being made. */
static void test_a_cancel_while_it_is_made(void **state)
{
    (void)state;
    use_real_shim();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    run_stop(run, WCORE_STOP_CANCEL, 1000); /* the pool has it: nothing was turned since */
    await(&n_ended);
    assert_string_equal(run_outcome(run), "cancelled");
    run_forget(run);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(n_freed, 1);
    assert_int_equal(n_started, 0);
    assert_true(run_is_done(tasks_dir, &attempt.key.task, 2)); /* its directory is marked */
}

/* Its connection ends while its directory is still to be made. */
static void test_a_spare_that_ends_before_it_is_told(void **state)
{
    (void)state;
    use_real_shim();
    int pid = keep_spare();
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    kill(pid, SIGKILL);
    turn_until(spare_is_gone);
    end_hang();
    assert_int_equal(n_ended, 1);
    assert_string_equal(run_outcome(run), "returned");
    assert_int_equal(n_started, 0);
}

/* What one kind of task needs hangs: the others start, run and end, and no more of that kind comes.
 */
static void test_a_kind_of_task_that_hangs(void **state)
{
    int64_t late = clock_boot_ms() + 2 * RUN_LATE_MS;

    (void)state;
    use_real_shim();
    hang_in(run_starter(&context, executor_find(JOB_SPARK)));
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "succeeded");
    assert_null(run_hangs(&context, JOB_SPARK, clock_boot_ms()));
    assert_non_null(strstr(run_hangs(&context, JOB_SPARK, late), "hangs"));
    assert_null(run_hangs(&context, JOB_COMMAND, late));
    assert_null(run_hangs(&context, NULL, late));
    end_hang();
    assert_null(run_hangs(&context, JOB_SPARK, late));
    hang_in(&context.disk);
    assert_non_null(strstr(run_hangs(&context, NULL, clock_boot_ms() + 2 * RUN_LATE_MS), "hangs"));
    end_hang();
    hang_in(&context.proc);
    assert_null(run_hangs(&context, JOB_SPARK, clock_boot_ms() + 2 * RUN_LATE_MS));
    assert_non_null(strstr(run_hangs(&context, NULL, clock_boot_ms() + 2 * RUN_LATE_MS), "hangs"));
    end_hang();
    assert_null(run_hangs(&context, NULL, clock_boot_ms() + 2 * RUN_LATE_MS));
}

/* The plan is for a lease that has ended since. */
static void test_a_start_that_comes_too_late(void **state)
{
    (void)state;
    use_real_shim();
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    run->errand.limits.lease_until = clock_boot_ms();
    run_lease(run, clock_boot_ms() + 30000);
    end_hang();
    assert_int_equal(n_ended, 1);
    assert_string_equal(run_outcome(run), "returned");
    assert_int_equal(run_fault(run)->of, WCORE_FAULT_ATTEMPT);
    assert_int_equal(n_started, 0);
}

/* The machine stood still meanwhile: the lease has less left than the plan says. */
static void test_a_lease_that_has_lost_time(void **state)
{
    (void)state;
    use_real_shim();
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    attempt.deadline -= 10000;
    end_hang();
    assert_int_equal(n_ended, 1);
    assert_string_equal(run_outcome(run), "succeeded");
    assert_int_equal(run->lease_until, attempt.deadline); /* told after its hello */
    run_release(run);
    n_ended = n_freed = 0;
    attempt.key.task.b[3]++;
    begin_hang();
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    attempt.deadline = clock_boot_ms();
    end_hang();
    assert_string_equal(run_outcome(run), "returned");
    n_made = 1;
}

/* And so it says, whenever it has to say it again. */
static void test_an_order_that_has_lost_time(void **state)
{
    (void)state;
    adopt_live(NOBODY_THERE);
    await(&n_started);
    attempt.deadline = 123456;
    run_lease(run, attempt.deadline);
    assert_string_equal(hear(), "lease 123456\n");
    attempt.deadline = 113456;
    await_connection();
    say(NOBODY_THERE);
    assert_string_equal(hear(), "lease 113456\n");
    take_fixture("exit.json");
    leave();
    await(&n_ended);
}

/* ---- faults of the node ---- */

static void expect_fault(enum wcore_started s, int of, const char *part)
{
    assert_int_equal(s, WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "returned");
    assert_non_null(strstr(run_result(run), "\"kind\":\"node\""));
    fault = *run_fault(run);
    assert_int_equal(fault.of, of);
    if (!strstr(fault.reason, part)) {
        fail_msg("%s", fault.reason);
    }
    assert_null(strstr(fault.reason, TASK)); /* it is the same for all attempts */
}

static void test_a_directory_that_is_gone(void **state)
{
    struct err e = {0};

    (void)state;
    use_real_shim();
    assert_int_equal(run_able(&context, NULL, NULL, &e), 0);
    assert_int_equal(shimdir_remove(tasks_dir, NULL), 0);
    expect_fault(start(COMMAND), WCORE_FAULT_NODE, tasks_dir);
    assert_int_equal(run_able(&context, NULL, NULL, &e), ERR_IO);
    assert_non_null(strstr(e.text, tasks_dir));
}

static void test_a_shim_that_is_gone(void **state)
{
    struct err e = {0};

    (void)state;
    context.shim_path = "/nonexistent/sje-shim";
    expect_fault(start(COMMAND), WCORE_FAULT_NODE, "cannot start /nonexistent/sje-shim");
    assert_int_equal(run_able(&context, NULL, NULL, &e), ERR_IO);
    assert_non_null(strstr(e.text, "/nonexistent/sje-shim"));
}

/* It can neither begin nor write why: its exit status is all there is. */
static void test_a_shim_that_is_unable(void **state)
{
    char *path CLEANUP(freep) = xasprintf("%s/shim", tasks_dir);
    FILE *f = fopen(path, "w");

    (void)state;
    assert_non_null(f);
    assert_true(fprintf(f, "#!/bin/sh\nexec <&-\nsleep 0.2\nexit %d\n", SHIM_UNABLE) > 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0700), 0);
    context.shim_path = path;
    assert_int_equal(start(COMMAND), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "returned");
    assert_int_equal(run_fault(run)->of, WCORE_FAULT_NODE);
}

static void test_a_directory_that_is_there_already(void **state)
{
    char *second CLEANUP(freep) = shimdir_path(tasks_dir, &attempt.key.task, 2);

    (void)state;
    use_real_shim();
    assert_int_equal(shimdir_create(second, NULL), 0);
    expect_fault(start(COMMAND), WCORE_FAULT_ATTEMPT, "File exists");
}

static void test_what_is_the_tasks_own_fault(void **state)
{
    (void)state;
    use_real_shim();
    assert_int_equal(start("{\"jobType\":\"Command\",\"command\":[\"true\"],\"cwd\":\"/no/such\"}"),
                     WCORE_START_UNDER_WAY); /* its own process finds out */
    await(&n_ended);
    assert_string_equal(run_outcome(run), "failed");
    assert_non_null(strstr(run_why(run), "/no/such"));
    assert_null(run_fault(run));
}

/* The shim finds out: what the task names is its own, what the node has is the node's. */
static void test_an_interpreter_that_is_missing(void **state)
{
    char *plugins CLEANUP(freep) = xasprintf("%s/plugins", tasks_dir);
    char *program CLEANUP(freep) = xasprintf("%s/Report", plugins);
    char *command CLEANUP(freep) =
        xasprintf("{\"jobType\":\"Command\",\"command\":[\"%s\"]}", program);

    (void)state;
    use_real_shim();
    assert_int_equal(mkdir(plugins, 0700), 0);
    FILE *f = fopen(program, "w");
    assert_non_null(f);
    assert_true(fputs("#!/no/such/interpreter\n", f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(program, 0700), 0);
    node.plugin_dir = plugins;
    assert_int_equal(executors_look(plugins, NULL), 0);
    assert_int_equal(start("{\"jobType\":\"Report\"}"), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "returned");
    assert_int_equal(run_fault(run)->of, WCORE_FAULT_TYPE);
    assert_non_null(strstr(run_fault(run)->reason, "interpreter is missing"));
    run_release(run);
    n_ended = 0;
    n_made = 2;
    attempt.key.task.b[3]++;
    assert_int_equal(start(command), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "failed");
    assert_null(run_fault(run));
    node.plugin_dir = "";
}

/* A client can make one. So nothing is held off for it, and it does not go round for ever. */
static void test_a_program_that_is_cut_off(void **state)
{
    struct {
        Elf64_Ehdr head;
        Elf64_Phdr interpreter;
    } program = {.interpreter = {.p_type = PT_INTERP, .p_offset = 4096, .p_filesz = 10}};
    FILE *self = fopen("/proc/self/exe", "re");
    char *path CLEANUP(freep) = xasprintf("%s/cut-off", tasks_dir);
    char *command CLEANUP(freep) =
        xasprintf("{\"jobType\":\"Command\",\"command\":[\"%s\"]}", path);

    (void)state;
    use_real_shim();
    assert_non_null(self);
    assert_int_equal(fread(&program.head, sizeof(program.head), 1, self), 1);
    assert_int_equal(fclose(self), 0);
    program.head.e_phoff = sizeof(program.head);
    program.head.e_phnum = 1;
    assert_int_equal(shimdir_write_file(tasks_dir, "cut-off", &program, sizeof(program), NULL), 0);
    assert_int_equal(chmod(path, 0700), 0);
    assert_int_equal(start(command), WCORE_START_UNDER_WAY);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "returned");
    assert_int_equal(run_fault(run)->of, WCORE_FAULT_ATTEMPT);
}

/* ---- looking at the node ---- */

static int n_looked;
static int looks_wanted;

static void on_looked(void *arg)
{
    (void)arg;
    n_looked++;
}

static bool have_looked(void)
{
    return n_looked >= looks_wanted;
}

/* So many of the looks under way have ended since the last call, and no more. */
static void await_looks(int n)
{
    looks_wanted = n;
    turn_until(have_looked);
    assert_int_equal(n_looked, n);
    n_looked = 0;
}

/* A FIFO that nobody reads is as good as a disk that hangs. */
static void test_a_look_that_hangs(void **state)
{
    char *path CLEANUP(freep) = xasprintf("%s/.look", tasks_dir);
    struct looks looks = {.x = &context, .on_looked = on_looked};

    (void)state;
    n_made = 0;
    use_real_shim();
    look_first(&looks, 1000);
    assert_null(look_why(&looks, NULL, 1000));
    await_looks(LOOK_KINDS);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(look_begin(&looks, 1000));
    assert_null(look_why(&looks, NULL, 1000 + LOOK_LATE_MS - 1));
    await_looks(LOOK_KINDS - 1);
    assert_non_null(strstr(look_why(&looks, NULL, 1000 + LOOK_LATE_MS), "hangs"));
    assert_null(look_why(&looks, JOB_COMMAND, 1000 + LOOK_LATE_MS));
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    await_looks(1);
    assert_null(look_why(&looks, NULL, 1000 + LOOK_LATE_MS));
    close(reader);
    look_done(&looks);
}

static char *make_below(const char *name, const char *text)
{
    char *path = xasprintf("%s/%s", tasks_dir, name);

    if (!text) {
        assert_int_equal(mkdir(path, 0700), 0);
        return path;
    }
    assert_int_equal(shimdir_write_file(tasks_dir, name, text, strlen(text), NULL), 0);
    assert_int_equal(chmod(path, 0700), 0);
    return path;
}

/* What Spark needs hangs: the node, and what plug-ins there are and need, is looked at again. */
static void test_a_look_at_one_type_that_hangs(void **state)
{
    char *home CLEANUP(freep) = make_below("spark", NULL);
    char *conf CLEANUP(freep) = make_below("spark/conf", NULL);
    char *site CLEANUP(freep) = xasprintf("%s/spark-env.sh", conf);
    char *plugins CLEANUP(freep) = make_below("plugins", NULL);
    struct looks looks = {.x = &context, .on_looked = on_looked};

    (void)state;
    free(make_below("spark/bin", NULL));
    free(make_below("spark/bin/spark-submit", "#!/bin/sh\n"));
    n_made = 0;
    use_real_shim();
    node.spark_home = home;
    node.plugin_dir = plugins;
    assert_int_equal(mkfifo(site, 0600), 0);
    look_first(&looks, 1000);
    assert_non_null(strstr(look_why(&looks, JOB_SPARK, 1000), "hangs"));
    assert_null(look_why(&looks, NULL, 1000));
    await_looks(LOOK_KINDS - 1);
    free(make_below("plugins/Report", "#!/no/such\n"));
    int64_t later = 1000 + LOOK_MS;
    assert_true(look_begin(&looks, later)); /* it is found */
    await_looks(LOOK_KINDS - 1);
    assert_non_null(executor_plugin_path("Report"));
    assert_true(look_begin(&looks, later)); /* and looked at */
    await_looks(LOOK_KINDS - 1);
    assert_non_null(strstr(look_why(&looks, "Report", later), "/no/such"));
    assert_non_null(strstr(look_why(&looks, JOB_SPARK, later), "hangs"));
    int writer = open(site, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(writer >= 0);
    close(writer);
    await_looks(1);
    look_done(&looks);
    node.spark_home = node.plugin_dir = "";
}

/* ---- a shim that is killed, both halves of it ---- */

/* What it leaves has no variable of ours. `own_session`: nor is it in the task's session. */
static const char *task_that_leaves(bool own_session)
{
    static char text[256];

    snprintf(
        text, sizeof(text),
        "{\"jobType\":\"Command\",\"command\":[\"sh\",\"-c\",\"env -i %s sh -c 'echo $$ > pid; "
        "exec sleep 1000' & exec sleep 1000\"]}",
        own_session ? "setsid" : "");
    return text;
}

static int64_t field(pid_t pid,
                     int number) /* of /proc/<pid>/stat, from the state, 1, on; 0: gone */
{
    char path[64];
    char text[1024] = "";

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) {
        return 0;
    }
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    char *at = n ? strrchr(text, ')') + 2 : NULL;
    for (int i = 1; at && i < number; i++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return !at ? 0 : number == 1 ? (*at == 'Z' || *at == 'X' ? 0 : *at) : strtoll(at, NULL, 10);
}

static bool lives(pid_t pid)
{
    return field(pid, 1) != 0;
}

/* The number in a file of the task's working directory; 0: not there. */
static pid_t number_in(const char *attempt_dir, const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%s/work", attempt_dir);
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 64);
    return shimdir_read_file(path, name, &b, NULL) == 0 && b.len ? (pid_t)strtol(b.data, NULL, 10)
                                                                 : 0;
}

static bool stray_is_there(void)
{
    return n_started && number_in(run->dir, "pid") > 0;
}

struct family {
    pid_t keeper;
    pid_t guardian;
    pid_t task;
    pid_t stray;
};

static struct family start_family(bool own_session)
{
    struct family f = {0};

    use_real_shim();
    assert_int_equal(start(task_that_leaves(own_session)), WCORE_START_UNDER_WAY);
    turn_until(stray_is_there);
    f.keeper = (pid_t)run->shim_pid;
    f.task = (pid_t)run->task_pid;
    f.guardian = (pid_t)field(f.task, 2);
    f.stray = number_in(run->dir, "pid");
    assert_int_equal(field(f.guardian, 2), f.keeper);
    assert_true(lives(f.stray));
    return f;
}

static void kill_shim(const struct family *f)
{
    assert_int_equal(kill(f->guardian, SIGSTOP), 0); /* it must not see the other's end */
    while (field(f->guardian, 1) != 'T') {
        poll(NULL, 0, 1);
    }
    assert_int_equal(kill(f->keeper, SIGKILL), 0);
    assert_int_equal(kill(f->guardian, SIGKILL), 0);
}

static void expect_lost(const struct family *f)
{
    await(&n_ended);
    assert_string_equal(run_outcome(run), "lost");
    assert_false(lives(f->keeper) || lives(f->guardian));
    assert_false(lives(f->task) || lives(f->stray));
}

/* The orphan has nothing that tells whose it is: but it is nobody else's. */
static void test_orphans_fall_to_the_worker(void **state)
{
    (void)state;
    strays_inherit();
    struct family f = start_family(true);
    kill_shim(&f);
    expect_lost(&f);
}

/* A walk for another attempt may be under way while this process lets go of its own. */
static void test_a_walk_beside_a_stop(void **state)
{
    (void)state;
    strays_inherit();
    struct family f = start_family(false);
    run_release_all(&context);
    uv_run(&loop, UV_RUN_DEFAULT);
    strays_kill(&(struct strays){.token = "SJE_TOKEN=of nobody"});
    assert_true(lives(f.keeper) && lives(f.guardian) && lives(f.task));
    strays_forget_child(f.keeper);
    kill_shim(&f);
    while (strays_kill(&(struct strays){0})) {
    }
    assert_false(lives(f.keeper) || lives(f.task) || lives(f.stray));
}

/* Nobody finds the shim any more, but it lives, as does the task that has written the record. */
static void test_a_record_beside_the_task(void **state)
{
    int fds[4]; /* as many as it takes */

    (void)state;
    strays_inherit();
    struct family f = start_family(true);
    free(dir);
    dir = xstrdup(run->dir);
    char *sock CLEANUP(freep) = xasprintf("%s/sock", dir);
    take_fixture("exit.json");
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        assert_int_equal(shim_connect(dir, &fds[i], NULL), 0);
    }
    assert_int_equal(unlink(sock), 0);
    await(&n_ended);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        close(fds[i]);
    }
    /* Whatever it ended with, the task's record or the shim's own: */
    assert_false(lives(f.keeper) || lives(f.guardian));
    assert_false(lives(f.task) || lives(f.stray));
}

/* The task has written that it was never started, and killed its shim. */
static void test_a_forged_record(void **state)
{
    (void)state;
    strays_inherit();
    struct family f = start_family(true);
    assert_int_equal(shimdir_write_file(run->dir, "exit.json", REFUSED, strlen(REFUSED), NULL), 0);
    kill_shim(&f);
    expect_lost(&f);
    assert_null(run_fault(run));
}

/* The half that the worker has started is dead, the other stands still and holds the
 * connection. */
static void test_a_guardian_that_stands_still_alone(void **state)
{
    (void)state;
    strays_inherit();
    struct family f = start_family(true);
    assert_int_equal(kill(f.guardian, SIGSTOP), 0);
    assert_int_equal(kill(f.keeper, SIGKILL), 0);
    expect_lost(&f);
}

static void test_a_kill_takes_all(void **state)
{
    (void)state;
    strays_inherit();
    struct family f = start_family(true);
    assert_int_equal(kill(f.guardian, SIGSTOP), 0);
    run_kill(run);
    expect_lost(&f);
}

/* The guardian alone is killed, and the keeper takes long to clear what falls to it, as with a
 * process of many GB: SIGSTOP stands for that. */
static bool was_looked_for(void)
{
    return context.walks >= 2 || n_ended;
}

static struct family start_slow_keeper(bool own_session)
{
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    struct family f = start_family(own_session);
    assert_int_equal(kill(f.keeper, SIGSTOP), 0);
    while (field(f.keeper, 1) != 'T') {
        poll(NULL, 0, 1);
    }
    assert_int_equal(kill(f.guardian, SIGKILL), 0);
    turn_until(was_looked_for);
    assert_true(lives(f.keeper));
    assert_int_equal(n_ended, 0);
    return f;
}

static void test_a_keeper_may_clear(void **state)
{
    (void)state;
    struct family f = start_slow_keeper(true);
    assert_int_equal(kill(f.keeper, SIGCONT), 0);
    await(&n_ended);
    assert_string_equal(run_outcome(run), "lost");
    assert_non_null(
        strstr(run_why(run), "was killed by SIGKILL; what was left")); /* it has written that */
    assert_false(lives(f.task) || lives(f.stray));
}

static void test_a_keeper_that_gives_up(void **state)
{
    (void)state;
    struct family f = start_slow_keeper(false);
    run->fenced_at -= PLAN_KILL_GIVE_UP_MS;
    expect_lost(&f);
}

static void test_a_kill_takes_the_keeper(void **state)
{
    (void)state;
    struct family f = start_slow_keeper(false);
    run_kill(run);
    expect_lost(&f);
}

/* A session of its own, no child of ours. */
static pid_t start_stranger(void)
{
    int tell[2];
    pid_t stranger = 0;

    assert_int_equal(pipe(tell), 0);
    pid_t parent = fork();
    if (parent == 0) {
        if (fork() == 0) {
            pid_t self = setsid();
            if (write(tell[1], &self, sizeof(self)) == sizeof(self)) {
                alarm(60);
                pause();
            }
        }
        _exit(0);
    }
    assert_int_equal(read(tell[0], &stranger, sizeof(stranger)), sizeof(stranger));
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    close(tell[0]);
    close(tell[1]);
    return stranger;
}

/* The shim's first half has ended and was reaped; the other holds the connection, and a stranger
 * has the number. */
static void test_a_kill_hits_no_stranger(void **state)
{
    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    adopt_live("hello 1 2 3\n");
    hear();
    pid_t stranger = start_stranger();
    run->shim_pid = stranger;
    run->task_pid = 0;
    run->seen_at = clock_boot_ms() - 60000;
    run_kill(run);
    poll(NULL, 0, 50);
    assert_true(lives(stranger));
    kill(stranger, SIGKILL);
    leave();
    await(&n_ended);
}

/* As after a restart of the worker: nothing falls to us. With the numbers of the hello. */
static void test_the_session_of_the_task(void **state)
{
    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    struct family f = start_family(false);
    kill_shim(&f);
    expect_lost(&f);
}

/* Nothing but its cgroup tells whose it is: an environment and a session of its own, and nobody to
 * whom it falls. */
static void test_the_cgroup_of_the_task(void **state)
{
    char *group CLEANUP(freep) = make_cgroup();

    (void)state;
    if (!group) {
        n_made = 0;
        skip();
    }
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    context.cgroup = group;
    struct family f = start_family(true);
    kill_shim(&f);
    expect_lost(&f);
    assert_int_equal(rmdir(group), 0); /* that of the task is gone */
}

/* The worker process that had the hello is dead too: the shim has left the numbers. */
static bool is_written_down(void)
{
    struct strays s;

    return strays_read(run->dir, &s) && s.seen_forks > 0;
}

static void test_the_session_that_was_written_down(void **state)
{
    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    struct family f = start_family(false);
    turn_until(is_written_down);
    struct run *first = run;
    kill_shim(&f);
    waitpid(f.keeper, NULL, 0);
    run_release(first); /* it saw nothing of that */
    n_made = 2;
    adopt();
    if (!found_ended) {
        await(&n_ended);
    }
    assert_string_equal(run_outcome(run), "lost");
    assert_false(lives(f.task) || lives(f.stray));
}

static bool all_have_ended(void)
{
    LIST_EACH(&context.runs, it)
    {
        if (!*run_outcome(CONTAINER_OF(it, struct run, node))) {
            return false;
        }
    }
    return true;
}

/* What is left is looked for in one walk for all, however many lost their shims at once. */
static void test_many_lost_at_once(void **state)
{
    (void)state;
    n_made = 0;
    for (attempt.key.attempt = 2; n_made < MANY; attempt.key.attempt++, n_made++) {
        free(dir);
        dir = shimdir_path(tasks_dir, &attempt.key.task, attempt.key.attempt);
        assert_int_equal(shimdir_create(dir, NULL), 0);
        take_fixture("grant.json");
        adopt();
        assert_false(found_ended);
    }
    turn_until(all_have_ended);
    assert_string_equal(run_outcome(run), "lost");
    assert_in_range(context.walks, 1, MANY / 4);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_an_ended_attempt_of_version_1),
        T(test_a_grant_that_cannot_be_read),
        T(test_a_grant_that_is_spoilt),
        T(test_a_live_shim_of_version_1),
        T(test_lines_in_pieces),
        T(test_a_live_shim_of_a_newer_version),
        T(test_an_ended_attempt_of_a_newer_version),
        T(test_nonsense_is_not_a_shim),
        T(test_a_record_without_a_bye),
        T(test_a_record_while_descriptors_are_short),
        T(test_a_record_while_the_shim_is_busy),
        T(test_a_forged_record_and_a_forged_shim),
        T(test_a_record_that_cannot_be_read),
        T(test_a_directory_without_rights),
        T(test_a_mark_that_is_not_ours),
        T(test_a_plugin_that_has_gone),
        T(test_the_spare_runs_the_next_task),
        T(test_what_needs_no_shim_leaves_the_spare),
        T(test_a_spare_for_a_task_that_cannot_start),
        T(test_a_spare_that_has_ended_is_forgotten),
        T(test_a_spare_that_has_just_ended),
        T(test_a_cancel_on_a_disk_that_hangs),
        T(test_a_lease_on_a_disk_that_hangs),
        T(test_a_shutdown_on_a_disk_that_hangs),
        T(test_a_cancel_while_it_is_made),
        T(test_a_spare_that_ends_before_it_is_told),
        T(test_a_kind_of_task_that_hangs),
        T(test_a_start_that_comes_too_late),
        T(test_a_lease_that_has_lost_time),
        T(test_an_order_that_has_lost_time),
        T(test_a_directory_that_is_gone),
        T(test_a_shim_that_is_gone),
        T(test_a_shim_that_is_unable),
        T(test_a_directory_that_is_there_already),
        T(test_what_is_the_tasks_own_fault),
        T(test_an_interpreter_that_is_missing),
        T(test_a_program_that_is_cut_off),
        T(test_a_look_that_hangs),
        T(test_a_look_at_one_type_that_hangs),
        T(test_orphans_fall_to_the_worker),
        T(test_a_walk_beside_a_stop),
        T(test_a_record_beside_the_task),
        T(test_a_forged_record),
        T(test_a_guardian_that_stands_still_alone),
        T(test_a_kill_takes_all),
        T(test_a_keeper_may_clear),
        T(test_a_keeper_that_gives_up),
        T(test_a_kill_takes_the_keeper),
        T(test_a_kill_hits_no_stranger),
        T(test_the_session_of_the_task),
        T(test_the_cgroup_of_the_task),
        T(test_the_session_that_was_written_down),
        T(test_many_lost_at_once),
    };

    log_setup(LOG_ERROR, LOG_LOGFMT, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
