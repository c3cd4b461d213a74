/* core.h: what a worker decides, and nothing of how it is done.
 *
 * A pure state machine: events come in together with the time, effects go out through `struct
 * wcore_ops`. No I/O, no clock and no chance of its own, so the same code runs in the product
 * (worker.c) and in a seeded simulation. Rules and messages: docs/protocol.md.
 *
 * Event functions note what happened and do what cannot wait (ack, start, stop). Everything that is
 * better done once for many events (claims, results, beats, consumers) is done by wcore_step(),
 * which the owner calls after each batch of events and when the time it returned has come.
 *
 * Times are milliseconds of clock_boot_ms(). Attempts belong to the core; `user` in them belongs to
 * the owner. Operations must not call event functions. One thread.
 */
#ifndef SJE_WORKER_CORE_H
#define SJE_WORKER_CORE_H

#include "internal/heap.h"
#include "internal/id.h"
#include "internal/list.h"

#include <uthash.h>

#define WCORE_CLAIM_RESEND_MS  2000
#define WCORE_CLAIM_RETRY_MS   500   /* after the answer "retry" */
#define WCORE_CLAIM_GIVE_UP_MS 20000 /* then the hint goes back */
#define WCORE_SILENT_MS        10000 /* a manager that did not answer is not asked by itself */
#define WCORE_HELD_MS          200   /* without a free slot, then the hints go back */
#define WCORE_PAUSE_MS         5000  /* before anything smaller than the blocked head is taken */
#define WCORE_SPARE_MS         30000 /* then a hint that waits for CPUs or memory is let go */
#define WCORE_GATHER_MS        5 /* after a pause: hints of all classes before the first claim */
#define WCORE_OVERSIZED_MS                                                                         \
    1000 /* what could never be started, of a manager that may not feed it again */
#define WCORE_RESULT_RESEND_MS 10000
#define WCORE_RETRY_MS         1000 /* after a send that failed */
#define WCORE_EAGER_BEATS                                                                          \
    6 /* after a connection, until a manager answers: it may be starting too */
#define WCORE_EAGER_MS         500
#define WCORE_BEAT_GAP_MS      200   /* between two beats at least */
#define WCORE_KILL_AFTER_MS    20000 /* what has not ended so long after its grace is killed */
#define WCORE_KILL_UNPROVEN_MS 3000  /* the same for what may run elsewhere soon */
#define WCORE_LEASE_MAX_MS     (10 * 86400 * 1000LL)
#define WCORE_DOUBT_MS         2000 /* left of a lease that only the wall clock says is over */
#define WCORE_HOLD_OFF_MS      5000 /* after a fault of the node; doubled with each further one */
#define WCORE_HOLD_OFF_MAX_MS  600000
#define WCORE_PROVEN_MS        30000 /* what has run so long was started well */
#define WCORE_BATCH            500   /* claims or results handed to one operation */
#define WCORE_ATTEMPTS_MAX     1000  /* claimed or granted; what a beat can list */
#define WCORE_HELD_MAX         20000
#define WCORE_HINT_TASKS       32  /* in one hint */
#define WCORE_QUEUE_LEN        256 /* of a name in AMQP, with its NUL */
#define WCORE_TYPE_LEN         129 /* of a jobType, with its NUL */
#define WCORE_REASON_LEN       256

/* The life of an attempt on this node. X(name, text, meaning) */
#define WCORE_STATES(X)                                                                            \
    X(GONE, "gone", "not known here (any more)")                                                   \
    X(HELD, "held", "the hint is here, unacked; no slot was free for it yet")                      \
    X(CLAIMING, "claiming", "claimed, not answered; its slots are reserved")                       \
    X(STARTING, "starting", "granted; the task is being started")                                  \
    X(RUNNING, "running", "the task runs")                                                         \
    X(STOPPING, "stopping", "asked to stop; its processes may still be there")                     \
    X(ENDED, "ended", "no process is left; the result is not known to be applied")

enum wcore_state {
#define X(name, text, meaning) WCORE_##name,
    WCORE_STATES(X)
#undef X
        WCORE_STATE_COUNT
};

