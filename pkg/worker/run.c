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
#define LOOK_MS     50
#define LOOK_MAX_MS 2000
#define FORKS_MS    1000
#define WALK_REST   10 /* times the last walk: so much of the loop's time is for others */

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
    task_spec_free(r->spec);
    free(r->dir);
    free(r->result);
    free(r->why);
    free(r);
    x->on_freed(x->arg);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct run *r = h->data;

    r->open_handles--;
    free_if_closed(r);
}

static void close_handle(struct run *r, bool *has, uv_handle_t *h)
{
    if (*has) {
        *has = false;
        h->data = r;
        uv_close(h, on_handle_closed);
    }
}

static void on_unwatched(void *arg)
{
    struct run *r = arg;

    r->open_handles--;
    free_if_closed(r);
}

static void unwatch(struct run *r)
{
    if (r->watch) {
        struct exec_watch *w = STEAL(r->watch);
        r->executor->unwatch(w, on_unwatched, r);
    }
}

/* The same pipe and timer may be opened again when their last use is closed. */
void run_close_handles(struct run *r)
{
    unwatch(r);
    if (!uv_is_active((uv_handle_t *)&r->process)) {
        /* It could not be started. A shim that was is waited for, or it would stay behind as a
         * zombie. */
        close_handle(r, &r->has_process, (uv_handle_t *)&r->process);
    }
    close_handle(r, &r->has_pipe, (uv_handle_t *)&r->pipe);
    close_handle(r, &r->has_timer, (uv_handle_t *)&r->timer);
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
        close_handle(r, &r->has_process, (uv_handle_t *)&r->process);
        r->open_handles--;
        free_if_closed(r);
    }
}

