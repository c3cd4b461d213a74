#include "cmd/sje/watch.h"

#include "internal/clock.h"
#include "internal/id.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define RETRY_FIRST_MS 200
#define RETRY_MAX_MS   5000
#define DRAW_EVERY_MS  200
#define LIVE_WAIT_S    1 /* how long one look waits for the end: progress is seen that late */
#define PLAIN_WAIT_S   1
#define QUIET_WAIT_S   30
#define SAY_EVERY_MS   2000 /* of many tasks */
#define GAUGE_MAX      30
#define BAR_MAX        8192

/* ---- the line at the bottom ---- */

static void add_elapsed(struct buf *out, const struct watch *w)
{
    const json_t *task = w->last.json;
    bool queued = streq(json_get_string(task, "state"), "QUEUED");
    int64_t ms = 0;

    if (view_span(w->c, task, queued ? "submittedAt" : "startedAt", "finishedAt", &ms)) {
        buf_adds(out, "  ");
        text_duration(out, ms);
    }
}

/* "[###--] 3/8  stage 2 of 3", or nothing. gauge 0: without the gauge. */
static void add_progress(struct buf *out, const json_t *task, size_t gauge)
{
    const json_t *progress = json_object_get(task, "progress");
    const char *text = json_get_string(progress, "text");
    int64_t done = json_get_int(progress, "done", 0);
    int64_t total = json_get_int(progress, "total", 0);
    char numbers[64] = "";

    if (total > 0) {
        snprintf(numbers, sizeof(numbers), "%lld/%lld ", (long long)done, (long long)total);
        if (gauge) {
            live_gauge(out, done, total, gauge);
            buf_addc(out, ' ');
        }
        /* The text may say them itself. */
        if (!text || !strstr(text, numbers)) {
            buf_adds(out, numbers);
        }
    }
    buf_addf(out, "%.1000s", text ? text : "");
}

static size_t gauge_width(void)
{
    return MIN((size_t)GAUGE_MAX, cli_columns(stderr) / 4);
}

static void draw_away(struct watch *w)
{
    struct buf rest CLEANUP(buf_free) = {0};

    buf_init(&rest, BAR_MAX);
    buf_adds(&rest, "the manager does not answer; trying again for ");
    text_duration(&rest, MAX(w->away_since + w->retry_ms - clock_boot_ms(), 0) / 1000 * 1000);
    live_bar(&w->live, STR("AWAY"), w->c->err_color ? "33" : NULL,
             (struct str){rest.data, rest.len});
}

static void draw_many(struct watch *w)
{
    struct buf rest CLEANUP(buf_free) = {0};

    buf_init(&rest, BAR_MAX);
    live_gauge(&rest, (int64_t)w->ended, (int64_t)w->total, gauge_width());
    buf_addf(&rest, " %zu/%zu", w->ended, w->total);
    if (w->failed) {
        buf_addf(&rest, "  %zu failed", w->failed);
    }
    buf_adds(&rest, "  ");
    text_duration(&rest, clock_boot_ms() - w->started_at);
    live_bar(&w->live, STR("TASKS"), w->c->err_color ? "36" : NULL,
             (struct str){rest.data, rest.len});
}

/* "all workers … are busy", behind `sep`, or nothing. */
static void add_waiting(struct buf *out, const char *sep, const json_t *task)
{
    if (json_is_object(json_object_get(task, "waitingFor"))) {
        buf_adds(out, sep);
        view_waiting(out, task);
    }
}

static void draw_one(struct watch *w)
{
    struct buf rest CLEANUP(buf_free) = {0};
    struct buf word CLEANUP(buf_free) = {0};
    const char *state = json_get_string(w->last.json, "state");

    buf_init(&rest, BAR_MAX);
    buf_init(&word, 256);
    if (!state) {
        return;
    }
    text_fit(&word, str_of(state), 16);
    add_progress(&rest, w->last.json, gauge_width());
    int64_t attempt = json_get_int(w->last.json, "attempt", 1);
    if (attempt > 1) {
        buf_addf(&rest, "  attempt %lld", (long long)attempt);
    }
    add_elapsed(&rest, w);
    add_waiting(&rest, "  ", w->last.json);
    struct str text = str_trim((struct str){rest.data ? rest.data : "", rest.len});
    live_bar(&w->live, (struct str){word.data, word.len},
             w->c->err_color ? table_state_color(state) : NULL, text);
}

