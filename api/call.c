#include "api/call.h"

#include "internal/log.h"

#include <stdio.h>
#include <stdlib.h>

void call_free(struct call *c)
{
    struct api *api = c->api;

    list_remove(&c->node);
    if (c->free_state) {
        c->free_state(c->state);
    }
    free(c->name);
    free(c);
    if (!api->http && api->calls.count == 0) {
        free(api);
    }
}

static void log_answer(const struct call *c, int status)
{
    log_debug(NULL, "%s %s: %d", http_method(c->request), http_path(c->request), status);
}

void call_reply(struct call *c, int status, const char *content_type, struct str body,
                const struct http_field *fields, size_t n)
{
    log_answer(c, status);
    http_reply(c->request, status, content_type, body, fields, n);
    call_free(c);
}

void call_json(struct call *c, int status, struct buf *b)
{
    if (b->failed) {
        call_problem(c, 500, "the answer is larger than %zu bytes", b->max);
        return;
    }
    call_reply(c, status, NULL, (struct str){b->data, b->len}, NULL, 0);
}

static void answer_problem(struct call *c, int status, const char *detail,
                           const struct http_field *errors, size_t n)
{
    log_answer(c, status);
    http_problem(c->request, status, detail, errors, n, NULL, NULL, 0);
    call_free(c);
}

void call_problem(struct call *c, int status, const char *fmt, ...)
{
    char detail[320];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    answer_problem(c, status, detail, NULL, 0);
}

void call_problems(struct call *c, int status, const struct task_problems *p)
{
    struct http_field errors[TASK_PROBLEMS_MAX];
    char detail[sizeof(p->list[0]) + 2];

    for (int i = 0; i < p->count; i++) {
        errors[i] = (struct http_field){p->list[i].field, p->list[i].message};
    }
    snprintf(detail, sizeof(detail), "%s%s%s", p->list[0].field, *p->list[0].field ? " " : "",
             p->list[0].message);
    answer_problem(c, status, detail, errors, (size_t)p->count);
}

void call_invalid(struct call *c, const char *field, const char *fmt, ...)
{
    struct task_problems p = {.count = 1};
    va_list ap;

    snprintf(p.list[0].field, sizeof(p.list[0].field), "%s", field);
    va_start(ap, fmt);
    vsnprintf(p.list[0].message, sizeof(p.list[0].message), fmt, ap);
    va_end(ap);
    call_problems(c, 422, &p);
}

void call_error(struct call *c, int rc, const struct err *why)
{
    int status = err_http_status(rc);
    const char *text = why && *why->text ? why->text : err_text(rc);

    if (status == 500) {
        log_error(NULL, "%s %s failed: %s", http_method(c->request), http_path(c->request), text);
    }
    answer_problem(c, status, text, NULL, 0);
}

bool call_query_int(struct call *c, const char *name, int64_t min, int64_t max, int64_t fallback,
                    int64_t *ret)
{
    const char *text = http_query(c->request, name);

    if (!text) {
        *ret = fallback;
        return true;
    }
    if (!str_to_i64(str_of(text), min, max, ret)) {
        call_invalid(c, name, "must be an integer from %lld to %lld", (long long)min,
                     (long long)max);
        return false;
    }
    return true;
}

bool call_query_bool(struct call *c, const char *name, bool *ret)
{
    const char *text = http_query(c->request, name);

    if (text && !streq(text, "true") && !streq(text, "false")) {
        call_invalid(c, name, "must be true or false");
        return false;
    }
    *ret = streq(text, "true");
    return true;
}
