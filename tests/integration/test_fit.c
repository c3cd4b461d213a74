/* Tasks go only to workers that they fit; hints that nobody claims; times that are kept. A second
 * worker beside the one of manager_bench.h, which offers Noop and Command. */
#include "tests/integration/manager_bench.h"

static struct {
    char name[32];
    char queue[96];
    int64_t beat;
    int hints;
    struct id hinted;
    bool ready;
} second;

static void on_second(void *arg, const struct mq_delivery *d)
{
    json_t *j = NULL;

    (void)arg;
    assert_int_equal(json_read(d->body.p, d->body.len, &j, NULL), 0);
    if (streq(json_get_string(j, "type"), "hint")) {
        const json_t *list = json_object_get(j, "tasks");
        const char *id = json_get_string(json_array_get(list, 0), "task");

        assert_int_equal(json_array_size(list), 1);
        assert_true(id_parse(id, strlen(id), &second.hinted));
        second.hints++;
    }
    json_decref(j);
}

static void on_second_ready(void *arg, int rc, const struct err *why, uint32_t n)
{
    (void)arg;
    (void)why;
    (void)n;
    second.ready = rc == 0;
}

/* Types as they stand in a beat. */
static void second_says(const char *offers, int slots, int memory)
{
    char text[1000];

    snprintf(text, sizeof(text),
             "{\"v\":1,\"type\":\"beat\",\"worker\":\"%s\",\"inc\":1,\"beat\":%lld,\"host\":\"h\","
             "\"pid\":1,\"reply\":\"%s\",\"startedAt\":1,\"pools\":[\"%s\"],\"jobTypes\":[%s],"
             "\"slots\":%d,\"free\":%d,\"cpus\":8,\"memoryMb\":%d,\"claiming\":[],\"running\":[]}",
             second.name, (long long)++second.beat, second.queue, w.pool, offers, slots, slots,
             memory);
    publish("sje.beat", "", text, false);
}

static void second_worker(void)
{
    memset(&second, 0, sizeof(second));
    snprintf(second.name, sizeof(second.name), "w2.%llx",
             (unsigned long long)(random_u64() & 0xffffff));
    snprintf(second.queue, sizeof(second.queue), "sje.worker.%s.1", second.name);
    assert_int_equal(mq_declare_queue(w.sub, second.queue, MQ_EXCLUSIVE, on_queue, NULL), 0);
    assert_int_equal(mq_consume(w.sub, second.queue, "second", true, on_second, NULL, NULL, NULL),
                     0);
    assert_int_equal(mq_declare_queue(w.sub, second.queue, MQ_EXCLUSIVE, on_second_ready, NULL), 0);
    AWAIT(second.ready);
}

/* As a client is told. "": nothing keeps it. */
static const char *code_of(const struct id *id)
{
    static struct waiting_for why;

    (void)state_of(id);
    return manager_waiting_for(manager, &seen, &why) ? why.code : "";
}

static void submit_as(const char *type, const char *more, int n)
{
    char *text CLEANUP(freep) =
        xasprintf("{\"jobType\":\"%s\",\"pool\":\"%s\"%s%s}", type, w.pool,
                  streq(type, "Command") ? ",\"command\":[\"true\"]" : "", more);
    n_ids = 0;
    accept_rc = 1;
    submit_text(text, n, NULL, 0, on_accepted, NULL);
    AWAIT(accept_rc != 1);
    assert_int_equal(accept_rc, 0);
}

static void one_beat_is_enough(void)
{
    config->node.heartbeat_seconds = 100;
    config->node.dead_after_seconds = 1000;
    manager_reconfigure(manager, config);
}

static void test_a_task_goes_to_the_worker_that_offers_its_type(void **state)
{
    (void)state;
    second_worker();
    submit_as("SparkApp", ",\"sparkAppPath\":\"/a.py\"", 1);
    struct id spark = ids[0];
    assert_string_equal(code_of(&spark), "noWorkerOfPool");
    join(4);
    AWAIT(streq(code_of(&spark), "noWorkerOffersType"));
    second_says("\"SparkApp\",\"Noop\"", 2, 1000);
    AWAIT(second.hints == 1);
    assert_true(id_eq(&second.hinted, &spark));
    submit_as("Command", "", 1);
    AWAIT(w.directed == 1);
    assert_true(id_eq(&w.hinted[0], &ids[0]));
    submit_as("Noop", "", 1);
    AWAIT(w.hints == 2); /* by a shared queue */
    assert_int_equal(w.directed, 1);
    assert_int_equal(second.hints, 1);
}

