/* The rules.
 *
 * Each stream is read line by line. Noise goes: blank lines, lines without a letter, what Spark
 * logs below ERROR, and the tables below. What is left is a reason: an exception with its trace, or
 * a complaint (an ERROR of a log, "x: error: y"); or it is words: any other line that is not
 * indented below one. Of the reasons of a stream the last counts, and of the words the last that
 * follow it.
 *
 * 1. An exception is told by the first line of its message; by two where that ends with a colon.
 *    In Python the last of a chain counts. In Java the deepest cause that has a message, but not
 *    where the outer one says the same and more.
 * 2. Some reasons are final, whatever follows: an exception that ended Java's main, and what a
 *    running application is ended for (the table `decisive`). A Python traceback that begins at the
 *    top of the script, under no line of a log, is what ended it where the exit code is 1: then
 *    words do not count that follow it.
 * 3. Any other exception was handled. With exit code 1 the words after it are the reason, for
 *    sys.exit("text") ends like that; else, and behind a complaint, both are told.
 * 4. Without a reason, words are one with exit code 1 only. With another they are what the program
 *    happened to say last, and are told as that, behind the exit code.
 * 5. What Spark logs as ERROR is told where the application said nothing.
 * 6. An exit code of 128 + n is signal n: of the Python driver, which Java saw end; a JVM itself
 *    ends with such a code for HUP, INT and TERM only.
 */
#include "pkg/executors/rootcause.h"

#include "internal/buf.h"
#include "pkg/executors/line.h"
#include "pkg/executors/trace.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>

#define IN_THREAD    STR("Exception in thread ")
#define IN_MAIN      STR("Exception in thread \"main\" ")
#define EXIT_CALLED  STR("Calling System.exit() with exit code ") /* callSystemExitOnMainExit */
#define SPARK_OOM    52
#define REASON_BYTES 700 /* where words follow */
#define SQL_LINES    50

/* ---- tables ---- */

static const char *const noise_begins[] = {
    /* the launcher and the JVM, around what they have to say */
    "Using Spark's default log4j profile",
    "Setting default log level to",
    "To adjust logging level use",
    "Error: Could not create the Java Virtual Machine.",
    "Error: A fatal exception has occurred.",
    "Error occurred during initialization of",
    "Run with --help for usage help",
    "Picked up ",
    "NOTE: Picked up ",
    "OpenJDK 64-Bit Server VM warning:",
    "Java HotSpot(TM) 64-Bit Server VM warning:",
    "SLF4J: ",
    "log4j:",
    ":: ",
    "[Stage ",
    /* below the first line of an exception */
    "Driver stacktrace:",
    "JVM stacktrace:",
    "+- ",
    ":- ",
    "LINE ",
    "DETAIL: ",
    "HINT: ",
    /* below "--- Logging error ---" */
    "Call stack:",
    "Message: ",
    "Arguments: (",
};

static const char *const noise_within[] = {
    "QueryContextLogger\"", /* pyspark's own log of what it raises then */
    "ERROR:asyncio:",       /* what an application left open at its end */
    "ERROR:py4j",
    "Warning: Using incubator modules",
};

/* A trace that begins so, or below such a line, ended nothing. */
static const char *const not_raised[] = {
    "Exception ignored ", "Error in atexit", "--- Logging error ---",
    "org.apache.spark.SparkUserAppException: ", /* how Java says that Python failed */
};

/* Said by Spark when it ends an application, which then fails somewhere else. */
static const char *const decisive[] = {"Application has been killed. Reason: ",
                                       "Application diagnostics message: "};

