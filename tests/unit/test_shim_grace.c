/* What a task has from a stop on: TERM to each of its processes, once, and then the whole grace,
 * whatever becomes of the main process. */
#include "tests/unit/shimrun.h"

#include "internal/str.h"
#include "pkg/executors/plan.h"

#include <inttypes.h>

#define LONG 20000 /* a grace that nobody is to use up */
#define SOON 4000  /* less than that, for a machine with much to do */

/* A program that ends half a second after TERM, and leaves a file; other than a shell, it can be
 * begun by one that ignores TERM. In main() it is `'self' heed FILE`. */
static volatile sig_atomic_t heard;

static void on_term(int sig)
{
    (void)sig;
    heard++;
}

static int heed(const char *file)
{
    const struct sigaction a = {.sa_handler = on_term};
    sigset_t term;
    sigset_t none;
    char up[64];

    sigemptyset(&none);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    sigaction(SIGTERM, &a, NULL);
    snprintf(up, sizeof(up), "%s.up", file);
    close(open(up, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    while (!heard) {
        sigsuspend(&none);
    }
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int64_t end = clock_boot_ms() + 500; clock_boot_ms() < end; poll(NULL, 0, 10)) {
    }
    snprintf(up, sizeof(up), "%s.%d", file, (int)heard);
    int fd = open(up, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    close(fd);
    return fd < 0;
}

/* `'self' hurry FILE`: opens the file, and has a child that takes a moment until it executes its
 * program: what it hears until then is its parent's to hear. */
static int hurry(const char *ready)
{
    const struct sigaction a = {.sa_handler = on_term};

    sigaction(SIGTERM, &a, NULL);
    close(open(ready, O_WRONLY | O_CLOEXEC));
    int64_t begun = clock_boot_ms();
    if (fork() == 0) {
        while (clock_boot_ms() < begun + 60) {
            poll(NULL, 0, 1);
        }
        execlp("sleep", "sleep", "1000", NULL);
        _exit(1);
    }
    while (!heard || clock_boot_ms() < begun + 300) {
        poll(NULL, 0, 1);
    }
    return 7;
}

static bool exists(const struct run *r, const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%s/work/%s", r->dir, name);

    return access(path, F_OK) == 0;
}

static void await_file(const struct run *r, const char *name)
{
    for (int64_t end = clock_boot_ms() + WAIT_MS; !exists(r, name); poll(NULL, 0, 1)) {
        assert_true(clock_boot_ms() < end);
    }
}

/* Each of $HEED in it is `'self' heed`. */
static void begin(struct run *r, const char *script)
{
    char *self CLEANUP(freep) = own_program();

    buf_addf(&r->plan.env, "HEED=%s heed", self);
    buf_addc(&r->plan.env, '\0');
    run_sh(r, script);
    run_start(r);
}

struct end {
    struct exec_exit exit;
    int64_t took; /* ms since `from` */
};

static struct end end_since(struct run *r, int64_t from)
{
    struct end e;

    run_end(r, &e.exit);
    e.took = clock_boot_ms() - from;
    return e;
}

/* Says it, and waits for the end. */
static struct end stop(struct run *r, const char *line)
{
    int64_t from = clock_boot_ms();

    run_say(r, line);
    return end_since(r, from);
}

static void took(const struct end *e, int64_t least, int64_t most)
{
    if (e->took < least || e->took > most) {
        fail_msg("it took %" PRId64 " ms, not %" PRId64 " to %" PRId64, e->took, least, most);
    }
}

/* ---- children have it too ---- */

static void saves(struct run *r, const char *script)
{
    begin(r, script);
    await_file(r, "a.up");
    struct end e = stop(r, "stop cancel 20000\n");
    assert_string_equal(e.exit.reason, "cancel");
    assert_int_equal(e.exit.signal, SIGTERM); /* the main process has not waited */
    assert_true(exists(r, "a.1"));
    took(&e, 500, SOON);
}

static void test_a_child(void **state)
{
    saves(*state, "$HEED a & wait");
}

static void test_a_child_in_another_session(void **state)
{
    saves(*state, "setsid $HEED a & wait");
}

static void test_a_daemon(void **state)
{
    saves(*state, "(env -i setsid $HEED a &); exec sleep 1000");
}

static void test_a_child_of_a_child(void **state)
{
    saves(*state, "sh -c 'sh -c \"$HEED a; :\"; :'; :");
}

static void test_a_child_that_stands_still(void **state)
{
    struct run *r = *state;

    begin(r, "sh -c 'echo $$ >pid; exec $HEED a' & wait");
    await_file(r, "a.up");
    process_stop(run_number(r, "pid"));
    struct end e = stop(r, "stop cancel 20000\n");
    assert_true(exists(r, "a.1"));
    took(&e, 500, SOON);
}

static void test_its_time_limit(void **state)
{
    struct run *r = *state;

    r->limits.timeout_ms = 1000;
    r->limits.grace_ms = LONG;
    begin(r, "setsid $HEED a & wait");
    await_file(r, "a.up");
    struct end e = end_since(r, clock_boot_ms());
    assert_string_equal(e.exit.reason, "timeout");
    assert_int_equal(e.exit.signal, SIGTERM);
    assert_true(exists(r, "a.1"));
    took(&e, 500, 1000 + SOON);
}

/* The status of the main process, which is not the last. */
static void test_the_status_is_that_of_the_main_process(void **state)
{
    struct run *r = *state;

    begin(r, "trap 'exit 7' TERM; $HEED a & wait");
    await_file(r, "a.up");
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.exit_code, 7);
    assert_true(exists(r, "a.1"));
    assert_true(e.exit.finished_at - e.exit.started_at >= 500);
}

/* What a child says after the end of the main process is in the log. */
static void test_last_words(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    begin(r,
          "sh -c 'trap \"sleep 0.5; echo saved; exit\" TERM; : >ready; sleep 1000 & wait' & wait");
    run_ready(r);
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.signal, SIGTERM);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    assert_string_equal(out, "saved\n");
}

