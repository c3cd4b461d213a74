#include "pkg/manager/messages.h"

#include "internal/json_exact.h"
#include "internal/str.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define QUEUE_NAME_MAX  200
#define WALL_MS_MAX     253402300799999 /* the end of the year 9999 */
#define HOST_MAX        255
#define VERSION_MAX     64
#define APPLICATION_MAX 256
#define URL_MAX         512
#define REASON_MAX      512
#define HOLD_OFF_MAX    8192 /* as JSON, and HOLD_OFF_ONE for the memory of each entry */
#define HOLD_OFF_ONE    128
#define PROGRESS_MAX    4096  /* as JSON */
#define ERROR_MAX       65536 /* as JSON */

/* ---- reading ---- */

static int broken(struct err *reterr, const char *what)
{
    return err_set(reterr, ERR_PARSE, "message without a good \"%s\"", what);
}

static bool read_ref(const json_t *j, struct id *task, int32_t *attempt)
{
    const char *text = json_get_string(j, "task");
    int64_t n = json_get_int(j, "attempt", 0);

    if (!text || !id_parse(text, strlen(text), task) || n < 1 || n > INT32_MAX) {
        return false;
    }
    *attempt = (int32_t)n;
    return true;
}

static bool read_token(const json_t *j, int64_t *ret)
{
    return str_to_i64(str_of(json_get_string(j, "token")), INT64_MIN, INT64_MAX, ret);
}

/* Part of a queue's name, and printed: only what a node may be called. */
static bool good_name(const char *s, size_t max)
{
    size_t n = s ? strlen(s) : 0;

    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (!alnum && !(i && (c == '.' || c == '_' || c == '-'))) {
            return false;
        }
    }
    return n > 0 && n <= max;
}

/* "worker", "uuid" (absent in messages of earlier versions) and "inc". */
static bool read_who(const json_t *j, struct who *ret)
{
    const char *node = json_get_string(j, "worker");
    const char *uuid = json_get_string(j, "uuid");
    struct id id = {{0}};

    if (!good_name(node, NODE_ID_MAX) || (uuid && !id_parse(uuid, strlen(uuid), &id))) {
        return false;
    }
    *ret = who_of(node, &id, json_get_int(j, "inc", 0));
    return ret->inc > 0;
}

/* NULL where absent or longer than max. */
static const char *member_string(const json_t *j, const char *key, size_t max)
{
    const char *s = json_get_string(j, key);

    return s && strlen(s) <= max ? s : NULL;
}

/* INT64_MIN where absent or a time that no column holds. */
static int64_t member_time(const json_t *j, const char *key)
{
    int64_t ms = json_get_int(j, key, INT64_MIN);

    return ms < 0 || ms > WALL_MS_MAX ? INT64_MIN : ms;
}

static int member_int(const json_t *j, const char *key, int max)
{
    return (int)MIN(MAX(json_get_int(j, key, 0), (int64_t)0), (int64_t)max);
}

/* The array without what is not good. NULL where it is too long. */
static const json_t *member_names(const json_t *j, const char *key, size_t max,
                                  bool (*good)(const char *name))
{
    json_t *list = json_object_get(j, key);

    if (json_array_size(list) > max) {
        return NULL;
    }
    for (size_t i = json_array_size(list); i; i--) {
        const char *name = json_string_value(json_array_get(list, i - 1));

        if (!name || !good(name)) {
            json_array_remove(list, i - 1);
        }
    }
    return list;
}

static bool good_type(const char *name)
{
    return strlen(name) <= TYPE_MAX;
}

static void keep_members(json_t *obj, const char *const *keys, size_t n)
{
    const char *key;
    json_t *v;
    void *tmp;

    json_object_foreach_safe(obj, tmp, key, v)
    {
        bool keep = false;

        for (size_t i = 0; i < n; i++) {
            keep = keep || streq(key, keys[i]);
        }
        if (!keep) {
            json_object_del(obj, key);
        }
    }
}

/* The entries that are good; NULL: none. They are kept, so without what we do not know, and the
 * first ones alone where they are too much. */
