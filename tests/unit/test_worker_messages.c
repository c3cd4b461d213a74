/* What a worker reads and writes: orders and hints from managers, claims, results and beats. */
#include "pkg/worker/beat.h"
#include "pkg/worker/orders.h"
#include "pkg/worker/run_priv.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define ID   "01890a5d-ac96-774b-bcce-b302099a8057"
#define REF  "{\"task\":\"" ID "\",\"attempt\":3}"
#define SPEC "{\"jobType\":\"Noop\"}"
#define GRANT                                                                                      \
    "{\"task\":\"" ID "\",\"attempt\":3,\"token\":\"-77\",\"leaseMs\":30000,\"spec\":" SPEC "}"

static struct order read_good(const char *text)
{
    struct order o;
    struct err e = {0};

    if (order_read(str_of(text), &o, &e) < 0) {
        fail_msg("%s: %s", text, e.text);
    }
    return o;
}

static void check_key(const struct wcore_key *k)
{
    char text[ID_TEXT_LEN];

    id_format(&k->task, text);
    assert_string_equal(text, ID);
    assert_int_equal(k->attempt, 3);
}

static void test_grants(void **unused)
{
    (void)unused;
    struct order o =
        read_good("{\"v\":1,\"type\":\"grants\",\"manager\":\"m\",\"grants\":[" GRANT "],"
                  "\"denies\":[{\"task\":\"" ID "\",\"attempt\":3,\"reason\":\"retry\"},"
                  "{\"task\":\"" ID "\",\"attempt\":3,\"reason\":\"ended\"}]}");
    assert_int_equal(o.type, ORDER_GRANTS);
    assert_int_equal(o.n_grants, 1);
    check_key(&o.grants[0].key);
    assert_int_equal(o.grants[0].token, -77);
    assert_int_equal(o.grants[0].lease_ms, 30000);
    assert_string_equal(json_get_string(o.grants[0].spec, "jobType"), "Noop");
    assert_int_equal(o.n_denies, 2);
    assert_int_equal(o.denies[0].how, WCORE_DENY_RETRY);
    assert_int_equal(o.denies[1].how, WCORE_DENY_DONE);
    order_free(&o);
    o = read_good("{\"v\":1,\"type\":\"grants\"}");
    assert_int_equal(o.n_grants + o.n_denies, 0);
    order_free(&o);
}

static void test_orders(void **unused)
{
    (void)unused;
    struct order o =
        read_good("{\"v\":1,\"type\":\"beat-ack\",\"beat\":42,\"drain\":true,\"new\":1,"
                  "\"unsure\":[" REF "],\"revoke\":[" REF "," REF "],\"cancel\":[" REF "]}");
    assert_int_equal(o.beat, 42);
    assert_int_equal(o.dead_after_ms, 0); /* of a version that does not tell it */
    assert_true(o.drain);
    assert_int_equal(o.unsure.n, 1);
    assert_int_equal(o.revoke.n, 2);
    assert_int_equal(o.cancel.n, 1);
    check_key(&o.revoke.keys[1]);
    order_free(&o);
    static const struct {
        const char *text;
        int64_t ms;
    } told[] = {{"15000", 15000}, {"2999", 0}, {"86400000", 86400000}, {"86400001", 0}, {"-1", 0},
                {"\"x\"", 0},     {"null", 0}};
    for (size_t i = 0; i < ARRAY_LEN(told); i++) {
        char *text CLEANUP(freep) = xasprintf(
            "{\"v\":1,\"type\":\"beat-ack\",\"beat\":1,\"deadAfterMs\":%s}", told[i].text);

        o = read_good(text);
        assert_int_equal(o.dead_after_ms, told[i].ms);
        order_free(&o);
    }
    o = read_good("{\"v\":1,\"type\":\"cancel\",\"tasks\":[" REF "]}");
    assert_int_equal(o.cancel.n, 1);
    order_free(&o);
    o = read_good("{\"v\":1,\"type\":\"applied\",\"tasks\":[" REF "]}");
    assert_int_equal(o.applied.n, 1);
    order_free(&o);
    o = read_good("{\"v\":1,\"type\":\"revoke\",\"beat\":7,\"tasks\":[" REF "]}");
    assert_int_equal(o.beat, 7);
    assert_int_equal(o.revoke.n, 1);
    order_free(&o);
    o = read_good("{\"v\":1,\"type\":\"drain\",\"on\":true}");
    assert_true(o.drain);
    order_free(&o);
    o = read_good(
        "{\"v\":1,\"type\":\"log\",\"task\":\"" ID "\",\"attempt\":3,\"stream\":\"stderr\","
        "\"offset\":-5,\"limit\":99999999,\"waitMs\":99999999,\"reply\":\"sje.manager.x\","
        "\"rid\":9}");
    check_key(&o.log.key);
    assert_string_equal(o.log.stream, "stderr");
    assert_int_equal(o.log.offset, -5);
    assert_int_equal(o.log.limit, LOG_LIMIT_MAX); /* bounded */
    assert_int_equal(o.log.wait_ms, LOG_WAIT_MAX);
    assert_int_equal(o.log.rid, 9);
    order_free(&o);
}

