/* Sockets, DNS, timers and reconnection of mq against a broker of our own on the same loop. Each
 * test ends with uv_loop_close() == 0. */
#include "internal/mq.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/mq_frames.h"

#define GUARD_MS 10000 /* a test that takes so long has failed */

/* ---- the broker ---- */

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
static void counted(int *n)
{
    (*n)++;
    uv_stop(&loop);
}

static void on_peer_closed(uv_handle_t *h)
{
    struct peer *p = h->data;

    buf_free(&p->in);
    buf_free(&p->out);
    if (peer == p) {
        peer = NULL;
    }
    free(p);
}

static void hang_up(struct peer *p)
{
    if (!p->closing) {
        p->closing = true;
        uv_close((uv_handle_t *)&p->tcp, on_peer_closed);
    }
}

static void on_written(uv_write_t *req, int status);

/* One piece in each turn of the loop, so that none is joined to the next on its way. */
static void speak(struct peer *p)
{
    uv_buf_t piece = uv_buf_init(p->out.data, (unsigned)MIN(split, p->out.len));

    if (!p->writing && !p->closing && piece.len) {
        p->writing = true;
        p->write.data = p;
        assert_int_equal(uv_write(&p->write, (uv_stream_t *)&p->tcp, &piece, 1, on_written), 0);
        buf_shift(&p->out, piece.len); /* so small that it has gone */
    }
}

static void on_written(uv_write_t *req, int status)
{
    struct peer *p = req->data;

    p->writing = false;
    if (status == 0) {
        speak(p);
    }
}

static void say(struct peer *p, struct buf *b)
{
    assert_int_equal(buf_add(&p->out, b->data, b->len), 0);
    buf_free(b);
    speak(p);
}

static struct buf said(void)
{
    return (struct buf){.max = 1 << 20};
}

/* What the broker does instead of its next step; false: the step. */
static bool misbehaves(struct peer *p, enum when step)
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

static void on_method_frame(struct peer *p, const struct mq_frame *f)
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

static void on_peer_alloc(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    struct peer *p = h->data;

    ret->base = buf_reserve(&p->in, hint);
    ret->len = hint;
}

static void on_peer_read(uv_stream_t *s, ssize_t n, const uv_buf_t *unused)
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

static void on_connection(uv_stream_t *s, int status)
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

static void broker_listen(void)
{
    int len = sizeof(address);

    assert_int_equal(uv_tcp_init(&loop, &server), 0);
    assert_int_equal(uv_tcp_bind(&server, (struct sockaddr *)&address, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&server, 16, on_connection), 0);
    assert_int_equal(uv_tcp_getsockname(&server, (struct sockaddr *)&address, &len), 0);
    listening = true;
}

static void broker_stop(void)
{
    if (listening) {
        listening = false;
        uv_close((uv_handle_t *)&server, NULL);
    }
    if (peer) {
        hang_up(peer);
    }
}

/* ---- the client ---- */

enum closer { NOBODY, IN_UP, IN_DOWN, IN_BLOCKED, IN_DELIVER, IN_CONFIRM, IN_DONE, IN_CANCELLED };

static struct mq *mq;
static enum closer closer; /* the callback that calls mq_close() */
static int ups, downs, blocks, deliveries, confirms, dones, cancels, closes;
static int confirm_rc, done_rc;
static struct err down_why;
static struct mq_delivery last;
static char order[256]; /* of the callbacks, a letter each */

static void on_closed(void *arg)
{
    (void)arg;
    counted(&closes);
}

static void note(char letter, enum closer me)
{
    size_t n = strlen(order);

    if (n + 1 < sizeof(order)) {
        order[n] = letter;
    }
    assert_int_equal(closes, 0);
    if (me == closer && mq) {
        mq_close(STEAL(mq), on_closed, NULL);
        order[strlen(order)] = '.';
    }
}

static void on_up(void *arg)
{
    (void)arg;
    counted(&ups);
    note('U', IN_UP);
}

static void on_down(void *arg, const struct err *why)
{
    (void)arg;
    counted(&downs);
    down_why = *why;
    note('D', IN_DOWN);
}

static void on_blocked(void *arg, bool blocked)
{
    (void)arg;
    counted(&blocks);
    assert_int_equal(blocked, mq_is_blocked(mq));
    note('B', IN_BLOCKED);
}

