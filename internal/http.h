/* http.h: an HTTP/1.1 server on the loop (libmicrohttpd, external epoll), bounded everywhere.
 *
 * http.c is the only file that includes microhttpd.h. One handler gets every complete request (head
 * and whole body); it answers at once or keeps the request and answers later: the connection is
 * suspended meanwhile and holds no thread. Every request must be answered exactly once with
 * http_reply*() or http_stream_*(); after that the pointer is gone.
 *
 * Bounds (all answered by the module itself, as application/problem+json): body over max_body 413
 * (at once where Content-Length says so), head over 32 KiB 431, slow clients closed after
 * timeout_s, connections over max_connections closed. Others are served meanwhile.
 *
 * Threads: the loop thread only.
 */
#ifndef SJE_HTTP_H
#define SJE_HTTP_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/str.h"

#include <uv.h>

struct http;
struct http_request;

typedef void http_handler_fn(void *arg, struct http_request *r);

struct http_options {
    const char *bind; /* an address; "0.0.0.0" and "::" for all */
    int port;         /* 0: any free one, see http_port() */
    size_t max_body;
    int max_connections;
    int timeout_s; /* for idle or slow clients; not for suspended requests */
    http_handler_fn *handler;
    void *arg;
};

/* ERR_IO with a sentence that names address and port where it cannot listen. */
int http_open(uv_loop_t *loop, const struct http_options *o, struct http **ret, struct err *reterr) NODISCARD;
int http_port(const struct http *h);
/* Stops listening; requests not yet answered get 503; then closes. on_closed may be NULL. */
void http_close(struct http *h, void (*on_closed)(void *arg), void *arg);

/* What came in; slices live as long as the request. */
const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r); /* percent-decoded, without query */
struct str http_body(const struct http_request *r);
const char *http_header(const struct http_request *r, const char *name); /* NULL where absent */
/* Query argument, decoded; NULL where absent. */
const char *http_query(const struct http_request *r, const char *name);
/* Calls fn for each query argument. */
void http_query_each(const struct http_request *r, void (*fn)(void *arg, const char *name, const char *value), void *arg);

/* The client hung up while the request was waiting (best effort, polled about once a second):
 * fn is called once; the request must still be answered (the answer goes nowhere). */
void http_on_gone(struct http_request *r, void (*fn)(void *arg, struct http_request *r), void *arg);

struct http_field {
    const char *name;
    const char *value;
};
/* `body` is copied. content_type NULL: application/json. */
void http_reply(struct http_request *r, int status, const char *content_type, struct str body,
                const struct http_field *fields, size_t n_fields);

/* A chunked answer whose end is not known yet. */
void http_stream_start(struct http_request *r, int status, const char *content_type,
                       const struct http_field *fields, size_t n_fields);
/* Copies. false: the client is gone or reads too slowly (over 4 MiB waiting): call http_stream_end. */
bool http_stream_write(struct http_request *r, const void *p, size_t n);
size_t http_stream_pending(const struct http_request *r); /* bytes not yet taken by the client */
void http_stream_end(struct http_request *r);

#endif
