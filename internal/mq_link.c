#include "internal/mq_link.h"

#include <stdio.h>

#define ANSWER_MS 60000 /* a request without answer for so long: the connection is deaf */

typedef int rule_fn(struct mq_link *l, const struct mq_method *m, struct err *reterr);

struct rule {
    enum mq_link_state state;
    enum mq_method_id method;
    rule_fn *fn;
};

void mq_link_init(struct mq_link *l, const struct mq_options *o, uint64_t epoch, size_t out_max,
                  void (*on_up)(void *arg), void *arg)
{
    *l = (struct mq_link){.state = LINK_START,
                          .o = o,
                          .on_up = on_up,
                          .up_arg = arg,
                          .frame_max = MQ_FRAME_MAX_EARLY};
    buf_init(&l->out, out_max);
    mq_channel_init(&l->channel, &l->out, epoch, o->confirms);
    mq_put_protocol_header(&l->out);
}

void mq_link_done(struct mq_link *l)
{
    mq_channel_done(&l->channel);
    buf_free(&l->out);
}

/* ---- the methods of the connection ---- */

static bool offers_plain(struct str mechanisms)
{
    while (mechanisms.len) {
        if (str_eq(str_cut(mechanisms, ' ', &mechanisms), STR("PLAIN"))) {
            return true;
        }
    }
    return false;
}

static int on_start(struct mq_link *l, const struct mq_method *m, struct err *reterr)
{
    if (!offers_plain(m->mechanism)) {
        return err_set(reterr, ERR_AUTH, "the broker does not offer PLAIN authentication");
    }
    mq_clean_text(l->version, sizeof(l->version), m->version);
    mq_put_start_ok(&l->out, l->o->username, l->o->password, l->o->name);
    if (l->out.failed) {
        return err_set(reterr, ERR_CONFIG,
                       "the user name, password or connection name is too long");
    }
    l->state = LINK_TUNE;
    return 0;
}

static int on_tune(struct mq_link *l, const struct mq_method *m, struct err *reterr)
{
    uint16_t ours = (uint16_t)MIN(MAX(l->o->heartbeat_s, 1), UINT16_MAX);

    if (m->frame_max != 0 && m->frame_max < MQ_FRAME_MIN) {
        return err_set(reterr, ERR_PROTOCOL, "the broker limits frames to %u bytes", m->frame_max);
    }
    l->frame_max = m->frame_max ? MIN(m->frame_max, MQ_FRAME_MAX) : MQ_FRAME_MAX;
    l->channel.frame_max = l->frame_max;
    l->heartbeat_s = m->heartbeat ? MIN(m->heartbeat, ours) : ours;
    mq_put_tune_ok(&l->out, l->frame_max, l->heartbeat_s);
    mq_put_open(&l->out, l->o->vhost);
    if (l->out.failed) {
        return err_set(reterr, ERR_CONFIG, "the name of the virtual host is too long");
    }
    l->state = LINK_OPEN;
    return 0;
}

static void on_setup(void *arg, int rc, const struct err *why, uint32_t count)
{
    struct mq_link *l = arg;

    (void)why;
    (void)count;
    if (rc == 0 && l->channel.requests.count == 0) {
        l->state = LINK_UP;
        l->on_up(l->up_arg);
    }
}

static int on_open_ok(struct mq_link *l, const struct mq_method *m, struct err *reterr)
{
    struct mq_channel *c = &l->channel;

    (void)m;
    mq_put_channel_open(&l->out);
    int rc = mq_channel_expect(c, MQ_CHANNEL_OPEN, MQ_CHANNEL_OPEN_OK, on_setup, l);
    if (l->o->prefetch) {
        mq_put_qos(&l->out, l->o->prefetch);
        rc = rc ? rc : mq_channel_expect(c, MQ_BASIC_QOS, MQ_BASIC_QOS_OK, on_setup, l);
    }
    if (l->o->confirms) {
        mq_put_confirm_select(&l->out);
        rc = rc ? rc : mq_channel_expect(c, MQ_CONFIRM_SELECT, MQ_CONFIRM_SELECT_OK, on_setup, l);
    }
    l->state = LINK_SETUP;
    return rc ? err_set(reterr, rc, "the channel cannot be opened") : 0;
}

