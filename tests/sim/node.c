/* Nodes: the directories of attempts, the shims that outlive their worker, the tasks in them; and
 * the worker's modules that touch them: run.h, workdir.h, tidy.h, logs.h, shimdir_list(). */
#include "internal/broken.h"
#include "internal/clock.h"
#include "pkg/executors/cgroup.h"
#include "pkg/executors/shimdir.h"
#include "pkg/worker/logs.h"
#include "pkg/worker/run.h"
#include "pkg/worker/tidy.h"
#include "pkg/worker/workdir.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

enum shim_state { SPAWNING, LIVE, OVER };

/* One attempt's directory and what runs in it. Belongs to the node, not to the worker. */
struct shim {
    struct node *node;
    struct dir *dir;
    struct wcore_key key;
    int64_t token;
    int64_t lease_ms;
    struct wcore_need need;
    enum shim_state state;
    uint32_t boot; /* of the node, when it was started */
    bool fenced;
    bool done;       /* marked: nothing more has to be reported */
    bool has_record; /* exit.json */
    const char *reason;
    int exit_code;
    int64_t lease_until; /* boot ms */
    int64_t lease_armed; /* the deadline that is waited for */
    bool stopping;
    int64_t started_at;
    struct run *run; /* connected */
    struct proc *proc;
    uint32_t proc_gen;
};

struct run {
    struct run_context *x;
    struct list_node node; /* x->runs */
    struct wcore_attempt *attempt;
    struct shim *shim; /* NULL: never started */
    struct report_status status;
    struct wcore_key key;
    int64_t token;
    char *result;
    const char *outcome;
    struct wcore_fault fault; /* where the outcome is returned */
    bool ended;
};

static struct shim *all[512]; /* every attempt that was ever started */
static size_t n_all;
static uint32_t boots;

void nodes_init(void)
{
    n_all = 0;
    boots = 0;
}

/* ---- what is true ---- */

bool node_saw(const struct id *task, int32_t attempt, int64_t token, enum truth what)
{
    bool ran = false;

    for (size_t i = 0; i < n_all; i++) {
        const struct shim *s = all[i];

        if (!id_eq(&s->key.task, task) || s->key.attempt != attempt || s->token != token) {
            continue;
        }
        ran = ran || s->started_at;
        if (s->state != OVER || !s->has_record) {
            continue;
        }
        if ((what == TRUTH_SUCCEEDED && streq(s->reason, "exit") && s->exit_code == 0) ||
            (what == TRUTH_FAILED && streq(s->reason, "exit") && s->exit_code != 0)) {
            return true;
        }
    }
    return what == TRUTH_RETURNED && !ran;
}

bool node_runs_safely(const struct id *task, int32_t attempt, int64_t token)
{
    for (size_t i = 0; i < n_all; i++) {
        const struct shim *s = all[i];

        if (s->state == LIVE && !s->stopping && id_eq(&s->key.task, task) &&
            s->key.attempt == attempt && s->token == token &&
            boot_of(&s->node->clock) < s->lease_until) {
            return true;
        }
    }
    return false;
}

bool node_runs(const struct id *task)
{
    for (size_t i = 0; i < n_all; i++) {
        if (all[i]->state == LIVE && id_eq(&all[i]->key.task, task)) {
            return true;
        }
    }
    return false;
}

bool node_is_busy(const struct node *n)
{
    for (size_t i = 0; i < n_all; i++) {
        if (all[i]->node == n && all[i]->state == LIVE) {
            return true;
        }
    }
    return false;
}

static bool within(int64_t used, int64_t need, int64_t capacity)
{
    return need == 0 || used + need <= capacity;
}

static unsigned bit_of(const char *type)
{
    return !type ? UNABLE_ALL : streq(type, "Noop") ? UNABLE_NOOP : UNABLE_COMMAND;
}

static bool is_unable(const struct node *n, const char *type)
{
    return (n->unable | n->never) & bit_of(type);
}

