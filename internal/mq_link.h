/* mq_link.h: one AMQP connection from its protocol header to its end, as bytes in and bytes out. No
 * I/O and no clock: the owner feeds what it read, sends what is in `out`, and calls mq_link_tick().
 *
 *   START ──start──> TUNE ──tune──> OPEN ──open-ok──> SETUP ──channel.open-ok, qos-ok, select-ok──>
 * UP any of them ──mq_link_leave()──> LEAVING ──close-ok──> (error ERR_CLOSED) all
 * ──mq_link_end()──> ENDED
 *
 * An error from any function here means that the connection is over: the owner sends what `out`
 * still holds (an answer to a close), calls mq_link_end() and closes the socket.
 *
 * User callbacks are called from mq_link_input() and mq_link_end(); they may call mq_link_leave()
 * and mq_link_end(), not mq_link_done(). Times are milliseconds of any steady clock.
 */
#ifndef SJE_MQ_LINK_H
#define SJE_MQ_LINK_H

#include "internal/mq_channel.h"

enum mq_link_state {
    LINK_START,
    LINK_TUNE,
    LINK_OPEN,
    LINK_SETUP,
    LINK_UP,
    LINK_LEAVING,
    LINK_ENDED,
};

struct mq_link {
    enum mq_link_state state;
    const struct mq_options *o; /* the owner's */
    void (*on_up)(void *arg);
    void *up_arg;
    struct mq_channel channel;
    struct buf out; /* `failed` means that the connection is over */
    char version[32];
    uint32_t frame_max;
    uint16_t heartbeat_s;
    uint16_t refusal; /* reply code of the broker's close, 0 where none */
    bool blocked;
    int64_t last_in;  /* when something was read */
    int64_t last_out; /* when something was written: kept by the owner */
    int64_t ticked_at;
    int64_t answered_at;
    uint64_t answered;
};

/* Puts the protocol header into `out`, which holds at most out_max bytes. */
void mq_link_init(struct mq_link *l, const struct mq_options *o, uint64_t epoch, size_t out_max,
                  void (*on_up)(void *arg), void *arg);
void mq_link_done(struct mq_link *l);

/* Takes the whole frames at the head of `in`. */
int mq_link_input(struct mq_link *l, struct str in, int64_t now, size_t *ret_used,
                  struct err *reterr) NODISCARD;
/* What it means that the peer has closed the stream. Always an error. */
int mq_link_eof(const struct mq_link *l, struct err *reterr);
/* Heartbeats and time-outs; every mq_link_tick_ms() while up. `idle`: nothing waits to be written.
 */
int mq_link_tick(struct mq_link *l, int64_t now, bool idle, struct err *reterr) NODISCARD;
uint64_t mq_link_tick_ms(const struct mq_link *l);

void mq_link_leave(struct mq_link *l); /* says goodbye; the answer is ERR_CLOSED */
void mq_link_end(struct mq_link *l, const struct err *why);

#endif
