/* Many statements in flight: order, failures between good ones, callbacks that act, closing. */
#include "test_db.h"

#define N 1000

static void on_ordered(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    int *expected = arg;

    (void)why;
    assert_int_equal(rc, 0);
    assert_int_equal(db_get_int(r, 0, 0), *expected);
    (*expected)++;
}

static void test_one_connection_keeps_the_order(void **state)
{
    (void)state;
    struct fixture f;
    int next = 0;

    setup_up(&f, 1);
    for (int i = 0; i < N; i++) {
        struct db_params p CLEANUP(db_params_free);

        db_params_init(&p);
        db_add_int(&p, i);
        assert_int_equal(db_exec(f.db, "select $1", &p, on_ordered, &next), 0);
    }
    assert_int_equal(db_inflight(f.db), N);
    assert_int_equal(next, 0); /* never from inside db_exec */
    AWAIT(&f, next == N);
    assert_int_equal(db_inflight(f.db), 0);
    teardown(&f);
}

static void test_pool_shares_the_load(void **state)
{
    (void)state;
    struct fixture f;
    struct answer a[200] = {{0}};
    uint64_t start = 0;

    setup_up(&f, 4);
    AWAIT(&f, run_number(&f,
                         "select count(*) from pg_stat_activity"
                         " where application_name = 'sje-test-db'",
                         NULL) == 4);
    start = uv_hrtime();
    for (int i = 0; i < 4; i++) {
        assert_int_equal(db_exec(f.db, "select pg_sleep(0.4)::text", NULL, on_answer, &a[i]), 0);
    }
    AWAIT(&f, a[0].calls && a[1].calls && a[2].calls && a[3].calls);
    assert_true(uv_hrtime() - start < 1200000000); /* side by side: 0.4 s, not 1.6 s */
    for (int i = 4; i < 200; i++) {
        assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &a[i]), 0);
    }
    for (int i = 4; i < 200; i++) {
        AWAIT(&f, a[i].calls == 1);
        assert_int_equal(a[i].rc, 0);
    }
    teardown(&f);
}

static void test_failure_leaves_its_neighbours_alone(void **state)
{
    (void)state;
    static const char insert[] = "insert into once (id) values ($1)";
    static const int values[] = {1, 2, 1, 3, 3, 4};
    struct fixture f;
    struct answer a[ARRAY_LEN(values)] = {{0}};

    setup_up(&f, 1);
    assert_int_equal(run(&f, "create temp table once (id int primary key)", NULL, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct db_params p CLEANUP(db_params_free);

        db_params_init(&p);
        db_add_int(&p, values[i]);
        assert_int_equal(db_exec(f.db, insert, &p, on_answer, &a[i]), 0);
    }
    AWAIT(&f, a[5].calls == 1);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].rc, i == 2 || i == 4 ? ERR_DB : 0);
        assert_int_equal(a[i].affected, i == 2 || i == 4 ? 0 : 1);
    }
    assert_true(db_is_sqlstate(&a[2].why, "23505"));
    assert_string_equal(a[2].why.text,
                        "duplicate key value violates unique constraint \"once_pkey\" [23505]");
    assert_int_equal(run_number(&f, "select count(*) from once", NULL), 4);
    assert_int_equal(f.downs, 0);
    teardown(&f);
}

