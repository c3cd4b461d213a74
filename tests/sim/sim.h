/* sim.h: a world of managers, workers, a broker and a database in virtual time, in one process.
 *
 * What decides is the product's own code, linked unchanged: pkg/manager (but store.c), pkg/task and
 * pkg/worker down to links.c, with the real messages between them. Simulated is what touches the
 * world: libuv (uv.c), clocks and chance (world.c), the broker behind mq.h (broker.c), the database
 * behind db.h and store.h (base.c), nodes with shims and tasks behind run.h (node.c). Everything is
 * drawn from one seed, so a schedule replays exactly. See docs/reliability.md.
 *
 * Memory of a schedule is never given back one by one: a crashed process frees nothing. Each batch
 * of schedules has a process of its own.
 */
#ifndef SJE_SIM_H
#define SJE_SIM_H

#include "internal/config.h"
#include "internal/id.h"
#include "internal/list.h"
#include "pkg/manager/manager.h"
#include "pkg/manager/store.h"
#include "pkg/worker/worker.h"

#include <uv.h>

#define SIM_WALL 1700000000000

/* ---- world.c: time, chance, events ---- */

struct node_clock {
    int64_t boot_off;
    int64_t wall_off;
    int64_t ppm; /* drift of the boot clock */
};

enum proc_kind { PROC_MANAGER, PROC_WORKER };

struct node;
struct dir;
struct handles {
    void **h;
    size_t n;
    size_t cap;
};

struct proc {
    char name[16];
    enum proc_kind kind;
    struct node_clock *clock;
    struct node *node;    /* of a worker */
    struct dir *dir;      /* its work directory */
    struct dir *next_dir; /* of the next process */
    struct config *config;
    bool alive;
    bool paused;
    bool stopping;
    bool no_broker; /* partitioned */
    bool no_http;
    bool no_base;
    bool still;   /* its machine is stopped */
    bool apart;   /* on the side of a split network that has neither broker nor database */
    uint32_t gen; /* raised by each start and end */
    uv_loop_t loop;
    struct handles timers;
    struct handles idles;
    struct handles checks;
    struct handles prepares;
    struct list closing; /* of struct closing */
    int64_t wake_at;
    struct list stalled; /* of struct event, while paused */
    struct manager *manager;
    struct worker *worker;
};

#define SIM_PROCS 9
struct world {
    uint64_t seed;
    uint64_t schedule;
    uint64_t rng;
    int64_t now; /* real time, ms */
    uint64_t events;
    uint64_t hash; /* of the trace */
    struct proc *cur;
    struct proc procs[SIM_PROCS];
    size_t n_procs;
    size_t n_managers;
    bool calm; /* faults have ceased */
    bool done;
    bool violated;
    char why[400];
    bool deaf;               /* a consumer was not told that its queue is gone */
    int64_t last_bad_broker; /* when messages were last destroyed */
};
extern struct world *world;
extern bool sim_trace_on;

uint64_t draw(void);
int64_t between(int64_t lo, int64_t hi);
bool chance(int per_mille);

/* In `p` (NULL: the world itself) at `at`; dropped where p was restarted meanwhile, late where it
 * is paused. */
void sim_at(int64_t at, struct proc *p, void (*fn)(void *arg), void *arg);
void sim_run(void); /* until world->done or a violation */
void trace(const char *fmt, ...) PRINTF(1, 2);
void trace_dump(void);
void violation(const char *fmt, ...) PRINTF(1, 2);

int64_t boot_of(const struct node_clock *c);
int64_t real_of_boot(const struct node_clock *c, int64_t boot);
int64_t wall_now(void); /* the database's */

void proc_enter(struct proc *p, void (*fn)(void *arg), void *arg); /* one turn of its loop */
void proc_pause(struct proc *p);
void proc_resume(struct proc *p);
void proc_start(struct proc *p);
void proc_crash(struct proc *p);
void proc_stop(struct proc *p); /* ordered */

/* ---- broker.c ---- */
void broker_init(void);
void broker_crash_of(struct proc *p); /* the kernel closes its sockets */
void broker_cut(struct proc *p, bool silent);
void broker_stop(bool wipe);
void broker_start(void);
void broker_alarm(bool on);
void broker_delete_some_queue(void);
void broker_calm(void);
/* Hints, claims or results are left; `stale_too`: also hints of tasks that have ended. */
bool broker_has_work(bool stale_too, char text[200]);
void broker_inject(const char *exchange, const char *key, const char *body, size_t len);

/* ---- forge.c: messages that no process of the cluster sends ---- */
void forge_init(bool on);
void forge_note(const char *exchange, const char *key, const char *body, size_t len);
/* Beats, claims and results of earlier once more, and beats in the name of a worker. */
void forge_some(void);

/* ---- base.c ---- */
struct row {
    struct task t;
    int64_t seq_at;
    bool cancel_told; /* a client was told CANCELLED */
};
void base_init(void);
void base_crash_of(struct proc *p);
void base_cut(struct proc *p, bool silent);
struct proc *base_leader(void); /* who holds the lock; NULL */
void base_lose_lock(void);      /* its holder learns it later */
void base_stop(void);
void base_start(void);
void base_slow(bool on);
void base_calm(void);
struct row *base_row(const struct id *id);
size_t base_rows(void);
struct row *base_row_at(size_t i);
int64_t base_epoch(void);

/* ---- node.c ---- */
#define DIR_SHIMS 64
/* A work directory. */
struct dir {
    struct id uuid; /* incarnation 0: none yet */
    int64_t incarnation;
    char managers[200]; /* where they can be reached, one a line */
    struct shim *shims[DIR_SHIMS];
    size_t n_shims;
};
#define NODE_DIRS 2
/* What a node cannot start. */
enum { UNABLE_COMMAND = 1, UNABLE_NOOP = 2, UNABLE_ALL = 4 };
struct node {
    char id[8];
    struct node_clock clock;
    struct dir dirs[NODE_DIRS];
    unsigned unable; /* now */
    unsigned never;
};
enum truth { TRUTH_SUCCEEDED, TRUTH_FAILED, TRUTH_RETURNED };
void node_reboot(struct node *n);
void node_kill_shim(struct node *n);
/* What really became of that attempt. */
bool node_saw(const struct id *task, int32_t attempt, int64_t token, enum truth what);
bool node_runs(const struct id *task);
bool node_is_busy(const struct node *n);
/* That attempt runs, and its lease is not over. */
bool node_runs_safely(const struct id *task, int32_t attempt, int64_t token);
void nodes_init(void);

/* ---- faults.c ---- */
void faults_init(void);
bool faults_need_time(void); /* some harm takes a task that runs for long */
void restart(void *arg);     /* of a struct proc, as soon as it has ended */

/* ---- plan.c: clients, the beginning, the end ---- */
void plan_init(void);
int32_t plan_run_ms(const struct id *task);
void plan_row_written(const struct task *before, const struct task *after, const char *event);

/* ---- uv.c ---- */
void uv_turn(struct proc *p); /* what follows the callbacks of one poll */
void uv_forget(struct proc *p);

#endif
