/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of metrics and its text form.
 *
 * R1 The mutex guards the lists (families, their metrics), never a value. metric_remove() returns
 *    with the metric off the lists, so its owner may free it while the server goes on.
 * R2 Values are read one by one: a page is not a snapshot across metrics. Within a histogram the
 *    count is the sum of the buckets that were read, so the page never contradicts itself.
 * R3 Labels are escaped once, when the metric is added.
 */
#include "base/metrics.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct metric_family {
	const struct metric_desc *desc;
	struct list link;    /* metrics->families, by name */
	struct list members; /* metric.link, in adding order */
};

struct metrics {
	pthread_mutex_t mutex;
	struct list families;
	uint32_t series_count;
};

struct metrics *metrics_create(void)
{
	struct metrics *metrics = calloc(1, sizeof(*metrics));
	if (!metrics)
		return NULL;
	pthread_mutex_init(&metrics->mutex, NULL);
	list_init(&metrics->families);
	return metrics;
}

void metrics_destroy(struct metrics *metrics)
{
	if (!metrics)
		return;
	assert(list_empty(&metrics->families));
	pthread_mutex_destroy(&metrics->mutex);
	free(metrics);
}

/* ---- adding and removing ---- */

static bool name_is_valid(const char *name, bool colon_allowed)
{
	for (const char *p = name; *p; p++) {
		bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_';
		bool digit = *p >= '0' && *p <= '9';
		if (!letter && !(digit && p > name) && !(colon_allowed && *p == ':'))
			return false;
	}
	return name[0] != 0;
}

static void print_escaped(FILE *out, const char *text, bool quotes)
{
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\\\", out);
		else if (*text == '\n')
			fputs("\\n", out);
		else if (*text == '"' && quotes)
			fputs("\\\"", out);
		else
			fputc(*text, out);
	}
}

static char *labels_format(const struct metric_label *labels, size_t label_count)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);
	if (!out)
		return NULL;
	for (size_t i = 0; i < label_count; i++) {
		assert(name_is_valid(labels[i].name, false));
		fprintf(out, "%s%s=\"", i ? "," : "", labels[i].name);
		print_escaped(out, labels[i].value, true);
		fputc('"', out);
	}
	bool good = !ferror(out);
	if (fclose(out) == 0 && good)
		return text;
	free(text);
	return NULL;
}

/* Finds or makes; NULL when memory is out. */
static struct metric_family *family_get(struct metrics *metrics, const struct metric_desc *desc)
{
	struct list *before = &metrics->families;
	list_for_each (pos, &metrics->families) {
		struct metric_family *family = CONTAINER_OF(pos, struct metric_family, link);
		int order = strcmp(desc->name, family->desc->name);
		if (order == 0) {
			assert(family->desc->type == desc->type);
			assert(family->desc->is_duration == desc->is_duration);
			return family;
		}
		if (order < 0) {
			before = pos;
			break;
		}
	}
	struct metric_family *family = calloc(1, sizeof(*family));
	if (!family)
		return NULL;
	family->desc = desc;
	list_init(&family->members);
	list_push_back(before, &family->link);
	return family;
}

static void family_drop_if_empty(struct metric_family *family)
{
	if (!list_empty(&family->members))
		return;
	list_remove(&family->link);
	free(family);
}

static int add_locked(struct metrics *metrics, struct metric *metric,
		      const struct metric_desc *desc, const char *labels)
{
	if (metrics->series_count >= METRICS_SERIES_MAX)
		return -ENOSPC;
	struct metric_family *family = family_get(metrics, desc);
	if (!family)
		return -ENOMEM;
	list_for_each (pos, &family->members) {
		if (strcmp(CONTAINER_OF(pos, struct metric, link)->labels, labels) == 0)
			return -EEXIST;
	}
	metric->family = family;
	list_push_back(&family->members, &metric->link);
	metrics->series_count++;
	return 0;
}

