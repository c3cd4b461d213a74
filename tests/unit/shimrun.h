/* shimrun.h: runs the real sje-shim for tests: a directory, a plan, a control connection.
 *
 * The program is SJE_TEST_SHIM or that of the same build. Every wait ends with the event waited
 * for, or fails the test after WAIT_MS.
 */
#ifndef SJE_TESTS_SHIMRUN_H
#define SJE_TESTS_SHIMRUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal/clock.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/strays.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS 60000

struct run {
    char dir[256];
    char mark[64]; /* NAME=VALUE in the environment of all its processes */
    struct exec_plan plan;
    struct shim_limits limits;
    pid_t shim;
    pid_t task; /* as in hello */
    int conn;
    char line[256];
    size_t len;
};

static inline char *own_directory(void)
{
    char *p = realpath("/proc/self/exe", NULL);

    assert_non_null(p);
    *strrchr(p, '/') = '\0';
    return p;
}

static inline char *own_program(void)
{
    char *p = realpath("/proc/self/exe", NULL);

    assert_non_null(p);
    return p;
}

static inline char *shim_program(void)
{
    char *dir CLEANUP(freep) = own_directory();
    const char *named = getenv("SJE_TEST_SHIM");
    char *path = named ? xstrdup(named) : xasprintf("%s/../../bin/sje-shim", dir);

    if (access(path, X_OK) != 0) {
        fail_msg("%s cannot be run; set SJE_TEST_SHIM", path);
    }
    return path;
}

static inline void run_init_in(struct run *r, const char *parent)
{
    static int count;

    *r = (struct run){.conn = -1};
    snprintf(r->dir, sizeof(r->dir), "%s/sje-shim-test.%d.%d", parent, (int)getpid(), count++);
    snprintf(r->mark, sizeof(r->mark), "SJE_TOKEN=%d-%d", (int)getpid(), count);
    assert_int_equal(shimdir_remove(r->dir, NULL), 0);
    assert_int_equal(shimdir_create(r->dir, NULL), 0);
    exec_plan_init(&r->plan);
    r->plan.cwd = xasprintf("%s/work", r->dir);
    r->limits = (struct shim_limits){
        .grace_ms = 100, .lease_until = clock_boot_ms() + WAIT_MS, .log_limit = 1 << 20};
    buf_add(&r->plan.env, r->mark, strlen(r->mark) + 1);
    buf_addf(&r->plan.env, "PATH=%s", getenv("PATH"));
    buf_addc(&r->plan.env, '\0');
}

static inline void run_init(struct run *r)
{
    run_init_in(r, "/tmp");
}

static inline void run_arg(struct run *r, const char *arg)
{
    buf_add(&r->plan.argv, arg, strlen(arg) + 1);
}

static inline void run_sh(struct run *r, const char *script)
{
    run_arg(r, "sh");
    run_arg(r, "-c");
    run_arg(r, script);
}

/* This test program in another role, see main(). */
static inline void run_self(struct run *r, const char *role, const char *arg)
{
    char *self CLEANUP(freep) = own_program();

    run_arg(r, self);
    run_arg(r, role);
    run_arg(r, arg);
}

/* Fields of /proc/PID/stat after the name: 'S', the parent, … Returns the state; 0: gone. */
static inline char process_state(pid_t pid, pid_t *ret_parent)
{
    char path[64];
    char text[512] = "";
    char state = 0;
    int parent = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    char *end = n > 0 ? strrchr(text, ')') : NULL;
    if (!end || sscanf(end, ") %c %d", &state, &parent) != 2) {
        return 0;
    }
    if (ret_parent) {
        *ret_parent = parent;
    }
    return state == 'Z' || state == 'X' ? 0 : state;
}

static inline bool process_runs(pid_t pid)
{
    return process_state(pid, NULL) != 0;
}

/* Until it is gone, or a zombie. */
static inline void process_gone(pid_t pid)
{
    for (int64_t end = clock_boot_ms() + WAIT_MS; process_runs(pid); poll(NULL, 0, 1)) {
        assert_true(clock_boot_ms() < end);
    }
}

static inline void process_stop(pid_t pid)
{
    assert_int_equal(kill(pid, SIGSTOP), 0);
    while (process_state(pid, NULL) != 'T') {
        poll(NULL, 0, 1);
    }
}

/* Starts the program with one end of a socket pair as its standard input. argv[0] names it; NULL:
 * the shim. */
static inline void run_spawn_as(struct run *r, char **argv)
{
    char *program CLEANUP(freep) = argv[0] ? xstrdup(argv[0]) : shim_program();
    posix_spawn_file_actions_t actions;
    int pair[2];

    argv[0] = program;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO);
    assert_int_equal(posix_spawn(&r->shim, program, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pair[1]);
    r->conn = pair[0];
}

