/* sparkconf.h: the settings of a Spark application, from the weakest to the strongest: the site's
 * spark-defaults.conf, what SJE would like, the node's, what `resources` ask for, the task's
 * `conf`, and what must be. Lists (sparkdeps.h) grow: the task's dependencies, our listener and its
 * class path come behind what is set.
 *
 * They may hold secrets, so they go into a 0600 properties file; into argv goes only a value that
 * Spark would trim there. The application is tagged with task and attempt, and a driver that is the
 * task's own process gets the listener that tells its progress (sparkwatch.h).
 *
 * A task that has a SPARK_CONF_DIR of its own in `env` has its own site. Only the task's process
 * looks into that: sje-spark, which completes the file and becomes spark-submit.
 */
#ifndef SJE_EXECUTORS_SPARKCONF_H
#define SJE_EXECUTORS_SPARKCONF_H

#include "pkg/executors/executor.h"

/* The task's, else the node's, else NULL. */
const char *spark_conf_of(const struct exec_node *node, const struct exec_attempt *a,
                          const char *key);
/* The same, else the site's; owned by the caller. */
char *spark_setting(const struct exec_node *node, const struct exec_attempt *a, const char *home,
                    const char *key);
/* What comes in front of spark-submit on the command line: sje-spark, where it has to. */
void spark_conf_begin(struct exec_plan *plan, const struct exec_node *node,
                      const struct exec_attempt *a);
/* Writes <dir>/spark.properties and adds the options that name it, and what it cannot hold. */
int spark_conf_write(struct exec_plan *plan, const struct exec_node *node,
                     const struct exec_attempt *a, const char *home, const char *master,
                     struct err *reterr) NODISCARD;

#endif
