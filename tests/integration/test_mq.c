/* mq against a real broker that is well. */
#include "tests/integration/mq_client.h"

static void declares_binds_and_deletes(void **state)
{
    (void)state;
    connect_client(&a);
    assert_true(mq_server_version(a.mq)[0] >= '3');
    declare(&a, queue, MQ_QUORUM);
    assert_int_equal(a.done_rc, 0);
    declare(&a, queue, MQ_QUORUM); /* again */
    assert_int_equal(a.done_rc, 0);
    declare(&a, other, 0);
    assert_int_equal(a.done_rc, 0);
    send_some(3);
    expect_ready(queue, 3);
    delete_queue(&a, queue);
    assert_int_equal(a.done_count, 3);
    delete_queue(&a, other);
    declare(&a, queue, MQ_PASSIVE);
    assert_int_equal(a.done_rc, ERR_NOT_FOUND);
    until(&a.downs, 1);
    assert_int_equal(a.why.code, ERR_NOT_FOUND);
    until(&a.ups, 2); /* by itself */
}

static void another_kind_of_queue_is_a_conflict(void **state)
{
    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&b, queue, 0);
    declare(&a, queue, MQ_QUORUM);
    assert_int_equal(a.done_rc, ERR_CONFLICT);
    until(&a.downs, 1);
    assert_non_null(
        strstr(a.why.text, "the broker refused queue.declare: 406 PRECONDITION_FAILED"));
    delete_queue(&b, queue);
}

static void an_exclusive_queue_belongs_to_its_connection(void **state)
{
    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&b, queue, MQ_EXCLUSIVE);
    assert_int_equal(b.done_rc, 0);
    declare(&a, queue, MQ_EXCLUSIVE);
    assert_int_equal(a.done_rc, ERR_CONFLICT); /* 405 RESOURCE_LOCKED */
    until(&a.ups, 2);
    close_client(&b);
    declare(&a, queue, MQ_EXCLUSIVE); /* it went with the goodbye */
    assert_int_equal(a.done_rc, 0);
}

static void ten_thousand_messages(int flags)
{
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, flags);
    send_some(10000);
    assert_int_equal(mq_unconfirmed(a.mq), 0);
    expect_ready(queue, 10000);
    b.ack = true;
    consume(&b, queue);
    until(&b.deliveries, 10000);
    assert_true(b.in_order);
    assert_int_equal(b.redelivered, 0);
    assert_string_equal(b.id, "id 1");
    assert_string_equal(b.reply_to, "answers");
    assert_int_equal(mq_cancel(b.mq, "consumer", on_done, &b), 0);
    until(&b.done, 1);
    expect_ready(queue, 0);
    delete_queue(&a, queue);
    assert_int_equal(a.returned + a.nacked + a.lost + a.downs + b.downs, 0);
}

static void quorum_publish_confirm_consume_ack(void **state)
{
    (void)state;
    ten_thousand_messages(MQ_QUORUM);
}

static void classic_publish_confirm_consume_ack(void **state)
{
    (void)state;
    ten_thousand_messages(0);
}

static void unroutable_messages_are_told_apart(void **state)
{
    struct mq_message m = {.exchange = "", .routing_key = other};

    (void)state;
    connect_client(&a);
    declare(&a, queue, MQ_QUORUM);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(send_to(&a, i % 3 ? queue : other, "x"), 0);
    }
    until(&a.confirmed, 200);
    until(&a.returned, 100);
    assert_int_equal(mq_publish(a.mq, &m, on_confirm, &a), 0); /* not mandatory */
    until(&a.confirmed, 201);
    expect_ready(queue, 200);
    delete_queue(&a, queue);
    assert_int_equal(a.returned, 100);
}

static void an_exchange_that_does_not_exist_is_told(void **state)
{
    struct mq_message m = {.exchange = other, .routing_key = "x"};

    (void)state;
    connect_client(&a);
    assert_int_equal(mq_publish(a.mq, &m, on_confirm, &a), 0);
    until(&a.downs, 1);
    assert_int_equal(a.lost, 1);
    assert_non_null(strstr(a.why.text, "the broker refused basic.publish: 404 NOT_FOUND"));
}

