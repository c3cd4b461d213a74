#include "pkg/task/step.h"

#include "internal/broken.h"
#include "internal/str.h"

#include <stdlib.h>

#define BACKOFF_CAP_S   3600 /* doubling ends there */
#define LOSS_BACKOFF_S  1
#define RETURNS_AT_ONCE 20 /* then the next attempt waits: a second, doubling up to a minute */
#define RETURN_CAP_MS   60000
#define NODES_MAX       1000 /* bytes; more names are not kept */
#define STALE_MAX       16   /* late reports recorded per task: a peer must not grow the audit */

static const char *const event_names[TASK_EVENT_TYPES] = {
#define X(name, text) text,
    TASK_EVENTS(X)
#undef X
};

struct edge {
    enum task_state from;
    enum task_event_type event;
    enum task_state to;
    const char *why;
};

static const struct edge edges[] = {
#define X(from, event, to, why) {TASK_##from, TE_##event, TASK_##to, why},
    TASK_EDGES(X)
#undef X
};

static const struct edge *edge_find(enum task_state from, enum task_event_type ev,
                                    enum task_state to)
{
    for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
        if (edges[i].from == from && edges[i].event == ev && edges[i].to == to) {
            return &edges[i];
        }
    }
    return NULL;
}

bool task_edge_allowed(enum task_state from, enum task_state to)
{
    for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
        if (edges[i].from == from && edges[i].to == to) {
            return true;
        }
    }
    return false;
}

bool task_outcome_parse(const char *text, enum task_outcome *ret)
{
    static const char *const names[TASK_OUTCOMES] = {"succeeded", "failed", "cancelled", "lost",
                                                     "returned"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (streq(text, names[i])) {
            *ret = (enum task_outcome)i;
            return true;
        }
    }
    return false;
}

int64_t task_backoff_ms(int base_s, int n, uint64_t random)
{
    int64_t cap = MAX(base_s, BACKOFF_CAP_S) * (int64_t)1000;
    int64_t limit = (int64_t)base_s * 1000;

    for (int i = 1; i < n && limit < cap; i++) {
        limit *= 2;
    }
    limit = MIN(limit, cap);
    return limit <= 0 ? 0 : (int64_t)(random % (uint64_t)(limit + 1));
}

void task_audit_done(struct task_audit *a)
{
    free(a->worker_id);
    free(a->detail);
    *a = (struct task_audit){0};
}

static char *name_of(const struct who *w)
{
    return who_is_nobody(w) ? NULL : xstrdup(w->node);
}

/* The only place that changes a state. */
static void move(struct task *t, const struct task_event *ev, enum task_state to,
                 struct task_audit *audit, const char *name)
{
    MUST(edge_find(t->state, ev->type, to));
    *audit = (struct task_audit){
        .seq = ++t->seq,
        .at = ev->now,
        .attempt = t->attempt,
        .from = t->state,
        .to = to,
        .event = name,
        .worker_id = name_of(who_is_nobody(&ev->who) ? &t->who : &ev->who),
    };
    t->state = to;
}

static void add_member(struct buf *b, const char *key, const char *json)
{
    buf_addf(b, "%c\"%s\":%s", b->len ? ',' : '{', key, json);
}

static void add_text(struct buf *b, const char *key, const char *text)
{
    if (text) {
        buf_addf(b, "%c\"%s\":", b->len ? ',' : '{', key);
        json_add_string(b, text, strlen(text));
    }
}

static void add_number(struct buf *b, const char *key, int64_t n)
{
    buf_addf(b, "%c\"%s\":%lld", b->len ? ',' : '{', key, (long long)n);
}

static char *close_detail(struct buf *b)
{
    if (b->len) {
        buf_addc(b, '}');
        return buf_take(b);
    }
    return NULL;
}

static void set_ready_time(struct task *t, int64_t when)
{
    t->run_after = when;
    t->rank = when - (int64_t)t->priority * TASK_AGEING_MS;
    t->queue_deadline = t->queue_timeout_s ? when + (int64_t)t->queue_timeout_s * 1000 : INT64_MIN;
}

/* The token stays after a report was applied: the same report again is then a repetition, not a
 * stranger. */
static void clear_grant(struct task *t, bool reported)
{
    t->token = reported ? t->token : 0;
    t->claim_beat = 0;
}

