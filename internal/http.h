/* http.h: an HTTP/1.1 server on the loop (libmicrohttpd, external epoll), bounded everywhere.
 *
 * http.c is the only file that includes microhttpd.h. One handler gets every complete request (head
 * and whole body); it answers at once or keeps the request and answers later: the connection is
 * suspended meanwhile and holds no thread. Every request must be answered exactly once with
 * http_reply(), http_problem() or http_stream_start()…http_stream_end(); after that the pointer is
 * gone. This holds also when the client has hung up or http_close() was called: such an answer goes
 * nowhere.
 *
 * Bounds: a body over max_body gets 413 (at once where Content-Length says so), a head over
 * HTTP_HEAD_MAX 431, all bodies together over HTTP_BODIES_MAX 503; a head that is not complete
 * after 2 * timeout_s, a body or answer that makes less than 8 KiB/s after timeout_s, and an idle
 * connection after timeout_s are cut; over max_connections the one that has been idle longest is
 * closed for the new one. Answers that wait for clients to read them have HTTP_ANSWERS_MAX
 * together: over that a GET gets 503 instead of its answer, and any other large request before it
 * is handled; a stream ends. Of connections, bodies, answers, and what the handler counts by
 * http_hold(), one client's address can have `share`: 429 over that. These refusals are
 * application/problem+json, with the exception of what libmicrohttpd 0.9.75 refuses while it still
 * reads the head (a request line or header that it cannot parse 400, a head over about 40 KiB 431
 * or 414, a broken chunk 400, an unknown HTTP version 505): these have a short HTML body, which
 * cannot be changed from outside.
 *
 * A client that shuts down its sending side is taken as gone. HEAD is shown to the handler as GET;
 * the body is not sent. Threads: the loop thread only.
 */
#ifndef SJE_HTTP_H
#define SJE_HTTP_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/str.h"

#include <uv.h>

#define HTTP_HEAD_MAX   (32 * 1024)
#define HTTP_BODIES_MAX (32 * 1024 * 1024) /* or two of the largest, where that is more */
/* Those who send slowly what is large do not keep out what is small. */
#define HTTP_SMALL_BODY   (1024 * 1024)
#define HTTP_RESERVE      (8 * 1024 * 1024)
#define HTTP_STREAM_MAX   (4 * 1024 * 1024)
#define HTTP_ANSWERS_MAX  (32 * 1024 * 1024) /* a single one may be larger */
#define HTTP_SMALL_ANSWER (16 * 1024)        /* never refused: there is one a connection */

struct http;
struct http_request;

/* What one client can have too much of. */
enum http_share {
    HTTP_CONNECTIONS,
    HTTP_BODIES,  /* bytes */
    HTTP_ANSWERS, /* bytes that it has not read */
    HTTP_WAITS,   /* requests that wait for something to happen */
    HTTP_STREAMS,
    HTTP_LISTS, /* that the database is asked for */
    HTTP_SHARES,
};

typedef void http_handler_fn(void *arg, struct http_request *r);
/* Sees a request whose head is complete, before any of its body is read. 0: let it in; else the
 * status to refuse it with, and why. */
typedef int http_admit_fn(void *arg, const struct http_request *r, struct err *reterr);

struct http_options {
    const char *bind; /* an address; "0.0.0.0" and "::" for all */
    int port;         /* 0: any free one, see http_port() */
    size_t max_body;
    int max_connections;
    size_t share[HTTP_SHARES]; /* of one client at a time; 0: as much as there is */
    int timeout_s;             /* for idle or slow clients; not for suspended requests */
    http_handler_fn *handler;
    http_admit_fn *admit; /* NULL: all come in */
    void *arg;
};

/* ERR_IO with a sentence that names address and port where it cannot listen. */
int http_open(uv_loop_t *loop, const struct http_options *o, struct http **ret,
              struct err *reterr) NODISCARD;
int http_port(const struct http *h);
/* Stops listening; requests not yet answered get 503; answers under way have a second to be sent;
 * then closes. on_closed may be NULL. */
void http_close(struct http *h, void (*on_closed)(void *arg), void *arg);

/* What came in; slices live as long as the request. */
const char *http_method(const struct http_request *r);
const char *http_path(const struct http_request *r); /* percent-decoded, without query */
struct str http_body(const struct http_request *r);
/* Its memory is given back before the answer; it is empty from then on. */
void http_body_drop(struct http_request *r);
/* NULL where absent, or when the connection of a stream is gone. */
const char *http_header(const struct http_request *r, const char *name);
/* Query argument, decoded; NULL where absent; of several the first. */
const char *http_query(const struct http_request *r, const char *name);
/* Calls fn for each query argument. */
void http_query_each(const struct http_request *r,
                     void (*fn)(void *arg, const char *name, const char *value), void *arg);

/* The request takes one of these until it is over; at most one kind. False: its client has too many
 * of them, and is to be refused with HTTP_TOO_MANY. */
bool http_hold(struct http_request *r, enum http_share what) NODISCARD;
#define HTTP_TOO_MANY 429

/* The client hung up while the request was waiting or streamed (best effort, polled about once a
 * second): fn is called once; the request must still be answered or ended. */
void http_on_gone(struct http_request *r, void (*fn)(void *arg, struct http_request *r), void *arg);

struct http_field {
    const char *name;
    const char *value;
};
/* `body` is copied. content_type NULL: application/json. */
void http_reply(struct http_request *r, int status, const char *content_type, struct str body,
                const struct http_field *fields, size_t n_fields);
/* RFC 9457: application/problem+json; `errors` become [{"field","message"}]. 429 and 503 get
 * Retry-After. `extra` is NULL or further JSON members (",\"x\":1"). */
void http_problem(struct http_request *r, int status, const char *detail,
                  const struct http_field *errors, size_t n_errors, const char *extra,
                  const struct http_field *fields, size_t n_fields);

/* A chunked answer whose end is not known yet. */
void http_stream_start(struct http_request *r, int status, const char *content_type,
                       const struct http_field *fields, size_t n_fields);
/* Copies. false: the client is gone or reads too slowly (over HTTP_STREAM_MAX waiting): call
 * http_stream_end. */
bool http_stream_write(struct http_request *r, const void *p, size_t n);
size_t http_stream_pending(const struct http_request *r); /* bytes not yet taken by the client */
/* fn is called each time that all was taken. */
void http_stream_on_drain(struct http_request *r, void (*fn)(void *arg, struct http_request *r),
                          void *arg);
void http_stream_end(struct http_request *r);

#endif
