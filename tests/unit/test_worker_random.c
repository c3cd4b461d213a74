/* Thousands of random histories of the worker's core: hints, answers, tasks and connections come
 * and go in any order, late, twice or never. After each event the rules of docs/protocol.md are
 * checked, and at the end of each history everything must come to rest. */
#include "pkg/worker/core.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define HISTORIES  400
#define EVENTS     500
#define TASKS      24
#define ATTEMPTS   3
#define DELIVERIES 4096
#define PARTS      3 /* tasks of one hint at most */
#define BEATS      4096
#define LEASE_MS   15000

enum delivery_state { UNUSED, OPEN, ACKED, NACKED, LOST };

/* What the world knows of one (task, attempt). */
struct model {
    struct wcore_key key;
    struct wcore_need need;
    bool claimed;       /* a claim was sent in this life */
    int64_t claim_sent; /* first time */
    bool in_process;
    bool running;   /* start() was called, the end has not come */
    bool confirmed; /* wcore_on_started() was called */
    bool stop_asked;
    bool revoked;
    bool ended;          /* a result is due until applied */
    int64_t deadline;    /* what the managers have surely granted */
    int64_t listed_from; /* first beat that listed it as granted */
    int64_t ended_at;
    int64_t sent_at; /* its result, last */
};

/* One task of a delivery. */
struct part {
    struct model *m; /* NULL: none */
    bool done;       /* the attempt was known when it came, or its claim was answered */
};

static const char *const types[] = {"Command", "SparkApp"};

struct world {
    struct wcore *c;
    uint64_t seed;
    uint64_t rng;
    int event;
    int64_t now;
    int64_t due;
    struct wcore_need capacity;
    struct model models[TASKS][ATTEMPTS];
    enum delivery_state deliveries[DELIVERIES];
    struct part parts[DELIVERIES][PARTS];
    uint64_t epoch_start; /* first tag of the present connection */
    uint64_t next_tag;
    bool up[2];
    bool consuming;
    bool stopping;
    int64_t beats[BEATS]; /* when each was sent */
    int64_t beat;
    bool beats_fail;
    bool sends_fail;
    int64_t well_since; /* when sending began to work (again) */
    bool no_space;
    struct { /* how often, over all histories */
        int starts;
        int leases;
        int stops[4];
        int kills;
        int applied;
    } seen;
};

#define CHECK(w, cond)                                                                             \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fail_msg("history %llu, event %d: %s", (unsigned long long)(w)->seed, (w)->event,      \
                     #cond);                                                                       \
        }                                                                                          \
    } while (0)

