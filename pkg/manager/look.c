/* What people ask about tasks, and the two changes they make by hand: cancel and requeue. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "pkg/manager/mgr.h"

#include <stdlib.h>

#define POLL_TICKS 5

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
    int rc = m->db_ready ? store_load(m->db_people, id, 1, on_got, c) : ERR_DB_DOWN;
    if (rc < 0) {
        free(c);
        answer_unsent(rc, cb, arg);
    }
}

/* ---- wait ---- */

/* Everybody who waits for one task: one load serves them all. */
struct waiter_task {
    struct id id;
    UT_hash_handle hh;
    struct manager *m;
    struct list waiters;
    int holds; /* callbacks to come, answers being given: it stays although nobody waits */
    bool loading;
    bool again; /* somebody wants an answer who came after that load was sent */
};

struct waiter {
    struct manager *m;
    struct waiter_task *of; /* NULL once answered or cancelled */
    struct list_node node;
    uv_timer_t timer;
    bool late; /* the time is over: answer with what the load brings */
    task_fn *cb;
    void *arg;
};

static struct waiter_task *waiters_of(struct manager *m, const struct id *id)
{
    struct waiter_task *t = NULL;

    HASH_FIND(hh, m->waiters, id, sizeof(*id), t);
    return t;
}

static struct waiter_task *waiters_get(struct manager *m, const struct id *id)
{
    struct waiter_task *t = waiters_of(m, id);

    if (!t) {
        t = xmalloc(sizeof(*t));
        t->id = *id;
        t->m = m;
        list_init(&t->waiters);
        HASH_ADD(hh, m->waiters, id, sizeof(t->id), t);
    }
    return t;
}

static void waiters_release(struct waiter_task *t)
{
    if (t->waiters.count == 0 && t->holds == 0) {
        HASH_DEL(t->m->waiters, t);
        free(t);
    }
}

static void on_waiter_closed(uv_handle_t *h)
{
    struct waiter *w = h->data;

    w->m->closing--;
    free(w);
}

static void waiter_end(struct waiter *w)
{
    struct waiter_task *t = w->of;

    if (!t) {
        return;
    }
    list_remove(&w->node);
    w->of = NULL;
    waiters_release(t);
    w->m->closing++;
    uv_close((uv_handle_t *)&w->timer, on_waiter_closed);
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

/* Answers all, or those whose time is over. Answers may end, and add, other waiters. */
static void waiters_answer(struct waiter_task *t, bool all, int rc, const struct task *rows,
                           size_t n, const struct err *why)
{
    size_t most = t->waiters.count; /* not those who come meanwhile */
    bool found = true;

    t->holds++;
    while (found && most--) {
        found = false;
        LIST_EACH(&t->waiters, node)
        {
            struct waiter *w = CONTAINER_OF(node, struct waiter, node);

            if (all || w->late) {
                waiter_answer(w, rc, rows, n, why);
                found = true;
                break;
            }
        }
    }
    t->holds--;
    waiters_release(t);
}

static void waiters_look(struct waiter_task *t);

static void on_wait_loaded(void *arg, int rc, const struct task *rows, size_t n,
                           const struct err *why)
{
    struct waiter_task *t = arg;
    bool again = t->again;

    t->loading = t->again = false;
    waiters_answer(t, rc < 0 || n == 0 || task_state_final(rows[0].state), rc, rows, n, why);
    if (again) {
        waiters_look(t);
    }
    t->holds--;
    waiters_release(t);
}

/* 0: an answer will come. */
static int waiters_load(struct waiter_task *t)
{
    struct manager *m = t->m;

    if (t->loading) {
        t->again = true;
        return 0;
    }
    int rc = m->db_ready ? store_load(m->db_people, &t->id, 1, on_wait_loaded, t) : ERR_DB_DOWN;
    if (rc == 0) {
        t->loading = true;
        t->holds++;
    }
    return rc;
}

static void waiters_look(struct waiter_task *t)
{
    if (t->waiters.count && db_is_up(t->m->db_people) && waiters_load(t) < 0) {
        log_debug(NULL, "a task that is waited for is looked at later");
    }
}

static void on_wait_over(uv_timer_t *timer)
{
    struct waiter *w = timer->data;
    struct err e = {0};
    int rc = waiters_load(w->of);

    w->late = true;
    if (rc < 0) {
        err_set(&e, rc, "%s", err_text(rc));
        waiter_answer(w, rc, NULL, 0, &e);
    }
}

struct waiter *manager_wait(struct manager *m, const struct id *id, int64_t wait_ms, task_fn *cb,
                            void *arg)
{
    int rc = m->stopping ? ERR_CLOSED : m->db_ready ? 0 : ERR_DB_DOWN;
    struct waiter_task *t = rc < 0 ? NULL : waiters_get(m, id);

    rc = t ? waiters_load(t) : rc;
    if (rc < 0) {
        if (t) {
            waiters_release(t);
        }
        answer_unsent(rc, cb, arg);
        return NULL;
    }
    struct waiter *w = xmalloc(sizeof(*w));
    w->m = m;
    w->cb = cb;
    w->arg = arg;
    w->of = t;
    list_push(&t->waiters, &w->node);
    MUST(uv_timer_init(m->loop, &w->timer) == 0);
    w->timer.data = w;
    MUST(uv_timer_start(&w->timer, on_wait_over, (uint64_t)wait_ms, 0) == 0);
    return w;
}

void manager_wait_cancel(struct waiter *w)
{
    waiter_end(w);
}

void look_changed(struct manager *m, const struct task *row)
{
    struct waiter_task *t = task_state_final(row->state) ? waiters_of(m, &row->id) : NULL;

    if (t) {
        waiters_answer(t, true, 0, row, 1, NULL);
    }
}

void look_final(struct manager *m, const struct id *id)
{
    struct waiter_task *t = waiters_of(m, id);

    fleet_release(&m->fleet, id);
    feed_forget(m->feed, id);
    if (t) {
        waiters_look(t);
    }
}

static void on_polled(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct manager *m = arg;

    (void)why;
    m->polling = false;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        look_changed(m, &rows[i]);
    }
}

