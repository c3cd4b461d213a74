#include "internal/heap.h"

#include <stdlib.h>

static void put(struct heap *h, size_t i, struct heap_node *n)
{
    h->items[i] = n;
    n->index = i;
}

static void up(struct heap *h, struct heap_node *n)
{
    size_t i = n->index;

    while (i > 1 && h->less(n, h->items[i / 2])) {
        put(h, i, h->items[i / 2]);
        i /= 2;
    }
    put(h, i, n);
}

static void down(struct heap *h, struct heap_node *n)
{
    size_t i = n->index;

    for (;;) {
        size_t child = 2 * i;

        if (child > h->count) {
            break;
        }
        if (child < h->count && h->less(h->items[child + 1], h->items[child])) {
            child++;
        }
        if (!h->less(h->items[child], n)) {
            break;
        }
        put(h, i, h->items[child]);
        i = child;
    }
    put(h, i, n);
}

void heap_init(struct heap *h, heap_less_fn *less)
{
    *h = (struct heap){.less = less};
}

void heap_done(struct heap *h)
{
    free(h->items);
    *h = (struct heap){.less = h->less};
}

void heap_push(struct heap *h, struct heap_node *n)
{
    assert(!heap_linked(n));
    if (h->count + 2 > h->cap) {
        h->cap = MAX(h->cap * 2, (size_t)16);
        h->items = xrealloc(h->items, h->cap * sizeof(struct heap_node *));
    }
    h->count++;
    put(h, h->count, n);
    up(h, n);
}

struct heap_node *heap_min(const struct heap *h)
{
    return h->count ? h->items[1] : NULL;
}

struct heap_node *heap_pop(struct heap *h)
{
    struct heap_node *n = heap_min(h);

    if (n) {
        heap_remove(h, n);
    }
    return n;
}

void heap_remove(struct heap *h, struct heap_node *n)
{
    size_t i = n->index;

    assert(heap_linked(n) && i <= h->count && h->items[i] == n);
    struct heap_node *last = h->items[h->count--];

    n->index = 0;
    if (last != n) {
        put(h, i, last);
        heap_fix(h, last);
    }
}

void heap_fix(struct heap *h, struct heap_node *n)
{
    up(h, n);
    down(h, n);
}
