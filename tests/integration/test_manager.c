/* One manager: a task's whole way, retries, cancels, leases, order. */
#include "internal/metrics.h"
#include "tests/integration/manager_bench.h"

static void test_two_thousand_tasks(void **state)
{
    (void)state;
    w.answers = w.succeeds = true;
    join(100);
    submit("", 2000, NULL, 0);
    assert_int_equal(accept_rc, 0);
    for (int i = 0; i < 2000; i += 100) {
        assert_int_equal(final_of(&ids[i]), TASK_SUCCEEDED);
    }
    AWAIT(w.applied >= 2000);
    for (int i = 0; i < 2000; i += 333) {
        assert_int_equal(state_of(&ids[i]), TASK_SUCCEEDED);
        assert_string_equal(seen.output, "{\"n\":1}");
        check_story(&ids[i], "accepted granted succeeded");
    }
    assert_int_equal(w.n_grants, 2000);
}

static void test_claims(void **state)
{
    struct id unknown = id_new();

    (void)state;
    join(1);
    submit("", 1, NULL, 0);
    AWAIT(w.hints == 1);
    send_claim(&ids[0], 1);
    AWAIT(w.n_grants == 1);
    /* The answer was lost: the same grant again. The one that leads answers what all get. */
    send_claim_to("", &ids[0], 1);
    AWAIT(w.n_grants == 2);
    assert_int_equal(w.grants[0].token, w.grants[1].token);
    /* Somebody else, another attempt, another task. */
    w.inc++;
    send_claim(&ids[0], 1);
    AWAIT(w.n_denies == 1);
    assert_string_equal(w.deny, "running");
    send_claim(&ids[0], 2);
    AWAIT(w.n_denies == 2);
    assert_string_equal(w.deny, "superseded");
    send_claim(&unknown, 1);
    AWAIT(w.n_denies == 3);
    assert_string_equal(w.deny, "unknown");
    w.inc--;
    struct grant forged = w.grants[0];
    forged.token++;
    send_result(&forged, "failed", "");
    AWAIT(w.applied == 1);
    assert_int_equal(state_of(&ids[0]), TASK_RUNNING);
    send_result(&w.grants[0], "succeeded", "");
    AWAIT(w.applied == 2);
    send_result(&w.grants[0], "succeeded", "");
    AWAIT(w.applied == 3);
    assert_int_equal(state_of(&ids[0]), TASK_SUCCEEDED);
    check_story(&ids[0], "accepted granted superseded succeeded");
}

