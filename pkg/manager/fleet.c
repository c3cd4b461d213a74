#include "pkg/manager/fleet.h"

#include "internal/broken.h"

#include <stdlib.h>

#define CLEAR_MS      1000 /* between two looks for workers to forget */
#define HOLD_OFF_COST 768  /* bytes of a parsed entry, without its texts */

static const struct {
    const char *name;
    bool lives;
} states[] = {
#define X(name, lives) {#name, lives},
    WORKER_STATES(X)
#undef X
};

const char *worker_state_name(enum worker_state s)
{
    return states[s].name;
}

enum worker_state worker_state_of(const char *name)
{
    for (int i = 0; i < WORKER_STATE_COUNT; i++) {
        if (streq(states[i].name, name)) {
            return (enum worker_state)i;
        }
    }
    return WORKER_UNKNOWN;
}

bool worker_lives(enum worker_state s)
{
    return states[s].lives;
}

void fleet_init(struct fleet *f, int64_t dead_after_ms)
{
    *f = (struct fleet){.dead_after_ms = dead_after_ms};
    offers_init(&f->offers);
}

static size_t text_bytes(const char *s)
{
    return s ? strlen(s) + sizeof(char *) : 0;
}

/* Of it in fleet->told. */
static size_t told_bytes(const struct lease *l)
{
    return (l->hearsay ? sizeof(*l) : 0) + text_bytes(l->application_id) + text_bytes(l->ui_url) +
           text_bytes(l->progress);
}

static void lease_free(struct fleet *f, struct lease *l)
{
    f->told -= told_bytes(l);
    HASH_DEL(f->leases, l);
    list_remove(&l->node);
    offers_use(&l->worker->offer, &l->room, -1);
    free(l->pool);
    free(l->application_id);
    free(l->ui_url);
    free(l->progress);
    free(l);
}

/* What two workers are told apart by: the head of struct who. */
#define WHO_KEY_LEN offsetof(struct who, inc)

static struct fleet_node *node_find(const struct fleet *f, const char *name)
{
    struct fleet_node *n = NULL;

    HASH_FIND_STR(f->nodes, name, n);
    return n;
}

static void node_free(struct fleet *f, struct fleet_node *n)
{
    HASH_DEL(f->nodes, n);
    free(n->name);
    free(n);
}

/* All that it said of what it takes. */
static void drop_offers(struct fleet *f, struct fleet_worker *w)
{
    names_drop(STEAL(w->pools));
    names_drop(STEAL(w->job_types));
    names_drop(STEAL(w->could));
    json_decref(STEAL(w->hold_off));
    f->held_off -= w->hold_off_bytes;
    w->hold_off_bytes = 0;
    w->takes_none = false;
}

static void worker_free(struct fleet *f, struct fleet_worker *w)
{
    struct fleet_node *n = w->node;

    MUST(w->leases.count == 0);
    offers_forget(&f->offers, &w->offer);
    offers_set_absent(&f->offers, &w->absent, NULL);
    HASH_DEL(f->workers, w);
    list_remove(&w->of_node);
    if (n->workers.count == 0) {
        node_free(f, n);
    } else if (n->holder == w) {
        n->holder = CONTAINER_OF(list_first(&n->workers), struct fleet_worker, of_node);
    }
    free(w->host);
    free(w->version);
    free(w->reply);
    drop_offers(f, w);
    free(w);
}

void fleet_done(struct fleet *f)
{
    struct lease *l;
    struct lease *lt;
    struct fleet_worker *w;
    struct fleet_worker *wt;

    HASH_ITER(hh, f->leases, l, lt)
    {
        lease_free(f, l);
    }
    HASH_ITER(hh, f->workers, w, wt)
    {
        worker_free(f, w);
    }
    offers_done(&f->offers);
}

struct fleet_worker *fleet_find(struct fleet *f, const char *node)
{
    struct fleet_node *n = node_find(f, node);

    return n ? n->holder : NULL;
}

size_t fleet_left_behind(const struct fleet_worker *w)
{
    size_t n = 0;

    LIST_EACH(&w->node->workers, it)
    {
        const struct fleet_worker *other = CONTAINER_OF(it, struct fleet_worker, of_node);

        if (other != w && (other->state == WORKER_DEAD || other->state == WORKER_STOPPED)) {
            n += other->leases.count;
        }
    }
    return w->node->holder == w && worker_lives(w->state) ? n : 0;
}

