/* clock.h: the only source of time. Tests replace it by a virtual clock.
 *
 * Deadlines and leases use clock_boot_ms(): CLOCK_BOOTTIME runs on while the machine sleeps and
 * never jumps. Wall time is for people and for the database only.
 */
#ifndef SJE_CLOCK_H
#define SJE_CLOCK_H

#include "internal/base.h"

#define CLOCK_TEXT_LEN 25 /* "2026-01-02T03:04:05.678Z" and NUL */

int64_t clock_boot_ms(void);
int64_t clock_wall_ms(void); /* Unix time */

/* A point in time by two clocks. A machine whose hypervisor stops it counts nothing meanwhile, by
 * CLOCK_BOOTTIME either; once its wall clock is put right that tells. So what ends by time ends by
 * whichever clock says that more of it is over. */
struct moment {
    int64_t boot;
    int64_t wall;
};
struct moment clock_moment(void);
int64_t clock_since(const struct moment *then); /* never less than by clock_boot_ms() */
/* What the wall clock has gained since *at, which becomes now; 0 for less than a jump. */
int64_t clock_gained(struct moment *at);
#define CLOCK_JUMP_MS                                                                              \
    1000 /* of the wall clock; what is less may be a clock that is being adjusted */

/* RFC 3339, UTC, milliseconds. What lies outside the years 1000 to 9999 becomes the nearest inside.
 */
void clock_format(int64_t wall_ms, char text[CLOCK_TEXT_LEN]);

/* From here on time stands still until clock_virtual_advance(). Tests and simulation only. */
void clock_virtual_set(int64_t boot_ms, int64_t wall_ms);
void clock_virtual_advance(int64_t ms);

#endif
