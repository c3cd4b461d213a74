/* What a broker's administrator types once: a virtual host and two users, each with the rights that
 * its role uses. docs/protocol.md has the names; pkg/manager/intake.c, pkg/manager/feed_publish.c
 * and pkg/worker/links.c use them. */
#include "cmd/sje-executor/brokersetup.h"

#include <stdio.h>

struct rights {
    const char *user;
    const char *configure; /* declare and delete */
    const char *write;     /* publish to an exchange, bind a queue */
    const char *read;      /* consume from a queue, bind to an exchange */
};

static const struct rights all[] = {
    {"sje-manager", "^sje[.](beat|ctl|result|(manager|work)[.].+)$",
     "^(amq[.]default|sje[.](ctl|manager[.].+))$", "^sje[.](beat|ctl|result|manager[.].+)$"},
    {"sje-worker", "^sje[.](beat|result|(work|worker)[.].+)$", "^(amq[.]default|sje[.]beat)$",
     "^sje[.](work|worker)[.].+$"},
};

/* For a shell. */
static void quoted(struct buf *b, const char *text)
{
    buf_addc(b, '\'');
    for (const char *p = text; *p; p++) {
        if (*p == '\'') {
            buf_adds(b, "'\\''");
        } else {
            buf_addc(b, *p);
        }
    }
    buf_addc(b, '\'');
}

static void permissions(struct buf *b, const char *vhost, const struct rights *r)
{
    buf_adds(b, "rabbitmqctl set_permissions -p ");
    quoted(b, vhost);
    buf_addf(b, " %s '%s' '%s' '%s'\n", r->user, r->configure, r->write, r->read);
}

void broker_setup(struct buf *b, const char *vhost)
{
    if (!streq(vhost, "/")) { /* that one is always there */
        buf_adds(b, "rabbitmqctl add_vhost ");
        quoted(b, vhost);
        buf_addc(b, '\n');
    }
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_addf(b, "rabbitmqctl add_user %s  # asks for the password\n", all[i].user);
        permissions(b, vhost, &all[i]);
    }
}
