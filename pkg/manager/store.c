#include "pkg/manager/store.h"

#include <stdlib.h>

/* ---- columns: the one table of them ---- */

enum kind { K_ID, K_INT, K_BIGINT, K_TIME, K_BOOL, K_TEXT, K_JSON, K_WHO };

/* How each kind is read, sent and cast. */
static const struct {
    enum db_type type;
    const char *array; /* the type of a parameter that holds one for each row */
    const char *cast;  /* from its element to the column */
    const char *text;  /* how a SELECT asks for it */
} kinds[] = {
    [K_ID] = {DB_ID, "uuid[]", "", ""},
    [K_INT] = {DB_INT, "int[]", "", ""},
    [K_BIGINT] = {DB_BIGINT, "bigint[]", "", ""},
    [K_TIME] = {DB_TIME, "timestamptz[]", "", ""},
    [K_BOOL] = {DB_BOOL, "bool[]", "", ""},
    [K_TEXT] = {DB_TEXT, "text[]", "", ""},
    [K_JSON] = {DB_TEXT, "text[]", "::json", "::text"},
    [K_WHO] = {DB_TEXT, "text[]", "", ""},
};

enum {
    INSERTED = 1, /* given with a new row; else `fresh` is, or NULL */
    WRITTEN = 2,  /* a change writes it */
    SELDOM = 4,   /* a change writes it where it differs: it does not where an attempt goes well */
    LARGE = 8,    /* scans and lists may leave it out */
};

#define AT(member) offsetof(struct task, member)

/* INSERTED or a value for a new row; WRITTEN or SELDOM where task_step() may change it. */
static const struct column {
    const char *name;
    enum kind kind;
    size_t at;
    int when;
    const char *fresh;
} columns[] = {
    {"id", K_ID, AT(id), INSERTED, NULL},
    {"seq", K_INT, AT(seq), WRITTEN, "1"},
    {"state", K_INT, AT(state), INSERTED | WRITTEN, NULL},
    {"attempt", K_INT, AT(attempt), SELDOM, "1"},
    {"failures", K_INT, AT(failures), SELDOM, "0"},
    {"losses", K_INT, AT(losses), SELDOM, "0"},
    {"requeues", K_INT, AT(requeues), SELDOM, "0"},
    {"returns", K_INT, AT(returns), SELDOM, "0"},
    {"stale", K_INT, AT(stale), SELDOM, "0"},
    {"priority", K_INT, AT(priority), INSERTED, NULL},
    {"max_attempts", K_INT, AT(max_attempts), INSERTED, NULL},
    {"backoff_s", K_INT, AT(backoff_s), INSERTED, NULL},
    {"slots", K_INT, AT(slots), INSERTED, NULL},
    {"cpus_milli", K_INT, AT(cpus_milli), INSERTED, NULL},
    {"memory_mb", K_INT, AT(memory_mb), INSERTED, NULL},
    {"spec_bytes", K_INT, AT(spec_bytes), INSERTED, NULL},
    {"lease_s", K_INT, AT(lease_s), INSERTED, NULL},
    {"queue_timeout_s", K_INT, AT(queue_timeout_s), INSERTED, NULL},
    {"claim_beat", K_INT, AT(claim_beat), WRITTEN, "0"},
    {"cancel_requested", K_BOOL, AT(cancel_requested), SELDOM, "false"},
    {"rank", K_BIGINT, AT(rank), INSERTED | SELDOM, NULL},
    {"token", K_BIGINT, AT(token), WRITTEN, "0"},
    {"submitted_at", K_TIME, AT(submitted_at), INSERTED, NULL},
    {"run_after", K_TIME, AT(run_after), INSERTED | SELDOM, NULL},
    {"queue_deadline", K_TIME, AT(queue_deadline), INSERTED | SELDOM, NULL},
    {"started_at", K_TIME, AT(started_at), WRITTEN, NULL},
    {"finished_at", K_TIME, AT(finished_at), WRITTEN, NULL},
    {"pool", K_TEXT, AT(pool), INSERTED, NULL},
    {"job_type", K_TEXT, AT(job_type), INSERTED, NULL},
    {"job_id", K_TEXT, AT(job_id), INSERTED, NULL},
    {"worker_id", K_WHO, AT(who.node), WRITTEN, NULL},
    {"incarnation", K_BIGINT, AT(who.inc), WRITTEN, "0"},
    {"worker_uuid", K_ID, AT(who.uuid), WRITTEN, NULL},
    {"lease_ms", K_BIGINT, AT(lease_ms), WRITTEN, "0"},
    {"application_id", K_TEXT, AT(application_id), SELDOM, NULL},
    {"returned_by", K_TEXT, AT(returned_by), SELDOM, NULL},
    {"failed_on", K_TEXT, AT(failed_on), SELDOM, NULL},
    {"loss_signature", K_TEXT, AT(loss_signature), SELDOM, NULL},
    {"progress", K_JSON, AT(progress), SELDOM | LARGE, NULL},
    {"output", K_JSON, AT(output), WRITTEN | LARGE, NULL},
    {"error", K_JSON, AT(error), SELDOM | LARGE, NULL},
    {"spec", K_JSON, AT(spec), INSERTED | LARGE, NULL},
};

