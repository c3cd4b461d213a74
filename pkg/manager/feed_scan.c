/* READY tasks from the database, up to and then behind the horizon; what an earlier leader fed. */
#include "pkg/manager/feed_priv.h"
#include "pkg/manager/store.h"

#include "internal/clock.h"
#include "internal/log.h"

#include <stdlib.h>

#define SCAN_LIMIT    1000
#define FAILED_MS     1000
#define FAILURES_TOLD 60 /* the first of so many in a row */
#define REST          20 /* times as long as a scan took, before the same is looked for again */
#define REST_MAX_MS   60000
#define TOLD_NEAR_MS  500 /* of rank */

static const struct id first;

struct scan {
    struct feed *feed;
    char *pool;
    uint64_t run;
    /* of one lane */
    uint64_t shape;
    size_t lane;
    bool told;
    int64_t rank;
    struct id after;
    int64_t sent;  /* boot ms */
    int64_t spent; /* ms, in the statements before: what lay between them is not the database's */
};

static struct scan *scan_new(const struct feed_pool *p)
{
    struct scan *s = xmalloc(sizeof(*s));

    *s = (struct scan){.feed = p->feed,
                       .pool = xstrdup(p->name),
                       .run = p->feed->run,
                       .shape = p->shape,
                       .rank = INT64_MIN,
                       .sent = clock_boot_ms()};
    return s;
}

static void scan_free(struct scan *s)
{
    free(s->pool);
    free(s);
}

static void take_row(struct feed *f, struct feed_pool *p, const struct task *row)
{
    struct feed_hint *e = feed_hint_find(f, &row->id);
    const struct task *known = ledger_peek(f->o.ledger, &row->id);

    if (e || (known && known->seq > row->seq)) {
        return;
    }
    ledger_offer(f->o.ledger, row);
    feed_hint_hold(feed_hint_new(f, p, row));
}

/* How far the lane is known now. */
static void move_horizon(struct feed_lane *l, const struct scan *s, const struct task *last,
                         bool all)
{
    if (!l->complete && feed_before(l->horizon_rank, &l->horizon_id, s->rank, &s->after)) {
        return; /* it was trimmed meanwhile: between there and here may be more */
    }
    if (all && l->holes) {
        l->holes = false;
        l->horizon_rank = INT64_MIN;
        l->horizon_id = first;
        l->scan_at = l->rotate_at;
    } else if (all) {
        l->complete = true;
    } else if (l->complete || feed_before(l->horizon_rank, &l->horizon_id, last->rank, &last->id)) {
        l->complete = false;
        l->horizon_rank = last->rank;
        l->horizon_id = last->id;
    }
}

static size_t take_rows(struct feed_lane *l, const struct task *rows, size_t n)
{
    size_t taken = 0;

    for (size_t i = 0; i < n; i++) {
        struct need need = {rows[i].job_type ? rows[i].job_type : "",
                            {rows[i].slots, rows[i].cpus_milli, rows[i].memory_mb}};

        if (offers_filter_takes(&l->filter, &need)) {
            take_row(l->pool->feed, l->pool, &rows[i]);
            taken++;
        }
    }
    return taken;
}

static int64_t spent(const struct scan *s)
{
    return s->spent + clock_boot_ms() - s->sent;
}

static void go_on(struct feed_lane *l, int64_t rank, const struct id *id, int64_t spent_ms)
{
    l->walks = true;
    l->walk_rank = rank;
    l->walk_id = *id;
    l->walk_spent = spent_ms;
}

/* It looked at many rows that are none of this lane, within what the lane knows: what comes new is
 * not to wait until it has looked at the rest. */
static bool walk(struct feed_lane *l, const struct scan *s, const struct task *last)
{
    if (l->complete || feed_before(last->rank, &last->id, l->horizon_rank, &l->horizon_id)) {
        go_on(l, last->rank, &last->id, spent(s));
    }
    return l->walks;
}

/* What is read on behind the horizon, because little of it stays, belongs to the same reading. */
static void rest(struct feed_lane *l, const struct scan *s, bool all)
{
    int64_t ms = spent(s);
    int64_t until = clock_boot_ms() + MIN(REST * ms, REST_MAX_MS + 2 * ms);

    if (s->told) {
        l->told_at = until;
    } else {
        l->rescan_at = until;
        l->read_spent = all || feed_lane_is_full(l) ? 0 : ms;
    }
}

static void lane_scanned(struct feed_lane *l, const struct scan *s, const struct task *rows,
                         size_t n, bool all)
{
    struct feed_pool *p = l->pool;
    size_t taken = take_rows(l, rows, n);

    l->failures = 0;
    if (s->told && !all && taken < SCAN_LIMIT) {
        rest(l, s, all); /* what was told is near that rank: it is not gone on behind it */
    } else if (all || taken == SCAN_LIMIT || !walk(l, s, &rows[n - 1])) {
        rest(l, s, all);
        move_horizon(l, s, n ? &rows[n - 1] : NULL, all);
    }
    if (l->missed && (l->complete || !feed_before(l->horizon_rank, &l->horizon_id, l->missed_rank,
                                                  &l->missed_id))) {
        feed_lane_told(l, l->missed_rank);
        l->told_at = 0;
    }
    l->missed = l->missed && l->scans;
    for (size_t i = 0; i < p->n_lanes; i++) {
        feed_lane_trim(&p->lanes[i]);
    }
    feed_pool_step(p);
}

