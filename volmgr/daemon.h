/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every role of holdfastd shares: options, the state directory and its lock, identity, the
 * loop with its signals, readiness, supervision, and an orderly end.
 *
 * A role's life: holdfastd reads the options, daemon_open() makes a struct daemon, and role->run()
 * sets its objects up, calls daemon_ready() once it serves, daemon_run() until told to stop, and
 * tears down. One process, one role, one loop; everything here is on the loop's thread.
 *
 * State: DIR/NAME/ (mode 0700) holds pid (locked while the role runs: the lock, not the number, is
 * the truth about liveness), identity, admin.sock, metrics.sock and what the role keeps.
 */
#ifndef HF_VOLMGR_DAEMON_H
#define HF_VOLMGR_DAEMON_H

#include "base/config.h"
#include "base/cpu.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "volmgr/arena.h"
#include "volmgr/holdfast.pb-c.h"

/* Exit codes of holdfastd; with DAEMON_EXIT_USAGE a supervisor does not try again. */
#define DAEMON_EXIT_OK     0
#define DAEMON_EXIT_FAILED 1
#define DAEMON_EXIT_USAGE  2

#define DAEMON_PATH_BYTES    256
#define DAEMON_ADDRESS_BYTES 128
/* An orderly end takes at most this, then the process exits with 1. */
#define DAEMON_STOP_MS 10000

/* The first member of every role's options. */
struct daemon_options {
	char *dir; /* NULL: HOLDFAST_DIR, else /var/lib/holdfast */
	char *name;
	char *log_level;
	char *io_engine;
	char *cpus;        /* "auto", "any" or a list */
	char *cpu_latency; /* "auto", "off" or microseconds */
	char *metrics;     /* "on": DIR/NAME/metrics.sock, "off", or an address */
	uint64_t ready_fd; /* 0: none */
	bool supervise;
};

/* Their lines in a role's option table; the role's struct has them as its first member. */
#define DAEMON_OPTIONS(default_name)                                                           \
	{.name = "dir",                                                                        \
	 .type = CONFIG_STRING,                                                                \
	 .offset = offsetof(struct daemon_options, dir),                                       \
	 .max = 90,                                                                            \
	 .metavar = "DIR",                                                                     \
	 .help = "State directory of the cluster (default: HOLDFAST_DIR, else "                \
		 "/var/lib/holdfast)"},                                                        \
		{.name = "name",                                                               \
		 .type = CONFIG_STRING,                                                        \
		 .offset = offsetof(struct daemon_options, name),                              \
		 .initial = (default_name),                                                    \
		 .max = 63,                                                                    \
		 .is_required = true,                                                          \
		 .metavar = "NAME",                                                            \
		 .help = "Name of this process; its state is in DIR/NAME"},                    \
		{.name = "log-level",                                                          \
		 .type = CONFIG_STRING,                                                        \
		 .offset = offsetof(struct daemon_options, log_level),                         \
		 .initial = "info",                                                            \
		 .max = 8,                                                                     \
		 .metavar = "LEVEL",                                                           \
		 .help = "error, warn, info or debug"},                                        \
		{.name = "io-engine",                                                          \
		 .type = CONFIG_STRING,                                                        \
		 .offset = offsetof(struct daemon_options, io_engine),                         \
		 .initial = "auto",                                                            \
		 .max = 16,                                                                    \
		 .metavar = "ENGINE",                                                          \
		 .help = "auto, io_uring or libaio"},                                          \
		{.name = "cpus",                                                               \
		 .type = CONFIG_STRING,                                                        \
		 .offset = offsetof(struct daemon_options, cpus),                              \
		 .initial = "auto",                                                            \
		 .max = 127,                                                                   \
		 .metavar = "LIST",                                                            \
		 .help = "Processors to run on: 0-3,8, any, or auto (a node: those that take " \
			 "the interrupts of its disks, where a disk has one)"},                \
		{.name = "cpu-latency",                                                        \
		 .type = CONFIG_STRING,                                                        \
		 .offset = offsetof(struct daemon_options, cpu_latency),                       \
		 .initial = "auto",                                                            \
		 .max = 8,                                                                     \
		 .metavar = "US",                                                              \
		 .help = "While busy, let no processor idle so deeply that waking it takes "   \
			 "longer: microseconds, off, or auto (0 where a halt leaves a guest, " \
			 "else 2)"},                                                           \
		{.name = "metrics",                                                            \
		 .type = CONFIG_STRING,                                                        \
		 .offset = offsetof(struct daemon_options, metrics),                           \
		 .initial = "on",                                                              \
		 .max = 127,                                                                   \
		 .metavar = "ADDRESS",                                                         \
		 .help = "Prometheus metrics: on (DIR/NAME/metrics.sock), off, or a loopback " \
			 "address"},                                                           \
		{.name = "ready-fd",                                                           \
		 .type = CONFIG_UINT,                                                          \
		 .offset = offsetof(struct daemon_options, ready_fd),                          \
		 .max = 1048576,                                                               \
		 .metavar = "FD",                                                              \
		 .help = "Write one byte to this descriptor when ready, and close it"},        \
	{                                                                                      \
		.name = "supervise", .type = CONFIG_BOOL,                                      \
		.offset = offsetof(struct daemon_options, supervise),                          \
		.help = "Do the work in a child process and start it again when it dies"       \
	}

