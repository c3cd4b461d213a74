/* What tests of managers share: a manager over a real database and a real broker, a worker and a
 * client that are played here. Each test program includes it once. */
#ifndef SJE_TESTS_MANAGER_BENCH_H
#define SJE_TESTS_MANAGER_BENCH_H

#include "internal/clock.h"
#include "internal/db.h"
#include "internal/log.h"
#include "internal/mq.h"
#include "pkg/manager/manager.h"
#include "pkg/manager/messages.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define DEADLINE_NS 60000000000U
#define POOL_LEN    40

static const char *const type_names[] = {"SparkApp", "Command", "Noop", NULL};
static const struct task_types types = {type_names};

static uv_loop_t loop;
static uv_timer_t tick;
static struct config *config;
static struct manager *manager;
static struct manager *other; /* a second one, for tests that start it */
static bool stopped;

#define AWAIT(cond)                                                                                \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + DEADLINE_NS;                                                 \
        while (!(cond)) {                                                                          \
            if (uv_hrtime() > end_) {                                                              \
                fail_msg("%s:%d: still not: %s", __FILE__, __LINE__, #cond);                       \
            }                                                                                      \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        }                                                                                          \
    } while (0)

/* ---- the worker ---- */

struct grant {
    struct id task;
    int32_t attempt;
    int64_t token;
};

static struct {
    struct mq *sub;
    struct mq *pub;
    char name[32];
    char queue[96];
    char pool[POOL_LEN];
    int64_t inc;
    int64_t beat;
    bool ready;
    bool answers;     /* claims hints by itself */
    char manager[96]; /* its queue, by the last hint; "": none came */
    struct grant grants[3000];
    int n_grants;
    int n_denies;
    char deny[64]; /* the last reason */
    int hints;
    int directed;           /* messages of them in its own queue */
    struct id hinted[3000]; /* the first ones */
    int applied;
    int cancels; /* orders, and what answers to beats repeat */
    int beat_acks;
    bool succeeds; /* sends a result for each grant */
    /* For tests that answer by themselves: every message, and a look now and then. NULL: none. */
    void (*heard)(const char *type, const json_t *j);
    void (*step)(void);
} w;

static void publish(const char *exchange, const char *key, const char *text, bool persistent)
{
    struct mq_message m = {.exchange = exchange,
                           .routing_key = key,
                           .body = str_of(text),
                           .persistent = persistent,
                           .mandatory = persistent};

    assert_int_equal(mq_publish(w.pub, &m, NULL, NULL), 0);
}

/* To all of them where queue is "". */
static void send_claim_to(const char *queue, const struct id *task, int attempt)
{
    char text[600];
    char id[ID_TEXT_LEN];

    id_format(task, id);
    snprintf(
        text, sizeof(text),
        "{\"v\":1,\"type\":\"claim\",\"worker\":\"%s\",\"inc\":%lld,\"beat\":%lld,\"reply\":\"%s\","
        "\"claims\":[{\"task\":\"%s\",\"attempt\":%d}]}",
        w.name, (long long)w.inc, (long long)w.beat, w.queue, id, attempt);
    publish(*queue ? "" : "sje.beat", queue, text, false);
}

/* To the manager that fed it. */
static __attribute__((unused)) void send_claim(const struct id *task, int attempt)
{
    send_claim_to(w.manager, task, attempt);
}

static void send_result(const struct grant *g, const char *outcome, const char *more)
{
    char text[1200];
    char id[ID_TEXT_LEN];

    id_format(&g->task, id);
    snprintf(text, sizeof(text),
             "{\"v\":1,\"type\":\"results\",\"worker\":\"%s\",\"inc\":%lld,\"reply\":\"%s\","
             "\"results\":[{\"task\":\"%s\","
             "\"attempt\":%d,\"token\":\"%lld\",\"outcome\":\"%s\"%s}]}",
             w.name, (long long)w.inc, w.queue, id, g->attempt, (long long)g->token, outcome, more);
    publish("", "sje.result", text, true);
}

/* `runs` is the content of the array running. */
static void send_beat(const char *runs, int slots)
{
    char text[2000];

    snprintf(
        text, sizeof(text),
        "{\"v\":1,\"type\":\"beat\",\"worker\":\"%s\",\"inc\":%lld,\"beat\":%lld,\"host\":"
        "\"h\",\"pid\":1,"
        "\"version\":\"t\",\"reply\":\"%s\",\"startedAt\":1,\"pools\":[\"%s\"],\"jobTypes\":["
        "\"Noop\",\"Command\"],"
        "\"slots\":%d,\"free\":%d,\"cpus\":64,\"memoryMb\":64000,\"claiming\":[],\"running\":[%s]}",
        w.name, (long long)w.inc, (long long)++w.beat, w.queue, w.pool, slots, slots, runs);
    publish("sje.beat", "", text, false);
}

