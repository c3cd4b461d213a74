/* What the live workers of a pool can take together, as filters over its tasks. */
#include "pkg/manager/offers_priv.h"

#include <stdlib.h>

/* ---- filters ---- */

static bool limits_take(const struct offers_limit *list, size_t n, const struct need *need)
{
    for (size_t i = 0; i < n; i++) {
        if (room_within(&need->room, &list[i].most) && streq(list[i].type, need->type)) {
            return true;
        }
    }
    return false;
}

bool offers_filter_takes(const struct offers_filter *f, const struct need *n)
{
    return limits_take(f->in, f->n_in, n) && !limits_take(f->out, f->n_out, n);
}

static bool limits_eq(const struct offers_limit *a, size_t n, const struct offers_limit *b,
                      size_t m)
{
    if (n != m) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!room_eq(&a[i].most, &b[i].most) || !streq(a[i].type, b[i].type)) {
            return false;
        }
    }
    return true;
}

bool offers_filter_eq(const struct offers_filter *a, const struct offers_filter *b)
{
    return limits_eq(a->in, a->n_in, b->in, b->n_in) &&
           limits_eq(a->out, a->n_out, b->out, b->n_out);
}

static void limit_add(struct offers_limit **list, size_t *n, const char *type, const struct room *r)
{
    if ((*n & (*n - 1)) == 0) { /* 0, or a power of two: it is full */
        *list = xrealloc(*list, MAX(2 * *n, (size_t)1) * sizeof(**list));
    }
    (*list)[(*n)++] = (struct offers_limit){xstrdup(type), *r};
}

void offers_filter_copy(struct offers_filter *dst, const struct offers_filter *src)
{
    *dst = (struct offers_filter){0};
    for (size_t i = 0; i < src->n_in; i++) {
        limit_add(&dst->in, &dst->n_in, src->in[i].type, &src->in[i].most);
    }
    for (size_t i = 0; i < src->n_out; i++) {
        limit_add(&dst->out, &dst->n_out, src->out[i].type, &src->out[i].most);
    }
}

static void limits_free(struct offers_limit *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(list[i].type);
    }
    free(list);
}

void offers_filter_done(struct offers_filter *f)
{
    limits_free(f->in, f->n_in);
    limits_free(f->out, f->n_out);
    *f = (struct offers_filter){0};
}

void offers_lanes_clear(struct offers_pool *p)
{
    for (size_t i = 0; i < p->n_lanes; i++) {
        offers_filter_done(&p->lanes[i]);
    }
    p->n_lanes = 0;
}

/* ---- lanes ---- */

/* One type, over the live classes that offer it. Its sizes are those of the classes, and for any
 * two what both have. So of the sizes that hold a task one is the smallest, and tells who can take
 * it: the classes that have as much. */
struct type_sizes {
    const char *type;
    UT_hash_handle hh;
    size_t classes;
    struct room all; /* each of them has this */
    struct room most;
    struct room sizes[OFFERS_SIZES_MAX]; /* not once there are more of them */
    size_t n;
    bool many;
};

static void add_one(struct type_sizes *t, const struct room *r)
{
    for (size_t i = 0; i < t->n; i++) {
        if (room_eq(r, &t->sizes[i])) {
            return;
        }
    }
    if (t->n == OFFERS_SIZES_MAX) {
        t->many = true;
    } else {
        t->sizes[t->n++] = *r;
    }
}

static void add_size(struct type_sizes *t, const struct room *r)
{
    size_t before = t->n;

    t->all = t->classes ? room_least(&t->all, r) : *r;
    t->most = t->classes++ ? room_most(&t->most, r) : *r;
    add_one(t, r);
    for (size_t i = 0; i < before; i++) {
        struct room both = room_least(&t->sizes[i], r);

        add_one(t, &both);
    }
}

/* Too many to tell apart: as if one worker had the most of each. */
static void join_many(struct type_sizes *t)
{
    if (t->many) {
        t->n = 0;
        add_one(t, &t->all);
        add_one(t, &t->most);
    }
}

static struct type_sizes *sizes_of(struct type_sizes **list, const char *type)
{
    struct type_sizes *t = NULL;

    HASH_FIND_STR(*list, type, t);
    if (!t) {
        t = xmalloc(sizeof(*t));
        t->type = type;
        HASH_ADD_KEYPTR(hh, *list, t->type, strlen(t->type), t);
    }
    return t;
}

/* Tasks of the type within its size k, and within none that is smaller. */
static void lane_add(struct offers_pool *p, const struct type_sizes *t, size_t k)
{
    bool full = p->n_lanes == OFFERS_LANES_MAX; /* the last one takes what is left, of any type */
    struct offers_filter *f = &p->lanes[full ? p->n_lanes - 1 : p->n_lanes++];

    limit_add(&f->in, &f->n_in, t->type, &t->sizes[k]);
    for (size_t i = 0; i < k && !full; i++) {
        if (room_within(&t->sizes[i], &t->sizes[k])) {
            limit_add(&f->out, &f->n_out, t->type, &t->sizes[i]);
        }
    }
}

static int by_type(const struct type_sizes *a, const struct type_sizes *b)
{
    return strcmp(a->type, b->type);
}

/* A smaller one first. */
static int compare_rooms(const void *a, const void *b)
{
    const struct room *x = a;
    const struct room *y = b;

    return x->slots != y->slots             ? (x->slots > y->slots ? 1 : -1)
           : x->cpus_milli != y->cpus_milli ? (x->cpus_milli > y->cpus_milli ? 1 : -1)
           : x->memory_mb != y->memory_mb   ? (x->memory_mb > y->memory_mb ? 1 : -1)
                                            : 0;
}

/* The order in which workers came must not make another shape of the same offers. */
static void sort_sizes(struct type_sizes **list)
{
    HASH_SORT(*list, by_type);
    for (struct type_sizes *t = *list; t; t = t->hh.next) {
        join_many(t);
        qsort(t->sizes, t->n, sizeof(*t->sizes), compare_rooms);
    }
}

static void make_lanes(struct offers_pool *p, const struct type_sizes *list, size_t classes,
                       const struct room *all)
{
    struct offers_filter *shared = &p->lanes[p->n_lanes++];

    for (const struct type_sizes *t = list; t; t = t->hh.next) {
        if (t->classes == classes) {
            limit_add(&shared->in, &shared->n_in, t->type, all);
        }
    }
    for (const struct type_sizes *t = list; t; t = t->hh.next) {
        for (size_t k = t->classes == classes ? 1 : 0; k < t->n; k++) {
            lane_add(p, t, k);
        }
    }
}

void offers_refresh(struct offers_pool *p)
{
    struct type_sizes *list = NULL;
    struct type_sizes *t;
    struct type_sizes *next;
    size_t classes = 0;
    struct room all = {0};

    p->stale = false;
    p->slots.largest = p->slots.smallest = 0;
    offers_lanes_clear(p);
    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];

        if (c->live.count == 0) {
            continue;
        }
        all = classes++ ? room_least(&all, &c->room) : c->room;
        p->slots.largest = MAX(p->slots.largest, c->room.slots);
        for (size_t k = 0; c->types[k]; k++) {
            add_size(sizes_of(&list, c->types[k]), &c->room);
        }
    }
    p->slots.smallest = all.slots;
    if (classes) {
        sort_sizes(&list);
        make_lanes(p, list, classes, &all);
    }
    HASH_ITER(hh, list, t, next)
    {
        HASH_DEL(list, t);
        free(t);
    }
}
