/* The log of one stream: pkg/executors/plan.h says how many segments are kept. The name of a
 * segment is the offset of its first byte, so a gap, from a dropped middle or a full disk, shows by
 * itself. */
#include "cmd/sje-shim/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void segment_name(const struct stream *t, int64_t start, char name[64])
{
    snprintf(name, 64, "%s.%020lld", t->name, (long long)start);
}

static void segment_remove(struct stream *t, int i)
{
    char name[64];

    segment_name(t, t->starts[i], name);
    unlink(name);
    t->count--;
    memmove(&t->starts[i], &t->starts[i + 1], (size_t)(t->count - i) * sizeof(t->starts[0]));
}

static void segment_close(struct stream *t)
{
    if (t->file < 0) {
        return;
    }
    close(t->file);
    t->file = -1;
    if (t->starts[t->count - 1] == t->offset) {
        segment_remove(t, t->count - 1);
    }
}

static bool segment_open(struct stream *t)
{
    char name[64];

    if (t->count == PLAN_SEGMENTS) {
        segment_remove(t, 1);
    }
    segment_name(t, t->offset, name);
    unlink(name); /* it is not ours: the task shares the directory */
    t->file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->file < 0) {
        return false;
    }
    t->starts[t->count++] = t->offset;
    return true;
}

/* Bytes that fit into the open segment. */
static int64_t room(const struct stream *t)
{
    return t->file < 0 ? 0 : t->starts[t->count - 1] + t->segment_size - t->offset;
}

/* Keeps the end of what is dropped without a break. */
static void tail_add(struct stream *t, const char *p, size_t n)
{
    size_t more = n < PLAN_TAIL ? n : PLAN_TAIL;
    size_t old = t->offset == t->gap_end ? t->tail_len : 0;
    size_t stays = old + more <= PLAN_TAIL ? old : PLAN_TAIL - more;

    memmove(t->tail, t->tail + old - stays, stays);
    memcpy(t->tail + stays, p + n - more, more);
    t->tail_len = stays + more;
}

static void drop(struct stream *t, const char *p, size_t n, int error)
{
    segment_close(t);
    tail_add(t, p, n);
    t->offset += (int64_t)n;
    t->gap_end = t->offset;
    t->dropped += (int64_t)n;
    t->error = t->error ? t->error : error;
    t->retry_at = t->retry_at > boot_ms() ? t->retry_at : boot_ms() + LOG_RETRY_MS;
}

static void put(struct stream *t, const char *p, size_t n)
{
    while (n) {
        if (!room(t)) {
            segment_close(t);
            if (t->retry_at > boot_ms() || !segment_open(t)) {
                drop(t, p, n, errno);
                return;
            }
        }
        size_t part = (int64_t)n < room(t) ? n : (size_t)room(t);
        ssize_t done = write(t->file, p, part);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            drop(t, p, n, done < 0 ? errno : EIO);
            return;
        }
        t->offset += done;
        p += done;
        n -= (size_t)done;
    }
}

void stream_init(struct stream *t, const char *name, int64_t log_limit)
{
    int64_t size = log_limit / PLAN_SEGMENTS;

    *t = (struct stream){.name = name, .pipe = -1, .file = -1, .reserve = -1};
    t->segment_size = size > PLAN_SEGMENT ? size : PLAN_SEGMENT;
}

void stream_open(struct stream *t, int pipe)
{
    t->pipe = pipe;
    fcntl(pipe, F_SETFL, O_NONBLOCK);
}

void stream_copy(struct stream *t, size_t max)
{
    static char data[64 * 1024];

    for (size_t total = 0; t->pipe >= 0 && total < max;) {
        ssize_t n = read(t->pipe, data, sizeof(data));
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            close(t->pipe);
            t->pipe = -1;
            return;
        }
        put(t, data, (size_t)n);
        total += (size_t)n;
    }
}

static void reserve_name(const struct stream *t, char name[64])
{
    snprintf(name, 64, "%s.tail", t->name);
}

void stream_reserve(struct stream *t)
{
    char name[64];

    if (t->reserve >= 0) {
        return;
    }
    reserve_name(t, name);
    unlink(name);
    t->reserve = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->reserve >= 0) {
        (void)fallocate(t->reserve, FALLOC_FL_KEEP_SIZE, 0, PLAN_TAIL);
    }
}

/* The tail becomes a segment of the log. A run that was too short for a reserve tries without. */
static void tail_save(struct stream *t, bool sync)
{
    char from[64];
    char to[64];

    if (t->tail_len) {
        stream_reserve(t);
    }
    if (t->reserve < 0) {
        return;
    }
    reserve_name(t, from);
    segment_name(t, t->gap_end - (int64_t)t->tail_len, to);
    if (t->tail_len && write(t->reserve, t->tail, t->tail_len) == (ssize_t)t->tail_len &&
        (!sync || fdatasync(t->reserve) == 0) && rename(from, to) == 0) {
        t->dropped -= (int64_t)t->tail_len;
    } else {
        unlink(from);
    }
    close(t->reserve);
    t->reserve = -1;
}

/* What the task wrote is in the pipe; more can only come from somebody it handed the pipe to. */
void stream_finish(struct stream *t, bool sync)
{
    if (t->pipe >= 0) {
        int size = fcntl(t->pipe, F_GETPIPE_SZ);
        stream_copy(t, size > 0 ? (size_t)size : 1);
    }
    if (t->pipe >= 0) {
        close(t->pipe);
        t->pipe = -1;
    }
    if (sync && t->file >= 0) {
        (void)fdatasync(t->file); /* its end is the task's output where there is no other */
    }
    segment_close(t);
    tail_save(t, sync);
}
