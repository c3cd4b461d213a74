/* A cgroup v2 of the task's own, where the worker has found a delegated one: kills without a race,
 * limits memory and tells whether the kernel killed for want of it. Without one all of this is left
 * out.
 */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *file(const struct shim *s, const char *name, char path[600])
{
    snprintf(path, 600, "%s/%s", s->cgroup, name);
    return path;
}

void group_name(struct shim *s)
{
    char dir[4096];
    const char *name = getcwd(dir, sizeof(dir)) ? strrchr(dir, '/') : NULL;

    if (!s->plan.cgroup || !name ||
        snprintf(s->cgroup, sizeof(s->cgroup), "%s%s", s->plan.cgroup, name) >=
            (int)sizeof(s->cgroup)) {
        *s->cgroup = '\0';
    }
}

void group_make(struct shim *s)
{
    char path[600];
    char number[32];

    if (!*s->cgroup) {
        return;
    }
    if (mkdir(s->cgroup, 0755) != 0 && errno != EEXIST) {
        s->cgroup[0] = '\0';
        return;
    }
    if (s->plan.memory_max > 0) {
        snprintf(number, sizeof(number), "%lld", (long long)s->plan.memory_max);
        write_text(file(s, "memory.max", path), number);
        write_text(file(s, "memory.oom.group", path), "1");
    }
}

void group_enter(const struct shim *s)
{
    char path[600];

    if (*s->cgroup) {
        write_text(file(s, "cgroup.procs", path), "0");
    }
}

void group_kill(const struct shim *s)
{
    char path[600];

    if (*s->cgroup) {
        write_text(file(s, "cgroup.kill", path), "1");
    }
}

/* The number behind `key` in a file of lines "key number"; -1 where it is not there. */
static int64_t counter_in(const char *path, const char *key, char *text, size_t size)
{
    int64_t n = 0;

    if (read_text(path, text, size) <= 0) {
        return -1;
    }
    for (char *line = text; line && *line;) {
        char *next = strchr(line, '\n');
        if (next) {
            *next++ = '\0';
        }
        size_t len = strlen(key);
        if (strncmp(line, key, len) == 0 && line[len] == ' ') {
            return parse_number(line + len + 1, &n) ? n : -1;
        }
        line = next;
    }
    return -1;
}

static int64_t counter(const char *path, const char *key)
{
    char text[16384];

    return counter_in(path, key, text, sizeof(text));
}

int64_t group_oom_kills(const struct shim *s)
{
    char path[600];

    return *s->cgroup ? counter(file(s, "memory.events", path), "oom_kill") : -1;
}

void group_remove(struct shim *s)
{
    if (*s->cgroup) {
        rmdir(s->cgroup);
    }
}

int64_t machine_oom_kills(void)
{
    return counter("/proc/vmstat", "oom_kill");
}

int64_t machine_forks(void)
{
    static char text[65536]; /* there is a number for each interrupt */

    return counter_in("/proc/stat", "processes", text, sizeof(text));
}