/* A worker starts what it can, beside what it knows to run. */
static void check_fit(const struct proc *p, const struct wcore_attempt *a)
{
    const struct row *r = base_row(&a->key.task);
    struct wcore_need used = {0};

    if (!r) {
        return; /* check_start() tells */
    }
    for (size_t i = 0; i < p->dir->n_shims; i++) {
        const struct shim *s = p->dir->shims[i];
        const struct row *o = base_row(&s->key.task);

        if (s->state != OVER && o) {
            used.slots += o->t.slots;
            used.cpus_milli += o->t.cpus_milli;
            used.memory_mb += o->t.memory_mb;
        }
    }
    if (!within(used.slots, r->t.slots, p->config->node.slots) ||
        !within(used.cpus_milli, r->t.cpus_milli, p->config->node.cpus * 1000) ||
        !within(used.memory_mb, r->t.memory_mb, p->config->node.memory_mb)) {
        violation("attempt %d is started on %s, which has no room for it", a->key.attempt, p->name);
    }
    if (p->node->never & bit_of(r->t.job_type)) {
        violation("attempt %d is started on %s, which does not offer %s", a->key.attempt, p->name,
                  r->t.job_type);
    }
}

static void check_start(const struct shim *s)
{
    const struct row *r = base_row(&s->key.task);

    for (size_t i = 0; i < n_all; i++) {
        const struct shim *o = all[i];

        if (o == s || !id_eq(&o->key.task, &s->key.task)) {
            continue;
        }
        if (o->state == LIVE) {
            violation("two runs overlap: attempt %d starts on %s while attempt %d runs on %s",
                      s->key.attempt, s->node->id, o->key.attempt, o->node->id);
        }
        if (o->key.attempt == s->key.attempt && o->started_at) {
            violation("attempt %d was started twice, on %s and %s", s->key.attempt, o->node->id,
                      s->node->id);
        }
    }
    if (!r || r->t.state != TASK_RUNNING || r->t.attempt != s->key.attempt ||
        r->t.token != s->token) {
        violation("attempt %d starts on %s, but the task is %s, attempt %d", s->key.attempt,
                  s->node->id, r ? task_state_name(r->t.state) : "unknown", r ? r->t.attempt : 0);
    }
}

/* ---- shims ---- */

static bool connected(const struct shim *s)
{
    return s->run && s->proc->gen == s->proc_gen && s->proc->alive;
}

static void to_worker(struct shim *s, void (*fn)(void *arg))
{
    if (connected(s)) {
        sim_at(world->now + between(0, 3), s->proc, fn, s);
    }
}

static void judge(struct run *r);

static void on_bye(void *arg)
{
    struct shim *s = arg;
    struct run *r = s->run;

    if (!r || r->ended) {
        return;
    }
    judge(r);
    r->ended = true;
    if (r->attempt) {
        r->x->on_ended(r->x->arg, r->attempt);
    }
}

static void on_hello(void *arg)
{
    struct shim *s = arg;

    if (s->run && !s->run->ended && s->run->attempt) {
        s->run->x->on_started(s->run->x->arg, s->run->attempt);
    }
}

/* No process of it is left; `record`: the shim wrote exit.json. */
static void shim_over(struct shim *s, bool record, const char *reason, int exit_code)
{
    if (s->state == OVER) {
        return;
    }
    s->state = OVER;
    s->has_record = record;
    s->reason = reason;
    s->exit_code = exit_code;
    trace("    node %s: task %02x attempt %d is over: %s %d", s->node->id, s->key.task.b[0],
          s->key.attempt, reason, exit_code);
    to_worker(s, on_bye);
}

struct term {
    struct shim *s;
    const char *reason;
};

static void on_term_done(void *arg)
{
    struct term *o = arg;

    shim_over(o->s, true, o->reason, -1);
    free(o);
}

static void shim_term(struct shim *s, const char *reason, int64_t most_ms)
{
    struct term *o;

    if (s->state != LIVE || s->stopping) {
        return;
    }
    s->stopping = true;
    o = xmalloc(sizeof(*o));
    *o = (struct term){s, reason};
    sim_at(world->now + (chance(500) ? between(0, 20) : between(0, most_ms)), NULL, on_term_done,
           o);
}

