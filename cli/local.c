/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting and stopping the processes of a local cluster.
 *
 * L1  A pid is believed only while a process of that pid holds a lock on the pid file: a stale
 *     file, or a pid that was given to another program, is never signalled.
 * L2  Children are started by exec straight after fork and own their session; nothing of this
 *     process (descriptors, directory, terminal) is left to them but the log.
 * L3  Every wait has a deadline.
 * L4  Only a process that answers after it was asked to run is believed to run: a killed one
 *     keeps its lock for a moment, and is started anew once it has let go.
 */
#include "cli/local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "volmgr/holdfast.pb-c.h"

#define LOG_TAIL_BYTES 4096
#define ANSWER_MS      1000

const char *local_path(const struct cli *cli, const char *name, const char *file,
		       char path[LOCAL_PATH_BYTES])
{
	snprintf(path, LOCAL_PATH_BYTES, "%s/%s%s%s", cli->dir, name, *file ? "/" : "", file);
	return path;
}

const char *local_admin_address(const struct cli *cli, const char *name,
				char address[RPC_ADDRESS_BYTES_MAX])
{
	snprintf(address, RPC_ADDRESS_BYTES_MAX, "unix:%s/%s/admin.sock", cli->dir, name);
	return address;
}

uint64_t clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void sleep_ms(uint32_t ms)
{
	struct timespec delay = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	while (nanosleep(&delay, &delay) < 0 && errno == EINTR)
		;
}

/* A line of /proc/PID/fdinfo/FD: "lock:	1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF" */
static bool fd_holds_lock(int fdinfo, const char *fd, const struct stat *st)
{
	int opened = openat(fdinfo, fd, O_RDONLY | O_CLOEXEC);
	FILE *file = opened < 0 ? NULL : fdopen(opened, "r");
	char line[256];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		unsigned maj, min;
		unsigned long inode;
		if (sscanf(line, "lock: %*s %*s %*s %*s %*d %x:%x:%lu", &maj, &min, &inode) == 3)
			found = inode == st->st_ino;
	}
	if (file)
		fclose(file);
	return found;
}

/* L1. Not from /proc/locks: while others come and go there, a reader misses lines. */
static bool lock_held_by(const struct stat *st, pid_t pid)
{
	char path[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir)))
		found = fd_holds_lock(dirfd(dir), entry->d_name, st);
	if (dir)
		closedir(dir);
	return found;
}

pid_t pid_file_holder(const char *path)
{
	FILE *file = fopen(path, "re");
	struct stat st;
	int pid = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%d", &pid) != 1 || pid <= 1 || fstat(fileno(file), &st) < 0 ||
	    !lock_held_by(&st, pid))
		pid = 0;
	fclose(file);
	return pid;
}

pid_t local_pid(const struct cli *cli, const char *name)
{
	char path[LOCAL_PATH_BYTES];

	return pid_file_holder(local_path(cli, name, "pid", path));
}

bool local_exists(const struct cli *cli, const char *name)
{
	char path[LOCAL_PATH_BYTES];
	struct stat st;

	return stat(local_path(cli, name, "", path), &st) == 0 && S_ISDIR(st.st_mode);
}

uint32_t local_node_count(const struct cli *cli)
{
	char name[16];
	uint32_t count = 0;

	for (;;) {
		snprintf(name, sizeof(name), "n%u", count + 1);
		if (count == LOCAL_NODES_MAX || !local_exists(cli, name))
			return count;
		count++;
	}
}

int local_daemon_path(char *path, size_t bytes, struct err *err)
{
	ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
	char *slash;

	if (n < 0)
		return err_set(err, -errno, "/proc/self/exe: %s", strerror(errno));
	path[n] = 0;
	slash = strrchr(path, '/');
	if (!slash || (size_t)(slash - path) + sizeof("/holdfastd") > bytes)
		return err_set(err, -ENAMETOOLONG, "the path of this program is too long: %s",
			       path);
	strcpy(slash, "/holdfastd");
	if (access(path, X_OK) < 0)
		return err_set(err, -errno, "the daemon is missing beside this program: %s: %s",
			       path, strerror(errno));
	return 0;
}

