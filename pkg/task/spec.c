/* What a client may submit: one table of fields, one pass over the object. */
#include "pkg/task/spec_priv.h"

#include "internal/str.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum field_kind {
    F_STRING,
    F_INT,
    F_NUMBER,
    F_STRINGS, /* array of strings */
    F_TEXTS,   /* object of strings; numbers and booleans become strings */
    F_OBJECT,  /* any object */
    F_RESOURCES,
};

enum field_use {
    U_ANY = 0,
    U_SPARK = 1,
    U_COMMAND = 2,
    U_OTHER = 4, /* Noop and plug-ins */
};

struct field {
    const char *name;
    enum field_kind kind;
    int use; /* 0: every jobType */
    int64_t min;
    int64_t max; /* F_STRING: characters; F_STRINGS, F_TEXTS, F_OBJECT: members */
};

#define YEAR_S 31536000

static const struct field fields[] = {
    {"jobType", F_STRING, U_ANY, 1, 128},
    {"jobId", F_STRING, U_ANY, 0, 256},
    {"priority", F_INT, U_ANY, 0, 9},
    {"maxAttempts", F_INT, U_ANY, 1, 100},
    {"retryBackoffSeconds", F_INT, U_ANY, 0, 86400},
    {"timeoutSeconds", F_INT, U_ANY, 0, YEAR_S},
    {"queueTimeoutSeconds", F_INT, U_ANY, 0, YEAR_S},
    {"leaseSeconds", F_INT, U_ANY, 10, 86400},
    {"delaySeconds", F_NUMBER, U_ANY, 0, YEAR_S},
    {"resources", F_RESOURCES, U_ANY, 0, 0},
    {"pool", F_STRING, U_ANY, 1, TASK_POOL_MAX},
    {"labels", F_TEXTS, U_ANY, 0, 64},
    {"sparkAppPath", F_STRING, U_SPARK, 1, 4096},
    {"mainClass", F_STRING, U_SPARK, 1, 512},
    {"dependencies", F_STRINGS, U_SPARK, 0, 1000},
    {"conf", F_TEXTS, U_SPARK, 0, 1000},
    {"master", F_STRING, U_SPARK, 1, 1024},
    {"parameters", F_OBJECT, U_SPARK | U_OTHER, 0, 1000},
    {"args", F_STRINGS, U_SPARK | U_OTHER, 0, 10000},
    {"env", F_TEXTS, U_SPARK | U_COMMAND | U_OTHER, 0, 1000},
    {"command", F_STRINGS, U_COMMAND, 1, 10000},
    {"cwd", F_STRING, U_COMMAND | U_OTHER, 1, 4096},
    {"stdin", F_STRING, U_COMMAND, 0, 1048576},
};

#define OWN_PREFIX "SJE_" /* of variables that say which attempt a process belongs to */

void spec_problem(struct check *c, const char *field, const char *fmt, ...)
{
    struct task_problem *p;
    va_list ap;

    c->failed = true;
    if (c->problems->count == TASK_PROBLEMS_MAX) {
        return;
    }
    p = &c->problems->list[c->problems->count++];
    snprintf(p->field, sizeof(p->field), "%s%s", c->prefix, field);
    va_start(ap, fmt);
    vsnprintf(p->message, sizeof(p->message), fmt, ap);
    va_end(ap);
    str_make_printable(p->field, sizeof(p->field));
    str_make_printable(p->message, sizeof(p->message));
}

static const char *kind_text(enum field_kind k)
{
    switch (k) {
    case F_STRING:
        return "a string";
    case F_INT:
        return "an integer";
    case F_NUMBER:
        return "a number";
    case F_STRINGS:
        return "an array of strings";
    case F_TEXTS:
        return "an object of strings";
    case F_OBJECT:
    case F_RESOURCES:
        return "an object";
    }
    UNREACHABLE("unknown kind of field");
}

static size_t characters(const char *s)
{
    size_t n = 0;

    for (; *s; s++) {
        n += ((unsigned char)*s & 0xc0) != 0x80;
    }
    return n;
}

static void check_string(struct check *c, const struct field *f, const json_t *v)
{
    size_t n = characters(json_string_value(v));

    if ((int64_t)n < f->min) {
        spec_problem(c, f->name, "must not be empty");
    } else if ((int64_t)n > f->max) {
        spec_problem(c, f->name, "has %zu characters, at most %lld are allowed", n,
                     (long long)f->max);
    }
}