/* Every move an attempt may make. X(from, to, why) */
#define WCORE_EDGES(X)                                                                             \
    X(GONE, HELD, "a hint came")                                                                   \
    X(GONE, RUNNING, "found alive after a restart")                                                \
    X(GONE, ENDED, "found ended after a restart")                                                  \
    X(HELD, CLAIMING, "slots are free")                                                            \
    X(HELD, GONE, "given back")                                                                    \
    X(CLAIMING, STARTING, "granted")                                                               \
    X(CLAIMING, ENDED, "granted, but not to be started")                                           \
    X(CLAIMING, GONE, "denied or given up")                                                        \
    X(STARTING, RUNNING, "started")                                                                \
    X(STARTING, STOPPING, "to be stopped")                                                         \
    X(STARTING, ENDED, "ended at once")                                                            \
    X(RUNNING, STOPPING, "to be stopped")                                                          \
    X(RUNNING, ENDED, "ended")                                                                     \
    X(STOPPING, ENDED, "stopped")                                                                  \
    X(STOPPING, GONE, "stopped; it was not ours any more")                                         \
    X(ENDED, GONE, "result applied, or not wanted any more")

const char *wcore_state_name(enum wcore_state s);
bool wcore_edge_allowed(enum wcore_state from, enum wcore_state to);

struct wcore_key {
    struct id task;
    int32_t attempt;
};

/* What a task takes of a node, or a node gives. 0: nothing was asked for. */
struct wcore_need {
    int32_t slots;
    int32_t cpus_milli;
    int32_t memory_mb;
};

struct wcore_message; /* one hint */

/* How the broker knows a hint; opaque to the core. */
struct wcore_delivery {
    uint64_t epoch;
    uint64_t tag;
};

struct wcore_attempt {
    struct wcore_key key;
    enum wcore_state state;
    struct wcore_need need; /* as the hint says, then the grant */
    int64_t rank;
    struct wcore_message *hint; /* NULL: answered, lost with its connection, or it needs none */
    bool spare; /* HELD: it was given back before, and its manager feeds again what nobody claims */
    char *type; /* jobType; NULL: the hint did not say */
    char *manager;   /* its queue gets the next claim; NULL: all managers do */
    bool cancelled;  /* a cancel came while the claim was open */
    bool forget;     /* revoked: no result */
    bool lease_over; /* stopped because of it */
    int64_t claimed_at;
    int64_t claim_beat; /* number of the last beat before that */
    int64_t started_at; /* RUNNING, until wcore_prove(); 0: not by this process */
    int64_t token;      /* of the grant */
    int64_t lease_ms;
    int64_t deadline;    /* end of the lease */
    int64_t kill_at;     /* STOPPING */
    int64_t patience_ms; /* the owner's: more time to stop after a cancel, before the kill */
    int64_t first_beat;  /* number of the first beat that lists it as granted; 0: none yet */
    int64_t unsure_beat; /* the last one whose answer does not renew it */
    void *user;          /* the owner's */

    int64_t due; /* of the timer */
    struct heap_node timer;
    struct heap_node order;    /* HELD: place among the hints that wait */
    struct list_node in_state; /* see wcore_in_state() */
    struct list_node outgoing; /* a claim or a result that the next step sends; HELD: its own use */
    UT_hash_handle hh;
};

enum wcore_stop { WCORE_STOP_CANCEL, WCORE_STOP_SHUTDOWN, WCORE_STOP_REVOKED, WCORE_STOP_LEASE };
enum wcore_started {
    WCORE_START_UNDER_WAY, /* wcore_on_started() and wcore_on_ended() will follow */
    WCORE_START_ENDED,     /* already over; the owner has its result */
    WCORE_START_FAULT,     /* the same, because of the node */
};
enum wcore_verdict { WCORE_CANCELLED, WCORE_LOST, WCORE_RETURNED };

/* Why this node could not start a task, and what it had better not try for a while. */
struct wcore_fault {
    enum { WCORE_FAULT_ATTEMPT, WCORE_FAULT_TYPE, WCORE_FAULT_NODE } of;
    char reason[WCORE_REASON_LEN];
};

