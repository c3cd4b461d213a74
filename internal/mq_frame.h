/* mq_frame.h: AMQP 0-9-1 frames and content headers as bytes.
 *
 * Frames are cut here rather than by librabbitmq's amqp_handle_input(), which in 0.11 reads behind
 * a method frame shorter than four bytes and makes a memory pool for every channel number that the
 * peer invents. Content headers are read here because their header table, which any client of the
 * broker may nest as deep as it likes, is of no use to us.
 *
 * Everything read is a slice of the input.
 * Source: AMQP 0-9-1 specification, sections 2.3 and 4.2.
 */
#ifndef SJE_MQ_FRAME_H
#define SJE_MQ_FRAME_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/str.h"

#define MQ_FRAME_MAX       131072u /* what we ask for */
#define MQ_FRAME_MAX_EARLY 8192u   /* until the broker's limit is agreed on */
#define MQ_FRAME_MIN       4096u   /* less is not AMQP */
#define MQ_FRAME_OVERHEAD  8u      /* 7 bytes in front of the payload, 1 behind */
#define MQ_SHORT_MAX       255u    /* names, keys, tags, properties */
#define MQ_CHANNEL         1u      /* the only one we open */

enum mq_frame_type {
    MQ_FRAME_METHOD = 1,
    MQ_FRAME_HEADER = 2,
    MQ_FRAME_BODY = 3,
    MQ_FRAME_HEARTBEAT = 8,
};

struct mq_frame {
    enum mq_frame_type type;
    uint16_t channel; /* 0 or MQ_CHANNEL */
    struct str payload;
};

/* What of a message's header we use; absent properties are empty. */
struct mq_header {
    uint64_t body_size;
    struct str correlation_id;
    struct str reply_to;
    struct str message_id;
};

/* The frame at the head of `in`: how many bytes it takes; 0 where it is not complete; ERR_PROTOCOL.
 */
int mq_frame_read(struct str in, size_t frame_max, struct mq_frame *ret,
                  struct err *reterr) NODISCARD;
int mq_header_read(struct str payload, struct mq_header *ret, struct err *reterr) NODISCARD;
/* Completes the frame at p, whose payload of `size` bytes is in place behind the first seven. */
void mq_frame_seal(char *p, enum mq_frame_type type, uint16_t channel, size_t size);

/* Text of a peer, cut to fit, only printable ASCII. */
void mq_clean_text(char *to, size_t size, struct str from);

#endif
