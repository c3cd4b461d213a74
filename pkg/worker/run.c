#include "pkg/worker/run_priv.h"

#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/strays.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* Between two looks at what a dead shim left behind, each twice the last: a look is a walk of
 * /proc.
 */
#define LOOK_MS          50
#define LOOK_MAX_MS      2000
#define WALK_REST        10    /* times the last walk */
#define WALK_REST_MAX_MS 10000 /* what has hung may be well */
#define POLL_MS          250 /* between two looks at what a task tells of itself: short ones too */
#define FORKS_MS         1000

_Static_assert(WCORE_DOUBT_MS == PLAN_LEASE_DOUBT_MS, "a shim and its worker doubt alike");

/* ---- making, freeing ---- */

void run_name(struct run *r, const struct wcore_key *k, int64_t token)
{
    r->key = *k;
    r->token = token;
    r->exec = (struct exec_attempt){.task = k->task, .attempt = k->attempt, .token = token};
}

struct run *run_new(struct run_context *x, const struct wcore_key *k, int64_t token)
{
    struct run *r = xcalloc(1, sizeof(*r));

    r->x = x;
    r->outcome = "";
    r->errand.fd = -1;
    r->status.done = r->status.total = -1;
    run_name(r, k, token);
    list_push(&x->runs, &r->node);
    return r;
}

static void free_if_closed(struct run *r)
{
    if (!r->closing || r->open_handles) {
        return;
    }
    struct run_context *x = r->x;
    list_remove(&r->node);
    report_status_done(&r->status);
    json_decref(r->said);
    task_spec_free(r->spec);
    free(r->program);
    free(r->dir);
    free(r->result);
    free(r->why);
    free(r);
    x->on_freed(x->arg);
}

static void let_go(struct run *r)
{
    r->open_handles--;
    free_if_closed(r);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct run *r = h->data;

    r->pipe_closes = r->pipe_closes && h != (uv_handle_t *)&r->pipe;
    let_go(r);
}

static void close_handle(struct run *r, bool *has, uv_handle_t *h)
{
    if (*has) {
        *has = false;
        h->data = r;
        uv_close(h, on_handle_closed);
    }
}

static void close_pipe(struct run *r)
{
    r->pipe_closes = r->pipe_closes || r->has_pipe;
    close_handle(r, &r->has_pipe, (uv_handle_t *)&r->pipe);
    r->len = 0;
    r->language = UNKNOWN;
}

void run_close_process(struct run *r)
{
    if (r->has_process && r->process.pid > 0) {
        strays_forget_child(r->process.pid);
    }
    close_handle(r, &r->has_process, (uv_handle_t *)&r->process);
}

void run_close_handles(struct run *r)
{
    if (!uv_is_active((uv_handle_t *)&r->process)) {
        /* It could not be started. A shim that was is waited for, or it would stay behind as a
         * zombie. */
        run_close_process(r);
    }
    close_pipe(r);
    close_handle(r, &r->has_timer, (uv_handle_t *)&r->timer);
    close_handle(r, &r->has_poll, (uv_handle_t *)&r->poll);
}

void run_release(struct run *r)
{
    r->attempt = NULL;
    r->closing = true;
    run_close_handles(r);
    free_if_closed(r);
}

void run_release_all(struct run_context *x)
{
    x->spare = NULL; /* it ends with its connection */
    LIST_EACH(&x->runs, it)
    {
        struct run *r = CONTAINER_OF(it, struct run, node);

        r->open_handles++; /* so that it is not freed before its process is let go */
        run_release(r);
        /* It stays our child: a walk that is still under way would take it for an orphan. */
        close_handle(r, &r->has_process, (uv_handle_t *)&r->process);
        let_go(r);
    }
}

void run_forget(struct run *r)
{
    if (r->dir) {
        run_ask(r, ERRAND_FORGET);
    }
    run_release(r);
}

/* ---- results ---- */

static const char *outcome_name(enum exec_outcome o)
{
    static const char *const names[] = {[EXEC_SUCCEEDED] = "succeeded",
                                        [EXEC_FAILED] = "failed",
                                        [EXEC_CANCELLED] = "cancelled",
                                        [EXEC_LOST] = "lost",
                                        [EXEC_RETURNED] = "returned"};
    return names[o];
}

