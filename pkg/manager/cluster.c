/* What /health, /mgmt and /metrics show of the cluster. */
#include "internal/clock.h"
#include "internal/metrics.h"
#include "pkg/manager/mgr.h"
#include "pkg/manager/waits.h"

#include <stdio.h>
#include <stdlib.h>

#define POOLS_NAMED 10
#define DETAILS_MAX (4 << 20) /* bytes, in a list of workers; each may be escaped */

static json_t *time_json(int64_t wall_ms)
{
    char text[CLOCK_TEXT_LEN];

    if (wall_ms <= 0) {
        return json_null();
    }
    clock_format(wall_ms, text);
    return json_string(text);
}

static json_t *text_json(const char *s)
{
    return s ? json_string_lossy(s, strlen(s)) : json_null();
}

static void set(json_t *obj, const char *key, json_t *v)
{
    MUST(json_object_set_new(obj, key, v) == 0);
}

static json_t *part_json(bool up, const char *version, const char *error)
{
    json_t *j = json_object();

    set(j, "status", json_string(up ? "up" : "down"));
    if (up) {
        set(j, "version", text_json(version));
    } else {
        set(j, "error", text_json(*error ? error : "not connected yet"));
    }
    return j;
}

static bool database_up(const struct manager *m)
{
    return m->db_ready && db_is_up(m->db) && db_is_up(m->db_read) && db_is_up(m->db_people) &&
           db_is_up(m->db_lists) && !term_db_silent_s(m);
}

static json_t *database_json(const struct manager *m)
{
    int silent = term_db_silent_s(m);
    char text[64];

    snprintf(text, sizeof(text), "no answer for %d s", silent);
    return part_json(database_up(m), db_server_version(m->db),
                     silent && db_is_up(m->db) ? text : db_last_error(m->db));
}

bool manager_health(struct manager *m, struct buf *out)
{
    bool db_up = database_up(m);
    bool mq_up = m->pub && mq_is_up(m->pub) && mq_is_up(m->sub);
    json_auto_t *j = json_object();

    set(j, "status", json_string(db_up && mq_up ? "up" : "down"));
    set(j, "database", database_json(m));
    set(j, "broker", part_json(mq_up, mq_server_version(m->pub), mq_last_error(m->pub)));
    set(j, "leader", json_boolean(m->epoch != 0));
    set(j, "noLeader", json_boolean(term_nobody_leads(m)));
    set(j, "version", json_string(SJE_VERSION));
    json_write(j, out);
    return db_up && mq_up;
}

static json_t *strings_json(const struct names *list)
{
    json_t *j = json_array();

    for (char *const *name = names_items(list); *name; name++) {
        json_array_append_new(j, text_json(*name));
    }
    return j;
}

static json_t *cpus_json(int64_t milli)
{
    return json_real((double)milli / 1000);
}

static json_t *lease_json(const struct lease *l)
{
    char task[ID_TEXT_LEN];
    json_t *j = json_object();
    json_t *progress = NULL;

    id_format(&l->task, task);
    set(j, "taskId", json_string(task));
    set(j, "attempt", json_integer(l->attempt));
    set(j, "slots", json_integer(l->room.slots));
    set(j, "cpus", cpus_json(l->room.cpus_milli));
    set(j, "memoryMb", json_integer(l->room.memory_mb));
    set(j, "phase", text_json(l->phase));
    set(j, "applicationId", text_json(l->application_id));
    set(j, "uiUrl", text_json(l->ui_url));
    if (l->progress && json_read(l->progress, strlen(l->progress), &progress, NULL) < 0) {
        progress = NULL;
    }
    set(j, "progress", progress ? progress : json_null());
    set(j, "leaseMsLeft", json_integer(MAX(l->deadline - clock_boot_ms(), (int64_t)0)));
    return j;
}

