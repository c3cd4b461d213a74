#include "internal/http_peer.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define NETWORK 8 /* bytes of an IPv6 address */

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static void key_of(const struct sockaddr *a, uint8_t *key)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)a;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)a;

    memset(key, 0, 16);
    if (a && a->sa_family == AF_INET) {
        memcpy(key, mapped, sizeof(mapped));
        memcpy(key + 12, &v4->sin_addr, 4);
    } else if (a && a->sa_family == AF_INET6) {
        bool is_v4 = memcmp(&v6->sin6_addr, mapped, sizeof(mapped)) == 0;

        memcpy(key, &v6->sin6_addr, is_v4 ? 16 : NETWORK);
    }
}

struct http_peer *http_peer_get(struct http_peer **all, const struct sockaddr *address)
{
    struct http_peer *p = NULL;
    uint8_t key[16];

    key_of(address, key);
    HASH_FIND(hh, *all, key, sizeof(key), p);
    if (!p) {
        p = xcalloc(1, sizeof(*p));
        memcpy(p->address, key, sizeof(key));
        p->all = all;
        HASH_ADD(hh, *all, address, sizeof(p->address), p);
    }
    p->held[HTTP_CONNECTIONS]++;
    return p;
}

void http_peer_put(struct http_peer *p)
{
    if (--p->held[HTTP_CONNECTIONS] == 0) {
        HASH_DEL(*p->all, p);
        free(p);
    }
}