/* A report of an attempt that is not, or no longer, the one that holds the grant. */
static enum step_rc stale(struct task *t, const struct task_event *ev, struct task_audit *audit,
                          const char **reason)
{
    *reason = task_state_final(t->state) ? "ended" : "superseded";
    bool repeated = t->token == ev->token && t->state != TASK_RUNNING;
    if (repeated || t->stale >= STALE_MAX) {
        return STEP_REFUSED;
    }
    struct buf detail CLEANUP(buf_free) = {0};
    buf_init(&detail, 4096);
    add_text(&detail, "report", event_names[ev->type]);
    add_number(&detail, "ofAttempt", ev->attempt);
    add_text(&detail, "reason", *reason);
    add_text(&detail, "text",
             task_state_final(t->state)
                 ? "the result came after the task had ended; it does not count"
                 : "the result is of an attempt that is not the present one; it does not count");
    t->stale++;
    *audit = (struct task_audit){.seq = ++t->seq,
                                 .at = ev->now,
                                 .attempt = t->attempt,
                                 .from = t->state,
                                 .to = t->state,
                                 .event = "superseded",
                                 .worker_id = name_of(&ev->who),
                                 .detail = close_detail(&detail)};
    return STEP_RECORD;
}

/* A lost attempt's application may run on in a cluster. Only a worker can find and end it: so the
 * task is not over, even where it is to be cancelled, before another attempt has looked. */
static bool left_application(const struct task *t)
{
    return t->losses > 0 && t->application_id && strncmp(t->application_id, "local-", 6) != 0;
}

static bool holds_grant(const struct task *t, const struct task_event *ev)
{
    return (t->state == TASK_RUNNING || BROKEN(FINAL)) &&
           ((t->attempt == ev->attempt && t->token == ev->token) || BROKEN(FENCE));
}

static enum step_rc on_claim(struct task *t, const struct task_event *ev, struct task_audit *audit,
                             const char **reason)
{
    if (task_state_final(t->state) && !BROKEN(CANCELLED)) {
        *reason = t->state == TASK_CANCELLED ? "cancelled" : "ended";
        return STEP_REFUSED;
    }
    if (t->attempt != ev->attempt || t->state == TASK_SCHEDULED) {
        *reason = "superseded";
        return STEP_REFUSED;
    }
    if (t->state == TASK_RUNNING) {
        if (!who_continues(&ev->who, &t->who) || ev->who.inc != t->who.inc) {
            *reason = "running";
            return STEP_REFUSED;
        }
        /* The grant was lost on its way. The claim that counts is the last one: see Leases. */
        if (t->claim_beat >= ev->beat) {
            return STEP_SAME;
        }
        move(t, ev, TASK_RUNNING, audit, "reclaimed");
        t->claim_beat = ev->beat;
        return STEP_APPLIED;
    }
    t->lease_ms = t->lease_s ? (int64_t)t->lease_s * 1000 : ev->lease_ms;
    move(t, ev, TASK_RUNNING, audit, "granted");
    audit->detail = xasprintf("{\"leaseMs\":%lld}", (long long)t->lease_ms);
    t->who = ev->who;
    t->token = ev->token;
    t->claim_beat = ev->beat;
    t->started_at = ev->now;
    t->finished_at = INT64_MIN;
    if (!left_application(t)) {
        str_replace_owned(&t->application_id, NULL);
    }
    str_replace_owned(&t->progress, NULL);
    return STEP_APPLIED;
}

static void finish(struct task *t, const struct task_event *ev, const char *error)
{
    t->finished_at = ev->now;
    str_replace_owned(&t->error, error);
    clear_grant(t, ev->type == TE_RESULT);
}

/* The next attempt: SCHEDULED after `delay_ms`. */
static void again(struct task *t, const struct task_event *ev, int64_t delay_ms)
{
    t->attempt++;
    set_ready_time(t, ev->now + delay_ms);
    clear_grant(t, ev->type == TE_RESULT);
}

static char *error_json(const char *kind, const char *message)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 4096);
    add_text(&b, "kind", kind);
    add_text(&b, "message", message);
    add_member(&b, "exitCode", "null");
    add_member(&b, "signal", "null");
    return close_detail(&b);
}

static void note_retry(struct buf *detail, const struct task *t, int64_t delay_ms)
{
    add_number(detail, "nextAttempt", t->attempt);
    add_number(detail, "backoffMs", delay_ms);
}