/* Nobody waits for a grace that nobody needs. */
static void test_nothing_left(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    begin(r, "sleep 1000 & setsid sleep 1000 & sh -c ': >ready; sleep 1000; :' & wait");
    run_ready(r);
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.signal, SIGTERM);
    took(&e, 0, SOON);
}

/* What a task leaves that ends by itself has none: it is over. */
static void test_no_stop(void **state)
{
    struct run *r = *state;

    r->limits.grace_ms = LONG;
    begin(r, "$HEED a & while ! [ -e a.up ]; do sleep 0.01; done; exit 4");
    struct end e = end_since(r, clock_boot_ms());
    assert_string_equal(e.exit.reason, "exit");
    assert_int_equal(e.exit.exit_code, 4);
    assert_false(exists(r, "a.1"));
}

/* ---- once each ---- */

static void test_once(void **state)
{
    struct run *r = *state;

    /* It is looked for others several times while these are there. */
    begin(r, "trap '' TERM; $HEED a & $HEED b & sh -c '$HEED c & wait; :' & wait; $HEED d & wait;"
             "$HEED e & wait; exit 3");
    await_file(r, "a.up");
    await_file(r, "b.up");
    await_file(r, "c.up");
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.exit_code, 3);
    assert_true(exists(r, "a.1") && exists(r, "b.1") && exists(r, "c.1"));
    assert_true(exists(r, "d.1") && exists(r, "e.1"));
    took(&e, 1500, LONG - 1);
}

/* Its parent cannot have heard what the child is to be told. */
static void test_a_child_that_comes_later(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    begin(r, "trap '' TERM; : >ready; sleep 0.3; setsid $HEED a & wait; exit 5");
    run_ready(r);
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.exit_code, 5);
    assert_true(exists(r, "a.1"));
    took(&e, 500, LONG - 1);
}

static void test_an_orphan_that_comes_later(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    begin(r, "(trap '' TERM; : >ready; sleep 0.3; (setsid $HEED a &); exit) & wait");
    run_ready(r);
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.signal, SIGTERM);
    assert_true(exists(r, "a.1"));
    took(&e, 500, LONG - 1);
}

/* What a program starts because it was told is how it saves its state: told as well, that would be
 * lost. */
