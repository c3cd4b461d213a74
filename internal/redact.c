#include "internal/redact.h"

#include <ctype.h>

/* ---- names ---- */

#define NAME_MAX_SEEN 512 /* letters and digits that are looked at together */
#define NAME_OVERLAP  16  /* more than any of `anywhere` has */

/* Anywhere in a name, whatever stands between its letters. */
static const char *const anywhere[] = {"password", "passwd", "passphrase", "secret",
                                       "token",    "apikey", "credential"};
/* As a word of a name: "auth.pass", "MYSQL_PWD", "sig". */
static const char *const words[] = {"pass",      "pwd", "pw",  "sas",   "sig",
                                    "signature", "pat", "jwt", "cookie"};
/* In front of the word "key", or as the same word. */
static const char *const keys[] = {"access",  "account", "api",    "private", "secret",
                                   "storage", "shared",  "master", "signing", "encryption"};

static bool is_one_of(struct str word, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (str_ieq(word, str_of(list[i]))) {
            return true;
        }
    }
    return false;
}

static bool is_border(const char *p, size_t i)
{
    return i == 0 || !isalnum((unsigned char)p[i]) || !isalnum((unsigned char)p[i - 1]) ||
           (isupper((unsigned char)p[i]) && islower((unsigned char)p[i - 1]));
}

/* The next run of letters and digits, cut where "camelCase" begins anew; empty at the end. */
static struct str next_word(struct str *rest)
{
    while (rest->len && !isalnum((unsigned char)*rest->p)) {
        rest->p++;
        rest->len--;
    }
    struct str word = {rest->p, rest->len ? 1 : 0};
    while (word.len < rest->len && !is_border(rest->p, word.len)) {
        word.len++;
    }
    rest->p += word.len;
    rest->len -= word.len;
    return word;
}

static bool has_anywhere(struct str name)
{
    char plain[NAME_MAX_SEEN + 1];
    size_t n = 0;

    for (size_t i = 0; i <= name.len; i++) {
        if (i == name.len || n == NAME_MAX_SEEN) {
            plain[n] = '\0';
            for (size_t k = 0; k < ARRAY_LEN(anywhere); k++) {
                if (strstr(plain, anywhere[k])) {
                    return true;
                }
            }
            size_t kept = MIN(n, (size_t)NAME_OVERLAP);
            memmove(plain, plain + n - kept, kept);
            n = kept;
        }
        if (i < name.len && isalnum((unsigned char)name.p[i])) {
            plain[n++] = (char)tolower((unsigned char)name.p[i]);
        }
    }
    return false;
}

/* "accesskey": one of them and "key" in one word. */
static bool is_joined_key(struct str word)
{
    struct str front = {word.p, word.len > 3 ? word.len - 3 : 0};

    return front.len && str_ieq((struct str){word.p + front.len, 3}, STR("key")) &&
           is_one_of(front, keys, ARRAY_LEN(keys));
}

bool redact_is_secret(struct str name)
{
    struct str rest = name;
    struct str before = {"", 0};
    struct str word;
    size_t words_seen = 0;
    bool is_key = false;

    if (has_anywhere(name)) {
        return true;
    }
    while ((word = next_word(&rest)).len) {
        is_key = str_ieq(word, STR("key"));
        if (is_one_of(word, words, ARRAY_LEN(words)) || is_joined_key(word) ||
            (is_key && is_one_of(before, keys, ARRAY_LEN(keys)))) {
            return true;
        }
        before = word;
        words_seen++;
    }
    return is_key && words_seen > 1; /* "ANY_KEY" */
}

/* ---- texts ---- */

static bool ends_token(char c)
{
    return isspace((unsigned char)c) || c == '"' || c == '\'' || c == '<' || c == '>';
}

static size_t token_len(struct str s)
{
    size_t n = 0;

    while (n < s.len && !ends_token(s.p[n])) {
        n++;
    }
    return n;
}

static bool is_port(struct str s)
{
    size_t n = 0;

    while (n < s.len && isdigit((unsigned char)s.p[n])) {
        n++;
    }
    return n > 0 && (n == s.len || s.p[n] == '/' || s.p[n] == '?');
}

/* A text that is looked through once, from its begin to its end: what was found ahead is kept, so
 * that a text of nothing but separators takes no longer than any other. */
struct scan {
    struct str s;
    size_t token_end; /* of the last token that was asked for */
    size_t at;        /* its last '@'; token_end: none */
    size_t slash;     /* the next one */
    size_t name_end;  /* of the last name that was asked for */
};

static size_t find(struct str s, size_t from, size_t to, char c)
{
    const char *p = from < to ? memchr(s.p + from, c, to - from) : NULL;

    return p ? (size_t)(p - s.p) : to;
}

static void look_ahead(struct scan *n, size_t from)
{
    if (from >= n->token_end) {
        struct str token = {n->s.p + from, n->s.len - from};

        token.len = token_len(token);
        const char *at = memrchr(token.p, '@', token.len);
        n->token_end = from + token.len;
        n->at = at ? (size_t)(at - n->s.p) : n->token_end;
        n->slash = find(n->s, from, n->token_end, '/');
    } else if (from > n->slash) {
        n->slash = find(n->s, from, n->token_end, '/');
    }
}