static void on_confirm(void *arg, int rc)
{
    (void)arg;
    counted(&confirms);
    confirm_rc = rc;
    note('c', IN_CONFIRM);
}

static void on_done(void *arg, int rc, const struct err *why, uint32_t count)
{
    (void)arg;
    (void)why;
    (void)count;
    counted(&dones);
    done_rc = rc;
    note('d', IN_DONE);
}

static void on_deliver(void *arg, const struct mq_delivery *d)
{
    (void)arg;
    counted(&deliveries);
    last = *d;
    assert_true(str_eq(d->body, STR("hello")));
    note('m', IN_DELIVER);
}

static void on_cancelled(void *arg)
{
    (void)arg;
    counted(&cancels);
    note('x', IN_CANCELLED);
}

static struct mq_options options(const char *hosts)
{
    return (struct mq_options){.hosts = hosts,
                               .port = ntohs(address.sin_port),
                               .username = "u",
                               .password = "p",
                               .vhost = "/",
                               .name = "test",
                               .confirms = true,
                               .prefetch = 5,
                               .on_up = on_up,
                               .on_down = on_down,
                               .on_blocked = on_blocked};
}

static void open_client(void)
{
    struct mq_options o = options("127.0.0.1");

    mq = mq_open(&loop, &o);
}

static void on_guard(uv_timer_t *t)
{
    (void)t;
    fail_msg("nothing happens any more: %s", order);
}

/* Turns the loop until *counter has reached `want`. */
static void until(const int *counter, int want)
{
    uv_timer_t guard;

    assert_int_equal(uv_timer_init(&loop, &guard), 0);
    assert_int_equal(uv_timer_start(&guard, on_guard, GUARD_MS, 0), 0);
    while (*counter < want) {
        (void)uv_run(&loop, UV_RUN_DEFAULT);
    }
    uv_close((uv_handle_t *)&guard, NULL);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
}

static void on_elapsed(uv_timer_t *t)
{
    counted(t->data);
}

static void for_ms(uint64_t ms)
{
    int elapsed = 0;
    uv_timer_t t = {.data = &elapsed};

    assert_int_equal(uv_timer_init(&loop, &t), 0);
    assert_int_equal(uv_timer_start(&t, on_elapsed, ms, 0), 0);
    until(&elapsed, 1);
    uv_close((uv_handle_t *)&t, NULL);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
}

static int setup(void **state)
{
    (void)state;
    when = NEVER;
    what = GO_ON;
    closer = NOBODY;
    split = 4096;
    offer_heartbeat = 60;
    accepted = reads = seen_publish = seen_body = seen_ack = seen_close = seen_heartbeat = 0;
    ups = downs = blocks = deliveries = confirms = dones = cancels = closes = 0;
    memset(order, 0, sizeof(order));
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &address), 0);
    broker_listen();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (mq) {
        mq_close(STEAL(mq), on_closed, NULL);
    }
    until(&closes, 1);
    broker_stop();
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static int again(void **state)
{
    return teardown(state) || setup(state);
}

static void connect_client(void)
{
    open_client();
    until(&ups, 1);
    assert_true(mq_is_up(mq));
}

static int publish(void)
{
    struct mq_message m = {.exchange = "", .routing_key = "q", .body = STR("hello")};

    return mq_publish(mq, &m, on_confirm, NULL);
}

static void consume(void)
{
    assert_int_equal(mq_consume(mq, "q", "c", false, on_deliver, on_cancelled, NULL), 0);
}

static void deliver(uint64_t tag)
{
    struct buf b = said();

    put_deliver(&b, "c", tag, "q");
    put_header(&b, 5, NULL, NULL, NULL);
    put_body(&b, "hello", 5);
    say(peer, &b);
}

/* ---- the tests ---- */

static void comes_up_and_says_goodbye(void **state)
{
    (void)state;
    open_client();
    assert_false(mq_is_up(mq));
    assert_string_equal(mq_server_version(mq), "");
    until(&ups, 1);
    assert_true(mq_is_up(mq));
    assert_string_equal(mq_server_version(mq), "3.99.1");
    assert_string_equal(mq_last_error(mq), "");
    mq_close(STEAL(mq), on_closed, NULL);
    until(&closes, 1);
    assert_int_equal(seen_close, 1);
    assert_int_equal(downs, 0);
}

