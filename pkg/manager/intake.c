/* Claims and results from workers: decode, submit to the ledger, answer. And what comes to this
 * manager's own queue. */
#include "internal/broken.h"
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define CLAIMS_OPEN_MAX   20000
#define RESULTS_OPEN_MAX  20000 /* entries, about */
#define RESULTS_BYTES_MAX ((size_t)8 << 20)
#define ENTRY_BYTES_LEAST 80 /* of a message, for each entry */

/* One delivery, from arrival to ack. */
struct delivery {
    struct list_node node; /* results: m->held_results, with `body`; claims: m->to_answer */
    struct manager *m;
    uint64_t epoch;
    uint64_t tag;
    char *reply;
    struct who who;
    size_t n; /* entries */
    size_t remaining;
    bool failed; /* a part could not be written: the whole is taken again later */
    char *body;  /* results only: for taking it again */
    size_t body_len;
    struct buf grants; /* claims */
    size_t n_grants;
    struct buf denies;
    size_t n_denies;
    struct task_ref *settled; /* results: applied or never to be */
    size_t n_settled;
};

/* A message with results that is left with the broker for now. */
struct aside {
    struct list_node node; /* in m->results_aside */
    uint64_t epoch;
    uint64_t tag;
    size_t len;
};

/* The ledger's argument for one entry of a delivery. */
struct part {
    struct delivery *d;
    struct id task;
    int32_t attempt;
    /* results */
    int64_t token;
    enum task_outcome outcome;
    bool bare; /* sent again without what the database did not take */
};

static struct delivery *delivery_new(struct manager *m, const struct mq_delivery *md,
                                     const struct who *who, const char *reply, size_t n)
{
    struct delivery *d = xmalloc(sizeof(*d));

    d->m = m;
    d->epoch = md->epoch;
    d->tag = md->tag;
    d->who = *who;
    d->reply = xstrdup(reply);
    d->n = n;
    d->remaining =
        n + 1; /* one for the reader, so that it cannot end before all parts are submitted */
    buf_init(&d->grants, GRANT_MAX + MESSAGE_MAX);
    buf_init(&d->denies, MESSAGE_MAX);
    return d;
}

static void delivery_free(struct delivery *d)
{
    if (d->body) {
        d->m->results_open -= d->n;
        d->m->results_bytes -= d->body_len;
    }
    buf_free(&d->grants);
    buf_free(&d->denies);
    free(d->reply);
    free(d->body);
    free(d->settled);
    free(d);
}

static struct part *part_new(struct delivery *d, const struct id *task, int32_t attempt)
{
    struct part *p = xmalloc(sizeof(*p));

    *p = (struct part){.d = d, .task = *task, .attempt = attempt};
    return p;
}

static void ack_result(struct manager *m, uint64_t epoch, uint64_t tag)
{
    if (m->sub) {
        mq_ack(m->sub, epoch, tag, false);
        mq_watch_settled(&m->watch, epoch);
    }
}

static void learn(struct manager *m, const struct task *row)
{
    const struct lease *l = fleet_lease(&m->fleet, &row->id);
    bool newer = l && l->attempt > row->attempt;

    if (row->state == TASK_RUNNING && !newer) {
        fleet_grant(&m->fleet, row, clock_boot_ms());
    } else if (l && !newer) {
        fleet_release(&m->fleet, &row->id);
    }
    feed_changed(m->feed, row);
    look_changed(m, row);
}

void intake_learn(struct manager *m, const struct id *task, const struct ledger_answer *a)
{
    if (a->rc == ERR_NOT_FOUND) {
        feed_forget(m->feed, task);
    } else if (a->rc == 0 && a->task && a->step != STEP_APPLIED) {
        learn(m, a->task);
    }
}

/* ---- claims ---- */

static const char *url_for(struct manager *m, const struct who *who)
{
    const struct fleet_worker *w = fleet_of(&m->fleet, who);

    return mgr_url_for(m, w ? w->host : NULL);
}

static void flush_grants(struct delivery *d)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (d->n_grants == 0 && d->n_denies == 0) {
        return;
    }
    buf_init(&b, GRANT_MAX + 2 * MESSAGE_MAX);
    grants_begin(&b, d->m->id, url_for(d->m, &d->who), &d->who);
    buf_add(&b, d->grants.data, d->grants.len);
    grants_denies(&b);
    buf_add(&b, d->denies.data, d->denies.len);
    grants_end(&b);
    mgr_send(d->m, "", d->reply, &b);
    buf_reset(&d->grants);
    buf_reset(&d->denies);
    d->n_grants = d->n_denies = 0;
}

