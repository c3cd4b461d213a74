#include "internal/config_table.h"
#include "internal/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_FILE_MAX 4096

extern char **environ;

static void config_init(struct config *c)
{
    for (size_t i = 0; i < config_rows_count; i++) {
        MUST(config_set_text(c, &config_rows[i], str_of(config_rows[i].fallback), NULL, NULL) == 0);
    }
}

void config_free(struct config *c)
{
    if (!c) {
        return;
    }
    for (size_t i = 0; i < config_rows_count; i++) {
        void *slot = (char *)c + config_rows[i].offset;

        switch (config_rows[i].kind) {
        case CONFIG_TEXT:
            free(*(char **)slot);
            break;
        case CONFIG_INT:
            break;
        case CONFIG_LIST:
            for (int k = 0; k < ((struct config_list *)slot)->count; k++) {
                free(((struct config_list *)slot)->items[k]);
            }
            break;
        case CONFIG_MAP:
            json_decref(*(json_t **)slot);
            break;
        }
    }
    free(c->source);
    free(c->warning);
    free(c);
}

void config_freep(struct config **c)
{
    config_free(*c);
    *c = NULL;
}

static struct config *config_copy(const struct config *c)
{
    struct config *copy = xmalloc(sizeof(*copy));

    for (size_t i = 0; i < config_rows_count; i++) {
        json_auto_t *v = config_get(c, &config_rows[i]);

        MUST(config_set(copy, &config_rows[i], v, NULL, NULL) == 0);
    }
    copy->source = xstrdup(c->source);
    copy->warning = xstrdup(c->warning);
    return copy;
}

/* Appends the whole file; more than `out` may hold is ERR_TOO_LARGE. */
static int read_fd(int fd, struct buf *out)
{
    for (;;) {
        char part[16384];
        ssize_t n = read(fd, part, sizeof(part));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? ERR_IO : 0;
        }
        if (buf_add(out, part, (size_t)n) < 0) {
            return ERR_TOO_LARGE;
        }
    }
}

/* ERR_NOT_FOUND where there is none; else ERR_CONFIG. */
static int read_file(const char *path, struct buf *out, mode_t *ret_mode, struct err *reterr)
{
    struct stat st = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0) {
        bool none = errno == ENOENT || errno == ENOTDIR;

        return err_errno(reterr, none ? ERR_NOT_FOUND : ERR_CONFIG, errno, "cannot read %.150s",
                         path);
    }
    int rc = fstat(fd, &st) == 0 ? read_fd(fd, out) : ERR_IO;
    if (rc == ERR_IO) {
        rc = err_errno(reterr, ERR_CONFIG, errno, "cannot read %.150s", path);
    } else if (rc == ERR_TOO_LARGE) {
        rc = err_set(reterr, ERR_CONFIG, "%.150s is larger than %zu bytes", path, out->max);
    } else {
        *ret_mode = st.st_mode;
    }
    close(fd);
    return rc;
}

/* The value of `name`, or of the file that `name`_FILE names. *ret_set: one of them is there. */
static int env_value(const struct config_row *r, const char *name, struct buf *value, bool *ret_set,
                     struct err *reterr)
{
    char file_name[CONFIG_NAME_MAX + sizeof("_FILE")];
    const char *plain = getenv(name);
    const char *path = NULL;
    mode_t mode = 0;

    snprintf(file_name, sizeof(file_name), "%s_FILE", name);
    if (r->flags & CONFIG_SECRET) {
        path = getenv(file_name);
    }
    *ret_set = plain || path;
    if (plain && *plain && path) {
        return err_set(reterr, ERR_CONFIG, "%s: is set together with %s; only one may be", name,
                       file_name);
    }
    if (plain && !path && buf_adds(value, plain) < 0) {
        return err_set(reterr, ERR_CONFIG, "%s: is longer than %zu bytes", name, value->max);
    }
    if (path) {
        struct buf text CLEANUP(buf_free);
        struct err why = {0};

        buf_init(&text, SECRET_FILE_MAX);
        if (read_file(path, &text, &mode, &why) < 0) {
            return err_set(reterr, ERR_CONFIG, "%s: %s", file_name, why.text);
        }
        while (text.len && (text.data[text.len - 1] == '\n' || text.data[text.len - 1] == '\r')) {
            text.len--;
        }
        buf_add(value, text.data, text.len);
    }
    return 0;
}

