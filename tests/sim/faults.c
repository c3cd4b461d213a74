/* What goes wrong in a schedule: which kinds, how often, to whom. */
#include "tests/sim/sim.h"

#include "pkg/worker/worker.h"

static struct {
    uint32_t kinds;  /* that this schedule has */
    int64_t pace_ms; /* between two of them, at most */
} plan;

enum fault {
    F_CRASH,
    F_PAUSE,
    F_STOP,
    F_REBOOT,
    F_SHIM,
    F_BROKER,
    F_ALARM,
    F_QUEUE,
    F_BROKER_CUT,
    F_BROKER_PARTITION,
    F_BASE,
    F_BASE_CUT,
    F_BASE_PARTITION,
    F_BASE_SLOW,
    F_LEAD,
    F_WALL,
    F_SPLIT,
    F_SETTINGS,
    F_DIR,
    F_IDENTITY,
    F_FORGE,
    F_STILL,
    F_UNABLE,
    FAULTS
};

static bool has(enum fault f)
{
    return plan.kinds & 1u << f;
}

void restart(void *arg)
{
    struct proc *p = arg;

    if ((p->stopping && p->alive) || p->still) {
        sim_at(world->now + 500, NULL, restart, p);
    } else {
        proc_start(p);
    }
}

static void restart_in(struct proc *p, int64_t lo, int64_t hi)
{
    sim_at(world->now + between(lo, hi), NULL, restart, p);
}

static void resume(void *arg)
{
    proc_resume(arg);
}

static void heal_broker(void *arg)
{
    struct proc *p = arg;

    p->no_broker = p->no_http = false;
}

static void heal_base(void *arg)
{
    ((struct proc *)arg)->no_base = false;
}

static void heal_split(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < world->n_procs; i++) {
        struct proc *p = &world->procs[i];

        if (p->apart) {
            p->apart = p->no_broker = p->no_base = false;
        }
    }
}

static int64_t some_time(int64_t hi)
{
    return chance(500) ? between(100, 3000) : between(100, hi);
}

/* ---- a machine that is stopped ---- */

struct standstill {
    struct proc *p;
    int64_t since;
};

static void on_goes_on(void *arg)
{
    struct standstill *s = arg;
    int64_t lost = boot_of(s->p->clock) - s->since;

    s->p->clock->boot_off -= lost;
    s->p->still = false;
    trace("%s: its machine goes on, %lld ms later", s->p->name, (long long)lost);
    proc_resume(s->p);
    free(s);
}

/* By its hypervisor: neither its processes nor CLOCK_BOOTTIME go on meanwhile. The wall clock was
 * put right before anything else happens. */
static void stand_still(struct proc *p, int64_t ms)
{
    if (p->kind == PROC_MANAGER && !p->still) {
        struct standstill *s = xmalloc(sizeof(*s));

        trace("%s: its machine is stopped", p->name);
        *s = (struct standstill){p, boot_of(p->clock)};
        proc_pause(p);
        p->still = true;
        sim_at(world->now + ms, NULL, on_goes_on, s);
    }
}

static void stand_still_apart(void *arg)
{
    struct proc *p = arg;

    if (p->apart && !world->calm) {
        stand_still(p, between(5000, 20000));
    }
}

/* ---- a node that cannot start what it is given ---- */

static void heal_node(void *arg)
{
    ((struct node *)arg)->unable = 0;
}

static void make_unable(struct node *n)
{
    static const unsigned what[] = {UNABLE_COMMAND, UNABLE_NOOP, UNABLE_ALL, UNABLE_ALL};

    n->unable |= what[draw() % ARRAY_LEN(what)];
    trace("node %s: cannot start tasks (%u)", n->id, n->unable);
    sim_at(world->now + some_time(60000), NULL, heal_node, n);
}

/* ---- what an operator changes ---- */

