/* The commands about the cluster. */
#include "cmd/sje/cli.h"

#include <stdlib.h>

#define CELL_BYTES 4096

int version_run(struct cli *c)
{
    if (c->json) {
        printf("{\"version\":\"%s\"}\n", SJE_VERSION);
    } else {
        printf("sje %s\n", SJE_VERSION);
    }
    return CLI_OK;
}

int metrics_run(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    int rc = cli_send(c, &(struct request){.path = "/metrics", .text = true}, &r);
    struct str text = {r.body.data ? r.body.data : "", r.body.len};

    if (rc != CLI_OK) {
        return rc;
    }
    if (r.status != 200) {
        return cli_refused(c, &r, "metrics");
    }
    if (c->json) {
        json_auto_t *j = json_pack("{s:o}", "metrics", json_string_lossy(text.p, text.len));

        cli_dump_json(c, j);
        return CLI_OK;
    }
    json_auto_t *j = json_string_lossy(text.p, text.len);
    cli_print_value(c, j, 0);
    return CLI_OK;
}

static void print_trouble(const char *head, const struct buf *text)
{
    struct buf line CLEANUP(buf_free) = {0};

    buf_init(&line, CELL_BYTES * 4);
    buf_adds(&line, head);
    text_clean(&line, (struct str){text->data, text->len});
    buf_addc(&line, '\n');
    fwrite(line.data, 1, line.len, stdout);
}

/* Not one that is silent or has no name: what it said last is of no account. */
static bool takes_part(const char *state)
{
    return !streq(state, "DEAD") && !streq(state, "STOPPED") && !streq(state, "REFUSED");
}

/* What is wrong with a worker, a line for each fault. */
static void print_faults(const char *head, const json_t *w)
{
    struct buf b CLEANUP(buf_free) = {0};
    const json_t *held = json_object_get(w, "holdOff");
    const char *name = json_get_string(w, "workerId");
    const char *state = json_get_string(w, "state");
    const char *reason = json_get_string(w, "reason");

    buf_init(&b, CELL_BYTES);
    if (reason) {
        buf_addf(&b, "%.128s is %.32s: %.1000s", name, state, reason);
        print_trouble(head, &b);
        buf_reset(&b);
    }
    for (size_t k = 0; takes_part(state) && k < json_array_size(held); k++) {
        const char *type = json_get_string(json_array_get(held, k), "type");
        const char *why = json_get_string(json_array_get(held, k), "reason");

        buf_addf(&b, "%.128s takes no%s%.128s: %.1000s", name, type ? " " : "thing",
                 type ? type : "", why ? why : "?");
        print_trouble(head, &b);
        buf_reset(&b);
    }
}

static void print_troubles(const char *head, const json_t *workers)
{
    for (size_t i = 0; i < json_array_size(workers); i++) {
        print_faults(head, json_array_get(workers, i));
    }
}

/* A state in which it takes no new tasks, where it gives no reason itself. One that has stopped in
 * order is no trouble. */
static void print_state(const char *head, const json_t *w)
{
    struct buf b CLEANUP(buf_free) = {0};
    const char *name = json_get_string(w, "workerId");
    const char *state = json_get_string(w, "state");
    const char *since = json_get_string(w, "lastHeartbeatAt");

    buf_init(&b, CELL_BYTES);
    if (streq(state, "DRAINING")) {
        buf_addf(&b, "%.128s is DRAINING: it gets no new tasks", name);
    } else if (streq(state, "DEAD") || streq(state, "SUSPECT")) {
        buf_addf(&b, "%.128s is %s: %s%.40s", name, state, since ? "silent since " : "never heard",
                 since ? since : "");
    } else if (streq(state, "REFUSED") && !json_get_string(w, "reason")) {
        buf_addf(&b, "%.128s is REFUSED", name);
    } else {
        return;
    }
    print_trouble(head, &b);
}

/* How many tasks could run now; -1: that cannot be told. */
static int64_t tasks_waiting(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    struct err e;
    int64_t waiting = 0;

    if (client_call(c->client, &(struct request){.path = "/mgmt/queues"}, &r, &e) < 0 ||
        r.status != 200) {
        return -1;
    }
    const json_t *queues = json_object_get(r.json, "queues");
    for (size_t i = 0; i < json_array_size(queues); i++) {
        const json_t *q = json_array_get(queues, i);

        waiting += json_get_int(q, "ready", 0) + json_get_int(q, "fed", 0);
    }
    return waiting;
}

