/* Beats: what a worker says of itself renews its leases; the answer carries cancels, revocations,
 * drain, and whether it is refused. */
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define GREET_MS         60000
#define LOOKUPS_OPEN_MAX 20000
#define ALARM_MS         10000
#define FULL_MS          60000 /* between two lines about workers that are not known */

/* What one beat leads to, gathered for its answer. */
struct beat_call {
    struct manager *m;
    const struct beat *beat;
    struct task_ref *unsure;
    size_t n_unsure;
    struct task_ref *revoke;
    size_t n_revoke;
};

struct unknown_call {
    struct manager *m;
    struct task_ref ref;
    int64_t beat; /* that listed it */
    struct who who;
    char *reply;
};

/* `for_whom` is who has its name; NULL: nobody, all places are taken. */
static void write_refused(struct buf *b, const struct fleet_worker *for_whom)
{
    const char *host = for_whom ? for_whom->host : "";

    buf_adds(b, ",\"refused\":{\"host\":");
    json_add_string(b, host, strlen(host));
    buf_addf(b, ",\"pid\":%d}", for_whom ? for_whom->pid : 0);
}

static void write_beat_ack(struct manager *m, struct buf *b, const struct beat *beat, bool drain)
{
    answer_begin(b, "beat-ack", m->id, mgr_url_for(m, beat->host), &beat->who);
    buf_addf(b, ",\"beat\":%lld,\"drain\":%s,\"deadAfterMs\":%lld", (long long)beat->beat,
             drain ? "true" : "false", (long long)m->dead_after_ms);
}

/* To one worker too many: it takes no work, and nothing is known of what it runs. */
static void write_too_many(struct manager *m, struct buf *b, const struct beat *beat,
                           struct task_ref *unsure)
{
    write_beat_ack(m, b, beat, false);
    write_refused(b, fleet_find(&m->fleet, beat->who.node));
    for (size_t i = 0; i < beat->n_running; i++) {
        unsure[i] = (struct task_ref){beat->running[i].task, beat->running[i].attempt};
    }
    buf_adds(b, ",\"unsure\":");
    refs_write(b, unsure, beat->n_running);
    buf_adds(b, ",\"revoke\":[],\"cancel\":[]}");
}

/* To a process that goes on although a later one of its worker was heard. */
static void write_outdated(struct manager *m, struct buf *b, const struct beat *beat,
                           const struct fleet_worker *w)
{
    answer_begin(b, "outdated", m->id, mgr_url_for(m, beat->host), &beat->who);
    buf_addf(b, ",\"inc\":%lld,\"host\":", (long long)w->who.inc);
    json_add_string(b, w->host, strlen(w->host));
    buf_addf(b, ",\"pid\":%d}", w->pid);
}

static void on_unknown_answer(void *arg, const struct ledger_answer *a)
{
    struct unknown_call *c CLEANUP(freep) = arg;
    char *reply CLEANUP(freep) = c->reply;
    struct manager *m = c->m;

    m->lookups_open--;
    if (a->rc < 0 && a->rc != ERR_NOT_FOUND) {
        return; /* the next beat asks again */
    }
    intake_learn(m, &c->ref.task, a);
    if (a->rc == 0 && a->task && (a->step == STEP_APPLIED || a->step == STEP_SAME)) {
        return;
    }
    struct buf b CLEANUP(buf_free) = {0};
    buf_init(&b, MESSAGE_MAX);
    buf_addf(&b, "{\"v\":1,\"type\":\"revoke\",\"beat\":%lld", (long long)c->beat);
    addressee_write(&b, &c->who);
    buf_adds(&b, ",\"tasks\":");
    refs_write(&b, &c->ref, 1);
    buf_addc(&b, '}');
    mgr_send(m, "", reply, &b);
}

/* An attempt that the worker runs and we do not know: the row tells whether it may. */
static void on_unknown(void *arg, const struct beat_run *r)
{
    struct beat_call *bc = arg;

    bc->unsure[bc->n_unsure++] = (struct task_ref){r->task, r->attempt};
    if (streq(r->phase, "ended") || bc->m->lookups_open >= LOOKUPS_OPEN_MAX) {
        return; /* its result is on its way, or was applied; or the next beat asks again */
    }
    bc->m->lookups_open++;
    struct unknown_call *c = xmalloc(sizeof(*c));
    *c = (struct unknown_call){
        bc->m, {r->task, r->attempt}, bc->beat->beat, bc->beat->who, xstrdup(bc->beat->reply)};
    struct task_event ev = {.type = TE_SURVIVED,
                            .now = mgr_now(bc->m),
                            .attempt = r->attempt,
                            .who = bc->beat->who,
                            .token = r->token};
    ledger_submit(bc->m->ledger, &r->task, &ev, 0, on_unknown_answer, c);
}

