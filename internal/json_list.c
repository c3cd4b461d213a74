#include "internal/json_list.h"

#include "internal/err.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t skip_blanks(struct str text, size_t at)
{
    while (at < text.len && is_blank(text.p[at])) {
        at++;
    }
    return at;
}

/* Behind the string that begins at `at`; the end of the text where it has none. */
static size_t skip_string(struct str text, size_t at)
{
    for (at++; at < text.len && text.p[at] != '"'; at++) {
        at += text.p[at] == '\\';
    }
    return MIN(at + 1, text.len);
}

/* Behind the '[' of the member that is called so; 0: not found. */
static size_t find_member(struct str text, size_t at, struct str name)
{
    int depth = 0;

    while (at < text.len) {
        char c = text.p[at];

        if (c == '"') {
            size_t start = at + 1;

            at = skip_string(text, at);
            size_t colon = skip_blanks(text, at);
            size_t value = skip_blanks(text, colon + 1);
            if (depth == 1 && colon < text.len && text.p[colon] == ':' && value < text.len &&
                text.p[value] == '[' &&
                str_eq((struct str){text.p + start, at - 1 - start}, name)) {
                return value + 1;
            }
            continue;
        }
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        at++;
    }
    return 0;
}

void json_list_init(struct json_list *l, struct str text, const char *name, size_t head)
{
    struct str first = {text.p, MIN(text.len, head)};
    size_t at = skip_blanks(first, 0);

    *l = (struct json_list){.text = text};
    if (at < first.len && first.p[at] == '[') {
        l->begin = at + 1;
    } else if (at < first.len && first.p[at] == '{') {
        l->begin = find_member(first, at, str_of(name));
    }
    l->at = l->element = l->begin;
}

void json_list_rewind(struct json_list *l)
{
    *l =
        (struct json_list){.text = l->text, .begin = l->begin, .at = l->begin, .element = l->begin};
}

static struct str trim(struct str s)
{
    size_t from = skip_blanks(s, 0);

    s = (struct str){s.p + from, s.len - from};
    while (s.len && is_blank(s.p[s.len - 1])) {
        s.len--;
    }
    return s;
}

/* The element that ends here; an array of none has none. */
static bool take(struct json_list *l, struct str *ret)
{
    *ret = trim((struct str){l->text.p + l->element, l->at - l->element});
    l->element = l->at + 1;
    if (l->end && ret->len == 0 && l->count == 0) {
        return false;
    }
    l->count++;
    return true;
}

bool json_list_next(struct json_list *l, size_t budget, struct str *ret, bool *more)
{
    const char *p = l->text.p;
    size_t until = l->text.len - l->at > budget ? l->at + budget : l->text.len;

    *more = false;
    if (l->end) {
        return false;
    }
    for (; l->at < until; l->at++) {
        char c = p[l->at];

        if (l->in_string) {
            l->at += c == '\\';
            l->in_string = c != '"';
        } else if (c == '"') {
            l->in_string = true;
        } else if (c == '[' || c == '{') {
            l->depth++;
        } else if ((c == ']' || c == '}') && l->depth > 0) {
            l->depth--;
        } else if (c == ']' || (c == ',' && l->depth == 0)) {
            l->end = c == ']' ? l->at : 0;
            bool taken = take(l, ret);
            l->at++;
            return taken;
        }
    }
    l->at = MIN(l->at, l->text.len);
    *more = l->at < l->text.len;
    return false;
}

int json_list_rest(const struct json_list *l, struct buf *b)
{
    if (!l->end) {
        return ERR_PARSE;
    }
    buf_add(b, l->text.p, l->begin);
    return buf_add(b, l->text.p + l->end, l->text.len - l->end) < 0 || b->failed ? ERR_TOO_LARGE
                                                                                 : 0;
}
