/* The life of a task: every state with every event, budgets, poison, late reports, and what the
 * generated texts say. */
#include "pkg/task/step.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define NOW 1700000000000

static struct task fresh(void)
{
    struct task t = {.id = id_new(),
                     .seq = 1,
                     .state = TASK_READY,
                     .attempt = 1,
                     .max_attempts = 3,
                     .backoff_s = 5,
                     .slots = 1,
                     .priority = 5,
                     .queue_deadline = INT64_MIN,
                     .started_at = INT64_MIN,
                     .finished_at = INT64_MIN,
                     .pool = xstrdup("default"),
                     .job_type = xstrdup("Noop"),
                     .spec = xstrdup("{}")};
    return t;
}

static struct task_event claim_by(const char *worker, int attempt, int64_t token)
{
    return (struct task_event){.type = TE_CLAIM,
                               .now = NOW,
                               .attempt = attempt,
                               .who = who_of(worker, NULL, 7),
                               .token = token,
                               .beat = 3};
}

static struct task_event result_of(const struct task *t, enum task_outcome outcome)
{
    return (struct task_event){.type = TE_RESULT,
                               .now = NOW + 1000,
                               .random = 12345,
                               .attempt = t->attempt,
                               .token = t->token,
                               .who = t->who,
                               .outcome = outcome,
                               .error = outcome == OUTCOME_SUCCEEDED ? NULL : "{\"kind\":\"exit\"}",
                               .started_at = INT64_MIN,
                               .max_losses = 5};
}

static enum step_rc step(struct task *t, const struct task_event *ev, const char **reason)
{
    struct task_audit audit;
    int32_t seq = t->seq;
    enum task_state from = t->state;
    enum step_rc rc = task_step(t, ev, &audit, reason);

    if (rc == STEP_APPLIED || rc == STEP_RECORD) {
        assert_int_equal(t->seq, seq + 1);
        assert_int_equal(audit.seq, t->seq);
        assert_int_equal(audit.from, from);
        assert_int_equal(audit.to, t->state);
        if (audit.detail) {
            json_t *j = NULL;
            assert_int_equal(json_read(audit.detail, strlen(audit.detail), &j, NULL), 0);
            assert_true(json_is_object(j));
            json_decref(j);
        }
    } else {
        assert_int_equal(t->seq, seq);
        assert_int_equal(t->state, from);
    }
    task_audit_done(&audit);
    return rc;
}

static void grant(struct task *t, const char *worker, int64_t token)
{
    struct task_event ev = claim_by(worker, t->attempt, token);
    const char *reason = NULL;

    assert_int_equal(step(t, &ev, &reason), STEP_APPLIED);
    assert_int_equal(t->state, TASK_RUNNING);
}

static void make_due(struct task *t)
{
    struct task_event ev = {.type = TE_DUE, .now = t->run_after};
    const char *reason = NULL;

    assert_int_equal(step(t, &ev, &reason), STEP_APPLIED);
    assert_int_equal(t->state, TASK_READY);
}

static void test_claims_are_idempotent_and_exclusive(void **state)
{
    struct task t = fresh();
    struct task_event same = claim_by("w1", 1, 99);
    struct task_event other = claim_by("w2", 1, 100);
    struct task_event restarted = claim_by("w1", 1, 101);
    const char *reason = NULL;

    (void)state;
    grant(&t, "w1", 42);
    assert_int_equal(step(&t, &same, &reason), STEP_SAME);
    assert_int_equal(t.token, 42);
    assert_int_equal(step(&t, &other, &reason), STEP_REFUSED);
    assert_string_equal(reason, "running");
    restarted.who.inc = 8;
    assert_int_equal(step(&t, &restarted, &reason), STEP_REFUSED);
    /* Asked again after a further beat: the claim that counts is the last one. */
    same.beat = 9;
    assert_int_equal(step(&t, &same, &reason), STEP_APPLIED);
    assert_int_equal(t.claim_beat, 9);
    assert_int_equal(t.token, 42);
    task_done(&t);
}

