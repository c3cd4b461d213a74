#include "pkg/worker/errand.h"
#include "pkg/executors/common.h"

#include "internal/str.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the mark ---- */

#define DONE_TEXT "reported\n"

int run_mark(const char *dir, struct err *reterr)
{
    return shimdir_write_file(dir, RUN_DONE_FILE, DONE_TEXT, strlen(DONE_TEXT), reterr);
}

/* As of an earlier version, or made by the task, before its record is written. Where there is no
 * record, whoever asks sees to it that nothing of the attempt lives. */
static bool is_after_record(const char *dir, const struct timespec *mark)
{
    char *record CLEANUP(freep) = xasprintf("%s/" RUN_EXIT_FILE, dir);
    struct stat r = {0};

    return lstat(record, &r) != 0 || mark->tv_sec > r.st_mtim.tv_sec ||
           (mark->tv_sec == r.st_mtim.tv_sec && mark->tv_nsec > r.st_mtim.tv_nsec);
}

bool run_is_marked(const char *dir, int64_t *ret_at)
{
    char *mark CLEANUP(freep) = xasprintf("%s/" RUN_DONE_FILE, dir);
    struct buf b CLEANUP(buf_free) = {0};
    struct stat m = {0};

    buf_init(&b, sizeof(DONE_TEXT));
    if (lstat(mark, &m) != 0 ||
        (m.st_size ? shimdir_read_file(dir, RUN_DONE_FILE, &b, NULL) < 0 ||
                         !str_eq((struct str){b.data, b.len}, STR(DONE_TEXT))
                   : !is_after_record(dir, &m.st_mtim))) {
        return false;
    }
    if (ret_at) {
        *ret_at = (int64_t)m.st_mtim.tv_sec * 1000 + m.st_mtim.tv_nsec / 1000000;
    }
    return true;
}

/* ---- starting ---- */

static int make(struct errand *d, struct exec_plan *plan)
{
    const char *dir = d->exec.dir;
    int rc = shimdir_create(dir, &d->why);

    rc = rc < 0 ? rc : shimdir_give(dir, d->node->user, &d->why);
    /* Not synced: after a crash of the machine there is nothing to come back to. */
    rc =
        rc < 0 ? rc : shimdir_write_file(dir, RUN_GRANT_FILE, d->grant.data, d->grant.len, &d->why);
    rc = rc < 0 ? rc : d->executor->prepare(d->node, &d->exec, plan, &d->why);
    if (rc < 0) {
        return rc;
    }
    d->stop_ms = d->executor->stop_ms ? d->executor->stop_ms(dir) : 0;
    struct shim_limits l = d->limits;
    l.grace_ms += d->stop_ms;
    return shim_plan_write(dir, plan, &l, &d->why);
}

static void start(struct errand *d)
{
    struct exec_plan plan CLEANUP(exec_plan_free);

    exec_plan_init(&plan);
    d->rc = make(d, &plan);
}

/* ---- what became of it ---- */

static void look_at_status(struct errand *d)
{
    d->status = d->executor && d->executor->status ? d->executor->status(&d->exec) : NULL;
}

static void judge(struct errand *d)
{
    d->over = true;
    if (!d->executor) {
        return;
    }
    look_at_status(d);
    d->executor->finish(d->node, &d->exec, &d->exit, &d->result);
    exec_tell_node(d->node, &d->exec, &d->exit, &d->result);
    d->fault = d->result.outcome == EXEC_RETURNED ? exec_fault_of_exit(&d->exec, &d->exit)
                                                  : EXEC_FAULT_NONE;
}

/* A shim that has named the process says bye where that could not become the task. One that did can
 * write a record, and kill its shim. */
static bool is_forged(const struct errand *d)
{
    return d->named && d->cut && streq(d->exit.reason, "launch");
}

/* True where there is an exit record; it is judged then. */
static bool take_record(struct errand *d)
{
    d->rc = shim_exit_read(d->exec.dir, &d->exit, &d->why);
    if (d->rc == ERR_CONFLICT) {
        shim_exit_crashed(&d->exit, d->why.text);
    } else if (d->rc < 0 || is_forged(d)) {
        return false;
    }
    exec_name_user(d->node, &d->exit);
    judge(d);
    return true;
}

static void crashed(struct errand *d)
{
    if (d->unable && !d->named) {
        shim_exit_unable(&d->exit);
    } else {
        shim_exit_crashed(&d->exit, NULL);
    }
    judge(d);
}

/* Each once more where the task has taken away our rights. */
static int connect_shim(struct errand *d)
{
    int rc = shim_connect(d->exec.dir, &d->fd, NULL);

    return rc == ERR_IO && shimdir_take_back(d->exec.dir) ? shim_connect(d->exec.dir, &d->fd, NULL)
                                                          : rc;
}

static bool fence(const char *dir)
{
    int rc = shim_fence(dir, NULL);

    return (rc == ERR_IO && shimdir_take_back(dir) ? shim_fence(dir, NULL) : rc) == 0;
}

static void mark(struct errand *d)
{
    d->rc = run_mark(d->exec.dir, &d->why);
    if (d->rc < 0 && shimdir_take_back(d->exec.dir)) {
        d->rc = run_mark(d->exec.dir, &d->why);
    }
}

/* First the shim: while it lives, what is written in the directory may be the task's. One that went
 * without a bye may live where nobody finds its socket. */
static void settle(struct errand *d)
{
    if (d->fenced) {
        /* Its keeper wrote that last. What cannot be read now is perhaps a success. */
        if (d->cleared && !take_record(d) && d->rc != ERR_IO) {
            crashed(d);
        }
        return;
    }
    if (d->bye && !d->cut && take_record(d)) {
        return;
    }
    if (connect_shim(d) != ERR_NOT_FOUND) {
        return;
    }
    if (!d->cut && take_record(d)) {
        return;
    }
    d->fenced = fence(d->exec.dir);
    (void)strays_read(d->exec.dir, &d->numbers);
    if (d->fenced && !d->cut) {
        (void)take_record(d);
    }
}

/* ---- all of them ---- */

void errand_work(struct errand *d)
{
    switch (d->kind) {
    case ERRAND_NONE:
        break;
    case ERRAND_STATUS:
        look_at_status(d);
        if (!d->named) {
            (void)strays_read(d->exec.dir, &d->numbers);
        }
        break;
    case ERRAND_SETTLE:
        settle(d);
        break;
    case ERRAND_START:
        start(d);
        break;
    case ERRAND_FORGET:
        mark(d);
        break;
    }
}

void errand_done(struct errand *d)
{
    if (d->fd >= 0) {
        close(d->fd);
    }
    buf_free(&d->grant);
    exec_result_free(&d->result);
    json_decref(d->status);
    exec_node_unref(d->node);
    *d = (struct errand){.fd = -1};
}
