/* id.h: task ids (UUIDv7, RFC 9562) and random numbers. */
#ifndef SJE_ID_H
#define SJE_ID_H

#include "internal/base.h"

#define ID_LEN      16
#define ID_TEXT_LEN 37 /* with NUL */

struct id {
    uint8_t b[ID_LEN];
};

/* Sorts by time of creation; within one process strictly increasing. */
struct id id_new(void);
void id_format(const struct id *id, char text[ID_TEXT_LEN]);
/* Accepts the canonical 36-character form in either case, nothing else. */
bool id_parse(const char *text, size_t len, struct id *ret);
bool id_eq(const struct id *a, const struct id *b);

/* Not predictable by a peer. */
uint64_t random_u64(void);
void random_bytes(void *p, size_t n);

#endif
