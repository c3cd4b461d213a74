#include "internal/mq_frame.h"

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/mq_frames.h"

/* Each input lies at the end of a block of its own, so that a sanitizer sees a read behind it. */
static int read_exact(const void *p, size_t len, size_t frame_max, struct mq_frame *ret)
{
    CLEANUP(freep) char *copy = xmemdup(p, len);
    struct err e = {0};
    int n = mq_frame_read((struct str){copy, len}, frame_max, ret, &e);

    assert_int_equal(e.code, n < 0 ? n : 0);
    ret->payload.p = NULL; /* dies with the copy */
    return n;
}

static void reads_a_frame_only_when_it_is_complete(void **state)
{
    const char whole[] = "\x03\0\1\0\0\0\3abc\xce next";
    struct mq_frame f = {0};

    (void)state;
    for (size_t n = 0; n < 11; n++) {
        assert_int_equal(read_exact(whole, n, 4096, &f), 0);
    }
    for (size_t n = 11; n < sizeof(whole); n++) {
        assert_int_equal(read_exact(whole, n, 4096, &f), 11);
        assert_int_equal(f.type, MQ_FRAME_BODY);
        assert_int_equal(f.channel, 1);
        assert_int_equal(f.payload.len, 3);
    }
    assert_int_equal(mq_frame_read((struct str){whole, 11}, 4096, &f, NULL), 11);
    assert_memory_equal(f.payload.p, "abc", 3);
}

static void refuses_what_is_no_frame(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"\0", 1},                     /* type 0 */
        {"HTTP/1.1", 8},               /* another protocol */
        {"\x15\3\1", 3},               /* a TLS alert */
        {"\x04\0\0\0\0\0\0\xce", 8},   /* type 4 */
        {"\1\0\2\0\0\0\0\xce", 8},     /* channel 2 */
        {"\1\xff\xff\0\0\0\0\xce", 8}, /* channel 65535 */
        {"\3\0\1\0\0\0\1ax", 9},       /* no end mark */
        {"\3\0\1\xff\xff\xff\xff", 7}, /* 4 GiB announced */
        {"\3\0\1\0\0\x0f\xf9", 7},     /* one more than the limit */
        {"\x08\0\1\0\0\0\0\xce", 8},   /* heartbeat on a channel */
        {"\x08\0\0\0\0\0\1a\xce", 9},  /* heartbeat with a payload */
    };
    struct mq_frame f = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(read_exact(bad[i].bytes, bad[i].len, 4096, &f), ERR_PROTOCOL);
    }
    assert_int_equal(read_exact("\3\0\1\0\0\x0f\xf8", 7, 4096, &f), 0); /* just within the limit */
}

static void sealed_frames_can_be_read(void **state)
{
    char p[16] = "0123456body";
    struct mq_frame f = {0};

    (void)state;
    mq_frame_seal(p, MQ_FRAME_BODY, 1, 4);
    assert_int_equal(mq_frame_read((struct str){p, sizeof(p)}, 4096, &f, NULL), 12);
    assert_true(str_eq(f.payload, STR("body")));
}

static int header_exact(const void *p, size_t len, struct mq_header *ret)
{
    CLEANUP(freep) char *copy = xmemdup(p, len);

    return mq_header_read((struct str){copy, len}, ret, NULL);
}

static void reads_the_properties_we_use_and_skips_the_others(void **state)
{
    CLEANUP(buf_free) struct buf b = {.max = 4096};
    struct mq_frame f = {0};
    struct mq_header h = {0};

    (void)state;
    put_header(&b, 1234567890123, "17", "answers", "task:1");
    assert_int_equal(mq_frame_read((struct str){b.data, b.len}, 4096, &f, NULL), b.len);
    assert_int_equal(mq_header_read(f.payload, &h, NULL), 0);
    assert_int_equal(h.body_size, 1234567890123);
    assert_true(str_eq(h.correlation_id, STR("17")));
    assert_true(str_eq(h.reply_to, STR("answers")));
    assert_true(str_eq(h.message_id, STR("task:1")));
    for (size_t n = 0; n < f.payload.len; n++) {
        assert_int_equal(header_exact(f.payload.p, n, &h), ERR_PROTOCOL);
    }
    buf_reset(&b);
    put_header(&b, 0, NULL, NULL, NULL);
    assert_int_equal(mq_frame_read((struct str){b.data, b.len}, 4096, &f, NULL), b.len);
    assert_int_equal(mq_header_read(f.payload, &h, NULL), 0);
    assert_int_equal(h.correlation_id.len + h.reply_to.len + h.message_id.len, 0);
}

static void reads_all_fourteen_properties(void **state)
{
    const char p[] = "\0\x3c\0\0\0\0\0\0\0\0\0\7\xff\xfc"
                     "\2aa"
                     "\2bb"
                     "\0\0\0\3\1kV"
                     "\1"
                     "\5"
                     "\1c"
                     "\1r"
                     "\1e"
                     "\1m"
                     "TTTTTTTT"
                     "\1t"
                     "\1u"
                     "\1a"
                     "\1i";
    struct mq_header h = {0};

    (void)state;
    assert_int_equal(mq_header_read((struct str){p, sizeof(p) - 1}, &h, NULL), 0);
    assert_int_equal(h.body_size, 7);
    assert_true(str_eq(h.correlation_id, STR("c")));
    assert_true(str_eq(h.reply_to, STR("r")));
    assert_true(str_eq(h.message_id, STR("m")));
    for (size_t n = 0; n < sizeof(p) - 1; n++) {
        assert_int_equal(header_exact(p, n, &h), ERR_PROTOCOL);
    }
}

static void refuses_malformed_headers(void **state)
{
    struct mq_header h = {0};

    (void)state;
    /* of the connection class; a table of 4 GiB; a string behind the end; properties nobody knows
     */
    assert_int_equal(header_exact("\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0", 14, &h), ERR_PROTOCOL);
    assert_int_equal(header_exact("\0\x3c\0\0\0\0\0\0\0\0\0\0\x20\0\xff\xff\xff\xff", 18, &h),
                     ERR_PROTOCOL);
    assert_int_equal(header_exact("\0\x3c\0\0\0\0\0\0\0\0\0\0\0\x80\xff", 15, &h), ERR_PROTOCOL);
    assert_int_equal(header_exact("\0\x3c\0\0\0\0\0\0\0\0\0\0\0\1\0\0", 16, &h), ERR_PROTOCOL);
    assert_int_equal(header_exact("\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0", 14, &h), 0);
}

static void cleans_text_of_a_peer(void **state)
{
    char text[8];

    (void)state;
    mq_clean_text(text, sizeof(text), STR("a\nb\x1b\xc3\xa4\x7f"));
    assert_string_equal(text, "a b ???");
    mq_clean_text(text, sizeof(text), STR("0123456789"));
    assert_string_equal(text, "0123456");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_frame_only_when_it_is_complete),
        cmocka_unit_test(refuses_what_is_no_frame),
        cmocka_unit_test(sealed_frames_can_be_read),
        cmocka_unit_test(reads_the_properties_we_use_and_skips_the_others),
        cmocka_unit_test(reads_all_fourteen_properties),
        cmocka_unit_test(refuses_malformed_headers),
        cmocka_unit_test(cleans_text_of_a_peer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
