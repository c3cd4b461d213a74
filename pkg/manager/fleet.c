#include "pkg/manager/fleet.h"

#include "internal/broken.h"

#include <stdlib.h>

static const char *const state_names[] = {"UP", "DRAINING", "SUSPECT", "DEAD", "STOPPED"};

const char *worker_state_name(enum worker_state s)
{
    return state_names[s];
}

static void strings_free(char **list)
{
    for (size_t i = 0; list && list[i]; i++) {
        free(list[i]);
    }
    free(list);
}

static char **strings_of(const json_t *array)
{
    size_t n = json_array_size(array);
    char **list = xcalloc(n + 1, sizeof(*list));
    size_t used = 0;

    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(array, i));

        if (s) {
            list[used++] = xstrdup(s);
        }
    }
    return list;
}

void fleet_init(struct fleet *f, int64_t dead_after_ms)
{
    *f = (struct fleet){.dead_after_ms = dead_after_ms};
}

static void lease_free(struct fleet *f, struct lease *l)
{
    HASH_DEL(f->leases, l);
    list_remove(&l->node);
    l->worker->used -= l->slots;
    free(l->pool);
    free(l->application_id);
    free(l->ui_url);
    free(l->phase);
    free(l->progress);
    free(l);
}

static void worker_free(struct fleet *f, struct fleet_worker *w)
{
    MUST(w->leases.count == 0);
    HASH_DEL(f->workers, w);
    free(w->id);
    free(w->host);
    free(w->version);
    free(w->reply);
    strings_free(w->pools);
    strings_free(w->job_types);
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
}

struct fleet_worker *fleet_find(struct fleet *f, const char *id)
{
    struct fleet_worker *w = NULL;

    HASH_FIND_STR(f->workers, id, w);
    return w;
}

static bool is_full(const struct fleet *f)
{
    return HASH_COUNT(f->workers) >= FLEET_MAX;
}

static struct fleet_worker *worker_get(struct fleet *f, const char *id, int64_t now)
{
    struct fleet_worker *w = fleet_find(f, id);

    if (!w) {
        w = xmalloc(sizeof(*w));
        w->id = xstrdup(id);
        w->host = xstrdup("");
        w->state = WORKER_DEAD; /* until it beats */
        w->last_beat = INT64_MIN;
        list_init(&w->leases);
        w->forget_at = now + WORKER_FORGET_MS;
        HASH_ADD_KEYPTR(hh, f->workers, w->id, strlen(w->id), w);
    }
    return w;
}

struct lease *fleet_lease(struct fleet *f, const struct id *task)
{
    struct lease *l = NULL;

    HASH_FIND(hh, f->leases, task, sizeof(*task), l);
    return l;
}

/* Whoever led before may renew it once more than we know. */
static int64_t deadline_from(const struct fleet *f, const struct lease *l, int64_t now)
{
    int64_t margin = BROKEN(MARGIN) ? 0 : LEASE_MARGIN_MS;

    return MAX(now, f->other_until) + l->lease_ms + margin;
}

struct lease *fleet_grant(struct fleet *f, const struct task *row, int64_t now)
{
    struct lease *l = fleet_lease(f, &row->id);

