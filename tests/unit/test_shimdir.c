/* An attempt's directory as a task may have left it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "internal/str.h"
#include "pkg/executors/plan.h"
#include "pkg/executors/shimdir.h"
#include "tests/unit/fewfds.h"
#include "tests/unit/nopidfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIR_NAME 64

static char dir[DIR_NAME];

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/sje-shimdir-test.%d", (int)getpid());
    (void)shimdir_remove(dir, NULL);
    return shimdir_create(dir, NULL);
}

static int teardown(void **state)
{
    (void)state;
    return shimdir_remove(dir, NULL);
}

static char *path_of(const char *name)
{
    return xasprintf("%s/%s", dir, name);
}

static void put(const char *name, const char *text)
{
    assert_int_equal(shimdir_write_file(dir, name, text, strlen(text), NULL), 0);
}

static void link_to(const char *target, const char *name)
{
    char *path CLEANUP(freep) = path_of(name);

    assert_int_equal(symlink(target, path), 0);
}

/* ---- directories ---- */

static void test_create(void **state)
{
    struct stat st;
    char *work CLEANUP(freep) = path_of("work");

    (void)state;
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(stat(work, &st), 0);
    assert_int_equal(shimdir_create(dir, NULL), ERR_CONFLICT);
    assert_int_equal(shimdir_remove(dir, NULL), 0);
    assert_int_equal(stat(dir, &st), -1);
    assert_int_equal(shimdir_remove(dir, NULL), 0);
    assert_int_equal(shimdir_create(dir, NULL), 0);
}

struct names {
    int count;
    int32_t attempts;
};

static void on_found(void *arg, const struct id *task, int32_t attempt)
{
    struct names *n = arg;
    char text[ID_TEXT_LEN];

    id_format(task, text);
    assert_string_equal(text, "0190b3c4-0000-7000-8000-00000000000a");
    n->count++;
    n->attempts += attempt;
}