/* What of the result is not complete is in the audit, whatever the outcome. */
static void test_a_warning_is_in_the_audit(void **state)
{
    (void)state;
    for (int o = OUTCOME_SUCCEEDED; o <= OUTCOME_LOST; o++) {
        struct task t = fresh();
        struct task_audit audit;
        const char *reason = NULL;

        grant(&t, "w1", 42);
        struct task_event ev = result_of(&t, (enum task_outcome)o);
        ev.warning = "5 bytes of stdout were not kept";
        assert_int_equal(task_step(&t, &ev, &audit, &reason), STEP_APPLIED);
        assert_non_null(strstr(audit.detail, "\"warning\":\"5 bytes of stdout were not kept\""));
        task_audit_done(&audit);
        task_done(&t);
    }
}

static void test_success_is_final(void **state)
{
    struct task t = fresh();
    struct task_audit audit;
    const char *reason = NULL;

    (void)state;
    grant(&t, "w1", 42);
    struct task_event ok = result_of(&t, OUTCOME_SUCCEEDED);
    ok.output = "{\"n\":1}";
    assert_int_equal(step(&t, &ok, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_SUCCEEDED);
    assert_string_equal(t.output, "{\"n\":1}");
    assert_int_equal(t.finished_at, NOW + 1000);
    /* The same report again is a repetition, not worth a line of the audit. */
    assert_int_equal(step(&t, &ok, &reason), STEP_REFUSED);
    assert_string_equal(reason, "ended");
    struct task_event bad = result_of(&t, OUTCOME_FAILED);
    bad.token = 1;
    assert_int_equal(task_step(&t, &bad, &audit, &reason), STEP_RECORD);
    assert_non_null(strstr(audit.detail, "\"reason\":\"ended\",\"text\":\"the result came after"));
    task_audit_done(&audit);
    assert_int_equal(t.state, TASK_SUCCEEDED);
    struct task_event again = {.type = TE_REQUEUE, .now = NOW};
    assert_int_equal(step(&t, &again, &reason), STEP_REFUSED);
    task_done(&t);
}

/* Whatever the worker's clock says. */
static void test_an_attempt_begins_between_grant_and_end(void **state)
{
    static const struct {
        int64_t said;
        int64_t shown;
    } cases[] = {
        {INT64_MIN, NOW}, {NOW + 300, NOW + 300}, {NOW - 70000, NOW}, {INT64_MAX, NOW + 1000}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct task t = fresh();
        const char *reason = NULL;

        grant(&t, "w1", 100);
        assert_int_equal(t.started_at, NOW);
        struct task_event ev = result_of(&t, OUTCOME_SUCCEEDED);
        ev.started_at = cases[i].said;
        assert_int_equal(step(&t, &ev, &reason), STEP_APPLIED);
        assert_int_equal(t.started_at, cases[i].shown);
        task_done(&t);
    }
}

static void test_failures_use_up_attempts(void **state)
{
    struct task t = fresh();
    const char *reason = NULL;

    (void)state;
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(t.attempt, i);
        grant(&t, "w1", 40 + i);
        struct task_event bad = result_of(&t, OUTCOME_FAILED);
        assert_int_equal(step(&t, &bad, &reason), STEP_APPLIED);
        if (i < 3) {
            assert_int_equal(t.state, TASK_SCHEDULED);
            assert_true(t.run_after >= bad.now && t.run_after <= bad.now + 5000 * i * 2);
            make_due(&t);
        }
    }
    assert_int_equal(t.state, TASK_FAILED);
    assert_int_equal(t.failures, 3);
    assert_string_equal(t.error, "{\"kind\":\"exit\"}");
    struct task_event again = {.type = TE_REQUEUE, .now = NOW, .reason = "an operator"};
    assert_int_equal(step(&t, &again, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_READY);
    assert_int_equal(t.attempt, 4);
    assert_int_equal(t.failures, 0);
    assert_null(t.error);
    task_done(&t);
}

static void test_losses_are_counted_apart(void **state)
{
    struct task t = fresh();
    const char *reason = NULL;

    (void)state;
    t.max_attempts = 1;
    for (int i = 1; i <= 6; i++) {
        grant(&t, "w1", i);
        struct task_event lost = {.type = TE_LOST,
                                  .now = NOW,
                                  .attempt = t.attempt,
                                  .token = t.token,
                                  .who = t.who,
                                  .beat = t.claim_beat,
                                  .reason = "silent",
                                  .max_losses = 5};
        struct task_event late = result_of(&t, OUTCOME_SUCCEEDED);
        assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
        assert_int_equal(t.failures, 0);
        assert_int_equal(t.losses, i);
        /* The attempt is over: its worker comes too late, and that is recorded. */
        assert_int_equal(step(&t, &late, &reason), STEP_RECORD);
        assert_int_not_equal(t.state, TASK_SUCCEEDED);
        if (i <= 5) {
            assert_int_equal(t.state, TASK_SCHEDULED);
            make_due(&t);
        }
    }
    assert_int_equal(t.state, TASK_FAILED);
    assert_non_null(strstr(t.error, "\"lost\""));
    task_done(&t);
}

static enum task_state two_deaths(const char *worker1, const char *worker2, const char *sig1,
                                  const char *sig2)
{
    struct task t = fresh();
    const char *reason = NULL;
    const char *workers[] = {worker1, worker2};
    const char *signatures[] = {sig1, sig2};

    t.max_attempts = 9;
    for (int i = 0; i < 2; i++) {
        grant(&t, workers[i], i + 1);
        struct task_event dead = result_of(&t, OUTCOME_FAILED);
        dead.signature = signatures[i];
        assert_int_equal(step(&t, &dead, &reason), STEP_APPLIED);
        if (t.state == TASK_SCHEDULED) {
            make_due(&t);
        }
    }
    enum task_state end = t.state;
    task_done(&t);
    return end;
}

static void test_what_poison_is_told(void **state)
{
    static const char *const cases[][2] = {
        {"signal 9", "it was killed by signal 9 on n1 and on vm; not tried again"},
        {"oom", "it ran out of memory on n1 and on vm; not tried again"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct task t = fresh();
        const char *reason = NULL;

        grant(&t, "n1", 1);
        struct task_event dead = result_of(&t, OUTCOME_FAILED);
        dead.signature = cases[i][0];
        assert_int_equal(step(&t, &dead, &reason), STEP_APPLIED);
        make_due(&t);
        grant(&t, "vm", 2);
        dead = result_of(&t, OUTCOME_FAILED);
        dead.signature = cases[i][0];
        assert_int_equal(step(&t, &dead, &reason), STEP_APPLIED);
        assert_int_equal(t.state, TASK_DEAD);
        assert_non_null(strstr(t.error, cases[i][1]));
        task_done(&t);
    }
}

/* What the worker says of a loss is the reason. */
static void test_why_it_was_lost(void **state)
{
    static const char *const cases[][2] = {
        {"{\"kind\":\"lost\",\"message\":\"its shim was killed\"}",
         "{\"reason\":\"its shim was killed\","},
        {"{\"kind\":\"lost\"}", "{\"reason\":\"the worker stopped it\","}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct task t = fresh();
        struct task_audit audit;
        const char *reason = NULL;

        grant(&t, "n1", 1);
        struct task_event ev = result_of(&t, OUTCOME_LOST);
        ev.error = cases[i][0];
        assert_int_equal(task_step(&t, &ev, &audit, &reason), STEP_APPLIED);
        assert_ptr_equal(strstr(audit.detail, cases[i][1]), audit.detail);
        task_audit_done(&audit);
        task_done(&t);
    }
}

static void test_poison_is_the_same_death_on_two_workers(void **state)
{
    (void)state;
    assert_int_equal(two_deaths("w1", "w2", "oom", "oom"), TASK_DEAD);
    assert_int_equal(two_deaths("w1", "w1", "oom", "oom"), TASK_READY);
    assert_int_equal(two_deaths("w1", "w2", "oom", "signal 11"), TASK_READY);
    assert_int_equal(two_deaths("w1", "w2", "oom", NULL), TASK_READY);
    assert_int_equal(two_deaths("w1", "w2", "signal 1", "signal 11"), TASK_READY);
}

static void test_cancel(void **state)
{
    struct task t = fresh();
    struct task_event cancel = {.type = TE_CANCEL, .now = NOW, .reason = "a client"};
    const char *reason = NULL;

    (void)state;
    assert_int_equal(step(&t, &cancel, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_CANCELLED);
    assert_int_equal(step(&t, &cancel, &reason), STEP_REFUSED);
    struct task_event claim = claim_by("w1", 1, 3);
    assert_int_equal(step(&t, &claim, &reason), STEP_REFUSED);
    assert_string_equal(reason, "cancelled");
    task_done(&t);

    t = fresh();
    grant(&t, "w1", 5);
    assert_int_equal(step(&t, &cancel, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_RUNNING);
    assert_int_equal(step(&t, &cancel, &reason), STEP_SAME);
    /* It ended by itself first: that is the outcome. */
    struct task copy;
    task_copy(&copy, &t);
    struct task_event ok = result_of(&copy, OUTCOME_SUCCEEDED);
    assert_int_equal(step(&copy, &ok, &reason), STEP_APPLIED);
    assert_int_equal(copy.state, TASK_SUCCEEDED);
    task_done(&copy);
    /* A failure or a loss after a cancel is not tried again. */
    task_copy(&copy, &t);
    struct task_event bad = result_of(&copy, OUTCOME_FAILED);
    assert_int_equal(step(&copy, &bad, &reason), STEP_APPLIED);
    assert_int_equal(copy.state, TASK_CANCELLED);
    task_done(&copy);
    struct task_event lost = {.type = TE_LOST,
                              .now = NOW,
                              .attempt = 1,
                              .token = 5,
                              .who = who_of("w1", NULL, 7),
                              .beat = 3,
                              .max_losses = 5};
    assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_CANCELLED);
    task_done(&t);
}

/* What a lost attempt may have left in a cluster is ended before the task is: by another attempt.
 */
static void test_cancel_waits_for_what_was_left(void **state)
{
    struct task t = fresh();
    struct task_event cancel = {.type = TE_CANCEL, .now = NOW, .reason = "a client"};
    struct task_event application = {
        .type = TE_APPLICATION, .now = NOW, .attempt = 1, .token = 5, .application_id = "driver-1"};
    struct task_event lost = {.type = TE_LOST,
                              .now = NOW,
                              .attempt = 1,
                              .token = 5,
                              .who = who_of("w1", NULL, 7),
                              .beat = 3,
                              .max_losses = 2};
    const char *reason = NULL;

    (void)state;
    grant(&t, "w1", 5);
    assert_int_equal(step(&t, &application, &reason), STEP_APPLIED);
    assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_SCHEDULED);
    assert_int_equal(step(&t, &cancel, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_SCHEDULED);
    assert_int_equal(step(&t, &cancel, &reason), STEP_SAME);
    make_due(&t);
    grant(&t, "w2", 6);
    assert_true(t.cancel_requested);
    assert_string_equal(t.application_id, "driver-1");
    /* Lost again, also a third time: then it is given up. */
    lost.attempt = 2;
    lost.token = 6;
    assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_SCHEDULED);
    make_due(&t);
    grant(&t, "w2", 7);
    struct task copy;
    task_copy(&copy, &t);
    struct task_event gone = result_of(&copy, OUTCOME_CANCELLED);
    assert_int_equal(step(&copy, &gone, &reason), STEP_APPLIED);
    assert_int_equal(copy.state, TASK_CANCELLED);
    task_done(&copy);
    lost.attempt = 3;
    lost.token = 7;
    assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_CANCELLED);
    task_done(&t);

    t = fresh();
    grant(&t, "w1", 5);
    application.application_id = "local-1"; /* this one ended with its worker */
    assert_int_equal(step(&t, &application, &reason), STEP_APPLIED);
    lost.attempt = 1;
    lost.token = 5;
    assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
    assert_int_equal(step(&t, &cancel, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_CANCELLED);
    task_done(&t);
}

/* Whoever decided it did not know that the worker had asked again, or was started again, and runs
 * the attempt now. */
static void test_a_loss_does_not_end_what_was_taken_up_again(void **state)
{
    struct task t = fresh();
    const char *reason = NULL;
    struct task_event again = claim_by("w1", 1, 6);
    struct task_event lost = {.type = TE_LOST,
                              .now = NOW,
                              .attempt = 1,
                              .token = 5,
                              .who = who_of("w1", NULL, 7),
                              .beat = 3,
                              .max_losses = 5};

    (void)state;
    grant(&t, "w1", 5);
    again.beat = 4;
    assert_int_equal(step(&t, &again, &reason), STEP_APPLIED);
    assert_int_equal(step(&t, &lost, &reason), STEP_REFUSED);
    lost.beat = 4;
    lost.who.inc = 6;
    assert_int_equal(step(&t, &lost, &reason), STEP_REFUSED);
    lost.who.inc = 7;
    assert_int_equal(step(&t, &lost, &reason), STEP_APPLIED);
    task_done(&t);
}

static void test_survivor_changes_incarnation_only(void **state)
{
    struct task t = fresh();
    const char *reason = NULL;

    (void)state;
    grant(&t, "w1", 5);
    struct task_event back = {
        .type = TE_SURVIVED, .now = NOW, .attempt = 1, .token = 5, .who = who_of("w1", NULL, 8)};
    assert_int_equal(step(&t, &back, &reason), STEP_APPLIED);
    assert_int_equal(t.who.inc, 8);
    assert_int_equal(step(&t, &back, &reason), STEP_SAME);
    back.who = who_of("w2", NULL, 8);
    assert_int_equal(step(&t, &back, &reason), STEP_REFUSED);
    back.who = who_of("w1", NULL, 8);
    back.token = 6;
    assert_int_equal(step(&t, &back, &reason), STEP_REFUSED);
    task_done(&t);
}

static void test_queue_timeout(void **state)
{
    struct task t = fresh();
    struct task_event over = {.type = TE_QUEUE_TIMEOUT, .now = NOW};
    struct task_audit audit;
    const char *reason = NULL;

    (void)state;
    assert_int_equal(step(&t, &over, &reason), STEP_REFUSED);
    t.queue_deadline = NOW;
    t.queue_timeout_s = 3;
    assert_int_equal(step(&t, &over, &reason), STEP_APPLIED);
    assert_int_equal(t.state, TASK_FAILED);
    assert_non_null(strstr(t.error, "queueTimeoutSeconds (3)\""));
    task_done(&t);
    t = fresh();
    t.queue_deadline = NOW;
    t.queue_timeout_s = 3;
    over.reason = "the pool is paused";
    assert_int_equal(task_step(&t, &over, &audit, &reason), STEP_APPLIED);
    const char *told = "queueTimeoutSeconds (3); last: the pool is paused\"";
    assert_non_null(strstr(t.error, told));
    assert_non_null(strstr(audit.detail, told));
    task_audit_done(&audit);
    task_done(&t);
}

/* Any events in any order: no illegal move (move() would abort), one final outcome unless requeued,
 * seq without gaps. */
static void test_any_order(void **state)
{
    static const char *const workers[] = {"w1", "w2"};
    unsigned seed = 20261122;

    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct task t = fresh();
        enum task_state final = TASK_NEW;

        t.queue_deadline = round % 3 ? INT64_MIN : NOW;
        for (int i = 0; i < 30; i++) {
            const char *reason = NULL;
            struct task_event ev = {
                .type = (enum task_event_type)(1 + rand_r(&seed) % (TASK_EVENT_TYPES - 1)),
                .now = t.run_after + NOW,
                .random = (uint64_t)rand_r(&seed),
                .attempt = rand_r(&seed) % 4 ? t.attempt : t.attempt - 1,
                .token = rand_r(&seed) % 4 ? t.token : 77,
                .who = who_of(workers[rand_r(&seed) % 2], NULL, rand_r(&seed) % 3),
                .beat = rand_r(&seed) % 5,
                .outcome = (enum task_outcome)(rand_r(&seed) % TASK_OUTCOMES),
                .application_id = "app-1",
                .signature = rand_r(&seed) % 2 ? "oom" : NULL,
                .started_at = INT64_MIN,
                .max_losses = 2};
            if (ev.type == TE_CLAIM) {
                ev.token = 1 + rand_r(&seed);
            }
            bool requeued = step(&t, &ev, &reason) == STEP_APPLIED && ev.type == TE_REQUEUE;
            assert_non_null(reason);
            if (final != TASK_NEW && !requeued) {
                assert_int_equal(t.state, final);
            }
            final = task_state_final(t.state) ? t.state : TASK_NEW;
        }
        task_done(&t);
    }
}

static void test_backoff_is_bounded(void **state)
{
    (void)state;
    for (uint64_t r = 0; r < 1000; r++) {
        assert_in_range(task_backoff_ms(5, 1, r * 7919), 0, 5000);
        assert_in_range(task_backoff_ms(5, 3, r * 104729), 0, 20000);
        assert_in_range(task_backoff_ms(5, 1000, r * 1299709), 0, 3600 * 1000);
        assert_int_equal(task_backoff_ms(0, 5, r), 0);
        assert_in_range(task_backoff_ms(86400, 9, r * 1299709 * 7919), 0, 86400 * 1000);
    }
    assert_int_equal(task_backoff_ms(86400, 1, 86400 * 1000), 86400 * 1000);
    assert_int_equal(task_backoff_ms(5, 1000, 3600 * 1000), 3600 * 1000);
}

static void end_with(struct task *t, enum task_outcome outcome, const char *progress)
{
    struct task_event ev = result_of(t, outcome);
    const char *reason = NULL;

    ev.progress = progress;
    assert_int_equal(step(t, &ev, &reason), STEP_APPLIED);
}

static void test_success_is_complete(void **state)
{
    static const char *const samples[][2] = {
        {"{\"done\":3,\"total\":8,\"text\":\"stage 2 of 3\"}",
         "{\"done\":8,\"total\":8,\"text\":\"complete\"}"},
        {"{\"done\":8,\"total\":8,\"text\":\"42 rows\"}",
         "{\"done\":8,\"total\":8,\"text\":\"42 rows\"}"},
        {"{\"done\":0,\"total\":0,\"text\":\"on it\"}",
         "{\"done\":0,\"total\":0,\"text\":\"on it\"}"},
        {"[1]", "[1]"},
        {NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        struct task t = fresh();

        grant(&t, "w1", 42);
        end_with(&t, OUTCOME_SUCCEEDED, samples[i][0]);
        assert_true(streq(t.progress, samples[i][1]) || (!t.progress && !samples[i][1]));
        task_done(&t);
    }
    struct task t = fresh();
    t.max_attempts = 1;
    grant(&t, "w1", 42);
    end_with(&t, OUTCOME_FAILED, samples[0][0]);
    assert_int_equal(t.state, TASK_FAILED);
    assert_string_equal(t.progress, samples[0][0]);
    task_done(&t);
}

static void test_the_budget_of_attempts(void **state)
{
    struct task t = fresh();
    struct task_event requeue = {.type = TE_REQUEUE};
    const char *reason = NULL;

    (void)state;
    t.max_attempts = 2;
    assert_int_equal(task_last_attempt(&t), 2);
    grant(&t, "w1", 1);
    end_with(&t, OUTCOME_LOST, NULL); /* not charged */
    assert_int_equal(t.attempt, 2);
    assert_int_equal(task_last_attempt(&t), 3);
    make_due(&t);
    grant(&t, "w1", 2);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(task_last_attempt(&t), 3);
    make_due(&t);
    grant(&t, "w1", 3);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(t.state, TASK_FAILED);
    assert_int_equal(t.attempt, 3);
    assert_int_equal(task_last_attempt(&t), 3);
    assert_int_equal(step(&t, &requeue, &reason), STEP_APPLIED); /* a new budget */
    assert_int_equal(t.attempt, 4);
    assert_int_equal(task_last_attempt(&t), 5);
    grant(&t, "w1", 4);
    end_with(&t, OUTCOME_SUCCEEDED, NULL);
    assert_int_equal(task_last_attempt(&t), 5);
    task_done(&t);
}

/* A fault of its node costs a task nothing: no budget, and not its place. */
static void test_a_return_costs_nothing(void **state)
{
    struct task t = fresh();
    const char *reason = NULL;

    (void)state;
    t.max_attempts = 2;
    t.rank = 17;
    t.queue_deadline = NOW + 5000;
    t.loss_signature = xstrdup("oom@w9");
    grant(&t, "w1", 1);
    struct task_event back = result_of(&t, OUTCOME_RETURNED);
    back.error = "{\"kind\":\"node\",\"message\":\"no space\"}";
    back.max_losses = 0;
    struct task_audit audit;
    assert_int_equal(task_step(&t, &back, &audit, &reason), STEP_APPLIED);
    assert_string_equal(audit.event, "returned");
    assert_non_null(strstr(audit.detail, "\"message\":\"no space\""));
    assert_int_equal(audit.attempt, 1);
    task_audit_done(&audit);
    assert_int_equal(t.state, TASK_READY);
    assert_int_equal(t.attempt, 2);
    assert_int_equal(t.returns, 1);
    assert_int_equal(t.failures + t.losses, 0);
    assert_int_equal(t.rank, 17);
    assert_int_equal(t.queue_deadline, NOW + 5000);
    assert_string_equal(t.loss_signature, "oom@w9");
    assert_null(t.error);
    assert_int_equal(task_last_attempt(&t), 3);
    /* The same report again changes nothing. */
    assert_int_equal(step(&t, &back, &reason), STEP_REFUSED);
    assert_string_equal(reason, "superseded");
    grant(&t, "w1", 2);
    end_with(&t, OUTCOME_RETURNED, NULL);
    grant(&t, "w2", 3);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(t.state, TASK_SCHEDULED);
    make_due(&t);
    grant(&t, "w2", 4);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(t.state, TASK_FAILED);
    assert_int_equal(t.attempt, 4);
    assert_int_equal(task_last_attempt(&t), 4);
    task_done(&t);

    t = fresh();
    grant(&t, "w1", 1);
    struct task_event cancel = {.type = TE_CANCEL, .now = NOW};
    assert_int_equal(step(&t, &cancel, &reason), STEP_APPLIED);
    end_with(&t, OUTCOME_RETURNED, NULL);
    assert_int_equal(t.state, TASK_CANCELLED);
    task_done(&t);
}

static void test_where_it_failed_is_remembered(void **state)
{
    static const char *const nodes[] = {"w1", "w2", "w1"};
    struct task_event requeue = {.type = TE_REQUEUE, .now = NOW};
    struct task t = fresh();
    const char *reason = NULL;

    (void)state;
    t.max_attempts = 4;
    for (int i = 0; i < 3; i++) {
        grant(&t, nodes[i], i + 1);
        end_with(&t, OUTCOME_FAILED, NULL);
        make_due(&t);
    }
    assert_string_equal(t.failed_on, "w1 w2");
    assert_null(t.returned_by);
    grant(&t, "w3", 4);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(t.state, TASK_FAILED);
    assert_int_equal(step(&t, &requeue, &reason), STEP_APPLIED);
    assert_null(t.failed_on);
    task_done(&t);
}

/* Of a row that was written before there were columns for it. */
static void test_needs_are_found_again(void **state)
{
    struct task_event requeue = {.type = TE_REQUEUE, .now = NOW};
    struct task t = fresh();
    const char *reason = NULL;

    (void)state;
    str_replace_owned(&t.spec,
                      "{\"jobType\":\"Noop\",\"resources\":{\"cpus\":0.0001,\"memoryMb\":64}}");
    grant(&t, "w1", 1);
    end_with(&t, OUTCOME_RETURNED, NULL);
    assert_true(t.cpus_milli == 1 && t.memory_mb == 64);
    t.cpus_milli = t.memory_mb = 0;
    t.max_attempts = 1;
    str_replace_owned(&t.spec, "{\"resources\":{\"cpus\":64}}");
    grant(&t, "w1", 2);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(step(&t, &requeue, &reason), STEP_APPLIED);
    assert_true(t.cpus_milli == 64000 && t.memory_mb == 0);
    task_done(&t);
}

/* Between nodes that cannot do it a task does not go round for ever at their speed. */
static void test_returns_are_slowed_down(void **state)
{
    struct task t = fresh();
    struct task_event requeue = {.type = TE_REQUEUE, .now = NOW};
    static const int seconds[] = {1, 2, 4, 8, 16, 32, 60, 60, 60};
    const char *reason = NULL;

    (void)state;
    t.rank = 17;
    t.max_attempts = 1;
    for (int i = 1; i <= 20; i++) {
        grant(&t, "w1", i);
        end_with(&t, OUTCOME_RETURNED, NULL);
        assert_int_equal(t.state, TASK_READY);
    }
    for (size_t i = 0; i < ARRAY_LEN(seconds); i++) {
        grant(&t, "w1", 100 + (int)i);
        struct task_event back = result_of(&t, OUTCOME_RETURNED);
        assert_int_equal(step(&t, &back, &reason), STEP_APPLIED);
        assert_int_equal(t.state, TASK_SCHEDULED);
        assert_int_equal(t.run_after, back.now + 1000 * seconds[i]);
        assert_int_equal(t.rank, 17);
        make_due(&t);
    }
    assert_int_equal(t.failures + t.losses, 0);
    grant(&t, "w1", 999);
    end_with(&t, OUTCOME_FAILED, NULL);
    assert_int_equal(t.state, TASK_FAILED);
    assert_int_equal(step(&t, &requeue, &reason), STEP_APPLIED);
    assert_int_equal(t.returns, 0);
    task_done(&t);
}

static char *read_file(const char *path)
{
    struct buf b;
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    buf_init(&b, 1 << 20);
    for (int c; (c = fgetc(f)) != EOF;) {
        buf_addc(&b, (char)c);
    }
    fclose(f);
    return buf_take(&b);
}

/* The guard in the database and the document are the table, to the letter. */
static void test_generated_texts_agree(void **state)
{
    struct buf b;
    char *sql = read_file("configs/sql/0006_returned.sql");
    char *doc = read_file("docs/states.md");

    (void)state;
    buf_init(&b, 1 << 20);
    task_edges_sql(&b);
    assert_non_null(strstr(sql, b.data));
    buf_reset(&b);
    task_states_markdown(&b);
    assert_string_equal(doc, b.data);
    buf_free(&b);
    free(sql);
    free(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_claims_are_idempotent_and_exclusive),
        cmocka_unit_test(test_success_is_final),
        cmocka_unit_test(test_a_warning_is_in_the_audit),
        cmocka_unit_test(test_an_attempt_begins_between_grant_and_end),
        cmocka_unit_test(test_failures_use_up_attempts),
        cmocka_unit_test(test_losses_are_counted_apart),
        cmocka_unit_test(test_what_poison_is_told),
        cmocka_unit_test(test_why_it_was_lost),
        cmocka_unit_test(test_poison_is_the_same_death_on_two_workers),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_cancel_waits_for_what_was_left),
        cmocka_unit_test(test_a_loss_does_not_end_what_was_taken_up_again),
        cmocka_unit_test(test_survivor_changes_incarnation_only),
        cmocka_unit_test(test_queue_timeout),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_backoff_is_bounded),
        cmocka_unit_test(test_success_is_complete),
        cmocka_unit_test(test_the_budget_of_attempts),
        cmocka_unit_test(test_a_return_costs_nothing),
        cmocka_unit_test(test_where_it_failed_is_remembered),
        cmocka_unit_test(test_needs_are_found_again),
        cmocka_unit_test(test_returns_are_slowed_down),
        cmocka_unit_test(test_generated_texts_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
