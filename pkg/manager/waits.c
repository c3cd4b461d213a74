/* Why a task does not run yet: for people who ask. Nothing here decides anything. */
#include "pkg/manager/waits.h"
#include "internal/clock.h"
#include "pkg/manager/mgr.h"

#include <stdio.h>

#define POOLS_NAMED   10
#define WORKERS_NAMED 3

static void because(struct waiting_for *w, const char *code, const char *fmt, ...) PRINTF(3, 4);
static void because(struct waiting_for *w, const char *code, const char *fmt, ...)
{
    va_list ap;

    w->code = code;
    va_start(ap, fmt);
    vsnprintf(w->text, sizeof(w->text), fmt, ap);
    va_end(ap);
    str_make_printable(w->text, sizeof(w->text));
}

static void name_pools(const struct manager *m, struct buf *b)
{
    int n = 0;

    for (const struct offers_pool *o = m->fleet.offers.pools; o; o = o->hh.next) {
        if (o->slots.workers && n++ < POOLS_NAMED) {
            buf_addf(b, "%s%s", n > 1 ? ", " : "; there are ", o->name);
        }
    }
    if (n == 0 && !m->fleet.workers) {
        buf_adds(b, "; there is no worker at all");
    } else if (n > POOLS_NAMED) {
        buf_adds(b, " and others");
    }
}

/* Why it does not take such tasks, or (type NULL) any; NULL: it says nothing of that. */
static const char *held_off(const struct fleet_worker *w, const char *type)
{
    for (size_t i = 0; i < json_array_size(w->hold_off); i++) {
        const json_t *one = json_array_get(w->hold_off, i);
        const char *of = json_get_string(one, "type");

        if (type ? streq(of, type) : !of) {
            return json_get_string(one, "reason");
        }
    }
    return NULL;
}

static const char *why_not(const struct fleet_worker *w, const char *type)
{
    static const char *const texts[WORKER_STATE_COUNT] = {
        [WORKER_DRAINING] = "draining",
        [WORKER_SUSPECT] = "silent",
        [WORKER_DEAD] = "dead",
        [WORKER_STOPPED] = "stopped",
        [WORKER_UNKNOWN] = "not heard yet",
        [WORKER_REFUSED] = "refused: another worker of its name lives",
    };
    const char *of_type = type ? held_off(w, type) : NULL;

    return w->state != WORKER_UP ? texts[w->state] : of_type ? of_type : held_off(w, NULL);
}

/* Those of the pool that do not take such tasks, or (type NULL) any, and say why. */
static void name_workers(const struct manager *m, const char *pool, const char *type, struct buf *b)
{
    int n = 0;

    for (const struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        bool may = names_have(w->pools, pool) &&
                   (!type || w->state == WORKER_UP || names_have(w->job_types, type));
        const char *why = may ? why_not(w, type) : NULL;

        if (why && n++ < WORKERS_NAMED) {
            buf_addf(b, "; %s: %s", w->who.node, why);
        }
    }
    if (n > WORKERS_NAMED) {
        buf_addf(b, "; and %d others", n - WORKERS_NAMED);
    }
}

/* Slots are said where more than one is asked for, or nothing else. */
static struct room worth_saying(const struct room *asked)
{
    struct room kinds = *asked;

    if (kinds.slots <= 1) {
        kinds.slots = !kinds.cpus_milli && !kinds.memory_mb;
    }
    return kinds;
}

/* Of the kinds that are not 0. */
static void write_room(struct buf *b, const struct room *kinds, const struct room *r)
{
    const char *sep = "";

    if (kinds->slots) {
        buf_addf(b, "%lld slot%s", (long long)r->slots, r->slots == 1 ? "" : "s");
        sep = ", ";
    }
    if (kinds->cpus_milli) {
        buf_addf(b, "%s%g CPU%s", sep, (double)r->cpus_milli / 1000,
                 r->cpus_milli == 1000 ? "" : "s");
        sep = ", ";
    }
    if (kinds->memory_mb) {
        buf_addf(b, "%s%lld MiB", sep, (long long)r->memory_mb);
    }
}

