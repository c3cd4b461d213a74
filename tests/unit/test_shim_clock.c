/* A virtual machine that was paused: the wall clock, when it is set right, is the only one that
 * tells. The shim's own code with a wall clock that is moved here: this program is also the shim.
 */
int shim_main(int argc, char **argv);
#define main shim_main
#include "cmd/sje-shim/main.c"
#undef main

#include "tests/unit/shimrun.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <sys/timex.h>

#define OFFSET_FILE "SJE_TEST_OFFSET"

int64_t __real_wall_ms(void);
int64_t __wrap_wall_ms(void);

static int64_t *offset; /* in memory that all processes share */
static char offset_path[64];

static void map_offset(void)
{
    int fd = open(getenv(OFFSET_FILE), O_RDWR | O_CLOEXEC);

    assert(fd >= 0);
    offset = mmap(NULL, sizeof(*offset), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert(offset != MAP_FAILED);
    close(fd);
}

int64_t __wrap_wall_ms(void)
{
    if (!offset) {
        map_offset();
    }
    return __real_wall_ms() + *(volatile int64_t *)offset;
}

static int setup(void **state)
{
    *offset = 0;
    return run_setup(state);
}

static void lease(struct run *r, int64_t ms)
{
    char *line CLEANUP(freep) = xasprintf("lease %" PRId64 "\n", clock_boot_ms() + ms);

    run_say(r, line);
}

/* Anything that wakes the shim: here somebody connects. */
static void wake(struct run *r)
{
    int fd = -1;

    assert_int_equal(shim_connect(r->dir, &fd, NULL), 0);
    char line[64];
    assert_true(read(fd, line, 1) != 0 || errno == EAGAIN);
    struct pollfd p = {fd, POLLIN, 0};
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    close(fd);
}

static void start(struct run *r, const char *script, int64_t lease_ms)
{
    r->limits.lease_until = clock_boot_ms() + lease_ms;
    run_sh(r, script);
    run_start(r);
    wake(r); /* it has begun to look at its clocks */
}

static void ends_by_lease(struct run *r, int64_t from, int64_t least, int64_t most, int sig)
{
    struct exec_exit e;

    run_end(r, &e);
    int64_t took = clock_boot_ms() - from;
    assert_string_equal(e.reason, "lease");
    assert_int_equal(e.signal, sig);
    if (took < least || took > most) {
        fail_msg("it took %" PRId64 " ms, not %" PRId64 " to %" PRId64, took, least, most);
    }
}

/* It is over by this alone, so it is in doubt: nobody is told, but after 2 s it is killed. */
static void test_a_pause_longer_than_the_lease(void **state)
{
    struct run *r = *state;

    start(r, "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done", 20000);
    int64_t from = clock_boot_ms();
    *offset += 30000;
    wake(r);
    ends_by_lease(r, from, PLAN_LEASE_DOUBT_MS, PLAN_LEASE_DOUBT_MS + 2000, SIGKILL);
}

static void test_a_new_lease_ends_the_doubt(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start(r, "sleep 3; echo alive", 20000);
    *offset += 30000;
    wake(r);
    lease(r, WAIT_MS);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 0);
}

/* A lease that was granted after the pause is not shortened by it, though it is what wakes us. */
static void test_a_lease_that_comes_with_the_pause(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start(r, "sleep 3; echo alive", 20000);
    *offset += 30000;
    lease(r, WAIT_MS);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
}

/* A second jump does not prolong the doubt. */
static void test_a_doubt_is_not_prolonged(void **state)
{
    struct run *r = *state;

    start(r, "sleep 1000", 20000);
    int64_t from = clock_boot_ms();
    *offset += 30000;
    wake(r);
    poll(NULL, 0, 1500);
    *offset += 30000;
    wake(r);
    ends_by_lease(r, from, PLAN_LEASE_DOUBT_MS, PLAN_LEASE_DOUBT_MS + 1400, SIGKILL);
}

/* What is left of it is still sure: it ends as ever. */
static void test_a_pause_shorter_than_the_lease(void **state)
{
    struct run *r = *state;
    int64_t from = clock_boot_ms();

    start(r, "sleep 1000", 5000);
    *offset += 4000;
    wake(r);
    ends_by_lease(r, from, 900, 3000, SIGTERM);
}

static void test_what_is_no_pause(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    start(r, "sleep 2; echo alive", 2500);
    *offset += 900; /* a clock that is made to run faster */
    wake(r);
    *offset = -1500;
    wake(r);
    run_end(r, &e);
    assert_string_equal(e.reason, "exit");
    assert_int_equal(e.exit_code, 0);
}

/* The kernel says when a clock is set: nothing else has to happen. Set by nothing at all. */
static void test_setting_the_clock_wakes_it(void **state)
{
    struct run *r = *state;
    /* A microsecond: by nothing at all the kernel would not take it for set. */
    struct timex little = {.modes = ADJ_SETOFFSET | ADJ_NANO, .time.tv_usec = 1000};

    start(r, "sleep 1000", 20000);
    int64_t from = clock_boot_ms();
    *offset += 30000;
    if (adjtimex(&little) < 0) {
        run_say(r, "stop cancel 0\n");
        skip(); /* not root */
    }
    ends_by_lease(r, from, PLAN_LEASE_DOUBT_MS, PLAN_LEASE_DOUBT_MS + 2000, SIGKILL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, run_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_a_pause_longer_than_the_lease),     T(test_a_new_lease_ends_the_doubt),
        T(test_a_lease_that_comes_with_the_pause), T(test_a_doubt_is_not_prolonged),
        T(test_a_pause_shorter_than_the_lease),    T(test_what_is_no_pause),
        T(test_setting_the_clock_wakes_it),
    };

    if (argc == 2 && *argv[1] == '/') {
        return shim_main(argc, argv);
    }
    snprintf(offset_path, sizeof(offset_path), "/tmp/sje-shim-clock.%d", (int)getpid());
    int fd = open(offset_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char *self CLEANUP(freep) = own_program();
    if (fd < 0 || ftruncate(fd, sizeof(*offset)) != 0 || setenv(OFFSET_FILE, offset_path, 1) != 0 ||
        setenv("SJE_TEST_SHIM", self, 1) != 0) {
        return 1;
    }
    close(fd);
    map_offset();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(offset_path);
    return failed;
}
