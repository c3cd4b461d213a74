#include "internal/mq_conn.h"

#include <stdlib.h>

#define OUT_KEEP    1048576u  /* larger output buffers are given back when empty */
#define OUT_SLACK   16777216u /* acks and such may exceed max_queued by this, then we hang up */
#define KEEPALIVE_S 30
#define SLICE_MS    5 /* a turn of the loop that is longer takes no further input */

struct mq_conn *mq_conn_new(uv_loop_t *loop, const struct mq_options *o, uint64_t epoch,
                            const struct mq_conn_events *events)
{
    struct mq_conn *c = xmalloc(sizeof(*c));
    size_t max = o->max_queued + OUT_SLACK;

    c->events = *events;
    c->loop = loop;
    c->turn = 0;
    c->reads = 0;
    c->tcp.data = c->connect.data = c->write.data = c;
    mq_link_init(&c->link, o, epoch, max, events->on_up, events->arg);
    c->link.last_in = c->link.last_out = (int64_t)uv_now(loop);
    buf_init(&c->flight, max);
    MUST(uv_tcp_init(loop, &c->tcp) == 0);
    return c;
}

static void on_closed(uv_handle_t *h)
{
    struct mq_conn *c = h->data;
    struct mq_conn_events events = c->events;

    mq_link_done(&c->link);
    buf_free(&c->flight);
    free(c);
    events.on_gone(events.arg);
}

void mq_conn_drop(struct mq_conn *c, const struct err *why)
{
    uv_buf_t b = uv_buf_init(c->link.out.data, (unsigned)c->link.out.len);

    c->dropped = true;
    if (c->connected && !c->writing && b.len) {
        (void)uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    }
    uv_close((uv_handle_t *)&c->tcp, on_closed);
    mq_link_end(&c->link, why);
}

static void failed(struct mq_conn *c, const struct err *why)
{
    c->events.on_failed(c->events.arg, why);
}

static void failed_uv(struct mq_conn *c, int status, const char *what)
{
    struct err why = {0};

    err_set(&why, ERR_MQ_DOWN, "%s: %s", what, uv_strerror(status));
    failed(c, &why);
}

size_t mq_conn_queued(const struct mq_conn *c)
{
    return c->link.out.len + c->flight.len;
}

/* ---- output ---- */

static void empty_flight(struct mq_conn *c)
{
    buf_reset(&c->flight);
    if (c->flight.cap > OUT_KEEP) {
        buf_free(&c->flight);
    }
}

static void on_written(uv_write_t *req, int status)
{
    struct mq_conn *c = req->data;

    c->writing = false;
    empty_flight(c);
    if (c->dropped) {
        return;
    }
    c->link.last_out = (int64_t)uv_now(c->loop);
    if (status < 0) {
        failed_uv(c, status, "cannot send");
    }
}

void mq_conn_flush(struct mq_conn *c)
{
    struct buf *out = &c->link.out;

    if (out->failed) {
        struct err why = {.code = ERR_BUSY, .text = "the broker does not read what we send"};
        failed(c, &why);
        return;
    }
    if (!c->connected || c->writing || out->len == 0) {
        return;
    }
    uv_buf_t b = uv_buf_init(out->data, (unsigned)out->len);
    int n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    if (n < 0 && n != UV_EAGAIN) {
        failed_uv(c, n, "cannot send");
        return;
    }
    size_t sent = n > 0 ? (size_t)n : 0;
    if (sent) {
        c->link.last_out = (int64_t)uv_now(c->loop);
    }
    struct buf all = *out;
    *out = c->flight;
    c->flight = all;
    if (sent == all.len) {
        empty_flight(c);
        return;
    }
    b = uv_buf_init(all.data + sent, (unsigned)(all.len - sent));
    c->writing = true;
    MUST(uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written) == 0);
}

/* ---- input ---- */

/* Each turn takes something, and not all that a flood has brought: the rest comes with the next. */
static bool has_enough(struct mq_conn *c)
{
    uint64_t turn = uv_now(c->loop);

    c->reads = turn == c->turn ? c->reads + 1 : 1;
    c->turn = turn;
    return c->reads > 1 && uv_hrtime() / 1000000 > turn + SLICE_MS;
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    struct mq_conn *c = h->data;

    (void)hint;
    if (has_enough(c)) {
        *ret = uv_buf_init(NULL, 0);
        return;
    }
    *ret = uv_buf_init(c->in + c->in_len, (unsigned)(sizeof(c->in) - c->in_len));
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    struct mq_conn *c = s->data;
    struct err why = {0};
    size_t used = 0;

    (void)b;
    if (n == 0 || n == UV_ENOBUFS || c->dropped) { /* has_enough() */
        return;
    }
    if (n == UV_EOF) {
        mq_link_eof(&c->link, &why);
        failed(c, &why);
        return;
    }
    if (n < 0) {
        failed_uv(c, (int)n, "connection lost");
        return;
    }
    c->in_len += (size_t)n;
    int rc = mq_link_input(&c->link, (struct str){c->in, c->in_len}, (int64_t)uv_now(c->loop),
                           &used, &why);
    if (c->dropped) {
        return;
    }
    c->in_len -= used;
    memmove(c->in, c->in + used, c->in_len);
    if (rc < 0) {
        failed(c, &why);
    }
}

/* ---- connecting ---- */

static void on_connected(uv_connect_t *req, int status)
{
    struct mq_conn *c = req->data;

    if (c->dropped) {
        return;
    }
    if (status == 0) {
        status = uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    }
    if (status < 0) {
        failed_uv(c, status, "cannot connect");
        return;
    }
    (void)uv_tcp_nodelay(&c->tcp, 1);
    (void)uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    c->connected = true;
    c->events.on_connected(c->events.arg);
}

int mq_conn_connect(struct mq_conn *c, const struct sockaddr *address, struct err *reterr)
{
    int rc = uv_tcp_connect(&c->connect, &c->tcp, address, on_connected);

    if (rc < 0) {
        return err_set(reterr, ERR_MQ_DOWN, "cannot connect: %s", uv_strerror(rc));
    }
    return 0;
}

int mq_conn_tick(struct mq_conn *c, struct err *reterr)
{
    bool idle = !c->writing && c->link.out.len == 0;

    return mq_link_tick(&c->link, (int64_t)uv_now(c->loop), idle, reterr);
}
