#include "cmd/sje-spark/cluster.h"

#include "internal/httpc.h"

#define CALL_MS    5000
#define ANSWER_MAX ((size_t)16 << 20)

struct call {
    bool over;
    int rc;
    struct buf *out;
    struct err *reterr;
    const char *url;
};

static void on_answer(void *arg, int rc, int status, struct str body, const struct err *why)
{
    struct call *c = arg;

    c->over = true;
    if (rc < 0) {
        c->rc = err_set(c->reterr, rc, "%.100s: %.140s", c->url, why->text);
    } else if (status / 100 != 2) {
        c->rc = err_set(c->reterr, ERR_PROTOCOL, "%.150s answered %d", c->url, status);
    } else if (body.len && buf_add(c->out, body.p, body.len) < 0) {
        c->rc = err_set(c->reterr, ERR_TOO_LARGE, "%.150s: the answer is over its limit", c->url);
    }
}

int http_call(const char *method, const char *url, struct buf *out, struct err *reterr)
{
    static uv_loop_t loop;
    static struct httpc *client; /* lives as long as the process */
    struct call c = {.out = out, .reterr = reterr, .url = url};
    struct httpc_request r = {.method = method,
                              .url = url,
                              .max = ANSWER_MAX,
                              .timeout_ms = CALL_MS,
                              .fn = on_answer,
                              .arg = &c};

    if (!client) {
        MUST(uv_loop_init(&loop) == 0);
        client = httpc_open(&loop);
    }
    int rc = httpc_call(client, &r, reterr);
    while (rc == 0 && !c.over) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    return rc < 0 ? rc : c.rc;
}

int http_json(const char *method, const char *url, json_t **ret, struct err *reterr)
{
    struct buf body CLEANUP(buf_free) = {0};
    struct err why = {0};

    buf_init(&body, ANSWER_MAX);
    int rc = http_call(method, url, &body, reterr);
    if (rc == 0 && json_read(body.data ? body.data : "", body.len, ret, &why) < 0) {
        rc = err_set(reterr, ERR_PROTOCOL, "%.100s: %.140s", url, why.text);
    }
    return rc;
}
