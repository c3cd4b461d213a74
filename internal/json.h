/* json.h: reading and writing JSON with jansson, bounded and strict.
 *
 * jansson.h is vocabulary: any file may use json_t. Values are owned with json_auto_t. Input is
 * UTF-8 without NUL, no duplicate keys, at most JSON_DEPTH levels.
 */
#ifndef SJE_JSON_H
#define SJE_JSON_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/str.h"

#include <jansson.h>

#define JSON_DEPTH 64 /* levels of nesting that we accept from anyone */

/* Any JSON value. ERR_PARSE with line and column. *ret is a new reference. */
int json_read(const char *p, size_t len, json_t **ret, struct err *reterr) NODISCARD;
/* What a text would become, before anything is built of it. */
struct json_size {
    size_t values; /* members and elements, at most */
    size_t bytes;  /* written compactly, at least */
};
struct json_size json_measure(struct str text);
/* Compact, appended. ERR_TOO_LARGE where over the limit of `b`. */
int json_write(const json_t *j, struct buf *b);
/* Compact; owned by the caller. */
char *json_text(const json_t *j);
/* Appends s as a JSON string; bytes that are not UTF-8 become U+FFFD. */
void json_add_string(struct buf *b, const char *p, size_t len);
/* A new string from bytes that may be no UTF-8 or hold NUL (these become U+FFFD). */
json_t *json_string_lossy(const char *p, size_t len);

/* Members of an object; the default where absent or of another type. Borrowed. */
const char *json_get_string(const json_t *obj, const char *key); /* NULL */
int64_t json_get_int(const json_t *obj, const char *key, int64_t fallback);
bool json_get_bool(const json_t *obj, const char *key, bool fallback);

#endif
