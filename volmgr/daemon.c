/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared life of every role.
 *
 * D1  Two processes never run on one DIR/NAME: the first takes the lock on DIR/NAME/pid before it
 *     touches anything else there, and the kernel releases it when the process is gone, however it
 *     ended. The number in the file is for people and messages.
 * D2  The identity is written to a new file, flushed, and renamed, before anybody hears of it; a
 *     crash leaves the old one or none (then nobody has heard of it).
 * D3  A process never changes its cluster.
 * D4  Once asked to stop, the process ends within DAEMON_STOP_MS, in order or not.
 * D5  A start right after a kill succeeds: what the predecessor holds until the kernel has taken it
 *     apart is waited for, with a bound. What cannot be had then is said in the log.
 */
#include "volmgr/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "volmgr/records.h"

#define IDENTITY_BYTES_MAX 256

const char *daemon_dir(const struct daemon_options *options)
{
	if (options->dir != NULL && options->dir[0] != '\0')
		return options->dir;
	const char *dir = getenv("HOLDFAST_DIR");
	return dir != NULL && dir[0] != '\0' ? dir : "/var/lib/holdfast";
}

static int dir_make(const char *path, struct err *err)
{
	char part[DAEMON_PATH_BYTES];
	size_t length = strlen(path);
	if (length >= sizeof(part))
		return err_set(err, -ENAMETOOLONG, "directory '%s': longer than %zu bytes", path,
			       sizeof(part) - 1);
	for (size_t i = 1; i <= length; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return err_set(err, -errno, "directory '%s': %s", part, strerror(errno));
	}
	struct stat st;
	if (stat(path, &st) < 0)
		return err_set(err, -errno, "directory '%s': %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "'%s' is not a directory", path);
	return 0;
}

static uint64_t clock_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Asked to end: the signals are blocked from the moment that the loop exists. */
static bool signal_waits(void)
{
	sigset_t pending;
	return sigpending(&pending) == 0 &&
	       (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1);
}

bool daemon_wait_predecessor(struct daemon_wait *wait, int rc, const struct err *err)
{
	const struct timespec pause = {.tv_nsec = 10000000};
	if ((rc != -EBUSY && rc != -EADDRINUSE) || signal_waits())
		return false;
	if (wait->until_ms == 0) {
		wait->until_ms = clock_ms() + DAEMON_PREDECESSOR_MS;
		log_event(LOG_INFO, "daemon", "waits", "for_ms=%d reason=%s", DAEMON_PREDECESSOR_MS,
			  LOG_Q(err_text(err)));
	}
	if (clock_ms() >= wait->until_ms)
		return false;
	(void)nanosleep(&pause, NULL); /* cut short by a signal: tried sooner */
	return true;
}

static int lock_take(int fd, const char *path, struct err *err)
{
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return err_set(err, -errno, "lock '%s': %s", path, strerror(errno));
	char text[32] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	text[n > 0 ? strcspn(text, "\n") : 0] = '\0';
	return err_set(err, -EBUSY, "'%s' is held by pid %s: it is running already", path,
		       text[0] != '\0' ? text : "(not yet written)");
}

int daemon_lock(const struct daemon_options *options, const char *file, struct err *err)
{
	char dir[DAEMON_PATH_BYTES], path[DAEMON_PATH_BYTES];
	int rc = name_check("name", options->name, err);
	if (rc < 0)
		return rc;
	if (snprintf(dir, sizeof(dir), "%s/%s", daemon_dir(options), options->name) >=
		    (int)sizeof(dir) ||
	    snprintf(path, sizeof(path), "%.170s/%s", dir, file) >= (int)sizeof(path))
		return err_set(err, -ENAMETOOLONG, "directory '%s': too long", daemon_dir(options));
	rc = dir_make(dir, err);
	if (rc < 0)
		return rc;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(err, -errno, "'%s': %s", path, strerror(errno));
	struct daemon_wait wait = {0};
	do
		rc = lock_take(fd, path, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	char text[32];
	int length = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (rc == 0 && (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) != length))
		rc = err_set(err, errno != 0 ? -errno : -EIO, "write '%s': %s", path,
			     strerror(errno));
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

const char *daemon_path(const struct daemon *daemon, const char *file, char buf[DAEMON_PATH_BYTES])
{
	snprintf(buf, DAEMON_PATH_BYTES, "%.200s/%.50s", daemon->state_dir, file);
	return buf;
}

const char *daemon_manager_address(const struct daemon *daemon, const char *option,
				   char buf[DAEMON_ADDRESS_BYTES])
{
	if (option != NULL && option[0] != '\0')
		snprintf(buf, DAEMON_ADDRESS_BYTES, "%s", option);
	else
		snprintf(buf, DAEMON_ADDRESS_BYTES, "unix:%.100s/manager/admin.sock", daemon->dir);
	return buf;
}

/* ---- identity ---- */

static int file_flush_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static int identity_write(const struct daemon *daemon, const struct uuid *cluster, struct err *err)
{
	char path[DAEMON_PATH_BYTES], fresh[DAEMON_PATH_BYTES], own[UUID_TEXT_BYTES];
	char other[UUID_TEXT_BYTES] = "", text[IDENTITY_BYTES_MAX];
	daemon_path(daemon, "identity", path);
	daemon_path(daemon, "identity.new", fresh);
	uuid_format(&daemon->uuid, own);
	if (!uuid_is_zero(cluster))
		uuid_format(cluster, other);
	int length = snprintf(text, sizeof(text), "version 1\nuuid %s\ncluster %s\n", own,
			      other[0] != '\0' ? other : "none");
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(err, -errno, "'%s': %s", fresh, strerror(errno));
	int rc = 0;
	errno = 0;
	if (write(fd, text, (size_t)length) != length || fsync(fd) < 0)
		rc = errno != 0 ? -errno : -EIO;
	close(fd);
	if (rc == 0 && rename(fresh, path) < 0)
		rc = -errno;
	if (rc == 0)
		rc = file_flush_dir(daemon->state_dir);
	return rc < 0 ? err_set(err, rc, "write '%s': %s", path, strerror(-rc)) : 0;
}

static int identity_parse(struct daemon *daemon, const char *text, const char *path,
			  struct err *err)
{
	unsigned version = 0;
	char own[40] = "", cluster[40] = "";
	if (sscanf(text, "version %u\nuuid %39s\ncluster %39s\n", &version, own, cluster) < 1)
		return err_set(err, -EBADMSG, "'%s' is not an identity file", path);
	if (version != 1)
		return err_set(err, -ENOTSUP, "'%s' has version %u; this program knows version 1",
			       path, version);
	if (uuid_parse(own, &daemon->uuid) < 0 || uuid_is_zero(&daemon->uuid))
		return err_set(err, -EBADMSG, "'%s': uuid '%s' is no uuid", path, own);
	if (strcmp(cluster, "none") != 0 && uuid_parse(cluster, &daemon->cluster_uuid) < 0)
		return err_set(err, -EBADMSG, "'%s': cluster '%s' is no uuid", path, cluster);
	return 0;
}

static int identity_load(struct daemon *daemon, struct err *err)
{
	char path[DAEMON_PATH_BYTES], text[IDENTITY_BYTES_MAX];
	daemon_path(daemon, "identity", path);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		struct uuid none = {0};
		env_random_uuid(daemon->env, &daemon->uuid);
		return identity_write(daemon, &none, err);
	}
	if (fd < 0)
		return err_set(err, -errno, "'%s': %s", path, strerror(errno));
	ssize_t n = read(fd, text, sizeof(text) - 1);
	int rc = n < 0 ? -errno : 0;
	close(fd);
	if (rc < 0)
		return err_set(err, rc, "read '%s': %s", path, strerror(-rc));
	text[n] = '\0';
	return identity_parse(daemon, text, path, err);
}

int daemon_cluster_set(struct daemon *daemon, const struct uuid *cluster_uuid, struct err *err)
{
	if (uuid_equal(&daemon->cluster_uuid, cluster_uuid))
		return 0;
	char own[UUID_TEXT_BYTES], other[UUID_TEXT_BYTES];
	uuid_format(&daemon->cluster_uuid, own);
	uuid_format(cluster_uuid, other);
	if (!uuid_is_zero(&daemon->cluster_uuid))
		return err_set(err, -EEXIST, "'%s' belongs to cluster %s, not to cluster %s",
			       daemon->name, own, other);
	int rc = identity_write(daemon, cluster_uuid, err);
	if (rc == 0)
		daemon->cluster_uuid = *cluster_uuid;
	return rc;
}

/* ---- open, close ---- */

static const struct metric_desc info_desc = {"holdfast_start_time_seconds",
					     "When the process started, and what it is",
					     METRIC_GAUGE, false};

static int metrics_open(struct daemon *daemon, const char *option, struct err *err)
{
	daemon->metrics = metrics_create();
	if (daemon->metrics == NULL)
		return err_set(err, -ENOMEM, "metrics: out of memory");
	const struct metric_label labels[] = {{"name", daemon->name},
					      {"version", build_version()},
					      {"engine", loop_engine_name(daemon->loop)}};
	if (metric_add(daemon->metrics, &daemon->info, &info_desc, labels, ARRAY_LEN(labels)) < 0)
		return err_set(err, -ENOMEM, "metrics: out of memory");
	metric_set(&daemon->info, (int64_t)(daemon->started_ms / 1000));
	if (strcmp(option, "off") == 0)
		return 0;
	char path[DAEMON_PATH_BYTES], address[DAEMON_PATH_BYTES + 8];
	snprintf(address, sizeof(address), "unix:%s", daemon_path(daemon, "metrics.sock", path));
	const struct metrics_server_options options = {
		.address = strcmp(option, "on") == 0 ? address : option,
		.metrics = daemon->metrics,
	};
	struct daemon_wait wait = {0};
	int rc;
	do
		rc = metrics_server_start(&options, &daemon->metrics_server, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	if (rc < 0)
		return err_wrap(err, rc, "metrics");
	snprintf(daemon->metrics_address, sizeof(daemon->metrics_address), "%s",
		 metrics_server_address(daemon->metrics_server));
	return 0;
}

static void on_signal(void *ctx, int signo)
{
	struct daemon *daemon = ctx;
	log_event(LOG_INFO, "daemon", "signal", "name=%s signal=%d", daemon->name, signo);
	if (daemon->is_stopping)
		_exit(DAEMON_EXIT_FAILED);
	if (daemon->stop == NULL)
		_exit(DAEMON_EXIT_OK); /* still starting: as after a crash, but wanted */
	daemon_stop(daemon);
}

static int loop_open(struct daemon *daemon, const struct daemon_options *options, struct err *err)
{
	enum loop_engine engine;
	int rc = loop_engine_parse(options->io_engine, &engine, err);
	if (rc == 0)
		rc = loop_create(engine, &daemon->loop, err);
	/* Before any thread exists: threads inherit the blocked signals (a signal that some thread
	 * did not block would end the process on the spot). */
	if (rc == 0)
		rc = loop_signals(daemon->loop, on_signal, daemon, err);
	if (rc < 0)
		return rc;
	daemon->env = loop_env(daemon->loop);
	daemon->started_ms = env_wall_ms(daemon->env);
	do {
		daemon->boot_id = env_random(daemon->env);
	} while (daemon->boot_id == 0);
	return 0;
}

static void daemon_closep(struct daemon **daemon)
{
	daemon_close(*daemon);
}

int daemon_options_check(const struct daemon_options *options, struct err *err)
{
	enum loop_engine engine;
	enum log_level level;
	if (log_level_parse(options->log_level, &level) < 0)
		return err_set(err, -EINVAL, "log-level '%s': must be error, warn, info or debug",
			       options->log_level);
	int rc = daemon_cpu_check(options, err);
	return rc == 0 ? loop_engine_parse(options->io_engine, &engine, err) : rc;
}

bool address_is_loopback(const char *address)
{
	return strncmp(address, "unix:", 5) == 0 || strncmp(address, "tcp:127.", 8) == 0 ||
	       strncmp(address, "tcp:[::1]:", 10) == 0;
}

int daemon_listen_check(const char *option, const char *address, bool insecure_tcp, struct err *err)
{
	if (address == NULL || address[0] == '\0' || insecure_tcp || address_is_loopback(address))
		return 0;
	return err_set(err, -EINVAL,
		       "%s '%s': only unix sockets and loopback; nothing else is encrypted", option,
		       address);
}

int daemon_open(const struct daemon_options *options, struct daemon **ret, struct err *err)
{
	enum log_level level;
	int rc = daemon_options_check(options, err);
	if (rc < 0)
		return rc;
	(void)log_level_parse(options->log_level, &level); /* was checked */
	log_level_set(level);
	umask(0077);
	CLEANUP(daemon_closep) struct daemon *daemon = calloc(1, sizeof(*daemon));
	if (daemon == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	daemon->lock_fd = -1;
	daemon->ready_fd = options->ready_fd;
	snprintf(daemon->name, sizeof(daemon->name), "%s", options->name);
	snprintf(daemon->dir, sizeof(daemon->dir), "%s", daemon_dir(options));
	snprintf(daemon->state_dir, sizeof(daemon->state_dir), "%.180s/%s", daemon->dir,
		 daemon->name);
	snprintf(daemon->admin_address, sizeof(daemon->admin_address), "unix:%.110s/admin.sock",
		 daemon->state_dir);
	if (strlen(daemon->state_dir) > 90)
		return err_set(err, -ENAMETOOLONG,
			       "'%s': sockets need a state directory of at most 90 bytes",
			       daemon->state_dir);
	daemon->lock_fd = daemon_lock(options, "pid", err);
	rc = daemon->lock_fd < 0 ? daemon->lock_fd : loop_open(daemon, options, err);
	if (rc == 0)
		rc = daemon_cpu_open(daemon, options, err);
	if (rc == 0)
		rc = identity_load(daemon, err);
	if (rc == 0)
		rc = metrics_open(daemon, options->metrics, err);
	if (rc == 0)
		*ret = take(daemon);
	return rc;
}

void daemon_close(struct daemon *daemon)
{
	if (daemon == NULL)
		return;
	metrics_server_stop(daemon->metrics_server);
	metric_remove(&daemon->info);
	if (daemon->metrics != NULL)
		metrics_destroy(daemon->metrics);
	if (daemon->env != NULL)
		env_timer_cancel(daemon->env, &daemon->stop_timer);
	loop_destroy(daemon->loop);
	if (daemon->lock_fd >= 0)
		close(daemon->lock_fd); /* gives the lock back */
	free(daemon);
}

/* ---- readiness ---- */

/* The datagram that systemd's notify protocol wants; an address that starts with @ is abstract. */
static void systemd_notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (path == NULL || (path[0] != '/' && path[0] != '@') ||
	    strlen(path) >= sizeof(address.sun_path))
		return;
	size_t length = strlen(path);
	memcpy(address.sun_path, path, length);
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, bytes) < 0)
		log_event(LOG_WARN, "daemon", "notify_failed", "address=%s error=%s", LOG_Q(path),
			  err_name(-errno));
	close(fd);
}