struct avoiding {
    struct fleet *fleet;
    int64_t since;
    bool yes;
};

static void avoid_node(void *arg, const char *node)
{
    const struct avoiding *a = arg;
    struct fleet_worker *w = fleet_find(a->fleet, node);

    if (w) {
        w->offer.avoided = a->yes && w->node->well_wall <= a->since;
        /* Of one that is UP this is what it holds off: it may have given it back for that. */
        w->absent.avoided = a->yes && w->state != WORKER_UP;
    }
}

void fleet_avoid(struct fleet *f, const char *nodes, int64_t since, bool yes)
{
    struct avoiding a = {f, since, yes};

    task_nodes_each(nodes, avoid_node, &a);
}

int64_t fleet_patience_ms(const struct fleet *f)
{
    return MAX((int64_t)PATIENCE_MS, 2 * f->dead_after_ms);
}

struct fleet_worker *fleet_of(struct fleet *f, const struct who *who)
{
    struct fleet_worker *w = NULL;

    HASH_FIND(hh, f->workers, who, WHO_KEY_LEN, w);
    return w;
}

const char *fleet_objection(struct fleet *f, const struct who *who)
{
    struct fleet_worker *w = fleet_of(f, who);
    struct fleet_worker *holder = fleet_find(f, who->node);

    if (BROKEN(IDENTITY) || !holder) {
        return NULL;
    }
    if (w && (w->state == WORKER_REFUSED || (w != holder && worker_lives(holder->state)))) {
        return "refused";
    }
    if (w) {
        return who->inc < w->who.inc ? "outdated" : NULL;
    }
    return worker_lives(holder->state) && !who_continues(who, &holder->who) ? "refused" : NULL;
}

static bool is_full(const struct fleet *f)
{
    return HASH_COUNT(f->workers) >= FLEET_MAX;
}

static struct fleet_node *node_get(struct fleet *f, const char *name)
{
    struct fleet_node *n = node_find(f, name);

    if (!n) {
        n = xmalloc(sizeof(*n));
        n->name = xstrdup(name);
        list_init(&n->workers);
        HASH_ADD_KEYPTR(hh, f->nodes, n->name, strlen(n->name), n);
    }
    return n;
}

/* One that was not heard yet. */
static struct fleet_worker *worker_get(struct fleet *f, const struct who *who, int64_t now)
{
    struct fleet_worker *w = fleet_of(f, who);

    if (!w) {
        w = xmalloc(sizeof(*w));
        w->who = *who;
        w->host = xstrdup("");
        w->state = WORKER_UNKNOWN;
        w->unknown_until = now + f->dead_after_ms;
        w->last_beat = INT64_MIN;
        list_init(&w->leases);
        offer_init(&w->offer);
        offer_init(&w->absent);
        w->unsure_until = now + fleet_patience_ms(f);
        w->forget_at = now + WORKER_FORGET_MS;
        w->node = node_get(f, who->node);
        list_push(&w->node->workers, &w->of_node);
        w->node->holder = w->node->holder ? w->node->holder : w;
        HASH_ADD(hh, f->workers, who, WHO_KEY_LEN, w);
    }
    return w;
}

struct lease *fleet_lease(const struct fleet *f, const struct id *task)
{
    struct lease *l = NULL;

    HASH_FIND(hh, f->leases, task, sizeof(*task), l);
    return l;
}

/* Whoever led before may renew it once more than we know. */
static int64_t deadline_from(const struct fleet *f, const struct lease *l, int64_t now)
{
    int64_t margin = BROKEN(MARGIN) ? 0 : LEASE_MARGIN_MS;

    if (l->hearsay) { /* whatever its worker says: it is kept while that one is heard */
        return now + f->dead_after_ms + margin;
    }
    if (BROKEN(LEASE_DATA)) {
        return MAX(now, f->other_until) + f->dead_after_ms + margin;
    }
    return MAX(now, f->other_until) + l->lease_ms + margin;
}

/* As granted; a manager of an earlier version did not write it down. */
static int64_t lease_ms_of(const struct fleet *f, const struct task *row)
{
    return row->lease_ms  ? row->lease_ms
           : row->lease_s ? (int64_t)row->lease_s * 1000
                          : f->dead_after_ms;
}

