#include "pkg/worker/orders.h"

#include <stdio.h>
#include <stdlib.h>

#define SLOTS_MAX   1000000
#define KEEP_MAX_MS 10000
#define DEAD_MIN_MS 3000 /* as deadAfterSeconds may be */
#define DEAD_MAX_MS 86400000

static int broken(struct err *reterr, const char *what)
{
    return err_set(reterr, ERR_PARSE, "no good \"%s\" in it", what);
}

static bool read_key(const json_t *j, struct wcore_key *ret)
{
    const char *text = json_get_string(j, "task");
    int64_t n = json_get_int(j, "attempt", 0);

    *ret = (struct wcore_key){.attempt = (int32_t)n};
    return text && id_parse(text, strlen(text), &ret->task) && n >= 1 && n <= INT32_MAX;
}

static int read_keys(const json_t *doc, const char *name, struct order_keys *ret,
                     struct err *reterr)
{
    const json_t *list = json_object_get(doc, name);
    size_t n = json_array_size(list);

    if (n > ORDER_ENTRIES || (list && !json_is_array(list))) {
        return broken(reterr, name);
    }
    ret->keys = xcalloc(n, sizeof(*ret->keys));
    for (; ret->n < n; ret->n++) {
        if (!read_key(json_array_get(list, ret->n), &ret->keys[ret->n])) {
            return broken(reterr, name);
        }
    }
    return 0;
}

/* Only into a manager's queue: nobody may make us write elsewhere. */
static bool is_manager_queue(const char *s)
{
    static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    struct str prefix = STR("sje.manager.");

    return s && str_starts(str_of(s), prefix) && s[prefix.len] && strlen(s) < WCORE_QUEUE_LEN &&
           !s[strspn(s, chars)];
}

static int32_t bounded(double n, double min, double max)
{
    return (int32_t)(n >= min ? MIN(n, max) : min); /* not a number: min */
}

/* As task_from_spec() reads it; for the rest of it run_start() is there. */
static struct wcore_need need_of(const json_t *spec)
{
    const json_t *r = json_object_get(spec, "resources");
    double cpus = json_number_value(json_object_get(r, "cpus"));

    return (struct wcore_need){
        .slots = bounded(json_number_value(json_object_get(r, "slots")), 1, SLOTS_MAX),
        .cpus_milli = bounded(cpus * 1000 + 0.5, 0, INT32_MAX),
        .memory_mb = bounded(json_number_value(json_object_get(r, "memoryMb")), 0, INT32_MAX)};
}

static int32_t count_of(const json_t *j, const char *key)
{
    return (int32_t)MIN(MAX(json_get_int(j, key, 0), 0), INT32_MAX / 2);
}

/* ---- one reader per type ---- */

static int read_grants(struct order *o, struct err *reterr)
{
    const json_t *grants = json_object_get(o->doc, "grants");
    const json_t *denies = json_object_get(o->doc, "denies");
    size_t n_grants = json_array_size(grants);
    size_t n_denies = json_array_size(denies);

    if (n_grants > ORDER_ENTRIES || n_denies > ORDER_ENTRIES) {
        return broken(reterr, "grants or denies");
    }
    o->grants = xcalloc(n_grants, sizeof(*o->grants));
    o->denies = xcalloc(n_denies, sizeof(*o->denies));
    for (; o->n_grants < n_grants; o->n_grants++) {
        const json_t *j = json_array_get(grants, o->n_grants);
        struct order_grant *g = &o->grants[o->n_grants];

        g->returns = count_of(j, "returns");
        g->losses = count_of(j, "losses") + g->returns;
        g->elsewhere = json_get_bool(j, "elsewhere", false);
        g->beat = json_get_int(j, "beat", INT64_MAX); /* absent: a manager of an earlier version */
        g->lease_ms = json_get_int(j, "leaseMs", 0);
        g->spec = json_object_get(j, "spec");
        g->need = need_of(g->spec);
        g->type = json_get_string(g->spec, "jobType");
        if (!read_key(j, &g->key) || !g->spec || g->lease_ms < 1 ||
            g->lease_ms > WCORE_LEASE_MAX_MS ||
            !str_to_i64(str_of(json_get_string(j, "token")), INT64_MIN, INT64_MAX, &g->token)) {
            return broken(reterr, "grants");
        }
    }
    for (; o->n_denies < n_denies; o->n_denies++) {
        const json_t *j = json_array_get(denies, o->n_denies);
        struct order_deny *d = &o->denies[o->n_denies];
        const char *reason = json_get_string(j, "reason");

        if (!read_key(j, &d->key) || !reason) {
            return broken(reterr, "denies");
        }
        d->how = streq(reason, "retry")                                  ? WCORE_DENY_RETRY
                 : streq(reason, "refused") || streq(reason, "outdated") ? WCORE_DENY_NOT_US
                                                                         : WCORE_DENY_DONE;
    }
    return 0;
}