void daemon_ready(struct daemon *daemon)
{
	if (daemon->is_running)
		return;
	daemon->is_running = true;
	log_event(LOG_INFO, "daemon", "ready", "name=%s pid=%d engine=%s admin=%s", daemon->name,
		  (int)getpid(), loop_engine_name(daemon->loop), daemon->admin_address);
	systemd_notify("READY=1");
	if (daemon->ready_fd != 0) {
		int fd = (int)daemon->ready_fd;
		if (write(fd, "1", 1) != 1)
			log_event(LOG_WARN, "daemon", "ready_fd_failed", "fd=%d error=%s", fd,
				  err_name(-errno));
		close(fd);
		daemon->ready_fd = 0;
	}
}

/* ---- run, stop ---- */

static void stop_late(struct env_timer *timer)
{
	struct daemon *daemon = CONTAINER_OF(timer, struct daemon, stop_timer);
	log_event(LOG_ERROR, "daemon", "stop_late", "name=%s waited_ms=%d", daemon->name,
		  DAEMON_STOP_MS);
	_exit(DAEMON_EXIT_FAILED);
}

void daemon_stop(struct daemon *daemon)
{
	if (daemon->is_stopping)
		return;
	daemon->is_stopping = true;
	systemd_notify("STOPPING=1");
	daemon->stop_timer.fire = stop_late;
	env_timer_after(daemon->env, &daemon->stop_timer, DAEMON_STOP_MS * 1000000ull);
	daemon->stop(daemon->stop_ctx);
}

void daemon_run(struct daemon *daemon, void (*stop)(void *ctx), void *ctx)
{
	daemon->stop = stop;
	daemon->stop_ctx = ctx;
	daemon_cpu_settle(daemon);
	loop_run(daemon->loop);
}

void daemon_stopped(struct daemon *daemon)
{
	env_timer_cancel(daemon->env, &daemon->stop_timer);
	log_event(LOG_INFO, "daemon", "stopped", "name=%s", daemon->name);
	loop_stop(daemon->loop);
}
