#include "pkg/manager/offers_priv.h"

#include "internal/str.h"

#include <stdlib.h>

/* Of a class in the sum: it takes less memory, but each question to its pools looks at it. */
#define CLASS_COST 2048

/* ---- room ---- */

static int64_t free_slots(const struct offer *w)
{
    return w->class->key.room.slots - w->used.slots - w->directed.slots;
}

static struct room free_room(const struct offer *w)
{
    struct room r = w->class->key.room;

    room_add(&r, &w->used, -1);
    room_add(&r, &w->directed, -1);
    return r;
}

/* ---- pools ---- */

struct offers_pool *offers_find(const struct offers *o, const char *pool)
{
    struct offers_pool *p = NULL;

    HASH_FIND_STR(o->pools, pool, p);
    return p;
}

static void pool_join(struct offers *o, const char *name, struct offer_class *c)
{
    struct offers_pool *p = offers_find(o, name);

    if (!p) {
        p = xmalloc(sizeof(*p));
        p->name = xstrdup(name);
        p->of = o;
        p->stale = true;
        HASH_ADD_KEYPTR(hh, o->pools, p->name, strlen(p->name), p);
    }
    p->classes = xrealloc(p->classes, (p->n_classes + 1) * sizeof(struct offer_class *));
    p->classes[p->n_classes++] = c;
    c->pools = xrealloc(c->pools, (c->n_pools + 1) * sizeof(struct offers_pool *));
    c->pools[c->n_pools++] = p;
}

static void pool_leave(struct offers *o, struct offers_pool *p, const struct offer_class *c)
{
    for (size_t i = 0; i < p->n_classes; i++) {
        if (p->classes[i] == c) {
            p->classes[i] = p->classes[--p->n_classes];
            break;
        }
    }
    if (p->n_classes) {
        return;
    }
    if (list_linked(&p->changed)) {
        list_remove(&p->changed);
    }
    HASH_DEL(o->pools, p);
    offers_lanes_clear(p);
    free(p->classes);
    free(p->name);
    free(p);
}

static void pool_changed(struct offers *o, struct offers_pool *p)
{
    if (!list_linked(&p->changed)) {
        list_push(&o->changed, &p->changed);
        if (o->on_change) {
            o->on_change(o->arg);
        }
    }
}

struct offers_pool *offers_next_changed(struct offers *o)
{
    struct list_node *n = list_pop(&o->changed);

    return n ? CONTAINER_OF(n, struct offers_pool, changed) : NULL;
}

/* ---- classes ---- */

static bool freer(const struct heap_node *a, const struct heap_node *b)
{
    const struct offer *x = CONTAINER_OF_CONST(a, struct offer, node);
    const struct offer *y = CONTAINER_OF_CONST(b, struct offer, node);

    return x->deaf != y->deaf ? y->deaf : free_slots(x) > free_slots(y);
}

static size_t class_cost(const struct offer_class *c)
{
    return CLASS_COST + c->n_pools * 2 * sizeof(void *);
}

/* Stirred, so that sums of it are of no use to others. */
static uint64_t next_mark(struct offers *o)
{
    uint64_t h = ++o->marks * 0x9e3779b97f4a7c15u;

    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    return h ^ (h >> 31);
}

static struct offer_class *class_get(struct offers *o, const struct offer_key *key)
{
    struct offer_class *c = NULL;

    HASH_FIND(hh, o->classes, key, sizeof(*key), c);
    if (c) {
        return c;
    }
    c = xmalloc(sizeof(*c));
    c->key = (struct offer_key){key->room, names_hold(key->pools), names_hold(key->types)};
    c->mark = next_mark(o);
    heap_init(&c->live, freer);
    list_init(&c->absent);
    for (char *const *name = names_items(key->pools); *name; name++) {
        pool_join(o, *name, c);
    }
    HASH_ADD(hh, o->classes, key, sizeof(c->key), c);
    o->class_bytes += class_cost(c);
    return c;
}

static void class_leave(struct offers *o, struct offer_class *c)
{
    if (--c->known) {
        return;
    }
    MUST(c->live.count == 0);
    o->class_bytes -= class_cost(c);
    HASH_DEL(o->classes, c);
    for (size_t i = 0; i < c->n_pools; i++) {
        pool_leave(o, c->pools[i], c);
    }
    heap_done(&c->live);
    names_drop(c->key.pools);
    names_drop(c->key.types);
    free(c->pools);
    free(c);
}

static bool class_takes(const struct offer_class *c, const struct need *n)
{
    return room_within(&n->room, &c->key.room) && names_have(c->key.types, n->type);
}