static int read_beat(struct order *o, struct err *reterr)
{
    o->beat = json_get_int(o->doc, "beat", 0);
    return o->beat >= 1 ? 0 : broken(reterr, "beat");
}

static void read_other(struct order *o, const json_t *j)
{
    const char *host = json_get_string(j, "host");

    o->other_host = host ? host : "?";
    o->other_pid = json_get_int(j, "pid", 0);
}

/* Versions before this did not say. */
static int64_t dead_after_of(const json_t *doc)
{
    int64_t ms = json_get_int(doc, "deadAfterMs", 0);

    return ms >= DEAD_MIN_MS && ms <= DEAD_MAX_MS ? ms : 0;
}

static int read_beat_ack(struct order *o, struct err *reterr)
{
    const json_t *refused = json_object_get(o->doc, "refused");
    int rc = read_beat(o, reterr);

    o->drain = json_get_bool(o->doc, "drain", false);
    o->dead_after_ms = dead_after_of(o->doc);
    o->refused = json_is_object(refused);
    read_other(o, refused);
    rc = rc < 0 ? rc : read_keys(o->doc, "unsure", &o->unsure, reterr);
    rc = rc < 0 ? rc : read_keys(o->doc, "revoke", &o->revoke, reterr);
    return rc < 0 ? rc : read_keys(o->doc, "cancel", &o->cancel, reterr);
}

static int read_outdated(struct order *o, struct err *reterr)
{
    o->inc = json_get_int(o->doc, "inc", 0);
    read_other(o, o->doc); /* versions before this did not say */
    return o->inc > 0 ? 0 : broken(reterr, "inc");
}

static int read_revoke(struct order *o, struct err *reterr)
{
    int rc = read_beat(o, reterr);

    return rc < 0 ? rc : read_keys(o->doc, "tasks", &o->revoke, reterr);
}

static int read_cancel(struct order *o, struct err *reterr)
{
    return read_keys(o->doc, "tasks", &o->cancel, reterr);
}

static int read_applied(struct order *o, struct err *reterr)
{
    return read_keys(o->doc, "tasks", &o->applied, reterr);
}

static int read_drain(struct order *o, struct err *reterr)
{
    const json_t *on = json_object_get(o->doc, "on");

    o->drain = json_is_true(on);
    return json_is_boolean(on) ? 0 : broken(reterr, "on");
}

static int read_log(struct order *o, struct err *reterr)
{
    struct order_log *l = &o->log;

    l->stream = json_get_string(o->doc, "stream");
    l->offset = json_get_int(o->doc, "offset", 0);
    l->limit = json_get_int(o->doc, "limit", LOG_LIMIT_MAX);
    l->wait_ms = json_get_int(o->doc, "waitMs", 0);
    l->reply = json_get_string(o->doc, "reply");
    l->rid = json_get_int(o->doc, "rid", -1);
    if (!read_key(o->doc, &l->key) ||
        (!streq(l->stream, "stdout") && !streq(l->stream, "stderr"))) {
        return broken(reterr, "task, attempt or stream");
    }
    if (!is_manager_queue(l->reply) || l->rid < 0 || l->limit < 0 || l->wait_ms < 0) {
        return broken(reterr, "reply, rid, limit or waitMs");
    }
    l->limit = MIN(l->limit, (int64_t)LOG_LIMIT_MAX);
    l->wait_ms = MIN(l->wait_ms, (int64_t)LOG_WAIT_MAX);
    return 0;
}

static int read_hint(struct order *o, struct err *reterr);

static void read_addressee(struct order *o)
{
    const char *uuid = json_get_string(o->doc, "uuid");

    o->addressed = json_object_get(o->doc, "uuid");
    if (uuid && !id_parse(uuid, strlen(uuid), &o->to)) {
        o->to = (struct id){{0}};
    }
}

/* Of others than managers nobody knows the UUID: who may publish into our queue is not believed for
 * that alone. A hint, and a question for a log, change nothing. */
bool order_is_for(const struct order *o, const struct id *uuid)
{
    if (!o->addressed) {
        return o->type == ORDER_HINT || o->type == ORDER_LOG;
    }
    return id_eq(&o->to, uuid);
}

