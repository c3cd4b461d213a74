/* core_priv.h: shared by core.c (attempts, results), core_beat.c (beats, leases), core_intake.c
 * (hints, slots, claims, consumers) and core_offer.c (what the node can do). Nobody else includes
 * it. */
#ifndef SJE_WORKER_CORE_PRIV_H
#define SJE_WORKER_CORE_PRIV_H

#include "pkg/worker/core.h"

#define WCORE_BEATS_REMEMBERED 256

struct wcore {
    const struct wcore_ops *ops;
    void *arg;
    struct wcore_settings set;

    struct wcore_attempt *table; /* uthash, by key */
    struct list in_state[WCORE_STATE_COUNT];
    struct heap timers;
    struct list claims;  /* to be sent in this step */
    struct list results; /* the same */
    struct wcore_room {  /* by CLAIMING to STOPPING */
        int64_t slots;
        int64_t cpus_milli;
        int64_t memory_mb;
    } used;

    bool up[2]; /* by enum wcore_link */
    bool ready;
    bool draining;
    bool refused;
    bool stopping;
    bool stop_tasks;
    bool stopped;

    /* core_intake.c */
    struct heap waiting;          /* HELD, first what is to be claimed first */
    bool consuming;               /* what the owner was told last */
    bool full;                    /* too many attempts are open */
    bool paused;                  /* hints were given back, for want of slots */
    struct wcore_need pause_need; /* what it needs */
    int64_t paused_until;
    int64_t gather_until;  /* no claims before */
    int64_t blocked_since; /* INT64_MAX: the first hint is not blocked */
    char *silent;          /* queue of the last manager that did not answer; NULL */
    int64_t silent_until;

    /* core_offer.c */
    struct wcore_offer *offers; /* the first is the node as a whole */
    size_t n_offers;
    bool looked; /* else every type is offered */

    int64_t beat;          /* number of the last one sent */
    int64_t every_ms;      /* until the next regular one */
    int64_t dead_after_ms; /* of the cluster; 0: not heard */
    int64_t beat_tried_at;
    int64_t beat_at; /* when the next regular one is due */
    bool news;
    int eager; /* beats that are sent sooner, for want of any answer */
    struct {
        int64_t beat;
        int64_t sent_at;
    } beats[WCORE_BEATS_REMEMBERED];
};

/* core.c */
struct wcore_attempt *wcore_add(struct wcore *c, const struct wcore_key *k);
void wcore_move(struct wcore *c, struct wcore_attempt *a, enum wcore_state to, const char *why);
void wcore_drop(struct wcore *c, struct wcore_attempt *a, const char *why); /* to GONE; frees */
void wcore_set_timer(struct wcore *c, struct wcore_attempt *a, int64_t due);

/* The timer of what is granted and has not ended: its lease, or its kill. */
void wcore_watch(struct wcore *c, struct wcore_attempt *a);

/* core_offer.c */
void wcore_offers_init(struct wcore *c);
void wcore_offers_done(struct wcore *c);
/* NULL: tasks of this type (NULL: one of which it is not known) can be started. Else why not. */
const char *wcore_unable(const struct wcore *c, const char *type);
void wcore_hold_off(struct wcore *c, int64_t now, const char *type, const struct wcore_fault *f);
/* This one shows that such tasks run here. That it was started does not: the shim says so before it
 * knows. Each does it once, or old ones would speak for new ones for ever. */
void wcore_prove(struct wcore *c, struct wcore_attempt *a);

/* core_beat.c */
int64_t wcore_beat_due(const struct wcore *c);
void wcore_send_beat(struct wcore *c, int64_t now);

/* core_intake.c */
void wcore_intake_init(struct wcore *c);
bool wcore_fits(const struct wcore *c, const struct wcore_need *need);
/* The need is for more than the node has at all. */
bool wcore_oversized(const struct wcore *c, const struct wcore_need *need);
/* What is held and cannot be started any more goes back. */
void wcore_give_back_unable(struct wcore *c);
void wcore_pause(struct wcore *c, int64_t now, const struct wcore_need *need);
void wcore_close_hint(struct wcore *c, struct wcore_attempt *a, bool ack);
void wcore_claim_due(struct wcore *c, int64_t now, struct wcore_attempt *a);
void wcore_lose_hint(struct wcore_attempt *a);
void wcore_lose_hints(struct wcore *c);
/* Opens, closes, pauses the intake and claims what fits. */
void wcore_intake(struct wcore *c, int64_t now);
void wcore_send_claims(struct wcore *c, int64_t now);
int64_t wcore_intake_due(const struct wcore *c);

#endif
