/* The broker behind mq.h: queues, consumers, acks, confirms, exclusive queues, fanout; connections
 * that are cut with or without notice, restarts, wiped disks, alarms, refused publishes. Each
 * direction of a connection keeps its order; nothing else does. */
#include "internal/mq.h"
#include "pkg/worker/orders.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define CONSUMERS_MAX 16

struct message {
    struct list_node node; /* queue->messages or session->unacked */
    char *body;
    size_t len;
    char *id;  /* message_id; "" */
    char *key; /* routing key */
    bool persistent;
    bool redelivered;
    uint64_t tag; /* while unacked */
    struct queue *queue;
};

struct consumer {
    struct session *s;
    char tag[40];
    bool no_ack;
    size_t most; /* prefetch; 0: no limit */
    size_t open; /* unacked */
    mq_deliver_fn *on_deliver;
    mq_cancelled_fn *on_cancelled;
    void *arg;
};

struct queue {
    struct list_node node;
    char *name;
    bool quorum;
    struct session *owner; /* exclusive */
    bool on_beat;          /* bound */
    bool on_ctl;
    struct list messages;
    struct consumer *consumers[CONSUMERS_MAX];
    size_t n_consumers;
    size_t next;
};

/* One TCP connection. */
struct session {
    struct list_node node; /* broker.sessions */
    struct mq *mq;
    struct proc *proc;
    uint32_t gen;
    uint64_t epoch;
    bool cut;    /* nothing passes any more */
    bool closed; /* the broker has noticed */
    int64_t last_in;
    int64_t last_out;
    uint64_t next_tag;
    struct list unacked;
    struct list blocked; /* of struct op, during an alarm */
};

struct confirm {
    struct list_node node;
    mq_confirm_fn *confirm;
    mq_done_fn *done;
    void *arg;
};

struct mq {
    struct mq_options o;
    struct proc *proc;
    struct session *s; /* NULL while down */
    uint64_t epoch;
    bool blocked;
    bool closing;
    bool told_down;
    char tags[CONSUMERS_MAX][40];
    size_t n_tags;
    size_t prefetch;     /* of consumers that come from now on, on this connection */
    struct list waiting; /* of struct confirm */
};

static struct {
    bool up;
    bool alarm;
    struct list queues;
    struct list sessions;
} broker;

void broker_init(void)
{
    broker.up = true;
    broker.alarm = false;
    list_init(&broker.queues);
    list_init(&broker.sessions);
}

/* ---- what is in it ---- */

static struct queue *queue_find(const char *name)
{
    LIST_EACH(&broker.queues, n)
    {
        struct queue *q = CONTAINER_OF(n, struct queue, node);

        if (strcmp(q->name, name) == 0) {
            return q;
        }
    }
    return NULL;
}

static bool is_hint(const struct message *m)
{
    return strncmp(m->queue->name, "sje.work.", 9) == 0;
}

/* A hint that nobody needs any more. */
static bool is_stale(const struct message *m)
{
    struct wcore_hint h;

    if (!is_hint(m) || hint_read((struct str){m->body, m->len}, &h, NULL) < 0) {
        return false;
    }
    for (size_t i = 0; i < h.n; i++) {
        const struct row *r = base_row(&h.tasks[i].key.task);

        if (r && !task_state_final(r->t.state)) {
            return false;
        }
    }
    return true;
}

static const struct message *first_of(const struct list *l, bool stale_too)
{
    LIST_EACH(l, n)
    {
        const struct message *m = CONTAINER_OF(n, struct message, node);

        if (stale_too || !is_stale(m)) {
            return m;
        }
    }
    return NULL;
}

/* The first message that is left; NULL: none. */
static const struct message *some_message(bool stale_too)
{
    const struct message *m = NULL;

    LIST_EACH(&broker.queues, n)
    {
        struct queue *q = CONTAINER_OF(n, struct queue, node);

        m = m || q->owner ? m : first_of(&q->messages, stale_too);
    }
    LIST_EACH(&broker.sessions, n)
    {
        m = m ? m : first_of(&CONTAINER_OF(n, struct session, node)->unacked, stale_too);
    }
    return m;
}

