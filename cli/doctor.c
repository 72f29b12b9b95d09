/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor: what a newcomer's machine may lack and what an operator's cluster may suffer from.
 *
 * Each check is a function that fills in what it found and, when it is not well, what to do. None
 * changes anything but a probe file below --dir that it removes.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/version.h"
#include "cli/local.h"
#include "cli/show.h"

#define FREE_LOW_BYTES (1ull << 30)

enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_BAD };

struct finding {
	enum verdict verdict;
	char found[300];
	char remedy[300];
};

static void say(struct finding *finding, enum verdict verdict, const char *format, ...)
	PRINTF_LIKE(3, 4);
static void say(struct finding *finding, enum verdict verdict, const char *format, ...)
{
	va_list args;

	finding->verdict = verdict;
	va_start(args, format);
	vsnprintf(finding->found, sizeof(finding->found), format, args);
	va_end(args);
}

static void remedy(struct finding *finding, const char *format, ...) PRINTF_LIKE(2, 3);
static void remedy(struct finding *finding, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(finding->remedy, sizeof(finding->remedy), format, args);
	va_end(args);
}

/* The version line of the daemon, without its newline. */
static bool daemon_version(const char *path, char *line, size_t bytes)
{
	char command[PATH_MAX + 32];
	FILE *pipe;
	bool good;

	if (strchr(path, '\''))
		return false;
	snprintf(command, sizeof(command), "'%s' --version", path);
	pipe = popen(command, "re");
	if (!pipe)
		return false;
	good = fgets(line, (int)bytes, pipe) != NULL;
	line[good ? strcspn(line, "\n") : 0] = 0;
	return pclose(pipe) == 0 && good;
}

static void check_binary(struct cli *cli, struct finding *finding)
{
	char path[PATH_MAX], line[128];
	char expected[96];
	struct err err = {0};

	(void)cli;
	snprintf(expected, sizeof(expected), "holdfastd %s", build_version());
	if (local_daemon_path(path, sizeof(path), &err) < 0) {
		say(finding, VERDICT_BAD, "%s", err_text(&err));
		remedy(finding, "Build it with 'make all', or install both programs together.");
	} else if (!daemon_version(path, line, sizeof(line))) {
		say(finding, VERDICT_BAD, "%.200s does not run", path);
		remedy(finding, "Run it by hand with --version; build it anew with 'make all'.");
	} else if (strncmp(line, expected, strlen(expected)) != 0) {
		say(finding, VERDICT_WARN, "this is holdfast %s, but the daemon is %s",
		    build_version(), line);
		remedy(finding, "Build or install both together.");
	} else {
		say(finding, VERDICT_OK, "%s", line);
	}
}

static void check_dir(struct cli *cli, struct finding *finding)
{
	struct stat st;

	if (stat(cli->dir, &st) < 0 && errno == ENOENT) {
		say(finding, VERDICT_WARN, "%s does not exist", cli->dir);
		remedy(finding, "Make a cluster: holdfast --dir %s up", cli->dir);
	} else if (stat(cli->dir, &st) < 0) {
		say(finding, VERDICT_BAD, "%s: %s", cli->dir, strerror(errno));
		remedy(finding, "Run as the user who owns the cluster, or choose another --dir.");
	} else if (!S_ISDIR(st.st_mode)) {
		say(finding, VERDICT_BAD, "%s is not a directory", cli->dir);
		remedy(finding, "Choose another --dir.");
	} else if (access(cli->dir, R_OK | W_OK | X_OK) < 0) {
		say(finding, VERDICT_BAD, "%s may not be used by uid %u: %s", cli->dir,
		    (unsigned)geteuid(), strerror(errno));
		remedy(finding, "Run as the user who owns the cluster, or choose another --dir.");
	} else if (st.st_mode & 0077) {
		say(finding, VERDICT_WARN, "%s has mode %04o: others may look in", cli->dir,
		    (unsigned)(st.st_mode & 07777));
		remedy(finding, "chmod 0700 %s", cli->dir);
	} else {
		say(finding, VERDICT_OK, "%s", cli->dir);
	}
}

