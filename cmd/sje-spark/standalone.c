/* Spark's own cluster manager, deploy mode cluster.
 *
 * A driver has no tag that the master would tell; but its stderr, which its worker shows at /log/,
 * begins with its command line, and there is every setting in it. So a driver is known by what is
 * first in its log, whatever name the application gives itself. Sources:
 * pkg/executors/sparkmaster.h; deploy/rest/RestSubmissionServer.scala (kill), deploy/Client.scala
 * (the same without REST).
 */
#include "cmd/sje-spark/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HEAD_BYTES  262144 /* of a driver's stderr: its command line, and the application's id */
#define TAIL_BYTES  262144
#define OUTPUT_MAX  (1u << 20)
#define CLOCK_SKEW  ((int64_t)10 * 60 * 1000)
#define DRIVERS_MAX 1000

/* Is it the master that spark-submit talks to? Its name may be spelt otherwise, its port not. */
static bool same_port(const char *url, const char *master)
{
    const char *port = url ? strrchr(url, ':') : NULL;
    size_t n = port ? strlen(port) : 0;

    for (const char *at = n > 1 ? strstr(master, port) : NULL; at; at = strstr(at + 1, port)) {
        if (at[n] == '\0' || at[n] == ',') {
            return true;
        }
    }
    return false;
}

/* The active one of the masters. */
static int ask_master(const struct job *j, json_t **ret, struct err *reterr)
{
    int rc = err_set(reterr, ERR_IO, "no master's page is known");

    for (size_t i = 0; i < json_array_size(j->uis); i++) {
        const char *ui = json_string_value(json_array_get(j->uis, i));
        char *url CLEANUP(freep) = xasprintf("%s/json/", ui);
        json_t *page = NULL;

        rc = http_json("GET", url, &page, reterr);
        if (rc < 0) {
            continue;
        }
        bool ours = same_port(json_get_string(page, "url"), j->master);
        if (ours && spark_master_is_active(page)) {
            *ret = page;
            return 0;
        }
        json_decref(page);
        rc = err_set(reterr, ERR_IO, "%.120s is %s", ui,
                     ours ? "no active master"
                          : "the page of another master; set "
                            "spark.sje.masterUi");
    }
    return rc;
}

static int probe(const struct job *j, struct err *reterr)
{
    json_t *page = NULL;
    int rc = ask_master(j, &page, reterr);

    json_decref(page);
    return rc;
}

/* A piece of a driver's log without the line that the worker puts before it. */
static int read_log(const char *worker_ui, const char *id, const char *stream, const char *range,
                    struct buf *out, struct err *reterr)
{
    char *url CLEANUP(freep) =
        xasprintf("%s/log/?driverId=%s&logType=%s&%s", worker_ui, id, stream, range);

    int rc = http_call("GET", url, out, reterr);
    char *end = rc == 0 && out->len ? memchr(out->data, '\n', out->len) : NULL;
    if (end) {
        buf_shift(out, (size_t)(end - out->data) + 1);
    }
    return rc;
}

static void set_text(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
}

/* What its log says of it. False: this is no driver of our task. */
static int read_head(const struct job *j, struct app *a, bool *ret_ours, struct err *reterr)
{
    struct buf head CLEANUP(buf_free) = {0};
    char range[64];

    snprintf(range, sizeof(range), "offset=0&byteLength=%d", HEAD_BYTES);
    buf_init(&head, OUTPUT_MAX);
    int rc = read_log(a->worker_ui, a->id, "stderr", range, &head, reterr);
    if (rc < 0) {
        return rc;
    }
    struct str text = {head.data ? head.data : "", head.len};
    *ret_ours = spark_driver_tag(text, j->task, &a->attempt, &a->ui_port);
    if (*ret_ours) {
        (void)spark_find_id(text, "Connected to Spark cluster with app ID ", a->application,
                            sizeof(a->application));
    }
    return 0;
}

static void place(struct app *a, const struct spark_driver *d)
{
    a->state = d->state;
    if (d->worker_ui) {
        set_text(a->worker_ui, sizeof(a->worker_ui), d->worker_ui);
        set_text(a->host, sizeof(a->host), d->host);
    }
}

static void add(struct found *f, const struct app *a)
{
    size_t at = f->n;

    if (f->n == FOUND_MAX) {
        f->unsure = true;
        return;
    }
    while (at > 0 && f->list[at - 1].attempt < a->attempt) {
        f->list[at] = f->list[at - 1];
        at--;
    }
    f->list[at] = *a;
    f->n++;
}

