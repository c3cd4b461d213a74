#include "internal/http_impl.h"

#include "internal/clock.h"
#include "internal/json.h"
#include "internal/metrics.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define PROBLEM_MAX (1024 * 1024)
/* What a submission may be answered: so many times its bytes, up to about this. */
#define ANSWER_FACTOR 8
#define ANSWER_LARGE  ((size_t)2 * 1024 * 1024)

static const char too_large_body[] = "the body is larger than the server accepts";
static const char too_many_bodies[] = "too many request bodies are in work";
static const char too_many_of_client[] =
    "this client has too many requests or connections open; apiConfig.clientShare is the limit";
static const char too_many_answers[] = "too many answers wait for their clients to read them";
static const char unread_of_client[] =
    "this client does not read the answers that it has; apiConfig.clientShare is the limit";
static const char shutting_down[] = "the server is shutting down";

/* ---- requests ---- */

void http_resume(struct http_request *r)
{
    if (r->suspended) {
        r->suspended = false;
        MHD_resume_connection(r->conn->mhd);
        http_kick(r->conn->http);
    }
}

struct http_request *http_request_new(struct conn *c, const char *target)
{
    struct http_request *r = xmalloc(sizeof(*r));

    r->conn = c;
    r->target = xstrdup(target);
    r->broken.code = uri_parse(r->target, &r->uri, &r->broken);
    buf_init(&r->body, c->http->o.max_body);
    buf_init(&r->out, HTTP_STREAM_MAX);
    r->holds = HTTP_SHARES;
    return r;
}

static void free_if_done(struct http_request *r)
{
    if (r->conn || r->owned) {
        return;
    }
    buf_free(&r->body);
    buf_free(&r->out);
    free(r->target);
    free(r);
}

/* The owner is done with it. */
static void release(struct http_request *r)
{
    if (list_linked(&r->node)) {
        list_remove(&r->node);
    }
    r->owned = false;
    free_if_done(r);
}

static void add_news(struct http_request *r)
{
    if (r->owned && r->conn && !list_linked(&r->node)) {
        list_push(&r->conn->http->news, &r->node);
    }
}

void http_set_gone(struct http_request *r)
{
    r->gone = true;
    if (r->on_gone && !r->gone_told) {
        add_news(r);
    }
}

void http_tell_news(struct http *h)
{
    struct list_node *node;

    while ((node = list_pop(&h->news))) {
        struct http_request *r = CONTAINER_OF(node, struct http_request, node);

        if (r->gone && !r->gone_told && r->on_gone) {
            r->gone_told = true;
            r->on_gone(r->gone_arg, r);
        } else if (r->drained && r->on_drain) {
            r->drained = false;
            r->on_drain(r->drain_arg, r);
        }
    }
}

/* ---- answers ---- */

/* So much of its answer waits for the client to read it. */
static void count_answer(struct http_request *r, size_t bytes)
{
    struct conn *c = r->conn;

    c->http->answer_bytes += bytes - r->answer_bytes;
    c->peer->held[HTTP_ANSWERS] += bytes - r->answer_bytes;
    r->answer_bytes = bytes;
}

/* 0, or the status to refuse an answer with that is so much larger, and why. One that is alone is
 * let through. */
static int check_answer(const struct http_request *r, size_t more, const char **why)
{
    const struct conn *c = r->conn;
    int status = 0;

    if (more > HTTP_SMALL_ANSWER && c->peer->held[HTTP_ANSWERS] &&
        http_is_excess(c, HTTP_ANSWERS, more)) {
        METRIC_INC_BY(http_refused, "answers of a client");
        *why = unread_of_client;
        status = HTTP_TOO_MANY;
    } else if (more > HTTP_SMALL_ANSWER && c->http->answer_bytes &&
               c->http->answer_bytes + more > HTTP_ANSWERS_MAX) {
        METRIC_INC_BY(http_refused, "answers");
        *why = too_many_answers;
        status = MHD_HTTP_SERVICE_UNAVAILABLE;
    }
    return status;
}

