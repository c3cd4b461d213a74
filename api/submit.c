/* POST /task and POST /tasks: check everything, then hand it to the manager in one piece.
 *
 * A large body is worked off in slices, one body at a time, so that the loop turns meanwhile. Its
 * tasks are counted before anything is built of them, then each is read, checked and made a row by
 * itself: there is never more than one task as a tree.
 */
#include "api/call.h"
#include "api/view.h"
#include "internal/json_list.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#define TASKS_MAX     10000
#define KEY_MAX       128 /* characters */
#define AT_ONCE_BYTES (64 * 1024)
#define SLICE_NS      4000000
#define STRIDE_BYTES  (128 * 1024)        /* between two looks at the clock */
#define SENT_MAX      (6 * TASK_SPEC_MAX) /* bytes of a task with every character escaped */
#define REST_MAX      (64 * 1024)         /* bytes of a body besides its tasks */

enum phase { HASHING, COUNTING, READING };

struct submission {
    struct list_node node; /* in api.submissions while there is work to do */
    struct call *call;
    bool many;
    enum phase phase;
    struct json_list list;
    EVP_MD_CTX *bytes; /* hashes of the body and of its tasks; NULL: nobody needs them */
    EVP_MD_CTX *json;
    size_t digested;
    char *key;
    struct accept_request request; /* its rows as far as they are made */
    size_t made;
    struct task_problems problems;
};

static void submission_free(void *state)
{
    struct submission *s = state;

    if (list_linked(&s->node)) {
        list_remove(&s->node);
    }
    for (size_t i = 0; s->request.rows && i < s->made; i++) {
        task_done(&s->request.rows[i]);
    }
    free(s->request.rows);
    EVP_MD_CTX_free(s->bytes);
    EVP_MD_CTX_free(s->json);
    free(s->key);
    free(s);
}

/* ---- answers ---- */

static const char *state_of(const struct accept_reply *reply, size_t i)
{
    if (!reply->states) {
        return "QUEUED";
    }
    return reply->states[i] ? task_state_outside(reply->states[i]) : "UNKNOWN"; /* not kept */
}

static void answer_one(struct call *c, const struct accept_reply *reply)
{
    struct buf b CLEANUP(buf_free);
    char location[6 + ID_TEXT_LEN] = "/task/";
    struct http_field field = {"Location", location};

    id_format(&reply->tasks[0], location + 6);
    buf_init(&b, API_REPLY_MAX);
    view_handle(&b, &reply->tasks[0], reply->rows[0].job_id, state_of(reply, 0), reply->replayed);
    call_reply(c, 202, NULL, (struct str){b.data, b.len}, &field, 1);
}

static void answer_many(struct call *c, const struct accept_reply *reply)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    buf_addf(&b, "{\"accepted\":%zu,%s\"tasks\":[", reply->count,
             reply->replayed ? "\"replayed\":true," : "");
    for (size_t i = 0; i < reply->count; i++) {
        if (i) {
            buf_addc(&b, ',');
        }
        view_handle(&b, &reply->tasks[i], reply->rows[i].job_id, state_of(reply, i), false);
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
    } else if (s->many) {
        answer_many(c, reply);
    } else {
        answer_one(c, reply);
    }
}

/* ---- the key ---- */

/* False after a 422. */
static bool take_key(struct submission *s)
{
    struct call *c = s->call;
    const char *key = http_header(c->request, "Idempotency-Key");
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
    s->key = xstrdup(key); /* the client may be gone before it is needed */
    s->request.idempotency_key = s->key;
    s->bytes = EVP_MD_CTX_new();
    s->json = EVP_MD_CTX_new();
    MUST(s->bytes && EVP_DigestInit_ex(s->bytes, EVP_sha256(), NULL) == 1);
    MUST(s->json && EVP_DigestInit_ex(s->json, EVP_sha256(), NULL) == 1);
    return true;
}

static void hash(struct submission *s)
{
    struct str body = http_body(s->call->request);
    size_t n = s->bytes ? MIN(body.len - s->digested, (size_t)STRIDE_BYTES) : 0;

    if (n) {
        MUST(EVP_DigestUpdate(s->bytes, body.p + s->digested, n) == 1);
        s->digested += n;
        return;
    }
    if (s->bytes) {
        MUST(EVP_DigestFinal_ex(s->bytes, s->request.hash.bytes, NULL) == 1);
    }
    s->phase = COUNTING;
}

