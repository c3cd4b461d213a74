/* waits.h: why the tasks of a pool wait, for what shows queues. */
#ifndef SJE_MANAGER_WAITS_H
#define SJE_MANAGER_WAITS_H

#include "pkg/manager/manager.h"
#include "pkg/manager/offers.h"

/* Of one that asks for this; n NULL: of any. False: nothing keeps it. */
bool waits_reason(const struct manager *m, const char *pool, bool paused, const struct need *n,
                  struct waiting_for *ret);

#endif