static void test_a_task_goes_to_a_worker_that_is_large_enough(void **state)
{
    struct waiting_for why;

    (void)state;
    second_worker();
    second_says("\"Noop\",\"Command\"", 100, 100);
    join(4);
    submit_as("Noop", ",\"resources\":{\"slots\":5}", 1);
    AWAIT(second.hints == 1);
    submit_as("Noop", ",\"resources\":{\"memoryMb\":1000}", 1);
    AWAIT(w.directed == 1);
    submit_as("Noop", ",\"resources\":{\"slots\":101,\"memoryMb\":200}", 1);
    AWAIT(streq(code_of(&ids[0]), "doesNotFit"));
    assert_true(manager_waiting_for(manager, &seen, &why));
    char *text CLEANUP(freep) = xasprintf("it needs 101 slots, 200 MiB; no worker has all of that, "
                                          "%s comes closest with 100 slots, 100 MiB",
                                          second.name);
    assert_string_equal(why.text, text);
    uint64_t until = uv_hrtime() + 300000000U;
    AWAIT(uv_hrtime() > until);
    assert_int_equal(state_of(&ids[0]), TASK_READY);
    second_says("\"Noop\",\"Command\"", 200, 200);
    AWAIT(id_eq(&second.hinted, &ids[0]));
    assert_int_equal(w.directed, 1);
}

/* The text, once it waits for that. */
static const char *text_of(const char *code)
{
    static struct waiting_for why;

    AWAIT(streq(code_of(&ids[0]), code));
    assert_true(manager_waiting_for(manager, &seen, &why));
    return why.text;
}

static void test_it_says_why_workers_do_not_take_it(void **state)
{
    char text[200];

    (void)state;
    one_beat_is_enough();
    second_worker();
    submit_as("SparkApp", ",\"sparkAppPath\":\"/a.py\",\"resources\":{\"memoryMb\":600}", 1);
    second_says("\"Noop\"],\"holdOff\":[{\"type\":\"SparkApp\",\"reason\":\"no Java\","
                "\"untilMs\":1}",
                4, 1000);
    snprintf(text, sizeof(text), "no worker of the pool %s offers SparkApp now; %s: no Java",
             w.pool, second.name);
    assert_string_equal(text_of("noWorkerOffersType"), text);
    second_says("],\"holdOff\":[{\"type\":null,\"reason\":\"the disk is full\",\"untilMs\":1}", 4,
                1000);
    snprintf(text, sizeof(text),
             "no worker that takes work serves the pool %s; %s: the disk is full", w.pool,
             second.name);
    assert_string_equal(text_of("noWorkerOfPool"), text);
    second_says("\"SparkApp\"],\"draining\":true,\"holdOff\":[", 4, 1000);
    snprintf(text, sizeof(text), "no worker that takes work serves the pool %s; %s: draining",
             w.pool, second.name);
    AWAIT(streq(text_of("noWorkerOfPool"), text));
    second_says("\"SparkApp\"", 4, 1000);
    AWAIT(second.hints == 1);
    submit_as("SparkApp", ",\"sparkAppPath\":\"/a.py\",\"resources\":{\"memoryMb\":600}", 1);
    snprintf(text, sizeof(text), "no worker has 600 MiB free now (%s: 600 of 1000 taken)",
             second.name);
    assert_string_equal(text_of("busy"), text);
}

static void twin_says(char uuid, const char *pool)
{
    char *text CLEANUP(freep) =
        xasprintf("{\"v\":1,\"type\":\"beat\",\"worker\":\"%s\",\"uuid\":\"00000000-0000-4000-8000-"
                  "00000000000%c\","
                  "\"inc\":1,\"beat\":1,\"host\":\"h\",\"pid\":1,\"reply\":\"%s\",\"startedAt\":1,"
                  "\"pools\":[\"%s\"],"
                  "\"jobTypes\":[\"Noop\"],\"slots\":1,\"free\":1,\"claiming\":[],\"running\":[]}",
                  second.name, uuid, second.queue, pool);

    publish("sje.beat", "", text, false);
}

