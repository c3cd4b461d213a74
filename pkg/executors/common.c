#include "pkg/executors/common.h"
#include "pkg/executors/fault.h"

#include "internal/json_exact.h"
#include "internal/self.h"
#include "internal/str.h"
#include "pkg/executors/plan.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/taskuser.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define ARGV_MAX      (2u << 20)
#define ENV_MAX       (1u << 20)
#define STDOUT_TAIL   4096
#define STDERR_TAIL   4096
#define OUTPUT_TEXT   30000 /* of what is no JSON; each of its bytes may take six as JSON */
#define MESSAGE_BYTES 1024
#define SPARK_OOM     52 /* org.apache.spark.util.SparkExitCode.OOM */

extern char **environ;

struct exec_node *exec_node_copy(const struct exec_node *n)
{
    struct exec_node *c = xmalloc(sizeof(*c));

    *c = (struct exec_node){.refs = 1,
                            .name = xstrdup(n->name),
                            .spark_home = xstrdup(n->spark_home),
                            .spark_master = xstrdup(n->spark_master),
                            .spark_conf = json_deep_copy(n->spark_conf),
                            .python = xstrdup(n->python),
                            .plugin_dir = xstrdup(n->plugin_dir),
                            .program_dir = xstrdup(n->program_dir),
                            .user = n->user,
                            .log_limit = n->log_limit,
                            .kill_grace_ms = n->kill_grace_ms};
    return c;
}

const struct exec_node *exec_node_ref(const struct exec_node *n)
{
    if (n->refs) {
        ((struct exec_node *)(uintptr_t)n)->refs++;
    }
    return n;
}

void exec_node_unref(const struct exec_node *n)
{
    struct exec_node *own = (struct exec_node *)(uintptr_t)n;

    if (!n || !n->refs || --own->refs) {
        return;
    }
    const char *const strings[] = {n->name,   n->spark_home, n->spark_master,
                                   n->python, n->plugin_dir, n->program_dir};
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        free((char *)(uintptr_t)strings[i]);
    }
    json_decref((json_t *)(uintptr_t)n->spark_conf);
    free(own);
}

void exec_plan_init(struct exec_plan *p)
{
    *p = (struct exec_plan){0};
    buf_init(&p->argv, ARGV_MAX);
    buf_init(&p->env, ENV_MAX);
    buf_init(&p->needs, ARGV_MAX);
}

void exec_plan_free(struct exec_plan *p)
{
    buf_free(&p->argv);
    buf_free(&p->env);
    buf_free(&p->needs);
    free(p->cwd);
    free(p->stdin_file);
    p->cwd = NULL;
    p->stdin_file = NULL;
}

void exec_result_free(struct exec_result *r)
{
    json_decref(r->error);
    json_decref(r->output);
    free(r->exact);
    free(r->warning);
    *r = (struct exec_result){0};
}

void exec_arg(struct exec_plan *plan, const char *s)
{
    buf_add(&plan->argv, s, strlen(s) + 1);
}

void exec_need(struct exec_plan *plan, const char *kind, const char *path)
{
    char *need CLEANUP(freep) = xasprintf("%s:%s", kind, path);

    buf_add(&plan->needs, need, strlen(need) + 1);
}

void exec_env_set(struct exec_plan *plan, const char *name, const char *value)
{
    char *line CLEANUP(freep) = xasprintf("%s=%s", name, value);

    buf_add(&plan->env, line, strlen(line) + 1);
}

const char *exec_env_get(const struct exec_plan *plan, const char *name)
{
    const char *found = NULL;
    size_t n = strlen(name);

    for (size_t at = 0; at < plan->env.len; at += strlen(plan->env.data + at) + 1) {
        const char *line = plan->env.data + at;

        found = strncmp(line, name, n) == 0 && line[n] == '=' ? line + n + 1 : found;
    }
    return found;
}

void exec_env_add(struct exec_plan *plan, const json_t *obj)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        if (strncmp(key, "SJE_", 4) != 0) { /* ours: in tasks that were accepted long ago */
            exec_env_set(plan, key, json_string_value(v));
        }
    }
}

