/* chaos.h: where the chaos build (FLAVOUR=chaos) can be made to die, and the wall clock to jump.
 * In every other build nothing of it is left.
 *
 * CRASH_POINT("name") kills the process, as SIGKILL does, when there is a file of that name in the
 * directory SJE_CHAOS_DIR (for a shim, which has no environment: ../../chaos). The file is removed
 * by the one who dies of it, so that it happens once. The points are rows of docs/reliability.md.
 *
 * SJE_CHAOS_WALL names a symbolic link whose text is added to the wall clock, in milliseconds.
 */
#ifndef SJE_CHAOS_H
#define SJE_CHAOS_H

#ifdef SJE_CHAOS

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void chaos_point(const char *name)
{
    const char *dir = getenv("SJE_CHAOS_DIR");
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", dir ? dir : "../../chaos", name);
    /* Looked at first: unlink() waits for a file system that takes no writes. */
    if (access(path, F_OK) == 0 && unlink(path) == 0) {
        kill(getpid(), SIGKILL);
    }
}

static inline int64_t chaos_wall_ms(void)
{
    const char *path = getenv("SJE_CHAOS_WALL");
    char text[32] = "";
    long long ms = 0;

    if (path && readlink(path, text, sizeof(text) - 1) > 0) {
        (void)sscanf(text, "%lld", &ms);
    }
    return ms;
}

#define CRASH_POINT(name) chaos_point(name)

#else

#define CRASH_POINT(name) ((void)0)
#define chaos_wall_ms()   0

#endif

#endif