static void arm_lease(struct shim *s);

static void on_lease(void *arg)
{
    struct shim *s = arg;

    s->lease_armed = 0;
    if (s->state != LIVE || BROKEN(SHIM_LEASE)) {
        return;
    }
    if (boot_of(&s->node->clock) >= s->lease_until) {
        trace("    node %s: the lease of task %02x attempt %d is over", s->node->id,
              s->key.task.b[0], s->key.attempt);
        s->stopping = false; /* a longer grace counts no more */
        shim_term(s, "lease", 2000);
        return;
    }
    arm_lease(s);
}

static void arm_lease(struct shim *s)
{
    int64_t at = real_of_boot(&s->node->clock, s->lease_until);

    if (!s->lease_armed || at < s->lease_armed) {
        s->lease_armed = at;
        sim_at(at, NULL, on_lease, s);
    }
}

static void on_exit_of_task(void *arg)
{
    struct shim *s = arg;

    if (s->state == LIVE) {
        shim_over(s, true, "exit", chance(250) ? 1 : 0);
    }
}

static void on_spawned(void *arg)
{
    struct shim *s = arg;

    if (s->state != SPAWNING) {
        return;
    }
    if (s->fenced) {
        shim_over(s, false, "fenced", -1);
        return;
    }
    if (boot_of(&s->node->clock) >= s->lease_until && !BROKEN(SHIM_LEASE)) {
        shim_over(s, true, "lease", -1);
        return;
    }
    if (is_unable(s->node, NULL)) {
        shim_over(s, true, "node", -1);
        return;
    }
    check_start(s);
    s->state = LIVE;
    s->started_at = world->now;
    trace("    node %s: task %02x attempt %d runs", s->node->id, s->key.task.b[0], s->key.attempt);
    arm_lease(s);
    sim_at(world->now + plan_run_ms(&s->key.task), NULL, on_exit_of_task, s);
    to_worker(s, on_hello);
}

void node_reboot(struct node *n)
{
    trace("node %s goes down", n->id);
    boots++;
    for (size_t i = 0; i < n_all; i++) {
        if (all[i]->node == n) {
            shim_over(all[i], false, "crash", -1);
        }
    }
    n->clock.boot_off = -world->now - world->now * n->clock.ppm / 1000000;
}

void node_kill_shim(struct node *n)
{
    for (size_t i = 0; i < n_all; i++) {
        if (all[i]->node == n && all[i]->state == LIVE && chance(500)) {
            trace("node %s: a shim and its task are killed", n->id);
            shim_over(all[i], false, "crash", -1);
        }
    }
}

/* ---- results ---- */

static void make_result(struct run *r, const char *outcome, const char *kind)
{
    json_auto_t *error = kind ? report_error(kind, kind) : NULL;
    struct report_result out = {
        .key = r->key, .token = r->token, .outcome = outcome, .error = error};

    r->outcome = outcome;
    r->result = report_result(&out, &r->status);
}

static void blame(struct run *r, unsigned of)
{
    r->fault = (struct wcore_fault){.of = of, .reason = "as planned"};
}

static void judge(struct run *r)
{
    const struct shim *s = r->shim;

    if (r->result) {
        return;
    }
    if (s->has_record && streq(s->reason, "node")) {
        make_result(r, "returned", "node");
        blame(r, WCORE_FAULT_NODE);
    } else if (!s->has_record || streq(s->reason, "lease") || streq(s->reason, "revoked") ||
               streq(s->reason, "shutdown")) {
        make_result(r, "lost", "lost");
    } else if (streq(s->reason, "cancel")) {
        make_result(r, "cancelled", "cancelled");
    } else if (s->exit_code) {
        make_result(r, "failed", "exit");
    } else {
        make_result(r, "succeeded", NULL);
    }
}

/* ---- run.h ---- */

static struct run *run_new(struct run_context *x, const struct wcore_key *k, int64_t token)
{
    struct run *r = xmalloc(sizeof(*r));

