#include "cmd/sje/text.h"

#include <langinfo.h>
#include <locale.h>
#include <time.h>
#include <wchar.h>

#define REPLACEMENT "\xef\xbf\xbd"
#define ESC         '\x1b'

static bool unicode_terminal;

void text_setup(void)
{
    setlocale(LC_ALL, "");
    tzset();
    unicode_terminal = streq(nl_langinfo(CODESET), "UTF-8");
    /* Widths are asked of the C library, whose tables need a UTF-8 locale. */
    setlocale(LC_CTYPE, "C.UTF-8");
}

bool text_unicode(void)
{
    return unicode_terminal;
}

const char *text_ellipsis(void)
{
    return unicode_terminal ? "…" : "...";
}

/* Length of the character that p begins with and its number; 0 where it is no UTF-8 or cut off. */
static size_t decode(const char *p, size_t n, uint32_t *ret)
{
    static const uint8_t lead_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    unsigned char lead = (unsigned char)p[0];
    size_t len = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

    if (len > n || !str_is_utf8(p, len)) {
        return 0;
    }
    uint32_t c = lead & lead_bits[len];
    for (size_t i = 1; i < len; i++) {
        c = c << 6 | ((unsigned char)p[i] & 0x3f);
    }
    *ret = c;
    return len;
}

/* Direction overrides and isolates, line and paragraph separators: they make text look like
 * another text. */
