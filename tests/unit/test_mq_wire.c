#include "internal/mq_wire.h"

#include "internal/mq.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/mq_frames.h"

static struct buf bytes;
static struct mq_decoder *decoder;

static int setup(void **state)
{
    (void)state;
    buf_init(&bytes, 64 << 20);
    decoder = mq_decoder_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_free(&bytes);
    mq_decoder_free(decoder);
    return 0;
}

/* Reads the one frame in `bytes` as a method, and checks that no part of it is accepted. */
static struct mq_method method(void)
{
    struct mq_frame f = {0};
    struct mq_method m = {0};

    assert_int_equal(mq_frame_read((struct str){bytes.data, bytes.len}, 131072, &f, NULL),
                     bytes.len);
    assert_int_equal(f.type, MQ_FRAME_METHOD);
    for (size_t n = 0; n < f.payload.len; n++) {
        CLEANUP(freep) char *copy = xmemdup(f.payload.p, n);
        (void)!mq_method_read(decoder, (struct str){copy, n}, &m, NULL);
        if (n < 4) {
            assert_int_equal(mq_method_read(decoder, (struct str){copy, n}, &m, NULL),
                             ERR_PROTOCOL);
        }
    }
    assert_int_equal(mq_method_read(decoder, f.payload, &m, NULL), 0);
    return m;
}

static void reads_what_a_broker_says(void **state)
{
    struct mq_method m = {0};

    (void)state;
    put_start(&bytes, "3.10.8", "AMQPLAIN PLAIN");
    m = method();
    assert_int_equal(m.id, MQ_CONNECTION_START);
    assert_true(str_eq(m.version, STR("3.10.8")));
    assert_true(str_eq(m.mechanism, STR("AMQPLAIN PLAIN")));

    buf_reset(&bytes);
    put_tune(&bytes, 131072, 60);
    m = method();
    assert_int_equal(m.frame_max, 131072);
    assert_int_equal(m.heartbeat, 60);

    buf_reset(&bytes);
    put_closing(&bytes, 1, 404, "NOT_FOUND - no queue", MQ_QUEUE_DECLARE);
    m = method();
    assert_int_equal(m.id, MQ_CHANNEL_CLOSE);
    assert_int_equal(m.code, 404);
    assert_int_equal(m.culprit, MQ_QUEUE_DECLARE);
    assert_true(str_eq(m.text, STR("NOT_FOUND - no queue")));

    buf_reset(&bytes);
    put_deliver(&bytes, "hints", 0x0102030405060708, "sje.work");
    m = method();
    assert_true(str_eq(m.consumer, STR("hints")));
    assert_true(str_eq(m.key, STR("sje.work")));
    assert_true(m.tag == 0x0102030405060708 && m.redelivered);

    buf_reset(&bytes);
    put_confirm(&bytes, MQ_BASIC_NACK, 9, true);
    m = method();
    assert_true(m.id == MQ_BASIC_NACK && m.tag == 9 && m.multiple);

    buf_reset(&bytes);
    put_declare_ok(&bytes, "q", 77);
    m = method();
    assert_int_equal(m.count, 77);

    buf_reset(&bytes);
    put_tagged(&bytes, MQ_BASIC_CANCEL, "c");
    m = method();
    assert_true(str_eq(m.consumer, STR("c")) && m.nowait);

    buf_reset(&bytes);
    put_blocked(&bytes, "low on memory");
    m = method();
    assert_true(str_eq(m.text, STR("low on memory")));
}

static void refuses_what_a_broker_must_not_say(void **state)
{
    static const uint32_t bad[] = {
        MQ_QUEUE_DECLARE,
        MQ_BASIC_CONSUME,
        MQ_CONNECTION_OPEN_OK - 1,
        0x003C0028 /* publish */,
        0x000A0014 /* connection.secure */,
        0x003C0047 /* basic.get-ok */,
        0,
        0xffffffff,
    };
    char args[64] = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct mq_frame f = {0};
        struct mq_method m = {0};
        struct err e = {0};

        buf_reset(&bytes);
        put_raw(&bytes, 1, bad[i], args, sizeof(args));
        assert_true(mq_frame_read((struct str){bytes.data, bytes.len}, 4096, &f, NULL) > 0);
        assert_int_equal(mq_method_read(decoder, f.payload, &m, &e), ERR_PROTOCOL);
        assert_true(e.text[0]);
    }
}

