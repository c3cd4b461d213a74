/* The worker's decisions, with a virtual clock and operations that only write down what was asked.
 */
#include "internal/buf.h"
#include "pkg/worker/core.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define T0 1000000 /* the virtual clock's start */

struct fake {
    struct wcore *c;
    struct buf log;
    int64_t now;
    int64_t due; /* what the last step returned */
    int link_rc; /* what sending answers */
    int beat_rc;
    bool beats_shown;
    enum wcore_started start_rc;
    struct wcore_fault fault; /* of a start, for WCORE_START_FAULT */
};

static struct wcore_key key(int task, int attempt)
{
    struct wcore_key k = {.attempt = attempt};

    k.task.b[14] = (uint8_t)(task >> 8);
    k.task.b[15] = (uint8_t)task;
    return k;
}

static int number(const struct wcore_attempt *a)
{
    return a->key.task.b[14] << 8 | a->key.task.b[15];
}

static void on_ack(void *arg, struct wcore_delivery d)
{
    struct fake *f = arg;
    buf_addf(&f->log, "ack %d; ", (int)d.tag);
}

static void on_nack(void *arg, struct wcore_delivery d)
{
    struct fake *f = arg;
    buf_addf(&f->log, "nack %d; ", (int)d.tag);
}

static void on_consume(void *arg, bool on)
{
    struct fake *f = arg;
    buf_addf(&f->log, "consume %s; ", on ? "on" : "off");
}

static void add_list(struct fake *f, const char *what, struct wcore_attempt *const *list, size_t n)
{
    buf_adds(&f->log, what);
    for (size_t i = 0; i < n; i++) {
        buf_addf(&f->log, " %d.%d", number(list[i]), list[i]->key.attempt);
    }
    buf_adds(&f->log, "; ");
}

static int on_send_claims(void *arg, const char *manager, struct wcore_attempt *const *list,
                          size_t n, int64_t beat)
{
    struct fake *f = arg;

    (void)beat;
    if (manager) {
        buf_addf(&f->log, "%s: ", manager);
    }
    add_list(f, "claim", list, n);
    return f->link_rc;
}

static int on_send_results(void *arg, struct wcore_attempt *const *list, size_t n)
{
    struct fake *f = arg;
    add_list(f, "result", list, n);
    return f->link_rc;
}

static int on_send_beat(void *arg, int64_t beat)
{
    struct fake *f = arg;

    if (f->beats_shown) {
        buf_addf(&f->log, "beat %d; ", (int)beat);
    }
    return f->beat_rc;
}

static enum wcore_started on_start(void *arg, struct wcore_attempt *a, const void *spec,
                                   struct wcore_fault *ret)
{
    struct fake *f = arg;
    buf_addf(&f->log, "start %d.%d %s; ", number(a), a->key.attempt, (const char *)spec);
    *ret = f->fault;
    return f->start_rc;
}

static void on_lease(void *arg, struct wcore_attempt *a)
{
    struct fake *f = arg;
    buf_addf(&f->log, "lease %d until %d; ", number(a), (int)(a->deadline - T0));
}

static void on_stop(void *arg, struct wcore_attempt *a, enum wcore_stop why, int64_t grace_ms)
{
    static const char *const names[] = {"cancel", "shutdown", "revoked", "lease"};
    struct fake *f = arg;
    buf_addf(&f->log, "stop %d %s %d; ", number(a), names[why], (int)grace_ms);
}

static void on_kill(void *arg, struct wcore_attempt *a)
{
    struct fake *f = arg;
    buf_addf(&f->log, "kill %d; ", number(a));
}

static void on_conclude(void *arg, struct wcore_attempt *a, enum wcore_verdict v, const char *why)
{
    struct fake *f = arg;

    assert_non_null(why);
    static const char *const names[] = {"cancelled", "lost", "returned"};
    buf_addf(&f->log, "conclude %d %s; ", number(a), names[v]);
}

static void on_forget(void *arg, struct wcore_attempt *a)
{
    struct fake *f = arg;
    buf_addf(&f->log, "forget %d; ", number(a));
}

static uint64_t on_random(void *arg)
{
    (void)arg;
    return 500; /* of 0..1000: a heartbeat of exactly 5 s */
}

static const struct wcore_ops ops = {
    .ack = on_ack,
    .nack = on_nack,
    .consume = on_consume,
    .send_claims = on_send_claims,
    .send_results = on_send_results,
    .send_beat = on_send_beat,
    .start = on_start,
    .lease = on_lease,
    .stop = on_stop,
    .kill = on_kill,
    .conclude = on_conclude,
    .forget = on_forget,
    .random = on_random,
};

#define expect(f, text)                                                                            \
    do {                                                                                           \
        assert_string_equal((f)->log.data ? (f)->log.data : "", text);                             \
        buf_reset(&(f)->log);                                                                      \
        buf_adds(&(f)->log, "");                                                                   \
    } while (0)

static void step(struct fake *f)
{
    f->due = wcore_step(f->c, f->now);
}

/* Lets time pass, stepping at each moment the core asks for. */
static void pass(struct fake *f, int64_t ms)
{
    int64_t until = f->now + ms;

    step(f);
    while (f->due <= until) {
        f->now = f->due > f->now ? f->due : f->now;
        step(f);
        assert_true(f->due > f->now); /* no spinning */
    }
    f->now = until;
}

static void open_worker(struct fake *f, int slots)
{
    struct wcore_settings s = {
        .capacity = {.slots = slots, .cpus_milli = slots * 1000, .memory_mb = slots * 1000},
        .heartbeat_ms = 5000,
        .grace_ms = 10000};

    *f = (struct fake){.now = T0, .start_rc = WCORE_START_UNDER_WAY};
    buf_init(&f->log, 1 << 20);
    buf_adds(&f->log, "");
    f->c = wcore_new(&ops, f, &s);
}

/* A worker that is connected, has sent its first beat and consumes. */
static void open_ready(struct fake *f, int slots)
{
    open_worker(f, slots);
    wcore_ready(f->c, f->now);
    wcore_on_link(f->c, f->now, WCORE_LINK_CONSUME, true);
    wcore_on_link(f->c, f->now, WCORE_LINK_PUBLISH, true);
    step(f);
    expect(f, "consume on; ");
    assert_true(wcore_on_beat_ack(f->c, f->now, 1));
}

static void close_worker(struct fake *f)
{
    wcore_free(f->c);
    buf_free(&f->log);
}

/* The tag of the delivery is the task's number; tag 0: that. */
static void hint(struct fake *f, int task, int slots, int64_t rank)
{
    struct wcore_hint h = {.n = 1,
                           .tasks = {{.key = key(task, 1), .need = {.slots = slots}, .rank = rank}},
                           .delivery = {.epoch = 1, .tag = (uint64_t)task}};

    wcore_on_hint(f->c, f->now, &h);
}

/* Tasks from `first` on in one message. */
static void hint_of_many(struct fake *f, uint64_t tag, int first, size_t n, int slots)
{
    struct wcore_hint h = {.n = n, .delivery = {.epoch = 1, .tag = tag}};

    for (size_t i = 0; i < n; i++) {
        h.tasks[i].key = key(first + (int)i, 1);
        h.tasks[i].need.slots = slots;
        h.tasks[i].rank = (int64_t)i;
    }
    wcore_on_hint(f->c, f->now, &h);
}

/* Fed by this manager. */
static void hint_from(struct fake *f, int task, const char *manager)
{
    struct wcore_hint h = {.n = 1,
                           .tasks = {{.key = key(task, 1), .need = {.slots = 1}, .rank = task}},
                           .delivery = {.epoch = 1, .tag = (uint64_t)task}};

    snprintf(h.manager, sizeof(h.manager), "%s", manager);
    wcore_on_hint(f->c, f->now, &h);
}

static struct wcore_grant grant_of(int task)
{
    return (struct wcore_grant){.key = key(task, 1),
                                .token = task * 100,
                                .beat = INT64_MAX,
                                .lease_ms = 30000,
                                .need = {.slots = 1},
                                .spec = "spec"};
}

static bool grant(struct fake *f, int task)
{
    struct wcore_grant g = grant_of(task);
    const struct wcore_attempt *a = wcore_find(f->c, &g.key);

    g.need = a ? a->need : g.need;
    return wcore_on_grant(f->c, f->now, &g);
}

static void deny(struct fake *f, int task, bool retry)
{
    struct wcore_key k = key(task, 1);
    wcore_on_deny(f->c, f->now, &k, retry ? WCORE_DENY_RETRY : WCORE_DENY_DONE);
}

static struct wcore_attempt *find(struct fake *f, int task)
{
    struct wcore_key k = key(task, 1);
    return wcore_find(f->c, &k);
}

static enum wcore_state state(struct fake *f, int task)
{
    struct wcore_attempt *a = find(f, task);
    return a ? a->state : WCORE_GONE;
}

static void cancel(struct fake *f, int task)
{
    struct wcore_key k = key(task, 1);
    wcore_on_cancel(f->c, f->now, &k);
}

static void revoke(struct fake *f, int task, int64_t beat)
{
    struct wcore_key k = key(task, 1);
    wcore_on_revoke(f->c, f->now, &k, beat);
}

static void applied(struct fake *f, int task)
{
    struct wcore_key k = key(task, 1);
    wcore_on_applied(f->c, &k);
}

static void answer_last_beat(struct fake *f)
{
    int64_t beat = 50;

    while (!wcore_on_beat_ack(f->c, f->now, beat)) {
        beat--;
        assert_true(beat > 0);
    }
}

static void ended(struct fake *f, int task)
{
    wcore_on_ended(f->c, f->now, find(f, task), NULL);
}

/* From the hint to RUNNING; the beat that lists it is sent too. */
static void run(struct fake *f, int task)
{
    hint(f, task, 1, task);
    step(f);
    assert_true(grant(f, task));
    wcore_on_started(f->c, f->now, find(f, task));
    step(f);
    assert_int_equal(state(f, task), WCORE_RUNNING);
    buf_reset(&f->log);
    buf_adds(&f->log, "");
}

/* ---- from hint to grant ---- */

