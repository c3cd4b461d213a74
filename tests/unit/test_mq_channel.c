/* The channel: deliveries, confirms, requests, consumers. */
#include "tests/unit/mq_session.h"

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

/* What the channel itself answers may come before what a queue answers. */
static void answers_of_a_consumer_come_late(void **state)
{
    struct mq_channel *c = &link_.channel;

    (void)state;
    to_up();
    consume("c");
    assert_int_equal(mq_channel_cancel(c, "c", note_done, named("gone")), 0);
    assert_int_equal(declare("a"), 0);
    assert_int_equal(mq_channel_consume(c, "q", "d", false, note_deliver, NULL, NULL, NULL), 0);
    assert_int_equal(declare("b"), 0);
    put_declare_ok(&broker, "a", 1);
    put_declare_ok(&broker, "b", 2);
    assert_int_equal(feed(), 0);
    expect_trace("a:ok:1 b:ok:2 ");
    put_tagged(&broker, MQ_BASIC_CONSUME_OK, "d");
    put_tagged(&broker, MQ_BASIC_CANCEL_OK, "c");
    assert_int_equal(feed(), 0);
    expect_trace("gone:ok:0 ");
    assert_null(mq_channel_waits_for(c));
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
    assert_int_equal(
        mq_channel_consume(&link_.channel, "q", "c", false, note_deliver, NULL, NULL, NULL), 0);
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
    assert_int_equal(
        mq_channel_consume(&link_.channel, "q", "c", false, note_deliver, NULL, NULL, NULL),
        ERR_BUSY);
}

static void consumers_come_and_go(void **state)
{
    struct mq_channel *c = &link_.channel;

    (void)state;
    to_up();
    consume("c");
    assert_int_equal(mq_channel_consume(c, "q", "c", false, note_deliver, NULL, NULL, NULL),
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(deliveries_are_put_together),
        TEST(large_deliveries_arrive_whole),
        TEST(a_message_in_disorder_ends_the_connection),
        TEST(confirms_single_multiple_out_of_order),
        TEST(a_confirm_for_what_was_never_sent_ends_the_connection),
        TEST(returned_messages_are_told_with_their_confirm),
        TEST(returns_of_unknown_messages_do_no_harm),
        TEST(the_window_may_be_large_but_not_endless),
        TEST(a_publish_that_does_not_fit_leaves_no_trace),
        TEST(confirm_callbacks_may_publish),
        TEST(answers_come_in_order),
        TEST(answers_of_a_consumer_come_late),
        TEST(a_wrong_answer_ends_the_connection),
        TEST(a_refusal_is_told_to_the_right_one),
        TEST(requests_are_bounded),
        TEST(consumers_come_and_go),
        TEST(a_cancel_that_wants_an_answer_gets_one),
    };

    return cmocka_run_group_tests(tests, make_big, free_big);
}
