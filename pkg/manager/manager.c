/* The manager: its parts, how they are wired, start and ordered stop. */
#include "pkg/manager/manager.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"
#include "pkg/manager/migrations.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TICK_MS          1000
#define RESULTS_PREFETCH 200
#define CLOCK_TICKS      10             /* the database's clock is read this often */
#define CLOCK_NEW_MS     ((int64_t)250) /* another server may have another clock */
#define CLOCK_GOOD_MS    10             /* an answer that took longer is asked for again soon */
#define CLOCK_TRIES      4
#define CLOCK_DRIFT      1000 /* 1 ms in so many */
#define MIGRATE_TICKS    3
#define WRITE_BATCHES    2
#define CACHE_BYTES      (12u << 20)
#define DB_QUEUE         20000
#define STOP_WAIT_MS     5000

/* Every statement here is meant for an index. A plan that was made while the tables were empty
 * would scan them whole, and a prepared statement keeps its plan. */
/* Rows are inserted, or found by their key: the plan depends neither on which nor on how many, and
 * making it anew would take longer than writing one row. */
#define WRITER_SETTINGS STORE_PLAN_SETTINGS " -c plan_cache_mode=force_generic_plan"
#define PEOPLE_MS       5000

int64_t mgr_now(const struct manager *m)
{
    return m->clock_known ? clock_boot_ms() + m->clock_offset : clock_wall_ms();
}

static int64_t clock_of(void *arg)
{
    return mgr_now(arg);
}

struct mq *mgr_publisher(void *arg)
{
    struct manager *m = arg;

    return m->pub && mq_is_up(m->pub) ? m->pub : NULL;
}

void mgr_send(struct manager *m, const char *exchange, const char *key, const struct buf *body)
{
    struct mq *q = mgr_publisher(m);
    struct mq_message msg = {
        .exchange = exchange, .routing_key = key, .body = {body->data, body->len}};

    MUST(!body->failed);
    /* Whoever waits for it asks again. */
    if (!q || mq_publish(q, &msg, NULL, NULL) < 0) {
        log_debug(NULL, "a message for %s%s was not sent: the broker is away or overloaded",
                  exchange, key);
    }
}

/* ---- changes ---- */

static void count_change(enum task_state from, const struct task *row)
{
    if (row->state == TASK_RUNNING && from != TASK_RUNNING) {
        METRIC_INC(attempts_granted);
        METRIC_OBSERVE(task_wait_seconds, (double)(row->started_at - row->run_after) / 1000.0);
    } else if (from == TASK_RUNNING && row->state == TASK_READY) {
        METRIC_INC(attempts_returned);
    } else if (row->state == TASK_SCHEDULED) {
        METRIC_INC(attempts_retried);
    } else if (task_state_final(row->state) && !task_state_final(from)) {
        METRIC_INC_BY(tasks_ended, task_state_name(row->state));
        if (from == TASK_RUNNING) {
            METRIC_OBSERVE(task_run_seconds, (double)(row->finished_at - row->started_at) / 1000.0);
        }
    }
}

static void on_change(void *arg, enum task_state from, const struct task *row)
{
    struct manager *m = arg;

    count_change(from, row);

    if (row->state == TASK_RUNNING) {
        struct lease *l = fleet_grant(&m->fleet, row, clock_boot_ms());

        if (row->cancel_requested && from == TASK_RUNNING) {
            l->cancel = true;
            lead_tell_cancel(m, row);
        }
    } else {
        fleet_release(&m->fleet, &row->id);
    }
    due_row(m, row);
    feed_changed(m->feed, row);
    if (task_state_final(row->state)) {
        look_changed(m, row);
    }
    notices_change(m, from, row);
}

static void on_batch(void *arg)
{
    intake_answer(arg);
    intake_take_up(arg);
}

/* ---- the database's clock ---- */

static void read_clock(struct manager *m);

static void on_clock(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct manager *m = arg;
    int64_t now = clock_boot_ms();
    int64_t took = now - m->clock_asked;

    (void)why;
    m->clock_asked = 0;
    /* An answer that was held up, by the network or because we were stopped, tells an old time:
     * half of what it took is what it may be wrong by. An earlier one gets worse as the clocks
     * drift. */
    if (rc == 0 && db_rows(res) == 1 &&
        (!m->clock_known || took <= m->clock_took + (now - m->clock_at) / CLOCK_DRIFT)) {
        m->clock_offset = db_get_time(res, 0, 0) + took / 2 - now;
        m->clock_took = took;
        m->clock_at = now;
        m->clock_known = true;
    }
    if (rc == 0 && took > CLOCK_GOOD_MS && m->clock_tries++ < CLOCK_TRIES) {
        read_clock(m);
    }
}

