/* Routing, submitting and looking, over a fake manager. */
#include "tests/unit/fake_manager.h"

#define ID    "0190a8c0-0000-7000-8000-000000000001"
#define OTHER "0190a8c0-0000-7000-8000-00000000000f"

int config_patch(const struct config *c, const json_t *patch, struct config **ret,
                 struct err *reterr)
{
    (void)c;
    *ret = NULL;
    return json_object_get(patch, "bad") ? err_set(reterr, ERR_INVALID, "bad: unknown key") : 0;
}

void config_freep(struct config **c)
{
    (void)c;
}

void config_json(const struct config *c, struct buf *out)
{
    buf_addf(out, "{\"apiConfig\":{\"bind\":\"%s\"}}", c->api.bind);
}

static struct id id_of(const char *text)
{
    struct id id;

    assert_true(id_parse(text, strlen(text), &id));
    return id;
}

/* ---- routing ---- */

static void test_unknown_paths(void **state)
{
    static const char *const paths[] = {
        "/",
        "//",
        "/tas",
        "/task/" ID "/x",
        "/task//result",
        "/mgmt",
        "/tasks/1",
        "/task//",
        "/mgmt/workers/a/b",
        "/internal",
        "/TASKS",
        "/%74asks/%2e%2e",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        get(paths[i]);
        assert_problem(404);
    }
}

static void test_wrong_method(void **state)
{
    (void)state;
    request("PUT /task/" ID, "", NULL, 0);
    assert_problem(405);
    assert_non_null(strstr(answer, "\r\nAllow: GET, HEAD, DELETE\r\n"));
    get("/task");
    assert_problem(405);
    assert_non_null(strstr(answer, "\r\nAllow: POST\r\n"));
    request("DELETE /tasks/", "", NULL, 0);
    assert_problem(405);
    assert_non_null(strstr(answer, "\r\nAllow: POST, GET, HEAD\r\n"));
    request("PUT /mgmt/config", "", "{}", 2);
    assert_problem(405);
    assert_non_null(strstr(answer, "\r\nAllow: GET, HEAD, PATCH\r\n"));
}

/* Does Allow name exactly these methods, each with ", " behind it, and HEAD where GET is? */
static void assert_allowed(const char *path, const char *methods)
{
    struct str rest = str_of(methods);
    char line[256];
    char allow[128];
    size_t len = strlen(methods);

    snprintf(line, sizeof(line), "BREW %s", path);
    request(line, "", NULL, 0);
    assert_problem(405);
    const char *at = strstr(answer, "\r\nAllow: ");
    assert_non_null(at);
    snprintf(allow, sizeof(allow), "%.*s, ", (int)strcspn(at + 9, "\r"), at + 9);
    while (rest.len) {
        struct str one = str_cut(rest, ' ', &rest);

        assert_non_null(memmem(allow, strlen(allow), one.p, one.len));
        len += str_eq(one, STR("GET,")) ? strlen("HEAD, ") : 0;
    }
    assert_int_equal(strlen(allow), len);
}

/* Paths are the lines of two spaces and '/', methods those of four spaces and a known one. */
static void test_description_names_paths_and_methods(void **state)
{
    static const char *const known[] = {"get", "post", "delete", "patch", "put"};
    FILE *f = fopen("api/openapi.yaml", "r");
    char line[512];
    char path[128] = "";
    char methods[64] = "";
    int n = 0;

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        bool next = strncmp(line, "  /", 3) == 0 || strncmp(line, "components:", 11) == 0;

        if (next && *path) {
            assert_allowed(path, methods);
            n++;
        }
        if (next) {
            snprintf(path, sizeof(path), "%.*s", (int)strcspn(line + 2, ":"), line + 2);
            methods[0] = '\0';
        }
        for (size_t i = 0; i < ARRAY_LEN(known); i++) {
            size_t len = strlen(known[i]);
            size_t at = strlen(methods);

            if (strncmp(line, "    ", 4) == 0 && strncmp(line + 4, known[i], len) == 0 &&
                line[4 + len] == ':') {
                for (size_t k = 0; k < len; k++) {
                    methods[at + k] = (char)(known[i][k] - 'a' + 'A');
                }
                snprintf(methods + at + len, sizeof(methods) - at - len, ", ");
            }
        }
    }
    fclose(f);
    assert_int_equal(n, 20);
}

