#include "pkg/executors/strays.h"

#include "internal/buf.h"
#include "internal/clock.h"
#include "internal/str.h"
#include "pkg/executors/plan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENVIRON_MAX (4u << 20)
#define TOKEN_NAME  "SJE_TOKEN="
#define BOOT_ID     "/proc/sys/kernel/random/boot_id"
#define PID_MAX     "/proc/sys/kernel/pid_max"
#define PIDS_KEPT   300 /* low numbers that are given away once */

struct process {
    char state;
    int64_t parent;
    int64_t session;
    int64_t threads;
    int64_t started; /* CLOCK_BOOTTIME ms, rounded down to a tick */
};

static int64_t inherited_since = INT64_MAX;

/* Those that we have started ourselves; few. */
static struct {
    pthread_mutex_t lock;
    int64_t *pids;
    size_t n;
} children = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- looking at a process ---- */

static int64_t tick_ms(void)
{
    return 1000 / sysconf(_SC_CLK_TCK);
}

/* All other errors say nothing of what is there: who is short of descriptors sees nothing at all.
 * What we may not look at is another user's. */
static bool says_gone(int error)
{
    return error == ESRCH || error == ENOENT || error == EACCES || error == EPERM;
}

/* A small file. Returns 0, or the error, and "" then. */
static int read_text(const char *path, char *text, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, n - 1);
    int error = got < 0 ? errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    text[MAX(got, (ssize_t)0)] = '\0';
    return error;
}

/* From /proc/<pid>/stat; the name in parentheses may hold anything. Returns 0 or the error. */
static int process_read(int64_t pid, struct process *ret)
{
    char path[64];
    char text[1024];
    long long parent = 0;
    long long session = 0;
    long long threads = 0;
    unsigned long long ticks = 0;

    snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
    int error = read_text(path, text, sizeof(text));
    const char *at = strrchr(text, ')');
    if (!at || sscanf(at,
                      ") %c %lld %*s %lld %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                      "%lld %*s %llu",
                      &ret->state, &parent, &session, &threads, &ticks) != 5) {
        return error ? error : ESRCH;
    }
    ret->parent = parent;
    ret->session = session;
    ret->threads = threads;
    ret->started = (int64_t)ticks * tick_ms();
    return 0;
}

/* A zombie whose other threads go on is none. */
static bool is_dead(const struct process *p)
{
    return (p->state == 'Z' || p->state == 'X') && p->threads <= 1;
}

/* The number of a session is not given away while it has members. So the leader, or a member, that
 * was there when the number was known to be ours tells that all of it is, now and later. Without
 * one it is ours as long as nobody else can have got the number. */
static bool is_session(const struct process *p, int64_t leader, const struct strays *s, bool *sure,
                       int *error)
{
    struct process l;

    if (leader <= 1 || p->session != leader) {
        return false;
    }
    int rc = process_read(leader, &l);
    if (rc && !says_gone(rc)) {
        *error = rc;
        return false;
    }
    if (rc == 0 && l.started > s->seen_at) {
        return false;
    }
    *sure = *sure || rc == 0 || p->started <= s->seen_at;
    return *sure || s->fresh;
}

int64_t strays_forks(void)
{
    char line[256];
    long long n = 0;
    FILE *f = fopen("/proc/stat", "re");

    while (f && fgets(line, sizeof(line), f) && sscanf(line, "processes %lld", &n) != 1) {
    }
    if (f) {
        fclose(f);
    }
    return n;
}

/* So many can begin at least before a number is given away again: those that are in use are left
 * out. Half of that, for some fail to begin after they were given a number, and are not counted. */
static int64_t forks_until_again(void)
{
    char max[64];
    char load[128];
    long long n = 0;
    long long used = 0;

    if (read_text(PID_MAX, max, sizeof(max)) || sscanf(max, "%lld", &n) != 1 ||
        read_text("/proc/loadavg", load, sizeof(load)) ||
        sscanf(load, "%*s %*s %*s %*d/%lld", &used) != 1) {
        return 0;
    }
    return (n - PIDS_KEPT - used) / 2;
}

void strays_before_child(void)
{
    MUST(pthread_mutex_lock(&children.lock) == 0);
}

void strays_after_child(int64_t pid)
{
    if (pid) {
        children.pids = xrealloc(children.pids, (children.n + 1) * sizeof(*children.pids));
        children.pids[children.n++] = pid;
    }
    MUST(pthread_mutex_unlock(&children.lock) == 0);
}

void strays_forget_child(int64_t pid)
{
    strays_before_child();
    for (size_t i = 0; i < children.n; i++) {
        if (children.pids[i] == pid) {
            children.pids[i] = children.pids[--children.n];
            break;
        }
    }
    if (children.n == 0) {
        free(STEAL(children.pids));
    }
    strays_after_child(0);
}

