/* step.h: the life of a task as a pure function: (row, event) -> (row, audit).
 *
 * No I/O, no clock, no random numbers of its own: time and chance come in with the event. The same
 * function runs in the manager and in the simulation. Whatever it decides is written with
 * compare-and-set on `seq` (see docs/protocol.md), so a decision based on an old row is never
 * written.
 */
#ifndef SJE_TASK_STEP_H
#define SJE_TASK_STEP_H

#include "pkg/task/task.h"

/* X(name, text) */
#define TASK_EVENTS(X)                                                                             \
    X(ACCEPT, "accept")                                                                            \
    X(DUE, "due")                                                                                  \
    X(FED, "fed")                                                                                  \
    X(UNFED, "unfed")                                                                              \
    X(CLAIM, "claim")                                                                              \
    X(APPLICATION, "application")                                                                  \
    X(SURVIVED, "survived")                                                                        \
    X(RESULT, "result")                                                                            \
    X(LOST, "lost")                                                                                \
    X(CANCEL, "cancel")                                                                            \
    X(QUEUE_TIMEOUT, "queueTimeout")                                                               \
    X(REQUEUE, "requeue")

enum task_event_type {
#define X(name, text) TE_##name,
    TASK_EVENTS(X)
#undef X
        TASK_EVENT_TYPES
};

/* The transition table: every move a task may make, and no other. The SQL guard and docs/states.md
 * are generated from it. X(from, event, to, why); from NEW: not yet a row. */
#define TASK_EDGES(X)                                                                              \
    X(NEW, ACCEPT, READY, "accepted")                                                              \
    X(NEW, ACCEPT, SCHEDULED, "accepted with a delay")                                             \
    X(SCHEDULED, DUE, READY, "its time has come")                                                  \
    X(READY, FED, FED, "the broker has the hint")                                                  \
    X(FED, UNFED, READY, "no worker can take it any more")                                         \
    X(READY, CLAIM, RUNNING, "granted before the feed was recorded")                               \
    X(FED, CLAIM, RUNNING, "granted")                                                              \
    X(RUNNING, CLAIM, RUNNING, "the holder asks again and gets the same grant")                    \
    X(RUNNING, APPLICATION, RUNNING, "the cluster's id of the application is known")               \
    X(RUNNING, SURVIVED, RUNNING, "the worker was restarted and took the attempt back")            \
    X(RUNNING, RESULT, SUCCEEDED, "succeeded")                                                     \
    X(RUNNING, RESULT, FAILED, "failed, attempts used up")                                         \
    X(RUNNING, RESULT, SCHEDULED, "failed, or given back too often: tried again after a while")    \
    X(RUNNING, RESULT, READY, "the node could not start it; given back")                           \
    X(RUNNING, RESULT, CANCELLED, "stopped on request")                                            \
    X(RUNNING, RESULT, DEAD, "poison: died the same way on two workers")                           \
    X(RUNNING, LOST, SCHEDULED, "its worker is gone; tried again")                                 \
    X(RUNNING, LOST, FAILED, "lost too often")                                                     \
    X(RUNNING, LOST, CANCELLED, "its worker is gone and it was to be cancelled")                   \
    X(RUNNING, LOST, DEAD, "poison: it died the same way on two nodes")                            \
    X(SCHEDULED, CANCEL, CANCELLED, "cancelled while queued")                                      \
    X(READY, CANCEL, CANCELLED, "cancelled while queued")                                          \
    X(FED, CANCEL, CANCELLED, "cancelled while queued")                                            \
    X(SCHEDULED, CANCEL, SCHEDULED, "the next attempt ends what a lost one left in a cluster")     \
    X(READY, CANCEL, READY, "the next attempt ends what a lost one left in a cluster")             \
    X(FED, CANCEL, FED, "the next attempt ends what a lost one left in a cluster")                 \
    X(RUNNING, CANCEL, RUNNING, "the worker is told to stop it")                                   \
    X(SCHEDULED, QUEUE_TIMEOUT, FAILED, "waited longer than queueTimeoutSeconds")                  \
    X(READY, QUEUE_TIMEOUT, FAILED, "waited longer than queueTimeoutSeconds")                      \
    X(FED, QUEUE_TIMEOUT, FAILED, "waited longer than queueTimeoutSeconds")                        \
    X(FAILED, REQUEUE, READY, "run again by an operator")                                          \
    X(CANCELLED, REQUEUE, READY, "run again by an operator")                                       \
    X(DEAD, REQUEUE, READY, "run again by an operator")

