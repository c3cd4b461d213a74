/* Workers, beats and leases with a clock that the test moves. */
#include "pkg/manager/fleet.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DEAD_MS 30000
#define BEAT_MS 5000

static struct fleet fleet;
static int unknown;
static int revoked;
static int survived;
static int applications;
static int gone;
static int states;
static enum beat_verdict verdict; /* of the last beat */
static char why_gone[100];

static void on_unknown(void *arg, const struct beat_run *r)
{
    (void)arg;
    (void)r;
    unknown++;
}

static void on_revoke(void *arg, const struct beat_run *r)
{
    (void)arg;
    (void)r;
    revoked++;
}

static void on_survived(void *arg, const struct lease *l, const struct beat *b)
{
    (void)arg;
    (void)l;
    (void)b;
    survived++;
}

static void on_application(void *arg, const struct lease *l, const char *id)
{
    (void)arg;
    (void)l;
    (void)id;
    applications++;
}

static void on_gone(void *arg, struct lease *l, const char *why, bool by_restart)
{
    (void)arg;
    (void)l;
    (void)by_restart;
    gone++;
    snprintf(why_gone, sizeof(why_gone), "%s", why);
}

static void on_state(void *arg, struct fleet_worker *w, enum worker_state from)
{
    (void)arg;
    (void)w;
    (void)from;
    states++;
}

static const struct beat_effects effects = {.role = FLEET_LEADS,
                                            .unknown = on_unknown,
                                            .revoke = on_revoke,
                                            .survived = on_survived,
                                            .application = on_application,
                                            .gone = on_gone};

static int64_t begun; /* when the process of the next beat began */

static int setup(void **state)
{
    (void)state;
    unknown = revoked = survived = applications = gone = states = 0;
    fleet_init(&fleet, DEAD_MS);
    fleet.heartbeat_ms = BEAT_MS;
    verdict = BEAT_TAKEN;
    begun = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fleet_done(&fleet);
    return 0;
}

static json_t *pools;

/* NULL: not taken. */
static struct fleet_worker *hear(struct who who, int pid, int64_t n, int64_t now,
                                 const struct beat_run *runs, size_t n_runs,
                                 const struct beat_run *claims, size_t n_claims)
{
    struct beat b = {.who = who,
                     .host = "h",
                     .version = "1",
                     .reply = "q",
                     .pid = pid,
                     .started_at = begun,
                     .beat = n,
                     .slots = 4,
                     .pools = pools,
                     .running = runs,
                     .n_running = n_runs,
                     .claiming = claims,
                     .n_claiming = n_claims};
    struct beat_heard heard = fleet_beat(&fleet, &b, now, now, &effects);

    verdict = heard.verdict;
    return verdict == BEAT_TAKEN ? heard.worker : NULL;
}

static struct fleet_worker *beat(const char *worker, int64_t inc, int64_t n, int64_t now,
                                 const struct beat_run *runs, size_t n_runs,
                                 const struct beat_run *claims, size_t n_claims)
{
    return hear(who_of(worker, NULL, inc), 1, n, now, runs, n_runs, claims, n_claims);
}

static struct offers_slots slots_of(const char *pool)
{
    struct offers_pool *p = offers_find(&fleet.offers, pool);

    return p ? *offers_slots(p) : (struct offers_slots){0};
}

static struct task running_task(const char *worker, int64_t token)
{
    return (struct task){.id = id_new(),
                         .state = TASK_RUNNING,
                         .attempt = 1,
                         .token = token,
                         .slots = 2,
                         .who = who_of(worker, NULL, 1),
                         .claim_beat = 1,
                         .pool = xstrdup("default")};
}

static void tick(int64_t now)
{
    fleet_tick(&fleet, now, true, on_state, &effects, NULL);
}

static void test_silence(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &t, 1000);
    beat("w1", 1, 2, 2000, &run, 1, NULL, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
    tick(2000 + 3 * BEAT_MS);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_SUSPECT);
    tick(2000 + DEAD_MS + 1);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
    /* The lease ends only when the worker must have stopped the task by itself. */
    assert_int_equal(gone, 0);
    tick(2000 + DEAD_MS + LEASE_MARGIN_MS);
    assert_int_equal(gone, 0);
    tick(2000 + DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    tick(2000 + DEAD_MS + LEASE_MARGIN_MS + 2);
    assert_int_equal(gone, 1); /* told once */
    task_done(&t);
}

/* The cluster's setting is shorter than what the worker's file says. */
static void test_a_slow_beat_is_no_silence(void **state)
{
    struct beat b = {
        .who = who_of("w1", NULL, 1), .host = "h", .reply = "q", .beat = 1, .heartbeat_ms = 20000};

    (void)state;
    assert_int_equal(fleet_beat(&fleet, &b, 0, 0, &effects).verdict, BEAT_TAKEN);
    tick(50000);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
    tick(50001);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
}

/* It says that it will beat three times in the cluster's setting, and has not heard of it yet: dead
 * after that and one beat. Once it beats so, after that alone. */
static void test_a_worker_that_adapts_is_dead_in_time(void **state)
{
    struct beat b = {.who = who_of("w1", NULL, 1),
                     .host = "h",
                     .reply = "q",
                     .beat = 1,
                     .heartbeat_ms = 60000,
                     .adapts = true};

    (void)state;
    assert_int_equal(fleet_beat(&fleet, &b, 0, 0, &effects).verdict, BEAT_TAKEN);
    assert_null(fleet_slowest(&fleet));
    tick(DEAD_MS + 60000);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
    tick(DEAD_MS + 60001);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
    b.beat = 2;
    b.heartbeat_ms = DEAD_MS / 3;
    assert_int_equal(fleet_beat(&fleet, &b, 100000, 100000, &effects).verdict, BEAT_TAKEN);
    tick(100000 + DEAD_MS);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_SUSPECT);
    tick(100000 + DEAD_MS + 1);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
}

