/* SPDX-License-Identifier: Apache-2.0 */
/* Errors, log lines, checksums, uuids, the timer heap. */
#include "tests/unit/test.h"

#include <errno.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/log.h"
#include "base/timer_heap.h"

TEST(crc32c, known_vectors)
{
	CHECK(crc32c("123456789", 9) == 0xe3069283u);
	CHECK(crc32c(NULL, 0) == 0);
	static const uint8_t zero[BLOCK_BYTES];
	CHECK(crc32c(zero, sizeof(zero)) == CRC32C_ZERO_BLOCK);
}

TEST(crc32c, more_continues_at_any_split)
{
	uint8_t bytes[300];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + 3);
	uint32_t whole = crc32c(bytes, sizeof(bytes));
	for (size_t cut = 0; cut <= sizeof(bytes); cut++)
		CHECK(crc32c_more(crc32c(bytes, cut), bytes + cut, sizeof(bytes) - cut) == whole);
}

TEST(hash64, chains_and_depends_on_seed)
{
	uint64_t whole = hash64_more(0, "123456789", 9);
	CHECK(whole == 0x995dc9bbdf1939faull); /* CRC-64/XZ of "123456789" */
	CHECK(hash64_more(hash64_more(0, "1234", 4), "56789", 5) == whole);
	CHECK(hash64_more(1, "123456789", 9) != whole);
	CHECK(hash64_more(77, NULL, 0) == 77);
}

TEST(uuid, formats_and_parses_back)
{
	const char *text = "01234567-89ab-cdef-0123-456789abcdef";
	struct uuid uuid;
	char out[UUID_TEXT_BYTES];
	CHECK_EQ(uuid_parse(text, &uuid), 0);
	CHECK_EQ(uuid.bytes[0], 0x01);
	CHECK_EQ(uuid.bytes[15], 0xef);
	uuid_format(&uuid, out);
	CHECK_STR(out, text);
	CHECK_EQ(uuid_parse("01234567-89AB-CDEF-0123-456789ABCDEF", &uuid), 0);
	uuid_format(&uuid, out);
	CHECK_STR(out, text);
}

TEST(uuid, refuses_anything_else_and_leaves_ret_alone)
{
	static const char *const bad[] = {
		"",
		"-",
		"01234567-89ab-cdef-0123-456789abcde",
		"01234567-89ab-cdef-0123-456789abcdef0",
		"0123456789abcdef0123456789abcdef",
		"01234567-89ab-cdef-0123+456789abcdef",
		"g1234567-89ab-cdef-0123-456789abcdef",
		"01234567-89ab-cdef-0123-456789abcde ",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct uuid uuid = {{9}};
		CHECK_EQ(uuid_parse(bad[i], &uuid), -EINVAL);
		CHECK_EQ(uuid.bytes[0], 9);
	}
}

TEST(err, set_and_wrap_make_one_sentence)
{
	struct err err = {0};
	CHECK_STR(err_text(&err), "");
	CHECK_STR(err_text(NULL), "");
	CHECK_EQ(err_set(&err, -EINVAL, "size %d is above the limit of %d", 9, 8), -EINVAL);
	CHECK_EQ(err_wrap(&err, -EINVAL, "volume '%s'", "db1"), -EINVAL);
	CHECK_STR(err_text(&err), "volume 'db1': size 9 is above the limit of 8");
	CHECK_EQ(err_set(NULL, -EIO, "x"), -EIO);
	CHECK_EQ(err_wrap(NULL, -EIO, "x"), -EIO);
}

TEST(err, wrap_without_text_names_the_errno)
{
	struct err err = {0};
	err_wrap(&err, -ENOENT, "open '/x'");
	CHECK_STR(err_text(&err), "open '/x': No such file or directory");
}

TEST(err, long_or_dirty_text_stays_one_bounded_line)
{
	struct err err = {0};
	char big[2000];
	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	err_set(&err, -EINVAL, "a\nb%s", big);
	CHECK_EQ(strlen(err.text), sizeof(err.text) - 1);
	CHECK(strncmp(err.text, "a?b", 3) == 0);
	err_wrap(&err, -EINVAL, "prefix");
	CHECK_EQ(strlen(err.text), sizeof(err.text) - 1);
	CHECK(strncmp(err.text, "prefix: a?b", 11) == 0);
	err_wrap(&err, -EINVAL, "%s", big);
	CHECK_EQ(strlen(err.text), sizeof(err.text) - 1);
	/* An argument may be the old text. */
	err_set(&err, -EINVAL, "inner");
	err_set(&err, -EINVAL, "outer %s", err.text);
	CHECK_STR(err.text, "outer inner");
}

TEST(err, names)
{
	CHECK_STR(err_name(-EINVAL), "EINVAL");
	CHECK_STR(err_name(ECANCELED), "ECANCELED");
	CHECK_STR(err_name(-999), "E?");
}