/* True where this death, together with the last one, shows that the task kills its workers. */
static bool is_poison(const struct task *t, const struct task_event *ev)
{
    char *here CLEANUP(freep) =
        ev->signature ? xasprintf("%s@%s", ev->signature, t->who.node) : NULL;

    if (!here || !t->loss_signature || streq(here, t->loss_signature)) {
        return false;
    }
    size_t n = strlen(ev->signature) + 1;
    return strncmp(here, t->loss_signature, n) == 0;
}

static char *poison_text(const struct task *t, const struct task_event *ev)
{
    const char *before = t->loss_signature + strlen(ev->signature) + 1;
    bool by_signal = str_starts(str_of(ev->signature), STR("signal "));

    return xasprintf("it %s%s on %s and on %s; not tried again",
                     by_signal ? "was killed by " : "ran out of memory",
                     by_signal ? ev->signature : "", before, t->who.node);
}

static void remember_signature(struct task *t, const struct task_event *ev)
{
    char *here CLEANUP(freep) =
        ev->signature ? xasprintf("%s@%s", ev->signature, t->who.node) : NULL;

    str_replace_owned(&t->loss_signature, here);
}

static char *message_of(const char *error)
{
    json_auto_t *j = NULL;
    const char *message = NULL;

    if (error && json_read(error, strlen(error), &j, NULL) == 0) {
        message = json_get_string(j, "message");
    }
    return xstrdup(message ? message : "the worker stopped it");
}

/* The attempt ended without an outcome of its own; by a report (RESULT with outcome lost) or by
 * none (LOST). */
static void attempt_lost(struct task *t, const struct task_event *ev, struct task_audit *audit)
{
    struct buf detail CLEANUP(buf_free) = {0};
    char *why CLEANUP(freep) = ev->reason ? xstrdup(ev->reason) : message_of(ev->error);

    buf_init(&detail, 128 * 1024);
    add_text(&detail, "reason", why);
    if (ev->error) {
        add_member(&detail, "error", ev->error);
    }
    add_text(&detail, "warning", ev->warning);
    t->losses++;
    bool look_again = t->cancel_requested && left_application(t) && t->losses <= ev->max_losses;
    if (t->cancel_requested && !look_again) {
        move(t, ev, TASK_CANCELLED, audit, "cancelled");
        finish(t, ev, NULL);
    } else if (!look_again && is_poison(t, ev)) {
        char *text CLEANUP(freep) = poison_text(t, ev);
        char *error CLEANUP(freep) = error_json("poison", text);
        move(t, ev, TASK_DEAD, audit, "dead");
        finish(t, ev, error);
    } else if (t->losses > ev->max_losses) {
        char *text CLEANUP(freep) = xasprintf("lost %d times; last: %s", t->losses, why);
        char *error CLEANUP(freep) = error_json("lost", text);
        move(t, ev, TASK_FAILED, audit, "failed");
        finish(t, ev, error);
    } else {
        int64_t delay = task_backoff_ms(LOSS_BACKOFF_S, t->losses, ev->random);
        remember_signature(t, ev);
        move(t, ev, TASK_SCHEDULED, audit, "lost");
        again(t, ev, delay);
        note_retry(&detail, t, delay);
    }
    audit->detail = close_detail(&detail);
}

static void is_it(void *arg, const char *node)
{
    const char **wanted = arg;

    if (*wanted && streq(*wanted, node)) {
        *wanted = NULL;
    }
}

static void remember_node(char **nodes, const char *node)
{
    size_t len = *nodes ? strlen(*nodes) : 0;

    task_nodes_each(*nodes, is_it, &node);
    if (node && *node && len < NODES_MAX) {
        char *more CLEANUP(freep) = xasprintf("%s%s%s", len ? *nodes : "", len ? " " : "", node);
        str_replace_owned(nodes, more);
    }
}

