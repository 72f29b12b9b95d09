/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The history checkers against histories by hand, broken and odd but legal, and against a search over
 * every order for small random ones; random large ones that are legal by construction, and broken.
 */
#include "tests/unit/test.h"

#include <errno.h>
#include <inttypes.h>

#include "tests/history/history_hand.h"
#include "tests/history/history_random.h"

static int judge(const char *text, bool log, struct history_fault *fault, struct history *history)
{
	struct err err = {0};
	int rc = history_parse(history, text, strlen(text), &err);
	CHECK(rc == 0, "%s in\n%s", err_text(&err), text);
	return log ? history_check_log(history, fault) : history_check(history, fault);
}

static void broken_is_refused(const struct hand *h, bool log)
{
	struct history history = {0};
	struct history_fault fault = {0};
	char ops[64] = "", block[64];
	int rc = judge(h->text, log, &fault, &history);
	CHECK(rc == -EUCLEAN, "'%s' was accepted", h->name);
	for (uint32_t i = 0; i < fault.op_count; i++)
		sprintf(ops + strlen(ops), "%s%u", i > 0 ? " " : "", fault.ops[i]);
	CHECK(fault.rule == h->rule, "'%s': %s", h->name, fault.text);
	CHECK(strcmp(ops, h->ops) == 0, "'%s' names operations %s, not %s: %s", h->name, ops,
	      h->ops, fault.text);
	CHECK(strstr(fault.text, h->says) != NULL, "'%s' does not say '%s': %s", h->name, h->says,
	      fault.text);
	snprintf(block, sizeof(block), "block %" PRIu64 ": ", h->block);
	CHECK(h->block == HISTORY_NEVER || strncmp(fault.text, block, strlen(block)) == 0,
	      "'%s' names another block: %s", h->name, fault.text);
	for (uint32_t i = 0; i < fault.op_count; i++) {
		char line[HISTORY_LINE_BYTES];
		history_op_format(&history.ops[fault.ops[i]], line);
		CHECK(strstr(fault.text, line) != NULL, "'%s' lacks '%s': %s", h->name, line,
		      fault.text);
	}
	history_clear(&history);
}

static void legal_is_accepted(const struct hand *h, bool log)
{
	struct history history = {0};
	struct history_fault fault = {0};
	int rc = judge(h->text, log, &fault, &history);
	CHECK(rc == 0, "'%s' was refused: %s", h->name, fault.text);
	history_clear(&history);
}

TEST(history, broken_histories_are_refused_for_the_right_reason)
{
	for (size_t i = 0; i < ARRAY_LEN(broken); i++)
		broken_is_refused(&broken[i], false);
}

TEST(history, odd_but_legal_histories_are_accepted)
{
	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		legal_is_accepted(&odd[i], false);
}

TEST(history_log, broken_histories_are_refused_for_the_right_reason)
{
	for (size_t i = 0; i < ARRAY_LEN(broken_log); i++)
		broken_is_refused(&broken_log[i], true);
}

TEST(history_log, odd_but_legal_histories_are_accepted)
{
	for (size_t i = 0; i < ARRAY_LEN(odd_log); i++) {
		legal_is_accepted(&odd_log[i], true);
		legal_is_accepted(&odd_log[i], false);
	}
}

/* What clients cannot see is not their fault: the log's checker sees more, never less. */
TEST(history_log, what_only_the_log_shows_passes_for_clients)
{
	struct history history = {0};
	struct history_fault fault = {0};
	CHECK_EQ(judge("write block=8+2 id=100 time=0..- unknown session=1 seq=1\n"
		       "open session=2 at=50 kept=1\n"
		       "read block=8 id=100 time=60..70 ok session=2\n"
		       "read block=9 id=0 time=60..70 ok session=2\n",
		       false, &fault, &history),
		 0);
	CHECK_EQ(history_check_log(&history, &fault), -EUCLEAN);
	history_clear(&history);
}

/* ---- random ---- */

/* Fails when a checker is too strict or too lax in any of the small cases. */
static void small_agrees(bool log)
{
	struct rng rng = {log ? 11 : 7};
	uint32_t legal = 0, cases = 60000;
	for (uint32_t i = 0; i < cases; i++) {
		struct history history = {0};
		struct history_fault fault = {0};
		small_draw(&rng, &history, log);
		int rc =
			log ? history_check_log(&history, &fault) : history_check(&history, &fault);
		bool is_legal = log ? search_log(&history) : search_clients(&history);
		if ((rc == 0) != is_legal)
			history_print(&history, stderr);
		CHECK((rc == 0) == is_legal, "case %u: search %d, checker %s", i, is_legal,
		      rc == 0 ? "accepts" : fault.text);
		legal += is_legal;
		history_clear(&history);
	}
	printf("%u of %u small histories are legal\n", legal, cases);
	CHECK(legal > cases / 10 && legal < cases * 9 / 10, "%u of %u are legal", legal, cases);
}

