/* What spark-submit can carry (docs/spark.md): the rest is refused, with the name of its field. */
#include "pkg/task/spec_priv.h"

#include "internal/redact.h"
#include "internal/str.h"

#include <stdio.h>

/* Of the kinds that Spark knows. */
static bool is_archive(struct str path)
{
    static const char *const kinds[] = {".zip", ".jar", ".tar", ".tar.gz", ".tgz"};

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (str_ends(path, str_of(kinds[i]))) {
            return true;
        }
    }
    return false;
}

/* "s3a://…", "local:…" */
static bool has_scheme(const char *path)
{
    size_t n = strcspn(path, ":/");

    return n > 0 && path[n] == ':';
}

static void check_spark_text(struct check *c, const char *name, const char *text)
{
    if (text && strchr(text, '\r')) {
        spec_problem(c, name, "has a carriage return, which Spark's scripts leave out");
    }
}

/* Of an application or a dependency. True: as far as this goes it is a path that Spark takes. */
static bool check_spark_path(struct check *c, const char *name, struct str path)
{
    for (size_t i = 0; i < path.len; i++) {
        unsigned char ch = (unsigned char)path.p[i];

        if (ch < 0x20 || ch == 0x7f) {
            spec_problem(c, name, "has a control character, which Spark does not take in a path");
            return false;
        }
    }
    if (path.len && (path.p[0] == ' ' || path.p[path.len - 1] == ' ')) {
        spec_problem(c, name, "begins or ends with a space, which Spark cuts off");
        return false;
    }
    if (path.len && memchr(path.p, ',', path.len)) {
        spec_problem(c, name, "has a comma, by which Spark separates paths");
        return false;
    }
    if (path.len && *path.p == '/' && memchr(path.p, ':', path.len)) {
        spec_problem(c, name, "has a colon, which Spark does not take in the name of a file");
        return false;
    }
    return true;
}

static void check_dependency(struct check *c, const char *name, const char *dependency)
{
    struct str alias;
    struct str path = str_cut(str_of(dependency), '#', &alias);
    bool aliased = strchr(dependency, '#');

    if (!check_spark_path(c, name, str_of(dependency))) {
        return;
    }
    if (str_ends(path, STR(".whl"))) {
        spec_problem(
            c, name,
            "is a wheel, which Spark does not load: a wheel of Python alone is a zip, so name "
            "a copy .zip; anything else goes as a packed environment, env.tar.gz#env");
    } else if (aliased && (!is_archive(path) || alias.len == 0)) {
        spec_problem(c, name,
                     "has a '#': an alias goes behind a .zip, .tar, .tar.gz, .tgz or .jar");
    } else if (!has_scheme(dependency) && strpbrk(dependency, "*?[]{}\\")) {
        spec_problem(c, name, "has one of * ? [ ] { } \\, which Spark takes for a pattern");
    }
}

static bool is_cut_off(char ch)
{
    return (unsigned char)ch <= ' ' && ch != '\r' && ch != '\n';
}

bool task_conf_is_trimmed(const char *value)
{
    size_t n = strlen(value);

    return n && (is_cut_off(value[0]) || is_cut_off(value[n - 1]));
}

/* Spark reads the file of settings, and trims what it has read; a value for which that matters goes
 * on the command line, and its scripts leave out carriage returns there. */
static void check_conf(struct check *c, const char *key, const char *value)
{
    char name[96];

    snprintf(name, sizeof(name), "conf.%s", key);
    if (!str_starts(str_of(key), STR("spark."))) {
        spec_problem(
            c, name,
            "is no setting of Spark, which leaves out names without \"spark.\"; a setting of "
            "Hadoop is spark.hadoop.%.40s",
            key);
    } else if (value && task_conf_is_trimmed(value) && strchr(value, '\r')) {
        spec_problem(c, name,
                     "begins or ends with a blank and has a carriage return: spark-submit "
                     "carries either, not both");
    } else if (value && task_conf_is_trimmed(value) && redact_is_secret(str_of(key))) {
        spec_problem(c, name,
                     "begins or ends with a blank: spark-submit takes that on its command line "
                     "only, where everybody can read a secret");
    }
}

static void check_spark_parameter(struct check *c, const char *key, const json_t *v)
{
    char name[96];
    size_t n = json_is_string(v) ? json_string_length(v)
                                 : json_dumpb(v, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY);

    snprintf(name, sizeof(name), "parameters.%s", key);
    if (n > SPEC_ARG_MAX) {
        spec_problem(c, name, SPEC_ARG_TOO_LONG);
    }
    check_spark_text(c, name, key);
    check_spark_text(c, name, json_string_value(v));
}

static void check_spark_lists(struct check *c, const struct task_spec *s)
{
    char name[64];
    const char *key;
    json_t *v;
    size_t i;

    json_array_foreach(s->args, i, v)
    {
        snprintf(name, sizeof(name), "args[%zu]", i);
        check_spark_text(c, name, json_string_value(v));
    }
    json_array_foreach(s->dependencies, i, v)
    {
        snprintf(name, sizeof(name), "dependencies[%zu]", i);
        check_dependency(c, name, json_is_string(v) ? json_string_value(v) : "");
    }
    json_object_foreach((json_t *)(uintptr_t)s->parameters, key, v)
    {
        check_spark_parameter(c, key, v);
    }
    json_object_foreach((json_t *)(uintptr_t)s->conf, key, v)
    {
        check_conf(c, key, json_string_value(v));
    }
}

void spec_check_spark(struct check *c, const struct task_spec *s)
{
    if (!s->app_path) {
        if (!json_object_get(s->json, "sparkAppPath")) {
            spec_problem(c, "sparkAppPath", "is required for " JOB_SPARK ": a .jar or a .py file");
        }
        return;
    }
    struct str path = str_of(s->app_path);
    if (!str_ends(path, STR(".py")) && !str_ends(path, STR(".jar"))) {
        spec_problem(c, "sparkAppPath", "must end in .jar or .py");
    }
    if (path.p[0] == '-') {
        spec_problem(c, "sparkAppPath", "must not begin with '-'");
    }
    if (s->main_class && str_ends(path, STR(".py"))) {
        spec_problem(c, "mainClass", "goes with a .jar, not with a .py");
    }
    if (c->accepted) {
        return; /* by rules of then */
    }
    if (check_spark_path(c, "sparkAppPath", path) && strchr(s->app_path, '#')) {
        spec_problem(c, "sparkAppPath", "has a '#', which Spark takes for the end of the path");
    }
    check_spark_text(c, "mainClass", s->main_class);
    check_spark_text(c, "master", s->master);
    check_spark_lists(c, s);
}
