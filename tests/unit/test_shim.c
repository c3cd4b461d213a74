/* The shim as the worker sees it: the real program, real processes, short times. */
#include "tests/unit/nopidfd.h"
#include "tests/unit/shimrun.h"

#include "internal/str.h"
#include "pkg/executors/fault.h"
#include "pkg/executors/plan.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define NOBODY 65534

/* ---- how a task ends by itself ---- */

static void test_success(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "printf out; printf err >&2; pwd -P; test -z \"$(cat)\"");
    run_all(r, &e);
    assert_true(e.launched);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 0);
    assert_int_equal(e.signal, 0);
    assert_false(e.oom);
    assert_int_equal(e.stderr_bytes, 3);
    assert_true(e.max_rss_kb > 0);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    char *err CLEANUP(freep) = run_log(r, "stderr");
    assert_int_equal(e.stdout_bytes, strlen(out));
    assert_memory_equal(out, "out/", 4); /* the working directory follows */
    assert_string_equal(err, "err");
}

static void test_exit_code(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "exit 3");
    run_all(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 3);
    assert_int_equal(shim_log_size(r->dir, "stdout"), 0);
}

static void test_signal(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "kill -SEGV $$");
    run_all(r, &e);
    assert_true(e.launched);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, -1);
    assert_int_equal(e.signal, SIGSEGV);
}

/* What the shell says of its environment, limits, signals and descriptors. */
static void test_surroundings(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    buf_add(&r->plan.env, "A=first", 8);
    buf_add(&r->plan.env, "A=two words", 12);
    assert_int_equal(setenv("SJE_SECRET", "of the worker", 1), 0);
    signal(SIGPIPE, SIG_IGN); /* as in the worker, and inherited */
    /* Of the signals the first 28; sanitizers and shells differ in their own. */
    run_sh(r, "env | grep -v -e ^PWD= -e ^_= -e ^PATH= -e ^SHLVL= -e ^SJE_TOKEN=; ulimit -c;"
              "grep ^SigBlk /proc/$$/status | tail -c 8; grep ^SigIgn /proc/$$/status | tail -c 8;"
              "test $(ps -o sid= -p $$) = $$ && echo session; ls /proc/self/fd | wc -l");
    run_all(r, &e);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    assert_string_equal(out, "A=two words\n0\n0000000\n0000000\nsession\n4\n");
    signal(SIGPIPE, SIG_DFL);
    unsetenv("SJE_SECRET");
}

static void test_stdin_file(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    assert_int_equal(shimdir_write_file(r->dir, "stdin", "a\0b", 3, NULL), 0);
    r->plan.stdin_file = xasprintf("%s/stdin", r->dir);
    run_sh(r, "wc -c");
    run_all(r, &e);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    assert_int_equal(str_trim(str_of(out)).p[0], '3');
}

static void test_binary_output(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    struct buf b CLEANUP(buf_free) = {0};
    int64_t offset = 0;
    int64_t size = 0;

    run_sh(r, "printf 'a\\000\\377\\n\\200b'");
    run_all(r, &e);
    buf_init(&b, 100);
    assert_int_equal(shim_log_read(r->dir, "stdout", 1, 100, &b, &offset, &size, NULL), 0);
    assert_int_equal(size, 6);
    assert_int_equal(offset, 1);
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.data, "\0\377\n\200b", 5);
}

/* ---- what cannot be started ---- */

static void launch_fails(struct run *r, const char *message)
{
    struct exec_exit e;

    run_all(r, &e);
    assert_false(e.launched);
    assert_string_equal(e.reason, "launch");
    assert_int_equal(e.exit_code, -1);
    assert_string_equal(e.message, message);
    assert_true(*e.stage && e.error > 0); /* whose fault it is does not hang on a text */
}

static void test_no_program(void **state)
{
    struct run *r = *state;

    run_arg(r, "no-such-program");
    launch_fails(r, "cannot run \"no-such-program\": No such file or directory");
}

static void test_not_executable(void **state)
{
    struct run *r = *state;

    run_arg(r, "/dev/null");
    launch_fails(r, "cannot run \"/dev/null\": Permission denied");
}

static void test_no_interpreter(void **state)
{
    struct run *r = *state;
    char *path CLEANUP(freep) = xasprintf("%s/script", r->dir);

    assert_int_equal(shimdir_write_file(r->dir, "script", "#!/no/such\n", 11, NULL), 0);
    assert_int_equal(chmod(path, 0700), 0);
    run_arg(r, "../script");
    launch_fails(r, "cannot run \"../script\": its interpreter is missing");
}

/* No shell is asked what the kernel does not know. */
static void test_no_shell(void **state)
{
    struct run *r = *state;
    char *path CLEANUP(freep) = xasprintf("%s/script", r->dir);

    assert_int_equal(shimdir_write_file(r->dir, "script", "echo ran\n", 9, NULL), 0);
    assert_int_equal(chmod(path, 0700), 0);
    run_arg(r, "../script");
    launch_fails(r, "cannot run \"../script\": Exec format error");
}

