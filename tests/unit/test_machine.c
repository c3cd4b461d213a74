/* What the machine gives: limits of cgroups count, also those further up. */
#include "internal/base.h"
#include "internal/machine.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static void put(const char *name, const char *text)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", root, name);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void make(const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", root, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof(root), "/tmp/sje-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    return nftw(root, drop, 8, FTW_DEPTH | FTW_PHYS);
}

static int64_t cpus(void)
{
    char *groups CLEANUP(freep) = xasprintf("%s/self", root);
    return machine_cgroup_cpus_milli(root, groups);
}

static int64_t memory(void)
{
    char *groups CLEANUP(freep) = xasprintf("%s/self", root);
    return machine_cgroup_memory(root, groups);
}

static void test_limits_of_cgroups(void **state)
{
    (void)state;
    assert_true(cpus() == INT64_MAX && memory() == INT64_MAX);
    put("self", "0::/a/b.service\n");
    make("a");
    make("a/b.service");
    assert_true(cpus() == INT64_MAX && memory() == INT64_MAX);
    put("a/b.service/cpu.max", "max 100000\n");
    put("a/b.service/memory.max", "max\n");
    assert_true(cpus() == INT64_MAX && memory() == INT64_MAX);
    put("a/cpu.max", "150000 100000\n");
    put("a/memory.max", "1073741824\n");
    assert_int_equal(cpus(), 1500);
    assert_int_equal(memory(), 1 << 30);
    put("a/b.service/cpu.max", "50000 100000\n");
    put("a/b.service/memory.max", "4096\n");
    assert_int_equal(cpus(), 500);
    assert_int_equal(memory(), 4096);
    put("a/b.service/cpu.max", "nonsense\n");
    assert_int_equal(cpus(), 1500);
}

static void test_limits_of_version_1(void **state)
{
    (void)state;
    put("self", "5:memory:/m/x\n4:cpuacct,cpu:/c\n1:name=systemd:/\n0::/\n");
    make("cpu");
    make("cpu/c");
    make("memory");
    assert_true(cpus() == INT64_MAX && memory() == INT64_MAX);
    put("cpu/c/cpu.cfs_quota_us", "-1\n");
    put("cpu/c/cpu.cfs_period_us", "100000\n");
    assert_true(cpus() == INT64_MAX);
    put("cpu/c/cpu.cfs_quota_us", "250000\n");
    assert_int_equal(cpus(), 2500);
    /* In a container: its group is not there by its name, but as the root. */
    put("memory/memory.limit_in_bytes", "1073741824\n");
    assert_int_equal(memory(), 1 << 30);
    make("memory/m");
    make("memory/m/x");
    put("memory/m/x/memory.limit_in_bytes", "4096\n");
    assert_int_equal(memory(), 4096);
    put("memory/m/x/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(memory(), 1 << 30);
    /* Both at once. */
    put("cpu.max", "50000 100000\n");
    assert_int_equal(cpus(), 500);
}

static void test_this_machine(void **state)
{
    (void)state;
    assert_true(machine_cpus() >= 1 && machine_cpus() <= sysconf(_SC_NPROCESSORS_ONLN));
    assert_true(machine_memory_mb() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_limits_of_cgroups, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_of_version_1, setup, teardown),
        cmocka_unit_test(test_this_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
