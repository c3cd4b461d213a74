/* sparkcluster.h: Spark applications that run in the cluster: what worker and sje-spark tell each
 * other, by two files in the attempt's directory.
 *
 * `cluster.json`, from the worker: what to submit and how to find it. `cluster.status`, from
 * sje-spark (cmd/sje-spark/cluster.h), replaced whenever it changes:
 * {"id":"driver-…","applicationId":"app-…","attempt":1,"state":"RUNNING","gone":false,
 *  "uiUrl":"http://…","done":3,"total":8,"text":"…"}; `gone`: it was asked to kill it, and the
 * cluster has confirmed that it is no more, or never was.
 */
#ifndef SJE_EXECUTORS_SPARKCLUSTER_H
#define SJE_EXECUTORS_SPARKCLUSTER_H

#include "pkg/executors/executor.h"

#define SPARK_PROGRAM      "sje-spark"
#define SPARK_OWN_SITE     "--own-site" /* its first argument, where a task brings a site */
#define SPARK_ORDER_FILE   "cluster.json"
#define SPARK_STATUS_FILE  "cluster.status"
#define SPARK_ORDER_MAX    (8u << 20)
#define SPARK_STATUS_MAX   8192
#define SPARK_STOP_MS      (10 * 60 * 1000) /* to get rid of an application in the cluster */
#define SPARK_EXIT_UNSURE  75 /* of sje-spark: what earlier attempts left could not be found out */
#define SPARK_MASTER_UI    "spark.sje.masterUi"
#define SPARK_MASTER_REST  "spark.sje.masterRest"
#define SPARK_MASTER_UI_AT 8080

/* Is this an application for sje-spark: deploy mode cluster on a standalone master? */
bool spark_cluster_wanted(const char *master, const char *deploy_mode);
/* Takes the plan's command line, which is spark-submit's, and puts sje-spark's in its place. */
int spark_cluster_prepare(const struct exec_node *node, const struct exec_attempt *a,
                          const char *home, const char *master, struct exec_plan *plan,
                          struct err *reterr) NODISCARD;
/* Does the attempt in this directory run under sje-spark? */
bool spark_cluster_is(const char *dir);
/* A status file; *ret is a new reference, its strings are checked. */
int spark_status_read(const char *dir, const char *file, json_t **ret,
                      struct err *reterr) NODISCARD;
/* True where it made the result; else the process is to be judged like any other. `cause` is why it
 * failed, or NULL. */
bool spark_cluster_judge(const struct exec_attempt *a, const struct exec_exit *e, const char *cause,
                         struct exec_result *ret);

#endif