/* A task as it was sent: the order of members does not count, nor does the layout. */
static void hash_task(struct submission *s, const json_t *j)
{
    char *text CLEANUP(freep) = s->json ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

    if (text) { /* with its NUL, which separates */
        MUST(EVP_DigestUpdate(s->json, text, strlen(text) + 1) == 1);
    }
}

/* ---- from text to rows ---- */

static void PRINTF(3, 4) problem(struct submission *s, const char *field, const char *fmt, ...)
{
    struct task_problem *p = &s->problems.list[s->problems.count];
    va_list ap;

    if (s->problems.count == TASK_PROBLEMS_MAX) {
        return;
    }
    s->problems.count++;
    snprintf(p->field, sizeof(p->field), "%s", field);
    va_start(ap, fmt);
    vsnprintf(p->message, sizeof(p->message), fmt, ap);
    va_end(ap);
}

/* What is around the tasks. False after an answer. */
static bool check_rest(struct submission *s)
{
    struct call *c = s->call;
    struct buf rest CLEANUP(buf_free) = {0};
    struct err why = {0};
    json_auto_t *j = NULL;
    const char *key;
    json_t *v;

    buf_init(&rest, REST_MAX);
    int rc = json_list_rest(&s->list, &rest);
    if (rc == ERR_TOO_LARGE) {
        call_problem(c, 413, "the body has more than %d bytes besides its tasks", REST_MAX);
        return false;
    }
    if (rc < 0) {
        call_problem(c, 400, "the body is not JSON: its list of tasks has no end");
        return false;
    }
    if (json_read(rest.data, rest.len, &j, &why) < 0) {
        call_problem(c, 400, "the body is not JSON: %s, without the tasks in it", why.text);
        return false;
    }
    json_object_foreach(j, key, v)
    {
        if (!streq(key, "tasks")) {
            char name[61];

            snprintf(name, sizeof(name), "%s", key);
            str_make_printable(name, sizeof(name));
            problem(s, name, "is not a known field");
            call_problems(c, 422, &s->problems);
            return false;
        }
    }
    return true;
}

/* False after an answer. */
static bool count(struct submission *s)
{
    struct call *c = s->call;
    struct str element;
    bool more = false;

    if (!s->many) {
        s->request.count = 1;
    } else if (json_list_next(&s->list, STRIDE_BYTES, &element, &more)) {
        if (s->list.count > TASKS_MAX) {
            problem(s, "tasks", "has more than %d entries", TASKS_MAX);
            call_problems(c, 413, &s->problems);
            return false;
        }
        return true;
    } else if (more) {
        return true;
    } else if (!check_rest(s)) {
        return false;
    } else if (s->list.count == 0) {
        call_invalid(c, "tasks", "must not be empty");
        return false;
    } else {
        s->request.count = s->list.count;
        json_list_rewind(&s->list);
    }
    s->request.rows = xcalloc(s->request.count, sizeof(*s->request.rows));
    s->phase = READING;
    return true;
}

static bool too_large(const json_t *j)
{
    return json_dumpb(j, NULL, 0, JSON_COMPACT) > TASK_SPEC_MAX;
}

/* Said before anything is built of it, which takes time. */
static bool is_excessive(struct submission *s, const char *entry, struct json_size size)
{
    if (size.values > TASK_VALUES_MAX) {
        problem(s, entry, "has more than %d values", TASK_VALUES_MAX);
    } else if (size.bytes > TASK_SPEC_MAX) {
        problem(s, entry, "has more than %d bytes as JSON", TASK_SPEC_MAX);
    } else {
        return false;
    }
    return true;
}

/* False after a 400. */
static bool make_row(struct submission *s, struct str text)
{
    struct call *c = s->call;
    struct task_spec *spec CLEANUP(task_spec_freep) = NULL;
    json_auto_t *j = NULL;
    struct err why = {0};
    char entry[32] = "";
    char prefix[sizeof(entry) + 1] = "";

    if (s->many) {
        snprintf(entry, sizeof(entry), "tasks[%zu]", s->made);
        snprintf(prefix, sizeof(prefix), "%s.", entry);
    }
    if (text.len > SENT_MAX) {
        problem(s, entry, "has more than %d bytes as it was sent", SENT_MAX);
        return true;
    }
    if (is_excessive(s, entry, json_measure(text))) {
        return true;
    }
    if (json_read(text.p, text.len, &j, &why) < 0) {
        call_problem(c, 400, "the body is not JSON: %s%s%s", entry, *entry ? ": " : "", why.text);
        return false;
    }
    /* A number such as 0.1 grows fivefold when it is written with all its digits. */
    if (text.len > TASK_SPEC_MAX / 6 && too_large(j)) {
        problem(s, entry, "has more than %d bytes as JSON", TASK_SPEC_MAX);
        return true;
    }
    hash_task(s, j);
    spec = task_spec_parse(j, c->api->types, prefix, &s->problems);
    if (spec) {
        manager_row(c->api->manager, spec, &s->request.rows[s->made]);
    }
    return true;
}

