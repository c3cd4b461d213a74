/* Apart from clock.c, so that a simulation may put its own clocks under it. */
#include "internal/broken.h"
#include "internal/clock.h"

struct moment clock_moment(void)
{
    struct moment now;

    do { /* not with a process that was stopped in between */
        now = (struct moment){clock_boot_ms(), clock_wall_ms()};
    } while (clock_boot_ms() > now.boot + CLOCK_JUMP_MS / 10);
    return now;
}

static int64_t gained(const struct moment *then, const struct moment *now)
{
    int64_t ms = now->wall - then->wall - (now->boot - then->boot);

    return ms > CLOCK_JUMP_MS && !BROKEN(WITNESS) ? ms : 0;
}

int64_t clock_gained(struct moment *at)
{
    struct moment then = *at;

    *at = clock_moment();
    return gained(&then, at);
}

int64_t clock_since(const struct moment *then)
{
    struct moment now = clock_moment();

    return now.boot - then->boot + gained(then, &now);
}
