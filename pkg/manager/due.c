/* What the time brings: delays and backoffs that are over, waits in the queue that were too long.
 *
 * The leader reads once a second what will be due within the next moments and keeps it; what
 * becomes so near meanwhile is told by the ledger's hook, or by a notice of another manager, upon
 * which it reads again at that time. So a timer fires at the right moment, without a statement.
 * Forgetting is no harm: the next read finds it. */
#include "internal/clock.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define SCAN_LIMIT 1000
#define AHEAD_MS   DUE_AHEAD_MS
#define TIMER_MS   2  /* what is due within that goes together */
#define ASK_MS     10 /* between two reads */

struct due_key {
    struct id task;
    enum task_event_type type; /* TE_DUE, TE_QUEUE_TIMEOUT */
};

struct due_entry {
    struct due_key key;
    UT_hash_handle hh;
    struct heap_node node; /* due.waiting, until it is submitted */
    struct manager *m;
    int64_t at; /* wall ms */
};

static bool entry_less(const struct heap_node *a, const struct heap_node *b)
{
    return CONTAINER_OF_CONST(a, struct due_entry, node)->at <
           CONTAINER_OF_CONST(b, struct due_entry, node)->at;
}

static void on_timer(uv_timer_t *t);

static void arm(struct manager *m)
{
    struct due *d = &m->due;
    struct heap_node *first = heap_min(&d->waiting);
    int64_t now = mgr_now(m);
    int64_t next = d->scan_at;

    if (!m->epoch || m->stopping) {
        return;
    }
    if (next != INT64_MAX) {
        next = MAX(next, now + d->scanned + ASK_MS - clock_boot_ms());
    }
    if (first) {
        next = MIN(next, CONTAINER_OF(first, struct due_entry, node)->at);
    }
    if (next != INT64_MAX) {
        MUST(uv_timer_start(&d->timer, on_timer, (uint64_t)MAX(next - now, (int64_t)TIMER_MS), 0) ==
             0);
    }
}

static void entry_free(struct due_entry *e)
{
    HASH_DEL(e->m->due.entries, e);
    free(e);
}

static void remember(struct manager *m, const struct id *task, enum task_event_type type,
                     int64_t at)
{
    struct due *d = &m->due;
    struct due_key key;
    struct due_entry *e = NULL;

    memset(&key, 0, sizeof(key));
    key.task = *task;
    key.type = type;
    HASH_FIND(hh, d->entries, &key, sizeof(key), e);
    if (!e) {
        e = xmalloc(sizeof(*e));
        e->key = key;
        e->m = m;
        e->at = at;
        HASH_ADD(hh, d->entries, key, sizeof(e->key), e);
        heap_push(&d->waiting, &e->node);
    } else if (heap_linked(&e->node) && e->at != at) {
        e->at = at;
        heap_fix(&d->waiting, &e->node);
    }
}

static void on_answer(void *arg, const struct ledger_answer *a)
{
    struct due_entry *e = arg;
    struct manager *m = e->m;
    struct due *d = &m->due;

    (void)a;
    entry_free(e);
    if (--d->submitted < SCAN_LIMIT / 2 && d->more) {
        d->more = false;
        d->scan_at = 0;
        arm(m);
    }
}

static void submit(struct manager *m, struct due_entry *e, int64_t now)
{
    struct task_event ev = {.type = e->key.type, .now = now};
    struct waiting_for why;
    const struct task *row =
        ev.type == TE_QUEUE_TIMEOUT ? ledger_peek(m->ledger, &e->key.task) : NULL;

    if (row && manager_waiting_for(m, row, &why)) {
        ev.reason = why.text;
    }
    heap_remove(&m->due.waiting, &e->node);
    m->due.submitted++;
    ledger_submit(m->ledger, &e->key.task, &ev, m->epoch, on_answer, e);
}

/* A read belongs to the epoch in which it was sent. */
struct scan_call {
    struct manager *m;
    int64_t epoch;
    enum task_event_type type;
    int64_t until;
};

static int64_t time_of(const struct task *row, enum task_event_type type)
{
    return type == TE_DUE ? row->run_after : row->queue_deadline;
}

