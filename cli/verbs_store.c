/* SPDX-License-Identifier: Apache-2.0 */
/* Verbs that work on files of this machine: stores that no daemon has open, configuration files. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "cli/local.h"
#include "store/store.h"
#include "volmgr/daemon.h"

struct format {
	const char *path;
	struct store_params params;
};

static int format_run(struct co *co, struct env *env, void *arg, struct err *err)
{
	const struct format *format = arg;

	return store_format(co, env, format->path, &format->params, err);
}

int verb_store_format(struct cli *cli)
{
	struct format format = {
		.path = cli->arguments[0],
		.params.force = cli_value(cli, "force") != NULL,
	};
	struct err err = {0};
	char what[400];

	if (cli_size(cli, "size", 0, &format.params.size_bytes, &err) < 0 ||
	    cli_size(cli, "ring-size", 0, &format.params.ring_bytes, &err) < 0)
		return cli_fail_err(&err, NULL);
	snprintf(what, sizeof(what), "overwrite whatever is in %.300s", format.path);
	if (format.params.force && !cli_confirmed(cli, what))
		return CLI_USAGE;
	if (cli_job(format_run, &format, &err) == 0)
		return CLI_OK;
	return cli_fail_err(&err, err.code == -EEXIST ? "--force overwrites it." : NULL);
}

/* ---- check ---- */

struct check {
	struct cli *cli;
	json_t *items;
	uint64_t finding_count;
};

static void check_line(void *ctx, const char *line)
{
	struct check *check = ctx;

	if (check->cli->format == CLI_JSON)
		json_array_append_new(check->items, json_string(line));
	else
		printf("%s\n", line);
}

static int check_run(struct co *co, struct env *env, void *arg, struct err *err)
{
	struct check *check = arg;

	return store_check(co, env, check->cli->arguments[0], cli_value(check->cli, "deep") != NULL,
			   check_line, check, &check->finding_count, err);
}

int verb_store_check(struct cli *cli)
{
	struct check check = {.cli = cli, .items = json_array()};
	struct err err = {0};
	int rc = cli_job(check_run, &check, &err);

	if (rc < 0 && rc != -EUCLEAN) {
		json_decref(check.items);
		if (!err.code)
			err_set(&err, rc, "%s: %s", cli->arguments[0], err_name(rc));
		return cli_fail_err(&err, NULL);
	}
	if (cli->format == CLI_JSON) {
		(void)cli_print_json(json_pack("{ss sb sI so}", "path", cli->arguments[0], "clean",
					       rc == 0, "findings", (json_int_t)check.finding_count,
					       "items", check.items));
	} else {
		printf("%s: %s\n", cli->arguments[0], rc == 0 ? "clean" : "damaged");
		json_decref(check.items);
	}
	return rc == 0 ? CLI_OK : CLI_FAILED;
}

/* ---- dump ---- */

static int dump_run(struct co *co, struct env *env, void *arg, struct err *err)
{
	struct check *check = arg;

	return store_dump(co, env, check->cli->arguments[0], check_line, check, err);
}

int verb_store_dump(struct cli *cli)
{
	struct check check = {.cli = cli, .items = json_array()};
	struct err err = {0};
	int rc = cli_job(dump_run, &check, &err);

	if (rc < 0) {
		json_decref(check.items);
		if (!err.code)
			err_set(&err, rc, "%s: %s", cli->arguments[0], err_name(rc));
		return cli_fail_err(&err, NULL);
	}
	if (cli->format == CLI_JSON)
		(void)cli_print_json(
			json_pack("{ss so}", "path", cli->arguments[0], "items", check.items));
	else
		json_decref(check.items);
	return CLI_OK;
}

/* ---- configuration files ---- */

static int config_check_role(const struct role *role, const char *path, struct err *err)
{
	char *argv[] = {(char *)role->name, "--config", (char *)path};
	void *options = calloc(1, role->options_bytes);
	int rc = options ? config_load(role->table, (int)ARRAY_LEN(argv), argv, options, err)
			 : err_set(err, -ENOMEM, "out of memory");

	if (options)
		config_free(role->table, options);
	free(options);
	return rc;
}

int verb_config_check(struct cli *cli)
{
	const struct role *const roles[] = {&manager_role, &node_role, &gateway_role};
	const char *only = cli_value(cli, "role");
	struct err errs[ARRAY_LEN(roles)] = {0};
	bool known = false, good = false;

	for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
		if (only && strcmp(only, roles[i]->name) != 0)
			continue;
		known = true;
		if (config_check_role(roles[i], cli->arguments[0], &errs[i]) < 0)
			continue;
		printf("%s: good for the role %s\n", cli->arguments[0], roles[i]->name);
		good = true;
	}
	if (access(cli->arguments[0], R_OK) < 0) { /* the same for every role */
		(void)err_set(&errs[0], -errno, "%s: %s", cli->arguments[0], strerror(errno));
		return cli_fail_err(&errs[0], NULL);
	}
	if (!known)
		return cli_fail(CLI_USAGE, NULL, "--role is '%s', not manager, node or gateway",
				only);
	if (good)
		return CLI_OK;
	for (size_t i = 0; i < ARRAY_LEN(roles); i++)
		if (errs[i].code)
			(void)cli_fail(CLI_FAILED, NULL, "as a %s: %s", roles[i]->name,
				       err_text(&errs[i]));
	return CLI_FAILED;
}
