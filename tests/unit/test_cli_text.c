/* The client's text: what reaches a terminal is harmless, fits, and reads well. */
#include "cmd/sje/table.c"
#include "cmd/sje/text.c"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void check(struct buf *b, const char *want)
{
    assert_string_equal(b->data ? b->data : "", want);
    buf_reset(b);
}

static void test_clean(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 1024);
    text_clean(&b, STR("a\x1b[31mred\x07\x7f"));
    check(&b, "a^[[31mred^G^?");
    text_clean(&b, STR("one\ntwo\tthree\r"));
    check(&b, "one two three ");
    text_clean(&b, STR("a\0b"));
    check(&b, "a^@b");
    text_clean(&b, STR("caf\xc3\xa9 \xe6\x97\xa5 \xf0\x9f\x98\x80"));
    check(&b, "café 日 😀");
    text_clean(&b, STR("\xff\xc3(\xe6\x97"));
    check(&b, "��(��");
    /* C1 controls in UTF-8, a direction override, a line separator */
    text_clean(&b, STR("\xc2\x9b"
                       "31m\xe2\x80\xae"
                       "x\xe2\x80\xa8"));
    check(&b, "�31m�x�");
    /* overlong form and surrogate */
    text_clean(&b, STR("\xc0\xaf\xed\xa0\x80"));
    check(&b, "�����");
}

static void test_width(void **state)
{
    (void)state;
    assert_int_equal(text_width(STR("abc")), 3);
    assert_int_equal(text_width(STR("caf\xc3\xa9")), 4);
    assert_int_equal(text_width(STR("日本")), 4);
    assert_int_equal(text_width(STR("e\xcc\x81")), 1);
    assert_int_equal(text_width(STR("")), 0);
}

static void test_fit(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 4096);
    unicode_terminal = true;
    text_fit(&b, STR("exactly"), 7);
    check(&b, "exactly");
    text_fit(&b, STR("too long"), 7);
    check(&b, "too lo…");
    text_fit(&b, STR("日本語"), 4);
    check(&b, "日…");
    text_fit(&b, STR("abc"), 0);
    check(&b, "");
    unicode_terminal = false;
    text_fit(&b, STR("too long"), 7);
    check(&b, "too ...");
    text_fit(&b, STR("too long"), 2);
    check(&b, "");
    /* Any number of combining characters ends somewhere. */
    struct buf zalgo CLEANUP(buf_free);
    buf_init(&zalgo, 1 << 20);
    for (int i = 0; i < 10000; i++) {
        buf_adds(&zalgo, "\xcc\x81");
    }
    text_fit(&b, (struct str){zalgo.data, zalgo.len}, 10);
    assert_true(b.len < 1000);
}

/* Whatever way a stream is cut, the same comes out. */
static void scrub_all(const char *in, size_t len, const char *want)
{
    for (size_t step = 1; step <= len; step++) {
        struct buf b CLEANUP(buf_free);
        struct scrub s = {0};

        buf_init(&b, 65536);
        for (size_t at = 0; at < len; at += step) {
            scrub_add(&s, &b, (struct str){in + at, MIN(step, len - at)});
        }
        scrub_end(&s, &b);
        assert_string_equal(b.data ? b.data : "", want);
        assert_int_equal(s.n, 0);
    }
}

static void test_scrub(void **state)
{
    (void)state;
#define SCRUB(in, want) scrub_all(in, sizeof(in) - 1, want)
    SCRUB("plain\ttext\n", "plain\ttext\n");
    SCRUB("\x1b[1;31mred\x1b[0m\n", "red\n");
    SCRUB("\x1b[2Jx\x1b]0;title\x07", "^[[2Jx^[]0;title^G");
    SCRUB("\x1b", "^[");
    SCRUB("\x1b[", "^[[");
    SCRUB("\x1b[31", "^[[31");
    SCRUB("one\r\ntwo\rthree\r", "one\ntwo\nthree\n");
    SCRUB("caf\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80", "café日😀");
    SCRUB("\xe6\x97x\xff\xf0\x9f", "��x���");
    SCRUB("\xc2\x9b", "�");
    SCRUB("\x1b[11111111111111111111111111111111111111111111m",
          "^[[11111111111111111111111111111111111111111111m");
}

static void test_duration(void **state)
{
    static const struct {
        int64_t ms;
        const char *want;
    } rows[] = {
        {-5, "0 ms"},           {0, "0 ms"},
        {999, "999 ms"},        {1000, "1.0 s"},
        {3299, "3.2 s"},        {9999, "9.9 s"},
        {10000, "10 s"},        {59999, "59 s"},
        {60000, "1 min 0 s"},   {125000, "2 min 5 s"},
        {3600000, "1 h 0 min"}, {11520000, "3 h 12 min"},
        {86400000, "1 d 0 h"},  {439200000, "5 d 2 h"},
    };
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 256);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        text_duration(&b, rows[i].ms);
        check(&b, rows[i].want);
    }
}

