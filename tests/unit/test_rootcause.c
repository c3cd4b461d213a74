/* Root causes, out of what pyspark 4.1 really printed (tests/data/spark) and out of rubbish. */
#include "internal/buf.h"
#include "pkg/executors/rootcause.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static char *sample(const char *name, const char *stream)
{
    char *path CLEANUP(freep) = xasprintf("tests/data/spark/%s.%s", name, stream);
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

static void expect_cause(const char *name, const char *begin)
{
    char *out CLEANUP(freep) = sample(name, "out");
    char *err CLEANUP(freep) = sample(name, "err");
    char text[300];

    assert_true(root_cause(str_of(out), str_of(err), text, sizeof(text)));
    if (strncmp(text, begin, strlen(begin)) != 0) {
        fail_msg("%s: %s", name, text);
    }
}

static void test_real_output(void **state)
{
    (void)state;
    expect_cause("plain", "ValueError: boom: the input is wrong");
    expect_cause("rdd", "ValueError: not a number: 'forty-two'");
    expect_cause("udf", "KeyError: 'bad key 0'");
    expect_cause(
        "sql",
        "AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] The table or view `nope` cannot be found.");
    expect_cause("file",
                 "AnalysisException: [PATH_NOT_FOUND] Path does not exist: file:/nonexistent.csv");
    expect_cause("java", "java.lang.NumberFormatException: For input string: \"x1\"");
    expect_cause("class", "Failed to load class Nope.");
    expect_cause("nomain", "org.apache.spark.SparkException: No main class set in JAR");
}

static void check(const char *out, const char *err, const char *expected)
{
    char text[64];

    root_cause(str_of(out), str_of(err), text, sizeof(text));
    assert_string_equal(text, expected);
}

static void test_shapes(void **state)
{
    (void)state;
    check("", "", "");
    check("result: 5\n", "", "");
    check("", "26/01/01 INFO X: fine\nkilled by the operator\n26/01/01 INFO Y: bye\n",
          "killed by the operator");
    check("Traceback (most recent call last):\n  File \"x\"\nKeyboardInterrupt\n", "",
          "KeyboardInterrupt");
    check("Traceback (most recent call last):\n", "", "");
    check("Traceback (most recent call last):\n  F\nE:\n  the text\n", "", "E:   the text");
    check("Traceback (most recent call last):\n  File\npy4j.protocol.Py4JJavaError: An error\n: "
          "java.lang.A: one\n"
          "Caused by: java.lang.B: two\nCaused by: java.lang.C: three\n",
          "", "java.lang.C: three");
    check("Traceback (most recent call last):\n  File\npy4j.protocol.Py4JJavaError: An error\n: "
          "java.lang.A: one\n",
          "", "java.lang.A: one");
    /* Chained: the last one raised is the one that ended it. */
    check("Traceback (most recent call last):\n  F\nKeyError: 1\n\nDuring handling of the above "
          "exception, another "
          "exception occurred:\n\nTraceback (most recent call last):\n  F\nRuntimeError: two\n",
          "", "RuntimeError: two");
}

static void test_cut_and_binary(void **state)
{
    char text[8];

    (void)state;
    root_cause(str_of(""), str_of("\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\n"), text,
               sizeof(text));
    assert_string_equal(text, "\xc3\xa4\xc3\xa4\xc3\xa4");
    root_cause(str_of(""), str_of("\xff\xfe\n"), text, sizeof(text));
    assert_string_equal(text, "");
    root_cause(str_of(""), str_of("a\x01\tb\n"), text, sizeof(text));
    assert_string_equal(text, "a  b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_output),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_cut_and_binary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
