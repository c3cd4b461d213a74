/* The database behind db.h and store.h: one table of tasks with compare-and-set on seq, the audit,
 * idempotency keys, the leader's epoch, an advisory lock. Statements are atomic; whether one whose
 * connection was lost took effect, and when, only the database knows. Every write is checked
 * against the rules before it is applied. */
#include "internal/broken.h"
#include "internal/db.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define ROWS_MAX     32
#define LOOK_AT      5    /* READY rows */
#define LOCK_IDLE_MS 6000 /* as db_lock.c asks the server to */

void db_reset(struct db *db, const struct err *why); /* internal/db_conn.h */

enum stmt_kind {
    ST_SQL,
    ST_INSERT,
    ST_KEYED,
    ST_WRITE,
    ST_LOAD,
    ST_READY,
    ST_FED,
    ST_DUE,
    ST_OVERDUE,
    ST_RUNNING,
};

struct db {
    struct list_node node; /* base.pools */
    struct db_options o;
    struct proc *proc;
    uint32_t gen;
    bool up;
    bool closing;
    bool cut;      /* nothing passes any more */
    uint64_t life; /* of the connection */
    uint64_t gone; /* the last one that the server knows to be over */
    int64_t heard; /* when the server got the last statement */
    struct list open;
};

struct db_result {
    int rows;
    int64_t value[2];
};

struct change {
    struct task row;
    int32_t old_seq;
    struct task_audit *audit;
    size_t n_audit;
};

/* One statement on its way. */
struct stmt {
    struct list_node node; /* db->open until it is answered */
    struct db *db;
    uint64_t life;
    enum stmt_kind kind;
    const char *sql;
    struct change *changes;
    size_t n;
    struct id *ids;
    struct offers_filter filter;
    int64_t when;
    struct id after;
    char *key;
    int64_t epoch;
    bool lost; /* never arrives */
    bool answered;
    union {
        db_done_fn *sql;
        store_done_fn *done;
        store_keyed_fn *keyed;
        store_written_fn *written;
        store_rows_fn *rows;
        store_ready_fn *ready;
    } cb;
    void *arg;
    /* the answer */
    int rc;
    int64_t value[2];
    int64_t numbers[2]; /* the first parameters */
    bool no_row;
    bool replayed;
    enum task_state state; /* then */
    struct task *rows;
    size_t n_rows;
    bool all;
};

static struct {
    bool up;
    bool slow;
    struct row rows[ROWS_MAX];
    char *keys[ROWS_MAX];
    size_t n;
    int64_t epoch;
    int64_t grace_s;
    struct db *lock;
    uint64_t lock_life;
    struct list pools;
} base;

void base_init(void)
{
    memset(&base, 0, sizeof(base));
    base.up = true;
    list_init(&base.pools);
}

struct row *base_row(const struct id *id)
{
    for (size_t i = 0; i < base.n; i++) {
        if (id_eq(&base.rows[i].t.id, id)) {
            return &base.rows[i];
        }
    }
    return NULL;
}

size_t base_rows(void)
{
    return base.n;
}

struct row *base_row_at(size_t i)
{
    return &base.rows[i];
}

int64_t base_epoch(void)
{
    return base.epoch;
}

/* ---- the rules ---- */

static bool same_outcome(const struct task *a, const struct task *b)
{
    return a->state == b->state && a->attempt == b->attempt && a->finished_at == b->finished_at &&
           (a->output == b->output || streq(a->output, b->output)) &&
           (a->error == b->error || streq(a->error, b->error));
}

static void check_audit(const struct task *before, const struct change *c)
{
    enum task_state at = before->state;

    for (size_t i = 0; i < c->n_audit; i++) {
        const struct task_audit *a = &c->audit[i];

        if (a->seq != before->seq + 1 + (int32_t)i) {
            violation("audit with a gap: seq %d after %d", a->seq, before->seq + (int)i);
        }
        if (a->from != at || (a->to != at && !task_edge_allowed(at, a->to))) {
            violation("audit: %s from %s to %s, but it was %s", a->event, task_state_name(a->from),
                      task_state_name(a->to), task_state_name(at));
        }
        if (task_state_final(at) && strcmp(a->event, "requeued") != 0 &&
            strcmp(a->event, "superseded") != 0) {
            violation("a final outcome was followed by %s", a->event);
        }
        at = a->to;
    }
    if (at != c->row.state || c->row.seq != before->seq + (int32_t)c->n_audit) {
        violation("the audit does not tell the state that was written");
    }
}

