/* links.h: a worker's two connections to the broker, and what is declared on them.
 *
 * One consumes and acks: hints, and the worker's own queue with grants and orders. The other
 * publishes: claims, results, beats, logs; the broker stops reading from it in an alarm. Both
 * reconnect for ever; each time everything is declared from scratch. Where the broker still holds
 * on to a connection that is long dead for us, and to its exclusive queue, ours gets another name.
 *
 * Threads: the loop thread only.
 */
#ifndef SJE_WORKER_LINKS_H
#define SJE_WORKER_LINKS_H

#include "internal/config.h"
#include "internal/mq.h"
#include "pkg/task/who.h"
#include "pkg/worker/core.h"

struct links;

struct links_options {
    const struct config *config; /* read in links_open() only */
    struct who who;              /* names our queue */
    void *arg;
    /* Usable or not; never called from inside a function below. */
    void (*on_link)(void *arg, enum wcore_link l, bool up);
    /* To be answered with links_ack() or links_nack(). urgency: 0 for class high. */
    void (*on_hint)(void *arg, int urgency, const struct mq_delivery *d);
    void (*on_order)(void *arg, struct str body);
    /* Claims came back: the manager's queue is gone. */
    void (*on_claims_returned)(void *arg, const char *manager);
};

struct links *links_open(uv_loop_t *loop, const struct links_options *o);
/* Waits up to a second for the broker to confirm what was published, then disconnects. */
void links_close(struct links *l, void (*on_closed)(void *arg), void *arg);

bool links_are_up(const struct links *l);       /* both usable */
const char *links_reply(const struct links *l); /* name of our queue */
void links_consume(struct links *l, bool on);   /* hints */
/* The prefetch follows: with more slots more hints come, see wcore_prefetch(). */
void links_set_slots(struct links *l, int slots);
void links_ack(struct links *l, struct wcore_delivery d);
void links_nack(struct links *l, struct wcore_delivery d);

/* ERR_MQ_DOWN (also while the broker takes nothing), ERR_BUSY. The body is copied. */
/* To the queue of a manager; NULL: to all of them. */
int links_send_claims(struct links *l, const char *manager, struct str body) NODISCARD;
int links_send_results(struct links *l, struct str body) NODISCARD;
int links_send_beat(struct links *l, struct str body) NODISCARD;
int links_send_to(struct links *l, const char *queue, struct str body) NODISCARD;

#endif
