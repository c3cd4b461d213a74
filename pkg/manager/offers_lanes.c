/* What the live workers of a pool can take together, as filters over its tasks. */
#include "pkg/manager/offers_priv.h"

#include <stdlib.h>

/* ---- filters ---- */

static int compare_types(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;

    return strcmp(*x, *y);
}

bool offers_filter_takes(const struct offers_filter *f, const struct need *n)
{
    if (!room_within(&n->room, &f->most)) {
        return false;
    }
    for (size_t i = 0; i < f->n_out; i++) {
        if (room_within(&n->room, &f->out[i])) {
            return false;
        }
    }
    return f->n_types &&
           bsearch(&n->type, f->types, f->n_types, sizeof(*f->types), compare_types) != NULL;
}

bool offers_filter_eq(const struct offers_filter *a, const struct offers_filter *b)
{
    bool eq = a->n_types == b->n_types && a->n_out == b->n_out && room_eq(&a->most, &b->most) &&
              a->coarse == b->coarse;

    for (size_t i = 0; eq && i < a->n_out; i++) {
        eq = room_eq(&a->out[i], &b->out[i]);
    }
    for (size_t i = 0; eq && i < a->n_types; i++) {
        eq = streq(a->types[i], b->types[i]);
    }
    return eq;
}

static void *grown(void *list, size_t n, size_t size)
{
    if (n & (n - 1)) {
        return list;
    }
    return xrealloc(list, MAX(2 * n, (size_t)1) * size); /* 0, or a power of two: it is full */
}

static void add_type(struct offers_filter *f, const char *type)
{
    f->types = grown(f->types, f->n_types, sizeof(*f->types));
    f->types[f->n_types++] = xstrdup(type);
}

static void add_out(struct offers_filter *f, const struct room *r)
{
    f->out = grown(f->out, f->n_out, sizeof(*f->out));
    f->out[f->n_out++] = *r;
}

void offers_filter_copy(struct offers_filter *dst, const struct offers_filter *src)
{
    *dst = (struct offers_filter){.most = src->most, .coarse = src->coarse};
    for (size_t i = 0; i < src->n_types; i++) {
        add_type(dst, src->types[i]);
    }
    for (size_t i = 0; i < src->n_out; i++) {
        add_out(dst, &src->out[i]);
    }
}

void offers_filter_done(struct offers_filter *f)
{
    for (size_t i = 0; i < f->n_types; i++) {
        free(f->types[i]);
    }
    free(f->types);
    free(f->out);
    *f = (struct offers_filter){0};
}

void offers_lanes_clear(struct offers_pool *p)
{
    for (size_t i = 0; i < p->n_lanes; i++) {
        offers_filter_done(&p->lanes[i]);
    }
    p->n_lanes = 0;
}

/* ---- sizes ---- */

/* Types that the same live classes offer. The sizes are those of the classes, and for any two what
 * both have; and the slots of each alone. So of the sizes that hold a task one is the smallest, and
 * tells who can take it: the classes that have as much. */
struct group {
    uint64_t set; /* the sum of their marks */
    UT_hash_handle hh;
    const char **types;
    size_t n_types;
    const struct offer_class *last; /* that was added */
    size_t classes;
    struct room all; /* each of them has this */
    struct room most;
    struct room sizes[OFFERS_SIZES_MAX]; /* not once there are more of them */
    size_t n;
    bool many;
};

static void add_one(struct group *g, const struct room *r)
{
    for (size_t i = 0; i < g->n; i++) {
        if (room_eq(r, &g->sizes[i])) {
            return;
        }
    }
    if (g->n == OFFERS_SIZES_MAX) {
        g->many = true;
    } else {
        g->sizes[g->n++] = *r;
    }
}

static struct room plain(const struct room *r)
{
    return (struct room){.slots = r->slots};
}

static void add_size(struct group *g, const struct room *r)
{
    size_t before = g->n;
    struct room slots = plain(r);

    g->all = g->classes ? room_least(&g->all, r) : *r;
    g->most = g->classes++ ? room_most(&g->most, r) : *r;
    add_one(g, r);
    add_one(g, &slots);
    for (size_t i = 0; i < before; i++) {
        struct room both = room_least(&g->sizes[i], r);

        add_one(g, &both);
    }
}

