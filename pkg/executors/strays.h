/* strays.h: what is left of an attempt whose shim was killed, both halves of it (docs/protocol.md,
 * Worker and shim).
 *
 * Four things tell a process of such an attempt from a stranger: the attempt's cgroup; that it fell
 * to us, its child subreaper; the session of its task or of its shim; SJE_TOKEN in its environment.
 * Each may be missing, so all are looked at. Walks /proc: some ms. Any thread.
 */
#ifndef SJE_EXECUTORS_STRAYS_H
#define SJE_EXECUTORS_STRAYS_H

#include "internal/base.h"

struct strays {
    const char *token;  /* SJE_TOKEN=<token>; NULL: unknown. Anything else is ignored */
    const char *cgroup; /* the attempt's own; NULL: none */
    int64_t shim;       /* leaders of sessions; 0: unknown */
    int64_t task;
    bool shim_clears;   /* it may live and kills by itself: it is only counted */
    int64_t began_at;   /* CLOCK_BOOTTIME ms: no process of it is older; 0: unknown */
    int64_t seen_at;    /* CLOCK_BOOTTIME ms, when they had these numbers for certain */
    int64_t seen_forks; /* strays_forks() at that time, or somewhat earlier; 0: unknown */
    int left;           /* by strays_kill_all(): how much of it was still there */

    /* the same: what is known of the sessions by now */
    bool fresh; /* their numbers cannot have been given to others since seen_at */
    bool shim_sure;
    bool task_sure;
    bool its;  /* of the process that is being looked at */
    int doubt; /* an error: whose that is cannot be told */
};

/* So many processes and threads this machine has begun: by that the numbers of processes go round.
 * 0: unknown. Reads /proc/stat: less than a millisecond on most machines. */
int64_t strays_forks(void);

/* From now on orphans fall to this process, once the shim above them is dead. For process 1 they
 * are no mark: everybody's fall to it. */
void strays_inherit(void);
/* A child that this process starts by itself is nobody's orphan, from the moment that it is there:
 * so it is started between these two, with its number for the second (0: it was not), and taken off
 * when it was waited for, never before. */
void strays_before_child(void);
void strays_after_child(int64_t pid);
void strays_forget_child(int64_t pid);
/* Reaps orphans that have ended. */
void strays_reap(void);
/* Fills shim, task, seen_at and seen_forks from what the shim has left in the attempt's directory.
 * False: it has not, or the machine was started anew since. */
bool strays_read(const char *dir, struct strays *ret);
/* Kills what it finds. Returns how much of it was still there; 0: nothing is left, as far as can be
 * told. An orphan that belongs to none of those who are looked for counts for each of them; so does
 * what it could not look at. */
int strays_kill(const struct strays *s);
/* The same for several, in one walk. An orphan of one of them counts for that alone. */
void strays_kill_all(struct strays *list, size_t n);

#endif
