#include "pkg/worker/reports.h"

#include "internal/str.h"

#include <stdlib.h>

#define RESULT_TEXT_MAX (2 * 1024 * 1024)
#define APPLICATION_MAX 256
#define URL_MAX         512
#define PROGRESS_MAX    200

static void add_text(struct buf *b, const char *key, const char *text, size_t max)
{
    buf_addf(b, ",\"%s\":", key);
    json_add_string(b, text, strnlen(text, max));
}

void report_add_key(struct buf *b, const struct wcore_key *k)
{
    char task[ID_TEXT_LEN];

    id_format(&k->task, task);
    buf_addf(b, "\"task\":\"%s\",\"attempt\":%d", task, k->attempt);
}

void report_status_done(struct report_status *s)
{
    free(s->application_id);
    free(s->ui_url);
    free(s->text);
    *s = (struct report_status){.done = -1, .total = -1};
}

void report_add_status(struct buf *b, const struct report_status *s, bool live)
{
    if (s->application_id) {
        add_text(b, "applicationId", s->application_id, APPLICATION_MAX);
    }
    if (live && s->ui_url) {
        add_text(b, "uiUrl", s->ui_url, URL_MAX);
    }
    if (s->total >= 0 || s->text) {
        buf_addf(b, ",\"progress\":{\"done\":%lld,\"total\":%lld", (long long)MAX(s->done, 0),
                 (long long)MAX(s->total, 0));
        add_text(b, "text", s->text ? s->text : "", PROGRESS_MAX);
        buf_addc(b, '}');
    }
}

void report_add_from(struct buf *b, const struct report_from *from)
{
    char uuid[ID_TEXT_LEN];

    id_format(&from->who.uuid, uuid);
    buf_addf(b, "\"worker\":\"%s\",\"uuid\":\"%s\",\"inc\":%lld,\"reply\":\"%s\"", from->who.node,
             uuid, (long long)from->who.inc, from->reply);
}

static void add_from(struct buf *b, const char *type, const struct report_from *from)
{
    buf_addf(b, "{\"v\":1,\"type\":\"%s\",", type);
    report_add_from(b, from);
}

void report_claims(struct buf *b, const struct report_from *from, struct wcore_attempt *const *list,
                   size_t n, int64_t beat)
{
    add_from(b, "claim", from);
    buf_addf(b, ",\"beat\":%lld,\"claims\":[", (long long)beat);
    for (size_t i = 0; i < n; i++) {
        buf_adds(b, i ? ",{" : "{");
        report_add_key(b, &list[i]->key);
        buf_addc(b, '}');
    }
    buf_adds(b, "]}");
}

json_t *report_error(const char *kind, const char *message)
{
    json_t *j = json_pack("{s:s, s:o, s:n, s:n}", "kind", kind, "message",
                          json_string_lossy(message, strlen(message)), "exitCode", "signal");
    MUST(j);
    return j;
}

static void add_json(struct buf *b, const char *key, const json_t *v)
{
    buf_addf(b, ",\"%s\":", key);
    json_write(v, b);
}

/* A copy of the error whose message is not too long. */
static void add_error(struct buf *b, const json_t *error)
{
    const json_t *message = json_object_get(error, "message");
    size_t n = json_string_length(message);

    if (n <= REPORT_ERROR_MAX) {
        add_json(b, "error", error);
        return;
    }
    const char *text = json_string_value(message);
    n = REPORT_ERROR_MAX;
    while (n && !str_is_utf8(text, n)) {
        n--;
    }
    json_auto_t *cut = json_copy((json_t *)(uintptr_t)error);
    json_object_set_new(cut, "message", json_stringn(text, n));
    add_json(b, "error", cut);
}

static void add_output(struct buf *b, const json_t *output)
{
    struct buf text CLEANUP(buf_free);

    buf_init(&text, REPORT_OUTPUT_MAX);
    json_write(output, &text);
    if (text.failed) {
        buf_addf(b, ",\"output\":{\"warning\":\"the output has more than %d bytes as JSON\"}",
                 REPORT_OUTPUT_MAX);
    } else {
        buf_adds(b, ",\"output\":");
        buf_add(b, text.data, text.len);
    }
}

char *report_result(const struct report_result *r, const struct report_status *s)
{
    struct buf b;

    buf_init(&b, RESULT_TEXT_MAX);
    buf_addc(&b, '{');
    report_add_key(&b, &r->key);
    buf_addf(&b, ",\"token\":\"%lld\",\"outcome\":\"%s\"", (long long)r->token, r->outcome);
    if (r->error) {
        add_error(&b, r->error);
    }
    if (r->output) {
        add_output(&b, r->output);
    }
    if (r->exact) {
        buf_adds(&b, ",\"outputText\":");
        json_add_string(&b, r->exact, strlen(r->exact));
    }
    if (r->warning) {
        buf_adds(&b, ",\"warning\":");
        json_add_string(&b, r->warning, strlen(r->warning));
    }
    report_add_status(&b, s, false);
    if (r->started_at > 0) {
        buf_addf(&b, ",\"startedAtMs\":%lld", (long long)r->started_at);
    }
    buf_addf(&b, ",\"finishedAtMs\":%lld}", (long long)r->finished_at);
    MUST(!b.failed);
    return buf_take(&b);
}

void report_results_begin(struct buf *b, const struct report_from *from)
{
    add_from(b, "results", from);
    buf_adds(b, ",\"results\":[");
}

void report_results_end(struct buf *b)
{
    buf_adds(b, "]}");
}