static bool requeued(const struct change *c)
{
    for (size_t i = 0; i < c->n_audit; i++) {
        if (strcmp(c->audit[i].event, "requeued") == 0) {
            return true;
        }
    }
    return false;
}

static void check_outcome(const struct task *before, const struct change *c)
{
    const struct task *t = &c->row;
    int32_t ended = before->attempt;
    static const struct {
        const char *event;
        enum truth truth;
    } claims[] = {
        {"succeeded", TRUTH_SUCCEEDED}, {"retry", TRUTH_FAILED}, {"returned", TRUTH_RETURNED}};

    if (task_state_final(before->state) && !requeued(c) && !same_outcome(before, t)) {
        violation("a final outcome was changed: %s to %s", task_state_name(before->state),
                  task_state_name(t->state));
    }
    if (before->state == TASK_RUNNING && t->losses > before->losses &&
        node_runs_safely(&t->id, ended, before->token)) {
        violation("attempt %d was given up while it runs under its lease", ended);
    }
    if (t->failures > before->failures && !node_saw(&t->id, ended, before->token, TRUTH_FAILED)) {
        violation("attempt %d counts as a failure, and did not fail", ended);
    }
    if (t->returns > before->returns && t->losses > before->losses) {
        violation("attempt %d was returned and counts as lost too", ended);
    }
    for (size_t i = 0; i < c->n_audit; i++) {
        for (size_t k = 0; k < ARRAY_LEN(claims); k++) {
            if (streq(c->audit[i].event, claims[k].event) &&
                !node_saw(&t->id, ended, before->token, claims[k].truth)) {
                violation("%s was written for attempt %d, which did not end so", claims[k].event,
                          ended);
            }
        }
    }
}

static void check_budgets(const struct task *before, const struct change *c)
{
    const struct task *t = &c->row;

    if (t->failures > t->max_attempts || t->attempt < before->attempt ||
        t->attempt > before->attempt + (int32_t)c->n_audit) {
        violation("budget overrun: attempt %d, %d failures of %d", t->attempt, t->failures,
                  t->max_attempts);
    }
}

static void check_write(const struct task *before, const struct change *c, int64_t epoch)
{
    if (epoch && epoch != base.epoch) {
        violation("a leader of epoch %lld wrote, but %lld leads", (long long)epoch,
                  (long long)base.epoch);
    }
    check_audit(before, c);
    check_outcome(before, c);
    check_budgets(before, c);
}

/* ---- statements ---- */

static void add_row(struct stmt *s, const struct task *t)
{
    s->rows = xrealloc(s->rows, (s->n_rows + 1) * sizeof(*s->rows));
    task_copy(&s->rows[s->n_rows++], t);
}

static void insert(struct stmt *s)
{
    for (size_t i = 0; i < s->n; i++) {
        MUST(base.n < ROWS_MAX);
        task_copy(&base.rows[base.n].t, &s->changes[i].row);
        base.rows[base.n].t.token = 0;
        base.keys[base.n] = xstrdup(s->key);
        base.n++;
    }
}

static void insert_keyed(struct stmt *s)
{
    s->ids = xcalloc(s->n, sizeof(*s->ids));
    for (size_t i = 0; i < base.n; i++) {
        if (streq(base.keys[i], s->key)) {
            s->replayed = true;
            s->ids[0] = base.rows[i].t.id;
            s->state = base.rows[i].t.state;
            return;
        }
    }
    insert(s);
    s->ids[0] = s->changes[0].row.id;
}

static void write_rows(struct stmt *s)
{
    size_t written = 0;

    s->ids = xcalloc(s->n, sizeof(*s->ids));
    for (size_t i = 0; i < s->n; i++) {
        struct change *c = &s->changes[i];
        struct row *r = base_row(&c->row.id);

        if (!r || (r->t.seq != c->old_seq && !BROKEN(SEQ)) ||
            (s->epoch && s->epoch != base.epoch && !BROKEN(EPOCH))) {
            continue;
        }
        check_write(&r->t, c, s->epoch);
        for (size_t k = 0; k < c->n_audit; k++) {
            struct task_audit *a = &c->audit[k];

            trace("    task %02x: %d %s attempt %d -> %s (by %s)", r->t.id.b[0], a->seq, a->event,
                  a->attempt, task_state_name(a->to), s->db->proc->name);
        }
        struct task before = r->t;
        task_copy(&r->t, &c->row);
        plan_row_written(&before, &r->t, c->n_audit ? c->audit[c->n_audit - 1].event : "");
        task_done(&before);
        s->ids[written++] = c->row.id;
    }
    s->n = written;
}

