/* exit.json: what became of the task. */
#include "cmd/sje-shim/shim.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEMPORARY    "exit.json.tmp"
#define SHELL_KILLED (128 + SIGKILL)

void record_reserve(void)
{
    int fd = open(TEMPORARY, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd >= 0) {
        (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, PLAN_RECORD_MAX);
        close(fd);
    }
}

/* Its group knows. Without one: it, or what a shell ran for it, was killed by a signal that nobody
 * here sent, and the kernel killed for memory meanwhile. */
static bool was_oom(const struct shim *s)
{
    int64_t of_group = group_oom_kills(s);
    bool killed = s->main_gone && (WIFSIGNALED(s->status) ? WTERMSIG(s->status) == SIGKILL
                                                          : WEXITSTATUS(s->status) == SHELL_KILLED);

    return of_group >= 0 ? of_group > 0
                         : killed && !s->killed && machine_oom_kills() > s->oom_kills;
}

/* As a JSON string. Bytes that are no UTF-8 (in a file's name) stay; the reader copes. */
static void quote(const char *s, char *to, size_t n)
{
    const char *end = to + n - sizeof("\\u0000\"");

    *to++ = '"';
    for (; *s && to < end; s++) {
        if ((unsigned char)*s < 0x20) {
            to += snprintf(to, 7, "\\u%04x", *s);
        } else {
            if (*s == '"' || *s == '\\') {
                *to++ = '\\';
            }
            *to++ = *s;
        }
    }
    *to++ = '"';
    *to = '\0';
}

static int64_t milliseconds(struct timeval t)
{
    return (int64_t)t.tv_sec * 1000 + t.tv_usec / 1000;
}

static int format(const struct shim *s, char *text, size_t n)
{
    char message[6 * sizeof(s->message) + 16];
    struct rusage used = {0};
    bool by_signal = s->main_gone && WIFSIGNALED(s->status);
    bool exited = s->launched && s->main_gone && WIFEXITED(s->status);

    getrusage(RUSAGE_CHILDREN, &used);
    quote(s->message, message, sizeof(message));
    return snprintf(
        text, n,
        "{\"v\":1,\"launched\":%s,\"exitCode\":%d,\"signal\":%d,\"reason\":\"%s\",\"oom\":%s,"
        "\"startedAtMs\":%lld,\"finishedAtMs\":%lld,\"stdoutBytes\":%lld,\"stderrBytes\":%lld,"
        "\"droppedBytes\":%lld,\"maxRssKb\":%ld,\"cpuMs\":%lld,\"stage\":\"%s\",\"errno\":%d,"
        "\"message\":%s}\n",
        s->launched ? "true" : "false", exited ? WEXITSTATUS(s->status) : -1,
        by_signal ? WTERMSIG(s->status) : 0, s->reason ? s->reason : "exit",
        was_oom(s) ? "true" : "false", (long long)s->started_wall, (long long)wall_ms(),
        (long long)s->out.offset, (long long)s->err.offset,
        (long long)(s->out.dropped + s->err.dropped), used.ru_maxrss,
        (long long)(milliseconds(used.ru_utime) + milliseconds(used.ru_stime)),
        s->stage ? s->stage : "", s->error, message);
}

/* A power failure loses what runs in any case; a record that is cut off counts as none. So the disk
 * is waited for only where a repetition would cost more than that. */
bool record_write(struct shim *s)
{
    char text[PLAN_RECORD_MAX];
    int n = format(s, text, sizeof(text));
    int fd = open(TEMPORARY, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        return false;
    }
    bool ok = write(fd, text, (size_t)n) == n && ftruncate(fd, n) == 0;
    if (ok && s->pid && boot_ms() - s->started >= SYNC_RECORD_MS) {
        (void)fsync(fd);
    }
    close(fd);
    return ok && rename(TEMPORARY, "exit.json") == 0;
}
