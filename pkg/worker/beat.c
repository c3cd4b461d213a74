#include "pkg/worker/beat.h"

#include "pkg/worker/run.h"

#include <unistd.h>

static void add_strings(struct buf *b, const char *key, const char *const *list)
{
    buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; list[i]; i++) {
        buf_adds(b, i ? "," : "");
        json_add_string(b, list[i], strlen(list[i]));
    }
    buf_addc(b, ']');
}

static void add_offer(struct buf *b, const struct beat_facts *f, const struct wcore *core)
{
    size_t n = 0;
    const struct wcore_offer *list = wcore_offers(core, &n);
    bool none = wcore_is_holding_off(core);
    bool first = true;

    buf_adds(b, ",\"jobTypes\":[");
    for (size_t i = 0; i < n && !none; i++) {
        if (list[i].type && !list[i].why) {
            buf_adds(b, first ? "" : ",");
            json_add_string(b, list[i].type, strlen(list[i].type));
            first = false;
        }
    }
    buf_adds(b, "],\"holdOff\":[");
    first = true;
    for (size_t i = 0; i < n; i++) {
        const struct wcore_offer *o = &list[i];

        if (!o->why) {
            continue;
        }
        buf_adds(b, first ? "{\"type\":" : ",{\"type\":");
        if (o->type) {
            json_add_string(b, o->type, strlen(o->type));
        } else {
            buf_adds(b, "null");
        }
        buf_adds(b, ",\"reason\":");
        json_add_string(b, o->why, strlen(o->why));
        if (o->until) {
            buf_addf(b, ",\"untilMs\":%lld}", (long long)(o->until + f->wall_minus_boot));
        } else {
            buf_adds(b, ",\"untilMs\":null}");
        }
        first = false;
    }
    buf_addc(b, ']');
}

static void add_self(struct buf *b, const struct beat_facts *f, struct wcore *core, int64_t number)
{
    const struct config *c = f->config;
    bool full = wcore_is_holding_off(core);

    buf_adds(b, "{\"v\":1,\"type\":\"beat\",");
    report_add_from(b, &f->from);
    buf_addf(b, ",\"beat\":%lld,\"heartbeatMs\":%lld,\"adapts\":true", (long long)number,
             (long long)wcore_heartbeat_ms(core));
    buf_adds(b, ",\"host\":");
    json_add_string(b, f->host, strlen(f->host));
    buf_addf(b, ",\"pid\":%d,\"version\":\"%s\",\"startedAt\":%lld", (int)getpid(), SJE_VERSION,
             (long long)f->started_at);
    add_strings(b, "pools", (const char *const *)c->node.pools.items);
    add_offer(b, f, core);
    buf_addf(b, ",\"slots\":%d,\"free\":%d,\"cpus\":%d,\"memoryMb\":%d", wcore_slots(core),
             full ? 0 : wcore_slots_free(core), c->node.cpus, c->node.memory_mb);
    buf_addf(b, ",\"draining\":%s,\"stopping\":%s", wcore_is_draining(core) ? "true" : "false",
             wcore_has_stopped(core) ? "true" : "false");
}

static void add_claiming(struct buf *b, struct wcore *core)
{
    bool first = true;

    buf_adds(b, ",\"claiming\":[");
    LIST_EACH(wcore_in_state(core, WCORE_CLAIMING), it)
    {
        buf_adds(b, first ? "{" : ",{");
        report_add_key(b, &CONTAINER_OF(it, struct wcore_attempt, in_state)->key);
        buf_addc(b, '}');
        first = false;
    }
    buf_addc(b, ']');
}

/* What most of them ask for goes without saying. */
static void add_need(struct buf *b, const struct wcore_need *n)
{
    if (n->slots != 1) {
        buf_addf(b, ",\"slots\":%d", n->slots);
    }
    if (n->cpus_milli) {
        buf_addf(b, ",\"cpusMilli\":%d", n->cpus_milli);
    }
    if (n->memory_mb) {
        buf_addf(b, ",\"memoryMb\":%d", n->memory_mb);
    }
}

static void add_running(struct buf *b, struct wcore *core, bool details)
{
    bool first = true;

    buf_adds(b, ",\"running\":[");
    for (enum wcore_state s = WCORE_STARTING; s <= WCORE_ENDED; s++) {
        LIST_EACH(wcore_in_state(core, s), it)
        {
            const struct wcore_attempt *a = CONTAINER_OF(it, struct wcore_attempt, in_state);
            const struct run *r = a->user;

            buf_adds(b, first ? "{" : ",{");
            report_add_key(b, &a->key);
            buf_addf(b, ",\"token\":\"%lld\",\"leaseMs\":%lld,\"phase\":\"%s\"",
                     (long long)a->token, (long long)a->lease_ms, wcore_state_name(s));
            add_need(b, &a->need);
            if (details && s != WCORE_ENDED) {
                report_add_status(b, run_status(r), true);
            }
            buf_addc(b, '}');
            first = false;
        }
    }
    buf_addc(b, ']');
}

void beat_write(struct buf *b, const struct beat_facts *f, struct wcore *core, int64_t number)
{
    add_self(b, f, core, number);
    add_claiming(b, core);
    size_t before = b->len;
    add_running(b, core, true);
    if (b->failed || b->len > REPORT_MAX) {
        b->failed = false;
        b->len = before;
        add_running(b, core, false);
    }
    buf_addc(b, '}');
}