/* JSON knows one kind of number: 5.0 is the integer 5. */
static bool integral(const json_t *v, int64_t *ret)
{
    if (json_is_integer(v)) {
        *ret = json_integer_value(v);
        return true;
    }
    double d = json_is_real(v) ? json_real_value(v) : (double)NAN;
    if (!(d >= -9e15 && d <= 9e15) || d != floor(d)) {
        return false;
    }
    *ret = (int64_t)d;
    return true;
}

static void check_int(struct check *c, const char *name, const json_t *v, int64_t min, int64_t max,
                      int *ret)
{
    int64_t n = 0;

    if (!integral(v, &n)) {
        spec_problem(c, name, "must be an integer from %lld to %lld", (long long)min,
                     (long long)max);
    } else if (n < min || n > max) {
        spec_problem(c, name, "is %lld, allowed are %lld to %lld", (long long)n, (long long)min,
                     (long long)max);
    } else if (ret) {
        *ret = (int)n;
    }
}

static void check_number(struct check *c, const char *name, const json_t *v, double min, double max,
                         double *ret)
{
    double d = json_is_number(v) ? json_number_value(v) : (double)NAN;

    if (!(d >= min && d <= max)) {
        spec_problem(c, name, "must be a number from %.15g to %.15g", min, max);
    } else if (ret) {
        *ret = d;
    }
}

static void check_strings(struct check *c, const struct field *f, const json_t *v)
{
    size_t i;
    json_t *item;

    if ((int64_t)json_array_size(v) < f->min) {
        spec_problem(c, f->name, "must not be empty");
    } else if ((int64_t)json_array_size(v) > f->max) {
        spec_problem(c, f->name, "has %zu entries, at most %lld are allowed", json_array_size(v),
                     (long long)f->max);
    }
    json_array_foreach(v, i, item)
    {
        char name[64];

        snprintf(name, sizeof(name), "%s[%zu]", f->name, i);
        if (!json_is_string(item)) {
            spec_problem(c, name, "must be a string");
        } else if (json_string_length(item) > SPEC_ARG_MAX) {
            spec_problem(c, name, SPEC_ARG_TOO_LONG);
        }
    }
}

/* "{"spark.executor.instances": 2}" is what people write: scalars are taken as their text. */
static void check_texts(struct check *c, const struct field *f, json_t *obj)
{
    const char *key;
    json_t *v;
    void *tmp;

    if ((int64_t)json_object_size(obj) > f->max) {
        spec_problem(c, f->name, "has %zu members, at most %lld are allowed", json_object_size(obj),
                     (long long)f->max);
    }
    json_object_foreach_safe(obj, tmp, key, v)
    {
        char name[96];

        snprintf(name, sizeof(name), "%s.%s", f->name, key);
        if (*key == '\0' || strlen(key) > 512) {
            spec_problem(c, f->name, "has a name that is empty or longer than 512 bytes");
        } else if (streq(f->name, "env") && strchr(key, '=')) {
            spec_problem(c, name, "must not contain '='");
        } else if (streq(f->name, "env") && str_starts(str_of(key), STR(OWN_PREFIX)) &&
                   !c->accepted) {
            spec_problem(c, name, "is set by SJE itself; names must not begin with " OWN_PREFIX);
        } else if (json_is_number(v) || json_is_boolean(v)) {
            char *text CLEANUP(freep) = json_text(v);
            json_object_set_new(obj, key, json_string(text));
        } else if (json_is_null(v) && !c->accepted) {
            json_object_del(obj, key);
        } else if (!json_is_string(v)) {
            spec_problem(c, name, "must be a string");
        } else if (json_string_length(v) > 65536) {
            spec_problem(c, name, "is longer than 65536 bytes");
        }
    }
}

static void check_parameters(struct check *c, const struct field *f, json_t *obj)
{
    const char *key;
    json_t *v;

    if ((int64_t)json_object_size(obj) > f->max) {
        spec_problem(c, f->name, "has %zu members, at most %lld are allowed", json_object_size(obj),
                     (long long)f->max);
    }
    json_object_foreach(obj, key, v)
    {
        if (*key == '\0' || strlen(key) > 512) {
            spec_problem(c, f->name, "has a name that is empty or longer than 512 bytes");
        }
    }
}

