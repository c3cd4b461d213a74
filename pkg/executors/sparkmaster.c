#include "pkg/executors/sparkmaster.h"

#include <ctype.h>

static const char *const names[] = {
#define X(name, text, meaning) [SPARK_##name] = (text),
    SPARK_STATES(X)
#undef X
};

const char *spark_state_name(enum spark_state s)
{
    return names[s];
}

enum spark_state spark_state_parse(const char *text)
{
    for (size_t i = 1; i < ARRAY_LEN(names); i++) {
        if (streq(text, names[i])) {
            return (enum spark_state)i;
        }
    }
    return SPARK_UNKNOWN;
}

bool spark_state_is_live(enum spark_state s)
{
    return s == SPARK_WAITING || s == SPARK_RUNNING;
}

/* ---- the master's page ---- */

/* The words of DriverState; what is new to us is taken for alive, which can do no harm. */
static enum spark_state driver_state(const char *text)
{
    if (streq(text, "SUBMITTED") || streq(text, "RELAUNCHING")) {
        return SPARK_WAITING;
    }
    enum spark_state s = spark_state_parse(text);
    return s == SPARK_UNKNOWN || s == SPARK_GONE ? SPARK_RUNNING : s;
}

static const json_t *worker_of(const json_t *master, const char *id)
{
    const json_t *workers = json_object_get(master, "workers");

    for (size_t i = 0; id && i < json_array_size(workers); i++) {
        const json_t *w = json_array_get(workers, i);

        if (streq(json_get_string(w, "id"), id) && streq(json_get_string(w, "state"), "ALIVE")) {
            return w;
        }
    }
    return NULL;
}

static int64_t number_of(const json_t *obj, const char *key)
{
    int64_t n = json_get_int(obj, key, 0);

    /* starttime is a text for drivers and a number for applications */
    (void)str_to_i64(str_of(json_get_string(obj, key)), 0, INT64_MAX, &n);
    return n;
}

size_t spark_master_driver_count(const json_t *master)
{
    return json_array_size(json_object_get(master, "activedrivers")) +
           json_array_size(json_object_get(master, "completeddrivers"));
}

bool spark_master_driver_at(const json_t *master, size_t i, struct spark_driver *ret)
{
    const json_t *active = json_object_get(master, "activedrivers");
    size_t n = json_array_size(active);
    const json_t *d = i < n ? json_array_get(active, i)
                            : json_array_get(json_object_get(master, "completeddrivers"), i - n);
    const char *worker = json_get_string(d, "worker");
    const json_t *w = worker_of(master, worker);

    *ret = (struct spark_driver){.id = json_get_string(d, "id"),
                                 .main_class = json_get_string(d, "mainclass"),
                                 .state = driver_state(json_get_string(d, "state")),
                                 .started_at = number_of(d, "starttime"),
                                 .host = json_get_string(w, "host"),
                                 .worker_ui = json_get_string(w, "webuiaddress"),
                                 .placed = worker && !streq(worker, "None")};
    return ret->id && strlen(ret->id) < 64;
}

bool spark_master_driver(const json_t *master, const char *id, struct spark_driver *ret)
{
    for (size_t i = 0; i < spark_master_driver_count(master); i++) {
        if (spark_master_driver_at(master, i, ret) && streq(ret->id, id)) {
            return true;
        }
    }
    return false;
}

bool spark_master_is_active(const json_t *master)
{
    return streq(json_get_string(master, "status"), "ALIVE");
}

bool spark_master_has_app(const json_t *master, const char *id)
{
    const json_t *apps = json_object_get(master, "activeapps");

    for (size_t i = 0; i < json_array_size(apps); i++) {
        if (streq(json_get_string(json_array_get(apps, i), "id"), id)) {
            return true;
        }
    }
    return false;
}

/* ---- a driver's command line ---- */

/* The digits behind `key` in text, up to a quotation mark. */
static bool number_behind(struct str text, const char *key, int64_t max, int64_t *ret)
{
    const char *at = text.len ? memmem(text.p, text.len, key, strlen(key)) : NULL;

    if (!at) {
        return false;
    }
    at += strlen(key);
    struct str rest = {at, text.len - (size_t)(at - text.p)};
    return str_to_i64(str_cut(rest, '"', &rest), 1, max, ret);
}

bool spark_driver_tag(struct str head, const char *task, int32_t *ret_attempt,
                      uint16_t *ret_ui_port)
{
    struct str rest = head;
    struct str command = str_cut(head, '\n', &rest);
    char *key CLEANUP(freep) = xasprintf("\"-Dspark.sje.tag=sje-%s-", task);
    int64_t attempt = 0;
    int64_t port = 0;

    if (!str_starts(command, STR("Launch Command: ")) ||
        !number_behind(command, key, INT32_MAX, &attempt)) {
        return false;
    }
    (void)number_behind(command, "\"-Dspark.ui.port=", UINT16_MAX, &port);
    *ret_attempt = (int32_t)attempt;
    *ret_ui_port = (uint16_t)port;
    return true;
}

bool spark_find_id(struct str text, const char *prefix, char *id, size_t size)
{
    const char *at = text.len ? memmem(text.p, text.len, prefix, strlen(prefix)) : NULL;
    size_t n = 0;

    if (!at) {
        return false;
    }
    at += strlen(prefix);
    while (at + n < text.p + text.len && (isalnum((unsigned char)at[n]) || at[n] == '-')) {
        n++;
    }
    if (n == 0 || n >= size) {
        return false;
    }
    memcpy(id, at, n);
    id[n] = '\0';
    return true;
}