/* Of a grant by a manager that does not know these columns they tell nothing. */
#define OF_GRANT(name) (streq(name, "worker_uuid") || streq(name, "lease_ms"))

/* Scans and lists read a thousand rows at once: without what may be large where specification and
 * output are not in the row itself but beside it (TOAST), or, in a list, behind the row with which
 * its page has half a MiB. All of a page is read, parsed and masked in one turn of the loop. */
#define BYTES                                                                                      \
    "coalesce(t.spec_bytes, octet_length(t.spec::text)) + coalesce(octet_length(t.output::text), " \
    "0)"
#define IS_SMALL BYTES " <= 2048"
#define IN_PAGE                                                                                    \
    "coalesce(sum(" BYTES " + coalesce(octet_length(t.progress::text), 0) + "                      \
    "coalesce(octet_length(t.error::text), 0)) over page, 0) < 524288"

/* A SELECT's columns, in the order of the table. large: when those marked so are given; NULL:
 * always. */
static void add_columns(struct buf *b, const char *large)
{
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        const struct column *c = &columns[i];
        const char *when = OF_GRANT(c->name)          ? "t.grant_token = t.token"
                           : large && c->when & LARGE ? large
                                                      : NULL;

        buf_adds(b, i ? ", " : "");
        buf_addf(b, when ? "case when %s then t.%s%s end" : "%st.%s%s", when ? when : "", c->name,
                 kinds[c->kind].text);
    }
}

/* A statement that is built once: %C, %S and %L in `pattern` stand for the columns of a row, a scan
 * and a list. Lives as long as the process. */
static const char *sql_of(const char **ready, const char *pattern)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (*ready) {
        return *ready;
    }
    buf_init(&b, 65536);
    for (const char *at = pattern; *at; at++) {
        if (*at == '%') {
            at++;
            add_columns(&b, *at == 'S' ? IS_SMALL : *at == 'L' ? IN_PAGE : NULL);
        } else {
            buf_addc(&b, *at);
        }
    }
    return *ready = buf_take(&b);
}

/* ---- reading ---- */

static void read_column(const struct db_result *r, int row, int col, const struct column *c,
                        struct task *t)
{
    char *to = (char *)t + c->at;
    struct str s;

    switch (c->kind) {
    case K_ID:
        *(struct id *)to = db_is_null(r, row, col) ? (struct id){{0}} : db_get_id(r, row, col);
        break;
    case K_INT:
        *(int32_t *)to = (int32_t)db_get_int(r, row, col);
        break;
    case K_BIGINT:
        *(int64_t *)to = db_get_int(r, row, col);
        break;
    case K_TIME:
        *(int64_t *)to = db_get_time(r, row, col);
        break;
    case K_BOOL:
        *(bool *)to = db_get_bool(r, row, col);
        break;
    case K_TEXT:
    case K_JSON:
        s = db_get_text(r, row, col);
        *(char **)to = db_is_null(r, row, col) ? NULL : xstrndup(s.p, s.len);
        break;
    case K_WHO:
        s = db_get_text(r, row, col);
        memcpy(to, s.p, MIN(s.len, (size_t)NODE_ID_MAX));
        break;
    }
}

