/* http_peer.h: what the clients of a server hold at this moment, by their addresses: so one of them
 * cannot keep out the others. An IPv6 client has a /64 of its own, so that counts as one.
 *
 * Ownership: a peer lives as long as somebody holds something. No I/O. Threads: the loop thread.
 */
#ifndef SJE_HTTP_PEER_H
#define SJE_HTTP_PEER_H

#include "internal/http.h"

#include <sys/socket.h>
#include <uthash.h>

struct http_peer {
    uint8_t address[16]; /* IPv4: mapped */
    UT_hash_handle hh;
    struct http_peer **all;
    size_t held[HTTP_SHARES];
};

/* With one connection more. */
struct http_peer *http_peer_get(struct http_peer **all, const struct sockaddr *address);
void http_peer_put(struct http_peer *p); /* that connection is over */

#endif
