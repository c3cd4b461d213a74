#include "internal/json.h"

#include <stdio.h>
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

/* Of an escape in a string: bytes of it, and those that must be written for it. */
static size_t escape(const char *p, size_t len, size_t *ret_bytes)
{
    bool code = len > 1 && p[1] == 'u';

    *ret_bytes = code || (len > 1 && p[1] == '/') ? 1 : 2;
    return code ? 6 : 2;
}

struct json_size json_measure(struct str text)
{
    struct json_size size = {1, 0};
    bool in_string = false;

    for (size_t i = 0; i < text.len; i++) {
        char c = text.p[i];
        size_t bytes = 1;

        if (in_string && c == '\\') {
            i += escape(text.p + i, text.len - i, &bytes) - 1;
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string) {
            size.values += c == ',' || c == '[' || c == '{';
            bytes = c != ' ' && c != '\t' && c != '\n' && c != '\r';
        }
        size.bytes += bytes;
    }
    return size;
}

int json_read(const char *p, size_t len, json_t **ret, struct err *reterr)
{
    json_error_t error;

    if (str_trim((struct str){p, len}).len == 0) {
        return err_set(reterr, ERR_PARSE, "is empty");
    }
    if (memchr(p, '\0', len)) { /* jansson overlooks one behind the value */
        return err_set(reterr, ERR_PARSE, "holds a NUL byte");
    }
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

static void write_string(const char *p, size_t len, struct buf *b)
{
    static const char letters[0x20] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    size_t done = 0;

    buf_addc(b, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)p[i];

        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        buf_add(b, p + done, i - done);
        done = i + 1;
        char letter = c < 0x20 ? letters[c] : (char)c;
        if (letter) {
            buf_addf(b, "\\%c", letter);
        } else {
            buf_addf(b, "\\u%04x", c);
        }
    }
    buf_add(b, p + done, len - done);
    buf_addc(b, '"');
}

/* The shortest form that reads back as the same number: 0.1 stays 0.1. */
static void write_real(double d, struct buf *b)
{
    char text[40];

    for (int digits = 15; digits <= 17; digits++) {
        double back = 0;

        snprintf(text, sizeof(text), "%.*g", digits, d);
        if (str_to_double(str_of(text), &back) && back == d) {
            break;
        }
    }
    buf_addf(b, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
}

static void write_array(const json_t *j, struct buf *b)
{
    size_t i;
    json_t *v;

    buf_addc(b, '[');
    json_array_foreach(j, i, v)
    {
        if (i) {
            buf_addc(b, ',');
        }
        json_write(v, b);
    }
    buf_addc(b, ']');
}

static void write_object(const json_t *j, struct buf *b)
{
    const char *key;
    json_t *v;
    bool first = true;

    buf_addc(b, '{');
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        if (!first) {
            buf_addc(b, ',');
        }
        first = false;
        write_string(key, strlen(key), b);
        buf_addc(b, ':');
        json_write(v, b);
    }
    buf_addc(b, '}');
}

int json_write(const json_t *j, struct buf *b)
{
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        write_object(j, b);
        break;
    case JSON_ARRAY:
        write_array(j, b);
        break;
    case JSON_STRING:
        write_string(json_string_value(j), json_string_length(j), b);
        break;
    case JSON_INTEGER:
        buf_addf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(j));
        break;
    case JSON_REAL:
        write_real(json_real_value(j), b);
        break;
    case JSON_TRUE:
        buf_adds(b, "true");
        break;
    case JSON_FALSE:
        buf_adds(b, "false");
        break;
    case JSON_NULL:
        buf_adds(b, "null");
        break;
    }
    return b->failed ? ERR_TOO_LARGE : 0;
}

char *json_text(const json_t *j)
{
    struct buf b CLEANUP(buf_free) = {.max = SIZE_MAX};

    MUST(json_write(j, &b) == 0);
    return buf_take(&b);
}

json_t *json_string_lossy(const char *p, size_t len)
{
    struct buf b CLEANUP(buf_free) = {.max = SIZE_MAX};
    json_t *plain = len && memchr(p, '\0', len) ? NULL : json_stringn(len ? p : "", len);

    for (struct str s = {p, len}; !plain && s.len;) {
        size_t n = *s.p ? str_utf8_head(s) : 0;

        buf_add(&b, n ? s.p : "\xef\xbf\xbd", n ? n : 3);
        n = n ? n : 1;
        s = (struct str){s.p + n, s.len - n};
    }
    plain = plain ? plain : json_stringn(b.data, b.len);
    MUST(plain);
    return plain;
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
