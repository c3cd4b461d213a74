/* common.h: what every executor that starts a process does alike. */
#ifndef SJE_EXECUTORS_COMMON_H
#define SJE_EXECUTORS_COMMON_H

#include "pkg/executors/executor.h"

/* The environment: what the worker itself has (PATH, HOME, ...; nothing of SJE's own settings,
 * which hold secrets), then SJE_TASK_ID and the like. Later settings win. The plan's user is that
 * of the node. */
void exec_env_begin(struct exec_plan *plan, const struct exec_node *node,
                    const struct exec_attempt *a);
void exec_env_set(struct exec_plan *plan, const char *name, const char *value);
/* What the task will see, so far; NULL: nothing. Valid until more is set. */
const char *exec_env_get(const struct exec_plan *plan, const char *name);
/* Object of strings or NULL; what would take the place of our own is left out. */
void exec_env_add(struct exec_plan *plan, const json_t *obj);

void exec_arg(struct exec_plan *plan, const char *s);
/* A file without which the task cannot be: its own process looks for it. */
void exec_need(struct exec_plan *plan, const char *kind, const char *path);
/* ERR_TOO_LARGE where argv or env went over their limits. */
int exec_plan_check(const struct exec_plan *plan, struct err *reterr) NODISCARD;

/* What a task needs on the node: looked at with the rights of its user (task_user_become()), so
 * what these say is true of the task. An executable file; where n is 0, as it is named. False sets
 * errno. */
bool exec_is_program(const char *dir, size_t n, const char *name);
bool exec_in_path(const char *name); /* the same */
/* It is there, as errno says, but not for the task. `path` may be a name. */
bool exec_is_denied(void);
int exec_cannot_run(const struct exec_node *node, const char *path, struct err *reterr);
/* A program, and where it is a script, what its first line names is there too. ERR_CONFIG. Takes
 * the rights by itself. */
int exec_plugin_able(const struct exec_node *node, const char *path, struct err *reterr) NODISCARD;
/* A record of what its user was not allowed to execute or to look at names it. */
void exec_name_user(const struct exec_node *node, struct exec_exit *e);

/* Judges a process by its exit record: outcome, error and output. `cause` is the root cause where
 * the executor found one; NULL: the last line of stderr, else the exit code, is told. */
void exec_finish_process(const struct exec_attempt *a, const struct exec_exit *e, const char *cause,
                         struct exec_result *ret);

/* With less free below workDir a task may start, but hardly write its log. */
#define EXEC_SPACE_MIN_MB 16
/* Adds to a judgement, of whatever kind of task, what its node knows: what a full disk has cost,
 * and why it was ended that did not end by itself. */
void exec_tell_node(const struct exec_node *n, const struct exec_attempt *a,
                    const struct exec_exit *e, struct exec_result *ret);

extern const struct executor executor_spark;
extern const struct executor executor_command;
extern const struct executor executor_noop;
extern const struct executor executor_plugin; /* for every executable of the plug-in directory */

#endif
