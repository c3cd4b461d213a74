/* Parameters and arrays in binary, decoded by hand. */
#include "internal/db.h"

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

static void assert_value(const struct db_params *p, int i, uint32_t oid, const void *data, int len)
{
    assert_in_range(i, 0, p->count - 1);
    assert_int_equal(p->oid[i], oid);
    assert_int_equal(p->len[i], len);
    if (len >= 0) {
        assert_memory_equal(p->ref[i] ? p->ref[i] : p->data.data + p->off[i], data, (size_t)len);
    }
}

static void test_scalars(void **state)
{
    (void)state;
    struct db_params p CLEANUP(db_params_free);
    struct id id = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

    db_params_init(&p);
    db_add_bool(&p, true);
    db_add_bool(&p, false);
    db_add_int(&p, -2);
    db_add_int(&p, INT32_MAX);
    db_add_bigint(&p, INT64_MIN);
    db_add_bigint(&p, 0x0102030405060708);
    db_add_text(&p, "gr\xc3\xbc\xc3\x9f");
    db_add_text(&p, "");
    db_add_bytes(&p, "a\0b", 3);
    db_add_bytes(&p, "", 0);
    db_add_id(&p, &id);
    assert_int_equal(p.failed, 0);
    assert_int_equal(p.count, 11);
    assert_value(&p, 0, 16, "\1", 1);
    assert_value(&p, 1, 16, "\0", 1);
    assert_value(&p, 2, 23, "\xff\xff\xff\xfe", 4);
    assert_value(&p, 3, 23, "\x7f\xff\xff\xff", 4);
    assert_value(&p, 4, 20, "\x80\0\0\0\0\0\0\0", 8);
    assert_value(&p, 5, 20, "\1\2\3\4\5\6\7\x08", 8);
    assert_value(&p, 6, 25, "gr\xc3\xbc\xc3\x9f", 6);
    assert_value(&p, 7, 25, "", 0);
    assert_value(&p, 8, 17, "a\0b", 3);
    assert_value(&p, 9, 17, "", 0);
    assert_value(&p, 10, 2950, id.b, 16);
}

static void test_nulls_keep_their_type(void **state)
{
    (void)state;
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_null(&p);
    db_add_text(&p, NULL);
    db_add_bytes(&p, NULL, 0);
    db_add_id(&p, NULL);
    db_add_time(&p, INT64_MIN);
    db_ref_bytes(&p, NULL, 0);
    assert_int_equal(p.failed, 0);
    assert_value(&p, 0, 0, NULL, -1);
    assert_value(&p, 1, 25, NULL, -1);
    assert_value(&p, 2, 17, NULL, -1);
    assert_value(&p, 3, 2950, NULL, -1);
    assert_value(&p, 4, 1184, NULL, -1);
    assert_value(&p, 5, 17, NULL, -1);
}

static void test_times(void **state)
{
    (void)state;
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_time(&p, 946684800000);
    db_add_time(&p, 946684800001);
    db_add_time(&p, 946684799999);
    db_add_time(&p, 0);
    assert_value(&p, 0, 1184, "\0\0\0\0\0\0\0\0", 8);
    assert_value(&p, 1, 1184, "\0\0\0\0\0\0\x03\xe8", 8);
    assert_value(&p, 2, 1184, "\xff\xff\xff\xff\xff\xff\xfc\x18", 8);
    assert_value(&p, 3, 1184, "\xff\xfc\xa2\xfe\xc4\xc8\x20\x00", 8); /* -946684800000000 */
    assert_int_equal(p.failed, 0);
    db_add_time(&p, INT64_MAX); /* no such year */
    assert_int_equal(p.failed, ERR_INVALID);
}

static void test_array_layout(void **state)
{
    (void)state;
    static const char ints[] = "\0\0\0\1" /* dimensions */
                               "\0\0\0\1" /* has NULLs */
                               "\0\0\0\x17"
                               "\0\0\0\3"                  /* elements */
                               "\0\0\0\1"                  /* lower bound */
                               "\0\0\0\4\0\0\0\5"          /* 5 */
                               "\xff\xff\xff\xff"          /* NULL */
                               "\0\0\0\4\xff\xff\xff\xff"; /* -1 */
    struct db_params p CLEANUP(db_params_free);
    struct db_array a CLEANUP(db_array_free);

    db_params_init(&p);
    db_array_init(&a, DB_INT);
    db_array_int(&a, 5);
    db_array_null(&a);
    db_array_int(&a, -1);
    db_add_array(&p, &a);
    db_ref_array(&p, &a);
    assert_int_equal(p.failed, 0);
    assert_value(&p, 0, 1007, ints, sizeof(ints) - 1);
    assert_value(&p, 1, 1007, ints, sizeof(ints) - 1);
    assert_null(p.ref[0]);
    assert_ptr_equal(p.ref[1], a.data.data);

    db_array_reset(&a);
    db_array_int(&a, 6);
    db_add_array(&p, &a);
    assert_value(&p, 2, 1007, "\0\0\0\1\0\0\0\0\0\0\0\x17\0\0\0\1\0\0\0\1\0\0\0\4\0\0\0\6", 28);
}