/* Loggers of Spark that use ERROR. */
static const char *const sparks[] = {
    "AppClient",
    "AsyncEventQueue",
    "BlockManager",
    "BlockTransfer",
    "CoarseGrained",
    "CodeGenerator",
    "ContextCleaner",
    "DAGScheduler",
    "Dispatcher",
    "DiskBlock",
    "EventLogging",
    "Executor",
    "FileFormatWriter",
    "HadoopRDD",
    "Inbox: ",
    "InsertInto",
    "Instrumentation",
    "JettyUtils",
    "JobScheduler",
    "LiveListenerBus",
    "MapOutputTracker",
    "Master: ",
    "MicroBatch",
    "NettyRpc",
    "OneForOneBlock",
    "OneWay",
    "Outbox: ",
    "PythonRunner",
    "PythonUDFRunner",
    "RetryingBlock",
    "RpcOutbox",
    "SQLExecution",
    "ShuffleBlock",
    "ShutdownHookManager",
    "SortShuffle",
    "SparkContext",
    "SparkEnv",
    "SparkSubmit",
    "SparkUI",
    "SparkUncaught",
    "StandaloneAppClient",
    "StandaloneScheduler",
    "StreamExecution",
    "TaskContext",
    "TaskResult",
    "TaskSchedulerImpl",
    "TaskSetManager",
    "ThreadUtils",
    "TorrentBroadcast",
    "Transport",
    "UnsafeShuffle",
    "Utils: ",
    "Worker: ",
    "YarnScheduler",
    "org.apache.spark.",
};

/* In a log of whatever layout. */
static const char *const sparks_always[] = {"org.apache.spark.", " o.a.s.",
                                            " SparkContext: ", " ShutdownHookManager: "};

/* What readers know anyway. */
static const char *const known_packages[] = {"pyspark.errors.exceptions.captured.",
                                             "pyspark.errors.exceptions.connect.",
                                             "pyspark.errors.exceptions.base.", "py4j.protocol."};

static const char *const complaints_begin[] = {"error:", "fatal:", "fatal error", "fatal python",
                                               "terminate called after"};
static const char *const complaints_within[] = {
    ": error: ", ": fatal error: ", ": can't open file '"};

static bool begins_with_one(struct str s, const char *const *table, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct str prefix = str_of(table[i]);

        if (s.len >= prefix.len && str_ieq((struct str){s.p, prefix.len}, prefix)) {
            return true;
        }
    }
    return false;
}

/* From where one of them is; "" where there is none. */
static struct str from_one(struct str s, const char *const *table, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *at = s.len ? memmem(s.p, s.len, table[i], strlen(table[i])) : NULL;

        if (at) {
            return line_skip(s, (size_t)(at - s.p));
        }
    }
    return (struct str){"", 0};
}

#define BEGINS(s, table)   begins_with_one(s, table, ARRAY_LEN(table))
#define CONTAINS(s, table) (from_one(s, table, ARRAY_LEN(table)).len > 0)

/* Of "ERROR Executor: …". */
static bool is_sparks(struct str said)
{
    struct str logger;

    str_cut(said, ' ', &logger);
    return BEGINS(str_trim(logger), sparks) || line_contains(said, STR("org.apache.spark."));
}

/* ---- a stream ---- */

enum rank {
    NOTHING,
    SPARKS,           /* Spark's own ERROR */
    SPARKS_EXCEPTION, /* is better than a line without one */
    HANDLED,          /* an exception that did not end the application */
    COMPLAINT,        /* said by the application */
    LIKELY,           /* an exception that seems to have ended it */
    FINAL,            /* Java's main threw it */
    DECISIVE,         /* what that was a consequence of */
};

struct said {
    enum rank rank;
    struct str intro; /* the line of the log above an exception */
    struct told reason;
    struct told words;
    bool words_logged; /* at a low level */
    bool logs;         /* there are lines of a log */
};

struct stream {
    struct str rest;
    struct said *said;
    const struct app_end *end;
    bool is_err;
};