static void test_nothing_before_the_first_beat(void **unused)
{
    struct fake f;

    (void)unused;
    open_worker(&f, 4);
    f.beats_shown = true;
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, true);
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, true);
    step(&f);
    expect(&f, "");
    assert_true(f.due == INT64_MAX);
    f.beat_rc = -1; /* it cannot be sent */
    wcore_ready(f.c, f.now);
    step(&f);
    expect(&f, "beat 1; ");
    f.beat_rc = 0;
    pass(&f, 5000);
    expect(&f, "beat 1; consume on; ");
    close_worker(&f);
}

/* Its first beats may come before the manager listens. */
static void test_beats_are_eager_until_a_manager_answers(void **unused)
{
    struct fake f;

    (void)unused;
    open_worker(&f, 4);
    f.beats_shown = true;
    wcore_ready(f.c, f.now);
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, true);
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, true);
    step(&f);
    expect(&f, "beat 1; consume on; ");
    pass(&f, WCORE_EAGER_MS);
    pass(&f, WCORE_EAGER_MS);
    expect(&f, "beat 2; beat 3; ");
    assert_true(wcore_on_beat_ack(f.c, f.now, 3));
    pass(&f, 4999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "beat 4; ");
    close_worker(&f);
}

static void test_claims_are_gathered_and_the_hint_is_acked_at_once(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    hint(&f, 1, 1, 10);
    hint(&f, 2, 1, 11);
    hint(&f, 3, 2, 12);
    expect(&f, "");
    step(&f);
    expect(&f, "claim 1.1 2.1 3.1; ");
    assert_int_equal(wcore_slots_free(f.c), 0);
    assert_true(grant(&f, 2));
    expect(&f, "ack 2; start 2.1 spec; ");
    deny(&f, 1, false);
    expect(&f, "ack 1; ");
    assert_int_equal(wcore_slots_free(f.c), 1);
    assert_int_equal(find(&f, 2)->token, 200);
    assert_int_equal(state(&f, 2), WCORE_STARTING);
    wcore_on_started(f.c, f.now, find(&f, 2));
    assert_int_equal(state(&f, 2), WCORE_RUNNING);
    close_worker(&f);
}

/* A beat between the two claims did not list the attempt: by it, it may have been lost. */
static void test_a_grant_for_an_earlier_claim_does_not_count(void **unused)
{
    struct fake f;
    struct wcore_grant g = grant_of(1);

    (void)unused;
    open_ready(&f, 4);
    hint(&f, 1, 1, 10);
    step(&f);
    int64_t first = find(&f, 1)->claim_beat;
    for (int i = 0; i < 21; i++) { /* nobody answers: given up, and that is told */
        pass(&f, 1000);
        step(&f);
    }
    assert_null(find(&f, 1));
    hint(&f, 1, 1, 10);
    step(&f);
    assert_int_equal(state(&f, 1), WCORE_CLAIMING);
    assert_true(find(&f, 1)->claim_beat > first);
    g.beat = first;
    assert_false(wcore_on_grant(f.c, f.now, &g));
    assert_int_equal(state(&f, 1), WCORE_CLAIMING);
    g.beat = find(&f, 1)->claim_beat;
    assert_true(wcore_on_grant(f.c, f.now, &g));
    assert_int_equal(state(&f, 1), WCORE_STARTING);
    close_worker(&f);
}

static void test_a_claim_is_resent_and_given_up(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 1, 1, 10);
    step(&f);
    expect(&f, "claim 1.1; ");
    pass(&f, 1999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "claim 1.1; ");
    pass(&f, 17999);
    expect(&f, "claim 1.1; claim 1.1; claim 1.1; claim 1.1; claim 1.1; claim 1.1; claim 1.1; "
               "claim 1.1; ");
    pass(&f, 1);
    expect(&f, "nack 1; ");
    assert_int_equal(wcore_slots_free(f.c), 1);
    assert_false(grant(&f, 1)); /* too late: dropped */
    expect(&f, "");
    close_worker(&f);
}

static void test_claims_go_to_the_manager_that_fed_the_task(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 5);
    hint_from(&f, 1, "m1");
    hint_from(&f, 2, "m2");
    hint_from(&f, 3, "m1");
    hint(&f, 4, 1, 4);
    step(&f);
    expect(&f, "m1: claim 1.1 3.1; m2: claim 2.1; claim 4.1; ");
    assert_true(grant(&f, 1));
    assert_true(grant(&f, 2));
    assert_true(grant(&f, 4));
    buf_reset(&f.log);
    pass(&f, WCORE_CLAIM_RESEND_MS);
    expect(&f, "claim 3.1; "); /* not answered: all are asked */
    hint_from(&f, 5, "m1");
    step(&f);
    expect(&f, "claim 5.1; "); /* nor does what it fed wait for it */
    deny(&f, 5, false);
    deny(&f, 3, false);
    buf_reset(&f.log);
    f.now += WCORE_SILENT_MS;
    hint_from(&f, 6, "m1");
    step(&f);
    expect(&f, "m1: claim 6.1; ");
    close_worker(&f);
}

static void test_claims_of_a_manager_that_is_gone(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    hint_from(&f, 1, "m1");
    hint_from(&f, 2, "m2");
    hint_from(&f, 3, "m1");
    step(&f);
    expect(&f, "m1: claim 1.1 3.1; m2: claim 2.1; ");
    wcore_on_manager_gone(f.c, f.now, "m1");
    wcore_on_manager_gone(f.c, f.now, "m1"); /* once for each message */
    hint_from(&f, 4, "m1");
    step(&f);
    expect(&f, "claim 1.1 3.1 4.1; ");
    pass(&f, WCORE_CLAIM_RESEND_MS - 1);
    expect(&f, "");
    assert_true(grant(&f, 1));
    wcore_on_manager_gone(f.c, f.now, "m1"); /* nothing of it is open */
    step(&f);
    expect(&f, "ack 1; start 1.1 spec; ");
    close_worker(&f);
}

/* The process was stopped between the return of a claim and its repetition, which is due too then.
 */
static void test_a_manager_is_gone_while_the_worker_is_stopped(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint_from(&f, 1, "m1");
    step(&f);
    expect(&f, "m1: claim 1.1; ");
    wcore_on_manager_gone(f.c, f.now, "m1");
    f.now += WCORE_CLAIM_RESEND_MS;
    step(&f);
    expect(&f, "claim 1.1; ");
    close_worker(&f);
}

static void test_a_claim_that_cannot_be_sent_is_tried_again(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    f.link_rc = -1;
    hint(&f, 1, 1, 10);
    step(&f);
    expect(&f, "claim 1.1; ");
    f.link_rc = 0;
    pass(&f, 1000);
    expect(&f, "claim 1.1; ");
    assert_true(grant(&f, 1));
    assert_int_equal(find(&f, 1)->deadline,
                     T0 + 30000); /* counted from the first attempt to send */
    close_worker(&f);
}

static void test_retry_claims_again(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 1, 1, 10);
    step(&f);
    deny(&f, 1, true);
    expect(&f, "claim 1.1; ");
    pass(&f, 499);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "claim 1.1; ");
    for (int i = 0; i < 38; i++) {
        deny(&f, 1, true);
        pass(&f, 500);
    }
    buf_reset(&f.log);
    assert_int_equal(state(&f, 1), WCORE_CLAIMING);
    deny(&f, 1, true);
    pass(&f, 500); /* 20 s of retries */
    expect(&f, "nack 1; ");
    close_worker(&f);
}

static void test_unknown_answers_change_nothing(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    assert_false(grant(&f, 7));
    deny(&f, 7, false);
    deny(&f, 7, true);
    cancel(&f, 7);
    revoke(&f, 7, 1);
    applied(&f, 7);
    expect(&f, "");
    run(&f, 1);
    assert_false(grant(&f, 1)); /* once more */
    deny(&f, 1, false);
    applied(&f, 1);
    expect(&f, "");
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    close_worker(&f);
}

static void test_a_repeated_hint_is_acked_in_every_state(void **unused)
{
    struct fake f;
    struct wcore_hint h = {.n = 1,
                           .tasks = {{.key = key(1, 1), .need = {.slots = 1}}},
                           .delivery = {.epoch = 1, .tag = 77}};

    (void)unused;
    open_ready(&f, 1);
    run(&f, 9);
    hint(&f, 1, 1, 10);
    wcore_on_hint(f.c, f.now, &h); /* held */
    expect(&f, "ack 77; ");
    ended(&f, 9);
    step(&f);
    expect(&f, "claim 1.1; result 9.1; ");
    wcore_on_hint(f.c, f.now, &h); /* claiming */
    expect(&f, "ack 77; ");
    grant(&f, 1);
    expect(&f, "ack 1; start 1.1 spec; ");
    wcore_on_hint(f.c, f.now, &h); /* starting */
    wcore_on_started(f.c, f.now, find(&f, 1));
    wcore_on_hint(f.c, f.now, &h); /* running */
    cancel(&f, 1);
    wcore_on_hint(f.c, f.now, &h); /* stopping */
    ended(&f, 1);
    wcore_on_hint(f.c, f.now, &h); /* ended */
    expect(&f, "ack 77; ack 77; stop 1 cancel 10000; ack 77; ack 77; ");
    close_worker(&f);
}

/* ---- several tasks in one hint ---- */

static void test_a_hint_is_acked_after_its_last_task(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    hint_of_many(&f, 70, 1, 3, 1);
    step(&f);
    expect(&f, "claim 1.1 2.1 3.1; ");
    grant(&f, 2);
    deny(&f, 1, false);
    deny(&f, 3, true);
    expect(&f, "start 2.1 spec; ");
    grant(&f, 3);
    expect(&f, "ack 70; start 3.1 spec; ");
    hint_of_many(&f, 71, 2, 2, 1); /* again: both run */
    expect(&f, "ack 71; ");
    close_worker(&f);
}