static bool starts_with_any(const char *line, const char *const *prefixes)
{
    for (; *prefixes; prefixes++) {
        if (str_starts(str_of(line), str_of(*prefixes))) {
            return true;
        }
    }
    return false;
}

/* SJE's own settings; and what systemd means for this process alone. */
static bool is_ours(const char *line)
{
    static const char *const prefixes[] = {"SJE_",
                                           "NOTIFY_SOCKET=", "CREDENTIALS_DIRECTORY=", NULL};

    return starts_with_any(line, prefixes) || self_has_set(line);
}

static bool is_of_our_user(const char *line)
{
    static const char *const prefixes[] = {"XDG_", "DBUS_", "MAIL=", "SUDO_", NULL};

    return starts_with_any(line, prefixes);
}

/* Many programs want to write below HOME. */
static void set_user(struct exec_plan *plan, const struct task_user *u, const char *work)
{
    plan->user = u;
    if (u) {
        exec_env_set(plan, "USER", u->name);
        exec_env_set(plan, "LOGNAME", u->name);
        exec_env_set(plan, "HOME", *u->home ? u->home : work);
    }
}

void exec_env_begin(struct exec_plan *plan, const struct exec_node *node,
                    const struct exec_attempt *a)
{
    char task[ID_TEXT_LEN];
    char number[32];
    char *out CLEANUP(freep) = shimdir_out(a->dir);
    char *path CLEANUP(freep) = xasprintf("%s/output", out);
    char *work CLEANUP(freep) = xasprintf("%s/work", a->dir);

    for (char **e = environ; *e; e++) {
        if (!is_ours(*e) && !(node->user && is_of_our_user(*e))) {
            buf_add(&plan->env, *e, strlen(*e) + 1);
        }
    }
    id_format(&a->task, task);
    exec_env_set(plan, "SJE_TASK_ID", task);
    exec_env_set(plan, "SJE_JOB_ID", a->spec->job_id ? a->spec->job_id : "");
    snprintf(number, sizeof(number), "%d", a->attempt);
    exec_env_set(plan, "SJE_ATTEMPT", number);
    snprintf(number, sizeof(number), "%lld", (long long)a->token);
    exec_env_set(plan, "SJE_TOKEN", number);
    exec_env_set(plan, "SJE_OUTPUT", path);
    exec_env_set(plan, "SJE_WORK_DIR", work);
    set_user(plan, node->user, work);
    plan->cwd = xstrdup(work);
}

int exec_plan_check(const struct exec_plan *plan, struct err *reterr)
{
    if (plan->argv.failed || plan->env.failed || plan->needs.failed) {
        return err_set(reterr, ERR_TOO_LARGE, "the %s is over the limit",
                       plan->env.failed ? "environment" : "command line");
    }
    return 0;
}

