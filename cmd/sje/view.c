/* A task as the API shows it. */
#include "cmd/sje/cli.h"

#include "internal/id.h"

#define LABEL_WIDTH  12
#define ROW_MAX      8192
#define OUTPUT_LINES 20

bool view_valid(const json_t *task)
{
    const char *id = json_get_string(task, "taskId");
    struct id parsed;

    return id && id_parse(id, strlen(id), &parsed) && json_get_string(task, "state");
}

bool view_final(const json_t *task)
{
    static const char *const final[] = {"SUCCEEDED", "FAILED", "CANCELLED"};
    const char *state = json_get_string(task, "state");

    for (size_t i = 0; i < ARRAY_LEN(final); i++) {
        if (streq(final[i], state)) {
            return true;
        }
    }
    return false;
}

int view_exit(const json_t *task)
{
    return !view_final(task)                                    ? CLI_PENDING
           : streq(json_get_string(task, "state"), "SUCCEEDED") ? CLI_OK
                                                                : CLI_TASK;
}

/* " (exit status 3)", unless the message has the number already. */
static void add_number(struct buf *out, const char *message, const char *what, int64_t n)
{
    char number[24];

    snprintf(number, sizeof(number), "%lld", (long long)n);
    if (n && !(message && strstr(message, number))) {
        buf_addf(out, " (%s %s)", what, number);
    }
}

void view_error(struct buf *out, const json_t *task)
{
    const json_t *error = json_object_get(task, "error");
    const char *kind = json_get_string(error, "kind");
    const char *message = json_get_string(error, "message");
    const char *name = json_get_string(error, "signal");

    if (!json_is_object(error)) {
        return;
    }
    /* "killed by signal 9" needs no "killed:" before it. */
    if (kind && !(message && strncmp(message, kind, strlen(kind)) == 0)) {
        buf_addf(out, "%s%s", kind, message ? ": " : "");
    }
    buf_adds(out, message ? message : "");
    add_number(out, message, "exit status", json_get_int(error, "exitCode", 0));
    if (name) {
        buf_addf(out, " (%s)", name);
    } else {
        add_number(out, message, "signal", json_get_int(error, "signal", 0));
    }
}

void view_waiting(struct buf *out, const json_t *task)
{
    const char *text = json_get_string(json_object_get(task, "waitingFor"), "text");
    const char *last = text ? strrchr(text, ' ') : NULL;
    int64_t at = 0;

    if (last && text_time(last + 1, &at)) {
        buf_addf(out, "%.*s ", (int)MIN(last - text, (ptrdiff_t)1000), text);
        text_local(out, at, false);
    } else if (text) {
        buf_addf(out, "%.1000s", text);
    }
}

void view_attempt(struct buf *out, const json_t *task)
{
    int64_t last = json_get_int(task, "maxAttempts", 0);
    const json_t *spec = json_object_get(task, "spec");
    int64_t more = json_is_object(spec) ? last - json_get_int(spec, "maxAttempts", 1) : 0;

    buf_addf(out, "attempt %lld of %lld", (long long)json_get_int(task, "attempt", 0),
             (long long)last);
    if (more > 0) {
        buf_addf(out, " (%lld %s not count: lost, given back by a worker, or before a requeue)",
                 (long long)more, more == 1 ? "does" : "do");
    }
}

bool view_time(const json_t *task, const char *key, int64_t *ret)
{
    return text_time(json_get_string(task, key), ret);
}

bool view_span(const struct cli *c, const json_t *task, const char *from, const char *to,
               int64_t *ret_ms)
{
    int64_t start = 0;
    int64_t end = 0;

    if (!view_time(task, from, &start)) {
        return false;
    }
    if (!view_time(task, to, &end)) {
        end = client_now(c->client);
    }
    *ret_ms = MAX(end - start, 0);
    return true;
}

/* ---- all of it ---- */

/* Prints label and b, empties b. Nothing where b is empty. */
static void row(const struct cli *c, const char *label, struct buf *b)
{
    struct buf line CLEANUP(buf_free) = {0};
    size_t width = cli_width(c);

    if (b->len == 0) {
        return;
    }
    buf_init(&line, ROW_MAX * 4);
    buf_adds(&line, label);
    text_pad(&line, text_width(str_of(label)), LABEL_WIDTH);
    if (width > LABEL_WIDTH + 20 && !streq(label, "error")) {
        text_fit(&line, (struct str){b->data, b->len}, width - LABEL_WIDTH);
    } else {
        text_clean(&line, (struct str){b->data, b->len});
    }
    buf_addc(&line, '\n');
    fwrite(line.data, 1, line.len, stdout);
    buf_reset(b);
}

