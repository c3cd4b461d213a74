/* db_hosts.c: from the host list of the configuration to addresses. libpq would resolve names
 * inside PQconnectStart and block the loop, so it only ever gets numbers. */
#include "internal/db_conn.h"

#include <libpq-fe.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

static struct db_hosts *hosts_new(void)
{
    struct db_hosts *h = xmalloc(sizeof(*h));

    h->refs = 1;
    return h;
}

struct db_hosts *db_hosts_ref(struct db_hosts *h)
{
    h->refs++;
    return h;
}

void db_hosts_unref(struct db_hosts *h)
{
    if (!h || --h->refs > 0) {
        return;
    }
    for (int i = 0; i < h->count; i++) {
        free(h->item[i].host);
        free(h->item[i].addr);
    }
    free(h);
}

static bool hosts_add(struct db_hosts *h, struct str host, const char *addr, int port)
{
    if (h->count == DB_HOSTS_MAX) {
        return false;
    }
    h->item[h->count++] =
        (struct db_host){.host = xstrndup(host.p, host.len), .addr = xstrdup(addr), .port = port};
    return true;
}

static bool is_numeric(const char *host)
{
    struct sockaddr_in6 addr6;
    struct sockaddr_in addr4;

    return uv_ip4_addr(host, 0, &addr4) == 0 || uv_ip6_addr(host, 0, &addr6) == 0;
}

/* "name", "name:port", "[v6]:port", a bare v6 address or "/directory". */
static bool split_port(struct str item, struct str *ret_host, int *port)
{
    struct str host = item;
    struct str rest = {"", 0};
    int64_t n = 0;

    if (item.p[0] == '[') {
        host = str_cut((struct str){item.p + 1, item.len - 1}, ']', &rest);
        if (rest.len && rest.p[0] != ':') {
            return false;
        }
        rest = rest.len ? (struct str){rest.p + 1, rest.len - 1} : rest;
    } else if (item.p[0] != '/') {
        host = str_cut(item, ':', &rest);
        if (memchr(rest.p, ':', rest.len)) {
            host = item;
            rest = STR("");
        }
    }
    *ret_host = host;
    if (rest.len == 0) {
        return host.len > 0;
    }
    if (host.len == 0 || !str_to_i64(rest, 1, 65535, &n)) {
        return false;
    }
    *port = (int)n;
    return true;
}

int db_hosts_parse(const char *list, int port, struct db_hosts **ret, struct err *reterr)
{
    struct str rest = str_of(list);
    struct db_hosts *h = hosts_new();

    do {
        struct str item = str_trim(str_cut(rest, ',', &rest));
        struct str host = {"", 0};
        int item_port = port;

        if (item.len == 0 || !split_port(item, &host, &item_port) ||
            !hosts_add(h, host, NULL, item_port)) {
            db_hosts_unref(h);
            return err_set(reterr, ERR_CONFIG, "the database host list \"%.100s\" is not valid",
                           list ? list : "");
        }
        struct db_host *added = &h->item[h->count - 1];
        if (added->host[0] == '/') {
            added->addr = xstrdup("");
        } else if (is_numeric(added->host)) {
            added->addr = xstrdup(added->host);
        }
    } while (rest.len);
    *ret = h;
    return 0;
}

static void resolve_next(struct db_resolver *r);

static void on_addresses(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct db_resolver *r = CONTAINER_OF(req, struct db_resolver, req);
    const struct db_host *name = &r->names->item[r->next - 1];

    r->in_pool = false;
    if (status < 0) {
        err_set(&r->why, ERR_DB_DOWN, "cannot resolve the database host \"%.100s\": %s", name->host,
                uv_strerror(status));
    }
    for (const struct addrinfo *a = list; status == 0 && a; a = a->ai_next) {
        char addr[NI_MAXHOST];

        if (getnameinfo(a->ai_addr, a->ai_addrlen, addr, sizeof(addr), NULL, 0, NI_NUMERICHOST) ==
            0) {
            (void)hosts_add(r->found, str_of(name->host), addr, name->port);
        }
    }
    uv_freeaddrinfo(list);
    if (status == UV_ECANCELED) {
        r->next = r->names->count;
    }
    resolve_next(r);
}

