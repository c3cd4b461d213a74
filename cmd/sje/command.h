/* command.h: the commands of sje as data. Parsing, help, did-you-mean, completion and docs/cli.md
 * all walk these tables.
 */
#ifndef SJE_CLI_COMMAND_H
#define SJE_CLI_COMMAND_H

#include "internal/base.h"
#include "internal/err.h"

#include <stdio.h>

#define OPTIONS_MAX  8
#define OPERANDS_MAX 64 /* of a command that takes several */

struct cli;

enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_NUMBER,
    OPTION_SIZE,   /* bytes; K, M or G may follow */
    OPTION_CHOICE, /* one of `choices` */
};

struct option_row {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* 0: none */
    enum option_kind kind;
    const char *value; /* what usage shows for it, "SECONDS" */
    const char *help;
    const char *const *choices; /* NULL-terminated */
    int64_t min;
    int64_t max;
    bool hidden; /* from help and completion */
};

enum operand_kind {
    OPERAND_NONE,
    OPERAND_TASK,    /* a UUID */
    OPERAND_WORKER,  /* a nodeId */
    OPERAND_POOL,    /* a name of a pool */
    OPERAND_FILE,    /* a path or - */
    OPERAND_COMMAND, /* may be left out */
    OPERAND_SHELL,
    OPERAND_SETTING, /* KEY=VALUE, one or more */
    OPERAND_KEY,     /* of a setting, one or more */
};

struct command {
    const char *word; /* NULL ends the table */
    const char *summary;
    enum operand_kind operand;
    const char *operand_name;         /* what usage shows */
    const struct option_row *options; /* NULL: none */
    const char *text;                 /* paragraphs parted by an empty line */
    const char *examples;             /* lines; NULL: none */
    int (*run)(struct cli *c);        /* returns the exit status */
};

extern const struct command commands[];
extern const struct option_row global_options[];
extern const char *const shells[];

const struct command *command_find(const char *word);                                     /* NULL */
const struct option_row *option_find(const struct option_row *options, const char *name); /* NULL */
/* The command (with `options`: the option of it or of all) nearest to a word that is none; NULL
 * where none is near. */
const char *command_suggest(const char *word);
const char *option_suggest(const struct option_row *options, const char *name);

/* help.c */
void help_overview(FILE *f);
void help_command(const struct command *cmd);
void help_markdown(void);
int help_run(struct cli *c);

/* complete.c */
int completion_run(struct cli *c);

/* The other commands. */
int submit_run(struct cli *c);
int status_run(struct cli *c);
int wait_run(struct cli *c);
int log_run(struct cli *c);
int result_run(struct cli *c);
int list_run(struct cli *c);
int cancel_run(struct cli *c);
int requeue_run(struct cli *c);
int events_run(struct cli *c);
int workers_run(struct cli *c);
int worker_run(struct cli *c);
int queues_run(struct cli *c);
int drain_run(struct cli *c);
int resume_run(struct cli *c);
int pause_run(struct cli *c);
int unpause_run(struct cli *c);
int health_run(struct cli *c);
int config_run(struct cli *c);
int set_run(struct cli *c); /* and reset */
int metrics_run(struct cli *c);
int version_run(struct cli *c);

#endif