static int32_t int_at(const struct db_result *r, int row, int col)
{
    return (int32_t)db_get_int(r, row, col);
}

static void row_read(const struct db_result *r, int i, struct task *t)
{
    *t = (struct task){0};
    for (size_t c = 0; c < ARRAY_LEN(columns); c++) {
        read_column(r, i, (int)c, &columns[c], t);
    }
}

/* One call of a store function, from send to answer. */
struct call {
    union {
        store_done_fn *done;
        store_written_fn *written;
        store_rows_fn *rows;
        store_ready_fn *ready;
        store_keyed_fn *keyed;
        events_fn *events;
    } cb;
    void *arg;
    int limit;
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

static struct task *rows_read(const struct db_result *res, size_t n)
{
    struct task *rows = xcalloc(n, sizeof(*rows));

    for (size_t i = 0; i < n; i++) {
        row_read(res, (int)i, &rows[i]);
    }
    return rows;
}

static void on_rows(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;
    size_t n = rc < 0 ? 0 : (size_t)db_rows(res);
    struct task *rows = rows_read(res, n);

    c->cb.rows(c->arg, busy_for_conflict(rc), rows, n, why);
    rows_free(rows, n);
}

/* ---- arrays, one per column ---- */

enum { ARRAYS_MAX = 48 };

struct arrays {
    struct db_array a[ARRAYS_MAX];
    int n;
};

static struct db_array *arrays_next(struct arrays *c, enum db_type type)
{
    MUST(c->n < ARRAYS_MAX);
    db_array_init(&c->a[c->n], type);
    return &c->a[c->n++];
}

static void arrays_add(struct arrays *c, struct db_params *p)
{
    for (int i = 0; i < c->n; i++) {
        db_ref_array(p, &c->a[i]);
    }
}

static void arrays_free(struct arrays *c)
{
    for (int i = 0; i < c->n; i++) {
        db_array_free(&c->a[i]);
    }
}

static bool column_eq(const struct column *c, const struct task *x, const struct task *y)
{
    const void *a = (const char *)x + c->at;
    const void *b = (const char *)y + c->at;
    const char *s, *t;

    switch (c->kind) {
    case K_ID:
        return id_eq(a, b);
    case K_INT:
        return *(const int32_t *)a == *(const int32_t *)b;
    case K_BIGINT:
    case K_TIME:
        return *(const int64_t *)a == *(const int64_t *)b;
    case K_BOOL:
        return *(const bool *)a == *(const bool *)b;
    case K_TEXT:
    case K_JSON:
        s = *(char *const *)a;
        t = *(char *const *)b;
        return s && t ? streq(s, t) : s == t;
    case K_WHO:
        return streq(a, b);
    }
    return false;
}

static void put_column(struct db_array *a, const struct column *c, const struct task *t)
{
    const char *from = (const char *)t + c->at;
    static const struct id none = {{0}};

    switch (c->kind) {
    case K_ID:
        if (id_eq((const struct id *)from, &none)) {
            db_array_null(a);
        } else {
            db_array_id(a, (const struct id *)from);
        }
        break;
    case K_INT:
        db_array_int(a, *(const int32_t *)from);
        break;
    case K_BIGINT:
        db_array_bigint(a, *(const int64_t *)from);
        break;
    case K_TIME:
        db_array_time(a, *(const int64_t *)from);
        break;
    case K_BOOL:
        db_array_bool(a, *(const bool *)from);
        break;
    case K_TEXT:
    case K_JSON:
        db_array_text(a, *(char *const *)from);
        break;
    case K_WHO:
        db_array_text(a, *from ? from : NULL);
        break;
    }
}

/* Row `i` of what a caller has. */
typedef const struct task *row_fn(const void *list, size_t i);

static const struct task *of_rows(const void *list, size_t i)
{
    return &((const struct task *)list)[i];
}

static const struct task *of_changes(const void *list, size_t i)
{
    return ((const struct store_change *)list)[i].row;
}

/* The columns that belong to `when`, each an array over all rows. */
static void arrays_fill(struct arrays *to, int when, row_fn *row, const void *list, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        if (columns[i].when & when) {
            struct db_array *a = arrays_next(to, kinds[columns[i].kind].type);

            for (size_t k = 0; k < n; k++) {
                put_column(a, &columns[i], row(list, k));
            }
        }
    }
}