static void on_revoke(void *arg, const struct beat_run *r)
{
    struct beat_call *bc = arg;

    bc->revoke[bc->n_revoke++] = (struct task_ref){r->task, r->attempt};
}

static void on_survived(void *arg, const struct lease *l, const struct beat *b)
{
    struct beat_call *bc = arg;
    struct task_event ev = {.type = TE_SURVIVED,
                            .now = mgr_now(bc->m),
                            .attempt = l->attempt,
                            .who = b->who,
                            .token = l->token};

    ledger_submit(bc->m->ledger, &l->task, &ev, 0, NULL, NULL);
}

struct application_call {
    struct manager *m;
    struct id task;
    int64_t token;
};

static void on_application_answer(void *arg, const struct ledger_answer *a)
{
    struct application_call *c CLEANUP(freep) = arg;
    struct lease *l = fleet_lease(&c->m->fleet, &c->task);

    if (a->rc < 0 && l && l->token == c->token) {
        l->application_told = false; /* the next beat tells it again */
    }
}

static void on_application(void *arg, const struct lease *l, const char *application_id)
{
    struct beat_call *bc = arg;
    struct application_call *c = xmalloc(sizeof(*c));
    struct task_event ev = {.type = TE_APPLICATION,
                            .now = mgr_now(bc->m),
                            .attempt = l->attempt,
                            .who = l->worker->who,
                            .token = l->token,
                            .application_id = application_id};

    *c = (struct application_call){bc->m, l->task, l->token};
    ledger_submit(bc->m->ledger, &l->task, &ev, 0, on_application_answer, c);
}

static void on_gone(void *arg, struct lease *l, const char *why, bool by_restart)
{
    struct beat_call *bc = arg;

    (void)by_restart;
    lead_lost(bc->m, l, why);
}

/* At most a message's worth: the rest is told when these have ended. */
static void add_cancels(struct fleet_worker *w, struct buf *b)
{
    size_t told = 0;

    buf_adds(b, ",\"cancel\":[");
    LIST_EACH(&w->leases, n)
    {
        struct lease *l = CONTAINER_OF(n, struct lease, node);
        struct buf one CLEANUP(buf_free) = {0};

        if (!l->cancel || told == ENTRIES_MAX) {
            continue;
        }
        buf_init(&one, 256);
        refs_write(&one, &(struct task_ref){l->task, l->attempt}, 1);
        buf_adds(b, told++ ? "," : "");
        buf_add(b, one.data + 1, one.len - 2);
    }
    buf_addc(b, ']');
}

static void on_left(void *arg, struct lease *l, const char *why, bool by_restart)
{
    struct beat_call *bc = arg;

    (void)why;
    (void)by_restart;
    fleet_release(&bc->m->fleet, &l->task);
}

/* It hears only of the leader else, and asks us when that is gone together with the broker. */
static void greet(struct manager *m, struct fleet_worker *w, int64_t now)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *url = mgr_url_for(m, w->host);

    if (!*url || (w->greeted_inc == w->who.inc && now - w->greeted_at < GREET_MS)) {
        return;
    }
    w->greeted_inc = w->who.inc;
    w->greeted_at = now;
    buf_init(&b, MESSAGE_MAX);
    grants_begin(&b, m->id, url, &w->who);
    grants_denies(&b);
    grants_end(&b);
    mgr_send(m, "", w->reply, &b);
}

/* Not taken. An outdated one is an alarm: its process lives, or somebody speaks in its name. */
static int not_taken(struct beat_call *bc, const struct beat_heard *heard, bool answers,
                     struct buf *answer)
{
    struct manager *m = bc->m;
    const struct beat *b = bc->beat;
    static const char *const reasons[] = {
        [BEAT_LATE] = "late", [BEAT_OUTDATED] = "outdated", [BEAT_TOO_MANY] = "tooMany"};
    char text[WHO_TEXT_LEN];
    int64_t now = clock_boot_ms();

