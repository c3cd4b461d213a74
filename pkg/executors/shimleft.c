/* What is left of an attempt: its directory. */
#include "internal/str.h"
#include "pkg/executors/shimdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 32 /* below that a directory is moved up first, so no tree is too deep for us */

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
