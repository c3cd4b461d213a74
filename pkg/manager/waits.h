/* waits.h: why the tasks of a pool wait, for what shows queues. */
#ifndef SJE_MANAGER_WAITS_H
#define SJE_MANAGER_WAITS_H

#include "pkg/manager/manager.h"
#include "pkg/manager/offers.h"

/* Of one that asks for this and was given back by those nodes (as in struct task; NULL: none);
 * n NULL: of any. False: nothing keeps it. */
bool waits_reason(struct manager *m, const char *pool, bool paused, const struct need *n,
                  const char *returned_by, struct waiting_for *ret);

#endif