/* The commit itself may fail, after the statement said that it went well. */
static void test_failure_at_commit(void **state)
{
    (void)state;
    static const char insert[] = "insert into child values (7)";
    struct fixture f;
    struct answer a[3] = {{0}};

    setup_up(&f, 1);
    assert_int_equal(run(&f, "create temp table parent (id int primary key)", NULL, NULL), 0);
    assert_int_equal(run(&f,
                         "create temp table child (id int references parent"
                         " deferrable initially deferred)",
                         NULL, NULL),
                     0);
    assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &a[0]), 0);
    assert_int_equal(db_exec(f.db, insert, NULL, on_answer, &a[1]), 0);
    assert_int_equal(db_exec(f.db, "select 2", NULL, on_answer, &a[2]), 0);
    AWAIT(&f, a[2].calls == 1);
    assert_int_equal(a[0].rc, 0);
    assert_int_equal(a[1].calls, 1);
    assert_int_equal(a[1].rc, ERR_DB);
    assert_true(db_is_sqlstate(&a[1].why, "23503"));
    assert_int_equal(a[2].rc, 0);
    assert_int_equal(run_number(&f, "select count(*) from child", NULL), 0);
    assert_int_equal(f.downs, 0);
    teardown(&f);
}

static void test_statement_that_cannot_be_prepared(void **state)
{
    (void)state;
    static const char wrong[] = "select nothing_like_this from nowhere";
    struct fixture f;
    struct answer a[5] = {{0}};

    setup_up(&f, 1);
    for (int round = 0; round < 2; round++) {
        memset(a, 0, sizeof(a));
        for (int i = 0; i < 5; i++) { /* the later ones build on the first one's preparation */
            assert_int_equal(db_exec(f.db, i == 3 ? "select 3" : wrong, NULL, on_answer, &a[i]), 0);
        }
        AWAIT(&f, a[4].calls == 1);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(a[i].rc, i == 3 ? 0 : ERR_DB);
            assert_true(i == 3 || db_is_sqlstate(&a[i].why, "42P01"));
        }
    }
    assert_int_equal(run(&f, "create temp table nowhere (nothing_like_this int)", NULL, NULL), 0);
    assert_int_equal(run(&f, wrong, NULL, NULL), 0); /* now it can */
    teardown(&f);
}

static void test_schema_changes_under_a_prepared_statement(void **state)
{
    (void)state;
    static const char select[] = "select * from shape";
    struct fixture f;
    struct answer a;

    setup_up(&f, 1);
    assert_int_equal(run(&f, "create temp table shape (a int)", NULL, NULL), 0);
    assert_int_equal(run(&f, select, NULL, NULL), 0);
    assert_int_equal(run(&f, "alter table shape add b int", NULL, NULL), 0);
    assert_int_equal(run(&f, select, NULL, &a), ERR_CONFLICT);
    assert_int_equal(run(&f, select, NULL, NULL), 0);
    assert_int_equal(run(&f, "deallocate all", NULL, NULL), 0);
    assert_int_equal(run(&f, select, NULL, &a), ERR_CONFLICT);
    assert_true(db_is_sqlstate(&a.why, "26000"));
    assert_int_equal(run(&f, select, NULL, NULL), 0);
    teardown(&f);
}

static void test_codes(void **state)
{
    (void)state;
    static const struct {
        const char *sql, *sqlstate;
        int code;
    } rows[] = {
        {"do $$ begin raise exception 'x' using errcode = '40001'; end $$", "40001", ERR_CONFLICT},
        {"do $$ begin raise exception 'x' using errcode = '40P01'; end $$", "40P01", ERR_CONFLICT},
        {"do $$ begin raise exception 'x' using errcode = '53100'; end $$", "53100", ERR_BUSY},
        {"do $$ begin raise exception 'x' using errcode = '53200'; end $$", "53200", ERR_BUSY},
        {"do $$ begin raise exception E'two\nlines' using errcode = 'P0001'; end $$", "P0001",
         ERR_DB},
        {"select 1 / 0", "22012", ERR_DB},
        {"select pg_sleep(30)::text", "57014", ERR_TIMEOUT},
        {"select $1::int", "08P01", ERR_DB}, /* a parameter is missing: our fault, not the line's */
    };
    struct fixture f;
    struct answer a;

    setup(&f, 1);
    f.o.statement_timeout_ms = 300;
    open_up(&f);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(run(&f, rows[i].sql, NULL, &a), rows[i].code);
        assert_true(db_is_sqlstate(&a.why, rows[i].sqlstate));
    }
    assert_int_equal(f.downs, 0);
    assert_int_equal(run(&f, "", NULL, NULL), 0);
    assert_int_equal(run(&f, "copy (select 1) to stdout", NULL, &a),
                     ERR_DB_DOWN); /* never do this */
    AWAIT(&f, f.ups == 2);
    teardown(&f);
}

