/* worker_bench.h: what the tests of the worker stand on: a manager that the test plays, over a real
 * broker, and workers, in this process or in one of their own. */
#ifndef SJE_TEST_WORKER_BENCH_H
#define SJE_TEST_WORKER_BENCH_H

#include "internal/clock.h"
#include "internal/config.h"
#include "internal/id.h"
#include "internal/log.h"
#include "internal/mq.h"
#include "pkg/executors/executor.h"
#include "pkg/executors/shimdir.h"
#include "pkg/worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define AWAIT_NS  30000000000U
#define TASKS_MAX 2048

static uv_loop_t loop;
static uv_timer_t bench_tick; /* AWAIT looks at least that often */

#define AWAIT(cond)                                                                                \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + AWAIT_NS;                                                    \
        while (!(cond)) {                                                                          \
            if (uv_hrtime() > end_) {                                                              \
                fail_msg("%s:%d: still not: %s", __FILE__, __LINE__, #cond);                       \
            }                                                                                      \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        }                                                                                          \
    } while (0)

/* What the manager knows of a task. */
struct btask {
    struct id id;
    const char *spec; /* JSON */
    const char *deny; /* reason; NULL: granted */
    int claims;
    int results;
    bool seen; /* in the last beat */
    char phase[16];
    json_t *result; /* the last */
};

static struct {
    struct mq *mq;
    bool up;
    char queue[64];
    char pool[40];
    char node[64];
    char dir[96]; /* workDir */
    struct btask tasks[TASKS_MAX];
    int n;

    bool keep_claims; /* do not answer */
    bool keep_results;
    bool mute; /* do not answer beats */
    int lease_ms;
    int revoke; /* number of the task that beat answers revoke; -1: none */
    int unsure; /* the same */
    int claims; /* messages, not entries */
    int claims_to_all;
    const char *feeder; /* named by hints; NULL: we are, "": nobody */
    int beats;
    json_t *beat; /* the last */
    char reply[160];
    char uuid[ID_TEXT_LEN]; /* of the worker, as its last message says */
    bool stopping;          /* was said in a beat */
    int n_results;
    int logs;
    json_t *log;      /* header of the last log reply */
    struct buf bytes; /* and what came with it */
} b;

/* Unlike those of other programs that run beside this one: what a killed worker left is found by
 * its token alone. */
static long long token_of(int i)
{
    return getpid() * 100000LL + i;
}

/* ---- messages ---- */

/* To a worker as its managers write it: with its UUID. */
static void send_text(const char *queue, const char *text)
{
    static const char begin[] = "{\"v\":1,";
    bool addressed =
        !b.uuid[0] || strstr(text, "\"uuid\"") || strncmp(text, begin, strlen(begin)) != 0;
    char *whole CLEANUP(freep) =
        addressed ? xstrdup(text)
                  : xasprintf("%s\"uuid\":\"%s\",%s", begin, b.uuid, text + strlen(begin));
    struct mq_message m = {.exchange = "", .routing_key = queue, .body = str_of(whole)};

    assert_int_equal(mq_publish(b.mq, &m, NULL, NULL), 0);
}

static int task_of(const json_t *j)
{
    struct id id;
    const char *text = json_get_string(j, "task");

    if (!text || !id_parse(text, strlen(text), &id)) {
        return -1;
    }
    for (int i = 0; i < b.n; i++) {
        if (id_eq(&b.tasks[i].id, &id)) {
            return i;
        }
    }
    return -1;
}

static void add_ref(struct buf *out, int i)
{
    char text[ID_TEXT_LEN];

    id_format(&b.tasks[i].id, text);
    buf_addf(out, "{\"task\":\"%s\",\"attempt\":1}", text);
}

static __attribute__((unused)) void send_tasks(const char *type, int i)
{
    struct buf out CLEANUP(buf_free);

    buf_init(&out, 4096);
    buf_addf(&out, "{\"v\":1,\"type\":\"%s\",\"tasks\":[", type);
    add_ref(&out, i);
    buf_adds(&out, "]}");
    send_text(b.reply, out.data);
}

