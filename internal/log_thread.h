/* log_thread.h: lines go to a descriptor by a thread of their own, so that nobody waits for the
 * disk, the terminal or the pipe behind it.
 *
 * What waits is bounded: a line for which there is no room is dropped, and the writer of lines is
 * told. Threads: log_thread_put() and _stop() from one thread, the same for all.
 */
#ifndef SJE_LOG_THREAD_H
#define SJE_LOG_THREAD_H

#include "internal/base.h"

struct log_thread;

/* NULL where there is no thread to be had. fd stays the caller's. */
struct log_thread *log_thread_start(int fd, size_t bound);
bool log_thread_put(struct log_thread *t, const char *line, size_t len); /* false: dropped */
/* Waits so long for what is left. It is freed; where somebody still does not read, it is left to
 * the end of the process, and false. */
bool log_thread_stop(struct log_thread *t, int wait_ms);

#endif
