/* manager.h: the manager role, as the HTTP API and main see it.
 *
 * One loop thread. Requests that touch the database answer through a callback, exactly once, later
 * or (on an immediate error) from inside the call. Rows handed to callbacks are valid during the
 * callback.
 */
#ifndef SJE_MANAGER_MANAGER_H
#define SJE_MANAGER_MANAGER_H

#include "internal/buf.h"
#include "internal/config.h"
#include "internal/str.h"
#include "pkg/task/task.h"

#include <uv.h>

struct manager;

/* Broker and database may be away; what the database refuses (password, name) is an error. `c` and
 * `types` live as long as the manager. */
int manager_start(uv_loop_t *loop, const struct config *c, const struct task_types *types,
                  struct manager **ret, struct err *reterr) NODISCARD;
/* Ordered stop: no more accepts, batches in flight finish (or time out), connections close. */
void manager_stop(struct manager *m, void (*on_stopped)(void *arg), void *arg);
/* Where the API can be reached: workers are told, for the time when the broker is away. */
#define MANAGER_URL_MAX 320
void manager_set_url(struct manager *m, const char *url);
/* After a reload of the configuration (SIGHUP, PATCH /mgmt/config). */
void manager_reconfigure(struct manager *m, const struct config *c);

/* ---- accept ---- */
/* The row of a task that is submitted now, not yet accepted. */
void manager_row(const struct manager *m, const struct task_spec *s, struct task *ret);
/* What a key stands for: two bodies are the same where one of these is. SHA-256. */
struct accept_hash {
    uint8_t bytes[32];
    uint8_t json[32]; /* of the tasks, whatever their layout and the order of members */
};
struct accept_request {
    struct task *rows; /* from manager_row(); taken over */
    size_t count;
    const char *idempotency_key; /* NULL: none */
    struct accept_hash hash;     /* for the key */
};
struct accept_reply {
    int rc; /* 0, ERR_DB_DOWN, ERR_BUSY, ERR_CONFLICT (key used with another body), ERR_CLOSED,
               ERR_DB */
    struct err why;
    bool replayed;                 /* these are the tasks of the first answer to this key */
    const struct id *tasks;        /* in the order sent */
    const enum task_state *states; /* of a replay, as they are now; 0: it is not kept any more */
    const struct task *rows;       /* as they were sent; of a replay the ids are others */
    size_t count;
};
typedef void accept_done_fn(void *arg, const struct accept_reply *reply);
void manager_accept(struct manager *m, struct accept_request *a, accept_done_fn *cb, void *arg);

/* ---- look ---- */
/* rc 0 and the row with live progress laid over it; ERR_NOT_FOUND; ERR_DB_DOWN. */
typedef void task_fn(void *arg, int rc, const struct task *t, const struct err *why);
void manager_get(struct manager *m, const struct id *id, task_fn *cb, void *arg);
/* As manager_get, but answers when the task is final or after wait_ms. *ret_handle cancels (see
 * below); it is NULL when the callback has run. */
struct waiter;
struct waiter *manager_wait(struct manager *m, const struct id *id, int64_t wait_ms, task_fn *cb,
                            void *arg);
void manager_wait_cancel(struct waiter *w); /* the callback will not be called */

/* Why a task does not run yet, as far as this manager knows the workers. False: it is not queued,
 * or nothing keeps it. */
struct waiting_for {
    const char *code; /* notBefore, poolPaused, noWorkerOfPool, noWorkerOffersType, doesNotFit,
                         brokerAway, busy, elsewhere, behindOthers */
    char text[400];
};
bool manager_waiting_for(struct manager *m, const struct task *t, struct waiting_for *ret);

struct list_filter {
    const char *state; /* an outside name, or NULL */
    const char *job_id;
    const char *job_type;
    const struct id *after; /* tasks older than this one; NULL: from the newest */
    int limit;              /* 1..1000 */
};
typedef void tasks_fn(void *arg, int rc, const struct task *list, size_t n, bool more,
                      const struct err *why);
void manager_list(struct manager *m, const struct list_filter *f, tasks_fn *cb, void *arg);

struct task_event_row {
    int32_t seq;
    int64_t at; /* wall ms */
    int32_t attempt;
    const char *event;     /* "accepted", "granted", … */
    const char *worker_id; /* NULL */
    const char *detail;    /* JSON text or NULL */
};
typedef void events_fn(void *arg, int rc, const struct task_event_row *list, size_t n,
                       const struct err *why);
