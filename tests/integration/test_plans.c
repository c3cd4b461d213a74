/* How the database carries out what managers ask: it reads little more than it gives, whatever its
 * statistics say. */
#include "pkg/manager/store.h"
#include "tests/integration/manager_bench.h"

#define LIMIT      100
#define READS_MAX  1000 /* rows, of 40,000 */
#define EVENTS     1000
#define TASKS      2000
#define BLOCKS_MAX 60 /* for one task, whose row and indexes are written three times */

static json_t *plan;

static void on_plan(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct err e = {0};

    (void)arg;
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    struct str text = db_get_text(res, 0, 0);
    assert_int_equal(json_read(text.p, text.len, &plan, &e), 0);
}

/* Of this node and those below it: what it gives and what it reads in vain. */
static double rows_read(const json_t *node)
{
    const json_t *below = json_object_get(node, "Plans");
    double loops = json_number_value(json_object_get(node, "Actual Loops"));
    double rows = json_number_value(json_object_get(node, "Actual Rows")) +
                  json_number_value(json_object_get(node, "Rows Removed by Filter"));
    double sum = rows * loops;
    size_t i;
    json_t *one;

    json_array_foreach(below, i, one)
    {
        sum += rows_read(one);
    }
    return sum;
}

/* Each filter of GET /tasks has an index: among very many rows that nobody asked for it reads
 * little more than a page. */
static void filters(const char *state_of_i)
{
    static const char *const states[] = {NULL,        "QUEUED", "RUNNING",
                                         "SUCCEEDED", "FAILED", "CANCELLED"};
    static const char *const kinds[] = {NULL, "Noop", "Rare", "Never"};
    static const char *const jobs[] = {NULL, "rare", "never"};
    static char *all[2][ARRAY_LEN(states) * ARRAY_LEN(kinds) * ARRAY_LEN(jobs)]; /* see db_exec() */
    static size_t calls;
    char **sql = all[calls++];
    struct db_options o = bench_options();
    int too_many = 0;
    char *fill CLEANUP(freep) = xasprintf(
        "insert into task (id, seq, attempt, failures, losses, requeues, stale, priority, "
        "max_attempts, backoff_s, slots, lease_s, queue_timeout_s, claim_beat, "
        "cancel_requested, rank, incarnation, token, submitted_at, run_after, pool, spec, "
        "finished_at, job_type, job_id, state) "
        "select gen_random_uuid(), 1000000 + i, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, false, "
        "0, 0, 0, now(), now(), 'nobody', '{}', now(), "
        "case when i %% 6000 = 0 then 'Rare' else 'Noop' end, "
        "case when i %% 8000 = 0 then 'rare' end, %s from generate_series(1, 40000) i",
        state_of_i);

    o.settings = STORE_LIST_SETTINGS;
    run_sql("alter table task set (autovacuum_enabled = false)");
    run_sql(
        "insert into task (id, seq, attempt, failures, losses, requeues, stale, priority, "
        "max_attempts, backoff_s, slots, lease_s, queue_timeout_s, claim_beat, "
        "cancel_requested, rank, incarnation, token, submitted_at, run_after, pool, spec, "
        "worker_id, job_type, state) "
        "select gen_random_uuid(), i, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, false, "
        "0, 0, 0, now(), now(), 'nobody', '{}', 'x', 'Noop', 4 from generate_series(1, 6000) i");
    run_sql("delete from task"); /* these and those of other programs: dead, not yet vacuumed */
    run_sql(fill);
    run_sql("analyze task");
    struct db *db = db_open(&loop, &o);
    AWAIT(db_is_up(db));
    for (size_t i = 0; i < ARRAY_LEN(all[0]); i++) {
        struct list_filter f = {
            .state = states[i % ARRAY_LEN(states)],
            .job_type = kinds[i / ARRAY_LEN(states) % ARRAY_LEN(kinds)],
            .job_id = jobs[i / ARRAY_LEN(states) / ARRAY_LEN(kinds)],
            .limit = LIMIT,
        };
        struct db_params p CLEANUP(db_params_free);

        store_list_params(&p, &f);
        sql[i] = xasprintf("explain (analyze, format json) %s", store_list_sql(&f));
        plan = NULL;
        assert_int_equal(db_exec(db, sql[i], &p, on_plan, NULL), 0);
        AWAIT(plan);
        double n = rows_read(json_object_get(json_array_get(plan, 0), "Plan"));
        json_decref(plan);
        if (n > READS_MAX) {
            print_error("state %s, jobType %s, jobId %s: reads %.0f rows\n", f.state, f.job_type,
                        f.job_id, n);
            too_many++;
        }
    }
    db_close(db, NULL, NULL);
    run_sql("delete from task where seq > 1000000");
    run_sql("vacuum analyze task");
    run_sql("alter table task reset (autovacuum_enabled)");
    assert_int_equal(too_many, 0);
}

