#include "pkg/executors/line.h"

#include <ctype.h>

/* What stands behind the last carriage return is what a terminal would show. */
bool line_next(struct str *rest, struct str *line)
{
    if (rest->len == 0) {
        return false;
    }
    *line = str_cut(*rest, '\n', rest);
    while (line->len && line->p[line->len - 1] == '\r') {
        line->len--;
    }
    const char *at = line->len ? memrchr(line->p, '\r', line->len) : NULL;
    if (at) {
        *line = (struct str){at + 1, (size_t)(line->p + line->len - at) - 1};
    }
    return true;
}

bool line_peek(struct str rest, struct str *line)
{
    *line = (struct str){"", 0};
    return line_next(&rest, line);
}

struct str line_skip(struct str s, size_t n)
{
    return (struct str){s.p + n, s.len - n};
}

bool line_contains(struct str s, struct str part)
{
    return part.len == 0 || (s.len && memmem(s.p, s.len, part.p, part.len));
}

bool line_is_blank(struct str line)
{
    return str_trim(line).len == 0;
}

bool line_is_indented(struct str line)
{
    return line.len && isspace((unsigned char)line.p[0]);
}

/* A rule, a frame or a marker has none. U+2500 to U+25FF are what boxes are drawn with. */
bool line_has_letter(struct str line)
{
    for (size_t i = 0; i < line.len; i++) {
        unsigned char c = (unsigned char)line.p[i];

        if (c == 0xe2 && i + 2 < line.len && ((unsigned char)line.p[i + 1] & 0xfc) == 0x94) {
            i += 2;
        } else if (isalnum(c) || c >= 0x80) {
            return true;
        }
    }
    return false;
}

/* ---- lines of a log ---- */

static enum level level_at(struct str s)
{
    static const struct {
        const char *word;
        enum level level;
    } levels[] = {{"TRACE", LOW},  {"DEBUG", LOW},   {"INFO", LOW},   {"NOTICE", LOW},
                  {"WARN", LOW},   {"WARNING", LOW}, {"ERROR", HIGH}, {"CRITICAL", HIGH},
                  {"FATAL", HIGH}, {"SEVERE", HIGH}};

    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        struct str word = str_of(levels[i].word);

        if (str_starts(s, word) && (s.len == word.len || strchr(" :]|)\t,-", s.p[word.len]))) {
            return levels[i].level;
        }
    }
    return NO_LEVEL;
}

/* {"ts": …, "level": "ERROR", …} */
static enum level level_in_json(struct str line)
{
    const char *at = memmem(line.p, line.len, "\"level\":", 8);
    struct str value = at ? line_skip(line, (size_t)(at - line.p) + 8) : (struct str){"", 0};

    value = str_trim(value);
    value = str_cut(value.len ? line_skip(value, 1) : value, '"', &(struct str){0});
    return level_at(value);
}

/* "26/11/22 23:44:45 INFO X: …", "2026-11-22 23:44:45,1 - x - ERROR - …", "[main] WARN …",
 * "ERROR:root:…". *said begins with the level. */
enum level line_level(struct str line, struct str *said)
{
    bool stamped = line.len && (isdigit((unsigned char)line.p[0]) || strchr("[/", line.p[0]));
    struct str rest = line;

    *said = line;
    if (line.len && line.p[0] == '{') {
        return level_in_json(line);
    }
    for (int i = 0; i < (stamped ? 8 : 1) && rest.len; i++) {
        struct str word = rest;

        while (word.len && strchr("[(<| ", word.p[0])) {
            word = line_skip(word, 1);
        }
        enum level level = level_at(word);
        if (level != NO_LEVEL) {
            *said = word;
            return level;
        }
        str_cut(word, ' ', &rest);
    }
    return NO_LEVEL;
}

/* "yy/MM/dd HH:mm:ss ", Spark's own layout; an application that logs with it, logs there. */
bool line_is_sparks(struct str line)
{
    static const char form[] = "99/99/99 99:99:99 ";

    for (size_t i = 0; i < sizeof(form) - 1; i++) {
        if (i >= line.len ||
            (form[i] == '9' ? !isdigit((unsigned char)line.p[i]) : line.p[i] != form[i])) {
            return false;
        }
    }
    return true;
}