static void test_for_whom_an_order_is(void **unused)
{
    static const char *const good[] = {",\"uuid\":\"f81d4fae-7dec-41d0-a765-00a0c93f2a9c\""};
    static const char *const bad[] = {"", ",\"uuid\":\"f81d4fae-7dec-41d0-a765-00a0c93f2a9d\"",
                                      ",\"uuid\":null", ",\"uuid\":\"x\"", ",\"uuid\":7"};
    static const char us[] = "f81d4fae-7dec-41d0-a765-00a0c93f2a9c";
    struct id uuid;

    (void)unused;
    assert_true(id_parse(us, strlen(us), &uuid));
    for (size_t i = 0; i < ARRAY_LEN(good) + ARRAY_LEN(bad); i++) {
        bool ours = i < ARRAY_LEN(good);
        const char *member = ours ? good[i] : bad[i - ARRAY_LEN(good)];
        char *text CLEANUP(freep) =
            xasprintf("{\"v\":1,\"type\":\"outdated\",\"inc\":7%s}", member);
        struct order o = read_good(text);

        assert_int_equal(order_is_for(&o, &uuid), ours);
        order_free(&o);
    }
}

/* Who may publish into our queue, and no more, changes nothing. */
static void test_what_must_be_addressed(void **unused)
{
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        {"{\"v\":1,\"type\":\"cancel\",\"tasks\":[" REF "]}", false},
        {"{\"v\":1,\"type\":\"applied\",\"tasks\":[" REF "]}", false},
        {"{\"v\":1,\"type\":\"revoke\",\"beat\":7,\"tasks\":[" REF "]}", false},
        {"{\"v\":1,\"type\":\"drain\",\"on\":true}", false},
        {"{\"v\":1,\"type\":\"beat-ack\",\"beat\":7}", false},
        {"{\"v\":1,\"type\":\"grants\",\"grants\":[" GRANT "]}", false},
        {"{\"v\":1,\"type\":\"hint\",\"task\":\"" ID "\",\"attempt\":1,\"slots\":1}", true},
        {"{\"v\":1,\"type\":\"log\",\"task\":\"" ID "\",\"attempt\":1,\"stream\":\"stdout\","
         "\"reply\":\"sje.manager.m\",\"rid\":1}",
         true},
    };
    struct id uuid = {{1}};

    (void)unused;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct order o = read_good(cases[i].text);

        assert_int_equal(order_is_for(&o, &uuid), cases[i].good);
        order_free(&o);
    }
}

static void test_where_the_later_process_is(void **unused)
{
    struct order o =
        read_good("{\"v\":1,\"type\":\"outdated\",\"inc\":7,\"host\":\"far\",\"pid\":12}");

    (void)unused;
    assert_string_equal(o.other_host, "far");
    assert_int_equal(o.other_pid, 12);
    order_free(&o);
    o = read_good("{\"v\":1,\"type\":\"outdated\",\"inc\":7}");
    assert_string_equal(o.other_host, "?");
    order_free(&o);
}