static void lease_move(struct lease *l, struct fleet_worker *to)
{
    list_remove(&l->node);
    offers_use(&l->worker->offer, &l->room, -1);
    l->worker = to;
    offers_use(&to->offer, &l->room, 1);
    list_push(&to->leases, &l->node);
}

struct lease *fleet_grant(struct fleet *f, const struct task *row, int64_t now)
{
    struct lease *l = fleet_lease(f, &row->id);

    if (l && (l->hearsay || l->attempt != row->attempt || l->token != row->token ||
              !who_continues(&l->worker->who, &row->who))) {
        lease_free(f, l);
        l = NULL;
    }
    if (!l) {
        l = xmalloc(sizeof(*l));
        l->task = row->id;
        l->attempt = row->attempt;
        l->token = row->token;
        l->room = (struct room){row->slots, row->cpus_milli, row->memory_mb};
        l->pool = xstrdup(row->pool);
        l->application_id = xstrdup(row->application_id);
        l->progress = xstrdup(row->progress);
        l->lease_ms = lease_ms_of(f, row);
        l->lease_told = row->lease_ms != 0;
        l->worker = worker_get(f, &row->who, now);
        offers_use(&l->worker->offer, &l->room, 1);
        list_push(&l->worker->leases, &l->node);
        HASH_ADD(hh, f->leases, task, sizeof(l->task), l);
        l->deadline = deadline_from(f, l, now);
        f->told += told_bytes(l);
    }
    l->application_told = l->application_told ||
                          (row->application_id && streq(l->application_id, row->application_id));
    l->inc = row->who.inc;
    if (row->claim_beat > l->claim_beat) { /* claimed again: the worker counts from that claim */
        l->claim_beat = row->claim_beat;
        l->deadline = MAX(l->deadline, deadline_from(f, l, now));
    }
    l->cancel = row->cancel_requested;
    return l;
}

void fleet_release(struct fleet *f, const struct id *task)
{
    struct lease *l = fleet_lease(f, task);

    if (l) {
        lease_free(f, l);
    }
}

static void lose(struct fleet *f, const struct beat_effects *fx, struct lease *l, const char *why,
                 bool by_restart)
{
    if (l->hearsay) {
        lease_free(f, l);
    } else if (!l->lost && fx->gone) {
        l->lost = true;
        fx->gone(fx->arg, l, why, by_restart);
    }
}

static struct lease *believe(struct fleet *f, const struct beat *b, const struct beat_run *r,
                             int64_t now)
{
    struct task row = {.id = r->task,
                       .attempt = r->attempt,
                       .token = r->token,
                       .slots = (int32_t)MAX(r->room.slots, (int64_t)1),
                       .cpus_milli = (int32_t)r->room.cpus_milli,
                       .memory_mb = (int32_t)r->room.memory_mb,
                       .lease_ms = r->lease_ms,
                       .who = b->who};

    if (f->told + sizeof(struct lease) > HEARSAY_MAX || streq(r->phase, "ended")) {
        return NULL;
    }
    struct lease *l = fleet_grant(f, &row, now);
    l->hearsay = true;
    f->told += sizeof(*l);
    return l;
}

/* A worker got its UUID, or one that had none was granted this by a manager that knows of none. */
static bool is_of(struct lease *l, struct fleet_worker *w)
{
    if (l->worker != w && who_continues(&w->who, &l->worker->who)) {
        lease_move(l, w);
    }
    return l->worker == w;
}

static void renew(struct fleet *f, struct lease *l, const struct beat *b, const struct beat_run *r,
                  int64_t now)
{
    if (!l->lease_told && r->lease_ms) {
        l->lease_ms = MAX(l->lease_ms, r->lease_ms);
        l->lease_told = true;
    }
    l->seen_beat = b->beat;
    l->deadline = deadline_from(f, l, now);
}

/* Where there is no room for it, it is not known. */
static void tell(struct fleet *f, const struct lease *l, char **to, const char *text)
{
    size_t others = f->told - text_bytes(*to);
    bool row_has_it = !l->hearsay && to == &l->application_id;
    size_t most = row_has_it ? SIZE_MAX : l->hearsay ? HEARSAY_MAX : HEARD_MAX;
    const char *kept = others + text_bytes(text) > most ? NULL : text;

    f->told = others + text_bytes(kept);
    str_replace_owned(to, kept);
}

