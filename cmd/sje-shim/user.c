/* Whom the task runs as: another user than ours, for good and without any privilege. */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <grp.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As in linux/capability.h, which musl does not bring: version 3, this thread, no bit set. */
struct rights_of {
    uint32_t version;
    int pid;
};
struct rights {
    uint32_t bits[6];
};

/* Also what a program with such rights in its file would get again. */
static bool drop_privileges(void)
{
    struct rights_of self = {0x20080522, 0};
    struct rights none = {0};

    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0 &&
           syscall(SYS_capset, &self, &none) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

/* Only who has CAP_SETPCAP can; without it PR_SET_NO_NEW_PRIVS keeps them out. */
static void narrow_bounds(void)
{
    for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++) {
        (void)prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
    }
}

bool user_become(const struct plan *p)
{
    if (!p->user) {
        return true;
    }
    uid_t uid = (uid_t)p->user;
    gid_t gid = p->groups[0];
    narrow_bounds();
    if (fchown(STDOUT_FILENO, uid, gid) != 0 || fchown(STDERR_FILENO, uid, gid) != 0 ||
        setgroups(p->group_count, p->groups) != 0 || setresgid(gid, gid, gid) != 0 ||
        setresuid(uid, uid, uid) != 0 || !drop_privileges()) {
        return false;
    }
    errno = EPERM; /* there is no way back */
    return setuid(0) != 0 && getuid() == uid && geteuid() == uid;
}

void user_begin(const struct plan *p)
{
    setfsgid(p->groups[0]);
    setfsuid((uid_t)p->user);
}

void user_end(const struct plan *p)
{
    (void)p;
    setfsuid(geteuid());
    setfsgid(getegid());
}
