/* What operators ordered: pools paused, workers drained, settings. The database holds it; every
 * manager reads it now and then, and at once when another one says that it changed. */
#include "internal/clock.h"
#include "internal/log.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define POOLS_PAUSED "1000"
#define POOLS_READ   "5000" /* these, and others that were released of late */

/* ---- reading ---- */

struct read_call {
    struct manager *m;
    uint64_t orders; /* given here before it was sent: it may not show a later one */
};

static void on_pools(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct read_call *c CLEANUP(freep) = arg;

    (void)why;
    for (int i = 0; rc == 0 && c->orders == c->m->orders && i < db_rows(res); i++) {
        feed_pause(c->m->feed, db_get_text(res, i, 0).p, db_get_bool(res, i, 1));
    }
}

static void on_workers(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct read_call *c CLEANUP(freep) = arg;

    (void)why;
    for (int i = 0; rc == 0 && c->orders == c->m->orders && i < db_rows(res); i++) {
        struct id uuid = db_is_null(res, i, 4) ? (struct id){{0}} : db_get_id(res, i, 4);
        struct fleet_row row = {.who =
                                    who_of(db_get_text(res, i, 0).p, &uuid, db_get_int(res, i, 5)),
                                .host = db_get_text(res, i, 1).p,
                                .drain = db_get_bool(res, i, 2),
                                .seen_wall = db_get_time(res, i, 3),
                                .state = worker_state_of(db_get_text(res, i, 6).p),
                                .slots = (int)db_get_int(res, i, 7),
                                .wall = mgr_now(c->m)};

        fleet_order(&c->m->fleet, &row, clock_boot_ms());
    }
    c->m->fleet.rows_read = c->m->fleet.rows_read || rc == 0;
}

static void take_settings(struct manager *m, struct str text, int64_t version)
{
    json_t *fresh = NULL;
    struct err why = {0};

    if (version == m->settings_version) {
        return;
    }
    if (json_read(text.p, text.len, &fresh, &why) < 0) {
        log_error(NULL, "the settings in the database are not understood: %s", why.text);
        return;
    }
    m->seeded = json_object_get(json_object_get(fresh, "executorNodeConfig"), "deadAfterSeconds");
    if (!m->seeded) { /* taken out: the one in force is written down again, and read with the rest
                       */
        json_decref(fresh);
        return;
    }
    json_decref(m->settings);
    m->settings = fresh;
    m->settings_version = version;
    if (m->on_settings) {
        m->on_settings(m->on_settings_arg, fresh);
    }
}

static void on_settings(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct read_call *c CLEANUP(freep) = arg;

    (void)why;
    if (rc == 0 && c->orders == c->m->orders && db_rows(res) == 1) {
        take_settings(c->m, db_get_text(res, 0, 0), db_get_int(res, 0, 1));
    }
}

static void read_with(struct manager *m, const char *sql, db_done_fn *cb)
{
    struct read_call *c = xmalloc(sizeof(*c));

    *c = (struct read_call){m, m->orders};
    if (db_exec(m->db_read, sql, NULL, cb, c) < 0) {
        free(c); /* read when the database is back */
    }
}

static void on_seeded(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct manager *m = arg;

    (void)res;
    m->seeding = false;
    m->seeded = m->seeded || rc == 0;
    if (rc == 0 && !m->stopping) {
        orders_read(m);
    } else if (rc < 0 && rc != ERR_CLOSED) {
        log_debug(NULL, "deadAfterSeconds is not written down yet: %s; trying again", why->text);
    }
}

/* What all must agree on is one value in the database. The first manager writes its own there;
 * every other one goes by that, whatever its file says. Before that no settings are read, so that
 * nobody changes them in between. What somebody has put there that is no object gives way. */