static void add_fields(struct MHD_Response *resp, const char *content_type,
                       const struct http_field *fields, size_t n)
{
    MHD_add_response_header(resp, "Content-Type", content_type ? content_type : "application/json");
    for (size_t i = 0; i < n; i++) {
        MHD_add_response_header(resp, fields[i].name, fields[i].value);
    }
}

/* Takes over `resp`. */
static void queue(struct http_request *r, int status, struct MHD_Response *resp, size_t size)
{
    struct conn *c = r->conn;
    int64_t now = clock_boot_ms();
    char code[16];

    snprintf(code, sizeof(code), "%d", status);
    METRIC_INC_BY(http_answers, code);
    if (r->complete_at) {
        METRIC_ADD(http_requests_open, -1);
        METRIC_OBSERVE(http_request_seconds, (double)(now - r->complete_at) / 1000);
    }
    r->queued = true;
    c->deadline = r->streaming ? 0
                               : now + (int64_t)c->http->o.timeout_s * 1000 +
                                     (int64_t)(size / HTTP_MIN_BYTES_PER_MS);
    if (c->http->closing) {
        MHD_add_response_header(resp, "Connection", "close");
    }
    count_answer(r, size);
    if (MHD_queue_response(c->mhd, (unsigned)status, resp) != MHD_YES) {
        http_cut(c, "internal");
    }
    MHD_destroy_response(resp);
    http_resume(r);
}

static bool comes_again(int status)
{
    return status == MHD_HTTP_SERVICE_UNAVAILABLE || status == HTTP_TOO_MANY;
}

static void queue_buffer(struct http_request *r, int status, const char *content_type,
                         struct str body, const struct http_field *fields, size_t n_fields)
{
    struct MHD_Response *resp =
        MHD_create_response_from_buffer(body.len, (void *)(uintptr_t)body.p, MHD_RESPMEM_MUST_COPY);

    MUST(resp);
    add_fields(resp, content_type, fields, n_fields);
    if (comes_again(status)) {
        MHD_add_response_header(resp, "Retry-After", "2");
    }
    if (status == HTTP_TOO_MANY && r->conn->excess) {
        MHD_add_response_header(resp, "Connection", "close");
    }
    queue(r, status, resp, body.len);
}

static void problem_json(struct buf *b, int status, const char *detail,
                         const struct http_field *errors, size_t n, const char *extra)
{
    buf_addf(b, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,\"detail\":",
             MHD_get_reason_phrase_for((unsigned)status), status);
    json_add_string(b, detail, strlen(detail));
    buf_adds(b, ",\"errors\":[");
    for (size_t i = 0; i < n; i++) {
        buf_adds(b, i ? ",{\"field\":" : "{\"field\":");
        json_add_string(b, errors[i].name, strlen(errors[i].name));
        buf_adds(b, ",\"message\":");
        json_add_string(b, errors[i].value, strlen(errors[i].value));
        buf_addc(b, '}');
    }
    buf_addf(b, "]%s}", extra ? extra : "");
}

static void queue_problem(struct http_request *r, int status, const char *detail,
                          const struct http_field *errors, size_t n_errors, const char *extra,
                          const struct http_field *fields, size_t n_fields)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, PROBLEM_MAX);
    problem_json(&b, status, detail, errors, n_errors, extra);
    if (b.failed) {
        buf_reset(&b);
        problem_json(&b, status, err_text(ERR_TOO_LARGE), NULL, 0, NULL);
    }
    queue_buffer(r, status, "application/problem+json", (struct str){b.data, b.len}, fields,
                 n_fields);
}

void http_refuse(struct http_request *r, int status, const char *detail)
{
    queue_problem(r, status, detail, NULL, 0, NULL, NULL, 0);
}

void http_reply(struct http_request *r, int status, const char *content_type, struct str body,
                const struct http_field *fields, size_t n_fields)
{
    const char *why = NULL;
    bool open = r->conn && !r->queued;

    MUST(r->owned && !r->streaming);
    /* What was changed is told in any case. */
    int refused = open && streq(r->method, "GET") ? check_answer(r, body.len, &why) : 0;
    if (refused) {
        http_refuse(r, refused, why);
    } else if (open) {
        queue_buffer(r, status, content_type, body, fields, n_fields);
    }
    release(r);
}