/* The task's own PATH, the first that can be executed. */
static void test_path(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    char *first CLEANUP(freep) = xasprintf("%s/work/probe", r->dir);
    char *second CLEANUP(freep) = xasprintf("%s/probe", r->dir);

    assert_int_equal(shimdir_write_file(r->dir, "probe", "#!/bin/sh\necho found\n", 21, NULL), 0);
    close(open(first, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    assert_int_equal(chmod(second, 0700), 0);
    buf_addf(&r->plan.env, "PATH=/no/such:/dev/null:%s/work:%s:/bin", r->dir, r->dir);
    buf_addc(&r->plan.env, '\0');
    run_arg(r, "probe");
    run_all(r, &e);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    assert_string_equal(out, "found\n");
}

static void test_no_cwd(void **state)
{
    struct run *r = *state;

    str_replace_owned(&r->plan.cwd, "/no/\"such\n");
    run_arg(r, "true");
    launch_fails(r, "cannot change to directory \"/no/\"such\n\": No such file or directory");
}

static void need(struct run *r, const char *text)
{
    buf_reset(&r->plan.needs);
    buf_add(&r->plan.needs, text, strlen(text) + 1);
}

static void test_files_that_a_task_needs(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    need(r, "app:/bin/sh");
    buf_adds(&r->plan.needs, "dependency:/bin");
    buf_addc(&r->plan.needs, '\0');
    run_sh(r, "printf ran");
    run_all(r, &e);
    assert_true(e.launched);
}

static void test_no_application(void **state)
{
    struct run *r = *state;

    need(r, "app:/no/such.py");
    run_arg(r, "true");
    launch_fails(r, "sparkAppPath /no/such.py cannot be read: No such file or directory");
}

static void test_an_application_that_is_a_directory(void **state)
{
    struct run *r = *state;

    need(r, "app:/bin");
    run_arg(r, "true");
    launch_fails(r, "sparkAppPath /bin is not a file");
}

static void test_an_application_that_is_no_jar(void **state)
{
    struct run *r = *state;

    need(r, "jar:/bin/sh");
    run_arg(r, "true");
    launch_fails(r, "sparkAppPath /bin/sh is not a jar file");
}

static void test_no_dependency(void **state)
{
    struct run *r = *state;

    need(r, "dependency:/no/such.csv");
    run_arg(r, "true");
    launch_fails(r, "dependency /no/such.csv cannot be read: No such file or directory");
}

static void test_no_stdin(void **state)
{
    struct run *r = *state;

    r->plan.stdin_file = xstrdup("/no/such");
    run_arg(r, "true");
    launch_fails(r, "cannot open standard input \"/no/such\": No such file or directory");
}

static void hostile_plan(struct run *r, const char *text, size_t n, const char *message)
{
    struct exec_exit e;
    char *record CLEANUP(freep) = xasprintf("%s/exit.json", r->dir);

    assert_int_equal(shimdir_write_file(r->dir, "plan", text, n, NULL), 0);
    run_spawn(r);
    run_hello(r);
    assert_int_equal(r->task, 0);
    run_end(r, &e);
    assert_string_equal(e.reason, "launch");
    assert_string_equal(e.message, message);
    close(r->conn);
    r->conn = -1;
    assert_int_equal(unlink(record), 0);
}

static void test_hostile_plan(void **state)
{
#define PLAN(text, message) hostile_plan(r, text, sizeof(text), message)
    struct run *r = *state;
    char *plan CLEANUP(freep) = xasprintf("%s/plan", r->dir);

    hostile_plan(r, "", 0, "the plan is empty or too large");
    hostile_plan(r, "version=1\0arg=true", 18, "the plan is cut off");
    PLAN("", "the plan is not of version 1");
    PLAN("version=2\0arg=true", "the plan is not of version 1");
    PLAN("arg=true\0version=1", "the plan is not of version 1");
    PLAN("version=1\0logLimit=1000", "the plan names no program");
    PLAN("version=1\0logLimit=1000\0arg=", "the plan names no program");
    PLAN("version=1\0arg=true", "the plan has no logLimit");
    PLAN("version=1\0arg=true\0logLimit=-1", "the plan has a number that is none");
    PLAN("version=1\0arg=true\0logLimit=99999999999999999999",
         "the plan has a number that is none");
    PLAN("version=1\0arg=true\0logLimit=9\0graceMs=", "the plan has a number that is none");
    PLAN("version=1\0arg=true\0logLimit=9\0env=A", "the plan has a record that is not known");
    PLAN("version=1\0arg=true\0logLimit=9\0what=1", "the plan has a record that is not known");
    PLAN("version=1\0arg=true\0logLimit=9\0onLease=x", "the plan has a record that is not known");
    PLAN("version=1\0arg=true\0logLimit=9\0user=7",
         "the plan's user has no group, or its group no user");
    PLAN("version=1\0arg=true\0logLimit=9\0group=7",
         "the plan's user has no group, or its group no user");
    PLAN("version=1\0arg=true\0logLimit=9\0user=4294967295\0group=7",
         "the plan's user has no group, or its group no user");
    PLAN("version=1\0arg=true\0logLimit=9\0user=7\0group=-1", "the plan has a group that is none");
    PLAN("version=1\0arg=true\0\0", "the plan has a record without '='");
    assert_int_equal(unlink(plan), 0);
    assert_int_equal(symlink("/etc/hostname", plan), 0);
    run_spawn(r);
    run_hello(r);
    struct exec_exit e;
    run_end(r, &e);
    assert_string_equal(e.message, "the plan cannot be opened");
}

/* Starts it, as nobody, with a limit of its own. */
static void spawn_limited(struct run *r, int resource, rlim_t most)
{
    char *program CLEANUP(freep) = shim_program();
    char *plan CLEANUP(freep) = xasprintf("%s/plan", r->dir);
    const struct rlimit limit = {most, most};
    int fd = open(program, O_RDONLY | O_CLOEXEC);

    run_plan(r);
    assert_true(fd >= 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(r->dir, NOBODY, NOBODY), 0);
        assert_int_equal(chown(plan, NOBODY, NOBODY), 0);
    }
    r->shim = fork();
    if (r->shim == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
        if ((geteuid() != 0 || setuid(NOBODY) == 0) &&
            setrlimit((__rlimit_resource_t)resource, &limit) == 0) {
            fexecve(fd, (char *[]){program, r->dir, NULL}, (char *[]){NULL});
        }
        _exit(99);
    }
    close(fd);
}

/* What limits the shim limits its sanitizer too, which then speaks for it. */
#ifdef __SANITIZE_ADDRESS__
#define NOT_SANITIZED() skip()
#else
#define NOT_SANITIZED() (void)0
#endif

/* A node that has no room for another process. */
static void test_no_guardian(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    NOT_SANITIZED();
    run_sh(r, "touch ran");
    spawn_limited(r, RLIMIT_NPROC, 0);
    assert_int_equal(run_wait(r), 0);
    assert_int_equal(shim_exit_read(r->dir, &e, NULL), 0);
    assert_false(e.launched);
    assert_string_equal(e.reason, "launch");
    assert_string_equal(e.stage, "fork");
    assert_int_equal(e.error, EAGAIN);
}

/* Wherever it runs out of them: the task runs, or the node is to blame. */
static void test_few_descriptors(void **state)
{
    int unable = 0;
    int launched = 0;
    int refused = 0;
    struct task_spec spec = {.job_type = JOB_COMMAND};
    struct exec_attempt a = {.spec = &spec};

    (void)state;
    NOT_SANITIZED();
    for (rlim_t most = 0; most < 24; most++) {
        struct run r;
        struct exec_exit e = {0};

        run_init(&r);
        run_arg(&r, "/bin/true");
        freep(&r.plan.cwd);
        r.plan.cwd = NULL;
        spawn_limited(&r, RLIMIT_NOFILE, most);
        int status = run_wait(&r);
        if (status == SHIM_UNABLE) {
            unable++;
            assert_int_equal(shim_exit_read(r.dir, &e, NULL), ERR_NOT_FOUND);
            shim_exit_unable(&e);
        } else {
            assert_int_equal(status, 0);
            assert_int_equal(shim_exit_read(r.dir, &e, NULL), 0);
            launched += e.launched;
            refused += !e.launched;
        }
        assert_true(e.launched || exec_fault_of_exit(&a, &e) == EXEC_FAULT_NODE);
        run_done(&r);
    }
    assert_true(unable && refused && launched);
}

static void test_fence(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    assert_int_equal(shim_fence(r->dir, NULL), 0);
    assert_int_equal(shim_fence(r->dir, NULL), 0);
    run_sh(r, "touch ran");
    assert_int_equal(shim_plan_write(r->dir, &r->plan, &r->limits, NULL), 0);
    run_spawn(r);
    assert_int_equal(run_wait(r), 1);
    assert_int_equal(shim_exit_read(r->dir, &e, NULL), ERR_NOT_FOUND);
}

/* ---- how a task is ended ---- */

static const char *const stubborn = "trap '' TERM; (trap '' TERM; sleep 1000 & : > ready; wait) & "
                                    "while :; do sleep 1000; done";

static void test_timeout(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.timeout_ms = 200;
    run_fifo(r);
    run_sh(r, stubborn);
    run_start(r);
    run_ready(r);
    run_end(r, &e);
    assert_string_equal(e.reason, "timeout");
    assert_int_equal(e.signal, SIGKILL);
    assert_true(e.finished_at - e.started_at >= 300); /* with the grace */
}

static void test_timeout_heard(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.timeout_ms = 100;
    r->limits.grace_ms = WAIT_MS;
    run_sh(r, "trap 'echo bye; exit 5' TERM; sleep 1000 & wait");
    run_all(r, &e);
    assert_string_equal(e.reason, "timeout");
    assert_int_equal(e.exit_code, 5);
    assert_int_equal(e.stdout_bytes, 4);
}

static void test_lease_over(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.lease_until = clock_boot_ms() + 200;
    run_fifo(r);
    run_sh(r, stubborn);
    run_start(r);
    run_ready(r);
    run_end(r, &e);
    assert_string_equal(e.reason, "lease");
    assert_string_equal(e.message, ""); /* a worker is connected */
    assert_int_equal(e.signal, SIGKILL);
}

static void test_lease_over_without_a_worker(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.lease_until = clock_boot_ms() + 400;
    run_sh(r, "sleep 1000");
    run_start(r);
    close(r->conn);
    r->conn = -1;
    run_end(r, &e);
    assert_string_equal(e.reason, "lease");
    assert_string_equal(e.message, PLAN_AWAY);
}

/* However long the grace is: the next attempt will not wait. */
static void test_lease_grace_is_short(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    int64_t start = clock_boot_ms();

    r->limits.lease_until = start + 100;
    r->limits.grace_ms = WAIT_MS;
    run_sh(r, stubborn);
    run_fifo(r);
    run_start(r);
    run_ready(r);
    run_end(r, &e);
    assert_string_equal(e.reason, "lease");
    assert_true(clock_boot_ms() - start < 100 + PLAN_LEASE_GRACE_MS + 2000);
}

static void test_lease_cuts_grace(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_sh(r, stubborn);
    run_start(r);
    run_ready(r);
    char *lease CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", clock_boot_ms() + 100);
    run_say(r, "stop cancel 50000\n");
    run_say(r, lease);
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.signal, SIGKILL);
}

