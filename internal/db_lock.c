/* db_lock.c: leadership is an advisory lock of a session of its own, here a pool of one. Each ping
 * looks whether it is still answered by the process that has the lock. A server
 * that loses this client lets go of the lock by its keepalives (see db_start_connect), and one
 * whose client is stopped because the pings stay away. */
#include "internal/clock.h"
#include "internal/db_conn.h"

#include <stdlib.h>

#define TICK_MS      1000
#define SETTINGS     "-c idle_session_timeout=6000" /* some missed ticks more than our own limit */
#define MISSED_TICKS 3 /* counted, not timed: a paused process first reads what has arrived */

struct db_lock {
    struct db *db;
    uv_timer_t timer; /* next try, or the tick while held */
    int64_t key;
    uint64_t retry_ms;
    bool held;
    int64_t backend; /* the server's process that has the lock */
    bool asked;      /* a try or a ping is in flight */
    int missed;      /* ticks since the ping */
    uint64_t answers;
    struct moment asked_at;
    struct moment proved_at; /* when the last try or ping that was answered well was sent */
    int closing;             /* parts still to be closed */
    void (*on_held)(void *arg);
    void (*on_lost)(void *arg, const struct err *why);
    void (*on_closed)(void *arg);
    void *arg; /* of on_closed once closing */
};

static void on_tick(uv_timer_t *timer);

static void set_timer(struct db_lock *l, uint64_t ms)
{
    MUST(uv_timer_start(&l->timer, on_tick, ms, ms) == 0);
}

/* Of the server, not of us because the connection is gone. */
static void count_answer(struct db_lock *l, int rc)
{
    l->answers += rc != ERR_DB_DOWN && rc != ERR_CLOSED;
}

static void on_tried(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct db_lock *l = arg;

    (void)why;
    l->asked = false;
    count_answer(l, rc);
    if (l->closing || rc < 0 || !db_get_bool(res, 0, 0)) {
        return;
    }
    l->held = true;
    l->backend = db_get_int(res, 0, 1);
    l->proved_at = l->asked_at;
    l->missed = 0;
    set_timer(l, TICK_MS);
    l->on_held(l->arg);
}

static void try(struct db_lock *l)
{
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_bigint(&p, l->key);
    l->asked_at = clock_moment();
    l->asked =
        db_exec(l->db, "select pg_try_advisory_lock($1), pg_backend_pid()", &p, on_tried, l) == 0;
}

static void on_pong(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct db_lock *l = arg;
    struct err pooled;

    l->asked = false;
    l->missed = 0;
    count_answer(l, rc);
    if (rc == 0 && db_get_int(res, 0, 0) != l->backend) {
        why = &pooled;
        rc = err_set(&pooled, ERR_CONFIG, "%s", DB_NO_POOLER);
    }
    if (rc == 0) {
        l->proved_at = l->asked_at;
    } else if (!l->closing) {
        db_reset(l->db, why);
    }
}

static void ping(struct db_lock *l)
{
    struct err why;

    if (!l->asked) {
        l->asked_at = clock_moment();
        l->asked = db_exec(l->db, "select pg_backend_pid()", NULL, on_pong, l) == 0;
    } else if (++l->missed >= MISSED_TICKS) {
        err_set(&why, ERR_DB_DOWN, "the connection that holds the lock does not answer");
        db_reset(l->db, &why);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct db_lock *l = CONTAINER_OF(timer, struct db_lock, timer);

    if (l->held) {
        ping(l);
    } else if (!l->asked) {
        try(l);
    }
}

static void on_up(void *arg)
{
    struct db_lock *l = arg;

    set_timer(l, l->retry_ms);
    try(l);
}

static void on_down(void *arg, const struct err *why)
{
    struct db_lock *l = arg;
    bool was_held = l->held;

    l->held = false;
    uv_timer_stop(&l->timer);
    if (was_held) {
        l->on_lost(l->arg, why);
    }
}

struct db_lock *db_lock_new(uv_loop_t *loop, const struct db_options *o, int64_t key, int retry_ms,
                            void (*on_held)(void *arg),
                            void (*on_lost)(void *arg, const struct err *why), void *arg)
{
    struct db_lock *l = xmalloc(sizeof(*l));
    struct db_options own = *o;

    *l = (struct db_lock){.key = key,
                          .retry_ms = (uint64_t)MAX(retry_ms, 1),
                          .on_held = on_held,
                          .on_lost = on_lost,
                          .arg = arg};
    own.connections = 1;
    own.settings = SETTINGS;
    own.statement_timeout_ms = MISSED_TICKS * TICK_MS;
    own.arg = l;
    own.on_up = on_up;
    own.on_down = on_down;
    MUST(uv_timer_init(loop, &l->timer) == 0);
    l->db = db_open(loop, &own);
    return l;
}

int db_lock_exec(struct db_lock *l, const char *sql, struct db_params *p, db_done_fn *cb, void *arg)
{
    return l->held ? db_exec(l->db, sql, p, cb, arg) : ERR_DB_DOWN;
}

struct moment db_lock_proved_at(const struct db_lock *l)
{
    return l->proved_at;
}

uint64_t db_lock_answers(const struct db_lock *l)
{
    return l->answers;
}

static void part_closed(struct db_lock *l)
{
    if (--l->closing == 0) {
        if (l->on_closed) {
            l->on_closed(l->arg);
        }
        free(l);
    }
}

static void on_timer_closed(uv_handle_t *h)
{
    part_closed(CONTAINER_OF((uv_timer_t *)h, struct db_lock, timer));
}

static void on_db_closed(void *arg)
{
    part_closed(arg);
}

void db_lock_free(struct db_lock *l, void (*on_closed)(void *arg), void *arg)
{
    l->closing = 2;
    l->on_closed = on_closed;
    l->arg = arg;
    uv_close((uv_handle_t *)&l->timer, on_timer_closed);
    db_close(l->db, on_db_closed, l);
}
