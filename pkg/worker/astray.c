#include "pkg/worker/astray.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/worker/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SHIM_NAME    "sje-shim"
#define LOOK_EACH_MS 20
#define LAST_LOOK_MS 1500 /* of ASTRAY_WAIT_MS */

enum whose { OTHERS, ASTRAY, MARKED, UNSURE };

/* Shared by the thread that looks and the one that waits for it, for some time. */
struct look {
    char *tasks;
    int64_t until;
    bool again;
    bool all; /* also those that end by themselves */
    size_t astray;
    size_t unsure;
    bool none_left;
    sem_t done;
    atomic_bool left; /* by one of the two: the other frees it */
};

/* What a process is not there for, or may not be asked, is not ours. */
static enum whose unless_gone(int error)
{
    return error == ENOENT || error == ESRCH || error == EACCES || error == EPERM ? OTHERS : UNSURE;
}

/* Its root is not shown to us, for a shim keeps its memory from other processes. The number of the
 * first mount is that of one set of mounts alone. */
static bool has_our_mounts(pid_t pid)
{
    char path[64];
    long ours = -1;
    long its = -2;

    snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)pid);
    FILE *a = fopen("/proc/self/mountinfo", "re");
    FILE *b = fopen(path, "re");
    bool same =
        a && b && fscanf(a, "%ld", &ours) == 1 && fscanf(b, "%ld", &its) == 1 && ours == its;
    if (a) {
        fclose(a);
    }
    if (b) {
        fclose(b);
    }
    return same;
}

/* Both halves are of the session of that one which made the socket; its number is nobody else's as
 * long as one of them lives. 0: nobody listens there, or it is not known who. */
static pid_t listener_of(const char *dir)
{
    struct ucred c = {0};
    socklen_t n = sizeof(c);
    int fd CLEANUP(closep) = -1;

    return shim_connect(dir, &fd, NULL) == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) == 0
               ? c.pid
               : 0;
}

/* In a container of its own, the same path is another directory. Who listens in ours sees it,
 * whatever its mounts are: each start of a service may have its own. */
static enum whose sees_our_tasks(const char *tasks, pid_t pid, const char *dir)
{
    char *path CLEANUP(freep) = xasprintf("/proc/%d/root%s", (int)pid, tasks);
    struct stat its = {0};
    struct stat ours = {0};
    pid_t listener = listener_of(dir);

    if (listener > 0 && listener == getsid(pid)) {
        return ASTRAY;
    }
    if (stat(path, &its) != 0) {
        if (errno == EACCES && has_our_mounts(pid)) {
            return ASTRAY;
        }
        return errno == ENOENT || errno == ESRCH ? OTHERS : UNSURE;
    }
    return stat(tasks, &ours) != 0                                  ? UNSURE
           : its.st_dev == ours.st_dev && its.st_ino == ours.st_ino ? ASTRAY
                                                                    : OTHERS;
}

/* Only its task can have made that. Whoever believed it would disown what runs. */
static void take_off_mark(const char *dir)
{
    char *mark CLEANUP(freep) = xasprintf("%s/" RUN_DONE_FILE, dir);

    log_warn(NULL, "%s: its task has made a file `" RUN_DONE_FILE "` there, which is ours: removed",
             dir);
    unlink(mark);
}

/* `words`: a command line. *ret_dir, the attempt's directory in it, is owned by the caller. */
static enum whose judge_words(const char *tasks, pid_t pid, struct str words, char **ret_dir)
{
    char *below CLEANUP(freep) = xasprintf("%s/", tasks);
    struct str rest = words;

    if (!str_ends(str_cut(rest, '\0', &rest), STR(SHIM_NAME))) {
        return OTHERS;
    }
    while (rest.len) {
        struct str word = str_cut(rest, '\0', &rest);
        if (str_starts(word, str_of(below))) {
            *ret_dir = xstrndup(word.p, word.len);
            int rc = run_has_grant(*ret_dir);
            if (rc == ERR_NOT_FOUND || rc == ERR_PARSE) {
                return sees_our_tasks(tasks, pid, *ret_dir);
            }
            bool marked = run_is_marked(*ret_dir, NULL);
            return marked && sees_our_tasks(tasks, pid, *ret_dir) == ASTRAY ? MARKED : OTHERS;
        }
    }
    return OTHERS;
}

/* Returns how much was read; < 0 with errno. */
static ssize_t read_at(int dir, const char *name, char *text, size_t n)
{
    int fd CLEANUP(closep) = openat(dir, name, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -1 : read(fd, text, n);
}

/* Its user and its name are asked first: they can be told of a process that hangs as well. */
static enum whose judge(const char *tasks, pid_t pid, char **ret_dir)
{
    static const char name[] = SHIM_NAME "\n";
    char path[64];
    char text[2 * PATH_MAX];
    struct stat st = {0};

    /* The directory is its user's; of a process that keeps its memory to itself all below is
     * root's. */
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    int dir CLEANUP(closep) = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        return unless_gone(errno);
    }
    if (fstat(dir, &st) != 0 || st.st_uid != geteuid()) {
        return OTHERS;
    }
    ssize_t n = read_at(dir, "comm", text, sizeof(text));
    if (n >= 0 && !str_eq((struct str){text, (size_t)n}, STR(name))) {
        return OTHERS;
    }
    n = n < 0 ? n : read_at(dir, "cmdline", text, sizeof(text));
    return n < 0 ? unless_gone(errno)
                 : judge_words(tasks, pid, (struct str){text, (size_t)n}, ret_dir);
}