/* Without TERM: the program must not notice and tell the cluster. */
static void test_lease_detach(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.lease_until = clock_boot_ms() + 200;
    r->plan.detach = true;
    run_sh(r, "trap 'echo heard' TERM; while :; do sleep 1000 & wait; done");
    run_all(r, &e);
    assert_string_equal(e.reason, "lease");
    assert_int_equal(e.signal, SIGKILL);
    assert_int_equal(e.stdout_bytes, 0);
}

/* What runs in a cluster is ended there by a cancel alone; else only the attempt ends. */
static void test_stop_detach(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->plan.detach = true;
    run_fifo(r);
    run_sh(r, stubborn);
    run_start(r);
    run_ready(r);
    run_say(r, "stop shutdown 50000\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "shutdown");
    assert_int_equal(e.signal, SIGKILL);
}

static void test_cancel_detach(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->plan.detach = true;
    run_fifo(r);
    run_sh(r, "trap 'exit 7' TERM; : > ready; while :; do sleep 1000 & wait; done");
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 50000\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.exit_code, 7);
}

/* A program that asked for it begins with SIGTERM blocked, and with nothing else. (A shell would
 * clear that at once.) */
static void test_term_held(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->plan.hold_term = true;
    run_arg(r, "grep");
    run_arg(r, "-q");
    run_arg(r, "^SigBlk:.0*4000$");
    run_arg(r, "/proc/self/status");
    run_all(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 0);
}

