/* mq_conn.h: one socket with its mq_link: bytes in both directions, nothing decided.
 *
 * Owned by mq.c. mq_conn_drop() may be called at any time, also from the events: afterwards none
 * but `on_gone` follows, in which the memory is gone.
 */
#ifndef SJE_MQ_CONN_H
#define SJE_MQ_CONN_H

#include "internal/mq_link.h"

struct mq_conn_events {
    void *arg;
    void (*on_connected)(void *arg); /* the handshake begins */
    void (*on_up)(void *arg);
    void (*on_failed)(void *arg, const struct err *why); /* at most once; it is to be dropped now */
    void (*on_gone)(void *arg);
};

struct mq_conn {
    struct mq_link link;
    struct mq_conn_events events;
    uv_loop_t *loop;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    bool connected;
    bool writing;
    bool dropped;
    struct buf flight; /* being written; what comes meanwhile gathers in link.out */
    uint64_t turn;     /* of the loop, by its time; and how often it has read in that */
    int reads;
    size_t in_len;
    char in[(size_t)2 * MQ_FRAME_MAX]; /* a frame that is not complete always fits */
};

/* `o` must outlive it. */
struct mq_conn *mq_conn_new(uv_loop_t *loop, const struct mq_options *o, uint64_t epoch,
                            const struct mq_conn_events *events);
int mq_conn_connect(struct mq_conn *c, const struct sockaddr *address,
                    struct err *reterr) NODISCARD;
/* Sends what has gathered. */
void mq_conn_flush(struct mq_conn *c);
/* Heartbeats and time-outs; an error as from mq_link_tick(). */
int mq_conn_tick(struct mq_conn *c, struct err *reterr) NODISCARD;
/* Bytes that wait to be sent. */
size_t mq_conn_queued(const struct mq_conn *c);
/* One last try to send, then the socket goes; whoever waits is told ERR_MQ_DOWN. */
void mq_conn_drop(struct mq_conn *c, const struct err *why);

#endif
