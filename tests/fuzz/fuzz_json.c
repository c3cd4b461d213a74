/* Any bytes as JSON: what is read is written so that it reads back the same, twice alike. */
#include "internal/json.h"
#include "internal/str.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

/* Any bytes become a JSON string. */
static void check_lossy(const char *p, size_t len)
{
    json_auto_t *j = json_string_lossy(p, len);
    struct buf b CLEANUP(buf_free) = {.max = SIZE_MAX};
    json_auto_t *back = NULL;

    json_add_string(&b, p, len);
    MUST(json_read(b.data, b.len, &back, NULL) == 0);
    MUST(json_equal(j, back));
    MUST(!str_is_utf8(p, len) || memchr(p, '\0', len) || json_string_length(j) == len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_auto_t *j = NULL;
    json_auto_t *back = NULL;
    struct err why = {0};

    if (size) {
        check_lossy((const char *)data, size);
    }
    if (json_read((const char *)data, size, &j, &why) < 0) {
        MUST(why.code == ERR_PARSE && *why.text);
        return 0;
    }
    char *once CLEANUP(freep) = json_text(j);
    MUST(json_read(once, strlen(once), &back, NULL) == 0);
    MUST(json_equal(j, back));
    char *twice CLEANUP(freep) = json_text(back);
    MUST(streq(once, twice));
    return 0;
}
