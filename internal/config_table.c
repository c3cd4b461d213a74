#include "internal/config_table.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

static bool all_of(struct str s, const char *extra)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (c && strchr(extra, c)))) {
            return false;
        }
    }
    return true;
}

static bool is_alnum(char c)
{
    return all_of((struct str){&c, 1}, "");
}

/* docs/protocol.md, Topology: names become parts of queue names and of paths. */
static bool ok_pool(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] >= 'A' && s.p[i] <= 'Z') {
            return false;
        }
    }
    return s.len >= 1 && s.len <= 63 && is_alnum(s.p[0]) && all_of(s, "-");
}

static bool ok_node_id(struct str s)
{
    return s.len == 0 || (s.len <= 127 && is_alnum(s.p[0]) && all_of(s, "._-"));
}

static bool ok_hosts(struct str s)
{
    for (struct str rest = s; rest.len;) {
        struct str host = str_trim(str_cut(rest, ',', &rest));

        if (host.len == 0 || !all_of(host, ".-_:[]%")) {
            return false;
        }
    }
    return s.len && s.p[s.len - 1] != ',';
}

static bool ok_db_host(struct str s)
{
    return ok_hosts(s) || (s.len && s.p[0] == '/'); /* the directory of a socket */
}

static bool ok_address(struct str s)
{
    return all_of(s, ".-_:%");
}

static bool ok_url(struct str s)
{
    return (str_starts(s, STR("http://")) || str_starts(s, STR("https://"))) &&
           !memchr(s.p, '@', s.len) && !memchr(s.p, ' ', s.len);
}

static bool ok_urls(struct str s)
{
    for (struct str rest = s; rest.len;) {
        if (!ok_url(str_trim(str_cut(rest, ',', &rest)))) {
            return false;
        }
    }
    return !s.len || s.p[s.len - 1] != ',';
}

/* As it stands in an HTTP header. */
static bool ok_token(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] <= ' ' || s.p[i] > '~') {
            return false;
        }
    }
    return true;
}

/* As people spell it; also as it was spelled in the file that this format comes from. */
static bool ok_db_type(struct str s)
{
    static const char *const names[] = {"PostgreSQL", "Postgres", "PostGresSQL", "pgsql", "pg"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (str_ieq(s, str_of(names[i]))) {
            return true;
        }
    }
    return false;
}

static const struct config_rule rule_ANY;
static const struct config_rule rule_POOL = {
    .ok = ok_pool, .allowed = "lower-case letters, digits and '-' (not first), at most 63"};
static const struct config_rule rule_NODE_ID = {
    .ok = ok_node_id, .allowed = "letters, digits, '.', '_' and '-', the first a letter or digit"};
static const struct config_rule rule_HOSTS = {
    .ok = ok_hosts,
    .allowed = "a host or a comma list of hosts, without scheme, user and password",
    .hide = true};
static const struct config_rule rule_DB_HOST = {
    .ok = ok_db_host,
    .allowed = "a host, a comma list of hosts, or the directory of a socket",
    .hide = true};
static const struct config_rule rule_ADDRESS = {.ok = ok_address, .allowed = "an address"};
static const struct config_rule rule_URLS = {
    .ok = ok_urls,
    .allowed = "empty, or a comma list of http:// and https:// without user and password",
    .hide = true};
static const struct config_rule rule_TOKEN = {
    .ok = ok_token, .allowed = "empty, or visible ASCII characters without blanks", .hide = true};
static const struct config_rule rule_DB_TYPE = {
    .ok = ok_db_type,
    .allowed = "PostgreSQL, however it is spelled; no other database, such as MongoDB, has the "
               "transactions over several rows, locks and notices that a manager needs"};
static const struct config_rule rule_SSL_MODE = {
    .allowed = "disable, allow, prefer, require, verify-ca, verify-full"};
static const struct config_rule rule_ROLE = {.allowed = "manager, worker"};
static const struct config_rule rule_LOG_LEVEL = {.allowed = "error, warn, info, debug"};
static const struct config_rule rule_LOG_FORMAT = {.allowed = "logfmt, json"};

#define RELOAD  CONFIG_RELOAD
#define CLUSTER CONFIG_CLUSTER
#define SECRET  CONFIG_SECRET

