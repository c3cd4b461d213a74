/* Every process that descends from the task.
 *
 * Keeper and guardian are child subreapers: whatever the task forks, however it detaches itself,
 * stays below the guardian, and below the keeper when that is dead; there is nothing left exactly
 * when waitpid() knows no child. A signal goes through a pidfd whose process is looked at once
 * more, so a number that was given to a stranger meanwhile is not hit.
 */
#include "cmd/sje-shim/shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct process {
    int64_t pid;
    int64_t parent;
    bool ours;
};

struct table {
    struct process *list;
    size_t count;
    size_t cap;
};

/* The parent, from /proc/<pid>/stat; the name in parentheses may hold anything. -1: gone. */
static int64_t parent_of(int64_t pid)
{
    char path[64];
    char text[512];
    int64_t parent = -1;

    snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
    char *at = read_text(path, text, sizeof(text)) > 0 ? strrchr(text, ')') : NULL;
    if (!at || strlen(at) < 5) {
        return -1;
    }
    at += 4; /* ") S " */
    at[strcspn(at, " ")] = '\0';
    return parse_number(at, &parent) ? parent : -1;
}

static bool add(struct table *t, int64_t pid)
{
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 512;
        struct process *list = realloc(t->list, cap * sizeof(*list));
        if (!list) {
            return false;
        }
        t->list = list;
        t->cap = cap;
    }
    t->list[t->count++] = (struct process){pid, parent_of(pid), false};
    return true;
}

static int by_pid(const void *a, const void *b)
{
    const struct process *p = a;
    const struct process *q = b;

    return (p->pid > q->pid) - (p->pid < q->pid);
}

static bool parent_is_ours(const struct table *t, int64_t self, const struct process *p)
{
    struct process key = {p->parent, 0, false};

    if (p->parent == self) {
        return true;
    }
    const struct process *parent = bsearch(&key, t->list, t->count, sizeof(key), by_pid);
    return parent && parent->ours;
}

/* Parents mostly have the smaller number, so the second round finds little and the third nothing.
 */
static void mark(struct table *t, int64_t self)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < t->count; i++) {
            struct process *p = &t->list[i];
            if (!p->ours && p->parent > 0 && parent_is_ours(t, self, p)) {
                p->ours = changed = true;
            }
        }
    }
}

/* `fd` is its pidfd; -1: by its number. */
static void hit(int fd, int64_t pid, int sig)
{
    if (fd >= 0) {
        syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
    } else {
        kill((pid_t)pid, sig);
    }
}

/* Through a pidfd whose process is looked at once more, so that a number which was given to a
 * stranger meanwhile is not hit. */
static void send_signal(const struct process *p, int64_t self, int sig)
{
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)p->pid, 0);
    if (fd < 0 && errno != ENOSYS && errno != EPERM) { /* these two as in strays.c */
        return;
    }
    int64_t parent = parent_of(p->pid);
    if (parent == p->parent || parent == self) {
        hit(fd, p->pid, sig);
        if (sig == SIGTERM) {
            hit(fd, p->pid, SIGCONT); /* a stopped process hears it too */
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

void tree_signal(int sig)
{
    struct table t = {0};
    int64_t self = getpid();
    DIR *dir = opendir("/proc");

    if (!dir) {
        return;
    }
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        int64_t pid = 0;
        if (parse_number(e->d_name, &pid) && !add(&t, pid)) {
            break;
        }
    }
    closedir(dir);
    qsort(t.list, t.count, sizeof(*t.list), by_pid);
    mark(&t, self);
    for (size_t i = 0; i < t.count; i++) {
        if (t.list[i].ours) {
            send_signal(&t.list[i], self, sig);
        }
    }
    free(t.list);
}

/* Our children keep their numbers until we reap them, and the children of a killed process become
 * ours: so killing children again and again reaches everything, and also something that forks and
 * ends faster than all processes can be listed. */
static void kill_children(void)
{
    char text[4096];
    char path[64];
    int64_t pid = 0;
    ssize_t n = 0;

    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) { /* a kernel without CONFIG_PROC_CHILDREN */
        tree_signal(SIGKILL);
        return;
    }
    while ((n = read(fd, text, sizeof(text))) > 0) {
        for (ssize_t i = 0; i < n; i++) { /* "12 345 ", perhaps cut anywhere */
            if (text[i] >= '0' && text[i] <= '9') {
                pid = pid * 10 + (text[i] - '0');
            } else if (pid > 0) {
                kill((pid_t)pid, SIGKILL);
                pid = 0;
            }
        }
    }
    close(fd);
}

void tree_reap(struct shim *s)
{
    int status = 0;
    pid_t pid = 0;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->fate->pid) {
            s->fate->main_gone = true;
            s->fate->status = status;
        }
    }
    s->no_child = pid < 0 && errno == ECHILD;
}

void tree_kill(struct shim *s)
{
    for (int i = 0; i < KILL_ROUNDS && !s->no_child; i++) {
        kill_children();
        tree_reap(s);
    }
}
