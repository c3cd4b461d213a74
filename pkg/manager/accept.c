/* POST -> rows: everything that came in while a batch was under way goes into the next one (group
 * commit). */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"

#include <malloc.h>
#include <stdlib.h>

#define TOLD_MAX      64 /* notices of a batch */
#define BATCH_TASKS   5000
#define BATCH_BYTES   (8u << 20) /* a request with more goes alone, one at a time */
#define IN_FLIGHT     2
#define WAITING_MAX   200000      /* tasks; above: 503 */
#define BYTES_MAX     (40u << 20) /* of all that are not answered; above: 503 */
#define ROW_BYTES     700         /* about, without the specification */
#define TRIM_BYTES    (16u << 20)
#define TRIM_TICKS    10
#define RETRIES       5
#define KEYED_RETRIES 50

struct request {
    struct list_node node;
    struct manager *m;
    struct task *rows;
    size_t n;
    size_t bytes;
    bool alone; /* a batch with it was refused */
    bool sent;  /* a statement with it is under way */
    char *key;
    struct accept_hash hash;
    int tries;
    accept_done_fn *cb;
    void *arg;
};

struct accept_batch {
    struct manager *m;
    struct list requests;
    struct task *rows; /* moved out of the requests */
    size_t n;
};

static void wake(struct manager *m);

static bool is_large(const struct request *r)
{
    return r->bytes > BATCH_BYTES;
}

static void request_free(struct request *r)
{
    if (r->sent && is_large(r)) {
        r->m->accept_large_sent = false;
        wake(r->m);
    }
    for (size_t i = 0; i < r->n; i++) {
        task_done(&r->rows[i]);
    }
    r->m->accept_bytes -= r->bytes;
    r->m->freed += r->bytes;
    free(r->rows);
    free(r->key);
    free(r);
}

static void answer_error(struct request *r, int rc, const struct err *why)
{
    struct accept_reply reply = {.rc = rc};

    if (why) {
        reply.why = *why;
    } else {
        err_set(&reply.why, rc, "%s", err_text(rc));
    }
    r->cb(r->arg, &reply);
    request_free(r);
}

/* states NULL: they were accepted now. */
static void answer_ids(struct request *r, const struct id *ids, const enum task_state *states,
                       size_t n)
{
    struct accept_reply reply = {
        .tasks = ids, .rows = r->rows, .count = n, .replayed = states, .states = states};

    r->cb(r->arg, &reply);
}

static void tell(struct manager *m, const struct task *row, bool need)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, MESSAGE_MAX);
    ready_write(&b, row, need);
    mgr_send(m, "sje.ctl", "", &b);
}

void accept_tell_ready(struct manager *m, const struct task *row)
{
    if (!m->epoch) {
        tell(m, row, true);
    }
}

static bool is_alike(const struct task *a, const struct task *b)
{
    return a->slots == b->slots && a->cpus_milli == b->cpus_milli && a->memory_mb == b->memory_mb &&
           streq(a->job_type, b->job_type);
}

/* Each pool of which some are READY, and what they need, with the best rank, to whoever leads.
 * False: that is too much to tell. */
static bool tell_pools(struct manager *m, const struct task *rows, size_t n, bool need)
{
    const struct task *best[TOLD_MAX];
    size_t told = 0;

    for (size_t i = 0; i < n; i++) {
        size_t k = 0;

        if (rows[i].state != TASK_READY) {
            continue;
        }
        while (k < told &&
               !(streq(best[k]->pool, rows[i].pool) && (!need || is_alike(best[k], &rows[i])))) {
            k++;
        }
        if (k == TOLD_MAX) {
            if (need) {
                return false;
            }
        } else if (k == told || rows[i].rank < best[k]->rank) {
            best[k] = &rows[i];
            told += k == told;
        }
    }
    for (size_t k = 0; k < told; k++) {
        tell(m, best[k], need);
    }
    return true;
}

/* The rows are durable: everybody who can use them right away gets them. */
static void publish_rows(struct manager *m, const struct task *rows, size_t n)
{
    METRIC_ADD(tasks_accepted, n);
    CRASH_POINT("accept-before-publish");
    for (size_t i = 0; i < n; i++) {
        if (m->epoch && rows[i].state == TASK_READY) {
            ledger_offer(m->ledger, &rows[i]);
            feed_changed(m->feed, &rows[i]);
        }
        due_row(m, &rows[i]);
    }
    /* Of very many pools the first are told: the others are found by the next scan. */
    if (!m->epoch && !tell_pools(m, rows, n, true)) {
        (void)tell_pools(m, rows, n, false);
    }
}

