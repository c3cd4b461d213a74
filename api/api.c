#include "api/call.h"
#include "api/door.h"
#include "internal/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define QUERY_MAX    6
#define BODY_MAX     (64 << 10)
#define BEAT_MAX     (1 << 20)
#define LISTS_OF_ONE 8 /* that one client may ask for at a time */

struct route {
    const char *method;
    const char *path; /* {taskId}, {workerId} and {pool} match one segment */
    call_fn *handler;
    size_t max_body;              /* beside apiConfig.maxBodyMb */
    const char *query[QUERY_MAX]; /* the arguments that it knows */
};

static const struct route routes[] = {
    {"POST", "/task", api_submit_task, SIZE_MAX, {0}},
    {"POST", "/tasks", api_submit_tasks, SIZE_MAX, {0}},
    {"GET", "/tasks", api_tasks_list, BODY_MAX, {"state", "jobId", "jobType", "limit", "after"}},
    {"GET", "/task/{taskId}", api_task_get, BODY_MAX, {"wait"}},
    {"DELETE", "/task/{taskId}", api_task_cancel, BODY_MAX, {0}},
    {"GET", "/task/{taskId}/result", api_task_result, BODY_MAX, {"wait"}},
    {"GET", "/task/{taskId}/events", api_task_events, BODY_MAX, {0}},
    {"GET",
     "/task/{taskId}/log",
     api_task_log,
     BODY_MAX,
     {"stream", "offset", "limit", "follow", "attempt"}},
    {"GET", "/health", api_health, BODY_MAX, {0}},
    {"GET", "/health/live", api_health_live, BODY_MAX, {0}},
    {"GET", "/health/ready", api_health_ready, BODY_MAX, {0}},
    {"GET", "/metrics", api_metrics, BODY_MAX, {0}},
    {"GET", "/mgmt/status", api_mgmt_status, BODY_MAX, {0}},
    {"GET", "/mgmt/config", api_mgmt_config, BODY_MAX, {0}},
    {"PATCH", "/mgmt/config", api_mgmt_config_patch, BODY_MAX, {0}},
    {"GET", "/mgmt/workers", api_mgmt_workers, BODY_MAX, {0}},
    {"GET", "/mgmt/workers/{workerId}", api_mgmt_worker, BODY_MAX, {0}},
    {"POST", "/mgmt/workers/{workerId}/drain", api_mgmt_drain, BODY_MAX, {0}},
    {"POST", "/mgmt/workers/{workerId}/resume", api_mgmt_undrain, BODY_MAX, {0}},
    {"GET", "/mgmt/queues", api_mgmt_queues, BODY_MAX, {0}},
    {"POST", "/mgmt/queues/{pool}/pause", api_mgmt_pause, BODY_MAX, {0}},
    {"POST", "/mgmt/queues/{pool}/resume", api_mgmt_unpause, BODY_MAX, {0}},
    {"POST", "/mgmt/tasks/{taskId}/requeue", api_task_requeue, BODY_MAX, {0}},
    {"POST", "/internal/beat", api_beat, BEAT_MAX, {0}},
};

/* ---- routing ---- */

static size_t slashes(struct str s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len; i++) {
        n += s.p[i] == '/';
    }
    return n;
}

/* *name and *value: of the one {segment}, where there is one. */
static bool path_matches(const char *pattern, struct str path, struct str *name, struct str *value)
{
    struct str p = str_of(pattern);
    size_t n = slashes(p);

    if (slashes(path) != n) {
        return false;
    }
    for (size_t i = 0; i <= n; i++) {
        struct str want = str_cut(p, '/', &p);
        struct str have = str_cut(path, '/', &path);

        if (want.len && want.p[0] == '{' && have.len) {
            *name = (struct str){want.p + 1, want.len - 2};
            *value = have;
        } else if (!str_eq(want, have)) {
            return false;
        }
    }
    return true;
}

/* The route, or NULL with the methods that its path has, for Allow. */
static const struct route *find_route(const char *method, struct str path, struct str *name,
                                      struct str *value, char *allow, size_t n)
{
    size_t len = 0;

    allow[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (!path_matches(routes[i].path, path, name, value)) {
            continue;
        }
        if (streq(routes[i].method, method)) {
            return &routes[i];
        }
        len += (size_t)snprintf(allow + len, n - len, "%s%s", len ? ", " : "", routes[i].method);
        if (streq(routes[i].method, "GET")) {
            len += (size_t)snprintf(allow + len, n - len, ", HEAD");
        }
        MUST(len < n);
    }
    return NULL;
}

struct query_check {
    const struct http_request *request;
    const struct route *route;
    struct task_problems problems;
};

static void query_problem(struct query_check *q, const char *name, const char *message)
{
    if (q->problems.count < TASK_PROBLEMS_MAX) {
        struct task_problem *p = &q->problems.list[q->problems.count++];

        snprintf(p->field, sizeof(p->field), "%s", name);
        snprintf(p->message, sizeof(p->message), "%s", message);
    }
}

static void check_argument(void *arg, const char *name, const char *value)
{
    struct query_check *q = arg;
    bool known = false;

    for (size_t i = 0; i < QUERY_MAX && q->route->query[i]; i++) {
        known = known || streq(name, q->route->query[i]);
    }
    if (!known) {
        query_problem(q, name, "is not a known query argument");
    } else if (http_query(q->request, name) != value) {
        query_problem(q, name, "is given more than once");
    }
}

