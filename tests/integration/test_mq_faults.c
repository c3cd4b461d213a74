/* mq against a real broker that is tormented through rabbitmqctl; without SJE_SERVICES the tests
 * are skipped. */
#include "tests/integration/mq_client.h"

/* An alarm stops publishers, not the loop, nor consumers on another connection. */
static void an_alarm_blocks_nothing_but_publishing(void **state)
{
    uv_process_t p;
    int sent = 0;

    (void)state;
    if (no_services()) {
        skip();
    }
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    send_some(200);
    set_alarm(true);
    for (int i = 0; i < 500 && !mq_is_blocked(a.mq); i++) { /* the broker tells when we publish */
        sent += send_to(&a, queue, "x") == 0;
        for_ms(10);
    }
    assert_int_equal(a.blocks, 1);
    while (sent < 20000) {
        assert_int_equal(send_to(&a, queue, "x"), 0);
        sent++;
    }
    uint64_t before = uv_hrtime();
    for (int i = 0; i < 20; i++) {
        for_ms(5);
    }
    assert_true(uv_hrtime() - before < 2000000000);
    b.ack = true;
    consume(&b, queue);
    until(&b.deliveries, 200);
    assert_true(mq_is_up(a.mq) && mq_is_blocked(a.mq));
    assert_true(mq_unconfirmed(a.mq) > 0);
    ctl_start(&p, "set_vm_memory_high_watermark", "absolute", "1GB");
    until(&a.unblocks, 1);
    until(&ctl_exits, 1);
    until(&a.confirmed, 200 + sent);
    until(&b.deliveries, 200 + sent);
    assert_int_equal(a.lost + a.nacked + a.returned + a.downs, 0);
    delete_queue(&a, queue);
}

static void closing_while_blocked_does_not_wait(void **state)
{
    (void)state;
    if (no_services()) {
        skip();
    }
    connect_client(&a);
    declare(&a, queue, 0);
    set_alarm(true);
    for (int i = 0; i < 500 && !mq_is_blocked(a.mq); i++) {
        (void)!send_to(&a, queue, "x");
        for_ms(10);
    }
    assert_int_equal(a.blocks, 1);
    close_client(&a);
    set_alarm(false);
    assert_true(a.lost > 0);
    connect_client(&a);
    delete_queue(&a, queue);
}

static void killed_connections_come_back(void **state)
{
    (void)state;
    if (no_services()) {
        skip();
    }
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    send_some(3);
    consume(&b, queue);
    until(&b.deliveries, 3);
    uint64_t epoch = b.epoch;
    uint64_t tag = b.tag;
    ctl("close_all_connections", "maintenance", NULL);
    until(&a.downs, 1);
    until(&b.downs, 1);
    assert_non_null(strstr(b.why.text, "320 CONNECTION_FORCED - maintenance"));
    until(&a.ups, 2);
    until(&b.ups, 2);
    mq_ack(b.mq, epoch, tag, true); /* of the old connection: dropped */
    consume(&b, queue);
    until(&b.deliveries, 6);
    assert_int_equal(b.redelivered, 3);
    mq_ack(b.mq, b.epoch, b.tag, true);
    send_some(1);
    until(&b.deliveries, 7);
    assert_int_equal(b.downs, 1);
    delete_queue(&a, queue);
}

static void a_restarted_broker_is_found_again(void **state)
{
    (void)state;
    if (no_services()) {
        skip();
    }
    connect_client(&a);
    connect_client(&b);
    declare(&a, queue, MQ_QUORUM);
    send_some(100);
    ctl("stop_app", NULL, NULL);
    until(&a.downs, 1);
    until(&b.downs, 1);
    assert_int_equal(send_to(&a, queue, "x"), ERR_MQ_DOWN);
    ctl("start_app", NULL, NULL);
    until(&a.ups, 2);
    until(&b.ups, 2);
    declare(&a, queue, MQ_QUORUM);
    assert_int_equal(a.done_rc, 0);
    b.ack = true;
    consume(&b, queue);
    until(&b.deliveries, 100);
    assert_true(b.in_order);
    assert_int_equal(a.downs, 1); /* tries in between are not told */
    delete_queue(&a, queue);
}

/* The broker is as it was, also after a test that failed half-way. */
static int heal(void **state)
{
    if (!no_services()) {
        assert_int_equal(setup(state), 0);
        ctl("start_app", NULL, NULL);
        set_alarm(false);
        (void)teardown(state);
    }
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_alarm_blocks_nothing_but_publishing),
        TEST(closing_while_blocked_does_not_wait),
        TEST(killed_connections_come_back),
        TEST(a_restarted_broker_is_found_again),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, heal);
}