/* What is granted is told when its batch is written: it does not wait for the other claims of its
 * message, which may be in later batches. */
static void answer_soon(struct delivery *d)
{
    if (!list_linked(&d->node)) {
        list_push(&d->m->to_answer, &d->node);
    }
}

void intake_answer(struct manager *m)
{
    struct list_node *n;

    while ((n = list_pop(&m->to_answer))) {
        flush_grants(CONTAINER_OF(n, struct delivery, node));
    }
}

static void claim_part_done(struct delivery *d)
{
    if (--d->remaining) {
        answer_soon(d);
        return;
    }
    flush_grants(d);
    if (list_linked(&d->node)) {
        list_remove(&d->node);
    }
    delivery_free(d);
}

/* As written down with the grant, which an earlier version did not. */
static int64_t lease_ms_of(const struct manager *m, const struct task *t)
{
    const struct lease *l = fleet_lease(&m->fleet, &t->id);

    return BROKEN(LEASE_DATA) ? m->dead_after_ms
           : t->lease_ms      ? t->lease_ms
           : l                ? l->lease_ms
                              : m->dead_after_ms;
}

/* Another worker could take it too, or may soon, of those that have not given it back. */
static bool fits_elsewhere(struct manager *m, const struct task *t)
{
    struct fleet *f = &m->fleet;
    const struct offers_pool *o = offers_find(&f->offers, t->pool);
    struct need need = {t->job_type ? t->job_type : "", {t->slots, t->cpus_milli, t->memory_mb}};
    bool patient = !t->returned_by || mgr_now(m) < t->run_after + fleet_patience_ms(f);

    fleet_avoid(f, t->returned_by, t->submitted_at, true);
    fleet_avoid(f, t->who.node, INT64_MAX, true);
    bool yes = !fleet_is_whole(f) || (o && offers_fits_elsewhere(o, &need)) ||
               (o && patient && offers_fits_absent(o, &need));
    fleet_avoid(f, t->who.node, INT64_MAX, false);
    fleet_avoid(f, t->returned_by, t->submitted_at, false);
    return yes;
}

static void on_claim_answer(void *arg, const struct ledger_answer *a)
{
    struct part *p CLEANUP(freep) = arg;
    struct delivery *d = p->d;
    bool granted = a->rc == 0 && (a->step == STEP_APPLIED || a->step == STEP_SAME) && a->task &&
                   a->task->state == TASK_RUNNING && a->task->attempt == p->attempt;

    d->m->claims_open--;
    intake_learn(d->m, &p->task, a);
    size_t len = granted ? strlen(a->task->spec) + 300 : 0;

    if (len > GRANT_MAX) {
        log_error(NULL, "a task of %zu bytes fits into no message; its lease will run out", len);
    } else if (granted) {
        CRASH_POINT("manager-granted");
        if (d->n_grants && d->grants.len + len > MESSAGE_MAX) {
            flush_grants(d);
        }
        grants_add(&d->grants, d->n_grants++ == 0, a->task, lease_ms_of(d->m, a->task),
                   fits_elsewhere(d->m, a->task));
    } else if (a->rc == 0 || a->rc == ERR_NOT_FOUND) {
        const char *reason = a->rc == ERR_NOT_FOUND ? "unknown"
                             : *a->reason           ? a->reason
                                                    : "superseded";

        METRIC_INC_BY(claims_denied, reason);
        deny_add(&d->denies, d->n_denies++ == 0, &p->task, p->attempt, reason);
    }
    /* Else the database is away: no answer, the worker asks again. */
    claim_part_done(d);
}

static int64_t new_token(void)
{
    return (int64_t)(random_u64() >> 1 | 1);
}

/* A worker that is not to have work: its hints are for others. */
static void deny_all(struct manager *m, const struct claim_msg *c, const char *reason)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, MESSAGE_MAX);
    grants_begin(&b, m->id, url_for(m, &c->who), &c->who);
    grants_denies(&b);
    for (size_t i = 0; i < c->n; i++) {
        METRIC_INC_BY(claims_denied, reason);
        deny_add(&b, i == 0, &c->claims[i].task, c->claims[i].attempt, reason);
    }
    grants_end(&b);
    mgr_send(m, "", c->reply, &b);
}

