#include "pkg/manager/store.h"

#include <stdlib.h>

/* Columns of a row as every SELECT here returns them; row_read() follows this order. */
#define COLUMNS(output, spec)                                                                      \
    "t.id, t.seq, t.state, t.attempt, t.failures, t.losses, t.requeues, t.stale, t.priority, "     \
    "t.max_attempts, t.backoff_s, t.slots, t.lease_s, t.queue_timeout_s, t.claim_beat, "           \
    "t.cancel_requested, t.rank, t.incarnation, t.token, t.submitted_at, t.run_after, "            \
    "t.queue_deadline, t.started_at, t.finished_at, t.pool, t.job_type, t.job_id, t.worker_id, "   \
    "t.application_id, t.loss_signature, t.progress::text, " output ", t.error::text, " spec
#define TASK_COLUMNS COLUMNS("t.output::text", "t.spec::text")

/* Scans and lists read a thousand rows at once: without output and specification where these are
 * large, or, in a list, from the row on with which the page is. */
#define BYTES             "octet_length(t.spec::text) + coalesce(octet_length(t.output::text), 0)"
#define WHERE(small, col) "case when " small " then t." col "::text end"
#define IS_SMALL          BYTES " <= 16384"
#define IN_PAGE           "sum(" BYTES ") over page <= 16777216"
#define SCAN_COLUMNS      COLUMNS(WHERE(IS_SMALL, "output"), WHERE(IS_SMALL, "spec"))
#define LIST_COLUMNS      COLUMNS(WHERE(IN_PAGE, "output"), WHERE(IN_PAGE, "spec"))

/* ---- reading ---- */

static char *text_at(const struct db_result *r, int row, int col)
{
    struct str s = db_get_text(r, row, col);

    return db_is_null(r, row, col) ? NULL : xstrndup(s.p, s.len);
}

static int32_t int_at(const struct db_result *r, int row, int col)
{
    return (int32_t)db_get_int(r, row, col);
}

static void row_read(const struct db_result *r, int i, struct task *t)
{
    int c = 0;

    *t = (struct task){.id = db_get_id(r, i, c++)};
    t->seq = int_at(r, i, c++);
    t->state = (enum task_state)int_at(r, i, c++);
    t->attempt = int_at(r, i, c++);
    t->failures = int_at(r, i, c++);
    t->losses = int_at(r, i, c++);
    t->requeues = int_at(r, i, c++);
    t->stale = int_at(r, i, c++);
    t->priority = int_at(r, i, c++);
    t->max_attempts = int_at(r, i, c++);
    t->backoff_s = int_at(r, i, c++);
    t->slots = int_at(r, i, c++);
    t->lease_s = int_at(r, i, c++);
    t->queue_timeout_s = int_at(r, i, c++);
    t->claim_beat = int_at(r, i, c++);
    t->cancel_requested = db_get_bool(r, i, c++);
    t->rank = db_get_int(r, i, c++);
    t->incarnation = db_get_int(r, i, c++);
    t->token = db_get_int(r, i, c++);
    t->submitted_at = db_get_time(r, i, c++);
    t->run_after = db_get_time(r, i, c++);
    t->queue_deadline = db_get_time(r, i, c++);
    t->started_at = db_get_time(r, i, c++);
    t->finished_at = db_get_time(r, i, c++);
    t->pool = text_at(r, i, c++);
    t->job_type = text_at(r, i, c++);
    t->job_id = text_at(r, i, c++);
    t->worker_id = text_at(r, i, c++);
    t->application_id = text_at(r, i, c++);
    t->loss_signature = text_at(r, i, c++);
    t->progress = text_at(r, i, c++);
    t->output = text_at(r, i, c++);
    t->error = text_at(r, i, c++);
    t->spec = text_at(r, i, c++);
}

/* One call of a store function, from send to answer. */
struct call {
    union {
        store_done_fn *done;
        store_written_fn *written;
        store_rows_fn *rows;
        store_keyed_fn *keyed;
        events_fn *events;
    } cb;
    void *arg;
};