static void test_a_refused_worker_is_named(void **state)
{
    char *elsewhere CLEANUP(freep) = xasprintf("%s-2", w.pool);
    char text[200];

    (void)state;
    one_beat_is_enough();
    second_worker();
    submit_as("Noop", "", 1);
    twin_says('1', elsewhere);
    twin_says('2', w.pool);
    snprintf(text, sizeof(text),
             "no worker that takes work serves the pool %s; %s: refused: another worker of its "
             "name lives",
             w.pool, second.name);
    AWAIT(streq(text_of("noWorkerOfPool"), text));
}

/* Many that fit nobody, before one that fits. */
static void test_what_fits_nobody_keeps_nothing_back(void **state)
{
    (void)state;
    submit_as("Noop", ",\"priority\":9,\"resources\":{\"slots\":50}", 2500);
    submit_as("Noop", ",\"priority\":0", 1);
    join(4);
    AWAIT(w.hints == 1);
    assert_true(id_eq(&w.hinted[0], &ids[0]));
}

/* Acked without a claim: as with a worker that was stopped and whose connection ended. */
static void test_a_lost_hint(void **state)
{
    uint64_t start;

    (void)state;
    one_beat_is_enough();
    join(4);
    submit("", 1, NULL, 0);
    AWAIT(w.hints == 1);
    start = uv_hrtime();
    w.answers = true;
    AWAIT(w.n_grants == 1);
    assert_int_equal(w.hints, 2);
    assert_true(uv_hrtime() - start < 5000000000U);
}

/* ---- times ---- */

#define CLOCKS_MS 50 /* managers estimate the clock of the database */

static int64_t lateness(int n)
{
    int64_t worst = 0;

    for (int i = 0; i < n; i++) {
        assert_int_equal(final_of(&ids[i]), TASK_SUCCEEDED);
        worst = MAX(worst, seen.started_at - seen.run_after);
        assert_true(seen.started_at >= seen.run_after - CLOCKS_MS);
    }
    return worst;
}

static void test_delays_are_kept(void **state)
{
    struct id all[20];
    struct err e = {0};

    (void)state;
    w.answers = w.succeeds = true;
    one_beat_is_enough();
    join(100);
    for (int i = 0; i < 20; i++) {
        char *more CLEANUP(freep) = xasprintf(",\"delaySeconds\":%.3f", 0.05 + i * 0.123);

        submit(more, 1, NULL, 0);
        all[i] = ids[0];
    }
    memcpy(ids, all, sizeof(all));
    int64_t late = lateness(20);
    print_message("delays: at most %lld ms late\n", (long long)late);
    assert_true(late < 600);
    /* Accepted by a manager that does not lead. */
    assert_int_equal(manager_start(&loop, config, &types, &other, &e), 0);
    struct manager *leading = manager;
    manager = other;
    for (bool up = false; !up;) {
        struct buf b CLEANUP(buf_free) = {0};

        buf_init(&b, 65536);
        up = manager_health(other, &b);
        uv_run(&loop, UV_RUN_ONCE);
    }
    for (int i = 0; i < 20; i++) {
        char *more CLEANUP(freep) = xasprintf(",\"delaySeconds\":%.3f", 0.2 + i * 0.083);

        submit(more, 1, NULL, 0);
        all[i] = ids[0];
    }
    manager = leading;
    memcpy(ids, all, sizeof(all));
    late = lateness(20);
    print_message("delays, told by another manager: at most %lld ms late\n", (long long)late);
    assert_true(late < 600);
}

static void test_queue_timeouts_are_kept(void **state)
{
    (void)state;
    submit(",\"queueTimeoutSeconds\":1", 10, NULL, 0);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(final_of(&ids[i]), TASK_FAILED);
        assert_non_null(strstr(seen.error, "; last: no worker that takes work serves the pool"));
        assert_true(seen.finished_at >= seen.queue_deadline);
        assert_true(seen.finished_at - seen.queue_deadline < 600);
    }
    submit(",\"delaySeconds\":5", 1, NULL, 0);
    assert_string_equal(code_of(&ids[0]), "notBefore");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_task_goes_to_the_worker_that_offers_its_type),
        T(test_a_task_goes_to_a_worker_that_is_large_enough),
        T(test_it_says_why_workers_do_not_take_it),
        T(test_a_refused_worker_is_named),
        T(test_what_fits_nobody_keeps_nothing_back),
        T(test_a_lost_hint),
        T(test_delays_are_kept),
        T(test_queue_timeouts_are_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
