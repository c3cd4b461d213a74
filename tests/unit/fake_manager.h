/* fake_manager.h: a manager that answers what the test says, in place of the real one. */
#ifndef SJE_TEST_FAKE_MANAGER_H
#define SJE_TEST_FAKE_MANAGER_H

#include "api/api.h"
#include "internal/clock.h"
#include "pkg/manager/manager.h"
#include "tests/unit/http_client.h"

struct fake_call; /* one that waits for fake_release() */
typedef void fake_run_fn(struct fake_call *f);
struct fake_call {
    fake_run_fn *run;
    task_fn *task_cb;
    accept_done_fn *accept_cb;
    log_fn *log_cb;
    struct log_request log;
    void *arg;
    bool used;
};

static struct {
    int rc;    /* of every answer */
    bool hold; /* answer only at fake_release() */
    bool database_up;
    bool pool_unserved;
    int dead_after_least;
    bool broker_up;
    struct fake_call waiting[16];
    int n_cancelled_waits;
    int64_t wait_ms;
    struct task task; /* what get, wait, cancel, requeue answer */
    struct task list[3];
    size_t n_list;
    bool more;
    struct list_filter filter; /* the last one; its strings are gone */
    char filter_text[256];
    struct id id; /* of the last call that named a task */
    size_t n_accepted;
    struct task *rows; /* of the last request; owned */
    size_t n_rows;
    char key[600];
    uint8_t hash[32];
    uint8_t json_hash[32];
    char specs[4096]; /* JSON of the last accepted, each followed by a line feed */
    struct id ids[3];
    struct task_event_row events[2];
    size_t n_events;
    char name[128]; /* of the last worker or pool */
    bool on;
    char body[256];
    const char *logs[4]; /* by attempt; [0]: none has run */
    int64_t log_dropped; /* bytes missing from offset 4 on */
    bool log_ended;
    int n_logs;
    bool log_hold; /* hold questions that may wait and have no data */
    bool log_empty_first;
    json_t *settings;
} fake;

static inline struct fake_call *fake_hold(fake_run_fn *run, void *arg)
{
    for (size_t i = 0; i < ARRAY_LEN(fake.waiting); i++) {
        struct fake_call *f = &fake.waiting[i];

        if (!f->used) {
            *f = (struct fake_call){.run = run, .arg = arg, .used = true};
            return f;
        }
    }
    UNREACHABLE("too many held calls");
}

static inline void fake_release(void)
{
    for (size_t i = 0; i < ARRAY_LEN(fake.waiting); i++) {
        struct fake_call f = fake.waiting[i];

        fake.waiting[i].used = false;
        if (f.used) {
            f.run(&f);
        }
    }
}

static inline int fake_held(void)
{
    int n = 0;

    for (size_t i = 0; i < ARRAY_LEN(fake.waiting); i++) {
        n += fake.waiting[i].used;
    }
    return n;
}

static struct err fake_why = {ERR_DB_DOWN, "the fake manager says so"};

/* ---- accept ---- */

static inline void fake_answer_accept(struct fake_call *f)
{
    struct id *ids CLEANUP(freep) = xcalloc(fake.n_accepted + 1, sizeof(struct id));
    struct accept_reply reply = {
        .rc = fake.rc, .tasks = ids, .rows = fake.rows, .count = fake.n_accepted};

    for (size_t i = 0; i < fake.n_accepted; i++) {
        ids[i] = id_new();
        if (i < ARRAY_LEN(fake.ids)) {
            fake.ids[i] = ids[i];
        }
    }
    reply.why = fake_why;
    f->accept_cb(f->arg, &reply);
}

void manager_row(const struct manager *m, const struct task_spec *s, struct task *ret)
{
    (void)m;
    task_from_spec(ret, s, 0);
}

static inline void fake_drop_rows(void)
{
    for (size_t i = 0; fake.rows && i < fake.n_rows; i++) {
        task_done(&fake.rows[i]);
    }
    free(fake.rows);
    fake.rows = NULL;
}