static struct call *call_new(void *arg)
{
    struct call *c = xmalloc(sizeof(*c));

    c->arg = arg;
    return c;
}

/* Sends; on an immediate error frees the call and returns the error. */
static int send_call(struct db *db, const char *sql, struct db_params *p, db_done_fn *fn,
                     struct call *c)
{
    int rc = db_exec(db, sql, p, fn, c);

    if (rc < 0) {
        free(c);
    }
    return rc;
}

/* Two statements in each other's way, or a plan that no longer fits, are no conflict with what a
 * client asked for. */
static int busy_for_conflict(int rc)
{
    return rc == ERR_CONFLICT ? ERR_BUSY : rc;
}

static void rows_free(struct task *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        task_done(&rows[i]);
    }
    free(rows);
}

static void on_rows(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;
    size_t n = rc < 0 ? 0 : (size_t)db_rows(res);
    struct task *rows = xcalloc(n, sizeof(*rows));

    for (size_t i = 0; i < n; i++) {
        row_read(res, (int)i, &rows[i]);
    }
    c->cb.rows(c->arg, busy_for_conflict(rc), rows, n, why);
    rows_free(rows, n);
}

/* ---- arrays, one per column ---- */

enum { COLUMNS_MAX = 40 };

struct columns {
    struct db_array a[COLUMNS_MAX];
    int n;
};

static void columns_init(struct columns *c, const enum db_type *types, int n)
{
    MUST(n <= COLUMNS_MAX);
    c->n = n;
    for (int i = 0; i < n; i++) {
        db_array_init(&c->a[i], types[i]);
    }
}

static void columns_add(struct columns *c, struct db_params *p)
{
    for (int i = 0; i < c->n; i++) {
        db_ref_array(p, &c->a[i]);
    }
}

static void columns_free(struct columns *c)
{
    for (int i = 0; i < c->n; i++) {
        db_array_free(&c->a[i]);
    }
}

/* ---- insert ---- */

#define INSERT_UNNEST                                                                              \
    "unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], "        \
    "$8::int[], $9::bigint[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], "        \
    "$13::text[], $14::text[], $15::text[], $16::text[]) as c(id, state, priority, max_attempts, " \
    "backoff_s, slots, lease_s, queue_timeout_s, rank, submitted_at, run_after, queue_deadline, "  \
    "pool, job_type, job_id, spec)"

#define INSERT_TASK                                                                                \
    "insert into task (id, seq, state, attempt, failures, losses, requeues, stale, priority, "     \
    "max_attempts, backoff_s, slots, lease_s, queue_timeout_s, claim_beat, cancel_requested, "     \
    "rank, incarnation, token, submitted_at, run_after, queue_deadline, pool, job_type, job_id, "  \
    "spec) select c.id, 1, c.state::smallint, 1, 0, 0, 0, 0, c.priority::smallint, "               \
    "c.max_attempts, c.backoff_s, c.slots, c.lease_s, c.queue_timeout_s, 0, false, c.rank, 0, 0, " \
    "c.submitted_at, c.run_after, c.queue_deadline, c.pool, c.job_type, c.job_id, c.spec::json "

#define INSERT_EVENT                                                                               \
    "insert into event (task_id, seq, at, attempt, to_state, event) "                              \
    "select c.id, 1, c.submitted_at, 1, c.state::smallint, 'accepted' "

static const enum db_type insert_types[] = {DB_ID,   DB_INT,  DB_INT,    DB_INT,  DB_INT,  DB_INT,
                                            DB_INT,  DB_INT,  DB_BIGINT, DB_TIME, DB_TIME, DB_TIME,
                                            DB_TEXT, DB_TEXT, DB_TEXT,   DB_TEXT};