static void test_what_does_not_fit_goes_back_when_the_rest_is_answered(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint_of_many(&f, 70, 1, 4, 1);
    step(&f);
    expect(&f, "claim 1.1 2.1; ");
    grant(&f, 1);
    expect(&f, "start 1.1 spec; ");
    pass(&f, 200);
    expect(&f, "consume off; "); /* 2 may still be granted */
    assert_int_equal(state(&f, 3), WCORE_GONE);
    grant(&f, 2);
    expect(&f, "nack 70; start 2.1 spec; ");
    ended(&f, 1);
    step(&f);
    expect(&f, "consume on; result 1.1; ");
    hint_of_many(&f, 71, 1, 4, 1); /* as the broker gives it again */
    pass(&f, WCORE_GATHER_MS);
    expect(&f, "claim 3.1; ");
    applied(&f, 1);
    ended(&f, 2);
    step(&f);
    expect(&f, "forget 1; claim 4.1; result 2.1; ");
    grant(&f, 4);
    deny(&f, 3, false);
    expect(&f, "start 4.1 spec; ack 71; ");
    close_worker(&f);
}

static void test_a_hint_of_many_ends_with_the_worker(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint_of_many(&f, 70, 1, 3, 1);
    hint_of_many(&f, 71, 3, 2, 3); /* 3 is held already, 4 needs too much */
    step(&f);
    expect(&f, "claim 1.1 2.1; ");
    grant(&f, 1);
    expect(&f, "start 1.1 spec; ");
    wcore_last_beat(f.c, f.now);
    expect(&f, "nack 71; nack 70; ");
    close_worker(&f);
}

static void test_a_hint_of_many_dies_with_its_connection(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint_of_many(&f, 70, 1, 3, 1);
    step(&f);
    expect(&f, "claim 1.1 2.1; ");
    grant(&f, 1);
    expect(&f, "start 1.1 spec; ");
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, false);
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, true);
    step(&f);
    expect(&f, "consume on; claim 2.1; ");
    hint_of_many(&f, 71, 1, 3, 1);
    grant(&f, 2);
    expect(&f, "start 2.1 spec; ");
    ended(&f, 1);
    step(&f);
    expect(&f, "claim 3.1; result 1.1; ");
    grant(&f, 3);
    expect(&f, "ack 71; start 3.1 spec; ");
    close_worker(&f);
}

/* ---- slots ---- */

/* Whatever the class of their queues: else what is low starves behind a stream of what is high. */
static void test_order_is_that_of_the_rank(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint(&f, 2, 1, 30);
    hint(&f, 3, 1, 20);
    hint(&f, 4, 1, 40);
    hint(&f, 1, 1, 1);
    step(&f);
    expect(&f, "claim 1.1 3.1; ");
    close_worker(&f);
}

static void test_a_head_that_does_not_fit_blocks_and_is_given_back(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    run(&f, 1);
    run(&f, 2);
    hint(&f, 3, 4, 10);
    hint(&f, 4, 1, 10);
    step(&f);
    expect(&f, ""); /* 4 would fit, but 3 comes first */
    pass(&f, 199);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "consume off; nack 3; nack 4; ");
    hint(&f, 5, 1, 10); /* was under way when the consumers were cancelled */
    expect(&f, "nack 5; ");
    ended(&f, 1);
    step(&f);
    expect(&f, "result 1.1; "); /* one more free, but four are needed */
    ended(&f, 2);
    step(&f);
    expect(&f, "consume on; result 2.1; ");
    close_worker(&f);
}

static void test_a_pause_ends_for_smaller_tasks_after_a_while(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1);
    hint(&f, 2, 2, 10);
    step(&f);
    pass(&f, 200);
    expect(&f, "consume off; nack 2; ");
    pass(&f, 4999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "consume on; ");
    hint(&f, 3, 1, 10);
    pass(&f, WCORE_GATHER_MS);
    expect(&f, "claim 3.1; ");
    close_worker(&f);
}

static void test_without_a_free_slot_a_pause_does_not_end(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    hint(&f, 2, 1, 10);
    step(&f);
    pass(&f, 200);
    expect(&f, "consume off; nack 2; ");
    pass(&f, 20000);
    expect(&f, "");
    ended(&f, 1);
    step(&f);
    expect(&f, "consume on; result 1.1; ");
    close_worker(&f);
}

static void test_progress_keeps_the_rest_held(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    f.start_rc = WCORE_START_ENDED;
    hint(&f, 1, 1, 1);
    for (int i = 1; i < 20; i++) { /* each takes 150 ms to be granted */
        hint(&f, i + 1, 1, i + 1);
        step(&f);
        pass(&f, 150);
        assert_true(grant(&f, i));
    }
    assert_null(strstr(f.log.data, "consume"));
    assert_null(strstr(f.log.data, "nack"));
    close_worker(&f);
}

static void test_a_hint_for_more_slots_than_there_are(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint(&f, 1, 3, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    expect(&f, "claim 2.1; "); /* it does not block */
    pass(&f, 999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "nack 1; ");
    close_worker(&f);
}

static void test_slots_are_free_when_the_process_has_ended(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    assert_int_equal(wcore_slots_free(f.c), 0);
    ended(&f, 1);
    assert_int_equal(wcore_slots_free(f.c), 1); /* before the result is applied */
    assert_int_equal(state(&f, 1), WCORE_ENDED);
    close_worker(&f);
}

static void test_no_more_attempts_than_a_beat_can_list(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 10000);
    f.start_rc = WCORE_START_ENDED;
    for (int i = 0; i < WCORE_ATTEMPTS_MAX + 10; i++) {
        hint(&f, i, 1, i);
    }
    step(&f);
    assert_int_equal(wcore_count(f.c, WCORE_CLAIMING), WCORE_ATTEMPTS_MAX);
    assert_int_equal(wcore_count(f.c, WCORE_HELD), 10);
    for (int i = 0; i < WCORE_ATTEMPTS_MAX; i++) {
        assert_true(grant(&f, i));
    }
    step(&f);
    assert_int_equal(wcore_count(f.c, WCORE_ENDED), WCORE_ATTEMPTS_MAX);
    assert_int_equal(wcore_count(f.c, WCORE_CLAIMING), 0);
    for (int i = 0; i < 10; i++) {
        applied(&f, i);
    }
    step(&f);
    assert_int_equal(wcore_count(f.c, WCORE_CLAIMING), 10);
    close_worker(&f);
}

static void test_noop_ends_at_once_and_results_are_gathered(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 3);
    f.start_rc = WCORE_START_ENDED;
    hint(&f, 1, 1, 1);
    hint(&f, 2, 1, 2);
    hint(&f, 3, 1, 3);
    step(&f);
    buf_reset(&f.log);
    grant(&f, 1);
    grant(&f, 2);
    grant(&f, 3);
    expect(&f, "ack 1; start 1.1 spec; ack 2; start 2.1 spec; ack 3; start 3.1 spec; ");
    step(&f);
    expect(&f, "result 1.1 2.1 3.1; ");
    applied(&f, 1);
    applied(&f, 2);
    expect(&f, "forget 1; forget 2; ");
    pass(&f, 10000);
    expect(&f, "result 3.1; ");
    close_worker(&f);
}

/* ---- leases and beats ---- */

static void test_a_lease_counts_from_the_claim_and_is_renewed_by_the_beat(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1); /* beat 1 */
    f.beats_shown = true;
    hint(&f, 1, 1, 1);
    step(&f);
    pass(&f, 1500);
    grant(&f, 1);
    assert_int_equal(find(&f, 1)->deadline, T0 + 30000);
    wcore_on_started(f.c, f.now, find(&f, 1));
    step(&f); /* beat 2, at 1500 */
    expect(&f, "claim 1.1; ack 1; start 1.1 spec; beat 2; ");
    assert_true(wcore_on_beat_ack(f.c, f.now, 1)); /* did not list it */
    expect(&f, "");
    pass(&f, 3000);
    assert_true(wcore_on_beat_ack(f.c, f.now, 2));
    expect(&f, "lease 1 until 31500; ");
    assert_true(wcore_on_beat_ack(f.c, f.now, 2));  /* repeated */
    assert_false(wcore_on_beat_ack(f.c, f.now, 3)); /* not yet sent */
    assert_false(wcore_on_beat_ack(f.c, f.now, -1));
    assert_false(wcore_on_beat_ack(f.c, f.now, 0));
    expect(&f, "");
    pass(&f, 2000); /* beat 3, at 6500 */
    wcore_on_beat_ack(f.c, f.now, 3);
    wcore_on_beat_ack(f.c, f.now, 2); /* late: takes nothing back */
    expect(&f, "beat 3; lease 1 until 36500; ");
    close_worker(&f);
}

static void test_an_unsure_manager_does_not_renew(void **unused)
{
    struct fake f;
    struct wcore_key k = key(1, 1);

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    pass(&f, 5000); /* beat 2 at 200, beat 3 at 5200 */
    wcore_on_unsure(f.c, &k, 2);
    assert_true(wcore_on_beat_ack(f.c, f.now, 2));
    expect(&f, "");
    pass(&f, 1000);
    assert_true(wcore_on_beat_ack(f.c, f.now, 3));
    expect(&f, "lease 1 until 35200; ");
    close_worker(&f);
}

static void test_at_the_end_of_the_lease_the_task_is_stopped(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1); /* the beats are never answered */
    pass(&f, 29999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "stop 1 lease 0; ");
    assert_int_equal(state(&f, 1), WCORE_STOPPING);
    wcore_on_beat_ack(f.c, f.now, 2); /* too late */
    expect(&f, "");
    pass(&f, 2999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "kill 1; ");
    pass(&f, 3000);
    expect(&f, "kill 1; ");
    ended(&f, 1);
    step(&f);
    expect(&f, "result 1.1; ");
    close_worker(&f);
}

static void test_a_grant_after_the_lease_is_over_does_not_start(void **unused)
{
    struct fake f;
    struct wcore_grant g = grant_of(1);

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 1, 1, 1);
    step(&f);
    pass(&f, 10000);
    buf_reset(&f.log);
    g.lease_ms = 10000;
    assert_true(wcore_on_grant(f.c, f.now, &g));
    step(&f);
    expect(&f, "ack 1; conclude 1 lost; result 1.1; ");
    assert_int_equal(wcore_slots_free(f.c), 1);
    close_worker(&f);
}