static void too_large(const struct offers_pool *o, const struct need *n, struct waiting_for *ret)
{
    struct buf b CLEANUP(buf_free) = {0};
    const struct offer *closest = offers_closest(o, n);
    struct room room = offers_room(closest);
    struct room kinds = worth_saying(&n->room);

    buf_init(&b, sizeof(ret->text));
    buf_adds(&b, "it needs ");
    write_room(&b, &kinds, &n->room);
    buf_addf(&b, "; no worker has all of that, %s comes closest with ",
             CONTAINER_OF_CONST(closest, struct fleet_worker, offer)->who.node);
    write_room(&b, &kinds, &room);
    because(ret, "doesNotFit", "%s", b.data);
}

/* How much of these kinds it has given away. */
static void write_taken(struct buf *b, const struct room *kinds, const struct fleet_worker *w)
{
    struct room all = offers_room(&w->offer);
    struct room used = w->offer.used;
    bool one = !!kinds->slots + !!kinds->cpus_milli + !!kinds->memory_mb == 1;
    const char *sep = "";

    room_add(&used, &w->offer.directed, 1);
    buf_addf(b, "%s: ", w->who.node);
    if (kinds->slots) {
        buf_addf(b, "%lld of %lld%s", (long long)used.slots, (long long)all.slots,
                 one ? "" : " slots");
        sep = ", ";
    }
    if (kinds->cpus_milli) {
        buf_addf(b, "%s%g of %g%s", sep, (double)used.cpus_milli / 1000,
                 (double)all.cpus_milli / 1000, one ? "" : " CPUs");
        sep = ", ";
    }
    if (kinds->memory_mb) {
        buf_addf(b, "%s%lld of %lld%s", sep, (long long)used.memory_mb, (long long)all.memory_mb,
                 one ? "" : " MiB");
    }
    buf_adds(b, " taken");
}

/* Those that could take it; n NULL: any. */
static void name_busy(const struct manager *m, const char *pool, const struct need *n,
                      const struct room *kinds, struct buf *b)
{
    int count = 0;

    for (const struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        if (offers_is_live(&w->offer) && names_have(w->pools, pool) &&
            (!n || offers_takes(&w->offer, n)) && count++ < WORKERS_NAMED) {
            buf_adds(b, count > 1 ? "; " : " (");
            write_taken(b, kinds, w);
        }
    }
    if (count > WORKERS_NAMED) {
        buf_addf(b, "; and %d more", count - WORKERS_NAMED);
    }
    buf_adds(b, count ? ")" : "");
}

static void name_draining(const struct manager *m, const char *pool, const char *type,
                          struct buf *b)
{
    const char *names[WORKERS_NAMED];
    int count = 0;

    for (const struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        if (w->state == WORKER_DRAINING && names_have(w->pools, pool) &&
            (!type || names_have(w->job_types, type)) && count++ < WORKERS_NAMED) {
            names[count - 1] = w->who.node;
        }
    }
    for (int i = 0; i < MIN(count, WORKERS_NAMED); i++) {
        buf_addf(b, "%s%s", i == 0 ? "; " : i + 1 == count ? " and " : ", ", names[i]);
    }
    if (count > WORKERS_NAMED) {
        buf_addf(b, " and %d more", count - WORKERS_NAMED);
    }
    if (count) {
        buf_addf(b, " %s draining", count == 1 ? "is" : "are");
    }
}

static void busy(const struct manager *m, const struct offers_pool *o, const struct need *n,
                 struct waiting_for *ret)
{
    struct room asked = n ? n->room : (struct room){.slots = 1};
    struct room missing = n ? offers_missing(o, n) : asked;
    struct room kinds = {missing.slots > 0, missing.cpus_milli > 0, missing.memory_mb > 0};
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, sizeof(ret->text));
    if (kinds.slots || kinds.cpus_milli || kinds.memory_mb) {
        buf_adds(&b, "no worker has ");
        write_room(&b, &kinds, &asked);
        buf_adds(&b, " free now");
        name_busy(m, o->name, n, &kinds, &b);
    } else {
        buf_adds(&b, "all workers that could take it are busy");
    }
    name_draining(m, o->name, n ? n->type : NULL, &b);
    because(ret, "busy", "%s", b.data);
}

static void name_node(void *arg, const char *node)
{
    struct buf *b = arg;

    buf_addf(b, "%s%s", b->len ? ", " : "", node);
}

/* Those that it waits for. */
static void name_absent(const struct manager *m, const char *pool, const struct need *n,
                        struct buf *b)
{
    int count = 0;

