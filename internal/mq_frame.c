#include "internal/mq_frame.h"

#include <endian.h>

#define FRAME_END           0xceu
#define CLASS_BASIC         60u
#define FLAG_CORRELATION_ID (1u << 10)
#define FLAG_REPLY_TO       (1u << 9)
#define FLAG_MESSAGE_ID     (1u << 7)

static uint16_t get16(const char *p)
{
    uint16_t v = 0;

    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

static uint32_t get32(const char *p)
{
    uint32_t v = 0;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static uint64_t get64(const char *p)
{
    uint64_t v = 0;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

int mq_frame_read(struct str in, size_t frame_max, struct mq_frame *ret, struct err *reterr)
{
    if (in.len == 0) {
        return 0;
    }
    uint8_t type = (uint8_t)in.p[0];
    if (type != MQ_FRAME_METHOD && type != MQ_FRAME_HEADER && type != MQ_FRAME_BODY &&
        type != MQ_FRAME_HEARTBEAT) {
        return err_set(reterr, ERR_PROTOCOL, "byte %u is no AMQP frame type", type);
    }
    if (in.len < 7) {
        return 0;
    }
    uint16_t channel = get16(in.p + 1);
    uint32_t size = get32(in.p + 3);
    if (size > frame_max - MQ_FRAME_OVERHEAD) {
        return err_set(reterr, ERR_PROTOCOL, "a frame of %u bytes is over the agreed limit of %zu",
                       size, frame_max);
    }
    if (channel > MQ_CHANNEL || (type == MQ_FRAME_HEARTBEAT && (channel != 0 || size != 0))) {
        return err_set(reterr, ERR_PROTOCOL, "a frame of type %u on channel %u", type, channel);
    }
    if (in.len < size + MQ_FRAME_OVERHEAD) {
        return 0;
    }
    if ((uint8_t)in.p[7 + size] != FRAME_END) {
        return err_set(reterr, ERR_PROTOCOL, "a frame without its end mark");
    }
    *ret = (struct mq_frame){
        .type = (enum mq_frame_type)type, .channel = channel, .payload = {in.p + 7, size}};
    return (int)(size + MQ_FRAME_OVERHEAD);
}

void mq_frame_seal(char *p, enum mq_frame_type type, uint16_t channel, size_t size)
{
    uint16_t c = htobe16(channel);
    uint32_t n = htobe32((uint32_t)size);

    p[0] = (char)type;
    memcpy(p + 1, &c, sizeof(c));
    memcpy(p + 3, &n, sizeof(n));
    p[7 + size] = (char)FRAME_END;
}

/* One letter per property in the order of the flags, from bit 15 down: short string, table, octet,
 * long long. */
static const char property_kinds[] = "sstoosssslssss";

/* Length of one property at p, or 0 where it does not fit. */
static size_t property_len(char kind, const char *p, size_t room)
{
    size_t len = 1;

    if (kind == 's') {
        len = room >= 1 ? 1 + (size_t)(uint8_t)p[0] : 1;
    } else if (kind == 't') {
        len = room >= 4 ? 4 + (size_t)get32(p) : 4;
    } else if (kind == 'l') {
        len = 8;
    }
    return len <= room ? len : 0;
}

int mq_header_read(struct str payload, struct mq_header *ret, struct err *reterr)
{
    if (payload.len < 14 || get16(payload.p) != CLASS_BASIC) {
        return err_set(reterr, ERR_PROTOCOL, "a malformed content header");
    }
    struct mq_header h = {.body_size = get64(payload.p + 4),
                          .correlation_id = STR(""),
                          .reply_to = STR(""),
                          .message_id = STR("")};
    uint32_t flags = get16(payload.p + 12);
    size_t at = 14;

    for (size_t i = 0; i < sizeof(property_kinds) - 1; i++) {
        uint32_t flag = 1u << (15 - i);

        if (!(flags & flag)) {
            continue;
        }
        size_t len = property_len(property_kinds[i], payload.p + at, payload.len - at);
        if (len == 0) {
            return err_set(reterr, ERR_PROTOCOL, "a content header that ends too early");
        }
        struct str text = {payload.p + at + 1, len - 1};
        if (flag == FLAG_CORRELATION_ID) {
            h.correlation_id = text;
        } else if (flag == FLAG_REPLY_TO) {
            h.reply_to = text;
        } else if (flag == FLAG_MESSAGE_ID) {
            h.message_id = text;
        }
        at += len;
    }
    if (flags & 3u) {
        return err_set(reterr, ERR_PROTOCOL, "a content header with unknown properties");
    }
    *ret = h;
    return 0;
}

void mq_clean_text(char *to, size_t size, struct str from)
{
    size_t n = MIN(from.len, size - 1);

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)from.p[i];
        to[i] = (char)(c < ' ' ? ' ' : c >= 0x7f ? '?' : c);
    }
    to[n] = '\0';
}
