/* What clients ask about tasks that were accepted, and the changes they may make. */
#include "api/call.h"
#include "api/view.h"

#include <stdlib.h>

#define WAIT_MAX_S   60
#define LIST_DEFAULT 100
#define LIST_MAX     1000
#define PAGE_BYTES   (1024 * 1024) /* a page ends with the task that makes it larger */

/* ---- one task ---- */

static void add_view(struct call *c, struct buf *b, const struct task *t)
{
    struct waiting_for w;

    view_task(b, t, manager_waiting_for(c->api->manager, t, &w) ? &w : NULL);
}

static void answer_view(struct call *c, int status, const struct task *t)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    add_view(c, &b, t);
    call_json(c, status, &b);
}

static void on_task(void *arg, int rc, const struct task *t, const struct err *why)
{
    if (rc < 0) {
        call_error(arg, rc, why);
    } else {
        answer_view(arg, 200, t);
    }
}

static void abort_wait(struct call *c)
{
    struct waiter *w = c->state;

    c->abort = NULL;
    manager_wait_cancel(w);
    call_problem(c, 503, "the server is shutting down");
}

/* Looks at once, or when the task is final, or when ?wait= is over. */
static void look(struct call *c, task_fn *cb)
{
    int64_t wait_s = 0;

    if (!call_query_int(c, "wait", 0, WAIT_MAX_S, 0, &wait_s)) {
        return;
    }
    if (wait_s == 0) {
        manager_get(c->api->manager, &c->task, cb, c);
        return;
    }
    if (!http_hold(c->request, HTTP_WAITS)) {
        call_problem(c, HTTP_TOO_MANY, "this client waits for too many tasks at a time");
        return;
    }
    struct waiter *w = manager_wait(c->api->manager, &c->task, wait_s * 1000, cb, c);
    if (w) { /* else the call is over already */
        c->state = w;
        c->abort = abort_wait;
    }
}

void api_task_get(struct call *c)
{
    look(c, on_task);
}

/* ---- result ---- */

static void answer_ended_badly(struct call *c, int status, const struct task *t)
{
    struct buf b CLEANUP(buf_free);
    json_auto_t *error = NULL;
    char id[ID_TEXT_LEN];

    if (t->error && json_read(t->error, strlen(t->error), &error, NULL) < 0) {
        error = NULL;
    }
    const char *message = json_get_string(error, "message");
    buf_init(&b, API_REPLY_MAX);
    id_format(&t->id, id);
    buf_addf(&b, ",\"taskId\":\"%s\",\"state\":\"%s\",\"code\":%d,\"error\":", id,
             task_state_outside(t->state), status);
    view_error(&b, t->error);
    http_problem(c->request, status,
                 message         ? message
                 : status == 410 ? "the task was cancelled"
                                 : "the task failed",
                 NULL, 0, b.data, NULL, 0);
    call_free(c);
}

static void on_result(void *arg, int rc, const struct task *t, const struct err *why)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct call *c = arg;
    int code = rc < 0 ? 0 : task_state_code(t->state);

    if (rc < 0) {
        call_error(c, rc, why);
    } else if (code == 0) {
        buf_init(&b, API_REPLY_MAX);
        view_handle(&b, &t->id, t->job_id, task_state_outside(t->state), false);
        call_json(c, 202, &b);
    } else if (code == 200) {
        call_reply(c, 200, NULL, str_of(t->output ? t->output : "null"), NULL, 0);
    } else {
        answer_ended_badly(c, code, t);
    }
}

void api_task_result(struct call *c)
{
    look(c, on_result);
}

/* ---- events ---- */

static void on_events(void *arg, int rc, const struct task_event_row *list, size_t n,
                      const struct err *why)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    if (rc < 0) {
        call_error(arg, rc, why);
        return;
    }
    buf_adds(&b, "{\"events\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) {
            buf_addc(&b, ',');
        }
        view_event(&b, &list[i]);
    }
    buf_adds(&b, "]}");
    call_json(arg, 200, &b);
}

void api_task_events(struct call *c)
{
    manager_events(c->api->manager, &c->task, on_events, c);
}

/* ---- changes ---- */

