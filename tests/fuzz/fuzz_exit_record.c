/* Anything as exit.json: a record within its bounds, or refused. */
#include "internal/str.h"
#include "pkg/executors/shimdir.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct exec_exit e = {0};
    struct err why = {0};

    int rc = shim_exit_parse((const char *)data, size, &e, &why);
    MUST(rc == 0 || ((rc == ERR_PARSE || rc == ERR_CONFLICT) && *why.text));
    if (rc == 0) {
        MUST(e.exit_code >= -1 && e.exit_code <= 255 && e.signal >= 0 && e.signal <= 64);
        MUST(strnlen(e.message, sizeof(e.message)) < sizeof(e.message));
        MUST(str_is_utf8(e.message, strlen(e.message)));
        MUST(strnlen(e.reason, sizeof(e.reason)) < sizeof(e.reason));
    }
    return 0;
}
