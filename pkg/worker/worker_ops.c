/* What the core asks for, done: messages to the broker, tasks started and stopped. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/worker/beat.h"
#include "pkg/worker/worker_priv.h"

#include <stdio.h>

#define PROBE_EVERY     4 /* beats */
#define OFFERS_TEXT_MAX (128 * 1024)

static struct report_from from_of(const struct worker *w)
{
    return (struct report_from){
        .who = who_of(w->config->node.node_id, &w->dir.uuid, w->dir.incarnation),
        .reply = links_reply(w->links)};
}

const char *worker_fields(const struct wcore_key *k, char text[WORKER_FIELDS_MAX])
{
    char task[ID_TEXT_LEN];

    id_format(&k->task, task);
    snprintf(text, WORKER_FIELDS_MAX, "task=%s attempt=%d", task, k->attempt);
    return text;
}

static void op_ack(void *arg, struct wcore_delivery d)
{
    CRASH_POINT("worker-before-ack");
    links_ack(((struct worker *)arg)->links, d);
}

static void op_nack(void *arg, struct wcore_delivery d)
{
    links_nack(((struct worker *)arg)->links, d);
}

static void op_consume(void *arg, bool on)
{
    log_debug(NULL, "%s hints", on ? "taking" : "not taking");
    links_consume(((struct worker *)arg)->links, on);
}

static int op_send_claims(void *arg, const char *manager, struct wcore_attempt *const *list,
                          size_t n, int64_t beat)
{
    struct worker *w = arg;
    struct report_from from = from_of(w);
    struct buf b CLEANUP(buf_free);

    buf_init(&b, REPORT_MAX);
    report_claims(&b, &from, list, n, beat);
    MUST(!b.failed);
    int rc = links_send_claims(w->links, manager, (struct str){b.data, b.len});
    CRASH_POINT("worker-claimed");
    return rc;
}

static int send_result_batch(struct worker *w, struct buf *b)
{
    report_results_end(b);
    MUST(!b->failed);
    return links_send_results(w->links, (struct str){b->data, b->len});
}

/* Several messages where one would become too large. */
static int op_send_results(void *arg, struct wcore_attempt *const *list, size_t n)
{
    struct worker *w = arg;
    struct report_from from = from_of(w);
    struct buf b CLEANUP(buf_free);
    bool first = true;
    int rc = 0;

    buf_init(&b, 16 * REPORT_MAX);
    report_results_begin(&b, &from);
    for (size_t i = 0; i < n && rc == 0; i++) {
        const char *text = run_result(list[i]->user);
        size_t len = strlen(text);

        if (!first && b.len + len > REPORT_MAX - 8) {
            rc = send_result_batch(w, &b);
            buf_reset(&b);
            report_results_begin(&b, &from);
            first = true;
        }
        buf_adds(&b, first ? "" : ",");
        buf_add(&b, text, len);
        first = false;
    }
    rc = rc < 0 ? rc : send_result_batch(w, &b);
    CRASH_POINT("worker-result-sent");
    return rc;
}

int64_t worker_patience_ms(const struct worker *w)
{
    return wcore_heartbeat_ms(w->core) / 2; /* the one in use: a short lease makes it shorter */
}

/* A broker that takes beats need not deliver them: cut off from the managers, or stuck. A manager
 * that gets a beat twice answers the first alone, so now and then one goes through the broker
 * alone, to see whether it is back. */
static bool needs_detour(struct worker *w, int rc, int64_t now)
{
    if (w->unanswered_since && now - w->unanswered_since >= worker_patience_ms(w)) {
        w->silent = true;
    }
    if (!w->silent) {
        w->silent_beats = 0;
        return false;
    }
    return ++w->silent_beats % PROBE_EVERY != 0 || rc < 0;
}

static void log_detour(struct worker *w, int rc)
{
    if (w->silent != w->detouring) {
        log_write(w->silent ? LOG_WARN : LOG_INFO, NULL, "%s",
                  !w->silent ? "beats go through the broker alone again"
                  : rc < 0   ? "the broker takes no beats; trying the managers over HTTP"
                             : "the broker brings no answer; trying the managers over HTTP too");
    }
    w->detouring = w->silent;
}

/* The one place where a beat leaves: by the broker, and over HTTP while that does not do. */
static int publish_beat(struct worker *w, struct str body)
{
    int64_t now = clock_boot_ms();
    int rc = links_send_beat(w->links, body);
    bool detour = needs_detour(w, rc, now);

    log_detour(w, rc);
    w->unanswered_since = w->unanswered_since ? w->unanswered_since : now;
    w->hurry_at = detour ? 0 : now + worker_patience_ms(w);
    /* Whoever stands still must not cost a lease, which is three beats long at least. */
    return detour && detour_send(w->detour, body, wcore_heartbeat_ms(w->core)) == 0 ? 0 : rc;
}

static void tell(char **told, const char *text, const char *some, const char *none,
                 enum log_level level)
{
    if (!streq(*told, text)) {
        if (*text) {
            log_write(level, NULL, "%s%s", some, text);
        } else if (*told) {
            log_info(NULL, "%s", none);
        }
        str_replace_owned(told, text);
    }
}