struct wcore_ops {
    /* Answers to the broker; nack puts the hint back. */
    void (*ack)(void *arg, struct wcore_delivery d);
    void (*nack)(void *arg, struct wcore_delivery d);
    /* Hints are wanted, or not. */
    void (*consume)(void *arg, bool on);
    /* Publishing. Not 0: nothing was sent; it is tried again. The send time of a claim and of a
     * beat is the time that was given to wcore_step(). Claims go to the queue of one manager, or
     * (NULL) to all, of whom the leading one answers. */
    int (*send_claims)(void *arg, const char *manager, struct wcore_attempt *const *list, size_t n,
                       int64_t beat);
    int (*send_results)(void *arg, struct wcore_attempt *const *list, size_t n);
    /* Must list every attempt in CLAIMING and, apart from it, every one from STARTING to ENDED. */
    int (*send_beat)(void *arg, int64_t beat);
    /* The task. `spec` is what came with the grant. Fills `ret` for WCORE_START_FAULT. */
    enum wcore_started (*start)(void *arg, struct wcore_attempt *a, const void *spec,
                                struct wcore_fault *ret);
    void (*lease)(void *arg, struct wcore_attempt *a); /* a->deadline is new */
    void (*stop)(void *arg, struct wcore_attempt *a, enum wcore_stop why, int64_t grace_ms);
    void (*kill)(void *arg, struct wcore_attempt *a); /* it did not stop in time */
    /* Makes the result of an attempt that was granted but is not started. */
    void (*conclude)(void *arg, struct wcore_attempt *a, enum wcore_verdict v, const char *why);
    /* The last that is heard of a granted attempt: its result is applied or not wanted. */
    void (*forget)(void *arg, struct wcore_attempt *a);
    uint64_t (*random)(void *arg);
    /* May be NULL: after each change of state, for the log. */
    void (*moved)(void *arg, const struct wcore_attempt *a, enum wcore_state from, const char *why);
};

struct wcore_settings {
    struct wcore_need capacity;
    int64_t heartbeat_ms;
    int64_t grace_ms; /* between TERM and KILL for a cancel */
};

struct wcore;

struct wcore *wcore_new(const struct wcore_ops *ops, void *arg, const struct wcore_settings *s);
void wcore_free(struct wcore *c); /* forgets silently: no operation is called */
void wcore_configure(struct wcore *c, const struct wcore_settings *s);

/* ---- before the first beat: what survived the last process ---- */
/* Not for a key that is known (NULL). `ended`: its result is there. */
struct wcore_attempt *wcore_adopt(struct wcore *c, int64_t now, const struct wcore_key *k,
                                  const struct wcore_need *need, int64_t token, int64_t lease_ms,
                                  bool ended, void *user);
/* All survivors are known: beats and then claims may begin. */
void wcore_ready(struct wcore *c, int64_t now);

/* ---- what this node can do ---- */
/* What a look at the node found: for each type of task that it knows, and (type NULL) for the node
 * as a whole, why it cannot start such tasks now, or NULL. To be called every few seconds, and when
 * wcore_look_due() has come: only then is offered again what was held off. Before the first call
 * every type is offered. Copied. */
struct wcore_able {
    const char *type;
    const char *why;
};
void wcore_on_look(struct wcore *c, int64_t now, const struct wcore_able *list, size_t n);
int64_t wcore_look_due(const struct wcore *c); /* INT64_MAX: nothing is held off */

/* What came of it, for beats and people. */
struct wcore_offer {
    char *type;    /* NULL: everything */
    char *why;     /* NULL: it is offered */
    int64_t until; /* not before; 0: as soon as a look finds it well */
    int64_t delay; /* of the last time off since something ran well; 0: none */
    bool able;     /* said the last look */
};
const struct wcore_offer *wcore_offers(const struct wcore *c, size_t *ret_n);

/* ---- the broker ---- */
enum wcore_link { WCORE_LINK_CONSUME, WCORE_LINK_PUBLISH };
/* Up: declared and usable. Deliveries do not outlive the consuming link. */
void wcore_on_link(struct wcore *c, int64_t now, enum wcore_link l, bool up);
struct wcore_hint {
    size_t n; /* 1 to WCORE_HINT_TASKS */
    struct {
        struct wcore_key key;
        struct wcore_need need;
        int64_t rank;
        char type[WCORE_TYPE_LEN]; /* "": not said */
    } tasks[WCORE_HINT_TASKS];
    char manager[WCORE_QUEUE_LEN]; /* queue of the one that fed it; "": unknown */
    struct wcore_delivery delivery;
    bool redelivered; /* it was with a worker before */
    bool directed; /* there is no delivery: it came to this worker alone, and is dropped silently */
    int64_t keep_ms; /* directed: so long it waits for room here; 0: as any other */
};
/* How many unanswered hints of a class are wanted. They may hold a quarter of our slots each, and
 * 32 at most: so large ones fill a worker twice, and small ones come fast enough. */
