/* Time, chance, events, processes; what the product takes from clock.h, id.h, log.h, metrics.h. */
#include "tests/sim/sim.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#define EVENTS_MAX 400000 /* a schedule that does more is stuck in a circle */
#define TRACE_KEEP 120
#define TRACE_LINE 220

struct world *world;
bool sim_trace_on;

/* ---- chance ---- */

uint64_t draw(void)
{
    uint64_t z = (world->rng += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t between(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(draw() % (uint64_t)(hi - lo + 1));
}

bool chance(int per_mille)
{
    return (int)(draw() % 1000) < per_mille;
}

uint64_t __wrap_random_u64(void);
uint64_t __wrap_random_u64(void)
{
    return draw();
}

struct id __wrap_id_new(void);
struct id __wrap_id_new(void)
{
    struct id id = {{0}};
    uint64_t n = draw();

    memcpy(id.b, &n, sizeof(n));
    n = draw();
    memcpy(id.b + 8, &n, sizeof(n));
    return id;
}

/* ---- names: each process has a host and a number of its own ---- */

int __wrap_gethostname(char *name, size_t len);
int __wrap_gethostname(char *name, size_t len)
{
    snprintf(name, len, "%s", world->cur->name);
    return 0;
}

pid_t __wrap_getpid(void);
pid_t __wrap_getpid(void)
{
    return (pid_t)(1000 + world->cur->gen);
}

/* ---- time ---- */

int64_t boot_of(const struct node_clock *c)
{
    return c->boot_off + world->now + world->now * c->ppm / 1000000;
}

int64_t real_of_boot(const struct node_clock *c, int64_t boot)
{
    int64_t t = (boot - c->boot_off) * 1000000 / (1000000 + c->ppm);

    while (c->boot_off + t + t * c->ppm / 1000000 < boot) {
        t++;
    }
    return t;
}

int64_t wall_now(void)
{
    return SIM_WALL + world->now;
}

int64_t __wrap_clock_boot_ms(void);
int64_t __wrap_clock_boot_ms(void)
{
    return boot_of(world->cur->clock);
}

int64_t __wrap_clock_wall_ms(void);
int64_t __wrap_clock_wall_ms(void)
{
    return wall_now() + (world->cur ? world->cur->clock->wall_off : 0);
}

/* ---- the trace ---- */

static char lines[TRACE_KEEP][TRACE_LINE];
static size_t n_lines;

static void trace_line(const char *who, const char *text)
{
    char *line = lines[n_lines++ % TRACE_KEEP];

    snprintf(line, TRACE_LINE, "%8lld.%03lld %-4s %s", (long long)(world->now / 1000),
             (long long)(world->now % 1000), who, text);
    if (sim_trace_on) {
        puts(line);
    }
}

static void mix(uint64_t v)
{
    world->hash = (world->hash ^ v) * 0x100000001b3u;
}

void trace(const char *fmt, ...)
{
    char text[TRACE_LINE];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    trace_line(world->cur ? world->cur->name : "--", text);
}

void trace_dump(void)
{
    for (size_t i = n_lines > TRACE_KEEP ? n_lines - TRACE_KEEP : 0; i < n_lines; i++) {
        printf("  %s\n", lines[i % TRACE_KEEP]);
    }
    n_lines = 0;
}

void violation(const char *fmt, ...)
{
    va_list ap;

    if (world->violated) {
        return;
    }
    world->violated = true;
    va_start(ap, fmt);
    vsnprintf(world->why, sizeof(world->why), fmt, ap);
    va_end(ap);
    trace("VIOLATION: %s", world->why);
}

bool log_enabled(enum log_level level)
{
    return sim_trace_on && level <= LOG_INFO;
}

void log_write(enum log_level level, const char *fields, const char *fmt, ...)
{
    char text[TRACE_LINE];
    char line[2 * TRACE_LINE];
    va_list ap;

    if (!log_enabled(level)) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(line, sizeof(line), "log: %s %s", fields ? fields : "", text);
    trace_line(world->cur ? world->cur->name : "--", line);
}

void metric_add(enum metric m, const char *label, double n)
{
    (void)m;
    (void)label;
    (void)n;
}

void metric_set(enum metric m, const char *label, double value)
{
    (void)m;
    (void)label;
    (void)value;
}

void metric_observe(enum metric m, double seconds)
{
    (void)m;
    (void)seconds;
}

void metric_clear(enum metric m)
{
    (void)m;
}

/* ---- events ---- */

struct event {
    struct list_node node; /* proc->stalled */
    int64_t at;
    uint64_t seq;
    struct proc *p;
    uint32_t gen;
    void (*fn)(void *arg);
    void *arg;
};

static struct event **heap;
static size_t n_heap;
static size_t heap_cap;
static uint64_t next_seq;

static bool before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

void sim_at(int64_t at, struct proc *p, void (*fn)(void *arg), void *arg)
{
    struct event *e = xmalloc(sizeof(*e));
    size_t i = n_heap++;

    *e = (struct event){.at = MAX(at, world->now),
                        .seq = ++next_seq,
                        .p = p,
                        .gen = p ? p->gen : 0,
                        .fn = fn,
                        .arg = arg};
    if (n_heap > heap_cap) {
        heap_cap = MAX(heap_cap * 2, (size_t)1024);
        heap = xrealloc(heap, heap_cap * sizeof(struct event *));
    }
    for (; i && before(e, heap[(i - 1) / 2]); i = (i - 1) / 2) {
        heap[i] = heap[(i - 1) / 2];
    }
    heap[i] = e;
}

static struct event *next_event(void)
{
    struct event *first = heap[0];
    struct event *last = heap[--n_heap];
    size_t i = 0;

    for (size_t c = 1; c < n_heap; c = 2 * i + 1) {
        c += c + 1 < n_heap && before(heap[c + 1], heap[c]);
        if (!before(heap[c], last)) {
            break;
        }
        heap[i] = heap[c];
        i = c;
    }
    if (n_heap) {
        heap[i] = last;
    }
    return first;
}

static void events_clear(void)
{
    while (n_heap) {
        free(heap[--n_heap]);
    }
    next_seq = 0;
    n_lines = 0;
}

/* ---- processes ---- */

void proc_enter(struct proc *p, void (*fn)(void *arg), void *arg)
{
    struct proc *outer = world->cur;
    uint32_t gen = p->gen;

    world->cur = p;
    fn(arg);
    if (p->gen == gen) {
        uv_turn(p);
    }
    world->cur = outer;
}

static void dispatch(struct event *e)
{
    struct proc *p = e->p;

    if (!p) {
        e->fn(e->arg);
    } else if (p->gen != e->gen || !p->alive) {
        /* it was for an earlier life */
    } else if (p->paused) {
        list_push(&p->stalled, &e->node);
        return;
    } else {
        proc_enter(p, e->fn, e->arg);
    }
    free(e);
}

void sim_run(void)
{
    events_clear();
    plan_init();
    while (n_heap && !world->done && !world->violated) {
        struct event *e = next_event();

        MUST(e->at >= world->now);
        world->now = e->at;
        mix((uint64_t)e->at);
        mix((uint64_t)(e->p ? e->p - world->procs + 1 : 0));
        mix(world->rng);
        if (++world->events > EVENTS_MAX) {
            violation("more than %d events: something turns in a circle", EVENTS_MAX);
        }
        dispatch(e);
    }
    events_clear();
}

void proc_pause(struct proc *p)
{
    if (p->alive && !p->paused) {
        trace("%s: paused", p->name);
        p->paused = true;
    }
}

/* It was asleep in poll: everything that has come is read first, timers are looked at after. */
static void read_stalled(void *arg)
{
    struct proc *p = arg;
    struct list_node *n;
    uint32_t gen = p->gen;

    while ((n = list_pop(&p->stalled))) {
        struct event *e = CONTAINER_OF(n, struct event, node);

        if (p->gen == gen) {
            e->fn(e->arg);
        }
        free(e);
    }
}

void proc_resume(struct proc *p)
{
    if (p->alive && p->paused && !p->still) {
        trace("%s: goes on", p->name);
        p->paused = false;
        p->wake_at = 0;
        proc_enter(p, read_stalled, p);
    }
}

static void start_manager(void *arg)
{
    struct proc *p = arg;
    static const char *const names[] = {"Command", "Noop", NULL};
    static const struct task_types types = {names};

    char url[32];

    MUST(manager_start(&p->loop, p->config, &types, &p->manager, NULL) == 0);
    snprintf(url, sizeof(url), "http://%s", p->name);
    manager_set_url(p->manager, url);
}

static void start_worker(void *arg)
{
    struct proc *p = arg;

    MUST(worker_start(&p->loop, p->config, "/bin/sh", &p->worker, NULL) == 0);
}

void proc_start(struct proc *p)
{
    if (p->alive) {
        return;
    }
    trace("%s: starts", p->name);
    p->gen++;
    p->alive = true;
    p->paused = p->stopping = false;
    p->dir = p->next_dir;
    uv_forget(p);
    list_init(&p->stalled);
    p->loop.data = p;
    proc_enter(p, p->kind == PROC_MANAGER ? start_manager : start_worker, p);
}

void proc_crash(struct proc *p)
{
    if (!p->alive) {
        return;
    }
    trace("%s: dies", p->name);
    p->alive = p->paused = false;
    p->gen++;
    p->manager = NULL;
    p->worker = NULL;
    uv_forget(p);
    list_init(&p->stalled);
    broker_crash_of(p);
    base_crash_of(p);
}

static void on_stopped(void *arg)
{
    struct proc *p = arg;

    trace("has stopped");
    p->alive = false;
    p->gen++;
    p->manager = NULL;
    p->worker = NULL;
    uv_forget(p);
    broker_crash_of(p);
    base_crash_of(p);
}

static void begin_stop(void *arg)
{
    struct proc *p = arg;

    if (p->kind == PROC_MANAGER) {
        manager_stop(p->manager, on_stopped, p);
    } else {
        worker_stop(p->worker, chance(300), on_stopped, p);
    }
}

void proc_stop(struct proc *p)
{
    if (p->alive && !p->paused && !p->stopping) {
        trace("%s: is asked to stop", p->name);
        p->stopping = true;
        proc_enter(p, begin_stop, p);
    }
}
