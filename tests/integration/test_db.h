/* What the tests of db share: a loop, a pool from the environment, waiting with a deadline. */
#ifndef SJE_TEST_DB_H
#define SJE_TEST_DB_H

#include "internal/db.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define UNUSED      __attribute__((unused))
#define DEADLINE_NS 60000000000U

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick; /* so that a wait sees its deadline */
    struct db_options o;
    struct db *db;
    int ups;
    int downs;
    int closed;
    struct err why; /* of the last on_down */
};

/* What a statement was answered. */
struct answer {
    int calls;
    int rc;
    struct err why;
    int rows;
    int64_t affected;
    int64_t number; /* first cell, where its statement says that it is an integer */
    bool wants_number;
};

#define AWAIT(f, cond)                                                                             \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + DEADLINE_NS;                                                 \
        while (!(cond)) {                                                                          \
            assert_true(uv_hrtime() < end_);                                                       \
            uv_run(&(f)->loop, UV_RUN_ONCE);                                                       \
        }                                                                                          \
    } while (0)

static UNUSED void nothing(uv_timer_t *t)
{
    (void)t;
}

static UNUSED const char *env(const char *name)
{
    const char *value = getenv(name);

    if (!value) {
        fail_msg("%s is not set: run `make integration`", name);
    }
    return value;
}

static UNUSED int env_port(const char *name)
{
    int64_t port = 0;

    assert_true(str_to_i64(str_of(env(name)), 1, 65535, &port));
    return (int)port;
}

static UNUSED void on_fixture_up(void *arg)
{
    ((struct fixture *)arg)->ups++;
}

static UNUSED void on_fixture_down(void *arg, const struct err *why)
{
    struct fixture *f = arg;

    f->downs++;
    f->why = *why;
    assert_null(strchr(why->text, '\n'));
    assert_true(strlen(f->o.password) == 0 || !strstr(why->text, f->o.password));
}

static UNUSED void on_fixture_closed(void *arg)
{
    ((struct fixture *)arg)->closed++;
}

static UNUSED void setup(struct fixture *f, int connections)
{
    *f = (struct fixture){0};
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(uv_timer_init(&f->loop, &f->tick), 0);
    assert_int_equal(uv_timer_start(&f->tick, nothing, 20, 20), 0);
    f->o = (struct db_options){
        .host = env("SJE_TEST_DB_HOST"),
        .port = env_port("SJE_TEST_DB_PORT"),
        .database = env("SJE_TEST_DB_NAME"),
        .username = env("SJE_TEST_DB_USER"),
        .password = env("SJE_TEST_DB_PASSWORD"),
        .ssl_mode = "prefer",
        .name = "sje-test-db",
        .connections = connections,
        .arg = f,
        .on_up = on_fixture_up,
        .on_down = on_fixture_down,
    };
}

static UNUSED void open_up(struct fixture *f)
{
    f->db = db_open(&f->loop, &f->o);
    AWAIT(f, f->ups == 1);
}

static UNUSED void setup_up(struct fixture *f, int connections)
{
    setup(f, connections);
    open_up(f);
}

/* Nothing may be left open. */
static UNUSED void teardown(struct fixture *f)
{
    if (f->db) {
        db_close(f->db, on_fixture_closed, f);
        AWAIT(f, f->closed == 1);
    }
    uv_close((uv_handle_t *)&f->tick, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

static UNUSED void on_answer(void *arg, int rc, const struct db_result *res, const struct err *why)
{
    struct answer *a = arg;

    a->calls++;
    a->rc = rc;
    assert_true((rc == 0) == (res != NULL));
    assert_true((rc == 0) == (why == NULL));
    if (rc < 0) {
        assert_int_equal(why->code, rc);
        assert_null(strchr(why->text, '\n'));
        a->why = *why;
        return;
    }
    a->rows = db_rows(res);
    a->affected = db_affected(res);
    a->number = a->wants_number ? db_get_int(res, 0, 0) : 0;
}

static UNUSED int run(struct fixture *f, const char *sql, struct db_params *p, struct answer *a)
{
    struct answer own;

    a = a ? a : &own;
    *a = (struct answer){0};
    assert_int_equal(db_exec(f->db, sql, p, on_answer, a), 0);
    AWAIT(f, a->calls == 1);
    if (a->rc < 0 && a == &own) {
        print_message("%s: %s\n", sql, a->why.text);
    }
    return a->rc;
}

static UNUSED int64_t run_number(struct fixture *f, const char *sql, struct db_params *p)
{
    struct answer a = {.wants_number = true};

    assert_int_equal(db_exec(f->db, sql, p, on_answer, &a), 0);
    AWAIT(f, a.calls == 1);
    if (a.rc < 0) {
        fail_msg("%s: %s", sql, a.why.text);
    }
    return a.number;
}

#endif
