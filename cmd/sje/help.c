/* Help for people and docs/cli.md, both from the tables. */
#include "cmd/sje/cli.h"

#include <stdlib.h>

#define HELP_MAX     65536
#define INDENT       4
#define NARROW       60
#define WIDE         88
#define OPTION_WIDTH 33

static const struct {
    int status;
    const char *meaning;
} exits[] = {
    {CLI_OK, "it went well; a task that was waited for succeeded"},
    {CLI_TASK,
     "the task failed or was cancelled; for health: something is down, or nobody does what waits"},
    {CLI_USAGE, "wrong usage, an unreadable file, or the manager refused the request"},
    {CLI_REACH, "the manager cannot be reached or cannot answer now"},
    {CLI_PENDING, "the task has not ended: time over in wait, too early for result"},
    {CLI_SIGNAL + 2, "interrupted by Ctrl-C; the task goes on"},
};

/* Words of s, broken into lines of `width`, each behind `indent` spaces; the first line begins at
 * column `at`. */
static void add_wrapped(struct buf *out, struct str s, size_t at, size_t indent, size_t width)
{
    bool fresh = true;

    text_pad(out, at, indent);
    at = MAX(at, indent);
    while (s.len) {
        struct str word = str_cut(s, ' ', &s);

        if (!fresh && at + 1 + text_width(word) > width) {
            buf_addc(out, '\n');
            text_pad(out, 0, indent);
            at = indent;
            fresh = true;
        }
        if (!fresh) {
            buf_addc(out, ' ');
            at++;
        }
        buf_add(out, word.p, word.len);
        at += text_width(word);
        fresh = false;
    }
    buf_addc(out, '\n');
}

static void add_paragraphs(struct buf *out, const char *text, size_t width)
{
    for (const char *end; (end = strstr(text, "\n\n")); text = end + 2) {
        add_wrapped(out, (struct str){text, (size_t)(end - text)}, 0, 0, width);
        buf_addc(out, '\n');
    }
    add_wrapped(out, str_of(text), 0, 0, width);
}

static void add_option(struct buf *out, const struct option_row *o, size_t width)
{
    size_t start = out->len;

    if (o->hidden) {
        return;
    }
    if (o->letter) {
        buf_addf(out, "  -%c, --%s", o->letter, o->name);
    } else {
        buf_addf(out, "      --%s", o->name);
    }
    if (o->value) {
        buf_addf(out, " %s", o->value);
    }
    size_t at = out->len - start;
    if (at >= OPTION_WIDTH) {
        buf_addc(out, '\n');
        at = 0;
    }
    add_wrapped(out, str_of(o->help), at, OPTION_WIDTH, width);
}

static bool has_options(const struct option_row *o)
{
    return o && o->name && !o->hidden;
}

static void add_usage(struct buf *out, const struct command *cmd)
{
    buf_addf(out, "sje %s", cmd->word);
    if (has_options(cmd->options)) {
        buf_adds(out, " [OPTIONS]");
    }
    if (cmd->operand_name) {
        buf_addf(out, " %s", cmd->operand_name);
    }
}

static void add_examples(struct buf *out, const char *examples)
{
    struct str rest = str_of(examples);

    while (rest.len) {
        struct str line = str_cut(rest, '\n', &rest);

        buf_addf(out, "  %.*s\n", (int)line.len, line.p);
    }
}

static size_t help_width(void)
{
    return MIN(MAX(cli_columns(stdout), NARROW), WIDE);
}

void help_overview(FILE *f)
{
    struct buf out CLEANUP(buf_free) = {0};
    size_t width = help_width();

    buf_init(&out, HELP_MAX);
    buf_adds(&out, "sje: submit tasks to a SparkJobExecutor cluster and look after them\n\n"
                   "Usage: sje [OPTIONS] COMMAND [...]\n\nCommands:\n");
    for (const struct command *cmd = commands; cmd->word; cmd++) {
        buf_addf(&out, "  %-12s%s\n", cmd->word, cmd->summary);
    }
    buf_adds(&out, "\nOptions of every command:\n");
    for (const struct option_row *o = global_options; o->name; o++) {
        add_option(&out, o, width);
    }
    buf_adds(&out, "\nExit status:\n");
    for (size_t i = 0; i < ARRAY_LEN(exits); i++) {
        buf_addf(&out, "  %-5d", exits[i].status);
        add_wrapped(&out, str_of(exits[i].meaning), 7, 7, width);
    }
    buf_adds(&out, "\nMore: sje help COMMAND\n");
    fwrite(out.data, 1, out.len, f);
}

