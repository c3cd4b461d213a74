/* uri.h: the target of an HTTP request, taken apart and decoded in place, strictly.
 *
 * Source: RFC 3986 section 2.1 (percent-encoding), RFC 9112 section 3.2 (origin-form, and
 * absolute-form whose scheme and authority are skipped); '+' in a query is a space
 * (application/x-www-form-urlencoded).
 */
#ifndef SJE_URI_H
#define SJE_URI_H

#include "internal/err.h"

#define URI_ARGS_MAX 32

/* Points into the text that was parsed. */
struct uri {
    char *path;
    int n_args;
    struct {
        char *name;
        char *value; /* "" where there is no '=' */
    } args[URI_ARGS_MAX];
};

/* Overwrites `text`. ERR_PARSE: neither a path nor an absolute URI, control characters, a broken %
 * sequence, %00, no UTF-8 after decoding, over URI_ARGS_MAX arguments. */
int uri_parse(char *text, struct uri *ret, struct err *reterr) NODISCARD;

#endif
