#include "internal/str.h"
#include "pkg/worker/core_priv.h"

#include <stdlib.h>

#undef uthash_fatal
#define uthash_fatal(msg) UNREACHABLE(msg)

static const char *const state_names[] = {
#define X(name, text, meaning) [WCORE_##name] = (text),
    WCORE_STATES(X)
#undef X
};

const char *wcore_state_name(enum wcore_state s)
{
    return state_names[s];
}

bool wcore_edge_allowed(enum wcore_state from, enum wcore_state to)
{
    static const struct {
        enum wcore_state from;
        enum wcore_state to;
    } edges[] = {
#define X(from, to, why) {WCORE_##from, WCORE_##to},
        WCORE_EDGES(X)
#undef X
    };

    for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
        if (edges[i].from == from && edges[i].to == to) {
            return true;
        }
    }
    return false;
}

/* ---- the table of attempts ---- */

static bool earlier(const struct heap_node *x, const struct heap_node *y)
{
    return CONTAINER_OF_CONST(x, struct wcore_attempt, timer)->due <
           CONTAINER_OF_CONST(y, struct wcore_attempt, timer)->due;
}

static bool holds_slots(enum wcore_state s)
{
    return s >= WCORE_CLAIMING && s <= WCORE_STOPPING;
}

static void use(struct wcore *c, const struct wcore_attempt *a, int sign)
{
    c->used.slots += sign * a->need.slots;
    c->used.cpus_milli += sign * a->need.cpus_milli;
    c->used.memory_mb += sign * a->need.memory_mb;
}

struct wcore_attempt *wcore_find(struct wcore *c, const struct wcore_key *k)
{
    struct wcore_attempt *a = NULL;

    HASH_FIND(hh, c->table, k, sizeof(*k), a);
    return a;
}

struct wcore_attempt *wcore_add(struct wcore *c, const struct wcore_key *k)
{
    struct wcore_attempt *a = xcalloc(1, sizeof(*a));

    a->key = *k;
    a->due = INT64_MAX;
    HASH_ADD(hh, c->table, key, sizeof(a->key), a);
    return a;
}

void wcore_move(struct wcore *c, struct wcore_attempt *a, enum wcore_state to, const char *why)
{
    enum wcore_state from = a->state;

    MUST(wcore_edge_allowed(from, to));
    use(c, a, holds_slots(to) - holds_slots(from));
    if (list_linked(&a->in_state)) {
        list_remove(&a->in_state);
    }
    a->state = to;
    if (to != WCORE_GONE) {
        list_push(&c->in_state[to], &a->in_state);
    }
    if (c->ops->moved) {
        c->ops->moved(c->arg, a, from, why);
    }
}

static void release(struct wcore *c, struct wcore_attempt *a)
{
    wcore_set_timer(c, a, INT64_MAX);
    if (heap_linked(&a->order)) {
        heap_remove(&c->waiting, &a->order);
    }
    if (list_linked(&a->outgoing)) {
        list_remove(&a->outgoing);
    }
    HASH_DELETE(hh, c->table, a);
    free(a->manager);
    free(a->type);
    free(a);
}

void wcore_drop(struct wcore *c, struct wcore_attempt *a, const char *why)
{
    assert(!a->hint);
    wcore_move(c, a, WCORE_GONE, why);
    release(c, a);
}

void wcore_set_timer(struct wcore *c, struct wcore_attempt *a, int64_t due)
{
    a->due = due;
    if (due == INT64_MAX) {
        if (heap_linked(&a->timer)) {
            heap_remove(&c->timers, &a->timer);
        }
    } else if (heap_linked(&a->timer)) {
        heap_fix(&c->timers, &a->timer);
    } else {
        heap_push(&c->timers, &a->timer);
    }
}

/* ---- the end of an attempt ---- */

static void queue_result(struct wcore *c, struct wcore_attempt *a)
{
    wcore_set_timer(c, a, INT64_MAX);
    if (!list_linked(&a->outgoing)) {
        list_push(&c->results, &a->outgoing);
    }
}

static void end(struct wcore *c, struct wcore_attempt *a, const char *why)
{
    wcore_move(c, a, WCORE_ENDED, why);
    queue_result(c, a);
}

static void forget(struct wcore *c, struct wcore_attempt *a, const char *why)
{
    c->ops->forget(c->arg, a);
    wcore_drop(c, a, why);
}

