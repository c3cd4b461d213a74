/* executor.h: the plug-in interface: how a kind of task is started, watched and judged.
 *
 * An executor never runs the task itself: it turns a specification into a plan (pure text work and
 * small files in the attempt's directory; what the task names, the task's process looks at, for it
 * may be on a disk that hangs), may look at the running task from time to time, and
 * turns the shim's exit record into an outcome. So a broken executor or task can hurt its own
 * attempt only.
 *
 * Threads: an executor's functions touch the disk, which may hang, so they run beside the worker's
 * loop. They see their arguments and what never changes, and keep nothing.
 */
#ifndef SJE_EXECUTORS_EXECUTOR_H
#define SJE_EXECUTORS_EXECUTOR_H

#include "internal/err.h"
#include "internal/json.h"
#include "pkg/task/task.h"

struct task_user;

/* What the node offers; from the configuration. It never changes: a new configuration makes a new
 * one, and this stays for whoever still needs it. */
struct exec_node {
    int refs;               /* 0: not counted, it is somebody's variable */
    const char *name;       /* nodeId; NULL: nobody needs it */
    const char *spark_home; /* "" : found by itself: SPARK_HOME, else pyspark's */
    const char *spark_master;
    const json_t *spark_conf; /* object of strings or NULL */
    const char *python;       /* "" : python3 */
    const char *plugin_dir;
    const char *program_dir; /* where sje-spark and sje-listener.jar are, beside sje-shim; NULL:
                                sje-spark is in PATH */
    const struct task_user *user; /* that tasks run as; NULL: ours. Borrowed, never changes */
    int64_t log_limit;
    int kill_grace_ms;
};
/* A copy, with one reference; the loop thread counts them. */
struct exec_node *exec_node_copy(const struct exec_node *n);
const struct exec_node *exec_node_ref(const struct exec_node *n);
void exec_node_unref(const struct exec_node *n); /* NULL is fine */

/* One attempt, as the executor sees it. */
struct exec_attempt {
    struct id task;
    int32_t attempt;
    int64_t token;
    int32_t losses; /* attempts before of which no end was told: lost or returned; from the grant */
    int32_t returns;  /* of these, returned */
    int64_t lease_ms; /* 0: unknown */
    bool elsewhere;   /* another node could take it, and has not returned it; from the grant */
    const struct task_spec *spec;
    const char *program; /* of a plug-in, as it was found last; NULL: it is not there */
    const char *dir;     /* absolute: workDir/tasks/<task>.<attempt> */
};

struct exec_plan {
    struct buf argv;              /* NUL-terminated strings, one after another */
    struct buf env;               /* NUL-terminated NAME=VALUE */
    struct buf needs;             /* NUL-terminated KIND:PATH, see plan.h */
    const struct task_user *user; /* NULL: ours */
    char *cwd;
    char *stdin_file;
    bool hold_term; /* SIGTERM is blocked when it starts; it takes it when it is ready */
    bool detach;    /* what runs in the cluster stays there when only the attempt has to end */
};
void exec_plan_init(struct exec_plan *p);
void exec_plan_free(struct exec_plan *p);

/* exit.json, parsed by shim_exit_read(). */
struct exec_exit {
    bool launched;   /* false: could not be started; see message */
    int exit_code;   /* -1 where a signal ended it */
    int signal;      /* 0 where it exited */
    char reason[16]; /* "exit", "timeout", "lease", "cancel", "shutdown", "revoked", "launch",
                        "crash" */
    bool oom;
    int64_t started_at; /* wall ms */
    int64_t finished_at;
    int64_t stdout_bytes;
    int64_t stderr_bytes;
    int64_t dropped_bytes; /* of both, that a full disk did not take */
    int64_t stdout_dropped;
    int64_t stderr_dropped;
    int log_error; /* errno of the first write of a log that failed, even if its bytes were kept */
    int64_t max_rss_kb;
    int64_t cpu_ms;
    char message[256];
    char stage[16]; /* "launch": at which step; "" where the shim does not say */
    int error;      /* the same: errno, or 0 */
};

