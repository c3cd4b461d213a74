#include "pkg/executors/taskuser.h"

#include "internal/base.h"
#include "internal/buf.h"
#include "internal/str.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GROUPS_FIRST 64
#define KEY          "executorNodeConfig.taskUser"

/* ---- what this process needs ---- */

static const struct {
    unsigned number;
    const char *name;
} needed[] = {{CAP_CHOWN, "CAP_CHOWN"},
              {CAP_KILL, "CAP_KILL"},
              {CAP_SETGID, "CAP_SETGID"},
              {CAP_SETUID, "CAP_SETUID"}};

static struct __user_cap_header_struct own_header(void)
{
    return (struct __user_cap_header_struct){.version = _LINUX_CAPABILITY_VERSION_3};
}

/* All of `needed` are below 32, so in the first half. */
static int check_rights(struct err *reterr)
{
    struct __user_cap_header_struct h = own_header();
    struct __user_cap_data_struct d[2] = {0};

    MUST(syscall(SYS_capget, &h, d) == 0);
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (!(d[0].effective & 1u << needed[i].number)) {
            return err_set(reterr, ERR_CONFIG,
                           KEY " needs a worker with %s: start it as root, or with systemd's "
                               "AmbientCapabilities=CAP_CHOWN CAP_KILL CAP_SETGID CAP_SETUID "
                               "(docs/operating.md)",
                           needed[i].name);
        }
    }
    return 0;
}

/* The shim is a program of its own: what comes from the file of ours would be lost there. Root has
 * all of it anyway. */
static int hand_down_rights(struct err *reterr)
{
    struct __user_cap_header_struct h = own_header();
    struct __user_cap_data_struct d[2] = {0};

    if (geteuid() == 0) {
        return 0;
    }
    MUST(syscall(SYS_capget, &h, d) == 0);
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        d[0].inheritable |= 1u << needed[i].number;
    }
    bool good = syscall(SYS_capset, &h, d) == 0;
    for (size_t i = 0; i < ARRAY_LEN(needed) && good; i++) {
        good = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, needed[i].number, 0, 0) == 0;
    }
    return good ? 0
                : err_errno(reterr, ERR_CONFIG, errno,
                            KEY ": the shims of tasks cannot be given the worker's rights");
}

/* ---- who it is ---- */

static void find_groups(struct task_user *u)
{
    int n = GROUPS_FIRST;

    u->groups = xcalloc((size_t)n, sizeof(gid_t));
    if (getgrouplist(u->name, u->gid, u->groups, &n) < 0) {
        u->groups = xrealloc(u->groups, (size_t)n * sizeof(gid_t));
        MUST(getgrouplist(u->name, u->gid, u->groups, &n) >= 0);
    }
    u->group_count = n;
}

static bool is_dir(const char *path)
{
    struct stat st = {0};

    return *path == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int find(const char *name, struct task_user **ret, struct err *reterr)
{
    errno = 0;
    const struct passwd *p = getpwnam(name); /* before there are other threads */

    if (!p) {
        return err_set(reterr, ERR_CONFIG, KEY ": there is no user \"%.100s\"%s%s", name,
                       errno ? ": " : "", errno ? strerror(errno) : "");
    }
    if (p->pw_uid == 0) {
        return err_set(reterr, ERR_CONFIG,
                       KEY ": \"%.100s\" is root, which may do all that the "
                           "worker may",
                       name);
    }
    if (p->pw_uid == geteuid()) {
        return err_set(reterr, ERR_CONFIG, KEY ": \"%.100s\" is the worker's own user", name);
    }
    struct task_user *u = xcalloc(1, sizeof(*u));
    *u = (struct task_user){.name = xstrdup(name),
                            .home = xstrdup(is_dir(p->pw_dir) ? p->pw_dir : ""),
                            .uid = p->pw_uid,
                            .gid = p->pw_gid};
    find_groups(u);
    *ret = u;
    return 0;
}

int task_user_open(const char *name, struct task_user **ret, struct err *reterr)
{
    *ret = NULL;
    if (!*name) {
        return 0;
    }
    int rc = check_rights(reterr);
    rc = rc < 0 ? rc : hand_down_rights(reterr);
    return rc < 0 ? rc : find(name, ret, reterr);
}

void task_user_free(struct task_user *u)
{
    if (u) {
        free(u->name);
        free(u->home);
        free(u->groups);
        free(u);
    }
}

/* ---- its rights ---- */

/* setgroups() of libc would change all threads. */
static bool set_groups(int n, const gid_t *groups)
{
    return syscall(SYS_setgroups, (size_t)n, groups) == 0;
}

static void begin(struct task_user_rights *r, uid_t uid, gid_t gid, int n_groups,
                  const gid_t *groups)
{
    int n = getgroups(0, NULL);

    r->groups = xcalloc((size_t)n + 1, sizeof(gid_t));
    r->group_count = getgroups(n, r->groups);
    r->changed = r->group_count >= 0 && set_groups(n_groups, groups);
    if (r->changed) {
        setfsgid(gid);
        setfsuid(uid);
    }
}

void task_user_begin(struct task_user_rights *r, uid_t uid, gid_t gid)
{
    *r = (struct task_user_rights){0};
    if (uid != geteuid()) {
        begin(r, uid, gid, 1, &gid);
    }
}

void task_user_become(struct task_user_rights *r, const struct task_user *u)
{
    *r = (struct task_user_rights){0};
    if (u) {
        begin(r, u->uid, u->gid, u->group_count, u->groups);
    }
}

void task_user_end(struct task_user_rights *r)
{
    if (r->changed) {
        setfsuid(geteuid());
        setfsgid(getegid());
        MUST(set_groups(r->group_count, r->groups));
    }
    free(r->groups);
    *r = (struct task_user_rights){0};
}

int task_user_let_pass(const struct task_user *u, const char *dir, struct err *reterr)
{
    struct stat st = {0};

    if (!u) {
        return 0;
    }
    if (stat(dir, &st) != 0 ||
        ((st.st_mode & 0011) != 0011 && chmod(dir, st.st_mode | 0011) != 0)) {
        return err_errno(reterr, ERR_CONFIG, errno, "cannot let %.50s pass through %.150s", u->name,
                         dir);
    }
    char *itself CLEANUP(freep) = xasprintf("%s/.", dir);
    struct task_user_rights r CLEANUP(task_user_end);
    task_user_become(&r, u);
    return stat(itself, &st) == 0
               ? 0
               : err_errno(reterr, ERR_CONFIG, errno,
                           KEY
                           ": %.50s cannot get to %.150s, for a directory above it does not let "
                           "others pass (chmod o+x)",
                           u->name, dir);
}

bool task_user_can_read(const struct task_user *u, const char *path)
{
    struct task_user_rights r CLEANUP(task_user_end);

    task_user_become(&r, u);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}
