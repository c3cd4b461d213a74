/* Reading the log: segments named <stream>.<offset, 20 digits>, see docs/protocol.md. */
#include "internal/str.h"
#include "pkg/executors/plan.h"
#include "pkg/executors/shimdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIGITS       20
#define SEGMENTS_MAX 64 /* more are not ours */
#define TRIES        3  /* the shim may drop a segment while we look */

struct segment {
    int64_t start;
    int64_t end;
    char name[32];
};

struct segments {
    struct segment list[SEGMENTS_MAX];
    size_t count;
};

static bool parse_segment(int dir, const char *name, const char *stream, struct segment *ret)
{
    size_t n = strlen(stream);
    struct stat st = {0};

    if (strncmp(name, stream, n) != 0 || name[n] != '.' || strlen(name) != n + 1 + DIGITS ||
        name[n + 1] == '-' || !str_to_i64(str_of(name + n + 1), 0, INT64_MAX, &ret->start) ||
        fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) ||
        __builtin_add_overflow(ret->start, st.st_size, &ret->end)) {
        return false;
    }
    memcpy(ret->name, name, n + 2 + DIGITS);
    return true;
}

static int by_start(const void *a, const void *b)
{
    const struct segment *p = a;
    const struct segment *q = b;

    return (p->start > q->start) - (p->start < q->start);
}

/* In order; nothing where the directory is not there. */
static void find_segments(const char *path, const char *stream, struct segments *ret)
{
    DIR *d = opendir(path);

    ret->count = 0;
    if (!d) {
        return;
    }
    for (struct dirent *e = readdir(d); e && ret->count < SEGMENTS_MAX; e = readdir(d)) {
        if (parse_segment(dirfd(d), e->d_name, stream, &ret->list[ret->count])) {
            ret->count++;
        }
    }
    closedir(d);
    qsort(ret->list, ret->count, sizeof(ret->list[0]), by_start);
}

static int64_t size_of(const struct segments *all)
{
    int64_t size = 0;

    for (size_t i = 0; i < all->count; i++) {
        size = MAX(size, all->list[i].end);
    }
    return size;
}

bool shim_log_is_stream(const char *stream)
{
    return streq(stream, "stdout") || streq(stream, "stderr");
}

int64_t shim_log_size(const char *dir, const char *stream)
{
    struct segments all;

    assert(shim_log_is_stream(stream));
    find_segments(dir, stream, &all);
    return size_of(&all);
}

/* Appends bytes [from, to) of the segment; fewer where it ends before. */
static int read_segment(const char *dir, const struct segment *g, int64_t from, int64_t to,
                        struct buf *out, struct err *reterr)
{
    char *path CLEANUP(freep) = xasprintf("%s/%s", dir, g->name);
    char *at = buf_reserve(out, (size_t)(to - from));

    if (!at) {
        return err_set(reterr, ERR_TOO_LARGE, "the buffer for the log is too small");
    }
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return err_errno(reterr, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno,
                         "cannot open %.150s", path);
    }
    ssize_t n = pread(fd, at, (size_t)(to - from), from - g->start);
    int error = errno;
    close(fd);
    if (n < 0) {
        return err_errno(reterr, ERR_IO, error, "cannot read %.150s", path);
    }
    buf_commit(out, (size_t)n);
    return 0;
}

int shim_log_read(const char *dir, const char *stream, int64_t offset, size_t limit,
                  struct buf *out, int64_t *ret_offset, int64_t *ret_size, struct err *reterr)
{
    struct segments all;
    size_t before = out->len;
    int rc = ERR_NOT_FOUND;

    assert(shim_log_is_stream(stream));
    for (int i = 0; i < TRIES && rc == ERR_NOT_FOUND; i++) {
        find_segments(dir, stream, &all);
        *ret_size = *ret_offset = size_of(&all);
        rc = 0;
        int64_t at = MAX(offset, 0);
        for (size_t k = 0; k < all.count && rc == 0 && out->len - before < limit; k++) {
            const struct segment *g = &all.list[k];
            if (g->end <= at) {
                continue;
            }
            if (g->start > at && out->len > before) {
                break; /* a gap */
            }
            int64_t from = MAX(at, g->start);
            int64_t to = MIN(g->end, from + (int64_t)(limit - (out->len - before)));
            *ret_offset = out->len == before ? from : *ret_offset;
            rc = read_segment(dir, g, from, to, out, reterr);
            at = to;
        }
        rc = rc == ERR_NOT_FOUND && out->len > before ? 0 : rc;
    }
    return rc;
}

int shim_log_tail(const char *dir, const char *stream, size_t n, struct buf *out,
                  struct err *reterr)
{
    struct segments all;

    assert(shim_log_is_stream(stream));
    find_segments(dir, stream, &all);
    int64_t size = size_of(&all);
    int64_t from = MAX(0, size - (int64_t)n);
    for (size_t i = 0; i + 1 < all.count; i++) {
        if (all.list[i].end < all.list[i + 1].start) {
            from = MAX(from, all.list[i + 1].start);
        }
    }
    int64_t offset = 0;
    return shim_log_read(dir, stream, from, (size_t)(size - from), out, &offset, &size, reterr);
}