/* False where the path names something that cannot exist. */
static bool take_parameter(struct call *c, struct str name, struct str value)
{
    if (str_eq(name, STR("taskId"))) {
        return id_parse(value.p, value.len, &c->task);
    }
    c->name = name.len ? xstrndup(value.p, value.len) : NULL;
    return true;
}

static void on_gone(void *arg, struct http_request *r)
{
    struct call *c = arg;

    (void)r;
    if (c->abort) {
        c->abort(c);
    }
}

static struct call *call_new(struct api *api, struct http_request *r)
{
    struct call *c = xmalloc(sizeof(*c));

    c->api = api;
    c->request = r;
    list_push(&api->calls, &c->node);
    http_on_gone(r, on_gone, c);
    return c;
}

static void on_request(void *arg, struct http_request *r)
{
    struct call *c = call_new(arg, r);
    struct str path = str_of(http_path(r));
    struct str name = {0};
    struct str value = {0};
    char allow[64];

    if (path.len > 1 && path.p[path.len - 1] == '/') {
        path.len--;
    }
    const struct route *route =
        find_route(http_method(r), path, &name, &value, allow, sizeof(allow));
    if (!route && *allow) {
        struct http_field field = {"Allow", allow};

        http_problem(r, 405, "this path does not have that method", NULL, 0, NULL, &field, 1);
        call_free(c);
        return;
    }
    if (!route || !take_parameter(c, name, value)) {
        call_problem(c, 404, route ? "no such task" : "no such path");
        return;
    }
    size_t max_body = route->max_body ? route->max_body : BODY_MAX;
    if (http_body(r).len > max_body) {
        call_problem(c, 413, "the body is larger than the %zu bytes that this path takes",
                     max_body);
        return;
    }
    const char *encoding = http_header(r, "Content-Encoding");
    if (encoding && *encoding && !str_ieq(str_of(encoding), STR("identity"))) {
        call_problem(c, 415, "a body with Content-Encoding %.40s is not taken: send it as it is",
                     encoding);
        return;
    }
    struct query_check q = {.request = r, .route = route};
    http_query_each(r, check_argument, &q);
    if (q.problems.count) {
        call_problems(c, 422, &q.problems);
        return;
    }
    route->handler(c);
}

/* ---- who may come in ---- */

static int on_admit(void *arg, const struct http_request *r, struct err *reterr)
{
    const struct api *api = arg;
    struct door_head h = {.host = http_header(r, "Host"),
                          .origin = http_header(r, "Origin"),
                          .fetch_site = http_header(r, "Sec-Fetch-Site"),
                          .of_worker = streq(http_path(r), "/internal/beat")};
    int rc = door_check(api->config, api->machine, &h, reterr);

    if (rc < 0) {
        METRIC_INC_BY(http_refused, "door");
    }
    return rc < 0 ? err_http_status(rc) : 0;
}

/* ---- life ---- */

/* What one client's address can have: at least one connection, and a body of the size that is
 * allowed. */
static void set_shares(struct http_options *o, size_t percent)
{
    size_t connections = MAX((size_t)o->max_connections * percent / 100, (size_t)1);

    o->share[HTTP_CONNECTIONS] = connections;
    o->share[HTTP_BODIES] = MAX(HTTP_BODIES_MAX / 100 * percent, o->max_body);
    o->share[HTTP_ANSWERS] = (size_t)HTTP_ANSWERS_MAX / 100 * percent;
    o->share[HTTP_WAITS] = MAX(connections / 2, (size_t)1);
    o->share[HTTP_LISTS] = LISTS_OF_ONE;
    o->share[HTTP_STREAMS] = MAX(connections / 4, (size_t)1);
}

int api_start(uv_loop_t *loop, const struct config *c, struct manager *m,
              const struct task_types *types, struct api **ret, struct err *reterr)
{
    struct api *api = xmalloc(sizeof(*api));
    struct http_options o = {.bind = c->api.bind,
                             .port = c->api.port,
                             .max_body = (size_t)c->api.max_body_mb << 20,
                             .max_connections = c->api.max_connections,
                             .timeout_s = c->api.timeout_seconds,
                             .handler = on_request,
                             .admit = on_admit,
                             .arg = api};

    if (c->api.client_share < 100) {
        set_shares(&o, (size_t)c->api.client_share);
    }
    *api = (struct api){.loop = loop, .config = c, .manager = m, .types = types};
    list_init(&api->calls);
    if (gethostname(api->machine, sizeof(api->machine) - 1) < 0) {
        api->machine[0] = '\0';
    }
    int rc = http_open(loop, &o, &api->http, reterr);
    if (rc < 0) {
        free(api);
        return rc;
    }
    submit_open(api);
    *ret = api;
    return 0;
}

int api_port(const struct api *api)
{
    return http_port(api->http);
}

void api_reconfigure(struct api *api, const struct config *c)
{
    api->config = c;
}

static void on_http_closed(void *arg)
{
    struct api *api = arg;
    void (*on_stopped)(void *) = api->on_stopped;
    void *stopped_arg = api->stopped_arg;

    api->http = NULL;
    if (api->calls.count == 0) {
        free(api);
    }
    if (on_stopped) {
        on_stopped(stopped_arg);
    }
}

void api_stop(struct api *api, void (*on_stopped)(void *arg), void *arg)
{
    api->on_stopped = on_stopped;
    api->stopped_arg = arg;
    http_close(api->http, on_http_closed, api);
    LIST_EACH(&api->calls, it)
    {
        struct call *c = LIST_ENTRY(it, struct call, node);

        if (c->abort) {
            c->abort(c);
        }
    }
    submit_close(api);
}