static void describe(struct fleet *f, struct lease *l, const struct beat_run *r,
                     const struct beat_effects *fx)
{
    if (r->application_id && !streq(l->application_id, r->application_id)) {
        tell(f, l, &l->application_id, r->application_id);
        l->application_told = false;
    }
    if (r->application_id && !l->application_told && fx->role != FLEET_FOLLOWS) {
        l->application_told = true;
        fx->application(fx->arg, l, r->application_id);
    }
    tell(f, l, &l->ui_url, r->ui_url);
    l->phase = r->phase;
    if (r->progress) {
        char *text CLEANUP(freep) = json_text(r->progress);

        tell(f, l, &l->progress, text);
    }
}

static void beat_lease(struct fleet *f, struct fleet_worker *w, const struct beat *b,
                       const struct beat_run *r, int64_t now, const struct beat_effects *fx)
{
    struct lease *l = fleet_lease(f, &r->task);
    bool follows = fx->role == FLEET_FOLLOWS;

    if (l &&
        (l->hearsay ? !follows || l->attempt != r->attempt : follows && l->attempt < r->attempt)) {
        lease_free(f, l); /* the row is to tell, or ours is the old one */
        l = NULL;
    }
    if (!l && follows) {
        l = believe(f, b, r, now);
    }
    if (!l || l->attempt < r->attempt || l->lost) {
        /* Not known; or ours is the old one; or it is given up, and that may be written already. */
        if (!follows) {
            fx->unknown(fx->arg, r);
        }
        return;
    }
    if (l->attempt != r->attempt || l->token != r->token || !is_of(l, w)) {
        if (!follows) {
            fx->revoke(fx->arg, r);
        }
        return;
    }
    renew(f, l, b, r, now);
    if (l->inc < b->who.inc) {
        l->inc = b->who.inc;
        l->claim_beat = 0;
        if (!follows) {
            fx->survived(fx->arg, l, b);
        }
    }
    describe(f, l, r, fx);
}

static bool is_claiming(const struct beat *b, const struct lease *l)
{
    for (size_t i = 0; i < b->n_claiming; i++) {
        if (id_eq(&b->claiming[i].task, &l->task) && b->claiming[i].attempt == l->attempt) {
            return true;
        }
    }
    return false;
}

/* An attempt that the worker does not list in a beat sent after its claim is not there. */
static void beat_missing(struct fleet *f, struct fleet_worker *w, const struct beat *b,
                         const struct beat_effects *fx)
{
    LIST_EACH(&w->leases, n)
    {
        struct lease *l = CONTAINER_OF(n, struct lease, node);

        if (l->seen_beat == b->beat && l->inc == b->who.inc) {
            continue;
        }
        if (l->inc < b->who.inc) {
            lose(f, fx, l, "its worker was restarted and did not bring it back", true);
        } else if (l->inc == b->who.inc &&
                   (BROKEN(CLAIMING) || (b->beat > l->claim_beat && !is_claiming(b, l)))) {
            lose(f, fx, l, "its worker no longer has it", false);
        }
    }
}

/* The same types for the same reasons, however long. */
static bool same_hold_off(const json_t *a, const json_t *b)
{
    bool same = json_array_size(a) == json_array_size(b);

    for (size_t i = 0; same && i < json_array_size(a); i++) {
        const json_t *x = json_array_get(a, i);
        const json_t *y = json_array_get(b, i);

        same = json_equal(json_object_get(x, "type"), json_object_get(y, "type")) &&
               json_equal(json_object_get(x, "reason"), json_object_get(y, "reason"));
    }
    return same;
}

/* That it takes in memory, about. */
static size_t hold_off_bytes(const json_t *list)
{
    return list ? json_array_size(list) * HOLD_OFF_COST + json_dumpb(list, NULL, 0, JSON_COMPACT)
                : 0;
}

static void take_hold_off(struct fleet *f, struct fleet_worker *w, const json_t *list, int64_t wall,
                          bool *ret_changed)
{
    if (!same_hold_off(w->hold_off, list)) {
        w->saved = false;
        *ret_changed = true;
    }
    if (json_array_size(list) < json_array_size(w->hold_off)) {
        w->node->well_wall = wall;
    }
    json_decref(w->hold_off);
    w->hold_off = json_incref((json_t *)(uintptr_t)list);
    f->held_off -= w->hold_off_bytes;
    w->hold_off_bytes = hold_off_bytes(list);
    f->held_off += w->hold_off_bytes;
    w->takes_none = false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        w->takes_none |= json_is_null(json_object_get(json_array_get(list, i), "type"));
    }
}