static int by_rank(const void *a, const void *b)
{
    const struct task *x = a;
    const struct task *y = b;

    return x->rank != y->rank ? (x->rank < y->rank ? -1 : 1) : memcmp(x->id.b, y->id.b, ID_LEN);
}

static int by_id(const void *a, const void *b)
{
    return memcmp(((const struct task *)a)->id.b, ((const struct task *)b)->id.b, ID_LEN);
}

static bool wanted(const struct stmt *s, const struct task *t)
{
    bool queued = t->state >= TASK_SCHEDULED && t->state <= TASK_FED;

    switch (s->kind) {
    case ST_READY:
        return t->state == TASK_READY &&
               (t->rank > s->when ||
                (t->rank == s->when && memcmp(t->id.b, s->after.b, ID_LEN) > 0));
    case ST_FED:
        return t->state == TASK_FED;
    case ST_DUE:
        return t->state == TASK_SCHEDULED && t->run_after <= s->when;
    case ST_OVERDUE:
        return queued && t->queue_deadline != INT64_MIN && t->queue_deadline <= s->when;
    case ST_RUNNING:
        return t->state == TASK_RUNNING && memcmp(t->id.b, s->after.b, ID_LEN) > 0;
    case ST_SQL:
    case ST_INSERT:
    case ST_KEYED:
    case ST_WRITE:
    case ST_LOAD:
        break;
    }
    return false;
}

/* At the first few, so that there is always more behind them. */
static void look(struct stmt *s)
{
    size_t n = 0;

    s->all = s->n_rows <= LOOK_AT;
    for (size_t i = 0; i < s->n_rows; i++) {
        struct task *t = &s->rows[i];
        struct need need = {t->job_type, {t->slots, t->cpus_milli, t->memory_mb}};

        if (i < LOOK_AT &&
            ((i == LOOK_AT - 1 && !s->all) || offers_filter_takes(&s->filter, &need))) {
            s->rows[n++] = *t;
        } else {
            task_done(t);
        }
    }
    s->n_rows = n;
}

static void scan(struct stmt *s)
{
    for (size_t i = 0; i < base.n; i++) {
        if (wanted(s, &base.rows[i].t)) {
            add_row(s, &base.rows[i].t);
        }
    }
    if (s->n_rows > 1) {
        qsort(s->rows, s->n_rows, sizeof(*s->rows), s->kind == ST_READY ? by_rank : by_id);
    }
    if (s->kind == ST_READY) {
        look(s);
    }
}

static void load(struct stmt *s)
{
    for (size_t i = 0; i < s->n; i++) {
        struct row *r = base_row(&s->ids[i]);

        if (r) {
            add_row(s, &r->t);
        }
    }
}

static void let_lock_go(struct db *db, uint64_t life)
{
    db->gone = MAX(db->gone, life);
    if (base.lock == db && base.lock_life == life) {
        trace("    the lock of %s is free", db->proc->name);
        base.lock = NULL;
    }
}

static void client_notices(struct db *db, int64_t in_ms);

/* The server closes the session of a holder that says nothing. */
static void end_if_idle(struct db *holder)
{
    if (holder && world->now - holder->heard > LOCK_IDLE_MS) {
        let_lock_go(holder, base.lock_life);
        client_notices(holder, between(0, 5));
    }
}

static bool lock_is_free(const struct stmt *s)
{
    return s->life > s->db->gone &&
           (!base.lock || (base.lock == s->db && base.lock_life == s->life));
}

