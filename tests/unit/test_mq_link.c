/* The protocol of a connection without a socket: a test feeds what a broker would send, whole or in
 * pieces of `chunk` bytes, and looks at the trace of callbacks and at what would be sent. */
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
static void *named(const char *name)
{
    return (void *)(uintptr_t)name;
}

static void note_up(void *arg)
{
    assert_ptr_equal(arg, &link_);
    MUST(buf_adds(&trace, "up ") == 0);
}

static void note_blocked(void *arg, bool blocked)
{
    assert_ptr_equal(arg, &options);
    MUST(buf_addf(&trace, "blocked:%d ", blocked) == 0);
}

static void note_deliver(void *arg, const struct mq_delivery *d)
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

static void note_cancelled(void *arg)
{
    MUST(buf_addf(&trace, "cancelled:%s ", (const char *)arg) == 0);
}

static void note_confirm(void *arg, int rc)
{
    MUST(buf_addf(&trace, "%s%s ", (const char *)arg, rc ? err_name(rc) : "+") == 0);
}

static void note_done(void *arg, int rc, const struct err *e, uint32_t count)
{
    assert_int_equal(rc != 0, e != NULL);
    MUST(buf_addf(&trace, "%s:%s:%u ", (const char *)arg, rc ? err_name(rc) : "ok", count) == 0);
}

static int setup(void **state)
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

static int teardown(void **state)
{
    (void)state;
    mq_link_end(&link_, &why);
    mq_link_done(&link_);
    buf_free(&broker);
    buf_free(&input);
    buf_free(&trace);
    return 0;
}

static int setup_again(void **state)
{
    return teardown(state) || setup(state);
}

/* Lets the link have what is in `broker`. */
static int feed(void)
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

static void expect_trace(const char *want)
{
    assert_string_equal(trace.len ? trace.data : "", want);
    buf_reset(&trace);
}

/* The methods in `out`, by number; content frames as H and B. */
static void expect_sent(const char *want)
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

static void to_state(enum mq_link_state s)
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

static void to_up(void)
{
    to_state(LINK_UP);
    expect_trace("up ");
    buf_reset(&link_.out);
}

static void consume(const char *tag)
{
    assert_int_equal(mq_channel_consume(&link_.channel, "q", tag, false, note_deliver,
                                        note_cancelled, named(tag)),
                     0);
    put_tagged(&broker, MQ_BASIC_CONSUME_OK, tag);
    assert_int_equal(feed(), 0);
    buf_reset(&link_.out);
}

static int publish(const char *arg, bool mandatory)
{
    struct mq_message m = {
        .exchange = "", .routing_key = "k", .body = STR("{}"), .mandatory = mandatory};

    return mq_channel_publish(&link_.channel, &m, note_confirm, named(arg));
}

/* ---- handshake ---- */

static void comes_up_step_by_step(void **state)
{
    (void)state;
    for (chunk = 0; chunk < 3; chunk++) {
        size_t keep = chunk;
        expect_sent("AMQP ");
        to_state(LINK_TUNE);
        expect_sent("10.11 ");
        buf_reset(&broker);
        put_tune(&broker, 65536, 60);
        assert_int_equal(feed(), 0);
        expect_sent("10.31 10.40 ");
        put_open_ok(&broker);
        assert_int_equal(feed(), 0);
        expect_sent("20.10 60.10 85.10 ");
        put_channel_open_ok(&broker);
        put_plain(&broker, 1, MQ_BASIC_QOS_OK);
        assert_int_equal(feed(), 0);
        expect_trace("");
        put_plain(&broker, 1, MQ_CONFIRM_SELECT_OK);
        assert_int_equal(feed(), 0);
        expect_trace("up ");
        assert_string_equal(link_.version, "3.10.8");
        assert_int_equal(link_.frame_max, 65536);
        assert_int_equal(link_.heartbeat_s, 20);
        setup_again(state);
        chunk = keep;
    }
}

