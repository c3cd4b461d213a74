/* Logs: in one piece, in many, and followed, over a fake manager. */
#include "tests/unit/fake_manager.h"

#define ID "0190a8c0-0000-7000-8000-000000000001"

int config_patch(const struct config *c, const json_t *patch, struct config **ret,
                 struct err *reterr)
{
    (void)c;
    *ret = NULL;
    return json_object_get(patch, "bad") ? err_set(reterr, ERR_INVALID, "bad: unknown key") : 0;
}

void config_freep(struct config **c)
{
    (void)c;
}

void config_json(const struct config *c, struct buf *out)
{
    buf_addf(out, "{\"port\":%d}", c->api.port);
}

/* The body of a chunked answer, put together. */
static char text[2 * 1024 * 1024];

static const char *dechunked(void)
{
    static const char digits[] = "0123456789abcdef";
    const char *p = body();
    size_t len = 0;
    size_t n = 1;

    while (*p && n) {
        for (n = 0; *p != '\r'; p++) {
            n = n * 16 + (size_t)(strchr(digits, *p | 0x20) - digits);
        }
        memcpy(text + len, p + 2, n);
        len += n;
        p += 2 + n + 2;
    }
    text[len] = '\0';
    return text;
}

static bool has_header(const char *line)
{
    return strcasestr(answer, line) != NULL;
}

static void test_whole(void **state)
{
    (void)state;
    fake.logs[1] = "hello, world";
    get("/task/" ID "/log");
    assert_int_equal(status(), 200);
    assert_string_equal(body(), "hello, world");
    assert_true(has_header("\r\nContent-Type: text/plain; charset=utf-8\r\n"));
    assert_true(has_header("\r\nX-Log-Size: 12\r\n"));
    assert_true(has_header("\r\nX-Log-Offset: 0\r\n"));
    assert_true(has_header("\r\nX-Log-Attempt: 1\r\n"));
    assert_string_equal(fake.name, "stdout");
    get("/task/" ID "/log?stream=stderr");
    assert_string_equal(fake.name, "stderr");
}

static void test_parts(void **state)
{
    (void)state;
    fake.logs[1] = "hello, world";
    fake.logs[2] = "second";
    get("/task/" ID "/log?offset=7");
    assert_string_equal(body(), "");
    get("/task/" ID "/log?offset=7&attempt=1");
    assert_string_equal(body(), "world");
    assert_true(has_header("\r\nX-Log-Offset: 7\r\n"));
    get("/task/" ID "/log?offset=7&limit=2&attempt=1");
    assert_string_equal(body(), "wo");
    assert_true(has_header("\r\nX-Log-Size: 12\r\n"));
    get("/task/" ID "/log?offset=-3&attempt=1");
    assert_string_equal(body(), "rld");
    assert_true(has_header("\r\nX-Log-Offset: 9\r\n"));
    get("/task/" ID "/log?offset=100&attempt=1");
    assert_int_equal(status(), 200);
    assert_string_equal(body(), "");
    get("/task/" ID "/log?attempt=3");
    assert_int_equal(status(), 200);
    assert_true(has_header("\r\nX-Log-Size: 0\r\n"));
}

static void test_bad_arguments(void **state)
{
    static const char *const names[] = {"stream", "offset", "limit", "attempt", "follow"};
    static const char *const bad[] = {
        "stream=stdin", "offset=x",   "limit=0",  "attempt=0",           "follow=yes",
        "stream=",      "offset=1.5", "limit=-1", "attempt=99999999999", "follow=TRUE",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char target[128];

        snprintf(target, sizeof(target), "/task/" ID "/log?%s", bad[i]);
        get(target);
        assert_field(422, names[i % 5]);
    }
    assert_int_equal(fake.n_logs, 0);
}

static void test_errors(void **state)
{
    static const struct {
        int rc;
        int status;
    } cases[] = {{ERR_NOT_FOUND, 404}, {ERR_GONE, 410}, {ERR_TIMEOUT, 504}, {ERR_MQ_DOWN, 503}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        fake.rc = cases[i].rc;
        get("/task/" ID "/log?follow=true");
        assert_problem(cases[i].status);
    }
}

/* Larger than one question may ask for: the answer streams, and asks as the client reads. */
static void test_long(void **state)
{
    size_t size = 1000000;
    char *log CLEANUP(freep) = xmalloc(size + 1);

    (void)state;
    for (size_t i = 0; i < size; i++) {
        log[i] = (char)('a' + i % 23);
    }
    fake.logs[1] = log;
    get("/task/" ID "/log");
    assert_true(has_header("\r\nX-Log-Size: 1000000\r\n"));
    assert_string_equal(dechunked(), log);
    assert_true(fake.n_logs >= 4);
    get("/task/" ID "/log?offset=1&limit=500000");
    assert_int_equal(strlen(dechunked()), 500000);
    assert_memory_equal(text, log + 1, 500000);
}