/* The names, and the types of what is held off. */
static struct names *names_in(struct names_table *t, const json_t *array, const json_t *held)
{
    size_t n = json_array_size(array);
    size_t all = n + json_array_size(held);
    const char **list CLEANUP(freep) = xcalloc(all, sizeof(*list));
    size_t used = 0;

    for (size_t i = 0; i < all; i++) {
        const char *s = i < n ? json_string_value(json_array_get(array, i))
                              : json_get_string(json_array_get(held, i - n), "type");

        if (s) {
            list[used++] = s;
        }
    }
    return names_get(t, list, used);
}

/* Takes `by` over. */
static void replace_names(struct names **list, struct names *by, bool *ret_changed)
{
    *ret_changed = *ret_changed || *list != by;
    names_drop(*list);
    *list = by;
}

static enum worker_state state_of(const struct fleet_worker *w)
{
    return w->stopping                     ? WORKER_STOPPED
           : w->node->holder != w          ? WORKER_REFUSED
           : w->node->drain || w->draining ? WORKER_DRAINING
                                           : WORKER_UP;
}

static bool is_gone(const struct fleet_worker *w)
{
    return w->state == WORKER_DEAD || w->state == WORKER_STOPPED;
}

/* What it could take but does not now. */
static bool may_offer_soon(const struct fleet *f, const struct fleet_worker *w, int64_t now)
{
    return w->node->holder == w && w->could &&
           (w->state == WORKER_UP ? json_array_size(w->hold_off) > 0
            : is_gone(w)          ? now - w->last_beat < fleet_patience_ms(f)
                                  : w->state == WORKER_DRAINING || w->state == WORKER_SUSPECT);
}

static void offer_absent(struct fleet *f, struct fleet_worker *w, int64_t now)
{
    bool may = may_offer_soon(f, w, now);
    bool some = may && w->state == WORKER_UP && !w->takes_none;
    struct names *held =
        some ? names_in(&f->offers.type_names, NULL, w->hold_off) : names_hold(w->could);
    struct offer_facts facts = {
        .pools = w->pools,
        .types = held,
        .room = {w->slots, (int64_t)w->cpus * 1000, w->memory_mb},
    };

    if (may || list_linked(&w->absent.absent)) {
        offers_set_absent(&f->offers, &w->absent, may ? &facts : NULL);
    }
    names_drop(held);
}

/* After a change of its state or of what it says. */
static void offer(struct fleet *f, struct fleet_worker *w, int64_t now)
{
    struct offer_facts facts = {
        .live = w->state == WORKER_UP && !w->takes_none,
        .pools = w->pools,
        .types = w->job_types,
        .room = {w->slots, (int64_t)w->cpus * 1000, w->memory_mb},
    };

    if (w->unserved) {
        offers_forget(&f->offers, &w->offer);
    } else {
        offers_set(&f->offers, &w->offer, &facts);
    }
    offer_absent(f, w, now);
}

/* The name is free where its holder does not live. */
static void take_name(struct fleet *f, struct fleet_worker *w, int64_t wall)
{
    struct fleet_node *n = w->node;
    struct fleet_worker *before = n->holder;

    if (before != w && !worker_lives(before->state)) {
        n->holder = w;
        n->well_wall = json_array_size(before->hold_off) ? wall : n->well_wall;
        offers_set_absent(&f->offers, &before->absent, NULL);
    }
    w->state = state_of(w);
}

/* Nothing is lost with it: it does not live, has nothing, and its row tells of an order. */
static bool forget_if_silent(struct fleet *f, struct fleet_worker *w)
{
    bool silent = w->state == WORKER_DEAD || w->state == WORKER_STOPPED;

    if (silent && w->leases.count == 0) {
        worker_free(f, w);
        return true;
    }
    return false;
}

/* Room for one more, of this name (NULL: a new one). */
static bool make_room(struct fleet *f, struct fleet_node *n)
{
    struct fleet_worker *w;
    struct fleet_worker *wt;

    if (n && n->workers.count >= NAMESAKES_MAX) {
        LIST_EACH(&n->workers, it)
        {
            w = CONTAINER_OF(it, struct fleet_worker, of_node);
            if (w != n->holder && forget_if_silent(f, w)) {
                return true;
            }
        }
        return false;
    }
    if (!is_full(f)) {
        return true;
    }
    HASH_ITER(hh, f->workers, w, wt)
    {
        if (w->node != n && forget_if_silent(f, w)) {
            return true;
        }
    }
    return false;
}

