/* orders.h: what managers send to a worker, from JSON text (docs/protocol.md, Messages). No I/O.
 *
 * Readers take whatever a peer sent: ERR_PARSE for a message that is not understood as a whole,
 * never half of it. What they return points into the parsed document, which the order owns.
 */
#ifndef SJE_WORKER_ORDERS_H
#define SJE_WORKER_ORDERS_H

#include "internal/err.h"
#include "internal/json.h"
#include "internal/str.h"
#include "pkg/worker/core.h"

#define HINT_BODY_MAX  16384
#define ORDER_BODY_MAX (3 * 1024 * 1024) /* grants, with one large specification among them */
#define ORDER_ENTRIES  1000
#define LOG_LIMIT_MAX  (256 * 1024)
#define LOG_WAIT_MAX   60000

struct order_grant {
    struct wcore_key key;
    int64_t token;
    int64_t beat; /* of the claim that was granted */
    int64_t lease_ms;
    int32_t losses;         /* and returns: attempts of which no end was told */
    int32_t returns;        /* of these */
    bool elsewhere;         /* another worker could take it too */
    struct wcore_need need; /* of the specification */
    const char *type;       /* NULL: it names none */
    json_t *spec;           /* borrowed */
};
struct order_deny {
    struct wcore_key key;
    enum wcore_deny how;
};
struct order_keys {
    struct wcore_key *keys; /* owned */
    size_t n;
};
struct order_log {
    struct wcore_key key;
    const char *stream; /* "stdout", "stderr" */
    int64_t offset;     /* negative: that many bytes before the end */
    int64_t limit;
    int64_t wait_ms;
    const char *reply; /* a manager's queue */
    int64_t rid;
};

enum order_type {
    ORDER_GRANTS,
    ORDER_BEAT_ACK,
    ORDER_OUTDATED,
    ORDER_CANCEL,
    ORDER_REVOKE,
    ORDER_DRAIN,
    ORDER_LOG,
    ORDER_APPLIED,
    ORDER_HINT,
};
struct order {
    enum order_type type;
    json_t *doc;
    struct order_grant *grants; /* GRANTS; owned */
    size_t n_grants;
    struct order_deny *denies; /* GRANTS; owned */
    size_t n_denies;
    const char *url;        /* of the manager that sent it; NULL */
    bool addressed;         /* it says for whom it is */
    struct id to;           /* zero: for one that has no UUID */
    int64_t beat;           /* BEAT_ACK, REVOKE */
    bool drain;             /* BEAT_ACK, DRAIN */
    int64_t dead_after_ms;  /* BEAT_ACK: of the cluster; 0: it does not say */
    bool refused;           /* BEAT_ACK: another worker of our name lives */
    const char *other_host; /* where, also OUTDATED; never NULL then */
    int64_t other_pid;
    int64_t inc;              /* OUTDATED: of the process that was heard */
    struct order_keys unsure; /* BEAT_ACK */
    struct order_keys revoke; /* BEAT_ACK, REVOKE */
    struct order_keys cancel; /* BEAT_ACK, CANCEL */
    struct order_keys applied;
    struct order_log log;
    struct wcore_hint *hint; /* HINT, directed; owned */
};

/* Frees with order_free() in any case. */
int order_read(struct str body, struct order *o, struct err *reterr) NODISCARD;
void order_free(struct order *o); /* for CLEANUP(order_free) */
/* Else it is for somebody who says that our queue is its own. */
bool order_is_for(const struct order *o, const struct id *uuid);

/* Fills all but delivery. `manager` is empty where it is not the name of such a queue.
 */
int hint_read(struct str body, struct wcore_hint *ret, struct err *reterr) NODISCARD;

#endif