static void test_orders_that_are_refused(void **unused)
{
    static const char *const bad[] = {
        "",
        "x",
        "7",
        "[]",
        "{}",
        "{\"v\":1}",
        "{\"v\":\"1\",\"type\":\"drain\",\"on\":true}",
        "{\"v\":1,\"type\":\"drain\"}",
        "{\"v\":1,\"type\":\"drain\",\"on\":1}",
        "{\"v\":1,\"type\":\"beat-ack\"}",
        "{\"v\":1,\"type\":\"beat-ack\",\"beat\":0}",
        "{\"v\":1,\"type\":\"beat-ack\",\"beat\":1,\"revoke\":{}}",
        "{\"v\":1,\"type\":\"revoke\",\"tasks\":[" REF "]}",
        "{\"v\":1,\"type\":\"cancel\",\"tasks\":[" REF ",7]}",
        "{\"v\":1,\"type\":\"cancel\",\"tasks\":[{\"task\":\"" ID "\"}]}",
        "{\"v\":1,\"type\":\"cancel\",\"tasks\":[{\"task\":\"" ID "\",\"attempt\":0}]}",
        "{\"v\":1,\"type\":\"cancel\",\"tasks\":[{\"task\":\"" ID "\",\"attempt\":4294967297}]}",
        "{\"v\":1,\"type\":\"cancel\",\"tasks\":[{\"task\":\"" ID "x\",\"attempt\":1}]}",
        "{\"v\":1,\"type\":\"grants\",\"grants\":[" REF "]}",
        "{\"v\":1,\"type\":\"grants\",\"grants\":[" GRANT "],\"denies\":[" REF "]}",
        "{\"v\":1,\"type\":\"grants\",\"grants\":[{\"task\":\"" ID
        "\",\"attempt\":3,\"token\":7,\"leaseMs\":30000,\"spec\":{}}]}",
        "{\"v\":1,\"type\":\"grants\",\"grants\":[{\"task\":\"" ID
        "\",\"attempt\":3,\"token\":\"7\",\"leaseMs\":0,\"spec\":{}}]}",
        "{\"v\":1,\"type\":\"log\",\"task\":\"" ID
        "\",\"attempt\":3,\"stream\":\"../../etc/passwd\","
        "\"reply\":\"sje.manager.x\",\"rid\":9}",
        "{\"v\":1,\"type\":\"log\",\"task\":\"" ID "\",\"attempt\":3,\"stream\":\"stdout\","
        "\"reply\":\"sje.result\",\"rid\":9}",
        "{\"v\":1,\"type\":\"log\",\"task\":\"" ID "\",\"attempt\":3,\"stream\":\"stdout\","
        "\"reply\":\"sje.manager.x\"}",
    };

    (void)unused;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct order o;

        if (order_read(str_of(bad[i]), &o, NULL) != ERR_PARSE) {
            fail_msg("accepted: %s", bad[i]);
        }
        order_free(&o);
    }
}

/* What the specification asks for, as the manager reads it too. */
static void test_what_a_grant_takes(void **unused)
{
    static const struct {
        const char *resources;
        struct wcore_need need;
    } cases[] = {
        {"{}", {1, 0, 0}},
        {"{\"slots\":3,\"cpus\":0.5,\"memoryMb\":77}", {3, 500, 77}},
        {"{\"slots\":2.0,\"cpus\":100,\"memoryMb\":9999999}", {2, 100000, 9999999}},
        {"{\"slots\":-1,\"cpus\":\"x\",\"memoryMb\":null}", {1, 0, 0}},
        {"{\"slots\":1e99,\"cpus\":1e99,\"memoryMb\":1e99}", {1000000, INT32_MAX, INT32_MAX}},
        {"7", {1, 0, 0}},
    };

    (void)unused;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text CLEANUP(freep) =
            xasprintf("{\"v\":1,\"type\":\"grants\",\"grants\":[{\"task\":\"" ID "\",\"attempt\":3,"
                      "\"token\":\"7\",\"leaseMs\":30000,\"losses\":1,\"returns\":2,\"spec\":"
                      "{\"jobType\":\"Report\",\"resources\":%s}}]}",
                      cases[i].resources);
        struct order o = read_good(text);

        assert_memory_equal(&o.grants[0].need, &cases[i].need, sizeof(cases[i].need));
        assert_string_equal(o.grants[0].type, "Report");
        assert_int_equal(o.grants[0].losses, 3);
        order_free(&o);
    }
}