static void test_filters(void **state)
{
    (void)state;
    filters("case when i % 10000 = 0 then 2 when i % 10001 = 0 then 6 when i % 10002 = 0 then 7 "
            "else 5 end");
}

/* The same beside a backlog: little has ended yet. */
static void test_filters_beside_a_backlog(void **state)
{
    (void)state;
    filters("case when i % 10000 = 0 then 5 when i % 10001 = 0 then 6 when i % 10002 = 0 then 7 "
            "else 2 end");
}

static struct task *found;
static size_t n_found;
static bool found_all;

static void on_ready(void *arg, int rc, const struct task *rows, size_t n, bool all,
                     const struct err *why)
{
    (void)arg;
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    found = xcalloc(n + 1, sizeof(*found));
    n_found = n;
    found_all = all;
    for (size_t i = 0; i < n; i++) {
        task_copy(&found[i], &rows[i]);
    }
}

static void forget_found(void)
{
    for (size_t i = 0; i < n_found; i++) {
        task_done(&found[i]);
    }
    free(found);
}

/* READY tasks are looked at in pieces, whatever they are; those that ask for more than slots have
 * an index of their own. */
static void test_ready(void **state)
{
    static const struct id none;
    char noop[] = "Noop";
    char absent[] = "Never";
    char *offered[] = {absent, noop};
    struct room plain = {.slots = 4};
    struct offers_filter slots = {.types = offered, .n_types = 2, .most = plain};
    struct offers_filter more = {
        .types = offered, .n_types = 2, .most = {4, 4000, 100}, .out = &plain, .n_out = 1};
    struct db_options o = bench_options();

    (void)state;
    o.settings = STORE_PLAN_SETTINGS;
    run_sql(
        "insert into task (id, seq, attempt, failures, losses, requeues, stale, priority, "
        "max_attempts, backoff_s, slots, cpus_milli, lease_s, queue_timeout_s, claim_beat, "
        "cancel_requested, rank, incarnation, token, submitted_at, run_after, pool, spec, "
        "job_type, state) "
        "select gen_random_uuid(), 1000000 + i, 1, 0, 0, 0, 0, 0, 1, 0, 1, "
        "case when i = 30001 then 1 else 0 end, 0, 0, 0, false, "
        "i, 0, 0, now(), now(), 'nobody', '{}', "
        "case when i <= 30000 then 'Absent' else 'Noop' end, 2 from generate_series(1, 30010) i");
    struct db *db = db_open(&loop, &o);
    AWAIT(db_is_up(db));
    found = NULL;
    assert_int_equal(store_scan_ready(db, "nobody", 0, &none, &slots, LIMIT, on_ready, NULL), 0);
    AWAIT(found);
    assert_int_equal(n_found, 1); /* so far */
    assert_false(found_all);
    int64_t rank = found[0].rank;
    assert_int_equal(rank, 20000);
    struct id id = found[0].id;
    forget_found();
    found = NULL;
    assert_int_equal(store_scan_ready(db, "nobody", rank, &id, &slots, LIMIT, on_ready, NULL), 0);
    AWAIT(found);
    assert_int_equal(n_found, 9);
    assert_true(found_all);
    assert_int_equal(found[0].rank, 30002);
    forget_found();
    found = NULL;
    assert_int_equal(store_scan_ready(db, "nobody", 0, &none, &slots, 5, on_ready, NULL), 0);
    AWAIT(found);
    assert_false(found_all);
    forget_found();
    found = NULL;
    assert_int_equal(store_scan_ready(db, "nobody", 0, &none, &more, LIMIT, on_ready, NULL), 0);
    AWAIT(found);
    assert_int_equal(n_found, 1);
    assert_true(found_all);
    assert_int_equal(found[0].rank, 30001);
    forget_found();
    db_close(db, NULL, NULL);
    run_sql("delete from task where seq > 1000000");
    run_sql("vacuum analyze task");
}

