/* http_client.h: raw HTTP over blocking calls in the server's own loop, for tests. */
#ifndef SJE_TEST_HTTP_CLIENT_H
#define SJE_TEST_HTTP_CLIENT_H

#include "internal/json.h"
#include "internal/str.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include <cmocka.h>

static uv_loop_t loop;
static int client_port;
static bool loop_over;

static uint32_t client_address; /* host order; 0: whatever the kernel takes */

static inline int client(void)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {htonl(client_address)}};
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)client_port),
                            .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    if (client_address) {
        assert_int_equal(bind(fd, (struct sockaddr *)&own, sizeof(own)), 0);
    }
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static inline void turn(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (!loop_over) {
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    poll(&p, 1, 1);
}

static inline void send_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0 && errno != EAGAIN) {
            return; /* the server has closed: what it answered is looked at */
        }
        p += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
        turn(fd);
    }
}

static inline void send_text(int fd, const char *text)
{
    send_all(fd, text, strlen(text));
}

static char answer[4 * 1024 * 1024];
static size_t answer_len;
static bool closed; /* by the server, after `answer` */

/* Reads until `end` says so, the server closes, or nothing has come for two seconds. */
static inline void receive_until(int fd, bool (*end)(void))
{
    int idle = 0;

    answer_len = 0;
    closed = false;
    while (!closed && idle < 2000 && !(answer_len && end())) {
        ssize_t n = recv(fd, answer + answer_len, sizeof(answer) - 1 - answer_len, MSG_DONTWAIT);

        closed = n == 0 || (n < 0 && errno != EAGAIN);
        answer_len += n > 0 ? (size_t)n : 0;
        answer[answer_len] = '\0';
        idle = n > 0 ? 0 : idle + 1;
        turn(fd);
    }
}

static inline size_t number(const char *p)
{
    int64_t n = 0;

    assert_true(str_to_i64((struct str){p, strspn(p, "0123456789")}, 0, INT64_MAX, &n));
    return (size_t)n;
}

static inline bool one_answer(void)
{
    const char *body = strstr(answer, "\r\n\r\n");
    const char *length = strcasestr(answer, "\r\nContent-Length: ");

    if (!body) {
        return false;
    }
    body += 4;
    return length ? answer_len - (size_t)(body - answer) >= number(length + 18)
                  : strstr(body, "\r\n0\r\n\r\n") || strncmp(body, "0\r\n\r\n", 5) == 0;
}

static inline bool never(void)
{
    return false;
}

static inline void receive(int fd)
{
    receive_until(fd, one_answer);
}

static inline int status(void)
{
    return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? (int)number(answer + 9) : 0;
}

static inline const char *body(void)
{
    const char *p = strstr(answer, "\r\n\r\n");

    return p ? p + 4 : "";
}

/* One request on a connection of its own. */
static inline void exchange(const char *text)
{
    int fd = client();

    send_text(fd, text);
    receive(fd);
    close(fd);
}

static inline void assert_problem(int code)
{
    json_auto_t *j = NULL;

    assert_int_equal(status(), code);
    assert_non_null(strstr(answer, "Content-Type: application/problem+json\r\n"));
    assert_int_equal(json_read(body(), strlen(body()), &j, NULL), 0);
    assert_int_equal(json_get_int(j, "status", 0), code);
    assert_true(*json_get_string(j, "title") && *json_get_string(j, "detail"));
    assert_true(json_is_array(json_object_get(j, "errors")));
}

static inline void run_until(bool (*done)(void))
{
    for (int i = 0; i < 3000 && !done(); i++) {
        turn(-1);
    }
    assert_true(done());
}

#endif