/* ---- starting ---- */

#define START_ARGUMENTS_MAX 24

struct start {
	char daemon[PATH_MAX];
	char manager[RPC_ADDRESS_BYTES_MAX];
	char store[LOCAL_PATH_BYTES];
	char host[64];
	char config[LOCAL_PATH_BYTES];
	const char *arguments[START_ARGUMENTS_MAX];
};

static void start_arguments(struct start *start, const struct cli *cli, const char *role,
			    const char *name)
{
	uint32_t n = 0;
	bool is_node = strcmp(role, "node") == 0;

	local_admin_address(cli, LOCAL_MANAGER, start->manager);
	start->arguments[n++] = start->daemon;
	start->arguments[n++] = role;
	if (!is_node)
		start->arguments[n++] = "--supervise";
	start->arguments[n++] = "--name";
	start->arguments[n++] = name;
	start->arguments[n++] = "--dir";
	start->arguments[n++] = cli->dir;
	if (access(local_path(cli, LOCAL_CONFIG, "", start->config), F_OK) == 0) {
		start->arguments[n++] = "--config";
		start->arguments[n++] = start->config;
	}
	if (strcmp(role, "manager") != 0) {
		start->arguments[n++] = "--manager";
		start->arguments[n++] = start->manager;
	}
	if (is_node) {
		snprintf(start->host, sizeof(start->host), "%s", name);
		local_path(cli, name, "store0.img", start->store);
		start->arguments[n++] = "--store";
		start->arguments[n++] = start->store;
		start->arguments[n++] = "--host"; /* each node its own failure domain */
		start->arguments[n++] = start->host;
	}
	start->arguments[n] = NULL;
}

/* In the child: never returns. */
static void start_exec(const struct start *start, int log_fd, int failed_fd)
{
	int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	sigset_t none;
	int error;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (setsid() >= 0 && chdir("/") == 0 && null_fd >= 0 && dup2(null_fd, 0) >= 0 &&
	    dup2(log_fd, 1) >= 0 && dup2(log_fd, 2) >= 0) {
		umask(077);
		execv(start->daemon, (char *const *)start->arguments);
	}
	error = errno;
	(void)!write(failed_fd, &error, sizeof(error));
	_exit(127);
}

static int start_fork(const struct start *start, int log_fd, pid_t *ret_pid, struct err *err)
{
	int pipe_fds[2];
	int error = 0;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0)
		start_exec(start, log_fd, pipe_fds[1]);
	close(pipe_fds[1]);
	if (pid < 0)
		error = errno;
	else if (read(pipe_fds[0], &error, sizeof(error)) != sizeof(error))
		error = 0; /* the pipe was closed by exec */
	close(pipe_fds[0]);
	if (error)
		return err_set(err, -error, "starting %s: %s", start->daemon, strerror(error));
	*ret_pid = pid;
	return 0;
}

int local_start(const struct cli *cli, struct local_process *process, struct err *err)
{
	struct start start = {0};
	char path[LOCAL_PATH_BYTES];
	int rc, log_fd;

	if (process->child || local_pid(cli, process->name))
		return 0;
	if (strcmp(process->role, "node") != 0 &&
	    pid_file_holder(local_path(cli, process->name, "supervisor", path)))
		return 0; /* it is about to start it again */
	rc = local_daemon_path(start.daemon, sizeof(start.daemon), err);
	if (rc < 0)
		return rc;
	start_arguments(&start, cli, process->role, process->name);
	local_path(cli, process->name, "log", path);
	log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	rc = start_fork(&start, log_fd, &process->child, err);
	close(log_fd);
	return rc;
}