/* A database that is away is reported by its owner. */
static void lane_failed(struct feed_lane *l, const struct scan *s, int rc, const struct err *why)
{
    if (s->told) {
        feed_lane_told(l, s->rank);
    } else {
        go_on(l, s->rank, &s->after, s->spent);
    }
    l->scan_at = clock_boot_ms() + FAILED_MS;
    if (rc != ERR_DB_DOWN && l->failures++ % FAILURES_TOLD == 0) {
        log_warn(NULL,
                 "pool %s: READY tasks could not be read from the database, which is tried again "
                 "every second; what is not read is not started: %s",
                 l->pool->name, why ? why->text : "no reason was given");
    }
}

static void on_scanned(void *arg, int rc, const struct task *rows, size_t n, bool all,
                       const struct err *why)
{
    struct scan *s = arg;
    struct feed *f = s->feed;
    struct feed_pool *p = feed_pool_find(f, s->pool);

    f->open_calls--;
    if (s->run == f->run && p) {
        p->scans--;
        if (p->shape == s->shape) {
            p->lanes[s->lane].scans--;
        }
        if (p->shape == s->shape && rc == 0) {
            lane_scanned(&p->lanes[s->lane], s, rows, n, all);
        } else if (p->shape == s->shape) {
            lane_failed(&p->lanes[s->lane], s, rc, why);
        } else {
            feed_pool_step(p); /* others may scan now */
        }
    }
    scan_free(s);
}

static void scan(struct feed_lane *l, int64_t rank, const struct id *after, bool told,
                 int64_t spent_ms)
{
    struct feed_pool *p = l->pool;
    struct scan *s = scan_new(p);

    s->lane = (size_t)(l - p->lanes);
    s->told = told;
    s->rank = rank;
    s->after = *after;
    s->spent = spent_ms;
    if (store_scan_ready(p->feed->o.db, p->name, rank, after, &l->filter, SCAN_LIMIT, on_scanned,
                         s) < 0) {
        scan_free(s);
        return;
    }
    l->scans++;
    p->scans++;
    p->feed->open_calls++;
}

void feed_scan_more(struct feed_lane *l)
{
    scan(l, l->horizon_rank, &l->horizon_id, false, l->read_spent);
}

void feed_scan_again(struct feed_lane *l)
{
    l->rescan = false;
    l->n_told = 0;
    scan(l, INT64_MIN, &first, false, 0);
}

void feed_scan_on(struct feed_lane *l)
{
    l->walks = false;
    scan(l, l->walk_rank, &l->walk_id, false, l->walk_spent);
}

static bool will_be_read(const struct feed_lane *l, int64_t rank)
{
    return !l->complete && feed_before(l->horizon_rank, &l->horizon_id, rank, &first);
}

void feed_scan_told(struct feed_lane *l)
{
    int64_t rank = l->told[0];

    l->n_told--;
    memmove(l->told, l->told + 1, (size_t)l->n_told * sizeof(*l->told));
    if (!will_be_read(l, rank)) {
        scan(l, rank, &first, true, 0);
    }
}

void feed_lane_missed(struct feed_lane *l, int64_t rank, const struct id *id)
{
    if (l->scans && (!l->missed || feed_before(rank, id, l->missed_rank, &l->missed_id))) {
        l->missed = true;
        l->missed_rank = rank;
        l->missed_id = *id;
    }
}

/* One statement sees what is near its rank. Where there are too many ranks all is read. */
static void add_told(struct feed_lane *l, int64_t rank)
{
    int i = 0;

    while (i < l->n_told && l->told[i] <= rank) {
        i++;
    }
    if (i > 0 && rank - l->told[i - 1] <= TOLD_NEAR_MS) {
        return;
    }
    if (i < l->n_told && l->told[i] - rank <= TOLD_NEAR_MS) {
        l->told[i] = rank;
    } else if (l->n_told < FEED_TOLD_MAX) {
        memmove(l->told + i + 1, l->told + i, (size_t)(l->n_told - i) * sizeof(*l->told));
        l->told[i] = rank;
        l->n_told++;
    } else {
        l->rescan = true;
    }
}

void feed_lane_told(struct feed_lane *l, int64_t rank)
{
    if (l->filter.n_types && will_be_read(l, rank)) {
        feed_lane_missed(l, rank, &first);
    } else if (l->filter.n_types && rank == INT64_MIN) {
        l->rescan = true;
    } else if (l->filter.n_types) {
        add_told(l, rank);
    }
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
        p->fed_known = p->fed_known && rc == 0 && n < FEED_WINDOW_MAX;
        for (size_t i = 0; rc == 0 && i < n; i++) {
            const struct task *known = ledger_peek(f->o.ledger, &rows[i].id);

            if (!feed_hint_find(f, &rows[i].id) && !(known && known->seq > rows[i].seq)) {
                struct feed_hint *e = feed_hint_new(f, p, &rows[i]);

                e->since = clock_boot_ms();
                feed_hint_set(e, FED);
                feed_hint_join(e, xcalloc(1, sizeof(*e->message)));
                list_remove(&e->mark);
                e->marked = true;
            }
        }
    }
    scan_free(s);
}

void feed_scan_fed(struct feed_pool *p)
{
    struct feed *f = p->feed;

    if (p->fed_known || p->fed_asked) {
        return;
    }
    struct scan *s = scan_new(p);
    if (store_scan_fed(f->o.db, p->name, FEED_WINDOW_MAX, on_fed_scanned, s) < 0) {
        scan_free(s);
        return; /* the next rescan asks again */
    }
    p->fed_asked = p->fed_known = true; /* unless one more is dropped before the answer comes */
    f->open_calls++;
}
