#include "internal/chaos.h"
#include "internal/clock.h"
#include "internal/log.h"
#include "internal/self.h"
#include "internal/str.h"
#include "pkg/executors/common.h"
#include "pkg/executors/shimdir.h"
#include "pkg/worker/run_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MEGABYTE  (1024 * 1024)
#define LOOK_FILE ".look"

#define SPARE_AFTER_MS 10   /* the task that took the last one is started first */
#define SPARE_RETRY_MS 1000 /* after one that could not be started, or has ended by itself */

/* ---- starting ---- */

/* Makes its result. */
static void fail_start(struct run *r, const struct err *e)
{
    enum exec_fault f = exec_fault_of_error(e->code);

    if (f == EXEC_FAULT_NONE) {
        run_set_verdict(r, EXEC_FAILED, "launch", e->text);
    } else {
        run_set_fault(r, f, e->text);
        run_set_verdict(r, EXEC_RETURNED, "node", e->text);
    }
}

static int read_spec(struct run *r, json_t *spec, const struct task_types *types,
                     struct err *reterr)
{
    struct task_problems problems = {0};

    r->spec = task_spec_parse_accepted(spec, types, &problems);
    if (!r->spec) {
        return err_set(reterr, ERR_INVALID, "%s %s", problems.list[0].field,
                       problems.list[0].message);
    }
    r->exec.spec = r->spec;
    return 0;
}

static int read_new_spec(struct run *r, json_t *spec, struct err *reterr)
{
    int rc = read_spec(r, spec, r->x->types, reterr);

    if (rc < 0) {
        return rc;
    }
    r->executor = executor_find(r->spec->job_type);
    r->exec.program = r->program = xstrdup(executor_plugin_path(r->spec->job_type));
    return r->executor ? 0
                       : err_set(reterr, ERR_NOT_FOUND, "this node has no executor for jobType %s",
                                 r->spec->job_type);
}

static int write_grant(struct errand *d, const struct wcore_attempt *a, int64_t began_at,
                       const json_t *spec, struct err *reterr)
{
    buf_init(&d->grant, RUN_GRANT_MAX);
    buf_addf(&d->grant,
             "{\"v\":1,\"token\":\"%lld\",\"leaseMs\":%lld,\"beganMs\":%lld,\"slots\":%d,"
             "\"cpusMilli\":%d,\"memoryMb\":%d,\"spec\":",
             (long long)a->token, (long long)a->lease_ms, (long long)began_at, a->need.slots,
             a->need.cpus_milli, a->need.memory_mb);
    json_write(spec, &d->grant);
    buf_adds(&d->grant, "}\n");
    return d->grant.failed ? err_set(reterr, ERR_TOO_LARGE, "the specification is over the limit")
                           : 0;
}

static struct shim_limits limits_of(const struct run *r, int64_t lease_until)
{
    const struct run_context *x = r->x;
    bool spark = streq(r->spec->job_type, JOB_SPARK);

    return (struct shim_limits){
        .timeout_ms = (int64_t)r->spec->timeout_s * 1000,
        .grace_ms = x->node->kill_grace_ms,
        .lease_until = lease_until,
        .log_limit = x->node->log_limit,
        /* Spark is told by its own settings, and needs some more than these. */
        .memory_max = spark ? 0 : (int64_t)r->spec->memory_mb * MEGABYTE,
        .cgroup = x->cgroup};
}

static int spawn_shim(struct run *r, char **args, struct err *reterr)
{
    char *env[] = {NULL}; /* the plan has the task's; ours holds secrets */
    uv_stdio_container_t io[3] = {{.flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE},
                                  {.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO}};
    uv_process_options_t o = {.file = r->x->shim_path,
                              .args = args,
                              .env = env,
                              .exit_cb = run_on_exit,
                              .stdio = io,
                              .stdio_count = 3,
                              .flags = UV_PROCESS_DETACHED};

    run_open_pipe(r);
    io[0].data.stream = (uv_stream_t *)&r->pipe;
    strays_before_child();
    int rc = uv_spawn(r->x->loop, &r->process, &o);
    strays_after_child(rc == 0 ? r->process.pid : 0);
    if (rc == 0) {
        self_limit_child(r->process.pid);
    }
    r->process.data = r;
    r->has_process = true;
    r->open_handles++;
    if (rc == 0 && run_read_pipe(r)) {
        return 0;
    }
    return err_set(reterr, ERR_IO, "cannot start %.150s: %s", r->x->shim_path,
                   uv_strerror(rc ? rc : UV_EIO));
}

