/* What is left of an attempt: its directory. */
#include "internal/clock.h"
#include "internal/str.h"
#include "pkg/executors/shimdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX 32 /* below that a directory is moved up first, so no tree is too deep for us */

/* Somebody may make files there for ever, and a pass over a directory may meet each new one. */
#define PASSES  3 /* not counting those that have moved something up */
#define TIME_MS 5000

struct removal {
    int top;
    int marked; /* the same where the attempt's mark may be in it; -1 */
    bool given; /* what other users have directly below it goes with their rights */
    unsigned moved;
    int64_t until; /* clock_boot_ms() */
    int error;
    char mounted[256]; /* the name of a mount that was met; "" : none */
};

static bool remove_below(struct removal *r, int dir, int depth);

static bool is_late(const struct removal *r)
{
    return clock_boot_ms() >= r->until;
}

static bool is_same_mount(int a, int b)
{
    struct statx x = {0};
    struct statx y = {0};

    if (statx(a, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) != 0 ||
        statx(b, "", AT_EMPTY_PATH, STATX_MNT_ID, &y) != 0) {
        return false;
    }
    return x.stx_mask & y.stx_mask & STATX_MNT_ID
               ? x.stx_mnt_id == y.stx_mnt_id
               : x.stx_dev_major == y.stx_dev_major && x.stx_dev_minor == y.stx_dev_minor;
}

/* EXDEV where something is mounted there, which is not touched: it may hang. */
static int open_within(int at, const char *name)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_NO_XDEV};
    int fd = (int)syscall(SYS_openat2, at, name, &how, sizeof(how));

    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) {
        return fd;
    }
    fd = openat(at, name, (int)how.flags); /* a kernel before 5.6, or a filter of calls */
    if (fd >= 0 && !is_same_mount(at, fd)) {
        close(fd);
        errno = EXDEV;
        fd = -1;
    }
    return fd;
}