static void test_the_slowest_that_does_not_adapt(void **state)
{
    struct beat b = {.host = "h", .reply = "q", .beat = 1};
    static const struct {
        const char *name;
        int64_t heartbeat_ms;
        bool adapts;
    } workers[] = {
        {"w1", 7000, false}, {"w2", 9000, false}, {"w3", 300000, true}, {"w4", 0, false}};

    (void)state;
    assert_null(fleet_slowest(&fleet));
    for (size_t i = 0; i < ARRAY_LEN(workers); i++) {
        b.who = who_of(workers[i].name, NULL, 1);
        b.heartbeat_ms = workers[i].heartbeat_ms;
        b.adapts = workers[i].adapts;
        assert_int_equal(fleet_beat(&fleet, &b, 0, 0, &effects).verdict, BEAT_TAKEN);
    }
    assert_string_equal(fleet_slowest(&fleet)->who.node, "w2");
    tick(DEAD_MS + 1);
    b.who = who_of("w4", NULL, 1);
    b.heartbeat_ms = 0;
    b.beat = 2;
    assert_int_equal(fleet_beat(&fleet, &b, DEAD_MS + 1, 0, &effects).verdict, BEAT_TAKEN);
    assert_string_equal(fleet_slowest(&fleet)->who.node, "w4"); /* of those that live */
}

