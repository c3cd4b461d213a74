#include "pkg/worker/detour.h"

#include "internal/buf.h"
#include "internal/httpc.h"
#include "internal/log.h"
#include "pkg/executors/shimdir.h"
#include "pkg/worker/orders.h"
#include "pkg/worker/reports.h"

#include <stdlib.h>

#define FILE_NAME "managers"
#define OUTDATED  "\"type\":\"outdated\""
#define FILE_MAX  (DETOUR_URLS_MAX * (DETOUR_URL_MAX + 1))

struct detour {
    struct detour_options o;
    char *dir;
    char *token;
    struct httpc *http;
    char *urls[DETOUR_URLS_MAX]; /* the configured ones, then those learnt, oldest first */
    int n;
    int configured;
    int at;    /* who is asked */
    int tries; /* of the present beat */
    int64_t timeout_ms;
    bool under_way;
    enum { UNTOLD, GOOD, BAD } told; /* what the log says */
    struct {
        struct lane_job job;
        bool under_way;
        bool again; /* another one was learnt meanwhile */
        struct buf text;
        int rc;
        struct err why;
    } save;
    bool http_closed;
    struct buf now;
    struct buf next; /* empty: none waits */
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* ---- who can be asked ---- */

static bool is_url(struct str s)
{
    return s.len < DETOUR_URL_MAX && !memchr(s.p, '\n', s.len) &&
           (str_starts(s, STR("http://")) || str_starts(s, STR("https://")));
}

static bool is_known(const struct detour *d, struct str url)
{
    for (int i = 0; i < d->n; i++) {
        if (str_eq(str_of(d->urls[i]), url)) {
            return true;
        }
    }
    return false;
}

/* The one that was learnt first gives way. */
static bool add(struct detour *d, struct str url)
{
    if (!is_url(url) || is_known(d, url)) {
        return false;
    }
    if (d->n == DETOUR_URLS_MAX) {
        if (d->configured == d->n) {
            return false;
        }
        free(d->urls[d->configured]);
        d->n--;
        memmove(&d->urls[d->configured], &d->urls[d->configured + 1],
                (size_t)(d->n - d->configured) * sizeof(*d->urls));
    }
    d->urls[d->n++] = xstrndup(url.p, url.len);
    return true;
}

static void add_list(struct detour *d, struct str list, char separator)
{
    while (list.len) {
        add(d, str_trim(str_cut(list, separator, &list)));
    }
}

static void load(struct detour *d)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, FILE_MAX);
    if (shimdir_read_file(d->dir, FILE_NAME, &b, NULL) == 0 && b.len) {
        add_list(d, (struct str){b.data, b.len}, '\n');
    }
}

static void save(struct detour *d);
static void free_if_closed(struct detour *d);

static void write_down(struct lane_job *j)
{
    struct detour *d = CONTAINER_OF(j, struct detour, save.job);

    d->save.rc =
        shimdir_write_file(d->dir, FILE_NAME, d->save.text.data, d->save.text.len, &d->save.why);
}

static void on_written(struct lane_job *j)
{
    struct detour *d = CONTAINER_OF(j, struct detour, save.job);

    buf_free(&d->save.text);
    d->save.under_way = false;
    if (d->save.rc < 0) {
        log_warn(NULL, "%s; after a restart the managers are found through the broker alone",
                 d->save.why.text);
    }
    if (d->save.again) {
        save(d);
    }
    free_if_closed(d);
}

static void save(struct detour *d)
{
    d->save.again = d->save.under_way;
    if (d->save.under_way) {
        return;
    }
    d->save.under_way = true;
    buf_init(&d->save.text, FILE_MAX);
    buf_adds(&d->save.text, "");
    for (int i = d->configured; i < d->n; i++) {
        buf_addf(&d->save.text, "%s\n", d->urls[i]);
    }
    d->save.job = (struct lane_job){.work = write_down, .done = on_written};
    lane_do(d->o.lane, &d->save.job);
}

void detour_learn(struct detour *d, const char *url)
{
    if (url && add(d, str_of(url))) {
        log_debug(NULL, "a manager can be reached at %s", url);
        save(d);
    }
}

/* ---- beats ---- */

static void start(struct detour *d);