    r->x = x;
    r->key = *k;
    r->token = token;
    r->outcome = "";
    r->status.done = r->status.total = -1;
    list_push(&x->runs, &r->node);
    return r;
}

static struct shim *find_shim(const struct dir *d, const struct wcore_key *k)
{
    for (size_t i = 0; i < d->n_shims; i++) {
        if (memcmp(&d->shims[i]->key, k, sizeof(*k)) == 0) {
            return d->shims[i];
        }
    }
    return NULL;
}

static void attach(struct shim *s, struct run *r)
{
    s->run = r;
    s->proc = world->cur;
    s->proc_gen = world->cur->gen;
    r->shim = s;
}

/* Nothing of it has run. */
static enum wcore_started give_back(struct run *r, unsigned of, struct wcore_fault *ret)
{
    trace("    node %s cannot start task %02x attempt %d", world->cur->node->id, r->key.task.b[0],
          r->key.attempt);
    make_result(r, "returned", "node");
    r->ended = true;
    blame(r, of);
    *ret = r->fault;
    return WCORE_START_FAULT;
}

int run_able(const struct run_context *x, const char *type, const char *program, struct err *reterr)
{
    (void)x;
    (void)program;
    return is_unable(world->cur->node, type) ? err_set(reterr, ERR_CONFIG, "as planned") : 0;
}

const char *run_hangs(const struct run_context *x, const char *type, int64_t now)
{
    (void)x;
    (void)type;
    (void)now;
    return NULL;
}

enum wcore_started run_start(struct run_context *x, struct wcore_attempt *a,
                             const struct run_grant *g, struct wcore_fault *ret)
{
    struct dir *d = world->cur->dir;
    const struct node *n = world->cur->node;
    struct run *r = run_new(x, &a->key, a->token);
    struct shim *s;

    (void)g;
    a->user = r;
    r->attempt = a;
    check_fit(world->cur, a);
    if (is_unable(n, NULL)) {
        return give_back(r, WCORE_FAULT_NODE, ret);
    }
    if (is_unable(n, a->type)) {
        return give_back(r, WCORE_FAULT_TYPE, ret);
    }
    if (find_shim(d, &a->key) || d->n_shims == DIR_SHIMS) {
        return give_back(r, WCORE_FAULT_ATTEMPT, ret);
    }
    s = xmalloc(sizeof(*s));
    *s = (struct shim){.node = world->cur->node,
                       .dir = d,
                       .key = a->key,
                       .token = a->token,
                       .lease_ms = a->lease_ms,
                       .need = a->need,
                       .boot = boots,
                       .lease_until = a->deadline};
    d->shims[d->n_shims++] = s;
    MUST(n_all < ARRAY_LEN(all));
    all[n_all++] = s;
    attach(s, r);
    sim_at(world->now + (chance(30) ? between(1, 3000) : between(1, 20)), NULL, on_spawned, s);
    return WCORE_START_UNDER_WAY;
}

void run_conclude(struct run_context *x, struct wcore_attempt *a, enum wcore_verdict v,
                  const char *why)
{
    struct run *r = run_new(x, &a->key, a->token);

    (void)why;
    a->user = r;
    r->attempt = a;
    r->ended = true;
    make_result(r,
                v == WCORE_CANCELLED  ? "cancelled"
                : v == WCORE_RETURNED ? "returned"
                                      : "lost",
                v == WCORE_CANCELLED  ? "cancelled"
                : v == WCORE_RETURNED ? "node"
                                      : "lost");
}

bool run_is_done(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    struct wcore_key k = {.task = *task, .attempt = attempt};
    struct shim *s = find_shim(world->cur->dir, &k);

    (void)tasks_dir;
    return !s || s->done || BROKEN(SURVIVORS);
}

void run_disown(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    (void)tasks_dir;
    (void)task;
    (void)attempt;
    UNREACHABLE("no directory is copied here");
}

int run_find(struct run_context *x, const struct wcore_key *k, struct run_found *ret,
             struct run **ret_run, struct err *reterr)
{
    struct shim *s = find_shim(world->cur->dir, k);