/* The parameters refer to `c` until they are sent. */
static void insert_params(struct db_params *p, struct columns *c, const struct task *rows, size_t n)
{
    columns_init(c, insert_types, ARRAY_LEN(insert_types));
    for (size_t i = 0; i < n; i++) {
        const struct task *t = &rows[i];
        struct db_array *a = c->a;

        db_array_id(a++, &t->id);
        db_array_int(a++, (int32_t)t->state);
        db_array_int(a++, t->priority);
        db_array_int(a++, t->max_attempts);
        db_array_int(a++, t->backoff_s);
        db_array_int(a++, t->slots);
        db_array_int(a++, t->lease_s);
        db_array_int(a++, t->queue_timeout_s);
        db_array_bigint(a++, t->rank);
        db_array_time(a++, t->submitted_at);
        db_array_time(a++, t->run_after);
        db_array_time(a++, t->queue_deadline);
        db_array_text(a++, t->pool);
        db_array_text(a++, t->job_type);
        db_array_text(a++, t->job_id);
        db_array_text(a, t->spec);
    }
    columns_add(c, p);
}

static void on_inserted(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;

    (void)res;
    c->cb.done(c->arg, rc, why);
}

int store_insert(struct db *db, const struct task *rows, size_t n, store_done_fn *cb, void *arg)
{
    static const char sql[] = "with c as materialized (select * from " INSERT_UNNEST
                              "), t as (" INSERT_TASK "from c) " INSERT_EVENT "from c";
    struct columns columns CLEANUP(columns_free);
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);

    db_params_init(&p);
    insert_params(&p, &columns, rows, n);
    c->cb.done = cb;
    return send_call(db, sql, &p, on_inserted, c);
}

static void on_inserted_keyed(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;

    if (rc < 0) {
        c->cb.keyed(c->arg, busy_for_conflict(rc), false, NULL, 0, why);
        return;
    }
    size_t n = (size_t)db_rows(res);
    struct err e = {0};
    if (n == 0 || db_is_null(res, 0, 1)) {
        /* The key is there, but its row was committed after our snapshot. */
        rc = err_set(&e, ERR_BUSY, "another request with this Idempotency-Key is being answered");
        c->cb.keyed(c->arg, rc, false, NULL, 0, &e);
        return;
    }
    bool replayed = !db_get_bool(res, 0, 0);
    if (replayed && !db_get_bool(res, 0, 1)) {
        rc = err_set(&e, ERR_CONFLICT, "this Idempotency-Key was used with another body");
        c->cb.keyed(c->arg, rc, true, NULL, 0, &e);
        return;
    }
    struct id *ids CLEANUP(freep) = xcalloc(n, sizeof(*ids));
    for (size_t i = 0; i < n; i++) {
        ids[i] = db_get_id(res, (int)i, 2);
    }
    c->cb.keyed(c->arg, 0, replayed, ids, n, NULL);
}

int store_insert_keyed(struct db *db, const struct task *rows, size_t n, const char *key,
                       const uint8_t hash[32], store_keyed_fn *cb, void *arg)
{
    static const char sql[] =
        "with k as (insert into idempotency (key, body_hash, tasks, created_at) values ($17, $18, "
        "$1, now()) "
        "on conflict (key) do nothing returning key), "
        "c as materialized (select * from " INSERT_UNNEST " where exists (select 1 from k)), "
        "t as (" INSERT_TASK "from c), e as (" INSERT_EVENT "from c) "
        "select true, true, x.id from k, unnest($1::uuid[]) with ordinality as x(id, n) "
        "union all select false, i.body_hash = $18, x.id from idempotency i, "
        "unnest(i.tasks) with ordinality as x(id, n) where i.key = $17 and not exists (select 1 "
        "from k)";
    struct columns columns CLEANUP(columns_free);
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);

    db_params_init(&p);
    insert_params(&p, &columns, rows, n);
    db_add_text(&p, key);
    db_add_bytes(&p, hash, 32);
    c->cb.keyed = cb;
    return send_call(db, sql, &p, on_inserted_keyed, c);
}

/* ---- write ---- */

