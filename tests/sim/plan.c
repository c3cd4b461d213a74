/* What happens in one schedule: clients that post, cancel and requeue; faults (faults.c); then
 * calm, in which every accepted task must reach its end. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define TASKS_MAX    24
#define LOOK_MS      250
#define PATIENCE_MS  400000 /* after the last fault, for everything to end */
#define CAPABLE_CPUS 4
#define CAPABLE_MB   4000
#define POST_MS      5000 /* a client waits so long for an answer */

struct posted {
    char key[16];
    char spec[400];
    struct id id;
    bool accepted;
    int64_t run_ms;
};

static struct {
    struct posted tasks[TASKS_MAX];
    size_t n;
    struct node nodes[SIM_PROCS];
    struct node_clock clocks[SIM_PROCS];
    int64_t calm_at;
    bool uneven; /* not every worker can start every task */
    bool unlike; /* each manager has its own deadAfterSeconds from the beginning */
    bool slow;   /* some tasks run for long */
    bool mixed;  /* tasks of several types, that ask for CPUs and memory; workers that differ */
    bool rush;   /* many tasks at once and large workers: hints with several tasks */
    int64_t grace_s;
    int64_t most_slots; /* of a worker */
} plan;

int32_t plan_run_ms(const struct id *task)
{
    (void)task;
    int kind = (int)(draw() % 10);

    if (plan.slow && kind >= 6 && !world->calm) {
        return (int32_t)between(30000, 120000);
    }
    return (int32_t)(kind < 5   ? between(20, 2000)
                     : kind < 8 ? between(2000, 12000)
                                : between(12000, 45000));
}

void plan_row_written(const struct task *before, const struct task *after, const char *event)
{
    if (strcmp(event, "granted") == 0 && before->cancel_requested) {
        violation("a task that was to be cancelled is granted (attempt %d)", after->attempt);
    }
}

/* ---- clients ---- */

static struct proc *some_manager(void)
{
    return &world->procs[draw() % world->n_managers];
}

static void post_later(struct posted *t, int64_t ms);

static void on_accepted(void *arg, const struct accept_reply *r)
{
    struct posted *t = arg;

    if (r->rc < 0) {
        return; /* it is posted again anyway */
    }
    if (t->accepted && !id_eq(&t->id, &r->tasks[0])) {
        violation("%s made two tasks", t->key);
    }
    trace("202 for %s: task %02x%s", t->key, r->tasks[0].b[0], r->replayed ? " again" : "");
    t->accepted = true;
    t->id = r->tasks[0];
}

static void do_post(void *arg)
{
    struct posted *t = arg;
    static const char *const names[] = {"Command", "Noop", NULL};
    static const struct task_types types = {names};
    struct task_problems problems = {0};
    json_t *j = NULL;
    struct accept_request a = {.count = 1, .idempotency_key = t->key};

    MUST(json_read(t->spec, strlen(t->spec), &j, NULL) == 0);
    struct task_spec *spec = task_spec_parse(j, &types, "", &problems);
    json_decref(j);
    MUST(spec);
    a.rows = xcalloc(1, sizeof(*a.rows));
    manager_row(world->cur->manager, spec, a.rows);
    task_spec_free(spec);
    manager_accept(world->cur->manager, &a, on_accepted, t);
}

static void post(void *arg)
{
    struct posted *t = arg;
    struct proc *p = some_manager();

    if (t->accepted) {
        return;
    }
    if (p->alive && !p->stopping) {
        sim_at(world->now + between(0, 20), p, do_post, t);
    }
    post_later(t, POST_MS);
}

static void post_later(struct posted *t, int64_t ms)
{
    sim_at(world->now + ms, NULL, post, t);
}

struct change_call {
    struct posted *t;
    bool cancel;
};

static void on_changed(void *arg, int rc, const struct task *t, const struct err *why)
{
    struct change_call *c = arg;

    (void)why;
    trace("%s of task %02x: %d, %s", c->cancel ? "cancel" : "requeue", c->t->id.b[0], rc,
          t ? task_state_name(t->state) : "");
    free(c);
}

static void do_change(void *arg)
{
    struct change_call *c = arg;

    if (c->cancel) {
        manager_cancel(world->cur->manager, &c->t->id, on_changed, c);
    } else {
        manager_requeue(world->cur->manager, &c->t->id, on_changed, c);
    }
}

static void some_change(void *arg)
{
    struct posted *t = &plan.tasks[draw() % plan.n];
    struct proc *p = some_manager();

    (void)arg;
    if (world->calm) {
        return;
    }
    if (t->accepted && p->alive && !p->stopping) {
        struct change_call *c = xmalloc(sizeof(*c));

        *c = (struct change_call){t, chance(600)};
        sim_at(world->now + between(0, 20), p, do_change, c);
    }
    sim_at(world->now + between(1000, 20000), NULL, some_change, NULL);
}

