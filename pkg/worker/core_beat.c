/* Beats, and the leases that their answers renew. */
#include "pkg/worker/core_priv.h"

static void renew(struct wcore *c, enum wcore_state s, int64_t beat, int64_t sent_at)
{
    LIST_EACH(&c->in_state[s], it)
    {
        struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

        if (a->first_beat && a->first_beat <= beat && a->unsure_beat != beat && !a->forget &&
            !a->lease_over && sent_at + a->lease_ms > a->deadline) {
            a->deadline = sent_at + a->lease_ms;
            wcore_watch(c, a);
            c->ops->lease(c->arg, a);
        }
    }
}

bool wcore_on_beat_ack(struct wcore *c, int64_t now, int64_t beat)
{
    (void)now;
    if (beat < 1 || c->beats[beat % WCORE_BEATS_REMEMBERED].beat != beat) {
        return false;
    }
    int64_t sent_at = c->beats[beat % WCORE_BEATS_REMEMBERED].sent_at;
    if (c->eager > 0) {
        c->eager = 0;
        c->beat_at = c->beat_tried_at + c->every_ms;
    }
    renew(c, WCORE_STARTING, beat, sent_at);
    renew(c, WCORE_RUNNING, beat, sent_at);
    renew(c, WCORE_STOPPING, beat, sent_at);
    return true;
}

void wcore_on_unsure(struct wcore *c, const struct wcore_key *k, int64_t beat)
{
    struct wcore_attempt *a = wcore_find(c, k);

    if (a) {
        a->unsure_beat = beat;
    }
}

int64_t wcore_beat_due(const struct wcore *c)
{
    if (!c->ready || c->stopped) {
        return INT64_MAX;
    }
    return c->news ? MIN(c->beat_at, c->beat_tried_at + WCORE_BEAT_GAP_MS) : c->beat_at;
}

/* The next beat says how often the others come. */
void wcore_on_dead_after(struct wcore *c, int64_t dead_after_ms)
{
    c->news = c->news || c->dead_after_ms != dead_after_ms;
    c->dead_after_ms = dead_after_ms;
}

/* Three beats in what the cluster waits for a silent worker, and in the shortest lease that is
 * held, whoever granted it for how long. */
static int64_t beat_every(const struct wcore *c)
{
    int64_t every = c->set.heartbeat_ms;

    if (c->dead_after_ms) {
        every = MIN(every, c->dead_after_ms / 3);
    }
    for (enum wcore_state s = WCORE_STARTING; s <= WCORE_STOPPING; s++) {
        LIST_EACH(&c->in_state[s], it)
        {
            every = MIN(every, CONTAINER_OF(it, struct wcore_attempt, in_state)->lease_ms / 3);
        }
    }
    return MAX(every, (int64_t)WCORE_BEAT_GAP_MS);
}

void wcore_send_beat(struct wcore *c, int64_t now)
{
    int64_t n = c->beat + 1;
    int64_t tenth = 0;

    c->every_ms = beat_every(c);
    tenth = MAX(c->every_ms / 10, (int64_t)1);
    c->news = false;
    c->beat_tried_at = now;
    c->beat_at =
        now + c->every_ms - tenth + (int64_t)(c->ops->random(c->arg) % (uint64_t)(2 * tenth + 1));
    if (c->ops->send_beat(c->arg, n) != 0) {
        return;
    }
    if (c->eager > 0) {
        c->eager--;
        c->beat_at = MIN(c->beat_at, now + WCORE_EAGER_MS);
    }
    c->beat = n;
    c->beats[n % WCORE_BEATS_REMEMBERED].beat = n;
    c->beats[n % WCORE_BEATS_REMEMBERED].sent_at = now;
    for (enum wcore_state s = WCORE_STARTING; s <= WCORE_ENDED; s++) {
        LIST_EACH(&c->in_state[s], it)
        {
            struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);

            a->first_beat = a->first_beat ? a->first_beat : n;
            if (s == WCORE_RUNNING && now - a->started_at >= WCORE_PROVEN_MS) {
                wcore_prove(c, a);
            }
        }
    }
}