static void test_lease_renewed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.lease_until = clock_boot_ms() + 300;
    run_sh(r, "sleep 0.6; echo alive");
    run_start(r);
    char *line CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", clock_boot_ms() + WAIT_MS);
    run_say(r, line);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 0);
    assert_int_equal(e.stdout_bytes, 6);
}

/* All that a process has written and still has in memory is locked. */
static bool is_locked(pid_t pid)
{
    char path[64];
    char line[256];
    char access[8] = "";
    long rss = 0;
    long locked = 0;
    bool all = true;

    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        (void)sscanf(line, "%*[0-9a-f]-%*[0-9a-f] %7s", access);
        (void)sscanf(line, "Rss: %ld", &rss);
        if (sscanf(line, "Locked: %ld", &locked) == 1 && strncmp(access, "rw", 2) == 0) {
            all = all && (rss == 0 || locked > 0);
        }
    }
    fclose(f);
    return all;
}

/* With the first renewal: no swap can keep it from ending the task. */
static void test_memory_is_locked(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    char line[64];

    NOT_SANITIZED();
    if (geteuid() != 0) {
        skip(); /* its limit may be too low */
    }
    run_sh(r, "exec sleep 1000");
    run_start(r);
    pid_t guardian = run_guardian(r);
    assert_false(is_locked(guardian));
    snprintf(line, sizeof(line), "lease %" PRId64 "\n", clock_boot_ms() + WAIT_MS);
    run_say(r, line);
    for (int64_t end = clock_boot_ms() + WAIT_MS; !is_locked(guardian); poll(NULL, 0, 1)) {
        assert_true(clock_boot_ms() < end);
    }
    run_say(r, "stop cancel 0\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
}

/* Where it may not be, the record says so. */
static void test_memory_cannot_be_locked(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    char line[64];

    NOT_SANITIZED();
    char *go CLEANUP(freep) = xasprintf("%s/go", r->dir);
    freep(&r->plan.cwd);
    r->plan.cwd = NULL;
    run_sh(r, "while ! [ -e go ]; do sleep 0.01; done");
    spawn_limited(r, RLIMIT_MEMLOCK, 0);
    while (shim_connect(r->dir, &r->conn, NULL) < 0) {
        poll(NULL, 0, 1);
    }
    run_hello(r);
    snprintf(line, sizeof(line), "lease %" PRId64 "\nnonsense\n", clock_boot_ms() + WAIT_MS);
    run_say(r, line);
    assert_string_equal(run_line(r), ""); /* it has read that */
    close(r->conn);
    r->conn = -1;
    int fd = open(go, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_non_null(strstr(e.message, "RLIMIT_MEMLOCK"));
}

static void test_lease_over_before(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    r->limits.lease_until = clock_boot_ms() - 1;
    run_sh(r, "echo ran");
    run_all(r, &e);
    assert_int_equal(r->task, 0);
    assert_false(e.launched);
    assert_string_equal(e.reason, "lease");
    assert_int_equal(e.stdout_bytes, 0);
}

static void test_stop(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_sh(r, stubborn);
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 100\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.signal, SIGKILL);
}

/* The first reason stays, a shorter grace counts. */
static void test_stop_twice(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_sh(r, stubborn);
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 1000000\nstop shutdown 0\nstop revoked 1000000\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.signal, SIGKILL);
}

static const char *const stops_itself = "trap 'exit 7' TERM; kill -STOP $$; exit 0";

