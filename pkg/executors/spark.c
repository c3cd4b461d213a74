/* Spark applications: what spark-submit is told, and how its end is judged. Settings: sparkconf.c;
 * progress: sparkwatch.c; what runs in the cluster: sparkcluster.c. */
#include "internal/str.h"
#include "pkg/executors/common.h"
#include "pkg/executors/executor.h"
#include "pkg/executors/rootcause.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"
#include "pkg/executors/sparkconf.h"
#include "pkg/executors/sparkdeps.h"
#include "pkg/executors/sparkwatch.h"
#include "pkg/executors/taskuser.h"

#include <errno.h>
#include <glob.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL_BYTES (64u << 10)

/* ---- where Spark is ---- */

static bool has_submit(const char *home)
{
    return exec_is_program(home, strlen(home), "bin/spark-submit");
}

/* <venv>/bin/python -> <venv>/lib/python3.x/site-packages/pyspark */
static char *home_of_python(const char *python)
{
    const char *slash = strrchr(python, '/');
    char *bin CLEANUP(freep) = slash ? xstrndup(python, (size_t)(slash - python)) : NULL;
    char *pattern CLEANUP(freep) =
        bin ? xasprintf("%s/../lib/python3*/site-packages/pyspark", bin) : NULL;
    glob_t g = {0};
    char *home = NULL;

    if (pattern && glob(pattern, 0, NULL, &g) == 0 && has_submit(g.gl_pathv[0])) {
        home = realpath(g.gl_pathv[0], NULL);
    }
    globfree(&g);
    return home;
}

static char *home_in_path(void)
{
    struct str path = str_of(getenv("PATH"));

    while (path.len) {
        struct str dir = str_cut(path, ':', &path);
        char *submit CLEANUP(freep) = xasprintf("%.*s/spark-submit", (int)dir.len, dir.p);
        char *real CLEANUP(freep) = exec_is_program("", 0, submit) ? realpath(submit, NULL) : NULL;
        char *slash = real ? strstr(real, "/bin/spark-submit") : NULL;

        if (slash) {
            return xstrndup(real, (size_t)(slash - real));
        }
    }
    return NULL;
}

/* NULL where there is none. */
static char *find_home(const struct exec_node *node)
{
    const char *env = getenv("SPARK_HOME");

    if (*node->spark_home) {
        return has_submit(node->spark_home) ? realpath(node->spark_home, NULL) : NULL;
    }
    if (env && has_submit(env)) {
        return xstrdup(env);
    }
    char *home = home_of_python(node->python);
    return home ? home : home_in_path();
}

static void need_app(struct exec_plan *plan, const char *path)
{
    if (!spark_has_scheme(path)) {
        exec_need(plan, str_ends(str_of(path), STR(".jar")) ? "jar" : "app", path);
    }
}

/* ---- argv ---- */

/* {"p1":"v","p2":{"a":1}} -> --p1 v --p2 {"a":1}, in the order given. */
static void add_parameters(struct exec_plan *plan, const json_t *obj)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        char *name CLEANUP(freep) = xasprintf("--%s", key);
        char *text CLEANUP(freep) =
            json_is_string(v) ? xstrdup(json_string_value(v)) : json_text(v);

        exec_arg(plan, name);
        exec_arg(plan, text);
    }
}

static char *master_of(const struct exec_node *node, const struct task_spec *s)
{
    const char *master = s->master             ? s->master
                         : *node->spark_master ? node->spark_master
                                               : "local[*]";

    if (!s->master && s->cpus > 0 && streq(master, "local[*]")) {
        return xasprintf("local[%d]", (int)ceil(s->cpus));
    }
    return xstrdup(master);
}

static int no_home(const struct exec_node *node, struct err *reterr)
{
    const char *env = getenv("SPARK_HOME");
    const char *named = *node->spark_home ? node->spark_home : env ? env : "";
    char *submit CLEANUP(freep) = xasprintf("%s/bin/spark-submit", named);

    if (*named && !has_submit(named) && exec_is_denied()) {
        return exec_cannot_run(node, submit, reterr);
    }
    return err_set(reterr, ERR_CONFIG,
                   "Spark is not found on this node%s%.50s%s%.150s; set "
                   "executorNodeConfig.spark.home",
                   node->user ? " by " : "", node->user ? node->user->name : "",
                   *node->spark_home ? ": no bin/spark-submit in " : "", node->spark_home);
}

/* Of the setting alone: without it Spark finds one by itself, or a jar needs none. */
static int need_python(const struct exec_node *node, const char *master, struct err *reterr)
{
    const char *python = node->python;

    /* In a cluster it may be there alone where the application runs. */
    if (!*python || !str_starts(str_of(master), STR("local")) ||
        (strchr(python, '/') ? exec_is_program("", 0, python) : exec_in_path(python))) {
        return 0;
    }
    return exec_is_denied()
               ? exec_cannot_run(node, python, reterr)
               : err_set(reterr, ERR_CONFIG,
                         "Python is not found on this node: executorNodeConfig.spark.python is "
                         "%.150s",
                         python);
}