/* Until a manager has heard it: its queue may not be bound yet. */
static __attribute__((unused)) void join(int slots)
{
    for (w.beat_acks = 0; w.beat_acks == 0;) {
        uint64_t until = uv_hrtime() + 200000000U;

        send_beat("", slots);
        AWAIT(w.beat_acks > 0 || uv_hrtime() > until);
    }
}

static void on_look(uv_timer_t *t)
{
    (void)t;
    if (w.step) {
        w.step();
    }
}

/* One task of a hint. */
static void take_hint(const json_t *j)
{
    const char *id = json_get_string(j, "task");
    struct id task;
    assert_true(id_parse(id, strlen(id), &task));
    if (w.hints < (int)ARRAY_LEN(w.hinted)) {
        w.hinted[w.hints] = task;
    }
    w.hints++;
    if (w.heard) {
        w.heard("hint", j);
    }
    if (w.answers) {
        send_claim(&task, (int)json_get_int(j, "attempt", 0));
    }
}

static void take_hints(const json_t *j)
{
    json_t *one;
    size_t i;

    snprintf(w.manager, sizeof(w.manager), "%s", json_get_string(j, "reply"));
    json_array_foreach(json_object_get(j, "tasks"), i, one)
    {
        take_hint(one);
    }
}

static void on_hint(void *arg, const struct mq_delivery *d)
{
    json_t *j = NULL;

    (void)arg;
    assert_int_equal(json_read(d->body.p, d->body.len, &j, NULL), 0);
    take_hints(j);
    json_decref(j);
    mq_ack(w.sub, d->epoch, d->tag, false);
}

static void take_grants(const json_t *j)
{
    size_t i;
    json_t *g;

    json_array_foreach(json_object_get(j, "grants"), i, g)
    {
        struct grant *n = &w.grants[w.n_grants++ % (int)ARRAY_LEN(w.grants)];
        const char *id = json_get_string(g, "task");

        assert_true(id_parse(id, strlen(id), &n->task));
        n->attempt = (int32_t)json_get_int(g, "attempt", 0);
        assert_true(str_to_i64(str_of(json_get_string(g, "token")), 1, INT64_MAX, &n->token));
        assert_non_null(json_get_string(json_object_get(g, "spec"), "jobType"));
        if (w.succeeds) {
            send_result(n, "succeeded", ",\"output\":{\"n\":1}");
        }
    }
    json_array_foreach(json_object_get(j, "denies"), i, g)
    {
        w.n_denies++;
        snprintf(w.deny, sizeof(w.deny), "%s", json_get_string(g, "reason"));
    }
}

static void on_order(void *arg, const struct mq_delivery *d)
{
    json_t *j = NULL;

    (void)arg;
    assert_int_equal(json_read(d->body.p, d->body.len, &j, NULL), 0);
    const char *type = json_get_string(j, "type");
    if (streq(type, "hint")) {
        w.directed++;
        take_hints(j);
        json_decref(j);
        return;
    }
    if (w.heard) {
        w.heard(type, j);
    }
    if (streq(type, "grants")) {
        take_grants(j);
    } else if (streq(type, "applied")) {
        w.applied += (int)json_array_size(json_object_get(j, "tasks"));
    } else if (streq(type, "cancel")) {
        w.cancels++;
    } else if (streq(type, "beat-ack")) {
        w.beat_acks++;
        w.cancels += (int)json_array_size(json_object_get(j, "cancel"));
    }
    json_decref(j);
}

static void on_queue(void *arg, int rc, const struct err *why, uint32_t n)
{
    (void)arg;
    (void)rc; /* an error ends the connection: see on_worker_down() */
    (void)why;
    (void)n;
}

/* The broker has gone through everything before. */
static void on_settled(void *arg, int rc, const struct err *why, uint32_t n)
{
    (void)arg;
    (void)why;
    (void)n;
    w.ready = rc == 0;
}

