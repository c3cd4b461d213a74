/* How the shim tells that the kernel killed for want of memory: by the task's own cgroup where
 * there is one. The cgroup is a directory here, in which the task plays the kernel. */
#include "tests/unit/shimrun.h"

#define GROUP "g=$GROUP/$(basename ${PWD%/work}); " /* named after the attempt's directory */

static char group[300];

static int setup(void **state)
{
    static struct run r;

    run_init(&r);
    snprintf(group, sizeof(group), "%s/group", r.dir);
    assert_int_equal(mkdir(group, 0700), 0);
    r.limits.cgroup = group;
    r.limits.memory_max = 1 << 20;
    buf_addf(&r.plan.env, "GROUP=%s", group);
    buf_addc(&r.plan.env, '\0');
    *state = &r;
    return 0;
}

static bool saw_oom(struct run *r, const char *script)
{
    struct exec_exit e;

    run_sh(r, script);
    run_all(r, &e);
    return e.oom;
}

static void test_the_group_says_so(void **state)
{
    assert_true(saw_oom(*state, GROUP "echo 'oom 3\noom_kill 1' >$g/memory.events; kill -9 $$"));
}

/* A child was killed, and the task ended for that. */
static void test_a_child_was_killed(void **state)
{
    assert_true(saw_oom(*state, GROUP "echo 'oom_kill 1' >$g/memory.events; exit 1"));
}

/* Whatever the rest of the machine went through meanwhile. */
static void test_the_group_says_no(void **state)
{
    assert_false(saw_oom(*state, GROUP "echo 'oom 0\noom_kill 0' >$g/memory.events; kill -9 $$"));
}

static void test_nonsense_in_the_group(void **state)
{
    assert_false(saw_oom(*state, GROUP "echo 'oom_kill many' >$g/memory.events; exit 1"));
}

static void test_a_group_without_memory(void **state)
{
    struct run *r = *state;
    struct exec_exit e;

    run_sh(r, GROUP "touch $g/x; ls $g; exit 7");
    run_all(r, &e);
    assert_int_equal(e.exit_code, 7);
    assert_false(e.oom); /* no memory controller there: nothing is known */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, run_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_the_group_says_so),     T(test_a_child_was_killed),     T(test_the_group_says_no),
        T(test_nonsense_in_the_group), T(test_a_group_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
