/* nopidfd.h: as on an old kernel, or where the filter of a container does not know pidfd_open(). */
#ifndef SJE_TESTS_NOPIDFD_H
#define SJE_TESTS_NOPIDFD_H

#include "internal/base.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static inline bool can_deny_pidfd(void)
{
    return prctl(PR_GET_SECCOMP) >= 0;
}

/* From now on that call fails with this error, for this process and all that it starts. */
static inline void deny_call(unsigned call, int error)
{
    struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                              BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog p = {ARRAY_LEN(f), f};

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0);
}

static inline void deny_pidfd(int error)
{
    deny_call(SYS_pidfd_open, error);
}

#endif
