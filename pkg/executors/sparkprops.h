/* sparkprops.h: files of settings, as Java reads them: "key=value", "key: value" or "key value",
 * the last of a key counts, a backslash escapes, at the end of a line it joins the next one. */
#ifndef SJE_EXECUTORS_SPARKPROPS_H
#define SJE_EXECUTORS_SPARKPROPS_H

#include "internal/buf.h"
#include "internal/str.h"

#define SPARK_PROPERTIES     "spark.properties" /* of an attempt, in its directory; 0600 */
#define SPARK_PROPERTIES_MAX (4u << 20)

/* Appends dir/spark-defaults.conf and a newline, if it is there. */
void spark_props_read(const char *dir, struct buf *b);
/* NULL where it is not set; owned by the caller. */
char *spark_props_get(struct str text, const char *key);
void spark_props_add(struct buf *b, const char *key, const char *value);

#endif
