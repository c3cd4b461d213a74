/* The server is driven by raw sockets in the same loop, so that everything a client may send, and
 * every way of sending it, can be tried. */
#include "internal/http.h"

#include "internal/clock.h"
#include "internal/metrics.h"

#include "tests/unit/http_client.h"

#define MAX_BODY  100000
#define TIMEOUT_S 5
#define LARGE     (8 * 1024 * 1024) /* more than the kernel takes */

static struct http *server;
static struct http_request *held[1024]; /* what the handler kept */
static int n_held;
static int n_gone;
static int n_drained;

/* ---- the application under test ---- */

static void on_gone(void *arg, struct http_request *r)
{
    (void)arg;
    (void)r;
    n_gone++;
}

static void on_drain(void *arg, struct http_request *r)
{
    (void)arg;
    (void)r;
    n_drained++;
}

static void add_arg(void *arg, const char *name, const char *value)
{
    buf_addf(arg, " %s=%s", name, value);
}

static void echo(struct http_request *r)
{
    static const struct http_field fields[] = {{"X-Test", "yes"}};
    struct buf b CLEANUP(buf_free);
    const char *header = http_header(r, "x-echo");

    buf_init(&b, 2 * MAX_BODY);
    buf_addf(&b, "%s %s", http_method(r), http_path(r));
    http_query_each(r, add_arg, &b);
    buf_addf(&b, " %s [", header ? header : "-");
    buf_add(&b, http_body(r).p, http_body(r).len);
    buf_addc(&b, ']');
    http_reply(r, 200, "text/plain", (struct str){b.data, b.len}, fields, 1);
}

static void handler(void *arg, struct http_request *r)
{
    (void)arg;
    if (streq(http_path(r), "/wait")) {
        if (!http_hold(r, HTTP_WAITS)) {
            http_problem(r, HTTP_TOO_MANY, "too many", NULL, 0, NULL, NULL, 0);
            return;
        }
        held[n_held++] = r;
        return;
    }
    if (streq(http_path(r), "/large")) {
        static char large[LARGE];

        memset(large, 'x', sizeof(large));
        http_reply(r, 200, "text/plain", (struct str){large, sizeof(large)}, NULL, 0);
        return;
    }
    if (streq(http_path(r), "/hold") || streq(http_path(r), "/stream")) {
        http_on_gone(r, on_gone, NULL);
        held[n_held++] = r;
    }
    if (streq(http_path(r), "/stream")) {
        http_stream_on_drain(r, on_drain, NULL);
        http_stream_start(r, 200, "text/plain", NULL, 0);
    } else if (!streq(http_path(r), "/hold")) {
        echo(r);
    }
}

static void on_closed(void *arg)
{
    (void)arg;
    loop_over = true;
}

static struct http_options options(void)
{
    return (struct http_options){.bind = "127.0.0.1",
                                 .port = 0,
                                 .max_body = MAX_BODY,
                                 .max_connections = 8,
                                 .timeout_s = TIMEOUT_S,
                                 .handler = handler};
}

static int open_server(const struct http_options *options)
{
    struct http_options o = *options;
    struct err why;

    client_address = 0;
    metrics_reset();
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(http_open(&loop, &o, &server, &why), 0);
    loop_over = false;
    client_port = http_port(server);
    n_held = n_gone = n_drained = 0;
    return 0;
}

static int setup(void **state)
{
    struct http_options o = options();

    (void)state;
    return open_server(&o);
}

static int setup_answers(void **state)
{
    struct http_options o = options();

    (void)state;
    o.share[HTTP_ANSWERS] = 2 * LARGE;
    return open_server(&o);
}

/* One client can have two connections, one body of the largest, one wait. */
static int setup_shares(void **state)
{
    struct http_options o = options();

    (void)state;
    o.share[HTTP_CONNECTIONS] = 2;
    o.share[HTTP_BODIES] = MAX_BODY;
    o.share[HTTP_WAITS] = 1;
    return open_server(&o);
}