/* `from` is behind "://", or behind "thin:" of Oracle, whose separator is '/': the password; empty
 * where there is none. Passwords with an '@' or a '/' happen. */
static struct str password_in(struct scan *n, size_t from, char sep)
{
    const struct str none = {"", 0};

    look_ahead(n, from);
    if (from > n->at || n->at == n->token_end) {
        return none;
    }
    size_t end = sep == '/' ? MIN(n->slash, n->at) : find(n->s, from, n->at, sep);
    bool slash = n->slash < n->at;
    if (end == n->at || (sep == ':' && slash && n->slash < end)) {
        return none;
    }
    struct str found = {n->s.p + end + 1, n->at - end - 1};
    return sep == ':' && slash && is_port(found) ? none : found;
}

static size_t name_len(struct str s)
{
    size_t n = 0;

    while (n < s.len && (isalnum((unsigned char)s.p[n]) || strchr("._-", s.p[n]))) {
        n++;
    }
    return n;
}

/* At `i` a name may begin: the value behind its '=', if the name tells. Of several beginnings in
 * one name the first tells most. */
static struct str value_behind(struct scan *scan, size_t i)
{
    const struct str none = {"", 0};
    struct str s = {scan->s.p + i, scan->s.len - i};

    if (i < scan->name_end) {
        return none;
    }
    struct str name = {s.p, name_len(s)};
    scan->name_end = i + name.len;
    if (name.len == 0 || name.len == s.len || s.p[name.len] != '=' || !redact_is_secret(name)) {
        return none;
    }
    struct str rest = {s.p + name.len + 1, s.len - name.len - 1};
    struct str value = {rest.p, 0};
    if (rest.len && (*rest.p == '"' || *rest.p == '\'')) {
        rest = (struct str){rest.p + 1, rest.len - 1};
        return str_cut(rest, rest.p[-1], &(struct str){0});
    }
    while (value.len < rest.len && !strchr("&;,", value.p[value.len]) &&
           !ends_token(value.p[value.len])) {
        value.len++;
    }
    return value;
}

/* What is to be hidden that is found at `i`. */
static struct str hidden_at(struct scan *n, size_t i)
{
    struct str s = n->s;
    struct str here = {s.p + i, s.len - i};

    if (str_starts(here, STR("://"))) {
        return password_in(n, i + 3, ':');
    }
    if (str_starts(here, STR(":thin:")) || str_starts(here, STR(":oci:"))) {
        return password_in(n, i + (here.p[1] == 't' ? 6 : 5), '/');
    }
    if (i == 0 || strchr("?&;, \t\r\n\"'", s.p[i - 1]) ||
        (s.p[i - 1] == '-' && (i < 2 || s.p[i - 2] == '-'))) {
        return value_behind(n, i);
    }
    return (struct str){"", 0};
}

char *redact_text(const char *text)
{
    struct str s = str_of(text);
    struct scan scan = {.s = s};
    struct buf b CLEANUP(buf_free) = {0};
    size_t kept = 0;

    if (!strchr(text, '=') && !strchr(text, '@')) {
        return NULL; /* no form without one of them */
    }
    buf_init(&b, s.len * 4 + 16);
    for (size_t i = 0; i < s.len; i++) {
        struct str hide = hidden_at(&scan, i);

        if (hide.len && !str_eq(hide, STR(REDACTED))) {
            size_t from = (size_t)(hide.p - s.p);
            buf_add(&b, s.p + kept, from - kept);
            buf_adds(&b, REDACTED);
            kept = from + hide.len;
            i = kept - 1;
        }
    }
    if (!kept) {
        return NULL;
    }
    buf_add(&b, s.p + kept, s.len - kept);
    return buf_take(&b);
}

/* ---- values ---- */

/* What stands for the value; NULL: itself. */
static json_t *masked(const json_t *v, const char *name)
{
    const char *s = json_string_value(v);

    if (!s || !*s || streq(s, REDACTED)) {
        return NULL;
    }
    if (name && redact_is_secret(str_of(name))) {
        return json_string(REDACTED);
    }
    char *text CLEANUP(freep) = redact_text(s);
    return text ? json_string(text) : NULL;
}

bool redact(json_t *j, const char *except)
{
    bool changed = false;
    const char *key;
    size_t i;
    json_t *v;

    json_object_foreach(j, key, v)
    {
        if (streq(key, except)) {
            continue;
        }
        json_t *instead = masked(v, key);

        changed = changed || instead;
        if (instead) {
            MUST(json_object_set_new(j, key, instead) == 0);
        } else {
            changed = redact(v, NULL) || changed;
        }
    }
    json_array_foreach(j, i, v)
    {
        json_t *instead = masked(v, NULL);

        changed = changed || instead;
        if (instead) {
            MUST(json_array_set_new(j, i, instead) == 0);
        } else {
            changed = redact(v, NULL) || changed;
        }
    }
    return changed;
}
