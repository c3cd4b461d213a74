#include "internal/mq.h"

#include "internal/id.h"
#include "internal/log.h"
#include "internal/mq_conn.h"
#include "internal/mq_hosts.h"

#include <stdio.h>
#include <stdlib.h>

#define QUEUED_DEFAULT 67108864u
#define HEARTBEAT_S    20
#define CONNECT_MS     5000
#define HANDSHAKE_MS   10000
#define GOODBYE_MS     1000
#define RETRY_MIN_MS   200u
#define RETRY_MAX_MS   15000u
#define REFUSED_MIN_MS 5000u
#define RENEW_MS       1000u /* a queue that is being deleted is gone by then */
#define STABLE_MS      10000 /* up for so long: the next loss starts with the shortest delay */

/*   DOWN ──timer──> RESOLVING ──> CONNECTING ──> HANDSHAKE ──> UP
 *   Each failed step tries the next address, then the next host, then goes DOWN until the timer.
 *   UP ──loss──> DOWN; any of them ──mq_close()──> CLOSING. */
enum mq_state { MQ_DOWN, MQ_RESOLVING, MQ_CONNECTING, MQ_HANDSHAKE, MQ_UP, MQ_CLOSING };

struct mq {
    uv_loop_t *loop;
    struct mq_options o; /* strings owned */
    char *password;      /* the same as in `o` */
    enum mq_state state;
    struct mq_hosts hosts;
    size_t next_host;
    struct addrinfo *addresses; /* of the host before next_host */
    struct addrinfo *next_address;
    struct mq_conn *conn;
    uv_timer_t timer; /* next try, time-out or heartbeat, as the state has it */
    uv_prepare_t flush;
    uv_getaddrinfo_t dns;
    bool resolving;
    int open_handles;  /* and the DNS request */
    unsigned failures; /* in a row */
    bool refused;      /* the last failure will not heal by itself */
    struct err renew;  /* the owner wants a new connection; code 0: no */
    bool told_down;
    int told_code; /* of the failure that was told or logged last */
    int64_t up_since;
    uint64_t epoch;
    uint64_t dropped; /* oversized deliveries already reported */
    struct err last;
    char peer[128]; /* "host:port" of the present try */
    void (*on_closed)(void *arg);
    void *closed_arg;
};

static void try_next(struct mq *mq);
static void on_timer(uv_timer_t *t);

/* ---- options ---- */

static void copy_options(struct mq *mq, const struct mq_options *o)
{
    mq->o = *o;
    mq->o.hosts = NULL;
    mq->o.username = xstrdup(o->username ? o->username : "");
    mq->password = xstrdup(o->password ? o->password : "");
    mq->o.password = mq->password;
    mq->o.vhost = xstrdup(o->vhost ? o->vhost : "/");
    mq->o.name = xstrdup(o->name ? o->name : "sje");
    mq->o.heartbeat_s = o->heartbeat_s > 0 ? o->heartbeat_s : HEARTBEAT_S;
    mq->o.max_queued = o->max_queued ? o->max_queued : QUEUED_DEFAULT;
}

static void mq_free(struct mq *mq)
{
    mq_hosts_done(&mq->hosts);
    if (mq->addresses) {
        uv_freeaddrinfo(mq->addresses);
    }
    explicit_bzero(mq->password, strlen(mq->password));
    free(mq->password);
    freep(&mq->o.username);
    freep(&mq->o.vhost);
    freep(&mq->o.name);
    free(mq);
}

/* ---- handles ---- */

static void handle_closed(struct mq *mq)
{
    assert(mq->open_handles > 0);
    if (--mq->open_handles == 0) {
        void (*cb)(void *arg) = mq->on_closed;
        void *arg = mq->closed_arg;

        mq_free(mq);
        if (cb) {
            cb(arg);
        }
    }
}

static void on_handle_closed(uv_handle_t *h)
{
    handle_closed(h->data);
}

