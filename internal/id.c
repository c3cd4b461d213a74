#include "internal/id.h"

#include "internal/clock.h"

#include <errno.h>
#include <sys/random.h>

void random_bytes(void *p, size_t n)
{
    uint8_t *at = p;

    while (n) {
        ssize_t part = getrandom(at, n, 0);

        MUST(part > 0 || errno == EINTR);
        at += part > 0 ? part : 0;
        n -= part > 0 ? (size_t)part : 0;
    }
}

/* Drawn in blocks: one system call for 64. */
uint64_t random_u64(void)
{
    static _Thread_local uint64_t pool[64];
    static _Thread_local size_t left;

    if (left == 0) {
        random_bytes(pool, sizeof(pool));
        left = ARRAY_LEN(pool);
    }
    return pool[--left];
}

struct id id_new(void)
{
    static uint64_t last; /* milliseconds << 12 | counter, RFC 9562 method 1 */
    uint64_t now = (uint64_t)clock_wall_ms() << 12;
    struct id id;

    last = now > last ? now : last + 1;
    uint64_t ms = last >> 12;
    uint64_t seq = last & 0xfff;
    uint64_t rest = random_u64();
    for (int i = 0; i < 6; i++) {
        id.b[i] = (uint8_t)(ms >> (40 - 8 * i));
    }
    id.b[6] = (uint8_t)(0x70 | (seq >> 8));
    id.b[7] = (uint8_t)seq;
    memcpy(&id.b[8], &rest, 8);
    id.b[8] = (uint8_t)(0x80 | (id.b[8] & 0x3f));
    return id;
}

void id_format(const struct id *id, char text[ID_TEXT_LEN])
{
    static const char hex[] = "0123456789abcdef";
    char *at = text;

    for (int i = 0; i < ID_LEN; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *at++ = '-';
        }
        *at++ = hex[id->b[i] >> 4];
        *at++ = hex[id->b[i] & 15];
    }
    *at = '\0';
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool id_parse(const char *text, size_t len, struct id *ret)
{
    struct id id;
    size_t at = 0;

    if (len != ID_TEXT_LEN - 1) {
        return false;
    }
    for (int i = 0; i < ID_LEN; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            if (text[at++] != '-') {
                return false;
            }
        }
        int hi = nibble(text[at]);
        int lo = nibble(text[at + 1]);
        if (hi < 0 || lo < 0) {
            return false;
        }
        id.b[i] = (uint8_t)(hi << 4 | lo);
        at += 2;
    }
    *ret = id;
    return true;
}

bool id_eq(const struct id *a, const struct id *b)
{
    return memcmp(a->b, b->b, ID_LEN) == 0;
}
