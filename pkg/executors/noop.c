/* Nothing at all: for measuring, and for trying the way of a task. */
#include "pkg/executors/common.h"

static int noop_prepare(const struct exec_node *node, struct exec_attempt *a,
                        struct exec_plan *plan, struct err *reterr)
{
    (void)node;
    (void)a;
    (void)reterr;
    plan->in_process = true;
    return 0;
}

static void noop_finish(const struct exec_node *node, const struct exec_attempt *a,
                        const struct exec_exit *e, struct exec_result *ret)
{
    (void)node;
    (void)a;
    (void)e;
    *ret = (struct exec_result){.outcome = EXEC_SUCCEEDED};
}

const struct executor executor_noop = {
    .name = JOB_NOOP, .prepare = noop_prepare, .finish = noop_finish};
