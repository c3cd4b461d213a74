/* config.h: settings from sje-config.yaml and the environment; one table, config.def.
 *
 * Precedence: environment, file, default. An unknown key, a wrong type or a value out of range is one error that names
 * file and line (or the variable). The result is immutable and handed down as `const struct config *`; a reload makes a
 * new one. Secrets are marked in the table and never printed. config.c is the only file that includes yaml.h.
 */
#ifndef SJE_CONFIG_H
#define SJE_CONFIG_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/json.h"

#define CONFIG_LIST_MAX 32

/* A list of strings. */
struct config_list {
    char *items[CONFIG_LIST_MAX + 1]; /* NULL-terminated */
    int count;
};

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
        int max_body_mb;      /* 16 */
        int max_connections;  /* 4096 */
        int timeout_seconds;  /* 30 */
    } api;
    struct {
        struct config_list roles;
        char *node_id; /* never empty after loading: the host name */
        int slots;
        int cpus;
        int memory_mb;
        struct config_list pools;
        char *work_dir;
        char *plugin_dir;
        int heartbeat_seconds;
        int dead_after_seconds;
        int kill_grace_seconds;  /* 10 */
        int log_limit_mb;        /* 64, per stream and attempt */
        int keep_finished_hours; /* 168: directories of finished attempts */
        char *manager_url;       /* "": workers beat over HTTP there when the broker is away */
        struct {
            char *home;
            char *master;
            json_t *conf; /* object of strings */
            char *python;
        } spark;
    } node;
    struct {
        int feed_ageing_seconds;     /* 600: a priority step in waiting time */
        int max_losses;              /* 5: then FAILED with kind lost */
    } manager;
    struct {
        char *log_level;
        char *log_format;
    } monitoring;
};

/* `path` NULL: sje-config.yaml in the working directory, then /etc/sje/; no file at all is fine then. *ret is owned by
 * the caller. */
int config_load(const char *path, struct config **ret, struct err *reterr) NODISCARD;
/* The same from memory; `name` stands for the file in messages. For tests and fuzzing. */
int config_load_text(const char *name, const char *text, size_t len, struct config **ret, struct err *reterr) NODISCARD;
void config_free(struct config *c); /* NULL is fine */
bool config_has_role(const struct config *c, const char *role);
/* The settings in force as a JSON object by section and key; secrets as "***" where set, "" where not. */
void config_json(const struct config *c, struct buf *out);
/* docs/config.md: one row per key, from the table. */
void config_markdown(struct buf *out);
/* Keys that may change at run time: applies {"section":{"key":value}} to a copy. ERR_INVALID names the key. */
int config_patch(const struct config *c, const json_t *patch, struct config **ret, struct err *reterr) NODISCARD;

#endif
