/* trace.h: exceptions, as Python and Java print them. Slices of the text that was given.
 *
 * *rest is what follows the line in hand; it moves behind what was read of it.
 */
#ifndef SJE_EXECUTORS_TRACE_H
#define SJE_EXECUTORS_TRACE_H

#include "internal/str.h"

#define TRACE_PYTHON STR("Traceback (most recent call last):")
#define TRACE_GROUP  STR("  + Exception Group Traceback (most recent call last):")
#define TRACE_CAUSE  STR("Caused by: ")

struct told {
    struct str text;
    struct str more; /* the line behind it, where the text ends with a colon */
};

struct trace {
    struct told told;
    bool top; /* it begins at the top of a Python script */
};

/* The first line of what is told, and the next one where that says nothing by itself. */
struct told trace_tell(struct str *rest, struct str line);

/* Does a traceback of Python begin here? Then, behind that line: what it ends with; of a chain, the
 * last one. */
bool trace_is_python(struct str line);
void trace_python(struct str *rest, struct trace *t);

/* May this be the first line of a Java trace? It is, where frames follow. */
bool trace_is_java_head(struct str line);
bool trace_has_frames(struct str rest);
/* `head` is the first line of a Java exception, without what stood before its name. What is told is
 * the deepest cause that has a message, or an outer one that says the same and more. */
void trace_java(struct str *rest, struct str head, struct trace *t);

/* The trace that belongs to the line before it, of whatever language. false: there is none. */
bool trace_below(struct str *rest, struct str line, struct trace *t);

/* The name of an exception at the head of the line; 0: there is none. */
size_t trace_name_len(struct str line);
bool trace_names_error(struct str name);

#endif