static const enum db_type write_types[] = {
    DB_ID,   DB_INT,  DB_INT,  DB_INT,    DB_INT,    DB_INT,    DB_INT,  DB_INT,
    DB_INT,  DB_INT,  DB_BOOL, DB_BIGINT, DB_BIGINT, DB_BIGINT, DB_TIME, DB_TIME,
    DB_TIME, DB_TIME, DB_TEXT, DB_TEXT,   DB_TEXT,   DB_TEXT,   DB_TEXT, DB_TEXT};

static const enum db_type audit_types[] = {DB_ID,  DB_INT,  DB_TIME, DB_INT, DB_INT,
                                           DB_INT, DB_TEXT, DB_TEXT, DB_TEXT};

static void write_row(struct db_array *a, const struct store_change *ch)
{
    const struct task *t = ch->row;

    db_array_id(a++, &t->id);
    db_array_int(a++, ch->old_seq);
    db_array_int(a++, t->seq);
    db_array_int(a++, (int32_t)t->state);
    db_array_int(a++, t->attempt);
    db_array_int(a++, t->failures);
    db_array_int(a++, t->losses);
    db_array_int(a++, t->requeues);
    db_array_int(a++, t->stale);
    db_array_int(a++, t->claim_beat);
    db_array_bool(a++, t->cancel_requested);
    db_array_bigint(a++, t->rank);
    db_array_bigint(a++, t->incarnation);
    db_array_bigint(a++, t->token);
    db_array_time(a++, t->run_after);
    db_array_time(a++, t->queue_deadline);
    db_array_time(a++, t->started_at);
    db_array_time(a++, t->finished_at);
    db_array_text(a++, t->worker_id);
    db_array_text(a++, t->application_id);
    db_array_text(a++, t->loss_signature);
    db_array_text(a++, t->progress);
    db_array_text(a++, t->output);
    db_array_text(a, t->error);
}

static void write_audit(struct db_array *a, const struct id *id, const struct task_audit *e)
{
    db_array_id(a++, id);
    db_array_int(a++, e->seq);
    db_array_time(a++, e->at);
    db_array_int(a++, e->attempt);
    db_array_int(a++, (int32_t)e->from);
    db_array_int(a++, (int32_t)e->to);
    db_array_text(a++, e->event);
    db_array_text(a++, e->worker_id);
    db_array_text(a, e->detail);
}

static void on_written(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;
    size_t n = rc < 0 ? 0 : (size_t)db_rows(res);
    struct id *ids CLEANUP(freep) = xcalloc(n, sizeof(*ids));

    for (size_t i = 0; i < n; i++) {
        ids[i] = db_get_id(res, (int)i, 0);
    }
    c->cb.written(c->arg, rc, ids, n, why);
}