/* Whose beat it is. NULL: of one worker too many. */
static struct fleet_worker *sender(struct fleet *f, const struct who *who, int64_t now)
{
    struct fleet_worker *w = fleet_of(f, who);
    struct fleet_node *n = node_find(f, who->node);

    if (BROKEN(IDENTITY) && n) {
        return n->holder;
    }
    if (!w && n && who_continues(who, &n->holder->who) && who->inc >= n->holder->who.inc) {
        w = n->holder; /* of a version without UUIDs until now */
        HASH_DEL(f->workers, w);
        w->who.uuid = who->uuid;
        HASH_ADD(hh, f->workers, who, WHO_KEY_LEN, w);
    }
    return w ? w : make_room(f, n) ? worker_get(f, who, now) : NULL;
}

static bool other_process(const struct fleet_worker *w, const struct beat *b)
{
    return w->who.inc == b->who.inc && w->pid && b->pid &&
           (w->pid != b->pid || w->started_at != b->started_at);
}

/* A number that was given before the work directory was put back to what it had been: whoever began
 * earlier cannot come later. What it does not run may run with the process that we know. */
static bool is_used_again(const struct fleet_worker *w, const struct beat *b)
{
    return b->who.inc > w->who.inc && b->started_at < w->started_at;
}

static enum beat_verdict judge(struct fleet *f, struct fleet_worker *w, const struct beat *b,
                               int64_t now)
{
    if (w->last_beat == INT64_MIN && b->who.inc >= w->who.inc) {
        return BEAT_TAKEN; /* the first that we hear */
    }
    /* A number out of nowhere waits until the process that is known is silent: it may be the same
     * one, which another manager told to take it. */
    bool ahead =
        who_has_uuid(&b->who) && b->who.inc > w->who.inc + PROCESS_AHEAD && worker_lives(w->state);
    if (b->who.inc < w->who.inc || ahead || (other_process(w, b) && !BROKEN(IDENTITY))) {
        w->contested_until = now + f->dead_after_ms;
        return BEAT_OUTDATED;
    }
    bool late = b->who.inc == w->who.inc && b->beat <= w->beat && !BROKEN(STALE);
    return late ? BEAT_LATE : BEAT_TAKEN;
}

static void take_number(int *to, int n, bool *ret_changed)
{
    *ret_changed = *ret_changed || *to != n;
    *to = n;
}

/* More than all workers together may offer. */
static bool is_crowded(const struct fleet *f)
{
    return offers_bytes(&f->offers) + f->held_off > OFFERED_MAX ||
           names_count(&f->offers.pool_names) > OFFERED_POOLS_MAX ||
           names_count(&f->offers.type_names) > OFFERED_TYPES_MAX;
}

/* Forgets those that are gone until there is room for what this one offers. */
static bool make_way(struct fleet *f, const struct fleet_worker *for_whom, int64_t now)
{
    struct fleet_worker *w;
    struct fleet_worker *wt;

    if (now - f->cleared_at < CLEAR_MS) {
        return false;
    }
    f->cleared_at = now;
    HASH_ITER(hh, f->workers, w, wt)
    {
        if (w->node != for_whom->node && forget_if_silent(f, w) && !is_crowded(f)) {
            return true;
        }
    }
    return false;
}

static void take_offers(struct fleet *f, struct fleet_worker *w, const struct beat *b, int64_t now,
                        int64_t wall, bool *ret_changed)
{
    struct names_table *types = &f->offers.type_names;
    bool was_unserved = w->unserved;
    bool was_saved = w->saved;
    bool changed = was_unserved;

    replace_names(&w->pools, names_in(&f->offers.pool_names, b->pools, NULL), &changed);
    replace_names(&w->job_types, names_in(types, b->job_types, NULL), &changed);
    take_hold_off(f, w, b->hold_off, wall, &changed);
    if (w->job_types) {
        replace_names(&w->could, names_in(types, b->job_types, b->hold_off), &changed);
    }
    take_number(&w->slots, b->slots, &changed);
    take_number(&w->cpus, b->cpus, &changed);
    take_number(&w->memory_mb, b->memory_mb, &changed);
    w->unserved = changed && is_crowded(f) && !make_way(f, w, now);
    if (w->unserved) {
        drop_offers(f, w);
        changed = !was_unserved;
        w->saved = was_unserved ? was_saved : w->saved;
    }
    *ret_changed = *ret_changed || changed;
}

