#include "internal/httpc.h"

#include "internal/buf.h"
#include "internal/list.h"

#include <curl/curl.h>
#include <stdlib.h>

#define AGENT "sje-executor/" SJE_VERSION

struct httpc {
    uv_loop_t *loop;
    CURLM *multi; /* NULL: not yet needed */
    struct curl_slist *json;
    uv_timer_t timer;
    struct list calls;
    struct list sockets;
    int open_handles;
    bool closing;
    void (*on_closed)(void *arg);
    void *arg;
};

struct call {
    struct httpc *h;
    struct list_node node;
    CURL *easy;
    struct buf sent;
    struct buf got;
    char text[CURL_ERROR_SIZE];
    httpc_fn *fn;
    void *arg;
};

struct watched {
    struct httpc *h;
    struct list_node node;
    curl_socket_t fd;
    uv_poll_t poll;
};

/* ---- the end ---- */

static void handle_closed(struct httpc *h)
{
    if (--h->open_handles) {
        return;
    }
    void (*on_closed)(void *arg) = h->on_closed;
    void *arg = h->arg;
    free(h);
    if (on_closed) {
        on_closed(arg);
    }
}

static void on_poll_closed(uv_handle_t *p)
{
    struct watched *w = p->data;
    struct httpc *h = w->h;

    free(w);
    handle_closed(h);
}

static void on_timer_closed(uv_handle_t *t)
{
    handle_closed(t->data);
}

static void unwatch(struct watched *w)
{
    list_remove(&w->node);
    uv_close((uv_handle_t *)&w->poll, on_poll_closed);
}

static void call_free(struct call *c)
{
    list_remove(&c->node);
    curl_multi_remove_handle(c->h->multi, c->easy);
    curl_easy_cleanup(c->easy);
    buf_free(&c->sent);
    buf_free(&c->got);
    free(c);
}

void httpc_close(struct httpc *h, void (*on_closed)(void *arg), void *arg)
{
    h->closing = true;
    h->on_closed = on_closed;
    h->arg = arg;
    LIST_EACH(&h->calls, it)
    {
        call_free(CONTAINER_OF(it, struct call, node));
    }
    if (h->multi) {
        curl_multi_cleanup(h->multi);
        curl_slist_free_all(h->json);
        curl_global_cleanup();
    }
    LIST_EACH(&h->sockets, it)
    {
        unwatch(CONTAINER_OF(it, struct watched, node));
    }
    uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}

/* ---- libcurl and the loop ---- */

/* The callback may call again, or close us. */
static void finish(struct call *c, CURLcode code)
{
    struct buf got CLEANUP(buf_free) = c->got;
    httpc_fn *fn = c->fn;
    void *arg = c->arg;
    struct err why = {0};
    long status = 0;
    int rc = 0;

    if (code == CURLE_OK) {
        curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    } else if (got.failed) {
        rc = err_set(&why, ERR_TOO_LARGE, "the answer has more than %zu bytes", got.max);
    } else {
        rc = err_set(&why, code == CURLE_OPERATION_TIMEDOUT ? ERR_TIMEOUT : ERR_IO, "%s",
                     *c->text ? c->text : curl_easy_strerror(code));
    }
    c->got = (struct buf){0};
    call_free(c);
    fn(arg, rc, (int)status, (struct str){got.data ? got.data : "", got.len}, &why);
}

static void act(struct httpc *h, curl_socket_t fd, int events)
{
    int n = 0;

    curl_multi_socket_action(h->multi, fd, events, &n);
    while (!h->closing) {
        struct call *c = NULL;
        const CURLMsg *m = curl_multi_info_read(h->multi, &n);

        if (!m) {
            break;
        }
        if (m->msg == CURLMSG_DONE) {
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c);
            finish(c, m->data.result);
        }
    }
}

