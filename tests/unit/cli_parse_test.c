/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: what is understood, what is refused, and with which suggestion. */
#include "tests/unit/test.h"

#include <errno.h>
#include <unistd.h>

#include "cli/cli.h"

static int parse(struct cli *cli, const char **group, struct err *err, const char *line)
{
	static char text[1024];
	static char *argv[32];
	int argc = 0;

	snprintf(text, sizeof(text), "holdfast %s", line);
	for (char *word = strtok(text, " "); word && argc < 31; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	return cli_parse(argc, argv, cli, group, err);
}

static void expect(struct cli *cli, const char *line)
{
	const char *group;
	struct err err = {0};

	CHECK(parse(cli, &group, &err, line) == 0, "%s: %s", line, err.text);
}

static void refused(const char *line, const char *part)
{
	struct cli cli;
	const char *group;
	struct err err = {0};

	CHECK(parse(&cli, &group, &err, line) == -EINVAL, "%s", line);
	CHECK(strstr(err.text, part) != NULL, "%s: '%s' is not in '%s'", line, part, err.text);
}

TEST(cli_parse, a_verb_of_two_words_takes_its_arguments_and_options)
{
	struct cli cli;

	expect(&cli,
	       "--dir /tmp/x volume create db1 --size 1Gi --replicas=3 --param a=b --param c=d");
	CHECK(strcmp(cli.verb->words, "volume create") == 0);
	CHECK(strcmp(cli.arguments[0], "db1") == 0);
	CHECK(strcmp(cli_value(&cli, "size"), "1Gi") == 0);
	CHECK(strcmp(cli_value(&cli, "replicas"), "3") == 0);
	CHECK(strcmp(cli_value_at(&cli, "param", 1), "c=d") == 0);
	CHECK(cli_value_at(&cli, "param", 2) == NULL);
	CHECK(strcmp(cli.dir, "/tmp/x") == 0);
}

TEST(cli_parse, global_options_may_stand_after_the_verb)
{
	struct cli cli;

	expect(&cli, "node list -o json --timeout 5s");
	CHECK(cli.format == CLI_JSON);
	CHECK(cli.timeout_ms == 5000);
	expect(&cli, "node list -ojson");
	CHECK(cli.format == CLI_JSON);
}

TEST(cli_parse, a_relative_directory_becomes_absolute)
{
	struct cli cli;
	char here[256], wanted[300];

	CHECK(chdir("/tmp") == 0 && getcwd(here, sizeof(here)));
	snprintf(wanted, sizeof(wanted), "%s/build/cluster", here);
	expect(&cli, "--dir ./build/cluster/ status");
	CHECK(strcmp(cli.dir, wanted) == 0, "%s", cli.dir);
}

TEST(cli_parse, unknown_words_are_refused_with_the_nearest_known)
{
	refused("volum list", "did you mean 'volume'");
	refused("volume creat x", "did you mean 'volume create'");
	refused("stauts", "did you mean 'status'");
	refused("volume create x --sise 1Gi", "did you mean '--size'");
	refused("status --szie", "unknown option");
	refused("xyzzy", "holdfast --help");
}

TEST(cli_parse, what_is_missing_or_too_much_is_named)
{
	refused("volume", "needs a verb");
	refused("", "needs a verb");
	refused("volume show", "NAME is missing");
	refused("volume show a b", "'b' is too much");
	refused("volume create x --size", "--size needs a value");
	refused("volume create x --size 1Gi --size 2Gi", "given twice");
	refused("volume delete x --yes=1", "takes no value");
	refused("status -o xml", "not json, wide or table");
	refused("status --timeout 3parsecs", "not a duration");
	refused("--dir /a/123456789012345678901234567890123456789012345678901234567890123456789012"
		"3456789012345678901234567890 status",
		"at most 80");
}

TEST(cli_parse, help_asks_for_nothing_else)
{
	struct cli cli;

	expect(&cli, "volume create --help");
	CHECK(cli.want_help && cli.verb);
	expect(&cli, "volume --help");
	CHECK(cli.want_help && !cli.verb);
	expect(&cli, "--version");
	CHECK(cli.want_version);
}

TEST(cli_parse, sizes_and_numbers_are_checked)
{
	struct cli cli;
	struct err err = {0};
	uint64_t value = 0;

	expect(&cli, "volume create x --size 1Gi --replicas 9");
	CHECK(cli_size(&cli, "size", 0, &value, &err) == 0 && value == 1ull << 30);
	CHECK(cli_number(&cli, "replicas", 5, &value, &err) == -EINVAL);
	CHECK(strstr(err.text, "--replicas is '9'") != NULL);
	expect(&cli, "volume create x --size big");
	CHECK(cli_size(&cli, "size", 0, &value, &err) == -EINVAL);
}

TEST(cli_parse, every_verb_has_help_and_fits_the_screen)
{
	for (const struct cli_verb *v = cli_verbs; v->words; v++) {
		CHECK(v->help && v->run, "%s", v->words);
		CHECK(strlen(v->words) + strlen(v->arguments) + 1 <= 26, "%s", v->words);
		CHECK(v->arguments_min <= v->arguments_max, "%s", v->words);
		CHECK(v->arguments_max <= CLI_ARGUMENTS_MAX, "%s", v->words);
	}
}

TEST(cli_exit, errors_have_the_codes_that_scripts_rely_on)
{
	CHECK(cli_exit_of(0) == 0);
	CHECK(cli_exit_of(-EIO) == 1);
	CHECK(cli_exit_of(-EINVAL) == 2);
	CHECK(cli_exit_of(-ENOENT) == 3);
	CHECK(cli_exit_of(-EEXIST) == 4 && cli_exit_of(-EBUSY) == 4);
	CHECK(cli_exit_of(-ETIMEDOUT) == 5);
}