static void conclude(struct wcore *c, struct wcore_attempt *a, enum wcore_verdict v,
                     const char *why)
{
    c->ops->conclude(c->arg, a, v, why);
    end(c, a, why);
}

static void send_results(struct wcore *c, int64_t now)
{
    while (c->up[WCORE_LINK_PUBLISH] && c->results.count) {
        struct wcore_attempt *batch[WCORE_BATCH];
        size_t n = 0;

        while (n < WCORE_BATCH && c->results.count) {
            batch[n++] = CONTAINER_OF(list_pop(&c->results), struct wcore_attempt, outgoing);
        }
        int rc = c->ops->send_results(c->arg, batch, n);
        for (size_t i = 0; i < n; i++) {
            wcore_set_timer(c, batch[i], now + (rc ? WCORE_RETRY_MS : WCORE_RESULT_RESEND_MS));
        }
    }
}

/* ---- stopping ---- */

void wcore_watch(struct wcore *c, struct wcore_attempt *a)
{
    int64_t due = a->deadline;

    if (a->state == WCORE_STOPPING) {
        due = a->lease_over || a->forget ? a->kill_at : MIN(a->kill_at, a->deadline);
    }
    wcore_set_timer(c, a, due);
}

/* Also for what is being stopped already: it then has less time. */
static void stop(struct wcore *c, int64_t now, struct wcore_attempt *a, enum wcore_stop why,
                 int64_t grace_ms)
{
    static const char *const words[] = {
        [WCORE_STOP_CANCEL] = "cancelled",
        [WCORE_STOP_SHUTDOWN] = "the worker shuts down",
        [WCORE_STOP_REVOKED] = "revoked",
        [WCORE_STOP_LEASE] = "the lease is over",
    };
    bool unproven = why == WCORE_STOP_LEASE || why == WCORE_STOP_REVOKED;
    int64_t patience = why == WCORE_STOP_CANCEL ? a->patience_ms : 0;
    /* A worker that stood still wakes up late: what it has had is no time to stop any more. */
    int64_t kill_at = unproven ? MAX(MIN(now, a->deadline) + WCORE_KILL_UNPROVEN_MS, now)
                               : now + grace_ms + WCORE_KILL_AFTER_MS + patience;

    if (a->state == WCORE_STOPPING) {
        a->kill_at = MIN(a->kill_at, kill_at);
    } else {
        a->kill_at = kill_at;
        wcore_move(c, a, WCORE_STOPPING, words[why]);
        c->news = true;
    }
    c->ops->stop(c->arg, a, why, grace_ms);
    wcore_watch(c, a);
}

static bool is_live(const struct wcore_attempt *a)
{
    return a->state == WCORE_STARTING || a->state == WCORE_RUNNING || a->state == WCORE_STOPPING;
}

static void revoke(struct wcore *c, int64_t now, struct wcore_attempt *a)
{
    if (a->state == WCORE_ENDED) {
        forget(c, a, "revoked");
    } else if (is_live(a) && !a->forget) {
        a->forget = true;
        stop(c, now, a, WCORE_STOP_REVOKED, 0);
    }
}

static void watch_due(struct wcore *c, int64_t now, struct wcore_attempt *a)
{
    if (!a->lease_over && !a->forget && now >= a->deadline) {
        a->lease_over = true;
        stop(c, now, a, WCORE_STOP_LEASE, 0);
        return;
    }
    a->kill_at = now + WCORE_KILL_UNPROVEN_MS;
    c->ops->kill(c->arg, a);
    wcore_watch(c, a);
}

/* ---- events: grants ---- */

/* Ends what is left here of earlier attempts of the task. True: one may still run, or a later one
 * is here, so that this grant was under way for long. */
static bool has_another(struct wcore *c, int64_t now, const struct wcore_attempt *a)
{
    static const enum wcore_state states[] = {WCORE_STARTING, WCORE_RUNNING, WCORE_STOPPING,
                                              WCORE_ENDED};
    bool found = false;

    for (size_t i = 0; a->key.attempt > 1 && i < ARRAY_LEN(states); i++) {
        LIST_EACH(&c->in_state[states[i]], it)
        {
            struct wcore_attempt *o = CONTAINER_OF(it, struct wcore_attempt, in_state);

            if (!id_eq(&o->key.task, &a->key.task)) {
                continue;
            }
            bool later = o->key.attempt > a->key.attempt;
            found = found || later || is_live(o);
            if (!later) {
                revoke(c, now, o);
            }
        }
    }
    return found;
}