static void run_sql(struct stmt *s)
{
    if (strstr(s->sql, "pg_try_advisory_lock")) {
        end_if_idle(base.lock);
        s->value[0] = lock_is_free(s);
        if (s->value[0]) {
            base.lock = s->db;
            base.lock_life = s->life;
        }
        s->value[1] = (int64_t)s->life;
    } else if (strstr(s->sql, "pg_backend_pid")) {
        s->value[0] = (int64_t)s->life;
    } else if (strstr(s->sql, "set epoch = l.epoch + 1")) {
        s->value[0] = ++base.epoch;
        s->value[1] = base.grace_s;
        base.grace_s = MAX(base.grace_s, s->numbers[1]);
        trace("    epoch %lld for %s after a grace of %lld s", (long long)base.epoch,
              s->db->proc->name, (long long)s->value[1]);
    } else if (strstr(s->sql, "update leader set grace_s")) {
        base.grace_s = s->numbers[1] == base.epoch ? s->numbers[0] : base.grace_s;
    } else if (strstr(s->sql, "select epoch from leader")) {
        s->value[0] = base.epoch;
    } else if (strstr(s->sql, "clock_timestamp")) {
        s->value[0] = wall_now();
    } else {
        s->no_row = true;
    }
}

static void run(struct stmt *s)
{
    switch (s->kind) {
    case ST_SQL:
        run_sql(s);
        break;
    case ST_INSERT:
        insert(s);
        break;
    case ST_KEYED:
        insert_keyed(s);
        break;
    case ST_WRITE:
        write_rows(s);
        break;
    case ST_LOAD:
        load(s);
        break;
    case ST_READY:
    case ST_FED:
    case ST_DUE:
    case ST_OVERDUE:
    case ST_RUNNING:
        scan(s);
        break;
    }
}

static void answer(struct stmt *s)
{
    struct err why = {s->rc, "the database: a simulated failure"};
    const struct err *e = s->rc < 0 ? &why : NULL;
    struct db_result res = {s->no_row ? 0 : 1, {s->value[0], s->value[1]}};

    if (s->answered) {
        return;
    }
    s->answered = true;
    list_remove(&s->node);
    switch (s->kind) {
    case ST_SQL:
        s->cb.sql(s->arg, s->rc, s->rc < 0 ? NULL : &res, e);
        break;
    case ST_INSERT:
        s->cb.done(s->arg, s->rc, e);
        break;
    case ST_KEYED:
        s->cb.keyed(s->arg, s->rc, s->ids, s->replayed ? &s->state : NULL, s->rc < 0 ? 0 : 1, e);
        break;
    case ST_WRITE:
        s->cb.written(s->arg, s->rc, s->ids, s->rc < 0 ? 0 : s->n, e);
        break;
    case ST_READY:
        s->cb.ready(s->arg, s->rc, s->rows, s->rc < 0 ? 0 : s->n_rows, s->all, e);
        break;
    case ST_LOAD:
    case ST_FED:
    case ST_DUE:
    case ST_OVERDUE:
    case ST_RUNNING:
        s->cb.rows(s->arg, s->rc, s->rows, s->rc < 0 ? 0 : s->n_rows, e);
        break;
    }
}

static void on_answer(void *arg)
{
    struct stmt *s = arg;

    if (!s->db->cut && s->db->life == s->life && s->db->gen == s->db->proc->gen) {
        answer(s);
    }
}

static int64_t trip(void)
{
    return between(0, base.slow ? 1500 : chance(30) ? 200 : 3);
}

/* Some statements fail without effect; of some the answer is lost, with the connection. */
static void on_arrival(void *arg)
{
    struct stmt *s = arg;
    static const int refusals[] = {ERR_CONFLICT, ERR_BUSY, ERR_TIMEOUT};

    if (s->lost || !base.up || s->life <= s->db->gone) {
        return;
    }
    s->db->heard = world->now;
    if (!world->calm && chance(4)) {
        s->rc = refusals[draw() % ARRAY_LEN(refusals)];
    } else {
        run(s);
        if (!world->calm && chance(4)) {
            s->rc = ERR_DB_DOWN;
        }
    }
    sim_at(world->now + trip(), s->db->proc, on_answer, s);
}

static struct stmt *begin(struct db *db, enum stmt_kind kind, void *arg)
{
    struct stmt *s = xmalloc(sizeof(*s));

    s->db = db;
    s->kind = kind;
    s->life = db->life;
    s->arg = arg;
    s->lost = db->cut && chance(500);
    list_push(&db->open, &s->node);
    sim_at(world->now + trip(), NULL, on_arrival, s);
    return s;
}

