/* messages.h: the messages of docs/protocol.md that managers send and take, to and from JSON text.
 * No I/O.
 *
 * Readers take the whole body of a peer: bounded, any member may be missing or of a wrong type
 * (ERR_PARSE then; a text or number that only describes is absent where it is absurd). What they
 * return points into the parsed document, which `doc` owns; message_free() ends it all.
 */
#ifndef SJE_MANAGER_MESSAGES_H
#define SJE_MANAGER_MESSAGES_H

#include "internal/str.h"
#include "pkg/manager/fleet.h"
#include "pkg/task/step.h"

#define MESSAGE_MAX    (256 * 1024)
#define TAKEN_MAX      (4 * MESSAGE_MAX) /* from a peer; a longer body is ERR_TOO_LARGE */
#define GRANT_MAX      (1536 * 1024)     /* a message with a single large grant */
#define HINT_TASKS     32                /* in one hint */
#define HINT_MAX       16384             /* bytes; workers take no more */
#define HINT_TASK_SIZE 224               /* of a task in it, without the name of its type */
#define HINT_HEAD_SIZE 512
#define HINT_ID_LEN    64
#define ENTRIES_MAX    1000
#define BEAT_RUNS_MAX  (10 * ENTRIES_MAX) /* that a beat may list */
#define BEAT_ACK_MAX   (4 * MESSAGE_MAX)
#define POOLS_MAX      64
#define TYPES_MAX      256
#define TYPE_MAX       128 /* bytes of a name */

struct hint_task {
    struct id id;
    int32_t attempt;
    int64_t rank;
    struct need need; /* its type: at most TYPE_MAX bytes, else it is not said */
};
/* At most so many bytes of a hint are this task's. */
size_t hint_task_size(const struct hint_task *t);
/* Appends the body (keep_ms 0: the worker gives back what it cannot start soon) and writes the
 * message id. n: 1 to HINT_TASKS, the sum of their sizes at most HINT_MAX - HINT_HEAD_SIZE. reply:
 * the queue that takes the claims. */
void hint_write(struct buf *b, char message_id[HINT_ID_LEN], const struct hint_task *tasks,
                size_t n, const char *reply, int keep_ms);

struct claim_msg {
    struct who who;
    const char *reply;
    int64_t beat;
    size_t n;
    struct {
        struct id task;
        int32_t attempt;
    } * claims;
};

struct result_entry {
    struct id task;
    int32_t attempt;
    int64_t token;
    enum task_outcome outcome;
    char *error; /* JSON text, owned by the message; NULL where absent */
    char *output;
    char *progress;
    const char *warning;
    const char *application_id;
    int64_t started_at;
    char *signature; /* what another worker could die of too; owned; NULL */
};
struct result_msg {
    struct who who;
    const char *reply;
    size_t n;
    struct result_entry *results;
};

struct task_ref {
    struct id task;
    int32_t attempt;
};

enum message_type {
    MSG_CLAIM,
    MSG_BEAT,
    MSG_RESULTS,
    MSG_READY,
    MSG_FINAL,
    MSG_GRANTED,
    MSG_CANCEL,
    MSG_ORDERS,
    MSG_LEADER,
    MSG_DUE,
    MSG_LOG
};
struct message {
    enum message_type type;
    json_t *doc;
    struct claim_msg claim;
    struct beat beat;
    struct beat_run *running; /* owned; beat.running points to it */
    struct beat_run *claiming;
    struct result_msg results;
    const char *pool;  /* MSG_READY */
    int64_t rank;      /* MSG_READY: of the best one; INT64_MIN: unknown */
    struct need need;  /* MSG_READY; type NULL: unknown */
    int64_t at;        /* MSG_DUE; wall ms */
    int64_t epoch;     /* MSG_LEADER */
    struct id *finals; /* MSG_FINAL; owned */
    const char *from;  /* MSG_FINAL: the manager that tells; NULL: of an earlier version */
    size_t n_finals;
    struct task_ref *tasks; /* MSG_GRANTED, MSG_CANCEL; owned */
    size_t n_tasks;
    /* MSG_LOG: a header line, then bytes */
    int64_t rid;
    bool found;
    bool ended;
    int64_t size;
    int64_t offset;
    struct str data; /* points into the body */
};
int message_read(struct str body, struct message *m, struct err *reterr) NODISCARD;
void message_free(struct message *m); /* for CLEANUP(message_free) */

/* The head of an answer to a worker; url "": unknown. */
void answer_begin(struct buf *b, const char *type, const char *manager, const char *url,
                  const struct who *to);
/* The member that says for whom a message is: whoever else gets it drops it. */
void addressee_write(struct buf *b, const struct who *to);

/* Parts of a grants message are appended one by one between begin and end. */
void grants_begin(struct buf *b, const char *manager, const char *url, const struct who *to);
/* elsewhere: another worker could take it too. */
void grants_add(struct buf *b, bool first, const struct task *row, int64_t lease_ms,
                bool elsewhere);
void grants_denies(struct buf *b);
void deny_add(struct buf *b, bool first, const struct id *task, int32_t attempt,
              const char *reason);
void grants_end(struct buf *b);

/* A task of the pool is ready; `need`: one that asks for as much as this one. */
void ready_write(struct buf *b, const struct task *row, bool need);

/* {"v":1,"type":TYPE,"tasks":[{task,attempt}…]} for "cancel", "applied" and "granted". */
void tasks_write(struct buf *b, const char *type, const struct who *to, const struct task_ref *refs,
                 size_t n);
void refs_write(struct buf *b, const struct task_ref *refs, size_t n); /* the array alone */
void finals_write(struct buf *b, const char *manager, const struct id *ids, size_t n);

#endif