/* The first frame of a connection may hold 8 KiB of tables in tables. */
static void survives_nested_and_lying_tables(void **state)
{
    CLEANUP(buf_free) struct buf a = {.max = 16384};
    struct mq_method m = {0};
    size_t depth = 1300;

    (void)state;
    put_int(&a, MQ_CONNECTION_START, 4);
    put_int(&a, 9, 2);
    for (size_t i = 0; i < depth; i++) {
        put_int(&a, (depth - i - 1) * 6 + 2, 4);
        MUST(buf_add(&a, i + 1 < depth ? "\0F" : "\0V", 2) == 0);
    }
    put_long(&a, "PLAIN", 5);
    put_long(&a, "en_US", 5);
    assert_int_equal(mq_method_read(decoder, (struct str){a.data, a.len}, &m, NULL), 0);
    assert_true(str_eq(m.mechanism, STR("PLAIN")));

    buf_reset(&a);
    put_int(&a, MQ_CONNECTION_START, 4);
    put_int(&a, 9, 2);
    put_int(&a, 0xffffffff, 4);
    assert_int_equal(mq_method_read(decoder, (struct str){a.data, a.len}, &m, NULL), ERR_PROTOCOL);

    buf_reset(&a);
    put_int(&a, MQ_CONNECTION_START, 4);
    put_int(&a, 9, 2);
    put_int(&a, 8, 4);
    MUST(buf_add(&a, "\1vS\xff\xff\xff\xff", 7) == 0);
    assert_int_equal(mq_method_read(decoder, (struct str){a.data, a.len}, &m, NULL), ERR_PROTOCOL);
}

static void refusals_become_codes(void **state)
{
    static const struct {
        uint16_t code;
        int want;
    } rows[] = {{403, ERR_AUTH},     {530, ERR_AUTH},    {404, ERR_NOT_FOUND}, {405, ERR_CONFLICT},
                {406, ERR_CONFLICT}, {320, ERR_MQ_DOWN}, {541, ERR_MQ},        {0, ERR_MQ}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct mq_method m = {.code = rows[i].code, .text = STR("because\n")};
        struct err e = {0};
        char want[64];

        assert_int_equal(mq_refused(&m, "no", &e), rows[i].want);
        snprintf(want, sizeof(want), "no: %u because ", rows[i].code);
        assert_string_equal(e.text, want);
    }
}

static void says_what_it_should(void **state)
{
    (void)state;
    mq_put_ack(&bytes, 258, true);
    assert_int_equal(bytes.len, 21);
    assert_memory_equal(bytes.data, "\1\0\1\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\1\2\1\xce", 21);
    buf_reset(&bytes);
    mq_put_heartbeat(&bytes);
    assert_memory_equal(bytes.data, "\x08\0\0\0\0\0\0\xce", 8);
    buf_reset(&bytes);
    mq_put_start_ok(&bytes, "user", "secret", "worker 1");
    assert_non_null(memmem(bytes.data, bytes.len, "\0user\0secret", 12));
    assert_non_null(memmem(bytes.data, bytes.len, "\5PLAIN", 6));
    assert_non_null(memmem(bytes.data, bytes.len, "connection_nameS\0\0\0\x08worker 1", 28));
    static const char *const capabilities[] = {"publisher_confirms", "consumer_cancel_notify",
                                               "basic.nack", "connection.blocked",
                                               "authentication_failure_close"};
    for (size_t i = 0; i < ARRAY_LEN(capabilities); i++) {
        char want[64];
        int n = snprintf(want, sizeof(want), "%st\1", capabilities[i]);
        assert_non_null(memmem(bytes.data, bytes.len, want, (size_t)n));
    }
    buf_reset(&bytes);
    mq_put_queue_declare(&bytes, "q", MQ_QUORUM);
    assert_non_null(memmem(bytes.data, bytes.len, "\1q\x02", 3)); /* durable alone */
    assert_non_null(memmem(bytes.data, bytes.len, "x-queue-typeS\0\0\0\6quorum", 23));
    buf_reset(&bytes);
    mq_put_queue_declare(&bytes, "q", MQ_EXCLUSIVE);
    assert_non_null(memmem(bytes.data, bytes.len, "\1q\x0c", 3)); /* exclusive and auto-delete */
    buf_reset(&bytes);
    mq_put_queue_declare(&bytes, "q", MQ_PASSIVE);
    assert_null(memmem(bytes.data, bytes.len, "x-queue-type", 12));
}

