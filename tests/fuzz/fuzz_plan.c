/* Anything as the shim's plan: complete, or refused with a sentence. The shim is no part of the
 * library, so what is tested is included. */
#include "cmd/sje-shim/plan.c"
#include "cmd/sje-shim/util.c"

#include "internal/base.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xmemdup(data, size);
    struct plan p;

    const char *why = plan_parse(text, size, &p);
    MUST(!why || *why);
    if (!why) {
        MUST(p.argv[0] && *p.argv[0] && p.log_limit > 0);
        for (size_t i = 0; p.envp[i]; i++) {
            MUST(strchr(p.envp[i], '='));
        }
        MUST(p.grace_ms >= 0 && p.timeout_ms >= 0 && p.lease_until > 0);
    }
    free(p.argv);
    free(p.needs);
    free(p.envp);
    free(p.groups);
    free(text);
    return 0;
}
