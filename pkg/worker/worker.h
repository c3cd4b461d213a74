/* worker.h: the worker role, as main sees it. One loop thread. No database. */
#ifndef SJE_WORKER_WORKER_H
#define SJE_WORKER_WORKER_H

#include "internal/config.h"
#include "internal/err.h"

#include <uv.h>

struct worker;

/* Locks workDir (two workers need two), finds surviving shims, connects. The broker may be away. */
int worker_start(uv_loop_t *loop, const struct config *c, const char *shim_path,
                 struct worker **ret, struct err *reterr) NODISCARD;
/* Clean stop: gives back hints, takes no more work, leaves running shims to the next worker process
 * (KillMode=process), or, with stop_tasks, stops them (reason shutdown) and reports them lost;
 * sends a last beat. */
void worker_stop(struct worker *w, bool stop_tasks, void (*on_stopped)(void *arg), void *arg);
void worker_reconfigure(struct worker *w, const struct config *c);

#endif
