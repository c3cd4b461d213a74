#include "cmd/sje/taillog.h"

#include "internal/clock.h"

#define PIECE      (16 << 10)
#define PIECES     4          /* at once; then the view is drawn again */
#define BEHIND_MAX (64 << 10) /* further behind than this the middle is left out */
#define LINE_BYTES 8192
#define HOLD_MS    5000
#define TIMEOUT_MS 5000

void taillog_init(struct taillog *t, const char *stream)
{
    *t = (struct taillog){.stream = stream};
    buf_init(&t->line, LINE_BYTES);
}

void taillog_done(struct taillog *t)
{
    buf_free(&t->line);
}

char *taillog_path(const char *id, const char *stream, int64_t attempt, int64_t offset,
                   int64_t limit, bool follow)
{
    struct buf b;

    buf_init(&b, 1024);
    buf_addf(&b, "/task/%s/log?stream=%s&offset=%lld", id, stream, (long long)offset);
    if (attempt) {
        buf_addf(&b, "&attempt=%lld", (long long)attempt);
    }
    if (limit) {
        buf_addf(&b, "&limit=%lld", (long long)limit);
    }
    if (follow) {
        buf_adds(&b, "&follow=true");
    }
    return buf_take(&b);
}

static void show_char(struct taillog *t, struct live *live, char c)
{
    if (c == '\n') {
        if (!t->mid_line) {
            live_line(live, (struct str){t->line.data ? t->line.data : "", t->line.len});
        }
        t->mid_line = false;
        buf_reset(&t->line);
    } else if (!t->mid_line && buf_addc(&t->line, c) < 0) {
        live_line(live, (struct str){t->line.data, t->line.len});
        buf_reset(&t->line);
        buf_addc(&t->line, c);
    }
}

void taillog_flush(struct taillog *t, struct live *live)
{
    struct buf rest CLEANUP(buf_free) = {0};

    buf_init(&rest, 256);
    scrub_end(&t->scrub, &rest);
    for (size_t i = 0; i < rest.len; i++) {
        show_char(t, live, rest.data[i]);
    }
    if (t->line.len) {
        show_char(t, live, '\n');
    }
}

static void show(struct taillog *t, struct live *live, struct str piece)
{
    struct buf clean CLEANUP(buf_free) = {0};

    buf_init(&clean, piece.len * 3 + 256);
    scrub_add(&t->scrub, &clean, piece);
    for (size_t i = 0; i < clean.len; i++) {
        show_char(t, live, clean.data[i]);
    }
}

/* Jumps near the end of a log that is far ahead. */
static void skip(struct taillog *t, struct live *live, int64_t size)
{
    struct buf note CLEANUP(buf_free) = {0};
    int64_t to = size - PIECE;

    taillog_flush(t, live);
    buf_init(&note, 128);
    buf_addf(&note, "%s ", text_ellipsis());
    text_size(&note, to - t->offset);
    buf_adds(&note, " left out");
    live_line(live, (struct str){note.data, note.len});
    t->offset = to;
    t->mid_line = true;
}

/* 0: there may be more; 1: no more now. */
static int show_piece(struct taillog *t, struct client *c, struct live *live, const char *id)
{
    char *path CLEANUP(freep) = taillog_path(id, t->stream, t->attempt, t->offset, PIECE, false);
    struct request q = {.path = path, .text = true, .timeout_ms = TIMEOUT_MS};
    struct reply r CLEANUP(reply_done) = {0};
    int rc = client_call(c, &q, &r, NULL);

    if (rc == ERR_CLOSED) {
        return rc;
    }
    if (rc < 0 || r.status != 200) {
        t->hold_to = clock_boot_ms() + HOLD_MS;
        return 1;
    }
    t->offset = MAX(t->offset, r.log_offset);
    if (r.log_size - t->offset > BEHIND_MAX) {
        skip(t, live, r.log_size);
        return 0;
    }
    show(t, live, (struct str){r.body.data ? r.body.data : "", r.body.len});
    t->offset += (int64_t)r.body.len;
    return r.body.len < PIECE;
}

int taillog_show(struct taillog *t, struct client *c, struct live *live, const json_t *task)
{
    int64_t attempt = json_get_int(task, "attempt", 0);
    bool queued = streq(json_get_string(task, "state"), "QUEUED");

    if (!live->on || !t->stream || clock_boot_ms() < t->hold_to ||
        !json_get_string(task, "startedAt")) {
        return 0;
    }
    /* While the task waits for its next attempt, the log of the last one is read to its end. */
    if (attempt != t->attempt && !queued) {
        taillog_flush(t, live);
        t->attempt = attempt;
        t->offset = 0;
        t->mid_line = false;
    }
    for (int i = 0, rc = 0; t->attempt && i < PIECES && rc == 0; i++) {
        rc = show_piece(t, c, live, json_get_string(task, "taskId"));
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
