/* Every process that descends from the task.
 *
 * Keeper and guardian are child subreapers: whatever the task forks, however it detaches itself,
 * stays below the guardian, and below the keeper when that is dead; there is nothing left exactly
 * when waitpid() knows no child.
 *
 * Numbers are given away anew, also while /proc is being read, or while we stand still amidst that.
 * So what seems to be ours is read once more: a process that has the same parent both times, and so
 * on up to us, was below us at the time between, and all that was once below us stays there. A
 * signal goes through a pidfd to what has the same number and began at the same time.
 */
#include "cmd/sje-shim/shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PF_FORKNOEXEC 0x40 /* of the kernel's flags in stat */

struct process {
    int64_t pid;
    int64_t parent;  /* -1: gone */
    int64_t started; /* ticks since the machine was */
    bool forked;     /* and has executed nothing since */
    bool ours;
    bool told; /* it was sent TERM */
    bool owed; /* it is to be */
};

struct table {
    struct process *list;
    size_t count;
    size_t cap;
};

/* From /proc/<pid>/stat; the name in parentheses may hold anything. */
static struct process look_at(int64_t pid)
{
    struct process p = {.pid = pid, .parent = -1};
    char path[64];
    char text[1024];
    long long parent = 0;
    long long started = 0;
    unsigned flags = 0;

    snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
    const char *at = read_text(path, text, sizeof(text)) > 0 ? strrchr(text, ')') : NULL;
    if (at && sscanf(at,
                     ") %*c %lld %*s %*s %*s %*s %u %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                     "%*s %lld",
                     &parent, &flags, &started) == 3) {
        p.parent = parent;
        p.started = started;
        p.forked = flags & PF_FORKNOEXEC;
    }
    return p;
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
    t->list[t->count++] = look_at(pid);
    return true;
}

static int by_pid(const void *a, const void *b)
{
    const struct process *p = a;
    const struct process *q = b;

    return (p->pid > q->pid) - (p->pid < q->pid);
}

static struct process *find(struct process *list, size_t count, int64_t pid)
{
    struct process key = {.pid = pid};

    return count ? bsearch(&key, list, count, sizeof(key), by_pid) : NULL;
}

