#include "pkg/worker/astray.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "internal/str.h"
#include "pkg/worker/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHIM_NAME    "sje-shim"
#define LOOK_EACH_MS 20

enum whose { OTHERS, ASTRAY, UNSURE };

struct look {
    const char *tasks;
    bool again;
    bool all; /* also those that end by themselves */
    size_t astray;
    size_t unsure;
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

/* In a container of its own, the same path is another directory. */
static enum whose sees_our_tasks(const char *tasks, pid_t pid)
{
    char *path CLEANUP(freep) = xasprintf("/proc/%d/root%s", (int)pid, tasks);
    struct stat its = {0};
    struct stat ours = {0};

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
                return sees_our_tasks(tasks, pid);
            }
            if (run_is_marked(*ret_dir, NULL) && sees_our_tasks(tasks, pid) == ASTRAY) {
                take_off_mark(*ret_dir);
            }
            return OTHERS;
        }
    }
    return OTHERS;
}

static enum whose judge(const char *tasks, pid_t pid, char **ret_dir)
{
    char path[64];
    char text[2 * PATH_MAX];
    struct stat st = {0};

    /* The directory is its user's; of a process that keeps its memory to itself all below is
     * root's. */
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = dir < 0 ? -1 : openat(dir, "cmdline", O_RDONLY | O_CLOEXEC);
    int error = errno;
    bool ours = dir >= 0 && fstat(dir, &st) == 0 && st.st_uid == geteuid();
    if (dir >= 0) {
        close(dir);
    }
    if (fd < 0) {
        return unless_gone(error);
    }
    ssize_t n = ours ? read(fd, text, sizeof(text) - 1) : 0;
    close(fd);
    return judge_words(tasks, pid, (struct str){text, n > 0 ? (size_t)n : 0}, ret_dir);
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
    if (w == ASTRAY) {
        kill_astray(l, pid, fd, dir);
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
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        if (str_to_i64(str_of(e->d_name), 2, INT32_MAX, &pid) && pid != getpid()) {
            look_at(l, (pid_t)pid);
        }
    }
    if (d) {
        closedir(d);
    }
}

bool astray_end(const char *tasks)
{
    struct look l = {.tasks = tasks};
    int64_t until = clock_boot_ms() + ASTRAY_WAIT_MS;

    look(&l);
    while (l.astray && clock_boot_ms() < until) {
        poll(NULL, 0, LOOK_EACH_MS);
        l.again = true;
        look(&l);
    }
    if (!l.astray) {
        return !l.unsure;
    }
    l.all = true;
    look(&l);
    return false;
}
