#include "pkg/worker/look.h"

#include "internal/log.h"

#include <stdatomic.h>
#include <stdlib.h>

struct look {
    uv_work_t work;
    struct looks *of;             /* NULL: nobody waits for it */
    const struct exec_node *node; /* a reference */
    struct run_context x;
    char *copies[2]; /* what it points to */
    int64_t began;
    size_t n;
    const char **types; /* the first is NULL: the node as a whole */
    struct err *why;    /* code 0: it is able */
    struct executors_found *plugins;
    struct err plugins_why;
    atomic_size_t done; /* types, then the plug-ins */
};

static struct look *look_new(struct looks *l, int64_t now)
{
    struct look *k = xcalloc(1, sizeof(*k));
    const char *const *names = executor_names();
    const struct exec_node *node = l->x->node;

    while (names[k->n++]) {
    }
    k->types = xcalloc(k->n, sizeof(*k->types));
    k->why = xcalloc(k->n, sizeof(*k->why));
    for (size_t i = 1; i < k->n; i++) {
        k->types[i] = names[i - 1];
    }
    k->node = exec_node_ref(node);
    k->x = (struct run_context){.node = node,
                                .tasks_dir = k->copies[0] = xstrdup(l->x->tasks_dir),
                                .shim_path = k->copies[1] = xstrdup(l->x->shim_path)};
    k->of = l;
    k->began = now;
    k->work.data = k;
    return k;
}

static void look_free(struct look *k)
{
    if (!k) {
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(k->copies); i++) {
        free(k->copies[i]);
    }
    exec_node_unref(k->node);
    executors_found_free(k->plugins);
    free(k->types);
    free(k->why);
    free(k);
}

/* In the pool. */
static void on_work(uv_work_t *work)
{
    struct look *k = work->data;

    for (size_t i = 0; i < k->n; i++) {
        (void)!run_able(&k->x, k->types[i], &k->why[i]); /* the text says it */
        atomic_store(&k->done, i + 1);
    }
    k->plugins = executors_scan(k->node->plugin_dir, &k->plugins_why);
    atomic_store(&k->done, k->n + 1);
}

static void take(struct looks *l, struct look *k)
{
    if (k->plugins_why.code) {
        log_debug(NULL, "%s", k->plugins_why.text);
    }
    executors_take(k->plugins);
    look_free(l->last);
    l->last = k;
    l->under_way = NULL;
}

static void on_worked(uv_work_t *work, int status)
{
    struct look *k = work->data;
    struct looks *l = k->of;

    (void)status;
    if (!l) {
        look_free(k);
        return;
    }
    take(l, k);
    l->on_looked(l->arg);
}

void look_begin(struct looks *l, int64_t now)
{
    if (!l->under_way) {
        l->under_way = look_new(l, now);
        MUST(uv_queue_work(l->x->loop, &l->under_way->work, on_work, on_worked) == 0);
    }
}

/* What was not looked at, as a plug-in that has just been found, is able. */
static const char *answer(const struct look *k, const char *type, size_t *ret_step)
{
    for (size_t i = 0; k && i < k->n; i++) {
        if (type ? k->types[i] && streq(type, k->types[i]) : !k->types[i]) {
            *ret_step = i;
            return k->why[i].code ? k->why[i].text : NULL;
        }
    }
    *ret_step = k ? k->n : 0;
    return NULL;
}

const char *look_why(const struct looks *l, const char *type, int64_t now)
{
    const struct look *k = l->under_way;
    size_t step = 0;

    if (!k || (l->last && now < k->began + LOOK_LATE_MS)) {
        return answer(l->last, type, &step);
    }
    size_t done = atomic_load(&k->done);
    const char *why = answer(k, type, &step);
    if (step < done && !(done == k->n && type && executor_is_plugin(type))) {
        return why;
    }
    return step == done || done == k->n
               ? "a look at what it needs does not end: a file system hangs"
               : answer(l->last, type, &step);
}

void look_first(struct looks *l, int64_t now)
{
    look_begin(l, now);
    for (int ms = 0; ms < LOOK_FIRST_MS && atomic_load(&l->under_way->done) <= l->under_way->n;
         ms++) {
        uv_sleep(1);
    }
}

void look_done(struct looks *l)
{
    if (l->under_way) {
        l->under_way->of = NULL;
    }
    look_free(l->last);
    l->under_way = l->last = NULL;
}
