#include "internal/sdnotify.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* A bound datagram socket; `name` begins with '@' for the abstract name space. */
static int listen_on(const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    memcpy(at.sun_path, name, strlen(name));
    if (name[0] == '@') {
        at.sun_path[0] = '\0';
    }
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    assert_int_equal(bind(fd, (struct sockaddr *)&at, size), 0);
    setenv("NOTIFY_SOCKET", name, 1);
    return fd;
}

static void expect_message(int fd, const char *text)
{
    char got[256] = "";

    assert_true(sdnotify(text));
    assert_int_equal(recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT), strlen(text));
    assert_string_equal(got, text);
}

static void reaches_a_path(void **state)
{
    (void)state;
    char dir[] = "/tmp/sje-test-notify-XXXXXX";
    char path[64];

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    int fd = listen_on(path);
    expect_message(fd, "READY=1");
    expect_message(fd, "RELOADING=1\nMONOTONIC_USEC=1");
    close(fd);
    assert_false(sdnotify("READY=1")); /* nobody listens any more */
    unlink(path);
    assert_false(sdnotify("READY=1"));
    rmdir(dir);
}

static void reaches_an_abstract_name(void **state)
{
    (void)state;
    char name[64];

    snprintf(name, sizeof(name), "@sje-test-notify-%d", (int)getpid());
    int fd = listen_on(name);
    expect_message(fd, "WATCHDOG=1");
    close(fd);
}

/* The service manager does not read: signs of life are dropped, nothing waits for ever. */
static void a_full_queue(void **state)
{
    (void)state;
    char name[64];
    char got[64] = "";
    int sent = 0;

    snprintf(name, sizeof(name), "@sje-test-notify-full-%d", (int)getpid());
    int fd = listen_on(name);
    while (sent < 100000 && sdnotify_alive()) {
        sent++;
    }
    assert_true(sent > 0 && sent < 100000);
    assert_false(sdnotify("STOPPING=1"));
    assert_int_equal(recv(fd, got, sizeof(got), 0), 10);
    assert_string_equal(got, "WATCHDOG=1");
    assert_true(sdnotify("STOPPING=1"));
    close(fd);
}

static void nobody_asked(void **state)
{
    (void)state;
    char lengthy[200];

    unsetenv("NOTIFY_SOCKET");
    assert_false(sdnotify("READY=1"));
    memset(lengthy, 'a', sizeof(lengthy));
    lengthy[0] = '/';
    lengthy[sizeof(lengthy) - 1] = '\0';
    static const char *const wrong[] = {"", "/", "@", "relative/path"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        setenv("NOTIFY_SOCKET", wrong[i], 1);
        assert_false(sdnotify("READY=1"));
    }
    setenv("NOTIFY_SOCKET", lengthy, 1);
    assert_false(sdnotify("READY=1"));
    unsetenv("NOTIFY_SOCKET");
}

static void watchdog(void **state)
{
    (void)state;
    char own[32];

    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    assert_int_equal(sdnotify_watchdog_ms(), 0);
    setenv("WATCHDOG_USEC", "30000000", 1);
    assert_int_equal(sdnotify_watchdog_ms(), 30000);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(sdnotify_watchdog_ms(), 0);
    snprintf(own, sizeof(own), "%d", (int)getpid());
    setenv("WATCHDOG_PID", own, 1);
    assert_int_equal(sdnotify_watchdog_ms(), 30000);
    setenv("WATCHDOG_PID", "x", 1);
    assert_int_equal(sdnotify_watchdog_ms(), 0);
    unsetenv("WATCHDOG_PID");
    setenv("WATCHDOG_USEC", "-5", 1);
    assert_int_equal(sdnotify_watchdog_ms(), 0);
    unsetenv("WATCHDOG_USEC");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reaches_a_path), cmocka_unit_test(reaches_an_abstract_name),
        cmocka_unit_test(a_full_queue),   cmocka_unit_test(nobody_asked),
        cmocka_unit_test(watchdog),
    };

    return cmocka_run_group_tests_name("sdnotify", tests, NULL, NULL);
}
