/* db.h: PostgreSQL, asynchronous on the loop, prepared statements only.
 *
 * A `struct db` is a small pool of connections in libpq pipeline mode. Each statement is its own
 * transaction (one sync point each), so one failure never aborts a neighbour. A connection is lost
 * -> every statement in flight on it is answered ERR_DB_DOWN ("unknown, not failed": callers use
 * compare-and-set and may repeat) and the pool reconnects for ever (0.2 s .. 5 s, jittered; host
 * lists are libpq's). db.c is the only file that includes libpq-fe.h.
 *
 * Threads: the loop thread only; name resolution happens in the thread pool.
 */
#ifndef SJE_DB_H
#define SJE_DB_H

#include "internal/buf.h"
#include "internal/err.h"
#include "internal/id.h"
#include "internal/str.h"

#include <uv.h>

struct db;
struct db_result; /* valid during the callback */

struct db_options {
    const char *host; /* one or a comma list, also a socket directory */
    int port;
    const char *database;
    const char *username;
    const char *password; /* "" for none; never logged */
    const char *ssl_mode;
    const char *name;    /* application_name */
    int connections;     /* size of the pool */
    int statement_timeout_ms; /* server side; 0: none */
    size_t max_queued;   /* statements waiting or in flight before db_exec answers ERR_BUSY; 0: 10,000 */
    void *arg;
    void (*on_up)(void *arg);                            /* first connection of the pool is ready (again) */
    void (*on_down)(void *arg, const struct err *why);   /* last connection lost, or first attempt failed */
};

/* Parameters of a statement, in binary. Arrays are one-dimensional. Each add is one $n in order.
 * Strings and bytes are copied; a NULL pointer is SQL NULL. */
struct db_params {
    struct buf data;
    int count;
    int failed; /* 0 or the first error */
    /* per parameter: offset/length/oid live in fixed arrays */
    uint32_t oid[64];
    int32_t off[64];
    int32_t len[64]; /* -1: NULL */
};
void db_params_init(struct db_params *p);
void db_params_free(struct db_params *p); /* for CLEANUP(db_params_free) */
void db_add_null(struct db_params *p);
void db_add_bool(struct db_params *p, bool v);
void db_add_int(struct db_params *p, int32_t v);
void db_add_bigint(struct db_params *p, int64_t v);
void db_add_text(struct db_params *p, const char *s);
void db_add_bytes(struct db_params *p, const void *data, size_t n); /* bytea */
void db_add_id(struct db_params *p, const struct id *id);            /* uuid; NULL allowed */
void db_add_time(struct db_params *p, int64_t wall_ms);              /* timestamptz; INT64_MIN: NULL */

/* Arrays are built element by element. */
struct db_array {
    struct buf data;
    uint32_t elem_oid;
    int32_t count;
    bool has_null;
};
enum db_type { DB_BOOL, DB_INT, DB_BIGINT, DB_TEXT, DB_BYTES, DB_ID, DB_TIME };
void db_array_init(struct db_array *a, enum db_type type);
void db_array_free(struct db_array *a); /* for CLEANUP */
void db_array_bool(struct db_array *a, bool v);
void db_array_int(struct db_array *a, int32_t v);
void db_array_bigint(struct db_array *a, int64_t v);
void db_array_text(struct db_array *a, const char *s); /* NULL is an SQL NULL */
void db_array_id(struct db_array *a, const struct id *id);
void db_array_time(struct db_array *a, int64_t wall_ms); /* INT64_MIN is an SQL NULL */
void db_add_array(struct db_params *p, const struct db_array *a);

/* rc 0 and a result, or rc < 0, res NULL and why (its text ends in the SQLSTATE where there is
 * one: "... [23505]"). */
typedef void db_done_fn(void *arg, int rc, const struct db_result *res, const struct err *why);

struct db *db_open(uv_loop_t *loop, const struct db_options *o); /* copies the options */
/* Statements in flight are answered ERR_CLOSED. on_closed may be NULL. */
void db_close(struct db *db, void (*on_closed)(void *arg), void *arg);
bool db_is_up(const struct db *db);
const char *db_server_version(const struct db *db); /* "15.18"; "" while down */
const char *db_last_error(const struct db *db);
size_t db_inflight(const struct db *db);

/* `sql` must be a string that lives as long as the process (a literal): its address is the key of
 * the prepared statement, prepared on first use per connection. Types of $n come from params (or
 * NULL params for none). Sent at once when the pool is up; while it is down: ERR_DB_DOWN. */
int db_exec(struct db *db, const char *sql, struct db_params *p, db_done_fn *cb, void *arg) NODISCARD;

/* Rows and columns from 0. Typed getters assert the column's type family. */
int db_rows(const struct db_result *r);
bool db_is_null(const struct db_result *r, int row, int col);
bool db_get_bool(const struct db_result *r, int row, int col);
int64_t db_get_int(const struct db_result *r, int row, int col); /* int2, int4, int8 */
double db_get_double(const struct db_result *r, int row, int col);
struct str db_get_text(const struct db_result *r, int row, int col); /* text, json; empty for NULL; NUL-terminated */
struct id db_get_id(const struct db_result *r, int row, int col);
int64_t db_get_time(const struct db_result *r, int row, int col); /* wall ms; INT64_MIN for NULL */
int64_t db_affected(const struct db_result *r);

/* A dedicated connection that holds a session advisory lock: leadership. on_lost is called when the
 * connection, and with it the lock, is gone. Keeps trying every retry_ms until db_lock_free(). */
struct db_lock;
struct db_lock *db_lock_new(uv_loop_t *loop, const struct db_options *o, int64_t key, int retry_ms,
                            void (*on_held)(void *arg), void (*on_lost)(void *arg), void *arg);
void db_lock_free(struct db_lock *l, void (*on_closed)(void *arg), void *arg);

/* Blocking, for start-up and `--migrate` only: runs the numbered scripts (sorted by name; embedded
 * in the program) that schema_migration does not list yet, each in one transaction, under an
 * advisory lock. A script that was changed after it ran is an error. */
struct db_migration {
    const char *name; /* "0001_init" */
    const char *sql;
};
int db_migrate(const struct db_options *o, const struct db_migration *m, size_t n, int *ret_applied,
               struct err *reterr) NODISCARD;

#endif