static void nacked_messages_come_again_or_go(void **state)
{
    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    send_some(1);
    consume(&b, queue);
    until(&b.deliveries, 1);
    assert_int_equal(b.redelivered, 0);
    mq_nack(b.mq, b.epoch, b.tag, true);
    until(&b.deliveries, 2);
    assert_int_equal(b.redelivered, 1);
    mq_nack(b.mq, b.epoch, b.tag, false);
    send_some(1);
    until(&b.deliveries, 3);
    assert_int_equal(b.redelivered, 1);
    close_client(&b); /* without an ack: it comes again */
    connect_client(&b);
    consume(&b, queue);
    until(&b.deliveries, 4);
    assert_int_equal(b.redelivered, 2);
    mq_ack(b.mq, b.epoch, b.tag, false);
    close_client(&b);
    expect_ready(queue, 0);
    delete_queue(&a, queue);
}

static void prefetch_bounds_what_is_in_flight(void **state)
{
    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    send_some(250);
    consume(&b, queue);
    until(&b.deliveries, 100);
    expect_ready(queue, 150);
    assert_int_equal(b.deliveries, 100);
    mq_ack(b.mq, b.epoch, b.tag, true); /* all of them */
    until(&b.deliveries, 200);
    expect_ready(queue, 50);
    assert_int_equal(b.deliveries, 200);
    delete_queue(&a, queue);
}

static void the_next_consumer_has_the_new_prefetch(void **state)
{
    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    send_some(250);
    consume(&b, queue);
    until(&b.deliveries, 100);
    assert_int_equal(mq_set_prefetch(b.mq, 120), 0);
    assert_int_equal(mq_cancel(b.mq, "consumer", on_done, &b), 0);
    until(&b.done, 1);
    expect_ready(queue, 150); /* what was there is not given back */
    /* By another name: of the same one what is not acked counts. */
    assert_int_equal(mq_consume(b.mq, queue, "next", false, on_deliver, on_cancelled, NULL, &b), 0);
    until(&b.deliveries, 220);
    expect_ready(queue, 30);
    assert_int_equal(b.deliveries, 220);
    delete_queue(&a, queue);
}

static void a_cancelled_consumer_gets_no_more(void **state)
{
    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    b.ack = true;
    consume(&b, queue);
    send_some(10);
    until(&b.deliveries, 10);
    assert_int_equal(mq_cancel(b.mq, "consumer", on_done, &b), 0);
    until(&b.done, 1);
    send_some(5);
    expect_ready(queue, 5);
    assert_int_equal(b.deliveries, 10);
    assert_int_equal(b.cancelled, 0);
    consume(&b, queue);
    until(&b.deliveries, 15);
    delete_queue(&a, queue);
}

/* As a worker does that is full, and soon has room again. The broker answers a declare before it
 * answers the cancel that came first. */
static void a_consumer_goes_and_comes_back(void **state)
{
    char tag[32] = "consumer";

    (void)state;
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    b.ack = true;
    consume(&b, queue);
    send_some(1);
    until(&b.deliveries, 1);
    for (int i = 0; i < 100; i++) {
        b.done = 0;
        assert_int_equal(mq_cancel(b.mq, tag, on_done, &b), 0);
        assert_int_equal(mq_declare_queue(b.mq, queue, MQ_QUORUM, on_done, &b), 0);
        until(&b.done, 2);
        snprintf(tag, sizeof(tag), "consumer %d", i);
        assert_int_equal(mq_consume(b.mq, queue, tag, false, on_deliver, on_cancelled, on_done, &b),
                         0);
        until(&b.done, 3);
    }
    send_some(10);
    until(&b.deliveries, 11);
    assert_int_equal(b.downs, 0);
    delete_queue(&a, queue);
}

static void a_deleted_queue_cancels_its_consumer(void **state)
{
    (void)state;
    for (int flags = 0; flags <= MQ_QUORUM; flags++) {
        connect_client(&a);
        connect_client(&b);
        declare(&a, queue, flags);
        b.ack = true;
        consume(&b, queue);
        send_some(1);
        until(&b.deliveries, 1);
        delete_queue(&a, queue);
        until(&b.cancelled, 1);
        declare(&b, queue, flags);
        consume(&b, queue);
        send_some(1);
        until(&b.deliveries, 2);
        assert_int_equal(b.downs, 0);
        delete_queue(&a, queue);
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
    }
}

