/* who.h: who a worker is, as one value.
 *
 * A worker is a name (nodeId) *and* the UUID that lies in its work directory: another directory is
 * another worker, whatever it calls itself, for it cannot know what the first one left running. Of
 * one worker there is one process after another; each has a higher incarnation. The UUID is known
 * to the worker and to managers alone: nothing shows it whole. See docs/protocol.md, Identity.
 */
#ifndef SJE_TASK_WHO_H
#define SJE_TASK_WHO_H

#include "internal/id.h"

#define NODE_ID_MAX 127

/* Numbers of processes that may be left out; whoever leaves out more has made them up. */
#define PROCESS_AHEAD 1000000

struct who {
    char node[NODE_ID_MAX + 1]; /* "": nobody; zeroes behind the name */
    struct id uuid;             /* zero: a worker of a version before there were any */
    int64_t inc;
};

/* From a name that is not too long (else it is cut off); uuid NULL: none. */
struct who who_of(const char *node, const struct id *uuid, int64_t inc);
bool who_is_nobody(const struct who *w);
bool who_has_uuid(const struct who *w);
bool who_same_worker(const struct who *a, const struct who *b);
bool who_same_process(const struct who *a, const struct who *b);
/* The same worker, or one that had no UUID yet. */
bool who_continues(const struct who *later, const struct who *before);
/* And a later process of it. */
bool who_succeeds(const struct who *later, const struct who *before);

#define WHO_TAIL_LEN 7
/* The end of the UUID: as much of it as tells two workers apart. */
void who_tail(const struct who *w, char tail[WHO_TAIL_LEN]);
#define WHO_TEXT_LEN (NODE_ID_MAX + 48)
/* "node1 (uuid …3f2a9c, process 7)". */
const char *who_text(const struct who *w, char text[WHO_TEXT_LEN]);

#endif
