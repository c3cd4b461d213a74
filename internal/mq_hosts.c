#include "internal/mq_hosts.h"

#include "internal/id.h"

#include <stdlib.h>

static bool is_port(struct str s, int64_t *ret)
{
    return str_to_i64(s, 1, UINT16_MAX, ret);
}

static struct mq_host parse_one(struct str s, int port)
{
    struct mq_host h = {.text = xstrndup(s.p, s.len)};
    struct str name = s;
    struct str rest = {0};
    int64_t number = port;
    bool ok = true;

    if (str_starts(s, STR("["))) {
        name = str_cut((struct str){s.p + 1, s.len - 1}, ']', &rest);
        ok = name.len + 1 < s.len && /* the bracket is closed */
             (rest.len == 0 ||
              (rest.p[0] == ':' && is_port((struct str){rest.p + 1, rest.len - 1}, &number)));
    } else if (s.len && memchr(s.p, ':', s.len) == memrchr(s.p, ':', s.len)) {
        name = str_cut(s, ':', &rest);
        ok = name.len == s.len || is_port(rest, &number);
    }
    if (ok && name.len && number > 0 && number <= UINT16_MAX) {
        h.name = xstrndup(name.p, name.len);
        h.port = (uint16_t)number;
    }
    return h;
}

void mq_hosts_parse(struct mq_hosts *h, struct str list, int port)
{
    *h = (struct mq_hosts){0};
    do {
        struct str one = str_trim(str_cut(list, ',', &list));

        if (one.len || (h->count == 0 && list.len == 0)) {
            h->items = xrealloc(h->items, (h->count + 1) * sizeof(*h->items));
            h->items[h->count++] = parse_one(one, port);
        }
    } while (list.len);
}

void mq_hosts_shuffle(struct mq_hosts *h)
{
    for (size_t i = h->count - 1; i > 0; i--) {
        size_t k = random_u64() % (i + 1);
        struct mq_host tmp = h->items[i];

        h->items[i] = h->items[k];
        h->items[k] = tmp;
    }
}

void mq_hosts_done(struct mq_hosts *h)
{
    for (size_t i = 0; i < h->count; i++) {
        free(h->items[i].name);
        free(h->items[i].text);
    }
    free(h->items);
    *h = (struct mq_hosts){0};
}
