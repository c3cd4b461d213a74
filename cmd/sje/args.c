#include "cmd/sje/cli.h"

#include "internal/id.h"

#include <stdlib.h>

/* Where the value of a global option goes. */
static void set_global(struct cli *c, const struct option_row *o, const char *value)
{
    if (streq(o->name, "url")) {
        c->url = value;
    } else if (streq(o->name, "request-timeout")) {
        MUST(str_to_i64(str_of(value), o->min, o->max, &c->request_timeout_s));
    } else if (streq(o->name, "json")) {
        c->json = true;
    } else if (streq(o->name, "quiet")) {
        c->quiet = true;
    } else if (streq(o->name, "no-color")) {
        c->no_color = true;
    } else if (streq(o->name, "help")) {
        c->help = true;
    } else if (streq(o->name, "version")) {
        c->version = true;
    } else {
        UNREACHABLE("a global option that nobody reads");
    }
}

static bool parse_size(struct str s, int64_t max, int64_t *ret)
{
    static const char units[] = "KMG";
    const char *unit = s.len ? memchr(units, s.p[s.len - 1] & ~0x20, sizeof(units) - 1) : NULL;
    int shift = unit ? (int)(unit - units + 1) * 10 : 0;

    if (unit) {
        s.len--;
    }
    if (!str_to_i64(s, 0, max >> shift, ret)) {
        return false;
    }
    *ret <<= shift;
    return true;
}

static int check_value(const struct option_row *o, const char *value)
{
    int64_t number = 0;

    if (o->kind == OPTION_NUMBER && !str_to_i64(str_of(value), o->min, o->max, &number)) {
        cli_error("--%s must be a whole number from %lld to %lld, not '%s'", o->name,
                  (long long)o->min, (long long)o->max, value);
        return CLI_USAGE;
    }
    if (o->kind == OPTION_SIZE && !parse_size(str_of(value), o->max, &number)) {
        cli_error("--%s must be a number of bytes such as 4096 or 64K, not '%s'", o->name, value);
        return CLI_USAGE;
    }
    if (o->kind == OPTION_CHOICE) {
        struct buf all CLEANUP(buf_free) = {0};

        buf_init(&all, 1024);
        for (size_t i = 0; o->choices[i]; i++) {
            if (streq(o->choices[i], value)) {
                return CLI_OK;
            }
            buf_addf(&all, "%s%s", i ? ", " : "", o->choices[i]);
        }
        cli_error("--%s must be one of %s, not '%s'", o->name, all.data, value);
        return CLI_USAGE;
    }
    return CLI_OK;
}

static const struct option_row *by_letter(const struct option_row *options, char letter)
{
    for (; options && options->name; options++) {
        if (options->letter && options->letter == letter) {
            return options;
        }
    }
    return NULL;
}

static const struct option_row *lookup(const struct cli *c, struct str name, bool is_letter)
{
    const struct option_row *own = c->command ? c->command->options : NULL;
    const struct option_row *tables[] = {own, global_options};

    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        char *text CLEANUP(freep) = xstrndup(name.p, name.len);
        const struct option_row *o = !tables[i]  ? NULL
                                     : is_letter ? by_letter(tables[i], name.p[0])
                                                 : option_find(tables[i], text);
        if (o) {
            return o;
        }
    }
    return NULL;
}

static int unknown_option(const struct cli *c, const char *word)
{
    const char *near = option_suggest(c->command ? c->command->options : NULL, word);
    const char *cmd = c->command ? c->command->word : NULL;

    cli_error("unknown option '%s'%s%s%s%s", word, cmd ? " for " : "", cmd ? cmd : "",
              near ? "; did you mean --" : "", near ? near : "");
    if (!cmd) {
        cli_error("options of a command stand behind it; see: sje help");
    } else {
        cli_error("see: sje help %s", cmd);
    }
    return CLI_USAGE;
}

static int store(struct cli *c, const struct option_row *o, const char *value)
{
    int rc = value && o->kind != OPTION_FLAG ? check_value(o, value) : CLI_OK;

    if (rc != CLI_OK) {
        return rc;
    }
    if (c->command && option_find(c->command->options, o->name) == o) {
        c->values[o - c->command->options] = value ? value : "";
    } else {
        set_global(c, o, value);
    }
    return CLI_OK;
}

/* argv[*i] is an option; moves *i over its value. */
static int take_option(struct cli *c, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    bool is_long = word[1] == '-';
    struct str value = {NULL, 0};
    struct str name = is_long ? str_cut(str_of(word + 2), '=', &value) : (struct str){word + 1, 1};
    bool attached = is_long ? strchr(word, '=') != NULL : word[2] != '\0';
    const struct option_row *o = lookup(c, name, !is_long);

    if (!o) {
        return unknown_option(c, word);
    }
    const char *text = is_long ? value.p : word + 2;
    if (o->kind == OPTION_FLAG) {
        if (attached && is_long) {
            cli_error("--%s takes no value", o->name);
            return CLI_USAGE;
        }
        int rc = store(c, o, NULL);
        /* -qf is -q -f: the rest is an option of its own. */
        for (; rc == CLI_OK && attached && *text; text++) {
            o = lookup(c, (struct str){text, 1}, true);
            if (!o || o->kind != OPTION_FLAG) {
                return unknown_option(c, word);
            }
            rc = store(c, o, NULL);
        }
        return rc;
    }
    if (!attached) {
        if (*i + 1 >= argc) {
            cli_error("--%s needs a value: --%s %s", o->name, o->name, o->value);
            return CLI_USAGE;
        }
        text = argv[++*i];
    }
    return store(c, o, text);
}