static uint64_t draw(struct world *w)
{
    uint64_t z = (w->rng += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int below(struct world *w, int n)
{
    return (int)(draw(w) % (uint64_t)n);
}

static struct model *model_of(struct world *w, const struct wcore_attempt *a)
{
    return &w->models[a->key.task.b[15]][a->key.attempt - 1];
}

static struct model *any(struct world *w)
{
    return &w->models[below(w, TASKS)][below(w, ATTEMPTS)];
}

static enum wcore_state state(struct world *w, const struct model *m)
{
    const struct wcore_attempt *a = wcore_find(w->c, &m->key);
    return a ? a->state : WCORE_GONE;
}

static bool is_live(enum wcore_state s)
{
    return s == WCORE_STARTING || s == WCORE_RUNNING || s == WCORE_STOPPING;
}

/* ---- operations ---- */

static void on_ack(void *arg, struct wcore_delivery d)
{
    struct world *w = arg;

    CHECK(w, w->deliveries[d.tag] == OPEN && d.tag >= w->epoch_start);
    for (int i = 0; i < PARTS; i++) {
        CHECK(w, !w->parts[d.tag][i].m || w->parts[d.tag][i].done);
    }
    w->deliveries[d.tag] = ACKED;
}

static void on_nack(void *arg, struct wcore_delivery d)
{
    struct world *w = arg;

    CHECK(w, w->deliveries[d.tag] == OPEN && d.tag >= w->epoch_start);
    w->deliveries[d.tag] = NACKED;
}

static void on_consume(void *arg, bool on)
{
    struct world *w = arg;

    CHECK(w, w->up[WCORE_LINK_CONSUME] && w->consuming != on);
    CHECK(w, !on || (w->beat > 0 && !w->stopping));
    w->consuming = on;
}

/* One manager is asked first, and once. */
static int on_send_claims(void *arg, const char *manager, struct wcore_attempt *const *list,
                          size_t n, int64_t beat)
{
    struct world *w = arg;

    CHECK(w, n > 0 && n <= WCORE_BATCH && w->beat > 0 && beat == w->beat);
    for (size_t i = 0; i < n; i++) {
        struct model *m = model_of(w, list[i]);

        CHECK(w, list[i]->state == WCORE_CLAIMING && !m->running);
        CHECK(w, manager ? streq(manager, list[i]->manager) && !m->claimed : !list[i]->manager);
        if (!m->claimed) {
            m->claimed = true;
            m->claim_sent = w->now;
        }
        CHECK(w, w->now - m->claim_sent < WCORE_CLAIM_GIVE_UP_MS);
    }
    return w->sends_fail ? -1 : 0;
}

static int on_send_results(void *arg, struct wcore_attempt *const *list, size_t n)
{
    struct world *w = arg;

    CHECK(w, n > 0 && n <= WCORE_BATCH);
    for (size_t i = 0; i < n; i++) {
        CHECK(w, list[i]->state == WCORE_ENDED && model_of(w, list[i])->ended);
        if (!w->sends_fail) {
            model_of(w, list[i])->sent_at = w->now;
        }
    }
    return w->sends_fail ? -1 : 0;
}

static int on_send_beat(void *arg, int64_t beat)
{
    struct world *w = arg;

    CHECK(w, beat == w->beat + 1);
    if (w->beats_fail) {
        return -1;
    }
    w->beat = beat;
    w->beats[beat] = w->now;
    for (enum wcore_state s = WCORE_STARTING; s <= WCORE_ENDED; s++) {
        LIST_EACH(wcore_in_state(w->c, s), it)
        {
            struct model *m = model_of(w, CONTAINER_OF(it, struct wcore_attempt, in_state));
            m->listed_from = m->listed_from ? m->listed_from : beat;
        }
    }
    return 0;
}

static void note_end(struct world *w, struct model *m)
{
    m->running = false;
    m->ended = !m->revoked;
    m->ended_at = w->now;
    m->sent_at = 0;
}

static enum wcore_started on_start(void *arg, struct wcore_attempt *a, const void *spec,
                                   struct wcore_fault *ret)
{
    struct world *w = arg;
    struct model *m = model_of(w, a);

    CHECK(w, spec == m && m->claimed && !m->running && !m->ended);
    CHECK(w, w->now < m->deadline && a->deadline <= m->deadline);
    w->seen.starts++;
    if (m->in_process || w->no_space) {
        note_end(w, m);
        *ret = (struct wcore_fault){.of = (unsigned)below(w, 3), .reason = "no space"};
        return w->no_space ? WCORE_START_FAULT : WCORE_START_ENDED;
    }
    m->running = true;
    return WCORE_START_UNDER_WAY;
}

static void on_lease(void *arg, struct wcore_attempt *a)
{
    struct world *w = arg;
    w->seen.leases++;
    CHECK(w, model_of(w, a)->running && a->deadline <= model_of(w, a)->deadline);
}

static void on_stop(void *arg, struct wcore_attempt *a, enum wcore_stop why, int64_t grace_ms)
{
    struct world *w = arg;
    struct model *m = model_of(w, a);

    CHECK(w, m->running && grace_ms >= 0);
    w->seen.stops[why]++;
    m->stop_asked = true;
    m->revoked = m->revoked || why == WCORE_STOP_REVOKED;
}

static void on_kill(void *arg, struct wcore_attempt *a)
{
    struct world *w = arg;
    w->seen.kills++;
    CHECK(w, model_of(w, a)->running && model_of(w, a)->stop_asked);
}

static void on_conclude(void *arg, struct wcore_attempt *a, enum wcore_verdict v, const char *why)
{
    struct world *w = arg;

    (void)v;
    CHECK(w, why && !model_of(w, a)->running);
    note_end(w, model_of(w, a));
}

static void on_forget(void *arg, struct wcore_attempt *a)
{
    struct world *w = arg;
    struct model *m = model_of(w, a);

    CHECK(w, !m->running);
    m->ended = false;
}

static uint64_t on_random(void *arg)
{
    return draw(arg);
}

/* A new life of the attempt begins when its claim, or it itself, is gone. */
static void on_moved(void *arg, const struct wcore_attempt *a, enum wcore_state from,
                     const char *why)
{
    struct world *w = arg;
    struct model *m = model_of(w, a);

    CHECK(w, why && from != a->state);
    if (a->state == WCORE_GONE) {
        CHECK(w, !m->running && !m->ended);
        struct wcore_key k = m->key;
        bool in_process = m->in_process;
        struct wcore_need need = m->need;
        *m = (struct model){.key = k, .need = need, .in_process = in_process};
    }
}

static const struct wcore_ops ops = {
    .ack = on_ack,
    .nack = on_nack,
    .consume = on_consume,
    .send_claims = on_send_claims,
    .send_results = on_send_results,
    .send_beat = on_send_beat,
    .start = on_start,
    .lease = on_lease,
    .stop = on_stop,
    .kill = on_kill,
    .conclude = on_conclude,
    .forget = on_forget,
    .random = on_random,
    .moved = on_moved,
};

/* ---- rules ---- */

static void check_rules(struct world *w, bool stepped)
{
    int64_t slots = 0;
    int64_t cpus = 0;
    int64_t memory = 0;

    for (enum wcore_state s = WCORE_CLAIMING; s <= WCORE_STOPPING; s++) {
        LIST_EACH(wcore_in_state(w->c, s), it)
        {
            const struct wcore_need *n = &CONTAINER_OF(it, struct wcore_attempt, in_state)->need;

            slots += n->slots;
            cpus += n->cpus_milli;
            memory += n->memory_mb;
        }
    }
    CHECK(w, slots <= w->capacity.slots && cpus <= w->capacity.cpus_milli &&
                 memory <= w->capacity.memory_mb);
    CHECK(w, wcore_slots_free(w->c) == w->capacity.slots - slots);
    for (int t = 0; t < TASKS; t++) {
        for (int n = 0; n < ATTEMPTS; n++) {
            const struct model *m = &w->models[t][n];
            enum wcore_state s = state(w, m);

            CHECK(w, m->running == is_live(s));
            CHECK(w, m->ended == (s == WCORE_ENDED));
            if (stepped && m->running && w->now >= m->deadline) {
                CHECK(w, m->stop_asked);
            }
            if (stepped && m->ended && w->up[WCORE_LINK_PUBLISH] && !w->sends_fail) {
                int64_t since = m->sent_at ? m->sent_at : m->ended_at;
                CHECK(w, w->now - MAX(since, w->well_since) <= WCORE_RESULT_RESEND_MS);
            }
        }
    }
    for (uint64_t d = 1; d < w->next_tag; d++) {
        if (w->deliveries[d] == OPEN) { /* held or claimed, and nothing else */
            bool wanted = false;
            for (int i = 0; i < PARTS && w->parts[d][i].m; i++) {
                enum wcore_state s = state(w, w->parts[d][i].m);
                wanted = wanted || s == WCORE_HELD || s == WCORE_CLAIMING;
            }
            CHECK(w, wanted);
        }
    }
}

static void step(struct world *w)
{
    w->due = wcore_step(w->c, w->now);
    check_rules(w, true);
}

static void pass(struct world *w, int64_t ms)
{
    int64_t until = w->now + ms;
    int turns = 0;

    step(w);
    while (w->due <= until) {
        w->now = w->due > w->now ? w->due : w->now;
        step(w);
        CHECK(w, ++turns < 10000);
    }
    w->now = until;
}

/* ---- events ---- */

static void answered(struct world *w, const struct model *m)
{
    for (uint64_t d = w->epoch_start; d < w->next_tag; d++) {
        for (int i = 0; i < PARTS; i++) {
            w->parts[d][i].done |= w->parts[d][i].m == m;
        }
    }
}

static void ev_hint(struct world *w)
{
    if (!w->up[WCORE_LINK_CONSUME] || w->next_tag == DELIVERIES) {
        return;
    }
    struct wcore_hint h = {.n = 1 + (size_t)below(w, PARTS),
                           .delivery = {.epoch = 1, .tag = w->next_tag}};
    if (below(w, 4)) {
        snprintf(h.manager, sizeof(h.manager), "m%d", below(w, 3));
    }
    w->deliveries[w->next_tag] = OPEN;
    for (size_t i = 0; i < h.n; i++) {
        struct model *m = any(w);

        h.tasks[i].key = m->key;
        h.tasks[i].need = m->need;
        if (below(w, 10) == 0) { /* of an older manager, or wrong */
            h.tasks[i].need = (struct wcore_need){.slots = 1};
        }
        snprintf(h.tasks[i].type, sizeof(h.tasks[i].type), "%s",
                 below(w, 8) ? types[m->key.task.b[15] % ARRAY_LEN(types)] : "");
        h.tasks[i].rank = below(w, 100);
        w->parts[w->next_tag][i].m = m;
        w->parts[w->next_tag][i].done = state(w, m) != WCORE_GONE;
        for (size_t k = 0; k < i; k++) { /* twice in one hint */
            w->parts[w->next_tag][i].done |= w->parts[w->next_tag][k].m == m;
        }
    }
    w->next_tag++;
    wcore_on_hint(w->c, w->now, &h);
}

/* One that is in this state, else any. */
static struct model *one_in(struct world *w, enum wcore_state s)
{
    size_t n = wcore_count(w->c, s);
    int skip = n ? below(w, (int)n) : 0;

    LIST_EACH(wcore_in_state(w->c, s), it)
    {
        if (skip-- == 0) {
            return model_of(w, CONTAINER_OF(it, struct wcore_attempt, in_state));
        }
    }
    return any(w);
}

static void ev_grant(struct world *w)
{
    struct model *m = one_in(w, WCORE_CLAIMING);
    bool open = state(w, m) == WCORE_CLAIMING;

    if (open && !m->claimed) {
        return; /* no manager has seen it */
    }
    if (open) {
        answered(w, m);
        m->deadline = m->claim_sent + LEASE_MS;
    }
    struct wcore_grant g = {.key = m->key,
                            .token = 1 + below(w, 1000),
                            .beat = INT64_MAX,
                            .lease_ms = LEASE_MS,
                            .need = m->need,
                            .type = types[m->key.task.b[15] % ARRAY_LEN(types)],
                            .spec = m};
    CHECK(w, wcore_on_grant(w->c, w->now, &g) == open);
}

static void ev_gone(struct world *w)
{
    char manager[8];

    snprintf(manager, sizeof(manager), "m%d", below(w, 3));
    wcore_on_manager_gone(w->c, w->now, manager);
}

static void ev_deny(struct world *w)
{
    struct model *m = one_in(w, WCORE_CLAIMING);
    bool retry = below(w, 3) == 0;

    if (state(w, m) == WCORE_CLAIMING && !retry) {
        answered(w, m);
    }
    wcore_on_deny(w->c, w->now, &m->key, retry ? WCORE_DENY_RETRY : WCORE_DENY_DONE);
}

static void ev_beat_ack(struct world *w)
{
    int64_t beat = w->beat - below(w, 5);

    if (beat <= 0) {
        CHECK(w, !wcore_on_beat_ack(w->c, w->now, beat));
        return;
    }
    for (int t = 0; t < TASKS; t++) {
        for (int n = 0; n < ATTEMPTS; n++) {
            struct model *m = &w->models[t][n];

            if (m->listed_from && m->listed_from <= beat) {
                m->deadline = MAX(m->deadline, w->beats[beat] + LEASE_MS);
            }
        }
    }
    CHECK(w, wcore_on_beat_ack(w->c, w->now, beat));
}

static void ev_revoke(struct world *w)
{
    enum wcore_state s = WCORE_STARTING + (enum wcore_state)below(w, 4);

    wcore_on_revoke(w->c, w->now, &one_in(w, s)->key, w->beat - below(w, 3));
}

static void ev_cancel(struct world *w)
{
    enum wcore_state s = WCORE_HELD + (enum wcore_state)below(w, 6);

    wcore_on_cancel(w->c, w->now, &one_in(w, s)->key);
}

static void ev_applied(struct world *w)
{
    struct model *m = one_in(w, WCORE_ENDED);
    bool was = m->ended;

    wcore_on_applied(w->c, &m->key);
    CHECK(w, !was || state(w, m) == WCORE_GONE);
    w->seen.applied += was;
}

static void ev_started(struct world *w)
{
    struct model *m = one_in(w, WCORE_STARTING);

    if (m->running && !m->confirmed) {
        m->confirmed = true;
        wcore_on_started(w->c, w->now, wcore_find(w->c, &m->key));
    }
}

static void end_task(struct world *w, struct model *m)
{
    if (m->running) {
        note_end(w, m);
        struct wcore_fault fault = {.of = (unsigned)below(w, 3), .reason = "late"};

        wcore_on_ended(w->c, w->now, wcore_find(w->c, &m->key),
                       m->confirmed || below(w, 4) ? NULL : &fault);
    }
}

static void ev_ended(struct world *w)
{
    end_task(w, one_in(w, WCORE_STARTING + (enum wcore_state)below(w, 3)));
}

static void set_link(struct world *w, enum wcore_link l, bool up)
{
    if (l == WCORE_LINK_CONSUME && !up) {
        for (uint64_t d = w->epoch_start; d < w->next_tag; d++) {
            w->deliveries[d] = w->deliveries[d] == OPEN ? LOST : w->deliveries[d];
        }
        w->epoch_start = w->next_tag;
        w->consuming = false;
    }
    w->well_since = up && !w->up[l] ? w->now : w->well_since;
    w->up[l] = up;
    wcore_on_link(w->c, w->now, l, up);
}

static void ev_link(struct world *w)
{
    set_link(w, (enum wcore_link)below(w, 2), below(w, 4) != 0);
}

static void ev_odd(struct world *w)
{
    switch (below(w, 4)) {
    case 0:
        w->beats_fail = below(w, 4) == 0;
        break;
    case 1:
        w->sends_fail = below(w, 4) == 0;
        w->well_since = w->now;
        break;
    case 2:
        w->no_space = below(w, 6) == 0;
        break;
    default:
        wcore_on_drain(w->c, below(w, 4) == 0);
    }
}

static void ev_look(struct world *w)
{
    struct wcore_able list[] = {{NULL, below(w, 6) ? NULL : "read-only"},
                                {types[0], below(w, 6) ? NULL : "missing"},
                                {types[1], NULL}};

    wcore_on_look(w->c, w->now, list, 2 + (size_t)(below(w, 4) != 0));
}

static void ev_time(struct world *w)
{
    static const int spans[] = {0, 1, 10, 10, 50, 50, 200, 200, 1000, 1000, 5000, 20000};
    pass(w, spans[below(w, (int)ARRAY_LEN(spans))]);
}

static void one_event(struct world *w)
{
    static const struct {
        int weight;
        void (*run)(struct world *w);
    } table[] = {
        {60, ev_hint},  {25, ev_grant},   {5, ev_deny},     {12, ev_beat_ack}, {2, ev_revoke},
        {6, ev_cancel}, {20, ev_applied}, {15, ev_started}, {12, ev_ended},    {2, ev_link},
        {2, ev_odd},    {20, ev_time},    {3, ev_gone},     {6, ev_look},
    };
    int total = 0;

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        total += table[i].weight;
    }
    int at = below(w, total);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        at -= table[i].weight;
        if (at < 0) {
            table[i].run(w);
            break;
        }
    }
    if (below(w, 2)) {
        step(w);
    } else {
        check_rules(w, false);
    }
}