void http_problem(struct http_request *r, int status, const char *detail,
                  const struct http_field *errors, size_t n_errors, const char *extra,
                  const struct http_field *fields, size_t n_fields)
{
    MUST(r->owned && !r->streaming);
    if (r->conn && !r->queued) {
        queue_problem(r, status, detail, errors, n_errors, extra, fields, n_fields);
    }
    release(r);
}

/* ---- streams ---- */

static ssize_t on_pull(void *cls, uint64_t pos, char *p, size_t max)
{
    struct http_request *r = cls;
    size_t n = MIN(r->out.len - r->taken, max);

    (void)pos;
    if (r->gone) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (n) {
        memcpy(p, r->out.data + r->taken, n);
        r->taken += n;
        return (ssize_t)n;
    }
    buf_free(&r->out);
    r->taken = 0;
    count_answer(r, 0);
    if (r->ended) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (r->conn->http->closing) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (r->on_drain) {
        r->drained = true;
        add_news(r);
    }
    MHD_suspend_connection(r->conn->mhd);
    r->suspended = true;
    return 0;
}

void http_stream_start(struct http_request *r, int status, const char *content_type,
                       const struct http_field *fields, size_t n_fields)
{
    MUST(r->owned && !r->streaming);
    r->streaming = true;
    if (!r->conn || r->queued) {
        r->gone = true;
        return;
    }
    struct MHD_Response *resp =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 * 1024, on_pull, r, NULL);
    MUST(resp);
    add_fields(resp, content_type, fields, n_fields);
    queue(r, status, resp, 0);
}

bool http_stream_write(struct http_request *r, const void *p, size_t n)
{
    MUST(r->owned && r->streaming);
    const char *why = NULL;

    if (r->gone || !r->conn) {
        return false;
    }
    if (r->taken > HTTP_STREAM_MAX / 2 || r->taken == r->out.len) {
        buf_shift(&r->out, r->taken);
        r->taken = 0;
    }
    if (check_answer(r, n, &why)) {
        r->gone = true;
    } else if (buf_add(&r->out, p, n) < 0) {
        METRIC_INC_BY(http_refused, "slow reader");
        r->gone = true;
    }
    count_answer(r, r->out.len);
    http_resume(r);
    return !r->gone;
}

size_t http_stream_pending(const struct http_request *r)
{
    return r->out.len - r->taken;
}

void http_stream_on_drain(struct http_request *r, void (*fn)(void *arg, struct http_request *r),
                          void *arg)
{
    r->on_drain = fn;
    r->drain_arg = arg;
}

void http_stream_end(struct http_request *r)
{
    MUST(r->owned && r->streaming);
    r->ended = true;
    if (r->conn) {
        http_resume(r);
    }
    release(r);
}

/* ---- what came in ---- */

const char *http_method(const struct http_request *r)
{
    return r->method;
}

const char *http_path(const struct http_request *r)
{
    return r->uri.path;
}

struct str http_body(const struct http_request *r)
{
    return str_without_mark((struct str){r->body.data ? r->body.data : "", r->body.len});
}

/* Its body takes that much more, or less. */
static void count_body(struct conn *c, size_t more, size_t less)
{
    c->http->body_bytes += more - less;
    c->peer->held[HTTP_BODIES] += more - less;
}

void http_body_drop(struct http_request *r)
{
    if (r->conn) {
        count_body(r->conn, 0, r->body.len);
    }
    buf_free(&r->body);
}

bool http_hold(struct http_request *r, enum http_share what)
{
    MUST(r->owned && r->holds == HTTP_SHARES);
    if (!r->conn) {
        return true; /* it is gone */
    }
    if (http_is_excess(r->conn, what, 1)) {
        METRIC_INC_BY(http_refused, what == HTTP_WAITS   ? "waits of a client"
                                    : what == HTTP_LISTS ? "lists of a client"
                                                         : "streams of a client");
        return false;
    }
    r->holds = what;
    r->conn->peer->held[what]++;
    return true;
}

