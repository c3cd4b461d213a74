/* The leader's term: the lock, the epoch, and for how long its holder answers beats. See
 * docs/protocol.md, Leadership. */
#include "internal/broken.h"
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define LOCK_KEY      0x534a454c454144LL /* "SJELEAD" */
#define LOCK_RETRY_MS 1000
#define SURE_MS       (LEASE_MARGIN_MS - 1000) /* a lease's margin covers so much without a grace */
#define NOTICE_TICKS  5
#define SILENT_TICKS  5    /* that the database may take for an answer which is due at once */
#define LEADER_MS     7000 /* whoever leads says so every 5 s */
#define EPOCHS_AHEAD  1000 /* elections that one may have missed while the database was away */

/* ---- answering beats: the one act of a leader that no statement fences ---- */

static struct moment proved_at(const struct manager *m)
{
    return m->epoch ? db_lock_proved_at(m->lock) : m->term.proved_at;
}

static int64_t answers_for_ms(const struct term *t)
{
    return MAX(t->grace_ms, (int64_t)SURE_MS);
}

bool term_answers(const struct manager *m)
{
    const struct term *t = &m->term;
    struct moment proved = proved_at(m);

    return t->epoch && !m->stopping && t->heard <= t->epoch &&
           (clock_since(&proved) < answers_for_ms(t) || BROKEN(GRACE_END));
}

static const char *why_no_answers(const struct manager *m)
{
    const struct term *t = &m->term;

    return t->heard > t->epoch ? "another one leads"
           : clock_boot_ms() - proved_at(m).boot < answers_for_ms(t)
               ? "the wall clock went ahead, so this machine may have stood still; that it leads "
                 "is "
                 "proved once more first"
               : "the database is away for too long, tasks will stop";
}

static void on_row(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct term *t = &((struct manager *)arg)->term;

    (void)why;
    t->looking = false;
    if (rc == 0 && db_rows(res) == 1) {
        t->heard = MAX(t->heard, db_get_int(res, 0, 0));
    }
}

static void look_for_successor(struct manager *m)
{
    if (!m->term.looking && db_is_up(m->db_read)) {
        m->term.looking = db_exec(m->db_read, "select epoch from leader", NULL, on_row, m) == 0;
    }
}

/* Whoever may publish can say so, and nobody answers where a leader is silenced by it: the row
 * tells. Only who cannot read that goes by the word alone; its answers end soon anyway. */
void term_heard(struct manager *m, int64_t epoch)
{
    struct term *t = &m->term;

    if (epoch >= t->epoch) {
        t->leader_at = clock_boot_ms();
    }
    if (epoch <= t->epoch) {
        return;
    }
    look_for_successor(m);
    if (!m->epoch && !db_is_up(m->db_read) && epoch - t->epoch <= EPOCHS_AHEAD) {
        t->heard = MAX(t->heard, epoch);
    }
}

/* ---- the grace in the leader's row ---- */

static void on_settled(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct manager *m = arg;

    (void)res;
    (void)why;
    m->term.settling = false;
    m->term.settled = m->term.settled || rc == 0;
}

/* On the session that holds the lock, and fenced: nobody leads after us yet. */
static void settle(struct manager *m, int64_t epoch, int32_t grace_s)
{
    static const char sql[] = "update leader set grace_s = $1 where epoch = $2";
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_int(&p, grace_s);
    db_add_bigint(&p, epoch);
    m->term.settling = db_lock_exec(m->lock, sql, &p, on_settled, m) == 0;
}

/* ---- election ---- */

static void on_epoch(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct manager *m = arg;
    struct term *t = &m->term;
    int64_t now = clock_boot_ms();

    struct err e = {0};

    t->asked = false;
    if (rc == 0 && db_rows(res) == 0) { /* somebody took it out, or is putting a backup back */
        why = &e;
        rc = err_set(&e, ERR_NOT_FOUND,
                     "the row of table leader is missing: the database is not whole; where a "
                     "backup is being put back, stop all managers first");
    }
    if (m->stopping && rc == 0) {
        settle(m, db_get_int(res, 0, 0), (int32_t)db_get_int(res, 0, 1)); /* it was never used */
    }
    if (!t->electing) {
        return; /* the lock was lost meanwhile, or we are closing down */
    }
    if (rc < 0) {
        log_warn(NULL, "cannot take the lead: %s; trying again", why->text);
        return; /* the tick tries again */
    }
    CRASH_POINT("leader-elected");
    t->electing = false;
    m->epoch = db_get_int(res, 0, 0);
    int64_t left_s = db_get_int(res, 0, 1);
    bool nobody_between = t->epoch && m->epoch == t->epoch + 1;
    if (!nobody_between && left_s && !BROKEN(GRACE_WAIT)) {
        m->fleet.other_until = MAX(m->fleet.other_until, now + left_s * 1000);
    }
    t->epoch = t->heard = m->epoch;
    t->grace_ms = (int64_t)m->grace_s * 1000;
    t->settled = left_s <= m->grace_s;
    log_info(NULL, "this manager leads now, epoch %lld", (long long)m->epoch);
    lead_begin(m);
    notices_leader(m);
}