static bool parent_is_ours(const struct table *t, int64_t self, const struct process *p)
{
    const struct process *parent = p->parent == self ? NULL : find(t->list, t->count, p->parent);

    return p->parent == self || (parent && parent->ours);
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

/* Once more. What is another by now is left out, and what has another parent, but us, is left to
 * the next walk. */
static void check(struct table *t, int64_t self)
{
    for (size_t i = 0; i < t->count; i++) {
        struct process *p = &t->list[i];
        struct process now = p->ours ? look_at(p->pid) : *p;
        bool same = now.started == p->started && (now.parent == p->parent || now.parent == self);
        p->parent = same ? now.parent : -1;
        p->ours = false;
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

/* False where it is gone, or could not be tried. */
static bool send_signal(const struct process *p, int sig)
{
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)p->pid, 0);
    if (fd < 0 && errno != ENOSYS && errno != EPERM) { /* these two as in strays.c */
        return false;
    }
    struct process now = look_at(p->pid);
    bool same = now.parent >= 0 && now.started == p->started;
    if (same) {
        hit(fd, p->pid, sig);
        if (sig == SIGTERM) {
            hit(fd, p->pid, SIGCONT); /* a stopped process hears it too */
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return same;
}

/* All that there are, with ours marked, as far as they stand still. False: not all of them. */
static bool walk(struct table *t)
{
    int64_t self = getpid();
    bool all = true;
    DIR *dir = opendir("/proc");

    if (!dir) {
        return false;
    }
    for (struct dirent *e = readdir(dir); e && all; e = readdir(dir)) {
        int64_t pid = 0;
        all = !parse_number(e->d_name, &pid) || add(t, pid);
    }
    closedir(dir);
    if (t->count) {
        qsort(t->list, t->count, sizeof(*t->list), by_pid);
    }
    mark(t, self);
    check(t, self);
    mark(t, self);
    return all;
}

/* When the newest of them began, in ticks; 0: there is none. */
static int64_t kill_all(void)
{
    struct table t = {0};
    int64_t newest = 0;

    walk(&t);
    for (size_t i = 0; i < t.count; i++) {
        if (t.list[i].ours) {
            newest = t.list[i].started > newest ? t.list[i].started : newest;
            send_signal(&t.list[i], SIGKILL);
        }
    }
    free(t.list);
    return newest;
}

/* ---- TERM, once each ---- */

static bool ignores_term(int64_t pid)
{
    char path[64];
    char text[4096];
    unsigned long long ignored = 0;

    snprintf(path, sizeof(path), "/proc/%lld/status", (long long)pid);
    const char *at = read_text(path, text, sizeof(text)) > 0 ? text : NULL;
    while (at && sscanf(at, "SigIgn: %llx", &ignored) != 1) {
        at = strchr(at, '\n');
        at = at ? at + 1 : NULL;
    }
    return ignored >> (SIGTERM - 1) & 1;
}

/* Begun since, below one that was told and is still there: so this is how that ends, by saving
 * something or by asking a cluster to stop, and TERM would cut that off. */
static bool is_help(const struct table *t, const struct process *p, int64_t since)
{
    while (p && !p->told && p->started >= since) {
        p = find(t->list, t->count, p->parent);
    }
    return p && p->told;
}

static int64_t ticks(int64_t ms)
{
    return ms * (int64_t)getauxval(AT_CLKTCK) / 1000;
}

/* What has just been forked has its parent's handlers until it executes its program, which does not
 * hear of what they took (ours, which is to become the task, has none). And what ignores TERM may
 * be about to become what does not. */
static bool would_lose_it(const struct shim *s, const struct process *p, int64_t now)
{
    bool raw = p->forked && p->pid != s->fate->pid && now - p->started < ticks(FORKED_MS);

    return raw || ignores_term(p->pid);
}

static void recall(const struct shim *s, struct table *t)
{
    for (size_t i = 0; i < t->count; i++) {
        struct process *p = &t->list[i];
        const struct process *q = find(s->told, s->told_count, p->pid);

        if (q && q->started == p->started) {
            p->told = q->told;
            p->owed = q->owed;
        }
    }
    for (size_t i = 0; i < t->count; i++) {
        struct process *p = &t->list[i];
        p->owed = !p->told && (p->owed || (p->ours && !is_help(t, p, s->told_since)));
    }
}

/* Keeps those that were told or are to be, ours at this moment or not, until they are gone. */
static void tell(const struct shim *s, struct table *t, int64_t now)
{
    size_t kept = 0;

    for (size_t i = 0; i < t->count; i++) {
        struct process p = t->list[i];

        if (p.owed && p.ours && !would_lose_it(s, &p, now)) {
            p.told = send_signal(&p, SIGTERM);
            p.owed = !p.told;
        }
        if (p.told || p.owed) {
            t->list[kept++] = p;
        }
    }
    t->count = kept;
    struct process *less = realloc(t->list, (kept + 1) * sizeof(*less));
    t->list = less ? less : t->list;
}

void tree_term(struct shim *s)
{
    struct table t = {0};
    int64_t now = boot_ms();

    if (!s->told_since) {
        s->told_since = ticks(now);
        s->tell_rest = TELL_AGAIN_MS;
    }
    if (walk(&t) || !s->told_count) { /* else somebody could be forgotten, and be told twice */
        recall(s, &t);
        tell(s, &t, ticks(now));
        free(s->told);
        s->told = t.list;
        s->told_count = t.count;
    } else {
        free(t.list);
    }
    int64_t least = WALK_REST * (boot_ms() - now);
    s->term_at = boot_ms() + (s->tell_rest > least ? s->tell_rest : least);
    s->tell_rest = s->tell_rest * 2 < TELL_REST_MS ? s->tell_rest * 2 : TELL_REST_MS;
}

/* ---- KILL ---- */

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
        (void)kill_all();
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

/* What hangs in the kernel, on a disk for instance, does not die, and its children do not become
 * ours. A walk of /proc reaches them: only now and then, because most of what is killed needs but a
 * moment, and a walk with it. */
static void kill_below(struct shim *s)
{
    int64_t now = boot_ms();

    if (s->walk_at && now >= s->walk_at) {
        int64_t newest = kill_all();
        int64_t took = boot_ms() - now;
        s->met_new = newest > s->newest;
        s->newest = newest;
        s->walk_at = now + WALK_AFTER_MS + WALK_REST * took;
    } else if (!s->walk_at) {
        s->walk_at = now + WALK_AFTER_MS;
        s->met_new = true;
    }
}

void tree_reap(struct shim *s)
{
    int status = 0;
    pid_t pid = 0;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == s->fate->pid && !s->fate->main_gone) { /* else it is another's by now */
            s->fate->status = status;
            s->fate->main_gone = true;
            s->term_at = s->term_at == NEVER ? NEVER : 0; /* for those that it has left */
        }
    }
    s->no_child = pid < 0 && errno == ECHILD;
}

void tree_kill(struct shim *s)
{
    s->fate->killing_at = boot_ms();
    for (int i = 0; i < KILL_ROUNDS && !s->no_child; i++) {
        kill_children();
        tree_reap(s);
    }
    if (!s->no_child) {
        kill_below(s);
    }
}

bool tree_stays(const struct shim *s)
{
    return !s->met_new;
}
