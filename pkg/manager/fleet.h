/* fleet.h: the workers and their leases, in memory. No I/O; time is passed in (CLOCK_BOOTTIME ms).
 *
 * Every manager hears every beat and so knows the fleet; only the leader renews and reaps. What the
 * others did not grant themselves they believe the workers, for people who ask (`hearsay`). The
 * deadlines here end LEASE_MARGIN_MS after the worker's own, so that an attempt has been stopped
 * before it is given to somebody else. See docs/protocol.md, Leases.
 */
#ifndef SJE_MANAGER_FLEET_H
#define SJE_MANAGER_FLEET_H

#include "internal/list.h"
#include "pkg/task/step.h"

#include <uthash.h>

#define LEASE_MARGIN_MS  5000
#define WORKER_FORGET_MS (24 * 3600 * 1000)
#define FLEET_MAX        10000  /* workers; a beat of one more is not taken */
#define HEARSAY_MAX      100000 /* leases; no more are believed without a row */

enum worker_state { WORKER_UP, WORKER_DRAINING, WORKER_SUSPECT, WORKER_DEAD, WORKER_STOPPED };
const char *worker_state_name(enum worker_state s);

struct fleet_worker {
    char *id;
    struct who who;
    UT_hash_handle hh;
    char *host;
    char *version;
    char *reply;       /* its queue */
    int64_t beat;      /* number of the last one */
    int64_t last_beat; /* boot ms */
    int64_t last_beat_wall;
    int64_t started_at; /* wall ms */
    int pid;
    int slots;
    int cpus;
    int memory_mb;
    char **pools; /* NULL-terminated, owned */
    char **job_types;
    bool drain;    /* as ordered by an operator */
    bool draining; /* as the worker says */
    bool saved;    /* its row shows `saved_as`; the leader's business */
    enum worker_state saved_as;
    int64_t saved_wall;  /* its last beat, in the row */
    int64_t greeted_inc; /* as whom, and when, a manager that does not lead told it its address */
    int64_t greeted_at;  /* boot ms */
    int64_t forget_at;   /* boot ms; unless it is heard of again */
    bool stopping;
    enum worker_state state;
    int used; /* slots of its leases */
    struct list leases;
};

struct lease {
    struct id task;
    UT_hash_handle hh;
    struct list_node node; /* worker->leases */
    struct fleet_worker *worker;
    int32_t attempt;
    int64_t token;
    int64_t inc;
    int32_t claim_beat;
    int slots;
    int64_t lease_ms;
    int64_t deadline;  /* boot ms */
    int64_t seen_beat; /* number of the last beat that listed it */
    bool cancel;       /* the task is to be cancelled */
    bool lost;         /* already told */
    bool hearsay;      /* no row was seen: it is never renewed, nor lost */
    char *pool;
    char *application_id;
    bool application_told; /* the row has it, or soon will */
    char *ui_url;
    char *phase;
    char *progress; /* JSON */
};

struct fleet {
    struct fleet_worker *workers;
    struct lease *leases;
    int64_t dead_after_ms;
    int64_t frozen_until; /* no lease runs out before; boot ms */
    int64_t other_until;  /* an earlier leader may renew leases until then; boot ms */
};

void fleet_init(struct fleet *f, int64_t dead_after_ms);
void fleet_done(struct fleet *f);

struct fleet_worker *fleet_find(struct fleet *f, const char *id);
struct lease *fleet_lease(struct fleet *f, const struct id *task);

/* From the row of a RUNNING task: makes or replaces its lease, with a whole lease from now on. */
struct lease *fleet_grant(struct fleet *f, const struct task *row, int64_t now);
/* The attempt is over. NULL-safe by task id. */
void fleet_release(struct fleet *f, const struct id *task);

/* One entry of a beat's `running`. Slices of the decoded message. */
struct beat_run {
    struct id task;
    int32_t attempt;
    int64_t token;
    const char *phase;
    const char *application_id;
    const char *ui_url;
    const json_t *progress;
};
struct beat {
    struct who who;
    const char *host;
    const char *version;
    const char *reply;
    int64_t beat;
    int64_t started_at;
    int pid;
    int slots;
    int cpus;
    int memory_mb;
    bool draining;
    bool stopping;
    const json_t *pools;
    const json_t *job_types;
    const struct beat_run *running;
    size_t n_running;
    const struct beat_run *claiming; /* task and attempt only */
    size_t n_claiming;
};

/* What the database knows of a worker: whether it is to be drained. One that is not known here is
 * taken as DEAD until it beats. True where this changed what it is given. */
bool fleet_order(struct fleet *f, const char *id, const char *host, bool drain, int64_t seen_wall,
                 int64_t now);

/* Effects of a beat, for whoever acts on them (the leader). All may be NULL. */
struct beat_effects {
    void *arg;
    void (*unknown)(void *arg, const struct beat_run *r); /* no lease known: look it up */
    void (*revoke)(void *arg, const struct beat_run *r);  /* not this worker's attempt */
    void (*survived)(void *arg, const struct lease *l,
                     const struct beat *b); /* taken back by a new process */
    void (*application)(void *arg, const struct lease *l, const char *app_id);  /* first seen */
    void (*gone)(void *arg, struct lease *l, const char *why, bool by_restart); /* lost at once */
};
/* Takes the beat in: NULL where it is older than what is known (a late one, or of an earlier
 * process), or of one worker too many. *ret_changed: the worker appeared, came back or changed its
 * mind about draining. Without `unknown` what is not known here is hearsay. */
struct fleet_worker *fleet_beat(struct fleet *f, const struct beat *b, int64_t now, int64_t wall,
                                const struct beat_effects *fx, bool *ret_changed);

/* Looks at silence: SUSPECT after two beats missed, DEAD after dead_after_ms, forgotten after
 * WORKER_FORGET_MS; calls `on_state` for each change, and with `reap` (the leader) `gone` for every
 * lease that ran out. Others just drop leases that no beat renews. False: many workers fell silent
 * at once, nothing is taken from them yet. */
bool fleet_tick(struct fleet *f, int64_t now, int64_t heartbeat_ms, bool reap,
                void (*on_state)(void *arg, struct fleet_worker *w, enum worker_state from),
                const struct beat_effects *fx, void *arg);
/* We were deaf (paused, cut off from the broker): nobody is silent before a whole lease from now
 * has passed. */
void fleet_freeze(struct fleet *f, int64_t now);

/* A pool's workers that take work. */
struct fleet_slots {
    int workers;
    int total;
    int available;
    int largest;  /* worker */
    int smallest; /* worker */
};
struct fleet_slots fleet_slots(const struct fleet *f, const char *pool);
bool fleet_serves(const struct fleet_worker *w, const char *pool);

#endif
