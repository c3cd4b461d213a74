/* store.h: all SQL on tasks. One statement each, one transaction each; results come by callback.
 *
 * Callers own nothing that they pass in: rows are encoded before a call returns. Rows handed to a
 * callback are valid during it (task_copy() to keep). Errors are those of db.h; ERR_CONFLICT comes
 * from writes alone, and there too means that nothing happened.
 */
#ifndef SJE_MANAGER_STORE_H
#define SJE_MANAGER_STORE_H

#include "internal/db.h"
#include "pkg/manager/manager.h"
#include "pkg/manager/offers.h"
#include "pkg/task/step.h"

/* A decision to be written: `row` as it is to be, based on `before`, with its audit lines. */
struct store_change {
    const struct task *row;
    const struct task *before;
    const struct task_audit *audit;
    size_t n_audit;
};

typedef void store_done_fn(void *arg, int rc, const struct err *why);
/* written: the tasks whose change was written; the others were changed by somebody else meanwhile.
 */
typedef void store_written_fn(void *arg, int rc, const struct id *written, size_t n,
                              const struct err *why);
typedef void store_rows_fn(void *arg, int rc, const struct task *rows, size_t n,
                           const struct err *why);

/* New tasks, each with its first audit line. */
int store_insert(struct db *db, const struct task *rows, size_t n, store_done_fn *cb,
                 void *arg) NODISCARD;

/* The same under an Idempotency-Key. `ids` are the tasks of the first answer, and where it was
 * given before, `states` what they are now (0: not kept any more), else NULL. ERR_CONFLICT: another
 * body; ERR_BUSY: somebody else is answering this very key: ask again. */
typedef void store_keyed_fn(void *arg, int rc, const struct id *ids, const enum task_state *states,
                            size_t n, const struct err *why);
int store_insert_keyed(struct db *db, const struct task *rows, size_t n, const char *key,
                       const struct accept_hash *hash, store_keyed_fn *cb, void *arg) NODISCARD;

/* epoch 0: any manager may write this; else only while the leader of that epoch leads. `changes`
 * must be sorted by task id, so that two managers cannot lock each other out. */
int store_write(struct db *db, const struct store_change *changes, size_t n, int64_t epoch,
                store_written_fn *cb, void *arg) NODISCARD;

int store_load(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb,
               void *arg) NODISCARD;
int store_load_final(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb,
                     void *arg) NODISCARD; /* of them that have ended, 50 at most */
/* Scans and lists leave out output, progress, error and spec (NULL) of rows that are too large to
 * be read by the thousand; such a row is not whole. */
/* READY tasks of a pool that the filter takes, in the order of dispatch, behind (rank, id). So many
 * rows are looked at and no more: where that is not all of them the last of the answer, if there
 * are less than `limit`, tells how far it looked, and may be one that the filter does not take. */
typedef void store_ready_fn(void *arg, int rc, const struct task *rows, size_t n, bool all,
                            const struct err *why);
int store_scan_ready(struct db *db, const char *pool, int64_t rank, const struct id *after,
                     const struct offers_filter *filter, int limit, store_ready_fn *cb,
                     void *arg) NODISCARD;
int store_scan_fed(struct db *db, const char *pool, int limit, store_rows_fn *cb,
                   void *arg) NODISCARD;
/* What is due, or late in its queue, at this time: the first ones. */
int store_scan_due(struct db *db, int64_t now, int limit, store_rows_fn *cb, void *arg) NODISCARD;
int store_scan_queue_timeout(struct db *db, int64_t now, int limit, store_rows_fn *cb,
                             void *arg) NODISCARD;
int store_scan_running(struct db *db, const struct id *after, int limit, store_rows_fn *cb,
                       void *arg) NODISCARD;
/* What people list has its own plan each time, on a connection with these settings. A bitmap is of
 * all that an index has, also of rows that are dead, and is not in its order. */
#define STORE_PLAN_SETTINGS                                                                        \
    "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_mergejoin=off -c jit=off "           \
    "-c max_parallel_workers_per_gather=0"
#define STORE_LIST_SETTINGS STORE_PLAN_SETTINGS " -c plan_cache_mode=force_custom_plan"
int store_list(struct db *db, const struct list_filter *f, store_rows_fn *cb, void *arg) NODISCARD;
/* Its statement and parameters, for tests that ask for the plan. */
const char *store_list_sql(const struct list_filter *f);
void store_list_params(struct db_params *p, const struct list_filter *f);
int store_events(struct db *db, const struct id *id, events_fn *cb, void *arg) NODISCARD;

#endif
