#include "pkg/worker/links.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "internal/mq_watch.h"
#include "pkg/task/task.h"

#include <stdio.h>
#include <stdlib.h>

#define FLUSH_MS      1000
#define FLUSH_POLL_MS 5
#define LOOK_MS       1000

/* One queue of hints. */
struct source {
    struct links *l;
    struct mq_watched *watched; /* and whether we consume */
    char *queue;
    int urgency;
    char tag[32]; /* of the present consumer */
    bool wanted;
    bool stale; /* the consumer has another prefetch than the next one will have */
    bool asked; /* the broker has yet to answer: see mq_consume() */
};

struct links {
    uv_loop_t *loop;
    struct links_options o;
    struct mq *sub;
    struct mq *pub;
    char *base_name; /* see queue_of() */
    char *reply;
    uint64_t names; /* refused for our queue, so far */
    uint64_t tags;  /* consumers, so far */
    struct source *sources;
    size_t n_sources;
    struct mq_watch watch;
    bool pub_declared;
    bool blocked;
    bool up[2]; /* what the owner was told */
    uv_timer_t timer;

    /* closing */
    bool closing;
    int64_t flush_left_ms;
    int open_parts;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

static void tell(struct links *l, enum wcore_link which, bool up)
{
    if (l->up[which] != up && !l->closing) {
        l->up[which] = up;
        l->o.on_link(l->o.arg, which, up);
    }
}

/* Requests that fail later end the connection, and on_down tells why. */
static void check(const char *what, int rc)
{
    if (rc < 0 && rc != ERR_MQ_DOWN) {
        log_error(NULL, "%s: %s; waiting for the next connection", what, err_text(rc));
    }
}

/* ---- the consuming connection ---- */

static void on_order_delivery(void *arg, const struct mq_delivery *d)
{
    struct links *l = arg;

    if (!l->closing) {
        l->o.on_order(l->o.arg, d->body);
    }
}

static void on_hint_delivery(void *arg, const struct mq_delivery *d)
{
    struct source *s = arg;

    mq_watch_delivered(&s->l->watch, s->watched, d->epoch);
    if (!s->l->closing) {
        s->l->o.on_hint(s->l->o.arg, s->urgency, d);
    }
}

/* Its queue was deleted: it is made again with the next connection. */
static void on_source_cancelled(void *arg)
{
    struct source *s = arg;

    if (s->watched->on) {
        char *why CLEANUP(freep) = xasprintf("queue %s was deleted", s->queue);

        mq_renew(s->l->sub, why);
    }
}

static void on_source_answer(void *arg, int rc, const struct err *why, uint32_t count);

static void open_source(struct source *s)
{
    struct links *l = s->l;

    s->asked = s->watched->on = true;
    s->stale = false;
    snprintf(s->tag, sizeof(s->tag), "hints-%llu", (unsigned long long)++l->tags);
    int rc = mq_declare_queue(l->sub, s->queue, MQ_QUORUM, NULL, NULL);
    rc = rc < 0 ? rc
                : mq_consume(l->sub, s->queue, s->tag, false, on_hint_delivery, on_source_cancelled,
                             on_source_answer, s);
    check(s->queue, rc);
}

static void close_source(struct source *s)
{
    s->watched->on = false;
    int rc = mq_cancel(s->l->sub, s->tag, on_source_answer, s);
    s->asked = rc == 0;
    if (rc < 0 && rc != ERR_MQ_DOWN) {
        log_warn(NULL, "cancelling the consumer of %s: %s; giving its hints back", s->queue,
                 err_text(rc));
    }
}

static void step_source(struct source *s)
{
    if (s->asked) {
        return;
    }
    if (s->wanted && !s->watched->on) {
        open_source(s);
    } else if (s->watched->on && (!s->wanted || s->stale)) {
        close_source(s);
    }
}

/* Not that of an earlier connection. */
static void on_source_answer(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct source *s = arg;

    (void)why;
    (void)count;
    if (rc == 0) {
        s->asked = false;
        step_source(s);
    }
}

static void on_reply_cancelled(void *arg)
{
    struct links *l = arg;

    mq_renew(l->sub, "our own queue was deleted");
}

/* The broker still knows a connection of ours that is long dead for us: it keeps that one's queue.
 */
static void on_reply_taken(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct links *l = arg;

    (void)count;
    l->names += rc < 0 && why && why->code == ERR_CONFLICT;
}

static void on_reply_declared(void *arg, int rc, const struct err *why, uint32_t count)
{
    (void)why;
    (void)count;
    if (rc == 0) {
        tell(arg, WCORE_LINK_CONSUME, true);
    }
}

static int open_reply(struct links *l)
{
    char tag[32];
    int rc = mq_declare_queue(l->sub, l->reply, MQ_EXCLUSIVE, on_reply_taken, l);

    snprintf(tag, sizeof(tag), "orders-%llu", (unsigned long long)++l->tags);
    rc = rc < 0 ? rc
                : mq_consume(l->sub, l->reply, tag, true, on_order_delivery, on_reply_cancelled,
                             NULL, l);
    /* Declared once more behind the consumer: the answer says that both are there. */
    return rc < 0 ? rc : mq_declare_queue(l->sub, l->reply, MQ_EXCLUSIVE, on_reply_declared, l);
}

static void on_sub_up(void *arg)
{
    struct links *l = arg;

    free(l->reply);
    l->reply = l->names ? xasprintf("%s.%llu", l->base_name, (unsigned long long)l->names + 1)
                        : xstrdup(l->base_name);
    for (size_t i = 0; i < l->n_sources; i++) {
        l->sources[i].watched->on = l->sources[i].wanted = l->sources[i].asked = false;
    }
    mq_watch_up(&l->watch, clock_boot_ms());
    check("the prefetch", mq_set_prefetch(l->sub, (uint16_t)l->watch.prefetch));
    check(l->reply, open_reply(l));
}

static void on_sub_down(void *arg, const struct err *why)
{
    struct links *l = arg;

    log_warn(NULL, "consuming: %s; tasks go on, connecting again", why->text);
    tell(l, WCORE_LINK_CONSUME, false);
}

void links_consume(struct links *l, bool on)
{
    for (size_t i = 0; i < l->n_sources; i++) {
        struct source *s = &l->sources[i];

        s->wanted = on;
        step_source(s);
    }
}

void links_set_slots(struct links *l, int slots)
{
    size_t before = l->watch.prefetch;

    l->watch.prefetch = wcore_prefetch(slots);
    if (l->watch.prefetch == before || !mq_is_up(l->sub)) {
        return;
    }
    check("the prefetch", mq_set_prefetch(l->sub, (uint16_t)l->watch.prefetch));
    for (size_t i = 0; i < l->n_sources; i++) {
        l->sources[i].stale = true;
        step_source(&l->sources[i]);
    }
}

void links_ack(struct links *l, struct wcore_delivery d)
{
    mq_ack(l->sub, d.epoch, d.tag, false);
    mq_watch_settled(&l->watch, d.epoch);
}

void links_nack(struct links *l, struct wcore_delivery d)
{
    mq_nack(l->sub, d.epoch, d.tag, true);
    mq_watch_settled(&l->watch, d.epoch);
}

/* ---- the publishing connection ---- */

static void update_pub(struct links *l)
{
    tell(l, WCORE_LINK_PUBLISH, l->pub_declared && !l->blocked);
}

static void on_pub_declared(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct links *l = arg;

    (void)why;
    (void)count;
    if (rc == 0) {
        l->pub_declared = true;
        update_pub(l);
    }
}

static int declare_pub(struct links *l)
{
    int rc = mq_declare_exchange(l->pub, "sje.beat", "fanout", NULL, NULL);

    return rc < 0 ? rc : mq_declare_queue(l->pub, "sje.result", MQ_QUORUM, on_pub_declared, l);
}

static void on_pub_up(void *arg)
{
    check("the managers' queues", declare_pub(arg));
}

static void on_pub_down(void *arg, const struct err *why)
{
    struct links *l = arg;

    log_warn(NULL, "publishing: %s; tasks go on, results wait, connecting again", why->text);
    l->pub_declared = false;
    l->blocked = false;
    update_pub(l);
}

static void on_pub_blocked(void *arg, bool blocked)
{
    struct links *l = arg;

    log_warn(NULL, "the broker %s",
             blocked ? "takes no messages now (alarm); tasks go on, results wait"
                     : "takes messages again");
    l->blocked = blocked;
    update_pub(l);
}

/* Whatever was not taken is sent again by its owner's timer. */
static void on_confirm(void *arg, int rc)
{
    struct links *l = arg;

    if (rc == ERR_NOT_FOUND && !l->closing) {
        log_warn(NULL, "queue sje.result is gone; declaring it again");
        rc = declare_pub(l);
    }
    if (rc < 0 && rc != ERR_MQ_DOWN) {
        log_warn(NULL, "a message was not taken: %s; it is sent again", err_text(rc));
    }
}

static int publish(struct links *l, const struct mq_message *m, mq_confirm_fn *cb, void *arg)
{
    if (!l->pub_declared || l->blocked) {
        return ERR_MQ_DOWN;
    }
    return mq_publish(l->pub, m, cb, arg);
}

/* Claims on their way to one manager. */
struct sent_claims {
    struct links *l;
    char *manager;
};

static void sent_claims_free(struct sent_claims *s)
{
    free(s->manager);
    free(s);
}

static void on_claims_confirm(void *arg, int rc)
{
    struct sent_claims *s = arg;

    if (rc != ERR_NOT_FOUND) {
        on_confirm(s->l, rc);
    } else if (!s->l->closing) {
        log_info(NULL, "manager %s is gone; asking the leading one", s->manager);
        s->l->o.on_claims_returned(s->l->o.arg, s->manager);
    }
    sent_claims_free(s);
}

int links_send_claims(struct links *l, const char *manager, struct str body)
{
    if (!manager) {
        return links_send_beat(l, body);
    }
    struct mq_message m = {.exchange = "", .routing_key = manager, .body = body, .mandatory = true};
    struct sent_claims *s = xmalloc(sizeof(*s));

    *s = (struct sent_claims){l, xstrdup(manager)};
    int rc = publish(l, &m, on_claims_confirm, s);
    if (rc < 0) {
        sent_claims_free(s);
    }
    return rc;
}

int links_send_results(struct links *l, struct str body)
{
    struct mq_message m = {.exchange = "",
                           .routing_key = "sje.result",
                           .body = body,
                           .persistent = true,
                           .mandatory = true};

    return publish(l, &m, on_confirm, l);
}

int links_send_beat(struct links *l, struct str body)
{
    struct mq_message m = {.exchange = "sje.beat", .routing_key = "", .body = body};

    return publish(l, &m, NULL, NULL);
}

int links_send_to(struct links *l, const char *queue, struct str body)
{
    struct mq_message m = {.exchange = "", .routing_key = queue, .body = body};

    return publish(l, &m, NULL, NULL);
}

bool links_are_up(const struct links *l)
{
    return l->up[WCORE_LINK_CONSUME] && l->up[WCORE_LINK_PUBLISH];
}

const char *links_reply(const struct links *l)
{
    return l->reply;
}

/* ---- open, close ---- */

static struct mq *connect_one(struct links *l, const char *what, const struct mq_options *special)
{
    const struct config *c = l->o.config;
    char *name CLEANUP(freep) = xasprintf("sje worker %s %s", c->node.node_id, what);
    struct mq_options o = *special;

