#include "pkg/manager/names.h"

#include "internal/str.h"

#include <stdlib.h>

struct name {
    UT_hash_handle hh;
    size_t refs; /* lists that have it */
    char text[];
};

size_t names_count(const struct names_table *t)
{
    return HASH_COUNT(t->names);
}

static struct name *name_find(const struct names_table *t, const char *text)
{
    struct name *e = NULL;

    HASH_FIND_STR(t->names, text, e);
    return e;
}

static size_t name_size(const char *text)
{
    return sizeof(struct name) + strlen(text) + 1;
}

static size_t list_size(size_t n)
{
    return sizeof(struct names) + (n + 1) * sizeof(char *);
}

static struct name *name_hold(struct names_table *t, const char *text)
{
    struct name *e = name_find(t, text);

    if (!e) {
        e = xmalloc(name_size(text));
        memcpy(e->text, text, strlen(text) + 1);
        HASH_ADD_KEYPTR(hh, t->names, e->text, strlen(text), e);
        t->bytes += name_size(text);
    }
    e->refs++;
    return e;
}

static void name_drop(struct names_table *t, char *text)
{
    struct name *e = CONTAINER_OF(text, struct name, text);

    if (--e->refs == 0) {
        t->bytes -= name_size(text);
        HASH_DEL(t->names, e);
        free(e);
    }
}

static bool has_item(const struct names *l, const char *item)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i] == item) {
            return true;
        }
    }
    return false;
}

static void list_free(struct names *l)
{
    for (size_t i = 0; i < l->n; i++) {
        name_drop(l->table, l->items[i]);
    }
    free(l);
}

struct names *names_get(struct names_table *t, const char *const *list, size_t n)
{
    struct names *l = xmalloc(list_size(n));
    struct names *same = NULL;

    l->table = t;
    for (size_t i = 0; i < n; i++) {
        const struct name *e = name_find(t, list[i]);

        if (!e || !has_item(l, e->text)) {
            l->items[l->n++] = name_hold(t, list[i])->text;
        }
    }
    HASH_FIND(hh, t->lists, l->items, l->n * sizeof(char *), same);
    if (same || l->n == 0) {
        list_free(l);
        return names_hold(same);
    }
    l->refs = 1;
    HASH_ADD_KEYPTR(hh, t->lists, l->items, l->n * sizeof(char *), l);
    t->bytes += list_size(l->n);
    return l;
}

struct names *names_hold(struct names *l)
{
    if (l) {
        l->refs++;
    }
    return l;
}

void names_drop(struct names *l)
{
    if (l && --l->refs == 0) {
        l->table->bytes -= list_size(l->n);
        HASH_DEL(l->table->lists, l);
        list_free(l);
    }
}

bool names_have(const struct names *l, const char *name)
{
    const struct name *e = l ? name_find(l->table, name) : NULL;

    return e && has_item(l, e->text);
}

char *const *names_items(const struct names *l)
{
    static char *none[] = {NULL};

    return l ? l->items : none;
}
