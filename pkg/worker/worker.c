/* The wiring of a worker: the broker and the tasks on one side, the core's decisions on the other.
 *
 * Callbacks hand events to the core. Once per turn of the loop, before it waits, on_turn() lets the
 * core act on all of them at once: one message for many claims, one for many results. */
#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "pkg/executors/cgroup.h"
#include "pkg/executors/strays.h"
#include "pkg/worker/survivors.h"
#include "pkg/worker/worker_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TURN_MAX_MS   1000  /* at least that often we look at the clock: machines sleep */
#define PROGRESS_MS   1000  /* between two beats for the sake of progress alone */
#define STOP_WAIT_MS  5000  /* for answers, when tasks are left alone */
#define STOP_KILL_MS  30000 /* beyond the grace, when they are stopped */
#define STOP_LEAVE_MS 2000  /* for what is written last */

static void part_closed(void *arg);
static void on_timer_closed(uv_handle_t *h);

/* ---- events: the broker ---- */

static void on_link(void *arg, enum wcore_link l, bool up)
{
    struct worker *w = arg;

    if (up) {
        log_info(NULL, "%s",
                 l == WCORE_LINK_CONSUME ? "the broker is connected: taking orders"
                                         : "the broker is connected: publishing");
    }
    wcore_on_link(w->core, clock_boot_ms(), l, up);
}

static void on_hint(void *arg, int urgency, const struct mq_delivery *d)
{
    struct worker *w = arg;
    struct wcore_delivery delivery = {d->epoch, d->tag};
    struct wcore_hint h = {0};
    struct err e = {0};

    (void)urgency; /* it is in the rank */
    CRASH_POINT("worker-hint");
    if (hint_read(d->body, &h, &e) < 0) {
        log_warn(NULL, "a hint is not understood: %s; dropping it", e.text);
        links_ack(w->links, delivery);
        return;
    }
    h.delivery = delivery;
    h.redelivered = d->redelivered;
    wcore_on_hint(w->core, clock_boot_ms(), &h);
}

static void on_claims_returned(void *arg, const char *manager)
{
    struct worker *w = arg;

    wcore_on_manager_gone(w->core, clock_boot_ms(), manager);
}

static void take_grants(struct worker *w, int64_t now, const struct order *o)
{
    char text[WORKER_FIELDS_MAX];

    for (size_t i = 0; i < o->n_grants; i++) {
        const struct order_grant *g = &o->grants[i];
        struct wcore_grant grant = {.key = g->key,
                                    .token = g->token,
                                    .beat = g->beat,
                                    .lease_ms = g->lease_ms,
                                    .need = g->need,
                                    .type = g->type,
                                    .spec = g};

        if (!wcore_on_grant(w->core, now, &grant)) {
            log_debug(worker_fields(&g->key, text), "a grant that nobody waits for; ignoring");
        }
    }
    for (size_t i = 0; i < o->n_denies; i++) {
        wcore_on_deny(w->core, now, &o->denies[i].key, o->denies[i].how);
    }
}

static void take_refusal(struct worker *w, const struct order *o)
{
    if (o->refused && !wcore_is_refused(w->core) && !*o->other_host) {
        log_error(NULL, "refused: the managers know as many workers as they can. This one takes no "
                        "work until there is a place");
    } else if (o->refused && !wcore_is_refused(w->core)) {
        log_error(
            NULL,
            "refused: another worker calls itself %s too, on %s (pid %lld). This one takes no "
            "work while that lives. Give each its own executorNodeConfig.nodeId; if it is an "
            "earlier one of this node that used another workDir, wait until it counts as dead",
            w->config->node.node_id, o->other_host, (long long)o->other_pid);
    } else if (!o->refused && wcore_is_refused(w->core)) {
        log_info(NULL, "accepted: %s is given work again", w->config->node.node_id);
    }
    wcore_on_refused(w->core, o->refused);
}

