/* The ledger over a database that lives in this file: batching, order, overtaken writes, failures,
 * epochs. */
#include "pkg/manager/ledger.h"

#include "pkg/manager/store.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

#include <cmocka.h>

#define NOW 1700000000000

/* ---- a database ---- */

struct stored {
    struct id id;
    UT_hash_handle hh;
    struct task row;
};
static struct stored *table;
static int64_t leader_epoch;
static int fail_with; /* next statements answer this */
static int conflicts; /* so many writes answer ERR_CONFLICT first */
static int loads;
static int writes;
static int largest_write;
static size_t largest_output;      /* bytes of outputs in one write */
static void (*before_write)(void); /* somebody else gets in between */

struct job {
    uv_timer_t timer; /* answers come in a later turn of the loop */
    store_rows_fn *rows;
    store_written_fn *written;
    void *arg;
    struct id *ids;
    size_t n;
    int rc;
    struct task *copies;
};
static uv_loop_t loop;

static struct stored *find(const struct id *id)
{
    struct stored *s = NULL;

    HASH_FIND(hh, table, id, sizeof(*id), s);
    return s;
}

static void insert(const struct task *t)
{
    struct stored *s = xmalloc(sizeof(*s));

    s->id = t->id;
    task_copy(&s->row, t);
    HASH_ADD(hh, table, id, sizeof(s->id), s);
}

static void free_job(uv_handle_t *h)
{
    struct job *j = h->data;

    for (size_t i = 0; j->copies && i < j->n; i++) {
        task_done(&j->copies[i]);
    }
    free(j->copies);
    free(j->ids);
    free(j);
}

static void on_job(uv_timer_t *t)
{
    struct job *j = t->data;
    struct err why = {j->rc, "broken"};

    if (j->rows) {
        j->rows(j->arg, j->rc, j->copies, j->rc < 0 ? 0 : j->n, j->rc < 0 ? &why : NULL);
    } else {
        j->written(j->arg, j->rc, j->ids, j->rc < 0 ? 0 : j->n, j->rc < 0 ? &why : NULL);
    }
    uv_close((uv_handle_t *)t, free_job);
}

static struct job *job(void *arg, size_t n)
{
    struct job *j = xmalloc(sizeof(*j));

    j->arg = arg;
    j->rc = fail_with;
    j->ids = xcalloc(n, sizeof(*j->ids));
    uv_timer_init(&loop, &j->timer);
    j->timer.data = j;
    uv_timer_start(&j->timer, on_job, 1, 0);
    return j;
}

int store_load(struct db *db, const struct id *ids, size_t n, store_rows_fn *cb, void *arg)
{
    struct job *j = job(arg, n);

    (void)db;
    loads++;
    j->rows = cb;
    j->copies = xcalloc(n, sizeof(*j->copies));
    for (size_t i = 0; i < n; i++) {
        struct stored *s = find(&ids[i]);

        if (s) {
            task_copy(&j->copies[j->n++], &s->row);
        }
    }
    return 0;
}

#define POISON "\"what no database takes\""

static size_t output_bytes(const struct store_change *changes, size_t n)
{
    size_t bytes = 0;

    for (size_t i = 0; i < n; i++) {
        bytes += changes[i].row->output ? strlen(changes[i].row->output) : 0;
    }
    return bytes;
}

int store_write(struct db *db, const struct store_change *changes, size_t n, int64_t epoch,
                store_written_fn *cb, void *arg)
{
    struct job *j = job(arg, n);

    (void)db;
    if (before_write) {
        void (*fn)(void) = before_write;
        before_write = NULL;
        fn();
    }
    writes++;
    largest_write = MAX(largest_write, (int)n);
    largest_output = MAX(largest_output, output_bytes(changes, n));
    j->written = cb;
    if (conflicts) {
        conflicts--;
        j->rc = ERR_CONFLICT;
    }
    for (size_t i = 0; i < n && j->rc == 0; i++) {
        j->rc = streq(changes[i].row->output, POISON) ? ERR_DB : 0;
    }
    for (size_t i = 0; i < n && j->rc == 0; i++) {
        struct stored *s = find(&changes[i].row->id);

        assert_true(i == 0 || memcmp(changes[i - 1].row->id.b, changes[i].row->id.b, ID_LEN) < 0);
        assert_int_equal(changes[i].row->seq - changes[i].before->seq, (int)changes[i].n_audit);
        if (s && s->row.seq == changes[i].before->seq && (epoch == 0 || epoch == leader_epoch)) {
            task_done(&s->row);
            task_copy(&s->row, changes[i].row);
            j->ids[j->n++] = s->id;
        }
    }
    return 0;
}

