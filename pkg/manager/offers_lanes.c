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
    bool eq = a->names == b->names && a->n_out == b->n_out && room_eq(&a->most, &b->most) &&
              a->coarse == b->coarse;

    for (size_t i = 0; eq && i < a->n_out; i++) {
        eq = room_eq(&a->out[i], &b->out[i]);
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

/* Takes the list over. */
static void set_types(struct offers_filter *f, struct names *types)
{
    names_drop(f->names);
    f->names = types;
    f->types = names_items(types);
    f->n_types = types ? types->n : 0;
}

static void add_out(struct offers_filter *f, const struct room *r)
{
    f->out = grown(f->out, f->n_out, sizeof(*f->out));
    f->out[f->n_out++] = *r;
}

void offers_filter_copy(struct offers_filter *dst, const struct offers_filter *src)
{
    *dst = (struct offers_filter){.most = src->most, .coarse = src->coarse};
    set_types(dst, names_hold(src->names));
    for (size_t i = 0; i < src->n_out; i++) {
        add_out(dst, &src->out[i]);
    }
}

void offers_filter_done(struct offers_filter *f)
{
    names_drop(f->names);
    free(f->out);
    *f = (struct offers_filter){0};
}

void offers_lanes_clear(struct offers_pool *p)
{
    for (size_t i = 0; i < p->n_lanes; i++) {
        offers_filter_done(&p->lanes[i]);
    }
    p->of->lanes -= p->n_lanes;
    free(STEAL(p->lanes));
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
    struct names *names;       /* the same */
    const struct listed *last; /* that has it */
    bool in_last;              /* lane, which takes what is left */
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
    if (g->many) {
        return;
    }
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
    const char *type; /* of the table of names: its address says which */
    UT_hash_handle hh;
    uint64_t set;
    struct group *group;
};

/* Classes that offer the same types. */
struct listed {
    const struct names *types;
    UT_hash_handle hh;
    uint64_t set;          /* the sum of their marks */
    struct group **groups; /* of its types, none twice */
    size_t n_groups;
};

struct grouping {
    struct listed *lists;
    struct offered *types;
    struct group *groups;
};

static struct listed *listed_get(struct grouping *w, const struct names *types)
{
    struct listed *l = NULL;

    HASH_FIND(hh, w->lists, &types, sizeof(void *), l);
    if (!l) {
        l = xmalloc(sizeof(*l));
        l->types = types;
        HASH_ADD(hh, w->lists, types, sizeof(void *), l);
    }
    return l;
}

static struct offered *offered_get(struct grouping *w, const char *type)
{
    struct offered *t = NULL;

    HASH_FIND(hh, w->types, &type, sizeof(type), t);
    if (!t) {
        t = xmalloc(sizeof(*t));
        t->type = type;
        HASH_ADD(hh, w->types, type, sizeof(t->type), t);
    }
    return t;
}

static void mark_types(struct grouping *w)
{
    for (const struct listed *l = w->lists; l; l = l->hh.next) {
        for (char *const *type = names_items(l->types); *type; type++) {
            offered_get(w, *type)->set += l->set;
        }
    }
}

static int by_type(const struct offered *a, const struct offered *b)
{
    return strcmp(a->type, b->type);
}

static struct group *group_get(struct grouping *w, uint64_t set)
{
    struct group *g = NULL;

    HASH_FIND(hh, w->groups, &set, sizeof(set), g);
    if (!g) {
        g = xmalloc(sizeof(*g));
        g->set = set;
        HASH_ADD(hh, w->groups, set, sizeof(g->set), g);
    }
    return g;
}

/* The order in which workers came must not make another shape of the same offers. */
static void make_groups(struct grouping *w, struct names_table *names)
{
    HASH_SORT(w->types, by_type);
    for (struct offered *t = w->types; t; t = t->hh.next) {
        struct group *g = t->group = group_get(w, t->set);

        g->types = grown(g->types, g->n_types, sizeof(*g->types));
        g->types[g->n_types++] = t->type;
    }
    for (struct group *g = w->groups; g; g = g->hh.next) {
        g->names = names_get(names, g->types, g->n_types);
    }
}

static void group_lists(struct grouping *w)
{
    for (struct listed *l = w->lists; l; l = l->hh.next) {
        for (char *const *type = names_items(l->types); *type; type++) {
            struct group *g = offered_get(w, *type)->group;

            if (g->last != l) {
                g->last = l;
                l->groups = grown(l->groups, l->n_groups, sizeof(struct group *));
                l->groups[l->n_groups++] = g;
            }
        }
    }
}

static void add_class(struct grouping *w, const struct offer_class *c)
{
    const struct listed *l = listed_get(w, c->key.types);

    for (size_t i = 0; i < l->n_groups; i++) {
        add_size(l->groups[i], &c->key.room);
    }
}

/* ---- lanes ---- */

/* Tasks of these types within size k, and within none that is smaller. */
static void fill_lane(struct offers_filter *f, const struct group *g, size_t k)
{
    set_types(f, names_hold(g->names));
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

/* What is left, whatever it is. */
static void join_last(struct offers_filter *f, struct group *g, size_t k, uint64_t everybody)
{
    g->in_last = true;
    f->most = room_most(&f->most, &g->sizes[k]);
    f->coarse = everybody | 1;
    f->n_out = 0;
}

static void join_types(struct offers_filter *f, const struct group *groups,
                       struct names_table *names)
{
    const char **types CLEANUP(freep) = NULL;
    size_t n = 0;

    for (const struct group *g = groups; g; g = g->hh.next) {
        for (size_t i = 0; i < g->n_types && g->in_last; i++) {
            types = grown(types, n, sizeof(*types));
            types[n++] = g->types[i];
        }
    }
    qsort(types, n, sizeof(*types), compare_types);
    set_types(f, names_get(names, types, n));
}

/* So many may a pool have now. */
static size_t lanes_most(const struct offers *o)
{
    size_t left = OFFERS_LANES_SUM - MIN(o->lanes, (size_t)OFFERS_LANES_SUM);

    return MIN(MAX(left, (size_t)OFFERS_SHARED + 1), (size_t)OFFERS_LANES_MAX);
}

static void make_lanes(struct offers_pool *p, struct group *groups, size_t classes,
                       uint64_t everybody)
{
    size_t most = lanes_most(p->of);
    size_t shared = 0;
    bool full = false;

    p->lanes = xcalloc(most, sizeof(*p->lanes));
    p->n_lanes = OFFERS_SHARED;
    for (struct group *g = groups; g; g = g->hh.next) {
        join_many(g);
        qsort(g->sizes, g->n, sizeof(*g->sizes), compare_rooms);
        for (size_t k = 0; k < g->n; k++) {
            if (g->classes == classes && room_within(&g->sizes[k], &g->all)) {
                fill_lane(&p->lanes[shared++], g, k);
            } else if (p->n_lanes < most) {
                fill_lane(&p->lanes[p->n_lanes++], g, k);
                g->in_last = p->n_lanes == most;
            } else {
                join_last(&p->lanes[most - 1], g, k, everybody);
                full = true;
            }
        }
    }
    if (full) {
        join_types(&p->lanes[most - 1], groups, &p->of->type_names);
    }
    p->lanes = xrealloc(p->lanes, p->n_lanes * sizeof(*p->lanes));
    p->of->lanes += p->n_lanes;
}

static void free_all(struct grouping *w)
{
    struct listed *l;
    struct listed *next_list;
    struct offered *t;
    struct offered *next;
    struct group *g;
    struct group *next_group;

    HASH_ITER(hh, w->lists, l, next_list)
    {
        HASH_DEL(w->lists, l);
        free(l->groups);
        free(l);
    }
    HASH_ITER(hh, w->types, t, next)
    {
        HASH_DEL(w->types, t);
        free(t);
    }
    HASH_ITER(hh, w->groups, g, next_group)
    {
        HASH_DEL(w->groups, g);
        names_drop(g->names);
        free(g->types);
        free(g);
    }
}

void offers_refresh(struct offers_pool *p)
{
    struct grouping w = {0};
    size_t classes = 0;
    uint64_t everybody = 0;

    p->stale = false;
    p->slots.largest = p->slots.smallest = 0;
    offers_lanes_clear(p);
    for (size_t i = 0; i < p->n_classes; i++) {
        const struct offer_class *c = p->classes[i];
        int64_t slots = c->key.room.slots;

        if (c->live.count) {
            p->slots.largest = MAX(p->slots.largest, slots);
            p->slots.smallest = classes++ ? MIN(p->slots.smallest, slots) : slots;
            everybody += c->mark;
            listed_get(&w, c->key.types)->set += c->mark;
        }
    }
    mark_types(&w);
    make_groups(&w, &p->of->type_names);
    group_lists(&w);
    for (size_t i = 0; i < p->n_classes; i++) {
        if (p->classes[i]->live.count) {
            add_class(&w, p->classes[i]);
        }
    }
    if (classes) {
        make_lanes(p, w.groups, classes, everybody);
    }
    free_all(&w);
}