bool broker_has_work(bool stale_too, char text[200])
{
    const struct message *m = some_message(stale_too);

    if (m) {
        snprintf(text, 200, "in the broker, queue %s%s: %.130s", m->queue->name,
                 m->tag ? ", unacked" : "", m->body);
    }
    return m;
}

static bool names(const struct message *m, const struct wcore_key *k)
{
    struct wcore_hint h;

    if (!is_hint(m) || hint_read((struct str){m->body, m->len}, &h, NULL) < 0) {
        return false;
    }
    for (size_t i = 0; i < h.n; i++) {
        if (memcmp(&h.tasks[i].key, k, sizeof(*k)) == 0) {
            return true;
        }
    }
    return false;
}

static bool another_copy(const struct message *m, const struct wcore_key *key)
{
    LIST_EACH(&broker.queues, n)
    {
        LIST_EACH(&CONTAINER_OF(n, struct queue, node)->messages, k)
        {
            const struct message *other = CONTAINER_OF(k, struct message, node);

            if (other != m && names(other, key)) {
                return true;
            }
        }
    }
    LIST_EACH(&broker.sessions, n)
    {
        LIST_EACH(&CONTAINER_OF(n, struct session, node)->unacked, k)
        {
            const struct message *other = CONTAINER_OF(k, struct message, node);

            if (other != m && names(other, key)) {
                return true;
            }
        }
    }
    return false;
}

/* A hint may only be acked when none of its attempts waits any more; or when it was given back
 * before: then the manager feeds them again. */
static void check_ack(const struct message *m)
{
    struct wcore_hint h;

    if (!is_hint(m) || m->redelivered || hint_read((struct str){m->body, m->len}, &h, NULL) < 0) {
        return;
    }
    for (size_t i = 0; i < h.n; i++) {
        const struct wcore_key *k = &h.tasks[i].key;
        const struct row *r = base_row(&k->task);

        if (r && (r->t.state == TASK_READY || r->t.state == TASK_FED) &&
            r->t.attempt == k->attempt && world->now - world->last_bad_broker > 60000 &&
            !another_copy(m, k)) {
            violation(
                "the hint %s was acked before attempt %d of its task %zu was granted or denied",
                m->id, k->attempt, i);
        }
    }
}

static void message_free(struct message *m)
{
    free(m->body);
    free(m->id);
    free(m->key);
    free(m);
}

/* ---- frames to clients ---- */

struct frame {
    struct session *s;
    struct confirm *c;
    int rc;
    uint32_t count;
    struct consumer *consumer;
    struct message *m; /* a copy */
};

/* When a frame arrives that is sent now, behind those before it. */
static int64_t arrival(int64_t *last)
{
    int64_t at = world->now + between(1, chance(50) ? 400 : 8);

    *last = MAX(*last, at);
    return *last;
}

static int64_t out_time(struct session *s)
{
    return arrival(&s->last_out);
}

static bool client_has(const struct session *s)
{
    return !s->cut && s->gen == s->proc->gen && s->mq->s == s;
}

static void on_answer(void *arg)
{
    struct frame *f = arg;
    struct err why = {f->rc, "refused"};

    if (client_has(f->s)) {
        list_remove(&f->c->node);
        if (f->c->confirm) {
            f->c->confirm(f->c->arg, f->rc);
        } else if (f->c->done) {
            f->c->done(f->c->arg, f->rc, f->rc ? &why : NULL, f->count);
        }
        free(f->c);
    }
    free(f);
}

static void answer(struct session *s, struct confirm *c, int rc, uint32_t count)
{
    struct frame *f = xmalloc(sizeof(*f));

    if (!c || s->cut || s->gen != s->proc->gen) {
        free(f);
        return;
    }
    *f = (struct frame){.s = s, .c = c, .rc = rc, .count = count};
    sim_at(out_time(s), s->proc, on_answer, f);
}

