/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of a local cluster, as files below --dir.
 *
 * DIR/NAME/ is the state directory of process NAME: `manager` the manager, `n1`.. the nodes, `g1` the
 * gateway. In it:
 *   pid             of the daemon, as text; the daemon holds a file lock on it
 *   supervisor      the same of its supervisor (manager and gateway)
 *   log             standard error of both
 *   admin.sock      the admin service
 *   store0.img      a node's store
 */
#ifndef HF_CLI_LOCAL_H
#define HF_CLI_LOCAL_H

#include "base/co.h"
#include "base/loop.h"
#include "cli/cli.h"

#define LOCAL_MANAGER    "manager"
#define LOCAL_GATEWAY    "g1"
#define LOCAL_CONFIG     "daemons.yaml" /* below the cluster's directory: options of every daemon */
#define LOCAL_PATH_BYTES 192
#define LOCAL_NODES_MAX  9u
#define LOCAL_NAME_BYTES 16 /* "manager", "n1", "g1" */

/* DIR/NAME/FILE; FILE may be empty. Returns path. */
const char *local_path(const struct cli *cli, const char *name, const char *file,
		       char path[LOCAL_PATH_BYTES]);
/* "unix:DIR/NAME/admin.sock" */
const char *local_admin_address(const struct cli *cli, const char *name,
				char address[RPC_ADDRESS_BYTES_MAX]);
/* The pid in a pid file, when a process of that pid holds a lock on the file; else 0. */
pid_t pid_file_holder(const char *path);
/* The same for a process of the cluster; the daemon itself, not its supervisor. */
pid_t local_pid(const struct cli *cli, const char *name);
/* True when DIR/NAME exists. */
bool local_exists(const struct cli *cli, const char *name);
/* Nodes that have a directory: n1, n2, ... without a gap. */
uint32_t local_node_count(const struct cli *cli);
/* The path of holdfastd, beside this program. 0 or -errno with a sentence. */
int local_daemon_path(char *path, size_t bytes, struct err *err);

/* A process of the cluster that shall run. */
struct local_process {
	const char *role; /* "manager", "node", "gateway" */
	char name[LOCAL_NAME_BYTES];
	pid_t child; /* started by us and not ended; 0: it ran, or its supervisor starts it */
};
/* Starts it, detached, unless it runs or is about to be started. May be called again and again: a
 * process that was killed is still there for a moment. 0 or -errno with a sentence. */
int local_start(const struct cli *cli, struct local_process *process, struct err *err);
/* True when our child has ended; says so, with the last lines of its log. */
bool local_ended(const struct cli *cli, struct local_process *process);
/* True when the process runs and says so itself: one that was killed before we asked may still have
 * its pid file, and the manager's word about it is older. */
bool local_answers(struct cli *cli, const struct local_process *process);
/* SIGTERM to supervisor and daemon, then waits until both are gone. 0, or -ETIMEDOUT. */
int local_stop(const struct cli *cli, const char *name, uint64_t deadline_ms, struct err *err);
/* CLOCK_BOOTTIME in ms. */
uint64_t clock_ms(void);
void sleep_ms(uint32_t ms);
/* The last lines of a process's log, indented, to standard error. */
void local_log_tail(const struct cli *cli, const char *name, uint32_t lines);

/* Runs fn inside a coroutine on a loop of its own, until it returns; its status. */
typedef int cli_job_fn(struct co *co, struct env *env, void *arg, struct err *err);
int cli_job(cli_job_fn *fn, void *arg, struct err *err);

#endif