enum exec_outcome {
    EXEC_SUCCEEDED,
    EXEC_FAILED,
    EXEC_CANCELLED,
    EXEC_LOST,
    EXEC_RETURNED, /* it was not started, for a fault of the node: see fault.h */
};
struct exec_result {
    enum exec_outcome outcome;
    json_t *error;  /* object {kind,message,exitCode,signal} or NULL; owned */
    json_t *output; /* any JSON or NULL; owned */
    char *exact;    /* the output as it was written, where the tree does not hold it; NULL; owned */
    char *warning;  /* what of it is not complete, for people; NULL; owned */
};
void exec_result_free(struct exec_result *r);

struct executor {
    const char *name; /* jobType, canonical */
    /* Writes what the attempt needs into its directory and fills the plan. An error fails the
     * attempt with kind `launch` and this text; but with ERR_IO (a file of ours) and ERR_CONFIG
     * (something that this type needs is not on the node) the attempt is returned: see fault.h.
     * NULL: there is nothing to start, the attempt has no directory and ends at once. */
    int (*prepare)(const struct exec_node *node, struct exec_attempt *a, struct exec_plan *plan,
                   struct err *reterr);
    /* Optional: what prepare() would find missing on the node, without a task. ERR_CONFIG with a
     * sentence for people, the same each time. Cheap: called every few seconds. */
    int (*able)(const struct exec_node *node, struct err *reterr);
    /* Optional: what is known of a running attempt (also one that survived a worker restart:
     * everything needed is in `dir`). An object, owned by the caller, with applicationId, uiUrl,
     * text, done, total, each of them optional; NULL: nothing. Asked a few times a second. */
    json_t *(*status)(const struct exec_attempt *a);
    /* Optional: how long it may take at most, beyond the grace, to stop the attempt in this
     * directory when it is cancelled or runs too long. */
    int (*stop_ms)(const char *dir);
    /* Judges the end. Reads the logs' tails and SJE_OUTPUT from `dir`. */
    void (*finish)(const struct exec_node *node, const struct exec_attempt *a,
                   const struct exec_exit *e, struct exec_result *ret);
};

/* The registry, for the loop thread. NULL where there is none of that name (names are canonical
 * here). */
const struct executor *executor_find(const char *name);
/* For what was started once: a type that is not known is a plug-in that is not there now. */
const struct executor *executor_find_past(const char *name);
/* Can tasks of this type be started on the node now? ERR_NOT_FOUND, ERR_CONFIG. */
int executor_able(const struct exec_node *node, const char *name, struct err *reterr) NODISCARD;
/* The same for any thread; `program` of a plug-in, else NULL. */
int executor_look(const struct exec_node *node, const char *name, const char *program,
                  struct err *reterr) NODISCARD;
/* Looks for the plug-ins: executables in plugin_dir, which need not exist. */
int executors_init(const char *plugin_dir, struct err *reterr) NODISCARD;
/* The two halves of executors_look(). The first alone touches the disk: any thread may call it. It
 * fills reterr and returns what it has found nevertheless, for executors_found_free(). */
struct executors_found;
struct executors_found *executors_scan(const char *plugin_dir, struct err *reterr);
void executors_take(const struct executors_found *f);
void executors_found_free(struct executors_found *f);
bool executor_is_plugin(const char *name);
/* Where a plug-in was when they were looked for last; NULL: it was not there. */
const char *executor_plugin_path(const char *name);
/* Looks again: those that are gone are listed no more, but executor_find() still knows them, for
 * what of them runs. No string is freed before executors_done(). */
int executors_look(const char *plugin_dir, struct err *reterr) NODISCARD;
void executors_done(void);
/* NULL-terminated list: built in, then plug-ins; the array stays, what is in it changes with
 * executors_look(). */
const char *const *executor_names(void);
/* The same, with those that have gone: a task of such a type waits until it is back. */
const char *const *executor_names_known(void);

#endif
