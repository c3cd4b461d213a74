#include "pkg/executors/sparkconf.h"

#include "internal/str.h"
#include "pkg/executors/common.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"
#include "pkg/executors/sparkdeps.h"
#include "pkg/executors/sparkprops.h"
#include "pkg/executors/sparkwatch.h"
#include "pkg/executors/taskuser.h"

#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the site's ---- */

static void site_read(const char *home, struct buf *b)
{
    const char *conf = getenv("SPARK_CONF_DIR");
    char *dir CLEANUP(freep) = conf ? xstrdup(conf) : xasprintf("%s/conf", home);

    spark_props_read(dir, b);
}

static char *site_setting(const char *home, const char *key)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, SPARK_PROPERTIES_MAX);
    site_read(home, &b);
    return spark_props_get((struct str){b.data, b.failed ? 0 : b.len}, key);
}

const char *spark_conf_of(const struct exec_node *node, const struct exec_attempt *a,
                          const char *key)
{
    const char *v = a->spec->conf ? json_get_string(a->spec->conf, key) : NULL;

    return v || !node->spark_conf ? v : json_get_string(node->spark_conf, key);
}

/* The task brings a site of its own, which is not ours to look at; NULL: it does not. */
static const char *own_site(const struct exec_attempt *a)
{
    return a->spec->env ? json_get_string(a->spec->env, "SPARK_CONF_DIR") : NULL;
}

char *spark_setting(const struct exec_node *node, const struct exec_attempt *a, const char *home,
                    const char *key)
{
    const char *v = spark_conf_of(node, a, key);

    return v ? xstrdup(v) : own_site(a) ? NULL : site_setting(home, key);
}

/* ---- the properties file ---- */

/* What the application is found again by, on every kind of cluster. */
static const char *const tag_keys[] = {"spark.sje.tag", "spark.yarn.tags",
                                       "spark.kubernetes.driver.label.sje-tag",
                                       "spark.kubernetes.executor.label.sje-tag"};

static void add_tags(struct buf *b, const struct exec_attempt *a)
{
    char task[ID_TEXT_LEN];
    char tag[80];

    id_format(&a->task, task);
    snprintf(tag, sizeof(tag), "sje-%s-%d", task, a->attempt);
    for (size_t i = 0; i < ARRAY_LEN(tag_keys); i++) {
        spark_props_add(b, tag_keys[i], tag);
    }
}

/* Written by us again, behind what a task or a node has set. */
static bool is_ours(const char *key)
{
    for (size_t i = 0; i < ARRAY_LEN(tag_keys); i++) {
        if (streq(key, tag_keys[i])) {
            return true;
        }
    }
    for (size_t i = 0; i < SPARK_LISTS; i++) {
        if (streq(key, spark_lists[i].key)) {
            return true;
        }
    }
    return false;
}

/* Those that the file can hold; the others go into argv. */
static void add_properties(struct buf *b, struct exec_plan *plan, const json_t *obj,
                           const json_t *stronger)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        const char *text = json_string_value(v);

        if (!text || json_object_get(stronger, key)) {
            continue;
        }
        if (task_conf_is_trimmed(text) && !strchr(text, '\r') && !is_ours(key)) {
            char *option CLEANUP(freep) = xasprintf("%s=%s", key, text);
            exec_arg(plan, "--conf");
            exec_arg(plan, option);
        } else {
            spark_props_add(b, key, text);
        }
    }
}

static bool is_local(const char *master)
{
    return strncmp(master, "local", 5) == 0;
}

static void add_resources(struct buf *b, const struct task_spec *s, const char *master)
{
    char text[32];

    if (s->memory_mb > 0) {
        snprintf(text, sizeof(text), "%dm", s->memory_mb);
        spark_props_add(b, is_local(master) ? "spark.driver.memory" : "spark.executor.memory",
                        text);
    }
    if (s->cpus > 0 && !is_local(master)) {
        snprintf(text, sizeof(text), "%d", (int)ceil(s->cpus));
        spark_props_add(b, "spark.cores.max", text);
    }
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* Free now; somebody may take it before the driver does, and then the driver takes the next one. */
static uint16_t free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint16_t port = 0;

    if (fd >= 0) {
        if (bind(fd, (struct sockaddr *)&sa, n) == 0 &&
            getsockname(fd, (struct sockaddr *)&sa, &n) == 0) {
            port = ntohs(sa.sin_port);
        }
        close(fd);
    }
    return port;
}

/* Blocks and what is being shuffled go with the attempt, unless somebody has named a place. */
static void add_local_dir(struct buf *b, const struct exec_node *node, const struct exec_attempt *a,
                          const char *home)
{
    char *set CLEANUP(freep) = spark_setting(node, a, home, "spark.local.dir");

    if (!set) {
        char *work CLEANUP(freep) = xasprintf("%s/work", a->dir);
        spark_props_add(b, "spark.local.dir", work);
    }
}

/* Any port will do for a driver that tells where its UI is; sje-spark has to know the port of one
 * in the cluster. */
static void add_ui_port(struct buf *b, const char *master, const char *mode)
{
    char port[16];

    snprintf(port, sizeof(port), "%u", spark_cluster_wanted(master, mode) ? free_port() : 0);
    if (!streq(mode, "cluster") || spark_cluster_wanted(master, mode)) {
        spark_props_add(b, "spark.ui.port", port);
    }
}