    METRIC_INC_BY(beats_refused, reasons[heard->verdict]);
    if (heard->verdict == BEAT_OUTDATED && answers) {
        if (now >= heard->worker->alarm_at) {
            heard->worker->alarm_at = now + ALARM_MS;
            log_error(NULL,
                      "a beat of worker %s, but process %lld of it was heard: beats are forged or "
                      "replayed, or its workDir was copied or put back; telling it",
                      who_text(&b->who, text), (long long)heard->worker->who.inc);
        }
        write_outdated(m, answer, b, heard->worker);
    } else if (heard->verdict == BEAT_TOO_MANY) {
        if (now >= m->full_at) {
            m->full_at = now + FULL_MS;
            log_error(
                NULL,
                "worker %s is refused, and maybe others: %d workers live already, or %d of its "
                "name",
                who_text(&b->who, text), FLEET_MAX, NAMESAKES_MAX);
        }
        if (answers) {
            write_too_many(m, answer, b, bc->unsure);
        }
    }
    return ERR_CONFLICT;
}

static void tell_unserved(struct manager *m, const struct fleet_worker *w)
{
    char text[WHO_TEXT_LEN];

    if (w->unserved && w->last_beat >= m->crowded_at) {
        m->crowded_at = w->last_beat + FULL_MS;
        log_error(
            NULL,
            "worker %s gets no tasks, and maybe others: with what it offers, all workers name "
            "more than %d pools or %d types of tasks, or that takes more than %d MiB",
            who_text(&w->who, text), OFFERED_POOLS_MAX, OFFERED_TYPES_MAX, OFFERED_MAX >> 20);
    }
}

int beats_take(struct manager *m, const struct beat *b, struct buf *answer)
{
    bool answers = term_answers(m);
    struct beat_call bc = {.m = m, .beat = b};
    struct beat_effects fx = {.role = m->epoch  ? FLEET_LEADS
                                      : answers ? FLEET_BLIND
                                                : FLEET_FOLLOWS,
                              .arg = &bc,
                              .unknown = on_unknown,
                              .revoke = on_revoke,
                              .survived = on_survived,
                              .application = on_application,
                              .gone = m->epoch ? on_gone : on_left};
    struct task_ref *unsure CLEANUP(freep) = xcalloc(b->n_running, sizeof(*unsure));
    struct task_ref *revoke CLEANUP(freep) = xcalloc(b->n_running, sizeof(*revoke));

    bc.unsure = unsure;
    bc.revoke = revoke;
    struct beat_heard heard = fleet_beat(&m->fleet, b, clock_boot_ms(), mgr_now(m), &fx);
    if (heard.verdict != BEAT_TAKEN) {
        return not_taken(&bc, &heard, answers, answer);
    }
    struct fleet_worker *w = heard.worker;
    tell_unserved(m, w);
    if (w->state == WORKER_REFUSED) {
        lead_refuse(m, w);
    } else if (heard.changed) {
        w->refusal_told = false;
        lead_worker_seen(w);
        lead_replaced(m, w);
    }
    if (!answers) {
        greet(m, w, w->last_beat);
        return ERR_BUSY;
    }
    write_beat_ack(m, answer, b, w->node->drain);
    if (w->state == WORKER_REFUSED) {
        write_refused(answer, w->node->holder);
    }
    buf_adds(answer, ",\"unsure\":");
    refs_write(answer, unsure, bc.n_unsure);
    buf_adds(answer, ",\"revoke\":");
    refs_write(answer, revoke, bc.n_revoke);
    add_cancels(w, answer);
    buf_addc(answer, '}');
    return 0;
}

int manager_beat_http(struct manager *m, struct str body, struct buf *answer, struct err *reterr)
{
    struct message msg CLEANUP(message_free);
    int rc = message_read(body, &msg, reterr);

    if (rc < 0) {
        return rc;
    }
    if (msg.type != MSG_BEAT) {
        return err_set(reterr, ERR_PARSE, "not a beat");
    }
    /* Whoever reaches our port may call: they must not make us write into other queues. */
    if (!str_starts(str_of(msg.beat.reply), STR("sje.worker."))) {
        return err_set(reterr, ERR_PARSE, "reply is no worker's queue");
    }
    /* Nor invent workers: one that has leases is known from the broker or the database. Who does
     * not know its UUID cannot speak for it. */
    if (!fleet_of(&m->fleet, &msg.beat.who)) {
        return err_set(reterr, ERR_NOT_FOUND, "no such worker is known here");
    }
    rc = beats_take(m, &msg.beat, answer);
    return rc < 0 ? err_set(reterr, rc,
                            rc == ERR_BUSY ? "this manager does not lead" : "an older beat")
                  : 0;
}
