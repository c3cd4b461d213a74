/* fleet.h: the workers and their leases, in memory. No I/O; time is passed in (CLOCK_BOOTTIME ms).
 *
 * A worker is a name and the UUID of its work directory (pkg/task/who.h). Of those with one name
 * one holds it: the first that is heard, for as long as it lives. The others are refused: they get
 * no work, and nothing that they say concerns the tasks of the holder; what was granted to them
 * earlier stays theirs until it ends.
 *
 * Every manager hears every beat and so knows the fleet; only the leader renews and reaps. What the
 * others did not grant themselves they believe the workers, for people who ask (`hearsay`). The
 * deadlines here end LEASE_MARGIN_MS after the worker's own, so that an attempt has been stopped
 * before it is given to somebody else. See docs/protocol.md, Leases.
 */
#ifndef SJE_MANAGER_FLEET_H
#define SJE_MANAGER_FLEET_H

#include "internal/list.h"
#include "pkg/manager/offers.h"
#include "pkg/task/step.h"

#include <uthash.h>

#define LEASE_MARGIN_MS  5000
#define WORKER_FORGET_MS (24 * 3600 * 1000)
#define FLEET_MAX        10000 /* workers; of one more no beat is taken while all of them live */
#define NAMESAKES_MAX    4     /* workers of one name; a beat of one more is not taken */
#define LEASE_MS_MAX     ((int64_t)86400 * 1000)
#define PATIENCE_MS      60000 /* at least: see fleet_patience_ms() */

/* Bytes of all that beats leave here, apart from the workers themselves. Of attempts: what is
 * believed without a row, and with it what describes those that have one. */
#define HEARSAY_MAX (24 << 20)
#define HEARD_MAX   (32 << 20)
/* Of what workers offer and hold off, and so many different names. */
#define OFFERED_MAX       (8 << 20)
#define OFFERED_POOLS_MAX 1000
#define OFFERED_TYPES_MAX 1000

/* X(name, lives: it holds its name against others) */
#define WORKER_STATES(X)                                                                           \
    X(UP, true)                                                                                    \
    X(DRAINING, true)                                                                              \
    X(SUSPECT, true) /* missed two beats */                                                        \
    X(DEAD, false)                                                                                 \
    X(STOPPED, false)                                                                              \
    X(UNKNOWN, true)  /* in the database; not heard by us yet */                                   \
    X(REFUSED, false) /* another one of its name lives */

enum worker_state {
#define X(name, lives) WORKER_##name,
    WORKER_STATES(X)
#undef X
        WORKER_STATE_COUNT
};
const char *worker_state_name(enum worker_state s);
enum worker_state worker_state_of(const char *name); /* UNKNOWN where there is none of that name */
bool worker_lives(enum worker_state s);

/* A nodeId, and the workers that go by it. */
struct fleet_node {
    char *name;
    UT_hash_handle hh;
    struct list workers;         /* of fleet_worker.of_node */
    struct fleet_worker *holder; /* never NULL */
    bool drain;                  /* as ordered by an operator */
    int64_t refusal_at;          /* boot ms: not before that is it said again that one is refused */
    int64_t well_wall;           /* when it last took up what it had held off */
};

