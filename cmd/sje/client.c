#include "cmd/sje/client.h"

#include "internal/clock.h"
#include "internal/json_exact.h"

#include <curl/curl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define CONNECT_TIMEOUT_MS 5000
#define HEAD_MAX           ((size_t)64 << 10)
#define TICK_MS            200
#define CLOCK_TOLERANCE_MS 2000 /* the Date header counts whole seconds */

struct client {
    CURL *easy;
    CURLM *multi;
    char *url;   /* without a slash at the end, for calls */
    char *shown; /* without user and password, for people */
    int64_t timeout_ms;
    int64_t skew_ms; /* the manager's clock less ours */
    int fd;
    void (*tick)(void *arg);
    void *tick_arg;
    char text[CURL_ERROR_SIZE];
};

/* What the callbacks of one call write into. */
struct call {
    struct client *client;
    const struct request *request;
    struct reply *reply;
    size_t head;
    bool stopped; /* the sink wants no more */
    bool too_large;
};

void reply_done(struct reply *r)
{
    buf_free(&r->body);
    json_decref(r->json);
    *r = (struct reply){0};
}

/* ---- life ---- */

static char *url_part(CURLU *u, CURLUPart part)
{
    char *text = NULL;
    char *copy = curl_url_get(u, part, &text, 0) == CURLUE_OK ? xstrdup(text) : NULL;

    curl_free(text);
    return copy;
}

static bool is_loopback(const char *host)
{
    return streq(host, "localhost") || streq(host, "[::1]") || strncmp(host, "127.", 4) == 0;
}

/* Checks the address and takes it apart; *ret_host is owned by the caller. */
static int parse_url(struct client *c, const char *url, char **ret_host, struct err *reterr)
{
    CURLU *u = curl_url();
    char *scheme = NULL;
    char *host = NULL;
    char *query = NULL;
    char *fragment = NULL;
    int rc = 0;

    MUST(u);
    if (curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK) {
        scheme = url_part(u, CURLUPART_SCHEME);
        host = url_part(u, CURLUPART_HOST);
        query = url_part(u, CURLUPART_QUERY);
        fragment = url_part(u, CURLUPART_FRAGMENT);
    }
    if (!host || query || fragment || !(streq(scheme, "http") || streq(scheme, "https"))) {
        rc = err_set(reterr, ERR_INVALID,
                     "not an address of a manager: '%.120s' (such as http://127.0.0.1:8082)", url);
    } else {
        c->url = url_part(u, CURLUPART_URL);
        curl_url_set(u, CURLUPART_USER, NULL, 0);
        curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
        c->shown = url_part(u, CURLUPART_URL);
        for (size_t n = strlen(c->url); n && c->url[n - 1] == '/'; n--) {
            c->url[n - 1] = '\0';
        }
        for (size_t n = strlen(c->shown); n && c->shown[n - 1] == '/'; n--) {
            c->shown[n - 1] = '\0';
        }
        *ret_host = STEAL(host);
    }
    free(scheme);
    free(host);
    free(query);
    free(fragment);
    curl_url_cleanup(u);
    return rc;
}

int client_open(const char *url, int64_t timeout_ms, struct client **ret, struct err *reterr)
{
    char *host CLEANUP(freep) = NULL;
    struct client *c = xmalloc(sizeof(*c));

    c->fd = -1;
    c->timeout_ms = timeout_ms;
    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    int rc = parse_url(c, url, &host, reterr);
    if (rc < 0) {
        client_close(c);
        return rc;
    }
    c->easy = curl_easy_init();
    c->multi = curl_multi_init();
    MUST(c->easy && c->multi);
    curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, c->text);
    curl_easy_setopt(c->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPIDLE, 30L);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPINTVL, 10L);
    curl_easy_setopt(c->easy, CURLOPT_USERAGENT, "sje/" SJE_VERSION);
    if (is_loopback(host)) {
        curl_easy_setopt(c->easy, CURLOPT_PROXY, "");
    }
    *ret = c;
    return 0;
}

void client_close(struct client *c)
{
    if (!c) {
        return;
    }
    if (c->easy) {
        curl_easy_cleanup(c->easy);
        curl_multi_cleanup(c->multi);
    }
    curl_global_cleanup();
    free(c->url);
    free(c->shown);
    free(c);
}

const char *client_url(const struct client *c)
{
    return c->shown;
}

void client_attend(struct client *c, int fd, void (*tick)(void *arg), void *arg)
{
    c->fd = fd;
    c->tick = tick;
    c->tick_arg = arg;
}

int64_t client_now(const struct client *c)
{
    return clock_wall_ms() + c->skew_ms;
}

