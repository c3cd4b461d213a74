/* Who is found of an attempt whose shim is dead, by which of its marks; and that strangers are not
 * hit. Real processes: each writes a byte when it is as it should be, and then sleeps. */
#include "pkg/executors/strays.h"

#include "internal/clock.h"
#include "tests/unit/fewfds.h"
#include "tests/unit/nopidfd.h"
#include "tests/unit/realgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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

#define WAIT_MS 30000
#define TICK_MS 20 /* the start of a process is known in ticks of 10 ms */

static int ready[2];

static int setup(void **state)
{
    (void)state;
    assert_int_equal(pipe(ready), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
    return 0;
}

static void be_ready(void)
{
    int self = (int)getpid();

    (void)!write(ready[1], &self, sizeof(self));
    for (;;) {
        pause();
    }
}

static pid_t await_ready(void)
{
    int pid = 0;
    struct pollfd p = {ready[0], POLLIN, 0};

    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    assert_int_equal(read(ready[0], &pid, sizeof(pid)), sizeof(pid));
    return pid;
}

/* A child that leads a session; with `member`, another process in it. */
static pid_t start_session(bool member)
{
    pid_t pid = fork();

    if (pid == 0) {
        setsid();
        if (member && fork() == 0) {
            be_ready();
        }
        if (member) {
            pause();
        }
        be_ready();
    }
    return pid;
}

static bool runs(pid_t pid)
{
    char path[64];
    char text[512] = "";

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    const char *end = n > 0 ? strrchr(text, ')') : NULL;
    return end && end[2] != 'Z' && end[2] != 'X';
}

static void kill_until_none(const struct strays *s)
{
    for (int64_t end = clock_boot_ms() + WAIT_MS; strays_kill(s); poll(NULL, 0, 1)) {
        assert_true(clock_boot_ms() < end);
    }
}

static void test_a_session(void **state)
{
    (void)state;
    pid_t leader = start_session(true);
    pid_t member = await_ready();
    struct strays s = {.task = leader, .seen_at = clock_boot_ms()};

    assert_true(strays_kill(&s) >= 2);
    kill_until_none(&s);
    assert_false(runs(leader));
    assert_false(runs(member));
}

static void test_a_session_without_its_leader(void **state)
{
    (void)state;
    pid_t leader = start_session(true);
    pid_t member = await_ready();
    struct strays s = {.shim = leader, .seen_at = clock_boot_ms()};

    kill(leader, SIGKILL);
    assert_int_equal(waitpid(leader, NULL, 0), leader);
    assert_true(runs(member));
    kill_until_none(&s);
    assert_false(runs(member));
}

/* A session whose leader is gone, of a member that began after `seen_at`. */
static struct strays leaderless(pid_t *ret_member)
{
    pid_t leader = start_session(true);
    pid_t member = await_ready();

    kill(leader, SIGKILL);
    assert_int_equal(waitpid(leader, NULL, 0), leader);
    *ret_member = member;
    return (struct strays){.task = leader, .seen_at = clock_boot_ms() - 60000};
}

/* It began after the shim was last seen: it is ours while nobody else can have got the number. */
static void test_a_late_member(void **state)
{
    pid_t member = 0;
    struct strays s = leaderless(&member);

    (void)state;
    assert_true(strays_forks() > 0);
    s.seen_forks = strays_forks();
    kill_until_none(&s);
    assert_false(runs(member));
}

/* Numbers have gone round since: a daemon, whose leader ended at once, may have it. */
static void test_a_late_strangers_session(void **state)
{
    pid_t member = 0;
    struct strays s = leaderless(&member);

    (void)state;
    s.seen_forks = strays_forks() - (1LL << 22);
    assert_int_equal(strays_kill(&s), 0);
    assert_true(runs(member));
    s.seen_at = clock_boot_ms(); /* no stranger if it was there already */
    kill_until_none(&s);
    assert_false(runs(member));
}

/* A member that was there when the shim was seen tells that those which it started later are ours.
 */
static void test_a_late_member_of_an_old_one(void **state)
{
    struct strays s = {0};
    pid_t leader = fork();

    (void)state;
    if (leader == 0) {
        setsid();
        if (fork() == 0) {
            poll(NULL, 0, 100);
            if (fork() == 0) {
                be_ready();
            }
            pause();
        }
        int self = (int)getpid();
        (void)!write(ready[1], &self, sizeof(self));
        pause();
    }
    assert_int_equal(await_ready(), leader);
    s.task = leader;
    s.seen_at = clock_boot_ms();
    pid_t late = await_ready();
    kill(leader, SIGKILL);
    assert_int_equal(waitpid(leader, NULL, 0), leader);
    s.seen_forks = strays_forks() - (1LL << 22);
    assert_true(strays_kill(&s) >= 2);
    while (runs(late)) {
    }
}

/* The leader of the shim's session clears by itself: it is waited for, the others are hit. */
static void test_a_shim_that_clears(void **state)
{
    (void)state;
    pid_t leader = start_session(true);
    pid_t member = await_ready();
    struct strays s = {.shim = leader, .shim_clears = true, .seen_at = clock_boot_ms()};

    assert_true(strays_kill(&s) >= 2);
    while (runs(member)) {
    }
    assert_true(strays_kill(&s) > 0);
    assert_true(runs(leader));
    s.shim_clears = false;
    kill_until_none(&s);
    assert_false(runs(leader));
}

/* One walk for several attempts: each learns of its own. */
static void test_several(void **state)
{
    struct strays list[3] = {0};
    pid_t members[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        list[i].task = start_session(true);
        members[i] = await_ready();
        list[i].seen_at = clock_boot_ms();
    }
    list[2] = (struct strays){.token = "SJE_TOKEN=of nobody"};
    kill((pid_t)list[1].task, SIGKILL);
    kill(members[1], SIGKILL);
    while (runs((pid_t)list[1].task) || runs(members[1])) {
    }
    strays_kill_all(list, 3);
    assert_true(list[0].left >= 2);
    assert_int_equal(list[1].left, 0);
    assert_int_equal(list[2].left, 0);
    kill_until_none(&list[0]);
    assert_false(runs((pid_t)list[0].task) || runs(members[0]));
}

/* Who cannot look does not know that there is nothing. */
static void test_few_descriptors(void **state)
{
    (void)state;
    for (size_t left = 0; left < 4; left++) {
        struct few_fds few;
        pid_t leader = start_session(true);
        pid_t member = await_ready();
        struct strays s = {.task = leader, .seen_at = clock_boot_ms()};

        few_fds_begin(&few, left);
        int there = strays_kill(&s);
        few_fds_end(&few);
        assert_true(there > 0);
        kill_until_none(&s);
        assert_false(runs(leader) || runs(member));
    }
}

static void test_no_pidfd(void **state)
{
    static const int errors[] = {ENOSYS, EPERM};

    (void)state;
    if (!can_deny_pidfd()) {
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
        int status = 0;
        pid_t leader = start_session(true);
        pid_t member = await_ready();
        struct strays s = {.task = leader, .seen_at = clock_boot_ms()};
        pid_t killer = fork();

        if (killer == 0) {
            deny_pidfd(errors[i]);
            int there = strays_kill(&s);
            kill_until_none(&s);
            _exit(there >= 2 ? 0 : 1);
        }
        assert_int_equal(waitpid(killer, &status, 0), killer);
        bool gone = !runs(leader) && !runs(member);
        kill_until_none(&s);
        assert_int_equal(status, 0);
        assert_true(gone);
    }
}

/* The number was given to somebody else since. */
static void test_a_strangers_session(void **state)
{
    (void)state;
    pid_t leader = start_session(true);
    pid_t member = await_ready();
    struct strays s = {.task = leader, .shim = leader, .seen_at = clock_boot_ms() - 60000};

    assert_int_equal(strays_kill(&s), 0);
    assert_int_equal(strays_kill(&(struct strays){.seen_at = clock_boot_ms()}), 0);
    assert_true(runs(leader));
    assert_true(runs(member));
    s.seen_at = clock_boot_ms();
    kill_until_none(&s);
}

/* What falls to us is killed and reaped; our own children are left to whoever waits for them. */
static void test_orphans(void **state)
{
    (void)state;
    pid_t before = start_session(false);
    await_ready();
    poll(NULL, 0, 20); /* the clock of processes has ticks of 10 ms */
    strays_inherit();
    pid_t own = start_session(false);
    await_ready();
    pid_t dead = fork();
    if (dead == 0) {
        _exit(7);
    }
    pid_t middle = fork();
    if (middle == 0) {
        for (int i = 0; i < 2; i++) {
            if (fork() == 0) {
                setsid();
                be_ready();
            }
        }
        pause();
    }
    pid_t first = await_ready();
    pid_t second = await_ready();
    const pid_t children[] = {own, middle, dead};
    struct strays s = {0};
    for (size_t i = 0; i < ARRAY_LEN(children); i++) {
        strays_before_child();
        strays_after_child(children[i]);
    }
    assert_int_equal(strays_kill(&s), 0); /* nothing is an orphan yet */
    kill(middle, SIGKILL);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    assert_true(strays_kill(&s) >= 2);
    kill_until_none(&s);
    assert_int_equal(kill(first, 0), -1); /* no zombie either */
    assert_int_equal(kill(second, 0), -1);
    int status = 0;
    assert_int_equal(waitpid(dead, &status, 0), dead);
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_true(runs(own) && runs(before));
    kill(own, SIGKILL);
    kill(before, SIGKILL);
    assert_int_equal(waitpid(own, NULL, 0), own);
    assert_int_equal(waitpid(before, NULL, 0), before);
    for (size_t i = 0; i < ARRAY_LEN(children); i++) {
        strays_forget_child(children[i]);
    }
}

/* An orphan that hangs keeps nobody else from ending: what clears by itself stands for that. */
static void test_an_orphan_of_another(void **state)
{
    (void)state;
    strays_inherit();
    pid_t middle = fork();
    if (middle == 0) {
        if (fork() == 0) {
            setsid();
            be_ready();
        }
        pause();
    }
    pid_t orphan = await_ready();
    strays_before_child();
    strays_after_child(middle);
    kill(middle, SIGKILL);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    strays_forget_child(middle);
    struct strays list[2] = {
        {.shim = orphan, .shim_clears = true, .seen_at = clock_boot_ms()},
        {.token = "SJE_TOKEN=of nobody"},
    };
    strays_kill_all(list, 2);
    assert_true(runs(orphan) && list[0].left > 0);
    assert_int_equal(list[1].left, 0);
    assert_true(strays_kill(&list[1]) > 0); /* alone it is anybody's */
    kill_until_none(&list[1]);
    assert_false(runs(orphan));
}

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            dprintf(STDERR_FILENO, "line %d: not so: %s\n", __LINE__, #what);                      \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* Everybody's orphans fall to process 1: it reaps them, and leaves alone what lives. */
static void be_first(void)
{
    CHECK(getpid() == 1 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
          mount("proc", "/proc", "proc", 0, NULL) == 0);
    strays_inherit();
    pid_t own = start_session(false);
    CHECK(own > 0);
    await_ready();
    pid_t middle = fork();
    if (middle == 0) {
        if (fork() == 0) {
            setsid();
            be_ready();
        }
        _exit(0);
    }
    pid_t stranger = await_ready();
    CHECK(waitpid(middle, NULL, 0) == middle);
    struct strays s = {0};
    strays_before_child();
    strays_after_child(own);
    CHECK(strays_kill(&s) == 0 && runs(stranger));
    kill(stranger, SIGKILL);
    while (kill(stranger, 0) == 0) {
        strays_reap();
    }
    kill(own, SIGKILL);
    while (runs(own)) {
    }
    strays_reap();
    CHECK(waitpid(own, NULL, 0) == own);
    _exit(0);
}

static void test_the_first_process(void **state)
{
    int status = 0;

    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) {
            _exit(77);
        }
        pid_t first = fork();
        if (first == 0) {
            be_first();
        }
        waitpid(first, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        skip(); /* not allowed here */
    }
    assert_int_equal(status, 0);
}

static void test_a_token(void **state)
{
    static const char *const no_tokens[] = {"SJE_TOKEN=", "", "PATH=/bin",
                                            "SJE_TOKEN=nobody has it"};
    char token[64];
    struct strays s = {.token = token};

    (void)state;
    snprintf(token, sizeof(token), "SJE_TOKEN=test-%d", (int)getpid());
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        execle("/bin/sleep", "sleep", "1000", (char *)NULL, (char *[]){token, NULL});
        _exit(1);
    }
    for (size_t i = 0; i < ARRAY_LEN(no_tokens); i++) {
        assert_int_equal(strays_kill(&(struct strays){.token = no_tokens[i]}), 0);
    }
    while (strays_kill(&s) == 0) { /* until it is executed */
        poll(NULL, 0, 1);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(strays_kill(&s), 0);
}

static void await_token(pid_t pid, const char *token)
{
    char *path CLEANUP(freep) = xasprintf("/proc/%d/environ", (int)pid);
    char text[256];
    ssize_t n = 0;

    do {
        int fd CLEANUP(closep) = open(path, O_RDONLY | O_CLOEXEC);
        n = read(fd, text, sizeof(text));
    } while (n <= 0 || !memmem(text, (size_t)n, token, strlen(token)));
}

/* Whose environment cannot be read now is not asked for it, where it was there before. */
static void test_a_token_of_an_older_process(void **state)
{
    char token[64];
    struct strays s = {.token = token};

    (void)state;
    snprintf(token, sizeof(token), "SJE_TOKEN=older-%d", (int)getpid());
    int64_t before = clock_boot_ms();
    pid_t pid = fork();
    if (pid == 0) {
        execle("/bin/sleep", "sleep", "1000", (char *)NULL, (char *[]){token, NULL});
        _exit(1);
    }
    await_token(pid, token);
    int64_t there = clock_boot_ms();
    while ((s.began_at = clock_boot_ms()) < there + TICK_MS) {
        poll(NULL, 0, 1);
    }
    assert_int_equal(strays_kill(&s), 0);
    assert_true(runs(pid));
    s.began_at = before;
    kill_until_none(&s);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_a_cgroup(void **state)
{
    char *path CLEANUP(freep) = make_cgroup();

    (void)state;
    if (!path) {
        skip();
    }
    char *procs CLEANUP(freep) = xasprintf("%s/cgroup.procs", path);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(procs, O_WRONLY);
        if (write(fd, "0", 1) != 1) {
            _exit(1);
        }
        close(fd);
        be_ready();
    }
    await_ready();
    struct strays s = {.cgroup = path};
    kill_until_none(&s);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(access(path, F_OK), -1); /* it is removed */
    assert_int_equal(strays_kill(&s), 0);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_true(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* As a kernel before 5.14 has it: files that say who is in it, and in what is nested in it. */
static void test_a_cgroup_without_kill(void **state)
{
    char group[] = "/tmp/sje-group.XXXXXX";
    struct strays s = {.cgroup = group};
    pid_t pids[2];

    (void)state;
    assert_non_null(mkdtemp(group));
    char *events CLEANUP(freep) = xasprintf("%s/cgroup.events", group);
    char *nested CLEANUP(freep) = xasprintf("%s/a", group);
    char *deeper CLEANUP(freep) = xasprintf("%s/a/b", group);
    char *procs[] = {xasprintf("%s/cgroup.procs", group), xasprintf("%s/cgroup.procs", deeper)};
    assert_int_equal(mkdir(nested, 0700), 0);
    assert_int_equal(mkdir(deeper, 0700), 0);
    for (int i = 0; i < 2; i++) {
        char number[32];
        pids[i] = start_session(false);
        await_ready();
        snprintf(number, sizeof(number), "%d\n", (int)pids[i]);
        put(procs[i], number);
    }
    put(events, "populated 1\nfrozen 0\n");
    assert_int_equal(strays_kill(&s), 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
        assert_int_equal(unlink(procs[i]), 0);
        free(procs[i]);
    }
    put(events, "populated 0\nfrozen 0\n");
    assert_int_equal(strays_kill(&s), 0);
    assert_int_equal(unlink(events), 0);
    assert_int_equal(rmdir(deeper), 0);
    assert_int_equal(rmdir(nested), 0);
    assert_int_equal(rmdir(group), 0);
}

static void test_what_the_shim_wrote(void **state)
{
    char dir[] = "/tmp/sje-strays.XXXXXX";
    char boot[64] = "";
    struct strays s = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    char *path CLEANUP(freep) = xasprintf("%s/started", dir);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%63s", boot), 1);
    fclose(f);
    char *good CLEANUP(freep) = xasprintf("%s 123456 4711 4712 99", boot);
    char *earlier CLEANUP(freep) = xasprintf("%s 123456 4711 4712", boot);
    const char *bad[] = {"x 1 2 3", "00000000-0000-4000-8000-000000000000 123456 4711 4712", boot};

    assert_false(strays_read(dir, &s));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(symlink(bad[i], path), 0);
        assert_false(strays_read(dir, &s));
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(symlink(good, path), 0);
    assert_true(strays_read(dir, &s));
    assert_true(s.shim == 4711 && s.task == 4712 && s.seen_at == 123456 && s.seen_forks == 99);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(earlier, path), 0); /* by a shim of an earlier version */
    assert_true(strays_read(dir, &s));
    assert_true(s.task == 4712 && s.seen_forks == 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    /* The orphans last: from then on all children that are not named are orphans. */
    const struct CMUnitTest tests[] = {
        T(test_a_session),
        T(test_a_shim_that_clears),
        T(test_several),
        T(test_few_descriptors),
        T(test_no_pidfd),
        T(test_a_session_without_its_leader),
        T(test_a_late_member),
        T(test_a_late_strangers_session),
        T(test_a_late_member_of_an_old_one),
        T(test_a_strangers_session),
        T(test_the_first_process),
        T(test_a_token),
        T(test_a_token_of_an_older_process),
        T(test_a_cgroup),
        T(test_a_cgroup_without_kill),
        T(test_what_the_shim_wrote),
        T(test_an_orphan_of_another),
        T(test_orphans),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
