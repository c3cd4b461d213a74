#include "internal/mq_channel.h"

#include <stdio.h>
#include <stdlib.h>

#define HASH_FUNCTION HASH_FNV /* clang takes uthash's default for a fall-through by mistake */
#include <uthash.h>

#define BODY_KEEP 1048576u /* a larger body buffer is given back after the message */
#define RING_MIN  256u

struct mq_request {
    struct list_node node;
    enum mq_method_id request;
    enum mq_method_id answer;
    char *tag; /* consume and cancel; else NULL */
    mq_done_fn *cb;
    void *arg;
};

struct mq_confirm {
    mq_confirm_fn *cb;
    void *arg;
    bool waiting;
    bool returned; /* as unroutable; the confirm is still to come */
};

struct mq_consumer {
    char *tag;
    bool no_ack;
    mq_deliver_fn *on_deliver;
    mq_cancelled_fn *on_cancelled;
    void *arg;
    UT_hash_handle hh;
};

void mq_channel_init(struct mq_channel *c, struct buf *out, uint64_t epoch, bool confirms)
{
    *c = (struct mq_channel){.out = out,
                             .decoder = mq_decoder_new(),
                             .frame_max = MQ_FRAME_MAX_EARLY,
                             .epoch = epoch,
                             .confirms = confirms,
                             .first_seq = 1,
                             .next_seq = 1};
    list_init(&c->requests);
    buf_init(&c->in.body, MQ_BODY_MAX);
    /* Room for the three names at once, so that slices of it stay where they are. */
    buf_init(&c->in.text, (size_t)3 * MQ_SHORT_MAX);
    MUST(buf_reserve(&c->in.text, (size_t)3 * MQ_SHORT_MAX));
}

static void request_free(struct mq_request *r)
{
    if (r) {
        free(r->tag);
        free(r);
    }
}

static void request_freep(struct mq_request **r)
{
    request_free(*r);
}

static void consumer_free(struct mq_consumer *u)
{
    if (u) {
        free(u->tag);
        free(u);
    }
}

void mq_channel_done(struct mq_channel *c)
{
    struct mq_consumer *u = NULL;
    struct mq_consumer *next = NULL;

    assert(c->requests.count == 0);
    HASH_ITER(hh, c->consumers, u, next)
    {
        HASH_DEL(c->consumers, u);
        consumer_free(u);
    }
    free(c->ring);
    buf_free(&c->in.text);
    buf_free(&c->in.body);
    mq_decoder_free(c->decoder);
}

/* ---- requests ---- */

static int expect(struct mq_channel *c, enum mq_method_id request, enum mq_method_id answer,
                  const char *tag, mq_done_fn *cb, void *arg)
{
    if (c->requests.count >= MQ_REQUESTS_MAX) {
        return ERR_BUSY;
    }
    struct mq_request *r = xmalloc(sizeof(*r));
    *r = (struct mq_request){
        .request = request, .answer = answer, .tag = xstrdup(tag), .cb = cb, .arg = arg};
    list_push(&c->requests, &r->node);
    return 0;
}

int mq_channel_expect(struct mq_channel *c, enum mq_method_id request, enum mq_method_id answer,
                      mq_done_fn *cb, void *arg)
{
    return expect(c, request, answer, NULL, cb, arg);
}

const char *mq_channel_waits_for(struct mq_channel *c)
{
    struct mq_request *r = LIST_ENTRY(list_first(&c->requests), struct mq_request, node);

    return r ? mq_method_text(r->request) : NULL;
}

static struct mq_consumer *find_consumer(const struct mq_channel *c, struct str tag)
{
    struct mq_consumer *u = NULL;

    HASH_FIND(hh, c->consumers, tag.p, tag.len, u);
    return u;
}

/* The answers of the broker's channel come in order. Those of a consumer, which have its tag, come
 * from the queue's own process in the broker: later answers of the channel may overtake them. */