bool local_ended(const struct cli *cli, struct local_process *process)
{
	int status = 0;

	if (!process->child || waitpid(process->child, &status, WNOHANG) != process->child)
		return false;
	process->child = 0;
	if (WIFSIGNALED(status))
		(void)cli_fail(CLI_FAILED, NULL, "%s was killed by signal %d before it was ready",
			       process->name, WTERMSIG(status));
	else
		(void)cli_fail(CLI_FAILED, NULL, "%s ended with exit code %d before it was ready",
			       process->name, WEXITSTATUS(status));
	local_log_tail(cli, process->name, 10);
	return true;
}

/* The pid that the process at our own socket for it tells; 0 when nobody answers. */
static pid_t pid_told(struct cli *cli, const struct local_process *process)
{
	bool is_node = strcmp(process->role, "node") == 0;
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	char address[RPC_ADDRESS_BYTES_MAX];
	const struct rpc_request request = {
		.service = is_node ? &holdfast__v1__node__descriptor
				   : &holdfast__v1__gateway__descriptor,
		.method = "Status",
		.message = &empty.base,
		.timeout_ms = ANSWER_MS,
	};
	ProtobufCMessage *reply;
	pid_t pid;

	if (cli_client(cli, local_admin_address(cli, process->name, address), NULL) < 0 ||
	    rpc_client_call(cli->client, &request, &reply, NULL) < 0)
		return 0;
	const Holdfast__V1__ProcessInfo *info =
		is_node ? ((Holdfast__V1__NodeStatus *)(void *)reply)->process
			: ((Holdfast__V1__GatewayStatus *)(void *)reply)->process;
	pid = info ? (pid_t)info->pid : 0;
	rpc_message_free(reply);
	return pid;
}

bool local_answers(struct cli *cli, const struct local_process *process)
{
	pid_t pid = local_pid(cli, process->name);

	return pid && pid_told(cli, process) == pid;
}

/* ---- stopping ---- */

int local_stop(const struct cli *cli, const char *name, uint64_t deadline_ms, struct err *err)
{
	char supervisor_path[LOCAL_PATH_BYTES];
	char path[LOCAL_PATH_BYTES];
	bool said_supervisor = false, said = false;

	local_path(cli, name, "supervisor", supervisor_path);
	local_path(cli, name, "pid", path);
	for (;;) {
		pid_t supervisor = pid_file_holder(supervisor_path);
		pid_t pid = pid_file_holder(path);
		if (!supervisor && !pid)
			return 0;
		if (supervisor && !said_supervisor)
			said_supervisor = kill(supervisor, SIGTERM) == 0;
		else if (!supervisor && pid && !said)
			said = kill(pid, SIGTERM) == 0;
		if (clock_ms() > deadline_ms)
			return err_set(err, -ETIMEDOUT, "%s (pid %d) has not stopped", name,
				       (int)(pid ? pid : supervisor));
		sleep_ms(20);
	}
}

void local_log_tail(const struct cli *cli, const char *name, uint32_t lines)
{
	char path[LOCAL_PATH_BYTES];
	char text[LOG_TAIL_BYTES + 1];
	FILE *file = fopen(local_path(cli, name, "log", path), "re");
	size_t bytes;
	const char *from;

	if (!file)
		return;
	if (fseek(file, -LOG_TAIL_BYTES, SEEK_END) < 0)
		rewind(file);
	bytes = fread(text, 1, LOG_TAIL_BYTES, file);
	fclose(file);
	while (bytes > 0 && text[bytes - 1] == '\n')
		bytes--;
	text[bytes] = 0;
	from = text + bytes;
	while (from > text && lines > 0) {
		from--;
		if (*from == '\n' && --lines == 0)
			from++;
	}
	if (bytes == 0)
		return;
	fprintf(stderr, "  last lines of %s:\n", path);
	for (const char *line = from; line && *line;) {
		int length = (int)strcspn(line, "\n");
		fprintf(stderr, "    %.*s\n", length, line);
		line = line[length] ? line + length + 1 : NULL;
	}
}
