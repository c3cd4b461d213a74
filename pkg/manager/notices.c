/* What managers tell each other. Notices only save time: each is found out without them too, from
 * beats or the database. */
#include "internal/clock.h"
#include "pkg/manager/mgr.h"

#define NOTICE_MS 2  /* what changes meanwhile goes into one message */
#define DUE_MS    10 /* between two notices of times */
#define CLOCKS_MS 50
#define OTHERS_MS 15000 /* so long another manager is there that said so; it does each 5 s */

static void send_finals(struct manager *m)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, MESSAGE_MAX);
    finals_write(&b, m->id, m->finals, m->n_finals);
    m->n_finals = 0;
    mgr_send(m, "sje.ctl", "", &b);
}

static void flush_finals(struct manager *m)
{
    if (m->n_finals) {
        send_finals(m);
    }
}

static void flush_granted(struct manager *m)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (m->n_granted) {
        buf_init(&b, MESSAGE_MAX);
        tasks_write(&b, "granted", NULL, m->granted, m->n_granted);
        m->n_granted = 0;
        mgr_send(m, "sje.ctl", "", &b);
    }
}

static void flush_due(struct manager *m);

static void on_timer(uv_timer_t *t)
{
    flush_granted(t->data);
    flush_finals(t->data);
    flush_due(t->data);
}

static void flush_soon(struct manager *m)
{
    if (!uv_is_active((uv_handle_t *)&m->notice_timer)) {
        MUST(uv_timer_start(&m->notice_timer, on_timer, NOTICE_MS, 0) == 0);
    }
}

static void flush_due(struct manager *m)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct due *d = &m->due;

    if (d->tell == INT64_MAX) {
        return;
    }
    if (clock_boot_ms() - d->sent < DUE_MS) {
        flush_soon(m);
        return;
    }
    d->sent = clock_boot_ms();
    d->told = d->tell;
    d->tell = INT64_MAX;
    buf_init(&b, 256);
    buf_addf(&b, "{\"v\":1,\"type\":\"due\",\"atMs\":%lld}", (long long)d->told);
    mgr_send(m, "sje.ctl", "", &b);
}

/* The leader looks ahead: what it will look at in time anyway need not be told. Not at the very
 * last moment, for its clock is not ours. */
void notices_due(struct manager *m, int64_t at)
{
    struct due *d = &m->due;

    if (!(d->told > mgr_now(m) + CLOCKS_MS && d->told <= at)) {
        d->tell = MIN(d->tell, at);
        flush_soon(m);
    }
}

void notices_init(struct manager *m)
{
    MUST(uv_timer_init(m->loop, &m->notice_timer) == 0);
    m->notice_timer.data = m;
}

/* Clients may wait at any manager: the leader tells the others too, while there are some. */
void notices_here(struct manager *m)
{
    if (!m->n_finals) {
        send_finals(m); /* of nothing */
    }
}

void notices_heard(struct manager *m, const char *from)
{
    if (!streq(from, m->id)) {
        m->others_until = clock_boot_ms() + OTHERS_MS;
    }
}

/* The leader holds the leases and the hints itself. */
static bool is_told(const struct manager *m, bool granted, const struct task *row)
{
    bool final = task_state_final(row->state) && (!m->epoch || clock_boot_ms() < m->others_until);

    return final || (granted && !m->epoch);
}

void notices_change(struct manager *m, enum task_state from, const struct task *row)
{
    bool granted = row->state == TASK_RUNNING && from != TASK_RUNNING;

    if (from == TASK_RUNNING && row->state == TASK_READY) {
        accept_tell_ready(m, row); /* returned */
    }

    if (!is_told(m, granted, row)) {
        return;
    }
    if (granted) {
        m->granted[m->n_granted++] = (struct task_ref){row->id, row->attempt};
    } else {
        m->finals[m->n_finals++] = row->id;
    }
    if (m->n_granted == ARRAY_LEN(m->granted)) {
        flush_granted(m);
    }
    if (m->n_finals == ARRAY_LEN(m->finals)) {
        flush_finals(m);
    }
    flush_soon(m);
}

void notices_leader(struct manager *m)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, 256);
    answer_begin(&b, "leader", m->id, "", NULL);
    buf_addf(&b, ",\"epoch\":%lld}", (long long)m->epoch);
    mgr_send(m, "sje.ctl", "", &b);
}

void notices_orders(struct manager *m)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, 256);
    buf_adds(&b, "{\"v\":1,\"type\":\"orders\"}");
    mgr_send(m, "sje.ctl", "", &b);
}
