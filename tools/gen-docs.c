/* gen-docs: writes a document that is generated from code to stdout. `make docs` runs it. */
#include "internal/config.h"
#include "internal/metrics.h"
#include "pkg/task/step.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    void (*write)(struct buf *out);
} documents[] = {
    {"config", config_markdown},   {"config-man", config_man},       {"errors", err_markdown},
    {"metrics", metrics_markdown}, {"states", task_states_markdown},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof(documents) / sizeof(documents[0]); i++) {
        if (strcmp(argv[1], documents[i].name) == 0) {
            struct buf out;
            buf_init(&out, 1 << 20);
            documents[i].write(&out);
            fwrite(out.data, 1, out.len, stdout);
            buf_free(&out);
            return 0;
        }
    }
    fprintf(stderr, "usage: gen-docs DOCUMENT\n");
    return 2;
}
