/* The shim on disks that hang, that lie and that lose their power. Needs root, for it mounts: an
 * image of ext4 that can be frozen and copied, and a FUSE file system that is not served. */
#include "tests/unit/shimrun.h"

#include "pkg/executors/plan.h"

#include <inttypes.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#define GRANT "{\"v\":1,\"token\":\"8123456789\"}\n"

static char base[64]; /* image, copy; mounted in it: disk, after, fuse */
static char disk[80];
static int fuse = -1; /* its server's end */

/* ---- mounts ---- */

static int try_command(const char *const *argv)
{
    posix_spawn_file_actions_t quiet;
    pid_t pid = 0;
    int status = -1;

    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
    if (posix_spawnp(&pid, argv[0], &quiet, NULL, (char *const *)(uintptr_t)argv, environ) == 0) {
        waitpid(pid, &status, 0);
    }
    posix_spawn_file_actions_destroy(&quiet);
    return status;
}

#define TRY(...)     try_command((const char *const[]){__VA_ARGS__, NULL})
#define COMMAND(...) assert_int_equal(TRY(__VA_ARGS__), 0)

static char *in_base(const char *name)
{
    return xasprintf("%s/%s", base, name);
}

static void make_dir(const char *name)
{
    char *path CLEANUP(freep) = in_base(name);

    assert_int_equal(mkdir(path, 0700), 0);
}

static void unmount(const char *name)
{
    char *path CLEANUP(freep) = in_base(name);

    for (int i = 0; umount2(path, 0) != 0 && errno == EBUSY && i < 1000; i++) {
        poll(NULL, 0, 10);
    }
}

/* Whoever hangs on it is told of an error. */
static void let_go(void)
{
    if (fuse >= 0) {
        close(fuse);
    }
    fuse = -1;
}

static bool freeze(bool on)
{
    int fd = open(disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done = ioctl(fd, on ? FIFREEZE : FITHAW, 0) == 0;

    close(fd);
    return done;
}

/* A file of that size as a disk with an empty file system. `feature` as for mkfs -O. */
static void mount_image(const char *image, const char *feature, off_t size)
{
    char *path CLEANUP(freep) = in_base(image);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
    COMMAND("mkfs.ext4", "-q", "-O", feature, path);
    COMMAND("mount", "-o", "loop", path, disk);
}

static bool may_mount(void)
{
    return geteuid() == 0 && access("/dev/loop-control", W_OK) == 0 &&
           TRY("sh", "-c", "command -v mkfs.ext4") == 0;
}

static int setup(void **state)
{
    static struct run r;

    r = (struct run){.conn = -1};
    *state = &r;
    if (!may_mount()) {
        return 0;
    }
    snprintf(base, sizeof(base), "/tmp/sje-disk.XXXXXX");
    assert_non_null(mkdtemp(base));
    snprintf(disk, sizeof(disk), "%s/disk", base);
    make_dir("disk");
    make_dir("after");
    make_dir("fuse");
    make_dir("small");
    return 0;
}

static int teardown(void **state)
{
    struct run *r = *state;

    if (!may_mount()) {
        return 0;
    }
    freeze(false); /* it is, where a test has failed */
    let_go();
    run_done(r);
    unmount("fuse");
    unmount("disk");
    unmount("after");
    unmount("small");
    return shimdir_remove(base, NULL);
}

static void begin(struct run *r)
{
    if (!may_mount()) {
        skip();
    }
    run_init_in(r, disk);
    assert_int_equal(shimdir_write_file(r->dir, "grant.json", GRANT, strlen(GRANT), NULL), 0);
}

/* ---- a disk that hangs ---- */

static const char *const noisy = "env -i setsid sh -c 'echo $$ > pid; : > ready; exec sleep 1000' &"
                                 "while :; do echo much; done";

static void until_hung(pid_t pid)
{
    for (int64_t end = clock_boot_ms() + WAIT_MS; process_state(pid, NULL) != 'D';) {
        assert_true(clock_boot_ms() < end);
        poll(NULL, 0, 1);
    }
}

/* The task ends with its lease, which was even renewed meanwhile; the record is not lost. */
static void test_a_lease_ends_on_a_disk_that_hangs(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    if (may_mount()) {
        mount_image("image", "has_journal", 64 << 20);
    }
    begin(r);
    run_fifo(r);
    run_sh(r, noisy);
    run_start(r);
    run_ready(r);
    pid_t stray = run_number(r, "pid");
    assert_true(freeze(true));
    until_hung(r->shim); /* it writes the log */
    int64_t start = clock_boot_ms();
    char *first CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", start + 1000);
    char *second CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", start + 2000);
    run_say(r, first);
    poll(NULL, 0, 300);
    run_say(r, second);
    process_gone(r->task);
    process_gone(stray);
    int64_t took = clock_boot_ms() - start;
    assert_int_equal(process_state(r->shim, NULL), 'D');
    assert_true(freeze(false));
    assert_true(took >= 2000 && took < 2000 + PLAN_LEASE_GRACE_MS + 1000);
    run_end(r, &e);
    assert_string_equal(e.reason, "lease");
    assert_true(e.stdout_bytes > 0 && e.dropped_bytes == 0);
}

static void test_a_cancel_on_a_disk_that_hangs(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    if (may_mount()) {
        mount_image("image", "has_journal", 64 << 20);
    }
    begin(r);
    run_fifo(r);
    run_sh(r, noisy);
    run_start(r);
    run_ready(r);
    assert_true(freeze(true));
    until_hung(r->shim);
    run_say(r, "stop cancel 100\n");
    process_gone(r->task);
    assert_true(freeze(false));
    run_end(r, &e);
    assert_string_equal(e.reason, "cancel");
}

/* ---- a program that cannot be read ---- */

/* Nobody ever answers what the kernel asks on this descriptor. */
static int mount_fuse(void)
{
    char *path CLEANUP(freep) = in_base("fuse");
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        skip();
    }
    char *options CLEANUP(freep) =
        xasprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd);
    assert_int_equal(mount("sje-test", path, "fuse", 0, options), 0);
    return fd;
}

