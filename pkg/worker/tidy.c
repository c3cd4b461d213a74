#include "pkg/worker/tidy.h"

#include "internal/clock.h"
#include "internal/log.h"
#include "pkg/executors/shimdir.h"
#include "pkg/worker/run.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

struct tidy {
    uv_loop_t *loop;
    uv_timer_t timer;
    uv_work_t work;
    bool working;
    bool closing;
    char *tasks_dir;
    int64_t keep_ms;
    int64_t work_keep_ms; /* as it was when the work began */
    uint64_t work_ms;     /* how long it took */
    struct tidy_report report;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* ---- in the pool ---- */

struct old {
    struct id task;
    int32_t attempt;
    int64_t done_at; /* wall ms */
};

struct search {
    const char *tasks_dir;
    struct old *list;
    size_t n;
    size_t cap;
};

/* A mark without a record: its task may have made it. */
static bool lives_unrecorded(const char *dir)
{
    char *record CLEANUP(freep) = xasprintf("%s/" RUN_EXIT_FILE, dir);
    struct stat st = {0};

    return lstat(record, &st) != 0 && shim_fence(dir, NULL) == ERR_BUSY;
}

static void on_found(void *arg, const struct id *task, int32_t attempt)
{
    struct search *s = arg;
    char *dir CLEANUP(freep) = shimdir_path(s->tasks_dir, task, attempt);
    int64_t at = 0;

    if (!run_is_marked(dir, &at) || lives_unrecorded(dir)) {
        return;
    }
    if (s->n == s->cap) {
        s->cap = MAX(s->cap * 2, (size_t)64);
        s->list = xrealloc(s->list, s->cap * sizeof(*s->list));
    }
    s->list[s->n++] = (struct old){*task, attempt, at};
}

static int by_age(const void *x, const void *y)
{
    const struct old *a = x;
    const struct old *b = y;

    return a->done_at < b->done_at ? -1 : a->done_at > b->done_at;
}

static bool is_short_of_space(const char *dir)
{
    struct statvfs v = {0};

    if (statvfs(dir, &v) != 0) {
        return false;
    }
    if (v.f_files && v.f_favail < v.f_files / 100 * TIDY_FREE_PERCENT) {
        return true;
    }
    uint64_t wanted = (uint64_t)v.f_blocks * v.f_frsize / 100 * TIDY_FREE_PERCENT;
    wanted = MAX(MIN(wanted, TIDY_FREE_MAX), TIDY_FREE_MIN);
    return (uint64_t)v.f_bavail * v.f_frsize < wanted;
}

void tidy_once(const char *tasks_dir, int64_t now, int64_t keep_ms, struct tidy_report *ret)
{
    struct search s = {.tasks_dir = tasks_dir};
    struct err e = {0};

    *ret = (struct tidy_report){0};
    if (shimdir_list(tasks_dir, on_found, &s, &e) < 0) {
        snprintf(ret->error, sizeof(ret->error), "%.150s", e.text);
    }
    if (s.n) {
        qsort(s.list, s.n, sizeof(*s.list), by_age);
    }
    for (size_t i = 0; i < s.n; i++) {
        char *dir CLEANUP(freep) = shimdir_path(tasks_dir, &s.list[i].task, s.list[i].attempt);

        ret->short_of_space = is_short_of_space(tasks_dir);
        if (now - s.list[i].done_at < keep_ms && !ret->short_of_space) {
            break;
        }
        if (ret->removed == TIDY_REMOVE_MAX) {
            ret->left = s.n - i;
            break;
        }
        if (shimdir_remove(dir, &e) < 0) {
            snprintf(ret->error, sizeof(ret->error), "%.150s", e.text);
        } else {
            ret->removed++;
        }
    }
    free(s.list);
}

static void on_work(uv_work_t *work)
{
    struct tidy *t = work->data;

    uint64_t start = uv_hrtime();
    tidy_once(t->tasks_dir, clock_wall_ms(), t->work_keep_ms, &t->report);
    t->work_ms = (uv_hrtime() - start) / 1000000;
}

/* ---- on the loop ---- */

static void on_timer(uv_timer_t *timer);

static void on_timer_closed(uv_handle_t *h)
{
    struct tidy *t = h->data;
    void (*on_closed)(void *arg) = t->on_closed;
    void *arg = t->closed_arg;

    free(t->tasks_dir);
    free(t);
    on_closed(arg);
}

static void schedule(struct tidy *t, uint64_t ms)
{
    MUST(uv_timer_start(&t->timer, on_timer, ms, 0) == 0);
}

static void on_worked(uv_work_t *work, int status)
{
    struct tidy *t = work->data;
    const struct tidy_report *r = &t->report;

    (void)status;
    t->working = false;
    if (r->error[0]) {
        log_warn(NULL, "removing old attempts: %s; trying again in a minute", r->error);
    }
    if (r->removed) {
        log_info(NULL, "removed the directories of %zu finished attempts%s", r->removed,
                 r->short_of_space ? ": the disk is nearly full" : "");
    }
    if (t->closing) {
        uv_close((uv_handle_t *)&t->timer, on_timer_closed);
    } else {
        /* With very many directories looking at them must not become all that the disk does. */
        schedule(t, MAX(r->left && r->removed ? TIDY_AGAIN_MS : TIDY_EVERY_MS,
                        t->work_ms * TIDY_PAUSE_FACTOR));
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct tidy *t = timer->data;

    t->working = true;
    t->work_keep_ms = t->keep_ms;
    MUST(uv_queue_work(t->loop, &t->work, on_work, on_worked) == 0);
}

struct tidy *tidy_open(uv_loop_t *loop, const char *tasks_dir, int64_t keep_ms)
{
    struct tidy *t = xcalloc(1, sizeof(*t));

    t->loop = loop;
    t->tasks_dir = xstrdup(tasks_dir);
    t->keep_ms = keep_ms;
    t->work.data = t;
    MUST(uv_timer_init(loop, &t->timer) == 0);
    t->timer.data = t;
    schedule(t, TIDY_EVERY_MS);
    return t;
}

void tidy_configure(struct tidy *t, int64_t keep_ms)
{
    t->keep_ms = keep_ms;
}

void tidy_close(struct tidy *t, void (*on_closed)(void *arg), void *arg)
{
    t->closing = true;
    t->on_closed = on_closed;
    t->closed_arg = arg;
    if (!t->working) {
        uv_close((uv_handle_t *)&t->timer, on_timer_closed);
    }
}
