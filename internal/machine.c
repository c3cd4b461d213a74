#include "internal/machine.h"

#include "internal/base.h"
#include "internal/str.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CGROUPS  "/sys/fs/cgroup"
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

/* "max 100000" or "150000 100000": quota and period. */
static int64_t cpus_of(const char *text)
{
    struct str period;
    int64_t quota = number(str_cut(str_of(text), ' ', &period));
    int64_t us = number(period);

    return quota == INT64_MAX || us == INT64_MAX || us == 0 ? INT64_MAX : quota * 1000 / us;
}

static int64_t bytes_of(const char *text)
{
    return number(str_of(text));
}

/* The smallest of a limit from `group` up to the root. */
static int64_t least(const char *root, const char *group, const char *file,
                     int64_t (*read)(const char *text))
{
    char *at CLEANUP(freep) = xstrdup(group);
    int64_t limit = INT64_MAX;

    for (;;) {
        char *path CLEANUP(freep) = xasprintf("%s%s/%s", root, at, file);
        char line[LINE_LEN];

        if (read_line(path, "", line)) {
            limit = MIN(limit, read(line));
        }
        char *slash = strrchr(at, '/');
        if (!slash) {
            return limit;
        }
        *slash = '\0';
    }
}

int64_t machine_cgroup_cpus_milli(const char *root, const char *group)
{
    return least(root, group, "cpu.max", cpus_of);
}

int64_t machine_cgroup_memory(const char *root, const char *group)
{
    return least(root, group, "memory.max", bytes_of);
}

static void own_group(char line[LINE_LEN])
{
    if (!read_line("/proc/self/cgroup", "0::", line) || streq(line, "/")) {
        *line = '\0';
    }
}

int machine_cpus(void)
{
    cpu_set_t set;
    char group[LINE_LEN];
    int64_t n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                             : sysconf(_SC_NPROCESSORS_ONLN);

    own_group(group);
    /* A quota of one and a half is good for two tasks that do not always want all. */
    int64_t milli = machine_cgroup_cpus_milli(CGROUPS, group);
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
    own_group(line);
    bytes = MIN(bytes, machine_cgroup_memory(CGROUPS, line));
    return bytes == INT64_MAX ? 1024 : MAX(bytes / (1024 * 1024), (int64_t)1);
}