/* One that is being started is there before its number is known: whoever asks waits. */
static bool is_child(int64_t pid)
{
    bool yes = false;

    strays_before_child();
    for (size_t i = 0; i < children.n && !yes; i++) {
        yes = children.pids[i] == pid;
    }
    strays_after_child(0);
    return yes;
}

static bool is_orphan(const struct process *p, int64_t pid)
{
    return p->parent == getpid() && p->started >= inherited_since && !is_child(pid);
}

/* The entries that hold a token, each with its NUL, into an empty buffer. Returns 0 or the error.
 */
static int read_tokens(int64_t pid, struct buf *b)
{
    char path[64];
    size_t kept = 0;

    snprintf(path, sizeof(path), "/proc/%lld/environ", (long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    for (char *at = buf_reserve(b, 4096); at; at = buf_reserve(b, 4096)) {
        ssize_t n = read(fd, at, 4096);
        if (n <= 0) {
            break;
        }
        buf_commit(b, (size_t)n);
    }
    close(fd);
    if (b->len) {
        b->data[b->len - 1] = '\0';
    }
    for (size_t at = 0, len = 0; at < b->len; at += len) {
        len = strlen(b->data + at) + 1;
        if (strncmp(b->data + at, TOKEN_NAME, strlen(TOKEN_NAME)) == 0) {
            memmove(b->data + kept, b->data + at, len);
            kept += len;
        }
    }
    b->len = kept;
    return 0;
}

static bool has_entry(const struct buf *entries, const char *entry)
{
    for (size_t at = 0; at < entries->len; at += strlen(entries->data + at) + 1) {
        if (strcmp(entries->data + at, entry) == 0) {
            return true;
        }
    }
    return false;
}

/* Nothing that a stranger may have: as root we would kill it. Programs that write their title over
 * their environment leave empty entries, for instance. */
static bool is_token(const char *env)
{
    return env && str_starts(str_of(env), STR(TOKEN_NAME)) && strlen(env) > strlen(TOKEN_NAME);
}

/* ---- killing ---- */

/* Whose it is, by its session or its token. True: one of them. */
static bool identify(const struct process *p, struct strays *list, size_t n,
                     const struct buf *tokens, int unread)
{
    bool found = false;

    for (size_t i = 0; i < n; i++) {
        struct strays *s = &list[i];

        s->doubt = unread;
        s->its = is_session(p, s->task, s, &s->task_sure, &s->doubt) ||
                 is_session(p, s->shim, s, &s->shim_sure, &s->doubt) ||
                 (!unread && is_token(s->token) && has_entry(tokens, s->token));
        found = found || s->its;
    }
    return found;
}

/* Counts for those of whom it is, or where that cannot be told; `anybodys`: for all. */
static void kill_and_count(int64_t pid, int fd, struct strays *list, size_t n, bool anybodys)
{
    int sent = -1;

    for (size_t i = 0; i < n; i++) {
        struct strays *s = &list[i];
        bool ours = s->its || anybodys;
        bool clears = s->shim_clears && pid == s->shim;

        if (ours && !clears && sent < 0) {
            sent = fd < 0 ? kill((pid_t)pid, SIGKILL)
                          : (int)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
            sent = sent == 0 ? 0 : errno;
        }
        s->left += ours ? sent != ESRCH : s->doubt && !says_gone(s->doubt);
    }
}

/* The environment of one that hangs cannot be read before it goes on: strangers must not keep us.
 */
static bool may_be_of(const struct process *p, const struct strays *list, size_t n)
{
    bool may = false;

    for (size_t i = 0; i < n && !may; i++) {
        may = p->started + tick_ms() > list[i].began_at;
    }
    return may;
}

static void count_doubt(struct strays *list, size_t n, int error)
{
    for (size_t i = 0; i < n; i++) {
        list[i].left += !says_gone(error);
    }
}

/* Through a pidfd that was opened before it was looked at, so that a number which was given to a
 * stranger meanwhile is not hit. */
static void kill_if_ours(int64_t pid, struct strays *list, size_t n, struct buf *tokens)
{
    struct process p = {0};
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    /* An old kernel, or a filter of calls: of older container runtimes that says EPERM. */
    bool by_number = fd < 0 && (errno == ENOSYS || errno == EPERM);
    int error = fd < 0 && !by_number ? errno : process_read(pid, &p);
    bool orphan = !error && is_orphan(&p, pid);

    if (error) {
        count_doubt(list, n, error);
    } else if (is_dead(&p) && orphan) {
        waitpid((pid_t)pid, NULL, WNOHANG);
    } else if (!is_dead(&p)) {
        buf_reset(tokens);
        int unread = may_be_of(&p, list, n) ? read_tokens(pid, tokens) : 0;
        bool known = identify(&p, list, n, tokens, unread);
        kill_and_count(pid, fd, list, n, orphan && !known);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void kill_processes(struct strays *list, size_t n)
{
    struct buf b CLEANUP(buf_free) = {0};
    DIR *d = opendir("/proc");

    for (size_t i = 0; i < n && !d; i++) {
        list[i].left++;
    }
    buf_init(&b, ENVIRON_MAX);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        int64_t pid = 0;
        if (str_to_i64(str_of(e->d_name), 1, INT32_MAX, &pid) && pid != getpid()) {
            kill_if_ours(pid, list, n, &b);
        }
    }
    if (d) {
        closedir(d);
    }
}

static void kill_members(const char *cgroup)
{
    char path[4200];
    int pid = 0;

    snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%d", &pid) == 1) {
        if (pid > 1 && pid != getpid()) {
            kill(pid, SIGKILL);
        }
    }
    if (f) {
        fclose(f);
    }
}

/* A kernel before 5.14 has no cgroup.kill. What is forked meanwhile is killed at the next look. */
static void kill_groups(const char *cgroup)
{
    char *paths[] = {(char *)(uintptr_t)cgroup, NULL};
    FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);

    for (FTSENT *e = tree ? fts_read(tree) : NULL; e; e = fts_read(tree)) {
        if (e->fts_info == FTS_D) {
            kill_members(e->fts_path);
        }
    }
    if (tree) {
        fts_close(tree);
    }
}

/* 1 where there are processes in it or below, or where that cannot be told. */
static int kill_group(const char *cgroup)
{
    char path[4200];
    char text[256];

    snprintf(path, sizeof(path), "%s/cgroup.kill", cgroup);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "1", 1);
        close(fd);
    } else if (errno == ENOENT) {
        kill_groups(cgroup);
    }
    snprintf(path, sizeof(path), "%s/cgroup.events", cgroup);
    int error = read_text(path, text, sizeof(text));
    bool empty = error ? error == ENOENT || error == ENODEV : !strstr(text, "populated 1");
    if (empty) {
        rmdir(cgroup);
    }
    return !empty;
}