int client_pause(struct client *c, int64_t ms)
{
    int64_t until = clock_boot_ms() + ms;

    for (;;) {
        int64_t left = until - clock_boot_ms();
        struct pollfd p = {.fd = c->fd, .events = POLLIN};

        if (left <= 0) {
            return 0;
        }
        if (poll(&p, 1, (int)MIN(left, TICK_MS)) > 0) {
            return ERR_CLOSED;
        }
        if (c->tick) {
            c->tick(c->tick_arg);
        }
    }
}

/* ---- callbacks ---- */

static long status_of(CURL *easy)
{
    long status = 0;

    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct call *call = arg;

    n *= size;
    if (call->request->sink && status_of(call->client->easy) == 200) {
        call->stopped = !call->request->sink(call->request->arg, (struct str){p, n});
        return call->stopped ? 0 : n;
    }
    call->too_large = buf_add(&call->reply->body, p, n) < 0;
    return call->too_large ? 0 : n;
}

/* Whether the line is that header; *ret is its value. */
static bool header_is(struct str line, const char *name, struct str *ret)
{
    struct str key = str_cut(line, ':', ret);

    *ret = str_trim(*ret);
    return str_ieq(key, str_of(name));
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct call *call = arg;
    struct str line = {p, n * size};
    struct str value;

    call->head += line.len;
    call->too_large = call->head > HEAD_MAX;
    if (header_is(line, "X-Log-Size", &value)) {
        str_to_i64(value, 0, INT64_MAX, &call->reply->log_size);
    } else if (header_is(line, "X-Log-Offset", &value)) {
        str_to_i64(value, 0, INT64_MAX, &call->reply->log_offset);
    } else if (header_is(line, "X-Log-Attempt", &value)) {
        str_to_i64(value, 0, INT32_MAX, &call->reply->log_attempt);
    } else if (header_is(line, "Retry-After", &value)) {
        str_to_i64(value, 0, 86400, &call->reply->retry_after_s);
    } else if (header_is(line, "Date", &value)) {
        char text[64];

        snprintf(text, sizeof(text), "%.*s", (int)MIN(value.len, sizeof(text) - 1), value.p);
        time_t t = curl_getdate(text, NULL);
        int64_t skew = (int64_t)t * 1000 + 500 - clock_wall_ms();
        bool close = skew > -CLOCK_TOLERANCE_MS && skew < CLOCK_TOLERANCE_MS;
        call->client->skew_ms = t == -1 || close ? 0 : skew;
    }
    return call->too_large ? 0 : line.len;
}

/* ---- a call ---- */

static struct curl_slist *headers_of(const struct request *q)
{
    struct curl_slist *list = NULL;

    if (!q->text) {
        list = curl_slist_append(list, "Accept: application/json, application/problem+json");
    }
    if (q->body.p) {
        list = curl_slist_append(list, "Content-Type: application/json");
        list = curl_slist_append(list, "Expect:");
    }
    if (q->idempotency_key) {
        char *line CLEANUP(freep) = xasprintf("Idempotency-Key: %s", q->idempotency_key);

        list = curl_slist_append(list, line);
    }
    return list;
}

static void set_request(struct client *c, const struct request *q, struct call *call,
                        const char *url)
{
    int64_t timeout = q->timeout_ms ? q->timeout_ms : c->timeout_ms;
    const char *method = q->method ? q->method : "GET";

    curl_easy_setopt(c->easy, CURLOPT_URL, url);
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, (long)MAX(timeout, 0));
    curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(c->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c->easy, CURLOPT_HEADERDATA, call);
    if (streq(method, "POST") || q->body.p) {
        curl_easy_setopt(c->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, q->body.p ? q->body.p : "");
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body.len);
        curl_easy_setopt(c->easy, CURLOPT_CUSTOMREQUEST, streq(method, "POST") ? NULL : method);
    } else {
        curl_easy_setopt(c->easy, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(c->easy, CURLOPT_CUSTOMREQUEST, streq(method, "GET") ? NULL : method);
    }
}

/* Drives the transfer; ERR_CLOSED when the attended descriptor became readable. */
static int run(struct client *c, CURLcode *ret)
{
    int running = 1;

    while (running) {
        struct curl_waitfd extra = {.fd = c->fd, .events = CURL_WAIT_POLLIN};
        CURLMsg *m;
        int left;

        MUST(curl_multi_perform(c->multi, &running) == CURLM_OK);
        while ((m = curl_multi_info_read(c->multi, &left))) {
            *ret = m->msg == CURLMSG_DONE ? m->data.result : *ret;
        }
        if (running) {
            MUST(curl_multi_poll(c->multi, &extra, c->fd >= 0 ? 1 : 0, TICK_MS, NULL) == CURLM_OK);
            if (extra.revents) {
                return ERR_CLOSED;
            }
        }
        if (c->tick) {
            c->tick(c->tick_arg);
        }
    }
    return 0;
}

