/* db_conn.c: one connection: its socket, its timer, its state. Every way down leads through
 * db_conn_fail(). What is said over it is in db_pipeline.c. */
#include "internal/db_conn.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define RETRY_MIN_MS    200
#define RETRY_MAX_MS    5000
#define ANSWER_GRACE_MS 10000 /* on top of statement_timeout_ms */
#define READ_ROUNDS     64    /* then the loop gets its turn */

/* The poll handle of one socket; a handle per step of connecting, because libpq changes sockets. */
struct watch {
    uv_poll_t poll;
    struct db *db;
    struct db_conn *conn; /* NULL: being closed */
    int events;
};

static void on_timer(uv_timer_t *timer);
static void on_poll(uv_poll_t *poll, int status, int events);
static void connect_next(struct db_conn *c, const struct err *last);

/* ---- the socket ---- */

static void on_watch_closed(uv_handle_t *h)
{
    struct watch *w = CONTAINER_OF((uv_poll_t *)h, struct watch, poll);
    struct db *db = w->db;

    free(w);
    db_handle_closed(db);
}

/* libuv forgets the descriptor at once, so libpq may close it afterwards. */
static void unwatch(struct db_conn *c)
{
    struct watch *w = STEAL(c->watch);

    if (w) {
        w->conn = NULL;
        uv_close((uv_handle_t *)&w->poll, on_watch_closed);
    }
}

static int watch(struct db_conn *c, int events)
{
    if (!c->watch) {
        struct watch *w = xmalloc(sizeof(*w));

        if (uv_poll_init(c->db->loop, &w->poll, PQsocket(c->pg)) < 0) {
            free(w);
            return ERR_IO;
        }
        w->db = c->db;
        w->conn = c;
        c->watch = w;
        c->db->handles++;
    }
    if (c->watch->events == events) {
        return 0;
    }
    c->watch->events = events;
    return uv_poll_start(&c->watch->poll, events, on_poll) < 0 ? ERR_IO : 0;
}

static bool socket_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

/* ---- down ---- */

static void drop_socket(struct db_conn *c)
{
    unwatch(c);
    PQfinish(c->pg);
    c->pg = NULL;
    db_pipeline_reset(c);
    c->fatal = (struct err){0};
    c->broken = false;
    c->swollen = false;
}

static uint64_t retry_delay_ms(int failures)
{
    uint64_t max = RETRY_MIN_MS;

    for (int i = 0; i < failures && max < RETRY_MAX_MS; i++) {
        max *= 2;
    }
    return RETRY_MIN_MS + random_u64() % (MIN(max, RETRY_MAX_MS) - RETRY_MIN_MS + 1);
}

void db_conn_fail(struct db_conn *c, const struct err *why)
{
    struct err copy = *why; /* may lie in c */

    MUST(c->state != CONN_CLOSED);
    c->db->up -= c->state == CONN_UP;
    c->state = CONN_WAITING;
    drop_socket(c);
    db_hosts_unref(STEAL(c->hosts));
    MUST(uv_timer_start(&c->timer, on_timer, retry_delay_ms(c->failures++), 0) == 0);
    db_pipeline_answer_all(c, &copy);
    db_conn_is_down(c->db, &copy);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct db_conn *c = CONTAINER_OF((uv_timer_t *)h, struct db_conn, timer);
    struct err why;

    err_set(&why, ERR_CLOSED, "%s", err_text(ERR_CLOSED));
    db_pipeline_answer_all(c, &why);
    db_handle_closed(c->db);
}

void db_conn_close(struct db_conn *c)
{
    c->state = CONN_CLOSED;
    drop_socket(c);
    db_hosts_unref(STEAL(c->hosts));
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}

/* ---- connecting ---- */

void db_conn_init(struct db_conn *c, struct db *db)
{
    *c = (struct db_conn){.db = db, .state = CONN_WAITING};
    list_init(&c->pending);
    MUST(uv_timer_init(db->loop, &c->timer) == 0);
    db->handles++;
    MUST(uv_timer_start(&c->timer, on_timer, 0, 0) == 0);
}