/* spark-env.sh may name one. What it does is known to a shell only. */
static bool site_names_java(const char *home)
{
    const char *conf = getenv("SPARK_CONF_DIR");
    char *path CLEANUP(freep) =
        conf ? xasprintf("%s/spark-env.sh", conf) : xasprintf("%s/conf/spark-env.sh", home);
    FILE *f = fopen(path, "re");
    char line[4096];
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        const char *at = line + strspn(line, " \t");
        found = *at != '#' && (strstr(at, "JAVA_HOME") || strstr(at, "PATH"));
    }
    if (f) {
        fclose(f);
    }
    return found;
}

/* As Spark's own scripts look for it. */
static int need_java(const struct exec_node *node, const char *home, struct err *reterr)
{
    const char *java_home = getenv("JAVA_HOME");
    bool named = java_home && *java_home;
    char *path CLEANUP(freep) = named ? xasprintf("%s/bin/java", java_home) : xstrdup("java");

    if (site_names_java(home) || (named ? exec_is_program("", 0, path) : exec_in_path(path))) {
        return 0;
    }
    if (exec_is_denied()) {
        return exec_cannot_run(node, path, reterr);
    }
    return named ? err_set(reterr, ERR_CONFIG,
                           "Java is not found on this node: no bin/java in JAVA_HOME %.150s",
                           java_home)
                 : err_set(reterr, ERR_CONFIG,
                           "Java is not found on this node: JAVA_HOME is not set, and PATH has "
                           "none");
}

static bool brings(const struct task_spec *s, const char *name)
{
    return s->env && (json_object_get(s->env, name) || json_object_get(s->env, "PATH"));
}

/* What the tasks of this node need (spec NULL), or this one, which may bring a Java and a Python of
 * its own: with the rights that it will have. *ret_home is owned by the caller. */
static int look(const struct exec_node *node, const struct task_spec *s, const char *master,
                char **ret_home, struct err *reterr)
{
    struct task_user_rights r CLEANUP(task_user_end);

    task_user_become(&r, node->user);
    *ret_home = find_home(node);
    int rc = *ret_home ? 0 : no_home(node, reterr);
    rc = rc < 0 || (s && brings(s, "JAVA_HOME")) ? rc : need_java(node, *ret_home, reterr);
    return rc < 0 || (s && brings(s, "PYSPARK_PYTHON")) ? rc : need_python(node, master, reterr);
}

static int spark_able(const struct exec_node *node, struct err *reterr)
{
    char *home CLEANUP(freep) = NULL;

    return look(node, NULL, node->spark_master, &home, reterr);
}

static bool is_utf8(const char *locale_name)
{
    locale_t l = newlocale(LC_CTYPE_MASK, locale_name, (locale_t)0);
    bool yes = l && streq(nl_langinfo_l(CODESET, l), "UTF-8");

    if (l) {
        freelocale(l);
    }
    return yes;
}

/* Where one of them is not, the JVM takes the locale C for all. */
static bool locales_are_there(const struct exec_plan *plan)
{
    bool there = true;

    for (size_t at = 0; at < plan->env.len; at += strlen(plan->env.data + at) + 1) {
        const char *line = plan->env.data + at;
        const char *value = strchr(line, '=') + 1;
        struct str name = {line, (size_t)(value - line) - 1};

        if (*value && (str_starts(name, STR("LC_")) || str_eq(name, STR("LANG")))) {
            locale_t l = newlocale(LC_CTYPE_MASK, value, (locale_t)0);
            there = there && l;
            if (l) {
                freelocale(l);
            }
        }
    }
    return there;
}

/* A JVM reads and writes arguments, paths and variables in the character set of LC_CTYPE, and '?'
 * takes the place of what that has not. The rest of the locale stays as it is. */
static void need_utf8(struct exec_plan *plan)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    const char *now = NULL;
    size_t i = 0;

    if (!locales_are_there(plan)) {
        exec_env_set(plan, "LC_ALL", "C.UTF-8");
        return;
    }
    for (; i < ARRAY_LEN(names); i++) {
        now = exec_env_get(plan, names[i]);
        if (now && *now) {
            break;
        }
    }
    if (now && *now && is_utf8(now)) {
        return;
    }
    if (i == 0) {
        char *all CLEANUP(freep) = xstrdup(now);
        exec_env_set(plan, "LANG", all);
        exec_env_set(plan, "LC_ALL", "");
    }
    exec_env_set(plan, "LC_CTYPE", "C.UTF-8");
}

