/* db.h: PostgreSQL, asynchronous on the loop, prepared statements only.
 *
 * A `struct db` is a small pool of connections in libpq pipeline mode. Each statement is its own
 * transaction (one sync point each), so one failure never aborts a neighbour; it is answered after
 * its COMMIT. Statements on one connection run in the order of db_exec; between connections there
 * is no order. A connection is lost -> every statement in flight on it is answered ERR_DB_DOWN
 * ("unknown, not failed": callers use compare-and-set and may repeat) and the pool reconnects for
 * ever (0.2 s .. 5 s, jittered, every address of the host list in turn, 5 s for each; a server that
 * is read-only is passed over).
 *
 * Errors: ERR_DB_DOWN connection lost or none up; ERR_BUSY our queue is full, or the server is out
 * of disk, memory or connections (class 53); ERR_CONFLICT serialization failure, deadlock, or a
 * prepared statement that no longer fits the schema: nothing happened, repeat at once; ERR_TIMEOUT
 * statement_timeout or lock_timeout; ERR_DB anything else the server refuses, with the SQLSTATE.
 *
 * Callbacks come from the loop, never from inside db_exec, db_open or db_close, and may call any of
 * them. Only internal/db*.c include libpq-fe.h.
 *
 * Threads: the loop thread only; name resolution happens in the thread pool.
 * Source: PostgreSQL 15 manual, chapters 34 (libpq; 34.5 pipeline mode) and 55.2 (message flow).
 */
#ifndef SJE_DB_H
#define SJE_DB_H

#include "internal/buf.h"
#include "internal/clock.h"
#include "internal/err.h"
#include "internal/id.h"
#include "internal/str.h"

#include <uv.h>

struct db;
struct db_result; /* valid during the callback */

struct db_options {
    const char *host; /* "host", "host:port", a socket directory, or a comma list of these */
    int port;         /* for hosts that name none */
    const char *database;
    const char *username;
    const char *password; /* "" for none; never logged */
    const char *ssl_mode;
    const char *name;         /* application_name */
    const char *settings;     /* of each session, "-c name=value ..."; NULL: none */
    int connections;          /* size of the pool */
    int statement_timeout_ms; /* server side; 0: none. 10 s later the connection is given up */
    size_t max_queued;        /* statements in flight before db_exec answers ERR_BUSY; 0: 10,000 */
    void *arg;                /* on_up and on_down may be NULL */
    void (*on_up)(void *arg); /* first connection of the pool is ready (again) */
    /* Last connection lost, or first attempt failed; ERR_CONFIG where user, password or database
     * are refused. One line, no secrets. */
    void (*on_down)(void *arg, const struct err *why);
};

struct config;
/* What the configuration says of the server; its strings. */
struct db_options db_options_of(const struct config *c, const char *name);

/* Parameters of a statement, in binary. Arrays are one-dimensional. Each add is one $n in order.
 * Strings and bytes are copied, but by db_ref_…; a NULL pointer is SQL NULL. Text has the type
 * `text`: write $1::json where the column is json. At most 64 MiB a statement; beyond that,
 * `failed` is ERR_TOO_LARGE and db_exec returns it. */
#define DB_PARAMS_COUNT 64
#define DB_PARAMS_BYTES (64U << 20)
struct db_params {
    struct buf data;
    int count;
    int failed;   /* 0 or the first error */
    size_t bytes; /* of all values, referenced ones included */
    uint32_t oid[DB_PARAMS_COUNT];
    int32_t len[DB_PARAMS_COUNT];     /* -1: NULL */
    int32_t off[DB_PARAMS_COUNT];     /* in data, where ref is NULL */
    const void *ref[DB_PARAMS_COUNT]; /* the caller's memory */
};
void db_params_init(struct db_params *p);
void db_params_free(struct db_params *p);  /* for CLEANUP(db_params_free) */
void db_params_reset(struct db_params *p); /* empty again, memory kept */
void db_add_null(struct db_params *p);     /* of the type that the statement expects there */
void db_add_bool(struct db_params *p, bool v);
void db_add_int(struct db_params *p, int32_t v);
void db_add_bigint(struct db_params *p, int64_t v);
void db_add_text(struct db_params *p, const char *s);
void db_add_bytes(struct db_params *p, const void *data, size_t n); /* bytea */
void db_add_id(struct db_params *p, const struct id *id);           /* uuid; NULL allowed */
void db_add_time(struct db_params *p, int64_t wall_ms); /* timestamptz; INT64_MIN: NULL */
void db_ref_bytes(struct db_params *p, const void *data, size_t n); /* must stay until db_exec */

