#include "internal/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void base_panic(const char *file, int line, const char *why)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "panic: %s:%d: %s\n", file, line, why);

    if (n > 0) {
        ssize_t ignored = write(STDERR_FILENO, text, MIN((size_t)n, sizeof(text) - 1));
        (void)ignored;
    }
    abort();
}

void *xmalloc(size_t n)
{
    return xcalloc(1, n);
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);

    if (!p) {
        base_panic(__FILE__, __LINE__, "out of memory");
    }
    return p;
}

void *xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);

    if (!q) {
        base_panic(__FILE__, __LINE__, "out of memory");
    }
    return q;
}

char *xstrdup(const char *s)
{
    return s ? xstrndup(s, strlen(s)) : NULL;
}

char *xstrndup(const char *s, size_t n)
{
    size_t len = n ? strnlen(s, n) : 0;
    char *p = xmalloc(len + 1);

    if (len) {
        memcpy(p, s, len);
    }
    return p;
}

void *xmemdup(const void *p, size_t n)
{
    void *q = xmalloc(n);

    if (n) {
        memcpy(q, p, n);
    }
    return q;
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *p = NULL;

    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    if (n < 0) {
        base_panic(__FILE__, __LINE__, "out of memory");
    }
    return p;
}

void freep(void *pp)
{
    void *p = NULL;

    memcpy(&p, pp, sizeof(p));
    free(p);
}

void closep(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}

void str_replace_owned(char **slot, const char *s)
{
    char *copy = xstrdup(s);

    free(*slot);
    *slot = copy;
}
