#include "pkg/worker/look.h"

#include "internal/log.h"

#include <stdatomic.h>
#include <stdlib.h>

static const char hangs[] = "a look at what it needs does not end: a file system hangs";

struct look {
    uv_work_t work;
    enum look_kind kind;
    struct looks *of;             /* NULL: nobody waits for it */
    const struct exec_node *node; /* a reference */
    struct run_context x;
    char *copies[2]; /* what it points to */
    int64_t began;
    size_t n;
    struct look_at *at;
    struct executors_found *plugins; /* LOOK_SCAN */
    struct err plugins_why;
    atomic_size_t done; /* of n */
    atomic_bool over;
};

struct look_at {
    const char *type; /* NULL: the node as a whole */
    char *program;    /* of a plug-in */
    struct err why;   /* code 0: it is able */
};

static enum look_kind kind_of(const char *type)
{
    return !type                      ? LOOK_NODE
           : streq(type, JOB_SPARK)   ? LOOK_SPARK
           : executor_is_plugin(type) ? LOOK_PLUGINS
                                      : LOOK_OTHERS;
}

static void add(struct look *k, const char *type)
{
    if (kind_of(type) == k->kind) {
        const char *program = type ? executor_plugin_path(type) : NULL;

        k->at = xrealloc(k->at, (k->n + 1) * sizeof(*k->at));
        k->at[k->n++] = (struct look_at){.type = type, .program = xstrdup(program)};
    }
}

static struct look *look_new(struct looks *l, enum look_kind kind, int64_t now)
{
    struct look *k = xcalloc(1, sizeof(*k));
    const struct exec_node *node = l->x->node;

    k->kind = kind;
    add(k, NULL);
    for (const char *const *name = executor_names(); *name; name++) {
        add(k, *name);
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
    for (size_t i = 0; i < k->n; i++) {
        free(k->at[i].program);
    }
    exec_node_unref(k->node);
    executors_found_free(k->plugins);
    free(k->at);
    free(k);
}

/* In the pool. */
static void on_work(uv_work_t *work)
{
    struct look *k = work->data;

    if (k->kind == LOOK_SCAN) {
        k->plugins = executors_scan(k->node->plugin_dir, &k->plugins_why);
    }
    for (size_t i = 0; i < k->n; i++) {
        struct look_at *a = &k->at[i];

        (void)!run_able(&k->x, a->type, a->program, &a->why); /* the text says it */
        atomic_store(&k->done, i + 1);
    }
    atomic_store(&k->over, true);
}

static void take(struct looks *l, struct look *k)
{
    if (k->plugins_why.code) {
        log_debug(NULL, "%s", k->plugins_why.text);
    }
    if (k->plugins) {
        executors_take(k->plugins);
    }
    look_free(l->last[k->kind]);
    l->last[k->kind] = k;
    l->under_way[k->kind] = NULL;
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

bool look_begin(struct looks *l, int64_t now)
{
    bool busy = false;

    for (enum look_kind i = 0; i < LOOK_KINDS; i++) {
        if (l->under_way[i]) {
            busy = true;
            continue;
        }
        l->under_way[i] = look_new(l, i, now);
        MUST(uv_queue_work(l->x->loop, &l->under_way[i]->work, on_work, on_worked) == 0);
    }
    return busy;
}

/* k->n where it was not looked at. */
static size_t find(const struct look *k, const char *type)
{
    size_t i = 0;

    while (i < k->n && (type ? !streq(type, k->at[i].type) : k->at[i].type != NULL)) {
        i++;
    }
    return i;
}

/* What was not looked at, as a plug-in that has just been found, is able. */
static const char *answer(const struct look *k, const char *type)
{
    size_t i = k ? find(k, type) : 0;

    return k && i < k->n && k->at[i].why.code ? k->at[i].why.text : NULL;
}

static bool is_late(const struct looks *l, enum look_kind kind, int64_t now)
{
    const struct look *k = l->under_way[kind];

    return k && !atomic_load(&k->over) && (!l->last[kind] || now >= k->began + LOOK_LATE_MS);
}

static const char *why_late(const struct look *k, const struct look *last, const char *type)
{
    size_t done = atomic_load(&k->done);
    size_t i = find(k, type);

    return i < done || i == k->n ? answer(k, type) : i > done && last ? answer(last, type) : hangs;
}

const char *look_why(const struct looks *l, const char *type, int64_t now)
{
    enum look_kind kind = kind_of(type);

    if (kind == LOOK_PLUGINS && is_late(l, LOOK_SCAN, now)) {
        return hangs;
    }
    const struct look *k = l->under_way[kind];
    return is_late(l, kind, now)        ? why_late(k, l->last[kind], type)
           : k && atomic_load(&k->over) ? answer(k, type)
                                        : answer(l->last[kind], type);
}

void look_first(struct looks *l, int64_t now)
{
    (void)look_begin(l, now);
    for (int ms = 0, i = 0; ms < LOOK_FIRST_MS && i < LOOK_KINDS; ms++) {
        while (i < LOOK_KINDS && atomic_load(&l->under_way[i]->over)) {
            i++;
        }
        uv_sleep(i < LOOK_KINDS);
    }
}

void look_done(struct looks *l)
{
    for (enum look_kind i = 0; i < LOOK_KINDS; i++) {
        if (l->under_way[i]) {
            l->under_way[i]->of = NULL;
        }
        look_free(l->last[i]);
        l->under_way[i] = l->last[i] = NULL;
    }
}