static void wakes_and_hears(struct run *r)
{
    struct exec_exit e;

    while (process_state(r->task, NULL) != 'T') { /* until it has stopped itself */
        poll(NULL, 0, 1);
    }
    run_say(r, "stop cancel 5000\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.exit_code, 7);
}

static void test_stop_wakes_stopped(void **state)
{
    struct run *r = *state;

    run_sh(r, stops_itself);
    run_start(r);
    wakes_and_hears(r);
}

/* This program becomes the shim, see main(). */
static void without_pidfd(struct run *r, int error)
{
    if (!can_deny_pidfd()) {
        skip();
    }
    char *shim CLEANUP(freep) = shim_program();
    char *self CLEANUP(freep) = own_program();
    char *number CLEANUP(freep) = xasprintf("%d", error);
    run_sh(r, stops_itself);
    run_plan(r);
    run_spawn_as(r, (char *[]){self, number, shim, r->dir, NULL});
    run_hello(r);
    wakes_and_hears(r);
}

static void test_stop_on_an_old_kernel(void **state)
{
    without_pidfd(*state, ENOSYS);
}

static void test_stop_in_an_old_container(void **state)
{
    without_pidfd(*state, EPERM);
}

/* Its size is another one whenever it is looked at: it is the same process. */
static int breathe(const char *ready)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = page;
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    close(open(ready, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    for (size_t i = 0; p != MAP_FAILED; i++) {
        size_t next = page * (1 + i % 1000);
        p = mremap(p, size, next, MREMAP_MAYMOVE);
        size = next;
    }
    return 1;
}

static void test_stop_of_one_that_breathes(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    char *self CLEANUP(freep) = own_program();
    char *script CLEANUP(freep) = xasprintf("exec '%s' breathe ready", self);

    run_fifo(r);
    run_sh(r, script);
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 10000\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.signal, SIGTERM);
}

static void test_term_to_shim(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "sleep 1000");
    run_start(r);
    assert_int_equal(kill(r->shim, SIGHUP), 0); /* is ignored */
    assert_int_equal(kill(r->shim, SIGTERM), 0);
    run_end(r, &e);
    assert_string_equal(e.reason, "shutdown");
    assert_non_null(strstr(e.message, ") was told by SIGTERM to end it"));
    assert_int_equal(e.signal, SIGTERM);
}

/* ---- when a part of the shim is killed or stands still ---- */

/* Its main process, and one in a session of its own that nothing tells but its parents. */
static const char *const detached =
    "env -i setsid sh -c 'echo $$ > pid; : > ready; exec sleep 1000' & exec sleep 1000";

static pid_t start_detached(struct run *r, const char *script)
{
    run_fifo(r);
    run_sh(r, script);
    run_start(r);
    run_ready(r);
    return run_number(r, "pid");
}

/* Nobody is left who could say what became of it, and nothing of it. */
static void nothing_left(struct run *r, pid_t stray)
{
    struct exec_exit e;

    assert_string_equal(run_line(r), "");
    process_gone(r->task);
    process_gone(stray);
    assert_int_equal(shim_exit_read(r->dir, &e, NULL), ERR_NOT_FOUND);
    assert_int_equal(shim_fence(r->dir, NULL), 0);
    assert_int_equal(run_strays(r), 0);
}

static void test_keeper_killed(void **state)
{
    struct run *r = *state;
    pid_t stray = start_detached(r, detached);

    assert_int_equal(shim_fence(r->dir, NULL), ERR_BUSY);
    assert_int_equal(kill(r->shim, SIGKILL), 0);
    run_wait(r);
    nothing_left(r, stray);
}

/* What is sent to the group of the process that the worker started is not sent to both. */
static void test_keepers_group_killed(void **state)
{
    struct run *r = *state;
    pid_t stray = start_detached(r, detached);

    assert_int_equal(kill(-r->shim, SIGKILL), 0);
    run_wait(r);
    nothing_left(r, stray);
}

static void lost_by_guardian(struct run *r, pid_t stray, const char *reason, const char *part)
{
    struct exec_exit e;

    assert_string_equal(run_line(r), ""); /* without a bye */
    close(r->conn);
    r->conn = -1;
    run_end(r, &e);
    assert_string_equal(e.reason, reason);
    assert_true(e.launched);
    if (!strstr(e.message, part)) {
        fail_msg("%s", e.message);
    }
    assert_false(process_runs(r->task));
    assert_false(process_runs(stray));
}

static void test_guardian_killed(void **state)
{
    struct run *r = *state;
    pid_t stray = start_detached(r, detached);

    assert_int_equal(kill(run_guardian(r), SIGKILL), 0);
    lost_by_guardian(r, stray, "crash", ") was killed by SIGKILL; what was left");
}

/* Its program has succeeded, but that is not known: what it left behind was still to be killed. */
static void test_guardian_killed_at_the_end(void **state)
{
    struct run *r = *state;
    pid_t stray = start_detached(r, "mkfifo go; env -i setsid sh -c 'echo $$ > pid; : > ready;"
                                    "exec sleep 1000' & read line < go");
    pid_t guardian = run_guardian(r);
    char *path CLEANUP(freep) = xasprintf("%s/work/go", r->dir);

    process_stop(guardian);
    close(open(path, O_WRONLY | O_CLOEXEC));
    process_gone(r->task);
    assert_int_equal(kill(guardian, SIGKILL), 0);
    lost_by_guardian(r, stray, "crash", ") was killed by SIGKILL; what was left");
}

/* SIGSTOP stands for whatever keeps a process from running. */
static void test_guardian_stopped(void **state)
{
    struct run *r = *state;
    pid_t stray = start_detached(r, detached);
    char *lease CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", clock_boot_ms() + 500);
    int64_t start = clock_boot_ms();

    run_say(r, lease);
    poll(NULL, 0, 100); /* until it is taken */
    process_stop(run_guardian(r));
    lost_by_guardian(r, stray, "lease", ") stood still at the end of its lease");
    int64_t took = clock_boot_ms() - start;
    assert_true(took >= 500 + PLAN_LEASE_GRACE_MS && took < 500 + PLAN_LEASE_GRACE_MS + 2500);
}

