/* workdir.h: the directory that a worker owns: who uses it, which start this is, what is in it.
 *
 *   lock          held (flock) as long as the process lives, holds its pid
 *   incarnation   the number of the last start, see docs/protocol.md
 *   managers      where managers were heard of, see detour.h
 *   tasks/        one directory per attempt, see pkg/executors/shimdir.h
 */
#ifndef SJE_WORKER_WORKDIR_H
#define SJE_WORKER_WORKDIR_H

#include "internal/err.h"

struct workdir {
    char *path;  /* absolute, without symbolic links; owned */
    char *tasks; /* path/tasks; owned */
    int lock_fd;
    int64_t incarnation;
};

/* Makes it where it is missing. ERR_CONFIG or ERR_IO with a sentence that names the path. */
int workdir_open(const char *path, struct workdir *ret, struct err *reterr) NODISCARD;
void workdir_close(struct workdir *w); /* copes with a zeroed struct whose lock_fd is -1 */

#endif
