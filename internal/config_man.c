/* The manual page of the configuration, from the same table as docs/config.md. */
#include "internal/config_table.h"

/* Text of the table in roff: `code` is bold, and nothing begins a request or an escape. */
static void add_text(struct buf *out, const char *text)
{
    bool bold = false;

    for (; *text; text++) {
        if (*text == '`') {
            bold = !bold;
            buf_adds(out, bold ? "\\fB" : "\\fR");
        } else if (*text == '\\') {
            buf_adds(out, "\\e");
        } else if (*text == '-') {
            buf_adds(out, "\\-");
        } else if (*text == '\'') {
            buf_adds(out, "\\(aq");
        } else {
            buf_addc(out, *text);
        }
    }
}

static void add_key(struct buf *out, const struct config_row *r)
{
    struct buf allowed CLEANUP(buf_free) = {.max = 512};
    char env[CONFIG_NAME_MAX];

    buf_addf(out, ".TP\n.B %s\n", r->key);
    add_text(out, r->text);
    buf_adds(out, ".\n.br\nAllowed: ");
    config_allowed(r, &allowed);
    add_text(out, allowed.data);
    buf_adds(out, ".\n.br\nDefault: ");
    add_text(out, *r->fallback ? r->fallback : "\"\"");
    buf_adds(out, ". Environment: \\fB");
    MUST(config_env(r, false, env));
    add_text(out, env);
    if (r->flags & CONFIG_SECRET) {
        buf_addf(out, "\\fR or \\fB%s_FILE", env);
    } else if (config_env(r, true, env)) {
        buf_addf(out, "\\fR or \\fB%s", env);
    }
    buf_addf(out, "\\fR.%s\n", r->flags & CONFIG_RELOAD ? " Taken over by a reload." : "");
}

void config_man(struct buf *out)
{
    buf_adds(out,
             ".\\\" Generated from internal/config.def by `make docs`.\n"
             ".TH SJE\\-CONFIG.YAML 5 \"\" \"SJE\" \"SJE\"\n"
             ".SH NAME\n"
             "sje\\-config.yaml \\- configuration of sje\\-executor\n"
             ".SH SYNOPSIS\n"
             ".I ./sje\\-config.yaml\n.br\n.I /etc/sje/sje\\-config.yaml\n"
             ".SH DESCRIPTION\n"
             "Sections with keys, in YAML. Every key can also come from the environment, which "
             "wins over the file; without a file the environment alone is enough. Lists are "
             "separated by commas there. A password can be read from the file that "
             "\\fBSJE_DB_PASSWORD_FILE\\fR or \\fBSJE_RABBITMQ_PASSWORD_FILE\\fR names.\n"
             ".PP\n"
             "An unknown or repeated key, a wrong type and a value out of range are errors that "
             "name file and line, or the variable; so is a variable that begins like a section "
             "and names no key. Anchors, aliases and tags are refused; a file has at most 1 MiB. "
             "\\fBsje\\-executor \\-\\-check\\-config\\fR checks without starting anything.\n"
             ".PP\n"
             "A file that holds a password should not be readable by everybody.\n");
    for (size_t i = 0; i < config_sections_count; i++) {
        buf_addf(out, ".SH %s\n", config_sections[i].name);
        add_text(out, config_sections[i].text);
        buf_addc(out, '\n');
        for (size_t k = 0; k < config_rows_count; k++) {
            if (streq(config_rows[k].section, config_sections[i].name)) {
                add_key(out, &config_rows[k]);
            }
        }
    }
    buf_adds(out, ".SH EXAMPLE\n.nf\n"
                  "rabbitMqConfig: {host: mq1, username: sje}\n"
                  "dbConfig: {host: db1}\n"
                  "executorNodeConfig:\n"
                  "  roles: [worker]\n"
                  "  slots: 16\n"
                  "  pools: [default, gpu]\n"
                  ".fi\n"
                  ".SH SEE ALSO\n.BR sje\\-executor (8),\n.BR sje (1)\n");
}