/* ---- a shim that waits for its task ---- */

/* What the process list shows, as long as any attempt's directory, which takes its place. */
static char *idle_title(const char *tasks_dir)
{
    static const struct id any = {0};
    char *path CLEANUP(freep) = shimdir_path(tasks_dir, &any, INT32_MAX);

    return xasprintf("%-*s", (int)strlen(path), "(no task yet)");
}

/* So that all that it gets from us is settled before it begins anything. */
static int spawn_waiting(struct run *r, struct err *reterr)
{
    char *name CLEANUP(freep) = xstrdup(r->x->shim_path);
    char *title CLEANUP(freep) = idle_title(r->x->tasks_dir);
    char wait[] = "--wait";
    char *args[] = {name, wait, title, NULL};

    return spawn_shim(r, args, reterr);
}

void run_keep_spare(struct run_context *x, int64_t now)
{
    static const struct wcore_key nobody = {0};
    struct run *r = run_new(x, &nobody, 0);
    struct err e = {0};

    x->spare_at = now + SPARE_RETRY_MS;
    if (spawn_waiting(r, &e) < 0) {
        log_debug(NULL, "no shim is started in advance: %s", e.text);
        run_release(r);
        return;
    }
    x->spare = r;
}

static struct run *take_spare(struct run_context *x, const struct wcore_attempt *a)
{
    struct run *r = STEAL(x->spare);

    x->spare_at = clock_boot_ms() + SPARE_AFTER_MS;
    run_name(r, &a->key, a->token);
    r->was_spare = true;
    return r;
}

/* A spare that has gone before it was told has begun nothing. Else the end of its connection says
 * so, or its exit status. */
static int tell_shim(struct run *r, struct err *reterr)
{
    uv_os_fd_t fd = -1;
    ssize_t len = (ssize_t)strlen(r->dir) + 1;
    bool told = r->has_pipe && uv_fileno((uv_handle_t *)&r->pipe, &fd) == 0 &&
                send(fd, r->dir, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) == len;

    return told || !r->was_spare
               ? 0
               : err_set(reterr, ERR_BUSY, "the shim that was started in advance is gone");
}

/* What its shim needs is made; run_begun() follows. */
static int begin(struct run *r, const struct wcore_attempt *a, const json_t *spec,
                 struct err *reterr)
{
    int rc = write_grant(&r->errand, a, r->began_at, spec, reterr);

    if (rc < 0) {
        buf_free(&r->errand.grant);
        return rc;
    }
    r->exec.dir = r->dir = shimdir_path(r->x->tasks_dir, &r->key.task, r->key.attempt);
    r->errand.limits = limits_of(r, a->deadline);
    run_ask(r, ERRAND_START);
    return 0;
}

/* What the plan says is over, though the lease may have been renewed since. Where that has lost
 * time (wcore_on_gained()) the shim learns it after its hello: it did not see the clocks before. */
static int check_lease(struct run *r, struct err *reterr)
{
    int64_t until = r->errand.limits.lease_until;

    if (r->attempt && r->attempt->deadline < until) {
        r->lease_until = until = r->attempt->deadline;
    }
    return clock_boot_ms() < until
               ? 0
               : err_set(reterr, ERR_TIMEOUT, "the disk of %.150s took longer than the lease",
                         r->errand.exec.dir);
}

static int start_shim(struct run *r, struct err *reterr)
{
    const struct errand *d = &r->errand;

    if (d->rc < 0) {
        *reterr = d->why;
        return d->rc;
    }
    int rc = check_lease(r, reterr);
    rc = rc < 0 || r->was_spare ? rc : spawn_waiting(r, reterr);
    return rc < 0 ? rc : tell_shim(r, reterr);
}

