/* db_pipeline.c: statements out, results in, on one connection.
 *
 * On the wire each statement is [Parse] Bind Describe Execute Sync. The answer to the Execute comes
 * before the COMMIT, which is done by the Sync, so the owner is told at PGRES_PIPELINE_SYNC only.
 */
#include "internal/db_conn.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

/* A prepared statement. Types belong to the key: a statement prepared with an untyped NULL must not
 * be used for a number of another width. */
struct stmt {
    struct stmt_key {
        const char *sql;
        uint64_t types;
    } key;
    unsigned name;     /* 0: to be prepared */
    unsigned bad_name; /* whose preparation failed, */
    struct err bad;    /* and why: the answer to statements that followed at once */
    UT_hash_handle hh;
};

struct request {
    struct list_node node;
    struct stmt *stmt;
    unsigned name;
    bool preparing; /* the answer to its Parse is still to come */
    size_t bytes;
    db_done_fn *cb;
    void *arg;
};

/* ---- sending ---- */

/* FNV-1a over the parameters' types. */
static uint64_t hash_types(const struct db_params *p)
{
    uint64_t h = 14695981039346656037U;

    for (int i = 0; p && i < p->count; i++) {
        h = (h ^ p->oid[i]) * 1099511628211U;
    }
    return h;
}

static struct stmt *find_statement(struct db_conn *c, const char *sql, const struct db_params *p)
{
    struct stmt_key key = {.sql = sql, .types = hash_types(p)};
    struct stmt *s = NULL;

    HASH_FIND(hh, c->stmts, &key, sizeof(key), s);
    if (!s) {
        s = xmalloc(sizeof(*s));
        s->key = key;
        HASH_ADD(hh, c->stmts, key, sizeof(key), s);
    }
    return s;
}

static void format_name(char name[16], unsigned number)
{
    snprintf(name, 16, "s%u", number);
}

static bool send_execute(struct db_conn *c, const char *name, const struct db_params *p)
{
    const char *values[DB_PARAMS_COUNT];
    int formats[DB_PARAMS_COUNT];
    int n = p ? p->count : 0;

    for (int i = 0; i < n; i++) {
        const char *copied = p->len[i] < 0 ? NULL : p->data.data + p->off[i];

        values[i] = p->ref[i] ? p->ref[i] : copied;
        formats[i] = 1;
    }
    return PQsendQueryPrepared(c->pg, name, n, values, p ? p->len : NULL, formats, 1) == 1 &&
           PQpipelineSync(c->pg) == 1;
}

static bool send_request(struct db_conn *c, struct request *r, const struct db_params *p)
{
    struct stmt *s = r->stmt;
    char name[16];

    if (s->name == 0) {
        s->name = ++c->last_name;
        r->preparing = true;
    }
    r->name = s->name;
    format_name(name, s->name);
    return (!r->preparing ||
            PQsendPrepare(c->pg, name, s->key.sql, p ? p->count : 0, p ? p->oid : NULL) == 1) &&
           send_execute(c, name, p);
}

bool db_pipeline_send(struct db_conn *c, const char *sql, const struct db_params *p, db_done_fn *cb,
                      void *arg)
{
    struct request *r = xmalloc(sizeof(*r));

    *r = (struct request){
        .stmt = find_statement(c, sql, p), .bytes = p ? p->bytes : 0, .cb = cb, .arg = arg};
    c->db->pending++;
    c->db->pending_bytes += r->bytes;
    c->swollen = c->swollen || r->bytes > DB_SWOLLEN_BYTES;
    list_push(&c->pending, &r->node);
    return send_request(c, r, p);
}

/* ---- answers ---- */

static void answer(struct db_conn *c, struct request *r, int rc, PGresult *result,
                   const struct err *why)
{
    struct db_result res = {result};

    c->db->pending--;
    c->db->pending_bytes -= r->bytes;
    r->cb(r->arg, rc, rc < 0 ? NULL : &res, rc < 0 ? why : NULL);
    PQclear(result);
    free(r);
}