/* ---- db.h ---- */

static void on_connect(void *arg)
{
    struct db *db = arg;

    if (db->closing || db->up) {
        return;
    }
    if (!base.up || db->proc->no_base) {
        sim_at(world->now + between(200, 1000), db->proc, on_connect, db);
        return;
    }
    db->up = true;
    db->cut = false;
    db->life++;
    if (db->o.on_up) {
        db->o.on_up(db->o.arg);
    }
}

struct db *db_open(uv_loop_t *loop, const struct db_options *o)
{
    struct db *db = xmalloc(sizeof(*db));

    db->o = *o;
    db->proc = loop->data;
    db->gen = db->proc->gen;
    list_init(&db->open);
    list_push(&base.pools, &db->node);
    sim_at(world->now + between(1, 20), db->proc, on_connect, db);
    return db;
}

struct notice {
    struct db *db;
    uint64_t life;
};

static void on_server_notices(void *arg)
{
    struct notice *n = arg;

    let_lock_go(n->db, n->life);
}

static void server_notices(struct db *db, int64_t in_ms)
{
    struct notice *n = xmalloc(sizeof(*n));

    *n = (struct notice){db, db->life};
    sim_at(world->now + in_ms, NULL, on_server_notices, n);
}

/* The client knows: what was in flight is unknown. */
static void client_down(struct db *db, int rc)
{
    struct err why = {ERR_DB_DOWN, "the connection was lost"};
    struct list_node *n;

    db->up = false;
    db->cut = true;
    while ((n = list_first(&db->open))) {
        struct stmt *s = CONTAINER_OF(n, struct stmt, node);

        s->rc = rc;
        s->lost = s->lost || chance(500);
        answer(s);
    }
    if (!db->closing && db->o.on_down) {
        db->o.on_down(db->o.arg, &why);
    }
    if (!db->closing) {
        sim_at(world->now + between(200, 1500), db->proc, on_connect, db);
    }
}

static void on_client_notices(void *arg)
{
    struct notice *n = arg;

    if (n->db->up && n->db->life == n->life) {
        client_down(n->db, ERR_DB_DOWN);
    }
    free(n);
}

static void client_notices(struct db *db, int64_t in_ms)
{
    struct notice *n = xmalloc(sizeof(*n));

    *n = (struct notice){db, db->life};
    if (db->gen == db->proc->gen) {
        sim_at(world->now + in_ms, db->proc, on_client_notices, n);
    }
}

void db_reset(struct db *db, const struct err *why)
{
    (void)why;
    if (db->up) {
        server_notices(db, between(0, 50));
        client_down(db, ERR_DB_DOWN);
    }
}

struct closed_call {
    struct db *db;
    void (*fn)(void *arg);
    void *arg;
};

static void on_closed(void *arg)
{
    struct closed_call *c = arg;
    struct list_node *n;

    while ((n = list_first(&c->db->open))) {
        struct stmt *s = CONTAINER_OF(n, struct stmt, node);

        s->rc = ERR_CLOSED;
        answer(s);
    }
    if (c->fn) {
        c->fn(c->arg);
    }
    free(c);
}

void db_close(struct db *db, void (*fn)(void *arg), void *arg)
{
    struct closed_call *c = xmalloc(sizeof(*c));

    server_notices(db, between(0, 20));
    db->closing = true;
    db->up = false;
    db->cut = true;
    *c = (struct closed_call){db, fn, arg};
    sim_at(world->now + between(1, 20), db->proc, on_closed, c);
}

bool db_is_up(const struct db *db)
{
    return db->up;
}

const char *db_server_version(const struct db *db)
{
    (void)db;
    return "simulated";
}

const char *db_last_error(const struct db *db)
{
    (void)db;
    return "";
}

int db_migrate(const struct db_options *o, const struct db_migration *m, size_t n, int *ret_applied,
               struct err *reterr)
{
    (void)o;
    (void)m;
    (void)n;
    *ret_applied = 0;
    return base.up && !world->cur->no_base ? 0 : err_set(reterr, ERR_DB_DOWN, "away");
}