static struct mq_request *find_request(struct mq_channel *c, const struct mq_method *m)
{
    LIST_EACH(&c->requests, n)
    {
        struct mq_request *r = CONTAINER_OF(n, struct mq_request, node);

        if (r->answer == m->id && (!r->tag || str_eq(str_of(r->tag), m->consumer))) {
            return r;
        }
        if (!r->tag) {
            break;
        }
    }
    return NULL;
}

static int on_answer(struct mq_channel *c, const struct mq_method *m, struct err *reterr)
{
    CLEANUP(request_freep)
    struct mq_request *r = find_request(c, m);

    if (!r) {
        return err_set(reterr, ERR_PROTOCOL, "%s answers nothing we asked", mq_method_text(m->id));
    }
    list_remove(&r->node);
    c->answered++;
    if (m->id == MQ_BASIC_CANCEL_OK) {
        struct mq_consumer *u = find_consumer(c, m->consumer);

        if (u) { /* else the broker was faster with its own basic.cancel */
            HASH_DEL(c->consumers, u);
            consumer_free(u);
        }
    }
    if (r->cb) {
        r->cb(r->arg, 0, NULL, m->count);
    }
    return 0;
}

/* The end of the connection as well. The refused request is told why, the others are told with the
 * end. */
static int on_channel_close(struct mq_channel *c, const struct mq_method *m, struct err *reterr)
{
    struct mq_request *r = LIST_ENTRY(list_first(&c->requests), struct mq_request, node);
    struct err why = {0};
    char what[64];

    snprintf(what, sizeof(what), "the broker refused %s",
             m->culprit ? mq_method_text(m->culprit) : "to go on with the channel");
    int rc = mq_refused(m, what, &why);
    if (reterr) {
        *reterr = why;
    }
    mq_put_channel_close_ok(c->out);
    mq_put_close(c->out);
    if (r && (uint32_t)r->request == m->culprit) {
        list_remove(&r->node);
        if (r->cb) {
            r->cb(r->arg, rc, &why, 0);
        }
        request_free(r);
    }
    return rc;
}

/* ---- confirms ---- */

static struct mq_confirm *slot(const struct mq_channel *c, uint64_t seq)
{
    return &c->ring[seq & (c->ring_cap - 1)];
}

static struct mq_confirm *confirm_at(const struct mq_channel *c, uint64_t seq)
{
    return seq >= c->first_seq && seq < c->next_seq ? slot(c, seq) : NULL;
}

static void ring_grow(struct mq_channel *c)
{
    size_t cap = c->ring_cap ? c->ring_cap * 2 : RING_MIN;
    struct mq_confirm *ring = xcalloc(cap, sizeof(*ring));

    for (uint64_t s = c->first_seq; s < c->next_seq; s++) {
        ring[s & (cap - 1)] = *slot(c, s);
    }
    free(c->ring);
    c->ring = ring;
    c->ring_cap = cap;
}

static void settle(struct mq_channel *c, uint64_t seq, int rc)
{
    struct mq_confirm *at = confirm_at(c, seq);

    if (!at || !at->waiting) {
        return;
    }
    struct mq_confirm told = *at;
    at->waiting = false;
    c->unconfirmed--;
    while (c->first_seq < c->next_seq && !slot(c, c->first_seq)->waiting) {
        c->first_seq++;
    }
    if (told.cb) {
        told.cb(told.arg, rc == 0 && told.returned ? ERR_NOT_FOUND : rc);
    }
}

static int on_confirm(struct mq_channel *c, const struct mq_method *m, struct err *reterr)
{
    int rc = m->id == MQ_BASIC_ACK ? 0 : ERR_MQ;
    uint64_t last = m->tag;

    if (last == 0 && m->multiple) {
        last = c->next_seq - 1;
    } else if (last == 0 || last >= c->next_seq || !c->confirms) {
        return err_set(reterr, ERR_PROTOCOL, "a confirm for message %llu, which was never sent",
                       (unsigned long long)last);
    }
    c->refused = c->refused || rc;
    for (uint64_t s = m->multiple ? c->first_seq : last; s <= last; s++) {
        settle(c, s, rc);
    }
    return 0;
}

