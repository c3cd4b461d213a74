/* rows COUNT BATCH CONNECTIONS: how many tasks a second PostgreSQL takes, with one event each, from
 * multi-row INSERTs of BATCH rows and a COMMIT per batch. The statements are made beforehand, so
 * only the database is measured. Needs the schema of configs/sql in SJE_DB_DATABASE. */
#include "internal/buf.h"
#include "internal/id.h"
#include "tests/bench/bench.h"

#include <libpq-fe.h>
#include <sys/wait.h>
#include <unistd.h>

static void add_task(struct buf *b, const char *id, long i)
{
    buf_addf(b,
             "%s('%s',1,2,1,0,0,0,0,5,1,5,1,0,0,0,false,%lld,0,0,now(),now(),'default','Noop',"
             "'bench','{\"jobId\":\"bench\",\"jobType\":\"Noop\",\"parameters\":{\"n\":%ld}}')",
             b->len && b->data[b->len - 1] == ')' ? "," : "", id, (long long)i, i);
}

static char *statement(long first, long n)
{
    struct buf tasks CLEANUP(buf_free);
    struct buf events CLEANUP(buf_free);

    buf_init(&tasks, 1 << 28);
    buf_init(&events, 1 << 28);
    buf_adds(&tasks,
             "begin; insert into task (id, seq, state, attempt, failures, losses, requeues, "
             "stale, priority, max_attempts, backoff_s, slots, lease_s, queue_timeout_s, "
             "claim_beat, cancel_requested, rank, incarnation, token, submitted_at, "
             "run_after, pool, job_type, job_id, spec) values ");
    buf_adds(&events, "; insert into event (task_id, seq, at, attempt, to_state, event) values ");
    for (long i = first; i < first + n; i++) {
        char text[ID_TEXT_LEN];
        struct id id = id_new();

        id_format(&id, text);
        add_task(&tasks, text, i);
        buf_addf(&events, "%s('%s',1,now(),1,2,'accepted')", i > first ? "," : "", text);
    }
    buf_add(&tasks, events.data, events.len);
    buf_adds(&tasks, "; commit");
    MUST(!tasks.failed && !events.failed);
    return buf_take(&tasks);
}

static PGconn *database(void)
{
    const char *const names[] = {"host", "port", "dbname", "user", "password", NULL};
    const char *const values[] = {setting("SJE_DB_HOST"),     setting("SJE_DB_PORT"),
                                  setting("SJE_DB_DATABASE"), setting("SJE_DB_USERNAME"),
                                  setting("SJE_DB_PASSWORD"), NULL};
    PGconn *db = PQconnectdbParams(names, values, 0);

    if (PQstatus(db) != CONNECTION_OK) {
        die("%s", PQerrorMessage(db));
    }
    return db;
}

/* A writer of its own process: tells when it is ready, begins when it is told. */
static void writer(long count, long batch, int ready, int go)
{
    size_t n = (size_t)((count + batch - 1) / batch);
    char **statements = xcalloc(n, sizeof(*statements));
    PGconn *db = database();
    char c = 0;

    for (size_t i = 0; i < n; i++) {
        long first = (long)i * batch;

        statements[i] = statement(first, MIN(batch, count - first));
    }
    if (write(ready, "", 1) != 1 || read(go, &c, 1) != 1) {
        die("the other writers are gone");
    }
    for (size_t i = 0; i < n; i++) {
        PGresult *r = PQexec(db, statements[i]);

        if (PQresultStatus(r) != PGRES_COMMAND_OK) {
            die("%s", PQerrorMessage(db));
        }
        PQclear(r);
        free(statements[i]);
    }
    free(statements);
    PQfinish(db);
    exit(0);
}

int main(int argc, char **argv)
{
    int ready[2];
    int go[2];
    char c = 0;

    if (argc != 4) {
        die("usage: rows COUNT BATCH CONNECTIONS");
    }
    long writers = number(argv[3]);
    long each = number(argv[1]) / writers;
    MUST(pipe(ready) == 0 && pipe(go) == 0);
    for (long i = 0; i < writers; i++) {
        if (fork() == 0) {
            writer(each, number(argv[2]), ready[1], go[0]);
        }
    }
    close(ready[1]); /* a writer that fails is not waited for */
    for (long i = 0; i < writers; i++) {
        if (read(ready[0], &c, 1) != 1) {
            die("a writer failed");
        }
    }
    double start = now_s(CLOCK_MONOTONIC);
    for (long i = 0; i < writers; i++) {
        MUST(write(go[1], "", 1) == 1);
    }
    for (long i = 0; i < writers; i++) {
        int status = 0;

        if (wait(&status) < 0 || status != 0) {
            die("a writer failed");
        }
    }
    printf("{\"count\":%ld,\"seconds\":%.6f}\n", each * writers, now_s(CLOCK_MONOTONIC) - start);
    return 0;
}