/* What was on its way while the machine stood still is worth less by as much. */
static void test_a_pause_that_only_the_wall_clock_counts(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 3);
    run(&f, 1); /* granted at T0 */
    pass(&f, 200);
    hint(&f, 2, 1, 1);
    hint(&f, 3, 1, 1);
    step(&f);
    buf_reset(&f.log);
    int64_t claimed = find(&f, 2)->claimed_at;
    wcore_on_gained(f.c, f.now, 10000);
    assert_int_equal(find(&f, 1)->deadline, T0 + 20000);
    assert_true(wcore_on_beat_ack(f.c, f.now, 2));
    expect(&f, "lease 1 until 20200; ");
    grant(&f, 2);
    assert_int_equal(find(&f, 2)->deadline, claimed + 20000);
    /* Longer than the lease: a moment is left for an answer to a beat of after it. */
    wcore_on_gained(f.c, f.now, 60000);
    assert_int_equal(find(&f, 1)->deadline, f.now + WCORE_DOUBT_MS);
    buf_reset(&f.log);
    assert_true(wcore_on_beat_ack(f.c, f.now, 2));
    grant(&f, 3);
    expect(&f, "ack 3; conclude 3 lost; ");
    step(&f); /* beat 3 */
    pass(&f, WCORE_DOUBT_MS - 1);
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    assert_true(wcore_on_beat_ack(f.c, f.now, 3));
    assert_true(find(&f, 1)->deadline > f.now + 25000);
    pass(&f, 1);
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    close_worker(&f);
}

static void test_beats_are_regular_and_follow_changes(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    f.beats_shown = true;
    pass(&f, 4999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "beat 2; ");
    pass(&f, 50);
    hint(&f, 1, 1, 1);
    step(&f);
    grant(&f, 1);
    step(&f);
    expect(&f, "claim 1.1; ack 1; start 1.1 spec; "); /* the last beat is too young */
    pass(&f, 149);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "beat 3; ");
    pass(&f, 4999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "beat 4; ");
    close_worker(&f);
}

static void test_a_beat_that_cannot_be_sent_is_skipped(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    f.beats_shown = true;
    f.beat_rc = -1;
    pass(&f, 15000);
    expect(&f, "beat 2; beat 2; beat 2; ");
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, false);
    f.beat_rc = 0;
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, true);
    step(&f);
    expect(&f, "beat 2; ");
    close_worker(&f);
}

/* ---- cancel ---- */

static void test_cancel_in_each_state(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 8);
    hint(&f, 1, 1, 1);
    step(&f);
    hint(&f, 2, 1, 2);
    cancel(&f, 2); /* held: its claim will be denied */
    assert_int_equal(state(&f, 2), WCORE_HELD);
    expect(&f, "claim 1.1; ");
    cancel(&f, 1); /* the grant is still under way */
    expect(&f, "");
    grant(&f, 1);
    expect(&f, "ack 1; conclude 1 cancelled; ");
    step(&f);
    expect(&f, "claim 2.1; result 1.1; ");
    grant(&f, 2);
    cancel(&f, 2); /* starting */
    expect(&f, "ack 2; start 2.1 spec; stop 2 cancel 10000; ");
    wcore_on_started(f.c, f.now, find(&f, 2)); /* hello comes after the stop */
    assert_int_equal(state(&f, 2), WCORE_STOPPING);
    cancel(&f, 2); /* stopping */
    expect(&f, "");
    ended(&f, 2);
    cancel(&f, 2); /* ended */
    cancel(&f, 8); /* running */
    expect(&f, "stop 8 cancel 10000; ");
    for (int i = 0; i < 6; i++) { /* the managers go on renewing its lease */
        pass(&f, i < 5 ? 5000 : 4999);
        answer_last_beat(&f);
        assert_null(strstr(f.log.data, "kill"));
    }
    pass(&f, 1);
    assert_non_null(strstr(f.log.data, "kill 8; "));
    close_worker(&f);
}

static void test_the_lease_goes_on_while_stopping(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    pass(&f, 25000);
    cancel(&f, 1);
    expect(&f, "stop 1 cancel 10000; ");
    pass(&f, 5000);
    expect(&f, "stop 1 lease 0; ");
    pass(&f, 5000);
    expect(&f, "kill 1; ");
    close_worker(&f);
}

/* What has to be ended elsewhere gets its time; not where the lease is at stake. */
static void test_a_cancel_may_be_given_time(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    find(&f, 1)->patience_ms = 20000;
    cancel(&f, 1);
    for (int i = 0; i < 10; i++) {
        pass(&f, i < 9 ? 5000 : 4999);
        answer_last_beat(&f);
        assert_null(strstr(f.log.data, "kill"));
    }
    pass(&f, 1);
    assert_non_null(strstr(f.log.data, "kill 1; "));
    close_worker(&f);

    open_ready(&f, 1);
    run(&f, 1);
    find(&f, 1)->patience_ms = 600000;
    cancel(&f, 1);
    pass(&f, 30000);
    expect(&f, "stop 1 cancel 10000; stop 1 lease 0; ");
    pass(&f, 3000);
    expect(&f, "kill 1; ");
    close_worker(&f);
}

static void test_a_denied_claim_forgets_its_cancel(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 1, 1, 1);
    step(&f);
    cancel(&f, 1);
    deny(&f, 1, false);
    expect(&f, "claim 1.1; ack 1; ");
    assert_int_equal(state(&f, 1), WCORE_GONE);
    close_worker(&f);
}

/* ---- revoke ---- */

static void test_revoke_stops_and_forgets(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1); /* listed in beat 1 or 2 */
    pass(&f, 5000);
    revoke(&f, 1, 2);
    expect(&f, "stop 1 revoked 0; ");
    revoke(&f, 1, 2);
    wcore_on_beat_ack(f.c, f.now, 2);
    expect(&f, "");
    pass(&f, 5000);
    expect(&f, "kill 1; ");
    ended(&f, 1);
    expect(&f, "forget 1; ");
    step(&f);
    expect(&f, "");
    assert_int_equal(state(&f, 1), WCORE_GONE);
    close_worker(&f);
}

static void test_revoke_of_what_has_ended(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    ended(&f, 1);
    pass(&f, 300);
    revoke(&f, 1, 2);
    expect(&f, "result 1.1; forget 1; ");
    pass(&f, 30000);
    expect(&f, "");
    close_worker(&f);
}

static void test_a_late_revoke_of_an_earlier_beat_is_ignored(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 1, 1, 1);
    step(&f);
    revoke(&f, 1, 1); /* claiming */
    grant(&f, 1);
    revoke(&f, 1, 1); /* no beat has listed it yet */
    expect(&f, "claim 1.1; ack 1; start 1.1 spec; ");
    pass(&f, 200); /* beat 2 */
    revoke(&f, 1, 1);
    expect(&f, "");
    revoke(&f, 1, 2);
    expect(&f, "stop 1 revoked 0; ");
    close_worker(&f);
}

static void claim_attempt(struct fake *f, int attempt)
{
    struct wcore_hint h = {.n = 1,
                           .tasks = {{.key = key(1, attempt), .need = {.slots = 1}}},
                           .delivery = {.epoch = 1, .tag = 10 + (uint64_t)attempt}};

    wcore_on_hint(f->c, f->now, &h);
    step(f);
}

/* Attempt 1 runs here, and a later one is granted; lease_over: after its lease. */
static void grant_beside(struct fake *f, int attempt, bool lease_over)
{
    struct wcore_grant g = grant_of(1);
    struct wcore_key first = key(1, 1);

    open_ready(f, 2);
    run(f, 1);
    claim_attempt(f, attempt);
    if (lease_over) {
        f->now = wcore_find(f->c, &first)->deadline + WCORE_KILL_UNPROVEN_MS;
    }
    g.key.attempt = attempt;
    g.lease_ms = 1000000;
    wcore_on_grant(f->c, f->now, &g);
}

/* Two attempts of one task never run side by side, so it goes to another worker. */
static void test_the_next_attempt_of_a_task_ends_the_one_before(void **unused)
{
    struct fake f;

    (void)unused;
    grant_beside(&f, 2, false);
    expect(&f, "claim 1.2; ack 12; stop 1 revoked 0; conclude 1 returned; ");
    step(&f);
    assert_null(strstr(f.log.data, "kill 1"));
    close_worker(&f);
}

/* The worker stood still for longer than the lease: it has no time left to stop it. */
static void test_the_one_before_is_killed_at_once_after_its_lease(void **unused)
{
    struct fake f;

    (void)unused;
    grant_beside(&f, 3, true);
    expect(&f, "claim 1.3; ack 13; stop 1 revoked 0; conclude 1 returned; ");
    step(&f);
    assert_non_null(strstr(f.log.data, "kill 1"));
    close_worker(&f);
}

/* A grant that was long under way says nothing of a later attempt, nor of its result. */
static void test_an_earlier_attempt_ends_no_later_one(void **unused)
{
    struct fake f;
    struct wcore_key last = key(1, 4);
    struct wcore_grant g = grant_of(1);

    (void)unused;
    open_ready(&f, 3);
    claim_attempt(&f, 4);
    claim_attempt(&f, 3);
    claim_attempt(&f, 2);
    g.key.attempt = 4;
    assert_true(wcore_on_grant(f.c, f.now, &g));
    buf_reset(&f.log);
    g.key.attempt = 3;
    assert_true(wcore_on_grant(f.c, f.now, &g));
    expect(&f, "ack 13; conclude 1 returned; ");
    wcore_on_ended(f.c, f.now, wcore_find(f.c, &last), NULL);
    g.key.attempt = 2;
    assert_true(wcore_on_grant(f.c, f.now, &g));
    expect(&f, "ack 12; conclude 1 returned; ");
    assert_int_equal(wcore_find(f.c, &last)->state, WCORE_ENDED);
    close_worker(&f);
}

/* ---- results ---- */

static void test_a_result_is_resent_until_applied(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    ended(&f, 1);
    step(&f);
    expect(&f, "result 1.1; ");
    pass(&f, 9999);
    expect(&f, "");
    pass(&f, 1);
    expect(&f, "result 1.1; ");
    f.link_rc = -1;
    pass(&f, 10000);
    expect(&f, "result 1.1; ");
    f.link_rc = 0;
    pass(&f, 1000);
    expect(&f, "result 1.1; ");
    applied(&f, 1);
    applied(&f, 1);
    expect(&f, "forget 1; ");
    pass(&f, 30000);
    expect(&f, "");
    close_worker(&f);
}