/* Of this process alone: nobody makes sure that they agree. */
static void change_settings(void *arg)
{
    static const int64_t dead_after[] = {3, 6, 10, 20, 40, 90};
    struct proc *p = arg;
    struct config *c = p->config;

    c->node.dead_after_seconds = (int)dead_after[draw() % ARRAY_LEN(dead_after)];
    c->node.heartbeat_seconds = (int)between(1, MIN(c->node.dead_after_seconds / 3, 10));
    c->node.slots += (int)between(0, 1); /* not fewer: a task may need them all */
    trace("%s: deadAfterSeconds %d, heartbeatSeconds %d, %d slots", p->name,
          c->node.dead_after_seconds, c->node.heartbeat_seconds, c->node.slots);
    if (p->manager) {
        manager_reconfigure(p->manager, c);
    } else if (p->worker) {
        worker_reconfigure(p->worker, c);
    }
}

/* The identity is put back from a backup, or is lost. */
static void spoil_identity(struct dir *d)
{
    if (d->incarnation > 1 && chance(700)) {
        int64_t was = d->incarnation;

        d->incarnation = between(1, was - 1);
        trace("identity of uuid %02x is put back: process %lld, was %lld", d->uuid.b[0],
              (long long)d->incarnation, (long long)was);
    } else {
        trace("identity of uuid %02x is lost", d->uuid.b[0]);
        d->incarnation = 0;
    }
}

/* ---- the network ---- */

static void set_apart(struct proc *p)
{
    if (!p->apart) {
        trace("%s: on the side without broker and database", p->name);
        p->apart = p->no_broker = p->no_base = true;
        broker_cut(p, chance(500));
        base_cut(p, chance(500));
    }
}

/* Some managers and workers see each other, but nothing else. */
static void split(void)
{
    for (size_t i = 0; i < world->n_procs; i++) {
        if (chance(500)) {
            set_apart(&world->procs[i]);
        }
    }
    sim_at(world->now + some_time(90000), NULL, heal_split, NULL);
}

static struct proc *some_busy_worker(void)
{
    size_t n = world->n_procs - world->n_managers;
    size_t first = draw() % n;
    struct proc *p = NULL;

    for (size_t i = 0; i < n && !(p && node_is_busy(p->node)); i++) {
        p = &world->procs[world->n_managers + (first + i) % n];
    }
    return p;
}

/* The leader is left with one worker, which it alone keeps alive, and its machine is stopped. */
static void strand(struct proc *leader)
{
    set_apart(leader);
    set_apart(some_busy_worker());
    sim_at(world->now + between(0, 4000), NULL, stand_still_apart, leader);
    sim_at(world->now + between(20000, 90000), NULL, heal_split, NULL);
}

static void start_broker(void *arg)
{
    (void)arg;
    broker_calm();
}

static void start_base(void *arg)
{
    (void)arg;
    base_calm();
}

