/* sdnotify.h: tells the service manager how we are. Does nothing where none has asked.
 *
 * Source: sd_notify(3): one datagram to the socket named in NOTIFY_SOCKET. Threads: any.
 */
#ifndef SJE_SDNOTIFY_H
#define SJE_SDNOTIFY_H

#include "internal/base.h"

/* `state`: "READY=1", "STOPPING=1", lines "NAME=value". False: nobody was told. Waits for a second
 * at most where the service manager is behind. */
bool sdnotify(const char *state);
/* "WATCHDOG=1"; never waits. */
bool sdnotify_alive(void);
/* How often WATCHDOG=1 is expected, in ms; 0: it is not. */
int64_t sdnotify_watchdog_ms(void);

#endif