static void seed(struct manager *m)
{
    static const char sql[] =
        "with s as (update setting set version = version + 1, changed_at = now(), "
        "value = jsonb_set(case "
        "when jsonb_typeof(value::jsonb -> 'executorNodeConfig') = 'object' then value::jsonb "
        "when jsonb_typeof(value::jsonb) = 'object' "
        "then value::jsonb || '{\"executorNodeConfig\":{}}'::jsonb "
        "else '{\"executorNodeConfig\":{}}'::jsonb end, "
        "'{executorNodeConfig,deadAfterSeconds}', to_jsonb($1::int))::json "
        "where value::jsonb #> '{executorNodeConfig,deadAfterSeconds}' is null returning version) "
        "insert into cluster_event (at, manager_id, event, detail) select now(), $2, "
        "'settingsChanged', json_build_object('executorNodeConfig', "
        "json_build_object('deadAfterSeconds', $1::int)) from s";
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    if (m->seeding) {
        return;
    }
    db_add_int(&p, (int32_t)(m->dead_after_ms / 1000));
    db_add_text(&p, m->id);
    m->seeding = db_exec(m->db_read, sql, &p, on_seeded, m) == 0;
}

void orders_read(struct manager *m)
{
    if (m->db_ready) {
        read_with(
            m,
            "select name, paused from pool order by paused desc, changed_at desc limit " POOLS_READ,
            on_pools);
        if (m->seeded) {
            read_with(m, "select value::text, version from setting", on_settings);
        } else {
            seed(m);
        }
        read_with(
            m,
            "select id, host, draining, last_seen_at, uuid, incarnation, state, slots from worker "
            "where last_seen_at > now() - interval '1 day' or draining limit 20000",
            on_workers);
    }
}

/* ---- giving ---- */

struct order {
    struct manager *m;
    char *name; /* of a worker or a pool */
    bool on;
    order_fn *cb;
    void *arg;
};

static void order_send(struct manager *m, const char *sql, const char *name, bool on,
                       db_done_fn *done, order_fn *cb, void *arg)
{
    struct order *o = xmalloc(sizeof(*o));
    struct db_params p CLEANUP(db_params_free);
    struct err e = {0};

    *o = (struct order){m, xstrdup(name), on, cb, arg};
    db_params_init(&p);
    db_add_text(&p, name);
    db_add_bool(&p, on);
    db_add_text(&p, m->id);
    int rc = m->db_ready ? db_exec(m->db_read, sql, &p, done, o) : ERR_DB_DOWN;
    if (rc < 0) {
        free(o->name);
        free(o);
        err_set(&e, rc, "%s", err_text(rc));
        cb(arg, rc, &e);
    }
}

static void order_done(struct order *o, int rc, const struct err *why)
{
    if (rc == 0) {
        o->m->orders++;
        notices_orders(o->m);
    }
    o->cb(o->arg, rc, why);
    free(o->name);
    free(o);
}

static void on_drained(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct order *o = arg;
    struct fleet_worker *w = fleet_find(&o->m->fleet, o->name);
    struct buf b CLEANUP(buf_free) = {0};

    (void)res;
    if (rc == 0 && w) {
        fleet_drain(&o->m->fleet, o->name, o->on);
        if (w->reply) {
            buf_init(&b, 256);
            buf_addf(&b, "{\"v\":1,\"type\":\"drain\",\"on\":%s", o->on ? "true" : "false");
            addressee_write(&b, &w->who);
            buf_addc(&b, '}');
            mgr_send(o->m, "", w->reply, &b);
        }
    }
    order_done(o, rc, why);
}

void manager_drain(struct manager *m, const char *worker_id, bool on, order_fn *cb, void *arg)
{
    static const char sql[] =
        "with w as (insert into worker "
        "(id, host, incarnation, state, draining, slots, last_seen_at) "
        "values ($1, '', 0, 'UP', $2, 0, now()) "
        "on conflict (id) do update set draining = excluded.draining returning id) "
        "insert into cluster_event (at, manager_id, event, subject) select now(), $3, "
        "case when $2 then 'workerDrained' else 'workerResumed' end, id from w";
    struct err e = {0};

    if (fleet_find(&m->fleet, worker_id)) {
        order_send(m, sql, worker_id, on, on_drained, cb, arg);
    } else {
        cb(arg, err_set(&e, ERR_NOT_FOUND, "no such worker"), &e);
    }
}