static void send_next(struct detour *d)
{
    if (d->next.len) {
        buf_reset(&d->now);
        buf_add(&d->now, d->next.data, d->next.len);
        buf_reset(&d->next);
        d->tries = 0;
        start(d);
    }
}

static void tell_good(struct detour *d)
{
    if (d->told != GOOD) {
        log_info(NULL, "the manager at %s takes beats over HTTP", d->urls[d->at]);
    }
    d->told = GOOD;
}

static void try_next(struct detour *d)
{
    d->at = (d->at + 1) % d->n;
    if (d->next.len) {
        send_next(d);
    } else if (d->tries < d->n) {
        start(d);
    } else {
        if (d->told != BAD) {
            log_warn(NULL, "no manager takes beats over HTTP either; leases are not renewed");
        }
        d->told = BAD;
    }
}

/* 409: a later beat of ours came there first, by the broker; or we are outdated, and its body says
 * so. */
static void on_reply(void *arg, int rc, int status, struct str body, const struct err *why)
{
    struct detour *d = arg;

    d->under_way = false;
    if (rc == 0 && status == 409 && body.len &&
        memmem(body.p, body.len, OUTDATED, strlen(OUTDATED))) {
        (void)d->o.on_answer(d->o.arg, body);
    }
    if (rc == 0 && (status == 409 || (status == 200 && d->o.on_answer(d->o.arg, body)))) {
        tell_good(d);
        send_next(d);
    } else {
        log_debug(NULL, "the manager at %s does not take a beat: %s %d", d->urls[d->at],
                  rc < 0 ? why->text : "status", status);
        try_next(d);
    }
}

static void start(struct detour *d)
{
    struct err e = {0};
    int rc = -1;

    while (rc < 0 && d->tries < d->n) {
        char *url CLEANUP(freep) = NULL;
        struct str base = str_of(d->urls[d->at]);

        while (base.len && base.p[base.len - 1] == '/') {
            base.len--;
        }
        url = xasprintf("%.*s/internal/beat", (int)base.len, base.p);
        struct httpc_request r = {.url = url,
                                  .body = {d->now.data, d->now.len},
                                  .bearer = d->token,
                                  .max = ORDER_BODY_MAX,
                                  .timeout_ms = d->timeout_ms,
                                  .fn = on_reply,
                                  .arg = d};
        d->tries++;
        rc = httpc_call(d->http, &r, &e);
        if (rc < 0) {
            log_debug(NULL, "%s", e.text);
            d->at = (d->at + 1) % d->n;
        }
    }
    d->under_way = rc == 0;
}

int detour_send(struct detour *d, struct str body, int64_t timeout_ms)
{
    if (d->n == 0) {
        return ERR_NOT_FOUND;
    }
    d->timeout_ms = timeout_ms;
    buf_reset(&d->next);
    buf_add(&d->next, body.p, body.len);
    if (!d->under_way) {
        send_next(d);
    }
    return 0;
}

/* ---- open, close ---- */

struct detour *detour_open(uv_loop_t *loop, const struct detour_options *o)
{
    struct detour *d = xcalloc(1, sizeof(*d));

    d->o = *o;
    d->dir = xstrdup(o->dir);
    d->token = xstrdup(o->token);
    d->http = httpc_open(loop);
    buf_init(&d->now, 2 * REPORT_MAX);
    buf_init(&d->next, 2 * REPORT_MAX);
    add_list(d, str_of(o->urls), ',');
    d->configured = d->n;
    load(d);
    d->o.urls = d->o.dir = NULL;
    return d;
}

static void free_if_closed(struct detour *d)
{
    void (*on_closed)(void *arg2) = d->on_closed;
    void *closed_arg = d->closed_arg;

    if (!d->http_closed || d->save.under_way) {
        return;
    }
    for (int i = 0; i < d->n; i++) {
        free(d->urls[i]);
    }
    buf_free(&d->now);
    buf_free(&d->next);
    free(d->dir);
    free(d->token);
    free(d);
    if (on_closed) {
        on_closed(closed_arg);
    }
}

static void on_http_closed(void *arg)
{
    struct detour *d = arg;

    d->http_closed = true;
    free_if_closed(d);
}

void detour_close(struct detour *d, void (*on_closed)(void *arg), void *arg)
{
    d->on_closed = on_closed;
    d->closed_arg = arg;
    httpc_close(d->http, on_http_closed, d);
}