/* The reason is the same for every attempt: it goes into beats and the audit of the cluster. */
void run_set_fault(struct run *r, enum exec_fault f, const char *why)
{
    const char *at = r->dir ? strstr(why, r->dir) : NULL;

    r->fault.of = f == EXEC_FAULT_NODE   ? WCORE_FAULT_NODE
                  : f == EXEC_FAULT_TYPE ? WCORE_FAULT_TYPE
                                         : WCORE_FAULT_ATTEMPT;
    snprintf(r->fault.reason, sizeof(r->fault.reason), "%.*s%s%s", (int)(at ? at - why : 0), why,
             at ? r->x->tasks_dir : "", at ? at + strlen(r->dir) : why);
    str_make_printable(r->fault.reason, sizeof(r->fault.reason));
}

/* Takes what `res` owns. */
static void set_result(struct run *r, struct exec_result *res, int64_t started, int64_t finished)
{
    struct report_result out = {.key = r->key,
                                .token = r->token,
                                .outcome = outcome_name(res->outcome),
                                .error = res->error,
                                .output = res->output,
                                .exact = res->exact,
                                .warning = res->warning,
                                .started_at = started,
                                .finished_at = finished};

    assert(!r->result);
    r->why = xstrdup(json_get_string(res->error, "message"));
    r->outcome = out.outcome;
    r->result = report_result(&out, &r->status);
    exec_result_free(res);
}

void run_set_verdict(struct run *r, enum exec_outcome o, const char *kind, const char *why)
{
    struct exec_result res = {.outcome = o, .error = report_error(kind, why)};

    set_result(r, &res, 0, clock_wall_ms());
}

void run_tell_end(struct run *r)
{
    assert(r->result && !r->ended);
    CRASH_POINT("worker-ended");
    r->ended = true;
    run_close_handles(r);
    if (r->attempt) {
        r->x->on_ended(r->x->arg, r->attempt);
    }
}

void run_judge(struct run *r, struct exec_result *res, const struct exec_exit *e)
{
    if (!r->executor) {
        run_set_verdict(r, EXEC_LOST, "lost",
                        "it ended, but this worker has no executor to judge it");
        return;
    }
    set_result(r, res, e->started_at, e->finished_at);
}

/* ---- errands ---- */

static void take_text(char **to, const json_t *j, const char *key)
{
    const char *text = json_get_string(j, key);

    if (text && *text) {
        str_replace_owned(to, text);
    }
}

static void take_status(struct run *r)
{
    json_t *j = r->errand.status;
    bool known = r->status.application_id != NULL;

    if (!j || json_equal(j, r->said)) {
        return;
    }
    json_decref(r->said);
    r->said = STEAL(r->errand.status);
    take_text(&r->status.application_id, j, "applicationId");
    take_text(&r->status.ui_url, j, "uiUrl");
    take_text(&r->status.text, j, "text");
    int64_t done = json_get_int(j, "done", -1);
    int64_t total = json_get_int(j, "total", -1);
    r->status.done = done >= 0 ? done : r->status.done;
    r->status.total = total >= 0 ? total : r->status.total;
    r->x->on_news(r->x->arg, !known && r->status.application_id);
}

static void take_numbers(struct run *r)
{
    if (r->errand.numbers.shim) {
        r->found = r->errand.numbers;
    }
}

static void take_errand(struct run *r)
{
    struct errand *d = &r->errand;

    if (d->kind == ERRAND_FORGET && d->rc < 0) {
        log_warn(NULL, "%s; its directory will be reported again after a restart", d->why.text);
    }
    if (r->closing || r->ended) {
        return; /* nobody waits for it any more */
    }
    take_numbers(r);
    if (d->kind == ERRAND_START) {
        run_begun(r);
    } else if (d->kind == ERRAND_STATUS) {
        take_status(r);
    } else if (d->kind == ERRAND_SETTLE && run_settled(r)) {
        run_tell_end(r);
    } else if (d->kind == ERRAND_SETTLE && !r->has_pipe) {
        run_look_again(r);
    }
}

static void on_worked(struct lane_job *j)
{
    struct run *r = CONTAINER_OF(j, struct run, errand.job);

    take_errand(r);
    errand_done(&r->errand);
    if (r->next && (!r->closing || r->next == ERRAND_FORGET)) {
        enum errand_kind k = r->next;
        r->next = ERRAND_NONE;
        run_ask(r, k);
    }
    let_go(r);
}

static void work(struct lane_job *j)
{
    errand_work(CONTAINER_OF(j, struct errand, job));
}

