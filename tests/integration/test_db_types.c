/* Every type there and back, NULLs and arrays included. */
#include "test_db.h"

#define DAY_MS 86400000

static const char text[] = "gr\xc3\xbc\xc3\x9f \xf0\x9f\x9a\x80 '\"\\ \n\t";

struct scalars {
    struct id id;
    int calls;
};

static void on_scalars(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    struct scalars *s = arg;

    s->calls++;
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    assert_int_equal(db_rows(r), 1);
    assert_true(db_get_bool(r, 0, 0));
    assert_false(db_get_bool(r, 0, 1));
    assert_int_equal(db_get_int(r, 0, 2), -2147483648);
    assert_true(db_get_int(r, 0, 3) == INT64_MIN);
    assert_string_equal(db_get_text(r, 0, 4).p, text);
    assert_int_equal(db_get_text(r, 0, 4).len, sizeof(text) - 1);
    assert_int_equal(db_get_text(r, 0, 5).len, 0);
    assert_false(db_is_null(r, 0, 5));
    assert_int_equal(db_get_bytes(r, 0, 6).len, 4);
    assert_memory_equal(db_get_bytes(r, 0, 6).p, "\0\xff\n\0", 4);
    struct id id = db_get_id(r, 0, 7);
    assert_true(id_eq(&id, &s->id));
    assert_true(db_get_time(r, 0, 8) == 1700000000123);
    assert_true(db_get_time(r, 0, 9) == -1);
    assert_true(db_get_time(r, 0, 10) == -40 * 365 * (int64_t)DAY_MS - 1);
    assert_string_equal(db_get_text(r, 0, 11).p, "{\"a\": [1,  null]}"); /* json keeps its text */
    assert_string_equal(db_get_text(r, 0, 12).p, "{\"a\": [1, null]}");
    assert_int_equal(db_get_int(r, 0, 13), 7);
}

static void test_scalars(void **state)
{
    (void)state;
    struct fixture f;
    struct db_params p CLEANUP(db_params_free);
    struct scalars s = {.id = id_new()};

    setup_up(&f, 1);
    db_params_init(&p);
    db_add_bool(&p, true);
    db_add_bool(&p, false);
    db_add_int(&p, INT32_MIN);
    db_add_bigint(&p, INT64_MIN);
    db_add_text(&p, text);
    db_add_text(&p, "");
    db_add_bytes(&p, "\0\xff\n\0", 4);
    db_add_id(&p, &s.id);
    db_add_time(&p, 1700000000123);
    db_add_time(&p, -1);
    db_add_time(&p, -40 * 365 * (int64_t)DAY_MS - 1);
    db_add_text(&p, "{\"a\": [1,  null]}");
    db_add_null(&p);
    for (int i = 1; i <= 3; i++) { /* prepared, and then used again */
        assert_int_equal(db_exec(f.db,
                                 "select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json,"
                                 " $12::jsonb, 7::smallint, $13::int",
                                 &p, on_scalars, &s),
                         0);
        AWAIT(&f, s.calls == i);
    }
    teardown(&f);
}

static void on_nulls(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    for (int i = 0; i < 10; i++) {
        assert_true(db_is_null(r, 0, i));
    }
    assert_false(db_get_bool(r, 0, 0));
    assert_int_equal(db_get_int(r, 0, 1), 0);
    assert_int_equal(db_get_int(r, 0, 2), 0);
    assert_int_equal(db_get_text(r, 0, 3).len, 0);
    assert_string_equal(db_get_text(r, 0, 3).p, "");
    assert_int_equal(db_get_bytes(r, 0, 4).len, 0);
    assert_int_equal(db_get_id(r, 0, 5).b[0], 0);
    assert_true(db_get_time(r, 0, 6) == INT64_MIN);
    assert_true(db_get_double(r, 0, 7) == 0);
    (*(int *)arg)++;
}

static void test_nulls(void **state)
{
    (void)state;
    struct fixture f;
    struct db_params p CLEANUP(db_params_free);
    int calls = 0;

    setup_up(&f, 1);
    db_params_init(&p);
    db_add_null(&p);
    db_add_null(&p);
    db_add_null(&p);
    db_add_text(&p, NULL);
    db_add_bytes(&p, NULL, 0);
    db_add_id(&p, NULL);
    db_add_time(&p, INT64_MIN);
    assert_int_equal(db_exec(f.db,
                             "select $1::bool, $2::int, $3::bigint, $4, $5, $6, $7, null::float8,"
                             " null::json, null::smallint",
                             &p, on_nulls, &calls),
                     0);
    AWAIT(&f, calls == 1);
    teardown(&f);
}

