/* Connections to a real RabbitMQ that note what they are told, and rabbitmqctl.
 *
 * The address is in SJE_TEST_AMQP_*; SJE_SERVICES names the directory of tools/services.sh. */
#ifndef SJE_TESTS_MQ_CLIENT_H
#define SJE_TESTS_MQ_CLIENT_H

#include "internal/id.h"
#include "internal/mq.h"

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

static inline void counted(int *n)
{
    (*n)++;
    uv_stop(&loop);
}

static inline void on_up(void *arg)
{
    counted(&((struct client *)arg)->ups);
}

static inline void on_down(void *arg, const struct err *why)
{
    struct client *c = arg;

    c->why = *why;
    counted(&c->downs);
}

static inline void on_blocked(void *arg, bool blocked)
{
    struct client *c = arg;

    counted(blocked ? &c->blocks : &c->unblocks);
}

static inline void on_confirm(void *arg, int rc)
{
    struct client *c = arg;

    counted(rc == 0               ? &c->confirmed
            : rc == ERR_NOT_FOUND ? &c->returned
            : rc == ERR_MQ_DOWN   ? &c->lost
                                  : &c->nacked);
}

static inline void on_done(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct client *c = arg;

    assert_int_equal(rc != 0, why != NULL);
    c->done_rc = rc;
    c->done_count = count;
    counted(&c->done);
}

static inline void copy_text(char *to, size_t size, struct str from)
{
    snprintf(to, size, "%.*s", (int)MIN(from.len, size - 1), from.p);
}

static inline void on_deliver(void *arg, const struct mq_delivery *d)
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

static inline void on_cancelled(void *arg)
{
    counted(&((struct client *)arg)->cancelled);
}

static inline void on_closed(void *arg)
{
    (void)arg;
    counted(&closes);
}

static inline void on_guard(uv_timer_t *t)
{
    (void)t;
    fail_msg("nothing happens any more");
}

static inline void on_timer_closed(uv_handle_t *h)
{
    (void)h;
    uv_stop(&loop);
}

static inline void until(const int *counter, int want)
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

static inline void on_elapsed(uv_timer_t *t)
{
    counted(t->data);
}

static inline void for_ms(uint64_t ms)
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

static inline struct mq_options options(struct client *c)
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

static inline void connect_client(struct client *c)
{
    struct mq_options o = options(c);

    c->mq = mq_open(&loop, &o);
    until(&c->ups, c->ups + 1);
}

static inline void close_client(struct client *c)
{
    if (c->mq) {
        mq_close(STEAL(c->mq), on_closed, NULL);
        until(&closes, closes + 1);
    }
}

static inline void declare(struct client *c, const char *name, int flags)
{
    assert_int_equal(mq_declare_queue(c->mq, name, flags, on_done, c), 0);
    until(&c->done, c->done + 1);
}

static inline void delete_queue(struct client *c, const char *name)
{
    assert_int_equal(mq_delete_queue(c->mq, name, on_done, c), 0);
    until(&c->done, c->done + 1);
    assert_int_equal(c->done_rc, 0);
}

static inline int send_to(struct client *c, const char *name, const char *body)
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

static inline void send_some(int n)
{
    int want = a.confirmed + n;
    char body[16];

    for (int i = 0; i < n; i++) {
        snprintf(body, sizeof(body), "%d", i);
        assert_int_equal(send_to(&a, queue, body), 0);
    }
    until(&a.confirmed, want);
}

static inline void consume(struct client *c, const char *name)
{
    c->in_order = true;
    assert_int_equal(mq_consume(c->mq, name, "consumer", false, on_deliver, on_cancelled, NULL, c),
                     0);
}

/* How many messages are ready in the queue; a quorum queue counts a little late. */
static inline void expect_ready(const char *name, uint32_t want)
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

static inline int setup(void **state)
{
    (void)state;
    a = b = (struct client){0};
    closes = 0;
    snprintf(queue, sizeof(queue), "test.%016llx", (unsigned long long)random_u64());
    snprintf(other, sizeof(other), "test.%016llx", (unsigned long long)random_u64());
    return uv_loop_init(&loop);
}

static inline int teardown(void **state)
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

static inline void on_ctl_exit(uv_process_t *p, int64_t status, int sig)
{
    ctl_status = sig ? -sig : status;
    uv_close((uv_handle_t *)p, on_timer_closed);
    counted(&ctl_exits);
}

/* Starts it; ctl_exits grows when it has ended. */
static inline void ctl_start(uv_process_t *p, const char *command, const char *x, const char *y)
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

static inline void ctl(const char *command, const char *x, const char *y)
{
    uv_process_t p;

    ctl_start(&p, command, x, y);
    until(&ctl_exits, 1);
    assert_int_equal(ctl_status, 0);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
}

static inline void set_alarm(bool on)
{
    ctl("set_vm_memory_high_watermark", "absolute", on ? "1" : "1GB");
}

static inline bool no_services(void)
{
    return getenv("SJE_SERVICES") == NULL;
}

#endif
