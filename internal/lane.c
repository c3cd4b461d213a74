#include "internal/lane.h"

#include "internal/clock.h"

void lane_init(struct lane *l, uv_loop_t *loop)
{
    *l = (struct lane){.loop = loop};
    list_init(&l->waiting);
}

static void on_work(uv_work_t *work)
{
    struct lane_job *j = ((struct lane *)work->data)->under_way;

    j->work(j);
}

static void begin(struct lane *l);

static void on_worked(uv_work_t *work, int status)
{
    struct lane *l = work->data;
    struct lane_job *j = STEAL(l->under_way);

    MUST(status == 0); /* nobody cancels */
    begin(l);
    j->done(j);
}

static void begin(struct lane *l)
{
    struct list_node *n = list_pop(&l->waiting);

    if (n) {
        l->under_way = CONTAINER_OF(n, struct lane_job, node);
        l->since = clock_boot_ms();
        l->work.data = l;
        MUST(uv_queue_work(l->loop, &l->work, on_work, on_worked) == 0);
    }
}

void lane_do(struct lane *l, struct lane_job *j)
{
    list_push(&l->waiting, &j->node);
    if (!l->under_way) {
        begin(l);
    }
}

int64_t lane_busy_ms(const struct lane *l, int64_t now)
{
    return l->under_way ? now - l->since : 0;
}

bool lane_take_back(struct lane *l, struct lane_job *j)
{
    (void)l;
    if (!list_linked(&j->node)) {
        return false;
    }
    list_remove(&j->node);
    return true;
}
