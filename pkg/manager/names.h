/* names.h: lists of names that many say alike. Each name and each list is kept once, however many
 * hold it, so two lists are the same where their pointers are. No I/O.
 */
#ifndef SJE_MANAGER_NAMES_H
#define SJE_MANAGER_NAMES_H

#include "internal/base.h"

#include <uthash.h>

struct names {
    UT_hash_handle hh;
    struct names_table *table;
    size_t refs;
    size_t n;
    char *items[]; /* n, none twice, in the order in which they were said; then NULL */
};

struct name;
/* All zero: empty. It stays where it is as long as a list of it is held. */
struct names_table {
    struct name *names;
    struct names *lists;
    size_t bytes;
};
size_t names_count(const struct names_table *t); /* different ones */

/* The caller holds what it gets until names_drop(); NULL: an empty list. */
struct names *names_get(struct names_table *t, const char *const *list, size_t n);
struct names *names_hold(struct names *l); /* once more */
void names_drop(struct names *l);

bool names_have(const struct names *l, const char *name);
char *const *names_items(const struct names *l); /* NULL-terminated */

#endif