static void drop_conn(struct mq *mq, const struct err *why)
{
    struct mq_conn *c = STEAL(mq->conn);

    if (c) {
        mq_conn_drop(c, why);
    }
}

static void set_timer(struct mq *mq, uint64_t ms, uint64_t repeat)
{
    MUST(uv_timer_start(&mq->timer, on_timer, ms, repeat) == 0);
}

static void close_all(struct mq *mq)
{
    struct err why = {.code = ERR_CLOSED, .text = "closed"};

    mq->state = MQ_CLOSING;
    drop_conn(mq, &why);
    if (mq->resolving) {
        (void)uv_cancel((uv_req_t *)&mq->dns);
    }
    if (!uv_is_closing((uv_handle_t *)&mq->timer)) {
        uv_close((uv_handle_t *)&mq->timer, on_handle_closed);
        uv_close((uv_handle_t *)&mq->flush, on_handle_closed);
    }
}

/* ---- failure ---- */

static uint64_t retry_delay(const struct mq *mq)
{
    uint64_t base = mq->failures < 16 ? (uint64_t)RETRY_MIN_MS << mq->failures : RETRY_MAX_MS;

    if (mq->refused) {
        return REFUSED_MIN_MS + random_u64() % (RETRY_MAX_MS - REFUSED_MIN_MS + 1);
    }
    base = MIN(mq->renew.code ? MAX(base, RENEW_MS) : base, RETRY_MAX_MS / 2);
    return base + random_u64() % base;
}

/* Everything was tried: wait. on_down is for the first failure and for each loss; when later tries
 * fail for another reason, only the log tells. */
static void go_down(struct mq *mq)
{
    uint64_t delay = retry_delay(mq);
    struct err why = mq->last;

    mq->state = MQ_DOWN;
    mq->failures++;
    mq->renew = (struct err){0};
    set_timer(mq, delay, 0);
    if (!mq->told_down) {
        mq->told_down = true;
        mq->told_code = why.code;
        mq->o.on_down(mq->o.arg, &why);
    } else if (mq->told_code != why.code) {
        mq->told_code = why.code;
        log_warn(NULL, "mq %s: %s; retrying in %llu ms", mq->o.name, why.text,
                 (unsigned long long)delay);
    }
}

/* The present try or the connection has failed. */
static void fail(struct mq *mq, const struct err *why)
{
    enum mq_state was = mq->state;
    uint16_t code = mq->conn ? mq->conn->link.refusal : 0;
    bool refused = code == 403 || code == 406 || code == 530;

    if (was == MQ_CLOSING) {
        close_all(mq);
        return;
    }
    err_set(&mq->last, why->code, "broker %s: %s", mq->peer, why->text);
    mq->refused = refused || why->code == ERR_CONFIG;
    mq->state = MQ_DOWN;
    drop_conn(mq, why);
    if (mq->state == MQ_CLOSING) { /* by a callback */
        return;
    }
    if (was == MQ_UP && uv_now(mq->loop) - (uint64_t)mq->up_since >= STABLE_MS) {
        mq->failures = 0;
    }
    if (was == MQ_UP || refused) {
        go_down(mq);
    } else {
        try_next(mq);
    }
}

static void fail_dns(struct mq *mq, int status)
{
    struct err why = {0};

    err_set(&why, ERR_MQ_DOWN, "unknown host: %s", uv_strerror(status));
    fail(mq, &why);
}

/* ---- connecting ---- */

static void on_connected(void *arg)
{
    struct mq *mq = arg;

    mq->state = MQ_HANDSHAKE;
    set_timer(mq, HANDSHAKE_MS, 0);
}

static void on_up(void *arg)
{
    struct mq *mq = arg;
    uint64_t tick = mq_link_tick_ms(&mq->conn->link);

    mq->state = MQ_UP;
    mq->up_since = (int64_t)uv_now(mq->loop);
    mq->told_down = false;
    mq->dropped = 0;
    mq->last = (struct err){0};
    set_timer(mq, tick, tick);
    mq->o.on_up(mq->o.arg);
}