static bool deceptive(uint32_t c)
{
    return (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0x2028 ||
           c == 0x2029;
}

/* One character of s in its harmless form; returns how many bytes of s it took. */
static size_t clean_one(struct buf *out, struct str s)
{
    uint32_t c = 0;
    size_t n = decode(s.p, s.len, &c);

    if (n == 0) {
        buf_adds(out, REPLACEMENT);
        return 1;
    }
    if (c < 0x20) {
        buf_addc(out, '^');
        buf_addc(out, (char)(c + '@'));
    } else if (c == 0x7f) {
        buf_adds(out, "^?");
    } else if ((c >= 0x80 && c <= 0x9f) || deceptive(c)) {
        buf_adds(out, REPLACEMENT);
    } else {
        buf_add(out, s.p, n);
    }
    return n;
}

void text_clean(struct buf *out, struct str s)
{
    while (s.len) {
        size_t n = 1;

        if (s.p[0] == '\n' || s.p[0] == '\t' || s.p[0] == '\r') {
            buf_addc(out, ' ');
        } else {
            n = clean_one(out, s);
        }
        s.p += n;
        s.len -= n;
    }
}

static size_t char_width(uint32_t c)
{
    int w = wcwidth((wchar_t)c);

    return w < 0 ? 1 : (size_t)w;
}

size_t text_width(struct str s)
{
    size_t width = 0;

    while (s.len) {
        uint32_t c = '?';
        size_t n = decode(s.p, s.len, &c);

        width += char_width(c);
        n = n ? n : 1;
        s.p += n;
        s.len -= n;
    }
    return width;
}

/* How many bytes of s fit in `width` columns. */
static size_t fitting(struct str s, size_t width)
{
    size_t used = 0;
    size_t at = 0;

    while (at < s.len) {
        uint32_t c = '?';
        size_t n = decode(s.p + at, s.len - at, &c);

        used += char_width(c);
        if (used > width) {
            break;
        }
        at += n ? n : 1;
    }
    return at;
}

void text_fit(struct buf *out, struct str s, size_t width)
{
    struct buf clean CLEANUP(buf_free) = {0};
    /* No character takes more than 4 bytes; combining ones come on top, within reason. */
    struct str head = {s.p, MIN(s.len, width * 16 + 64)};

    buf_init(&clean, head.len * 3 + 1);
    text_clean(&clean, head);
    struct str all = {clean.data ? clean.data : "", clean.len};
    if (head.len == s.len && text_width(all) <= width) {
        buf_add(out, all.p, all.len);
        return;
    }
    size_t dots = unicode_terminal ? 1 : 3;
    buf_add(out, all.p, fitting(all, width > dots ? width - dots : 0));
    if (width >= dots) {
        buf_adds(out, text_ellipsis());
    }
}

void text_pad(struct buf *out, size_t have, size_t width)
{
    for (; have < width; have++) {
        buf_addc(out, ' ');
    }
}

/* ---- streams ---- */

/* Length of the colour sequence that s begins with (ESC [ numbers m); 0: it is none; SIZE_MAX: it
 * may become one. */
static size_t colour_sequence(struct str s)
{
    if (s.len > 1 && s.p[1] != '[') {
        return 0;
    }
    for (size_t i = 2; i < s.len; i++) {
        char c = s.p[i];

        if (c == 'm') {
            return i + 1;
        }
        if (!((c >= '0' && c <= '9') || c == ';' || c == ':')) {
            return 0;
        }
    }
    return s.len < 32 ? SIZE_MAX : 0;
}

/* The first bytes of a character that is not complete yet. */
static bool incomplete(struct str s)
{
    unsigned char lead = (unsigned char)s.p[0];
    size_t want = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;

    if (lead > 0xf4 || s.len >= want) {
        return false;
    }
    for (size_t i = 1; i < s.len; i++) {
        if (((unsigned char)s.p[i] & 0xc0) != 0x80) {
            return false;
        }
    }
    return true;
}

/* Takes one character or sequence off the front of s; 0: needs more bytes. */
static size_t scrub_take(struct scrub *scrub, struct buf *out, struct str s, bool end)
{
    char c = s.p[0];

    if (c == ESC) {
        size_t n = colour_sequence(s);

        if (n == SIZE_MAX && !end) {
            return 0;
        }
        if (n != 0 && n != SIZE_MAX) {
            return n;
        }
    } else if (!end && incomplete(s)) {
        return 0;
    }
    if (scrub->cr && c != '\n') {
        buf_addc(out, '\n');
    }
    scrub->cr = c == '\r';
    if (c == '\n' || c == '\t') {
        buf_addc(out, c);
        return 1;
    }
    return scrub->cr ? 1 : clean_one(out, s);
}

static void scrub_held(struct scrub *s, struct buf *out, bool end)
{
    size_t at = 0;

    while (at < s->n) {
        size_t took = scrub_take(s, out, (struct str){s->held + at, s->n - at}, end);

        if (took == 0) {
            break;
        }
        at += took;
    }
    s->n -= at;
    memmove(s->held, s->held + at, s->n);
}

void scrub_add(struct scrub *s, struct buf *out, struct str piece)
{
    for (size_t i = 0; i < piece.len; i++) {
        assert(s->n < sizeof(s->held));
        s->held[s->n++] = piece.p[i];
        scrub_held(s, out, false);
    }
}

void scrub_end(struct scrub *s, struct buf *out)
{
    scrub_held(s, out, true);
    if (s->cr) {
        buf_addc(out, '\n');
        s->cr = false;
    }
}

/* ---- quantities ---- */

void text_duration(struct buf *out, int64_t ms)
{
    int64_t s = MAX(ms, 0) / 1000;

    if (ms < 1000) {
        buf_addf(out, "%lld ms", (long long)MAX(ms, 0));
    } else if (s < 10) {
        buf_addf(out, "%lld.%lld s", (long long)s, (long long)(ms % 1000 / 100));
    } else if (s < 60) {
        buf_addf(out, "%lld s", (long long)s);
    } else if (s < 3600) {
        buf_addf(out, "%lld min %lld s", (long long)(s / 60), (long long)(s % 60));
    } else if (s < 86400) {
        buf_addf(out, "%lld h %lld min", (long long)(s / 3600), (long long)(s % 3600 / 60));
    } else {
        buf_addf(out, "%lld d %lld h", (long long)(s / 86400), (long long)(s % 86400 / 3600));
    }
}

void text_size(struct buf *out, int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    int64_t whole = MAX(bytes, 0);
    int64_t tenths = 0;

    while (whole >= 1024 && unit + 1 < ARRAY_LEN(units)) {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit++;
    }
    if (unit > 0 && whole < 10) {
        buf_addf(out, "%lld.%lld %s", (long long)whole, (long long)tenths, units[unit]);
    } else {
        buf_addf(out, "%lld %s", (long long)whole, units[unit]);
    }
}

void text_local(struct buf *out, int64_t wall_ms, bool with_ms)
{
    time_t t = (time_t)(wall_ms / 1000);
    struct tm tm;
    char text[64];

    if (!localtime_r(&t, &tm) || strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm) == 0) {
        buf_adds(out, "?");
        return;
    }
    buf_adds(out, text);
    if (with_ms) {
        buf_addf(out, ".%03d", (int)(wall_ms % 1000));
    }
}

