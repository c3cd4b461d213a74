/* The feeder over a broker and a database that live in this file: to whom a task goes, and what
 * becomes of a hint that nobody claims. Time is real: the waits are what is tested. */
#include "internal/clock.h"
#include "internal/str.h"
#include "pkg/manager/feed.h"
#include "pkg/manager/messages.h"
#include "pkg/manager/store.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DEADLINE_MS 10000

static uv_loop_t loop;
static uv_timer_t tick;
static struct fleet fleet;
static struct feed *feed;
static uint32_t depth; /* of each shared queue */
static int depths_asked;
static int declared; /* queues */
static int scans;
static int scan_ms;    /* so long does one take */
static size_t look_at; /* so many READY rows, and no more */
static int scans_fail;
static int confirm_with;
static const char *gone; /* a queue that is not there */

/* ---- what was published ---- */

struct sent {
    char queue[64];
    struct id task; /* the first of the hint */
    int tasks;
};
static struct sent sent[2000];
static int n_sent;

struct answer {
    uv_timer_t timer;
    mq_confirm_fn *confirm;
    mq_done_fn *done;
    store_rows_fn *rows;
    store_ready_fn *ready;
    bool all;
    void *arg;
    int rc;
    struct task found[1000];
    size_t n;
};

static void on_answer_closed(uv_handle_t *h)
{
    struct answer *a = h->data;

    for (size_t i = 0; i < a->n; i++) {
        task_done(&a->found[i]);
    }
    free(a);
}

static void on_answer(uv_timer_t *t)
{
    struct answer *a = t->data;

    if (a->confirm) {
        a->confirm(a->arg, a->rc);
    } else if (a->done) {
        a->done(a->arg, 0, NULL, depth);
    } else if (a->ready) {
        struct err why = {a->rc, "it took too long"};

        a->ready(a->arg, a->rc, a->found, a->n, a->all, a->rc < 0 ? &why : NULL);
    } else if (a->rows) {
        a->rows(a->arg, 0, a->found, a->n, NULL);
    }
    uv_close((uv_handle_t *)t, on_answer_closed);
}

static struct answer *answer_later(void *arg)
{
    struct answer *a = xmalloc(sizeof(*a));

    a->arg = arg;
    a->timer.data = a;
    assert_int_equal(uv_timer_init(&loop, &a->timer), 0);
    assert_int_equal(uv_timer_start(&a->timer, on_answer, 1, 0), 0);
    return a;
}

static bool is_worker(const char *queue)
{
    return strncmp(queue, "sje.worker.", 11) == 0;
}

int mq_publish(struct mq *mq, const struct mq_message *m, mq_confirm_fn *cb, void *arg)
{
    struct sent *s = &sent[n_sent++];
    json_t *j = NULL;

    (void)mq;
    assert_true(n_sent < (int)ARRAY_LEN(sent));
    assert_int_equal(json_read(m->body.p, m->body.len, &j, NULL), 0);
    assert_true(m->mandatory);
    assert_int_equal(m->persistent, !is_worker(m->routing_key));
    const json_t *list = json_object_get(j, "tasks");
    const char *id = json_get_string(json_array_get(list, 0), "task");
    snprintf(s->queue, sizeof(s->queue), "%s", m->routing_key);
    s->tasks = (int)json_array_size(list);
    assert_true(id_parse(id, strlen(id), &s->task));
    json_decref(j);
    struct answer *a = answer_later(arg);
    a->confirm = cb;
    a->rc = streq(gone, m->routing_key) ? ERR_NOT_FOUND : confirm_with;
    return 0;
}

int mq_declare_queue(struct mq *mq, const char *name, int flags, mq_done_fn *cb, void *arg)
{
    (void)mq;
    (void)name;
    (void)flags;
    depths_asked += cb != NULL;
    declared += cb == NULL;
    answer_later(arg)->done = cb;
    return 0;
}

bool mq_is_blocked(const struct mq *mq)
{
    (void)mq;
    return false;
}

/* ---- the database: what is READY ---- */

static struct task rows[25000];
static size_t n_rows;

static bool is_behind(const struct task *t, int64_t rank, const struct id *after)
{
    return t->rank != rank ? t->rank > rank : memcmp(t->id.b, after->b, ID_LEN) > 0;
}

static void find(struct answer *a, const struct task *t)
{
    task_copy(&a->found[a->n++], t);
}

int store_scan_ready(struct db *db, const char *pool, int64_t rank, const struct id *after,
                     const struct offers_filter *f, int limit, store_ready_fn *cb, void *arg)
{
    struct answer *a = answer_later(arg);
    size_t looked = 0;

    (void)db;
    assert_int_equal(limit, ARRAY_LEN(a->found));
    scans++;
    a->ready = cb;
    a->all = true;
    a->rc = scans_fail > 0 ? ERR_DB : 0;
    scans_fail -= scans_fail > 0;
    assert_int_equal(uv_timer_start(&a->timer, on_answer, (uint64_t)scan_ms, 0), 0);
    for (size_t i = 0; a->rc == 0 && i < n_rows && a->n < ARRAY_LEN(a->found); i++) {
        const struct task *t = &rows[i];
        struct need n = {t->job_type, {t->slots, t->cpus_milli, t->memory_mb}};

        if (t->state != TASK_READY || !streq(t->pool, pool) || !is_behind(t, rank, after)) {
            continue;
        }
        if (++looked == look_at || offers_filter_takes(f, &n)) {
            find(a, t);
        }
        if (looked == look_at) {
            a->all = false;
            return 0;
        }
    }
    a->all = a->n < ARRAY_LEN(a->found);
    return 0;
}

int store_scan_fed(struct db *db, const char *pool, int limit, store_rows_fn *cb, void *arg)
{
    struct answer *a = answer_later(arg);

    (void)db;
    (void)limit;
    a->rows = cb;
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i].state == TASK_FED && streq(rows[i].pool, pool)) {
            find(a, &rows[i]);
        }
    }
    return 0;
}

