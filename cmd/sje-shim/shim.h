/* shim.h: one running task.
 *
 *   worker ──starts──> keeper ──forks──> guardian ──forks──> task
 *
 * Two processes of a few hundred KiB stand between the worker and the task, so that the task
 * outlives a restart of the worker and yet never outlives its lease.
 *
 * - The keeper (keeper.c, stream.c, record.c) owns all that touches the disk: the plan, the log,
 * the exit record. It may hang as long as the disk does.
 * - The guardian (guardian.c, control.c, task.c, cgroup.c) owns the task's life: it starts it,
 * holds its lease and its limit of time, obeys the worker, kills what is left. Once it has begun it
 *   touches no file but those of /proc and of cgroups, so nothing that hangs can keep it from that.
 *
 * Each is the other's backstop. The guardian dies: all that it has started falls to the keeper,
 * which kills it and says in the record that it was lost. The guardian stands still: the keeper
 * kills it KEEPER_WAIT_MS after the lease and its grace are over. The keeper dies: the guardian
 * kills the task; nobody is left to say what became of it. The keeper stands still: the guardian
 * ends the task in time, and the record is written when the keeper goes on.
 *
 * libc alone, one thread and one poll loop each: what happens is noted, one function decides. The
 * working directory is the attempt's directory; all files are named relative to it. Times are
 * CLOCK_BOOTTIME ms unless they are called wall. Formats: pkg/executors/plan.h and docs/protocol.md
 * (Worker and shim).
 */
#ifndef SJE_SHIM_SHIM_H
#define SJE_SHIM_SHIM_H

#include "pkg/executors/plan.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONNS_MAX 4

#define KILL_RETRY_MS  10   /* a tree that forks while it is being killed */
#define KILL_ROUNDS    50   /* at once */
#define WALK_AFTER_MS  100  /* of killing: what is still there may have children that live */
#define WALK_REST      10   /* times as long as a walk takes, until the next */
#define TELL_AGAIN_MS  20   /* after TERM: for those that were begun meanwhile; each time twice */
#define TELL_REST_MS   1000 /* as long, up to this */
#define FORKED_MS      100  /* after that a child has executed its program, or will not */
#define KEEPER_WAIT_MS 1000 /* for a guardian that is late */
#define STARTED_AFTER_MS                                                                           \
    200                      /* a run of that length is written down for the next worker process   \
                              */
#define LOG_RETRY_MS    1000 /* after the disk was full */
#define SYNC_RECORD_MS  1000 /* a run of that length is worth an fsync */
#define SYNC_TRIES      3
#define CLOCK_JUMP_MS   1000  /* of the wall clock, ahead of CLOCK_BOOTTIME */
#define TASK_OOM_ADJUST "500" /* when memory is short: rather a task than the worker */
#define NEVER           INT64_MAX
#define NUMBER_MAX      ((int64_t)1000 * 1000 * 1000 * 1000 * 1000)

struct plan {
    char **argv;
    char **envp;
    char **needs;  /* KIND:PATH */
    gid_t *groups; /* the first is the primary one */
    size_t group_count;
    int64_t user; /* 0: ours */
    const char *cwd;
    const char *stdin_file;
    const char *cgroup;
    int64_t timeout_ms;
    int64_t grace_ms;
    int64_t lease_until; /* NEVER where there is none */
    int64_t log_limit;
    int64_t memory_max;
    bool detach;
    bool hold_term;
};

/* One output of the task and its log. */
struct stream {
    const char *name;
    int pipe; /* -1: ended */
    int file; /* the last segment; -1: none open */
    int64_t offset;
    int64_t dropped; /* of these, not taken by the disk */
    int error;       /* the errno of the first that was not; 0: none */
    int64_t gap_end; /* where what was dropped last ends */
    size_t tail_len;
    char tail[PLAN_TAIL]; /* the end of that */
    int reserve;          /* the file with room for it; -1: none */
    int64_t segment_size;
    int64_t starts[PLAN_SEGMENTS]; /* offsets of the segments that are kept */
    int count;
    int64_t retry_at;
};

