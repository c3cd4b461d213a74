/* Hints that are neither claimed nor in the broker any more are published again. */
#include "internal/broken.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/feed_priv.h"

#include <stdlib.h>

#define LOST_AFTER_MS 15000

static void republish_old(struct feed_pool *p, int64_t now)
{
    size_t depth = 0;
    size_t lost = 0;

    if (BROKEN(HINTS)) {
        return;
    }
    for (int c = 0; c < TASK_CLASSES; c++) {
        depth += p->depth[c];
    }
    LIST_EACH(&p->outstanding, n)
    {
        struct feed_hint *e = CONTAINER_OF(n, struct feed_hint, node);

        if (now - e->since < LOST_AFTER_MS || p->messages <= depth) {
            break;
        }
        feed_hint_set(e, HELD);
        lost++;
    }
    if (lost) {
        METRIC_ADD(hints_repeated, lost);
        log_warn(NULL,
                 "pool %s: %zu hints are neither claimed nor in the broker (it has %zu); "
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
            republish_old(p, clock_boot_ms());
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
    struct list_node *n = list_first(&p->outstanding);

    if (mq && n && p->depth_wanted == 0 &&
        now - CONTAINER_OF(n, struct feed_hint, node)->since >= LOST_AFTER_MS) {
        ask_depths(p, mq);
    }
}
