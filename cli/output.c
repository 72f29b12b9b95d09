/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output: aligned columns for people, JSON for programs, both from the same items.
 *
 * A column names the key that it shows, so table and JSON cannot disagree.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COLUMNS_MAX 24
#define CELL_BYTES  256

const char *size_format(uint64_t bytes, char buf[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1023.995 && unit + 1 < ARRAY_LEN(units)) {
		value /= 1024;
		unit++;
	}
	if (unit == 0 || value == (double)(uint64_t)value)
		snprintf(buf, 32, "%.0f %s", value, units[unit]);
	else
		snprintf(buf, 32, "%.*f %s",
			 value < 9.995   ? 2
			 : value < 99.95 ? 1
					 : 0,
			 value, units[unit]);
	return buf;
}

static void time_format(uint64_t ms, char buf[CELL_BYTES])
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm tm;
	char text[40];

	if (ms == 0 || !gmtime_r(&seconds, &tm)) {
		snprintf(buf, CELL_BYTES, "-");
		return;
	}
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, CELL_BYTES, "%s.%03uZ", text, (unsigned)(ms % 1000));
}

static void list_format(json_t *list, char buf[CELL_BYTES])
{
	size_t index, used = 0;
	json_t *item;

	buf[0] = 0;
	json_array_foreach(list, index, item)
	{
		const char *text = json_string_value(item);
		int n = snprintf(buf + used, CELL_BYTES - used, "%s%s", index ? ", " : "",
				 text ? text : "?");
		if (n < 0 || used + (size_t)n >= CELL_BYTES)
			return;
		used += (size_t)n;
	}
}

static void cell_format(const struct cli_column *column, json_t *item, char buf[CELL_BYTES])
{
	json_t *value = json_object_get(item, column->key);
	char size[32];

	buf[0] = 0;
	if (json_is_boolean(value))
		snprintf(buf, CELL_BYTES, "%s", json_is_true(value) ? "yes" : "no");
	else if (json_is_string(value))
		snprintf(buf, CELL_BYTES, "%s", json_string_value(value));
	else if (json_is_array(value))
		list_format(value, buf);
	else if (json_is_integer(value) && column->kind == COLUMN_SIZE)
		snprintf(buf, CELL_BYTES, "%s",
			 size_format((uint64_t)json_integer_value(value), size));
	else if (json_is_integer(value) && column->kind == COLUMN_TIME)
		time_format((uint64_t)json_integer_value(value), buf);
	else if (json_is_integer(value))
		snprintf(buf, CELL_BYTES, "%lld", (long long)json_integer_value(value));
	if (!buf[0])
		snprintf(buf, CELL_BYTES, "-");
}

static void row_print(FILE *out, const struct cli_column *const *columns, const int *widths,
		      uint32_t count, json_t *item)
{
	char cell[CELL_BYTES];

	for (uint32_t i = 0; i < count; i++) {
		bool is_right =
			columns[i]->kind == COLUMN_NUMBER || columns[i]->kind == COLUMN_SIZE;
		if (item)
			cell_format(columns[i], item, cell);
		else
			snprintf(cell, sizeof(cell), "%s", columns[i]->title);
		if (is_right)
			fprintf(out, "%*s", widths[i], cell);
		else if (i + 1 < count)
			fprintf(out, "%-*s", widths[i], cell);
		else
			fputs(cell, out);
		fputs(i + 1 < count ? "  " : "\n", out);
	}
}

void table_print(FILE *out, const struct cli_column *columns, json_t *items, bool is_wide)
{
	const struct cli_column *shown[COLUMNS_MAX];
	int widths[COLUMNS_MAX];
	uint32_t count = 0;
	char cell[CELL_BYTES];
	size_t index;
	json_t *item;

	for (; columns->title && count < COLUMNS_MAX; columns++) {
		if (columns->is_wide && !is_wide)
			continue;
		shown[count] = columns;
		widths[count] = (int)strlen(columns->title);
		json_array_foreach(items, index, item)
		{
			cell_format(columns, item, cell);
			widths[count] = MAX(widths[count], (int)strlen(cell));
		}
		count++;
	}
	row_print(out, shown, widths, count, NULL);
	json_array_foreach(items, index, item) row_print(out, shown, widths, count, item);
}

int cli_print_json(json_t *object)
{
	int rc = json_dumpf(object, stdout, JSON_INDENT(2));

	fputc('\n', stdout);
	json_decref(object);
	return rc == 0 ? CLI_OK : CLI_FAILED;
}

int cli_print_items(struct cli *cli, const struct cli_column *columns, json_t *items)
{
	if (cli->format == CLI_JSON)
		return cli_print_json(json_pack("{s:o}", "items", items));
	table_print(stdout, columns, items, cli->format == CLI_WIDE);
	json_decref(items);
	return CLI_OK;
}
