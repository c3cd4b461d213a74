/* PATCH /mgmt/config: a JSON merge patch (RFC 7396) of the settings that were changed at run time.
 */
#include "api/call.h"

#include "internal/redact.h"

#include <stdio.h>

static void merge(json_t *into, const json_t *patch)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)patch, key, v)
    {
        json_t *old = json_object_get(into, key);

        if (json_is_null(v)) {
            (void)json_object_del(into, key); /* fine where it is not there */
        } else if (json_is_object(v)) {
            if (!json_is_object(old)) {
                old = json_object();
                MUST(json_object_set_new(into, key, old) == 0);
            }
            merge(old, v);
        } else {
            MUST(json_object_set(into, key, v) == 0);
        }
    }
}

static json_t *conf_of(const json_t *patch)
{
    return json_object_get(json_object_get(json_object_get(patch, "executorNodeConfig"), "spark"),
                           "conf");
}

/* The patch without what it takes out of spark.conf, whose keys are free. All others must be known,
 * those that are given back too. */
static json_t *keys_of(const json_t *patch)
{
    json_t *copy = json_deep_copy(patch);
    json_t *conf = conf_of(copy);
    const char *key;
    json_t *v;
    void *next;

    json_object_foreach_safe(conf, next, key, v)
    {
        if (json_is_null(v)) {
            (void)json_object_del(conf, key);
        }
    }
    return copy;
}

/* The patch as the audit shows it: spark.conf may hold secrets. */
static json_t *audit_of(const json_t *patch)
{
    json_t *copy = json_deep_copy(patch);
    json_t *conf = conf_of(copy);
    const char *key;
    json_t *v;

    json_object_foreach(conf, key, v)
    {
        MUST(json_object_set_new(conf, key, json_string(REDACTED)) == 0);
    }
    return copy;
}

/* The configuration names the key, then ": " and what is wrong. */
static void answer_invalid(struct call *c, const struct err *why)
{
    struct str what;
    struct str field = str_cut(str_of(why->text), ':', &what);
    char name[128];

    snprintf(name, sizeof(name), "%.*s", (int)MIN(field.len, sizeof(name) - 1), field.p);
    what = str_trim(what);
    call_invalid(c, name, "%.*s", (int)what.len, what.p);
}

static const json_t *dead_after_of(const json_t *settings)
{
    return json_object_get(json_object_get(settings, "executorNodeConfig"), "deadAfterSeconds");
}

/* What a configuration alone cannot tell. */
static int check_workers(struct call *c, const json_t *patch, struct err *reterr)
{
    const json_t *v = dead_after_of(patch);

    return v ? manager_check_dead_after(c->api->manager, (int)json_integer_value(v), reterr) : 0;
}

static void on_changed(void *arg, int rc, const struct err *why)
{
    if (rc < 0) {
        call_error(arg, rc, why);
    } else {
        api_mgmt_config(arg);
    }
}

void api_mgmt_config_patch(struct call *c)
{
    struct str body = http_body(c->request);
    const json_t *now = manager_settings(c->api->manager);
    struct config *checked CLEANUP(config_freep) = NULL;
    json_auto_t *patch = NULL;
    json_auto_t *all = json_deep_copy(now);
    json_auto_t *audit = NULL;
    json_auto_t *keys = NULL;
    struct err why = {0};

    if (json_read(body.p, body.len, &patch, &why) < 0) {
        call_problem(c, 400, "the body is not JSON: %s", why.text);
        return;
    }
    if (!json_is_object(patch)) {
        call_invalid(c, "", "must be an object");
        return;
    }
    if (!now) {
        call_error(c, ERR_DB_DOWN, NULL);
        return;
    }
    keys = keys_of(patch);
    if (config_patch(c->api->config, keys, &checked, &why) < 0) {
        answer_invalid(c, &why);
        return;
    }
    config_freep(&checked);
    checked = NULL;
    merge(all, patch);
    if (config_patch(c->api->config, all, &checked, &why) < 0 ||
        check_workers(c, patch, &why) < 0) {
        answer_invalid(c, &why);
        return;
    }
    audit = audit_of(patch);
    manager_change_settings(c->api->manager, all, audit, on_changed, c);
}
