/* Hints for the shared queues, one or several in a message: how many are there, which go together.
 */
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

size_t feed_pool_window(const struct feed_pool *p, const struct offers_slots *s)
{
    if (s->total == 0) {
        return 0;
    }
    size_t window = MAX((size_t)s->available * 2, (size_t)MIN(s->total, (int64_t)4));
    return MIN(MAX(window, (size_t)(p->rate * DRAIN_S)), (size_t)FEED_WINDOW_MAX);
}

/* So many slots may the tasks of one hint take: many while much is waiting, one where it could keep
 * work from a worker that is free. */
static size_t pool_share(const struct feed_pool *p, const struct offers_slots *s, size_t window)
{
    size_t share = MIN((size_t)s->smallest, window) / SHARE;

    share =
        MIN(share, (p->lanes[0].held.count + p->lanes[1].held.count) / (size_t)MAX(s->workers, 1));
    return MAX(MIN(share, (size_t)HINT_TASKS), (size_t)1);
}

struct publish {
    struct feed *feed;
    uint64_t run;
    size_t n;
    struct task_ref tasks[HINT_TASKS];
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
    feed_hint_hold(e);
}

static void on_confirm(void *arg, int rc)
{
    struct publish *pub CLEANUP(freep) = arg;
    struct feed *f = pub->feed;
    int64_t now = clock_boot_ms();

    f->open_calls--;
    CRASH_POINT("feed-before-confirm");
    for (size_t i = 0; i < pub->n && pub->run == f->run; i++) {
        struct feed_hint *e = feed_hint_find(f, &pub->tasks[i].task);

        if (e && e->state == SENT && e->attempt == pub->tasks[i].attempt) {
            hint_confirmed(e, rc, now);
        }
    }
}

/* With the first hint: a pool that a beat only names leaves nothing in the broker. Workers declare
 * what they consume from themselves. */