static void without_confirms_and_prefetch_it_asks_for_neither(void **state)
{
    (void)state;
    options.confirms = false;
    options.prefetch = 0;
    link_.channel.confirms = false;
    to_state(LINK_SETUP);
    expect_sent("AMQP 10.11 10.31 10.40 20.10 ");
    put_channel_open_ok(&broker);
    assert_int_equal(feed(), 0);
    expect_trace("up ");
    assert_int_equal(publish("a", false), ERR_INVALID); /* a callback that could never be called */
}

static void limits_are_agreed_on(void **state)
{
    static const struct {
        uint32_t frame_max;
        uint16_t heartbeat;
        uint32_t want_frame;
        uint16_t want_heartbeat;
    } rows[] = {{0, 0, 131072, 20},   {131072, 60, 131072, 20}, {4096, 5, 4096, 5},
                {8192, 20, 8192, 20}, {1u << 31, 1, 131072, 1}, {0xffffffff, 0xffff, 131072, 20}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        to_state(LINK_TUNE);
        put_tune(&broker, rows[i].frame_max, rows[i].heartbeat);
        assert_int_equal(feed(), 0);
        assert_int_equal(link_.frame_max, rows[i].want_frame);
        assert_int_equal(link_.heartbeat_s, rows[i].want_heartbeat);
        setup_again(state);
    }
    to_state(LINK_TUNE);
    put_tune(&broker, 4095, 20);
    assert_int_equal(feed(), ERR_PROTOCOL);
}

static void refusals_are_one_clear_sentence(void **state)
{
    (void)state;
    to_state(LINK_TUNE);
    put_closing(&broker, 0, 403, "ACCESS_REFUSED - Login was refused", 0);
    assert_int_equal(feed(), ERR_AUTH);
    assert_string_equal(why.text,
                        "the broker refused user \"user\": wrong name or password, or not "
                        "allowed from this host");
    assert_int_equal(link_.refusal, 403);
    expect_sent("AMQP 10.11 10.51 ");

    setup_again(state);
    to_state(LINK_OPEN);
    put_closing(&broker, 0, 530, "NOT_ALLOWED - vhost /v not found", 0);
    assert_int_equal(feed(), ERR_AUTH);
    assert_string_equal(why.text, "the broker refused user \"user\" virtual host \"/v\": 530 "
                                  "NOT_ALLOWED - vhost /v not found");

    setup_again(state);
    put_start(&broker, "9", "EXTERNAL PLAINX");
    assert_int_equal(feed(), ERR_AUTH);
    assert_string_equal(why.text, "the broker does not offer PLAIN authentication");

    setup_again(state);
    MUST(buf_add(&broker, "AMQP\3\1\0\0", 8) == 0);
    assert_int_equal(feed(), ERR_PROTOCOL);
    assert_string_equal(why.text, "the server speaks AMQP 1.0.0, not 0.9.1");

    setup_again(state);
    MUST(buf_adds(&broker, "HTTP/1.1 400 Bad Request\r\n\r\n") == 0);
    assert_int_equal(feed(), ERR_PROTOCOL);
    assert_string_equal(why.text, "the server does not speak AMQP 0-9-1");

    setup_again(state);
    to_up();
    put_closing(&broker, 0, 320, "CONNECTION_FORCED - broker forced connection closure", 0);
    assert_int_equal(feed(), ERR_MQ_DOWN);
    assert_string_equal(why.text,
                        "the broker closed the connection: 320 CONNECTION_FORCED - broker "
                        "forced connection closure");
    expect_sent("10.51 ");
}

static void an_end_of_the_stream_is_explained(void **state)
{
    (void)state;
    assert_int_equal(mq_link_eof(&link_, &why), ERR_MQ_DOWN);
    assert_string_equal(why.text, "the broker hung up");
    to_state(LINK_TUNE);
    assert_int_equal(mq_link_eof(&link_, &why), ERR_MQ_DOWN);
    assert_non_null(strstr(why.text, "during login"));
}

