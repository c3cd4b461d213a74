/* What managers take from workers: bounds. */
#include "pkg/manager/messages.h"

#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define TASK "01890000-0000-7000-8000-000000000001"

static void read_result(const char *more, struct message *m)
{
    char *text CLEANUP(freep) = xasprintf(
        "{\"v\":1,\"type\":\"results\",\"worker\":\"w\",\"inc\":1,\"reply\":\"q\",\"results\":["
        "{\"task\":\"" TASK "\",\"attempt\":1,\"token\":\"1\",\"outcome\":\"succeeded\"%s}]}",
        more);

    assert_int_equal(message_read(str_of(text), m, NULL), 0);
}

static void test_a_start_time_that_no_column_holds_is_unknown(void **state)
{
    static const char *const absurd[] = {"9223372036854775807", "-9223372036854775807", "-1",
                                         "253402300800000"};
    struct message m;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(absurd); i++) {
        char *more CLEANUP(freep) = xasprintf(",\"startedAtMs\":%s", absurd[i]);

        read_result(more, &m);
        assert_true(m.results.results[0].started_at == INT64_MIN);
        message_free(&m);
    }
    read_result(",\"startedAtMs\":1700000000000", &m);
    assert_true(m.results.results[0].started_at == 1700000000000);
    message_free(&m);
}

static void test_a_warning_with_a_result(void **state)
{
    struct message m;

    (void)state;
    read_result("", &m);
    assert_null(m.results.results[0].warning);
    message_free(&m);
    read_result(",\"warning\":\"not kept\"", &m);
    assert_string_equal(m.results.results[0].warning, "not kept");
    message_free(&m);
}

static void test_what_is_ready_and_what_it_needs(void **state)
{
    char pool[] = "p";
    char type[] = "a \"b\"";
    struct task row = {.pool = pool, .job_type = type, .rank = -7, .slots = 2, .memory_mb = 300};
    struct buf body CLEANUP(buf_free) = {0};
    struct message m;

    (void)state;
    buf_init(&body, MESSAGE_MAX);
    ready_write(&body, &row, true);
    assert_int_equal(message_read((struct str){body.data, body.len}, &m, NULL), 0);
    assert_string_equal(m.pool, "p");
    assert_true(m.rank == -7);
    assert_string_equal(m.need.type, row.job_type);
    assert_int_equal(m.need.room.slots, 2);
    assert_int_equal(m.need.room.cpus_milli, 0);
    assert_int_equal(m.need.room.memory_mb, 300);
    message_free(&m);
    /* As earlier versions say it. */
    buf_reset(&body);
    ready_write(&body, &row, false);
    assert_int_equal(message_read((struct str){body.data, body.len}, &m, NULL), 0);
    assert_null(m.need.type);
    message_free(&m);
}

static void test_the_largest_hint_is_written_whole(void **state)
{
    struct hint_task tasks[HINT_TASKS];
    char reply[256];
    char type[TYPE_MAX + 1];
    char id[HINT_ID_LEN];
    json_t *j = NULL;

    (void)state;
    memset(reply, 'q', sizeof(reply) - 1);
    reply[sizeof(reply) - 1] = 0;
    memset(type, 1, sizeof(type) - 1); /* each takes six bytes */
    type[sizeof(type) - 1] = 0;
    for (size_t n = 1; n <= 16; n += 15) {
        for (size_t i = 0; i < n; i++) {
            tasks[i] = (struct hint_task){.attempt = INT32_MAX,
                                          .rank = INT64_MIN,
                                          .need = {type, {INT32_MAX, INT32_MAX, INT32_MAX}}};
        }
        struct buf body CLEANUP(buf_free) = {0};
        buf_init(&body, HINT_MAX);
        hint_write(&body, id, tasks, n, reply, INT_MAX);
        assert_true(n == 1 || n * hint_task_size(&tasks[0]) >
                                  HINT_MAX - HINT_HEAD_SIZE - hint_task_size(&tasks[0]));
        assert_true(body.len <= n * hint_task_size(&tasks[0]) + HINT_HEAD_SIZE);
        assert_string_equal(id, "00000000-0000-0000-0000-000000000000:2147483647");
        assert_int_equal(json_read(body.data, body.len, &j, NULL), 0);
        assert_string_equal(json_get_string(j, "reply"), reply);
        const json_t *list = json_object_get(j, "tasks");
        assert_int_equal(json_array_size(list), n);
        const json_t *last = json_array_get(list, n - 1);
        assert_int_equal(json_get_int(last, "attempt", 0), INT32_MAX);
        assert_int_equal(json_get_int(last, "slots", 0), INT32_MAX);
        assert_true(json_get_int(last, "rank", 0) == INT64_MIN);
        assert_string_equal(json_get_string(last, "type"), type);
        assert_int_equal(json_get_int(last, "cpusMilli", 0), INT32_MAX);
        assert_int_equal(json_get_int(last, "memoryMb", 0), INT32_MAX);
        json_decref(j);
    }
}