static void test_task_with_a_lease_of_its_own(void **state)
{
    struct task t = running_task("w1", 5);

    (void)state;
    t.lease_s = 300;
    fleet_grant(&fleet, &t, 0);
    tick(300000);
    assert_int_equal(gone, 0);
    tick(300000 + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    task_done(&t);
}

/* The worker counts its lease from the later claim. */
static void test_claimed_again(void **state)
{
    struct task t = running_task("w1", 5);

    (void)state;
    fleet_grant(&fleet, &t, 0);
    fleet_grant(&fleet, &t, 20000); /* the row, read again: nothing new */
    tick(DEAD_MS + LEASE_MARGIN_MS);
    t.claim_beat = 2;
    fleet_grant(&fleet, &t, 20000);
    tick(20000 + DEAD_MS + LEASE_MARGIN_MS);
    assert_int_equal(gone, 0);
    tick(20000 + DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    task_done(&t);
}

static void test_frozen_reaper(void **state)
{
    struct task t = running_task("w1", 5);

    (void)state;
    fleet_grant(&fleet, &t, 0);
    fleet_freeze(&fleet, 100000);
    tick(100001);
    tick(100000 + DEAD_MS - 1);
    assert_int_equal(gone, 0);
    tick(100000 + DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    task_done(&t);
}

/* Most of a fleet silent at once: nobody is taken for dead until it is so for twice as long. */
static void test_most_are_silent(void **state)
{
    static const char *const names[] = {"w1", "w2", "w3", "w4", "w5"};
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};
    int64_t now = 0;

    (void)state;
    fleet_grant(&fleet, &t, 0);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        beat(names[i], 1, 2, 0, &run, i == 0, NULL, 0);
    }
    for (int n = 3; now <= 2 * (int64_t)DEAD_MS - BEAT_MS; n++) {
        now += BEAT_MS;
        beat("w4", 1, n, now, NULL, 0, NULL, 0);
        beat("w5", 1, n, now, NULL, 0, NULL, 0);
        bool held = now > 2 * BEAT_MS;
        assert_int_equal(fleet_tick(&fleet, now, true, on_state, &effects, NULL), !held);
    }
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
    assert_int_equal(gone, 0);
    assert_true(fleet_tick(&fleet, 2 * DEAD_MS + 1, true, on_state, &effects, NULL));
    assert_int_equal(gone, 1);
    task_done(&t);
}

/* One of two is silent: that is no reason to doubt. */
static void test_an_earlier_leader_may_renew(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};
    const int64_t until = 200000;

    (void)state;
    fleet_grant(&fleet, &t, 0);
    fleet.other_until = until;
    fleet_freeze(&fleet, 1000);
    beat("w1", 1, 2, 2000, &run, 1, NULL, 0);
    tick(until + DEAD_MS + LEASE_MARGIN_MS);
    assert_int_equal(gone, 0);
    tick(until + DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    task_done(&t);
}

/* What is no matter of time needs no wait. */
static void test_evidence_beside_an_earlier_leader(void **state)
{
    struct task t = running_task("w1", 5);
    struct task u = running_task("w2", 6);

    (void)state;
    fleet.other_until = 200000;
    fleet_grant(&fleet, &t, 0);
    fleet_grant(&fleet, &u, 0);
    beat("w1", 1, 2, 2000, NULL, 0, NULL, 0);
    assert_int_equal(gone, 1);
    beat("w2", 2, 1, 2000, NULL, 0, NULL, 0);
    assert_int_equal(gone, 2);
    task_done(&t);
    task_done(&u);
}

static void test_few_are_silent(void **state)
{
    struct task t = running_task("w1", 5);

    (void)state;
    fleet_grant(&fleet, &t, 0);
    beat("w1", 1, 1, 0, NULL, 0, NULL, 0);
    beat("w2", 1, 1, DEAD_MS, NULL, 0, NULL, 0);
    tick(DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    task_done(&t);
}

/* Who does not lead takes nothing away, and keeps only what beats renew. */
static void test_follower(void **state)
{
    struct task t = running_task("w1", 5);

    (void)state;
    fleet_grant(&fleet, &t, 0);
    assert_true(fleet_tick(&fleet, DEAD_MS + LEASE_MARGIN_MS, false, on_state, &effects, NULL));
    assert_non_null(fleet_lease(&fleet, &t.id));
    fleet_tick(&fleet, DEAD_MS + LEASE_MARGIN_MS + 1, false, on_state, &effects, NULL);
    assert_null(fleet_lease(&fleet, &t.id));
    assert_int_equal(gone, 0);
    task_done(&t);
}

static void follow(int64_t n, int64_t now, const struct beat_run *runs, size_t n_runs)
{
    static const struct beat_effects follows = {.role = FLEET_FOLLOWS, .gone = on_gone};
    struct beat b = {.who = who_of("w1", NULL, 1),
                     .host = "h",
                     .reply = "q",
                     .pid = 1,
                     .beat = n,
                     .slots = 4,
                     .pools = pools,
                     .running = runs,
                     .n_running = n_runs};

    (void)fleet_beat(&fleet, &b, now, now, &follows);
}

/* Who does not lead shows what the workers say; to lead, the row must tell. */
static void test_hearsay(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run runs[] = {
        {.task = t.id, .attempt = 1, .token = 5, .phase = "running", .room = {3, 3500, 900}},
        {.task = id_new(), .attempt = 1, .token = 6, .phase = "ended"}};

    (void)state;
    follow(1, 10, runs, 2);
    const struct room *used = &fleet_find(&fleet, "w1")->offer.used;
    assert_true(used->slots == 3 && used->cpus_milli == 3500 && used->memory_mb == 900);
    assert_int_equal(fleet_find(&fleet, "w1")->leases.count, 1);
    assert_string_equal(fleet_lease(&fleet, &t.id)->phase, "running");
    runs[0].attempt = 2;
    follow(2, 20, runs, 2);
    assert_int_equal(fleet_lease(&fleet, &t.id)->attempt, 2);
    /* it leads now */
    tick(20 + DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_null(fleet_lease(&fleet, &t.id));
    assert_int_equal(gone, 0);
    follow(3, 30, runs, 2);
    beat("w1", 1, 4, 40, NULL, 0, NULL, 0);
    assert_null(fleet_lease(&fleet, &t.id));
    assert_int_equal(gone, 0);
    follow(5, 50, runs, 2);
    beat("w1", 1, 6, 60, runs, 1, NULL, 0);
    assert_int_equal(unknown, 1);
    follow(7, 70, runs, 2);
    t.attempt = 2;
    fleet_grant(&fleet, &t, 80);
    beat("w1", 1, 8, 90, runs, 1, NULL, 0);
    assert_int_equal(unknown, 1);
    assert_false(fleet_lease(&fleet, &t.id)->hearsay);
    assert_int_equal(fleet_lease(&fleet, &t.id)->room.slots, 2);
    assert_int_equal(fleet_find(&fleet, "w1")->offer.used.slots, 2);
    task_done(&t);
}

/* Whatever it says of its leases, it is kept as long as its worker is heard. */
static void test_hearsay_ends_with_silence(void **state)
{
    struct beat_run run = {.task = id_new(), .attempt = 1, .lease_ms = LEASE_MS_MAX};

    (void)state;
    follow(1, 10, &run, 1);
    follow(2, 1000, &run, 1);
    fleet_tick(&fleet, 1000 + DEAD_MS + LEASE_MARGIN_MS, false, on_state, &effects, NULL);
    assert_non_null(fleet_lease(&fleet, &run.task));
    fleet_tick(&fleet, 1000 + DEAD_MS + LEASE_MARGIN_MS + 1, false, on_state, &effects, NULL);
    assert_null(fleet_lease(&fleet, &run.task));
    assert_int_equal(fleet.told, 0);
}

/* Bytes count, of attempts and of what describes them; those with a row have room of their own. */
static void test_what_is_told_is_bounded(void **state)
{
    static struct beat_run runs[10000];
    static char long_text[4000];
    struct task t = running_task("w1", 5);
    struct beat_run own = {.task = t.id, .attempt = 1, .token = 5, .phase = "running"};
    json_auto_t *progress = json_object();

    (void)state;
    memset(long_text, 'x', sizeof(long_text) - 1);
    json_object_set_new(progress, "text", json_string(long_text));
    for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
        runs[i] = (struct beat_run){
            .task = id_new(), .attempt = 1, .phase = "running", .progress = progress};
    }
    fleet_grant(&fleet, &t, 0);
    follow(1, 10, runs, ARRAY_LEN(runs));
    assert_in_range(fleet.told, HEARSAY_MAX - 5000, HEARSAY_MAX);
    assert_in_range(HASH_COUNT(fleet.leases), 5000, 8000);
    own.progress = progress;
    own.application_id = own.ui_url = "u";
    follow(2, 20, &own, 1); /* and none of the others */
    assert_int_equal(HASH_COUNT(fleet.leases), 1);
    assert_non_null(fleet_lease(&fleet, &t.id)->progress);
    fleet.told += HEARD_MAX;
    follow(3, 30, &own, 1);
    assert_null(fleet_lease(&fleet, &t.id)->progress);
    assert_null(fleet_lease(&fleet, &t.id)->ui_url);
    fleet.told -= HEARD_MAX;
    fleet_release(&fleet, &t.id);
    assert_int_equal(fleet.told, 0);
    task_done(&t);
}

static json_t *numbered(const char *prefix, int from, int n)
{
    json_t *list = json_array();

    for (int i = from; i < from + n; i++) {
        char name[64];

        snprintf(name, sizeof(name), "%s%d", prefix, i);
        json_array_append_new(list, json_string(name));
    }
    return list;
}

static struct fleet_worker *offer_lists(int worker, int64_t n, int64_t now, const json_t *in,
                                        const json_t *types)
{
    char name[16];

    snprintf(name, sizeof(name), "n%d", worker);
    struct beat b = {.who = who_of(name, NULL, 1),
                     .host = "h",
                     .reply = "q",
                     .beat = n,
                     .slots = 4,
                     .cpus = worker,
                     .pools = in,
                     .job_types = types};
    struct beat_heard heard = fleet_beat(&fleet, &b, now, now, &effects);
    assert_int_equal(heard.verdict, BEAT_TAKEN);
    return heard.worker;
}

/* Each of its own size, with other types and pools than the one before. */
static void test_a_large_cluster_is_served(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++) {
        json_auto_t *in = numbered("some-pool-", i % 20, 50);
        json_auto_t *types = numbered("SomeTypeOfTask", i % 10, 64);

        assert_false(offer_lists(i, 1, 0, in, types)->unserved);
    }
    assert_int_equal(slots_of("some-pool-20").total, 4000);
    assert_in_range(offers_bytes(&fleet.offers), 1, OFFERED_MAX / 2);
}

/* There are only so many pools; who names more gets no tasks until others are gone. */
static void test_pools_are_bounded(void **state)
{
    json_auto_t *last = numbered("last", 0, 64);
    int served = 0;

    (void)state;
    for (int i = 0; i < 30; i++) {
        json_auto_t *in = numbered("p", i * 64, 64);

        served += !offer_lists(i, 1, 0, in, NULL)->unserved;
    }
    assert_int_equal(served, OFFERED_POOLS_MAX / 64);
    assert_int_equal(names_count(&fleet.offers.pool_names), served * 64);
    assert_int_equal(HASH_COUNT(fleet.offers.pools), served * 64);
    struct fleet_worker *w = offer_lists(100, 1, 10, last, NULL);
    assert_true(w->unserved && !w->pools && w->state == WORKER_UP);
    assert_int_equal(slots_of("last0").total, 0);
    json_auto_t *known = numbered("p", 0, 64);
    assert_false(offer_lists(101, 1, 10, known, NULL)->unserved); /* nothing new */
    tick(DEAD_MS + 5);
    assert_false(offer_lists(100, 2, DEAD_MS + 5, last, NULL)->unserved);
    assert_int_equal(slots_of("last0").total, 4);
}

static void test_types_are_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        json_auto_t *types = numbered("t", i * 250, 250);

        assert_int_equal(offer_lists(i, 1, 0, pools, types)->unserved, i >= 4);
    }
    assert_int_equal(names_count(&fleet.offers.type_names), 1000);
}