static void attempt_failed(struct task *t, const struct task_event *ev, struct task_audit *audit)
{
    struct buf detail CLEANUP(buf_free) = {0};

    buf_init(&detail, 128 * 1024);
    if (ev->error) {
        add_member(&detail, "error", ev->error);
    }
    add_text(&detail, "warning", ev->warning);
    t->failures++;
    if (is_poison(t, ev)) {
        char *text CLEANUP(freep) = poison_text(t, ev);
        char *error CLEANUP(freep) = error_json("poison", text);
        move(t, ev, TASK_DEAD, audit, "dead");
        finish(t, ev, error);
    } else if (t->failures >= t->max_attempts) {
        move(t, ev, TASK_FAILED, audit, "failed");
        finish(t, ev, ev->error);
    } else {
        int64_t delay = task_backoff_ms(t->backoff_s, t->failures, ev->random);
        remember_signature(t, ev);
        move(t, ev, TASK_SCHEDULED, audit, "retry");
        remember_node(&t->failed_on, t->who.node);
        str_replace_owned(&t->error, ev->error);
        again(t, ev, delay);
        note_retry(&detail, t, delay);
    }
    audit->detail = close_detail(&detail);
}

/* So that it does not go round between nodes that cannot do it, at their speed. */
static int64_t return_delay_ms(int returns)
{
    int64_t delay = 1000;

    for (int i = RETURNS_AT_ONCE + 1; i < returns && delay < RETURN_CAP_MS; i++) {
        delay *= 2;
    }
    return returns > RETURNS_AT_ONCE ? MIN(delay, (int64_t)RETURN_CAP_MS) : 0;
}

/* Its node could not start it. It keeps its place and the end of its patience: it has waited all
 * the time. */
static void attempt_returned(struct task *t, const struct task_event *ev, struct task_audit *audit)
{
    struct buf detail CLEANUP(buf_free) = {0};

    buf_init(&detail, 128 * 1024);
    if (ev->error) {
        add_member(&detail, "error", ev->error);
    }
    t->returns++;
    task_find_needs(t);
    remember_node(&t->returned_by, t->who.node);
    if (t->cancel_requested && !left_application(t)) {
        move(t, ev, TASK_CANCELLED, audit, "cancelled");
        finish(t, ev, NULL);
    } else {
        int64_t delay = return_delay_ms(t->returns);

        move(t, ev, delay ? TASK_SCHEDULED : TASK_READY, audit, "returned");
        t->attempt++;
        t->run_after = ev->now + delay;
        clear_grant(t, true);
        note_retry(&detail, t, delay);
    }
    audit->detail = close_detail(&detail);
}

/* What succeeded is complete, whatever the last sample said on the way. */
static void complete_progress(struct task *t)
{
    json_auto_t *j = NULL;
    int64_t total = 0;

    if (!t->progress || json_read(t->progress, strlen(t->progress), &j, NULL) < 0) {
        return;
    }
    total = json_get_int(j, "total", 0);
    if (total > 0 && json_get_int(j, "done", 0) != total) {
        json_object_set_new(j, "done", json_integer(total));
        json_object_set_new(j, "text", json_string("complete"));
        free(t->progress);
        t->progress = json_text(j);
    }
}

static char *warning_detail(const struct task_event *ev)
{
    struct buf detail CLEANUP(buf_free) = {0};

    buf_init(&detail, 4096);
    add_text(&detail, "warning", ev->warning);
    return close_detail(&detail);
}

static enum step_rc on_result(struct task *t, const struct task_event *ev, struct task_audit *audit,
                              const char **reason)
{
    if (!holds_grant(t, ev)) {
        return stale(t, ev, audit, reason);
    }
    if (ev->application_id) {
        str_replace_owned(&t->application_id, ev->application_id);
    }
    if (ev->progress) {
        str_replace_owned(&t->progress, ev->progress);
    }
    /* By another clock than the grant's and ours. */
    t->started_at = MIN(MAX(ev->started_at, t->started_at), ev->now);
    switch (ev->outcome) {
    case OUTCOME_SUCCEEDED:
        move(t, ev, TASK_SUCCEEDED, audit, "succeeded");
        audit->detail = warning_detail(ev);
        finish(t, ev, NULL);
        str_replace_owned(&t->output, ev->output);
        complete_progress(t);
        break;
    case OUTCOME_CANCELLED:
        move(t, ev, TASK_CANCELLED, audit, "cancelled");
        audit->detail = warning_detail(ev);
        finish(t, ev, ev->error);
        break;
    case OUTCOME_FAILED:
        if (t->cancel_requested) {
            move(t, ev, TASK_CANCELLED, audit, "cancelled");
            audit->detail = warning_detail(ev);
            finish(t, ev, ev->error);
            break;
        }
        str_replace_owned(&t->output, ev->output);
        attempt_failed(t, ev, audit);
        break;
    case OUTCOME_LOST:
        attempt_lost(t, ev, audit);
        break;
    case OUTCOME_RETURNED:
        (BROKEN(RETURN) ? attempt_failed : attempt_returned)(t, ev, audit);
        break;
    }
    return STEP_APPLIED;
}

