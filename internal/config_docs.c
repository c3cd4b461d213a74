/* The settings shown to people: as JSON, with secrets masked, and as the page docs/config.md. */
#include "internal/config_table.h"
#include "internal/redact.h"

#include <stdio.h>

static json_t *mask(const char *value)
{
    return json_string(value && *value ? REDACTED : "");
}

static json_t *shown(const struct config *c, const struct config_row *r)
{
    json_t *v = config_get(c, r);

    if (r->flags & CONFIG_SECRET) {
        json_t *masked = mask(json_string_value(v));

        json_decref(v);
        return masked;
    }
    if (r->kind == CONFIG_MAP) {
        json_t *copy = json_deep_copy(v);

        redact(copy, NULL);
        json_decref(v);
        return copy;
    }
    return v;
}

/* Sets obj[a][b]… for the path "a.b…"; takes v over. */
static void put(json_t *obj, const char *path, json_t *v)
{
    for (struct str rest = str_of(path);;) {
        char name[CONFIG_NAME_MAX];
        struct str part = str_cut(rest, '.', &rest);

        snprintf(name, sizeof(name), "%.*s", (int)part.len, part.p);
        if (rest.len == 0) {
            json_object_set_new(obj, name, v);
            return;
        }
        json_t *inner = json_object_get(obj, name);
        if (!inner) {
            inner = json_object();
            json_object_set_new(obj, name, inner);
        }
        obj = inner;
    }
}

void config_json(const struct config *c, struct buf *out)
{
    json_auto_t *all = json_object();

    for (size_t i = 0; i < config_rows_count; i++) {
        char path[CONFIG_NAME_MAX];

        config_path(&config_rows[i], path);
        put(all, path, shown(c, &config_rows[i]));
    }
    json_write(all, out);
}

/* A `|` would end the cell. */
static void add_cell(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|') {
            buf_addc(out, '\\');
        }
        buf_addc(out, *text);
    }
}

static void add_row(struct buf *out, const struct config_row *r)
{
    struct buf allowed CLEANUP(buf_free);
    char env[CONFIG_NAME_MAX];

    buf_init(&allowed, 512);
    config_allowed(r, &allowed);
    config_env(r, false, env);
    buf_addf(out, "| `%s` | `%s`", r->key, env);
    if (r->flags & CONFIG_SECRET) {
        buf_addf(out, ", `%s_FILE`", env);
    }
    if (config_env(r, true, env)) {
        buf_addf(out, " or `%s`", env);
    }
    buf_adds(out, " | ");
    if (r->kind == CONFIG_LIST) {
        buf_addf(out, "`[%s]`", r->fallback);
    } else {
        buf_addf(out, "`%s`", *r->fallback ? r->fallback : "\"\"");
    }
    buf_adds(out, " | ");
    add_cell(out, r->text);
    buf_adds(out, " | ");
    add_cell(out, allowed.data);
    buf_addf(out, " | %s |\n",
             (r->flags & CONFIG_CLUSTER) == CONFIG_CLUSTER ? "by `PATCH`"
             : r->flags & CONFIG_RELOAD                    ? "yes"
                                                           : "");
}

void config_markdown(struct buf *out)
{
    buf_adds(
        out,
        "# Configuration\n\n"
        "<!-- Generated from internal/config.def by `make docs`. -->\n\n"
        "`sje-executor` reads `sje-config.yaml` from the working directory, else from `/etc/sje/`, "
        "or the\n"
        "file given with `--config`. Every setting can come from the environment, which wins over "
        "the file;\n"
        "without a file the environment alone is enough. `sje-executor --check-config` checks "
        "without\n"
        "starting anything.\n\n"
        "The name in the environment is the prefix of the section and the key in capitals: "
        "`dbConfig.sslMode`\n"
        "is `SJE_DB_SSL_MODE`. Lists are separated by commas there, `spark.conf` is a JSON object. "
        "A secret\n"
        "can be read from a file: `SJE_DB_PASSWORD_FILE=/run/secrets/db`.\n\n"
        "An unknown or repeated key, a wrong type and a value out of range end the start with one "
        "line that\n"
        "names file and line, or the variable. So does a variable that begins like a section and "
        "names no\n"
        "key. Anchors, aliases and tags are refused; a file has at most 1 MiB.\n\n"
        "Settings marked \"reload\" change at run time, on SIGHUP or by `PATCH /mgmt/config`. The "
        "others need a restart.\n");
    for (size_t i = 0; i < config_sections_count; i++) {
        const struct config_section *s = &config_sections[i];

        buf_addf(out,
                 "\n## `%s`\n\n%s\n\n"
                 "| key | environment | default | meaning | allowed | reload |\n"
                 "|---|---|---|---|---|---|\n",
                 s->name, s->text);
        for (size_t k = 0; k < config_rows_count; k++) {
            if (streq(config_rows[k].section, s->name)) {
                add_row(out, &config_rows[k]);
            }
        }
    }
}
