/* cli.h: what every command of sje works with: the parsed command line, the manager, the terminal.
 *
 * Results go to stdout, everything about how it went to stderr. A command returns its exit status;
 * functions here that fail have already said why.
 */
#ifndef SJE_CLI_CLI_H
#define SJE_CLI_CLI_H

#include "cmd/sje/client.h"
#include "cmd/sje/command.h"
#include "cmd/sje/table.h"
#include "cmd/sje/text.h"

#include <stdio.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_TASK = 1,     /* the task failed or was cancelled; the manager is not healthy */
    CLI_USAGE = 2,    /* wrong command line, unreadable file, or the manager refused the request */
    CLI_REACH = 3,    /* the manager cannot be reached or cannot answer */
    CLI_PENDING = 4,  /* the task has not ended (yet) */
    CLI_SIGNAL = 128, /* plus the signal */
};

struct cli {
    const struct command *command;
    const char *operand; /* the first; NULL where left out */
    const char *operands[OPERANDS_MAX];
    int operand_count;
    const char *values[OPTIONS_MAX]; /* of command->options; flags ""; NULL where left out */
    const char *url;
    int64_t request_timeout_s;
    bool json;
    bool quiet;
    bool no_color;
    bool help;
    bool version;
    bool out_tty;
    bool err_tty;
    bool out_color;
    bool err_color;
    struct client *client; /* opened before the command runs */
};

/* args.c: fills c from the command line; CLI_USAGE with a message. */
int args_parse(struct cli *c, int argc, char **argv);
/* Options of the command by name. */
const char *cli_text(const struct cli *c, const char *option); /* NULL where left out */
bool cli_flag(const struct cli *c, const char *option);
int64_t cli_number(const struct cli *c, const char *option, int64_t fallback); /* sizes too */

/* Lines on stderr: "sje: …". Whatever the text holds is made harmless. */
void cli_error(const char *fmt, ...) PRINTF(1, 2);
/* The same without "sje:", and not with --quiet. */
void cli_note(const struct cli *c, const char *fmt, ...) PRINTF(2, 3);
/* Width for tables on stdout; 0 where it is no terminal. */
size_t cli_width(const struct cli *c);
size_t cli_columns(FILE *f); /* of the terminal behind f; 80 where unknown */

/* Sends a request. CLI_OK: some answer came; else what cannot be reached has been said. */
int cli_send(struct cli *c, const struct request *q, struct reply *r);
/* Says what the manager refused (`about` is what it was about, such as "task 0190…"), with --json
 * also its document; returns the exit status. */
int cli_refused(const struct cli *c, const struct reply *r, const char *about);
/* The lines "warning: …" of what was done all the same. */
void cli_warnings(const struct cli *c, const struct reply *r);
/* cli_send() and cli_refused() for any answer but 2xx. */
int cli_get(struct cli *c, const char *path, const char *about, struct reply *r);
int cli_post(struct cli *c, const char *path, const char *about, struct reply *r);
/* For an answer that lacks what it must have. */
int cli_strange(const struct cli *c, const char *about);

/* The server's document as it came, with a line feed. */
void cli_print_json(const struct cli *c, const struct reply *r);
/* A document of ours. */
void cli_dump_json(const struct cli *c, const json_t *j);
/* For people: indented, at most max_lines (0: all). */
void cli_print_value(const struct cli *c, const json_t *j, int max_lines);
/* It cannot answer now, and may later; what to tell of that, owned by the caller; NULL: it can. */
char *cli_cannot_answer(const struct cli *c, const struct reply *r);
/* A JSON text that is no string, every digit of it. */
void cli_print_exact(const struct cli *c, struct str text, int max_lines);
/* The output of a task, where it has one. */
void cli_print_output(const struct cli *c, const json_t *task, int max_lines);
/* Objects in objects as aligned "a.b.c  value" lines. */
void cli_print_flat(const struct cli *c, json_t *j);

/* view.c: a task as the API shows it. */
bool view_valid(const json_t *task); /* has what every view has */
bool view_final(const json_t *task);
void view_print(const struct cli *c, const json_t *task);
/* "exit: ZeroDivisionError: … (exit status 1)", appended; nothing where there is no error. */
void view_error(struct buf *out, const json_t *task);
/* Why it does not run yet, with times as people here read them; nothing where that is not known. */
void view_waiting(struct buf *out, const json_t *task);
/* "attempt 2 of 3". */
void view_attempt(struct buf *out, const json_t *task);
/* Wall ms of a member such as "startedAt"; false where null or strange. */
bool view_time(const json_t *task, const char *key, int64_t *ret);
/* Time from one member to another, or to now where the second is null; false where the first is. */
bool view_span(const struct cli *c, const json_t *task, const char *from, const char *to,
               int64_t *ret_ms);
/* CLI_OK, CLI_TASK or CLI_PENDING. */
int view_exit(const json_t *task);

#endif