static enum step_rc on_lost(struct task *t, const struct task_event *ev, struct task_audit *audit,
                            const char **reason)
{
    /* Not what was granted again or taken back since this was decided: that runs. */
    if (!holds_grant(t, ev) || t->claim_beat > ev->beat || who_succeeds(&t->who, &ev->who)) {
        *reason = "superseded";
        return STEP_REFUSED;
    }
    attempt_lost(t, ev, audit);
    return STEP_APPLIED;
}

static enum step_rc on_cancel(struct task *t, const struct task_event *ev, struct task_audit *audit,
                              const char **reason)
{
    struct buf detail CLEANUP(buf_free) = {0};

    if (task_state_final(t->state)) {
        *reason = "ended";
        return STEP_REFUSED;
    }
    buf_init(&detail, 4096);
    add_text(&detail, "by", ev->reason);
    if (t->state == TASK_RUNNING || left_application(t)) {
        if (t->cancel_requested) {
            return STEP_SAME;
        }
        move(t, ev, t->state, audit, "cancelRequested");
        t->cancel_requested = true;
    } else {
        move(t, ev, TASK_CANCELLED, audit, "cancelled");
        t->cancel_requested = true;
        finish(t, ev, NULL);
    }
    audit->detail = close_detail(&detail);
    return STEP_APPLIED;
}

static enum step_rc on_requeue(struct task *t, const struct task_event *ev,
                               struct task_audit *audit, const char **reason)
{
    struct buf detail CLEANUP(buf_free) = {0};

    if (!task_state_final(t->state) || t->state == TASK_SUCCEEDED) {
        *reason = t->state == TASK_SUCCEEDED ? "ended" : "running";
        return STEP_REFUSED;
    }
    buf_init(&detail, 4096);
    add_text(&detail, "by", ev->reason);
    move(t, ev, TASK_READY, audit, "requeued");
    audit->detail = close_detail(&detail);
    t->requeues++;
    task_find_needs(t);
    t->failures = 0;
    t->losses = 0;
    t->returns = 0;
    t->cancel_requested = false;
    t->finished_at = INT64_MIN;
    str_replace_owned(&t->returned_by, NULL);
    str_replace_owned(&t->failed_on, NULL);
    str_replace_owned(&t->loss_signature, NULL);
    str_replace_owned(&t->error, NULL);
    str_replace_owned(&t->output, NULL);
    again(t, ev, 0);
    audit->attempt = t->attempt;
    return STEP_APPLIED;
}

static enum step_rc on_application(struct task *t, const struct task_event *ev,
                                   struct task_audit *audit, const char **reason)
{
    struct buf detail CLEANUP(buf_free) = {0};

    if (!holds_grant(t, ev)) {
        *reason = "superseded";
        return STEP_REFUSED;
    }
    if (streq(t->application_id, ev->application_id)) {
        return STEP_SAME;
    }
    buf_init(&detail, 4096);
    add_text(&detail, "applicationId", ev->application_id);
    move(t, ev, TASK_RUNNING, audit, "application");
    audit->detail = close_detail(&detail);
    str_replace_owned(&t->application_id, ev->application_id);
    return STEP_APPLIED;
}

static enum step_rc on_survived(struct task *t, const struct task_event *ev,
                                struct task_audit *audit, const char **reason)
{
    if (!holds_grant(t, ev) || !(who_continues(&ev->who, &t->who) || BROKEN(IDENTITY))) {
        *reason = "superseded";
        return STEP_REFUSED;
    }
    if (ev->who.inc <= t->who.inc) {
        return STEP_SAME;
    }
    move(t, ev, TASK_RUNNING, audit, "survived");
    t->who = ev->who;
    t->claim_beat = 0;
    return STEP_APPLIED;
}

static enum step_rc on_queue_timeout(struct task *t, const struct task_event *ev,
                                     struct task_audit *audit, const char **reason)
{
    if ((t->state != TASK_READY && t->state != TASK_FED && t->state != TASK_SCHEDULED) ||
        t->queue_deadline == INT64_MIN || t->queue_deadline > ev->now) {
        *reason = "superseded";
        return STEP_REFUSED;
    }
    char *text CLEANUP(freep) =
        xasprintf("waited longer than queueTimeoutSeconds (%d)%s%s", t->queue_timeout_s,
                  ev->reason ? "; last: " : "", ev->reason ? ev->reason : "");
    char *error CLEANUP(freep) = error_json("timeout", text);
    move(t, ev, TASK_FAILED, audit, "failed");
    finish(t, ev, error);
    audit->detail = xasprintf("{\"error\":%s}", error);
    return STEP_APPLIED;
}

