#include "internal/config.h"
#include "internal/db.h"

struct db_options db_options_of(const struct config *c, const char *name)
{
    return (struct db_options){.host = c->db.host,
                               .port = c->db.port,
                               .database = c->db.database,
                               .username = c->db.username,
                               .password = c->db.password,
                               .ssl_mode = c->db.ssl_mode,
                               .name = name};
}
