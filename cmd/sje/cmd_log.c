/* sje log: the bytes of a task's log, piece by piece or as they come. */
#include "cmd/sje/cli.h"
#include "cmd/sje/taillog.h"

#include "internal/clock.h"

#include <stdlib.h>

#define PIECE          (256 << 10)
#define RETRY_FIRST_MS 200
#define RETRY_MAX_MS   5000
#define LOOK_WAIT_S    1

struct reader {
    struct cli *c;
    const char *stream;
    char *about;
    int64_t attempt;            /* 0: the latest */
    bool complete;              /* following: all of that attempt is out */
    const struct reply *answer; /* while a stream comes in */
    int64_t sought;             /* following: the attempt that offset was sought in; 0: none */
    bool reached;
    int64_t offset;
    int64_t size; /* as last told; -1: not yet */
    struct scrub scrub;
    struct buf gathered; /* with --json */
    bool too_large;
    int64_t away_since; /* boot ms; 0: it answers */
    int64_t pause_ms;
};

/* ---- where the bytes go ---- */

static bool put(struct reader *r, struct str piece)
{
    struct buf clean CLEANUP(buf_free) = {0};

    if (r->c->json) {
        r->too_large = buf_add(&r->gathered, piece.p, piece.len) < 0;
        return !r->too_large;
    }
    if (r->c->out_tty) {
        buf_init(&clean, piece.len * 3 + 256);
        scrub_add(&r->scrub, &clean, piece);
        piece = (struct str){clean.data ? clean.data : "", clean.len};
    }
    return fwrite(piece.p, 1, piece.len, stdout) == piece.len && fflush(stdout) == 0;
}

static void finish(struct reader *r)
{
    struct buf rest CLEANUP(buf_free) = {0};

    buf_init(&rest, 256);
    scrub_end(&r->scrub, &rest);
    if (r->c->out_tty && rest.len) {
        fwrite(rest.data, 1, rest.len, stdout);
    }
}

static int print_document(struct reader *r)
{
    json_auto_t *j =
        json_pack("{s:s, s:s, s:I, s:I, s:o}", "taskId", r->c->operand, "stream", r->stream,
                  "offset", (json_int_t)(r->offset - (int64_t)r->gathered.len), "size",
                  (json_int_t)MAX(r->size, r->offset), "text",
                  json_string_lossy(r->gathered.data ? r->gathered.data : "", r->gathered.len));

    MUST(j);
    cli_dump_json(r->c, j);
    return CLI_OK;
}

/* ---- pieces ---- */

/* Asks for the piece at r->offset. */
static int fetch(struct reader *r, int64_t limit, struct reply *reply)
{
    char *path CLEANUP(freep) =
        taillog_path(r->c->operand, r->stream, r->attempt, r->offset, limit, false);
    int rc = cli_send(r->c, &(struct request){.path = path, .text = true}, reply);

    if (rc == CLI_OK && reply->status != 200) {
        rc = cli_refused(r->c, reply, r->about);
    }
    if (rc == CLI_OK) {
        r->size = reply->log_size;
        r->offset = MAX(r->offset, reply->log_offset);
        /* The pieces that follow are of the same attempt, whatever the task does meanwhile. */
        r->attempt = r->attempt ? r->attempt : reply->log_attempt;
    }
    return rc;
}

/* Moves r->offset so that `tail` bytes are left; one byte is asked for because its answer tells the
 * size. */
static int seek(struct reader *r, int64_t tail)
{
    struct reply reply CLEANUP(reply_done) = {0};
    int rc = fetch(r, 1, &reply);

    if (rc == CLI_OK) {
        r->offset = MAX(r->offset, r->size - tail);
    }
    return rc;
}

