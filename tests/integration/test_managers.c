/* Two managers on one database and one broker: claims and results go to either. A leader that goes,
 * and connections that are cut between a COMMIT and its answer. */
#include "tests/integration/manager_bench.h"

#define AGAIN_NS 1000000000U /* claims and results are sent again after that */
#define BEAT_NS  500000000U
#define WORKS    2000
#define SLOTS    20

/* One attempt, as a worker has it: claims and results are repeated until they are answered. */
struct work {
    struct id task;
    int attempt;
    int64_t token; /* 0: not granted yet */
    bool over;     /* denied, applied or revoked */
    uint64_t sent;
};
static struct work works[WORKS];
static int n_works;
static int failing; /* attempts up to this one fail */
static bool slow;   /* no result is sent */
static uint64_t last_beat;

static struct work *work_get(const json_t *j)
{
    const char *text = json_get_string(j, "task");
    int attempt = (int)json_get_int(j, "attempt", 0);
    struct id id;

    assert_true(id_parse(text, strlen(text), &id));
    for (int i = 0; i < n_works; i++) {
        if (works[i].attempt == attempt && id_eq(&works[i].task, &id)) {
            return &works[i];
        }
    }
    assert_true(n_works < WORKS);
    works[n_works] = (struct work){.task = id, .attempt = attempt, .over = true};
    return &works[n_works++];
}

static char queues[2][96];

/* Of the leading one, and of the other. */
static void find_queue(struct manager *m, char queue[96])
{
    struct buf b CLEANUP(buf_free) = {0};
    json_t *j = NULL;

    buf_init(&b, 65536);
    manager_status(m, &b);
    assert_int_equal(json_read(b.data, b.len, &j, NULL), 0);
    const char *name = json_get_string(j, "managerId");
    assert_non_null(name);
    snprintf(queue, 96, "sje.manager.%s", name);
    json_decref(j);
}

static void work_send(struct work *k, uint64_t now)
{
    struct grant g = {k->task, k->attempt, k->token};

    k->sent = now;
    if (!k->token) {
        const char *const to[] = {queues[0], queues[1], ""};

        send_claim_to(to[random_u64() % ARRAY_LEN(to)], &k->task, k->attempt);
    } else if (slow) {
        return;
    } else if (k->attempt <= failing) {
        send_result(&g, "failed",
                    ",\"error\":{\"kind\":\"exit\",\"message\":\"no\",\"exitCode\":3}");
    } else {
        send_result(&g, "succeeded", ",\"output\":{\"n\":1}");
    }
}

static void works_over(const json_t *list)
{
    size_t i;
    json_t *j;

    json_array_foreach(list, i, j)
    {
        work_get(j)->over = true;
    }
}

static void heard(const char *type, const json_t *j)
{
    size_t i;
    json_t *g;

    if (streq(type, "hint")) {
        struct work *k = work_get(j);

        if (k->over && !k->token) {
            k->over = false;
            work_send(k, uv_hrtime());
        }
    }
    json_array_foreach(json_object_get(j, "grants"), i, g)
    {
        struct work *k = work_get(g);

        if (!k->over && !k->token) {
            assert_true(str_to_i64(str_of(json_get_string(g, "token")), 1, INT64_MAX, &k->token));
            work_send(k, uv_hrtime());
        }
    }
    works_over(json_object_get(j, "denies"));
    works_over(json_object_get(j, "revoke"));
    if (streq(type, "applied") || streq(type, "revoke")) {
        works_over(json_object_get(j, "tasks"));
    }
}

static void add_works(struct buf *b, const char *key, bool granted)
{
    bool first = true;

    buf_addf(b, ",\"%s\":[", key);
    for (int i = 0; i < n_works; i++) {
        const struct work *k = &works[i];
        char id[ID_TEXT_LEN];

        if (!k->over && granted == (k->token != 0)) {
            id_format(&k->task, id);
            buf_addf(b,
                     "%s{\"task\":\"%s\",\"attempt\":%d,\"token\":\"%lld\",\"phase\":\"running\"}",
                     first ? "" : ",", id, k->attempt, (long long)k->token);
            first = false;
        }
    }
    buf_addc(b, ']');
}