static void on_failed(void *arg, const struct err *why)
{
    fail(arg, why);
}

static void on_gone(void *arg)
{
    handle_closed(arg);
}

static void start_connect(struct mq *mq, const struct sockaddr *address)
{
    struct mq_conn_events events = {.arg = mq,
                                    .on_connected = on_connected,
                                    .on_up = on_up,
                                    .on_failed = on_failed,
                                    .on_gone = on_gone};
    struct err why = {0};

    mq->conn = mq_conn_new(mq->loop, &mq->o, ++mq->epoch, &events);
    mq->open_handles++;
    mq->state = MQ_CONNECTING;
    set_timer(mq, CONNECT_MS, 0);
    if (mq_conn_connect(mq->conn, address, &why) != 0) {
        fail(mq, &why);
    }
}

static void on_flush(uv_prepare_t *p)
{
    struct mq *mq = p->data;

    if (mq->conn) {
        mq_conn_flush(mq->conn);
    }
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
    struct mq *mq = req->data;

    mq->resolving = false;
    if (mq->state == MQ_CLOSING) {
        uv_freeaddrinfo(res);
        handle_closed(mq);
        return;
    }
    mq->open_handles--;
    if (status < 0) {
        fail_dns(mq, status);
        return;
    }
    mq->addresses = mq->next_address = res;
    try_next(mq);
}

static void start_resolve(struct mq *mq, const struct mq_host *h)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    struct err why = {0};
    char port[8];

    if (mq->addresses) {
        uv_freeaddrinfo(STEAL(mq->addresses));
    }
    if (!h->name) {
        snprintf(mq->peer, sizeof(mq->peer), "\"%s\"", h->text);
        err_set(&why, ERR_CONFIG, "this is not host or host:port");
        fail(mq, &why);
        return;
    }
    snprintf(mq->peer, sizeof(mq->peer), strchr(h->name, ':') ? "[%s]:%u" : "%s:%u", h->name,
             h->port);
    snprintf(port, sizeof(port), "%u", h->port);
    mq->dns.data = mq;
    mq->state = MQ_RESOLVING;
    int rc = uv_getaddrinfo(mq->loop, &mq->dns, on_resolved, h->name, port, &hints);
    if (rc < 0) {
        fail_dns(mq, rc);
        return;
    }
    mq->resolving = true;
    mq->open_handles++;
}

/* The next address, else the next host, else the end of this round. */
static void try_next(struct mq *mq)
{
    if (mq->next_address) {
        const struct sockaddr *address = mq->next_address->ai_addr;

        mq->next_address = mq->next_address->ai_next;
        start_connect(mq, address);
    } else if (mq->next_host < mq->hosts.count) {
        start_resolve(mq, &mq->hosts.items[mq->next_host++]);
    } else {
        go_down(mq);
    }
}

static void report_dropped(struct mq *mq)
{
    uint64_t dropped = mq->conn->link.channel.dropped;

    if (dropped != mq->dropped) {
        log_warn(NULL, "mq %s: rejected %llu messages of more than %u bytes", mq->o.name,
                 (unsigned long long)(dropped - mq->dropped), MQ_BODY_MAX);
        mq->dropped = dropped;
    }
}

/* RabbitMQ (3.10) remembers for each channel who leads a quorum queue. A channel whose first
 * message came while that one's node had just died is refused everything for that queue from then
 * on. */
static bool is_stuck(struct mq *mq)
{
    struct mq_channel *c = &mq->conn->link.channel;
    bool refused = c->refused;

    c->refused = false;
    return refused && uv_now(mq->loop) - (uint64_t)mq->up_since >= STABLE_MS;
}