int mq_channel_publish(struct mq_channel *c, const struct mq_message *m, mq_confirm_fn *cb,
                       void *arg)
{
    char seq[24];
    struct str correlation = {seq, 0};

    if (cb && !c->confirms) {
        return ERR_INVALID;
    }
    if (c->next_seq - c->first_seq >= MQ_UNCONFIRMED_MAX) {
        return ERR_BUSY;
    }
    if (c->confirms && m->mandatory) {
        /* basic.return has no number: the message itself carries it there and back. */
        int n = snprintf(seq, sizeof(seq), "%llu", (unsigned long long)c->next_seq);
        correlation.len = (size_t)n;
    }
    int rc = mq_put_publish(c->out, m, correlation, c->frame_max);
    if (rc || !c->confirms) {
        return rc ? ERR_BUSY : 0;
    }
    if (c->next_seq - c->first_seq >= c->ring_cap) {
        ring_grow(c);
    }
    uint64_t s = c->next_seq++;
    *slot(c, s) = (struct mq_confirm){.cb = cb, .arg = arg, .waiting = true};
    c->unconfirmed++;
    return 0;
}

/* ---- consumers ---- */

int mq_channel_consume(struct mq_channel *c, const char *queue, const char *tag, bool no_ack,
                       mq_deliver_fn *on_deliver, mq_cancelled_fn *on_cancelled, mq_done_fn *on_ok,
                       void *arg)
{
    if (find_consumer(c, str_of(tag))) {
        return ERR_CONFLICT;
    }
    int rc = expect(c, MQ_BASIC_CONSUME, MQ_BASIC_CONSUME_OK, tag, on_ok, arg);
    if (rc) {
        return rc;
    }
    struct mq_consumer *u = xmalloc(sizeof(*u));
    u->tag = xstrdup(tag);
    u->no_ack = no_ack;
    u->on_deliver = on_deliver;
    u->on_cancelled = on_cancelled;
    u->arg = arg;
    HASH_ADD_KEYPTR(hh, c->consumers, u->tag, strlen(u->tag), u);
    mq_put_consume(c->out, queue, tag, no_ack);
    return 0;
}

int mq_channel_cancel(struct mq_channel *c, const char *tag, mq_done_fn *cb, void *arg)
{
    if (!find_consumer(c, str_of(tag))) {
        return ERR_NOT_FOUND;
    }
    int rc = expect(c, MQ_BASIC_CANCEL, MQ_BASIC_CANCEL_OK, tag, cb, arg);
    if (rc == 0) {
        mq_put_cancel(c->out, tag);
    }
    return rc;
}

static void on_broker_cancel(struct mq_channel *c, const struct mq_method *m)
{
    struct mq_consumer *u = find_consumer(c, m->consumer);

    if (!m->nowait) {
        mq_put_cancel_ok(c->out, m->consumer);
    }
    if (u) { /* else our own basic.cancel crossed it */
        HASH_DEL(c->consumers, u);
        if (u->on_cancelled) {
            u->on_cancelled(u->arg);
        }
        consumer_free(u);
    }
}

/* ---- messages that come in ---- */

static int on_deliver(struct mq_channel *c, const struct mq_method *m, struct err *reterr)
{
    struct mq_incoming *in = &c->in;

    in->consumer = find_consumer(c, m->consumer);
    if (!in->consumer) {
        return err_set(reterr, ERR_PROTOCOL, "a delivery for a consumer that does not exist");
    }
    in->state = MQ_CONTENT_HEADER;
    in->returned = false;
    buf_reset(&in->text);
    in->delivery = (struct mq_delivery){
        .tag = m->tag,
        .epoch = c->epoch,
        .redelivered = m->redelivered,
        .consumer = str_of(in->consumer->tag),
        .routing_key = {in->text.data, m->key.len},
    };
    MUST(buf_add(&in->text, m->key.p, m->key.len) == 0);
    return 0;
}

static struct str keep_text(struct buf *text, struct str s)
{
    struct str kept = {text->data + text->len, s.len};

    MUST(buf_add(text, s.p, s.len) == 0);
    return kept;
}

