/* mq against a real RabbitMQ. Its address is in SJE_TEST_AMQP_*; SJE_SERVICES names the directory
 * of tools/services.sh, without which the tests that torment the broker are skipped. */
#include "internal/mq.h"

#include "internal/id.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define GUARD_MS 60000

/* One connection and what it has told so far. */
struct client {
    struct mq *mq;
    int ups, downs, blocks, unblocks;
    struct err why; /* of the last on_down */
    int confirmed, returned, nacked, lost;
    int done;
    int done_rc;
    uint32_t done_count;
    int deliveries, redelivered, cancelled;
    bool ack;     /* each delivery at once */
    uint64_t tag; /* of the last delivery */
    uint64_t epoch;
    char body[64]; /* of the last delivery, its beginning */
    size_t body_len;
    char id[64];
    char reply_to[64];
    bool in_order; /* bodies are 0, 1, 2, … */
};

static uv_loop_t loop;
static struct client a, b;
static int closes;
static char queue[64]; /* a new name for each test */
static char other[64];

static void counted(int *n)
{
    (*n)++;
    uv_stop(&loop);
}

static void on_up(void *arg)
{
    counted(&((struct client *)arg)->ups);
}

static void on_down(void *arg, const struct err *why)
{
    struct client *c = arg;

    c->why = *why;
    counted(&c->downs);
}

static void on_blocked(void *arg, bool blocked)
{
    struct client *c = arg;

    counted(blocked ? &c->blocks : &c->unblocks);
}

static void on_confirm(void *arg, int rc)
{
    struct client *c = arg;

    counted(rc == 0               ? &c->confirmed
            : rc == ERR_NOT_FOUND ? &c->returned
            : rc == ERR_MQ_DOWN   ? &c->lost
                                  : &c->nacked);
}

static void on_done(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct client *c = arg;

    assert_int_equal(rc != 0, why != NULL);
    c->done_rc = rc;
    c->done_count = count;
    counted(&c->done);
}

static void copy_text(char *to, size_t size, struct str from)
{
    snprintf(to, size, "%.*s", (int)MIN(from.len, size - 1), from.p);
}

static void on_deliver(void *arg, const struct mq_delivery *d)
{
    struct client *c = arg;
    char want[16];

    copy_text(c->body, sizeof(c->body), d->body);
    copy_text(c->id, sizeof(c->id), d->message_id);
    copy_text(c->reply_to, sizeof(c->reply_to), d->reply_to);
    c->body_len = d->body.len;
    c->tag = d->tag;
    c->epoch = d->epoch;
    c->redelivered += d->redelivered;
    snprintf(want, sizeof(want), "%d", c->deliveries);
    c->in_order = c->in_order && streq(want, c->body);
    if (c->ack) {
        mq_ack(c->mq, d->epoch, d->tag, false);
    }
    counted(&c->deliveries);
}

static void on_cancelled(void *arg)
{
    counted(&((struct client *)arg)->cancelled);
}

static void on_closed(void *arg)
{
    (void)arg;
    counted(&closes);
}

static void on_guard(uv_timer_t *t)
{
    (void)t;
    fail_msg("nothing happens any more");
}

static void on_timer_closed(uv_handle_t *h)
{
    (void)h;
    uv_stop(&loop);
}

static void until(const int *counter, int want)
{
    uv_timer_t guard;

    assert_int_equal(uv_timer_init(&loop, &guard), 0);
    assert_int_equal(uv_timer_start(&guard, on_guard, GUARD_MS, 0), 0);
    while (*counter < want) {
        (void)uv_run(&loop, UV_RUN_DEFAULT);
    }
    uv_close((uv_handle_t *)&guard, on_timer_closed);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
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
    uv_close((uv_handle_t *)&t, on_timer_closed);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
}

static const char *env(const char *name)
{
    const char *value = getenv(name);

    if (!value) {
        fail_msg("%s is not set", name);
    }
    return value;
}

static struct mq_options options(struct client *c)
{
    int64_t port = 0;

    assert_true(str_to_i64(str_of(env("SJE_TEST_AMQP_PORT")), 1, 65535, &port));
    return (struct mq_options){.hosts = env("SJE_TEST_AMQP_HOST"),
                               .port = (int)port,
                               .username = env("SJE_TEST_AMQP_USER"),
                               .password = env("SJE_TEST_AMQP_PASSWORD"),
                               .vhost = env("SJE_TEST_AMQP_VHOST"),
                               .name = c == &a ? "test a" : "test b",
                               .confirms = c == &a,
                               .prefetch = 100,
                               .arg = c,
                               .on_up = on_up,
                               .on_down = on_down,
                               .on_blocked = on_blocked};
}

static void connect_client(struct client *c)
{
    struct mq_options o = options(c);

    c->mq = mq_open(&loop, &o);
    until(&c->ups, c->ups + 1);
}

static void close_client(struct client *c)
{
    if (c->mq) {
        mq_close(STEAL(c->mq), on_closed, NULL);
        until(&closes, closes + 1);
    }
}