int store_write(struct db *db, const struct store_change *changes, size_t n, int64_t epoch,
                store_written_fn *cb, void *arg)
{
    static const char sql[] =
        "with u as (update task t set seq = c.seq, state = c.state::smallint, attempt = c.attempt, "
        "failures = c.failures, losses = c.losses, requeues = c.requeues, stale = c.stale, "
        "claim_beat = c.claim_beat, cancel_requested = c.cancel, rank = c.rank, incarnation = "
        "c.incarnation, "
        "token = c.token, run_after = c.run_after, queue_deadline = c.queue_deadline, started_at = "
        "c.started_at, "
        "finished_at = c.finished_at, worker_id = c.worker_id, application_id = c.application_id, "
        "loss_signature = c.loss_signature, progress = c.progress::json, output = c.output::json, "
        "error = c.error::json from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], "
        "$6::int[], "
        "$7::int[], $8::int[], $9::int[], $10::int[], $11::bool[], $12::bigint[], $13::bigint[], "
        "$14::bigint[], "
        "$15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::timestamptz[], "
        "$19::text[], $20::text[], "
        "$21::text[], $22::text[], $23::text[], $24::text[]) as c(id, old_seq, seq, state, "
        "attempt, failures, "
        "losses, requeues, stale, claim_beat, cancel, rank, incarnation, token, run_after, "
        "queue_deadline, "
        "started_at, finished_at, worker_id, application_id, loss_signature, progress, output, "
        "error) "
        "where t.id = c.id and t.seq = c.old_seq "
        "and ($34::bigint = 0 or exists (select 1 from leader where epoch = $34)) returning t.id), "
        "e as (insert into event (task_id, seq, at, attempt, from_state, to_state, event, "
        "worker_id, detail) "
        "select x.task_id, x.seq, x.at, x.attempt, x.from_state::smallint, x.to_state::smallint, "
        "x.event, "
        "x.worker_id, x.detail::json from unnest($25::uuid[], $26::int[], $27::timestamptz[], "
        "$28::int[], "
        "$29::int[], $30::int[], $31::text[], $32::text[], $33::text[]) as x(task_id, seq, at, "
        "attempt, "
        "from_state, to_state, event, worker_id, detail) where x.task_id in (select id from u)) "
        "select id from u";
    struct columns rows CLEANUP(columns_free);
    struct columns audit CLEANUP(columns_free);
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);

    columns_init(&rows, write_types, ARRAY_LEN(write_types));
    columns_init(&audit, audit_types, ARRAY_LEN(audit_types));
    for (size_t i = 0; i < n; i++) {
        write_row(rows.a, &changes[i]);
        for (size_t k = 0; k < changes[i].n_audit; k++) {
            write_audit(audit.a, &changes[i].row->id, &changes[i].audit[k]);
        }
    }
    db_params_init(&p);
    columns_add(&rows, &p);
    columns_add(&audit, &p);
    db_add_bigint(&p, epoch);
    c->cb.written = cb;
    return send_call(db, sql, &p, on_written, c);
}

/* ---- scans ---- */

static int select_rows(struct db *db, const char *sql, struct db_params *p, store_rows_fn *cb,
                       void *arg)
{
    struct call *c = call_new(arg);

    c->cb.rows = cb;
    return send_call(db, sql, p, on_rows, c);
}

int store_load(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb, void *arg)
{
    static const char sql[] = "select " TASK_COLUMNS " from task t where t.id = any($1::uuid[])";
    struct db_array a CLEANUP(db_array_free);
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_array_init(&a, DB_ID);
    for (size_t i = 0; i < n; i++) {
        db_array_id(&a, &ids[i]);
    }
    db_add_array(&p, &a);
    return select_rows(db, sql, &p, cb, arg);
}

#define SCAN_QUEUE(state)                                                                          \
    "select " SCAN_COLUMNS " from task t where t.state = " state                                   \
    " and t.pool = $1 and (t.rank, t.id) > ($2, $3) and t.slots <= $5 order by t.pool, t.rank, "   \
    "t.id limit $4"

int store_scan_queue(struct db *db, enum task_state state, const char *pool, int64_t rank,
                     const struct id *after, int slots, int limit, store_rows_fn *cb, void *arg)
{
    static const char ready[] = SCAN_QUEUE("2");
    static const char fed[] = SCAN_QUEUE("3");
    struct db_params p CLEANUP(db_params_free);

    MUST(state == TASK_READY || state == TASK_FED);
    db_params_init(&p);
    db_add_text(&p, pool);
    db_add_bigint(&p, rank);
    db_add_id(&p, after);
    db_add_int(&p, limit);
    db_add_int(&p, slots);
    return select_rows(db, state == TASK_READY ? ready : fed, &p, cb, arg);
}

static int scan_until(struct db *db, const char *sql, int64_t now, int limit, store_rows_fn *cb,
                      void *arg)
{
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_time(&p, now);
    db_add_int(&p, limit);
    return select_rows(db, sql, &p, cb, arg);
}

int store_scan_due(struct db *db, int64_t now, int limit, store_rows_fn *cb, void *arg)
{
    static const char sql[] =
        "select " SCAN_COLUMNS
        " from task t where t.state = 1 and t.run_after <= $1 order by t.run_after limit $2";

    return scan_until(db, sql, now, limit, cb, arg);
}