static int apply_env(struct config *c, const struct config_row *r, struct err *reterr)
{
    bool found = false;

    for (int brief = 0; brief < 2; brief++) {
        struct buf value CLEANUP(buf_free);
        char name[CONFIG_NAME_MAX];
        bool set = false;

        buf_init(&value, CONFIG_FILE_MAX);
        if (!config_env(r, brief, name)) {
            continue;
        }
        int rc = env_value(r, name, &value, &set, reterr);
        if (rc < 0 || !set) {
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        if (found) {
            return err_set(reterr, ERR_CONFIG, "%s: is set under its long name too", name);
        }
        found = true;
        rc = config_set_text(c, r, (struct str){value.data ? value.data : "", value.len}, name,
                             reterr);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static bool env_known(struct str name)
{
    for (size_t i = 0; i < config_rows_count; i++) {
        const struct config_row *r = &config_rows[i];

        for (int brief = 0; brief < 2; brief++) {
            char text[CONFIG_NAME_MAX];

            if (!config_env(r, brief, text) || !str_starts(name, str_of(text))) {
                continue;
            }
            size_t n = strlen(text);
            struct str rest = {name.p + n, name.len - n};
            if (rest.len == 0 || ((r->flags & CONFIG_SECRET) && str_eq(rest, STR("_FILE")))) {
                return true;
            }
        }
    }
    return false;
}

static int check_env_names(struct err *reterr)
{
    for (char **e = environ; e && *e; e++) {
        struct str value;
        struct str name = str_cut(str_of(*e), '=', &value);

        for (size_t i = 0; i < config_sections_count; i++) {
            if (str_starts(name, str_of(config_sections[i].env)) && !env_known(name)) {
                return err_set(reterr, ERR_CONFIG, "%.*s: names no setting; see docs/config.md",
                               (int)MIN(name.len, (size_t)100), name.p);
            }
        }
    }
    return 0;
}

#define CPUS_MAX      4096 /* what the keys may be at most */
#define MEMORY_MB_MAX 67108864

/* What the node offers where nobody has said it: from here on the settings in force show it. Every
 * way to a configuration ends here, so 0 means the same in each, and none offers nothing. */
static void offer_machine(struct config *c)
{
    int64_t memory = machine_memory_mb() * 4 / 5;

    c->node.slots = c->node.slots ? c->node.slots : MIN(machine_cpus(), CPUS_MAX);
    c->node.cpus = c->node.cpus ? c->node.cpus : MIN(machine_cpus(), CPUS_MAX);
    c->node.memory_mb = c->node.memory_mb
                            ? c->node.memory_mb
                            : (int)MIN(MAX(memory, (int64_t)1), (int64_t)MEMORY_MB_MAX);
}

static int default_node_id(struct config *c, struct err *reterr)
{
    char host[256] = "";

    if (*c->node.node_id) {
        return 0;
    }
    if (gethostname(host, sizeof(host) - 1) < 0) {
        return err_errno(reterr, ERR_CONFIG, errno, "cannot read the host name");
    }
    int rc = config_override(c, "the host name", "executorNodeConfig.nodeId", host, reterr);
    if (rc == 0 && !*host) {
        rc = err_set(reterr, ERR_CONFIG,
                     "executorNodeConfig.nodeId: is empty, and so is the host name");
    }
    return rc;
}

/* `text` NULL: no file. */
static int load(const char *name, const struct str *text, mode_t mode, struct config **ret,
                struct err *reterr)
{
    struct config *c CLEANUP(config_freep) = xmalloc(sizeof(*c));
    bool secret = false;
    int rc = 0;

    config_init(c);
    if (text) {
        rc = config_read_yaml(c, name, *text, &secret, reterr);
        c->source = xstrdup(name);
    }
    if (secret && (mode & S_IROTH)) {
        c->warning =
            xasprintf("%s holds a password and can be read by everybody; chmod 640 helps", name);
    }
    for (size_t i = 0; rc == 0 && i < config_rows_count; i++) {
        rc = apply_env(c, &config_rows[i], reterr);
    }
    if (rc == 0) {
        rc = check_env_names(reterr);
    }
    if (rc == 0) {
        rc = default_node_id(c, reterr);
    }
    if (rc == 0) {
        offer_machine(c);
        *ret = STEAL(c);
    }
    return rc;
}

int config_load_text(const char *name, const char *text, size_t len, struct config **ret,
                     struct err *reterr)
{
    struct str s = {text, len};

    if (len > CONFIG_FILE_MAX) {
        return err_set(reterr, ERR_CONFIG, "%s is larger than %d bytes", name, CONFIG_FILE_MAX);
    }
    return load(name, &s, 0, ret, reterr);
}

int config_load(const char *path, struct config **ret, struct err *reterr)
{
    static const char *const places[] = {"sje-config.yaml", "/etc/sje/sje-config.yaml"};
    const char *const *list = path ? &path : places;
    struct buf text CLEANUP(buf_free);

    buf_init(&text, CONFIG_FILE_MAX);
    for (size_t i = 0; i < (path ? 1 : ARRAY_LEN(places)); i++) {
        mode_t mode = 0;
        int rc = read_file(list[i], &text, &mode, reterr);

        if (rc == 0) {
            struct str s = {text.data ? text.data : "", text.len};

            return load(list[i], &s, S_ISREG(mode) ? mode : 0, ret, reterr);
        }
        if (rc != ERR_NOT_FOUND) {
            return rc;
        }
        if (path) { /* one that was asked for must be there */
            if (reterr) {
                reterr->code = ERR_CONFIG;
            }
            return ERR_CONFIG;
        }
    }
    return load(NULL, NULL, 0, ret, reterr);
}

int config_override(struct config *c, const char *origin, const char *path, const char *text,
                    struct err *reterr)
{
    const struct config_row *r = config_find(str_of(path));

    MUST(r);
    return config_set_text(c, r, str_of(text), origin, reterr);
}

bool config_has_role(const struct config *c, const char *role)
{
    for (int i = 0; i < c->node.roles.count; i++) {
        if (streq(c->node.roles.items[i], role)) {
            return true;
        }
    }
    return false;
}

static bool beats_too_rarely(const struct config *c)
{
    return c->node.dead_after_seconds < 3 * c->node.heartbeat_seconds;
}

/* As beats adapt to it. */
static void quicken(struct config *c)
{
    c->node.heartbeat_seconds = MIN(c->node.heartbeat_seconds, c->node.dead_after_seconds / 3);
}

char *config_doubt(const struct config *c)
{
    if (config_has_role(c, "manager") || !beats_too_rarely(c)) {
        return NULL;
    }
    return xasprintf("executorNodeConfig.heartbeatSeconds: is %d, more than a third of "
                     "deadAfterSeconds, which is %d; where the cluster's deadAfterSeconds is that "
                     "too, the worker beats at least every %d s, whatever this says",
                     c->node.heartbeat_seconds, c->node.dead_after_seconds,
                     c->node.dead_after_seconds / 3);
}

/* A worker alone makes no leases: the cluster's deadAfterSeconds counts, and that it does not know.
 */
int config_check(const struct config *c, struct err *reterr)
{
    if (config_has_role(c, "manager") && beats_too_rarely(c)) {
        return err_set(
            reterr, ERR_CONFIG,
            "executorNodeConfig.deadAfterSeconds: is %d; allowed is at least three times "
            "heartbeatSeconds, which is %d",
            c->node.dead_after_seconds, c->node.heartbeat_seconds);
    }
    return 0;
}

/* Whether it is, or has in it, one value for the cluster. */
static bool has_cluster_key(const char *path)
{
    for (size_t i = 0; i < config_rows_count; i++) {
        const struct config_row *r = &config_rows[i];
        size_t n = strlen(path);
        char full[2 * CONFIG_NAME_MAX];

        snprintf(full, sizeof(full), "%s.%s", r->section, r->key);
        if ((r->flags & CONFIG_CLUSTER) == CONFIG_CLUSTER && strncmp(full, path, n) == 0 &&
            (full[n] == '.' || !full[n])) {
            return true;
        }
    }
    return false;
}

static int patch_group(struct config *c, const char *group, const json_t *obj, struct buf *skipped,
                       struct err *reterr);

static int patch_key(struct config *c, const char *path, const json_t *v, struct buf *skipped,
                     struct err *reterr)
{
    const struct config_row *r = config_find(str_of(path));

    if (!r && !config_is_group(str_of(path))) {
        return err_set(reterr, ERR_INVALID, "%.120s: unknown key", path);
    }
    if (r && !(r->flags & CONFIG_RELOAD)) {
        return err_set(reterr, ERR_INVALID, "%s: can only be changed by a restart", path);
    }
    if (json_is_null(v) && has_cluster_key(path)) {
        return err_set(reterr, ERR_INVALID,
                       "%s: %s one value for the cluster, kept in the database: %s", path,
                       r ? "is" : "has", r ? "set another one" : "name the keys to give back");
    }
    return json_is_null(v) ? 0 /* as it is */
           : r             ? config_set(c, r, v, NULL, reterr)
                           : patch_group(c, path, v, skipped, reterr);
}

/* What is deeper in `obj` than the table belongs to a value or is unknown. What is wrong ends it,
 * or is told in `skipped` where that is given. */
static int patch_group(struct config *c, const char *group, const json_t *obj, struct buf *skipped,
                       struct err *reterr)
{
    const char *key;
    json_t *v;

    if (!json_is_object(obj)) {
        return err_set(reterr, ERR_INVALID, "%s: must be an object", *group ? group : "settings");
    }
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        char path[2 * CONFIG_NAME_MAX];
        struct err why = {0};
        int n = snprintf(path, sizeof(path), "%s%s%s", group, *group ? "." : "", key);
        int rc = n >= (int)sizeof(path) || !*key || strchr(key, '.')
                     ? err_set(&why, ERR_INVALID, "%.120s: unknown key", path)
                     : patch_key(c, path, v, skipped, &why);

        if (rc < 0 && skipped) {
            buf_addf(skipped, "%s%s", skipped->len ? "; " : "", why.text);
        } else if (rc < 0) {
            return err_set(reterr, ERR_INVALID, "%s", why.text);
        }
    }
    return 0;
}

static bool sets_heartbeat(const json_t *patch)
{
    const json_t *node = json_object_get(patch, "executorNodeConfig");

    return json_is_integer(json_object_get(node, "heartbeatSeconds"));
}

int config_patch(const struct config *c, const json_t *patch, struct config **ret,
                 struct err *reterr)
{
    struct config *fresh CLEANUP(config_freep) = config_copy(c);
    int rc = patch_group(fresh, "", patch, NULL, reterr);

    if (rc == 0 && !sets_heartbeat(patch)) {
        quicken(fresh); /* the file's gives way; two that were both ordered must fit */
    }
    if (rc == 0 && (rc = config_check(fresh, reterr)) < 0) {
        rc = ERR_INVALID;
        if (reterr) {
            reterr->code = rc;
        }
    }
    if (rc == 0) {
        offer_machine(fresh);
        *ret = STEAL(fresh);
    }
    return rc;
}

struct config *config_overlay(const struct config *c, const json_t *settings, struct buf *skipped)
{
    struct config *fresh = config_copy(c);
    struct err why = {0};

    if (patch_group(fresh, "", settings, skipped, &why) < 0) {
        buf_adds(skipped, why.text);
    }
    quicken(fresh);
    offer_machine(fresh);
    return fresh;
}

struct config *config_reload(const struct config *c, const struct config *fresh,
                             struct buf *skipped)
{
    struct config *copy = config_copy(c);

    for (size_t i = 0; i < config_rows_count; i++) {
        const struct config_row *r = &config_rows[i];
        json_auto_t *now = config_get(c, r);
        json_auto_t *then = config_get(fresh, r);

        if (json_equal(now, then)) {
            continue;
        }
        if (r->flags & CONFIG_RELOAD) {
            MUST(config_set(copy, r, then, NULL, NULL) == 0);
        } else {
            buf_addf(skipped, "%s%s.%s", skipped->len ? ", " : "", r->section, r->key);
        }
    }
    offer_machine(copy);
    return copy;
}
