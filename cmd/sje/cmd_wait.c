/* Waiting for tasks, and what is printed when they have ended. */
#include "cmd/sje/watch.h"

#include "internal/clock.h"

#define LINE_BYTES   16384
#define OUTPUT_LINES 20
#define FAILED_SHOWN 20

static void add_times(struct buf *out, const struct cli *c, const json_t *task)
{
    const char *worker = json_get_string(task, "workerId");
    const char *application = json_get_string(task, "applicationId");
    int64_t queued = 0;
    int64_t ran = 0;

    if (view_span(c, task, "startedAt", "finishedAt", &ran)) {
        buf_adds(out, "ran ");
        text_duration(out, ran);
        if (view_span(c, task, "submittedAt", "startedAt", &queued)) {
            buf_adds(out, " after a wait of ");
            text_duration(out, queued);
        }
    } else {
        buf_adds(out, "never ran");
        return;
    }
    buf_adds(out, ", ");
    view_attempt(out, task);
    if (worker) {
        buf_addf(out, " on %.128s", worker);
    }
    if (application) {
        buf_addf(out, ", application %.256s", application);
    }
}

static void print_clean(const struct buf *b)
{
    struct buf line CLEANUP(buf_free) = {0};

    buf_init(&line, (size_t)LINE_BYTES * 4);
    text_clean(&line, (struct str){b->data ? b->data : "", b->len});
    buf_addc(&line, '\n');
    fwrite(line.data, 1, line.len, stdout);
}

static void summary(const struct cli *c, const json_t *task)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *id = json_get_string(task, "taskId");
    const char *state = json_get_string(task, "state");
    const char *job = json_get_string(task, "jobId");
    const char *sgr = c->out_color ? table_state_color(state) : NULL;

    buf_init(&b, LINE_BYTES);
    printf("%s%s%s%s%s ", sgr ? "\x1b[" : "", sgr ? sgr : "", sgr ? "m" : "", state,
           sgr ? "\x1b[0m" : "");
    buf_addf(&b, "task %s%s%.1024s", id, job ? ", job " : "", job ? job : "");
    print_clean(&b);
    buf_reset(&b);
    add_times(&b, c, task);
    print_clean(&b);
    buf_reset(&b);
    view_error(&b, task);
    if (b.len) {
        print_clean(&b);
    }
    cli_print_output(c, task, OUTPUT_LINES);
    fflush(stdout);
    if (view_exit(task) == CLI_TASK && json_get_string(task, "startedAt")) {
        cli_note(c, "its log: sje log %s; what happened: sje events %s", id, id);
    }
}

int wait_for_one(struct watch *w, const char *id)
{
    struct cli *c = w->c;
    int rc = watch_task(w, id);

    if (rc == CLI_PENDING) {
        const char *state = json_get_string(w->last.json, "state");

        cli_error("task %s has not ended in time, it is %s and goes on; wait again: sje wait %s",
                  id, state ? state : "accepted", id);
    }
    if (rc != CLI_OK && !(rc == CLI_PENDING && w->last.json && c->json)) {
        return rc;
    }
    if (c->json) {
        cli_print_json(c, &w->last);
    } else if (c->quiet) {
        printf("%s\n", json_get_string(w->last.json, "state"));
    } else {
        summary(c, w->last.json);
    }
    return view_exit(w->last.json);
}

/* ---- many ---- */

struct outcome {
    size_t succeeded;
    size_t failed;
    size_t cancelled;
    struct table table; /* the first that did not succeed */
    json_t *views;      /* with --json */
};

static void count(struct outcome *o, const struct cli *c, json_t *task)
{
    const char *state = json_get_string(task, "state");
    const char *job = json_get_string(task, "jobId");

    if (c->json) {
        json_array_append(o->views, task);
    }
    if (streq(state, "SUCCEEDED")) {
        o->succeeded++;
        return;
    }
    if (streq(state, "CANCELLED")) {
        o->cancelled++;
    } else {
        o->failed++;
    }
    if (o->failed + o->cancelled <= FAILED_SHOWN) {
        struct buf why CLEANUP(buf_free) = {0};

        buf_init(&why, LINE_BYTES);
        view_error(&why, task);
        table_cell(&o->table, str_of(json_get_string(task, "taskId")));
        table_cell(&o->table, str_of(state));
        table_cell(&o->table, str_of(job));
        table_cell_buf(&o->table, &why);
    }
}

static void summary_many(const struct watch *w, const struct outcome *o)
{
    const struct cli *c = w->c;
    struct buf took CLEANUP(buf_free) = {0};
    size_t bad = o->failed + o->cancelled;

    buf_init(&took, 64);
    text_duration(&took, clock_boot_ms() - w->started_at);
    printf("%zu tasks: %zu succeeded, %zu failed, %zu cancelled, in %s\n", w->ended, o->succeeded,
           o->failed, o->cancelled, took.data);
    if (bad && !c->quiet) {
        table_print(&o->table, stdout, cli_width(c), c->out_color);
    }
    if (bad > FAILED_SHOWN) {
        printf("%s and %zu more\n", text_ellipsis(), bad - FAILED_SHOWN);
    }
}

int wait_for_many(struct watch *w, const char *const *ids, size_t n)
{
    static const struct column columns[] = {{"TASK", 0},
                                            {"STATE", COLUMN_STATE},
                                            {"JOB", COLUMN_FLEXIBLE},
                                            {"WHY", COLUMN_FLEXIBLE},
                                            {0}};
    struct outcome o = {.views = json_array()};
    struct cli *c = w->c;
    int rc = CLI_OK;

    table_init(&o.table, columns);
    w->total = n;
    for (size_t i = 0; i < n && rc == CLI_OK; i++) {
        rc = watch_task(w, ids[i]);
        if (rc == CLI_OK) {
            count(&o, c, w->last.json);
            w->ended++;
            w->failed = o.failed + o.cancelled;
        }
    }
    live_clear(&w->live);
    if (rc == CLI_PENDING) {
        cli_error("%zu of %zu tasks have not ended in time; they go on (see: sje list)",
                  n - w->ended, n);
    }
    if (c->json && (rc == CLI_OK || rc == CLI_PENDING)) {
        json_auto_t *all = json_pack("{s:O}", "tasks", o.views);

        cli_dump_json(c, all);
    } else if (rc == CLI_OK || rc == CLI_PENDING) {
        summary_many(w, &o);
    }
    table_done(&o.table);
    json_decref(o.views);
    return rc == CLI_OK && w->failed ? CLI_TASK : rc;
}

int wait_run(struct cli *c)
{
    struct watch w;

    watch_start(&w, c);
    int rc = wait_for_one(&w, c->operand);
    watch_stop(&w);
    return rc;
}