    if (l && (l->hearsay || l->attempt != row->attempt || l->token != row->token ||
              !streq(l->worker->id, row->who.node))) {
        lease_free(f, l);
        l = NULL;
    }
    if (!l) {
        l = xmalloc(sizeof(*l));
        l->task = row->id;
        l->attempt = row->attempt;
        l->token = row->token;
        l->slots = row->slots;
        l->pool = xstrdup(row->pool);
        l->application_id = xstrdup(row->application_id);
        l->progress = xstrdup(row->progress);
        l->lease_ms = row->lease_s ? (int64_t)row->lease_s * 1000 : f->dead_after_ms;
        l->worker = worker_get(f, row->who.node, now);
        l->worker->used += l->slots;
        list_push(&l->worker->leases, &l->node);
        HASH_ADD(hh, f->leases, task, sizeof(l->task), l);
        l->deadline = deadline_from(f, l, now);
    }
    l->application_told = l->application_told ||
                          (row->application_id && streq(l->application_id, row->application_id));
    l->inc = row->who.inc;
    l->claim_beat = MAX(l->claim_beat, row->claim_beat);
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

/* What it takes is not known here. */
static struct lease *believe(struct fleet *f, const struct beat *b, const struct beat_run *r,
                             int64_t now)
{
    struct task row = {
        .id = r->task, .attempt = r->attempt, .token = r->token, .slots = 1, .who = b->who};

    if (HASH_COUNT(f->leases) >= HEARSAY_MAX || streq(r->phase, "ended")) {
        return NULL;
    }
    struct lease *l = fleet_grant(f, &row, now);
    l->hearsay = true;
    return l;
}

static void beat_lease(struct fleet *f, const struct beat *b, const struct beat_run *r, int64_t now,
                       const struct beat_effects *fx)
{
    struct lease *l = fleet_lease(f, &r->task);

    if (l && (l->hearsay ? fx->unknown || l->attempt != r->attempt
                         : !fx->unknown && l->attempt < r->attempt)) {
        lease_free(f, l); /* the row is to tell, or ours is the old one */
        l = NULL;
    }
    if (!l && !fx->unknown) {
        l = believe(f, b, r, now);
    }
    if (!l) {
        if (fx->unknown) {
            fx->unknown(fx->arg, r);
        }
        return;
    }
    if (l->attempt != r->attempt || l->token != r->token || !streq(l->worker->id, b->who.node)) {
        if (l->attempt < r->attempt) {
            if (fx->unknown) {
                fx->unknown(fx->arg, r); /* ours is the old one */
            }
        } else if (fx->revoke) {
            fx->revoke(fx->arg, r);
        }
        return;
    }
    if (l->lost) {
        if (fx->unknown) {
            fx->unknown(fx->arg, r); /* given up, and that may be written already */
        }
        return;
    }
    l->seen_beat = b->beat;
    l->deadline = deadline_from(f, l, now);
    if (l->inc < b->who.inc) {
        l->inc = b->who.inc;
        l->claim_beat = 0;
        if (fx->survived) {
            fx->survived(fx->arg, l, b);
        }
    }
    if (r->application_id && !streq(l->application_id, r->application_id)) {
        str_replace_owned(&l->application_id, r->application_id);
        l->application_told = false;
    }
    if (r->application_id && !l->application_told && fx->application) {
        l->application_told = true;
        fx->application(fx->arg, l, r->application_id);
    }
    str_replace_owned(&l->ui_url, r->ui_url);
    str_replace_owned(&l->phase, r->phase);
    if (r->progress) {
        free(l->progress);
        l->progress = json_text(r->progress);
    }
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

static enum worker_state state_of(const struct fleet_worker *w)
{
    return w->stopping ? WORKER_STOPPED : w->drain || w->draining ? WORKER_DRAINING : WORKER_UP;
}

struct fleet_worker *fleet_beat(struct fleet *f, const struct beat *b, int64_t now, int64_t wall,
                                const struct beat_effects *fx, bool *ret_changed)
{
    struct fleet_worker *w = fleet_find(f, b->who.node);

    if (w ? b->who.inc < w->who.inc || (b->who.inc == w->who.inc && b->beat <= w->beat)
          : is_full(f)) {
        return NULL;
    }
    w = worker_get(f, b->who.node, now);
    str_replace_owned(&w->host, b->host);
    str_replace_owned(&w->version, b->version);
    str_replace_owned(&w->reply, b->reply);
    strings_free(w->pools);
    strings_free(w->job_types);
    w->pools = strings_of(b->pools);
    w->job_types = strings_of(b->job_types);
    w->saved = w->saved && w->who.inc == b->who.inc;
    w->who = b->who;
    w->beat = b->beat;
    w->last_beat = now;
    w->last_beat_wall = wall;
    w->forget_at = now + WORKER_FORGET_MS;
    w->started_at = b->started_at;
    w->pid = b->pid;
    w->slots = b->slots;
    w->cpus = b->cpus;
    w->memory_mb = b->memory_mb;
    w->draining = b->draining;
    w->stopping = b->stopping;
    *ret_changed = w->state != state_of(w);
    w->state = state_of(w);
    for (size_t i = 0; i < b->n_running; i++) {
        beat_lease(f, b, &b->running[i], now, fx);
    }
    beat_missing(f, w, b, fx);
    return w;
}

bool fleet_order(struct fleet *f, const char *id, const char *host, bool drain, int64_t seen_wall,
                 int64_t now)
{
    bool known = fleet_find(f, id) != NULL;

    if (!known && is_full(f)) {
        return false;
    }
    struct fleet_worker *w = worker_get(f, id, now);
    if (!known) {
        str_replace_owned(&w->host, host);
        w->last_beat_wall = seen_wall;
    }
    if (w->drain == drain) {
        return false;
    }
    w->drain = drain;
    if (w->state == WORKER_UP || w->state == WORKER_DRAINING) {
        w->state = state_of(w);
    }
    return true;
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
        if (w->state != WORKER_DEAD && w->state != WORKER_STOPPED) {
            w->last_beat = now;
        }
    }
}

/* More than half of a fleet that went silent at once is not dead: it is us, or the network. That
 * excuse holds for as long again as a silent worker is waited for. */
static bool too_many_silent(const struct fleet *f, int64_t now, int64_t heartbeat_ms)
{
    int recent = 0;
    int silent = 0;

    for (const struct fleet_worker *w = f->workers; w; w = w->hh.next) {
        if (w->state != WORKER_STOPPED && w->last_beat != INT64_MIN &&
            now - w->last_beat <= 2 * f->dead_after_ms) {
            recent++;
            silent += now - w->last_beat > 2 * heartbeat_ms;
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

bool fleet_tick(struct fleet *f, int64_t now, int64_t heartbeat_ms, bool reap,
                void (*on_state)(void *arg, struct fleet_worker *w, enum worker_state from),
                const struct beat_effects *fx, void *arg)
{
    struct lease *l;
    struct lease *lt;
    struct fleet_worker *w;
    struct fleet_worker *wt;

    HASH_ITER(hh, f->workers, w, wt)
    {
        enum worker_state from = w->state;
        int64_t silent = w->last_beat == INT64_MIN ? INT64_MAX : now - w->last_beat;

        if (from == WORKER_DEAD || from == WORKER_STOPPED) {
            if (now > w->forget_at && w->leases.count == 0) {
                worker_free(f, w);
            }
            continue;
        }
        w->state = silent > f->dead_after_ms       ? WORKER_DEAD
                   : silent > heartbeat_ms * 5 / 2 ? WORKER_SUSPECT
                                                   : state_of(w);
        if (w->state != from) {
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
    if (too_many_silent(f, now, heartbeat_ms)) {
        return false;
    }
    HASH_ITER(hh, f->leases, l, lt)
    {
        if (now > l->deadline) {
            lose(f, fx, l, "its worker is silent: the lease ran out", false);
        }
    }
    return true;
}

bool fleet_serves(const struct fleet_worker *w, const char *pool)
{
    for (size_t i = 0; w->pools && w->pools[i]; i++) {
        if (strcmp(w->pools[i], pool) == 0) {
            return true;
        }
    }
    return false;
}

struct fleet_slots fleet_slots(const struct fleet *f, const char *pool)
{
    struct fleet_slots s = {0};

    for (const struct fleet_worker *w = f->workers; w; w = w->hh.next) {
        if (w->state == WORKER_UP && fleet_serves(w, pool)) {
            s.smallest = s.workers ? MIN(s.smallest, w->slots) : w->slots;
            s.largest = MAX(s.largest, w->slots);
            s.total += w->slots;
            s.available += MAX(w->slots - w->used, 0);
            s.workers++;
        }
    }
    return s;
}