static void test_list(void **state)
{
    static const char *const other[] = {
        "work2",
        "0190b3c4-0000-7000-8000-00000000000a",
        "0190b3c4-0000-7000-8000-00000000000a.",
        "0190b3c4-0000-7000-8000-00000000000a.0",
        "0190b3c4-0000-7000-8000-00000000000a.x",
        "0190b3c4-0000-7000-8000-00000000000a.-1",
        "0190b3c4-0000-7000-8000-00000000000a.99999999999",
        "0190b3c4-0000-7000-8000-00000000000g.1",
        "0190b3c4-0000-7000-8000-00000000000a.01",
        "0190b3c4-0000-7000-8000-00000000000A.1",
        "0190b3c4-0000-7000-8000-00000000000a:1",
        "0190b3c400007000800000000000000a.1",
    };
    struct names n = {0};
    struct id task;
    struct id parsed;

    (void)state;
    assert_int_equal(shimdir_list(dir, on_found, &n, NULL), 0);
    assert_int_equal(n.count, 0);
    assert_int_equal(shimdir_list("/no/such/directory", on_found, &n, NULL), 0);
    assert_int_equal(shimdir_list("/dev/null", on_found, &n, NULL), ERR_IO);
    for (size_t i = 0; i < ARRAY_LEN(other); i++) {
        char *path CLEANUP(freep) = path_of(other[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    assert_true(id_parse("0190b3c4-0000-7000-8000-00000000000a", 36, &task));
    parsed = task;
    for (int attempt = 1; attempt <= 1000; attempt *= 10) {
        char *path CLEANUP(freep) = shimdir_path(dir, &parsed, attempt);
        assert_int_equal(shimdir_create(path, NULL), 0);
    }
    assert_int_equal(shimdir_list(dir, on_found, &n, NULL), 0);
    assert_int_equal(n.count, 4);
    assert_int_equal(n.attempts, 1111);
}

/* Neither links out of it, nor rights taken away, nor depth keep it. */
static void test_remove_what_a_task_left(void **state)
{
    char outside[DIR_NAME + 16];
    char *locked CLEANUP(freep) = path_of("work/locked");
    char *within CLEANUP(freep) = path_of("work/locked/file");
    char *fifo CLEANUP(freep) = path_of("work/fifo");
    struct stat st;

    (void)state;
    snprintf(outside, sizeof(outside), "%s.outside", dir);
    assert_int_equal(shimdir_create(outside, NULL), 0);
    link_to(outside, "work/link");
    link_to("/no/such", "work/dangling");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(mkdir(locked, 0700), 0);
    close(open(within, O_WRONLY | O_CREAT | O_CLOEXEC, 0));
    assert_int_equal(chmod(locked, 0), 0);
    int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(mkdirat(at, "d", 0700), 0);
        close(openat(at, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = next;
    }
    close(at);
    assert_int_equal(shimdir_remove(dir, NULL), 0);
    assert_int_equal(stat(dir, &st), -1);
    assert_int_equal(stat(outside, &st), 0);
    assert_int_equal(shimdir_remove(outside, NULL), 0);
    /* A link in its place is no directory of ours. */
    assert_int_equal(symlink("/tmp", dir), 0);
    assert_int_equal(shimdir_remove(dir, NULL), ERR_IO);
    assert_int_equal(unlink(dir), 0);
}

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            dprintf(STDERR_FILENO, "line %d: not so: %s\n", __LINE__, #what);                      \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* With what is mounted on `path`: `outside`, of the same file system; NULL: another one. */
static void remove_around(const char *outside, const char *path, const char *said)
{
    char *kept CLEANUP(freep) = xasprintf("%s/kept", outside ? outside : path);
    struct err e = {0};

    CHECK(mount(outside ? outside : "none", path, outside ? NULL : "tmpfs", outside ? MS_BIND : 0,
                NULL) == 0);
    close(open(kept, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    CHECK(shimdir_remove(dir, &e) == ERR_IO && strstr(e.text, said));
    CHECK(access(kept, F_OK) == 0);
    CHECK(umount2(path, MNT_DETACH) == 0);
}

static void remove_mounts(const char *outside)
{
    char *beside CLEANUP(freep) = path_of("work/b");
    char *mounted CLEANUP(freep) = path_of("work/mounted");
    char *file CLEANUP(freep) = path_of("work/file");
    char *kept CLEANUP(freep) = xasprintf("%s/kept", outside);
    struct err e = {0};

    CHECK(mkdir(mounted, 0700) == 0 && mkdir(beside, 0700) == 0);
    remove_around(NULL, mounted, "something is mounted on \"mounted\"");
    CHECK(access(beside, F_OK) != 0); /* all else is gone */
    remove_around(outside, mounted, "something is mounted on \"mounted\"");
    remove_around(outside, dir, "something is mounted on it");
    close(open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    CHECK(mount(kept, file, NULL, MS_BIND, NULL) == 0);
    CHECK(shimdir_remove(dir, &e) == ERR_IO && strstr(e.text, "something is mounted on \"file\""));
    CHECK(umount2(file, 0) == 0 && access(kept, F_OK) == 0);
    CHECK(shimdir_remove(dir, NULL) == 0);
}

/* In the directories of another user: with that one's rights, whatever it has put there. */
static void remove_given(void)
{
    static const struct task_user other = {
        .name = (char *)(uintptr_t) "x", .uid = 65533, .gid = 65533};
    struct buf b CLEANUP(buf_free) = {0};
    char outside[DIR_NAME + 16];
    char *locked CLEANUP(freep) = path_of("work/a/locked");
    char *out CLEANUP(freep) = path_of("out");
    char *file CLEANUP(freep) = path_of("out/output");
    struct stat st = {0};

    snprintf(outside, sizeof(outside), "%s.outside", dir);
    buf_init(&b, 100);
    CHECK(mkdir(outside, 0700) == 0 && shimdir_give(dir, &other, NULL) == 0);
    CHECK(stat(dir, &st) == 0 && st.st_uid == 0 && (st.st_mode & 0777) == 0711);
    CHECK(stat(out, &st) == 0 && st.st_uid == 65533 && (st.st_mode & 0777) == 0700);
    char *found CLEANUP(freep) = shimdir_out(dir);
    CHECK(streq(found, out));
    CHECK(shimdir_write_for(dir, "stdin", "x", 1, &other, NULL) == 0);
    /* Ours alone is not to be read by way of its directory. */
    put("secret", "ours");
    link_to("../secret", "out/link");
    CHECK(shimdir_read_out(dir, "link", &b, NULL) == ERR_IO);
    put("out/output", "ours");
    CHECK(chmod(file, 0600) == 0 && shimdir_read_out(dir, "output", &b, NULL) == ERR_IO);
    CHECK(chown(file, 65533, 65533) == 0 && shimdir_read_out(dir, "output", &b, NULL) == 0);
    CHECK(b.len == 4 && chmod(out, 0) == 0);
    CHECK(shimdir_read_out(dir, "output", &b, NULL) == ERR_IO);
    /* What is not its own it cannot remove; what is, whatever its rights, it can. */
    pid_t pid = fork();
    if (pid == 0) {
        char *a CLEANUP(freep) = path_of("work/a");
        CHECK(setresgid(65533, 65533, 65533) == 0 && setresuid(65533, 65533, 65533) == 0);
        CHECK(access(outside, X_OK) != 0 && mkdir(a, 0700) == 0 && mkdir(locked, 0700) == 0);
        link_to(outside, "work/a/link");
        char *within CLEANUP(freep) = path_of("work/a/locked/file");
        close(open(within, O_WRONLY | O_CREAT | O_CLOEXEC, 0));
        CHECK(chmod(locked, 0) == 0 && chmod(a, 0) == 0);
        char *work CLEANUP(freep) = path_of("work");
        CHECK(chmod(work, 0) == 0);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    char *ours CLEANUP(freep) = path_of("work/ours");
    char *deep CLEANUP(freep) = path_of("work/ours/deep");
    CHECK(mkdir(ours, 0755) == 0 && mkdir(deep, 0755) == 0);
    CHECK(shimdir_remove(dir, NULL) == ERR_IO && stat(deep, &st) == 0 && stat(locked, &st) != 0);
    CHECK(rmdir(deep) == 0 && shimdir_remove(dir, NULL) == 0);
    CHECK(stat(dir, &st) != 0 && stat(outside, &st) == 0 && rmdir(outside) == 0);
}

static void test_remove_given(void **state)
{
    int status = 0;

    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    pid_t pid = fork();
    if (pid == 0) {
        remove_given();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* A mount that a task has left is not emptied, be it of the same file system, and whether or not
 * the kernel can keep to one mount by itself. */
static void test_remove_beside_mounts(void **state)
{
    static const int errors[] = {0, ENOSYS, EPERM};
    char outside[DIR_NAME + 16];
    int status = 0;

    (void)state;
    snprintf(outside, sizeof(outside), "%s.outside", dir);
    assert_int_equal(mkdir(outside, 0700), 0);
    for (size_t i = 0; i < ARRAY_LEN(errors) && WEXITSTATUS(status) != 77; i++) {
        assert_int_equal(shimdir_remove(dir, NULL), 0);
        assert_int_equal(shimdir_create(dir, NULL), 0);
        pid_t pid = fork();
        if (pid == 0) {
            if (unshare(CLONE_NEWNS) != 0 ||
                mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
                (errors[i] && !can_deny_pidfd())) {
                _exit(77);
            }
            if (errors[i]) {
                deny_call(SYS_openat2, errors[i]);
            }
            remove_mounts(outside);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(status == 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 77));
    }
    assert_int_equal(shimdir_remove(outside, NULL), 0);
    if (status) {
        skip(); /* not allowed here */
    }
}

/* ---- files ---- */

static void test_files(void **state)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct stat st;
    char *path CLEANUP(freep) = path_of("file");
    char *fifo CLEANUP(freep) = path_of("fifo");

    (void)state;
    buf_init(&b, 10);
    assert_int_equal(shimdir_read_file(dir, "file", &b, NULL), ERR_NOT_FOUND);
    put("file", "0123456789");
    put("file", "9876543210");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(shimdir_read_file(dir, "file", &b, NULL), 0);
    assert_string_equal(b.data, "9876543210");
    assert_int_equal(shimdir_read_file(dir, "file", &b, NULL), ERR_TOO_LARGE);
    put("file", "");
    assert_int_equal(shimdir_read_file(dir, "file", &b, NULL), 0);
    assert_int_equal(b.len, 10);
    link_to("file", "link");
    assert_int_equal(shimdir_read_file(dir, "link", &b, NULL), ERR_IO);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(shimdir_read_file(dir, "fifo", &b, NULL), ERR_IO); /* and does not wait */
    assert_int_equal(shimdir_read_file(dir, "work", &b, NULL), ERR_IO);
    assert_int_equal(shimdir_write_file(dir, "work", "x", 1, NULL), ERR_IO);
    link_to("/tmp/sje-not-to-be-made", "new.tmp"); /* is replaced, not followed */
    put("new", "x");
    assert_int_equal(access("/tmp/sje-not-to-be-made", F_OK), -1);
}

static void test_plan(void **state)
{
    static const char expected[] = "version=1\0arg=a\0arg=\0arg=c d\0need=app:/x\0need=jar:y\0"
                                   "env=B=2=2\0env=A=3\0user=7\0group=8\0group=9\0"
                                   "cwd=/x\0timeoutMs=1\0graceMs=2\0leaseUntil=3\0onLease=detach\0"
                                   "logLimit=4\0cgroup=/g\0memoryMax=5";
    struct exec_plan p = {0};
    gid_t groups[] = {9, 8};
    const struct task_user u = {.uid = 7, .gid = 8, .groups = groups, .group_count = 2};
    struct shim_limits l = {1, 2, 3, 4, 5, "/g"};
    struct buf b CLEANUP(buf_free) = {0};

    (void)state;
    exec_plan_init(&p);
    buf_add(&p.argv, "a\0\0c d", 7);
    buf_add(&p.env, "A=1\0A=2\0noise\0A=3\0B=2=2", 24);
    buf_add(&p.needs, "app:/x\0jar:y", 13);
    p.cwd = xstrdup("/x");
    p.user = &u;
    p.detach = true;
    assert_int_equal(shim_plan_write(dir, &p, &l, NULL), 0);
    exec_plan_free(&p);
    buf_init(&b, 1000);
    assert_int_equal(shimdir_read_file(dir, "plan", &b, NULL), 0);
    assert_int_equal(b.len, sizeof(expected));
    assert_memory_equal(b.data, expected, sizeof(expected));
}

/* ---- the record ---- */

#define RECORD(launched, code, sig, reason, message)                                               \
    "{\"v\":1,\"launched\":" launched ",\"exitCode\":" code ",\"signal\":" sig                     \
    ",\"reason\":\"" reason "\",\"oom\":true,\"startedAtMs\":1,\"finishedAtMs\":2,"                \
    "\"stdoutBytes\":3,\"stderrBytes\":4,\"droppedBytes\":5,\"maxRssKb\":6,\"cpuMs\":7,"           \
    "\"message\":\"" message "\"}\n"

static void test_record(void **state)
{
    struct exec_exit e;

    (void)state;
    assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_NOT_FOUND);
    put("exit.json", RECORD("true", "-1", "15", "cancel", "a\\u0001b"));
    assert_int_equal(shim_exit_read(dir, &e, NULL), 0);
    assert_true(e.launched && e.oom);
    assert_int_equal(e.exit_code, -1);
    assert_int_equal(e.signal, 15);
    assert_string_equal(e.reason, "cancel");
    assert_string_equal(e.message, "a\001b");
    assert_int_equal(e.started_at + 10 * e.finished_at + 100 * e.stdout_bytes +
                         1000 * e.stderr_bytes + 10000 * e.dropped_bytes + 100000 * e.max_rss_kb +
                         1000000 * e.cpu_ms,
                     7654321);
    /* A file's name need not be UTF-8. */
    put("exit.json", RECORD("false", "-1", "0", "launch", "\xff"));
    assert_int_equal(shim_exit_read(dir, &e, NULL), 0);
    assert_string_equal(e.message, "?");
    assert_string_equal(e.stage, ""); /* an earlier shim does not say */
    assert_int_equal(e.error, 0);
    put("exit.json",
        RECORD("false", "-1", "0", "launch", "x\",\"stage\":\"exec\",\"errno\":28,\"y\":\""));
    assert_int_equal(shim_exit_read(dir, &e, NULL), 0);
    assert_string_equal(e.stage, "exec");
    assert_int_equal(e.error, 28);
    shim_exit_crashed(&e, NULL);
    assert_string_equal(e.reason, "crash");
    assert_int_equal(e.exit_code, -1);
}

static void test_hostile_record(void **state)
{
    static const char *const records[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "\0",
        RECORD("1", "0", "0", "exit", ""),
        RECORD("true", "256", "0", "exit", ""),
        RECORD("true", "-2", "0", "exit", ""),
        RECORD("true", "0.5", "0", "exit", ""),
        RECORD("true", "\"0\"", "0", "exit", ""),
        RECORD("true", "0", "65", "exit", ""),
        RECORD("true", "0", "0", "succeeded", ""),
        RECORD("true", "0", "0", "", ""),
        RECORD("true", "0", "0", "exit", "\",\"v\":1,\"x\":\""),
        RECORD("true", "99999999999999999999", "0", "exit", ""),
    };
    struct exec_exit e = {.exit_code = 42};
    struct buf b CLEANUP(buf_free) = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(records); i++) {
        put("exit.json", records[i]);
        assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_PARSE);
    }
    buf_init(&b, 10000);
    buf_adds(&b, RECORD("true", "0", "0", "exit", ""));
    while (b.len <= PLAN_RECORD_MAX) {
        buf_addc(&b, ' ');
    }
    put("exit.json", b.data);
    assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_PARSE);
    assert_int_equal(shim_exit_parse(b.data, b.len, &e, NULL), ERR_PARSE);
    memset(b.data, 'x', 300);
    b.data[300] = '\0';
    char *text CLEANUP(freep) = xasprintf(RECORD("true", "0", "0", "exit", "%s"), b.data);
    put("exit.json", text); /* its message is longer than ours can be */
    assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_PARSE);
    assert_int_equal(e.exit_code, 42);
    put("exit.json", "{\"v\":2,\"outcome\":\"great\"}");
    assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_CONFLICT);
}

/* What cannot be read now may be a record. What a task has put there, so that it never can, is
 * none.
 */
static void test_unread_record(void **state)
{
    struct exec_exit e;
    struct err why;
    struct few_fds few;
    char *path CLEANUP(freep) = path_of("exit.json");

    (void)state;
    put("exit.json", RECORD("true", "0", "0", "exit", ""));
    few_fds_begin(&few, 0);
    int rc = shim_exit_read(dir, &e, &why);
    few_fds_end(&few);
    assert_int_equal(rc, ERR_IO);
    assert_int_equal(why.code, ERR_IO);
    assert_int_equal(shim_exit_read(dir, &e, NULL), 0);
    if (geteuid() != 0) {
        assert_int_equal(chmod(path, 0), 0);
        assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_PARSE);
    }
    assert_int_equal(unlink(path), 0);
    few_fds_begin(&few, 0);
    rc = shim_exit_read(dir, &e, NULL);
    few_fds_end(&few);
    assert_int_equal(rc, ERR_NOT_FOUND);
    link_to("work", "exit.json");
    assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_PARSE);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(shim_exit_read(dir, &e, NULL), ERR_PARSE);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(shim_exit_read(dir, &e, &why), ERR_PARSE);
    assert_int_equal(why.code, ERR_PARSE);
}

/* ---- the log ---- */

struct read_log {
    struct buf b;
    int64_t offset;
    int64_t size;
};

static const char *read_log(struct read_log *r, int64_t offset, size_t limit)
{
    buf_free(&r->b);
    buf_init(&r->b, 1000);
    assert_int_equal(shim_log_read(dir, "stdout", offset, limit, &r->b, &r->offset, &r->size, NULL),
                     0);
    return r->b.data ? r->b.data : "";
}

static void test_log(void **state)
{
    struct read_log r = {0};

    (void)state;
    assert_true(shim_log_is_stream("stderr"));
    assert_false(shim_log_is_stream("../stdout"));
    assert_int_equal(shim_log_size(dir, "stdout"), 0);
    assert_int_equal(shim_log_size("/no/such", "stdout"), 0);
    assert_string_equal(read_log(&r, 5, 10), "");
    assert_int_equal(r.offset, 0);
    put("stdout.00000000000000000000", "01234567");
    put("stdout.00000000000000000008", "89abcdef");
    put("stdout.00000000000000000032", "wxyz"); /* the middle was dropped */
    put("stderr.00000000000000000000", "other");
    assert_int_equal(shim_log_size(dir, "stdout"), 36);
    assert_string_equal(read_log(&r, 0, 100), "0123456789abcdef");
    assert_int_equal(r.offset, 0);
    assert_int_equal(r.size, 36);
    assert_string_equal(read_log(&r, 6, 4), "6789");
    assert_string_equal(read_log(&r, 15, 4), "f");
    assert_string_equal(read_log(&r, 16, 2), "wx");
    assert_int_equal(r.offset, 32);
    assert_string_equal(read_log(&r, 34, 100), "yz");
    assert_int_equal(r.offset, 34);
    assert_string_equal(read_log(&r, 36, 100), "");
    assert_int_equal(r.offset, 36);
    assert_string_equal(read_log(&r, INT64_MAX, 100), "");
    assert_int_equal(r.offset, 36);
    assert_string_equal(read_log(&r, -7, 3), "012");
    assert_string_equal(read_log(&r, 0, 0), "");
    buf_free(&r.b);
}

static void check_tail(size_t n, const char *expected)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1000);
    assert_int_equal(shim_log_tail(dir, "stdout", n, &b, NULL), 0);
    assert_string_equal(b.data ? b.data : "", expected);
}