/* The keeper leads a session. When it is dead the guardian kills all that is below it, and ends;
 * when that is killed too, what the task has detached goes on. */
static void kill_astray(const struct look *l, pid_t pid, int fd, const char *dir)
{
    if (!l->all && getsid(pid) != pid) {
        return;
    }
    if (!l->again) {
        log_warn(NULL, "%s: its grant is gone or was written over. Killing its shim %d: it is lost",
                 dir, (int)pid);
    }
    if (fd < 0) {
        kill(pid, SIGKILL);
    } else {
        syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
    }
}

/* Opened before it is judged, so that no stranger who got its number since is killed. */
static void look_at(struct look *l, pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    if (fd < 0 && errno == ESRCH) {
        return;
    }
    char *dir CLEANUP(freep) = NULL;
    enum whose w = judge(l->tasks, pid, &dir);
    if (atomic_load(&l->left)) {
        w = OTHERS; /* somebody else may have begun there since */
    }
    if (w == ASTRAY) {
        kill_astray(l, pid, fd, dir);
    } else if (w == MARKED) {
        take_off_mark(dir);
    }
    if (fd >= 0) {
        close(fd);
    }
    l->astray += w == ASTRAY;
    l->unsure += w == UNSURE;
}

static void look(struct look *l)
{
    DIR *d = opendir("/proc");
    int64_t pid = 0;

    l->astray = 0;
    l->unsure = !d;
    for (struct dirent *e = d ? readdir(d) : NULL; e && !atomic_load(&l->left); e = readdir(d)) {
        if (str_to_i64(str_of(e->d_name), 2, INT32_MAX, &pid) && pid != getpid()) {
            look_at(l, (pid_t)pid);
        }
    }
    if (d) {
        closedir(d);
    }
}

/* Who is ending can be hard to tell from a stranger. */
static bool is_ending(const struct look *l)
{
    return l->astray || (l->again && l->unsure);
}

static void look_until_none(struct look *l)
{
    look(l);
    while (is_ending(l) && !atomic_load(&l->left) && clock_boot_ms() < l->until) {
        l->again = l->again || l->astray;
        poll(NULL, 0, LOOK_EACH_MS);
        look(l);
    }
    l->none_left = !l->astray && !l->unsure;
    if (l->astray) {
        l->all = true;
        look(l);
    }
}

static void look_leave(struct look *l)
{
    if (atomic_exchange(&l->left, true)) {
        sem_destroy(&l->done);
        free(l->tasks);
        free(l);
    }
}

static void *run_look(void *arg)
{
    struct look *l = arg;

    look_until_none(l);
    sem_post(&l->done);
    look_leave(l);
    return NULL;
}

static bool begin_look(struct look *l)
{
    pthread_t t;

    return pthread_create(&t, NULL, run_look, l) == 0 && pthread_detach(t) == 0;
}

/* False: it takes too long. */
static bool await_look(struct look *l)
{
    struct timespec until = {0};
    int rc = 0;

    MUST(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    until.tv_sec += ASTRAY_WAIT_MS / 1000;
    do {
        rc = sem_clockwait(&l->done, CLOCK_MONOTONIC, &until);
    } while (rc != 0 && errno == EINTR);
    return rc == 0;
}

/* What hangs holds a lock of its memory, and whoever reads its command line waits for that: so it
 * is done beside the start. */
static bool look_beside(const char *tasks)
{
    struct look *l = xcalloc(1, sizeof(*l));

    l->tasks = xstrdup(tasks);
    l->until = clock_boot_ms() + ASTRAY_WAIT_MS - LAST_LOOK_MS;
    MUST(sem_init(&l->done, 0, 0) == 0);
    if (!begin_look(l)) {
        atomic_store(&l->left, true); /* there is no other one */
        look_leave(l);
        return false;
    }
    bool done = await_look(l);
    bool none_left = done && l->none_left;
    if (!done) {
        log_warn(NULL, "a look at the processes of this machine does not end: a file system hangs");
    }
    look_leave(l);
    return none_left;
}

/* ---- is everything shown? ---- */

_Noreturn static void be_hidden(int fd)
{
    char none = 0;

    (void)prctl(PR_SET_DUMPABLE, 0);
    if (write(fd, "", 1) == 1) {
        (void)!read(fd, &none, 1); /* until we are looked at */
    }
    for (;;) {
        raise(SIGKILL); /* nothing of ours is to be done at its end */
    }
}

/* A /proc can hide processes (hidepid=, ProtectProc=). It shows those least that keep their memory
 * to themselves, as our shims do: so one is made and looked for. */
static bool is_shown_all(void)
{
    char path[64];
    char text[16];
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        be_hidden(ends[1]);
    }
    close(ends[1]);
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    bool shown =
        pid > 0 && read(ends[0], text, 1) == 1 && read_at(AT_FDCWD, path, text, sizeof(text)) > 0;
    close(ends[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return shown;
}

bool astray_end(const char *tasks)
{
    bool shown = is_shown_all();

    if (!shown) {
        log_warn(NULL,
                 "/proc does not show a process of this user (hidepid=, ProtectProc=), so it tells "
                 "nothing of what may run");
    }
    return look_beside(tasks) && shown;
}
