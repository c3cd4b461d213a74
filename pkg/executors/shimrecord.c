/* exit.json, written by the shim, but in a directory where a task of our own user can write too. */
#include "internal/str.h"
#include "pkg/executors/plan.h"
#include "pkg/executors/shimdir.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

static const char *const reasons[] = {"exit",     "timeout", "lease",  "cancel",
                                      "shutdown", "revoked", "launch", "crash"};

static bool take_int(const json_t *j, const char *key, int64_t min, int64_t max, int64_t *ret)
{
    const json_t *v = json_object_get(j, key);

    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        return false;
    }
    *ret = json_integer_value(v);
    return true;
}

static bool take_bool(const json_t *j, const char *key, bool *ret)
{
    const json_t *v = json_object_get(j, key);

    *ret = json_is_true(v);
    return json_is_boolean(v);
}

static bool take_text(const json_t *j, const char *key, char *ret, size_t n)
{
    const char *s = json_get_string(j, key);

    if (!s || strlen(s) >= n) {
        return false;
    }
    memcpy(ret, s, strlen(s) + 1);
    return true;
}

static bool take_reason(const json_t *j, struct exec_exit *e)
{
    if (!take_text(j, "reason", e->reason, sizeof(e->reason))) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++) {
        if (streq(e->reason, reasons[i])) {
            return true;
        }
    }
    return false;
}

static bool is_of_another_version(const json_t *j, int64_t *ret)
{
    return take_int(j, "v", 1, INT32_MAX, ret) &&
           (*ret < SHIM_VERSION_OLDEST || *ret > SHIM_VERSION);
}

static int take_errno(const json_t *j, const char *key)
{
    return (int)MIN(MAX(json_get_int(j, key, 0), (int64_t)0), (int64_t)INT32_MAX);
}

static bool take_record(const json_t *j, struct exec_exit *e)
{
    int64_t version = 0;
    int64_t code = 0;
    int64_t sig = 0;

    bool ok = take_int(j, "v", SHIM_VERSION_OLDEST, SHIM_VERSION, &version) &&
              take_bool(j, "launched", &e->launched) && take_bool(j, "oom", &e->oom) &&
              take_int(j, "exitCode", -1, 255, &code) && take_int(j, "signal", 0, 64, &sig) &&
              take_int(j, "startedAtMs", 0, INT64_MAX, &e->started_at) &&
              take_int(j, "finishedAtMs", 0, INT64_MAX, &e->finished_at) &&
              take_int(j, "stdoutBytes", 0, INT64_MAX, &e->stdout_bytes) &&
              take_int(j, "stderrBytes", 0, INT64_MAX, &e->stderr_bytes) &&
              take_int(j, "droppedBytes", 0, INT64_MAX, &e->dropped_bytes) &&
              take_int(j, "maxRssKb", 0, INT64_MAX, &e->max_rss_kb) &&
              take_int(j, "cpuMs", 0, INT64_MAX, &e->cpu_ms) && take_reason(j, e) &&
              take_text(j, "message", e->message, sizeof(e->message));
    e->exit_code = (int)code;
    e->signal = (int)sig;
    /* Not in records of earlier versions. */
    e->error = take_errno(j, "errno");
    e->log_error = take_errno(j, "logErrno");
    e->stdout_dropped = MAX(json_get_int(j, "stdoutDropped", 0), (int64_t)0);
    e->stderr_dropped = MAX(json_get_int(j, "stderrDropped", 0), (int64_t)0);
    if (!take_text(j, "stage", e->stage, sizeof(e->stage))) {
        e->stage[0] = '\0';
    }
    return ok;
}

int shim_exit_parse(const char *p, size_t n, struct exec_exit *ret, struct err *reterr)
{
    json_auto_t *j = NULL;
    char *clean CLEANUP(freep) = NULL;
    struct exec_exit e = {0};
    int64_t version = 0;

    if (n > PLAN_RECORD_MAX) {
        return err_set(reterr, ERR_PARSE, "exit.json is larger than %d bytes", PLAN_RECORD_MAX);
    }
    clean = xmemdup(p, n);
    if (!str_is_utf8(clean, n)) { /* a message names a file as the task called it */
        for (size_t i = 0; i < n; i++) {
            clean[i] = (unsigned char)clean[i] < 0x80 ? clean[i] : '?';
        }
    }
    int rc = json_read(clean, n, &j, reterr);
    if (rc < 0) {
        return ERR_PARSE;
    }
    if (is_of_another_version(j, &version)) {
        return err_set(reterr, ERR_CONFLICT,
                       "exit.json is of version %lld, this worker understands %d to %d",
                       (long long)version, SHIM_VERSION_OLDEST, SHIM_VERSION);
    }
    if (!json_is_object(j) || !take_record(j, &e)) {
        return err_set(reterr, ERR_PARSE, "exit.json is not a record that is understood");
    }
    *ret = e;
    return 0;
}

/* What cannot be read may be the task's, and stay so: no file, or one whose rights or whose
 * directory's were taken away. Of a record that a shim has written we are the owner. */
static int why_unread(const char *dir, int rc)
{
    char *path CLEANUP(freep) = xasprintf("%s/exit.json", dir);
    struct stat st;

    if (rc != ERR_IO) {
        return rc == ERR_NOT_FOUND ? rc : ERR_PARSE;
    }
    if (lstat(path, &st) != 0) {
        bool tasks = errno == EACCES || errno == ENOTDIR || errno == ELOOP;
        return errno == ENOENT ? ERR_NOT_FOUND : tasks ? ERR_PARSE : ERR_IO;
    }
    return S_ISREG(st.st_mode) && (st.st_mode & S_IRUSR) ? ERR_IO : ERR_PARSE;
}

int shim_exit_read(const char *dir, struct exec_exit *ret, struct err *reterr)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, PLAN_RECORD_MAX);
    int rc = shimdir_read_file(dir, "exit.json", &b, reterr);
    if (rc == 0) {
        return shim_exit_parse(b.data ? b.data : "", b.len, ret, reterr);
    }
    rc = why_unread(dir, rc);
    if (reterr) {
        reterr->code = rc;
    }
    return rc;
}

void shim_exit_crashed(struct exec_exit *ret, const char *why)
{
    *ret = (struct exec_exit){.launched = true, .exit_code = -1, .reason = "crash"};
    snprintf(ret->message, sizeof(ret->message), "%s",
             why ? why : "its shim was killed or the machine restarted");
}

void shim_exit_unable(struct exec_exit *ret)
{
    *ret = (struct exec_exit){.exit_code = -1,
                              .reason = "launch",
                              .stage = "setup",
                              .message = "the shim could neither begin nor write down why"};
}