/* Goes on to the next name that needs the thread pool, or ends. */
static void resolve_next(struct db_resolver *r)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

    while (r->next < r->names->count) {
        const struct db_host *name = &r->names->item[r->next++];

        if (name->addr) {
            (void)hosts_add(r->found, str_of(name->host), name->addr, name->port);
            continue;
        }
        int rc = uv_getaddrinfo(r->loop, &r->req, on_addresses, name->host, NULL, &hints);
        if (rc == 0) {
            r->in_pool = true;
            return;
        }
        err_set(&r->why, ERR_DB_DOWN, "cannot resolve the database host \"%.100s\": %s", name->host,
                uv_strerror(rc));
    }
    struct db_hosts *found = STEAL(r->found);
    db_hosts_unref(STEAL(r->names));
    r->busy = false;
    if (found->count == 0) {
        db_hosts_unref(STEAL(found));
    }
    r->done(r->arg, found, &r->why);
}

void db_resolve(struct db_resolver *r, const char *list, int port, db_resolved_fn *done, void *arg)
{
    struct err why;

    MUST(!r->busy);
    if (db_hosts_parse(list, port, &r->names, &why) < 0) {
        done(arg, NULL, &why);
        return;
    }
    err_set(&r->why, ERR_DB_DOWN, "the database hosts have no address");
    r->busy = true;
    r->done = done;
    r->arg = arg;
    r->next = 0;
    r->found = hosts_new();
    resolve_next(r);
}

void db_resolve_cancel(struct db_resolver *r)
{
    if (r->in_pool) {
        (void)uv_cancel((uv_req_t *)&r->req);
        r->next = r->names->count; /* where it cannot be cancelled, the list ends with it */
    }
}

/* The server gets keepalives too, so that it lets go of the locks of a client that vanished
 * (about 11 s). */
PGconn *db_start_connect(const struct db_options *o, const struct db_host *h)
{
    char port[8];
    char settings[512];

    snprintf(port, sizeof(port), "%d", h->port);
    int n =
        snprintf(settings, sizeof(settings),
                 "-c statement_timeout=%d -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 "
                 "-c tcp_keepalives_count=3 -c tcp_user_timeout=15000 %s",
                 o->statement_timeout_ms, o->settings ? o->settings : "");
    MUST(n >= 0 && (size_t)n < sizeof(settings)); /* our own text */
    const char *const params[][2] = {
        {"host", h->host},
        {"hostaddr", h->addr},
        {"port", port},
        {"dbname", o->database},
        {"user", o->username},
        {"password", o->password},
        {"sslmode", o->ssl_mode && *o->ssl_mode ? o->ssl_mode : "prefer"},
        {"application_name", o->name},
        {"options", settings},
        {"client_encoding", "UTF8"},
        {"gssencmode", "disable"},
        {"target_session_attrs", "read-write"},
        {"keepalives_idle", "10"},
        {"keepalives_interval", "3"},
        {"keepalives_count", "3"},
        {"tcp_user_timeout", "15000"},
    };
    const char *keys[ARRAY_LEN(params) + 1] = {NULL};
    const char *values[ARRAY_LEN(params) + 1] = {NULL};

    for (size_t i = 0; i < ARRAY_LEN(params); i++) {
        keys[i] = params[i][0];
        values[i] = params[i][1];
    }
    PGconn *pg = PQconnectStartParams(keys, values, 0);
    MUST(pg);
    (void)PQsetErrorVerbosity(pg, PQERRORS_VERBOSE); /* the SQLSTATE of a refused login */
    return pg;
}
