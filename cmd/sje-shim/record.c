/* exit.json: what became of the task; and what is left where nobody can say it any more. */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RECORD    "exit.json"
#define TEMPORARY "exit.json.tmp"
#define BOOT_ID   "/proc/sys/kernel/random/boot_id"

/* What the task has put in its place may hang whoever opens it, or be another file. */
static int open_new(void)
{
    unlink(TEMPORARY);
    return open(TEMPORARY, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

/* That with the room, if it is still there. */
static int open_temporary(void)
{
    struct stat st;
    int fd = open(TEMPORARY, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    return open_new();
}

void record_reserve(void)
{
    int fd = open_new();

    if (fd >= 0) {
        (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, PLAN_RECORD_MAX);
        close(fd);
    }
}

void record_started(const struct shim *s)
{
    char boot[64];
    char text[128];

    if (s->fate->pid && read_text(BOOT_ID, boot, sizeof(boot)) > 0) {
        boot[strcspn(boot, "\n")] = '\0';
        int64_t forks = machine_forks();
        snprintf(text, sizeof(text), "%s %lld %d %d %lld", boot, (long long)boot_ms(),
                 (int)s->keeper, (int)s->fate->pid, (long long)(forks > 0 ? forks : 0));
        (void)!symlink(text, PLAN_STARTED);
    }
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

static int format(const struct shim *s, char *text, size_t n)
{
    const struct fate *f = s->fate;
    char message[6 * sizeof(f->message) + 16];
    bool by_signal = f->main_gone && WIFSIGNALED(f->status);
    bool exited = f->launched && f->main_gone && WIFEXITED(f->status);

    quote(f->message, message, sizeof(message));
    return snprintf(
        text, n,
        "{\"v\":1,\"launched\":%s,\"exitCode\":%d,\"signal\":%d,\"reason\":\"%s\",\"oom\":%s,"
        "\"startedAtMs\":%lld,\"finishedAtMs\":%lld,\"stdoutBytes\":%lld,\"stderrBytes\":%lld,"
        "\"droppedBytes\":%lld,\"stdoutDropped\":%lld,\"stderrDropped\":%lld,\"logErrno\":%d,"
        "\"maxRssKb\":%lld,\"cpuMs\":%lld,"
        "\"stage\":\"%s\",\"errno\":%d,\"message\":%s}\n",
        f->launched ? "true" : "false", exited ? WEXITSTATUS(f->status) : -1,
        by_signal ? WTERMSIG(f->status) : 0, f->reason ? f->reason : "exit",
        f->oom ? "true" : "false", (long long)f->started_wall, (long long)f->finished_wall,
        (long long)s->out.offset, (long long)s->err.offset,
        (long long)(s->out.dropped + s->err.dropped), (long long)s->out.dropped,
        (long long)s->err.dropped, s->out.error ? s->out.error : s->err.error,
        (long long)f->max_rss_kb, (long long)f->cpu_ms, f->stage ? f->stage : "", f->error,
        message);
}

static bool sync_path(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int error = errno;

    if (fd >= 0) {
        close(fd);
    }
    errno = error;
    return ok;
}

/* After a failed fsync the kernel counts what it could not write as written: so all of it is
 * written anew each time. */
static bool put(const struct shim *s, bool sync)
{
    char text[PLAN_RECORD_MAX];
    int n = format(s, text, sizeof(text));
    int fd = open_temporary();

    if (fd < 0) {
        return false;
    }
    bool ok = write(fd, text, (size_t)n) == n && ftruncate(fd, n) == 0 && (!sync || fsync(fd) == 0);
    int error = errno;
    close(fd);
    errno = error;
    return ok;
}

bool record_is_dear(const struct shim *s)
{
    return s->fate->pid && boot_ms() - s->fate->started >= SYNC_RECORD_MS;
}

/* Of what is no file, or not ours to open, nothing will be read. */
static bool sync_output(const struct plan *p)
{
    bool ok = false;

    if (!p->user) {
        return sync_path("output", 0) || errno == ENOENT || errno == ELOOP;
    }
    user_begin(p);
    ok = sync_path("out/output", 0) && sync_path("out", O_DIRECTORY);
    int error = errno;
    user_end(p);
    return ok || (error != EIO && error != ENOSPC && error != EDQUOT);
}

/* What the worker needs after a power failure to report what has ended: the grant, which it does
 * not sync itself, the output, and these names in their directories. */
static bool sync_rest(const struct plan *p)
{
    bool ok = sync_path("grant.json", 0) || errno == ENOENT;

    ok = sync_output(p) && ok;
    return sync_path(".", O_DIRECTORY) && sync_path("..", O_DIRECTORY) && ok;
}

/* A run that a power failure cuts off is lost in any case; so would be one that has just ended
 * unless its record is waited for, which is worth it only where a repetition costs more. A disk
 * that takes the record but will not promise to keep it does not cost the result: it is noted. */
bool record_write(struct shim *s)
{
    bool dear = record_is_dear(s);
    bool synced = false;

    for (int i = 0; dear && i < SYNC_TRIES && !synced; i++) {
        synced = put(s, true);
    }
    if (dear && !synced) {
        note(s, "its record may not survive a power failure: %s", strerror(errno));
    }
    if ((!synced && !put(s, false)) || rename(TEMPORARY, RECORD) != 0) {
        return false;
    }
    if (synced && !sync_rest(&s->plan)) {
        note(s, "its record may not survive a power failure: %s", strerror(errno));
        return put(s, false) && rename(TEMPORARY, RECORD) == 0;
    }
    return true;
}