static void what_does_not_fit_leaves_nothing_behind(void **state)
{
    char name[300];
    struct buf small;

    (void)state;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    mq_put_queue_delete(&bytes, name);
    assert_true(bytes.failed && bytes.len == 0);
    buf_reset(&bytes);
    char secret[1100] = "";
    memset(secret, 's', sizeof(secret) - 1);
    mq_put_start_ok(&bytes, "u", secret, "n");
    assert_true(bytes.failed && bytes.len == 0);

    buf_init(&small, 100);
    mq_put_ack(&small, 1, false);
    assert_true(small.failed && small.len == 0);
    buf_free(&small);
}

/* The frames of a publish, put together again. */
static void check_publish(size_t body_len, size_t frame_max)
{
    CLEANUP(freep) char *body = xmalloc(body_len);
    CLEANUP(buf_free) struct buf joined = {.max = body_len};
    struct mq_header h = {0};
    size_t at = 0;
    int frames = 0;

    for (size_t i = 0; i < body_len; i++) {
        body[i] = (char)(i * 7 + i / 251);
    }
    struct mq_message m = {.exchange = "e",
                           .routing_key = "key",
                           .body = {body, body_len},
                           .message_id = "id",
                           .reply_to = "back",
                           .persistent = true,
                           .mandatory = true};
    buf_reset(&bytes);
    assert_int_equal(mq_put_publish(&bytes, &m, STR("42"), frame_max), 0);
    while (at < bytes.len) {
        struct mq_frame f = {0};
        int n = mq_frame_read((struct str){bytes.data + at, bytes.len - at}, frame_max, &f, NULL);

        assert_true(n > 0);
        at += (size_t)n;
        if (frames == 0) {
            assert_int_equal(f.type, MQ_FRAME_METHOD);
            assert_memory_equal(f.payload.p, "\0\x3c\0\x28\0\0\1e\3key\1", 13);
        } else if (frames == 1) {
            assert_int_equal(f.type, MQ_FRAME_HEADER);
            assert_int_equal(mq_header_read(f.payload, &h, NULL), 0);
        } else {
            assert_int_equal(f.type, MQ_FRAME_BODY);
            assert_int_equal(buf_add(&joined, f.payload.p, f.payload.len), 0);
        }
        frames++;
    }
    assert_int_equal(h.body_size, body_len);
    assert_true(str_eq(h.message_id, STR("id")) && str_eq(h.reply_to, STR("back")));
    assert_true(str_eq(h.correlation_id, STR("42")));
    assert_int_equal(joined.len, body_len);
    if (body_len) {
        assert_memory_equal(joined.data, body, body_len);
    }
    assert_int_equal(frames, 2 + (int)((body_len + frame_max - 9) / (frame_max - 8)));
}

static void cuts_bodies_into_frames(void **state)
{
    (void)state;
    check_publish(0, 4096);
    check_publish(1, 4096);
    check_publish(4088, 4096);
    check_publish(4089, 4096);
    check_publish(3 * 4088, 4096);
    check_publish(1000000, 131072);
}

static void a_publish_goes_out_whole_or_not_at_all(void **state)
{
    struct buf small;
    char body[2000] = "";
    struct mq_message m = {.exchange = "", .routing_key = "k", .body = {body, sizeof(body)}};
    int sent = 0;

    (void)state;
    buf_init(&small, 20000);
    while (mq_put_publish(&small, &m, STR(""), 4096) == 0) {
        sent++;
    }
    size_t len = small.len;
    assert_true(sent > 3 && len % (size_t)sent == 0);
    assert_false(small.failed);
    assert_int_equal(mq_put_publish(&small, &m, STR(""), 4096), ERR_TOO_LARGE);
    assert_int_equal(small.len, len);
    mq_put_ack(&small, 1, false); /* there is still room for small things */
    assert_false(small.failed);
    buf_free(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_what_a_broker_says, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_what_a_broker_must_not_say, setup, teardown),
        cmocka_unit_test_setup_teardown(survives_nested_and_lying_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_become_codes, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_it_should, setup, teardown),
        cmocka_unit_test_setup_teardown(what_does_not_fit_leaves_nothing_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(cuts_bodies_into_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(a_publish_goes_out_whole_or_not_at_all, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
