/* str.h: slices by value, and the only way from text to numbers. */
#ifndef SJE_STR_H
#define SJE_STR_H

#include "internal/base.h"

/* Not terminated, not owned. */
struct str {
    const char *p;
    size_t len;
};

#define STR(lit) ((struct str){(lit), sizeof(lit) - 1})

static inline struct str str_of(const char *s)
{
    return (struct str){s ? s : "", s ? strlen(s) : 0};
}

bool str_eq(struct str a, struct str b);
bool str_ieq(struct str a, struct str b); /* ASCII case ignored */
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
struct str str_trim(struct str s);
/* Without the byte order mark that some editors put in front. */
struct str str_without_mark(struct str s);
/* Cuts `s` at the first `sep`: returns the part before, moves *rest behind it. */
struct str str_cut(struct str s, char sep, struct str *rest);

size_t str_chars(struct str s); /* characters, of well-formed UTF-8 */
/* Length of the character at the head of s; 0 where it is not well-formed, or s is empty. */
size_t str_utf8_head(struct str s);
/* Makes one printable line of UTF-8 of text, which was cut to fit into `size` bytes with its NUL:
 * control characters and what is not well-formed become '?', a character that the cut split goes.
 */
void str_make_printable(char *text, size_t size);

/* The whole slice must be a number within the bounds; false leaves *ret alone. */
bool str_to_i64(struct str s, int64_t min, int64_t max, int64_t *ret);
bool str_to_double(struct str s, double *ret);

/* True where `p` is well-formed UTF-8 (no surrogates, no overlong forms). NUL is allowed. */
bool str_is_utf8(const char *p, size_t len);

#endif
