/* A broker on loopback, on the test's own loop, that misbehaves when it is told to. */
#ifndef SJE_TESTS_MQ_BROKER_H
#define SJE_TESTS_MQ_BROKER_H

#include "tests/unit/mq_frames.h"

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>
#include <uv.h>

enum when { NEVER, AT_HEADER, AT_START_OK, AT_OPEN, AT_CHANNEL_OPEN, AT_DECLARE };
enum what { GO_ON, HANG_UP, GARBAGE, SAY_NOTHING, REFUSE, GIANT_FRAME };

struct peer {
    uv_tcp_t tcp;
    uv_write_t write;
    bool writing;
    struct buf in;
    struct buf out;
    bool header_seen;
    bool closing;
};

static uv_loop_t loop;
static uv_tcp_t server;
static struct sockaddr_in address;
static bool listening;
static struct peer *peer; /* the one connection that is looked at: the last */
static enum when when;    /* at which step the broker does `what` */
static enum what what;
static size_t split; /* the broker speaks in pieces of so many bytes */
static uint16_t offer_heartbeat;
static int accepted;
static int reads;
static int seen_publish, seen_body, seen_ack, seen_close, seen_heartbeat;

/* Something has happened that a test may wait for. */
static inline void counted(int *n)
{
    (*n)++;
    uv_stop(&loop);
}

static inline void on_peer_closed(uv_handle_t *h)
{
    struct peer *p = h->data;

    buf_free(&p->in);
    buf_free(&p->out);
    if (peer == p) {
        peer = NULL;
    }
    free(p);
}

static inline void hang_up(struct peer *p)
{
    if (!p->closing) {
        p->closing = true;
        uv_close((uv_handle_t *)&p->tcp, on_peer_closed);
    }
}

static inline void on_written(uv_write_t *req, int status);

/* One piece in each turn of the loop, so that none is joined to the next on its way. */
static inline void speak(struct peer *p)
{
    uv_buf_t piece = uv_buf_init(p->out.data, (unsigned)MIN(split, p->out.len));

    if (!p->writing && !p->closing && piece.len) {
        p->writing = true;
        p->write.data = p;
        assert_int_equal(uv_write(&p->write, (uv_stream_t *)&p->tcp, &piece, 1, on_written), 0);
        buf_shift(&p->out, piece.len); /* so small that it has gone */
    }
}

static inline void on_written(uv_write_t *req, int status)
{
    struct peer *p = req->data;

    p->writing = false;
    if (status == 0) {
        speak(p);
    }
}

static inline void say(struct peer *p, struct buf *b)
{
    assert_int_equal(buf_add(&p->out, b->data, b->len), 0);
    buf_free(b);
    speak(p);
}

static inline struct buf said(void)
{
    return (struct buf){.max = 1 << 20};
}

/* What the broker does instead of its next step; false: the step. */
static inline bool misbehaves(struct peer *p, enum when step)
{
    struct buf b = said();

    if (when != step) {
        return false;
    }
    switch (what) {
    case GO_ON:
        return false;
    case HANG_UP:
        hang_up(p);
        return true;
    case GARBAGE:
        MUST(buf_add(&b, "\x01\0\1\0\0\0\4\xff\xff\xff\xff\xce\x7f\x7f\x7f\x7f\x7f\x7f", 18) == 0);
        break;
    case SAY_NOTHING:
        break;
    case REFUSE:
        put_closing(&b, step == AT_DECLARE, step == AT_DECLARE ? 406 : 403, "ACCESS_REFUSED - no",
                    step == AT_DECLARE ? MQ_QUEUE_DECLARE : 0);
        break;
    case GIANT_FRAME:
        MUST(buf_add(&b, "\x03\0\1\x7f\xff\xff\xff", 7) == 0);
        break;
    }
    say(p, &b);
    return true;
}

