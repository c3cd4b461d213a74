/* What the machine gives: limits of cgroups count, also those further up. */
#include "internal/base.h"
#include "internal/machine.h"

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

static void drop(const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", root, name);
    assert_int_equal(remove(path), 0);
}

static void test_limits_of_cgroups(void **state)
{
    char *a CLEANUP(freep) = NULL;
    char *b CLEANUP(freep) = NULL;

    (void)state;
    snprintf(root, sizeof(root), "/tmp/sje-test-XXXXXX");
    assert_non_null(mkdtemp(root));
    a = xasprintf("%s/a", root);
    b = xasprintf("%s/a/b.service", root);
    assert_int_equal(mkdir(a, 0700), 0);
    assert_int_equal(mkdir(b, 0700), 0);
    assert_true(machine_cgroup_cpus_milli(root, "/a/b.service") == INT64_MAX);
    assert_true(machine_cgroup_memory(root, "") == INT64_MAX);
    put("a/b.service/cpu.max", "max 100000\n");
    put("a/b.service/memory.max", "max\n");
    assert_true(machine_cgroup_cpus_milli(root, "/a/b.service") == INT64_MAX);
    assert_true(machine_cgroup_memory(root, "/a/b.service") == INT64_MAX);
    put("a/cpu.max", "150000 100000\n");
    put("a/memory.max", "1073741824\n");
    assert_int_equal(machine_cgroup_cpus_milli(root, "/a/b.service"), 1500);
    assert_int_equal(machine_cgroup_memory(root, "/a/b.service"), 1 << 30);
    put("a/b.service/cpu.max", "50000 100000\n");
    put("a/b.service/memory.max", "4096\n");
    assert_int_equal(machine_cgroup_cpus_milli(root, "/a/b.service"), 500);
    assert_int_equal(machine_cgroup_memory(root, "/a/b.service"), 4096);
    put("a/b.service/cpu.max", "nonsense\n");
    assert_int_equal(machine_cgroup_cpus_milli(root, "/a/b.service"), 1500);
    drop("a/b.service/cpu.max");
    drop("a/b.service/memory.max");
    drop("a/b.service");
    drop("a/cpu.max");
    drop("a/memory.max");
    drop("a");
    drop("");
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
        cmocka_unit_test(test_limits_of_cgroups),
        cmocka_unit_test(test_this_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
