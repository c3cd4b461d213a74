#include "internal/linger.h"

#include "internal/clock.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct linger_socket {
    uv_poll_t poll;
    struct list_node node;
    struct linger_set *owner;
    int fd;
    int64_t deadline;
};

void linger_init(struct linger_set *l, uv_loop_t *loop)
{
    *l = (struct linger_set){.loop = loop};
    list_init(&l->sockets);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct linger_socket *s = handle->data;
    struct linger_set *l = s->owner;

    close(s->fd);
    free(s);
    if (--l->open_handles == 0 && l->on_idle) {
        l->on_idle(l->arg);
    }
}

static void let_go(struct linger_socket *s)
{
    list_remove(&s->node);
    uv_close((uv_handle_t *)&s->poll, on_handle_closed);
}

static void on_input(uv_poll_t *poll, int status, int events)
{
    static char dropped[64 * 1024];
    struct linger_socket *s = poll->data;

    (void)events;
    if (status < 0 || recv(s->fd, dropped, sizeof(dropped), MSG_DONTWAIT) <= 0) {
        let_go(s);
    }
}

void linger_add(struct linger_set *l, int fd)
{
    int copy = l->sockets.count < LINGER_MAX ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;

    if (copy < 0) {
        return;
    }
    struct linger_socket *s = xmalloc(sizeof(*s));
    s->owner = l;
    s->fd = copy;
    s->deadline = clock_boot_ms() + LINGER_MS;
    s->poll.data = s;
    if (uv_poll_init(l->loop, &s->poll, copy) < 0) {
        close(copy);
        free(s);
        return;
    }
    l->open_handles++;
    list_push(&l->sockets, &s->node);
    MUST(uv_poll_start(&s->poll, UV_READABLE, on_input) == 0);
}

void linger_sweep(struct linger_set *l, int64_t now_boot_ms)
{
    LIST_EACH(&l->sockets, it)
    {
        struct linger_socket *s = LIST_ENTRY(it, struct linger_socket, node);

        if (s->deadline > now_boot_ms) {
            break;
        }
        let_go(s);
    }
}

void linger_close(struct linger_set *l, void (*on_idle)(void *arg), void *arg)
{
    l->on_idle = on_idle;
    l->arg = arg;
    linger_sweep(l, INT64_MAX);
    if (l->open_handles == 0) {
        on_idle(arg);
    }
}
