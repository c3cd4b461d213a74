/* READY tasks from the database, up to and then behind the horizon; what an earlier leader fed. */
#include "pkg/manager/feed_priv.h"
#include "pkg/manager/store.h"

#include "internal/clock.h"

#include <limits.h>
#include <stdlib.h>

#define SCAN_LIMIT 1000

struct scan {
    struct feed *feed;
    char *pool;
    uint64_t run;
    bool from_start;
};

static void take_row(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct feed_hint *e = feed_hint_find(f, &row->id);
    const struct task *known = ledger_peek(f->o.ledger, &row->id);

    if (e || (known && known->seq > row->seq)) {
        return;
    }
    ledger_offer(f->o.ledger, row);
    feed_hint_set(feed_hint_new(f, p, row), HELD);
}

static void on_scanned(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct scan *s = arg;
    struct feed *f = s->feed;
    struct feed_pool *p = feed_pool_find(f, s->pool);

    (void)why; /* a database that is away is reported by its owner; the next tick scans again */
    f->open_calls--;
    if (s->run == f->run && p) {
        p->scans--;
        if (rc == 0) {
            for (size_t i = 0; i < n; i++) {
                take_row(f, p, &rows[i]);
            }
            if (n < SCAN_LIMIT) {
                p->complete = true;
            } else if (p->complete || feed_before(p->horizon_rank, &p->horizon_id, rows[n - 1].rank,
                                                  &rows[n - 1].id)) {
                p->complete = false;
                p->horizon_rank = rows[n - 1].rank;
                p->horizon_id = rows[n - 1].id;
            }
            if (p->missed && (p->complete || !feed_before(p->horizon_rank, &p->horizon_id,
                                                          p->missed_rank, &p->missed_id))) {
                p->rescan = true;
            }
            p->missed = p->missed && p->scans;
            feed_pool_trim(f, p);
            feed_pool_step(p);
        }
    }
    free(s->pool);
    free(s);
}

void feed_scan_ready(struct feed_pool *p, bool from_start)
{
    struct feed *f = p->feed;
    static const struct id first = {{0}};
    struct scan *s = xmalloc(sizeof(*s));
    int largest = fleet_slots(f->o.fleet, p->name).largest;

    *s = (struct scan){f, xstrdup(p->name), f->run, from_start};
    if (from_start) {
        p->rescan = false;
    }
    p->fits = p->fits < 0 ? largest : MIN(p->fits, largest);
    int rc =
        store_scan_queue(f->o.db, TASK_READY, p->name, from_start ? INT64_MIN : p->horizon_rank,
                         from_start ? &first : &p->horizon_id, p->fits, SCAN_LIMIT, on_scanned, s);
    if (rc < 0) {
        free(s->pool);
        free(s);
        return;
    }
    p->scans++;
    f->open_calls++;
}

static void on_fed_scanned(void *arg, int rc, const struct task *rows, size_t n,
                           const struct err *why)
{
    struct scan *s = arg;
    struct feed *f = s->feed;
    struct feed_pool *p = feed_pool_find(f, s->pool);

    (void)why;
    f->open_calls--;
    if (s->run == f->run && p) {
        p->fed_asked = false;
        p->fed_known = rc == 0;
        for (size_t i = 0; rc == 0 && i < n; i++) {
            if (!feed_hint_find(f, &rows[i].id)) {
                struct feed_hint *e = feed_hint_new(f, p, &rows[i]);

                e->since = clock_boot_ms();
                feed_hint_set(e, FED);
                feed_hint_join(e, xcalloc(1, sizeof(*e->message)));
                list_remove(&e->mark); /* it is marked */
            }
        }
    }
    free(s->pool);
    free(s);
}

void feed_scan_fed(struct feed_pool *p)
{
    struct feed *f = p->feed;
    static const struct id first = {{0}};

    if (p->fed_known || p->fed_asked) {
        return;
    }
    struct scan *s = xmalloc(sizeof(*s));
    *s = (struct scan){f, xstrdup(p->name), f->run, true};
    if (store_scan_queue(f->o.db, TASK_FED, p->name, INT64_MIN, &first, INT_MAX, FEED_WINDOW_MAX,
                         on_fed_scanned, s) < 0) {
        free(s->pool);
        free(s);
        return; /* the next rescan asks again */
    }
    p->fed_asked = true;
    f->open_calls++;
}