void run_begun(struct run *r)
{
    struct err e = {0};

    if (r->given_up) {
        return;
    }
    r->stop_ms = r->errand.stop_ms;
    if (r->attempt) {
        r->attempt->patience_ms = r->stop_ms;
    }
    if (start_shim(r, &e) < 0) {
        fail_start(r, &e);
        run_tell_end(r);
        return;
    }
    CRASH_POINT("worker-started");
}

static void succeed(struct run *r)
{
    int64_t now = clock_wall_ms();
    struct exec_exit e = {
        .launched = true, .reason = "exit", .started_at = now, .finished_at = now};
    struct exec_result res = {0};

    r->executor->finish(r->x->node, &r->exec, &e, &res);
    run_judge(r, &res, &e);
    r->ended = true;
}

static bool needs_shim(const json_t *spec)
{
    const char *type = json_get_string(spec, "jobType");
    const struct executor *x = type ? executor_find(type) : NULL;

    return x && x->prepare;
}

enum wcore_started run_start(struct run_context *x, struct wcore_attempt *a,
                             const struct run_grant *g, struct wcore_fault *ret)
{
    struct run *r =
        x->spare && needs_shim(g->spec) ? take_spare(x, a) : run_new(x, &a->key, a->token);
    struct err e = {0};

    a->user = r;
    r->attempt = a;
    r->began_at = clock_boot_ms();
    r->exec.losses = g->losses;
    r->exec.lease_ms = a->lease_ms;
    r->exec.returns = g->returns;
    r->exec.elsewhere = g->elsewhere;
    int rc = read_new_spec(r, g->spec, &e);
    if (rc == 0 && !r->executor->prepare) { /* thousands a second */
        succeed(r);
        return WCORE_START_ENDED;
    }
    rc = rc < 0 ? rc : begin(r, a, g->spec, &e);
    if (rc == 0) {
        return WCORE_START_UNDER_WAY;
    }
    fail_start(r, &e);
    r->ended = true;
    run_close_handles(r);
    if (run_fault(r)) {
        *ret = r->fault;
        return WCORE_START_FAULT;
    }
    return WCORE_START_ENDED;
}

void run_conclude(struct run_context *x, struct wcore_attempt *a, enum wcore_verdict v,
                  const char *why)
{
    struct run *r = run_new(x, &a->key, a->token);

    a->user = r;
    r->attempt = a;
    r->ended = true;
    if (v == WCORE_CANCELLED) {
        run_set_verdict(r, EXEC_CANCELLED, "cancelled", why);
    } else if (v == WCORE_RETURNED) {
        run_set_verdict(r, EXEC_RETURNED, "node", why);
    } else {
        run_set_verdict(r, EXEC_LOST, "lost", why);
    }
}

/* ---- looking at the node ---- */

/* Also a file system that has become read-only, and a quota. */
static int try_to_write(const char *dir, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/" LOOK_FILE, dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool good = fd >= 0 && write(fd, "", 1) == 1;
    int error = errno;

    if (fd >= 0) {
        good = close(fd) == 0 && good;
        unlink(path);
    }
    return good ? 0 : err_errno(reterr, ERR_IO, error, "cannot write below %.150s", dir);
}

static int node_able(const struct run_context *x, struct err *reterr)
{
    struct statvfs v = {0};

    if (access(x->shim_path, X_OK) != 0) {
        return err_errno(reterr, ERR_IO, errno, "cannot start %.150s", x->shim_path);
    }
    if (statvfs(x->tasks_dir, &v) != 0) {
        return err_errno(reterr, ERR_IO, errno, "cannot write below %.150s", x->tasks_dir);
    }
    if ((uint64_t)v.f_bavail * v.f_frsize < (uint64_t)EXEC_SPACE_MIN_MB * MEGABYTE) {
        return err_errno(reterr, ERR_IO, ENOSPC, "less than %d MiB are free below %.150s",
                         EXEC_SPACE_MIN_MB, x->tasks_dir);
    }
    if (v.f_files && v.f_favail == 0) {
        return err_errno(reterr, ERR_IO, ENOSPC, "cannot write below %.150s", x->tasks_dir);
    }
    return try_to_write(x->tasks_dir, reterr);
}