static const json_t *hold_off_of(const json_t *j)
{
    json_t *list = json_object_get(j, "holdOff"); /* a text from workers of earlier versions */
    static const char *const known[] = {"type", "reason", "untilMs"};
    size_t room = HOLD_OFF_MAX;

    if (json_array_size(list) > TYPES_MAX) {
        return NULL;
    }
    for (size_t i = 0; i < json_array_size(list);) {
        json_t *one = json_array_get(list, i);
        const json_t *type = json_object_get(one, "type");
        const json_t *until = json_object_get(one, "untilMs");
        bool good = member_string(one, "reason", REASON_MAX) &&
                    (json_is_null(type) || member_string(one, "type", TYPE_MAX)) &&
                    (!until || json_is_null(until) || json_is_integer(until));

        keep_members(one, known, ARRAY_LEN(known));
        size_t size = HOLD_OFF_ONE + json_dumpb(one, NULL, 0, JSON_COMPACT);
        if (good && size <= room) {
            room -= size;
            i++;
        } else {
            json_array_remove(list, i);
        }
    }
    return json_array_size(list) ? list : NULL;
}

static const char *phase_of(const json_t *j)
{
    static const char *const phases[] = {"starting", "running", "stopping", "ended"};
    const char *phase = json_get_string(j, "phase");

    for (size_t i = 0; i < ARRAY_LEN(phases); i++) {
        if (streq(phase, phases[i])) {
            return phases[i];
        }
    }
    return NULL;
}

static const json_t *progress_of(const json_t *j)
{
    const json_t *progress = json_object_get(j, "progress");

    return json_is_object(progress) && json_dumpb(progress, NULL, 0, JSON_COMPACT) <= PROGRESS_MAX
               ? progress
               : NULL;
}

static int read_claim(struct message *m, struct err *reterr)
{
    const json_t *list = json_object_get(m->doc, "claims");
    size_t n = json_array_size(list);
    struct claim_msg *c = &m->claim;

    c->reply = json_get_string(m->doc, "reply");
    c->beat = json_get_int(m->doc, "beat", 0);
    if (!read_who(m->doc, &c->who) || !good_name(c->reply, QUEUE_NAME_MAX) || n > ENTRIES_MAX ||
        c->beat < 0 || c->beat > INT32_MAX) {
        return broken(reterr, "worker, uuid, inc, reply, beat or claims");
    }
    c->claims = xcalloc(n, sizeof(*c->claims));
    for (size_t i = 0; i < n; i++) {
        if (!read_ref(json_array_get(list, i), &c->claims[i].task, &c->claims[i].attempt)) {
            return broken(reterr, "claims");
        }
        c->n++;
    }
    return 0;
}

/* Nothing that a worker says of a task makes a sum run over. */
static int64_t bounded(const json_t *j, const char *key, int64_t fallback)
{
    return MIN(MAX(json_get_int(j, key, fallback), (int64_t)0), (int64_t)1 << 30);
}

static int read_runs(const json_t *list, bool with_token, struct beat_run **ret, size_t *ret_n,
                     struct err *reterr)
{
    size_t n = json_array_size(list);

    if (n > BEAT_RUNS_MAX) {
        return broken(reterr, "running");
    }
    *ret = xcalloc(n, sizeof(**ret));
    for (size_t i = 0; i < n; i++) {
        const json_t *j = json_array_get(list, i);
        struct beat_run *r = &(*ret)[i];

        if (!read_ref(j, &r->task, &r->attempt) || (with_token && !read_token(j, &r->token))) {
            return broken(reterr, with_token ? "running" : "claiming");
        }
        r->phase = phase_of(j);
        r->lease_ms = MIN(MAX(json_get_int(j, "leaseMs", 0), (int64_t)0), LEASE_MS_MAX);
        r->room = (struct room){bounded(j, "slots", 1), bounded(j, "cpusMilli", 0),
                                bounded(j, "memoryMb", 0)};
        r->application_id = member_string(j, "applicationId", APPLICATION_MAX);
        r->ui_url = member_string(j, "uiUrl", URL_MAX);
        r->progress = progress_of(j);
    }
    *ret_n = n;
    return 0;
}