struct fleet_worker {
    struct who who;
    UT_hash_handle hh; /* by name and UUID */
    struct fleet_node *node;
    struct list_node of_node;
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
    struct names *pools; /* held */
    struct names *job_types;
    struct names
        *could;    /* the types when it last offered any, and those it held off; NULL: never */
    bool unserved; /* there is no room for what it offers: it counts as offering nothing */
    int64_t unsure_until; /* nobody knows which; boot ms */
    json_t *hold_off;     /* what it does not take now, as in its beat; NULL: nothing */
    size_t hold_off_bytes;
    bool takes_none;         /* that is everything */
    int64_t heartbeat_ms;    /* how often it beats, as it says; 0: it does not */
    bool adapts;             /* it will beat three times in dead_after_ms */
    int64_t unknown_until;   /* UNKNOWN: then it is DEAD; boot ms */
    int64_t contested_until; /* two processes spoke for it: until then none is believed at once */
    bool refusal_told;       /* in the log */
    bool replaced_told;      /* the same, of what another work directory has left */
    int64_t alarm_at;        /* boot ms: not before that is it said again that it is outdated */
    bool draining;           /* as the worker says */
    bool saved;              /* its row shows `saved_as`; the leader's business */
    enum worker_state saved_as;
    int64_t saved_wall;  /* its last beat, in the row */
    int64_t greeted_inc; /* as whom, and when, a manager that does not lead told it its address */
    int64_t greeted_at;  /* boot ms */
    int64_t forget_at;   /* boot ms; unless it is heard of again */
    bool stopping;
    enum worker_state state;
    struct offer offer;
    struct offer absent; /* what it does not offer now, and may soon */
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
    struct room room;
    int64_t lease_ms;  /* as granted: nothing changes it */
    bool lease_told;   /* by the row, or by the worker; else it is what we would grant */
    int64_t deadline;  /* boot ms */
    int64_t seen_beat; /* number of the last beat that listed it */
    bool cancel;       /* the task is to be cancelled */
    bool lost;         /* already told */
    bool hearsay;      /* no row was seen: it is never renewed, nor lost */
    char *pool;
    char *application_id;
    bool application_told; /* the row has it, or soon will */
    char *ui_url;
    const char *phase; /* a constant */
    char *progress;    /* JSON */
};

struct fleet {
    struct offers offers; /* of the workers that are UP */
    struct fleet_worker *workers;
    struct fleet_node *nodes;
    struct lease *leases;
    size_t told;           /* bytes: see HEARD_MAX */
    size_t held_off;       /* bytes of fleet_worker.hold_off */
    int64_t cleared_at;    /* boot ms; workers that are gone were forgotten for others' offers */
    bool rows_read;        /* which workers there are */
    int unheard;           /* of these: what they may offer soon is not known */
    int64_t dead_after_ms; /* a worker that is silent for longer is DEAD; no lease depends on it */
    int64_t heartbeat_ms;  /* of workers that do not say */
    int64_t frozen_until;  /* no lease runs out before; boot ms */
    int64_t other_until;   /* an earlier leader may renew leases until then; boot ms */
};

void fleet_init(struct fleet *f, int64_t dead_after_ms);
void fleet_done(struct fleet *f);

struct fleet_worker *fleet_find(struct fleet *f, const char *node);  /* the holder; NULL */
struct fleet_worker *fleet_of(struct fleet *f, const struct who *w); /* this very one; NULL */
/* So many attempts another work directory of this worker's name has left, which does not live. */
size_t fleet_left_behind(const struct fleet_worker *w);
/* Workers of these nodes (task.returned_by; NULL: none) are not picked while `yes`; but those that
 * became well since (wall ms): they gave it back for what was wrong then. */
void fleet_avoid(struct fleet *f, const char *nodes, int64_t since, bool yes);
/* So long a task that nodes gave back waits, since the last one did, for a worker that may soon be
 * able to take it; and so long after it was last heard a worker that is gone may. */
int64_t fleet_patience_ms(const struct fleet *f);
/* The slowest of those that live and do not adapt to dead_after_ms; NULL: none. */
const struct fleet_worker *fleet_slowest(const struct fleet *f);
/* Whether such a process may be given work: NULL, or the reason to deny its claim. */
const char *fleet_objection(struct fleet *f, const struct who *w);
struct lease *fleet_lease(const struct fleet *f, const struct id *task);

/* From the row of a RUNNING task: makes or replaces its lease, with a whole lease from now on. */
struct lease *fleet_grant(struct fleet *f, const struct task *row, int64_t now);
/* The attempt is over. NULL-safe by task id. */
void fleet_release(struct fleet *f, const struct id *task);

