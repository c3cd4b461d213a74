#include "pkg/executors/trace.h"

#include "pkg/executors/line.h"

#include <ctype.h>

#define MESSAGE_LINES 50 /* of an exception, before its frames */

/* The name of an exception at the head of the line; 0: there is none. */
size_t trace_name_len(struct str line)
{
    size_t i = 0;

    if (line.len == 0 || !(isalpha((unsigned char)line.p[0]) || line.p[0] == '_')) {
        return 0;
    }
    while (i < line.len && (isalnum((unsigned char)line.p[i]) || strchr("._$<>", line.p[i]))) {
        i++;
    }
    return i == line.len || line.p[i] == ':' ? i : 0;
}

static struct str message_of(struct str line)
{
    size_t n = trace_name_len(line);

    return n < line.len && n > 0 ? str_trim(line_skip(line, n + 1)) : (struct str){"", 0};
}

bool trace_names_error(struct str name)
{
    return str_ends(name, STR("Error")) || str_ends(name, STR("Exception"));
}

/* What a Java trace may begin with. */
bool trace_is_java_head(struct str line)
{
    struct str name = {line.p, trace_name_len(line)};

    return name.len && (memchr(name.p, '.', name.len) || trace_names_error(name));
}

/* So much so that it needs no frames; a JVM without memory has none to print. */
static bool is_java_error(struct str line)
{
    struct str name = {line.p, trace_name_len(line)};

    return name.len && memchr(name.p, '.', name.len) && trace_names_error(name);
}

static bool is_frame(struct str line)
{
    return str_starts(line, STR("\tat ")) || str_starts(line, STR("\t... ")) ||
           str_starts(line, STR("    at "));
}

bool trace_is_python(struct str line)
{
    return str_eq(line, TRACE_PYTHON) || str_eq(line, TRACE_GROUP);
}

/* The first line of what is told, and the next one where that says nothing by itself. */
struct told trace_tell(struct str *rest, struct str line)
{
    struct told t = {.text = str_trim(line)};
    struct str next;

    if (t.text.len && t.text.p[t.text.len - 1] == ':' && line_peek(*rest, &next) &&
        !line_is_blank(next) && !trace_is_python(next) && !is_frame(next)) {
        line_next(rest, &next);
        t.more = str_trim(next);
    }
    return t;
}

/* Spark's messages begin with a name in brackets and end with their SQLSTATE. */
static void skip_condition(struct str *rest, struct told t)
{
    struct str at = *rest;
    struct str line;

    if (!(line_contains(t.text, STR(": [")) || str_starts(t.more, STR("["))) ||
        line_contains(t.text, STR("SQLSTATE: ")) || line_contains(t.more, STR("SQLSTATE: "))) {
        return;
    }
    for (int i = 0; i < MESSAGE_LINES && line_next(&at, &line); i++) {
        if (line_contains(line, STR("SQLSTATE: "))) {
            *rest = at;
            return;
        }
    }
}

/* Moves behind the frames of a Java trace, and the rest of the message before them. true: there
 * were some. */
static bool skip_frames(struct str *rest)
{
    struct str at = *rest;
    struct str line;
    struct str said;
    bool found = false;

    for (int between = 0; between < MESSAGE_LINES && line_next(&at, &line); between++) {
        bool in_trace = line_is_blank(line) || str_eq(line, STR("Driver stacktrace:"));

        if (is_frame(line) || (found && line_is_indented(line))) {
            *rest = at;
            found = true;
            between = 0;
        } else if (str_starts(line, TRACE_CAUSE) || trace_is_python(line) || (found && !in_trace) ||
                   trace_is_java_head(line) || line_level(line, &said) != NO_LEVEL) {
            break;
        }
    }
    return found;
}

bool trace_has_frames(struct str rest)
{
    return skip_frames(&rest);
}

/* Does an inner exception say more than an outer one? "Cannot run program "x": error=2, …" is
 * better than "IOException: error=2, …"; but what only repeats the inner one with its name adds
 * nothing. */