/* ---- the end ---- */

/* NULL: everything has ended. */
static const char *what_is_left(char text[200])
{
    for (size_t i = 0; i < plan.n; i++) {
        struct posted *t = &plan.tasks[i];
        const struct row *r = t->accepted ? base_row(&t->id) : NULL;

        if (!r || !task_state_final(r->t.state)) {
            snprintf(text, 200, "task %s (%02x) is %s", t->key, t->id.b[0],
                     r ? task_state_name(r->t.state) : "not accepted");
            return text;
        }
        if (node_runs(&t->id)) {
            snprintf(text, 200, "task %s (%02x) has ended, and runs", t->key, t->id.b[0]);
            return text;
        }
    }
    /* What only a worker could take that does not know that it is deaf goes round among the others;
     * they ask nobody about it. */
    return broker_has_work(!(plan.uneven && world->deaf), text) ? text : NULL;
}

static void look(void *arg)
{
    char text[200];
    const char *left = what_is_left(text);

    (void)arg;
    for (size_t i = 0; i < world->n_procs; i++) {
        struct proc *p = &world->procs[i];

        proc_resume(p);
        if (!p->alive && !p->still) {
            proc_start(p);
        }
    }
    if (!left) {
        world->done = true;
    } else if (world->now > plan.calm_at + PATIENCE_MS) {
        violation("not at its end %d s after the last fault: %s", PATIENCE_MS / 1000, left);
    }
    sim_at(world->now + LOOK_MS, NULL, look, NULL);
}

static void calm(void *arg)
{
    (void)arg;
    trace("all faults cease");
    world->calm = true;
    for (size_t i = 0; i < world->n_procs; i++) {
        world->procs[i].no_broker = world->procs[i].no_base = false;
        world->procs[i].no_http = world->procs[i].apart = false;
        if (world->procs[i].node) {
            world->procs[i].node->unable = 0;
        }
    }
    broker_calm();
    base_calm();
    look(NULL);
}

/* Accepted means: the row is there, whatever happens. */
static void check_accepted(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < plan.n; i++) {
        if (plan.tasks[i].accepted && !base_row(&plan.tasks[i].id)) {
            violation("%s was accepted and is lost", plan.tasks[i].key);
        }
    }
    sim_at(world->now + 1000, NULL, check_accepted, NULL);
}

/* ---- the beginning ---- */

static void make_task(struct posted *t, size_t i)
{
    char lease[32] = "";

    if (chance(200)) {
        snprintf(lease, sizeof(lease), "\"leaseSeconds\":%d,", (int)between(10, 40));
    }
    char more[64] = "";
    bool noop = plan.mixed && chance(250);
    bool large = !plan.mixed && chance(150);

    plan.uneven = plan.uneven || plan.mixed || large;
    if (plan.mixed && chance(400)) {
        snprintf(more, sizeof(more), ",\"cpus\":%d.%d,\"memoryMb\":%d", (int)between(0, 3),
                 (int)between(0, 9), (int)between(0, CAPABLE_MB));
    }
    snprintf(t->key, sizeof(t->key), "k%d", (int)i);
    snprintf(t->spec, sizeof(t->spec),
             "{\"jobType\":%s,\"priority\":%d,\"maxAttempts\":%d,"
             "\"retryBackoffSeconds\":1,\"delaySeconds\":%d,\"queueTimeoutSeconds\":%d,%s"
             "\"resources\":{\"slots\":%d%s}}",
             noop ? "\"Noop\"" : "\"Command\",\"command\":[\"x\"]", (int)between(0, 9),
             (int)between(1, 3), chance(200) ? (int)between(1, 10) : 0,
             chance(150) ? (int)between(20, 90) : 0, lease,
             (int)(large         ? between(1, plan.most_slots) /* few can take it */
                   : plan.rush   ? between(1, 3)
                   : chance(200) ? 2
                                 : 1),
             more);
    post_later(t, between(0, plan.rush ? 3000 : plan.calm_at * 2 / 3));
    if (chance(150)) {
        post_later(t, between(0, plan.calm_at * 2 / 3));
    }
}

static struct config *configs[SIM_PROCS];
static char *names[SIM_PROCS];