static int read_beat(int running, struct message *m)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 16 << 20);
    buf_adds(&b, "{\"v\":1,\"type\":\"beat\",\"worker\":\"w\",\"inc\":1,\"beat\":1,"
                 "\"reply\":\"q\",\"running\":[");
    for (int i = 0; i < running; i++) {
        buf_adds(&b, i ? "," : "");
        buf_adds(&b, "{\"task\":\"" TASK "\",\"attempt\":2147483647,\"token\":\"1\"}");
    }
    buf_adds(&b, "]}");
    assert_false(b.failed);
    return message_read((struct str){b.data, b.len}, m, NULL);
}

/* Every entry may come back in the answer, which has a limit. */
static void test_what_a_beat_lists_fits_into_its_answer(void **state)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct message m;

    (void)state;
    assert_int_equal(read_beat(BEAT_RUNS_MAX, &m), 0);
    struct task_ref *refs CLEANUP(freep) = xcalloc(BEAT_RUNS_MAX, sizeof(*refs));
    for (size_t i = 0; i < m.beat.n_running; i++) {
        refs[i] = (struct task_ref){m.running[i].task, m.running[i].attempt};
    }
    buf_init(&b, BEAT_ACK_MAX - ENTRIES_MAX * 80 - 512); /* the cancels, the head */
    refs_write(&b, refs, m.beat.n_running);
    assert_false(b.failed);
    message_free(&m);
    assert_true(read_beat(BEAT_RUNS_MAX + 1, &m) < 0);
    message_free(&m);
}

static char *text_of(size_t n)
{
    char *text = xmalloc(n + 1);

    memset(text, 'x', n);
    return text;
}

/* With everything about them: the limit of a body is above that. */
static void test_a_beat_of_a_thousand_attempts(void **state)
{
    char *url CLEANUP(freep) = text_of(512);
    char *app CLEANUP(freep) = text_of(200);
    struct buf b CLEANUP(buf_free) = {0};
    struct message m;

    (void)state;
    buf_init(&b, 16 << 20);
    buf_adds(&b, "{\"v\":1,\"type\":\"beat\",\"worker\":\"w\",\"inc\":1,\"beat\":1,"
                 "\"reply\":\"q\",\"running\":[");
    for (int i = 0; i < 1000; i++) {
        buf_addf(&b,
                 "%s{\"task\":\"" TASK "\",\"attempt\":1,\"token\":\"9223372036854775807\","
                 "\"phase\":\"running\",\"applicationId\":\"%s\",\"uiUrl\":\"%s\","
                 "\"progress\":{\"done\":3,\"total\":8,\"text\":\"stage 2 of 3\"}}",
                 i ? "," : "", app, url);
    }
    buf_adds(&b, "]}");
    assert_int_equal(message_read((struct str){b.data, b.len}, &m, NULL), 0);
    assert_int_equal(m.beat.n_running, 1000);
    assert_string_equal(m.running[999].ui_url, url);
    assert_string_equal(m.running[999].phase, "running");
    assert_non_null(m.running[999].progress);
    message_free(&m);
}

