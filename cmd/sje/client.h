/* client.h: HTTP calls to the manager, one at a time, bounded (libcurl).
 *
 * client.c is the only file of the program that includes curl.h. A call ends with an answer of any
 * status (0), or with an error whose text says what happened and what to do: ERR_IO could not
 * connect or the connection broke, ERR_TIMEOUT, ERR_PROTOCOL no HTTP or no JSON, ERR_TOO_LARGE,
 * ERR_CLOSED a signal came (see client_attend). Redirects are not followed.
 */
#ifndef SJE_CLI_CLIENT_H
#define SJE_CLI_CLIENT_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/json.h"
#include "internal/str.h"

#define CLIENT_BODY_MAX ((size_t)64 << 20) /* of an answer */

struct client;

/* Called with pieces of a 200's body; false ends the call with ERR_CLOSED. */
typedef bool client_sink_fn(void *arg, struct str piece);

struct request {
    const char *method; /* NULL: GET */
    const char *path;   /* with query, encoded */
    struct str body;    /* sent as JSON where p is set */
    const char *idempotency_key;
    int64_t timeout_ms;   /* for the whole call; 0: the client's; negative: none */
    bool text;            /* the answer is no JSON */
    client_sink_fn *sink; /* NULL: the body is gathered in the reply */
    void *arg;
};

/* Filled by client_call(), emptied with reply_done(). */
struct reply {
    int status; /* 0: there was none */
    struct buf body;
    json_t *json;          /* NULL where the body is none */
    bool inexact;          /* the body has numbers that `json` cannot hold */
    int64_t log_size;      /* X-Log-Size; -1 where absent */
    int64_t log_offset;    /* X-Log-Offset; -1 where absent */
    int64_t log_attempt;   /* X-Log-Attempt; 0 where absent */
    int64_t retry_after_s; /* -1 where absent */
    bool sent; /* the request went out: without an answer nobody knows whether it was carried out */
};
/* Then this member of an object has the text of its member `output`; it may be empty. */
#define CLIENT_EXACT "outputText"
void reply_done(struct reply *r); /* for CLEANUP(reply_done); copes with a zeroed one */

/* ERR_INVALID: no http or https address. timeout_ms is the default for a call. */
int client_open(const char *url, int64_t timeout_ms, struct client **ret,
                struct err *reterr) NODISCARD;
void client_close(struct client *c);            /* NULL is fine */
const char *client_url(const struct client *c); /* as given, without a password */

/* While a call or a pause is under way: `tick` runs about five times a second (may be NULL); when
 * `fd` (-1: none) becomes readable the call ends with ERR_CLOSED. */
void client_attend(struct client *c, int fd, void (*tick)(void *arg), void *arg);

/* `r` is overwritten, not emptied. */
int client_call(struct client *c, const struct request *q, struct reply *r,
                struct err *reterr) NODISCARD;
/* 0 after ms, or ERR_CLOSED. */
int client_pause(struct client *c, int64_t ms) NODISCARD;

/* Now, by the manager's clock (wall ms) where its answers tell, else by ours. */
int64_t client_now(const struct client *c);

#endif
