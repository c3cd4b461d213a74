/* linger.h: lets a peer read our last answer although we did not read all that it sent.
 *
 * Closing a socket with unread input makes the kernel reset the connection, which may take the
 * answer from the peer before it has read it. So the socket is kept open for a moment and its input
 * is dropped. Bounded in time (LINGER_MS) and number (LINGER_MAX; further ones are just closed).
 * Source: RFC 9112, section 9.6.
 */
#ifndef SJE_LINGER_H
#define SJE_LINGER_H

#include "internal/list.h"

#include <uv.h>

#define LINGER_MS  2000
#define LINGER_MAX 256

struct linger_set {
    uv_loop_t *loop;
    struct list sockets; /* oldest first */
    size_t open_handles;
    void (*on_idle)(void *arg); /* set by linger_close() */
    void *arg;
};

void linger_init(struct linger_set *l, uv_loop_t *loop);
/* Keeps a duplicate of `fd`, whose sending side the caller has shut down. */
void linger_add(struct linger_set *l, int fd);
/* To be called about once a second. */
void linger_sweep(struct linger_set *l, int64_t now_boot_ms);
/* Lets go of all; on_idle is called, later or at once, when no handle is left. */
void linger_close(struct linger_set *l, void (*on_idle)(void *arg), void *arg);

#endif