/* Behind what is set already. Of a site that is the task's own sje-spark knows what is set. */
static void add_behind(struct buf *b, const struct exec_node *node, const struct exec_attempt *a,
                       const char *home, enum spark_list list, const char *more)
{
    const struct spark_list_row *row = &spark_lists[list];
    char *setting CLEANUP(freep) = spark_setting(node, a, home, row->key);
    struct str set = str_trim(str_of(setting));
    char *all CLEANUP(freep) =
        set.len ? xasprintf("%.*s%c%s", (int)set.len, set.p, row->sep, more) : xstrdup(more);

    spark_props_add(b, row->key, all);
}

static void add_listener(struct buf *b, const struct exec_node *node, const struct exec_attempt *a,
                         const char *home)
{
    char *jar CLEANUP(freep) =
        node->program_dir ? xasprintf("%s/" SPARK_LISTENER_JAR, node->program_dir) : NULL;

    if (!jar || !task_user_can_read(node->user, jar)) {
        return;
    }
    char *out CLEANUP(freep) = shimdir_out(a->dir);
    char *file CLEANUP(freep) = xasprintf("%s/" SPARK_PROGRESS_FILE, out);
    add_behind(b, node, a, home, SPARK_CLASS_PATH, jar);
    add_behind(b, node, a, home, SPARK_LISTENERS, SPARK_LISTENER);
    spark_props_add(b, "spark.sje.status", file);
}

static int add_task_lists(struct buf *b, struct exec_plan *plan, const struct exec_node *node,
                          const struct exec_attempt *a, const char *home, struct err *reterr)
{
    int rc = 0;

    for (enum spark_list list = 0; list < SPARK_LISTS && rc == 0; list++) {
        struct buf joined CLEANUP(buf_free) = {0};

        buf_init(&joined, SPARK_PROPERTIES_MAX);
        rc = spark_dependencies(plan, a->spec->dependencies, list, &joined, reterr);
        if (rc == 0 && joined.len) {
            add_behind(b, node, a, home, list, joined.data);
        }
    }
    return rc;
}

/* Spark's place for packages is below the home that the password file names. */
static void add_ivy(struct buf *b, const struct exec_node *node, const struct exec_attempt *a)
{
    if (node->user && !*node->user->home) {
        char *ivy CLEANUP(freep) = xasprintf("%s/work/.ivy2", a->dir);
        spark_props_add(b, "spark.jars.ivy", ivy);
    }
}

static char *spark_program(const struct exec_node *node)
{
    return node->program_dir ? xasprintf("%s/" SPARK_PROGRAM, node->program_dir)
                             : xstrdup(SPARK_PROGRAM);
}

void spark_conf_begin(struct exec_plan *plan, const struct exec_node *node,
                      const struct exec_attempt *a)
{
    char *program CLEANUP(freep) = spark_program(node);

    if (!own_site(a)) {
        return;
    }
    exec_arg(plan, program);
    exec_arg(plan, SPARK_OWN_SITE);
    exec_arg(plan, a->dir);
    exec_arg(plan, own_site(a));
    for (size_t i = 0; i < SPARK_LISTS; i++) {
        if (!spark_conf_of(node, a, spark_lists[i].key)) {
            exec_arg(plan, spark_lists[i].key);
        }
    }
    exec_arg(plan, "--");
}

int spark_conf_write(struct exec_plan *plan, const struct exec_node *node,
                     const struct exec_attempt *a, const char *home, const char *master,
                     struct err *reterr)
{
    struct buf b CLEANUP(buf_free) = {0};
    char *out CLEANUP(freep) = shimdir_out(a->dir);
    char *path CLEANUP(freep) = xasprintf("%s/" SPARK_PROPERTIES, own_site(a) ? out : a->dir);
    char *mode CLEANUP(freep) = spark_setting(node, a, home, "spark.submit.deployMode");

    exec_arg(plan, "--properties-file");
    exec_arg(plan, path);
    buf_init(&b, SPARK_PROPERTIES_MAX);
    add_ivy(&b, node, a);
    /* --properties-file makes spark-submit ignore the site's defaults: they come first here. */
    if (own_site(a)) {
        spark_props_add(&b, "spark.submit.deployMode", "client"); /* what SJE has to know */
    } else {
        site_read(home, &b);
    }
    spark_props_add(&b, "spark.app.name",
                    a->spec->job_id && *a->spec->job_id ? a->spec->job_id
                                                        : base_name(a->spec->app_path));
    spark_props_add(&b, "spark.ui.showConsoleProgress", "false");
    /* A main that has ended or thrown ends the application, whatever threads it left. */
    spark_props_add(&b, "spark.submit.callSystemExitOnMainExit", "true");
    add_ui_port(&b, master, mode);
    if (!streq(mode, "cluster") && !own_site(a)) {
        add_local_dir(&b, node, a, home);
    }
    add_properties(&b, plan, node->spark_conf, a->spec->conf);
    add_resources(&b, a->spec, master);
    add_properties(&b, plan, a->spec->conf, NULL);
    add_tags(&b, a);
    if (!streq(mode, "cluster")) {
        add_listener(&b, node, a, home);
    }
    int rc = add_task_lists(&b, plan, node, a, home, reterr);
    if (rc == 0 && b.failed) {
        rc = err_set(reterr, ERR_TOO_LARGE, "conf is over the limit of %u bytes",
                     SPARK_PROPERTIES_MAX);
    }
    return rc < 0 ? rc
                  : shimdir_write_for(a->dir, SPARK_PROPERTIES, b.data, b.len, node->user, reterr);
}