static bool class_fits(const struct offer_class *c, const struct need *n)
{
    return c->live.count && class_takes(c, n);
}

/* ---- workers ---- */

void offers_init(struct offers *o)
{
    *o = (struct offers){0};
    list_init(&o->changed);
}

size_t offers_bytes(const struct offers *o)
{
    return o->pool_names.bytes + o->type_names.bytes + o->class_bytes +
           o->lanes * sizeof(struct offers_filter);
}

void offers_done(struct offers *o)
{
    MUST(!o->classes && !o->pools);
}

void offer_init(struct offer *w)
{
    *w = (struct offer){.kept = OFFERS_KEPT_FOR_NONE};
    list_init(&w->hints);
}

bool offers_is_live(const struct offer *w)
{
    return heap_linked(&w->node);
}

/* Not what is directed to it: that may come to nothing. */
static int64_t available(const struct offer *w)
{
    return MAX(w->class->key.room.slots - w->used.slots, (int64_t)0);
}

/* It takes work from now on (sign 1), or no more (-1). */
static void count_live(struct offers *o, struct offer *w, int sign)
{
    struct offer_class *c = w->class;

    if (sign > 0) {
        heap_push(&c->live, &w->node);
    } else {
        heap_remove(&c->live, &w->node);
    }
    for (size_t i = 0; i < c->n_pools; i++) {
        struct offers_pool *p = c->pools[i];

        p->slots.workers += sign;
        p->slots.total += sign * c->key.room.slots;
        p->slots.available += sign * available(w);
        if (c->live.count == (sign > 0 ? 1 : 0)) {
            p->stale = true;
            offers_lanes_clear(p);
        }
        pool_changed(o, p);
    }
}

void offers_set(struct offers *o, struct offer *w, const struct offer_facts *f)
{
    struct offer_key key = {f->room, f->pools, f->types};
    bool same = w->class && memcmp(&key, &w->class->key, sizeof(key)) == 0;

    if (w->deaf) {
        w->deaf = false;
        if (offers_is_live(w)) {
            heap_fix(&w->class->live, &w->node);
        }
    }
    if (offers_is_live(w) && (!same || !f->live)) {
        count_live(o, w, -1);
    }
    if (!same) {
        struct offer_class *c = class_get(o, &key);

        c->known++;
        if (w->class) {
            class_leave(o, w->class);
        }
        w->class = c;
    }
    if (f->live && !offers_is_live(w)) {
        count_live(o, w, 1);
    }
}

void offers_forget(struct offers *o, struct offer *w)
{
    while (list_pop(&w->hints)) {
    }
    w->kept = OFFERS_KEPT_FOR_NONE;
    w->directed = (struct room){0};
    if (w->class) {
        if (offers_is_live(w)) {
            count_live(o, w, -1);
        }
        class_leave(o, STEAL(w->class));
    }
}

void offers_set_absent(struct offers *o, struct offer *w, const struct offer_facts *f)
{
    if (list_linked(&w->absent)) {
        list_remove(&w->absent);
    }
    if (f) {
        offers_set(o, w, f);
        if (w->class) {
            list_push(&w->class->absent, &w->absent);
        }
        return;
    }
    for (size_t i = 0; w->class && i < w->class->n_pools; i++) {
        pool_changed(o, w->class->pools[i]); /* what waits for it need not any more */
    }
    offers_forget(o, w);
}

void offers_use(struct offer *w, const struct room *r, int sign)
{
    int64_t before = w->class ? available(w) : 0;

    room_add(&w->used, r, sign);
    if (!offers_is_live(w)) {
        return;
    }
    heap_fix(&w->class->live, &w->node);
    for (size_t i = 0; i < w->class->n_pools; i++) {
        w->class->pools[i]->slots.available += available(w) - before;
    }
}

void offers_direct(struct offer *w, const struct room *r, int sign)
{
    room_add(&w->directed, r, sign);
    if (offers_is_live(w)) {
        heap_fix(&w->class->live, &w->node);
    }
}

void offers_deafen(struct offer *w)
{
    w->deaf = true;
    if (offers_is_live(w)) {
        heap_fix(&w->class->live, &w->node);
    }
}

void offers_keep(struct offer *w, int64_t rank)
{
    w->kept = rank;
}

/* ---- questions ---- */

const struct offers_slots *offers_slots(struct offers_pool *p)
{
    if (p->stale) {
        offers_refresh(p);
    }
    return &p->slots;
}

size_t offers_lanes(struct offers_pool *p)
{
    if (p->stale) {
        offers_refresh(p);
    }
    return p->n_lanes;
}