static void test_trailing_slash_and_escapes(void **state)
{
    (void)state;
    get("/health/");
    assert_int_equal(status(), 200);
    get("/%68ealth");
    assert_int_equal(status(), 200);
    post("/task/", "{\"jobType\":\"Noop\"}");
    assert_int_equal(status(), 202);
    get("/task/%");
    assert_problem(400);
}

static void test_query_arguments(void **state)
{
    (void)state;
    get("/health?x=1");
    assert_field(422, "x");
    get("/tasks?limit=1&limit=2");
    assert_field(422, "limit");
    get("/task/" ID "?wait=61");
    assert_field(422, "wait");
    get("/task/" ID "?wait=-1");
    assert_field(422, "wait");
    get("/task/" ID "?wait=");
    assert_field(422, "wait");
    get("/task/" ID "?Wait=1");
    assert_field(422, "Wait");
    get("/tasks?%22%3Cx%3E=1");
    assert_field(422, "\"<x>");
}

/* ---- submit ---- */

static void test_submit(void **state)
{
    char id[ID_TEXT_LEN];
    char location[80];

    (void)state;
    post("/task", "{\"jobType\":\" noop \",\"jobId\":\"a\\\"b\",\"labels\":{\"n\":1}}");
    assert_int_equal(status(), 202);
    json_auto_t *j = answer_json();
    id_format(&fake.ids[0], id);
    assert_string_equal(json_get_string(j, "taskId"), id);
    assert_string_equal(json_get_string(j, "jobId"), "a\"b");
    assert_string_equal(json_get_string(j, "state"), "QUEUED");
    snprintf(location, sizeof(location), "/task/%s", id);
    assert_string_equal(json_get_string(j, "href"), location);
    assert_int_equal(json_object_size(j), 4);
    snprintf(location, sizeof(location), "\r\nLocation: /task/%s\r\n", id);
    assert_non_null(strstr(answer, location));
    assert_string_equal(fake.specs,
                        "{\"jobType\":\"Noop\",\"jobId\":\"a\\\"b\",\"labels\":{\"n\":\"1\"}}\n");
    assert_string_equal(fake.key, "");
}

