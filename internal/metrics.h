/* metrics.h: counters, gauges and histograms from one table, metrics.def, as Prometheus text.
 *
 * METRIC_INC(http_requests), METRIC_SET(…), METRIC_OBSERVE(…, seconds); a metric with a label is
 * used through the _BY forms. At most METRICS_LABELS values of a label are kept apart, further ones
 * are counted as "other". Histograms are of seconds. Threads: the loop thread only.
 *
 * Source: Prometheus text exposition format 0.0.4.
 */
#ifndef SJE_METRICS_H
#define SJE_METRICS_H

#include "internal/buf.h"

#define METRICS_LABELS       200
#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

enum metric {
#define COUNTER(name, label, help) METRIC_##name,
#define GAUGE(name, label, help)   METRIC_##name,
#define HISTOGRAM(name, help)      METRIC_##name,
#include "internal/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
    METRICS
};

/* `label` NULL for a metric without one. */
void metric_add(enum metric m, const char *label, double n);
void metric_set(enum metric m, const char *label, double value);
void metric_observe(enum metric m, double seconds);
/* Forgets all label values, before a gauge is filled anew. */
void metric_clear(enum metric m);
double metric_value(enum metric m, const char *label); /* histogram: the number of observations */

#define METRIC_INC(name)                metric_add(METRIC_##name, NULL, 1)
#define METRIC_ADD(name, n)             metric_add(METRIC_##name, NULL, (double)(n))
#define METRIC_SET(name, value)         metric_set(METRIC_##name, NULL, (double)(value))
#define METRIC_INC_BY(name, label)      metric_add(METRIC_##name, label, 1)
#define METRIC_ADD_BY(name, label, n)   metric_add(METRIC_##name, label, (double)(n))
#define METRIC_SET_BY(name, label, val) metric_set(METRIC_##name, label, (double)(val))
#define METRIC_CLEAR(name)              metric_clear(METRIC_##name)
#define METRIC_OBSERVE(name, seconds)   metric_observe(METRIC_##name, seconds)

/* Appends all metrics, and those of the process. */
void metrics_write(struct buf *out);
void metrics_markdown(struct buf *out); /* docs/metrics.md */
/* Frees everything and starts from zero; for tests and a clean exit. */
void metrics_reset(void);

#endif