static void read_clock(struct manager *m)
{
    static const char sql[] = "select clock_timestamp()";

    if (m->clock_asked) {
        return;
    }
    m->clock_asked = clock_boot_ms();
    if (db_exec(m->db_read, sql, NULL, on_clock, m) < 0) {
        m->clock_asked = 0;
        log_debug(NULL, "the database's clock is read later");
    }
}

/* ---- migrations ---- */

struct migrate {
    uv_work_t work;
    struct manager *m;
    struct db_options options;
    int rc;
    int applied;
    struct err why;
};

static void migrate_work(uv_work_t *w)
{
    struct migrate *g = w->data;

    g->rc = db_migrate(&g->options, sje_migrations, sje_migrations_count, &g->applied, &g->why);
}

static void db_is_ready(struct manager *m)
{
    m->db_ready = true;
    term_start(m);
    orders_read(m);
}

static void migrate_after(uv_work_t *w, int status)
{
    struct migrate *g = w->data;
    struct manager *m = g->m;

    (void)status;
    m->migrating = NULL;
    if (!m->stopping) {
        if (g->rc == 0) {
            db_is_ready(m);
        } else {
            log_error(NULL, "the schema cannot be brought up to date: %s; trying again",
                      g->why.text);
        }
    }
    free(g);
}

static void migrate_start(struct manager *m)
{
    struct migrate *g = xmalloc(sizeof(*g));

    g->m = m;
    g->options = m->db_options;
    g->work.data = g;
    m->migrating = g;
    MUST(uv_queue_work(m->loop, &g->work, migrate_work, migrate_after) == 0);
}

/* ---- connections ---- */

static void on_db_up(void *arg)
{
    struct manager *m = arg;

    log_info(NULL, "database is up (PostgreSQL %s)", db_server_version(m->db));
    if (!m->db_ready && !m->migrating) {
        migrate_start(m);
    }
    lead_freeze(m);
    intake_retry(m);
}

static void on_read_up(void *arg)
{
    struct manager *m = arg;

    m->clock_took = MAX(m->clock_took, CLOCK_NEW_MS);
    read_clock(m);
    if (m->db_ready) {
        orders_read(m);
    }
}

static void on_db_down(void *arg, const struct err *why)
{
    struct manager *m = arg;

    if (!m->stopping) {
        log_error(NULL,
                  "database is away: %s; tasks are refused until it is back, connecting again",
                  why->text);
    }
}

static void on_sub_up(void *arg)
{
    struct manager *m = arg;

    intake_drop(m);
    intake_up(m);
    lead_freeze(m);
    log_info(NULL, "broker is up (RabbitMQ %s)", mq_server_version(m->sub));
}

static void on_sub_down(void *arg, const struct err *why)
{
    struct manager *m = arg;

    intake_drop(m);
    if (!m->stopping) {
        log_error(NULL, "broker is away: %s; tasks are accepted and wait, connecting again",
                  why->text);
    }
}

static void on_pub_up(void *arg)
{
    struct manager *m = arg;

    feed_broker_up(m->feed);
}

static void on_pub_down(void *arg, const struct err *why)
{
    (void)arg;
    log_debug(NULL, "broker connection for publishing: %s", why->text);
}

