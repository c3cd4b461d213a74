/* mq_channel.h: what happens on the one channel of a connection: requests and their answers in
 * order, confirms, returned messages, consumers, deliveries put together from their frames. No I/O:
 * bytes to be sent are appended to `out`, which belongs to the link.
 *
 * User callbacks are called from mq_channel_method/header/body and from mq_channel_end(); they may
 * call anything here, and mq_channel_end(), after which nothing more is told.
 */
#ifndef SJE_MQ_CHANNEL_H
#define SJE_MQ_CHANNEL_H

#include "internal/list.h"
#include "internal/mq.h"
#include "internal/mq_wire.h"

#define MQ_UNCONFIRMED_MAX (1u << 18) /* messages without answer, then ERR_BUSY */
#define MQ_REQUESTS_MAX    4096u      /* requests without answer, then ERR_BUSY */

struct mq_confirm;
struct mq_consumer;

enum mq_content {
    MQ_CONTENT_NONE,
    MQ_CONTENT_HEADER, /* the method is there, the header must follow */
    MQ_CONTENT_BODY,
};

/* The message that is coming in. */
struct mq_incoming {
    enum mq_content state;
    bool returned;                /* basic.return, else basic.deliver */
    bool skip;                    /* the body is not kept */
    struct mq_consumer *consumer; /* of a delivery */
    struct mq_delivery delivery;  /* its slices point into `text` */
    uint64_t publish_seq;         /* of a returned message; 0 where unknown */
    uint64_t missing;             /* bytes of the body still to come */
    struct buf text;
    struct buf body;
};

struct mq_channel {
    struct buf *out;
    struct mq_decoder *decoder;
    size_t frame_max;
    uint64_t epoch;
    bool confirms;
    struct list requests;
    uint64_t answered;       /* requests that have had their answer */
    struct mq_confirm *ring; /* confirms first_seq … next_seq-1, at seq % ring_cap */
    size_t ring_cap;         /* a power of two or 0 */
    uint64_t first_seq;
    uint64_t next_seq;
    size_t unconfirmed;
    bool refused;     /* a message was; for the owner, who resets it */
    uint64_t dropped; /* deliveries over MQ_BODY_MAX, rejected */
    struct mq_consumer *consumers;
    struct mq_incoming in;
};

void mq_channel_init(struct mq_channel *c, struct buf *out, uint64_t epoch, bool confirms);
void mq_channel_done(struct mq_channel *c); /* not from a callback */
/* Tells everyone who waits ERR_MQ_DOWN, in order. */
void mq_channel_end(struct mq_channel *c, const struct err *why);

/* Frames of the channel in the order in which they came. ERR_PROTOCOL, or what channel.close says.
 */
int mq_channel_method(struct mq_channel *c, const struct mq_method *m,
                      struct err *reterr) NODISCARD;
int mq_channel_header(struct mq_channel *c, struct str payload, struct err *reterr) NODISCARD;
int mq_channel_body(struct mq_channel *c, struct str payload, struct err *reterr) NODISCARD;

/* Notes that `request` has been put and `answer` must follow. */
int mq_channel_expect(struct mq_channel *c, enum mq_method_id request, enum mq_method_id answer,
                      mq_done_fn *cb, void *arg) NODISCARD;
/* The oldest request without answer, in words; NULL where none. */
const char *mq_channel_waits_for(struct mq_channel *c);

int mq_channel_publish(struct mq_channel *c, const struct mq_message *m, mq_confirm_fn *cb,
                       void *arg) NODISCARD;
int mq_channel_consume(struct mq_channel *c, const char *queue, const char *tag, bool no_ack,
                       mq_deliver_fn *on_deliver, mq_cancelled_fn *on_cancelled, mq_done_fn *on_ok,
                       void *arg) NODISCARD;
int mq_channel_cancel(struct mq_channel *c, const char *tag, mq_done_fn *cb, void *arg) NODISCARD;

#endif
