/* GET /task/{taskId}/log: pieces of the log, one after another, through the manager.
 *
 * Not following, the answer ends where the log ended when it was asked for, and at a gap (the
 * middle of an oversized log is dropped): what is answered is always one run of bytes that begins
 * at X-Log-Offset. Following goes on over gaps, attempts and unreachable workers until the task is
 * final. */
#include "api/call.h"

#include <stdio.h>
#include <stdlib.h>

#define PART_BYTES (256 * 1024)
#define FOLLOW_MS  10000 /* how long one question may wait at the worker */
#define PAUSE_MS   1000

struct reading {
    struct log_request ask;
    int64_t left; /* bytes still wanted */
    bool follow;
    bool one_attempt; /* the client named it */
    bool started;     /* the head of the answer is out */
    bool asking;      /* the manager has a question of ours */
    bool over;        /* client gone or server stopping */
    bool final;       /* the task was final before the last question */
    int latest;       /* attempt of the task, as far as we know */
};

static void read_on(struct call *c);

static void finish(struct call *c)
{
    struct reading *s = c->state;

    if (s->started) {
        http_stream_end(c->request);
        call_free(c);
    } else {
        call_problem(c, 503, "the server is shutting down");
    }
}

static void abort_reading(struct call *c)
{
    struct reading *s = c->state;

    s->over = true;
    if (!s->asking) {
        finish(c);
    }
}

static void on_drain(void *arg, struct http_request *r)
{
    struct call *c = arg;
    struct reading *s = c->state;

    (void)r;
    if (!s->asking) {
        read_on(c);
    }
}

static void next_attempt(struct reading *s)
{
    s->ask.attempt++;
    s->ask.offset = 0;
}

static void on_pause_over(void *arg, int rc, const struct task *t, const struct err *why)
{
    struct call *c = arg;
    struct reading *s = c->state;

    (void)why;
    s->asking = false;
    if (s->over || rc < 0) {
        finish(c);
        return;
    }
    s->final = task_state_final(t->state);
    s->latest = t->attempt;
    read_on(c);
}

/* A second, or until the task is final. */
static void pause_reading(struct call *c)
{
    struct reading *s = c->state;

    s->asking = true;
    (void)manager_wait(c->api->manager, &c->task, PAUSE_MS, on_pause_over, c);
}

/* Begins the answer; true where it is complete with that and the call is over. */
static bool begin_answer(struct call *c, const struct log_part *part)
{
    struct reading *s = c->state;
    char size[24];
    char offset[24];
    char attempt[24];
    const struct http_field fields[] = {
        {"X-Log-Size", size}, {"X-Log-Offset", offset}, {"X-Log-Attempt", attempt}};

    snprintf(size, sizeof(size), "%lld", (long long)part->size);
    snprintf(offset, sizeof(offset), "%lld", (long long)part->offset);
    snprintf(attempt, sizeof(attempt), "%d", part->attempt);
    if (!s->follow) {
        s->left = MAX(MIN(s->left, part->size - part->offset), (int64_t)0);
    }
    if (!s->follow && (int64_t)part->data.len >= s->left) {
        struct str all = {part->data.p, (size_t)s->left};

        call_reply(c, 200, "text/plain; charset=utf-8", all, fields, ARRAY_LEN(fields));
        return true;
    }
    s->started = true;
    s->ask.offset = part->offset;
    http_stream_on_drain(c->request, on_drain, c);
    http_stream_start(c->request, 200, "text/plain; charset=utf-8", fields, ARRAY_LEN(fields));
    return false;
}

/* False: no more is wanted or can be sent. */
static bool pass_on(struct call *c, const struct log_part *part)
{
    struct reading *s = c->state;
    size_t n = (size_t)MIN((int64_t)part->data.len, s->left);

    if (part->offset > s->ask.offset) {
        char note[64];
        int len = snprintf(note, sizeof(note), "\n[%lld bytes dropped]\n",
                           (long long)(part->offset - s->ask.offset));

        if (!s->follow || !http_stream_write(c->request, note, (size_t)len)) {
            return false;
        }
    }
    s->ask.offset = part->offset + (int64_t)n;
    s->left -= (int64_t)n;
    return (n == 0 || http_stream_write(c->request, part->data.p, n)) && s->left > 0;
}

/* Nothing more will come from this attempt, or nothing has come for a while. */
static void at_end(struct call *c, bool ended)
{
    struct reading *s = c->state;

    if (!s->follow || (ended && (s->one_attempt || s->ask.attempt == 0)) ||
        (ended && s->final && s->ask.attempt >= s->latest)) {
        finish(c);
    } else if (ended && s->ask.attempt < s->latest) {
        next_attempt(s);
        read_on(c);
    } else {
        pause_reading(c);
    }
}

static void on_part(void *arg, int rc, const struct log_part *part, const struct err *why)
{
    struct call *c = arg;
    struct reading *s = c->state;

    s->asking = false;
    if (s->over) {
        finish(c);
        return;
    }
    if (rc < 0) {
        if (!s->started) {
            call_error(c, rc, why);
        } else if (s->follow && err_retryable(rc)) {
            pause_reading(c);
        } else {
            finish(c);
        }
        return;
    }
    if (!s->started && begin_answer(c, part)) {
        return;
    }
    if (s->ask.attempt == 0) {
        s->ask.attempt = part->attempt;
    }
    if (!pass_on(c, part)) {
        finish(c);
    } else if (part->data.len == 0) {
        at_end(c, part->ended);
    } else if (http_stream_pending(c->request) == 0) {
        read_on(c);
    } /* else on_drain() */
}

static void read_on(struct call *c)
{
    struct reading *s = c->state;

    s->asking = true;
    s->ask.limit = MIN(s->left, (int64_t)PART_BYTES);
    s->ask.wait_ms = s->follow && s->started ? FOLLOW_MS : 0;
    manager_log(c->api->manager, &s->ask, on_part, c);
}

void api_task_log(struct call *c)
{
    const char *stream = http_query(c->request, "stream");
    struct reading *s = xmalloc(sizeof(*s));
    int64_t attempt = 0;

    c->state = s;
    c->free_state = free;
    s->ask.id = c->task;
    s->ask.stderr_stream = streq(stream, "stderr");
    s->one_attempt = http_query(c->request, "attempt") != NULL;
    if (stream && !s->ask.stderr_stream && !streq(stream, "stdout")) {
        call_invalid(c, "stream", "must be stdout or stderr");
        return;
    }
    if (!call_query_int(c, "offset", -INT64_MAX, INT64_MAX, 0, &s->ask.offset) ||
        !call_query_int(c, "limit", 1, INT64_MAX, INT64_MAX, &s->left) ||
        !call_query_int(c, "attempt", 1, INT32_MAX, 0, &attempt) ||
        !call_query_bool(c, "follow", &s->follow)) {
        return;
    }
    if (s->follow && !http_hold(c->request, HTTP_STREAMS)) {
        call_problem(c, HTTP_TOO_MANY, "this client follows too many logs at a time");
        return;
    }
    s->ask.attempt = (int)attempt;
    c->abort = abort_reading;
    read_on(c);
}