static void test_tail(void **state)
{
    (void)state;
    check_tail(10, "");
    put("stdout.00000000000000000000", "01234567");
    check_tail(3, "567");
    check_tail(100, "01234567");
    put("stdout.00000000000000000020", "abcd");
    put("stdout.00000000000000000024", "ef");
    check_tail(3, "def");
    check_tail(6, "abcdef");
    check_tail(100, "abcdef"); /* not across the gap */
}

static void test_hostile_log(void **state)
{
    static const char *const names[] = {
        "stdout",
        "stdout.",
        "stdout.0",
        "stdout.000000000000000000000",
        "stdout.0000000000000000000x",
        "stdout.-0000000000000000001",
        "stdout.-0000000000000000000",
        "stdout.99999999999999999999",
        "stdoutx00000000000000000000",
    };
    struct read_log r = {0};
    char *fifo CLEANUP(freep) = path_of("stdout.00000000000000000001");
    char *sub CLEANUP(freep) = path_of("stdout.00000000000000000002");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        put(names[i], "not of the log");
    }
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(mkdir(sub, 0700), 0);
    link_to("/etc/passwd", "stdout.00000000000000000003");
    assert_int_equal(shim_log_size(dir, "stdout"), 0);
    assert_string_equal(read_log(&r, 0, 100), "");
    put("stdout.09223372036854775807", "beyond every offset");
    assert_int_equal(shim_log_size(dir, "stdout"), 0);
    /* Overlapping ones are read in order, each byte at its place. */
    put("stdout.00000000000000000000", "abcdef");
    put("stdout.00000000000000000004", "EFGH");
    assert_string_equal(read_log(&r, 0, 100), "abcdefGH");
    for (int i = 0; i < 1000; i++) {
        char name[64];
        snprintf(name, sizeof(name), "stdout.%020d", 1000 + i);
        put(name, "x");
    }
    read_log(&r, 0, 1000);
    assert_true(r.b.len <= 1000);
    buf_free(&r.b);
}