static void names_that_are_too_long_are_our_own_fault(void **state)
{
    char name[2000] = "";

    (void)state;
    memset(name, 'n', sizeof(name) - 1);
    options.password = name;
    put_start(&broker, "3", "PLAIN");
    assert_int_equal(feed(), ERR_CONFIG);

    setup_again(state);
    options.vhost = name;
    to_state(LINK_TUNE);
    put_tune(&broker, 0, 0);
    assert_int_equal(feed(), ERR_CONFIG);
}

static void before_the_limits_are_agreed_on_frames_are_small(void **state)
{
    CLEANUP(freep) char *args = xmalloc(8192);

    (void)state;
    put_raw(&broker, 0, MQ_CONNECTION_START, args, 8192 - 11);
    assert_int_equal(feed(), ERR_PROTOCOL);
}

/* Every method in every state: either it is due, or the connection ends; never anything in between.
 */
static void nothing_is_accepted_that_is_not_due(void **state)
{
    static const uint32_t plain[] = {
        MQ_CONNECTION_OPEN_OK, MQ_CONNECTION_CLOSE_OK, MQ_CONNECTION_UNBLOCKED,
        MQ_CHANNEL_OPEN_OK,    MQ_QUEUE_BIND_OK,       MQ_EXCHANGE_DECLARE_OK,
        MQ_BASIC_QOS_OK,       MQ_CONFIRM_SELECT_OK,
    };
    int accepted = 0;

    (void)state;
    for (enum mq_link_state s = LINK_START; s <= LINK_UP; s++) {
        for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
            for (int channel = 0; channel < 2; channel++) {
                to_state(s);
                put_plain(&broker, channel, plain[i]);
                int rc = feed();
                assert_true(rc == 0 || rc == ERR_PROTOCOL);
                accepted += rc == 0;
                setup_again(state);
            }
        }
        for (int channel = 0; channel < 2; channel++) {
            to_state(s);
            put_header(&broker, 5, NULL, NULL, NULL);
            broker.data[2] = (char)channel;
            assert_int_equal(feed(), ERR_PROTOCOL);
            setup_again(state);
            to_state(s);
            put_body(&broker, "x", 1);
            broker.data[2] = (char)channel;
            assert_int_equal(feed(), ERR_PROTOCOL);
            setup_again(state);
            to_state(s);
            put_confirm(&broker, MQ_BASIC_ACK, 1, false);
            broker.data[2] = (char)channel;
            assert_int_equal(feed(), ERR_PROTOCOL);
            setup_again(state);
        }
    }
    assert_int_equal(accepted, 3); /* open-ok in OPEN, channel.open-ok in SETUP, unblocked in UP */
}

/* ---- deliveries ---- */

static void deliveries_are_put_together(void **state)
{
    (void)state;
    for (size_t c = 0; c < 20; c++) {
        chunk = c;
        to_up();
        consume("c1");
        consume("other");
        put_deliver(&broker, "c1", 1, "work");
        put_header(&broker, 5, "ignored", "back", "t:1");
        put_body(&broker, "hello", 5);
        put_deliver(&broker, "other", 2, "");
        put_heartbeat(&broker);
        put_header(&broker, 6, NULL, NULL, NULL);
        put_body(&broker, "ab", 2);
        put_heartbeat(&broker);
        put_blocked(&broker, "memory");
        put_body(&broker, "c", 1);
        put_body(&broker, "", 0);
        put_body(&broker, "def", 3);
        put_deliver(&broker, "c1", 3, "work");
        put_header(&broker, 0, NULL, NULL, NULL);
        assert_int_equal(feed(), 0);
        expect_trace("c1/1r/work/t:1/back/hello blocked:1 other/2r////abcdef c1/3r/work/// ");
        setup_again(state);
    }
}

