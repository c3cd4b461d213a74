#include "cmd/sje/live.h"

#include "cmd/sje/cli.h"

#define LIVE_MAX 32768
#define ERASE    "\r\x1b[K"

static void put(const struct buf *b)
{
    fwrite(b->data, 1, b->len, stderr);
    fflush(stderr);
}

void live_bar(struct live *l, struct str word, const char *color, struct str rest)
{
    struct buf b CLEANUP(buf_free) = {0};
    /* The last column stays free: writing there wraps on some terminals. */
    size_t width = cli_columns(stderr) - 1;
    size_t have = text_width(word);

    if (!l->on || width < have + 2) {
        return;
    }
    buf_init(&b, LIVE_MAX);
    buf_adds(&b, ERASE);
    if (color) {
        buf_addf(&b, "\x1b[%sm", color);
    }
    buf_add(&b, word.p, word.len);
    buf_adds(&b, color ? "\x1b[0m " : " ");
    text_fit(&b, rest, width - have - 1);
    put(&b);
    l->shown = true;
}

void live_line(struct live *l, struct str line)
{
    struct buf b CLEANUP(buf_free) = {0};

    if (!l->on) {
        return;
    }
    buf_init(&b, LIVE_MAX);
    buf_adds(&b, l->shown ? ERASE : "");
    buf_add(&b, line.p, MIN(line.len, (size_t)LIVE_MAX / 2));
    buf_addc(&b, '\n');
    put(&b);
    l->shown = false;
}

void live_clear(struct live *l)
{
    if (l->shown) {
        fputs(ERASE, stderr);
        fflush(stderr);
        l->shown = false;
    }
}

void live_gauge(struct buf *out, int64_t done, int64_t total, size_t width)
{
    size_t cells = width > 2 ? width - 2 : 0;
    double part = total > 0 ? (double)MIN(MAX(done, 0), total) / (double)total : 0;
    size_t full = (size_t)(part * (double)cells);

    buf_addc(out, '[');
    for (size_t i = 0; i < cells; i++) {
        buf_adds(out, text_unicode() ? (i < full ? "█" : "░") : (i < full ? "#" : "-"));
    }
    buf_addc(out, ']');
}
