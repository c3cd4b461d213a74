/* taillog.h: the end of a task's log, as lines for a live view. */
#ifndef SJE_CLI_TAILLOG_H
#define SJE_CLI_TAILLOG_H

#include "cmd/sje/cli.h"
#include "cmd/sje/live.h"

struct taillog {
    const char *stream; /* NULL: no log is shown */
    int64_t attempt;    /* 0: none yet */
    int64_t offset;
    bool mid_line;   /* drop up to the next line feed */
    int64_t hold_to; /* boot ms: not asked again before */
    struct scrub scrub;
    struct buf line;
};

void taillog_init(struct taillog *t, const char *stream);
void taillog_done(struct taillog *t);
/* Shows what was added since. A log that cannot be had is no failure: it is tried again later.
 * ERR_CLOSED where a signal came. */
int taillog_show(struct taillog *t, struct client *c, struct live *live,
                 const json_t *task) NODISCARD;
/* Shows a last line without a line feed. */
void taillog_flush(struct taillog *t, struct live *live);

/* The path of a piece of a log, owned by the caller. attempt 0: the latest; limit 0: no limit. */
char *taillog_path(const char *id, const char *stream, int64_t attempt, int64_t offset,
                   int64_t limit, bool follow);

#endif
