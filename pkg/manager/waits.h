/* waits.h: why the tasks of a pool wait, for what shows queues. */
#ifndef SJE_MANAGER_WAITS_H
#define SJE_MANAGER_WAITS_H

#include "pkg/manager/manager.h"
#include "pkg/manager/offers.h"

/* As in struct task. */
struct waits_back {
    const char *returned_by;
    int64_t submitted_at;
    int64_t run_after;
};

/* Of one that asks for this and was given back so; n NULL: of any. False: nothing keeps it. */
bool waits_reason(struct manager *m, const char *pool, bool paused, const struct need *n,
                  const struct waits_back *back, struct waiting_for *ret);

#endif