struct daemon {
	struct loop *loop;
	struct env *env;
	struct metrics *metrics;
	char name[64];
	char dir[DAEMON_PATH_BYTES];                /* DIR */
	char admin_address[DAEMON_ADDRESS_BYTES];   /* "unix:DIR/NAME/admin.sock" */
	char metrics_address[DAEMON_ADDRESS_BYTES]; /* "" when off */
	struct uuid uuid; /* of this process's place: made once, kept in DIR/NAME/identity */
	struct uuid cluster_uuid; /* zero until known */
	uint64_t boot_id;         /* random per start, not 0 */
	uint64_t started_ms;      /* wall time */
	struct cpu_list cpus;     /* empty: any */
	bool cpus_auto;           /* private to daemon_cpu.c */
	/* private to daemon.c */
	char state_dir[DAEMON_PATH_BYTES]; /* DIR/NAME */
	struct metrics_server *metrics_server;
	struct metric info;
	int lock_fd;
	uint64_t ready_fd;
	void (*stop)(void *ctx);
	void *stop_ctx;
	struct env_timer stop_timer;
	bool is_stopping;
	bool is_running;
};

struct role {
	const char *name;
	const struct config_table *table;
	size_t options_bytes;
	/* Blocks until the role has ended in order. 0, or -errno with a sentence; -EINVAL,
	 * -ERANGE and -ENOTSUP (state of a newer version) mean that another start would fail, too.
	 */
	int (*run)(struct daemon *daemon, const void *options, struct err *err);
};

extern const struct role manager_role; /* manager.c */
extern const struct role node_role;    /* node_role.c */
extern const struct role gateway_role; /* gateway.c */

/* Makes the directories, takes the lock, reads or makes the identity, creates the loop. 0 and
 * *ret, or -errno: -EBUSY names the pid that holds the lock. */
int daemon_open(const struct daemon_options *options, struct daemon **ret, struct err *err);
/* What the role made on the loop must be gone. NULL is fine. */
void daemon_close(struct daemon *daemon);

/* The loop waits for this disk: with --cpus auto it runs near it from daemon_run() on. */
void daemon_near_disk(struct daemon *daemon, const char *path);
/* "0-3" or "any". Returns buf. */
const char *daemon_cpus(const struct daemon *daemon, char *buf, size_t buf_bytes);
/* "off" (or refused), "ready" or "held". */
const char *daemon_cpu_latency(const struct daemon *daemon);
/* All but what only the role knows (insecure_tcp), from the arena. */
Holdfast__V1__ProcessInfo *daemon_report(const struct daemon *daemon, const char *role,
					 struct arena *arena);
