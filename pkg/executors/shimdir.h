/* shimdir.h: the directory of one attempt, which the worker shares with its shim (docs/protocol.md,
 * Worker and shim): plan, control socket, log, exit record.
 *
 * `dir` is workDir/tasks/<task>.<attempt>. The task may write there what it likes, so nothing in it
 * is trusted: only regular files are opened, no symbolic link is followed, every length is bounded.
 * Short blocking file I/O, except shimdir_remove(), which takes seconds where there are many files.
 * No function keeps anything, so any thread may call them. Nothing is fsynced: a power failure ends
 * the task, and its directory is then of no use.
 */
#ifndef SJE_EXECUTORS_SHIMDIR_H
#define SJE_EXECUTORS_SHIMDIR_H

#include "pkg/executors/executor.h"
#include "pkg/executors/taskuser.h"

#define SHIMDIR_OUT  "out"
#define SHIMDIR_DONE "done" /* marks what may be removed, and goes last */

/* tasks_dir/<task>.<attempt>; owned by the caller. */
char *shimdir_path(const char *tasks_dir, const struct id *task, int32_t attempt);
/* Makes it (0700) with `work` in it. ERR_CONFLICT where it exists. */
int shimdir_create(const char *dir, struct err *reterr) NODISCARD;
/* A task can take away our rights of its directory, where it runs as the same user. True: they were
 * gone, and are back. */
bool shimdir_take_back(const char *dir);
/* For tasks of another user: lets it pass, and gives it `work` and SHIMDIR_OUT, which is made. u
 * NULL: does nothing. */
int shimdir_give(const char *dir, const struct task_user *u, struct err *reterr) NODISCARD;
/* Where the task leaves what others are to read: SHIMDIR_OUT, or `dir` itself where nothing was
 * given. Owned by the caller. */
char *shimdir_out(const char *dir);
/* Removes it with all that is below, but not what is mounted there: then it stays, and the error
 * names the mount. Fine where it does not exist. What was given goes with its owner's rights. Ends
 * with an error after some passes and seconds, for somebody may make files there: try again. */
int shimdir_remove(const char *dir, struct err *reterr);
/* Calls `found` for each attempt's directory; other names are ignored. A missing tasks_dir is
 * empty. */
int shimdir_list(const char *tasks_dir,
                 void (*found)(void *arg, const struct id *task, int32_t attempt), void *arg,
                 struct err *reterr) NODISCARD;

/* A small file as a whole; ERR_NOT_FOUND, ERR_TOO_LARGE (limit of `out`), ERR_IO. `out` is
 * appended. */
int shimdir_read_file(const char *dir, const char *name, struct buf *out,
                      struct err *reterr) NODISCARD;
/* The same of what the task left in shimdir_out(), with the rights of its owner. */
int shimdir_read_out(const char *dir, const char *name, struct buf *out,
                     struct err *reterr) NODISCARD;
/* Replaces `name` by temporary file and rename; mode 0600. */
int shimdir_write_file(const char *dir, const char *name, const void *p, size_t n,
                       struct err *reterr) NODISCARD;

/* The same, and `reader` may read it, which can be NULL; nobody but us may change it. */
int shimdir_write_for(const char *dir, const char *name, const void *p, size_t n,
                      const struct task_user *reader, struct err *reterr) NODISCARD;

/* What the plan says beside the executor's part. */
struct shim_limits {
    int64_t timeout_ms;  /* 0: none */
    int64_t grace_ms;    /* for the timeout and a TERM to the shim */
    int64_t lease_until; /* clock_boot_ms(); 0: none */
    int64_t log_limit;   /* bytes per stream */
    int64_t memory_max;  /* bytes, 0: none */
    const char *cgroup;  /* from cgroup_delegated(), NULL: none */
};
/* Of a variable that the plan sets twice the later value counts. */
int shim_plan_write(const char *dir, const struct exec_plan *p, const struct shim_limits *l,
                    struct err *reterr) NODISCARD;

/* A new control connection (non-blocking, close-on-exec); the caller owns it. ERR_NOT_FOUND where
 * no shim listens: it has ended, has not yet begun, or was killed. Any other error: nobody knows.
 */
int shim_connect(const char *dir, int *ret_fd, struct err *reterr) NODISCARD;
/* Makes sure that no shim will ever start in `dir`, and that none is left: call it before an
 * attempt without exit record is given up. ERR_BUSY where a shim is alive. */
int shim_fence(const char *dir, struct err *reterr) NODISCARD;

/* exit.json. ERR_NOT_FOUND where it is not there, ERR_PARSE where it is not a record, ERR_CONFLICT
 * where it is one of a version that is not known. ERR_IO: it cannot be read now (a disk, no
 * descriptor is left), so nothing is known of it; look again. */
int shim_exit_read(const char *dir, struct exec_exit *ret, struct err *reterr) NODISCARD;
int shim_exit_parse(const char *p, size_t n, struct exec_exit *ret, struct err *reterr) NODISCARD;

/* What to judge where no shim and no record is left, or none that is understood: reason "crash".
 * why NULL: the usual one. */
void shim_exit_crashed(struct exec_exit *ret, const char *why);
/* The same after the exit status SHIM_UNABLE: nothing was started. */
void shim_exit_unable(struct exec_exit *ret);

/* The log. `stream` is "stdout" or "stderr". */
bool shim_log_is_stream(const char *stream);
/* Length so far, with what was dropped. 0 where there is nothing. */
int64_t shim_log_size(const char *dir, const char *stream);
/* Appends up to `limit` bytes from `offset` on, at most up to the next gap: *ret_offset is where
 * they begin (more than asked where the middle was dropped, the size where there is nothing behind
 * `offset`), *ret_size is the length of the whole log so far. */
int shim_log_read(const char *dir, const char *stream, int64_t offset, size_t limit,
                  struct buf *out, int64_t *ret_offset, int64_t *ret_size,
                  struct err *reterr) NODISCARD;
/* Appends the last n bytes, as far as they were kept without a gap. */
int shim_log_tail(const char *dir, const char *stream, size_t n, struct buf *out,
                  struct err *reterr) NODISCARD;

#endif
