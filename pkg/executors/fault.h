/* fault.h: whose fault it is that a task did not start: its own, or its node's (docs/protocol.md,
 * Result). One table, by the step and the system's error, never by a text. What the table does not
 * name is the task's. Pure. */
#ifndef SJE_EXECUTORS_FAULT_H
#define SJE_EXECUTORS_FAULT_H

#include "pkg/executors/executor.h"

/* By what the node should not try for a while. */
enum exec_fault {
    EXEC_FAULT_NONE,    /* the task's own: it fails */
    EXEC_FAULT_ATTEMPT, /* the node's, and the next attempt may be well here */
    EXEC_FAULT_TYPE,    /* no task of this type can be started */
    EXEC_FAULT_NODE,    /* no task at all */
};

/* Before the shim: an error of making the directory, prepare(), the plan, starting the shim. */
enum exec_fault exec_fault_of_error(int rc);
/* What the shim recorded; EXEC_FAULT_NONE where the task was started, or stopped before. own_cwd:
 * it was to run in its attempt's directory, and not where the task says. */
enum exec_fault exec_fault_of_exit(const char *job_type, bool own_cwd, const struct exec_exit *e);

#endif
