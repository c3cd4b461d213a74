#include "pkg/worker/workdir.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "internal/str.h"
#include "pkg/task/who.h"
#include "pkg/worker/astray.h"
#include "pkg/worker/tidy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define NO_MACHINE           "-" /* instead of its id */
#define WORKDIR_IDENTITY_MAX (ID_TEXT_LEN + 32 + WORKDIR_PLACE_LEN + WORKDIR_NODE_LEN)

static int make_dirs(const char *path, struct err *reterr)
{
    char *part CLEANUP(freep) = xstrdup(path);

    for (char *at = part + 1; *part && *at; at++) {
        if (*at == '/') {
            *at = '\0';
            if (mkdir(part, 0755) != 0 && errno != EEXIST) {
                return err_errno(reterr, ERR_CONFIG, errno, "cannot make directory %.150s", part);
            }
            *at = '/';
        }
    }
    if (mkdir(part, 0750) != 0 && errno != EEXIST) {
        return err_errno(reterr, ERR_CONFIG, errno, "cannot make directory %.150s", part);
    }
    return 0;
}

/* At most n - 1 bytes of a small file, trimmed; "" where there is nothing. */
static void read_line(int fd, char *text, size_t n)
{
    ssize_t got = pread(fd, text, n - 1, 0);

    text[MAX(got, (ssize_t)0)] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
}

/* In place, so that a full disk takes it where there was a text before. */
static bool overwrite(int fd, const char *text)
{
    size_t n = strlen(text);

    return pwrite(fd, text, n, 0) == (ssize_t)n && ftruncate(fd, (off_t)n) == 0;
}

/* Its main thread has ended, and with it all that the process does: what is left of it waits in the
 * kernel for a file system that hangs. */
static bool is_zombie(int pid)
{
    char path[64];
    char stat[512] = "";

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    read_line(fd, stat, sizeof(stat));
    close(fd);
    const char *end = strrchr(stat, ')');
    return end && strncmp(end, ") Z", 3) == 0;
}

/* The kernel's word, not what the file says: the lock of this file is that of such a process. */
static bool is_held_by_zombie(int lock)
{
    struct stat st = {0};
    char line[256];
    bool found = false;
    FILE *f = fstat(lock, &st) == 0 ? fopen("/proc/locks", "re") : NULL;

    while (f && !found && fgets(line, sizeof(line), f)) {
        unsigned long long ino = 0;
        int pid = 0;
        found = sscanf(line, "%*d: FLOCK ADVISORY WRITE %d %*x:%*x:%llu 0 EOF", &pid, &ino) == 2 &&
                ino == st.st_ino && is_zombie(pid);
    }
    if (f) {
        fclose(f);
    }
    return found;
}

static int open_lock(const char *path)
{
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
}

/* A zombie's lock stays with the file that it holds, and another file takes its place. Only with
 * the lock of the directory, so that nobody takes the one file beside who takes the other. */
static bool try_lock(int *fd, const char *path, int dir)
{
    bool alone = dir >= 0 && flock(dir, LOCK_EX | LOCK_NB) == 0;

    *fd = open_lock(path);
    if (*fd < 0 || !alone) {
        return false;
    }
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) {
        return true;
    }
    if (!is_held_by_zombie(*fd) || unlink(path) != 0) {
        return false;
    }
    close(*fd);
    *fd = open_lock(path);
    return *fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) == 0;
}

static int take_lock(struct workdir *w, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/lock", w->path);
    char pid[32] = "";
    int dir = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool taken = try_lock(&w->lock_fd, path, dir);
    int error = errno;

    if (dir >= 0) {
        close(dir);
    }
    if (w->lock_fd < 0) {
        return err_errno(reterr, ERR_CONFIG, error, "cannot open %.150s", path);
    }
    if (!taken) {
        read_line(w->lock_fd, pid, sizeof(pid));
        return err_set(reterr, ERR_CONFIG,
                       "workDir %.120s is used by another worker (pid %.10s); each needs its own",
                       w->path, pid);
    }
    snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    (void)overwrite(w->lock_fd, pid); /* it only helps people */
    return 0;
}

static void close_lock(struct workdir *w)
{
    if (w->lock_fd >= 0) {
        close(w->lock_fd);
    }
    w->lock_fd = -1;
}

static int sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? -1 : 0;

    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

/* What a copy does not have: the machine, and the directory with the attempts that an identity
 * speaks for. It stays the same when that is renamed or mounted elsewhere. */
