/* Beats over HTTP to servers in the same loop that answer as managers do. */
#include "pkg/worker/detour.h"

#include "internal/clock.h"
#include "internal/http.h"
#include "internal/log.h"

#include "tests/unit/http_client.h"

#include <sys/stat.h>

#define SERVERS 3
#define PACE_MS 5000

static struct http *servers[SERVERS];
static int answers[SERVERS]; /* the status of each */
static int asked[SERVERS];
static struct http_request *held;
static bool hold;
static char last[256]; /* body that a server got */
static char heard[256];
static int n_heard;
static char authorization[64];
static const char *token;
static char dir[64];
static struct detour *detour;
static bool detour_closed;

static void handler(void *arg, struct http_request *r)
{
    int i = (int)((int *)arg - answers);

    const char *shown = http_header(r, "Authorization");

    assert_string_equal(http_path(r), "/internal/beat");
    snprintf(authorization, sizeof(authorization), "%s", shown ? shown : "");
    asked[i]++;
    snprintf(last, sizeof(last), "%.*s", (int)http_body(r).len, http_body(r).p);
    if (hold) {
        held = r;
    } else if (answers[i] == 200) {
        http_reply(r, 200, NULL, http_body(r), NULL, 0);
    } else {
        http_problem(r, answers[i], "no", NULL, 0, NULL, NULL, 0);
    }
}

static bool on_answer(void *arg, struct str text)
{
    assert_ptr_equal(arg, &detour);
    if (str_eq(text, STR("junk"))) {
        return false;
    }
    snprintf(heard, sizeof(heard), "%.*s", (int)text.len, text.p);
    n_heard++;
    return true;
}

static void on_closed(void *arg)
{
    (void)arg;
    detour_closed = true;
}

static char *url_of(int i)
{
    return xasprintf("http://127.0.0.1:%d", http_port(servers[i]));
}

static struct lane lane;

static void open_detour(const char *urls)
{
    lane_init(&lane, &loop);
    struct detour_options o = {.lane = &lane,
                               .urls = urls,
                               .dir = dir,
                               .token = token,
                               .arg = &detour,
                               .on_answer = on_answer};

    detour = detour_open(&loop, &o);
}

static void close_detour(void)
{
    detour_closed = false;
    detour_close(detour, on_closed, NULL);
    while (!detour_closed) {
        uv_run(&loop, UV_RUN_ONCE);
    }
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/sje-detour.XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(uv_loop_init(&loop), 0);
    for (int i = 0; i < SERVERS; i++) {
        struct http_options o = {.bind = "127.0.0.1",
                                 .max_body = 100000,
                                 .max_connections = 8,
                                 .timeout_s = 5,
                                 .handler = handler,
                                 .arg = &answers[i]};

        assert_int_equal(http_open(&loop, &o, &servers[i], NULL), 0);
        answers[i] = 200;
        asked[i] = 0;
    }
    held = NULL;
    hold = false;
    n_heard = 0;
    *heard = '\0';
    return 0;
}

static int teardown(void **state)
{
    char *file CLEANUP(freep) = xasprintf("%s/managers", dir);

    (void)state;
    close_detour();
    for (int i = 0; i < SERVERS; i++) {
        http_close(servers[i], NULL, NULL);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    unlink(file);
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static void await_heard(int n)
{
    while (n_heard < n) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(n_heard, n);
}

static void test_nobody_is_known(void **state)
{
    (void)state;
    open_detour("");
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), ERR_NOT_FOUND);
    detour_learn(detour, NULL);
    detour_learn(detour, "amqp://x");
    detour_learn(detour, "http://a\nhttp://b");
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), ERR_NOT_FOUND);
}

static void test_who_does_not_lead_is_left(void **state)
{
    char *a CLEANUP(freep) = url_of(0);
    char *c CLEANUP(freep) = url_of(1);
    char *list CLEANUP(freep) = xasprintf("http://127.0.0.1:1, %s/,%s", a, c);

    (void)state;
    open_detour(list);
    answers[0] = 503;
    assert_int_equal(detour_send(detour, STR("{\"n\":1}"), PACE_MS), 0);
    await_heard(1);
    assert_string_equal(heard, "{\"n\":1}");
    assert_true(asked[0] == 1 && asked[1] == 1);
    assert_int_equal(detour_send(detour, STR("{\"n\":2}"), PACE_MS), 0);
    await_heard(2);
    assert_true(asked[0] == 1 && asked[1] == 2); /* it keeps to who answered */
    answers[0] = 200;
    answers[1] = 503;
    assert_int_equal(detour_send(detour, STR("{\"n\":3}"), PACE_MS), 0);
    await_heard(3);
    assert_true(asked[0] == 2 && asked[1] == 3);
}

static bool asked_all(void)
{
    return asked[0] == 1 && asked[1] == 1;
}

