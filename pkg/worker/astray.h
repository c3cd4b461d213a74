/* astray.h: shims whose attempts this worker cannot speak for, because their grant is gone or was
 * written over (docs/protocol.md, Identity); and those whose task has marked them as done. */
#ifndef SJE_WORKER_ASTRAY_H
#define SJE_WORKER_ASTRAY_H

#include "internal/base.h"

#define ASTRAY_WAIT_MS 5000

/* Ends all such attempts below `tasks`. False: one may live, or cannot be seen, after
 * ASTRAY_WAIT_MS at most. Blocks; at the start, before anything else runs there. */
bool astray_end(const char *tasks) NODISCARD;

#endif