/* False: tasks wait, and no worker takes any. */
static bool print_workers(struct cli *c, const json_t *workers, bool show)
{
    static const char head[] = "degraded: worker ";
    int taking = 0;

    for (size_t i = 0; i < json_array_size(workers); i++) {
        const json_t *w = json_array_get(workers, i);
        const json_t *types = json_object_get(w, "jobTypes");

        taking += streq(json_get_string(w, "state"), "UP") && json_array_size(types) > 0;
    }
    int64_t waiting = taking ? 0 : tasks_waiting(c);
    if (!taking && show) {
        printf("degraded: no worker takes any task");
        if (waiting > 0) {
            printf(", and %lld %s", (long long)waiting, waiting == 1 ? "waits" : "wait");
        }
        printf("\n");
    }
    for (size_t i = 0; show && i < json_array_size(workers); i++) {
        print_state(head, json_array_get(workers, i));
        print_faults(head, json_array_get(workers, i));
    }
    return waiting <= 0;
}

/* The manager is up; does it get done what waits? One that cannot say is not asked. */
static bool is_served(struct cli *c, const json_t *health, bool show)
{
    struct reply r CLEANUP(reply_done) = {0};
    struct err e;
    bool led = !json_get_bool(health, "noLeader", false);

    if (!led && show) {
        printf("degraded: no manager leads: tasks wait until one does\n");
    }
    if (!streq(json_get_string(health, "status"), "up") ||
        client_call(c->client, &(struct request){.path = "/mgmt/workers"}, &r, &e) < 0 ||
        r.status != 200) {
        return led;
    }
    return print_workers(c, json_object_get(r.json, "workers"), show) && led;
}

int health_run(struct cli *c)
{
    struct reply r CLEANUP(reply_done) = {0};
    int rc = cli_send(c, &(struct request){.path = "/health"}, &r);
    const char *status = json_get_string(r.json, "status");
    bool show = !c->json && !c->quiet;

    if (rc != CLI_OK) {
        return rc;
    }
    if (!status || (r.status != 200 && r.status / 100 != 5)) {
        return cli_refused(c, &r, "health");
    }
    if (c->json) {
        cli_print_json(c, &r);
    } else if (show) {
        cli_print_flat(c, r.json);
    }
    bool served = is_served(c, r.json, show);
    return served && r.status == 200 && streq(status, "up") ? CLI_OK : CLI_TASK;
}

static int show_flat(struct cli *c, const char *path, const char *about)
{
    struct reply r CLEANUP(reply_done) = {0};
    int rc = cli_get(c, path, about, &r);

    if (rc == CLI_OK && !json_is_object(r.json)) {
        return cli_strange(c, about);
    }
    if (rc == CLI_OK && c->json) {
        cli_print_json(c, &r);
    } else if (rc == CLI_OK) {
        cli_print_flat(c, r.json);
    }
    return rc;
}

int config_run(struct cli *c)
{
    return show_flat(c, "/mgmt/config", "config");
}

int worker_run(struct cli *c)
{
    char *path CLEANUP(freep) = xasprintf("/mgmt/workers/%s", c->operand);
    char *about CLEANUP(freep) = xasprintf("worker %s", c->operand);

    return show_flat(c, path, about);
}

/* ---- tables ---- */

static void add_number(struct table *t, const json_t *obj, const char *key)
{
    struct buf b CLEANUP(buf_free) = {0};
    const json_t *v = json_object_get(obj, key);

    buf_init(&b, CELL_BYTES);
    if (json_is_integer(v)) {
        buf_addf(&b, "%lld", (long long)json_integer_value(v));
    } else {
        buf_addc(&b, '-');
    }
    table_cell_buf(t, &b);
}

static void add_list(struct table *t, const json_t *list)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, CELL_BYTES);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));

        buf_addf(&b, "%s%s", i ? "," : "", s ? s : "?");
    }
    table_cell_buf(t, &b);
}

static void add_worker(struct table *t, const struct cli *c, const json_t *w)
{
    struct buf b CLEANUP(buf_free) = {0};
    int64_t at = 0;

    buf_init(&b, CELL_BYTES);
    table_cell(t, str_of(json_get_string(w, "workerId")));
    table_cell(t, str_of(json_get_string(w, "state")));
    add_number(t, w, "running");
    add_number(t, w, "usedSlots");
    add_number(t, w, "slots");
    if (view_time(w, "lastHeartbeatAt", &at)) {
        text_ago(&b, client_now(c->client) - at);
    }
    table_cell_buf(t, &b);
    table_cell(t, str_of(json_get_string(w, "host")));
    add_list(t, json_object_get(w, "pools"));
    table_cell(t, str_of(json_get_string(w, "version")));
}

/* The array that is the member `name` of the answer, row by row; `below` says what a
 * table has no room for. */
static int show_table(struct cli *c, const char *path, const char *name,
                      const struct column *columns,
                      void (*add)(struct table *t, const struct cli *c, const json_t *row),
                      void (*below)(const char *head, const json_t *rows))
{
    struct reply r CLEANUP(reply_done) = {0};
    struct table t CLEANUP(table_done) = {0};
    int rc = cli_get(c, path, name, &r);
    const json_t *rows = json_object_get(r.json, name);

    if (rc != CLI_OK) {
        return rc;
    }
    if (!json_is_array(rows)) {
        return cli_strange(c, name);
    }
    if (c->json) {
        cli_print_json(c, &r);
        return CLI_OK;
    }
    table_init(&t, columns);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        add(&t, c, json_array_get(rows, i));
    }
    if (t.used) {
        table_print(&t, stdout, cli_width(c), c->out_color);
    } else {
        cli_note(c, "no %s", name);
    }
    below("", rows);
    return CLI_OK;
}

