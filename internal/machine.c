#include "internal/machine.h"

#include "internal/base.h"
#include "internal/str.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CGROUPS  "/sys/fs/cgroup"
#define GROUPS   "/proc/self/cgroup"
#define LINE_LEN 4096

/* The first line that begins with `prefix`, from behind it on. */
static bool read_line(const char *path, const char *prefix, char line[LINE_LEN])
{
    FILE *f = fopen(path, "re");
    size_t n = strlen(prefix);
    bool found = false;

    while (f && !found && fgets(line, LINE_LEN, f)) {
        found = strncmp(line, prefix, n) == 0;
    }
    if (f) {
        fclose(f);
    }
    if (found) {
        memmove(line, line + n, strlen(line + n) + 1);
        line[strcspn(line, "\n")] = '\0';
    }
    return found;
}

static int64_t number(struct str s)
{
    int64_t n = 0;

    return str_to_i64(str_trim(s), 0, INT64_MAX, &n) ? n : INT64_MAX;
}

/* The number in dir/name; INT64_MAX for none, and for what means no limit. */
static int64_t number_in(const char *dir, const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", dir, name);
    char line[LINE_LEN];

    return read_line(path, "", line) ? number(str_of(line)) : INT64_MAX;
}

static int64_t thousandths(int64_t quota, int64_t period)
{
    return quota == INT64_MAX || period == INT64_MAX || period == 0 ? INT64_MAX
                                                                    : quota * 1000 / period;
}

/* "max 100000" or "150000 100000": quota and period. */
static int64_t cpus_v2(const char *dir)
{
    char *path CLEANUP(freep) = xasprintf("%s/cpu.max", dir);
    char line[LINE_LEN];
    struct str period;

    if (!read_line(path, "", line)) {
        return INT64_MAX;
    }
    int64_t quota = number(str_cut(str_of(line), ' ', &period));
    return thousandths(quota, number(period));
}

static int64_t cpus_v1(const char *dir) /* a quota of -1: none */
{
    return thousandths(number_in(dir, "cpu.cfs_quota_us"), number_in(dir, "cpu.cfs_period_us"));
}

static int64_t memory_v2(const char *dir)
{
    return number_in(dir, "memory.max");
}

static int64_t memory_v1(const char *dir)
{
    return number_in(dir, "memory.limit_in_bytes");
}

/* Lines are "4:cpu,cpuacct:/group", that of version 2 is "0::/group" and its controller "". The
 * group without the slash at its end; "" where there is none. */
static void own_group(const char *groups, const char *controller, char ret[LINE_LEN])
{
    FILE *f = fopen(groups, "re");
    char line[LINE_LEN];
    bool found = false;

    *ret = '\0';
    while (f && !found && fgets(line, LINE_LEN, f)) {
        struct str path;
        struct str names;

        str_cut(str_trim(str_of(line)), ':', &names);
        names = str_cut(names, ':', &path);
        do {
            found = found || str_eq(str_cut(names, ',', &names), str_of(controller));
        } while (names.len);
        if (found && path.len > 1) {
            snprintf(ret, LINE_LEN, "%.*s", (int)path.len, path.p);
        }
    }
    if (f) {
        fclose(f);
    }
}

/* The smallest of a limit from the own group up to the root of its hierarchy. A container sees the
 * names of its groups, but its own group as the root: then only that is there to be read. */
static int64_t least(const char *root, const char *controller, const char *groups,
                     int64_t (*read)(const char *dir))
{
    char at[LINE_LEN];
    int64_t limit = INT64_MAX;

    own_group(groups, controller, at);
    for (;;) {
        char *dir CLEANUP(freep) = xasprintf("%s/%s%s", root, controller, at);

        limit = MIN(limit, read(dir));
        char *slash = strrchr(at, '/');
        if (!slash) {
            return limit;
        }
        *slash = '\0';
    }
}

int64_t machine_cgroup_cpus_milli(const char *root, const char *groups)
{
    return MIN(least(root, "", groups, cpus_v2), least(root, "cpu", groups, cpus_v1));
}

int64_t machine_cgroup_memory(const char *root, const char *groups)
{
    return MIN(least(root, "", groups, memory_v2), least(root, "memory", groups, memory_v1));
}

int machine_cpus(void)
{
    cpu_set_t set;
    int64_t n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                             : sysconf(_SC_NPROCESSORS_ONLN);

    /* A quota of one and a half is good for two tasks that do not always want all. */
    int64_t milli = machine_cgroup_cpus_milli(CGROUPS, GROUPS);
    n = milli == INT64_MAX ? n : MIN(n, (milli + 999) / 1000);
    return (int)MAX(n, (int64_t)1);
}

int64_t machine_memory_mb(void)
{
    char line[LINE_LEN];
    int64_t bytes = INT64_MAX;

    if (read_line("/proc/meminfo", "MemTotal:", line)) {
        struct str rest;
        int64_t kib = number(str_cut(str_trim(str_of(line)), ' ', &rest));
        bytes = kib == INT64_MAX ? kib : kib * 1024;
    }
    bytes = MIN(bytes, machine_cgroup_memory(CGROUPS, GROUPS));
    return bytes == INT64_MAX ? 1024 : MAX(bytes / (1024 * 1024), (int64_t)1);
}