static void hand_on(struct submission *s)
{
    if (s->json) {
        MUST(EVP_DigestFinal_ex(s->json, s->request.hash.json, NULL) == 1);
    }
    struct accept_request request = s->request;
    struct call *c = s->call;

    s->request.rows = NULL;
    c->abort = NULL;
    if (list_linked(&s->node)) {
        list_remove(&s->node);
    }
    http_body_drop(c->request);
    manager_accept(c->api->manager, &request, on_accepted, c);
}

/* False once there is nothing left to do. */
static bool read_one(struct submission *s)
{
    struct str text = http_body(s->call->request);
    bool more = false;

    if (s->made < s->request.count && s->problems.count < TASK_PROBLEMS_MAX) {
        if (s->many && !json_list_next(&s->list, STRIDE_BYTES, &text, &more)) {
            MUST(more);
            return true;
        }
        if (!make_row(s, text)) {
            return false;
        }
        s->made++;
        return true;
    }
    if (s->problems.count) {
        call_problems(s->call, 422, &s->problems);
    } else {
        hand_on(s);
    }
    return false;
}

/* ---- slices ---- */

/* Until this time; 0: to its end. False once it is answered or handed on. */
static bool work(struct submission *s, uint64_t until)
{
    bool more = true;

    while (more && (!until || uv_hrtime() < until)) {
        switch (s->phase) {
        case HASHING:
            hash(s);
            break;
        case COUNTING:
            more = count(s);
            break;
        case READING:
            more = read_one(s);
            break;
        }
    }
    return more;
}

static void on_turn(uv_idle_t *idle)
{
    struct api *api = idle->data;
    struct list_node *first = list_first(&api->submissions);

    if (first) {
        (void)work(CONTAINER_OF(first, struct submission, node), uv_hrtime() + SLICE_NS);
    }
    if (!list_first(&api->submissions)) {
        uv_idle_stop(idle);
    }
}

static void on_abort(struct call *c)
{
    call_error(c, ERR_CLOSED, NULL);
}

void submit_open(struct api *api)
{
    list_init(&api->submissions);
    api->slicer = xmalloc(sizeof(*api->slicer));
    api->slicer->data = api;
    MUST(uv_idle_init(api->loop, api->slicer) == 0);
}

static void on_closed(uv_handle_t *h)
{
    free(h);
}

void submit_close(struct api *api)
{
    uv_close((uv_handle_t *)STEAL(api->slicer), on_closed);
}

/* It may still be no JSON at all. */
static void refuse_no_list(struct call *c, struct str body)
{
    json_auto_t *j = NULL;
    struct err why = {0};
    struct json_size size = json_measure(body);

    if (size.bytes <= TASK_SPEC_MAX && size.values <= TASK_VALUES_MAX &&
        json_read(body.p, body.len, &j, &why) < 0) {
        call_problem(c, 400, "the body is not JSON: %s", why.text);
    } else {
        call_invalid(c, "tasks", "must be an array of tasks, or the body itself");
    }
}

static void submit(struct call *c, bool many)
{
    struct str body = http_body(c->request);
    struct submission *s;

    if (body.len == 0) {
        call_problem(c, 400, "the body is empty, JSON is expected");
        return;
    }
    s = xmalloc(sizeof(*s));
    *s = (struct submission){.call = c, .many = many};
    c->state = s;
    c->free_state = submission_free;
    if (many) {
        json_list_init(&s->list, body, "tasks", REST_MAX);
        if (!s->list.begin) {
            refuse_no_list(c, body);
            return;
        }
    }
    if (!take_key(s)) {
        return;
    }
    if (body.len <= AT_ONCE_BYTES || !many) {
        MUST(!work(s, 0));
    } else {
        c->abort = on_abort;
        list_push(&c->api->submissions, &s->node);
        MUST(uv_idle_start(c->api->slicer, on_turn) == 0);
    }
}

void api_submit_task(struct call *c)
{
    submit(c, false);
}

void api_submit_tasks(struct call *c)
{
    submit(c, true);
}