const struct config_row config_rows[] = {
#define SECTION(name, env, text)
#define KEY(member, section, key, kind, fallback, min, max, rule, flags, text)                     \
    {section,      key,   CONFIG_##kind, offsetof(struct config, member), fallback, min, max,      \
     &rule_##rule, flags, text},
#include "internal/config.def"
};
const size_t config_rows_count = ARRAY_LEN(config_rows);

const struct config_section config_sections[] = {
#define SECTION(name, env, text) {name, env, text},
#define KEY(member, section, key, kind, fallback, min, max, rule, flags, text)
#include "internal/config.def"
};
const size_t config_sections_count = ARRAY_LEN(config_sections);

const struct config_section *config_section_of(const struct config_row *r)
{
    for (size_t i = 0; i < config_sections_count; i++) {
        if (streq(config_sections[i].name, r->section)) {
            return &config_sections[i];
        }
    }
    UNREACHABLE("a key without a section");
}

void config_path(const struct config_row *r, char text[CONFIG_NAME_MAX])
{
    MUST(snprintf(text, CONFIG_NAME_MAX, "%s.%s", r->section, r->key) < CONFIG_NAME_MAX);
}

bool config_env(const struct config_row *r, bool brief, char text[CONFIG_NAME_MAX])
{
    const char *prefix = config_section_of(r)->env;
    size_t n = strlen(prefix);
    char key[CONFIG_NAME_MAX];
    size_t len = 0;

    for (const char *p = r->key; *p; p++) {
        MUST(len + 3 < sizeof(key));
        if (*p >= 'A' && *p <= 'Z') {
            key[len++] = '_';
        }
        key[len++] = *p == '.' ? '_' : (char)toupper((unsigned char)*p);
    }
    key[len] = '\0';
    const char *own = prefix + strlen("SJE_"); /* "NODE_" */
    bool repeats = str_starts(str_of(key), str_of(own));
    if (brief && !repeats) {
        return false;
    }
    MUST(snprintf(text, CONFIG_NAME_MAX, "%s%s", prefix, brief ? key + strlen(own) : key) <
         CONFIG_NAME_MAX);
    MUST(n < CONFIG_NAME_MAX);
    return true;
}

const struct config_row *config_find(struct str path)
{
    char text[CONFIG_NAME_MAX];

    for (size_t i = 0; i < config_rows_count; i++) {
        config_path(&config_rows[i], text);
        if (str_eq(path, str_of(text))) {
            return &config_rows[i];
        }
    }
    return NULL;
}

/* The part of `path` behind "group."; empty where it is not in that group. */
static struct str below(const char *path, struct str group)
{
    struct str s = str_of(path);

    if (group.len == 0) {
        return s;
    }
    if (!str_starts(s, group) || s.len < group.len + 2 || s.p[group.len] != '.') {
        return STR("");
    }
    return (struct str){s.p + group.len + 1, s.len - group.len - 1};
}

bool config_is_group(struct str path)
{
    char text[CONFIG_NAME_MAX];

    for (size_t i = 0; i < config_rows_count; i++) {
        config_path(&config_rows[i], text);
        if (below(text, path).len) {
            return true;
        }
    }
    return false;
}

void config_known(struct str group, struct buf *out)
{
    char text[CONFIG_NAME_MAX];
    char last[CONFIG_NAME_MAX] = "";

    for (size_t i = 0; i < config_rows_count; i++) {
        struct str rest;

        config_path(&config_rows[i], text);
        struct str name = str_cut(below(text, group), '.', &rest);
        if (name.len && !str_eq(name, str_of(last))) {
            buf_addf(out, "%s%.*s", *last ? ", " : "", (int)name.len, name.p);
            snprintf(last, sizeof(last), "%.*s", (int)name.len, name.p);
        }
    }
}

void config_allowed(const struct config_row *r, struct buf *out)
{
    const char *entry = r->rule->allowed;

    switch (r->kind) {
    case CONFIG_INT:
        buf_addf(out, "an integer from %lld to %lld", (long long)r->min, (long long)r->max);
        return;
    case CONFIG_TEXT:
        if (entry) {
            buf_addf(out, "%s%s", r->rule->ok ? "" : "one of ", entry);
        } else {
            buf_addf(out, "text of %s%lld characters", r->min ? "1 to " : "at most ",
                     (long long)r->max);
        }
        return;
    case CONFIG_LIST:
        buf_addf(out, "a list of %lld to %lld of %s", (long long)r->min, (long long)r->max,
                 entry ? entry : "any text");
        return;
    case CONFIG_MAP:
        buf_addf(out, "at most %lld names with a text each", (long long)r->max);
        return;
    }
    UNREACHABLE("unknown kind of key");
}

/* "where: path: what; allowed is …" */
static int refuse(const struct config_row *r, const char *where, struct err *reterr,
                  const char *fmt, ...) PRINTF(4, 5);
static int refuse(const struct config_row *r, const char *where, struct err *reterr,
                  const char *fmt, ...)
{
    struct buf out CLEANUP(buf_free);
    char path[CONFIG_NAME_MAX];
    char what[128];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    buf_init(&out, 512);
    config_path(r, path);
    buf_addf(&out, "%s%s%s: %s; allowed is ", where ? where : "", where ? ": " : "", path, what);
    config_allowed(r, &out);
    return err_set(reterr, ERR_CONFIG, "%s", out.data);
}

static bool is_named(struct str s, const char *allowed)
{
    for (struct str rest = str_of(allowed); rest.len;) {
        if (str_eq(s, str_trim(str_cut(rest, ',', &rest)))) {
            return true;
        }
    }
    return false;
}

static int check_text(const struct config_row *r, const json_t *v, const char *where,
                      struct err *reterr)
{
    const char *s = json_string_value(v);
    const struct config_rule *rule = r->rule;

    if (!s) {
        return refuse(r, where, reterr, "is not a text");
    }
    if (strlen(s) != json_string_length(v)) {
        return refuse(r, where, reterr, "holds a NUL");
    }
    for (const char *p = s; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            return refuse(r, where, reterr, "holds a control character");
        }
    }
    bool good =
        rule->ok ? rule->ok(str_of(s)) : !rule->allowed || is_named(str_of(s), rule->allowed);
    if (!good && (rule->hide || (r->flags & CONFIG_SECRET))) {
        return refuse(r, where, reterr, "is malformed");
    }
    return good ? 0 : refuse(r, where, reterr, "\"%.60s\" is malformed or unknown", s);
}