struct conn {
    int fd; /* -1: free */
    size_t len;
    char line[PLAN_LINE_MAX];
};

/* A timer for one time on CLOCK_BOOTTIME: it fires as soon as a machine that slept is awake. */
struct alarm {
    int fd;
    int64_t at;
};

/* What became of the task so far: in a page that both see. The guardian writes it; the keeper when
 * that is dead. */
struct fate {
    _Atomic int64_t lease_until;
    _Atomic int64_t killing_at; /* what is left was last killed at that time; 0: not yet */
    pid_t pid;                  /* 0: not started */
    bool launched;              /* exec succeeded */
    _Atomic bool main_gone;     /* reaped, status is valid */
    bool killed;                /* we sent SIGKILL while the main process was there */
    bool oom;
    const char *stage; /* NULL, or where the start went wrong: see pkg/executors/fault.c */
    int error;         /* and its errno */
    int status;
    int64_t started;
    int64_t started_wall;
    int64_t finished_wall; /* 0: not yet */
    int64_t max_rss_kb;
    int64_t cpu_ms;
    const char *reason; /* NULL while it may run on */
    char message[256];
};

/* What is said over the link between the two, a byte each. */
enum word {
    SAY_ENDED = 'e',    /* guardian: nothing of the task is left, its fate is complete */
    SAY_RECORDED = 'r', /* keeper: the exit record is written */
};

struct shim {
    struct plan plan;
    const char *plan_error; /* NULL: there is a plan */
    struct fate *fate;
    pid_t keeper;
    mode_t umask; /* the worker's */
    int signals;
    int link; /* to the other one */
    struct alarm alarm;
    bool no_child;        /* no descendant is left */
    int64_t walk_at;      /* below what does not die; 0: nothing is killed yet */
    int64_t newest;       /* of that at the last walk: when it began */
    bool met_new;         /* by that; it may not be dead yet */
    struct process *told; /* sent TERM, as far as they were there at the last walk; by number */
    size_t told_count;
    int64_t told_since; /* in ticks; 0: nobody is told */
    int64_t tell_rest;
    int64_t term_at; /* who came since is told; NEVER: nobody is */

    /* the keeper's */
    pid_t guardian;
    struct stream out;
    struct stream err;
    int64_t overdue_at; /* NEVER, or when the guardian was seen to be late */
    int64_t tell_at;    /* when the run is written down; NEVER: it is */
    bool ended;         /* it said so */
    bool guardian_gone;
    int guardian_status; /* as from waitpid() */

    /* the guardian's */
    pid_t self;
    int listener;
    int clock_set; /* becomes readable when somebody sets the wall clock */
    struct conn conns[CONNS_MAX];
    int task_out; /* for the task: ends of pipes to the keeper */
    int task_err;
    int report;         /* from the child that is to become the task; -1: over */
    int64_t oom_kills;  /* of the whole machine, at the start */
    char cgroup[512];   /* made for the task; "" : none */
    int64_t wall_ahead; /* of CLOCK_BOOTTIME, when it was last looked at */
    bool locked;        /* its memory, or that was tried */
    int lock_error;
    bool in_doubt;   /* the lease ends by what the wall clock says */
    int64_t kill_at; /* NEVER while nobody asked */
    bool killing;
    int64_t next_kill;
    int64_t give_up_at;
    bool recorded;
    bool alone; /* the keeper is dead */
};

