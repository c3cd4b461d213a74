/* Why a task does not run yet: for people who ask. Nothing here decides anything. */
#include "pkg/manager/waits.h"
#include "internal/clock.h"
#include "pkg/manager/mgr.h"

#include <stdio.h>

#define POOLS_NAMED 10

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
    buf_adds(b, n == 0 ? "; there is no worker at all" : n > POOLS_NAMED ? " and others" : "");
}

static void write_room(struct buf *b, const struct room *asked, const struct room *r)
{
    const char *sep = "";

    if (asked->slots > 1 || (asked->cpus_milli == 0 && asked->memory_mb == 0)) {
        buf_addf(b, "%lld slot%s", (long long)r->slots, r->slots == 1 ? "" : "s");
        sep = ", ";
    }
    if (asked->cpus_milli) {
        buf_addf(b, "%s%g CPUs", sep, (double)r->cpus_milli / 1000);
        sep = ", ";
    }
    if (asked->memory_mb) {
        buf_addf(b, "%s%lld MiB", sep, (long long)r->memory_mb);
    }
}

static void too_large(const struct offers_pool *o, const struct need *n, struct waiting_for *ret)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct room most = offers_most(o, n->type);

    buf_init(&b, sizeof(ret->text));
    buf_adds(&b, "it needs ");
    write_room(&b, &n->room, &n->room);
    buf_adds(&b, ", the most that one worker offers is ");
    write_room(&b, &n->room, &most);
    because(ret, "doesNotFit", "%s", b.data);
}

bool waits_reason(const struct manager *m, const char *pool, bool paused, const struct need *n,
                  struct waiting_for *ret)
{
    const struct offers_pool *o = offers_find(&m->fleet.offers, pool);
    struct buf b CLEANUP(buf_free) = {0};

    if (paused) {
        because(ret, "poolPaused", "the pool is paused");
    } else if (!o || o->slots.workers == 0) {
        buf_init(&b, sizeof(ret->text));
        name_pools(m, &b);
        because(ret, "noWorkerOfPool", "no worker that takes work serves the pool %s%s", pool,
                b.data);
    } else if (n && !offers_type(o, n->type)) {
        because(ret, "noWorkerOffersType", "no worker of the pool %s offers %s now", pool, n->type);
    } else if (n && !offers_fits(o, n)) {
        too_large(o, n, ret);
    } else if (!m->pub || !mq_is_up(m->pub)) {
        because(ret, "brokerAway", "the broker is away");
    } else if (o->slots.available <= 0 || (n && !offers_pick(o, n))) {
        because(ret, "busy", "all workers that could take it are busy");
    } else {
        return false;
    }
    return true;
}

bool manager_waiting_for(const struct manager *m, const struct task *t, struct waiting_for *ret)
{
    struct feed_pool_info info = {0};
    struct need need = {t->job_type, {t->slots, t->cpus_milli, t->memory_mb}};
    char time[CLOCK_TEXT_LEN];

    switch (t->state) {
    case TASK_SCHEDULED:
        clock_format(t->run_after, time);
        because(ret, "notBefore", "not before %s", time);
        return true;
    case TASK_READY:
    case TASK_FED:
        (void)feed_look(m->feed, t->pool, &info);
        return waits_reason(m, t->pool, info.paused, &need, ret);
    case TASK_RUNNING:
    case TASK_SUCCEEDED:
    case TASK_FAILED:
    case TASK_CANCELLED:
    case TASK_DEAD:
        break;
    }
    return false;
}
