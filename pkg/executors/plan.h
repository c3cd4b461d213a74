/* plan.h: what the worker asks the shim to start. The file format is shared by worker and shim; the
 * shim parses it with libc alone.
 *
 * The file `plan` is a sequence of NUL-terminated records `key=value`. The first is the version,
 * the others come in any order; those marked with + may be repeated, arg and logLimit are required.
 * - version=1
 * - arg=TEXT (+): the command line; its first names the program, looked up in the task's PATH
 * - env=NAME=VALUE (+): the task's whole environment; nothing is inherited
 * - need=KIND:PATH (+): a file of the task's without which it is not started. KIND is `app`, `jar`,
 *   which is looked into, or `dependency`, which may be a directory
 * - user=N: whom it runs as, without any privilege; absent: whoever runs the shim
 * - group=N (+): the first is its primary group, all are the supplementary ones
 * - cwd=DIR: absent, the attempt's directory
 * - stdin=FILE: absent, /dev/null
 * - timeoutMs=N: run time after which the task is stopped with reason `timeout`; 0: none
 * - graceMs=N: between TERM and KILL for each of its processes, after a timeout or a TERM to the
 *   shim
 * - leaseUntil=N: CLOCK_BOOTTIME ms, the first deadline; 0: none
 * - onLease=kill: at the lease's end TERM, and KILL after PLAN_LEASE_GRACE_MS at most;
 * - onLease=detach: KILL at once, so that an application in the cluster does not notice; the same
 *   for the stops `revoked` and `shutdown`
 * - term=held: SIGTERM is blocked when the program begins, so that one that comes early waits until
 *   it can take it
 * - logLimit=N: bytes of each stream that are kept
 * - cgroup=DIR: a delegated cgroup v2 directory in which the shim makes one for the task, with the
 *   name of the attempt's directory
 * - memoryMax=N: bytes, 0: none; needs cgroup
 *
 * A shim whose standard input is a socket takes it as the first control connection, so a worker
 * that has just started it need not wait until `sock` is there.
 */
#ifndef SJE_EXECUTORS_PLAN_H
#define SJE_EXECUTORS_PLAN_H

#define PLAN_VERSION 1

/* Of the control lines and exit.json. A worker that was upgraded finds shims which its predecessor
 * started: it understands all from the oldest on. */
#define SHIM_VERSION        1
#define SHIM_VERSION_OLDEST 1

#define PLAN_SIZE_MAX   (8 * 1024 * 1024)
#define PLAN_MEMBERS    65536 /* arguments, and variables, at most */
#define PLAN_SEGMENTS   8     /* of a log: the first and the last seven are kept */
#define PLAN_SEGMENT    4096  /* bytes in a segment at least */
#define PLAN_LINE_MAX   128   /* of a control line, with its newline */
#define PLAN_RECORD_MAX 4096  /* of exit.json */
#define PLAN_TAIL       4096  /* of each stream, kept of what a full disk did not take */

/* In exit.json of a task that its lease has ended, while no worker was connected. */
#define PLAN_AWAY "its worker's process was away for longer than the lease"

/* Exit status of a shim that has started nothing and could not write that down. */
#define SHIM_UNABLE 3

/* The manager grants a lost attempt anew 5 s after the worker's deadline (docs/protocol.md,
 * Leases). */
#define PLAN_LEASE_GRACE_MS 2000

/* Where only a jump of the wall clock says that a lease is over: so long a new one is waited for.
 */
#define PLAN_LEASE_DOUBT_MS 2000

/* So long a shim kills what even SIGKILL does not end: uninterruptible I/O. */
#define PLAN_KILL_GIVE_UP_MS 30000

/* Made by the shim when the task has begun, so that a later worker process finds what is left where
 * both halves of the shim were killed. A symbolic link, because that is one step; its text is
 * "BOOT-ID BOOT-MS SHIM-PID TASK-PID FORKS": the last is how many processes the machine had begun
 * by then, 0: unknown. */
#define PLAN_STARTED "started"

#endif