static int on_block(struct mq_link *l, const struct mq_method *m, struct err *reterr)
{
    bool blocked = m->id == MQ_CONNECTION_BLOCKED;

    (void)reterr;
    if (l->blocked != blocked) {
        l->blocked = blocked;
        if (l->o->on_blocked) {
            l->o->on_blocked(l->o->arg, blocked);
        }
    }
    return 0;
}

static const struct rule rules[] = {
    {LINK_START, MQ_CONNECTION_START, on_start},    {LINK_TUNE, MQ_CONNECTION_TUNE, on_tune},
    {LINK_OPEN, MQ_CONNECTION_OPEN_OK, on_open_ok}, {LINK_UP, MQ_CONNECTION_BLOCKED, on_block},
    {LINK_UP, MQ_CONNECTION_UNBLOCKED, on_block},
};

static int on_close(struct mq_link *l, const struct mq_method *m, struct err *reterr)
{
    char what[200];

    l->refusal = m->code;
    mq_put_close_ok(&l->out);
    if (l->state == LINK_TUNE && m->code == 403) {
        return err_set(reterr, ERR_AUTH,
                       "the broker refused user \"%.100s\": wrong name or password, or not allowed "
                       "from this host",
                       l->o->username);
    }
    if (l->state == LINK_OPEN) {
        snprintf(what, sizeof(what), "the broker refused user \"%.60s\" virtual host \"%.60s\"",
                 l->o->username, l->o->vhost);
    } else {
        snprintf(what, sizeof(what), "the broker closed the connection");
    }
    return mq_refused(m, what, reterr);
}

static int on_connection_method(struct mq_link *l, const struct mq_method *m, struct err *reterr)
{
    if (m->id == MQ_CONNECTION_CLOSE) {
        return on_close(l, m, reterr);
    }
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (rules[i].state == l->state && rules[i].method == m->id) {
            return rules[i].fn(l, m, reterr);
        }
    }
    return err_set(reterr, ERR_PROTOCOL, "unexpected method %s", mq_method_text(m->id));
}

/* ---- frames ---- */

static int on_leaving_frame(struct mq_link *l, const struct mq_frame *f, struct err *reterr)
{
    struct mq_method m = {0};

    if (f->type != MQ_FRAME_METHOD || f->channel != 0) {
        return 0;
    }
    int rc = mq_method_read(l->channel.decoder, f->payload, &m, reterr);
    if (rc == 0 && (m.id == MQ_CONNECTION_CLOSE_OK || m.id == MQ_CONNECTION_CLOSE)) {
        rc = err_set(reterr, ERR_CLOSED, "closed");
    }
    return rc;
}

static int on_channel_frame(struct mq_link *l, const struct mq_frame *f, struct err *reterr)
{
    struct mq_method m = {0};

    if (l->state < LINK_SETUP) {
        return err_set(reterr, ERR_PROTOCOL, "a frame on a channel that is not open");
    }
    if (f->type == MQ_FRAME_HEADER) {
        return mq_channel_header(&l->channel, f->payload, reterr);
    }
    if (f->type == MQ_FRAME_BODY) {
        return mq_channel_body(&l->channel, f->payload, reterr);
    }
    int rc = mq_method_read(l->channel.decoder, f->payload, &m, reterr);
    if (rc == 0 && m.id == MQ_CHANNEL_CLOSE) {
        l->refusal = m.code;
    }
    return rc ? rc : mq_channel_method(&l->channel, &m, reterr);
}