/* ---- histories ---- */

static void open_world(struct world *w, uint64_t seed)
{
    *w = (struct world){.seed = seed, .rng = seed, .now = 5000000, .next_tag = 1, .seen = w->seen};
    w->epoch_start = 1;
    w->capacity = (struct wcore_need){1 + below(w, 8), below(w, 8) * 1000, below(w, 8) * 100};
    struct wcore_settings s = {.capacity = w->capacity, .heartbeat_ms = 5000, .grace_ms = 10000};
    w->c = wcore_new(&ops, w, &s);
    for (int t = 0; t < TASKS; t++) {
        for (int n = 0; n < ATTEMPTS; n++) {
            struct model *m = &w->models[t][n];

            m->key.attempt = n + 1;
            m->key.task.b[15] = (uint8_t)t;
            m->need.slots = 1 + (below(w, 3) == 0 ? below(w, 10) : 0);
            m->need.cpus_milli = below(w, 4) == 0 ? below(w, 6) * 1000 : 0;
            m->need.memory_mb = below(w, 4) == 0 ? below(w, 600) : 0;
            m->in_process = below(w, 3) == 0;
        }
    }
    wcore_ready(w->c, w->now);
}

static void each(struct world *w, void (*fn)(struct world *w, struct model *m))
{
    for (int t = 0; t < TASKS; t++) {
        for (int n = 0; n < ATTEMPTS; n++) {
            fn(w, &w->models[t][n]);
        }
    }
}