static void fault_of_proc(enum fault f, struct proc *p)
{
    if (p->still) {
        return;
    }
    switch (f) {
    case F_CRASH:
        proc_crash(p);
        restart_in(p, 50, chance(500) ? 3000 : 40000);
        break;
    case F_PAUSE:
        proc_pause(p);
        sim_at(world->now + some_time(70000), NULL, resume, p);
        break;
    case F_STOP:
        proc_stop(p);
        restart_in(p, 50, 10000);
        break;
    case F_REBOOT:
        if (p->node) {
            proc_crash(p);
            node_reboot(p->node);
            restart_in(p, 1000, 60000);
        }
        break;
    case F_SHIM:
        if (p->node) {
            node_kill_shim(p->node);
        }
        break;
    case F_BROKER_CUT:
        trace("%s: connections to the broker are cut", p->name);
        broker_cut(p, chance(500));
        break;
    case F_BROKER_PARTITION:
        trace("%s: cut off from the broker", p->name);
        p->no_broker = true;
        p->no_http = chance(500);
        broker_cut(p, chance(500));
        sim_at(world->now + some_time(70000), NULL, heal_broker, p);
        break;
    case F_BASE_CUT:
        base_cut(p, chance(500));
        break;
    case F_BASE_PARTITION:
        p->no_base = true;
        base_cut(p, chance(500));
        sim_at(world->now + some_time(60000), NULL, heal_base, p);
        break;
    case F_WALL:
        /* What puts the clock of a manager back hides that its machine was stopped. */
        if (p->node || !has(F_STILL)) {
            p->clock->wall_off = between(-60000, 60000);
        }
        break;
    case F_STILL:
        if (base_leader() && chance(500)) {
            strand(base_leader());
        } else {
            stand_still(p, some_time(70000));
        }
        break;
    case F_SETTINGS:
        if (p->alive && !p->stopping) {
            sim_at(world->now, p, change_settings, p);
        } else if (!p->alive) {
            change_settings(p);
        }
        break;
    case F_UNABLE:
        if (p->node) {
            make_unable(p->node);
        }
        break;
    case F_DIR:
        if (p->node) {
            p->next_dir = &p->node->dirs[draw() % NODE_DIRS];
            if (chance(700)) {
                proc_crash(p);
            } else {
                proc_stop(p);
            }
            restart_in(p, 50, chance(500) ? 3000 : 40000);
        }
        break;
    case F_IDENTITY:
        if (p->node) {
            proc_crash(p);
            spoil_identity(p->dir);
            restart_in(p, 50, chance(500) ? 3000 : 40000);
        }
        break;
    case F_BROKER:
    case F_ALARM:
    case F_QUEUE:
    case F_BASE:
    case F_BASE_SLOW:
    case F_LEAD:
    case F_SPLIT:
    case F_FORGE:
    case FAULTS:
        break;
    }
}

static void fault(enum fault f)
{
    switch (f) {
    case F_BROKER:
        broker_stop(chance(300));
        sim_at(world->now + some_time(25000), NULL, start_broker, NULL);
        break;
    case F_ALARM:
        broker_alarm(true);
        sim_at(world->now + some_time(40000), NULL, start_broker, NULL);
        break;
    case F_QUEUE:
        broker_delete_some_queue();
        break;
    case F_BASE:
        base_stop();
        sim_at(world->now + some_time(60000), NULL, start_base, NULL);
        break;
    case F_LEAD:
        base_lose_lock();
        if (chance(500)) {
            break;
        }
        base_slow(true);
        sim_at(world->now + between(1000, 6000), NULL, start_base, NULL);
        break;
    case F_BASE_SLOW:
        base_slow(true);
        sim_at(world->now + some_time(20000), NULL, start_base, NULL);
        break;
    case F_SPLIT:
        split();
        break;
    case F_FORGE:
        forge_some();
        break;
    case F_CRASH:
    case F_PAUSE:
    case F_STOP:
    case F_REBOOT:
    case F_SHIM:
    case F_BROKER_CUT:
    case F_BROKER_PARTITION:
    case F_BASE_CUT:
    case F_BASE_PARTITION:
    case F_WALL:
    case F_SETTINGS:
    case F_DIR:
    case F_IDENTITY:
    case F_STILL:
    case F_UNABLE:
    case FAULTS:
        fault_of_proc(f, &world->procs[draw() % world->n_procs]);
        break;
    }
}

static void some_fault(void *arg)
{
    enum fault f = (enum fault)(draw() % FAULTS);

    (void)arg;
    if (world->calm) {
        return;
    }
    if (has(f)) {
        fault(f);
    }
    sim_at(world->now + between(10, plan.pace_ms), NULL, some_fault, NULL);
}

void faults_init(void)
{
    plan.kinds = (uint32_t)(draw() & (chance(700) ? draw() : UINT64_MAX));
    plan.pace_ms = chance(300) ? 2000 : 15000;
    forge_init(has(F_FORGE));
    sim_at(between(0, 5000), NULL, some_fault, NULL);
}

bool faults_need_time(void)
{
    return has(F_STILL);
}
