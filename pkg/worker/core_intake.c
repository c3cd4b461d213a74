#include "internal/broken.h"
#include "pkg/worker/core_priv.h"

#include <stdlib.h>

/* First what is to be claimed first. Not by class: that is in the rank. */
static bool before(const struct heap_node *x, const struct heap_node *y)
{
    const struct wcore_attempt *a = CONTAINER_OF_CONST(x, struct wcore_attempt, order);
    const struct wcore_attempt *b = CONTAINER_OF_CONST(y, struct wcore_attempt, order);

    if (a->rank != b->rank) {
        return a->rank < b->rank;
    }
    return memcmp(&a->key, &b->key, sizeof(a->key)) < 0;
}

void wcore_intake_init(struct wcore *c)
{
    heap_init(&c->waiting, before);
    c->blocked_since = INT64_MAX;
}

/* ---- hints ---- */

/* A hint in the broker is one message, which stays unanswered until all of its tasks need it no
 * more. */
struct wcore_message {
    struct wcore_delivery delivery;
    size_t open; /* tasks */
    bool back;   /* one of them was given back */
};

static void message_unref(struct wcore_message *m)
{
    if (m && --m->open == 0) {
        free(m);
    }
}

/* m NULL: the hint was directed. */
static void message_answer(struct wcore *c, struct wcore_message *m, bool ack)
{
    if (!m) {
        return;
    }
    m->back = m->back || !ack;
    if (m->open == 1 && m->back) {
        c->ops->nack(c->arg, m->delivery);
    } else if (m->open == 1) {
        c->ops->ack(c->arg, m->delivery);
    }
    message_unref(m);
}

void wcore_close_hint(struct wcore *c, struct wcore_attempt *a, bool ack)
{
    if (a->hint) {
        message_answer(c, STEAL(a->hint), ack);
    }
}

static bool accepting(const struct wcore *c)
{
    return c->ready && c->beat > 0 && c->up[WCORE_LINK_CONSUME] && c->up[WCORE_LINK_PUBLISH] &&
           !c->draining && !c->refused && !c->stopping && !wcore_is_holding_off(c);
}

static int64_t keep_ms(const struct wcore_hint *h)
{
    return h->keep_ms ? h->keep_ms : WCORE_HELD_MS;
}

static void take_task(struct wcore *c, int64_t now, const struct wcore_hint *h, size_t i,
                      struct wcore_message *m)
{
    struct wcore_attempt *a = wcore_find(c, &h->tasks[i].key);

    if (a && (a->state == WCORE_CLAIMING || a->state == WCORE_HELD) && !a->hint) {
        a->hint = m; /* by a new connection; or it was told to us alone before */
        if (a->state == WCORE_HELD) {
            wcore_set_timer(c, a, m ? INT64_MAX : now + keep_ms(h));
        }
        return;
    }
    if (a || !(h->directed ? accepting(c) : c->consuming) ||
        c->in_state[WCORE_HELD].count >= WCORE_HELD_MAX) {
        message_answer(c, m, a != NULL);
        return;
    }
    a = wcore_add(c, &h->tasks[i].key);
    a->need = h->tasks[i].need;
    a->need.slots = MAX(a->need.slots, 1);
    a->rank = h->tasks[i].rank;
    a->type = *h->tasks[i].type ? xstrdup(h->tasks[i].type) : NULL;
    a->manager = *h->manager ? xstrdup(h->manager) : NULL;
    a->hint = m;
    a->spare = h->redelivered && a->type;
    wcore_move(c, a, WCORE_HELD, "a hint came");
    if (!wcore_unable(c, a->type) && !wcore_oversized(c, &a->need)) {
        heap_push(&c->waiting, &a->order);
        if (h->directed) {
            wcore_set_timer(c, a, now + keep_ms(h));
        }
    } else if (h->directed || a->type) {
        /* To others; if it was there already, its manager feeds it again. */
        wcore_close_hint(c, a, a->spare);
        wcore_drop(c, a, "it could not be started here");
    } else {
        /* Kept apart for a moment, so that it does not come back to us in a circle. */
        wcore_set_timer(c, a, now + WCORE_OVERSIZED_MS);
    }
}

