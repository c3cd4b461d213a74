/* Why applications failed, out of what pyspark 4.1 really printed (tests/data/spark), out of the
 * table reasons.txt there, and out of rubbish. */
#include "internal/buf.h"
#include "internal/json.h"
#include "pkg/executors/common.h"
#include "pkg/executors/rootcause.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char *read_file(const char *path)
{
    struct buf b;
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    buf_init(&b, 1 << 20);
    for (int c; (c = fgetc(f)) != EOF;) {
        buf_addc(&b, (char)c);
    }
    fclose(f);
    return buf_take(&b);
}

static char *sample(const char *name, const char *stream)
{
    char *path CLEANUP(freep) = xasprintf("tests/data/spark/%s.%s", name, stream);

    return read_file(path);
}

static void expect_cause(const char *name, bool python, const char *begin)
{
    char *out CLEANUP(freep) = sample(name, "out");
    char *err CLEANUP(freep) = sample(name, "err");
    struct app_end end = {str_of(out), str_of(err), 1, python};
    char text[300];

    assert_int_equal(root_cause(&end, text, sizeof(text)), 0);
    if (strncmp(text, begin, strlen(begin)) != 0) {
        fail_msg("%s: %s", name, text);
    }
}

static void test_real_output(void **state)
{
    (void)state;
    expect_cause("plain", true, "ValueError: boom: the input is wrong");
    expect_cause("rdd", true, "ValueError: not a number: 'forty-two'");
    expect_cause("udf", true, "KeyError: 'bad key 0'");
    expect_cause(
        "sql", true,
        "AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] The table or view `nope` cannot be found.");
    expect_cause("file", true,
                 "AnalysisException: [PATH_NOT_FOUND] Path does not exist: file:/nonexistent.csv");
    expect_cause("java", false, "java.lang.NumberFormatException: For input string: \"x1\"");
    expect_cause("class", false, "Failed to load class Nope.");
    expect_cause("nomain", false, "org.apache.spark.SparkException: No main class set in JAR");
}

/* ---- the table ---- */

struct reason {
    char name[96];
    char kind[16];
    char says[1100];
    char app[16];
    int64_t code;
    struct buf out;
    struct buf err;
};

static char dir[] = "/tmp/sje-test-XXXXXX";
static char *blocks[2]; /* of lines that many share: "%start", "%stop" */

/* "␛" and "␍" are what they show. */
static void add_line(struct buf *b, const char *line)
{
    for (const char *p = line; *p; p++) {
        bool esc = strncmp(p, "\u241b", 3) == 0;

        if (esc || strncmp(p, "\u240d", 3) == 0) {
            buf_addc(b, esc ? '\x1b' : '\r');
            p += 2;
        } else {
            buf_addc(b, *p);
        }
    }
    buf_addc(b, '\n');
}

static void write_log(const char *stream, const struct buf *b)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s.%020d", dir, stream, 0);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(b->len ? b->data : "", 1, b->len, f), b->len);
    assert_int_equal(fclose(f), 0);
}

/* The whole judgement, as the worker comes to it. */
static int judge(const struct reason *r)
{
    struct task_spec spec = {.job_type = JOB_SPARK, .app_path = r->app};
    struct exec_attempt attempt = {.spec = &spec, .dir = dir, .attempt = 1};
    struct exec_exit e = {.launched = true, .exit_code = (int)r->code, .reason = "exit"};
    struct exec_node node = {0};
    struct exec_result result = {0};

    write_log("stdout", &r->out);
    write_log("stderr", &r->err);
    executor_spark.finish(&node, &attempt, &e, &result);
    assert_int_equal(result.outcome, EXEC_FAILED);
    struct str kind = str_of(json_get_string(result.error, "kind"));
    struct str says = str_of(json_get_string(result.error, "message"));
    bool fine = str_eq(kind, str_of(r->kind)) && str_eq(says, str_of(r->says));
    if (!fine) {
        print_error("%s:\n  right: %s: %s\n  is:    %s: %s\n", r->name, r->kind, r->says, kind.p,
                    says.p);
    }
    if (str_eq(kind, STR("killed"))) {
        assert_int_equal(json_get_int(result.error, "signal", 0), r->code - 128);
    }
    exec_result_free(&result);
    return fine ? 0 : 1;
}

static void set(char *field, size_t size, const char *value)
{
    assert_true((size_t)snprintf(field, size, "%s", value) < size);
}

static bool read_field(struct reason *r, const char *line)
{
    static const char names[][8] = {"code ", "kind ", "says ", "app "};
    size_t i = 0;

    while (i < ARRAY_LEN(names) && strncmp(line, names[i], strlen(names[i])) != 0) {
        i++;
    }
    if (i == ARRAY_LEN(names)) {
        return false;
    }
    const char *value = line + strlen(names[i]);
    if (i == 0) {
        assert_true(str_to_i64(str_of(value), 1, 255, &r->code));
    } else {
        char *const fields[] = {r->kind, r->says, r->app};
        const size_t sizes[] = {sizeof(r->kind), sizeof(r->says), sizeof(r->app)};
        set(fields[i - 1], sizes[i - 1], value);
    }
    return true;
}

static void begin(struct reason *r, const char *name)
{
    buf_free(&r->out);
    buf_free(&r->err);
    *r = (struct reason){.app = "app.py", .kind = "exit", .code = 1};
    set(r->name, sizeof(r->name), name);
    buf_init(&r->out, 1 << 20);
    buf_init(&r->err, 1 << 20);
}

