/* detour.h: the way of beats to a manager's HTTP API, while the broker is away or nobody answers
 * through it (docs/protocol.md, Beat).
 *
 * Tries one manager after the other: the configured ones, then those whose answers were heard of.
 * The latter are kept in workDir/managers, so that a worker that is started while the broker is
 * away finds them too. One call at a time; a beat that comes meanwhile replaces the one that waits.
 *
 * Threads: the loop thread only. That file is read at the start and written in a lane.
 */
#ifndef SJE_WORKER_DETOUR_H
#define SJE_WORKER_DETOUR_H

#include "internal/err.h"
#include "internal/lane.h"
#include "internal/str.h"

#define DETOUR_URLS_MAX 16
#define DETOUR_URL_MAX  1024

struct detour;

struct detour_options {
    struct lane *lane; /* outlives it */
    const char *urls;  /* configured: comma list, may be empty; copied */
    const char *dir;   /* where `managers` is; copied */
    const char *token; /* shown to managers; NULL or "": none; copied */
    void *arg;
    /* false: that is no answer to a beat, so whoever listens there is no manager. Not called from
     * inside detour_send(). */
    bool (*on_answer)(void *arg, struct str body);
};

struct detour *detour_open(uv_loop_t *loop, const struct detour_options *o);
/* Where a manager can be reached; NULL and what is no http address are ignored. */
void detour_learn(struct detour *d, const char *url);
/* 0: taken, which promises nothing. ERR_NOT_FOUND: no manager is known. The body is copied. A
 * manager that has not answered within timeout_ms, the pace of beats, is left for the next one. */
int detour_send(struct detour *d, struct str body, int64_t timeout_ms);
void detour_close(struct detour *d, void (*on_closed)(void *arg), void *arg);

#endif
