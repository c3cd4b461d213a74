#include "cmd/sje/cli.h"

#include "internal/json_exact.h"

#include <stdlib.h>
#include <sys/ioctl.h>

#define MESSAGE_MAX   65536
#define PROBLEMS_MAX  50
#define FLAT_DEPTH    8
#define DEFAULT_WIDTH 80

/* ---- messages ---- */

static void PRINTF(2, 0) say(const char *head, const char *fmt, va_list ap)
{
    char text[4096];
    struct buf line CLEANUP(buf_free) = {0};

    vsnprintf(text, sizeof(text), fmt, ap);
    buf_init(&line, MESSAGE_MAX);
    buf_adds(&line, head);
    text_clean(&line, str_of(text));
    buf_addc(&line, '\n');
    fflush(stdout);
    fwrite(line.data, 1, line.len, stderr);
}

void cli_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say("sje: ", fmt, ap);
    va_end(ap);
}

void cli_note(const struct cli *c, const char *fmt, ...)
{
    if (!c->quiet) {
        va_list ap;

        va_start(ap, fmt);
        say("", fmt, ap);
        va_end(ap);
    }
}

size_t cli_columns(FILE *f)
{
    struct winsize w = {0};

    return ioctl(fileno(f), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : DEFAULT_WIDTH;
}

size_t cli_width(const struct cli *c)
{
    return c->out_tty ? cli_columns(stdout) : 0;
}

/* ---- the manager ---- */

int cli_send(struct cli *c, const struct request *q, struct reply *r)
{
    struct err e;

    if (client_call(c->client, q, r, &e) < 0) {
        cli_error("%s", e.text);
        return CLI_REACH;
    }
    return CLI_OK;
}

static const char *reason(const struct reply *r)
{
    const char *detail = json_get_string(r->json, "detail");
    const char *title = json_get_string(r->json, "title");

    /* With problems field by field the detail only repeats the first. */
    if (json_array_size(json_object_get(r->json, "errors"))) {
        return "the manager refuses it";
    }
    if (detail || title) {
        return detail ? detail : title;
    }
    return r->status == 404   ? "not known there"
           : r->status == 503 ? "the manager cannot do it now"
           : r->status >= 500 ? "the manager failed"
           : r->status >= 400 ? "the manager refuses it"
                              : "unexpected answer; is that the manager?";
}

char *cli_cannot_answer(const struct cli *c, const struct reply *r)
{
    if (r->status < 500 && r->status != 429 && r->status != 408) {
        return NULL;
    }
    return xasprintf("the manager at %.100s cannot answer: %.500s (HTTP %d)", client_url(c->client),
                     reason(r), r->status);
}

static void print_problems(const json_t *errors)
{
    for (size_t i = 0; i < json_array_size(errors) && i < PROBLEMS_MAX; i++) {
        const json_t *e = json_array_get(errors, i);
        const char *field = json_get_string(e, "field");
        const char *message = json_get_string(e, "message");

        cli_error("  %.200s%s%.1000s", field ? field : "", field && *field ? ": " : "",
                  message ? message : "not accepted");
    }
    if (json_array_size(errors) > PROBLEMS_MAX) {
        cli_error("  and %zu more", json_array_size(errors) - PROBLEMS_MAX);
    }
}

int cli_refused(const struct cli *c, const struct reply *r, const char *about)
{
    char later[64] = "";

    if (r->retry_after_s >= 0) {
        snprintf(later, sizeof(later), "; try again in %lld s", (long long)r->retry_after_s);
    }
    if (c->json && r->json) {
        cli_print_json(c, r);
    }
    cli_error("%s: %.2000s (HTTP %d)%s", about, reason(r), r->status, later);
    print_problems(json_object_get(r->json, "errors"));
    return r->status >= 400 && r->status < 500 && r->status != 429 ? CLI_USAGE : CLI_REACH;
}

void cli_warnings(const struct cli *c, const struct reply *r)
{
    const json_t *warnings = json_object_get(r->json, "warnings");

    for (size_t i = 0; i < json_array_size(warnings); i++) {
        const char *text = json_string_value(json_array_get(warnings, i));

        cli_note(c, "warning: %.1000s", text ? text : "?");
    }
}

static int exchange(struct cli *c, const struct request *q, const char *about, struct reply *r)
{
    int rc = cli_send(c, q, r);

    return rc != CLI_OK || r->status / 100 == 2 ? rc : cli_refused(c, r, about);
}

int cli_get(struct cli *c, const char *path, const char *about, struct reply *r)
{
    return exchange(c, &(struct request){.path = path}, about, r);
}

int cli_post(struct cli *c, const char *path, const char *about, struct reply *r)
{
    return exchange(c, &(struct request){.method = "POST", .path = path}, about, r);
}

int cli_strange(const struct cli *c, const char *about)
{
    cli_error("%s: the answer of %s is not what a manager of this version says", about,
              client_url(c->client));
    return CLI_REACH;
}

/* ---- JSON ---- */

/* What a terminal would obey stands only inside strings of a valid document: there it may be
 * written \uXXXX. */
static void add_escaped(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char a = (unsigned char)s.p[i];
        unsigned char b = i + 1 < s.len ? (unsigned char)s.p[i + 1] : 0;
        unsigned char d = i + 2 < s.len ? (unsigned char)s.p[i + 2] : 0;

        if (a == 0x7f) {
            buf_adds(out, "\\u007f");
        } else if (a == 0xc2 && b < 0xa0) {
            buf_addf(out, "\\u%04x", b);
            i++;
        } else if (a == 0xe2 && ((b == 0x80 && d >= 0xa8 && d <= 0xae) ||
                                 (b == 0x81 && d >= 0xa6 && d <= 0xa9))) {
            buf_addf(out, "\\u%04x", 0x2000 | (b & 0x3f) << 6 | (d & 0x3f));
            i += 2;
        } else {
            buf_addc(out, (char)a);
        }
    }
}

