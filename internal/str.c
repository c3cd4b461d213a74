#include "internal/str.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>

bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

bool str_ieq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || strncasecmp(a.p, b.p, a.len) == 0);
}

bool str_starts(struct str s, struct str prefix)
{
    return s.len >= prefix.len && str_eq((struct str){s.p, prefix.len}, prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return suffix.len == 0 || (s.len >= suffix.len &&
                               str_eq((struct str){s.p + s.len - suffix.len, suffix.len}, suffix));
}

struct str str_trim(struct str s)
{
    while (s.len && isspace((unsigned char)s.p[0])) {
        s.p++;
        s.len--;
    }
    while (s.len && isspace((unsigned char)s.p[s.len - 1])) {
        s.len--;
    }
    return s;
}

struct str str_without_mark(struct str s)
{
    size_t n = str_starts(s, STR("\xef\xbb\xbf")) ? 3 : 0;

    return (struct str){s.p + n, s.len - n};
}

struct str str_cut(struct str s, char sep, struct str *rest)
{
    const char *at = s.len ? memchr(s.p, sep, s.len) : NULL;

    if (!at) {
        *rest = (struct str){s.len ? s.p + s.len : s.p, 0}; /* NULL has no offset */
        return s;
    }
    size_t n = (size_t)(at - s.p);
    *rest = (struct str){at + 1, s.len - n - 1};
    return (struct str){s.p, n};
}

size_t str_chars(struct str s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len; i++) {
        n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    }
    return n;
}

bool str_to_i64(struct str s, int64_t min, int64_t max, int64_t *ret)
{
    bool neg = s.len > 0 && s.p[0] == '-';
    size_t i = neg ? 1 : 0;
    int64_t v = 0;

    if (i == s.len) {
        return false;
    }
    for (; i < s.len; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') {
            return false;
        }
        int digit = s.p[i] - '0';
        if (__builtin_mul_overflow(v, 10, &v) ||
            (neg ? __builtin_sub_overflow(v, digit, &v) : __builtin_add_overflow(v, digit, &v))) {
            return false;
        }
    }
    if (v < min || v > max) {
        return false;
    }
    *ret = v;
    return true;
}

bool str_to_double(struct str s, double *ret)
{
    char text[64];
    char *end = NULL;

    if (s.len == 0 || s.len >= sizeof(text)) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) { /* strtod would take spaces, "inf" and "0x1p3" too */
        if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] && strchr("+-.eE", s.p[i])))) {
            return false;
        }
    }
    memcpy(text, s.p, s.len);
    text[s.len] = '\0';
    errno = 0;
    double v = strtod(text, &end);
    if (*end != '\0' || (errno != 0 && fabs(v) > 1) || !isfinite(v)) { /* too small is zero */
        return false;
    }
    *ret = v;
    return true;
}

/* Of the character that begins with c; 0 where none does. */
static size_t utf8_length(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
}

size_t str_utf8_head(struct str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t n = s.len ? utf8_length(p[0]) : 0;

    if (n == 0 || n > s.len) {
        return 0;
    }
    for (size_t k = 1; k < n; k++) {
        if ((p[k] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] > 0x9f;
    bool beyond = p[0] == 0xf4 && p[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : n;
}

bool str_is_utf8(const char *p, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = str_utf8_head((struct str){p + i, len - i});

        if (n == 0) {
            return false;
        }
        i += n;
    }
    return true;
}

void str_make_printable(char *text, size_t size)
{
    size_t len = strlen(text);

    for (size_t i = 0; i < len;) {
        size_t n = str_utf8_head((struct str){text + i, len - i});

        if (n == 0 && len == size - 1 && len - i < 4 && (text[i] & 0xc0) == 0xc0) {
            text[i] = '\0';
            return;
        }
        if (n == 0 || (unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            text[i] = '?';
        }
        i += n ? n : 1;
    }
}