/* ---- the ledger ---- */

const struct task *ledger_peek(struct ledger *l, const struct id *id)
{
    (void)l;
    (void)id;
    return NULL;
}

void ledger_offer(struct ledger *l, const struct task *row)
{
    (void)l;
    (void)row;
}

void ledger_submit(struct ledger *l, const struct id *id, const struct task_event *ev,
                   int64_t epoch, ledger_fn *cb, void *arg)
{
    (void)l;
    (void)epoch;
    (void)cb;
    (void)arg;
    for (size_t i = 0; i < n_rows; i++) {
        if (id_eq(&rows[i].id, id)) {
            rows[i].state = ev->type == TE_FED ? TASK_FED : TASK_READY;
        }
    }
}

/* ---- workers and tasks ---- */

static int64_t beats;

static void unknown(void *arg, const struct beat_run *r)
{
    (void)arg;
    (void)r;
}

static void gone_at_once(void *arg, struct lease *l, const char *why, bool by_restart)
{
    (void)arg;
    (void)l;
    (void)why;
    (void)by_restart;
}

/* types: "X Y" */
static void beat(const char *name, const char *types, int slots, int cpus, int memory)
{
    const struct beat_effects fx = {
        .role = FLEET_LEADS, .unknown = unknown, .revoke = unknown, .gone = gone_at_once};
    char reply[64];
    json_auto_t *pools = json_pack("[s]", "p");
    json_auto_t *list = json_array();

    snprintf(reply, sizeof(reply), "sje.worker.%s", name);
    for (struct str rest = str_of(types); rest.len;) {
        struct str type = str_cut(rest, ' ', &rest);

        json_array_append_new(list, json_stringn(type.p, type.len));
    }
    struct beat b = {.who = who_of(name, NULL, 1),
                     .host = "h",
                     .reply = reply,
                     .beat = ++beats,
                     .slots = slots,
                     .cpus = cpus,
                     .memory_mb = memory,
                     .pools = pools,
                     .job_types = list};
    assert_int_equal(fleet_beat(&fleet, &b, clock_boot_ms(), 1, &fx).verdict, BEAT_TAKEN);
}

static struct task *task(const char *type, int slots, int cpus_milli, int memory)
{
    struct task *t = &rows[n_rows++];

    *t = (struct task){.id = id_new(),
                       .seq = 1,
                       .state = TASK_READY,
                       .attempt = 1,
                       .priority = 5,
                       .slots = slots,
                       .cpus_milli = cpus_milli,
                       .memory_mb = memory,
                       .rank = (int64_t)n_rows,
                       .pool = xstrdup("p"),
                       .job_type = xstrdup(type)};
    return t;
}

static struct task *submit(const char *type, int slots, int cpus_milli, int memory)
{
    struct task *t = task(type, slots, cpus_milli, memory);

    feed_changed(feed, t);
    return t;
}

static void grant(struct task *t, const char *worker)
{
    t->state = TASK_RUNNING;
    t->who = who_of(worker, NULL, 1);
    t->token = 7;
    fleet_grant(&fleet, t, clock_boot_ms());
    feed_changed(feed, t);
}

static void end(struct task *t)
{
    t->state = TASK_SUCCEEDED;
    fleet_release(&fleet, &t->id);
    feed_changed(feed, t);
}

static const char *queue_of(const struct task *t)
{
    for (int i = n_sent; i > 0; i--) {
        if (id_eq(&sent[i - 1].task, &t->id)) {
            return sent[i - 1].queue;
        }
    }
    return "";
}

#define SHARED "sje.work.p.normal"

/* ---- waiting ---- */

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

#define AWAIT(cond)                                                                                \
    do {                                                                                           \
        int64_t end_ = clock_boot_ms() + DEADLINE_MS;                                              \
        while (!(cond)) {                                                                          \
            if (clock_boot_ms() > end_) {                                                          \
                fail_msg("%s:%d: still not: %s", __FILE__, __LINE__, #cond);                       \
            }                                                                                      \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        }                                                                                          \
    } while (0)

static void pass(int64_t ms)
{
    int64_t until = clock_boot_ms() + ms;

    AWAIT(clock_boot_ms() >= until);
}

static struct mq *publisher(void *arg)
{
    return arg;
}

static int64_t now(void *arg)
{
    (void)arg;
    return clock_wall_ms();
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

static int setup(void **state)
{
    static int dummy;
    struct feed_options o = {.loop = &loop,
                             .fleet = &fleet,
                             .reply = "sje.manager.m",
                             .arg = &dummy,
                             .publisher = publisher,
                             .now = now};

    (void)state;
    n_sent = depths_asked = declared = scans = 0;
    scan_ms = 1;
    look_at = SIZE_MAX;
    scans_fail = 0;
    depth = 0;
    confirm_with = 0;
    gone = NULL;
    n_rows = 0;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_timer_init(&loop, &tick), 0);
    assert_int_equal(uv_timer_start(&tick, on_tick, 5, 5), 0);
    fleet_init(&fleet, 30000);
    fleet.heartbeat_ms = 5000;
    fleet.rows_read = true;
    feed = feed_new(&o);
    feed_start(feed, 1);
    return 0;
}

static int teardown(void **state)
{
    bool closed = false;

    (void)state;
    pass(20); /* answers */
    feed_close(feed, on_closed, &closed);
    AWAIT(closed);
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    fleet_done(&fleet);
    for (size_t i = 0; i < n_rows; i++) {
        task_done(&rows[i]);
    }
    return 0;
}

/* ---- tests ---- */

static void test_what_everybody_takes_is_shared(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X Y", 8, 4, 100);
    pass(20);
    struct task *t = submit("X", 4, 4000, 100);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(t), SHARED);
}