static int read_place(struct workdir *w, struct err *reterr)
{
    struct statx st = {0};
    char machine[64] = "";
    int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        read_line(fd, machine, sizeof(machine));
        close(fd);
    }
    if (statx(AT_FDCWD, w->tasks, 0, STATX_INO | STATX_BTIME, &st) != 0) {
        return err_errno(reterr, ERR_CONFIG, errno, "cannot look at %.150s", w->tasks);
    }
    snprintf(w->place, sizeof(w->place), "%s %llu %lld.%09u", *machine ? machine : NO_MACHINE,
             (unsigned long long)st.stx_ino, (long long)st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
    return 0;
}

static int write_spare(const char *spare, const char *text)
{
    int fd = open(spare, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int error = fd >= 0 && overwrite(fd, text) && fsync(fd) == 0 ? 0 : errno;

    if (fd >= 0 && close(fd) != 0 && !error) {
        error = errno;
    }
    return error;
}

/* Under another name first, and on the disk before it counts: a number once used never comes back.
 * The two files change places, so that the next writing needs no room. Returns 0 or the error. */
static int replace_identity(const struct workdir *w, const char *path, const char *text)
{
    char *spare CLEANUP(freep) = xasprintf("%s.spare", path);
    int error = write_spare(spare, text);

    if (error) {
        return error;
    }
    bool swapped = renameat2(AT_FDCWD, spare, AT_FDCWD, path, RENAME_EXCHANGE) == 0;
    if ((!swapped && rename(spare, path) != 0) || sync_dir(w->path) != 0) {
        return errno;
    }
    if (!swapped) { /* the first one, or a file system that cannot */
        (void)write_spare(spare, text);
    }
    return 0;
}

/* A task may have filled the disk, and nobody else tidies before the start. */
static int write_identity(struct workdir *w, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/identity", w->path);
    char uuid[ID_TEXT_LEN];
    char text[WORKDIR_IDENTITY_MAX];
    struct tidy_report r = {0};
    bool full = false;
    int error = 0;

    id_format(&w->uuid, uuid);
    snprintf(text, sizeof(text), "%s\n%lld\n%s\n%s%s", uuid, (long long)w->incarnation, w->place,
             w->node, *w->node ? "\n" : "");
    do {
        error = replace_identity(w, path, text);
        full = error == ENOSPC || error == EDQUOT;
        if (full) {
            tidy_once(w->tasks, clock_wall_ms(), 0, &r);
            w->removed += r.removed;
        }
    } while (full && r.removed);
    return error ? err_errno(reterr, ERR_IO, error, "%scannot write %.150s",
                             full ? "free some space on its disk: " : "", path)
                 : 0;
}

/* What a version before this left; 0 where there is nothing. */
static int64_t read_incarnation(const struct workdir *w)
{
    char *path CLEANUP(freep) = xasprintf("%s/incarnation", w->path);
    char text[32] = "";
    int64_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        read_line(fd, text, sizeof(text));
        close(fd);
    }
    return str_to_i64(str_of(text), 0, WORKDIR_INC_MAX, &n) ? n : 0;
}

/* A machine whose name could not be read is no other one. */
static bool same_place(struct str a, struct str b)
{
    struct str machine_a = str_cut(a, ' ', &a);
    struct str machine_b = str_cut(b, ' ', &b);

    return str_eq(a, b) && (str_eq(machine_a, machine_b) || str_eq(machine_a, STR(NO_MACHINE)) ||
                            str_eq(machine_b, STR(NO_MACHINE)));
}

/* NULL: the identity is ours, `w` has it; else why this is a new worker. What it cannot list must
 * not live: the manager would start it elsewhere at the first beat. */
static const char *parse_identity(struct workdir *w, struct str rest, int64_t *ret_last)
{
    struct str uuid = str_cut(rest, '\n', &rest);
    struct str number = str_cut(rest, '\n', &rest);
    struct str where = str_cut(rest, '\n', &rest);
    struct str node = str_cut(rest, '\n', &rest);

    if (!id_parse(uuid.p, uuid.len, &w->uuid) ||
        !str_to_i64(number, 0, WORKDIR_INC_MAX, ret_last)) {
        return "it is not one";
    }
    w->copied = where.len && !same_place(where, str_of(w->place)); /* once there was no place */
    if (w->copied) {
        return "it was copied, or tasks/ is another directory than it was";
    }
    if (!astray_end(w->tasks)) {
        return "a shim may run whose grant below tasks/ is gone";
    }
    snprintf(w->node, sizeof(w->node), "%.*s", (int)node.len, node.p);
    return NULL;
}

