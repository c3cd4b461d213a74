/* What the workers of a pool offer together: counts, lanes, who has room. */
#include "pkg/manager/offers.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <uv.h>

static struct offers offers;
static struct offer workers[2000];
static int changes;

static void on_change(void *arg)
{
    (void)arg;
    changes++;
}

static int setup(void **state)
{
    (void)state;
    offers_init(&offers);
    offers.on_change = on_change;
    changes = 0;
    for (size_t i = 0; i < ARRAY_LEN(workers); i++) {
        offer_init(&workers[i]);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(workers); i++) {
        offers_forget(&offers, &workers[i]);
    }
    offers_done(&offers);
    return 0;
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static size_t count(const char *const *list)
{
    size_t n = 0;

    for (; list && list[n]; n++) {
    }
    return n;
}

static void say(size_t i, bool live, const char *const *pools, const char *const *types, int slots,
                int cpus, int memory)
{
    struct names *p = names_get(&offers.pool_names, pools, count(pools));
    struct names *t = names_get(&offers.type_names, types, count(types));
    struct offer_facts f = {live, p, t, {slots, cpus, memory}};

    offers_set(&offers, &workers[i], &f);
    names_drop(p);
    names_drop(t);
}

static struct need ask(const char *type, int slots, int cpus, int memory)
{
    return (struct need){type, {slots, cpus, memory}};
}

/* The lane that takes it; -1: none. */
static int lane_of(const char *pool, struct need n)
{
    struct offers_pool *p = offers_find(&offers, pool);

    for (size_t i = 0; i < offers_lanes(p); i++) {
        if (offers_filter_takes(&p->lanes[i], &n)) {
            return (int)i;
        }
    }
    return -1;
}

static int pick(const char *pool, struct need n)
{
    struct offer *w = offers_pick(offers_find(&offers, pool), &n);

    return w ? (int)(w - workers) : -1;
}

/* Another one than worker `i`. */
static int pick_beside(int i, struct need n)
{
    const struct offers_pool *p = offers_find(&offers, "a");

    workers[i].avoided = true;
    struct offer *w = offers_pick(p, &n);
    assert_ptr_equal(offers_pick_busy(p, &n, 0), w);
    assert_int_equal(offers_fits_elsewhere(p, &n), w != NULL);
    workers[i].avoided = false;
    return w ? (int)(w - workers) : -1;
}

static void test_another_one(void **state)
{
    struct need n = ask("X", 1, 0, 0);

    (void)state;
    say(0, true, NAMES("a"), NAMES("X"), 4, 1000, 100);
    assert_int_equal(pick_beside(0, n), -1);
    say(1, true, NAMES("a"), NAMES("X"), 4, 1000, 100); /* of its class */
    assert_int_equal(pick_beside(0, n), 1);
    assert_int_equal(pick_beside(1, n), 0);
    say(1, true, NAMES("a"), NAMES("X"), 2, 1000, 100); /* of another */
    assert_int_equal(pick_beside(0, n), 1);
    assert_int_equal(pick_beside(0, ask("X", 3, 0, 0)), -1);
    assert_int_equal(pick_beside(1, ask("X", 3, 0, 0)), 0);
    say(0, false, NAMES("a"), NAMES("X"), 4, 1000, 100);
    assert_int_equal(pick_beside(0, n), 1);
    assert_int_equal(pick_beside(1, n), -1);
}

static void test_counts(void **state)
{
    (void)state;
    say(0, true, NAMES("a", "b"), NAMES("X"), 4, 1000, 100);
    say(1, true, NAMES("a"), NAMES("X"), 8, 1000, 100);
    say(2, false, NAMES("c"), NAMES("X"), 8, 1000, 100);
    const struct offers_slots *s = offers_slots(offers_find(&offers, "a"));
    assert_int_equal(s->workers, 2);
    assert_int_equal(s->total, 12);
    assert_int_equal(s->available, 12);
    assert_int_equal(s->smallest, 4);
    assert_int_equal(s->largest, 8);
    assert_int_equal(offers_slots(offers_find(&offers, "b"))->total, 4);
    assert_int_equal(offers_slots(offers_find(&offers, "c"))->workers, 0);
    assert_null(offers_find(&offers, "d"));

    struct room two = {2, 0, 0};
    offers_use(&workers[0], &two, 1);
    assert_int_equal(s->available, 10);
    assert_int_equal(offers_slots(offers_find(&offers, "b"))->available, 2);
    offers_use(&workers[0], &(struct room){9, 0, 0}, 1); /* it was larger when it took them */
    assert_int_equal(s->available, 8);
    offers_use(&workers[0], &(struct room){9, 0, 0}, -1);
    assert_int_equal(s->available, 10);
    say(0, false, NAMES("a", "b"), NAMES("X"), 4, 1000, 100);
    s = offers_slots(offers_find(&offers, "a"));
    assert_int_equal(s->workers, 1);
    assert_int_equal(s->available, 8);
    assert_int_equal(s->smallest, 8);
    offers_use(&workers[0], &two, -1); /* ends while it is away */
    say(0, true, NAMES("a"), NAMES("X"), 4, 1000, 100);
    assert_int_equal(offers_slots(offers_find(&offers, "a"))->available, 12);
    assert_null(offers_find(&offers, "b"));
}

/* A beat that says nothing new costs nobody anything. */
static void test_only_changes_are_told(void **state)
{
    struct offers_pool *p;

    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        say(i, true, NAMES("a", "b"), NAMES("X", "Y"), 4, 1000, 100);
    }
    assert_int_equal(changes, 2);
    while ((p = offers_next_changed(&offers))) {
        offers_slots(p);
    }
    changes = 0;
    for (size_t i = 0; i < 1000; i++) {
        say(i, true, NAMES("a", "b"), NAMES("X", "Y"), 4, 1000, 100);
    }
    assert_int_equal(changes, 0);
    say(7, false, NAMES("a", "b"), NAMES("X", "Y"), 4, 1000, 100);
    assert_int_equal(changes, 2);
    assert_false(offers_find(&offers, "a")->stale); /* the others offer the same */
    assert_int_equal(offers_find(&offers, "a")->slots.workers, 999);
}