static void large_deliveries_arrive_whole(void **state)
{
    (void)state;
    to_up();
    consume("c");
    for (size_t size = MQ_BODY_MAX - 1; size <= MQ_BODY_MAX + 1; size++) {
        put_deliver(&broker, "c", size, "k");
        put_header(&broker, size, NULL, NULL, NULL);
        for (size_t at = 0; at < size; at += 65528) {
            put_body(&broker, big + at, MIN((size_t)65528, size - at));
        }
    }
    put_deliver(&broker, "c", 4, "k");
    put_header(&broker, 1, NULL, NULL, NULL);
    put_body(&broker, "x", 1);
    chunk = 1 << 20;
    assert_int_equal(feed(), 0);
    expect_trace("c/16777215r/k///16777215 c/16777216r/k///16777216 c/4r/k///x ");
    assert_int_equal(link_.out.data[link_.out.len - 2], 0); /* neither multiple nor requeue */
    expect_sent("60.120 "); /* the one over the limit is rejected, not redelivered for ever */
    assert_int_equal(link_.channel.dropped, 1);
    assert_true(link_.channel.in.body.cap < MQ_BODY_MAX);
}

static void a_message_in_disorder_ends_the_connection(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        to_up();
        consume("c");
        put_deliver(&broker, i == 0 ? "nobody" : "c", 1, "k");
        if (i == 1) {
            put_body(&broker, "x", 1);
        } else if (i == 2) {
            put_deliver(&broker, "c", 2, "k");
        } else if (i > 2) {
            put_header(&broker, 5, NULL, NULL, NULL);
        }
        if (i == 3) {
            put_body(&broker, "123456", 6);
        } else if (i == 4) {
            put_header(&broker, 5, NULL, NULL, NULL);
        } else if (i == 5) {
            put_body(&broker, "1", 1);
            put_confirm(&broker, MQ_BASIC_ACK, 1, false);
        }
        assert_int_equal(feed(), ERR_PROTOCOL);
        assert_true(why.text[0]);
        expect_trace("");
        setup_again(state);
    }
    to_up();
    put_body(&broker, big, 65529); /* more than the agreed frame_max */
    assert_int_equal(feed(), ERR_PROTOCOL);
}

static void blocking_is_told_once(void **state)
{
    (void)state;
    to_up();
    put_blocked(&broker, "memory");
    put_blocked(&broker, "disk");
    put_plain(&broker, 0, MQ_CONNECTION_UNBLOCKED);
    assert_int_equal(feed(), 0);
    expect_trace("blocked:1 blocked:0 ");
}

/* ---- confirms ---- */

static void confirms_single_multiple_out_of_order(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};

    (void)state;
    to_up();
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_int_equal(publish(names[i], false), 0);
    }
    expect_sent("60.40 H B 60.40 H B 60.40 H B 60.40 H B 60.40 H B 60.40 H B 60.40 H B 60.40 H B ");
    put_confirm(&broker, MQ_BASIC_ACK, 3, false);
    put_confirm(&broker, MQ_BASIC_NACK, 1, false);
    assert_int_equal(feed(), 0);
    expect_trace("c+ aMQ ");
    assert_int_equal(link_.channel.unconfirmed, 6);
    put_confirm(&broker, MQ_BASIC_ACK, 4, true);
    put_confirm(&broker, MQ_BASIC_ACK, 3, false); /* again: harmless */
    put_confirm(&broker, MQ_BASIC_ACK, 2, true);
    assert_int_equal(feed(), 0);
    expect_trace("b+ d+ ");
    put_confirm(&broker, MQ_BASIC_NACK, 6, true);
    put_confirm(&broker, MQ_BASIC_ACK, 0, true); /* all that is left */
    assert_int_equal(feed(), 0);
    expect_trace("eMQ fMQ g+ h+ ");
    assert_int_equal(link_.channel.unconfirmed, 0);
    put_confirm(&broker, MQ_BASIC_ACK, 0, true);
    assert_int_equal(feed(), 0);
    put_confirm(&broker, MQ_BASIC_ACK, 9, false); /* never sent */
    assert_int_equal(feed(), ERR_PROTOCOL);
}