static void answer_claims(const json_t *msg)
{
    const json_t *list = json_object_get(msg, "claims");
    struct buf grants CLEANUP(buf_free);
    struct buf denies CLEANUP(buf_free);
    struct buf out CLEANUP(buf_free);

    buf_init(&grants, 1 << 22);
    buf_init(&denies, 1 << 22);
    buf_init(&out, 1 << 23);
    for (size_t k = 0; k < json_array_size(list); k++) {
        int i = task_of(json_array_get(list, k));
        char text[ID_TEXT_LEN];

        if (i < 0) {
            continue;
        }
        struct btask *t = &b.tasks[i];
        t->claims++;
        id_format(&t->id, text);
        if (t->deny) {
            buf_addf(&denies, "%s{\"task\":\"%s\",\"attempt\":1,\"reason\":\"%s\"}",
                     denies.len ? "," : "", text, t->deny);
        } else {
            buf_addf(
                &grants,
                "%s{\"task\":\"%s\",\"attempt\":1,\"token\":\"%lld\",\"leaseMs\":%d,\"spec\":%s}",
                grants.len ? "," : "", text, token_of(i), b.lease_ms, t->spec);
        }
    }
    buf_addf(&out,
             "{\"v\":1,\"type\":\"grants\",\"manager\":\"m\",\"grants\":[%s],\"denies\":[%s]}",
             grants.data ? grants.data : "", denies.data ? denies.data : "");
    if (!b.keep_claims) {
        send_text(json_get_string(msg, "reply"), out.data);
    }
}

static json_t *parse(const struct mq_delivery *d)
{
    json_t *j = NULL;

    assert_int_equal(json_read(d->body.p, d->body.len, &j, NULL), 0);
    if (!streq(json_get_string(j, "worker"), b.node)) { /* of an earlier test */
        json_decref(j);
        return NULL;
    }
    snprintf(b.uuid, sizeof(b.uuid), "%s", json_get_string(j, "uuid"));
    return j;
}

static void on_claim(const json_t *j, struct str key)
{
    assert_true(json_get_int(j, "beat", 0) > 0); /* never before the first beat */
    b.claims++;
    b.claims_to_all += key.len == 0;
    answer_claims(j);
}

static void on_results(void *arg, const struct mq_delivery *d)
{
    json_auto_t *j = parse(d);
    const json_t *list = json_object_get(j, "results");
    struct buf out CLEANUP(buf_free);

    (void)arg;
    mq_ack(b.mq, d->epoch, d->tag, false);
    buf_init(&out, 1 << 22);
    buf_adds(&out, "{\"v\":1,\"type\":\"applied\",\"tasks\":[");
    bool first = true;
    for (size_t k = 0; k < json_array_size(list); k++) {
        json_t *r = json_array_get(list, k);
        int i = task_of(r);
        char token[24];

        if (i < 0) {
            continue;
        }
        snprintf(token, sizeof(token), "%lld", token_of(i));
        assert_string_equal(json_get_string(r, "token"), token);
        b.n_results += b.tasks[i].results++ == 0;
        json_decref(b.tasks[i].result);
        b.tasks[i].result = json_incref(r);
        buf_adds(&out, first ? "" : ",");
        add_ref(&out, i);
        first = false;
    }
    buf_adds(&out, "]}");
    if (j && !b.keep_results && !first) {
        send_text(json_get_string(j, "reply"), out.data);
    }
}

static void note_beat(json_t *j)
{
    const json_t *list = json_object_get(j, "running");

    json_decref(b.beat);
    b.beat = json_incref(j);
    b.beats++;
    b.stopping = b.stopping || json_get_bool(j, "stopping", false);
    snprintf(b.reply, sizeof(b.reply), "%s", json_get_string(j, "reply"));
    for (int i = 0; i < b.n; i++) {
        b.tasks[i].seen = false;
    }
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *r = json_array_get(list, k);
        int i = task_of(r);

        if (i >= 0) {
            b.tasks[i].seen = true;
            snprintf(b.tasks[i].phase, sizeof(b.tasks[i].phase), "%s", json_get_string(r, "phase"));
        }
    }
}

