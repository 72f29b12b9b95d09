/* SPDX-License-Identifier: Apache-2.0 */
/*
 * up and down: a cluster on this machine.
 *
 * U1  What exists is kept: stores are formatted only where no file is; another --nodes or --size
 *     than what is there is said and ignored.
 * U2  Ready means: the manager answers, and says that each node and the gateway that run now, by
 *     their pids, are registered with it; and they say themselves that they run.
 * U3  Both verbs may be repeated at any time and after any crash of themselves: a store is
 *     formatted under another name and renamed when it is whole.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/loop.h"
#include "cli/local.h"
#include "cli/show.h"
#include "store/store.h"

#define NODES_DEFAULT 3
#define SIZE_DEFAULT  (4ull << 30)
#define UP_MS         20000
#define DOWN_MS       15000
#define PROCESSES_MAX (LOCAL_NODES_MAX + 2)

struct cluster {
	uint32_t node_count;
	uint64_t store_bytes; /* of stores that are to be made */
	struct local_process processes[PROCESSES_MAX];
	uint32_t process_count;
};

/* ---- what there shall be ---- */

static void process_add(struct cluster *cluster, const char *role, const char *name)
{
	struct local_process *process = &cluster->processes[cluster->process_count++];

	process->role = role;
	snprintf(process->name, sizeof(process->name), "%s", name);
}

static void cluster_fill(struct cluster *cluster)
{
	char name[16];

	process_add(cluster, "manager", LOCAL_MANAGER);
	for (uint32_t i = 1; i <= cluster->node_count; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		process_add(cluster, "node", name);
	}
	process_add(cluster, "gateway", LOCAL_GATEWAY);
}

static uint64_t store_size(const struct cli *cli, const char *name)
{
	char path[LOCAL_PATH_BYTES];
	struct stat st;

	return stat(local_path(cli, name, "store0.img", path), &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Says what of the options is not done because a cluster is there. */
static void existing_said(const struct cli *cli, uint64_t nodes, uint32_t there, uint64_t size)
{
	uint64_t size_there = store_size(cli, "n1");
	char wanted[32], found[32];

	if (cli_value(cli, "nodes") && nodes != there)
		fprintf(stderr,
			"The cluster in %s has %u nodes; it is kept, --nodes %llu is ignored.\n",
			cli->dir, there, (unsigned long long)nodes);
	if (cli_value(cli, "size") && size_there && size != size_there)
		fprintf(stderr, "The stores in %s have %s; they are kept, --size %s is ignored.\n",
			cli->dir, size_format(size_there, found), size_format(size, wanted));
}

static int cluster_plan(const struct cli *cli, struct cluster *cluster, struct err *err)
{
	uint64_t nodes = NODES_DEFAULT, size = SIZE_DEFAULT;
	uint32_t there = local_exists(cli, LOCAL_MANAGER) ? local_node_count(cli) : 0;
	int rc = cli_number(cli, "nodes", LOCAL_NODES_MAX, &nodes, err);

	if (rc == 0 && nodes == 0)
		rc = err_set(err, -EINVAL, "--nodes is 0, not 1 to %u", LOCAL_NODES_MAX);
	if (rc == 0)
		rc = cli_size(cli, "size", SIZE_DEFAULT, &size, err);
	if (rc == 0 && (size < STORE_SIZE_MIN_BYTES || size % BLOCK_BYTES || size > (64ull << 40)))
		rc = err_set(err, -EINVAL,
			     "--size is %llu bytes, not a multiple of 4096 between 64Mi and 64Ti",
			     (unsigned long long)size);
	if (rc < 0)
		return rc;
	if (there)
		existing_said(cli, nodes, there, size);
	cluster->node_count = there ? there : (uint32_t)nodes;
	cluster->store_bytes = there && store_size(cli, "n1") ? store_size(cli, "n1") : size;
	cluster_fill(cluster);
	return 0;
}

/* ---- directories and stores ---- */

static int dir_make(const char *path, struct err *err)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "%s is not a directory", path);
	return 0;
}

/* DIR with its parents, 0700. */
static int dir_make_all(const char *path, struct err *err)
{
	char part[CLI_PATH_BYTES];
	int rc = 0;

	for (size_t i = 1; rc == 0 && i <= strlen(path); i++) {
		if (path[i] != '/' && path[i] != 0)
			continue;
		memcpy(part, path, i);
		part[i] = 0;
		rc = dir_make(part, err);
	}
	return rc;
}

struct format {
	const char *path;
	struct store_params params;
};

static int format_run(struct co *co, struct env *env, void *arg, struct err *err)
{
	const struct format *format = arg;

	return store_format(co, env, format->path, &format->params, err);
}

static int store_make(const struct cli *cli, const char *name, uint64_t bytes, struct err *err)
{
	char path[LOCAL_PATH_BYTES], fresh[LOCAL_PATH_BYTES];
	struct format format = {.path = fresh, .params.size_bytes = bytes, .params.force = true};
	int rc;

	local_path(cli, name, "store0.img", path);
	local_path(cli, name, "store0.new", fresh);
	if (access(path, F_OK) == 0)
		return 0;
	(void)unlink(fresh); /* of an interrupted up */
	rc = cli_job(format_run, &format, err);
	if (rc == 0 && rename(fresh, path) < 0)
		rc = err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (rc < 0)
		(void)unlink(fresh);
	return rc;
}