/* One entry of a beat's `running`. Slices of the decoded message. */
struct beat_run {
    struct id task;
    int32_t attempt;
    int64_t token;
    int64_t lease_ms;  /* that it was told; 0: it does not say */
    struct room room;  /* that it takes; an earlier version does not say: one slot */
    const char *phase; /* a constant */
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
    int64_t heartbeat_ms;
    bool adapts; /* to our dead_after_ms, when it hears of it */
    int pid;
    int slots;
    int cpus;
    int memory_mb;
    bool draining;
    bool stopping;
    const json_t *pools;
    const json_t *job_types;
    const json_t *hold_off; /* array of {type, reason, untilMs}; NULL: empty */
    const struct beat_run *running;
    size_t n_running;
    const struct beat_run *claiming; /* task and attempt only */
    size_t n_claiming;
};

/* What the database knows of a worker. One that is not known here and lived holds its name until it
 * has been silent for dead_after_ms from now on. True where this changed what it is given. */
struct fleet_row {
    struct who who;
    const char *host;
    bool drain; /* its name is to be drained */
    enum worker_state state;
    int slots;
    int64_t seen_wall;
    int64_t wall; /* now, by the same clock */
};
bool fleet_order(struct fleet *f, const struct fleet_row *r, int64_t now);
/* Of whoever lived when we began, or shortly before, is known what it offers, or it has been silent
 * for too long. */
bool fleet_is_whole(const struct fleet *f);
/* The same order, just given. */
bool fleet_drain(struct fleet *f, const char *node, bool drain);

/* What a manager is to the workers that it hears. */
enum fleet_role {
    FLEET_FOLLOWS, /* believes what it hears, decides nothing */
    FLEET_BLIND,   /* leads, but the database is away: renews what it knows, takes nothing away */
    FLEET_LEADS
};

/* Effects of a beat, for whoever acts on them; of a manager that follows only `gone` is called. */
struct beat_effects {
    enum fleet_role role;
    void *arg;
    void (*unknown)(void *arg, const struct beat_run *r); /* no lease known: look it up */
    void (*revoke)(void *arg, const struct beat_run *r);  /* not this worker's attempt */
    void (*survived)(void *arg, const struct lease *l,
                     const struct beat *b); /* taken back by a new process */
    void (*application)(void *arg, const struct lease *l, const char *app_id);  /* first seen */
    void (*gone)(void *arg, struct lease *l, const char *why, bool by_restart); /* lost at once */
};
enum beat_verdict {
    BEAT_TAKEN,
    BEAT_LATE,     /* a later one of this process was there */
    BEAT_OUTDATED, /* another process of this worker was heard, or the number is out of nowhere */
    BEAT_TOO_MANY, /* workers, or workers of this name */
};
struct beat_heard {
    enum beat_verdict verdict;
    struct fleet_worker *worker; /* TAKEN, OUTDATED */
    bool changed;                /* the worker appeared, came back, changed what it offers … */
};
/* Takes the beat in. */
struct beat_heard fleet_beat(struct fleet *f, const struct beat *b, int64_t now, int64_t wall,
                             const struct beat_effects *fx);

/* Looks at silence: SUSPECT after two beats missed, DEAD then after dead_after_ms (of one that
 * beats too rarely for that, and has not adapted yet, one beat more), forgotten after
 * WORKER_FORGET_MS; calls `on_state` for each change, and with `reap` (the leader) `gone` for every
 * lease that ran out. Others just drop leases that no beat renews. False: many workers fell silent
 * at once, nothing is taken from them yet. */
bool fleet_tick(struct fleet *f, int64_t now, bool reap,
                void (*on_state)(void *arg, struct fleet_worker *w, enum worker_state from),
                const struct beat_effects *fx, void *arg);
/* We were deaf (paused, cut off from the broker): nobody is silent before a whole lease from now
 * has passed. */
void fleet_freeze(struct fleet *f, int64_t now);

#endif