static void test_retries_and_delay(void **state)
{
    (void)state;
    w.answers = true;
    join(4);
    submit(",\"maxAttempts\":2,\"retryBackoffSeconds\":0,\"delaySeconds\":0.3", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    send_result(&w.grants[0], "failed",
                ",\"error\":{\"kind\":\"exit\",\"message\":\"no\",\"exitCode\":3,\"signal\":null}");
    AWAIT(w.n_grants == 2);
    assert_int_equal(w.grants[1].attempt, 2);
    send_result(&w.grants[1], "failed",
                ",\"error\":{\"kind\":\"exit\",\"message\":\"no\",\"exitCode\":4,\"signal\":null}");
    assert_int_equal(final_of(&ids[0]), TASK_FAILED);
    assert_non_null(strstr(seen.error, "\"exitCode\":4"));
    check_story(&ids[0], "accepted ready granted retry ready granted failed");
}

static void test_cancel(void **state)
{
    (void)state;
    submit("", 1, NULL, 0); /* nobody is there to run it */
    seen_rc = 1;
    manager_cancel(manager, &ids[0], on_task, NULL);
    AWAIT(seen_rc != 1);
    assert_int_equal(seen_rc, 0);
    assert_int_equal(seen.state, TASK_CANCELLED);
    w.answers = true;
    join(4);
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    seen_rc = 1;
    manager_cancel(manager, &ids[0], on_task, NULL);
    AWAIT(w.cancels > 0 && seen_rc != 1);
    assert_int_equal(seen.state, TASK_RUNNING);
    send_result(&w.grants[0], "cancelled", "");
    assert_int_equal(final_of(&ids[0]), TASK_CANCELLED);
    check_story(&ids[0], "accepted granted cancelRequested cancelled");
    seen_rc = 1;
    manager_requeue(manager, &ids[0], on_task, NULL);
    AWAIT(w.n_grants == 2);
    assert_int_equal(w.grants[1].attempt, 2);
}

static void test_a_silent_worker_loses_its_lease(void **state)
{
    (void)state;
    w.answers = true;
    join(4);
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    /* It says nothing more: after the lease and its margin the next attempt is due. */
    AWAIT(state_of(&ids[0]) != TASK_RUNNING);
    assert_int_equal(seen.attempt, 2);
    assert_int_equal(seen.losses, 1);
    send_result(&w.grants[0], "succeeded", "");
    AWAIT(w.applied == 1);
    assert_int_not_equal(state_of(&ids[0]), TASK_SUCCEEDED);
}

static void test_a_restarted_worker_keeps_what_it_brings_back(void **state)
{
    char run[300];
    char id[ID_TEXT_LEN];

    (void)state;
    w.answers = true;
    join(4);
    submit("", 2, NULL, 0);
    AWAIT(w.n_grants == 2);
    id_format(&w.grants[0].task, id);
    snprintf(run, sizeof(run),
             "{\"task\":\"%s\",\"attempt\":1,\"token\":\"%lld\",\"phase\":\"running\","
             "\"applicationId\":\"app-7\"}",
             id, (long long)w.grants[0].token);
    w.answers = false;
    w.inc++;
    w.beat = 0;
    send_beat(run, 4);
    AWAIT(state_of(&w.grants[1].task) != TASK_RUNNING);
    assert_int_equal(state_of(&w.grants[0].task), TASK_RUNNING);
    assert_string_equal(seen.application_id, "app-7");
    send_result(&w.grants[0], "succeeded", "");
    assert_int_equal(final_of(&w.grants[0].task), TASK_SUCCEEDED);
    check_story(&w.grants[0].task, "accepted granted survived application succeeded");
}

static void test_idempotency(void **state)
{
    char key[40];

    (void)state;
    snprintf(key, sizeof(key), "key-%llx", (unsigned long long)random_u64());
    submit("", 3, key, 1);
    assert_int_equal(accept_rc, 0);
    assert_false(replayed);
    struct id first = ids[0];
    struct id last = ids[2];
    submit("", 3, key, 1);
    assert_true(replayed);
    assert_int_equal(n_ids, 3);
    assert_true(id_eq(&first, &ids[0]) && id_eq(&last, &ids[2]));
    submit("", 3, key, 2);
    assert_int_equal(accept_rc, ERR_CONFLICT);
}

static void test_priority_goes_first(void **state)
{
    (void)state;
    submit(",\"priority\":0", 300, NULL, 0);
    submit(",\"priority\":9", 1, NULL, 0);
    struct id urgent = ids[0];
    join(1); /* one slot: two hints at most are outstanding */
    /* Queues of different classes are delivered side by side. */
    AWAIT(w.hints >= 2);
    assert_true(id_eq(&w.hinted[0], &urgent) || id_eq(&w.hinted[1], &urgent));
}

/* A long queue that another manager has accepted is fed as fast as one of our own, though we knew
 * everything there was before: not a scan at a time, whenever it is time for one. */
static void test_a_queue_of_somebody_else(void **state)
{
    static const char sql[] =
        "with x as (select gen_random_uuid() as id, t from task t order by submitted_at desc limit "
        "1), "
        "y as (select gen_random_uuid() as id, x.t from x, generate_series(1, 15000)), "
        "i as (insert into task select (jsonb_populate_record(y.t, jsonb_build_object('id', y.id, "
        "'seq', 1, 'state', 2, 'job_id', 'else', 'started_at', null, 'finished_at', null, "
        "'worker_id', "
        "null, 'output', null))).* from y) "
        "insert into event (task_id, seq, at, attempt, to_state, event) "
        "select id, 1, now(), 1, 2, 'accepted' from y";

    (void)state;
    config->node.heartbeat_seconds = 100; /* one beat is enough */
    config->node.dead_after_seconds = 1000;
    manager_reconfigure(manager, config);
    join(20000);
    submit("", 1, NULL, 0);
    AWAIT(w.hints == 1);
    run_sql(sql);
    AWAIT(w.hints > 15000);
}

static void test_queue_timeout(void **state)
{
    (void)state;
    submit(",\"queueTimeoutSeconds\":1", 1, NULL, 0);
    assert_int_equal(final_of(&ids[0]), TASK_FAILED);
    assert_non_null(strstr(seen.error, "\"timeout\""));
}

/* ---- people who wait ---- */

static struct waiter *waiting[4];
static int answered;

static void on_waited(void *arg, int rc, const struct task *t, const struct err *why)
{
    size_t *me = arg;

    (void)why;
    assert_int_equal(rc, 0);
    assert_int_equal(t->state, TASK_CANCELLED);
    waiting[*me] = NULL;
    answered++;
}

/* Answering one ends the next, as a connection does that is gone. */
static void on_waited_ending_another(void *arg, int rc, const struct task *t, const struct err *why)
{
    size_t *me = arg;
    size_t next = *me + 1;

    on_waited(arg, rc, t, why);
    if (waiting[next]) {
        manager_wait_cancel(waiting[next]);
        waiting[next] = NULL;
    }
}

static void cancel_and_await(int expected)
{
    seen_rc = 1;
    manager_cancel(manager, &ids[0], on_task, NULL);
    AWAIT(seen_rc != 1 && answered == expected);
    assert_int_equal(seen_rc, 0);
}

static void test_everybody_who_waits_is_answered(void **state)
{
    size_t number[ARRAY_LEN(waiting)];

    (void)state;
    submit("", 1, NULL, 0);
    answered = 0;
    for (size_t i = 0; i < ARRAY_LEN(waiting); i++) {
        number[i] = i;
        waiting[i] = manager_wait(manager, &ids[0], 30000, on_waited, &number[i]);
        assert_non_null(waiting[i]);
    }
    cancel_and_await(4);
}

static void test_an_answer_may_end_another_waiter(void **state)
{
    size_t number[ARRAY_LEN(waiting)];

    (void)state;
    submit("", 1, NULL, 0);
    answered = 0;
    for (size_t i = 0; i < ARRAY_LEN(waiting); i++) {
        number[i] = i;
        waiting[i] = manager_wait(manager, &ids[0], 30000,
                                  i % 2 ? on_waited : on_waited_ending_another, &number[i]);
    }
    cancel_and_await(2);
}

static void test_a_wait_ends_when_its_time_is_over(void **state)
{
    (void)state;
    submit("", 1, NULL, 0);
    seen_rc = 1;
    manager_wait(manager, &ids[0], 1, on_task, NULL);
    AWAIT(seen_rc != 1);
    assert_int_equal(seen_rc, 0);
    assert_int_equal(seen.state, TASK_READY);
    struct id nobody = id_new();
    seen_rc = 1;
    manager_wait(manager, &nobody, 30000, on_task, NULL);
    AWAIT(seen_rc != 1);
    assert_int_equal(seen_rc, ERR_NOT_FOUND);
}

static struct log_part part;
static int log_rc;

static void on_log(void *arg, int rc, const struct log_part *p, const struct err *why)
{
    (void)arg;
    (void)why;
    log_rc = rc;
    part = p ? *p : (struct log_part){0};
}

static void test_the_log_of_a_noop_is_empty(void **state)
{
    (void)state;
    submit("", 1, NULL, 0);
    struct log_request r = {.id = ids[0], .limit = 100};
    log_rc = 1;
    manager_log(manager, &r, on_log, NULL);
    AWAIT(log_rc != 1);
    assert_int_equal(log_rc, 0);
    assert_false(part.ended); /* it has not run */
    w.answers = w.succeeds = true;
    join(1);
    assert_int_equal(final_of(&ids[0]), TASK_SUCCEEDED);
    log_rc = 1;
    manager_log(manager, &r, on_log, NULL);
    AWAIT(log_rc != 1);
    assert_int_equal(log_rc, 0);
    assert_true(part.ended && part.size == 0 && part.attempt == 1);
}

static int log_orders;

static void on_log_order(const char *type, const json_t *j)
{
    log_orders += streq(type, "log") && json_get_int(j, "waitMs", 0) == 60000;
}

/* Its worker is started again while the answer is awaited: the new process is asked at once. */
static void test_a_follower_of_a_log_survives_its_worker(void **state)
{
    (void)state;
    char *text CLEANUP(freep) =
        xasprintf("{\"jobType\":\"Command\",\"command\":[\"true\"],\"pool\":\"%s\"}", w.pool);
    join(1);
    w.answers = true;
    n_ids = 0;
    submit_text(text, 1, NULL, 0, on_accepted, NULL);
    AWAIT(w.n_grants == 1);
    struct log_request r = {.id = ids[0], .limit = 100, .wait_ms = 60000};
    log_orders = 0;
    log_rc = 1;
    w.heard = on_log_order;
    manager_log(manager, &r, on_log, NULL);
    AWAIT(log_orders == 1);

    char id[ID_TEXT_LEN];
    id_format(&ids[0], id);
    w.inc++;
    snprintf(w.queue, sizeof(w.queue), "sje.worker.%s.%lld", w.name, (long long)w.inc);
    w.ready = false;
    assert_int_equal(mq_declare_queue(w.sub, w.queue, MQ_EXCLUSIVE, on_queue, NULL), 0);
    assert_int_equal(mq_consume(w.sub, w.queue, "again", true, on_order, NULL, NULL, NULL), 0);
    assert_int_equal(mq_declare_queue(w.sub, w.queue, MQ_EXCLUSIVE, on_settled, NULL), 0);
    AWAIT(w.ready);
    char *run CLEANUP(freep) =
        xasprintf("{\"task\":\"%s\",\"attempt\":1,\"token\":\"%lld\",\"phase\":\"running\"}", id,
                  (long long)w.grants[0].token);
    send_beat(run, 1);
    AWAIT(log_orders == 2);
    assert_int_equal(log_rc, 1);
    stop(&manager);
    assert_int_equal(log_rc, ERR_CLOSED);
}

/* ---- what peers may say ---- */

/* A worker may list what it likes: the answer stays within its limit. */
static void test_a_huge_beat(void **state)
{
    struct buf b CLEANUP(buf_free) = {0};
    char id[ID_TEXT_LEN];
    struct id task = id_new();

    (void)state;
    join(1);
    id_format(&task, id);
    for (int n = 9000; n <= 30000; n += 21000) {
        buf_init(&b, 8 << 20);
        buf_addf(&b,
                 "{\"v\":1,\"type\":\"beat\",\"worker\":\"%s\",\"inc\":%lld,\"beat\":%lld,"
                 "\"reply\":\"%s\",\"slots\":1,\"running\":[",
                 w.name, (long long)w.inc, (long long)++w.beat, w.queue);
        for (int i = 0; i < n; i++) {
            buf_addf(&b, "%s{\"task\":\"%s\",\"attempt\":1,\"token\":\"1\",\"phase\":\"ended\"}",
                     i ? "," : "", id);
        }
        buf_adds(&b, "]}");
        assert_false(b.failed);
        publish("sje.beat", "", b.data, false);
        buf_free(&b);
    }
    join(1);
}

/* One report with a value that no column holds keeps neither itself nor others from being applied.
 */
static void test_an_absurd_start_time(void **state)
{
    (void)state;
    w.answers = true;
    join(2);
    submit("", 2, NULL, 0);
    AWAIT(w.n_grants == 2);
    send_result(&w.grants[0], "succeeded", ",\"startedAtMs\":9223372036854775807");
    send_result(&w.grants[1], "succeeded", "");
    assert_int_equal(final_of(&ids[0]), TASK_SUCCEEDED);
    assert_int_equal(final_of(&ids[1]), TASK_SUCCEEDED);
}

/* ---- what the database does not take ---- */

static void test_a_result_that_the_database_does_not_take(void **state)
{
    (void)state;
    w.answers = true;
    join(3);
    submit("", 3, NULL, 0);
    AWAIT(w.n_grants == 3);
    run_sql("alter table task add constraint test_poison check (output::text not like "
            "'%poison%' and error::text not like '%poison%') not valid");
    send_result(&w.grants[0], "succeeded", ",\"output\":\"poison\"");
    send_result(&w.grants[1], "failed",
                ",\"error\":{\"kind\":\"exit\",\"message\":\"poison\",\"exitCode\":1}");
    send_result(&w.grants[2], "succeeded", ",\"output\":2");
    AWAIT(w.applied == 3);
    run_sql("alter table task drop constraint test_poison");
    /* The outcome stands, and says what is missing. */
    assert_int_equal(state_of(&w.grants[0].task), TASK_SUCCEEDED);
    assert_non_null(strstr(seen.output, "{\"warning\":"));
    assert_int_equal(state_of(&w.grants[1].task), TASK_FAILED);
    assert_non_null(strstr(seen.error, "\"kind\":\"exit\""));
    assert_int_equal(state_of(&w.grants[2].task), TASK_SUCCEEDED);
    assert_string_equal(seen.output, "2");
}

/* A database that takes no change of that task at all: the result is not kept back with others, and
 * is applied when it is sent again. */
static void test_an_outcome_that_the_database_does_not_take(void **state)
{
    (void)state;
    w.answers = true;
    join(2);
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    run_sql("alter table task add constraint test_none check (state <> 5) not valid");
    send_result(&w.grants[0], "succeeded", "");
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 2);
    send_result(&w.grants[1], "failed", "");
    AWAIT(w.applied == 1);
    assert_int_equal(state_of(&w.grants[0].task), TASK_RUNNING);
    run_sql("alter table task drop constraint test_none");
    while (w.applied == 1) { /* as workers do: one may still have met the constraint */
        uint64_t until = uv_hrtime() + 1000000000U;

        send_result(&w.grants[0], "succeeded", "");
        AWAIT(w.applied > 1 || uv_hrtime() > until);
    }
    assert_int_equal(state_of(&w.grants[0].task), TASK_SUCCEEDED);
}

