/* cgroup.h: where tasks may have cgroups of their own. */
#ifndef SJE_EXECUTORS_CGROUP_H
#define SJE_EXECUTORS_CGROUP_H

/* The delegated cgroup v2 directory in which shims make one for each task, owned by the caller;
 * NULL where there is none. Under systemd: Delegate=yes gives race-free kills;
 * DelegateSubgroup=worker (systemd 254) in addition memory limits, because controllers can only be
 * passed on by a cgroup without processes. Blocking file I/O; call it once at the start. */
char *cgroup_delegated(void);

#endif