static int declare_queues(struct feed_pool *p, struct mq *mq)
{
    for (int c = 0; c < TASK_CLASSES && !p->declared; c++) {
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
    struct hint_task tasks[HINT_TASKS];
    size_t slots;
    size_t bytes;
};

static void bunch_empty(struct bunch *b)
{
    b->message = NULL;
    b->publish = NULL;
    b->slots = b->bytes = 0;
}

static bool bunch_takes(const struct bunch *b, const struct feed_hint *e, size_t share)
{
    struct hint_task t = feed_hint_task(e);

    return b->slots + (size_t)e->room.slots <= share && b->publish->n < HINT_TASKS &&
           b->bytes + hint_task_size(&t) <= HINT_MAX - HINT_HEAD_SIZE;
}

static void bunch_add(struct bunch *b, struct feed_hint *e, int64_t now)
{
    if (!b->message) {
        b->message = xcalloc(1, sizeof(*b->message));
        b->publish = xmalloc(sizeof(*b->publish));
        *b->publish = (struct publish){.feed = e->pool->feed, .run = e->pool->feed->run};
    }
    b->tasks[b->publish->n] = feed_hint_task(e);
    b->publish->tasks[b->publish->n++] = (struct task_ref){e->id, e->attempt};
    b->slots += (size_t)e->room.slots;
    b->bytes += hint_task_size(&b->tasks[b->publish->n - 1]);
    e->since = now;
    feed_hint_set(e, SENT);
    feed_hint_join(e, b->message);
}

static int bunch_publish(struct feed_pool *p, struct mq *mq, struct bunch *b, enum task_class c)
{
    struct feed *f = p->feed;
    struct publish *pub = b->publish;
    struct buf body CLEANUP(buf_free) = {0};
    char queue[FEED_QUEUE_LEN];
    char message_id[HINT_ID_LEN];

    feed_queue_name(queue, p->name, c);
    buf_init(&body, HINT_MAX);
    hint_write(&body, message_id, b->tasks, pub->n, f->o.reply, 0);
    bunch_empty(b);
    CRASH_POINT("feed-before-publish");
    struct mq_message m = {.exchange = "",
                           .routing_key = queue,
                           .body = {body.data, body.len},
                           .message_id = message_id,
                           .persistent = true,
                           .mandatory = true};
    size_t n = pub->n;
    int rc = declare_queues(p, mq);
    rc = rc < 0 ? rc : mq_publish(mq, &m, on_confirm, pub);
    f->open_calls++;
    if (rc < 0) {
        on_confirm(pub, ERR_MQ_DOWN);
    } else {
        METRIC_ADD(hints_published, n);
    }
    return rc;
}

/* One that nobody claimed goes to one worker alone: the queue may have given it to one that is
 * stopped. */
static bool goes_alone(struct feed_hint *e, struct mq *mq)
{
    return e->tries % 2 && feed_direct(e, mq);
}

/* What is out keeps the workers busy until so many more fit. What asks for CPUs or memory may be
 * stuck while slots are free: for the others it is no more than half of the window. */
static bool is_full(const struct feed_pool *p, const struct feed_hint *e, size_t window,
                    size_t more)
{
    size_t scarce = p->outstanding[1].count;
    size_t other = feed_is_scarce(e) ? scarce : MIN(scarce, window / 2);

    return window < p->outstanding[0].count + other + more;
}

/* The first of what every worker can take; NULL: no more. */
static struct feed_hint *first_shared(const struct feed_pool *p, bool scarce)
{
    struct heap_node *a = heap_min(&p->lanes[0].held);
    struct heap_node *b = scarce ? heap_min(&p->lanes[1].held) : NULL;
    struct heap_node *n = !a || (b && feed_hint_less(b, a)) ? b : a;

    return n ? CONTAINER_OF(n, struct feed_hint, heap) : NULL;
}

/* The best READY tasks, in their order, as far as the window goes. */
static void publish_shared(struct feed_pool *p, struct mq *mq, const struct offers_slots *s)
{
    size_t window = feed_pool_window(p, s);
    size_t share = pool_share(p, s, window);
    size_t more =
        MIN(share, p->lanes[0].held.count +
                       p->lanes[1].held.count); /* a whole hint at first, then one by one */
    struct bunch bunches[TASK_CLASSES];
    struct feed_hint *e;
    bool scarce = true;
    int64_t now = clock_boot_ms();
    int rc = 0;

    for (int c = 0; c < TASK_CLASSES; c++) {
        bunch_empty(&bunches[c]);
    }
    while (rc == 0 && (e = first_shared(p, scarce))) {
        enum task_class c = task_class_of(e->priority);
        struct bunch *b = &bunches[c];

        if (is_full(p, e, window, more)) {
            if (!feed_is_scarce(e)) {
                break;
            }
            scarce = false; /* however many they are, the others go past them */
            continue;
        }
        if (feed_direct_retry(e) || goes_alone(e, mq)) {
            continue;
        }
        if (b->message && !bunch_takes(b, e, share)) {
            rc = bunch_publish(p, mq, b, c);
        }
        bunch_add(b, e, now);
        more = 1;
    }
    for (int c = 0; c < TASK_CLASSES; c++) {
        if (bunches[c].message) {
            (void)bunch_publish(p, mq, &bunches[c], (enum task_class)c);
        }
    }
}

void feed_publish(struct feed_pool *p, struct mq *mq)
{
    struct offers_pool *o = feed_pool_offers(p);

    if (o && p->n_lanes) {
        publish_shared(p, mq, offers_slots(o));
        feed_direct_held(p, mq);
    }
}

int feed_publish_one(struct feed_hint *e, struct mq *mq)
{
    struct bunch b;
    struct feed_pool *p = e->pool;

    bunch_empty(&b);
    bunch_add(&b, e, clock_boot_ms());
    return bunch_publish(p, mq, &b, task_class_of(e->priority));
}
