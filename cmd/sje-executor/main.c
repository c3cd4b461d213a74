/* sje-executor: the server. Options, then one of: check the configuration, migrate the database,
 * run. Whatever ends a start is one line on standard error; the exit status is that of err.def. */
#include "cmd/sje-executor/brokersetup.h"
#include "cmd/sje-executor/server.h"
#include "internal/db.h"
#include "pkg/manager/migrations.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

enum mode { RUN, CHECK, MIGRATE, BROKER };

#define SETUP_MAX 65536

static const char help[] =
    "Usage: sje-executor [OPTION]...\n"
    "Accepts tasks over HTTP, hands them to workers and runs them.\n"
    "\n"
    "  -c, --config FILE   configuration; default: sje-config.yaml here, then in /etc/sje/\n"
    "  -r, --role ROLE     manager, worker or all; default: executorNodeConfig.roles\n"
    "      --check-config  check the configuration and exit\n"
    "      --migrate       bring the database's schema up to date and exit\n"
    "      --broker-setup  print the commands that make the broker's users and exit\n"
    "  -V, --version       show the version and exit\n"
    "  -h, --help          show this and exit\n"
    "\n"
    "SIGTERM stops cleanly and leaves running tasks to the worker process that comes next;\n"
    "SIGINT stops them too; SIGHUP reads the configuration again.\n"
    "Exit status: 0 stopped or checked, 1 failed, 2 wrong usage or configuration,\n"
    "3 a service cannot be reached. See sje-executor(8) and sje-config.yaml(5).\n";

static int fail(const struct err *why)
{
    fprintf(stderr, "sje-executor: %s\n", why->text);
    return err_exit_status(why->code);
}

static int usage(const char *what)
{
    fprintf(stderr, "sje-executor: %s; try sje-executor --help\n", what);
    return 2;
}

static int check(const struct config *c)
{
    char *doubt CLEANUP(freep) = config_doubt(c);

    if (c->warning) {
        fprintf(stderr, "sje-executor: warning: %s\n", c->warning);
    }
    if (doubt) {
        fprintf(stderr, "sje-executor: warning: %s\n", doubt);
    }
    printf("%s: ok\n", c->source ? c->source : "configuration from the environment");
    return 0;
}

static int migrate(const struct config *c)
{
    struct db_options o = db_options_of(c, "sje-migrate");
    struct err why = {0};
    int applied = 0;

    if (db_migrate(&o, sje_migrations, sje_migrations_count, &applied, &why) < 0) {
        return fail(&why);
    }
    printf("the schema is up to date, %d scripts run now\n", applied);
    return 0;
}

static int print_broker_setup(const struct config *c)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, SETUP_MAX);
    broker_setup(&b, c->rabbitmq.vhost);
    return fwrite(b.data, 1, b.len, stdout) == b.len && fflush(stdout) == 0 ? 0 : 1;
}

static int act(enum mode mode, const struct server_options *o)
{
    struct config *c CLEANUP(config_freep) = NULL;
    struct err why = {0};

    if (server_config(o, &c, &why) < 0) {
        return fail(&why);
    }
    switch (mode) {
    case CHECK:
        return check(c);
    case MIGRATE:
        return migrate(c);
    case BROKER:
        return print_broker_setup(c);
    case RUN:
        return server_run(STEAL(c), o, &why) < 0 ? fail(&why) : 0;
    }
    UNREACHABLE("unknown mode");
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"role", required_argument, NULL, 'r'},
        {"check-config", no_argument, NULL, 'C'}, {"migrate", no_argument, NULL, 'M'},
        {"broker-setup", no_argument, NULL, 'B'}, {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    struct server_options o = {0};
    enum mode mode = RUN;

    /* Tasks may run as this user: none of them shall read our environment and memory, in which
     * there are passwords, nor trace us. */
    (void)prctl(PR_SET_DUMPABLE, 0);
    for (int c; (c = getopt_long(argc, argv, "c:r:Vh", options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            o.config_path = optarg;
            break;
        case 'r':
            o.roles = streq(optarg, "all") ? "manager,worker" : optarg;
            break;
        case 'C':
            mode = CHECK;
            break;
        case 'M':
            mode = MIGRATE;
            break;
        case 'B':
            mode = BROKER;
            break;
        case 'V':
            printf("sje-executor " SJE_VERSION "\n");
            return 0;
        case 'h':
            fputs(help, stdout);
            return 0;
        default:
            return 2; /* getopt_long has said why */
        }
    }
    return optind < argc ? usage("takes no arguments") : act(mode, &o);
}