static void load_configs(void)
{
    for (int i = 0; i < SIM_PROCS && !configs[i]; i++) {
        char text[200];

        snprintf(text, sizeof(text), "executorNodeConfig:\n  nodeId: w%d\n", i);
        MUST(config_load_text("sim", text, strlen(text), &configs[i], NULL) == 0);
        names[i] = configs[i]->node.node_id;
    }
}

/* The first worker can start everything but what takes more slots than it has. */
static void make_offer(struct proc *p, bool first)
{
    bool all = first || !plan.mixed;

    p->config->node.slots = (int)(plan.rush ? between(8, 20) : between(2, 4));
    p->config->node.cpus = (int)(all ? CAPABLE_CPUS : between(1, CAPABLE_CPUS));
    p->config->node.memory_mb = (int)(all ? CAPABLE_MB : between(100, CAPABLE_MB));
    p->node->never = all || chance(500) ? 0 : (unsigned)between(UNABLE_COMMAND, UNABLE_NOOP);
}

static void make_proc(enum proc_kind kind, const int64_t *beat_and_lease)
{
    size_t i = world->n_procs++;
    struct proc *p = &world->procs[i];

    p->kind = kind;
    p->config = configs[i];
    p->config->node.node_id = names[i];
    p->config->node.slots = 1; /* of a manager: nothing of an earlier schedule is left */
    p->config->node.heartbeat_seconds = (int)beat_and_lease[0];
    p->config->node.dead_after_seconds = (int)beat_and_lease[1];
    if (plan.unlike && kind == PROC_MANAGER) {
        p->config->node.dead_after_seconds = (int)(beat_and_lease[1] * between(1, 8) / 2);
    }
    p->config->manager.database_grace_seconds = (int)plan.grace_s;
    p->config->node.kill_grace_seconds = chance(500) ? 1 : 10;
    p->clock = &plan.clocks[i];
    if (kind == PROC_WORKER) {
        p->node = &plan.nodes[i];
        p->dir = p->next_dir = &p->node->dirs[0];
        p->clock = &p->node->clock;
        snprintf(p->node->id, sizeof(p->node->id), "w%d", (int)i);
        make_offer(p, i == world->n_managers);
        plan.most_slots = MAX(plan.most_slots, (int64_t)p->config->node.slots);
    }
    *p->clock = (struct node_clock){.boot_off = between(1000, 100000000),
                                    .wall_off = between(-50, 50),
                                    .ppm = between(-300, 300)};
    snprintf(p->name, sizeof(p->name), "%c%d", kind == PROC_MANAGER ? 'm' : 'w', (int)i);
    list_init(&p->stalled);
    list_init(&p->closing);
    sim_at(between(0, plan.rush && kind == PROC_WORKER ? 20000 : 3000), NULL, restart, p);
}

/* One more of the name of the first worker, and as capable: only one of them is given work. */
static void make_twin(const int64_t *beat_and_lease)
{
    const struct proc *first = &world->procs[world->n_managers];
    struct proc *twin = &world->procs[world->n_procs];
    int64_t most = plan.most_slots;

    make_proc(PROC_WORKER, beat_and_lease);
    make_offer(twin, true);
    twin->config->node.node_id = first->config->node.node_id;
    twin->config->node.slots = first->config->node.slots;
    plan.most_slots = most;
}

void plan_init(void)
{
    static const int64_t beats[][2] = {{2, 10}, {3, 15}, {5, 30}};

    load_configs();
    memset(&plan, 0, sizeof(plan));
    base_init();
    broker_init();
    nodes_init();
    faults_init();
    plan.grace_s = chance(300) ? 0 : between(5, 60);
    const int64_t *beat = beats[draw() % ARRAY_LEN(beats)];
    plan.rush = chance(300);
    plan.slow = chance(faults_need_time() ? 600 : 150);
    plan.mixed = chance(400);
    plan.unlike = chance(250);
    world->n_managers = chance(100) ? 1 : chance(600) ? 2 : 3;
    for (size_t i = 0; i < world->n_managers; i++) {
        make_proc(PROC_MANAGER, beat);
    }
    for (size_t i = chance(50) ? 4 : chance(600) ? 2 : 3; i; i--) {
        make_proc(PROC_WORKER, beat);
    }
    if (chance(150)) {
        make_twin(beat);
    }
    plan.calm_at = between(15000, plan.slow ? 150000 : 90000);
    plan.n = (size_t)(plan.rush ? between(8, TASKS_MAX) : between(3, 8));
    for (size_t i = 0; i < plan.n; i++) {
        make_task(&plan.tasks[i], i);
    }
    sim_at(between(0, 20000), NULL, some_change, NULL);
    sim_at(1000, NULL, check_accepted, NULL);
    sim_at(plan.calm_at, NULL, calm, NULL);
}