static void on_rows(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct scan_call *c CLEANUP(freep) = arg;
    struct manager *m = c->m;
    struct due *d = &m->due;

    (void)why; /* a database that is away is reported by its owner; the next tick reads again */
    if (rc < 0 || c->epoch != m->epoch) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        ledger_offer(m->ledger, &rows[i]);
        remember(m, &rows[i].id, c->type, time_of(&rows[i], c->type));
    }
    if (n == SCAN_LIMIT) {
        int64_t last = time_of(&rows[n - 1], c->type);

        d->more = d->more || last <= mgr_now(m); /* when these are written */
        d->scan_at = last <= mgr_now(m) ? d->scan_at : MIN(d->scan_at, last);
    }
    arm(m);
}

static void scan(struct manager *m)
{
    static const struct {
        enum task_event_type type;
        int (*send)(struct db *db, int64_t until, int limit, store_rows_fn *cb, void *arg);
    } kinds[] = {{TE_DUE, store_scan_due}, {TE_QUEUE_TIMEOUT, store_scan_queue_timeout}};
    int64_t until = mgr_now(m) + AHEAD_MS;

    m->due.scan_at = INT64_MAX;
    m->due.scanned = clock_boot_ms();
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct scan_call *c = xmalloc(sizeof(*c));

        *c = (struct scan_call){m, m->epoch, kinds[i].type, until};
        if (kinds[i].send(m->db_read, until, SCAN_LIMIT, on_rows, c) < 0) {
            free(c); /* the next tick tries again */
        }
    }
}

static void on_timer(uv_timer_t *t)
{
    struct manager *m = t->data;
    struct due *d = &m->due;
    int64_t now = mgr_now(m);
    struct heap_node *first;

    while (m->epoch && (first = heap_min(&d->waiting)) &&
           CONTAINER_OF(first, struct due_entry, node)->at <= now) {
        submit(m, CONTAINER_OF(first, struct due_entry, node), now);
    }
    if (m->epoch && d->scan_at <= now && clock_boot_ms() - d->scanned >= ASK_MS) {
        scan(m);
    }
    arm(m);
}

void due_init(struct manager *m)
{
    struct due *d = &m->due;

    heap_init(&d->waiting, entry_less);
    d->scan_at = d->tell = INT64_MAX;
    MUST(uv_timer_init(m->loop, &d->timer) == 0);
    d->timer.data = m;
}

/* What is submitted is answered first. */
static void forget(struct manager *m)
{
    struct heap_node *n;

    uv_timer_stop(&m->due.timer);
    while ((n = heap_pop(&m->due.waiting))) {
        entry_free(CONTAINER_OF(n, struct due_entry, node));
    }
    m->due.scan_at = INT64_MAX;
    m->due.more = false;
}

void due_begin(struct manager *m)
{
    forget(m);
    m->due.scan_at = 0;
    arm(m);
}

void due_tick(struct manager *m)
{
    if (m->due.submitted < SCAN_LIMIT / 2) {
        scan(m);
    }
    arm(m);
}

void due_done(struct manager *m)
{
    forget(m);
    MUST(!m->due.entries);
    heap_done(&m->due.waiting);
}

void due_heard(struct manager *m, int64_t at)
{
    if (m->epoch) {
        m->due.scan_at = MIN(m->due.scan_at, at);
        arm(m);
    }
}

void due_row(struct manager *m, const struct task *row)
{
    bool queued =
        row->state == TASK_SCHEDULED || row->state == TASK_READY || row->state == TASK_FED;
    int64_t soon = mgr_now(m) + AHEAD_MS;
    int64_t due = row->state == TASK_SCHEDULED ? row->run_after : INT64_MAX;
    int64_t end = queued && row->queue_deadline != INT64_MIN ? row->queue_deadline : INT64_MAX;

    if (MIN(due, end) > soon) {
        return; /* it is read in time */
    }
    if (!m->epoch) {
        notices_due(m, MIN(due, end));
        return;
    }
    if (due <= soon) {
        remember(m, &row->id, TE_DUE, due);
    }
    if (end <= soon) {
        remember(m, &row->id, TE_QUEUE_TIMEOUT, end);
    }
    arm(m);
}
