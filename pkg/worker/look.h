/* look.h: what this node can do, as far as looking tells.
 *
 * A disk may hang, and a look at it with it. So looks are made in libuv's pool, on copies of all
 * that they need, one of each kind at a time: what one has not come past after LOOK_LATE_MS counts
 * as what cannot be done, and what comes behind that as it was before. One that hangs for ever
 * costs a thread, and keeps up no other kind.
 *
 * Threads: the loop thread only.
 */
#ifndef SJE_WORKER_LOOK_H
#define SJE_WORKER_LOOK_H

#include "pkg/worker/run.h"

#define LOOK_MS       5000 /* between two */
#define LOOK_LATE_MS  RUN_LATE_MS
#define LOOK_FIRST_MS 1000 /* that long a start waits for the first */

enum look_kind {
    LOOK_NODE, /* as a whole */
    LOOK_SPARK,
    LOOK_PLUGINS, /* what they need */
    LOOK_SCAN,    /* which there are */
    LOOK_OTHERS,  /* what is built in, and needs hardly anything */
    LOOK_KINDS,
};

struct look;
struct looks {
    const struct run_context *x;
    void (*on_looked)(void *arg);
    void *arg;
    struct look *under_way[LOOK_KINDS]; /* NULL: none */
    struct look *last[LOOK_KINDS];      /* the last that ended */
};

/* on_looked() will follow for each kind, unless it hangs. Nothing for those that are under way;
 * true: there is one. */
bool look_begin(struct looks *l, int64_t now);
/* The same, at the start; it waits for them a moment. Until one has ended, what it has not come
 * past cannot be done. */
void look_first(struct looks *l, int64_t now);
/* Why tasks of this type (NULL: any at all) cannot be started; NULL: they can. */
const char *look_why(const struct looks *l, const char *type, int64_t now);
/* on_looked() is not called any more. */
void look_done(struct looks *l);

#endif
