/* What is left of an attempt: its directory, and processes that have lost their shim. */
#include "internal/str.h"
#include "pkg/executors/shimdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX   32 /* below that a directory is moved up first, so no tree is too deep for us */
#define ENVIRON_MAX (4u << 20)
#define STRAY_NAME  "SJE_TOKEN="

struct removal {
    int top;
    unsigned moved;
    int error;
};

static bool remove_below(struct removal *r, int dir, int depth);

static int open_dir(int at, const char *name)
{
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(at, name, flags);

    if (fd < 0 && errno == EACCES && fchmodat(at, name, 0700, 0) == 0) {
        fd = openat(at, name, flags);
    }
    return fd;
}

/* True where something went. */
static bool remove_entry(struct removal *r, int dir, const char *name, int depth)
{
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) {
        return true;
    }
    if (errno != EISDIR && errno != EPERM && errno != EACCES) {
        r->error = errno;
        return false;
    }
    if (errno == EACCES) { /* `dir` itself cannot be written */
        fchmod(dir, 0700);
    }
    int fd = open_dir(dir, name);
    if (fd < 0) {
        r->error = errno;
        return errno == ENOTDIR && unlinkat(dir, name, 0) == 0;
    }
    if (depth == DEPTH_MAX) {
        char up[32];
        snprintf(up, sizeof(up), ".deep-%u", r->moved++);
        close(fd);
        r->error = renameat(dir, name, r->top, up) == 0 ? r->error : errno;
        return faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    }
    bool progress = remove_below(r, fd, depth + 1);
    close(fd);
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0) {
        return true;
    }
    r->error = errno;
    return progress;
}

static bool remove_below(struct removal *r, int dir, int depth)
{
    bool progress = false;
    int fd = fcntl(dir, F_DUPFD_CLOEXEC, 0);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        r->error = errno;
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    rewinddir(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (!streq(e->d_name, ".") && !streq(e->d_name, "..")) {
            progress = remove_entry(r, dir, e->d_name, depth) || progress;
        }
    }
    closedir(d);
    return progress;
}

int shimdir_remove(const char *dir, struct err *reterr)
{
    struct removal r = {.top = open_dir(AT_FDCWD, dir)};

    if (r.top < 0) {
        return errno == ENOENT ? 0 : err_errno(reterr, ERR_IO, errno, "cannot open %.150s", dir);
    }
    /* Once more for what was moved up. */
    bool gone = rmdir(dir) == 0;
    while (!gone && remove_below(&r, r.top, 0)) {
        gone = rmdir(dir) == 0;
    }
    gone = gone || rmdir(dir) == 0;
    close(r.top);
    return gone ? 0
                : err_errno(reterr, ERR_IO, r.error ? r.error : errno, "cannot remove %.150s", dir);
}

/* ---- processes ---- */

static bool has_variable(const struct buf *environment, const char *env)
{
    size_t n = strlen(env) + 1;

    for (size_t at = 0; at < environment->len;) {
        const char *line = environment->data + at;
        size_t len = strlen(line) + 1;
        if (len == n && memcmp(line, env, n) == 0) {
            return true;
        }
        at += len;
    }
    return false;
}

static void read_environment(int64_t pid, struct buf *b)
{
    char path[64];

    buf_reset(b);
    snprintf(path, sizeof(path), "/proc/%lld/environ", (long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    for (char *at = buf_reserve(b, 4096); at; at = buf_reserve(b, 4096)) {
        ssize_t n = read(fd, at, 4096);
        if (n <= 0) {
            break;
        }
        buf_commit(b, (size_t)n);
    }
    close(fd);
}

static int kill_strays(const char *env)
{
    struct buf b CLEANUP(buf_free) = {0};
    DIR *d = opendir("/proc");
    int killed = 0;

    buf_init(&b, ENVIRON_MAX);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        int64_t pid = 0;
        if (!str_to_i64(str_of(e->d_name), 1, INT32_MAX, &pid) || pid == getpid()) {
            continue;
        }
        int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
        if (fd < 0) {
            continue;
        }
        read_environment(pid, &b);
        if (has_variable(&b, env) && syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0) {
            killed++;
        }
        close(fd);
    }
    if (d) {
        closedir(d);
    }
    return killed;
}

/* Twice: the environment of a process that is just executing a program looks empty. */
int shim_kill_strays(const char *env)
{
    /* Nothing that a stranger may have: as root we would kill it. Programs that write their title
     * over their environment leave empty entries, for instance. */
    if (!str_starts(str_of(env), STR(STRAY_NAME)) || strlen(env) == strlen(STRAY_NAME)) {
        return 0;
    }
    int killed = kill_strays(env);

    return killed + kill_strays(env);
}