/* ---- accepting ---- */

static void on_rc(void *arg, const struct accept_reply *r)
{
    int *rc = arg;

    *rc = r->rc;
}

static void test_one_bad_request_hurts_no_other(void **state)
{
    int rc[3] = {1, 1, 1};

    (void)state;
    run_sql("alter table task add constraint test_job check (job_id is distinct from 'poison') "
            "not valid");
    for (int i = 0; i < 3; i++) {
        submit_text(i == 1 ? "{\"jobType\":\"Noop\",\"jobId\":\"poison\"}"
                           : "{\"jobType\":\"Noop\"}",
                    2, NULL, 0, on_rc, &rc[i]);
    }
    AWAIT(rc[0] != 1 && rc[1] != 1 && rc[2] != 1);
    run_sql("alter table task drop constraint test_job");
    assert_int_equal(rc[0], 0);
    assert_int_equal(rc[1], ERR_DB);
    assert_int_equal(rc[2], 0);
}

static int page_rows; /* -1: to come */
static bool page_more;
static struct id page_last;

static void on_page(void *arg, int rc, const struct task *list, size_t n, bool more,
                    const struct err *why)
{
    size_t bytes = 0;

    (void)arg;
    (void)why;
    assert_int_equal(rc, 0);
    for (size_t i = 0; i < n; i++) {
        bytes += strlen(list[i].spec);
    }
    assert_true(bytes < 2 << 20);
    page_rows = (int)n;
    page_more = more;
    page_last = n ? list[n - 1].id : page_last;
}