static void test_help(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    begin(r, "trap 'sh -c \"sleep 1.5; sleep 0.1; echo saved >saved\"; exit 7' TERM; : >ready;"
             "while :; do sleep 1000 & wait; done");
    run_ready(r);
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.exit_code, 7);
    assert_true(exists(r, "saved"));
    took(&e, 1600, LONG - 1);
}

static void test_a_child_that_is_just_begun(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    run_self(r, "hurry", "ready");
    run_start(r);
    run_ready(r);
    struct end e = stop(r, "stop cancel 20000\n");
    assert_int_equal(e.exit.exit_code, 7);
    took(&e, 0, SOON);
}

/* ---- and no longer ---- */

static void test_longer_than_that(void **state)
{
    struct run *r = *state;

    begin(r, "setsid $HEED a & wait");
    await_file(r, "a.up");
    struct end e = stop(r, "stop cancel 300\n");
    assert_string_equal(e.exit.reason, "cancel");
    assert_int_equal(e.exit.signal, SIGTERM);
    assert_false(exists(r, "a.1"));
    took(&e, 300, 300 + SOON);
}

static void test_one_that_stands_still_at_the_end(void **state)
{
    struct run *r = *state;

    run_fifo(r);
    begin(r,
          "sh -c 'trap \"kill -STOP \\$\\$\" TERM; : >ready; while :; do sleep 1000 & wait; done'"
          "& wait");
    run_ready(r);
    struct end e = stop(r, "stop cancel 500\n");
    assert_int_equal(e.exit.signal, SIGTERM);
    took(&e, 500, 500 + SOON);
}

/* The main process ends, a child hears nothing. */
static const char *const deaf = "(trap '' TERM; : >ready; exec sleep 1000) & wait";

static void begin_deaf(struct run *r)
{
    run_fifo(r);
    begin(r, deaf);
    run_ready(r);
}

static void test_another_stop(void **state)
{
    struct run *r = *state;

    begin_deaf(r);
    int64_t from = clock_boot_ms();
    run_say(r, "stop cancel 1000\n");
    process_gone(r->task);
    run_say(r, "stop cancel 0\nstop cancel 60000\n");
    struct end e = end_since(r, from);
    assert_string_equal(e.exit.reason, "cancel");
    took(&e, 1000, 1000 + SOON);
}

static void test_a_limit_of_time_after_a_cancel(void **state)
{
    struct run *r = *state;

    r->limits.timeout_ms = 500;
    r->limits.grace_ms = 1;
    begin_deaf(r);
    struct end e = stop(r, "stop cancel 1500\n");
    assert_string_equal(e.exit.reason, "cancel");
    took(&e, 1500, 1500 + SOON);
}

static void test_a_worker_that_ends(void **state)
{
    struct run *r = *state;

    begin_deaf(r);
    run_say(r, "stop cancel 20000\n");
    process_gone(r->task);
    struct end e = stop(r, "stop shutdown 0\n");
    assert_string_equal(e.exit.reason, "cancel");
    took(&e, 0, SOON);
}

/* The next attempt will not wait. */
static void test_the_lease(void **state)
{
    struct run *r = *state;
    int64_t until = clock_boot_ms() + 700;

    r->limits.lease_until = until;
    r->limits.grace_ms = WAIT_MS;
    begin_deaf(r);
    struct end e = end_since(r, until);
    assert_string_equal(e.exit.reason, "lease");
    assert_int_equal(e.exit.signal, SIGTERM);
    took(&e, PLAN_LEASE_GRACE_MS, PLAN_LEASE_GRACE_MS + 2000);
}

static void test_the_grace_of_a_lease(void **state)
{
    struct run *r = *state;
    int64_t until = clock_boot_ms() + 1000;

    r->limits.lease_until = until;
    r->limits.grace_ms = LONG;
    begin(r, "setsid $HEED a & wait");
    struct end e = end_since(r, until);
    assert_string_equal(e.exit.reason, "lease");
    assert_true(exists(r, "a.1"));
    took(&e, 500, PLAN_LEASE_GRACE_MS);
}

