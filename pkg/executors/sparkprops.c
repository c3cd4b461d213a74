#include "pkg/executors/sparkprops.h"

#include <stdio.h>
#include <stdlib.h>

/* A site's file leaves half of the room to the rest. */
void spark_props_read(const char *dir, struct buf *b)
{
    char *path CLEANUP(freep) = xasprintf("%s/spark-defaults.conf", dir);
    FILE *f = fopen(path, "re");

    if (!f) {
        return;
    }
    char part[4096];
    size_t n;
    while ((n = fread(part, 1, sizeof(part), f)) > 0 && b->len < SPARK_PROPERTIES_MAX / 2) {
        buf_add(b, part, n);
    }
    buf_addc(b, '\n');
    fclose(f);
}

/* ---- reading ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\f';
}

static void skip_blanks(struct str *s)
{
    while (s->len && is_blank(*s->p)) {
        s->p++;
        s->len--;
    }
}

/* Does a backslash escape what comes behind the first n bytes? */
static bool is_escaped(struct str s, size_t n)
{
    bool odd = false;

    while (n && s.p[n - 1] == '\\') {
        odd = !odd;
        n--;
    }
    return odd;
}

/* The next line with those that it goes on in, without the blanks that begin them. False: no more.
 */
static bool next_line(struct str *rest, struct buf *line)
{
    buf_reset(line);
    if (!rest->len) {
        return false;
    }
    for (bool more = true; more && rest->len;) {
        struct str part = str_cut(*rest, '\n', rest);

        skip_blanks(&part);
        if (part.len && part.p[part.len - 1] == '\r') {
            part.len--;
        }
        more =
            is_escaped(part, part.len) && !(line->len == 0 && (*part.p == '#' || *part.p == '!'));
        buf_add(line, part.p, part.len - more);
    }
    return !line->failed;
}

static void add_code_point(struct buf *b, unsigned u)
{
    if (u < 0x80) {
        buf_addc(b, (char)u);
    } else if (u < 0x800) {
        buf_addc(b, (char)(0xc0 | u >> 6));
        buf_addc(b, (char)(0x80 | (u & 0x3f)));
    } else {
        buf_addc(b, (char)(0xe0 | u >> 12));
        buf_addc(b, (char)(0x80 | (u >> 6 & 0x3f)));
        buf_addc(b, (char)(0x80 | (u & 0x3f)));
    }
}

/* What stands behind a backslash; returns how many bytes that are. Surrogates, which nobody writes
 * into such a file, are not put together. */
static size_t unescape(struct str s, struct buf *b)
{
    static const char from[] = "tnrf";
    static const char to[] = "\t\n\r\f";
    unsigned u = 0;
    const char *at = strchr(from, *s.p);

    if (*s.p == 'u' && s.len >= 5) {
        char hex[5] = {s.p[1], s.p[2], s.p[3], s.p[4], 0};
        if (strspn(hex, "0123456789abcdefABCDEF") == 4 && sscanf(hex, "%4x", &u) == 1 && u) {
            add_code_point(b, u);
            return 5;
        }
    }
    buf_addc(b, at && *at ? to[at - from] : *s.p);
    return 1;
}

static void add_unescaped(struct buf *b, struct str s)
{
    while (s.len) {
        size_t n = 1;

        if (*s.p == '\\' && s.len > 1) {
            n += unescape((struct str){s.p + 1, s.len - 1}, b);
        } else if (*s.p != '\\') {
            buf_addc(b, *s.p);
        }
        s.p += n;
        s.len -= n;
    }
}

/* Cuts the key off. */
static struct str take_key(struct str *line)
{
    size_t n = 0;

    while (n < line->len &&
           (is_escaped(*line, n) || !(is_blank(line->p[n]) || strchr("=:", line->p[n])))) {
        n++;
    }
    struct str key = {line->p, n};
    *line = (struct str){line->p + n, line->len - n};
    skip_blanks(line);
    if (line->len && (*line->p == '=' || *line->p == ':')) {
        *line = (struct str){line->p + 1, line->len - 1};
        skip_blanks(line);
    }
    return key;
}

char *spark_props_get(struct str text, const char *key)
{
    struct buf line CLEANUP(buf_free) = {0};
    struct buf plain CLEANUP(buf_free) = {0};
    char *value = NULL;

    buf_init(&line, SPARK_PROPERTIES_MAX);
    buf_init(&plain, SPARK_PROPERTIES_MAX);
    while (next_line(&text, &line)) {
        struct str rest = {line.data, line.len};

        if (!line.len || *line.data == '#' || *line.data == '!') {
            continue;
        }
        add_unescaped(&plain, take_key(&rest));
        bool found = plain.len && streq(plain.data, key);
        buf_reset(&plain);
        if (found) {
            free(value);
            add_unescaped(&plain, rest);
            value = buf_take(&plain);
        }
    }
    return value;
}

/* ---- writing ---- */

static void add_escaped(struct buf *b, const char *s, bool key)
{
    for (const char *p = s; *p; p++) {
        if (*p == '\n') {
            buf_adds(b, "\\n");
        } else if (*p == '\r') {
            buf_adds(b, "\\r");
        } else if (*p == '\t') {
            buf_adds(b, "\\t");
        } else if (*p == '\f') {
            buf_adds(b, "\\f");
        } else if (strchr("\\=:#!", *p) || (*p == ' ' && (key || p == s))) {
            buf_addc(b, '\\');
            buf_addc(b, *p);
        } else {
            buf_addc(b, *p); /* spark-submit reads the file as UTF-8 */
        }
    }
}

void spark_props_add(struct buf *b, const char *key, const char *value)
{
    add_escaped(b, key, true);
    buf_addc(b, '=');
    add_escaped(b, value, false);
    buf_addc(b, '\n');
}