/* ---- the shim's place ---- */

static void test_connect(void **state)
{
    int fd = -1;

    (void)state;
    assert_int_equal(shim_connect(dir, &fd, NULL), ERR_NOT_FOUND);
    assert_int_equal(shim_connect("/no/such", &fd, NULL), ERR_NOT_FOUND);
    link_to("/tmp/some-socket", "sock");
    assert_int_equal(shim_connect(dir, &fd, NULL), ERR_NOT_FOUND);
    assert_int_equal(shim_fence(dir, NULL), 0);
    assert_int_equal(shim_fence("/no/such", NULL), 0);
    assert_int_equal(fd, -1);
}

/* Who cannot look does not know that no shim is there. */
static void test_connect_with_few_descriptors(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = -1;

    (void)state;
    assert_true(snprintf(a.sun_path, sizeof(a.sun_path), "%s/sock", dir) < (int)sizeof(a.sun_path));
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(listener, 1), 0);
    for (size_t left = 0; left < 2; left++) {
        struct few_fds few;

        few_fds_begin(&few, left);
        int connected = shim_connect(dir, &fd, NULL);
        int fenced = shim_fence(dir, NULL);
        few_fds_end(&few);
        assert_int_equal(connected, ERR_IO);
        assert_true(fenced < 0);
    }
    close(listener);
    assert_int_equal(shim_connect(dir, &fd, NULL), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create, setup, teardown),
        cmocka_unit_test_setup_teardown(test_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_what_a_task_left, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_given, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_beside_mounts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_record, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_record, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unread_record, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connect_with_few_descriptors, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