int run_able(const struct run_context *x, const char *type, const char *program, struct err *reterr)
{
    return type ? executor_look(x->node, type, program, reterr) : node_able(x, reterr);
}

struct lane *run_starter(struct run_context *x, const struct executor *executor)
{
    size_t i = 0;

    while (i < RUN_STARTERS && x->starters[i].executor && x->starters[i].executor != executor) {
        i++;
    }
    MUST(i < RUN_STARTERS);
    if (!x->starters[i].executor) {
        x->starters[i].executor = executor;
        lane_init(&x->starters[i].lane, x->loop);
    }
    return &x->starters[i].lane;
}

const char *run_hangs(const struct run_context *x, const char *type, int64_t now)
{
    const struct executor *executor = type ? executor_find(type) : NULL;

    if (!type && lane_busy_ms(&x->disk, now) >= RUN_LATE_MS) {
        return "what is asked of the work directory does not end: a file system hangs";
    }
    if (!type && lane_busy_ms(&x->proc, now) >= RUN_LATE_MS) {
        return "a look at the processes of this machine does not end: a file system hangs";
    }
    for (size_t i = 0; executor && i < RUN_STARTERS; i++) {
        if (x->starters[i].executor == executor &&
            lane_busy_ms(&x->starters[i].lane, now) >= RUN_LATE_MS) {
            return "a start of such a task does not end: a file system hangs";
        }
    }
    return NULL;
}

/* ---- survivors ---- */

static bool parse_grant(const json_t *j, struct run_found *ret)
{
    *ret = (struct run_found){.need = {.slots = (int32_t)json_get_int(j, "slots", 0),
                                       .cpus_milli = (int32_t)json_get_int(j, "cpusMilli", 0),
                                       .memory_mb = (int32_t)json_get_int(j, "memoryMb", 0)},
                              .lease_ms = json_get_int(j, "leaseMs", 0),
                              .began_at = json_get_int(j, "beganMs", 0)};
    return ret->need.slots >= 1 && ret->need.cpus_milli >= 0 && ret->need.memory_mb >= 0 &&
           ret->lease_ms >= 1 && ret->lease_ms <= WCORE_LEASE_MAX_MS &&
           json_is_object(json_object_get(j, "spec")) &&
           str_to_i64(str_of(json_get_string(j, "token")), INT64_MIN, INT64_MAX, &ret->token);
}

/* The task's permissions do not matter where all is ours. */
static void let_us_read(const char *dir, const char *grant)
{
    struct stat st = {0};

    (void)shimdir_take_back(dir);
    if (lstat(grant, &st) == 0 && S_ISREG(st.st_mode) && !(st.st_mode & S_IRUSR)) {
        (void)!chmod(grant, 0600);
    }
}

/* As run_has_grant(); *ret_doc is owned by the caller. */
static int read_grant(const char *dir, struct run_found *ret, json_t **ret_doc, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/" RUN_GRANT_FILE, dir);
    struct buf b CLEANUP(buf_free);
    struct stat st = {0};
    json_t *j = NULL;

    buf_init(&b, RUN_GRANT_MAX);
    let_us_read(dir, path);
    int rc = shimdir_read_file(dir, RUN_GRANT_FILE, &b, reterr);
    if (rc == 0 && json_read(b.data ? b.data : "", b.len, &j, NULL) == 0 && parse_grant(j, ret)) {
        *ret_doc = j;
        return 0;
    }
    json_decref(j);
    if (rc == 0 || rc == ERR_TOO_LARGE) {
        return err_set(reterr, ERR_PARSE, "%.150s is not a grant", path);
    }
    if (lstat(path, &st) == 0) {
        return S_ISREG(st.st_mode) ? rc : ERR_PARSE;
    }
    return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? ERR_NOT_FOUND : rc;
}

int run_has_grant(const char *dir)
{
    struct run_found found;
    json_auto_t *grant = NULL;

    return read_grant(dir, &found, &grant, NULL);
}