static void raised(struct worker *w)
{
    const struct dir_work *d = &w->dir_work;

    if (d->rc == ERR_INVALID) {
        log_error(
            NULL,
            "%s: somebody forges answers, or has forged a beat while this worker was down. "
            "Ignoring it. If this worker gets no work, remove %s/identity while it is stopped "
            "and none of its tasks runs",
            d->why.text, w->dir.path);
        return;
    }
    log_error(
        NULL,
        "a manager has heard process %lld of this worker, which is not this one, from %s (pid "
        "%lld). If that runs, the machine was cloned: stop it and remove identity from its "
        "workDir. If not, this workDir was put back from a backup, which mends itself, or beats "
        "are forged or replayed: look who may publish to the broker. Going on as process %lld%s%s",
        (long long)d->above, d->other_host, (long long)d->other_pid, (long long)w->dir.incarnation,
        d->rc < 0 ? "; " : "", d->why.text);
    wcore_on_renumbered(w->core);
}

static void write_dir(struct lane_job *j)
{
    struct dir_work *d = CONTAINER_OF(j, struct dir_work, job);

    d->rc = d->above ? workdir_raise(&d->dir, d->above, &d->why)
                     : workdir_mend(&d->dir, &d->new_tasks, &d->why);
}

static void on_dir_written(struct lane_job *j)
{
    struct worker *w = CONTAINER_OF(j, struct worker, dir_work.job);
    const struct dir_work *d = &w->dir_work;

    w->dir = d->dir;
    w->dir_work.under_way = false;
    workdir_tell(&w->dir);
    if (w->stop == CLOSING) {
        part_closed(w);
    } else if (d->above) {
        raised(w);
    } else if (d->new_tasks) {
        log_warn(NULL, "%s is another directory than it was; what was kept in that one is lost",
                 w->dir.tasks);
    }
}

/* above 0: for tasks/ alone. */
static void ask_dir(struct worker *w, int64_t above)
{
    if (!w->dir_work.under_way) {
        w->dir_work.under_way = true;
        w->dir_work.dir = w->dir;
        w->dir_work.above = above;
        w->dir_work.new_tasks = false;
        w->dir_work.why = (struct err){0};
        w->dir_work.job = (struct lane_job){.work = write_dir, .done = on_dir_written};
        lane_do(&w->lane, &w->dir_work.job);
    }
}

/* We live, so whoever used a higher number does not speak for us. */
static void take_outdated(struct worker *w, const struct order *o)
{
    if (o->inc < w->dir.incarnation) {
        return; /* the answer to a beat of before */
    }
    METRIC_INC(worker_outdated);
    if (!w->dir_work.under_way && w->stop != CLOSING) { /* else the next answer says so again */
        snprintf(w->dir_work.other_host, sizeof(w->dir_work.other_host), "%s", o->other_host);
        w->dir_work.other_pid = o->other_pid;
        ask_dir(w, o->inc);
    }
}

static void tell_pace(const struct worker *w)
{
    int64_t own = (int64_t)w->config->node.heartbeat_seconds * 1000;

    if (w->dead_after_ms && own > w->dead_after_ms / 3) {
        log_warn(NULL,
                 "executorNodeConfig.heartbeatSeconds is %d, but the cluster counts a worker dead "
                 "after %lld s (deadAfterSeconds): this one beats every %lld ms",
                 w->config->node.heartbeat_seconds, (long long)(w->dead_after_ms / 1000),
                 (long long)(w->dead_after_ms / 3));
    }
}

/* A manager of an earlier version does not say; what another one said goes on to count. */
static void take_dead_after(struct worker *w, int64_t ms)
{
    if (ms && ms != w->dead_after_ms) {
        w->dead_after_ms = ms;
        wcore_on_dead_after(w->core, ms);
        tell_pace(w);
    }
}

static void take_beat_ack(struct worker *w, int64_t now, const struct order *o)
{
    for (size_t i = 0; i < o->unsure.n; i++) {
        wcore_on_unsure(w->core, &o->unsure.keys[i], o->beat);
    }
    for (size_t i = 0; i < o->revoke.n; i++) {
        wcore_on_revoke(w->core, now, &o->revoke.keys[i], o->beat);
    }
    if (!wcore_on_beat_ack(w->core, now, o->beat)) {
        log_warn(NULL, "an answer to beat %lld, which is not known; ignoring", (long long)o->beat);
        return;
    }
    w->unanswered_since = w->hurry_at = 0;
    take_dead_after(w, o->dead_after_ms);
    wcore_on_drain(w->core, o->drain);
    take_refusal(w, o);
}