static void close_server(void)
{
    http_close(server, on_closed, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(loop_over);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static int teardown(void **state)
{
    (void)state;
    if (!loop_over) {
        close_server();
    }
    metrics_reset();
    return 0;
}

static int held_wanted;

static bool wanted_held(void)
{
    return n_held == held_wanted;
}

static void run_until_held(int n)
{
    held_wanted = n;
    run_until(wanted_held);
}

static bool one_gone(void)
{
    return n_gone == 1;
}

/* ---- tests ---- */

static void test_request(void **state)
{
    (void)state;
    exchange("GET /a%20b/?x=1&y=%26 HTTP/1.1\r\nHost: h\r\nX-Echo: E\r\n\r\n");
    assert_int_equal(status(), 200);
    assert_string_equal(body(), "GET /a b/ x=1 y=& E []");
    assert_non_null(strstr(answer, "X-Test: yes\r\n"));
    assert_non_null(strstr(answer, "Content-Type: text/plain\r\n"));
    exchange("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    assert_string_equal(body(), "POST /p - [hello]");
    exchange("POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
             "3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nTrailer: x\r\n\r\n");
    assert_string_equal(body(), "POST /p - [hello]");
    exchange("DELETE http://h/d HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_string_equal(body(), "DELETE /d - []");
    exchange("PROPFIND /d HTTP/1.0\r\n\r\n");
    assert_string_equal(body(), "PROPFIND /d - []");
    assert_true(metric_value(METRIC_http_answers, "200") == 5);
}

static bool answer_to_get(void)
{
    return strstr(answer, "[]") != NULL;
}

static void test_head_has_no_body(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "HEAD /h HTTP/1.1\r\nHost: h\r\n\r\nGET /h HTTP/1.1\r\nHost: h\r\n\r\n");
    receive_until(fd, answer_to_get);
    assert_non_null(strstr(answer, "Content-Length: 11\r\n"));
    assert_int_equal(strncmp(body(), "HTTP/1.1 200", 12), 0);
    close(fd);
}

/* Byte by byte, and several requests in one packet. */
static void test_pieces_and_pipelining(void **state)
{
    static const char one[] = "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    static const char three[] = "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
                                "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"
                                "GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    int fd = client();

    (void)state;
    for (size_t i = 0; one[i]; i++) {
        send_all(fd, &one[i], 1);
    }
    receive(fd);
    assert_string_equal(body(), "POST /1 - [abc]");
    send_text(fd, three);
    receive_until(fd, never);
    assert_non_null(strstr(answer, "POST /1 - [abc]HTTP/1.1 200"));
    assert_non_null(strstr(answer, "GET /2 - []HTTP/1.1 200"));
    assert_non_null(strstr(answer, "GET /3 - []"));
    assert_true(closed);
    close(fd);
}

/* libmicrohttpd 0.9.75 then shows a piece of no bytes, which is not the end of the request. */
static void test_expect_without_body_pipelined(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "GET /1 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n"
                  "GET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    receive_until(fd, never);
    assert_non_null(strstr(answer, "HTTP/1.1 100 Continue\r\n"));
    assert_non_null(strstr(answer, "GET /1 - []"));
    assert_non_null(strstr(answer, "GET /2 - []"));
    close(fd);
}

static void test_bad_heads(void **state)
{
    static const struct {
        int status;
        const char *text;
    } cases[] = {
        {400, "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n"},
        {400, "GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n"},
        {400, "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"},
        {400, "GET x HTTP/1.1\r\nHost: h\r\n\r\n"},
        {400, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"},
        {400, "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: h\r\nBad Name: x\r\n\r\n"},
        {400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc"},
        {400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"},
        {400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"},
        {400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"
              "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"},
        {501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
        {413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\n\r\nabc"},
        {413, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
              "Content-Length: 9223372036854775807\r\n\r\n"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        exchange(cases[i].text);
        assert_problem(cases[i].status);
    }
}

/* What libmicrohttpd refuses by itself: the status counts, and that we live on. */
static void test_bad_heads_of_the_library(void **state)
{
    static const struct {
        int status; /* 0: closed without an answer */
        const char *text;
    } cases[] = {
        {400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"},
        {400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc"},
        {413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n"},
        {400, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"},
        {413, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
              "fffffffffffffffff\r\n"},
        {400, "GET / HTTP/1.1\r\nno colon\r\n\r\n"},
        {505, "GET / HTTP/3.0\r\nHost: h\r\n\r\n"},
        {0, "\x16\x03\x01\r\n\r\n"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        exchange(cases[i].text);
        assert_int_equal(status(), cases[i].status);
    }
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
}

static void test_large_heads(void **state)
{
    static const size_t sizes[] = {30000, 36000, 60000, 1000000};
    struct buf b CLEANUP(buf_free);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        buf_init(&b, 2000000);
        buf_adds(&b, "GET / HTTP/1.1\r\nHost: h\r\nX: ");
        while (b.len < sizes[i]) {
            buf_adds(&b, "aaaaaaaaaa");
        }
        buf_adds(&b, "\r\n\r\n");
        exchange(b.data);
        assert_int_equal(status(), i == 0 ? 200 : 431);
        if (i == 1) {
            assert_problem(431);
        }
        buf_free(&b);
    }
    /* Endless small headers. */
    buf_adds(&b, "GET / HTTP/1.1\r\nHost: h\r\n");
    for (int i = 0; i < 20000; i++) {
        buf_adds(&b, "A: b\r\n");
    }
    exchange(b.data);
    assert_int_equal(status(), 431);
}

static void test_large_bodies(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 10000000);
    buf_addf(&b, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", MAX_BODY);
    for (int i = 0; i < MAX_BODY; i++) {
        buf_addc(&b, 'x');
    }
    exchange(b.data);
    assert_int_equal(status(), 200);
    assert_int_equal(strlen(body()), strlen("POST / - []") + MAX_BODY);

    /* Much more than fits into the sockets' buffers: the answer must not be lost by a reset. */
    buf_reset(&b);
    buf_adds(&b, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n");
    while (b.len < 9000000) {
        buf_adds(&b, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    }
    exchange(b.data);
    assert_problem(413);

    buf_reset(&b);
    buf_adds(&b, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    while (b.len < 9000000) {
        buf_adds(&b, "40\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n");
    }
    exchange(b.data);
    assert_problem(413);
}

static void test_held_requests_do_not_block_others(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "POST /hold HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    run_until_held(1);
    exchange("GET /other HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
    assert_string_equal(http_method(held[0]), "POST");
    assert_int_equal(http_body(held[0]).len, 2);
    assert_true(metric_value(METRIC_http_requests_open, NULL) == 1);
    http_reply(held[0], 202, NULL, STR("{}"), NULL, 0);
    receive(fd);
    assert_int_equal(status(), 202);
    assert_non_null(strstr(answer, "Content-Type: application/json\r\n"));
    assert_true(metric_value(METRIC_http_requests_open, NULL) == 0);
    /* The connection lives on. */
    send_text(fd, "GET /again HTTP/1.1\r\nHost: h\r\n\r\n");
    receive(fd);
    assert_string_equal(body(), "GET /again - []");
    close(fd);
}

static void test_problem(void **state)
{
    static const struct http_field errors[] = {{"tasks[7].jobType", "is \"odd\""}, {"b", "c"}};
    int fd = client();

    (void)state;
    send_text(fd, "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    http_problem(held[0], 503, "some\nwhere", errors, 2, ",\"more\":1", NULL, 0);
    receive(fd);
    assert_problem(503);
    assert_non_null(strstr(answer, "\r\nRetry-After: 2\r\n"));
    assert_string_equal(
        body(), "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,"
                "\"detail\":\"some\\nwhere\",\"errors\":[{\"field\":\"tasks[7].jobType\","
                "\"message\":\"is \\\"odd\\\"\"},{\"field\":\"b\",\"message\":\"c\"}],"
                "\"more\":1}");
    close(fd);
}

static void test_client_hangs_up_while_held(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    close(fd);
    run_until(one_gone);
    http_reply(held[0], 200, NULL, STR("{}"), NULL, 0);
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
}

static void test_stream(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    assert_true(http_stream_write(held[0], "one", 3));
    for (int i = 0; i < 20; i++) {
        turn(fd);
    }
    assert_int_equal(http_stream_pending(held[0]), 0);
    assert_true(n_drained >= 1);
    assert_true(http_stream_write(held[0], "two", 3));
    http_stream_end(held[0]);
    receive(fd);
    assert_int_equal(status(), 200);
    assert_non_null(strstr(answer, "Transfer-Encoding: chunked\r\n"));
    assert_string_equal(body(), "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    send_text(fd, "GET /again HTTP/1.1\r\nHost: h\r\n\r\n");
    receive(fd);
    assert_string_equal(body(), "GET /again - []");
    close(fd);
}

static void test_stream_to_http10_and_head(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "GET /stream HTTP/1.0\r\n\r\n");
    run_until_held(1);
    assert_true(http_stream_write(held[0], "one", 3));
    http_stream_end(held[0]);
    receive_until(fd, never);
    assert_true(closed);
    assert_string_equal(body(), "one");
    close(fd);

    n_held = 0;
    fd = client();
    send_text(fd, "HEAD /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    run_until(one_gone);
    assert_false(http_stream_write(held[0], "one", 3));
    http_stream_end(held[0]);
    close(fd);
}

static void test_stream_ends_with_its_client(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    close(fd);
    run_until(one_gone);
    assert_false(http_stream_write(held[0], "x", 1));
    http_stream_end(held[0]);
}

static void test_stream_to_slow_reader_is_bounded(void **state)
{
    static char block[65536];
    int fd = client();
    size_t written = 0;

    (void)state;
    send_text(fd, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    while (http_stream_write(held[0], block, sizeof(block))) {
        written += sizeof(block);
        assert_true(written < 64 * 1024 * 1024);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    http_stream_end(held[0]);
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
    close(fd);
}

static void test_connection_limit(void **state)
{
    int idle[20];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        idle[i] = client();
        send_text(idle[i], "GET"); /* a head that never ends */
    }
    /* Over the limit of 8, the longest idle ones had to go; whoever asks is served. */
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
    assert_true(metric_value(METRIC_http_connections, NULL) <= 8);
    assert_true(metric_value(METRIC_http_refused, "limit") >= 12);
    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        close(idle[i]);
    }
}

static void test_all_connections_busy(void **state)
{
    int fd[8];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        fd[i] = client();
        send_text(fd[i], "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
        run_until_held((int)i + 1);
    }
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 0);
    assert_true(closed);
    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        http_reply(held[i], 200, NULL, STR("{}"), NULL, 0);
        receive(fd[i]);
        assert_int_equal(status(), 200);
        close(fd[i]);
    }
}

#define OTHER (INADDR_LOOPBACK + 1)

/* All its connections are busy: it is told; others are served, and so is it, later. */
static void test_connections_of_a_client(void **state)
{
    int fd[2];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        fd[i] = client();
        send_text(fd[i], "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
        run_until_held((int)i + 1);
    }
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_problem(429);
    assert_non_null(strcasestr(answer, "\r\nRetry-After: "));
    assert_true(closed || strcasestr(answer, "\r\nConnection: close"));
    assert_true(metric_value(METRIC_http_refused, "connections of a client") >= 1);
    client_address = OTHER;
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
    client_address = 0;
    http_reply(held[0], 200, NULL, STR("{}"), NULL, 0);
    receive(fd[0]); /* idle now: it gives way */
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
    http_reply(held[1], 200, NULL, STR("{}"), NULL, 0);
    receive(fd[1]);
    assert_int_equal(status(), 200);
    close(fd[0]);
    close(fd[1]);
}

static void test_bodies_of_a_client(void **state)
{
    static const char most[] = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\nx";
    int fd = client();

    (void)state;
    send_text(fd, most);
    send_text(fd,
              "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
    exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\nx");
    assert_problem(429);
    exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    assert_int_equal(status(), 200);
    client_address = OTHER;
    int other = client();
    send_text(other, most);
    receive_until(other, never);
    assert_int_equal(answer_len, 0); /* let in */
    close(fd);
    close(other);
}

/* A client that reads nothing; its answer waits. */
static int ask_large(void)
{
    int fd = client();

    send_text(fd, "GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    for (int i = 0; i < 20; i++) {
        turn(fd);
    }
    return fd;
}

/* What nobody reads is bounded, for each client and in all; who reads, or asks for little, is
 * served, and a change is told in any case. */
static void test_answers_that_nobody_reads(void **state)
{
    int fd[4];

    (void)state;
    fd[0] = ask_large();
    fd[1] = ask_large();
    exchange("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_problem(429);
    assert_non_null(strcasestr(answer, "\r\nRetry-After: "));
    assert_true(metric_value(METRIC_http_refused, "answers of a client") == 1);
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
    exchange("POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
    assert_int_equal(status(), 200);
    client_address = OTHER;
    fd[2] = ask_large();
    fd[3] = ask_large();
    client_address = OTHER + 1;
    exchange("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_problem(503);
    assert_true(metric_value(METRIC_http_refused, "answers") == 1);
    for (int i = 0; i < 4; i++) {
        close(fd[i]);
    }
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    for (int i = 0; i < 20; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    int again = ask_large();
    receive(again);
    assert_int_equal(status(), 200);
    close(again);
}

static void test_waits_of_a_client(void **state)
{
    int fd = client();

    (void)state;
    send_text(fd, "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    exchange("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_problem(429);
    client_address = OTHER;
    int other = client();
    send_text(other, "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(2);
    for (int i = 0; i < 2; i++) {
        http_reply(held[i], 200, NULL, STR("{}"), NULL, 0);
    }
    receive(fd);
    assert_int_equal(status(), 200);
    client_address = 0;
    int again = client();
    send_text(again, "GET /wait HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(3); /* it has what it gave back */
    http_reply(held[2], 200, NULL, STR("{}"), NULL, 0);
    receive(again);
    close(fd);
    close(other);
    close(again);
}

/* One byte a second keeps MHD's own time limit from biting; ours does. The time is virtual, the
 * sweep happens once a real second. */
static void test_slow_clients_are_cut(void **state)
{
    int head = client();
    int slow_body = client();
    int waiting = client();

    (void)state;
    clock_virtual_set(1000000, 1700000000000);
    send_text(head, "GET / HTTP/1.1\r\nX");
    send_text(slow_body, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab");
    send_text(waiting, "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    clock_virtual_advance(3 * TIMEOUT_S * 1000);
    send_text(head, "x");
    send_text(slow_body, "c");
    receive_until(head, never);
    assert_true(closed && answer_len == 0);
    receive_until(slow_body, never);
    assert_true(closed && answer_len == 0);
    http_reply(held[0], 200, NULL, STR("{}"), NULL, 0);
    receive(waiting);
    assert_int_equal(status(), 200);
    close(head);
    close(slow_body);
    close(waiting);
}

static void test_close_answers_what_waits(void **state)
{
    int idle = client();
    int held_fd = client();
    int stream_fd = client();

    (void)state;
    send_text(held_fd, "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(1);
    send_text(stream_fd, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    run_until_held(2);
    assert_true(http_stream_write(held[1], "x", 1));
    close_server();
    receive(held_fd);
    assert_problem(503);
    assert_non_null(strstr(answer, "Connection: close\r\n"));
    receive_until(stream_fd, never);
    assert_true(closed);
    receive_until(idle, never);
    assert_true(closed && answer_len == 0);
    /* The owners come later: no harm. */
    assert_null(http_header(held[0], "Host"));
    http_reply(held[0], 200, NULL, STR("late"), NULL, 0);
    assert_false(http_stream_write(held[1], "late", 4));
    http_stream_end(held[1]);
    close(idle);
    close(held_fd);
    close(stream_fd);
}

static uint64_t seed = 88172645463325252u;

static size_t chance(size_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed % n);
}

static void settle(struct http_request *r)
{
    if (streq(http_path(r), "/stream")) {
        http_stream_write(r, "x", chance(2));
        http_stream_end(r);
    } else {
        http_reply(r, 200, NULL, STR("{}"), NULL, 0);
    }
}

/* Damaged requests, cut anywhere, hung up at any time: whatever is answered, we live on. */
static void test_damaged_requests(void **state)
{
    static const char *const good[] = {
        "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n\r\n",
        "GET /stream?x=%41&y HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n folded\r\n\r\n",
        "GET /hold HTTP/1.1\r\nHost: h\r\nCookie: a=b; c=\"d\"\r\nConnection: close, x\r\n\r\n",
    };
    static const char spice[] = "\0\r\n \t:;,%/?&=\"\x80\xff"
                                "0Zz";

    (void)state;
    for (int round = 0; round < 400; round++) {
        char text[1024];
        size_t n = 0;
        int fd = client();

        for (size_t copies = 1 + chance(2); copies; copies--) {
            const char *g = good[chance(ARRAY_LEN(good))];

            memcpy(text + n, g, strlen(g));
            n += strlen(g);
        }
        for (size_t hits = chance(6); hits; hits--) {
            text[chance(n)] = spice[chance(sizeof(spice))];
        }
        for (size_t at = 0; at < n;) {
            size_t piece = 1 + chance(n - at);

            send_all(fd, text + at, piece);
            at += piece;
        }
        if (chance(2)) {
            turn(fd);
        }
        close(fd);
        while (n_held && chance(3)) {
            settle(held[--n_held]);
        }
    }
    while (n_held) {
        settle(held[--n_held]);
    }
    exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_int_equal(status(), 200);
}

static void test_cannot_listen(void **state)
{
    struct http_options o = options();
    struct http *second = NULL;
    struct err why;

    (void)state;
    o.port = http_port(server);
    assert_int_equal(http_open(&loop, &o, &second, &why), ERR_IO);
    assert_non_null(strstr(why.text, "127.0.0.1 port "));
    assert_non_null(strstr(why.text, "Address already in use"));
    o.bind = "not an address";
    assert_int_equal(http_open(&loop, &o, &second, &why), ERR_IO);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_request),
        T(test_head_has_no_body),
        T(test_pieces_and_pipelining),
        T(test_expect_without_body_pipelined),
        T(test_bad_heads),
        T(test_bad_heads_of_the_library),
        T(test_large_heads),
        T(test_large_bodies),
        T(test_held_requests_do_not_block_others),
        T(test_problem),
        T(test_client_hangs_up_while_held),
        T(test_stream),
        T(test_stream_to_http10_and_head),
        T(test_stream_ends_with_its_client),
        T(test_stream_to_slow_reader_is_bounded),
        T(test_connection_limit),
        cmocka_unit_test_setup_teardown(test_connections_of_a_client, setup_shares, teardown),
        cmocka_unit_test_setup_teardown(test_bodies_of_a_client, setup_shares, teardown),
        cmocka_unit_test_setup_teardown(test_waits_of_a_client, setup_shares, teardown),
        cmocka_unit_test_setup_teardown(test_answers_that_nobody_reads, setup_answers, teardown),
        T(test_all_connections_busy),
        T(test_damaged_requests),
        T(test_cannot_listen),
        T(test_close_answers_what_waits),
        T(test_slow_clients_are_cut), /* last: the clock stays virtual */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
