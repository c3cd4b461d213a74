/* What is older than it has to be kept, removed by the leader: in bounded steps, for a part of each
 * second, from the oldest on. The cursor saves looking again at what stays, and at what was just
 * removed. */
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"

#include <stdio.h>
#include <stdlib.h>

#define STEP_ROWS 1000
#define SLICE_MS  250   /* of each second */
#define REST_MS   60000 /* when everything was looked at */

#define FIRST_ID "00000000-0000-0000-0000-000000000000"

/* `any` in a join: see write_sql() in store.c. Each takes the epoch, the cursor, the age and the
 * number of rows, and returns how many it removed, how many it looked at, and the new cursor. */
static const struct {
    const char *name;
    const char *sql;
    const char *first;
} stages[RETENTION_STAGES] = {
    [RETAIN_TASKS] =
        {"tasks",
         "with old as materialized (select id from task where id > $2::text::uuid and id < "
         "sje_first_id($3) order by id limit $4), "
         "gone as (delete from task t using old where t.id = any(array[old.id]) and t.state in "
         "(5, 6, 7, 8) and t.finished_at < $3 and exists (select 1 from leader where epoch = $1) "
         "returning t.id), "
         "keys as (delete from idempotency i using gone where i.tasks[1] = any(array[gone.id])) "
         "select (select count(*) from gone), (select count(*) from old), "
         "(select id::text from old order by id desc limit 1)",
         FIRST_ID},
    [RETAIN_AUDIT] = {"events",
                      "select gone, seen, last from sje_forget_events($1, $2::text::uuid, $3, $4)",
                      FIRST_ID},
    [RETAIN_CLUSTER] =
        {"cluster events",
         "select gone, seen, last from sje_forget_cluster_events($1, $2::text::bigint, $3, $4)",
         "0"},
};

static void step(struct manager *m);

static void next_stage(struct retention *r)
{
    r->stage++;
    if (r->stage == RETENTION_STAGES) {
        if (r->removed) {
            log_info(NULL, "removed %lld rows that were too old", (long long)r->removed);
        }
        METRIC_INC(retention_passes);
        r->stage = 0;
        r->removed = 0;
        r->resume_at = clock_boot_ms() + REST_MS;
    }
    snprintf(r->after, sizeof(r->after), "%s", stages[r->stage].first);
}

struct step_call {
    struct manager *m;
    int64_t epoch;
};

static void on_step(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct step_call *c CLEANUP(freep) = arg;
    struct manager *m = c->m;
    struct retention *r = &m->retention;

    r->busy = false;
    if (rc < 0) {
        if (rc != ERR_CLOSED) {
            log_warn(NULL, "old %s: %s; trying again in %d s", stages[r->stage].name, why->text,
                     REST_MS / 1000);
        }
        r->resume_at = clock_boot_ms() + REST_MS;
        return;
    }
    r->removed += db_get_int(res, 0, 0);
    METRIC_ADD_BY(retention_removed, stages[r->stage].name, db_get_int(res, 0, 0));
    if (db_get_int(res, 0, 1) < STEP_ROWS) {
        next_stage(r);
    } else {
        snprintf(r->after, sizeof(r->after), "%s", db_get_text(res, 0, 2).p);
    }
    if (c->epoch == m->epoch && clock_boot_ms() < r->slice_end) {
        step(m);
    }
}

static void step(struct manager *m)
{
    struct retention *r = &m->retention;
    struct db_params p CLEANUP(db_params_free) = {0};
    int64_t keep = r->stage == RETAIN_TASKS ? r->keep_tasks_ms : r->keep_audit_ms;

    db_params_init(&p);
    if (clock_boot_ms() < r->resume_at) {
        return;
    }
    if (keep == 0) { /* for ever */
        next_stage(r);
        return;
    }
    struct step_call *c = xmalloc(sizeof(*c));
    *c = (struct step_call){m, m->epoch};
    db_add_bigint(&p, m->epoch);
    db_add_text(&p, r->after);
    db_add_time(&p, mgr_now(m) - keep);
    db_add_int(&p, STEP_ROWS);
    r->busy = true;
    if (db_exec(m->db_read, stages[r->stage].sql, &p, on_step, c) < 0) {
        r->busy = false; /* the next tick tries again */
        free(c);
    }
}

void retention_configure(struct manager *m, const struct config *c)
{
    struct retention *r = &m->retention;

    r->keep_tasks_ms = (int64_t)c->manager.keep_tasks_hours * 3600000;
    r->keep_audit_ms = (int64_t)c->manager.keep_audit_hours * 3600000;
    r->resume_at = 0;
    if (!r->busy) {
        r->stage = 0;
        snprintf(r->after, sizeof(r->after), "%s", stages[0].first);
    }
}

void retention_tick(struct manager *m)
{
    m->retention.slice_end = clock_boot_ms() + SLICE_MS;
    if (!m->retention.busy && m->clock_known) {
        step(m);
    }
}
