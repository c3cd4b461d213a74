#include "internal/sdnotify.h"

#include "internal/str.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static bool tell(const char *state, int flags)
{
    struct timeval patience = {.tv_sec = 1};
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;

    if (n < 2 || n >= sizeof(to.sun_path) || (path[0] != '/' && path[0] != '@')) {
        return false;
    }
    memcpy(to.sun_path, path, n);
    if (path[0] == '@') {
        to.sun_path[0] = '\0'; /* the abstract name space */
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    ssize_t sent =
        sendto(fd, state, strlen(state), MSG_NOSIGNAL | flags, (struct sockaddr *)&to, size);
    close(fd);
    return sent >= 0;
}

bool sdnotify(const char *state)
{
    return tell(state, 0);
}

bool sdnotify_alive(void)
{
    return tell("WATCHDOG=1", MSG_DONTWAIT);
}

int64_t sdnotify_watchdog_ms(void)
{
    const char *usec = getenv("WATCHDOG_USEC");
    const char *pid = getenv("WATCHDOG_PID");
    int64_t n = 0;

    if (!usec || !str_to_i64(str_of(usec), 1000, INT64_MAX, &n)) {
        return 0;
    }
    int64_t whose = getpid();
    if (pid && (!str_to_i64(str_of(pid), 1, INT32_MAX, &whose) || whose != getpid())) {
        return 0;
    }
    return n / 1000;
}