/* The keeper stands still: deadlines hold, orders are obeyed, and the record comes when it can. */
static void after_keeper_stopped(struct run *r, const char *reason)
{
    struct exec_exit e;

    process_gone(r->task);
    assert_int_equal(shim_exit_read(r->dir, &e, NULL), ERR_NOT_FOUND);
    assert_int_equal(kill(r->shim, SIGCONT), 0);
    run_end(r, &e);
    assert_string_equal(e.reason, reason);
}

static void test_keeper_stopped_lease(void **state)
{
    struct run *r = *state;
    pid_t stray =
        start_detached(r, "env -i setsid sh -c 'echo $$ > pid; : > ready; exec sleep 1000' &"
                          "while :; do echo much; done");
    int64_t start = clock_boot_ms();

    process_stop(r->shim);
    char *first CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", start + 500);
    char *renewed CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", start + 1000);
    run_say(r, first);
    poll(NULL, 0, 100);
    run_say(r, renewed);
    process_gone(stray);
    int64_t took = clock_boot_ms() - start;
    assert_true(took >= 1000 && took < 1000 + PLAN_LEASE_GRACE_MS + 1000);
    after_keeper_stopped(r, "lease");
}

static void test_keeper_stopped_timeout(void **state)
{
    struct run *r = *state;

    r->limits.timeout_ms = 700;
    start_detached(r, detached);
    process_stop(r->shim);
    after_keeper_stopped(r, "timeout");
}

static void test_keeper_stopped_cancel(void **state)
{
    struct run *r = *state;

    start_detached(r, detached);
    process_stop(r->shim);
    run_say(r, "stop cancel 100\n");
    after_keeper_stopped(r, "cancel");
}

/* Nobody holds the lease: the main process goes at once, the rest is for the worker to find. */
static void test_both_killed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    if (syscall(SYS_pidfd_open, getpid(), 0) < 0) {
        skip(); /* valgrind 3.19 does not know it */
    }
    run_fifo(r);
    /* What is just executing a program has no environment. */
    run_sh(r, "setsid sh -c ': > ready; sleep 1000; :' & exec sleep 1000");
    run_start(r);
    run_ready(r);
    pid_t guardian = run_guardian(r);
    process_stop(guardian);
    assert_int_equal(kill(r->shim, SIGKILL), 0);
    assert_int_equal(kill(guardian, SIGKILL), 0);
    run_wait(r);
    process_gone(guardian);
    process_gone(r->task);
    assert_int_equal(shim_exit_read(r->dir, &e, NULL), ERR_NOT_FOUND);
    assert_int_equal(shim_fence(r->dir, NULL), 0);
    int seen = 0;
    for (int left = 1; left;) {
        left = run_strays(r);
        seen += left;
    }
    assert_true(seen >= 1); /* the one in a session of its own */
}

/* ---- what a task leaves behind ---- */

static void test_daemon_is_killed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_sh(r, "setsid sh -c 'setsid sleep 1000 & sleep 1000 & : > ready; wait' &"
              "cat ready; echo done; exit 4");
    run_all(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 4);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    assert_string_equal(out, "done\n");
}

/* Each link forks the next and ends: a list of processes is out of date before it is read. */
static void test_chain_is_killed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_self(r, "chain", "ready");
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 0\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_string_equal(e.message, "");
}

/* They are told as far as they can be found, and there is an end to it. */
static void test_chain_with_a_grace(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_self(r, "chain", "ready");
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 300\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    assert_int_equal(e.signal, SIGTERM); /* the main process, which waits */
}

static void test_many_children(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_sh(r, "for i in 1 2 3 4 5 6 7 8 9 10; do sh -c 'for j in 1 2 3 4 5 6 7 8 9 10; do "
              "sleep 1000 & done; wait' & done; : > ready; wait");
    run_start(r);
    run_ready(r);
    run_say(r, "stop cancel 1000\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
}

/* Where the shim makes its record. */
static void test_a_fifo_in_the_records_place(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "rm -f ../exit.json.tmp; mkfifo ../exit.json.tmp; exit 4");
    run_all(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 4);
}

static void test_a_link_in_the_records_place(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "ln -sf work/other ../exit.json.tmp; exit 4");
    run_all(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 4);
    char *other CLEANUP(freep) = xasprintf("%s/work/other", r->dir);
    assert_int_equal(access(other, F_OK), -1);
}

/* ---- the log ---- */

#define COUNTER_BYTES 8

/* Checks that every 8 bytes are their own offset; returns how many bytes there are from `from` on.
 */
static int64_t check_counters(struct run *r, int64_t from, int64_t to)
{
    struct buf b CLEANUP(buf_free) = {0};
    int64_t seen = 0;

    buf_init(&b, 64 * 1024);
    while (from < to) {
        int64_t offset = 0;
        int64_t size = 0;

        buf_reset(&b);
        assert_int_equal(shim_log_read(r->dir, "stdout", from, 64 * 1024, &b, &offset, &size, NULL),
                         0);
        assert_true(b.len > 0 && b.len % COUNTER_BYTES == 0 && offset % COUNTER_BYTES == 0);
        for (size_t i = 0; i < b.len; i += COUNTER_BYTES) {
            int64_t n = 0;
            assert_true(str_to_i64((struct str){b.data + i, COUNTER_BYTES - 1}, 0, INT64_MAX, &n));
            assert_int_equal(n * COUNTER_BYTES, offset + (int64_t)i);
        }
        seen += (int64_t)b.len;
        from = offset + (int64_t)b.len;
    }
    return seen;
}