/* 202, and a warning where its worker cannot be told. */
static void answer_stopping(struct call *c, const struct task *t)
{
    struct buf b CLEANUP(buf_free) = {0};
    char text[MANAGER_WHY_LEN];
    const char *why = t->state == TASK_RUNNING ? manager_not_told(c->api->manager, t, text) : NULL;

    buf_init(&b, API_REPLY_MAX);
    add_view(c, &b, t);
    if (why) {
        b.len--; /* the brace */
        buf_adds(&b, ",\"warnings\":[");
        json_add_string(&b, why, strlen(why));
        buf_adds(&b, "]}");
    }
    call_json(c, 202, &b);
}

static void on_cancelled(void *arg, int rc, const struct task *t, const struct err *why)
{
    bool ended = t && task_state_final(t->state) && t->state != TASK_CANCELLED;

    /* A result may come in one batch with the request, and be first. */
    if ((rc == ERR_CONFLICT && t) || (rc == 0 && ended)) {
        call_problem(arg, 409, "the task has already ended: %s", task_state_outside(t->state));
    } else if (rc < 0) {
        call_error(arg, rc, why);
    } else if (t->state == TASK_CANCELLED) {
        answer_view(arg, 200, t);
    } else {
        answer_stopping(arg, t);
    }
}

void api_task_cancel(struct call *c)
{
    manager_cancel(c->api->manager, &c->task, on_cancelled, c);
}

static void on_requeued(void *arg, int rc, const struct task *t, const struct err *why)
{
    if (rc == ERR_CONFLICT) {
        call_problem(arg, 409, "only a task that failed or was cancelled can be run again");
    } else if (rc < 0) {
        call_error(arg, rc, why);
    } else {
        answer_view(arg, 202, t);
    }
}

void api_task_requeue(struct call *c)
{
    manager_requeue(c->api->manager, &c->task, on_requeued, c);
}

/* ---- list ---- */

static void on_list(void *arg, int rc, const struct task *list, size_t n, bool more,
                    const struct err *why)
{
    struct buf b CLEANUP(buf_free);
    char next[ID_TEXT_LEN];
    size_t shown = 0;

    buf_init(&b, API_REPLY_MAX);
    if (rc < 0) {
        call_error(arg, rc, why);
        return;
    }
    buf_adds(&b, "{\"tasks\":[");
    for (; shown < n && b.len < PAGE_BYTES; shown++) {
        if (shown) {
            buf_addc(&b, ',');
        }
        add_view(arg, &b, &list[shown]);
    }
    if (shown && (more || shown < n)) {
        id_format(&list[shown - 1].id, next);
        buf_addf(&b, "],\"next\":\"%s\"}", next);
    } else {
        buf_adds(&b, "],\"next\":null}");
    }
    call_json(arg, 200, &b);
}

static bool state_known(const char *name)
{
    static const char *const names[] = {
#define X(name, number, text, outside, final) outside,
        TASK_STATES(X)
#undef X
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (streq(name, names[i])) {
            return true;
        }
    }
    return false;
}

/* In the spelling of the installed executors; else as it is, for tasks of former ones. */
static const char *canonical_type(const struct task_types *types, const char *name)
{
    for (size_t i = 0; name && types->names[i]; i++) {
        if (str_ieq(str_trim(str_of(name)), str_of(types->names[i]))) {
            return types->names[i];
        }
    }
    return name;
}

void api_tasks_list(struct call *c)
{
    const char *after = http_query(c->request, "after");
    struct list_filter f = {
        .state = http_query(c->request, "state"),
        .job_id = http_query(c->request, "jobId"),
        .job_type = canonical_type(c->api->types, http_query(c->request, "jobType")),
    };
    struct id cursor;
    int64_t limit = 0;

    if (f.state && !state_known(f.state)) {
        call_invalid(c, "state", "must be QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED");
        return;
    }
    if (after && !id_parse(after, strlen(after), &cursor)) {
        call_invalid(c, "after", "must be the \"next\" of the page before");
        return;
    }
    if (!call_query_int(c, "limit", 1, LIST_MAX, LIST_DEFAULT, &limit)) {
        return;
    }
    if (!http_hold(c->request, HTTP_LISTS)) {
        call_problem(c, HTTP_TOO_MANY, "this client asks for too many lists at a time");
        return;
    }
    f.after = after ? &cursor : NULL;
    f.limit = (int)limit;
    manager_list(c->api->manager, &f, on_list, c);
}