/* The specification counts, not the hint. NULL: there is room for it. */
static const char *take_need(struct wcore *c, int64_t now, struct wcore_attempt *a,
                             const struct wcore_need *need)
{
    use(c, a, -1);
    bool fits = wcore_fits(c, need);
    a->need = fits ? *need : (struct wcore_need){0};
    use(c, a, 1);
    if (fits) {
        return NULL;
    }
    if (!wcore_oversized(c, need)) {
        wcore_pause(c, now, need); /* or it would come back at once */
    }
    return "it takes more slots, CPUs or memory than are free";
}

static void start(struct wcore *c, int64_t now, struct wcore_attempt *a,
                  const struct wcore_grant *g)
{
    struct wcore_fault fault = {0};

    wcore_move(c, a, WCORE_STARTING, "granted");
    enum wcore_started s = c->ops->start(c->arg, a, g->spec, &fault);
    if (s == WCORE_START_UNDER_WAY) {
        wcore_watch(c, a);
        c->news = true;
        return;
    }
    end(c, a, "ended at once");
    if (s == WCORE_START_FAULT) {
        wcore_hold_off(c, now, a->type, &fault);
        c->news = true;
    }
}

bool wcore_on_grant(struct wcore *c, int64_t now, const struct wcore_grant *g)
{
    struct wcore_attempt *a = wcore_find(c, &g->key);

    if (!a || a->state != WCORE_CLAIMING) {
        /* Ours for the manager, not for us: the next beat, which does not list it, ends it. */
        c->news = c->news || !a;
        return false;
    }
    if (g->beat < a->claim_beat) {
        /* A beat since then did not list the attempt, so it may be lost already. */
        return false;
    }
    wcore_close_hint(c, a, true);
    if (list_linked(&a->outgoing)) {
        list_remove(&a->outgoing);
    }
    wcore_set_timer(c, a, INT64_MAX);
    a->token = g->token;
    a->lease_ms = g->lease_ms;
    /* The claim may have been sent several times, and any of them may have been granted. */
    a->deadline = a->claimed_at + g->lease_ms;
    bool another = has_another(c, now, a);
    if (g->type) {
        str_replace_owned(&a->type, g->type);
    }
    const char *why = another ? "another attempt of it is here" : wcore_unable(c, a->type);
    why = why ? why : take_need(c, now, a, &g->need);
    if (a->cancelled) {
        conclude(c, a, WCORE_CANCELLED, "cancelled before it was started");
    } else if (now >= a->deadline) {
        conclude(c, a, WCORE_LOST, "the lease was over before the grant came");
    } else if (c->stop_tasks) {
        conclude(c, a, WCORE_RETURNED, "the worker shuts down");
    } else if (why) {
        conclude(c, a, WCORE_RETURNED, why);
    } else {
        start(c, now, a, g);
    }
    return true;
}

/* ---- events: what the managers say of granted attempts ---- */

void wcore_on_revoke(struct wcore *c, int64_t now, const struct wcore_key *k, int64_t beat)
{
    struct wcore_attempt *a = wcore_find(c, k);

    /* An answer to a beat that did not list it speaks of an earlier life of the same attempt. */
    if (a && a->first_beat && a->first_beat <= beat) {
        revoke(c, now, a);
    }
}

void wcore_on_cancel(struct wcore *c, int64_t now, const struct wcore_key *k)
{
    struct wcore_attempt *a = wcore_find(c, k);

    if (a && a->state == WCORE_CLAIMING) {
        a->cancelled = true;
    } else if (a && (a->state == WCORE_STARTING || a->state == WCORE_RUNNING)) {
        stop(c, now, a, WCORE_STOP_CANCEL, c->set.grace_ms);
    }
}

void wcore_on_drain(struct wcore *c, bool on)
{
    c->news = c->news || c->draining != on;
    c->draining = on;
}

void wcore_on_refused(struct wcore *c, bool on)
{
    c->refused = on;
}

void wcore_on_renumbered(struct wcore *c)
{
    LIST_EACH(&c->in_state[WCORE_CLAIMING], it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

        wcore_close_hint(c, a, false);
        wcore_drop(c, a, "claimed under an earlier number of this process");
    }
    c->news = true;
}

void wcore_on_applied(struct wcore *c, const struct wcore_key *k)
{
    struct wcore_attempt *a = wcore_find(c, k);

    if (a && a->state == WCORE_ENDED) {
        forget(c, a, "result applied");
    }
}

