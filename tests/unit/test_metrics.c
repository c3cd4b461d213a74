#include "internal/metrics.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static char *text;

static int setup(void **state)
{
    (void)state;
    metrics_reset();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    metrics_reset();
    free(text);
    text = NULL;
    return 0;
}

static const char *written(void)
{
    struct buf b;

    buf_init(&b, 1024 * 1024);
    metrics_write(&b);
    assert_false(b.failed);
    free(text);
    text = buf_take(&b);
    return text;
}

static void test_plain(void **state)
{
    (void)state;
    METRIC_SET(http_connections, 3);
    METRIC_ADD(http_connections, -1);
    assert_non_null(strstr(written(), "# HELP sje_http_connections Open HTTP connections\n"
                                      "# TYPE sje_http_connections gauge\n"
                                      "sje_http_connections 2\n"));
    assert_non_null(strstr(text, "process_resident_memory_bytes "));
    METRIC_SET(http_connections, 0.25);
    assert_non_null(strstr(written(), "\nsje_http_connections 0.25\n"));
}

static void test_labels(void **state)
{
    (void)state;
    METRIC_INC_BY(http_answers, "200");
    METRIC_INC_BY(http_answers, "200");
    METRIC_INC_BY(http_answers, "a\"b\\c\nd");
    assert_non_null(strstr(written(), "# TYPE sje_http_answers_total counter\n"
                                      "sje_http_answers_total{code=\"200\"} 2\n"
                                      "sje_http_answers_total{code=\"a\\\"b\\\\c\\nd\"} 1\n"));
    METRIC_CLEAR(http_answers);
    assert_null(strstr(written(), "sje_http_answers_total{"));
}

static void test_labels_are_bounded(void **state)
{
    (void)state;
    for (int i = 0; i < METRICS_LABELS + 50; i++) {
        char label[16];

        snprintf(label, sizeof(label), "v%d", i);
        METRIC_INC_BY(http_answers, label);
    }
    assert_true(metric_value(METRIC_http_answers, "other") == 50);
    assert_true(metric_value(METRIC_http_answers, "v0") == 1);
    assert_true(metric_value(METRIC_http_answers, "v240") == 0);
}

static void test_histogram(void **state)
{
    (void)state;
    METRIC_OBSERVE(http_request_seconds, 0.001);
    METRIC_OBSERVE(http_request_seconds, 0.002);
    METRIC_OBSERVE(http_request_seconds, 100);
    assert_non_null(strstr(written(), "sje_http_request_seconds_bucket{le=\"0.001\"} 1\n"
                                      "sje_http_request_seconds_bucket{le=\"0.0025\"} 2\n"));
    assert_non_null(strstr(text, "sje_http_request_seconds_bucket{le=\"60\"} 2\n"
                                 "sje_http_request_seconds_bucket{le=\"+Inf\"} 3\n"
                                 "sje_http_request_seconds_sum 100.003\n"
                                 "sje_http_request_seconds_count 3\n"));
    assert_true(metric_value(METRIC_http_request_seconds, NULL) == 3);
}

/* Runs from the root of the repository. */
static void test_page(void **state)
{
    char page[65536];
    struct buf b CLEANUP(buf_free);
    FILE *f = fopen("docs/metrics.md", "r");

    (void)state;
    assert_non_null(f);
    page[fread(page, 1, sizeof(page) - 1, f)] = '\0';
    fclose(f);
    buf_init(&b, sizeof(page));
    metrics_markdown(&b);
    assert_string_equal(page, b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_plain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_labels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_labels_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_histogram, setup, teardown),
        cmocka_unit_test(test_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