static void on_delivery(void *arg)
{
    struct frame *f = arg;
    struct message *m = f->m;

    if (client_has(f->s)) {
        struct mq_delivery d = {.tag = m->tag,
                                .epoch = f->s->epoch,
                                .redelivered = m->redelivered,
                                .consumer = str_of(f->consumer->tag),
                                .routing_key = str_of(m->key),
                                .message_id = str_of(m->id),
                                .body = {m->body, m->len}};

        f->consumer->on_deliver(f->consumer->arg, &d);
    }
    message_free(m);
    free(f);
}

static struct message *message_copy(const struct message *m)
{
    struct message *c = xmalloc(sizeof(*c));

    *c = *m;
    c->node = (struct list_node){0};
    c->body = xmemdup(m->body, m->len);
    c->id = xstrdup(m->id);
    c->key = xstrdup(m->key);
    return c;
}

static void deliver(struct consumer *c, struct message *m)
{
    struct session *s = c->s;
    struct frame *f = xmalloc(sizeof(*f));

    if (is_hint(m)) {
        trace("    hint %.12s to %s", m->id, s->proc->name);
    }
    m->tag = ++s->next_tag;
    *f = (struct frame){.s = s, .consumer = c, .m = message_copy(m)};
    sim_at(out_time(s), s->proc, on_delivery, f);
    if (c->no_ack) {
        message_free(m);
    } else {
        c->open++;
        list_push(&s->unacked, &m->node);
    }
}

static struct consumer *free_consumer(struct queue *q)
{
    for (size_t i = 0; i < q->n_consumers; i++) {
        struct consumer *c = q->consumers[q->next++ % q->n_consumers];

        if (c->no_ack || c->most == 0 || c->open < c->most) {
            return c;
        }
    }
    return NULL;
}

static void queue_dispatch(struct queue *q)
{
    struct consumer *c;

    while (q->messages.count && q->n_consumers && (c = free_consumer(q))) {
        deliver(c, CONTAINER_OF(list_pop(&q->messages), struct message, node));
    }
}

/* ---- queues come and go ---- */

static void consumer_remove(struct queue *q, size_t i)
{
    memmove(&q->consumers[i], &q->consumers[i + 1],
            (q->n_consumers - i - 1) * sizeof(struct consumer *));
    q->n_consumers--;
}

static void on_cancel_frame(void *arg)
{
    struct frame *f = arg;

    if (client_has(f->s)) {
        struct mq *mq = f->s->mq;

        for (size_t i = 0; i < mq->n_tags; i++) {
            if (streq(mq->tags[i], f->consumer->tag)) {
                memmove(mq->tags[i], mq->tags[i + 1], (mq->n_tags - i - 1) * sizeof(mq->tags[0]));
                mq->n_tags--;
                f->consumer->on_cancelled(f->consumer->arg);
                break;
            }
        }
    }
    free(f);
}

/* A quorum queue's consumers may never hear of it. */
static void queue_delete(struct queue *q)
{
    bool silent = q->quorum && chance(500);

    world->deaf = world->deaf || silent;
    for (size_t i = 0; i < q->n_consumers; i++) {
        struct consumer *c = q->consumers[i];

        if (!silent && !c->s->cut && !c->s->closed && c->s->gen == c->s->proc->gen) {
            struct frame *f = xmalloc(sizeof(*f));

            *f = (struct frame){.s = c->s, .consumer = c};
            sim_at(out_time(c->s), c->s->proc, on_cancel_frame, f);
        }
    }
    LIST_EACH(&broker.sessions, n)
    {
        LIST_EACH(&CONTAINER_OF(n, struct session, node)->unacked, k)
        {
            struct message *m = CONTAINER_OF(k, struct message, node);

            if (m->queue == q) {
                list_remove(k);
                message_free(m);
            }
        }
    }
    list_remove(&q->node);
}