static void test_results_wait_for_the_broker(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1);
    run(&f, 2);
    ended(&f, 2);
    step(&f);
    expect(&f, "result 2.1; ");
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, false);
    ended(&f, 1);
    step(&f);
    expect(&f, "consume off; ");
    pass(&f, 15000);
    expect(&f, "");
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, true);
    step(&f);
    expect(&f, "consume on; result 1.1 2.1; ");
    applied(&f, 1);
    pass(&f, 1000);
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, false); /* and with it perhaps the answer */
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, true);
    step(&f);
    expect(&f, "forget 1; consume on; result 2.1; ");
    close_worker(&f);
}

/* ---- connections ---- */

static void test_hints_die_with_their_connection(void **unused)
{
    struct fake f;
    struct wcore_hint again = {.n = 1,
                               .tasks = {{.key = key(2, 1), .need = {.slots = 1}}},
                               .delivery = {.epoch = 2, .tag = 99}};

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    hint(&f, 3, 1, 1);
    expect(&f, "claim 2.1; ");
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, false);
    step(&f);
    expect(&f, "");
    assert_int_equal(state(&f, 3), WCORE_GONE);
    assert_int_equal(state(&f, 2), WCORE_CLAIMING);
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, true);
    step(&f);
    expect(&f, "consume on; claim 2.1; "); /* the answer may have been lost */
    wcore_on_hint(f.c, f.now, &again);
    expect(&f, "");
    grant(&f, 2);
    expect(&f, "ack 99; start 2.1 spec; ");
    close_worker(&f);
}

static void test_a_grant_without_its_hint_needs_no_ack(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint(&f, 2, 1, 1);
    step(&f);
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, false);
    grant(&f, 2);
    expect(&f, "claim 2.1; start 2.1 spec; ");
    close_worker(&f);
}

static void test_without_a_publishing_link_no_hints_are_kept(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, false);
    step(&f);
    expect(&f, "consume off; nack 2; ");
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    close_worker(&f);
}

/* ---- drain ---- */

static void test_drain_gives_hints_back_and_lets_tasks_run(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    hint(&f, 3, 1, 1);
    step(&f);
    wcore_on_drain(f.c, true);
    step(&f);
    expect(&f, "claim 2.1; consume off; nack 3; ");
    grant(&f, 2); /* was on its way */
    expect(&f, "ack 2; start 2.1 spec; ");
    assert_true(wcore_is_draining(f.c));
    ended(&f, 1);
    step(&f);
    expect(&f, "result 1.1; ");
    wcore_on_drain(f.c, false);
    step(&f);
    expect(&f, "consume on; ");
    close_worker(&f);
}

static void test_who_is_refused_takes_nothing(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    expect(&f, "claim 2.1; ");
    wcore_on_refused(f.c, true);
    step(&f);
    expect(&f, "consume off; ");
    struct wcore_key k = key(2, 1);
    wcore_on_deny(f.c, f.now, &k, WCORE_DENY_NOT_US);
    expect(&f, "nack 2; ");
    pass(&f, 20000); /* it goes on beating, and what it holds is renewed */
    answer_last_beat(&f);
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    buf_reset(&f.log);
    buf_adds(&f.log, "");
    wcore_on_refused(f.c, false);
    step(&f);
    expect(&f, "consume on; ");
    close_worker(&f);
}

/* A grant of what was claimed under the old number may come any time: it is not started. */
static void test_another_number_gives_claims_back(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 3);
    run(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    f.beats_shown = true;
    pass(&f, 1000);
    expect(&f, "claim 2.1; beat 2; ");
    wcore_on_renumbered(f.c);
    expect(&f, "nack 2; ");
    assert_false(grant(&f, 2));
    step(&f);
    expect(&f, "beat 3; ");
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    close_worker(&f);
}

/* Whoever granted it for how long: it must not run out between two beats. */
static void test_short_leases_make_beats_frequent(void **unused)
{
    struct fake f;
    struct wcore_grant g = grant_of(1);

    (void)unused;
    g.lease_ms = 3000;
    open_ready(&f, 2);
    assert_int_equal(wcore_heartbeat_ms(f.c), 5000);
    hint(&f, 1, 1, 1);
    step(&f);
    assert_true(wcore_on_grant(f.c, f.now, &g));
    wcore_on_started(f.c, f.now, find(&f, 1));
    pass(&f, WCORE_BEAT_GAP_MS);
    assert_int_equal(wcore_heartbeat_ms(f.c), 1000);
    for (int i = 0; i < 20; i++) {
        pass(&f, 500);
        answer_last_beat(&f);
    }
    assert_int_equal(state(&f, 1), WCORE_RUNNING);
    ended(&f, 1);
    applied(&f, 1);
    pass(&f, 5000);
    assert_int_equal(wcore_heartbeat_ms(f.c), 5000);
    close_worker(&f);
}

/* Whatever its own file says; and it says so with a beat at once. Its leases stay as they are. */
static void test_beats_adapt_to_the_cluster(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    run(&f, 1);
    pass(&f, WCORE_BEAT_GAP_MS);
    answer_last_beat(&f);
    int64_t deadline = find(&f, 1)->deadline;
    wcore_on_dead_after(f.c, 6000);
    assert_int_equal(find(&f, 1)->deadline, deadline);
    f.beats_shown = true;
    pass(&f, WCORE_BEAT_GAP_MS);
    assert_int_equal(wcore_heartbeat_ms(f.c), 2000);
    assert_int_equal(find(&f, 1)->deadline, deadline);
    f.beats_shown = false;
    wcore_on_dead_after(f.c, 6000); /* no news */
    assert_true(f.due - f.now > WCORE_BEAT_GAP_MS);
    wcore_on_dead_after(f.c, 60000); /* its own again */
    pass(&f, WCORE_BEAT_GAP_MS);
    assert_int_equal(wcore_heartbeat_ms(f.c), 5000);
    close_worker(&f);
}

/* ---- what the node cannot do ---- */

/* All is well, but for what is said: NULL is the node as a whole. */
static void look(struct fake *f, const char *of, const char *why)
{
    struct wcore_able list[] = {{NULL, NULL}, {"SparkApp", NULL}, {"Command", NULL}};

    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        bool it = of ? streq(of, list[i].type) : !list[i].type;
        list[i].why = it ? why : NULL;
    }
    wcore_on_look(f->c, f->now, list, ARRAY_LEN(list));
    step(f);
}

static struct wcore_hint typed(int task, const char *type)
{
    struct wcore_hint h = {
        .n = 1,
        .tasks = {{.key = key(task, 1), .need = {.slots = 1}, .rank = task}},
        .delivery = {.epoch = 1, .tag = (uint64_t)task},
    };

    snprintf(h.tasks[0].type, sizeof(h.tasks[0].type), "%s", type);
    return h;
}

static void hint_typed(struct fake *f, int task, const char *type)
{
    struct wcore_hint h = typed(task, type);
    wcore_on_hint(f->c, f->now, &h);
}

/* As the broker gives it after somebody gave it back. */
static void hint_again(struct fake *f, int task, struct wcore_need need)
{
    struct wcore_hint h = typed(task, "Command");

    h.tasks[0].need = need;
    h.redelivered = true;
    wcore_on_hint(f->c, f->now, &h);
}

static void grant_typed(struct fake *f, int task, const char *type)
{
    struct wcore_grant g = grant_of(task);

    g.type = type;
    assert_true(wcore_on_grant(f->c, f->now, &g));
}

static const struct wcore_offer *offer(struct fake *f, const char *type)
{
    size_t n = 0;
    const struct wcore_offer *list = wcore_offers(f->c, &n);

    for (size_t i = 0; i < n; i++) {
        if (type ? streq(type, list[i].type) : !list[i].type) {
            return &list[i];
        }
    }
    return NULL;
}

static void test_a_full_disk_holds_work_off(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    look(&f, NULL, NULL);
    hint(&f, 1, 1, 1);
    hint(&f, 2, 1, 2);
    hint(&f, 3, 1, 3);
    step(&f);
    f.start_rc = WCORE_START_FAULT;
    f.fault = (struct wcore_fault){.of = WCORE_FAULT_NODE, .reason = "no space"};
    grant(&f, 1);
    expect(&f, "claim 1.1 2.1 3.1; ack 1; start 1.1 spec; ");
    assert_true(wcore_is_holding_off(f.c));
    grant(&f, 2); /* was on its way: it is not even tried */
    step(&f);
    expect(&f, "ack 2; conclude 2 returned; consume off; result 1.1 2.1; ");
    deny(&f, 3, false);
    assert_int_equal(offer(&f, NULL)->until, f.now + 5000);
    assert_int_equal(wcore_look_due(f.c), f.now + 5000);
    buf_reset(&f.log);
    pass(&f, 4999);
    look(&f, NULL, NULL); /* its time is not over */
    assert_true(wcore_is_holding_off(f.c));
    pass(&f, 1);
    assert_true(wcore_is_holding_off(f.c)); /* nor is it over by itself */
    applied(&f, 1);
    applied(&f, 2);
    buf_reset(&f.log);
    look(&f, NULL, "still no space");
    expect(&f, "");
    assert_string_equal(offer(&f, NULL)->why, "still no space");
    look(&f, NULL, NULL);
    expect(&f, "consume on; ");
    assert_false(wcore_is_holding_off(f.c));
    assert_int_equal(wcore_look_due(f.c), INT64_MAX);
    close_worker(&f);
}

