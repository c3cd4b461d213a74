#include "pkg/manager/ledger.h"

#include "internal/list.h"
#include "pkg/manager/store.h"

#include <stdlib.h>
#include <uthash.h>

#define BATCH_ROWS   500
#define BATCH_BYTES  (8u << 20) /* a batch ends before it is larger, by one row at most */
#define LOAD_ROWS    32         /* at least; more while rows are small */
#define BATCH_EVENTS 8          /* of one task in one batch */
#define TRIES_MAX    5

struct item {
    struct list_node node; /* entry->pending, or the batch's list */
    struct task_event ev;  /* strings owned */
    int64_t epoch;
    uint64_t since; /* l->sent when it came */
    int tries;      /* that came to nothing */
    ledger_fn *cb;
    void *arg;
    enum step_rc step;
    const char *reason;
};

/* One row. In exactly one place: idle (in the LRU list), dirty (events wait), loading or writing.
 */
enum entry_state { ENTRY_IDLE, ENTRY_DIRTY, ENTRY_LOADING, ENTRY_WRITING };

struct entry {
    struct id id;
    UT_hash_handle hh;
    struct list_node node; /* lru, dirty or the batch's entries */
    enum entry_state state;
    bool loaded;
    bool alone;     /* the database refused a batch with it: one event at a time now */
    uint64_t as_of; /* number of the statement that read or wrote the row; 0: an offered one */
    struct task row;
    struct task next; /* while WRITING: the row as it is to be */
    struct list pending;
    struct list applied; /* while WRITING: items decided by this batch */
    struct task_audit audit[BATCH_EVENTS];
    size_t n_audit;
};

struct batch {
    struct ledger *l;
    uint64_t number;
    struct list entries;
};

struct ledger {
    struct ledger_options o;
    struct entry *entries;
    struct list lru;
    struct list dirty;
    size_t bytes; /* of idle entries */
    size_t pending;
    uint64_t sent;    /* statements */
    size_t load_rows; /* in the next load: as many as the rows of the last one allow */
    int in_flight;
    bool closing;
    uv_check_t gather; /* events of one turn of the loop go into one batch */
    uv_idle_t spin;    /* keeps the turn from sleeping while something is gathered */
    int open_handles;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* ---- items ---- */

#define EVENT_STRINGS(X)                                                                           \
    X(error) X(output) X(progress) X(application_id) X(signature) X(warning) X(reason)

static struct item *item_new(const struct task_event *ev, int64_t epoch, ledger_fn *cb, void *arg)
{
    struct item *it = xmalloc(sizeof(*it));