static void on_column_types(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    assert_int_equal(db_get_int(r, 0, 0), -7);
    assert_int_equal(db_get_int(r, 0, 1), -70000);
    assert_true(db_get_int(r, 0, 2) == 5000000000);
    assert_true(db_get_double(r, 0, 3) == 1.5);
    assert_true(db_get_double(r, 0, 4) == -1e300);
    assert_string_equal(db_get_text(r, 0, 5).p, "abc");
    assert_string_equal(db_get_text(r, 0, 6).p, "name");
    assert_int_equal(db_get_int(r, 0, 7), 3);
    (*(int *)arg)++;
}

static void test_column_types(void **state)
{
    (void)state;
    struct fixture f;
    int calls = 0;

    setup_up(&f, 1);
    assert_int_equal(
        db_exec(f.db,
                "select (-7)::smallint, -70000, 5000000000, 1.5::float4, -1e300::float8,"
                " 'abc'::varchar(9), 'name'::name, (select count(*) from generate_series(1, 3))",
                NULL, on_column_types, &calls),
        0);
    AWAIT(&f, calls == 1);
    teardown(&f);
}

struct arrays {
    struct id id;
    int calls;
};

static void on_arrays(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    struct arrays *s = arg;

    s->calls++;
    if (rc < 0) {
        fail_msg("%s", why->text);
    }
    assert_int_equal(db_rows(r), 3);
    for (int col = 0; col < 7; col++) {
        assert_true(db_is_null(r, 1, col));
    }
    assert_true(db_get_bool(r, 0, 0) && !db_get_bool(r, 2, 0));
    assert_int_equal(db_get_int(r, 0, 1), -1);
    assert_int_equal(db_get_int(r, 2, 1), INT32_MAX);
    assert_true(db_get_int(r, 0, 2) == INT64_MIN && db_get_int(r, 2, 2) == INT64_MAX);
    assert_string_equal(db_get_text(r, 0, 3).p, text);
    assert_int_equal(db_get_text(r, 2, 3).len, 0);
    assert_memory_equal(db_get_bytes(r, 0, 4).p, "\0x", 2);
    assert_int_equal(db_get_bytes(r, 2, 4).len, 0);
    struct id id = db_get_id(r, 0, 5);
    assert_true(id_eq(&id, &s->id));
    assert_true(db_get_time(r, 0, 6) == 1700000000123 && db_get_time(r, 2, 6) == -1);
}

static void test_arrays(void **state)
{
    (void)state;
    struct fixture f;
    struct arrays s = {.id = id_new()};
    struct db_array a[7];

    setup_up(&f, 1);
    for (int i = 0; i < 7; i++) {
        db_array_init(&a[i], (enum db_type)i);
    }
    db_array_bool(&a[DB_BOOL], true);
    db_array_int(&a[DB_INT], -1);
    db_array_bigint(&a[DB_BIGINT], INT64_MIN);
    db_array_text(&a[DB_TEXT], text);
    db_array_bytes(&a[DB_BYTES], "\0x", 2);
    db_array_id(&a[DB_ID], &s.id);
    db_array_time(&a[DB_TIME], 1700000000123);
    for (int i = 0; i < 7; i++) {
        db_array_null(&a[i]);
    }
    db_array_bool(&a[DB_BOOL], false);
    db_array_int(&a[DB_INT], INT32_MAX);
    db_array_bigint(&a[DB_BIGINT], INT64_MAX);
    db_array_text(&a[DB_TEXT], "");
    db_array_bytes(&a[DB_BYTES], "", 0);
    db_array_id(&a[DB_ID], &s.id);
    db_array_time(&a[DB_TIME], -1);
    for (int i = 0; i < 2; i++) { /* copied, referenced */
        struct db_params p CLEANUP(db_params_free);

        db_params_init(&p);
        for (int k = 0; k < 7; k++) {
            (i ? db_ref_array : db_add_array)(&p, &a[k]);
        }
        assert_int_equal(
            db_exec(f.db, "select * from unnest($1, $2, $3, $4, $5, $6, $7)", &p, on_arrays, &s),
            0);
    }
    AWAIT(&f, s.calls == 2);
    for (int i = 0; i < 7; i++) {
        db_array_free(&a[i]);
    }
    teardown(&f);
}