static void any_byte_boundary_will_do(void **state)
{
    (void)state;
    for (size_t n = 1; n < 200; n += n < 12 ? 1 : 23) {
        split = n;
        connect_client();
        consume();
        for (uint64_t tag = 1; tag <= 5; tag++) {
            deliver(tag);
        }
        until(&deliveries, 5);
        assert_int_equal(last.tag, 5);
        assert_int_equal(downs, 0);
        assert_int_equal(again(state), 0);
    }
    open_client();
}

/* Closing is right whatever was going on: after any number of loop turns since mq_open(). */
static void closes_at_any_time(void **state)
{
    for (int name = 0; name < 2; name++) {
        for (int turns = 0; turns < 25; turns++) {
            struct mq_options o = options(name ? "localhost" : "127.0.0.1");

            mq = mq_open(&loop, &o);
            for (int i = 0; i < turns; i++) {
                (void)uv_run(&loop, UV_RUN_NOWAIT);
            }
            assert_int_equal(again(state), 0);
        }
    }
    what = SAY_NOTHING;
    for (when = AT_HEADER; when <= AT_CHANNEL_OPEN; when++) {
        enum when keep = when;

        open_client();
        until(&reads, (int)when);
        assert_int_equal(again(state), 0);
        what = SAY_NOTHING;
        when = keep;
    }
    open_client(); /* for the teardown */
}

static void closes_from_any_callback(void **state)
{
    for (enum closer c = IN_UP; c <= IN_CANCELLED; c++) {
        struct buf b = said();

        closer = c;
        if (c == IN_DOWN) {
            broker_stop();
        }
        open_client();
        until(c == IN_DOWN ? &downs : &ups, 1);
        if (mq) {
            consume();
            assert_int_equal(mq_declare_queue(mq, "q", 0, on_done, NULL), 0);
            assert_int_equal(publish(), 0);
            assert_int_equal(publish(), 0);
            until(&seen_body, 2);
            put_confirm(&b, MQ_BASIC_ACK, 1, false);
            put_blocked(&b, "memory");
            put_tagged(&b, MQ_BASIC_CANCEL, "c");
            deliver(1);
            say(peer, &b);
        }
        until(&closes, 1);
        assert_null(mq);
        const char *dot = strchr(order, '.');
        assert_non_null(dot);
        assert_int_equal(dot[1], '\0'); /* nothing is told after mq_close() has returned */
        assert_int_equal(confirms + dones, c == IN_UP || c == IN_DOWN ? 0 : 3);
        assert_int_equal(again(state) == 0, true);
    }
    open_client();
}

static void a_closed_port_is_told_once_and_tried_again(void **state)
{
    (void)state;
    broker_stop();
    open_client();
    until(&downs, 1);
    assert_int_equal(down_why.code, ERR_MQ_DOWN);
    char want[128];
    snprintf(want, sizeof(want), "broker 127.0.0.1:%u: cannot connect: connection refused",
             ntohs(address.sin_port));
    assert_string_equal(down_why.text, want);
    assert_string_equal(mq_last_error(mq), want);
    for_ms(450);
    assert_int_equal(downs, 1);
    broker_listen();
    until(&ups, 1);
    assert_int_equal(downs, 1);
    assert_string_equal(mq_last_error(mq), "");
}

static void an_unknown_host_is_told(void **state)
{
    struct mq_options o = options("no-such-host.invalid");

    (void)state;
    mq = mq_open(&loop, &o);
    until(&downs, 1);
    assert_non_null(strstr(down_why.text, "no-such-host.invalid"));
}

static void the_next_host_is_tried_at_once(void **state)
{
    char hosts[128];

    (void)state;
    snprintf(hosts, sizeof(hosts), "127.0.0.1:1, 127.0.0.1:x,127.0.0.1:%u",
             ntohs(address.sin_port));
    struct mq_options o = options(hosts);
    mq = mq_open(&loop, &o);
    until(&ups, 1);
    assert_int_equal(downs, 0);
}

static void a_list_that_makes_no_sense_is_told(void **state)
{
    struct mq_options o = options("127.0.0.1:99999");

    (void)state;
    mq = mq_open(&loop, &o);
    until(&downs, 1);
    assert_int_equal(down_why.code, ERR_CONFIG);
    assert_string_equal(down_why.text, "broker \"127.0.0.1:99999\": this is not host or host:port");
}

/* Whatever goes wrong during the handshake is told, and does not keep a healthy broker from being
 * used. */