void run_forget(struct run *r)
{
    struct err e = {0};

    if (r->dir && shimdir_write_file(r->dir, RUN_DONE_FILE, "", 0, &e) < 0) {
        log_warn(NULL, "%s; its directory will be reported again after a restart", e.text);
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

static void tell_end(struct run *r)
{
    assert(r->result && !r->ended);
    CRASH_POINT("worker-ended");
    r->ended = true;
    run_close_handles(r);
    if (r->attempt) {
        r->x->on_ended(r->x->arg, r->attempt);
    }
}

void run_judge(struct run *r, const struct exec_exit *e)
{
    struct exec_result res = {0};

    if (!r->executor) {
        run_set_verdict(r, EXEC_LOST, "lost",
                        "it ended, but this worker has no executor to judge it");
        return;
    }
    unwatch(r);
    r->executor->finish(r->x->node, &r->exec, e, &res);
    if (res.outcome == EXEC_RETURNED) {
        run_set_fault(r, exec_fault_of_exit(&r->exec, e), e->message);
    }
    set_result(r, &res, e->started_at, e->finished_at);
}

/* A shim that has named the process says bye where that could not become the task. One that did can
 * write a record, and kill its shim. */
static bool is_forged(const struct run *r, const struct exec_exit *e)
{
    return r->task_pid && r->cut && streq(e->reason, "launch");
}

/* True where there is an exit record; the result is made then. */
static bool take_record(struct run *r)
{
    struct exec_exit e = {0};
    struct err why = {0};

    if (r->result) {
        return true;
    }
    int rc = shim_exit_read(r->dir, &e, &why);
    if (rc == ERR_CONFLICT) {
        log_error(NULL, "%s: %s; reporting it as lost", r->dir, why.text);
        shim_exit_crashed(&e, why.text);
    } else if (rc < 0 || is_forged(r, &e)) {
        return false;
    } else if (streq(e.reason, "exit") && *e.message) {
        log_warn(NULL, "%s: %s", r->dir,
                 e.message); /* the result stands, but something was wrong */
    }
    run_judge(r, &e);
    return true;
}

/* ---- the shim ---- */

static void on_status(void *arg, const struct exec_status *s)
{
    struct run *r = arg;
    bool first = s->application_id && !r->status.application_id;

    if (r->ended) {
        return;
    }
    if (s->application_id) {
        str_replace_owned(&r->status.application_id, s->application_id);
    }
    if (s->ui_url) {
        str_replace_owned(&r->status.ui_url, s->ui_url);
    }
    if (s->text) {
        str_replace_owned(&r->status.text, s->text);
    }
    r->status.done = s->done >= 0 ? s->done : r->status.done;
    r->status.total = s->total >= 0 ? s->total : r->status.total;
    r->x->on_news(r->x->arg, first);
}

static void repeat_orders(struct run *r);

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
    if (!r->watch && r->executor && r->executor->watch) {
        r->watch = r->executor->watch(r->x->node, &r->exec, r->x->loop, on_status, r);
        r->open_handles += r->watch != NULL;
    }
    if (r->attempt) {
        r->x->on_started(r->x->arg, r->attempt);
    }
}

/* Our end of the control connection is over. After a bye the record says what that means. Else the
 * shim may live, or who says bye later be the task. */
static void lose_pipe(struct run *r, bool bye)
{
    close_handle(r, &r->has_pipe, (uv_handle_t *)&r->pipe);
    r->len = 0;
    r->language = UNKNOWN;
    r->cut = r->cut || !bye;
    if (r->ended || r->closing) {
        return;
    }
    if (r == r->x->spare) {
        r->x->spare = NULL;
        run_release(r);
        return;
    }
    if (!r->cut && take_record(r)) {
        tell_end(r);
    } else {
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

/* What was ordered before we knew its language, or on a connection that is lost. */
static void repeat_orders(struct run *r)
{
    if (r->lease_until) {
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

int64_t run_stop_ms(const struct run *r)
{
    return r->executor && r->executor->stop_ms && r->dir ? r->executor->stop_ms(r->dir) : 0;
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
    r->stop_grace_ms = grace_ms + (why == WCORE_STOP_CANCEL ? run_stop_ms(r) : 0);
    say(r, "stop %s %lld\n", r->stop_word, (long long)r->stop_grace_ms);
}

/* Owned by the caller. */
static int64_t *known_children(const struct run_context *x, size_t *ret)
{
    int64_t *known = NULL;

    *ret = 0;
    LIST_EACH(&x->runs, it)
    {
        const struct run *o = CONTAINER_OF(it, struct run, node);

        if (o->has_process && o->process.pid > 0) {
            known = xrealloc(known, (*ret + 1) * sizeof(*known));
            known[(*ret)++] = o->process.pid;
        }
    }
    return known;
}

void run_reap(const struct run_context *x)
{
    size_t n = 0;
    int64_t *known CLEANUP(freep) = known_children(x, &n);

    strays_reap(known, n);
}

/* Whom to look for of this attempt: its shim is dead, or to be killed. */
static struct strays strays_of(const struct run *r)
{
    struct strays s = {
        .token = xasprintf("SJE_TOKEN=%lld", (long long)r->token),
        .cgroup = r->x->cgroup ? xasprintf("%s%s", r->x->cgroup, strrchr(r->dir, '/')) : NULL};

    if (r->shim_pid) {
        s.shim = r->shim_pid;
        s.task = r->task_pid;
        s.seen_at = r->seen_at;
        s.seen_forks = r->seen_forks;
    } else {
        (void)strays_read(r->dir, &s);
    }
    /* Where only its other half was killed, all that we cannot find falls to the keeper. */
    s.shim_clears = !r->orphaned && clock_boot_ms() < r->fenced_at + PLAN_KILL_GIVE_UP_MS;
    return s;
}

static bool has_strays(const struct run *r)
{
    return (r->fenced || r->orphaned) && r->dir && !r->ended && !r->closing;
}

/* Kills what is left of all such attempts, with their shims but for a keeper that clears: a walk of
 * /proc for each would stop the loop for seconds. */
static void kill_strays(struct run_context *x)
{
    int64_t began = clock_boot_ms();
    size_t n_known = 0;
    int64_t *known CLEANUP(freep) = known_children(x, &n_known);
    struct strays *list CLEANUP(freep) = NULL;
    size_t n = 0;

    LIST_EACH(&x->runs, it)
    {
        const struct run *r = CONTAINER_OF(it, struct run, node);

        if (has_strays(r)) {
            list = xrealloc(list, (n + 1) * sizeof(*list));
            list[n] = strays_of(r);
            list[n].known = known;
            list[n++].n_known = n_known;
        }
    }
    strays_kill_all(list, n);
    n = 0;
    LIST_EACH(&x->runs, it)
    {
        struct run *r = CONTAINER_OF(it, struct run, node);

        if (has_strays(r)) {
            r->looked = true;
            r->left = list[n].left;
            free((char *)(uintptr_t)list[n].token);
            free((char *)(uintptr_t)list[n++].cgroup);
        }
    }
    int64_t now = clock_boot_ms();
    x->strays_at = now + WALK_REST * (now - began);
    x->walks++;
}

/* How much was left of it at the last walk, each of which is asked once: the next asks again. */
static int what_is_left(struct run *r)
{
    if (!r->looked && clock_boot_ms() >= r->x->strays_at) {
        kill_strays(r->x);
    }
    int left = r->looked ? r->left : 1;
    r->looked = false;
    return left;
}

void run_kill(struct run *r)
{
    if (r->ended || !r->dir) {
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

/* Not while the last connection is still being closed. True: no shim listens. Else there is one, or
 * nobody knows, or it is connected. */
static bool is_shim_gone(struct run *r)
{
    int fd = -1;
    int rc = shim_connect(r->dir, &fd, NULL);

    if (rc < 0) {
        return rc == ERR_NOT_FOUND;
    }
    run_open_pipe(r);
    if (uv_pipe_open(&r->pipe, fd) != 0) {
        close(fd);
        close_handle(r, &r->has_pipe, (uv_handle_t *)&r->pipe);
    } else if (!run_read_pipe(r)) {
        close_handle(r, &r->has_pipe, (uv_handle_t *)&r->pipe);
    }
    return false;
}

/* Finds out what became of an attempt from its files alone. True: the result is made. */
bool run_settle(struct run *r)
{
    /* First the shim: while it lives, what is written in the directory may be the task's. */
    if (!r->fenced && !is_shim_gone(r)) {
        return false;
    }
    /* One that went without a bye may live where nobody finds its socket. */
    if (!r->cut && take_record(r)) {
        return true;
    }
    if (!r->fenced) {
        r->fenced = shim_fence(r->dir, NULL) == 0;
        r->fenced_at = clock_boot_ms();
        r->looked = false; /* that was before */
        /* Else the next look is for what is left of it. */
        return r->fenced && !r->cut && take_record(r);
    }
    if (what_is_left(r) > 0 || r->has_process) {
        return false; /* until none of it is left, and its exit status is known */
    }
    if (take_record(r)) { /* its keeper wrote that last */
        return true;
    }
    struct exec_exit e = {0};
    if (r->unable && !r->task_pid) {
        shim_exit_unable(&e);
    } else {
        shim_exit_crashed(&e, NULL);
    }
    run_judge(r, &e);
    return true;
}

static void look(struct run *r)
{
    if (run_settle(r)) {
        tell_end(r);
    } else if (!r->has_pipe) {
        run_look_again(r);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct run *r = t->data;

    if (r->ended) {
        return;
    }
    if (r->orphaned && !r->fenced) { /* the other half stands still: it would have ended by now */
        (void)what_is_left(r);
    }
    if (!r->has_pipe) {
        look(r);
    } else if (r->orphaned) {
        run_look_again(r);
    }
}

void run_look_again(struct run *r)
{
    if (!r->has_timer) {
        MUST(uv_timer_init(r->x->loop, &r->timer) == 0);
        r->timer.data = r;
        r->has_timer = true;
        r->open_handles++;
    }
    r->look_ms = r->look_ms ? MIN(2 * r->look_ms, LOOK_MAX_MS) : LOOK_MS;
    MUST(uv_timer_start(&r->timer, on_timer, (uint64_t)r->look_ms, 0) == 0);
}

void run_on_exit(uv_process_t *p, int64_t status, int sig)
{
    struct run *r = p->data;

    r->unable = sig == 0 && status == SHIM_UNABLE;
    r->process.pid = 0; /* reaped: the number is free */
    close_handle(r, &r->has_process, (uv_handle_t *)&r->process);
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