static void check_resources(struct check *c, json_t *obj, struct task_spec *s)
{
    const char *key;
    json_t *v;
    void *tmp;

    json_object_foreach_safe(obj, tmp, key, v)
    {
        if (json_is_null(v) && !c->accepted) {
            json_object_del(obj, key);
        } else if (streq(key, "slots")) {
            check_int(c, "resources.slots", v, 1, 10000, &s->slots);
        } else if (streq(key, "cpus")) {
            check_number(c, "resources.cpus", v, 0, 100000, &s->cpus);
        } else if (streq(key, "memoryMb")) {
            check_int(c, "resources.memoryMb", v, 0, 1 << 30, &s->memory_mb);
        } else {
            char name[96];

            snprintf(name, sizeof(name), "resources.%s", key);
            spec_problem(c, name, "is not known; resources has slots, cpus and memoryMb");
        }
    }
}

static bool right_kind(const struct field *f, const json_t *v)
{
    switch (f->kind) {
    case F_STRING:
        return json_is_string(v);
    case F_INT:
    case F_NUMBER:
        return json_is_number(v);
    case F_STRINGS:
        return json_is_array(v);
    case F_TEXTS:
    case F_OBJECT:
    case F_RESOURCES:
        return json_is_object(v);
    }
    UNREACHABLE("unknown kind of field");
}

static const struct field *field_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (strcmp(fields[i].name, name) == 0) {
            return &fields[i];
        }
    }
    return NULL;
}

static void check_field(struct check *c, const struct field *f, json_t *v, struct task_spec *s)
{
    if (!right_kind(f, v)) {
        spec_problem(c, f->name, "must be %s", kind_text(f->kind));
        return;
    }
    switch (f->kind) {
    case F_STRING:
        check_string(c, f, v);
        break;
    case F_INT:
        check_int(c, f->name, v, f->min, f->max, NULL);
        break;
    case F_NUMBER:
        check_number(c, f->name, v, (double)f->min, (double)f->max, NULL);
        break;
    case F_STRINGS:
        check_strings(c, f, v);
        break;
    case F_TEXTS:
        check_texts(c, f, v);
        break;
    case F_OBJECT:
        check_parameters(c, f, v);
        break;
    case F_RESOURCES:
        check_resources(c, v, s);
        break;
    }
}

static void list_types(const struct task_types *types, char *text, size_t n)
{
    size_t len = 0;

    text[0] = '\0';
    for (size_t i = 0; types->names[i] && len < n; i++) {
        len += (size_t)snprintf(text + len, n - len, "%s%s", i ? ", " : "", types->names[i]);
    }
}

/* The canonical spelling, or NULL with a problem. */
static const char *find_type(struct check *c, const json_t *j, const struct task_types *types)
{
    char all[160];
    const json_t *v = json_object_get(j, "jobType");
    struct str name = str_trim(str_of(json_string_value(v)));

    for (size_t i = 0; json_is_string(v) && types->names[i]; i++) {
        if (str_ieq(name, str_of(types->names[i]))) {
            return types->names[i];
        }
    }
    list_types(types, all, sizeof(all));
    if (!v || json_is_null(v)) {
        spec_problem(c, "jobType", "is required; one of %s", all);
    } else if (!json_is_string(v)) {
        spec_problem(c, "jobType", "must be a string; one of %s", all);
    } else {
        spec_problem(
            c, "jobType",
            "\"%.40s\" is not known; one of %s; a plug-in must be in this manager's pluginDir "
            "when it starts",
            json_string_value(v), all);
    }
    return NULL;
}

static int use_of(const char *type)
{
    return streq(type, JOB_SPARK) ? U_SPARK : streq(type, JOB_COMMAND) ? U_COMMAND : U_OTHER;
}

static void check_pool(struct check *c, const char *pool)
{
    if (*pool && strlen(pool) <= TASK_POOL_MAX && !task_pool_good(pool)) {
        spec_problem(c, "pool", "may have lower-case letters, digits and '-' (not first)");
    }
}

static void check_command(struct check *c, const struct task_spec *s)
{
    if (!json_object_get(s->json, "command")) {
        spec_problem(c, "command",
                     "is required for " JOB_COMMAND ": an array of strings, run without a shell");
    } else if (s->command && json_array_size(s->command) &&
               streq(json_string_value(json_array_get(s->command, 0)), "")) {
        spec_problem(c, "command[0]", "names the program and must not be empty");
    }
}

static int int_of(const json_t *j, const char *key, int fallback)
{
    int64_t n = fallback;
    const json_t *v = json_object_get(j, key);

    return v && integral(v, &n) ? (int)MIN(MAX(n, (int64_t)INT32_MIN), (int64_t)INT32_MAX)
                                : fallback;
}