static void request_done(struct request *r)
{
    struct id *ids CLEANUP(freep) = xcalloc(r->n, sizeof(*ids));

    CRASH_POINT("accept-committed");
    for (size_t i = 0; i < r->n; i++) {
        ids[i] = r->rows[i].id;
    }
    answer_ids(r, ids, NULL, r->n);
    publish_rows(r->m, r->rows, r->n);
    request_free(r);
}

static void request_wait(struct request *r)
{
    if (is_large(r)) {
        list_push(&r->m->accept_large, &r->node);
        r->m->accept_large_sent = r->m->accept_large_sent && !r->sent;
        r->sent = false;
    } else {
        list_push(&r->m->accept_waiting, &r->node);
        r->m->accept_waiting_tasks += r->n;
    }
}

/* Nothing was inserted. A conflict with another statement passes; what else the database refuses
 * may be another request's fault. */
static bool worth_a_retry(struct request *r, int rc, size_t in_batch)
{
    if (r->m->stopping) {
        return false;
    }
    if (rc == ERR_CONFLICT) {
        return ++r->tries < RETRIES;
    }
    r->alone = in_batch > 1;
    return r->alone && (rc == ERR_DB || rc == ERR_TOO_LARGE);
}

static void on_inserted(void *arg, int rc, const struct err *why)
{
    struct accept_batch *b = arg;
    struct manager *m = b->m;
    struct list_node *n;
    size_t requests = b->requests.count;
    size_t at = 0;

    while ((n = list_pop(&b->requests))) {
        struct request *r = CONTAINER_OF(n, struct request, node);

        memcpy(r->rows, b->rows + at, r->n * sizeof(*r->rows));
        at += r->n;
        if (rc == 0) {
            request_done(r);
        } else if (worth_a_retry(r, rc, requests)) {
            request_wait(r);
        } else {
            answer_error(r, rc == ERR_CONFLICT ? ERR_BUSY : rc, why);
        }
    }
    free(b->rows);
    free(b);
    m->accept_in_flight--;
    wake(m);
}

static struct accept_batch *batch_new(struct manager *m, size_t max)
{
    struct accept_batch *b = xmalloc(sizeof(*b));

    b->m = m;
    b->n = 0;
    list_init(&b->requests);
    b->rows = xcalloc(max, sizeof(*b->rows));
    return b;
}

static void batch_add(struct accept_batch *b, struct request *r)
{
    list_push(&b->requests, &r->node);
    memcpy(b->rows + b->n, r->rows, r->n * sizeof(*r->rows));
    memset(r->rows, 0, r->n * sizeof(*r->rows));
    b->n += r->n;
}

static void batch_send(struct accept_batch *b)
{
    struct manager *m = b->m;
    struct err why = {0};

    m->accept_in_flight++;
    CRASH_POINT("accept-before-commit");
    int rc = store_insert(m->db, b->rows, b->n, on_inserted, b);
    if (rc < 0) {
        err_set(&why, rc, "%s", err_text(rc));
        on_inserted(b, rc, &why);
    }
}

static void send_next(struct manager *m)
{
    struct accept_batch *b = batch_new(m, m->accept_waiting_tasks);
    struct list_node *n;
    size_t bytes = 0;
    bool alone = false;

    while ((n = list_first(&m->accept_waiting))) {
        struct request *r = CONTAINER_OF(n, struct request, node);

        if (b->n &&
            (alone || r->alone || b->n + r->n > BATCH_TASKS || bytes + r->bytes > BATCH_BYTES)) {
            break;
        }
        alone = r->alone;
        bytes += r->bytes;
        list_remove(n);
        m->accept_waiting_tasks -= r->n;
        batch_add(b, r);
    }
    batch_send(b);
}

static void send_keyed(struct request *r);

/* What a statement takes of memory, here and in libpq, is several times its size. */
static void send_large(struct manager *m)
{
    struct request *r = CONTAINER_OF(list_pop(&m->accept_large), struct request, node);

    r->sent = true;
    m->accept_large_sent = true;
    if (r->key) {
        send_keyed(r);
    } else {
        struct accept_batch *b = batch_new(m, r->n);

        batch_add(b, r);
        batch_send(b);
    }
}

static void on_check(uv_check_t *h)
{
    struct manager *m = h->data;

    uv_idle_stop(&m->accept_spin);
    while (m->accept_waiting.count && m->accept_in_flight < IN_FLIGHT) {
        send_next(m);
    }
    if (m->accept_large.count && !m->accept_large_sent) {
        send_large(m);
    }
}