int store_scan_queue_timeout(struct db *db, int64_t now, int limit, store_rows_fn *cb, void *arg)
{
    static const char sql[] = "select " SCAN_COLUMNS " from task t where t.state in (1, 2, 3) "
                              "and t.queue_deadline <= $1 order by t.queue_deadline limit $2";

    return scan_until(db, sql, now, limit, cb, arg);
}

int store_scan_running(struct db *db, const struct id *after, int limit, store_rows_fn *cb,
                       void *arg)
{
    static const char sql[] = "select " SCAN_COLUMNS
                              " from task t where t.state = 4 and t.id > $1 order by t.id limit $2";
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_id(&p, after);
    db_add_int(&p, limit);
    return select_rows(db, sql, &p, cb, arg);
}

/* $1 job id, $2 job type, $3 older than this id, $4 limit, $5 the states. Troubles are few among
 * many successes and have an index of their own, as the live states have. */
#define LIST(condition)                                                                            \
    "select " LIST_COLUMNS " from task t where " condition                                         \
    " and ($1::text is null or t.job_id = $1) and ($2::text is null or t.job_type = $2)"           \
    " and ($3::uuid is null or t.id < $3) "                                                        \
    "window page as (order by t.id desc rows unbounded preceding) order by t.id desc limit $4"

int store_list(struct db *db, const struct list_filter *f, store_rows_fn *cb, void *arg)
{
    static const struct {
        const char *state;
        const char *sql;
    } by_state[] = {
        {"QUEUED", LIST("t.state in (1, 2, 3)")},
        {"RUNNING", LIST("t.state = 4")},
        {"SUCCEEDED", LIST("t.state = 5")},
        {"FAILED", LIST("t.state in (6, 7, 8) and t.state <> 7")},
        {"CANCELLED", LIST("t.state in (6, 7, 8) and t.state = 7")},
    };
    static const char all[] = LIST("true");
    static const char by_job[] = LIST("t.job_id = $1");
    const char *sql = f->job_id ? by_job : all;
    struct db_params p CLEANUP(db_params_free);

    for (size_t i = 0; f->state && i < ARRAY_LEN(by_state); i++) {
        if (streq(f->state, by_state[i].state)) {
            sql = by_state[i].sql;
        }
    }
    db_params_init(&p);
    db_add_text(&p, f->job_id);
    db_add_text(&p, f->job_type);
    db_add_id(&p, f->after);
    db_add_int(&p, f->limit);
    return select_rows(db, sql, &p, cb, arg);
}

static void on_events(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;
    size_t n = rc < 0 ? 0 : (size_t)db_rows(res);
    struct task_event_row *rows CLEANUP(freep) = xcalloc(n, sizeof(*rows));
    struct err e = {0};

    for (size_t i = 0; i < n; i++) {
        rows[i] = (struct task_event_row){
            .seq = int_at(res, (int)i, 0),
            .at = db_get_time(res, (int)i, 1),
            .attempt = int_at(res, (int)i, 2),
            .event = db_get_text(res, (int)i, 3).p,
            .worker_id = db_is_null(res, (int)i, 4) ? NULL : db_get_text(res, (int)i, 4).p,
            .detail = db_is_null(res, (int)i, 5) ? NULL : db_get_text(res, (int)i, 5).p,
        };
    }
    if (rc == 0 && n == 0) {
        rc = err_set(&e, ERR_NOT_FOUND, "no such task");
        why = &e;
    }
    c->cb.events(c->arg, busy_for_conflict(rc), rows, n, why);
}

int store_events(struct db *db, const struct id *id, events_fn *cb, void *arg)
{
    static const char sql[] = "select seq, at, attempt, event, worker_id, detail::text from event "
                              "where task_id = $1 order by seq";
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);

    db_params_init(&p);
    db_add_id(&p, id);
    c->cb.events = cb;
    return send_call(db, sql, &p, on_events, c);
}