static void test_bad_bodies(void **state)
{
    static const struct {
        int status;
        const char *text;
        const char *field;
    } cases[] = {
        {400, "", NULL},
        {400, "{", NULL},
        {400, "{} x", NULL},
        {400, "jobType=Noop", NULL},
        {400, "{\"jobType\":\"Noop\",\"jobType\":\"Noop\"}", NULL},
        {400, "{\"jobType\":\"Noop\",\"jobId\":\"\xff\"}", NULL},
        {400, "{\"jobType\":\"Noop\",\"jobId\":\"\\u0000\"}", NULL},
        {400, "{\"jobType\":\"Noop\",\"jobId\":\"\\ud800\"}", NULL},
        {400, "{\"jobType\":\"Noop\",\"priority\":1e999}", NULL},
        {422, "{}", "jobType"},
        {422, "[]", ""},
        {422, "null", ""},
        {422, "\"Noop\"", ""},
        {422, "{\"jobType\":\"Nope\"}", "jobType"},
        {422, "{\"jobType\":7}", "jobType"},
        {422, "{\"jobType\":\"Noop\",\"priorty\":1}", "priorty"},
        {422, "{\"jobType\":\"Noop\",\"priority\":10}", "priority"},
        {422, "{\"jobType\":\"Noop\",\"resources\":{\"slots\":0}}", "resources.slots"},
        {422, "{\"jobType\":\"SparkApp\"}", "sparkAppPath"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        post("/task", cases[i].text);
        if (cases[i].field) {
            assert_field(cases[i].status, cases[i].field);
        } else {
            assert_problem(cases[i].status);
        }
    }
    request("POST /task", "", "{\"jobType\":\"Noop\0\"}", 19);
    assert_problem(400);
    assert_int_equal(fake.n_accepted, 0);
}

static void test_deep_and_large_bodies(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 8 * 1024 * 1024);
    buf_adds(&b, "{\"jobType\":\"Noop\",\"parameters\":");
    for (int i = 0; i < 10000; i++) {
        buf_addc(&b, '[');
    }
    request("POST /task", "", b.data, b.len);
    assert_problem(400);

    buf_reset(&b);
    buf_adds(&b, "{\"jobType\":\"Noop\",\"parameters\":{\"a\":\"");
    while (b.len < 2 * 1024 * 1024) {
        buf_adds(&b, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    }
    buf_adds(&b, "\"}}");
    request("POST /task", "", b.data, b.len);
    assert_field(422, "");
    while (b.len < 5 * 1024 * 1024) {
        buf_addc(&b, ' ');
    }
    request("POST /task", "", b.data, b.len);
    assert_problem(413);

    buf_reset(&b);
    buf_adds(&b, "{\"jobType\":\"Noop\",\"parameters\":{\"a\":0");
    for (int i = 0; i < TASK_VALUES_MAX; i++) {
        buf_addf(&b, ",\"%d\":0", i);
    }
    buf_adds(&b, "}}");
    request("POST /task", "", b.data, b.len);
    assert_field(422, "");
    assert_non_null(strstr(body(), "more than 20000 values"));
    assert_int_equal(fake.n_accepted, 0);
}

static void test_submit_many(void **state)
{
    char id[ID_TEXT_LEN];

    (void)state;
    post("/tasks", "{\"tasks\":[{\"jobType\":\"Noop\",\"jobId\":\"1\"},{\"jobType\":\"noop\"}]}");
    assert_int_equal(status(), 202);
    json_auto_t *j = answer_json();
    const json_t *list = json_object_get(j, "tasks");
    assert_int_equal(json_get_int(j, "accepted", 0), 2);
    assert_int_equal(json_array_size(list), 2);
    for (size_t i = 0; i < 2; i++) {
        id_format(&fake.ids[i], id);
        assert_string_equal(json_get_string(json_array_get(list, i), "taskId"), id);
    }
    assert_string_equal(json_get_string(json_array_get(list, 0), "jobId"), "1");
    assert_true(json_is_null(json_object_get(json_array_get(list, 1), "jobId")));
    post("/tasks", "[{\"jobType\":\"Noop\"}]");
    assert_int_equal(status(), 202);
    assert_int_equal(fake.n_accepted, 1);
}

static void test_submit_many_is_all_or_nothing(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    post("/tasks", "[{\"jobType\":\"Noop\"},{\"priority\":99},7]");
    assert_field(422, "tasks[1].jobType");
    assert_non_null(strstr(body(), "\"tasks[1].priority\""));
    assert_non_null(strstr(body(), "\"tasks[2]\""));
    post("/tasks", "[]");
    assert_field(422, "tasks");
    post("/tasks", "{\"jobType\":\"Noop\"}");
    assert_field(422, "tasks");
    post("/tasks", "{\"tasks\":[{\"jobType\":\"Noop\"}],\"tasc\":1}");
    assert_field(422, "tasc");
    post("/tasks", "7");
    assert_field(422, "tasks");

    buf_init(&b, 4 * 1024 * 1024);
    for (int i = 0; i < 10001; i++) {
        buf_adds(&b, i ? ",{\"jobType\":\"Noop\"}" : "[{\"jobType\":\"Noop\"}");
    }
    buf_addc(&b, ']');
    request("POST /tasks", "", b.data, b.len);
    assert_field(413, "tasks");
    assert_int_equal(fake.n_accepted, 0);
    /* One less is fine. */
    b.len -= strlen(",{\"jobType\":\"Noop\"}]");
    buf_addc(&b, ']');
    request("POST /tasks", "", b.data, b.len);
    assert_int_equal(status(), 202);
    assert_int_equal(fake.n_accepted, 10000);
    /* However many are wrong, the answer stays small. */
    for (size_t i = 0; i < b.len; i++) {
        b.data[i] = b.data[i] == 'N' ? 'M' : b.data[i];
    }
    request("POST /tasks", "", b.data, b.len);
    assert_field(422, "tasks[0].jobType");
    assert_true(answer_len < 16384);
}

static void test_idempotency_key(void **state)
{
    static const uint8_t sha256[] = {0x08, 0xed, 0x13, 0xf3, 0x7e, 0x53, 0xef, 0x72};
    struct buf b CLEANUP(buf_free);

    (void)state;
    request("POST /task", "Idempotency-Key: k 1\r\n", "{\"jobType\":\"Noop\"}", 18);
    assert_int_equal(status(), 202);
    assert_string_equal(fake.key, "k 1");
    assert_memory_equal(fake.hash, sha256, sizeof(sha256));
    assert_int_equal(fake.hash[31], 0xbb);

    fake.n_accepted = 0;
    request("POST /task", "Idempotency-Key:\r\n", "{\"jobType\":\"Noop\"}", 18);
    assert_field(422, "Idempotency-Key");
    request("POST /task", "Idempotency-Key: \xff\r\n", "{\"jobType\":\"Noop\"}", 18);
    assert_field(422, "Idempotency-Key");
    buf_init(&b, 1024);
    buf_adds(&b, "Idempotency-Key: ");
    for (int i = 0; i < 128; i++) {
        buf_adds(&b, "\xc3\xa4");
    }
    buf_adds(&b, "\r\n");
    request("POST /task", b.data, "{\"jobType\":\"Noop\"}", 18);
    assert_int_equal(status(), 202);
    b.len -= 2;
    buf_adds(&b, "x\r\n");
    fake.n_accepted = 0;
    request("POST /task", b.data, "{\"jobType\":\"Noop\"}", 18);
    assert_field(422, "Idempotency-Key");
    assert_int_equal(fake.n_accepted, 0);

    fake.rc = ERR_CONFLICT;
    request("POST /task", "Idempotency-Key: k\r\n", "{\"jobType\":\"Noop\"}", 18);
    assert_problem(409);
}

static void hash_of(const char *path, const char *body, uint8_t ret[32])
{
    request(path, "Idempotency-Key: k\r\n", body, strlen(body));
    assert_int_equal(status(), 202);
    memcpy(ret, fake.json_hash, sizeof(fake.json_hash));
}

/* Two clients, or two versions of one, write the same tasks otherwise. */
static void test_the_same_tasks_have_the_same_hash(void **state)
{
    static const char *const same[] = {
        "[{\"jobType\":\"Noop\",\"priority\":3},{\"jobType\":\"Noop\"}]",
        "[ {\"priority\": 3, \"jobType\" : \"N\\u006fop\"},\n{\"jobType\":\"Noop\"}]\n",
        "\xef\xbb\xbf{\"tasks\":[{\"jobType\":\"Noop\",\"priority\":3},{\"jobType\":\"Noop\"}]}",
    };
    static const char *const other[] = {
        "[{\"jobType\":\"Noop\"},{\"jobType\":\"Noop\",\"priority\":3}]",
        "[{\"jobType\":\"Noop\",\"priority\":4},{\"jobType\":\"Noop\"}]",
        "[{\"jobType\":\"Noop\",\"priority\":3}]",
    };
    uint8_t first[32];
    uint8_t hash[32];

    (void)state;
    hash_of("POST /tasks", same[0], first);
    for (size_t i = 1; i < ARRAY_LEN(same); i++) {
        hash_of("POST /tasks", same[i], hash);
        assert_memory_equal(hash, first, sizeof(hash));
    }
    for (size_t i = 0; i < ARRAY_LEN(other); i++) {
        hash_of("POST /tasks", other[i], hash);
        assert_memory_not_equal(hash, first, sizeof(hash));
    }
}

static void test_a_packed_body_is_refused(void **state)
{
    (void)state;
    request("POST /task", "Content-Encoding: gzip\r\n", "\x1f\x8b", 2);
    assert_problem(415);
    request("POST /task", "Content-Encoding: identity\r\n", "{\"jobType\":\"Noop\"}", 18);
    assert_int_equal(status(), 202);
}

static void test_cannot_accept(void **state)
{
    static const int codes[] = {ERR_DB_DOWN, ERR_BUSY, ERR_CLOSED};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        fake.rc = codes[i];
        post("/task", "{\"jobType\":\"Noop\"}");
        assert_problem(503);
        assert_non_null(strstr(answer, "\r\nRetry-After: "));
    }
    fake.rc = ERR_DB;
    post("/tasks", "[{\"jobType\":\"Noop\"}]");
    assert_problem(500);
}