static void take_order(struct worker *w, int64_t now, const struct order *o)
{
    switch (o->type) {
    case ORDER_GRANTS:
        take_grants(w, now, o);
        break;
    case ORDER_BEAT_ACK:
        take_beat_ack(w, now, o);
        break;
    case ORDER_OUTDATED:
        take_outdated(w, o);
        break;
    case ORDER_REVOKE:
        for (size_t i = 0; i < o->revoke.n; i++) {
            wcore_on_revoke(w->core, now, &o->revoke.keys[i], o->beat);
        }
        break;
    case ORDER_DRAIN:
        wcore_on_drain(w->core, o->drain);
        break;
    case ORDER_LOG:
        logs_ask(w->logs, &o->log);
        break;
    case ORDER_APPLIED:
        for (size_t i = 0; i < o->applied.n; i++) {
            wcore_on_applied(w->core, &o->applied.keys[i]);
        }
        break;
    case ORDER_HINT:
        wcore_on_hint(w->core, now, o->hint);
        break;
    case ORDER_CANCEL:
        break;
    }
    for (size_t i = 0; i < o->cancel.n; i++) {
        wcore_on_cancel(w->core, now, &o->cancel.keys[i]);
    }
}

/* A machine that was stopped did not count that on clock_boot_ms(), and what was sent to it since
 * waits to be read. So before that, as well as before leases are looked at. */
static void look_at_clock(struct worker *w)
{
    int64_t ms = clock_gained(&w->looked_at_clock);

    if (ms) {
        log_warn(NULL,
                 "the wall clock went %lld s ahead of the machine's: perhaps it was stopped; "
                 "asking for the leases",
                 (long long)(ms / 1000));
        wcore_on_gained(w->core, clock_boot_ms(), ms);
    }
}

/* False: it is no message. */
static bool take_message(struct worker *w, struct str body, bool by_broker)
{
    struct order o CLEANUP(order_free);
    struct err e = {0};

    if (order_read(body, &o, &e) < 0) {
        log_warn(NULL, "a manager's message is not understood: %s; dropping it", e.text);
        return false;
    }
    if (!order_is_for(&o, &w->dir.uuid)) {
        log_warn(NULL, "a manager's answer to another worker that calls itself %s; dropping it",
                 w->config->node.node_id);
        return false;
    }
    w->silent = w->silent && !(by_broker && o.type == ORDER_BEAT_ACK);
    if (o.addressed) {
        detour_learn(w->detour, o.url);
    }
    look_at_clock(w);
    take_order(w, clock_boot_ms(), &o);
    return true;
}

static void on_order(void *arg, struct str body)
{
    take_message(arg, body, true);
}

static bool on_detour(void *arg, struct str body)
{
    return take_message(arg, body, false);
}

/* ---- events: tasks and logs ---- */

static void on_run_started(void *arg, struct wcore_attempt *a)
{
    struct worker *w = arg;
    wcore_on_started(w->core, clock_boot_ms(), a);
}

static void on_run_ended(void *arg, struct wcore_attempt *a)
{
    struct worker *w = arg;
    char text[WORKER_FIELDS_MAX];

    if (run_fault(a->user)) {
        log_warn(worker_fields(&a->key, text), "could not be started: %.300s; giving it back",
                 run_why(a->user));
    } else {
        log_info(worker_fields(&a->key, text), "ended: %s", run_outcome(a->user));
    }
    wcore_on_ended(w->core, clock_boot_ms(), a, run_fault(a->user));
    logs_kick(w->logs);
}

static void on_run_news(void *arg, bool application)
{
    struct worker *w = arg;
    int64_t now = clock_boot_ms();

    if (application || now - w->progress_at >= PROGRESS_MS) {
        w->progress_at = now;
        wcore_on_news(w->core);
    }
}

