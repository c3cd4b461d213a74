#include "pkg/task/task.h"

#include "internal/str.h"

#include <stdio.h>
#include <stdlib.h>

struct state_row {
    const char *name;
    const char *outside;
    bool final;
};

static const struct state_row states[] = {
#define X(name, number, text, outside, final) [number] = {text, outside, final},
    TASK_STATES(X)
#undef X
};

static const struct state_row *row_of(enum task_state s)
{
    MUST((size_t)s < ARRAY_LEN(states) && states[s].name);
    return &states[s];
}

const char *task_state_name(enum task_state s)
{
    return row_of(s)->name;
}

const char *task_state_outside(enum task_state s)
{
    return row_of(s)->outside;
}

bool task_state_final(enum task_state s)
{
    return row_of(s)->final;
}

int task_state_code(enum task_state s)
{
    switch (s) {
    case TASK_SUCCEEDED:
        return 200;
    case TASK_FAILED:
    case TASK_DEAD:
        return 500;
    case TASK_CANCELLED:
        return 410;
    case TASK_SCHEDULED:
    case TASK_READY:
    case TASK_FED:
    case TASK_RUNNING:
        return 0;
    }
    UNREACHABLE("unknown task state");
}

enum task_class task_class_of(int priority)
{
    return priority >= 7 ? TASK_HIGH : priority >= 3 ? TASK_NORMAL : TASK_LOW;
}

const char *task_class_name(enum task_class c)
{
    static const char *const names[TASK_CLASSES] = {"high", "normal", "low"};

    MUST(c < TASK_CLASSES);
    return names[c];
}

/* Every owned string of a row, so that copying and freeing cannot differ. */
#define TASK_STRINGS(X)                                                                            \
    X(pool)                                                                                        \
    X(job_type)                                                                                    \
    X(job_id)                                                                                      \
    X(spec)                                                                                        \
    X(application_id) X(returned_by) X(failed_on) X(loss_signature) X(progress) X(output) X(error)

void task_done(struct task *t)
{
#define X(field) free(t->field);
    TASK_STRINGS(X)
#undef X
    *t = (struct task){0};
}

void task_copy(struct task *dst, const struct task *src)
{
    *dst = *src;
#define X(field) dst->field = xstrdup(src->field);
    TASK_STRINGS(X)
#undef X
}

void task_nodes_each(const char *nodes, void (*fn)(void *arg, const char *node), void *arg)
{
    struct str rest = str_of(nodes ? nodes : "");

    while (rest.len) {
        struct str name = str_cut(rest, ' ', &rest);
        char node[NODE_ID_MAX + 1];

        snprintf(node, sizeof(node), "%.*s", (int)MIN(name.len, sizeof(node) - 1), name.p);
        fn(arg, node);
    }
}

int task_last_attempt(const struct task *t)
{
    bool used_up =
        (t->state == TASK_FAILED || t->state == TASK_DEAD) && t->failures >= t->max_attempts;

    return t->max_attempts + MAX(t->attempt - 1 - t->failures + used_up, 0);
}

bool task_pool_good(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return n > 0 && n <= TASK_POOL_MAX && !name[n] && *name != '-';
}

/* However little is asked for, it is not nothing. */
static int32_t thousandths(double cpus)
{
    return cpus > 0 ? MAX((int32_t)(MIN(cpus, 1e6) * 1000 + 0.5), 1) : 0;
}

void task_find_needs(struct task *t)
{
    json_t *j = NULL;

    if (t->cpus_milli || t->memory_mb || !t->spec || !strstr(t->spec, "\"resources\"") ||
        json_read(t->spec, strlen(t->spec), &j, NULL) < 0) {
        return;
    }
    const json_t *asked = json_object_get(j, "resources");
    t->cpus_milli = thousandths(json_number_value(json_object_get(asked, "cpus")));
    t->memory_mb =
        (int32_t)MIN(MAX(json_get_int(asked, "memoryMb", 0), (int64_t)0), (int64_t)1 << 30);
    json_decref(j);
}

void task_from_spec(struct task *t, const struct task_spec *s, int64_t now_wall_ms)
{
    bool delayed = s->delay_ms > 0;
    int64_t due = now_wall_ms + s->delay_ms;

    *t = (struct task){
        .id = id_new(),
        .state = delayed ? TASK_SCHEDULED : TASK_READY,
        .attempt = 1,
        .priority = s->priority,
        .max_attempts = s->max_attempts,
        .backoff_s = s->backoff_s,
        .slots = s->slots,
        .cpus_milli = thousandths(s->cpus),
        .memory_mb = s->memory_mb,
        .lease_s = s->lease_s,
        .queue_timeout_s = s->queue_timeout_s,
        .rank = due - (int64_t)s->priority * TASK_AGEING_MS,
        .pool = xstrdup(s->pool),
        .job_type = xstrdup(s->job_type),
        .job_id = xstrdup(s->job_id),
        .spec = json_text(s->json),
        .submitted_at = now_wall_ms,
        .run_after = due,
        .queue_deadline = s->queue_timeout_s ? due + (int64_t)s->queue_timeout_s * 1000 : INT64_MIN,
        .started_at = INT64_MIN,
        .finished_at = INT64_MIN,
    };
    t->spec_bytes = (int32_t)strlen(t->spec);
}
