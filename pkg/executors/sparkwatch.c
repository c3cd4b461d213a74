#include "pkg/executors/sparkwatch.h"

#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"

#include <stdlib.h>

#define LOOK_MS 250 /* short applications want to be seen too */

struct exec_watch {
    uv_timer_t timer;
    char *dir;
    const char *file; /* a constant */
    char *said;       /* what the file said last */
    void (*changed)(void *arg, const struct exec_status *s);
    void *arg;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* "" counts as unknown. */
static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_get_string(j, key);

    return s && *s ? s : NULL;
}

/* Until the application of a driver in the cluster is known, the driver's id stands for it. */
static void look(struct exec_watch *w)
{
    json_t *parsed = NULL;

    if (spark_status_read(w->dir, w->file, &parsed, NULL) < 0) {
        return;
    }
    json_auto_t *j = parsed;
    char *text CLEANUP(freep) = json_text(j);
    if (streq(text, w->said)) {
        return;
    }
    const char *application = text_of(j, "applicationId");
    struct exec_status s = {.application_id = application ? application : text_of(j, "id"),
                            .ui_url = text_of(j, "uiUrl"),
                            .done = json_get_int(j, "done", -1),
                            .total = json_get_int(j, "total", -1),
                            .text = text_of(j, "text")};
    str_replace_owned(&w->said, text);
    w->changed(w->arg, &s);
}

static void on_timer(uv_timer_t *t)
{
    look(t->data);
}

struct exec_watch *spark_watch(const struct exec_node *node, const struct exec_attempt *a,
                               uv_loop_t *loop,
                               void (*changed)(void *arg, const struct exec_status *s), void *arg)
{
    struct exec_watch *w = xmalloc(sizeof(*w));

    (void)node;
    w->dir = xstrdup(a->dir);
    w->file = spark_cluster_is(a->dir) ? SPARK_STATUS_FILE : SPARK_PROGRESS_FILE;
    w->changed = changed;
    w->arg = arg;
    w->timer.data = w;
    MUST(uv_timer_init(loop, &w->timer) == 0);
    MUST(uv_timer_start(&w->timer, on_timer, LOOK_MS, LOOK_MS) == 0);
    return w;
}

static void on_timer_closed(uv_handle_t *h)
{
    struct exec_watch *w = h->data;

    if (w->on_closed) {
        w->on_closed(w->on_closed_arg);
    }
    free(w->dir);
    free(w->said);
    free(w);
}

void spark_unwatch(struct exec_watch *w, void (*on_closed)(void *arg), void *arg)
{
    look(w);
    w->on_closed = on_closed;
    w->on_closed_arg = arg;
    uv_close((uv_handle_t *)&w->timer, on_timer_closed);
}
