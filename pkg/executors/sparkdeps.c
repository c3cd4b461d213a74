#include "pkg/executors/sparkdeps.h"

#include "internal/str.h"
#include "pkg/executors/common.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct spark_list_row spark_lists[SPARK_LISTS] = {
    [SPARK_JARS] = {"spark.jars", ','},
    [SPARK_PY_FILES] = {"spark.submit.pyFiles", ','},
    [SPARK_FILES] = {"spark.files", ','},
    [SPARK_ARCHIVES] = {"spark.archives", ','},
    [SPARK_CLASS_PATH] = {"spark.driver.extraClassPath", ':'},
    [SPARK_LISTENERS] = {"spark.extraListeners", ','},
};

bool spark_has_scheme(const char *path)
{
    size_t n = strcspn(path, ":/");

    return n > 0 && path[n] == ':';
}

char *spark_absolute(const char *path)
{
    char cwd[4096];

    if (spark_has_scheme(path) || path[0] == '/' || !getcwd(cwd, sizeof(cwd))) {
        return xstrdup(path);
    }
    return xasprintf("%s/%s", cwd, path);
}

static enum spark_list list_of(const char *path)
{
    struct str p = str_of(path);

    if (strchr(path, '#')) {
        return SPARK_ARCHIVES; /* unpacked below that name */
    }
    if (str_ends(p, STR(".jar"))) {
        return SPARK_JARS;
    }
    return str_ends(p, STR(".py")) || str_ends(p, STR(".zip")) || str_ends(p, STR(".egg"))
               ? SPARK_PY_FILES
               : SPARK_FILES;
}

static void need(struct exec_plan *plan, const char *path)
{
    char *file CLEANUP(freep) = xstrndup(path, strcspn(path, "#"));

    if (!spark_has_scheme(path)) {
        exec_need(plan, "dependency", file);
    }
}

int spark_dependencies(struct exec_plan *plan, const json_t *dependencies, enum spark_list list,
                       struct buf *joined, struct err *reterr)
{
    const char sep[] = {spark_lists[list].sep, '\0'};

    for (size_t i = 0; i < json_array_size(dependencies); i++) {
        const char *dep = json_string_value(json_array_get(dependencies, i));
        char *path CLEANUP(freep) = spark_absolute(dep);

        if (list_of(dep) != list) {
            continue;
        }
        if (strchr(path, ',')) { /* of the worker's directory, or accepted long ago */
            return err_set(reterr, ERR_INVALID, "dependency %.150s: a comma is not possible here",
                           path);
        }
        need(plan, path);
        buf_addf(joined, "%s%s", joined->len ? sep : "", path);
    }
    return joined->failed ? err_set(reterr, ERR_TOO_LARGE, "dependencies are over the limit") : 0;
}