/* The broker knows that the connection is gone. */
static void session_close(struct session *s)
{
    struct list_node *n;

    if (s->closed) {
        return;
    }
    s->closed = true;
    s->cut = true;
    list_remove(&s->node);
    LIST_EACH(&broker.queues, k)
    {
        struct queue *q = CONTAINER_OF(k, struct queue, node);

        for (size_t i = q->n_consumers; i-- > 0;) {
            if (q->consumers[i]->s == s) {
                consumer_remove(q, i);
            }
        }
        if (q->owner == s) {
            queue_delete(q);
        }
    }
    while ((n = s->unacked.count ? s->unacked.head.prev : NULL)) {
        struct message *m = CONTAINER_OF(n, struct message, node);

        list_remove(n);
        m->redelivered = true;
        if (chance(700)) {
            list_push_front(&m->queue->messages, n);
        } else {
            list_push(&m->queue->messages, n);
        }
    }
    LIST_EACH(&broker.queues, k)
    {
        queue_dispatch(CONTAINER_OF(k, struct queue, node));
    }
}

static void on_noticed(void *arg)
{
    session_close(arg);
}

/* ---- clients: up and down ---- */

static void connect_later(struct mq *mq, int64_t ms);

/* Whoever waits for an answer is told. */
static void forget_session(struct mq *mq)
{
    struct err why = {ERR_MQ_DOWN, "broker: the connection was lost"};
    struct list_node *n;

    mq->s = NULL;
    mq->blocked = false;
    mq->n_tags = 0;
    while ((n = list_pop(&mq->waiting))) {
        struct confirm *c = CONTAINER_OF(n, struct confirm, node);

        if (c->confirm) {
            c->confirm(c->arg, ERR_MQ_DOWN);
        } else if (c->done) {
            c->done(c->arg, ERR_MQ_DOWN, &why, 0);
        }
        free(c);
    }
}

static void on_down(struct mq *mq)
{
    struct err why = {ERR_MQ_DOWN, "broker: the connection was lost"};

    mq->s->cut = true;
    forget_session(mq);
    if (!mq->closing) {
        mq->o.on_down(mq->o.arg, &why);
    }
    if (!mq->closing) {
        connect_later(mq, between(200, 2000));
    }
}

static void on_lost(void *arg)
{
    struct session *s = arg;

    if (s->mq->s == s) {
        on_down(s->mq);
    }
}

static void on_connect(void *arg)
{
    struct mq *mq = arg;
    struct session *s;

    if (mq->closing || mq->s) {
        return;
    }
    if (!broker.up || mq->proc->no_broker) {
        if (!mq->told_down) {
            struct err why = {ERR_MQ_DOWN, "broker: cannot be reached"};

            mq->told_down = true;
            mq->o.on_down(mq->o.arg, &why);
        }
        connect_later(mq, between(200, 3000));
        return;
    }
    s = xmalloc(sizeof(*s));
    s->mq = mq;
    s->proc = mq->proc;
    s->gen = mq->proc->gen;
    s->epoch = ++mq->epoch;
    list_init(&s->unacked);
    list_init(&s->blocked);
    list_push(&broker.sessions, &s->node);
    mq->s = s;
    mq->told_down = true;
    mq->prefetch = mq->o.prefetch;
    mq->o.on_up(mq->o.arg);
    if (mq->s == s && broker.alarm && mq->o.on_blocked) {
        mq->blocked = true;
        mq->o.on_blocked(mq->o.arg, true);
    }
}

static void connect_later(struct mq *mq, int64_t ms)
{
    sim_at(world->now + ms, mq->proc, on_connect, mq);
}

struct mq *mq_open(uv_loop_t *loop, const struct mq_options *o)
{
    struct mq *mq = xmalloc(sizeof(*mq));

    mq->o = *o;
    mq->proc = loop->data;
    list_init(&mq->waiting);
    connect_later(mq, between(1, 20));
    return mq;
}

struct closed_call {
    void (*fn)(void *arg);
    void *arg;
};

static void on_closed(void *arg)
{
    struct closed_call *c = arg;

    if (c->fn) {
        c->fn(c->arg);
    }
    free(c);
}

