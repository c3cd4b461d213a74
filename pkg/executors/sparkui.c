#include "pkg/executors/sparkui.h"

#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "pkg/executors/sparkcluster.h"
#include "pkg/executors/sparkjobs.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define REPLY_MAX  (8u << 20)
#define FAST_MS    250 /* short applications want to be seen too */
#define SLOW_MS    1000
#define FAST_POLLS 240 /* after these the application is not short */
#define TIMEOUT_MS 5000

/* What is asked next. */
enum question { ASK_APPLICATION, ASK_ENVIRONMENT, ASK_JOBS };

struct exec_watch {
    uv_loop_t *loop;
    uv_timer_t timer;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    bool tcp_open;
    bool closing;
    int open_handles;
    uint16_t port;
    char tag[80];
    char url[300];
    char *application;
    enum question question;
    int polls;
    struct buf request;
    struct buf reply;
    struct spark_progress progress;
    char *cluster_dir; /* NULL: the driver is our child */
    char *said;        /* what the status file said last */
    void (*changed)(void *arg, const struct exec_status *s);
    void *arg;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

int spark_ui_save(const struct exec_attempt *a, struct err *reterr)
{
    char text[16];
    int n = snprintf(text, sizeof(text), "%u", a->ui_port);

    return shimdir_write_file(a->dir, "uiport", text, (size_t)n, reterr);
}

static uint16_t saved_port(const struct exec_attempt *a)
{
    struct buf b CLEANUP(buf_free) = {0};
    int64_t port = 0;

    buf_init(&b, 16);
    if (shimdir_read_file(a->dir, "uiport", &b, NULL) < 0 ||
        !str_to_i64((struct str){b.data, b.len}, 1, 65535, &port)) {
        return 0;
    }
    return (uint16_t)port;
}

static void tell(struct exec_watch *w)
{
    struct exec_status s = {.application_id = w->application,
                            .ui_url = w->url,
                            .done = w->progress.total ? w->progress.done : -1,
                            .total = w->progress.total ? w->progress.total : -1,
                            .text = *w->progress.text ? w->progress.text : NULL};

    w->changed(w->arg, &s);
}

/* ---- answers ---- */

static void on_application(struct exec_watch *w, const json_t *j)
{
    const char *id = json_get_string(json_array_get(j, 0), "id");

    if (id && strlen(id) < 200 && !strpbrk(id, "/ \r\n?#%")) {
        str_replace_owned(&w->application, id);
        w->question = ASK_ENVIRONMENT;
    }
}

static void on_environment(struct exec_watch *w, const json_t *j)
{
    char *text CLEANUP(freep) = json_text(j);

    if (strstr(text, w->tag)) {
        w->question = ASK_JOBS;
        tell(w);
    } else {
        str_replace_owned(&w->application, NULL);
        w->question = ASK_APPLICATION; /* somebody else's port for now */
    }
}

static void on_jobs(struct exec_watch *w, const json_t *j)
{
    if (spark_progress_update(&w->progress, j)) {
        tell(w);
    }
}

static void take_reply(struct exec_watch *w)
{
    static const char ok10[] = "HTTP/1.0 200";
    static const char ok11[] = "HTTP/1.1 200";
    struct str r = {w->reply.data, w->reply.len};
    const char *body = r.len ? memmem(r.p, r.len, "\r\n\r\n", 4) : NULL;
    json_auto_t *j = NULL;

    if (!body || w->reply.failed || !(str_starts(r, STR(ok10)) || str_starts(r, STR(ok11)))) {
        return;
    }
    body += 4;
    if (json_read(body, r.len - (size_t)(body - r.p), &j, NULL) < 0) {
        return;
    }
    switch (w->question) {
    case ASK_APPLICATION:
        on_application(w, j);
        break;
    case ASK_ENVIRONMENT:
        on_environment(w, j);
        break;
    case ASK_JOBS:
        on_jobs(w, j);
        break;
    }
}

/* ---- one request a connection; HTTP/1.0, so the answer ends where the connection does ---- */

static void on_handle_closed(uv_handle_t *h)
{
    struct exec_watch *w = h->data;

    if (h == (uv_handle_t *)&w->tcp) {
        w->tcp_open = false;
    }
    if (--w->open_handles) {
        return;
    }
    buf_free(&w->request);
    buf_free(&w->reply);
    free(w->application);
    free(w->cluster_dir);
    free(w->said);
    if (w->on_closed) {
        w->on_closed(w->on_closed_arg);
    }
    free(w);
}

static void on_timer(uv_timer_t *t);

/* The connection is over, however it went. */
static void finish(struct exec_watch *w)
{
    bool follow = false;

    if (!w->tcp_open || uv_is_closing((uv_handle_t *)&w->tcp)) {
        return;
    }
    enum question before = w->question;
    take_reply(w);
    follow = w->question != before && w->question != ASK_APPLICATION;
    uv_close((uv_handle_t *)&w->tcp, on_handle_closed);
    if (!w->closing) {
        uint64_t wait = follow ? 1 : w->polls < FAST_POLLS ? FAST_MS : SLOW_MS;

        MUST(uv_timer_start(&w->timer, on_timer, wait, 0) == 0);
    }
}

static void on_alloc(uv_handle_t *h, size_t size, uv_buf_t *buf)
{
    struct exec_watch *w = h->data;
    char *p = buf_reserve(&w->reply, MIN(size, (size_t)16384));

    *buf = uv_buf_init(p, p ? 16384 : 0);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct exec_watch *w = s->data;

    (void)buf;
    if (n > 0) {
        buf_commit(&w->reply, (size_t)n);
    } else if (n < 0) {
        finish(w);
    }
}

static void on_written(uv_write_t *req, int status)
{
    struct exec_watch *w = req->data;

    if (status < 0) {
        finish(w);
    }
}

static void on_connected(uv_connect_t *req, int status)
{
    struct exec_watch *w = req->data;
    uv_buf_t b = uv_buf_init(w->request.data, (unsigned)w->request.len);

    if (status < 0 || uv_read_start((uv_stream_t *)&w->tcp, on_alloc, on_read) < 0 ||
        uv_write(&w->write, (uv_stream_t *)&w->tcp, &b, 1, on_written) < 0) {
        finish(w);
    }
}

static void write_request(struct exec_watch *w)
{
    buf_reset(&w->request);
    buf_adds(&w->request, "GET /api/v1/applications");
    if (w->question != ASK_APPLICATION) {
        buf_addf(&w->request, "/%s/%s", w->application,
                 w->question == ASK_JOBS ? "jobs" : "environment");
    }
    buf_addf(&w->request, " HTTP/1.0\r\nHost: localhost:%u\r\nAccept: application/json\r\n\r\n",
             w->port);
}

/* "" counts as unknown. */
static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_get_string(j, key);

