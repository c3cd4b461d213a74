/* Reads one YAML document event by event. Only what the table knows is ever descended into, so
 * depth and size are bounded by the table; anchors, aliases and tags are refused. */
#include "internal/config_table.h"

#include <stdio.h>
#include <yaml.h>

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    const char *name;
    struct config *config;
    json_t *seen; /* object: the paths that were set */
    bool secret;  /* a secret other than its default was set */
};

static void reader_done(struct reader *r)
{
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    json_decref(r->seen);
}

static int line_of(const struct reader *r)
{
    return (int)r->event.start_mark.line + 1;
}

static int fail(const struct reader *r, struct err *reterr, const char *fmt, ...) PRINTF(3, 4);
static int fail(const struct reader *r, struct err *reterr, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_set(reterr, ERR_CONFIG, "%s:%d: %s", r->name, line_of(r), text);
}

static int next(struct reader *r, struct err *reterr)
{
    const yaml_parser_t *p = &r->parser;

    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        size_t line = p->error == YAML_READER_ERROR ? p->mark.line : p->problem_mark.line;

        return err_set(reterr, ERR_CONFIG, "%s:%d: %s%s%s", r->name, (int)line + 1,
                       p->problem ? p->problem : "cannot be parsed", p->context ? " " : "",
                       p->context ? p->context : "");
    }
    return 0;
}

static bool is_plain_null(const yaml_event_t *e)
{
    const char *s = (const char *)e->data.scalar.value;

    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (*s == '\0' || streq(s, "~") || str_ieq(str_of(s), STR("null")));
}

/* Refuses what no setting needs and what a bomb is made of. */
static int check_node(const struct reader *r, struct err *reterr)
{
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL;
    const yaml_char_t *tag = NULL;

    if (e->type == YAML_ALIAS_EVENT) {
        return fail(r, reterr, "aliases (*name) are not allowed");
    }
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    return anchor ? fail(r, reterr, "anchors (&name) are not allowed")
           : tag  ? fail(r, reterr, "tags (!name) are not allowed")
                  : 0;
}

static int next_node(struct reader *r, struct err *reterr)
{
    int rc = next(r, reterr);

    return rc < 0 ? rc : check_node(r, reterr);
}

static int refuse_shape(const struct reader *r, const struct config_row *row, const char *what,
                        struct err *reterr)
{
    struct buf allowed CLEANUP(buf_free);
    char path[CONFIG_NAME_MAX];

    buf_init(&allowed, 256);
    config_path(row, path);
    config_allowed(row, &allowed);
    return fail(r, reterr, "%s: %s; allowed is %s", path, what, allowed.data);
}

/* The text of the current scalar; NULL (with reterr) where there is none. */
static json_t *scalar(const struct reader *r, const struct config_row *row, struct err *reterr)
{
    const yaml_event_t *e = &r->event;
    int64_t n = 0;

    if (e->type != YAML_SCALAR_EVENT) {
        refuse_shape(r, row, "has the wrong type", reterr);
        return NULL;
    }
    struct str text = {(const char *)e->data.scalar.value, e->data.scalar.length};
    if (is_plain_null(e)) {
        refuse_shape(r, row, "has no value (\"\" is an empty text)", reterr);
        return NULL;
    }
    bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    json_t *v = row->kind == CONFIG_INT && plain && str_to_i64(text, INT64_MIN, INT64_MAX, &n)
                    ? json_integer(n)
                    : json_stringn(text.p, text.len);
    MUST(v); /* libyaml lets only UTF-8 through */
    return v;
}

static int read_list(struct reader *r, const struct config_row *row, json_t *list,
                     struct err *reterr)
{
    for (;;) {
        int rc = next_node(r, reterr);

        if (rc < 0) {
            return rc;
        }
        if (r->event.type == YAML_SEQUENCE_END_EVENT) {
            return 0;
        }
        json_t *v = scalar(r, row, reterr);
        if (!v) {
            return ERR_CONFIG;
        }
        json_array_append_new(list, v);
        if ((int64_t)json_array_size(list) > row->max) {
            return refuse_shape(r, row, "has too many entries", reterr);
        }
    }
}

static int read_map(struct reader *r, const struct config_row *row, json_t *map, struct err *reterr)
{
    for (;;) {
        int rc = next_node(r, reterr);

        if (rc < 0) {
            return rc;
        }
        if (r->event.type == YAML_MAPPING_END_EVENT) {
            return 0;
        }
        json_auto_t *key = scalar(r, row, reterr);
        if (!key) {
            return ERR_CONFIG;
        }
        const char *name = json_string_value(key);
        if (strlen(name) != json_string_length(key) || json_object_get(map, name)) {
            return fail(r, reterr, "%.100s: is set twice or holds a NUL", name);
        }
        rc = next_node(r, reterr);
        if (rc < 0) {
            return rc;
        }
        json_t *v = scalar(r, row, reterr);
        if (!v) {
            return ERR_CONFIG;
        }
        json_object_set_new(map, name, v);
        if ((int64_t)json_object_size(map) > row->max) {
            return refuse_shape(r, row, "has too many entries", reterr);
        }
    }
}

