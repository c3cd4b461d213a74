/* Control connections: one to a worker, several over time as workers come and go. The keeper makes
 * the socket, which is a file; all else is the guardian's. */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void drop(struct conn *c)
{
    close(c->fd);
    *c = (struct conn){.fd = -1};
}

/* Short lines into an empty socket buffer: a peer that does not even take these is dropped. */
static void say(struct conn *c, const char *line)
{
    if (c->fd >= 0 &&
        send(c->fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)strlen(line)) {
        drop(c);
    }
}

static void hello(struct shim *s, struct conn *c)
{
    char line[PLAN_LINE_MAX];

    snprintf(line, sizeof(line), "hello %d %d %d\n", SHIM_VERSION, (int)s->keeper,
             (int)s->fate->pid);
    say(c, line);
}

/* The newest worker always gets in, at the cost of the oldest connection. */
static void add(struct shim *s, int fd)
{
    struct conn *last = &s->conns[CONNS_MAX - 1];

    if (last->fd >= 0) {
        close(last->fd);
    }
    memmove(&s->conns[1], &s->conns[0], (CONNS_MAX - 1) * sizeof(s->conns[0]));
    s->conns[0] = (struct conn){.fd = fd};
    hello(s, &s->conns[0]);
}

static bool is_socket(int fd)
{
    int type = 0;
    socklen_t n = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM;
}

/* Whoever connects finds us listening; whoever has made `sock` before us keeps us from starting. */
bool control_open(struct shim *s, int stdin_fd)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "sock.tmp"};

    for (int i = 0; i < CONNS_MAX; i++) {
        s->conns[i].fd = -1;
    }
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(a.sun_path);
    if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&a, sizeof(a)) != 0 ||
        listen(s->listener, CONNS_MAX) != 0 || link(a.sun_path, "sock") != 0) {
        return false;
    }
    unlink(a.sun_path);
    if (stdin_fd >= 0 && is_socket(stdin_fd)) {
        s->conns[0].fd = stdin_fd; /* its hello comes when the task is started */
    } else if (stdin_fd >= 0) {
        close(stdin_fd);
    }
    return true;
}

void control_leave(struct shim *s)
{
    close(s->listener);
    for (int i = 0; i < CONNS_MAX; i++) {
        if (s->conns[i].fd >= 0) {
            drop(&s->conns[i]);
        }
    }
}

void control_close(void)
{
    unlink("sock");
}

void control_hello(struct shim *s)
{
    for (int i = 0; i < CONNS_MAX; i++) {
        hello(s, &s->conns[i]);
    }
}

void control_accept(struct shim *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0) {
        add(s, fd);
    }
}

/* True where the line is an order that we know. */
static bool obey(struct shim *s, char *line)
{
    static const char *const reasons[] = {"cancel", "shutdown", "revoked", "lease"};
    char *word[3] = {line, NULL, NULL};
    int64_t n = 0;

    for (int i = 1; i < 3 && word[i - 1]; i++) {
        word[i] = strchr(word[i - 1], ' ');
        if (word[i]) {
            *word[i]++ = '\0';
        }
    }
    if (strcmp(word[0], "lease") == 0 && word[1] && !word[2] && parse_number(word[1], &n)) {
        set_lease(s, n);
        return true;
    }
    if (strcmp(word[0], "stop") != 0 || !word[2] || !parse_number(word[2], &n)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++) {
        if (strcmp(word[1], reasons[i]) == 0) {
            stop_task(s, reasons[i], n);
            return true;
        }
    }
    return false;
}

void control_read(struct shim *s, struct conn *c)
{
    ssize_t n = recv(c->fd, c->line + c->len, sizeof(c->line) - c->len, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        drop(c);
        return;
    }
    c->len += (size_t)n;
    for (char *end = memchr(c->line, '\n', c->len); end; end = memchr(c->line, '\n', c->len)) {
        size_t used = (size_t)(end - c->line) + 1;
        *end = '\0';
        if (memchr(c->line, '\0', used - 1) || !obey(s, c->line)) {
            drop(c);
            return;
        }
        c->len -= used;
        memmove(c->line, end + 1, c->len);
    }
    if (c->len == sizeof(c->line)) {
        drop(c);
    }
}

void control_bye(struct shim *s)
{
    for (int i = 0; i < CONNS_MAX; i++) {
        say(&s->conns[i], "bye\n");
    }
}
