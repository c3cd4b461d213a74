/* run_priv.h: shared by run.c (a run's life and end) and run_start.c (how it begins: anew, or found
 * after a restart), and by their test. Nobody else includes it. */
#ifndef SJE_WORKER_RUN_PRIV_H
#define SJE_WORKER_RUN_PRIV_H

#include "pkg/executors/plan.h"
#include "pkg/worker/errand.h"
#include "pkg/worker/run.h"

struct run {
    struct run_context *x;
    struct list_node node;         /* x->runs */
    struct wcore_attempt *attempt; /* NULL: the core has forgotten it */
    struct wcore_key key;
    int64_t token;
    char *dir;     /* NULL: it has none */
    char *program; /* of a plug-in */
    struct task_spec *spec;
    const struct executor *executor;
    struct exec_attempt exec;
    int stop_ms;          /* what the executor needs beyond the grace to stop it */
    struct errand errand; /* one at a time; `kind` says whether there is one */
    enum errand_kind next;
    struct report_status status;
    json_t *said; /* by the task, of itself, last */
    const char *outcome;
    char *result;
    char *why;                /* NULL: no error */
    struct wcore_fault fault; /* of the node, where it is `returned` */

    uv_process_t process; /* the shim, where we are its parent */
    uv_pipe_t pipe;       /* to the shim */
    uv_timer_t timer;     /* to look again */
    uv_timer_t poll;      /* to ask the task for its status */
    bool has_process;
    bool has_pipe;
    bool has_timer;
    bool has_poll;
    bool pipe_closes; /* the last one, and is in use until then */
    int open_handles; /* an errand counts, and a walk for it */
    int64_t shim_pid; /* as it said; 0: unknown */
    int64_t task_pid; /* the same */
    int64_t began_at; /* as in strays.h */
    int64_t seen_at;  /* these two as in strays.h */
    int64_t seen_forks;
    struct strays found;                            /* the numbers that it has left */
    bool bye;                                       /* the last connection ended with it */
    bool cut;                                       /* another one ended without */
    int64_t fenced_at;                              /* boot ms */
    int64_t look_ms;                                /* until the next look */
    enum { UNKNOWN, UNDERSTOOD, FOREIGN } language; /* of the shim, as its hello says */
    int64_t lease_until;                            /* last order; 0: none */
    const char *stop_word;                          /* the same; NULL: none */
    int64_t stop_grace_ms;
    char line[PLAN_LINE_MAX];
    size_t len;
    bool orphaned;  /* its shim was killed, but the other half of that holds our connection */
    bool unable;    /* its shim has started nothing, and could not even write that down */
    bool was_spare; /* its shim was there before it */
    bool given_up;  /* before its shim was started */
    bool fenced;    /* no shim can come alive any more */
    bool looked;    /* by a walk that began after that; then so much was left: */
    int left;
    bool cleared; /* nothing was */
    bool ended;   /* told */
    bool closing; /* to be freed with its last handle */
};

/* run.c */
struct run *run_new(struct run_context *x, const struct wcore_key *k, int64_t token);
void run_name(struct run *r, const struct wcore_key *k, int64_t token);
void run_open_pipe(struct run *r);
bool run_read_pipe(struct run *r);
void run_on_exit(uv_process_t *p, int64_t status, int sig);
void run_close_handles(struct run *r);
void run_close_process(struct run *r);
/* Has it done by another thread; after the one that is under way. run_begun() follows a start. */
void run_ask(struct run *r, enum errand_kind k);
void run_fill(struct run *r, enum errand_kind k); /* r->errand, for whoever works it off here */
/* Make the result. */
void run_judge(struct run *r, struct exec_result *res, const struct exec_exit *e);
void run_set_verdict(struct run *r, enum exec_outcome o, const char *kind, const char *why);
void run_set_fault(struct run *r, enum exec_fault f, const char *why);
/* Takes what an ERRAND_SETTLE has found. True: the result is made. Else a shim is connected or
 * run_look_again() is to be called. */
bool run_settled(struct run *r);
void run_look_again(struct run *r);
void run_tell_end(struct run *r);

/* run_start.c: all that its shim needs is there, or could not be made. */
void run_begun(struct run *r);
/* Where that is made. */
struct lane *run_starter(struct run_context *x, const struct executor *executor);

#endif