static void beat(void)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1 << 20);
    buf_addf(
        &b,
        "{\"v\":1,\"type\":\"beat\",\"worker\":\"%s\",\"inc\":%lld,\"beat\":%lld,\"host\":\"h\","
        "\"reply\":\"%s\",\"pools\":[\"%s\"],\"jobTypes\":[\"Noop\"],\"slots\":%d",
        w.name, (long long)w.inc, (long long)++w.beat, w.queue, w.pool, SLOTS);
    add_works(&b, "running", true);
    add_works(&b, "claiming", false);
    buf_addc(&b, '}');
    assert_false(b.failed);
    publish("sje.beat", "", b.data, false);
}

static void step(void)
{
    uint64_t now = uv_hrtime();

    if (!mq_is_up(w.pub)) {
        return;
    }
    if (now - last_beat > BEAT_NS) {
        last_beat = now;
        beat();
    }
    for (int i = 0; i < n_works; i++) {
        if (!works[i].over && now - works[i].sent > AGAIN_NS) {
            work_send(&works[i], now);
        }
    }
}

static void second_manager(void)
{
    struct err e = {0};
    bool up = false;

    n_works = failing = 0;
    slow = false;
    last_beat = 0;
    join(SLOTS);
    find_queue(manager, queues[0]);
    w.heard = heard;
    w.step = step;
    assert_int_equal(manager_start(&loop, config, &types, &other, &e), 0);
    while (!up) {
        struct buf b CLEANUP(buf_free) = {0};

        buf_init(&b, 65536);
        up = manager_health(other, &b);
        buf_reset(&b);
        up = up && manager_worker(other, w.name, &b, NULL) == 0 &&
             memmem(b.data, b.len, "\"UP\"", 4) != NULL; /* it has heard a beat */
        uv_run(&loop, UV_RUN_ONCE);
    }
    find_queue(other, queues[1]);
}

static void all_end_as(int n, enum task_state expected)
{
    for (int i = 0; i < n; i++) {
        assert_int_equal(final_of(&ids[i]), expected);
    }
}

/* Over everything in the database: no gap in the audit, one grant for each attempt, one end for
 * each grant, and the state that the last event says. */
static void audit_is_whole(void)
{
    run_sql(
        "select 1 / (case when exists (select 1 from (select t.id, t.seq, t.state, count(*) as n, "
        "max(e.seq) as last, count(*) filter (where e.event = 'granted') as granted, "
        "count(distinct e.attempt) filter (where e.event = 'granted') as attempts, "
        "count(*) filter (where e.from_state = 4 and e.to_state <> 4) as ended "
        "from task t join event e on e.task_id = t.id group by t.id) x where n <> seq or last <> "
        "seq "
        "or granted <> attempts or granted - ended <> (case when state = 4 then 1 else 0 end) "
        ") then 0 else 1 end)");
}

static int count_of(const char *word)
{
    int n = 0;

    for (const char *p = story; (p = strstr(p, word)); p += strlen(word)) {
        n++;
    }
    return n;
}

static void test_attempts_go_through_either_manager(void **state)
{
    (void)state;
    second_manager();
    failing = 2;
    submit(",\"maxAttempts\":3,\"retryBackoffSeconds\":0", 100, NULL, 0);
    all_end_as(100, TASK_SUCCEEDED);
    for (int i = 0; i < 100; i += 7) {
        story[0] = '\0';
        manager_events(other, &ids[i], on_events, NULL);
        AWAIT(*story);
        assert_int_equal(count_of("granted"), 3);
        assert_int_equal(count_of("retry"), 2);
        assert_int_equal(count_of("succeeded"), 1);
        assert_int_equal(count_of("lost"), 0);
    }
    audit_is_whole();
}

