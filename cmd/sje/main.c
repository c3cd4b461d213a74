/* sje: the command-line client. The command table is in commands.c. */
#include "cmd/sje/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define DEFAULT_URL       "http://127.0.0.1:8082"
#define REQUEST_TIMEOUT_S 30

static bool offline(const struct command *cmd)
{
    return cmd->run == help_run || cmd->run == completion_run || cmd->run == version_run;
}

static void look_at_terminal(struct cli *c)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    bool color = !c->no_color && !(no_color && *no_color) && term && !streq(term, "dumb");

    c->out_tty = isatty(STDOUT_FILENO);
    c->err_tty = isatty(STDERR_FILENO);
    c->out_color = color && c->out_tty;
    c->err_color = color && c->err_tty;
}

static int run(struct cli *c)
{
    struct err e;

    if (offline(c->command)) {
        return c->command->run(c);
    }
    if (client_open(c->url, c->request_timeout_s * 1000, &c->client, &e) < 0) {
        cli_error("%s", e.text);
        return CLI_USAGE;
    }
    int rc = c->command->run(c);
    client_close(c->client);
    return rc;
}

/* A result that did not reach its reader is no success. */
static int close_output(int rc)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return rc;
    }
    if (errno == EPIPE) {
        return CLI_SIGNAL + SIGPIPE;
    }
    cli_error("cannot write the output: %s", strerror(errno));
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    const char *url = getenv("SJE_URL");
    struct cli c = {.url = url && *url ? url : DEFAULT_URL, .request_timeout_s = REQUEST_TIMEOUT_S};

    text_setup();
    int rc = args_parse(&c, argc, argv);
    look_at_terminal(&c);
    if (rc != CLI_OK) {
        return rc;
    }
    if (c.help && c.command && c.command->run != help_run) {
        help_command(c.command);
    } else if (c.help) {
        help_overview(stdout);
    } else if (c.version) {
        rc = version_run(&c);
    } else if (!c.command) {
        help_overview(stderr);
        rc = CLI_USAGE;
    } else {
        rc = run(&c);
    }
    return close_output(rc);
}