/* Not what a link leads to. */
static bool open_to_us(int at, const char *name)
{
    struct stat st = {0};
    char path[64];
    int fd = openat(at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    bool ok = fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && chmod(path, 0700) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static int open_dir(int at, const char *name)
{
    int fd = open_within(at, name);

    if (fd < 0 && errno == EACCES && open_to_us(at, name)) {
        fd = open_within(at, name);
    }
    return fd;
}

/* From within its parent: it may be a mount itself by now. */
static int open_top(const char *dir)
{
    char *parent CLEANUP(freep) = xstrdup(dir);
    char *slash = strrchr(parent, '/');

    if (!slash) {
        return open_dir(AT_FDCWD, dir);
    }
    slash[slash == parent] = '\0';
    int at = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = at < 0 ? -1 : open_dir(at, dir + (slash - parent) + 1);
    int error = errno;
    if (at >= 0) {
        close(at);
    }
    errno = error;
    return fd;
}

/* In several passes: once more for what was moved up. True where something went. */
static bool remove_top(struct removal *r)
{
    bool some = false;

    for (int passes = 0; passes < PASSES && !is_late(r);) {
        unsigned before = r->moved;
        if (!remove_below(r, r->top, 0)) {
            break;
        }
        some = true;
        passes += r->moved == before;
    }
    return some;
}

static void note_mount(struct removal *r, const char *name)
{
    if (r->error == EXDEV || r->error == EBUSY) { /* a directory, a file */
        snprintf(r->mounted, sizeof(r->mounted), "%s", name);
    }
}

static bool is_of_another(const struct removal *r, int at, const char *name, struct stat *ret)
{
    return r->given && fstatat(at, name, ret, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(ret->st_mode) &&
           ret->st_uid != geteuid();
}

/* A directory directly below the top, which nobody but us can put another in the place of. Its
 * owner may still be at work in it. True where something went. */
static bool remove_given(struct removal *r, const char *name, const struct stat *owner)
{
    struct removal own = {.marked = -1, .until = r->until};
    struct task_user_rights rights CLEANUP(task_user_end);
    bool progress = false;

    task_user_begin(&rights, owner->st_uid, owner->st_gid);
    own.top = open_dir(r->top, name);
    if (own.top >= 0) {
        (void)fchmod(own.top, 0700);
        progress = remove_top(&own);
        close(own.top);
    } else {
        own.error = errno;
        note_mount(&own, name);
    }
    r->error = own.error;
    memcpy(r->mounted, own.mounted, sizeof(r->mounted));
    return progress;
}

/* True where something went. */
static bool remove_entry(struct removal *r, int dir, const char *name, int depth)
{
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) {
        return true;
    }
    if (errno != EISDIR && errno != EPERM && errno != EACCES) {
        r->error = errno;
        note_mount(r, name);
        return false;
    }
    if (errno == EACCES) { /* `dir` itself cannot be written */
        fchmod(dir, 0700);
    }
    struct stat owner = {0};
    if (depth == 0 && is_of_another(r, dir, name, &owner)) {
        bool some = remove_given(r, name, &owner);
        return unlinkat(dir, name, AT_REMOVEDIR) == 0 || some;
    }
    int fd = open_dir(dir, name);
    if (fd < 0) {
        r->error = errno;
        note_mount(r, name);
        return r->error == ENOTDIR && unlinkat(dir, name, 0) == 0;
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

/* The mark goes last: where something stays, it is still to be removed. */
static bool is_kept(const struct removal *r, int dir, const char *name)
{
    return streq(name, ".") || streq(name, "..") || (dir == r->marked && streq(name, SHIMDIR_DONE));
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
    for (struct dirent *e = readdir(d); e && !is_late(r); e = readdir(d)) {
        if (!is_kept(r, dir, e->d_name)) {
            progress = remove_entry(r, dir, e->d_name, depth) || progress;
        }
    }
    closedir(d);
    return progress;
}

static bool is_mark_alone(const struct removal *r)
{
    int fd = fcntl(r->top, F_DUPFD_CLOEXEC, 0);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    bool alone = d;

    if (d) {
        rewinddir(d);
        for (struct dirent *e = readdir(d); e && alone; e = readdir(d)) {
            alone = is_kept(r, r->top, e->d_name);
        }
        closedir(d);
    } else if (fd >= 0) {
        close(fd);
    }
    return alone;
}

int shimdir_remove(const char *dir, struct err *reterr)
{
    struct removal r = {.top = open_top(dir), .until = clock_boot_ms() + TIME_MS};

    if (r.top < 0 && errno == EXDEV) {
        return err_set(reterr, ERR_IO, "something is mounted on it: %.150s stays", dir);
    }
    if (r.top < 0) {
        return errno == ENOENT ? 0 : err_errno(reterr, ERR_IO, errno, "cannot open %.150s", dir);
    }
    r.marked = r.top;
    struct stat st = {0};
    r.given = fstat(r.top, &st) == 0 && (st.st_mode & S_IXOTH) && st.st_uid == geteuid();
    bool gone = rmdir(dir) == 0;
    if (!gone) {
        remove_top(&r);
        if (is_mark_alone(&r)) {
            (void)remove_entry(&r, r.top, SHIMDIR_DONE, 0);
        }
        gone = rmdir(dir) == 0;
    }
    int error = r.error ? r.error : errno;
    close(r.top);
    if (!gone && *r.mounted) {
        return err_set(reterr, ERR_IO, "something is mounted on \"%.50s\": %.150s stays", r.mounted,
                       dir);
    }
    if (!gone && is_late(&r)) {
        return err_set(reterr, ERR_IO, "%.150s is not empty after %d s; the rest goes later", dir,
                       TIME_MS / 1000);
    }
    return gone ? 0 : err_errno(reterr, ERR_IO, error, "cannot remove %.150s", dir);
}