void run_fill(struct run *r, enum errand_kind k)
{
    struct errand *d = &r->errand;

    d->kind = k;
    d->executor = r->executor;
    d->node = exec_node_ref(r->x->node);
    d->exec = r->exec;
    d->bye = r->bye;
    d->cut = r->cut;
    d->named = r->task_pid != 0;
    d->fenced = r->fenced;
    d->cleared = r->cleared;
    d->unable = r->unable;
}

/* A start is made beside the others: it looks at more than tasks_dir. */
static struct lane *lane_of(struct run *r)
{
    return r->errand.kind == ERRAND_START ? run_starter(r->x, r->executor) : &r->x->disk;
}

void run_ask(struct run *r, enum errand_kind k)
{
    if (r->errand.kind) {
        r->next = MAX(r->next, k);
        return;
    }
    run_fill(r, k);
    r->open_handles++;
    r->errand.job.work = work;
    r->errand.job.done = on_worked;
    lane_do(lane_of(r), &r->errand.job);
}

/* ---- the shim ---- */

static void repeat_orders(struct run *r);
static void look_in(struct run *r, int64_t ms);

/* Its shim has not been told of it: what the disk is asked for it can be left. */
static bool is_starting(const struct run *r)
{
    return r->errand.kind == ERRAND_START;
}

/* What has not begun leaves no directory. */
static void take_back(struct run *r)
{
    if (lane_take_back(lane_of(r), &r->errand.job)) {
        errand_done(&r->errand);
        free(STEAL(r->dir));
        r->exec.dir = NULL;
        let_go(r);
    }
}

/* Not at once: that is no place to tell its end. */
static void give_up(struct run *r)
{
    r->given_up = true;
    look_in(r, 0);
    take_back(r);
}

static void conclude_unstarted(struct run *r)
{
    if (streq(r->stop_word, "cancel")) {
        run_set_verdict(r, EXEC_CANCELLED, "cancelled", "stopped before it was started");
    } else {
        static const char why[] = "stopped before it was started: the disk has not answered yet";

        run_set_fault(r, EXEC_FAULT_ATTEMPT, why);
        run_set_verdict(r, EXEC_RETURNED, "node", why);
    }
    run_tell_end(r);
}

static void on_poll(uv_timer_t *t)
{
    struct run *r = t->data;

    if (!r->errand.kind) {
        run_ask(r, ERRAND_STATUS);
    }
}

/* Its shim lives, so the numbers are theirs. That the count is a little old only makes us believe
 * the less. */
static void note_seen(struct run *r)
{
    struct run_context *x = r->x;
    int64_t now = clock_boot_ms();

    if (now >= x->forks_at) {
        x->forks = strays_forks();
        x->forks_at = now + FORKS_MS;
    }
    r->seen_at = now;
    r->seen_forks = x->forks;
}

static void on_hello(struct run *r, int64_t shim_pid, int64_t task_pid)
{
    if (!r->task_pid) { /* they never change */
        r->shim_pid = shim_pid;
        r->task_pid = task_pid;
        note_seen(r);
    }
    r->look_ms = 0;
    if (r->language == UNKNOWN) {
        r->language = UNDERSTOOD;
        repeat_orders(r);
    }
    if (!task_pid) {
        return; /* it could not be started: the exit record will say why */
    }
    if (!r->has_poll && r->executor && r->executor->status) {
        MUST(uv_timer_init(r->x->loop, &r->poll) == 0);
        r->poll.data = r;
        r->has_poll = true;
        r->open_handles++;
        MUST(uv_timer_start(&r->poll, on_poll, POLL_MS, POLL_MS) == 0);
    }
    if (r->attempt) {
        r->x->on_started(r->x->arg, r->attempt);
    }
}

/* Our end of the control connection is over. After a bye the record says what that means. Else the
 * shim may live, or who says bye later be the task. */
static void lose_pipe(struct run *r, bool bye)
{
    close_pipe(r);
    r->bye = bye;
    r->cut = r->cut || !bye;
    if (r->ended || r->closing) {
        return;
    }
    if (r == r->x->spare) {
        r->x->spare = NULL;
        run_release(r);
    } else if (bye && !r->cut) {
        run_ask(r, ERRAND_SETTLE);
    } else if (!is_starting(r)) {
        run_look_again(r);
    }
}

