/* A broker's half of a connection, written by the test, and a link that hears it without a socket:
 * whole or in pieces of `chunk` bytes. Looked at are the trace of callbacks and what would be sent.
 */
#ifndef SJE_TESTS_MQ_SESSION_H
#define SJE_TESTS_MQ_SESSION_H

#include "internal/mq_link.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/mq_frames.h"

static struct mq_link link_;
static struct mq_options options;
static struct buf broker; /* what the broker will say */
static struct buf input;  /* what has arrived and is not used up */
static struct buf trace;
static struct err why;
static size_t chunk;
static int64_t now;
static char *big; /* MQ_BODY_MAX + 1 bytes */

/* Callbacks get a name for the trace. */
static inline void *named(const char *name)
{
    return (void *)(uintptr_t)name;
}

static inline void note_up(void *arg)
{
    assert_ptr_equal(arg, &link_);
    MUST(buf_adds(&trace, "up ") == 0);
}

static inline void note_blocked(void *arg, bool blocked)
{
    assert_ptr_equal(arg, &options);
    MUST(buf_addf(&trace, "blocked:%d ", blocked) == 0);
}

static inline void note_deliver(void *arg, const struct mq_delivery *d)
{
    (void)arg;
    MUST(buf_addf(&trace, "%.*s/%llu%s/%.*s/%.*s/%.*s/", (int)d->consumer.len, d->consumer.p,
                  (unsigned long long)d->tag, d->redelivered ? "r" : "", (int)d->routing_key.len,
                  d->routing_key.p, (int)d->message_id.len, d->message_id.p, (int)d->reply_to.len,
                  d->reply_to.p) == 0);
    if (d->body.len <= 20) {
        MUST(buf_addf(&trace, "%.*s ", (int)d->body.len, d->body.p) == 0);
    } else {
        MUST(buf_addf(&trace, "%zu%s ", d->body.len,
                      memcmp(d->body.p, big, d->body.len) == 0 ? "" : "!") == 0);
    }
}

static inline void note_cancelled(void *arg)
{
    MUST(buf_addf(&trace, "cancelled:%s ", (const char *)arg) == 0);
}

static inline void note_confirm(void *arg, int rc)
{
    MUST(buf_addf(&trace, "%s%s ", (const char *)arg, rc ? err_name(rc) : "+") == 0);
}

static inline void note_done(void *arg, int rc, const struct err *e, uint32_t count)
{
    assert_int_equal(rc != 0, e != NULL);
    MUST(buf_addf(&trace, "%s:%s:%u ", (const char *)arg, rc ? err_name(rc) : "ok", count) == 0);
}

static inline int setup(void **state)
{
    (void)state;
    options = (struct mq_options){.username = "user",
                                  .password = "secret",
                                  .vhost = "/v",
                                  .name = "test",
                                  .heartbeat_s = 20,
                                  .confirms = true,
                                  .prefetch = 10,
                                  .arg = &options,
                                  .on_blocked = note_blocked};
    buf_init(&broker, 64 << 20);
    buf_init(&input, 64 << 20);
    buf_init(&trace, 1 << 20);
    why = (struct err){0};
    chunk = 0;
    now = 1000;
    mq_link_init(&link_, &options, 7, 64 << 20, note_up, &link_);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    mq_link_end(&link_, &why);
    mq_link_done(&link_);
    buf_free(&broker);
    buf_free(&input);
    buf_free(&trace);
    return 0;
}

static inline int setup_again(void **state)
{
    return teardown(state) || setup(state);
}

/* Lets the link have what is in `broker`. */
static inline int feed(void)
{
    int rc = 0;

    for (size_t at = 0; at < broker.len && rc == 0;) {
        size_t n = chunk ? MIN(chunk, broker.len - at) : broker.len - at;
        size_t used = 0;

        MUST(buf_add(&input, broker.data + at, n) == 0);
        at += n;
        CLEANUP(freep) char *exact = xmemdup(input.data, input.len); /* a sanitizer sees its end */
        rc = mq_link_input(&link_, (struct str){exact, input.len}, now, &used, &why);
        buf_shift(&input, used);
    }
    buf_reset(&broker);
    return rc;
}

static inline void expect_trace(const char *want)
{
    assert_string_equal(trace.len ? trace.data : "", want);
    buf_reset(&trace);
}

/* The methods in `out`, by number; content frames as H and B. */
static inline void expect_sent(const char *want)
{
    CLEANUP(buf_free) struct buf got = {.max = 65536};
    struct buf *out = &link_.out;
    size_t at = 0;

    if (out->len >= 8 && memcmp(out->data, "AMQP\0\0\x09\x01", 8) == 0) {
        MUST(buf_adds(&got, "AMQP ") == 0);
        at = 8;
    }
    while (at < out->len) {
        struct mq_frame f = {0};
        int n = mq_frame_read((struct str){out->data + at, out->len - at}, 131072, &f, NULL);

        assert_true(n > 0);
        at += (size_t)n;
        const unsigned char *p = (const unsigned char *)f.payload.p;
        if (f.type == MQ_FRAME_METHOD) {
            MUST(buf_addf(&got, "%d.%d ", p[0] << 8 | p[1], p[2] << 8 | p[3]) == 0);
        } else {
            MUST(buf_addf(&got, "%c ", " MHB    *"[f.type]) == 0);
        }
    }
    buf_reset(out);
    assert_string_equal(got.len ? got.data : "", want);
}

static inline void to_state(enum mq_link_state s)
{
    if (s > LINK_START) {
        put_start(&broker, "3.10.8", "PLAIN AMQPLAIN");
    }
    if (s > LINK_TUNE) {
        put_tune(&broker, 65536, 60);
    }
    if (s > LINK_OPEN) {
        put_open_ok(&broker);
    }
    if (s > LINK_SETUP) {
        put_channel_open_ok(&broker);
        put_plain(&broker, 1, MQ_BASIC_QOS_OK);
        put_plain(&broker, 1, MQ_CONFIRM_SELECT_OK);
    }
    assert_int_equal(feed(), 0);
    if (s == LINK_LEAVING) {
        mq_link_leave(&link_);
    }
    assert_int_equal(link_.state, s);
}

static inline void to_up(void)
{
    to_state(LINK_UP);
    expect_trace("up ");
    buf_reset(&link_.out);
}

static inline void consume(const char *tag)
{
    assert_int_equal(mq_channel_consume(&link_.channel, "q", tag, false, note_deliver,
                                        note_cancelled, NULL, named(tag)),
                     0);
    put_tagged(&broker, MQ_BASIC_CONSUME_OK, tag);
    assert_int_equal(feed(), 0);
    buf_reset(&link_.out);
}

static inline int publish(const char *arg, bool mandatory)
{
    struct mq_message m = {
        .exchange = "", .routing_key = "k", .body = STR("{}"), .mandatory = mandatory};

    return mq_channel_publish(&link_.channel, &m, note_confirm, named(arg));
}

static inline int declare(const char *name)
{
    mq_put_queue_declare(&link_.out, name, 0);
    return mq_channel_expect(&link_.channel, MQ_QUEUE_DECLARE, MQ_QUEUE_DECLARE_OK, note_done,
                             named(name));
}

static inline int make_big(void **state)
{
    (void)state;
    big = xmalloc(MQ_BODY_MAX + 1);
    for (size_t i = 0; i <= MQ_BODY_MAX; i++) {
        big[i] = (char)(i * 31 + i / 65521);
    }
    return 0;
}

static inline int free_big(void **state)
{
    (void)state;
    free(big);
    return 0;
}

#endif
