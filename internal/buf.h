/* buf.h: a growing byte buffer with a limit that must be named.
 *
 * `data` is never NULL after the first append, failed or not, and always ends in a NUL that `len`
 * does not count. An append past `max` appends nothing and sets `failed` for good; callers may
 * append freely and check once. buf_free() copes with a zeroed struct.
 */
#ifndef SJE_BUF_H
#define SJE_BUF_H

#include "internal/base.h"

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max;
    bool failed;
};

void buf_init(struct buf *b, size_t max);
void buf_free(struct buf *b);  /* for CLEANUP(buf_free) too; leaves an empty, usable buffer */
void buf_reset(struct buf *b); /* empties, keeps the memory, clears `failed` */

/* 0 or ERR_TOO_LARGE. */
int buf_add(struct buf *b, const void *p, size_t n);
int buf_adds(struct buf *b, const char *s);
int buf_addc(struct buf *b, char c);
int buf_addf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
/* Room for n more bytes at data+len (NULL where over max); then buf_commit what was written. */
char *buf_reserve(struct buf *b, size_t n);
void buf_commit(struct buf *b, size_t n);
/* Drops the first n bytes. */
void buf_shift(struct buf *b, size_t n);
/* Hands the memory over (never NULL); the buffer is empty afterwards. */
char *buf_take(struct buf *b);

#endif
