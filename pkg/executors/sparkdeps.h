/* sparkdeps.h: what a task's `dependencies` are to Spark. */
#ifndef SJE_EXECUTORS_SPARKDEPS_H
#define SJE_EXECUTORS_SPARKDEPS_H

#include "pkg/executors/executor.h"

/* Lists of Spark that a task adds to: what it names comes behind what is set. */
enum spark_list {
    SPARK_JARS,
    SPARK_PY_FILES,
    SPARK_FILES,
    SPARK_ARCHIVES,
    SPARK_CLASS_PATH,
    SPARK_LISTENERS,
    SPARK_LISTS,
};
extern const struct spark_list_row {
    const char *key;
    char sep;
} spark_lists[SPARK_LISTS];

/* "s3a://…", "local:…": not ours to look at. */
bool spark_has_scheme(const char *path);
/* As the worker sees it; owned by the caller. */
char *spark_absolute(const char *path);
/* Those of this list, joined; the plan needs the ones on this node. ERR_INVALID, ERR_TOO_LARGE. */
int spark_dependencies(struct exec_plan *plan, const json_t *dependencies, enum spark_list list,
                       struct buf *joined, struct err *reterr) NODISCARD;

#endif