bool exec_is_program(const char *dir, size_t n, const char *name)
{
    char *path CLEANUP(freep) = xasprintf("%.*s%s%s", (int)n, dir, n ? "/" : "", name);
    struct stat st = {0};

    if (stat(path, &st) != 0) {
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        errno = EACCES; /* as execve() says */
        return false;
    }
    /* access() would ask for the rights of this process, not for those of this thread. */
    return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

bool exec_in_path(const char *name)
{
    struct str path = str_of(getenv("PATH"));
    int error = ENOENT;

    while (path.len) {
        struct str dir = str_cut(path, ':', &path);

        if (dir.len && exec_is_program(dir.p, dir.len, name)) {
            return true;
        }
        error = dir.len && exec_is_denied() ? errno : error;
    }
    errno = error;
    return false;
}

bool exec_is_denied(void)
{
    return errno == EACCES || errno == EPERM;
}

int exec_cannot_run(const struct exec_node *node, const char *path, struct err *reterr)
{
    return err_errno(reterr, ERR_CONFIG, errno, "%.50s cannot run %.150s",
                     node->user ? node->user->name : "this worker", path);
}

void exec_name_user(const struct exec_node *node, struct exec_exit *e)
{
    size_t n = strlen(e->message);

    if (node->user && !e->launched && n && (e->error == EACCES || e->error == EPERM)) {
        snprintf(e->message + n, sizeof(e->message) - n, ", as user %.50s", node->user->name);
    }
}

/* `#!/usr/bin/env NAME` executes whatever is there, and ends with 127 where NAME is not: as if the
 * plug-in itself had failed. */
static int script_able(const struct exec_node *node, const char *path, char *line,
                       struct err *reterr)
{
    line[strcspn(line, "\r\n")] = '\0';
    struct str rest = str_trim(str_of(line + 2));
    struct str program = str_cut(rest, ' ', &rest);
    struct str name = str_cut(str_trim(rest), ' ', &rest);
    if (str_eq(name, STR("-S"))) {
        name = str_cut(str_trim(rest), ' ', &rest);
    }
    char *interpreter CLEANUP(freep) = xstrndup(program.p, program.len);
    char *wanted CLEANUP(freep) = xstrndup(name.p, name.len);
    if (faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) != 0) { /* the interpreter has to */
        return exec_cannot_run(node, path, reterr);
    }
    if (!exec_is_program("", 0, interpreter)) {
        return exec_is_denied()
                   ? exec_cannot_run(node, interpreter, reterr)
                   : err_set(reterr, ERR_CONFIG, "%.150s needs %.100s, which is not on this node",
                             path, interpreter);
    }
    if (str_ends(program, STR("/env")) && *wanted && *wanted != '-' && !strchr(wanted, '=') &&
        !strchr(wanted, '/') && !exec_in_path(wanted)) {
        return exec_is_denied()
                   ? exec_cannot_run(node, wanted, reterr)
                   : err_set(reterr, ERR_CONFIG, "%.150s needs %.100s, which is not in PATH", path,
                             wanted);
    }
    return 0;
}

int exec_plugin_able(const struct exec_node *node, const char *path, struct err *reterr)
{
    char line[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    struct task_user_rights r CLEANUP(task_user_end);

    if (fd >= 0) {
        close(fd);
    }
    line[MAX(n, (ssize_t)0)] = '\0';
    task_user_become(&r, node->user);
    if (!exec_is_program("", 0, path)) {
        return exec_cannot_run(node, path, reterr);
    }
    return strncmp(line, "#!", 2) == 0 ? script_able(node, path, line, reterr) : 0;
}

/* ---- judging ---- */

static json_t *text_json(const char *s)
{
    return json_string_lossy(s, strlen(s));
}

static json_t *error_json(const char *kind, const char *message, const struct exec_exit *e)
{
    bool exited = e->launched && e->exit_code >= 0;

    return json_pack("{s:s, s:o, s:o, s:o}", "kind", kind, "message", text_json(message),
                     "exitCode", exited ? json_integer(e->exit_code) : json_null(), "signal",
                     e->signal > 0 ? json_integer(e->signal) : json_null());
}

/* The work is done; what it wanted to say of it is no JSON, or too long. Its text is kept. */
static json_t *not_taken(int rc, const struct err *why, const struct buf *text)
{
    size_t n = MIN(text->len, (size_t)OUTPUT_TEXT);

    while (n < text->len && n && ((unsigned char)text->data[n] & 0xc0) == 0x80) {
        n--;
    }
    char *warning CLEANUP(freep) =
        rc == ERR_TOO_LARGE ? xasprintf("SJE_OUTPUT is larger than %d bytes", TASK_OUTPUT_MAX)
        : rc == ERR_PARSE   ? xasprintf("SJE_OUTPUT is not JSON: %s", why->text)
                            : xasprintf("SJE_OUTPUT cannot be read: %s", why->text);
    json_t *j = json_pack("{s:o}", "warning", text_json(warning));
    if (n) {
        json_object_set_new(j, "text", json_string_lossy(text->data, n));
    }
    return j;
}

/* The file named in SJE_OUTPUT. false: not there, so stdout speaks. */
static bool own_output(const struct exec_attempt *a, struct exec_result *ret)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct err why = {0};
    json_t *j = NULL;
    bool exact = true;

    buf_init(&b, TASK_OUTPUT_MAX);
    int rc = shimdir_read_out(a->dir, "output", &b, &why);
    if (rc == ERR_NOT_FOUND || (rc == 0 && b.len == 0)) {
        return false;
    }
    rc = rc < 0 ? rc : json_read_exact(b.data, b.len, &j, &exact, &why);
    ret->output = rc < 0 ? not_taken(rc, &why, &b) : j;
    ret->exact = rc < 0 || exact ? NULL : buf_take(&b);
    return true;
}