void mq_close(struct mq *mq, void (*fn)(void *arg), void *arg)
{
    struct closed_call *c = xmalloc(sizeof(*c));

    mq->closing = true;
    if (mq->s) {
        sim_at(MAX(mq->s->last_in, world->now) + 1, NULL, on_noticed, mq->s);
        forget_session(mq);
    }
    *c = (struct closed_call){fn, arg};
    sim_at(world->now + between(1, 20), mq->proc, on_closed, c);
}

void mq_renew(struct mq *mq, const char *why)
{
    struct session *s = mq->s;

    if (s && !s->cut) {
        trace("%s", why);
        s->cut = true;
        sim_at(world->now, s->proc, on_lost, s);
        sim_at(world->now + 1, NULL, on_noticed, s);
    }
}

bool mq_is_up(const struct mq *mq)
{
    return mq->s != NULL;
}

bool mq_is_blocked(const struct mq *mq)
{
    return mq->blocked;
}

const char *mq_server_version(const struct mq *mq)
{
    (void)mq;
    return "simulated";
}

const char *mq_last_error(const struct mq *mq)
{
    (void)mq;
    return "";
}

size_t mq_unconfirmed(const struct mq *mq)
{
    return mq->waiting.count;
}

/* ---- frames to the broker ---- */

enum op_kind {
    OP_PUBLISH,
    OP_DECLARE,
    OP_NOTHING,
    OP_BIND,
    OP_CONSUME,
    OP_CANCEL,
    OP_ACK,
    OP_NACK
};

struct op {
    struct list_node node; /* session->blocked */
    enum op_kind kind;
    struct session *s;
    struct confirm *c;
    char *name; /* queue, routing key or consumer tag */
    char *exchange;
    int flags;
    uint64_t tag;
    bool mandatory;
    struct message *m;
    struct consumer *consumer;
};

static void op_free(struct op *op)
{
    free(op->name);
    free(op->exchange);
    if (op->m) {
        message_free(op->m);
    }
    free(op);
}

static void put(struct queue *q, const struct message *m)
{
    struct message *c = message_copy(m);

    c->queue = q;
    list_push(&q->messages, &c->node);
    queue_dispatch(q);
}

/* Some copies are lost. */
static void fan_out(const char *exchange, const struct message *m)
{
    bool beat = strcmp(exchange, "sje.beat") == 0;

    LIST_EACH(&broker.queues, n)
    {
        struct queue *q = CONTAINER_OF(n, struct queue, node);

        if ((beat ? q->on_beat : q->on_ctl) && (world->calm || !chance(5))) {
            put(q, m);
        }
    }
}

static void do_publish(struct op *op)
{
    struct queue *q = NULL;

    if (!world->calm && chance(3)) {
        answer(op->s, op->c, ERR_MQ, 0);
        return;
    }
    forge_note(op->exchange, op->name, op->m->body, op->m->len);
    if (*op->exchange) {
        fan_out(op->exchange, op->m);
        answer(op->s, op->c, 0, 0);
        return;
    }
    q = queue_find(op->name);
    if (q && (op->m->persistent || world->calm || !chance(5))) {
        put(q, op->m);
    }
    answer(op->s, op->c, !q && op->mandatory ? ERR_NOT_FOUND : 0, 0);
}

void broker_inject(const char *exchange, const char *key, const char *body, size_t len)
{
    struct queue *q = queue_find(key);
    struct message m = {.body = xmemdup(body, len),
                        .len = len,
                        .id = xstrdup(""),
                        .key = xstrdup(key),
                        .persistent = q && q->quorum};

    if (broker.up && *exchange) {
        fan_out(exchange, &m);
    } else if (broker.up && q) {
        put(q, &m);
    }
    free(m.body);
    free(m.id);
    free(m.key);
}

/* A refused operation closes the channel, and with it the connection. */
static void refuse(struct op *op, int rc)
{
    struct session *s = op->s;

    answer(s, op->c, rc, 0);
    if (s->gen == s->proc->gen) {
        sim_at(out_time(s), s->proc, on_lost, s);
    }
    sim_at(world->now + 1, NULL, on_noticed, s);
}

