/* preflight.h: what is looked at once, before the server starts.
 *
 * A broker or database that is away may come back, and the server waits for it. A name that does
 * not resolve, or a user, password or virtual host that the broker refuses, will not mend itself:
 * the start ends with one line. (The database is asked by the manager, which migrates it.)
 */
#ifndef SJE_EXECUTOR_PREFLIGHT_H
#define SJE_EXECUTOR_PREFLIGHT_H

#include "internal/config.h"

/* ERR_CONFIG: a name that cannot be resolved, or refused by the broker; the database refuses alike.
 * Blocks for a few seconds at most. */
int preflight(const struct config *c, struct err *reterr) NODISCARD;

#endif
