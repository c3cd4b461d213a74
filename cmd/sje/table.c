#include "cmd/sje/table.h"

#include "cmd/sje/text.h"

#include <stdlib.h>

#define GAP          2
#define FLEXIBLE_MIN 8
#define CELL_MAX     65536

void table_init(struct table *t, const struct column *columns)
{
    *t = (struct table){.columns = columns};
    while (columns[t->count].title) {
        t->count++;
    }
    assert(t->count <= TABLE_COLUMNS);
}

void table_done(struct table *t)
{
    for (size_t i = 0; i < t->used; i++) {
        free(t->cells[i]);
    }
    free(t->cells);
    *t = (struct table){0};
}

void table_cell(struct table *t, struct str s)
{
    struct buf clean;

    buf_init(&clean, (size_t)CELL_MAX * 3 + 1);
    text_clean(&clean, (struct str){s.p, MIN(s.len, (size_t)CELL_MAX)});
    if (t->used == t->room) {
        t->room = t->room ? t->room * 2 : 64;
        t->cells = xrealloc(t->cells, t->room * sizeof(*t->cells));
    }
    t->cells[t->used++] = buf_take(&clean);
}

void table_cell_buf(struct table *t, struct buf *b)
{
    table_cell(t, (struct str){b->data ? b->data : "", b->len});
    buf_reset(b);
}

const char *table_state_color(const char *state)
{
    static const struct {
        const char *word;
        const char *color;
    } colors[] = {
        {"SUCCEEDED", "32"}, {"UP", "32"},       {"up", "32"},     {"RUNNING", "36"},
        {"FAILED", "31"},    {"DEAD", "31"},     {"down", "31"},   {"CANCELLED", "33"},
        {"SUSPECT", "33"},   {"DRAINING", "33"}, {"paused", "33"}, {"STOPPED", "33"},
        {"REFUSED", "31"},
    };

    for (size_t i = 0; i < ARRAY_LEN(colors); i++) {
        if (streq(colors[i].word, state)) {
            return colors[i].color;
        }
    }
    return NULL;
}

static size_t total_width(const size_t *widths, size_t count)
{
    size_t total = 0;

    for (size_t c = 0; c < count; c++) {
        total += widths[c] + (c ? GAP : 0);
    }
    return total;
}

/* Takes columns away from the widest flexible one until the row fits or nothing can give. */
static void shrink(const struct table *t, size_t *widths, size_t width)
{
    while (total_width(widths, t->count) > width) {
        size_t widest = t->count;

        for (size_t c = 0; c < t->count; c++) {
            if ((t->columns[c].flags & COLUMN_FLEXIBLE) && widths[c] > FLEXIBLE_MIN &&
                (widest == t->count || widths[c] > widths[widest])) {
                widest = c;
            }
        }
        if (widest == t->count) {
            return;
        }
        widths[widest]--;
    }
}

static void add_cell(struct buf *line, const struct column *column, const char *cell, size_t width,
                     bool last, bool color)
{
    struct buf fit CLEANUP(buf_free) = {0};

    buf_init(&fit, (size_t)CELL_MAX * 4);
    text_fit(&fit, str_of(cell), width);
    const char *text = fit.data ? fit.data : "";
    size_t have = text_width(str_of(text));
    const char *sgr = color && (column->flags & COLUMN_STATE) ? table_state_color(cell) : NULL;

    if (column->flags & COLUMN_RIGHT) {
        text_pad(line, have, width);
    }
    if (sgr) {
        buf_addf(line, "\x1b[%sm", sgr);
    }
    buf_adds(line, text);
    if (sgr) {
        buf_adds(line, "\x1b[0m");
    }
    if (!(column->flags & COLUMN_RIGHT) && !last) {
        text_pad(line, have, width);
    }
}

static void print_row(const struct table *t, FILE *out, const char *const *cells,
                      const size_t *widths, size_t shown, bool color)
{
    struct buf line CLEANUP(buf_free) = {0};

    buf_init(&line, (size_t)CELL_MAX * 4 * TABLE_COLUMNS);
    for (size_t c = 0; c < shown; c++) {
        text_pad(&line, 0, c ? GAP : 0);
        add_cell(&line, &t->columns[c], cells[c], widths[c], c + 1 == shown, color);
    }
    while (line.len && line.data[line.len - 1] == ' ') {
        line.len--;
    }
    buf_addc(&line, '\n');
    fwrite(line.data, 1, line.len, out);
}

void table_print(const struct table *t, FILE *out, size_t width, bool color)
{
    size_t widths[TABLE_COLUMNS] = {0};
    const char *titles[TABLE_COLUMNS] = {0};
    size_t shown = t->count;

    assert(t->used % t->count == 0);
    for (size_t c = 0; c < t->count; c++) {
        titles[c] = t->columns[c].title;
        widths[c] = text_width(str_of(titles[c]));
    }
    for (size_t i = 0; i < t->used; i++) {
        widths[i % t->count] = MAX(widths[i % t->count], text_width(str_of(t->cells[i])));
    }
    if (width) {
        shrink(t, widths, width);
        while (shown > 1 && total_width(widths, shown) > width) {
            shown--;
        }
    }
    if (titles[0][0]) {
        print_row(t, out, titles, widths, shown, false);
    }
    for (size_t i = 0; i < t->used; i += t->count) {
        print_row(t, out, (const char *const *)t->cells + i, widths, shown, color);
    }
}