static void answer_beat(const json_t *j)
{
    struct buf out CLEANUP(buf_free);

    buf_init(&out, 4096);
    buf_addf(&out,
             "{\"v\":1,\"type\":\"beat-ack\",\"manager\":\"m\",\"beat\":%lld,\"drain\":false,",
             (long long)json_get_int(j, "beat", 0));
    buf_adds(&out, "\"cancel\":[],\"unsure\":[");
    if (b.unsure >= 0) {
        add_ref(&out, b.unsure);
    }
    buf_adds(&out, "],\"revoke\":[");
    if (b.revoke >= 0) {
        add_ref(&out, b.revoke);
    }
    buf_adds(&out, "]}");
    send_text(b.reply, out.data);
}

static void on_own(void *arg, const struct mq_delivery *d)
{
    const char *line = memchr(d->body.p, '\n', d->body.len);
    json_t *j = NULL;

    (void)arg;
    if (line) { /* a log */
        size_t head = (size_t)(line - d->body.p);

        assert_int_equal(json_read(d->body.p, head, &j, NULL), 0);
        json_decref(b.log);
        b.log = j;
        buf_reset(&b.bytes);
        buf_add(&b.bytes, line + 1, d->body.len - head - 1);
        b.logs++;
        return;
    }
    j = parse(d);
    if (j && streq(json_get_string(j, "type"), "claim")) {
        on_claim(j, d->routing_key);
    } else if (j) {
        note_beat(j);
        if (!b.mute) {
            answer_beat(j);
        }
    }
    json_decref(j);
}

/* ---- the manager ---- */

static void on_bench_ready(void *arg, int rc, const struct err *why, uint32_t count)
{
    (void)arg;
    (void)why;
    (void)count;
    b.up = rc == 0;
}

static void on_bench_up(void *arg)
{
    (void)arg;
    assert_int_equal(mq_declare_exchange(b.mq, "sje.beat", "fanout", NULL, NULL), 0);
    assert_int_equal(mq_declare_queue(b.mq, "sje.result", MQ_QUORUM, NULL, NULL), 0);
    assert_int_equal(mq_declare_queue(b.mq, b.queue, MQ_EXCLUSIVE, NULL, NULL), 0);
    assert_int_equal(mq_bind(b.mq, b.queue, "sje.beat", "", NULL, NULL), 0);
    assert_int_equal(mq_consume(b.mq, "sje.result", "results", false, on_results, NULL, NULL, NULL),
                     0);
    assert_int_equal(mq_consume(b.mq, b.queue, "own", true, on_own, NULL, NULL, NULL), 0);
    static const char *const classes[] = {"high", "normal", "low"};
    for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
        char queue[96];

        snprintf(queue, sizeof(queue), "sje.work.%s.%s", b.pool, classes[i]);
        assert_int_equal(
            mq_declare_queue(b.mq, queue, MQ_QUORUM, i == 2 ? on_bench_ready : NULL, NULL), 0);
    }
}

static void on_bench_down(void *arg, const struct err *why)
{
    (void)arg;
    (void)why;
    b.up = false;
}

static void on_bench_tick(uv_timer_t *t)
{
    (void)t;
}

static const char *env(const char *name)
{
    const char *v = getenv(name);

    if (!v) {
        fail_msg("%s is not set", name);
    }
    return v;
}

/* A manager without a worker yet; all names are new. */
static void bench_open(void)
{
    static int n;
    struct mq_options o = {.hosts = env("SJE_TEST_AMQP_HOST"),
                           .username = env("SJE_TEST_AMQP_USER"),
                           .password = env("SJE_TEST_AMQP_PASSWORD"),
                           .vhost = env("SJE_TEST_AMQP_VHOST"),
                           .name = "test of the worker",
                           .heartbeat_s = 20,
                           .on_up = on_bench_up,
                           .on_down = on_bench_down};
    int64_t port = 0;

    assert_true(str_to_i64(str_of(env("SJE_TEST_AMQP_PORT")), 1, 65535, &port));
    o.port = (int)port;
    memset(&b, 0, sizeof(b));
    buf_init(&b.bytes, 1 << 20);
    b.lease_ms = 30000;
    b.revoke = b.unsure = -1;
    n++;
    snprintf(b.pool, sizeof(b.pool), "t%d-%d-%llu", (int)getpid(), n,
             (unsigned long long)random_u64() % 100000);
    snprintf(b.node, sizeof(b.node), "node-%s", b.pool);
    snprintf(b.queue, sizeof(b.queue), "sje.manager.%s", b.pool);
    snprintf(b.dir, sizeof(b.dir), "/tmp/sje-worker-%s", b.pool);
    assert_int_equal(uv_loop_init(&loop), 0);
    uv_timer_init(&loop, &bench_tick);
    uv_timer_start(&bench_tick, on_bench_tick, 20, 20);
    b.mq = mq_open(&loop, &o);
    AWAIT(b.up);
}

