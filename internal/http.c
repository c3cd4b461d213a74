/* MHD's epoll descriptor is one uv_poll; every change from outside MHD_run() calls http_kick(),
 * whose timer runs MHD once for all changes of this turn of the loop. */
#include "internal/http_impl.h"

#include "internal/clock.h"
#include "internal/metrics.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define POOL_BYTES        (48 * 1024) /* MHD's memory per connection: head, its index, answer's head */
#define SWEEP_MS_MAX      1000
#define CLOSE_MS          1000
#define SPARE_CONNECTIONS 64 /* accepted over the limit, only to be closed */
#define POLL_BATCH        64
#define UNREAD_BYTES      (128 * 1024) /* of an answer, in the kernel; by itself it takes MiBs */

static void step(struct http *h);

static void on_timer(uv_timer_t *t)
{
    step(t->data);
}

void http_kick(struct http *h)
{
    if (!h->kicked && h->daemon) {
        h->kicked = true;
        uv_timer_start(&h->timer, on_timer, 0, 0);
    }
}

void http_cut(struct conn *c, const char *reason)
{
    METRIC_INC_BY(http_refused, reason);
    shutdown(c->fd, SHUT_RDWR);
    c->deadline = 0;
    list_remove(&c->node);
    list_push(&c->http->busy, &c->node);
}

/* ---- MHD's callbacks ---- */

static enum MHD_Result on_access(void *cls, struct MHD_Connection *mhd, const char *url,
                                 const char *method, const char *version, const char *body,
                                 size_t *body_size, void **request)
{
    struct http_request *r = *request;
    bool ok = r != NULL;

    (void)cls;
    (void)mhd;
    (void)url;
    if (r && !r->head_at) {
        http_request_head(r, method, version);
    } else if (r && body) { /* not *body_size: it is 0 for Expect without body, then pipelined */
        ok = http_request_body(r, body, *body_size);
        *body_size = 0;
    } else if (r) {
        http_request_complete(r);
    }
    return ok ? MHD_YES : MHD_NO;
}

/* The only place where MHD shows the request target as it was sent. */
static void *on_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *c = info->socket_context;

    (void)cls;
    MUST(!c->request);
    c->request = http_request_new(c, target ? target : "");
    return c->request;
}

static size_t keep_escapes(void *cls, struct MHD_Connection *mhd, char *s)
{
    (void)cls;
    (void)mhd;
    return strlen(s);
}

static void to_idle(struct conn *c)
{
    c->deadline = clock_boot_ms() + 2 * (int64_t)c->http->o.timeout_s * 1000;
    if (list_linked(&c->node)) {
        list_remove(&c->node);
    }
    list_push(&c->http->idle, &c->node);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **request,
                         enum MHD_RequestTerminationCode why)
{
    struct http_request *r = *request;

    (void)cls;
    (void)mhd;
    (void)why;
    if (r) {
        to_idle(r->conn);
        http_request_detach(r);
        *request = NULL;
    }
}

/* The one of its client that has been idle longest gives way, or it is refused itself. */
static void check_share(struct http *h, struct conn *c)
{
    if (!http_is_excess(c, HTTP_CONNECTIONS, 0)) {
        return;
    }
    LIST_EACH(&h->idle, it)
    {
        struct conn *o = LIST_ENTRY(it, struct conn, node);

        if (o != c && o->peer == c->peer) {
            http_cut(o, "connections of a client");
            return;
        }
    }
    c->excess = true;
}

static void conn_open(struct http *h, struct MHD_Connection *mhd, void **context)
{
    struct conn *c = xmalloc(sizeof(*c));

    *context = c;
    c->http = h;
    c->mhd = mhd;
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    c->peer = http_peer_get(
        &h->peers, MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
    to_idle(c);
    check_share(h, c);
    if (h->idle.count + h->busy.count > (size_t)h->o.max_connections) {
        /* The oldest idle one, or this one where all others are busy. */
        http_cut(LIST_ENTRY(list_first(&h->idle), struct conn, node), "limit");
    }
}

static void conn_closed(struct conn *c)
{
    struct http *h = c->http;
    int unread = 0;

    if (c->linger || (ioctl(c->fd, FIONREAD, &unread) == 0 && unread > 0)) {
        linger_add(&h->linger, c->fd);
    }
    list_remove(&c->node);
    http_peer_put(c->peer);
    free(c);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct http *h = cls;

    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        conn_open(h, mhd, context);
    } else {
        conn_closed(*context);
        *context = NULL;
    }
    METRIC_SET(http_connections, h->idle.count + h->busy.count);
}