static void test_a_body_has_a_limit(void **state)
{
    static const char log[] = "{\"v\":1,\"type\":\"log\",\"rid\":1}\n";
    char *body CLEANUP(freep) = text_of(TAKEN_MAX + 1);
    struct message m;

    (void)state;
    memset(body, ' ', TAKEN_MAX);
    assert_int_equal(message_read((struct str){body, TAKEN_MAX + 1}, &m, NULL), ERR_TOO_LARGE);
    message_free(&m);
    /* And as much again behind a header line. */
    memcpy(body, log, strlen(log));
    assert_int_equal(message_read((struct str){body, TAKEN_MAX + 1}, &m, NULL), 0);
    message_free(&m);
    char *longer CLEANUP(freep) = xasprintf("%s%s", body, body);
    assert_int_equal(message_read(str_of(longer), &m, NULL), ERR_TOO_LARGE);
    message_free(&m);
}

static void read_described(const char *format, size_t n, struct message *m)
{
    char *big CLEANUP(freep) = text_of(n);
    char *more CLEANUP(freep) = NULL;
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, 1 << 20);
    for (const char *p = format; *p; p++) {
        if (*p == '@') {
            buf_adds(&b, big);
        } else {
            buf_addc(&b, *p);
        }
    }
    more = xasprintf("{\"v\":1,\"type\":\"beat\",\"worker\":\"w\",\"inc\":1,\"beat\":1,"
                     "\"reply\":\"q\",%s}",
                     b.data);
    assert_int_equal(message_read(str_of(more), m, NULL), 0);
}

static void test_what_only_describes_is_left_out_where_absurd(void **state)
{
    static const char beat[] =
        "\"host\":\"@\",\"version\":\"@\",\"startedAt\":9223372036854775807,\"pid\":-7,"
        "\"cpus\":99999999999,\"memoryMb\":-1,\"slots\":99999999999,"
        "\"pools\":[\"good\",\"@\",\"Bad\",\"../x\",7,\"\",\"-a\",\"also-good\"],"
        "\"jobTypes\":[\"@\",\"Noop\",null],"
        "\"running\":[{\"task\":\"" TASK "\",\"attempt\":1,\"token\":\"1\",\"phase\":\"@\","
        "\"applicationId\":\"@\",\"uiUrl\":\"@\",\"progress\":{\"text\":\"@\"}}]";
    struct message m;

    (void)state;
    read_described(beat, 5000, &m);
    assert_string_equal(m.beat.host, "");
    assert_null(m.beat.version);
    assert_true(m.beat.started_at == INT64_MIN);
    assert_true(m.beat.pid >= 0 && m.beat.memory_mb == 0 && m.beat.cpus > 0 && m.beat.slots > 0);
    assert_int_equal(json_array_size(m.beat.pools), 2);
    assert_string_equal(json_string_value(json_array_get(m.beat.pools, 0)), "good");
    assert_string_equal(json_string_value(json_array_get(m.beat.pools, 1)), "also-good");
    assert_int_equal(json_array_size(m.beat.job_types), 1);
    assert_int_equal(m.beat.n_running, 1); /* the lease is renewed all the same */
    assert_null(m.running[0].phase);
    assert_null(m.running[0].application_id);
    assert_null(m.running[0].ui_url);
    assert_null(m.running[0].progress);
    message_free(&m);
    read_described("\"host\":\"@\",\"version\":\"@\"", 10, &m);
    assert_string_equal(m.beat.host, "xxxxxxxxxx");
    assert_string_equal(m.beat.version, "xxxxxxxxxx");
    message_free(&m);
}

static void check_hold_off(const char *member, const char *expected)
{
    struct message m CLEANUP(message_free) = {0};
    char *text CLEANUP(freep) =
        xasprintf("{\"v\":1,\"type\":\"beat\",\"worker\":\"w\",\"inc\":1,\"beat\":1,"
                  "\"reply\":\"sje.worker.w.1\"%s}",
                  member);

    assert_int_equal(message_read(str_of(text), &m, NULL), 0);
    char *got CLEANUP(freep) = m.beat.hold_off ? json_text(m.beat.hold_off) : xstrdup("none");
    assert_string_equal(got, expected);
}

