/* load: tasks over HTTP, from one thread that waits for sockets.
 *
 *   load bulk PORT COUNT CONNECTIONS BATCH TASK   POST /tasks of BATCH; the next when one is
 * answered load single PORT COUNT CONNECTIONS TASK       POST /task, likewise load paced PORT COUNT
 * PER_SECOND TASK         POST /task at fixed times, answered or not; then waits for the outcome.
 * Times count from when it was due
 *
 * TASK is the JSON of a task. Each answer but 202 (200 for an outcome) ends the run. */
#include "internal/buf.h"
#include "internal/str.h"
#include "tests/bench/bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACED_CONNECTIONS 256
#define ANSWER_MAX        (64 << 20)
#define LIMIT_S           600

enum { IDLE, SUBMITTING, WAITING };

struct conn {
    int fd;
    int state;
    double began; /* wall time */
    struct buf out;
    size_t sent;
    struct buf in;
};

static struct {
    int port;
    int epoll;
    long count; /* requests in all */
    long begun;
    long ended;
    double rate; /* 0: as fast as it is answered */
    double start;
    struct buf request;
    struct conn *conns;
    int n;
    double *accepted; /* seconds, one per request */
    double *started;
    double *outcome;
    long n_accepted;
    long n_started;
} run;

/* ---- sockets ---- */

static void watch(struct conn *c, bool write)
{
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};

    MUST(epoll_ctl(run.epoll, EPOLL_CTL_MOD, c->fd, &e) == 0);
}

static void conn_open(struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)run.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        die("cannot connect: %s", strerror(errno));
    }
    MUST(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
    MUST(epoll_ctl(run.epoll, EPOLL_CTL_ADD, c->fd, &e) == 0);
    buf_init(&c->out, ANSWER_MAX);
    buf_init(&c->in, ANSWER_MAX);
}

static void conn_send(struct conn *c)
{
    while (c->sent < c->out.len) {
        ssize_t n =
            send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN) {
            watch(c, true);
            return;
        }
        if (n < 0) {
            die("sending: %s", strerror(errno));
        }
        c->sent += (size_t)n;
    }
    watch(c, false);
}

static void conn_request(struct conn *c, int state, const char *p, size_t n)
{
    c->state = state;
    c->sent = 0;
    buf_reset(&c->out);
    buf_add(&c->out, p, n);
    conn_send(c);
}

/* ---- answers ---- */

/* The text between `from` and the next quote or comma; empty where it is not there. */
static struct str after(const struct buf *b, const char *from)
{
    const char *p = strstr(b->data, from);

    if (!p) {
        return STR("");
    }
    p += strlen(from);
    return (struct str){p, strcspn(p, "\",\\")};
}

/* RFC 3339 with milliseconds, UTC. */
static double unix_time(struct str s)
{
    struct tm tm = {0};
    char text[32];

    snprintf(text, sizeof(text), "%.*s", (int)s.len, s.p);
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!rest) {
        die("not a time: %s", text);
    }
    return (double)timegm(&tm) + strtod(rest, NULL);
}

/* When the task began: what it said itself (tests/bench/stamp.c), else what the worker says. */
static double began(const struct buf *answer)
{
    struct str said = after(answer, "\"output\":\"");
    double t;

    return str_to_double(said, &t) ? t : unix_time(after(answer, "\"startedAt\":\""));
}

static void await_outcome(struct conn *c)
{
    struct str id = after(&c->in, "\"taskId\":\"");
    char text[160];
    int n =
        snprintf(text, sizeof(text), "GET /task/%.*s?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 (int)id.len, id.p);

    buf_reset(&c->in);
    conn_request(c, WAITING, text, (size_t)n);
}

static void answered(struct conn *c)
{
    double now = now_s(CLOCK_REALTIME);
    const char *want = c->state == WAITING ? " 200 " : " 202 ";

    if (!strstr(c->in.data, want) || strstr(c->in.data, want) > c->in.data + 10) {
        die("expected%s: %.400s", want, c->in.data);
    }
    if (c->state == SUBMITTING) {
        run.accepted[run.n_accepted++] = now - c->began;
        if (run.rate > 0) {
            await_outcome(c);
            return;
        }
    } else {
        if (!strstr(c->in.data, "\"SUCCEEDED\"")) {
            die("a task did not succeed: %s", c->in.data);
        }
        run.outcome[run.n_started] = now - c->began;
        run.started[run.n_started++] = MAX(began(&c->in) - c->began, 0.0);
    }
    buf_reset(&c->in);
    c->state = IDLE;
    run.ended++;
}

/* Whether a whole answer is there. */
static bool complete(const struct buf *in)
{
    const char *head = in->len ? strstr(in->data, "\r\n\r\n") : NULL;
    const char *length = in->len ? strcasestr(in->data, "\r\ncontent-length:") : NULL;

    return head && length && length < head &&
           in->len >= (size_t)(head + 4 - in->data) + strtoul(length + 17, NULL, 10);
}

static void conn_read(struct conn *c)
{
    for (;;) {
        char *room = buf_reserve(&c->in, 65536);
        ssize_t n = room ? recv(c->fd, room, 65536, MSG_DONTWAIT) : 0;

        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n <= 0 && c->state == IDLE) { /* idle for too long, says the server */
            close(c->fd);
            buf_free(&c->in);
            buf_free(&c->out);
            conn_open(c);
            return;
        }
        if (n <= 0) {
            die("a connection was closed");
        }
        buf_commit(&c->in, (size_t)n);
        if (complete(&c->in)) {
            answered(c);
            return;
        }
    }
}

