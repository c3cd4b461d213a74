#include "pkg/task/who.h"

#include <stdio.h>

struct who who_of(const char *node, const struct id *uuid, int64_t inc)
{
    struct who w = {.inc = inc};

    if (node) {
        memcpy(w.node, node, MIN(strlen(node), (size_t)NODE_ID_MAX));
    }
    if (uuid) {
        w.uuid = *uuid;
    }
    return w;
}

bool who_is_nobody(const struct who *w)
{
    return !*w->node;
}

bool who_has_uuid(const struct who *w)
{
    static const struct id none = {{0}};

    return !id_eq(&w->uuid, &none);
}

bool who_same_worker(const struct who *a, const struct who *b)
{
    return strcmp(a->node, b->node) == 0 && id_eq(&a->uuid, &b->uuid);
}

bool who_same_process(const struct who *a, const struct who *b)
{
    return who_same_worker(a, b) && a->inc == b->inc;
}

bool who_continues(const struct who *later, const struct who *before)
{
    return strcmp(later->node, before->node) == 0 &&
           (!who_has_uuid(before) || id_eq(&later->uuid, &before->uuid));
}

bool who_succeeds(const struct who *later, const struct who *before)
{
    return who_continues(later, before) && later->inc > before->inc;
}

void who_tail(const struct who *w, char tail[WHO_TAIL_LEN])
{
    char uuid[ID_TEXT_LEN];

    id_format(&w->uuid, uuid);
    memcpy(tail, uuid + ID_TEXT_LEN - WHO_TAIL_LEN, WHO_TAIL_LEN);
}

const char *who_text(const struct who *w, char text[WHO_TEXT_LEN])
{
    char tail[WHO_TAIL_LEN];

    who_tail(w, tail);
    if (who_has_uuid(w)) {
        snprintf(text, WHO_TEXT_LEN, "%s (uuid …%s, process %lld)", w->node, tail,
                 (long long)w->inc);
    } else {
        snprintf(text, WHO_TEXT_LEN, "%s (process %lld)", w->node, (long long)w->inc);
    }
    return text;
}
