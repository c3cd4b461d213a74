#include "pkg/executors/sparkjobs.h"

#include <stdio.h>

/* A task that runs again after a failure of its executor is counted twice by Spark. */
static int64_t settled(const json_t *job)
{
    int64_t done =
        json_get_int(job, "numCompletedTasks", 0) + json_get_int(job, "numSkippedTasks", 0);

    return MIN(done, json_get_int(job, "numTasks", 0));
}

bool spark_progress_update(struct spark_progress *p, const json_t *jobs)
{
    struct spark_progress now = {0};
    int64_t stages = 0;
    int64_t stages_done = 0;
    int64_t jobs_done = 0;
    size_t n = json_array_size(jobs);

    for (size_t i = 0; i < n; i++) {
        const json_t *job = json_array_get(jobs, i);

        now.done += settled(job);
        now.total += json_get_int(job, "numTasks", 0);
        stages += (int64_t)json_array_size(json_object_get(job, "stageIds"));
        stages_done +=
            json_get_int(job, "numCompletedStages", 0) + json_get_int(job, "numSkippedStages", 0);
        jobs_done += streq(json_get_string(job, "status"), "SUCCEEDED");
    }
    /* Spark forgets old jobs after a thousand. */
    if (n == 0 || now.total < p->total || now.done < p->done) {
        return false;
    }
    snprintf(now.text, sizeof(now.text), "job %lld of %zu, stage %lld of %lld: %lld/%lld tasks",
             (long long)MIN(jobs_done + 1, (int64_t)n), n, (long long)MIN(stages_done + 1, stages),
             (long long)stages, (long long)now.done, (long long)now.total);
    if (now.done == p->done && now.total == p->total && streq(now.text, p->text)) {
        return false;
    }
    *p = now;
    return true;
}