static bool is_known(void *arg, const struct wcore_key *k)
{
    struct worker *w = arg;
    const struct wcore_attempt *a = wcore_find(w->core, k);

    return a && a->state >= WCORE_STARTING;
}

static bool is_live(void *arg, const struct wcore_key *k)
{
    struct worker *w = arg;
    const struct wcore_attempt *a = wcore_find(w->core, k);

    return a && a->state >= WCORE_STARTING && a->state <= WCORE_STOPPING;
}

static void answer_log(void *arg, const char *queue, struct str body)
{
    struct worker *w = arg;
    int rc = links_send_to(w->links, queue, body);

    if (rc < 0) {
        log_debug(NULL, "a piece of a log could not be sent: %s; it will be asked for again",
                  err_text(rc));
    }
}

/* ---- stopping ---- */

static void worker_free(struct worker *w)
{
    wcore_free(w->core);
    look_done(&w->looks);
    workdir_close(&w->dir);
    exec_node_unref(w->node);
    task_user_free(w->task_user);
    free(w->shim_path);
    free(w->program_dir);
    free(w->cgroup);
    free(w->offered);
    free(w->unable);
    free(w);
}

static void part_closed(void *arg)
{
    struct worker *w = arg;

    w->open_parts--;
    if (w->open_parts == 1 && !uv_is_closing((uv_handle_t *)&w->timer)) {
        uv_close((uv_handle_t *)&w->timer, on_timer_closed); /* nothing hangs */
    }
    if (w->open_parts) {
        return;
    }
    void (*on_stopped)(void *arg2) = w->on_stopped;
    void *stopped_arg = w->stopped_arg;
    worker_free(w);
    log_info(NULL, "the worker has stopped");
    if (on_stopped) {
        on_stopped(stopped_arg);
    }
}

/* What is still open waits for a disk that hangs; the others need not. */
static void on_leave(uv_timer_t *t)
{
    struct worker *w = t->data;
    void (*on_stopped)(void *arg) = w->on_stopped;

    log_warn(NULL, "the worker has stopped, but for what waits for a file system that hangs");
    w->on_stopped = NULL;
    if (on_stopped) {
        on_stopped(w->stopped_arg);
    }
}

static void on_run_freed(void *arg)
{
    struct worker *w = arg;

    if (w->stop == CLOSING) {
        part_closed(w);
    }
}

static void on_turn_closed(uv_handle_t *h)
{
    part_closed(h->data);
}

static void on_timer_closed(uv_handle_t *h)
{
    part_closed(h->data);
}

static void close_all(struct worker *w)
{
    w->stop = CLOSING;
    wcore_last_beat(w->core, clock_boot_ms());
    w->open_parts = 6 + (int)w->runs.runs.count + w->dir_work.under_way;
    detour_close(w->detour, part_closed, w);
    links_close(w->links, part_closed, w);
    logs_close(w->logs, part_closed, w);
    tidy_close(w->tidy, part_closed, w);
    uv_close((uv_handle_t *)&w->turn, on_turn_closed);
    MUST(uv_timer_start(&w->timer, on_leave, STOP_LEAVE_MS, 0) == 0);
    run_release_all(&w->runs);
}

static size_t live_tasks(const struct worker *w)
{
    return wcore_count(w->core, WCORE_STARTING) + wcore_count(w->core, WCORE_RUNNING) +
           wcore_count(w->core, WCORE_STOPPING);
}

/* Answers can only come where the broker is; what is being started, and tasks that are to be
 * stopped, are waited for anyway. */
static bool may_close(struct worker *w, int64_t now)
{
    bool answers = links_are_up(w->links);

    return wcore_is_quiet(w->core) || now >= w->stop_by ||
           (!answers && wcore_count(w->core, WCORE_STARTING) == 0 &&
            (!w->stop_tasks || live_tasks(w) == 0));
}