/* The current event begins the value of `row`. */
static int read_value(struct reader *r, const struct config_row *row, struct err *reterr)
{
    json_auto_t *v = NULL;
    char where[256];
    int rc = 0;

    snprintf(where, sizeof(where), "%.200s:%d", r->name, line_of(r));
    if (row->kind == CONFIG_LIST && r->event.type == YAML_SEQUENCE_START_EVENT) {
        v = json_array();
        rc = read_list(r, row, v, reterr);
    } else if (row->kind == CONFIG_MAP && r->event.type == YAML_MAPPING_START_EVENT) {
        v = json_object();
        rc = read_map(r, row, v, reterr);
    } else {
        v = scalar(r, row, reterr);
        rc = v ? 0 : ERR_CONFIG;
    }
    if (rc < 0) {
        return rc;
    }
    const char *text = json_string_value(v);
    if ((row->flags & CONFIG_SECRET) && text && *text && !streq(text, row->fallback)) {
        r->secret = true;
    }
    return config_set(r->config, row, v, where, reterr);
}

static int refuse_key(const struct reader *r, struct str group, const char *key, struct err *reterr)
{
    struct buf known CLEANUP(buf_free);

    buf_init(&known, 512);
    config_known(group, &known);
    return fail(r, reterr, "%.*s%s%.60s: unknown key; known are %s", (int)group.len, group.p,
                group.len ? "." : "", key, known.data);
}

/* Behind the start of a mapping: its keys, up to its end. */
static int read_group(struct reader *r, struct str group, struct err *reterr)
{
    for (;;) {
        char path[2 * CONFIG_NAME_MAX];
        int rc = next_node(r, reterr);

        if (rc < 0) {
            return rc;
        }
        if (r->event.type == YAML_MAPPING_END_EVENT) {
            return 0;
        }
        if (r->event.type != YAML_SCALAR_EVENT) {
            return fail(r, reterr, "a key must be a name");
        }
        const char *key = (const char *)r->event.data.scalar.value;
        int n = snprintf(path, sizeof(path), "%.*s%s%s", (int)group.len, group.p,
                         group.len ? "." : "", key);
        const struct config_row *row = config_find(str_of(path));
        bool is_group = !row && config_is_group(str_of(path));
        /* A key with a dot ("spark.home") is one name to YAML and none of ours. */
        if (n >= (int)sizeof(path) || (!row && !is_group) || strchr(key, '.') ||
            strlen(key) != r->event.data.scalar.length) {
            return refuse_key(r, group, key, reterr);
        }
        if (json_object_get(r->seen, path)) {
            return fail(r, reterr, "%s: is set twice", path);
        }
        json_object_set_new(r->seen, path, json_true());
        rc = next_node(r, reterr);
        if (rc == 0 && row) {
            rc = read_value(r, row, reterr);
        } else if (rc == 0 && r->event.type == YAML_MAPPING_START_EVENT) {
            rc = read_group(r, str_of(path), reterr); /* as deep as the table */
        } else if (rc == 0 && !(r->event.type == YAML_SCALAR_EVENT && is_plain_null(&r->event))) {
            rc = fail(r, reterr, "%s: must hold keys, not a value", path);
        }
        if (rc < 0) {
            return rc;
        }
    }
}

static int read_document(struct reader *r, struct err *reterr)
{
    int rc = next_node(r, reterr);

    if (rc == 0 && r->event.type == YAML_MAPPING_START_EVENT) {
        rc = read_group(r, STR(""), reterr);
    } else if (rc == 0 && !(r->event.type == YAML_SCALAR_EVENT && is_plain_null(&r->event))) {
        rc = fail(r, reterr, "must hold keys, not a value");
    }
    if (rc == 0) {
        rc = next(r, reterr); /* the document's end */
    }
    if (rc == 0) {
        rc = next(r, reterr);
    }
    if (rc == 0 && r->event.type != YAML_STREAM_END_EVENT) {
        rc = fail(r, reterr, "holds more than one document");
    }
    return rc;
}

int config_read_yaml(struct config *c, const char *name, struct str text, bool *ret_secret,
                     struct err *reterr)
{
    struct reader r CLEANUP(reader_done) = {.name = name, .config = c, .seen = json_object()};

    MUST(yaml_parser_initialize(&r.parser));
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text.p, text.len);
    int rc = next(&r, reterr); /* the stream's start */
    if (rc == 0) {
        rc = next(&r, reterr);
    }
    if (rc == 0 && r.event.type == YAML_DOCUMENT_START_EVENT) {
        rc = read_document(&r, reterr);
    }
    if (rc == 0) {
        *ret_secret = r.secret;
    }
    return rc;
}