TEST(history, agrees_with_a_search_over_every_order)
{
	small_agrees(false);
}

TEST(history_log, agrees_with_a_search_over_every_order)
{
	small_agrees(true);
}

TEST(history, large_legal_histories_are_accepted_by_both)
{
	struct rng rng = {3};
	for (uint32_t i = 0; i < 60; i++) {
		struct history history = {0};
		struct history_fault fault = {0};
		disk_run(&rng, &history, 2000);
		CHECK_EQ(history_check(&history, &fault), 0);
		int rc = history_check_log(&history, &fault);
		CHECK(rc == 0, "%s", fault.text);
		history_clear(&history);
	}
}

TEST(history, a_broken_read_in_a_large_history_is_found)
{
	struct rng rng = {5};
	uint32_t done[MUTATIONS] = {0};
	for (uint32_t i = 0; i < 200; i++) {
		struct history history = {0};
		struct history_fault fault = {0};
		disk_run(&rng, &history, 1000);
		enum mutation m = (enum mutation)(i % MUTATIONS);
		if (mutate(&rng, &history, m)) {
			if (m != MUTATE_SEQ)
				CHECK(history_check(&history, &fault) == -EUCLEAN,
				      "mutation %u of run %u was accepted", m, i);
			CHECK(history_check_log(&history, &fault) == -EUCLEAN,
			      "mutation %u of run %u was accepted by the log", m, i);
			done[m]++;
		}
		history_clear(&history);
	}
	for (unsigned m = 0; m < MUTATIONS; m++)
		CHECK(done[m] > 20, "mutation %u was done %u times", m, done[m]);
}

/* The mirror is what the disk holds at the end. */
TEST(history_log, mirror_is_the_disk_at_the_end)
{
	struct rng rng = {9};
	struct history history = {0};
	struct disk disk = disk_run(&rng, &history, 3000);
	struct history_cell *cells;
	size_t count, with_id = 0;
	CHECK_EQ(history_mirror(&history, &cells, &count), 0);
	CHECK(count > DISK_BLOCKS / 2);
	for (size_t i = 0; i < count; i++) {
		CHECK_EQ(cells[i].id, disk.ids[cells[i].block]);
		with_id += cells[i].id != 0;
	}
	CHECK(with_id > 0);
	free(cells);
	history_clear(&history);
}

/* With n^2 steps this would take hours: one block, all operations under way at once in groups. */
TEST(history, half_a_million_operations_on_one_block)
{
	struct history history = {0};
	struct history_fault fault = {0};
	const uint64_t count = 500000;
	for (uint64_t i = 0; i < count; i++) {
		bool is_read = i % 2 == 1, is_zero = (is_read ? i - 1 : i) % 7 == 3;
		struct history_op op = {.kind = is_read   ? HISTORY_READ
						: is_zero ? HISTORY_ZERO
							  : HISTORY_WRITE,
					.status = i % 11 == 0 && !is_read ? HISTORY_UNKNOWN
									  : HISTORY_OK,
					.client = (uint32_t)(i % 1000),
					.request = i + 1,
					.length_blocks = 1,
					.id = is_zero   ? 0
					      : is_read ? i
							: i + 1,
					.invoke_time = i - i % 1000,
					.return_time = i - i % 1000 + 2000,
					.seq = is_read ? 0 : i + 1};
		history_op_add(&history, &op);
	}
	int rc = history_check(&history, &fault);
	CHECK(rc == 0, "%s", fault.text);
	rc = history_check_log(&history, &fault);
	CHECK(rc == 0, "%s", fault.text);
	history_clear(&history);
}

/* ---- file forms ---- */

TEST(history_file, what_is_printed_is_read_back)
{
	struct rng rng = {13};
	struct history history = {0}, again = {0};
	struct err err = {0};
	disk_run(&rng, &history, 500);
	char *text = NULL, *second = NULL;
	size_t bytes, second_bytes;
	FILE *out = open_memstream(&text, &bytes);
	history_print(&history, out);
	fclose(out);
	int rc = history_parse(&again, text, bytes, &err);
	CHECK(rc == 0, "%s", err_text(&err));
	out = open_memstream(&second, &second_bytes);
	history_print(&again, out);
	fclose(out);
	CHECK_EQ(history.op_count, again.op_count);
	CHECK_EQ(history.open_count, again.open_count);
	CHECK(strcmp(text, second) == 0);
	free(text);
	free(second);
	history_clear(&history);
	history_clear(&again);
}