#define TASK_NEW ((enum task_state)0)

enum task_outcome {
    OUTCOME_SUCCEEDED,
    OUTCOME_FAILED,
    OUTCOME_CANCELLED,
    OUTCOME_LOST,
    OUTCOME_RETURNED, /* it was never started, for a fault of its node; no budget is touched */
};
#define TASK_OUTCOMES (OUTCOME_RETURNED + 1)
bool task_outcome_parse(const char *text, enum task_outcome *ret);

/* Strings are borrowed. */
struct task_event {
    enum task_event_type type;
    int64_t now;     /* wall ms */
    uint64_t random; /* for jitter; RESULT and LOST */
    int32_t attempt; /* CLAIM, RESULT, LOST, APPLICATION, SURVIVED: which one it speaks of */
    struct who who; /* the worker that says it, or of which it is said; nobody: an operator, time */
    int64_t token;  /* CLAIM: the one to grant; RESULT, APPLICATION, SURVIVED: the one that was
                       granted */
    int64_t lease_ms; /* CLAIM: the lease, where the task does not say */
    int32_t beat;     /* CLAIM; LOST: of the last claim (and incarnation) known to who decided it */
    /* RESULT */
    enum task_outcome outcome;
    const char *error;  /* JSON object or NULL */
    const char *output; /* JSON or NULL */
    const char *progress;
    const char *warning;        /* what of the result is not complete; for the audit */
    const char *application_id; /* APPLICATION too */
    int64_t started_at;         /* INT64_MIN: unknown */
    const char *signature; /* what it died of, where another worker could die of it too; or NULL */
    /* LOST, CANCEL, REQUEUE, UNFED: why or who, for the audit; QUEUE_TIMEOUT: what it waited for */
    const char *reason;
    int max_losses; /* RESULT, LOST */
};

enum step_rc {
    STEP_APPLIED, /* row and audit are to be written */
    STEP_SAME,    /* a repetition: nothing to write, answer as if applied */
    STEP_RECORD,  /* refused, but the refusal belongs into the audit: to be written */
    STEP_REFUSED, /* nothing to write; see reason */
};

/* One line of the audit: event (task, seq). */
struct task_audit {
    int32_t seq;
    int64_t at;
    int32_t attempt;
    enum task_state from; /* TASK_NEW for the first */
    enum task_state to;
    const char *event; /* a literal */
    char *worker_id;   /* owned or NULL */
    char *detail;      /* JSON, owned or NULL */
};
void task_audit_done(struct task_audit *a);

/* Applies `ev` to the row. `audit` is filled for STEP_APPLIED and STEP_RECORD. *reason (never NULL
 * afterwards) is a protocol word for a refusal: "superseded", "running", "ended", "cancelled",
 * "unknown". */
enum step_rc task_step(struct task *t, const struct task_event *ev, struct task_audit *audit,
                       const char **reason);
/* The first line of the audit of a row from task_from_spec(); raises seq to 1. */
void task_accepted(struct task *t, struct task_audit *audit);

bool task_edge_allowed(enum task_state from, enum task_state to);
/* docs/states.md */
void task_states_markdown(struct buf *out);
/* The SQL expression over old.state and new.state that is true for a legal change; the database's
 * guard in configs/sql must contain exactly it (a test compares). */
void task_edges_sql(struct buf *out);

/* Uniform in [0, min(cap, base * 2^(n-1))] milliseconds: full jitter. n from 1; the cap is an hour,
 * or the base where that is longer. */
int64_t task_backoff_ms(int base_s, int n, uint64_t random);

#endif
