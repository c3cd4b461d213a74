#include "cmd/sje-executor/plugins.h"

#include "internal/log.h"
#include "pkg/executors/executor.h"

#include <stdatomic.h>
#include <stdlib.h>

struct search {
    uv_work_t work;
    char *dir;
    struct executors_found *found;
    struct err why;
    atomic_bool done;
    bool wanted;
};

/* In the pool. */
static void on_work(uv_work_t *work)
{
    struct search *s = work->data;

    s->found = executors_scan(s->dir, &s->why);
    atomic_store(&s->done, true);
}

static void on_worked(uv_work_t *work, int status)
{
    struct search *s = work->data;

    (void)status;
    if (s->wanted) {
        executors_take(s->found);
    }
    executors_found_free(s->found);
    free(s->dir);
    free(s);
}

int plugins_find(uv_loop_t *loop, const char *dir, bool later, struct err *reterr)
{
    struct search *s = xcalloc(1, sizeof(*s));

    executors_done(); /* what is built in */
    s->dir = xstrdup(dir);
    s->work.data = s;
    MUST(uv_queue_work(loop, &s->work, on_work, on_worked) == 0);
    for (int ms = 0; ms < PLUGINS_WAIT_MS && !atomic_load(&s->done); ms++) {
        uv_sleep(1);
    }
    if (!atomic_load(&s->done)) {
        s->wanted = later;
        log_warn(NULL, "pluginDir %s does not answer: a file system hangs; going on without", dir);
        return 0;
    }
    executors_take(s->found);
    return s->why.code ? err_set(reterr, s->why.code, "%s", s->why.text) : 0;
}