static int print_pieces(struct reader *r)
{
    for (;;) {
        struct reply reply CLEANUP(reply_done) = {0};
        int64_t asked = r->offset;
        int rc = fetch(r, PIECE, &reply);

        if (rc != CLI_OK) {
            return rc;
        }
        if (r->offset > asked) {
            cli_note(r->c, "%lld bytes of %s, from %lld on, were not kept",
                     (long long)(r->offset - asked), r->stream, (long long)asked);
        }
        if (reply.body.len == 0) {
            return CLI_OK;
        }
        r->offset += (int64_t)reply.body.len;
        if (!put(r, (struct str){reply.body.data, reply.body.len})) {
            if (r->too_large) {
                cli_error("%s: the log is over the limit of %zu MiB for --json; see --tail",
                          r->about, CLIENT_BODY_MAX >> 20);
            }
            return CLI_USAGE;
        }
        if (r->size >= 0 && r->offset >= r->size) {
            return CLI_OK;
        }
    }
}

/* ---- following ---- */

static void back(struct reader *r)
{
    r->reached = true;
    if (r->away_since) {
        cli_note(r->c, "the manager is back");
        r->away_since = 0;
    }
}

static bool on_piece(void *arg, struct str piece)
{
    struct reader *r = arg;

    back(r);
    /* The stream begins there; later the offset is behind it. */
    r->offset = MAX(r->offset, r->answer->log_offset) + (int64_t)piece.len;
    return put(r, piece);
}

/* CLI_OK: try again now. */
static int away(struct reader *r, const char *why, int64_t retry_after_s)
{
    int64_t retry_ms = cli_number(r->c, "retry", 60) * 1000;
    int64_t now = clock_boot_ms();

    if (!r->reached) {
        cli_error("%s", why);
        return CLI_REACH;
    }
    if (!r->away_since) {
        r->away_since = now;
        r->pause_ms = RETRY_FIRST_MS;
        cli_note(r->c, "%s; trying again for %lld s", why, (long long)(retry_ms / 1000));
    }
    if (now - r->away_since >= retry_ms) {
        cli_error("%s", why);
        return CLI_REACH;
    }
    int64_t pause = MIN(MAX(r->pause_ms, retry_after_s * 1000), r->away_since + retry_ms - now);
    r->pause_ms = MIN(r->pause_ms * 2, RETRY_MAX_MS);
    return client_pause(r->c->client, pause) < 0 ? CLI_REACH : CLI_OK;
}

/* Looks at the task: *ret_view is its view, or NULL where the manager was away and may be tried
 * again. */
static int look(struct reader *r, int64_t wait_s, json_t **ret_view)
{
    char *path CLEANUP(freep) = xasprintf("/task/%s?wait=%lld", r->c->operand, (long long)wait_s);
    struct request q = {.path = path, .timeout_ms = (wait_s + r->c->request_timeout_s) * 1000};
    struct reply reply CLEANUP(reply_done) = {0};
    struct err e;
    int rc = client_call(r->c->client, &q, &reply, &e);

    *ret_view = NULL;
    if (rc < 0) {
        return away(r, e.text, 0);
    }
    char *why CLEANUP(freep) = cli_cannot_answer(r->c, &reply);
    if (why) {
        r->reached = r->reached || reply.status == 429; /* it is there, and we are too many */
        return away(r, why, reply.retry_after_s);
    }
    if (reply.status != 200) {
        return cli_refused(r->c, &reply, r->about);
    }
    if (!view_valid(reply.json)) {
        return cli_strange(r->c, r->about);
    }
    back(r);
    *ret_view = STEAL(reply.json);
    return CLI_OK;
}

/* Reads the stream of one attempt until it ends. CLI_OK: it ended. */
static int follow_attempt(struct reader *r)
{
    for (;;) {
        char *path CLEANUP(freep) =
            taillog_path(r->c->operand, r->stream, r->attempt, r->offset, 0, true);
        struct request q = {
            .path = path, .text = true, .timeout_ms = -1, .sink = on_piece, .arg = r};
        struct reply reply CLEANUP(reply_done) = {0};
        struct err e;

        r->answer = &reply;
        int rc = client_call(r->c->client, &q, &reply, &e);
        if (rc == ERR_CLOSED) {
            return CLI_USAGE; /* stdout takes no more; main says why */
        }
        if (rc == 0 && reply.status == 200) {
            return CLI_OK;
        }
        char *why CLEANUP(freep) = rc < 0 ? xstrdup(e.text) : cli_cannot_answer(r->c, &reply);
        if (!why) {
            return cli_refused(r->c, &reply, r->about);
        }
        rc = away(r, why, reply.retry_after_s);
        if (rc != CLI_OK) {
            return rc;
        }
    }
}