static void launch_hangs(struct run *r, const char *reason, const char *order)
{
    struct exec_exit e;
    char *program CLEANUP(freep) = in_base("fuse/program");

    if (!may_mount()) {
        skip();
    }
    run_init(r);
    int fd = mount_fuse();
    r->limits.lease_until = clock_boot_ms() + 1000;
    run_arg(r, program);
    int64_t start = clock_boot_ms();
    run_start(r); /* it says hello although the program does not begin */
    assert_true(r->task > 0);
    if (order) {
        run_say(r, order);
    }
    run_end(r, &e);
    assert_true(clock_boot_ms() - start < 1000 + PLAN_LEASE_GRACE_MS + 2000);
    assert_string_equal(e.reason, reason);
    assert_false(e.launched);
    close(fd);
}

static void test_a_launch_that_hangs(void **state)
{
    launch_hangs(*state, "lease", NULL);
}

static void test_a_launch_that_hangs_is_cancelled(void **state)
{
    launch_hangs(*state, "cancel", "stop cancel 0\n");
}

/* ---- a process that cannot be killed ---- */

/* Waits for a request of that kind, and takes it: whoever waits for its answer is deaf to SIGKILL.
 */
static void take_request(uint32_t opcode, uint64_t *ret_id)
{
    char request[FUSE_MIN_READ_BUFFER];
    struct fuse_in_header *h = (struct fuse_in_header *)request;

    do {
        struct pollfd p = {fuse, POLLIN, 0};
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_true(read(fuse, request, sizeof(request)) >= (ssize_t)sizeof(*h));
    } while (h->opcode != opcode);
    *ret_id = h->unique;
}

/* Begins a run whose script hangs in `cat "$fuse"` for good. */
static void start_hanging(struct run *r, const char *script)
{
    struct {
        struct fuse_out_header head;
        struct fuse_init_out init;
    } answer = {{.len = sizeof(answer)},
                {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION}};
    uint64_t id = 0;

    if (!may_mount()) {
        skip();
    }
    run_init(r);
    fuse = mount_fuse();
    take_request(FUSE_INIT, &answer.head.unique);
    assert_int_equal(write(fuse, &answer, sizeof(answer)), sizeof(answer));
    buf_addf(&r->plan.env, "fuse=%s/fuse/file", base);
    buf_addc(&r->plan.env, '\0');
    run_fifo(r);
    run_sh(r, script);
    run_start(r);
    run_ready(r);
    take_request(FUSE_LOOKUP, &id);
}

/* Below the main process, which hangs: it would hold them for as long. */
static const char *const shielded =
    "env -i setsid sh -c 'trap : TERM; echo $$ > pid; : > ready; while :; do sleep 1; done' &"
    "exec cat \"$fuse\"";

static void test_what_hangs_shields_nobody(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start_hanging(r, shielded);
    pid_t stray = run_number(r, "pid");
    int64_t start = clock_boot_ms();
    char *lease CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", start + 500);
    run_say(r, lease);
    process_gone(stray);
    int64_t took = clock_boot_ms() - start;
    assert_true(took >= 500 && took < 500 + PLAN_LEASE_GRACE_MS + 500);
    assert_int_equal(process_state(r->task, NULL), 'D');
    let_go();
    run_end(r, &e);
    assert_string_equal(e.reason, "lease");
}