static inline void run_spawn(struct run *r)
{
    run_spawn_as(r, (char *[]){NULL, r->dir, NULL});
}

/* The next line, without its newline; "" at the end of the connection. */
static inline const char *run_line(struct run *r)
{
    static char line[256];
    char *end = memchr(r->line, '\n', r->len);

    while (!end) {
        struct pollfd p = {r->conn, POLLIN, 0};
        assert_true(r->len < sizeof(r->line));
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        ssize_t n = read(r->conn, r->line + r->len, sizeof(r->line) - r->len);
        if (n <= 0) {
            assert_int_equal(r->len, 0);
            return "";
        }
        r->len += (size_t)n;
        end = memchr(r->line, '\n', r->len);
    }
    size_t n = (size_t)(end - r->line);
    memcpy(line, r->line, n);
    line[n] = '\0';
    r->len -= n + 1;
    memmove(r->line, end + 1, r->len);
    return line;
}

static inline void run_hello(struct run *r)
{
    int version = 0;
    int shim = 0;
    int task = 0;

    assert_int_equal(sscanf(run_line(r), "hello %d %d %d", &version, &shim, &task), 3);
    assert_int_equal(version, 1);
    assert_int_equal(shim, r->shim);
    r->task = task;
}

/* The other process of the shim: the parent of its task. */
static inline pid_t run_guardian(struct run *r)
{
    pid_t guardian = 0;
    pid_t keeper = 0;

    assert_true(r->task && process_state(r->task, &guardian));
    assert_true(process_state(guardian, &keeper));
    assert_int_equal(keeper, r->shim);
    return guardian;
}

/* A number that the task has written to a file in its working directory. */
static inline pid_t run_number(struct run *r, const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%s/work", r->dir);
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 64);
    assert_int_equal(shimdir_read_file(path, name, &b, NULL), 0);
    return (pid_t)strtol(b.data, NULL, 10);
}

static inline void run_say(struct run *r, const char *line)
{
    assert_int_equal(send(r->conn, line, strlen(line), MSG_NOSIGNAL), strlen(line));
}

static inline void run_plan(struct run *r)
{
    struct err e = {0};

    if (shim_plan_write(r->dir, &r->plan, &r->limits, &e) < 0) {
        fail_msg("%s", e.text);
    }
}

static inline void run_start(struct run *r)
{
    run_plan(r);
    run_spawn(r);
    run_hello(r);
}

/* Kills what has its mark; how many it has found. */
static inline int run_strays(const struct run *r)
{
    return strays_kill(&(struct strays){.token = r->mark});
}

/* Until the shim has ended; returns its exit status. */
static inline int run_wait(struct run *r)
{
    int status = 0;

    assert_int_equal(waitpid(r->shim, &status, 0), r->shim);
    r->shim = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Until it says bye; nothing of the task may be left. */
static inline void run_end(struct run *r, struct exec_exit *ret)
{
    struct err e = {0};

    if (r->conn >= 0) {
        assert_string_equal(run_line(r), "bye");
    }
    assert_int_equal(run_wait(r), 0);
    if (shim_exit_read(r->dir, ret, &e) < 0) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(run_strays(r), 0);
    assert_true(ret->finished_at >= ret->started_at);
}

static inline void run_all(struct run *r, struct exec_exit *ret)
{
    run_start(r);
    run_end(r, ret);
}

static inline void run_done(struct run *r)
{
    if (r->conn >= 0) {
        close(r->conn);
    }
    if (r->shim > 0) {
        kill(r->shim, SIGKILL);
        waitpid(r->shim, NULL, 0);
    }
    exec_plan_free(&r->plan);
    assert_int_equal(shimdir_remove(r->dir, NULL), 0);
}

/* A FIFO in the task's working directory: run_ready() returns when the task has opened it. */
static inline void run_fifo(struct run *r)
{
    char *path CLEANUP(freep) = xasprintf("%s/work/ready", r->dir);

    assert_int_equal(mkfifo(path, 0600), 0);
}

static inline void run_ready(struct run *r)
{
    char *path CLEANUP(freep) = xasprintf("%s/work/ready", r->dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    close(fd);
}

static inline char *run_log(struct run *r, const char *stream)
{
    struct buf b;
    int64_t offset = 0;
    int64_t size = 0;

    buf_init(&b, 1 << 20);
    assert_int_equal(shim_log_read(r->dir, stream, 0, 1 << 20, &b, &offset, &size, NULL), 0);
    return buf_take(&b);
}

/* For cmocka: *state is the run. */
static inline int run_setup(void **state)
{
    static struct run r;

    run_init(&r);
    *state = &r;
    return 0;
}

static inline int run_teardown(void **state)
{
    run_done(*state);
    return 0;
}

#endif
