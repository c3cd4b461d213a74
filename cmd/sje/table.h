/* table.h: rows of cells, aligned for people.
 *
 * Cells are cleaned when they are added (see text.h). Without a width everything is printed in
 * full; with one, flexible columns shrink first and columns that do not fit are left out. The
 * titles are not printed where the first is empty.
 */
#ifndef SJE_CLI_TABLE_H
#define SJE_CLI_TABLE_H

#include "internal/buf.h"
#include "internal/str.h"

#include <stdio.h>

#define TABLE_COLUMNS 12

enum column_flags {
    COLUMN_RIGHT = 1,    /* numbers */
    COLUMN_FLEXIBLE = 2, /* may be cut */
    COLUMN_STATE = 4,    /* coloured by what it says */
};

struct column {
    const char *title;
    int flags;
};

struct table {
    const struct column *columns; /* ends with a NULL title; not copied */
    size_t count;
    char **cells; /* row by row */
    size_t used;
    size_t room;
};

void table_init(struct table *t, const struct column *columns);
void table_done(struct table *t); /* for CLEANUP(table_done) */
void table_cell(struct table *t, struct str s);
/* Adds what is in b and empties b. */
void table_cell_buf(struct table *t, struct buf *b);
/* width 0: no limit. */
void table_print(const struct table *t, FILE *out, size_t width, bool color);

/* The SGR number for a state ("32"), or NULL for a word that has no colour. */
const char *table_state_color(const char *state);

#endif