static void test_too_many_entries(void **unused)
{
    struct buf b CLEANUP(buf_free);
    struct order o;

    (void)unused;
    buf_init(&b, 1 << 20);
    buf_adds(&b, "{\"v\":1,\"type\":\"applied\",\"tasks\":[");
    for (int i = 0; i <= ORDER_ENTRIES; i++) {
        buf_adds(&b, i ? "," REF : REF);
    }
    buf_adds(&b, "]}");
    assert_int_equal(order_read((struct str){b.data, b.len}, &o, NULL), ERR_PARSE);
    order_free(&o);
    assert_int_equal(order_read((struct str){b.data, ORDER_BODY_MAX + 1}, &o, NULL), ERR_PARSE);
    order_free(&o);
}

#define HINT_WITH                                                                                  \
    "{\"v\":1,\"type\":\"hint\",\"task\":\"" ID "\",\"attempt\":1,\"slots\":1,\"reply\":%s}"

/* Who fed it; nobody may make us write elsewhere. */
static void test_the_manager_of_a_hint(void **unused)
{
    static const char *const bad[] = {
        "\"sje.manager.\"",    "\"sje.worker.w.1\"", "\"sje.result\"", "7",
        "\"sje.manager.a b\"", "\"sje.manager.é\"",  "\"\"",           "null"};
    struct wcore_hint h = {0};
    char id[260];
    char body[600];

    (void)unused;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        snprintf(body, sizeof(body), HINT_WITH, bad[i]);
        assert_int_equal(hint_read(str_of(body), &h, NULL), 0);
        assert_string_equal(h.manager, "");
    }
    for (size_t n = 243; n <= 244; n++) { /* 255 bytes, 256 bytes */
        memset(id, 'x', n);
        snprintf(id + n, sizeof(id) - n, "\"");
        char *text CLEANUP(freep) = xasprintf("\"sje.manager.%s", id);
        snprintf(body, sizeof(body), HINT_WITH, text);
        assert_int_equal(hint_read(str_of(body), &h, NULL), 0);
        assert_int_equal(strlen(h.manager), n == 243 ? 255 : 0);
    }
    snprintf(body, sizeof(body), HINT_WITH, "\"sje.manager.node-1.example.4711.0a1b\"");
    assert_int_equal(hint_read(str_of(body), &h, NULL), 0);
    assert_string_equal(h.manager, "sje.manager.node-1.example.4711.0a1b");
}

static void test_hints(void **unused)
{
    static const char *const bad[] = {
        "",
        "{\"v\":1,\"type\":\"hint\",\"task\":\"" ID "\",\"attempt\":1}",
        "{\"v\":1,\"type\":\"hint\",\"task\":\"" ID "\",\"attempt\":1,\"slots\":0}",
        "{\"v\":1,\"type\":\"claim\",\"task\":\"" ID "\",\"attempt\":1,\"slots\":1}",
        "{\"v\":1,\"type\":\"hint\",\"attempt\":1,\"slots\":1}",
        "{\"v\":1,\"type\":\"hint\",\"tasks\":[]}",
        "{\"v\":1,\"type\":\"hint\",\"tasks\":[7]}",
        "{\"v\":1,\"type\":\"hint\",\"tasks\":\"" ID "\"}",
        "{\"v\":1,\"type\":\"hint\",\"tasks\":[{\"task\":\"" ID "\",\"attempt\":1,\"slots\":1},"
        "{\"task\":\"" ID "\",\"attempt\":0,\"slots\":1}]}",
    };
    struct wcore_hint h = {0};
    char long_body[HINT_BODY_MAX + 2];

    (void)unused;
    assert_int_equal(hint_read(STR("{\"v\":1,\"type\":\"hint\",\"task\":\"" ID "\",\"attempt\":3,"
                                   "\"slots\":2,\"rank\":1700000000000}"),
                               &h, NULL),
                     0);
    assert_int_equal(h.n, 1);
    check_key(&h.tasks[0].key);
    assert_int_equal(h.tasks[0].need.slots, 2);
    assert_int_equal(h.tasks[0].rank, 1700000000000);
    assert_string_equal(h.manager, "");
    assert_int_equal(hint_read(STR("{\"v\":1,\"type\":\"hint\",\"tasks\":[{\"task\":\"" ID "\","
                                   "\"attempt\":3,\"slots\":2},{\"task\":\"" ID "\",\"attempt\":4,"
                                   "\"slots\":1,\"rank\":-5}]}"),
                               &h, NULL),
                     0);
    assert_int_equal(h.n, 2);
    check_key(&h.tasks[0].key);
    assert_int_equal(h.tasks[1].key.attempt, 4);
    assert_int_equal(h.tasks[1].rank, -5);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(hint_read(str_of(bad[i]), &h, NULL), ERR_PARSE);
    }
    memset(long_body, ' ', sizeof(long_body));
    assert_int_equal(hint_read((struct str){long_body, sizeof(long_body)}, &h, NULL), ERR_PARSE);
}