static void bench_remove_dir(void)
{
    assert_int_equal(shimdir_remove(b.dir, NULL), 0);
}

static void bench_close(void)
{
    static const char *const classes[] = {"high", "normal", "low"};

    for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
        char queue[96];

        snprintf(queue, sizeof(queue), "sje.work.%s.%s", b.pool, classes[i]);
        assert_int_equal(mq_delete_queue(b.mq, queue, i == 2 ? on_bench_ready : NULL, NULL), 0);
    }
    b.up = false;
    AWAIT(b.up);
    mq_close(b.mq, NULL, NULL);
    uv_close((uv_handle_t *)&bench_tick, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    for (int i = 0; i < b.n; i++) {
        json_decref(b.tasks[i].result);
    }
    json_decref(b.beat);
    json_decref(b.log);
    buf_free(&b.bytes);
    bench_remove_dir();
}

/* ---- the worker ---- */

static struct worker *bench_worker;
static struct config *bench_config;
static bool bench_stopped;

static char *shim_path(void)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

    assert_true(n > 0);
    exe[n] = '\0';
    for (int i = 0; i < 3; i++) { /* build/<flavour>/tests/integration/test_x */
        *strrchr(exe, '/') = '\0';
    }
    return xasprintf("%s/bin/sje-shim", exe);
}

/* Settings for a server come from the environment too, where they would win over ours. */
static void forget_settings(void)
{
    static const char *const names[] = {"HOST", "PORT", "USERNAME", "PASSWORD", "VHOST"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *name CLEANUP(freep) = xasprintf("SJE_RABBITMQ_%s", names[i]);
        unsetenv(name);
    }
}

static struct config *make_config(const char *node, const char *pool, const char *dir, int slots)
{
    struct config *c = NULL;
    struct err e = {0};
    char *text CLEANUP(freep) = xasprintf(
        "rabbitMqConfig: {host: %s, port: %s, username: %s, password: \"%s\", vhost: \"%s\"}\n"
        "executorNodeConfig: {nodeId: %s, pools: [%s], workDir: %s, slots: %d,\n"
        "  heartbeatSeconds: 1, killGraceSeconds: 2}\n",
        env("SJE_TEST_AMQP_HOST"), env("SJE_TEST_AMQP_PORT"), env("SJE_TEST_AMQP_USER"),
        env("SJE_TEST_AMQP_PASSWORD"), env("SJE_TEST_AMQP_VHOST"), node, pool, dir, slots);

    forget_settings();
    if (config_load_text("test", text, strlen(text), &c, &e) < 0) {
        fail_msg("%s", e.text);
    }
    return c;
}

static __attribute__((unused)) void start_worker(int slots)
{
    char *shim CLEANUP(freep) = shim_path();
    struct err e = {0};

    bench_config = make_config(b.node, b.pool, b.dir, slots);
    if (worker_start(&loop, bench_config, shim, &bench_worker, &e) < 0) {
        fail_msg("%s", e.text);
    }
    b.beats = 0;
    AWAIT(b.beats > 0);
}

static void on_worker_stopped(void *arg)
{
    (void)arg;
    bench_stopped = true;
}

static __attribute__((unused)) void stop_worker(bool stop_tasks)
{
    bench_stopped = false;
    worker_stop(bench_worker, stop_tasks, on_worker_stopped, NULL);
    AWAIT(bench_stopped);
    config_free(STEAL(bench_config));
    bench_worker = NULL;
}

/* ---- tasks ---- */

/* Without a hint. */
static int add_task(const char *spec)
{
    assert_true(b.n < TASKS_MAX);
    b.tasks[b.n] = (struct btask){.id = id_new(), .spec = spec};
    return b.n++;
}