static void declare(struct client *c, const char *name, int flags)
{
    assert_int_equal(mq_declare_queue(c->mq, name, flags, on_done, c), 0);
    until(&c->done, c->done + 1);
}

static void delete_queue(struct client *c, const char *name)
{
    assert_int_equal(mq_delete_queue(c->mq, name, on_done, c), 0);
    until(&c->done, c->done + 1);
    assert_int_equal(c->done_rc, 0);
}

static int send_to(struct client *c, const char *name, const char *body)
{
    struct mq_message m = {.exchange = "",
                           .routing_key = name,
                           .body = str_of(body),
                           .message_id = "id 1",
                           .reply_to = "answers",
                           .persistent = true,
                           .mandatory = true};

    return mq_publish(c->mq, &m, on_confirm, c);
}

static void send_some(int n)
{
    int want = a.confirmed + n;
    char body[16];

    for (int i = 0; i < n; i++) {
        snprintf(body, sizeof(body), "%d", i);
        assert_int_equal(send_to(&a, queue, body), 0);
    }
    until(&a.confirmed, want);
}

static void consume(struct client *c, const char *name)
{
    c->in_order = true;
    assert_int_equal(mq_consume(c->mq, name, "consumer", false, on_deliver, on_cancelled, c), 0);
}

/* How many messages are ready in the queue; a quorum queue counts a little late. */
static void expect_ready(const char *name, uint32_t want)
{
    for (int i = 0; i < 50; i++) {
        declare(&a, name, MQ_PASSIVE);
        assert_int_equal(a.done_rc, 0);
        if (a.done_count == want) {
            return;
        }
        for_ms(20);
    }
    assert_int_equal(a.done_count, want);
}

static int setup(void **state)
{
    (void)state;
    a = b = (struct client){0};
    closes = 0;
    snprintf(queue, sizeof(queue), "test.%016llx", (unsigned long long)random_u64());
    snprintf(other, sizeof(other), "test.%016llx", (unsigned long long)random_u64());
    return uv_loop_init(&loop);
}

static int teardown(void **state)
{
    (void)state;
    close_client(&a);
    close_client(&b);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

/* ---- rabbitmqctl ---- */

static int ctl_exits;
static int64_t ctl_status;

static void on_ctl_exit(uv_process_t *p, int64_t status, int sig)
{
    ctl_status = sig ? -sig : status;
    uv_close((uv_handle_t *)p, on_timer_closed);
    counted(&ctl_exits);
}

/* Starts it; ctl_exits grows when it has ended. */
static void ctl_start(uv_process_t *p, const char *command, const char *x, const char *y)
{
    char *args[] = {(char *)(uintptr_t) "tools/services.sh",
                    (char *)(uintptr_t) "ctl",
                    (char *)(uintptr_t)env("SJE_SERVICES"),
                    (char *)(uintptr_t) "-q",
                    (char *)(uintptr_t)command,
                    (char *)(uintptr_t)x,
                    (char *)(uintptr_t)y,
                    NULL};
    uv_process_options_t o = {.exit_cb = on_ctl_exit, .file = args[0], .args = args};

    ctl_exits = 0;
    assert_int_equal(uv_spawn(&loop, p, &o), 0);
}

static void ctl(const char *command, const char *x, const char *y)
{
    uv_process_t p;

    ctl_start(&p, command, x, y);
    until(&ctl_exits, 1);
    assert_int_equal(ctl_status, 0);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
}

static void set_alarm(bool on)
{
    ctl("set_vm_memory_high_watermark", "absolute", on ? "1" : "1GB");
}

static bool no_services(void)
{
    return getenv("SJE_SERVICES") == NULL;
}

/* ---- the tests ---- */

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
        assert_int_equal(mq_consume(c->mq, name, "beats", true, on_deliver, NULL, c), 0);
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
    while (send_to(&a, queue, "x") == 0 && sent < 20000) {
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
        TEST(declares_binds_and_deletes),
        TEST(another_kind_of_queue_is_a_conflict),
        TEST(an_exclusive_queue_belongs_to_its_connection),
        TEST(quorum_publish_confirm_consume_ack),
        TEST(classic_publish_confirm_consume_ack),
        TEST(unroutable_messages_are_told_apart),
        TEST(an_exchange_that_does_not_exist_is_told),
        TEST(nacked_messages_come_again_or_go),
        TEST(prefetch_bounds_what_is_in_flight),
        TEST(a_cancelled_consumer_gets_no_more),
        TEST(a_deleted_queue_cancels_its_consumer),
        TEST(a_fanout_reaches_everyone),
        TEST(large_messages_arrive_whole),
        TEST(refused_logins_are_one_clear_sentence),
        TEST(closes_after_any_number_of_turns),
        TEST(an_alarm_blocks_nothing_but_publishing),
        TEST(closing_while_blocked_does_not_wait),
        TEST(killed_connections_come_back),
        TEST(a_restarted_broker_is_found_again),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, heal);
}