struct beat_heard fleet_beat(struct fleet *f, const struct beat *b, int64_t now, int64_t wall,
                             const struct beat_effects *fx)
{
    struct fleet_worker *w = sender(f, &b->who, now);
    struct beat_heard heard = {.verdict = w ? judge(f, w, b, now) : BEAT_TOO_MANY, .worker = w};

    if (heard.verdict != BEAT_TAKEN) {
        return heard;
    }
    enum worker_state from = w->state;
    str_replace_owned(&w->host, b->host);
    str_replace_owned(&w->version, b->version);
    str_replace_owned(&w->reply, b->reply);
    w->saved = w->saved && w->who.inc == b->who.inc;
    if (is_used_again(w, b)) {
        w->contested_until = now + f->dead_after_ms;
    }
    take_offers(f, w, b, now, wall, &heard.changed);
    w->who.inc = b->who.inc;
    w->beat = b->beat;
    w->last_beat = now;
    w->last_beat_wall = wall;
    w->forget_at = now + WORKER_FORGET_MS;
    w->started_at = b->started_at;
    w->heartbeat_ms = b->heartbeat_ms;
    w->adapts = b->adapts;
    w->pid = b->pid;
    w->draining = b->draining;
    w->stopping = b->stopping;
    take_name(f, w, wall);
    offer(f, w, now);
    heard.changed = heard.changed || w->state != from;
    for (size_t i = 0; i < b->n_running; i++) {
        beat_lease(f, w, b, &b->running[i], now, fx);
    }
    if (now >= w->contested_until) {
        beat_missing(f, w, b, fx);
    }
    return heard;
}

bool fleet_drain(struct fleet *f, const char *node, bool drain)
{
    struct fleet_node *n = node_find(f, node);

    if (!n || n->drain == drain) {
        return false;
    }
    n->drain = drain;
    if (n->holder->state == WORKER_UP || n->holder->state == WORKER_DRAINING) {
        n->holder->state = state_of(n->holder);
        offer(f, n->holder, n->holder->last_beat);
    }
    return true;
}

/* It may soon offer something, and did not say what. */
static bool is_unheard(const struct fleet_worker *w, int64_t now)
{
    return w->state == WORKER_UNKNOWN || (w->node->holder == w && !w->could &&
                                          now < w->unsure_until && (is_gone(w) || w->takes_none));
}

bool fleet_order(struct fleet *f, const struct fleet_row *r, int64_t now)
{
    if (!fleet_find(f, r->who.node)) {
        if (is_full(f)) {
            return false;
        }
        struct fleet_worker *w = worker_get(f, &r->who, now);
        str_replace_owned(&w->host, r->host);
        w->last_beat_wall = r->seen_wall;
        w->slots = r->slots;
        /* Of one that goes on as it was the row is written now and then only. */
        w->state =
            r->state == WORKER_DEAD || r->state == WORKER_STOPPED ? r->state : WORKER_UNKNOWN;
        w->unsure_until -= MAX(r->wall - r->seen_wall, (int64_t)0);
        f->unheard += is_unheard(w, now);
    }
    return fleet_drain(f, r->who.node, r->drain);
}

bool fleet_is_whole(const struct fleet *f)
{
    return f->rows_read && f->unheard == 0;
}

void fleet_freeze(struct fleet *f, int64_t now)
{
    struct lease *l;
    struct lease *lt;
    struct fleet_worker *w;
    struct fleet_worker *wt;

    if (BROKEN(FREEZE)) {
        return;
    }
    f->frozen_until = now + f->dead_after_ms;
    HASH_ITER(hh, f->leases, l, lt)
    {
        l->deadline = MAX(l->deadline, deadline_from(f, l, now));
    }
    HASH_ITER(hh, f->workers, w, wt)
    {
        if (w->state == WORKER_UNKNOWN) {
            w->unknown_until = now + f->dead_after_ms;
        } else if (w->state != WORKER_DEAD && w->state != WORKER_STOPPED) {
            w->last_beat = now;
        }
    }
}