static void test_queues_are_declared_with_the_first_hint(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    pass(100);
    feed_rescan(feed);
    pass(100);
    assert_int_equal(declared, 0);
    submit("X", 1, 0, 0);
    AWAIT(n_sent == 1);
    assert_int_equal(declared, 3);
    submit("X", 1, 0, 0);
    AWAIT(n_sent == 2);
    assert_int_equal(declared, 3);
}

static void test_what_some_take_goes_to_one_of_them(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X Y", 8, 4, 1000);
    pass(20);
    struct task *type = submit("Y", 1, 0, 0);
    struct task *slots = submit("X", 5, 0, 0);
    struct task *memory = submit("X", 1, 0, 101);
    AWAIT(n_sent == 3);
    assert_string_equal(queue_of(type), "sje.worker.w2");
    assert_string_equal(queue_of(slots), "sje.worker.w2");
    assert_string_equal(queue_of(memory), "sje.worker.w2");
}

/* As the database has it after these gave it back. */
static struct task *returned_by(const char *workers, int slots)
{
    struct task *t = task("X", slots, 0, 0);

    t->returned_by = xstrdup(workers);
    feed_changed(feed, t);
    return t;
}

static void test_what_a_worker_gave_back_goes_to_another(void **state)
{
    (void)state;
    beat("w1", "X", 8, 4, 100);
    pass(20);
    struct task *only = returned_by("w1", 1);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(only), SHARED); /* there is no other */
    beat("w2", "X", 1, 4, 100);
    pass(20);
    struct task *first = returned_by("w1", 1);
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(first), "sje.worker.w2");
    grant(first, "w2");
    /* What waits for that one, however much it is, is not in the way of others. */
    for (int i = 0; i < 90; i++) {
        (void)returned_by("w1", 1);
    }
    struct task *other = submit("X", 1, 0, 0);
    AWAIT(*queue_of(other));
    assert_string_equal(queue_of(other), SHARED);
    pass(100);
    for (int i = 2; i < n_sent; i++) {
        assert_string_equal(sent[i].queue,
                            id_eq(&sent[i].task, &other->id) ? SHARED : "sje.worker.w2");
    }
    beat("w3", "X", 200, 4, 100);
    struct task *twice = returned_by("w1 w2", 1);
    AWAIT(*queue_of(twice));
    assert_string_equal(queue_of(twice), "sje.worker.w3");
}

/* More than are kept in memory: what is behind them goes on. */
static void test_very_many_that_were_given_back(void **state)
{
    (void)state;
    beat("w1", "X", 8, 4, 100);
    beat("w2", "X", 1, 4, 100);
    pass(20);
    for (int i = 0; i < 20001; i++) {
        struct task t = {.id = id_new(),
                         .seq = 1,
                         .state = TASK_READY,
                         .attempt = 2,
                         .priority = 5,
                         .slots = 1,
                         .rank = 1,
                         .pool = xstrdup("p"),
                         .job_type = xstrdup("X"),
                         .returned_by = xstrdup("w1")};

        feed_changed(feed, &t);
        task_done(&t);
    }
    struct task *other = submit("X", 1, 0, 0);
    AWAIT(*queue_of(other));
    assert_string_equal(queue_of(other), SHARED);
}

/* It needs more than is ever free there at once: room is made. */
static void give_back(int64_t rank, int memory)
{
    static char pool[] = "p";
    static char type[] = "X";
    static char by[] = "w1";
    struct task t = {.id = id_new(),
                     .seq = 1,
                     .state = TASK_READY,
                     .attempt = 2,
                     .slots = 1,
                     .rank = rank,
                     .memory_mb = memory,
                     .pool = pool,
                     .job_type = type,
                     .returned_by = by};

    feed_changed(feed, &t);
}

/* One that comes first takes the place of one for which a worker was kept: that goes to the others,
 * of which there are too many then. (The sanitizer sees whether anybody still has one of them.) */
static void test_too_many_that_were_given_back(void **state)
{
    struct feed_pool_info info;

    (void)state;
    beat("w1", "X", 8, 4, 100000);
    beat("w2", "X", 4, 4, 100000);
    pass(20);
    struct task *busy = submit("X", 4, 0, 0);
    AWAIT(n_sent == 1);
    grant(busy, "w2");
    feed_look(feed, "p", &info);
    for (int i = 0; info.buffered < 19999; i++) {
        give_back(1000 + i, 50000 - i);
        if (i % 1000 == 0) {
            pass(1);
        }
        feed_look(feed, "p", &info);
    }
    for (int i = 0; i < 3; i++) {
        give_back(3 - i, 60000 - i);
        pass(50);
    }
    feed_look(feed, "p", &info);
    assert_in_range(info.buffered, 9000, 20001);
}

static void test_what_was_given_back_is_not_starved(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X", 4, 4, 100);
    pass(20);
    struct task *small = submit("X", 1, 0, 0);
    AWAIT(n_sent == 1);
    grant(small, "w2");
    struct task *large = returned_by("w1", 4);
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(large), "sje.worker.w2");
}

/* Just begun: the one that could take it was not heard yet. */
static void test_what_was_given_back_waits_for_the_whole_fleet(void **state)
{
    struct fleet_row row = {.who = who_of("w2", NULL, 1), .host = "h", .state = WORKER_UP};

    (void)state;
    fleet_order(&fleet, &row, clock_boot_ms());
    beat("w1", "X", 8, 4, 100);
    pass(20);
    struct task *t = returned_by("w1", 1);
    pass(200);
    assert_int_equal(n_sent, 0);
    beat("w2", "X", 8, 4, 100);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(t), "sje.worker.w2");
}

/* What the node says of itself comes after it. */
static void test_what_was_just_given_back_settles(void **state)
{
    (void)state;
    beat("w1", "X", 8, 4, 100);
    beat("w2", "X", 8, 4, 100);
    pass(20);
    struct task *t = task("X", 1, 0, 0);
    t->returned_by = xstrdup("w1");
    t->run_after = clock_wall_ms();
    feed_changed(feed, t);
    pass(200);
    assert_int_equal(n_sent, 0);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(t), "sje.worker.w2");
}

