/* plugins.h: the plug-ins at the start. Their directory may be on a file system that hangs: it is
 * waited for a moment, then the start goes on with what is built in.
 */
#ifndef SJE_EXECUTOR_PLUGINS_H
#define SJE_EXECUTOR_PLUGINS_H

#include "internal/err.h"

#include <uv.h>

#define PLUGINS_WAIT_MS 1000

/* Errors as of executors_init(), where it is in time. `later`: what comes too late is taken then;
 * a worker looks again by itself. */
int plugins_find(uv_loop_t *loop, const char *dir, bool later, struct err *reterr) NODISCARD;

#endif