static bool is_better(struct str inner, struct str outer)
{
    struct str message = message_of(inner);

    if (message.len == 0) {
        return outer.len == 0;
    }
    return !line_contains(outer, message) || line_contains(outer, inner);
}

static void python_trace(struct str *rest, struct trace *t);

/* `head` is the first line of a Java exception, without what stood before its name. */
void trace_java(struct str *rest, struct str head, struct trace *t)
{
    struct str line;

    for (;;) {
        struct trace one = {.told = {.text = head}};

        if (str_ends(head, TRACE_PYTHON)) { /* what a Python worker raised */
            python_trace(rest, &one);
        } else {
            one.told = trace_tell(rest, head);
        }
        if (is_better(one.told.text, t->told.text)) {
            t->told = one.told;
        }
        skip_condition(rest, one.told);
        skip_frames(rest);
        if (!line_peek(*rest, &line) || !str_starts(line, TRACE_CAUSE)) {
            return;
        }
        line_next(rest, &line);
        head = line_skip(line, TRACE_CAUSE.len);
    }
}

/* Behind the line of an exception: what a Python or Java program raised that this one only
 * carries. */
static void carried(struct str *rest, struct trace *t)
{
    struct str line;

    if (!line_peek(*rest, &line)) {
        return;
    }
    /* Behind "PythonException:" and a line of comfort. */
    if (trace_is_python(line) && t->told.more.len) {
        struct trace worker = {0};

        line_next(rest, &line);
        python_trace(rest, &worker);
        t->told = worker.told;
        return;
    }
    if (line_contains(t->told.text, STR("Py4JJavaError")) && str_starts(line, STR(": "))) {
        struct trace java = {0};

        line_next(rest, &line);
        trace_java(rest, line_skip(line, 2), &java);
        t->told = java.told;
    }
}

/* The line of the exception, behind its frames. Those of a group stand behind "  | ". */
static bool raised(struct str *rest, struct trace *t, struct str *ret)
{
    struct str line;
    bool first = true;

    while (line_next(rest, &line)) {
        struct str inner = str_starts(line, STR("  | ")) ? line_skip(line, 4) : line;

        if (line_is_blank(inner) || line_is_indented(inner) || str_starts(inner, STR("> File "))) {
            t->top = first ? str_ends(inner, STR(", in <module>")) : t->top;
            first = first && line_is_blank(inner);
            continue;
        }
        *ret = inner;
        return true;
    }
    return false;
}

/* Behind the line "Traceback …". */
static void python_trace(struct str *rest, struct trace *t)
{
    struct str line;

    t->told = (struct told){{"", 0}, {"", 0}};
    if (raised(rest, t, &line)) {
        t->told = trace_tell(rest, line);
        carried(rest, t);
        skip_condition(rest, t->told);
    }
}

/* Behind "During handling of the above exception, …" and the like comes the next of the chain. */
void trace_python(struct str *rest, struct trace *t)
{
    struct str at;
    struct str line;

    do {
        python_trace(rest, t);
        at = *rest;
        bool more = false;
        while (line_next(&at, &line) && !trace_is_python(line)) {
            bool joint = str_starts(line, STR("During handling of the above exception")) ||
                         str_starts(line, STR("The above exception was the direct cause"));
            if (!joint && !line_is_blank(line)) {
                return;
            }
            more = more || joint;
        }
        if (!more || !trace_is_python(line)) {
            return;
        }
        *rest = at;
    } while (rest->len);
}

/* The trace that belongs to the line before it. */
bool trace_below(struct str *rest, struct str line, struct trace *t)
{
    struct str next;

    if (str_ends(line, TRACE_PYTHON)) {
        trace_java(rest, line, t);
        return true;
    }
    if (!line_peek(*rest, &next)) {
        return false;
    }
    struct str after = *rest;
    line_next(&after, &next);
    if (trace_is_python(next)) {
        *rest = after;
        trace_python(rest, t);
        return true;
    }
    if (is_frame(next)) {
        trace_java(rest, line, t);
        return true;
    }
    if (trace_is_java_head(next) && (trace_has_frames(after) || is_java_error(next))) {
        *rest = after;
        trace_java(rest, next, t);
        return true;
    }
    return false;
}
