/* What this process sets for itself, and keeps from its children. */
#include "internal/self.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void test_the_pool(void **unused)
{
    (void)unused;
    setenv("UV_THREADPOOL_SIZE", "16", 1); /* by whoever started us */
    self_widen_pool();
    assert_false(self_has_set("UV_THREADPOOL_SIZE=16"));
    unsetenv("UV_THREADPOOL_SIZE");
    self_widen_pool();
    assert_string_equal(getenv("UV_THREADPOOL_SIZE"), "16");
    assert_true(self_has_set("UV_THREADPOOL_SIZE=16"));
    assert_false(self_has_set("UV_THREADPOOL_SIZE=4"));
    assert_false(self_has_set("PATH=/bin"));
}

static rlim_t files_of(pid_t pid)
{
    struct rlimit r = {0};

    assert_int_equal(prlimit(pid, RLIMIT_NOFILE, NULL, &r), 0);
    return r.rlim_cur;
}

static void test_open_files(void **unused)
{
    struct rlimit r = {0};

    (void)unused;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
    r.rlim_cur = 100;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &r), 0);
    assert_true(self_raise_open_files());
    assert_int_equal(files_of(0), r.rlim_max < 65536 ? r.rlim_max : 65536);
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    self_limit_child(pid);
    assert_int_equal(files_of(pid), 100);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    self_limit_child(pid); /* it has gone */
    assert_true(files_of(0) > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_pool),
        cmocka_unit_test(test_open_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