static void survives_any_broken_handshake(void **state)
{
    static const enum what kinds[] = {HANG_UP, GARBAGE, GIANT_FRAME};

    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        for (enum when w = AT_HEADER; w <= AT_CHANNEL_OPEN; w++) {
            when = w;
            what = kinds[k];
            open_client();
            until(&downs, 1);
            assert_true(down_why.code < 0 && down_why.text[0]);
            assert_int_equal(ups, 0);
            assert_int_equal(again(state), 0);
        }
    }
    when = AT_OPEN;
    what = HANG_UP;
    open_client();
    until(&downs, 1);
    when = NEVER;
    until(&ups, 1);
    assert_int_equal(downs, 1);
}

static void a_refused_login_is_not_repeated_soon(void **state)
{
    (void)state;
    struct mq_options o = options("127.0.0.1,127.0.0.1"); /* the other one would say the same */

    when = AT_START_OK;
    what = REFUSE;
    mq = mq_open(&loop, &o);
    until(&downs, 1);
    assert_int_equal(down_why.code, ERR_AUTH);
    assert_non_null(strstr(down_why.text, "refused user \"u\": wrong name or password"));
    for_ms(700);
    assert_int_equal(accepted, 1);
    assert_int_equal(downs, 1);
}

static void a_loss_is_told_and_nothing_survives_it(void **state)
{
    struct mq_delivery old = {0};

    (void)state;
    connect_client();
    consume();
    assert_int_equal(publish(), 0);
    assert_int_equal(publish(), 0);
    until(&seen_publish, 2);
    deliver(1);
    until(&deliveries, 1);
    old = last;
    assert_int_equal(mq_unconfirmed(mq), 2);
    hang_up(peer);
    until(&downs, 1);
    assert_int_equal(confirms, 2);
    assert_int_equal(confirm_rc, ERR_MQ_DOWN);
    assert_string_equal(order, "UmccD");
    assert_int_equal(publish(), ERR_MQ_DOWN);
    assert_int_equal(mq_unconfirmed(mq), 0);
    until(&ups, 2);
    mq_ack(mq, old.epoch, old.tag, false);
    mq_nack(mq, old.epoch, old.tag, true);
    consume(); /* the same tag is free */
    deliver(1);
    until(&deliveries, 2);
    assert_true(last.epoch > old.epoch);
    mq_ack(mq, last.epoch, last.tag, false);
    until(&seen_ack, 1);
    for_ms(20);
    assert_int_equal(seen_ack, 1);
    hang_up(peer);
    until(&downs, 2);
}

static void a_refused_request_is_told_before_the_loss(void **state)
{
    (void)state;
    connect_client();
    when = AT_DECLARE;
    what = REFUSE;
    assert_int_equal(mq_declare_queue(mq, "q", MQ_QUORUM, on_done, NULL), 0);
    assert_int_equal(publish(), 0);
    until(&downs, 1);
    assert_string_equal(order, "UdcD");
    assert_int_equal(done_rc, ERR_CONFLICT);
    assert_int_equal(down_why.code, ERR_CONFLICT);
    assert_non_null(strstr(down_why.text, "the broker refused queue.declare: 406"));
}

static void writes_of_one_turn_go_out_together(void **state)
{
    (void)state;
    connect_client();
    reads = 0;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(publish(), 0);
    }
    until(&seen_body, 200);
    assert_true(reads <= 2);
    assert_int_equal(mq_unconfirmed(mq), 200);
}

/* A broker that does not read (as under an alarm) costs neither memory without limit nor the loop.
 */