/* Nobody can renew its lease: it ends the task then, by itself. Until that it is ours. */
static void on_foreign(struct run *r, int64_t version)
{
    r->language = FOREIGN;
    log_error(
        NULL,
        "%s: its shim speaks version %lld, this worker %d to %d; the task ends with its lease",
        r->dir, (long long)version, SHIM_VERSION_OLDEST, SHIM_VERSION);
}

static bool take_hello(struct run *r, struct str rest)
{
    struct str version = str_cut(rest, ' ', &rest);
    struct str shim = str_cut(rest, ' ', &rest);
    int64_t v = 0;
    int64_t shim_pid = 0;
    int64_t task_pid = 0;

    if (!str_to_i64(version, 1, INT32_MAX, &v)) {
        return false;
    }
    if (v < SHIM_VERSION_OLDEST || v > SHIM_VERSION) {
        on_foreign(r, v);
        return true;
    }
    if (!str_to_i64(shim, 2, INT32_MAX, &shim_pid) || !str_to_i64(rest, 0, INT32_MAX, &task_pid)) {
        return false;
    }
    on_hello(r, shim_pid, task_pid);
    return true;
}

/* False: not a line of this protocol. */
static bool take_line(struct run *r, struct str line)
{
    struct str rest = line;
    struct str word = str_cut(rest, ' ', &rest);

    if (r->language == FOREIGN) {
        return true; /* its end is seen by that of the connection */
    }
    if (str_eq(word, STR("bye"))) {
        lose_pipe(r, true);
        return true;
    }
    return str_eq(word, STR("hello")) && take_hello(r, rest);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    struct run *r = h->data;

    (void)hint;
    *ret = uv_buf_init(r->line + r->len, (unsigned)(sizeof(r->line) - r->len));
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct run *r = s->data;
    char *end = NULL;

    (void)buf;
    if (n < 0) {
        lose_pipe(r, false);
        return;
    }
    r->len += (size_t)n;
    while ((end = memchr(r->line, '\n', r->len))) {
        size_t used = (size_t)(end - r->line) + 1;
        bool good = take_line(r, (struct str){r->line, used - 1});

        if (!r->has_pipe) {
            return;
        }
        if (!good) {
            log_warn(NULL, "a shim does not speak as agreed; looking at its files instead");
            lose_pipe(r, false);
            return;
        }
        r->len -= used;
        memmove(r->line, end + 1, r->len);
    }
    if (r->len == sizeof(r->line) && r->language == FOREIGN) {
        r->len = 0;
    } else if (r->len == sizeof(r->line)) {
        lose_pipe(r, false);
    }
}

void run_open_pipe(struct run *r)
{
    MUST(uv_pipe_init(r->x->loop, &r->pipe, 0) == 0);
    r->pipe.data = r;
    r->has_pipe = true;
    r->open_handles++;
}

bool run_read_pipe(struct run *r)
{
    return uv_read_start((uv_stream_t *)&r->pipe, on_alloc, on_read) == 0;
}

/* Lines are short and rare, and the shim reads them at once: what does not fit is lost with a
 * connection that is of no use any more. */