static int read_beat(struct message *m, struct err *reterr)
{
    const json_t *j = m->doc;
    struct beat *b = &m->beat;

    const char *host = member_string(j, "host", HOST_MAX);

    *b = (struct beat){
        .host = host ? host : "",
        .version = member_string(j, "version", VERSION_MAX),
        .reply = json_get_string(j, "reply"),
        .beat = json_get_int(j, "beat", 0),
        .started_at = member_time(j, "startedAt"),
        .heartbeat_ms = member_int(j, "heartbeatMs", 3600000),
        .adapts = json_get_bool(j, "adapts", false),
        .pid = member_int(j, "pid", INT_MAX),
        .slots = member_int(j, "slots", 100000),
        .cpus = member_int(j, "cpus", INT_MAX),
        .memory_mb = member_int(j, "memoryMb", INT_MAX),
        .draining = json_get_bool(j, "draining", false),
        .stopping = json_get_bool(j, "stopping", false),
        .pools = member_names(j, "pools", POOLS_MAX, task_pool_good),
        .job_types = member_names(j, "jobTypes", TYPES_MAX, good_type),
        .hold_off = hold_off_of(j),
    };
    if (!read_who(j, &b->who) || !good_name(b->reply, QUEUE_NAME_MAX) || b->beat < 1) {
        return broken(reterr, "worker, uuid, inc, reply or beat");
    }
    int rc = read_runs(json_object_get(j, "running"), true, &m->running, &b->n_running, reterr);
    if (rc == 0) {
        rc = read_runs(json_object_get(j, "claiming"), false, &m->claiming, &b->n_claiming, reterr);
    }
    b->running = m->running;
    b->claiming = m->claiming;
    return rc;
}

/* JSON text of a member, or NULL where it is absent, null or longer than max. */
static char *member_text(const json_t *j, const char *key, size_t max)
{
    const json_t *v = json_object_get(j, key);

    if (!v || json_is_null(v)) {
        return NULL;
    }
    char *text = json_text(v);
    if (strlen(text) > max) {
        free(text);
        return NULL;
    }
    return text;
}

/* What a tree of JSON does not hold comes as text too. */
static char *output_of(const json_t *j)
{
    const char *text = json_get_string(j, "outputText");
    json_auto_t *tree = NULL;
    bool exact = false;

    if (text && strlen(text) <= TASK_OUTPUT_MAX &&
        json_read_exact(text, strlen(text), &tree, &exact, NULL) == 0) {
        return xstrdup(text);
    }
    return member_text(j, "output", TASK_OUTPUT_MAX * 6); /* JSON may escape each byte */
}

/* Out of memory and crashes may be the task's doing; a plain exit or a time limit is not. */
static char *signature_of(const json_t *error)
{
    const char *kind = json_get_string(error, "kind");
    int64_t sig = json_get_int(error, "signal", 0);

    if (streq(kind, "oom")) {
        return xstrdup("oom");
    }
    if (streq(kind, "killed") && sig > 0) {
        return xasprintf("signal %d", (int)sig);
    }
    return NULL;
}

static int read_results(struct message *m, struct err *reterr)
{
    const json_t *list = json_object_get(m->doc, "results");
    size_t n = json_array_size(list);
    struct result_msg *r = &m->results;

    r->reply = json_get_string(m->doc, "reply");
    if (!read_who(m->doc, &r->who) || !good_name(r->reply, QUEUE_NAME_MAX) || n > ENTRIES_MAX) {
        return broken(reterr, "worker, uuid, inc, reply or results");
    }
    r->results = xcalloc(n, sizeof(*r->results));
    for (size_t i = 0; i < n; i++) {
        const json_t *j = json_array_get(list, i);
        const json_t *error = json_object_get(j, "error");
        struct result_entry *e = &r->results[i];

        r->n++;
        if (!read_ref(j, &e->task, &e->attempt) || !read_token(j, &e->token) ||
            !task_outcome_parse(json_get_string(j, "outcome"), &e->outcome)) {
            return broken(reterr, "results");
        }
        e->error = json_is_object(error) ? member_text(j, "error", ERROR_MAX) : NULL;
        e->signature = signature_of(error);
        e->output = output_of(j);
        e->progress = member_text(j, "progress", PROGRESS_MAX);
        e->warning = member_string(j, "warning", REASON_MAX);
        e->application_id = member_string(j, "applicationId", APPLICATION_MAX);
        e->started_at = member_time(j, "startedAtMs");
    }
    return 0;
}

