/* task.h: the task: its fields, its states, who may change what.
 *
 * Plain data. `struct task` is one row of the table `task`; `struct task_spec` is what the client
 * asked for, parsed. Both own their pointers. All changes of state go through task_step() in
 * step.h.
 */
#ifndef SJE_TASK_TASK_H
#define SJE_TASK_TASK_H

#include "internal/id.h"
#include "internal/json.h"
#include "pkg/task/who.h"

/* X(name, number in the database, text, shown outside as, final) */
#define TASK_STATES(X)                                                                             \
    X(SCHEDULED, 1, "SCHEDULED", "QUEUED", false)                                                  \
    X(READY, 2, "READY", "QUEUED", false)                                                          \
    X(FED, 3, "FED", "QUEUED", false)                                                              \
    X(RUNNING, 4, "RUNNING", "RUNNING", false)                                                     \
    X(SUCCEEDED, 5, "SUCCEEDED", "SUCCEEDED", true)                                                \
    X(FAILED, 6, "FAILED", "FAILED", true)                                                         \
    X(CANCELLED, 7, "CANCELLED", "CANCELLED", true)                                                \
    X(DEAD, 8, "DEAD", "FAILED", true)

enum task_state {
#define X(name, number, text, outside, final) TASK_##name = (number),
    TASK_STATES(X)
#undef X
};

const char *task_state_name(enum task_state s);    /* "READY" */
const char *task_state_outside(enum task_state s); /* "QUEUED" */
bool task_state_final(enum task_state s);
/* The code of the API: 200, 500 or 410; 0 while not final. */
int task_state_code(enum task_state s);

enum task_class { TASK_HIGH, TASK_NORMAL, TASK_LOW, TASK_CLASSES };
enum task_class task_class_of(int priority);
const char *task_class_name(enum task_class c); /* "high" */

/* Built-in executors; other names come from the plug-in directory. */
#define JOB_SPARK   "SparkApp"
#define JOB_COMMAND "Command"
#define JOB_NOOP    "Noop"

#define TASK_POOL_MAX 63
bool task_pool_good(const char *name); /* [a-z0-9][a-z0-9-]{0,62} */

#define TASK_PRIORITY_DEFAULT 5
#define TASK_AGEING_MS        (10 * 60 * 1000)
#define TASK_OUTPUT_MAX       (64 * 1024)
#define TASK_SPEC_MAX         (1024 * 1024)
#define TASK_VALUES_MAX       20000 /* members and elements of a specification */

/* A live task's row. Strings are owned; NULL where absent. Times are wall ms, INT64_MIN where
 * absent. */
struct task {
    struct id id;
    int32_t seq; /* number of the last event */
    enum task_state state;
    int32_t attempt; /* from 1 */
    int32_t failures;
    int32_t losses;
    int32_t requeues;
    int32_t returns; /* attempts that a node gave back, because of a fault of its own */
    int32_t priority;
    int32_t max_attempts;
    int32_t backoff_s;
    int32_t slots;
    int32_t cpus_milli; /* thousandths; 0: not asked */
    int32_t memory_mb;  /* 0: not asked */
    int32_t spec_bytes;
    int32_t lease_s;         /* 0: the cluster's deadAfterSeconds */
    int32_t queue_timeout_s; /* 0: none; each wait for an attempt has it anew */
    int32_t stale;           /* reports that came too late and were recorded */
    int64_t rank;            /* order of dispatch, lower first; see docs/protocol.md, Hint */
    bool cancel_requested;
    char *pool;
    char *job_type;
    char *job_id;
    char *spec; /* canonical JSON as submitted */
    int64_t submitted_at;
    int64_t run_after;      /* SCHEDULED: when it becomes READY */
    int64_t queue_deadline; /* INT64_MIN: none */
    int64_t started_at;     /* of the current or last attempt */
    int64_t finished_at;
    struct who who; /* of the current or last attempt */
    int64_t token;
    int64_t lease_ms;   /* of that grant, and for ever; 0: a version before this granted it */
    int32_t claim_beat; /* beat number in the claim, see docs/protocol.md, Leases */
    char *application_id;
    char *returned_by;    /* names of the nodes that gave it back, a space between; NULL: none */
    char *failed_on;      /* the same of those on which attempts failed */
    char *loss_signature; /* of the last loss: what it died of and where, for poison detection */
    char *progress;       /* JSON */
    char *output;         /* JSON */
    char *error;          /* JSON */
};

void task_done(struct task *t);                           /* frees what it owns */
void task_copy(struct task *dst, const struct task *src); /* dst uninitialised */

/* Calls fn for each node of row->returned_by or row->failed_on. */
void task_nodes_each(const char *nodes, void (*fn)(void *arg, const char *node), void *arg);

/* The attempt with which the budget of failures is used up: max_attempts, and one more for each
 * attempt that is not charged to it (lost workers, nodes that gave it back, a requeue, which begins
 * a new budget). */
int task_last_attempt(const struct task *t);

struct task_env {
    char *name;
    char *value;
};

/* What the client asked for. From task_spec_parse(); freed with task_spec_free(). */
struct task_spec {
    json_t *json; /* the object as submitted, jobType in canonical spelling; owned */
    const char *job_type;
    const char *job_id; /* NULL where absent; these point into json */
    int priority;
    int max_attempts;
    int backoff_s;
    int timeout_s;       /* 0: none */
    int queue_timeout_s; /* 0: none */
    int lease_s;         /* 0: default */
    int64_t delay_ms;
    int slots;
    double cpus;   /* 0: not asked */
    int memory_mb; /* 0: not asked */
    const char *pool;
    const json_t *labels; /* object or NULL */
    /* SparkApp */
    const char *app_path;
    const char *main_class;     /* NULL */
    const json_t *parameters;   /* object or NULL, in the order given */
    const json_t *args;         /* array of strings or NULL */
    const json_t *dependencies; /* array of strings or NULL */
    const json_t *conf;         /* object of strings or NULL */
    const char *master;         /* NULL: the node's */
    /* Command */
    const json_t *command; /* array of strings */
    const json_t *env;     /* object of strings or NULL; SparkApp too */
    const char *cwd;
    const char *stdin_text;
};

/* One broken rule: `field` is a path such as "resources.slots" or "tasks[7].jobType". */
struct task_problem {
    char field[96];
    char message[200];
};
#define TASK_PROBLEMS_MAX 20
struct task_problems {
    int count; /* how many are filled in; further ones are dropped */
    struct task_problem list[TASK_PROBLEMS_MAX];
};

/* Names of executors that a task may use. NULL-terminated; not copied. */
struct task_types {
    const char *const *names;
};

/* Checks one submitted task. `prefix` comes before each field name ("tasks[7]." or ""). Takes its
 * own reference of `j`. Returns NULL with at least one problem added, else the parsed task. */
struct task_spec *task_spec_parse(json_t *j, const struct task_types *types, const char *prefix,
                                  struct task_problems *problems);
/* The same for a task that was accepted, perhaps before a rule came up that would refuse it now. */
struct task_spec *task_spec_parse_accepted(json_t *j, const struct task_types *types,
                                           struct task_problems *problems);
/* Spark trims such a value of conf where it reads it from a file of settings. */
bool task_conf_is_trimmed(const char *value);
void task_spec_free(struct task_spec *s); /* NULL is fine */
void task_spec_freep(struct task_spec **s);

/* Of a row of before there were columns for them: only its specification says them. */
void task_find_needs(struct task *t);
/* A fresh row from a specification: attempt 1, seq 0, not yet accepted. */
void task_from_spec(struct task *t, const struct task_spec *s, int64_t now_wall_ms);

#endif