static void on_worker_up(void *arg)
{
    static const char *const classes[] = {"high", "normal", "low"};

    (void)arg;
    assert_int_equal(mq_declare_exchange(w.sub, "sje.beat", "fanout", on_queue, NULL), 0);
    assert_int_equal(mq_declare_queue(w.sub, w.queue, MQ_EXCLUSIVE, on_queue, NULL), 0);
    assert_int_equal(mq_consume(w.sub, w.queue, "own", true, on_order, NULL, NULL, NULL), 0);
    for (int i = 0; i < 3; i++) {
        char *name = xasprintf("sje.work.%s.%s", w.pool, classes[i]);

        assert_int_equal(mq_declare_queue(w.sub, name, MQ_QUORUM, on_queue, NULL), 0);
        assert_int_equal(mq_consume(w.sub, name, classes[i], false, on_hint, NULL, NULL, NULL), 0);
        free(name);
    }
    assert_int_equal(mq_declare_queue(w.sub, w.queue, MQ_EXCLUSIVE, on_settled, NULL), 0);
}

/* RabbitMQ 3.10 ends a connection that consumes from a quorum queue while another one is declaring
 * it: once more. */
static void on_worker_down(void *arg, const struct err *why)
{
    (void)arg;
    (void)why;
    w.ready = false;
}

static void on_publisher_up(void *arg)
{
    (void)arg;
}

static void worker_open(const char *name)
{
    struct mq_options o = {.hosts = config->rabbitmq.host,
                           .port = config->rabbitmq.port,
                           .username = config->rabbitmq.username,
                           .password = config->rabbitmq.password,
                           .vhost = config->rabbitmq.vhost,
                           .name = "test",
                           .prefetch = 500,
                           .on_up = on_worker_up,
                           .on_down = on_worker_down};

    memset(&w, 0, sizeof(w));
    w.inc = clock_wall_ms();
    snprintf(w.name, sizeof(w.name), "%s", name);
    snprintf(w.queue, sizeof(w.queue), "sje.worker.%s.%lld", name, (long long)w.inc);
    snprintf(w.pool, sizeof(w.pool), "t%llx", (unsigned long long)random_u64());
    w.sub = mq_open(&loop, &o);
    o.on_up = on_publisher_up;
    o.confirms = true;
    w.pub = mq_open(&loop, &o);
    AWAIT(w.ready && mq_is_up(w.pub));
}

/* ---- the client ---- */

static struct id ids[3000];
static int n_ids;
static int accept_rc;
static bool replayed;

static void on_accepted(void *arg, const struct accept_reply *r)
{
    (void)arg;
    accept_rc = r->rc;
    replayed = r->replayed;
    for (size_t i = 0; i < r->count; i++) {
        ids[n_ids++] = r->tasks[i];
    }
}

/* Does not wait for the answer. */
static void submit_text(const char *text, int n, const char *key, uint8_t hash, accept_done_fn *cb,
                        void *arg)
{
    struct accept_request a = {.rows = xcalloc((size_t)n, sizeof(struct task)),
                               .count = (size_t)n,
                               .idempotency_key = key};
    struct task_problems p = {0};

    a.hash.bytes[0] = a.hash.json[0] = hash;
    for (int i = 0; i < n; i++) {
        json_t *j = NULL;

        assert_int_equal(json_read(text, strlen(text), &j, NULL), 0);
        struct task_spec *spec = task_spec_parse(j, &types, "", &p);
        assert_non_null(spec);
        json_decref(j);
        manager_row(manager, spec, &a.rows[i]);
        task_spec_free(spec);
    }
    manager_accept(manager, &a, cb, arg);
}

static __attribute__((unused)) void submit(const char *more, int n, const char *key, uint8_t hash)
{
    char *text CLEANUP(freep) = xasprintf("{\"jobType\":\"Noop\",\"pool\":\"%s\"%s}", w.pool, more);

    n_ids = 0;
    accept_rc = 1;
    submit_text(text, n, key, hash, on_accepted, NULL);
    AWAIT(accept_rc != 1);
}

static struct task seen;
static int seen_rc;

static void on_task(void *arg, int rc, const struct task *t, const struct err *why)
{
    (void)arg;
    (void)why;
    task_done(&seen);
    if (t) {
        task_copy(&seen, t);
    }
    seen_rc = rc;
}

static __attribute__((unused)) enum task_state state_of(const struct id *id)
{
    seen_rc = 1;
    manager_get(manager, id, on_task, NULL);
    AWAIT(seen_rc != 1);
    assert_int_equal(seen_rc, 0);
    return seen.state;
}

static __attribute__((unused)) enum task_state final_of(const struct id *id)
{
    seen_rc = 1;
    manager_wait(manager, id, 30000, on_task, NULL);
    AWAIT(seen_rc != 1);
    assert_int_equal(seen_rc, 0);
    return seen.state;
}

