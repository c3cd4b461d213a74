/* Whatever a peer may put into a queue of a manager: taken as a message, or refused. */
#include "pkg/manager/messages.h"
#include "tests/fuzz/fuzz.h"

static void check_results(const struct result_msg *r)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct result_entry *e = &r->results[i];
        json_auto_t *j = NULL;

        MUST(e->attempt >= 1 && e->outcome <= OUTCOME_LOST);
        MUST(!e->error || json_read(e->error, strlen(e->error), &j, NULL) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct message m CLEANUP(message_free);
    struct err why = {0};

    if (message_read((struct str){(const char *)data, size}, &m, &why) < 0) {
        MUST(*why.text);
        return 0;
    }
    switch (m.type) {
    case MSG_CLAIM:
        MUST(m.claim.who.node && m.claim.reply && m.claim.n <= ENTRIES_MAX);
        break;
    case MSG_BEAT:
        MUST(m.beat.who.node && m.beat.reply && m.beat.slots >= 0);
        break;
    case MSG_RESULTS:
        check_results(&m.results);
        break;
    case MSG_LOG:
        MUST(m.rid >= 0 && m.size >= 0 && m.data.len <= size);
        break;
    case MSG_READY:
    case MSG_DUE:
    case MSG_FINAL:
    case MSG_GRANTED:
    case MSG_CANCEL:
    case MSG_ORDERS:
        break;
    case MSG_LEADER:
        MUST(m.epoch > 0);
        break;
    }
    return 0;
}