const char *http_header(const struct http_request *r, const char *name)
{
    return r->conn ? MHD_lookup_connection_value(r->conn->mhd, MHD_HEADER_KIND, name) : NULL;
}

const char *http_query(const struct http_request *r, const char *name)
{
    for (int i = 0; i < r->uri.n_args; i++) {
        if (streq(r->uri.args[i].name, name)) {
            return r->uri.args[i].value;
        }
    }
    return NULL;
}

void http_query_each(const struct http_request *r,
                     void (*fn)(void *arg, const char *name, const char *value), void *arg)
{
    for (int i = 0; i < r->uri.n_args; i++) {
        fn(arg, r->uri.args[i].name, r->uri.args[i].value);
    }
}

void http_on_gone(struct http_request *r, void (*fn)(void *arg, struct http_request *r), void *arg)
{
    r->on_gone = fn;
    r->gone_arg = arg;
    if (r->gone && r->conn) {
        http_set_gone(r);
        http_kick(r->conn->http);
    }
}

/* ---- the head: what MHD lets pass and we do not ---- */

struct head {
    int hosts;
    int lengths;
    int encodings;
    bool bad_name;
    const char *encoding;
    const char *length;
};

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789"
                                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    struct head *h = cls;
    struct str s = str_of(name);

    (void)kind;
    h->bad_name = h->bad_name || s.len == 0 || strspn(name, token) != s.len;
    if (str_ieq(s, STR("Host"))) {
        h->hosts++;
    } else if (str_ieq(s, STR("Content-Length"))) {
        h->lengths++;
        h->length = value;
    } else if (str_ieq(s, STR("Transfer-Encoding"))) {
        h->encodings++;
        h->encoding = value;
    }
    return MHD_YES;
}

static size_t bodies_max(const struct http *h)
{
    return MAX(2 * h->o.max_body, (size_t)HTTP_BODIES_MAX);
}

