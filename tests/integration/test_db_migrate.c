/* Scripts: fresh, again, two at a time, changed, failing. Each test has a database of its own. */
#include "test_db.h"

#include "pkg/manager/migrations.h"

static char names[8][64]; /* statements must live as long as the process */
static char texts[16][160];
static int used_names;
static int used_texts;

static const char *statement(const char *verb, const char *name, const char *rest)
{
    char *text = texts[used_texts++];

    snprintf(text, sizeof(texts[0]), "%s database %s %s", verb, name, rest);
    return text;
}

/* A pool on the old database in *admin; options for the new one in *o. */
static const char *create_database(struct fixture *admin, struct db_options *o)
{
    char *name = names[used_names++];

    snprintf(name, sizeof(names[0]), "test_db_migrate_%d_%d", (int)getpid(), used_names);
    setup_up(admin, 1);
    assert_int_equal(run(admin, statement("create", name, ""), NULL, NULL), 0);
    *o = admin->o;
    o->database = name;
    return name;
}

static void drop_database(struct fixture *admin, const char *name)
{
    assert_int_equal(run(admin, statement("drop", name, "with (force)"), NULL, NULL), 0);
    teardown(admin);
}

static void open_on(struct fixture *f, const struct db_options *o)
{
    setup(f, 1);
    f->o.database = o->database;
    open_up(f);
}

static int migrate(const struct db_options *o, const struct db_migration *m, size_t n,
                   struct err *why)
{
    int applied = -1;
    int rc = db_migrate(o, m, n, &applied, why);

    return rc < 0 ? rc : applied;
}

static void test_the_product(void **state)
{
    (void)state;
    struct fixture admin;
    struct fixture f;
    struct db_options o;
    struct err why = {0};
    const char *name = create_database(&admin, &o);

    assert_true(sje_migrations_count >= 1);
    assert_string_equal(sje_migrations[0].name, "0001_init");
    int applied = migrate(&o, sje_migrations, sje_migrations_count, &why);
    if (applied != (int)sje_migrations_count) {
        fail_msg("%s", why.text);
    }
    assert_int_equal(migrate(&o, sje_migrations, sje_migrations_count, &why), 0);
    open_on(&f, &o);
    assert_int_equal(run_number(&f,
                                "select count(*) from schema_migration where name = '0001_init'"
                                " and length(sha256) = 64 and applied_at > now() - interval '1 h'",
                                NULL),
                     1);
    assert_int_equal(run_number(&f, "select count(*) from task", NULL), 0);
    teardown(&f);
    drop_database(&admin, name);
}

/* What was accepted before there were columns for it asks for what its specification says. */
static void test_what_waits_asks_for_cpus_and_memory(void **state)
{
    static const char waiting[] =
        "insert into task (id, seq, attempt, failures, losses, requeues, stale, priority, "
        "max_attempts, backoff_s, slots, lease_s, queue_timeout_s, claim_beat, cancel_requested, "
        "rank, incarnation, token, submitted_at, run_after, pool, job_type, spec, state) "
        "select gen_random_uuid(), 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, false, 0, 0, 0, now(), "
        "now(), 'p', 'Noop', spec, state from unnest(array[1, 2, 3, 4, 5]) state, unnest(array["
        "'{}', '{\"resources\":{\"slots\":2}}', '{\"resources\":{\"cpus\":1.5}}', "
        "'{\"resources\":{\"cpus\":2,\"memoryMb\":600}}']::json[]) spec";
    struct fixture admin;
    struct fixture f;
    struct db_options o;
    struct err why = {0};
    const char *name = create_database(&admin, &o);

    (void)state;
    if (migrate(&o, sje_migrations, 4, &why) != 4) {
        fail_msg("%s", why.text);
    }
    open_on(&f, &o);
    assert_int_equal(run(&f, waiting, NULL, NULL), 0);
    if (migrate(&o, sje_migrations, sje_migrations_count, &why) < 0) {
        fail_msg("%s", why.text);
    }
    assert_int_equal(run_number(&f,
                                "select sum(cpus_milli + 10000 * memory_mb) from task "
                                "where state between 1 and 4",
                                NULL),
                     4 * (1500 + 2000 + 600 * 10000));
    assert_int_equal(
        run_number(&f, "select max(cpus_milli + memory_mb) from task where state = 5", NULL), 0);
    teardown(&f);
    drop_database(&admin, name);
}

static const struct db_migration three[] = {
    {"0003_last", "insert into step values (3)"},
    {"0001_first", "create table step (n int); insert into step values (1);"},
    {"0002_then",
     "create function two() returns int language plpgsql as $$\nbegin\n  return 2;\nend"
     " $$;\ninsert into step select two();\n"},
};

