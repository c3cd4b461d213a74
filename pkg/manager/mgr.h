/* mgr.h: the inside of `struct manager`, for the files of this folder only.
 *
 * manager.c owns it and wires the parts; each other file is one step of the protocol:
 *   accept.c   POST -> rows                 intake.c  claims and results from workers
 *   beats.c    leases renewed, orders told
 *   term.c     who leads, and how long      lead.c    ticks, reaping
 *   due.c      delays, queue timeouts
 *   look.c     get, wait, cancel, requeue   cluster.c what /health and /mgmt show
 *   logs.c     logs relayed from workers
 */
#ifndef SJE_MANAGER_MGR_H
#define SJE_MANAGER_MGR_H

#include "internal/db.h"
#include "internal/mq_watch.h"
#include "pkg/manager/feed.h"
#include "pkg/manager/fleet.h"
#include "pkg/manager/ledger.h"
#include "pkg/manager/manager.h"
#include "pkg/manager/messages.h"
#include "pkg/manager/store.h"

struct accept_batch;
struct waiter_task;
struct log_call;

enum retention_stage { RETAIN_TASKS, RETAIN_AUDIT, RETAIN_CLUSTER, RETENTION_STAGES };
/* How far the removal of what is too old has come (retention.c). */
struct retention {
    int64_t keep_tasks_ms; /* 0: for ever */
    int64_t keep_audit_ms;
    unsigned stage;
    char after[ID_TEXT_LEN]; /* cursor of the stage */
    bool busy;
    int64_t slice_end; /* boot ms */
    int64_t resume_at;
    int64_t removed; /* in this pass */
};

#define DUE_AHEAD_MS 1500 /* so far the leader looks ahead; more than a tick */
/* What the time will bring soon (due.c). */
struct due {
    uv_timer_t timer;
    struct due_entry *entries; /* those that wait, and those that are submitted */
    struct heap waiting;
    size_t submitted;
    int64_t scan_at; /* wall ms: then there may be something that is not known; INT64_MAX */
    int64_t scanned; /* boot ms */
    bool more;       /* the last read was full */
    /* of a manager that does not lead: for the leader */
    int64_t tell; /* the earliest that is not told yet; INT64_MAX: none */
    int64_t told; /* the last that was told */
    int64_t sent; /* boot ms */
};

/* Of the leader (term.c); kept when the lead is lost. */
struct term {
    bool electing;           /* the lock is held, the epoch is not known yet */
    bool asked;              /* the statement is in flight */
    bool settled;            /* the row's grace is ours, not that of leaders before */
    bool settling;           /* a statement about it is in flight */
    bool answered;           /* beats, at the last tick */
    bool looking;            /* for a later epoch in the row; in flight */
    int64_t epoch;           /* the last one in which we led; 0: none */
    int64_t heard;           /* the highest epoch that anybody told of */
    int64_t grace_ms;        /* as the row had it when we were elected */
    struct moment proved_at; /* when the lock was last proved before the lead was lost */
    uint64_t answers;        /* of the database on the session for the lock, at the last tick */
    int silent;              /* ticks since there was one more */
    int64_t leader_at;       /* boot ms: somebody led, or we could not have heard of it */
};

struct manager {
    uv_loop_t *loop;
    const struct task_types *types;
    char id[64]; /* host.pid.random: names its queue */
    char queue[96];
    int64_t heartbeat_ms;
    int64_t dead_after_ms; /* of the cluster, once the settings are read: of leases to be granted */
    int max_losses;
    int32_t grace_s;              /* beats are answered without the database */
    struct db_options db_options; /* strings owned by config_copy */
    struct config *config;        /* not owned; the one in force */

    struct db *db;      /* accept and ledger */
    struct db *db_read; /* what the manager itself reads: cannot delay a grant */
    struct db
        *db_people; /* what people ask for: cannot delay either, and takes no longer than 5 s */
    struct db *db_lists; /* what of that may take long: cannot delay the rest */
    struct mq *pub;
    struct mq *sub;
    bool db_ready; /* migrated */
    struct ledger *ledger;
    struct fleet fleet;
    struct feed *feed;
    struct db_lock *lock;
    int64_t epoch; /* 0: not leading */
    struct term term;
    int64_t clock_offset; /* database's wall ms - CLOCK_BOOTTIME ms */
    bool clock_known;
    int64_t clock_asked; /* boot ms; 0: no answer is awaited */
    int64_t clock_took;  /* how long the answer took that is in force */
    int clock_tries;     /* at once, after one that took long */
    int64_t clock_at;    /* when it came; boot ms */
    int64_t last_tick;
    int64_t full_at; /* boot ms: not before that is it said again that there are too many workers */
    int64_t crowded_at; /* the same of workers that offer too much */
    bool workers_unsaved;
    int running_scans; /* chains of pages that are being read */
    bool reaper_held;  /* most workers fell silent at once */
    int ticks;
    uv_timer_t tick;
    struct migrate *migrating;
    struct retention retention;
    struct due due;