static void draw(struct watch *w)
{
    w->drawn_at = clock_boot_ms();
    if (w->away_since) {
        draw_away(w);
    } else if (w->total) {
        draw_many(w);
    } else {
        draw_one(w);
    }
}

static void on_tick(void *arg)
{
    struct watch *w = arg;

    if (w->live.on && clock_boot_ms() - w->drawn_at >= DRAW_EVERY_MS) {
        draw(w);
    }
}

/* ---- lines ---- */

static void say(struct watch *w, struct str text)
{
    struct buf line CLEANUP(buf_free) = {0};

    buf_init(&line, BAR_MAX * 4);
    text_local(&line, client_now(w->c->client), false);
    buf_addc(&line, ' ');
    text_clean(&line, text);
    buf_addc(&line, '\n');
    fwrite(line.data, 1, line.len, stderr);
}

/* A line where something changed since the last one. */
static void say_change(struct watch *w)
{
    struct buf b CLEANUP(buf_free) = {0};
    const json_t *task = w->last.json;
    const char *worker = json_get_string(task, "workerId");
    bool queued = streq(json_get_string(task, "state"), "QUEUED");

    buf_init(&b, BAR_MAX);
    if (w->total) {
        buf_addf(&b, "%zu of %zu tasks ended, %zu failed", w->ended, w->total, w->failed);
    } else {
        buf_addf(&b, "%.36s %.32s", w->id, json_get_string(task, "state"));
        if (json_get_int(task, "attempt", 1) > 1) {
            buf_addf(&b, " attempt %lld", (long long)json_get_int(task, "attempt", 1));
        }
        if (worker && !queued) {
            buf_addf(&b, " on %.128s", worker);
        }
        if (!queued) {
            buf_addc(&b, ' ');
            add_progress(&b, task, 0);
        }
    }
    add_waiting(&b, w->total ? "; the next waits: " : ": ", task);
    if (!streq(w->said, b.data) && (!w->total || clock_boot_ms() - w->said_at >= SAY_EVERY_MS)) {
        str_replace_owned(&w->said, b.data);
        w->said_at = clock_boot_ms();
        say(w, str_trim((struct str){b.data, b.len}));
    }
}

/* ---- life ---- */

void watch_start(struct watch *w, struct cli *c)
{
    int64_t timeout_s = cli_number(c, "timeout", -1);
    const char *stream = cli_text(c, "log");
    const char *term = getenv("TERM");
    bool terminal = c->err_tty && !streq(term, "dumb");
    sigset_t set;

    *w = (struct watch){.c = c};
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    w->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    MUST(w->signals >= 0);
    w->started_at = clock_boot_ms();
    w->deadline = timeout_s < 0 ? INT64_MAX : w->started_at + timeout_s * 1000;
    w->retry_ms = cli_number(c, "retry", 60) * 1000;
    w->live.on = terminal && !c->quiet;
    w->plain = !w->live.on && !c->quiet && !c->json;
    taillog_init(&w->log, streq(stream, "none") ? NULL : stream ? stream : "stdout");
    client_attend(c->client, w->signals, on_tick, w);
}

void watch_stop(struct watch *w)
{
    live_clear(&w->live);
    client_attend(w->c->client, -1, NULL, NULL);
    taillog_done(&w->log);
    reply_done(&w->last);
    free(w->said);
    close(w->signals);
}