static int on_frame(struct mq_link *l, const struct mq_frame *f, struct err *reterr)
{
    struct mq_method m = {0};

    if (f->type == MQ_FRAME_HEARTBEAT) {
        return 0;
    }
    if (l->state == LINK_LEAVING) {
        return on_leaving_frame(l, f, reterr);
    }
    if (f->channel == MQ_CHANNEL) {
        return on_channel_frame(l, f, reterr);
    }
    if (f->type != MQ_FRAME_METHOD) {
        return err_set(reterr, ERR_PROTOCOL, "a message outside of a channel");
    }
    int rc = mq_method_read(l->channel.decoder, f->payload, &m, reterr);
    return rc ? rc : on_connection_method(l, &m, reterr);
}

/* A server that does not speak our version answers with its own protocol header. */
static int read_frame(struct mq_link *l, struct str in, struct mq_frame *ret, struct err *reterr)
{
    if (l->state == LINK_START && in.len && in.p[0] == 'A') {
        if (in.len < 8) {
            return 0;
        }
        if (str_starts(in, STR("AMQP"))) {
            return err_set(reterr, ERR_PROTOCOL, "the server speaks AMQP %d.%d.%d, not 0.9.1",
                           in.p[5], in.p[6], in.p[7]);
        }
    }
    int n = mq_frame_read(in, l->frame_max, ret, reterr);
    if (n < 0 && l->state == LINK_START) {
        return err_set(reterr, ERR_PROTOCOL, "the server does not speak AMQP 0-9-1");
    }
    return n;
}

int mq_link_input(struct mq_link *l, struct str in, int64_t now, size_t *ret_used,
                  struct err *reterr)
{
    size_t used = 0;
    int rc = 0;

    l->last_in = now;
    while (rc == 0 && l->state != LINK_ENDED) {
        struct mq_frame f = {0};
        int n = read_frame(l, (struct str){in.p + used, in.len - used}, &f, reterr);

        if (n <= 0) {
            rc = n;
            break;
        }
        used += (size_t)n;
        rc = on_frame(l, &f, reterr);
    }
    *ret_used = used;
    return rc;
}

int mq_link_eof(const struct mq_link *l, struct err *reterr)
{
    if (l->state == LINK_TUNE || l->state == LINK_OPEN) {
        return err_set(reterr, ERR_MQ_DOWN,
                       "the broker hung up during login (wrong user, password or virtual host?)");
    }
    return err_set(reterr, ERR_MQ_DOWN, "the broker hung up");
}

/* ---- time ---- */

uint64_t mq_link_tick_ms(const struct mq_link *l)
{
    return MIN((uint64_t)l->heartbeat_s * 250, 5000);
}

int mq_link_tick(struct mq_link *l, int64_t now, bool idle, struct err *reterr)
{
    int64_t interval = (int64_t)l->heartbeat_s * 1000;

    if (l->state != LINK_UP) {
        return 0;
    }
    if (now - l->ticked_at > interval) {
        l->last_in = now; /* it was us who slept: what came meanwhile is not read yet */
    }
    l->ticked_at = now;
    if (now - l->last_in > 2 * interval) {
        return err_set(reterr, ERR_TIMEOUT, "nothing heard from the broker for %lld s",
                       (long long)(now - l->last_in) / 1000);
    }
    if (l->channel.requests.count == 0 || l->channel.answered != l->answered) {
        l->answered = l->channel.answered;
        l->answered_at = now;
    } else if (now - l->answered_at > ANSWER_MS) {
        return err_set(reterr, ERR_TIMEOUT, "the broker did not answer %s within %d s",
                       mq_channel_waits_for(&l->channel), ANSWER_MS / 1000);
    }
    if (idle && now - l->last_out >= interval / 2) {
        mq_put_heartbeat(&l->out);
    }
    return 0;
}

/* ---- the end ---- */

void mq_link_leave(struct mq_link *l)
{
    l->state = LINK_LEAVING;
    mq_put_close(&l->out);
}

void mq_link_end(struct mq_link *l, const struct err *why)
{
    l->state = LINK_ENDED;
    mq_channel_end(&l->channel, why);
}
