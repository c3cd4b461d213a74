#include "internal/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <uthash.h>
#include <uv.h>

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

static const char *const kinds[] = {"counter", "gauge", "histogram"};

static const double bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                0.5,   1,      2.5,   5,    10,    30,   60};

struct series {
    char *label;
    double value;
    UT_hash_handle hh;
};

struct histogram {
    uint64_t buckets[ARRAY_LEN(bounds) + 1]; /* the last one: above all bounds */
    double sum;
};

struct row {
    const char *name;
    const char *label; /* "": none */
    const char *help;
    enum kind kind;
};

static const struct row rows[METRICS] = {
#define COUNTER(name, label, help) {#name, label, help, KIND_COUNTER},
#define GAUGE(name, label, help)   {#name, label, help, KIND_GAUGE},
#define HISTOGRAM(name, help)      {#name, "", help, KIND_HISTOGRAM},
#include "internal/metrics.def"
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
};

static double plain[METRICS];
static struct series *labelled[METRICS];
static struct histogram histograms[METRICS];

/* The place of a value; for a label value over the limit that of "other". */
static double *slot(enum metric m, const char *label)
{
    struct series *s = NULL;

    MUST(m < METRICS && rows[m].kind != KIND_HISTOGRAM && (label != NULL) == (*rows[m].label != 0));
    if (!label) {
        return &plain[m];
    }
    HASH_FIND_STR(labelled[m], label, s);
    if (!s && HASH_COUNT(labelled[m]) >= METRICS_LABELS && !streq(label, "other")) {
        return slot(m, "other");
    }
    if (!s) {
        s = xmalloc(sizeof(*s));
        s->label = xstrdup(label);
        HASH_ADD_KEYPTR(hh, labelled[m], s->label, strlen(s->label), s);
    }
    return &s->value;
}

void metric_add(enum metric m, const char *label, double n)
{
    *slot(m, label) += n;
}

void metric_set(enum metric m, const char *label, double value)
{
    *slot(m, label) = value;
}

void metric_observe(enum metric m, double seconds)
{
    size_t i = 0;

    MUST(m < METRICS && rows[m].kind == KIND_HISTOGRAM);
    while (i < ARRAY_LEN(bounds) && seconds > bounds[i]) {
        i++;
    }
    histograms[m].buckets[i]++;
    histograms[m].sum += seconds;
}

void metric_clear(enum metric m)
{
    struct series *s;
    struct series *tmp;

    MUST(m < METRICS);
    HASH_ITER(hh, labelled[m], s, tmp)
    {
        HASH_DEL(labelled[m], s);
        free(s->label);
        free(s);
    }
}

double metric_value(enum metric m, const char *label)
{
    struct series *s = NULL;
    uint64_t n = 0;

    MUST(m < METRICS);
    if (label) {
        HASH_FIND_STR(labelled[m], label, s);
        return s ? s->value : 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(histograms[m].buckets); i++) {
        n += histograms[m].buckets[i];
    }
    return rows[m].kind == KIND_HISTOGRAM ? (double)n : plain[m];
}

void metrics_reset(void)
{
    for (size_t m = 0; m < METRICS; m++) {
        metric_clear((enum metric)m);
        plain[m] = 0;
        histograms[m] = (struct histogram){0};
    }
}

static void add_number(struct buf *out, double v)
{
    if (fabs(v) < 9e15 && v == floor(v)) {
        buf_addf(out, "%lld", (long long)v);
    } else {
        buf_addf(out, "%.9g", v);
    }
}

static void add_label(struct buf *out, const char *name, const char *value)
{
    buf_addf(out, "{%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n') {
            buf_adds(out, "\\n");
        } else {
            if (*value == '"' || *value == '\\') {
                buf_addc(out, '\\');
            }
            buf_addc(out, *value);
        }
    }
    buf_adds(out, "\"}");
}

static void write_histogram(struct buf *out, const char *name, const struct histogram *h)
{
    uint64_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        n += h->buckets[i];
        buf_addf(out, "sje_%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)n);
    }
    n += h->buckets[ARRAY_LEN(bounds)];
    buf_addf(out, "sje_%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)n);
    buf_addf(out, "sje_%s_sum %.9g\nsje_%s_count %llu\n", name, h->sum, name,
             (unsigned long long)n);
}

static const char *suffix_of(const struct row *r)
{
    return r->kind == KIND_COUNTER ? "_total" : "";
}

static void write_metric(struct buf *out, size_t m)
{
    const struct row *r = &rows[m];
    const char *suffix = suffix_of(r);

    buf_addf(out, "# HELP sje_%s%s %s\n# TYPE sje_%s%s %s\n", r->name, suffix, r->help, r->name,
             suffix, kinds[r->kind]);
    if (r->kind == KIND_HISTOGRAM) {
        write_histogram(out, r->name, &histograms[m]);
    } else if (!*r->label) {
        buf_addf(out, "sje_%s%s ", r->name, suffix);
        add_number(out, plain[m]);
        buf_addc(out, '\n');
    }
    for (struct series *s = labelled[m]; s; s = s->hh.next) {
        buf_addf(out, "sje_%s%s", r->name, suffix);
        add_label(out, r->label, s->label);
        buf_addc(out, ' ');
        add_number(out, s->value);
        buf_addc(out, '\n');
    }
}

static void write_process(struct buf *out)
{
    struct rusage u = {0};
    size_t rss = 0;

    if (getrusage(RUSAGE_SELF, &u) == 0) {
        buf_addf(out,
                 "# HELP process_cpu_seconds_total Processor time used\n"
                 "# TYPE process_cpu_seconds_total counter\n"
                 "process_cpu_seconds_total %.3f\n",
                 (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                     (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    }
    if (uv_resident_set_memory(&rss) == 0) {
        buf_addf(out,
                 "# HELP process_resident_memory_bytes Resident memory\n"
                 "# TYPE process_resident_memory_bytes gauge\n"
                 "process_resident_memory_bytes %zu\n",
                 rss);
    }
}

void metrics_write(struct buf *out)
{
    for (size_t m = 0; m < METRICS; m++) {
        write_metric(out, m);
    }
    write_process(out);
}

void metrics_markdown(struct buf *out)
{
    buf_adds(
        out,
        "# Metrics\n\n"
        "<!-- Generated from internal/metrics.def by `make docs`. -->\n\n"
        "`GET /metrics` (or `sje metrics`) of each process with an HTTP port: of every manager. "
        "Those "
        "of the\ncluster (`sje_workers`, `sje_slots`, …) are what that manager knows; counters "
        "are its own and\nbegin at zero when it starts. What `sje_worker_…` says is of a worker in "
        "the same process. A\nlabel has at most 200 values, further ones are counted as `other`. "
        "What to watch:\n[operating.md](operating.md).\n\n"
        "| metric | kind | label | meaning |\n"
        "|---|---|---|---|\n");
    for (size_t i = 0; i < METRICS; i++) {
        const struct row *r = &rows[i];
        bool labelled_by = *r->label;

        buf_addf(out, "| `sje_%s%s` | %s | %s%s%s | %s |\n", r->name, suffix_of(r), kinds[r->kind],
                 labelled_by ? "`" : "", r->label, labelled_by ? "`" : "", r->help);
    }
    buf_adds(out, "| `process_cpu_seconds_total` | counter |  | Processor time used |\n"
                  "| `process_resident_memory_bytes` | gauge |  | Resident memory |\n");
}
