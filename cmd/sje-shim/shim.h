/* shim.h: one running task.
 *
 * A process of a few hundred KiB that stands between the worker and the task, so that the task
 * outlives a restart of the worker and yet never outlives its lease. libc alone, one thread, one
 * poll loop: what happens is noted in `struct shim`, decide() in main.c acts on it. The working
 * directory is the attempt's directory; all files are named relative to it. Times are
 * CLOCK_BOOTTIME ms unless they are called wall. Formats: pkg/executors/plan.h and docs/protocol.md
 * (Worker and shim).
 */
#ifndef SJE_SHIM_SHIM_H
#define SJE_SHIM_SHIM_H

#include "pkg/executors/plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONNS_MAX 4

#define KILL_RETRY_MS   10    /* a tree that forks while it is being killed */
#define KILL_ROUNDS     50    /* at once */
#define KILL_GIVE_UP_MS 30000 /* processes that even SIGKILL does not end: uninterruptible I/O */
#define LOG_RETRY_MS    1000  /* after the disk was full */
#define SYNC_RECORD_MS  1000  /* a run of that length is worth an fsync */
#define TASK_OOM_ADJUST "500" /* when memory is short: rather a task than the worker */
#define NEVER           INT64_MAX
#define NUMBER_MAX      ((int64_t)1000 * 1000 * 1000 * 1000 * 1000)

struct plan {
    char **argv;
    char **envp;
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

struct shim {
    struct plan plan;
    pid_t self;
    mode_t umask; /* the worker's */
    int signals;
    int timer;
    int64_t timer_at;
    int listener;
    struct conn conns[CONNS_MAX];
    struct stream out;
    struct stream err;

    /* the task */
    pid_t pid;      /* 0: not started */
    bool launched;  /* exec succeeded */
    bool main_gone; /* reaped, status is valid */
    bool no_child;  /* no descendant is left */
    int status;
    int64_t started_wall;
    int64_t started;
    int64_t oom_kills; /* of the whole machine, at the start */
    char cgroup[512];  /* made for the task; "" : none */

    /* its end */
    const char *reason; /* NULL while it may run on */
    int64_t kill_at;    /* NEVER while nobody asked */
    bool killing;
    bool killed; /* we sent SIGKILL while the main process was there */
    int64_t next_kill;
    int64_t give_up_at;
    char message[256];
    const char *stage; /* NULL, or where the start went wrong: see pkg/executors/fault.c */
    int error;         /* and its errno */
};

/* ---- util.c ---- */
int64_t boot_ms(void);
int64_t wall_ms(void);
/* Decimal digits alone, about NUMBER_MAX at most: sums of a few do not overflow. */
bool parse_number(const char *text, int64_t *ret);
void note(struct shim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Reads at most n - 1 bytes of a small file and terminates them; bytes read or -1. */
ssize_t read_text(const char *path, char *text, size_t n);
bool write_text(const char *path, const char *text);

/* ---- plan.c ---- */
/* Strings stay in `text`, which is changed and must outlive the plan. NULL, or what is wrong. */
const char *plan_parse(char *text, size_t len, struct plan *ret);
const char *plan_load(struct plan *ret);

/* ---- task.c: starting it ---- */
/* Returns when the program is executed. What goes wrong is noted with reason `launch`. */
void task_start(struct shim *s);

/* ---- tree.c: all of its processes ---- */
/* Sends `sig` to every descendant, as far as they stand still. */
void tree_signal(int sig);
/* Kills our children: one step of killing all. */
void tree_kill(void);

/* ---- cgroup.c ---- */
void group_make(struct shim *s);
void group_enter(const struct shim *s); /* in the child */
void group_kill(const struct shim *s);
int64_t group_oom_kills(const struct shim *s); /* -1: unknown */
void group_remove(struct shim *s);
int64_t machine_oom_kills(void); /* -1: unknown */

/* ---- stream.c ---- */
void stream_init(struct stream *t, const char *name, int64_t log_limit);
void stream_open(struct stream *t, int pipe);
/* Takes what is there now, at most `max` bytes. */
void stream_copy(struct stream *t, size_t max);
/* The task is gone: takes the rest and closes. */
void stream_finish(struct stream *t);

/* ---- control.c ---- */
/* False where another shim was here before. */
bool control_open(struct shim *s, int stdin_fd);
void control_hello(struct shim *s); /* the task is started, or not */
void control_accept(struct shim *s);
void control_read(struct shim *s, struct conn *c);
void control_bye(struct shim *s);

/* ---- record.c ---- */
/* Room for the record, so that a full disk cannot keep us from writing it. */
void record_reserve(void);
bool record_write(struct shim *s);

/* ---- main.c ---- */
/* The first reason stays; a later stop can only bring KILL forward. */
void stop_task(struct shim *s, const char *reason, int64_t grace_ms);

#endif
