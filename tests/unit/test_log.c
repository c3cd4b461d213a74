#include "internal/clock.h"
#include "internal/json.h"
#include "internal/log.h"
#include "internal/metrics.h"
#include "internal/str.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static char line[8192];
static size_t line_len;
static int lines;

static void sink(const char *p, size_t len)
{
    assert_true(len < sizeof(line));
    memcpy(line, p, len);
    line[len] = '\0';
    line_len = len;
    lines++;
}

static int setup(void **state)
{
    (void)state;
    clock_virtual_set(0, 1767322984056);
    log_set_sink(sink);
    log_setup(LOG_INFO, LOG_LOGFMT, "test");
    line[0] = '\0';
    lines = 0;
    return 0;
}

static void logfmt(void **state)
{
    (void)state;
    log_info("task=7 attempt=2", "granted to %s", "node1");
    assert_string_equal(line, "ts=2026-01-02T03:03:04.056Z level=info proc=test task=7 attempt=2 "
                              "msg=\"granted to node1\"\n");
    log_warn(NULL, "x");
    assert_string_equal(line, "ts=2026-01-02T03:03:04.056Z level=warn proc=test msg=\"x\"\n");
}

static json_t *parsed(void)
{
    json_error_t e;
    json_t *j = json_loadb(line, line_len, 0, &e);

    if (!j) {
        fail_msg("%s: %s", e.text, line);
    }
    return j;
}

static void json_lines(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON, "test");
    log_error("task=7  attempt=2 odd", "a \"quote\" and\na line \\");
    json_auto_t *j = parsed();
    assert_string_equal(json_get_string(j, "ts"), "2026-01-02T03:03:04.056Z");
    assert_string_equal(json_get_string(j, "level"), "error");
    assert_string_equal(json_get_string(j, "proc"), "test");
    assert_string_equal(json_get_string(j, "task"), "7");
    assert_string_equal(json_get_string(j, "attempt"), "2");
    assert_string_equal(json_get_string(j, "msg"), "a \"quote\" and\na line \\");
}

static void levels(void **state)
{
    (void)state;
    enum log_level level = LOG_DEBUG;

    log_debug(NULL, "no");
    assert_int_equal(lines, 0);
    log_setup(LOG_ERROR, LOG_LOGFMT, "test");
    log_warn(NULL, "no");
    assert_int_equal(lines, 0);
    log_error(NULL, "yes");
    assert_int_equal(lines, 1);
    log_setup(LOG_DEBUG, LOG_LOGFMT, "test");
    log_debug(NULL, "yes");
    assert_int_equal(lines, 2);
    assert_true(log_level_parse("warn", &level));
    assert_int_equal(level, LOG_WARN);
    assert_false(log_level_parse("WARN", &level));
    assert_false(log_level_parse("", &level));
    assert_false(log_level_parse(NULL, &level));
    assert_int_equal(level, LOG_WARN);
}

/* Whatever a peer sent: one line, UTF-8, not too long, JSON stays JSON. */
static void hostile_texts(void **state)
{
    (void)state;
    static char huge[20000];
    static char wide[20000];
    static const char *const texts[] = {"a\nts=x level=error",
                                        "\x1b[31mred",
                                        "\x7f\x01",
                                        "\xff\xfe",
                                        "cut \xe2\x82",
                                        "\"\\\"",
                                        "",
                                        huge,
                                        wide};

    memset(huge, '\n', sizeof(huge) - 1);
    for (size_t i = 0; i + 4 < sizeof(wide); i += 3) {
        memcpy(wide + i, "\xe2\x82\xac", 3);
    }
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
            log_setup(LOG_INFO, (enum log_format)format, "test");
            log_info(texts[i], "%s", texts[i]);
            assert_true(line_len <= 4096);
            assert_int_equal(strlen(line), line_len);
            assert_ptr_equal(strchr(line, '\n'), line + line_len - 1);
            assert_null(strchr(line, '\x1b'));
            if (format == LOG_JSON) {
                json_auto_t *j = parsed();
                assert_non_null(json_get_string(j, "msg"));
            } else {
                assert_non_null(strstr(line, " msg=\""));
            }
        }
    }
}

static void errno_survives(void **state)
{
    (void)state;
    errno = ENOSPC;
    log_info(NULL, "x");
    assert_int_equal(errno, ENOSPC);
}

/* What the reader of this pipe finds, up to its end. */
static char *read_all(int fd)
{
    static char all[4 << 20];
    size_t len = 0;
    ssize_t n;

    while ((n = read(fd, all + len, sizeof(all) - 1 - len)) > 0) {
        len += (size_t)n;
    }
    all[len] = '\0';
    return all;
}

static char *found; /* by the reader */

static void *reader(void *arg)
{
    found = read_all(*(int *)arg);
    return NULL;
}

static void nobody_reads(void **state)
{
    int fds[2];
    int kept = dup(STDERR_FILENO);
    pthread_t t;
    bool taken = false;

    (void)state;
    log_set_sink(NULL);
    assert_int_equal(pipe(fds), 0);
    assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
    close(fds[1]);
    log_start();
    double before = metric_value(METRIC_log_dropped, NULL);
    for (int i = 0; i < 40000; i++) { /* 4 MiB */
        log_info(NULL, "line %d, which is not a short one, so that the pipe is full soon", i);
    }
    assert_true(metric_value(METRIC_log_dropped, NULL) > before);
    assert_int_equal(pthread_create(&t, NULL, reader, &fds[0]), 0);
    while (!taken) { /* until it is written again */
        log_info(NULL, "is there room?");
        taken = metric_value(METRIC_log_dropped, NULL) == before;
        before = metric_value(METRIC_log_dropped, NULL);
    }
    log_stop();
    dup2(kept, STDERR_FILENO);
    close(kept);
    assert_int_equal(pthread_join(t, NULL), 0);
    close(fds[0]);
    const char *told = strstr(found, " lines of the log were dropped here: nobody read them");
    assert_non_null(strstr(found, "\"line 0, which"));
    assert_non_null(told);
    assert_non_null(strstr(told, "is there room?"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(logfmt, setup),         cmocka_unit_test_setup(json_lines, setup),
        cmocka_unit_test_setup(levels, setup),         cmocka_unit_test_setup(hostile_texts, setup),
        cmocka_unit_test_setup(errno_survives, setup), cmocka_unit_test_setup(nobody_reads, setup),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