static void note(struct said *s, enum rank rank, struct str intro, struct told reason)
{
    if (reason.text.len == 0 || rank == NOTHING || (s->rank >= FINAL && rank < s->rank) ||
        (rank <= SPARKS_EXCEPTION && s->rank > rank)) {
        return;
    }
    s->rank = rank;
    s->intro = intro;
    s->reason = reason;
    if (rank > SPARKS_EXCEPTION) {
        s->words = (struct told){{"", 0}, {"", 0}};
    }
}

static void note_words(struct said *s, struct told words, bool logged)
{
    s->words = words;
    s->words_logged = logged;
}

static bool is_noise(struct str line)
{
    return !line_has_letter(line) || BEGINS(line, noise_begins) || CONTAINS(line, noise_within) ||
           (line_contains(line, STR(".py:")) && line_contains(line, STR("Warning: "))) ||
           (line.len > 1 && line.p[0] == '\'' && isupper((unsigned char)line.p[1]));
}

static bool is_complaint(struct str line)
{
    struct str name = {line.p, trace_name_len(line)};

    return BEGINS(line, complaints_begin) || CONTAINS(line, complaints_within) ||
           trace_names_error(name);
}

static void log_line(struct stream *s, struct str line, enum level level, struct str said)
{
    struct str none = {"", 0};
    struct trace t = {0};
    bool traced = trace_below(&s->rest, said, &t);
    struct told words = traced ? t.told : trace_tell(&s->rest, said);
    bool sparks_own = s->is_err || line_is_sparks(line) || CONTAINS(said, sparks_always);

    s->said->logs = s->said->logs || line_is_sparks(line);
    if (level == LOW) {
        if (!sparks_own && s->said->rank <= SPARKS_EXCEPTION && !CONTAINS(line, noise_within)) {
            note_words(s->said, words, true);
        }
        return;
    }
    enum rank rank = CONTAINS(line, noise_within)                        ? NOTHING
                     : sparks_own && (s->end->python || is_sparks(said)) ? SPARKS + traced
                     : traced                                            ? HANDLED
                                                                         : COMPLAINT;
    bool below = traced && rank > SPARKS_EXCEPTION && t.told.text.p != said.p;
    struct str killed = from_one(said, decisive, ARRAY_LEN(decisive));
    if (killed.len && sparks_own) {
        note(s->said, DECISIVE, none, (struct told){killed, none});
    } else {
        note(s->said, rank, below ? said : none, words);
    }
}

/* "== SQL (line 1, position 1) ==", the statement, and "^^^" below what is wrong with it. */
static bool skip_sql(struct str *rest, struct str line)
{
    struct str at = *rest;

    if (!str_starts(line, STR("== SQL"))) {
        return false;
    }
    for (int i = 0; i < SQL_LINES && line_next(&at, &line); i++) {
        if (line_contains(line, STR("^^^"))) {
            *rest = at;
            break;
        }
    }
    return true;
}

/* Behind the line EXIT_CALLED: what main has thrown. */
static bool trace_of_main(struct str *rest, struct trace *t)
{
    struct str line;

    if (!line_peek(*rest, &line) || !trace_name_len(line) || BEGINS(line, not_raised)) {
        return false;
    }
    line_next(rest, &line);
    trace_java(rest, line, t);
    return true;
}

/* An exception under no line of a log. */
static bool exception(struct stream *s, struct str line)
{
    struct str none = {"", 0};
    struct trace t = {0};

    if (trace_is_python(line)) {
        trace_python(&s->rest, &t);
        bool ended = t.top && s->end->python && s->end->exit_code == 1;
        note(s->said, ended ? LIKELY : HANDLED, none, t.told);
    } else if (BEGINS(line, not_raised)) {
        trace_below(&s->rest, line, &t);
    } else if (str_starts(line, IN_MAIN)) {
        trace_java(&s->rest, line_skip(line, IN_MAIN.len), &t);
        note(s->said, s->is_err ? FINAL : HANDLED, none, t.told);
    } else if (line_contains(line, EXIT_CALLED)) {
        if (trace_of_main(&s->rest, &t)) {
            note(s->said, FINAL, none, t.told);
        }
    } else if (str_starts(line, IN_THREAD) && trace_below(&s->rest, line, &t)) {
        note(s->said, HANDLED, t.told.text.p == line.p ? none : line, t.told);
    } else if (trace_is_java_head(line) && trace_has_frames(s->rest)) {
        trace_java(&s->rest, line, &t);
        note(s->said, HANDLED, none, t.told);
    } else {
        return false;
    }
    return true;
}