static void do_declare(struct op *op)
{
    struct queue *q = queue_find(op->name);

    if (q && q->owner && q->owner != op->s) {
        refuse(op, ERR_CONFLICT);
        return;
    }
    if (!q) {
        q = xmalloc(sizeof(*q));
        q->name = xstrdup(op->name);
        q->quorum = op->flags & MQ_QUORUM;
        q->owner = op->flags & MQ_EXCLUSIVE ? op->s : NULL;
        list_init(&q->messages);
        list_push(&broker.queues, &q->node);
    }
    answer(op->s, op->c, 0, (uint32_t)q->messages.count);
}

static void do_consume(struct op *op)
{
    struct queue *q = queue_find(op->name);

    if (!q || q->n_consumers == CONSUMERS_MAX) {
        refuse(op, ERR_NOT_FOUND);
        return;
    }
    q->consumers[q->n_consumers++] = op->consumer;
    answer(op->s, op->c, 0, 0);
    queue_dispatch(q);
}

static void do_cancel(struct op *op)
{
    LIST_EACH(&broker.queues, n)
    {
        struct queue *q = CONTAINER_OF(n, struct queue, node);

        for (size_t i = 0; i < q->n_consumers; i++) {
            if (q->consumers[i]->s == op->s && streq(q->consumers[i]->tag, op->name)) {
                consumer_remove(q, i);
                break;
            }
        }
    }
    answer(op->s, op->c, 0, 0);
}

static void do_ack(struct op *op)
{
    LIST_EACH(&op->s->unacked, n)
    {
        struct message *m = CONTAINER_OF(n, struct message, node);
        struct queue *q = m->queue;

        if (m->tag != op->tag) {
            continue;
        }
        for (size_t i = 0; i < q->n_consumers; i++) {
            q->consumers[i]->open -= q->consumers[i]->s == op->s && q->consumers[i]->open;
        }
        list_remove(n);
        if (op->kind == OP_ACK) {
            check_ack(m);
            message_free(m);
        } else {
            trace("    hint %.12s given back by %s", m->id, op->s->proc->name);
            m->redelivered = true;
            list_push(&q->messages, n);
        }
        queue_dispatch(q);
        return;
    }
}

static void on_op(void *arg)
{
    struct op *op = arg;
    struct queue *q;

    if (op->s->cut || op->s->closed) {
        op_free(op);
        return;
    }
    if (broker.alarm && op->kind == OP_PUBLISH) {
        list_push(&op->s->blocked, &op->node);
        return;
    }
    switch (op->kind) {
    case OP_PUBLISH:
        do_publish(op);
        break;
    case OP_DECLARE:
        do_declare(op);
        break;
    case OP_BIND:
        q = queue_find(op->name);
        if (q) {
            q->on_beat = q->on_beat || strcmp(op->exchange, "sje.beat") == 0;
            q->on_ctl = q->on_ctl || strcmp(op->exchange, "sje.ctl") == 0;
        }
        answer(op->s, op->c, 0, 0);
        break;
    case OP_CONSUME:
        do_consume(op);
        break;
    case OP_CANCEL:
        do_cancel(op);
        break;
    case OP_ACK:
    case OP_NACK:
        do_ack(op);
        break;
    case OP_NOTHING:
        answer(op->s, op->c, 0, 0);
        break;
    }
    op_free(op);
}

static struct op *op_send(struct mq *mq, enum op_kind kind, const char *name)
{
    struct op *op = xmalloc(sizeof(*op));
    struct session *s = mq->s;

    op->kind = kind;
    op->s = s;
    op->name = xstrdup(name);
    sim_at(arrival(&s->last_in), NULL, on_op, op);
    return op;
}

static struct confirm *expect(struct mq *mq, mq_confirm_fn *confirm, mq_done_fn *done, void *arg)
{
    struct confirm *c = xmalloc(sizeof(*c));

    *c = (struct confirm){.confirm = confirm, .done = done, .arg = arg};
    list_push(&mq->waiting, &c->node);
    return c;
}