static void test_deadlock_is_a_conflict(void **state)
{
    (void)state;
    static const char create[] = "create table if not exists test_db_dead (id int primary key)";
    struct fixture f;
    struct answer a[2] = {{0}};

    setup_up(&f, 2);
    assert_int_equal(run(&f, create, NULL, NULL), 0);
    assert_int_equal(
        run(&f, "insert into test_db_dead values (1), (2) on conflict do nothing", NULL, NULL), 0);
    AWAIT(&f, run_number(&f,
                         "select count(*) from pg_stat_activity"
                         " where application_name = 'sje-test-db'",
                         NULL) == 2);
    assert_int_equal(db_exec(f.db,
                             "do $$ begin perform from test_db_dead where id = 1 for update;"
                             " perform pg_sleep(0.3);"
                             " perform from test_db_dead where id = 2 for update; end $$",
                             NULL, on_answer, &a[0]),
                     0);
    assert_int_equal(db_exec(f.db,
                             "do $$ begin perform from test_db_dead where id = 2 for update;"
                             " perform pg_sleep(0.3);"
                             " perform from test_db_dead where id = 1 for update; end $$",
                             NULL, on_answer, &a[1]),
                     0);
    AWAIT(&f, a[0].calls && a[1].calls);
    const struct answer *victim = a[0].rc < 0 ? &a[0] : &a[1];
    assert_int_equal(a[0].rc + a[1].rc, ERR_CONFLICT);
    assert_true(db_is_sqlstate(&victim->why, "40P01"));
    assert_int_equal(run(&f, "drop table test_db_dead", NULL, NULL), 0);
    teardown(&f);
}

static void test_bounds(void **state)
{
    (void)state;
    struct fixture f;
    struct answer a[10] = {{0}};
    struct db_params p CLEANUP(db_params_free);

    setup(&f, 2);
    f.o.max_queued = 10;
    f.db = db_open(&f.loop, &f.o);
    assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &a[0]), ERR_DB_DOWN);
    assert_string_equal(db_server_version(f.db), "");
    AWAIT(&f, f.ups == 1);
    assert_true(db_is_up(f.db));
    assert_true(strlen(db_server_version(f.db)) >= 2);
    assert_null(strchr(db_server_version(f.db), ' '));
    for (int i = 0; i < 10; i++) {
        assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &a[i]), 0);
    }
    assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &a[0]), ERR_BUSY);
    db_params_init(&p);
    db_ref_bytes(&p, a, SIZE_MAX);
    assert_int_equal(db_exec(f.db, "select $1", &p, on_answer, &a[0]), ERR_TOO_LARGE);
    for (int i = 0; i < 10; i++) {
        AWAIT(&f, a[i].calls == 1);
    }
    assert_int_equal(run(&f, "select 1", NULL, NULL), 0);
    teardown(&f);
}

/* ---- callbacks that act ---- */

struct chain {
    struct fixture *f;
    int left;
};

static void on_link(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    struct chain *c = arg;

    (void)r;
    (void)why;
    assert_int_equal(rc, 0);
    if (--c->left > 0) {
        assert_int_equal(db_exec(c->f->db, "select 1", NULL, on_link, c), 0);
    }
}

static void test_callbacks_may_send(void **state)
{
    (void)state;
    struct fixture f;

    setup_up(&f, 2);
    struct chain c = {&f, 500};
    assert_int_equal(db_exec(f.db, "select 1", NULL, on_link, &c), 0);
    AWAIT(&f, c.left == 0);
    teardown(&f);
}