void strays_kill_all(struct strays *list, size_t n)
{
    int64_t forks = n ? strays_forks() : 0;
    int64_t room = n ? forks_until_again() : 0;

    for (size_t i = 0; i < n; i++) {
        list[i].left = list[i].cgroup ? kill_group(list[i].cgroup) : 0;
        list[i].fresh = forks && forks - list[i].seen_forks < room;
        list[i].shim_sure = list[i].task_sure = false;
    }
    /* Twice: the environment of a process that is just executing a program looks empty. */
    for (int i = 0; i < 2 && n; i++) {
        kill_processes(list, n);
    }
}

int strays_kill(const struct strays *s)
{
    struct strays one = *s;

    strays_kill_all(&one, 1);
    return one.left;
}

/* ---- whom to look for ---- */

/* To the first process of a container all orphans fall: also what `docker exec -d` leaves. */
void strays_inherit(void)
{
    if (getpid() == 1) {
        return;
    }
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    inherited_since = clock_boot_ms() / tick_ms() * tick_ms();
}

void strays_reap(void)
{
    siginfo_t i = {0};

    while (waitid(P_ALL, 0, &i, WEXITED | WNOHANG | WNOWAIT) == 0 && i.si_pid &&
           !is_child(i.si_pid)) {
        waitpid(i.si_pid, NULL, WNOHANG);
        i.si_pid = 0;
    }
}

bool strays_read(const char *dir, struct strays *ret)
{
    char path[4200];
    char text[128];
    char boot[64];
    char now[64];
    long long at = 0;
    long long forks = 0; /* earlier shims do not say */
    int shim = 0;
    int task = 0;

    snprintf(path, sizeof(path), "%s/" PLAN_STARTED, dir);
    ssize_t n = readlink(path, text, sizeof(text) - 1);
    text[MAX(n, (ssize_t)0)] = '\0';
    (void)read_text(BOOT_ID, now, sizeof(now));
    now[strcspn(now, "\n")] = '\0';
    if (sscanf(text, "%63s %lld %d %d %lld", boot, &at, &shim, &task, &forks) < 4 ||
        !streq(boot, now)) {
        return false;
    }
    ret->shim = shim;
    ret->task = task;
    ret->seen_at = at;
    ret->seen_forks = forks;
    return true;
}
