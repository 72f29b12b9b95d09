/* SPDX-License-Identifier: Apache-2.0 */
/*
 * holdfastd ROLE [FLAGS]: the one daemon. Finds the role, reads its options, forks for supervision
 * before anything else exists, opens the shared state, and runs the role.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "volmgr/daemon.h"

static const struct role *const roles[] = {&manager_role, &node_role, &gateway_role};

static const struct role *role_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(roles); i++)
		if (strcmp(roles[i]->name, name) == 0)
			return roles[i];
	return NULL;
}

static void usage(FILE *out)
{
	fprintf(out, "usage: holdfastd ROLE [FLAGS]\n"
		     "       holdfastd [ROLE] --help | --version\n\nroles:");
	for (size_t i = 0; i < ARRAY_LEN(roles); i++)
		fprintf(out, " %s", roles[i]->name);
	fprintf(out, "\n");
}

static int version(void)
{
	printf("holdfastd %s (%s)\n", build_version(), build_flags());
	return DAEMON_EXIT_OK;
}

/* It would fail in the same way whenever it is started: wrong options, or state of a newer version.
 */
static bool is_hopeless(int code)
{
	return code == -EINVAL || code == -ERANGE || code == -ENAMETOOLONG || code == -ENOTSUP;
}

static int role_run(const struct role *role, void *options)
{
	const struct daemon_options *shared = options;
	int code = DAEMON_EXIT_OK;
	if (shared->supervise && !daemon_supervise(shared, &code))
		return code;
	log_event(LOG_INFO, "daemon", "starting", "role=%s name=%s pid=%d version=%s", role->name,
		  shared->name, (int)getpid(), build_version());
	struct err err = {0};
	struct daemon *daemon = NULL;
	int rc = daemon_open(shared, &daemon, &err);
	if (rc == 0)
		rc = role->run(daemon, options, &err);
	if (rc == 0) {
		daemon_close(daemon);
		return DAEMON_EXIT_OK;
	}
	/* What the role left half-made is the kernel's to free; stores recover as after a crash. */
	log_event(LOG_ERROR, "daemon", "failed", "role=%s name=%s code=%s error=%s", role->name,
		  shared->name, err_name(rc), LOG_Q(err_text(&err)));
	return is_hopeless(rc) ? DAEMON_EXIT_USAGE : DAEMON_EXIT_FAILED;
}

static int role_main(const struct role *role, int argc, char **argv)
{
	struct err err = {0};
	void *options = calloc(1, role->options_bytes);
	if (options == NULL) {
		fprintf(stderr, "holdfastd %s: out of memory\n", role->name);
		return DAEMON_EXIT_FAILED;
	}
	int rc = config_load(role->table, argc, argv, options, &err);
	int code = DAEMON_EXIT_OK;
	if (rc == CONFIG_HELP)
		config_help(role->table, stdout);
	else if (rc == CONFIG_VERSION)
		code = version();
	else if (rc == 0)
		code = role_run(role, options);
	if (rc < 0) {
		fprintf(stderr, "holdfastd %s: %s\n", role->name, err_text(&err));
		code = DAEMON_EXIT_USAGE;
	}
	config_free(role->table, options);
	free(options);
	return code;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2) {
		usage(stderr);
		return DAEMON_EXIT_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0)
		return version();
	if (strcmp(argv[1], "--help") == 0) {
		usage(stdout);
		return DAEMON_EXIT_OK;
	}
	const struct role *role = role_find(argv[1]);
	if (role == NULL) {
		fprintf(stderr, "holdfastd: role '%s' is not known\n", argv[1]);
		usage(stderr);
		return DAEMON_EXIT_USAGE;
	}
	return role_main(role, argc - 1, argv + 1);
}