/* Who may publish it need not be a manager. A true one comes later over the same way. */
static void test_a_forged_cancel_changes_nothing(void **state)
{
    char text[ID_TEXT_LEN];

    (void)state;
    second_manager();
    slow = true;
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    id_format(&ids[0], text);
    char *forged CLEANUP(freep) = xasprintf(
        "{\"v\":1,\"type\":\"cancel\",\"tasks\":[{\"task\":\"%s\",\"attempt\":1}]}", text);
    for (int i = 0; i < 100; i++) {
        publish("sje.ctl", "", forged, false);
    }
    long long beat = w.beat;
    AWAIT(w.beat > beat + 2);
    assert_int_equal(w.cancels, 0);
    manager_cancel(other, &ids[0], on_task, NULL);
    AWAIT(w.cancels > 0);
    send_result(&w.grants[0], "cancelled", "");
    AWAIT(state_of(&ids[0]) == TASK_CANCELLED);
    slow = false;
}

static void test_cancel_and_wait_at_the_other_manager(void **state)
{
    (void)state;
    second_manager();
    slow = true;
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    seen_rc = 1;
    manager_cancel(other, &ids[0], on_task, NULL);
    AWAIT(seen_rc != 1 && w.cancels > 0);
    assert_int_equal(seen_rc, 0);
    seen_rc = 1;
    manager_wait(other, &ids[0], 50000, on_task, NULL);
    send_result(&w.grants[0], "cancelled", "");
    AWAIT(seen_rc != 1);
    assert_int_equal(seen.state, TASK_CANCELLED);
    seen_rc = 1;
    manager_requeue(other, &ids[0], on_task, NULL);
    AWAIT(seen_rc != 1);
    assert_int_equal(seen_rc, 0);
    AWAIT(w.n_grants == 2);
    assert_int_equal(w.grants[1].attempt, 2);
    assert_int_equal(state_of(&ids[0]), TASK_RUNNING);
    slow = false;
    assert_int_equal(final_of(&ids[0]), TASK_SUCCEEDED);
}

/* A manager that does not lead may not know the worker. */
static void test_the_leader_is_told_of_a_cancel(void **state)
{
    char text[ID_TEXT_LEN];
    struct buf b CLEANUP(buf_free) = {0};

    (void)state;
    second_manager();
    slow = true;
    submit("", 1, NULL, 0);
    AWAIT(w.n_grants == 1);
    /* As by another one, which is gone. */
    run_sql("with t as (update task set seq = seq + 1, cancel_requested = true where state = 4 "
            "returning id, seq, attempt) insert into event (task_id, seq, at, attempt, from_state, "
            "to_state, event) select id, seq, now(), attempt, 4, 4, 'cancelRequested' from t");
    id_format(&ids[0], text);
    buf_init(&b, 1000);
    buf_addf(&b, "{\"v\":1,\"type\":\"cancel\",\"tasks\":[{\"task\":\"%s\",\"attempt\":1}]}", text);
    while (w.cancels == 0) { /* until the leader has heard of the other one's grant */
        uint64_t until = uv_hrtime() + 200000000U;

        publish("sje.ctl", "", b.data, false);
        AWAIT(w.cancels > 0 || uv_hrtime() > until);
    }
    slow = false;
    assert_int_equal(final_of(&ids[0]), TASK_SUCCEEDED);
}

/* Whoever may publish can say that another one leads. */
static void test_a_forged_leader_changes_nothing(void **state)
{
    uint64_t until;

    (void)state;
    second_manager();
    AWAIT(w.beat_acks > 0);
    publish("sje.ctl", "", "{\"v\":1,\"type\":\"leader\",\"epoch\":4611686018427387904}", false);
    until = uv_hrtime() + BEAT_NS;
    AWAIT(uv_hrtime() > until); /* what was answered before it came */
    w.beat_acks = 0;
    AWAIT(w.beat_acks > 2);
}

/* Two of one name live; each manager has heard another one first. */
static void say_as(const char *queue, const char *uuid, const char *type, const char *more)
{
    char *text CLEANUP(freep) = xasprintf(
        "{\"v\":1,\"type\":\"%s\",\"worker\":\"twin-%s\",\"inc\":%lld,\"uuid\":\"%s\",\"beat\":1,"
        "\"reply\":\"%s\",%s}",
        type, w.pool, (long long)w.inc, uuid, w.queue, more);

    publish("", queue, text, false);
}

