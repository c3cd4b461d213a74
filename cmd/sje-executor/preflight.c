#include "cmd/sje-executor/preflight.h"

#include "internal/mq.h"
#include "internal/str.h"

#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

#define BROKER_WAIT_MS 6000

/* ---- names ---- */

/* "host", "host:port", "[::1]:port", "::1" */
static struct str host_of(struct str entry)
{
    struct str rest = {0};
    struct str head = str_cut(entry, ':', &rest);

    if (str_starts(entry, STR("["))) {
        head = str_cut((struct str){entry.p + 1, entry.len - 1}, ']', &rest);
    } else if (memchr(rest.p, ':', rest.len)) {
        head = entry;
    }
    return head;
}

/* 0 or an error of getaddrinfo(). */
static int resolve(struct str host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char *name CLEANUP(freep) = xstrndup(host.p, host.len);
    int rc = getaddrinfo(name, NULL, &hints, &found);

    if (rc == 0) {
        freeaddrinfo(found);
    }
    return rc;
}

/* One of the list must resolve. */
static int check_hosts(const char *key, const char *list, struct err *reterr)
{
    int rc = 0;

    for (struct str rest = str_of(list); rest.len;) {
        struct str entry = str_trim(str_cut(rest, ',', &rest));

        if (str_starts(entry, STR("/"))) {
            return 0;
        }
        rc = resolve(host_of(entry));
        if (rc == 0) {
            return 0;
        }
    }
    return err_set(reterr, ERR_CONFIG, "%s: \"%.100s\" cannot be resolved: %s", key, list,
                   gai_strerror(rc));
}

/* ---- the broker ---- */

struct probe {
    struct mq *mq;
    uv_timer_t timer;
    int rc;
    struct err why;
    bool done;
};

static void probe_end(struct probe *p)
{
    if (!p->done) {
        p->done = true;
        uv_close((uv_handle_t *)&p->timer, NULL);
        mq_close(p->mq, NULL, NULL);
    }
}

static void on_up(void *arg)
{
    probe_end(arg);
}

static void on_down(void *arg, const struct err *why)
{
    struct probe *p = arg;

    if (why->code == ERR_AUTH || why->code == ERR_CONFIG) {
        p->rc = why->code;
        p->why = *why;
    }
    probe_end(p);
}

static void on_timer(uv_timer_t *t)
{
    probe_end(t->data);
}

static int check_broker(const struct config *c, struct err *reterr)
{
    struct probe p = {0};
    struct mq_options o = {
        .hosts = c->rabbitmq.host,
        .port = c->rabbitmq.port,
        .username = c->rabbitmq.username,
        .password = c->rabbitmq.password,
        .vhost = c->rabbitmq.vhost,
        .heartbeat_s = c->rabbitmq.heartbeat_seconds,
        .name = "sje-preflight",
        .arg = &p,
        .on_up = on_up,
        .on_down = on_down,
    };
    uv_loop_t loop;

    MUST(uv_loop_init(&loop) == 0);
    MUST(uv_timer_init(&loop, &p.timer) == 0);
    p.timer.data = &p;
    MUST(uv_timer_start(&p.timer, on_timer, BROKER_WAIT_MS, 0) == 0);
    p.mq = mq_open(&loop, &o);
    uv_run(&loop, UV_RUN_DEFAULT);
    MUST(uv_loop_close(&loop) == 0);
    return p.rc < 0 ? err_set(reterr, ERR_CONFIG, "rabbitMqConfig: %s", p.why.text) : 0;
}

int preflight(const struct config *c, struct err *reterr)
{
    int rc = check_hosts("rabbitMqConfig.host", c->rabbitmq.host, reterr);

    if (rc == 0 && config_has_role(c, "manager")) {
        rc = check_hosts("dbConfig.host", c->db.host, reterr);
    }
    return rc < 0 ? rc : check_broker(c, reterr);
}
