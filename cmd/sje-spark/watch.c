#include "cmd/sje-spark/cluster.h"

#include "internal/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The first application whose environment names the tag: the port may be somebody else's. */
static bool is_ours(const struct job *j, const char *base, const char *id)
{
    char *url CLEANUP(freep) = xasprintf("%s/api/v1/applications/%s/environment", base, id);
    char *tag CLEANUP(freep) = xasprintf("sje-%s-%d", j->task, j->app.attempt);
    json_t *environment = NULL;

    if (http_json("GET", url, &environment, NULL) < 0) {
        return false;
    }
    char *text CLEANUP(freep) = json_text(environment);
    json_decref(environment);
    return strstr(text, tag) != NULL;
}

static bool connect_to_driver(struct job *j)
{
    char base[300];
    char *url = NULL;
    json_t *list = NULL;

    if (!*j->app.host || !j->app.ui_port) {
        return false;
    }
    snprintf(base, sizeof(base), "http://%.255s:%u", j->app.host, j->app.ui_port);
    url = xasprintf("%s/api/v1/applications", base);
    int rc = http_json("GET", url, &list, NULL);
    free(url);
    if (rc < 0) {
        return false;
    }
    const char *id = json_get_string(json_array_get(list, 0), "id");
    bool ok = id && strlen(id) < sizeof(j->app.application) && !strpbrk(id, "/ \r\n?#%") &&
              is_ours(j, base, id);
    if (ok) {
        snprintf(j->app.application, sizeof(j->app.application), "%s", id);
        snprintf(j->ui_url, sizeof(j->ui_url), "%s", base);
    }
    json_decref(list);
    return ok;
}

void watch_progress(struct job *j)
{
    json_t *jobs = NULL;

    if (!*j->ui_url && !connect_to_driver(j)) {
        return;
    }
    char *url CLEANUP(freep) =
        xasprintf("%s/api/v1/applications/%s/jobs", j->ui_url, j->app.application);
    if (http_json("GET", url, &jobs, NULL) == 0) {
        (void)spark_progress_update(&j->progress, jobs);
    }
    json_decref(jobs);
}
