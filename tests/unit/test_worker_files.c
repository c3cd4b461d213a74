/* The directory of a worker: its lock, its number, and what is removed when. */
#include "internal/clock.h"
#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/strays.h"
#include "pkg/task/who.h"
#include "pkg/worker/run.h"
#include "pkg/worker/survivors.h"
#include "pkg/worker/tidy.h"
#include "pkg/worker/workdir.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR_MS (3600 * 1000LL)

static char base[64];

static int setup(void **unused)
{
    (void)unused;
    snprintf(base, sizeof(base), "/tmp/sje-test-XXXXXX");
    return mkdtemp(base) ? 0 : -1;
}

static int teardown(void **unused)
{
    (void)unused;
    return shimdir_remove(base, NULL);
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void test_a_directory_is_made(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    char *path CLEANUP(freep) = xasprintf("%s/a/./b/../b/c", base);
    char *real CLEANUP(freep) = xasprintf("%s/a/b/c", base);

    (void)unused;
    char *up CLEANUP(freep) = xasprintf("%s/a/b", base);
    char *first CLEANUP(freep) = xasprintf("%s/a", base);
    assert_int_equal(mkdir(first, 0700), 0);
    assert_int_equal(mkdir(up, 0700), 0);
    assert_int_equal(workdir_open(path, &w, NULL), 0);
    assert_string_equal(w.path, real);
    assert_true(str_ends(str_of(w.tasks), STR("/a/b/c/tasks")));
    assert_int_equal(access(w.tasks, W_OK), 0);
    workdir_close(&w);
    workdir_close(&w);
}

static void test_a_relative_directory(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    char cwd[4096];

    (void)unused;
    assert_non_null(getcwd(cwd, sizeof(cwd)));
    assert_int_equal(chdir(base), 0);
    assert_int_equal(workdir_open("./some/where", &w, NULL), 0);
    assert_int_equal(w.path[0], '/');
    assert_int_equal(chdir(cwd), 0);
    assert_int_equal(access(w.tasks, W_OK), 0);
    workdir_close(&w);
}

static void test_one_worker_at_a_time(void **unused)
{
    struct workdir a = {.lock_fd = -1};
    struct workdir b = {.lock_fd = -1};
    struct err e = {0};
    char pid[32];

    (void)unused;
    assert_int_equal(workdir_open(base, &a, NULL), 0);
    assert_int_equal(workdir_open(base, &b, &e), ERR_CONFIG);
    snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
    assert_non_null(strstr(e.text, pid));
    assert_non_null(strstr(e.text, base));
    workdir_close(&a);
    assert_int_equal(workdir_open(base, &b, &e), 0);
    workdir_close(&b);
}

static void *wait_in_vain(void *unused) __attribute__((noreturn));
static void *wait_in_vain(void *unused)
{
    (void)unused;
    for (;;) {
        pause();
    }
}

/* A process that holds the lock. end_leader: like one that ends while a thread of it hangs. */
static pid_t hold_lock(bool end_leader)
{
    struct workdir w = {.lock_fd = -1};
    pthread_t t;
    char told = 0;
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool ok =
            workdir_open(base, &w, NULL) == 0 && pthread_create(&t, NULL, wait_in_vain, NULL) == 0;
        (void)!write(ends[1], ok ? "1" : "0", 1);
        if (end_leader) {
            pthread_exit(NULL);
        }
        wait_in_vain(NULL);
    }
    close(ends[1]);
    assert_true(read(ends[0], &told, 1) == 1 && told == '1');
    close(ends[0]);
    return pid;
}

static void test_a_lock_of_a_zombie(void **unused)
{
    struct workdir w[2] = {{.lock_fd = -1}, {.lock_fd = -1}};
    struct err e = {0};

    (void)unused;
    for (int zombie = 0; zombie <= 1; zombie++) {
        pid_t pid = hold_lock(zombie);
        int64_t until = clock_boot_ms() + 10000;
        int rc = ERR_CONFIG;
        do {
            rc = workdir_open(base, &w[0], &e);
        } while (zombie && rc < 0 && clock_boot_ms() < until);
        assert_int_equal(rc, zombie ? 0 : ERR_CONFIG);
        /* Whoever comes next meets the lock that counts now, also when the old one is gone. */
        assert_int_equal(workdir_open(base, &w[1], &e), ERR_CONFIG);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(workdir_open(base, &w[1], &e), zombie ? ERR_CONFIG : 0);
        workdir_close(&w[0]);
        workdir_close(&w[1]);
    }
}