static void a_confirm_for_what_was_never_sent_ends_the_connection(void **state)
{
    static const struct {
        uint64_t tag;
        bool multiple;
    } rows[] = {{0, false}, {2, false}, {2, true}, {UINT64_MAX, true}, {UINT64_MAX, false}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        to_up();
        assert_int_equal(publish("a", false), 0);
        put_confirm(&broker, MQ_BASIC_ACK, rows[i].tag, rows[i].multiple);
        assert_int_equal(feed(), ERR_PROTOCOL);
        expect_trace("");
        setup_again(state);
    }
}

static void returned_messages_are_told_with_their_confirm(void **state)
{
    (void)state;
    to_up();
    assert_int_equal(publish("a", true), 0);
    assert_int_equal(publish("b", true), 0);
    assert_int_equal(publish("c", true), 0);
    assert_int_equal(publish("d", true), 0);
    assert_non_null(
        memmem(link_.out.data, link_.out.len, "\1\0012\xce", 4)); /* persistent: no, id 2 */
    put_return(&broker);
    put_header(&broker, 2, "2", NULL, NULL);
    put_body(&broker, "{}", 2);
    put_return(&broker);
    put_header(&broker, 2, "4", NULL, NULL);
    put_body(&broker, "{}", 2);
    put_confirm(&broker, MQ_BASIC_ACK, 3, true);
    put_confirm(&broker, MQ_BASIC_NACK, 4, false);
    assert_int_equal(feed(), 0);
    expect_trace("a+ bNOT_FOUND c+ dMQ ");
}

static void returns_of_unknown_messages_do_no_harm(void **state)
{
    static const char *const ids[] = {NULL, "", "x", "0", "99", "-1", "18446744073709551616"};

    (void)state;
    to_up();
    assert_int_equal(publish("a", true), 0);
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        put_return(&broker);
        put_header(&broker, 0, ids[i], NULL, NULL);
    }
    put_confirm(&broker, MQ_BASIC_ACK, 1, false);
    assert_int_equal(feed(), 0);
    expect_trace("a+ ");
}

static void the_window_may_be_large_but_not_endless(void **state)
{
    struct mq_message m = {.exchange = "", .routing_key = "k"};
    size_t n = 0;

    (void)state;
    to_up();
    while (mq_channel_publish(&link_.channel, &m, NULL, NULL) == 0) {
        n++;
        buf_reset(&link_.out);
    }
    assert_int_equal(n, MQ_UNCONFIRMED_MAX);
    put_confirm(&broker, MQ_BASIC_ACK, n / 2, true);
    assert_int_equal(feed(), 0);
    assert_int_equal(link_.channel.unconfirmed, n / 2);
    assert_int_equal(publish("z", false), 0);
    put_confirm(&broker, MQ_BASIC_ACK, n + 1, true);
    assert_int_equal(feed(), 0);
    expect_trace("z+ ");
}

static void a_publish_that_does_not_fit_leaves_no_trace(void **state)
{
    (void)state;
    to_up();
    link_.out.max = 100;
    assert_int_equal(publish("a", false), ERR_BUSY);
    link_.out.max = 64 << 20;
    assert_int_equal(publish("b", false), 0);
    put_confirm(&broker, MQ_BASIC_ACK, 1, false);
    assert_int_equal(feed(), 0);
    expect_trace("b+ ");
}

static void publish_again(void *arg, int rc)
{
    note_confirm(arg, rc);
    for (int i = 0; i < 300 && trace.len < 100; i++) { /* so many that the ring moves */
        assert_int_equal(publish("n", false), 0);
    }
}

static void confirm_callbacks_may_publish(void **state)
{
    struct mq_message m = {.exchange = "", .routing_key = "k"};

    (void)state;
    to_up();
    assert_int_equal(mq_channel_publish(&link_.channel, &m, publish_again, named("x")), 0);
    assert_int_equal(mq_channel_publish(&link_.channel, &m, publish_again, named("y")), 0);
    put_confirm(&broker, MQ_BASIC_ACK, 2, true);
    assert_int_equal(feed(), 0);
    expect_trace("x+ y+ ");
    assert_int_equal(link_.channel.unconfirmed, 600);
}

