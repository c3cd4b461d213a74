/* cluster.h: sje-spark, which stands for an application that runs in a Spark cluster.
 *
 * The shim starts it in place of spark-submit. It finds what earlier attempts of the task left in
 * the cluster and takes that over; else it submits. Then it watches the application until its end,
 * tells the worker by a status file what it sees (pkg/executors/sparkcluster.h), and at SIGTERM
 * (cancel, timeout) kills the application and ends only when the cluster says that it is gone.
 * Killed itself (lease over, shutdown, crash) it leaves the application alone, for the next
 * attempt.
 *
 * A process of its own, so it may wait: one thread, plain sequence, every wait has a limit and is
 * cut short by SIGTERM. Errors are returned; main.c says them on stderr, which is the task's log.
 */
#ifndef SJE_SPARK_CLUSTER_H
#define SJE_SPARK_CLUSTER_H

#include "internal/err.h"
#include "internal/id.h"
#include "internal/json.h"
#include "pkg/executors/sparkjobs.h"
#include "pkg/executors/sparkmaster.h"

#include <sys/types.h>

#define FOUND_MAX 16 /* applications of one task that are told apart */

/* One application in the cluster, of any attempt of this task. */
struct app {
    char id[64];          /* what the cluster knows it by: driver-… */
    char application[64]; /* app-…; "" while unknown */
    int32_t attempt;      /* which one submitted it */
    enum spark_state state;
    char host[256]; /* where its driver runs; "" while unknown */
    char worker_ui[300];
    uint16_t ui_port;
};

struct found {
    struct app list[FOUND_MAX]; /* newest attempt first */
    size_t n;
    bool unsure; /* something else may be this task's too; ask again */
};

struct job;

/* A kind of cluster. All ask the cluster and answer 0 or an error when it could not be asked. */
struct cluster_kind {
    const char *name;
    /* Can it be asked at all? */
    int (*probe)(const struct job *j, struct err *reterr);
    int (*find)(struct job *j, struct found *ret, struct err *reterr);
    /* Refreshes state and whereabouts. SPARK_GONE: the cluster does not know it (any more). */
    int (*look)(struct job *j, struct app *a, struct err *reterr);
    /* Asks for its end once; whether it came look() tells. */
    int (*kill)(struct job *j, const struct app *a, struct err *reterr);
    /* Copies the last of the driver's output to our own. */
    void (*collect)(struct job *j, const struct app *a);
    /* One line of spark-submit's stderr: true where it named the application. */
    bool (*scan)(struct job *j, struct str line, struct app *ret);
};
extern const struct cluster_kind cluster_standalone;

struct job {
    const char *dir;
    char *out; /* what is written goes there */
    json_t *order;
    const struct cluster_kind *kind;
    const char *task; /* text; these point into order */
    const char *main_class;
    const char *home;
    const char *master;
    const char *rest; /* "" : none */
    const json_t *uis;
    int32_t attempt;
    bool adopt_failed;

    int signals; /* signalfd */
    bool stop;   /* SIGTERM came */

    pid_t child;      /* spark-submit; 0: none */
    int child_status; /* of the last one */
    int child_err;    /* -1: closed */
    struct buf line;
    struct app app; /* ours; id "" while unknown */
    bool adopted;

    struct spark_progress progress;
    char ui_url[320];
    char last[2048]; /* what the status file says */
};

/* ---- http.c: one request after another, each with a limit on time and size ---- */
/* The body of a 2xx answer, appended to `out`. ERR_INVALID, ERR_IO, ERR_TIMEOUT, ERR_PROTOCOL,
 * ERR_TOO_LARGE. */
int http_call(const char *method, const char *url, struct buf *out, struct err *reterr) NODISCARD;
/* The same, parsed; *ret is a new reference. */
int http_json(const char *method, const char *url, json_t **ret, struct err *reterr) NODISCARD;

/* ---- child.c ---- */
/* argv is NULL-terminated. Its stderr is passed on, line by line, and scanned. */
int child_start(struct job *j, char *const *argv, struct err *reterr) NODISCARD;
void child_kill(struct job *j); /* and waits for it */
/* Until the time is over, the child ends, or a SIGTERM comes that was not there before. */
void child_wait(struct job *j, int ms);

/* ---- watch.c: the driver's own REST API, as far as it can be reached ---- */
void watch_progress(struct job *j);

#endif