/* Where the log of the present attempt is complete, its rest; else what comes. A stream may end
 * early when a manager goes away in good order. */
static int go_on(struct reader *r, bool ended)
{
    if (!ended) {
        return follow_attempt(r);
    }
    r->complete = true;
    return print_pieces(r);
}

static int next_attempt(struct reader *r, int64_t attempt)
{
    if (r->attempt) {
        cli_note(r->c, "attempt %lld", (long long)attempt);
    }
    if (attempt != r->sought) {
        r->offset = 0;
    }
    r->attempt = attempt;
    r->complete = false;
    return follow_attempt(r);
}

/* One attempt after the other until the task has ended, or that one only. */
static int follow(struct reader *r, int64_t only)
{
    for (bool first = true;; first = false) {
        json_auto_t *view = NULL;
        int rc = look(r, first ? 0 : LOOK_WAIT_S, &view);

        if (rc != CLI_OK || !view) {
            if (rc != CLI_OK) {
                return rc;
            }
            continue;
        }
        int64_t attempt = json_get_int(view, "attempt", 0);
        bool final = view_final(view);
        bool started = !streq(json_get_string(view, "state"), "QUEUED");
        bool idle = !r->attempt || r->complete;

        if (!idle) {
            rc = go_on(r, final || attempt > r->attempt);
        } else if (only ? !r->attempt && attempt >= only : started && attempt > r->attempt) {
            rc = next_attempt(r, only ? only : attempt);
        } else if (final || (only && r->complete)) {
            return CLI_OK;
        } else if (client_pause(r->c->client, RETRY_FIRST_MS) < 0) {
            return CLI_REACH;
        }
        if (rc != CLI_OK) {
            return rc;
        }
    }
}

/* Many programs say all on one stream. */
static void name_the_other(const struct reader *r)
{
    const char *other = streq(r->stream, "stdout") ? "stderr" : "stdout";
    char *path CLEANUP(freep) = taillog_path(r->c->operand, other, r->attempt, 0, 1, false);
    struct request q = {.path = path, .text = true};
    struct reply reply CLEANUP(reply_done) = {0};
    struct err e;

    if (client_call(r->c->client, &q, &reply, &e) == 0 && reply.status == 200 &&
        reply.log_size > 0) {
        cli_note(r->c, "nothing on %s; %lld bytes on %s: sje log%s %s", r->stream,
                 (long long)reply.log_size, other, streq(other, "stderr") ? " --stderr" : "",
                 r->c->operand);
    }
}

int log_run(struct cli *c)
{
    struct reader r = {.c = c,
                       .stream = cli_flag(c, "stderr") ? "stderr" : "stdout",
                       .attempt = cli_number(c, "attempt", 0),
                       .size = -1};
    int64_t tail = cli_number(c, "tail", -1);
    int64_t only = r.attempt;

    if (c->json && cli_flag(c, "follow")) {
        cli_error("log: --json makes one document of the log and cannot --follow it");
        return CLI_USAGE;
    }
    r.about = xasprintf("log of task %s", c->operand);
    buf_init(&r.gathered, CLIENT_BODY_MAX);
    int rc = tail >= 0 ? seek(&r, tail) : CLI_OK;
    if (rc == CLI_OK && cli_flag(c, "follow")) {
        r.sought = r.attempt;
        r.attempt = 0;
        rc = follow(&r, only);
    } else if (rc == CLI_OK) {
        rc = print_pieces(&r);
    }
    finish(&r);
    if (rc == CLI_OK && r.size <= 0 && r.offset == 0 && !c->json) {
        name_the_other(&r);
    }
    if (rc == CLI_OK && c->json) {
        rc = print_document(&r);
    }
    buf_free(&r.gathered);
    free(r.about);
    return rc;
}