TEST(history_file, a_bad_line_is_refused_with_its_number)
{
	static const char *const bad[][2] = {
		{"write block=1 time=0..1 ok", "line 2: a write needs an id"},
		{"zero block=1 id=4 time=0..1 ok", "line 2: zeros have no id"},
		{"read block=1 id=1 time=5..4 ok", "line 2: it returned before it was invoked"},
		{"read block=1 id=1 ok", "line 2: it returned before it was invoked"},
		{"read id=1 time=0..1 ok", "line 2: an impossible range"},
		{"read block=18446744073709551615+2 id=0 time=0..1 ok",
		 "line 2: an impossible range"},
		{"read block=1+99999999 id=1 time=0..1 ok", "line 2: too many ids"},
		{"read block=1 id=1 time=0..- ok", "line 2: ok without a return"},
		{"read block=1 id=18446744073709551616 time=0..1",
		 "line 2: 'id=18446744073709551616'"},
		{"read block=1 id= time=0..1 ok", "line 2: 'id='"},
		{"read block=1 id=1 time=0.1 ok", "line 2: 'time=0.1'"},
		{"read block=1 id=1 time=0..1 fine", "line 2: 'fine'"},
		{"flush time=0..1 ok", "line 2: 'flush'"},
		{"open session=1", "line 2: an open needs a time"},
		{"open session=1 at=x", "line 2: 'at=x'"},
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char text[256];
		struct history history = {0};
		struct err err = {0};
		snprintf(text, sizeof(text), "# a comment\n%s", bad[i][0]);
		CHECK_EQ(history_parse(&history, text, strlen(text), &err), -EINVAL);
		CHECK_STR(err_text(&err), bad[i][1]);
		history_clear(&history);
	}
}

static char *exported(const struct history *history, bool kv)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);
	if (kv)
		history_print_kv(history, out);
	else
		history_print_register(history, 9, out);
	fclose(out);
	return text;
}

TEST(history_file, exports_are_in_the_order_of_events)
{
	static const char input[] = "write block=8+2 id=100 time=0..20 ok\n"
				    "read block=9 id=101 time=10..15 ok\n"
				    "zero block=0+64 time=20..- unknown\n"
				    "write block=9 id=300 time=20..21 refused\n"
				    "read block=9 id=0 time=30..31 ok\n";
	struct history history = {0};
	CHECK_EQ(history_parse(&history, input, strlen(input), NULL), 0);
	char *kv = exported(&history, true), *one = exported(&history, false);
	CHECK_STR(kv, "{:process 0, :type :invoke, :f :put, :key \"8\", :value \"100\"}\n"
		      "{:process 1, :type :invoke, :f :put, :key \"9\", :value \"101\"}\n"
		      "{:process 2, :type :invoke, :f :get, :key \"9\", :value nil}\n"
		      "{:process 2, :type :ok, :f :get, :key \"9\", :value \"101\"}\n"
		      "{:process 3, :type :invoke, :f :put, :key \"8\", :value \"\"}\n"
		      "{:process 4, :type :invoke, :f :put, :key \"9\", :value \"\"}\n"
		      "{:process 0, :type :ok, :f :put, :key \"8\", :value \"100\"}\n"
		      "{:process 1, :type :ok, :f :put, :key \"9\", :value \"101\"}\n"
		      "{:process 5, :type :invoke, :f :get, :key \"9\", :value nil}\n"
		      "{:process 5, :type :ok, :f :get, :key \"9\", :value \"\"}\n");
	CHECK_STR(one, "[{:process 0, :type :invoke, :f :write, :value 101}\n"
		       " {:process 1, :type :invoke, :f :read, :value nil}\n"
		       " {:process 1, :type :ok, :f :read, :value 101}\n"
		       " {:process 2, :type :invoke, :f :write, :value 0}\n"
		       " {:process 0, :type :ok, :f :write, :value 101}\n"
		       " {:process 4, :type :invoke, :f :read, :value nil}\n"
		       " {:process 4, :type :ok, :f :read, :value 0}\n"
		       " ]\n");
	free(kv);
	free(one);
	history_clear(&history);
}
