#include "internal/heap.h"
#include "internal/id.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define ITEMS 500

struct item {
    int64_t key;
    struct heap_node node;
};

static bool less(const struct heap_node *a, const struct heap_node *b)
{
    return CONTAINER_OF_CONST(a, struct item, node)->key <
           CONTAINER_OF_CONST(b, struct item, node)->key;
}

static void check(const struct heap *h)
{
    for (size_t i = 1; i <= h->count; i++) {
        assert_int_equal(h->items[i]->index, i);
        assert_true(i == 1 || !less(h->items[i], h->items[i / 2]));
    }
}

static void empty(void **state)
{
    (void)state;
    struct heap h;

    heap_init(&h, less);
    assert_null(heap_min(&h));
    assert_null(heap_pop(&h));
    heap_done(&h);
    heap_done(&h);
}

static void comes_out_in_order(void **state)
{
    (void)state;
    static const int64_t keys[] = {5, 3, 9, 1, 5, 5, 0, 8, -2, 7};
    struct item a[ARRAY_LEN(keys)] = {{0}};
    struct heap h;
    int64_t last = INT64_MIN;

    heap_init(&h, less);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        a[i].key = keys[i];
        assert_false(heap_linked(&a[i].node));
        heap_push(&h, &a[i].node);
        assert_true(heap_linked(&a[i].node));
        check(&h);
    }
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct heap_node *n = heap_pop(&h);
        int64_t key = CONTAINER_OF(n, struct item, node)->key;

        assert_true(key >= last);
        assert_false(heap_linked(n));
        last = key;
        check(&h);
    }
    assert_int_equal(h.count, 0);
    heap_done(&h);
}

/* Any sequence of changes keeps the heap a heap and the minimum the minimum. */
static void random_changes(void **state)
{
    (void)state;
    uint64_t seed = random_u64();
    struct item *a = xcalloc(ITEMS, sizeof(*a));
    struct heap h;

    print_message("seed %llu\n", (unsigned long long)seed);
    heap_init(&h, less);
    for (int step = 0; step < 20000; step++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        struct item *it = &a[(seed >> 33) % ITEMS];
        int64_t key = (int64_t)((seed >> 20) % 1000);

        if (!heap_linked(&it->node)) {
            it->key = key;
            heap_push(&h, &it->node);
        } else if (seed >> 62) {
            it->key = key;
            heap_fix(&h, &it->node);
        } else {
            heap_remove(&h, &it->node);
            assert_false(heap_linked(&it->node));
        }
        if (step % 100 == 0) {
            int64_t min = INT64_MAX;
            size_t count = 0;

            check(&h);
            for (int i = 0; i < ITEMS; i++) {
                if (heap_linked(&a[i].node)) {
                    min = MIN(min, a[i].key);
                    count++;
                }
            }
            assert_int_equal(h.count, count);
            assert_true(count == 0 || CONTAINER_OF(heap_min(&h), struct item, node)->key == min);
        }
    }
    heap_done(&h);
    free(a);
}

static void removes_every_position(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 12; n++) {
        for (size_t victim = 0; victim < n; victim++) {
            struct item a[12] = {{0}};
            struct heap h;

            heap_init(&h, less);
            for (size_t i = 0; i < n; i++) {
                a[i].key = (int64_t)((i * 7) % n);
                heap_push(&h, &a[i].node);
            }
            heap_remove(&h, &a[victim].node);
            check(&h);
            assert_int_equal(h.count, n - 1);
            heap_push(&h, &a[victim].node);
            check(&h);
            heap_done(&h);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty),
        cmocka_unit_test(comes_out_in_order),
        cmocka_unit_test(random_changes),
        cmocka_unit_test(removes_every_position),
    };

    return cmocka_run_group_tests_name("heap", tests, NULL, NULL);
}
