/* sje-spark DIR: one application in a Spark cluster, for the attempt in DIR. See cluster.h. */
#include "cmd/sje-spark/cluster.h"
#include "cmd/sje-spark/ownsite.h"

#include "internal/clock.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_MS         1000
#define POLL_STOP_MS    200
#define KILL_AGAIN_MS   10000
#define FIND_GIVE_UP_MS 300000 /* without knowing what earlier attempts left */
#define PROBE_MS        30000  /* nothing is submitted to a cluster that cannot be watched */
#define SUBMITTED_MS    30000  /* after spark-submit ended without naming a driver */
#define GONE_MS         15000  /* unknown to the master so long: a new one learns of drivers late */

static void say(const char *fmt, ...) PRINTF(1, 2);
static void say(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("sje-spark: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

/* ---- what the worker is told ---- */

static void tell(struct job *j, bool gone)
{
    const struct app *a = &j->app;
    json_auto_t *o = json_pack("{s:s, s:s, s:i, s:s, s:b, s:s, s:I, s:I, s:s}", "id", a->id,
                               "applicationId", a->application, "attempt", a->attempt, "state",
                               spark_state_name(a->state), "gone", gone, "uiUrl", j->ui_url, "done",
                               (json_int_t)(j->progress.total ? j->progress.done : -1), "total",
                               (json_int_t)(j->progress.total ? j->progress.total : -1), "text",
                               j->progress.text);
    char *text CLEANUP(freep) = json_text(o);
    struct err e = {0};

    if (streq(text, j->last)) {
        return;
    }
    if (shimdir_write_file(j->out, SPARK_STATUS_FILE, text, strlen(text), &e) < 0) {
        say("%s", e.text);
        return;
    }
    snprintf(j->last, sizeof(j->last), "%s", text);
}

/* ---- looking for what is there ---- */

/* Asks until the answer is sure. A stop does not end it: what is there has to be killed then. */
static int find_all(struct job *j, int limit_ms, struct found *ret, struct err *reterr)
{
    int64_t until = clock_boot_ms() + limit_ms;
    bool told = false;

    for (;;) {
        int rc = j->kind->find(j, ret, reterr);
        if (rc == 0 && !ret->unsure) {
            return 0;
        }
        if (rc == 0) {
            rc = err_set(reterr, ERR_BUSY, "a driver that may be this task's cannot be told yet");
        }
        if (!told) {
            say("looking for drivers of this task: %s; asking again", reterr->text);
            told = true;
        }
        if (clock_boot_ms() >= until) {
            return rc;
        }
        child_wait(j, POLL_MS);
    }
}

/* Kills it and waits until the cluster says that it is no more. The shim sets the limit. */
static void end_app(struct job *j, struct app *a)
{
    int64_t again_at = 0;
    struct err e = {0};

    for (;;) {
        int rc = j->kind->look(j, a, &e);
        if (rc == 0 && !spark_state_is_live(a->state)) {
            break;
        }
        if (clock_boot_ms() >= again_at) {
            again_at = clock_boot_ms() + KILL_AGAIN_MS;
            if (rc < 0 || j->kind->kill(j, a, &e) < 0) {
                say("killing %s: %s; trying again", a->id, e.text);
            } else {
                say("asked the cluster to kill %s", a->id);
            }
        }
        child_wait(j, POLL_STOP_MS);
    }
    child_kill(j); /* Spark's client, where it was needed */
    say("%s is gone from the cluster (%s)", a->id, spark_state_name(a->state));
}

static _Noreturn void stopped(struct job *j)
{
    tell(j, true);
    _exit(128 + SIGTERM);
}

/* ---- taking over ---- */

static bool worth_adopting(const struct job *j, const struct app *a)
{
    return a->attempt < j->attempt &&
           (spark_state_is_live(a->state) || a->state == SPARK_FINISHED || j->adopt_failed);
}

/* The newest that runs, else the newest that ended unseen; others that run must not go on. */
static void adopt(struct job *j, struct found *f)
{
    struct app *best = NULL;

    for (size_t i = 0; i < f->n; i++) {
        struct app *a = &f->list[i];

        if (worth_adopting(j, a) &&
            (!best || (spark_state_is_live(a->state) && !spark_state_is_live(best->state)))) {
            best = a;
        }
    }
    for (size_t i = 0; i < f->n; i++) {
        struct app *a = &f->list[i];

        if (spark_state_is_live(a->state) && (j->stop || a != best)) {
            end_app(j, a);
        }
    }
    if (best) {
        j->app = *best;
        j->adopted = true;
    }
}

static int take_over(struct job *j, struct err *reterr)
{
    struct found f = {0};
    int rc = find_all(j, j->stop ? SPARK_STOP_MS : FIND_GIVE_UP_MS, &f, reterr);

    if (rc < 0) {
        return rc;
    }
    child_wait(j, 0); /* a SIGTERM that came meanwhile */
    adopt(j, &f);
    if (j->stop) {
        stopped(j);
    }
    if (j->adopted) {
        say("taking over %s of attempt %d (%s)", j->app.id, j->app.attempt,
            spark_state_name(j->app.state));
    }
    return 0;
}

/* ---- submitting ---- */

static char **arguments(const json_t *list)
{
    size_t n = json_array_size(list);
    char **argv = xcalloc(n + 1, sizeof(*argv));

    for (size_t i = 0; i < n; i++) {
        argv[i] = xstrdup(json_string_value(json_array_get(list, i)));
    }
    return argv;
}

/* spark-submit is gone and has named no driver: did the cluster take one all the same? */
static int search_own(struct job *j, struct err *reterr)
{
    struct found f = {0};
    int rc = find_all(j, j->stop ? SPARK_STOP_MS : SUBMITTED_MS, &f, reterr);

    for (size_t i = 0; rc == 0 && i < f.n; i++) {
        if (f.list[i].attempt == j->attempt) {
            j->app = f.list[i];
            return 0;
        }
    }
    return rc;
}

static int exit_code_of(int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

    return code ? code : 1;
}

static int probe(struct job *j, struct err *reterr)
{
    int64_t until = clock_boot_ms() + PROBE_MS;
    int rc = j->kind->probe(j, reterr);

    while (rc < 0 && !j->stop && clock_boot_ms() < until) {
        child_wait(j, POLL_MS);
        rc = j->kind->probe(j, reterr);
    }
    if (j->stop) {
        stopped(j); /* before anything was begun */
    }
    return rc;
}

static int submit(struct job *j, struct err *reterr)
{
    char **argv = arguments(json_object_get(j->order, "submit"));

    int rc = child_start(j, argv, reterr);
    for (size_t i = 0; argv[i]; i++) {
        free(argv[i]);
    }
    free(argv);
    if (rc < 0) {
        return rc;
    }
    while (j->child && !j->stop && !*j->app.id) {
        child_wait(j, POLL_MS);
    }
    if (*j->app.id) {
        return 0;
    }
    child_kill(j);
    rc = search_own(j, reterr);
    if (rc == 0 && !*j->app.id && j->stop) {
        stopped(j);
    }
    if (!*j->app.id) {
        if (rc < 0) {
            say("%s", reterr->text);
        }
        /* Its last words are the cause. */
        _exit(exit_code_of(j->child_status));
    }
    return 0;
}

/* ---- the end ---- */

/* What the driver wrote to SJE_OUTPUT of the attempt that submitted it, where that is this node. */
static void take_output(const struct job *j)
{
    const char *slash = strrchr(j->dir, '/');
    struct buf b CLEANUP(buf_free) = {0};

    if (!j->adopted || !slash) {
        return;
    }
    char *other CLEANUP(freep) =
        xasprintf("%.*s/%s.%d", (int)(slash - j->dir), j->dir, j->task, j->app.attempt);
    buf_init(&b, TASK_OUTPUT_MAX + 1);
    struct err e = {0};
    if (shimdir_read_out(other, "output", &b, NULL) == 0 && b.len &&
        shimdir_write_file(j->out, "output", b.data, b.len, &e) < 0) {
        say("%s", e.text);
    }
}

/* Until it has ended, or is to be. */
static void watch(struct job *j)
{
    int64_t gone_since = 0;
    struct err e = {0};
    bool told = false;

    for (;;) {
        if (j->stop) {
            child_kill(j);
            end_app(j, &j->app);
            stopped(j);
        }
        int rc = j->kind->look(j, &j->app, &e);
        if (rc < 0 && !told) {
            say("%s; asking again", e.text);
        }
        told = rc < 0;
        gone_since = rc < 0 || j->app.state != SPARK_GONE ? 0
                     : gone_since                         ? gone_since
                                                          : clock_boot_ms();
        if (rc == 0 && (j->app.state == SPARK_GONE ? clock_boot_ms() - gone_since >= GONE_MS
                                                   : !spark_state_is_live(j->app.state))) {
            return;
        }
        if (rc == 0 && j->app.state == SPARK_RUNNING) {
            watch_progress(j);
        }
        tell(j, false);
        child_wait(j, POLL_MS);
    }
}

static int load(struct job *j, struct err *reterr)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, SPARK_ORDER_MAX);
    int rc = shimdir_read_file(j->dir, SPARK_ORDER_FILE, &b, reterr);
    rc = rc < 0 ? rc : json_read(b.data ? b.data : "", b.len, &j->order, reterr);
    if (rc < 0) {
        return rc;
    }
    j->task = json_get_string(j->order, "task");
    j->main_class = json_get_string(j->order, "mainClass");
    j->home = json_get_string(j->order, "home");
    j->master = json_get_string(j->order, "master");
    j->rest = json_get_string(j->order, "rest");
    j->uis = json_object_get(j->order, "ui");
    j->attempt = (int32_t)json_get_int(j->order, "attempt", 0);
    j->adopt_failed = json_get_bool(j->order, "adoptFailed", false);
    j->kind = &cluster_standalone;
    j->app.attempt = j->attempt;
    return j->task && j->home && j->master && j->rest && j->attempt > 0
               ? 0
               : err_set(reterr, ERR_PARSE, "%s is incomplete", SPARK_ORDER_FILE);
}

