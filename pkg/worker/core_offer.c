/* What this node can do: by a look at it every few seconds, and by what became of the tasks that it
 * tried. A fault holds off a type, or everything; a time doubles with each, and ends with a look
 * that finds it well. */
#include "internal/broken.h"
#include "pkg/worker/core_priv.h"

#include <stdlib.h>

static struct wcore_offer *find(const struct wcore *c, const char *type)
{
    if (!type) {
        return &c->offers[0];
    }
    for (size_t i = 1; i < c->n_offers; i++) {
        if (streq(type, c->offers[i].type)) {
            return &c->offers[i];
        }
    }
    return NULL;
}

static struct wcore_offer *add(struct wcore *c, const char *type)
{
    c->offers = xrealloc(c->offers, (c->n_offers + 1) * sizeof(*c->offers));
    c->offers[c->n_offers] = (struct wcore_offer){.type = xstrdup(type), .able = true};
    return &c->offers[c->n_offers++];
}

void wcore_offers_init(struct wcore *c)
{
    add(c, NULL);
}

void wcore_offers_done(struct wcore *c)
{
    for (size_t i = 0; i < c->n_offers; i++) {
        free(c->offers[i].type);
        free(c->offers[i].why);
    }
    free(c->offers);
}

static void explain(struct wcore *c, struct wcore_offer *o, const char *why)
{
    if (!streq(o->why, why) && (o->why || why)) {
        char *text = xstrdup(why);

        free(o->why);
        o->why = text;
        c->news = true;
    }
}

static void look_at(struct wcore *c, int64_t now, struct wcore_offer *o, const char *why)
{
    o->able = !why;
    if (why) {
        explain(c, o, why);
    } else if (now >= o->until) {
        o->until = 0;
        explain(c, o, NULL);
    }
}

static bool is_listed(const struct wcore_able *list, size_t n, const char *type)
{
    for (size_t i = 0; i < n; i++) {
        if (streq(list[i].type, type)) {
            return true;
        }
    }
    return false;
}

static void forget_unlisted(struct wcore *c, const struct wcore_able *list, size_t n)
{
    for (size_t i = c->n_offers; i-- > 1;) {
        if (!is_listed(list, n, c->offers[i].type)) {
            free(c->offers[i].type);
            free(c->offers[i].why);
            c->offers[i] = c->offers[--c->n_offers];
            c->news = true;
        }
    }
}

void wcore_on_look(struct wcore *c, int64_t now, const struct wcore_able *list, size_t n)
{
    c->looked = true;
    forget_unlisted(c, list, n);
    for (size_t i = 0; i < n; i++) {
        struct wcore_offer *o = find(c, list[i].type);

        c->news = c->news || !o;
        look_at(c, now, o ? o : add(c, list[i].type), list[i].why);
    }
    wcore_give_back_unable(c);
}

int64_t wcore_look_due(const struct wcore *c)
{
    int64_t due = INT64_MAX;

    for (size_t i = 0; i < c->n_offers; i++) {
        due = c->offers[i].until ? MIN(due, c->offers[i].until) : due;
    }
    return due;
}

const char *wcore_unable(const struct wcore *c, const char *type)
{
    const struct wcore_offer *o = type ? find(c, type) : NULL;

    if (BROKEN(CAPABLE)) {
        return NULL;
    }
    if (c->offers[0].why) {
        return c->offers[0].why;
    }
    return o ? o->why : type && c->looked ? "this node does not offer that type of task" : NULL;
}

void wcore_hold_off(struct wcore *c, int64_t now, const char *type, const struct wcore_fault *f)
{
    if (f->of == WCORE_FAULT_ATTEMPT || (f->of == WCORE_FAULT_TYPE && !type)) {
        return;
    }
    const char *of = f->of == WCORE_FAULT_TYPE ? type : NULL;
    struct wcore_offer *o = find(c, of);
    o = o ? o : add(c, of);
    if (!o->until) { /* else others were on their way: no further one */
        o->delay = o->delay ? MIN(2 * o->delay, (int64_t)WCORE_HOLD_OFF_MAX_MS)
                            : (int64_t)WCORE_HOLD_OFF_MS;
        o->until = now + o->delay;
    }
    explain(c, o, f->reason);
    wcore_give_back_unable(c);
}

void wcore_prove(struct wcore *c, struct wcore_attempt *a)
{
    struct wcore_offer *o = a->type ? find(c, a->type) : NULL;

    if (!a->started_at) {
        return;
    }
    a->started_at = 0;
    c->offers[0].delay = 0;
    if (o) {
        o->delay = 0;
    }
}

const struct wcore_offer *wcore_offers(const struct wcore *c, size_t *ret_n)
{
    *ret_n = c->n_offers;
    return c->offers;
}

bool wcore_is_holding_off(const struct wcore *c)
{
    return c->offers[0].why != NULL;
}
