/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct env: everything that data-path code may ask of the world.
 *
 * Clock, timers, disk, network and randomness come through here and nowhere else, so the same
 * object files run on the production loop (base/loop.h: io_uring, or libaio + epoll) and in the
 * simulator (tests/sim). Rules that every engine keeps and every caller may rely on:
 *
 * E1  One thread owns an env. Every call and every callback is on it, unless stated.
 * E2  A callback never runs inside the call that caused it; the loop delivers it later.
 * E3  Each submitted operation gets exactly one callback, even when its object is closed
 *     meanwhile (then with -ECANCELED). The operation's memory belongs to the env until then.
 * E4  No call here allocates per operation; operations are embedded in the caller's objects.
 * E5  Completions of one disk come in any order. Sends of one connection complete in order.
 * E6  Times are CLOCK_BOOTTIME nanoseconds (now_ns); wall time is for people only.
 */
#ifndef HF_BASE_ENV_H
#define HF_BASE_ENV_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/list.h"
#include "base/types.h"

struct env;

/* ---- timers ---- */

/* Zero before first use. The owner keeps it alive while armed. */
struct env_timer {
	uint64_t deadline_ns;
	void (*fire)(struct env_timer *timer);
	uint32_t heap_index; /* engine's; 0 means not armed */
	uint64_t order;      /* engine's; ties fire in arming order */
};

/* ---- disk ---- */

enum env_io_op { ENV_IO_READ, ENV_IO_WRITE, ENV_IO_FLUSH };
#define ENV_IO_DSYNC   1u /* WRITE is durable when done (RWF_DSYNC) */
#define ENV_IO_IOV_MAX 64

struct env_io {
	enum env_io_op op;
	uint32_t flags;
	uint64_t offset_bytes;   /* 4096-aligned */
	const struct iovec *iov; /* 4096-aligned addresses and lengths; valid until done */
	uint32_t iov_count;      /* 1..ENV_IO_IOV_MAX; 0 for FLUSH */
	/* status 0, or -errno. A short transfer is completed by the engine or reported as -EIO.
	 * What reaches past the end of the disk is -EIO. */
	void (*done)(struct env_io *io, int status);
	void *waiter; /* co_disk_io()'s */
	/* engine's */
	struct env_disk *disk;
	struct list link;
	uint64_t length_bytes;
	uint64_t engine[6];
};

struct env_disk_info {
	uint64_t size_bytes; /* multiple of 4096, rounded down */
	bool is_block_device;
	bool is_file_sparse_capable; /* a regular file: unwritten ranges cost metadata on first write */
};

#define ENV_DISK_RDONLY 1u /* open for reading; takes a shared lock */
#define ENV_DISK_CREATE 2u /* regular file: create if absent, with create_bytes */

/* ---- network ---- */

struct env_conn;
struct env_listener;

struct env_peer {
	char text[108]; /* "unix:pid=12,uid=0" or "tcp:127.0.0.1:4711" */
	int64_t pid;    /* -1 when unknown */
	int64_t uid;    /* -1 when unknown */
};

struct env_recv {
	void *buf;
	size_t buf_bytes;
	/* n > 0: bytes received (1..buf_bytes); 0: the peer closed; < 0: -errno. */
	void (*done)(struct env_recv *recv, ssize_t n);
	uint64_t engine[4];
};

struct env_send {
	const struct iovec *iov; /* any alignment; valid until done */
	uint32_t iov_count;      /* 1..ENV_IO_IOV_MAX */
	/* 0 when all bytes were taken by the transport (not: received by the peer), or -errno;
	 * after an error every later send fails too. */
	void (*done)(struct env_send *send, int status);
	/* engine's */
	struct list link;
	size_t length_bytes;
	size_t sent_bytes;
};

struct env_listener_cb {
	/* A new connection; the callee owns it. peer is valid during the call. */
	void (*accepted)(void *ctx, struct env_conn *conn, const struct env_peer *peer);
	void *ctx;
};

struct env_connect {
	/* conn on success (status 0), owned by the callee; else NULL and -errno. */
	void (*done)(struct env_connect *connect, int status, struct env_conn *conn);
	uint64_t engine[8];
};

struct env_close {
	/* Every operation of the connection or disk has had its callback; the object is gone. */
	void (*done)(struct env_close *close);
	struct list link;
};

/* ---- the table ---- */

struct env_ops {
	const char *name; /* "io_uring", "libaio", "sim" */
	uint64_t (*now_ns)(struct env *env);
	uint64_t (*wall_ms)(struct env *env);
	uint64_t (*random)(struct env *env);
	void (*timer_set)(struct env *env, struct env_timer *timer, uint64_t deadline_ns);
	void (*timer_cancel)(struct env *env, struct env_timer *timer);

	int (*disk_open)(struct env *env, const char *path, uint32_t flags, uint64_t create_bytes,
			 struct env_disk **ret, struct err *err);
	void (*disk_info)(struct env_disk *disk, struct env_disk_info *ret);
	void (*disk_submit)(struct env_disk *disk, struct env_io *io);
	void (*disk_close)(struct env_disk *disk, struct env_close *close);

