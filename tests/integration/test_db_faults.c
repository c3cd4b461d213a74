/* What servers do to their clients: crash, freeze, turn read-only, run out of connections; and TLS,
 * whose records hide what has arrived. On a server of its own. */
#include "test_db.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[] = "/tmp/sje-test-db.XXXXXX";
static char admin_password[64];
static char password[64];
static char port[16];

static int program(const char *const argv[])
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0) {
        int out = open("/dev/null", O_WRONLY);

        dup2(out, STDOUT_FILENO);
        dup2(out, STDERR_FILENO);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int services(const char *verb)
{
    return program((const char *[]){"tools/services.sh", verb, dir, "postgres", NULL});
}

/* First word of a file below the server's directory. */
static void read_word(const char *name, char *word, size_t size)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_non_null(fgets(word, (int)size, file));
    word[strcspn(word, " \n")] = '\0';
    (void)fclose(file);
}

static int start_server(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(services("start"), 0);
    read_word("run/postgres.ports", port, sizeof(port));
    read_word("run/postgres.password", password, sizeof(password));
    read_word("run/postgres-admin.password", admin_password, sizeof(admin_password));
    setenv("SJE_TEST_DB_HOST", "127.0.0.1", 1);
    setenv("SJE_TEST_DB_PORT", port, 1);
    setenv("SJE_TEST_DB_NAME", "sje", 1);
    setenv("SJE_TEST_DB_USER", "sje", 1);
    setenv("SJE_TEST_DB_PASSWORD", password, 1);
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    assert_int_equal(services("stop"), 0);
    assert_int_equal(program((const char *[]){"rm", "-rf", dir, NULL}), 0);
    return 0;
}

static void setup_admin(struct fixture *f)
{
    setup(f, 1);
    f->o.username = "postgres";
    f->o.password = admin_password;
    f->o.name = "admin";
    open_up(f);
}

static pid_t backend(struct fixture *admin, const char *name)
{
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_text(&p, name);
    return (pid_t)run_number(
        admin, "select min(pid) from pg_stat_activity where application_name = $1", &p);
}

static void test_crash(void **state)
{
    (void)state;
    struct fixture f;
    struct answer a[10] = {{0}};
    char pid[16];

    setup_up(&f, 3);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(db_exec(f.db, "select pg_sleep(20)::text", NULL, on_answer, &a[i]), 0);
    }
    read_word("run/postgres.pid", pid, sizeof(pid));
    assert_int_equal(program((const char *[]){"kill", "-QUIT", pid, NULL}), 0); /* immediate */
    AWAIT(&f, f.downs == 1);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].rc, ERR_DB_DOWN);
    }
    assert_int_equal(services("stop"), 0);
    AWAIT(&f, strstr(db_last_error(f.db), "Connection refused"));
    assert_int_equal(services("start"), 0);
    AWAIT(&f, f.ups == 2);
    assert_int_equal(f.downs, 1);
    assert_int_equal(run(&f, "select 1", NULL, NULL), 0);
    teardown(&f);
}

/* A connection that is up and deaf. */
static void test_frozen_backend(void **state)
{
    (void)state;
    struct fixture admin;
    struct fixture f;
    struct answer a = {0};

    setup_admin(&admin);
    setup(&f, 1);
    f.o.statement_timeout_ms = 500;
    open_up(&f);
    pid_t pid = backend(&admin, "sje-test-db");
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(db_exec(f.db, "select 1", NULL, on_answer, &a), 0);
    uint64_t start = uv_hrtime();
    AWAIT(&f, a.calls == 1);
    assert_int_equal(a.rc, ERR_DB_DOWN);
    assert_in_range((uv_hrtime() - start) / 1000000, 9000, 12000);
    AWAIT(&f, f.ups == 2);
    assert_int_equal(kill(pid, SIGCONT), 0);
    teardown(&f);
    teardown(&admin);
}

static void count_up(void *arg)
{
    ++*(int *)arg;
}

struct lock_counts {
    int held;
    int lost;
};

static void on_held(void *arg)
{
    ((struct lock_counts *)arg)->held++;
}

static void on_lost(void *arg, const struct err *why)
{
    (void)why;
    ((struct lock_counts *)arg)->lost++;
}

static void test_frozen_lock_is_lost_soon(void **state)
{
    (void)state;
    struct fixture f;
    struct lock_counts n = {0};
    int closed = 0;

    setup_admin(&f);
    struct db_options o = f.o;
    o.name = "frozen-lock";
    struct db_lock *lock = db_lock_new(&f.loop, &o, 77, 50, on_held, on_lost, &n);
    AWAIT(&f, n.held == 1);
    pid_t pid = backend(&f, "frozen-lock");
    assert_int_equal(kill(pid, SIGSTOP), 0);
    uint64_t start = uv_hrtime();
    AWAIT(&f, n.lost == 1);
    assert_true(uv_hrtime() - start < 5000000000);
    assert_int_equal(kill(pid, SIGCONT), 0); /* only now does the server let go of it */
    AWAIT(&f, n.held == 2);
    db_lock_free(lock, count_up, &closed);
    AWAIT(&f, closed == 1);
    teardown(&f);
}

