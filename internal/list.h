/* list.h: intrusive doubly linked list. A node is in at most one list; lists count themselves. */
#ifndef SJE_LIST_H
#define SJE_LIST_H

#include "internal/base.h"

struct list_node {
    struct list_node *prev;
    struct list_node *next;
    struct list *owner; /* NULL while in no list */
};

struct list {
    struct list_node head;
    size_t count;
};

static inline void list_init(struct list *l)
{
    l->head.prev = l->head.next = &l->head;
    l->head.owner = l;
    l->count = 0;
}

static inline void list_insert_before(struct list *l, struct list_node *at, struct list_node *n)
{
    assert(!n->owner);
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
    n->owner = l;
    l->count++;
}

static inline void list_push(struct list *l, struct list_node *n)
{
    list_insert_before(l, &l->head, n);
}

static inline void list_push_front(struct list *l, struct list_node *n)
{
    list_insert_before(l, l->head.next, n);
}

static inline void list_remove(struct list_node *n)
{
    assert(n->owner);
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->owner->count--;
    n->prev = n->next = NULL;
    n->owner = NULL;
}

static inline bool list_linked(const struct list_node *n)
{
    return n->owner != NULL;
}

static inline struct list_node *list_first(struct list *l)
{
    return l->count ? l->head.next : NULL;
}

static inline struct list_node *list_next(struct list *l, struct list_node *n)
{
    return n->next == &l->head ? NULL : n->next;
}

static inline struct list_node *list_pop(struct list *l)
{
    struct list_node *n = list_first(l);

    if (n) {
        list_remove(n);
    }
    return n;
}

#define LIST_ENTRY(node, type, member)                                                             \
    __extension__({                                                                                \
        struct list_node *entry_ = (node);                                                         \
        entry_ ? CONTAINER_OF(entry_, type, member) : NULL;                                        \
    })
/* Safe against removal of `it` inside the body. */
#define LIST_EACH(l, it)                                                                           \
    for (struct list_node *it = (l)->head.next, *it##_next = it->next; it != &(l)->head;           \
         it = it##_next, it##_next = it->next)

#endif
