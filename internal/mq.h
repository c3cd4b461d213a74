/* mq.h: one AMQP 0-9-1 connection with one channel, on the loop, never blocking.
 *
 * librabbitmq is used as a codec only (mq_wire.c, the only file that includes amqp.h): the socket
 * is ours, so no call can block under a broker alarm (librabbitmq 0.11 amqp_basic_publish does,
 * without limit). The parts: mq_frame and mq_wire (bytes), mq_channel and mq_link (the protocol, no
 * I/O), mq_conn (the socket), mq_hosts, mq (DNS, timers, reconnection).
 *
 * Life: mq_open() connects and for ever reconnects (all hosts of the list in random order, jittered
 * exponential 0.2 s .. 15 s) until mq_close(). After each (re)connect on_up is called; the owner
 * declares and consumes there, from scratch: nothing survives a connection. Operations on a
 * connection that is down return ERR_MQ_DOWN. A channel or connection error tears everything down
 * and reconnects: never "connected but deaf"; when the broker refused us (403, 406, 530) not before
 * 5 .. 15 s. Heartbeats are ours, both ways; a request without answer for 60 s is a loss. A
 * connection that is refused messages (nacks) is given up too, when it is older than 10 s: another
 * may not be.
 *
 * Threads: the loop thread only. Callbacks may call any function here; mq_close() from inside a
 * callback is allowed. After a loss first the waiting callbacks are called, then on_down. The
 * process must ignore SIGPIPE: libuv writes to sockets without MSG_NOSIGNAL.
 *
 * Errors: ERR_MQ_DOWN; ERR_INVALID (an empty name, more than 255 bytes, flags that exclude each
 * other); ERR_BUSY (too much waits: bytes to be sent, 2^18 messages without confirm, 4,096
 * requests).
 *
 * Source: AMQP 0-9-1 specification; RabbitMQ extensions confirm.select, basic.nack,
 * connection.blocked, consumer_cancel_notify (all advertised by us).
 */
#ifndef SJE_MQ_H
#define SJE_MQ_H

#include "internal/err.h"
#include "internal/str.h"

#include <uv.h>

struct mq;

#define MQ_BODY_MAX (16u << 20) /* of a message; a longer one that arrives is rejected unseen */

struct mq_options {
    const char *hosts; /* "host", "host:port" or a comma list of them */
    int port;          /* for hosts that name none */
    const char *username;
    const char *password;
    const char *vhost;
    const char *name;  /* shown by the broker as connection_name, and in our log */
    int heartbeat_s;   /* 20 */
    size_t max_queued; /* bytes waiting to be sent before mq_publish answers ERR_BUSY; 0: 64 MiB */
    bool confirms;     /* put the channel into confirm mode */
    uint16_t prefetch; /* see mq_set_prefetch(), set before on_up; 0: no limit */

    void *arg; /* first argument of the callbacks */
    void (*on_up)(void *arg);
    /* Once per loss, and once when the first round over all hosts has failed. `why` is one
     * sentence: "broker 10.0.0.1:5672: …". Later failures for another reason are only logged. Its
     * code is ERR_AUTH where the broker refused the user or the virtual host. */
    void (*on_down)(void *arg, const struct err *why);
    /* The broker takes no messages for now (memory or disk alarm). May be NULL. A loss ends it
     * without a call. */
    void (*on_blocked)(void *arg, bool blocked);
};

struct mq_delivery {
    uint64_t tag;   /* for mq_ack/mq_nack; valid until the connection is lost */
    uint64_t epoch; /* which connection it came by: acks for an older one are dropped silently */
    bool redelivered;
    struct str consumer; /* consumer tag */
    struct str routing_key;
    struct str message_id; /* empty where absent */
    struct str reply_to;   /* empty where absent */
    struct str body;       /* all slices valid during the callback only */
};

/* `arg` as given to mq_consume. */
typedef void mq_deliver_fn(void *arg, const struct mq_delivery *d);
/* The broker cancelled the consumer (queue deleted). A new queue of that name needs a new
 * connection: on this one the broker may keep what it knew of the old queue, see mq_watch.h. */
