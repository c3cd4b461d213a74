/* Settings that change while the cluster runs: sje set, sje reset. */
#include "cmd/sje/cli.h"

#include <stdlib.h>

/* The section (an object in *now) that holds a setting, and its name there: names of spark.conf
 * hold dots. Sections are made in *patch on the way. */
static struct str descend(struct str path, json_t **now, json_t **patch)
{
    while (!json_object_getn(*now, path.p, path.len)) {
        struct str rest;
        struct str name = str_cut(path, '.', &rest);
        json_t *section = json_object_getn(*now, name.p, name.len);
        json_t *below = json_object_getn(*patch, name.p, name.len);

        if (!rest.len || !json_is_object(section)) {
            break;
        }
        if (!below) {
            below = json_object();
            MUST(json_object_setn_new(*patch, name.p, name.len, below) == 0);
        }
        *now = section;
        *patch = below;
        path = rest;
    }
    return path;
}

/* Of the type that the setting has now; the manager refuses what does not fit. */
static json_t *value_of(struct str text, const json_t *now)
{
    int64_t number = 0;

    if (json_is_integer(now) && str_to_i64(text, INT64_MIN, INT64_MAX, &number)) {
        return json_integer(number);
    }
    if (!json_is_array(now)) {
        return json_string_lossy(text.p, text.len);
    }
    json_t *list = json_array();
    while (text.len) {
        struct str entry = str_trim(str_cut(text, ',', &text));

        MUST(json_array_append_new(list, json_string_lossy(entry.p, entry.len)) == 0);
    }
    return list;
}

static void add_setting(json_t *patch, json_t *now, const char *operand)
{
    struct str text;
    struct str path = str_cut(str_of(operand), '=', &text);
    struct str name = descend(path, &now, &patch);
    json_t *v = strchr(operand, '=') ? value_of(text, json_object_getn(now, name.p, name.len))
                                     : json_null();

    MUST(json_object_setn_new(patch, name.p, name.len, v) == 0);
}

static void show_changed(const struct cli *c, json_t *now, const char *operand)
{
    json_auto_t *unused = json_object();
    json_t *patch = unused;
    struct str rest;
    struct str path = str_cut(str_of(operand), '=', &rest);
    struct str name = descend(path, &now, &patch);
    const json_t *v = json_object_getn(now, name.p, name.len);
    char *text CLEANUP(freep) = v && !json_is_string(v) ? json_text(v) : NULL;

    cli_note(c, "%.*s is %s", (int)path.len, path.p,
             text ? text
             : v  ? json_string_value(v)
                  : "not set");
}

int set_run(struct cli *c)
{
    struct reply now CLEANUP(reply_done) = {0};
    struct reply r CLEANUP(reply_done) = {0};
    json_auto_t *patch = json_object();
    int rc = cli_get(c, "/mgmt/config", "config", &now);

    if (rc != CLI_OK) {
        return rc;
    }
    if (!json_is_object(now.json)) {
        return cli_strange(c, "config");
    }
    for (int i = 0; i < c->operand_count; i++) {
        add_setting(patch, now.json, c->operands[i]);
    }
    char *body CLEANUP(freep) = json_text(patch);
    rc = cli_send(
        c, &(struct request){.method = "PATCH", .path = "/mgmt/config", .body = str_of(body)}, &r);
    if (rc != CLI_OK) {
        return rc;
    }
    if (r.status / 100 != 2) {
        return cli_refused(c, &r, "settings");
    }
    if (!json_is_object(r.json)) {
        return cli_strange(c, "settings");
    }
    if (c->json) {
        cli_print_json(c, &r);
        return CLI_OK;
    }
    for (int i = 0; i < c->operand_count; i++) {
        show_changed(c, r.json, c->operands[i]);
    }
    return CLI_OK;
}
