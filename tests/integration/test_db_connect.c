/* Why a connection does not come about, in one line each; host lists; loss and return. */
#include "test_db.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* Opens with the options of `f`, waits for the reason, closes. */
static void fails(struct fixture *f, int code, const char *sqlstate, const char *part)
{
    f->db = db_open(&f->loop, &f->o);
    AWAIT(f, f->downs == 1);
    if (f->why.code != code || !strstr(f->why.text, part)) {
        fail_msg("%d: %s", f->why.code, f->why.text);
    }
    assert_true(!sqlstate || db_is_sqlstate(&f->why, sqlstate));
    assert_string_equal(db_last_error(f->db), f->why.text);
    assert_false(db_is_up(f->db));
    uint64_t end = uv_hrtime() + 700000000; /* the repetitions are not reported again */
    while (uv_hrtime() < end) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->downs, 1);
    assert_int_equal(f->ups, 0);
    teardown(f);
}

static void test_wrong_password(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 2);
    f.o.password = "not-the-password";
    fails(&f, ERR_CONFIG, "28P01", "password authentication failed for user");
}

static void test_wrong_user(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 1);
    f.o.username = "nobody-of-that-name";
    fails(&f, ERR_CONFIG, "28P01", "nobody-of-that-name");
}

static void test_wrong_database(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 1);
    f.o.database = "no_such_database";
    fails(&f, ERR_CONFIG, "3D000", "database \"no_such_database\" does not exist");
}

static void test_closed_port(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 4);
    f.o.port = 1;
    fails(&f, ERR_DB_DOWN, NULL, "port 1 failed: Connection refused");
}

static void test_unknown_host(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 1);
    f.o.host = "no-such-host.invalid";
    fails(&f, ERR_DB_DOWN, NULL, "cannot resolve the database host \"no-such-host.invalid\"");
}

static void test_bad_settings(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 1);
    f.o.host = "a:b:c,:";
    fails(&f, ERR_CONFIG, NULL, "host list");
    setup(&f, 1);
    f.o.ssl_mode = "perhaps";
    fails(&f, ERR_DB_DOWN, NULL, "sslmode");
    setup(&f, 1);
    f.o.host = "/nowhere/at/all";
    fails(&f, ERR_DB_DOWN, NULL, "/nowhere/at/all");
}

static int listener(int *ret_port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
    assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    *ret_port = ntohs(addr.sin_port);
    return fd;
}

/* Takes the connection and says nothing. */
static void test_silent_server(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 1);
    int fd = listener(&f.o.port);
    uint64_t start = uv_hrtime();
    f.db = db_open(&f.loop, &f.o);
    AWAIT(&f, f.downs == 1);
    uint64_t ms = (uv_hrtime() - start) / 1000000;
    assert_in_range(ms, 4500, 7000);
    assert_non_null(strstr(f.why.text, "no answer"));
    assert_int_equal(f.why.code, ERR_DB_DOWN);
    teardown(&f);
    close(fd);
}

/* Speaks, but something else. */
static void test_not_a_postgres(void **state)
{
    (void)state;
    struct fixture f;

    setup(&f, 1);
    f.o.ssl_mode = "disable";
    int fd = listener(&f.o.port);
    f.db = db_open(&f.loop, &f.o);
    for (int i = 0; i < 20; i++) {
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    int peer = accept(fd, NULL, NULL);
    assert_true(peer >= 0);
    static const char reply[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    assert_int_equal(write(peer, reply, sizeof(reply) - 1), sizeof(reply) - 1);
    AWAIT(&f, f.downs == 1);
    assert_int_equal(f.why.code, ERR_DB_DOWN);
    close(peer);
    close(fd);
    teardown(&f);
}

static void test_host_lists(void **state)
{
    (void)state;
    struct fixture f;
    char list[256];

    setup(&f, 2); /* dead, unknown, by name */
    snprintf(list, sizeof(list), "127.0.0.1:1, no-such-host.invalid,/nowhere,localhost:%d",
             f.o.port);
    f.o.host = list;
    f.o.port = 1;
    open_up(&f);
    assert_int_equal(f.downs, 0);
    assert_int_equal(run(&f, "select 1", NULL, NULL), 0);
    teardown(&f);
}

static void test_terminated_in_flight(void **state)
{
    (void)state;
    struct fixture f;
    struct fixture other;
    struct answer a[20] = {{0}};

    setup_up(&f, 1);
    setup_up(&other, 1);
    assert_int_equal(run(&other, "select pg_advisory_lock(915)", NULL, NULL), 0);
    for (int i = 0; i < 20; i++) {
        const char *sql = i == 9 ? "select pg_terminate_backend(pg_backend_pid()) from "
                                   "(select pg_advisory_xact_lock(915)) x"
                                 : "select 1";

        assert_int_equal(db_exec(f.db, sql, NULL, on_answer, &a[i]), 0);
    }
    teardown(&other); /* all are sent: the lock goes with its session */
    AWAIT(&f, f.downs == 1);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(a[i].calls, 1); /* answered before on_down */
        assert_int_equal(a[i].rc, i < 9 ? 0 : ERR_DB_DOWN);
    }
    assert_true(db_is_sqlstate(&f.why, "57P01"));
    assert_true(db_is_sqlstate(&a[19].why, "57P01"));
    struct answer late;
    assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &late), ERR_DB_DOWN);
    AWAIT(&f, f.ups == 2);
    assert_int_equal(f.downs, 1);
    assert_string_equal(db_last_error(f.db), "");
    assert_int_equal(run(&f, "select 1", NULL, NULL), 0); /* prepared anew */
    teardown(&f);
}

/* One of several is lost: no on_down, and the rest carries on. */
static void test_terminated_while_idle(void **state)
{
    (void)state;
    static const char count[] = "select count(*) from pg_stat_activity"
                                " where application_name = 'sje-test-db'";
    struct fixture f;
    struct answer a;

    setup_up(&f, 3);
    AWAIT(&f, run_number(&f, count, NULL) == 3);
    assert_int_equal(run(&f,
                         "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                         " where application_name = 'sje-test-db' and pid <> pg_backend_pid()",
                         NULL, &a),
                     0);
    assert_int_equal(a.rows, 2);
    AWAIT(&f, db_last_error(f.db)[0] != '\0');
    assert_true(db_is_up(f.db));
    AWAIT(&f, run_number(&f, count, NULL) == 3);
    assert_int_equal(f.downs, 0);
    assert_int_equal(f.ups, 1);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_password),
        cmocka_unit_test(test_wrong_user),
        cmocka_unit_test(test_wrong_database),
        cmocka_unit_test(test_closed_port),
        cmocka_unit_test(test_unknown_host),
        cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_silent_server),
        cmocka_unit_test(test_not_a_postgres),
        cmocka_unit_test(test_host_lists),
        cmocka_unit_test(test_terminated_in_flight),
        cmocka_unit_test(test_terminated_while_idle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