	int (*listen)(struct env *env, const char *address, const struct env_listener_cb *cb,
		      struct env_listener **ret, struct err *err);
	void (*listener_close)(struct env_listener *listener);
	void (*connect)(struct env *env, const char *address, struct env_connect *connect);
	void (*connect_cancel)(struct env *env, struct env_connect *connect);
	void (*conn_recv)(struct env_conn *conn, struct env_recv *recv);
	void (*conn_send)(struct env_conn *conn, struct env_send *send);
	void (*conn_close)(struct env_conn *conn, struct env_close *close);

	void *(*buf_alloc)(struct env *env, size_t bytes);
	void (*buf_free)(struct env *env, void *buf, size_t bytes);
};

struct env {
	const struct env_ops *ops;
};

/* ---- clock, timers, randomness ---- */

/* CLOCK_BOOTTIME; constant within one turn of the loop is allowed (staleness <= 1 ms). */
static inline uint64_t env_now_ns(struct env *env)
{
	return env->ops->now_ns(env);
}
/* Unix time in ms: for log lines, records and people, never for decisions. */
static inline uint64_t env_wall_ms(struct env *env)
{
	return env->ops->wall_ms(env);
}
/* 64 uniform bits; cryptographic in production, seeded in the simulator. */
static inline uint64_t env_random(struct env *env)
{
	return env->ops->random(env);
}
void env_random_uuid(struct env *env, struct uuid *ret);
/* Arms (or re-arms) timer->fire for deadline_ns; a deadline in the past fires on the next turn. */
static inline void env_timer_set(struct env *env, struct env_timer *timer, uint64_t deadline_ns)
{
	env->ops->timer_set(env, timer, deadline_ns);
}
static inline void env_timer_after(struct env *env, struct env_timer *timer, uint64_t delay_ns)
{
	env->ops->timer_set(env, timer, env->ops->now_ns(env) + delay_ns);
}
/* No callback after this; fine on a timer that is not armed. */
static inline void env_timer_cancel(struct env *env, struct env_timer *timer)
{
	env->ops->timer_cancel(env, timer);
}
static inline bool env_timer_armed(const struct env_timer *timer)
{
	return timer->heap_index != 0;
}

/* ---- disk ---- */

/*
 * Opens a raw block device or a regular file with O_DIRECT and takes an exclusive lock
 * (shared with RDONLY). Synchronous: for start-up and admin paths. 0 and *ret, or -errno:
 * -EBUSY when another process holds it, -ENOTSUP when O_DIRECT is refused.
 */
static inline int env_disk_open(struct env *env, const char *path, uint32_t flags,
				uint64_t create_bytes, struct env_disk **ret, struct err *err)
{
	return env->ops->disk_open(env, path, flags, create_bytes, ret, err);
}
void env_disk_info(struct env *env, struct env_disk *disk, struct env_disk_info *ret);
/*
 * Submits one operation; batched until the end of the loop's turn. FLUSH makes durable every
 * write whose done() ran before this call. A failed FLUSH or DSYNC write says nothing about
 * what is durable; it must not be retried (see reliability.md, "Errors").
 */
static inline void env_disk_submit(struct env *env, struct env_disk *disk, struct env_io *io)
{
	env->ops->disk_submit(disk, io);
}
static inline void env_disk_close(struct env *env, struct env_disk *disk, struct env_close *close)
{
	env->ops->disk_close(disk, close);
}

/* ---- network: byte streams ---- */

/*
 * address: "unix:/path" or "tcp:HOST:PORT" (numeric host; "tcp:127.0.0.1:0" picks a port).
 * A stale unix socket file that nobody listens on is replaced; sockets are created mode 0600.
 * -EADDRINUSE when it is taken.
 */
static inline int env_listen(struct env *env, const char *address, const struct env_listener_cb *cb,
			     struct env_listener **ret, struct err *err)
{
	return env->ops->listen(env, address, cb, ret, err);
}
/* Stops accepting and unlinks a unix socket's path. Synchronous. */
static inline void env_listener_close(struct env *env, struct env_listener *listener)
{
	env->ops->listener_close(listener);
}
/* Bounded by the caller's own timer: env_connect_cancel() makes done() come with -ECANCELED. */
static inline void env_connect(struct env *env, const char *address, struct env_connect *connect)
{
	env->ops->connect(env, address, connect);
}
static inline void env_connect_cancel(struct env *env, struct env_connect *connect)
{
	env->ops->connect_cancel(env, connect);
}
/* At most one receive at a time per connection. */
static inline void env_conn_recv(struct env *env, struct env_conn *conn, struct env_recv *recv)
{
	env->ops->conn_recv(conn, recv);
}
/* Sends are queued in order; the engine may gather several into one system call. */
static inline void env_conn_send(struct env *env, struct env_conn *conn, struct env_send *send)
{
	env->ops->conn_send(conn, send);
}
/* Ends the connection: pending operations complete with -ECANCELED, then close->done. */
static inline void env_conn_close(struct env *env, struct env_conn *conn, struct env_close *close)
{
	env->ops->conn_close(conn, close);
}

/* ---- buffers ---- */

/*
 * 4096-aligned zeroed memory for I/O, meant for start-up (pools). The engine registers it with
 * the kernel when it can. NULL when memory is out. env_buf_free takes the same size.
 */
static inline void *env_buf_alloc(struct env *env, size_t bytes)
{
	return env->ops->buf_alloc(env, bytes);
}
static inline void env_buf_free(struct env *env, void *buf, size_t bytes)
{
	env->ops->buf_free(env, buf, bytes);
}

#endif
