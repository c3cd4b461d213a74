/* mq_watch.h: notices that the broker has forgotten a consumer of ours.
 *
 * A quorum queue that is deleted cancels its consumers, but not always so that we hear of it: it
 * does so before its record is gone, so a consumer that comes in between goes with it; and where
 * somebody declares it again at once, RabbitMQ 3.10 takes the consumer over and then delivers
 * nothing, for the channel keeps what it knew of the old queue by its name. So each queue is looked
 * at every few seconds: when messages wait in it, several times in a row, and in all that time none
 * came although we had taken fewer than the prefetch allows, the connection is made anew.
 *
 * The owner tells what is delivered, and what it has acked or nacked. With several consumers of one
 * queue each gets its share while messages wait, so that a long queue is not taken for deafness.
 *
 * It asks by declaring the queue once more as it is: a passive declaration needs the same
 * permission, and answers a missing queue by closing the channel.
 *
 * Times are milliseconds of clock_boot_ms(). Threads: the loop thread only. Closing the mq ends it.
 */
#ifndef SJE_MQ_WATCH_H
#define SJE_MQ_WATCH_H

#include "internal/mq.h"

#define MQ_WATCH_MS      5000
#define MQ_WATCH_STRIKES 3

/* A quorum queue. */
struct mq_watched {
    const char *queue; /* the owner's */
    bool on;           /* we consume from it; kept by the owner */
    bool came;         /* something, since the last look */
    int strikes;
};

struct mq_watch {
    struct mq *mq;
    size_t prefetch;         /* of each consumer */
    struct mq_watched *list; /* the owner's */
    size_t n;
    size_t at; /* looked at last */
    int64_t looked_at;
    bool asked;
    uint64_t epoch; /* of the last delivery */
    size_t open;    /* delivered, not settled */
};

void mq_watch_up(struct mq_watch *w, int64_t now); /* a new connection */
void mq_watch_delivered(struct mq_watch *w, struct mq_watched *q, uint64_t epoch);
void mq_watch_settled(struct mq_watch *w, uint64_t epoch); /* acked or nacked */
/* To be called now and then; looks at one queue every MQ_WATCH_MS, and at the next one then. */
void mq_watch_look(struct mq_watch *w, int64_t now);

#endif
