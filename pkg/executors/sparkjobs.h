/* sparkjobs.h: progress of a Spark application, summed over its jobs.
 *
 * Source: Spark monitoring REST API, /api/v1/applications/<id>/jobs. What Spark skips because its
 * result is there already is settled work: it counts as done. So `total` only grows, when a job
 * begins, and `done` reaches it at the end. Pure.
 */
#ifndef SJE_EXECUTORS_SPARKJOBS_H
#define SJE_EXECUTORS_SPARKJOBS_H

#include "internal/json.h"

struct spark_progress {
    int64_t done;
    int64_t total; /* 0: nothing is known */
    char text[120];
};

/* False where there is no job, or nothing new: *p stays. It never steps back. */
bool spark_progress_update(struct spark_progress *p, const json_t *jobs);

#endif
