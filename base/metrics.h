/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics: counters, gauges and histograms embedded in the objects they count for, registered
 * with a struct metrics, printed in the Prometheus text format and served over HTTP.
 *
 * Any thread writes values (relaxed atomics; no lock, no allocation); the server's thread reads
 * them. Registering and removing take a mutex: start-up and admin paths only.
 */
#ifndef HF_BASE_METRICS_H
#define HF_BASE_METRICS_H

#include <stdatomic.h>
#include <stdio.h>

#include "base/err.h"
#include "base/list.h"

#define METRICS_SERIES_MAX 20000u /* label sets of one registry */
#define METRIC_BUCKETS     26     /* 1 us * 2^0 .. 2^25 (33.5 s), or 1 * 2^0 .. 2^25; then +Inf */

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

/* Static. name: [a-zA-Z_:][a-zA-Z0-9_:]*; counters end in _total, durations in _seconds. */
struct metric_desc {
	const char *name;
	const char *help;
	enum metric_type type;
	bool is_duration; /* values are ns, printed as seconds */
};

struct metric_label {
	const char *name;
	const char *value; /* any text */
};

struct metrics;
struct metric_family;

/* Zero before use; the owner keeps it alive until metric_remove(). */
struct metric {
	_Atomic uint64_t value;    /* COUNTER; GAUGE as int64_t; HISTOGRAM: sum */
	_Atomic uint64_t *buckets; /* HISTOGRAM: METRIC_BUCKETS + 1 counts; else NULL */
	struct metrics *metrics;
	struct metric_family *family;
	struct list link;
	char *labels; /* escaped, without braces */
	uint32_t bucket_unit;
};

struct metric_histogram {
	struct metric metric;
	_Atomic uint64_t counts[METRIC_BUCKETS + 1];
};

/* NULL when memory is out. */
struct metrics *metrics_create(void);
/* Every metric must have been removed. NULL is fine. */
void metrics_destroy(struct metrics *metrics);
/*
 * From now on the metric is printed. 0, -EEXIST when that name has that label set already,
 * -ENOSPC above METRICS_SERIES_MAX, -ENOMEM. A name always comes with the same desc.
 */
int metric_add(struct metrics *metrics, struct metric *metric, const struct metric_desc *desc,
	       const struct metric_label *labels, size_t label_count);
int metric_histogram_add(struct metrics *metrics, struct metric_histogram *histogram,
			 const struct metric_desc *desc, const struct metric_label *labels,
			 size_t label_count);
/* The metric may be freed after this. Fine on a zeroed metric. */
void metric_remove(struct metric *metric);

static inline void metric_inc(struct metric *metric, uint64_t by)
{
	atomic_fetch_add_explicit(&metric->value, by, memory_order_relaxed);
}
static inline void metric_set(struct metric *metric, int64_t value)
{
	atomic_store_explicit(&metric->value, (uint64_t)value, memory_order_relaxed);
}
static inline uint64_t metric_get(const struct metric *metric)
{
	return atomic_load_explicit(&metric->value, memory_order_relaxed);
}
/* value in ns when the desc says is_duration. The histogram is registered. */
static inline void metric_observe(struct metric_histogram *histogram, uint64_t value)
{
	uint64_t units = value > 0 ? (value - 1) / histogram->metric.bucket_unit : 0;
	uint32_t index = units > 0 ? 64u - (uint32_t)__builtin_clzll(units) : 0;
	atomic_fetch_add_explicit(&histogram->counts[MIN(index, (uint32_t)METRIC_BUCKETS)], 1,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->metric.value, value, memory_order_relaxed);
}

/* All metrics in the text format, families by name. */
void metrics_print(struct metrics *metrics, FILE *out);

/* ---- the HTTP server (metrics_server.c) ---- */

struct metrics_server;

struct metrics_server_options {
	const char *address; /* "unix:/path", or "tcp:HOST:PORT" with a loopback HOST */
	struct metrics *metrics;
	/* For /healthz, on the server's thread; NULL: always true. */
	bool (*is_healthy)(void *ctx);
	void *ctx;
};

/* GET /metrics, GET /healthz (200 or 503), in a thread of its own. 0 or -errno with a sentence. */
int metrics_server_start(const struct metrics_server_options *options, struct metrics_server **ret,
			 struct err *err);
/* With the port that was picked. */
const char *metrics_server_address(const struct metrics_server *server);
/* NULL is fine. */
void metrics_server_stop(struct metrics_server *server);

#endif