    o.hosts = c->rabbitmq.host;
    o.port = c->rabbitmq.port;
    o.username = c->rabbitmq.username;
    o.password = c->rabbitmq.password;
    o.vhost = c->rabbitmq.vhost;
    o.heartbeat_s = c->rabbitmq.heartbeat_seconds;
    o.name = name;
    o.arg = l;
    return mq_open(l->loop, &o);
}

static void make_sources(struct links *l)
{
    const struct config_list *pools = &l->o.config->node.pools;

    l->sources = xcalloc((size_t)pools->count * TASK_CLASSES, sizeof(*l->sources));
    l->watch.list = xcalloc((size_t)pools->count * TASK_CLASSES, sizeof(*l->watch.list));
    for (int p = 0; p < pools->count; p++) {
        for (enum task_class c = TASK_HIGH; c < TASK_CLASSES; c++) {
            struct mq_watched *watched = &l->watch.list[l->n_sources];
            struct source *s = &l->sources[l->n_sources++];

            *s = (struct source){
                .l = l,
                .watched = watched,
                .queue = xasprintf("sje.work.%s.%s", pools->items[p], task_class_name(c)),
                .urgency = (int)c};
            watched->queue = s->queue;
        }
    }
    l->watch.n = l->n_sources;
}

static void on_look(uv_timer_t *t)
{
    mq_watch_look(&CONTAINER_OF(t, struct links, timer)->watch, clock_boot_ms());
}

/* Its worker's own: in the queue of another one that has the same name and number, answers would go
 * to the wrong one. */
static char *queue_of(const struct who *w)
{
    char tail[WHO_TAIL_LEN];

    who_tail(w, tail);
    return xasprintf("sje.worker.%s.%s.%lld", w->node, tail, (long long)w->inc);
}

struct links *links_open(uv_loop_t *loop, const struct links_options *o)
{
    struct links *l = xcalloc(1, sizeof(*l));
    struct mq_options sub = {.on_up = on_sub_up, .on_down = on_sub_down};
    struct mq_options pub = {
        .on_up = on_pub_up, .on_down = on_pub_down, .on_blocked = on_pub_blocked, .confirms = true};