/* "unnest($1::uuid[]) as id, …" of the columns that belong to `when`, from parameter `first` on:
 * rows, if it is what a SELECT asks for. (As its table, `from unnest($1::uuid[], …)`, each array
 * would be spooled by itself, at five times the cost.) Returns the number of the next parameter. */
static int add_unnest(struct buf *b, int when, int first)
{
    int n = first;

    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        if (columns[i].when & when) {
            buf_addf(b, "%sunnest($%d::%s) as %s", n == first ? "" : ", ", n,
                     kinds[columns[i].kind].array, columns[i].name);
            n++;
        }
    }
    return n;
}

/* ---- insert ---- */

#define INSERT_EVENT                                                                               \
    "insert into event (task_id, seq, at, attempt, to_state, event) "                              \
    "select c.id, 1, c.submitted_at, 1, c.state::smallint, 'accepted' from c"

static void add_insert_task(struct buf *b)
{
    struct buf values CLEANUP(buf_free) = {0};

    buf_init(&values, 4096);
    buf_adds(b, "insert into task (");
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        const struct column *c = &columns[i];
        const char *comma = i ? ", " : "";

        if (!(c->when & INSERTED) && !c->fresh) {
            continue;
        }
        buf_addf(b, "%s%s", comma, c->name);
        if (c->when & INSERTED) {
            buf_addf(&values, "%sc.%s%s", comma, c->name, kinds[c->kind].cast);
        } else {
            buf_addf(&values, "%s%s", comma, c->fresh);
        }
    }
    buf_addf(b, ") select %.*s from c", (int)values.len, values.data);
}

/* The parameters refer to `c` until they are sent. */
static void insert_params(struct db_params *p, struct arrays *c, const struct task *rows, size_t n)
{
    arrays_fill(c, INSERTED, of_rows, rows, n);
    arrays_add(c, p);
}

static void on_inserted(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;

    (void)res;
    c->cb.done(c->arg, rc, why);
}

static const char *insert_sql(void)
{
    static const char *ready;
    struct buf b CLEANUP(buf_free) = {0};

    if (!ready) {
        buf_init(&b, 65536);
        buf_adds(&b, "with c as materialized (select ");
        add_unnest(&b, INSERTED, 1);
        buf_adds(&b, "), t as (");
        add_insert_task(&b);
        buf_adds(&b, ") " INSERT_EVENT);
        ready = buf_take(&b);
    }
    return ready;
}

int store_insert(struct db *db, const struct task *rows, size_t n, store_done_fn *cb, void *arg)
{
    struct arrays arrays CLEANUP(arrays_free) = {.n = 0};
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);

    db_params_init(&p);
    insert_params(&p, &arrays, rows, n);
    c->cb.done = cb;
    return send_call(db, insert_sql(), &p, on_inserted, c);
}

