/* bench.h: what the programs of the benchmark share: the end, the clock, percentiles. Each measures
 * one thing and prints one line of JSON; the broker and the database come from SJE_RABBITMQ_* and
 * SJE_DB_*. */
#ifndef SJE_BENCH_H
#define SJE_BENCH_H

#include "internal/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define die(...)                                                                                   \
    do {                                                                                           \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        exit(1);                                                                                   \
    } while (0)

static inline double now_s(clockid_t clock)
{
    struct timespec t;

    MUST(clock_gettime(clock, &t) == 0);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline long number(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (*end || end == text || n < 0) {
        die("not a number: %s", text);
    }
    return n;
}

static inline const char *setting(const char *name)
{
    const char *value = getenv(name);

    if (!value) {
        die("%s is not set", name);
    }
    return value;
}

static inline int by_size(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Prints ,"NAME":{"p50":…,"p99":…,"max":…} in milliseconds; sorts the seconds. */
static inline void print_times(const char *name, double *seconds, size_t n)
{
    qsort(seconds, n, sizeof(*seconds), by_size);
    printf(",\"%s\":{\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, n ? seconds[n / 2] * 1e3 : -1,
           n ? seconds[n * 99 / 100] * 1e3 : -1, n ? seconds[n - 1] * 1e3 : -1);
}

#endif