int mq_publish(struct mq *mq, const struct mq_message *m, mq_confirm_fn *cb, void *arg)
{
    if (!mq->s) {
        return ERR_MQ_DOWN;
    }
    struct op *op = op_send(mq, OP_PUBLISH, m->routing_key);
    op->exchange = xstrdup(m->exchange);
    op->mandatory = m->mandatory;
    op->m = xmalloc(sizeof(*op->m));
    op->m->body = xmemdup(m->body.p, m->body.len);
    op->m->len = m->body.len;
    op->m->id = xstrdup(m->message_id ? m->message_id : "");
    op->m->key = xstrdup(m->routing_key);
    op->m->persistent = m->persistent;
    op->c = expect(mq, cb, NULL, arg);
    return 0;
}

int mq_declare_queue(struct mq *mq, const char *name, int flags, mq_done_fn *cb, void *arg)
{
    if (!mq->s) {
        return ERR_MQ_DOWN;
    }
    struct op *op = op_send(mq, OP_DECLARE, name);
    op->flags = flags;
    op->c = expect(mq, NULL, cb, arg);
    return 0;
}

int mq_declare_exchange(struct mq *mq, const char *name, const char *type, mq_done_fn *cb,
                        void *arg)
{
    (void)type;
    if (!mq->s) {
        return ERR_MQ_DOWN;
    }
    op_send(mq, OP_NOTHING, name)->c = expect(mq, NULL, cb, arg);
    return 0;
}

int mq_bind(struct mq *mq, const char *queue, const char *exchange, const char *key, mq_done_fn *cb,
            void *arg)
{
    (void)key;
    if (!mq->s) {
        return ERR_MQ_DOWN;
    }
    struct op *op = op_send(mq, OP_BIND, queue);
    op->exchange = xstrdup(exchange);
    op->c = expect(mq, NULL, cb, arg);
    return 0;
}

int mq_set_prefetch(struct mq *mq, uint16_t n)
{
    mq->prefetch = n;
    return mq->s ? 0 : ERR_MQ_DOWN;
}

int mq_consume(struct mq *mq, const char *queue, const char *tag, bool no_ack,
               mq_deliver_fn *on_deliver, mq_cancelled_fn *on_cancelled, mq_done_fn *on_ok,
               void *arg)
{
    if (!mq->s) {
        return ERR_MQ_DOWN;
    }
    for (size_t i = 0; i < mq->n_tags; i++) {
        if (streq(mq->tags[i], tag)) {
            return ERR_CONFLICT;
        }
    }
    MUST(mq->n_tags < CONSUMERS_MAX);
    snprintf(mq->tags[mq->n_tags++], sizeof(mq->tags[0]), "%s", tag);
    struct op *op = op_send(mq, OP_CONSUME, queue);
    op->consumer = xmalloc(sizeof(*op->consumer));
    *op->consumer = (struct consumer){.s = mq->s,
                                      .no_ack = no_ack,
                                      .most = mq->prefetch,
                                      .on_deliver = on_deliver,
                                      .on_cancelled = on_cancelled,
                                      .arg = arg};
    snprintf(op->consumer->tag, sizeof(op->consumer->tag), "%s", tag);
    op->c = expect(mq, NULL, on_ok, arg);
    return 0;
}

int mq_cancel(struct mq *mq, const char *tag, mq_done_fn *cb, void *arg)
{
    if (!mq->s) {
        return ERR_MQ_DOWN;
    }
    for (size_t i = 0; i < mq->n_tags; i++) {
        if (streq(mq->tags[i], tag)) {
            memmove(mq->tags[i], mq->tags[i + 1], (mq->n_tags - i - 1) * sizeof(mq->tags[0]));
            mq->n_tags--;
            break;
        }
    }
    op_send(mq, OP_CANCEL, tag)->c = expect(mq, NULL, cb, arg);
    return 0;
}

void mq_ack(struct mq *mq, uint64_t epoch, uint64_t tag, bool multiple)
{
    MUST(!multiple);
    if (mq->s && mq->s->epoch == epoch) {
        op_send(mq, OP_ACK, NULL)->tag = tag;
    }
}