void worker_stop(struct worker *w, bool stop_tasks, void (*on_stopped)(void *arg), void *arg)
{
    int64_t now = clock_boot_ms();

    assert(w->stop == RUNNING);
    w->stop = STOPPING;
    w->stop_tasks = stop_tasks;
    w->on_stopped = on_stopped;
    w->stopped_arg = arg;
    w->stop_by = now + (stop_tasks ? w->node->kill_grace_ms + STOP_KILL_MS : STOP_WAIT_MS);
    log_info(NULL, "stopping; %zu running tasks %s", live_tasks(w),
             stop_tasks ? "are stopped" : "go on and are found by the next worker");
    wcore_stop(w->core, now, stop_tasks);
}

/* ---- looking at the node ---- */

/* What can be started here, before a task has to find out. */
static void tell_looks(struct worker *w, int64_t now)
{
    size_t n = 0;

    while (w->types.names[n]) {
        n++;
    }
    struct wcore_able *list CLEANUP(freep) = xcalloc(n + 1, sizeof(*list));
    for (size_t i = 0; i <= n; i++) {
        list[i].type = i ? w->types.names[i - 1] : NULL;
        list[i].why = look_why(&w->looks, list[i].type, now);
        list[i].why = list[i].why ? list[i].why : run_hangs(&w->runs, list[i].type, now);
    }
    wcore_on_look(w->core, now, list, n + 1);
}

static void on_looked(void *arg)
{
    tell_looks(arg, clock_boot_ms());
}

/* Where the last look hangs, that is told instead. */
static void look(struct worker *w, int64_t now)
{
    w->looked_at = now;
    ask_dir(w, 0); /* it comes back by itself */
    if (look_begin(&w->looks, now)) {
        tell_looks(w, now);
    }
}

/* What is held off may be well when its time is over. */
static int64_t look_due(const struct worker *w)
{
    int64_t held = wcore_look_due(w->core);
    int64_t due = w->looked_at + LOOK_MS;

    return held > w->looked_at ? MIN(due, held) : due;
}

/* ---- turns ---- */

static void on_timer(uv_timer_t *t)
{
    (void)t; /* the turn that follows does the work */
}

static void on_turn(uv_prepare_t *p)
{
    struct worker *w = p->data;

    look_at_clock(w);
    int64_t now = clock_boot_ms();
    if (w->hurry_at && now >= w->hurry_at) {
        w->hurry_at = 0;
        wcore_on_news(w->core); /* the next beat goes by another way */
    }
    if (now >= look_due(w)) {
        run_reap();
        look(w, now);
    }
    int64_t due = MIN(wcore_step(w->core, now), look_due(w));

    if (w->stop == STOPPING && may_close(w, now)) {
        close_all(w);
        return;
    }
    if (!w->runs.spare && now >= w->runs.spare_at) {
        run_keep_spare(&w->runs, now);
    }
    due = w->hurry_at ? MIN(due, w->hurry_at) : due;
    due = w->runs.spare ? due : MIN(due, w->runs.spare_at);
    int64_t wait = MIN(MAX(due - now, (int64_t)0), (int64_t)TURN_MAX_MS);
    MUST(uv_timer_start(&w->timer, on_timer, (uint64_t)wait, 0) == 0);
}

/* ---- starting ---- */

static struct wcore_settings settings_of(const struct config *c)
{
    return (struct wcore_settings){.capacity = {.slots = c->node.slots,
                                                .cpus_milli = c->node.cpus * 1000,
                                                .memory_mb = c->node.memory_mb},
                                   .heartbeat_ms = (int64_t)c->node.heartbeat_seconds * 1000,
                                   .grace_ms = (int64_t)c->node.kill_grace_seconds * 1000};
}

static int64_t keep_ms_of(const struct config *c)
{
    return (int64_t)c->node.keep_finished_hours * 3600 * 1000;
}

static void use_config(struct worker *w, const struct config *c)
{
    const struct exec_node said = {.name = c->node.node_id,
                                   .spark_home = c->node.spark.home,
                                   .spark_master = c->node.spark.master,
                                   .spark_conf = c->node.spark.conf,
                                   .python = c->node.spark.python,
                                   .plugin_dir = c->node.plugin_dir,
                                   .program_dir = w->program_dir,
                                   .user = w->task_user,
                                   .log_limit = (int64_t)c->node.log_limit_mb << 20,
                                   .kill_grace_ms = c->node.kill_grace_seconds * 1000};

    w->config = c;
    w->heartbeat_s = c->node.heartbeat_seconds;
    exec_node_unref(w->node);
    w->runs.node = w->node = exec_node_copy(&said);
}