/* Whoever waits is told by what we write, and by the notices of the other managers. One of these
 * may have been lost: so all are looked at together now and then. */
void look_tick(struct manager *m)
{
    unsigned waiting = HASH_COUNT(m->waiters);
    struct waiter_task *t;
    struct waiter_task *tmp;
    size_t n = 0;

    if (m->ticks % POLL_TICKS || !m->db_ready || m->polling || waiting == 0) {
        return;
    }
    struct id *ids CLEANUP(freep) = xcalloc(waiting, sizeof(*ids));
    HASH_ITER(hh, m->waiters, t, tmp)
    {
        ids[n++] = t->id;
    }
    m->polling = store_load_final(m->db_people, ids, n, on_polled, m) == 0;
}

void look_stop(struct manager *m)
{
    static const struct err why = {ERR_CLOSED, "closing down"};
    struct waiter_task *t = m->waiters;

    while (t) {
        bool waits = t->waiters.count > 0;

        if (waits) {
            waiters_answer(t, true, ERR_CLOSED, NULL, 0, &why);
        }
        t = waits ? m->waiters : t->hh.next; /* an answer may end any other */
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
    struct task *copy CLEANUP(freep) = xcalloc(n, sizeof(*copy));
    size_t shown = 0;

    /* Up to the limit, or to where the rows are no longer whole: the page is large enough. */
    while (shown < MIN(n, (size_t)c->limit) && rows[shown].spec) {
        shown++;
    }
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
    int rc = m->db_ready ? store_list(m->db_lists, &more, on_listed, c) : ERR_DB_DOWN;
    if (rc < 0) {
        free(c);
        err_set(&e, rc, "%s", err_text(rc));
        cb(arg, rc, NULL, 0, false, &e);
    }
}

void manager_events(struct manager *m, const struct id *id, events_fn *cb, void *arg)
{
    struct err e = {0};
    int rc = m->db_ready ? store_events(m->db_people, id, cb, arg) : ERR_DB_DOWN;

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
        if (a->task->state == TASK_READY) {
            accept_tell_ready(c->m, a->task);
        }
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