static char last_line[4096];
static int line_count;
static void sink(void *ctx, enum log_level level, const char *line)
{
	(void)level;
	CHECK(ctx == last_line);
	snprintf(last_line, sizeof(last_line), "%s", line);
	line_count++;
}

TEST(log, line_has_time_level_module_event_and_pairs)
{
	log_sink_set(sink, last_line);
	log_event(LOG_WARN, "repl", "peer_lost", "vol=%s epoch=%d", "db1", 7);
	log_sink_set(NULL, NULL);
	int n = 0;
	int year, month, day, hour, minute, second, micro;
	CHECK_EQ(sscanf(last_line, "%4d-%2d-%2dT%2d:%2d:%2d.%6dZ %n", &year, &month, &day, &hour,
			&minute, &second, &micro, &n),
		 7);
	CHECK_STR(last_line + n, "warn repl peer_lost vol=db1 epoch=7");
}

TEST(log, level_filters_and_parses)
{
	enum log_level level = LOG_WARN;
	log_sink_set(sink, last_line);
	log_event(LOG_DEBUG, "m", "hidden", "x=%d", 1);
	CHECK_EQ(line_count, 0);
	CHECK_EQ(log_level_parse("debug", &level), 0);
	log_level_set(level);
	log_event(LOG_DEBUG, "m", "shown", "x=%d", 1);
	CHECK_EQ(line_count, 1);
	log_level_set(LOG_INFO);
	log_sink_set(NULL, NULL);
	CHECK_EQ(log_level_parse("loud", &level), -EINVAL);
	CHECK_EQ(level, LOG_DEBUG);
}

TEST(log, quoting_escapes_quotes_and_control_characters)
{
	CHECK_STR(LOG_Q("plain text"), "'plain text'");
	CHECK_STR(LOG_Q("it's a \\ \n\x7f"), "'it\\'s a \\\\ \\x0a\\x7f'");
	char small[12];
	CHECK_STR(log_quote("abcdefghijklmnop", small, sizeof(small)), "'abcde'");
	CHECK_STR(log_quote("\n\n\n\n", small, sizeof(small)), "'\\x0a\\x0a'");
}

TEST(log, a_long_or_dirty_line_stays_one_line)
{
	char big[5000];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	log_sink_set(sink, last_line);
	log_event(LOG_INFO, "m", "long", "v=%s", big);
	size_t length = strlen(last_line);
	CHECK(length < 2048 && length > 2000);
	CHECK_STR(last_line + length - 3, "...");
	log_event(LOG_INFO, "m", "dirty", "v=%s", "a\nb");
	CHECK(strstr(last_line, "v=a?b") != NULL);
	CHECK(strchr(last_line, '\n') == NULL);
	log_sink_set(NULL, NULL);
}

TEST(timer_heap, pops_by_deadline_then_arming_order)
{
	struct timer_heap heap;
	static struct env_timer timers[3000];
	CHECK_EQ(timer_heap_init(&heap), 0);
	uint32_t seed = 1;
	for (size_t i = 0; i < ARRAY_LEN(timers); i++) {
		seed = seed * 1664525 + 1013904223;
		timer_heap_set(&heap, &timers[i], (seed >> 16) % 500);
	}
	for (size_t i = 0; i < ARRAY_LEN(timers); i += 3)
		timer_heap_cancel(&heap, &timers[i]);
	for (size_t i = 1; i < ARRAY_LEN(timers); i += 6)
		timer_heap_set(&heap, &timers[i], i % 700);
	uint64_t last_deadline = 0, last_order = 0;
	size_t count = 0;
	for (struct env_timer *t; (t = timer_heap_pop_due(&heap, 1000, UINT64_MAX)); count++) {
		CHECK(!env_timer_armed(t));
		CHECK((t - timers) % 3 != 0);
		CHECK(t->deadline_ns > last_deadline || count == 0 ||
		      (t->deadline_ns == last_deadline && t->order > last_order));
		last_deadline = t->deadline_ns;
		last_order = t->order;
	}
	CHECK_EQ(count, 2000);
	CHECK(timer_heap_first(&heap) == NULL);
	timer_heap_free(&heap);
}

TEST(timer_heap, due_means_deadline_reached_and_armed_before_the_limit)
{
	struct timer_heap heap;
	struct env_timer a = {0}, b = {0};
	CHECK_EQ(timer_heap_init(&heap), 0);
	timer_heap_set(&heap, &a, 10);
	uint64_t limit = heap.next_order;
	timer_heap_set(&heap, &b, 20);
	CHECK(timer_heap_pop_due(&heap, 9, limit) == NULL);
	CHECK(timer_heap_pop_due(&heap, 30, limit) == &a);
	CHECK(timer_heap_pop_due(&heap, 30, limit) == NULL);
	CHECK(timer_heap_first(&heap) == &b);
	timer_heap_cancel(&heap, &a); /* not armed: fine */
	timer_heap_free(&heap);
	CHECK(!env_timer_armed(&b));
}
