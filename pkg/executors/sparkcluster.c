#include "pkg/executors/sparkcluster.h"

#include "internal/str.h"
#include "pkg/executors/common.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkconf.h"
#include "pkg/executors/sparkmaster.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define STANDALONE "spark://"

bool spark_cluster_wanted(const char *master, const char *deploy_mode)
{
    return streq(deploy_mode, "cluster") && strncmp(master, STANDALONE, strlen(STANDALONE)) == 0;
}

bool spark_cluster_is(const char *dir)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", dir, SPARK_ORDER_FILE);
    struct stat st = {0};

    return lstat(path, &st) == 0;
}

/* ---- the order ---- */

static void add_url(json_t *list, struct str url)
{
    while (url.len && url.p[url.len - 1] == '/') {
        url.len--;
    }
    json_array_append_new(list, json_string_lossy(url.p, url.len));
}

/* The pages of all masters: as set, "http://a:8080,http://b:8080", else of the hosts in the
 * master's URL, spark://a:7077,b:7077. */
static json_t *pages_of(const char *set, const char *master)
{
    json_t *list = json_array();
    struct str rest = str_of(set ? set : master + strlen(STANDALONE));

    while (rest.len) {
        struct str one = str_trim(str_cut(rest, ',', &rest));
        struct str host = str_cut(one, ':', &(struct str){0});
        char *url CLEANUP(freep) =
            set ? xstrndup(one.p, one.len)
                : xasprintf("http://%.*s:%d", (int)host.len, host.p, SPARK_MASTER_UI_AT);

        add_url(list, str_of(url));
    }
    return list;
}

static json_t *strings_of(const struct buf *b)
{
    json_t *list = json_array();

    for (size_t at = 0; at < b->len; at += strlen(b->data + at) + 1) {
        json_array_append_new(list, json_string_lossy(b->data + at, strlen(b->data + at)));
    }
    return list;
}

int spark_cluster_prepare(const struct exec_node *node, const struct exec_attempt *a,
                          const char *home, const char *master, struct exec_plan *plan,
                          struct err *reterr)
{
    const char *rest = spark_conf_of(node, a, SPARK_MASTER_REST);
    char task[ID_TEXT_LEN];

    id_format(&a->task, task);
    json_auto_t *order =
        json_pack("{s:i, s:s, s:i, s:b, s:s?, s:s, s:s, s:s, s:o, s:o}", "v", 1, "task", task,
                  "attempt", a->attempt,
                  /* An earlier attempt that failed and said so is not to be told again. */
                  "adoptFailed", a->attempt - 1 == a->losses, "mainClass", a->spec->main_class,
                  "home", home, "master", master, "rest", rest ? rest : "", "ui",
                  pages_of(spark_conf_of(node, a, SPARK_MASTER_UI), master), "submit",
                  strings_of(&plan->argv));
    char *program CLEANUP(freep) = node->program_dir
                                       ? xasprintf("%s/" SPARK_PROGRAM, node->program_dir)
                                       : xstrdup(SPARK_PROGRAM);
    struct buf text CLEANUP(buf_free) = {0};

    buf_init(&text, SPARK_ORDER_MAX);
    if (!order || json_write(order, &text) < 0) {
        return err_set(reterr, ERR_INVALID, "this command line cannot be kept for sje-spark");
    }
    buf_reset(&plan->argv);
    exec_arg(plan, program);
    exec_arg(plan, a->dir);
    plan->detach = true;
    plan->hold_term = true; /* also of a cancel that comes at once it has to know */
    return shimdir_write_for(a->dir, SPARK_ORDER_FILE, text.data, text.len, node->user, reterr);
}

/* ---- the status ---- */

int spark_status_read(const char *dir, const char *file, json_t **ret, struct err *reterr)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, SPARK_STATUS_MAX);
    int rc = shimdir_read_out(dir, file, &b, reterr);
    return rc < 0 ? rc : json_read(b.data ? b.data : "", b.len, ret, reterr);
}

/* ---- the end ---- */

static void set_error(struct exec_result *ret, enum exec_outcome o, const char *kind,
                      const char *message)
{
    *ret = (struct exec_result){.outcome = o,
                                .error = json_pack("{s:s, s:o, s:n, s:n}", "kind", kind, "message",
                                                   json_string_lossy(message, strlen(message)),
                                                   "exitCode", "signal")};
}

/* The process that stands for the application was ended before its time. */
static void left_behind(const struct exec_exit *e, const char *id, struct exec_result *ret)
{
    char *text CLEANUP(freep) =
        xasprintf("%s before %s%s was known to have ended; the next attempt looks for it",
                  e->reason, *id ? "the driver " : "its driver", id);

    set_error(ret, EXEC_LOST, "lost", text);
}

bool spark_cluster_judge(const struct exec_attempt *a, const struct exec_exit *e, const char *cause,
                         struct exec_result *ret)
{
    json_t *status = NULL;

    if (!e->launched || spark_status_read(a->dir, SPARK_STATUS_FILE, &status, NULL) < 0) {
        status = NULL;
    }
    json_auto_t *owned = status;
    const char *id = json_get_string(owned, "id");
    enum spark_state state = spark_state_parse(json_get_string(owned, "state"));
    bool asked = streq(e->reason, "cancel") || streq(e->reason, "timeout");

    id = id ? id : "";
    if (asked && !json_get_bool(owned, "gone", false)) {
        left_behind(e, id, ret);
        return true;
    }
    if (!streq(e->reason, "exit") || !e->launched) {
        return false;
    }
    if (e->signal && state < SPARK_FINISHED) {
        left_behind(e, id, ret);
        return true;
    }
    if (e->exit_code == SPARK_EXIT_UNSURE && !*id) {
        set_error(ret, EXEC_LOST, "lost",
                  cause ? cause : "what earlier attempts left in the cluster is not known");
        return true;
    }
    char *text CLEANUP(freep) = NULL;
    switch (state) {
    case SPARK_FAILED:
        text = cause ? xstrdup(cause) : xasprintf("the driver %s failed", id);
        set_error(ret, EXEC_FAILED, "exit", text);
        return true;
    case SPARK_KILLED:
        text = xasprintf("the driver %s was killed by somebody at the Spark master", id);
        set_error(ret, EXEC_FAILED, "killed", text);
        return true;
    case SPARK_ERROR:
        text = xasprintf("the cluster could not run the driver %s, or lost it%s%s", id,
                         cause ? ": " : "", cause ? cause : "");
        set_error(ret, EXEC_FAILED, "launch", text);
        return true;
    case SPARK_GONE:
        text = xasprintf("the Spark master does not know the driver %s any more", id);
        set_error(ret, EXEC_LOST, "lost", text);
        return true;
    case SPARK_UNKNOWN: /* nothing was submitted: spark-submit's own failure */
    case SPARK_FINISHED:
    case SPARK_WAITING:
    case SPARK_RUNNING:
    case SPARK_STATE_COUNT:
        break;
    }
    return false;
}
