/* Hints in the shared queues that nobody claims: a worker that is stopped holds them, or the broker
 * has lost them. They are published again. Whether they are in a queue is told by counting. */
#include "internal/broken.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/feed_priv.h"

#include <stdlib.h>

#define LOST_AFTER_MS 15000 /* while every worker is busy: they have no reason to claim */
#define IDLE_AFTER_MS 1500  /* while workers have room; doubled with each try */
#define ASK_MS        1000  /* the broker is not asked more often */
#define TRIES_MAX     4     /* that raise the wait */

static bool is_late(const struct feed_pool *p, const struct feed_hint *e, bool room, int64_t now)
{
    int64_t wait = (int64_t)IDLE_AFTER_MS << MIN(e->tries, TRIES_MAX);

    return now - e->since >= (room ? MIN(wait, LOST_AFTER_MS) : LOST_AFTER_MS) ||
           (room && e->since < p->silent_at);
}

static bool some_late(struct feed_pool *p, bool room, int64_t now)
{
    for (size_t i = 0; i < ARRAY_LEN(p->outstanding); i++) {
        LIST_EACH(&p->outstanding[i], n)
        {
            if (is_late(p, CONTAINER_OF(n, struct feed_hint, node), room, now)) {
                return true;
            }
        }
    }
    return false;
}

static int64_t free_slots(const struct feed_pool *p)
{
    const struct offers_pool *o = feed_pool_offers(p);

    return o ? o->slots.available : 0;
}

/* What of them is taken back; true: some of it is no wonder of the moment. */
static bool take_late(struct feed_pool *p, struct list *of, size_t depth, int64_t *room,
                      int64_t now, size_t *lost)
{
    bool old = false;

    LIST_EACH(of, n)
    {
        struct feed_hint *e = CONTAINER_OF(n, struct feed_hint, node);

        if (p->messages <= depth) {
            break;
        }
        if (is_late(p, e, *room > 0, now)) {
            old = old || (now - e->since >= LOST_AFTER_MS && !feed_is_scarce(e));
            *room -= e->room.slots;
            e->tries++;
            feed_hint_hold(e);
            ++*lost;
        }
    }
    return old;
}

static void republish_late(struct feed_pool *p, int64_t now)
{
    int64_t room = free_slots(p);
    size_t depth = 0;
    size_t lost = 0;

    if (BROKEN(HINTS)) {
        return;
    }
    for (int c = 0; c < TASK_CLASSES; c++) {
        depth += p->depth[c];
    }
    bool old = take_late(p, &p->outstanding[0], depth, &room, now, &lost);
    (void)take_late(p, &p->outstanding[1], depth, &room, now, &lost);
    p->silent_at = 0;
    if (lost) {
        METRIC_ADD(hints_repeated, lost);
        log_write(old ? LOG_WARN : LOG_INFO, NULL,
                  "pool %s: %zu hints are neither claimed nor waiting in the broker (%zu are); "
                  "publishing them again",
                  p->name, lost, depth);
        feed_pool_step(p);
    }
}

struct depth_call {
    struct feed *feed;
    char *pool;
    int class;
};

static void on_depth(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct depth_call *c = arg;
    struct feed_pool *p = feed_pool_find(c->feed, c->pool);

    (void)why;
    c->feed->open_calls--;
    if (p) {
        p->depth[c->class] = rc == 0 ? count : 0;
        if (--p->depth_wanted == 0 && rc == 0 && c->feed->epoch) {
            republish_late(p, clock_boot_ms());
        }
    }
    free(c->pool);
    free(c);
}

static void ask_depths(struct feed_pool *p, struct mq *mq)
{
    for (int i = 0; i < TASK_CLASSES; i++) {
        char name[FEED_QUEUE_LEN];
        struct depth_call *c = xmalloc(sizeof(*c));

        feed_queue_name(name, p->name, (enum task_class)i);
        *c = (struct depth_call){p->feed, xstrdup(p->name), i};
        if (mq_declare_queue(mq, name, MQ_QUORUM, on_depth, c) < 0) {
            free(c->pool);
            free(c);
            return;
        }
        p->feed->open_calls++;
        p->depth_wanted++;
    }
}

void feed_lost_check(struct feed_pool *p, int64_t now)
{
    struct mq *mq = p->feed->o.publisher(p->feed->o.arg);
    bool room = free_slots(p) > 0;

    if (now - p->looked_late < FEED_LOOK_MS) {
        return;
    }
    bool lasts = room && p->had_room; /* not only between the end of one task and the next claim */

    p->looked_late = now;
    p->had_room = room;
    if (mq && feed_outstanding(p) && p->depth_wanted == 0 && now - p->depth_asked >= ASK_MS &&
        some_late(p, lasts, now)) {
        p->depth_asked = now;
        ask_depths(p, mq);
    }
}