void manager_accept(struct manager *m, struct accept_request *r, accept_done_fn *cb, void *arg)
{
    struct fake_call f = {.run = fake_answer_accept, .accept_cb = cb, .arg = arg};
    struct buf b CLEANUP(buf_free);

    (void)m;
    buf_init(&b, sizeof(fake.specs) - 1);
    fake.n_accepted = r->count;
    snprintf(fake.key, sizeof(fake.key), "%s", r->idempotency_key ? r->idempotency_key : "");
    memcpy(fake.hash, r->hash.bytes, sizeof(fake.hash));
    memcpy(fake.json_hash, r->hash.json, sizeof(fake.json_hash));
    for (size_t i = 0; i < r->count; i++) {
        if (b.len < 1024) {
            buf_addf(&b, "%s\n", r->rows[i].spec);
        }
    }
    fake_drop_rows();
    fake.rows = r->rows;
    fake.n_rows = r->count;
    memcpy(fake.specs, b.data, b.len + 1);
    if (fake.hold) {
        fake_hold(f.run, arg)->accept_cb = cb;
    } else {
        f.run(&f);
    }
}

/* ---- look and change ---- */

static inline void fake_answer_task(struct fake_call *f)
{
    f->task_cb(f->arg, fake.rc, fake.rc == 0 || fake.rc == ERR_CONFLICT ? &fake.task : NULL,
               &fake_why);
}

static inline struct fake_call *fake_task_call(const struct id *id, task_fn *cb, void *arg)
{
    struct fake_call f = {.run = fake_answer_task, .task_cb = cb, .arg = arg};

    fake.id = *id;
    if (fake.hold) {
        struct fake_call *held = fake_hold(f.run, arg);

        held->task_cb = cb;
        return held;
    }
    f.run(&f);
    return NULL;
}

void manager_get(struct manager *m, const struct id *id, task_fn *cb, void *arg)
{
    (void)m;
    fake_task_call(id, cb, arg);
}

struct waiter *manager_wait(struct manager *m, const struct id *id, int64_t wait_ms, task_fn *cb,
                            void *arg)
{
    (void)m;
    fake.wait_ms = wait_ms;
    return (struct waiter *)fake_task_call(id, cb, arg);
}

void manager_wait_cancel(struct waiter *w)
{
    ((struct fake_call *)w)->used = false;
    fake.n_cancelled_waits++;
}

void manager_cancel(struct manager *m, const struct id *id, task_fn *cb, void *arg)
{
    (void)m;
    fake_task_call(id, cb, arg);
}

bool manager_waiting_for(struct manager *m, const struct task *t, struct waiting_for *ret)
{
    (void)m;
    (void)t;
    (void)ret;
    return false;
}

const char *manager_not_told(struct manager *m, const struct task *t, char why[MANAGER_WHY_LEN])
{
    (void)m;
    (void)t;
    (void)why;
    return NULL;
}

void manager_requeue(struct manager *m, const struct id *id, task_fn *cb, void *arg)
{
    (void)m;
    fake_task_call(id, cb, arg);
}

void manager_list(struct manager *m, const struct list_filter *f, tasks_fn *cb, void *arg)
{
    char after[ID_TEXT_LEN] = "-";

    (void)m;
    if (f->after) {
        id_format(f->after, after);
    }
    snprintf(fake.filter_text, sizeof(fake.filter_text), "%s|%s|%s|%s|%d",
             f->state ? f->state : "-", f->job_id ? f->job_id : "-",
             f->job_type ? f->job_type : "-", after, f->limit);
    cb(arg, fake.rc, fake.list, fake.n_list, fake.more, &fake_why);
}

void manager_events(struct manager *m, const struct id *id, events_fn *cb, void *arg)
{
    (void)m;
    fake.id = *id;
    cb(arg, fake.rc, fake.events, fake.n_events, &fake_why);
}

void manager_drain(struct manager *m, const char *worker_id, bool on, order_fn *cb, void *arg)
{
    (void)m;
    snprintf(fake.name, sizeof(fake.name), "%s", worker_id);
    fake.on = on;
    cb(arg, fake.rc, &fake_why);
}

