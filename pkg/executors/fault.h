/* fault.h: whose fault it is that a task did not start: its own, or its node's (docs/protocol.md,
 * Result). By the step and the system's error, never by a text. Pure. */
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
/* What the shim recorded; EXEC_FAULT_NONE where the task was started, or stopped before. */
enum exec_fault exec_fault_of_exit(const struct exec_attempt *a, const struct exec_exit *e);

/* Nodes on which something that the task names is looked for, besides the last one. */
#define EXEC_NODES_MAX 8
/* Attempts that may come back for an error of which it is not known whose it is. From the 21st
 * return on a task waits (docs/protocol.md), so that the last of these are a while apart. */
#define EXEC_DOUBTS_MAX 24

#endif