static int read_finals(struct message *m, struct err *reterr)
{
    const json_t *list = json_object_get(m->doc, "tasks");
    size_t n = json_array_size(list);

    if (n > ENTRIES_MAX) {
        return broken(reterr, "tasks");
    }
    m->from = json_get_string(m->doc, "manager");
    m->finals = xcalloc(n, sizeof(*m->finals));
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));

        if (!text || !id_parse(text, strlen(text), &m->finals[i])) {
            return broken(reterr, "tasks");
        }
        m->n_finals++;
    }
    return 0;
}

static int read_tasks(struct message *m, struct err *reterr)
{
    const json_t *list = json_object_get(m->doc, "tasks");
    size_t n = json_array_size(list);

    if (n > ENTRIES_MAX) {
        return broken(reterr, "tasks");
    }
    m->tasks = xcalloc(n, sizeof(*m->tasks));
    for (; m->n_tasks < n; m->n_tasks++) {
        struct task_ref *r = &m->tasks[m->n_tasks];

        if (!read_ref(json_array_get(list, m->n_tasks), &r->task, &r->attempt)) {
            return broken(reterr, "tasks");
        }
    }
    return 0;
}

static int read_orders(struct message *m, struct err *reterr)
{
    (void)m;
    (void)reterr;
    return 0;
}

static int read_ready(struct message *m, struct err *reterr)
{
    m->pool = json_get_string(m->doc, "pool");
    m->rank = json_get_int(m->doc, "rank", INT64_MIN);
    m->need = (struct need){json_get_string(m->doc, "jobType"),
                            {json_get_int(m->doc, "slots", 0), json_get_int(m->doc, "cpusMilli", 0),
                             json_get_int(m->doc, "memoryMb", 0)}};
    return m->pool ? 0 : broken(reterr, "pool");
}

static int read_due(struct message *m, struct err *reterr)
{
    m->at = member_time(m->doc, "atMs");
    return m->at != INT64_MIN ? 0 : broken(reterr, "atMs");
}

static int read_leader(struct message *m, struct err *reterr)
{
    m->epoch = json_get_int(m->doc, "epoch", 0);
    return m->epoch > 0 ? 0 : broken(reterr, "epoch");
}

static int read_log(struct message *m, struct err *reterr)
{
    const json_t *j = m->doc;

    m->rid = json_get_int(j, "rid", -1);
    m->found = json_get_bool(j, "found", false);
    m->ended = json_get_bool(j, "ended", false);
    m->size = json_get_int(j, "size", 0);
    m->offset = json_get_int(j, "offset", 0);
    return m->rid >= 0 && m->size >= 0 && m->offset >= 0 ? 0
                                                         : broken(reterr, "rid, size or offset");
}