/* None that is there has not given it back, but one that is drained has not. */
static void test_what_was_given_back_waits_for_one_that_is_drained(void **state)
{
    (void)state;
    beat("w1", "X", 8, 4, 100);
    beat("w2", "X", 8, 4, 100);
    fleet_drain(&fleet, "w2", true);
    pass(20);
    struct task *t = task("X", 1, 0, 0);
    t->returned_by = xstrdup("w1");
    t->run_after = clock_wall_ms();
    feed_changed(feed, t);
    /* As long before as the patience lasts, but for a moment. */
    struct task *late = task("X", 1, 0, 0);
    late->returned_by = xstrdup("w1");
    late->run_after = clock_wall_ms() - fleet_patience_ms(&fleet) - 300;
    feed_changed(feed, late);
    struct task *other = submit("X", 1, 0, 0);
    pass(400);
    assert_string_equal(queue_of(t), "");
    assert_string_equal(queue_of(late), "");
    assert_string_equal(queue_of(other), SHARED); /* it is in nobody's way */
    AWAIT(*queue_of(late));
    assert_string_equal(queue_of(late), SHARED); /* it goes to any */
    assert_string_equal(queue_of(t), "");
    fleet_drain(&fleet, "w2", false);
    AWAIT(*queue_of(t));
    assert_string_equal(queue_of(t), "sje.worker.w2");
}

static struct task *failed_on(const char *workers)
{
    struct task *t = task("X", 1, 0, 0);

    t->attempt = 2;
    t->failed_on = xstrdup(workers);
    feed_changed(feed, t);
    return t;
}

static void test_what_failed_goes_to_another_first(void **state)
{
    (void)state;
    beat("w1", "X", 200, 4, 100);
    pass(20);
    struct task *only = failed_on("w1");
    AWAIT(*queue_of(only));
    assert_string_equal(queue_of(only), SHARED); /* there is no other */
    grant(only, "w1");
    beat("w2", "X", 1, 4, 100);
    pass(20);
    struct task *first = failed_on("w1");
    AWAIT(*queue_of(first));
    assert_string_equal(queue_of(first), "sje.worker.w2");
    grant(first, "w2");
    struct task *second = failed_on("w1");
    struct task *third = failed_on("w1");
    struct task *other = submit("X", 1, 0, 0);
    AWAIT(*queue_of(other));
    assert_string_equal(queue_of(other), SHARED);
    pass(1500); /* the other is busy, and then goes on */
    assert_string_equal(queue_of(second), "");
    end(first);
    AWAIT(*queue_of(second));
    assert_string_equal(queue_of(second), "sje.worker.w2");
    grant(second, "w2");
    pass(1500); /* more than two seconds in all */
    assert_string_equal(queue_of(third), "");
    AWAIT(*queue_of(third));
    assert_string_equal(queue_of(third), SHARED); /* it does not wait for long */
    struct task *everywhere = failed_on("w1 w2");
    AWAIT(*queue_of(everywhere));
    assert_string_equal(queue_of(everywhere), SHARED);
}

/* A notice was wrong: the broker has its hint no more, and its row is FED. */
/* It looks at none but those on which it has not failed: that they have no room says nothing of the
 * others. */
static void test_a_retry_is_in_nobodys_way(void **state)
{
    (void)state;
    beat("w1", "X Y", 4, 4, 100);
    beat("w2", "X Y", 4, 4, 100);
    beat("w3", "X", 4, 4, 100);
    pass(20);
    struct task *busy = task("X", 4, 0, 0);
    grant(busy, "w2");
    struct task *retry = task("Y", 1, 0, 0);
    retry->failed_on = xstrdup("w1");
    retry->run_after = clock_wall_ms();
    feed_changed(feed, retry);
    pass(100);
    assert_string_equal(queue_of(retry), "");
    int64_t before = clock_boot_ms();
    struct task *other = submit("Y", 1, 0, 0);
    AWAIT(*queue_of(other));
    assert_string_equal(queue_of(other), "sje.worker.w1");
    assert_in_range(clock_boot_ms() - before, 0, 1000);
}

static void test_a_forgotten_hint_is_looked_for(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    pass(20);
    struct task *t = submit("X", 1, 0, 0);
    AWAIT(t->state == TASK_FED);
    feed_forget(feed, &t->id);
    assert_int_equal(n_sent, 1);
    feed_rescan(feed);
    AWAIT(n_sent == 2);
}

static void test_what_nobody_takes_stays_in_the_database(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    pass(20);
    struct task *type = submit("Y", 1, 0, 0);
    struct task *large = submit("X", 5, 0, 0);
    struct task *greedy = submit("X", 1, 4001, 0);
    struct task *fits = submit("X", 1, 0, 0);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(fits), SHARED);
    /* The offer grows: they are read again. */
    beat("w2", "Y", 1, 1, 1);
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(type), "sje.worker.w2");
    beat("w1", "X", 8, 8, 100);
    AWAIT(n_sent == 4);
    assert_string_equal(queue_of(large), "sje.worker.w1");
    assert_string_equal(queue_of(greedy), "sje.worker.w1");
}

/* No more than it has room for, counted with what is on its way. */
static void test_nobody_gets_more_than_it_has_room_for(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X Y", 4, 4, 100);
    pass(20);
    struct task *a = submit("Y", 1, 0, 60);
    struct task *b = submit("Y", 1, 0, 60);
    struct task *small = submit("Y", 1, 0, 30);
    struct task *c = submit("Y", 1, 0, 60);
    AWAIT(n_sent == 3);
    assert_string_equal(queue_of(a), "sje.worker.w2");
    assert_string_equal(queue_of(small), "sje.worker.w2");
    /* But the first of those that wait is known where it will start. */
    assert_string_equal(queue_of(b), "sje.worker.w2");
    grant(a, "w2");
    grant(small, "w2");
    pass(200);
    assert_int_equal(n_sent, 3);
    end(a);
    grant(b, "w2");
    AWAIT(n_sent == 4);
    assert_string_equal(queue_of(c), "sje.worker.w2");
}

