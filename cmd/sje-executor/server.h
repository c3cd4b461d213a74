/* server.h: the running process: its roles, its signals, reload and ordered stop. */
#ifndef SJE_EXECUTOR_SERVER_H
#define SJE_EXECUTOR_SERVER_H

#include "internal/config.h"

struct server_options {
    const char *config_path; /* NULL: where config_load() looks */
    const char *roles;       /* overrides the configuration's; NULL: does not */
};

/* The configuration as the options have it. Used for each reload too. */
int server_config(const struct server_options *o, struct config **ret,
                  struct err *reterr) NODISCARD;
/* Runs until SIGTERM or SIGINT. Takes c over. Less than 0: it could not start. */
int server_run(struct config *c, const struct server_options *o, struct err *reterr) NODISCARD;

#endif