static void is_known(struct manager *m)
{
    char *name CLEANUP(freep) = xasprintf("twin-%s", w.pool);
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 65536);
    AWAIT((buf_reset(&b), manager_worker(m, name, &b, NULL)) == 0);
}

static void test_only_the_leader_refuses_a_worker(void **state)
{
    static const char *const first = "00000000-0000-4000-8000-000000000001";
    static const char *const second = "00000000-0000-4000-8000-000000000002";
    char task[ID_TEXT_LEN];

    (void)state;
    second_manager();
    w.heard = NULL; /* nothing is claimed but by the twins */
    char *beat_text CLEANUP(freep) =
        xasprintf("\"host\":\"h\",\"pools\":[\"%s\"],\"jobTypes\":[\"Noop\"],\"slots\":1,"
                  "\"running\":[],\"claiming\":[]",
                  w.pool);
    say_as(queues[0], first, "beat", beat_text);
    say_as(queues[1], second, "beat", beat_text);
    is_known(manager);
    is_known(other);
    submit("", 1, NULL, 0);
    id_format(&ids[0], task);
    char *claim_text CLEANUP(freep) =
        xasprintf("\"claims\":[{\"task\":\"%s\",\"attempt\":1}]", task);
    AWAIT(w.hints > 0);
    say_as(queues[0], second, "claim", claim_text);
    AWAIT(w.n_denies == 1);
    assert_string_equal(w.deny, "refused");
    say_as(queues[1], first, "claim", claim_text);
    AWAIT(w.n_grants == 1 || w.n_denies == 2);
    assert_int_equal(w.n_grants, 1);
}

static int refusals;

static void count_refusals(const char *type, const json_t *j)
{
    refusals += streq(type, "beat-ack") && json_is_object(json_object_get(j, "refused"));
}

/* The fifth is not known, and told all the same. */
static void test_too_many_of_one_name_are_told(void **state)
{
    (void)state;
    second_manager();
    refusals = 0;
    w.heard = count_refusals;
    for (int i = 1; i <= 5; i++) {
        char *uuid CLEANUP(freep) = xasprintf("00000000-0000-4000-8000-00000000001%d", i);

        say_as(queues[0], uuid, "beat",
               "\"host\":\"h\",\"slots\":1,\"running\":[],\"claiming\":[]");
    }
    AWAIT(refusals == 4);
}

static void test_a_leader_goes(void **state)
{
    (void)state;
    second_manager();
    submit("", 300, NULL, 0);
    AWAIT(w.applied > 50);
    stop(&manager);
    manager = STEAL(other);
    all_end_as(300, TASK_SUCCEEDED);
    audit_is_whole();
}

/* What was written although nobody heard of it is neither done twice nor forgotten. */
static void test_connections_are_cut(void **state)
{
    int cuts = 0;

    (void)state;
    second_manager();
    failing = 1;
    submit(",\"maxAttempts\":2,\"retryBackoffSeconds\":0", 300, NULL, 0);
    while (w.applied < 500 && cuts < 40) {
        int before = w.applied;
        uint64_t until = uv_hrtime() + 500000000U;

        AWAIT(w.applied > before + 5 || uv_hrtime() > until);
        run_sql("select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'sje-manager'");
        cuts++;
    }
    all_end_as(300, TASK_SUCCEEDED);
    audit_is_whole();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_attempts_go_through_either_manager),
        T(test_a_forged_cancel_changes_nothing),
        T(test_cancel_and_wait_at_the_other_manager),
        T(test_the_leader_is_told_of_a_cancel),
        T(test_a_forged_leader_changes_nothing),
        T(test_only_the_leader_refuses_a_worker),
        T(test_too_many_of_one_name_are_told),
        T(test_a_leader_goes),
        T(test_connections_are_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