/* Each time it waits longer; when something has run, not any more. */
static void test_the_time_off_doubles(void **unused)
{
    static const int seconds[] = {5, 10, 20, 40, 80, 160, 320, 600, 600};
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    f.fault = (struct wcore_fault){.of = WCORE_FAULT_TYPE, .reason = "no Java"};
    for (size_t i = 0; i < ARRAY_LEN(seconds); i++) {
        int task = (int)i + 1;

        look(&f, NULL, NULL);
        hint_typed(&f, task, "SparkApp");
        step(&f);
        f.start_rc = WCORE_START_FAULT;
        grant_typed(&f, task, "SparkApp");
        assert_int_equal(offer(&f, "SparkApp")->until, f.now + 1000 * seconds[i]);
        assert_string_equal(offer(&f, "SparkApp")->why, "no Java");
        assert_null(offer(&f, "Command")->why);
        applied(&f, task);
        pass(&f, 1000 * seconds[i]);
    }
    look(&f, NULL, NULL);
    hint_typed(&f, 50, "SparkApp");
    step(&f);
    f.start_rc = WCORE_START_UNDER_WAY;
    grant_typed(&f, 50, "SparkApp");
    assert_int_equal(offer(&f, "SparkApp")->delay, 600000);
    wcore_on_started(f.c, f.now, find(&f, 50));
    assert_int_equal(offer(&f, "SparkApp")->delay, 600000);
    wcore_on_ended(f.c, f.now, find(&f, 50), NULL);
    assert_int_equal(offer(&f, "SparkApp")->delay, 0);
    close_worker(&f);
}

/* The shim says that it has a process, and then that this could not execute the program. */
static void test_the_time_off_doubles_after_the_fork_too(void **unused)
{
    struct wcore_fault fault = {.of = WCORE_FAULT_TYPE, .reason = "no interpreter"};
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    for (int i = 0; i < 3; i++) {
        look(&f, NULL, NULL);
        hint_typed(&f, i + 1, "SparkApp");
        step(&f);
        grant_typed(&f, i + 1, "SparkApp");
        wcore_on_started(f.c, f.now, find(&f, i + 1));
        wcore_on_ended(f.c, f.now, find(&f, i + 1), &fault);
        assert_int_equal(offer(&f, "SparkApp")->until, f.now + (5000 << i));
        applied(&f, i + 1);
        pass(&f, 5000 << i);
    }
    look(&f, NULL, NULL);
    hint_typed(&f, 50, "SparkApp");
    step(&f);
    grant_typed(&f, 50, "SparkApp");
    wcore_on_started(f.c, f.now, find(&f, 50));
    pass(&f, 20000);
    answer_last_beat(&f); /* or its lease would end it */
    assert_int_equal(offer(&f, "SparkApp")->delay, 20000);
    pass(&f, 25000); /* it need not end: that it runs is enough */
    assert_int_equal(offer(&f, "SparkApp")->delay, 0);
    close_worker(&f);
}

/* The shim could not start it. */
static void test_a_fault_that_shows_later(void **unused)
{
    struct wcore_fault fault = {.of = WCORE_FAULT_TYPE, .reason = "no interpreter"};
    struct wcore_fault once = {.of = WCORE_FAULT_ATTEMPT, .reason = "in the way"};
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    look(&f, NULL, NULL);
    hint_typed(&f, 1, "SparkApp");
    hint_typed(&f, 2, "Command");
    step(&f);
    grant_typed(&f, 1, "SparkApp");
    grant_typed(&f, 2, "Command");
    wcore_on_ended(f.c, f.now, find(&f, 2), &once);
    assert_null(offer(&f, "Command")->why);
    wcore_on_ended(f.c, f.now, find(&f, 1), &fault);
    assert_string_equal(offer(&f, "SparkApp")->why, "no interpreter");
    assert_false(wcore_is_holding_off(f.c));
    close_worker(&f);
}

static void test_what_is_not_offered_goes_back(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    hint_typed(&f, 9, "Unheard-of"); /* before the first look */
    step(&f);
    deny(&f, 9, false);
    look(&f, "SparkApp", "no Spark");
    buf_reset(&f.log);
    hint_typed(&f, 1, "SparkApp");
    hint_typed(&f, 2, "Report");
    hint_typed(&f, 3, "Command");
    step(&f);
    expect(&f, "nack 1; nack 2; claim 3.1; ");
    grant_typed(&f, 3, "Command");
    expect(&f, "ack 3; start 3.1 spec; ");
    hint_typed(&f, 4, ""); /* of an older manager */
    step(&f);
    expect(&f, "claim 4.1; ");
    grant_typed(&f, 4, "SparkApp");
    step(&f);
    expect(&f, "ack 4; conclude 4 returned; result 4.1; ");
    assert_int_equal(wcore_slots_free(f.c), 1);
    close_worker(&f);
}

/* It would stand before the others: it goes round once, then its manager gives it again. */
static void test_what_nobody_can_take_does_not_go_in_a_circle(void **unused)
{
    struct wcore_hint h = typed(1, "SparkApp");
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    look(&f, "SparkApp", "no Spark");
    step(&f);
    buf_reset(&f.log);
    wcore_on_hint(f.c, f.now, &h);
    expect(&f, "nack 1; ");
    h.redelivered = true;
    wcore_on_hint(f.c, f.now, &h);
    expect(&f, "ack 1; ");
    hint_again(&f, 2, (struct wcore_need){1, 0, 3000}); /* more than there is */
    expect(&f, "ack 2; ");
    h.tasks[0].type[0] = '\0'; /* of a manager that may not give it again */
    h.tasks[0].need.slots = 3;
    wcore_on_hint(f.c, f.now, &h);
    pass(&f, WCORE_OVERSIZED_MS);
    expect(&f, "nack 1; ");
    close_worker(&f);
}

/* Or it would keep for ever what it lacks. */
static void test_what_is_held_when_the_node_gets_smaller(void **unused)
{
    struct wcore_settings s = {
        .capacity = {2, 2000, 1000}, .heartbeat_ms = 5000, .grace_ms = 10000};
    struct fake f;

    (void)unused;
    open_ready(&f, 2);
    look(&f, NULL, NULL);
    run(&f, 9);
    hint_again(&f, 1, (struct wcore_need){2, 0, 1500});
    step(&f);
    buf_reset(&f.log);
    wcore_configure(f.c, &s);
    expect(&f, "nack 1; ");
    close_worker(&f);
}

static void test_what_is_held_when_its_type_goes(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    look(&f, NULL, NULL);
    run(&f, 9);
    hint_typed(&f, 1, "SparkApp");
    hint_typed(&f, 2, "Command");
    step(&f);
    look(&f, "SparkApp", "no Spark");
    expect(&f, "nack 1; ");
    assert_int_equal(state(&f, 2), WCORE_HELD);
    look(&f, NULL, "read-only");
    expect(&f, "nack 2; consume off; ");
    close_worker(&f);
}

/* ---- directed hints ---- */

static void test_a_directed_hint_is_never_answered(void **unused)
{
    struct wcore_hint h = typed(1, "Command");
    struct wcore_hint other = typed(2, "SparkApp");
    struct wcore_hint wide = typed(3, "Command");
    struct wcore_hint more = typed(4, "Command");
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    look(&f, "SparkApp", "no Spark");
    h.directed = other.directed = wide.directed = more.directed = true;
    wide.tasks[0].need.slots = 2;
    wcore_on_hint(f.c, f.now, &h);
    wcore_on_hint(f.c, f.now, &other);
    wcore_on_hint(f.c, f.now, &wide);
    assert_int_equal(state(&f, 2), WCORE_GONE);
    assert_int_equal(state(&f, 3), WCORE_GONE);
    step(&f);
    expect(&f, "claim 1.1; ");
    wcore_on_hint(f.c, f.now, &h); /* again */
    grant_typed(&f, 1, "Command");
    wcore_on_hint(f.c, f.now, &h);
    expect(&f, "start 1.1 spec; ");
    wcore_on_hint(f.c, f.now, &more);
    step(&f);
    assert_int_equal(state(&f, 4), WCORE_HELD);
    pass(&f, 200);
    expect(&f, "");
    assert_int_equal(state(&f, 4), WCORE_GONE);
    close_worker(&f);
}

/* What may wait for room makes the worker pause, and goes first when there is some. */
static void test_a_directed_hint_waits_for_room(void **unused)
{
    struct wcore_hint large = typed(9, "");
    struct fake f;

    (void)unused;
    open_ready(&f, 3);
    for (int i = 1; i <= 3; i++) {
        run(&f, i);
    }
    large.directed = true;
    large.keep_ms = 3000;
    large.tasks[0].need.slots = 3;
    large.tasks[0].rank = 1;
    wcore_on_hint(f.c, f.now, &large);
    hint(&f, 4, 1, 5);
    step(&f);
    pass(&f, 200);
    expect(&f, "consume off; nack 4; ");
    ended(&f, 1);
    ended(&f, 2);
    step(&f);
    assert_int_equal(state(&f, 9), WCORE_HELD);
    ended(&f, 3);
    step(&f);
    buf_reset(&f.log);
    hint(&f, 5, 1, 5);
    pass(&f, WCORE_GATHER_MS);
    assert_non_null(strstr(f.log.data, "claim 9.1; "));
    assert_int_equal(state(&f, 5), WCORE_HELD);
    deny(&f, 9, false);
    /* Not for ever. */
    run(&f, 6);
    wcore_on_hint(f.c, f.now, &large);
    pass(&f, 1000);
    wcore_on_hint(f.c, f.now, &large); /* but from when it was said last */
    pass(&f, 2999);
    assert_int_equal(state(&f, 9), WCORE_HELD);
    pass(&f, 1);
    assert_int_equal(state(&f, 9), WCORE_GONE);
    close_worker(&f);
}

/* ---- CPUs and memory ---- */

static void hint_for(struct fake *f, int task, struct wcore_need need)
{
    struct wcore_hint h = typed(task, "");

    h.tasks[0].need = need;
    wcore_on_hint(f->c, f->now, &h);
}

static void test_all_of_what_a_task_needs_has_to_be_free(void **unused)
{
    struct fake f; /* 4 slots, 4 CPUs, 4000 MiB */

    (void)unused;
    open_ready(&f, 4);
    hint_for(&f, 1, (struct wcore_need){1, 3000, 0});
    hint_for(&f, 2, (struct wcore_need){1, 0, 3000});
    hint_for(&f, 3, (struct wcore_need){1, 1000, 1000});
    hint_for(&f, 4, (struct wcore_need){1, 0, 0});
    step(&f);
    expect(&f, "claim 1.1 2.1 3.1 4.1; ");
    grant(&f, 1);
    grant(&f, 2);
    grant(&f, 3);
    deny(&f, 4, false);
    buf_reset(&f.log);
    hint_for(&f, 5, (struct wcore_need){1, 1, 0});
    step(&f);
    expect(&f, "");
    ended(&f, 3);
    step(&f);
    expect(&f, "claim 5.1; result 3.1; ");
    hint_for(&f, 6, (struct wcore_need){1, 0, 1001});
    step(&f);
    expect(&f, "");
    hint_for(&f, 7, (struct wcore_need){1, 4001, 0}); /* never */
    hint_for(&f, 8, (struct wcore_need){1, 0, 9999999});
    step(&f);
    pass(&f, 1000);
    assert_non_null(strstr(f.log.data, "nack 7; "));
    assert_non_null(strstr(f.log.data, "nack 8; "));
    close_worker(&f);
}

