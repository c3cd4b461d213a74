/* What people ask about tasks, and the two changes they make by hand: cancel and requeue. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define POLL_TICKS 2 /* a waiter of a task that another manager ends is found so */

/* ---- get ---- */

struct get_call {
    struct manager *m;
    task_fn *cb;
    void *arg;
};

/* Lays what the beats told over the row. */
static void overlay(struct manager *m, struct task *t)
{
    struct lease *l = fleet_lease(&m->fleet, &t->id);

    if (t->state == TASK_RUNNING && l && l->attempt == t->attempt) {
        if (l->progress) {
            str_replace_owned(&t->progress, l->progress);
        }
        if (l->application_id) {
            str_replace_owned(&t->application_id, l->application_id);
        }
    }
}

static void answer_task(struct manager *m, int rc, const struct task *rows, size_t n,
                        const struct err *why, task_fn *cb, void *arg)
{
    struct err e = {0};
    struct task t;

    if (rc < 0) {
        cb(arg, rc, NULL, why);
    } else if (n == 0) {
        rc = err_set(&e, ERR_NOT_FOUND, "no such task");
        cb(arg, rc, NULL, &e);
    } else {
        task_copy(&t, &rows[0]);
        overlay(m, &t);
        cb(arg, 0, &t, NULL);
        task_done(&t);
    }
}

static void on_got(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct get_call *c CLEANUP(freep) = arg;

    answer_task(c->m, rc, rows, n, why, c->cb, c->arg);
}

/* The error of a statement that could not even be sent. */
static void answer_unsent(int rc, task_fn *cb, void *arg)
{
    struct err e = {0};

    err_set(&e, rc, "%s", err_text(rc));
    cb(arg, rc, NULL, &e);
}

void manager_get(struct manager *m, const struct id *id, task_fn *cb, void *arg)
{
    struct get_call *c = xmalloc(sizeof(*c));

    *c = (struct get_call){m, cb, arg};
    int rc = m->db_ready ? store_load(m->db_read, id, 1, on_got, c) : ERR_DB_DOWN;
    if (rc < 0) {
        free(c);
        answer_unsent(rc, cb, arg);
    }
}

/* ---- wait ---- */

struct waiter_task {
    struct id id;
    UT_hash_handle hh;
    struct list waiters;
};

struct waiter {
    struct manager *m;
    struct waiter_task *of; /* NULL once answered or cancelled */
    struct list_node node;
    uv_timer_t timer;
    bool closing;
    bool loading; /* a load's callback still comes */
    bool late;    /* the time is over: answer with what the load brings */
    task_fn *cb;
    void *arg;
};

static void waiter_gone(uv_handle_t *h)
{
    struct waiter *w = h->data;

    w->m->closing--;
    w->timer.data = NULL;
    if (!w->loading) {
        free(w);
    }
}

/* Takes the waiter out; it is freed when its timer is closed and no load is open. */
static void waiter_end(struct waiter *w)
{
    struct waiter_task *t = w->of;

    if (!t) {
        return;
    }
    list_remove(&w->node);
    w->of = NULL;
    if (t->waiters.count == 0) {
        HASH_DEL(w->m->waiters, t);
        free(t);
    }
    w->m->closing++;
    uv_close((uv_handle_t *)&w->timer, waiter_gone);
}

static void waiter_answer(struct waiter *w, int rc, const struct task *rows, size_t n,
                          const struct err *why)
{
    struct manager *m = w->m;
    task_fn *cb = w->cb;
    void *arg = w->arg;

    waiter_end(w);
    answer_task(m, rc, rows, n, why, cb, arg);
}

static void on_wait_loaded(void *arg, int rc, const struct task *rows, size_t n,
                           const struct err *why)
{
    struct waiter *w = arg;

    w->loading = false;
    if (!w->of) {
        if (!w->timer.data) {
            free(w);
        }
        return;
    }
    if (rc < 0 || n == 0 || w->late || task_state_final(rows[0].state)) {
        waiter_answer(w, rc, rows, n, why);
    }
}

static void waiter_load(struct waiter *w)
{
    struct err e = {0};

    if (w->loading) {
        return;
    }
    w->loading = true;
    int rc =
        w->m->db_ready ? store_load(w->m->db_read, &w->of->id, 1, on_wait_loaded, w) : ERR_DB_DOWN;
    if (rc < 0) {
        err_set(&e, rc, "%s", err_text(rc));
        on_wait_loaded(w, rc, NULL, 0, &e);
    }
}

static void on_wait_over(uv_timer_t *t)
{
    struct waiter *w = t->data;

    w->late = true;
    waiter_load(w);
}

struct waiter *manager_wait(struct manager *m, const struct id *id, int64_t wait_ms, task_fn *cb,
                            void *arg)
{
    struct waiter *w;
    struct waiter_task *t = NULL;

    if (!m->db_ready || m->stopping) {
        answer_unsent(m->stopping ? ERR_CLOSED : ERR_DB_DOWN, cb, arg);
        return NULL;
    }
    HASH_FIND(hh, m->waiters, id, sizeof(*id), t);
    if (!t) {
        t = xmalloc(sizeof(*t));
        t->id = *id;
        list_init(&t->waiters);
        HASH_ADD(hh, m->waiters, id, sizeof(t->id), t);
    }
    w = xmalloc(sizeof(*w));
    w->m = m;
    w->cb = cb;
    w->arg = arg;
    w->of = t;
    list_push(&t->waiters, &w->node);
    MUST(uv_timer_init(m->loop, &w->timer) == 0);
    w->timer.data = w;
    MUST(uv_timer_start(&w->timer, on_wait_over, (uint64_t)wait_ms, 0) == 0);
    waiter_load(w);
    return w->of ? w : NULL;
}