/* Only what is in flight now: callbacks may send anew. */
void db_pipeline_answer_all(struct db_conn *c, const struct err *why)
{
    struct list lost;
    struct list_node *n = NULL;

    list_init(&lost);
    while ((n = list_pop(&c->pending))) {
        list_push(&lost, n);
    }
    while ((n = list_pop(&lost))) {
        answer(c, LIST_ENTRY(n, struct request, node), why->code, NULL, why);
    }
}

/* ---- receiving ---- */

/* The first failure of a statement decides; what follows is only that it was aborted. */
static void record_failure(struct db_conn *c, struct request *r, const PGresult *res,
                           const struct err *why)
{
    struct stmt *s = r->stmt;
    const char *function = PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION);
    bool gone = db_is_sqlstate(why, "26000");

    if (c->why.code != 0) {
        return;
    }
    c->why = *why;
    if (r->preparing) {
        s->bad_name = r->name;
        s->bad = *why;
    } else if (gone && s->bad_name == r->name) {
        c->why = s->bad;
    } else if (gone || streq(function, "RevalidateCachedQuery")) {
        c->why.code = ERR_CONFLICT; /* the schema changed under it: prepared anew next time */
    } else {
        return;
    }
    if (s->name == r->name) {
        s->name = 0;
    }
}

static void finish_first(struct db_conn *c)
{
    struct request *r = LIST_ENTRY(list_pop(&c->pending), struct request, node);
    PGresult *result = STEAL(c->result);
    struct err why = c->why;

    c->why = (struct err){0};
    c->progress_ms = (int64_t)uv_now(c->db->loop);
    if (why.code == 0 && !result) {
        err_set(&why, ERR_DB, "the server gave no result");
    }
    answer(c, r, why.code, result, &why);
}

/* False where the connection is of no more use; c->fatal says why. */
static bool take_result(struct db_conn *c, struct request *r, PGresult *res)
{
    struct err why;
    bool lost = false;

    switch (PQresultStatus(res)) {
    case PGRES_PIPELINE_SYNC:
        PQclear(res);
        finish_first(c);
        return true;
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
    case PGRES_EMPTY_QUERY:
        if (r->preparing) {
            r->preparing = false;
            PQclear(res);
        } else {
            PQclear(c->result);
            c->result = res;
        }
        return true;
    case PGRES_PIPELINE_ABORTED:
        PQclear(res);
        return true;
    case PGRES_BAD_RESPONSE:
    case PGRES_NONFATAL_ERROR:
    case PGRES_FATAL_ERROR:
        (void)db_error_result(res, &why, &lost);
        if (!lost) {
            record_failure(c, r, res, &why);
        } else if (c->fatal.code == 0) {
            c->fatal = why;
        }
        PQclear(res);
        return !lost;
    case PGRES_COPY_OUT:
    case PGRES_COPY_IN:
    case PGRES_COPY_BOTH:
    case PGRES_SINGLE_TUPLE:
    default:
        err_set(&c->fatal, ERR_DB_DOWN, "COPY has no place in a pipeline");
        PQclear(res);
        return false;
    }
}

bool db_pipeline_take(struct db_conn *c)
{
    int ends = 0;

    if (!list_first(&c->pending)) {
        (void)PQisBusy(c->pg); /* parses notices */
    }
    while (c->state == CONN_UP && list_first(&c->pending) && !PQisBusy(c->pg)) {
        struct request *r = LIST_ENTRY(list_first(&c->pending), struct request, node);
        PGresult *res = PQgetResult(c->pg);

        if (res && !take_result(c, r, res)) {
            return false;
        }
        ends = res ? 0 : ends + 1; /* one NULL ends each answer; more: libpq has lost the thread */
        if (ends > 2) {
            err_set(&c->fatal, ERR_DB_DOWN, "an answer is missing");
            return false;
        }
    }
    return true;
}

static void forget_statements(struct db_conn *c)
{
    struct stmt *s = NULL;
    struct stmt *tmp = NULL;

    HASH_ITER(hh, c->stmts, s, tmp)
    {
        HASH_DEL(c->stmts, s);
        free(s);
    }
}

void db_pipeline_reset(struct db_conn *c)
{
    forget_statements(c);
    PQclear(c->result);
    c->result = NULL;
    c->why = (struct err){0};
}
