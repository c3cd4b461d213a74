/* The commands about tasks that ask one question. */
#include "cmd/sje/cli.h"

#include <stdlib.h>

#define PATH_BYTES 8192
#define CELL_BYTES 4096
#define LIST_LIMIT 20
#define PAGE_LIMIT 500

static char *about_task(const struct cli *c)
{
    return xasprintf("task %s", c->operand);
}

int status_run(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    char *about CLEANUP(freep) = about_task(c);
    char *path CLEANUP(freep) = xasprintf("/task/%s", c->operand);
    int rc = cli_get(c, path, about, &r);

    if (rc != CLI_OK) {
        return rc;
    }
    if (!view_valid(r.json)) {
        return cli_strange(c, about);
    }
    if (c->json) {
        cli_print_json(c, &r);
    } else if (c->quiet) {
        printf("%s\n", json_get_string(r.json, "state"));
    } else {
        view_print(c, r.json);
    }
    return CLI_OK;
}

/* ---- cancel, requeue ---- */

int cancel_run(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    char *about CLEANUP(freep) = about_task(c);
    char *path CLEANUP(freep) = xasprintf("/task/%s", c->operand);
    int rc = cli_send(c, &(struct request){.method = "DELETE", .path = path}, &r);

    if (rc != CLI_OK) {
        return rc;
    }
    if (r.status / 100 != 2) {
        return cli_refused(c, &r, about);
    }
    if (c->json) {
        cli_print_json(c, &r);
    } else if (r.status == 202) {
        cli_note(c, "%s is being stopped; wait for its end: sje wait %s", about, c->operand);
        cli_warnings(c, &r);
    } else {
        cli_note(c, "%s is cancelled", about);
    }
    return CLI_OK;
}

int requeue_run(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    char *about CLEANUP(freep) = about_task(c);
    char *path CLEANUP(freep) = xasprintf("/mgmt/tasks/%s/requeue", c->operand);
    int rc = cli_post(c, path, about, &r);

    if (rc == CLI_OK && c->json) {
        cli_print_json(c, &r);
    } else if (rc == CLI_OK) {
        cli_note(c, "%s is queued again", about);
    }
    return rc;
}

/* ---- list ---- */

static void add_query(struct buf *path, const char *key, const char *value)
{
    if (value) {
        buf_addf(path, "&%s=", key);
        text_urlencode(path, str_of(value));
    }
}

static char *list_path(const struct cli *c, int64_t limit, const char *after)
{
    struct buf path;

    buf_init(&path, PATH_BYTES);
    buf_addf(&path, "/tasks?limit=%lld", (long long)limit);
    add_query(&path, "state", cli_text(c, "state"));
    add_query(&path, "jobId", cli_text(c, "job-id"));
    add_query(&path, "jobType", cli_text(c, "job-type"));
    add_query(&path, "after", after);
    bool failed = path.failed;
    char *text = buf_take(&path);
    if (failed) {
        free(text);
        return NULL;
    }
    return text;
}

static void add_task(struct table *t, const struct cli *c, const json_t *task)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *state = json_get_string(task, "state");
    int64_t at = 0;
    int64_t ms = 0;

    buf_init(&b, CELL_BYTES);
    table_cell(t, str_of(json_get_string(task, "taskId")));
    table_cell(t, str_of(state));
    table_cell(t, str_of(json_get_string(task, "jobType")));
    table_cell(t, str_of(json_get_string(task, "jobId")));
    buf_addf(&b, "%lld", (long long)json_get_int(task, "attempt", 0));
    table_cell_buf(t, &b);
    if (view_time(task, "submittedAt", &at)) {
        text_ago(&b, client_now(c->client) - at);
    }
    table_cell_buf(t, &b);
    if (!streq(state, "QUEUED") && view_span(c, task, "startedAt", "finishedAt", &ms)) {
        text_duration(&b, ms);
    }
    table_cell_buf(t, &b);
    table_cell(t, str_of(json_get_string(task, "workerId")));
}

