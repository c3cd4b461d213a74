#include "internal/mq_watch.h"

#include "internal/broken.h"

void mq_watch_up(struct mq_watch *w, int64_t now)
{
    w->epoch = 0;
    w->open = 0;
    w->looked_at = now;
    for (size_t i = 0; i < w->n; i++) {
        w->list[i].strikes = 0;
    }
}

void mq_watch_delivered(struct mq_watch *w, struct mq_watched *q, uint64_t epoch)
{
    w->epoch = epoch;
    w->open++;
    q->came = true;
}

void mq_watch_settled(struct mq_watch *w, uint64_t epoch)
{
    if (epoch == w->epoch && w->open) {
        w->open--;
    }
}

static void on_count(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct mq_watch *w = arg;
    struct mq_watched *q = &w->list[w->at];

    (void)why;
    w->asked = false;
    if (rc < 0) {
        return; /* the connection goes */
    }
    if (count == 0 || q->came || !q->on) {
        q->strikes = 0;
    } else if (++q->strikes == MQ_WATCH_STRIKES) {
        char *text CLEANUP(freep) = xasprintf(
            "%u messages wait in %s and none is delivered; its consumer got lost", count, q->queue);

        mq_renew(w->mq, text);
    }
}

/* The next one, but what is suspected is looked at until it is clear. */
static struct mq_watched *choose(struct mq_watch *w)
{
    if (w->list[w->at].strikes == 0 || !w->list[w->at].on) {
        w->list[w->at].strikes = 0;
        w->at = (w->at + 1) % w->n;
    }
    return &w->list[w->at];
}

void mq_watch_look(struct mq_watch *w, int64_t now)
{
    if (BROKEN(WATCH) || w->asked || now - w->looked_at < MQ_WATCH_MS || !mq_is_up(w->mq)) {
        return;
    }
    struct mq_watched *q = choose(w);
    w->looked_at = now;
    if (!q->on || w->open >= w->prefetch) {
        return; /* nothing need come */
    }
    if (q->strikes == 0) {
        q->came = false;
    }
    w->asked = mq_declare_queue(w->mq, q->queue, MQ_QUORUM, on_count, w) == 0;
}
