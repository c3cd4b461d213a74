/* call.h: one request under way, as the handlers of the API see it.
 *
 * A handler answers at once, or hands the call as `arg` to the manager and answers in the callback.
 * Every call_…() that answers also frees the call.
 */
#ifndef SJE_API_CALL_H
#define SJE_API_CALL_H

#include "api/api.h"
#include "internal/http.h"
#include "internal/list.h"
#include "pkg/manager/manager.h"

#define API_REPLY_MAX (64 * 1024 * 1024)

struct api {
    uv_loop_t *loop;
    const struct config *config;
    struct manager *manager;
    const struct task_types *types;
    struct http *http; /* NULL once closed; freed when there is no call either */
    struct list calls;
    char machine[256];       /* the host's name; "": unknown */
    struct list submissions; /* large bodies, in the order they came; see submit.c */
    uv_idle_t *slicer;       /* turns while there are some */
    void (*on_stopped)(void *arg);
    void *stopped_arg;
};

struct call {
    struct list_node node; /* in api.calls */
    struct api *api;
    struct http_request *request;
    struct id task; /* {taskId} of the path */
    char *name;     /* {workerId} or {pool} of the path */
    void *state;    /* the handler's own; freed by free_state */
    void (*free_state)(void *state);
    /* The client is gone or the server stops: answer soon, as it comes. NULL: nothing to hurry. */
    void (*abort)(struct call *c);
};

typedef void call_fn(struct call *c);

/* Answers. `status` for call_error is that of err.def. */
void call_reply(struct call *c, int status, const char *content_type, struct str body,
                const struct http_field *fields, size_t n);
void call_json(struct call *c, int status, struct buf *b); /* 500 where over its limit */
void call_problem(struct call *c, int status, const char *fmt, ...) PRINTF(3, 4);
void call_problems(struct call *c, int status, const struct task_problems *p);
void call_invalid(struct call *c, const char *field, const char *fmt, ...) PRINTF(3, 4);
void call_error(struct call *c, int rc, const struct err *why);
/* After http_stream_end(), which has answered. */
void call_free(struct call *c);

/* Query arguments, checked: false after a 422 has been sent, which ends the call. */
bool call_query_int(struct call *c, const char *name, int64_t min, int64_t max, int64_t fallback,
                    int64_t *ret) NODISCARD;
bool call_query_bool(struct call *c, const char *name, bool *ret) NODISCARD;

/* submit.c: as the API starts, and once all calls were told to end. */
void submit_open(struct api *api);
void submit_close(struct api *api);

/* The handlers: tasks.c, submit.c, logs.c, mgmt.c, settings.c */
#define API_HANDLERS(X)                                                                            \
    X(submit_task)                                                                                 \
    X(submit_tasks)                                                                                \
    X(tasks_list)                                                                                  \
    X(task_get)                                                                                    \
    X(task_cancel)                                                                                 \
    X(task_result)                                                                                 \
    X(task_events)                                                                                 \
    X(task_requeue)                                                                                \
    X(task_log)                                                                                    \
    X(health)                                                                                      \
    X(health_live)                                                                                 \
    X(health_ready)                                                                                \
    X(metrics)                                                                                     \
    X(mgmt_status)                                                                                 \
    X(mgmt_workers)                                                                                \
    X(mgmt_worker)                                                                                 \
    X(mgmt_drain)                                                                                  \
    X(mgmt_undrain)                                                                                \
    X(mgmt_queues)                                                                                 \
    X(mgmt_pause)                                                                                  \
    X(mgmt_unpause)                                                                                \
    X(mgmt_config)                                                                                 \
    X(mgmt_config_patch)                                                                           \
    X(beat)
#define X(name) void api_##name(struct call *c);
API_HANDLERS(X)
#undef X

#endif