void help_command(const struct command *cmd)
{
    struct buf out CLEANUP(buf_free) = {0};
    size_t width = help_width();

    buf_init(&out, HELP_MAX);
    buf_addf(&out, "sje %s: %s\n\nUsage: ", cmd->word, cmd->summary);
    add_usage(&out, cmd);
    buf_adds(&out, "\n\n");
    add_paragraphs(&out, cmd->text, width);
    if (has_options(cmd->options)) {
        buf_adds(&out, "\nOptions:\n");
        for (const struct option_row *o = cmd->options; o->name; o++) {
            add_option(&out, o, width);
        }
    }
    buf_adds(&out, "\nOptions of every command:\n");
    for (const struct option_row *o = global_options; o->name; o++) {
        add_option(&out, o, width);
    }
    buf_adds(&out, "\nExamples:\n");
    add_examples(&out, cmd->examples);
    fwrite(out.data, 1, out.len, stdout);
}

/* ---- Markdown ---- */

/* In a table cell. */
static void add_cell(struct buf *out, const char *s)
{
    for (; *s; s++) {
        buf_adds(out, *s == '|' ? "\\" : "");
        buf_addc(out, *s);
    }
}

static void markdown_options(struct buf *out, const struct option_row *options)
{
    buf_adds(out, "| option | meaning |\n|---|---|\n");
    for (const struct option_row *o = options; o->name; o++) {
        if (o->hidden) {
            continue;
        }
        buf_adds(out, "| ");
        if (o->letter) {
            buf_addf(out, "`-%c`, ", o->letter);
        }
        buf_addf(out, "`--%s%s%s` | ", o->name, o->value ? " " : "", o->value ? o->value : "");
        add_cell(out, o->help);
        for (size_t i = 0; o->choices && o->choices[i]; i++) {
            buf_addf(out, "%s`%s`", i ? ", " : ": ", o->choices[i]);
        }
        buf_adds(out, " |\n");
    }
}

static void markdown_command(struct buf *out, const struct command *cmd)
{
    buf_addf(out, "\n## sje %s\n\n    ", cmd->word);
    add_usage(out, cmd);
    buf_addf(out, "\n\n%s\n", cmd->text);
    if (has_options(cmd->options)) {
        buf_addc(out, '\n');
        markdown_options(out, cmd->options);
    }
    buf_addf(out, "\n```sh\n%s\n```\n", cmd->examples);
}

void help_markdown(void)
{
    struct buf out CLEANUP(buf_free) = {0};

    buf_init(&out, HELP_MAX);
    buf_adds(
        &out,
        "# The command-line client\n\n"
        "Generated by `sje help --markdown` from the command table in `cmd/sje/commands.c`.\n\n"
        "`sje` talks to a manager over HTTP. Results go to standard output, everything about "
        "how it went to\nstandard error. On a terminal tables fit its width and control "
        "characters in what tasks and managers\nsend are made harmless; into a pipe or a file "
        "nothing is cut. Times are local, and counted by the\nmanager's clock.\n\n"
        "## Exit status\n\n| status | meaning |\n|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(exits); i++) {
        buf_addf(&out, "| %d | ", exits[i].status);
        add_cell(&out, exits[i].meaning);
        buf_adds(&out, " |\n");
    }
    buf_adds(&out, "\n## Options of every command\n\n");
    markdown_options(&out, global_options);
    buf_adds(
        &out,
        "\nWith `--json` standard output holds exactly one document: the manager's answer as it "
        "came, also\nwhen it refuses the request (`application/problem+json`). After exit status "
        "3 it may be empty.\n\n"
        "| variable | meaning |\n|---|---|\n"
        "| `SJE_URL` | the manager, where `--url` is not given |\n"
        "| `NO_COLOR` | not empty: no colours |\n"
        "| `http_proxy`, `https_proxy`, `no_proxy` | as for curl; never used for this host |\n");
    for (const struct command *cmd = commands; cmd->word; cmd++) {
        markdown_command(&out, cmd);
    }
    fwrite(out.data, 1, out.len, stdout);
}

int help_run(struct cli *c)
{
    if (cli_flag(c, "markdown")) {
        help_markdown();
        return CLI_OK;
    }
    if (!c->operand) {
        help_overview(stdout);
        return CLI_OK;
    }
    const struct command *cmd = command_find(c->operand);
    if (!cmd) {
        const char *near = command_suggest(c->operand);

        cli_error("no command '%s'%s%s", c->operand, near ? "; did you mean: sje help " : "",
                  near ? near : "");
        return CLI_USAGE;
    }
    help_command(cmd);
    return CLI_OK;
}