    l->loop = loop;
    l->o = *o;
    l->base_name = queue_of(&o->who);
    l->reply = xstrdup(l->base_name);
    make_sources(l);
    MUST(uv_timer_init(loop, &l->timer) == 0);
    MUST(uv_timer_start(&l->timer, on_look, LOOK_MS, LOOK_MS) == 0);
    l->sub = connect_one(l, "consumes", &sub);
    l->watch.mq = l->sub;
    l->watch.prefetch = wcore_prefetch(o->config->node.slots);
    l->pub = connect_one(l, "publishes", &pub);
    l->o.config = NULL;
    return l;
}

static void part_closed(struct links *l)
{
    if (--l->open_parts) {
        return;
    }
    for (size_t i = 0; i < l->n_sources; i++) {
        free(l->sources[i].queue);
    }
    free(l->sources);
    free(l->watch.list);
    free(l->base_name);
    free(l->reply);
    void (*on_closed)(void *arg) = l->on_closed;
    void *arg = l->closed_arg;
    free(l);
    if (on_closed) {
        on_closed(arg);
    }
}

static void on_mq_closed(void *arg)
{
    part_closed(arg);
}

static void on_timer_closed(uv_handle_t *h)
{
    part_closed(CONTAINER_OF((uv_timer_t *)h, struct links, timer));
}

static void on_flush_tick(uv_timer_t *t)
{
    struct links *l = CONTAINER_OF(t, struct links, timer);

    l->flush_left_ms -= FLUSH_POLL_MS;
    if (l->flush_left_ms > 0 && mq_is_up(l->pub) && !l->blocked && mq_unconfirmed(l->pub)) {
        return;
    }
    l->open_parts = 3;
    uv_close((uv_handle_t *)&l->timer, on_timer_closed);
    mq_close(l->sub, on_mq_closed, l);
    mq_close(l->pub, on_mq_closed, l);
}

void links_close(struct links *l, void (*on_closed)(void *arg), void *arg)
{
    assert(!l->closing);
    l->closing = true;
    l->on_closed = on_closed;
    l->closed_arg = arg;
    l->flush_left_ms = FLUSH_MS;
    MUST(uv_timer_start(&l->timer, on_flush_tick, FLUSH_POLL_MS, FLUSH_POLL_MS) == 0);
}