    /* accept.c */
    struct list accept_waiting;
    size_t accept_waiting_tasks;
    struct list accept_large; /* requests */
    bool accept_large_sent;   /* the statement of one is under way */
    size_t accept_bytes;      /* of all requests that are not answered */
    size_t freed;             /* of answered ones, and of what beats told, since memory was last
                                 given back */
    size_t resident;          /* bytes of this process then, or less since */
    int accept_in_flight;
    uv_check_t accept_check;
    uv_idle_t accept_spin;
    /* intake.c */
    struct list to_answer;     /* claims, of which some are decided */
    struct list held_results;  /* whose write failed because the database was away */
    struct list results_aside; /* messages that stay with the broker until there is room */
    size_t results_open;       /* entries of the messages that are not acknowledged */
    size_t results_bytes;      /* of these messages */
    size_t claims_open;        /* submitted to the ledger, not answered */
    size_t lookups_open;       /* of attempts in beats that we do not know; the same */
    struct mq_watched results;
    struct mq_watch watch; /* of `sub` */
    /* look.c */
    struct waiter_task *waiters;
    bool polling; /* for what is waited for */
    /* cluster.c */
    struct list queues_asked; /* who gets the answer of the statement under way, */
    struct list queues_next;  /* and of the one behind it */
    /* logs.c */
    struct log_call *log_calls;
    int64_t next_rid;
    /* orders.c */
    uint64_t orders;  /* given here */
    json_t *settings; /* as the database has them; NULL: not read yet */
    int64_t settings_version;
    bool seeding; /* the cluster's own values are being written down */
    bool seeded;  /* they are there */
    settings_fn *on_settings;
    void *on_settings_arg;
    /* notices.c: to be told to the other managers */
    struct id finals[256];
    size_t n_finals;
    int64_t others_until; /* other managers were heard: they are told of ends until then */
    struct task_ref granted[256];
    size_t n_granted;
    uv_timer_t notice_timer;

    char url[MANAGER_URL_MAX]; /* of our API, for workers; "": unknown */
    bool url_is_local;         /* a loopback address: on another machine it is that one's own */
    bool stopping;
    int closing;      /* parts still to close */
    int cancels_open; /* notices of cancels whose rows are being read */
    void (*on_stopped)(void *arg);
    void *on_stopped_arg;
};

/* Wall ms by the database's clock, immune to jumps of ours. */
int64_t mgr_now(const struct manager *m);
/* Transient message to one queue; lost where the broker is away. */
void mgr_send(struct manager *m, const char *exchange, const char *key, const struct buf *body);
/* The publishing connection, or NULL while it is down. */
struct mq *mgr_publisher(void *arg);

/* accept.c */
void accept_init(struct manager *m);
void accept_stop(struct manager *m); /* answers what waits */
void accept_tick(struct manager *m);
/* To the leader, where that is another manager. */
void accept_tell_ready(struct manager *m, const struct task *row);

/* intake.c */
void intake_up(struct manager *m);      /* the consuming connection is new: declare and consume */
void intake_retry(struct manager *m);   /* the database is back */
void intake_take_up(struct manager *m); /* results that were too much, as far as there is room */
void intake_drop(struct manager *m);    /* deliveries of a lost connection */
void intake_answer(struct manager *m);  /* tells workers which of their claims are decided */
/* What an answer tells that no change of ours told: another manager's change, or one of ours whose
 * COMMIT we did not hear of. */
void intake_learn(struct manager *m, const struct id *task, const struct ledger_answer *a);

/* beats.c */
/* ERR_CONFLICT: older than what is known. ERR_BUSY: taken, but only the leader answers. */
int beats_take(struct manager *m, const struct beat *b, struct buf *answer);

/* term.c */
void term_start(struct manager *m);
void term_tick(struct manager *m);
void term_end(struct manager *m);
void term_heard(struct manager *m, int64_t epoch);
/* Seconds for which the database owes an answer; 0: not for too long. */
int term_db_silent_s(const struct manager *m);
/* Neither this manager nor any other that it would hear of. */
bool term_nobody_leads(const struct manager *m);
bool term_answers(const struct manager *m); /* that no leader declares lost what a beat renews */

/* manager.c: our API's URL as a worker on that machine reaches it; "": it does not. */
const char *mgr_url_for(const struct manager *m, const char *host);

/* lead.c */
void lead_begin(struct manager *m); /* elected */
void lead_tick(struct manager *m);
void lead_freeze(struct manager *m);
void lead_tell_cancel(struct manager *m, const struct task *row);
void lead_cancel(struct manager *m, const struct task_ref *r); /* another manager says so */
void lead_lost(struct manager *m, struct lease *l, const char *why);
void lead_worker_seen(const struct fleet_worker *w);
void lead_refuse(struct manager *m, struct fleet_worker *w); /* another one of its name lives */
void lead_replaced(struct manager *m, struct fleet_worker *w);

/* due.c */
void due_init(struct manager *m);
void due_done(struct manager *m);                        /* the ledger is closed */
void due_begin(struct manager *m);                       /* elected */
void due_tick(struct manager *m);                        /* by the leader */
void due_row(struct manager *m, const struct task *row); /* a row changed, or is new */
void due_heard(struct manager *m, int64_t at);           /* another manager says so */

/* retention.c */
void retention_configure(struct manager *m, const struct config *c);
void retention_tick(struct manager *m); /* by the leader */

/* look.c */
void look_changed(struct manager *m, const struct task *row);
void look_final(struct manager *m, const struct id *id); /* by another manager */
void look_tick(struct manager *m);
void look_stop(struct manager *m);

/* notices.c */
void notices_init(struct manager *m);
void notices_change(struct manager *m, enum task_state from, const struct task *row);
void notices_due(struct manager *m, int64_t at);
void notices_orders(struct manager *m);
void notices_leader(struct manager *m);
void notices_here(struct manager *m); /* by one that does not lead, now and then */
void notices_heard(struct manager *m, const char *from); /* of ends; NULL: an earlier version */

/* orders.c */
void orders_read(struct manager *m);

/* logs.c */
void logs_reply(struct manager *m, const struct message *msg);
void logs_tick(struct manager *m);
void logs_stop(struct manager *m);

#endif
