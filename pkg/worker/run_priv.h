/* run_priv.h: shared by run.c (a run's life and end) and run_start.c (how it begins: anew, or found
 * after a restart), and by their test. Nobody else includes it. */
#ifndef SJE_WORKER_RUN_PRIV_H
#define SJE_WORKER_RUN_PRIV_H

#include "pkg/executors/fault.h"
#include "pkg/executors/plan.h"
#include "pkg/worker/run.h"

struct run {
    struct run_context *x;
    struct list_node node;         /* x->runs */
    struct wcore_attempt *attempt; /* NULL: the core has forgotten it */
    struct wcore_key key;
    int64_t token;
    char *dir; /* NULL: it has none */
    struct task_spec *spec;
    const struct executor *executor;
    struct exec_attempt exec;
    struct exec_watch *watch;
    struct report_status status;
    const char *outcome;
    char *result;
    char *why;                /* NULL: no error */
    struct wcore_fault fault; /* of the node, where it is `returned` */

    uv_process_t process; /* the shim, where we are its parent */
    uv_pipe_t pipe;       /* to the shim */
    uv_timer_t timer;     /* to look again */
    bool has_process;
    bool has_pipe;
    bool has_timer;
    int open_handles; /* and watches that are being closed */
    int64_t shim_pid; /* 0: unknown */
    int64_t task_pid; /* the same */
    int64_t seen_at;  /* these two as in strays.h */
    int64_t seen_forks;
    bool cut;                                       /* a connection has ended without its bye */
    int64_t fenced_at;                              /* boot ms */
    int64_t look_ms;                                /* until the next look */
    enum { UNKNOWN, UNDERSTOOD, FOREIGN } language; /* of the shim, as its hello says */
    int64_t lease_until;                            /* last order; 0: none */
    const char *stop_word;                          /* the same; NULL: none */
    int64_t stop_grace_ms;
    char line[PLAN_LINE_MAX];
    size_t len;
    bool orphaned; /* its shim was killed, but the other half of that holds our connection */
    bool unable;   /* its shim has started nothing, and could not even write that down */
    bool fenced;   /* no shim can come alive any more */
    bool looked;   /* since it was last asked; then so much was left: */
    int left;
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
/* What the executor needs beyond the grace to stop it. */
int64_t run_stop_ms(const struct run *r);
/* Make the result. */
void run_judge(struct run *r, const struct exec_exit *e);
void run_set_verdict(struct run *r, enum exec_outcome o, const char *kind, const char *why);
void run_set_fault(struct run *r, enum exec_fault f, const char *why);
/* Finds out from its files what became of it. True: the result is made. Else a shim is connected
 * or run_look_again() is to be called. */
bool run_settle(struct run *r);
void run_look_again(struct run *r);

#endif