static void test_order_and_growth(void **state)
{
    (void)state;
    struct fixture admin;
    struct fixture f;
    struct db_options o;
    struct err why = {0};
    const char *name = create_database(&admin, &o);

    assert_int_equal(migrate(&o, &three[1], 1, &why), 1);
    assert_int_equal(migrate(&o, three, 3, &why), 2); /* by name, not as listed */
    assert_int_equal(migrate(&o, three, 3, &why), 0);
    assert_int_equal(migrate(&o, &three[1], 1, &why), 0); /* an older program */
    assert_int_equal(migrate(&o, NULL, 0, &why), 0);
    open_on(&f, &o);
    assert_int_equal(run_number(&f, "select sum(n) from step", NULL), 6);
    teardown(&f);
    drop_database(&admin, name);
}

static void test_changed_script(void **state)
{
    (void)state;
    struct fixture admin;
    struct db_options o;
    struct err why = {0};
    struct db_migration changed[3];
    const char *name = create_database(&admin, &o);

    assert_int_equal(migrate(&o, three, 3, &why), 3);
    memcpy(changed, three, sizeof(changed));
    changed[2].sql = "select 'something else'";
    assert_int_equal(migrate(&o, changed, 3, &why), ERR_CONFLICT);
    assert_non_null(strstr(why.text, "0002_then was changed"));
    drop_database(&admin, name);
}

static void test_failing_script(void **state)
{
    (void)state;
    static const struct db_migration failing[] = {
        {"0001_first", "create table step (n int)"},
        {"0002_bad",
         "insert into step values (1);\n-- \xc3\xbc\n\n  insert into nowhere values (2);"},
        {"0003_never", "insert into step values (3)"},
    };
    static const struct db_migration leaving[] = {{"0009_leaves", "commit"}};
    static const struct db_migration copying[] = {{"0009_copies", "copy step from stdin"}};
    struct fixture admin;
    struct fixture f;
    struct db_options o;
    struct err why = {0};
    const char *name = create_database(&admin, &o);

    assert_int_equal(migrate(&o, failing, 3, &why), ERR_DB);
    assert_string_equal(why.text,
                        "migration 0002_bad, line 4: relation \"nowhere\" does not exist [42P01]");
    assert_int_equal(migrate(&o, leaving, 1, &why), ERR_DB);
    assert_int_equal(migrate(&o, copying, 1, &why), ERR_DB);
    open_on(&f, &o);
    assert_int_equal(run_number(&f, "select count(*) from step", NULL), 0); /* rolled back */
    assert_int_equal(run_number(&f, "select count(*) from schema_migration", NULL), 1);
    teardown(&f);
    drop_database(&admin, name);
}

struct worker {
    uv_thread_t thread;
    struct db_options o;
    int applied;
    struct err why;
};

static void on_worker(void *arg)
{
    static const struct db_migration slow[] = {
        {"0001_slow", "create table step (n int); select pg_sleep(0.3)"},
        {"0002_more", "insert into step values (1)"},
    };
    struct worker *w = arg;

    w->applied = migrate(&w->o, slow, ARRAY_LEN(slow), &w->why);
}

static void test_several_at_once(void **state)
{
    (void)state;
    struct fixture admin;
    struct fixture f;
    struct db_options o;
    struct worker w[4] = {{0}};
    int applied = 0;
    const char *name = create_database(&admin, &o);

    for (size_t i = 0; i < ARRAY_LEN(w); i++) {
        w[i].o = o;
        assert_int_equal(uv_thread_create(&w[i].thread, on_worker, &w[i]), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(w); i++) {
        assert_int_equal(uv_thread_join(&w[i].thread), 0);
        if (w[i].applied < 0) {
            fail_msg("%s", w[i].why.text);
        }
        applied += w[i].applied;
    }
    assert_int_equal(applied, 2);
    open_on(&f, &o);
    assert_int_equal(run_number(&f, "select count(*) from step", NULL), 1);
    teardown(&f);
    drop_database(&admin, name);
}

static void test_reasons(void **state)
{
    (void)state;
    struct fixture f;
    struct err why = {0};

    setup(&f, 1);
    struct db_options o = f.o;
    o.password = "wrong-one";
    assert_int_equal(migrate(&o, three, 3, &why), ERR_CONFIG);
    assert_true(db_is_sqlstate(&why, "28P01"));
    assert_null(strstr(why.text, "wrong-one"));
    o = f.o;
    o.port = 1;
    assert_int_equal(migrate(&o, three, 3, &why), ERR_DB_DOWN);
    assert_non_null(strstr(why.text, "Connection refused"));
    o = f.o;
    o.host = "no-such-host.invalid";
    assert_int_equal(migrate(&o, three, 3, &why), ERR_DB_DOWN);
    assert_non_null(strstr(why.text, "no-such-host.invalid"));
    o.host = ",";
    assert_int_equal(migrate(&o, three, 3, &why), ERR_CONFIG);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_waits_asks_for_cpus_and_memory),
        cmocka_unit_test(test_the_product),
        cmocka_unit_test(test_order_and_growth),
        cmocka_unit_test(test_changed_script),
        cmocka_unit_test(test_failing_script),
        cmocka_unit_test(test_several_at_once),
        cmocka_unit_test(test_reasons),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