static void complaint(struct stream *s, struct str line)
{
    struct str none = {"", 0};
    struct str text =
        str_starts(line, STR("Error: ")) ? line_skip(line, 7) : line; /* of launchers */
    struct str next;
    struct trace t = {0};

    if (line_peek(s->rest, &next) && str_starts(next, TRACE_CAUSE)) {
        trace_java(&s->rest, text, &t);
    } else {
        t.told = trace_tell(&s->rest, text);
    }
    note(s->said, COMPLAINT, none, t.told);
}

static void one_line(struct stream *s, struct str line)
{
    struct str said;

    if (skip_sql(&s->rest, line) || exception(s, line)) {
        return;
    }
    if (is_noise(line)) {
        return;
    }
    enum level level = line_level(line, &said);
    if (level != NO_LEVEL) {
        log_line(s, line, level, said);
    } else if (is_complaint(line)) {
        complaint(s, line);
    } else {
        note_words(s->said, trace_tell(&s->rest, line), false);
    }
}

static void read_stream(struct stream *s)
{
    struct str line;
    bool open = false; /* an indented line goes on with the one before */

    while (line_next(&s->rest, &line)) {
        bool more = open && line_is_indented(line) && !str_eq(line, TRACE_GROUP);

        open = !line_is_blank(line);
        if (open && !more) {
            one_line(s, line);
        }
    }
}

/* Without NUL, and without what colours a terminal: ESC [ … letter. */
static struct str clean(struct str s, struct buf *b)
{
    buf_init(b, s.len + 1);
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] == '\x1b' && i + 1 < s.len && s.p[i + 1] == '[') {
            for (i += 2; i < s.len && !isalpha((unsigned char)s.p[i]); i++) {
            }
        } else if (s.p[i]) {
            buf_addc(b, s.p[i]);
        }
    }
    return (struct str){b->len ? b->data : "", b->len};
}

/* ---- what is told ---- */

static struct str shorten(struct str s)
{
    for (size_t i = 0; i < ARRAY_LEN(known_packages); i++) {
        if (str_starts(s, str_of(known_packages[i]))) {
            return line_skip(s, strlen(known_packages[i]));
        }
    }
    return s;
}

static void add_str(struct buf *b, struct str s, size_t max)
{
    buf_add(b, s.p, MIN(s.len, max));
}

static void add_told(struct buf *b, struct told t, size_t max)
{
    add_str(b, shorten(t.text), max);
    if (t.more.len) {
        buf_addc(b, ' ');
        add_str(b, t.more, max);
    }
}

static void add_reason(struct buf *b, const struct said *s, size_t max)
{
    if (s->intro.len) {
        bool colon = s->intro.p[s->intro.len - 1] == ':';

        add_str(b, s->intro, max / 2);
        buf_adds(b, colon ? " " : ": ");
    }
    add_told(b, s->reason, max);
}

static void add_words(struct buf *b, struct told words)
{
    if (words.text.len) {
        buf_adds(b, "; its last words: ");
        add_told(b, words, SIZE_MAX);
    }
}

static void compose(const struct app_end *end, const struct said *s, const struct said *other,
                    struct buf *b)
{
    bool one = end->exit_code <= 1;
    bool words = s->words.text.len > 0;