static void deny_it(struct world *w, struct model *m)
{
    if (state(w, m) == WCORE_CLAIMING) {
        answered(w, m);
    }
    wcore_on_deny(w->c, w->now, &m->key, WCORE_DENY_DONE);
}

static void check_reported(struct world *w, struct model *m)
{
    CHECK(w, !m->ended || m->sent_at > 0);
}

static void apply_it(struct world *w, struct model *m)
{
    wcore_on_applied(w->c, &m->key);
}

/* Faults end, managers answer, tasks end: nothing may be left. */
static void come_to_rest(struct world *w)
{
    w->beats_fail = w->sends_fail = w->no_space = false;
    w->well_since = w->now;
    wcore_on_drain(w->c, false);
    set_link(w, WCORE_LINK_CONSUME, true);
    set_link(w, WCORE_LINK_PUBLISH, true);
    wcore_stop(w->c, w->now, below(w, 2) != 0);
    w->stopping = true;
    pass(w, 1000);
    each(w, deny_it);
    each(w, end_task);
    pass(w, 12000);
    each(w, check_reported);
    each(w, apply_it);
    CHECK(w, wcore_is_quiet(w->c));
    wcore_last_beat(w->c, w->now);
    for (uint64_t d = 1; d < w->next_tag; d++) {
        CHECK(w, w->deliveries[d] != OPEN);
    }
    for (enum wcore_state s = WCORE_HELD; s < WCORE_STATE_COUNT; s++) {
        CHECK(w, wcore_count(w->c, s) == 0);
    }
    CHECK(w, wcore_step(w->c, w->now) == INT64_MAX);
}

static void test_histories(void **unused)
{
    struct world *w = xcalloc(1, sizeof(*w));
    const char *only = getenv("SJE_TEST_SEED");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    uint64_t last = only ? first : HISTORIES;

    (void)unused;
    for (uint64_t seed = first; seed <= last; seed++) {
        open_world(w, seed);
        set_link(w, WCORE_LINK_CONSUME, true);
        set_link(w, WCORE_LINK_PUBLISH, true);
        for (w->event = 0; w->event < EVENTS; w->event++) {
            one_event(w);
        }
        come_to_rest(w);
        wcore_free(w->c);
    }
    print_message(
        "%d starts, %d renewals, %d kills, %d applied; stopped: %d cancel, %d shutdown, %d "
        "revoked, %d lease\n",
        w->seen.starts, w->seen.leases, w->seen.kills, w->seen.applied, w->seen.stops[0],
        w->seen.stops[1], w->seen.stops[2], w->seen.stops[3]);
    for (size_t i = 0; i < ARRAY_LEN(w->seen.stops); i++) {
        assert_true(only || w->seen.stops[i] > HISTORIES / 10);
    }
    assert_true(only || (w->seen.starts > 10 * HISTORIES && w->seen.kills > HISTORIES / 10));
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