static void take_claims(struct manager *m, const struct mq_delivery *md, const struct claim_msg *c)
{
    struct delivery *d = delivery_new(m, md, &c->who, c->reply, c->n);

    for (size_t i = 0; i < c->n; i++) {
        struct task_event ev = {.type = TE_CLAIM,
                                .now = mgr_now(m),
                                .attempt = c->claims[i].attempt,
                                .who = c->who,
                                .token = new_token(),
                                .lease_ms = m->dead_after_ms,
                                .beat = (int32_t)c->beat};
        struct part *p = part_new(d, &c->claims[i].task, c->claims[i].attempt);

        m->claims_open++;
        ledger_submit(m->ledger, &p->task, &ev, 0, on_claim_answer, p);
    }
    claim_part_done(d);
}

/* Addressed to us, or told to all managers: then only the leading one answers. What is dropped is
 * sent again. */
static void on_claim(struct manager *m, const struct mq_delivery *md, const struct claim_msg *c)
{
    bool ours = str_eq(md->routing_key, str_of(m->queue)) || m->epoch;
    /* The leader's to say: others may have heard two of one name in another order, and would deny
     * for ever what it lets pass. */
    const char *objection = m->epoch ? fleet_objection(&m->fleet, &c->who) : NULL;

    if (objection) {
        deny_all(m, c, objection);
    } else if (ours && m->claims_open < CLAIMS_OPEN_MAX) {
        CRASH_POINT("manager-claim");
        take_claims(m, md, c);
    }
}

/* ---- results ---- */

static void results_part_done(struct delivery *d)
{
    struct manager *m = d->m;

    if (--d->remaining) {
        return;
    }
    CRASH_POINT("manager-applied");
    if (d->n_settled) {
        struct buf b CLEANUP(buf_free) = {0};

        buf_init(&b, MESSAGE_MAX);
        tasks_write(&b, "applied", &d->who, d->settled, d->n_settled);
        mgr_send(m, "", d->reply, &b);
    }
    if (d->failed && !m->stopping) {
        list_push(&m->held_results, &d->node);
        return;
    }
    if (!d->failed) {
        ack_result(m, d->epoch, d->tag);
    }
    delivery_free(d);
}

static char *part_fields(const struct part *p)
{
    char text[ID_TEXT_LEN];

    id_format(&p->task, text);
    return xasprintf("task=%s attempt=%d", text, p->attempt);
}

static void submit_bare(struct part *p);

static void on_result_answer(void *arg, const struct ledger_answer *a)
{
    struct part *p = arg;
    struct delivery *d = p->d;
    bool refused = a->rc == ERR_DB || a->rc == ERR_TOO_LARGE;

    intake_learn(d->m, &p->task, a);
    if (refused && !p->bare) {
        char *fields CLEANUP(freep) = part_fields(p);

        log_error(fields, "the database does not take the result: %s; storing the outcome alone",
                  a->why->text);
        submit_bare(p);
        return;
    }
    if (refused) {
        char *fields CLEANUP(freep) = part_fields(p);

        /* Its worker keeps it, and the attempt's lease, and sends it again. */
        log_error(fields,
                  "the database does not take the outcome either: %s; waiting for the "
                  "worker to send it again",
                  a->why->text);
    } else if (a->rc < 0 && a->rc != ERR_NOT_FOUND) {
        d->failed = true;
    } else {
        if (a->rc == ERR_NOT_FOUND || a->step == STEP_RECORD) {
            char *fields CLEANUP(freep) = part_fields(p);

            METRIC_INC(reports_superseded);
            log_warn(fields, "result of an attempt that %s; ignoring",
                     a->rc == ERR_NOT_FOUND ? "is unknown here" : "no longer counts");
        }
        d->settled[d->n_settled++] = (struct task_ref){p->task, p->attempt};
    }
    free(p);
    results_part_done(d);
}

/* The outcome stands; what came with it is replaced by a word about its absence. */
static void submit_bare(struct part *p)
{
    static const char what[] = "the database did not take what came with this result";
    struct manager *m = p->d->m;
    char *output CLEANUP(freep) = NULL;
    char *error CLEANUP(freep) = NULL;

    if (p->outcome == OUTCOME_SUCCEEDED) {
        output = xasprintf("{\"warning\":\"%s\"}", what);
    } else {
        error = xasprintf("{\"kind\":\"%s\",\"message\":\"%s\",\"exitCode\":null,\"signal\":null}",
                          p->outcome == OUTCOME_CANCELLED  ? "cancelled"
                          : p->outcome == OUTCOME_LOST     ? "lost"
                          : p->outcome == OUTCOME_RETURNED ? "node"
                                                           : "exit",
                          what);
    }
    struct task_event ev = {.type = TE_RESULT,
                            .now = mgr_now(m),
                            .random = random_u64(),
                            .attempt = p->attempt,
                            .who = p->d->who,
                            .token = p->token,
                            .outcome = p->outcome,
                            .output = output,
                            .error = error,
                            .started_at = INT64_MIN,
                            .max_losses = m->max_losses};

    p->bare = true;
    ledger_submit(m->ledger, &p->task, &ev, 0, on_result_answer, p);
}

