/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the production loop: what loop*.c share with the two engines.
 *
 * The shared parts (timers, posting, listeners, connections, disks) speak to an engine in two
 * kinds of operation: net_op on a file descriptor, and env_io on a disk. An engine submits them
 * in batches and hands each back exactly once, from its turn() and never from submit.
 */
#ifndef HF_BASE_LOOP_INT_H
#define HF_BASE_LOOP_INT_H

#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/loop.h"
#include "base/timer_heap.h"

#define LOOP_BATCH 64 /* callbacks of one kind per turn */
/* Disk operations, or sends of one connection, that are not left waiting for the end of the turn:
 * the disk and the peer need not idle while a turn works through all that came at once. */
#define LOOP_EAGER         8
#define CONN_GATHER_IOV    128 /* iovecs of one sendmsg */
#define ADDRESS_TEXT_BYTES 128

/* ---- work for the next turn ---- */

struct defer {
	struct list link;
	void (*run)(struct defer *defer);
};

/* ---- net operations ---- */

enum net_kind { NET_POLL_IN, NET_ACCEPT, NET_RECV, NET_CONNECT, NET_SEND };

struct net_op;

/* A file descriptor as the engine sees it. At most one input and one output op at a time. */
struct net_file {
	int fd;
	/* libaio's only: */
	struct net_op *in;  /* waits for input */
	struct net_op *out; /* waits for output */
	bool in_ready;
	bool out_ready;
	bool hung_up; /* end of file or an error is pending: stays ready */
};

struct net_op {
	enum net_kind kind;
	struct net_file *file;
	void *buf;                      /* RECV */
	size_t buf_bytes;               /* RECV */
	struct msghdr *msg;             /* SEND */
	const struct sockaddr *address; /* CONNECT */
	socklen_t address_bytes;
	void (*done)(struct net_op *op, int result); /* may free op and file */
	/* engine's */
	struct list link;
	bool active;    /* from op_submit() until just before done() */
	bool submitted; /* the kernel has it */
	bool cancel;
};

struct engine_ops {
	const char *name;
	int (*create)(struct loop *loop, struct err *err);
	void (*destroy)(struct loop *loop);
	/* Submits what waits, sleeps until something completes when it may, runs a batch of callbacks. */
	void (*turn)(struct loop *loop, bool may_sleep);
	/* Gives the kernel what was submitted so far; runs no callback. May do nothing. */
	void (*submit_now)(struct loop *loop);
	int (*file_add)(struct loop *loop, struct net_file *file);
	/* No operation is active on it. Does not close it. */
	void (*file_remove)(struct loop *loop, struct net_file *file);
	void (*op_submit)(struct loop *loop, struct net_op *op);
	/* op is active; it completes soon, with its result or -ECANCELED. */
	void (*op_cancel)(struct loop *loop, struct net_op *op);
	void (*disk_add)(struct loop *loop, struct env_disk *disk);
	void (*disk_remove)(struct loop *loop, struct env_disk *disk);
	void (*io_submit)(struct loop *loop, struct env_io *io);
	void (*buf_add)(struct loop *loop, void *buf, size_t bytes);
	void (*buf_remove)(struct loop *loop, void *buf, size_t bytes);
};

extern const struct engine_ops engine_uring;
extern const struct engine_ops engine_aio;

/* ---- the loop ---- */

#define RANDOM_WORDS 32

/* Keeping processors awake while busy (loop_awake.c). */
#define LOOP_AWAKE_DEVICE "/dev/cpu_dma_latency"

struct loop_awake {
	bool is_on;
	int fd;             /* open while held, else -1 */
	const char *device; /* LOOP_AWAKE_DEVICE but in tests */
	uint32_t latency_us;
	uint32_t wakes; /* sleeps that ended */
	uint32_t wakes_checked;
	uint64_t spell_ns;
	struct env_timer timer; /* while held */
};

struct loop {
	struct env env;
	const struct engine_ops *engine_ops;
	void *engine;
	struct timer_heap timers;
	struct list deferred;
	struct list sends;                 /* env_conn.send_link: have something to send */
	struct list listeners;             /* env_listener.link, closing ones too */
	_Atomic(struct loop_msg *) posted; /* newest first */
	struct net_file wake_file;
	struct net_op wake_op;
	struct net_file alarm_file; /* timerfd, goes off at alarm_ns */
	struct net_op alarm_op;
	uint64_t alarm_ns;           /* 0: not set */
	struct net_file signal_file; /* fd -1 without loop_signals() */
	struct net_op signal_op;
	void (*on_signal)(void *ctx, int signo);
	void *signal_ctx;
	struct loop_awake awake;
	bool stop;
	uint32_t disk_count;
	uint32_t conn_count;
	uint64_t fixed_io_count; /* disk operations that went through registered buffers */
	uint64_t random_words[RANDOM_WORDS];
	uint32_t random_left;
};

static inline struct loop *loop_of(struct env *env)
{
	return CONTAINER_OF(env, struct loop, env);
}
static inline void loop_defer(struct loop *loop, struct defer *defer)
{
	if (!list_linked(&defer->link))
		list_push_back(&loop->deferred, &defer->link);
}
/* A sleep has ended. */
void loop_awake_count(struct loop *loop);
void loop_awake_free(struct loop *loop);
/* For impossible answers of the kernel: says what and aborts. */
void loop_die(const char *what, int code) __attribute__((noreturn));