/* ---- requests ---- */

static int declare(const char *name)
{
    mq_put_queue_declare(&link_.out, name, 0);
    return mq_channel_expect(&link_.channel, MQ_QUEUE_DECLARE, MQ_QUEUE_DECLARE_OK, note_done,
                             named(name));
}

static void answers_come_in_order(void **state)
{
    (void)state;
    to_up();
    assert_int_equal(declare("a"), 0);
    assert_int_equal(declare("b"), 0);
    assert_string_equal(mq_channel_waits_for(&link_.channel), "queue.declare");
    put_declare_ok(&broker, "a", 5);
    put_declare_ok(&broker, "b", 0);
    assert_int_equal(feed(), 0);
    expect_trace("a:ok:5 b:ok:0 ");
    assert_null(mq_channel_waits_for(&link_.channel));
    put_declare_ok(&broker, "c", 0);
    assert_int_equal(feed(), ERR_PROTOCOL);
}

static void a_wrong_answer_ends_the_connection(void **state)
{
    (void)state;
    to_up();
    assert_int_equal(declare("a"), 0);
    put_plain(&broker, 1, MQ_QUEUE_BIND_OK);
    assert_int_equal(feed(), ERR_PROTOCOL);
    mq_link_end(&link_, &why);
    expect_trace("a:MQ_DOWN:0 ");

    setup_again(state);
    to_up();
    assert_int_equal(mq_channel_consume(&link_.channel, "q", "c", false, note_deliver, NULL, NULL),
                     0);
    put_tagged(&broker, MQ_BASIC_CONSUME_OK, "d");
    assert_int_equal(feed(), ERR_PROTOCOL);
}

static void a_refusal_is_told_to_the_right_one(void **state)
{
    (void)state;
    to_up();
    assert_int_equal(publish("p", false), 0);
    assert_int_equal(declare("a"), 0);
    assert_int_equal(declare("b"), 0);
    buf_reset(&link_.out);
    put_closing(&broker, 1, 406, "PRECONDITION_FAILED - inequivalent arg", MQ_QUEUE_DECLARE);
    assert_int_equal(feed(), ERR_CONFLICT);
    assert_int_equal(link_.refusal, 406);
    assert_string_equal(why.text, "the broker refused queue.declare: 406 PRECONDITION_FAILED - "
                                  "inequivalent arg");
    expect_trace("a:CONFLICT:0 ");
    expect_sent("20.41 10.50 ");
    mq_link_end(&link_, &why);
    expect_trace("pMQ_DOWN b:MQ_DOWN:0 ");

    setup_again(state);
    to_up();
    assert_int_equal(declare("a"), 0);
    put_closing(&broker, 1, 404, "NOT_FOUND - no exchange", 0x003C0028);
    assert_int_equal(feed(), ERR_NOT_FOUND);
    assert_string_equal(why.text, "the broker refused basic.publish: 404 NOT_FOUND - no exchange");
    expect_trace("");
    mq_link_end(&link_, &why);
    expect_trace("a:MQ_DOWN:0 ");
}

static void requests_are_bounded(void **state)
{
    size_t n = 0;

    (void)state;
    to_up();
    while (mq_channel_expect(&link_.channel, MQ_QUEUE_DECLARE, MQ_QUEUE_DECLARE_OK, NULL, NULL) ==
           0) {
        n++;
    }
    assert_int_equal(n, MQ_REQUESTS_MAX);
    assert_int_equal(mq_channel_consume(&link_.channel, "q", "c", false, note_deliver, NULL, NULL),
                     ERR_BUSY);
}

