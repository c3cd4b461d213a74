/* Logs live on the workers' disks; this relays pieces of them. */
#include "internal/clock.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define REPLY_MS  5000
#define AGAIN_MS  1000 /* an order or its reply is lost where either side has just reconnected */
#define LIMIT_MAX (256 * 1024)
#define CALLS_MAX 4096

struct log_call {
    int64_t rid;
    UT_hash_handle hh;
    struct manager *m;
    struct log_request r;
    char *worker;
    char *asked; /* queue of the worker's process that has the question */
    int attempt;
    bool final;       /* the task had ended when we looked */
    bool sizing;      /* a negative offset: the first question is for the size */
    int64_t again;    /* boot ms: asked once more then */
    int64_t deadline; /* boot ms */
    log_fn *cb;
    void *arg;
};

static void call_free(struct log_call *c)
{
    if (c->rid) {
        HASH_DEL(c->m->log_calls, c);
    }
    free(c->worker);
    free(c->asked);
    free(c);
}

static void answer(struct log_call *c, int rc, const struct log_part *part, const struct err *why)
{
    log_fn *cb = c->cb;
    void *arg = c->arg;

    call_free(c);
    cb(arg, rc, part, why);
}

static void answer_error(struct log_call *c, int rc, const char *text)
{
    struct err e = {0};

    err_set(&e, rc, "%s", text);
    answer(c, rc, NULL, &e);
}

static void ask(struct log_call *c)
{
    struct manager *m = c->m;
    const struct fleet_worker *w = fleet_find(&m->fleet, c->worker);
    struct buf b CLEANUP(buf_free) = {0};
    char task[ID_TEXT_LEN];

    if (!w || !w->reply || w->state == WORKER_DEAD || w->state == WORKER_STOPPED) {
        char *text CLEANUP(freep) =
            xasprintf("the log is on worker %s, which cannot be reached now", c->worker);
        answer_error(c, ERR_MQ_DOWN, text);
        return;
    }
    if (!mgr_publisher(m)) {
        answer_error(c, ERR_MQ_DOWN, "the log's worker cannot be asked: the broker is away");
        return;
    }
    buf_init(&b, 4096);
    id_format(&c->r.id, task);
    buf_addf(&b,
             "{\"v\":1,\"type\":\"log\",\"task\":\"%s\",\"attempt\":%d,\"stream\":\"%s\","
             "\"offset\":%lld,\"limit\":%lld,"
             "\"waitMs\":%d,\"reply\":\"%s\",\"rid\":%lld}",
             task, c->attempt, c->r.stderr_stream ? "stderr" : "stdout",
             c->sizing ? 0LL : (long long)c->r.offset, c->sizing ? 0LL : (long long)c->r.limit,
             c->sizing ? 0 : c->r.wait_ms, m->queue, (long long)c->rid);
    c->again = clock_boot_ms() + AGAIN_MS + c->r.wait_ms;
    str_replace_owned(&c->asked, w->reply);
    mgr_send(m, "", w->reply, &b);
}

/* The process that was asked is gone, with the question; a new one has beaten. */
static bool restarted(const struct log_call *c)
{
    const struct fleet_worker *w = c->asked ? fleet_find(&c->m->fleet, c->worker) : NULL;

    return w && w->reply && !streq(w->reply, c->asked);
}

/* Which worker ran it: the audit knows for every attempt. */
static void on_placed(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct log_call *c = arg;
    struct log_part none = {.ended = true};

    if (rc < 0) {
        answer(c, rc, NULL, why);
        return;
    }
    if (db_rows(res) == 0) {
        answer_error(c, ERR_NOT_FOUND, "no such task");
        return;
    }
    c->final = task_state_final((enum task_state)db_get_int(res, 0, 0));
    if (db_is_null(res, 0, 1) && c->r.attempt > 0) {
        int last = (int)db_get_int(res, 0, 4);
        char *text CLEANUP(freep) =
            last ? xasprintf("the task has no attempt %d: the last is %d", c->r.attempt, last)
                 : xasprintf("the task has no attempt %d: none has begun", c->r.attempt);

        answer_error(c, ERR_NOT_FOUND, text);
        return;
    }
    if (db_is_null(res, 0, 1)) {
        none.ended = c->final;
        answer(c, 0, &none, NULL); /* it has not run yet */
        return;
    }
    c->attempt = (int)db_get_int(res, 0, 1);
    if (str_eq(db_get_text(res, 0, 3), str_of(JOB_NOOP))) {
        none.attempt = c->attempt;
        answer(c, 0, &none, NULL); /* it says nothing, and has no directory */
        return;
    }
    c->worker = xstrdup(db_get_text(res, 0, 2).p);
    c->deadline = clock_boot_ms() + REPLY_MS + c->r.wait_ms;
    ask(c);
}

