/* rootcause.h: one line that says why a Spark application failed, out of its last output.
 *
 * Pure text work on what peers wrote; the rules stand at the head of rootcause.c.
 */
#ifndef SJE_EXECUTORS_ROOTCAUSE_H
#define SJE_EXECUTORS_ROOTCAUSE_H

#include "internal/str.h"

/* How an application ended. spark-submit joins the stdout and stderr of a Python application into
 * its own stdout; what it says itself, and what Spark logs, is in its stderr. */
struct app_end {
    struct str out; /* the tail of its output: whole lines, at most some 64 KiB */
    struct str err;
    int exit_code; /* of spark-submit; 0: not known, and not told */
    bool python;
};

/* Into text (always terminated, printable UTF-8, one line); "" only where the exit code is not
 * known. Returns the number of the signal that killed the driver, or 0. */
int root_cause(const struct app_end *end, char *text, size_t size);

#endif
