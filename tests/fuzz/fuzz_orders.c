/* What a manager may send to a worker: understood as a whole, or refused; never half of it. */
#include "pkg/worker/orders.h"
#include "tests/fuzz/fuzz.h"

static void check_keys(const struct order_keys *k)
{
    MUST(k->n <= ORDER_ENTRIES);
    for (size_t i = 0; i < k->n; i++) {
        MUST(k->keys[i].attempt >= 1);
    }
}

static void check_order(const struct order *o)
{
    MUST(o->doc && o->n_grants <= ORDER_ENTRIES && o->n_denies <= ORDER_ENTRIES);
    for (size_t i = 0; i < o->n_grants; i++) {
        MUST(o->grants[i].key.attempt >= 1 && o->grants[i].lease_ms > 0 && o->grants[i].spec);
    }
    check_keys(&o->unsure);
    check_keys(&o->revoke);
    check_keys(&o->cancel);
    check_keys(&o->applied);
    MUST(o->type != ORDER_HINT || (o->hint->directed && o->hint->n >= 1));
    if (o->type == ORDER_LOG) {
        MUST(o->log.limit >= 0 && o->log.limit <= LOG_LIMIT_MAX && o->log.wait_ms >= 0 &&
             o->log.wait_ms <= LOG_WAIT_MAX && o->log.rid >= 0);
        MUST(strncmp(o->log.reply, "sje.manager.", 12) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str body = {(const char *)data, size};
    struct wcore_hint hint = {0};
    struct order o;

    if (order_read(body, &o, NULL) == 0) {
        check_order(&o);
    }
    order_free(&o);
    if (hint_read(body, &hint, NULL) == 0) {
        MUST(hint.n >= 1 && hint.n <= WCORE_HINT_TASKS && strlen(hint.manager) < WCORE_QUEUE_LEN);
        for (size_t i = 0; i < hint.n; i++) {
            MUST(hint.tasks[i].key.attempt >= 1 && hint.tasks[i].need.slots >= 1 &&
                 hint.tasks[i].need.cpus_milli >= 0 && hint.tasks[i].need.memory_mb >= 0);
        }
    }
    return 0;
}