void text_ago(struct buf *out, int64_t ms)
{
    int64_t s = (ms < 0 ? -ms : ms) / 1000;
    const char *unit = "s";
    int64_t n = s;

    if (s == 0) {
        buf_adds(out, "now");
        return;
    }
    if (s >= 2 * 86400) {
        unit = "d";
        n = s / 86400;
    } else if (s >= 3600) {
        unit = "h";
        n = s / 3600;
    } else if (s >= 60) {
        unit = "min";
        n = s / 60;
    }
    buf_addf(out, ms < 0 ? "in %lld %s" : "%lld %s ago", (long long)n, unit);
}

static bool digits(const char *s, size_t at, size_t n, int64_t min, int64_t max, int *ret)
{
    int64_t v = 0;

    if (s[at] == '-' || !str_to_i64((struct str){s + at, n}, min, max, &v)) {
        return false;
    }
    *ret = (int)v;
    return true;
}

bool text_time(const char *s, int64_t *ret_wall_ms)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd";
    size_t len = s ? strlen(s) : 0;
    struct tm tm = {0};
    int64_t ms = 0;

    if (len < sizeof(form) || len > 40 || s[len - 1] != 'Z') {
        return false;
    }
    for (size_t i = 0; i + 1 < sizeof(form); i++) {
        if (form[i] != 'd' && form[i] != s[i]) {
            return false;
        }
    }
    if (!digits(s, 0, 4, 1970, 9999, &tm.tm_year) || !digits(s, 5, 2, 1, 12, &tm.tm_mon) ||
        !digits(s, 8, 2, 1, 31, &tm.tm_mday) || !digits(s, 11, 2, 0, 23, &tm.tm_hour) ||
        !digits(s, 14, 2, 0, 59, &tm.tm_min) || !digits(s, 17, 2, 0, 60, &tm.tm_sec)) {
        return false;
    }
    struct str fraction = {s + 19, len - 20};
    if (fraction.len) {
        int scale = 100;

        if (fraction.len < 2 || fraction.p[0] != '.') {
            return false;
        }
        for (size_t i = 1; i < fraction.len; i++) {
            if (fraction.p[i] < '0' || fraction.p[i] > '9') {
                return false;
            }
            ms += (fraction.p[i] - '0') * scale;
            scale /= 10;
        }
    }
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *ret_wall_ms = (int64_t)timegm(&tm) * 1000 + ms;
    return true;
}

void text_urlencode(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                     c == '-' || c == '.' || c == '_' || c == '~';

        if (plain) {
            buf_addc(out, (char)c);
        } else {
            buf_addf(out, "%%%02X", c);
        }
    }
}

#define WORD_MAX 32

size_t text_distance(const char *a, const char *b)
{
    size_t d[WORD_MAX + 1][WORD_MAX + 1];
    size_t na = strlen(a);
    size_t nb = strlen(b);

    if (na > WORD_MAX || nb > WORD_MAX) {
        return MAX(na, nb);
    }
    for (size_t i = 0; i <= na; i++) {
        for (size_t j = 0; j <= nb; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = MIN(best, MIN(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                best = MIN(best, d[i - 2][j - 2] + 1);
            }
            d[i][j] = best;
        }
    }
    return d[na][nb];
}