void wcore_on_hint(struct wcore *c, int64_t now, const struct wcore_hint *h)
{
    struct wcore_message *m = h->directed ? NULL : xmalloc(sizeof(*m));
    size_t n = BROKEN(PARTS) ? 1 : h->n;

    MUST(n > 0 && n <= WCORE_HINT_TASKS);
    if (m) {
        *m = (struct wcore_message){.delivery = h->delivery, .open = n};
    }
    for (size_t i = 0; i < n; i++) {
        take_task(c, now, h, i, m);
    }
}

void wcore_lose_hint(struct wcore_attempt *a)
{
    if (a->hint) {
        message_unref(STEAL(a->hint));
    }
}

void wcore_lose_hints(struct wcore *c)
{
    LIST_EACH(&c->in_state[WCORE_HELD], held)
    {
        struct wcore_attempt *a = CONTAINER_OF(held, struct wcore_attempt, in_state);

        wcore_lose_hint(a);
        wcore_drop(c, a, "the connection that brought it is lost");
    }
    LIST_EACH(&c->in_state[WCORE_CLAIMING], claiming)
    {
        wcore_lose_hint(CONTAINER_OF(claiming, struct wcore_attempt, in_state));
    }
}

/* But what was told to us alone and may wait for room: we pause to make it. */
static void give_back(struct wcore *c)
{
    LIST_EACH(&c->in_state[WCORE_HELD], it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

        if (a->hint || !c->paused) {
            wcore_close_hint(c, a, false);
            wcore_drop(c, a, c->paused ? "no slot became free" : "no work is taken now");
        }
    }
}

void wcore_give_back_unable(struct wcore *c)
{
    LIST_EACH(&c->in_state[WCORE_HELD], it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

        if (heap_linked(&a->order) && (wcore_unable(c, a->type) || wcore_oversized(c, &a->need))) {
            wcore_close_hint(c, a, false);
            wcore_drop(c, a, "it cannot be started here any more");
        }
    }
}

/* ---- claims ---- */

static void ask_all(struct wcore_attempt *a)
{
    if (!BROKEN(ASK_ALL)) {
        free(STEAL(a->manager));
    }
}

/* Its other hints do not wait for it. */
static void note_silent(struct wcore *c, int64_t now, const char *manager)
{
    if (!streq(c->silent, manager)) {
        free(c->silent);
        c->silent = xstrdup(manager);
    }
    c->silent_until = now + WCORE_SILENT_MS;
}

static void claim(struct wcore *c, int64_t now, struct wcore_attempt *a)
{
    if (now < c->silent_until && streq(c->silent, a->manager)) {
        ask_all(a);
    }
    heap_remove(&c->waiting, &a->order);
    wcore_move(c, a, WCORE_CLAIMING, "slots are free");
    a->claimed_at = now;
    a->claim_beat = c->beat;
    if (BROKEN(ACK)) {
        wcore_close_hint(c, a, true);
    }
    list_push(&c->claims, &a->outgoing);
}

void wcore_claim_due(struct wcore *c, int64_t now, struct wcore_attempt *a)
{
    wcore_set_timer(c, a, INT64_MAX);
    if (now - a->claimed_at >= WCORE_CLAIM_GIVE_UP_MS) {
        wcore_close_hint(c, a, false);
        wcore_drop(c, a, "no manager answered the claim");
        c->news = true;
    } else {
        if (a->manager && now - a->claimed_at >= WCORE_CLAIM_RESEND_MS) {
            note_silent(c, now, a->manager);
        }
        ask_all(a);
        if (!list_linked(&a->outgoing)) { /* its manager was gone, and we were stopped since */
            list_push(&c->claims, &a->outgoing);
        }
    }
}

void wcore_on_manager_gone(struct wcore *c, int64_t now, const char *queue)
{
    note_silent(c, now, queue);
    LIST_EACH(&c->in_state[WCORE_CLAIMING], it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

        if (streq(a->manager, queue)) {
            ask_all(a);
            if (!list_linked(&a->outgoing)) {
                list_push(&c->claims, &a->outgoing);
            }
        }
    }
}

/* The first claim that waits, and others that go where it goes. */
static size_t take_batch(struct wcore *c, struct wcore_attempt *batch[WCORE_BATCH])
{
    size_t n = 0;

    LIST_EACH(&c->claims, it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, outgoing);
        const char *first = n ? batch[0]->manager : a->manager;

        if (n < WCORE_BATCH && (first ? streq(first, a->manager) : !a->manager)) {
            list_remove(it);
            batch[n++] = a;
        }
    }
    return n;
}

