/* The part of libuv that the linked code uses, in virtual time. A turn is: callbacks of I/O, check
 * handles, closing handles, timers, idle, prepare; then the loop sleeps. */
#include "tests/sim/sim.h"

#include <stdlib.h>

#define ROUNDS_MAX 1000 /* of a loop that does not sleep */

struct closing {
    struct list_node node;
    uv_handle_t *h;
    uv_close_cb cb;
};

static struct proc *proc_of(const uv_loop_t *loop)
{
    return loop->data;
}

static void add(struct handles *l, void *h)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->h[i] == h) {
            return;
        }
    }
    if (l->n == l->cap) {
        l->cap = MAX(l->cap * 2, (size_t)16);
        l->h = xrealloc(l->h, l->cap * sizeof(*l->h));
    }
    l->h[l->n++] = h;
}

static void drop(struct handles *l, const void *h)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->h[i] == h) {
            memmove(&l->h[i], &l->h[i + 1], (l->n - i - 1) * sizeof(*l->h));
            l->n--;
            return;
        }
    }
}

#define INIT(kind, type_name)                                                                      \
    int uv_##kind##_init(uv_loop_t *loop, uv_##kind##_t *h)                                        \
    {                                                                                              \
        void *data = h->data;                                                                      \
        memset(h, 0, sizeof(*h));                                                                  \
        h->data = data;                                                                            \
        h->loop = loop;                                                                            \
        h->type = (type_name);                                                                     \
        return 0;                                                                                  \
    }
INIT(timer, UV_TIMER)
INIT(idle, UV_IDLE)
INIT(check, UV_CHECK)
INIT(prepare, UV_PREPARE)

#define START(kind, list)                                                                          \
    int uv_##kind##_start(uv_##kind##_t *h, uv_##kind##_cb cb)                                     \
    {                                                                                              \
        h->kind##_cb = cb;                                                                         \
        add(&proc_of(h->loop)->list, h);                                                           \
        return 0;                                                                                  \
    }                                                                                              \
    int uv_##kind##_stop(uv_##kind##_t *h)                                                         \
    {                                                                                              \
        drop(&proc_of(h->loop)->list, h);                                                          \
        return 0;                                                                                  \
    }
START(idle, idles)
START(check, checks)
START(prepare, prepares)

int uv_timer_start(uv_timer_t *h, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
    struct proc *p = proc_of(h->loop);

    drop(&p->timers, h);
    h->timer_cb = cb;
    h->timeout = (uint64_t)boot_of(p->clock) + timeout;
    h->repeat = repeat;
    add(&p->timers, h);
    return 0;
}

int uv_timer_stop(uv_timer_t *h)
{
    drop(&proc_of(h->loop)->timers, h);
    return 0;
}

void uv_close(uv_handle_t *h, uv_close_cb cb)
{
    struct proc *p = proc_of(h->loop);
    struct closing *c = xmalloc(sizeof(*c));

    drop(&p->timers, h);
    drop(&p->idles, h);
    drop(&p->checks, h);
    drop(&p->prepares, h);
    c->h = h;
    c->cb = cb;
    list_push(&p->closing, &c->node);
}

struct work {
    uv_work_t *w;
    uv_work_cb run;
    uv_after_work_cb after;
};

static void on_work(void *arg)
{
    struct work *k = arg;

    k->run(k->w);
    k->after(k->w, 0);
    free(k);
}

void uv_sleep(unsigned ms)
{
    (void)ms; /* nothing happens meanwhile */
}

int uv_queue_work(uv_loop_t *loop, uv_work_t *w, uv_work_cb run, uv_after_work_cb after)
{
    struct work *k = xmalloc(sizeof(*k));

    *k = (struct work){w, run, after};
    sim_at(world->now + between(1, 50), proc_of(loop), on_work, k);
    return 0;
}

/* ---- turns ---- */

static uv_timer_t *first_timer(struct proc *p)
{
    uv_timer_t *first = NULL;

    for (size_t i = 0; i < p->timers.n; i++) {
        uv_timer_t *t = p->timers.h[i];

        first = !first || t->timeout < first->timeout ? t : first;
    }
    return first;
}

static void run_timers(struct proc *p)
{
    int64_t now = boot_of(p->clock);
    uv_timer_t *t;

    for (int n = 0; n < 100 && (t = first_timer(p)) && (int64_t)t->timeout <= now; n++) {
        drop(&p->timers, t);
        if (t->repeat) {
            uv_timer_start(t, t->timer_cb, t->repeat, t->repeat);
        }
        t->timer_cb(t);
    }
}

#define RUN(p, list, type, member)                                                                 \
    for (size_t i_ = 0; i_ < (p)->list.n; i_++) {                                                  \
        type *h_ = (p)->list.h[i_];                                                                \
        h_->member(h_);                                                                            \
    }

static void run_closing(struct proc *p)
{
    for (size_t n = p->closing.count; n; n--) {
        struct closing *c = CONTAINER_OF(list_pop(&p->closing), struct closing, node);

        if (c->cb) {
            c->cb(c->h);
        }
        free(c);
    }
}

static void on_wake(void *arg)
{
    (void)arg; /* the turn runs the timers */
}

static void sleep_until_timer(struct proc *p)
{
    uv_timer_t *t = first_timer(p);

    if (!t) {
        return;
    }
    int64_t at = MAX(real_of_boot(p->clock, (int64_t)t->timeout), world->now + 1);
    if (p->wake_at <= world->now || at < p->wake_at) {
        p->wake_at = at;
        sim_at(at, p, on_wake, NULL);
    }
}

void uv_turn(struct proc *p)
{
    uint32_t gen = p->gen;
    int rounds = 0;

    do {
        if (++rounds > ROUNDS_MAX) {
            violation("%s turns without end", p->name);
            break;
        }
        RUN(p, checks, uv_check_t, check_cb)
        run_closing(p);
        run_timers(p);
        RUN(p, idles, uv_idle_t, idle_cb)
        RUN(p, prepares, uv_prepare_t, prepare_cb)
    } while (p->gen == gen && (p->idles.n || p->closing.count));
    sleep_until_timer(p);
}

void uv_forget(struct proc *p)
{
    p->timers.n = p->idles.n = p->checks.n = p->prepares.n = 0;
    list_init(&p->closing);
    p->wake_at = 0;
}
