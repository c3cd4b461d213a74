/* plan.h: what the worker asks the shim to start. The file format is shared by worker and shim; the
 * shim parses it with libc alone.
 *
 * The file `plan` is a sequence of NUL-terminated records `key=value`, in any order:
 *   version=1            must be first
 *   arg=TEXT             one per argument, in order; the first names the program (looked up in
 * PATH) env=NAME=VALUE       added to the environment that the shim inherited, which it first
 * clears cwd=DIR stdin=FILE           absent: /dev/null timeoutMs=N          0: none. Run time
 * after which the task is stopped with reason `timeout` graceMs=N            between TERM and KILL,
 * for timeout and lease leaseUntil=N         CLOCK_BOOTTIME ms: the first deadline logLimit=N bytes
 * per stream memoryMax=N          bytes, 0: none (cgroup v2 where the node allows it)
 *   onLease=kill|detach  what to do at the lease's end
 */
#ifndef SJE_EXECUTORS_PLAN_H
#define SJE_EXECUTORS_PLAN_H

#define PLAN_VERSION 1
#define SHIM_VERSION 1

#endif