static void print_page(const struct cli *c, const json_t *tasks)
{
    static const struct column columns[] = {{"TASK", 0},
                                            {"STATE", COLUMN_STATE},
                                            {"TYPE", COLUMN_FLEXIBLE},
                                            {"JOB", COLUMN_FLEXIBLE},
                                            {"ATT", COLUMN_RIGHT},
                                            {"SUBMITTED", 0},
                                            {"RAN", 0},
                                            {"WORKER", COLUMN_FLEXIBLE},
                                            {0}};
    struct table t CLEANUP(table_done) = {0};

    table_init(&t, columns);
    for (size_t i = 0; i < json_array_size(tasks); i++) {
        const json_t *task = json_array_get(tasks, i);

        if (c->quiet) {
            printf("%s\n", json_get_string(task, "taskId"));
        } else {
            add_task(&t, c, task);
        }
    }
    if (!c->quiet && json_array_size(tasks)) {
        table_print(&t, stdout, cli_width(c), c->out_color);
    }
}

static bool page_valid(const json_t *page)
{
    const json_t *tasks = json_object_get(page, "tasks");

    for (size_t i = 0; i < json_array_size(tasks); i++) {
        if (!view_valid(json_array_get(tasks, i))) {
            return false;
        }
    }
    return json_is_array(tasks);
}

/* One page. *after is the cursor of the next one, NULL where it was the last; owned. */
static int list_page(struct cli *c, int64_t limit, char **after, struct reply *r)
{
    char *path CLEANUP(freep) = list_path(c, limit, *after);

    if (!path) {
        cli_error("list: the options are too long");
        return CLI_USAGE;
    }
    int rc = cli_get(c, path, "list", r);
    if (rc != CLI_OK) {
        return rc;
    }
    const char *next = json_get_string(r->json, "next");
    if (!page_valid(r->json) || streq(next, *after)) {
        return cli_strange(c, "list");
    }
    str_replace_owned(after, json_array_size(json_object_get(r->json, "tasks")) ? next : NULL);
    return CLI_OK;
}

/* All pages as one document. Where one cannot be had, the document ends properly and its "next"
 * says where to go on. */
static int list_all_json(struct cli *c)
{
    char *after CLEANUP(freep) = NULL;
    size_t n = 0;
    int rc;

    do {
        struct reply r CLEANUP(reply_done) = {0};
        struct cli asking = *c;

        /* A refusal is a document too; it must not stand within this one. */
        asking.json = n == 0;
        rc = list_page(&asking, PAGE_LIMIT, &after, &r);
        if (rc != CLI_OK) {
            break;
        }
        const json_t *tasks = json_object_get(r.json, "tasks");
        for (size_t i = 0; i < json_array_size(tasks); i++) {
            fputs(n++ ? "," : "{\"tasks\":[", stdout);
            cli_dump_json(c, json_array_get(tasks, i));
        }
    } while (after);
    if (rc == CLI_OK || n) {
        json_auto_t *next = after ? json_string(after) : json_null();

        fputs(n ? "],\"next\":" : "{\"tasks\":[],\"next\":", stdout);
        cli_dump_json(c, next);
        fputs("}\n", stdout);
    }
    return rc;
}

static int list_all(struct cli *c)
{
    char *after CLEANUP(freep) = NULL;
    int rc;

    do {
        struct reply r CLEANUP(reply_done) = {0};

        rc = list_page(c, PAGE_LIMIT, &after, &r);
        if (rc == CLI_OK) {
            print_page(c, json_object_get(r.json, "tasks"));
        }
    } while (rc == CLI_OK && after);
    return rc;
}

int list_run(struct cli *c)
{
    char *after CLEANUP(freep) = NULL;
    struct reply r CLEANUP(reply_done) = {0};

    if (cli_flag(c, "all")) {
        return c->json ? list_all_json(c) : list_all(c);
    }
    int rc = list_page(c, cli_number(c, "limit", LIST_LIMIT), &after, &r);
    if (rc != CLI_OK) {
        return rc;
    }
    if (c->json) {
        cli_print_json(c, &r);
        return CLI_OK;
    }
    print_page(c, json_object_get(r.json, "tasks"));
    if (json_array_size(json_object_get(r.json, "tasks")) == 0) {
        cli_note(c, "no tasks");
    } else if (after) {
        cli_note(c, "there are more: --limit N or --all");
    }
    return CLI_OK;
}