/* What a task needs, where the manager says it; and the same body for this worker alone. */
static void test_what_a_hint_says_of_its_tasks(void **unused)
{
    static const char tasks[] = "{\"v\":1,\"type\":\"hint\",\"reply\":\"sje.manager.x\",\"tasks\":["
                                "{\"task\":\"" ID "\",\"attempt\":3,\"slots\":1,\"type\":"
                                "\"SparkApp\",\"cpusMilli\":1500,\"memoryMb\":512},"
                                "{\"task\":\"" ID "\",\"attempt\":4,\"slots\":1}]}";
    static const char alone[] = "{\"v\":1,\"type\":\"hint\",\"task\":\"" ID "\",\"attempt\":3,"
                                "\"slots\":1,\"jobType\":\"Noop\"}";
    struct wcore_hint h = {0};

    (void)unused;
    assert_int_equal(hint_read(str_of(tasks), &h, NULL), 0);
    assert_false(h.directed);
    assert_string_equal(h.tasks[0].type, "SparkApp");
    assert_int_equal(h.tasks[0].need.cpus_milli, 1500);
    assert_int_equal(h.tasks[0].need.memory_mb, 512);
    assert_string_equal(h.tasks[1].type, "");
    assert_int_equal(h.tasks[1].need.cpus_milli + h.tasks[1].need.memory_mb, 0);
    assert_int_equal(hint_read(str_of(alone), &h, NULL), 0);
    assert_string_equal(h.tasks[0].type, "Noop");
    struct order o = read_good(tasks);
    assert_int_equal(o.type, ORDER_HINT);
    assert_true(o.hint->directed);
    assert_int_equal(o.hint->n, 2);
    assert_string_equal(o.hint->manager, "sje.manager.x");
    order_free(&o);
}

/* ---- results ---- */

static json_t *result_of(const json_t *error, const json_t *output, struct report_status *s)
{
    struct report_result r = {.token = -9,
                              .outcome = "failed",
                              .error = error,
                              .output = output,
                              .warning = "5 bytes were not kept",
                              .started_at = 5,
                              .finished_at = 6};
    json_t *j = NULL;

    r.key.attempt = 3;
    assert_true(id_parse(ID, strlen(ID), &r.key.task));
    char *text CLEANUP(freep) = report_result(&r, s);
    assert_true(strlen(text) <= REPORT_MAX);
    assert_int_equal(json_read(text, strlen(text), &j, NULL), 0);
    return j;
}

static void test_a_result(void **unused)
{
    struct report_status s = {.application_id = xstrdup("app \"1\"\xff"),
                              .ui_url = xstrdup("http://x"),
                              .text = xstrdup("stage"),
                              .done = 3,
                              .total = 8};
    json_auto_t *error = report_error("exit", "bad \x80 bytes");

    (void)unused;
    json_auto_t *j = result_of(error, NULL, &s);
    assert_string_equal(json_get_string(j, "task"), ID);
    assert_string_equal(json_get_string(j, "token"), "-9");
    assert_string_equal(json_get_string(j, "warning"), "5 bytes were not kept");
    assert_string_equal(json_get_string(j, "outcome"), "failed");
    assert_string_equal(json_get_string(j, "applicationId"), "app \"1\"\xef\xbf\xbd");
    assert_int_equal(json_get_int(json_object_get(j, "progress"), "total", 0), 8);
    assert_null(json_object_get(j, "uiUrl"));
    assert_null(json_object_get(j, "output"));
    assert_int_equal(json_get_int(j, "startedAtMs", 0), 5);
    report_status_done(&s);
    json_auto_t *plain = result_of(NULL, error, &s);
    assert_null(json_object_get(plain, "progress"));
    assert_null(json_object_get(plain, "error"));
    assert_true(json_equal(json_object_get(plain, "output"), error));
}