int metric_add(struct metrics *metrics, struct metric *metric, const struct metric_desc *desc,
	       const struct metric_label *labels, size_t label_count)
{
	assert(!metric->metrics);
	assert(name_is_valid(desc->name, true));
	assert((desc->type == METRIC_HISTOGRAM) == (metric->buckets != NULL));
	char *text = labels_format(labels, label_count);
	if (!text)
		return -ENOMEM;
	metric->labels = text;
	metric->bucket_unit = desc->is_duration ? 1000 : 1;
	pthread_mutex_lock(&metrics->mutex);
	int rc = add_locked(metrics, metric, desc, text);
	pthread_mutex_unlock(&metrics->mutex);
	if (rc < 0) {
		free(text);
		metric->labels = NULL;
		return rc;
	}
	metric->metrics = metrics;
	return 0;
}

int metric_histogram_add(struct metrics *metrics, struct metric_histogram *histogram,
			 const struct metric_desc *desc, const struct metric_label *labels,
			 size_t label_count)
{
	histogram->metric.buckets = histogram->counts;
	return metric_add(metrics, &histogram->metric, desc, labels, label_count);
}

void metric_remove(struct metric *metric)
{
	struct metrics *metrics = metric->metrics;
	if (!metrics)
		return;
	pthread_mutex_lock(&metrics->mutex);
	list_remove(&metric->link);
	family_drop_if_empty(metric->family);
	metrics->series_count--;
	pthread_mutex_unlock(&metrics->mutex);
	free(metric->labels);
	metric->labels = NULL;
	metric->family = NULL;
	metric->metrics = NULL;
}

/* ---- the text form ---- */

static void print_value(const struct metric_desc *desc, uint64_t value, FILE *out)
{
	if (desc->is_duration && desc->type == METRIC_GAUGE)
		fprintf(out, "%.9f\n", (double)(int64_t)value / 1e9);
	else if (desc->is_duration)
		fprintf(out, "%llu.%09llu\n", (unsigned long long)(value / 1000000000u),
			(unsigned long long)(value % 1000000000u));
	else if (desc->type == METRIC_GAUGE)
		fprintf(out, "%lld\n", (long long)(int64_t)value);
	else
		fprintf(out, "%llu\n", (unsigned long long)value);
}

/* name, suffix and label set; extra is one more label, or "". */
static void print_name(const struct metric *metric, const char *suffix, const char *extra,
		       FILE *out)
{
	fprintf(out, "%s%s", metric->family->desc->name, suffix);
	if (metric->labels[0] || extra[0])
		fprintf(out, "{%s%s%s}", metric->labels, metric->labels[0] && extra[0] ? "," : "",
			extra);
	fputc(' ', out);
}

static void print_histogram(const struct metric *metric, FILE *out)
{
	uint64_t count = 0;
	char bound[64];
	for (unsigned i = 0; i <= METRIC_BUCKETS; i++) {
		count += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
		uint64_t limit = (uint64_t)metric->bucket_unit << i;
		if (i == METRIC_BUCKETS)
			snprintf(bound, sizeof(bound), "le=\"+Inf\"");
		else if (metric->family->desc->is_duration)
			snprintf(bound, sizeof(bound), "le=\"%.9g\"", (double)limit / 1e9);
		else
			snprintf(bound, sizeof(bound), "le=\"%llu\"", (unsigned long long)limit);
		print_name(metric, "_bucket", bound, out);
		fprintf(out, "%llu\n", (unsigned long long)count);
	}
	print_name(metric, "_sum", "", out);
	print_value(metric->family->desc, metric_get(metric), out);
	print_name(metric, "_count", "", out);
	fprintf(out, "%llu\n", (unsigned long long)count);
}

static void print_family(const struct metric_family *family, FILE *out)
{
	static const char *const types[] = {"counter", "gauge", "histogram"};
	const struct metric_desc *desc = family->desc;
	fprintf(out, "# HELP %s ", desc->name);
	print_escaped(out, desc->help, false);
	fprintf(out, "\n# TYPE %s %s\n", desc->name, types[desc->type]);
	list_for_each (pos, &family->members) {
		const struct metric *metric = CONTAINER_OF(pos, struct metric, link);
		if (desc->type == METRIC_HISTOGRAM) {
			print_histogram(metric, out);
		} else {
			print_name(metric, "", "", out);
			print_value(desc, metric_get(metric), out);
		}
	}
}

void metrics_print(struct metrics *metrics, FILE *out)
{
	pthread_mutex_lock(&metrics->mutex);
	list_for_each (pos, &metrics->families)
		print_family(CONTAINER_OF(pos, struct metric_family, link), out);
	pthread_mutex_unlock(&metrics->mutex);
}
