/* line.h: the lines that programs print: of what kind one is. Nothing is owned. */
#ifndef SJE_EXECUTORS_LINE_H
#define SJE_EXECUTORS_LINE_H

#include "internal/str.h"

/* The next line of *rest, without its end. Of what a carriage return writes over, the last counts.
 * false: there is none. */
bool line_next(struct str *rest, struct str *line);
/* The same, and stays; "" where there is none. */
bool line_peek(struct str rest, struct str *line);

struct str line_skip(struct str s, size_t n); /* n <= s.len */
bool line_contains(struct str s, struct str part);
bool line_is_blank(struct str line);
bool line_is_indented(struct str line);
/* A rule, a frame or a marker has none. */
bool line_has_letter(struct str line);

/* Of a log: up to WARN, from ERROR on. *said begins with the level. */
enum level { NO_LEVEL, LOW, HIGH };
enum level line_level(struct str line, struct str *said);
/* In Spark's own layout; an application that logs through Spark's log4j has the same. */
bool line_is_sparks(struct str line);

#endif