/* ---- the tests ---- */

static struct ledger *ledger;
static int hooks;

static void on_change(void *arg, enum task_state from, const struct task *t)
{
    (void)arg;
    (void)from;
    (void)t;
    hooks++;
}

struct seen {
    int count;
    int rc;
    enum step_rc step;
    enum task_state state;
    int32_t attempt;
    char reason[32];
};

static void on_answer(void *arg, const struct ledger_answer *a)
{
    struct seen *s = arg;

    s->count++;
    s->rc = a->rc;
    s->step = a->step;
    s->state = a->task ? a->task->state : TASK_NEW;
    s->attempt = a->task ? a->task->attempt : 0;
    snprintf(s->reason, sizeof(s->reason), "%s", a->reason);
}

static struct task ready_task(void)
{
    struct task t = {.id = id_new(),
                     .seq = 1,
                     .state = TASK_READY,
                     .attempt = 1,
                     .max_attempts = 2,
                     .slots = 1,
                     .queue_deadline = INT64_MIN,
                     .pool = xstrdup("default"),
                     .job_type = xstrdup("Noop"),
                     .spec = xstrdup("{}")};
    return t;
}

static struct task_event claim(const char *worker, int64_t token)
{
    return (struct task_event){.type = TE_CLAIM,
                               .now = NOW,
                               .attempt = 1,
                               .who = who_of(worker, NULL, 1),
                               .token = token,
                               .beat = 1};
}

static struct task_event success(int64_t token)
{
    return (struct task_event){.type = TE_RESULT,
                               .now = NOW,
                               .attempt = 1,
                               .who = who_of("w", NULL, 1),
                               .token = token,
                               .started_at = INT64_MIN};
}

static int setup(void **state)
{
    (void)state;
    fail_with = conflicts = loads = writes = largest_write = hooks = 0;
    largest_output = 0;
    leader_epoch = 1;
    assert_int_equal(uv_loop_init(&loop), 0);
    struct ledger_options o = {
        .loop = &loop, .on_change = on_change, .in_flight = 2, .cache_bytes = 1 << 20};
    ledger = ledger_new(&o);
    return 0;
}

/* Until every event is answered. */
static void run(void)
{
    while (ledger_pending(ledger)) {
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static int teardown(void **state)
{
    struct stored *s;
    struct stored *tmp;

    (void)state;
    run();
    ledger_close(ledger, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    HASH_ITER(hh, table, s, tmp)
    {
        HASH_DEL(table, s);
        task_done(&s->row);
        free(s);
    }
    return 0;
}

static void test_many_go_into_one_write(void **state)
{
    enum { N = 400 };
    static struct seen seen[N];
    struct id ids[N];

    (void)state;
    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < N; i++) {
        struct task t = ready_task();
        ids[i] = t.id;
        insert(&t);
        task_done(&t);
    }
    for (int i = 0; i < N; i++) {
        struct task_event ev = claim("w", i + 1);
        ledger_submit(ledger, &ids[i], &ev, 0, on_answer, &seen[i]);
    }
    run();
    for (int i = 0; i < N; i++) {
        assert_int_equal(seen[i].count, 1);
        assert_int_equal(seen[i].step, STEP_APPLIED);
        assert_int_equal(find(&ids[i])->row.state, TASK_RUNNING);
    }
    assert_true(loads < 10);
    assert_true(writes < 10);
    assert_int_equal(hooks, N);
}

static void test_events_of_one_task_keep_their_order(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct seen b = {0};
    struct seen c = {0};
    struct task_event first = claim("w", 5);
    struct task_event second = claim("v", 6);
    struct task_event done = success(5);

    (void)state;
    insert(&t);
    ledger_submit(ledger, &t.id, &first, 0, on_answer, &a);
    ledger_submit(ledger, &t.id, &second, 0, on_answer, &b);
    ledger_submit(ledger, &t.id, &done, 0, on_answer, &c);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(b.step, STEP_REFUSED);
    assert_string_equal(b.reason, "running");
    assert_int_equal(c.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.state, TASK_SUCCEEDED);
    task_done(&t);
}

static struct id overtaken;

static void somebody_else_claims(void)
{
    struct stored *s = find(&overtaken);
    struct task_event ev = claim("other", 99);
    struct task_audit audit;
    const char *reason = NULL;

    assert_int_equal(task_step(&s->row, &ev, &audit, &reason), STEP_APPLIED);
    task_audit_done(&audit);
}

static void test_an_overtaken_decision_is_made_again(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);

    (void)state;
    insert(&t);
    overtaken = t.id;
    ledger_offer(ledger, &t);
    before_write = somebody_else_claims;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.count, 1);
    assert_int_equal(a.step, STEP_REFUSED);
    assert_string_equal(a.reason, "running");
    assert_int_equal(find(&t.id)->row.token, 99);
    assert_int_equal(loads, 1);
    task_done(&t);
}