    if (s->rank >= LIKELY || (s->rank > SPARKS_EXCEPTION && !words)) {
        add_reason(b, s, SIZE_MAX);
    } else if (words && one && !s->words_logged && s->rank <= HANDLED) {
        add_told(b, s->words, SIZE_MAX);
    } else if (s->rank > SPARKS_EXCEPTION) {
        add_reason(b, s, REASON_BYTES);
        add_words(b, s->words);
    } else if (end->exit_code) {
        const struct said *sparks_own = s->rank != NOTHING ? s : other;
        bool told = sparks_own->rank == SPARKS || sparks_own->rank == SPARKS_EXCEPTION;
        bool oom = end->exit_code == SPARK_OOM && told;

        if (!oom) {
            buf_addf(b, "exit code %d", end->exit_code);
            add_words(b, words || end->python ? s->words : other->words);
        }
        if (told && !words) {
            buf_adds(b, oom ? "" : "; Spark's last error: ");
            add_reason(b, sparks_own, SIZE_MAX);
        }
    }
}

static int signal_of(const struct app_end *end)
{
    static const int of_both[] = {SIGHUP, SIGINT, SIGTERM};
    static const int of_python[] = {SIGQUIT, SIGILL,  SIGTRAP, SIGABRT, SIGBUS,
                                    SIGFPE,  SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2,
                                    SIGPIPE, SIGALRM, SIGXCPU, SIGXFSZ, SIGSYS};
    int n = end->exit_code - 128;

    for (size_t i = 0; i < ARRAY_LEN(of_both); i++) {
        if (n == of_both[i]) {
            return n;
        }
    }
    for (size_t i = 0; end->python && i < ARRAY_LEN(of_python); i++) {
        if (n == of_python[i]) {
            return n;
        }
    }
    return 0;
}

static void tell_signal(const struct app_end *end, const struct said *s, struct buf *b)
{
    int n = signal_of(end);

    buf_addf(b, "the %sdriver was killed by signal %d (exit code %d)", end->python ? "Python " : "",
             n, end->exit_code);
    add_words(b, s->words.text.len ? s->words : s->reason);
}

static void finish(struct buf *b, char *text, size_t size)
{
    struct str s = str_trim((struct str){b->len ? b->data : "", b->len});

    s.len = MIN(s.len, size - 1);
    memcpy(text, s.p, s.len);
    text[s.len] = '\0';
    for (size_t i = 0; i < s.len; i++) {
        text[i] = (unsigned char)text[i] < 0x20 ? ' ' : text[i];
    }
    str_make_printable(text, size);
}

/* Whose reason, and whose words. */
static const struct said *speaker(const struct app_end *end, const struct said *out,
                                  const struct said *err)
{
    const struct said *own = end->python ? out : err;
    const struct said *other = end->python ? err : out;

    if (err->rank >= FINAL) {
        return err;
    }
    if (own->rank > SPARKS_EXCEPTION || own->words.text.len) {
        return own;
    }
    if (other->rank > SPARKS_EXCEPTION) {
        return other;
    }
    /* Before it began to log, spark-submit may have said why it does not start. */
    return end->python && !err->logs ? err : own;
}

int root_cause(const struct app_end *end, char *text, size_t size)
{
    struct buf clean_out CLEANUP(buf_free) = {0};
    struct buf clean_err CLEANUP(buf_free) = {0};
    struct buf b CLEANUP(buf_free) = {0};
    struct said out = {0};
    struct said err = {0};
    struct stream streams[] = {
        {clean(end->out, &clean_out), &out, end, false},
        {clean(end->err, &clean_err), &err, end, true},
    };

    for (size_t i = 0; i < ARRAY_LEN(streams); i++) {
        read_stream(&streams[i]);
    }
    buf_init(&b, end->out.len + end->err.len + 4 * REASON_BYTES);
    const struct said *s = speaker(end, &out, &err);
    int n = err.rank >= FINAL ? 0 : signal_of(end);
    if (n) {
        tell_signal(end, &out, &b);
    } else {
        compose(end, s, s == &out ? &err : &out, &b);
    }
    finish(&b, text, size);
    return n;
}