static inline void net_op_submit(struct loop *loop, struct net_op *op)
{
	assert(!op->active);
	op->active = true;
	op->submitted = false;
	op->cancel = false;
	loop->engine_ops->op_submit(loop, op);
}
static inline void net_op_cancel(struct loop *loop, struct net_op *op)
{
	if (op->active && !op->cancel)
		loop->engine_ops->op_cancel(loop, op);
}
static inline void net_op_finish(struct net_op *op, int result)
{
	op->active = false;
	op->done(op, result);
}

/* ---- disks (loop_disk.c) ---- */

struct env_disk {
	struct loop *loop;
	int fd;
	int slot; /* io_uring's registered file, or -1 */
	bool read_only;
	bool closing;
	uint32_t inflight; /* submitted, done() not yet called */
	struct env_disk_info info;
	struct list refused; /* env_io.link: to be completed with io_state.status */
	struct defer defer;
	struct env_close *close;
};

/* Laid over env_io.engine. */
struct io_state {
	uint64_t done_bytes;
	struct iovec rest; /* what is asked for when done_bytes > 0 */
	int64_t status;
} __attribute__((may_alias));
static_assert(sizeof(struct io_state) <= sizeof(((struct env_io *)0)->engine), "fits");

static inline struct io_state *io_state(struct env_io *io)
{
	return (struct io_state *)(void *)io->engine;
}
/* What to ask the kernel for now. Not for FLUSH. */
static inline uint32_t io_vector(struct env_io *io, const struct iovec **iov, uint64_t *offset)
{
	struct io_state *state = io_state(io);
	*offset = io->offset_bytes + state->done_bytes;
	*iov = state->done_bytes ? &state->rest : io->iov;
	return state->done_bytes ? 1 : io->iov_count;
}
/* From an engine's turn: the kernel's result. May submit the rest. */
void io_complete(struct env_io *io, int64_t result);

int disk_open(struct env *env, const char *path, uint32_t flags, uint64_t create_bytes,
	      struct env_disk **ret, struct err *err);
void disk_info(struct env_disk *disk, struct env_disk_info *ret);
void disk_submit(struct env_disk *disk, struct env_io *io);
void disk_close(struct env_disk *disk, struct env_close *close);
void *loop_buf_alloc(struct env *env, size_t bytes);
void loop_buf_free(struct env *env, void *buf, size_t bytes);

/* ---- network (loop_conn.c, loop_listen.c, loop_address.c) ---- */

struct net_address {
	struct sockaddr_storage storage;
	socklen_t bytes;
	bool is_unix;
	const char *path; /* into the text, when is_unix */
};

/* 0 or -EINVAL with a sentence. */
int net_address_parse(const char *text, struct net_address *ret, struct err *err);
/* "tcp:1.2.3.4:5" or "tcp:[::1]:5". */
void net_address_format(const struct sockaddr_storage *storage, char *buf, size_t buf_bytes);

struct env_conn {
	struct loop *loop;
	struct net_file file;
	struct net_op in_op;
	struct net_op out_op;  /* the connect, then the sends */
	struct env_recv *recv; /* set while in_op is active */
	struct list queue;     /* env_send.link, in order */
	struct list send_link; /* loop->sends */
	uint32_t gathered;     /* sends queued since it was put there */
	bool advancing;        /* in conn_advance(): the queue still holds what has been sent */
	struct defer defer;
	int send_status; /* the first error; sticky */
	bool closing;
	struct env_close *close;
	struct env_connect *connect; /* while connecting */
	struct net_address address;  /* while connecting */
	struct msghdr msg;
	struct iovec iov[CONN_GATHER_IOV];
};

/* Takes fd over, also when it fails (-errno). */
int conn_create(struct loop *loop, int fd, bool is_unix, struct env_conn **ret);
/* No operation is active. Closes the descriptor. */
void conn_free(struct env_conn *conn);
/* Starts one sendmsg for each connection that has something to send. */
void conns_flush(struct loop *loop);
void conn_recv(struct env_conn *conn, struct env_recv *recv);
void conn_send(struct env_conn *conn, struct env_send *send);
void conn_close(struct env_conn *conn, struct env_close *close);
void net_connect(struct env *env, const char *address, struct env_connect *connect);
void net_connect_cancel(struct env *env, struct env_connect *connect);

int net_listen(struct env *env, const char *address, const struct env_listener_cb *cb,
	       struct env_listener **ret, struct err *err);
void net_listener_close(struct env_listener *listener);
/* Bound and listening, with the care for unix sockets that loop_listen.c describes; or -errno. */
int net_listen_socket(const struct net_address *address);
/* `text`, or for TCP the address with the port that was picked. */
void net_listen_name(int fd, const struct net_address *address, const char *text,
		     char buf[ADDRESS_TEXT_BYTES]);
/* The socket file that we made, so that nobody else's is unlinked. */
struct listen_path {
	bool is_unix;
	dev_t dev;
	ino_t ino;
};
void listen_path_note(struct listen_path *path, const struct net_address *address);
/* address_text: "unix:/path". */
void listen_path_unlink(const struct listen_path *path, const char *address_text);
/* At loop_destroy(): frees listeners whose accept will not come back any more. */
void listeners_free(struct loop *loop);

#endif