/* Another manager ended attempt 1 and granted attempt 2, which this ledger has not seen. */
static struct stored *second_attempt_elsewhere(const struct task *t, enum task_state state)
{
    struct stored *s = find(&t->id);

    s->row.seq += 4;
    s->row.state = state;
    s->row.attempt = 2;
    s->row.token = 77;
    return s;
}

static void test_nothing_is_refused_on_an_old_row(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);

    (void)state;
    insert(&t);
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    second_attempt_elsewhere(&t, TASK_FED);
    ev.attempt = 2;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.state, TASK_RUNNING);
    assert_int_equal(loads, 2);
    task_done(&t);
}

static void test_a_new_leader_ends_what_it_did_not_grant(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);
    struct task_event lost = {.type = TE_LOST,
                              .now = NOW,
                              .attempt = 2,
                              .token = 77,
                              .who = who_of("w", NULL, 1),
                              .beat = 1,
                              .max_losses = 3};

    (void)state;
    insert(&t);
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    second_attempt_elsewhere(&t, TASK_RUNNING);
    ledger_submit(ledger, &t.id, &lost, 1, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.state, TASK_SCHEDULED);
    task_done(&t);
}

/* An event that came while a write was under way speaks of something newer than that write. */
static struct seen late;

static void second_attempt_meanwhile(uv_timer_t *t)
{
    struct task_event ev = claim("w", 7);

    ev.attempt = 2;
    second_attempt_elsewhere(t->data, TASK_FED);
    ledger_submit(ledger, &((const struct task *)t->data)->id, &ev, 0, on_answer, &late);
    uv_close((uv_handle_t *)t, NULL);
}

static uv_timer_t meanwhile;

static void start_meanwhile(void)
{
    uv_timer_init(&loop, &meanwhile);
    uv_timer_start(&meanwhile, second_attempt_meanwhile, 0, 0);
}

static void test_a_write_is_older_than_what_came_meanwhile(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);

    (void)state;
    late = (struct seen){0};
    insert(&t);
    meanwhile.data = &t;
    before_write = start_meanwhile;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(late.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.token, 7);
    task_done(&t);
}

static void test_a_repetition_is_checked_too(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);

    (void)state;
    insert(&t);
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    second_attempt_elsewhere(&t, TASK_RUNNING);
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_REFUSED);
    assert_string_equal(a.reason, "superseded");
    task_done(&t);
}

static void test_conflicts_are_tried_again(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);
    struct task_event cancel = {.type = TE_CANCEL, .now = NOW};

    (void)state;
    insert(&t);
    conflicts = 2;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    conflicts = 100;
    ledger_submit(ledger, &t.id, &cancel, 0, on_answer, &a);
    run();
    assert_int_equal(a.rc, ERR_BUSY); /* may be repeated; not a conflict with the task's state */
    assert_true(conflicts > 50);
    task_done(&t);
}

static struct id running_task(void)
{
    struct task t = ready_task();
    struct id id = t.id;

    t.state = TASK_RUNNING;
    t.token = 5;
    insert(&t);
    task_done(&t);
    return id;
}

static void test_one_bad_row_hurts_no_other(void **state)
{
    enum { N = 40 };
    struct seen seen[N] = {{0}};
    struct id ids[N];
    struct task_event good = success(5);
    struct task_event bad = success(5);

    (void)state;
    bad.output = POISON;
    for (int i = 0; i < N; i++) {
        ids[i] = running_task();
        ledger_submit(ledger, &ids[i], i == 7 ? &bad : &good, 0, on_answer, &seen[i]);
    }
    run();
    for (int i = 0; i < N; i++) {
        assert_int_equal(seen[i].rc, i == 7 ? ERR_DB : 0);
        assert_int_equal(find(&ids[i])->row.state, i == 7 ? TASK_RUNNING : TASK_SUCCEEDED);
    }
    ledger_submit(ledger, &ids[7], &good, 0, on_answer, &seen[7]);
    run();
    assert_int_equal(seen[7].step, STEP_APPLIED);
}

