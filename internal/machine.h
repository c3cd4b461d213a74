/* machine.h: what this process may use of the machine: processors by affinity and by its cgroups'
 * quota, memory by the machine's and by its cgroups' limit (both versions of cgroups). Short
 * blocking reads of /proc and /sys. No state. */
#ifndef SJE_MACHINE_H
#define SJE_MACHINE_H

#include <stdint.h>

int machine_cpus(void);          /* at least 1 */
int64_t machine_memory_mb(void); /* MiB, at least 1 */

/* What cgroups below `root` say of the ones that the file `groups` names (as /proc/self/cgroup
 * does), and of all above them; INT64_MAX: no limit. CPUs in thousandths, memory in bytes. */
int64_t machine_cgroup_cpus_milli(const char *root, const char *groups);
int64_t machine_cgroup_memory(const char *root, const char *groups);

#endif