static void test_alike_workers_share_everything(void **state)
{
    (void)state;
    say(0, true, NAMES("a"), NAMES("X", "Y"), 4, 2000, 100);
    say(1, true, NAMES("a"), NAMES("X", "Y"), 4, 2000, 100);
    assert_int_equal(offers_lanes(offers_find(&offers, "a")), OFFERS_SHARED);
    assert_int_equal(lane_of("a", ask("X", 4, 2000, 100)), 1);
    assert_int_equal(lane_of("a", ask("Y", 1, 0, 0)), 0);
    assert_int_equal(lane_of("a", ask("X", 5, 0, 0)), -1);
    assert_int_equal(lane_of("a", ask("X", 1, 2001, 0)), -1);
    assert_int_equal(lane_of("a", ask("X", 1, 0, 101)), -1);
    assert_int_equal(lane_of("a", ask("Z", 1, 0, 0)), -1);
}

/* Shared: Command up to the small one. Else each set of workers has what it alone can take. */
static void test_lanes(void **state)
{
    struct offers_pool *p;

    (void)state;
    say(0, true, NAMES("a"), NAMES("Command"), 2, 2000, 100);
    say(1, true, NAMES("a"), NAMES("Command", "Spark"), 8, 8000, 50);
    say(2, true, NAMES("a"), NAMES("Command", "Spark"), 4, 4000, 1000);
    p = offers_find(&offers, "a");
    assert_int_equal(offers_lanes(p), 13);
    assert_int_equal(lane_of("a", ask("Command", 2, 0, 0)), 0);
    assert_int_equal(lane_of("a", ask("Command", 2, 2000, 50)), 1);
    int lanes[] = {0,
                   lane_of("a", ask("Command", 1, 0, 60)), /* 0, 2 */
                   lane_of("a", ask("Command", 3, 0, 0)),  /* 1, 2 */
                   lane_of("a", ask("Command", 8, 0, 0)),
                   lane_of("a", ask("Command", 1, 0, 1000)),
                   lane_of("a", ask("Spark", 4, 4000, 50)),
                   lane_of("a", ask("Spark", 5, 0, 0)),
                   lane_of("a", ask("Spark", 1, 0, 1000))};
    for (size_t i = 1; i < ARRAY_LEN(lanes); i++) {
        for (size_t k = 0; k < i; k++) {
            assert_true(lanes[i] > 1 && lanes[i] != lanes[k]);
        }
    }
    assert_int_equal(lane_of("a", ask("Command", 4, 0, 0)), lanes[2]);
    assert_int_equal(lane_of("a", ask("Command", 1, 0, 900)), lanes[4]);
    assert_true(lane_of("a", ask("Command", 3, 3000, 50)) > 1);
    assert_true(lane_of("a", ask("Command", 3, 3000, 50)) != lanes[2]);
    /* Each has a part of it, none has all. */
    assert_int_equal(lane_of("a", ask("Spark", 5, 0, 60)), -1);
    struct need both = ask("Spark", 5, 0, 60);
    assert_false(offers_fits(p, &both));
    assert_ptr_equal(offers_closest(p, &both), &workers[1]);
    both.room.memory_mb = 500;
    assert_ptr_equal(offers_closest(p, &both), &workers[2]);
    assert_int_equal(offers_room(&workers[2]).memory_mb, 1000);
    /* The one without Spark goes: what was for some is for all. */
    say(0, false, NAMES("a"), NAMES("Command"), 2, 2000, 100);
    assert_int_equal(lane_of("a", ask("Spark", 4, 4000, 50)), 1);
    assert_true(lane_of("a", ask("Spark", 5, 0, 0)) != lane_of("a", ask("Spark", 1, 0, 60)));
    say(1, false, NAMES("a"), NAMES("Command", "Spark"), 8, 8000, 50);
    say(2, false, NAMES("a"), NAMES("Command", "Spark"), 4, 4000, 1000);
    assert_int_equal(offers_lanes(p), 0);
}

