/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way from main() to a verb, and how errors are said.
 *
 * Standard output carries results alone; every hint and error goes to standard error. A verb that
 * destroys does nothing without --yes: there is no question to answer, so scripts cannot hang.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include "base/version.h"

enum cli_exit cli_exit_of(int error)
{
	switch (-error) {
	case EINVAL:
	case ERANGE:
		return CLI_USAGE;
	case ENOENT:
		return CLI_NOT_FOUND;
	case EEXIST:
	case EBUSY:
	case EAGAIN:
		return CLI_CONFLICT;
	case ETIMEDOUT:
		return CLI_TIMEOUT;
	default:
		return error == 0 ? CLI_OK : CLI_FAILED;
	}
}

static void next_print(const char *next)
{
	if (next && *next)
		fprintf(stderr, "  %s\n", next);
}

int cli_fail(enum cli_exit code, const char *next, const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "holdfast: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	next_print(next);
	return code;
}

int cli_fail_err(const struct err *err, const char *next)
{
	return cli_fail(cli_exit_of(err->code), next, "%s", err_text(err));
}

bool cli_confirmed(const struct cli *cli, const char *what)
{
	if (cli_value(cli, "yes"))
		return true;
	(void)cli_fail(CLI_USAGE, "Repeat the command with --yes to do it.", "this would %s", what);
	return false;
}

void cli_free(struct cli *cli)
{
	rpc_client_destroy(cli->client);
	cli->client = NULL;
}

int cli_main(int argc, char *const argv[])
{
	struct cli cli;
	struct err err = {0};
	const char *group = NULL;
	int code = CLI_OK;

	if (cli_parse(argc, argv, &cli, &group, &err) < 0)
		return cli_fail(CLI_USAGE, NULL, "%s", err_text(&err));
	if (cli.want_version)
		printf("holdfast %s\n", build_version());
	else if (cli.want_help && cli.verb)
		cli_help_verb(stdout, cli.verb);
	else if (cli.want_help)
		cli_help(stdout, group);
	else
		code = cli.verb->run(&cli);
	cli_free(&cli);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "holdfast: standard output: %s\n", strerror(errno));
		return code == CLI_OK ? CLI_FAILED : code;
	}
	return code;
}