/* What one that is not served runs goes on. */
static void test_leases_of_one_that_is_not_served(void **state)
{
    struct task t = running_task("n1", 5);
    json_auto_t *off = json_pack("[{s:s,s:s}]", "type", "X", "reason", "r");
    struct beat b = {.who = who_of("n1", NULL, 1),
                     .host = "h",
                     .reply = "q",
                     .beat = 1,
                     .slots = 4,
                     .pools = pools,
                     .hold_off = off,
                     .running = &(struct beat_run){.task = t.id, .attempt = 1, .token = 5},
                     .n_running = 1};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    fleet.held_off += OFFERED_MAX;
    struct beat_heard heard = fleet_beat(&fleet, &b, 1000, 1000, &effects);
    assert_true(heard.verdict == BEAT_TAKEN && heard.changed && heard.worker->unserved);
    assert_int_equal(fleet_lease(&fleet, &t.id)->deadline, 1000 + DEAD_MS + LEASE_MARGIN_MS);
    heard.worker->saved = true;
    b.beat = 2;
    heard = fleet_beat(&fleet, &b, 1000, 1000, &effects);
    assert_true(!heard.changed && heard.worker->saved && heard.worker->unserved);
    fleet.held_off -= OFFERED_MAX;
    b.beat = 3;
    heard = fleet_beat(&fleet, &b, 1000, 1000, &effects);
    assert_true(heard.changed && !heard.worker->unserved);
    assert_int_equal(json_array_size(heard.worker->hold_off), 1);
    assert_int_equal(slots_of("default").available, 2);
    task_done(&t);
}

static void test_workers_are_bounded(void **state)
{
    (void)state;
    for (int i = 0; i <= FLEET_MAX; i++) {
        char name[16];

        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(beat(name, 1, 1, 0, NULL, 0, NULL, 0) != NULL, i < FLEET_MAX);
    }
    assert_non_null(beat("n0", 1, 2, 0, NULL, 0, NULL, 0));
    struct fleet_row row = {.who = who_of("one more", NULL, 1), .host = "", .drain = true};
    assert_false(fleet_order(&fleet, &row, 0));
    assert_null(fleet_find(&fleet, "one more"));
    beat("n1", 1, 2, DEAD_MS, NULL, 0, NULL, 0);
    fleet_tick(&fleet, DEAD_MS + 1, false, on_state, &effects, NULL);
    for (int i = 2; i < FLEET_MAX; i += 97) { /* the silent ones make room */
        char name[16];

        snprintf(name, sizeof(name), "new%d", i);
        assert_non_null(beat(name, 1, 1, DEAD_MS + 1, NULL, 0, NULL, 0));
    }
    assert_int_equal(HASH_COUNT(fleet.workers), FLEET_MAX);
    assert_int_equal(fleet_find(&fleet, "n1")->state, WORKER_UP);
}

static void test_most_come_back(void **state)
{
    static const char *const names[] = {"w1", "w2", "w3", "w4"};
    struct task t = running_task("w1", 5);
    struct task other = running_task("w5", 6);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};
    const int64_t back = 2 * DEAD_MS - 10000;

    (void)state;
    fleet_grant(&fleet, &t, 0);
    fleet_grant(&fleet, &other, 0);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        beat(names[i], 1, 2, 0, &run, i == 0, NULL, 0);
    }
    tick(back);
    assert_int_equal(gone, 0);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        beat(names[i], 1, 3, back, &run, i == 0, NULL, 0);
    }
    tick(back);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
    assert_int_equal(gone, 1); /* the one that did not come back */
    assert_false(fleet_lease(&fleet, &t.id)->lost);
    task_done(&t);
    task_done(&other);
}