void manager_pause(struct manager *m, const char *pool, bool on, order_fn *cb, void *arg)
{
    (void)m;
    snprintf(fake.name, sizeof(fake.name), "%s", pool);
    fake.on = on;
    cb(arg, fake.rc, &fake_why);
}

bool manager_pool_unserved(const struct manager *m, const char *pool, struct buf *why)
{
    (void)m;
    if (fake.pool_unserved) {
        buf_addf(why, "nobody serves \"%s\"", pool);
    }
    return fake.pool_unserved;
}

const json_t *manager_settings(const struct manager *m)
{
    (void)m;
    return fake.settings;
}

void manager_change_settings(struct manager *m, const json_t *all, const json_t *audit,
                             order_fn *cb, void *arg)
{
    char *text CLEANUP(freep) = json_text(all);
    char *shown CLEANUP(freep) = json_text(audit);

    (void)m;
    snprintf(fake.body, sizeof(fake.body), "%s %s", text, shown);
    cb(arg, fake.rc, &fake_why);
}

/* ---- logs ---- */

static inline void fake_answer_log(struct fake_call *f)
{
    const char *text = f->log.attempt < 4 ? fake.logs[f->log.attempt] : NULL;
    int attempt = f->log.attempt;

    if (attempt == 0 && fake.logs[1]) { /* the latest that has run */
        attempt = fake.logs[3] ? 3 : fake.logs[2] ? 2 : 1;
        text = fake.logs[attempt];
    }
    struct log_part part = {.attempt = text ? attempt : 0, .ended = fake.log_ended};
    if (text) {
        int64_t size = (int64_t)strlen(text);
        int64_t from = f->log.offset < 0 ? MAX(size + f->log.offset, (int64_t)0) : f->log.offset;

        from = from >= 4 && from < 4 + fake.log_dropped ? 4 + fake.log_dropped : from;
        from = MIN(from, size);
        part.size = size;
        part.offset = from;
        part.data = (struct str){text + from, (size_t)MIN(size - from, f->log.limit)};
        if (fake.log_dropped && from < 4) {
            part.data.len = MIN(part.data.len, (size_t)(4 - from));
        }
    }
    f->log_cb(f->arg, fake.rc, fake.rc < 0 ? NULL : &part, &fake_why);
}

void manager_log(struct manager *m, const struct log_request *r, log_fn *cb, void *arg)
{
    struct fake_call f = {.run = fake_answer_log, .log_cb = cb, .log = *r, .arg = arg};

    (void)m;
    fake.id = r->id;
    fake.n_logs++;
    snprintf(fake.name, sizeof(fake.name), "%s", r->stderr_stream ? "stderr" : "stdout");
    if (fake.hold || (fake.log_hold && r->wait_ms)) {
        struct fake_call *held = fake_hold(f.run, arg);

        held->log_cb = cb;
        held->log = *r;
    } else {
        f.run(&f);
    }
}

/* ---- the cluster ---- */

bool manager_health(struct manager *m, struct buf *out)
{
    bool up = fake.database_up && fake.broker_up;

    (void)m;
    buf_addf(out, "{\"status\":\"%s\",\"database\":{\"status\":\"%s\"}}", up ? "up" : "down",
             fake.database_up ? "up" : "down");
    return up;
}

int manager_check_dead_after(const struct manager *m, int seconds, struct err *reterr)
{
    (void)m;
    return seconds < fake.dead_after_least
               ? err_set(reterr, ERR_INVALID,
                         "executorNodeConfig.deadAfterSeconds: allowed is at least %d",
                         fake.dead_after_least)
               : 0;
}

void manager_status(struct manager *m, struct buf *out)
{
    (void)m;
    buf_adds(out, "{\"leader\":true}");
}

void manager_workers(struct manager *m, struct buf *out)
{
    (void)m;
    buf_adds(out, "{\"workers\":[]}");
}

int manager_worker(struct manager *m, const char *id, struct buf *out, struct err *reterr)
{
    (void)m;
    snprintf(fake.name, sizeof(fake.name), "%s", id);
    buf_adds(out, "{\"workerId\":\"w\"}");
    return fake.rc < 0 ? err_set(reterr, fake.rc, "no such worker") : 0;
}

