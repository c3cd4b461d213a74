#include "api/view.h"

#include "internal/clock.h"
#include "internal/redact.h"

static void add_text(struct buf *b, const char *key, const char *s)
{
    buf_addf(b, ",\"%s\":", key);
    if (s) {
        json_add_string(b, s, strlen(s));
    } else {
        buf_adds(b, "null");
    }
}

static void add_time(struct buf *b, const char *key, int64_t wall_ms)
{
    char text[CLOCK_TEXT_LEN];

    if (wall_ms == INT64_MIN) {
        buf_addf(b, ",\"%s\":null", key);
    } else {
        clock_format(wall_ms, text);
        buf_addf(b, ",\"%s\":\"%s\"", key, text);
    }
}

static void add_raw(struct buf *b, const char *key, const char *json)
{
    buf_addf(b, ",\"%s\":", key);
    buf_adds(b, json ? json : "null");
}

/* The named members of an object that a worker wrote: no other ones, and null where absent. */
static void add_members(struct buf *b, const char *json, const char *const *keys, size_t n)
{
    json_auto_t *j = NULL;

    if (!json || json_read(json, strlen(json), &j, NULL) < 0 || !json_is_object(j)) {
        buf_adds(b, "null");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(j, keys[i]);

        buf_addf(b, "%c\"%s\":", i ? ',' : '{', keys[i]);
        if (v) {
            json_write(v, b);
        } else {
            buf_adds(b, "null");
        }
    }
    buf_addc(b, '}');
}

void view_error(struct buf *b, const char *error_json)
{
    static const char *const keys[] = {"kind", "message", "exitCode", "signal"};

    add_members(b, error_json, keys, ARRAY_LEN(keys));
}

/* False: nothing of it can be a secret, nor is a label. */
static bool has_to_be_parsed(const char *spec)
{
    static const char *const signs[] = {"\"labels\"",     "\"conf\"", "\"env\"",
                                        "\"parameters\"", "=",        "@"};

    for (size_t i = 0; i < ARRAY_LEN(signs); i++) {
        if (strstr(spec, signs[i])) {
            return true;
        }
    }
    return false;
}

/* The specification as submitted, but for secrets. */
static void add_spec(struct buf *b, const char *spec)
{
    json_auto_t *j = NULL;

    if (spec && has_to_be_parsed(spec) && json_read(spec, strlen(spec), &j, NULL) < 0) {
        j = NULL;
    }
    buf_adds(b, ",\"labels\":");
    if (json_is_object(json_object_get(j, "labels"))) {
        json_write(json_object_get(j, "labels"), b);
    } else {
        buf_adds(b, "{}");
    }
    buf_adds(b, ",\"spec\":");
    if (redact(j, "labels")) {
        json_write(j, b);
    } else {
        buf_adds(b, spec ? spec : "null");
    }
}

void view_task(struct buf *b, const struct task *t, const struct waiting_for *waiting)
{
    static const char *const progress[] = {"done", "total", "text"};
    char id[ID_TEXT_LEN];
    int code = task_state_code(t->state);

    id_format(&t->id, id);
    buf_addf(b, "{\"taskId\":\"%s\"", id);
    add_text(b, "jobId", t->job_id);
    add_text(b, "jobType", t->job_type);
    add_text(b, "state", task_state_outside(t->state));
    if (code) {
        buf_addf(b, ",\"code\":%d", code);
    } else {
        buf_adds(b, ",\"code\":null");
    }
    buf_addf(b, ",\"priority\":%d", t->priority);
    add_text(b, "pool", t->pool);
    buf_addf(b, ",\"attempt\":%d,\"maxAttempts\":%d", t->attempt, task_last_attempt(t));
    add_time(b, "submittedAt", t->submitted_at);
    add_time(b, "startedAt", t->started_at);
    add_time(b, "finishedAt", t->finished_at);
    add_text(b, "workerId", who_is_nobody(&t->who) ? NULL : t->who.node);
    add_text(b, "applicationId", t->application_id);
    buf_adds(b, ",\"progress\":");
    add_members(b, t->progress, progress, ARRAY_LEN(progress));
    add_raw(b, "output", t->output);
    buf_adds(b, ",\"error\":");
    view_error(b, t->error);
    if (waiting) {
        buf_addf(b, ",\"waitingFor\":{\"code\":\"%s\"", waiting->code);
        add_text(b, "text", waiting->text);
        buf_addc(b, '}');
    } else {
        buf_adds(b, ",\"waitingFor\":null");
    }
    buf_addf(b, ",\"cancelRequested\":%s",
             t->cancel_requested && !task_state_final(t->state) ? "true" : "false");
    add_spec(b, t->spec);
    buf_addc(b, '}');
}

void view_event(struct buf *b, const struct task_event_row *e)
{
    buf_addf(b, "{\"seq\":%d", e->seq);
    add_time(b, "at", e->at);
    buf_addf(b, ",\"attempt\":%d", e->attempt);
    add_text(b, "event", e->event);
    add_text(b, "workerId", e->worker_id);
    add_raw(b, "detail", e->detail);
    buf_addc(b, '}');
}

void view_handle(struct buf *b, const struct id *id, const char *job_id, const char *state,
                 bool replayed)
{
    char text[ID_TEXT_LEN];

    id_format(id, text);
    buf_addf(b, "{\"taskId\":\"%s\"", text);
    add_text(b, "jobId", job_id);
    buf_addf(b, ",\"state\":\"%s\"", state);
    buf_addf(b, ",\"href\":\"/task/%s\"%s}", text, replayed ? ",\"replayed\":true" : "");
}
