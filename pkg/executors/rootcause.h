/* rootcause.h: one line that says why a Spark application failed, out of its last output.
 *
 * spark-submit joins a Python application's stdout and stderr into its own stdout, so a traceback
 * may stand in either stream. Pure text work; bytes that are no UTF-8 are kept out.
 */
#ifndef SJE_EXECUTORS_ROOTCAUSE_H
#define SJE_EXECUTORS_ROOTCAUSE_H

#include "internal/str.h"

/* Into text (always terminated): the Python exception, the deepest "Caused by", spark-submit's own
 * complaint, or the last line that is no log noise. false (and "") where there is none of these. */
bool root_cause(struct str out, struct str err, char *text, size_t size);

#endif
