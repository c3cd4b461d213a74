/* db_migrate.c: the numbered scripts, blocking, on a connection of its own. */
#include "internal/db_conn.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

struct found_hosts {
    struct db_hosts *hosts;
    struct err why;
};

static void finish_pg(PGconn **pg)
{
    PQfinish(*pg);
}

static void clear_result(PGresult **res)
{
    PQclear(*res);
}

static void ignore_notice(void *arg, const PGresult *res)
{
    (void)arg;
    (void)res;
}

/* ---- connecting ---- */

static void on_resolved(void *arg, struct db_hosts *found, const struct err *why)
{
    struct found_hosts *f = arg;

    f->hosts = found;
    f->why = *why;
}

static int resolve(const struct db_options *o, struct db_hosts **ret, struct err *reterr)
{
    struct found_hosts f = {0};
    uv_loop_t loop;
    struct db_resolver r = {.loop = &loop};
    const char *list = o->host && *o->host ? o->host : "127.0.0.1";

    MUST(uv_loop_init(&loop) == 0);
    db_resolve(&r, list, o->port ? o->port : 5432, on_resolved, &f);
    uv_run(&loop, UV_RUN_DEFAULT);
    MUST(uv_loop_close(&loop) == 0);
    if (!f.hosts) {
        return err_set(reterr, f.why.code, "%s", f.why.text);
    }
    *ret = f.hosts;
    return 0;
}

static int connect_one(const struct db_options *o, const struct db_host *h, PGconn **ret,
                       struct err *reterr)
{
    PGconn *pg CLEANUP(finish_pg) = db_start_connect(o, h);
    PostgresPollingStatusType step =
        PQstatus(pg) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;

    while (step == PGRES_POLLING_READING || step == PGRES_POLLING_WRITING) {
        struct pollfd p = {.fd = PQsocket(pg),
                           .events = step == PGRES_POLLING_READING ? POLLIN : POLLOUT};

        if (poll(&p, 1, DB_CONNECT_TIMEOUT_MS) == 0) {
            return err_set(reterr, ERR_DB_DOWN,
                           "connection to server at \"%.100s\" (%.50s), port %d failed: no answer",
                           h->host, h->addr, h->port);
        }
        step = PQconnectPoll(pg);
    }
    if (step != PGRES_POLLING_OK) {
        return db_error_connect(PQerrorMessage(pg), reterr);
    }
    (void)PQsetNoticeReceiver(pg, ignore_notice, NULL);
    *ret = STEAL(pg);
    return 0;
}

static int connect_any(const struct db_options *o, PGconn **ret, struct err *reterr)
{
    struct db_options own = *o;
    struct db_hosts *hosts = NULL;
    int rc = resolve(o, &hosts, reterr);

    own.statement_timeout_ms = 0;
    for (int i = 0; hosts && i < hosts->count; i++) {
        rc = connect_one(&own, &hosts->item[i], ret, reterr);
        if (rc == 0 || rc == ERR_CONFIG) {
            break;
        }
    }
    db_hosts_unref(hosts);
    return rc;
}

/* ---- statements ---- */

/* `sql` with the texts $1 and $2 where given. */
static int query(PGconn *pg, const char *sql, const char *p1, const char *p2, PGresult **ret,
                 struct err *reterr)
{
    const char *values[2] = {p1, p2};
    int n = p2 ? 2 : (p1 ? 1 : 0);
    PGresult *res CLEANUP(clear_result) = PQexecParams(pg, sql, n, NULL, values, NULL, NULL, 0);
    ExecStatusType status = PQresultStatus(res);
    bool lost = false;

    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        return db_error_result(res, reterr, &lost);
    }
    if (ret) {
        *ret = STEAL(res);
    }
    return 0;
}

static int execute(PGconn *pg, const char *sql, struct err *reterr)
{
    return query(pg, sql, NULL, NULL, NULL, reterr);
}

/* A pooler makes up the number of the process that a client talks with. */
static int refuse_pooler(PGconn *pg, struct err *reterr)
{
    PGresult *res CLEANUP(clear_result) = NULL;
    int64_t pid = 0;
    int rc = query(pg, "select pg_backend_pid()", NULL, NULL, &res, reterr);

    if (rc == 0 && (!str_to_i64(str_of(PQgetvalue(res, 0, 0)), 1, INT32_MAX, &pid) ||
                    pid != PQbackendPID(pg))) {
        rc = err_set(reterr, ERR_CONFIG, "%s", DB_NO_POOLER);
    }
    return rc;
}

