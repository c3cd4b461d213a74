/* httpc.h: calls to other HTTP servers, on the loop (libcurl's multi interface), bounded.
 *
 * httpc.c is the only file of the library that includes curl.h; libcurl wakes with the first call.
 * Every call ends with exactly one callback, never from inside httpc_call(), or with httpc_close().
 * Redirects are not followed, no proxy is used. Threads: the loop thread only (names are looked up
 * by libcurl's own thread, so nothing here blocks). Source: libcurl-multi(3),
 * CURLMOPT_SOCKETFUNCTION(3).
 */
#ifndef SJE_HTTPC_H
#define SJE_HTTPC_H

#include "internal/err.h"
#include "internal/str.h"

#include <uv.h>

struct httpc;

/* rc 0: an answer with that status, whose body lives as long as the callback. Else status is 0 and
 * `why` says what happened: ERR_IO, ERR_TIMEOUT, ERR_TOO_LARGE. */
typedef void httpc_fn(void *arg, int rc, int status, struct str body, const struct err *why);

struct httpc_request {
    const char *method; /* NULL: GET, or POST where there is a body */
    const char *url;    /* http or https */
    struct str body;    /* sent as JSON where p is set; copied */
    const char *bearer; /* sent as Authorization; NULL or "": none; copied */
    size_t max;         /* bytes of an answer */
    int64_t timeout_ms; /* for the whole call */
    httpc_fn *fn;
    void *arg;
};

struct httpc *httpc_open(uv_loop_t *loop);
/* ERR_INVALID: not such a URL. */
int httpc_call(struct httpc *h, const struct httpc_request *r, struct err *reterr) NODISCARD;
/* Calls under way are dropped without callback. on_closed may be NULL. */
void httpc_close(struct httpc *h, void (*on_closed)(void *arg), void *arg);

#endif
