/* What a broker sends, built byte by byte without librabbitmq, so that the codec is checked by
 * something else than itself. */
#ifndef SJE_TESTS_MQ_FRAMES_H
#define SJE_TESTS_MQ_FRAMES_H

#include "internal/mq_wire.h"

static inline void put_int(struct buf *b, uint64_t v, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--) {
        MUST(buf_addc(b, (char)(v >> (8 * i))) == 0);
    }
}

static inline void put_short(struct buf *b, const char *s)
{
    put_int(b, strlen(s), 1);
    MUST(buf_adds(b, s) == 0);
}

static inline void put_long(struct buf *b, const char *s, size_t len)
{
    put_int(b, len, 4);
    MUST(buf_add(b, s, len) == 0);
}

static inline void put_frame(struct buf *out, int type, int channel, const struct buf *payload)
{
    put_int(out, (uint64_t)type, 1);
    put_int(out, (uint64_t)channel, 2);
    put_int(out, payload->len, 4);
    MUST(buf_add(out, payload->data, payload->len) == 0);
    put_int(out, 0xce, 1);
}

/* A method frame whose arguments are the `len` bytes at `args`. */
static inline void put_raw(struct buf *out, int channel, uint32_t id, const void *args, size_t len)
{
    CLEANUP(buf_free) struct buf p = {.max = 1 << 20};

    put_int(&p, id, 4);
    MUST(buf_add(&p, args, len) == 0);
    put_frame(out, MQ_FRAME_METHOD, channel, &p);
}

static inline void put_plain(struct buf *out, int channel, uint32_t id)
{
    put_raw(out, channel, id, "", 0);
}

static inline void put_args(struct buf *out, int channel, uint32_t id, const struct buf *args)
{
    put_raw(out, channel, id, args->data, args->len);
}

static inline void put_start(struct buf *out, const char *version, const char *mechanisms)
{
    CLEANUP(buf_free) struct buf inner = {.max = 4096};
    CLEANUP(buf_free) struct buf table = {.max = 4096};
    CLEANUP(buf_free) struct buf a = {.max = 8192};

    put_short(&inner, "basic.nack");
    MUST(buf_adds(&inner, "t\1") == 0);
    put_short(&table, "capabilities");
    MUST(buf_adds(&table, "F") == 0);
    put_long(&table, inner.data, inner.len);
    put_short(&table, "version");
    MUST(buf_adds(&table, "S") == 0);
    put_long(&table, version, strlen(version));
    MUST(buf_add(&a, "\0\x09", 2) == 0);
    put_long(&a, table.data, table.len);
    put_long(&a, mechanisms, strlen(mechanisms));
    put_long(&a, "en_US", 5);
    put_args(out, 0, MQ_CONNECTION_START, &a);
}

static inline void put_tune(struct buf *out, uint32_t frame_max, uint16_t heartbeat)
{
    CLEANUP(buf_free) struct buf a = {.max = 64};

    put_int(&a, 2047, 2);
    put_int(&a, frame_max, 4);
    put_int(&a, heartbeat, 2);
    put_args(out, 0, MQ_CONNECTION_TUNE, &a);
}

static inline void put_open_ok(struct buf *out)
{
    put_raw(out, 0, MQ_CONNECTION_OPEN_OK, "\0", 1);
}

static inline void put_channel_open_ok(struct buf *out)
{
    put_raw(out, 1, MQ_CHANNEL_OPEN_OK, "\0\0\0\0", 4);
}

/* connection.close (channel 0) or channel.close */
static inline void put_closing(struct buf *out, int channel, int code, const char *text,
                               uint32_t culprit)
{
    CLEANUP(buf_free) struct buf a = {.max = 512};

    put_int(&a, (uint64_t)code, 2);
    put_short(&a, text);
    put_int(&a, culprit, 4);
    put_args(out, channel, channel ? MQ_CHANNEL_CLOSE : MQ_CONNECTION_CLOSE, &a);
}

static inline void put_blocked(struct buf *out, const char *reason)
{
    CLEANUP(buf_free) struct buf a = {.max = 512};

    put_short(&a, reason);
    put_args(out, 0, MQ_CONNECTION_BLOCKED, &a);
}

static inline void put_declare_ok(struct buf *out, const char *queue, uint32_t messages)
{
    CLEANUP(buf_free) struct buf a = {.max = 512};

    put_short(&a, queue);
    put_int(&a, messages, 4);
    put_int(&a, 0, 4);
    put_args(out, 1, MQ_QUEUE_DECLARE_OK, &a);
}

/* consume-ok, cancel-ok and basic.cancel (with nowait) */
static inline void put_tagged(struct buf *out, uint32_t id, const char *tag)
{
    CLEANUP(buf_free) struct buf a = {.max = 512};

    put_short(&a, tag);
    if (id == MQ_BASIC_CANCEL) {
        put_int(&a, 1, 1);
    }
    put_args(out, 1, id, &a);
}

static inline void put_confirm(struct buf *out, uint32_t id, uint64_t tag, bool multiple)
{
    CLEANUP(buf_free) struct buf a = {.max = 64};

    put_int(&a, tag, 8);
    put_int(&a, multiple, 1);
    put_args(out, 1, id, &a);
}

static inline void put_deliver(struct buf *out, const char *consumer, uint64_t tag, const char *key)
{
    CLEANUP(buf_free) struct buf a = {.max = 1024};

    put_short(&a, consumer);
    put_int(&a, tag, 8);
    put_int(&a, 1, 1);
    put_short(&a, "");
    put_short(&a, key);
    put_args(out, 1, MQ_BASIC_DELIVER, &a);
}

static inline void put_return(struct buf *out)
{
    CLEANUP(buf_free) struct buf a = {.max = 512};

    put_int(&a, 312, 2);
    put_short(&a, "NO_ROUTE");
    put_short(&a, "");
    put_short(&a, "nowhere");
    put_args(out, 1, MQ_BASIC_RETURN, &a);
}

/* A header with a header table (a nested one), delivery mode and those of the others that are not
 * NULL. */
static inline void put_header(struct buf *out, uint64_t size, const char *correlation,
                              const char *reply_to, const char *message_id)
{
    CLEANUP(buf_free) struct buf p = {.max = 4096};

    put_int(&p, 60, 2);
    put_int(&p, 0, 2);
    put_int(&p, size, 8);
    put_int(&p,
            1u << 15 | 1u << 13 | 1u << 12 | (correlation ? 1u << 10 : 0) |
                (reply_to ? 1u << 9 : 0) | (message_id ? 1u << 7 : 0) | 1u << 6,
            2);
    put_short(&p, "application/json");
    put_long(&p, "\1xF\0\0\0\0", 7);
    put_int(&p, 2, 1);
    if (correlation) {
        put_short(&p, correlation);
    }
    if (reply_to) {
        put_short(&p, reply_to);
    }
    if (message_id) {
        put_short(&p, message_id);
    }
    put_int(&p, 1700000000, 8);
    put_frame(out, MQ_FRAME_HEADER, 1, &p);
}

static inline void put_body(struct buf *out, const char *body, size_t len)
{
    struct buf p = {.data = (char *)(uintptr_t)body, .len = len};

    put_frame(out, MQ_FRAME_BODY, 1, &p);
}

static inline void put_heartbeat(struct buf *out)
{
    MUST(buf_add(out, "\x08\0\0\0\0\0\0\xce", 8) == 0);
}

#endif
