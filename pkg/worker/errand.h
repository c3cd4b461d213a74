/* errand.h: what the disk is asked for one run (run.h), beside the loop: the attempt's directory is
 * made, the shim looked for, the record read and judged. A disk that hangs keeps up the errand, and
 * nothing else of its run.
 *
 * Threads: errand_work() anywhere; it sees nothing but the errand, and what never changes.
 */
#ifndef SJE_WORKER_ERRAND_H
#define SJE_WORKER_ERRAND_H

#include "internal/lane.h"
#include "pkg/executors/fault.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/strays.h"

/* Of several that are wanted the last one of these is done. */
enum errand_kind {
    ERRAND_NONE,
    ERRAND_STATUS, /* what the task tells of itself */
    ERRAND_SETTLE, /* is its shim there, and if not, what became of it? */
    ERRAND_START,  /* all that a shim needs */
    ERRAND_FORGET, /* the mark that nothing more has to be reported */
};

struct errand {
    struct lane_job job;
    enum errand_kind kind;
    const struct executor *executor; /* NULL: unknown */
    const struct exec_node *node;    /* a reference */
    struct exec_attempt exec;        /* what it points to lives as long as its run */

    /* ERRAND_START */
    struct buf grant;          /* text of the file */
    struct shim_limits limits; /* the grace is without the executor's stop_ms */
    int stop_ms;               /* made */

    /* ERRAND_SETTLE: what is known, */
    bool bye;   /* its shim has said that */
    bool cut;   /* a connection has ended without it */
    bool named; /* the shim had named the task's process */
    bool fenced;
    bool cleared; /* fenced, and no process of it is left */
    bool unable;  /* its shim could not even write a record */
    /* and what is found */
    int fd;    /* a connection to the shim; -1: none */
    bool over; /* `exit` says how; without an executor nobody has judged that */
    struct exec_exit exit;
    struct exec_result result;
    enum exec_fault fault;
    struct strays numbers; /* of its processes; 0: unknown */

    json_t *status; /* ERRAND_STATUS, and when it is over; NULL: nothing is known */
    int rc;
    struct err why;
};

void errand_work(struct errand *d);
/* Frees what was found and not taken. */
void errand_done(struct errand *d);

/* Files of an attempt's directory. */
#define RUN_DONE_FILE  SHIMDIR_DONE /* nothing more has to be reported */
#define RUN_GRANT_FILE "grant.json"
#define RUN_EXIT_FILE  "exit.json"

int run_mark(const char *dir, struct err *reterr) NODISCARD;
/* It has that mark, from us. *ret_at (may be NULL): since when, wall ms. Any thread. */
bool run_is_marked(const char *dir, int64_t *ret_at);

#endif