/* Arrays are built element by element. */
struct db_array {
    struct buf data;
    uint32_t elem_oid;
    int32_t count;
    bool has_null;
    bool failed; /* a value out of range */
};
enum db_type { DB_BOOL, DB_INT, DB_BIGINT, DB_TEXT, DB_BYTES, DB_ID, DB_TIME };
void db_array_init(struct db_array *a, enum db_type type);
void db_array_free(struct db_array *a);  /* for CLEANUP */
void db_array_reset(struct db_array *a); /* empty again, memory kept */
void db_array_null(struct db_array *a);
void db_array_bool(struct db_array *a, bool v);
void db_array_int(struct db_array *a, int32_t v);
void db_array_bigint(struct db_array *a, int64_t v);
void db_array_text(struct db_array *a, const char *s); /* NULL is an SQL NULL */
void db_array_bytes(struct db_array *a, const void *data, size_t n);
void db_array_id(struct db_array *a, const struct id *id);
void db_array_time(struct db_array *a, int64_t wall_ms); /* INT64_MIN is an SQL NULL */
void db_add_array(struct db_params *p, const struct db_array *a);
void db_ref_array(struct db_params *p, const struct db_array *a); /* must stay until db_exec */

/* rc 0 and a result, or rc < 0, res NULL and why (its text ends in the SQLSTATE where there is
 * one: "... [23505]"). */
typedef void db_done_fn(void *arg, int rc, const struct db_result *res, const struct err *why);
bool db_is_sqlstate(const struct err *why, const char *sqlstate); /* e.g. "23505" */

struct db *db_open(uv_loop_t *loop, const struct db_options *o); /* copies the options */
/* Statements in flight are answered ERR_CLOSED. on_closed may be NULL. */
void db_close(struct db *db, void (*on_closed)(void *arg), void *arg);
bool db_is_up(const struct db *db);
const char *db_server_version(const struct db *db); /* "15.18"; "" while down */
const char *db_last_error(const struct db *db);     /* "" when none since the pool was last up */
size_t db_inflight(const struct db *db);

/* `sql` must be a string that lives as long as the process (a literal): its address is the key of
 * the prepared statement, prepared on first use per connection. Types of $n come from params (or
 * NULL params for none). Sent at once when the pool is up; while it is down: ERR_DB_DOWN. 0: cb
 * will be called, exactly once; else it will not. The params may be freed or reused afterwards. */
int db_exec(struct db *db, const char *sql, struct db_params *p, db_done_fn *cb,
            void *arg) NODISCARD;

/* Rows and columns from 0. Typed getters assert the column's type family; NULL reads as 0, false or
 * empty. Arrays are read as rows: select unnest(…). */
int db_rows(const struct db_result *r);
bool db_is_null(const struct db_result *r, int row, int col);
bool db_get_bool(const struct db_result *r, int row, int col);
int64_t db_get_int(const struct db_result *r, int row, int col); /* int2, int4, int8 */
double db_get_double(const struct db_result *r, int row, int col);
struct str db_get_text(const struct db_result *r, int row,
                       int col); /* text, json; empty for NULL; NUL-terminated */
struct id db_get_id(const struct db_result *r, int row, int col);
struct str db_get_bytes(const struct db_result *r, int row, int col); /* bytea; empty for NULL */
int64_t db_get_time(const struct db_result *r, int row, int col); /* wall ms; INT64_MIN for NULL */
int64_t db_affected(const struct db_result *r);

/* A dedicated connection that holds a session advisory lock: leadership. on_lost is called when the
 * connection, and with it the lock, is gone, or has not answered for 3 s. Keeps trying every
 * retry_ms until db_lock_free(), which calls neither. A process that was paused learns of its loss
 * late: fence what a holder writes. Of `o`, callbacks, connections and timeouts are ignored. */
struct db_lock;
struct db_lock *db_lock_new(uv_loop_t *loop, const struct db_options *o, int64_t key, int retry_ms,
                            void (*on_held)(void *arg),
                            void (*on_lost)(void *arg, const struct err *why), void *arg);
/* As db_exec, on the session that holds the lock: what it does is done while the lock is held.
 * ERR_DB_DOWN while it is not. */
int db_lock_exec(struct db_lock *l, const char *sql, struct db_params *p, db_done_fn *cb,
                 void *arg) NODISCARD;
/* When the last statement that showed that the lock is held was sent; after on_lost that of the
 * time before. Only once it was held. */
struct moment db_lock_proved_at(const struct db_lock *l);
/* How often the server has answered on that session, held or not: each second while it is well, for
 * nothing that is said there takes long. */
uint64_t db_lock_answers(const struct db_lock *l);
void db_lock_free(struct db_lock *l, void (*on_closed)(void *arg), void *arg);

/* Blocking, for start-up and `--migrate` only: runs the numbered scripts (sorted by name; embedded
 * in the program) that schema_migration does not list yet, each in one transaction, under an
 * advisory lock. A script that was changed after it ran is an error (ERR_CONFLICT). Touches nothing
 * shared: may run in the thread pool. ERR_DB_DOWN: not reached; ERR_CONFIG: user, password or
 * database refused; ERR_DB: a script failed (with its line), the ones before it stay. */
struct db_migration {
    const char *name; /* "0001_init" */
    const char *sql;
};
int db_migrate(const struct db_options *o, const struct db_migration *m, size_t n, int *ret_applied,
               struct err *reterr) NODISCARD;

#endif