static void consumers_come_and_go(void **state)
{
    struct mq_channel *c = &link_.channel;

    (void)state;
    to_up();
    consume("c");
    assert_int_equal(mq_channel_consume(c, "q", "c", false, note_deliver, NULL, NULL),
                     ERR_CONFLICT);
    assert_int_equal(mq_channel_cancel(c, "d", NULL, NULL), ERR_NOT_FOUND);
    assert_int_equal(mq_channel_cancel(c, "c", note_done, named("gone")), 0);
    put_deliver(&broker, "c", 1, "k"); /* was on its way */
    put_header(&broker, 0, NULL, NULL, NULL);
    put_tagged(&broker, MQ_BASIC_CANCEL_OK, "c");
    assert_int_equal(feed(), 0);
    expect_trace("c/1r/k/// gone:ok:0 ");
    consume("c"); /* the name is free again */

    put_tagged(&broker, MQ_BASIC_CANCEL, "c"); /* the queue was deleted */
    put_tagged(&broker, MQ_BASIC_CANCEL, "never heard of");
    assert_int_equal(feed(), 0);
    expect_trace("cancelled:c ");

    consume("c");
    assert_int_equal(mq_channel_cancel(c, "c", note_done, named("gone")), 0);
    put_tagged(&broker, MQ_BASIC_CANCEL, "c"); /* both at the same time */
    put_tagged(&broker, MQ_BASIC_CANCEL_OK, "c");
    assert_int_equal(feed(), 0);
    expect_trace("cancelled:c gone:ok:0 ");
    put_deliver(&broker, "c", 2, "k");
    assert_int_equal(feed(), ERR_PROTOCOL);
}

static void a_cancel_that_wants_an_answer_gets_one(void **state)
{
    (void)state;
    to_up();
    consume("c");
    put_raw(&broker, 1, MQ_BASIC_CANCEL, "\1c\0", 3);
    assert_int_equal(feed(), 0);
    expect_trace("cancelled:c ");
    expect_sent("60.31 ");
}

/* ---- time ---- */

static void heartbeats_go_out_when_nothing_else_does(void **state)
{
    (void)state;
    to_up();
    assert_int_equal(mq_link_tick_ms(&link_), 5000);
    link_.last_in = link_.last_out = 0;
    assert_int_equal(mq_link_tick(&link_, 9999, true, &why), 0);
    expect_sent("");
    assert_int_equal(mq_link_tick(&link_, 10000, false, &why), 0);
    expect_sent(""); /* what waits will do */
    assert_int_equal(mq_link_tick(&link_, 10000, true, &why), 0);
    expect_sent("* ");
    for (now = 15000; now <= 40000; now += 5000) {
        assert_int_equal(mq_link_tick(&link_, now, true, &why), 0);
    }
    assert_int_equal(mq_link_tick(&link_, 40001, true, &why), ERR_TIMEOUT);
    assert_string_equal(why.text, "nothing heard from the broker for 40 s");
}

static void after_a_pause_of_our_own_the_broker_gets_a_chance(void **state)
{
    (void)state;
    to_up();
    link_.last_in = link_.last_out = 0;
    assert_int_equal(mq_link_tick(&link_, 5000, true, &why), 0);
    assert_int_equal(mq_link_tick(&link_, 100000, true, &why), 0);
    for (now = 105000; now <= 140000; now += 5000) {
        assert_int_equal(mq_link_tick(&link_, now, true, &why), 0);
    }
    assert_int_equal(mq_link_tick(&link_, now, true, &why), ERR_TIMEOUT);
}

static void a_deaf_broker_is_noticed(void **state)
{
    (void)state;
    to_up();
    assert_int_equal(declare("a"), 0);
    for (now = 100000; now <= 160000; now += 10000) {
        put_heartbeat(&broker);
        assert_int_equal(feed(), 0);
        assert_int_equal(mq_link_tick(&link_, now, true, &why), 0);
    }
    assert_int_equal(declare("b"), 0);
    put_declare_ok(&broker, "a", 0);
    assert_int_equal(feed(), 0);
    for (; now <= 230000; now += 10000) {
        put_heartbeat(&broker);
        assert_int_equal(feed(), 0);
        assert_int_equal(mq_link_tick(&link_, now, true, &why), 0);
    }
    put_heartbeat(&broker);
    assert_int_equal(feed(), 0);
    assert_int_equal(mq_link_tick(&link_, now, true, &why), ERR_TIMEOUT);
    assert_string_equal(why.text, "the broker did not answer queue.declare within 60 s");
}