/* ---- look ---- */

static void test_view(void **state)
{
    static char job_id[] = "j";
    static char type[] = "SparkApp";
    static char pool[] = "default";
    static char worker[] = "w1";
    static char app[] = "local-1";
    static char progress[] = "{\"done\":1,\"total\":2,\"secret\":3}";
    static char error[] = "{\"kind\":\"exit\",\"message\":\"m\",\"exitCode\":3}";
    static char output[] = "[1]";
    static char spec[] = "{\"jobType\":\"SparkApp\",\"labels\":{\"a\":\"b\"}}";

    (void)state;
    fake.task.id = id_of(ID);
    get("/task/" ID);
    assert_int_equal(status(), 200);
    assert_string_equal(
        body(), "{\"taskId\":\"" ID "\",\"jobId\":null,\"jobType\":null,\"state\":\"QUEUED\","
                "\"code\":null,\"priority\":5,\"pool\":null,\"attempt\":1,\"maxAttempts\":1,"
                "\"submittedAt\":\"2023-11-14T22:13:20.123Z\",\"startedAt\":null,"
                "\"finishedAt\":null,\"workerId\":null,\"applicationId\":null,\"progress\":null,"
                "\"output\":null,\"error\":null,\"waitingFor\":null,\"cancelRequested\":false,"
                "\"labels\":{},\"spec\":null}");
    fake.task.job_id = job_id;
    fake.task.job_type = type;
    fake.task.pool = pool;
    fake.task.who = who_of(worker, NULL, 1);
    fake.task.application_id = app;
    fake.task.progress = progress;
    fake.task.error = error;
    fake.task.output = output;
    fake.task.spec = spec;
    fake.task.started_at = fake.task.finished_at = 1700000000999;
    fake.task.state = TASK_RUNNING;
    fake.task.cancel_requested = true;
    get("/task/" ID);
    assert_non_null(strstr(body(), "\"cancelRequested\":true"));
    fake.task.state = TASK_DEAD;
    get("/task/" ID);
    assert_string_equal(
        body(),
        "{\"taskId\":\"" ID "\",\"jobId\":\"j\",\"jobType\":\"SparkApp\",\"state\":\"FAILED\","
        "\"code\":500,\"priority\":5,\"pool\":\"default\",\"attempt\":1,\"maxAttempts\":1,"
        "\"submittedAt\":\"2023-11-14T22:13:20.123Z\","
        "\"startedAt\":\"2023-11-14T22:13:20.999Z\","
        "\"finishedAt\":\"2023-11-14T22:13:20.999Z\",\"workerId\":\"w1\","
        "\"applicationId\":\"local-1\","
        "\"progress\":{\"done\":1,\"total\":2,\"text\":null},\"output\":[1],"
        "\"error\":{\"kind\":\"exit\",\"message\":\"m\",\"exitCode\":3,\"signal\":null},"
        "\"waitingFor\":null,\"cancelRequested\":false,\"labels\":{\"a\":\"b\"},\"spec\":{"
        "\"jobType\":\"SparkApp\","
        "\"labels\":{\"a\":\"b\"}}}");
}

