/* POST /task and POST /tasks: check everything, then hand it to the manager in one piece. */
#include "api/call.h"
#include "api/view.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#define TASKS_MAX 10000
#define KEY_MAX   128 /* characters */

struct submission {
    json_t *body;
    json_t *list; /* in body; NULL: the body is the one task */
};

static void submission_free(void *state)
{
    struct submission *s = state;

    json_decref(s->body);
    free(s);
}

/* The body stays with the call, because the answer repeats each jobId. */
static struct submission *read_body(struct call *c)
{
    struct str body = http_body(c->request);
    struct err why;
    json_t *j = NULL;

    if (body.len == 0) {
        call_problem(c, 400, "the body is empty, JSON is expected");
        return NULL;
    }
    if (json_read(body.p, body.len, &j, &why) < 0) {
        call_problem(c, 400, "the body is not JSON: %s", why.text);
        return NULL;
    }
    struct submission *s = xmalloc(sizeof(*s));
    s->body = j;
    c->state = s;
    c->free_state = submission_free;
    return s;
}

static const char *job_id_of(const struct submission *s, size_t i)
{
    return json_get_string(s->list ? json_array_get(s->list, i) : s->body, "jobId");
}

static void answer_one(struct call *c, const struct accept_reply *reply)
{
    struct buf b CLEANUP(buf_free);
    char location[6 + ID_TEXT_LEN] = "/task/";
    struct http_field field = {"Location", location};

    id_format(&reply->tasks[0], location + 6);
    buf_init(&b, API_REPLY_MAX);
    view_handle(&b, &reply->tasks[0], job_id_of(c->state, 0), "QUEUED");
    call_reply(c, 202, NULL, (struct str){b.data, b.len}, &field, 1);
}

static void answer_many(struct call *c, const struct accept_reply *reply)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    buf_addf(&b, "{\"accepted\":%zu,\"tasks\":[", reply->count);
    for (size_t i = 0; i < reply->count; i++) {
        if (i) {
            buf_addc(&b, ',');
        }
        view_handle(&b, &reply->tasks[i], job_id_of(c->state, i), "QUEUED");
    }
    buf_adds(&b, "]}");
    call_json(c, 202, &b);
}

static void on_accepted(void *arg, const struct accept_reply *reply)
{
    struct call *c = arg;
    struct submission *s = c->state;

    if (reply->rc == ERR_CONFLICT) {
        call_problem(c, 409, "this Idempotency-Key was used with another body");
    } else if (reply->rc < 0) {
        call_error(c, reply->rc, &reply->why);
    } else if (s->list) {
        answer_many(c, reply);
    } else {
        answer_one(c, reply);
    }
}

/* False after a 422. */
static bool take_key(struct call *c, struct accept_request *a)
{
    const char *key = http_header(c->request, "Idempotency-Key");
    struct str body = http_body(c->request);
    size_t characters = 0;
    bool fine = key && str_is_utf8(key, strlen(key));

    if (!key) {
        return true;
    }
    for (const char *p = key; *p; p++) {
        characters += ((unsigned char)*p & 0xc0) != 0x80;
        fine = fine && (unsigned char)*p >= ' ' && *p != 0x7f;
    }
    if (!fine || characters == 0 || characters > KEY_MAX) {
        call_invalid(c, "Idempotency-Key", "must have 1 to %d characters of UTF-8 text", KEY_MAX);
        return false;
    }
    a->idempotency_key = key;
    MUST(EVP_Digest(body.p, body.len, a->body_hash, NULL, EVP_sha256(), NULL) == 1);
    return true;
}

static void specs_free(struct task_spec **specs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        task_spec_free(specs[i]);
    }
    free(specs);
}

static bool too_large(const json_t *j)
{
    return json_dumpb(j, NULL, 0, JSON_COMPACT) > TASK_SPEC_MAX;
}

/* NULL where there are problems. Stops at as many as can be told. */
static struct task_spec **parse(struct call *c, size_t n, struct task_problems *problems)
{
    struct submission *s = c->state;
    struct task_spec **specs = xcalloc(n, sizeof(struct task_spec *));
    /* A number such as 0.1 grows fivefold when it is written with all its digits. */
    bool check_size = http_body(c->request).len > TASK_SPEC_MAX / 6;

    for (size_t i = 0; i < n && problems->count < TASK_PROBLEMS_MAX; i++) {
        json_t *j = s->list ? json_array_get(s->list, i) : s->body;
        char prefix[32] = "";

        if (s->list) {
            snprintf(prefix, sizeof(prefix), "tasks[%zu].", i);
        }
        if (check_size && too_large(j)) {
            struct task_problem *p = &problems->list[problems->count++];

            snprintf(p->field, sizeof(p->field), "%.*s", (int)MAX((int)strlen(prefix) - 1, 0),
                     prefix);
            snprintf(p->message, sizeof(p->message), "has more than %d bytes as JSON",
                     TASK_SPEC_MAX);
        } else {
            specs[i] = task_spec_parse(j, c->api->types, prefix, problems);
        }
    }
    if (problems->count) {
        specs_free(specs, n);
        return NULL;
    }
    return specs;
}

static void submit(struct call *c, size_t n)
{
    struct task_problems problems = {0};
    struct accept_request a = {.count = n};

    if (!take_key(c, &a)) {
        return;
    }
    a.specs = parse(c, n, &problems);
    if (!a.specs) {
        call_problems(c, 422, &problems);
        return;
    }
    manager_accept(c->api->manager, &a, on_accepted, c);
}

void api_submit_task(struct call *c)
{
    if (read_body(c)) {
        submit(c, 1);
    }
}

/* The array, or NULL after a 422. */
static json_t *find_list(struct call *c, json_t *body)
{
    struct task_problems p = {.count = 1};
    const char *key;
    json_t *v;

    if (json_is_array(body)) {
        return body;
    }
    if (!json_is_array(json_object_get(body, "tasks"))) {
        call_invalid(c, "tasks", "must be an array of tasks, or the body itself");
        return NULL;
    }
    json_object_foreach(body, key, v)
    {
        if (!streq(key, "tasks")) {
            snprintf(p.list[0].field, sizeof(p.list[0].field), "%.60s", key);
            snprintf(p.list[0].message, sizeof(p.list[0].message), "is not a known field");
            call_problems(c, 422, &p);
            return NULL;
        }
    }
    return json_object_get(body, "tasks");
}

void api_submit_tasks(struct call *c)
{
    struct submission *s = read_body(c);
    json_t *list = s ? find_list(c, s->body) : NULL;

    if (!list) {
        return;
    }
    size_t n = json_array_size(list);
    s->list = list;
    if (n == 0) {
        call_invalid(c, "tasks", "must not be empty");
    } else if (n > TASKS_MAX) {
        struct task_problems p = {.count = 1, .list[0].field = "tasks"};

        snprintf(p.list[0].message, sizeof(p.list[0].message),
                 "has %zu entries, at most %d are allowed", n, TASKS_MAX);
        call_problems(c, 413, &p);
    } else {
        submit(c, n);
    }
}
