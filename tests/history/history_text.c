/* SPDX-License-Identifier: Apache-2.0 */
/* The file form, and the forms of other checkers. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/history/history_int.h"

static const char *const kind_names[] = {"read", "write", "zero"};
static const char *const status_names[] = {"ok", "unknown", "refused"};

/* ---- out ---- */

PRINTF_LIKE(2, 3) static void line_add(char line[HISTORY_LINE_BYTES], const char *format, ...)
{
	size_t used = strlen(line);
	va_list args;
	va_start(args, format);
	(void)vsnprintf(line + used, HISTORY_LINE_BYTES - used, format, args);
	va_end(args);
}

void history_op_format(const struct history_op *op, char line[HISTORY_LINE_BYTES])
{
	line[0] = '\0';
	if ((unsigned)op->kind > HISTORY_ZERO || (unsigned)op->status > HISTORY_REFUSED) {
		line_add(line, "kind %d status %d", (int)op->kind, (int)op->status);
		return;
	}
	line_add(line, "%s block=%" PRIu64, kind_names[op->kind], op->block);
	if (op->length_blocks != 1)
		line_add(line, "+%" PRIu64, op->length_blocks);
	if (op->kind != HISTORY_ZERO)
		line_add(line, " id=%" PRIu64, op->id);
	line_add(line, " time=%" PRIu64 "..", op->invoke_time);
	if (op->return_time == HISTORY_NEVER)
		line_add(line, "-");
	else
		line_add(line, "%" PRIu64, op->return_time);
	line_add(line, " %s", status_names[op->status]);
	if (op->client != 0)
		line_add(line, " client=%u", op->client);
	if (op->request != 0)
		line_add(line, " request=%" PRIu64, op->request);
	if (op->session != 0)
		line_add(line, " session=%" PRIu64, op->session);
	if (op->seq != 0)
		line_add(line, " seq=%" PRIu64, op->seq);
}

void history_print(const struct history *history, FILE *out)
{
	for (uint32_t i = 0; i < history->open_count; i++)
		fprintf(out, "open session=%" PRIu64 " at=%" PRIu64 " kept=%" PRIu64 "\n",
			history->opens[i].session, history->opens[i].time,
			history->opens[i].kept_seq);
	for (uint32_t i = 0; i < history->op_count; i++) {
		char line[HISTORY_LINE_BYTES];
		history_op_format(&history->ops[i], line);
		fprintf(out, "%s\n", line);
	}
}

/* ---- in ---- */

struct word {
	const char *at;
	size_t bytes;
};

static bool word_is(const struct word *word, const char *text)
{
	return word->bytes == strlen(text) && memcmp(word->at, text, word->bytes) == 0;
}

/* Takes the next word off a line; false at its end. */
static bool word_next(struct word *line, struct word *ret)
{
	while (line->bytes > 0 && (*line->at == ' ' || *line->at == '\t' || *line->at == '\r')) {
		line->at++;
		line->bytes--;
	}
	if (line->bytes == 0 || *line->at == '#')
		return false;
	size_t n = 0;
	while (n < line->bytes && line->at[n] != ' ' && line->at[n] != '\t' && line->at[n] != '\r')
		n++;
	*ret = (struct word){line->at, n};
	line->at += n;
	line->bytes -= n;
	return true;
}