/* ---- events: the task ---- */

void wcore_on_started(struct wcore *c, int64_t now, struct wcore_attempt *a)
{
    if (a->state == WCORE_STARTING) {
        a->started_at = now;
        wcore_move(c, a, WCORE_RUNNING, "started");
        c->news = true;
    }
}

void wcore_on_ended(struct wcore *c, int64_t now, struct wcore_attempt *a,
                    const struct wcore_fault *fault)
{
    MUST(is_live(a));
    c->news = true;
    if (fault) {
        wcore_hold_off(c, now, a->type, fault);
    } else if (a->state == WCORE_RUNNING) {
        wcore_prove(c, a);
    }
    if (a->forget) {
        forget(c, a, "stopped; it was not ours any more");
    } else {
        end(c, a, "ended");
    }
}

void wcore_on_news(struct wcore *c)
{
    c->news = true;
}

/* ---- events: the broker ---- */

static void due_at_once(struct wcore *c, int64_t now, enum wcore_state s)
{
    LIST_EACH(&c->in_state[s], it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

        if (!list_linked(&a->outgoing)) {
            wcore_set_timer(c, a, now);
        }
    }
}

void wcore_on_link(struct wcore *c, int64_t now, enum wcore_link l, bool up)
{
    if (c->up[l] == up) {
        return;
    }
    c->up[l] = up;
    if (l == WCORE_LINK_CONSUME && !up) {
        c->consuming = false;
        wcore_lose_hints(c);
    }
    if (up && c->up[WCORE_LINK_CONSUME] && c->up[WCORE_LINK_PUBLISH]) {
        /* Answers may have been lost with the queue they went to. */
        due_at_once(c, now, WCORE_CLAIMING);
        due_at_once(c, now, WCORE_ENDED);
        c->beat_at = now;
        c->eager = WCORE_EAGER_BEATS;
    }
}

/* ---- time ---- */

static void fire(struct wcore *c, int64_t now, struct wcore_attempt *a)
{
    switch (a->state) {
    case WCORE_HELD:
        wcore_close_hint(c, a, a->spare); /* it was round once: who feeds it finds it missing */
        wcore_drop(c, a, "it could not be started here");
        break;
    case WCORE_CLAIMING:
        wcore_claim_due(c, now, a);
        break;
    case WCORE_STARTING:
    case WCORE_RUNNING:
    case WCORE_STOPPING:
        watch_due(c, now, a);
        break;
    case WCORE_ENDED:
        queue_result(c, a);
        break;
    case WCORE_GONE:
    case WCORE_STATE_COUNT:
        UNREACHABLE("a timer without attempt");
    }
}

void wcore_on_gained(struct wcore *c, int64_t now, int64_t ms)
{
    for (size_t i = 0; i < ARRAY_LEN(c->beats); i++) {
        c->beats[i].sent_at -= ms;
    }
    LIST_EACH(&c->in_state[WCORE_CLAIMING], it)
    {
        CONTAINER_OF(it, struct wcore_attempt, in_state)->claimed_at -= ms;
    }
    for (enum wcore_state s = WCORE_STARTING; s <= WCORE_STOPPING; s++) {
        LIST_EACH(&c->in_state[s], it)
        {
            struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

            a->deadline = MAX(a->deadline - ms, MIN(a->deadline, now + WCORE_DOUBT_MS));
            wcore_watch(c, a);
        }
    }
    c->news = true;
}

int64_t wcore_step(struct wcore *c, int64_t now)
{
    struct heap_node *t = NULL;

    while ((t = heap_min(&c->timers)) && CONTAINER_OF(t, struct wcore_attempt, timer)->due <= now) {
        fire(c, now, CONTAINER_OF(t, struct wcore_attempt, timer));
    }
    if (now >= wcore_beat_due(c)) {
        wcore_send_beat(c, now);
    }
    wcore_intake(c, now);
    wcore_send_claims(c, now);
    send_results(c, now);
    t = heap_min(&c->timers);
    int64_t due = t ? CONTAINER_OF(t, struct wcore_attempt, timer)->due : INT64_MAX;
    due = MIN(due, wcore_intake_due(c));
    return MIN(due, wcore_beat_due(c));
}

/* ---- the core itself ---- */

static void check_settings(const struct wcore_settings *s)
{
    MUST(s->capacity.slots > 0 && s->heartbeat_ms > 0 && s->grace_ms >= 0);
}

