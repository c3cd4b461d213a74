/* taskuser.h: the user that tasks run as where that is not the worker's own
 * (executorNodeConfig.taskUser).
 *
 * The attempt's directory stays the worker's, and the task may only pass through it; `work` and
 * `out` in it are the task's. What the worker does in these two, it does with the rights of their
 * owner: so nothing that the task puts there, and nothing that it changes meanwhile, leads it to a
 * file that the task could not reach itself. The worker needs no right to other users' files for
 * that.
 */
#ifndef SJE_EXECUTORS_TASKUSER_H
#define SJE_EXECUTORS_TASKUSER_H

#include "internal/err.h"

#include <sys/stat.h>
#include <sys/types.h>

struct task_user {
    char *name;
    char *home; /* "" : it has none that it could use */
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* gid among them */
    int group_count;
};

/* *ret is NULL where `name` is "". ERR_CONFIG: there is no such user, or it is root or the worker's
 * own, or this process may not start tasks as somebody else; what it may, shims inherit then. */
int task_user_open(const char *name, struct task_user **ret, struct err *reterr) NODISCARD;
void task_user_free(struct task_user *u); /* NULL is fine */
/* Lets it pass through a directory of ours, and makes sure that it gets there. ERR_CONFIG. */
int task_user_let_pass(const struct task_user *u, const char *dir, struct err *reterr) NODISCARD;

bool task_user_can_read(const struct task_user *u, const char *path); /* NULL: ours */

/* This thread's rights to files are those of another user for a while. Nothing changes where that
 * is this process' own, or where it may not; then its own rights count, which are no greater. */
struct task_user_rights {
    bool changed;
    gid_t *groups;
    int group_count;
};
void task_user_begin(struct task_user_rights *r, uid_t uid, gid_t gid);
/* With all its groups: what a task may. NULL: ours. */
void task_user_become(struct task_user_rights *r, const struct task_user *u);
void task_user_end(struct task_user_rights *r); /* for CLEANUP */

#endif