/* As db_add_int() and db_add_bigint() wrote it; 0 where it is something else. */
static int64_t number_of(const struct db_params *p, int i)
{
    uint64_t v = 0;

    for (int k = 0; p && i < p->count && p->len[i] <= 8 && k < p->len[i]; k++) {
        v = v << 8 | (uint8_t)p->data.data[p->off[i] + k];
    }
    return (int64_t)v;
}

int db_exec(struct db *db, const char *sql, struct db_params *p, db_done_fn *cb, void *arg)
{
    if (!db->up) {
        return ERR_DB_DOWN;
    }
    struct stmt *s = begin(db, ST_SQL, arg);
    s->sql = sql;
    s->numbers[0] = number_of(p, 0);
    s->numbers[1] = number_of(p, 1);
    s->cb.sql = cb;
    return 0;
}

int db_rows(const struct db_result *r)
{
    return r->rows;
}

bool db_is_null(const struct db_result *r, int row, int col)
{
    (void)r;
    (void)row;
    (void)col;
    return false;
}

bool db_get_bool(const struct db_result *r, int row, int col)
{
    (void)row;
    return r->value[col] != 0;
}

int64_t db_get_int(const struct db_result *r, int row, int col)
{
    (void)row;
    return r->value[col];
}

struct id db_get_id(const struct db_result *r, int row, int col)
{
    (void)r;
    (void)row;
    (void)col;
    return (struct id){{0}};
}

int64_t db_get_time(const struct db_result *r, int row, int col)
{
    return db_get_int(r, row, col);
}

struct str db_get_text(const struct db_result *r, int row, int col)
{
    (void)r;
    (void)row;
    (void)col;
    return STR("");
}

/* ---- store.h ---- */

static void take_rows(struct stmt *s, const struct task *rows, size_t n)
{
    s->n = n;
    s->changes = xcalloc(n, sizeof(*s->changes));
    for (size_t i = 0; i < n; i++) {
        task_copy(&s->changes[i].row, &rows[i]);
    }
}

int store_insert(struct db *db, const struct task *rows, size_t n, store_done_fn *cb, void *arg)
{
    if (!db->up) {
        return ERR_DB_DOWN;
    }
    struct stmt *s = begin(db, ST_INSERT, arg);
    take_rows(s, rows, n);
    s->cb.done = cb;
    return 0;
}

int store_insert_keyed(struct db *db, const struct task *rows, size_t n, const char *key,
                       const struct accept_hash *hash, store_keyed_fn *cb, void *arg)
{
    (void)hash;
    MUST(n == 1);
    if (!db->up) {
        return ERR_DB_DOWN;
    }
    struct stmt *s = begin(db, ST_KEYED, arg);
    take_rows(s, rows, n);
    s->key = xstrdup(key);
    s->cb.keyed = cb;
    return 0;
}

static void copy_audit(struct change *c, const struct store_change *from)
{
    c->n_audit = from->n_audit;
    c->audit = xcalloc(from->n_audit, sizeof(*c->audit));
    for (size_t i = 0; i < from->n_audit; i++) {
        c->audit[i] = from->audit[i];
        c->audit[i].worker_id = xstrdup(from->audit[i].worker_id);
        c->audit[i].detail = NULL;
    }
}

int store_write(struct db *db, const struct store_change *changes, size_t n, int64_t epoch,
                store_written_fn *cb, void *arg)
{
    if (!db->up) {
        return ERR_DB_DOWN;
    }
    struct stmt *s = begin(db, ST_WRITE, arg);
    s->n = n;
    s->epoch = epoch;
    s->changes = xcalloc(n, sizeof(*s->changes));
    for (size_t i = 0; i < n; i++) {
        task_copy(&s->changes[i].row, changes[i].row);
        s->changes[i].old_seq = changes[i].before->seq;
        copy_audit(&s->changes[i], &changes[i]);
    }
    s->cb.written = cb;
    return 0;
}

int store_load(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb, void *arg)
{
    if (!db->up) {
        return ERR_DB_DOWN;
    }
    struct stmt *s = begin(db, ST_LOAD, arg);
    s->n = n;
    s->ids = xmemdup(ids, n * sizeof(*ids));
    s->cb.rows = cb;
    return 0;
}

int store_load_final(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb, void *arg)
{
    return store_load(db, ids, n, cb, arg); /* whoever asks looks at the state */
}