int watch_signal(struct watch *w)
{
    struct signalfd_siginfo info = {.ssi_signo = SIGINT};

    live_clear(&w->live);
    if (read(w->signals, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        info.ssi_signo = SIGINT;
    }
    return CLI_SIGNAL + (int)info.ssi_signo;
}

static int stopped(struct watch *w)
{
    int rc = watch_signal(w);

    if (w->total) {
        cli_error("stopped waiting; the tasks go on (see: sje list)");
        return rc;
    }
    cli_error("stopped waiting; the task goes on");
    cli_error("  wait again: sje wait %s", w->id);
    cli_error("  cancel it:  sje cancel %s", w->id);
    return rc;
}

/* ---- looking ---- */

/* The manager did not answer, or not as it should. CLI_OK: look again. */
static int away(struct watch *w, const char *why, int64_t retry_after_s)
{
    int64_t now = clock_boot_ms();

    if (!w->reached) {
        live_clear(&w->live);
        cli_error("%s", why);
        return CLI_REACH;
    }
    if (!w->away_since) {
        w->away_since = now;
        w->pause_ms = RETRY_FIRST_MS;
        live_clear(&w->live);
        cli_note(w->c, "%s; trying again for %lld s", why, (long long)(w->retry_ms / 1000));
    }
    if (now - w->away_since >= w->retry_ms) {
        live_clear(&w->live);
        cli_error("%s", why);
        cli_error("task %s goes on; later: sje wait %s", w->id, w->id);
        return CLI_REACH;
    }
    if (now >= w->deadline) {
        return CLI_PENDING;
    }
    int64_t jitter = (int64_t)(random_u64() % (uint64_t)(w->pause_ms / 2));
    int64_t pause = MAX(w->pause_ms / 2 + jitter, retry_after_s * 1000);
    w->pause_ms = MIN(w->pause_ms * 2, RETRY_MAX_MS);
    pause = MIN(pause, MIN(w->away_since + w->retry_ms, w->deadline) - now);
    return client_pause(w->c->client, pause) < 0 ? stopped(w) : CLI_OK;
}

static void back(struct watch *w)
{
    w->reached = true;
    if (w->away_since) {
        w->away_since = 0;
        live_clear(&w->live);
        cli_note(w->c, "the manager is back");
    }
}

static int64_t wait_seconds(const struct watch *w)
{
    int64_t most = w->live.on ? LIVE_WAIT_S : w->plain ? PLAIN_WAIT_S : QUIET_WAIT_S;
    int64_t left = w->deadline == INT64_MAX ? most : (w->deadline - clock_boot_ms() + 999) / 1000;

    /* The first look is for the view, not for the end. */
    return w->last.json ? MIN(most, MAX(left, 0)) : 0;
}

/* One look at the task. CLI_OK: w->last is its view, or the manager is away and may be tried again
 * (away_since is set). */
static int look(struct watch *w)
{
    int64_t seconds = wait_seconds(w);
    char *about CLEANUP(freep) = xasprintf("task %s", w->id);
    char *path CLEANUP(freep) = xasprintf("/task/%s?wait=%lld", w->id, (long long)seconds);
    struct request q = {.path = path, .timeout_ms = (seconds + w->c->request_timeout_s) * 1000};
    struct reply r CLEANUP(reply_done) = {0};
    struct err e;
    int64_t asked_at = clock_boot_ms();
    int rc = client_call(w->c->client, &q, &r, &e);

    if (rc == ERR_CLOSED) {
        return stopped(w);
    }
    if (rc < 0) {
        return away(w, e.text, 0);
    }
    char *why CLEANUP(freep) = cli_cannot_answer(w->c, &r);
    if (why) {
        w->reached = w->reached || r.status == 429; /* it is there, and we are too many */
        return away(w, why, r.retry_after_s);
    }
    if (r.status != 200 || !view_valid(r.json)) {
        live_clear(&w->live);
        return r.status / 100 == 2 ? cli_strange(w->c, about) : cli_refused(w->c, &r, about);
    }
    back(w);
    reply_done(&w->last);
    w->last = r;
    r = (struct reply){0};
    /* A manager that does not wait must not be asked in a tight loop. */
    bool hasty = seconds > 0 && clock_boot_ms() - asked_at < 100 && !view_final(w->last.json);
    return hasty && client_pause(w->c->client, 500) < 0 ? stopped(w) : CLI_OK;
}

static int show(struct watch *w)
{
    if (w->plain) {
        say_change(w);
    }
    if (w->live.on) {
        int rc = w->total ? 0 : taillog_show(&w->log, w->c->client, &w->live, w->last.json);

        if (rc < 0) {
            return stopped(w);
        }
        draw(w);
    }
    return CLI_OK;
}

int watch_task(struct watch *w, const char *id)
{
    w->id = id;
    reply_done(&w->last);
    for (;;) {
        int rc = look(w);

        if (rc == CLI_OK && !w->away_since) {
            rc = show(w);
        }
        if (rc != CLI_OK) {
            live_clear(&w->live);
            return rc;
        }
        if (!w->away_since && view_final(w->last.json)) {
            if (!w->total) {
                taillog_flush(&w->log, &w->live);
                live_clear(&w->live);
            }
            return CLI_OK;
        }
        if (clock_boot_ms() >= w->deadline) {
            live_clear(&w->live);
            return CLI_PENDING;
        }
    }
}
