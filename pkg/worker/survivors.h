/* survivors.h: what an earlier worker process has left in tasks/: running attempts are taken back,
 * ended ones reported. Once, before the first beat. */
#ifndef SJE_WORKER_SURVIVORS_H
#define SJE_WORKER_SURVIVORS_H

#include "pkg/worker/run.h"

/* Adopts into `core`. At most WCORE_ATTEMPTS_MAX, running ones first; *ret_live and *ret_ended
 * count them, *ret_left those that the next start will report. */
struct survivors {
    size_t live;
    size_t ended;
    size_t left;
};
int survivors_find(struct run_context *x, struct wcore *core, int64_t now, struct survivors *ret,
                   struct err *reterr) NODISCARD;
/* Marks all as done: they are copies of what lives, or ended, elsewhere. */
/* How many attempts have a shim that lives. */
size_t survivors_running(const char *tasks_dir);
int survivors_disown(const char *tasks_dir, struct err *reterr) NODISCARD;

#endif
