/* api.h: the HTTP API of the manager: routes, checks, JSON in and out. docs/http.md is for its
 * users, openapi.yaml the checkable contract.
 *
 * Order of the end: api_stop() first (every request is answered, 503 where it had to wait), then
 * manager_stop(), whose last callbacks still find what they need. Threads: the loop thread only.
 */
#ifndef SJE_API_API_H
#define SJE_API_API_H

#include "internal/config.h"
#include "pkg/task/task.h"

#include <uv.h>

struct api;
struct manager;

/* ERR_IO where it cannot listen. `types` lives as long as the API; `c` until api_reconfigure(). */
int api_start(uv_loop_t *loop, const struct config *c, struct manager *m,
              const struct task_types *types, struct api **ret, struct err *reterr) NODISCARD;
int api_port(const struct api *api);
/* What /mgmt/config shows from now on; the address and the limits stay. */
void api_reconfigure(struct api *api, const struct config *c);
/* on_stopped may be NULL. */
void api_stop(struct api *api, void (*on_stopped)(void *arg), void *arg);

#endif