static void on_timer(uv_timer_t *t)
{
    struct mq *mq = t->data;
    struct err why = {.code = ERR_TIMEOUT, .text = "no answer"};

    switch (mq->state) {
    case MQ_DOWN:
        mq_hosts_shuffle(&mq->hosts);
        mq->next_host = 0;
        mq->next_address = NULL;
        try_next(mq);
        return;
    case MQ_UP:
        report_dropped(mq);
        if (mq->renew.code == 0 && is_stuck(mq)) {
            err_set(&mq->renew, ERR_MQ_DOWN,
                    "messages are refused, perhaps only on this connection");
        }
        if (mq->renew.code) {
            why = mq->renew;
            fail(mq, &why);
        } else if (mq_conn_tick(mq->conn, &why) != 0) {
            fail(mq, &why);
        }
        return;
    case MQ_RESOLVING:
        return; /* bounded by the resolver */
    case MQ_CONNECTING:
    case MQ_HANDSHAKE:
    case MQ_CLOSING:
        fail(mq, &why);
        return;
    }
    UNREACHABLE("mq state");
}

/* ---- what others call ---- */

struct mq *mq_open(uv_loop_t *loop, const struct mq_options *o)
{
    struct mq *mq = xmalloc(sizeof(*mq));

    assert(o->on_up && o->on_down);
    mq->loop = loop;
    copy_options(mq, o);
    mq_hosts_parse(&mq->hosts, str_of(o->hosts), o->port);
    MUST(uv_timer_init(loop, &mq->timer) == 0);
    MUST(uv_prepare_init(loop, &mq->flush) == 0);
    mq->timer.data = mq->flush.data = mq;
    mq->open_handles = 2;
    MUST(uv_prepare_start(&mq->flush, on_flush) == 0);
    set_timer(mq, 0, 0);
    return mq;
}

void mq_close(struct mq *mq, void (*on_closed)(void *arg), void *arg)
{
    struct err why = {.code = ERR_CLOSED, .text = "closed"};
    bool polite = mq->state == MQ_UP && !mq->conn->link.blocked;

    assert(mq->state != MQ_CLOSING);
    mq->on_closed = on_closed;
    mq->closed_arg = arg;
    if (!polite) {
        close_all(mq);
        return;
    }
    mq->state = MQ_CLOSING;
    mq_link_leave(&mq->conn->link);
    set_timer(mq, GOODBYE_MS, 0);
    mq_channel_end(&mq->conn->link.channel, &why);
}

void mq_renew(struct mq *mq, const char *why)
{
    if (mq_is_up(mq) && mq->renew.code == 0) {
        err_set(&mq->renew, ERR_MQ_DOWN, "%s", why);
        set_timer(mq, 0, 0);
    }
}

bool mq_is_up(const struct mq *mq)
{
    return mq->state == MQ_UP;
}

bool mq_is_blocked(const struct mq *mq)
{
    return mq_is_up(mq) && mq->conn->link.blocked;
}

const char *mq_server_version(const struct mq *mq)
{
    return mq_is_up(mq) ? mq->conn->link.version : "";
}

const char *mq_last_error(const struct mq *mq)
{
    return mq->last.text;
}

size_t mq_unconfirmed(const struct mq *mq)
{
    return mq_is_up(mq) ? mq->conn->link.channel.unconfirmed : 0;
}

/* ---- operations on the channel: all of them only while up ---- */

static bool is_short(const char *s)
{
    return s && strlen(s) <= MQ_SHORT_MAX;
}

static bool is_name(const char *s)
{
    return is_short(s) && *s;
}

/* May the request be made now? */
static int check(const struct mq *mq, bool valid)
{
    if (!mq_is_up(mq)) {
        return ERR_MQ_DOWN;
    }
    if (!valid) {
        return ERR_INVALID;
    }
    return mq->conn->link.channel.requests.count < MQ_REQUESTS_MAX ? 0 : ERR_BUSY;
}

/* Notes the request that was just put. */
static int asked(struct mq *mq, enum mq_method_id request, mq_done_fn *cb, void *arg)
{
    /* In every class the answer is the number behind its request. */
    enum mq_method_id answer = (enum mq_method_id)(request + 1);

    return mq_channel_expect(&mq->conn->link.channel, request, answer, cb, arg);
}

