/* A program with arguments, run without a shell; and plug-ins, which are programs that get the task
 * as JSON. */
#include "internal/str.h"
#include "pkg/executors/common.h"
#include "pkg/executors/shimdir.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Whether it is there, the task's own process finds out. */
static void set_cwd(struct exec_plan *plan, const char *cwd)
{
    if (cwd) {
        str_replace_owned(&plan->cwd, cwd);
    }
}

/* Opened for the task before it is another user's; who opens /dev/stdin needs the right too. */
static int set_stdin(struct exec_plan *plan, const struct exec_attempt *a, const char *text,
                     size_t n, struct err *reterr)
{
    int rc = shimdir_write_for(a->dir, "stdin", text, n, plan->user, reterr);

    if (rc == 0) {
        plan->stdin_file = xasprintf("%s/stdin", a->dir);
    }
    return rc;
}

static int command_prepare(const struct exec_node *node, struct exec_attempt *a,
                           struct exec_plan *plan, struct err *reterr)
{
    const struct task_spec *s = a->spec;
    int rc = 0;

    for (size_t i = 0; i < json_array_size(s->command); i++) {
        exec_arg(plan, json_string_value(json_array_get(s->command, i)));
    }
    exec_env_begin(plan, node, a);
    exec_env_add(plan, s->env);
    set_cwd(plan, s->cwd);
    if (s->stdin_text) {
        rc = set_stdin(plan, a, s->stdin_text, strlen(s->stdin_text), reterr);
    }
    return rc < 0 ? rc : exec_plan_check(plan, reterr);
}

static int plugin_prepare(const struct exec_node *node, struct exec_attempt *a,
                          struct exec_plan *plan, struct err *reterr)
{
    const struct task_spec *s = a->spec;
    char *text CLEANUP(freep) = json_text(s->json);

    if (!a->program) {
        return err_set(reterr, ERR_CONFIG, "plug-in %.150s/%s is not there", node->plugin_dir,
                       s->job_type);
    }
    exec_arg(plan, a->program);
    for (size_t i = 0; i < json_array_size(s->args); i++) {
        exec_arg(plan, json_string_value(json_array_get(s->args, i)));
    }
    exec_env_begin(plan, node, a);
    exec_env_add(plan, s->env);
    set_cwd(plan, s->cwd);
    int rc = set_stdin(plan, a, text, strlen(text), reterr);
    return rc < 0 ? rc : exec_plan_check(plan, reterr);
}

static void process_finish(const struct exec_node *node, const struct exec_attempt *a,
                           const struct exec_exit *e, struct exec_result *ret)
{
    (void)node;
    exec_finish_process(a, e, NULL, ret);
}

const struct executor executor_command = {
    .name = JOB_COMMAND, .prepare = command_prepare, .finish = process_finish};
const struct executor executor_plugin = {
    .name = "(plug-in)", .prepare = plugin_prepare, .finish = process_finish};