static void test_names_are_kept_once(void **state)
{
    struct names_table t = {0};
    struct names *a = names_get(&t, NAMES("x", "y", "x"), 3);
    struct names *b = names_get(&t, NAMES("x", "y"), 2);
    struct names *c = names_get(&t, NAMES("y", "x"), 2);
    size_t bytes = t.bytes;

    (void)state;
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c); /* as they were said */
    assert_int_equal(names_count(&t), 2);
    assert_true(a->n == 2 && !a->items[2] && names_have(a, "y"));
    assert_false(names_have(a, "z") || names_have(NULL, "x"));
    assert_null(names_get(&t, NULL, 0));
    names_drop(a);
    names_drop(names_hold(b));
    assert_int_equal(t.bytes, bytes);
    names_drop(b);
    names_drop(c);
    assert_int_equal(t.bytes, 0);
    assert_null(t.lists);
    assert_null(t.names);
}

/* Every size of each of many pools would be a lane: the last pools do with a few. */
static void test_lanes_of_all_pools(void **state)
{
    char names[64][16];
    const char *list[65] = {NULL};

    (void)state;
    for (size_t i = 0; i < 72; i++) { /* 6 sets of pools, 12 workers each */
        for (size_t k = 0; k < 64; k++) {
            snprintf(names[k], sizeof(names[k]), "p%zu-%zu", i / 12, k);
            list[k] = names[k];
        }
        say(i, true, list, NAMES("X"), 1 + (int)(i % 12), 100, 100);
    }
    size_t most = 0;
    size_t least = SIZE_MAX;
    for (struct offers_pool *p = offers.pools; p; p = p->hh.next) {
        struct need n = ask("X", 12, 100, 100);
        size_t lanes = offers_lanes(p);

        most = MAX(most, lanes);
        least = MIN(least, lanes);
        assert_true(lane_of(p->name, n) > 1 && offers_fits(p, &n));
        assert_true(lane_of(p->name, ask("X", 1, 0, 0)) == 0);
    }
    assert_true(most > 20 && least == OFFERS_SHARED + 1);
    assert_in_range(offers.lanes, OFFERS_LANES_SUM, OFFERS_LANES_SUM + 6 * 64 * 3 + 64);
}