static void check_engine(struct cli *cli, struct finding *finding)
{
	struct loop *loop = NULL;
	struct err err = {0};

	(void)cli;
	if (loop_create(LOOP_ENGINE_URING, &loop, &err) == 0) {
		say(finding, VERDICT_OK, "io_uring");
	} else {
		say(finding, VERDICT_WARN, "io_uring is refused (%s); libaio is used, slower",
		    err_text(&err));
		remedy(finding, "sysctl kernel.io_uring_disabled=0, or allow it in the container's "
				"seccomp profile.");
	}
	loop_destroy(loop);
}

/* An existing directory for probes: --dir, or its nearest parent. */
static void probe_dir(const struct cli *cli, char path[CLI_PATH_BYTES])
{
	snprintf(path, CLI_PATH_BYTES, "%s", cli->dir);
	while (access(path, F_OK) < 0 && strrchr(path, '/') > path)
		*strrchr(path, '/') = 0;
	if (access(path, F_OK) < 0)
		snprintf(path, CLI_PATH_BYTES, "/");
}

static void check_direct(struct cli *cli, struct finding *finding)
{
	char dir[CLI_PATH_BYTES], path[CLI_PATH_BYTES + 32];
	void *block = NULL;
	int fd, probe;

	probe_dir(cli, dir);
	snprintf(path, sizeof(path), "%s/.holdfast-probe-XXXXXX", dir);
	probe = mkstemp(path);
	if (probe < 0) {
		say(finding, VERDICT_BAD, "no file can be made in %s: %s", dir, strerror(errno));
		remedy(finding, "Run as a user who may write there, or choose another --dir.");
		return;
	}
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd >= 0 && posix_memalign(&block, 4096, 4096) == 0)
		memset(block, 0, 4096);
	if (fd >= 0 && block && pwrite(fd, block, 4096, 0) == 4096) {
		say(finding, VERDICT_OK, "4096-byte direct writes work in %s", dir);
	} else {
		say(finding, VERDICT_BAD, "direct I/O is refused in %s: %s", dir, strerror(errno));
		remedy(finding,
		       "Choose a --dir on a disk filesystem (ext4, xfs), or block devices.");
	}
	free(block);
	if (fd >= 0)
		close(fd);
	close(probe);
	(void)unlink(path); /* made by us just now */
}

static void check_space(struct cli *cli, struct finding *finding)
{
	char dir[CLI_PATH_BYTES], text[32];
	struct statvfs fs;
	uint64_t free_bytes;

	probe_dir(cli, dir);
	if (statvfs(dir, &fs) < 0) {
		say(finding, VERDICT_BAD, "%s: %s", dir, strerror(errno));
		return;
	}
	free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	say(finding, free_bytes < FREE_LOW_BYTES ? VERDICT_WARN : VERDICT_OK, "%s free in %s",
	    size_format(free_bytes, text), dir);
	if (free_bytes < FREE_LOW_BYTES)
		remedy(finding,
		       "Logs and metadata need space; new stores need their whole --size.");
}

static void check_processes(struct cli *cli, struct finding *finding)
{
	char names[LOCAL_NODES_MAX + 2][16] = {LOCAL_MANAGER, LOCAL_GATEWAY};
	uint32_t count = 2, running = 0;
	char dead[256] = "";

	for (uint32_t i = 1; i <= local_node_count(cli); i++)
		snprintf(names[count++], sizeof(names[0]), "n%u", i);
	for (uint32_t i = 0; i < count; i++) {
		if (local_pid(cli, names[i]))
			running++;
		else
			snprintf(dead + strlen(dead), sizeof(dead) - strlen(dead), " %s", names[i]);
	}
	if (!local_exists(cli, LOCAL_MANAGER)) {
		say(finding, VERDICT_OK, "no cluster in %s yet", cli->dir);
	} else if (running == count) {
		say(finding, VERDICT_OK, "all %u run", count);
	} else {
		say(finding, VERDICT_BAD, "not running:%s", dead);
		remedy(finding, "holdfast --dir %s up; why it ended: %s/NAME/log", cli->dir,
		       cli->dir);
	}
}

