/* fleet: many workers in one process, against a manager that runs.
 *
 *   fleet work COUNT SLOTS DIR SHIM     whole workers, as sje-executor runs them, until SIGTERM
 *   fleet beat COUNT SECONDS POOLS      nothing but beats, each worker's every 5 s, spread
 *                                       evenly, each serving so many pools; says how many were
 *                                       answered, and how soon
 */
#include "internal/clock.h"
#include "internal/config.h"
#include "internal/log.h"
#include "internal/mq.h"
#include "pkg/executors/executor.h"
#include "pkg/worker/worker.h"
#include "tests/bench/bench.h"

#include <signal.h>
#include <sys/resource.h>

#define BEAT_S        5
#define TICK_MS       10
#define GRACE_S       10 /* for the last answers */
#define REPLY_QUEUES  100
#define BEAT_BODY_MAX 2048
#define POOLS_TEXT    1024

static uv_loop_t loop;

/* ---- workers that work ---- */

static void on_term(uv_signal_t *h, int number)
{
    (void)number;
    uv_stop(h->loop);
}

static void override(struct config *c, const char *path, const char *text)
{
    struct err why;

    if (config_override(c, "fleet", path, text, &why) < 0) {
        die("%s", why.text);
    }
}

static void work(long count, const char *slots, const char *dir, const char *shim)
{
    static uv_signal_t term;
    struct rlimit files;
    struct err why;

    MUST(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 || executors_init("", &why) < 0) {
        die("cannot raise the number of open files");
    }
    for (long i = 0; i < count; i++) {
        struct config *c = NULL;
        struct worker *w = NULL;

        if (config_load(NULL, &c, &why) < 0) {
            die("%s", why.text);
        }
        char *name CLEANUP(freep) = xasprintf("fleet%ld", i);
        char *own CLEANUP(freep) = xasprintf("%s/%ld", dir, i);

        override(c, "executorNodeConfig.nodeId", name);
        override(c, "executorNodeConfig.workDir", own);
        override(c, "executorNodeConfig.slots", slots);
        if (worker_start(&loop, c, shim, &w, &why) < 0) {
            die("%s", why.text);
        }
    }
    MUST(uv_signal_init(&loop, &term) == 0 && uv_signal_start(&term, on_term, SIGTERM) == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
}

/* ---- workers that only beat ---- */

static struct {
    struct mq *mq;
    long count;
    long beats; /* to be sent in all */
    long sent;
    long answered;
    long consumers;
    int64_t inc;
    char pools[POOLS_TEXT]; /* as they stand in a beat */
    double start;
    double *sent_at; /* by number of the beat, which grows over all workers */
    double *times;
} run;

static const char *reply_queue(long worker, char name[64])
{
    snprintf(name, 64, "sje.worker.beat%ld.%lld", worker % REPLY_QUEUES, (long long)run.inc);
    return name;
}

static void on_answer(void *arg, const struct mq_delivery *d)
{
    char text[512];
    long beat = 0;

    (void)arg;
    snprintf(text, sizeof(text), "%.*s", (int)d->body.len, d->body.p);
    const char *p = strstr(text, "\"beat\":");
    if (strstr(text, "\"beat-ack\"") && p && (beat = strtol(p + 7, NULL, 10)) > 0 &&
        beat <= run.sent && run.sent_at[beat] > 0) {
        run.times[run.answered++] = now_s(CLOCK_MONOTONIC) - run.sent_at[beat];
        run.sent_at[beat] = 0;
    }
}

static void on_declared(void *arg, int rc, const struct err *why, uint32_t messages)
{
    (void)arg;
    (void)messages;
    if (rc < 0) {
        die("the broker refuses: %s", why->text);
    }
    run.consumers++;
}

static void on_up(void *arg)
{
    char name[64];

    (void)arg;
    if (run.consumers) {
        die("the connection was lost");
    }
    for (long i = 0; i < REPLY_QUEUES; i++) {
        reply_queue(i, name);
        if (mq_declare_queue(run.mq, name, MQ_EXCLUSIVE, NULL, NULL) < 0 ||
            mq_consume(run.mq, name, name, true, on_answer, NULL, NULL, NULL) < 0) {
            die("too much at once");
        }
    }
    if (mq_declare_exchange(run.mq, "sje.beat", "fanout", on_declared, NULL) < 0) {
        die("too much at once");
    }
}

static void on_down(void *arg, const struct err *why)
{
    (void)arg;
    die("%s", why->text);
}

static void send_beat(void)
{
    char body[BEAT_BODY_MAX];
    char reply[64];
    long worker = run.sent % run.count;
    int64_t inc = run.inc;

    run.sent++;
    int n = snprintf(
        body, sizeof(body),
        "{\"v\":1,\"type\":\"beat\",\"worker\":\"beat%ld\",\"inc\":%lld,\"beat\":%ld,"
        "\"host\":\"bench\",\"pid\":1,\"version\":\"" SJE_VERSION "\",\"reply\":\"%s\","
        "\"startedAt\":%lld,\"pools\":[%s],\"jobTypes\":[\"Noop\"],\"slots\":4,"
        "\"free\":4,\"cpus\":4,\"memoryMb\":8192,\"draining\":false,\"stopping\":false,"
        "\"claiming\":[],\"running\":[]}",
        worker, (long long)inc, run.sent, reply_queue(worker, reply), (long long)inc, run.pools);
    struct mq_message m = {.exchange = "sje.beat", .routing_key = "", .body = {body, (size_t)n}};
    if (mq_publish(run.mq, &m, NULL, NULL) < 0) {
        die("the broker takes no beats");
    }
    run.sent_at[run.sent] = now_s(CLOCK_MONOTONIC);
}

static void on_tick(uv_timer_t *h)
{
    double now = now_s(CLOCK_MONOTONIC);

    if (!run.consumers) {
        return;
    }
    run.start = run.start > 0 ? run.start : now;
    long due = (long)((now - run.start) * (double)run.count / BEAT_S);
    while (run.sent < MIN(due, run.beats)) {
        send_beat();
    }
    if (run.answered == run.beats ||
        now > run.start + (double)run.beats * BEAT_S / (double)run.count + GRACE_S) {
        uv_stop(h->loop);
    }
}

static void beat(long count, long seconds, long pools)
{
    static uv_timer_t tick;
    size_t len = 0;

    struct mq_options o = {.hosts = setting("SJE_RABBITMQ_HOST"),
                           .port = (int)number(setting("SJE_RABBITMQ_PORT")),
                           .username = setting("SJE_RABBITMQ_USERNAME"),
                           .password = setting("SJE_RABBITMQ_PASSWORD"),
                           .vhost = setting("SJE_RABBITMQ_VHOST"),
                           .name = "bench",
                           .heartbeat_s = 20,
                           .on_up = on_up,
                           .on_down = on_down};

    for (long i = 0; i < pools; i++) {
        len +=
            (size_t)snprintf(run.pools + len, POOLS_TEXT - len, "%s\"beats-%ld\"", i ? "," : "", i);
        MUST(len < POOLS_TEXT);
    }
    run.count = count;
    run.beats = count * MAX(seconds / BEAT_S, 1L);
    run.inc = clock_wall_ms();
    run.sent_at = xcalloc((size_t)run.beats + 1, sizeof(double));
    run.times = xcalloc((size_t)run.beats + 1, sizeof(double));
    run.mq = mq_open(&loop, &o);
    MUST(uv_timer_init(&loop, &tick) == 0 && uv_timer_start(&tick, on_tick, 0, TICK_MS) == 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    printf("{\"beats\":%ld,\"answered\":%ld", run.sent, run.answered);
    print_times("answer", run.times, (size_t)run.answered);
    puts("}");
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    log_setup(LOG_WARN, LOG_LOGFMT, "fleet");
    MUST(uv_loop_init(&loop) == 0);
    if (argc == 6 && streq(argv[1], "work")) {
        work(number(argv[2]), argv[3], argv[4], argv[5]);
    } else if (argc == 5 && streq(argv[1], "beat")) {
        beat(number(argv[2]), number(argv[3]), number(argv[4]));
    } else {
        die("usage: fleet work COUNT SLOTS DIR SHIM | fleet beat COUNT SECONDS POOLS");
    }
    return 0;
}
