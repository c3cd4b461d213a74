/* Two who want the same lock. */
#include "test_db.h"

struct holder {
    struct fixture *f;
    struct db_lock *lock;
    int held;
    int lost;
    int closed;
};

static void on_held(void *arg)
{
    ((struct holder *)arg)->held++;
}

static void on_lost(void *arg, const struct err *why)
{
    (void)why;
    ((struct holder *)arg)->lost++;
}

static void on_lock_closed(void *arg)
{
    ((struct holder *)arg)->closed++;
}

static void want(struct holder *h, struct fixture *f, const char *name)
{
    struct db_options o = f->o;

    o.name = name;
    *h = (struct holder){.f = f};
    h->lock = db_lock_new(&f->loop, &o, 0x5a5a0000 + getpid(), 50, on_held, on_lost, h);
}

static void give_back(struct holder *h)
{
    db_lock_free(STEAL(h->lock), on_lock_closed, h);
    AWAIT(h->f, h->closed == 1);
}

static void test_hand_over(void **state)
{
    (void)state;
    struct fixture f;
    struct holder a;
    struct holder b;

    setup_up(&f, 1);
    want(&a, &f, "lock-a");
    AWAIT(&f, a.held == 1);
    want(&b, &f, "lock-b");
    AWAIT(&f, run_number(&f,
                         "select count(*) from pg_stat_activity"
                         " where application_name = 'lock-b' and query like '%try_advisory%'",
                         NULL) == 1);
    assert_int_equal(b.held, 0);
    give_back(&a);
    assert_int_equal(a.lost, 0);
    AWAIT(&f, b.held == 1);
    want(&a, &f, "lock-a");
    give_back(&a); /* while connecting */
    assert_int_equal(a.held, 0);
    give_back(&b);
    teardown(&f);
}

static void test_loss(void **state)
{
    (void)state;
    struct fixture f;
    struct holder a;
    struct holder b;

    setup_up(&f, 1);
    want(&a, &f, "lock-a");
    AWAIT(&f, a.held == 1);
    want(&b, &f, "lock-b");
    for (int i = 1; i <= 3; i++) { /* whoever has it loses it */
        int held = a.held + b.held;

        assert_int_equal(run(&f,
                             "select pg_terminate_backend(l.pid) from pg_locks l"
                             " join pg_stat_activity s on s.pid = l.pid"
                             " where l.locktype = 'advisory' and l.granted"
                             " and s.application_name in ('lock-a', 'lock-b')",
                             NULL, NULL),
                         0);
        AWAIT(&f, a.lost + b.lost == i);
        AWAIT(&f, a.held + b.held == held + 1);
        assert_int_equal((a.held - a.lost) + (b.held - b.lost), 1);
    }
    give_back(&a);
    give_back(&b);
    teardown(&f);
}

/* Pings go on while it is held; the session stays the same. */
static void test_stays_held(void **state)
{
    (void)state;
    struct fixture f;
    struct holder a;

    setup_up(&f, 1);
    want(&a, &f, "lock-a");
    AWAIT(&f, run_number(&f,
                         "select count(*) from pg_stat_activity where application_name = 'lock-a'"
                         " and query = 'select pg_backend_pid()'",
                         NULL) == 1);
    uint64_t end = uv_hrtime() + 2500000000;
    while (uv_hrtime() < end) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    assert_int_equal(a.held, 1);
    assert_int_equal(a.lost, 0);
    give_back(&a);
    teardown(&f);
}

static void test_without_a_server(void **state)
{
    (void)state;
    struct fixture f;
    struct holder a;

    setup(&f, 1);
    f.o.port = 1;
    want(&a, &f, "lock-a");
    uint64_t end = uv_hrtime() + 500000000;
    while (uv_hrtime() < end) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    assert_int_equal(a.held + a.lost, 0);
    db_lock_free(a.lock, NULL, NULL);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hand_over),
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_stays_held),
        cmocka_unit_test(test_without_a_server),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
