#include "internal/err.h"

#include <stdio.h>

struct err_row {
    int code;
    int http;
    int exit;
    bool retry;
    const char *name;
    const char *text;
};

static const struct err_row rows[] = {
#define ERR(name, code, http, exit, retry, text) {code, http, exit, retry, #name, text},
#include "internal/err.def"
#undef ERR
};

static const struct err_row *find(int code)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].code == code) {
            return &rows[i];
        }
    }
    UNREACHABLE("unknown error code");
}

static void set_text(struct err *e, int code, const char *fmt, va_list ap)
{
    e->code = code;
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
}

int err_set(struct err *reterr, int code, const char *fmt, ...)
{
    if (reterr) {
        va_list ap;

        va_start(ap, fmt);
        set_text(reterr, code, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_errno(struct err *reterr, int code, int errnum, const char *fmt, ...)
{
    if (reterr) {
        va_list ap;

        va_start(ap, fmt);
        set_text(reterr, code, fmt, ap);
        va_end(ap);
        size_t n = strlen(reterr->text);
        snprintf(reterr->text + n, sizeof(reterr->text) - n, ": %s", strerror(errnum));
    }
    return code;
}

const char *err_name(int code)
{
    return find(code)->name;
}

const char *err_text(int code)
{
    return find(code)->text;
}

int err_http_status(int code)
{
    return find(code)->http;
}

int err_exit_status(int code)
{
    return find(code)->exit;
}

bool err_retryable(int code)
{
    return find(code)->retry;
}
