/* sparkwatch.h: live progress of a Spark application, from the status file in the attempt's
 * directory.
 *
 * A driver that is the task's own process writes SPARK_PROGRESS_FILE by the listener that is put
 * into it (pkg/executors/java/ProgressListener.java); of one in the cluster sje-spark writes
 * SPARK_STATUS_FILE (sparkcluster.h). Both are replaced by rename and hold
 * {"applicationId":"…","uiUrl":"http://…","done":3,"total":8,"text":"…"}, all of it optional. The
 * task can write there what it likes: the file is bounded, and what it says concerns this task
 * only.
 */
#ifndef SJE_EXECUTORS_SPARKWATCH_H
#define SJE_EXECUTORS_SPARKWATCH_H

#include "pkg/executors/executor.h"

#define SPARK_PROGRESS_FILE "spark.progress"
#define SPARK_LISTENER      "sje.ProgressListener"
#define SPARK_LISTENER_JAR  "sje-listener.jar"

json_t *spark_status(const struct exec_attempt *a);

#endif