int message_read(struct str body, struct message *m, struct err *reterr)
{
    static const struct {
        const char *name;
        enum message_type type;
        int (*read)(struct message *m, struct err *reterr);
    } types[] = {
        {"claim", MSG_CLAIM, read_claim},
        {"beat", MSG_BEAT, read_beat},
        {"results", MSG_RESULTS, read_results},
        {"ready", MSG_READY, read_ready},
        {"final", MSG_FINAL, read_finals},
        {"granted", MSG_GRANTED, read_tasks},
        {"cancel", MSG_CANCEL, read_tasks},
        {"orders", MSG_ORDERS, read_orders},
        {"log", MSG_LOG, read_log},
        {"leader", MSG_LEADER, read_leader},
        {"due", MSG_DUE, read_due},
    };
    struct str head = body;
    struct str data = {body.p, 0};
    const char *line = body.len ? memchr(body.p, '\n', body.len) : NULL;

    *m = (struct message){0};
    if (line) {
        head.len = (size_t)(line - body.p);
        data = (struct str){line + 1, body.len - head.len - 1};
    }
    if (head.len > TAKEN_MAX || data.len > TAKEN_MAX) {
        return err_set(reterr, ERR_TOO_LARGE, "message of %zu bytes", body.len);
    }
    int rc = json_read(head.p, head.len, &m->doc, reterr);
    if (rc < 0) {
        return rc;
    }
    if (json_get_int(m->doc, "v", 0) != 1) {
        return broken(reterr, "v");
    }
    m->data = data;
    const char *name = json_get_string(m->doc, "type");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (streq(name, types[i].name)) {
            m->type = types[i].type;
            return types[i].read(m, reterr);
        }
    }
    return broken(reterr, "type");
}

void message_free(struct message *m)
{
    for (size_t i = 0; i < m->results.n; i++) {
        struct result_entry *e = &m->results.results[i];

        free(e->error);
        free(e->output);
        free(e->progress);
        free(e->signature);
    }
    free(m->results.results);
    free(m->claim.claims);
    free(m->running);
    free(m->claiming);
    free(m->finals);
    free(m->tasks);
    json_decref(m->doc);
    *m = (struct message){0};
}

/* ---- writing ---- */

static void ref_write(struct buf *b, const struct id *task, int32_t attempt)
{
    char text[ID_TEXT_LEN];

    id_format(task, text);
    buf_addf(b, "\"task\":\"%s\",\"attempt\":%d", text, attempt);
}

/* ---- hints ---- */

size_t hint_task_size(const struct hint_task *t)
{
    return HINT_TASK_SIZE +
           MIN(strlen(t->need.type), (size_t)TYPE_MAX) * 6; /* where all is escaped */
}

/* Nearly every name is plain: then it needs no library. */
static void add_type(struct buf *b, const char *type, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = type[i];

        if (c < ' ' || c > '~' || c == '"' || c == '\\') {
            json_add_string(b, type, len);
            return;
        }
    }
    buf_addc(b, '"');
    buf_add(b, type, len);
    buf_addc(b, '"');
}

static void hint_task_write(struct buf *b, const struct hint_task *t)
{
    size_t len = strlen(t->need.type);

    ref_write(b, &t->id, t->attempt);
    buf_addf(b, ",\"slots\":%lld,\"rank\":%lld", (long long)t->need.room.slots, (long long)t->rank);
    if (len && len <= TYPE_MAX) {
        buf_adds(b, ",\"type\":");
        add_type(b, t->need.type, len);
    }
    if (t->need.room.cpus_milli) {
        buf_addf(b, ",\"cpusMilli\":%lld", (long long)t->need.room.cpus_milli);
    }
    if (t->need.room.memory_mb) {
        buf_addf(b, ",\"memoryMb\":%lld", (long long)t->need.room.memory_mb);
    }
}

void hint_write(struct buf *b, char message_id[HINT_ID_LEN], const struct hint_task *tasks,
                size_t n, const char *reply, int keep_ms)
{
    char text[ID_TEXT_LEN];

    MUST(n > 0 && n <= HINT_TASKS);
    buf_addf(b, "{\"v\":1,\"type\":\"hint\",\"reply\":\"%s\"", reply);
    if (keep_ms) {
        buf_addf(b, ",\"keepMs\":%d", keep_ms);
    }
    buf_adds(b, ",\"tasks\":[");
    for (size_t i = 0; i < n; i++) {
        buf_adds(b, i ? "},{" : "{");
        hint_task_write(b, &tasks[i]);
    }
    buf_adds(b, "}]}");
    MUST(!b->failed);
    id_format(&tasks[0].id, text);
    snprintf(message_id, HINT_ID_LEN, "%s:%d", text, tasks[0].attempt);
}