void mq_nack(struct mq *mq, uint64_t epoch, uint64_t tag, bool requeue)
{
    MUST(requeue);
    if (mq->s && mq->s->epoch == epoch) {
        op_send(mq, OP_NACK, NULL)->tag = tag;
    }
}

/* ---- faults ---- */

/* `silent`: neither side is told; each finds out by its heartbeats. */
static void session_cut(struct session *s, bool silent)
{
    s->cut = true;
    if (s->gen == s->proc->gen) {
        sim_at(world->now + (silent ? between(1000, 40000) : between(0, 20)), s->proc, on_lost, s);
    }
    sim_at(world->now + (silent ? between(1000, 40000) : between(0, 20)), NULL, on_noticed, s);
}

void broker_cut(struct proc *p, bool silent)
{
    LIST_EACH(&broker.sessions, n)
    {
        struct session *s = CONTAINER_OF(n, struct session, node);

        if (s->proc == p && !s->cut && (p->no_broker || chance(600))) {
            session_cut(s, silent);
        }
    }
}

void broker_crash_of(struct proc *p)
{
    LIST_EACH(&broker.sessions, n)
    {
        struct session *s = CONTAINER_OF(n, struct session, node);

        if (s->proc == p && s->gen != p->gen && !s->cut) {
            session_cut(s, false);
        }
    }
}

void broker_stop(bool wipe)
{
    trace("the broker goes down%s", wipe ? ", its disk is lost" : "");
    broker.up = false;
    broker.alarm = false;
    world->last_bad_broker = wipe ? world->now : world->last_bad_broker;
    LIST_EACH(&broker.sessions, n)
    {
        struct session *s = CONTAINER_OF(n, struct session, node);

        session_cut(s, false);
        session_close(s);
    }
    LIST_EACH(&broker.queues, n)
    {
        struct queue *q = CONTAINER_OF(n, struct queue, node);

        LIST_EACH(&q->messages, k)
        {
            struct message *m = CONTAINER_OF(k, struct message, node);

            if (wipe || !q->quorum || !m->persistent) {
                list_remove(k);
                message_free(m);
            }
        }
        if (wipe) {
            list_remove(&q->node);
        }
    }
}

void broker_start(void)
{
    trace("the broker is up");
    broker.up = true;
}

static void on_blocked_frame(void *arg)
{
    struct frame *f = arg;

    if (client_has(f->s) && f->s->mq->blocked != (f->rc != 0)) {
        f->s->mq->blocked = f->rc != 0;
        f->s->mq->o.on_blocked(f->s->mq->o.arg, f->rc != 0);
    }
    free(f);
}

void broker_alarm(bool on)
{
    if (!broker.up || broker.alarm == on) {
        return;
    }
    trace("alarm of the broker: %s", on ? "on" : "off");
    broker.alarm = on;
    LIST_EACH(&broker.sessions, n)
    {
        struct session *s = CONTAINER_OF(n, struct session, node);
        struct list_node *k;

        while (!on && (k = list_pop(&s->blocked))) {
            on_op(CONTAINER_OF(k, struct op, node));
        }
        if (!s->cut && s->mq->o.on_blocked && s->gen == s->proc->gen) {
            struct frame *f = xmalloc(sizeof(*f));

            *f = (struct frame){.s = s, .rc = on};
            sim_at(out_time(s), s->proc, on_blocked_frame, f);
        }
    }
}

void broker_delete_some_queue(void)
{
    size_t k = broker.queues.count ? draw() % broker.queues.count : 0;

    LIST_EACH(&broker.queues, n)
    {
        struct queue *q = CONTAINER_OF(n, struct queue, node);

        if (k-- == 0) {
            trace("queue %s is deleted", q->name);
            world->last_bad_broker = world->now;
            queue_delete(q);
            return;
        }
    }
}

void broker_calm(void)
{
    if (!broker.up) {
        broker_start();
    }
    broker_alarm(false);
}