void wcore_send_claims(struct wcore *c, int64_t now)
{
    while (c->claims.count) {
        struct wcore_attempt *batch[WCORE_BATCH];
        size_t n = take_batch(c, batch);
        int rc = c->up[WCORE_LINK_PUBLISH]
                     ? c->ops->send_claims(c->arg, batch[0]->manager, batch, n, c->beat)
                     : -1;

        for (size_t i = 0; i < n; i++) {
            int64_t next = now + (rc ? WCORE_RETRY_MS : WCORE_CLAIM_RESEND_MS);

            wcore_set_timer(c, batch[i], MIN(next, batch[i]->claimed_at + WCORE_CLAIM_GIVE_UP_MS));
        }
    }
}

void wcore_on_deny(struct wcore *c, int64_t now, const struct wcore_key *k, enum wcore_deny how)
{
    struct wcore_attempt *a = wcore_find(c, k);

    if (!a || a->state != WCORE_CLAIMING) {
        return;
    }
    if (how != WCORE_DENY_RETRY) {
        wcore_close_hint(c, a, how == WCORE_DENY_DONE);
        wcore_drop(c, a, "denied");
    } else if (!list_linked(&a->outgoing)) {
        wcore_set_timer(c, a,
                        MIN(now + WCORE_CLAIM_RETRY_MS, a->claimed_at + WCORE_CLAIM_GIVE_UP_MS));
    }
}

/* ---- which hints we want ---- */

static bool within(int64_t used, int64_t need, int64_t capacity)
{
    return need == 0 || used + need <= capacity;
}

static bool has_room(const struct wcore *c, const struct wcore_room *kept,
                     const struct wcore_need *need)
{
    const struct wcore_need *cap = &c->set.capacity;

    return within(c->used.slots + kept->slots, need->slots, cap->slots) &&
           within(c->used.cpus_milli + kept->cpus_milli, need->cpus_milli, cap->cpus_milli) &&
           within(c->used.memory_mb + kept->memory_mb, need->memory_mb, cap->memory_mb);
}

bool wcore_oversized(const struct wcore *c, const struct wcore_need *need)
{
    const struct wcore_need *cap = &c->set.capacity;

    return need->slots > cap->slots || need->cpus_milli > cap->cpus_milli ||
           need->memory_mb > cap->memory_mb;
}

static const struct wcore_room nothing_kept = {0};

bool wcore_fits(const struct wcore *c, const struct wcore_need *need)
{
    return BROKEN(CAPABLE) || has_room(c, &nothing_kept, need);
}

/* A claim may be made. */
static bool may_claim(const struct wcore *c, const struct wcore_room *kept,
                      const struct wcore_need *need)
{
    size_t open = 0;

    for (enum wcore_state s = WCORE_CLAIMING; s <= WCORE_ENDED; s++) {
        open += c->in_state[s].count;
    }
    return open < WCORE_ATTEMPTS_MAX && (BROKEN(CAPABLE) || has_room(c, kept, need));
}

void wcore_pause(struct wcore *c, int64_t now, const struct wcore_need *need)
{
    c->paused = true;
    c->blocked_since = INT64_MAX;
    c->pause_need = *need;
    c->paused_until = now + WCORE_PAUSE_MS;
}

/* What the smallest task takes. */
static const struct wcore_need one_slot = {.slots = 1};

static bool is_asked_for(const struct wcore *c, const struct wcore_room *kept,
                         const struct wcore_need *need)
{
    const struct wcore_need *cap = &c->set.capacity;

    return (need->cpus_milli && c->used.cpus_milli + kept->cpus_milli > cap->cpus_milli) ||
           (need->memory_mb && c->used.memory_mb + kept->memory_mb > cap->memory_mb);
}

/* It has no room. What it asks for is kept for it, so that nobody of a later rank is given what it
 * lacks, nor so much of the rest that it could not start; but who asks for what another lacks
 * waits behind that one, and keeps nothing. Where slots are not what it lacks, one of them comes
 * with the room that somebody leaves. */
static void keep_room(const struct wcore *c, struct wcore_room *kept, const struct wcore_need *need)
{
    int64_t comes = within(c->used.slots + kept->slots, need->slots, c->set.capacity.slots);

    if (!is_asked_for(c, kept, need)) {
        kept->slots += need->slots - comes;
        kept->cpus_milli += need->cpus_milli;
        kept->memory_mb += need->memory_mb;
    }
}

