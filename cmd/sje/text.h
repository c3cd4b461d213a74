/* text.h: text for people: widths, harmless bytes, durations, sizes and times.
 *
 * Whatever a server sends may hold control characters; nothing of it reaches a terminal that did
 * not pass text_clean(), text_fit() or a scrub. All text is UTF-8. Functions append to a buffer of
 * the caller.
 */
#ifndef SJE_CLI_TEXT_H
#define SJE_CLI_TEXT_H

#include "internal/buf.h"
#include "internal/str.h"

/* Once, first: notes whether the user's terminal speaks UTF-8. */
void text_setup(void);
bool text_unicode(void);
const char *text_ellipsis(void);

/* Columns on a terminal. Wide and combining characters count as what they take. */
size_t text_width(struct str s);
/* As one line: line breaks and tabs become spaces, control characters ^X, what is no UTF-8 and what
 * turns the direction of writing U+FFFD. */
void text_clean(struct buf *out, struct str s);
/* Cleaned and cut to at most `width` columns, with an ellipsis where cut. */
void text_fit(struct buf *out, struct str s, size_t width);
/* Spaces up to `width` columns for a text that has `have`. */
void text_pad(struct buf *out, size_t have, size_t width);

/* Cleans a stream that comes in pieces cut anywhere. Line feeds and tabs stay, a lone carriage
 * return starts a new line, colour sequences vanish. */
struct scrub {
    char held[40]; /* a sequence that is not complete */
    size_t n;
    bool cr;
};
void scrub_add(struct scrub *s, struct buf *out, struct str piece);
void scrub_end(struct scrub *s, struct buf *out); /* what is held comes out as it is; then empty */

void text_duration(struct buf *out, int64_t ms); /* "850 ms", "3.2 s", "2 min 5 s", "5 d 2 h" */
void text_size(struct buf *out, int64_t bytes);  /* "512 B", "1.5 KiB" */
void text_local(struct buf *out, int64_t wall_ms, bool with_ms); /* "2026-01-02 12:00:01" */
void text_ago(struct buf *out, int64_t ms); /* "3 s ago"; ahead of now: "in 3 s" */
/* RFC 3339 in UTC ("…Z"), as the server writes it. */
bool text_time(const char *s, int64_t *ret_wall_ms);

/* Percent-encodes all but unreserved characters. */
void text_urlencode(struct buf *out, struct str s);
/* Edits between two words (insert, delete, replace, swap neighbours). */
size_t text_distance(const char *a, const char *b);

#endif