void manager_log(struct manager *m, const struct log_request *r, log_fn *cb, void *arg)
{
    static const char sql[] =
        "select t.state, e.attempt, e.worker_id, t.job_type, "
        "(select max(attempt) from event where task_id = t.id and event = 'granted') "
        "from task t left join "
        "lateral (select attempt, worker_id from event "
        "where task_id = t.id and event = 'granted' and ($2 = 0 or attempt = "
        "$2) order by seq desc limit 1) e on true "
        "where t.id = $1";
    struct log_call *c = xmalloc(sizeof(*c));
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    c->m = m;
    c->r = *r;
    c->r.limit = MIN(MAX(r->limit, (int64_t)0), (int64_t)LIMIT_MAX);
    c->sizing = r->offset < 0;
    c->cb = cb;
    c->arg = arg;
    c->again = c->deadline = INT64_MAX;
    if (m->stopping || HASH_COUNT(m->log_calls) >= CALLS_MAX) {
        answer_error(c, m->stopping ? ERR_CLOSED : ERR_BUSY,
                     m->stopping ? "closing down" : "too many logs are read");
        return;
    }
    db_add_id(&p, &r->id);
    db_add_int(&p, r->attempt);
    int rc = m->db_ready ? db_exec(m->db_people, sql, &p, on_placed, c) : ERR_DB_DOWN;
    if (rc < 0) {
        answer_error(c, rc, err_text(rc));
        return;
    }
    c->rid = ++m->next_rid;
    HASH_ADD(hh, m->log_calls, rid, sizeof(c->rid), c);
}

void logs_reply(struct manager *m, const struct message *msg)
{
    struct log_call *c = NULL;

    HASH_FIND(hh, m->log_calls, &msg->rid, sizeof(msg->rid), c);
    if (!c) {
        return; /* too late */
    }
    if (!msg->found) {
        answer_error(c, ERR_GONE, "the log is no longer on its worker");
        return;
    }
    if (c->sizing) {
        c->sizing = false;
        c->r.offset = MAX(msg->size + c->r.offset, (int64_t)0);
        c->deadline = clock_boot_ms() + REPLY_MS + c->r.wait_ms;
        ask(c);
        return;
    }
    struct log_part part = {.size = msg->size,
                            .offset = msg->offset,
                            .attempt = c->attempt,
                            .data = {msg->data.p, MIN(msg->data.len, (size_t)c->r.limit)},
                            .ended = msg->ended};
    answer(c, 0, &part, NULL);
}

void logs_tick(struct manager *m)
{
    struct log_call *c;
    struct log_call *tmp;
    int64_t now = clock_boot_ms();

    HASH_ITER(hh, m->log_calls, c, tmp)
    {
        if (now > c->deadline) {
            char *text CLEANUP(freep) =
                xasprintf("worker %s, which has the log, did not answer", c->worker);
            answer_error(c, ERR_TIMEOUT, text);
        } else if (now > c->again || restarted(c)) {
            ask(c);
        }
    }
}

void logs_stop(struct manager *m)
{
    struct log_call *c;
    struct log_call *tmp;

    HASH_ITER(hh, m->log_calls, c, tmp)
    {
        if (c->deadline != INT64_MAX) { /* else the database still answers it */
            answer_error(c, ERR_CLOSED, "closing down");
        }
    }
}