static void test_empty_arrays(void **state)
{
    (void)state;
    struct fixture f;
    struct db_params p CLEANUP(db_params_free);

    setup_up(&f, 1);
    db_params_init(&p);
    for (int i = 0; i < 7; i++) {
        struct db_array a;

        db_array_init(&a, (enum db_type)i);
        (i % 2 ? db_ref_array : db_add_array)(&p, &a);
        db_array_free(&a);
    }
    assert_int_equal(run_number(&f,
                                "select cardinality($1) + cardinality($2) + cardinality($3) +"
                                " cardinality($4) + cardinality($5) + cardinality($6) +"
                                " cardinality($7)",
                                &p),
                     0);
    teardown(&f);
}

/* The way rows are written: columns as arrays, one statement. */
static void test_batch(void **state)
{
    (void)state;
    enum { ROWS = 1000 };
    struct fixture f;
    struct db_params p CLEANUP(db_params_free);
    struct db_array ids CLEANUP(db_array_free);
    struct db_array specs CLEANUP(db_array_free);
    struct db_array times CLEANUP(db_array_free);
    struct answer a;

    setup_up(&f, 1);
    assert_int_equal(run(&f,
                         "create temp table batch (id uuid primary key, spec json, at timestamptz)",
                         NULL, NULL),
                     0);
    db_params_init(&p);
    db_array_init(&ids, DB_ID);
    db_array_init(&specs, DB_TEXT);
    db_array_init(&times, DB_TIME);
    for (int i = 0; i < ROWS; i++) {
        struct id id = id_new();

        db_array_id(&ids, &id);
        db_array_text(&specs, i % 3 ? "{\"x\":1}" : NULL);
        db_array_time(&times, i % 5 ? 1700000000000 + i : INT64_MIN);
    }
    db_ref_array(&p, &ids);
    db_ref_array(&p, &specs);
    db_ref_array(&p, &times);
    assert_int_equal(run(&f,
                         "insert into batch select i, s::json, t"
                         " from unnest($1, $2, $3) as x (i, s, t)",
                         &p, &a),
                     0);
    assert_int_equal(a.affected, ROWS);
    assert_int_equal(run_number(&f, "select count(*) from batch where spec is null", NULL), 334);
    assert_int_equal(run_number(&f, "select count(*) from batch where at is null", NULL), 200);
    assert_int_equal(run_number(&f,
                                "select sum(extract(milliseconds from at))::bigint"
                                " from batch where at is not null",
                                NULL),
                     800 * 20000 + 999 * 1000 / 2 - 5 * 199 * 200 / 2);
    teardown(&f);
}

/* The prepared statement of one text is not used for parameters of other types. */
static void test_types_are_part_of_the_key(void **state)
{
    (void)state;
    static const char sql[] = "select coalesce($1, 5)::bigint";
    struct fixture f;
    struct db_params p CLEANUP(db_params_free);

    setup_up(&f, 1);
    db_params_init(&p);
    db_add_null(&p);
    assert_int_equal(run_number(&f, sql, &p), 5);
    db_params_reset(&p);
    db_add_bigint(&p, 6);
    assert_int_equal(run_number(&f, sql, &p), 6);
    db_params_reset(&p);
    db_add_int(&p, 7);
    assert_int_equal(run_number(&f, sql, &p), 7);
    db_params_reset(&p);
    db_add_null(&p);
    assert_int_equal(run_number(&f, sql, &p), 5);
    teardown(&f);
}

/* More than any socket buffer in both directions at once. */
static void test_large_values_both_ways(void **state)
{
    (void)state;
    enum { N = 40, SIZE = 1 << 20 };
    struct fixture f;
    struct answer a[N] = {{0}};
    char *big CLEANUP(freep) = xmalloc(SIZE);

    setup_up(&f, 1);
    memset(big, 'x', SIZE);
    for (int i = 0; i < N; i++) {
        struct db_params p CLEANUP(db_params_free);

        db_params_init(&p);
        db_ref_bytes(&p, big, SIZE);
        assert_int_equal(db_exec(f.db, "select $1, $1", &p, on_answer, &a[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        AWAIT(&f, a[i].calls == 1);
        assert_int_equal(a[i].rc, 0);
        assert_int_equal(a[i].rows, 1);
    }
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_nulls),
        cmocka_unit_test(test_column_types),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_empty_arrays),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_types_are_part_of_the_key),
        cmocka_unit_test(test_large_values_both_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