/* The time in the task's id, a UUIDv7: nothing of it is older. */
static int64_t born(const struct job *j)
{
    struct id id = {0};
    int64_t ms = 0;

    if (!id_parse(j->task, strlen(j->task), &id)) {
        return 0;
    }
    for (int i = 0; i < 6; i++) {
        ms = ms * 256 + id.b[i];
    }
    return ms;
}

static int find(struct job *j, struct found *ret, struct err *reterr)
{
    json_t *page = NULL;
    int64_t since = born(j) - CLOCK_SKEW;
    int rc = ask_master(j, &page, reterr);

    if (rc < 0) {
        return rc;
    }
    json_auto_t *master = page;
    *ret = (struct found){0};
    for (size_t i = 0; i < MIN(spark_master_driver_count(master), (size_t)DRIVERS_MAX); i++) {
        struct spark_driver d = {0};
        struct app a = {0};
        bool ours = false;

        if (!spark_master_driver_at(master, i, &d) || d.started_at < since ||
            (j->main_class && d.main_class && !streq(d.main_class, j->main_class))) {
            continue;
        }
        set_text(a.id, sizeof(a.id), d.id);
        place(&a, &d);
        if (!*a.worker_ui || read_head(j, &a, &ours, NULL) < 0) {
            /* What is over can do no harm; anything else is asked again. */
            ret->unsure = ret->unsure || spark_state_is_live(d.state);
        } else if (ours) {
            add(ret, &a);
        }
    }
    return 0;
}

static int look(struct job *j, struct app *a, struct err *reterr)
{
    struct spark_driver d = {0};
    json_t *page = NULL;
    bool ours = false;
    int rc = ask_master(j, &page, reterr);

    if (rc < 0) {
        return rc;
    }
    json_auto_t *master = page;
    if (spark_master_driver(master, a->id, &d)) {
        place(a, &d);
    } else {
        a->state = SPARK_GONE;
    }
    if (*a->worker_ui && !*a->application) {
        (void)read_head(j, a, &ours, NULL);
    }
    /* Over when the driver is and the application, with its executors, too. */
    if (!spark_state_is_live(a->state) && spark_master_has_app(master, a->application)) {
        a->state = SPARK_RUNNING;
    }
    return 0;
}

static int kill_by_rest(const struct job *j, const struct app *a)
{
    char *url CLEANUP(freep) = xasprintf("%s/v1/submissions/kill/%s", j->rest, a->id);
    json_t *answer = NULL;
    int rc = *j->rest ? http_json("POST", url, &answer, NULL) : ERR_NOT_FOUND;

    rc = rc == 0 && !json_get_bool(answer, "success", false) ? ERR_PROTOCOL : rc;
    json_decref(answer);
    return rc;
}

/* Spark's own client tells the master over its usual port; that takes a JVM and seconds. */
static int kill_app(struct job *j, const struct app *a, struct err *reterr)
{
    char *program CLEANUP(freep) = xasprintf("%s/bin/spark-class", j->home);
    char *master CLEANUP(freep) = xstrdup(j->master);
    char *id CLEANUP(freep) = xstrdup(a->id);
    char class[] = "org.apache.spark.deploy.Client";
    char verb[] = "kill";
    char *argv[] = {program, class, verb, master, id, NULL};

    if (kill_by_rest(j, a) == 0 || j->child) {
        return 0;
    }
    return child_start(j, argv, reterr);
}

static void copy(const struct app *a, const char *stream, int fd)
{
    struct buf text CLEANUP(buf_free) = {0};
    char range[64];

    snprintf(range, sizeof(range), "byteLength=%d", TAIL_BYTES);
    buf_init(&text, OUTPUT_MAX);
    if (read_log(a->worker_ui, a->id, stream, range, &text, NULL) == 0 && text.len) {
        for (size_t at = 0; at < text.len;) {
            ssize_t n = write(fd, text.data + at, text.len - at);
            if (n <= 0) {
                return;
            }
            at += (size_t)n;
        }
    }
}

static void collect(struct job *j, const struct app *a)
{
    (void)j;
    if (*a->worker_ui) {
        copy(a, "stdout", STDOUT_FILENO);
        copy(a, "stderr", STDERR_FILENO);
    }
}

static bool scan(struct job *j, struct str line, struct app *ret)
{
    static const char *const words[] = {"Driver successfully submitted as ",
                                        "Submission successfully created as "};

    (void)j;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (spark_find_id(line, words[i], ret->id, sizeof(ret->id))) {
            return true;
        }
    }
    return false;
}

const struct cluster_kind cluster_standalone = {
    .name = "standalone",
    .probe = probe,
    .find = find,
    .look = look,
    .kill = kill_app,
    .collect = collect,
    .scan = scan,
};
