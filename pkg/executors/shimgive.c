/* What of an attempt's directory is the task's, where that is another user. */
#include "internal/str.h"
#include "pkg/executors/shimdir.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whatever the worker's umask is. */
static bool give(const char *path, const struct task_user *u)
{
    return chmod(path, 0700) == 0 && chown(path, u->uid, u->gid) == 0;
}

int shimdir_give(const char *dir, const struct task_user *u, struct err *reterr)
{
    char *work CLEANUP(freep) = xasprintf("%s/work", dir);
    char *out CLEANUP(freep) = xasprintf("%s/" SHIMDIR_OUT, dir);

    if (u && (mkdir(out, 0700) != 0 || !give(out, u) || !give(work, u) || chmod(dir, 0711) != 0)) {
        return err_errno(reterr, ERR_IO, errno, "cannot give %.150s to %.50s", dir, u->name);
    }
    return 0;
}

/* True where it was given: its owner is another than that of `dir`, in which nobody else can have
 * made it. */
static bool has_out(const char *dir, const char *out, struct stat *ret)
{
    struct stat ours = {0};

    return lstat(dir, &ours) == 0 && lstat(out, ret) == 0 && S_ISDIR(ret->st_mode) &&
           ret->st_uid != ours.st_uid;
}

char *shimdir_out(const char *dir)
{
    char *out CLEANUP(freep) = xasprintf("%s/" SHIMDIR_OUT, dir);
    struct stat st = {0};

    return has_out(dir, out, &st) ? STEAL(out) : xstrdup(dir);
}

int shimdir_read_out(const char *dir, const char *name, struct buf *out, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/" SHIMDIR_OUT, dir);
    struct stat st = {0};

    if (!has_out(dir, path, &st)) {
        return shimdir_read_file(dir, name, out, reterr);
    }
    struct task_user_rights r CLEANUP(task_user_end);
    task_user_begin(&r, st.st_uid, st.st_gid);
    return shimdir_read_file(path, name, out, reterr);
}

/* By its group: what another attempt of the same user could change would be that one's word. */
int shimdir_write_for(const char *dir, const char *name, const void *p, size_t n,
                      const struct task_user *reader, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", dir, name);
    int rc = shimdir_write_file(dir, name, p, n, reterr);

    if (rc == 0 && reader &&
        (lchown(path, (uid_t)-1, reader->gid) != 0 || chmod(path, 0640) != 0)) {
        rc = err_errno(reterr, ERR_IO, errno, "cannot give %.150s to %.50s", path, reader->name);
    }
    return rc;
}