int mq_declare_queue(struct mq *mq, const char *name, int flags, mq_done_fn *cb, void *arg)
{
    int rc = check(mq, is_name(name) && !(flags & MQ_QUORUM && flags & MQ_EXCLUSIVE));

    if (rc) {
        return rc;
    }
    mq_put_queue_declare(&mq->conn->link.out, name, flags);
    return asked(mq, MQ_QUEUE_DECLARE, cb, arg);
}

int mq_declare_exchange(struct mq *mq, const char *name, const char *type, mq_done_fn *cb,
                        void *arg)
{
    int rc = check(mq, is_name(name) && is_name(type));

    if (rc) {
        return rc;
    }
    mq_put_exchange_declare(&mq->conn->link.out, name, type);
    return asked(mq, MQ_EXCHANGE_DECLARE, cb, arg);
}

int mq_bind(struct mq *mq, const char *queue, const char *exchange, const char *key, mq_done_fn *cb,
            void *arg)
{
    int rc = check(mq, is_name(queue) && is_name(exchange) && is_short(key));

    if (rc) {
        return rc;
    }
    mq_put_queue_bind(&mq->conn->link.out, queue, exchange, key);
    return asked(mq, MQ_QUEUE_BIND, cb, arg);
}

int mq_delete_queue(struct mq *mq, const char *name, mq_done_fn *cb, void *arg)
{
    int rc = check(mq, is_name(name));

    if (rc) {
        return rc;
    }
    mq_put_queue_delete(&mq->conn->link.out, name);
    return asked(mq, MQ_QUEUE_DELETE, cb, arg);
}

int mq_set_prefetch(struct mq *mq, uint16_t n)
{
    int rc = check(mq, true);

    if (rc) {
        return rc;
    }
    mq_put_qos(&mq->conn->link.out, n);
    return asked(mq, MQ_BASIC_QOS, NULL, NULL);
}

int mq_consume(struct mq *mq, const char *queue, const char *tag, bool no_ack,
               mq_deliver_fn *on_deliver, mq_cancelled_fn *on_cancelled, mq_done_fn *on_ok,
               void *arg)
{
    int rc = check(mq, is_name(queue) && is_name(tag) && on_deliver);

    return rc ? rc
              : mq_channel_consume(&mq->conn->link.channel, queue, tag, no_ack, on_deliver,
                                   on_cancelled, on_ok, arg);
}

int mq_cancel(struct mq *mq, const char *tag, mq_done_fn *cb, void *arg)
{
    int rc = check(mq, is_name(tag));

    return rc ? rc : mq_channel_cancel(&mq->conn->link.channel, tag, cb, arg);
}

int mq_publish(struct mq *mq, const struct mq_message *m, mq_confirm_fn *cb, void *arg)
{
    if (!mq_is_up(mq)) {
        return ERR_MQ_DOWN;
    }
    if (!is_short(m->exchange) || !is_short(m->routing_key) ||
        (m->message_id && !is_short(m->message_id)) || (m->reply_to && !is_short(m->reply_to))) {
        return ERR_INVALID;
    }
    if (m->body.len > MQ_BODY_MAX) {
        return ERR_TOO_LARGE;
    }
    if (mq_conn_queued(mq->conn) + m->body.len > mq->o.max_queued) {
        return ERR_BUSY;
    }
    return mq_channel_publish(&mq->conn->link.channel, m, cb, arg);
}

void mq_ack(struct mq *mq, uint64_t epoch, uint64_t tag, bool multiple)
{
    if (mq_is_up(mq) && epoch == mq->epoch) {
        mq_put_ack(&mq->conn->link.out, tag, multiple);
    }
}

void mq_nack(struct mq *mq, uint64_t epoch, uint64_t tag, bool requeue)
{
    if (mq_is_up(mq) && epoch == mq->epoch) {
        mq_put_nack(&mq->conn->link.out, tag, requeue);
    }
}