static void test_an_identity_stays_and_its_numbers_grow(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    char *path CLEANUP(freep) = xasprintf("%s/identity", base);
    struct id first;

    (void)unused;
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    first = w.uuid;
    assert_int_equal(w.incarnation, 1);
    workdir_close(&w);
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_true(id_eq(&w.uuid, &first));
    assert_int_equal(w.incarnation, 2);
    /* Somebody used a later number: it is left behind for good. */
    assert_int_equal(workdir_raise(&w, 40, NULL), 0);
    assert_int_equal(w.incarnation, 41);
    assert_int_equal(workdir_raise(&w, 40, NULL), ERR_INVALID);
    /* No number that somebody made up uses all of them up. */
    assert_int_equal(workdir_raise(&w, 41 + PROCESS_AHEAD + 1, NULL), ERR_INVALID);
    assert_int_equal(workdir_raise(&w, INT64_MAX, NULL), ERR_INVALID);
    assert_int_equal(w.incarnation, 41);
    workdir_close(&w);
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_int_equal(w.incarnation, 42);
    workdir_close(&w);
    /* What holds no identity makes a new worker, not one that cannot start. */
    write_text(path, "garbage");
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_false(id_eq(&w.uuid, &first));
    assert_int_equal(w.incarnation, 1);
    workdir_close(&w);
}

/* Opens and closes: the number that it takes, 1 for a new worker. */
static int64_t next_number(const char *path)
{
    struct workdir w = {.lock_fd = -1};

    assert_int_equal(workdir_open(path, &w, NULL), 0);
    int64_t n = w.incarnation;
    workdir_close(&w);
    return n;
}