    for (const struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        const struct offer *o = &w->absent;

        if (list_linked(&o->absent) && !o->avoided && names_have(w->pools, pool) &&
            offers_takes(o, n) && count++ < WORKERS_NAMED) {
            const char *why = why_not(w, n->type);

            buf_addf(b, "; %s: %s", w->who.node, why ? why : "not now");
        }
    }
    if (count > WORKERS_NAMED) {
        buf_addf(b, "; and %d others", count - WORKERS_NAMED);
    }
}

/* It goes to a worker that has not given it back, where there is one, or may soon be one. */
static bool elsewhere(struct manager *m, const struct offers_pool *o, const struct need *n,
                      const struct waits_back *back, struct waiting_for *ret)
{
    struct fleet *f = &m->fleet;
    struct buf by CLEANUP(buf_free) = {0};
    struct buf absent CLEANUP(buf_free) = {0};
    bool patient = mgr_now(m) < back->run_after + fleet_patience_ms(f);

    buf_init(&by, sizeof(ret->text));
    buf_init(&absent, sizeof(ret->text));
    task_nodes_each(back->returned_by, name_node, &by);
    fleet_avoid(f, back->returned_by, back->submitted_at, true);
    bool others = offers_fits_elsewhere(o, n);
    bool soon = !others && patient && offers_fits_absent(o, n);
    bool waits = soon || ((others || !fleet_is_whole(f)) && !offers_pick(o, n));
    if (soon) {
        name_absent(m, o->name, n, &absent);
    }
    fleet_avoid(f, back->returned_by, back->submitted_at, false);
    if (waits) {
        because(ret, "elsewhere", "it was given back by %s, and %s%s", by.data,
                others ? "all others that could take it are busy"
                : soon ? "waits a while for others that could take it"
                       : "waits for the other workers, which were not heard yet",
                absent.len ? absent.data : "");
    }
    return waits;
}

bool waits_reason(struct manager *m, const char *pool, bool paused, const struct need *n,
                  const struct waits_back *back, struct waiting_for *ret)
{
    const struct offers_pool *o = offers_find(&m->fleet.offers, pool);
    struct buf b CLEANUP(buf_free) = {0};

    if (paused) {
        because(ret, "poolPaused", "the pool is paused");
    } else if (!o || o->slots.workers == 0) {
        buf_init(&b, sizeof(ret->text));
        name_workers(m, pool, NULL, &b);
        if (b.len == 0) {
            name_pools(m, &b);
        }
        because(ret, "noWorkerOfPool", "no worker that takes work serves the pool %s%s", pool,
                b.len ? b.data : "");
    } else if (n && !offers_type(o, n->type)) {
        buf_init(&b, sizeof(ret->text));
        name_workers(m, pool, n->type, &b);
        because(ret, "noWorkerOffersType", "no worker of the pool %s offers %s now%s", pool,
                n->type, b.len ? b.data : "");
    } else if (n && !offers_fits(o, n)) {
        too_large(o, n, ret);
    } else if (!m->pub || !mq_is_up(m->pub)) {
        because(ret, "brokerAway", "the broker is away");
    } else if (n && back->returned_by && elsewhere(m, o, n, back, ret)) {
        return true;
    } else if (o->slots.available <= 0 || (n && !offers_pick(o, n))) {
        busy(m, o, n, ret);
    } else {
        return false;
    }
    return true;
}

bool manager_waiting_for(struct manager *m, const struct task *t, struct waiting_for *ret)
{
    struct feed_pool_info info = {0};
    struct need need = {t->job_type, {t->slots, t->cpus_milli, t->memory_mb}};
    struct waits_back back = {t->returned_by, t->submitted_at, t->run_after};
    char time[CLOCK_TEXT_LEN];

    switch (t->state) {
    case TASK_SCHEDULED:
        clock_format(t->run_after, time);
        because(ret, "notBefore", "not before %s", time);
        return true;
    case TASK_READY:
    case TASK_FED:
        (void)feed_look(m->feed, t->pool, &info);
        if (waits_reason(m, t->pool, info.paused, &need, &back, ret)) {
            return true;
        }
        if (feed_is_behind(m->feed, t)) {
            because(ret, "behindOthers", "others that the same workers could take come first");
            return true;
        }
        return false;
    case TASK_RUNNING:
    case TASK_SUCCEEDED:
    case TASK_FAILED:
    case TASK_CANCELLED:
    case TASK_DEAD:
        break;
    }
    return false;
}
