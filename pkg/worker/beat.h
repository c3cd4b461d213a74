/* beat.h: what a worker says of itself, as JSON text (docs/protocol.md, Beat). No I/O. */
#ifndef SJE_WORKER_BEAT_H
#define SJE_WORKER_BEAT_H

#include "internal/config.h"
#include "pkg/worker/reports.h"

struct beat_facts {
    struct report_from from;
    const struct config *config;
    const char *host;
    int64_t started_at; /* wall ms */
    int64_t wall_minus_boot;
};

/* Every attempt's `user` is its struct run. With more than REPORT_MAX bytes details of tasks are
 * left out, never a task. `b` must have room for twice that. */
void beat_write(struct buf *b, const struct beat_facts *f, struct wcore *core, int64_t number);

#endif
