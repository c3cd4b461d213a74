#include "internal/log.h"

#include "internal/buf.h"
#include "internal/clock.h"
#include "internal/log_thread.h"
#include "internal/metrics.h"
#include "internal/str.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_MAX_BYTES   4096
#define FIELDS_MAX_BYTES 512
#define WAITING_BYTES    (1024 * 1024)
#define STOP_MS          1000

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static enum log_level threshold = LOG_INFO;
static enum log_format line_format = LOG_LOGFMT;
static const char *process_name = "sje";
static void (*line_sink)(const char *, size_t);
static struct log_thread *thread;
static uint64_t dropped; /* since the last line that was taken */

void log_setup(enum log_level level, enum log_format format, const char *process)
{
    threshold = level;
    line_format = format;
    process_name = process;
}

bool log_level_parse(const char *text, enum log_level *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (streq(text, level_names[i])) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

bool log_enabled(enum log_level level)
{
    return level <= threshold;
}

void log_set_sink(void (*sink)(const char *line, size_t len))
{
    line_sink = sink;
}

/* Quotes for both formats alike: what a peer sent cannot forge a line, nor break JSON. */
static void add_quoted(struct buf *b, struct str s)
{
    buf_addc(b, '"');
    while (s.len && b->len < LINE_MAX_BYTES - 64) {
        unsigned char c = (unsigned char)s.p[0];
        size_t n = str_utf8_head(s);

        if (n == 0) {
            buf_adds(b, "\xef\xbf\xbd");
        } else if (c < 0x20 || c == 0x7f) {
            buf_addf(b, "\\u%04x", c);
        } else {
            if (c == '"' || c == '\\') {
                buf_addc(b, '\\');
            }
            buf_add(b, s.p, n);
        }
        n = n ? n : 1;
        s = (struct str){s.p + n, s.len - n};
    }
    buf_addc(b, '"');
}

static void add_logfmt_fields(struct buf *b, struct str fields)
{
    for (size_t i = 0; i < fields.len && i < FIELDS_MAX_BYTES; i++) {
        unsigned char c = (unsigned char)fields.p[i];

        buf_addc(b, c < 0x20 || c == 0x7f ? '?' : (char)c);
    }
    buf_addc(b, ' ');
}

static void add_json_fields(struct buf *b, struct str fields)
{
    fields.len = MIN(fields.len, (size_t)FIELDS_MAX_BYTES);
    while (fields.len) {
        struct str value = str_cut(fields, ' ', &fields);
        struct str key = str_cut(value, '=', &value);

        if (key.len) {
            buf_addc(b, ',');
            add_quoted(b, key);
            buf_addc(b, ':');
            add_quoted(b, value);
        }
    }
}

static void format(struct buf *line, enum log_level level, const char *fields, const char *text)
{
    char stamp[CLOCK_TEXT_LEN];

    clock_format(clock_wall_ms(), stamp);
    if (line_format == LOG_JSON) {
        buf_addf(line, "{\"ts\":\"%s\",\"level\":\"%s\",\"proc\":\"%s\"", stamp, level_names[level],
                 process_name);
        add_json_fields(line, str_of(fields));
        buf_adds(line, ",\"msg\":");
        add_quoted(line, str_of(text));
        buf_adds(line, "}\n");
    } else {
        buf_addf(line, "ts=%s level=%s proc=%s ", stamp, level_names[level], process_name);
        if (fields) {
            add_logfmt_fields(line, str_of(fields));
        }
        buf_adds(line, "msg=");
        add_quoted(line, str_of(text));
        buf_addc(line, '\n');
    }
}

static bool put(enum log_level level, const char *fields, const char *text)
{
    struct buf line CLEANUP(buf_free);
    bool taken = true;

    buf_init(&line, LINE_MAX_BYTES);
    format(&line, level, fields, text);
    if (line_sink) {
        line_sink(line.data, line.len);
    } else if (thread) {
        taken = log_thread_put(thread, line.data, line.len);
    } else {
        ssize_t ignored = write(STDERR_FILENO, line.data, line.len);
        (void)ignored;
    }
    return taken;
}

static void tell_dropped(void)
{
    char text[128];

    snprintf(text, sizeof(text), "%" PRIu64 " lines of the log were dropped here: nobody read them",
             dropped);
    dropped = put(LOG_WARN, NULL, text) ? 0 : dropped;
}

void log_write(enum log_level level, const char *fields, const char *fmt, ...)
{
    char text[1024];
    int saved_errno = errno;
    va_list ap;

    if (!log_enabled(level)) {
        return;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (dropped) {
        tell_dropped();
    }
    if (dropped || !put(level, fields, text)) {
        dropped++;
        METRIC_INC(log_dropped);
    }
    errno = saved_errno;
}

void log_start(void)
{
    thread = log_thread_start(STDERR_FILENO, WAITING_BYTES);
}

void log_stop(void)
{
    if (dropped) {
        tell_dropped();
    }
    if (thread) {
        (void)log_thread_stop(STEAL(thread), STOP_MS);
    }
}