static void run_shell(const char *script)
{
    char *command CLEANUP(freep) = xasprintf("cd %s && %s", base, script);
    pid_t pid = fork();
    int status = -1;

    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Whoever lacks the directories of the attempts cannot speak for them. */
static void test_an_identity_is_that_of_its_tasks(void **unused)
{
    char *copy CLEANUP(freep) = xasprintf("%s/copy", base);
    char *moved CLEANUP(freep) = xasprintf("%s/moved", base);
    char *work CLEANUP(freep) = xasprintf("%s/work", base);

    (void)unused;
    assert_int_equal(next_number(work), 1);
    run_shell("cp -a work copy");
    assert_int_equal(next_number(copy), 1);
    assert_int_equal(next_number(copy), 2);
    run_shell("mv work moved");
    assert_int_equal(next_number(moved), 2);
    run_shell("mv moved/tasks tasks");
    assert_int_equal(next_number(moved), 1);
    run_shell("rm -r moved/tasks && mkdir moved/tasks");
    assert_int_equal(next_number(moved), 1);
    assert_int_equal(next_number(moved), 2);
    /* By a link, as long as that leads to the same place. */
    run_shell("mv moved/tasks far && ln -s ../far moved/tasks");
    assert_int_equal(next_number(moved), 3);
    /* Another machine; and one of which it could not be told. */
    run_shell("sed -i '3s/^[^ ]*/-/' moved/identity");
    assert_int_equal(next_number(moved), 4);
    run_shell("sed -i '3s/^[^ ]*/another/' moved/identity");
    assert_int_equal(next_number(moved), 1);
}

static void expect_node(const char *path, const char *name)
{
    struct workdir w = {.lock_fd = -1};

    assert_int_equal(workdir_open(path, &w, NULL), 0);
    assert_string_equal(w.node, name);
    workdir_close(&w);
}

/* An earlier version leaves the name out again. */
static void test_an_identity_knows_its_node(void **unused)
{
    struct workdir w = {.lock_fd = -1};

    (void)unused;
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_string_equal(w.node, "");
    assert_int_equal(workdir_name(&w, "a-node", NULL), 0);
    assert_int_equal(workdir_raise(&w, 6, NULL), 0);
    workdir_close(&w);
    run_shell("test \"$(sed -n '2p;4p' identity | tr '\\n' .)\" = 7.a-node.");
    expect_node(base, "a-node");
    assert_int_equal(next_number(base), 9);
    run_shell("sed -i 4d identity");
    expect_node(base, "");
    assert_int_equal(next_number(base), 11);
    run_shell("printf 'x%0300d\\n' 1 >>identity"); /* nothing of it matters but its start */
    assert_int_equal(next_number(base), 12);
}

static void test_an_identity_of_an_earlier_version_is_completed(void **unused)
{
    char *path CLEANUP(freep) = xasprintf("%s/identity", base);
    char *copy CLEANUP(freep) = xasprintf("%s/copy", base);
    struct workdir w = {.lock_fd = -1};
    char uuid[ID_TEXT_LEN];

    (void)unused;
    write_text(path, "01a221bb-43e5-7000-b71b-3bacdbef3fbe\n7\n");
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    id_format(&w.uuid, uuid);
    assert_string_equal(uuid, "01a221bb-43e5-7000-b71b-3bacdbef3fbe");
    assert_int_equal(w.incarnation, 8);
    workdir_close(&w);
    run_shell("mkdir copy && cp -a identity tasks copy");
    assert_int_equal(next_number(copy), 1);
    assert_int_equal(next_number(base), 9);
}

static void test_what_a_copy_has_is_not_reported(void **unused)
{
    struct id id = {{7}};
    char *dir CLEANUP(freep) = shimdir_path(base, &id, 1);

    (void)unused;
    assert_int_equal(shimdir_create(dir, NULL), 0);
    assert_false(run_is_done(base, &id, 1));
    assert_int_equal(survivors_disown(base, NULL), 0);
    assert_true(run_is_done(base, &id, 1));
}

static const char *apart(void)
{
    return geteuid() == 0 ? "-m" : "-rm";
}

enum seeming {
    KEEPER,
    GUARDIAN,
    CONTAINED, /* a file system of its own is where ours is */
};

/* What looks like a shim of the attempt in `dir`: it lives until `hold` is closed. */
static pid_t seeming_shim(const char *dir, enum seeming as, int *hold)
{
    bool contained = as == CONTAINED;
    char *text CLEANUP(freep) =
        xasprintf("%s%s && { test -x %s/sje-shim || cp /bin/sh %s/sje-shim; } && "
                  "exec %s/sje-shim -c 'exec 3>&-; read -r word' %s",
                  contained ? "mount -t tmpfs none " : "cd ", base, base, base, base, dir);
    int ends[2];
    int executed[2];
    char none = 0;

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(pipe(executed), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (as != GUARDIAN) {
            setsid();
        }
        dup2(ends[0], STDIN_FILENO);
        dup2(executed[1], 3);
        closefrom(4);
        if (contained) {
            execlp("unshare", "unshare", apart(), "/bin/sh", "-c", text, NULL);
        }
        execl("/bin/sh", "sh", "-c", text, NULL);
        _exit(1);
    }
    close(ends[0]);
    close(executed[1]);
    assert_int_equal(read(executed[0], &none, 1), 0); /* it is what it seems */
    close(executed[0]);
    *hold = ends[1];
    return pid;
}

static char *attempt_dir(uint8_t n)
{
    char *tasks CLEANUP(freep) = xasprintf("%s/tasks", base);
    struct id id = {{n}};

    return shimdir_path(tasks, &id, 1);
}

static void grant(const char *dir)
{
    static const char text[] = "{\"v\":1,\"token\":\"7\",\"leaseMs\":30000,\"slots\":1,"
                               "\"cpusMilli\":0,\"memoryMb\":0,\"spec\":{}}";

    assert_int_equal(shimdir_create(dir, NULL), 0);
    assert_int_equal(shimdir_write_file(dir, RUN_GRANT_FILE, text, strlen(text), NULL), 0);
}

static bool is_alive(pid_t pid)
{
    siginfo_t i = {0};

    return waitid(P_PID, (id_t)pid, &i, WEXITED | WNOHANG | WNOWAIT) == 0 && i.si_pid == 0;
}

static void expect_ended(pid_t pid)
{
    int status = 0;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void expect_killed(pid_t pid, int hold)
{
    assert_false(is_alive(pid));
    expect_ended(pid);
    close(hold);
}

/* Each in the directory of an attempt. */
static const char *const spoilers[] = {"rm -r ../$d",
                                       "rm grant.json",
                                       "rm -r ../$d && touch ../$d",
                                       "echo '{}' >grant.json",
                                       ": >grant.json",
                                       "truncate -s 10M grant.json",
                                       "rm grant.json && mkdir grant.json",
                                       "rm grant.json && ln -s grant.json grant.json"};

/* What one task does to its own directory must not decide over the others. The worker cannot speak
 * for such an attempt, and must not be silent of one that lives. */
static void test_a_shim_without_its_grant(void **unused)
{
    char *dir CLEANUP(freep) = attempt_dir(7);
    char *other CLEANUP(freep) = attempt_dir(8);
    int hold = -1;
    int held = -1;

    (void)unused;
    assert_int_equal(next_number(base), 1);
    grant(other);
    pid_t bystander = seeming_shim(other, KEEPER, &held);
    int64_t n = 1;
    for (size_t i = 0; i < ARRAY_LEN(spoilers); i++) {
        char *script CLEANUP(freep) =
            xasprintf("cd %s && d=%s && %s", dir, strrchr(dir, '/') + 1, spoilers[i]);
        grant(dir);
        pid_t pid = seeming_shim(dir, KEEPER, &hold);
        assert_int_equal(next_number(base), ++n);
        assert_true(is_alive(pid));
        run_shell(script);
        assert_int_equal(next_number(base), ++n);
        expect_killed(pid, hold);
        run_shell("rm -rf tasks/07*");
    }
    assert_true(is_alive(bystander));
    close(held);
    assert_int_equal(waitpid(bystander, NULL, 0), bystander);
}

/* It ends by itself once its keeper is dead; where it does not, it may run for long. */
static void test_a_shim_that_does_not_end(void **unused)
{
    char *dir CLEANUP(freep) = attempt_dir(7);
    int hold = -1;

    (void)unused;
    assert_int_equal(next_number(base), 1);
    grant(dir);
    pid_t pid = seeming_shim(dir, GUARDIAN, &hold);
    assert_int_equal(shimdir_remove(dir, NULL), 0);
    assert_int_equal(next_number(base), 1);
    expect_ended(pid); /* nobody waits for that */
    close(hold);
    assert_int_equal(next_number(base), 2);
}

/* Of the attempt in `dir`, whose task has all that is hard to end; `apart`: with mounts of its own.
 */
static pid_t true_shim(const char *dir, const char *token, bool apart)
{
    static const char script[] = "setsid sleep 300 & (setsid setsid sleep 300 &); "
                                 "trap '' TERM; echo >begun; sleep 300; sleep 300";
    char *begun CLEANUP(freep) = xasprintf("%s/begun", base);
    char *self CLEANUP(freep) = realpath("/proc/self/exe", NULL);
    char *shim CLEANUP(freep) =
        xasprintf("%.*s/../../bin/sje-shim", (int)(strrchr(self, '/') - self), self);
    char *path CLEANUP(freep) = xasprintf("PATH=%s", getenv("PATH"));
    uid_t user = geteuid();
    const char *args[] = {"sh", "-c", script};
    struct exec_plan plan CLEANUP(exec_plan_free);
    struct shim_limits l = {.lease_until = clock_boot_ms() + 60000, .log_limit = 1 << 20};

    grant(dir);
    exec_plan_init(&plan);
    for (size_t i = 0; i < ARRAY_LEN(args); i++) {
        buf_add(&plan.argv, args[i], strlen(args[i]) + 1);
    }
    buf_add(&plan.env, token, strlen(token) + 1);
    buf_add(&plan.env, path, strlen(path) + 1);
    plan.cwd = xstrdup(base);
    assert_int_equal(shim_plan_write(dir, &plan, &l, NULL), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (!apart || (seteuid(0) == 0 && unshare(CLONE_NEWNS) == 0 && seteuid(user) == 0)) {
            execl(shim, shim, dir, NULL);
        }
        _exit(127);
    }
    while (access(begun, F_OK) != 0) {
        assert_true(is_alive(pid));
        poll(NULL, 0, 10);
    }
    return pid;
}

static char *token_of_test(void)
{
    return xasprintf("SJE_TOKEN=files-%d", (int)getpid());
}

/* Nothing of the attempt is left then, whatever it has started. */
static void true_shim_without_its_directory(void)
{
    char *dir CLEANUP(freep) = attempt_dir(7);
    char *token CLEANUP(freep) = token_of_test();

    assert_int_equal(next_number(base), 1);
    pid_t pid = true_shim(dir, token, false);
    assert_int_equal(next_number(base), 2);
    assert_true(is_alive(pid));
    assert_int_equal(shimdir_remove(dir, NULL), 0);
    assert_int_equal(next_number(base), 3);
    assert_int_equal(strays_kill(&(struct strays){.token = token}), 0);
    expect_killed(pid, -1);
}

static void test_a_true_shim_without_its_directory(void **unused)
{
    (void)unused;
    true_shim_without_its_directory();
}

/* To whom /proc does not show whose it is, nor where its root is. */
static void test_a_true_shim_of_a_worker_without_rights(void **unused)
{
    (void)unused;
    if (geteuid() != 0) {
        skip(); /* that was the test before */
    }
    assert_int_equal(chmod(base, 0777), 0);
    assert_int_equal(seteuid(65534), 0);
    true_shim_without_its_directory();
    assert_int_equal(seteuid(0), 0);
}

/* A unit of systemd has mounts of its own, others with each start. Who listens in the directory is
 * known all the same. */
static void test_a_true_shim_with_other_mounts(void **unused)
{
    char *dir CLEANUP(freep) = attempt_dir(7);
    char *token CLEANUP(freep) = token_of_test();

    (void)unused;
    if (geteuid() != 0) {
        skip();
    }
    assert_int_equal(chmod(base, 0777), 0);
    assert_int_equal(seteuid(65534), 0);
    assert_int_equal(next_number(base), 1);
    pid_t pid = true_shim(dir, token, true);
    run_shell("rm tasks/*/grant.json");
    assert_int_equal(next_number(base), 2);
    assert_int_equal(strays_kill(&(struct strays){.token = token}), 0);
    expect_killed(pid, -1);
    assert_int_equal(seteuid(0), 0);
}

static int mounts_before = -1;

static bool hide_processes(void)
{
    mounts_before = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("proc", "/proc", "proc", 0, "hidepid=2,gid=65533") == 0;
}

static int show_processes(void **unused)
{
    bool shown = mounts_before < 0 || (seteuid(0) == 0 && setns(mounts_before, CLONE_NEWNS) == 0);

    if (mounts_before >= 0) {
        close(mounts_before);
    }
    mounts_before = -1;
    return shown ? teardown(unused) : -1;
}

/* Who is not shown what there is does not speak for an earlier worker: its first beat would lose
 * what runs. */
static void test_a_true_shim_that_is_hidden(void **unused)
{
    char *dir CLEANUP(freep) = attempt_dir(7);
    char *token CLEANUP(freep) = token_of_test();
    struct workdir w = {.lock_fd = -1};

    (void)unused;
    if (geteuid() != 0 || !hide_processes()) {
        skip();
    }
    assert_int_equal(chmod(base, 0777), 0);
    assert_int_equal(seteuid(65534), 0);
    assert_int_equal(next_number(base), 1);
    pid_t pid = true_shim(dir, token, false);
    assert_int_equal(shimdir_remove(dir, NULL), 0);
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_true(w.incarnation == 1 && w.is_new);
    workdir_close(&w);
    assert_true(is_alive(pid));
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    expect_ended(pid);
    while (strays_kill(&(struct strays){.token = token})) {
        poll(NULL, 0, 10);
    }
}

/* Whoever owns it can undo that. */
static void test_a_grant_without_permissions(void **unused)
{
    static const char *const scripts[] = {"chmod 0 tasks/*/grant.json", "chmod 0 tasks/*"};
    bool root = geteuid() == 0;
    char *dir CLEANUP(freep) = attempt_dir(7);
    int hold = -1;

    (void)unused;
    assert_int_equal(chmod(base, 0777), 0);
    assert_true(!root || seteuid(65534) == 0);
    assert_int_equal(next_number(base), 1);
    grant(dir);
    pid_t pid = seeming_shim(dir, KEEPER, &hold);
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        run_shell(scripts[i]);
        assert_int_equal(next_number(base), 2 + (int64_t)i);
        assert_true(is_alive(pid));
        assert_int_equal(run_has_grant(dir), 0);
    }
    assert_true(!root || seteuid(0) == 0);
    close(hold);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* A task may make a file of that name beside its output: what runs is not disowned for it. */
static void test_a_live_shim_that_is_marked(void **unused)
{
    char *dir CLEANUP(freep) = attempt_dir(7);
    int hold = -1;

    (void)unused;
    assert_int_equal(next_number(base), 1);
    grant(dir);
    pid_t pid = seeming_shim(dir, KEEPER, &hold);
    assert_int_equal(shimdir_write_file(dir, RUN_DONE_FILE, "", 0, NULL), 0);
    assert_int_equal(next_number(base), 2);
    assert_true(is_alive(pid));
    assert_false(run_is_marked(dir, NULL));
    close(hold);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(shimdir_write_file(dir, RUN_DONE_FILE, "", 0, NULL), 0);
    assert_int_equal(next_number(base), 3);
    assert_true(run_is_marked(dir, NULL));
}

static void test_tasks_that_went_away(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    struct workdir other = {.lock_fd = -1};
    char *lock CLEANUP(freep) = xasprintf("%s/lock", base);
    bool is_new = true;

    (void)unused;
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_int_equal(workdir_mend(&w, &is_new, NULL), 0);
    assert_false(is_new);
    for (int i = 0; i < 2; i++) { /* it makes them again, and takes them as somebody made them */
        run_shell(i ? "rm -r tasks && mkdir tasks" : "rm -r tasks");
        assert_int_equal(workdir_mend(&w, &is_new, NULL), 0);
        assert_true(is_new);
        assert_int_equal(workdir_mend(&w, &is_new, NULL), 0);
        assert_false(is_new);
    }
    struct id uuid = w.uuid;
    assert_int_equal(unlink(lock), 0);
    run_shell("rm -r tasks");
    assert_int_equal(workdir_mend(&w, &is_new, NULL), 0);
    assert_int_equal(workdir_open(base, &other, NULL), ERR_CONFIG); /* it is still in use */
    workdir_close(&w);
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_true(id_eq(&w.uuid, &uuid)); /* no copy */
    assert_false(w.copied);
    workdir_close(&w);
}

/* Its directory is below the same path, of another file system. */
static void test_a_shim_of_a_container(void **unused)
{
    struct id id = {{7}};
    int hold = -1;

    (void)unused;
    assert_int_equal(next_number(base), 1);
    char *probe CLEANUP(freep) =
        xasprintf("unshare %s mount -t tmpfs none /mnt && touch contained; true", apart());
    run_shell(probe);
    char *can CLEANUP(freep) = xasprintf("%s/contained", base);
    if (access(can, F_OK) != 0) {
        print_message("SKIPPED a shim of a container: needs a mount namespace\n");
        return;
    }
    char *tasks CLEANUP(freep) = xasprintf("%s/tasks", base);
    char *dir CLEANUP(freep) = shimdir_path(tasks, &id, 1);
    pid_t pid = seeming_shim(dir, CONTAINED, &hold);
    assert_int_equal(next_number(base), 2);
    close(hold);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* It may be good: who it cannot be read by must not become another. */
static void test_an_identity_that_cannot_be_read(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    struct err e = {0};

    (void)unused;
    assert_int_equal(next_number(base), 1);
    run_shell("mv identity aside && mkdir identity");
    assert_int_equal(workdir_open(base, &w, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "/identity: let this user read it"));
    run_shell("rmdir identity && ln -s identity identity");
    assert_int_equal(workdir_open(base, &w, NULL), ERR_CONFIG);
    run_shell("mv aside identity");
    assert_int_equal(next_number(base), 2);
}

/* What a version before this left goes on. */
static void test_an_earlier_version_left_a_number(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    char *path CLEANUP(freep) = xasprintf("%s/incarnation", base);

    (void)unused;
    write_text(path, "1700000000000\n");
    assert_int_equal(workdir_open(base, &w, NULL), 0);
    assert_int_equal(w.incarnation, 1700000000001);
    workdir_close(&w);
}

static void test_what_cannot_be_used(void **unused)
{
    struct workdir w = {.lock_fd = -1};
    char *file CLEANUP(freep) = xasprintf("%s/file", base);
    char *below CLEANUP(freep) = xasprintf("%s/file/x", base);
    struct err e = {0};

    (void)unused;
    write_text(file, "");
    assert_int_equal(workdir_open(file, &w, &e), ERR_CONFIG);
    assert_int_equal(workdir_open(below, &w, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, below));
}

/* ---- a full disk ---- */

#define SMALL_DISK "size=256k"

static bool put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0) {
        close(fd);
    }
    return good;
}

/* In a child: a small file system where `base` is, which nobody else sees. */
static bool mount_small_disk(void)
{
    bool root = geteuid() == 0;
    char user[32];
    char group[32];

    snprintf(user, sizeof(user), "0 %d 1\n", (int)geteuid());
    snprintf(group, sizeof(group), "0 %d 1\n", (int)getegid());
    return unshare(CLONE_NEWNS | (root ? 0 : CLONE_NEWUSER)) == 0 &&
           (root || (put("/proc/self/uid_map", user) && put("/proc/self/setgroups", "deny") &&
                     put("/proc/self/gid_map", group))) &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", base, "tmpfs", 0, SMALL_DISK) == 0;
}

static void fill_disk(const char *path)
{
    static const char block[4096];
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    while (write(fd, block, sizeof(block)) > 0) {
    }
    close(fd);
}

/* The number that it takes; -1 where it cannot start. */
static int64_t try_number(struct err *reterr)
{
    struct workdir w = {.lock_fd = -1};
    int64_t n = workdir_open(base, &w, reterr) < 0 ? -1 : w.incarnation;

    workdir_close(&w);
    return n;
}

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            print_error("line %d: %s\n", __LINE__, #x);                                            \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static int start_where_one_was(void)
{
    char *rest CLEANUP(freep) = xasprintf("%s/rest", base);
    struct workdir w = {.lock_fd = -1};

    CHECK(try_number(NULL) == 1);
    fill_disk(rest);
    CHECK(try_number(NULL) == 2);
    CHECK(try_number(NULL) == 3);
    CHECK(workdir_open(base, &w, NULL) == 0);
    CHECK(workdir_raise(&w, 1000, NULL) == 0);
    workdir_close(&w);
    CHECK(try_number(NULL) == 1002);
    return 0;
}

/* An earlier version kept nothing in reserve, and has emptied `lock`. */
static int start_after_an_earlier_version(void)
{
    char *rest CLEANUP(freep) = xasprintf("%s/rest", base);
    char *spare CLEANUP(freep) = xasprintf("%s/identity.spare", base);
    char *lock CLEANUP(freep) = xasprintf("%s/lock", base);
    char *tasks CLEANUP(freep) = xasprintf("%s/tasks", base);
    char *out[2] = {NULL, NULL};
    struct err e = {0};

    CHECK(try_number(NULL) == 1);
    for (int i = 0; i < 2; i++) {
        struct id id = {{(uint8_t)i}};
        char *dir CLEANUP(freep) = shimdir_path(tasks, &id, 1);
        out[i] = xasprintf("%s/output", dir);
        CHECK(shimdir_create(dir, NULL) == 0);
        CHECK(shimdir_write_file(dir, "output", "some", 4, NULL) == 0);
        CHECK(i == 0 || shimdir_write_file(dir, RUN_DONE_FILE, "", 0, NULL) == 0);
    }
    (void)unlink(spare);
    CHECK(truncate(lock, 0) == 0);
    fill_disk(rest);
    CHECK(try_number(NULL) == 2);
    CHECK(access(out[0], F_OK) == 0 && access(out[1], F_OK) != 0);
    /* With nothing to tidy somebody has to. */
    CHECK(unlink(spare) == 0 && truncate(lock, 0) == 0);
    fill_disk(rest);
    CHECK(try_number(&e) == -1);
    CHECK(strstr(e.text, "No space left on device") && strstr(e.text, "free some"));
    CHECK(unlink(rest) == 0 && try_number(NULL) == 3);
    free(out[0]);
    free(out[1]);
    return 0;
}

static void on_a_small_disk(int (*body)(void))
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0) {
        _exit(mount_small_disk() ? body() : 77);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("SKIPPED a full disk: needs a mount namespace\n");
        return;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_a_full_disk(void **unused)
{
    (void)unused;
    on_a_small_disk(start_where_one_was);
}

static void test_a_full_disk_after_an_earlier_version(void **unused)
{
    (void)unused;
    on_a_small_disk(start_after_an_earlier_version);
}

/* ---- tidy ---- */

/* An attempt whose result was applied so many hours ago; -1: not applied. */
static char *make_attempt(int n, int hours, int64_t now)
{
    struct id id = {{0}};

    id.b[15] = (uint8_t)n;
    char *dir = shimdir_path(base, &id, 1);
    assert_int_equal(shimdir_create(dir, NULL), 0);
    if (hours >= 0) {
        char *mark CLEANUP(freep) = xasprintf("%s/%s", dir, RUN_DONE_FILE);
        int64_t at = (now - hours * HOUR_MS) / 1000;
        struct timespec times[2] = {{.tv_sec = at}, {.tv_sec = at}};

        write_text(mark, "");
        assert_int_equal(utimensat(AT_FDCWD, mark, times, 0), 0);
    }
    return dir;
}

static void test_old_attempts_go(void **unused)
{
    int64_t now = 1700000000000;
    struct tidy_report r = {0};

    (void)unused;
    char *open CLEANUP(freep) = make_attempt(1, -1, now);
    char *old CLEANUP(freep) = make_attempt(2, 30, now);
    char *young CLEANUP(freep) = make_attempt(3, 20, now);
    char *other CLEANUP(freep) = xasprintf("%s/other", base);
    assert_int_equal(mkdir(other, 0700), 0);
    tidy_once(base, now, 24 * HOUR_MS, &r);
    if (r.short_of_space) { /* on a full machine the young one goes too, and rightly */
        skip();
    }
    assert_int_equal(r.removed, 1);
    assert_int_equal(r.left, 0);
    assert_string_equal(r.error, "");
    assert_int_equal(access(open, F_OK), 0);
    assert_int_not_equal(access(old, F_OK), 0);
    assert_int_equal(access(young, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
}

static void test_a_bounded_number_at_a_time(void **unused)
{
    int64_t now = 1700000000000;
    struct tidy_report r = {0};

    (void)unused;
    for (int i = 0; i < TIDY_REMOVE_MAX + 5; i++) {
        free(make_attempt(i, 100 + i, now));
    }
    tidy_once(base, now, 0, &r);
    assert_int_equal(r.removed, TIDY_REMOVE_MAX);
    assert_int_equal(r.left, 5);
    struct id youngest = {{0}};
    char *dir CLEANUP(freep) = shimdir_path(base, &youngest, 1);
    assert_int_equal(access(dir, F_OK), 0); /* the oldest go first */
    tidy_once(base, now, 0, &r);
    assert_int_equal(r.removed, 5);
}

/* Makes files in `dir` for ever, like a process that an attempt left behind. */
static pid_t make_files(const char *dir, int number)
{
    pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; chdir(dir) == 0; i = (i + 1) % 1000) {
        char name[64];
        snprintf(name, sizeof(name), "%d-%d", number, i);
        (void)mkdir(name, 0700);
        snprintf(name, sizeof(name), "%d-%d/x", number, i);
        close(open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    }
    _exit(0);
}

static void test_files_that_are_made_meanwhile(void **unused)
{
    int64_t now = 1700000000000;
    struct tidy_report r = {0};
    pid_t makers[4];

    (void)unused;
    char *busy CLEANUP(freep) = make_attempt(1, 40, now);
    char *old CLEANUP(freep) = make_attempt(2, 30, now);
    char *work CLEANUP(freep) = xasprintf("%s/work", busy);
    for (size_t i = 0; i < ARRAY_LEN(makers); i++) {
        makers[i] = make_files(work, (int)i);
        assert_true(makers[i] > 0);
    }
    char *made CLEANUP(freep) = xasprintf("%s/3-0", work);
    while (access(made, F_OK) != 0) {
        poll(NULL, 0, 1);
    }
    alarm(60); /* without an end it ends this program */
    tidy_once(base, now, 0, &r);
    alarm(0);
    assert_int_not_equal(access(old, F_OK), 0);
    assert_true(r.removed == 2 || (r.removed == 1 && *r.error));
    for (size_t i = 0; i < ARRAY_LEN(makers); i++) {
        assert_int_equal(kill(makers[i], SIGKILL), 0);
        assert_int_equal(waitpid(makers[i], NULL, 0), makers[i]);
    }
    /* What was begun is still marked, and goes now. */
    for (int i = 0; i < 10 && access(busy, F_OK) == 0; i++) {
        tidy_once(base, now, 0, &r);
    }
    assert_int_not_equal(access(busy, F_OK), 0);
}

static void test_nothing_to_tidy(void **unused)
{
    struct tidy_report r = {0};
    char *none CLEANUP(freep) = xasprintf("%s/none", base);

    (void)unused;
    tidy_once(none, 1, 0, &r);
    assert_int_equal(r.removed + r.left, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_directory_is_made, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_relative_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_worker_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_lock_of_a_zombie, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_identity_stays_and_its_numbers_grow, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_identity_is_that_of_its_tasks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_identity_knows_its_node, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_identity_of_an_earlier_version_is_completed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_a_copy_has_is_not_reported, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_shim_without_its_grant, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_shim_that_does_not_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_true_shim_without_its_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_true_shim_of_a_worker_without_rights, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_true_shim_with_other_mounts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_true_shim_that_is_hidden, setup, show_processes),
        cmocka_unit_test_setup_teardown(test_a_grant_without_permissions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_live_shim_that_is_marked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tasks_that_went_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_shim_of_a_container, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_identity_that_cannot_be_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_earlier_version_left_a_number, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_used, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk_after_an_earlier_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_attempts_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_bounded_number_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_that_are_made_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_to_tidy, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
