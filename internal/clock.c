#include "internal/clock.h"

#include "internal/chaos.h"

#include <stdio.h>
#include <time.h>

static bool is_virtual;
static int64_t virtual_boot;
static int64_t virtual_wall;

static int64_t read_ms(clockid_t id)
{
    struct timespec ts = {0};

    MUST(clock_gettime(id, &ts) == 0);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t clock_boot_ms(void)
{
    return is_virtual ? virtual_boot : read_ms(CLOCK_BOOTTIME);
}

int64_t clock_wall_ms(void)
{
    return is_virtual ? virtual_wall : read_ms(CLOCK_REALTIME) + chaos_wall_ms();
}

/* A peer may have sent any number: what has no four-digit year becomes the nearest that has. */
#define WALL_MIN (-30610224000000LL) /* 1000-01-01T00:00:00.000Z */
#define WALL_MAX 253402300799999LL   /* 9999-12-31T23:59:59.999Z */

void clock_format(int64_t wall_ms, char text[CLOCK_TEXT_LEN])
{
    wall_ms = MIN(MAX(wall_ms, WALL_MIN), WALL_MAX);
    int64_t ms = ((wall_ms % 1000) + 1000) % 1000;
    time_t secs = (time_t)((wall_ms - ms) / 1000);
    struct tm tm = {0};

    MUST(gmtime_r(&secs, &tm));
    char date[64];
    MUST(strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm));
    snprintf(text, CLOCK_TEXT_LEN, "%.19s.%03dZ", date, (int)ms);
}

void clock_virtual_set(int64_t boot_ms, int64_t wall_ms)
{
    is_virtual = true;
    virtual_boot = boot_ms;
    virtual_wall = wall_ms;
}

void clock_virtual_advance(int64_t ms)
{
    assert(is_virtual);
    virtual_boot += ms;
    virtual_wall += ms;
}