int order_read(struct str body, struct order *o, struct err *reterr)
{
    static const struct {
        const char *name;
        enum order_type type;
        int (*read)(struct order *o, struct err *reterr);
    } types[] = {
        {"grants", ORDER_GRANTS, read_grants},
        {"beat-ack", ORDER_BEAT_ACK, read_beat_ack},
        {"outdated", ORDER_OUTDATED, read_outdated},
        {"applied", ORDER_APPLIED, read_applied},
        {"cancel", ORDER_CANCEL, read_cancel},
        {"revoke", ORDER_REVOKE, read_revoke},
        {"drain", ORDER_DRAIN, read_drain},
        {"log", ORDER_LOG, read_log},
        {"hint", ORDER_HINT, read_hint},
    };

    *o = (struct order){0};
    if (body.len > ORDER_BODY_MAX) {
        return err_set(reterr, ERR_PARSE, "it has %zu bytes", body.len);
    }
    int rc = json_read(body.p, body.len, &o->doc, reterr);
    if (rc < 0) {
        return rc;
    }
    if (json_get_int(o->doc, "v", 0) != 1) {
        return broken(reterr, "v");
    }
    const char *name = json_get_string(o->doc, "type");
    o->url = json_get_string(o->doc, "url");
    read_addressee(o);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (streq(name, types[i].name)) {
            o->type = types[i].type;
            return types[i].read(o, reterr);
        }
    }
    return broken(reterr, "type");
}

void order_free(struct order *o)
{
    free(o->grants);
    free(o->denies);
    free(o->unsure.keys);
    free(o->revoke.keys);
    free(o->cancel.keys);
    free(o->applied.keys);
    free(o->hint);
    json_decref(o->doc);
    *o = (struct order){0};
}

static bool read_hint_task(const json_t *j, struct wcore_hint *ret)
{
    int64_t slots = json_get_int(j, "slots", 0);
    int64_t cpus = json_get_int(j, "cpusMilli", 0);
    int64_t memory = json_get_int(j, "memoryMb", 0);
    size_t i = ret->n++;

    ret->tasks[i].need = (struct wcore_need){(int32_t)slots, (int32_t)cpus, (int32_t)memory};
    ret->tasks[i].rank = json_get_int(j, "rank", 0);
    return read_key(j, &ret->tasks[i].key) && slots >= 1 && slots <= SLOTS_MAX && cpus >= 0 &&
           cpus <= INT32_MAX && memory >= 0 && memory <= INT32_MAX;
}

static void take_type(const json_t *j, const char *key, struct wcore_hint *ret)
{
    const char *type = json_get_string(j, key);

    if (type && strlen(type) < WCORE_TYPE_LEN) {
        memcpy(ret->tasks[ret->n - 1].type, type, strlen(type) + 1);
    }
}

/* One task by itself, or an array of them. */
static bool read_hint_tasks(const json_t *doc, struct wcore_hint *ret)
{
    const json_t *list = json_object_get(doc, "tasks");
    size_t n = json_array_size(list);
    bool good = list ? n > 0 && n <= WCORE_HINT_TASKS : read_hint_task(doc, ret);

    if (good && !list) {
        take_type(doc, "jobType", ret); /* "type" is the message's */
    }
    for (size_t i = 0; good && i < n; i++) {
        good = read_hint_task(json_array_get(list, i), ret);
        take_type(json_array_get(list, i), "type", ret);
    }
    return good;
}

static int take_hint(const json_t *doc, struct wcore_hint *ret, struct err *reterr)
{
    const char *reply = json_get_string(doc, "reply");

    *ret = (struct wcore_hint){0};
    if (!read_hint_tasks(doc, ret)) {
        return broken(reterr, "task, attempt, slots or tasks");
    }
    if (is_manager_queue(reply)) {
        snprintf(ret->manager, sizeof(ret->manager), "%s", reply);
    }
    return 0;
}

static int read_hint(struct order *o, struct err *reterr)
{
    o->hint = xmalloc(sizeof(*o->hint));
    int rc = take_hint(o->doc, o->hint, reterr);
    o->hint->directed = true;
    o->hint->keep_ms =
        MIN(MAX(json_get_int(o->doc, "keepMs", 0), (int64_t)0), (int64_t)KEEP_MAX_MS);
    return rc;
}

int hint_read(struct str body, struct wcore_hint *ret, struct err *reterr)
{
    json_t *parsed = NULL;

    if (body.len > HINT_BODY_MAX) {
        return err_set(reterr, ERR_PARSE, "it has %zu bytes", body.len);
    }
    int rc = json_read(body.p, body.len, &parsed, reterr);
    if (rc < 0) {
        return rc;
    }
    json_auto_t *doc = parsed;
    if (json_get_int(doc, "v", 0) != 1 || !streq(json_get_string(doc, "type"), "hint")) {
        return broken(reterr, "v or type");
    }
    return take_hint(doc, ret, reterr);
}