static void a_broker_that_does_not_read_makes_us_busy_not_stuck(void **state)
{
    struct mq_options o = options("127.0.0.1");
    CLEANUP(freep) char *body = xmalloc(65536);
    struct mq_message m = {.exchange = "", .routing_key = "q", .body = {body, 65536}};
    int sent = 0;
    int rc = 0;

    (void)state;
    o.max_queued = 1 << 20;
    mq = mq_open(&loop, &o);
    until(&ups, 1);
    assert_int_equal(uv_read_stop((uv_stream_t *)&peer->tcp), 0);
    for (int i = 0; i < 4000 && rc == 0; i++) {
        rc = mq_publish(mq, &m, on_confirm, NULL);
        sent += rc == 0;
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(rc, ERR_BUSY);
    assert_true(sent >= 16);
    for_ms(20);
    assert_true(mq_is_up(mq));
    assert_int_equal(uv_read_start((uv_stream_t *)&peer->tcp, on_peer_alloc, on_peer_read), 0);
    until(&seen_body, sent);
    assert_int_equal(seen_publish, sent);
    assert_int_equal(publish(), 0);
    until(&seen_body, sent + 1);
}

/* Acks are never refused, so their amount has a limit of its own. */
static void acks_without_end_to_a_deaf_broker_end_the_connection(void **state)
{
    struct mq_options o = options("127.0.0.1");

    (void)state;
    o.max_queued = 1;
    mq = mq_open(&loop, &o);
    until(&ups, 1);
    consume();
    deliver(1);
    until(&deliveries, 1);
    assert_int_equal(uv_read_stop((uv_stream_t *)&peer->tcp), 0);
    for (int i = 0; i < 4000000 && downs == 0; i++) {
        mq_ack(mq, last.epoch, 1, false);
        if (i % 1000 == 0) {
            (void)uv_run(&loop, UV_RUN_NOWAIT);
        }
    }
    assert_int_equal(downs, 1);
    assert_int_equal(down_why.code, ERR_BUSY);
}

static void blocking_is_seen(void **state)
{
    struct buf b = said();

    (void)state;
    connect_client();
    put_blocked(&b, "low on disk");
    say(peer, &b);
    until(&blocks, 1);
    assert_true(mq_is_blocked(mq));
    hang_up(peer);
    until(&ups, 2);
    assert_false(mq_is_blocked(mq));
}

static void heartbeats_are_sent(void **state)
{
    (void)state;
    offer_heartbeat = 1;
    connect_client();
    until(&seen_heartbeat, 1);
    assert_int_equal(downs, 0);
}

static void wrong_arguments_are_refused(void **state)
{
    char name[257] = "";
    struct mq_message m = {.exchange = "", .routing_key = name};

    (void)state;
    memset(name, 'n', sizeof(name) - 1);
    open_client();
    assert_int_equal(mq_declare_queue(mq, "q", 0, NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(mq_declare_exchange(mq, "e", "fanout", NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(mq_bind(mq, "q", "e", "", NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(mq_delete_queue(mq, "q", NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(mq_consume(mq, "q", "c", true, on_deliver, NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(mq_cancel(mq, "c", NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(publish(), ERR_MQ_DOWN);
    mq_ack(mq, 1, 1, false);
    until(&ups, 1);
    assert_int_equal(mq_declare_queue(mq, "", 0, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_declare_queue(mq, name, 0, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_declare_queue(mq, "q", MQ_QUORUM | MQ_EXCLUSIVE, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_consume(mq, "q", "", true, on_deliver, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_bind(mq, "q", "e", name, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_publish(mq, &m, NULL, NULL), ERR_INVALID);
    m.routing_key = "q";
    m.message_id = name;
    assert_int_equal(mq_publish(mq, &m, NULL, NULL), ERR_INVALID);
    m.message_id = NULL;
    m.body = (struct str){name, MQ_BODY_MAX + 1};
    assert_int_equal(mq_publish(mq, &m, NULL, NULL), ERR_TOO_LARGE);
    assert_int_equal(mq_cancel(mq, "c", NULL, NULL), ERR_NOT_FOUND);
    for_ms(10);
    assert_int_equal(downs, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(comes_up_and_says_goodbye),
        TEST(any_byte_boundary_will_do),
        TEST(closes_at_any_time),
        TEST(closes_from_any_callback),
        TEST(a_closed_port_is_told_once_and_tried_again),
        TEST(an_unknown_host_is_told),
        TEST(the_next_host_is_tried_at_once),
        TEST(a_list_that_makes_no_sense_is_told),
        TEST(survives_any_broken_handshake),
        TEST(a_refused_login_is_not_repeated_soon),
        TEST(a_loss_is_told_and_nothing_survives_it),
        TEST(a_refused_request_is_told_before_the_loss),
        TEST(writes_of_one_turn_go_out_together),
        TEST(a_broker_that_does_not_read_makes_us_busy_not_stuck),
        TEST(acks_without_end_to_a_deaf_broker_end_the_connection),
        TEST(blocking_is_seen),
        TEST(heartbeats_are_sent),
        TEST(wrong_arguments_are_refused),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