static char story[2000];

static void on_events(void *arg, int rc, const struct task_event_row *list, size_t n,
                      const struct err *why)
{
    (void)arg;
    (void)why;
    assert_int_equal(rc, 0);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(story);

        assert_int_equal(list[i].seq, (int)i + 1);
        /* The mark of the feed is written or saved, as it comes. */
        if (!streq(list[i].event, "fed")) {
            snprintf(story + len, sizeof(story) - len, "%s%s", len ? " " : "", list[i].event);
        }
    }
}

/* Needs the same number of lines as events, so "fed" may be missing in between only. */
static __attribute__((unused)) void check_story(const struct id *id, const char *expected)
{
    story[0] = '\0';
    manager_events(manager, id, on_events, NULL);
    AWAIT(*story);
    assert_string_equal(story, expected);
}

/* ---- the database, by hand ---- */

static struct db *bench_db;
static int sql_rc;

static void on_sql(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    (void)arg;
    (void)res;
    sql_rc = rc;
    if (rc < 0) {
        print_error("%s\n", why->text);
    }
}

/* One connection, as a manager has many. */
static struct db_options bench_options(void)
{
    struct db_options o = db_options_of(config, "test");

    o.connections = 1;
    return o;
}

static __attribute__((unused)) void run_sql(const char *literal)
{
    struct db_options o = bench_options();

    if (!bench_db) {
        bench_db = db_open(&loop, &o);
    }
    AWAIT(db_is_up(bench_db));
    sql_rc = 1;
    assert_int_equal(db_exec(bench_db, literal, NULL, on_sql, NULL), 0);
    AWAIT(sql_rc != 1);
    assert_int_equal(sql_rc, 0);
}

/* ---- setup ---- */

static void on_stopped(void *arg)
{
    (void)arg;
    stopped = true;
}

static void stop(struct manager **m)
{
    if (*m) {
        stopped = false;
        manager_stop(*m, on_stopped, NULL);
        AWAIT(stopped);
        *m = NULL;
    }
}

static bool leads(void)
{
    struct buf b;

    buf_init(&b, 1 << 16);
    bool up = manager_health(manager, &b) && strstr(b.data, "\"leader\":true");
    buf_free(&b);
    return up;
}

static void set_text(char **slot, const char *name)
{
    const char *value = getenv(name);

    if (!value) {
        fail_msg("%s is not set: run `make integration`", name);
    }
    str_replace_owned(slot, value);
}

static int setup(void **state)
{
    struct err e = {0};
    int64_t port = 0;

    (void)state;
    log_setup(getenv("SJE_TEST_LOG") ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT, "test");
    assert_int_equal(config_load_text("test", "", 0, &config, &e), 0);
    set_text(&config->db.host, "SJE_TEST_DB_HOST");
    set_text(&config->db.database, "SJE_TEST_DB_NAME");
    set_text(&config->db.username, "SJE_TEST_DB_USER");
    set_text(&config->db.password, "SJE_TEST_DB_PASSWORD");
    set_text(&config->rabbitmq.host, "SJE_TEST_AMQP_HOST");
    set_text(&config->rabbitmq.username, "SJE_TEST_AMQP_USER");
    set_text(&config->rabbitmq.password, "SJE_TEST_AMQP_PASSWORD");
    assert_true(str_to_i64(str_of(getenv("SJE_TEST_DB_PORT")), 1, 65535, &port));
    config->db.port = (int)port;
    assert_true(str_to_i64(str_of(getenv("SJE_TEST_AMQP_PORT")), 1, 65535, &port));
    config->rabbitmq.port = (int)port;
    config->node.dead_after_seconds = 3;
    config->manager.database_grace_seconds = 1;
    config->node.heartbeat_seconds = 1;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_timer_init(&loop, &tick), 0);
    assert_int_equal(uv_timer_start(&tick, on_look, 20, 20), 0);
    if (manager_start(&loop, config, &types, &manager, &e) < 0) {
        fail_msg("%s", e.text);
    }
    worker_open("w1");
    AWAIT(leads());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    w.step = NULL;
    mq_close(w.sub, NULL, NULL);
    mq_close(w.pub, NULL, NULL);
    stop(&manager);
    stop(&other);
    if (bench_db) {
        db_close(bench_db, NULL, NULL);
        bench_db = NULL;
    }
    task_done(&seen);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    config_free(config);
    return 0;
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif
