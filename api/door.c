#include "api/door.h"

#include "internal/str.h"

#include <arpa/inet.h>
#include <stdio.h>

#define HOST_SHOWN 100 /* characters of a stranger's text in an answer */

/* "example.org.": the same name. */
static struct str without_dot(struct str name)
{
    return name.len && name.p[name.len - 1] == '.' ? (struct str){name.p, name.len - 1} : name;
}

/* "name", "name:port", "[address]:port": the name, an address without its brackets. */
static struct str name_of(struct str authority)
{
    if (authority.len && authority.p[0] == '[') {
        struct str rest = {authority.p + 1, authority.len - 1};

        return str_cut(rest, ']', &rest);
    }
    return without_dot(str_cut(authority, ':', &authority));
}

static bool is_address(struct str name, bool *loopback)
{
    char text[INET6_ADDRSTRLEN];
    struct in_addr v4;
    struct in6_addr v6;

    if (name.len >= sizeof(text)) {
        return false;
    }
    snprintf(text, sizeof(text), "%.*s", (int)name.len, name.p);
    if (inet_pton(AF_INET, text, &v4) == 1) {
        *loopback = ntohl(v4.s_addr) >> 24 == 127;
        return true;
    }
    *loopback = inet_pton(AF_INET6, text, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
    return *loopback || inet_pton(AF_INET6, text, &v6) == 1;
}

/* An address in place of a name cannot be made to point elsewhere: where we listen on all, any may
 * be one of ours, as a router or a container shows it. */
static bool is_ours(const struct config *c, const char *machine, struct str name)
{
    struct str bind = str_of(c->api.bind);
    bool loopback = false;

    if (is_address(name, &loopback)) {
        return loopback || str_eq(bind, STR("0.0.0.0")) || str_eq(bind, STR("::")) ||
               str_ieq(name, bind);
    }
    if (str_ieq(name, STR("localhost")) || str_ieq(name, bind) || str_ieq(name, str_of(machine))) {
        return true;
    }
    for (int i = 0; i < c->api.hosts.count; i++) {
        if (str_ieq(name, name_of(str_of(c->api.hosts.items[i])))) {
            return true;
        }
    }
    return false;
}

/* From a page that we have sent, as far as its browser says: by the name that we were called, or,
 * behind a proxy that calls us by another one, by a configured one. */
static bool is_own_origin(const struct config *c, struct str origin, struct str host)
{
    struct str scheme = str_cut(origin, ':', &origin);

    if ((!str_eq(scheme, STR("http")) && !str_eq(scheme, STR("https"))) ||
        !str_starts(origin, STR("//"))) {
        return false;
    }
    struct str authority = {origin.p + 2, origin.len - 2};
    if (str_ieq(authority, host)) {
        return true;
    }
    for (int i = 0; i < c->api.hosts.count; i++) {
        if (str_ieq(authority, str_of(c->api.hosts.items[i]))) {
            return true;
        }
    }
    return false;
}

int door_check(const struct config *c, const char *machine, const struct door_head *h,
               struct err *reterr)
{
    struct str host = str_of(h->host);

    bool any_name = h->of_worker && !h->origin && !h->fetch_site;

    if (h->host && !any_name && !is_ours(c, machine, name_of(host))) {
        return err_set(reterr, ERR_FORBIDDEN,
                       "\"%.*s\" is no name or address of this server; add it to apiConfig.hosts",
                       HOST_SHOWN, h->host);
    }
    if (h->origin && !is_own_origin(c, str_of(h->origin), host)) {
        return err_set(reterr, ERR_FORBIDDEN,
                       "a page of \"%.*s\" may not use this server; if this is your proxy, add its "
                       "name to apiConfig.hosts",
                       HOST_SHOWN, h->origin);
    }
    if (h->fetch_site && !streq(h->fetch_site, "same-origin") && !streq(h->fetch_site, "none")) {
        return err_set(reterr, ERR_FORBIDDEN, "a page of another site may not use this server");
    }
    return 0;
}
