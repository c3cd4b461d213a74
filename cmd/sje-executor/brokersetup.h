/* brokersetup.h: the commands that give managers and workers what they need of the broker, and no
 * more. */
#ifndef SJE_BROKERSETUP_H
#define SJE_BROKERSETUP_H

#include "internal/buf.h"

/* Lines for a shell, appended; no secrets in them. */
void broker_setup(struct buf *b, const char *vhost);

#endif
