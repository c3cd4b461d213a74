/* watch.h: waiting for tasks to end, shown live.
 *
 * One watch at a time: it owns the signals INT and TERM from watch_start() to watch_stop(), which
 * end the waiting and never the task. On a terminal (stderr) it shows the task's log and below it
 * one line with state, progress and time; elsewhere a line for each change; with --quiet nothing.
 */
#ifndef SJE_CLI_WATCH_H
#define SJE_CLI_WATCH_H

#include "cmd/sje/cli.h"
#include "cmd/sje/live.h"
#include "cmd/sje/taillog.h"

struct watch {
    struct cli *c;
    const char *id;    /* of the task under watch */
    struct reply last; /* its last view */
    struct live live;
    bool plain; /* lines instead */
    struct taillog log;
    int signals;        /* signalfd */
    int64_t deadline;   /* boot ms; INT64_MAX: none */
    int64_t retry_ms;   /* how long the manager may be away */
    int64_t away_since; /* boot ms; 0: it answers */
    int64_t pause_ms;
    bool reached;
    int64_t drawn_at;
    char *said; /* the last plain line */
    int64_t said_at;
    /* Many tasks are watched one after the other. */
    size_t total; /* 0: it is one task */
    size_t ended;
    size_t failed;
    int64_t started_at;
};

/* Takes over the signals; call before submitting. Options --timeout, --retry and --log count. */
void watch_start(struct watch *w, struct cli *c);
void watch_stop(struct watch *w);
/* CLI_OK: the task is final and w->last its view; CLI_PENDING: time over; else what happened has
 * been said. */
int watch_task(struct watch *w, const char *id);
/* CLI_SIGNAL plus the signal that came. */
int watch_signal(struct watch *w);

/* cmd_wait.c: watches them all and prints the summaries; the exit status. */
int wait_for_one(struct watch *w, const char *id);
int wait_for_many(struct watch *w, const char *const *ids, size_t n);

#endif
