#include "cmd/sje-shim/shim.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_ms(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t boot_ms(void)
{
    return clock_ms(CLOCK_BOOTTIME);
}

int64_t wall_ms(void)
{
    return clock_ms(CLOCK_REALTIME);
}

bool parse_number(const char *text, int64_t *ret)
{
    int64_t n = 0;

    if (!*text) {
        return false;
    }
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || n > NUMBER_MAX / 10) {
            return false;
        }
        n = n * 10 + (*text - '0');
    }
    *ret = n;
    return true;
}

/* The first thing that went wrong explains the others. */
void note(struct shim *s, const char *fmt, ...)
{
    va_list ap;

    if (!*s->fate->message) {
        va_start(ap, fmt);
        vsnprintf(s->fate->message, sizeof(s->fate->message), fmt, ap);
        va_end(ap);
    }
}

void launch_failed(struct shim *s, const char *stage, const char *what, int error)
{
    s->fate->reason = "launch";
    s->fate->stage = stage;
    s->fate->error = error;
    note(s, "%s: %s", what, strerror(error));
}

ssize_t read_text(const char *path, char *text, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    size_t len = 0;
    ssize_t got = 1;
    while (got > 0 && len < n - 1) { /* /proc gives a page at a time */
        got = read(fd, text + len, n - 1 - len);
        len += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    text[len] = '\0';
    return got < 0 ? -1 : (ssize_t)len;
}

bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

bool alarm_open(struct alarm *a)
{
    *a = (struct alarm){timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK), NEVER};
    return a->fd >= 0;
}

void alarm_set(struct alarm *a, int64_t at)
{
    struct itimerspec t = {0};

    if (at == a->at) {
        return;
    }
    a->at = at;
    if (at != NEVER) {
        t.it_value.tv_sec = at / 1000;
        t.it_value.tv_nsec = at % 1000 * 1000000 + (at <= 0);
    }
    timerfd_settime(a->fd, TFD_TIMER_ABSTIME, &t, NULL);
}

void alarm_take(struct alarm *a)
{
    uint64_t fired = 0;

    if (read(a->fd, &fired, sizeof(fired)) == sizeof(fired)) {
        a->at = NEVER;
    }
}