static int line_of(const char *sql, const PGresult *res)
{
    const char *at = PQresultErrorField(res, PG_DIAG_STATEMENT_POSITION);
    int64_t position = 0;
    int line = 1;

    if (!at || !str_to_i64(str_of(at), 1, INT32_MAX, &position)) {
        return 0;
    }
    for (const char *p = sql; *p && position > 1; p++) {
        line += *p == '\n';
        position -= ((unsigned char)p[1] & 0xC0) != 0x80; /* counted in characters */
    }
    return line;
}

/* Several statements, hence the simple protocol. */
static int run_script(PGconn *pg, const struct db_migration *m, struct err *reterr)
{
    PGresult *res CLEANUP(clear_result) = PQexec(pg, m->sql);
    ExecStatusType status = PQresultStatus(res);
    struct err why;
    bool lost = false;

    if (status != PGRES_FATAL_ERROR) {
        if (PQtransactionStatus(pg) == PQTRANS_INTRANS && status != PGRES_COPY_IN) {
            return 0;
        }
        return err_set(reterr, ERR_DB, "migration %s: leaves its transaction", m->name);
    }
    int rc = db_error_result(res, &why, &lost);
    int line = line_of(m->sql, res);
    return line ? err_set(reterr, rc, "migration %s, line %d: %.180s", m->name, line, why.text)
                : err_set(reterr, rc, "migration %s: %.190s", m->name, why.text);
}

static int apply(PGconn *pg, const struct db_migration *m, struct err *reterr)
{
    int rc = execute(pg, "begin", reterr);

    rc = rc < 0 ? rc : run_script(pg, m, reterr);
    rc = rc < 0 ? rc
                : query(pg,
                        "insert into schema_migration (name, sha256)"
                        " values ($1, encode(sha256(convert_to($2, 'UTF8')), 'hex'))",
                        m->name, m->sql, NULL, reterr);
    rc = rc < 0 ? rc : execute(pg, "commit", reterr);
    if (rc < 0 && PQtransactionStatus(pg) != PQTRANS_IDLE) {
        (void)execute(pg, "rollback", NULL);
    }
    return rc;
}

/* 1: it was applied as it is; 0: not yet; ERR_CONFLICT: it has been changed since. */
static int is_applied(PGconn *pg, const struct db_migration *m, struct err *reterr)
{
    PGresult *res CLEANUP(clear_result) = NULL;
    int rc = query(pg,
                   "select sha256 = encode(sha256(convert_to($2, 'UTF8')), 'hex')"
                   " from schema_migration where name = $1",
                   m->name, m->sql, &res, reterr);

    if (rc < 0 || PQntuples(res) == 0) {
        return rc;
    }
    if (!streq(PQgetvalue(res, 0, 0), "t")) {
        return err_set(reterr, ERR_CONFLICT,
                       "migration %s was changed after it had been applied; add a new script",
                       m->name);
    }
    return 1;
}

/* A session lock: it goes with the connection. Lock waits end after a minute. */
static int prepare(PGconn *pg, struct err *reterr)
{
    static const char *const steps[] = {
        "set lock_timeout = '60s'",
        "select pg_advisory_lock(hashtext('schema_migration'), 1)",
        ("create table if not exists schema_migration (name text primary key, sha256 text not null,"
         " applied_at timestamptz not null default now())"),
    };
    struct err why;

    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        int rc = execute(pg, steps[i], &why);

        if (rc < 0) {
            return err_set(reterr, rc, "schema_migration: %.200s", why.text);
        }
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct db_migration *x = a;
    const struct db_migration *y = b;

    return strcmp(x->name, y->name);
}

int db_migrate(const struct db_options *o, const struct db_migration *m, size_t n, int *ret_applied,
               struct err *reterr)
{
    struct db_migration *sorted CLEANUP(freep) = xmemdup(m, n * sizeof(*m));
    PGconn *pg CLEANUP(finish_pg) = NULL;
    int applied = 0;
    int rc = connect_any(o, &pg, reterr);

    rc = rc < 0 ? rc : refuse_pooler(pg, reterr);
    rc = rc < 0 ? rc : prepare(pg, reterr);
    qsort(sorted, n, sizeof(*sorted), by_name);
    for (size_t i = 0; rc >= 0 && i < n; i++) {
        rc = is_applied(pg, &sorted[i], reterr);
        if (rc == 0) {
            rc = apply(pg, &sorted[i], reterr);
            applied += rc == 0;
        }
    }
    if (rc < 0) {
        return rc;
    }
    *ret_applied = applied;
    return 0;
}