static void on_inserted_keyed(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;

    if (rc < 0) {
        c->cb.keyed(c->arg, busy_for_conflict(rc), NULL, NULL, 0, why);
        return;
    }
    size_t n = (size_t)db_rows(res);
    struct err e = {0};
    if (n == 0 || db_is_null(res, 0, 1)) {
        /* The key is there, but its row was committed after our snapshot. */
        rc = err_set(&e, ERR_BUSY, "another request with this Idempotency-Key is being answered");
        c->cb.keyed(c->arg, rc, NULL, NULL, 0, &e);
        return;
    }
    bool replayed = !db_get_bool(res, 0, 0);
    if (replayed && !db_get_bool(res, 0, 1)) {
        rc = err_set(&e, ERR_CONFLICT, "this Idempotency-Key was used with another body");
        c->cb.keyed(c->arg, rc, NULL, NULL, 0, &e);
        return;
    }
    struct id *ids CLEANUP(freep) = xcalloc(n, sizeof(*ids));
    enum task_state *states CLEANUP(freep) = xcalloc(n, sizeof(*states));
    for (size_t i = 0; i < n; i++) {
        ids[i] = db_get_id(res, (int)i, 2);
        states[i] = db_is_null(res, (int)i, 3) ? 0 : (enum task_state)db_get_int(res, (int)i, 3);
    }
    c->cb.keyed(c->arg, 0, ids, replayed ? states : NULL, n, NULL);
}

/* $1 key, $2 and $3 hashes, then the rows, of which the first array are the ids. */
static const char *insert_keyed_sql(void)
{
    static const char *ready;
    struct buf b CLEANUP(buf_free) = {0};

    if (!ready) {
        buf_init(&b, 65536);
        buf_adds(&b, "with k as (insert into idempotency (key, body_hash, json_hash, tasks, "
                     "created_at) values ($1, $2, $3, $4, now()) on conflict (key) do nothing "
                     "returning key), "
                     "c as materialized (select ");
        add_unnest(&b, INSERTED, 4);
        buf_adds(&b, " where exists (select 1 from k)), t as (");
        add_insert_task(&b);
        buf_adds(&b, "), e as (" INSERT_EVENT ") "
                     "select true, true, x.id, null::smallint from k, unnest($4::uuid[]) with "
                     "ordinality as x(id, n) union all "
                     "select false, i.body_hash = $2 or coalesce(i.json_hash = $3, false), x.id, "
                     "(select t.state from task t where t.id = x.id) from idempotency i, "
                     "unnest(i.tasks) with ordinality as x(id, n) "
                     "where i.key = $1 and not exists (select 1 from k)");
        ready = buf_take(&b);
    }
    return ready;
}

int store_insert_keyed(struct db *db, const struct task *rows, size_t n, const char *key,
                       const struct accept_hash *hash, store_keyed_fn *cb, void *arg)
{
    struct arrays arrays CLEANUP(arrays_free) = {.n = 0};
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);

    db_params_init(&p);
    db_add_text(&p, key);
    db_add_bytes(&p, hash->bytes, sizeof(hash->bytes));
    db_add_bytes(&p, hash->json, sizeof(hash->json));
    insert_params(&p, &arrays, rows, n);
    c->cb.keyed = cb;
    return send_call(db, insert_keyed_sql(), &p, on_inserted_keyed, c);
}

/* ---- write ---- */

static const enum db_type audit_types[] = {DB_ID,  DB_INT,  DB_TIME, DB_INT, DB_INT,
                                           DB_INT, DB_TEXT, DB_TEXT, DB_TEXT};

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

/* $1 epoch, $2 ids, $3 what seq was, then the columns and the audit. The `any` in the join leaves
 * one plan: each id is looked up. With `t.id = c.id` the planner may as well read the whole index
 * and compare each row with each id, and does so where its statistics are of an hour without tasks.
 */