/* A number at the head of a word; takes it off. */
static bool number_take(struct word *word, uint64_t *ret)
{
	uint64_t value = 0;
	size_t n = 0;
	for (; n < word->bytes && word->at[n] >= '0' && word->at[n] <= '9'; n++) {
		uint64_t digit = (uint64_t)(word->at[n] - '0');
		if (value > (UINT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	word->at += n;
	word->bytes -= n;
	*ret = value;
	return n > 0;
}

static bool text_take(struct word *word, const char *text)
{
	size_t bytes = strlen(text);
	if (word->bytes < bytes || memcmp(word->at, text, bytes) != 0)
		return false;
	word->at += bytes;
	word->bytes -= bytes;
	return true;
}

static bool number_is(struct word word, uint64_t *ret)
{
	uint64_t value;
	if (!number_take(&word, &value) || word.bytes != 0)
		return false;
	*ret = value;
	return true;
}

static bool block_is(struct word word, struct history_op *op)
{
	if (!number_take(&word, &op->block))
		return false;
	op->length_blocks = 1;
	return word.bytes == 0 || (text_take(&word, "+") && number_is(word, &op->length_blocks));
}

static bool time_is(struct word word, struct history_op *op)
{
	if (!number_take(&word, &op->invoke_time) || !text_take(&word, ".."))
		return false;
	op->return_time = HISTORY_NEVER;
	return word_is(&word, "-") || number_is(word, &op->return_time);
}

static bool op_word(struct word word, struct history_op *op)
{
	uint64_t client = 0;
	for (unsigned i = 0; i < ARRAY_LEN(status_names); i++)
		if (word_is(&word, status_names[i])) {
			op->status = (enum history_status)i;
			return true;
		}
	if (text_take(&word, "block="))
		return block_is(word, op);
	if (text_take(&word, "time="))
		return time_is(word, op);
	if (text_take(&word, "id="))
		return number_is(word, &op->id);
	if (text_take(&word, "request="))
		return number_is(word, &op->request);
	if (text_take(&word, "session="))
		return number_is(word, &op->session);
	if (text_take(&word, "seq="))
		return number_is(word, &op->seq);
	if (!text_take(&word, "client=") || !number_is(word, &client) || client > UINT32_MAX)
		return false;
	op->client = (uint32_t)client;
	return true;
}

static int op_parse(struct history *history, enum history_kind kind, struct word line,
		    uint64_t number, struct err *err)
{
	/* What must be said is impossible until it is. */
	struct history_op op = {.kind = kind,
				.status = HISTORY_UNKNOWN,
				.invoke_time = HISTORY_NEVER,
				.return_time = HISTORY_NEVER};
	struct word word;
	while (word_next(&line, &word))
		if (!op_word(word, &op))
			return err_set(err, -EINVAL, "line %" PRIu64 ": '%.*s'", number,
				       (int)MIN(word.bytes, 64u), word.at);
	const char *complaint = op_complaint(&op);
	if (complaint != NULL)
		return err_set(err, -EINVAL, "line %" PRIu64 ": %s", number, complaint);
	history_op_add(history, &op);
	return 0;
}

static int open_parse(struct history *history, struct word line, uint64_t number, struct err *err)
{
	struct history_open open = {.time = HISTORY_NEVER};
	struct word word;
	while (word_next(&line, &word)) {
		struct word value = word;
		bool ok = (text_take(&value, "session=") && number_is(value, &open.session)) ||
			  (text_take(&value, "at=") && number_is(value, &open.time)) ||
			  (text_take(&value, "kept=") && number_is(value, &open.kept_seq));
		if (!ok)
			return err_set(err, -EINVAL, "line %" PRIu64 ": '%.*s'", number,
				       (int)MIN(word.bytes, 64u), word.at);
	}
	if (open.time == HISTORY_NEVER)
		return err_set(err, -EINVAL, "line %" PRIu64 ": an open needs a time", number);
	history_open_add(history, &open);
	return 0;
}

int history_parse(struct history *history, const char *text, size_t bytes, struct err *err)
{
	const char *end = text + bytes;
	int rc = 0;
	for (uint64_t number = 1; rc == 0 && text < end; number++) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *until = newline != NULL ? newline : end;
		struct word line = {text, (size_t)(until - text)}, word;
		text = newline != NULL ? newline + 1 : end;
		if (!word_next(&line, &word))
			continue;
		unsigned kind = 0;
		while (kind < ARRAY_LEN(kind_names) && !word_is(&word, kind_names[kind]))
			kind++;
		if (kind < ARRAY_LEN(kind_names))
			rc = op_parse(history, (enum history_kind)kind, line, number, err);
		else if (word_is(&word, "open"))
			rc = open_parse(history, line, number, err);
		else
			rc = err_set(err, -EINVAL, "line %" PRIu64 ": '%.*s'", number,
				     (int)MIN(word.bytes, 64u), word.at);
	}
	return rc;
}

/* ---- other checkers ---- */

struct event {
	uint64_t time, is_return;
	uint64_t op;
};

/* What they need not know is left out: refused writes, failed reads, and the returns of unknown ones. */
static struct event *events_make(const struct history *history, size_t *count)
{
	struct event *events = malloc((2u * (size_t)history->op_count + 1) * sizeof(*events));
	*count = 0;
	if (events == NULL)
		abort();
	for (uint32_t i = 0; i < history->op_count; i++) {
		const struct history_op *op = &history->ops[i];
		if (op->status == HISTORY_REFUSED ||
		    (op->kind == HISTORY_READ && op->status != HISTORY_OK))
			continue;
		events[(*count)++] = (struct event){op->invoke_time, 0, i};
		if (op->status == HISTORY_OK)
			events[(*count)++] = (struct event){op->return_time, 1, i};
	}
	key3_sort(events, *count, sizeof(*events));
	return events;
}

void history_print_kv(const struct history *history, FILE *out)
{
	size_t count;
	struct event *events = events_make(history, &count);
	struct touched touched = {0};
	if (touched_make(history, &touched) < 0)
		abort();
	/* A process does one thing at a time, so each block of each operation is one. */
	uint64_t *processes = calloc(history->op_count + 1u, sizeof(*processes)), next = 0;
	for (size_t i = 0; i < count; i++) {
		const struct history_op *op = &history->ops[events[i].op];
		size_t first, end;
		touched_range(&touched, op, &first, &end);
		if (!events[i].is_return) {
			processes[events[i].op] = next;
			next += end - first;
		}
		for (size_t k = first; k < end; k++) {
			char value[24] = "";
			uint64_t id = op_id_at(op, touched.blocks[k]);
			if (id != 0)
				snprintf(value, sizeof(value), "%" PRIu64, id);
			bool is_get = op->kind == HISTORY_READ;
			fprintf(out,
				"{:process %" PRIu64 ", :type :%s, :f :%s, :key \"%" PRIu64 "\", ",
				processes[events[i].op] + (k - first),
				events[i].is_return ? "ok" : "invoke", is_get ? "get" : "put",
				touched.blocks[k]);
			if (is_get && !events[i].is_return)
				fprintf(out, ":value nil}\n");
			else
				fprintf(out, ":value \"%s\"}\n", value);
		}
	}
	free(processes);
	free(touched.blocks);
	free(events);
}

void history_print_register(const struct history *history, uint64_t block, FILE *out)
{
	size_t count;
	struct event *events = events_make(history, &count);
	fprintf(out, "[");
	for (size_t i = 0; i < count; i++) {
		const struct history_op *op = &history->ops[events[i].op];
		if (block < op->block || block - op->block >= op->length_blocks)
			continue;
		bool is_read = op->kind == HISTORY_READ;
		fprintf(out, "{:process %" PRIu64 ", :type :%s, :f :%s, :value ", events[i].op,
			events[i].is_return ? "ok" : "invoke", is_read ? "read" : "write");
		if (is_read && !events[i].is_return)
			fprintf(out, "nil}\n ");
		else
			fprintf(out, "%" PRIu64 "}\n ", op_id_at(op, block));
	}
	fprintf(out, "]\n");
	free(events);
}
