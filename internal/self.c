#include "internal/self.h"

#include "internal/base.h"
#include "internal/str.h"

#include <stdlib.h>
#include <sys/resource.h>

/* A few lanes, looks, names that are resolved. Threads that are not used cost next to nothing. */
#define POOL_NAME    "UV_THREADPOOL_SIZE"
#define POOL_THREADS "16"
#define OPEN_FILES   65536 /* each client, task and connection is one */

static bool pool_widened;
static struct rlimit files_before;
static bool files_raised;

void self_widen_pool(void)
{
    pool_widened = !getenv(POOL_NAME) && setenv(POOL_NAME, POOL_THREADS, 0) == 0;
}

bool self_has_set(const char *line)
{
    return pool_widened && streq(line, POOL_NAME "=" POOL_THREADS);
}

bool self_raise_open_files(void)
{
    struct rlimit r = {0};

    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur >= OPEN_FILES) {
        return true;
    }
    files_before = r;
    r.rlim_cur = MIN(r.rlim_max, (rlim_t)OPEN_FILES);
    files_raised = setrlimit(RLIMIT_NOFILE, &r) == 0;
    return files_raised;
}

void self_limit_child(pid_t pid)
{
    if (files_raised) {
        (void)prlimit(pid, RLIMIT_NOFILE, &files_before, NULL); /* it may have gone */
    }
}