static int64_t number;

static void on_number(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    (void)arg;
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    number = db_get_int(res, 0, 0);
}

static int64_t number_of(const char *literal)
{
    number = -1;
    assert_int_equal(db_exec(bench_db, literal, NULL, on_number, NULL), 0);
    AWAIT(number >= 0);
    return number;
}

#define BLOCKS(of)                                                                                 \
    "select (heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint from "         \
    "pg_statio_user_tables where relname = '" of "'"
#define OTHERS                                                                                     \
    "select count(*) from pg_stat_activity where datname = current_database() and backend_type = " \
    "'client backend' and pid <> pg_backend_pid()"

/* Retention emptied it, but it kept its pages: for PostgreSQL there is no row in any of them,
 * however many come, until it is analyzed again. */
static void test_a_table_that_was_empty(void **state)
{
    (void)state;
    run_sql("alter table task set (autovacuum_enabled = false)"); /* it reads too */
    run_sql("delete from task");
    run_sql("vacuum (analyze, truncate off) task");
    int64_t before = number_of(BLOCKS("task"));
    w.answers = w.succeeds = true;
    join(100);
    submit("", TASKS, NULL, 0);
    for (int i = 0; i < TASKS; i++) {
        assert_int_equal(final_of(&ids[i]), TASK_SUCCEEDED);
    }
    stop(&manager); /* its connections tell their statistics in the end */
    while (number_of(OTHERS) > 0) {
    }
    int64_t n = number_of(BLOCKS("task")) - before;
    run_sql("alter table task reset (autovacuum_enabled)");
    if (n > 1LL * BLOCKS_MAX * TASKS) {
        fail_msg("%d tasks: %lld blocks of the table and its indexes were read", TASKS,
                 (long long)n);
    }
}

/* Retention takes one step, of EVENTS events. */
static void test_an_audit_that_was_empty(void **state)
{
    char sql[200];

    (void)state;
    stop(&manager); /* it would do it too */
    run_sql("alter table event set (autovacuum_enabled = false)");
    run_sql("truncate event");
    run_sql("insert into event (task_id, seq, at, attempt, to_state, event) "
            "select gen_random_uuid(), 1, now(), 1, 5, 'x' from generate_series(1, 1000)");
    run_sql(
        "do $$ begin perform set_config('sje.retention', 'on', true); delete from event; end $$");
    run_sql("vacuum (analyze, truncate off) event");
    run_sql("insert into event (task_id, seq, at, attempt, to_state, event) "
            "select ('00000000-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, 1, "
            "now() - interval '9 days', 1, 5, 'x' from generate_series(1, 40000) i");
    run_sql("select pg_stat_force_next_flush()");
    int64_t before = number_of(BLOCKS("event"));
    run_sql("set enable_seqscan = off");
    run_sql("set enable_mergejoin = off");
    snprintf(sql, sizeof(sql),
             "select gone from sje_forget_events((select epoch from leader), "
             "'00000000-0000-0000-0000-000000000000', now() - interval '1 day', %d)",
             EVENTS);
    assert_int_equal(number_of(sql), EVENTS);
    run_sql("select pg_stat_force_next_flush()");
    int64_t n = number_of(BLOCKS("event")) - before;
    run_sql("alter table event reset (autovacuum_enabled)");
    if (n > 20LL * EVENTS) {
        fail_msg("%d events: %lld blocks of the table and its index were read", EVENTS,
                 (long long)n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_filters), T(test_filters_beside_a_backlog),
                                       T(test_ready), T(test_a_table_that_was_empty),
                                       T(test_an_audit_that_was_empty)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