void manager_wait_cancel(struct waiter *w)
{
    waiter_end(w);
}

static struct waiter_task *waiters_of(struct manager *m, const struct id *id)
{
    struct waiter_task *t = NULL;

    HASH_FIND(hh, m->waiters, id, sizeof(*id), t);
    return t;
}

void look_changed(struct manager *m, const struct task *row)
{
    struct waiter_task *t = task_state_final(row->state) ? waiters_of(m, &row->id) : NULL;

    /* The last waiter takes the list with it. */
    for (size_t n = t ? t->waiters.count : 0; n; n--) {
        t = waiters_of(m, &row->id);
        waiter_answer(CONTAINER_OF(list_first(&t->waiters), struct waiter, node), 0, row, 1, NULL);
    }
}

void look_final(struct manager *m, const struct id *id)
{
    struct waiter_task *t = waiters_of(m, id);

    fleet_release(&m->fleet, id);
    if (t) {
        LIST_EACH(&t->waiters, n)
        {
            waiter_load(CONTAINER_OF(n, struct waiter, node));
        }
    }
}

void look_tick(struct manager *m)
{
    struct waiter_task *t;
    struct waiter_task *tmp;

    if (m->ticks % POLL_TICKS || !m->db_ready) {
        return;
    }
    HASH_ITER(hh, m->waiters, t, tmp)
    {
        /* Loads answer later, from the loop; only an error answers from inside, and then the list
         * may go. */
        struct list_node *n = list_first(&t->waiters);

        if (db_is_up(m->db_read) && n) {
            waiter_load(CONTAINER_OF(n, struct waiter, node));
        }
    }
}

void look_stop(struct manager *m)
{
    static const struct err why = {ERR_CLOSED, "closing down"};
    struct waiter_task *t;
    struct waiter_task *tmp;

    HASH_ITER(hh, m->waiters, t, tmp)
    {
        for (size_t n = t->waiters.count; n; n--) {
            waiter_answer(CONTAINER_OF(list_first(&t->waiters), struct waiter, node), ERR_CLOSED,
                          NULL, 0, &why);
        }
    }
}

/* ---- list, events ---- */

struct list_call {
    struct manager *m;
    int limit;
    tasks_fn *cb;
    void *arg;
};

static void on_listed(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct list_call *c CLEANUP(freep) = arg;
    size_t shown = MIN(n, (size_t)c->limit);
    struct task *copy CLEANUP(freep) = xcalloc(shown, sizeof(*copy));

    for (size_t i = 0; i < shown; i++) {
        task_copy(&copy[i], &rows[i]);
        overlay(c->m, &copy[i]);
    }
    c->cb(c->arg, rc, copy, shown, n > shown, why);
    for (size_t i = 0; i < shown; i++) {
        task_done(&copy[i]);
    }
}

void manager_list(struct manager *m, const struct list_filter *f, tasks_fn *cb, void *arg)
{
    struct list_call *c = xmalloc(sizeof(*c));
    struct list_filter more = *f;
    struct err e = {0};

    *c = (struct list_call){m, f->limit, cb, arg};
    more.limit++; /* one more tells whether there is a next page */
    int rc = m->db_ready ? store_list(m->db_read, &more, on_listed, c) : ERR_DB_DOWN;
    if (rc < 0) {
        free(c);
        err_set(&e, rc, "%s", err_text(rc));
        cb(arg, rc, NULL, 0, false, &e);
    }
}

void manager_events(struct manager *m, const struct id *id, events_fn *cb, void *arg)
{
    struct err e = {0};
    int rc = m->db_ready ? store_events(m->db_read, id, cb, arg) : ERR_DB_DOWN;

    if (rc < 0) {
        err_set(&e, rc, "%s", err_text(rc));
        cb(arg, rc, NULL, 0, &e);
    }
}

/* ---- change ---- */

static void on_changed(void *arg, const struct ledger_answer *a)
{
    struct get_call *c CLEANUP(freep) = arg;
    struct err e = {0};

    if (a->rc < 0) {
        c->cb(c->arg, a->rc, NULL, a->why);
    } else if (a->step == STEP_REFUSED) {
        err_set(&e, ERR_CONFLICT, "the task is %s", task_state_outside(a->task->state));
        c->cb(c->arg, ERR_CONFLICT, a->task, &e);
    } else {
        c->cb(c->arg, 0, a->task, NULL);
    }
}

static void change(struct manager *m, const struct id *id, enum task_event_type type,
                   const char *by, task_fn *cb, void *arg)
{
    struct get_call *c = xmalloc(sizeof(*c));
    struct task_event ev = {.type = type, .now = mgr_now(m), .reason = by};

    *c = (struct get_call){m, cb, arg};
    CRASH_POINT("manager-cancel");
    ledger_submit(m->ledger, id, &ev, 0, on_changed, c);
}

void manager_cancel(struct manager *m, const struct id *id, task_fn *cb, void *arg)
{
    change(m, id, TE_CANCEL, "a client", cb, arg);
}

void manager_requeue(struct manager *m, const struct id *id, task_fn *cb, void *arg)
{
    change(m, id, TE_REQUEUE, "an operator", cb, arg);
}