/* ---- util.c ---- */
int64_t boot_ms(void);
int64_t wall_ms(void);
/* Decimal digits alone, about NUMBER_MAX at most: sums of a few do not overflow. */
bool parse_number(const char *text, int64_t *ret);
void note(struct shim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for what keeps anything from being started. */
void launch_failed(struct shim *s, const char *stage, const char *what, int error);
/* Reads at most n - 1 bytes of a small file and terminates them; bytes read or -1. */
ssize_t read_text(const char *path, char *text, size_t n);
bool write_text(const char *path, const char *text);
bool alarm_open(struct alarm *a);
void alarm_set(struct alarm *a, int64_t at); /* NEVER: off */
void alarm_take(struct alarm *a);            /* it has fired */

/* ---- plan.c ---- */
/* Strings stay in `text`, which is changed and must outlive the plan. NULL, or what is wrong. */
const char *plan_parse(char *text, size_t len, struct plan *ret);
const char *plan_load(struct plan *ret);

/* ---- keeper.c ---- */
/* Everything from the plan to the record. Returns the exit status. */
int keeper_run(struct shim *s);
/* In its place after launch_failed(): the record alone. */
int keeper_unable(struct shim *s);

/* ---- guardian.c ---- */
/* In the process of its own that keeper_run() forks. */
void guardian_run(struct shim *s) __attribute__((noreturn));
/* TERM to all that there is, and KILL to what is left after the grace, whatever became of the main
 * process. The first reason stays; a later stop brings KILL forward at most, and another `cancel`
 * or `timeout` not even that. */
void stop_task(struct shim *s, const char *reason, int64_t grace_ms);
void set_lease(struct shim *s, int64_t until);

/* ---- task.c: starting it ---- */
/* Returns at once. What goes wrong is noted with reason `launch`, here or by task_report(). */
void task_start(struct shim *s);
/* Takes what the child has to say by now: that the program is executed, or why not. To be asked
 * before it is killed, and at its end. */
void task_report(struct shim *s);

/* ---- user.c: whom the task runs as ---- */
/* Its output becomes its own too, for programs that open /dev/stdout. False with errno: the process
 * must not go on. Nothing is done where the plan names nobody. */
bool user_become(const struct plan *p);
/* The rights to files alone, for what is in its directories; and back. */
void user_begin(const struct plan *p);
void user_end(const struct plan *p);

/* ---- tree.c: all of the processes below this one ---- */
/* TERM to every descendant that was not told yet, once each; sets term_at, when to look again for
 * those that came too late for this. */
void tree_term(struct shim *s);
/* Kills again and again, and reaps; no_child tells whether anything is left. To be called every
 * KILL_RETRY_MS until nothing is. */
void tree_kill(struct shim *s);
/* All that is left was killed before, and does not die: it hangs in the kernel. */
bool tree_stays(const struct shim *s);
void tree_reap(struct shim *s);

/* ---- cgroup.c ---- */
void group_name(struct shim *s); /* after the attempt's directory, so that the worker finds it */
void group_make(struct shim *s);
void group_enter(const struct shim *s); /* in the child */
void group_kill(const struct shim *s);
int64_t group_oom_kills(const struct shim *s); /* -1: unknown */
void group_remove(struct shim *s);
int64_t machine_oom_kills(void); /* -1: unknown */
int64_t machine_forks(void);     /* the same */

/* ---- stream.c ---- */
void stream_init(struct stream *t, const char *name, int64_t log_limit);
void stream_open(struct stream *t, int pipe);
/* Takes what is there now, at most `max` bytes. */
void stream_copy(struct stream *t, size_t max);
/* Room for the tail, so that a full disk does not cost the end of what the task said. Twice is
 * fine. */
void stream_reserve(struct stream *t);
/* The task is gone: takes the rest and closes. `sync`: until the disk has it. */
void stream_finish(struct stream *t, bool sync);

/* ---- control.c ---- */
/* By the keeper, which makes the socket. False where another shim was here before. */
bool control_open(struct shim *s, int stdin_fd);
void control_leave(struct shim *s); /* by the keeper: the connections are the guardian's */
void control_close(void);           /* by the keeper: nobody shall connect any more */
void control_hello(struct shim *s); /* the task is started, or not */
void control_accept(struct shim *s);
void control_read(struct shim *s, struct conn *c);
void control_bye(struct shim *s);

/* ---- record.c ---- */
/* Room for the record, so that a full disk cannot keep us from writing it. */
void record_reserve(void);
/* For the worker that comes after a restart: who is to be looked for if we are both killed. */
void record_started(const struct shim *s);
/* True where the run was so long that its record must outlive a power failure. */
bool record_is_dear(const struct shim *s);
bool record_write(struct shim *s);

#endif