size_t wcore_prefetch(int slots);
/* It is answered when each of its tasks was granted, denied or given back: acked, or nacked where
 * one was given back. */
void wcore_on_hint(struct wcore *c, int64_t now, const struct wcore_hint *h);
/* Claims came back: this manager is gone. */
void wcore_on_manager_gone(struct wcore *c, int64_t now, const char *queue);
struct wcore_grant {
    struct wcore_key key;
    int64_t token;
    int64_t beat; /* of the claim it answers */
    int64_t lease_ms;
    struct wcore_need need;
    const char *type; /* NULL: not known */
    const void *spec; /* for the owner */
};
/* false: no claim is open for it, or it answers a claim that was given up before; dropped. */
bool wcore_on_grant(struct wcore *c, int64_t now, const struct wcore_grant *g);
enum wcore_deny {
    WCORE_DENY_DONE,   /* the hint is of no use any more */
    WCORE_DENY_RETRY,  /* ask again */
    WCORE_DENY_NOT_US, /* the hint is good, for others */
};
void wcore_on_deny(struct wcore *c, int64_t now, const struct wcore_key *k, enum wcore_deny how);
/* The answer to a beat: first what it says of single attempts, then wcore_on_beat_ack(), which
 * renews the leases of the others. false: we sent no such beat, or too long ago; nothing was done.
 */
void wcore_on_unsure(struct wcore *c, const struct wcore_key *k, int64_t beat);
/* Not ours, says an answer to this beat: stop it and forget it. */
void wcore_on_revoke(struct wcore *c, int64_t now, const struct wcore_key *k, int64_t beat);
bool wcore_on_beat_ack(struct wcore *c, int64_t now, int64_t beat);
/* So long after its last beat the cluster counts a worker dead: it beats three times in that. */
void wcore_on_dead_after(struct wcore *c, int64_t dead_after_ms);
void wcore_on_cancel(struct wcore *c, int64_t now, const struct wcore_key *k);
void wcore_on_drain(struct wcore *c, bool on);
/* Another worker of our name lives: no work is taken while that is so. */
void wcore_on_refused(struct wcore *c, bool on);
/* This process goes by another number from now on: what was claimed under the old one is given
 * back, for a grant of that could be lost to a beat of the new one. */
void wcore_on_renumbered(struct wcore *c);
void wcore_on_applied(struct wcore *c, const struct wcore_key *k);

/* ---- the task ---- */
void wcore_on_started(struct wcore *c, int64_t now, struct wcore_attempt *a);
/* fault NULL: it was started, or did not start for reasons of its own. */
void wcore_on_ended(struct wcore *c, int64_t now, struct wcore_attempt *a,
                    const struct wcore_fault *fault);
/* Something that managers should soon know. */
void wcore_on_news(struct wcore *c);

/* ---- time ---- */
/* `ms` more have passed than clock_boot_ms() counted: leases have so much less left. What is over
 * by that alone has a moment to be renewed, as in the shim, for a clock may also have been wrong.
 */
void wcore_on_gained(struct wcore *c, int64_t now, int64_t ms);
/* Returns when it wants to be called again (INT64_MAX: only after events). */
int64_t wcore_step(struct wcore *c, int64_t now);

/* ---- the end ---- */
/* No more work is taken; with stop_tasks what runs is stopped. */
void wcore_stop(struct wcore *c, int64_t now, bool stop_tasks);
/* Nothing is left that the owner should wait for: neither answers nor what is being started, which
 * the next process could not find yet. */
bool wcore_is_quiet(const struct wcore *c);
/* Claims that are still open are given back, then the last beat is sent. */
void wcore_last_beat(struct wcore *c, int64_t now);

/* ---- looking ---- */
struct wcore_attempt *wcore_find(struct wcore *c, const struct wcore_key *k); /* NULL */
struct list *wcore_in_state(struct wcore *c, enum wcore_state s);             /* of in_state */
size_t wcore_count(const struct wcore *c, enum wcore_state s);
int wcore_slots(const struct wcore *c);
int wcore_slots_free(const struct wcore *c); /* never negative */
bool wcore_is_draining(const struct wcore *c);
bool wcore_is_refused(const struct wcore *c);
int64_t wcore_heartbeat_ms(const struct wcore *c); /* how often it beats now */
bool wcore_is_holding_off(const struct wcore *c);  /* no task at all can be started */
bool wcore_has_stopped(const struct wcore *c);     /* the beat that is being sent is the last */

#endif