static int set_text(char **slot, const struct config_row *r, const json_t *v, const char *where,
                    struct err *reterr)
{
    int rc = check_text(r, v, where, reterr);

    if (rc < 0) {
        return rc;
    }
    size_t n = str_chars(str_of(json_string_value(v)));
    if ((int64_t)n < r->min) {
        return refuse(r, where, reterr, "is empty");
    }
    if ((int64_t)n > r->max) {
        return refuse(r, where, reterr, "has %zu characters", n);
    }
    str_replace_owned(slot, json_string_value(v));
    return 0;
}

static int set_int(int *slot, const struct config_row *r, const json_t *v, const char *where,
                   struct err *reterr)
{
    int64_t n = json_integer_value(v);

    if (!json_is_integer(v)) {
        return refuse(r, where, reterr, "is not an integer");
    }
    if (n < r->min || n > r->max) {
        return refuse(r, where, reterr, "%lld is out of range", (long long)n);
    }
    *slot = (int)n;
    return 0;
}

static void list_free(struct config_list *l)
{
    for (int i = 0; i < l->count; i++) {
        free(l->items[i]);
    }
    *l = (struct config_list){0};
}

static int set_list(struct config_list *slot, const struct config_row *r, const json_t *v,
                    const char *where, struct err *reterr)
{
    struct config_list fresh CLEANUP(list_free) = {0};
    size_t i;
    json_t *item;

    if (!json_is_array(v)) {
        return refuse(r, where, reterr, "is not a list");
    }
    size_t n = json_array_size(v);
    if ((int64_t)n < r->min || (int64_t)n > MIN(r->max, CONFIG_LIST_MAX)) {
        return refuse(r, where, reterr, "has %zu entries", n);
    }
    json_array_foreach(v, i, item)
    {
        int rc = check_text(r, item, where, reterr);

        if (rc < 0) {
            return rc;
        }
        for (int k = 0; k < fresh.count; k++) {
            if (streq(fresh.items[k], json_string_value(item))) {
                return refuse(r, where, reterr, "names \"%.60s\" twice", fresh.items[k]);
            }
        }
        fresh.items[fresh.count++] = xstrdup(json_string_value(item));
    }
    list_free(slot);
    *slot = fresh;
    fresh = (struct config_list){0};
    return 0;
}