static int cluster_prepare(const struct cli *cli, const struct cluster *cluster, struct err *err)
{
	char path[LOCAL_PATH_BYTES];
	int rc = dir_make_all(cli->dir, err);

	for (uint32_t i = 0; rc == 0 && i < cluster->process_count; i++) {
		const struct local_process *process = &cluster->processes[i];
		if (strcmp(process->role, "node") != 0)
			continue;
		rc = dir_make(local_path(cli, process->name, "", path), err);
		if (rc == 0)
			rc = store_make(cli, process->name, cluster->store_bytes, err);
	}
	for (uint32_t i = 0; rc == 0 && i < cluster->process_count; i++)
		rc = dir_make(local_path(cli, cluster->processes[i].name, "", path), err);
	return rc;
}

/* ---- readiness ---- */

static bool status_has(const struct cli *cli, const Holdfast__V1__StatusReply *status,
		       const struct local_process *process)
{
	pid_t pid = local_pid(cli, process->name);

	for (size_t i = 0; i < status->n_nodes; i++)
		if (strcmp(status->nodes[i]->name, process->name) == 0)
			return pid && status->nodes[i]->pid == pid &&
			       strcmp(status->nodes[i]->state, "online") == 0;
	for (size_t i = 0; i < status->n_processes; i++)
		if (strcmp(status->processes[i]->name, process->name) == 0)
			return pid && status->processes[i]->pid == pid;
	return false;
}

/* The first process that is not ready, or NULL and the status. */
static const struct local_process *cluster_lag(struct cli *cli, const struct cluster *cluster,
					       ProtobufCMessage **ret)
{
	Holdfast__V1__Empty request = HOLDFAST__V1__EMPTY__INIT;
	const struct local_process *lag = NULL;
	ProtobufCMessage *reply;

	if (!local_pid(cli, LOCAL_MANAGER) ||
	    cli_call(cli, "Status", &request.base, &reply, NULL) < 0)
		return &cluster->processes[0];
	for (uint32_t i = 0; i < cluster->process_count && !lag; i++)
		if (!status_has(cli, (void *)reply, &cluster->processes[i]))
			lag = &cluster->processes[i];
	for (uint32_t i = 1; i < cluster->process_count && !lag; i++) /* the manager just has */
		if (!local_answers(cli, &cluster->processes[i]))
			lag = &cluster->processes[i];
	if (lag)
		rpc_message_free(reply);
	else
		*ret = reply;
	return lag;
}

static void then_said(const struct cli *cli)
{
	fprintf(stderr, "  Then: holdfast --dir %s doctor; holdfast --dir %s up\n", cli->dir,
		cli->dir);
}

/* Starts what does not run; CLI_OK, or the exit code when that failed or something has ended. */
static int cluster_start(struct cli *cli, struct cluster *cluster)
{
	struct err err = {0};

	for (uint32_t i = 0; i < cluster->process_count; i++) {
		if (local_ended(cli, &cluster->processes[i])) {
			then_said(cli);
			return CLI_FAILED;
		}
		if (local_start(cli, &cluster->processes[i], &err) < 0)
			return cli_fail_err(&err, NULL);
	}
	return CLI_OK;
}

static int cluster_wait(struct cli *cli, struct cluster *cluster, ProtobufCMessage **ret)
{
	uint64_t deadline_ms = clock_ms() + UP_MS;

	for (;;) {
		const struct local_process *lag;
		int code = cluster_start(cli, cluster);
		if (code != CLI_OK)
			return code;
		lag = cluster_lag(cli, cluster, ret);
		if (!lag)
			return CLI_OK;
		if (clock_ms() > deadline_ms) {
			(void)cli_fail(CLI_TIMEOUT, NULL, "%s is not ready after 20 s", lag->name);
			local_log_tail(cli, lag->name, 10);
			then_said(cli);
			return CLI_TIMEOUT;
		}
		sleep_ms(20);
	}
}

int verb_up(struct cli *cli)
{
	struct cluster cluster = {0};
	struct err err = {0};
	ProtobufCMessage *status;
	int code;

	if (cli->manager)
		return cli_fail(CLI_USAGE, NULL,
				"up starts a local cluster; --manager names another");
	if (cluster_plan(cli, &cluster, &err) < 0 || cluster_prepare(cli, &cluster, &err) < 0)
		return cli_fail_err(&err, NULL);
	code = cluster_wait(cli, &cluster, &status);
	if (code != CLI_OK)
		return code;
	code = status_print(cli, (void *)status);
	rpc_message_free(status);
	return code;
}

int verb_down(struct cli *cli)
{
	uint64_t deadline_ms = clock_ms() + DOWN_MS;
	struct cluster cluster = {.node_count = local_node_count(cli)};
	struct err err = {0};

	if (cli->manager)
		return cli_fail(CLI_USAGE, NULL,
				"down stops a local cluster; --manager names another");
	cluster_fill(&cluster);
	while (cluster.process_count-- > 0) { /* gateway, nodes, manager */
		const char *name = cluster.processes[cluster.process_count].name;
		if (local_stop(cli, name, deadline_ms, &err) == 0)
			continue;
		(void)cli_fail_err(&err, NULL);
		local_log_tail(cli, name, 6);
		return CLI_TIMEOUT;
	}
	return CLI_OK;
}