size_t wcore_prefetch(int slots)
{
    return (size_t)MIN(MIN(slots, MAX(8, slots / 16)), UINT16_MAX);
}

/* What waits for CPUs or memory, in its order. The hints of others are behind it in the broker, so
 * it must not fill the prefetch: it goes to other workers once, then we keep the first of it. */
static void wait_for_room(struct wcore *c, int64_t now, struct list *passed, bool blocked)
{
    size_t left = MAX(wcore_prefetch(c->set.capacity.slots) / 2, (size_t)1);
    struct list_node *n;

    while ((n = list_pop(passed))) {
        struct wcore_attempt *a = CONTAINER_OF(n, struct wcore_attempt, outgoing);

        heap_push(&c->waiting, &a->order);
        if (!a->hint || blocked) {
            continue;
        }
        if (!a->spare) {
            wcore_set_timer(c, a, MIN(a->due, now + WCORE_HELD_MS));
        } else if (left) {
            /* Not for ever: its task may have ended meanwhile, and would keep the room. */
            left--;
            wcore_set_timer(c, a, MIN(a->due, now + WCORE_SPARE_MS));
        } else {
            wcore_close_hint(c, a, true);
            wcore_drop(c, a, "others wait for the same before it");
        }
    }
}

/* Until there are slots for the first that lacks them. */
static void pause_for_slots(struct wcore *c, int64_t now, const struct wcore_room *kept)
{
    const struct wcore_need *first =
        &CONTAINER_OF(heap_min(&c->waiting), struct wcore_attempt, order)->need;
    int32_t cap = c->set.capacity.slots;
    int64_t slots = c->used.slots + kept->slots > cap ? kept->slots : kept->slots + first->slots;
    struct wcore_need need = {.slots = (int32_t)MIN(slots, (int64_t)cap)};

    wcore_pause(c, now, &need);
}

static void claim_what_fits(struct wcore *c, int64_t now)
{
    struct wcore_room kept = nothing_kept;
    struct heap_node *first;
    struct list passed;

    list_init(&passed);
    while ((first = heap_min(&c->waiting)) && may_claim(c, &kept, &one_slot)) {
        struct wcore_attempt *a = CONTAINER_OF(first, struct wcore_attempt, order);

        if (may_claim(c, &kept, &a->need)) {
            claim(c, now, a);
            c->blocked_since = INT64_MAX;
        } else {
            keep_room(c, &kept, &a->need);
            heap_remove(&c->waiting, first);
            list_push(&passed, &a->outgoing);
        }
    }
    bool blocked = (first || passed.count) && !may_claim(c, &kept, &one_slot);
    wait_for_room(c, now, &passed, blocked);
    if (!blocked) {
        c->blocked_since = INT64_MAX;
    } else if (c->blocked_since == INT64_MAX) {
        c->blocked_since = now;
    } else if (now - c->blocked_since >= WCORE_HELD_MS) {
        pause_for_slots(c, now, &kept);
    }
}

void wcore_intake(struct wcore *c, int64_t now)
{
    bool open = accepting(c);
    if (!open) {
        c->paused = false;
    } else if (c->paused) {
        c->paused = !may_claim(c, &nothing_kept, &c->pause_need) &&
                    !(may_claim(c, &nothing_kept, &one_slot) && now >= c->paused_until);
        /* The classes come by queues of their own: not whoever is the first of them is. */
        c->gather_until = now + WCORE_GATHER_MS;
    }
    c->gather_until = c->paused || now >= c->gather_until ? 0 : c->gather_until;
    if (open && !c->paused && !c->gather_until) {
        claim_what_fits(c, now);
    } else {
        c->blocked_since = INT64_MAX;
    }
    bool want = open && !c->paused;
    if (want != c->consuming) {
        c->consuming = want;
        if (c->up[WCORE_LINK_CONSUME]) {
            c->ops->consume(c->arg, want);
        }
    }
    if (!want && c->in_state[WCORE_HELD].count) {
        give_back(c);
    }
}

int64_t wcore_intake_due(const struct wcore *c)
{
    int64_t due = c->gather_until && c->in_state[WCORE_HELD].count ? c->gather_until : INT64_MAX;

    if (c->blocked_since != INT64_MAX) {
        due = MIN(due, c->blocked_since + WCORE_HELD_MS);
    }
    if (c->paused && may_claim(c, &nothing_kept, &one_slot)) {
        due = MIN(due, c->paused_until);
    }
    return due;
}