/* Outside of any statement the server speaks through notices: "terminating connection …". */
static void on_notice(void *arg, const PGresult *res)
{
    struct db_conn *c = arg;
    struct err why;
    bool lost = false;

    (void)db_error_result(res, &why, &lost);
    if (lost) {
        c->fatal = why;
    }
}

/* False where libpq refused at once. */
static bool start_connect(struct db_conn *c, const struct db_host *h)
{
    c->pg = db_start_connect(&c->db->o, h);
    (void)PQsetNoticeReceiver(c->pg, on_notice, c);
    return PQstatus(c->pg) != CONNECTION_BAD && watch(c, UV_WRITABLE) == 0;
}

void db_conn_connect(struct db_conn *c, struct db_hosts *hosts)
{
    struct err why = {0};

    MUST(c->state == CONN_RESOLVING && hosts->count > 0);
    c->state = CONN_CONNECTING;
    c->hosts = db_hosts_ref(hosts);
    c->next = 0;
    connect_next(c, &why);
}

/* The next address, or the end of this attempt. `last` is what the one before failed with; a
 * refused login is not tried elsewhere. */
static void connect_next(struct db_conn *c, const struct err *last)
{
    struct err why = *last;

    while (c->next < c->hosts->count && why.code != ERR_CONFIG) {
        drop_socket(c);
        if (start_connect(c, &c->hosts->item[c->next++])) {
            MUST(uv_timer_start(&c->timer, on_timer, DB_CONNECT_TIMEOUT_MS, 0) == 0);
            return;
        }
        (void)db_error_connect(PQerrorMessage(c->pg), &why);
    }
    db_conn_fail(c, &why);
}

static void connect_failed(struct db_conn *c)
{
    struct err why;

    (void)db_error_connect(PQerrorMessage(c->pg), &why);
    connect_next(c, &why);
}

static void connected(struct db_conn *c)
{
    if (PQsetnonblocking(c->pg, 1) != 0 || PQenterPipelineMode(c->pg) != 1 ||
        watch(c, UV_READABLE) < 0) {
        connect_failed(c);
        return;
    }
    c->state = CONN_UP;
    c->failures = 0;
    c->db->up++;
    uv_timer_stop(&c->timer);
    db_conn_is_up(c->db, c);
}

static void connect_step(struct db_conn *c)
{
    unwatch(c); /* PQconnectPoll may close the socket and open another */
    switch (PQconnectPoll(c->pg)) {
    case PGRES_POLLING_READING:
        if (watch(c, UV_READABLE) < 0) {
            connect_failed(c);
        }
        return;
    case PGRES_POLLING_WRITING:
        if (watch(c, UV_WRITABLE) < 0) {
            connect_failed(c);
        }
        return;
    case PGRES_POLLING_OK:
        connected(c);
        return;
    case PGRES_POLLING_FAILED:
    case PGRES_POLLING_ACTIVE:
        connect_failed(c);
        return;
    }
    UNREACHABLE("PQconnectPoll");
}

/* ---- sending ---- */

/* Watching for writing alone would deadlock: a server whose answers nobody takes stops reading. */
static bool flush(struct db_conn *c)
{
    int rc = PQflush(c->pg);

    return rc >= 0 && watch(c, rc > 0 ? UV_READABLE | UV_WRITABLE : UV_READABLE) == 0;
}

static void set_answer_timer(struct db_conn *c, int64_t from_ms)
{
    int64_t limit = c->db->o.statement_timeout_ms + ANSWER_GRACE_MS;
    int64_t left = from_ms + limit - (int64_t)uv_now(c->db->loop);

    if (c->db->o.statement_timeout_ms > 0) {
        MUST(uv_timer_start(&c->timer, on_timer, (uint64_t)MAX(left, 1), 0) == 0);
    }
}

void db_conn_send(struct db_conn *c, const char *sql, const struct db_params *p, db_done_fn *cb,
                  void *arg)
{
    MUST(c->state == CONN_UP && !c->broken);
    if (c->pending.count == 0) {
        c->progress_ms = (int64_t)uv_now(c->db->loop);
        if (!uv_is_active((uv_handle_t *)&c->timer)) {
            set_answer_timer(c, c->progress_ms);
        }
    }
    if (!db_pipeline_send(c, sql, p, cb, arg) || !flush(c)) {
        c->broken = true;
        MUST(uv_timer_start(&c->timer, on_timer, 0, 0) == 0);
    }
}