void ready_write(struct buf *b, const struct task *row, bool need)
{
    buf_addf(b, "{\"v\":1,\"type\":\"ready\",\"pool\":\"%s\",\"rank\":%lld", row->pool,
             (long long)row->rank);
    if (need && row->job_type) {
        buf_adds(b, ",\"jobType\":");
        add_type(b, row->job_type, strlen(row->job_type));
        buf_addf(b, ",\"slots\":%d,\"cpusMilli\":%d,\"memoryMb\":%d", row->slots, row->cpus_milli,
                 row->memory_mb);
    }
    buf_addc(b, '}');
}

void addressee_write(struct buf *b, const struct who *to)
{
    char uuid[ID_TEXT_LEN];

    id_format(&to->uuid, uuid);
    buf_addf(b, who_has_uuid(to) ? ",\"uuid\":\"%s\"" : ",\"uuid\":null", uuid);
}

void answer_begin(struct buf *b, const char *type, const char *manager, const char *url,
                  const struct who *to)
{
    buf_addf(b, "{\"v\":1,\"type\":\"%s\",\"manager\":\"%s\"", type, manager);
    if (*url) {
        buf_adds(b, ",\"url\":");
        json_add_string(b, url, strlen(url));
    }
    if (to) {
        addressee_write(b, to);
    }
}

void grants_begin(struct buf *b, const char *manager, const char *url, const struct who *to)
{
    answer_begin(b, "grants", manager, url, to);
    buf_adds(b, ",\"grants\":[");
}

void grants_add(struct buf *b, bool first, const struct task *row, int64_t lease_ms, bool elsewhere)
{
    buf_adds(b, first ? "{" : ",{");
    ref_write(b, &row->id, row->attempt);
    buf_addf(b, ",\"token\":\"%lld\",\"beat\":%d,\"leaseMs\":%lld", (long long)row->token,
             row->claim_beat, (long long)lease_ms);
    if (row->losses) {
        buf_addf(b, ",\"losses\":%d", row->losses);
    }
    if (row->returns) {
        buf_addf(b, ",\"returns\":%d", row->returns);
    }
    buf_adds(b, elsewhere ? ",\"elsewhere\":true,\"spec\":" : ",\"spec\":");
    buf_adds(b, row->spec);
    buf_addc(b, '}');
}

void grants_denies(struct buf *b)
{
    buf_adds(b, "],\"denies\":[");
}

void deny_add(struct buf *b, bool first, const struct id *task, int32_t attempt, const char *reason)
{
    buf_adds(b, first ? "{" : ",{");
    ref_write(b, task, attempt);
    buf_addf(b, ",\"reason\":\"%s\"}", reason);
}

void grants_end(struct buf *b)
{
    buf_adds(b, "]}");
}

void refs_write(struct buf *b, const struct task_ref *refs, size_t n)
{
    buf_addc(b, '[');
    for (size_t i = 0; i < n; i++) {
        buf_adds(b, i ? ",{" : "{");
        ref_write(b, &refs[i].task, refs[i].attempt);
        buf_addc(b, '}');
    }
    buf_addc(b, ']');
}

void tasks_write(struct buf *b, const char *type, const struct who *to, const struct task_ref *refs,
                 size_t n)
{
    buf_addf(b, "{\"v\":1,\"type\":\"%s\"", type);
    if (to) {
        addressee_write(b, to);
    }
    buf_adds(b, ",\"tasks\":");
    refs_write(b, refs, n);
    buf_addc(b, '}');
}

void finals_write(struct buf *b, const char *manager, const struct id *ids, size_t n)
{
    buf_addf(b, "{\"v\":1,\"type\":\"final\",\"manager\":\"%s\",\"tasks\":[", manager);
    for (size_t i = 0; i < n; i++) {
        char text[ID_TEXT_LEN];

        id_format(&ids[i], text);
        buf_addf(b, "%s\"%s\"", i ? "," : "", text);
    }
    buf_adds(b, "]}");
}
