#include "pkg/executors/rootcause.h"

#include <ctype.h>
#include <stdio.h>

static bool next_line(struct str *rest, struct str *line)
{
    if (rest->len == 0) {
        return false;
    }
    *line = str_cut(*rest, '\n', rest);
    if (line->len && line->p[line->len - 1] == '\r') {
        line->len--;
    }
    return true;
}

static struct str skip(struct str s, size_t n)
{
    return (struct str){s.p + n, s.len - n};
}

/* "a.b.ValueError" or "a.b.ValueError: text": what a Python traceback or a Java stack begins with.
 */
static bool is_exception_line(struct str line)
{
    size_t i = 0;

    if (line.len == 0 || !(isalpha((unsigned char)line.p[0]) || line.p[0] == '_')) {
        return false;
    }
    while (i < line.len && (isalnum((unsigned char)line.p[i]) || strchr("._$", line.p[i]))) {
        i++;
    }
    return i == line.len || line.p[i] == ':';
}

/* Where the last line that begins with `prefix` begins; the end where there is none. */
static struct str from_last(struct str text, struct str prefix)
{
    struct str rest = text;
    struct str line;
    struct str found = {text.p + text.len, 0};

    while (rest.len) {
        struct str here = rest;

        next_line(&rest, &line);
        if (str_starts(line, prefix)) {
            found = here;
        }
    }
    return found;
}

static bool copy(struct str s, char *text, size_t size)
{
    s = str_trim(s);
    size_t n = MIN(s.len, size - 1);

    while (n && !str_is_utf8(s.p, n)) {
        n--; /* a cut character at the end, or not text at all */
    }
    memcpy(text, s.p, n);
    text[n] = '\0';
    for (char *p = text; *p; p++) {
        *p = (unsigned char)*p < 0x20 ? ' ' : *p;
    }
    return n > 0;
}

/* The name of a class without what every reader knows. */
static struct str shorten(struct str s)
{
    static const char *const known[] = {"pyspark.errors.exceptions.captured.",
                                        "pyspark.errors.exceptions.base.", "py4j.protocol."};

    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (str_starts(s, str_of(known[i]))) {
            return skip(s, strlen(known[i]));
        }
    }
    return s;
}

/* The exception that ends the traceback which begins before `rest`; empty where there is none. */
static struct str raised(struct str *rest)
{
    struct str line;

    while (next_line(rest, &line)) {
        if (is_exception_line(line)) {
            return line;
        }
    }
    return (struct str){"", 0};
}

static bool deepest_cause(struct str text, char *out, size_t size)
{
    struct str cause = from_last(text, STR("Caused by: "));
    struct str line;

    if (!next_line(&cause, &line)) {
        return false;
    }
    /* What a Python worker raised: "Caused by: …PythonException: Traceback (most recent call
     * last):" */
    if (str_ends(line, STR("Traceback (most recent call last):")) &&
        copy(shorten(raised(&cause)), out, size)) {
        return true;
    }
    return copy(skip(line, strlen("Caused by: ")), out, size);
}

static bool python_cause(struct str text, char *out, size_t size)
{
    struct str rest = from_last(text, STR("Traceback (most recent call last):"));
    struct str line;

    if (!next_line(&rest, &line)) {
        return false;
    }
    struct str message = raised(&rest);
    /* A Java exception below a Python one: the line ": org.apache…" and its causes tell more. */
    if (str_starts(message, STR("py4j.protocol.Py4JJavaError"))) {
        struct str java = rest;

        if (deepest_cause(java, out, size)) {
            return true;
        }
        while (next_line(&java, &line)) {
            if (str_starts(line, STR(": "))) {
                return copy(skip(line, 2), out, size);
            }
        }
    }
    /* "SomeError:" with the text on the next line. */
    struct str name = str_trim(message);
    if (name.len && name.p[name.len - 1] == ':') {
        struct str joined = {message.p, (size_t)(rest.p - message.p)};

        if (next_line(&rest, &line)) {
            joined.len = (size_t)(line.p + line.len - message.p);
        }
        return copy(shorten(joined), out, size);
    }
    return copy(shorten(message), out, size);
}

static bool java_cause(struct str text, char *out, size_t size)
{
    struct str block = from_last(text, STR("Exception in thread \"main\" "));
    struct str rest = block;
    struct str line;

    if (!next_line(&rest, &line)) {
        return false;
    }
    return deepest_cause(rest, out, size) ||
           copy(skip(line, strlen("Exception in thread \"main\" ")), out, size);
}

static bool submit_complaint(struct str text, char *out, size_t size)
{
    struct str rest = from_last(text, STR("Error: "));
    struct str line;

    return next_line(&rest, &line) && copy(skip(line, strlen("Error: ")), out, size);
}

/* "26/11/22 23:44:15 INFO …", "WARNING: …", "Using Spark's …": said in every run. */
static bool is_noise(struct str line)
{
    static const char *const noise[] = {" INFO ", " WARN ", "WARNING: ", "Using Spark's default",
                                        "Setting default log"};

    if (str_trim(line).len == 0 || str_starts(line, STR("\tat "))) {
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(noise); i++) {
        if (memmem(line.p, line.len, noise[i], strlen(noise[i]))) {
            return true;
        }
    }
    return false;
}

static bool last_words(struct str text, char *out, size_t size)
{
    struct str line;
    struct str last = {"", 0};

    while (next_line(&text, &line)) {
        if (!is_noise(line)) {
            last = line;
        }
    }
    return copy(last, out, size);
}

bool root_cause(struct str out, struct str err, char *text, size_t size)
{
    text[0] = '\0';
    return python_cause(out, text, size) || java_cause(err, text, size) ||
           python_cause(err, text, size) || submit_complaint(err, text, size) ||
           last_words(err, text, size);
}
