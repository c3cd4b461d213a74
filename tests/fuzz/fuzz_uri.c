/* Any request target: taken apart or refused, and what it is taken apart into is text. */
#include "internal/uri.h"

#include "internal/str.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

static void check_text(const char *text, size_t max, const char *s)
{
    MUST(strlen(s) <= max && str_is_utf8(s, strlen(s)));
    MUST(streq(s, "/") || (s >= text && s + strlen(s) <= text + max));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text CLEANUP(freep) = xstrndup((const char *)data, size);
    size_t max = strlen(text);
    struct err why = {0};
    struct uri u;

    if (uri_parse(text, &u, &why) < 0) {
        MUST(why.code == ERR_PARSE && *why.text);
        return 0;
    }
    MUST(u.path[0] == '/' && u.n_args >= 0 && u.n_args <= URI_ARGS_MAX);
    check_text(text, max, u.path);
    for (int i = 0; i < u.n_args; i++) {
        check_text(text, max, u.args[i].name);
        check_text(text, max, u.args[i].value);
    }
    return 0;
}