static void test_reasons(void **state)
{
    char *table CLEANUP(freep) = read_file("tests/data/spark/reasons.txt");
    struct reason r = {0};
    struct buf *to = NULL;
    int wrong = 0;
    int count = 0;
    char *rest = table;

    (void)state;
    blocks[0] = sample("start", "err");
    blocks[1] = sample("stop", "err");
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (strncmp(line, "@@ ", 3) == 0) {
            wrong += *r.name ? judge(&r) : 0;
            begin(&r, line + 3);
            to = NULL;
            count++;
        } else if (streq(line, "-- out") || streq(line, "-- err")) {
            to = streq(line, "-- out") ? &r.out : &r.err;
        } else if (to && line[0] == '%') {
            buf_adds(to, blocks[streq(line, "%stop")]);
        } else if (to) {
            add_line(to, line);
        } else if (*r.name && *line && !read_field(&r, line)) {
            fail_msg("%s: %s", r.name, line);
        }
    }
    wrong += judge(&r);
    begin(&r, "");
    free(blocks[0]);
    free(blocks[1]);
    print_message("%d reasons, %d wrong\n", count, wrong);
    assert_true(count >= 49);
    assert_int_equal(wrong, 0);
}

/* ---- rubbish ---- */

static void check(const char *out, const char *err, const char *expected)
{
    struct app_end end = {str_of(out), str_of(err), 1, true};
    char text[64];

    root_cause(&end, text, sizeof(text));
    assert_string_equal(text, expected);
}

static void test_shapes(void **state)
{
    (void)state;
    check("", "", "exit code 1");
    check("result: 5\n", "", "result: 5");
    check("Traceback (most recent call last):\n  File \"x\"\nKeyboardInterrupt\n", "",
          "KeyboardInterrupt");
    check("Traceback (most recent call last):\n", "", "exit code 1");
    check("Traceback (most recent call last):", "Traceback (most recent call last):\n",
          "exit code 1");
    check("Traceback (most recent call last):\n  F\nE:\n  the text\n", "", "E: the text");
    check("Traceback (most recent call last):\n  File\npy4j.protocol.Py4JJavaError: An error\n: "
          "java.lang.A: one\n"
          "Caused by: java.lang.B: two\nCaused by: java.lang.C: three\n",
          "", "java.lang.C: three");
    check("Traceback (most recent call last):\n  File\npy4j.protocol.Py4JJavaError: An error\n: "
          "java.lang.A: one\n",
          "", "java.lang.A: one");
    check("Error: \n\n", "Exception in thread \"main\" ", "exit code 1");
}

/* Of a process that only stands for the application nothing is told but what it says. */
static void test_an_exit_code_that_is_not_known(void **state)
{
    struct app_end end = {str_of("ready\n"), str_of("26/01/01 00:00:00 INFO X: fine\n"), 0, false};
    char text[64];

    (void)state;
    assert_int_equal(root_cause(&end, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    end.err = str_of("no such master\n");
    root_cause(&end, text, sizeof(text));
    assert_string_equal(text, "no such master");
}

static void tell(const char *out, char *text, size_t size)
{
    struct app_end end = {str_of(out), str_of(""), 1, true};

    root_cause(&end, text, size);
}

static void test_cut_and_binary(void **state)
{
    char text[8];

    (void)state;
    tell("\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\n", text, sizeof(text));
    assert_string_equal(text, "\xc3\xa4\xc3\xa4\xc3\xa4");
    tell("\xff\xfe\n", text, sizeof(text));
    assert_string_equal(text, "??");
    tell("a\x01\tb\n", text, sizeof(text));
    assert_string_equal(text, "a  b");
}

#define TRACEBACK "Traceback (most recent call last):\n"

/* A whole tail of lines that look like the beginning of something. */
static void test_much_of_it(void **state)
{
    static const char *const lines[] = {"a.b.C: d\n",
                                        "Caused by: \n",
                                        "x:\n",
                                        "== SQL\n",
                                        "\tat x\n",
                                        TRACEBACK,
                                        TRACEBACK "X:\na\n",
                                        TRACEBACK "Py4JJavaError\n: x: " TRACEBACK};
    char text[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct buf b;

        buf_init(&b, 1 << 20);
        while (b.len < 1 << 16) {
            buf_adds(&b, lines[i]);
        }
        struct app_end end = {{b.data, b.len}, {b.data, b.len}, 1, i % 2};
        root_cause(&end, text, sizeof(text));
        buf_free(&b);
    }
}

/* A log is cut anywhere. */
static void test_torn(void **state)
{
    char *table CLEANUP(freep) = read_file("tests/data/spark/reasons.txt");
    size_t len = strlen(table);
    char text[300];

    (void)state;
    for (size_t at = 0; at < len; at += 499) {
        size_t n = MIN(len - at, (size_t)4000);
        char *piece = xmemdup(table + at, n); /* nothing may be read behind it */
        struct app_end end = {{piece, n}, {piece + n / 2, n - n / 2}, (int)(at % 3), at % 2};

        root_cause(&end, text, sizeof(text));
        assert_true(str_is_utf8(text, strlen(text)));
        free(piece);
    }
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int forget(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    return nftw(dir, forget, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_output),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_an_exit_code_that_is_not_known),
        cmocka_unit_test(test_cut_and_binary),
        cmocka_unit_test(test_much_of_it),
        cmocka_unit_test(test_torn),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
