/* fewfds.h: a process that has hardly any descriptor left. */
#ifndef SJE_TESTS_FEWFDS_H
#define SJE_TESTS_FEWFDS_H

#include "internal/base.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#define FEW_FDS 64

struct few_fds {
    int taken[FEW_FDS];
    size_t n;
    rlim_t limit;
};

/* From now on `left` are left, until few_fds_end(). */
static inline void few_fds_begin(struct few_fds *f, size_t left)
{
    struct rlimit l;

    *f = (struct few_fds){0};
    MUST(getrlimit(RLIMIT_NOFILE, &l) == 0);
    f->limit = l.rlim_cur;
    l.rlim_cur = FEW_FDS;
    MUST(setrlimit(RLIMIT_NOFILE, &l) == 0);
    while (f->n < FEW_FDS && (f->taken[f->n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) {
        f->n++;
    }
    for (; left && f->n; left--) {
        close(f->taken[--f->n]);
    }
}

static inline void few_fds_end(struct few_fds *f)
{
    struct rlimit l;

    while (f->n) {
        close(f->taken[--f->n]);
    }
    MUST(getrlimit(RLIMIT_NOFILE, &l) == 0);
    l.rlim_cur = f->limit;
    MUST(setrlimit(RLIMIT_NOFILE, &l) == 0);
}

#endif