static void test_what_is_not_claimed_goes_to_another(void **state)
{
    int64_t start;

    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "Y", 5, 4, 100);
    beat("w3", "Y", 4, 4, 100);
    pass(20);
    struct task *t = submit("Y", 1, 0, 0);
    AWAIT(n_sent == 1);
    start = clock_boot_ms();
    assert_string_equal(queue_of(t), "sje.worker.w2");
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(t), "sje.worker.w3");
    assert_true(clock_boot_ms() - start >= 1900 && clock_boot_ms() - start < 3500);
}

static void test_what_comes_back_goes_to_another(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "Y", 5, 4, 100);
    beat("w3", "Y", 4, 4, 100);
    gone = "sje.worker.w2";
    pass(20);
    struct task *t = submit("Y", 1, 0, 0);
    int64_t start = clock_boot_ms();
    AWAIT(n_sent == 2);
    assert_true(clock_boot_ms() - start < 500);
    assert_string_equal(queue_of(t), "sje.worker.w3");
}

static void on_state(void *arg, struct fleet_worker *w, enum worker_state from)
{
    (void)arg;
    (void)w;
    (void)from;
}

static void test_what_a_silent_worker_has_goes_to_another(void **state)
{
    const struct beat_effects fx = {
        .role = FLEET_LEADS, .unknown = unknown, .revoke = unknown, .gone = gone_at_once};

    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "Y", 5, 4, 100);
    beat("w3", "Y", 4, 4, 100);
    pass(20);
    struct task *t = submit("Y", 1, 0, 0);
    AWAIT(n_sent == 1);
    fleet_find(&fleet, "w2")->last_beat -= 20000;
    fleet_tick(&fleet, clock_boot_ms(), true, on_state, &fx, NULL);
    int64_t start = clock_boot_ms();
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(t), "sje.worker.w3");
    assert_true(clock_boot_ms() - start < 500);
}

/* A stopped worker has taken it out of the shared queue. */
static void test_a_shared_hint_that_nobody_claims(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X", 5, 4, 100);
    pass(20);
    struct task *t = submit("X", 1, 0, 0);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(t), SHARED);
    int64_t start = clock_boot_ms();
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(t), "sje.worker.w2");
    assert_true(clock_boot_ms() - start >= 1500 && clock_boot_ms() - start < 4000);
    assert_true(depths_asked <= 3);
    grant(t, "w2");
}

static void test_a_hint_that_waits_in_its_queue_is_not_repeated(void **state)
{
    (void)state;
    depth = 1;
    beat("w1", "X", 4, 4, 100);
    pass(20);
    submit("X", 1, 0, 0);
    AWAIT(depths_asked == 3); /* one for each class */
    pass(300);
    assert_int_equal(n_sent, 1);
}

static void test_nothing_is_repeated_while_all_are_busy(void **state)
{
    (void)state;
    beat("w1", "X", 1, 4, 100);
    pass(20);
    struct task *a = submit("X", 1, 0, 0);
    struct task *b = submit("X", 1, 0, 0);
    AWAIT(n_sent > 0 && *queue_of(a));
    grant(a, "w1");
    pass(2500);
    assert_int_equal(depths_asked, 0);
    end(a);
    AWAIT(n_sent == 2 || depths_asked);
    (void)b;
}

/* Small ones would take what becomes free: the worker is told of it that has no room yet, again and
 * again, as long as nothing else comes before it. */
static void test_a_large_one_gets_its_turn(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X", 8, 4, 100);
    pass(20);
    struct task *small = submit("X", 4, 0, 0);
    AWAIT(n_sent == 1);
    grant(small, "w2");
    struct task *large = submit("X", 8, 0, 0);
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(large), "sje.worker.w2");
    AWAIT(n_sent == 3);
    AWAIT(n_sent == 4);
    assert_string_equal(queue_of(large), "sje.worker.w2");
    assert_true(id_eq(&sent[2].task, &large->id) && id_eq(&sent[3].task, &large->id));
    end(small);
    grant(large, "w2");
}

/* A large one makes no worker wait while there is something before it for all. */
static void test_a_late_large_one_keeps_no_worker(void **state)
{
    struct task *small[20];

    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X", 8, 4, 100);
    pass(20);
    for (size_t i = 0; i < ARRAY_LEN(small); i++) {
        small[i] = submit("X", 4, 0, 0);
    }
    AWAIT(n_sent > 0);
    grant(small[0], "w1");
    grant(small[1], "w2");
    grant(small[2], "w2");
    struct task *large = submit("X", 8, 0, 0);
    pass(4000);
    assert_string_equal(queue_of(large), "");
}

/* However many wait for memory, what asks for a slot alone is none of them. */
static void test_what_asks_for_slots_only_waits_for_no_memory(void **state)
{
    (void)state;
    beat("w1", "X", 8, 4, 1000);
    pass(20);
    struct task *first = submit("X", 1, 0, 900);
    AWAIT(n_sent == 1);
    grant(first, "w1");
    for (int i = 0; i < 1500; i++) {
        (void)submit("X", 1, 0, 500);
    }
    pass(100);
    for (int i = 0; i < 3; i++) {
        struct task *plain = submit("X", 1, 0, 0);

        AWAIT(*queue_of(plain));
        assert_string_equal(queue_of(plain), SHARED);
    }
}

/* The same where only one worker could take either. */
static void test_what_asks_for_slots_only_of_one_worker(void **state)
{
    (void)state;
    beat("w1", "X", 1, 4, 1000);
    beat("w2", "X", 8, 4, 1000);
    pass(20);
    struct task *first = submit("X", 2, 0, 900);
    AWAIT(n_sent == 1);
    grant(first, "w2");
    for (int i = 0; i < 1500; i++) {
        (void)submit("X", 2, 0, 500 + i % 500);
    }
    pass(100);
    struct task *plain = submit("X", 2, 0, 0);
    AWAIT(*queue_of(plain));
    assert_string_equal(queue_of(plain), "sje.worker.w2");
}