/* Times as everywhere in the API. */
static json_t *hold_off_json(const json_t *list)
{
    json_t *all = json_array();

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        json_t *j = json_object();

        set(j, "type", json_incref(json_object_get(one, "type")));
        set(j, "reason", json_incref(json_object_get(one, "reason")));
        set(j, "until", time_json(json_get_int(one, "untilMs", 0)));
        json_array_append_new(all, j);
    }
    return all;
}

/* Why it has the state it has; null where that says all. */
static json_t *reason_json(const struct fleet_worker *w)
{
    const struct fleet_worker *holder = w->node->holder;
    char *text CLEANUP(freep) = NULL;

    size_t left = fleet_left_behind(w);

    if (left) {
        text = xasprintf("it came back with another workDir; %zu task%s of the one before run%s "
                         "again when the lease is over",
                         left, left > 1 ? "s" : "", left > 1 ? "" : "s");
    } else if (w->state == WORKER_REFUSED) {
        text = xasprintf("another worker of this name lives, on %s (pid %d); give each its own "
                         "executorNodeConfig.nodeId",
                         holder->host, holder->pid);
    } else if (w->unserved) {
        text = xstrdup("it gets no tasks: with what it offers, all workers together name too many "
                       "pools or types of tasks");
    }
    return text_json(text);
}

/* What members of free length take in a list, about. */
static size_t details_len(const struct fleet_worker *w)
{
    const struct names *const lists[] = {w->pools, w->job_types};
    size_t len = w->hold_off ? json_dumpb(w->hold_off, NULL, 0, JSON_COMPACT) : 0;

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (char *const *name = names_items(lists[i]); *name; name++) {
            len += strlen(*name) + 4;
        }
    }
    return len;
}

static json_t *worker_json(struct fleet_worker *w, bool detailed, bool with_tasks)
{
    json_t *j = json_object();

    set(j, "workerId", text_json(w->who.node));
    set(j, "host", text_json(w->host));
    set(j, "state", json_string(worker_state_name(w->state)));
    set(j, "reason", reason_json(w));
    set(j, "slots", json_integer(w->slots));
    set(j, "running", json_integer((json_int_t)w->leases.count));
    set(j, "usedSlots", json_integer(w->offer.used.slots));
    set(j, "cpus", json_integer(w->cpus));
    set(j, "usedCpus", cpus_json(w->offer.used.cpus_milli));
    set(j, "memoryMb", json_integer(w->memory_mb));
    set(j, "usedMemoryMb", json_integer(w->offer.used.memory_mb));
    if (detailed) {
        set(j, "pools", strings_json(w->pools));
        set(j, "jobTypes", strings_json(w->job_types));
        set(j, "holdOff", hold_off_json(w->hold_off));
    }
    set(j, "draining", json_boolean(w->node->drain || w->draining));
    set(j, "version", text_json(w->version));
    set(j, "pid", json_integer(w->pid));
    set(j, "incarnation", json_integer(w->who.inc));
    set(j, "startedAt", time_json(w->started_at));
    set(j, "lastHeartbeatAt", time_json(w->last_beat_wall));
    if (with_tasks) {
        json_t *tasks = json_array();

        LIST_EACH(&w->leases, n)
        {
            json_array_append_new(tasks, lease_json(CONTAINER_OF(n, struct lease, node)));
        }
        set(j, "tasks", tasks);
        json_t *refused = json_array();
        LIST_EACH(&w->node->workers, n)
        {
            struct fleet_worker *other = CONTAINER_OF(n, struct fleet_worker, of_node);

            if (other->state == WORKER_REFUSED) {
                json_array_append_new(refused, worker_json(other, true, false));
            }
        }
        set(j, "refused", refused);
    }
    return j;
}

void manager_workers(struct manager *m, struct buf *out)
{
    json_auto_t *j = json_object();
    json_t *list = json_array();
    size_t details = 0;

    for (struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        details += details_len(w);
    }
    for (struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        json_array_append_new(list, worker_json(w, details <= DETAILS_MAX, false));
    }
    set(j, "workers", list);
    json_write(j, out);
}