static void test_a_result_is_bounded(void **unused)
{
    struct report_status s = {.done = -1, .total = -1};
    char *big CLEANUP(freep) = xmalloc(REPORT_MAX + 1);

    (void)unused;
    memset(big, 'x', REPORT_MAX);
    json_auto_t *output = json_string(big);
    json_auto_t *j = result_of(NULL, output, &s);
    assert_non_null(json_get_string(json_object_get(j, "output"), "warning"));
    memcpy(big + REPORT_ERROR_MAX - 1, "\xc3\xa9", 2); /* a character across the limit */
    json_auto_t *error = report_error("exit", big);
    json_auto_t *cut = result_of(error, NULL, &s);
    assert_int_equal(json_string_length(json_object_get(json_object_get(cut, "error"), "message")),
                     REPORT_ERROR_MAX - 1);
    assert_int_equal(json_string_length(json_object_get(error, "message")), REPORT_MAX);
}

/* ---- beats ---- */

static void nothing(void *arg)
{
    (void)arg;
}

static struct config *config;
static const struct wcore_ops no_ops;

static json_t *beat_of(struct wcore *core, size_t *ret_len)
{
    struct id uuid = {{0xab}};
    struct beat_facts f = {.from = {who_of("node1", &uuid, 7), "sje.worker.node1.7"},
                           .config = config,
                           .wall_minus_boot = 1000000,
                           .host = "h\"ost",
                           .started_at = 5};
    struct buf b CLEANUP(buf_free);
    json_t *j = NULL;

    buf_init(&b, 2 * REPORT_MAX);
    beat_write(&b, &f, core, 42);
    assert_false(b.failed);
    assert_int_equal(json_read(b.data, b.len, &j, NULL), 0);
    *ret_len = b.len;
    return j;
}

static struct run *adopt(struct wcore *core, struct run_context *x, int n, bool ended)
{
    struct wcore_key k = {.attempt = 1};

    memcpy(k.task.b, &n, sizeof(n));
    struct run *r = run_new(x, &k, n);
    assert_non_null(
        wcore_adopt(core, 1000, &k, &(struct wcore_need){.slots = 1}, n, 30000, ended, r));
    return r;
}

static void test_a_beat(void **unused)
{
    struct wcore_settings s = {.capacity = {.slots = 3}, .heartbeat_ms = 5000, .grace_ms = 1};
    struct run_context x = {.on_freed = nothing};
    size_t len = 0;

    (void)unused;
    list_init(&x.runs);
    struct wcore *core = wcore_new(&no_ops, NULL, &s);
    struct run *r = adopt(core, &x, 5, false);
    r->status.application_id = xstrdup("app-1");
    r->status.ui_url = xstrdup("http://ui");
    r->status.done = 2;
    r->status.total = 4;
    adopt(core, &x, 6, true);
    wcore_find(core, &r->key)->need = (struct wcore_need){2, 500, 64};
    json_auto_t *j = beat_of(core, &len);
    assert_int_equal(json_get_int(j, "beat", 0), 42);
    assert_int_equal(json_get_int(j, "inc", 0), 7);
    assert_string_equal(json_get_string(j, "uuid"), "ab000000-0000-0000-0000-000000000000");
    assert_int_equal(json_get_int(j, "heartbeatMs", 0), 5000);
    assert_true(json_get_bool(j, "adapts", false));
    assert_string_equal(json_get_string(j, "host"), "h\"ost");
    assert_string_equal(json_get_string(j, "reply"), "sje.worker.node1.7");
    assert_int_equal(json_get_int(j, "slots", 0), 3);
    assert_int_equal(json_get_int(j, "free", 0), 2);
    assert_false(json_get_bool(j, "stopping", true));
    assert_int_equal(json_array_size(json_object_get(j, "claiming")), 0);
    const json_t *running = json_object_get(j, "running");
    assert_int_equal(json_array_size(running), 2);
    const json_t *first = json_array_get(running, 0);
    assert_string_equal(json_get_string(first, "phase"), "running");
    assert_string_equal(json_get_string(first, "token"), "5");
    assert_int_equal(json_get_int(first, "leaseMs", 0), 30000);
    assert_int_equal(json_get_int(first, "slots", 0), 2);
    assert_int_equal(json_get_int(first, "cpusMilli", 0), 500);
    assert_int_equal(json_get_int(first, "memoryMb", 0), 64);
    assert_string_equal(json_get_string(first, "uiUrl"), "http://ui");
    assert_int_equal(json_get_int(json_object_get(first, "progress"), "done", 0), 2);
    assert_string_equal(json_get_string(json_array_get(running, 1), "phase"), "ended");
    run_release_all(&x);
    wcore_free(core);
}