    return s && *s ? s : NULL;
}

/* What sje-spark says of a driver in the cluster. Until its application is known, the driver's id
 * stands for it. */
static void read_status(struct exec_watch *w)
{
    json_t *parsed = NULL;

    if (spark_cluster_status(w->cluster_dir, &parsed, NULL) < 0) {
        return;
    }
    json_auto_t *j = parsed;
    char *text CLEANUP(freep) = json_text(j);
    if (streq(text, w->said)) {
        return;
    }
    const char *application = text_of(j, "applicationId");
    struct exec_status s = {.application_id = application ? application : text_of(j, "id"),
                            .ui_url = text_of(j, "uiUrl"),
                            .done = json_get_int(j, "done", -1),
                            .total = json_get_int(j, "total", -1),
                            .text = text_of(j, "text")};
    str_replace_owned(&w->said, text);
    w->changed(w->arg, &s);
}

static void on_timer(uv_timer_t *t)
{
    struct exec_watch *w = t->data;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(w->port)};

    if (w->cluster_dir) {
        read_status(w);
        MUST(uv_timer_start(&w->timer, on_timer, FAST_MS, 0) == 0);
        return;
    }
    if (w->tcp_open) {
        finish(w); /* it took too long */
        return;
    }
    w->polls++;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    buf_reset(&w->reply);
    write_request(w);
    MUST(uv_tcp_init(w->loop, &w->tcp) == 0);
    w->tcp_open = true;
    w->open_handles++;
    MUST(uv_timer_start(&w->timer, on_timer, TIMEOUT_MS, 0) == 0);
    if (uv_tcp_connect(&w->connect, &w->tcp, (struct sockaddr *)&sa, on_connected) < 0) {
        finish(w);
    }
}

struct exec_watch *spark_ui_watch(const struct exec_node *node, const struct exec_attempt *a,
                                  uv_loop_t *loop,
                                  void (*changed)(void *arg, const struct exec_status *s),
                                  void *arg)
{
    uint16_t port = saved_port(a);
    char task[ID_TEXT_LEN];
    char host[256] = "localhost";

    (void)node;
    if (port == 0) {
        return NULL;
    }
    struct exec_watch *w = xmalloc(sizeof(*w));
    w->loop = loop;
    w->port = port;
    w->cluster_dir = spark_cluster_is(a->dir) ? xstrdup(a->dir) : NULL;
    w->changed = changed;
    w->arg = arg;
    id_format(&a->task, task);
    snprintf(w->tag, sizeof(w->tag), "sje-%s-%d", task, a->attempt);
    if (gethostname(host, sizeof(host) - 1) < 0) {
        host[0] = '\0';
    }
    snprintf(w->url, sizeof(w->url), "http://%.255s:%u", host, port);
    buf_init(&w->request, 1024);
    buf_init(&w->reply, REPLY_MAX);
    w->tcp.data = w;
    w->connect.data = w;
    w->write.data = w;
    w->timer.data = w;
    MUST(uv_timer_init(loop, &w->timer) == 0);
    w->open_handles = 1;
    MUST(uv_timer_start(&w->timer, on_timer, FAST_MS, 0) == 0);
    return w;
}

void spark_ui_unwatch(struct exec_watch *w, void (*on_closed)(void *arg), void *arg)
{
    if (w->cluster_dir) {
        read_status(w); /* what it said last */
    }
    w->closing = true;
    w->on_closed = on_closed;
    w->on_closed_arg = arg;
    w->changed = NULL;
    if (w->tcp_open && !uv_is_closing((uv_handle_t *)&w->tcp)) {
        uv_close((uv_handle_t *)&w->tcp, on_handle_closed);
    }
    uv_close((uv_handle_t *)&w->timer, on_handle_closed);
}