/* ---- from time to time ---- */

static void poll_batch(struct pollfd *fds, struct conn **conns, size_t n)
{
    if (n == 0 || poll(fds, (nfds_t)n, 0) <= 0) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct http_request *r = conns[i]->request;

        if (fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR)) {
            http_set_gone(r);
            if (r->streaming) {
                http_resume(r);
            }
        }
    }
}

/* MHD does not look at suspended connections. */
static void find_gone(struct http *h)
{
    struct pollfd fds[POLL_BATCH];
    struct conn *conns[POLL_BATCH];
    size_t n = 0;

    LIST_EACH(&h->busy, it)
    {
        struct conn *c = LIST_ENTRY(it, struct conn, node);

        if (!c->request || !c->request->suspended || c->request->gone) {
            continue;
        }
        fds[n] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
        conns[n++] = c;
        if (n == POLL_BATCH) {
            poll_batch(fds, conns, n);
            n = 0;
        }
    }
    poll_batch(fds, conns, n);
}

static void cut_overdue(struct list *l, int64_t now)
{
    LIST_EACH(l, it)
    {
        struct conn *c = LIST_ENTRY(it, struct conn, node);

        if (c->deadline && c->deadline <= now) {
            http_cut(c, "slow");
        }
    }
}

static void on_sweep(uv_timer_t *t)
{
    struct http *h = t->data;
    int64_t now = clock_boot_ms();

    cut_overdue(&h->idle, now);
    cut_overdue(&h->busy, now);
    find_gone(h);
    linger_sweep(&h->linger, now);
    http_tell_news(h);
}

/* ---- life ---- */

