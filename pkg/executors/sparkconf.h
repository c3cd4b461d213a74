/* sparkconf.h: the settings of a Spark application, from the weakest to the strongest: the site's
 * spark-defaults.conf, what SJE would like, the node's, what `resources` ask for, the task's
 * `conf`, and what must be.
 *
 * They may hold secrets, so they go into a 0600 properties file and never into argv. The
 * application is tagged with task and attempt, and a driver that is the task's own process gets the
 * listener that tells its progress (sparkwatch.h), behind listeners and class path that are set
 * already.
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
/* <dir>/spark.properties, which --properties-file is to name. */
int spark_properties_write(const struct exec_node *node, const struct exec_attempt *a,
                           const char *home, const char *master, struct err *reterr) NODISCARD;

#endif