/* ---- receiving ---- */

/* What libpq says now, but rather what the server said before. */
static void lost(struct db_conn *c)
{
    struct err why = c->fatal;

    if (why.code == 0) {
        (void)db_error_connect(PQerrorMessage(c->pg), &why);
    }
    db_conn_fail(c, &why);
}

/* Its memory goes back. Not where it is the last one: that would look like an outage. */
static void renew(struct db_conn *c)
{
    struct err why = {0};

    c->db->up--;
    c->state = CONN_CONNECTING;
    c->next--;
    connect_next(c, &why);
}

/* With TLS, libpq before 2026 may leave decrypted bytes of a record behind, which no poll
 * announces. So it reads until the socket has been dry twice: there is room for half a record each
 * time. */
static void receive(struct db_conn *c)
{
    bool tls = PQsslInUse(c->pg);
    int dry = 0;
    int rounds = 0;

    do {
        dry = tls && socket_readable(PQsocket(c->pg)) ? 0 : dry + 1;
        bool ok = PQconsumeInput(c->pg) == 1;

        if (!db_pipeline_take(c) ||
            (c->state == CONN_UP && (!ok || PQstatus(c->pg) != CONNECTION_OK))) {
            lost(c);
            return;
        }
    } while (c->state == CONN_UP && tls && dry < 2 && ++rounds < READ_ROUNDS);
    if (c->state == CONN_UP && rounds == READ_ROUNDS) {
        MUST(uv_timer_start(&c->timer, on_timer, 0, 0) == 0);
    } else if (c->state == CONN_UP && c->swollen && c->pending.count == 0 && c->db->up > 1) {
        renew(c);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct db_conn *c = CONTAINER_OF(poll, struct watch, poll)->conn;

    if (!c) {
        return;
    }
    if (c->state == CONN_CONNECTING) {
        connect_step(c);
        return;
    }
    if (status < 0) { /* libuv has stopped the handle; libpq will find the reason */
        c->watch->events = 0;
    }
    if (status < 0 || (events & UV_READABLE)) {
        receive(c);
    }
    if (c->state == CONN_UP && !c->broken && !flush(c)) {
        lost(c);
    }
}

/* Called when the first statement in flight should have been answered. */
static void check_answer(struct db_conn *c)
{
    struct err why;

    if (c->db->o.statement_timeout_ms == 0 || !list_first(&c->pending)) {
        return;
    }
    int64_t waited = (int64_t)uv_now(c->db->loop) - c->progress_ms;
    if (waited < c->db->o.statement_timeout_ms + ANSWER_GRACE_MS) {
        set_answer_timer(c, c->progress_ms);
        return;
    }
    err_set(&why, ERR_DB_DOWN, "no answer from the database for %d s", (int)(waited / 1000));
    db_conn_fail(c, &why);
}

static void on_timer(uv_timer_t *timer)
{
    struct db_conn *c = CONTAINER_OF(timer, struct db_conn, timer);
    struct err why;

    switch (c->state) {
    case CONN_WAITING:
        c->state = CONN_RESOLVING;
        db_conn_wants_hosts(c->db);
        return;
    case CONN_CONNECTING: {
        const struct db_host *h = &c->hosts->item[c->next - 1];

        err_set(&why, ERR_DB_DOWN,
                "connection to database server \"%.100s\" (%.50s), port %d: no answer", h->host,
                h->addr, h->port);
        connect_next(c, &why);
        return;
    }
    case CONN_UP:
        receive(c); /* after a pause of the whole process the answer may be there */
        if (c->state == CONN_UP && c->broken) {
            lost(c);
        } else if (c->state == CONN_UP) {
            check_answer(c);
        }
        return;
    case CONN_RESOLVING:
    case CONN_CLOSED:
        break;
    }
    UNREACHABLE("timer of an idle connection");
}