static bool is_node_id(const char *s)
{
    static const char more[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(s);

    return n >= 1 && n <= 127 && strspn(s, more) == n && !strchr("._-", s[0]);
}

static bool is_pool(const char *s)
{
    size_t n = strlen(s);

    return n >= 1 && n <= 63 && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
           s[0] != '-';
}

static int check_settings(const struct cli *c)
{
    bool with_value = c->command->operand == OPERAND_SETTING;

    for (int i = 0; i < c->operand_count; i++) {
        const char *s = c->operands[i];
        const char *equals = strchr(s, '=');

        if (s == equals || !*s || with_value != (equals != NULL)) {
            cli_error("%s: '%s' is no %s such as managerConfig.maxLosses%s (see: sje config)",
                      c->command->word, s, with_value ? "KEY=VALUE" : "KEY",
                      with_value ? "=7" : "");
            return CLI_USAGE;
        }
    }
    return CLI_OK;
}

static int check_operand(const struct cli *c)
{
    const struct command *cmd = c->command;
    struct id id;

    if (cmd->operand == OPERAND_NONE || (cmd->operand == OPERAND_COMMAND && !c->operand)) {
        return CLI_OK;
    }
    if (!c->operand) {
        cli_error("%s: %s is missing; usage: sje %s %s", cmd->word, cmd->operand_name, cmd->word,
                  cmd->operand_name);
        return CLI_USAGE;
    }
    if (cmd->operand == OPERAND_SETTING || cmd->operand == OPERAND_KEY) {
        return check_settings(c);
    }
    if (cmd->operand == OPERAND_TASK && !id_parse(c->operand, strlen(c->operand), &id)) {
        cli_error("'%s' is no task id; they look like 01890a5d-ac96-774b-bcce-b302099a8057 "
                  "(see: sje list)",
                  c->operand);
        return CLI_USAGE;
    }
    if (cmd->operand == OPERAND_WORKER && !is_node_id(c->operand)) {
        cli_error("'%s' is no name of a worker (see: sje workers)", c->operand);
        return CLI_USAGE;
    }
    if (cmd->operand == OPERAND_POOL && !is_pool(c->operand)) {
        cli_error("'%s' is no name of a pool (see: sje queues)", c->operand);
        return CLI_USAGE;
    }
    return CLI_OK;
}

static int operands_max(enum operand_kind kind)
{
    return kind == OPERAND_NONE                             ? 0
           : kind == OPERAND_SETTING || kind == OPERAND_KEY ? OPERANDS_MAX
                                                            : 1;
}

static int take_word(struct cli *c, const char *word)
{
    if (!c->command) {
        c->command = command_find(word);
        if (c->command) {
            return CLI_OK;
        }
        const char *near = command_suggest(word);
        cli_error("unknown command '%s'%s%s", word, near ? "; did you mean: sje " : "",
                  near ? near : "");
        cli_error("see: sje help");
        return CLI_USAGE;
    }
    if (c->operand_count >= operands_max(c->command->operand)) {
        cli_error("%s: unexpected '%s'; see: sje help %s", c->command->word, word,
                  c->command->word);
        return CLI_USAGE;
    }
    c->operands[c->operand_count++] = word;
    c->operand = c->operands[0];
    return CLI_OK;
}

int args_parse(struct cli *c, int argc, char **argv)
{
    bool only_words = false;

    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        int rc = CLI_OK;

        if (!only_words && streq(word, "--")) {
            only_words = true;
        } else if (!only_words && word[0] == '-' && word[1] != '\0') {
            rc = take_option(c, argc, argv, &i);
        } else {
            rc = take_word(c, word);
        }
        if (rc != CLI_OK) {
            return rc;
        }
    }
    if (c->help || c->version) {
        return CLI_OK;
    }
    return c->command ? check_operand(c) : CLI_OK;
}

static const char *value_of(const struct cli *c, const char *option,
                            const struct option_row **ret_row)
{
    const struct option_row *o = option_find(c->command->options, option);

    MUST(o);
    *ret_row = o;
    return c->values[o - c->command->options];
}

const char *cli_text(const struct cli *c, const char *option)
{
    const struct option_row *o;

    return value_of(c, option, &o);
}

bool cli_flag(const struct cli *c, const char *option)
{
    return cli_text(c, option) != NULL;
}

int64_t cli_number(const struct cli *c, const char *option, int64_t fallback)
{
    const struct option_row *o;
    const char *text = value_of(c, option, &o);
    int64_t number = 0;

    if (!text) {
        return fallback;
    }
    MUST(o->kind == OPTION_SIZE ? parse_size(str_of(text), o->max, &number)
                                : str_to_i64(str_of(text), o->min, o->max, &number));
    return number;
}
