/* heap.h: binary min-heap of intrusive nodes; each node knows its index, so removal from the
 * middle is O(log n). Used for deadlines and for the order of dispatch. */
#ifndef SJE_HEAP_H
#define SJE_HEAP_H

#include "internal/base.h"

struct heap_node {
    size_t index; /* 1-based; 0 while in no heap */
};

typedef bool heap_less_fn(const struct heap_node *a, const struct heap_node *b);

struct heap {
    struct heap_node **items; /* owned; items[0] unused */
    size_t count;
    size_t cap;
    heap_less_fn *less;
};

void heap_init(struct heap *h, heap_less_fn *less);
void heap_done(struct heap *h); /* frees the array, not the nodes */
void heap_push(struct heap *h, struct heap_node *n);
struct heap_node *heap_min(const struct heap *h); /* NULL where empty */
struct heap_node *heap_pop(struct heap *h);       /* NULL where empty */
void heap_remove(struct heap *h, struct heap_node *n);
void heap_fix(struct heap *h, struct heap_node *n); /* after its key changed */

static inline bool heap_linked(const struct heap_node *n)
{
    return n->index != 0;
}

#endif