static void run_for(struct fake *f, int task, struct wcore_need need)
{
    hint_for(f, task, need);
    step(f);
    assert_true(grant(f, task));
    wcore_on_started(f->c, f->now, find(f, task));
    step(f);
    buf_reset(&f->log);
    buf_adds(&f->log, "");
}

static void test_who_asks_for_nothing_scarce_goes_past(void **unused)
{
    struct wcore_need large[] = {{1, 0, 3000}, {1, 3000, 0}};

    (void)unused;
    for (size_t i = 0; i < ARRAY_LEN(large); i++) {
        struct fake f; /* 4 slots, 4 CPUs, 4000 MiB */

        open_ready(&f, 4);
        run_for(&f, 1, large[i]);
        hint_again(&f, 2, large[i]);
        step(&f);
        expect(&f, "");
        for (int k = 3; k <= 6; k++) {
            hint_again(&f, k, (struct wcore_need){1, 0, 0});
        }
        step(&f);
        expect(&f, "claim 3.1 4.1 5.1; "); /* each slot */
        for (int k = 3; k <= 5; k++) {
            deny(&f, k, false);
        }
        step(&f);
        expect(&f, "ack 3; ack 4; ack 5; claim 6.1; ");
        deny(&f, 6, false);
        pass(&f, 20000);
        assert_null(strstr(f.log.data, "consume off")); /* nothing is held up by what is held */
        assert_int_equal(state(&f, 2), WCORE_HELD);
        buf_reset(&f.log);
        ended(&f, 1);
        step(&f);
        assert_non_null(strstr(f.log.data, "claim 2.1; "));
        close_worker(&f);
    }
}

static void test_what_the_first_lacks_is_kept_for_it(void **unused)
{
    struct fake f; /* 4 slots, 4 CPUs, 4000 MiB */

    (void)unused;
    open_ready(&f, 4);
    run_for(&f, 1, (struct wcore_need){1, 1000, 3000});
    hint_again(&f, 2, (struct wcore_need){1, 2000, 2000}); /* lacks memory */
    hint_again(&f, 3, (struct wcore_need){1, 0, 100});     /* there is as much, but not for it */
    hint_again(&f, 4, (struct wcore_need){1, 1000, 0});    /* 2 needs the others */
    step(&f);
    expect(&f, "claim 4.1; ");
    assert_int_equal(state(&f, 3), WCORE_HELD);
    deny(&f, 4, false);
    ended(&f, 1);
    step(&f);
    expect(&f, "ack 4; claim 2.1 3.1; result 1.1; ");
    close_worker(&f);
}

/* Its task may have ended elsewhere: what nobody tells must not keep the room for ever. */
static void test_what_waits_for_room_is_let_go(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    run_for(&f, 1, (struct wcore_need){1, 0, 3000});
    hint_again(&f, 2, (struct wcore_need){1, 0, 3000});
    step(&f);
    pass(&f, WCORE_SPARE_MS + 1000);
    assert_non_null(strstr(f.log.data, "ack 2; "));
    buf_reset(&f.log);
    hint_again(&f, 3, (struct wcore_need){1, 0, 500});
    step(&f);
    assert_non_null(strstr(f.log.data, "claim 3.1; "));
    deny(&f, 3, false);
    close_worker(&f);
}

/* Of its slots one comes with the room that it waits for. */
static void test_slots_are_kept_for_one_that_lacks_memory(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    run_for(&f, 1, (struct wcore_need){1, 0, 3000});
    hint_again(&f, 2, (struct wcore_need){3, 0, 2000});
    hint_again(&f, 3, (struct wcore_need){1, 0, 0});
    hint_again(&f, 4, (struct wcore_need){1, 0, 0});
    step(&f);
    expect(&f, "claim 3.1; ");
    grant(&f, 3);
    ended(&f, 1);
    step(&f);
    expect(&f, "ack 3; start 3.1 spec; claim 2.1; result 1.1; ");
    close_worker(&f);
}

/* It must not fill the prefetch, behind which the hints of others are. */
static void test_few_hints_that_lack_memory_are_kept(void **unused)
{
    struct wcore_need large = {1, 0, 3000};
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    look(&f, NULL, NULL);
    run_for(&f, 1, large);
    for (int i = 2; i <= 5; i++) {
        hint_for(&f, i, large); /* of a manager that may not feed it again */
    }
    pass(&f, WCORE_HELD_MS - 1);
    expect(&f, "");
    f.now++;
    step(&f); /* others may have room */
    assert_int_equal(wcore_count(f.c, WCORE_HELD), 0);
    assert_non_null(strstr(f.log.data, "nack 2; "));
    assert_null(strstr(f.log.data, "consume"));
    buf_reset(&f.log);
    for (int i = 5; i >= 2; i--) {
        hint_again(&f, i, large);
    }
    step(&f);
    expect(&f, "ack 4; ack 5; "); /* the manager feeds them again */
    assert_int_equal(state(&f, 2), WCORE_HELD);
    assert_int_equal(state(&f, 3), WCORE_HELD);
    ended(&f, 1);
    step(&f);
    expect(&f, "claim 2.1; result 1.1; ");
    close_worker(&f);
}

/* The specification counts: what the hint did not say is given back, and not asked for again at
 * once. */
static void test_a_grant_of_more_than_is_free(void **unused)
{
    struct wcore_grant g = grant_of(1);
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    run(&f, 9);
    hint(&f, 1, 1, 1);
    step(&f);
    g.need = (struct wcore_need){4, 0, 0};
    wcore_on_grant(f.c, f.now, &g);
    step(&f);
    expect(&f, "claim 1.1; ack 1; conclude 1 returned; consume off; result 1.1; ");
    assert_int_equal(wcore_slots_free(f.c), 3);
    ended(&f, 9);
    step(&f);
    expect(&f, "consume on; result 9.1; ");
    hint(&f, 2, 1, 1);
    pass(&f, WCORE_GATHER_MS);
    g.key = key(2, 1);
    g.need = (struct wcore_need){1, 100000, 0}; /* never: nothing is waited for */
    wcore_on_grant(f.c, f.now, &g);
    step(&f);
    expect(&f, "claim 2.1; ack 2; conclude 2 returned; result 2.1; ");
    g = grant_of(3);
    g.need = (struct wcore_need){2, 1500, 300};
    hint(&f, 3, 1, 1);
    step(&f);
    wcore_on_grant(f.c, f.now, &g);
    assert_int_equal(wcore_slots_free(f.c), 2);
    ended(&f, 3);
    assert_int_equal(wcore_slots_free(f.c), 4);
    close_worker(&f);
}

/* Each class has a queue of its own: after a pause the first that comes need not be the first. */
static void test_after_a_pause_all_classes_are_waited_for(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 9);
    hint(&f, 1, 1, 100);
    hint(&f, 2, 1, 1);
    step(&f);
    pass(&f, 200);
    expect(&f, "consume off; nack 1; nack 2; ");
    ended(&f, 9);
    step(&f);
    hint(&f, 1, 1, 100);
    step(&f);
    expect(&f, "consume on; result 9.1; ");
    f.now += 2;
    hint(&f, 2, 1, 1);
    pass(&f, WCORE_GATHER_MS);
    expect(&f, "claim 2.1; ");
    close_worker(&f);
}

/* ---- stop ---- */

static void test_stop_leaves_tasks_to_the_next_process(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 3);
    f.beats_shown = true;
    run(&f, 1);
    run(&f, 4);
    hint(&f, 2, 1, 1);
    step(&f);
    hint(&f, 3, 1, 1);
    step(&f);
    buf_reset(&f.log);
    wcore_stop(f.c, f.now, false);
    step(&f);
    expect(&f, "consume off; nack 3; ");
    assert_false(wcore_is_quiet(f.c));
    ended(&f, 4);
    step(&f);
    expect(&f, "result 4.1; ");
    applied(&f, 4);
    assert_false(wcore_is_quiet(f.c)); /* a claim is open */
    deny(&f, 2, false);
    assert_true(wcore_is_quiet(f.c));
    wcore_last_beat(f.c, f.now);
    assert_true(wcore_has_stopped(f.c));
    expect(&f, "forget 4; ack 2; beat 2; ");
    pass(&f, 20000);
    expect(&f, "");
    close_worker(&f);
}

/* What has no shim yet would be lost. */
static void test_stop_waits_for_starts(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    wcore_stop(f.c, f.now, false);
    step(&f);
    assert_true(grant(&f, 2));
    assert_false(wcore_is_quiet(f.c));
    wcore_on_started(f.c, f.now, find(&f, 2));
    assert_true(wcore_is_quiet(f.c));
    close_worker(&f);
}

static void test_stop_gives_open_claims_back_at_last(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    hint(&f, 2, 1, 1);
    step(&f);
    wcore_stop(f.c, f.now, false);
    step(&f);
    wcore_last_beat(f.c, f.now);
    expect(&f, "claim 2.1; consume off; nack 2; ");
    assert_false(grant(&f, 2));
    close_worker(&f);
}

static void test_stop_with_tasks(void **unused)
{
    struct fake f;

    (void)unused;
    open_ready(&f, 4);
    run(&f, 1);
    run(&f, 2);
    hint(&f, 3, 1, 1);
    step(&f);
    cancel(&f, 2);
    buf_reset(&f.log);
    wcore_stop(f.c, f.now, true);
    expect(&f, "stop 1 shutdown 10000; ");
    step(&f);
    grant(&f, 3);
    expect(&f, "consume off; ack 3; conclude 3 returned; ");
    ended(&f, 1);
    ended(&f, 2);
    step(&f);
    expect(&f, "result 3.1 1.1 2.1; ");
    assert_false(wcore_is_quiet(f.c));
    applied(&f, 1);
    applied(&f, 2);
    applied(&f, 3);
    assert_true(wcore_is_quiet(f.c));
    close_worker(&f);
}

