/* log.h: one line per event on stderr, logfmt or JSON.
 *
 * Only event handlers and cmd/ log; everything below returns its error. One line per failure,
 * ending in what happens next ("retrying in 4 s"). `fields` is ready-made logfmt, e.g.
 * "task=0190… attempt=2", or NULL; the object comes before the message. No secrets.
 */
#ifndef SJE_LOG_H
#define SJE_LOG_H

#include "internal/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* `process` is shown as proc= in every line (e.g. "executor", "shim"); not copied. */
void log_setup(enum log_level level, enum log_format format, const char *process);
bool log_level_parse(const char *text, enum log_level *ret);
bool log_enabled(enum log_level level);
/* From here on nobody waits for stderr: a thread writes. Lines beyond 1 MiB that nobody reads are
 * dropped, counted (sje_log_dropped_total), and the log says so where they are missing. */
void log_start(void);
/* Waits a second for what is left; then lines are written at once again. */
void log_stop(void);
/* For tests: lines go there instead of stderr. NULL restores stderr. */
void log_set_sink(void (*sink)(const char *line, size_t len));

void log_write(enum log_level level, const char *fields, const char *fmt, ...) PRINTF(3, 4);

#define log_error(fields, ...) log_write(LOG_ERROR, fields, __VA_ARGS__)
#define log_warn(fields, ...)  log_write(LOG_WARN, fields, __VA_ARGS__)
#define log_info(fields, ...)  log_write(LOG_INFO, fields, __VA_ARGS__)
#define log_debug(fields, ...)                                                                     \
    do {                                                                                           \
        if (log_enabled(LOG_DEBUG)) {                                                              \
            log_write(LOG_DEBUG, fields, __VA_ARGS__);                                             \
        }                                                                                          \
    } while (0)

#endif
