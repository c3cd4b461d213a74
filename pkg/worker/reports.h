/* reports.h: what a worker sends to managers, as JSON text (docs/protocol.md, Messages): claims and
 * results; beats are in beat.h. No I/O. Errors show as `failed` of the buffer.
 */
#ifndef SJE_WORKER_REPORTS_H
#define SJE_WORKER_REPORTS_H

#include "internal/buf.h"
#include "internal/json.h"
#include "pkg/task/who.h"
#include "pkg/worker/core.h"

#define REPORT_MAX        (256 * 1024) /* a message; one large result may take more */
#define REPORT_OUTPUT_MAX (192 * 1024) /* a larger output is replaced by a warning */
#define REPORT_ERROR_MAX  (8 * 1024)   /* bytes of a message; the rest is cut off */

struct report_from {
    struct who who;
    const char *reply;
};
/* Appends "worker":…,"uuid":…,"inc":…,"reply":… */
void report_add_from(struct buf *b, const struct report_from *from);

/* What is known of a running task; strings are owned, NULL where unknown. */
struct report_status {
    char *application_id;
    char *ui_url;
    char *text;
    int64_t done; /* -1: unknown */
    int64_t total;
};
void report_status_done(struct report_status *s);
/* Appends ,"applicationId":…,"progress":… for what is known; with `live` the UI's address too. */
void report_add_status(struct buf *b, const struct report_status *s, bool live);
/* Appends "task":…,"attempt":… */
void report_add_key(struct buf *b, const struct wcore_key *k);

void report_claims(struct buf *b, const struct report_from *from, struct wcore_attempt *const *list,
                   size_t n, int64_t beat);

struct report_result {
    struct wcore_key key;
    int64_t token;
    const char *outcome;  /* "succeeded", … */
    const json_t *error;  /* object or NULL */
    const json_t *output; /* or NULL */
    const char *exact;    /* it as text, where the tree does not hold all of it; or NULL */
    const char *warning;  /* or NULL */
    int64_t started_at;   /* wall ms; 0: it was not */
    int64_t finished_at;
};
/* One result as text, owned by the caller; from here on it never changes. */
char *report_result(const struct report_result *r, const struct report_status *s);
/* The message around results: begin, the texts with commas between, end. */
void report_results_begin(struct buf *b, const struct report_from *from);
void report_results_end(struct buf *b);

json_t *report_error(const char *kind, const char *message);

#endif
