/* config.h: settings from sje-config.yaml and the environment; one table, config.def.
 *
 * Precedence: environment, file, default. An unknown key, a wrong type or a value out of range is
 * one error that names file and line (or the variable), what is wrong and what is allowed. The
 * result is handed down as `const struct config *`; a reload makes a new one. Secrets are marked in
 * the table and never printed.
 *
 * config_yaml.c is the only file that includes yaml.h.
 *
 * The environment name of a key is the prefix of its section and the key in capitals:
 * dbConfig.sslMode is SJE_DB_SSL_MODE. SJE_NODE_NODE_ID may be shortened to SJE_NODE_ID. A variable
 * that begins with the prefix of a section and names no key is an error; other SJE_ variables
 * belong to others.
 */
#ifndef SJE_CONFIG_H
#define SJE_CONFIG_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/json.h"

#define CONFIG_LIST_MAX 32
#define CONFIG_FILE_MAX (1024 * 1024)

/* A list of strings. */
struct config_list {
    char *items[CONFIG_LIST_MAX + 1]; /* NULL-terminated */
    int count;
};

/* No string is NULL after loading, except as noted. Limits and meanings are in config.def. */
struct config {
    struct {
        char *host; /* may be a comma list of host[:port] */
        int port;
        char *username;
        char *password;
        char *vhost;
        int heartbeat_seconds;
    } rabbitmq;
    struct {
        char *type; /* "PostgreSQL" */
        char *host;
        int port;
        char *database;
        char *username;
        char *password;
        char *ssl_mode;
        int connections;
    } db;
    struct {
        char *bind;
        int port;
        struct config_list hosts;
        int max_body_mb;
        int max_connections;
        int client_share; /* percent */
        int timeout_seconds;
        char *beat_token; /* "": none is asked for */
    } api;
    struct {
        struct config_list roles;
        char *node_id; /* never empty after loading: the host name */
        int slots; /* never 0, wherever it comes from: what the machine gives; nor the next two */
        int cpus;
        int memory_mb;
        struct config_list pools;
        char *work_dir;
        char *plugin_dir;
        char *task_user; /* "": tasks run as the worker's own */
        int heartbeat_seconds;
        int dead_after_seconds;
        int kill_grace_seconds;
        int log_limit_mb;        /* per stream and attempt */
        int keep_finished_hours; /* directories of finished attempts */
        char *manager_url;       /* list, may be "": workers beat there when the broker is away */
        struct {
            char *home;
            char *master;
            json_t *conf; /* object of strings */
            char *python;
        } spark;
    } node;
    struct {
        int max_losses; /* then FAILED with kind lost */
        int keep_tasks_hours;
        int keep_audit_hours;
        int database_grace_seconds; /* beats are answered without the database */
    } manager;
    struct {
        char *log_level;
        char *log_format;
    } monitoring;

    char *source;  /* the file that was read; NULL: none */
    char *warning; /* one sentence for the log; NULL: none */
};

/* `path` NULL: sje-config.yaml in the working directory, then in /etc/sje/; no file at all is fine
 * then. *ret is owned by the caller. */
int config_load(const char *path, struct config **ret, struct err *reterr) NODISCARD;
/* The same from memory; `name` stands for the file in messages. For tests and fuzzing. */
int config_load_text(const char *name, const char *text, size_t len, struct config **ret,
                     struct err *reterr) NODISCARD;
void config_free(struct config *c); /* NULL is fine */
void config_freep(struct config **c);

/* Sets one key ("executorNodeConfig.roles") as the environment would; `origin` ("--role") stands
 * for the file in messages. */
int config_override(struct config *c, const char *origin, const char *path, const char *text,
                    struct err *reterr) NODISCARD;
/* What no single key can tell, once the roles are settled. */
int config_check(const struct config *c, struct err *reterr) NODISCARD;
/* What is allowed and will hardly be what was meant: one sentence for people, owned by the caller;
 * NULL: nothing. */
char *config_doubt(const struct config *c) NODISCARD;
/* Keys that may change at run time: applies {"section":{"key":value}} to a copy; null leaves a key
 * as it is. ERR_INVALID names the key. */
int config_patch(const struct config *c, const json_t *patch, struct config **ret,
                 struct err *reterr) NODISCARD;
/* The settings of the cluster over a file: they win, and a heartbeat that is too slow for the
 * cluster's deadAfterSeconds is made faster. What is wrong with single ones (a manager of another
 * version, or a person, may have written them) is appended to `skipped`, and all others count.
 * Whatever stands there, the result is one that a file could have given. */
struct config *config_overlay(const struct config *c, const json_t *settings, struct buf *skipped);
/* A copy of `c` with what may change at run time taken from `fresh`. The paths of the other keys
 * that differ (they need a restart) are appended to `skipped`, separated by ", ". */
struct config *config_reload(const struct config *c, const struct config *fresh,
                             struct buf *skipped);

bool config_has_role(const struct config *c, const char *role);
/* The settings in force as a JSON object by section and key; secrets as "***" where set, "" where
 * not, also those among spark.conf that look like one by their name. */
void config_json(const struct config *c, struct buf *out);
/* docs/config.md: one row per key, from the table. */
void config_markdown(struct buf *out);
void config_man(struct buf *out); /* docs/man/sje-config.yaml.5, in man(7) */

#endif