static int connect_failed(struct client *c, struct err *reterr)
{
    long number = 0;
    char why[CURL_ERROR_SIZE];

    curl_easy_getinfo(c->easy, CURLINFO_OS_ERRNO, &number);
    snprintf(why, sizeof(why), "%s", number ? strerror((int)number) : "no connection");
    if (why[0] >= 'A' && why[0] <= 'Z') {
        why[0] = (char)(why[0] - 'A' + 'a');
    }
    return err_set(reterr, ERR_IO,
                   "cannot reach the manager at %.100s: %.60s; is it running? Set --url or SJE_URL",
                   c->shown, why);
}

/* Says what went wrong in words of ours; the rest in curl's. */
static int failure(struct client *c, const struct call *call, CURLcode rc, struct err *reterr)
{
    const char *url = c->shown;

    if (call->stopped) {
        return err_set(reterr, ERR_CLOSED, "stopped");
    }
    if (call->too_large) {
        return err_set(reterr, ERR_TOO_LARGE, "the answer of %.100s is over the limit of %zu MiB",
                       url, CLIENT_BODY_MAX >> 20);
    }
    if (rc == CURLE_COULDNT_CONNECT) {
        return connect_failed(c, reterr);
    }
    if (rc == CURLE_COULDNT_RESOLVE_HOST) {
        return err_set(reterr, ERR_IO,
                       "cannot reach the manager at %.100s: no such host; set --url or SJE_URL",
                       url);
    }
    if (rc == CURLE_OPERATION_TIMEDOUT) {
        return err_set(reterr, ERR_TIMEOUT, "no answer in time from the manager at %.100s (%.90s)",
                       url, c->text);
    }
    if (rc == CURLE_GOT_NOTHING || rc == CURLE_RECV_ERROR || rc == CURLE_SEND_ERROR ||
        rc == CURLE_PARTIAL_FILE) {
        return err_set(reterr, ERR_IO, "the manager at %.100s broke off the connection", url);
    }
    if (rc == CURLE_UNSUPPORTED_PROTOCOL || rc == CURLE_WEIRD_SERVER_REPLY) {
        return err_set(reterr, ERR_PROTOCOL,
                       "what answers at %.100s speaks no HTTP; is that the manager?", url);
    }
    return err_set(reterr, ERR_IO, "cannot talk to the manager at %.80s: %.120s", url,
                   c->text[0] ? c->text : curl_easy_strerror(rc));
}

/* A task nests deeper in a view than where it was submitted, so the limit here is jansson's. */
static int parse(struct client *c, const struct request *q, struct reply *r, struct err *reterr)
{
    char *text CLEANUP(freep) = xstrndup(r->body.data ? r->body.data : "", r->body.len);
    json_error_t e;

    r->inexact = json_blunt(text, r->body.len);
    r->json = json_loadb(text, r->body.len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (r->inexact && json_is_object(r->json)) {
        struct str output = json_raw_member((struct str){r->body.data, r->body.len}, "output");

        json_object_set_new(r->json, CLIENT_EXACT, json_string_lossy(output.p, output.len));
    }
    if (!r->json && r->status / 100 == 2) {
        return err_set(reterr, ERR_PROTOCOL,
                       "%s %.60s: the answer of %.80s is no JSON; is that the manager?",
                       q->method ? q->method : "GET", q->path, c->shown);
    }
    return 0;
}

int client_call(struct client *c, const struct request *q, struct reply *r, struct err *reterr)
{
    char *url CLEANUP(freep) = xasprintf("%s%s", c->url, q->path);
    struct call call = {.client = c, .request = q, .reply = r};
    struct curl_slist *headers = headers_of(q);
    CURLcode result = CURLE_OK;
    long sent = 0;

    *r = (struct reply){.log_size = -1, .log_offset = -1, .retry_after_s = -1};
    buf_init(&r->body, CLIENT_BODY_MAX);
    c->text[0] = '\0';
    set_request(c, q, &call, url);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, headers);
    MUST(curl_multi_add_handle(c->multi, c->easy) == CURLM_OK);
    int rc = run(c, &result);
    curl_multi_remove_handle(c->multi, c->easy);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);

    curl_easy_getinfo(c->easy, CURLINFO_REQUEST_SIZE, &sent);
    r->sent = sent > 0;
    if (rc < 0) {
        return err_set(reterr, rc, "interrupted");
    }
    if (result != CURLE_OK) {
        return failure(c, &call, result, reterr);
    }
    r->status = (int)status_of(c->easy);
    return q->text && r->status / 100 == 2 ? 0 : parse(c, q, r, reterr);
}