static int64_t beats_every(const struct fleet *f, const struct fleet_worker *w)
{
    return w->heartbeat_ms ? w->heartbeat_ms : f->heartbeat_ms;
}

/* More than half of a fleet that went silent at once is not dead: it is us, or the network. That
 * excuse holds for as long again as a silent worker is waited for. */
static bool too_many_silent(const struct fleet *f, int64_t now)
{
    int recent = 0;
    int silent = 0;

    for (const struct fleet_worker *w = f->workers; w; w = w->hh.next) {
        if (w->state != WORKER_STOPPED && w->last_beat != INT64_MIN &&
            now - w->last_beat <= 2 * f->dead_after_ms) {
            recent++;
            silent += now - w->last_beat > 2 * beats_every(f, w);
        }
    }
    return recent >= 4 && silent * 2 > recent;
}

static void drop_old_leases(struct fleet *f, int64_t now)
{
    struct lease *l;
    struct lease *lt;

    HASH_ITER(hh, f->leases, l, lt)
    {
        if (now > l->deadline) {
            lease_free(f, l);
        }
    }
}

const struct fleet_worker *fleet_slowest(const struct fleet *f)
{
    const struct fleet_worker *slowest = NULL;

    for (const struct fleet_worker *w = f->workers; w; w = w->hh.next) {
        if (worker_lives(w->state) && w->last_beat != INT64_MIN && !w->adapts &&
            (!slowest || beats_every(f, w) > beats_every(f, slowest))) {
            slowest = w;
        }
    }
    return slowest;
}

/* It is dead when it was silent for longer. One that beats less often than the setting supposes is
 * not dead between two beats: one of an earlier version goes by its file, others hear of the
 * setting with the answer to their next beat. */
static int64_t silence_allowed(const struct fleet *f, const struct fleet_worker *w)
{
    int64_t every = beats_every(f, w);

    if (every <= f->dead_after_ms / 3) {
        return f->dead_after_ms;
    }
    return w->adapts ? f->dead_after_ms + every : MAX(f->dead_after_ms, every * 5 / 2);
}

/* As time alone makes it. */
static enum worker_state aged(const struct fleet *f, const struct fleet_worker *w, int64_t now)
{
    int64_t silent = w->last_beat == INT64_MIN ? INT64_MAX : now - w->last_beat;
    int64_t two_missed = beats_every(f, w) * 5 / 2;

    if (w->state == WORKER_UNKNOWN) {
        return now > w->unknown_until ? WORKER_DEAD : WORKER_UNKNOWN;
    }
    return silent > silence_allowed(f, w) ? WORKER_DEAD
           : w->node->holder != w         ? WORKER_REFUSED
           : silent > two_missed          ? WORKER_SUSPECT
                                          : state_of(w);
}

static const char *why_run_out(const struct lease *l)
{
    const struct fleet_worker *holder = l->worker->node->holder;

    return holder != l->worker && worker_lives(holder->state)
               ? "its worker came back with another work directory: the lease ran out"
               : "its worker is silent: the lease ran out";
}

bool fleet_tick(struct fleet *f, int64_t now, bool reap,
                void (*on_state)(void *arg, struct fleet_worker *w, enum worker_state from),
                const struct beat_effects *fx, void *arg)
{
    struct lease *l;
    struct lease *lt;
    struct fleet_worker *w;
    struct fleet_worker *wt;

    f->unheard = 0;
    HASH_ITER(hh, f->workers, w, wt)
    {
        enum worker_state from = w->state;

        if (is_gone(w)) {
            f->unheard += is_unheard(w, now);
            if (list_linked(&w->absent.absent)) {
                offer_absent(f, w, now);
            }
            /* One that lost its name is nobody's business any more when it has nothing. */
            if ((now > w->forget_at || w->node->holder != w) && w->leases.count == 0) {
                worker_free(f, w);
            }
            continue;
        }
        w->state = aged(f, w, now);
        f->unheard += is_unheard(w, now);
        if (w->state != from) {
            offer(f, w, now);
            on_state(arg, w, from);
        }
    }
    if (!reap) {
        drop_old_leases(f, now);
        return true;
    }
    if (now < f->frozen_until) {
        return true;
    }
    if (too_many_silent(f, now)) {
        return false;
    }
    HASH_ITER(hh, f->leases, l, lt)
    {
        if (now > l->deadline) {
            lose(f, fx, l, why_run_out(l), false);
        }
    }
    return true;
}
