/* json_list.h: the elements of a large JSON array, found one by one before anything is built of
 * them.
 *
 * The array is the text itself, or a member of the object that the text is. An element is a slice
 * of the text; whether it is JSON is for json_read() to say, and the same of the rest, the text
 * without the elements: where all of these are JSON, the text is.
 */
#ifndef SJE_JSON_LIST_H
#define SJE_JSON_LIST_H

#include "internal/buf.h"
#include "internal/str.h"

struct json_list {
    struct str text;
    size_t begin; /* behind the array's '['; 0: there is no such array */
    size_t end;   /* its ']'; 0: not reached */
    size_t at;
    size_t element; /* where the present one begins */
    size_t count;   /* of those that were found */
    int depth;      /* below the array */
    bool in_string;
};

/* Looks for the array among the first `head` bytes. name: of the member. */
void json_list_init(struct json_list *l, struct str text, const char *name, size_t head);

/* The next element, within so many bytes. false: there is none left, or, where more, there may be.
 */
bool json_list_next(struct json_list *l, size_t budget, struct str *ret, bool *more);

/* From the first one again. */
void json_list_rewind(struct json_list *l);

/* After the last one: the text with an empty array. ERR_PARSE where the array has no end,
 * ERR_TOO_LARGE where it is over the buffer's limit. */
int json_list_rest(const struct json_list *l, struct buf *b) NODISCARD;

#endif
