/* workdir.h: the directory that a worker owns: who uses it, which start this is, what is in it.
 *
 *   lock          held (flock) as long as the process lives, holds its pid
 *   identity      its UUID, the number of the last process that used it, and where that was (the
 *                 machine, and the inode of tasks/ with its birth), and its nodeId: four lines, see
 *                 docs/protocol.md, Identity. Written to the disk before the number is used.
 *   identity.spare  the one before that: the next is written over it, so a full disk takes it
 *   incarnation   the same number, of versions before there was `identity`; read once
 *   managers      where managers were heard of, see detour.h
 *   tasks/        one directory per attempt, see pkg/executors/shimdir.h
 */
#ifndef SJE_WORKER_WORKDIR_H
#define SJE_WORKER_WORKDIR_H

#include "internal/err.h"
#include "internal/id.h"
#include "pkg/executors/taskuser.h"

#define WORKDIR_INC_MAX   ((int64_t)1 << 53) /* what a number in JSON holds */
#define WORKDIR_PLACE_LEN 128
#define WORKDIR_NODE_LEN  128

struct workdir {
    char *path;  /* absolute, without symbolic links; owned */
    char *tasks; /* path/tasks; owned */
    int lock_fd;
    struct id uuid;
    int64_t incarnation; /* of this process */
    char place[WORKDIR_PLACE_LEN];
    char node[WORKDIR_NODE_LEN]; /* nodeId of the one that used it last; "": unknown */
    size_t removed; /* directories of finished attempts: there was no room for the identity */
    const struct task_user *user; /* who has to get to the attempts too; NULL: nobody; borrowed */
    bool is_new; /* an earlier worker may have left something here, which is not this one's */
    bool copied; /* the attempts that were found belong to another directory's worker */
};

/* Makes it where it is missing. ERR_CONFIG or ERR_IO with a sentence that names the path. */
int workdir_open(const char *path, struct workdir *ret, struct err *reterr) NODISCARD;
/* It is that node's from now on. */
int workdir_name(struct workdir *w, const char *node, struct err *reterr) NODISCARD;
/* This process goes on under a number above `above`, which somebody has used. ERR_INVALID where it
 * is too far ahead to be true. Any thread, as workdir_mend(). */
int workdir_raise(struct workdir *w, int64_t above, struct err *reterr) NODISCARD;
/* Makes tasks/ anew where it has gone, and speaks for the one that is there now: what was in the
 * other one is lost. *ret_new: it is another one. Any thread, with a copy that nobody else uses. */
int workdir_mend(struct workdir *w, bool *ret_new, struct err *reterr) NODISCARD;
/* Tells people what had to be removed since the last call. */
void workdir_tell(struct workdir *w);
void workdir_close(struct workdir *w); /* copes with a zeroed struct whose lock_fd is -1 */

#endif
