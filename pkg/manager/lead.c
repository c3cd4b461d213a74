/* What only the leader does: silent workers, what is lost, each second. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"

#include <stdio.h>
#include <stdlib.h>

#define SCAN_LIMIT       1000
#define PAUSED_MS        3000 /* a tick this late means that we were stopped: nobody else was silent */
#define RUNNING_TICKS    15
#define RESCAN_TICKS     5
#define ORDERS_TICKS     5
#define FORGET_TICKS     600
#define SAVED_FOR_MS     3600000 /* well below WORKER_FORGET_MS */
#define REFUSAL_MS       60000   /* between two lines about one name */
#define SAVES            500     /* of workers, each tick */
#define CANCELS_OPEN_MAX 16

/* ---- audit of the cluster ---- */

static void on_audited(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    (void)arg;
    (void)res;
    if (rc < 0 && rc != ERR_CLOSED) {
        log_warn(NULL, "audit of the cluster: %s; this line of it is lost", why->text);
    }
}

static void audit(struct manager *m, const char *event, const char *subject)
{
    static const char sql[] = "insert into cluster_event (at, manager_id, event, subject) "
                              "select now(), $1, $2, $4 from leader where epoch = $3";
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_text(&p, m->id);
    db_add_text(&p, event);
    db_add_bigint(&p, m->epoch);
    db_add_text(&p, subject);
    if (db_exec(m->db_read, sql, &p, on_audited, NULL) < 0) {
        log_warn(NULL, "audit of the cluster: %s is lost: the database is away", event);
    }
}

/* ---- workers ---- */

static void on_saved(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct manager *m = arg;

    (void)res;
    if (rc < 0 && rc != ERR_CLOSED) {
        log_warn(NULL, "a worker's state is not saved: %s; trying again", why->text);
        m->workers_unsaved = true;
    }
}

/* What is held off and why, as the row keeps it; NULL: nothing. Not until when. */
static char *hold_off_text(const struct fleet_worker *w)
{
    json_auto_t *list = json_array();

    for (size_t i = 0; i < json_array_size(w->hold_off); i++) {
        json_t *one = json_copy(json_array_get(w->hold_off, i));

        json_object_del(one, "untilMs");
        json_array_append_new(list, one);
    }
    return json_array_size(list) ? json_text(list) : NULL;
}

static int save_worker(struct manager *m, const struct fleet_worker *w)
{
    /* `draining` is an order of operators and not touched here. */
    static const char sql[] =
        "with o as (select state, incarnation, hold_off from worker where id = $1), "
        "w as (insert into worker (id, host, incarnation, state, draining, slots, last_seen_at, "
        "uuid, hold_off) select $1, $2, $3, $4, false, $5, $6, $9, $10 from leader where epoch = "
        "$7 "
        "on conflict (id) do update set host = excluded.host, "
        "incarnation = excluded.incarnation, state = excluded.state, slots = excluded.slots, "
        "last_seen_at = excluded.last_seen_at, uuid = excluded.uuid, "
        "hold_off = excluded.hold_off returning id) "
        "insert into cluster_event (at, manager_id, event, subject, detail) "
        "select now(), $8, 'worker', id, json_build_object('state', $4, 'slots', $5, "
        "'incarnation', $3, 'holdOff', $10::json) from w where not exists "
        "(select from o where o.state = $4 and o.incarnation = $3 "
        "and o.hold_off is not distinct from $10)";
    char *hold_off CLEANUP(freep) = hold_off_text(w);
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_text(&p, w->who.node);
    db_add_text(&p, w->host);
    db_add_bigint(&p, w->who.inc);
    db_add_text(&p, worker_state_name(w->state));
    db_add_int(&p, w->slots);
    db_add_time(&p, w->last_beat_wall);
    db_add_bigint(&p, m->epoch);
    db_add_text(&p, m->id);
    db_add_id(&p, who_has_uuid(&w->who) ? &w->who.uuid : NULL);
    db_add_text(&p, hold_off);
    return db_exec(m->db_read, sql, &p, on_saved, m);
}