static void send_hint_to(const char *queue, int i, int slots, const char *more)
{
    char task[ID_TEXT_LEN];
    const char *feeder = b.feeder ? b.feeder : b.queue;
    char body[512];

    id_format(&b.tasks[i].id, task);
    snprintf(
        body, sizeof(body),
        "{\"v\":1,\"type\":\"hint\",\"reply\":\"%s\",\"tasks\":[{\"task\":\"%s\",\"attempt\":1,"
        "\"slots\":%d,\"rank\":%d%s}]}",
        feeder, task, slots, i, more);
    send_text(queue, body);
}

static __attribute__((unused)) void send_hint_with(int i, const char *more)
{
    char queue[96];

    snprintf(queue, sizeof(queue), "sje.work.%s.normal", b.pool);
    send_hint_to(queue, i, 1, more);
}

static void send_hint(int i, const char *class, int slots)
{
    char queue[96];

    snprintf(queue, sizeof(queue), "sje.work.%s.%s", b.pool, class);
    send_hint_to(queue, i, slots, "");
}

static __attribute__((unused)) int submit(const char *spec)
{
    int i = add_task(spec);

    send_hint(i, "normal", 1);
    return i;
}

static __attribute__((unused)) bool is_running(int i)
{
    return b.tasks[i].seen && streq(b.tasks[i].phase, "running");
}

static const char *outcome(int i)
{
    return b.tasks[i].result ? json_get_string(b.tasks[i].result, "outcome") : "none";
}

static __attribute__((unused)) const char *error_kind(int i)
{
    return json_get_string(json_object_get(b.tasks[i].result, "error"), "kind");
}

static __attribute__((unused)) const char *error_text(int i)
{
    return json_get_string(json_object_get(b.tasks[i].result, "error"), "message");
}

static __attribute__((unused)) void expect_outcome(int i, const char *expected)
{
    AWAIT(b.tasks[i].results > 0);
    if (!streq(outcome(i), expected)) {
        char *text CLEANUP(freep) = json_text(b.tasks[i].result);

        fail_msg("not %s: %s", expected, text);
    }
}

static char *task_file(int i, const char *name)
{
    char task[ID_TEXT_LEN];

    id_format(&b.tasks[i].id, task);
    return xasprintf("%s/tasks/%s.1/%s", b.dir, task, name);
}

static __attribute__((unused)) bool has_file(int i, const char *name)
{
    char *path CLEANUP(freep) = task_file(i, name);

    return access(path, F_OK) == 0;
}

/* What a file below the attempt's directory holds; 0: not there yet. */
static __attribute__((unused)) pid_t number_in(int i, const char *name)
{
    char *path CLEANUP(freep) = task_file(i, name);
    char text[32] = "";
    int64_t pid = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    return n > 0 && str_to_i64(str_trim(str_of(text)), 2, INT32_MAX, &pid) ? (pid_t)pid : 0;
}

/* The pid that the task wrote to `pid` in its working directory. */
static __attribute__((unused)) pid_t pid_of(int i)
{
    return number_in(i, "work/pid");
}

static __attribute__((unused)) bool is_dead(pid_t pid)
{
    char path[64];
    char text[512] = "";

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return true;
    }
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    const char *state = n > 0 ? strrchr(text, ')') : NULL;
    return !state || state[2] == 'Z'; /* in a container without init nobody reaps orphans */
}

static __attribute__((unused)) void make_file(int i, const char *name)
{
    char *path CLEANUP(freep) = task_file(i, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    close(fd);
}

static __attribute__((unused)) void ask_log(int i, const char *stream, int64_t offset, int wait_ms)
{
    char task[ID_TEXT_LEN];
    char body[512];

    id_format(&b.tasks[i].id, task);
    snprintf(
        body, sizeof(body),
        "{\"v\":1,\"type\":\"log\",\"task\":\"%s\",\"attempt\":1,\"stream\":\"%s\",\"offset\":%lld,"
        "\"limit\":65536,\"waitMs\":%d,\"reply\":\"%s\",\"rid\":%d}",
        task, stream, (long long)offset, wait_ms, b.queue, i);
    b.logs = 0;
    send_text(b.reply, body);
}

#define COMMAND(script) "{\"jobType\":\"Command\",\"command\":[\"sh\",\"-c\",\"" script "\"]}"
#define SLEEPER         COMMAND("echo $$ > pid; exec sleep 1000")
#define NOOP            "{\"jobType\":\"Noop\"}"

#endif