/* The message is complete; `body` lives until the next frame. */
static void finish_content(struct mq_channel *c, struct str body)
{
    struct mq_incoming *in = &c->in;

    in->state = MQ_CONTENT_NONE;
    if (in->returned) {
        struct mq_confirm *at = confirm_at(c, in->publish_seq);

        if (at) {
            at->returned = true;
        }
    } else if (in->skip) {
        c->dropped++;
        if (!in->consumer->no_ack) {
            mq_put_nack(c->out, in->delivery.tag, false);
        }
    } else {
        in->delivery.body = body;
        in->consumer->on_deliver(in->consumer->arg, &in->delivery);
    }
    if (in->body.cap > BODY_KEEP) {
        buf_free(&in->body);
    }
}

int mq_channel_header(struct mq_channel *c, struct str payload, struct err *reterr)
{
    struct mq_incoming *in = &c->in;
    struct mq_header h = {0};
    int64_t seq = 0;

    if (in->state != MQ_CONTENT_HEADER) {
        return err_set(reterr, ERR_PROTOCOL, "a content header without its method");
    }
    int rc = mq_header_read(payload, &h, reterr);
    if (rc) {
        return rc;
    }
    if (in->returned) {
        (void)str_to_i64(h.correlation_id, 1, INT64_MAX, &seq);
        in->publish_seq = (uint64_t)seq;
    } else {
        in->delivery.message_id = keep_text(&in->text, h.message_id);
        in->delivery.reply_to = keep_text(&in->text, h.reply_to);
    }
    in->skip = in->returned || h.body_size > MQ_BODY_MAX;
    in->missing = h.body_size;
    in->state = MQ_CONTENT_BODY;
    buf_reset(&in->body);
    if (in->missing == 0) {
        finish_content(c, STR(""));
    }
    return 0;
}

int mq_channel_body(struct mq_channel *c, struct str payload, struct err *reterr)
{
    struct mq_incoming *in = &c->in;

    if (in->state != MQ_CONTENT_BODY || payload.len > in->missing) {
        return err_set(reterr, ERR_PROTOCOL, "a piece of a body that is not due");
    }
    in->missing -= payload.len;
    if (in->skip || (in->missing == 0 && in->body.len == 0)) {
        if (in->missing == 0) {
            finish_content(c, payload);
        }
        return 0;
    }
    MUST(buf_add(&in->body, payload.p, payload.len) == 0);
    if (in->missing == 0) {
        finish_content(c, (struct str){in->body.data, in->body.len});
    }
    return 0;
}

/* ---- dispatch ---- */

int mq_channel_method(struct mq_channel *c, const struct mq_method *m, struct err *reterr)
{
    if (c->in.state != MQ_CONTENT_NONE) {
        return err_set(reterr, ERR_PROTOCOL, "%s in the middle of a message",
                       mq_method_text(m->id));
    }
    switch ((uint32_t)m->id) {
    case MQ_BASIC_DELIVER:
        return on_deliver(c, m, reterr);
    case MQ_BASIC_ACK:
    case MQ_BASIC_NACK:
        return on_confirm(c, m, reterr);
    case MQ_BASIC_RETURN:
        c->in.state = MQ_CONTENT_HEADER;
        c->in.returned = true;
        return 0;
    case MQ_BASIC_CANCEL:
        on_broker_cancel(c, m);
        return 0;
    case MQ_CHANNEL_CLOSE:
        return on_channel_close(c, m, reterr);
    default:
        return on_answer(c, m, reterr);
    }
}

void mq_channel_end(struct mq_channel *c, const struct err *why)
{
    struct list_node *n = NULL;

    while (c->first_seq < c->next_seq) {
        settle(c, c->first_seq, ERR_MQ_DOWN);
    }
    while ((n = list_pop(&c->requests))) {
        CLEANUP(request_freep)
        struct mq_request *r = LIST_ENTRY(n, struct mq_request, node);

        if (r->cb) {
            r->cb(r->arg, ERR_MQ_DOWN, why, 0);
        }
    }
}
