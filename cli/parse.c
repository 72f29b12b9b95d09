/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of the command line.
 *
 * Words that are no options name the verb first (one word, or two when the first is a group) and
 * are its arguments after that. Options may stand anywhere; those of a verb only after it.
 *
 * P1  Everything on the line is used or refused; the refusal names it and the nearest known name.
 * P2  An option that is given twice is refused unless it may be repeated.
 * P3  Nothing is done before the whole line was understood.
 */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"

static const struct cli_option options_global[] = {
	{"dir", 0, CLI_TEXT, "DIR",
	 "of the local cluster (default: $HOLDFAST_DIR, or /var/lib/holdfast)"},
	{"manager", 0, CLI_TEXT, "ADDRESS", "of a manager: unix:/PATH or tcp:HOST:PORT"},
	{"output", 'o', CLI_TEXT, "FORMAT", "json, wide, or table (the default)"},
	{"timeout", 0, CLI_TEXT, "DURATION", "for one request (default: 30s)"},
	{"help", 'h', CLI_FLAG, NULL, "this text"},
	{"version", 0, CLI_FLAG, NULL, "print the version"},
	{0},
};

#define DIR_DEFAULT "/var/lib/holdfast"
#define NAMES_MAX   48

/* ---- the nearest name ---- */

static size_t edit_distance(const char *a, const char *b)
{
	size_t row[64];
	size_t b_length = strlen(b);

	if (strlen(a) > 62 || b_length > 62)
		return SIZE_MAX;
	for (size_t j = 0; j <= b_length; j++)
		row[j] = j;
	for (size_t i = 1; a[i - 1]; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= b_length; j++) {
			size_t above = row[j];
			size_t changed = diagonal + (a[i - 1] != b[j - 1]);
			row[j] = MIN(MIN(above, row[j - 1]) + 1, changed);
			diagonal = above;
		}
	}
	return row[b_length];
}

const char *cli_nearest(const char *text, const char *const *candidates)
{
	const char *nearest = NULL;
	size_t nearest_distance = SIZE_MAX;

	for (; *candidates; candidates++) {
		size_t distance = edit_distance(text, *candidates);
		if (distance < nearest_distance && distance <= 1 + strlen(*candidates) / 3) {
			nearest = *candidates;
			nearest_distance = distance;
		}
	}
	return nearest;
}

/* ---- options ---- */

static const struct cli_option *option_in(const struct cli_option *options, const char *name,
					  size_t bytes, char letter)
{
	for (; options && options->name; options++) {
		if (letter ? options->letter == letter
			   : strlen(options->name) == bytes &&
				     memcmp(options->name, name, bytes) == 0)
			return options;
	}
	return NULL;
}

static const struct cli_option *option_find(const struct cli *cli, const char *name, size_t bytes,
					    char letter)
{
	const struct cli_option *option = option_in(options_global, name, bytes, letter);

	if (!option && cli->verb)
		option = option_in(cli->verb->options, name, bytes, letter);
	return option;
}

static int option_unknown(const struct cli *cli, const char *text, struct err *err)
{
	const char *names[NAMES_MAX + 1] = {0};
	uint32_t count = 0;
	const struct cli_option *tables[] = {options_global, cli->verb ? cli->verb->options : NULL};
	char name[64];

	for (size_t i = 0; i < ARRAY_LEN(tables); i++)
		for (const struct cli_option *o = tables[i]; o && o->name && count < NAMES_MAX; o++)
			names[count++] = o->name;
	snprintf(name, sizeof(name), "%s", text + strspn(text, "-"));
	name[strcspn(name, "=")] = 0;
	const char *nearest = cli_nearest(name, names);
	const char *verb = cli->verb ? cli->verb->words : NULL;
	if (nearest)
		return err_set(err, -EINVAL, "unknown option '%s'%s%s; did you mean '--%s'?", text,
			       verb ? " of " : "", verb ? verb : "", nearest);
	return err_set(err, -EINVAL, "unknown option '%s'%s%s; see 'holdfast %s%s--help'", text,
		       verb ? " of " : " before a verb", verb ? verb : "", verb ? verb : "",
		       verb ? " " : "");
}

static int option_store(struct cli *cli, const struct cli_option *option, const char *text,
			struct err *err)
{
	if (option->kind == CLI_TEXT && cli_value(cli, option->name))
		return err_set(err, -EINVAL, "--%s is given twice", option->name);
	if (cli->value_count == CLI_VALUES_MAX)
		return err_set(err, -EINVAL, "more than %d options", CLI_VALUES_MAX);
	cli->values[cli->value_count].option = option;
	cli->values[cli->value_count].text = text;
	cli->value_count++;
	return 0;
}