/* The newest `n` tasks of the type, page by page. */
static void pages_are_bounded(int n)
{
    struct list_filter f = {.job_type = "Command", .limit = 1000};
    int pages = 0;

    for (int rows = 0; rows < n; rows += page_rows, pages++) {
        page_rows = -1;
        manager_list(manager, &f, on_page, NULL);
        AWAIT(page_rows >= 0);
        assert_true(page_rows > 0 && (page_more || rows + page_rows >= n));
        f.after = &page_last;
    }
    assert_true(pages > 2);
}

/* Together they are more than one statement takes. */
static void test_large_requests_do_not_share_a_statement(void **state)
{
    enum { TEXT = 900 * 1024, TASKS = 20 };
    char *text CLEANUP(freep) = xmalloc(TEXT + 1);
    int rc[3] = {1, 1, 1};

    (void)state;
    memset(text, 'x', TEXT);
    char *spec CLEANUP(freep) = xasprintf(
        "{\"jobType\":\"Command\",\"command\":[\"cat\"],\"pool\":\"%s\",\"stdin\":\"%s\"}", w.pool,
        text);
    submit_text(spec, TASKS, NULL, 0, on_rc, &rc[0]);
    submit_text(spec, TASKS, NULL, 0, on_rc, &rc[1]);
    submit_text("{\"jobType\":\"Noop\"}", 1, NULL, 0, on_rc, &rc[2]);
    AWAIT(rc[0] != 1 && rc[1] != 1 && rc[2] != 1);
    assert_int_equal(rc[0], 0);
    assert_int_equal(rc[1], 0);
    assert_int_equal(rc[2], 0);
    pages_are_bounded(2 * TASKS);
    join(1);
    AWAIT(w.hints >= 2); /* what is too large for a scan is fed all the same */
}