/* Moves that only need the right state to start from. */
static enum step_rc on_plain(struct task *t, const struct task_event *ev, enum task_state from,
                             enum task_state to, const char *name, struct task_audit *audit,
                             const char **reason)
{
    if (t->state != from || (ev->attempt && ev->attempt != t->attempt)) {
        *reason = "superseded";
        return STEP_REFUSED;
    }
    move(t, ev, to, audit, name);
    if (to == TASK_READY) {
        task_find_needs(t);
    }
    return STEP_APPLIED;
}

enum step_rc task_step(struct task *t, const struct task_event *ev, struct task_audit *audit,
                       const char **reason)
{
    *audit = (struct task_audit){0};
    *reason = "";
    switch (ev->type) {
    case TE_DUE:
        if (t->state == TASK_SCHEDULED && t->run_after > ev->now) {
            *reason = "superseded";
            return STEP_REFUSED;
        }
        return on_plain(t, ev, TASK_SCHEDULED, TASK_READY, "ready", audit, reason);
    case TE_FED:
        return on_plain(t, ev, TASK_READY, TASK_FED, "fed", audit, reason);
    case TE_UNFED:
        return on_plain(t, ev, TASK_FED, TASK_READY, "unfed", audit, reason);
    case TE_CLAIM:
        return on_claim(t, ev, audit, reason);
    case TE_APPLICATION:
        return on_application(t, ev, audit, reason);
    case TE_SURVIVED:
        return on_survived(t, ev, audit, reason);
    case TE_RESULT:
        return on_result(t, ev, audit, reason);
    case TE_LOST:
        return on_lost(t, ev, audit, reason);
    case TE_CANCEL:
        return on_cancel(t, ev, audit, reason);
    case TE_QUEUE_TIMEOUT:
        return on_queue_timeout(t, ev, audit, reason);
    case TE_REQUEUE:
        return on_requeue(t, ev, audit, reason);
    case TE_ACCEPT:
    case TASK_EVENT_TYPES:
        break;
    }
    UNREACHABLE("event that no row can have");
}

void task_accepted(struct task *t, struct task_audit *audit)
{
    MUST(t->seq == 0 && edge_find(TASK_NEW, TE_ACCEPT, t->state));
    t->seq = 1;
    *audit = (struct task_audit){.seq = 1,
                                 .at = t->submitted_at,
                                 .attempt = t->attempt,
                                 .from = TASK_NEW,
                                 .to = t->state,
                                 .event = "accepted"};
}

void task_states_markdown(struct buf *out)
{
    buf_adds(out,
             "# States of a task\n\nGenerated from `pkg/task/task.h` and `pkg/task/step.h`.\n\n"
             "| state | number | shown as | final |\n|---|---|---|---|\n");
#define X(name, number, text, outside, final)                                                      \
    buf_addf(out, "| %s | %d | %s | %s |\n", text, number, outside, (final) ? "yes" : "");
    TASK_STATES(X)
#undef X
    buf_adds(out, "\n| from | event | to | why |\n|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
        const struct edge *e = &edges[i];
        buf_addf(out, "| %s | %s | %s | %s |\n",
                 e->from == TASK_NEW ? "(new)" : task_state_name(e->from), event_names[e->event],
                 task_state_name(e->to), e->why);
    }
}

void task_edges_sql(struct buf *out)
{
    bool first = true;

    for (int from = TASK_SCHEDULED; from <= TASK_DEAD; from++) {
        bool open = false;

        for (int to = TASK_SCHEDULED; to <= TASK_DEAD; to++) {
            if (from != to && task_edge_allowed((enum task_state)from, (enum task_state)to)) {
                if (open) {
                    buf_addf(out, ", %d", to);
                } else {
                    buf_addf(out, "%s(old.state = %d and new.state in (%d", first ? "" : " or ",
                             from, to);
                }
                open = true;
                first = false;
            }
        }
        if (open) {
            buf_adds(out, "))");
        }
    }
}