/* A new worker speaks for none of the tasks that an earlier one left here, which end with their
 * leases. An identity that could not be read may be good, so it is not replaced. */
static int take_identity(struct workdir *w, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/identity", w->path);
    char text[WORKDIR_IDENTITY_MAX] = "";
    int64_t last = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
    int error = errno;
    if (fd >= 0) {
        close(fd);
    }
    if (n < 0 && error != ENOENT) {
        return err_errno(reterr, ERR_CONFIG, error,
                         "cannot read %.150s: let this user read it, or remove it once no task "
                         "of this worker runs",
                         path);
    }
    const char *why = n < 0 ? "" : parse_identity(w, (struct str){text, (size_t)n}, &last);
    w->is_new = why != NULL;
    if (why) {
        if (*why) {
            log_warn(NULL,
                     "the identity in %s does not count: %s. This is a new worker from now on",
                     path, why);
        }
        random_bytes(&w->uuid, sizeof(w->uuid));
        last = read_incarnation(w);
    }
    w->incarnation = last + 1;
    return write_identity(w, reterr);
}

void workdir_tell(struct workdir *w)
{
    if (w->removed) {
        log_warn(NULL, "the disk of %s is full: removed the directories of %zu finished attempts",
                 w->path, w->removed);
    }
    w->removed = 0;
}

int workdir_name(struct workdir *w, const char *node, struct err *reterr)
{
    if (streq(w->node, node)) {
        return 0;
    }
    snprintf(w->node, sizeof(w->node), "%s", node);
    return write_identity(w, reterr);
}

int workdir_raise(struct workdir *w, int64_t above, struct err *reterr)
{
    if (above < w->incarnation || above > w->incarnation + PROCESS_AHEAD) {
        return err_set(reterr, ERR_INVALID,
                       "process %lld is not one that can be the next after %lld", (long long)above,
                       (long long)w->incarnation);
    }
    w->incarnation = above + 1;
    return write_identity(w, reterr);
}

/* Who has removed that of the lock too lets another worker in. */
static int keep_lock(struct workdir *w, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/lock", w->path);
    struct stat now = {0};
    struct stat ours = {0};
    int before = w->lock_fd;

    if (stat(path, &now) == 0 && fstat(before, &ours) == 0 && now.st_ino == ours.st_ino &&
        now.st_dev == ours.st_dev) {
        return 0;
    }
    int rc = take_lock(w, reterr);
    if (rc < 0) {
        close_lock(w);
        w->lock_fd = before;
        return rc;
    }
    close(before);
    return 0;
}

int workdir_mend(struct workdir *w, bool *ret_new, struct err *reterr)
{
    struct workdir now = *w;

    *ret_new = false;
    if (mkdir(w->tasks, 0700) != 0 && errno != EEXIST) {
        return err_errno(reterr, ERR_IO, errno, "cannot make directory %.150s", w->tasks);
    }
    int rc = task_user_let_pass(w->user, w->tasks, reterr);
    rc = rc < 0 ? rc : read_place(&now, reterr);
    if (rc < 0 || streq(now.place, w->place)) {
        return rc;
    }
    rc = keep_lock(&now, reterr);
    w->lock_fd = now.lock_fd;
    rc = rc < 0 ? rc : write_identity(&now, reterr);
    w->removed = now.removed;
    if (rc == 0) {
        *w = now;
        *ret_new = true;
    }
    return rc;
}

int workdir_open(const char *path, struct workdir *ret, struct err *reterr)
{
    struct workdir w = {.lock_fd = -1};
    int rc = make_dirs(path, reterr);

    if (rc == 0) {
        w.path = realpath(path, NULL);
        if (!w.path) {
            rc = err_errno(reterr, ERR_CONFIG, errno, "workDir %.150s", path);
        }
    }
    if (rc == 0) {
        w.tasks = xasprintf("%s/tasks", w.path);
        if (mkdir(w.tasks, 0700) != 0 && errno != EEXIST) {
            rc = err_errno(reterr, ERR_CONFIG, errno, "cannot make directory %.150s", w.tasks);
        }
    }
    rc = rc < 0 ? rc : take_lock(&w, reterr);
    rc = rc < 0 ? rc : read_place(&w, reterr);
    rc = rc < 0 ? rc : take_identity(&w, reterr);
    workdir_tell(&w);
    if (rc < 0) {
        workdir_close(&w);
        return rc;
    }
    *ret = w;
    return 0;
}

void workdir_close(struct workdir *w)
{
    close_lock(w);
    free(w->path);
    free(w->tasks);
    *w = (struct workdir){.lock_fd = -1};
}