static void test_size_and_ago(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 256);
    text_size(&b, 0);
    check(&b, "0 B");
    text_size(&b, 1023);
    check(&b, "1023 B");
    text_size(&b, 1536);
    check(&b, "1.5 KiB");
    text_size(&b, 64 << 20);
    check(&b, "64 MiB");
    text_size(&b, INT64_MAX);
    check(&b, "7.9 EiB");
    text_ago(&b, 400);
    check(&b, "now");
    text_ago(&b, 3000);
    check(&b, "3 s ago");
    text_ago(&b, -61000);
    check(&b, "in 1 min");
    text_ago(&b, 47 * 3600 * 1000);
    check(&b, "47 h ago");
    text_ago(&b, (int64_t)49 * 3600 * 1000);
    check(&b, "2 d ago");
}

static void test_time(void **state)
{
    static const char *const wrong[] = {
        "",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-13-02T03:04:05Z",
        "2026-01-02T24:04:05Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05.6x8Z",
        "2026-01-02T03:04:05+01:00",
        "-026-01-02T03:04:05Z",
        "2026-01-02T03:04:05,678Z",
        "2026-01-02T03:04:05.6789012345678901234567890Z",
    };
    int64_t ms = 0;

    (void)state;
    assert_true(text_time("2026-01-02T03:04:05.678Z", &ms));
    assert_int_equal(ms, 1767323045678);
    assert_true(text_time("2026-01-02T03:04:05Z", &ms));
    assert_int_equal(ms, 1767323045000);
    assert_true(text_time("2026-01-02T03:04:05.123456789Z", &ms));
    assert_int_equal(ms, 1767323045123);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_false(text_time(wrong[i], &ms));
    }
    assert_false(text_time(NULL, &ms));
}

static void test_urlencode_and_distance(void **state)
{
    struct buf b CLEANUP(buf_free);

    (void)state;
    buf_init(&b, 256);
    text_urlencode(&b, STR("a b&c=\xc3\xa9/~-._"));
    check(&b, "a%20b%26c%3D%C3%A9%2F~-._");
    assert_int_equal(text_distance("submit", "submit"), 0);
    assert_int_equal(text_distance("sumbit", "submit"), 1);
    assert_int_equal(text_distance("lst", "list"), 1);
    assert_int_equal(text_distance("", "abc"), 3);
    assert_int_equal(text_distance("x", "0123456789012345678901234567890123456789"), 40);
}

/* ---- tables ---- */

static char *print_table(const struct table *t, size_t width, bool color)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    assert_non_null(f);
    table_print(t, f, width, color);
    fclose(f);
    return text;
}

static const struct column columns[] = {
    {"ID", 0}, {"STATE", COLUMN_STATE}, {"JOB", COLUMN_FLEXIBLE}, {"N", COLUMN_RIGHT}, {0}};

static void fill(struct table *t)
{
    table_init(t, columns);
    table_cell(t, STR("a1"));
    table_cell(t, STR("FAILED"));
    table_cell(t, STR("日本 job"));
    table_cell(t, STR("7"));
    table_cell(t, STR("b22"));
    table_cell(t, STR("SUCCEEDED"));
    table_cell(t, STR("evil\n\x1b[2J name that is long"));
    table_cell(t, STR("1234"));
}

static void test_table_full(void **state)
{
    struct table t CLEANUP(table_done);

    (void)state;
    fill(&t);
    char *text CLEANUP(freep) = print_table(&t, 0, false);
    assert_string_equal(text, "ID   STATE      JOB                              N\n"
                              "a1   FAILED     日本 job                         7\n"
                              "b22  SUCCEEDED  evil ^[[2J name that is long  1234\n");
}

static void test_table_narrow(void **state)
{
    struct table t CLEANUP(table_done);

    (void)state;
    unicode_terminal = true;
    fill(&t);
    char *text CLEANUP(freep) = print_table(&t, 36, true);
    assert_string_equal(text, "ID   STATE      JOB                N\n"
                              "a1   \x1b[31mFAILED\x1b[0m     日本 job           7\n"
                              "b22  \x1b[32mSUCCEEDED\x1b[0m  evil ^[[2J na…  1234\n");
    char *tiny CLEANUP(freep) = print_table(&t, 16, false);
    assert_string_equal(tiny, "ID   STATE\na1   FAILED\nb22  SUCCEEDED\n");
}

static int setup(void **state)
{
    (void)state;
    text_setup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clean),      cmocka_unit_test(test_width),
        cmocka_unit_test(test_fit),        cmocka_unit_test(test_scrub),
        cmocka_unit_test(test_duration),   cmocka_unit_test(test_size_and_ago),
        cmocka_unit_test(test_time),       cmocka_unit_test(test_urlencode_and_distance),
        cmocka_unit_test(test_table_full), cmocka_unit_test(test_table_narrow),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