static const json_t *member(const json_t *j, const char *key, bool array)
{
    const json_t *v = json_object_get(j, key);

    return (array ? json_is_array(v) : json_is_object(v)) ? v : NULL;
}

static void fill(struct task_spec *s)
{
    const json_t *j = s->json;
    double delay = json_number_value(json_object_get(j, "delaySeconds"));

    s->job_id = json_get_string(j, "jobId");
    s->priority = int_of(j, "priority", TASK_PRIORITY_DEFAULT);
    s->max_attempts = int_of(j, "maxAttempts", 1);
    s->backoff_s = int_of(j, "retryBackoffSeconds", 5);
    s->timeout_s = int_of(j, "timeoutSeconds", 0);
    s->queue_timeout_s = int_of(j, "queueTimeoutSeconds", 0);
    s->lease_s = int_of(j, "leaseSeconds", 0);
    s->delay_ms = delay > 0 && delay <= YEAR_S ? (int64_t)(delay * 1000) : 0;
    s->pool = json_get_string(j, "pool");
    s->pool = s->pool ? s->pool : "default";
    s->labels = member(j, "labels", false);
    s->app_path = json_get_string(j, "sparkAppPath");
    s->main_class = json_get_string(j, "mainClass");
    s->parameters = member(j, "parameters", false);
    s->args = member(j, "args", true);
    s->dependencies = member(j, "dependencies", true);
    s->conf = member(j, "conf", false);
    s->master = json_get_string(j, "master");
    s->command = member(j, "command", true);
    s->env = member(j, "env", false);
    s->cwd = json_get_string(j, "cwd");
    s->stdin_text = json_get_string(j, "stdin");
}

static void check_members(struct check *c, struct task_spec *s)
{
    const char *key;
    json_t *v;
    void *tmp;
    int use = s->job_type ? use_of(s->job_type) : 0;

    json_object_foreach_safe(s->json, tmp, key, v)
    {
        const struct field *f = field_find(key);

        if (f && json_is_null(v) && !c->accepted) {
            json_object_del(s->json, key); /* as if it were not there */
            continue;
        }
        if (!f) {
            spec_problem(c, key, "is not a known field");
        } else if (use && f->use && !(f->use & use)) {
            spec_problem(c, key, "is not a field of a %s task", s->job_type);
        } else if (!streq(key, "jobType")) {
            check_field(c, f, v, s);
        }
    }
}

static struct task_spec *parse(json_t *j, const struct task_types *types, const char *prefix,
                               bool accepted, struct task_problems *problems)
{
    struct check c = {.prefix = prefix, .accepted = accepted, .problems = problems};

    if (!json_is_object(j)) {
        size_t n = strlen(prefix); /* "tasks[7]." names the entry itself as tasks[7] */
        char *entry CLEANUP(freep) = xstrndup(prefix, n ? n - 1 : 0);

        c.prefix = entry;
        spec_problem(&c, "", "must be an object that describes a task");
        return NULL;
    }
    struct task_spec *s CLEANUP(task_spec_freep) = xmalloc(sizeof(*s));
    s->json = json_incref(j);
    s->slots = 1;
    s->job_type = find_type(&c, j, types);
    check_members(&c, s);
    fill(s);
    check_pool(&c, s->pool);
    if (streq(s->job_type, JOB_SPARK)) {
        spec_check_spark(&c, s);
    } else if (streq(s->job_type, JOB_COMMAND)) {
        check_command(&c, s);
    }
    if (c.failed) {
        return NULL;
    }
    if (!streq(json_get_string(j, "jobType"), s->job_type)) {
        json_object_set_new(j, "jobType", json_string(s->job_type));
    }
    return STEAL(s);
}

struct task_spec *task_spec_parse(json_t *j, const struct task_types *types, const char *prefix,
                                  struct task_problems *problems)
{
    return parse(j, types, prefix, false, problems);
}

struct task_spec *task_spec_parse_accepted(json_t *j, const struct task_types *types,
                                           struct task_problems *problems)
{
    return parse(j, types, "", true, problems);
}

void task_spec_free(struct task_spec *s)
{
    if (s) {
        json_decref(s->json);
        free(s);
    }
}

void task_spec_freep(struct task_spec **s)
{
    task_spec_free(*s);
    *s = NULL;
}