static void test_nobody_leads(void **state)
{
    char *a CLEANUP(freep) = url_of(0);
    char *c CLEANUP(freep) = url_of(1);
    char *list CLEANUP(freep) = xasprintf("%s,%s", a, c);

    (void)state;
    open_detour(list);
    answers[0] = answers[1] = 503;
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    run_until(asked_all);
    for (int i = 0; i < 50; i++) {
        turn(-1);
    }
    assert_true(asked_all()); /* each once, no storm */
    answers[0] = 200;
    assert_int_equal(detour_send(detour, STR("2"), PACE_MS), 0);
    await_heard(1);
    assert_string_equal(heard, "2");
}

static bool is_held(void)
{
    return held;
}

static void test_the_token_is_shown(void **state)
{
    char *a CLEANUP(freep) = url_of(0);

    (void)state;
    token = "s3cret";
    open_detour(a);
    token = NULL;
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    await_heard(1);
    assert_string_equal(authorization, "Bearer s3cret");
}

static void test_the_newest_beat_waits(void **state)
{
    char *a CLEANUP(freep) = url_of(0);

    (void)state;
    open_detour(a);
    hold = true;
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    run_until(is_held);
    assert_int_equal(detour_send(detour, STR("2"), PACE_MS), 0);
    assert_int_equal(detour_send(detour, STR("3"), PACE_MS), 0);
    hold = false;
    http_reply(held, 200, NULL, STR("one"), NULL, 0);
    await_heard(2);
    assert_string_equal(heard, "3");
    assert_int_equal(asked[0], 2);
}

static void test_who_stands_still_is_left_after_a_beat(void **state)
{
    char *a CLEANUP(freep) = url_of(0);
    char *c CLEANUP(freep) = url_of(1);
    char *list CLEANUP(freep) = xasprintf("%s,%s", a, c);
    int64_t start = clock_boot_ms();

    (void)state;
    open_detour(list);
    hold = true;
    assert_int_equal(detour_send(detour, STR("1"), 300), 0);
    run_until(is_held);
    hold = false;
    await_heard(1);
    assert_true(asked[0] == 1 && asked[1] == 1);
    assert_true(clock_boot_ms() - start < 3000);
    http_reply(held, 200, NULL, STR("late"), NULL, 0);
}

/* Another program may listen where a manager was. */
static void test_who_is_no_manager_is_left(void **state)
{
    char *a CLEANUP(freep) = url_of(0);
    char *c CLEANUP(freep) = url_of(1);
    char *list CLEANUP(freep) = xasprintf("%s,%s", a, c);

    (void)state;
    open_detour(list);
    hold = true;
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    run_until(is_held);
    hold = false;
    http_reply(held, 200, NULL, STR("junk"), NULL, 0);
    await_heard(1);
    assert_string_equal(heard, "1");
    assert_true(asked[0] == 1 && asked[1] == 1);
}

/* The beat that came by the broker was first: no failure, nothing to be told. */
static void test_an_older_beat(void **state)
{
    char *a CLEANUP(freep) = url_of(0);
    char *c CLEANUP(freep) = url_of(1);
    char *list CLEANUP(freep) = xasprintf("%s,%s", a, c);

    (void)state;
    open_detour(list);
    answers[0] = 409;
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    assert_int_equal(detour_send(detour, STR("2"), PACE_MS), 0);
    while (asked[0] < 2) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(asked[1], 0);
}

static void test_what_was_learnt_is_kept(void **state)
{
    char *a CLEANUP(freep) = url_of(0);

    (void)state;
    open_detour("http://127.0.0.1:1");
    detour_learn(detour, a);
    detour_learn(detour, a);
    close_detour();
    open_detour("");
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    await_heard(1);
    assert_int_equal(asked[0], 1);
}

static void test_many_are_learnt(void **state)
{
    char *a CLEANUP(freep) = url_of(0);
    char *c CLEANUP(freep) = url_of(1);

    (void)state;
    open_detour(a);
    answers[0] = 503;
    for (int i = 0; i < 3 * DETOUR_URLS_MAX; i++) {
        char *url CLEANUP(freep) = xasprintf("http://127.0.0.1:%d", 1 + i);

        detour_learn(detour, url);
    }
    detour_learn(detour, c);
    assert_int_equal(detour_send(detour, STR("1"), PACE_MS), 0);
    await_heard(1);
    assert_true(asked[0] == 1 && asked[1] == 1); /* configured, and the last */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_nobody_is_known),
        T(test_who_does_not_lead_is_left),
        T(test_nobody_leads),
        T(test_the_token_is_shown),
        T(test_who_stands_still_is_left_after_a_beat),
        T(test_the_newest_beat_waits),
        T(test_who_is_no_manager_is_left),
        T(test_an_older_beat),
        T(test_what_was_learnt_is_kept),
        T(test_many_are_learnt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