int manager_worker(struct manager *m, const char *id, struct buf *out, struct err *reterr)
{
    struct fleet_worker *w = fleet_find(&m->fleet, id);

    if (!w) {
        return err_set(reterr, ERR_NOT_FOUND, "no such worker");
    }
    json_auto_t *j = worker_json(w, true, true);
    json_write(j, out);
    return 0;
}

int manager_check_dead_after(const struct manager *m, int seconds, struct err *reterr)
{
    const struct fleet_worker *w = fleet_slowest(&m->fleet);
    int64_t every = w ? (w->heartbeat_ms ? w->heartbeat_ms : m->heartbeat_ms) : 0;

    if (!w || (int64_t)seconds * 1000 >= 3 * every) {
        return 0;
    }
    return err_set(reterr, ERR_INVALID,
                   "executorNodeConfig.deadAfterSeconds: is %d; allowed is at least %lld while "
                   "worker %s beats every %lld s: its version (%.30s) does not adapt",
                   seconds, (long long)(3 * every + 999) / 1000, w->who.node,
                   (long long)(every + 999) / 1000, w->version ? w->version : "?");
}

struct status_counts {
    int workers[WORKER_STATE_COUNT];
    struct room all; /* of those that are there */
    struct room used;
};

static struct status_counts count(const struct manager *m)
{
    struct status_counts c = {0};

    for (const struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        c.workers[w->state]++;
        if (w->state == WORKER_UP || w->state == WORKER_DRAINING) {
            struct room all = {w->slots, (int64_t)w->cpus * 1000, w->memory_mb};

            room_add(&c.all, &all, 1);
            room_add(&c.used, &w->offer.used, 1);
        }
    }
    return c;
}

void manager_status(struct manager *m, struct buf *out)
{
    struct status_counts c = count(m);
    json_auto_t *j = json_object();
    json_t *workers = json_object();

    for (enum worker_state s = 0; s < WORKER_STATE_COUNT; s++) {
        set(workers, worker_state_name(s), json_integer(c.workers[s]));
    }
    set(j, "managerId", json_string(m->id));
    set(j, "version", json_string(SJE_VERSION));
    set(j, "leader", json_boolean(m->epoch != 0));
    set(j, "epoch", json_integer(m->epoch));
    set(j, "workers", workers);
    set(j, "slots", json_integer(c.all.slots));
    set(j, "usedSlots", json_integer(c.used.slots));
    set(j, "cpus", cpus_json(c.all.cpus_milli));
    set(j, "usedCpus", cpus_json(c.used.cpus_milli));
    set(j, "memoryMb", json_integer(c.all.memory_mb));
    set(j, "usedMemoryMb", json_integer(c.used.memory_mb));
    set(j, "running", json_integer((json_int_t)HASH_COUNT(m->fleet.leases)));
    set(j, "database", database_json(m));
    set(j, "broker", part_json(mq_is_up(m->pub), mq_server_version(m->pub), mq_last_error(m->pub)));
    json_write(j, out);
}

/* Workers by what they do not take: their own metrics are seen by nobody where they have no port.
 */
static void set_hold_off(const struct manager *m)
{
    metric_clear(METRIC_workers_hold_off);
    for (const struct fleet_worker *w = m->fleet.workers; w; w = w->hh.next) {
        for (size_t i = 0; worker_lives(w->state) && i < json_array_size(w->hold_off); i++) {
            const char *type = json_get_string(json_array_get(w->hold_off, i), "type");

            metric_add(METRIC_workers_hold_off, type ? type : "all", 1);
        }
    }
}

static void set_outstanding(void *arg, const struct feed_pool_info *info)
{
    (void)arg;
    metric_set(METRIC_hints_outstanding, info->pool, (double)info->outstanding);
}