static bool version_differs(const char *version, char *list, size_t bytes, const char *name)
{
	if (strcmp(version, build_version()) == 0)
		return false;
	snprintf(list + strlen(list), bytes - strlen(list), " %s=%s", name, version);
	return true;
}

static void status_judge(const Holdfast__V1__StatusReply *status, struct finding *finding)
{
	char list[200] = "";
	uint32_t different = 0;

	for (size_t i = 0; i < status->n_processes; i++)
		different += version_differs(status->processes[i]->version, list, sizeof(list),
					     status->processes[i]->name);
	for (size_t i = 0; i < status->n_nodes; i++)
		different += version_differs(status->nodes[i]->version, list, sizeof(list),
					     status->nodes[i]->name);
	if (different) {
		say(finding, VERDICT_WARN, "running daemons of another version than %s:%s",
		    build_version(), list);
		remedy(finding, "Restart them one by one (node stop, node start).");
	} else if (status->n_warnings) {
		say(finding, VERDICT_WARN, "the manager warns: %.200s", status->warnings[0]);
		remedy(finding, "'holdfast status' has the rest.");
	} else {
		say(finding, VERDICT_OK, "the manager answers, all daemons are of this version");
	}
}

static void check_manager(struct cli *cli, struct finding *finding)
{
	Holdfast__V1__Empty request = HOLDFAST__V1__EMPTY__INIT;
	ProtobufCMessage *reply;
	struct err err = {0};

	if (!cli->manager && !local_exists(cli, LOCAL_MANAGER)) {
		say(finding, VERDICT_OK, "no cluster in %s yet", cli->dir);
	} else if (cli_call(cli, "Status", &request.base, &reply, &err) < 0) {
		say(finding, VERDICT_BAD, "%s", err_text(&err));
		remedy(finding, "Volumes in use go on without it; holdfast --dir %s up", cli->dir);
	} else {
		status_judge((void *)reply, finding);
		rpc_message_free(reply);
	}
}

static void check_clock(struct cli *cli, struct finding *finding)
{
	struct timespec now;
	struct tm tm;
	char text[40] = "";

	(void)cli;
	clock_gettime(CLOCK_REALTIME, &now);
	if (gmtime_r(&now.tv_sec, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	if (now.tv_sec < 1704067200) { /* 2024-01-01 */
		say(finding, VERDICT_WARN, "the clock says %s", text);
		remedy(finding, "Set it: events and logs carry it. Data does not depend on it.");
	} else {
		say(finding, VERDICT_OK, "%s", text);
	}
}

static const struct {
	const char *name;
	void (*check)(struct cli *cli, struct finding *finding);
} checks[] = {
	{"daemon", check_binary},       {"directory", check_dir},    {"engine", check_engine},
	{"direct-io", check_direct},    {"free-space", check_space}, {"clock", check_clock},
	{"processes", check_processes}, {"manager", check_manager},
};

int verb_doctor(struct cli *cli)
{
	static const char *const verdicts[] = {"ok", "warning", "bad"};
	static const struct cli_column columns[] = {
		{"CHECK", "name", COLUMN_TEXT, false},
		{"VERDICT", "verdict", COLUMN_TEXT, false},
		{"FOUND", "found", COLUMN_TEXT, false},
		{0},
	};
	json_t *items = json_array();
	enum verdict worst = VERDICT_OK;
	size_t index;
	json_t *item;

	for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
		struct finding finding = {0};
		checks[i].check(cli, &finding);
		worst = MAX(worst, finding.verdict);
		json_array_append_new(items,
				      json_pack("{ss ss ss ss}", "name", checks[i].name, "verdict",
						verdicts[finding.verdict], "found", finding.found,
						"remedy", finding.remedy));
	}
	json_incref(items);
	(void)cli_print_items(cli, columns, items);
	json_array_foreach(items, index, item)
	{
		const char *text = json_string_value(json_object_get(item, "remedy"));
		if (cli->format != CLI_JSON && text && *text)
			printf("%s: %s\n", json_string_value(json_object_get(item, "name")), text);
	}
	json_decref(items);
	return worst == VERDICT_BAD ? CLI_FAILED : CLI_OK;
}
