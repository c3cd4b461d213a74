/* http_impl.h: what http.c (connections, life) and http_request.c (requests, answers) share.
 *
 * A connection is idle (its next head may be arriving) or has one request, which goes through
 *   head complete -> body -> with its owner (suspended in MHD) -> answer queued -> completed.
 * The request is freed when both its connection and its owner are done with it.
 */
#ifndef SJE_HTTP_IMPL_H
#define SJE_HTTP_IMPL_H

#include "internal/http_peer.h"
#include "internal/linger.h"
#include "internal/list.h"
#include "internal/uri.h"

#define HTTP_MIN_BYTES_PER_MS 8

struct MHD_Connection;
struct MHD_Daemon;

struct http {
    uv_loop_t *loop;
    struct MHD_Daemon *daemon; /* NULL after the end */
    struct http_options o;
    int port;
    uv_poll_t poll;
    uv_timer_t timer; /* the next MHD_run() */
    uv_timer_t sweep;
    int open_handles;
    bool kicked;
    bool closing;
    int64_t close_deadline; /* 0: not begun */
    struct list idle;       /* connections between requests, longest idle first */
    struct list busy;
    struct list news; /* requests whose owner is to be told something */
    size_t body_bytes;
    size_t answer_bytes; /* that wait for their clients */
    struct http_peer *peers;
    struct linger_set linger;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

struct conn {
    struct list_node node; /* in http.idle or http.busy */
    struct http *http;
    struct MHD_Connection *mhd;
    struct http_request *request; /* NULL between requests */
    struct http_peer *peer;
    bool excess; /* its client has too many connections */
    int fd;
    int64_t deadline; /* 0: none; cut when it is over */
    bool linger;      /* the client may still be sending when we close */
};

struct http_request {
    struct list_node node; /* in http.news */
    struct conn *conn;     /* NULL once the connection, or its part in this request, is over */
    char *target;
    struct uri uri;
    struct err broken; /* of the target; code 0: fine */
    char method[16];
    struct buf body;
    int64_t head_at; /* when its head was complete; 0: not yet */
    int64_t complete_at;
    enum http_share holds; /* HTTP_SHARES: nothing */
    bool owned;     /* someone has yet to answer or end it; it is freed when !owned && !conn */
    bool queued;    /* MHD has the answer, or the stream */
    bool suspended; /* in MHD */
    bool streaming;
    bool ended; /* stream: nothing will be added */
    bool gone;
    bool gone_told;
    bool drained;
    size_t answer_bytes; /* of it, counted with its client */
    struct buf out;      /* stream */
    size_t taken;        /* of out */
    void (*on_gone)(void *arg, struct http_request *r);
    void *gone_arg;
    void (*on_drain)(void *arg, struct http_request *r);
    void *drain_arg;
};

/* http.c */
/* Lets MHD run at the next turn of the loop: after resuming, MHD_get_timeout() would not say so. */
void http_kick(struct http *h);
/* MHD notices at its next run. `reason` for the metrics. */
void http_cut(struct conn *c, const char *reason);

/* That much more of it is over what a client can have. */
static inline bool http_is_excess(const struct conn *c, enum http_share what, size_t more)
{
    size_t most = c->http->o.share[what];

    return most && c->peer->held[what] + more > most;
}

/* http_request.c */
struct http_request *http_request_new(struct conn *c, const char *target);
/* What MHD calls for a request, in this order: the head, pieces of the body (false: close the
 * connection), the end. */
void http_request_head(struct http_request *r, const char *method, const char *version);
bool http_request_body(struct http_request *r, const char *p, size_t n);
void http_request_complete(struct http_request *r);
/* The connection is over, or free for the next request. */
void http_request_detach(struct http_request *r);
/* Answers with a problem in place of the owner, who does not know. */
void http_refuse(struct http_request *r, int status, const char *detail);
void http_resume(struct http_request *r);
void http_set_gone(struct http_request *r);
/* Outside of MHD_run(), because owners may answer from inside. */
void http_tell_news(struct http *h);

#endif
