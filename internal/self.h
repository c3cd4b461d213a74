/* self.h: what this process sets for itself alone, and keeps from the tasks that it starts.
 *
 * Threads: the widening and raising before there are others; the rest from the loop thread.
 */
#ifndef SJE_SELF_H
#define SJE_SELF_H

#include <stdbool.h>
#include <sys/types.h>

/* More threads for libuv's pool, in a process that has lanes. Before anything uses the pool. */
void self_widen_pool(void);
/* More open files, as far as the hard limit goes. False: that cannot be. */
bool self_raise_open_files(void);

/* Whether "NAME=value" in our environment was set here, not by who started us. */
bool self_has_set(const char *line);
/* Gives a child, which has begun nothing, the limits that we were started with. */
void self_limit_child(pid_t pid);

#endif
