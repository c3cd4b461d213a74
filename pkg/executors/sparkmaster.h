/* sparkmaster.h: what a Spark standalone master and its workers say of drivers, read.
 *
 * Sources: Spark 4.1 deploy/JsonProtocol.scala (the master's page /json/), deploy/worker/
 * DriverRunner.scala (a driver's stderr begins with its command line, which holds every setting),
 * deploy/master/DriverState.scala. Pure text work on what others wrote.
 */
#ifndef SJE_EXECUTORS_SPARKMASTER_H
#define SJE_EXECUTORS_SPARKMASTER_H

#include "internal/json.h"
#include "internal/str.h"

/* X(name, text, meaning) */
#define SPARK_STATES(X)                                                                            \
    X(UNKNOWN, "", "nothing is known yet")                                                         \
    X(WAITING, "WAITING", "accepted; no driver runs yet")                                          \
    X(RUNNING, "RUNNING", "the driver runs")                                                       \
    X(FINISHED, "FINISHED", "the driver ended with exit code 0")                                   \
    X(FAILED, "FAILED", "the driver ended with another one")                                       \
    X(KILLED, "KILLED", "somebody asked the cluster to kill it")                                   \
    X(ERROR, "ERROR", "the cluster could not start it, or lost it")                                \
    X(GONE, "GONE", "the cluster does not know it any more")

enum spark_state {
#define X(name, text, meaning) SPARK_##name,
    SPARK_STATES(X)
#undef X
        SPARK_STATE_COUNT
};
const char *spark_state_name(enum spark_state s);
enum spark_state spark_state_parse(const char *text); /* UNKNOWN where it is none */
bool spark_state_is_live(enum spark_state s);         /* WAITING or RUNNING */

/* One driver in the master's /json/; strings are borrowed, NULL where absent. */
struct spark_driver {
    const char *id;
    const char *main_class;
    enum spark_state state;
    int64_t started_at;    /* wall ms; when it was submitted */
    const char *host;      /* of its worker */
    const char *worker_ui; /* NULL: it has no worker, or that is not alive */
    bool placed;           /* it has, or had, a worker */
};
/* false: there is no such driver. */
bool spark_master_driver(const json_t *master, const char *id, struct spark_driver *ret);
size_t spark_master_driver_count(const json_t *master);
bool spark_master_driver_at(const json_t *master, size_t i, struct spark_driver *ret);
bool spark_master_is_active(const json_t *master);               /* not a standby */
bool spark_master_has_app(const json_t *master, const char *id); /* among the active ones */

/* From the head of a driver's stderr: the attempt and UI port of a driver of this task; false where
 * it is not this task's. */
bool spark_driver_tag(struct str head, const char *task, int32_t *ret_attempt,
                      uint16_t *ret_ui_port);
/* An id such as driver-20240131235959-0001 that stands behind `prefix` in `text`. */
bool spark_find_id(struct str text, const char *prefix, char *id, size_t size);

#endif
