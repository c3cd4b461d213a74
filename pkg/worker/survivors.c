#include "pkg/worker/survivors.h"

#include "internal/chaos.h"
#include "pkg/executors/shimdir.h"

#include <stdlib.h>

struct candidate {
    struct wcore_key key;
    struct run *run; /* NULL: nothing to be reported */
    struct run_found found;
    bool ended;
};

struct search {
    const char *tasks_dir;
    struct candidate *list;
    size_t n;
    size_t cap;
};

static void on_found(void *arg, const struct id *task, int32_t attempt)
{
    struct search *s = arg;

    if (run_is_done(s->tasks_dir, task, attempt)) {
        return; /* nearly all are */
    }
    if (s->n == s->cap) {
        s->cap = MAX(s->cap * 2, (size_t)64);
        s->list = xrealloc(s->list, s->cap * sizeof(*s->list));
    }
    s->list[s->n++] = (struct candidate){.key = {.task = *task, .attempt = attempt}};
}

static void adopt(struct wcore *core, int64_t now, struct candidate *c, struct survivors *ret)
{
    size_t *count = c->ended ? &ret->ended : &ret->live;

    if (ret->live + ret->ended == WCORE_ATTEMPTS_MAX) {
        run_release(c->run);
        ret->left++;
        return;
    }
    struct wcore_attempt *a = wcore_adopt(core, now, &c->key, &c->found.need, c->found.token,
                                          c->found.lease_ms, c->ended, c->run);
    if (!a) { /* once each, whatever a task has made there */
        run_release(c->run);
        return;
    }
    run_attach(c->run, a);
    CRASH_POINT("worker-survivors");
    (*count)++;
}

static void count_living(void *arg, const struct id *task, int32_t attempt)
{
    struct search *s = arg;

    s->n += !run_is_done(s->tasks_dir, task, attempt) && run_lives(s->tasks_dir, task, attempt);
}

size_t survivors_running(const char *tasks_dir)
{
    struct search s = {.tasks_dir = tasks_dir};

    return shimdir_list(tasks_dir, count_living, &s, NULL) < 0 ? 0 : s.n;
}

static void disown(void *arg, const struct id *task, int32_t attempt)
{
    const struct search *s = arg;

    run_disown(s->tasks_dir, task, attempt);
}

int survivors_disown(const char *tasks_dir, struct err *reterr)
{
    struct search s = {.tasks_dir = tasks_dir};

    return shimdir_list(tasks_dir, disown, &s, reterr);
}

int survivors_find(struct run_context *x, struct wcore *core, int64_t now, struct survivors *ret,
                   struct err *reterr)
{
    struct search s = {.tasks_dir = x->tasks_dir};
    int rc = shimdir_list(x->tasks_dir, on_found, &s, reterr);

    *ret = (struct survivors){0};
    for (size_t i = 0; rc == 0 && i < s.n; i++) {
        rc = run_find(x, &s.list[i].key, &s.list[i].found, &s.list[i].run, reterr);
    }
    for (size_t i = 0; i < s.n; i++) {
        if (s.list[i].run && rc < 0) {
            run_release(s.list[i].run);
        } else if (s.list[i].run) {
            s.list[i].ended = run_adopt(s.list[i].run);
        }
    }
    for (int ended = 0; rc == 0 && ended <= 1; ended++) {
        for (size_t i = 0; i < s.n; i++) {
            if (s.list[i].run && s.list[i].ended == (ended != 0)) {
                adopt(core, now, &s.list[i], ret);
            }
        }
    }
    free(s.list);
    return rc;
}