static void test_output_is_bounded(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    int64_t total = INT64_C(64) << 20;
    int64_t segment = r->limits.log_limit / PLAN_SEGMENTS;
    struct buf b CLEANUP(buf_free) = {0};
    int64_t offset = 0;
    int64_t size = 0;

    run_self(r, "print", "8388608");
    run_all(r, &e);
    assert_int_equal(e.stdout_bytes, total);
    assert_int_equal(e.dropped_bytes, 0);
    assert_int_equal(shim_log_size(r->dir, "stdout"), total);
    /* The first eighth, then the last seven. */
    assert_int_equal(check_counters(r, 0, total), r->limits.log_limit);
    buf_init(&b, 64 * 1024);
    assert_int_equal(shim_log_read(r->dir, "stdout", segment, 8, &b, &offset, &size, NULL), 0);
    assert_int_equal(offset, total - 7 * segment);
    buf_reset(&b);
    assert_int_equal(shim_log_tail(r->dir, "stdout", 16, &b, NULL), 0);
    assert_string_equal(b.data, "8388606\n8388607\n");
}

static void test_log_grows(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_fifo(r);
    run_sh(r, "echo one; : > ready; cat ready; echo two");
    run_start(r);
    run_ready(r);
    for (int64_t size = 0; size < 4;) { /* until the shim has taken it from the pipe */
        size = shim_log_size(r->dir, "stdout");
        assert_true(size == 0 || size == 4);
    }
    char *path CLEANUP(freep) = xasprintf("%s/work/ready", r->dir);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    close(fd);
    run_end(r, &e);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    assert_string_equal(out, "one\ntwo\n");
}

/* A file-size limit stands for the full disk. */
static void test_disk_full(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    struct rlimit old;

    signal(SIGXFSZ, SIG_IGN);
    run_self(r, "print", "131072");
    assert_int_equal(shim_plan_write(r->dir, &r->plan, &r->limits, NULL), 0);
    getrlimit(RLIMIT_FSIZE, &old);
    struct rlimit small = {16384, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    run_spawn(r);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_DFL);
    run_hello(r);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 0);
    assert_int_equal(e.stdout_bytes, 1 << 20);
    assert_true(e.dropped_bytes > 0 && e.dropped_bytes <= (1 << 20) - 16384);
    assert_int_equal(check_counters(r, 0, shim_log_size(r->dir, "stdout")),
                     e.stdout_bytes - e.dropped_bytes);
}

/* ---- the control socket ---- */

static void reconnect(struct run *r)
{
    if (r->conn >= 0) {
        close(r->conn);
    }
    r->len = 0;
    assert_int_equal(shim_connect(r->dir, &r->conn, NULL), 0);
    run_hello(r);
}

static void test_worker_restarts(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    struct stat st;
    char *sock CLEANUP(freep) = xasprintf("%s/sock", r->dir);

    run_sh(r, "sleep 1000");
    run_start(r);
    pid_t task = r->task;
    close(r->conn);
    r->conn = -1;
    assert_int_equal(stat(sock, &st), 0);
    assert_int_equal(st.st_mode & 0077, 0);
    for (int i = 0; i < 10; i++) {
        reconnect(r);
        assert_int_equal(r->task, task);
    }
    run_say(r, "stop shutdown 100\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "shutdown");
    assert_int_equal(shim_connect(r->dir, &r->conn, NULL), ERR_NOT_FOUND);
}

/* ---- started in advance ---- */

static void await_task(struct run *r, char *title)
{
    static char wait[] = "--wait";

    run_spawn_as(r, (char *[]){NULL, wait, title, NULL});
}

static void test_started_in_advance(void **state)
{
    struct run *r = *state;
    char title[sizeof(r->dir)] = "";
    char path[64];
    char shown[2 * sizeof(r->dir)] = "";
    struct exec_exit e;

    memset(title, '-', strlen(r->dir) + 3);
    await_task(r, title);
    run_sh(r, "sleep 1000");
    run_plan(r);
    assert_int_equal(send(r->conn, r->dir, 3, MSG_NOSIGNAL), 3);
    assert_int_equal(send(r->conn, r->dir + 3, strlen(r->dir) - 2, MSG_NOSIGNAL),
                     strlen(r->dir) - 2);
    run_hello(r);
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)r->shim);
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, shown, sizeof(shown) - 1);
    close(fd);
    assert_true(n > 0);
    const char *at = shown + strlen(shown) + 1;
    assert_string_equal(at, "--wait");
    assert_string_equal(at + strlen(at) + 1, r->dir);
    run_say(r, "stop cancel 100\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
}

static void test_started_in_advance_for_nothing(void **state)
{
    struct run *r = *state;
    char *path CLEANUP(freep) = xmalloc(5000);
    char title[] = "idle";

    await_task(r, title);
    shutdown(r->conn, SHUT_WR);
    assert_int_equal(run_wait(r), 1);
    close(r->conn);
    await_task(r, title); /* a directory that has no end */
    memset(path, 'x', 5000);
    (void)send(r->conn, path, 5000, MSG_NOSIGNAL);
    assert_int_equal(run_wait(r), 1);
    close(r->conn);
    await_task(r, title);
    assert_int_equal(send(r->conn, "/nowhere", 9, MSG_NOSIGNAL), 9);
    assert_int_equal(run_wait(r), SHIM_UNABLE);
}

