/* What is too old goes, and nothing else: tasks, keys, audit. */
#include "internal/metrics.h"
#include "tests/integration/manager_bench.h"

/* Tasks n..m of an end so long ago, submitted shortly before it; `state` 2 has not ended. Their ids
 * are of the time of their submission. */
#define OLD_TASKS(from, to, state, hours)                                                          \
    "with x as (select i, (lpad(to_hex((extract(epoch from now() - interval '" hours               \
    " hours') * 1000)::bigint - 5000), 12, '0') || '7' || lpad(to_hex(" state                      \
    "), 3, '0') || '8' || lpad(to_hex(i), 15, '0'))::uuid as id from generate_series(" from        \
    ", " to ") i), t as (insert into task (id, seq, state, attempt, failures, losses, requeues, "  \
    "stale, priority, max_attempts, backoff_s, slots, lease_s, queue_timeout_s, claim_beat, "      \
    "cancel_requested, rank, incarnation, token, submitted_at, run_after, finished_at, pool, "     \
    "job_type, job_id, spec) select id, 1, " state ", 1, 0, 0, 0, 0, 5, 1, 5, 1, 0, 0, 0, false, " \
    "0, 0, 0, now() - interval '" hours " hours', now(), case when " state                         \
    " > 4 then now() - interval '" hours " hours' end, 'nobody', 'Noop', 'old', '{}' from x) "     \
    "insert into event (task_id, seq, at, attempt, to_state, event) select id, 1, now() - "        \
    "interval '" hours " hours', 1, " state ", 'accepted' from x"

/* Fails in the database where it does not hold. */
#define HOLDS(what)                                                                                \
    run_sql("do $do$ begin if not (" what ") then raise exception using message = $m$" #what       \
            "$m$; end if; end $do$")
#define TASKS(where)  "(select count(*) from task where job_id = 'old' and " where ")"
#define EVENTS(hours) "(select count(*) from event where at < now() - interval '" hours " hours')"

static void keep(int tasks_hours, int audit_hours)
{
    config->manager.keep_tasks_hours = tasks_hours;
    config->manager.keep_audit_hours = audit_hours;
    manager_reconfigure(manager, config);
}

static int clean(void **state)
{
    int rc = setup(state);

    keep(0, 0);
    run_sql("do $$ begin perform set_config('sje.retention', 'on', true); delete from event; "
            "delete from cluster_event; delete from task; delete from idempotency; end $$");
    return rc;
}

/* Two passes: the first may have been under way. */
static void search_twice(void)
{
    for (int i = 0; i < 2; i++) {
        double before = metric_value(METRIC_retention_passes, NULL);

        manager_reconfigure(manager, config);
        AWAIT(metric_value(METRIC_retention_passes, NULL) > before);
    }
}

static void test_only_what_is_too_old_goes(void **state)
{
    (void)state;
    run_sql(OLD_TASKS("1", "2500", "5", "10")); /* more than a step */
    run_sql(OLD_TASKS("2501", "2600", "6", "30"));
    run_sql(OLD_TASKS("2601", "2650", "7", "1"));
    run_sql(OLD_TASKS("2651", "2700", "2", "30"));
    run_sql("insert into idempotency select 'k' || id::text, '', array[id], now() from task where "
            "job_id = 'old' and state in (2, 6)");
    run_sql("insert into cluster_event (at, manager_id, event) values (now() - interval '30 "
            "hours', 'm', 'old'), (now(), 'm', 'new')");
    search_twice();
    HOLDS(TASKS("true") " = 2700");

    keep(5, 20);
    search_twice();
    HOLDS(TASKS("state = 5") " = 0 and " TASKS("state = 6") " = 0");
    HOLDS(TASKS("state = 7") " = 50 and " TASKS("state = 2") " = 50");
    HOLDS("(select count(*) from idempotency where key like 'k%' and tasks[1] in "
          "(select id from task)) = 50");
    HOLDS("(select count(*) from idempotency where key like 'k%') = 50");
    /* The audit of 2,500 outlives them; of 100 it went too; what has not ended keeps its own. */
    HOLDS(EVENTS("9") " = 2550 and " EVENTS("29") " = 50");
    HOLDS("(select count(*) from cluster_event where event = 'old') = 0");
    HOLDS("(select count(*) from cluster_event where event = 'new') = 1");

    keep(5, 1); /* shorter than the tasks: with them */
    search_twice();
    HOLDS(TASKS("state = 7") " = 50 and " EVENTS("9") " = 50");
    run_sql("update task set state = 7, seq = seq + 1, finished_at = now() - interval '9 hours' "
            "where job_id = 'old' and state = 2");
    search_twice();
    HOLDS(TASKS("true") " = 50 and " EVENTS("9") " = 0");
}

static void test_who_no_longer_leads_removes_nothing(void **state)
{
    (void)state;
    run_sql(OLD_TASKS("1", "10", "5", "10"));
    AWAIT(leads());
    run_sql("update leader set epoch = epoch + 1");
    keep(1, 1);
    search_twice();
    HOLDS(TASKS("true") " = 10 and " EVENTS("9") " = 10");
}

static void test_the_audit_is_deleted_in_no_other_way(void **state)
{
    (void)state;
    run_sql("do $$ begin delete from event; raise exception 'it was'; "
            "exception when check_violation then null; end $$");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_only_what_is_too_old_goes, clean, teardown),
        cmocka_unit_test_setup_teardown(test_who_no_longer_leads_removes_nothing, clean, teardown),
        cmocka_unit_test_setup_teardown(test_the_audit_is_deleted_in_no_other_way, clean, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