/* ---- many results ---- */

static double most_pending;

static void note_pending(void)
{
    manager_metrics(manager);
    most_pending = MAX(most_pending, metric_value(METRIC_ledger_pending, NULL));
}

/* Of tasks that nobody knows; `more` in each. */
static void send_many_results(int n, const char *more)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, TAKEN_MAX);
    buf_addf(&b,
             "{\"v\":1,\"type\":\"results\",\"worker\":\"%s\",\"inc\":%lld,\"reply\":\"%s\","
             "\"results\":",
             w.name, (long long)w.inc, w.queue);
    for (int i = 0; i < n; i++) {
        char id[ID_TEXT_LEN];
        struct id task = id_new();

        id_format(&task, id);
        buf_addf(&b,
                 "%c{\"task\":\"%s\",\"attempt\":1,\"token\":\"1\",\"outcome\":\"succeeded\"%s}",
                 i ? ',' : '[', id, more);
    }
    buf_adds(&b, "]}");
    assert_false(b.failed);
    publish("", "sje.result", b.data, true);
}

/* They are taken a part at a time; the rest waits at the broker, and nothing is lost. */
static void test_results_are_bounded(void **state)
{
    enum { MESSAGES = 100, LARGE = 30 };
    char *large CLEANUP(freep) = xmalloc(60001);
    char *more CLEANUP(freep) = NULL;

    (void)state;
    memset(large, 'x', 60000);
    more = xasprintf(",\"output\":\"%s\"", large);
    most_pending = 0;
    w.step = note_pending;
    for (int i = 0; i < MESSAGES; i++) {
        send_many_results(1000, "");
    }
    for (int i = 0; i < LARGE; i++) {
        send_many_results(15, more);
    }
    AWAIT(w.applied == MESSAGES * 1000 + LARGE * 15);
    assert_true(most_pending > 1000 && most_pending <= 21000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_two_thousand_tasks),
        T(test_claims),
        T(test_retries_and_delay),
        T(test_cancel),
        T(test_a_silent_worker_loses_its_lease),
        T(test_a_restarted_worker_keeps_what_it_brings_back),
        T(test_idempotency),
        T(test_priority_goes_first),
        T(test_a_queue_of_somebody_else),
        T(test_queue_timeout),
        T(test_everybody_who_waits_is_answered),
        T(test_an_answer_may_end_another_waiter),
        T(test_a_wait_ends_when_its_time_is_over),
        T(test_the_log_of_a_noop_is_empty),
        T(test_a_follower_of_a_log_survives_its_worker),
        T(test_a_huge_beat),
        T(test_an_absurd_start_time),
        T(test_a_result_that_the_database_does_not_take),
        T(test_an_outcome_that_the_database_does_not_take),
        T(test_one_bad_request_hurts_no_other),
        T(test_large_requests_do_not_share_a_statement),
        T(test_results_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
