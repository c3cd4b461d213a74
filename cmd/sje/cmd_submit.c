/* sje submit: the file goes to the manager byte by byte; what is in it, the manager judges. */
#include "cmd/sje/watch.h"

#include "internal/id.h"
#include "internal/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define FILE_LIMIT  CLIENT_BODY_MAX
#define CHUNK       ((size_t)64 << 10)
#define RESEND_MAX  3
#define RESEND_MS   300
#define KEY_MAX_LEN 128

/* ---- the file ---- */

static int read_all(int fd, const char *name, struct buf *out)
{
    for (;;) {
        char *room = buf_reserve(out, CHUNK);
        ssize_t n = room ? read(fd, room, CHUNK) : -1;

        if (!room) {
            cli_error("%s is over the limit of %zu MiB", name, FILE_LIMIT >> 20);
            return CLI_USAGE;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            cli_error("cannot read %s: %s", name, strerror(errno));
            return CLI_USAGE;
        }
        if (n == 0) {
            return CLI_OK;
        }
        buf_commit(out, (size_t)n);
    }
}

static int load(const struct cli *c, const char *name, struct buf *out)
{
    if (streq(c->operand, "-")) {
        if (isatty(STDIN_FILENO)) {
            cli_note(c, "reading the task from the terminal; end with Ctrl-D");
        }
        return read_all(STDIN_FILENO, name, out);
    }
    int fd = open(c->operand, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        cli_error("cannot read %s: %s", name, strerror(errno));
        return CLI_USAGE;
    }
    int rc = read_all(fd, name, out);
    close(fd);
    return rc;
}

/* One task or many? What cannot be parsed need not travel. */
static int inspect(const char *name, const struct buf *body, bool *ret_many)
{
    struct str text = str_without_mark((struct str){body->data, body->len});
    struct err e;
    json_auto_t *j = NULL;

    if (str_trim(text).len == 0) {
        cli_error("%s is empty; it must hold the JSON of a task", name);
        return CLI_USAGE;
    }
    if (json_read(text.p, text.len, &j, &e) < 0) {
        cli_error("%s is no valid JSON: %s", name, e.text);
        return CLI_USAGE;
    }
    if (!json_is_object(j) && !json_is_array(j)) {
        cli_error("%s must hold a task (an object), an array of tasks, or {\"tasks\": [...]}",
                  name);
        return CLI_USAGE;
    }
    *ret_many = json_is_array(j) || json_object_get(j, "tasks");
    return CLI_OK;
}

static int check_key(const char *key)
{
    struct str s = str_of(key);
    bool fine = s.len > 0 && str_is_utf8(s.p, s.len) && str_eq(s, str_trim(s));
    size_t characters = 0;

    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];

        characters += (c & 0xc0) != 0x80;
        fine = fine && c >= ' ' && c != 0x7f;
    }
    if (!fine || characters > KEY_MAX_LEN) {
        cli_error("--idempotency-key must be 1 to %d characters of text, no space at its ends",
                  KEY_MAX_LEN);
        return CLI_USAGE;
    }
    return CLI_OK;
}

/* ---- the request ---- */

/* An answer that was lost on the way is asked for again: with its key the submission counts once.
 */
static int post(struct watch *w, const struct request *q, const char *name, struct reply *r)
{
    struct cli *c = w->c;
    struct err e;
    bool given = cli_text(c, "idempotency-key");

    for (int tries = 0;; tries++) {
        int rc = client_call(c->client, q, r, &e);
        bool lost = rc < 0 && r->sent;

        if (rc == 0) {
            return r->status == 202 ? CLI_OK : cli_refused(c, r, name);
        }
        if (lost && (rc == ERR_IO || rc == ERR_TIMEOUT) && tries < RESEND_MAX) {
            cli_note(c, "%s; sending it again, it counts once", e.text);
            reply_done(r);
            if (client_pause(c->client, RESEND_MS << tries) == 0) {
                continue;
            }
            rc = ERR_CLOSED;
        }
        cli_error("%s: %s", name, rc == ERR_CLOSED ? "interrupted" : e.text);
        if (lost) {
            cli_error("whether it was accepted is not known; to submit it exactly once, run this "
                      "again with %s--idempotency-key %s",
                      given ? "the same " : "", q->idempotency_key);
        }
        return rc == ERR_CLOSED ? watch_signal(w) : CLI_REACH;
    }
}

