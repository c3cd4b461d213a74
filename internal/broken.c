/* The chaos build breaks the rule that SJE_BREAK names, from the start of a program. */
#include "internal/broken.h"

#if defined(SJE_BREAK) && defined(SJE_CHAOS)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum broken_rule sje_broken;

__attribute__((constructor)) static void broken_choose(void)
{
    const char *name = getenv("SJE_BREAK");

    if (!name || !*name) {
        return;
    }
#define X(rule, text)                                                                              \
    if (strcmp(name, #rule) == 0) {                                                                \
        sje_broken = BROKEN_##rule;                                                                \
    }
    BROKEN_RULES(X)
    CHAOS_RULES(X)
#undef X
    if (sje_broken == BROKEN_NONE) {
        fprintf(stderr, "SJE_BREAK=%s: no such rule, see internal/broken.h\n", name);
        abort();
    }
}

#else

typedef int broken_nothing; /* a file must hold something */

#endif