/* The lease ends amid the grace of a cancel. */
static struct end lease_ends_meanwhile(struct run *r)
{
    int64_t until = clock_boot_ms() + 800;
    char *lease CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", until);

    begin_deaf(r);
    run_say(r, "stop cancel 50000\n");
    process_gone(r->task);
    run_say(r, lease);
    struct end e = end_since(r, until);
    assert_string_equal(e.exit.reason, "cancel");
    return e;
}

static void test_a_lease_that_ends_meanwhile(void **state)
{
    struct run *r = *state;

    r->limits.grace_ms = WAIT_MS;
    struct end e = lease_ends_meanwhile(r);
    took(&e, PLAN_LEASE_GRACE_MS, PLAN_LEASE_GRACE_MS + 2000);
}

/* What runs in a cluster must not hear of it. */
static void test_a_lease_that_ends_meanwhile_detached(void **state)
{
    struct run *r = *state;

    r->plan.detach = true;
    struct end e = lease_ends_meanwhile(r);
    took(&e, 0, PLAN_LEASE_GRACE_MS - 1);
}

/* ---- when the shim is disturbed meanwhile ---- */

static void test_a_new_worker(void **state)
{
    struct run *r = *state;

    begin_deaf(r);
    int64_t from = clock_boot_ms();
    run_say(r, "stop cancel 1000\n");
    process_gone(r->task);
    pid_t task = r->task;
    close(r->conn);
    assert_int_equal(shim_connect(r->dir, &r->conn, NULL), 0);
    run_hello(r);
    assert_int_equal(r->task, task);
    run_say(r, "stop cancel 1000\n"); /* it repeats its orders */
    struct end e = end_since(r, from);
    assert_string_equal(e.exit.reason, "cancel");
    took(&e, 1000, 1000 + SOON);
}

static pid_t begin_stray(struct run *r)
{
    run_fifo(r);
    begin(r,
          "(trap '' TERM; env -i setsid sh -c 'echo $$ >pid; : >ready; exec sleep 1000') & wait");
    run_ready(r);
    pid_t guardian = run_guardian(r);
    run_say(r, "stop cancel 60000\n");
    process_gone(r->task);
    return guardian;
}

static void test_the_keeper_is_killed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    begin_stray(r);
    assert_int_equal(kill(r->shim, SIGKILL), 0);
    run_wait(r);
    assert_string_equal(run_line(r), "");
    process_gone(run_number(r, "pid"));
    assert_int_equal(shim_exit_read(r->dir, &e, NULL), ERR_NOT_FOUND);
}

static void test_the_guardian_is_killed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    pid_t guardian = begin_stray(r);

    assert_int_equal(kill(guardian, SIGKILL), 0);
    assert_string_equal(run_line(r), "");
    close(r->conn);
    r->conn = -1;
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_non_null(strstr(e.message, ") was killed by SIGKILL; what was left"));
    assert_false(process_runs(run_number(r, "pid")));
}

#define T(name) cmocka_unit_test_setup_teardown(name, run_setup, run_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_a_child),
        T(test_a_child_in_another_session),
        T(test_a_daemon),
        T(test_a_child_of_a_child),
        T(test_a_child_that_stands_still),
        T(test_its_time_limit),
        T(test_the_status_is_that_of_the_main_process),
        T(test_last_words),
        T(test_nothing_left),
        T(test_no_stop),
        T(test_once),
        T(test_a_child_that_comes_later),
        T(test_an_orphan_that_comes_later),
        T(test_help),
        T(test_a_child_that_is_just_begun),
        T(test_longer_than_that),
        T(test_one_that_stands_still_at_the_end),
        T(test_another_stop),
        T(test_a_limit_of_time_after_a_cancel),
        T(test_a_worker_that_ends),
        T(test_the_lease),
        T(test_the_grace_of_a_lease),
        T(test_a_lease_that_ends_meanwhile),
        T(test_a_lease_that_ends_meanwhile_detached),
        T(test_a_new_worker),
        T(test_the_keeper_is_killed),
        T(test_the_guardian_is_killed),
    };

    if (argc == 3) {
        return streq(argv[1], "heed") ? heed(argv[2]) : hurry(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
