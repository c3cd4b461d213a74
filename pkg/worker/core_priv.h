/* core_priv.h: shared by core.c (attempts, results), core_beat.c (beats, leases) and core_intake.c
 * (hints, slots, claims, consumers). Nobody else includes it. */
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
    int64_t used;        /* slots of CLAIMING to STOPPING */

    bool up[2]; /* by enum wcore_link */
    bool ready;
    bool draining;
    bool refused;
    bool stopping;
    bool stop_tasks;
    bool stopped;

    /* core_intake.c */
    struct heap waiting; /* HELD, first what is to be claimed first */
    bool consuming;      /* what the owner was told last */
    bool full;           /* too many attempts are open */
    bool paused;         /* hints were given back because the first did not fit */
    int32_t pause_slots; /* that many it needs */
    int64_t paused_until;
    int64_t blocked_since; /* INT64_MAX: the first hint is not blocked */
    int64_t hold_off_until;
    char *silent; /* queue of the last manager that did not answer; NULL */
    int64_t silent_until;

    int64_t beat;     /* number of the last one sent */
    int64_t every_ms; /* until the next regular one */
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

/* core_beat.c */
int64_t wcore_beat_due(const struct wcore *c);
void wcore_send_beat(struct wcore *c, int64_t now);

/* core_intake.c */
void wcore_intake_init(struct wcore *c);
void wcore_close_hint(struct wcore *c, struct wcore_attempt *a, bool ack);
void wcore_claim_due(struct wcore *c, int64_t now, struct wcore_attempt *a);
void wcore_lose_hint(struct wcore_attempt *a);
void wcore_lose_hints(struct wcore *c);
/* Opens, closes, pauses the intake and claims what fits. */
void wcore_intake(struct wcore *c, int64_t now);
void wcore_send_claims(struct wcore *c, int64_t now);
int64_t wcore_intake_due(const struct wcore *c);

#endif