/* Between daemon.c and daemon_cpu.c. */
int daemon_cpu_check(const struct daemon_options *options, struct err *err);
int daemon_cpu_open(struct daemon *daemon, const struct daemon_options *options, struct err *err);
void daemon_cpu_settle(struct daemon *daemon);

/* What can be said about options before anything is opened: for `check` of a role's table. */
int daemon_options_check(const struct daemon_options *options, struct err *err);
/* A unix socket or a loopback address. */
bool address_is_loopback(const char *address);
/* -EINVAL naming the option when the address (NULL and "": its default) is not loopback and not
 * allowed to be anything else. */
int daemon_listen_check(const char *option, const char *address, bool insecure_tcp,
			struct err *err);
/*
 * At the start only: what a killed predecessor may still hold. A process that was killed a moment
 * ago is gone some time after its I/O is, and the kernel takes its io_uring apart, with the disks
 * and sockets in it, after that; nobody can tell its locks from those of one that lives. Called
 * with the outcome of taking such a thing: true, after a short sleep, when rc is -EBUSY or
 * -EADDRINUSE and less than DAEMON_PREDECESSOR_MS have passed since the first time. *wait begins as
 * zeros.
 */
#define DAEMON_PREDECESSOR_MS 5000
struct daemon_wait {
	uint64_t until_ms;
};
bool daemon_wait_predecessor(struct daemon_wait *wait, int rc, const struct err *err);

/* "DIR/NAME/file". Returns buf. */
const char *daemon_path(const struct daemon *daemon, const char *file, char buf[DAEMON_PATH_BYTES]);
/* The manager's address: `option`, or "unix:DIR/manager/admin.sock" when it is NULL or "". */
const char *daemon_manager_address(const struct daemon *daemon, const char *option,
				   char buf[DAEMON_ADDRESS_BYTES]);
/*
 * Sets the cluster that this process belongs to, for good, durably. 0 also when it is the one
 * already; -EEXIST when it belongs to another one (both are named).
 */
int daemon_cluster_set(struct daemon *daemon, const struct uuid *cluster_uuid, struct err *err);

/* Serves: tells systemd (NOTIFY_SOCKET) and --ready-fd. Once; later calls do nothing. */
void daemon_ready(struct daemon *daemon);
/*
 * Runs the loop. At SIGTERM, SIGINT or daemon_stop() calls stop(ctx) once; the role then ends its
 * work and calls daemon_stopped(), which makes daemon_run() return. When that takes longer than
 * DAEMON_STOP_MS, or at a second signal, the process exits with 1 at once.
 */
void daemon_run(struct daemon *daemon, void (*stop)(void *ctx), void *ctx);
void daemon_stop(struct daemon *daemon);
void daemon_stopped(struct daemon *daemon);

/* ---- supervision (supervise.c) ---- */

/*
 * Forks a child and returns true in it, with the signals of a fresh process. The parent stays
 * inside: it passes SIGTERM and SIGINT on, and starts the child again when a signal killed it or
 * its code is neither 0 nor DAEMON_EXIT_USAGE, after 100 ms, doubled up to 2 s, reset when it lived
 * for 10 s. When it ends for good: false, and the exit code in *ret_code.
 * DIR/NAME/supervisor holds the parent's pid, locked. Before any thread is made.
 */
bool daemon_supervise(const struct daemon_options *options, int *ret_code);
/* Pure, for tests: the delay before start number `failures` (1 ..) in a row. */
uint64_t supervise_delay_ms(uint32_t failures);

/* Private to daemon.c and supervise.c. */
/* DIR as the options or the environment say. */
const char *daemon_dir(const struct daemon_options *options);
/* Makes DIR and DIR/NAME, takes the lock on DIR/NAME/`file` and writes the pid; waits for a
 * predecessor. The descriptor, or -errno. */
int daemon_lock(const struct daemon_options *options, const char *file, struct err *err);

#endif
