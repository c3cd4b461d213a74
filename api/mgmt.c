/* Health, metrics, the cluster, and the beats of workers that cannot reach the broker. */
#include "api/call.h"
#include "internal/metrics.h"

#include <stdlib.h>

/* ---- health and metrics ---- */

void api_health(struct call *c)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    call_json(c, manager_health(c->api->manager, &b) ? 200 : 500, &b);
}

/* Requests can be served, and tasks accepted, while only the broker is away. */
void api_health_ready(struct call *c)
{
    struct buf b CLEANUP(buf_free);
    json_auto_t *j = NULL;

    buf_init(&b, API_REPLY_MAX);
    (void)manager_health(c->api->manager, &b);
    MUST(json_read(b.data, b.len, &j, NULL) == 0);
    const char *status = json_get_string(json_object_get(j, "database"), "status");
    call_json(c, streq(status, "up") ? 200 : 503, &b);
}

/* The loop turns: that is all that it says. */
void api_health_live(struct call *c)
{
    call_reply(c, 200, NULL, STR("{\"status\":\"up\"}"), NULL, 0);
}

void api_metrics(struct call *c)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    manager_metrics(c->api->manager);
    metrics_write(&b);
    call_reply(c, 200, METRICS_CONTENT_TYPE, (struct str){b.data, b.len}, NULL, 0);
}

/* ---- the cluster ---- */

static void answer_with(struct call *c, void (*write)(struct manager *m, struct buf *out))
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    write(c->api->manager, &b);
    call_json(c, 200, &b);
}

void api_mgmt_status(struct call *c)
{
    answer_with(c, manager_status);
}

void api_mgmt_workers(struct call *c)
{
    answer_with(c, manager_workers);
}

void api_mgmt_config(struct call *c)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    config_json(c->api->config, &b);
    call_json(c, 200, &b);
}

void api_mgmt_worker(struct call *c)
{
    struct buf b CLEANUP(buf_free);
    struct err why = {0};

    buf_init(&b, API_REPLY_MAX);
    int rc = manager_worker(c->api->manager, c->name, &b, &why);
    if (rc < 0) {
        call_error(c, rc, &why);
    } else {
        call_json(c, 200, &b);
    }
}

static void on_drained(void *arg, int rc, const struct err *why)
{
    if (rc < 0) {
        call_error(arg, rc, why);
    } else {
        api_mgmt_worker(arg);
    }
}

void api_mgmt_drain(struct call *c)
{
    manager_drain(c->api->manager, c->name, true, on_drained, c);
}

void api_mgmt_undrain(struct call *c)
{
    manager_drain(c->api->manager, c->name, false, on_drained, c);
}

/* ---- queues ---- */

static void on_queues(void *arg, int rc, struct str json, const struct err *why)
{
    if (rc < 0) {
        call_error(arg, rc, why);
    } else {
        call_reply(arg, 200, NULL, json, NULL, 0);
    }
}

void api_mgmt_queues(struct call *c)
{
    manager_queues(c->api->manager, on_queues, c);
}

/* It is done all the same: the pool may be there later. */
static void warn_unserved(struct call *c, struct buf *b)
{
    struct buf why CLEANUP(buf_free) = {0};

    buf_init(&why, API_REPLY_MAX);
    if (manager_pool_unserved(c->api->manager, c->name, &why)) {
        buf_adds(b, ",\"warnings\":[");
        json_add_string(b, why.data, why.len);
        buf_addc(b, ']');
    }
}

static void answer_pause(struct call *c, int rc, const struct err *why, bool on)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, API_REPLY_MAX);
    if (rc < 0) {
        call_error(c, rc, why);
        return;
    }
    buf_adds(&b, "{\"pool\":");
    json_add_string(&b, c->name, strlen(c->name));
    buf_addf(&b, ",\"paused\":%s", on ? "true" : "false");
    warn_unserved(c, &b);
    buf_addc(&b, '}');
    call_json(c, 200, &b);
}

static void on_paused(void *arg, int rc, const struct err *why)
{
    answer_pause(arg, rc, why, true);
}

static void on_unpaused(void *arg, int rc, const struct err *why)
{
    answer_pause(arg, rc, why, false);
}

static bool pool_valid(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return s[n] == '\0' && n >= 1 && n <= 63 && s[0] != '-';
}

static void pause_pool(struct call *c, bool on)
{
    if (!pool_valid(c->name)) {
        call_problem(c, 404, "no such pool");
        return;
    }
    manager_pause(c->api->manager, c->name, on, on ? on_paused : on_unpaused, c);
}

void api_mgmt_pause(struct call *c)
{
    pause_pool(c, true);
}

void api_mgmt_unpause(struct call *c)
{
    pause_pool(c, false);
}

/* ---- workers ---- */

/* In a time that does not tell how much of it is right. */
static bool same_secret(struct str a, struct str b)
{
    unsigned differs = a.len != b.len;

    for (size_t i = 0; i < a.len && b.len; i++) {
        differs |= (unsigned)(a.p[i] ^ b.p[i % b.len]);
    }
    return !differs;
}

static bool shows_token(const struct call *c)
{
    const struct str scheme = STR("Bearer ");
    const char *shown = http_header(c->request, "Authorization");
    struct str token = str_of(c->api->config->api.beat_token);
    struct str s = str_of(shown ? shown : "");

    return token.len == 0 ||
           (str_starts(s, scheme) &&
            same_secret((struct str){s.p + scheme.len, s.len - scheme.len}, token));
}

void api_beat(struct call *c)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct err why = {0};

    if (!shows_token(c)) {
        call_problem(c, 403, "apiConfig.beatToken of worker and manager must be the same");
        return;
    }
    buf_init(&b, API_REPLY_MAX);
    int rc = manager_beat_http(c->api->manager, http_body(c->request), &b, &why);
    if (rc < 0 && (rc != ERR_CONFLICT || b.len == 0)) {
        call_error(c, rc, &why);
    } else {
        call_json(c, rc < 0 ? 409 : 200, &b); /* 409: what it is to know */
    }
}