/* 0, or the status to refuse with and why. */
static int check_head(struct http_request *r, const char *version, struct head *f, const char **why)
{
    struct http *h = r->conn->http;
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(r->conn->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    int64_t length = 0;

    if (r->broken.code) {
        *why = r->broken.text;
        return MHD_HTTP_BAD_REQUEST;
    }
    if (size && size->header_size > HTTP_HEAD_MAX) {
        *why = "the request's head is larger than 32 KiB";
        return MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE;
    }
    if (f->bad_name) {
        *why = "a header has a name that is not a token";
        return MHD_HTTP_BAD_REQUEST;
    }
    if (f->hosts > 1 || (f->hosts == 0 && streq(version, "HTTP/1.1"))) {
        *why = "the request must have one Host header";
        return MHD_HTTP_BAD_REQUEST;
    }
    if (f->lengths > 1 || f->encodings > 1 || (f->lengths && f->encodings)) {
        *why = "the length of the body is given more than once";
        return MHD_HTTP_BAD_REQUEST;
    }
    if (f->encodings && !str_ieq(str_of(f->encoding), STR("chunked"))) {
        *why = "no Transfer-Encoding but chunked is understood";
        return MHD_HTTP_NOT_IMPLEMENTED;
    }
    if (f->lengths && !str_to_i64(str_of(f->length), 0, INT64_MAX, &length)) {
        *why = "Content-Length is not a number";
        return MHD_HTTP_BAD_REQUEST;
    }
    if ((uint64_t)length > h->o.max_body) {
        *why = too_large_body;
        return MHD_HTTP_CONTENT_TOO_LARGE;
    }
    if (r->conn->excess || http_is_excess(r->conn, HTTP_BODIES, (size_t)length)) {
        METRIC_INC_BY(http_refused,
                      r->conn->excess ? "connections of a client" : "bodies of a client");
        *why = too_many_of_client;
        return HTTP_TOO_MANY;
    }
    size_t most = bodies_max(h) + ((size_t)length <= HTTP_SMALL_BODY ? HTTP_RESERVE : 0);
    if (h->closing || h->body_bytes + (size_t)length > most) {
        *why = h->closing ? shutting_down : too_many_bodies;
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    }
    return 0;
}

void http_request_head(struct http_request *r, const char *method, const char *version)
{
    struct conn *c = r->conn;
    struct head f = {0};
    struct err e = {0};
    const char *why = NULL;

    r->head_at = clock_boot_ms();
    c->deadline = r->head_at + (int64_t)c->http->o.timeout_s * 1000;
    list_remove(&c->node);
    list_push(&c->http->busy, &c->node);
    snprintf(r->method, sizeof(r->method), "%s", streq(method, "HEAD") ? "GET" : method);
    MHD_get_connection_values(c->mhd, MHD_HEADER_KIND, on_header, &f);
    int status = check_head(r, version, &f, &why);
    if (status == 0 && c->http->o.admit) {
        status = c->http->o.admit(c->http->o.arg, r, &e);
        why = e.text;
    }
    if (status) {
        c->linger = f.lengths || f.encodings;
        http_refuse(r, status, why);
    }
}

/* MHD 0.9.75 takes no answer in the middle of a body, so this one goes to the socket itself, whose
 * buffer is empty then. */
static void refuse_body(struct http_request *r, int status, const char *why)
{
    struct buf body CLEANUP(buf_free);
    struct buf b CLEANUP(buf_free);

    buf_init(&body, 4096);
    buf_init(&b, 8192);
    problem_json(&body, status, why, NULL, 0, NULL);
    buf_addf(&b,
             "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nContent-Length: %zu\r\n"
             "Connection: close\r\n%s\r\n%s",
             status, MHD_get_reason_phrase_for((unsigned)status), body.len,
             comes_again(status) ? "Retry-After: 2\r\n" : "", body.data);
    ssize_t sent = send(r->conn->fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    METRIC_INC_BY(http_refused, sent < 0 ? "gone" : "body");
    r->conn->linger = true;
}

bool http_request_body(struct http_request *r, const char *p, size_t n)
{
    struct conn *c = r->conn;
    struct http *h = c->http;

    if (r->queued) {
        return true;
    }
    size_t most = bodies_max(h) + (r->body.len + n <= HTTP_SMALL_BODY ? HTTP_RESERVE : 0);
    if (http_is_excess(c, HTTP_BODIES, n)) {
        refuse_body(r, HTTP_TOO_MANY, too_many_of_client);
        return false;
    }
    if (h->body_bytes + n > most) {
        refuse_body(r, MHD_HTTP_SERVICE_UNAVAILABLE, too_many_bodies);
        return false;
    }
    if (buf_add(&r->body, p, n) < 0) {
        refuse_body(r, MHD_HTTP_CONTENT_TOO_LARGE, too_large_body);
        return false;
    }
    count_body(c, n, 0);
    c->deadline = r->head_at + (int64_t)h->o.timeout_s * 1000 +
                  (int64_t)(r->body.len / HTTP_MIN_BYTES_PER_MS);
    return true;
}

void http_request_complete(struct http_request *r)
{
    struct http *h = r->conn->http;
    const char *why = NULL;
    int refused = check_answer(r, MIN(ANSWER_FACTOR * r->body.len, ANSWER_LARGE), &why);

    r->conn->deadline = 0;
    r->complete_at = clock_boot_ms();
    METRIC_ADD(http_requests_open, 1);
    r->owned = true;
    if (h->closing) {
        http_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, shutting_down, NULL, 0, NULL, NULL, 0);
    } else if (refused) {
        http_problem(r, refused, why, NULL, 0, NULL, NULL, 0);
    } else {
        h->o.handler(h->o.arg, r);
    }
    if (!r->queued) {
        MHD_suspend_connection(r->conn->mhd);
        r->suspended = true;
    }
}

void http_request_detach(struct http_request *r)
{
    if (r->complete_at && !r->queued) {
        METRIC_ADD(http_requests_open, -1);
    }
    http_set_gone(r);
    count_body(r->conn, 0, r->body.len);
    count_answer(r, 0);
    if (r->holds != HTTP_SHARES) {
        r->conn->peer->held[r->holds]--;
    }
    r->conn->request = NULL;
    r->conn = NULL;
    free_if_done(r);
}
