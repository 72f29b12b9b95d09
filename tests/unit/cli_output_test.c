/* SPDX-License-Identifier: Apache-2.0 */
/* Tables and sizes as people see them. */
#include "tests/unit/test.h"

#include "cli/cli.h"

static void size_is(uint64_t bytes, const char *wanted)
{
	char buf[32];

	CHECK(strcmp(size_format(bytes, buf), wanted) == 0, "%s is not %s", buf, wanted);
}

TEST(cli_output, sizes_have_a_unit_and_three_digits)
{
	size_is(0, "0 B");
	size_is(1023, "1023 B");
	size_is(1024, "1 KiB");
	size_is(1ull << 30, "1 GiB");
	size_is((1ull << 30) + (1ull << 29), "1.50 GiB");
	size_is(13ull * (1ull << 29) * 2 + (1ull << 29), "13.5 GiB");
	size_is((1ull << 30) - 1, "1.00 GiB");
	size_is(UINT64_MAX, "16 EiB");
}

static void table_is(json_t *items, bool is_wide, const char *wanted)
{
	static const struct cli_column columns[] = {
		{"NAME", "name", COLUMN_TEXT, false}, {"SIZE", "size", COLUMN_SIZE, false},
		{"MADE", "made", COLUMN_TIME, true},  {"SEQ", "seq", COLUMN_NUMBER, false},
		{"WHAT", "what", COLUMN_LIST, false}, {0},
	};
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	table_print(out, columns, items, is_wide);
	fclose(out);
	CHECK(strcmp(text, wanted) == 0, "\n%s", text);
	free(text);
	json_decref(items);
}

TEST(cli_output, columns_are_aligned_and_empty_cells_marked)
{
	table_is(json_pack("[{sssIsIs[ss]}{sssI}]", "name", "a", "size", (json_int_t)1 << 30, "seq",
			   (json_int_t)12345, "what", "one", "two", "name", "longer", "size",
			   (json_int_t)0),
		 false,
		 "NAME     SIZE    SEQ  WHAT\n"
		 "a       1 GiB  12345  one, two\n"
		 "longer    0 B      -  -\n");
}

TEST(cli_output, wide_columns_are_shown_when_asked_for)
{
	table_is(json_pack("[{sssI}]", "name", "a", "made", (json_int_t)1500), true,
		 "NAME  SIZE  MADE                      SEQ  WHAT\n"
		 "a        -  1970-01-01T00:00:01.500Z    -  -\n");
}

TEST(cli_output, an_empty_list_has_its_header)
{
	table_is(json_array(), false, "NAME  SIZE  SEQ  WHAT\n");
}