/* The same where the keeper has to do it. */
static void test_what_hangs_shields_nobody_from_the_keeper(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start_hanging(r, shielded);
    pid_t stray = run_number(r, "pid");
    assert_int_equal(kill(run_guardian(r), SIGKILL), 0);
    process_gone(stray);
    assert_int_equal(process_state(r->task, NULL), 'D');
    let_go();
    assert_string_equal(run_line(r), "");
    close(r->conn);
    r->conn = -1;
    run_end(r, &e);
    assert_string_equal(e.reason, "crash");
}

/* The guardian that kills for so long is not taken for one that stands still. */
static void test_killing_for_long(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start_hanging(r, ": > ready; exec cat \"$fuse\"");
    int64_t start = clock_boot_ms();
    char *lease CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", start);
    pid_t guardian = run_guardian(r);
    run_say(r, lease);
    poll(NULL, 0, PLAN_LEASE_GRACE_MS + 2500);
    assert_true(process_runs(guardian));
    let_go();
    run_end(r, &e);
    assert_string_equal(e.reason, "lease");
    assert_string_equal(e.message, "");
}

/* It has succeeded within its lease; only what it left behind takes until after that. */
static void test_a_success_that_leaves_what_hangs(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start_hanging(r, "mkfifo go; env -i setsid cat \"$fuse\" & : > ready; : < go");
    char *go CLEANUP(freep) = xasprintf("%s/work/go", r->dir);
    char *lease CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", clock_boot_ms() + 500);
    pid_t guardian = run_guardian(r);
    close(open(go, O_WRONLY | O_CLOEXEC));
    process_gone(r->task);
    run_say(r, lease);
    poll(NULL, 0, 500 + PLAN_LEASE_GRACE_MS + 2000);
    assert_true(process_runs(guardian));
    let_go();
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_true(e.launched && e.exit_code == 0 && e.signal == 0);
    assert_string_equal(e.message, "");
}

/* The same where the guardian does not live to see it. */
static void test_a_success_with_the_guardian_killed(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start_hanging(r, "mkfifo go; env -i setsid cat \"$fuse\" & : > ready; read line < go; exit 5");
    char *go CLEANUP(freep) = xasprintf("%s/work/go", r->dir);
    pid_t guardian = run_guardian(r);
    close(open(go, O_WRONLY | O_CLOEXEC));
    process_gone(r->task);
    poll(NULL, 0, 200); /* it kills what is left */
    assert_int_equal(kill(guardian, SIGKILL), 0);
    process_gone(guardian);
    let_go();
    assert_string_equal(run_line(r), "");
    close(r->conn);
    r->conn = -1;
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_true(e.launched && e.exit_code == 5);
}

/* ---- a power cut ---- */

/* What the disk has at this moment, as the next start of the machine finds it. */
static char *after_power_cut(struct run *r)
{
    char *image CLEANUP(freep) = in_base("image");
    char *copy CLEANUP(freep) = in_base("copy");
    char *after CLEANUP(freep) = in_base("after");

    COMMAND("cp", "--sparse=always", image, copy);
    COMMAND("mount", "-o", "loop", copy, after);
    return xasprintf("%s%s", after, strrchr(r->dir, '/'));
}

static void test_a_power_cut_after_the_end(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    struct buf b CLEANUP(buf_free) = {0};

    if (may_mount()) {
        mount_image("image", "has_journal", 64 << 20);
    }
    begin(r);
    run_sh(r, "echo said; sleep 1.1; echo '{}' > ../output; exit 5");
    run_start(r);
    assert_string_equal(run_line(r), "bye");
    char *dir CLEANUP(freep) = after_power_cut(r);
    assert_int_equal(shim_exit_read(dir, &e, NULL), 0);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 5);
    assert_string_equal(e.message, "");
    buf_init(&b, 1000);
    assert_int_equal(shimdir_read_file(dir, "grant.json", &b, NULL), 0);
    assert_string_equal(b.data, GRANT);
    buf_reset(&b);
    assert_int_equal(shimdir_read_file(dir, "output", &b, NULL), 0);
    assert_string_equal(b.data, "{}\n");
    buf_reset(&b);
    assert_int_equal(shim_log_tail(dir, "stdout", 100, &b, NULL), 0);
    assert_string_equal(b.data, "said\n");
    assert_int_equal(run_wait(r), 0);
}

/* ---- a disk that takes what it cannot keep ---- */