static const char *write_sql(int when)
{
    static const char *of[2];
    const char **ready = &of[!!(when & SELDOM)];
    struct buf b CLEANUP(buf_free) = {0};

    if (*ready) {
        return *ready;
    }
    buf_init(&b, 65536);
    buf_adds(&b, "with u as (update task t set grant_token = c.token");
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        const struct column *c = &columns[i];

        if (c->when & when) {
            buf_addf(&b, ", %s = c.%s%s", c->name, c->name, kinds[c->kind].cast);
        }
    }
    buf_adds(&b, " from (select unnest($2::uuid[]) as id, unnest($3::int[]) as old_seq, ");
    int n = add_unnest(&b, when, 4);
    buf_addf(&b,
             ") c where t.id = any(array[c.id]) and t.seq = c.old_seq "
             "and ($1::bigint = 0 or exists (select 1 from leader where epoch = $1)) "
             "returning t.id), "
             "e as (insert into event (task_id, seq, at, attempt, from_state, to_state, event, "
             "worker_id, detail) select x.task_id, x.seq, x.at, x.attempt, "
             "x.from_state::smallint, x.to_state::smallint, x.event, x.worker_id, x.detail::json "
             "from (select unnest($%d::uuid[]) as task_id, unnest($%d::int[]) as seq, "
             "unnest($%d::timestamptz[]) as at, unnest($%d::int[]) as attempt, "
             "unnest($%d::int[]) as from_state, unnest($%d::int[]) as to_state, "
             "unnest($%d::text[]) as event, unnest($%d::text[]) as worker_id, "
             "unnest($%d::text[]) as detail) x "
             "where x.task_id in (select id from u)) select id from u",
             n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8);
    return *ready = buf_take(&b);
}

/* The columns that a statement for all of them has to write. */
static int what_changes(const struct store_change *changes, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        for (size_t k = 0; columns[i].when & SELDOM && k < n; k++) {
            if (!column_eq(&columns[i], changes[k].row, changes[k].before)) {
                return WRITTEN | SELDOM;
            }
        }
    }
    return WRITTEN;
}

int store_write(struct db *db, const struct store_change *changes, size_t n, int64_t epoch,
                store_written_fn *cb, void *arg)
{
    struct arrays arrays CLEANUP(arrays_free) = {.n = 0};
    struct db_params p CLEANUP(db_params_free);
    struct call *c = call_new(arg);
    int when = what_changes(changes, n);

    struct db_array *ids = arrays_next(&arrays, DB_ID);
    struct db_array *seqs = arrays_next(&arrays, DB_INT);
    for (size_t i = 0; i < n; i++) {
        db_array_id(ids, &changes[i].row->id);
        db_array_int(seqs, changes[i].before->seq);
    }
    arrays_fill(&arrays, when, of_changes, changes, n);
    struct db_array *audit = &arrays.a[arrays.n];
    for (size_t i = 0; i < ARRAY_LEN(audit_types); i++) {
        (void)arrays_next(&arrays, audit_types[i]);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < changes[i].n_audit; k++) {
            write_audit(audit, &changes[i].row->id, &changes[i].audit[k]);
        }
    }
    db_params_init(&p);
    db_add_bigint(&p, epoch);
    arrays_add(&arrays, &p);
    c->cb.written = cb;
    return send_call(db, write_sql(when), &p, on_written, c);
}

/* ---- scans ---- */

static int select_rows(struct db *db, const char *sql, struct db_params *p, store_rows_fn *cb,
                       void *arg)
{
    struct call *c = call_new(arg);

    c->cb.rows = cb;
    return send_call(db, sql, p, on_rows, c);
}