void manager_events(struct manager *m, const struct id *id, events_fn *cb,
                    void *arg); /* ERR_NOT_FOUND: no such task */

/* ---- change ---- */
/* rc 0: t is the row after the cancel: CANCELLED (was queued) or RUNNING (is being stopped).
 * ERR_CONFLICT: had ended, t is set. ERR_NOT_FOUND. */
void manager_cancel(struct manager *m, const struct id *id, task_fn *cb, void *arg);
/* Why the worker of a running task cannot be told to stop it now; NULL: it was told. */
#define MANAGER_WHY_LEN 400
const char *manager_not_told(struct manager *m, const struct task *t, char why[MANAGER_WHY_LEN]);
/* rc 0: READY again with attempt + 1; ERR_CONFLICT: not finished, or succeeded. */
void manager_requeue(struct manager *m, const struct id *id, task_fn *cb, void *arg);
/* Orders hold for all managers and outlive them. ERR_NOT_FOUND: no such worker. */
typedef void order_fn(void *arg, int rc, const struct err *why);
void manager_drain(struct manager *m, const char *worker_id, bool on, order_fn *cb, void *arg);
void manager_pause(struct manager *m, const char *pool, bool on, order_fn *cb, void *arg);
/* No worker that is known, live or not, serves it; then one sentence about that is appended. */
bool manager_pool_unserved(const struct manager *m, const char *pool, struct buf *why);

/* ---- settings that were changed at run time, {"section":{"key":value}} ---- */
/* Called when they were read first and with each change, by whichever manager. */
typedef void settings_fn(void *arg, const json_t *settings);
void manager_on_settings(struct manager *m, settings_fn *cb, void *arg);
const json_t *manager_settings(const struct manager *m); /* NULL: not read yet */
/* Replaces them all; `audit` says what changed. ERR_BUSY: they changed meanwhile. */
void manager_change_settings(struct manager *m, const json_t *all, const json_t *audit,
                             order_fn *cb, void *arg);

/* ---- logs ---- */
struct log_part {
    int64_t size;   /* of the whole log so far */
    int64_t offset; /* where data begins */
    int attempt;    /* which one it is of; 0: none has run yet */
    struct str data;
    bool ended; /* the attempt is over: nothing will be added */
};
/* rc 0; ERR_NOT_FOUND (no such task); ERR_GONE (log removed); ERR_TIMEOUT / ERR_MQ_DOWN (its worker
 * cannot be reached). attempt 0: the current one. A task that never ran has an empty log with ended
 * = it is final. */
typedef void log_fn(void *arg, int rc, const struct log_part *part, const struct err *why);
struct log_request {
    struct id id;
    int attempt;
    bool stderr_stream;
    int64_t offset; /* negative: that many bytes before the end */
    int64_t limit;  /* at most 256 KiB a call */
    int wait_ms; /* answer only when there is something behind offset, or it ended, or after this */
};
void manager_log(struct manager *m, const struct log_request *r, log_fn *cb, void *arg);

/* ---- cluster: each appends one JSON value ---- */
bool manager_health(struct manager *m, struct buf *out); /* true: database and broker answer */
/* Whether all live workers beat, or will then beat, three times in so long. */
int manager_check_dead_after(const struct manager *m, int seconds, struct err *reterr) NODISCARD;
void manager_status(struct manager *m, struct buf *out);
void manager_workers(struct manager *m, struct buf *out); /* {"workers":[…]} */
int manager_worker(struct manager *m, const char *id, struct buf *out,
                   struct err *reterr) NODISCARD; /* ERR_NOT_FOUND */
typedef void json_fn(void *arg, int rc, struct str json, const struct err *why);
void manager_queues(struct manager *m, json_fn *cb, void *arg); /* {"queues":[…]} with depths */
void manager_metrics(struct manager *m); /* refreshes gauges before they are printed */

/* A beat that came by HTTP: the body as by AMQP; the answer is the beat-ack. ERR_BUSY: not the
 * leader. */
int manager_beat_http(struct manager *m, struct str body, struct buf *answer,
                      struct err *reterr) NODISCARD;

#endif