void manager_metrics(struct manager *m)
{
    struct status_counts c = count(m);

    METRIC_SET(leader, m->epoch != 0);
    METRIC_SET(database_up, database_up(m));
    METRIC_SET(broker_up, mgr_publisher(m) != NULL);
    METRIC_SET(slots, c.all.slots);
    METRIC_SET(slots_used, c.used.slots);
    METRIC_SET(cpus, (double)c.all.cpus_milli / 1000);
    METRIC_SET(cpus_used, (double)c.used.cpus_milli / 1000);
    METRIC_SET(memory_bytes, (double)c.all.memory_mb * (1 << 20));
    METRIC_SET(memory_used_bytes, (double)c.used.memory_mb * (1 << 20));
    METRIC_SET(ledger_pending, ledger_pending(m->ledger));
    for (size_t i = 0; i < ARRAY_LEN(c.workers); i++) {
        metric_set(METRIC_workers, worker_state_name((enum worker_state)i), c.workers[i]);
    }
    set_hold_off(m);
    metric_clear(METRIC_hints_outstanding);
    feed_each(m->feed, set_outstanding, NULL);
}

/* ---- queues ---- */

bool manager_pool_unserved(const struct manager *m, const char *pool, struct buf *why)
{
    int n = 0;

    if (offers_find(&m->fleet.offers, pool)) {
        return false;
    }
    buf_adds(why, "no worker serves a pool of that name; there ");
    for (const struct offers_pool *o = m->fleet.offers.pools; o; o = o->hh.next) {
        if (n++ < POOLS_NAMED) {
            buf_addf(why, "%s%s", n > 1 ? ", " : "are ", o->name);
        }
    }
    buf_adds(why, n == 0 ? "is no worker at all" : n > POOLS_NAMED ? " and others" : "");
    return true;
}

struct queues_call {
    struct list_node node; /* in m->queues_asked or m->queues_next */
    json_fn *cb;
    void *arg;
};

/* What keeps the pool's first one. */
static void set_reason(struct manager *m, json_t *j, const struct db_result *res, int i)
{
    struct waiting_for w;
    bool known = !db_is_null(res, i, 6);
    struct need need = {known ? db_get_text(res, i, 6).p : "",
                        {db_get_int(res, i, 7), db_get_int(res, i, 8), db_get_int(res, i, 9)}};
    bool given_back = known && !db_is_null(res, i, 11);
    struct waits_back back = {given_back ? db_get_text(res, i, 11).p : NULL,
                              known ? db_get_time(res, i, 12) : 0,
                              known ? db_get_time(res, i, 13) : 0};
    char first[ID_TEXT_LEN] = "";
    bool queued = db_get_int(res, i, 2) + db_get_int(res, i, 3) > 0;
    bool waits = queued && waits_reason(m, db_get_text(res, i, 0).p, db_get_bool(res, i, 5),
                                        known ? &need : NULL, &back, &w);

    if (known) {
        struct id id = db_get_id(res, i, 10);
        id_format(&id, first);
    }
    set(j, "waitingTaskId", waits && known ? json_string(first) : json_null());
    set(j, "waitingFor", waits ? json_string(w.text) : json_null());
    set(j, "waitingForCode", waits ? json_string(w.code) : json_null());
}

static json_t *queue_json(struct manager *m, const struct db_result *res, int i)
{
    json_t *j = json_object();
    const char *pool = db_get_text(res, i, 0).p;
    int64_t ready = db_get_int(res, i, 2);
    int64_t fed = db_get_int(res, i, 3);
    struct feed_pool_info info;
    bool found = feed_look(m->feed, pool, &info);

    set(j, "pool", text_json(pool));
    set(j, "paused", json_boolean(db_get_bool(res, i, 5)));
    set(j, "scheduled", json_integer(db_get_int(res, i, 1)));
    set(j, "ready", json_integer(ready));
    set(j, "fed", json_integer(fed));
    set(j, "queued", json_integer(db_get_int(res, i, 1) + ready + fed));
    set(j, "running", json_integer(db_get_int(res, i, 4)));
    set(j, "outstanding", found ? json_integer((json_int_t)info.outstanding) : json_null());
    set(j, "window", found ? json_integer((json_int_t)info.window) : json_null());
    set_reason(m, j, res, i);
    return j;
}

