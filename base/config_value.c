/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of options: text to field, number to text, finding names.
 *
 * R1 A field changes only when the whole value is good.
 * R2 A message names the option, the value as given and the limit in the option's own units.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/config_int.h"

#define STRING_BYTES_MAX 4095u

struct unit {
	const char *suffix;
	uint64_t factor;
};

/* Largest first: the first that divides is the shortest form. */
static const struct unit size_units[] = {
	{"Ti", 1ull << 40}, {"Gi", 1ull << 30}, {"Mi", 1ull << 20}, {"Ki", 1ull << 10}, {"", 1}};
static const struct unit duration_units[] = {{"h", 3600000000000ull}, {"m", 60000000000ull},
					     {"s", 1000000000ull},    {"ms", 1000000ull},
					     {"us", 1000ull},         {"ns", 1}};
static const struct unit plain_units[] = {{"", 1}};

static const struct unit *units_of(enum config_type type, size_t *ret_count)
{
	if (type == CONFIG_SIZE) {
		*ret_count = ARRAY_LEN(size_units);
		return size_units;
	}
	if (type == CONFIG_DURATION) {
		*ret_count = ARRAY_LEN(duration_units);
		return duration_units;
	}
	*ret_count = ARRAY_LEN(plain_units);
	return plain_units;
}

int config_parse_number(enum config_type type, const char *text, uint64_t *ret)
{
	uint64_t value = 0;
	bool overflow = false;
	const char *p = text;
	for (; *p >= '0' && *p <= '9'; p++)
		overflow |= __builtin_mul_overflow(value, 10u, &value) ||
			    __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value);
	if (p == text)
		return -EINVAL;
	size_t count;
	const struct unit *units = units_of(type, &count);
	uint64_t factor = 0;
	for (size_t i = 0; i < count; i++)
		if (strcmp(p, units[i].suffix) == 0)
			factor = units[i].factor;
	if (type == CONFIG_DURATION && *p == 0 && value == 0 && !overflow)
		factor = 1; /* 0 is 0 in any unit */
	if (factor == 0)
		return -EINVAL;
	if (overflow || __builtin_mul_overflow(value, factor, &value))
		return -ERANGE;
	*ret = value;
	return 0;
}

const char *config_format_number(enum config_type type, uint64_t value, char buf[32])
{
	size_t count;
	const struct unit *units = units_of(type, &count);
	const struct unit *unit = &units[count - 1];
	for (size_t i = 0; i < count && value > 0; i++) {
		if (value % units[i].factor == 0) {
			unit = &units[i];
			break;
		}
	}
	if (value == 0)
		snprintf(buf, 32, "0");
	else
		snprintf(buf, 32, "%llu%s", (unsigned long long)(value / unit->factor),
			 unit->suffix);
	return buf;
}

/* ---- storing ---- */

static const char *number_form(enum config_type type)
{
	if (type == CONFIG_SIZE)
		return "a number of bytes, alone or with Ki, Mi, Gi or Ti";
	if (type == CONFIG_DURATION)
		return "a number with ns, us, ms, s, m or h";
	return "a number";
}

static int store_number(const struct config_option *option, uint64_t *field, const char *text,
			struct err *err)
{
	char limit[32];
	uint64_t value = 0;
	int rc = config_parse_number(option->type, text, &value);
	if (rc == -EINVAL)
		return err_set(err, rc, "%s '%.100s' is not %s", option->name, text,
			       number_form(option->type));
	uint64_t max = option->max ? option->max : UINT64_MAX;
	if (rc == -ERANGE || value > max)
		return err_set(err, -ERANGE, "%s %.100s is above the limit of %s", option->name,
			       text, config_format_number(option->type, max, limit));
	if (value < option->min)
		return err_set(err, -ERANGE, "%s %.100s is below the limit of %s", option->name,
			       text, config_format_number(option->type, option->min, limit));
	*field = value;
	return 0;
}

static int store_bool(const struct config_option *option, bool *field, const char *text,
		      struct err *err)
{
	static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(text, words[i]) == 0) {
			*field = i % 2;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "%s '%.100s' is not true or false", option->name, text);
}

static int copy_string(const struct config_option *option, char **ret, const char *text,
		       struct err *err)
{
	size_t max = option->max ? option->max : STRING_BYTES_MAX;
	size_t length = strlen(text);
	if (length > max)
		return err_set(err, -ERANGE, "%s has %zu bytes, the limit is %zu", option->name,
			       length, max);
	*ret = strdup(text);
	return *ret ? 0 : err_set(err, -ENOMEM, "%s: out of memory", option->name);
}

int config_store(struct config_load *load, int index, const char *text, struct err *err)
{
	const struct config_option *option = &load->table->options[index];
	void *field = (char *)load->config + option->offset;
	char *copy = NULL;
	int rc;
	switch (option->type) {
	case CONFIG_STRING:
		rc = copy_string(option, &copy, text, err);
		if (rc == 0) {
			free(*(char **)field);
			*(char **)field = copy;
		}
		return rc;
	case CONFIG_STRINGS: {
		struct config_strings *list = field;
		if (list->count == CONFIG_LIST_MAX)
			return err_set(err, -ERANGE, "%s has more than %d items", option->name,
				       CONFIG_LIST_MAX);
		rc = copy_string(option, &copy, text, err);
		if (rc == 0)
			list->items[list->count++] = copy;
		return rc;
	}
	case CONFIG_BOOL:
		return store_bool(option, field, text, err);
	case CONFIG_UINT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		break;
	}
	return store_number(option, field, text, err);
}

/* ---- names ---- */

/* Edits that turn a into b; both below 64 bytes, else far away. */
static size_t name_distance(const char *a, const char *b)
{
	size_t row[64];
	size_t b_length = strlen(b);
	if (strlen(a) >= ARRAY_LEN(row) || b_length >= ARRAY_LEN(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= b_length; j++)
		row[j] = j;
	for (size_t i = 1; *a; a++, i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= b_length; j++) {
			size_t above = row[j];
			size_t best = MIN(row[j], row[j - 1]) + 1;
			row[j] = MIN(best, diagonal + (*a != b[j - 1]));
			diagonal = above;
		}
	}
	return row[b_length];
}

int config_find(const struct config_table *table, const char *prefix, const char *name,
		struct err *err)
{
	const char *nearest = NULL;
	size_t nearest_distance = SIZE_MAX;
	for (size_t i = 0; i < table->option_count; i++) {
		const char *candidate = table->options[i].name;
		size_t distance = name_distance(name, candidate);
		if (strcmp(name, candidate) == 0)
			return (int)i;
		if (distance < nearest_distance && distance <= 1 + strlen(candidate) / 3) {
			nearest = candidate;
			nearest_distance = distance;
		}
	}
	const char *kind = prefix[0] ? "flag" : "key";
	if (nearest)
		err_set(err, -EINVAL, "unknown %s '%s%.100s'; did you mean '%s%s'?", kind, prefix,
			name, prefix, nearest);
	else
		err_set(err, -EINVAL, "unknown %s '%s%.100s'", kind, prefix, name);
	return -1;
}
