#include "internal/buf.h"

#include "internal/err.h"

#include <stdio.h>
#include <stdlib.h>

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data) {
        b->data[0] = '\0';
    }
}

char *buf_reserve(struct buf *b, size_t n)
{
    bool fits = !b->failed && n <= b->max - b->len && n < SIZE_MAX - b->len;
    size_t need = b->len + (fits ? n : 0) + 1;

    if (need > b->cap) {
        size_t room = b->max < SIZE_MAX ? b->max + 1 : b->max;

        b->cap = MAX(need, MIN(MAX(b->cap * 2, (size_t)64), room));
        b->data = xrealloc(b->data, b->cap);
        b->data[b->len] = '\0';
    }
    b->failed = !fits;
    return fits ? b->data + b->len : NULL;
}

void buf_commit(struct buf *b, size_t n)
{
    assert(b->len + n < b->cap || (n == 0 && !b->data));
    b->len += n;
    if (b->data) {
        b->data[b->len] = '\0';
    }
}

int buf_add(struct buf *b, const void *p, size_t n)
{
    char *at = buf_reserve(b, n);

    if (!at) {
        return ERR_TOO_LARGE;
    }
    if (n) {
        memcpy(at, p, n);
    }
    buf_commit(b, n);
    return 0;
}

int buf_adds(struct buf *b, const char *s)
{
    return buf_add(b, s, strlen(s));
}

int buf_addc(struct buf *b, char c)
{
    return buf_add(b, &c, 1);
}

int buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    MUST(n >= 0);
    char *at = buf_reserve(b, (size_t)n);
    if (!at) {
        return ERR_TOO_LARGE;
    }
    va_start(ap, fmt);
    vsnprintf(at, (size_t)n + 1, fmt, ap);
    va_end(ap);
    buf_commit(b, (size_t)n);
    return 0;
}

void buf_shift(struct buf *b, size_t n)
{
    assert(n <= b->len);
    if (n) {
        memmove(b->data, b->data + n, b->len - n + 1);
        b->len -= n;
    }
}

char *buf_take(struct buf *b)
{
    char *p = b->data ? b->data : xmalloc(1);

    *b = (struct buf){.max = b->max};
    return p;
}