/* The tasks in the answer, in the order sent; NULL where it is not as it should be. Borrowed ids,
 * the array is owned by the caller. */
static const char **accepted(const struct reply *r, bool many, size_t *ret_n)
{
    const json_t *tasks = json_object_get(r->json, "tasks");
    size_t n = many ? json_array_size(tasks) : 1;
    const char **ids = xcalloc(n + 1, sizeof(*ids));

    for (size_t i = 0; i < n; i++) {
        const json_t *task = many ? json_array_get(tasks, i) : r->json;

        if (!view_valid(task)) {
            free(ids);
            return NULL;
        }
        ids[i] = json_get_string(task, "taskId");
    }
    if (many && (!json_is_array(tasks) || json_get_int(r->json, "accepted", -1) != (int64_t)n)) {
        free(ids);
        return NULL;
    }
    *ret_n = n;
    return ids;
}

static void print_accepted(const struct cli *c, const json_t *task)
{
    struct buf line CLEANUP(buf_free) = {0};
    const char *state = json_get_string(task, "state");
    const char *job = json_get_string(task, "jobId");

    buf_init(&line, 8192);
    if (!c->quiet) {
        buf_adds(&line, "  ");
        text_clean(&line, (struct str){state, MIN(strlen(state), (size_t)32)});
        buf_adds(&line, job ? "  " : "");
        text_clean(&line, (struct str){job, job ? MIN(strlen(job), (size_t)1024) : 0});
    }
    printf("%s%s\n", json_get_string(task, "taskId"), line.data ? line.data : "");
}

static void report(const struct cli *c, const struct reply *r, const char *const *ids, size_t n,
                   bool many)
{
    const json_t *tasks = json_object_get(r->json, "tasks");

    if (c->json) {
        cli_print_json(c, r);
        return;
    }
    if (json_get_bool(r->json, "replayed", false)) {
        cli_note(c, "nothing new: the idempotency key has brought %s before",
                 n == 1 ? "this task" : "these tasks");
    }
    for (size_t i = 0; i < n; i++) {
        print_accepted(c, many ? json_array_get(tasks, i) : r->json);
    }
    if (c->out_tty && n == 1) {
        cli_note(c, "follow it: sje wait %s", ids[0]);
    } else if (c->out_tty) {
        cli_note(c, "%zu tasks accepted; see: sje list", n);
    }
}

static int submit(struct watch *w, const struct request *q, const char *name, bool many)
{
    struct cli *c = w->c;
    struct reply r CLEANUP(reply_done) = {0};
    size_t n = 0;
    int rc = post(w, q, name, &r);

    if (rc != CLI_OK) {
        return rc;
    }
    const char **ids CLEANUP(freep) = accepted(&r, many, &n);
    if (!ids) {
        return cli_strange(c, name);
    }
    if (!cli_flag(c, "wait")) {
        report(c, &r, ids, n, many);
        return CLI_OK;
    }
    w->reached = true;
    if (many) {
        cli_note(c, "%zu tasks accepted", n);
        return wait_for_many(w, ids, n);
    }
    cli_note(c, "task %s accepted", ids[0]);
    return wait_for_one(w, ids[0]);
}

int submit_run(struct cli *c)
{
    struct buf body CLEANUP(buf_free) = {0};
    struct watch w;
    char key[ID_TEXT_LEN];
    const char *given = cli_text(c, "idempotency-key");
    const char *name = streq(c->operand, "-") ? "standard input" : c->operand;
    bool many = false;

    buf_init(&body, FILE_LIMIT);
    int rc = given ? check_key(given) : CLI_OK;
    if (rc == CLI_OK) {
        rc = load(c, name, &body);
    }
    if (rc == CLI_OK) {
        rc = inspect(name, &body, &many);
    }
    if (rc != CLI_OK) {
        return rc;
    }
    struct id random = id_new();
    id_format(&random, key);
    struct request q = {.method = "POST",
                        .path = many ? "/tasks" : "/task",
                        .body = {body.data, body.len},
                        .idempotency_key = given ? given : key};
    watch_start(&w, c);
    rc = submit(&w, &q, name, many);
    watch_stop(&w);
    return rc;
}
