/* Calls to our own server, in the same loop, and to ports where nobody or nobody sensible listens.
 */
#include "internal/httpc.h"

#include "internal/http.h"

#include "tests/unit/http_client.h"

static struct http *server;
static struct httpc *httpc;
static struct http_request *held;
static int ended;
static int last_rc;
static int last_status;
static char last_body[8192];
static char last_why[256];
static bool close_in_callback;
static bool client_closed;

static void handler(void *arg, struct http_request *r)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *type = http_header(r, "content-type");

    (void)arg;
    if (streq(http_path(r), "/hold")) {
        held = r;
        return;
    }
    buf_init(&b, 65536);
    buf_addf(&b, "%s %s %s [", http_method(r), http_path(r), type ? type : "-");
    buf_add(&b, http_body(r).p, http_body(r).len);
    buf_addc(&b, ']');
    http_reply(r, streq(http_path(r), "/busy") ? 503 : 200, "text/plain",
               (struct str){b.data, b.len}, NULL, 0);
}

static void on_client_closed(void *arg)
{
    (void)arg;
    client_closed = true;
}

static void on_answer(void *arg, int rc, int code, struct str text, const struct err *why)
{
    assert_ptr_equal(arg, &ended);
    ended++;
    last_rc = rc;
    last_status = code;
    snprintf(last_body, sizeof(last_body), "%.*s", (int)text.len, text.p);
    snprintf(last_why, sizeof(last_why), "%s", why->text);
    if (close_in_callback) {
        httpc_close(STEAL(httpc), on_client_closed, NULL);
    }
}

static int setup(void **state)
{
    struct http_options o = {.bind = "127.0.0.1",
                             .max_body = 100000,
                             .max_connections = 8,
                             .timeout_s = 5,
                             .handler = handler};

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(http_open(&loop, &o, &server, NULL), 0);
    httpc = httpc_open(&loop);
    ended = 0;
    held = NULL;
    close_in_callback = client_closed = false;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (httpc) {
        httpc_close(STEAL(httpc), on_client_closed, NULL);
    }
    if (held) {
        http_reply(held, 200, NULL, STR("{}"), NULL, 0);
    }
    http_close(server, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(client_closed);
    assert_int_equal(uv_loop_close(&loop), 0);
    return 0;
}

static void call(int port, const char *path, const char *body_text, size_t max, int timeout)
{
    char *url CLEANUP(freep) = xasprintf("http://127.0.0.1:%d%s", port, path);
    struct httpc_request r = {.url = url,
                              .body = {body_text, body_text ? strlen(body_text) : 0},
                              .max = max,
                              .timeout_ms = timeout,
                              .fn = on_answer,
                              .arg = &ended};

    assert_int_equal(httpc_call(httpc, &r, NULL), 0);
}

static void await(int n)
{
    while (ended < n) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(ended, n);
}

static void test_answers(void **state)
{
    (void)state;
    call(http_port(server), "/a", NULL, 1000, 5000);
    assert_int_equal(ended, 0);
    await(1);
    assert_true(last_rc == 0 && last_status == 200);
    assert_string_equal(last_body, "GET /a - []");
    call(http_port(server), "/busy", "{}", 1000, 5000);
    await(2);
    assert_true(last_rc == 0 && last_status == 503);
    assert_string_equal(last_body, "POST /busy application/json [{}]");
}

static void test_many_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        call(http_port(server), "/x", "{\"n\":1}", 1000, 5000);
    }
    await(20);
    assert_int_equal(last_status, 200);
}

static void test_nobody_listens(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    /* Bound, not listening: the port is nobody else's. */
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    call(ntohs(a.sin_port), "/", NULL, 1000, 5000);
    await(1);
    close(fd);
    assert_int_equal(last_rc, ERR_IO);
    assert_int_equal(last_status, 0);
    assert_true(*last_why);
}

static void test_no_answer_in_time(void **state)
{
    (void)state;
    call(http_port(server), "/hold", NULL, 1000, 200);
    await(1);
    assert_int_equal(last_rc, ERR_TIMEOUT);
}

static void test_large_answer(void **state)
{
    char text[5000];

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    call(http_port(server), "/", text, 4000, 5000);
    await(1);
    assert_int_equal(last_rc, ERR_TOO_LARGE);
    call(http_port(server), "/", text, 6000, 5000);
    await(2);
    assert_int_equal(last_rc, 0);
}

static void test_wrong_address(void **state)
{
    static const char *const wrong[] = {"", "127.0.0.1:1", "file:///etc/passwd", "ftp://h/",
                                        "http:"};
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct httpc_request r = {
            .url = wrong[i], .max = 10, .timeout_ms = 1000, .fn = on_answer, .arg = &ended};

        assert_int_equal(httpc_call(httpc, &r, &e), ERR_INVALID);
    }
    assert_int_equal(ended, 0);
}

static bool is_held(void)
{
    return held;
}

static void test_close_with_a_call_under_way(void **state)
{
    (void)state;
    call(http_port(server), "/hold", NULL, 1000, 60000);
    call(http_port(server), "/a", NULL, 1000, 60000);
    run_until(is_held);
    int before = ended;
    httpc_close(STEAL(httpc), on_client_closed, NULL);
    while (!client_closed) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    assert_int_equal(ended, before);
}

static void test_close_in_a_callback(void **state)
{
    (void)state;
    call(http_port(server), "/hold", NULL, 1000, 60000);
    call(http_port(server), "/a", NULL, 1000, 60000);
    close_in_callback = true;
    await(1);
    assert_int_equal(last_status, 200);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_answers),
        T(test_many_at_once),
        T(test_nobody_listens),
        T(test_no_answer_in_time),
        T(test_large_answer),
        T(test_wrong_address),
        T(test_close_with_a_call_under_way),
        T(test_close_in_a_callback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