static void test_no_such_task(void **state)
{
    static const char *const bad[] = {"/task/1", "/task/" ID "0", ("/task/%20" ID),
                                      "/task/xyz/log"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        get(bad[i]);
        assert_problem(404);
    }
    fake.rc = ERR_NOT_FOUND;
    get("/task/" ID);
    assert_problem(404);
    get("/task/" ID "/result");
    assert_problem(404);
    get("/task/" ID "/events");
    assert_problem(404);
    get("/task/" ID "/log");
    assert_problem(404);
    request("DELETE /task/" ID, "", NULL, 0);
    assert_problem(404);
    fake.rc = ERR_DB_DOWN;
    get("/task/" ID);
    assert_problem(503);
}

static bool one_call_held(void)
{
    return fake_held() == 1;
}

static void test_wait(void **state)
{
    int fd = client();

    (void)state;
    fake.hold = true;
    send_text(fd, "GET /task/" ID "?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_call_held);
    assert_true(fake.wait_ms == 60000);
    fake.task.state = TASK_SUCCEEDED;
    fake_release();
    receive(fd);
    assert_int_equal(status(), 200);
    assert_non_null(strstr(body(), "\"state\":\"SUCCEEDED\",\"code\":200"));
    close(fd);

    fake.hold = false;
    get("/task/" ID "/result?wait=0");
    assert_int_equal(status(), 200);
}

static bool wait_cancelled(void)
{
    return fake.n_cancelled_waits == 1;
}

static void test_client_leaves_while_waiting(void **state)
{
    int fd = client();

    (void)state;
    fake.hold = true;
    send_text(fd, "GET /task/" ID "?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_call_held);
    close(fd);
    run_until(wait_cancelled);
}

static void test_stop_with_calls_under_way(void **state)
{
    int waiting = client();
    int accepting = client();

    (void)state;
    fake.hold = true;
    send_text(waiting, "GET /task/" ID "?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_until(one_call_held);
    send_text(accepting, "POST /task HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18\r\n\r\n"
                         "{\"jobType\":\"Noop\"}");
    for (int i = 0; i < 100 && fake_held() < 2; i++) {
        turn(accepting);
    }
    assert_int_equal(fake_held(), 2);
    api_end();
    receive(waiting);
    assert_problem(503);
    receive(accepting);
    assert_problem(503);
    assert_int_equal(fake.n_cancelled_waits, 1);
    close(waiting);
    close(accepting);
}

static void test_result(void **state)
{
    static char output[] = "{\"the\":3}";
    static char error[] = "{\"kind\":\"exit\",\"message\":\"ValueError: no\",\"exitCode\":1,"
                          "\"signal\":null}";

    (void)state;
    fake.task.id = id_of(ID);
    get("/task/" ID "/result");
    assert_int_equal(status(), 202);
    assert_string_equal(body(), "{\"taskId\":\"" ID "\",\"jobId\":null,\"state\":\"QUEUED\","
                                "\"href\":\"/task/" ID "\"}");
    fake.task.state = TASK_SUCCEEDED;
    get("/task/" ID "/result/");
    assert_int_equal(status(), 200);
    assert_string_equal(body(), "null");
    fake.task.output = output;
    get("/task/" ID "/result");
    assert_string_equal(body(), output);
    fake.task.state = TASK_FAILED;
    fake.task.error = error;
    get("/task/" ID "/result");
    assert_problem(500);
    json_auto_t *j = answer_json();
    assert_string_equal(json_get_string(j, "detail"), "ValueError: no");
    assert_string_equal(json_get_string(json_object_get(j, "error"), "message"), "ValueError: no");
    assert_string_equal(json_get_string(j, "taskId"), ID);
    fake.task.state = TASK_CANCELLED;
    fake.task.error = NULL;
    get("/task/" ID "/result");
    assert_problem(410);
    assert_non_null(strstr(body(), "\"state\":\"CANCELLED\",\"code\":410,\"error\":null"));
}

static void test_cancel(void **state)
{
    (void)state;
    fake.task.state = TASK_CANCELLED;
    request("DELETE /task/" ID, "", NULL, 0);
    assert_int_equal(status(), 200);
    assert_non_null(strstr(body(), "\"state\":\"CANCELLED\""));
    fake.task.state = TASK_RUNNING;
    request("DELETE /task/" ID, "", NULL, 0);
    assert_int_equal(status(), 202);
    fake.task.state = TASK_SUCCEEDED; /* the request was written, and behind it the result */
    request("DELETE /task/" ID, "", NULL, 0);
    assert_problem(409);
    fake.rc = ERR_CONFLICT;
    request("DELETE /task/" ID, "", NULL, 0);
    assert_problem(409);
    assert_non_null(strstr(body(), "SUCCEEDED"));
}

static void test_events(void **state)
{
    (void)state;
    get("/task/" ID "/events");
    assert_string_equal(body(), "{\"events\":[]}");
    fake.events[0] = (struct task_event_row){1, 1700000000001, 1, "accepted", NULL, NULL};
    fake.events[1] = (struct task_event_row){2, 1700000000002, 1, "granted", "w\"1", "{\"a\":1}"};
    fake.n_events = 2;
    get("/task/" ID "/events");
    assert_string_equal(body(),
                        "{\"events\":[{\"seq\":1,\"at\":\"2023-11-14T22:13:20.001Z\",\"attempt\":1,"
                        "\"event\":\"accepted\",\"workerId\":null,\"detail\":null},"
                        "{\"seq\":2,\"at\":\"2023-11-14T22:13:20.002Z\",\"attempt\":1,"
                        "\"event\":\"granted\",\"workerId\":\"w\\\"1\",\"detail\":{\"a\":1}}]}");
}

static void test_list(void **state)
{
    (void)state;
    get("/tasks");
    assert_string_equal(body(), "{\"tasks\":[],\"next\":null}");
    assert_string_equal(fake.filter_text, "-|-|-|-|100");
    for (size_t i = 0; i < 3; i++) {
        fake.list[i] = fake.task;
        fake.list[i].id = id_of(i == 2 ? OTHER : ID);
    }
    fake.n_list = 3;
    fake.more = true;
    get("/tasks?state=QUEUED&jobId=a+b&jobType=noop&limit=3&after=" ID);
    assert_int_equal(status(), 200);
    assert_string_equal(fake.filter_text, "QUEUED|a b|Noop|" ID "|3");
    json_auto_t *j = answer_json();
    assert_int_equal(json_array_size(json_object_get(j, "tasks")), 3);
    assert_string_equal(json_get_string(j, "next"), OTHER);
    get("/tasks?jobType=former");
    assert_string_equal(fake.filter_text, "-|-|former|-|100");

    get("/tasks?state=READY");
    assert_field(422, "state");
    get("/tasks?state=");
    assert_field(422, "state");
    get("/tasks?limit=0");
    assert_field(422, "limit");
    get("/tasks?limit=1001");
    assert_field(422, "limit");
    get("/tasks?limit=1e2");
    assert_field(422, "limit");
    get("/tasks?after=x");
    assert_field(422, "after");
}

/* ---- health and management ---- */

static void test_health(void **state)
{
    (void)state;
    get("/health");
    assert_int_equal(status(), 200);
    get("/health/ready");
    assert_int_equal(status(), 200);
    fake.broker_up = false;
    get("/health");
    assert_int_equal(status(), 500);
    assert_non_null(strstr(body(), "{\"status\":\"down\""));
    get("/health/ready");
    assert_int_equal(status(), 200);
    fake.database_up = false;
    get("/health/ready");
    assert_int_equal(status(), 503);
    get("/health/live");
    assert_int_equal(status(), 200);
    request("HEAD /health", "Connection: close\r\n", NULL, 0);
    assert_int_equal(status(), 500);
    assert_string_equal(body(), "");
}

static void test_management(void **state)
{
    (void)state;
    get("/metrics");
    assert_int_equal(status(), 200);
    assert_non_null(strstr(answer, "\r\nContent-Type: text/plain; version=0.0.4"));
    assert_non_null(strstr(body(), "sje_http_answers_total{code=\"200\"}"));
    get("/mgmt/status");
    assert_string_equal(body(), "{\"leader\":true}");
    get("/mgmt/config");
    assert_string_equal(body(), "{\"apiConfig\":{\"bind\":\"127.0.0.1\"}}");
    get("/mgmt/queues");
    assert_string_equal(body(), "{\"queues\":[]}");
    get("/mgmt/workers");
    assert_string_equal(body(), "{\"workers\":[]}");
    get("/mgmt/workers/node.1");
    assert_int_equal(status(), 200);
    assert_string_equal(fake.name, "node.1");
    request("POST /mgmt/workers/n2/drain", "", NULL, 0);
    assert_int_equal(status(), 200);
    assert_true(fake.on && streq(fake.name, "n2"));
    request("POST /mgmt/workers/n3/resume", "", NULL, 0);
    assert_int_equal(status(), 200);
    assert_true(!fake.on && streq(fake.name, "n3"));
    request("POST /mgmt/queues/big-ones/pause", "", NULL, 0);
    assert_string_equal(body(), "{\"pool\":\"big-ones\",\"paused\":true}");
    request("POST /mgmt/queues/big-ones/resume", "", NULL, 0);
    assert_string_equal(body(), "{\"pool\":\"big-ones\",\"paused\":false}");
    fake.pool_unserved = true;
    request("POST /mgmt/queues/big-ones/pause", "", NULL, 0);
    assert_string_equal(body(),
                        "{\"pool\":\"big-ones\",\"paused\":true,\"warnings\":[\"nobody serves "
                        "\\\"big-ones\\\"\"]}");
    fake.pool_unserved = false;
    request("POST /mgmt/queues/Not%20a%20pool/pause", "", NULL, 0);
    assert_problem(404);
    request("POST /mgmt/tasks/" ID "/requeue", "", NULL, 0);
    assert_int_equal(status(), 202);
    fake.rc = ERR_CONFLICT;
    request("POST /mgmt/tasks/" ID "/requeue", "", NULL, 0);
    assert_problem(409);
    fake.rc = ERR_NOT_FOUND;
    get("/mgmt/workers/x");
    assert_problem(404);
    request("POST /mgmt/workers/x/drain", "", NULL, 0);
    assert_problem(404);
}

static void patch_config(const char *text)
{
    request("PATCH /mgmt/config", "", text, strlen(text));
}

static void test_settings(void **state)
{
    json_auto_t *known = json_pack("{s{si,si}}", "monitoring", "a", 1, "b", 2);

    (void)state;
    patch_config("{}");
    assert_problem(503); /* what is there is not read yet */
    fake.settings = known;
    patch_config("{\"monitoring\":{\"a\":null,\"c\":3},"
                 "\"executorNodeConfig\":{\"spark\":{\"conf\":{\"k\":\"v\"}}}}");
    assert_int_equal(status(), 200);
    assert_string_equal(body(), "{\"apiConfig\":{\"bind\":\"127.0.0.1\"}}");
    assert_string_equal(fake.body,
                        "{\"monitoring\":{\"b\":2,\"c\":3},"
                        "\"executorNodeConfig\":{\"spark\":{\"conf\":{\"k\":\"v\"}}}} "
                        "{\"monitoring\":{\"a\":null,\"c\":3},"
                        "\"executorNodeConfig\":{\"spark\":{\"conf\":{\"k\":\"***\"}}}}");
    patch_config("{\"bad\":1}");
    assert_problem(422);
    assert_non_null(strstr(body(), "\"field\":\"bad\""));
    fake.dead_after_least = 21; /* a worker that does not adapt */
    patch_config("{\"executorNodeConfig\":{\"deadAfterSeconds\":20}}");
    assert_problem(422);
    assert_non_null(strstr(body(), "\"field\":\"executorNodeConfig.deadAfterSeconds\""));
    patch_config("{\"executorNodeConfig\":{\"deadAfterSeconds\":21}}");
    assert_int_equal(status(), 200);
    patch_config("[1]");
    assert_problem(422);
    patch_config("{");
    assert_problem(400);
    fake.rc = ERR_BUSY;
    patch_config("{}");
    assert_problem(503);
}

static void test_beat(void **state)
{
    (void)state;
    post("/internal/beat", "{\"type\":\"beat\"}");
    assert_int_equal(status(), 200);
    assert_string_equal(body(), "{\"type\":\"beat-ack\"}");
    assert_string_equal(fake.body, "{\"type\":\"beat\"}");
    fake.rc = ERR_CONFLICT; /* outdated: it is told what was heard */
    post("/internal/beat", "{}");
    assert_int_equal(status(), 409);
    assert_string_equal(body(), "{\"type\":\"beat-ack\"}");
    fake.rc = ERR_BUSY;
    post("/internal/beat", "{}");
    assert_problem(503);
}

static void test_beat_with_a_token(void **state)
{
    static const char *const wrong[] = {
        "",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3crett\r\n",
        "Authorization: Bearer s3crets3cret\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
    };

    (void)state;
    snprintf(fake_token, sizeof(fake_token), "s3cret");
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        request("POST /internal/beat", wrong[i], "{}", 2);
        assert_problem(403);
        assert_null(strstr(body(), "s3cret"));
    }
    assert_string_equal(fake.body, "");
    request("POST /internal/beat", "Authorization: Bearer s3cret\r\n", "{}", 2);
    assert_int_equal(status(), 200);
    get("/health");
    assert_int_equal(status(), 200);
}

#define T(name) cmocka_unit_test_setup_teardown(name, api_setup, api_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_unknown_paths),
        T(test_wrong_method),
        T(test_description_names_paths_and_methods),
        T(test_trailing_slash_and_escapes),
        T(test_query_arguments),
        T(test_submit),
        T(test_bad_bodies),
        T(test_deep_and_large_bodies),
        T(test_submit_many),
        T(test_submit_many_is_all_or_nothing),
        T(test_idempotency_key),
        T(test_the_same_tasks_have_the_same_hash),
        T(test_a_packed_body_is_refused),
        T(test_cannot_accept),
        T(test_view),
        T(test_no_such_task),
        T(test_wait),
        T(test_client_leaves_while_waiting),
        T(test_stop_with_calls_under_way),
        T(test_result),
        T(test_cancel),
        T(test_events),
        T(test_list),
        T(test_health),
        T(test_management),
        T(test_settings),
        T(test_beat),
        T(test_beat_with_a_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