/* What cannot be done now is left out of the types, and told. */
static void test_a_beat_tells_what_is_held_off(void **unused)
{
    struct wcore_settings s = {.capacity = {.slots = 3}, .heartbeat_ms = 5000, .grace_ms = 1};
    struct wcore_able looks[] = {
        {NULL, NULL}, {"SparkApp", "no \"Java\""}, {"Command", NULL}, {"Report", NULL}};
    size_t len = 0;

    (void)unused;
    struct wcore *core = wcore_new(&no_ops, NULL, &s);
    json_auto_t *first = beat_of(core, &len);
    assert_int_equal(json_array_size(json_object_get(first, "jobTypes")), 0);
    wcore_on_look(core, 1000, looks, ARRAY_LEN(looks));
    json_auto_t *j = beat_of(core, &len);
    char *types CLEANUP(freep) = json_text(json_object_get(j, "jobTypes"));
    assert_string_equal(types, "[\"Command\",\"Report\"]");
    char *held CLEANUP(freep) = json_text(json_object_get(j, "holdOff"));
    assert_string_equal(held, "[{\"type\":\"SparkApp\",\"reason\":\"no \\\"Java\\\"\",\"untilMs\":"
                              "null}]");
    assert_int_equal(json_get_int(j, "free", 0), 3);
    looks[0].why = "read-only";
    wcore_on_look(core, 2000, looks, ARRAY_LEN(looks));
    json_auto_t *none = beat_of(core, &len);
    assert_int_equal(json_array_size(json_object_get(none, "jobTypes")), 0);
    assert_int_equal(json_array_size(json_object_get(none, "holdOff")), 2);
    assert_true(
        json_is_null(json_object_get(json_array_get(json_object_get(none, "holdOff"), 0), "type")));
    assert_int_equal(json_get_int(none, "free", -1), 0);
    wcore_free(core);
}

static void test_a_beat_lists_every_task(void **unused)
{
    struct wcore_settings s = {.capacity = {.slots = 1000}, .heartbeat_ms = 5000, .grace_ms = 1};
    struct run_context x = {.on_freed = nothing};
    size_t len = 0;

    (void)unused;
    list_init(&x.runs);
    struct wcore *core = wcore_new(&no_ops, NULL, &s);
    for (int i = 0; i < WCORE_ATTEMPTS_MAX; i++) {
        struct run *r = adopt(core, &x, i, false);

        r->status.application_id = xmalloc(257);
        memset(r->status.application_id, 'a', 256);
        r->status.ui_url = xmalloc(513);
        memset(r->status.ui_url, 'u', 512);
    }
    json_auto_t *j = beat_of(core, &len);
    assert_true(len <= REPORT_MAX);
    assert_int_equal(json_array_size(json_object_get(j, "running")), WCORE_ATTEMPTS_MAX);
    assert_null(json_object_get(json_array_get(json_object_get(j, "running"), 0), "uiUrl"));
    run_release_all(&x);
    wcore_free(core);
}

static int setup(void **unused)
{
    (void)unused;
    return config_load_text("test", "", 0, &config, NULL);
}

static int teardown(void **unused)
{
    (void)unused;
    config_free(config);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grants),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_for_whom_an_order_is),
        cmocka_unit_test(test_what_must_be_addressed),
        cmocka_unit_test(test_where_the_later_process_is),
        cmocka_unit_test(test_orders_that_are_refused),
        cmocka_unit_test(test_too_many_entries),
        cmocka_unit_test(test_what_a_grant_takes),
        cmocka_unit_test(test_what_a_hint_says_of_its_tasks),
        cmocka_unit_test(test_hints),
        cmocka_unit_test(test_the_manager_of_a_hint),
        cmocka_unit_test(test_a_result),
        cmocka_unit_test(test_a_result_is_bounded),
        cmocka_unit_test(test_a_beat),
        cmocka_unit_test(test_a_beat_tells_what_is_held_off),
        cmocka_unit_test(test_a_beat_lists_every_task),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