/* Each machine is of its own size, so that they share a lane: what waits for the largest one, or
 * fits none, keeps nothing from the others. */
static void many_machines(void)
{
    char name[16];

    for (int i = 0; i < 18; i++) {
        snprintf(name, sizeof(name), "w%d", i);
        beat(name, "X", 4, 4 + i, 2000 - 10 * i);
    }
    pass(20);
}

static void test_what_fits_nobody_is_in_nobodys_way(void **state)
{
    (void)state;
    many_machines();
    for (int i = 0; i < 2500; i++) {
        (void)submit("X", 1, 21000 - i, 2000);
    }
    struct task *t = submit("X", 1, 4000, 1990);
    AWAIT(*queue_of(t));
    assert_int_equal(n_sent, 1);
    /* The offer grows, though not beyond what all have together. */
    beat("w20", "X", 4, 21, 2000);
    AWAIT(n_sent > 2);
    assert_string_equal(sent[n_sent - 1].queue, "sje.worker.w20");
}

static void test_what_waits_for_the_largest_is_in_nobodys_way(void **state)
{
    (void)state;
    many_machines();
    struct task *large = submit("X", 4, 21000, 1000);
    AWAIT(n_sent == 1);
    assert_string_equal(queue_of(large), "sje.worker.w17");
    grant(large, "w17");
    for (int i = 0; i < 2500; i++) {
        (void)submit("X", 1, 21000, 1700 - i % 1000);
    }
    pass(100);
    struct task *t = submit("X", 1, 20000, 1800);
    AWAIT(*queue_of(t));
    assert_string_equal(queue_of(t), "sje.worker.w16");
    struct task *small = submit("X", 1, 4000, 2000);
    AWAIT(*queue_of(small));
    assert_string_equal(queue_of(small), "sje.worker.w0");
}

/* More of them than are held in memory. */
static void test_what_is_behind_very_many_has_its_turn(void **state)
{
    (void)state;
    many_machines();
    struct task *large = submit("X", 4, 21000, 1000);
    AWAIT(n_sent == 1);
    grant(large, "w17");
    for (int i = 0; i < 23000; i++) {
        (void)task("X", 1, 21000, 1700 - i % 500);
    }
    struct task *t = task("X", 1, 20000, 1800);
    feed_rescan(feed);
    AWAIT(*queue_of(t));
    assert_string_equal(queue_of(t), "sje.worker.w16");
    end(large);
    AWAIT(n_sent > 4);
    assert_string_equal(queue_of(&rows[1]), "sje.worker.w17");
}

/* What nobody offers is stepped over by many statements, each of which ends soon. */
static void test_what_lies_behind_what_nobody_offers(void **state)
{
    struct task *first[3];

    (void)state;
    look_at = 100;
    scans_fail = 1;
    for (int i = 0; i < 20000; i++) {
        struct task *t = task("Absent", 1, 0, 0);

        if (i % 7000 == 50) {
            free(t->job_type);
            t->job_type = xstrdup("X");
            first[i / 7000] = t;
        }
    }
    beat("w1", "X", 8, 4, 100);
    for (size_t i = 0; i < ARRAY_LEN(first); i++) {
        AWAIT(*queue_of(first[i]));
    }
    int before;
    do {
        before = scans;
        pass(100);
    } while (scans > before); /* to its end */
    /* What becomes READY while all of it is looked through again does not wait for that. */
    scan_ms = 10;
    task("Absent", 1, 0, 0);
    struct task *other = task("X", 1, 0, 0); /* of another manager, which told nothing */
    feed_rescan(feed);
    pass(50);
    struct task *late = submit("X", 1, 0, 0);
    AWAIT(*queue_of(late));
    assert_true(scans - before < 100);
    assert_string_equal(queue_of(other), "");
    AWAIT(*queue_of(other));
    assert_true(scans - before >= 200);
}

/* The database is spared for as long as it was busy, not for as long as others were. */
static void test_a_scan_that_goes_on_late(void **state)
{
    (void)state;
    scans_fail = 1;
    beat("w1", "X", 8, 4, 100);
    AWAIT(scans_fail == 0);
    struct task *first = task("X", 1, 0, 0);
    AWAIT(*queue_of(first));                 /* a second after the failure */
    struct task *other = task("X", 1, 0, 0); /* of another manager, which told nothing */
    int64_t before = clock_boot_ms();
    feed_rescan(feed);
    AWAIT(n_sent == 2 || clock_boot_ms() > before + 2000);
    assert_string_equal(queue_of(other), SHARED);
}

/* What another manager tells is near the rank that it tells: looking for it neither reads what lies
 * behind, nor rests as if it had. */
static void test_what_is_told_is_found_at_once(void **state)
{
    struct task *told[10];

    (void)state;
    look_at = 100;
    for (size_t i = 0; i < ARRAY_LEN(told); i++) {
        told[i] = task("X", 1, 0, 0);
        told[i]->state = TASK_SCHEDULED;
        for (int k = 0; k < 2000; k++) {
            (void)task("Absent", 1, 0, 0);
        }
    }
    beat("w1", "X", 8, 4, 100);
    int before;
    do {
        before = scans;
        pass(100);
    } while (scans > before);
    scan_ms = 5;
    for (size_t i = ARRAY_LEN(told); i-- > 0;) {
        struct need need = {"X", {1, 0, 0}};

        told[i]->state = TASK_READY;
        feed_ready(feed, "p", &need, told[i]->rank);
    }
    for (size_t i = 0; i < ARRAY_LEN(told); i++) {
        AWAIT(*queue_of(told[i]));
        grant(told[i], "w1");
        end(told[i]);
    }
    assert_in_range(scans - before, 1, 60);
}

