/* What a broker may send, from the first byte on: mq_link with a published message, a declared
 * queue and a consumer, so that every method can be an answer to something.
 *
 * The first byte chooses how far the handshake has come before the fuzzer speaks and in pieces of
 * which size it is heard. */
#include "internal/mq_link.h"

#include <stdlib.h>

#include "tests/fuzz/fuzz.h"
#include "tests/unit/mq_frames.h"

static struct mq_link link_;
static struct buf input;
static uint64_t told;

static void on_up(void *arg)
{
    (void)arg;
    told++;
}

static void on_blocked(void *arg, bool blocked)
{
    (void)arg;
    told += blocked;
}

static void on_deliver(void *arg, const struct mq_delivery *d)
{
    struct str all[] = {d->consumer, d->routing_key, d->message_id, d->reply_to, d->body};

    (void)arg;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        for (size_t k = 0; k < all[i].len; k++) {
            told += (uint8_t)all[i].p[k]; /* every byte must be readable */
        }
    }
    mq_put_ack(&link_.out, d->tag, false);
}

static void on_cancelled(void *arg)
{
    (void)arg;
    told += (uint64_t)mq_channel_consume(&link_.channel, "q", "c", true, on_deliver, on_cancelled,
                                         NULL, NULL);
}

static void on_confirm(void *arg, int rc)
{
    (void)arg;
    told += (uint64_t)rc;
}

static void on_done(void *arg, int rc, const struct err *why, uint32_t count)
{
    (void)arg;
    MUST((rc != 0) == (why != NULL));
    told += count;
}

static int hear(const char *p, size_t len, size_t chunk)
{
    struct err why = {0};
    int rc = 0;

    for (size_t at = 0; at < len && rc == 0; at += chunk) {
        size_t used = 0;

        MUST(buf_add(&input, p + at, MIN(chunk, len - at)) == 0);
        char *exact = xmemdup(input.data, input.len);
        rc = mq_link_input(&link_, (struct str){exact, input.len}, 0, &used, &why);
        free(exact);
        MUST((rc < 0) == (why.text[0] != '\0'));
        buf_shift(&input, used);
    }
    return rc;
}

static void start(int steps)
{
    struct buf b = {.max = 65536};
    struct mq_message m = {
        .exchange = "", .routing_key = "q", .body = STR("{}"), .mandatory = true};

    if (steps > 0) {
        put_start(&b, "3.10.8", "PLAIN");
    }
    if (steps > 1) {
        put_tune(&b, 8192, 60);
        put_open_ok(&b);
    }
    if (steps > 2) {
        put_channel_open_ok(&b);
        put_plain(&b, 1, MQ_CONFIRM_SELECT_OK);
    }
    MUST(hear(b.data ? b.data : "", b.len, b.len ? b.len : 1) == 0);
    buf_free(&b);
    if (steps > 2) {
        struct mq_channel *c = &link_.channel;

        for (int i = 0; i < 4; i++) {
            MUST(mq_channel_publish(c, &m, on_confirm, NULL) == 0);
        }
        MUST(mq_channel_consume(c, "q", "c", false, on_deliver, on_cancelled, NULL, NULL) == 0);
        MUST(mq_channel_expect(c, MQ_QUEUE_DECLARE, MQ_QUEUE_DECLARE_OK, on_done, NULL) == 0);
        MUST(mq_channel_cancel(c, "c", on_done, NULL) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mq_options o = {.username = "u",
                           .password = "p",
                           .vhost = "/",
                           .name = "fuzz",
                           .heartbeat_s = 20,
                           .confirms = true,
                           .on_blocked = on_blocked};
    struct err why = {.code = ERR_MQ_DOWN, .text = "end"};

    if (size == 0) {
        return 0;
    }
    size_t chunk = data[0] & 4 ? 1u + (data[0] >> 3) : size;
    buf_init(&input, 1 << 24);
    mq_link_init(&link_, &o, 1, 1 << 20, on_up, NULL);
    start(data[0] & 3);
    (void)hear((const char *)data + 1, size - 1, chunk);
    mq_link_end(&link_, &why);
    MUST(link_.channel.unconfirmed == 0 && link_.channel.requests.count == 0);
    mq_link_done(&link_);
    buf_free(&input);
    return 0;
}