/* ---- events ---- */

static void add_event(struct table *t, const json_t *event)
{
    struct buf b CLEANUP(buf_free) = {0};
    const json_t *detail = json_object_get(event, "detail");
    int64_t at = 0;

    buf_init(&b, CELL_BYTES);
    buf_addf(&b, "%lld", (long long)json_get_int(event, "seq", 0));
    table_cell_buf(t, &b);
    if (view_time(event, "at", &at)) {
        text_local(&b, at, true);
    }
    table_cell_buf(t, &b);
    buf_addf(&b, "%lld", (long long)json_get_int(event, "attempt", 0));
    table_cell_buf(t, &b);
    table_cell(t, str_of(json_get_string(event, "event")));
    table_cell(t, str_of(json_get_string(event, "workerId")));
    if (!detail || json_is_null(detail)) {
        table_cell(t, STR(""));
    } else if (json_is_string(detail)) {
        table_cell(t, str_of(json_string_value(detail)));
    } else {
        char *text CLEANUP(freep) = json_text(detail);

        table_cell(t, str_of(text));
    }
}

int events_run(struct cli *c)
{
    static const struct column columns[] = {{"SEQ", COLUMN_RIGHT},
                                            {"AT", 0},
                                            {"ATT", COLUMN_RIGHT},
                                            {"EVENT", 0},
                                            {"WORKER", COLUMN_FLEXIBLE},
                                            {"DETAIL", COLUMN_FLEXIBLE},
                                            {0}};
    struct reply r CLEANUP(reply_done) = {0};
    struct table t CLEANUP(table_done) = {0};
    char *about CLEANUP(freep) = about_task(c);
    char *path CLEANUP(freep) = xasprintf("/task/%s/events", c->operand);
    int rc = cli_get(c, path, about, &r);
    const json_t *events = json_object_get(r.json, "events");

    table_init(&t, columns);
    if (rc != CLI_OK) {
        return rc;
    }
    if (!json_is_array(events)) {
        return cli_strange(c, about);
    }
    if (c->json) {
        cli_print_json(c, &r);
        return CLI_OK;
    }
    for (size_t i = 0; i < json_array_size(events); i++) {
        add_event(&t, json_array_get(events, i));
    }
    table_print(&t, stdout, cli_width(c), c->out_color);
    return CLI_OK;
}

/* ---- result ---- */

/* The problem document carries the task's error. */
static void print_failure(const struct reply *r, const char *about, const char *how)
{
    struct buf why CLEANUP(buf_free) = {0};

    buf_init(&why, CELL_BYTES * 4);
    view_error(&why, r->json);
    cli_error("%s %s%s%s", about, how, why.len ? ": " : "", why.len ? why.data : "");
}

/* 200: the answer is the output. */
static int print_result(const struct cli *c, const struct reply *r)
{
    if (c->json) {
        cli_print_json(c, r);
    } else if (r->inexact && !json_is_string(r->json)) {
        cli_print_exact(c, (struct str){r->body.data, r->body.len}, 0);
    } else if (!json_is_null(r->json)) {
        cli_print_value(c, r->json, 0);
    }
    return CLI_OK;
}

int result_run(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    char *about CLEANUP(freep) = about_task(c);
    char *path CLEANUP(freep) = xasprintf("/task/%s/result", c->operand);
    int rc = cli_send(c, &(struct request){.path = path}, &r);
    bool ended = json_get_int(r.json, "code", 0) == r.status;

    if (rc != CLI_OK) {
        return rc;
    }
    if (r.status == 200) {
        return print_result(c, &r);
    }
    /* A 500 that does not speak of the task is the manager's own. */
    if (r.status != 202 && !((r.status == 500 || r.status == 410) && ended)) {
        return cli_refused(c, &r, about);
    }
    if (c->json) {
        cli_print_json(c, &r);
    }
    if (r.status == 202) {
        cli_error("%s has not ended; wait for it: sje wait %s", about, c->operand);
        return CLI_PENDING;
    }
    print_failure(&r, about, r.status == 500 ? "failed" : "was cancelled");
    return CLI_TASK;
}