static void row_text(const struct cli *c, const char *label, const char *text)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, ROW_MAX);
    buf_addf(&b, "%.*s", ROW_MAX - 1, text ? text : "");
    row(c, label, &b);
}

static void row_time(const struct cli *c, const json_t *task, const char *label, const char *key,
                     const char *since, const char *what)
{
    struct buf b CLEANUP(buf_free) = {0};
    int64_t at = 0;
    int64_t from = 0;

    buf_init(&b, ROW_MAX);
    if (!view_time(task, key, &at)) {
        return;
    }
    text_local(&b, at, false);
    buf_adds(&b, " (");
    text_ago(&b, client_now(c->client) - at);
    if (since && view_time(task, since, &from) && at >= from) {
        buf_addf(&b, ", %s ", what);
        text_duration(&b, at - from);
    }
    buf_addc(&b, ')');
    row(c, label, &b);
}

static void row_labels(const struct cli *c, json_t *labels)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *key;
    json_t *value;

    buf_init(&b, ROW_MAX);
    json_object_foreach(labels, key, value)
    {
        const char *text = json_string_value(value);

        buf_addf(&b, "%s%.256s=%.1024s", b.len ? ", " : "", key, text ? text : "?");
    }
    row(c, "labels", &b);
}

static void row_progress(const struct cli *c, const json_t *progress)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *text = json_get_string(progress, "text");
    int64_t total = json_get_int(progress, "total", 0);

    buf_init(&b, ROW_MAX);
    if (total > 0) {
        buf_addf(&b, "%lld/%lld ", (long long)json_get_int(progress, "done", 0), (long long)total);
    }
    buf_addf(&b, "%.1000s", text ? text : "");
    row(c, "progress", &b);
}

static void row_state(const struct cli *c, const json_t *task)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *state = json_get_string(task, "state");
    const char *sgr = c->out_color ? table_state_color(state) : NULL;

    buf_init(&b, ROW_MAX);
    text_fit(&b, str_of(state), 20);
    printf("state       %s%s%s%s%s, ", sgr ? "\x1b[" : "", sgr ? sgr : "", sgr ? "m" : "", b.data,
           sgr ? "\x1b[0m" : "");
    buf_reset(&b);
    view_attempt(&b, task);
    buf_adds(&b, json_get_bool(task, "cancelRequested", false)
                     ? "; a cancel was asked for and is not over yet"
                     : "");
    printf("%s\n", b.data);
}

void view_print(const struct cli *c, const json_t *task)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *job = json_get_string(task, "jobId");
    const char *type = json_get_string(task, "jobType");
    const char *pool = json_get_string(task, "pool");
    const json_t *output = json_object_get(task, "output");

    buf_init(&b, ROW_MAX);
    row_text(c, "task", json_get_string(task, "taskId"));
    buf_addf(&b, "%.1024s%s%.128s%s", job ? job : "", job ? " (" : "", type ? type : "",
             job ? ")" : "");
    row(c, "job", &b);
    row_state(c, task);
    view_waiting(&b, task);
    row(c, "waiting for", &b);
    row_progress(c, json_object_get(task, "progress"));
    buf_addf(&b, "%.64s, priority %lld", pool ? pool : "?",
             (long long)json_get_int(task, "priority", 0));
    row(c, "pool", &b);
    row_text(c, "worker", json_get_string(task, "workerId"));
    row_text(c, "application", json_get_string(task, "applicationId"));
    row_labels(c, json_object_get(task, "labels"));
    row_time(c, task, "submitted", "submittedAt", NULL, NULL);
    row_time(c, task, "started", "startedAt", "submittedAt", "after");
    row_time(c, task, "finished", "finishedAt", "startedAt", "took");
    view_error(&b, task);
    row(c, "error", &b);
    if (output && !json_is_null(output)) {
        printf("output\n");
        cli_print_output(c, task, OUTPUT_LINES);
    }
}
