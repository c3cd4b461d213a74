/* err.h: one code decides retry, HTTP answer and exit status.
 *
 * Fallible functions return 0 or a negative ERR_ code and take `struct err *reterr` last (may be
 * NULL; set only on failure). errno, SQLSTATE, AMQP and UV codes are translated where they arise.
 * Whoever handles an error logs it; everything below returns it.
 */
#ifndef SJE_ERR_H
#define SJE_ERR_H

#include "internal/base.h"

enum err_code {
    ERR_OK = 0,
#define ERR(name, code, http, exit, retry, text) ERR_##name = (code),
#include "internal/err.def"
#undef ERR
};

struct err {
    int code;
    char text[256]; /* a sentence without full stop, no secrets; one printable line of UTF-8 */
};

/* Fills reterr (when not NULL) and returns code. */
int err_set(struct err *reterr, int code, const char *fmt, ...) PRINTF(3, 4);
/* As err_set with ": strerror(errnum)" behind the text. */
int err_errno(struct err *reterr, int code, int errnum, const char *fmt, ...) PRINTF(4, 5);

const char *err_name(int code); /* "INVALID" */
const char *err_text(int code); /* "invalid value" */
int err_http_status(int code);
int err_exit_status(int code);
bool err_retryable(int code);

struct buf;
void err_markdown(struct buf *out); /* docs/errors.md */

#endif