/* argv[*index] begins with '-'; *index ends on the last word used. */
static int option_parse(struct cli *cli, int argc, char *const argv[], int *index, struct err *err)
{
	const char *word = argv[*index];
	bool is_long = word[1] == '-';
	const char *name = word + 2;
	const char *equals = is_long ? strchr(name, '=') : NULL;
	size_t bytes = equals ? (size_t)(equals - name) : strlen(name);
	const struct cli_option *option = option_find(cli, name, bytes, is_long ? 0 : word[1]);

	if (!option)
		return option_unknown(cli, word, err);
	if (option->kind == CLI_FLAG) {
		if (equals || (!is_long && word[2]))
			return err_set(err, -EINVAL, "--%s takes no value", option->name);
		return option_store(cli, option, "", err);
	}
	if (equals)
		return option_store(cli, option, equals + 1, err);
	if (!is_long && word[2])
		return option_store(cli, option, word + 2, err);
	if (*index + 1 >= argc)
		return err_set(err, -EINVAL, "--%s needs a value: --%s %s", option->name,
			       option->name, option->metavar);
	return option_store(cli, option, argv[++*index], err);
}

/* ---- verbs ---- */

/* The first word of a row, as far as it is a group. */
static bool verb_in_group(const struct cli_verb *verb, const char *group)
{
	size_t bytes = strlen(group);

	return strncmp(verb->words, group, bytes) == 0 && verb->words[bytes] == ' ';
}

static bool group_exists(const char *word)
{
	for (const struct cli_verb *v = cli_verbs; v->words; v++)
		if (verb_in_group(v, word))
			return true;
	return false;
}

static int word_unknown(const char *group, const char *word, struct err *err)
{
	const char *names[NAMES_MAX + 1] = {0};
	char firsts[NAMES_MAX][32];
	uint32_t count = 0;

	for (const struct cli_verb *v = cli_verbs; v->words && count < NAMES_MAX; v++) {
		if (group && !verb_in_group(v, group))
			continue;
		const char *from = group ? v->words + strlen(group) + 1 : v->words;
		snprintf(firsts[count], sizeof(firsts[count]), "%.*s", (int)strcspn(from, " "),
			 from);
		names[count] = firsts[count];
		count++;
	}
	const char *nearest = cli_nearest(word, names);
	const char *prefix = group ? group : "";
	const char *blank = group ? " " : "";
	if (nearest)
		return err_set(err, -EINVAL, "unknown verb '%s%s%s'; did you mean '%s%s%s'?",
			       prefix, blank, word, prefix, blank, nearest);
	return err_set(err, -EINVAL, "unknown verb '%s%s%s'; see 'holdfast %s%s--help'", prefix,
		       blank, word, prefix, blank);
}

static int word_take(struct cli *cli, const char *word, const char **group, struct err *err)
{
	char words[64];

	if (cli->verb) {
		if (cli->argument_count >= cli->verb->arguments_max)
			return err_set(err, -EINVAL, "'%s' is too much: holdfast %s%s%s", word,
				       cli->verb->words, *cli->verb->arguments ? " " : "",
				       cli->verb->arguments);
		cli->arguments[cli->argument_count++] = word;
		return 0;
	}
	if (!*group && group_exists(word)) {
		*group = word;
		return 0;
	}
	snprintf(words, sizeof(words), "%s%s%s", *group ? *group : "", *group ? " " : "", word);
	for (const struct cli_verb *v = cli_verbs; v->words; v++)
		if (strcmp(v->words, words) == 0)
			cli->verb = v;
	return cli->verb ? 0 : word_unknown(*group, word, err);
}

/* ---- the whole line ---- */

/* Daemons run in "/", so the directory is made absolute. Sockets' paths fit in 107 bytes. */
static int dir_apply(struct cli *cli, const char *dir, struct err *err)
{
	char here[PATH_MAX] = "";
	const char *from = dir;
	int length;

	while (from[0] == '.' && from[1] == '/')
		from += 2 + strspn(from + 2, "/");
	if (from[0] != '/' && !getcwd(here, sizeof(here)))
		return err_set(err, -EINVAL, "--dir is relative and the current directory is gone");
	length = snprintf(cli->dir, sizeof(cli->dir), "%s%s%s", here, *here ? "/" : "", from);
	if (length < 0 || length > CLI_DIR_BYTES_MAX)
		return err_set(
			err, -EINVAL,
			"--dir is %d bytes long as an absolute path; at most %d are possible, "
			"because sockets are below it: %s",
			length, CLI_DIR_BYTES_MAX, dir);
	while (length > 1 && cli->dir[length - 1] == '/')
		cli->dir[--length] = 0;
	return 0;
}

static int globals_apply(struct cli *cli, struct err *err)
{
	const char *format = cli_value(cli, "output");
	const char *timeout = cli_value(cli, "timeout");
	const char *dir = cli_value(cli, "dir");
	uint64_t timeout_ns = 30000000000ull;

	if (!format || strcmp(format, "table") == 0)
		cli->format = CLI_TABLE;
	else if (strcmp(format, "json") == 0)
		cli->format = CLI_JSON;
	else if (strcmp(format, "wide") == 0)
		cli->format = CLI_WIDE;
	else
		return err_set(err, -EINVAL, "--output is '%s', not json, wide or table", format);
	if (timeout && (config_parse_number(CONFIG_DURATION, timeout, &timeout_ns) < 0 ||
			timeout_ns < 1000000 || timeout_ns > 3600000000000ull))
		return err_set(err, -EINVAL, "--timeout is '%s', not a duration of 1ms to 1h",
			       timeout);
	cli->timeout_ms = (uint32_t)(timeout_ns / 1000000);
	if (!dir)
		dir = getenv("HOLDFAST_DIR");
	if (!dir || !*dir)
		dir = DIR_DEFAULT;
	cli->manager = cli_value(cli, "manager");
	return dir_apply(cli, dir, err);
}

