/* The connection: handshake, limits, time, the end. */
#include "tests/unit/mq_session.h"

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
        TEST(blocking_is_told_once),
        TEST(heartbeats_go_out_when_nothing_else_does),
        TEST(after_a_pause_of_our_own_the_broker_gets_a_chance),
        TEST(a_deaf_broker_is_noticed),
        TEST(leaving_ignores_all_but_the_answer),
        TEST(a_callback_may_end_it),
    };

    return cmocka_run_group_tests(tests, make_big, free_big);
}
