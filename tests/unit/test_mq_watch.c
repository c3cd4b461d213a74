/* Consumers that the broker has forgotten; the connection is played here. */
#include "internal/mq_watch.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EPOCH 7

static bool up;
static char asked[64]; /* the queue that was looked at; "": none */
static int renewed;
static char why[200];
static mq_done_fn *answer;
static void *answer_arg;

static struct mq_watched queues[3];
static struct mq_watch watch;
static int64_t now;

bool mq_is_up(const struct mq *mq)
{
    (void)mq;
    return up;
}

int mq_declare_queue(struct mq *mq, const char *name, int flags, mq_done_fn *cb, void *arg)
{
    (void)mq;
    assert_int_equal(flags, MQ_QUORUM);
    snprintf(asked, sizeof(asked), "%s", name);
    answer = cb;
    answer_arg = arg;
    return 0;
}

void mq_renew(struct mq *mq, const char *text)
{
    (void)mq;
    renewed++;
    snprintf(why, sizeof(why), "%s", text);
}

static int setup(void **state)
{
    (void)state;
    up = true;
    renewed = 0;
    now = 1000000;
    queues[0] = (struct mq_watched){.queue = "a", .on = true};
    queues[1] = (struct mq_watched){.queue = "b"};
    queues[2] = (struct mq_watched){.queue = "c", .on = true};
    watch = (struct mq_watch){.prefetch = 2, .list = queues, .n = 3};
    mq_watch_up(&watch, now);
    return 0;
}

/* The queue that is looked at when some time has passed. */
static const char *look(void)
{
    now += MQ_WATCH_MS;
    asked[0] = '\0';
    mq_watch_look(&watch, now);
    return asked;
}

static void waiting(uint32_t count)
{
    answer(answer_arg, 0, NULL, count);
}

static void test_each_queue_has_its_turn(void **state)
{
    (void)state;
    mq_watch_look(&watch, now + MQ_WATCH_MS - 1);
    assert_string_equal(asked, "");
    assert_string_equal(look(), ""); /* b: nobody consumes from it */
    assert_string_equal(look(), "c");
    assert_string_equal(look(), ""); /* not answered yet */
    waiting(0);
    assert_string_equal(look(), "a");
    waiting(0);
    up = false;
    look();
    assert_string_equal(look(), "");
    assert_int_equal(renewed, 0);
}

static void test_a_forgotten_consumer(void **state)
{
    (void)state;
    look();
    for (int i = 1; i <= MQ_WATCH_STRIKES; i++) {
        assert_int_equal(renewed, 0);
        assert_string_equal(look(), "c"); /* until it is clear */
        waiting(17);
    }
    assert_int_equal(renewed, 1);
    assert_non_null(strstr(why, "17 messages wait in c"));
    answer = NULL;
    mq_watch_up(&watch, now);
    assert_string_equal(look(), "a");
}

static void test_what_comes_clears_it(void **state)
{
    (void)state;
    look();
    mq_watch_delivered(&watch, &queues[2], EPOCH); /* before: says nothing */
    for (int i = 1; i < MQ_WATCH_STRIKES; i++) {
        assert_string_equal(look(), "c");
        waiting(1);
    }
    mq_watch_delivered(&watch, &queues[2], EPOCH);
    mq_watch_settled(&watch, EPOCH);
    assert_string_equal(look(), "c");
    waiting(1);
    assert_int_equal(queues[2].strikes, 0);
    assert_string_equal(look(), "a");
    waiting(1);
    assert_string_equal(look(), "a");
    waiting(0); /* another consumer had it */
    assert_int_equal(queues[0].strikes, 0);
    assert_int_equal(renewed, 0);
}

/* Nothing may come to who has taken all that the prefetch allows. */
static void test_without_credit_nothing_is_expected(void **state)
{
    (void)state;
    look();
    mq_watch_delivered(&watch, &queues[0], EPOCH);
    mq_watch_delivered(&watch, &queues[0], EPOCH);
    assert_string_equal(look(), "");
    mq_watch_settled(&watch, EPOCH - 1); /* of an earlier connection */
    assert_string_equal(look(), "");
    mq_watch_settled(&watch, EPOCH);
    look();
    assert_string_equal(look(), "c");
    waiting(3);
    mq_watch_delivered(&watch, &queues[0], EPOCH);
    assert_string_equal(look(), "");
    assert_int_equal(queues[2].strikes, 1);
}

static void test_a_lost_connection(void **state)
{
    struct err e = {0};

    (void)state;
    look();
    look();
    waiting(3);
    look();
    answer(answer_arg, ERR_MQ_DOWN, &e, 0);
    mq_watch_up(&watch, now);
    assert_int_equal(queues[2].strikes, 0);
    assert_string_equal(look(), "a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_each_queue_has_its_turn, setup),
        cmocka_unit_test_setup(test_a_forgotten_consumer, setup),
        cmocka_unit_test_setup(test_what_comes_clears_it, setup),
        cmocka_unit_test_setup(test_without_credit_nothing_is_expected, setup),
        cmocka_unit_test_setup(test_a_lost_connection, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
