/* door.h: whether a request may come in at all, told by the head that a browser gives it.
 *
 * A browser in which somebody reads a page of another site reaches us as its user does, on the
 * loopback interface too. Such a page can send a form or a text without asking; and with a name
 * that points to us for a moment (DNS rebinding) it is even allowed to read the answer. It cannot
 * choose what its browser says of it: Host is the name in its address, Origin who asks,
 * Sec-Fetch-Site how the two are related. Programs that are no browsers send only Host, and that of
 * the address they were given. docs/security.md says which names are ours.
 */
#ifndef SJE_API_DOOR_H
#define SJE_API_DOOR_H

#include "internal/config.h"
#include "internal/err.h"

/* What a request says; NULL where it does not. */
struct door_head {
    const char *host;
    const char *origin;
    const char *fetch_site;
    bool of_worker; /* a beat, which no page sends without Origin: by whatever name we are called */
};

/* 0, or ERR_FORBIDDEN with a sentence for whoever asked. machine: this host's own name. */
int door_check(const struct config *c, const char *machine, const struct door_head *h,
               struct err *reterr) NODISCARD;

#endif
