/* ledger.h: the one way by which tasks change.
 *
 * Events come from claims, results, cancels, the reaper, ...; the ledger gathers them into batches,
 * loads the rows that it does not hold, lets task_step() decide and writes rows and audit by
 * compare-and-set on seq. A row that somebody else changed meanwhile is loaded and decided again,
 * so no event is decided on an old row. Events of one task are applied in the order they came.
 *
 * The ledger keeps recently used rows (bounded); they may be old, never wrong: a write tells by
 * itself, and before an event is refused or taken for a repetition the row is read again, unless it
 * was read or written after the event came.
 *
 * Batches are bounded in rows and bytes. Where the database refuses a batch, its rows are written
 * one by one, so that one bad event hurts no other.
 */
#ifndef SJE_MANAGER_LEDGER_H
#define SJE_MANAGER_LEDGER_H

#include "internal/db.h"
#include "pkg/task/step.h"

#include <uv.h>

struct ledger;

/* The answer to one event. rc 0: `step` and the row after it (NULL for a leader's event that was
 * overtaken). ERR_NOT_FOUND: no such task. ERR_DB, ERR_TOO_LARGE: the database does not take what
 * this event makes of the row; nothing was changed. Else rc < 0: not known to be written (database
 * away, overloaded): the event may be repeated. Never ERR_CONFLICT. */
struct ledger_answer {
    int rc;
    enum step_rc step;
    const char *reason; /* for a refusal; never NULL */
    const struct task *task;
    const struct err *why;
};
typedef void ledger_fn(void *arg, const struct ledger_answer *a);

/* Called for every row that was written, before the callbacks of its events: `from` is the state
 * before them. */
typedef void ledger_hook_fn(void *arg, enum task_state from, const struct task *task);

struct ledger_options {
    uv_loop_t *loop;
    struct db *db;
    ledger_hook_fn *on_change;
    void (*on_batch)(void *arg); /* the events of a batch have been answered; may be NULL */
    void *arg;
    int in_flight;      /* batches at a time */
    size_t cache_bytes; /* for rows that nobody waits for */
};

struct ledger *ledger_new(const struct ledger_options *o);
/* Pending events are answered ERR_CLOSED; batches in flight must have been answered (close the db
 * first). */
void ledger_close(struct ledger *l, void (*on_closed)(void *arg), void *arg);

/* Copies the event. `epoch` 0 for what any manager may do, else the leader's. cb may be NULL. */
void ledger_submit(struct ledger *l, const struct id *id, const struct task_event *ev,
                   int64_t epoch, ledger_fn *cb, void *arg);

/* Gives the ledger a row that was just read or written, to save a load. Older rows than its own are
 * ignored, and rows without a spec. */
void ledger_offer(struct ledger *l, const struct task *row);
/* The row as the ledger knows it, or NULL. Not for decisions. */
const struct task *ledger_peek(struct ledger *l, const struct id *id);
/* Events not yet answered. */
size_t ledger_pending(const struct ledger *l);

#endif