static void on_timer(uv_timer_t *t)
{
    act(t->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct watched *w = p->data;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;

    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    act(w->h, w->fd, flags);
}

static struct watched *watch(struct httpc *h, curl_socket_t fd)
{
    struct watched *w = xcalloc(1, sizeof(*w));

    w->h = h;
    w->fd = fd;
    if (uv_poll_init_socket(h->loop, &w->poll, fd) != 0) {
        free(w);
        return NULL;
    }
    w->poll.data = w;
    h->open_handles++;
    list_push(&h->sockets, &w->node);
    return w;
}

/* libcurl wants to know when `fd` can be read or written. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct httpc *h = arg;
    struct watched *w = socket_arg;
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            curl_multi_assign(h->multi, fd, NULL);
            unwatch(w);
        }
        return 0;
    }
    if (!w) {
        w = watch(h, fd);
        if (!w) {
            return -1;
        }
        curl_multi_assign(h->multi, fd, w);
    }
    return uv_poll_start(&w->poll, events, on_poll) == 0 ? 0 : -1;
}

static int on_timeout(CURLM *multi, long ms, void *arg)
{
    struct httpc *h = arg;

    (void)multi;
    if (h->closing) {
        return 0;
    }
    if (ms < 0) {
        uv_timer_stop(&h->timer);
    } else {
        MUST(uv_timer_start(&h->timer, on_timer, (uint64_t)ms, 0) == 0);
    }
    return 0;
}

/* ---- calls ---- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct call *c = arg;

    return buf_add(&c->got, p, size * n) == 0 ? size * n : 0;
}

static void wake(struct httpc *h)
{
    if (h->multi) {
        return;
    }
    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    h->multi = curl_multi_init();
    h->json = curl_slist_append(NULL, "Content-Type: application/json");
    MUST(h->multi && h->json);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
}

static void describe(struct call *c, const struct httpc_request *r)
{
    CURL *e = c->easy;

    curl_easy_setopt(e, CURLOPT_PRIVATE, c);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->text);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_USERAGENT, AGENT);
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)r->timeout_ms);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    if (r->body.p) {
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->sent.data);
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->sent.len);
        curl_easy_setopt(e, CURLOPT_HTTPHEADER, c->h->json);
    }
    if (r->bearer && *r->bearer) {
        curl_easy_setopt(e, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        curl_easy_setopt(e, CURLOPT_XOAUTH2_BEARER, r->bearer);
    }
    if (r->method) {
        curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
    }
}

int httpc_call(struct httpc *h, const struct httpc_request *r, struct err *reterr)
{
    assert(!h->closing && r->timeout_ms > 0);
    if (!str_starts(str_of(r->url), STR("http://")) &&
        !str_starts(str_of(r->url), STR("https://"))) {
        return err_set(reterr, ERR_INVALID, "%.200s is no http or https address", r->url);
    }
    wake(h);
    struct call *c = xcalloc(1, sizeof(*c));
    c->h = h;
    c->fn = r->fn;
    c->arg = r->arg;
    buf_init(&c->got, r->max);
    buf_init(&c->sent, r->body.len + 1);
    buf_add(&c->sent, r->body.p, r->body.len);
    c->easy = curl_easy_init();
    MUST(c->easy);
    list_push(&h->calls, &c->node);
    describe(c, r);
    if (curl_easy_setopt(c->easy, CURLOPT_URL, r->url) != CURLE_OK ||
        curl_multi_add_handle(h->multi, c->easy) != CURLM_OK) {
        call_free(c);
        return err_set(reterr, ERR_INVALID, "%.200s cannot be called", r->url);
    }
    return 0;
}

struct httpc *httpc_open(uv_loop_t *loop)
{
    struct httpc *h = xcalloc(1, sizeof(*h));

    h->loop = loop;
    list_init(&h->calls);
    list_init(&h->sockets);
    MUST(uv_timer_init(loop, &h->timer) == 0);
    h->timer.data = h;
    h->open_handles = 1;
    return h;
}
