/* Calls of workers to managers over HTTP: httpc.h, and the file in which addresses are kept. */
#include "internal/buf.h"
#include "internal/httpc.h"
#include "pkg/executors/shimdir.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

struct httpc {
    struct proc *proc;
    bool closed;
};

struct call {
    struct httpc *h;
    struct proc *to;
    uint32_t gen; /* of who called */
    struct buf body;
    struct buf answer;
    int rc;
    int status;
    bool over;
    httpc_fn *fn;
    void *arg;
};

struct httpc *httpc_open(uv_loop_t *loop)
{
    struct httpc *h = xmalloc(sizeof(*h));

    h->proc = loop->data;
    return h;
}

static void finish(struct call *c, int rc)
{
    struct err why = {rc, "simulated"};

    if (!c->over && !c->h->closed) {
        c->over = true;
        c->fn(c->arg, rc, rc < 0 ? 0 : c->status, (struct str){c->answer.data, c->answer.len},
              rc < 0 ? &why : NULL);
    }
}

static void on_answered(void *arg)
{
    finish(arg, 0);
}

static void on_timeout(void *arg)
{
    finish(arg, ERR_TIMEOUT);
}

static bool reachable(const struct call *c)
{
    const struct proc *a = c->h->proc;
    const struct proc *b = c->to;

    return !a->no_http && !b->no_http && a->apart == b->apart;
}

/* In the manager, as api/ does it. */
static void on_request(void *arg)
{
    struct call *c = arg;
    struct err e = {0};
    int rc = manager_beat_http(world->cur->manager, (struct str){c->body.data, c->body.len},
                               &c->answer, &e);

    c->status = rc == 0               ? 200
                : rc == ERR_CONFLICT  ? 409
                : rc == ERR_BUSY      ? 503
                : rc == ERR_NOT_FOUND ? 404
                                      : 400;
    if (c->h->proc->gen == c->gen && reachable(c) && !chance(20)) {
        sim_at(world->now + between(1, 30), c->h->proc, on_answered, c);
    }
}

int httpc_call(struct httpc *h, const struct httpc_request *r, struct err *reterr)
{
    struct call *c;
    int i = 0;

    if (sscanf(r->url, "http://m%d/", &i) != 1 || (size_t)i >= world->n_managers) {
        return err_set(reterr, ERR_INVALID, "not a manager");
    }
    c = xmalloc(sizeof(*c));
    c->h = h;
    c->to = &world->procs[i];
    c->gen = h->proc->gen;
    c->fn = r->fn;
    c->arg = r->arg;
    buf_init(&c->body, 1 << 20);
    buf_init(&c->answer, 4 << 20);
    buf_add(&c->body, r->body.p, r->body.len);
    if (c->to->alive && reachable(c) && !chance(20)) {
        sim_at(world->now + (chance(50) ? between(1, 2000) : between(1, 20)), c->to, on_request, c);
    }
    sim_at(world->now + r->timeout_ms, h->proc, on_timeout, c);
    return 0;
}

struct closed_call {
    void (*fn)(void *arg);
    void *arg;
};

static void on_closed(void *arg)
{
    struct closed_call *c = arg;

    c->fn(c->arg);
    free(c);
}

void httpc_close(struct httpc *h, void (*on_done)(void *arg), void *arg)
{
    struct closed_call *c = xmalloc(sizeof(*c));

    h->closed = true;
    *c = (struct closed_call){on_done, arg};
    sim_at(world->now, h->proc, on_closed, c);
}

/* Of all small files of a worker only the managers' addresses are read here. */
int shimdir_read_file(const char *dir, const char *name, struct buf *out, struct err *reterr)
{
    const struct dir *d = world->cur->dir;

    (void)dir;
    (void)name;
    (void)reterr;
    buf_add(out, d->managers, strlen(d->managers));
    return 0;
}

int shimdir_write_file(const char *dir, const char *name, const void *p, size_t n,
                       struct err *reterr)
{
    struct dir *d = world->cur->dir;

    (void)dir;
    (void)name;
    (void)reterr;
    snprintf(d->managers, sizeof(d->managers), "%.*s", (int)n, (const char *)p);
    return 0;
}