/* A new leader saves everything once: what its predecessor saw last may be old. */
static void save_workers(struct manager *m)
{
    struct fleet_worker *w;
    int most = SAVES;

    for (w = m->fleet.workers; w && m->workers_unsaved; w = w->hh.next) {
        w->saved = false;
    }
    m->workers_unsaved = false;
    for (w = m->fleet.workers; w && most; w = w->hh.next) {
        bool fresh =
            w->saved && w->saved_as == w->state && w->last_beat_wall - w->saved_wall < SAVED_FOR_MS;

        if (w->last_beat != INT64_MIN && w->node->holder == w && !fresh) {
            w->saved = save_worker(m, w) == 0;
            w->saved_as = w->state;
            w->saved_wall = w->last_beat_wall;
            most--;
        }
    }
}

static void on_forgotten(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    (void)arg;
    (void)res;
    if (rc < 0 && rc != ERR_CLOSED) {
        log_debug(NULL, "workers that are gone are removed later: %s", why->text);
    }
}

/* As in memory; an order of an operator is kept. */
static void forget_workers(struct manager *m)
{
    static const char sql[] = "delete from worker where not draining and last_seen_at < now() - "
                              "make_interval(secs => $1) "
                              "and exists (select 1 from leader where epoch = $2)";
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_int(&p, WORKER_FORGET_MS / 1000);
    db_add_bigint(&p, m->epoch);
    if (db_exec(m->db_read, sql, &p, on_forgotten, m) < 0) {
        log_debug(NULL, "workers that are gone are removed later");
    }
}

void lead_worker_seen(const struct fleet_worker *w)
{
    char *fields CLEANUP(freep) = xasprintf("worker=%s", w->who.node);

    log_info(fields, "worker is %s: %d slots on %s, version %s", worker_state_name(w->state),
             w->slots, w->host, w->version ? w->version : "?");
}

/* Said once of each, here and by the worker itself, which is told with each answer. */
void lead_refuse(struct manager *m, struct fleet_worker *w)
{
    const struct fleet_worker *holder = w->node->holder;
    char *fields CLEANUP(freep) = xasprintf("worker=%s", w->who.node);

    int64_t now = clock_boot_ms();

    if (w->refusal_told || now < w->node->refusal_at) {
        return;
    }
    w->refusal_told = true;
    w->node->refusal_at = now + REFUSAL_MS;
    log_error(fields,
              "two workers call themselves %s: the one on %s (pid %d) is refused while the one on "
              "%s (pid %d) lives; give each its own executorNodeConfig.nodeId",
              w->who.node, w->host, w->pid, holder->host, holder->pid);
    if (m->epoch) {
        audit(m, "workerRefused", w->who.node);
    }
}

/* An everyday mistake: its workDir was removed, or it was started from elsewhere. */
void lead_replaced(struct manager *m, struct fleet_worker *w)
{
    size_t n = fleet_left_behind(w);
    char *fields CLEANUP(freep) = xasprintf("worker=%s", w->who.node);

    if (!m->epoch || !n || w->replaced_told) {
        return;
    }
    w->replaced_told = true;
    log_warn(fields,
             "worker %s came back with another workDir, or without its identity: %zu task%s of the "
             "one before run%s again when the lease is over",
             w->who.node, n, n > 1 ? "s" : "", n > 1 ? "" : "s");
    audit(m, "workerReplaced", w->who.node);
}

static void on_worker_state(void *arg, struct fleet_worker *w, enum worker_state from)
{
    (void)arg;
    (void)from;
    lead_worker_seen(w);
}

/* ---- cancels ---- */

/* To one worker; NULL: to all managers. */
static void send_cancel(struct manager *m, const struct fleet_worker *w, const struct task_ref *r)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1024);
    tasks_write(&b, "cancel", w ? &w->who : NULL, r, 1);
    mgr_send(m, w ? "" : "sje.ctl", w ? w->reply : "", &b);
}

/* To the worker at once; the leader repeats it with each answer to a beat, and may know the worker
 * where we do not. */
void lead_tell_cancel(struct manager *m, const struct task *row)
{
    const struct fleet_worker *w = fleet_of(&m->fleet, &row->who);
    struct task_ref r = {row->id, row->attempt};

    if (w && w->reply) {
        send_cancel(m, w, &r);
    }
    if (!m->epoch) {
        send_cancel(m, NULL, &r);
    }
}

