/* run.h: one attempt on this node: its directory, its shim, its result.
 *
 * A run exists from the grant until the core forgets the attempt, and after that until its handles
 * are closed. It tells its end exactly once. An attempt without exit record is only given up after
 * no shim can be or come alive in its directory and no process of it is found (strays.h).
 *
 * Threads: the loop thread only. What touches the disk or /proc is done beside it (errand.h), but
 * at the start of the worker: run_find(), run_adopt(), run_is_done(), run_lives(),
 * run_disown(), run_has_grant().
 */
#ifndef SJE_WORKER_RUN_H
#define SJE_WORKER_RUN_H

#include "internal/list.h"
#include "pkg/executors/executor.h"
#include "pkg/worker/core.h"
#include "pkg/worker/errand.h"
#include "pkg/worker/reports.h"

struct run;

/* Executors that have something to start: Spark, commands, plug-ins. */
#define RUN_STARTERS 4
#define RUN_LATE_MS  5000 /* what takes longer hangs */

/* What all runs share; owned by the worker, outlives them. */
struct run_context {
    uv_loop_t *loop;
    const struct exec_node *node;
    const struct task_types *types;
    const char *tasks_dir;
    const char *shim_path;
    const char *cgroup; /* NULL: none */
    bool is_new;        /* no beat of this worker can lose what an earlier one has left */
    struct lane disk;   /* what is asked of tasks_dir */
    struct {
        const struct executor *executor; /* NULL: this place and those behind it are free */
        struct lane lane;
    } starters[RUN_STARTERS]; /* what is made for a start: each looks at other parts of the node */
    struct lane proc;         /* walks of /proc for what dead shims have left */
    struct list runs;         /* of struct run, until they are freed */
    struct run *spare;        /* in `runs`: a shim that waits for its task; NULL: none */
    int64_t spare_at;         /* while there is none: not before that time on clock_boot_ms() */
    int64_t strays_at;        /* the same for the next walk */
    bool walking;
    int64_t walks;    /* so many were there */
    int64_t forks;    /* strays_forks() as of a moment ago */
    int64_t forks_at; /* to be asked anew at that time on clock_boot_ms() */

    /* Never called from inside a function of this header. */
    void *arg;
    void (*on_started)(void *arg, struct wcore_attempt *a);
    void (*on_ended)(void *arg, struct wcore_attempt *a);
    void (*on_news)(void *arg, bool application); /* application: its id was not known before */
    void (*on_freed)(void *arg);                  /* a run is gone from the list */
};

/* Starts a shim in advance, so that the next task need not wait for it. Fails silently: each task
 * starts its own where there is none. */
void run_keep_spare(struct run_context *x, int64_t now);

/* Can tasks of this type (NULL: any at all) be started here now? Looks at the node, without a task;
 * the error is a sentence for people. `program` of a plug-in, else NULL. Cheap; any thread. */
int run_able(const struct run_context *x, const char *type, const char *program,
             struct err *reterr) NODISCARD;
/* Why nothing of this type (NULL: nothing at all) had better be granted: it would wait behind what
 * has not ended for so long. NULL: no reason. */
const char *run_hangs(const struct run_context *x, const char *type, int64_t now);

/* What a grant says of its attempt. */
struct run_grant {
    json_t *spec;   /* borrowed */
    int32_t losses; /* these as in struct exec_attempt */
    int32_t returns;
    bool elsewhere;
};

/* Each makes a->user. What hangs or fails with the disk shows after run_start(): by on_ended(). */
enum wcore_started run_start(struct run_context *x, struct wcore_attempt *a,
                             const struct run_grant *g, struct wcore_fault *ret);
void run_conclude(struct run_context *x, struct wcore_attempt *a, enum wcore_verdict v,
                  const char *why);

/* Its directory is marked: nothing more has to be reported. */
bool run_is_done(const char *tasks_dir, const struct id *task, int32_t attempt);
bool run_lives(const char *tasks_dir, const struct id *task, int32_t attempt);  /* its shim does */
void run_disown(const char *tasks_dir, const struct id *task, int32_t attempt); /* marks it */
/* Another attempt found in tasks_dir; opens nothing yet. *ret_run is NULL where no grant was kept.
 * An error where that cannot be told: it may run. Else run_adopt(), fill in what wcore_adopt()
 * needs, then run_attach(). */
struct run_found {
    struct wcore_need need;
    int64_t token;
    int64_t lease_ms;
    int64_t began_at; /* boot ms; 0: an earlier version does not say */
};
int run_find(struct run_context *x, const struct wcore_key *k, struct run_found *ret,
             struct run **ret_run, struct err *reterr) NODISCARD;
/* Does a directory tell what was granted? ERR_NOT_FOUND where that is gone, ERR_PARSE where it is
 * something else: a task can do that to its own. Another error: nobody knows. */
int run_has_grant(const char *dir) NODISCARD;
bool run_adopt(struct run *r); /* true: it has ended */
void run_attach(struct run *r, struct wcore_attempt *a);

void run_lease(struct run *r, int64_t deadline);
void run_stop(struct run *r, enum wcore_stop why, int64_t grace_ms);
void run_kill(struct run *r);
/* Reaps what fell to this process; to be called now and then. */
void run_reap(void);

const struct report_status *run_status(const struct run *r);
const char *run_result(const struct run *r);  /* JSON text; NULL: it has not ended */
const char *run_outcome(const struct run *r); /* "" : it has not ended */
const char *run_why(const struct run *r);     /* message of its error; "": none */
/* It ended because the node could not start it; NULL: not so. */
const struct wcore_fault *run_fault(const struct run *r);

/* The result is applied or not wanted: the directory may go when its time has come. */
void run_forget(struct run *r);
/* Leaves everything as it is to the next process. */
void run_release(struct run *r);
void run_release_all(struct run_context *x);

#define RUN_GRANT_MAX (2 * 1024 * 1024)

#endif
