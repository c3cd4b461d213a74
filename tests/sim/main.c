/* Runs schedules: SIM_SCHEDULES of them from SEED on (schedule i has the seed SEED + i), in
 * SIM_JOBS processes. SIM_TRACE=1 prints everything that happens. With a build that can break
 * rules: SIM_BREAK=<rule>. The exit status is 1 on a violation. */
#include "internal/broken.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BATCH 250 /* schedules of one process: none of them frees its memory */

#ifdef SJE_BREAK
enum broken_rule sje_broken;

static void choose_rule(void)
{
    const char *name = getenv("SIM_BREAK");

#define X(rule, text)                                                                              \
    if (streq(name, #rule)) {                                                                      \
        sje_broken = BROKEN_##rule;                                                                \
    }
    BROKEN_RULES(X)
#undef X
    if (name && *name && sje_broken == BROKEN_NONE) {
        fprintf(stderr, "no rule %s\n", name);
        exit(2);
    }
}
#else
static void choose_rule(void)
{
}
#endif

static uint64_t number(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);

    return text && *text ? strtoull(text, NULL, 0) : fallback;
}

static void report(void)
{
    printf("VIOLATION seed %llu: %s\n", (unsigned long long)world->seed, world->why);
    trace_dump();
    printf("again with: make sim SEED=%llu SIM_SCHEDULES=1 SIM_TRACE=1\n",
           (unsigned long long)world->seed);
    fflush(stdout);
}

_Noreturn void __wrap_base_panic(const char *file, int line, const char *why);
_Noreturn void __wrap_base_panic(const char *file, int line, const char *why)
{
    violation("%s:%d: %s", file, line, why);
    report();
    _exit(1);
}

/* Schedules leak by design. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* The hash of all that happened. */
static uint64_t run(uint64_t seed)
{
    world = xcalloc(1, sizeof(*world));
    world->seed = seed;
    world->rng = seed * 0x9e3779b97f4a7c15u + 1;
    world->last_bad_broker = -1000000;
    sim_run();
    if (world->violated) {
        report();
    }
    uint64_t hash = world->violated ? 0 : world->hash | 1;
    free(world);
    return hash;
}

static int run_batch(uint64_t seed, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t hash = run(seed + i);

        if (!hash) {
            return 1;
        }
        if (i == 0 && run(seed) != hash) {
            printf("seed %llu does not replay\n", (unsigned long long)seed);
            return 1;
        }
    }
    return 0;
}

/* Batches in `jobs` processes; stops at the first violation. */
static int run_all(uint64_t seed, uint64_t n, uint64_t jobs, uint64_t *ret_ran)
{
    uint64_t next = 0;
    uint64_t open = 0;
    int status = 0;

    while (open || (next < n && !status)) {
        if (next < n && open < jobs && !status) {
            uint64_t k = MIN(n - next, (uint64_t)BATCH);

            fflush(stdout);
            if (fork() == 0) {
                int rc = run_batch(seed + next, k);

                fflush(stdout);
                _exit(rc);
            }
            next += k;
            open++;
            continue;
        }
        int one = 0;
        MUST(wait(&one) > 0);
        open--;
        status = one ? 1 : status;
    }
    *ret_ran = next;
    return status;
}

int main(void)
{
    uint64_t n = number("SIM_SCHEDULES", 10000);
    uint64_t seed = number("SEED", (uint64_t)time(NULL));
    uint64_t jobs = number("SIM_JOBS", 2);
    struct timespec a;
    struct timespec b;
    uint64_t ran = 0;
    int status;

    choose_rule();
    json_object_seed(1);
    sim_trace_on = number("SIM_TRACE", 0) != 0;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (sim_trace_on) {
        status = !run(seed);
        ran = 1;
    } else {
        status = run_all(seed, n, jobs, &ran);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    if (!status) {
        printf("[  PASSED  ] 1 test(s).\n"); /* as tools/test.sh counts */
    }
    printf("%llu schedules from seed %llu: %s, %.1f s\n", (unsigned long long)ran,
           (unsigned long long)seed, status ? "VIOLATED" : "every rule held",
           (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
    return status;
}
