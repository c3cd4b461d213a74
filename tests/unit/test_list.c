#include "internal/list.h"

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

struct item {
    int value;
    struct list_node node;
};

static void expect(struct list *l, const int *values, size_t n)
{
    size_t i = 0;

    assert_int_equal(l->count, n);
    LIST_EACH(l, it)
    {
        assert_true(i < n);
        assert_int_equal(CONTAINER_OF(it, struct item, node)->value, values[i++]);
    }
    assert_int_equal(i, n);
    i = 0;
    for (struct list_node *it = list_first(l); it; it = list_next(l, it)) {
        assert_int_equal(CONTAINER_OF(it, struct item, node)->value, values[i++]);
    }
    assert_int_equal(i, n);
}

#define EXPECT(l, ...)                                                                             \
    expect(l, (const int[]){__VA_ARGS__}, ARRAY_LEN(((const int[]){__VA_ARGS__})))

static void order(void **state)
{
    (void)state;
    struct item a[4] = {{.value = 0}, {.value = 1}, {.value = 2}, {.value = 3}};
    struct list l;

    list_init(&l);
    expect(&l, NULL, 0);
    assert_null(list_first(&l));
    assert_null(list_pop(&l));
    list_push(&l, &a[1].node);
    list_push(&l, &a[3].node);
    list_push_front(&l, &a[0].node);
    list_insert_before(&l, &a[3].node, &a[2].node);
    EXPECT(&l, 0, 1, 2, 3);
    assert_true(list_linked(&a[2].node));
    list_remove(&a[2].node);
    assert_false(list_linked(&a[2].node));
    EXPECT(&l, 0, 1, 3);
    list_remove(&a[0].node);
    list_remove(&a[3].node);
    EXPECT(&l, 1);
    assert_ptr_equal(list_pop(&l), &a[1].node);
    expect(&l, NULL, 0);
    list_push(&l, &a[2].node); /* a removed node may come again */
    EXPECT(&l, 2);
}

static void the_list_is_known_to_the_node(void **state)
{
    (void)state;
    struct item a = {.value = 7};
    struct list one;
    struct list two;

    list_init(&one);
    list_init(&two);
    list_push(&one, &a.node);
    assert_ptr_equal(a.node.owner, &one);
    list_remove(&a.node);
    list_push(&two, &a.node);
    assert_int_equal(one.count, 0);
    assert_int_equal(two.count, 1);
}

static void removal_while_walking(void **state)
{
    (void)state;
    struct item a[6] = {{0}};
    struct list l;

    list_init(&l);
    for (int i = 0; i < 6; i++) {
        a[i].value = i;
        list_push(&l, &a[i].node);
    }
    LIST_EACH(&l, it)
    {
        if (CONTAINER_OF(it, struct item, node)->value % 2 == 0) {
            list_remove(it);
        }
    }
    EXPECT(&l, 1, 3, 5);
    LIST_EACH(&l, it)
    {
        list_remove(it);
    }
    expect(&l, NULL, 0);
}

static void entries(void **state)
{
    (void)state;
    struct item a = {.value = 9};
    struct list l;

    list_init(&l);
    assert_null(LIST_ENTRY(list_first(&l), struct item, node));
    list_push(&l, &a.node);
    assert_ptr_equal(LIST_ENTRY(list_first(&l), struct item, node), &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order),
        cmocka_unit_test(the_list_is_known_to_the_node),
        cmocka_unit_test(removal_while_walking),
        cmocka_unit_test(entries),
    };

    return cmocka_run_group_tests_name("list", tests, NULL, NULL);
}