/* {"spark.executor.instances": 2} is what people write. */
static json_t *scalar_text(const json_t *v)
{
    char *text CLEANUP(freep) = json_text(v);

    return json_string(text);
}

static int set_map(json_t **slot, const struct config_row *r, const json_t *v, const char *where,
                   struct err *reterr)
{
    json_auto_t *fresh = json_object();
    const char *key;
    json_t *item;

    if (!json_is_object(v)) {
        return refuse(r, where, reterr, "is not an object");
    }
    if ((int64_t)json_object_size(v) > r->max) {
        return refuse(r, where, reterr, "has %zu entries", json_object_size(v));
    }
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        size_t n = strlen(key);
        bool scalar = json_is_number(item) || json_is_boolean(item);
        json_auto_t *text = scalar ? scalar_text(item) : json_incref(item);

        if (n < 1 || n > 512 || strpbrk(key, "\r\n")) {
            return refuse(r, where, reterr, "has a name that is empty, too long or split");
        }
        if (!json_is_string(text) || json_string_length(text) > 65536 ||
            strlen(json_string_value(text)) != json_string_length(text)) {
            return refuse(r, where, reterr, "\"%.60s\" is not a text of at most 64 KiB", key);
        }
        MUST(json_object_set(fresh, key, text) == 0);
    }
    json_decref(*slot);
    *slot = STEAL(fresh);
    return 0;
}

int config_set(struct config *c, const struct config_row *r, const json_t *v, const char *where,
               struct err *reterr)
{
    void *slot = (char *)c + r->offset;

    switch (r->kind) {
    case CONFIG_TEXT:
        return set_text(slot, r, v, where, reterr);
    case CONFIG_INT:
        return set_int(slot, r, v, where, reterr);
    case CONFIG_LIST:
        return set_list(slot, r, v, where, reterr);
    case CONFIG_MAP:
        return set_map(slot, r, v, where, reterr);
    }
    UNREACHABLE("unknown kind of key");
}

/* The JSON value that `text` stands for; NULL where it stands for none. */
static json_t *from_text(const struct config_row *r, struct str text)
{
    int64_t n = 0;
    json_t *v = NULL;

    switch (r->kind) {
    case CONFIG_TEXT:
        return json_stringn(text.p, text.len);
    case CONFIG_INT:
        return str_to_i64(str_trim(text), INT64_MIN, INT64_MAX, &n) ? json_integer(n) : NULL;
    case CONFIG_LIST:
        v = json_array();
        for (bool more = text.len > 0; more;) {
            struct str rest;
            struct str item = str_cut(text, ',', &rest);

            more = item.len < text.len;
            text = rest;
            item = str_trim(item);
            if (json_array_append_new(v, json_stringn(item.p, item.len)) < 0) {
                json_decref(v);
                return NULL; /* not UTF-8 */
            }
        }
        return v;
    case CONFIG_MAP:
        return json_read(text.p, text.len, &v, NULL) == 0 ? v : NULL;
    }
    UNREACHABLE("unknown kind of key");
}

int config_set_text(struct config *c, const struct config_row *r, struct str text,
                    const char *where, struct err *reterr)
{
    json_auto_t *v = from_text(r, text);

    if (!v) {
        return refuse(r, where, reterr,
                      r->kind == CONFIG_INT   ? "is not an integer"
                      : r->kind == CONFIG_MAP ? "is not a JSON object"
                                              : "is not UTF-8");
    }
    return config_set(c, r, v, where, reterr);
}

json_t *config_get(const struct config *c, const struct config_row *r)
{
    const void *slot = (const char *)c + r->offset;
    json_t *v = NULL;

    switch (r->kind) {
    case CONFIG_TEXT:
        return json_string(*(char *const *)slot);
    case CONFIG_INT:
        return json_integer(*(const int *)slot);
    case CONFIG_LIST:
        v = json_array();
        for (int i = 0; i < ((const struct config_list *)slot)->count; i++) {
            json_array_append_new(v, json_string(((const struct config_list *)slot)->items[i]));
        }
        return v;
    case CONFIG_MAP:
        return json_incref(*(json_t *const *)slot);
    }
    UNREACHABLE("unknown kind of key");
}