static void test_the_order_of_arrival_does_not_matter(void **state)
{
    struct offers_filter before[OFFERS_LANES_MAX];

    (void)state;
    say(0, true, NAMES("a"), NAMES("Command"), 2, 2000, 100);
    say(1, true, NAMES("a"), NAMES("Spark", "Command"), 8, 8000, 50);
    say(2, true, NAMES("a"), NAMES("Spark", "Command"), 4, 4000, 1000);
    size_t n = offers_lanes(offers_find(&offers, "a"));
    for (size_t i = 0; i < n; i++) {
        offers_filter_copy(&before[i], &offers_find(&offers, "a")->lanes[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        offers_forget(&offers, &workers[i]);
    }
    say(2, true, NAMES("a"), NAMES("Spark", "Command"), 4, 4000, 1000);
    say(1, true, NAMES("a"), NAMES("Command", "Spark"), 8, 8000, 50);
    say(0, true, NAMES("a"), NAMES("Command"), 2, 2000, 100);
    assert_int_equal(offers_lanes(offers_find(&offers, "a")), n);
    for (size_t i = 0; i < n; i++) {
        assert_true(offers_filter_eq(&before[i], &offers_find(&offers, "a")->lanes[i]));
        offers_filter_done(&before[i]);
    }
}

/* Of more sizes than are told apart each task that fits somebody still has a lane. */
static void test_sizes_are_bounded(void **state)
{
    (void)state;
    for (size_t i = 0; i < 100; i++) {
        say(i, true, NAMES("a"), NAMES("X"), 1 + (int)i, 100 - (int)i, 50);
    }
    assert_int_equal(offers_lanes(offers_find(&offers, "a")), 4);
    for (size_t i = 0; i < 100; i++) {
        assert_true(lane_of("a", ask("X", 1 + (int)i, 100 - (int)i, 50)) >= 0);
    }
    assert_int_equal(lane_of("a", ask("X", 1, 1, 51)), -1);
}

/* More kinds than lanes: every task that fits somebody is still in one. */
static void test_lanes_are_bounded(void **state)
{
    char name[300][8];

    (void)state;
    for (size_t i = 0; i < 300; i++) {
        snprintf(name[i], sizeof(name[i]), "T%zu", i);
        say(i, true, NAMES("a"), NAMES(name[i], "Noop"), 1 + (int)(i % 7), 1000 + (int)i,
            1000 - (int)i);
    }
    assert_int_equal(offers_lanes(offers_find(&offers, "a")), OFFERS_LANES_MAX);
    for (size_t i = 0; i < 300; i++) {
        assert_true(lane_of("a", ask(name[i], 1 + (int)(i % 7), 1000 + (int)i, 0)) >= 0);
        assert_int_equal(pick("a", ask(name[i], 1, 1, 1)), i);
    }
    assert_true(lane_of("a", ask("Noop", 7, 1, 1)) >= 0);
    assert_int_equal(lane_of("a", ask("Noop", 8, 1, 1)), -1);
}

/* Thousands of beats that nobody sent, each with other types. Were each of these compared with each
 * it would take half a minute and more. */
static void test_types_without_number(void **state)
{
    char name[200][16];
    const char *types[201] = {NULL};
    uint64_t begin = uv_hrtime();

    (void)state;
    for (size_t i = 0; i < 200; i++) {
        for (size_t k = 0; k < 200; k++) {
            snprintf(name[k], sizeof(name[k]), "T%zu", (i * 200 + k) * 7919 % 40000);
            types[k] = name[k];
        }
        say(i, true, NAMES("a"), types, 1, 1, 1);
    }
    assert_int_equal(offers_lanes(offers_find(&offers, "a")), OFFERS_LANES_MAX);
    assert_true(lane_of("a", ask("T39999", 1, 1, 1)) >= 0);
    assert_true(uv_hrtime() - begin < 20000000000U);
}

static void test_who_has_room(void **state)
{
    (void)state;
    say(0, true, NAMES("a"), NAMES("X"), 4, 4000, 100);
    say(1, true, NAMES("a"), NAMES("X"), 4, 4000, 100);
    say(2, true, NAMES("a"), NAMES("Y"), 16, 4000, 100);
    offers_use(&workers[0], &(struct room){1, 0, 0}, 1);
    assert_int_equal(pick("a", ask("X", 1, 0, 0)), 1); /* the one with most */
    assert_int_equal(pick("a", ask("X", 4, 0, 0)), 1);
    assert_int_equal(pick("a", ask("X", 5, 0, 0)), -1);
    assert_int_equal(pick("a", ask("Y", 5, 0, 0)), 2);
    /* Memory is counted, and what is on its way. */
    offers_direct(&workers[1], &(struct room){1, 0, 90}, 1);
    assert_int_equal(pick("a", ask("X", 1, 0, 50)), 0);
    assert_int_equal(pick("a", ask("X", 3, 0, 20)), 0);
    offers_use(&workers[0], &(struct room){1, 0, 100}, 1);
    assert_int_equal(pick("a", ask("X", 1, 0, 50)), -1);
    assert_int_equal(pick("a", ask("X", 1, 0, 10)), 1);
    offers_direct(&workers[1], &(struct room){1, 0, 90}, -1);
    assert_int_equal(pick("a", ask("X", 1, 0, 50)), 1);
    /* What asks for no memory needs none. */
    offers_use(&workers[1], &(struct room){0, 0, 200}, 1);
    assert_int_equal(pick("a", ask("X", 4, 0, 0)), 1);
    offers_deafen(&workers[1]);
    assert_int_equal(pick("a", ask("X", 1, 0, 0)), 0);
    struct need all = ask("X", 4, 0, 0);
    assert_ptr_equal(offers_pick_busy(offers_find(&offers, "a"), &all, 7), &workers[0]);
    offers_keep(&workers[0], 7);
    assert_null(offers_pick_busy(offers_find(&offers, "a"), &all, 7));
    assert_ptr_equal(offers_pick_busy(offers_find(&offers, "a"), &all, 6), &workers[0]);
    offers_keep(&workers[0], OFFERS_KEPT_FOR_NONE);
    all.room.slots = 5;
    assert_null(offers_pick_busy(offers_find(&offers, "a"), &all, 7));
    offers_deafen(&workers[0]);
    assert_int_equal(pick("a", ask("X", 1, 0, 0)), -1);
    say(1, true, NAMES("a"), NAMES("X"), 4, 4000, 100); /* heard again */
    assert_int_equal(pick("a", ask("X", 1, 0, 0)), 1);
    say(1, false, NAMES("a"), NAMES("X"), 4, 4000, 100);
    assert_int_equal(pick("a", ask("X", 1, 0, 0)), -1);
}

static void test_names_said_twice(void **state)
{
    (void)state;
    say(0, true, NAMES("a", "a"), NAMES("X", "X"), 4, 4000, 100);
    say(1, true, NAMES("a"), NAMES("Y"), 4, 4000, 100);
    assert_int_equal(offers_slots(offers_find(&offers, "a"))->total, 8);
    assert_true(lane_of("a", ask("X", 1, 0, 0)) > 0);
    say(0, true, NAMES("b"), NAMES("X"), 4, 4000, 100);
    assert_int_equal(offers_slots(offers_find(&offers, "a"))->total, 4);
    assert_int_equal(lane_of("a", ask("X", 1, 0, 0)), -1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_counts),
        T(test_only_changes_are_told),
        T(test_alike_workers_share_everything),
        T(test_lanes),
        T(test_names_are_kept_once),
        T(test_lanes_of_all_pools),
        T(test_the_order_of_arrival_does_not_matter),
        T(test_sizes_are_bounded),
        T(test_lanes_are_bounded),
        T(test_types_without_number),
        T(test_who_has_room),
        T(test_another_one),
        T(test_names_said_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