static void on_pub_blocked(void *arg, bool blocked)
{
    struct manager *m = arg;

    if (blocked) {
        log_warn(NULL, "the broker has raised an alarm and takes no messages; feeding waits");
    } else {
        log_info(NULL, "the broker takes messages again");
        lead_freeze(m);
        feed_broker_up(m->feed);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct manager *m = t->data;

    lead_tick(m);
    look_tick(m);
    logs_tick(m);
    accept_tick(m);
    mq_watch_look(&m->watch, clock_boot_ms());
    intake_take_up(m);
    if (m->held_results.count && db_is_up(m->db)) {
        intake_retry(m);
    }
    if (m->db_ready &&
        (!m->clock_known || m->clock_took > CLOCK_GOOD_MS || m->ticks % CLOCK_TICKS == 0)) {
        m->clock_tries = 0;
        read_clock(m);
    }
    if (!m->db_ready && !m->migrating && db_is_up(m->db) && m->ticks % MIGRATE_TICKS == 0) {
        migrate_start(m);
    }
    MUST(uv_timer_start(&m->tick, on_tick, TICK_MS, 0) == 0);
}

/* ---- start ---- */

static void set_limits(struct manager *m, const struct config *c)
{
    m->heartbeat_ms = (int64_t)c->node.heartbeat_seconds * 1000;
    m->dead_after_ms = (int64_t)c->node.dead_after_seconds * 1000;
    m->max_losses = c->manager.max_losses;
    m->grace_s = c->manager.database_grace_seconds;
    m->fleet.dead_after_ms = m->dead_after_ms;
    m->fleet.heartbeat_ms = m->heartbeat_ms;
    retention_configure(m, c);
}

static void name_manager(struct manager *m)
{
    char host[40] = "";

    if (gethostname(host, sizeof(host) - 1) < 0) {
        snprintf(host, sizeof(host), "unknown");
    }
    /* Part of a queue's name. */
    for (char *p = host; *p; p++) {
        bool good = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                    (*p >= '0' && *p <= '9') || *p == '-' || *p == '.';

        *p = good ? *p : '-';
    }
    snprintf(m->id, sizeof(m->id), "%s.%d.%04x", host, (int)getpid(),
             (unsigned)(random_u64() & 0xffff));
    snprintf(m->queue, sizeof(m->queue), "sje.manager.%s", m->id);
}

static void open_database(struct manager *m, const struct config *c)
{
    struct db_options o = m->db_options;

    o.settings = WRITER_SETTINGS;
    o.connections = c->db.connections;
    o.on_up = on_db_up;
    o.on_down = on_db_down;
    m->db = db_open(m->loop, &o);
    o.settings = STORE_PLAN_SETTINGS;
    o.name = "sje-reader";
    o.connections = 2;
    o.on_up = on_read_up;
    o.on_down = NULL;
    m->db_read = db_open(m->loop, &o);
    o.settings = STORE_LIST_SETTINGS;
    o.name = "sje-people";
    o.statement_timeout_ms = PEOPLE_MS;
    o.on_up = NULL;
    m->db_people = db_open(m->loop, &o);
    o.name = "sje-lists";
    m->db_lists = db_open(m->loop, &o);
}

static void open_broker(struct manager *m, const struct config *c)
{
    struct mq_options o = {
        .hosts = c->rabbitmq.host,
        .port = c->rabbitmq.port,
        .username = c->rabbitmq.username,
        .password = c->rabbitmq.password,
        .vhost = c->rabbitmq.vhost,
        .heartbeat_s = c->rabbitmq.heartbeat_seconds,
        .arg = m,
    };
    struct mq_options p = o;

    o.name = "sje-manager-consume";
    o.prefetch = RESULTS_PREFETCH;
    o.on_up = on_sub_up;
    o.on_down = on_sub_down;
    m->sub = mq_open(m->loop, &o);
    m->results = (struct mq_watched){.queue = "sje.result", .on = true};
    m->watch =
        (struct mq_watch){.mq = m->sub, .prefetch = RESULTS_PREFETCH, .list = &m->results, .n = 1};
    p.name = "sje-manager-publish";
    p.confirms = true;
    p.on_up = on_pub_up;
    p.on_down = on_pub_down;
    p.on_blocked = on_pub_blocked;
    m->pub = mq_open(m->loop, &p);
}

int manager_start(uv_loop_t *loop, const struct config *c, const struct task_types *types,
                  struct manager **ret, struct err *reterr)
{
    struct manager *m = xmalloc(sizeof(*m));

    m->loop = loop;
    m->types = types;
    m->settings_version = -1;
    m->last_tick = clock_boot_ms();
    name_manager(m);
    m->db_options = db_options_of(c, "sje-manager");
    m->db_options.settings = STORE_PLAN_SETTINGS;
    m->db_options.statement_timeout_ms = 30000;
    m->db_options.max_queued = DB_QUEUE;
    m->db_options.arg = m;
    /* What the server refuses now, it will refuse for ever: say so and end. A server that is away
     * may come. */
    struct err why = {0};
    int applied = 0;
    int rc = db_migrate(&m->db_options, sje_migrations, sje_migrations_count, &applied, &why);
    if (rc < 0 && rc != ERR_DB_DOWN && rc != ERR_TIMEOUT) { /* somebody else migrates: later */
        free(m);
        return err_set(reterr, rc, "%s", why.text);
    }
    fleet_init(&m->fleet, 0);
    set_limits(m, c);
    list_init(&m->held_results);
    list_init(&m->results_aside);
    list_init(&m->to_answer);
    list_init(&m->queues_asked);
    list_init(&m->queues_next);
    accept_init(m);
    due_init(m);
    MUST(uv_timer_init(loop, &m->tick) == 0);
    m->tick.data = m;
    notices_init(m);
    open_database(m, c);
    struct ledger_options lo = {.loop = loop,
                                .db = m->db,
                                .on_change = on_change,
                                .on_batch = on_batch,
                                .arg = m,
                                .in_flight = WRITE_BATCHES,
                                .cache_bytes = CACHE_BYTES};
    m->ledger = ledger_new(&lo);
    struct feed_options fo = {.loop = loop,
                              .db = m->db_read,
                              .ledger = m->ledger,
                              .fleet = &m->fleet,
                              .reply = m->queue,
                              .arg = m,
                              .publisher = mgr_publisher,
                              .now = clock_of};
    m->feed = feed_new(&fo);
    open_broker(m, c);
    if (rc == 0) {
        if (applied) {
            log_info(NULL, "the schema was brought up to date: %d scripts", applied);
        }
        db_is_ready(m);
    }
    MUST(uv_timer_start(&m->tick, on_tick, TICK_MS, 0) == 0);
    *ret = m;
    return 0;
}

void manager_set_url(struct manager *m, const char *url)
{
    snprintf(m->url, sizeof(m->url), "%s", url);
    m->url_is_local =
        strstr(url, "://127.") || strstr(url, "://[::1]") || strstr(url, "://localhost");
}

const char *mgr_url_for(const struct manager *m, const char *host)
{
    char own[256] = "";

    if (!m->url_is_local) {
        return m->url;
    }
    return gethostname(own, sizeof(own) - 1) == 0 && streq(own, host) ? m->url : "";
}

void manager_reconfigure(struct manager *m, const struct config *c)
{
    set_limits(m, c);
}

/* ---- stop: answer what waits, let batches end, close connections, then the parts behind them ----
 */

static void part_closed(void *arg);

static void on_handle_closed(uv_handle_t *h)
{
    part_closed(h->data);
}

/* All connections are closed: no callback of theirs comes any more. */
static void close_parts(struct manager *m)
{
    m->closing += 7;
    ledger_close(m->ledger, part_closed, m);
    feed_close(m->feed, part_closed, m);
    uv_close((uv_handle_t *)&m->accept_check, on_handle_closed);
    uv_close((uv_handle_t *)&m->accept_spin, on_handle_closed);
    uv_close((uv_handle_t *)&m->tick, on_handle_closed);
    uv_close((uv_handle_t *)&m->due.timer, on_handle_closed);
    uv_close((uv_handle_t *)&m->notice_timer, on_handle_closed);
    m->ledger = NULL;
}

static void part_closed(void *arg)
{
    struct manager *m = arg;

    if (--m->closing) {
        return;
    }
    if (m->ledger) {
        close_parts(m);
        return;
    }
    intake_drop(m);
    due_done(m);
    fleet_done(&m->fleet);
    json_decref(m->settings);
    if (m->on_stopped) {
        m->on_stopped(m->on_stopped_arg);
    }
    free(m);
}

static void close_connections(struct manager *m)
{
    struct mq *sub = m->sub;
    struct mq *pub = m->pub;

    logs_stop(m);
    intake_drop(m);
    m->closing += 6;
    m->sub = NULL;
    m->pub = NULL;
    mq_close(sub, part_closed, m);
    mq_close(pub, part_closed, m);
    if (m->lock) {
        m->closing++;
        db_lock_free(m->lock, part_closed, m);
    }
    db_close(m->db_lists, part_closed, m);
    db_close(m->db_people, part_closed, m);
    db_close(m->db_read, part_closed, m);
    db_close(m->db, part_closed, m);
}

/* Batches in flight end first: what was decided gets written and answered. */
static void on_drain(uv_timer_t *t)
{
    struct manager *m = t->data;

    if ((m->accept_in_flight || ledger_pending(m->ledger) || m->term.asked || m->term.settling ||
         m->migrating || m->closing) &&
        clock_boot_ms() < m->last_tick + STOP_WAIT_MS) {
        return;
    }
    if (m->migrating) {
        return; /* it ends by itself: libpq's timeouts */
    }
    uv_timer_stop(t);
    close_connections(m);
}

void manager_stop(struct manager *m, void (*on_stopped)(void *arg), void *arg)
{
    m->stopping = true;
    m->on_stopped = on_stopped;
    m->on_stopped_arg = arg;
    m->last_tick = clock_boot_ms();
    term_end(m);
    feed_stop(m->feed);
    accept_stop(m);
    look_stop(m);
    MUST(uv_timer_start(&m->tick, on_drain, 0, 10) == 0);
}