struct wcore *wcore_new(const struct wcore_ops *ops, void *arg, const struct wcore_settings *s)
{
    struct wcore *c = xcalloc(1, sizeof(*c));

    check_settings(s);
    c->ops = ops;
    c->arg = arg;
    c->set = *s;
    c->every_ms = s->heartbeat_ms;
    for (size_t i = 0; i < ARRAY_LEN(c->in_state); i++) {
        list_init(&c->in_state[i]);
    }
    heap_init(&c->timers, earlier);
    list_init(&c->claims);
    list_init(&c->results);
    wcore_intake_init(c);
    wcore_offers_init(c);
    return c;
}

void wcore_free(struct wcore *c)
{
    if (!c) {
        return;
    }
    while (c->table) {
        wcore_lose_hint(c->table);
        release(c, c->table);
    }
    heap_done(&c->timers);
    heap_done(&c->waiting);
    free(c->silent);
    wcore_offers_done(c);
    free(c);
}

void wcore_configure(struct wcore *c, const struct wcore_settings *s)
{
    check_settings(s);
    c->set = *s;
    c->news = true;
    wcore_give_back_unable(c);
}

struct wcore_attempt *wcore_adopt(struct wcore *c, int64_t now, const struct wcore_key *k,
                                  const struct wcore_need *need, int64_t token, int64_t lease_ms,
                                  bool ended, void *user)
{
    if (wcore_find(c, k)) {
        return NULL;
    }
    struct wcore_attempt *a = wcore_add(c, k);
    a->need = *need;
    a->token = token;
    a->lease_ms = lease_ms;
    a->deadline = now + lease_ms; /* no later; the shim knows the true one */
    a->user = user;
    if (ended) {
        end(c, a, "found ended after a restart");
    } else {
        wcore_move(c, a, WCORE_RUNNING, "found alive after a restart");
        wcore_watch(c, a);
    }
    return a;
}

void wcore_ready(struct wcore *c, int64_t now)
{
    c->ready = true;
    c->beat_at = now;
}

void wcore_stop(struct wcore *c, int64_t now, bool stop_tasks)
{
    c->stopping = true;
    c->stop_tasks = stop_tasks;
    for (enum wcore_state s = WCORE_STARTING; stop_tasks && s <= WCORE_RUNNING; s++) {
        LIST_EACH(&c->in_state[s], it)
        {
            stop(c, now, CONTAINER_OF(it, struct wcore_attempt, in_state), WCORE_STOP_SHUTDOWN,
                 c->set.grace_ms);
        }
    }
}

bool wcore_is_quiet(const struct wcore *c)
{
    size_t live = 0;

    for (enum wcore_state s = WCORE_STARTING; s <= WCORE_STOPPING; s++) {
        live += c->in_state[s].count;
    }
    return c->in_state[WCORE_CLAIMING].count == 0 && c->in_state[WCORE_STARTING].count == 0 &&
           c->in_state[WCORE_ENDED].count == 0 && (!c->stop_tasks || live == 0);
}

void wcore_last_beat(struct wcore *c, int64_t now)
{
    for (enum wcore_state s = WCORE_HELD; s <= WCORE_CLAIMING; s++) {
        LIST_EACH(&c->in_state[s], it)
        {
            struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

            wcore_close_hint(c, a, false);
            wcore_drop(c, a, "the worker stops");
        }
    }
    c->stopping = true;
    c->stopped = true;
    if (c->ready) {
        wcore_send_beat(c, now);
    }
}

/* ---- looking ---- */

struct list *wcore_in_state(struct wcore *c, enum wcore_state s)
{
    return &c->in_state[s];
}

size_t wcore_count(const struct wcore *c, enum wcore_state s)
{
    return c->in_state[s].count;
}

int wcore_slots(const struct wcore *c)
{
    return c->set.capacity.slots;
}

int wcore_slots_free(const struct wcore *c)
{
    return (int)MAX(c->set.capacity.slots - c->used.slots, (int64_t)0);
}

bool wcore_is_draining(const struct wcore *c)
{
    return c->draining || c->stopping;
}

bool wcore_is_refused(const struct wcore *c)
{
    return c->refused;
}

int64_t wcore_heartbeat_ms(const struct wcore *c)
{
    return c->every_ms;
}

bool wcore_has_stopped(const struct wcore *c)
{
    return c->stopped;
}