static void take_signals(struct job *j)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    j->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    MUST(j->signals >= 0);
}

int main(int argc, char **argv)
{
    struct job j = {.child_err = -1};
    struct err e = {0};

    if (argc > 1 && streq(argv[1], SPARK_OWN_SITE)) {
        return own_site(argc, argv);
    }
    take_signals(&j);
    if (argc != 2) {
        fprintf(stderr, "usage: sje-spark DIRECTORY (started by sje-shim)\n");
        return 2;
    }
    j.dir = argv[1];
    j.out = shimdir_out(j.dir);
    buf_init(&j.line, 65536);
    int rc = load(&j, &e);
    if (rc == 0 && j.attempt > 1 && take_over(&j, &e) < 0) {
        say("%s", e.text);
        return SPARK_EXIT_UNSURE;
    }
    child_wait(&j, 0);
    if (rc == 0 && !j.adopted) {
        rc = probe(&j, &e);
        rc = rc < 0 ? rc : submit(&j, &e);
    }
    if (rc < 0) {
        say("%s", e.text);
        return 1;
    }
    tell(&j, false); /* its id, before anything else */
    watch(&j);
    child_kill(&j);
    j.kind->collect(&j, &j.app);
    take_output(&j);
    tell(&j, false);
    say("%s: %s", j.app.id, spark_state_name(j.app.state));
    return j.app.state == SPARK_FINISHED ? 0 : 1;
}
