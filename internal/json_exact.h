/* json_exact.h: JSON as it was written. A tree of jansson holds integers of 64 bits and doubles;
 * here the text stays, and with it every digit.
 */
#ifndef SJE_JSON_EXACT_H
#define SJE_JSON_EXACT_H

#include "internal/json.h"

#define JSON_DIGITS_MAX 1000 /* of a number that a tree cannot hold */

/* Numbers without exponent that a tree cannot hold become 0, in place. False: there are none. */
bool json_blunt(char *text, size_t len);
/* As json_read(), of a text made blunt where it has to be; then *ret_exact is false: it says more.
 */
int json_read_exact(const char *p, size_t len, json_t **ret, bool *ret_exact,
                    struct err *reterr) NODISCARD;
/* The value of a member of an object, as it stands in the text, which is JSON; empty where there is
 * none. */
struct str json_raw_member(struct str object, const char *key);
/* Appends the text, which is JSON, a member or element on each line. */
void json_indent(struct str text, struct buf *b);

#endif
