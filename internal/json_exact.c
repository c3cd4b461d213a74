#include "internal/json_exact.h"

#include <ctype.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Length of the string at the head of s, with its quotes. */
static size_t string_len(struct str s)
{
    size_t n = 1;

    while (n < s.len && s.p[n] != '"') {
        n += s.p[n] == '\\' ? 2 : 1;
    }
    return MIN(n + 1, s.len);
}

/* ---- numbers ---- */

static size_t number_len(struct str s)
{
    size_t n = 0;

    while (n < s.len && (isalnum((unsigned char)s.p[n]) || strchr("+-.", s.p[n]))) {
        n++;
    }
    return n;
}

/* -?digits(.digits)?, without a zero in front that says nothing. */
static bool is_plain(struct str s)
{
    struct str fraction;
    struct str whole = str_cut(s, '.', &fraction);
    bool has_point = whole.len < s.len;

    if (whole.len && *whole.p == '-') {
        whole = (struct str){whole.p + 1, whole.len - 1};
    }
    bool good = whole.len && (*whole.p != '0' || whole.len == 1) && has_point == (fraction.len > 0);
    for (size_t i = 0; good && i < whole.len; i++) {
        good = isdigit((unsigned char)whole.p[i]);
    }
    for (size_t i = 0; good && i < fraction.len; i++) {
        good = isdigit((unsigned char)fraction.p[i]);
    }
    return good;
}

/* What a tree gives back is what was written. */
static bool is_held(struct str s)
{
    char copy[JSON_DIGITS_MAX + 1];
    int64_t n = 0;

    if (str_to_i64(s, INT64_MIN, INT64_MAX, &n) && !str_eq(s, STR("-0"))) {
        return true;
    }
    memcpy(copy, s.p, s.len);
    copy[s.len] = '\0';
    double d = 0;
    if (!memchr(s.p, '.', s.len) || !str_to_double(str_of(copy), &d)) {
        return false;
    }
    json_auto_t *j = json_real(d);
    char *text CLEANUP(freep) = j ? json_text(j) : NULL;
    return streq(text, copy);
}

static bool is_beyond_a_tree(struct str s)
{
    return s.len <= JSON_DIGITS_MAX && is_plain(s) && !is_held(s);
}

bool json_blunt(char *text, size_t len)
{
    bool changed = false;

    for (size_t i = 0; i < len;) {
        struct str rest = {text + i, len - i};
        bool number = *rest.p == '-' || isdigit((unsigned char)*rest.p);
        size_t n = *rest.p == '"' ? string_len(rest) : number ? number_len(rest) : 1;

        if (number && is_beyond_a_tree((struct str){rest.p, n})) {
            memset(text + i, ' ', n);
            text[i] = '0';
            changed = true;
        }
        i += n;
    }
    return changed;
}

int json_read_exact(const char *p, size_t len, json_t **ret, bool *ret_exact, struct err *reterr)
{
    struct buf copy CLEANUP(buf_free) = {0};

    buf_init(&copy, len);
    buf_add(&copy, p, len);
    *ret_exact = !json_blunt(copy.data, copy.len);
    return json_read(copy.data, copy.len, ret, reterr);
}

/* ---- text ---- */

static void skip_blanks(struct str *s)
{
    while (s->len && is_blank(*s->p)) {
        *s = (struct str){s->p + 1, s->len - 1};
    }
}

/* Length of the value at the head of s, up to the ',' or the bracket behind it. */
static size_t value_len(struct str s)
{
    size_t n = 0;
    int depth = 0;

    while (n < s.len) {
        char c = s.p[n];

        if (c == '"') {
            n += string_len((struct str){s.p + n, s.len - n});
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) {
            break;
        }
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        n++;
    }
    return n;
}

static void skip(struct str *s, size_t n)
{
    *s = (struct str){s->p + n, s->len - n};
    skip_blanks(s);
}

struct str json_raw_member(struct str object, const char *key)
{
    skip_blanks(&object);
    while (object.len > 1 && (*object.p == '{' || *object.p == ',')) {
        skip(&object, 1);
        size_t n = object.len && *object.p == '"' ? string_len(object) : 0;
        struct str name = {object.p + 1, n > 2 ? n - 2 : 0};
        bool found = n && str_eq(name, str_of(key));

        skip(&object, n);
        if (!n || !object.len || *object.p != ':') {
            break;
        }
        skip(&object, 1);
        n = value_len(object);
        if (found) {
            return str_trim((struct str){object.p, n});
        }
        skip(&object, n);
    }
    return (struct str){"", 0};
}

static void new_line(struct buf *b, int depth)
{
    buf_addc(b, '\n');
    for (int i = 0; i < depth; i++) {
        buf_adds(b, "  ");
    }
}

void json_indent(struct str text, struct buf *b)
{
    int depth = 0;
    bool opened = false;

    for (skip_blanks(&text); text.len;) {
        char c = *text.p;
        bool closes = c == '}' || c == ']';
        size_t n = c == '"' ? string_len(text) : 1;

        depth -= closes;
        if (opened != closes) {
            new_line(b, depth);
        }
        opened = c == '{' || c == '[';
        depth += opened;
        buf_add(b, text.p, n);
        buf_adds(b, c == ':' ? " " : "");
        if (c == ',') {
            new_line(b, depth);
        }
        skip(&text, n);
    }
}