static void a_fanout_reaches_everyone(void **state)
{
    struct mq_message m = {.exchange = "sje.test.fanout", .routing_key = "", .body = STR("beat")};

    (void)state;
    connect_client(&a);
    connect_client(&b);
    struct client *both[] = {&a, &b};
    for (int i = 0; i < 2; i++) {
        struct client *c = both[i];
        const char *name = i ? queue : other;

        assert_int_equal(mq_declare_exchange(c->mq, m.exchange, "fanout", on_done, c), 0);
        assert_int_equal(mq_declare_queue(c->mq, name, MQ_EXCLUSIVE, on_done, c), 0);
        assert_int_equal(mq_bind(c->mq, name, m.exchange, "", on_done, c), 0);
        assert_int_equal(mq_consume(c->mq, name, "beats", true, on_deliver, NULL, NULL, c), 0);
        until(&c->done, 3);
    }
    assert_int_equal(mq_publish(b.mq, &m, NULL, NULL), 0);
    until(&a.deliveries, 1);
    until(&b.deliveries, 1);
    assert_string_equal(a.body, "beat");
    assert_string_equal(a.id, "");
}

static void large_messages_arrive_whole(void **state)
{
    CLEANUP(freep) char *body = xmalloc(MQ_BODY_MAX);
    struct mq_message m = {.exchange = "", .routing_key = queue, .body = {body, MQ_BODY_MAX}};

    (void)state;
    memset(body, 'x', MQ_BODY_MAX);
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, 0);
    b.ack = true;
    consume(&b, queue);
    for (size_t n = 1 << 16; n <= MQ_BODY_MAX; n <<= 4) {
        m.body.len = n;
        assert_int_equal(mq_publish(a.mq, &m, on_confirm, &a), 0);
        until(&b.deliveries, b.deliveries + 1);
        assert_int_equal(b.body_len, n);
    }
    m.body.len = 0;
    assert_int_equal(mq_publish(a.mq, &m, on_confirm, &a), 0);
    until(&b.deliveries, b.deliveries + 1);
    assert_int_equal(b.body_len, 0);
    delete_queue(&a, queue);
}

static void refused_logins_are_one_clear_sentence(void **state)
{
    struct mq_options o = options(&a);
    char want[256];

    (void)state;
    o.password = "wrong";
    a.mq = mq_open(&loop, &o);
    until(&a.downs, 1);
    assert_int_equal(a.why.code, ERR_AUTH);
    snprintf(want, sizeof(want),
             "broker %s:%d: the broker refused user \"%s\": wrong name or password, or not allowed "
             "from this host",
             o.hosts, o.port, o.username);
    assert_string_equal(a.why.text, want);
    assert_string_equal(mq_last_error(a.mq), want);
    close_client(&a);

    o = options(&a);
    o.vhost = "no-such-vhost";
    a.mq = mq_open(&loop, &o);
    until(&a.downs, 2);
    assert_int_equal(a.why.code, ERR_AUTH);
    assert_non_null(strstr(a.why.text, "virtual host \"no-such-vhost\""));
    close_client(&a);

    o = options(&a);
    o.hosts = "127.0.0.1:1";
    a.mq = mq_open(&loop, &o);
    until(&a.downs, 3);
    assert_string_equal(a.why.text, "broker 127.0.0.1:1: cannot connect: connection refused");
}

static void closes_after_any_number_of_turns(void **state)
{
    (void)state;
    for (int turns = 0; turns < 30; turns++) {
        struct mq_options o = options(&a);

        a.mq = mq_open(&loop, &o);
        for (int i = 0; i < turns; i++) {
            (void)uv_run(&loop, UV_RUN_NOWAIT);
            for_ms((uint64_t)i % 2);
        }
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(declares_binds_and_deletes),
        TEST(another_kind_of_queue_is_a_conflict),
        TEST(an_exclusive_queue_belongs_to_its_connection),
        TEST(quorum_publish_confirm_consume_ack),
        TEST(classic_publish_confirm_consume_ack),
        TEST(unroutable_messages_are_told_apart),
        TEST(an_exchange_that_does_not_exist_is_told),
        TEST(nacked_messages_come_again_or_go),
        TEST(prefetch_bounds_what_is_in_flight),
        TEST(the_next_consumer_has_the_new_prefetch),
        TEST(a_cancelled_consumer_gets_no_more),
        TEST(a_consumer_goes_and_comes_back),
        TEST(a_deleted_queue_cancels_its_consumer),
        TEST(a_fanout_reaches_everyone),
        TEST(large_messages_arrive_whole),
        TEST(refused_logins_are_one_clear_sentence),
        TEST(closes_after_any_number_of_turns),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
