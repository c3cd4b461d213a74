/* Which held hints ask for the same, and the order in which room is looked for. */
#include "pkg/manager/feed_priv.h"

#include "internal/buf.h"

#include <stdlib.h>

#define KEY_MAX (1u << 20)
#define FRONT   32 /* are tried in each turn, however many there are */

static bool before_among_same(const struct heap_node *a, const struct heap_node *b)
{
    const struct feed_hint *x = CONTAINER_OF_CONST(a, struct feed_hint, same);
    const struct feed_hint *y = CONTAINER_OF_CONST(b, struct feed_hint, same);

    return feed_before(x->rank, &x->id, y->rank, &y->id);
}

static bool before_by_first(const struct heap_node *a, const struct heap_node *b)
{
    return before_among_same(heap_min(&CONTAINER_OF_CONST(a, struct feed_kind, node)->held),
                             heap_min(&CONTAINER_OF_CONST(b, struct feed_kind, node)->held));
}

void feed_kinds_init(struct feed_pool *p)
{
    heap_init(&p->order[0], before_by_first);
    heap_init(&p->order[1], before_by_first);
}

void feed_kinds_done(struct feed_pool *p)
{
    MUST(!p->kinds);
    heap_done(&p->order[0]);
    heap_done(&p->order[1]);
}

static char *key_of(const struct feed_hint *e)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, KEY_MAX);
    buf_addf(&b, "%lld %lld %lld %s\n%s\n%s", (long long)e->room.slots,
             (long long)e->room.cpus_milli, (long long)e->room.memory_mb, e->type,
             e->avoid ? e->avoid : "", e->lane == &e->pool->retries ? e->failed_on : "");
    return buf_take(&b);
}

static struct feed_kind *kind_get(struct feed_pool *p, char *key)
{
    struct feed_kind *k = NULL;

    HASH_FIND_STR(p->kinds, key, k);
    if (k) {
        free(key);
        return k;
    }
    k = xmalloc(sizeof(*k));
    k->key = key;
    k->of = p->untried;
    heap_init(&k->held, before_among_same);
    HASH_ADD_KEYPTR(hh, p->kinds, k->key, strlen(k->key), k);
    return k;
}

void feed_kind_join(struct feed_hint *e)
{
    struct feed_pool *p = e->pool;
    struct feed_kind *k = kind_get(p, key_of(e));

    e->kind = k;
    heap_push(&k->held, &e->same);
    if (heap_linked(&k->node)) {
        heap_fix(&p->order[k->of], &k->node);
    } else {
        heap_push(&p->order[k->of], &k->node);
    }
}

void feed_kind_leave(struct feed_hint *e)
{
    struct feed_pool *p = e->pool;
    struct feed_kind *k = STEAL(e->kind);

    if (k->held.count > 1) {
        heap_remove(&k->held, &e->same);
        heap_fix(&p->order[k->of], &k->node);
        return;
    }
    heap_remove(&p->order[k->of], &k->node);
    heap_remove(&k->held, &e->same);
    heap_done(&k->held);
    HASH_DEL(p->kinds, k);
    free(k->key);
    free(k);
}

struct feed_kind *feed_kind_next(struct feed_pool *p)
{
    struct heap_node *n = heap_min(&p->order[p->untried]);

    return n ? CONTAINER_OF(n, struct feed_kind, node) : NULL;
}

struct feed_hint *feed_kind_first(const struct feed_kind *k)
{
    return CONTAINER_OF(heap_min(&k->held), struct feed_hint, same);
}

static void move(struct feed_pool *p, struct feed_kind *k, int to)
{
    heap_remove(&p->order[k->of], &k->node);
    k->of = to;
    heap_push(&p->order[to], &k->node);
}

void feed_kind_tried(struct feed_pool *p, struct feed_kind *k)
{
    move(p, k, !p->untried);
}

void feed_kinds_begin(struct feed_pool *p)
{
    const struct heap *tried = &p->order[!p->untried];

    if (p->order[p->untried].count == 0) {
        p->untried = !p->untried;
        return;
    }
    for (int i = 0; i < FRONT && tried->count; i++) {
        move(p, CONTAINER_OF(heap_min(tried), struct feed_kind, node), p->untried);
    }
}