void worker_tell_offers(struct worker *w)
{
    struct buf offered CLEANUP(buf_free);
    struct buf unable CLEANUP(buf_free);
    size_t n = 0;
    const struct wcore_offer *list = wcore_offers(w->core, &n);

    buf_init(&offered, OFFERS_TEXT_MAX);
    buf_init(&unable, OFFERS_TEXT_MAX);
    buf_adds(&offered, "");
    buf_adds(&unable, "");
    metric_clear(METRIC_worker_hold_off);
    for (size_t i = 0; i < n; i++) {
        const char *type = list[i].type ? list[i].type : "all";

        if (list[i].why) {
            metric_set(METRIC_worker_hold_off, type, 1);
            buf_addf(&unable, "%s%s (%s)", unable.len ? ", " : "", type, list[i].why);
        } else if (list[i].type) {
            buf_addf(&offered, "%s%s", offered.len ? ", " : "", type);
        }
    }
    tell(&w->offered, offered.data, "tasks that this node can do: ", "this node can do no tasks",
         LOG_INFO);
    tell(&w->unable, unable.data, "not taking tasks of: ", "taking tasks of every type again",
         LOG_WARN);
}

static int op_send_beat(void *arg, int64_t beat)
{
    struct worker *w = arg;
    struct beat_facts f = {.from = from_of(w),
                           .config = w->config,
                           .host = w->host,
                           .started_at = w->started_at,
                           .wall_minus_boot = clock_wall_ms() - clock_boot_ms()};
    struct buf b CLEANUP(buf_free);

    worker_tell_offers(w);
    METRIC_SET(worker_slots, wcore_slots(w->core));
    METRIC_SET(worker_slots_used, wcore_slots(w->core) - wcore_slots_free(w->core));
    buf_init(&b, 2 * REPORT_MAX);
    beat_write(&b, &f, w->core, beat);
    MUST(!b.failed);
    return publish_beat(w, (struct str){b.data, b.len});
}

static enum wcore_started op_start(void *arg, struct wcore_attempt *a, const void *grant,
                                   struct wcore_fault *ret)
{
    struct worker *w = arg;
    const struct order_grant *g = grant;
    char text[WORKER_FIELDS_MAX];

    CRASH_POINT("worker-granted");
    struct run_grant said = {g->spec, g->losses, g->returns, g->elsewhere};
    enum wcore_started s = run_start(&w->runs, a, &said, ret);
    if (s == WCORE_START_UNDER_WAY) {
        log_info(worker_fields(&a->key, text), "granted; starting");
    } else if (!streq(run_outcome(a->user), "succeeded")) {
        log_warn(worker_fields(&a->key, text), "could not be started: %.300s; %s", run_why(a->user),
                 s == WCORE_START_FAULT ? "giving it back" : "reporting it");
    }
    return s;
}

static void op_lease(void *arg, struct wcore_attempt *a)
{
    (void)arg;
    run_lease(a->user, a->deadline);
}

static void op_stop(void *arg, struct wcore_attempt *a, enum wcore_stop why, int64_t grace_ms)
{
    static const char *const words[] = {
        [WCORE_STOP_CANCEL] = "cancelled; stopping it",
        [WCORE_STOP_SHUTDOWN] = "we shut down; stopping it",
        [WCORE_STOP_REVOKED] = "not ours any more; stopping it and forgetting it",
        [WCORE_STOP_LEASE] = "its lease is over: no manager has renewed it; it is being stopped"};
    static const char *const reasons[] = {[WCORE_STOP_CANCEL] = "cancel",
                                          [WCORE_STOP_SHUTDOWN] = "shutdown",
                                          [WCORE_STOP_REVOKED] = "revoked",
                                          [WCORE_STOP_LEASE] = "lease"};
    char text[WORKER_FIELDS_MAX];

    (void)arg;
    METRIC_INC_BY(worker_stops, reasons[why]);
    log_write(why == WCORE_STOP_CANCEL || why == WCORE_STOP_SHUTDOWN ? LOG_INFO : LOG_WARN,
              worker_fields(&a->key, text), "%s", words[why]);
    run_stop(a->user, why, grace_ms);
}

static void op_kill(void *arg, struct wcore_attempt *a)
{
    char text[WORKER_FIELDS_MAX];

    (void)arg;
    log_warn(worker_fields(&a->key, text), "has not stopped in time; killing it and its shim");
    run_kill(a->user);
}

static void op_conclude(void *arg, struct wcore_attempt *a, enum wcore_verdict v, const char *why)
{
    struct worker *w = arg;
    char text[WORKER_FIELDS_MAX];

    log_info(worker_fields(&a->key, text), "granted, but: %s; %s", why,
             v == WCORE_RETURNED ? "giving it back" : "reporting it");
    run_conclude(&w->runs, a, v, why);
}

static void op_forget(void *arg, struct wcore_attempt *a)
{
    (void)arg;
    CRASH_POINT("worker-applied");
    run_forget(a->user);
}

static uint64_t op_random(void *arg)
{
    (void)arg;
    return random_u64();
}

static void op_moved(void *arg, const struct wcore_attempt *a, enum wcore_state from,
                     const char *why)
{
    char text[WORKER_FIELDS_MAX];

    (void)arg;
    if (a->state == WCORE_ENDED && a->user) {
        METRIC_INC_BY(worker_attempts, run_outcome(a->user));
    }
    if (log_enabled(LOG_DEBUG)) {
        log_debug(worker_fields(&a->key, text), "%s -> %s: %s", wcore_state_name(from),
                  wcore_state_name(a->state), why);
    }
}

const struct wcore_ops worker_ops = {
    .ack = op_ack,
    .nack = op_nack,
    .consume = op_consume,
    .send_claims = op_send_claims,
    .send_results = op_send_results,
    .send_beat = op_send_beat,
    .start = op_start,
    .lease = op_lease,
    .stop = op_stop,
    .kill = op_kill,
    .conclude = op_conclude,
    .forget = op_forget,
    .random = op_random,
    .moved = op_moved,
};
