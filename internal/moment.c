/* Apart from clock.c, so that a simulation may put its own clocks under it. */
#include "internal/broken.h"
#include "internal/clock.h"

struct moment clock_moment(void)
{
    return (struct moment){clock_boot_ms(), clock_wall_ms()};
}

int64_t clock_since(const struct moment *then)
{
    struct moment now = clock_moment();
    int64_t boot = now.boot - then->boot;
    int64_t wall = now.wall - then->wall;

    return wall > boot + CLOCK_JUMP_MS && !BROKEN(WITNESS) ? wall : boot;
}