static void say(struct run *r, const char *fmt, ...) PRINTF(2, 3);
static void say(struct run *r, const char *fmt, ...)
{
    char line[PLAN_LINE_MAX];
    va_list ap;

    if (!r->has_pipe || r->language != UNDERSTOOD) {
        return;
    }
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    /* Not by libuv, which raises SIGPIPE for a shim that has just ended. */
    uv_os_fd_t fd = -1;
    bool sent = uv_fileno((uv_handle_t *)&r->pipe, &fd) == 0 &&
                send(fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n;
    if (sent && !r->cut) {
        note_seen(r); /* its end is open; after a cut it may be the task's */
    } else if (!sent && errno != EPIPE) {
        log_warn(NULL, "a shim does not take orders; its lease will end it");
    }
}

/* What was ordered before we knew its language, or on a connection that is lost. The lease may have
 * lost time since (wcore_on_gained()). */
static void repeat_orders(struct run *r)
{
    if (r->lease_until) {
        r->lease_until = r->attempt ? MIN(r->lease_until, r->attempt->deadline) : r->lease_until;
        say(r, "lease %lld\n", (long long)r->lease_until);
    }
    if (r->stop_word) {
        say(r, "stop %s %lld\n", r->stop_word, (long long)r->stop_grace_ms);
    }
}

void run_lease(struct run *r, int64_t deadline)
{
    r->lease_until = deadline;
    say(r, "lease %lld\n", (long long)deadline);
}

void run_stop(struct run *r, enum wcore_stop why, int64_t grace_ms)
{
    static const char *const words[] = {[WCORE_STOP_CANCEL] = "cancel",
                                        [WCORE_STOP_SHUTDOWN] = "shutdown",
                                        [WCORE_STOP_REVOKED] = "revoked",
                                        [WCORE_STOP_LEASE] = "lease"};

    if (why == WCORE_STOP_LEASE) {
        return; /* the shim knows by itself */
    }
    r->stop_word = words[why];
    r->stop_grace_ms = grace_ms + (why == WCORE_STOP_CANCEL ? r->stop_ms : 0);
    if (is_starting(r)) {
        give_up(r);
        return;
    }
    say(r, "stop %s %lld\n", r->stop_word, (long long)r->stop_grace_ms);
}

void run_reap(void)
{
    strays_reap();
}

/* ---- walks ---- */

/* Of /proc, for what is left of all attempts whose shims are dead: one for each would never end. */
struct walk {
    struct lane_job job;
    struct run_context *x;
    struct run **runs; /* they wait for it */
    bool *fenced;      /* they were, when it began */
    struct strays *list;
    size_t n;
    int64_t took;
};

/* Whom to look for of this attempt: its shim is dead, or to be killed. */
static struct strays strays_of(const struct run *r)
{
    struct strays s = r->found;

    s.token = xasprintf("SJE_TOKEN=%lld", (long long)r->token);
    s.began_at = r->began_at;
    s.cgroup = r->x->cgroup ? xasprintf("%s%s", r->x->cgroup, strrchr(r->dir, '/')) : NULL;
    if (r->shim_pid) {
        s.shim = r->shim_pid;
        s.task = r->task_pid;
        s.seen_at = r->seen_at;
        s.seen_forks = r->seen_forks;
    }
    /* Where only its other half was killed, all that we cannot find falls to the keeper. */
    s.shim_clears = !r->orphaned && clock_boot_ms() < r->fenced_at + PLAN_KILL_GIVE_UP_MS;
    return s;
}

static bool has_strays(const struct run *r)
{
    return (r->fenced || r->orphaned) && r->dir && !r->ended && !r->closing;
}

static void look(struct run *r);

static void walk_done(struct lane_job *j)
{
    struct walk *w = CONTAINER_OF(j, struct walk, job);

    w->x->walking = false;
    w->x->walks++;
    w->x->strays_at = clock_boot_ms() + MIN(WALK_REST * w->took, (int64_t)WALK_REST_MAX_MS);
    for (size_t i = 0; i < w->n; i++) {
        struct run *r = w->runs[i];

        /* It has seen nothing of what came to life after it began, before the fence. */
        r->looked = r->fenced == w->fenced[i];
        r->left = w->list[i].left;
        if (has_strays(r) && r->fenced && r->looked && !r->has_pipe) {
            look(r);
        }
        free((char *)(uintptr_t)w->list[i].token);
        free((char *)(uintptr_t)w->list[i].cgroup);
        let_go(r);
    }
    free(w->runs);
    free(w->fenced);
    free(w->list);
    free(w);
}

/* Kills what it finds, with the shims but for a keeper that clears. */
static void walk(struct lane_job *j)
{
    struct walk *w = CONTAINER_OF(j, struct walk, job);
    int64_t began = clock_boot_ms();

    strays_kill_all(w->list, w->n);
    w->took = clock_boot_ms() - began;
}

static void begin_walk(struct run_context *x)
{
    struct walk *w = NULL;

    if (x->walking || clock_boot_ms() < x->strays_at) {
        return;
    }
    w = xcalloc(1, sizeof(*w));
    w->runs = xcalloc(x->runs.count, sizeof(struct run *));
    w->fenced = xcalloc(x->runs.count, sizeof(*w->fenced));
    w->list = xcalloc(x->runs.count, sizeof(*w->list));
    LIST_EACH(&x->runs, it)
    {
        struct run *r = CONTAINER_OF(it, struct run, node);

        if (has_strays(r)) {
            w->runs[w->n] = r;
            w->fenced[w->n] = r->fenced;
            w->list[w->n++] = strays_of(r);
            r->open_handles++;
            r->looked = false;
        }
    }
    w->x = x;
    w->job = (struct lane_job){.work = walk, .done = walk_done};
    x->walking = true;
    lane_do(&x->proc, &w->job);
}

void run_kill(struct run *r)
{
    if (r->ended || !r->dir) {
        return;
    }
    if (is_starting(r)) {
        give_up(r);
        return;
    }
    /* While it is our child its number is nobody else's. Else it is found with the rest: the
     * connection says nothing, for the other half of the shim holds it too. */
    if (r->has_process && r->process.pid > 0) {
        kill(r->process.pid, SIGKILL);
    }
    r->orphaned = true;
    r->x->strays_at = 0; /* the next attempt may begin soon: no rest before this walk */
    r->looked = false;
    r->look_ms = 0;
    run_look_again(r);
}

/* ---- after the shim ---- */

/* Not while the last connection is still being closed. */
static void connect_to(struct run *r, int fd)
{
    if (r->pipe_closes || r->has_pipe) {
        close(fd);
        return;
    }
    run_open_pipe(r);
    if (uv_pipe_open(&r->pipe, fd) != 0) {
        close(fd);
        close_pipe(r);
    } else if (!run_read_pipe(r)) {
        close_pipe(r);
    }
}

static void tell_record(const struct run *r)
{
    const struct errand *d = &r->errand;

    if (d->rc == ERR_CONFLICT) {
        log_error(NULL, "%s: %s; reporting it as lost", r->dir, d->why.text);
    } else if (streq(d->exit.reason, "exit") && *d->exit.message) {
        log_warn(NULL, "%s: %s", r->dir, d->exit.message); /* but the result stands */
    }
}

bool run_settled(struct run *r)
{
    struct errand *d = &r->errand;

    if (d->fenced && !r->fenced) {
        r->fenced = true;
        r->fenced_at = clock_boot_ms();
        r->looked = false; /* that was before */
    }
    if (d->over) {
        tell_record(r);
        take_status(r);
        if (d->result.outcome == EXEC_RETURNED) {
            run_set_fault(r, d->fault, d->exit.message);
        }
        run_judge(r, &d->result, &d->exit);
    } else if (d->fd >= 0) {
        int fd = d->fd;
        d->fd = -1;
        connect_to(r, fd);
    }
    return d->over;
}

/* What became of an attempt is found out from its files alone, once no process of it is left. */
static void look(struct run *r)
{
    r->cleared = r->fenced && r->looked && r->left == 0 && !r->has_process;
    if (!r->fenced || r->cleared) {
        run_ask(r, ERRAND_SETTLE);
        return;
    }
    r->looked = false; /* each walk is asked once */
    begin_walk(r->x);
    run_look_again(r);
}

static void on_timer(uv_timer_t *t)
{
    struct run *r = t->data;

    if (r->ended) {
        return;
    }
    if (r->given_up) {
        conclude_unstarted(r);
        return;
    }
    if (r->orphaned && !r->fenced) { /* the other half stands still: it would have ended by now */
        if (!r->shim_pid) {
            run_ask(r, ERRAND_STATUS); /* for the numbers */
        }
        begin_walk(r->x);
    }
    if (!r->has_pipe) {
        look(r);
    } else if (r->orphaned) {
        run_look_again(r);
    }
}

static void look_in(struct run *r, int64_t ms)
{
    if (!r->has_timer) {
        MUST(uv_timer_init(r->x->loop, &r->timer) == 0);
        r->timer.data = r;
        r->has_timer = true;
        r->open_handles++;
    }
    MUST(uv_timer_start(&r->timer, on_timer, (uint64_t)ms, 0) == 0);
}

void run_look_again(struct run *r)
{
    r->look_ms = r->look_ms ? MIN(2 * r->look_ms, LOOK_MAX_MS) : LOOK_MS;
    look_in(r, r->look_ms);
}

void run_on_exit(uv_process_t *p, int64_t status, int sig)
{
    struct run *r = p->data;

    r->unable = sig == 0 && status == SHIM_UNABLE;
    run_close_process(r);
    r->process.pid = 0; /* reaped: the number is free */
    if (sig && r->has_pipe && r->dir && !r->ended && !r->closing) {
        r->orphaned = true;
        run_look_again(r);
    }
}

/* ---- looking ---- */

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

const char *run_why(const struct run *r)
{
    return r->why ? r->why : "";
}

const struct wcore_fault *run_fault(const struct run *r)
{
    return streq(r->outcome, "returned") ? &r->fault : NULL;
}