/* One run of bytes that begins at X-Log-Offset: it ends at the gap. */
static void test_gap(void **state)
{
    (void)state;
    fake.logs[1] = "headxxxxxtail";
    fake.log_dropped = 5;
    get("/task/" ID "/log");
    assert_string_equal(dechunked(), "head");
    get("/task/" ID "/log?offset=4");
    assert_true(has_header("\r\nX-Log-Offset: 9\r\n"));
    assert_string_equal(body(), "tail");
    fake.log_ended = true;
    get("/task/" ID "/log?follow=true&attempt=1");
    assert_string_equal(dechunked(), "head\n[5 bytes dropped]\ntail");
}

static bool one_held(void)
{
    return fake_held() == 1;
}

static bool asked_more(void)
{
    return fake.n_logs >= 3 && fake_held() == 1;
}

static void test_follow(void **state)
{
    int fd = client();

    (void)state;
    fake.log_hold = true;
    fake.logs[1] = "one\n";
    fake.task.state = TASK_RUNNING;
    send_text(fd, "GET /task/" ID "/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_held); /* has "one", waits for more */
    fake.logs[1] = "one\ntwo\n";
    fake_release();
    run_until(asked_more);
    /* Nothing for a while: a pause, in which the task fails and is to be tried again. */
    fake.hold = true;
    fake.log_ended = true;
    fake_release();
    assert_int_equal(fake_held(), 1);
    fake.task.state = TASK_SCHEDULED;
    fake.task.attempt = 2;
    fake.logs[2] = "three\n";
    fake.hold = fake.log_hold = false;
    fake.task.state = TASK_SUCCEEDED;
    fake_release();
    receive(fd);
    assert_string_equal(dechunked(), "one\ntwo\nthree\n");
    assert_true(has_header("\r\nX-Log-Size: 4\r\n"));
    close(fd);
}

static void test_follow_before_the_start(void **state)
{
    int fd = client();

    (void)state;
    fake.log_hold = true;
    fake.hold = true;
    send_text(fd, "GET /task/" ID "/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_held); /* the first question */
    fake_release();
    assert_int_equal(fake_held(), 1); /* nothing yet: a pause */
    fake.logs[1] = "go\n";
    fake.log_ended = true;
    fake.hold = fake.log_hold = false;
    fake.task.state = TASK_SUCCEEDED;
    fake_release();
    receive(fd);
    assert_string_equal(dechunked(), "go\n");
    close(fd);
}

static void test_follow_of_a_task_that_never_ran(void **state)
{
    (void)state;
    fake.log_ended = true;
    fake.task.state = TASK_CANCELLED;
    get("/task/" ID "/log?follow=true");
    assert_int_equal(status(), 200);
    assert_string_equal(dechunked(), "");
}

static void test_follow_survives_a_lost_worker(void **state)
{
    int fd = client();

    (void)state;
    fake.log_hold = true;
    fake.logs[1] = "one\n";
    send_text(fd, "GET /task/" ID "/log?follow=true&attempt=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_held);
    fake.rc = ERR_TIMEOUT;
    fake.hold = true;
    fake_release(); /* the question fails; a pause */
    assert_int_equal(fake_held(), 1);
    fake.rc = 0;
    fake.hold = fake.log_hold = false;
    fake.logs[1] = "one\ntwo\n";
    fake.log_ended = true;
    fake_release();
    receive(fd);
    assert_string_equal(dechunked(), "one\ntwo\n");
    close(fd);
}

static bool streaming_over(void)
{
    uv_run(&loop, UV_RUN_NOWAIT);
    return fake_held() == 0;
}

static void test_client_leaves_while_following(void **state)
{
    int fd = client();

    (void)state;
    fake.log_hold = true;
    fake.logs[1] = "one\n";
    send_text(fd, "GET /task/" ID "/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_held);
    close(fd);
    for (int i = 0; i < 300; i++) {
        turn(-1);
    }
    fake_release();
    assert_true(streaming_over());
    assert_int_equal(fake.n_logs, 2);
}

static void test_stop_while_following(void **state)
{
    int fd = client();

    (void)state;
    fake.log_hold = true;
    fake.logs[1] = "one\n";
    send_text(fd, "GET /task/" ID "/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_held);
    api_end();
    receive_until(fd, never);
    assert_true(closed);
    assert_non_null(strstr(answer, "one\n"));
    close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, api_setup, api_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_whole),
        T(test_parts),
        T(test_bad_arguments),
        T(test_errors),
        T(test_long),
        T(test_gap),
        T(test_follow),
        T(test_follow_before_the_start),
        T(test_follow_of_a_task_that_never_ran),
        T(test_follow_survives_a_lost_worker),
        T(test_client_leaves_while_following),
        T(test_stop_while_following),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
