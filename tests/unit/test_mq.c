/* Sockets, DNS, timers and reconnection of mq against a broker of our own on the same loop. Each
 * test ends with uv_loop_close() == 0. */
#include "internal/mq.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/mq_broker.h"

#define GUARD_MS 10000 /* a test that takes so long has failed */

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
    assert_int_equal(mq_consume(mq, "q", "c", false, on_deliver, on_cancelled, NULL, NULL), 0);
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
    assert_int_equal(mq_consume(mq, "q", "c", true, on_deliver, NULL, NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(mq_cancel(mq, "c", NULL, NULL), ERR_MQ_DOWN);
    assert_int_equal(publish(), ERR_MQ_DOWN);
    mq_ack(mq, 1, 1, false);
    until(&ups, 1);
    assert_int_equal(mq_declare_queue(mq, "", 0, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_declare_queue(mq, name, 0, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_declare_queue(mq, "q", MQ_QUORUM | MQ_EXCLUSIVE, NULL, NULL), ERR_INVALID);
    assert_int_equal(mq_consume(mq, "q", "", true, on_deliver, NULL, NULL, NULL), ERR_INVALID);
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
