/* config_table.h: the rows of config.def and the one way to set a key; for config*.c only.
 *
 * Every source (default, file, environment, patch) becomes a JSON value first, so that one function
 * checks and stores it.
 */
#ifndef SJE_CONFIG_TABLE_H
#define SJE_CONFIG_TABLE_H

#include "internal/config.h"
#include "internal/str.h"

#define CONFIG_NAME_MAX 64 /* of a path or an environment name, with NUL */

enum config_kind { CONFIG_TEXT, CONFIG_INT, CONFIG_LIST, CONFIG_MAP };
/* CLUSTER: one value for all, in the database; a file's only seeds it. Implies RELOAD. */
enum config_flags { CONFIG_RELOAD = 1, CONFIG_SECRET = 2, CONFIG_CLUSTER = 4 | CONFIG_RELOAD };

struct config_rule {
    bool (*ok)(
        struct str s); /* NULL: one of those named in `allowed`, or anything if that is NULL */
    const char *allowed;
    bool hide; /* a wrong value may hold a password: do not repeat it */
};

struct config_row {
    const char *section;
    const char *key;
    enum config_kind kind;
    size_t offset; /* in struct config */
    const char *fallback;
    int64_t min;
    int64_t max;
    const struct config_rule *rule;
    int flags;
    const char *text;
};

struct config_section {
    const char *name;
    const char *env; /* "SJE_DB_" */
    const char *text;
};

extern const struct config_row config_rows[];
extern const size_t config_rows_count;
extern const struct config_section config_sections[];
extern const size_t config_sections_count;

const struct config_section *config_section_of(const struct config_row *r);
void config_path(const struct config_row *r, char text[CONFIG_NAME_MAX]);
/* `brief`: without the repetition in SJE_NODE_NODE_ID; false where there is none to leave out. */
bool config_env(const struct config_row *r, bool brief, char text[CONFIG_NAME_MAX]);
/* NULL: no such key. */
const struct config_row *config_find(struct str path);
/* True where `path` leads to keys: a section, or "executorNodeConfig.spark". */
bool config_is_group(struct str path);
/* "a, b, c": what may follow `group` ("": the sections). */
void config_known(struct str group, struct buf *out);
/* "an integer from 1 to 65535" */
void config_allowed(const struct config_row *r, struct buf *out);

/* Checks v and stores a copy. `where` ("sje-config.yaml:3") begins the message; NULL: nothing does.
 */
int config_set(struct config *c, const struct config_row *r, const json_t *v, const char *where,
               struct err *reterr) NODISCARD;
/* As config_set, from the form that the environment uses. */
int config_set_text(struct config *c, const struct config_row *r, struct str text,
                    const char *where, struct err *reterr) NODISCARD;
/* A new reference. */
json_t *config_get(const struct config *c, const struct config_row *r);

/* config_yaml.c: applies a document. `file_has_secret` tells whether it sets a secret of its own.
 */
int config_read_yaml(struct config *c, const char *name, struct str text, bool *ret_secret,
                     struct err *reterr) NODISCARD;

#endif
