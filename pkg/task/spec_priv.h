/* spec_priv.h: the checks of a specification, which is parsed in spec.c. */
#ifndef SJE_TASK_SPEC_PRIV_H
#define SJE_TASK_SPEC_PRIV_H

#include "pkg/task/task.h"

#define SPEC_ARG_MAX                                                                               \
    131071 /* an argument or a variable of execve(): MAX_ARG_STRLEN without its NUL */
#define SPEC_ARG_TOO_LONG "is longer than 131071 bytes, the most that an argument can have"

struct check {
    const char *prefix;
    bool accepted;
    struct task_problems *problems;
    bool failed;
};

void spec_problem(struct check *c, const char *field, const char *fmt, ...) PRINTF(3, 4);

/* spec_spark.c: what spark-submit can carry, and what it needs. */
void spec_check_spark(struct check *c, const struct task_spec *s);

#endif