int workers_run(struct cli *c)
{
    static const struct column columns[] = {{"WORKER", COLUMN_FLEXIBLE},
                                            {"STATE", COLUMN_STATE},
                                            {"TASKS", COLUMN_RIGHT},
                                            {"USED", COLUMN_RIGHT},
                                            {"SLOTS", COLUMN_RIGHT},
                                            {"HEARTBEAT", 0},
                                            {"HOST", COLUMN_FLEXIBLE},
                                            {"POOLS", COLUMN_FLEXIBLE},
                                            {"VERSION", 0},
                                            {0}};

    return show_table(c, "/mgmt/workers", "workers", columns, add_worker, print_troubles);
}

static void add_queue(struct table *t, const struct cli *c, const json_t *queue)
{
    (void)c;
    table_cell(t, str_of(json_get_string(queue, "pool")));
    table_cell(t, json_get_bool(queue, "paused", false) ? STR("paused") : STR("open"));
    add_number(t, queue, "scheduled");
    add_number(t, queue, "queued");
    add_number(t, queue, "running");
}

/* Long, so not in the table. */
static void print_waiting(const char *head, const json_t *queues)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, CELL_BYTES);
    for (size_t i = 0; i < json_array_size(queues); i++) {
        const json_t *q = json_array_get(queues, i);
        const char *text = json_get_string(q, "waitingFor");
        const char *task = json_get_string(q, "waitingTaskId");

        if (text) {
            buf_addf(&b, "%.64s waits: %.1000s%s%.36s%s", json_get_string(q, "pool"), text,
                     task ? " (task " : "", task ? task : "", task ? ")" : "");
            print_trouble(head, &b);
            buf_reset(&b);
        }
    }
}

int queues_run(struct cli *c)
{
    static const struct column columns[] = {{"POOL", COLUMN_FLEXIBLE},   {"STATE", COLUMN_STATE},
                                            {"SCHEDULED", COLUMN_RIGHT}, {"QUEUED", COLUMN_RIGHT},
                                            {"RUNNING", COLUMN_RIGHT},   {0}};

    return show_table(c, "/mgmt/queues", "queues", columns, add_queue, print_waiting);
}

/* ---- orders ---- */

/* Workers and pools have names alike, and commands of their own. */
static void hint_pool(struct cli *c, const char *command)
{
    struct reply r CLEANUP(reply_done) = {0};
    struct err e;

    if (client_call(c->client, &(struct request){.path = "/mgmt/queues"}, &r, &e) < 0) {
        return;
    }
    const json_t *queues = json_object_get(r.json, "queues");
    for (size_t i = 0; i < json_array_size(queues); i++) {
        if (streq(json_get_string(json_array_get(queues, i), "pool"), c->operand)) {
            cli_note(c, "%s is the name of a pool; for that: sje %s %s", c->operand, command,
                     c->operand);
        }
    }
}

struct order {
    const char *path; /* with the name in it */
    const char *name; /* of what is ordered about */
    const char *done;
    const char *for_pool; /* the command that does the same for a pool; NULL: this one is */
};

static int order(struct cli *c, const struct order *o)
{
    struct reply r CLEANUP(reply_done) = {0};
    char *about CLEANUP(freep) = xasprintf("%s %s", o->name, c->operand);
    int rc = cli_post(c, o->path, about, &r);

    if (rc == CLI_OK && c->json) {
        cli_print_json(c, &r);
    } else if (rc == CLI_OK) {
        cli_note(c, "%s %s", about, o->done);
        cli_warnings(c, &r);
    } else if (r.status == 404 && o->for_pool) {
        hint_pool(c, o->for_pool);
    }
    return rc;
}

int drain_run(struct cli *c)
{
    char *path CLEANUP(freep) = xasprintf("/mgmt/workers/%s/drain", c->operand);

    return order(
        c, &(struct order){path, "worker", "gets no more tasks; what it runs goes on", "pause"});
}

int resume_run(struct cli *c)
{
    char *path CLEANUP(freep) = xasprintf("/mgmt/workers/%s/resume", c->operand);

    return order(c, &(struct order){path, "worker", "gets tasks again", "unpause"});
}

int pause_run(struct cli *c)
{
    char *path CLEANUP(freep) = xasprintf("/mgmt/queues/%s/pause", c->operand);

    return order(c, &(struct order){path, "pool", "is paused; what runs goes on", NULL});
}

int unpause_run(struct cli *c)
{
    char *path CLEANUP(freep) = xasprintf("/mgmt/queues/%s/resume", c->operand);

    return order(c, &(struct order){path, "pool", "is released", NULL});
}