/* What Spark and Python leave in a directory for temporary files goes with the attempt. */
static void keep_files(struct exec_plan *plan, const struct exec_attempt *a)
{
    char *work CLEANUP(freep) = xasprintf("%s/work", a->dir);
    const char *set = exec_env_get(plan, "SPARK_SUBMIT_OPTS");
    bool named = a->spec->env && json_object_get(a->spec->env, "TMPDIR");

    if (!named) {
        exec_env_set(plan, "TMPDIR", work);
    }
    if (!set || !strstr(set, "java.io.tmpdir")) {
        char *options CLEANUP(freep) =
            xasprintf("%s%s\"-Djava.io.tmpdir=%s\"", set ? set : "", set && *set ? " " : "", work);
        exec_env_set(plan, "SPARK_SUBMIT_OPTS", options);
    }
}

static int spark_prepare(const struct exec_node *node, struct exec_attempt *a,
                         struct exec_plan *plan, struct err *reterr)
{
    const struct task_spec *s = a->spec;
    char *home CLEANUP(freep) = NULL;
    char *master CLEANUP(freep) = master_of(node, s);
    char *app CLEANUP(freep) = spark_absolute(s->app_path);

    int rc = look(node, s, master, &home, reterr);
    if (rc < 0) {
        return rc;
    }
    need_app(plan, app);
    char *submit CLEANUP(freep) = xasprintf("%s/bin/spark-submit", home);
    spark_conf_begin(plan, node, a);
    exec_arg(plan, submit);
    exec_arg(plan, "--master");
    exec_arg(plan, master);
    rc = spark_conf_write(plan, node, a, home, master, reterr);
    if (rc < 0) {
        return rc;
    }
    if (s->main_class) {
        exec_arg(plan, "--class");
        exec_arg(plan, s->main_class);
    }
    exec_arg(plan, app);
    add_parameters(plan, s->parameters);
    for (size_t i = 0; i < json_array_size(s->args); i++) {
        exec_arg(plan, json_string_value(json_array_get(s->args, i)));
    }
    exec_env_begin(plan, node, a);
    exec_env_set(plan, "SPARK_HOME", home);
    if (*node->python) {
        exec_env_set(plan, "PYSPARK_PYTHON", node->python);
    }
    exec_env_add(plan, s->env);
    need_utf8(plan);
    keep_files(plan, a);
    char *mode CLEANUP(freep) = spark_setting(node, a, home, "spark.submit.deployMode");
    plan->detach = streq(mode, "cluster");
    rc = exec_plan_check(plan, reterr);
    if (rc == 0 && spark_cluster_wanted(master, mode)) {
        rc = spark_cluster_prepare(node, a, home, master, plan, reterr);
    }
    return rc;
}

/* ---- the end ---- */

/* Whole lines: where the log is longer, the first that was read began before. */
static struct str tail(const char *dir, const char *stream, struct buf *b)
{
    struct str text;

    buf_init(b, TAIL_BYTES + 1);
    if (shim_log_tail(dir, stream, TAIL_BYTES, b, NULL) < 0) {
        buf_reset(b); /* without a log there is only the exit code to tell */
    }
    text = (struct str){b->len ? b->data : "", b->len};
    if (text.len == TAIL_BYTES) {
        str_cut(text, '\n', &text);
    }
    return text;
}

static void spark_finish(const struct exec_node *node, const struct exec_attempt *a,
                         const struct exec_exit *e, struct exec_result *ret)
{
    struct buf out CLEANUP(buf_free) = {0};
    struct buf err CLEANUP(buf_free) = {0};
    struct exec_exit told = *e;
    char text[1024] = "";
    bool cluster = spark_cluster_is(a->dir);

    (void)node;
    if (e->launched && e->exit_code != 0 && (cluster || !e->signal)) {
        /* In a cluster the process that ended is not the application. */
        struct app_end end = {.exit_code = cluster ? 0 : e->exit_code,
                              .python = str_ends(str_of(a->spec->app_path), STR(".py"))};

        end.out = tail(a->dir, "stdout", &out);
        end.err = tail(a->dir, "stderr", &err);
        int sig = root_cause(&end, text, sizeof(text));
        if (!e->signal && streq(e->reason, "exit")) {
            told.signal = sig;
        }
    }
    if (cluster && spark_cluster_judge(a, e, *text ? text : NULL, ret)) {
        return;
    }
    if (!*text && e->exit_code > 0) {
        snprintf(text, sizeof(text), "exit code %d", e->exit_code);
    }
    exec_finish_process(a, &told, *text ? text : NULL, ret);
}

static int spark_stop_ms(const char *dir)
{
    return spark_cluster_is(dir) ? SPARK_STOP_MS : 0;
}

const struct executor executor_spark = {
    .name = JOB_SPARK,
    .prepare = spark_prepare,
    .able = spark_able,
    .status = spark_status,
    .stop_ms = spark_stop_ms,
    .finish = spark_finish,
};