/* After a failover the old primary is read-only: it must not be kept. */
static void test_read_only(void **state)
{
    (void)state;
    struct fixture admin;
    struct fixture f;
    struct answer a;

    setup_admin(&admin);
    setup_up(&f, 1);
    assert_int_equal(
        run(&admin, "alter role sje set default_transaction_read_only = on", NULL, NULL), 0);
    assert_int_equal(run(&f, "set default_transaction_read_only = on", NULL, NULL), 0);
    assert_int_equal(run(&f, "create table t (n int)", NULL, &a), ERR_DB_DOWN);
    assert_true(db_is_sqlstate(&a.why, "25006"));
    AWAIT(&f, strstr(db_last_error(f.db), "session is read-only"));
    assert_false(db_is_up(f.db));
    assert_int_equal(run(&admin, "alter role sje reset default_transaction_read_only", NULL, NULL),
                     0);
    AWAIT(&f, f.ups == 2);
    teardown(&f);
    teardown(&admin);
}

static void test_fewer_connections_than_wanted(void **state)
{
    (void)state;
    static const char count[] = "select count(*) from pg_stat_activity where usename = 'sje'";
    struct fixture admin;
    struct fixture f;

    setup_admin(&admin);
    AWAIT(&admin, run_number(&admin, count, NULL) == 0);
    assert_int_equal(run(&admin, "alter role sje connection limit 2", NULL, NULL), 0);
    setup(&f, 4);
    f.db = db_open(&f.loop, &f.o);
    AWAIT(&f, run_number(&admin, count, NULL) == 2 && strstr(db_last_error(f.db), "[53300]"));
    assert_true(db_is_up(f.db));
    assert_int_equal(run(&f, "select 1", NULL, NULL), 0);
    assert_int_equal(run(&admin, "alter role sje connection limit -1", NULL, NULL), 0);
    AWAIT(&f, run_number(&admin, count, NULL) == 4);
    teardown(&f);
    teardown(&admin);
}

static char certificate[256];

static bool make_certificate(void)
{
    char key[256];
    char data[256];
    struct stat owner;

    snprintf(data, sizeof(data), "%s/postgres/data", dir);
    snprintf(key, sizeof(key), "%s/postgres/data/server.key", dir);
    snprintf(certificate, sizeof(certificate), "%s/postgres/data/server.crt", dir);
    if (program((const char *[]){"openssl", "req", "-new", "-x509", "-nodes", "-days", "2",
                                 "-batch", "-subj", "/CN=localhost", "-newkey", "rsa:2048",
                                 "-keyout", key, "-out", certificate, NULL}) != 0) {
        return false;
    }
    assert_int_equal(stat(data, &owner), 0);
    assert_int_equal(chmod(key, 0600), 0);
    assert_int_equal(chown(key, owner.st_uid, owner.st_gid), 0);
    assert_int_equal(chown(certificate, owner.st_uid, owner.st_gid), 0);
    return true;
}

static void one_size(struct fixture *f, int size)
{
    struct db_params p CLEANUP(db_params_free);

    db_params_init(&p);
    db_add_int(&p, size);
    assert_int_equal(run(f, "select repeat('x', $1)", &p, NULL), 0);
}

/* Answers of every length around the sizes of TLS records and of libpq's buffer. */
static void test_tls(void **state)
{
    (void)state;
    struct fixture admin;
    struct fixture f;
    struct answer a[50] = {{0}};

    if (!make_certificate()) {
        skip();
    }
    setup_admin(&admin);
    assert_int_equal(run(&admin, "alter system set ssl = on", NULL, NULL), 0);
    assert_int_equal(run(&admin, "select pg_reload_conf()", NULL, NULL), 0);
    AWAIT(&admin, run_number(&admin,
                             "select count(*) from pg_settings where name = 'ssl'"
                             " and setting = 'on'",
                             NULL) == 1);
    setup(&f, 1);
    f.o.ssl_mode = "require";
    open_up(&f);
    assert_int_equal(run_number(&f,
                                "select count(*) from pg_stat_ssl where ssl"
                                " and pid = pg_backend_pid()",
                                NULL),
                     1);
    for (int size = 0; size < 400; size++) {
        one_size(&f, 8000 + size);
        one_size(&f, 16200 + size);
        one_size(&f, 24400 + size);
        one_size(&f, 81600 + size);
    }
    for (int i = 0; i < 50; i++) {
        assert_int_equal(db_exec(f.db, "select repeat('x', n) from generate_series(1, 900) s (n)",
                                 NULL, on_answer, &a[i]),
                         0);
    }
    for (int i = 0; i < 50; i++) {
        AWAIT(&f, a[i].calls == 1);
        assert_int_equal(a[i].rows, 900);
    }
    teardown(&f);
    teardown(&admin);
}

static void test_tls_names(void **state)
{
    (void)state;
    struct fixture f;

    if (!certificate[0] || chmod(certificate, 0644) != 0) {
        skip();
    }
    setenv("PGSSLROOTCERT", certificate, 1);
    setup(&f, 1);
    f.o.ssl_mode = "verify-full";
    f.o.host = "localhost";
    open_up(&f);
    teardown(&f);
    setup(&f, 1);
    f.o.ssl_mode = "verify-full";
    f.o.host = "127.0.0.1";
    f.db = db_open(&f.loop, &f.o);
    AWAIT(&f, f.downs == 1);
    assert_non_null(strstr(f.why.text, "does not match host name"));
    unsetenv("PGSSLROOTCERT");
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_frozen_backend),
        cmocka_unit_test(test_frozen_lock_is_lost_soon),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_fewer_connections_than_wanted),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_tls_names),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