    it->ev = *ev;
#define X(field) it->ev.field = xstrdup(ev->field);
    EVENT_STRINGS(X)
#undef X
    it->epoch = epoch;
    it->cb = cb;
    it->arg = arg;
    return it;
}

static void item_free(struct item *it)
{
#define X(field) freep(&it->ev.field);
    EVENT_STRINGS(X)
#undef X
    free(it);
}

static void item_answer(struct ledger *l, struct item *it, int rc, const struct task *t,
                        const struct err *why)
{
    l->pending--;
    if (it->cb) {
        struct ledger_answer a = {rc, it->step, it->reason ? it->reason : "", t, why};
        it->cb(it->arg, &a);
    }
    item_free(it);
}

/* ---- entries ---- */

static size_t text_bytes(const char *s)
{
    return s ? strlen(s) : 0;
}

static size_t row_bytes(const struct task *t)
{
    return 400 + text_bytes(t->spec) + text_bytes(t->output) + text_bytes(t->error);
}

static size_t entry_bytes(const struct entry *e)
{
    return sizeof(*e) + row_bytes(&e->row);
}

static void entry_free(struct ledger *l, struct entry *e)
{
    MUST(e->pending.count == 0 && e->applied.count == 0);
    HASH_DEL(l->entries, e);
    task_done(&e->row);
    task_done(&e->next);
    free(e);
}

/* Takes the entry out of whatever list holds it. */
static void entry_detach(struct ledger *l, struct entry *e)
{
    if (e->state == ENTRY_IDLE && list_linked(&e->node)) {
        l->bytes -= entry_bytes(e);
    }
    if (list_linked(&e->node)) {
        list_remove(&e->node);
    }
}

static void entry_idle(struct ledger *l, struct entry *e)
{
    entry_detach(l, e);
    e->state = ENTRY_IDLE;
    e->alone = false;
    if (!e->loaded || task_state_final(e->row.state)) {
        entry_free(l, e);
        return;
    }
    list_push(&l->lru, &e->node);
    l->bytes += entry_bytes(e);
    while (l->bytes > l->o.cache_bytes && l->lru.count > 1) {
        struct entry *old = LIST_ENTRY(list_first(&l->lru), struct entry, node);

        entry_detach(l, old);
        entry_free(l, old);
    }
}

static void on_spin(uv_idle_t *h)
{
    (void)h;
}

static void wake(struct ledger *l)
{
    if (!l->closing) {
        MUST(uv_idle_start(&l->spin, on_spin) == 0);
    }
}

static void entry_dirty(struct ledger *l, struct entry *e)
{
    entry_detach(l, e);
    e->state = ENTRY_DIRTY;
    list_push(&l->dirty, &e->node);
    wake(l);
}

/* After a batch: more events may have come meanwhile. */
static void entry_release(struct ledger *l, struct entry *e)
{
    if (e->pending.count) {
        entry_dirty(l, e);
    } else {
        entry_idle(l, e);
    }
}

static struct entry *entry_find(struct ledger *l, const struct id *id)
{
    struct entry *e = NULL;

    HASH_FIND(hh, l->entries, id, sizeof(*id), e);
    return e;
}

static struct entry *entry_get(struct ledger *l, const struct id *id)
{
    struct entry *e = entry_find(l, id);

    if (!e) {
        e = xmalloc(sizeof(*e));
        e->id = *id;
        list_init(&e->pending);
        list_init(&e->applied);
        HASH_ADD(hh, l->entries, id, sizeof(e->id), e);
    }
    return e;
}

static void entry_set_row(struct entry *e, const struct task *row)
{
    task_done(&e->row);
    task_copy(&e->row, row);
    e->loaded = true;
}

/* ---- batches ---- */

static struct batch *batch_new(struct ledger *l)
{
    struct batch *b = xmalloc(sizeof(*b));