static void set_output(const struct exec_attempt *a, struct exec_result *ret)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (own_output(a, ret)) {
        return;
    }
    buf_init(&b, STDOUT_TAIL);
    if (shim_log_tail(a->dir, "stdout", STDOUT_TAIL, &b, NULL) == 0 && b.len) {
        ret->output = json_string_lossy(b.data, b.len);
    }
}

/* The last line of stderr that is not empty. */
static void last_line(const struct exec_attempt *a, char text[MESSAGE_BYTES])
{
    struct buf b CLEANUP(buf_free) = {0};

    text[0] = '\0';
    buf_init(&b, STDERR_TAIL);
    if (shim_log_tail(a->dir, "stderr", STDERR_TAIL, &b, NULL) < 0 || b.len == 0) {
        return;
    }
    struct str rest = {b.data, b.len};
    struct str last = {"", 0};
    while (rest.len) {
        struct str line = str_trim(str_cut(rest, '\n', &rest));

        last = line.len ? line : last;
    }
    snprintf(text, MESSAGE_BYTES, "%.*s", (int)MIN(last.len, (size_t)MESSAGE_BYTES - 1), last.p);
}

/* What programs say that got no memory, where the kernel did not kill them for it. */
static bool tells_oom(const char *text)
{
    static const char *const phrases[] = {
        "java.lang.OutOfMemoryError",      /* a JVM */
        "std::bad_alloc",                  /* C++ */
        "Cannot allocate memory",          /* ENOMEM */
        "OOMKilled",                       /* Kubernetes, of a Spark executor or driver */
        "exceeding memory limits",         /* YARN, before Hadoop 2.8 */
        "exceeding physical memory limit", /* YARN, Spark */
        "beyond physical memory limits",   /* YARN */
    };

    for (size_t i = 0; i < ARRAY_LEN(phrases); i++) {
        if (strstr(text, phrases[i])) {
            return true;
        }
    }
    return streq(text, "MemoryError") || str_starts(str_of(text), STR("MemoryError:"));
}

static json_t *failure(const struct exec_attempt *a, const struct exec_exit *e, const char *cause)
{
    char line[MESSAGE_BYTES] = "";
    char plain[160];

    if (!e->launched) {
        return error_json("launch", *e->message ? e->message : "could not be started", e);
    }
    if (e->oom) {
        return error_json("oom", "killed by the kernel: out of memory", e);
    }
    if (e->signal > 0 && !(cause && e->exit_code > 0)) {
        snprintf(plain, sizeof(plain), "killed by signal %d (%s)", e->signal, strsignal(e->signal));
        return error_json("killed", plain, e);
    }
    if (!cause) {
        last_line(a, line);
    }
    snprintf(plain, sizeof(plain), "exit code %d", e->exit_code);
    const char *text = cause ? cause : *line ? line : plain;
    bool oom =
        tells_oom(text) || (e->exit_code == SPARK_OOM && streq(a->spec->job_type, JOB_SPARK));
    return error_json(oom ? "oom" : e->signal > 0 ? "killed" : "exit", text, e);
}

void exec_finish_process(const struct exec_attempt *a, const struct exec_exit *e, const char *cause,
                         struct exec_result *ret)
{
    char text[160];

    *ret = (struct exec_result){.outcome = EXEC_FAILED};
    if (exec_fault_of_exit(a, e) != EXEC_FAULT_NONE) {
        ret->outcome = EXEC_RETURNED;
        ret->error = error_json("node", e->message, e);
    } else if (streq(e->reason, "cancel")) {
        ret->outcome = EXEC_CANCELLED;
        ret->error = error_json("cancelled", "stopped on request", e);
    } else if (streq(e->reason, "lease") || streq(e->reason, "revoked") ||
               streq(e->reason, "shutdown") || streq(e->reason, "crash")) {
        ret->outcome = EXEC_LOST;
        ret->error = error_json("lost", *e->message ? e->message : e->reason, e);
    } else if (streq(e->reason, "timeout")) {
        snprintf(text, sizeof(text), "ran longer than timeoutSeconds (%d) and was stopped",
                 a->spec->timeout_s);
        ret->error = error_json("timeout", text, e);
    } else if (e->launched && e->exit_code == 0 && e->signal == 0) {
        ret->outcome = EXEC_SUCCEEDED;
        set_output(a, ret);
    } else {
        ret->error = failure(a, e, cause);
        own_output(a, ret);
    }
}