static void test_array_types(void **state)
{
    (void)state;
    static const struct {
        enum db_type type;
        uint32_t elem, array;
        int size;
    } rows[] = {{DB_BOOL, 16, 1000, 1},  {DB_INT, 23, 1007, 4},   {DB_BIGINT, 20, 1016, 8},
                {DB_TEXT, 25, 1009, 3},  {DB_BYTES, 17, 1001, 2}, {DB_ID, 2950, 2951, 16},
                {DB_TIME, 1184, 1185, 8}};
    struct id id = id_new();

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct db_params p CLEANUP(db_params_free);
        struct db_array a CLEANUP(db_array_free);

        db_params_init(&p);
        db_array_init(&a, rows[i].type);
        switch (rows[i].type) {
        case DB_BOOL:
            db_array_bool(&a, true);
            break;
        case DB_INT:
            db_array_int(&a, 1);
            break;
        case DB_BIGINT:
            db_array_bigint(&a, 1);
            break;
        case DB_TEXT:
            db_array_text(&a, "abc");
            break;
        case DB_BYTES:
            db_array_bytes(&a, "\0x", 2);
            break;
        case DB_ID:
            db_array_id(&a, &id);
            break;
        case DB_TIME:
            db_array_time(&a, 1);
            break;
        }
        db_add_array(&p, &a);
        assert_int_equal(p.failed, 0);
        assert_int_equal(p.oid[0], rows[i].array);
        assert_int_equal(p.len[0], 20 + 4 + rows[i].size);
        assert_int_equal((uint8_t)p.data.data[11] | (uint8_t)p.data.data[10] << 8, rows[i].elem);
        assert_int_equal(p.data.data[23], rows[i].size);
    }
}

static void test_array_null_elements(void **state)
{
    (void)state;
    struct db_params p CLEANUP(db_params_free);
    struct db_array text CLEANUP(db_array_free);
    struct db_array ids CLEANUP(db_array_free);
    struct db_array times CLEANUP(db_array_free);
    static const char expected[] = "\0\0\0\1\0\0\0\1\0\0\0\x19\0\0\0\2\0\0\0\1"
                                   "\xff\xff\xff\xff\0\0\0\0";

    db_params_init(&p);
    db_array_init(&text, DB_TEXT);
    db_array_text(&text, NULL);
    db_array_text(&text, "");
    db_add_array(&p, &text);
    assert_value(&p, 0, 1009, expected, sizeof(expected) - 1);

    db_array_init(&ids, DB_ID);
    db_array_id(&ids, NULL);
    db_add_array(&p, &ids);
    db_array_init(&times, DB_TIME);
    db_array_time(&times, INT64_MIN);
    db_add_array(&p, &times);
    assert_int_equal(p.len[1], 24);
    assert_int_equal(p.len[2], 24);
    assert_int_equal(p.failed, 0);
}

static void test_empty_array_has_no_dimension(void **state)
{
    (void)state;
    struct db_params p CLEANUP(db_params_free);
    struct db_array a CLEANUP(db_array_free);

    db_params_init(&p);
    db_array_init(&a, DB_ID);
    db_add_array(&p, &a);
    db_ref_array(&p, &a); /* there is nothing to refer to */
    assert_value(&p, 0, 2951, "\0\0\0\0\0\0\0\0\0\0\x0b\x86", 12);
    assert_value(&p, 1, 2951, "\0\0\0\0\0\0\0\0\0\0\x0b\x86", 12);
}

static void test_limits(void **state)
{
    (void)state;
    struct db_params p CLEANUP(db_params_free);
    struct db_array a CLEANUP(db_array_free);
    char *big CLEANUP(freep) = xmalloc(DB_PARAMS_BYTES);

    db_params_init(&p);
    db_ref_bytes(&p, big, DB_PARAMS_BYTES - 4);
    db_add_int(&p, 1);
    assert_int_equal(p.failed, 0);
    db_add_bool(&p, true);
    assert_int_equal(p.failed, ERR_TOO_LARGE);
    db_add_int(&p, 1);
    assert_int_equal(p.failed, ERR_TOO_LARGE);

    db_params_reset(&p);
    assert_int_equal(p.failed, 0);
    db_add_bytes(&p, big, SIZE_MAX);
    assert_int_equal(p.failed, ERR_TOO_LARGE);

    db_params_reset(&p);
    db_array_init(&a, DB_BYTES);
    db_array_bytes(&a, big, DB_PARAMS_BYTES);
    db_array_bytes(&a, big, SIZE_MAX - 1);
    db_array_bytes(&a, big, 1);
    db_add_array(&p, &a);
    assert_int_equal(p.failed, ERR_TOO_LARGE);
    assert_int_equal(p.len[0], -1);

    db_params_reset(&p);
    db_array_free(&a);
    db_array_init(&a, DB_TIME);
    db_array_time(&a, INT64_MAX);
    db_ref_array(&p, &a);
    assert_int_equal(p.failed, ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_nulls_keep_their_type),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_array_layout),
        cmocka_unit_test(test_array_types),
        cmocka_unit_test(test_array_null_elements),
        cmocka_unit_test(test_empty_array_has_no_dimension),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
