#include "internal/uri.h"

#include "internal/str.h"

#include <strings.h>

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static int decode(char *s, bool plus, struct err *reterr)
{
    char *out = s;
    const char *start = s;

    for (; *s; s++) {
        if (*s != '%') {
            *out++ = plus && *s == '+' ? ' ' : *s;
            continue;
        }
        int high = hex(s[1]);
        int low = high < 0 ? -1 : hex(s[2]);
        if (low < 0 || high + low == 0) {
            return err_set(reterr, ERR_PARSE,
                           "the request target has a %% sequence that is broken or encodes NUL");
        }
        *out++ = (char)(high * 16 + low);
        s += 2;
    }
    *out = '\0';
    if (!str_is_utf8(start, (size_t)(out - start))) {
        return err_set(reterr, ERR_PARSE, "the request target is not UTF-8 when decoded");
    }
    return 0;
}

static int parse_query(char *s, struct uri *u, struct err *reterr)
{
    while (s) {
        char *pair = strsep(&s, "&");

        if (*pair == '\0') {
            continue;
        }
        if (u->n_args == URI_ARGS_MAX) {
            return err_set(reterr, ERR_PARSE, "more than %d query arguments", URI_ARGS_MAX);
        }
        char *name = strsep(&pair, "=");
        char *value = pair ? pair : name + strlen(name);
        int rc = decode(name, true, reterr);

        if (rc == 0 && pair) {
            rc = decode(value, true, reterr);
        }
        if (rc < 0) {
            return rc;
        }
        u->args[u->n_args].name = name;
        u->args[u->n_args++].value = value;
    }
    return 0;
}

/* "http://host/path" is what a client sends to a proxy, and must be understood by every server. */
static char *skip_authority(char *s)
{
    size_t scheme = strncasecmp(s, "http://", 7) == 0    ? 7
                    : strncasecmp(s, "https://", 8) == 0 ? 8
                                                         : 0;

    return scheme ? s + scheme + strcspn(s + scheme, "/?") : s;
}

int uri_parse(char *text, struct uri *ret, struct err *reterr)
{
    static char root[] = "/";

    ret->n_args = 0;
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '#') {
            return err_set(reterr, ERR_PARSE,
                           "the request target has a character that is not "
                           "allowed there unless percent-encoded");
        }
    }
    char *s = skip_authority(text);
    if (*s != '/' && s == text) {
        return err_set(reterr, ERR_PARSE, "the request target must begin with '/'");
    }
    char *query = strchr(s, '?');
    if (query) {
        *query++ = '\0';
    }
    ret->path = *s ? s : root;
    int rc = *s ? decode(s, false, reterr) : 0;
    return rc < 0 ? rc : parse_query(query, ret, reterr);
}
