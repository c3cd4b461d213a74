/* Messages that no process of the cluster sends: what was sent earlier once more, and beats in the
 * name of a worker by somebody who is not it and does not know its UUID. Who does is not kept out,
 * see docs/protocol.md, Identity. */
#include "internal/json.h"
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define KEPT 40

struct kept {
    char *body;
    size_t len;
    char exchange[16];
    char key[96];
};

static struct {
    bool on;
    struct kept list[KEPT];
    size_t n;
} forge;

void forge_init(bool on)
{
    forge.on = on;
    for (; forge.n; forge.n--) {
        free(forge.list[forge.n - 1].body);
    }
}

/* Of a worker, to managers. */
static bool is_report(const char *exchange, const char *key)
{
    return strcmp(exchange, "sje.beat") == 0 ||
           (!*exchange &&
            (str_starts(str_of(key), STR("sje.manager.")) || strcmp(key, "sje.result") == 0));
}

void forge_note(const char *exchange, const char *key, const char *body, size_t len)
{
    struct kept *k;

    if (!forge.on || !is_report(exchange, key)) {
        return;
    }
    if (forge.n < KEPT) {
        k = &forge.list[forge.n++];
    } else {
        k = &forge.list[draw() % KEPT];
        free(k->body);
    }
    k->body = xmemdup(body, len);
    k->len = len;
    snprintf(k->exchange, sizeof(k->exchange), "%s", exchange);
    snprintf(k->key, sizeof(k->key), "%s", key);
}

static void replay(void)
{
    if (forge.n) {
        const struct kept *k = &forge.list[draw() % forge.n];

        trace("once more: %.150s", k->body);
        broker_inject(k->exchange, k->key, k->body, k->len);
    }
}

/* A beat that was kept; NULL: there is none. */
static json_t *some_beat(void)
{
    size_t first = forge.n ? draw() % forge.n : 0;

    for (size_t i = 0; i < forge.n; i++) {
        const struct kept *k = &forge.list[(first + i) % forge.n];
        json_t *j = NULL;

        if (*k->exchange && json_read(k->body, k->len, &j, NULL) == 0 &&
            streq(json_get_string(j, "type"), "beat")) {
            return j;
        }
        json_decref(j);
    }
    return NULL;
}

static void set(json_t *j, const char *name, json_t *v)
{
    MUST(json_object_set_new(j, name, v) == 0);
}

static void forge_beat(void)
{
    json_auto_t *j = some_beat();
    int64_t inc = j ? json_get_int(j, "inc", 0) : 0;
    char uuid[ID_TEXT_LEN];

    if (!j) {
        return;
    }
    if (chance(300)) {
        if (inc < 2) {
            return;
        }
        set(j, "inc", json_integer(between(1, inc - 1)));
    } else {
        struct id id = id_new();

        id_format(&id, uuid);
        set(j, "inc", json_integer(chance(500) ? between(inc, inc + 3) : (int64_t)1 << 40));
        set(j, "running", json_array());
        if (chance(500)) {
            set(j, "uuid", json_string(uuid));
        } else {
            json_object_del(j, "uuid");
        }
    }
    if (chance(500)) {
        set(j, "beat", json_integer(json_get_int(j, "beat", 0) + between(0, 20)));
    }
    if (chance(500)) {
        set(j, "reply", json_string("sje.worker.nobody.1"));
    }
    char *body CLEANUP(freep) = json_text(j);

    trace("forged: %.150s", body);
    broker_inject("sje.beat", "", body, strlen(body));
}

static void forge_leader(void)
{
    static const char body[] = "{\"v\":1,\"type\":\"leader\",\"epoch\":4611686018427387904}";

    trace("forged: %s", body);
    broker_inject("sje.ctl", "", body, strlen(body));
}

void forge_some(void)
{
    for (int64_t n = between(1, 6); n; n--) {
        if (chance(100)) {
            forge_leader();
        } else if (chance(500)) {
            replay();
        } else {
            forge_beat();
        }
    }
}