    (void)reterr;
    *ret_run = run_new(x, k, s->token);
    *ret = (struct run_found){.need = s->need, .token = s->token, .lease_ms = s->lease_ms};
    attach(s, *ret_run);
    return 0;
}

bool run_adopt(struct run *r)
{
    struct shim *s = r->shim;

    if (s->state == SPAWNING) {
        s->fenced = true; /* nobody listens yet, and nobody will */
        shim_over(s, false, "fenced", -1);
        s->run = r;
    }
    if (s->state == OVER) {
        judge(r);
        r->ended = true;
        return true;
    }
    to_worker(s, on_hello);
    return false;
}

void run_attach(struct run *r, struct wcore_attempt *a)
{
    r->attempt = a;
    a->user = r;
}

struct lease_order {
    struct shim *s;
    int64_t until;
};

static void on_lease_order(void *arg)
{
    struct lease_order *o = arg;

    o->s->lease_until = o->until;
    if (o->s->state == LIVE) {
        arm_lease(o->s);
    }
    free(o);
}

void run_lease(struct run *r, int64_t deadline)
{
    if (r->shim && !r->ended) {
        struct lease_order *o = xmalloc(sizeof(*o));

        *o = (struct lease_order){r->shim, deadline};
        sim_at(world->now + 1, NULL, on_lease_order, o);
    }
}

struct stop_order {
    struct shim *s;
    const char *reason;
    int64_t grace_ms;
};

static void on_stop_order(void *arg)
{
    struct stop_order *o = arg;

    if (o->s->state == SPAWNING) {
        shim_over(o->s, true, o->reason, -1);
    } else {
        shim_term(o->s, o->reason, MAX(o->grace_ms, (int64_t)20));
    }
    free(o);
}

void run_stop(struct run *r, enum wcore_stop why, int64_t grace_ms)
{
    static const char *const words[] = {[WCORE_STOP_CANCEL] = "cancel",
                                        [WCORE_STOP_SHUTDOWN] = "shutdown",
                                        [WCORE_STOP_REVOKED] = "revoked",
                                        [WCORE_STOP_LEASE] = "lease"};

    if (why != WCORE_STOP_LEASE && r->shim && !r->ended) {
        struct stop_order *o = xmalloc(sizeof(*o));

        *o = (struct stop_order){r->shim, words[why], grace_ms};
        sim_at(world->now + 1, NULL, on_stop_order, o);
    }
}

void run_reap(void)
{
}

void run_kill(struct run *r)
{
    if (r->shim && !r->ended) {
        shim_over(r->shim, false, "killed", -1);
    }
}

const char *run_why(const struct run *r)
{
    (void)r;
    return "";
}

const struct wcore_fault *run_fault(const struct run *r)
{
    return streq(r->outcome, "returned") ? &r->fault : NULL;
}

const struct report_status *run_status(const struct run *r)
{
    return &r->status;
}

const char *run_result(const struct run *r)
{
    return r->result;
}

const char *run_outcome(const struct run *r)
{
    return r->outcome;
}

struct freed_call {
    struct run_context *x;
};

static void on_freed(void *arg)
{
    struct freed_call *c = arg;

    c->x->on_freed(c->x->arg);
    free(c);
}

void run_release(struct run *r)
{
    struct freed_call *c = xmalloc(sizeof(*c));

    if (r->shim && r->shim->run == r) {
        r->shim->run = NULL;
    }
    list_remove(&r->node);
    c->x = r->x;
    sim_at(world->now, world->cur, on_freed, c);
    free(r->result);
    free(r);
}

void run_forget(struct run *r)
{
    if (r->shim) {
        r->shim->done = true;
    }
    run_release(r);
}

void run_release_all(struct run_context *x)
{
    struct list_node *n;

    while ((n = list_first(&x->runs))) {
        run_release(CONTAINER_OF(n, struct run, node));
    }
}

/* Shims take no time here. */
void run_keep_spare(struct run_context *x, int64_t now)
{
    (void)now;
    x->spare_at = INT64_MAX;
}