static void print_document(const struct cli *c, struct str s)
{
    struct buf escaped CLEANUP(buf_free) = {0};

    buf_init(&escaped, CLIENT_BODY_MAX * 6 + 1);
    if (c->out_tty) {
        add_escaped(&escaped, s);
        s = (struct str){escaped.data ? escaped.data : "", escaped.len};
    }
    fwrite(s.p, 1, s.len, stdout);
    if (!str_ends(s, STR("\n"))) {
        fputc('\n', stdout);
    }
}

void cli_print_json(const struct cli *c, const struct reply *r)
{
    print_document(c, (struct str){r->body.data ? r->body.data : "", r->body.len});
}

void cli_dump_json(const struct cli *c, const json_t *j)
{
    char *text CLEANUP(freep) = json_text(j);

    print_document(c, str_of(text));
}

static void print_line(const struct cli *c, struct str line, bool cut)
{
    struct buf out CLEANUP(buf_free) = {0};

    buf_init(&out, line.len * 3 + 64);
    if (!c->out_tty) {
        buf_add(&out, line.p, line.len);
    } else if (cut) {
        text_fit(&out, line, cli_width(c));
    } else {
        text_clean(&out, line);
    }
    buf_addc(&out, '\n');
    fwrite(out.data, 1, out.len, stdout);
}

static size_t count_lines(struct str s)
{
    size_t lines = 0;

    while (s.len) {
        str_cut(s, '\n', &s);
        lines++;
    }
    return lines;
}

/* Of a text the end matters, which is most often the tail of a log; of JSON its beginning. */
static void print_lines(const struct cli *c, struct str s, bool tail, int max_lines)
{
    size_t lines = count_lines(s);
    size_t room = max_lines > 0 ? (size_t)max_lines : lines;

    for (; tail && lines > room; lines--) {
        str_cut(s, '\n', &s);
    }
    for (size_t i = 0; i < room && s.len; i++) {
        print_line(c, str_cut(s, '\n', &s), max_lines > 0);
    }
    if (s.len) {
        printf("%s %zu more lines\n", text_ellipsis(), lines - room);
    }
}