/* On the session that holds the lock: an epoch that comes late, after another manager's, would
 * fence that one for ever. */
static void elect(struct manager *m)
{
    static const char sql[] =
        "with before as (select grace_s from leader for update), "
        "won as (update leader l set epoch = l.epoch + 1, manager_id = $1, since = now(), "
        "grace_s = greatest(b.grace_s, $2) from before b returning l.epoch, b.grace_s), "
        "audit as (insert into cluster_event (at, manager_id, event, subject) "
        "select now(), $1, 'leader', $1 from won) select epoch, grace_s from won";
    struct term *t = &m->term;
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    if (!t->electing || t->asked || !m->db_ready) {
        return;
    }
    db_add_text(&p, m->id);
    db_add_int(&p, m->grace_s);
    t->asked = db_lock_exec(m->lock, sql, &p, on_epoch, m) == 0;
}

static void on_held(void *arg)
{
    struct manager *m = arg;

    m->term.electing = !m->stopping;
    elect(m);
}

static void on_lost(void *arg, const struct err *why)
{
    struct manager *m = arg;

    m->term.electing = false;
    if (m->epoch) {
        log_warn(NULL,
                 "this manager no longer leads: its connection with the lock was lost (%s); what "
                 "runs is kept alive for up to %d s",
                 why->text, m->grace_s);
        /* Not that of a lock which is taken again: until the next epoch somebody between may act.
         */
        m->term.proved_at = db_lock_proved_at(m->lock);
        m->epoch = 0;
        feed_stop(m->feed);
    }
}

void term_start(struct manager *m)
{
    struct db_options o = m->db_options;

    o.name = "sje-leader";
    o.connections = 1;
    o.on_up = NULL;
    o.on_down = NULL;
    m->lock = db_lock_new(m->loop, &o, LOCK_KEY, LOCK_RETRY_MS, on_held, on_lost, m);
}

/* ---- is the database there? ---- */

/* A connection that hangs is up, and a statement may take long. So what counts is the session for
 * the lock, where each second something short is asked. In ticks, not by the clock: after a pause
 * of this process the answer is taken first. */
static void listen_to_database(struct manager *m)
{
    struct term *t = &m->term;
    uint64_t answers = m->lock ? db_lock_answers(m->lock) : 0;

    if (!m->lock || answers != t->answers) {
        if (t->silent >= SILENT_TICKS) {
            log_info(NULL, "the database answers again");
        }
        t->answers = answers;
        t->silent = 0;
    } else if (++t->silent == SILENT_TICKS && db_is_up(m->db)) {
        log_error(NULL,
                  "the database has not answered for %d s although it is connected: it hangs, or "
                  "the network does; what is asked waits or is refused until it goes on",
                  t->silent);
    }
}

int term_db_silent_s(const struct manager *m)
{
    return m->term.silent < SILENT_TICKS ? 0 : m->term.silent;
}

static void look_for_leader(struct manager *m)
{
    if (m->epoch || !m->sub || !mq_is_up(m->sub) || !m->term.leader_at) {
        m->term.leader_at = clock_boot_ms();
    }
}

bool term_nobody_leads(const struct manager *m)
{
    return m->term.leader_at && clock_boot_ms() - m->term.leader_at > LEADER_MS;
}

void term_tick(struct manager *m)
{
    struct term *t = &m->term;
    bool answers = term_answers(m);

    listen_to_database(m);
    look_for_leader(m);
    elect(m);
    if (t->answered && !answers) {
        log_warn(NULL, "this manager answers no beats any more: %s", why_no_answers(m));
    }
    t->answered = answers;
    if (!m->epoch) {
        if (answers) {
            look_for_successor(m);
        }
        if (m->ticks % NOTICE_TICKS == 0) {
            notices_here(m);
        }
        return;
    }
    if (!t->settled && !t->settling && clock_boot_ms() >= m->fleet.other_until) {
        settle(m, m->epoch, m->grace_s);
    }
    if (m->ticks % NOTICE_TICKS == 0) {
        notices_leader(m);
    }
}

/* Beats are not answered any more, so that the next leader need not wait for us; while we still
 * wait for an earlier one, it has to as well. */
void term_end(struct manager *m)
{
    MUST(m->stopping);
    if (m->epoch && clock_boot_ms() >= m->fleet.other_until) {
        settle(m, m->epoch, 0);
    }
    m->epoch = 0;
    m->term.electing = false;
}