    b->l = l;
    b->number = ++l->sent;
    list_init(&b->entries);
    return b;
}

static void batch_add(struct batch *b, struct entry *e, enum entry_state s)
{
    entry_detach(b->l, e);
    e->state = s;
    list_push(&b->entries, &e->node);
}

static void batch_end(struct batch *b)
{
    struct ledger *l = b->l;

    MUST(b->entries.count == 0);
    free(b);
    l->in_flight--;
    if (l->o.on_batch) {
        l->o.on_batch(l->o.arg);
    }
    if (l->dirty.count) {
        wake(l);
    }
}

static void answer_all(struct ledger *l, struct list *items, int rc, const struct task *t,
                       const struct err *why)
{
    struct list_node *n;

    while ((n = list_pop(items))) {
        item_answer(l, CONTAINER_OF(n, struct item, node), rc, t, why);
    }
}

static void clear_audit(struct entry *e)
{
    for (size_t i = 0; i < e->n_audit; i++) {
        task_audit_done(&e->audit[i]);
    }
    e->n_audit = 0;
}

/* How large rows are shows only when they are here. */
static void adapt_loads(struct ledger *l, const struct task *rows, size_t n)
{
    size_t bytes = 0;

    for (size_t i = 0; i < n; i++) {
        bytes += row_bytes(&rows[i]);
    }
    if (bytes > BATCH_BYTES) {
        l->load_rows = MAX(l->load_rows / 4, (size_t)LOAD_ROWS);
    } else if (bytes < BATCH_BYTES / 4) {
        l->load_rows = MIN(l->load_rows * 2, (size_t)BATCH_ROWS);
    }
}

static void on_loaded(void *arg, int rc, const struct task *rows, size_t n, const struct err *why)
{
    struct batch *b = arg;
    struct ledger *l = b->l;
    static const struct err none = {ERR_NOT_FOUND, "no such task"};
    struct list_node *node;

    adapt_loads(l, rows, n);
    for (size_t i = 0; i < n; i++) {
        struct entry *e = entry_find(l, &rows[i].id);

        if (e && e->state == ENTRY_LOADING) {
            entry_set_row(e, &rows[i]);
            e->as_of = b->number;
        }
    }
    while ((node = list_first(&b->entries))) {
        struct entry *e = CONTAINER_OF(node, struct entry, node);

        entry_detach(l, e);
        if (!e->loaded) {
            answer_all(l, &e->pending, rc < 0 ? rc : ERR_NOT_FOUND, NULL, rc < 0 ? why : &none);
        }
        entry_release(l, e);
    }
    batch_end(b);
}

/* The change is in the database. */
static void entry_written(struct ledger *l, struct entry *e, uint64_t number)
{
    enum task_state from = e->row.state;
    struct list_node *n;

    task_done(&e->row);
    e->row = e->next;
    e->next = (struct task){0};
    e->as_of = number;
    e->alone = false;
    l->o.on_change(l->o.arg, from, &e->row);
    while ((n = list_pop(&e->applied))) {
        item_answer(l, CONTAINER_OF(n, struct item, node), 0, &e->row, NULL);
    }
}

/* Puts decided events back in front of those that wait, to be decided again; those that had their
 * tries are answered. */
static void entry_again(struct ledger *l, struct entry *e, int rc)
{
    struct err why = {0};
    struct list_node *n;

    while ((n = e->applied.count ? e->applied.head.prev : NULL)) {
        struct item *it = CONTAINER_OF(n, struct item, node);

        list_remove(n);
        if (++it->tries < TRIES_MAX || (rc == 0 && it->epoch == 0)) {
            list_push_front(&e->pending, n);
        } else if (rc == 0) {
            /* It is no longer the leader's to decide; who leads looks again by itself. */
            it->step = STEP_REFUSED;
            it->reason = "superseded";
            item_answer(l, it, 0, NULL, NULL);
        } else {
            err_set(&why, ERR_BUSY, "the database has too many conflicts now");
            item_answer(l, it, ERR_BUSY, NULL, &why);
        }
    }
}

/* rc 0: somebody else changed the row. ERR_CONFLICT: nothing happened. ERR_DB and ERR_TOO_LARGE:
 * nothing happened, because of this row or of another one in the batch. Else it is not known what
 * happened. */
static void entry_not_written(struct ledger *l, struct entry *e, int rc, const struct err *why)
{
    bool refused = rc == ERR_DB || rc == ERR_TOO_LARGE;

    task_done(&e->next);
    e->loaded = false;
    if (rc == 0 || rc == ERR_CONFLICT || (refused && !e->alone)) {
        e->alone = refused;
        entry_again(l, e, rc);
        return;
    }
    answer_all(l, &e->applied, rc, NULL, why);
    if (!refused) {
        answer_all(l, &e->pending, rc, NULL, why);
    }
}

static void on_batch_written(void *arg, int rc, const struct id *written, size_t n,
                             const struct err *why)
{
    struct batch *b = arg;
    struct ledger *l = b->l;
    struct list_node *node;

    for (size_t i = 0; i < n; i++) {
        struct entry *e = entry_find(l, &written[i]);

        MUST(e && e->state == ENTRY_WRITING);
        entry_written(l, e, b->number);
        clear_audit(e);
        entry_detach(l, e);
        entry_release(l, e);
    }
    while ((node = list_first(&b->entries))) {
        struct entry *e = CONTAINER_OF(node, struct entry, node);

        entry_not_written(l, e, rc, why);
        clear_audit(e);
        entry_detach(l, e);
        entry_release(l, e);
    }
    batch_end(b);
}

/* Decides the entry's events, as far as they fit into one batch with this epoch. True: there is
 * something to write. */
static bool decide(struct ledger *l, struct entry *e, int64_t epoch)
{
    size_t most = e->alone ? 1 : BATCH_EVENTS;
    struct list_node *n;

    task_copy(&e->next, &e->row);
    while (e->n_audit < most && (n = list_first(&e->pending))) {
        struct item *it = CONTAINER_OF(n, struct item, node);

        if (it->epoch != epoch) {
            break;
        }
        it->step = task_step(&e->next, &it->ev, &e->audit[e->n_audit], &it->reason);
        if (it->step == STEP_APPLIED || it->step == STEP_RECORD) {
            e->n_audit++;
        } else if (e->n_audit == 0 && e->as_of <= it->since) {
            /* Nothing will be written that would show the row to be old: it is read again. */
            e->loaded = false;
            break;
        }
        list_remove(n);
        if (e->n_audit) {
            list_push(&e->applied, n); /* true only if the batch is written */
        } else {
            item_answer(l, it, 0, &e->row, NULL);
        }
    }
    if (e->n_audit == 0) {
        task_done(&e->next);
        return false;
    }
    return true;
}

/* What the entry's change takes in a statement. */
static size_t change_bytes(const struct entry *e)
{
    const struct task *t = &e->next;
    size_t bytes = 500 + text_bytes(t->application_id) + text_bytes(t->loss_signature) +
                   text_bytes(t->returned_by) + text_bytes(t->failed_on) + text_bytes(t->progress) +
                   text_bytes(t->output) + text_bytes(t->error);

    for (size_t i = 0; i < e->n_audit; i++) {
        bytes += 100 + text_bytes(e->audit[i].worker_id) + text_bytes(e->audit[i].detail);
    }
    return bytes;
}

static int by_id(const void *a, const void *b)
{
    const struct store_change *x = a;
    const struct store_change *y = b;

    return memcmp(x->row->id.b, y->row->id.b, ID_LEN);
}

static void write_batch(struct ledger *l, int64_t epoch)
{
    struct batch *b = batch_new(l);
    struct store_change *changes CLEANUP(freep) = xcalloc(BATCH_ROWS, sizeof(*changes));
    struct err why = {0};
    size_t bytes = 0;
    size_t n = 0;
    bool full = false;

    l->in_flight++;
    LIST_EACH(&l->dirty, node)
    {
        struct entry *e = CONTAINER_OF(node, struct entry, node);
        struct list_node *first = list_first(&e->pending);

        if (full || n == BATCH_ROWS || bytes >= BATCH_BYTES) {
            break;
        }
        if (!e->loaded || CONTAINER_OF(first, struct item, node)->epoch != epoch ||
            (e->alone && n)) {
            continue;
        }
        /* Out of the list first: an answer may submit another event for this task. */
        batch_add(b, e, ENTRY_WRITING);
        if (decide(l, e, epoch)) {
            changes[n++] = (struct store_change){&e->next, &e->row, e->audit, e->n_audit};
            bytes += change_bytes(e);
            full = e->alone;
        } else {
            entry_detach(l, e);
            entry_release(l, e);
        }
    }
    if (n == 0) {
        batch_end(b);
        return;
    }
    qsort(changes, n, sizeof(*changes), by_id);
    int rc = store_write(l->o.db, changes, n, epoch, on_batch_written, b);
    if (rc < 0) {
        err_set(&why, rc, "%s", err_text(rc));
        on_batch_written(b, rc, NULL, 0, &why);
    }
}

static void load_batch(struct ledger *l)
{
    struct batch *b = batch_new(l);
    struct id *ids CLEANUP(freep) = xcalloc(BATCH_ROWS, sizeof(*ids));
    struct err why = {0};
    size_t n = 0;

    l->in_flight++;
    LIST_EACH(&l->dirty, node)
    {
        struct entry *e = CONTAINER_OF(node, struct entry, node);

        if (n == l->load_rows) {
            break;
        }
        if (!e->loaded) {
            batch_add(b, e, ENTRY_LOADING);
            ids[n++] = e->id;
        }
    }
    int rc = store_load(l->o.db, ids, n, on_loaded, b);
    if (rc < 0) {
        err_set(&why, rc, "%s", err_text(rc));
        on_loaded(b, rc, NULL, 0, &why);
    }
}

/* What the dirty entries need first: a load, or a write under some epoch. */
static bool next_need(struct ledger *l, bool *ret_load, int64_t *ret_epoch)
{
    struct list_node *n = list_first(&l->dirty);

    if (!n) {
        return false;
    }
    struct entry *e = CONTAINER_OF(n, struct entry, node);
    *ret_load = !e->loaded;
    *ret_epoch = CONTAINER_OF(list_first(&e->pending), struct item, node)->epoch;
    return true;
}

static void on_gather(uv_check_t *h)
{
    struct ledger *l = h->data;
    bool load = false;
    int64_t epoch = 0;

    uv_idle_stop(&l->spin);
    while (l->in_flight < l->o.in_flight && next_need(l, &load, &epoch)) {
        if (load) {
            load_batch(l);
        } else {
            write_batch(l, epoch);
        }
    }
}

/* ---- life ---- */

struct ledger *ledger_new(const struct ledger_options *o)
{
    struct ledger *l = xmalloc(sizeof(*l));