/* ---- the end ---- */

static void leaving_ignores_all_but_the_answer(void **state)
{
    (void)state;
    to_up();
    consume("c");
    put_deliver(&broker, "c", 1, "k");
    assert_int_equal(feed(), 0);
    mq_link_leave(&link_);
    expect_sent("10.50 ");
    put_header(&broker, 3, NULL, NULL, NULL);
    put_body(&broker, "abc", 3);
    put_deliver(&broker, "c", 2, "k");
    put_blocked(&broker, "memory");
    assert_int_equal(feed(), 0);
    expect_trace("");
    put_plain(&broker, 0, MQ_CONNECTION_CLOSE_OK);
    assert_int_equal(feed(), ERR_CLOSED);
}

static void end_now(void *arg, int rc)
{
    note_confirm(arg, rc);
    mq_link_end(&link_, &why);
}

static void a_callback_may_end_it(void **state)
{
    struct mq_message m = {.exchange = "", .routing_key = "k"};

    (void)state;
    to_up();
    assert_int_equal(mq_channel_publish(&link_.channel, &m, end_now, named("a")), 0);
    assert_int_equal(publish("b", false), 0);
    assert_int_equal(publish("c", false), 0);
    put_confirm(&broker, MQ_BASIC_ACK, 2, true);
    put_confirm(&broker, MQ_BASIC_ACK, 3, false);
    assert_int_equal(feed(), 0);
    expect_trace("a+ bMQ_DOWN cMQ_DOWN ");
}

static int make_big(void **state)
{
    (void)state;
    big = xmalloc(MQ_BODY_MAX + 1);
    for (size_t i = 0; i <= MQ_BODY_MAX; i++) {
        big[i] = (char)(i * 31 + i / 65521);
    }
    return 0;
}

static int free_big(void **state)
{
    (void)state;
    free(big);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(comes_up_step_by_step),
        TEST(without_confirms_and_prefetch_it_asks_for_neither),
        TEST(limits_are_agreed_on),
        TEST(refusals_are_one_clear_sentence),
        TEST(an_end_of_the_stream_is_explained),
        TEST(names_that_are_too_long_are_our_own_fault),
        TEST(before_the_limits_are_agreed_on_frames_are_small),
        TEST(nothing_is_accepted_that_is_not_due),
        TEST(deliveries_are_put_together),
        TEST(large_deliveries_arrive_whole),
        TEST(a_message_in_disorder_ends_the_connection),
        TEST(blocking_is_told_once),
        TEST(confirms_single_multiple_out_of_order),
        TEST(a_confirm_for_what_was_never_sent_ends_the_connection),
        TEST(returned_messages_are_told_with_their_confirm),
        TEST(returns_of_unknown_messages_do_no_harm),
        TEST(the_window_may_be_large_but_not_endless),
        TEST(a_publish_that_does_not_fit_leaves_no_trace),
        TEST(confirm_callbacks_may_publish),
        TEST(answers_come_in_order),
        TEST(a_wrong_answer_ends_the_connection),
        TEST(a_refusal_is_told_to_the_right_one),
        TEST(requests_are_bounded),
        TEST(consumers_come_and_go),
        TEST(a_cancel_that_wants_an_answer_gets_one),
        TEST(heartbeats_go_out_when_nothing_else_does),
        TEST(after_a_pause_of_our_own_the_broker_gets_a_chance),
        TEST(a_deaf_broker_is_noticed),
        TEST(leaving_ignores_all_but_the_answer),
        TEST(a_callback_may_end_it),
    };

    return cmocka_run_group_tests(tests, make_big, free_big);
}