static void test_slots_may_change(void **unused)
{
    struct wcore_settings more = {.capacity = {.slots = 3}, .heartbeat_ms = 5000, .grace_ms = 1000};
    struct wcore_settings less = {.capacity = {.slots = 1}, .heartbeat_ms = 5000, .grace_ms = 1000};
    struct fake f;

    (void)unused;
    open_ready(&f, 1);
    run(&f, 1);
    hint(&f, 2, 1, 1);
    hint(&f, 3, 1, 2);
    step(&f);
    expect(&f, "");
    wcore_configure(f.c, &more);
    step(&f);
    expect(&f, "claim 2.1 3.1; ");
    grant(&f, 2);
    grant(&f, 3);
    wcore_configure(f.c, &less); /* nothing is stopped for it */
    assert_int_equal(wcore_slots_free(f.c), 0);
    ended(&f, 1);
    hint(&f, 4, 1, 1);
    step(&f);
    assert_int_equal(state(&f, 4), WCORE_HELD);
    ended(&f, 2);
    ended(&f, 3);
    step(&f);
    assert_int_equal(state(&f, 4), WCORE_CLAIMING);
    close_worker(&f);
}

/* ---- survivors ---- */

static void test_survivors_are_taken_back(void **unused)
{
    struct fake f;
    struct wcore_key k1 = key(1, 1);
    struct wcore_key k2 = key(2, 1);

    (void)unused;
    open_worker(&f, 2);
    f.beats_shown = true;
    assert_non_null(
        wcore_adopt(f.c, f.now, &k1, &(struct wcore_need){.slots = 2}, 100, 30000, false, NULL));
    assert_non_null(
        wcore_adopt(f.c, f.now, &k2, &(struct wcore_need){.slots = 1}, 200, 30000, true, NULL));
    assert_null(
        wcore_adopt(f.c, f.now, &k2, &(struct wcore_need){.slots = 1}, 200, 30000, true, NULL));
    assert_int_equal(wcore_slots_free(f.c), 0);
    wcore_on_link(f.c, f.now, WCORE_LINK_CONSUME, true);
    wcore_on_link(f.c, f.now, WCORE_LINK_PUBLISH, true);
    pass(&f, 1000);
    wcore_ready(f.c, f.now);
    step(&f);
    expect(&f, "result 2.1; beat 1; consume on; ");
    wcore_on_beat_ack(f.c, f.now, 1);
    expect(&f, "lease 1 until 31000; ");
    ended(&f, 1);
    step(&f);
    expect(&f, "result 1.1; ");
    close_worker(&f);
}

static void test_a_survivor_whose_lease_nobody_renews(void **unused)
{
    struct fake f;
    struct wcore_key k1 = key(1, 1);

    (void)unused;
    open_worker(&f, 2);
    wcore_adopt(f.c, f.now, &k1, &(struct wcore_need){.slots = 3}, 100, 30000, false,
                NULL); /* the node had more slots then */
    assert_int_equal(wcore_slots_free(f.c), 0);
    wcore_ready(f.c, f.now);
    step(&f);
    pass(&f, 30000);
    expect(&f, "stop 1 lease 0; ");
    close_worker(&f);
}

/* ---- the table ---- */

static void test_every_state_can_be_reached_and_left(void **unused)
{
    (void)unused;
    for (enum wcore_state s = WCORE_GONE; s < WCORE_STATE_COUNT; s++) {
        int in = 0;
        int out = 0;

        assert_non_null(wcore_state_name(s));
        assert_false(wcore_edge_allowed(s, s));
        for (enum wcore_state t = WCORE_GONE; t < WCORE_STATE_COUNT; t++) {
            out += wcore_edge_allowed(s, t);
            in += wcore_edge_allowed(t, s);
        }
        assert_true(in > 0 && out > 0);
    }
    assert_false(wcore_edge_allowed(WCORE_HELD, WCORE_STARTING)); /* never without a grant */
    assert_false(wcore_edge_allowed(WCORE_ENDED, WCORE_RUNNING));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_before_the_first_beat),
        cmocka_unit_test(test_beats_are_eager_until_a_manager_answers),
        cmocka_unit_test(test_claims_are_gathered_and_the_hint_is_acked_at_once),
        cmocka_unit_test(test_a_grant_for_an_earlier_claim_does_not_count),
        cmocka_unit_test(test_a_claim_is_resent_and_given_up),
        cmocka_unit_test(test_claims_go_to_the_manager_that_fed_the_task),
        cmocka_unit_test(test_claims_of_a_manager_that_is_gone),
        cmocka_unit_test(test_a_manager_is_gone_while_the_worker_is_stopped),
        cmocka_unit_test(test_a_claim_that_cannot_be_sent_is_tried_again),
        cmocka_unit_test(test_retry_claims_again),
        cmocka_unit_test(test_unknown_answers_change_nothing),
        cmocka_unit_test(test_a_repeated_hint_is_acked_in_every_state),
        cmocka_unit_test(test_a_hint_is_acked_after_its_last_task),
        cmocka_unit_test(test_what_does_not_fit_goes_back_when_the_rest_is_answered),
        cmocka_unit_test(test_a_hint_of_many_ends_with_the_worker),
        cmocka_unit_test(test_a_hint_of_many_dies_with_its_connection),
        cmocka_unit_test(test_order_is_that_of_the_rank),
        cmocka_unit_test(test_a_head_that_does_not_fit_blocks_and_is_given_back),
        cmocka_unit_test(test_a_pause_ends_for_smaller_tasks_after_a_while),
        cmocka_unit_test(test_without_a_free_slot_a_pause_does_not_end),
        cmocka_unit_test(test_progress_keeps_the_rest_held),
        cmocka_unit_test(test_a_hint_for_more_slots_than_there_are),
        cmocka_unit_test(test_slots_are_free_when_the_process_has_ended),
        cmocka_unit_test(test_no_more_attempts_than_a_beat_can_list),
        cmocka_unit_test(test_noop_ends_at_once_and_results_are_gathered),
        cmocka_unit_test(test_a_lease_counts_from_the_claim_and_is_renewed_by_the_beat),
        cmocka_unit_test(test_an_unsure_manager_does_not_renew),
        cmocka_unit_test(test_at_the_end_of_the_lease_the_task_is_stopped),
        cmocka_unit_test(test_a_grant_after_the_lease_is_over_does_not_start),
        cmocka_unit_test(test_a_pause_that_only_the_wall_clock_counts),
        cmocka_unit_test(test_beats_are_regular_and_follow_changes),
        cmocka_unit_test(test_a_beat_that_cannot_be_sent_is_skipped),
        cmocka_unit_test(test_cancel_in_each_state),
        cmocka_unit_test(test_the_lease_goes_on_while_stopping),
        cmocka_unit_test(test_a_cancel_may_be_given_time),
        cmocka_unit_test(test_a_denied_claim_forgets_its_cancel),
        cmocka_unit_test(test_revoke_stops_and_forgets),
        cmocka_unit_test(test_revoke_of_what_has_ended),
        cmocka_unit_test(test_a_late_revoke_of_an_earlier_beat_is_ignored),
        cmocka_unit_test(test_the_next_attempt_of_a_task_ends_the_one_before),
        cmocka_unit_test(test_the_one_before_is_killed_at_once_after_its_lease),
        cmocka_unit_test(test_an_earlier_attempt_ends_no_later_one),
        cmocka_unit_test(test_a_result_is_resent_until_applied),
        cmocka_unit_test(test_results_wait_for_the_broker),
        cmocka_unit_test(test_hints_die_with_their_connection),
        cmocka_unit_test(test_a_grant_without_its_hint_needs_no_ack),
        cmocka_unit_test(test_without_a_publishing_link_no_hints_are_kept),
        cmocka_unit_test(test_drain_gives_hints_back_and_lets_tasks_run),
        cmocka_unit_test(test_who_is_refused_takes_nothing),
        cmocka_unit_test(test_another_number_gives_claims_back),
        cmocka_unit_test(test_short_leases_make_beats_frequent),
        cmocka_unit_test(test_beats_adapt_to_the_cluster),
        cmocka_unit_test(test_a_full_disk_holds_work_off),
        cmocka_unit_test(test_the_time_off_doubles),
        cmocka_unit_test(test_a_fault_that_shows_later),
        cmocka_unit_test(test_the_time_off_doubles_after_the_fork_too),
        cmocka_unit_test(test_what_is_not_offered_goes_back),
        cmocka_unit_test(test_what_nobody_can_take_does_not_go_in_a_circle),
        cmocka_unit_test(test_what_is_held_when_the_node_gets_smaller),
        cmocka_unit_test(test_what_is_held_when_its_type_goes),
        cmocka_unit_test(test_a_directed_hint_is_never_answered),
        cmocka_unit_test(test_a_directed_hint_waits_for_room),
        cmocka_unit_test(test_all_of_what_a_task_needs_has_to_be_free),
        cmocka_unit_test(test_who_asks_for_nothing_scarce_goes_past),
        cmocka_unit_test(test_what_the_first_lacks_is_kept_for_it),
        cmocka_unit_test(test_what_waits_for_room_is_let_go),
        cmocka_unit_test(test_slots_are_kept_for_one_that_lacks_memory),
        cmocka_unit_test(test_few_hints_that_lack_memory_are_kept),
        cmocka_unit_test(test_a_grant_of_more_than_is_free),
        cmocka_unit_test(test_after_a_pause_all_classes_are_waited_for),
        cmocka_unit_test(test_stop_leaves_tasks_to_the_next_process),
        cmocka_unit_test(test_stop_waits_for_starts),
        cmocka_unit_test(test_stop_gives_open_claims_back_at_last),
        cmocka_unit_test(test_stop_with_tasks),
        cmocka_unit_test(test_slots_may_change),
        cmocka_unit_test(test_survivors_are_taken_back),
        cmocka_unit_test(test_a_survivor_whose_lease_nobody_renews),
        cmocka_unit_test(test_every_state_can_be_reached_and_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