const char *manager_not_told(struct manager *m, const struct task *t, char why[MANAGER_WHY_LEN])
{
    const struct fleet_worker *w = fleet_of(&m->fleet, &t->who);
    bool heard = w && w->last_beat != INT64_MIN;
    int64_t silent = heard ? (clock_boot_ms() - w->last_beat) / 1000 : 0;

    if (w && (w->state == WORKER_UP || w->state == WORKER_DRAINING || w->state == WORKER_REFUSED)) {
        return NULL;
    }
    if (w && w->state == WORKER_STOPPED) {
        snprintf(
            why, MANAGER_WHY_LEN,
            "worker %s has stopped and left the task running: it is cancelled when the worker is "
            "started again, or when its lease is over",
            t->who.node);
    } else if (heard) {
        snprintf(
            why, MANAGER_WHY_LEN,
            "worker %s was not heard for %lld s: the task is stopped when it answers, or counts "
            "as cancelled when its lease is over",
            t->who.node, (long long)silent);
    } else {
        snprintf(why, MANAGER_WHY_LEN,
                 "worker %s was not heard yet: the task is stopped when it answers, or counts as "
                 "cancelled when its lease is over",
                 t->who.node);
    }
    return why;
}

static void cancel_lease(struct manager *m, const struct task *row)
{
    struct lease *l = m->epoch ? fleet_lease(&m->fleet, &row->id) : NULL;
    struct task_ref r = {row->id, row->attempt};

    if (!l || !row->cancel_requested || l->attempt != row->attempt || l->cancel) {
        return;
    }
    l->cancel = true;
    if (l->worker->reply) {
        send_cancel(m, l->worker, &r);
    }
}

static void on_cancel_row(void *arg, int rc, const struct task *rows, size_t n,
                          const struct err *why)
{
    struct manager *m = arg;

    (void)why;
    m->cancels_open--;
    if (rc == 0 && n) {
        cancel_lease(m, &rows[0]);
    }
}

/* Whoever may publish can say so: what counts is the row. What is not asked for here the scan of
 * what runs finds. */
void lead_cancel(struct manager *m, const struct task_ref *r)
{
    const struct lease *l = m->epoch ? fleet_lease(&m->fleet, &r->task) : NULL;

    if (!l || l->attempt != r->attempt || l->cancel || m->cancels_open == CANCELS_OPEN_MAX) {
        return;
    }
    if (store_load(m->db_read, &r->task, 1, on_cancel_row, m) == 0) {
        m->cancels_open++;
    }
}

/* ---- losses ---- */

struct lost_call {
    struct manager *m;
    struct id task;
    int32_t attempt;
    int64_t token;
    char node[NODE_ID_MAX + 1];
    const char *why; /* a literal */
};

/* What was decided, after it was written: a result may have come first. */
static void log_lost(const struct lost_call *c, const struct task *row)
{
    char text[ID_TEXT_LEN];

    id_format(&c->task, text);
    char *fields CLEANUP(freep) =
        xasprintf("task=%s attempt=%d worker=%s", text, c->attempt, c->node);
    METRIC_INC(attempts_lost);
    log_warn(fields, "attempt lost: %s; %s", c->why,
             task_state_final(row->state) ? "not tried again" : "it is tried again");
}

static void on_lost_answer(void *arg, const struct ledger_answer *a)
{
    struct lost_call *c CLEANUP(freep) = arg;
    struct lease *l = fleet_lease(&c->m->fleet, &c->task);

    if (a->rc == 0 && a->step == STEP_APPLIED) {
        log_lost(c, a->task);
    }
    if (!l || l->token != c->token) {
        return;
    }
    if (a->rc == 0 && a->step == STEP_REFUSED && a->task) {
        /* Ended elsewhere, or taken up again since: the row tells. */
        fleet_release(&c->m->fleet, &c->task);
    } else if (a->rc < 0 || !a->task) {
        l->lost = false; /* the next tick says it again */
    }
}