static void submit_result(struct delivery *d, const struct result_msg *r,
                          const struct result_entry *e)
{
    struct manager *m = d->m;
    struct part *p = part_new(d, &e->task, e->attempt);
    struct task_event ev = {.type = TE_RESULT,
                            .now = mgr_now(m),
                            .random = random_u64(),
                            .attempt = e->attempt,
                            .who = r->who,
                            .token = e->token,
                            .outcome = e->outcome,
                            .error = e->error,
                            .output = e->output,
                            .progress = e->progress,
                            .warning = e->warning,
                            .application_id = e->application_id,
                            .started_at = e->started_at,
                            .signature = e->signature,
                            .max_losses = m->max_losses};

    p->token = e->token;
    p->outcome = e->outcome;
    ledger_submit(m->ledger, &p->task, &ev, 0, on_result_answer, p);
}

static void take_results(struct delivery *d, const struct result_msg *r)
{
    d->settled = xcalloc(r->n, sizeof(*d->settled));
    for (size_t i = 0; i < r->n; i++) {
        submit_result(d, r, &r->results[i]);
    }
    results_part_done(d);
}

/* There are as many results as may be open: this message stays with the broker, unacknowledged. */
static bool set_aside(struct manager *m, const struct mq_delivery *md)
{
    if (m->results_open < RESULTS_OPEN_MAX &&
        (m->results_bytes == 0 || m->results_bytes + md->body.len <= RESULTS_BYTES_MAX)) {
        return false;
    }
    struct aside *a = xmalloc(sizeof(*a));
    *a = (struct aside){.epoch = md->epoch, .tag = md->tag, .len = md->body.len};
    list_push(&m->results_aside, &a->node);
    return true;
}

/* So many as there is room for by now, and one in any case: the broker delivers them again. */
void intake_take_up(struct manager *m)
{
    size_t entries = RESULTS_OPEN_MAX - MIN(m->results_open, (size_t)RESULTS_OPEN_MAX);
    size_t bytes = RESULTS_BYTES_MAX - MIN(m->results_bytes, RESULTS_BYTES_MAX);
    size_t room = MIN(entries * ENTRY_BYTES_LEAST, bytes);
    struct list_node *n = NULL;

    if (!m->sub || m->results_open > RESULTS_OPEN_MAX / 2 ||
        m->results_bytes > RESULTS_BYTES_MAX / 2) {
        return;
    }
    while (room && (n = list_pop(&m->results_aside))) {
        struct aside *a CLEANUP(freep) = CONTAINER_OF(n, struct aside, node);

        mq_nack(m->sub, a->epoch, a->tag, true);
        mq_watch_settled(&m->watch, a->epoch);
        room -= MIN(room, a->len);
    }
}

static void read_results(struct manager *m, const struct mq_delivery *md)
{
    struct message msg CLEANUP(message_free);
    struct err e = {0};

    if (message_read(md->body, &msg, &e) < 0 || msg.type != MSG_RESULTS) {
        log_warn(NULL, "result: %s; dropped", *e.text ? e.text : "not a result");
        ack_result(m, md->epoch, md->tag);
        return;
    }
    struct delivery *d = delivery_new(m, md, &msg.results.who, msg.results.reply, msg.results.n);
    d->body = xmemdup(md->body.p, md->body.len);
    d->body_len = md->body.len;
    m->results_open += d->n;
    m->results_bytes += d->body_len;
    take_results(d, &msg.results);
}

static void on_results(void *arg, const struct mq_delivery *md)
{
    struct manager *m = arg;

    CRASH_POINT("manager-result");
    mq_watch_delivered(&m->watch, &m->results, md->epoch);
    if (!set_aside(m, md)) {
        read_results(m, md);
    }
}