    l->o = *o;
    list_init(&l->lru);
    list_init(&l->dirty);
    l->load_rows = LOAD_ROWS;
    MUST(uv_check_init(o->loop, &l->gather) == 0);
    MUST(uv_idle_init(o->loop, &l->spin) == 0);
    l->gather.data = l;
    l->spin.data = l;
    l->open_handles = 2;
    MUST(uv_check_start(&l->gather, on_gather) == 0);
    return l;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct ledger *l = h->data;

    if (--l->open_handles) {
        return;
    }
    struct entry *e;
    struct entry *tmp;
    HASH_ITER(hh, l->entries, e, tmp)
    {
        entry_detach(l, e);
        entry_free(l, e);
    }
    if (l->on_closed) {
        l->on_closed(l->on_closed_arg);
    }
    free(l);
}

void ledger_close(struct ledger *l, void (*on_closed)(void *arg), void *arg)
{
    static const struct err why = {ERR_CLOSED, "closing down"};
    struct list_node *n;

    MUST(!l->closing && l->in_flight == 0);
    l->closing = true;
    l->on_closed = on_closed;
    l->on_closed_arg = arg;
    while ((n = list_first(&l->dirty))) {
        struct entry *e = CONTAINER_OF(n, struct entry, node);

        answer_all(l, &e->pending, ERR_CLOSED, NULL, &why);
        entry_idle(l, e);
    }
    uv_close((uv_handle_t *)&l->gather, on_handle_closed);
    uv_close((uv_handle_t *)&l->spin, on_handle_closed);
}

/* ---- calls ---- */

void ledger_submit(struct ledger *l, const struct id *id, const struct task_event *ev,
                   int64_t epoch, ledger_fn *cb, void *arg)
{
    static const struct err why = {ERR_CLOSED, "closing down"};
    struct item *it = item_new(ev, epoch, cb, arg);

    l->pending++;
    it->since = l->sent;
    if (l->closing) {
        item_answer(l, it, ERR_CLOSED, NULL, &why);
        return;
    }
    struct entry *e = entry_get(l, id);
    list_push(&e->pending, &it->node);
    if (e->state == ENTRY_IDLE) {
        entry_dirty(l, e);
    }
}

void ledger_offer(struct ledger *l, const struct task *row)
{
    if (l->closing || task_state_final(row->state) || !row->spec) {
        return;
    }
    struct entry *e = entry_get(l, &row->id);
    if (e->state == ENTRY_WRITING || (e->loaded && e->row.seq >= row->seq)) {
        return;
    }
    if (e->state == ENTRY_IDLE) {
        entry_detach(l, e);
    }
    entry_set_row(e, row);
    if (e->state == ENTRY_IDLE) {
        entry_idle(l, e);
    }
}

const struct task *ledger_peek(struct ledger *l, const struct id *id)
{
    struct entry *e = entry_find(l, id);

    return e && e->loaded ? &e->row : NULL;
}

size_t ledger_pending(const struct ledger *l)
{
    return l->pending;
}