void worker_reconfigure(struct worker *w, const struct config *c)
{
    struct wcore_settings s = settings_of(c);
    bool other_pace = c->node.heartbeat_seconds != w->heartbeat_s;

    use_config(w, c);
    wcore_configure(w->core, &s);
    links_set_slots(w->links, c->node.slots);
    if (other_pace) {
        tell_pace(w);
    }
    tidy_configure(w->tidy, keep_ms_of(c));
}

static int check(const struct config *c, const char *shim_path, struct err *reterr)
{
    if (access(shim_path, X_OK) != 0) {
        return err_errno(reterr, ERR_CONFIG, errno, "cannot run %.150s", shim_path);
    }
    if (c->node.pools.count == 0) {
        return err_set(reterr, ERR_CONFIG, "executorNodeConfig.pools names no pool");
    }
    return 0;
}

static int take_back(struct worker *w, struct err *reterr)
{
    int64_t now = clock_boot_ms();
    struct survivors s = {0};
    int rc = w->dir.copied ? survivors_disown(w->dir.tasks, reterr) : 0;

    rc = rc < 0 ? rc : survivors_find(&w->runs, w->core, now, &s, reterr);
    if (rc < 0) {
        return rc;
    }
    wcore_ready(w->core, now);
    if (s.live || s.ended) {
        log_info(NULL, "the last worker process left %zu running and %zu ended attempts%s", s.live,
                 s.ended, s.left ? "; more ended ones are reported after the next start" : "");
    }
    return 0;
}

static void open_parts(struct worker *w)
{
    struct links_options links = {
        .config = w->config,
        .who = who_of(w->config->node.node_id, &w->dir.uuid, w->dir.incarnation),
        .arg = w,
        .on_link = on_link,
        .on_hint = on_hint,
        .on_claims_returned = on_claims_returned,
        .on_order = on_order};
    struct logs_options logs = {.lane = &w->lane,
                                .tasks_dir = w->dir.tasks,
                                .arg = w,
                                .is_live = is_live,
                                .is_known = is_known,
                                .answer = answer_log};

    struct detour_options detour = {.lane = &w->lane,
                                    .urls = w->config->node.manager_url,
                                    .dir = w->dir.path,
                                    .token = w->config->api.beat_token,
                                    .arg = w,
                                    .on_answer = on_detour};

    w->links = links_open(w->loop, &links);
    w->detour = detour_open(w->loop, &detour);
    w->logs = logs_open(w->loop, &logs);
    w->tidy = tidy_open(w->loop, w->dir.tasks, keep_ms_of(w->config));
    /* Started after the connections', so it runs before these send what has gathered. */
    MUST(uv_prepare_init(w->loop, &w->turn) == 0);
    MUST(uv_timer_init(w->loop, &w->timer) == 0);
    w->turn.data = w->timer.data = w;
    MUST(uv_prepare_start(&w->turn, on_turn) == 0);
}

static struct worker *worker_new(uv_loop_t *loop, const struct config *c, struct workdir dir)
{
    struct worker *w = xcalloc(1, sizeof(*w));
    struct wcore_settings s = settings_of(c);

    w->loop = loop;
    w->dir = dir;
    w->started_at = clock_wall_ms();
    w->looked_at_clock = clock_moment();
    w->types = (struct task_types){executor_names()};
    gethostname(w->host, sizeof(w->host) - 1);
    w->core = wcore_new(&worker_ops, w, &s);
    w->runs = (struct run_context){.loop = loop,
                                   .types = &w->types,
                                   .tasks_dir = w->dir.tasks,
                                   .is_new = w->dir.is_new,
                                   .arg = w,
                                   .on_started = on_run_started,
                                   .on_ended = on_run_ended,
                                   .on_news = on_run_news,
                                   .on_freed = on_run_freed};
    list_init(&w->runs.runs);
    lane_init(&w->runs.disk, loop);
    lane_init(&w->runs.proc, loop);
    lane_init(&w->lane, loop);
    w->looks = (struct looks){.x = &w->runs, .on_looked = on_looked, .arg = w};
    return w;
}

