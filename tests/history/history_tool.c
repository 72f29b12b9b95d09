/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Judges the history of a simulator's run or of clients of real processes (file form: history.h).
 *   history_tool FILE           as the clients saw it
 *   history_tool --log FILE     against the log as well: seq and kept must be there
 *   history_tool --edn FILE     all blocks for a key-value checker (Porcupine's tests)
 *   history_tool --edn=BLOCK FILE   one block, a register (Knossos)
 * FILE may be -. Exit code: 0 one disk could have answered so; 1 not, and why; 2 no answer.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/history/history.h"

static char *file_read(const char *path, size_t *bytes)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
	char *text = NULL;
	size_t room = 0;
	*bytes = 0;
	if (file == NULL)
		return NULL;
	do {
		room = MAX(room * 2, (size_t)1 << 16);
		text = realloc(text, room);
		if (text == NULL)
			abort();
		*bytes += fread(text + *bytes, 1, room - *bytes, file);
	} while (*bytes == room);
	if (ferror(file)) {
		free(text);
		text = NULL;
	}
	if (file != stdin)
		fclose(file);
	return text;
}

static int judge(const struct history *history, const char *name,
		 int (*check)(const struct history *, struct history_fault *))
{
	static struct history_fault fault;
	int rc = check(history, &fault);
	if (rc == 0) {
		printf("%s: ok, %u operations, %u opens\n", name, history->op_count,
		       history->open_count);
		return 0;
	}
	printf("%s: %s\n", name, rc == -EUCLEAN ? fault.text : strerror(-rc));
	return rc == -EUCLEAN && fault.rule != HISTORY_MALFORMED ? 1 : 2;
}

static int edn(const struct history *history, const char *option)
{
	if (option[0] == '\0') {
		history_print_kv(history, stdout);
		return 0;
	}
	char *end;
	uint64_t block = strtoull(option + 1, &end, 10);
	if (option[0] != '=' || end == option + 1 || *end != '\0')
		return 2;
	history_print_register(history, block, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	const char *option = argc == 3 ? argv[1] : "";
	bool log = strcmp(option, "--log") == 0, export = strncmp(option, "--edn", 5) == 0;
	if (argc < 2 || argc > 3 || (argc == 3 && !log && !export)) {
		fprintf(stderr, "usage: history_tool [--log | --edn | --edn=BLOCK] FILE\n");
		return 2;
	}
	size_t bytes;
	char *text = file_read(argv[argc - 1], &bytes);
	if (text == NULL) {
		fprintf(stderr, "%s: %s\n", argv[argc - 1], strerror(errno));
		return 2;
	}
	struct history history = {0};
	struct err err = {0};
	int rc;
	if (history_parse(&history, text, bytes, &err) < 0) {
		fprintf(stderr, "%s: %s\n", argv[argc - 1], err_text(&err));
		rc = 2;
	} else if (export) {
		rc = edn(&history, option + 5);
	} else {
		rc = judge(&history, "clients", history_check);
		if (rc == 0 && log)
			rc = judge(&history, "log", history_check_log);
	}
	history_clear(&history);
	free(text);
	return rc;
}