/* ERR_NOT_FOUND: nothing runs, or will, that has to be told. Whoever left out another one would
 * disown what may run. */
static int find_grant(const struct run *r, struct run_found *ret, json_t **ret_doc,
                      struct err *reterr)
{
    int rc = read_grant(r->dir, ret, ret_doc, reterr);

    if (rc != ERR_NOT_FOUND && rc != ERR_PARSE) {
        return rc;
    }
    struct err e = {0};
    int fenced = shim_fence(r->dir, &e);
    if (fenced == ERR_BUSY || (fenced < 0 && rc == ERR_PARSE)) {
        return err_set(reterr, fenced, "%s", e.text);
    }
    return err_set(reterr, ERR_NOT_FOUND, "%.150s holds no grant", r->dir);
}

/* Whatever its type: its plug-in may be gone, or not be there yet. */
static void read_old_spec(struct run *r, json_t *spec)
{
    const char *const names[] = {json_get_string(spec, "jobType"), NULL};
    struct err e = {0};

    if (read_spec(r, spec, &(struct task_types){names}, &e) < 0) {
        log_warn(NULL, "%s: %s; it goes on, but its result cannot be judged", r->dir, e.text);
        return;
    }
    r->executor = executor_find_past(r->spec->job_type);
    r->stop_ms = r->executor && r->executor->stop_ms ? r->executor->stop_ms(r->dir) : 0;
}

bool run_is_done(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    char *dir CLEANUP(freep) = shimdir_path(tasks_dir, task, attempt);

    return run_is_marked(dir, NULL);
}

bool run_lives(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    char *dir CLEANUP(freep) = shimdir_path(tasks_dir, task, attempt);
    int fd = -1;
    bool lives = shim_connect(dir, &fd, NULL) == 0;

    if (lives) {
        close(fd);
    }
    return lives;
}

void run_disown(const char *tasks_dir, const struct id *task, int32_t attempt)
{
    char *dir CLEANUP(freep) = shimdir_path(tasks_dir, task, attempt);
    struct err e = {0};

    if (run_mark(dir, &e) < 0) {
        log_warn(NULL, "%s", e.text);
    }
}

int run_find(struct run_context *x, const struct wcore_key *k, struct run_found *ret,
             struct run **ret_run, struct err *reterr)
{
    struct run *r = run_new(x, k, 0);
    json_auto_t *grant = NULL;
    struct err e = {0};

    *ret_run = NULL;
    r->dir = shimdir_path(x->tasks_dir, &k->task, k->attempt);
    r->exec.dir = r->dir;
    int rc = find_grant(r, ret, &grant, &e);
    if (rc == ERR_NOT_FOUND) {
        log_warn(NULL, "%s; ignoring it", e.text);
        run_disown(x->tasks_dir, &k->task, k->attempt);
        run_release(r);
        return 0;
    }
    if (rc == ERR_BUSY && x->is_new) {
        log_warn(NULL, "%s: it was left by an earlier worker, and ends with its lease", e.text);
        run_release(r);
        return 0;
    }
    if (rc < 0) {
        run_release(r);
        return err_set(reterr, rc,
                       "what may run here is not known: %.300s. Let this user read it, or remove "
                       "the attempt's directory once no process of it is left",
                       e.text);
    }
    r->token = r->exec.token = ret->token;
    r->exec.lease_ms = ret->lease_ms;
    r->began_at = ret->began_at;
    read_old_spec(r, json_object_get(grant, "spec"));
    *ret_run = r;
    return 0;
}

bool run_adopt(struct run *r)
{
    run_fill(r, ERRAND_SETTLE);
    errand_work(&r->errand);
    if (r->errand.numbers.shim) {
        r->found = r->errand.numbers;
    }
    r->ended = run_settled(r);
    errand_done(&r->errand);
    if (r->ended) {
        run_close_handles(r);
    } else if (!r->has_pipe) {
        run_look_again(r);
    }
    return r->ended;
}

void run_attach(struct run *r, struct wcore_attempt *a)
{
    r->attempt = a;
    a->user = r;
    a->patience_ms = r->stop_ms;
}