static void test_what_a_worker_holds_off(void **state)
{
    (void)state;
    check_hold_off("", "none");
    check_hold_off(",\"holdOff\":[]", "none");
    check_hold_off(",\"holdOff\":\"no space left for work\"", "none"); /* an earlier version */
    check_hold_off(
        ",\"holdOff\":[{\"type\":\"A\",\"reason\":\"r\",\"untilMs\":7,\"x\":[1]},7,"
        "{\"type\":null,\"reason\":\"s\"},{\"type\":1,\"reason\":\"r\"},{\"type\":\"A\"},"
        "{\"type\":\"A\",\"reason\":\"r\",\"untilMs\":\"soon\"}]",
        "[{\"type\":\"A\",\"reason\":\"r\",\"untilMs\":7},{\"type\":null,\"reason\":\"s\"}]");
}

/* Managers keep it for each worker. */
static void test_what_is_held_off_is_bounded(void **state)
{
    struct buf b CLEANUP(buf_free) = {0};
    struct message m CLEANUP(message_free) = {0};

    (void)state;
    buf_init(&b, 1 << 20);
    buf_adds(&b, "{\"v\":1,\"type\":\"beat\",\"worker\":\"w\",\"inc\":1,\"beat\":1,"
                 "\"reply\":\"sje.worker.w.1\",\"holdOff\":[");
    for (int i = 0; i < 256; i++) {
        buf_addf(&b, "%s{\"type\":%s,\"reason\":\"%0300d\"}", i ? "," : "", i ? "\"T\"" : "null",
                 i);
    }
    buf_adds(&b, "]}");
    assert_int_equal(message_read((struct str){b.data, b.len}, &m, NULL), 0);
    assert_in_range(json_array_size(m.beat.hold_off), 10, 30);
    assert_true(json_is_null(json_object_get(json_array_get(m.beat.hold_off, 0), "type")));
}

static void test_a_result_is_bounded(void **state)
{
    char *big CLEANUP(freep) = text_of(100000);
    char *more CLEANUP(freep) =
        xasprintf(",\"applicationId\":\"%s\",\"progress\":{\"text\":\"%s\"},"
                  "\"error\":{\"message\":\"%s\"}",
                  big, big, big);
    struct message m;

    (void)state;
    read_result(more, &m);
    assert_null(m.results.results[0].application_id);
    assert_null(m.results.results[0].progress);
    assert_null(m.results.results[0].error);
    message_free(&m);
}

static void test_an_answer_says_for_whom_it_is(void **state)
{
    struct id uuid;
    struct buf b CLEANUP(buf_free) = {0};

    (void)state;
    assert_true(id_parse(TASK, strlen(TASK), &uuid));
    struct who who = who_of("w", &uuid, 1);
    struct who old = who_of("w", NULL, 1);
    buf_init(&b, 4096);
    grants_begin(&b, "m", "http://m", &who);
    assert_string_equal(b.data, "{\"v\":1,\"type\":\"grants\",\"manager\":\"m\",\"url\":"
                                "\"http://m\",\"uuid\":\"" TASK "\",\"grants\":[");
    buf_reset(&b);
    answer_begin(&b, "outdated", "m", "", &old);
    assert_string_equal(b.data, "{\"v\":1,\"type\":\"outdated\",\"manager\":\"m\",\"uuid\":null");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_ready_and_what_it_needs),
        cmocka_unit_test(test_the_largest_hint_is_written_whole),
        cmocka_unit_test(test_a_start_time_that_no_column_holds_is_unknown),
        cmocka_unit_test(test_a_warning_with_a_result),
        cmocka_unit_test(test_what_a_beat_lists_fits_into_its_answer),
        cmocka_unit_test(test_a_beat_of_a_thousand_attempts),
        cmocka_unit_test(test_a_body_has_a_limit),
        cmocka_unit_test(test_what_only_describes_is_left_out_where_absurd),
        cmocka_unit_test(test_what_a_worker_holds_off),
        cmocka_unit_test(test_what_is_held_off_is_bounded),
        cmocka_unit_test(test_a_result_is_bounded),
        cmocka_unit_test(test_an_answer_says_for_whom_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