/* ---- a full disk ---- */

static bool is_full(int error)
{
    return error == ENOSPC || error == EDQUOT;
}

static char *not_kept(const struct exec_node *n, const struct exec_exit *e)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 512);
    if (e->stdout_dropped) {
        buf_addf(&b, "%lld bytes of stdout", (long long)e->stdout_dropped);
    }
    if (e->stderr_dropped) {
        buf_addf(&b, "%s%lld bytes of stderr", b.len ? " and " : "", (long long)e->stderr_dropped);
    }
    if (b.len) {
        buf_addf(&b, " were not kept: %s", e->log_error ? strerror(e->log_error) : "a full disk");
        if (n->name) {
            buf_addf(&b, ", on node %s", n->name);
        }
    }
    return b.len ? buf_take(&b) : NULL;
}

/* Why a program may have failed that does not say so itself; NULL: there is room. */
static const char *no_room(const char *dir, const struct exec_exit *e)
{
    struct statvfs v = {0};
    uint64_t left = UINT64_MAX; /* MiB */

    if (statvfs(dir, &v) == 0 && v.f_blocks > 0) {
        left = ((uint64_t)v.f_bavail * v.f_frsize) >> 20;
    }
    return is_full(e->log_error) || left == 0 ? "had no space left"
           : left < EXEC_SPACE_MIN_MB         ? "had hardly any space left"
                                              : NULL;
}

static void blame_disk(const struct exec_node *n, const struct exec_attempt *a, const char *what,
                       json_t *error)
{
    const char *message = json_get_string(error, "message");
    const char *end = strrchr(a->dir, '/');
    char *text CLEANUP(freep) =
        xasprintf("%s; its node%s%s %s below %.*s", message ? message : "", n->name ? " " : "",
                  n->name ? n->name : "", what, (int)(end ? end - a->dir : 0), a->dir);

    json_object_set_new(error, "message", text_json(text));
}

static void tell_disk(const struct exec_node *n, const struct exec_attempt *a,
                      const struct exec_exit *e, struct exec_result *ret)
{
    bool failed = ret->outcome == EXEC_FAILED && e->launched && streq(e->reason, "exit");
    const char *what = failed && ret->error ? no_room(a->dir, e) : NULL;

    ret->warning = not_kept(n, e);
    if (what) {
        blame_disk(n, a, what, ret->error);
    }
    if (ret->outcome == EXEC_SUCCEEDED && !ret->output && e->stdout_dropped) {
        ret->output = json_pack("{s:o}", "warning", text_json(ret->warning));
    }
}

/* ---- what was ended ---- */

/* NULL where the record says it. */
static char *why_lost(const struct exec_node *n, const struct exec_attempt *a,
                      const struct exec_exit *e)
{
    char lease[48] = "";
    bool away = streq(e->message, PLAN_AWAY);

    if (*e->message && !away) {
        return NULL;
    }
    if (streq(e->reason, "shutdown")) {
        return xasprintf("worker %s was stopped by SIGINT, which ends its tasks",
                         n->name ? n->name : "");
    }
    if (!streq(e->reason, "lease")) {
        return NULL;
    }
    if (a->lease_ms) {
        snprintf(lease, sizeof(lease), " (%g s)", (double)a->lease_ms / 1000);
    }
    return away ? xasprintf("%s%s; the shim ended the task", PLAN_AWAY, lease)
                : xasprintf("its lease%s was not renewed in time; the task was ended", lease);
}

void exec_tell_node(const struct exec_node *n, const struct exec_attempt *a,
                    const struct exec_exit *e, struct exec_result *ret)
{
    char *why CLEANUP(freep) = ret->outcome == EXEC_LOST && ret->error ? why_lost(n, a, e) : NULL;

    tell_disk(n, a, e, ret);
    if (why) {
        json_object_set_new(ret->error, "message", text_json(why));
    }
}
