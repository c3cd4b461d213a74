/* base.h: what every file may use. No I/O.
 *
 * Out of memory ends the process: an accepted task is in the database, an unfinished hint is
 * redelivered, a lease expires and the service manager restarts us. Anything whose size a peer
 * chooses therefore goes through `struct buf`, which has a limit.
 */
#ifndef SJE_BASE_H
#define SJE_BASE_H

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define CONTAINER_OF_CONST(ptr, type, member)                                                      \
    ((const type *)(const void *)((const char *)(ptr)-offsetof(type, member)))
#define CLEANUP(fn)       __attribute__((cleanup(fn)))
#define NODISCARD         __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MIN(a, b)         ((a) < (b) ? (a) : (b))
#define MAX(a, b)         ((a) > (b) ? (a) : (b))

/* A state of the program that our own code forbids. Never for what a peer sent. */
#define UNREACHABLE(why) base_panic(__FILE__, __LINE__, why)
/* For calls that cannot fail unless we are wrong. */
#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            base_panic(__FILE__, __LINE__, #cond);                                                 \
        }                                                                                          \
    } while (0)

_Noreturn void base_panic(const char *file, int line, const char *why);

/* Never NULL; memory is zeroed. Freed with free() or CLEANUP(freep). */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);       /* the grown part is not zeroed */
char *xstrdup(const char *s);            /* NULL gives NULL */
char *xstrndup(const char *s, size_t n); /* up to n bytes or the first NUL */
char *xasprintf(const char *fmt, ...) PRINTF(1, 2);
void *xmemdup(const void *p, size_t n);

/* For CLEANUP(freep) on any pointer. */
void freep(void *pp);
/* The same of a descriptor; < 0: none. */
void closep(int *fd);

/* Hands a CLEANUP-ed pointer to a new owner. */
#define STEAL(p)                                                                                   \
    __extension__({                                                                                \
        __typeof__(p) steal_tmp_ = (p);                                                            \
        (p) = NULL;                                                                                \
        steal_tmp_;                                                                                \
    })

/* Replaces an owned string; frees the old one, copies the new one (NULL is allowed). */
void str_replace_owned(char **slot, const char *s);

static inline bool streq(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

#endif
