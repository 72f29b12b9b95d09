/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading a configuration: defaults, then the file, then flags; and the help text.
 *
 * R1 Each source overrides the one before it as a whole value: a list given by flags replaces the
 *    file's list, it does not grow it.
 * R2 A flag may be given once, except lists; twice is a mistake that someone should see.
 * R3 Defaults go through the same checks as values: a wrong table fails its first test.
 */
#include "base/config.h"

#include <errno.h>
#include <stdlib.h>

#include "base/config_int.h"

static const char command_line[] = "the command line";

void config_free(const struct config_table *table, void *config)
{
	for (size_t i = 0; i < table->option_count; i++) {
		void *field = (char *)config + table->options[i].offset;
		if (table->options[i].type == CONFIG_STRING) {
			free(*(char **)field);
			*(char **)field = NULL;
		} else if (table->options[i].type == CONFIG_STRINGS) {
			struct config_strings *list = field;
			while (list->count > 0)
				free(list->items[--list->count]);
		}
	}
}

void config_note(struct config_load *load, int index, const char *source)
{
	const struct config_option *option = &load->table->options[index];
	if (option->type == CONFIG_STRINGS && load->given[index] != source) {
		struct config_strings *list = (void *)((char *)load->config + option->offset);
		while (list->count > 0)
			free(list->items[--list->count]);
	}
	load->given[index] = source;
}

static void load_defaults(struct config_load *load)
{
	struct err err = {0};
	assert(load->table->option_count <= CONFIG_OPTIONS_MAX);
	for (size_t i = 0; i < load->table->option_count; i++) {
		const struct config_option *option = &load->table->options[i];
		void *field = (char *)load->config + option->offset;
		switch (option->type) {
		case CONFIG_STRING:
			*(char **)field = NULL;
			break;
		case CONFIG_STRINGS:
			((struct config_strings *)field)->count = 0;
			break;
		case CONFIG_BOOL:
			*(bool *)field = false;
			break;
		case CONFIG_UINT:
		case CONFIG_SIZE:
		case CONFIG_DURATION:
			*(uint64_t *)field = 0;
			break;
		}
		if (option->initial && config_store(load, (int)i, option->initial, &err) < 0) {
			fprintf(stderr, "default: %s\n", err_text(&err));
			abort(); /* the table is wrong, not its user */
		}
	}
}

static int load_file(struct config_load *load, const char *path, struct err *err)
{
	FILE *file = fopen(path, "re");
	if (!file)
		return err_set(err, -errno, "config file '%s': %s", path, strerror(errno));
	char *text = malloc(CONFIG_FILE_BYTES_MAX + 1);
	size_t bytes = text ? fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, file) : 0;
	int rc = 0;
	if (!text)
		rc = err_set(err, -ENOMEM, "config file '%s': out of memory", path);
	else if (ferror(file))
		rc = err_set(err, -EIO, "config file '%s': cannot be read", path);
	else if (bytes > CONFIG_FILE_BYTES_MAX)
		rc = err_set(err, -EFBIG, "config file '%s' has more than %zu bytes", path,
			     CONFIG_FILE_BYTES_MAX);
	else
		rc = config_read_yaml(load, path, text, bytes, err);
	free(text);
	fclose(file);
	return rc;
}

static int check_all(const struct config_load *load, struct err *err)
{
	for (size_t i = 0; i < load->table->option_count; i++) {
		const struct config_option *option = &load->table->options[i];
		const void *field = (const char *)load->config + option->offset;
		bool empty = !load->given[i];
		if (option->type == CONFIG_STRING)
			empty = !*(char *const *)field || !**(char *const *)field;
		else if (option->type == CONFIG_STRINGS)
			empty = ((const struct config_strings *)field)->count == 0;
		if (option->is_required && empty)
			return err_set(
				err, -EINVAL,
				"%s is missing: give --%s, or the key '%s' in the config file",
				option->name, option->name, option->name);
	}
	return load->table->check ? load->table->check(load->config, err) : 0;
}

/* ---- the command line ---- */

struct flag {
	char name[128];
	const char *value; /* after '=', or NULL */
};

static int flag_split(const char *arg, struct flag *ret, struct err *err)
{
	const char *equals = strchr(arg, '=');
	size_t length = equals ? (size_t)(equals - arg) : strlen(arg);
	if (strncmp(arg, "--", 2) != 0 || length == 2)
		return err_set(err, -EINVAL, "argument '%.100s' is not a flag (--name value)", arg);
	if (length - 2 >= sizeof(ret->name))
		return err_set(err, -EINVAL, "unknown flag '%.100s...'", arg);
	memcpy(ret->name, arg + 2, length - 2);
	ret->name[length - 2] = 0;
	ret->value = equals ? equals + 1 : NULL;
	return 0;
}

/* The value of a flag that takes one; moves *i on when it is the next argument. */
static int flag_value(struct flag *flag, int argc, char *const argv[], int *i, struct err *err)
{
	if (flag->value)
		return 0;
	if (*i + 1 >= argc)
		return err_set(err, -EINVAL, "flag --%s needs a value", flag->name);
	flag->value = argv[++*i];
	return 0;
}

