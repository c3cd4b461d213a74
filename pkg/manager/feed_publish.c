/* Hints, one or several in a message: how many are in the broker, which go together. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/metrics.h"
#include "pkg/manager/feed_priv.h"
#include "pkg/manager/messages.h"

#include <stdio.h>
#include <stdlib.h>

#define DRAIN_S  0.25 /* so much work is in the broker, or twice the free slots */
#define SHARE    4    /* a hint holds no more than this part of a worker, and of the window */
#define PAUSE_MS 1000 /* after a refused publish */

void feed_queue_name(char text[FEED_QUEUE_LEN], const char *pool, enum task_class c)
{
    snprintf(text, FEED_QUEUE_LEN, "sje.work.%s.%s", pool, task_class_name(c));
}

size_t feed_pool_window(const struct feed_pool *p, const struct fleet_slots *s)
{
    if (s->total == 0) {
        return 0;
    }
    size_t window = MAX((size_t)s->available * 2, (size_t)MIN(s->total, 4));
    return MIN(MAX(window, (size_t)(p->rate * DRAIN_S)), (size_t)FEED_WINDOW_MAX);
}

/* So many slots may the tasks of one hint take: many while much is waiting, one where it could keep
 * work from a worker that is free. */
static size_t pool_share(const struct feed_pool *p, const struct fleet_slots *s, size_t window)
{
    size_t share = MIN((size_t)s->smallest, window) / SHARE;

    share = MIN(share, p->held.count / (size_t)MAX(s->workers, 1));
    return MAX(MIN(share, (size_t)HINT_TASKS), (size_t)1);
}

struct publish {
    struct feed *feed;
    uint64_t run;
    size_t n;
    struct hint_task tasks[HINT_TASKS];
};

static void hint_confirmed(struct feed_hint *e, int rc, int64_t now)
{
    if (rc == 0) {
        e->since = now;
        feed_hint_set(e, FED);
        return;
    }
    if (rc == ERR_NOT_FOUND) {
        CRASH_POINT("feed-returned");
        e->pool->declared = false;
    }
    if (rc != ERR_MQ_DOWN) {
        e->pool->pause_until = now + PAUSE_MS;
    }
    feed_hint_set(e, HELD);
}

static void on_confirm(void *arg, int rc)
{
    struct publish *pub CLEANUP(freep) = arg;
    struct feed *f = pub->feed;
    int64_t now = clock_boot_ms();

    f->open_calls--;
    CRASH_POINT("feed-before-confirm");
    for (size_t i = 0; i < pub->n && pub->run == f->run; i++) {
        struct feed_hint *e = feed_hint_find(f, &pub->tasks[i].id);

        if (e && e->state == SENT && e->attempt == pub->tasks[i].attempt) {
            hint_confirmed(e, rc, now);
        }
    }
}

static int declare_queues(struct feed_pool *p, struct mq *mq)
{
    for (int c = 0; c < TASK_CLASSES; c++) {
        char name[FEED_QUEUE_LEN];

        feed_queue_name(name, p->name, (enum task_class)c);
        int rc = mq_declare_queue(mq, name, MQ_QUORUM, NULL, NULL);
        if (rc < 0) {
            return rc;
        }
    }
    p->declared = true;
    return 0;
}

/* Hints of one class that go out together; all are SENT. */
struct bunch {
    struct feed_message *message;
    struct publish *publish;
    size_t slots;
};

static void bunch_add(struct bunch *b, struct feed_hint *e, int64_t now)
{
    if (!b->message) {
        b->message = xcalloc(1, sizeof(*b->message));
        b->publish = xmalloc(sizeof(*b->publish));
        *b->publish = (struct publish){.feed = e->pool->feed, .run = e->pool->feed->run};
    }
    b->publish->tasks[b->publish->n++] = (struct hint_task){e->id, e->attempt, e->slots, e->rank};
    b->slots += (size_t)e->slots;
    e->since = now;
    feed_hint_set(e, SENT);
    feed_hint_join(e, b->message);
}

static int bunch_publish(struct feed_pool *p, struct mq *mq, struct bunch *b, enum task_class c)
{
    struct feed *f = p->feed;
    struct publish *pub = STEAL(b->publish);
    char queue[FEED_QUEUE_LEN];
    char message_id[HINT_ID_LEN];
    char body[HINT_MAX];

    feed_queue_name(queue, p->name, c);
    hint_write(body, message_id, pub->tasks, pub->n, f->o.reply);
    *b = (struct bunch){0};
    CRASH_POINT("feed-before-publish");
    struct mq_message m = {.exchange = "",
                           .routing_key = queue,
                           .body = str_of(body),
                           .message_id = message_id,
                           .persistent = true,
                           .mandatory = true};
    size_t n = pub->n;
    int rc = mq_publish(mq, &m, on_confirm, pub);
    f->open_calls++;
    if (rc < 0) {
        on_confirm(pub, ERR_MQ_DOWN);
    } else {
        METRIC_ADD(hints_published, n);
    }
    return rc;
}

/* The best READY tasks, in their order, as far as the window goes. */
static void publish_hints(struct feed_pool *p, struct mq *mq, const struct fleet_slots *s)
{
    size_t window = feed_pool_window(p, s);
    size_t share = pool_share(p, s, window);
    struct bunch bunches[TASK_CLASSES] = {0};
    int64_t now = clock_boot_ms();
    int rc = 0;

    if (window < p->outstanding.count + MIN(share, p->held.count)) {
        return; /* what is out keeps them busy until a whole hint fits */
    }
    while (rc == 0 && p->outstanding.count < window && p->held.count) {
        struct feed_hint *e = CONTAINER_OF(heap_min(&p->held), struct feed_hint, heap);
        enum task_class c = task_class_of(e->priority);
        struct bunch *b = &bunches[c];

        if (e->slots > s->largest) {
            /* No worker could take it. It is looked for again when a larger one comes. */
            p->fits = p->fits < 0 ? s->largest : MIN(p->fits, s->largest);
            feed_hint_free(p->feed, e);
            continue;
        }
        if (b->message && (b->slots + (size_t)e->slots > share || b->publish->n == HINT_TASKS)) {
            rc = bunch_publish(p, mq, b, c);
        }
        bunch_add(b, e, now);
    }
    for (int c = 0; c < TASK_CLASSES; c++) {
        if (bunches[c].message) {
            (void)bunch_publish(p, mq, &bunches[c], (enum task_class)c);
        }
    }
}

int feed_publish(struct feed_pool *p, struct mq *mq)
{
    struct fleet_slots s = fleet_slots(p->feed->o.fleet, p->name);
    int rc = p->declared ? 0 : declare_queues(p, mq);

    if (rc == 0) {
        publish_hints(p, mq, &s);
    }
    return rc;
}