void lead_lost(struct manager *m, struct lease *l, const char *why)
{
    struct lost_call *c = xmalloc(sizeof(*c));
    struct task_event ev = {.type = TE_LOST,
                            .now = mgr_now(m),
                            .random = random_u64(),
                            .attempt = l->attempt,
                            .token = l->token,
                            .who = who_of(l->worker->who.node, &l->worker->who.uuid, l->inc),
                            .beat = l->claim_beat,
                            .reason = why,
                            .max_losses = m->max_losses};

    CRASH_POINT("leader-lost");
    *c = (struct lost_call){
        .m = m, .task = l->task, .attempt = l->attempt, .token = l->token, .why = why};
    memcpy(c->node, l->worker->who.node, sizeof(c->node));
    ledger_submit(m->ledger, &l->task, &ev, m->epoch, on_lost_answer, c);
}

static void on_lease_over(void *arg, struct lease *l, const char *why, bool by_restart)
{
    (void)by_restart;
    lead_lost(arg, l, why);
}

void lead_freeze(struct manager *m)
{
    fleet_freeze(&m->fleet, clock_boot_ms());
}

/* ---- scans ---- */

/* A scan belongs to the epoch in which it was started. */
struct scan_call {
    struct manager *m;
    int64_t epoch;
};

static struct scan_call *scan_call(struct manager *m)
{
    struct scan_call *c = xmalloc(sizeof(*c));

    *c = (struct scan_call){m, m->epoch};
    return c;
}

static const struct id first = {{0}};

static void scan_running(struct manager *m, const struct id *after);

static void on_running(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct scan_call *c CLEANUP(freep) = arg;
    struct manager *m = c->m;

    (void)why;
    m->running_scans--;
    if (rc < 0 || c->epoch != m->epoch) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const struct task *known = ledger_peek(m->ledger, &rows[i].id);

        if (!known || known->seq <= rows[i].seq) {
            fleet_grant(&m->fleet, &rows[i], clock_boot_ms());
        }
    }
    if (n == SCAN_LIMIT) {
        struct id last = rows[n - 1].id;

        scan_running(m, &last);
    }
}

static void drop_call(struct scan_call *c, int rc)
{
    if (rc < 0) {
        free(c); /* the next tick tries again */
    }
}

static void scan_running(struct manager *m, const struct id *after)
{
    struct scan_call *c = scan_call(m);

    int rc = store_scan_running(m->db_read, after, SCAN_LIMIT, on_running, c);
    m->running_scans += rc == 0;
    drop_call(c, rc);
}

/* ---- the tick ---- */

void lead_begin(struct manager *m)
{
    m->ticks = 0;
    m->workers_unsaved = true;
    lead_freeze(m);
    orders_read(m);
    scan_running(m, &first);
    due_begin(m);
    feed_start(m->feed, m->epoch);
}

void lead_tick(struct manager *m)
{
    struct beat_effects fx = {.arg = m, .gone = on_lease_over};
    int64_t now = clock_boot_ms();
    bool deaf =
        !m->sub || !mq_is_up(m->sub) || !m->pub || !mq_is_up(m->pub) || mq_is_blocked(m->pub);

    m->ticks++;
    term_tick(m);
    if (m->ticks % ORDERS_TICKS == 0) {
        orders_read(m);
    }
    if (deaf || now - m->last_tick > PAUSED_MS || !db_is_up(m->db)) {
        lead_freeze(m);
    }
    m->last_tick = now;
    size_t told = m->fleet.told;
    bool sure = fleet_tick(&m->fleet, now, m->epoch != 0, on_worker_state, &fx, m);
    m->freed += told - MIN(told, m->fleet.told);
    bool held = !sure && m->epoch;
    if (held && !m->reaper_held) {
        log_warn(NULL, "most workers fell silent at once: it may be the network, their tasks are "
                       "left to them for now");
    }
    if (m->epoch && held != m->reaper_held) {
        audit(m, held ? "reaperHeld" : "reaperReleased", NULL);
    }
    m->reaper_held = held;
    if (!m->epoch || !db_is_up(m->db_read)) {
        return;
    }
    if (m->ticks % FORGET_TICKS == 1) {
        forget_workers(m);
    }
    save_workers(m);
    due_tick(m);
    retention_tick(m);
    if (m->ticks % RUNNING_TICKS == 0 && m->running_scans == 0) {
        scan_running(m, &first);
    }
    if (m->ticks % RESCAN_TICKS == 0) {
        feed_rescan(m->feed);
    }
}
