/* db_conn.h: what the files of the db module share; nobody else includes it.
 *
 *   db.c         the pool: picks connections, answers the owner
 *   db_conn.c    one connection: socket, timer, state;  db_pipeline.c  what is said over it
 *   db_hosts.c   host list, name resolution, options of a connection
 *   db_error.c   libpq's messages and SQLSTATEs -> struct err
 *   db_params.c  parameters to binary;  db_result.c  binary to values
 *   db_lock.c    advisory lock on a pool of one;  db_migrate.c  scripts at start, blocking
 */
#ifndef SJE_DB_CONN_H
#define SJE_DB_CONN_H

#include "internal/db.h"
#include "internal/list.h"

/* As <libpq-fe.h> has them. */
typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;

enum {
    DB_OID_BOOL = 16,
    DB_OID_BYTEA = 17,
    DB_OID_NAME = 19,
    DB_OID_INT8 = 20,
    DB_OID_INT2 = 21,
    DB_OID_INT4 = 23,
    DB_OID_TEXT = 25,
    DB_OID_JSON = 114,
    DB_OID_FLOAT4 = 700,
    DB_OID_FLOAT8 = 701,
    DB_OID_VARCHAR = 1043,
    DB_OID_TIMESTAMPTZ = 1184,
    DB_OID_UUID = 2950,
    DB_OID_JSONB = 3802,
};

/* ---- db_hosts.c ---- */
#define DB_HOSTS_MAX 32

/* The addresses to try, in order. Shared by the connections that try them. */
struct db_hosts {
    int refs;
    int count;
    struct db_host {
        char *host; /* as configured: what a certificate is checked against */
        char *addr; /* numeric; "" for a socket directory; NULL: not resolved yet */
        int port;
    } item[DB_HOSTS_MAX];
};

int db_hosts_parse(const char *list, int port, struct db_hosts **ret, struct err *reterr) NODISCARD;
struct db_hosts *db_hosts_ref(struct db_hosts *h);
void db_hosts_unref(struct db_hosts *h); /* NULL is fine */

/* found: owned by the callee; NULL: nothing resolved, and why. */
typedef void db_resolved_fn(void *arg, struct db_hosts *found, const struct err *why);

/* One at a time. Names go through uv_getaddrinfo one after the other; numeric addresses and socket
 * directories do not wait. */
struct db_resolver {
    uv_loop_t *loop;
    uv_getaddrinfo_t req;
    bool busy; /* the callback is still to come */
    bool in_pool;
    int next;
    struct db_hosts *names;
    struct db_hosts *found;
    struct err why;
    db_resolved_fn *done;
    void *arg;
};
/* May call back from inside. */
void db_resolve(struct db_resolver *r, const char *list, int port, db_resolved_fn *done, void *arg);
/* The callback comes as soon as the thread pool lets go of the request. */
void db_resolve_cancel(struct db_resolver *r);

#define DB_CONNECT_TIMEOUT_MS 5000 /* for each address */
/* PQconnectStart, with all that we want of a connection. Never NULL; look at PQstatus. */
PGconn *db_start_connect(const struct db_options *o, const struct db_host *h);

/* ---- db_error.c ---- */
/* What libpq says of a connection (several lines; server errors in verbose form) as one line. */
int db_error_connect(const char *message, struct err *reterr);
/* A failed result or a notice. *ret_lost: the connection is of no more use. */
int db_error_result(const PGresult *res, struct err *reterr, bool *ret_lost);

#define DB_NO_POOLER                                                                               \
    "a pooler between manager and database changes sessions, which a leader's lock does not "      \
    "survive: name the database itself in dbConfig.host and dbConfig.port"

/* ---- db_conn.c ---- */
enum conn_state {
    CONN_WAITING,    /* the timer runs until the next attempt */
    CONN_RESOLVING,  /* the pool resolves the names */
    CONN_CONNECTING, /* to hosts[next - 1] */
    CONN_UP,
    CONN_CLOSED,
};

struct watch;

struct db_conn {
    struct db *db;
    enum conn_state state;
    PGconn *pg;
    struct watch *watch; /* NULL while the socket is not polled */
    uv_timer_t timer;    /* next attempt, connect timeout, or no answer for too long */
    struct db_hosts *hosts;
    int next;            /* in hosts */
    int failures;        /* attempts since it was last up */
    struct list pending; /* statements not yet answered */
    struct stmt *stmts;
    unsigned last_name;
    int64_t progress_ms; /* uv_now() when the first of `pending` became the first */
    bool broken;         /* a send failed; the timer ends it */
    bool swollen;        /* libpq keeps the memory of the largest statement that it has sent */
    struct err fatal;    /* last words of the server */
    PGresult *result;    /* of the first of `pending`, until its transaction has ended */
    struct err why;      /* code != 0: it failed */
};

void db_conn_init(struct db_conn *c, struct db *db); /* attempts begin with the loop */
void db_conn_connect(struct db_conn *c, struct db_hosts *hosts);
/* Gives the connection up, answers what was in flight, waits and tries again. */
void db_conn_fail(struct db_conn *c, const struct err *why);
void db_conn_send(struct db_conn *c, const char *sql, const struct db_params *p, db_done_fn *cb,
                  void *arg);
void db_conn_close(struct db_conn *c);
#define DB_SWOLLEN_BYTES (9U << 20) /* a connection that sent such a statement is made anew */

/* ---- db_pipeline.c ---- */
/* False where libpq failed; the statement is in flight nevertheless. */
bool db_pipeline_send(struct db_conn *c, const char *sql, const struct db_params *p, db_done_fn *cb,
                      void *arg);
/* Takes the results that are complete and calls back. False: the connection is of no more use;
 * c->fatal says why. Callbacks may have closed it. */
bool db_pipeline_take(struct db_conn *c);
void db_pipeline_answer_all(struct db_conn *c, const struct err *why);
void db_pipeline_reset(struct db_conn *c);

/* ---- db.c ---- */
struct db {
    uv_loop_t *loop;
    struct db_options o; /* strings owned */
    struct db_conn *conns;
    struct db_resolver resolver;
    int up;
    bool down_reported;
    bool closing;
    int handles; /* of uv, not yet closed */
    size_t pending;
    size_t pending_bytes;
    char version[32];
    struct err last;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* Drops every connection, as if the network had. */
void db_reset(struct db *db, const struct err *why);

/* From the connections. */
void db_conn_wants_hosts(struct db *db);
void db_conn_is_up(struct db *db, const struct db_conn *c);
void db_conn_is_down(struct db *db, const struct err *why);
void db_handle_closed(struct db *db);

/* ---- db_result.c ---- */
struct db_result {
    PGresult *pg;
};

#endif