static void test_orders(void **state)
{
    struct offers_slots slots;
    struct fleet_row row = {.who = who_of("w1", NULL, 1),
                            .host = "host1",
                            .drain = true,
                            .state = WORKER_DEAD,
                            .seen_wall = 77};

    (void)state;
    /* Read from the database before its first beat. */
    fleet_order(&fleet, &row, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
    assert_string_equal(fleet_find(&fleet, "w1")->host, "host1");
    assert_int_equal(fleet_find(&fleet, "w1")->last_beat_wall, 77);
    beat("w1", 1, 1, 10, NULL, 0, NULL, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DRAINING);
    slots = slots_of("default");
    assert_int_equal(slots.total, 0);
    assert_false(fleet_drain(&fleet, "w1", true));
    assert_true(fleet_drain(&fleet, "w1", false));
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
    slots = slots_of("default");
    assert_int_equal(slots.total, 4);
}

/* ---- who a worker is ---- */

static struct who home(uint8_t uuid, int64_t inc)
{
    struct id id = {{uuid}};

    return who_of("w1", &id, inc);
}

static struct task granted_to(struct who who, int64_t token)
{
    struct task t = running_task("w1", token);

    t.who = who;
    return t;
}

static void done(struct task *t)
{
    task_done(t);
}

/* The lease is what was granted, whatever this manager's setting is. */
static void test_a_lease_is_data(void **state)
{
    struct task t = running_task("w1", 5);

    (void)state;
    t.lease_ms = 2 * DEAD_MS;
    fleet_grant(&fleet, &t, 0);
    fleet.dead_after_ms = DEAD_MS / 10;
    tick(2 * DEAD_MS + LEASE_MARGIN_MS);
    assert_int_equal(gone, 0);
    tick(2 * DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    done(&t);
}

/* Where the row does not say (an earlier version granted it), the worker does. */
static void test_a_lease_is_told_by_its_worker(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5, .lease_ms = 3 * DEAD_MS};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    beat("w1", 1, 2, 0, &run, 1, NULL, 0);
    assert_int_equal(fleet_lease(&fleet, &t.id)->lease_ms, 3 * DEAD_MS);
    run.lease_ms = 9 * DEAD_MS; /* once told it is as it is */
    beat("w1", 1, 3, 0, &run, 1, NULL, 0);
    assert_int_equal(fleet_lease(&fleet, &t.id)->lease_ms, 3 * DEAD_MS);
    done(&t);
}

/* Another work directory knows nothing of the tasks of the first: they keep their leases. */
static void test_another_directory_is_another_worker(void **state)
{
    struct task t = granted_to(home(1, 7), 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    hear(home(1, 7), 1, 2, 0, &run, 1, NULL, 0);
    struct fleet_worker *second = hear(home(2, 900), 2, 1, 10, NULL, 0, NULL, 0);
    assert_non_null(second);
    assert_int_equal(second->state, WORKER_REFUSED);
    assert_int_equal(gone, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->who.uuid.b[0], 1);
    assert_string_equal(fleet_objection(&fleet, &second->who), "refused");
    struct offers_slots slots = slots_of("default");
    assert_int_equal(slots.workers, 1);
    assert_null(fleet_objection(&fleet, &fleet_find(&fleet, "w1")->who));

    /* The first one falls silent: its name is free, its tasks are not. */
    hear(home(2, 900), 2, 2, DEAD_MS, NULL, 0, NULL, 0);
    tick(DEAD_MS + 1);
    second = hear(home(2, 900), 2, 3, DEAD_MS + 2, NULL, 0, NULL, 0);
    assert_int_equal(second->state, WORKER_UP);
    assert_ptr_equal(fleet_find(&fleet, "w1"), second);
    assert_int_equal(gone, 0);
    assert_int_equal(fleet_left_behind(second), 1);

    /* And it comes back: now it is the one that is refused, but what it runs it may keep. */
    struct fleet_worker *first = hear(home(1, 7), 1, 3, DEAD_MS + 10, &run, 1, NULL, 0);
    assert_int_equal(first->state, WORKER_REFUSED);
    assert_int_equal(fleet_left_behind(second) + fleet_left_behind(first), 0);
    assert_int_equal(revoked + gone, 0);
    assert_int_equal(fleet_lease(&fleet, &t.id)->deadline,
                     DEAD_MS + 10 + DEAD_MS + LEASE_MARGIN_MS);

    /* The intruder ends: who lives comes back by itself. */
    second->stopping = true;
    second->state = WORKER_STOPPED;
    first = hear(home(1, 7), 1, 4, DEAD_MS + 20, &run, 1, NULL, 0);
    assert_int_equal(first->state, WORKER_UP);
    assert_ptr_equal(fleet_find(&fleet, "w1"), first);
    assert_int_equal(gone, 0);
    done(&t);
}

static void test_what_another_directory_left_runs_out(void **state)
{
    struct task t = granted_to(home(1, 7), 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};
    int64_t over = DEAD_MS + LEASE_MARGIN_MS + 1;

    (void)state;
    fleet_grant(&fleet, &t, 0);
    hear(home(1, 7), 1, 2, 0, &run, 1, NULL, 0)->state = WORKER_STOPPED;
    struct fleet_worker *second = hear(home(2, 1), 2, 1, over, NULL, 0, NULL, 0);
    assert_int_equal(fleet_left_behind(second), 1);
    tick(over);
    assert_int_equal(gone, 1);
    assert_non_null(strstr(why_gone, "came back with another work directory"));
    done(&t);
}

/* It is no trouble any more, nor does it get what it still asks for. */
static void test_a_refused_one_that_stops(void **state)
{
    struct beat last = {.who = home(2, 1), .host = "h", .pid = 2, .beat = 2, .stopping = true};

    (void)state;
    hear(home(1, 1), 1, 1, 0, NULL, 0, NULL, 0);
    assert_int_equal(hear(home(2, 1), 2, 1, 0, NULL, 0, NULL, 0)->state, WORKER_REFUSED);
    struct beat_heard heard = fleet_beat(&fleet, &last, 1, 1, &effects);
    assert_int_equal(heard.worker->state, WORKER_STOPPED);
    assert_true(heard.changed);
    assert_string_equal(fleet_objection(&fleet, &last.who), "refused");
    tick(2);
    assert_null(fleet_of(&fleet, &last.who));
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
}

/* A process of the same directory holds its lock: the one before it is over. */
static void test_a_restart_is_believed(void **state)
{
    struct task t = granted_to(home(1, 7), 5);

    (void)state;
    fleet_grant(&fleet, &t, 0);
    hear(home(1, 7), 1, 2, 0, NULL, 0, &(struct beat_run){.task = t.id, .attempt = 1}, 1);
    assert_int_equal(gone, 0);
    hear(home(1, 8), 2, 1, 10, NULL, 0, NULL, 0);
    assert_int_equal(gone, 1);
    done(&t);
}

static void test_numbers_out_of_nowhere(void **state)
{
    struct task t = granted_to(home(1, 7), 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    hear(home(1, 7), 1, 2, 0, &run, 1, NULL, 0);
    assert_null(hear(home(1, INT64_MAX / 4), 2, 1, 1, NULL, 0, NULL, 0));
    assert_int_equal(verdict, BEAT_OUTDATED);
    assert_null(hear(home(1, 6), 2, 1, 2, NULL, 0, NULL, 0));
    assert_int_equal(verdict, BEAT_OUTDATED);
    assert_string_equal(
        fleet_objection(&fleet, &(struct who){.node = "w1", .uuid = {{1}}, .inc = 6}), "outdated");
    /* A copy of the directory: the same number, another process. */
    assert_null(hear(home(1, 7), 2, 9, 3, NULL, 0, NULL, 0));
    assert_int_equal(verdict, BEAT_OUTDATED);
    assert_null(hear(home(1, 7), 1, 2, 4, NULL, 0, NULL, 0));
    assert_int_equal(verdict, BEAT_LATE);
    assert_int_equal(gone, 0);
    /* While it is contested nothing is lost at once. */
    hear(home(1, 8), 2, 1, 5, NULL, 0, NULL, 0);
    assert_int_equal(gone, 0);
    tick(DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    done(&t);
}

/* The directory was put back to what it had been, and a beat of the process that ran since came
 * late: whoever passes that number began before it. */
static void test_a_number_that_is_used_again(void **state)
{
    struct task t = granted_to(home(1, 7), 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    begun = 100;
    hear(home(1, 7), 2, 1, 0, &run, 1, NULL, 0);
    begun = 50;
    assert_int_equal(hear(home(1, 8), 1, 1, 5, NULL, 0, NULL, 0)->state, WORKER_UP);
    hear(home(1, 8), 1, 2, 10, NULL, 0, NULL, 0);
    assert_int_equal(gone, 0);
    tick(DEAD_MS + LEASE_MARGIN_MS + 1);
    assert_int_equal(gone, 1);
    done(&t);
}

/* Another manager took a number out of nowhere, so the process has gone beyond it: here it is
 * silent under the old one, and is not locked out. */
static void test_a_number_out_of_nowhere_is_taken_at_last(void **state)
{
    int64_t far = (int64_t)1 << 40;
    int64_t now = 0;

    (void)state;
    hear(home(1, 7), 1, 1, now, NULL, 0, NULL, 0);
    for (int n = 2; now <= DEAD_MS; n++, now += BEAT_MS) {
        assert_null(hear(home(1, far), 1, n, now, NULL, 0, NULL, 0));
        tick(now);
    }
    tick(now + 1);
    assert_int_equal(hear(home(1, far), 1, 99, now + 2, NULL, 0, NULL, 0)->state, WORKER_UP);
}

/* A worker that was upgraded has a UUID from then on, and brings its tasks along. */
static void test_a_worker_gets_its_uuid(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    beat("w1", 1, 2, 0, &run, 1, NULL, 0);
    struct fleet_worker *w = hear(home(3, 2), 2, 1, 10, &run, 1, NULL, 0);
    assert_int_equal(w->state, WORKER_UP);
    assert_int_equal(survived, 1);
    assert_int_equal(revoked + gone, 0);
    assert_int_equal(HASH_COUNT(fleet.workers), 1);
    assert_ptr_equal(fleet_lease(&fleet, &t.id)->worker, w);
    done(&t);
}

/* One whose lease a manager wrote down that knows no UUIDs. */
static void test_a_grant_without_uuid(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    hear(home(3, 1), 1, 1, 0, NULL, 0, NULL, 0);
    fleet_grant(&fleet, &t, 0);
    hear(home(3, 1), 1, 2, 10, &run, 1, NULL, 0);
    assert_int_equal(revoked + gone + unknown, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->leases.count, 1);
    done(&t);
}

static void test_namesakes_are_bounded(void **state)
{
    struct task t = granted_to(home(2, 1), 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    hear(home(1, 1), 1, 1, 0, NULL, 0, NULL, 0);
    fleet_grant(&fleet, &t, 0); /* its grant is from earlier */
    hear(home(2, 1), 1, 1, 0, &run, 1, NULL, 0);
    for (int i = 3; i < 100; i++) {
        hear(home((uint8_t)i, 1), 1, 1, 0, NULL, 0, NULL, 0);
    }
    assert_int_equal(HASH_COUNT(fleet.workers), NAMESAKES_MAX);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UP);
    assert_non_null(fleet_lease(&fleet, &t.id));
    assert_int_equal(verdict, BEAT_TOO_MANY); /* those that live stay */
    for (int i = 2; i <= NAMESAKES_MAX; i++) {
        struct who who = home((uint8_t)i, 1);

        assert_int_equal(fleet_of(&fleet, &who)->state, WORKER_REFUSED);
    }
    tick(DEAD_MS + 1);
    assert_non_null(hear(home(99, 1), 1, 1, DEAD_MS + 1, NULL, 0, NULL, 0));
    tick(DEAD_MS + 2);
    tick(2 * DEAD_MS);
    fleet_release(&fleet, &t.id);
    tick(2 * DEAD_MS);
    assert_int_equal(HASH_COUNT(fleet.workers), 1);
    done(&t);
}

/* A manager that has just been started has not heard it: it may well live. */
static void test_unknown_until_heard(void **state)
{
    struct fleet_row row = {.who = home(1, 7), .host = "h", .state = WORKER_SUSPECT, .slots = 4};

    (void)state;
    fleet_order(&fleet, &row, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_UNKNOWN);
    assert_int_equal(hear(home(2, 1), 2, 1, 10, NULL, 0, NULL, 0)->state, WORKER_REFUSED);
    assert_int_equal(hear(home(1, 7), 1, 1, 20, NULL, 0, NULL, 0)->state, WORKER_UP);
    fleet_done(&fleet);
    setup(state);
    fleet_order(&fleet, &row, 0);
    tick(DEAD_MS + 1);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
    fleet_done(&fleet);
    setup(state);
    row.state = WORKER_STOPPED; /* it stays that, and its name is free */
    fleet_order(&fleet, &row, 0);
    tick(DEAD_MS + 1);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_STOPPED);
    assert_int_equal(fleet_find(&fleet, "w1")->slots, 4);
    assert_int_equal(hear(home(2, 1), 2, 1, DEAD_MS + 2, NULL, 0, NULL, 0)->state, WORKER_UP);
}

/* ---- what may be offered soon ---- */

/* types and held: JSON arrays. */
static void say(const char *worker, int64_t n, int64_t now, const char *types, const char *held,
                bool stopping)
{
    json_auto_t *pool = json_pack("[s]", "p");
    json_auto_t *list = json_loads(types, 0, NULL);
    json_auto_t *off = json_loads(held, 0, NULL);
    struct beat b = {.who = who_of(worker, NULL, 1),
                     .host = "h",
                     .reply = "q",
                     .pid = 1,
                     .beat = n,
                     .slots = 4,
                     .stopping = stopping,
                     .pools = pool,
                     .job_types = list,
                     .hold_off = off};

    assert_int_equal(fleet_beat(&fleet, &b, now, now, &effects).verdict, BEAT_TAKEN);
}

/* One may soon take it that is none of these nodes. */
static bool soon(const char *type, int slots, const char *not_by, int64_t since)
{
    const struct offers_pool *p = offers_find(&fleet.offers, "p");
    struct need need = {type, {slots, 0, 0}};

    fleet_avoid(&fleet, not_by, since, true);
    bool yes = p && offers_fits_absent(p, &need);
    fleet_avoid(&fleet, not_by, since, false);
    return yes;
}

static void test_one_that_does_not_take_it_now(void **state)
{
    (void)state;
    fleet.rows_read = true;
    say("w1", 1, 0, "[\"X\"]", "[]", false);
    assert_false(soon("X", 1, NULL, 0)); /* it takes it now */
    fleet_drain(&fleet, "w1", true);
    assert_true(soon("X", 4, NULL, 0));
    assert_false(soon("X", 5, NULL, 0));
    assert_false(soon("Y", 1, NULL, 0));
    assert_false(soon("X", 1, "w1", 0));
    fleet_drain(&fleet, "w1", false);
    assert_false(soon("X", 1, NULL, 0));
    tick(3 * BEAT_MS); /* silent */
    assert_true(soon("X", 1, NULL, 0));
    tick(DEAD_MS + 1);
    assert_int_equal(fleet_find(&fleet, "w1")->state, WORKER_DEAD);
    assert_true(soon("X", 1, NULL, 0));
    tick(2 * DEAD_MS - 1);
    assert_true(soon("X", 1, NULL, 0));
    tick(2 * DEAD_MS);
    assert_false(soon("X", 1, NULL, 0));
    say("w1", 2, 100000, "[\"X\"]", "[]", true);
    assert_true(soon("X", 1, NULL, 0));
    tick(100000 + 2 * DEAD_MS);
    assert_false(soon("X", 1, NULL, 0));
    say("w1", 3, 200000, "[\"X\"]", "[]", false);
    fleet.dead_after_ms = 3 * DEAD_MS; /* of the cluster: longer */
    say("w1", 4, 200000, "[\"X\"]", "[]", true);
    tick(200000 + 6 * DEAD_MS - 1);
    assert_true(soon("X", 1, NULL, 0));
    tick(200000 + 6 * DEAD_MS);
    assert_false(soon("X", 1, NULL, 0));
}

/* It may have given it back for what it holds off: until it is well, and then once more. */
static void test_one_that_holds_off(void **state)
{
    const char *of_y = "[{\"type\":\"Y\",\"reason\":\"no\"}]";
    const char *of_all = "[{\"type\":null,\"reason\":\"no\"}]";
    struct need need = {"Y", {1, 0, 0}};

    (void)state;
    fleet.rows_read = true;
    say("w1", 1, 1, "[\"X\"]", of_y, false);
    assert_true(soon("Y", 1, NULL, 0));
    assert_true(soon("Y", 1, "w1", 0));
    assert_false(soon("X", 1, NULL, 0)); /* it takes it */
    say("w1", 2, 2, "[]", of_all, false);
    assert_true(soon("X", 1, NULL, 0));
    assert_true(soon("Y", 1, "w1", 0));
    say("w1", 3, 30, "[\"X\",\"Y\"]", "[]", false);
    assert_false(soon("Y", 1, NULL, 0));
    const struct offers_pool *p = offers_find(&fleet.offers, "p");
    fleet_avoid(&fleet, "w1", 29, true);
    assert_true(offers_fits_elsewhere(p, &need));
    fleet_avoid(&fleet, "w1", 29, false);
    fleet_avoid(&fleet, "w1", 30, true);
    assert_false(offers_fits_elsewhere(p, &need));
    fleet_avoid(&fleet, "w1", 30, false);
}

/* Nobody knows what it offers: it was not heard, or holds off everything since before. */
static void test_one_that_did_not_say_what(void **state)
{
    struct fleet_row row = {.who = who_of("w1", NULL, 1),
                            .host = "h",
                            .state = WORKER_STOPPED,
                            .seen_wall = 1000,
                            .wall = 11000};

    (void)state;
    fleet.rows_read = true;
    fleet_order(&fleet, &row, 5);
    assert_false(fleet_is_whole(&fleet));
    tick(2 * DEAD_MS - 10000 + 4);
    assert_false(fleet_is_whole(&fleet));
    tick(2 * DEAD_MS - 10000 + 5);
    assert_true(fleet_is_whole(&fleet));
    say("w2", 1, 100000, "[]", "[{\"type\":null,\"reason\":\"no\"}]", false);
    tick(100001);
    assert_false(fleet_is_whole(&fleet));
    say("w2", 2, 100002, "[\"X\"]", "[]", false);
    tick(100003);
    assert_true(fleet_is_whole(&fleet));
    say("w2", 3, 100004, "[]", "[{\"type\":null,\"reason\":\"no\"}]", false);
    tick(100005);
    assert_true(fleet_is_whole(&fleet));
    assert_true(soon("X", 1, NULL, 0));
}

static void test_forgotten(void **state)
{
    struct task t = running_task("w2", 5);

    (void)state;
    beat("w1", 1, 1, 0, NULL, 0, NULL, 0);
    fleet_grant(&fleet, &t, 0);
    tick(DEAD_MS + 1);
    tick(WORKER_FORGET_MS);
    assert_non_null(fleet_find(&fleet, "w1"));
    tick(WORKER_FORGET_MS + 1);
    assert_null(fleet_find(&fleet, "w1"));
    assert_non_null(fleet_find(&fleet, "w2")); /* something of it is still to be settled */
    fleet_release(&fleet, &t.id);
    tick(WORKER_FORGET_MS + 2);
    assert_null(fleet_find(&fleet, "w2"));
    task_done(&t);
}

static void test_missing_from_a_beat(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run ref = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    t.claim_beat = 3;
    fleet_grant(&fleet, &t, 0);
    /* Sent before the claim, arrived late: proves nothing. */
    beat("w1", 1, 3, 10, NULL, 0, NULL, 0);
    assert_int_equal(gone, 0);
    /* Still waiting for the grant. */
    beat("w1", 1, 4, 20, NULL, 0, &ref, 1);
    assert_int_equal(gone, 0);
    beat("w1", 1, 5, 30, &ref, 1, NULL, 0);
    assert_int_equal(gone, 0);
    beat("w1", 1, 6, 40, NULL, 0, NULL, 0);
    assert_int_equal(gone, 1);
    assert_non_null(strstr(why_gone, "no longer has it"));
    task_done(&t);
}

static void test_restart(void **state)
{
    struct task kept = running_task("w1", 5);
    struct task left = running_task("w1", 6);
    struct beat_run run = {.task = kept.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &kept, 0);
    fleet_grant(&fleet, &left, 0);
    assert_int_equal(fleet_find(&fleet, "w1")->offer.used.slots, 4);
    assert_non_null(beat("w1", 2, 1, 10, &run, 1, NULL, 0));
    assert_int_equal(survived, 1);
    assert_int_equal(gone, 1);
    assert_non_null(strstr(why_gone, "restarted"));
    /* A late beat of the process before is not listened to. */
    assert_null(beat("w1", 1, 99, 20, NULL, 0, NULL, 0));
    assert_null(beat("w1", 2, 1, 20, NULL, 0, NULL, 0));
    assert_int_equal(gone, 1);
    task_done(&kept);
    task_done(&left);
}

static void test_strangers(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run mine = {.task = t.id, .attempt = 1, .token = 5};
    struct beat_run other = {.task = id_new(), .attempt = 1, .token = 9};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    beat("w2", 1, 1, 10, &mine, 1, NULL, 0);
    assert_int_equal(revoked, 1);
    beat("w1", 1, 2, 10, &other, 1, &mine, 1);
    assert_int_equal(unknown, 1);
    mine.token = 6;
    beat("w1", 1, 3, 10, &mine, 1, NULL, 0);
    assert_int_equal(revoked, 2);
    task_done(&t);
}

/* What was given up may be written already, or any moment: it is not renewed, the row tells. */
static void test_what_was_given_up_is_not_renewed(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run mine = {.task = t.id, .attempt = 1, .token = 5};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    int64_t deadline = fleet_lease(&fleet, &t.id)->deadline;
    beat("w1", 1, 50, 10, NULL, 0, NULL, 0);
    assert_int_equal(gone, 1);
    beat("w1", 1, 51, 20, &mine, 1, NULL, 0);
    assert_int_equal(unknown, 1);
    assert_int_equal(gone, 1);
    assert_int_equal(fleet_lease(&fleet, &t.id)->deadline, deadline);
    task_done(&t);
}

static void test_application_is_told_once(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5, .application_id = "local-1"};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    beat("w1", 1, 2, 10, &run, 1, NULL, 0);
    beat("w1", 1, 3, 20, &run, 1, NULL, 0);
    assert_int_equal(applications, 1);
    task_done(&t);
}

/* It first appeared while this manager did not lead, or while its row could not be written. */
static void test_application_is_told_later(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5, .application_id = "local-1"};

    (void)state;
    fleet_grant(&fleet, &t, 0);
    follow(2, 10, &run, 1);
    assert_string_equal(fleet_lease(&fleet, &t.id)->application_id, "local-1");
    beat("w1", 1, 3, 20, &run, 1, NULL, 0);
    assert_int_equal(applications, 1);
    fleet_lease(&fleet, &t.id)->application_told = false; /* not written */
    beat("w1", 1, 4, 30, &run, 1, NULL, 0);
    assert_int_equal(applications, 2);
    fleet_lease(&fleet, &t.id)->application_told = false;
    t.application_id = xstrdup("local-1"); /* somebody else wrote it */
    fleet_grant(&fleet, &t, 40);
    beat("w1", 1, 5, 50, &run, 1, NULL, 0);
    assert_int_equal(applications, 2);
    task_done(&t);
}

static void beat_held(int64_t n, const char *text)
{
    json_auto_t *list = NULL;

    assert_int_equal(json_read(text, strlen(text), &list, NULL), 0);
    struct beat b = {.who = who_of("w1", NULL, 1),
                     .host = "h",
                     .version = "1",
                     .reply = "q",
                     .beat = n,
                     .slots = 4,
                     .pools = pools,
                     .hold_off = list};
    assert_int_equal(fleet_beat(&fleet, &b, n, n, &effects).verdict, BEAT_TAKEN);
}

/* It is there, but takes nothing; its row is written when that begins, ends or has another reason.
 */
static void test_a_worker_that_holds_off(void **state)
{
    (void)state;
    beat_held(1, "[]");
    fleet_find(&fleet, "w1")->saved = true;
    beat_held(2, "[]");
    assert_true(fleet_find(&fleet, "w1")->saved);
    beat_held(3, "[{\"type\":\"SparkApp\",\"reason\":\"no Java\",\"untilMs\":5}]");
    assert_false(fleet_find(&fleet, "w1")->saved);
    assert_int_equal(slots_of("default").total, 4);
    fleet_find(&fleet, "w1")->saved = true;
    beat_held(4, "[{\"type\":\"SparkApp\",\"reason\":\"no Java\",\"untilMs\":9}]");
    assert_true(fleet_find(&fleet, "w1")->saved);
    beat_held(5, "[{\"type\":null,\"reason\":\"no space\",\"untilMs\":9}]");
    assert_false(fleet_find(&fleet, "w1")->saved);
    assert_int_equal(slots_of("default").total, 0);
    beat_held(6, "[]");
    assert_int_equal(slots_of("default").total, 4);
}

static void test_slots(void **state)
{
    struct task t = running_task("w1", 5);
    struct beat_run run = {.task = t.id, .attempt = 1, .token = 5};
    struct offers_slots slots;

    (void)state;
    slots = slots_of("default");
    assert_int_equal(slots.total, 0);
    fleet_grant(&fleet, &t, 0);
    beat("w1", 1, 2, 10, &run, 1, NULL, 0);
    beat("w2", 1, 1, 10, NULL, 0, NULL, 0);
    slots = slots_of("default");
    assert_int_equal(slots.total, 8);
    assert_int_equal(slots.available, 6);
    assert_int_equal(slots.largest, 4);
    assert_int_equal(slots.smallest, 4);
    assert_int_equal(slots.workers, 2);
    slots = slots_of("gpu");
    assert_int_equal(slots.total, 0);
    fleet_release(&fleet, &t.id);
    slots = slots_of("default");
    assert_int_equal(slots.available, 8);
    task_done(&t);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_silence),
        T(test_a_slow_beat_is_no_silence),
        T(test_a_worker_that_adapts_is_dead_in_time),
        T(test_the_slowest_that_does_not_adapt),
        T(test_task_with_a_lease_of_its_own),
        T(test_claimed_again),
        T(test_frozen_reaper),
        T(test_most_are_silent),
        T(test_an_earlier_leader_may_renew),
        T(test_evidence_beside_an_earlier_leader),
        T(test_few_are_silent),
        T(test_follower),
        T(test_hearsay),
        T(test_hearsay_ends_with_silence),
        T(test_what_is_told_is_bounded),
        T(test_a_large_cluster_is_served),
        T(test_pools_are_bounded),
        T(test_types_are_bounded),
        T(test_leases_of_one_that_is_not_served),
        T(test_workers_are_bounded),
        T(test_most_come_back),
        T(test_orders),
        T(test_one_that_does_not_take_it_now),
        T(test_one_that_holds_off),
        T(test_one_that_did_not_say_what),
        T(test_forgotten),
        T(test_a_lease_is_data),
        T(test_a_lease_is_told_by_its_worker),
        T(test_another_directory_is_another_worker),
        T(test_what_another_directory_left_runs_out),
        T(test_a_refused_one_that_stops),
        T(test_a_restart_is_believed),
        T(test_numbers_out_of_nowhere),
        T(test_a_number_that_is_used_again),
        T(test_a_number_out_of_nowhere_is_taken_at_last),
        T(test_a_worker_gets_its_uuid),
        T(test_a_grant_without_uuid),
        T(test_namesakes_are_bounded),
        T(test_unknown_until_heard),
        T(test_missing_from_a_beat),
        T(test_restart),
        T(test_strangers),
        T(test_what_was_given_up_is_not_renewed),
        T(test_application_is_told_once),
        T(test_application_is_told_later),
        T(test_slots),
        T(test_a_worker_that_holds_off),
    };

    pools = json_pack("[s]", "default");
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(pools);
    return rc;
}