/* Of what it reads little stays, and so it reads all: that is one reading. */
static void test_a_long_reading_rests(void **state)
{
    (void)state;
    for (int i = 0; i < 20000; i++) {
        (void)task("X", 1, 21000, 2000); /* no machine has both */
    }
    many_machines();
    scan_ms = 5;
    pass(300);
    feed_rescan(feed);
    int before;
    do {
        before = scans;
        pass(200);
    } while (scans > before); /* about 20 of them */
    feed_rescan(feed);
    pass(300);
    assert_in_range(scans - before, 0, 4); /* of the lanes in which there is nothing */
}

static void run_and_end(struct task *t)
{
    if (t->state == TASK_READY) {
        grant(t, "w1");
        end(t);
    }
    n_sent = n_sent > 1900 ? 0 : n_sent;
    uv_run(&loop, UV_RUN_NOWAIT);
}

/* What another manager made ready while a scan was under way that did not see it. */
static void test_a_notice_during_a_scan(void **state)
{
    const struct need x = {"X", {1, 0, 0}};
    size_t drained = 0;
    int before;

    (void)state;
    for (int i = 0; i < 3000; i++) {
        task("X", 1, 0, 0)->rank = 10 * i;
    }
    struct task *late = &rows[1500];
    late->state = TASK_SCHEDULED;
    beat("w1", "X", 1, 4, 100);
    pass(100);
    scan_ms = 60;
    for (before = scans; scans == before; drained++) {
        run_and_end(&rows[drained]);
    }
    assert_in_range(drained, 1, 1499);
    late->state = TASK_READY;
    feed_ready(feed, "p", &x, late->rank);
    pass(200);
    for (; drained < n_rows && !*queue_of(late); drained++) {
        run_and_end(&rows[drained]);
    }
    assert_in_range(drained, 1, 2500); /* not after all others */
}

static void free_a_slot(struct task *of, struct task *const *later, const struct task *first)
{
    end(of);
    for (; (*later)->state == TASK_RUNNING; later++) {
    }
    AWAIT(*queue_of(*later) || *queue_of(first));
    if (!*queue_of(first)) {
        grant(*later, queue_of(*later) + strlen("sje.worker."));
    }
}

/* Every slot of w2 goes to the first task that it alone can take, of whatever type or size: one
 * that waits for it already and comes later is no reason to pass it over. */
static void one_comes_before_all(const char *type, int slots, const char *others, int each)
{
    struct task *later[20];
    struct task *running[8];
    int n = 0;

    while (n * each < 8) {
        running[n] = submit(others, each, 0, 0);
        AWAIT(*queue_of(running[n]));
        grant(running[n++], "w2");
    }
    for (size_t i = 0; i < ARRAY_LEN(later); i++) {
        later[i] = submit(others, each, 0, 0);
    }
    pass(100);
    AWAIT(*queue_of(later[0]));
    struct task *first = submit(type, slots, 0, 0);
    first->rank = -1;
    feed_forget(feed, &first->id);
    feed_changed(feed, first);
    pass(100);
    free_a_slot(running[0], later, first);
    AWAIT(*queue_of(first));
    assert_string_equal(queue_of(first), "sje.worker.w2");
    assert_string_equal(queue_of(later[2]), "");
    /* Others have their turn when that has begun. */
    for (int i = 1; i < n; i++) {
        end(running[i]);
    }
    pass(100);
    if (slots == 8) {
        assert_string_equal(queue_of(later[2]), "");
    }
    for (size_t i = 0; i < ARRAY_LEN(later); i++) {
        if (later[i]->state == TASK_RUNNING) {
            end(later[i]);
        }
    }
    grant(first, "w2");
    end(first);
    AWAIT(*queue_of(later[2]));
}

static void test_the_first_of_another_type_comes_first(void **state)
{
    (void)state;
    beat("w1", "X", 8, 4, 100);
    beat("w2", "X Aaa Zzz", 8, 4, 100);
    pass(20);
    one_comes_before_all("Zzz", 1, "Aaa", 1);
}

static void test_the_first_of_a_larger_size_comes_first(void **state)
{
    (void)state;
    beat("w1", "X", 2, 4, 100);
    beat("w3", "X", 4, 4, 100);
    pass(20);
    struct task *busy = submit("X", 4, 0, 0);
    AWAIT(n_sent == 1);
    grant(busy, "w3");
    beat("w2", "X", 8, 4, 100);
    pass(20);
    one_comes_before_all("X", 8, "X", 4);
}

/* They are in different lanes, and what is in the way of one is not in the way of the other. */
static void test_each_worker_is_kept_for_one(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X Y", 4, 4, 100);
    beat("w3", "X Z", 4, 4, 100);
    pass(20);
    struct task *y = submit("Y", 4, 0, 0);
    struct task *z = submit("Z", 4, 0, 0);
    AWAIT(n_sent == 2);
    grant(y, "w2");
    grant(z, "w3");
    struct task *next_y = submit("Y", 4, 0, 0);
    struct task *next_z = submit("Z", 4, 0, 0);
    struct task *last_z = submit("Z", 2, 0, 0);
    AWAIT(n_sent == 4);
    assert_string_equal(queue_of(next_y), "sje.worker.w2");
    assert_string_equal(queue_of(next_z), "sje.worker.w3");
    pass(200);
    assert_string_equal(queue_of(last_z), "");
}