static inline void on_method_frame(struct peer *p, const struct mq_frame *f)
{
    uint32_t id = 0;
    struct buf b = said();

    memcpy(&id, f->payload.p, 4);
    id = __builtin_bswap32(id);
    switch (id) {
    case 0x000A000B: /* start-ok */
        if (!misbehaves(p, AT_START_OK)) {
            put_tune(&b, 131072, offer_heartbeat);
        }
        break;
    case 0x000A0028: /* open */
        if (!misbehaves(p, AT_OPEN)) {
            put_open_ok(&b);
        }
        break;
    case MQ_CHANNEL_OPEN:
        if (!misbehaves(p, AT_CHANNEL_OPEN)) {
            put_channel_open_ok(&b);
        }
        break;
    case MQ_BASIC_QOS:
    case MQ_CONFIRM_SELECT:
        put_plain(&b, 1, id + 1);
        break;
    case MQ_QUEUE_DECLARE:
        if (!misbehaves(p, AT_DECLARE)) {
            put_declare_ok(&b, "q", 3);
        }
        break;
    case MQ_BASIC_CONSUME:
        put_tagged(&b, MQ_BASIC_CONSUME_OK, "c");
        break;
    case 0x003C0028:
        counted(&seen_publish);
        break;
    case MQ_BASIC_ACK:
        counted(&seen_ack);
        break;
    case MQ_CONNECTION_CLOSE:
        counted(&seen_close);
        put_plain(&b, 0, MQ_CONNECTION_CLOSE_OK);
        break;
    default:
        break;
    }
    say(p, &b);
}

static inline void on_peer_alloc(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    struct peer *p = h->data;

    ret->base = buf_reserve(&p->in, hint);
    ret->len = hint;
}

static inline void on_peer_read(uv_stream_t *s, ssize_t n, const uv_buf_t *unused)
{
    struct peer *p = s->data;
    struct mq_frame f = {0};
    int used = 0;

    (void)unused;
    if (n < 0) {
        hang_up(p);
        return;
    }
    counted(&reads);
    buf_commit(&p->in, (size_t)n);
    if (!p->header_seen && p->in.len >= 8) {
        assert_memory_equal(p->in.data, "AMQP\0\0\x09\x01", 8);
        p->header_seen = true;
        buf_shift(&p->in, 8);
        if (!misbehaves(p, AT_HEADER)) {
            struct buf b = said();
            put_start(&b, "3.99.1", "PLAIN");
            say(p, &b);
        }
    }
    while (p->header_seen && !p->closing &&
           (used = mq_frame_read((struct str){p->in.data, p->in.len}, 131072, &f, NULL)) > 0) {
        if (f.type == MQ_FRAME_METHOD) {
            on_method_frame(p, &f);
        }
        if (f.type == MQ_FRAME_BODY) {
            counted(&seen_body);
        } else if (f.type == MQ_FRAME_HEARTBEAT) {
            counted(&seen_heartbeat);
        }
        buf_shift(&p->in, (size_t)used);
    }
    assert_true(used >= 0);
}

static inline void on_connection(uv_stream_t *s, int status)
{
    struct peer *p = xmalloc(sizeof(*p));

    assert_int_equal(status, 0);
    counted(&accepted);
    buf_init(&p->in, 1 << 24);
    buf_init(&p->out, 1 << 24);
    p->tcp.data = p;
    assert_int_equal(uv_tcp_init(&loop, &p->tcp), 0);
    assert_int_equal(uv_accept(s, (uv_stream_t *)&p->tcp), 0);
    assert_int_equal(uv_tcp_nodelay(&p->tcp, 1), 0);
    assert_int_equal(uv_read_start((uv_stream_t *)&p->tcp, on_peer_alloc, on_peer_read), 0);
    peer = p;
}

static inline void broker_listen(void)
{
    int len = sizeof(address);

    assert_int_equal(uv_tcp_init(&loop, &server), 0);
    assert_int_equal(uv_tcp_bind(&server, (struct sockaddr *)&address, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&server, 16, on_connection), 0);
    assert_int_equal(uv_tcp_getsockname(&server, (struct sockaddr *)&address, &len), 0);
    listening = true;
}

static inline void broker_stop(void)
{
    if (listening) {
        listening = false;
        uv_close((uv_handle_t *)&server, NULL);
    }
    if (peer) {
        hang_up(peer);
    }
}

#endif
