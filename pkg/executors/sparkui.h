/* sparkui.h: live progress of a Spark application, from the driver's own REST API on its UI port,
 * or from sje-spark's status file where the driver runs in the cluster.
 *
 * Source: Spark monitoring REST API, /api/v1/applications, …/environment, …/jobs. Replies are
 * bounded. Before anything is believed, the environment must name the attempt's tag: the port may
 * have gone to somebody else.
 */
#ifndef SJE_EXECUTORS_SPARKUI_H
#define SJE_EXECUTORS_SPARKUI_H

#include "pkg/executors/executor.h"

/* Notes a->ui_port in the attempt's directory, for a watch that begins after a restart of the
 * worker. */
int spark_ui_save(const struct exec_attempt *a, struct err *reterr) NODISCARD;

struct exec_watch *spark_ui_watch(const struct exec_node *node, const struct exec_attempt *a,
                                  uv_loop_t *loop,
                                  void (*changed)(void *arg, const struct exec_status *s),
                                  void *arg);
void spark_ui_unwatch(struct exec_watch *w, void (*on_closed)(void *arg), void *arg);

#endif