static void test_a_bad_event_hurts_no_other_of_its_task(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct seen b = {0};
    struct seen c = {0};
    struct task_event ev = claim("w", 5);
    struct task_event bad = success(5);
    struct task_event good = success(5);

    (void)state;
    insert(&t);
    bad.output = POISON;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    ledger_submit(ledger, &t.id, &bad, 0, on_answer, &b);
    ledger_submit(ledger, &t.id, &good, 0, on_answer, &c);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(b.rc, ERR_DB);
    assert_int_equal(c.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.state, TASK_SUCCEEDED);
    task_done(&t);
}

static void test_writes_are_bounded_in_bytes(void **state)
{
    enum { N = 300, BYTES = 200 * 1024 };
    static struct seen seen[N];
    char *output CLEANUP(freep) = xmalloc(BYTES + 1);
    struct task_event ev = success(5);

    (void)state;
    memset(output, '1', BYTES);
    ev.output = output;
    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < N; i++) {
        struct id id = running_task();

        ledger_submit(ledger, &id, &ev, 0, on_answer, &seen[i]);
    }
    run();
    for (int i = 0; i < N; i++) {
        assert_int_equal(seen[i].step, STEP_APPLIED);
    }
    assert_true(largest_output <= 9 << 20);
    assert_true(largest_write > 10);
}

static void somebody_else_notes_something(void)
{
    find(&overtaken)->row.seq++;
}

static void test_a_leader_that_was_overtaken_decides_again(void **state)
{
    struct seen a = {0};
    struct task_event lost = {
        .type = TE_LOST, .now = NOW, .attempt = 1, .token = 5, .max_losses = 3};

    (void)state;
    overtaken = running_task();
    before_write = somebody_else_notes_something;
    ledger_submit(ledger, &overtaken, &lost, 1, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(find(&overtaken)->row.state, TASK_SCHEDULED);
    assert_int_equal(find(&overtaken)->row.losses, 1);
}

static void test_an_old_leader_writes_nothing(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event fed = {.type = TE_FED, .now = NOW};

    (void)state;
    insert(&t);
    leader_epoch = 2;
    ledger_submit(ledger, &t.id, &fed, 1, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_REFUSED);
    assert_int_equal(find(&t.id)->row.state, TASK_READY);
    ledger_submit(ledger, &t.id, &fed, 2, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.state, TASK_FED);
    task_done(&t);
}

static void test_a_database_that_is_away_is_told(void **state)
{
    struct task t = ready_task();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);

    (void)state;
    insert(&t);
    fail_with = ERR_DB_DOWN;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.rc, ERR_DB_DOWN);
    fail_with = 0;
    ledger_submit(ledger, &t.id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.step, STEP_APPLIED);
    /* The write may have happened although its answer was lost: the same claim gets the same grant.
     */
    fail_with = ERR_DB_DOWN;
    struct task_event again = claim("w", 6);
    again.beat = 2;
    ledger_submit(ledger, &t.id, &again, 0, on_answer, &a);
    run();
    fail_with = 0;
    ledger_submit(ledger, &t.id, &again, 0, on_answer, &a);
    run();
    assert_int_equal(a.step, STEP_APPLIED);
    assert_int_equal(find(&t.id)->row.token, 5);
    task_done(&t);
}

static void test_unknown_task(void **state)
{
    struct id id = id_new();
    struct seen a = {0};
    struct task_event ev = claim("w", 5);

    (void)state;
    ledger_submit(ledger, &id, &ev, 0, on_answer, &a);
    run();
    assert_int_equal(a.rc, ERR_NOT_FOUND);
    assert_null(ledger_peek(ledger, &id));
}

static void test_the_cache_is_bounded(void **state)
{
    (void)state;
    struct id first = {{0}};
    for (int i = 0; i < 3000; i++) {
        struct task t = ready_task();

        first = i ? first : t.id;
        ledger_offer(ledger, &t);
        task_done(&t);
    }
    assert_null(ledger_peek(ledger, &first));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many_go_into_one_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_events_of_one_task_keep_their_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_overtaken_decision_is_made_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_refused_on_an_old_row, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_new_leader_ends_what_it_did_not_grant, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_write_is_older_than_what_came_meanwhile, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_repetition_is_checked_too, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conflicts_are_tried_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_bad_row_hurts_no_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_bad_event_hurts_no_other_of_its_task, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_writes_are_bounded_in_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_leader_that_was_overtaken_decides_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_old_leader_writes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_database_that_is_away_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_task, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_cache_is_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
