#include "pkg/executors/sparkwatch.h"

#include "pkg/executors/sparkcluster.h"

/* Until the application of a driver in the cluster is known, the driver's id stands for it. */
json_t *spark_status(const struct exec_attempt *a)
{
    bool in_cluster = spark_cluster_is(a->dir);
    json_t *j = NULL;

    if (spark_status_read(a->dir, in_cluster ? SPARK_STATUS_FILE : SPARK_PROGRESS_FILE, &j, NULL) <
        0) {
        return NULL;
    }
    const char *id = json_get_string(j, "applicationId");
    const char *driver = json_get_string(j, "id");
    if ((!id || !*id) && driver && *driver) {
        json_object_set_new(j, "applicationId", json_string(driver));
    }
    return j;
}