int cli_parse(int argc, char *const argv[], struct cli *cli, const char **ret_group,
	      struct err *err)
{
	const char *group = NULL;
	bool only_words = false;
	int rc = 0;

	*cli = (struct cli){0};
	for (int i = 1; i < argc && rc == 0; i++) {
		if (!only_words && strcmp(argv[i], "--") == 0)
			only_words = true;
		else if (!only_words && argv[i][0] == '-' && argv[i][1])
			rc = option_parse(cli, argc, argv, &i, err);
		else
			rc = word_take(cli, argv[i], &group, err);
	}
	if (rc < 0)
		return rc;
	*ret_group = group;
	cli->want_help = cli_value(cli, "help");
	cli->want_version = cli_value(cli, "version");
	rc = globals_apply(cli, err);
	if (rc < 0 || cli->want_help || cli->want_version)
		return rc;
	if (!cli->verb)
		return err_set(err, -EINVAL, "%s%s needs a verb; see 'holdfast %s%s--help'",
			       group ? "'" : "the command line", group ? group : "",
			       group ? group : "", group ? " " : "");
	if (cli->argument_count < cli->verb->arguments_min)
		return err_set(err, -EINVAL, "%s is missing: holdfast %s %s", cli->verb->arguments,
			       cli->verb->words, cli->verb->arguments);
	return 0;
}

/* ---- values ---- */

const char *cli_value_at(const struct cli *cli, const char *name, uint32_t index)
{
	for (uint32_t i = 0; i < cli->value_count; i++) {
		if (strcmp(cli->values[i].option->name, name) != 0)
			continue;
		if (index-- == 0)
			return cli->values[i].text;
	}
	return NULL;
}

const char *cli_value(const struct cli *cli, const char *name)
{
	return cli_value_at(cli, name, 0);
}

int cli_size(const struct cli *cli, const char *name, uint64_t fallback, uint64_t *ret,
	     struct err *err)
{
	const char *text = cli_value(cli, name);
	uint64_t value = fallback;

	if (text && config_parse_number(CONFIG_SIZE, text, &value) < 0)
		return err_set(err, -EINVAL,
			       "--%s is '%s', not a size such as 1Gi, 512Mi or 1073741824", name,
			       text);
	*ret = value;
	return 0;
}

int cli_number(const struct cli *cli, const char *name, uint64_t max, uint64_t *ret,
	       struct err *err)
{
	const char *text = cli_value(cli, name);
	uint64_t value;

	if (!text)
		return 0;
	if (config_parse_number(CONFIG_UINT, text, &value) < 0 || value > max)
		return err_set(err, -EINVAL, "--%s is '%s', not a number of 0 to %llu", name, text,
			       (unsigned long long)max);
	*ret = value;
	return 0;
}

/* ---- help ---- */

static void options_print(FILE *out, const struct cli_option *options)
{
	char left[64];

	for (; options && options->name; options++) {
		char letter[8] = "    ";
		if (options->letter)
			snprintf(letter, sizeof(letter), "-%c, ", options->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, options->name,
			 options->metavar ? " " : "", options->metavar ? options->metavar : "");
		fprintf(out, "  %-26s %s\n", left, options->help);
	}
}

void cli_help(FILE *out, const char *group)
{
	fprintf(out, "usage: holdfast [OPTIONS] %s%sVERB ...\n\n", group ? group : "",
		group ? " " : "");
	for (const struct cli_verb *v = cli_verbs; v->words; v++) {
		char left[64];
		if (group && !verb_in_group(v, group))
			continue;
		snprintf(left, sizeof(left), "%s %s", v->words, v->arguments);
		fprintf(out, "  %-26s %s\n", left, v->help);
	}
	fprintf(out, "\nOptions of all verbs:\n");
	options_print(out, options_global);
	fprintf(out,
		"\nExit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 timeout.\n");
}

void cli_help_verb(FILE *out, const struct cli_verb *verb)
{
	fprintf(out, "usage: holdfast %s%s%s [OPTIONS]\n\n%s\n", verb->words,
		*verb->arguments ? " " : "", verb->arguments, verb->help);
	if (verb->more)
		fprintf(out, "%s\n", verb->more);
	if (verb->options) {
		fprintf(out, "\nOptions:\n");
		options_print(out, verb->options);
	}
	fprintf(out, "\nOptions of all verbs:\n");
	options_print(out, options_global);
}