struct closer {
    struct fixture *f;
    int good;
    int closed;
    int other;
};

static void on_closing(void *arg, int rc, const struct db_result *r, const struct err *why)
{
    struct closer *c = arg;

    (void)r;
    (void)why;
    if (rc == 0 && ++c->good == 20) {
        db_close(STEAL(c->f->db), on_fixture_closed, c->f);
    }
    c->closed += rc == ERR_CLOSED;
    c->other += rc != 0 && rc != ERR_CLOSED;
    assert_int_equal(c->f->closed, 0); /* answers come before on_closed */
}

static void test_callbacks_may_close(void **state)
{
    (void)state;
    struct fixture f;

    setup_up(&f, 3);
    struct closer c = {.f = &f};
    for (int i = 0; i < 100; i++) {
        assert_int_equal(db_exec(f.db, "select 1", NULL, on_closing, &c), 0);
    }
    AWAIT(&f, f.closed == 1);
    assert_int_equal(c.good, 20);
    assert_int_equal(c.closed, 80);
    assert_int_equal(c.other, 0);
    teardown(&f);
}

static void close_now(void *arg)
{
    struct fixture *f = arg;

    db_close(STEAL(f->db), on_fixture_closed, f);
}

static void close_on_loss(void *arg, const struct err *why)
{
    struct fixture *f = arg;

    f->why = *why;
    close_now(f);
}

static void test_close_inside_on_up_and_on_down(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 3);
    f.o.on_up = close_now;
    f.db = db_open(&f.loop, &f.o);
    AWAIT(&f, f.closed == 1);
    teardown(&f);

    setup(&f, 3);
    f.o.port = 1;
    f.o.on_down = close_on_loss;
    f.db = db_open(&f.loop, &f.o);
    AWAIT(&f, f.closed == 1);
    teardown(&f);
}

static void test_close_in_every_state(void **state)
{
    (void)state;
    struct fixture f;
    struct answer a[50];

    for (int turns = 0; turns < 12; turns++) { /* not begun, resolving, connecting, logging in */
        setup(&f, 2);
        f.o.host = turns % 2 ? "localhost" : f.o.host;
        f.db = db_open(&f.loop, &f.o);
        for (int i = 0; i < turns; i++) {
            uv_run(&f.loop, UV_RUN_ONCE);
        }
        teardown(&f);
    }
    setup_up(&f, 2); /* up and idle */
    teardown(&f);

    setup_up(&f, 2); /* statements in flight, one running */
    memset(a, 0, sizeof(a));
    for (int i = 0; i < 50; i++) {
        assert_int_equal(
            db_exec(f.db, i ? "select 1" : "select pg_sleep(5)::text", NULL, on_answer, &a[i]), 0);
    }
    db_close(STEAL(f.db), on_fixture_closed, &f);
    assert_int_equal(a[0].calls, 0); /* never from inside db_close */
    AWAIT(&f, f.closed == 1);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].rc, ERR_CLOSED);
    }
    teardown(&f);

    setup(&f, 2); /* waiting for the next attempt */
    f.o.port = 1;
    f.db = db_open(&f.loop, &f.o);
    AWAIT(&f, f.downs == 1);
    teardown(&f);

    setup_up(&f, 1); /* nobody wants to know */
    db_close(STEAL(f.db), NULL, NULL);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_connection_keeps_the_order),
        cmocka_unit_test(test_pool_shares_the_load),
        cmocka_unit_test(test_failure_leaves_its_neighbours_alone),
        cmocka_unit_test(test_failure_at_commit),
        cmocka_unit_test(test_statement_that_cannot_be_prepared),
        cmocka_unit_test(test_schema_changes_under_a_prepared_statement),
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_deadlock_is_a_conflict),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_callbacks_may_send),
        cmocka_unit_test(test_callbacks_may_close),
        cmocka_unit_test(test_close_inside_on_up_and_on_down),
        cmocka_unit_test(test_close_in_every_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