static void on_paused(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct order *o = arg;
    struct err e = {0};

    if (rc == 0 && !db_get_bool(res, 0, 0)) {
        why = &e;
        rc = err_set(&e, ERR_CONFLICT,
                     "there are " POOLS_PAUSED " paused pools, as many as there may be");
    }
    if (rc == 0) {
        feed_pause(o->m->feed, o->name, o->on);
    }
    order_done(o, rc, why);
}

/* A pool that was released is forgotten after a day: by then all managers have read that. */
void manager_pause(struct manager *m, const char *pool, bool on, order_fn *cb, void *arg)
{
    static const char sql[] =
        "with old as (delete from pool where not paused and name <> $1 "
        "and changed_at < now() - interval '1 day'), "
        "p as (insert into pool (name, paused, changed_at) select $1, $2, now() where not $2 "
        "or (select count(*) from pool where paused and name <> $1) < " POOLS_PAUSED " "
        "on conflict (name) do update set paused = excluded.paused, changed_at = now() "
        "returning name), "
        "a as (insert into cluster_event (at, manager_id, event, subject) select now(), $3, "
        "case when $2 then 'poolPaused' else 'poolResumed' end, name from p) "
        "select exists (select 1 from p)";

    order_send(m, sql, pool, on, on_paused, cb, arg);
}

/* ---- settings ---- */

void manager_on_settings(struct manager *m, settings_fn *cb, void *arg)
{
    m->on_settings = cb;
    m->on_settings_arg = arg;
    if (m->settings) {
        cb(arg, m->settings);
    }
}

const json_t *manager_settings(const struct manager *m)
{
    return m->settings;
}

struct change {
    struct manager *m;
    char *text;
    order_fn *cb;
    void *arg;
};

static void change_done(struct change *c, int rc, const struct err *why)
{
    c->cb(c->arg, rc, why);
    free(c->text);
    free(c);
}

static void on_written(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct change *c = arg;
    struct err e = {0};

    if (rc == 0 && db_rows(res) == 0) {
        rc = err_set(&e, ERR_BUSY,
                     "somebody else is changing the settings, or the row of table "
                     "setting is missing");
        why = &e;
        orders_read(c->m);
    } else if (rc == 0) {
        c->m->orders++;
        take_settings(c->m, str_of(c->text), db_get_int(res, 0, 0));
        notices_orders(c->m);
    }
    change_done(c, rc, why);
}

void manager_change_settings(struct manager *m, const json_t *all, const json_t *audit,
                             order_fn *cb, void *arg)
{
    static const char sql[] =
        "with s as (update setting set version = version + 1, value = $1::text::json, "
        "changed_at = now() where version = $2 returning version), "
        "a as (insert into cluster_event (at, manager_id, event, detail) select now(), $3, "
        "'settingsChanged', $4::text::json from s) select version from s";
    struct change *c = xmalloc(sizeof(*c));
    char *detail CLEANUP(freep) = json_text(audit);
    struct db_params p CLEANUP(db_params_free);
    struct err e = {0};

    *c = (struct change){m, json_text(all), cb, arg};
    db_params_init(&p);
    db_add_text(&p, c->text);
    db_add_bigint(&p, m->settings_version);
    db_add_text(&p, m->id);
    db_add_text(&p, detail);
    int rc = m->db_ready ? db_exec(m->db_read, sql, &p, on_written, c) : ERR_DB_DOWN;
    if (rc < 0) {
        err_set(&e, rc, "%s", err_text(rc));
        change_done(c, rc, &e);
    }
}