static int load(struct db *db, const char *sql, const struct id *ids, size_t n, store_rows_fn *cb,
                void *arg)
{
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

int store_load(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb, void *arg)
{
    static const char *ready;
    const char *sql = sql_of(&ready, "select %C from task t where t.id = any($1::uuid[])");

    return load(db, sql, ids, n, cb, arg);
}

int store_load_final(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb, void *arg)
{
    static const char *ready;
    const char *sql = sql_of(
        &ready, "select %C from task t where t.id = any($1::uuid[]) and t.state >= 5 limit 50");

    return load(db, sql, ids, n, cb, arg);
}

#define LOOK_AT "20000"

/* The inner query goes along an index and ends early: rows that nobody wants, however many there
 * are, take no statement beyond its time. The outer one keeps its order; with a sort it would read
 * all of it for the first page. The subquery is of a form that is evaluated row by row and cannot
 * be turned into a join, which might not keep the order either. */
#define READY(more)                                                                                \
    "select %S, (t.looked = " LOOK_AT ")::int from (select r.*, row_number() over (order by "      \
    "r.pool, r.rank, r.id) as looked from task r where r.state = 2 and r.pool = $1 and "           \
    "(r.rank, r.id) > ($2, $3) " more "order by r.pool, r.rank, r.id limit " LOOK_AT ") t "        \
    "where t.looked = " LOOK_AT " or (t.job_type = any($5::text[]) and t.slots <= $6::bigint "     \
    "and t.cpus_milli <= $7::bigint and t.memory_mb <= $8::bigint and ($9 = '{}' or not "          \
    "coalesce((select "                                                                            \
    "bool_or(t.slots <= o.slots and t.cpus_milli <= o.cpus and t.memory_mb <= o.memory) from "     \
    "unnest($9::bigint[], $10::bigint[], $11::bigint[]) as o(slots, cpus, memory)), false))) "     \
    "order by t.rank, t.id limit $4"

static void on_ready(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct call *c CLEANUP(freep) = arg;
    size_t n = rc < 0 ? 0 : (size_t)db_rows(res);
    struct task *rows = rows_read(res, n);
    bool all =
        n < (size_t)c->limit && (n == 0 || !db_get_int(res, (int)n - 1, (int)ARRAY_LEN(columns)));

    c->cb.ready(c->arg, busy_for_conflict(rc), rows, n, all, why);
    rows_free(rows, n);
}

/* It takes nothing plain: there is an index of the others. */
static bool is_scarce(const struct offers_filter *f)
{
    bool yes = false;

    for (size_t i = 0; i < f->n_out; i++) {
        yes = yes || (f->out[i].slots >= f->most.slots && f->out[i].cpus_milli == 0 &&
                      f->out[i].memory_mb == 0);
    }
    return yes;
}

int store_scan_ready(struct db *db, const char *pool, int64_t rank, const struct id *after,
                     const struct offers_filter *filter, int limit, store_ready_fn *cb, void *arg)
{
    static const char *ready[2];
    const char *sql = is_scarce(filter)
                          ? sql_of(&ready[1], READY("and (r.cpus_milli > 0 or r.memory_mb > 0) "))
                          : sql_of(&ready[0], READY(""));
    struct arrays arrays CLEANUP(arrays_free) = {.n = 0};
    struct db_params p CLEANUP(db_params_free);

    struct db_array *types = arrays_next(&arrays, DB_TEXT);
    struct db_array *slots = arrays_next(&arrays, DB_BIGINT);
    struct db_array *cpus = arrays_next(&arrays, DB_BIGINT);
    struct db_array *memory = arrays_next(&arrays, DB_BIGINT);
    for (size_t i = 0; i < filter->n_types; i++) {
        db_array_text(types, filter->types[i]);
    }
    for (size_t i = 0; i < filter->n_out; i++) {
        db_array_bigint(slots, filter->out[i].slots);
        db_array_bigint(cpus, filter->out[i].cpus_milli);
        db_array_bigint(memory, filter->out[i].memory_mb);
    }
    db_params_init(&p);
    db_add_text(&p, pool);
    db_add_bigint(&p, rank);
    db_add_id(&p, after);
    db_add_int(&p, limit);
    db_ref_array(&p, types);
    db_add_bigint(&p, filter->most.slots);
    db_add_bigint(&p, filter->most.cpus_milli);
    db_add_bigint(&p, filter->most.memory_mb);
    db_ref_array(&p, slots);
    db_ref_array(&p, cpus);
    db_ref_array(&p, memory);
    struct call *c = call_new(arg);
    c->cb.ready = cb;
    c->limit = limit;
    return send_call(db, sql, &p, on_ready, c);
}

int store_scan_fed(struct db *db, const char *pool, int limit, store_rows_fn *cb, void *arg)
{
    static const char *ready;
    const char *sql = sql_of(&ready, "select %S from task t where t.state = 3 and t.pool = $1 "
                                     "order by t.pool, t.rank, t.id limit $2");
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_text(&p, pool);
    db_add_int(&p, limit);
    return select_rows(db, sql, &p, cb, arg);
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
    static const char *ready;
    const char *sql = sql_of(&ready, "select %S from task t where t.state = 1 "
                                     "and t.run_after <= $1 order by t.run_after limit $2");

    return scan_until(db, sql, now, limit, cb, arg);
}

int store_scan_queue_timeout(struct db *db, int64_t now, int limit, store_rows_fn *cb, void *arg)
{
    static const char *ready;
    const char *sql = sql_of(&ready, "select %S from task t where t.state in (1, 2, 3) and "
                                     "t.queue_deadline <= $1 order by t.queue_deadline limit $2");

    return scan_until(db, sql, now, limit, cb, arg);
}

int store_scan_running(struct db *db, const struct id *after, int limit, store_rows_fn *cb,
                       void *arg)
{
    static const char *ready;
    const char *sql = sql_of(&ready, "select %S from task t where t.state = 4 and t.id > $1 "
                                     "order by t.id limit $2");
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_id(&p, after);
    db_add_int(&p, limit);
    return select_rows(db, sql, &p, cb, arg);
}

/* $1 job id, $2 job type, $3 older than this id, $4 limit. Troubles are few among many successes
 * and have an index of their own, as the live states have; the indexes by job and by type leave out
 * what runs, which is never much. */
#define OF_JOB  "($1::text is null or t.job_id = $1)"
#define OF_TYPE "($2::text is null or t.job_type = $2)"
#define OLDER   "($3::uuid is null or t.id < $3)"
#define LIST(from)                                                                                 \
    "select %L from " from                                                                         \
    " window page as (order by t.id desc rows between unbounded preceding and 1 preceding) "       \
    "order by t.id desc limit $4"
#define SOME(condition) "task t where " condition " and " OF_JOB " and " OF_TYPE " and " OLDER
#define FIRST(condition)                                                                           \
    "select * from (select * from " SOME(condition) " order by t.id desc limit $4)"

const char *store_list_sql(const struct list_filter *f)
{
    static struct {
        const char *state; /* NULL: all */
        const char *pattern;
        const char *sql;
    } kinds_of[] = {
        {"QUEUED", LIST(SOME("t.state in (1, 2, 3)")), NULL},
        {"RUNNING", LIST(SOME("t.state = 4")), NULL},
        {"SUCCEEDED", LIST(SOME("t.state = 5")), NULL},
        {"FAILED", LIST(SOME("t.state in (6, 7, 8) and t.state <> 7")), NULL},
        {"CANCELLED", LIST(SOME("t.state in (6, 7, 8) and t.state = 7")), NULL},
        {NULL, LIST("(" FIRST("t.state <> 4") " a union all " FIRST("t.state = 4") " b) t"), NULL},
        {NULL, LIST(SOME("true")), NULL},
    };
    size_t kind = ARRAY_LEN(kinds_of) - (f->job_id || f->job_type ? 2 : 1);

    for (size_t i = 0; f->state && i < ARRAY_LEN(kinds_of); i++) {
        if (streq(f->state, kinds_of[i].state)) {
            kind = i;
        }
    }
    return sql_of(&kinds_of[kind].sql, kinds_of[kind].pattern);
}

void store_list_params(struct db_params *p, const struct list_filter *f)
{
    db_params_init(p);
    db_add_text(p, f->job_id);
    db_add_text(p, f->job_type);
    db_add_id(p, f->after);
    db_add_int(p, f->limit);
}

int store_list(struct db *db, const struct list_filter *f, store_rows_fn *cb, void *arg)
{
    struct db_params p CLEANUP(db_params_free);

    store_list_params(&p, f);
    return select_rows(db, store_list_sql(f), &p, cb, arg);
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