/* A worker that is not there at all when the task ends. */
static void test_nobody_listens(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, "sleep 0.1; exit 9");
    run_start(r);
    close(r->conn);
    r->conn = -1;
    run_end(r, &e);
    assert_int_equal(e.exit_code, 9);
}

static void test_newest_gets_in(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    int held[10];

    run_sh(r, "sleep 1000");
    run_start(r);
    int first = r->conn;
    for (size_t i = 0; i < ARRAY_LEN(held); i++) {
        r->conn = -1;
        reconnect(r);
        held[i] = r->conn;
    }
    char byte;
    assert_int_equal(read(first, &byte, 1), 0); /* it was the oldest */
    close(first);
    run_say(r, "stop cancel 100\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
    for (size_t i = 0; i + 1 < ARRAY_LEN(held); i++) {
        close(held[i]);
    }
}

static void test_garbage(void **state)
{
    static const char *const lines[] = {"hello\n",
                                        "\n",
                                        "lease\n",
                                        "lease x\n",
                                        "lease -1\n",
                                        "lease 1 2\n",
                                        "lease 99999999999999999999\n",
                                        "stop\n",
                                        "stop cancel\n",
                                        "stop cancel x\n",
                                        "stop cancel -1\n",
                                        "stop timeout 1\n",
                                        "stop cancel 1 2\n",
                                        "stop  0\n",
                                        "STOP cancel 0\n",
                                        " stop cancel 0\n",
                                        "stop cancel 0\r\n"};
    struct run *r = *state;
    struct exec_exit e;
    char flood[100000];

    run_sh(r, "sleep 1000");
    run_start(r);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        reconnect(r);
        run_say(r, lines[i]);
        assert_string_equal(run_line(r), ""); /* dropped */
    }
    reconnect(r);
    assert_int_equal(send(r->conn, "stop\0cancel 0\n", 14, MSG_NOSIGNAL), 14);
    assert_string_equal(run_line(r), "");
    reconnect(r);
    memset(flood, 'x', sizeof(flood));
    (void)!send(r->conn, flood, sizeof(flood), MSG_NOSIGNAL | MSG_DONTWAIT);
    char byte;
    assert_true(read(r->conn, &byte, 1) <= 0);
    /* In pieces it is still a line. */
    reconnect(r);
    run_say(r, "sto");
    run_say(r, "p cancel 1");
    run_say(r, "00\n");
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
}

/* ---- this program as a task ---- */

/* Prints `count` numbers of COUNTER_BYTES bytes with the newline. */
static int print(const char *count)
{
    int64_t n = 0;

    if (!str_to_i64(str_of(count), 0, INT64_MAX, &n)) {
        return 1;
    }
    for (int64_t i = 0; i < n; i++) {
        printf("%07" PRId64 "\n", i);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

static int chain(const char *ready)
{
    if (fork() != 0) {
        pause();
    }
    int fd = open(ready, O_WRONLY | O_CLOEXEC);
    close(fd);
    for (pid_t pid = 0; pid == 0;) {
        pid = fork();
    }
    return 0;
}

static int shim_without_pidfd(const char *error, char **argv)
{
    int64_t n = 0;

    if (str_to_i64(str_of(error), 1, INT32_MAX, &n)) {
        deny_pidfd((int)n);
        execv(argv[0], argv);
    }
    return 1;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_success, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_exit_code, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_signal, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_surroundings, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stdin_file, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_binary_output, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_program, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_not_executable, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_interpreter, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_shell, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_path, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_cwd, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_files_that_a_task_needs, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_application, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_an_application_that_is_a_directory, run_setup,
                                        run_teardown),
        cmocka_unit_test_setup_teardown(test_an_application_that_is_no_jar, run_setup,
                                        run_teardown),
        cmocka_unit_test_setup_teardown(test_no_dependency, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_stdin, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_hostile_plan, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_no_guardian, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_few_descriptors, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_fence, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_timeout, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_timeout_heard, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_over, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_over_without_a_worker, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_grace_is_short, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_cuts_grace, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_detach, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop_detach, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_cancel_detach, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_term_held, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_renewed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_memory_is_locked, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_memory_cannot_be_locked, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_lease_over_before, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop_twice, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop_wakes_stopped, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop_on_an_old_kernel, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop_in_an_old_container, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_stop_of_one_that_breathes, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_term_to_shim, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_keeper_killed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_keepers_group_killed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_guardian_killed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_guardian_killed_at_the_end, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_guardian_stopped, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_keeper_stopped_lease, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_keeper_stopped_timeout, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_keeper_stopped_cancel, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_both_killed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_daemon_is_killed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_chain_is_killed, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_chain_with_a_grace, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_many_children, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_a_fifo_in_the_records_place, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_a_link_in_the_records_place, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_output_is_bounded, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_log_grows, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_worker_restarts, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_started_in_advance, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_started_in_advance_for_nothing, run_setup,
                                        run_teardown),
        cmocka_unit_test_setup_teardown(test_nobody_listens, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_newest_gets_in, run_setup, run_teardown),
        cmocka_unit_test_setup_teardown(test_garbage, run_setup, run_teardown),
    };

    if (argc == 3) {
        return streq(argv[1], "print")     ? print(argv[2])
               : streq(argv[1], "breathe") ? breathe(argv[2])
                                           : chain(argv[2]);
    }
    if (argc == 4) {
        return shim_without_pidfd(argv[1], argv + 2);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
