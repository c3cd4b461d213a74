/* lane.h: work that may hang, done beside the loop: a disk, a file system of the kernel. One piece
 * after another, in the order in which they were asked for; so what hangs keeps up its own lane
 * alone, and costs one thread of libuv's pool, which is made large enough for all of them.
 *
 * Threads: the loop thread, but for `work`. Ownership: jobs are the caller's, and stay where they
 * are until `done`, or lane_take_back().
 */
#ifndef SJE_LANE_H
#define SJE_LANE_H

#include "internal/list.h"

#include <uv.h>

struct lane_job {
    struct list_node node;
    void (*work)(struct lane_job *j); /* in the pool; it sees nothing that others change */
    void (*done)(struct lane_job *j); /* on the loop; it may ask again */
};

struct lane {
    uv_loop_t *loop;
    uv_work_t work;
    struct list waiting;
    struct lane_job *under_way; /* NULL: none */
    int64_t since;              /* it is, on clock_boot_ms() */
};

void lane_init(struct lane *l, uv_loop_t *loop);
void lane_do(struct lane *l, struct lane_job *j);
/* So long one job has been under way; 0: none is. */
int64_t lane_busy_ms(const struct lane *l, int64_t now);
/* True: it had not begun, and will not. Else done() will be called. */
bool lane_take_back(struct lane *l, struct lane_job *j);

#endif