void manager_queues(struct manager *m, json_fn *cb, void *arg)
{
    (void)m;
    cb(arg, fake.rc, STR("{\"queues\":[]}"), &fake_why);
}

void manager_metrics(struct manager *m)
{
    (void)m;
}

int manager_beat_http(struct manager *m, struct str b, struct buf *out, struct err *reterr)
{
    (void)m;
    snprintf(fake.body, sizeof(fake.body), "%.*s", (int)b.len, b.p);
    buf_adds(out, "{\"type\":\"beat-ack\"}");
    return fake.rc < 0 ? err_set(reterr, fake.rc, "not the leader") : 0;
}

/* ---- the API over it ---- */

static const char *const fake_type_names[] = {JOB_SPARK, JOB_COMMAND, JOB_NOOP, NULL};
static const struct task_types fake_types = {fake_type_names};
static struct config fake_config;
static char fake_bind[] = "127.0.0.1";
static char fake_token[32];
static struct api *api;

static inline void on_api_stopped(void *arg)
{
    (void)arg;
    api = NULL;
}

static inline int api_setup(void **state)
{
    struct err why = {0};

    (void)state;
    fake_drop_rows();
    memset(&fake, 0, sizeof(fake));
    fake.database_up = fake.broker_up = true;
    fake.task = (struct task){
        .state = TASK_READY,
        .attempt = 1,
        .max_attempts = 1,
        .priority = 5,
        .started_at = INT64_MIN,
        .finished_at = INT64_MIN,
        .submitted_at = 1700000000123,
    };
    fake_config.api.bind = fake_bind;
    *fake_token = '\0';
    fake_config.api.beat_token = fake_token;
    fake_config.api.max_body_mb = 4;
    fake_config.api.max_connections = 64;
    fake_config.api.client_share = 50;
    fake_config.api.timeout_seconds = 5;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(api_start(&loop, &fake_config, NULL, &fake_types, &api, &why), 0);
    client_port = api_port(api);
    loop_over = false;
    return 0;
}

static inline void api_end(void)
{
    api_stop(api, on_api_stopped, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_null(api);
    loop_over = true;
    assert_int_equal(uv_loop_close(&loop), 0);
    fake_release(); /* the manager ends after the API */
}

static inline int api_teardown(void **state)
{
    fake_drop_rows();
    (void)state;
    if (!loop_over) {
        api_end();
    }
    return 0;
}

/* One request; "METHOD /target" with further header lines, and a body or NULL. */
static inline void request(const char *line, const char *headers, const char *text, size_t n)
{
    struct buf b CLEANUP(buf_free);
    int fd = client();

    buf_init(&b, 64 * 1024 * 1024);
    buf_addf(&b, "%s HTTP/1.1\r\nHost: localhost\r\n%s", line, headers);
    if (text) {
        buf_addf(&b, "Content-Length: %zu\r\n", n);
    }
    buf_adds(&b, "\r\n");
    buf_add(&b, text, n);
    send_all(fd, b.data, b.len);
    receive(fd);
    close(fd);
}

static inline void get(const char *target)
{
    char line[512];

    snprintf(line, sizeof(line), "GET %s", target);
    request(line, "", NULL, 0);
}

static inline void post(const char *target, const char *text)
{
    char line[512];

    snprintf(line, sizeof(line), "POST %s", target);
    request(line, "Content-Type: application/x-www-form-urlencoded\r\n", text, strlen(text));
}

/* The answer as JSON; owned by the caller. */
static inline json_t *answer_json(void)
{
    json_t *j = NULL;

    assert_int_equal(json_read(body(), strlen(body()), &j, NULL), 0);
    return j;
}

/* A problem whose first error names the field. */
static inline void assert_field(int code, const char *field)
{
    assert_problem(code);
    json_auto_t *j = answer_json();

    assert_string_equal(json_get_string(json_array_get(json_object_get(j, "errors"), 0), "field"),
                        field);
}

#endif