/* ---- pace ---- */

/* Begins what is due; milliseconds until the next is. */
static int begin(void)
{
    double now = now_s(CLOCK_REALTIME);

    for (int i = 0; i < run.n && run.begun < run.count; i++) {
        double due = run.rate > 0 ? run.start + (double)run.begun / run.rate : now;

        if (due > now) {
            return (int)((due - now) * 1e3) + 1;
        }
        if (run.conns[i].state == IDLE) {
            run.conns[i].began = due;
            run.begun++;
            conn_request(&run.conns[i], SUBMITTING, run.request.data, run.request.len);
        }
    }
    return 1000;
}

static void loop(void)
{
    struct epoll_event events[256];
    double last = now_s(CLOCK_MONOTONIC);

    run.start = now_s(CLOCK_REALTIME);
    while (run.ended < run.count) {
        int n = epoll_wait(run.epoll, events, ARRAY_LEN(events), begin());

        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;

            if (c->sent < c->out.len) {
                conn_send(c);
            }
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
                conn_read(c);
            }
        }
        last = n > 0 ? now_s(CLOCK_MONOTONIC) : last;
        if (now_s(CLOCK_MONOTONIC) - last > LIMIT_S) {
            die("no answer for %d s, %ld of %ld ended", LIMIT_S, run.ended, run.count);
        }
    }
}

/* ---- what is asked ---- */

static void make_request(const char *path, const char *task, long batch)
{
    struct buf body CLEANUP(buf_free);

    buf_init(&body, ANSWER_MAX);
    for (long i = 0; i < batch; i++) {
        buf_addf(&body, "%c%s", i ? ',' : '[', task);
    }
    buf_adds(&body, batch ? "]" : task);
    buf_init(&run.request, ANSWER_MAX);
    buf_addf(&run.request,
             "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             path, body.len, body.data);
    MUST(!run.request.failed);
}

static void prepare(const char *port, long requests, long connections)
{
    size_t n = (size_t)requests;

    run.port = (int)number(port);
    run.count = requests;
    run.n = (int)MIN(connections, requests);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.accepted = xcalloc(n + 1, sizeof(double));
    run.started = xcalloc(n + 1, sizeof(double));
    run.outcome = xcalloc(n + 1, sizeof(double));
    run.conns = xcalloc((size_t)run.n + 1, sizeof(struct conn));
    for (int i = 0; i < run.n; i++) {
        conn_open(&run.conns[i]);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    long batch = 0;

    if (streq(mode, "bulk") && argc == 7) {
        batch = number(argv[5]);
        make_request("/tasks", argv[6], batch);
        prepare(argv[2], number(argv[3]) / batch, number(argv[4]));
    } else if (streq(mode, "single") && argc == 6) {
        make_request("/task", argv[5], 0);
        prepare(argv[2], number(argv[3]), number(argv[4]));
    } else if (streq(mode, "paced") && argc == 6) {
        make_request("/task", argv[5], 0);
        run.rate = (double)number(argv[4]);
        prepare(argv[2], number(argv[3]), PACED_CONNECTIONS);
    } else {
        die("usage: load bulk|single|paced PORT COUNT CONNECTIONS|PER_SECOND [BATCH] TASK");
    }
    loop();
    printf("{\"count\":%ld,\"seconds\":%.6f", run.count * MAX(batch, 1L),
           now_s(CLOCK_REALTIME) - run.start);
    print_times("accepted", run.accepted, (size_t)run.n_accepted);
    if (run.rate > 0) {
        print_times("started", run.started, (size_t)run.n_started);
        print_times("outcome", run.outcome, (size_t)run.n_started);
    }
    puts("}");
    return 0;
}
