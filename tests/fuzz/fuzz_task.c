/* Any JSON as a task: parsed, or refused with problems that can be shown to the client. What is
 * parsed gives a row, and parses again from its canonical form. */
#include "internal/str.h"
#include "pkg/task/task.h"
#include "tests/fuzz/fuzz.h"

static const char *const names[] = {JOB_SPARK, JOB_COMMAND, JOB_NOOP, "Other", NULL};
static const struct task_types types = {names};

static void check_problems(const struct task_problems *p)
{
    MUST(p->count > 0 && p->count <= TASK_PROBLEMS_MAX);
    for (int i = 0; i < p->count; i++) {
        MUST(*p->list[i].message);
        MUST(str_is_utf8(p->list[i].field, strlen(p->list[i].field)));
        MUST(str_is_utf8(p->list[i].message, strlen(p->list[i].message)));
    }
}

static void check_spec(const struct task_spec *s)
{
    struct task t = {0};
    struct task_problems problems = {0};
    json_auto_t *j = NULL;

    MUST(s->priority >= 0 && s->priority <= 9 && s->slots >= 1 && s->max_attempts >= 1);
    task_from_spec(&t, s, 1800000000000);
    MUST(json_read(t.spec, strlen(t.spec), &j, NULL) == 0);
    struct task_spec *again = task_spec_parse(j, &types, "", &problems);
    MUST(again);
    task_spec_free(again);
    task_done(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct task_problems problems = {0};
    json_auto_t *j = NULL;

    if (json_read((const char *)data, size, &j, NULL) < 0) {
        return 0;
    }
    struct task_spec *s CLEANUP(task_spec_freep) =
        task_spec_parse(j, &types, "tasks[7].", &problems);
    if (s) {
        MUST(problems.count == 0);
        check_spec(s);
    } else {
        check_problems(&problems);
    }
    return 0;
}
