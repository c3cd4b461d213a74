/* live.h: a line at the bottom of the terminal that changes, and lines that scroll above it.
 *
 * On stderr. The texts must be clean (text.h).
 */
#ifndef SJE_CLI_LIVE_H
#define SJE_CLI_LIVE_H

#include "internal/buf.h"
#include "internal/str.h"

struct live {
    bool on;    /* off: nothing is drawn */
    bool shown; /* the cursor stands behind the bottom line */
};

/* `color`: SGR number for the first word, or NULL. Cut to the terminal's width. */
void live_bar(struct live *l, struct str word, const char *color, struct str rest);
void live_line(struct live *l, struct str line);
/* Takes the bottom line away; before anything else writes to the terminal. */
void live_clear(struct live *l);
/* "[#####-----]" of that many columns. */
void live_gauge(struct buf *out, int64_t done, int64_t total, size_t width);

#endif