/* What waits for one worker keeps nothing from another, however much it is. */
static void test_what_waits_for_one_worker_blocks_no_other(void **state)
{
    struct task *cpus[100];

    (void)state;
    beat("small", "X", 8, 4, 1000);
    beat("cpus", "X", 8, 32, 1000);
    beat("memory", "X", 8, 4, 64000);
    pass(20);
    for (size_t i = 0; i < ARRAY_LEN(cpus); i++) {
        cpus[i] = submit("X", 1, 24000, 0);
    }
    struct task *less = submit("X", 1, 5000, 0); /* it gets what is left */
    AWAIT(n_sent == 3);
    assert_string_equal(queue_of(cpus[1]), "sje.worker.cpus"); /* as soon as there is room */
    grant(cpus[0], "cpus");
    assert_true(feed_is_behind(feed, cpus[99]));
    assert_false(feed_is_behind(feed, cpus[2]));
    struct task *memory = submit("X", 1, 0, 30000);
    assert_false(feed_is_behind(feed, memory));
    AWAIT(n_sent == 4);
    assert_string_equal(queue_of(memory), "sje.worker.memory");
    assert_string_equal(queue_of(less), "sje.worker.cpus");
}

/* The worker that could take it does not offer that any more: it is no hint that is out, for then
 * it would count against the others. */
static void test_what_nobody_takes_any_more_is_ready_again(void **state)
{
    struct feed_pool_info info;

    (void)state;
    beat("w1", "X Y", 4, 4, 100);
    pass(20);
    struct task *t = submit("Y", 1, 0, 0);
    AWAIT(n_sent == 1);
    AWAIT(t->state == TASK_FED);
    beat("w1", "X", 4, 4, 100);
    AWAIT(t->state == TASK_READY);
    feed_rescan(feed);
    pass(100);
    assert_true(feed_look(feed, "p", &info));
    assert_int_equal(info.outstanding, 0);
    assert_int_equal(n_sent, 1);
    beat("w1", "X Y", 4, 4, 100);
    AWAIT(n_sent == 2);
    assert_string_equal(queue_of(t), SHARED);
}

/* Beats that say nothing new lead to nothing. */
static void test_beats_alone_do_not_wake_it(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    pass(100);
    int before = scans;
    for (int i = 0; i < 100; i++) {
        beat("w1", "X", 4, 4, 100);
    }
    pass(100);
    assert_int_equal(scans, before);
    assert_null(offers_next_changed(&fleet.offers));
}

/* Another manager accepted it: that pool alone is read, from there on. */
static void test_tasks_of_another_manager(void **state)
{
    (void)state;
    beat("w1", "X", 4, 4, 100);
    pass(50);
    int before = scans;
    struct task *t = task("X", 1, 0, 0);
    feed_ready(feed, "other", NULL, t->rank);
    pass(50);
    assert_int_equal(scans, before);
    feed_ready(feed, "p", NULL, t->rank);
    AWAIT(n_sent == 1);
    assert_int_equal(scans, before + OFFERS_SHARED);
}

static void test_a_notice_reads_one_lane(void **state)
{
    const struct need x = {"X", {1, 0, 0}};
    const struct need y = {"Y", {1, 0, 0}};
    const struct need z = {"Z", {1, 0, 0}};

    (void)state;
    beat("w1", "X", 4, 4, 100);
    beat("w2", "X Y", 4, 4, 200);
    pass(50);
    int before = scans;
    struct task *t = task("Y", 1, 0, 0);
    feed_ready(feed, "p", &z, 1);
    feed_ready(feed, "p", &y, t->rank);
    AWAIT(n_sent == 1);
    assert_int_equal(scans, before + 1);
    /* The longer it takes, the longer is the rest. */
    scan_ms = 30;
    feed_ready(feed, "p", &x, 1);
    AWAIT(scans == before + 2);
    pass(50);
    for (int i = 0; i < 10; i++) {
        feed_ready(feed, "p", &x, 1);
        pass(20);
    }
    assert_int_equal(scans, before + 2);
    AWAIT(scans == before + 3);
    pass(50);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_what_everybody_takes_is_shared),
        T(test_queues_are_declared_with_the_first_hint),
        T(test_what_some_take_goes_to_one_of_them),
        T(test_what_a_worker_gave_back_goes_to_another),
        T(test_very_many_that_were_given_back),
        T(test_too_many_that_were_given_back),
        T(test_what_was_given_back_is_not_starved),
        T(test_what_was_given_back_waits_for_the_whole_fleet),
        T(test_what_was_just_given_back_settles),
        T(test_what_was_given_back_waits_for_one_that_is_drained),
        T(test_what_failed_goes_to_another_first),
        T(test_a_retry_is_in_nobodys_way),
        T(test_a_forgotten_hint_is_looked_for),
        T(test_what_nobody_takes_stays_in_the_database),
        T(test_nobody_gets_more_than_it_has_room_for),
        T(test_what_is_not_claimed_goes_to_another),
        T(test_what_comes_back_goes_to_another),
        T(test_what_a_silent_worker_has_goes_to_another),
        T(test_a_shared_hint_that_nobody_claims),
        T(test_a_hint_that_waits_in_its_queue_is_not_repeated),
        T(test_nothing_is_repeated_while_all_are_busy),
        T(test_a_large_one_gets_its_turn),
        T(test_a_late_large_one_keeps_no_worker),
        T(test_what_asks_for_slots_only_waits_for_no_memory),
        T(test_what_asks_for_slots_only_of_one_worker),
        T(test_what_fits_nobody_is_in_nobodys_way),
        T(test_what_waits_for_the_largest_is_in_nobodys_way),
        T(test_what_is_behind_very_many_has_its_turn),
        T(test_what_lies_behind_what_nobody_offers),
        T(test_a_scan_that_goes_on_late),
        T(test_what_is_told_is_found_at_once),
        T(test_a_long_reading_rests),
        T(test_a_notice_during_a_scan),
        T(test_the_first_of_another_type_comes_first),
        T(test_the_first_of_a_larger_size_comes_first),
        T(test_each_worker_is_kept_for_one),
        T(test_what_waits_for_one_worker_blocks_no_other),
        T(test_what_nobody_takes_any_more_is_ready_again),
        T(test_beats_alone_do_not_wake_it),
        T(test_tasks_of_another_manager),
        T(test_a_notice_reads_one_lane),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