typedef void mq_cancelled_fn(void *arg);
/* rc 0: the broker has it safely. ERR_NOT_FOUND: returned as unroutable. ERR_MQ: nacked.
 * ERR_MQ_DOWN: the connection was lost before the answer: unknown, publish again. */
typedef void mq_confirm_fn(void *arg, int rc);
/* Answer to a declare/bind/consume...; rc 0 or an error. A refused operation closes the channel,
 * so that after an error on_down follows. */
typedef void mq_done_fn(void *arg, int rc, const struct err *why, uint32_t message_count);

struct mq_message {
    const char *exchange; /* "" for the default exchange */
    const char *routing_key;
    struct str body;        /* copied */
    const char *message_id; /* NULL: none */
    const char *reply_to;   /* NULL: none */
    bool persistent;
    bool mandatory;
};

enum mq_queue_flags {
    MQ_QUORUM = 1,    /* x-queue-type=quorum and no other argument */
    MQ_EXCLUSIVE = 2, /* and auto-delete, classic */
    MQ_PASSIVE = 4,   /* only look: message_count in the callback */
    /* Without MQ_EXCLUSIVE queues are durable. */
};

struct mq *mq_open(uv_loop_t *loop, const struct mq_options *o); /* copies the options */
/* Flushes nothing; outstanding confirms are told ERR_MQ_DOWN before it returns; afterwards no
 * callback comes but on_closed, which may be NULL. Says goodbye to the broker and waits up to 1 s
 * for the answer. */
void mq_close(struct mq *mq, void (*on_closed)(void *arg), void *arg);

/* Gives the connection up and makes a new one after a second or more: on_down follows from the
 * loop, with this reason. Nothing while it is down. */
void mq_renew(struct mq *mq, const char *why);

bool mq_is_up(const struct mq *mq);
bool mq_is_blocked(const struct mq *mq);
const char *mq_server_version(const struct mq *mq); /* "3.10.8"; "" while down */
const char *mq_last_error(const struct mq *mq);     /* "" where none */
size_t mq_unconfirmed(const struct mq *mq);

/* Writes are gathered and sent once per turn of the loop. cb may be NULL everywhere, and must be in
 * mq_publish without `confirms`. A mandatory message carries its number as correlation-id. */
int mq_publish(struct mq *mq, const struct mq_message *m, mq_confirm_fn *cb, void *arg) NODISCARD;
int mq_declare_queue(struct mq *mq, const char *name, int flags, mq_done_fn *cb,
                     void *arg) NODISCARD;
int mq_declare_exchange(struct mq *mq, const char *name, const char *type, mq_done_fn *cb,
                        void *arg) NODISCARD;
int mq_bind(struct mq *mq, const char *queue, const char *exchange, const char *key, mq_done_fn *cb,
            void *arg) NODISCARD;
int mq_delete_queue(struct mq *mq, const char *name, mq_done_fn *cb, void *arg) NODISCARD;
/* So many messages without ack for each consumer that comes from now on, on this connection. */
int mq_set_prefetch(struct mq *mq, uint16_t n) NODISCARD;
/* `tag` names the consumer on this connection (ERR_CONFLICT where it exists); no_ack for messages
 * that may be lost. on_ok: it is there (NULL: nobody asks). Cancel it only then, and let the next
 * one of a queue wait for the end of the last: RabbitMQ (3.10, quorum queues) mixes them up, and
 * the consumer that is left gets nothing. */
int mq_consume(struct mq *mq, const char *queue, const char *tag, bool no_ack,
               mq_deliver_fn *on_deliver, mq_cancelled_fn *on_cancelled, mq_done_fn *on_ok,
               void *arg) NODISCARD;
/* Deliveries in flight may still arrive until done is called. */
int mq_cancel(struct mq *mq, const char *tag, mq_done_fn *cb, void *arg) NODISCARD;
void mq_ack(struct mq *mq, uint64_t epoch, uint64_t tag, bool multiple);
void mq_nack(struct mq *mq, uint64_t epoch, uint64_t tag, bool requeue);

#endif