/* The image is sparse, and what it lies on is full. */
static void test_a_disk_that_cannot_promise(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    char *small CLEANUP(freep) = in_base("small");
    char *filler CLEANUP(freep) = in_base("small/filler");
    char data[65536];

    if (!may_mount()) {
        skip();
    }
    assert_int_equal(mount("sje-test", small, "tmpfs", 0, "size=8m"), 0);
    mount_image("small/image", "^has_journal", 64 << 20);
    begin(r);
    run_fifo(r);
    run_sh(r, ": > ready; sleep 1.1; exit 5");
    run_start(r);
    run_ready(r);
    sync();
    memset(data, 1, sizeof(data));
    int fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, data, sizeof(data)) > 0) {
    }
    close(fd);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 5);
    assert_non_null(strstr(e.message, "its record may not survive a power failure"));
    assert_int_equal(unlink(filler), 0);
}

/* ---- a disk that is full ---- */

static void fill(bool on)
{
    char *filler CLEANUP(freep) = in_base("small/filler");
    char data[4096];

    if (!on) {
        assert_int_equal(unlink(filler), 0);
        return;
    }
    memset(data, 1, sizeof(data));
    int fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, data, sizeof(data)) > 0) {
    }
    close(fd);
}

/* A run on a small disk that is full from `ready` on until the task is over. */
static void run_full(struct run *r, const char *script, struct exec_exit *ret)
{
    char *small CLEANUP(freep) = in_base("small");

    if (!may_mount()) {
        skip();
    }
    assert_int_equal(mount("sje-test", small, "tmpfs", 0, "size=4m"), 0);
    run_init_in(r, small);
    run_fifo(r);
    run_sh(r, script);
    run_start(r);
    run_ready(r);
    poll(NULL, 0, 500); /* short runs have no reserve */
    fill(true);
    char *go CLEANUP(freep) = xasprintf("%s/work/ready", r->dir);
    close(open(go, O_WRONLY | O_CLOEXEC));
    run_end(r, ret);
}

static void test_a_full_disk_does_not_cost_the_result(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_full(r, ": > ready; cat ready; echo total=4711; echo why >&2", &e);
    assert_true(e.launched && e.exit_code == 0);
    assert_int_equal(e.log_error, ENOSPC);
    assert_int_equal(e.dropped_bytes, 0);
    char *out CLEANUP(freep) = run_log(r, "stdout");
    char *err CLEANUP(freep) = run_log(r, "stderr");
    assert_string_equal(out, "total=4711\n");
    assert_string_equal(err, "why\n");
    fill(false);
}

/* Of more the end is kept, and the rest is counted. */
static void test_what_a_full_disk_has_cost_is_counted(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    struct buf b CLEANUP(buf_free) = {0};

    run_full(r,
             "echo first; : > ready; cat ready; i=0; while [ $i -lt 5000 ]; do echo line $i; "
             "i=$((i+1)); done; echo why >&2",
             &e);
    assert_int_equal(e.log_error, ENOSPC);
    assert_int_equal(e.stderr_dropped, 0);
    assert_true(e.stdout_dropped > 0 && e.stdout_dropped < e.stdout_bytes - PLAN_TAIL);
    assert_int_equal(e.dropped_bytes, e.stdout_dropped);
    assert_int_equal(shim_log_size(r->dir, "stdout"), e.stdout_bytes);
    buf_init(&b, 64);
    assert_int_equal(shim_log_tail(r->dir, "stdout", 10, &b, NULL), 0);
    assert_string_equal(b.data, "line 4999\n");
    fill(false);
}

/* The disk has room again: the log goes on behind the gap. */
static void test_a_disk_that_was_full(void **state)
{
    struct run *r = *state;
    struct exec_exit e;
    int64_t offset = 0;
    int64_t size = 0;
    struct buf b CLEANUP(buf_free) = {0};

    run_full(r, ": > ready; cat ready; echo lost; sleep 0.5; rm ../../filler; sleep 1; echo end",
             &e);
    assert_int_equal(e.dropped_bytes, 0);
    buf_init(&b, 64);
    assert_int_equal(shim_log_read(r->dir, "stdout", 0, 64, &b, &offset, &size, NULL), 0);
    assert_string_equal(b.data, "lost\nend\n");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_lease_ends_on_a_disk_that_hangs),
        T(test_a_cancel_on_a_disk_that_hangs),
        T(test_a_launch_that_hangs),
        T(test_a_launch_that_hangs_is_cancelled),
        T(test_what_hangs_shields_nobody),
        T(test_what_hangs_shields_nobody_from_the_keeper),
        T(test_killing_for_long),
        T(test_a_success_that_leaves_what_hangs),
        T(test_a_success_with_the_guardian_killed),
        T(test_a_power_cut_after_the_end),
        T(test_a_disk_that_cannot_promise),
        T(test_a_full_disk_does_not_cost_the_result),
        T(test_what_a_full_disk_has_cost_is_counted),
        T(test_a_disk_that_was_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