void cli_print_exact(const struct cli *c, struct str text, int max_lines)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, SIZE_MAX);
    json_indent(text, &b);
    print_lines(c, (struct str){b.data, b.len}, false, max_lines);
}

void cli_print_value(const struct cli *c, const json_t *j, int max_lines)
{
    char *dump CLEANUP(freep) =
        json_is_string(j) ? NULL : json_dumps(j, JSON_INDENT(2) | JSON_ENCODE_ANY);
    struct str s = dump ? str_of(dump) : (struct str){json_string_value(j), json_string_length(j)};

    MUST(dump || json_is_string(j));
    print_lines(c, s, !dump, max_lines);
}

void cli_print_output(const struct cli *c, const json_t *task, int max_lines)
{
    const json_t *output = json_object_get(task, "output");
    const char *exact = json_get_string(task, CLIENT_EXACT);

    if (exact && *exact && !json_is_string(output)) {
        cli_print_exact(c, str_of(exact), max_lines);
    } else if (output && !json_is_null(output)) {
        cli_print_value(c, output, max_lines);
    }
}

/* ---- objects as lines ---- */

static void flat_cell(struct table *t, const char *path, const json_t *j)
{
    char *text CLEANUP(freep) = json_is_string(j) ? NULL : json_text(j);
    int64_t at = 0;

    table_cell(t, str_of(path));
    if (json_is_string(j) && text_time(json_string_value(j), &at)) {
        struct buf b CLEANUP(buf_free) = {0};

        buf_init(&b, 64);
        text_local(&b, at, false);
        table_cell_buf(t, &b);
    } else {
        table_cell(t, text ? (json_is_null(j) ? STR("-") : str_of(text))
                           : (struct str){json_string_value(j), json_string_length(j)});
    }
}

static bool all_plain(const json_t *array)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *v = json_array_get(array, i);

        if (json_is_object(v) || json_is_array(v)) {
            return false;
        }
    }
    return true;
}

static void flat_list(struct table *t, const char *path, const json_t *array)
{
    struct buf b CLEANUP(buf_free) = {0};

    buf_init(&b, MESSAGE_MAX);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *v = json_array_get(array, i);
        char *text CLEANUP(freep) = json_is_string(v) ? NULL : json_text(v);

        buf_addf(&b, "%s%s", i ? ", " : "", text ? text : json_string_value(v));
    }
    table_cell(t, str_of(path));
    table_cell_buf(t, &b);
}

static void flatten(struct table *t, const char *path, json_t *j, int depth)
{
    const char *key;
    json_t *value;

    if (json_is_object(j) && depth < FLAT_DEPTH && json_object_size(j) > 0) {
        json_object_foreach(j, key, value)
        {
            char *below CLEANUP(freep) = xasprintf("%s%s%s", path, *path ? "." : "", key);

            flatten(t, below, value, depth + 1);
        }
    } else if (json_is_array(j) && depth < FLAT_DEPTH && !all_plain(j)) {
        for (size_t i = 0; i < json_array_size(j); i++) {
            char *below CLEANUP(freep) = xasprintf("%s[%zu]", path, i);

            flatten(t, below, json_array_get(j, i), depth + 1);
        }
    } else if (json_is_array(j) && all_plain(j)) {
        flat_list(t, path, j);
    } else {
        flat_cell(t, path, j);
    }
}

void cli_print_flat(const struct cli *c, json_t *j)
{
    static const struct column columns[] = {{"", 0}, {"", COLUMN_FLEXIBLE | COLUMN_STATE}, {0}};
    struct table t CLEANUP(table_done) = {0};

    table_init(&t, columns);
    flatten(&t, "", j, 0);
    table_print(&t, stdout, cli_width(c), c->out_color);
}