static void begin_close(struct http *h)
{
    int fd = MHD_quiesce_daemon(h->daemon);

    if (fd >= 0) {
        close(fd);
    }
    h->close_deadline = clock_boot_ms() + CLOSE_MS;
    LIST_EACH(&h->idle, it)
    {
        shutdown(LIST_ENTRY(it, struct conn, node)->fd, SHUT_RDWR);
    }
    LIST_EACH(&h->busy, it)
    {
        struct http_request *r = LIST_ENTRY(it, struct conn, node)->request;

        if (r && r->suspended && !r->streaming) {
            http_refuse(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is shutting down");
        } else if (r) {
            http_resume(r);
        }
    }
    http_kick(h);
}

static void handle_closed(struct http *h)
{
    if (--h->open_handles == 0) {
        void (*on_closed)(void *) = h->on_closed;
        void *arg = h->closed_arg;

        free(h);
        if (on_closed) {
            on_closed(arg);
        }
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void on_linger_closed(void *arg)
{
    handle_closed(arg);
}

static void finish(struct http *h)
{
    uv_close((uv_handle_t *)&h->poll, on_handle_closed);
    uv_close((uv_handle_t *)&h->timer, on_handle_closed);
    uv_close((uv_handle_t *)&h->sweep, on_handle_closed);
    MHD_stop_daemon(h->daemon);
    h->daemon = NULL;
    http_tell_news(h);
    linger_close(&h->linger, on_linger_closed, h);
}

static void arm(struct http *h)
{
    unsigned long long ms = 0;
    bool due = h->kicked || MHD_get_timeout(h->daemon, &ms) == MHD_YES;

    if (h->close_deadline) {
        int64_t left = MAX(h->close_deadline - clock_boot_ms(), 0);

        ms = due ? MIN(ms, (unsigned long long)left) : (unsigned long long)left;
        due = true;
    }
    if (due) {
        uv_timer_start(&h->timer, on_timer, ms, 0);
    } else {
        uv_timer_stop(&h->timer);
    }
}

static void step(struct http *h)
{
    h->kicked = false;
    MHD_run(h->daemon);
    http_tell_news(h);
    if (h->closing && !h->close_deadline) {
        begin_close(h);
    } else if (h->closing &&
               (h->idle.count + h->busy.count == 0 || clock_boot_ms() >= h->close_deadline)) {
        finish(h);
        return;
    }
    arm(h);
}

static void on_epoll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    step(p->data);
}

static int listen_on(const char *address, int port, int *ret_fd, int *ret_port, struct err *reterr)
{
    static const int on = 1;
    static const int off = 0;
    static const int keep_idle = 60;
    static const int unread = UNREAD_BYTES;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *a = NULL;
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } bound = {0};
    socklen_t len = sizeof(bound);
    char service[16];

    snprintf(service, sizeof(service), "%d", port);
    int rc = getaddrinfo(address, service, &hints, &a);
    if (rc != 0) {
        return err_set(reterr, ERR_IO, "cannot listen on %s port %d: %s", address, port,
                       gai_strerror(rc));
    }
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        /* Inherited by what is accepted: a stream to a host that vanished ends some day. */
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &keep_idle, sizeof(keep_idle));
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &unread, sizeof(unread));
    }
    if (fd < 0 || bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, &bound.any, &len) < 0) {
        rc = err_errno(reterr, ERR_IO, errno, "cannot listen on %s port %d", address, port);
        if (fd >= 0) {
            close(fd);
        }
    }
    freeaddrinfo(a);
    *ret_fd = fd;
    *ret_port = ntohs(bound.any.sa_family == AF_INET6 ? bound.in6.sin6_port : bound.in.sin_port);
    return rc;
}

static struct MHD_Daemon *start_daemon(struct http *h, int fd)
{
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_access, h,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)h->o.max_connections + SPARE_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)h->o.timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        h, MHD_OPTION_URI_LOG_CALLBACK, on_target, h, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes,
        NULL, MHD_OPTION_END);
}

int http_open(uv_loop_t *loop, const struct http_options *o, struct http **ret, struct err *reterr)
{
    struct http *h = xmalloc(sizeof(*h));
    int fd = -1;

    h->loop = loop;
    h->o = *o;
    h->o.bind = NULL; /* not kept */
    list_init(&h->idle);
    list_init(&h->busy);
    list_init(&h->news);
    linger_init(&h->linger, loop);
    int rc = listen_on(o->bind, o->port, &fd, &h->port, reterr);
    if (rc < 0) {
        free(h);
        return rc;
    }
    h->daemon = start_daemon(h, fd);
    if (!h->daemon) {
        close(fd);
        free(h);
        return err_set(reterr, ERR_IO, "cannot start the HTTP server on %s port %d", o->bind,
                       o->port);
    }
    h->open_handles = 4; /* poll, timer, sweep, and the lingering as one */
    h->poll.data = h->timer.data = h->sweep.data = h;
    int epoll = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    MUST(uv_poll_init(loop, &h->poll, epoll) == 0 && uv_timer_init(loop, &h->timer) == 0 &&
         uv_timer_init(loop, &h->sweep) == 0);
    MUST(uv_poll_start(&h->poll, UV_READABLE, on_epoll) == 0);
    uint64_t period = (uint64_t)MIN(20 * o->timeout_s, SWEEP_MS_MAX);
    MUST(uv_timer_start(&h->sweep, on_sweep, period, period) == 0);
    http_kick(h); /* MHD puts its listening socket into the epoll set at its first run */
    *ret = h;
    return 0;
}

int http_port(const struct http *h)
{
    return h->port;
}

void http_close(struct http *h, void (*on_closed)(void *arg), void *arg)
{
    MUST(!h->closing);
    h->closing = true;
    h->on_closed = on_closed;
    h->closed_arg = arg;
    http_kick(h);
}