static bool option_is_bool(const struct config_load *load, const char *name)
{
	for (size_t i = 0; i < load->table->option_count; i++)
		if (strcmp(load->table->options[i].name, name) == 0)
			return load->table->options[i].type == CONFIG_BOOL;
	return false;
}

static int take_flag(struct config_load *load, int argc, char *const argv[], int *i,
		     struct err *err)
{
	struct flag flag;
	int rc = flag_split(argv[*i], &flag, err);
	if (rc < 0)
		return rc;
	if (strcmp(flag.name, "config") == 0) /* loaded before */
		return flag_value(&flag, argc, argv, i, err);
	const char *name = flag.name;
	bool negated = strncmp(name, "no-", 3) == 0 && option_is_bool(load, name + 3);
	if (negated && flag.value)
		return err_set(err, -EINVAL, "flag --%s takes no value", name);
	if (negated)
		name += 3;
	int index = config_find(load->table, "--", name, err);
	if (index < 0)
		return -EINVAL;
	const struct config_option *option = &load->table->options[index];
	if (load->given[index] == command_line && option->type != CONFIG_STRINGS)
		return err_set(err, -EINVAL, "flag --%s is given twice", name);
	if (option->type == CONFIG_BOOL && !flag.value)
		flag.value = negated ? "false" : "true";
	rc = flag_value(&flag, argc, argv, i, err);
	if (rc < 0)
		return rc;
	config_note(load, index, command_line);
	rc = config_store(load, index, flag.value, err);
	return rc < 0 ? err_wrap(err, rc, "flag --%s", option->name) : 0;
}

/* Looks for what comes before everything else: --help, --version, --config. */
static int scan_args(const struct config_load *load, int argc, char *const argv[],
		     const char **config_path, struct err *err)
{
	struct flag flag;
	for (int i = 1; i < argc; i++) {
		int rc = flag_split(argv[i], &flag, err);
		if (rc < 0)
			return rc;
		if (strcmp(flag.name, "help") == 0)
			return CONFIG_HELP;
		if (strcmp(flag.name, "version") == 0)
			return CONFIG_VERSION;
		bool is_config = strcmp(flag.name, "config") == 0;
		const char *positive =
			strncmp(flag.name, "no-", 3) == 0 ? flag.name + 3 : flag.name;
		bool is_bool = option_is_bool(load, flag.name) || option_is_bool(load, positive);
		if (is_config && *config_path)
			return err_set(err, -EINVAL, "flag --config is given twice");
		if (!is_bool && !is_config && config_find(load->table, "--", flag.name, err) < 0)
			return -EINVAL;
		rc = is_bool ? 0 : flag_value(&flag, argc, argv, &i, err);
		if (rc < 0)
			return rc;
		if (is_config)
			*config_path = flag.value;
	}
	return 0;
}

int config_load(const struct config_table *table, int argc, char *const argv[], void *config,
		struct err *err)
{
	struct config_load load = {.table = table, .config = config};
	const char *config_path = NULL;
	load_defaults(&load);
	int rc = scan_args(&load, argc, argv, &config_path, err);
	if (rc != 0)
		return rc;
	if (config_path)
		rc = load_file(&load, config_path, err);
	for (int i = 1; i < argc && rc == 0; i++)
		rc = take_flag(&load, argc, argv, &i, err);
	return rc < 0 ? rc : check_all(&load, err);
}

int config_load_text(const struct config_table *table, const char *file_name, const char *text,
		     void *config, struct err *err)
{
	struct config_load load = {.table = table, .config = config};
	load_defaults(&load);
	int rc = config_read_yaml(&load, file_name, text, strlen(text), err);
	return rc < 0 ? rc : check_all(&load, err);
}

/* ---- help ---- */

static const char *metavar_of(const struct config_option *option)
{
	static const char *const by_type[] = {
		[CONFIG_STRING] = "TEXT", [CONFIG_STRINGS] = "TEXT", [CONFIG_BOOL] = "",
		[CONFIG_UINT] = "NUMBER", [CONFIG_SIZE] = "SIZE",    [CONFIG_DURATION] = "DURATION",
	};
	return option->metavar ? option->metavar : by_type[option->type];
}

void config_help(const struct config_table *table, FILE *out)
{
	fprintf(out,
		"usage: %s\n\n"
		"Every flag but --config, --help and --version is also a key of the config file.\n"
		"Sizes take Ki, Mi, Gi, Ti; durations take ns, us, ms, s, m, h.\n\n"
		"  --config FILE\n        read FILE (YAML) first\n",
		table->usage);
	for (size_t i = 0; i < table->option_count; i++) {
		const struct config_option *option = &table->options[i];
		const char *metavar = metavar_of(option);
		fprintf(out, "  --%s%s%s%s\n        %s", option->type == CONFIG_BOOL ? "[no-]" : "",
			option->name, metavar[0] ? " " : "", metavar, option->help);
		if (option->is_required)
			fprintf(out, " (required)");
		else if (option->initial)
			fprintf(out, " (default: %s)", option->initial);
		if (option->type == CONFIG_STRINGS)
			fprintf(out, "; may be repeated");
		fprintf(out, "\n");
	}
	fprintf(out, "  --help\n        print this\n  --version\n        print the version\n");
}
