#include "internal/json.h"

#include "internal/str.h"

#include <stdlib.h>

/* jansson's own limit (2048) is a compile-time constant; ours is lower and checked before it
 * builds anything, so a bomb of brackets costs one scan. */
static bool too_deep(const char *p, size_t len)
{
    int depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        char c = p[i];

        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH) {
                return true;
            }
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return false;
}

int json_read(const char *p, size_t len, json_t **ret, struct err *reterr)
{
    json_error_t error;

    if (too_deep(p, len)) {
        return err_set(reterr, ERR_PARSE, "nested deeper than %d levels", JSON_DEPTH);
    }
    json_t *j = json_loadb(p, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!j) {
        return err_set(reterr, ERR_PARSE, "line %d column %d: %.150s", error.line, error.column,
                       error.text);
    }
    *ret = j;
    return 0;
}

static int append(const char *p, size_t n, void *arg)
{
    return buf_add(arg, p, n) < 0 ? -1 : 0;
}

int json_write(const json_t *j, struct buf *b)
{
    return json_dump_callback(j, append, b, JSON_COMPACT | JSON_ENCODE_ANY) < 0 ? ERR_TOO_LARGE : 0;
}

char *json_text(const json_t *j)
{
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);

    MUST(text);
    return text;
}

json_t *json_string_lossy(const char *p, size_t len)
{
    json_t *plain = memchr(p, '\0', len) ? NULL : json_stringn(p, len);

    if (plain) {
        return plain;
    }
    struct buf b CLEANUP(buf_free) = {0};
    buf_init(&b, len * 3 + 1);
    for (size_t i = 0; i < len;) {
        size_t n = MIN((size_t)4, len - i);

        while (n && !(p[i] != '\0' && str_is_utf8(p + i, n))) {
            n--;
        }
        /* The shortest valid prefix is one character: a longer one may hold a NUL. */
        for (size_t k = 1; k < n; k++) {
            if (str_is_utf8(p + i, k)) {
                n = k;
            }
        }
        buf_add(&b, n ? p + i : "\xef\xbf\xbd", n ? n : 3);
        i += n ? n : 1;
    }
    json_t *j = json_stringn(b.data ? b.data : "", b.len);
    MUST(j);
    return j;
}

void json_add_string(struct buf *b, const char *p, size_t len)
{
    json_auto_t *j = json_string_lossy(p, len);

    json_write(j, b);
}

const char *json_get_string(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(obj, key));
}

int64_t json_get_int(const json_t *obj, const char *key, int64_t fallback)
{
    const json_t *v = json_object_get(obj, key);

    return json_is_integer(v) ? json_integer_value(v) : fallback;
}

bool json_get_bool(const json_t *obj, const char *key, bool fallback)
{
    const json_t *v = json_object_get(obj, key);

    return json_is_boolean(v) ? json_is_true(v) : fallback;
}
