/* Any text as a configuration: taken whole or refused with one printable sentence. */
#include "internal/config.h"
#include "internal/str.h"
#include "tests/fuzz/fuzz.h"

static void check_taken(const struct config *c)
{
    struct buf shown CLEANUP(buf_free) = {.max = 64u << 20};
    struct buf skipped CLEANUP(buf_free) = {.max = 4096};
    json_auto_t *j = NULL;
    struct config *again CLEANUP(config_freep) = config_reload(c, c, &skipped);

    MUST(skipped.len == 0);
    config_json(c, &shown);
    MUST(json_read(shown.data, shown.len, &j, NULL) == 0);
    MUST(*c->node.node_id && c->node.roles.count && c->node.pools.count);
    MUST(again->api.port == c->api.port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *c CLEANUP(config_freep) = NULL;
    struct err why = {0};

    if (config_load_text("f.yaml", (const char *)data, size, &c, &why) == 0) {
        check_taken(c);
        return 0;
    }
    MUST(!c && why.code == ERR_CONFIG && *why.text);
    MUST(str_is_utf8(why.text, strlen(why.text)));
    for (const char *p = why.text; *p; p++) {
        MUST((unsigned char)*p >= 0x20 && *p != 0x7f);
    }
    return 0;
}