static void on_spin(uv_idle_t *h)
{
    (void)h;
}

static void wake(struct manager *m)
{
    if ((m->accept_waiting.count || m->accept_large.count) && !m->stopping) {
        MUST(uv_idle_start(&m->accept_spin, on_spin) == 0);
    }
}

static void on_keyed(void *arg, int rc, const struct id *ids, const enum task_state *states,
                     size_t n, const struct err *why);

static void send_keyed(struct request *r)
{
    CRASH_POINT("accept-before-commit");
    int rc = store_insert_keyed(r->m->db, r->rows, r->n, r->key, &r->hash, on_keyed, r);

    if (rc < 0) {
        answer_error(r, rc, NULL);
    }
}

static void on_keyed(void *arg, int rc, const struct id *ids, const enum task_state *states,
                     size_t n, const struct err *why)
{
    struct request *r = arg;

    if (rc == ERR_BUSY && ++r->tries < KEYED_RETRIES) {
        send_keyed(r);
        return;
    }
    if (rc < 0) {
        answer_error(r, rc, why);
        return;
    }
    if (states) {
        answer_ids(r, ids, states, n);
        request_free(r);
        return;
    }
    request_done(r);
}

void accept_init(struct manager *m)
{
    list_init(&m->accept_waiting);
    list_init(&m->accept_large);
    MUST(uv_check_init(m->loop, &m->accept_check) == 0);
    MUST(uv_idle_init(m->loop, &m->accept_spin) == 0);
    m->accept_check.data = m;
    m->accept_spin.data = m;
    MUST(uv_check_start(&m->accept_check, on_check) == 0);
}

void accept_stop(struct manager *m)
{
    static const struct err why = {ERR_CLOSED, "closing down"};
    struct list_node *n;

    while ((n = list_pop(&m->accept_waiting)) || (n = list_pop(&m->accept_large))) {
        answer_error(CONTAINER_OF(n, struct request, node), ERR_CLOSED, &why);
    }
    m->accept_waiting_tasks = 0;
}

static struct request *request_new(struct manager *m, struct accept_request *a, accept_done_fn *cb,
                                   void *arg)
{
    struct request *r = xmalloc(sizeof(*r));

    r->m = m;
    r->cb = cb;
    r->arg = arg;
    r->n = a->count;
    r->rows = STEAL(a->rows);
    r->key = xstrdup(a->idempotency_key);
    r->hash = a->hash;
    for (size_t i = 0; i < a->count; i++) {
        struct task_audit audit;

        task_accepted(&r->rows[i], &audit);
        task_audit_done(&audit);
        r->bytes += ROW_BYTES + strlen(r->rows[i].spec);
    }
    m->accept_bytes += r->bytes;
    return r;
}

static size_t resident(void)
{
    size_t bytes = 0;

    (void)uv_resident_set_memory(&bytes);
    return bytes;
}

/* The allocator keeps what lies between pieces that are in use, pages of it: of bodies, and of
 * whatever else was large for a moment. */
void accept_tick(struct manager *m)
{
    size_t now = m->ticks % TRIM_TICKS == 0 ? resident() : m->resident;

    if (m->freed > TRIM_BYTES || now > m->resident + TRIM_BYTES) {
        m->freed = 0;
        (void)malloc_trim(0);
        now = m->resident = resident();
    }
    m->resident = MIN(m->resident, now);
}

void manager_row(const struct manager *m, const struct task_spec *s, struct task *ret)
{
    task_from_spec(ret, s, mgr_now(m));
}

/* A single one may be larger, where the configuration allows for such bodies. */
static bool is_too_much(const struct manager *m, const struct request *r)
{
    return m->accept_bytes > BYTES_MAX && m->accept_bytes > r->bytes;
}

void manager_accept(struct manager *m, struct accept_request *a, accept_done_fn *cb, void *arg)
{
    struct request *r = request_new(m, a, cb, arg);

    if (m->stopping) {
        answer_error(r, ERR_CLOSED, NULL);
    } else if (!m->db_ready || !db_is_up(m->db)) {
        answer_error(r, ERR_DB_DOWN, NULL);
    } else if (m->accept_waiting_tasks + r->n > WAITING_MAX || is_too_much(m, r)) {
        answer_error(r, ERR_BUSY, NULL);
    } else if (r->n == 0) {
        request_done(r);
    } else if (r->key && !is_large(r)) {
        send_keyed(r);
    } else {
        request_wait(r);
        wake(m);
    }
}
