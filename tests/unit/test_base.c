#include "internal/base.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void memory_is_zeroed(void **state)
{
    (void)state;
    char *p CLEANUP(freep) = xmalloc(64);
    int *q CLEANUP(freep) = xcalloc(8, sizeof(int));

    for (int i = 0; i < 64; i++) {
        assert_int_equal(p[i], 0);
    }
    for (int i = 0; i < 8; i++) {
        assert_int_equal(q[i], 0);
    }
}

static void nothing_is_something(void **state)
{
    (void)state;
    void *a CLEANUP(freep) = xmalloc(0);
    void *b CLEANUP(freep) = xcalloc(0, 8);
    void *c CLEANUP(freep) = xrealloc(NULL, 0);
    void *d CLEANUP(freep) = xmemdup(NULL, 0);

    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_non_null(d);
}

static void strings_are_copied(void **state)
{
    (void)state;
    char *a CLEANUP(freep) = xstrdup("abc");
    char *b CLEANUP(freep) = xstrndup("abcdef", 3);
    char *c CLEANUP(freep) = xstrndup("abc", 1000); /* stops at the end */
    char *d CLEANUP(freep) = xstrndup(NULL, 0);
    char *e CLEANUP(freep) = xasprintf("%d-%s", 7, "x");
    char *f CLEANUP(freep) = xmemdup("a\0b", 4);

    assert_string_equal(a, "abc");
    assert_string_equal(b, "abc");
    assert_string_equal(c, "abc");
    assert_string_equal(d, "");
    assert_string_equal(e, "7-x");
    assert_memory_equal(f, "a\0b", 4);
    assert_null(xstrdup(NULL));
}

static void replacing_copes_with_its_own_text(void **state)
{
    (void)state;
    char *slot CLEANUP(freep) = NULL;

    str_replace_owned(&slot, "one");
    assert_string_equal(slot, "one");
    str_replace_owned(&slot, slot);
    assert_string_equal(slot, "one");
    str_replace_owned(&slot, slot + 1);
    assert_string_equal(slot, "ne");
    str_replace_owned(&slot, NULL);
    assert_null(slot);
}

static void steal_hands_over(void **state)
{
    (void)state;
    char *a = xstrdup("x");
    char *b CLEANUP(freep) = STEAL(a);

    assert_null(a);
    assert_string_equal(b, "x");
}

static void streq_knows_null(void **state)
{
    (void)state;
    assert_true(streq("a", "a"));
    assert_false(streq("a", "b"));
    assert_false(streq(NULL, "a"));
    assert_false(streq("a", NULL));
    assert_false(streq(NULL, NULL));
}

/* What a child that panics says; it must end by SIGABRT. */
static void child_panics(void (*fn)(void), char *text, size_t size)
{
    int pipes[2];
    int status = 0;

    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)signal(SIGABRT, SIG_DFL);
        dup2(pipes[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(pipes[1]);
    size_t len = 0;
    for (ssize_t n; (n = read(pipes[0], text + len, size - 1 - len)) > 0;) {
        len += (size_t)n;
    }
    text[len] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* AddressSanitizer ends a process that asks for too much, unless told to let it fail. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void break_a_must(void)
{
    MUST(1 + 1 == 3);
}

static void ask_for_too_much(void)
{
    void *p = xcalloc(SIZE_MAX / 2, 4);

    free(p);
}

static void panics_say_why(void **state)
{
    (void)state;
    char text[8192];

    child_panics(break_a_must, text, sizeof(text));
    assert_non_null(strstr(text, "panic: tests/unit/test_base.c:"));
    assert_non_null(strstr(text, "1 + 1 == 3"));
    child_panics(ask_for_too_much, text, sizeof(text));
    assert_non_null(strstr(text, "out of memory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed),   cmocka_unit_test(nothing_is_something),
        cmocka_unit_test(strings_are_copied), cmocka_unit_test(replacing_copes_with_its_own_text),
        cmocka_unit_test(steal_hands_over),   cmocka_unit_test(streq_knows_null),
        cmocka_unit_test(panics_say_why),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
