/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration: the first byte chooses between the text of a file and a command line, whose
 * arguments are the input's lines. What is accepted keeps its limits; everything is freed.
 */
#include <errno.h>
#include <string.h>

#include "base/config.h"
#include "tests/fuzz/fuzz.h"

struct role {
	char *name;
	struct config_strings stores;
	bool verbose;
	uint64_t count;
	uint64_t size_bytes;
	uint64_t wait_ns;
};

static const struct config_option options[] = {
	{.name = "name",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct role, name),
	 .max = 15,
	 .is_required = true,
	 .help = "A name"},
	{.name = "store",
	 .type = CONFIG_STRINGS,
	 .offset = offsetof(struct role, stores),
	 .help = "A store"},
	{.name = "verbose",
	 .type = CONFIG_BOOL,
	 .offset = offsetof(struct role, verbose),
	 .initial = "on",
	 .help = "Say more"},
	{.name = "count",
	 .type = CONFIG_UINT,
	 .offset = offsetof(struct role, count),
	 .initial = "3",
	 .min = 1,
	 .max = 9,
	 .help = "How many"},
	{.name = "size",
	 .type = CONFIG_SIZE,
	 .offset = offsetof(struct role, size_bytes),
	 .initial = "16Mi",
	 .help = "How large"},
	{.name = "wait",
	 .type = CONFIG_DURATION,
	 .offset = offsetof(struct role, wait_ns),
	 .initial = "1500ms",
	 .help = "How long"},
};
static const struct config_table table = {
	.usage = "fuzz [FLAGS]", .options = options, .option_count = ARRAY_LEN(options)};

#define ARGUMENTS_MAX 100

static int load_arguments(char *text, struct role *role, struct err *err)
{
	char *argv[ARGUMENTS_MAX + 2] = {(char *)"fuzz"}, *next = text;
	int argc = 1;
	while (next != NULL && argc <= ARGUMENTS_MAX)
		argv[argc++] = strsep(&next, "\n");
	/* A file's contents would make the run depend on the machine; role is freed as it is. */
	*role = (struct role){0};
	for (int i = 1; i < argc; i++)
		if (strncmp(argv[i], "--config", 8) == 0)
			return err_set(err, -EINVAL, "no files here");
	return config_load(&table, argc, argv, role, err);
}

static void check_number(enum config_type type, uint64_t value)
{
	char text[32];
	uint64_t again;
	FUZZ_CHECK(config_parse_number(type, config_format_number(type, value, text), &again) == 0);
	FUZZ_CHECK(again == value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0)
		return 0;
	char *text = malloc(bytes);
	memcpy(text, data + 1, bytes - 1);
	text[bytes - 1] = '\0';
	struct role role;
	struct err err = {0};
	int rc;
	if (data[0] == '-')
		rc = load_arguments(text, &role, &err);
	else
		rc = config_load_text(&table, "fuzz.yaml", text, &role, &err);
	if (rc < 0) {
		FUZZ_CHECK(err.text[0] != '\0');
	} else if (rc == 0) {
		FUZZ_CHECK(role.name != NULL && strlen(role.name) <= 15);
		FUZZ_CHECK(role.count >= 1 && role.count <= 9);
		FUZZ_CHECK(role.stores.count <= CONFIG_LIST_MAX);
		check_number(CONFIG_SIZE, role.size_bytes);
		check_number(CONFIG_DURATION, role.wait_ns);
	}
	config_free(&table, &role);
	free(text);
	return 0;
}
