/* db.c: the pool. */
#include "internal/db_conn.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#define QUEUED_DEFAULT 10000
#define PENDING_BYTES  (256U << 20)

static void free_options(struct db_options *o)
{
    const char *owned[] = {o->host,     o->database, o->username, o->password,
                           o->ssl_mode, o->name,     o->settings};

    for (size_t i = 0; i < ARRAY_LEN(owned); i++) {
        freep(&owned[i]);
    }
}

static struct db_options copy_options(const struct db_options *o)
{
    struct db_options copy = *o;

    copy.host = xstrdup(o->host && *o->host ? o->host : "127.0.0.1");
    copy.database = xstrdup(o->database);
    copy.username = xstrdup(o->username);
    copy.password = xstrdup(o->password);
    copy.ssl_mode = xstrdup(o->ssl_mode);
    copy.name = xstrdup(o->name);
    copy.settings = xstrdup(o->settings);
    copy.port = o->port ? o->port : 5432;
    copy.connections = MAX(o->connections, 1);
    copy.max_queued = o->max_queued ? o->max_queued : QUEUED_DEFAULT;
    return copy;
}

struct db *db_open(uv_loop_t *loop, const struct db_options *o)
{
    struct db *db = xmalloc(sizeof(*db));

    db->loop = loop;
    db->o = copy_options(o);
    db->resolver.loop = loop;
    db->conns = xcalloc((size_t)db->o.connections, sizeof(*db->conns));
    for (int i = 0; i < db->o.connections; i++) {
        db_conn_init(&db->conns[i], db);
    }
    return db;
}

static void db_free(struct db *db)
{
    free_options(&db->o);
    free(db->conns);
    free(db);
}

void db_handle_closed(struct db *db)
{
    if (--db->handles > 0 || !db->closing) {
        return;
    }
    void (*on_closed)(void *) = db->on_closed;
    void *arg = db->closed_arg;

    db_free(db);
    if (on_closed) {
        on_closed(arg);
    }
}

void db_close(struct db *db, void (*on_closed)(void *arg), void *arg)
{
    MUST(!db->closing);
    db->closing = true;
    db->up = 0;
    db->on_closed = on_closed;
    db->closed_arg = arg;
    for (int i = 0; i < db->o.connections; i++) {
        db_conn_close(&db->conns[i]);
    }
    db_resolve_cancel(&db->resolver);
}

void db_reset(struct db *db, const struct err *why)
{
    for (int i = 0; i < db->o.connections && !db->closing; i++) {
        if (db->conns[i].state == CONN_UP) {
            db_conn_fail(&db->conns[i], why);
        }
    }
}

/* ---- from the connections ---- */

static void on_resolved(void *arg, struct db_hosts *found, const struct err *why)
{
    struct db *db = arg;

    for (int i = 0; i < db->o.connections && !db->closing; i++) {
        struct db_conn *c = &db->conns[i];

        if (c->state == CONN_RESOLVING && found) {
            db_conn_connect(c, found);
        } else if (c->state == CONN_RESOLVING) {
            db_conn_fail(c, why);
        }
    }
    db_hosts_unref(found);
    db_handle_closed(db);
}

void db_conn_wants_hosts(struct db *db)
{
    if (!db->resolver.busy) {
        db->handles++;
        db_resolve(&db->resolver, db->o.host, db->o.port, on_resolved, db);
    }
}

void db_conn_is_up(struct db *db, const struct db_conn *c)
{
    const char *version = PQparameterStatus(c->pg, "server_version");

    snprintf(db->version, sizeof(db->version), "%.*s", (int)strcspn(version ? version : "", " "),
             version ? version : "");
    if (db->up > 1) {
        return;
    }
    db->down_reported = false;
    db->last = (struct err){0};
    if (db->o.on_up) {
        db->o.on_up(db->o.arg);
    }
}

void db_conn_is_down(struct db *db, const struct err *why)
{
    db->last = *why;
    if (db->closing || db->up > 0 || db->down_reported) {
        return;
    }
    db->down_reported = true;
    if (db->o.on_down) {
        db->o.on_down(db->o.arg, why);
    }
}

/* ---- for the owner ---- */

bool db_is_up(const struct db *db)
{
    return db->up > 0;
}

const char *db_server_version(const struct db *db)
{
    return db->up > 0 ? db->version : "";
}

const char *db_last_error(const struct db *db)
{
    return db->last.text;
}

size_t db_inflight(const struct db *db)
{
    return db->pending;
}

static struct db_conn *least_loaded(struct db *db)
{
    struct db_conn *best = NULL;

    for (int i = 0; i < db->o.connections; i++) {
        struct db_conn *c = &db->conns[i];

        if (c->state == CONN_UP && !c->broken &&
            (!best || c->pending.count < best->pending.count)) {
            best = c;
        }
    }
    return best;
}

int db_exec(struct db *db, const char *sql, struct db_params *p, db_done_fn *cb, void *arg)
{
    if (db->closing) {
        return ERR_CLOSED;
    }
    if (p && p->failed) {
        return p->failed;
    }
    struct db_conn *c = least_loaded(db);
    if (!c) {
        return ERR_DB_DOWN;
    }
    if (db->pending >= db->o.max_queued || db->pending_bytes >= PENDING_BYTES) {
        return ERR_BUSY;
    }
    db_conn_send(c, sql, p, cb, arg);
    return 0;
}