/* ---- workdir.h, tidy.h, logs.h and smaller things ---- */

int workdir_open(const char *path, struct workdir *ret, struct err *reterr)
{
    struct dir *d = world->cur->dir;

    (void)reterr;
    if (d->incarnation++ == 0) {
        d->uuid = id_new();
    }
    trace("process %lld of uuid %02x", (long long)d->incarnation, d->uuid.b[0]);
    *ret = (struct workdir){.path = xstrdup(path),
                            .tasks = xstrdup(path),
                            .lock_fd = -1,
                            .uuid = d->uuid,
                            .incarnation = d->incarnation};
    return 0;
}

int workdir_name(struct workdir *w, const char *node, struct err *reterr)
{
    (void)w;
    (void)node;
    (void)reterr;
    return 0;
}

bool run_lives(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    (void)tasks_dir;
    (void)task;
    (void)attempt;
    return false;
}

int workdir_mend(struct workdir *w, bool *ret_new, struct err *reterr)
{
    (void)w;
    (void)reterr;
    *ret_new = false;
    return 0;
}

int workdir_raise(struct workdir *w, int64_t above, struct err *reterr)
{
    if (above < w->incarnation || above > w->incarnation + PROCESS_AHEAD) {
        return err_set(reterr, ERR_INVALID, "no later one");
    }
    w->incarnation = world->cur->dir->incarnation = above + 1;
    return 0;
}

void workdir_tell(struct workdir *w)
{
    (void)w;
}

void workdir_close(struct workdir *w)
{
    free(w->path);
    free(w->tasks);
}

int shimdir_list(const char *tasks_dir,
                 void (*found)(void *arg, const struct id *task, int32_t attempt), void *arg,
                 struct err *reterr)
{
    const struct dir *d = world->cur->dir;

    (void)tasks_dir;
    (void)reterr;
    for (size_t i = 0; i < d->n_shims; i++) {
        found(arg, &d->shims[i]->key.task, d->shims[i]->key.attempt);
    }
    return 0;
}

struct part {
    void (*on_closed)(void *arg);
    void *arg;
};

static void on_part_closed(void *arg)
{
    struct part *p = arg;

    p->on_closed(p->arg);
    free(p);
}

static void close_part(void (*on_closed)(void *arg), void *arg)
{
    struct part *p = xmalloc(sizeof(*p));

    *p = (struct part){on_closed, arg};
    sim_at(world->now, world->cur, on_part_closed, p);
}

struct tidy *tidy_open(uv_loop_t *loop, const char *tasks_dir, int64_t keep_ms)
{
    (void)loop;
    (void)tasks_dir;
    (void)keep_ms;
    return NULL;
}

void tidy_configure(struct tidy *t, int64_t keep_ms)
{
    (void)t;
    (void)keep_ms;
}

void tidy_close(struct tidy *t, void (*on_closed)(void *arg), void *arg)
{
    (void)t;
    close_part(on_closed, arg);
}

struct logs *logs_open(uv_loop_t *loop, const struct logs_options *o)
{
    (void)loop;
    (void)o;
    return NULL;
}

void logs_close(struct logs *l, void (*on_closed)(void *arg), void *arg)
{
    (void)l;
    close_part(on_closed, arg);
}

void logs_ask(struct logs *l, const struct order_log *q)
{
    (void)l;
    (void)q;
}

void logs_kick(struct logs *l)
{
    (void)l;
}

struct executors_found *executors_scan(const char *plugin_dir, struct err *reterr)
{
    (void)plugin_dir;
    (void)reterr;
    return NULL;
}

void executors_take(const struct executors_found *f)
{
    (void)f;
}

void executors_found_free(struct executors_found *f)
{
    (void)f;
}

const char *executor_plugin_path(const char *name)
{
    (void)name;
    return NULL;
}

bool executor_is_plugin(const char *name)
{
    (void)name;
    return false;
}

const char *const *executor_names(void)
{
    static const char *const names[] = {"Command", "Noop", NULL};

    return names;
}

char *cgroup_delegated(void)
{
    return NULL;
}