void intake_retry(struct manager *m)
{
    struct list again;
    struct list_node *n;

    list_init(&again);
    while ((n = list_pop(&m->held_results))) {
        list_push(&again, n);
    }
    while ((n = list_pop(&again))) {
        struct delivery *d = CONTAINER_OF(n, struct delivery, node);
        struct message msg CLEANUP(message_free);

        MUST(message_read((struct str){d->body, d->body_len}, &msg, NULL) == 0);
        free(d->settled);
        d->n_settled = 0;
        d->failed = false;
        d->remaining = msg.results.n + 1;
        take_results(d, &msg.results);
    }
}

/* Their tags are dead: the broker delivers them again. */
void intake_drop(struct manager *m)
{
    struct list_node *n;

    while ((n = list_pop(&m->held_results))) {
        delivery_free(CONTAINER_OF(n, struct delivery, node));
    }
    while ((n = list_pop(&m->results_aside))) {
        free(CONTAINER_OF(n, struct aside, node));
    }
}

/* ---- the own queue, topology ---- */

static void on_own_message(void *arg, const struct mq_delivery *md)
{
    struct manager *m = arg;
    struct message msg CLEANUP(message_free);
    struct buf answer CLEANUP(buf_free) = {0};
    struct err e = {0};

    buf_init(&answer, BEAT_ACK_MAX);
    if (message_read(md->body, &msg, &e) < 0) {
        log_warn(NULL, "message: %s; dropped", e.text);
        return;
    }
    switch (msg.type) {
    case MSG_BEAT:
        (void)beats_take(m, &msg.beat, &answer);
        if (answer.len) {
            mgr_send(m, "", msg.beat.reply, &answer);
        }
        break;
    case MSG_READY:
        feed_ready(m->feed, msg.pool, msg.need.type ? &msg.need : NULL, msg.rank);
        break;
    case MSG_DUE:
        due_heard(m, msg.at);
        break;
    case MSG_FINAL:
        notices_heard(m, msg.from);
        for (size_t i = 0; i < msg.n_finals; i++) {
            look_final(m, &msg.finals[i]);
        }
        break;
    case MSG_GRANTED:
        for (size_t i = 0; i < msg.n_tasks; i++) {
            feed_granted(m->feed, &msg.tasks[i].task, msg.tasks[i].attempt);
        }
        break;
    case MSG_CANCEL:
        for (size_t i = 0; i < msg.n_tasks; i++) {
            lead_cancel(m, &msg.tasks[i]);
        }
        break;
    case MSG_ORDERS:
        orders_read(m);
        break;
    case MSG_LEADER:
        term_heard(m, msg.epoch);
        break;
    case MSG_LOG:
        logs_reply(m, &msg);
        break;
    case MSG_CLAIM:
        on_claim(m, md, &msg.claim);
        break;
    case MSG_RESULTS:
        log_warn(NULL, "message of a kind that does not belong into this queue; dropped");
        break;
    }
}

static void on_cancelled(void *arg)
{
    struct manager *m = arg;

    mq_renew(m->sub, "a queue we consume from was deleted");
}

static void on_declared(void *arg, int rc, const struct err *why, uint32_t count)
{
    (void)arg;
    (void)count;
    if (rc < 0 && rc != ERR_MQ_DOWN && rc != ERR_CLOSED) {
        log_error(NULL, "the broker refused to set up a queue: %s; connecting again", why->text);
    }
}

void intake_up(struct manager *m)
{
    struct mq *q = m->sub;

    mq_watch_up(&m->watch, clock_boot_ms());
    int rc = mq_declare_exchange(q, "sje.beat", "fanout", on_declared, m);

    rc = rc < 0 ? rc : mq_declare_exchange(q, "sje.ctl", "fanout", on_declared, m);
    rc = rc < 0 ? rc : mq_declare_queue(q, "sje.result", MQ_QUORUM, on_declared, m);
    rc = rc < 0 ? rc : mq_declare_queue(q, m->queue, MQ_EXCLUSIVE, on_declared, m);
    rc = rc < 0 ? rc : mq_bind(q, m->queue, "sje.beat", "", on_declared, m);
    rc = rc < 0 ? rc : mq_bind(q, m->queue, "sje.ctl", "", on_declared, m);
    rc = rc < 0 ? rc
                : mq_consume(q, "sje.result", "result", false, on_results, on_cancelled, NULL, m);
    rc = rc < 0 ? rc : mq_consume(q, m->queue, "own", true, on_own_message, on_cancelled, NULL, m);
    if (rc < 0) {
        log_warn(NULL, "setting up the broker's queues: %s; again with the next connection",
                 err_text(rc));
    }
}