bool offers_fits(const struct offers_pool *p, const struct need *n)
{
    for (size_t i = 0; i < p->n_classes; i++) {
        if (class_fits(p->classes[i], n)) {
            return true;
        }
    }
    return false;
}

bool offers_fits_elsewhere(const struct offers_pool *p, const struct need *n)
{
    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];

        for (size_t k = 1; k <= c->live.count && class_fits(c, n); k++) {
            if (!CONTAINER_OF(c->live.items[k], struct offer, node)->avoided) {
                return true;
            }
        }
    }
    return false;
}

bool offers_fits_absent(const struct offers_pool *p, const struct need *n)
{
    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];

        if (c->absent.count == 0 || !class_takes(c, n)) {
            continue;
        }
        LIST_EACH(&c->absent, it)
        {
            if (!CONTAINER_OF(it, struct offer, absent)->avoided) {
                return true;
            }
        }
    }
    return false;
}

bool offers_takes(const struct offer *w, const struct need *n)
{
    return w->class && class_takes(w->class, n);
}

bool offers_type(const struct offers_pool *p, const char *type)
{
    for (size_t i = 0; i < p->n_classes; i++) {
        if (p->classes[i]->live.count && names_have(p->classes[i]->key.types, type)) {
            return true;
        }
    }
    return false;
}

/* Of what is asked. */
static double part(int64_t asked, int64_t has)
{
    return asked <= has ? 1 : (double)has / (double)asked;
}

const struct offer *offers_closest(const struct offers_pool *p, const struct need *n)
{
    const struct offer *best = NULL;
    double most = -1;

    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];
        double sum = part(n->room.slots, c->key.room.slots) +
                     part(n->room.cpus_milli, c->key.room.cpus_milli) +
                     part(n->room.memory_mb, c->key.room.memory_mb);

        if (c->live.count && names_have(c->key.types, n->type) && sum > most) {
            most = sum;
            best = CONTAINER_OF(heap_min(&c->live), struct offer, node);
        }
    }
    return best;
}

struct room offers_room(const struct offer *w)
{
    return w->class->key.room;
}

struct room offers_missing(const struct offers_pool *p, const struct need *n)
{
    struct room most = {0};

    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];

        for (size_t k = 1; k <= c->live.count && class_fits(c, n); k++) {
            struct room left = free_room(CONTAINER_OF(c->live.items[k], struct offer, node));
            struct room less = n->room;

            room_add(&less, &left, -1);
            less.cpus_milli = n->room.cpus_milli ? less.cpus_milli : 0;
            less.memory_mb = n->room.memory_mb ? less.memory_mb : 0;
            most = room_most(&most, &less);
        }
    }
    return most;
}

bool offers_has_room(const struct offer *w, const struct need *n)
{
    struct room left = w->class->key.room;

    room_add(&left, &w->used, -1);
    return room_within(&n->room, &left);
}

static bool has_room(const struct offer *w, const struct room *r)
{
    struct room left = free_room(w);

    return !w->deaf && !w->avoided && room_within(r, &left);
}

static struct offer *freer_of(struct offer *a, struct offer *b)
{
    return !a || (b && free_slots(b) > free_slots(a)) ? b : a;
}

static struct offer *class_pick(const struct offer_class *c, const struct room *r)
{
    struct offer *w = CONTAINER_OF(heap_min(&c->live), struct offer, node);

    if (w->deaf || (r->slots && free_slots(w) < r->slots)) {
        return NULL;
    }
    /* The first one, unless it lacks something else. */
    for (size_t i = 1; i <= c->live.count; i++) {
        w = CONTAINER_OF(c->live.items[i], struct offer, node);
        if (has_room(w, r)) {
            return w;
        }
    }
    return NULL;
}

struct offer *offers_pick(const struct offers_pool *p, const struct need *n)
{
    struct offer *best = NULL;

    for (size_t i = 0; i < p->n_classes; i++) {
        if (class_fits(p->classes[i], n)) {
            best = freer_of(best, class_pick(p->classes[i], &n->room));
        }
    }
    return best;
}

struct offer *offers_pick_busy(const struct offers_pool *p, const struct need *n, int64_t rank)
{
    struct offer *best = NULL;

    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];

        for (size_t k = 1; k <= c->live.count && class_fits(c, n); k++) {
            struct offer *w = CONTAINER_OF(c->live.items[k], struct offer, node);

            if (!w->avoided && !w->deaf && w->kept > rank) {
                best = best && w->kept != best->kept ? (w->kept > best->kept ? w : best)
                                                     : freer_of(best, w);
            }
        }
    }
    return best;
}