/* Too many to tell apart: as if one worker had the most of each. */
static void join_many(struct group *g)
{
    const struct room of[] = {plain(&g->all), g->all, plain(&g->most), g->most};

    if (g->many) {
        g->n = 0;
        for (size_t i = 0; i < ARRAY_LEN(of); i++) {
            add_one(g, &of[i]);
        }
    }
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

/* ---- groups ---- */

struct offered {
    const char *type;
    UT_hash_handle hh;
    uint64_t set;
    struct group *group;
};

static struct offered *offered_find(struct offered *list, const char *type)
{
    struct offered *t = NULL;

    HASH_FIND_STR(list, type, t);
    return t;
}

static void mark_types(struct offered **list, const struct offer_class *c)
{
    for (size_t k = 0; c->types[k]; k++) {
        struct offered *t = offered_find(*list, c->types[k]);

        if (!t) {
            t = xmalloc(sizeof(*t));
            t->type = c->types[k];
            HASH_ADD_KEYPTR(hh, *list, t->type, strlen(t->type), t);
        }
        t->set += c->mark;
    }
}

static int by_type(const struct offered *a, const struct offered *b)
{
    return strcmp(a->type, b->type);
}

/* The order in which workers came must not make another shape of the same offers. */
static struct group *make_groups(struct offered **list)
{
    struct group *groups = NULL;

    HASH_SORT(*list, by_type);
    for (struct offered *t = *list; t; t = t->hh.next) {
        struct group *g = NULL;

        HASH_FIND(hh, groups, &t->set, sizeof(t->set), g);
        if (!g) {
            g = xmalloc(sizeof(*g));
            g->set = t->set;
            HASH_ADD(hh, groups, set, sizeof(g->set), g);
        }
        g->types = grown(g->types, g->n_types, sizeof(*g->types));
        g->types[g->n_types++] = t->type;
        t->group = g;
    }
    return groups;
}

static void add_class(struct offered *list, const struct offer_class *c)
{
    for (size_t k = 0; c->types[k]; k++) {
        struct group *g = offered_find(list, c->types[k])->group;

        if (g->last != c) {
            g->last = c;
            add_size(g, &c->room);
        }
    }
}

/* ---- lanes ---- */

/* Tasks of these types within size k, and within none that is smaller. */
static void fill_lane(struct offers_filter *f, const struct group *g, size_t k)
{
    for (size_t i = 0; i < g->n_types; i++) {
        add_type(f, g->types[i]);
    }
    f->most = g->sizes[k];
    for (size_t i = 0; i < k; i++) {
        if (room_within(&g->sizes[i], &g->sizes[k])) {
            add_out(f, &g->sizes[i]);
        }
    }
    if (g->many && room_eq(&g->sizes[k], &g->most)) {
        f->coarse = g->set | 1;
    }
}

/* The last one takes what is left, whatever it is. */
static void join_last(struct offers_filter *f, const struct group *g, size_t k, uint64_t everybody)
{
    f->most = room_most(&f->most, &g->sizes[k]);
    f->coarse = everybody | 1;
    f->n_out = 0;
    for (size_t i = 0; i < g->n_types; i++) {
        add_type(f, g->types[i]);
    }
}

static void sort_types(struct offers_filter *f)
{
    size_t n = 0;

    qsort(f->types, f->n_types, sizeof(*f->types), compare_types);
    for (size_t i = 0; i < f->n_types; i++) {
        if (n && streq(f->types[n - 1], f->types[i])) {
            free(f->types[i]);
        } else {
            f->types[n++] = f->types[i];
        }
    }
    f->n_types = n;
}

static void make_lanes(struct offers_pool *p, struct group *groups, size_t classes,
                       uint64_t everybody)
{
    size_t shared = 0;
    bool full = false;

    p->n_lanes = OFFERS_SHARED;
    for (struct group *g = groups; g; g = g->hh.next) {
        join_many(g);
        qsort(g->sizes, g->n, sizeof(*g->sizes), compare_rooms);
        for (size_t k = 0; k < g->n; k++) {
            if (g->classes == classes && room_within(&g->sizes[k], &g->all)) {
                fill_lane(&p->lanes[shared++], g, k);
            } else if (p->n_lanes < OFFERS_LANES_MAX) {
                fill_lane(&p->lanes[p->n_lanes++], g, k);
            } else {
                join_last(&p->lanes[p->n_lanes - 1], g, k, everybody);
                full = true;
            }
        }
    }
    if (full) {
        sort_types(&p->lanes[p->n_lanes - 1]);
    }
}

static void free_all(struct offered *list, struct group *groups)
{
    struct offered *t;
    struct offered *next;
    struct group *g;
    struct group *next_group;

    HASH_ITER(hh, list, t, next)
    {
        HASH_DEL(list, t);
        free(t);
    }
    HASH_ITER(hh, groups, g, next_group)
    {
        HASH_DEL(groups, g);
        free(g->types);
        free(g);
    }
}

void offers_refresh(struct offers_pool *p)
{
    struct offered *list = NULL;
    size_t classes = 0;
    uint64_t everybody = 0;

    p->stale = false;
    p->slots.largest = p->slots.smallest = 0;
    offers_lanes_clear(p);
    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];

        if (c->live.count) {
            p->slots.largest = MAX(p->slots.largest, c->room.slots);
            p->slots.smallest = classes++ ? MIN(p->slots.smallest, c->room.slots) : c->room.slots;
            everybody += c->mark;
            mark_types(&list, c);
        }
    }
    struct group *groups = make_groups(&list);
    for (size_t i = 0; i < p->n_classes; i++) {
        if (p->classes[i]->live.count) {
            add_class(list, p->classes[i]);
        }
    }
    if (classes) {
        make_lanes(p, groups, classes, everybody);
    }
    free_all(list, groups);
}
