/* norights.h: rights of files count, as for any user: root may override them. */
#ifndef SJE_TESTS_NORIGHTS_H
#define SJE_TESTS_NORIGHTS_H

#include "internal/base.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline void rights_count(bool on)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    unsigned both = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;

    MUST(syscall(SYS_capget, &head, data) == 0);
    data[0].effective = (data[0].effective & ~both) | (on ? 0 : data[0].permitted & both);
    MUST(syscall(SYS_capset, &head, data) == 0);
}

#endif