/* Whoever comes while a statement is under way gets the answer of the next one, which sees what was
 * written before the question. */
static void answer_queues(struct manager *m, int rc, struct str json, const struct err *why)
{
    size_t n = m->queues_asked.count;

    while (n--) {
        struct list_node *node = list_pop(&m->queues_asked);
        struct queues_call *c CLEANUP(freep) = CONTAINER_OF(node, struct queues_call, node);

        c->cb(c->arg, rc, json, why);
    }
}

static void ask_queues(struct manager *m);

static void on_queues(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct manager *m = arg;
    struct buf b CLEANUP(buf_free) = {0};
    json_auto_t *j = json_object();
    json_t *list = json_array();

    for (int i = 0; rc == 0 && i < db_rows(res); i++) {
        json_array_append_new(list, queue_json(m, res, i));
    }
    set(j, "queues", list);
    buf_init(&b, 4 << 20);
    json_write(j, &b);
    answer_queues(m, rc, (struct str){b.data, b.len}, why);
    if (m->queues_next.count && m->queues_asked.count == 0) {
        ask_queues(m);
    }
}

/* One statement for all who wait for it. */
static void ask_queues(struct manager *m)
{
    /* Each branch counts over a partial index of its own. */
    static const char sql[] =
        "with n(pool, state, n) as ("
        "select pool, 1, count(*) from task where state = 1 group by pool union all "
        "select pool, 2, count(*) from task where state = 2 group by pool union all "
        "select pool, 3, count(*) from task where state = 3 group by pool union all "
        "select pool, 4, count(*) from task where state = 4 group by pool), "
        "p(pool) as (select pool from n union select name from pool where paused union select "
        "unnest($1::text[])), g as ("
        "select p.pool, coalesce(sum(n.n) filter (where n.state = 1), 0)::bigint, "
        "coalesce(sum(n.n) filter (where n.state = 2), 0)::bigint, "
        "coalesce(sum(n.n) filter (where n.state = 3), 0)::bigint, "
        "coalesce(sum(n.n) filter (where n.state = 4), 0)::bigint, "
        "coalesce(bool_or(q.paused), false) "
        "from p left join n on n.pool = p.pool left join pool q on q.name = p.pool "
        "group by p.pool order by p.pool limit 1000) "
        "select g.*, f.job_type, f.slots, f.cpus_milli, f.memory_mb, f.id, f.returned_by, "
        "f.submitted_at, f.run_after "
        "from g left join lateral "
        "(select id, job_type, slots, cpus_milli, memory_mb, returned_by, submitted_at, run_after "
        "from task where state = 2 and pool = g.pool order by pool, rank, id limit 1) f on true "
        "order by g.pool";
    struct db_params p CLEANUP(db_params_free);
    struct db_array served CLEANUP(db_array_free);
    struct list_node *n;
    struct err e = {0};

    while ((n = list_pop(&m->queues_next))) {
        list_push(&m->queues_asked, n);
    }
    db_params_init(&p);
    db_array_init(&served, DB_TEXT);
    for (const struct offers_pool *o = m->fleet.offers.pools; o; o = o->hh.next) {
        db_array_text(&served, o->name);
    }
    db_add_array(&p, &served);
    int rc = m->db_ready ? db_exec(m->db_lists, sql, &p, on_queues, m) : ERR_DB_DOWN;
    if (rc < 0) {
        err_set(&e, rc, "%s", err_text(rc));
        answer_queues(m, rc, (struct str){"", 0}, &e);
    }
}

void manager_queues(struct manager *m, json_fn *cb, void *arg)
{
    struct queues_call *c = xmalloc(sizeof(*c));

    *c = (struct queues_call){.cb = cb, .arg = arg};
    list_push(&m->queues_next, &c->node);
    if (m->queues_asked.count == 0) {
        ask_queues(m);
    }
}
