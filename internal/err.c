#include "internal/err.h"

#include "internal/buf.h"
#include "internal/str.h"

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

/* By way of a copy: the arguments may point into *e ("while …: %s", e->text). */
static void set_text(struct err *e, int code, int errnum, const char *fmt, va_list ap) PRINTF(4, 0);
static void set_text(struct err *e, int code, int errnum, const char *fmt, va_list ap)
{
    char text[sizeof(e->text)];
    int n = vsnprintf(text, sizeof(text), fmt, ap);

    if (n < 0) {
        snprintf(text, sizeof(text), "%s", err_text(code));
    }
    if (n >= 0 && errnum && (size_t)n < sizeof(text)) {
        char storage[64];

        snprintf(text + n, sizeof(text) - (size_t)n, ": %s",
                 strerror_r(errnum, storage, sizeof(storage)));
    }
    str_make_printable(text, sizeof(text));
    memcpy(e->text, text, strlen(text) + 1);
    e->code = code;
}

int err_set(struct err *reterr, int code, const char *fmt, ...)
{
    if (reterr) {
        va_list ap;

        va_start(ap, fmt);
        set_text(reterr, code, 0, fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_errno(struct err *reterr, int code, int errnum, const char *fmt, ...)
{
    if (reterr) {
        va_list ap;

        va_start(ap, fmt);
        set_text(reterr, code, errnum, fmt, ap);
        va_end(ap);
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

void err_markdown(struct buf *out)
{
    buf_adds(
        out,
        "# Errors\n\n"
        "<!-- Generated from internal/err.def by `make docs`. -->\n\n"
        "One code decides what the HTTP API answers, with which status `sje-executor` ends, and "
        "whether\nthe same call may be tried again as it is. `sje` ends with statuses of its "
        "own: [cli.md](cli.md).\n\n"
        "| code | meaning | HTTP status | exit status | try again |\n"
        "|---|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf_addf(out, "| `%s` | %s | %d | %d | %s |\n", rows[i].name, rows[i].text, rows[i].http,
                 rows[i].exit, rows[i].retry ? "yes" : "no");
    }
}
