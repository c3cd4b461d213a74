/* What managers tell each other. Notices only save time: each is found out without them too, from
 * beats or the database. */
#include "pkg/manager/mgr.h"

#define NOTICE_MS 2 /* what changes meanwhile goes into one message */

static void flush_finals(struct manager *m)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (m->n_finals) {
        buf_init(&b, MESSAGE_MAX);
        finals_write(&b, m->finals, m->n_finals);
        m->n_finals = 0;
        mgr_send(m, "sje.ctl", "", &b);
    }
}

static void flush_granted(struct manager *m)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (m->n_granted) {
        buf_init(&b, MESSAGE_MAX);
        tasks_write(&b, "granted", m->granted, m->n_granted);
        m->n_granted = 0;
        mgr_send(m, "sje.ctl", "", &b);
    }
}

static void on_timer(uv_timer_t *t)
{
    flush_granted(t->data);
    flush_finals(t->data);
}

void notices_init(struct manager *m)
{
    MUST(uv_timer_init(m->loop, &m->notice_timer) == 0);
    m->notice_timer.data = m;
}

/* The leader has nobody to tell: it holds the leases and the hints itself. */
void notices_change(struct manager *m, enum task_state from, const struct task *row)
{
    bool granted = row->state == TASK_RUNNING && from != TASK_RUNNING;

    if (from == TASK_RUNNING && row->state == TASK_READY) {
        accept_tell_ready(m, row->pool); /* returned */
    }

    if (m->epoch || (!granted && !task_state_final(row->state))) {
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
    if (!uv_is_active((uv_handle_t *)&m->notice_timer)) {
        MUST(uv_timer_start(&m->notice_timer, on_timer, NOTICE_MS, 0) == 0);
    }
}

void notices_leader(struct manager *m)
{
    struct buf b CLEANUP(buf_free);

    buf_init(&b, 256);
    answer_begin(&b, "leader", m->id, "");
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
