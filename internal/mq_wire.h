/* mq_wire.h: AMQP 0-9-1 methods as bytes. Pure: no sockets, no state of a connection.
 *
 * mq_wire.c is the only file that includes amqp.h: methods are coded by librabbitmq's public codec
 * (amqp_encode_method, amqp_decode_method, amqp_encode_properties). Everything read is a slice of
 * the input and lives as long as that and until the next call with the same decoder.
 *
 * Source: AMQP 0-9-1 specification; RabbitMQ's errata for field tables.
 */
#ifndef SJE_MQ_WIRE_H
#define SJE_MQ_WIRE_H

#include "internal/mq_frame.h"

/* Class and method number of those that we send as a request or accept from a broker. */
enum mq_method_id {
    MQ_CONNECTION_START = 0x000A000A,
    MQ_CONNECTION_TUNE = 0x000A001E,
    MQ_CONNECTION_OPEN_OK = 0x000A0029,
    MQ_CONNECTION_CLOSE = 0x000A0032,
    MQ_CONNECTION_CLOSE_OK = 0x000A0033,
    MQ_CONNECTION_BLOCKED = 0x000A003C,
    MQ_CONNECTION_UNBLOCKED = 0x000A003D,
    MQ_CHANNEL_OPEN = 0x0014000A,
    MQ_CHANNEL_OPEN_OK = 0x0014000B,
    MQ_CHANNEL_CLOSE = 0x00140028,
    MQ_EXCHANGE_DECLARE = 0x0028000A,
    MQ_EXCHANGE_DECLARE_OK = 0x0028000B,
    MQ_QUEUE_DECLARE = 0x0032000A,
    MQ_QUEUE_DECLARE_OK = 0x0032000B,
    MQ_QUEUE_BIND = 0x00320014,
    MQ_QUEUE_BIND_OK = 0x00320015,
    MQ_QUEUE_DELETE = 0x00320028,
    MQ_QUEUE_DELETE_OK = 0x00320029,
    MQ_BASIC_QOS = 0x003C000A,
    MQ_BASIC_QOS_OK = 0x003C000B,
    MQ_BASIC_CONSUME = 0x003C0014,
    MQ_BASIC_CONSUME_OK = 0x003C0015,
    MQ_BASIC_CANCEL = 0x003C001E,
    MQ_BASIC_CANCEL_OK = 0x003C001F,
    MQ_BASIC_RETURN = 0x003C0032,
    MQ_BASIC_DELIVER = 0x003C003C,
    MQ_BASIC_ACK = 0x003C0050,
    MQ_BASIC_NACK = 0x003C0078,
    MQ_CONFIRM_SELECT = 0x0055000A,
    MQ_CONFIRM_SELECT_OK = 0x0055000B,
};

/* What a broker said; only the members of that method are set, the others are zero. */
struct mq_method {
    enum mq_method_id id;
    uint64_t tag;         /* deliver, ack, nack */
    uint32_t count;       /* declare-ok, delete-ok: messages in the queue */
    uint32_t frame_max;   /* tune */
    uint16_t heartbeat;   /* tune: seconds */
    uint16_t code;        /* close: 403, 404, … */
    uint32_t culprit;     /* close: the method of ours that caused it, 0 where none */
    bool multiple;        /* ack, nack */
    bool redelivered;     /* deliver */
    bool nowait;          /* cancel */
    struct str text;      /* close, blocked: why */
    struct str version;   /* start: of the broker, "" where it does not say */
    struct str mechanism; /* start: offered, separated by spaces */
    struct str consumer;  /* deliver, consume-ok, cancel, cancel-ok: consumer tag */
    struct str key;       /* deliver: routing key */
};

/* Scratch memory of the method decoder. */
struct mq_decoder;
struct mq_decoder *mq_decoder_new(void);
void mq_decoder_free(struct mq_decoder *d);

/* 0 or ERR_PROTOCOL, also for a method that a broker has no business to send. */
int mq_method_read(struct mq_decoder *d, struct str payload, struct mq_method *ret,
                   struct err *reterr) NODISCARD;
const char *mq_method_text(uint32_t id); /* for people: "queue.declare" */
/* A close method as an error: "<what>: 404 NOT_FOUND - no queue". Returns the code. */
int mq_refused(const struct mq_method *close, const char *what, struct err *reterr);

/* What we send. Each appends one frame, or nothing and sets out->failed: `out` is full, or a name
 * is longer than MQ_SHORT_MAX. */
void mq_put_protocol_header(struct buf *out);
void mq_put_start_ok(struct buf *out, const char *username, const char *password, const char *name);
void mq_put_tune_ok(struct buf *out, uint32_t frame_max, uint16_t heartbeat);
void mq_put_open(struct buf *out, const char *vhost);
void mq_put_close(struct buf *out);
void mq_put_close_ok(struct buf *out);
void mq_put_heartbeat(struct buf *out);
void mq_put_channel_open(struct buf *out);
void mq_put_channel_close_ok(struct buf *out);
void mq_put_confirm_select(struct buf *out);
void mq_put_qos(struct buf *out, uint16_t prefetch);
void mq_put_exchange_declare(struct buf *out, const char *name, const char *type);
void mq_put_queue_declare(struct buf *out, const char *name, int flags); /* mq_queue_flags */
void mq_put_queue_bind(struct buf *out, const char *queue, const char *exchange, const char *key);
void mq_put_queue_delete(struct buf *out, const char *name);
void mq_put_consume(struct buf *out, const char *queue, const char *tag, bool no_ack);
void mq_put_cancel(struct buf *out, const char *tag);
void mq_put_cancel_ok(struct buf *out, struct str tag);
void mq_put_ack(struct buf *out, uint64_t tag, bool multiple);
void mq_put_nack(struct buf *out, uint64_t tag, bool requeue);

struct mq_message;
/* `correlation_id` may be empty. The body is cut into frames of at most frame_max. */
int mq_put_publish(struct buf *out, const struct mq_message *m, struct str correlation_id,
                   size_t frame_max) NODISCARD;

#endif
