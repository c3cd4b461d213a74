#include "pkg/executors/cgroup.h"

#include "internal/str.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MOUNT        "/sys/fs/cgroup"
#define MOUNT_MAGIC  0x63677270 /* CGROUP2_SUPER_MAGIC */
#define OWN_SUBGROUP "/worker"

/* The path in the line "0::/path" of /proc/self/cgroup; owned; NULL. */
static char *own_path(void)
{
    char text[4096];
    int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

    if (fd >= 0) {
        close(fd);
    }
    struct str rest = {text, n > 0 ? (size_t)n : 0};
    while (rest.len) {
        struct str line = str_cut(rest, '\n', &rest);
        if (str_starts(line, STR("0::/"))) {
            return xstrndup(line.p + 3, line.len - 3);
        }
    }
    return NULL;
}

/* To root everything is writable: only systemd's mark tells what it has let go. */
static bool is_delegated(const char *dir)
{
    char mark[2] = "";

    if (geteuid() == 0 && getxattr(dir, "trusted.delegate", mark, 1) != 1 &&
        getxattr(dir, "user.delegate", mark, 1) != 1) {
        return false;
    }
    char *procs CLEANUP(freep) = xasprintf("%s/cgroup.procs", dir);
    return (geteuid() != 0 || *mark == '1') && access(dir, W_OK) == 0 && access(procs, W_OK) == 0;
}

static void pass_on_memory(const char *dir)
{
    char *path CLEANUP(freep) = xasprintf("%s/cgroup.subtree_control", dir);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t ignored = write(fd, "+memory", 7); /* without it there is no limit, no more */
        (void)ignored;
        close(fd);
    }
}

char *cgroup_delegated(void)
{
    struct statfs fs;
    char *path CLEANUP(freep) = own_path();

    if (!path || statfs(MOUNT, &fs) != 0 || fs.f_type != MOUNT_MAGIC) {
        return NULL;
    }
    bool subgroup = str_ends(str_of(path), STR(OWN_SUBGROUP));
    if (subgroup) {
        path[strlen(path) - strlen(OWN_SUBGROUP)] = '\0';
    }
    char *dir CLEANUP(freep) = xasprintf(MOUNT "%s", path);
    if (!is_delegated(dir)) {
        return NULL;
    }
    if (subgroup) {
        pass_on_memory(dir);
    }
    return STEAL(dir);
}