/* What runs here was granted to a worker of that name: another one would end it. */
static int take_dir(const struct config *c, struct workdir *d, struct err *reterr)
{
    bool other = *d->node && !streq(d->node, c->node.node_id);
    size_t n = other ? survivors_running(d->tasks) : 0;

    if (n) {
        return err_set(reterr, ERR_CONFIG,
                       "workDir %.150s belongs to worker %s, which still runs %zu task%s: set "
                       "executorNodeConfig.nodeId: %s, or wait until %s ended",
                       d->path, d->node, n, n > 1 ? "s" : "", d->node,
                       n > 1 ? "they have" : "it has");
    }
    if (other) {
        log_info(NULL, "workDir %s was that of worker %s", d->path, d->node);
    }
    return workdir_name(d, c->node.node_id, reterr);
}

/* Its attempts are below tasks/, which only they need to pass through. */
static int open_dirs(const struct config *c, struct workdir *ret_dir, struct task_user **ret_user,
                     struct err *reterr)
{
    int rc = task_user_open(c->node.task_user, ret_user, reterr);

    if (rc < 0) {
        return rc;
    }
    rc = workdir_open(c->node.work_dir, ret_dir, reterr);
    if (rc == 0) {
        ret_dir->user = *ret_user;
        rc = task_user_let_pass(*ret_user, ret_dir->path, reterr);
        rc = rc < 0 ? rc : task_user_let_pass(*ret_user, ret_dir->tasks, reterr);
        rc = rc < 0 ? rc : take_dir(c, ret_dir, reterr);
        if (rc < 0) {
            workdir_close(ret_dir);
        }
    }
    if (rc < 0) {
        task_user_free(STEAL(*ret_user));
    }
    return rc;
}

static void tell_user(const struct config *c, const struct task_user *u)
{
    if (!u) {
        return;
    }
    log_info(NULL, "tasks run as %s, user %u", u->name, (unsigned)u->uid);
    if (c->source && task_user_can_read(u, c->source)) {
        log_warn(NULL,
                 "%s can be read by tasks: keep passwords out of it, or take the right from others",
                 c->source);
    }
}

int worker_start(uv_loop_t *loop, const struct config *c, const char *shim_path,
                 struct worker **ret, struct err *reterr)
{
    struct workdir dir = {.lock_fd = -1};
    struct task_user *user = NULL;
    int rc = check(c, shim_path, reterr);

    rc = rc < 0 ? rc : open_dirs(c, &dir, &user, reterr);
    if (rc < 0) {
        return rc;
    }
    struct worker *w = worker_new(loop, c, dir);
    w->task_user = user;
    w->runs.shim_path = w->shim_path = realpath(shim_path, NULL);
    w->program_dir = xstrndup(w->shim_path, (size_t)(strrchr(w->shim_path, '/') - w->shim_path));
    use_config(w, c);
    w->runs.cgroup = w->cgroup = cgroup_delegated();
    strays_inherit();
    w->looked_at = clock_boot_ms();
    look_first(&w->looks, w->looked_at);
    tell_looks(w, w->looked_at);
    rc = take_back(w, reterr); /* opens handles only where it succeeds */
    if (rc < 0) {
        worker_free(w);
        return rc;
    }
    open_parts(w);
    log_info(NULL, "worker %s starts: %d slots, %d CPUs, %d MiB, work below %s%s", c->node.node_id,
             c->node.slots, c->node.cpus, c->node.memory_mb, w->dir.path,
             *c->node.work_dir == '/' ? ""
                                      : ", by a relative workDir: started from elsewhere it would "
                                        "be another worker");
    tell_user(c, user);
    worker_tell_offers(w);
    *ret = w;
    return 0;
}
