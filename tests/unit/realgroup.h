/* realgroup.h: a cgroup v2 for a test, where it may make one: as root, whatever systemd thinks. */
#ifndef SJE_TESTS_REALGROUP_H
#define SJE_TESTS_REALGROUP_H

#include "internal/base.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CGROUP_MAGIC 0x63677270

/* Its path, owned by the caller; NULL: it may not. */
static inline char *make_cgroup(void)
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        struct statfs fs;
        char *path = xasprintf("%s/sje-test-%d", mounts[i], (int)getpid());
        char *kill_file CLEANUP(freep) = xasprintf("%s/cgroup.kill", path);

        if (statfs(mounts[i], &fs) == 0 && fs.f_type == CGROUP_MAGIC && mkdir(path, 0755) == 0) {
            if (access(kill_file, W_OK) == 0) {
                return path;
            }
            rmdir(path);
        }
        free(path);
    }
    return NULL;
}

#endif
