/* The user that tasks run as: who can be it, and whose rights count while its files are looked at.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal/base.h"
#include "pkg/executors/taskuser.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define USER     "nobody"
#define NOT_SO   1
#define NOT_HERE 77

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            dprintf(STDERR_FILENO, "line %d: not so: %s\n", __LINE__, #what);                      \
            _exit(NOT_SO);                                                                         \
        }                                                                                          \
    } while (0)

/* In a process of its own, which may give its rights away. */
static void apart(void (*test)(void))
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        if (geteuid() != 0) {
            _exit(NOT_HERE);
        }
        test();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NOT_HERE) {
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static bool is_refused(const char *name, const char *why)
{
    struct task_user *u = NULL;
    struct err e = {0};

    return task_user_open(name, &u, &e) == ERR_CONFIG && !u && strstr(e.text, why);
}

static void test_nobody_is_named(void **state)
{
    static struct task_user other;
    struct task_user *u = &other;

    (void)state;
    assert_int_equal(task_user_open("", &u, NULL), 0);
    assert_null(u);
    task_user_free(u);
    assert_int_equal(task_user_let_pass(NULL, "/no/such", NULL), 0);
}

static void who(void)
{
    struct task_user *u = NULL;
    struct err e = {0};

    CHECK(task_user_open(USER, &u, &e) == 0);
    CHECK(strcmp(u->name, USER) == 0 && u->uid != 0 && u->group_count >= 1);
    bool primary = false;
    for (int i = 0; i < u->group_count; i++) {
        primary = primary || u->groups[i] == u->gid;
    }
    CHECK(primary);
    task_user_free(u);
    CHECK(is_refused("root", "is root"));
    CHECK(is_refused("no-such-user", "there is no user \"no-such-user\""));
    CHECK(setresuid(65533, 65533, 65533) == 0);
    CHECK(is_refused(USER, "needs a worker with CAP_CHOWN"));
    CHECK(is_refused(USER, "AmbientCapabilities="));
}

static void test_who(void **state)
{
    (void)state;
    apart(who);
}

/* As a program has them that got them by its file. */
static void take_rights(uint32_t which)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {{.effective = which, .permitted = which}};

    CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && setresuid(65533, 65533, 65533) == 0);
    CHECK(syscall(SYS_capset, &h, d) == 0);
}

static void hand_down(void)
{
    struct task_user *u = NULL;
    struct err e = {0};

    take_rights(1u << CAP_CHOWN | 1u << CAP_KILL | 1u << CAP_SETGID | 1u << CAP_SETUID);
    CHECK(task_user_open(USER, &u, &e) == 0);
    CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0) == 1);
    CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_SETUID, 0, 0) == 1);
    task_user_free(u);
}

static void one_is_missing(void)
{
    take_rights(1u << CAP_CHOWN | 1u << CAP_SETGID | 1u << CAP_SETUID);
    CHECK(is_refused(USER, "needs a worker with CAP_KILL"));
}

static void test_hand_down(void **state)
{
    (void)state;
    apart(hand_down);
    apart(one_is_missing);
}

static bool can_read(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static void rights(void)
{
    static const gid_t before[] = {3, 5};
    gid_t after[4] = {0};
    char path[] = "/tmp/sje-taskuser-test.XXXXXX";
    struct task_user_rights r;
    int fd = mkstemp(path);

    CHECK(fd >= 0 && fchmod(fd, 0640) == 0 && fchown(fd, 0, 5) == 0);
    CHECK(setgroups(ARRAY_LEN(before), before) == 0);
    task_user_begin(&r, geteuid(), getegid());
    CHECK(!r.changed);
    task_user_end(&r);
    task_user_begin(&r, 65534, 65534);
    CHECK(r.changed && !can_read(path) && getgroups(4, after) == 1 && after[0] == 65534);
    task_user_end(&r);
    CHECK(can_read(path) && getgroups(4, after) == 2 && after[0] == 3 && after[1] == 5);
    CHECK(fchown(fd, 1, 1) == 0); /* as root again */
    CHECK(unlink(path) == 0);
    /* Who may not, goes on with what it has. */
    CHECK(setgroups(0, NULL) == 0 && setresuid(65533, 65533, 65533) == 0);
    task_user_begin(&r, 65534, 65534);
    CHECK(!r.changed && geteuid() == 65533);
    task_user_end(&r);
}

static void test_rights(void **state)
{
    (void)state;
    apart(rights);
}

static void pass(void)
{
    char closed[] = "/tmp/sje-taskuser-test.XXXXXX";
    struct task_user *u = NULL;
    struct stat st = {0};
    struct err e = {0};

    CHECK(mkdtemp(closed) && task_user_open(USER, &u, &e) == 0);
    char *below CLEANUP(freep) = xasprintf("%s/below", closed);
    CHECK(mkdir(below, 0700) == 0);
    CHECK(task_user_let_pass(u, below, &e) == ERR_CONFIG && strstr(e.text, "chmod o+x"));
    CHECK(task_user_let_pass(u, closed, &e) == 0 && task_user_let_pass(u, below, &e) == 0);
    CHECK(stat(below, &st) == 0 && (st.st_mode & 0777) == 0711);
    CHECK(task_user_can_read(u, below) == false && task_user_can_read(u, "/etc/passwd"));
    CHECK(rmdir(below) == 0 && rmdir(closed) == 0);
    task_user_free(u);
}

static void test_pass(void **state)
{
    (void)state;
    apart(pass);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_is_named),
        cmocka_unit_test(test_who),
        cmocka_unit_test(test_hand_down),
        cmocka_unit_test(test_rights),
        cmocka_unit_test(test_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