static int send_scan(struct db *db, enum stmt_kind kind, int64_t when, const struct id *after,
                     store_rows_fn *cb, void *arg)
{
    if (!db->up) {
        return ERR_DB_DOWN;
    }
    struct stmt *s = begin(db, kind, arg);
    s->when = when;
    s->after = after ? *after : (struct id){{0}};
    s->cb.rows = cb;
    return 0;
}

int store_scan_ready(struct db *db, const char *pool, int64_t rank, const struct id *after,
                     const struct offers_filter *filter, int limit, store_ready_fn *cb, void *arg)
{
    (void)pool;
    (void)limit;
    int rc = send_scan(db, ST_READY, rank, after, NULL, arg);
    if (rc == 0) {
        struct stmt *s = CONTAINER_OF(db->open.head.prev, struct stmt, node);

        s->cb.ready = cb;
        offers_filter_copy(&s->filter, filter);
    }
    return rc;
}

int store_scan_fed(struct db *db, const char *pool, int limit, store_rows_fn *cb, void *arg)
{
    (void)pool;
    (void)limit;
    return send_scan(db, ST_FED, 0, NULL, cb, arg);
}

int store_scan_due(struct db *db, int64_t now, int limit, store_rows_fn *cb, void *arg)
{
    (void)limit;
    return send_scan(db, ST_DUE, now, NULL, cb, arg);
}

int store_scan_queue_timeout(struct db *db, int64_t now, int limit, store_rows_fn *cb, void *arg)
{
    (void)limit;
    return send_scan(db, ST_OVERDUE, now, NULL, cb, arg);
}

int store_scan_running(struct db *db, const struct id *after, int limit, store_rows_fn *cb,
                       void *arg)
{
    (void)limit;
    return send_scan(db, ST_RUNNING, 0, after, cb, arg);
}

int store_list(struct db *db, const struct list_filter *f, store_rows_fn *cb, void *arg)
{
    (void)f;
    return send_scan(db, ST_RUNNING, 0, NULL, cb, arg);
}

int store_events(struct db *db, const struct id *id, events_fn *cb, void *arg)
{
    (void)db;
    (void)id;
    (void)cb;
    (void)arg;
    return ERR_DB_DOWN;
}

/* ---- faults ---- */

static void cut(struct db *db, bool silent)
{
    db->cut = true;
    LIST_EACH(&db->open, n)
    {
        struct stmt *s = CONTAINER_OF(n, struct stmt, node);

        s->lost = s->lost || chance(500);
    }
    server_notices(db, silent ? between(0, 20000) : between(0, 20));
    client_notices(db, silent ? between(0, 20000) : between(0, 20));
}

void base_cut(struct proc *p, bool silent)
{
    LIST_EACH(&base.pools, n)
    {
        struct db *db = CONTAINER_OF(n, struct db, node);

        if (db->proc == p && db->up && !db->cut && (p->no_base || chance(500))) {
            trace("connection %s of %s to the database is cut", db->o.name, p->name);
            cut(db, silent);
        }
    }
}

struct proc *base_leader(void)
{
    return base.lock ? base.lock->proc : NULL;
}

void base_lose_lock(void)
{
    struct db *holder = base.lock;

    if (holder && holder->up && !holder->cut) {
        trace("the connection with the lock of %s is lost", holder->proc->name);
        holder->cut = true;
        server_notices(holder, 0);
        client_notices(holder, between(0, 8000));
    }
}

void base_crash_of(struct proc *p)
{
    LIST_EACH(&base.pools, n)
    {
        struct db *db = CONTAINER_OF(n, struct db, node);

        if (db->proc == p && db->gen != p->gen) {
            server_notices(db, chance(800) ? between(0, 20) : between(0, 20000));
            list_remove(n);
        }
    }
}

void base_stop(void)
{
    trace("the database goes down");
    base.up = false;
    base.lock = NULL;
    LIST_EACH(&base.pools, n)
    {
        struct db *db = CONTAINER_OF(n, struct db, node);

        if (db->up && !db->cut) {
            cut(db, false);
        }
    }
}

void base_start(void)
{
    trace("the database is up");
    base.up = true;
}

void base_slow(bool on)
{
    trace("the database is %s", on ? "slow" : "as fast as ever");
    base.slow = on;
}

void base_calm(void)
{
    if (!base.up) {
        base_start();
    }
    base_slow(false);
}
