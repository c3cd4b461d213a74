/* worker_priv.h: shared by worker.c (start, stop, events) and worker_ops.c (what the core asks
 * for). Nobody else includes it. */
#ifndef SJE_WORKER_WORKER_PRIV_H
#define SJE_WORKER_WORKER_PRIV_H

#include "internal/clock.h"
#include "pkg/worker/detour.h"
#include "pkg/worker/links.h"
#include "pkg/worker/logs.h"
#include "pkg/worker/look.h"
#include "pkg/worker/run.h"
#include "pkg/worker/tidy.h"
#include "pkg/worker/workdir.h"
#include "pkg/worker/worker.h"

#define WORKER_HOST_MAX   256
#define WORKER_FIELDS_MAX 80

/* The work directory is written to: one at a time, on a copy of what `worker` has of it. */
struct dir_work {
    struct lane_job job;
    bool under_way;
    struct workdir dir;
    int64_t above; /* a number that somebody has used; 0: tasks/ is looked for */
    char other_host[WORKER_HOST_MAX];
    int64_t other_pid;
    bool new_tasks;
    int rc;
    struct err why;
};

enum stop_state { RUNNING, STOPPING, CLOSING };

struct worker {
    uv_loop_t *loop;
    const struct config *config;
    const struct exec_node *node; /* a reference */
    struct task_user *task_user;  /* that tasks run as; NULL: ours */
    struct task_types types;
    struct workdir dir;
    struct dir_work dir_work;
    char *shim_path;
    char *program_dir; /* where it lies, and our other programs */
    char *cgroup;
    char host[WORKER_HOST_MAX];
    int64_t started_at; /* wall ms */
    struct moment looked_at_clock;
    struct looks looks; /* at the node */
    int64_t looked_at;  /* when the last of them began, boot ms */
    char *offered;      /* what the log says that we offer */
    char *unable;       /* and what not */

    int heartbeat_s;       /* of the configuration in force */
    int64_t dead_after_ms; /* of the cluster, as managers say; 0: not heard */

    struct wcore *core;
    struct run_context runs;
    struct lane lane; /* reads logs, and writes down where managers are */
    struct links *links;
    struct detour *detour;
    int64_t unanswered_since; /* boot ms: the first beat after the last answer; 0: none */
    int64_t hurry_at;         /* an answer should be there by then; 0: nothing is waited for */
    bool silent;              /* the broker brings no answers */
    unsigned silent_beats;
    bool detouring; /* what the log says */
    struct logs *logs;
    struct tidy *tidy;
    uv_prepare_t turn;
    uv_timer_t timer;
    int64_t progress_at; /* when progress was news last */

    enum stop_state stop;
    bool stop_tasks;
    int64_t stop_by;
    int open_parts;
    void (*on_stopped)(void *arg);
    void *stopped_arg;
};

/* How long an answer to a beat may take before it is tried in another way. */
int64_t worker_patience_ms(const struct worker *w);

/* Tells people what is offered now, where that has changed. */
void worker_tell_offers(struct worker *w);

extern const struct wcore_ops worker_ops; /* their argument is the struct worker */

/* "task=… attempt=…" for the log. */
const char *worker_fields(const struct wcore_key *k, char text[WORKER_FIELDS_MAX]);

#endif
