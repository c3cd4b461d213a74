#include "internal/clock.h"
#include "internal/id.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static int64_t ms_of(const struct id *id)
{
    int64_t ms = 0;

    for (int i = 0; i < 6; i++) {
        ms = ms << 8 | id->b[i];
    }
    return ms;
}

static void is_a_uuid_of_version_7(void **state)
{
    (void)state;
    int64_t before = clock_wall_ms();

    for (int i = 0; i < 300; i++) { /* more than one block of random bits */
        struct id id = id_new();

        assert_int_equal(id.b[6] >> 4, 7);
        assert_int_equal(id.b[8] >> 6, 2);
        assert_true(ms_of(&id) >= before);
        assert_true(ms_of(&id) <= clock_wall_ms() + 1);
    }
}

static void text_and_back(void **state)
{
    (void)state;
    char text[ID_TEXT_LEN];

    for (int i = 0; i < 100; i++) {
        struct id id;
        struct id back;

        random_bytes(&id, sizeof(id));
        id_format(&id, text);
        assert_int_equal(strlen(text), 36);
        assert_true(id_parse(text, 36, &back));
        assert_true(id_eq(&id, &back));
        for (char *p = text; *p; p++) {
            *p = (char)toupper((unsigned char)*p);
        }
        assert_true(id_parse(text, 36, &back));
        assert_true(id_eq(&id, &back));
        back.b[15] ^= 1;
        assert_false(id_eq(&id, &back));
    }
    struct id known;
    assert_true(id_parse("00112233-4455-6677-8899-aabbccddeeff", 36, &known));
    assert_int_equal(known.b[0], 0x00);
    assert_int_equal(known.b[15], 0xff);
    id_format(&known, text);
    assert_string_equal(text, "00112233-4455-6677-8899-aabbccddeeff");
}

static void refuses_other_texts(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "00112233445566778899aabbccddeeff",
        "{00112233-4455-6677-8899-aabbccddeeff}",
        "00112233-4455-6677-8899-aabbccddeef",
        "00112233-4455-6677-8899-aabbccddeefg",
        "00112233-4455-6677-8899-aabbccddee f",
        "001122334-455-6677-8899-aabbccddeeff",
        "00112233_4455_6677_8899_aabbccddeeff",
        "0011223g-4455-6677-8899-aabbccddeeff",
        "0@112233-4455-6677-8899-aabbccddeeff",
        "00112233-4455-6677-8899-aabbccddee\xb0\xb0",
        "00112233-4455-6677-8899-aabbccddeeff0",
    };
    struct id id = {{1}};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(id_parse(bad[i], strlen(bad[i]), &id));
    }
    assert_false(id_parse("00112233-4455-6677-8899-aabbccddee\0f", 36, &id));
    assert_int_equal(id.b[0], 1); /* left alone */
}

static void grows_strictly(void **state)
{
    (void)state;
    struct id last = {{0}};

    clock_virtual_set(0, 1800000000000);
    for (int i = 0; i < 20000; i++) { /* several times the counter of one millisecond */
        struct id id = id_new();

        assert_true(memcmp(last.b, id.b, ID_LEN) < 0);
        last = id;
    }
    assert_true(ms_of(&last) >= 1800000000000 + 4);
    clock_virtual_set(0, 1700000000000); /* a clock that was set back */
    for (int i = 0; i < 100; i++) {
        struct id id = id_new();

        assert_true(memcmp(last.b, id.b, ID_LEN) < 0);
        last = id;
    }
}

static void random_numbers_differ(void **state)
{
    (void)state;
    uint8_t big[1000] = {0};
    int zeros = 0;

    assert_true(random_u64() != random_u64());
    random_bytes(big, sizeof(big));
    for (size_t i = 0; i < sizeof(big); i++) {
        zeros += big[i] == 0;
    }
    assert_true(zeros < 100);
    random_bytes(big, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_a_uuid_of_version_7), cmocka_unit_test(text_and_back),
        cmocka_unit_test(refuses_other_texts),    cmocka_unit_test(random_numbers_differ),
        cmocka_unit_test(grows_strictly), /* last: uses the virtual clock */
    };

    return cmocka_run_group_tests_name("id", tests, NULL, NULL);
}
