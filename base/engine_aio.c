/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine for where io_uring is refused: libaio for disks, epoll for sockets.
 *
 * R1 Descriptors are non-blocking and registered once, edge-triggered, for input and output. An
 *    operation is tried when its direction may be ready, and parked on its net_file when the
 *    kernel says EAGAIN; the next edge makes it ready again. in_ready/out_ready say that no
 *    EAGAIN came since the last edge.
 * R2 Events only move operations to the ready list; callbacks run after the whole batch of events
 *    is read, so no event points to something that a callback freed.
 * R3 Disk operations use a fixed pool of iocbs, one io_submit per turn; what finds no iocb waits
 *    on a list, in order. Completions come through an eventfd in the same epoll.
 * R4 A submission that the kernel refuses completes with that error, in the same turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/loop_int.h"

#define IOCB_COUNT  1024
#define EVENT_BATCH 64

struct aio {
	io_context_t context;
	int epoll_fd;
	int event_fd;            /* completions */
	bool events_left;        /* the last batch of completions was full */
	struct list ready;       /* net_op.link: to be tried */
	struct list ios_waiting; /* env_io.link */
	uint32_t free_count;
	struct iocb *free_iocbs[IOCB_COUNT];
	struct iocb iocbs[IOCB_COUNT];
};

static struct aio *aio_of(struct loop *loop)
{
	return loop->engine;
}

/* ---- life ---- */

static void aio_destroy(struct loop *loop)
{
	struct aio *a = aio_of(loop);
	if (a->context)
		io_destroy(a->context);
	if (a->epoll_fd >= 0)
		close(a->epoll_fd);
	if (a->event_fd >= 0)
		close(a->event_fd);
	free(a);
	loop->engine = NULL;
}

static int aio_create(struct loop *loop, struct err *err)
{
	struct aio *a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(err, -ENOMEM, "libaio: out of memory");
	a->epoll_fd = -1;
	a->event_fd = -1;
	list_init(&a->ready);
	list_init(&a->ios_waiting);
	for (uint32_t i = 0; i < IOCB_COUNT; i++)
		a->free_iocbs[a->free_count++] = &a->iocbs[i];
	loop->engine = a;
	int rc = io_setup(IOCB_COUNT, &a->context);
	if (rc == -EAGAIN)
		return err_set(err, rc,
			       "io_setup: %d more events are above the limit in fs.aio-max-nr",
			       IOCB_COUNT);
	if (rc < 0)
		return err_set(err, rc, "io_setup: %s", strerror(-rc));
	a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	a->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (a->epoll_fd < 0 || a->event_fd < 0)
		return err_set(err, -errno, "epoll: %s", strerror(errno));
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
	if (epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, a->event_fd, &event) < 0)
		return err_set(err, -errno, "epoll: %s", strerror(errno));
	return 0;
}

/* ---- net operations ---- */

static int aio_file_add(struct loop *loop, struct net_file *file)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				    .data.ptr = file};
	int flags = fcntl(file->fd, F_GETFL);
	if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	file->in = NULL;
	file->out = NULL;
	file->in_ready = true;
	file->out_ready = true;
	file->hung_up = false;
	if (epoll_ctl(aio_of(loop)->epoll_fd, EPOLL_CTL_ADD, file->fd, &event) < 0)
		return -errno;
	return 0;
}

static void aio_file_remove(struct loop *loop, struct net_file *file)
{
	(void)epoll_ctl(aio_of(loop)->epoll_fd, EPOLL_CTL_DEL, file->fd, NULL); /* then closed */
}

static bool op_is_input(const struct net_op *op)
{
	return op->kind <= NET_RECV;
}

static struct net_op **op_parking(struct net_op *op)
{
	return op_is_input(op) ? &op->file->in : &op->file->out;
}

static void aio_op_submit(struct loop *loop, struct net_op *op)
{
	bool ready = op_is_input(op) ? op->file->in_ready : op->file->out_ready;
	if (ready || op->kind == NET_CONNECT)
		list_push_back(&aio_of(loop)->ready, &op->link);
	else
		*op_parking(op) = op;
}

static void aio_op_cancel(struct loop *loop, struct net_op *op)
{
	op->cancel = true;
	if (*op_parking(op) == op)
		*op_parking(op) = NULL;
	if (!list_linked(&op->link))
		list_push_back(&aio_of(loop)->ready, &op->link);
}

static int connect_try(struct net_op *op)
{
	int fd = op->file->fd;
	if (!op->submitted) {
		op->submitted = true;
		if (connect(fd, op->address, op->address_bytes) == 0)
			return 0;
		/* A unix socket's EAGAIN is a full backlog, of which no event tells the end. */
		return errno == EINPROGRESS ? -EINPROGRESS
		       : errno == EAGAIN    ? -ECONNREFUSED
					    : -errno;
	}
	int code = 0;
	socklen_t code_bytes = sizeof(code);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &code_bytes) < 0)
		return -errno;
	if (code != 0)
		return -code;
	/* Spurious edges come before the answer: connected is what has a peer. */
	struct sockaddr_storage peer;
	socklen_t peer_bytes = sizeof(peer);
	if (getpeername(fd, (struct sockaddr *)&peer, &peer_bytes) < 0)
		return errno == ENOTCONN ? -EINPROGRESS : -errno;
	return 0;
}

static int op_try(struct net_op *op)
{
	int fd = op->file->fd;
	ssize_t n = 0;
	switch (op->kind) {
	case NET_POLL_IN: {
		struct pollfd wanted = {.fd = fd, .events = POLLIN};
		int count = poll(&wanted, 1, 0);
		return count > 0 ? 0 : count == 0 ? -EAGAIN : -errno;
	}
	case NET_ACCEPT:
		n = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case NET_RECV:
		n = recv(fd, op->buf, op->buf_bytes, 0);
		/* The socket was emptied: another try now would only say EAGAIN. */
		if (n > 0 && (size_t)n < op->buf_bytes && !op->file->hung_up)
			op->file->in_ready = false;
		break;
	case NET_CONNECT:
		return connect_try(op);
	case NET_SEND:
		n = sendmsg(fd, op->msg, MSG_NOSIGNAL);
		break;
	}
	return n < 0 ? -errno : (int)n;
}

static void op_run(struct aio *a, struct net_op *op)
{
	if (op->cancel) {
		net_op_finish(op, -ECANCELED);
		return;
	}
	int result = op_try(op);
	if (result == -EINTR) {
		list_push_back(&a->ready, &op->link);
	} else if (result == -EAGAIN || result == -EINPROGRESS) {
		if (op_is_input(op))
			op->file->in_ready = false;
		else
			op->file->out_ready = false;
		*op_parking(op) = op;
	} else {
		net_op_finish(op, result);
	}
}

static void file_event(struct aio *a, struct net_file *file, uint32_t events)
{
	/* EPOLLHUP alone is a socket that is not connected yet. */
	if (events & (EPOLLRDHUP | EPOLLERR))
		file->hung_up = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		file->in_ready = true;
		if (file->in)
			list_push_back(&a->ready, &take(file->in)->link);
	}
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		file->out_ready = true;
		if (file->out)
			list_push_back(&a->ready, &take(file->out)->link);
	}
}

/* ---- disks ---- */

static void aio_disk_add(struct loop *loop, struct env_disk *disk)
{
	(void)loop;
	(void)disk;
}

static void aio_disk_remove(struct loop *loop, struct env_disk *disk)
{
	(void)loop;
	(void)disk;
}

static void aio_buf_add(struct loop *loop, void *buf, size_t bytes)
{
	(void)loop;
	(void)buf;
	(void)bytes;
}

static void aio_buf_remove(struct loop *loop, void *buf, size_t bytes)
{
	(void)loop;
	(void)buf;
	(void)bytes;
}

static void aio_io_submit(struct loop *loop, struct env_io *io)
{
	list_push_back(&aio_of(loop)->ios_waiting, &io->link);
}

static void iocb_prepare(struct aio *a, struct iocb *iocb, struct env_io *io)
{
	const struct iovec *iov;
	uint64_t offset;
	int fd = io->disk->fd;
	if (io->op == ENV_IO_FLUSH) {
		io_prep_fdsync(iocb, fd);
	} else {
		uint32_t count = io_vector(io, &iov, &offset);
		if (io->op == ENV_IO_READ)
			io_prep_preadv(iocb, fd, iov, (int)count, (long long)offset);
		else
			io_prep_pwritev(iocb, fd, iov, (int)count, (long long)offset);
		if (io->op == ENV_IO_WRITE && (io->flags & ENV_IO_DSYNC))
			iocb->aio_rw_flags = RWF_DSYNC;
	}
	io_set_eventfd(iocb, a->event_fd);
	iocb->data = io;
}

static void iocb_free(struct aio *a, struct iocb *iocb)
{
	a->free_iocbs[a->free_count++] = iocb;
}

/* Submits what waits; what the kernel does not take goes after the next completions. True when
 * callbacks ran. */
static bool aio_submit_ios(struct aio *a)
{
	bool ran = false;
	while (!list_empty(&a->ios_waiting) && a->free_count > 0) {
		struct iocb *batch[EVENT_BATCH];
		struct env_io *ios[EVENT_BATCH];
		long count = 0;
		while (count < EVENT_BATCH && a->free_count > 0 && !list_empty(&a->ios_waiting)) {
			ios[count] =
				CONTAINER_OF(list_pop_front(&a->ios_waiting), struct env_io, link);
			batch[count] = a->free_iocbs[--a->free_count];
			iocb_prepare(a, batch[count], ios[count]);
			count++;
		}
		int rc = io_submit(a->context, count, batch);
		long taken = rc > 0 ? rc : 0;
		for (long i = count - 1; i >= taken; i--) {
			iocb_free(a, batch[i]);
			list_push_front(&a->ios_waiting, &ios[i]->link);
		}
		if (rc == -EAGAIN && a->free_count < IOCB_COUNT)
			break;
		if (rc < 0 && rc != -EINTR) {
			list_remove(&ios[0]->link); /* R4 */
			io_complete(ios[0], rc);
			ran = true;
		}
	}
	return ran;
}

static void aio_reap(struct aio *a)
{
	struct io_event events[EVENT_BATCH];
	struct timespec zero = {0};
	int count = io_getevents(a->context, 0, EVENT_BATCH, events, &zero);
	if (count == -EINTR)
		count = 0;
	else
		a->events_left = count == EVENT_BATCH;
	if (count < 0)
		loop_die("io_getevents", count);
	for (int i = 0; i < count; i++) {
		struct env_io *io = events[i].data;
		iocb_free(a, events[i].obj);
		io_complete(io, (int64_t)events[i].res);
	}
}

/* ---- turns ---- */

static int aio_wait(struct aio *a, struct epoll_event *events, bool may_sleep)
{
	int count = epoll_wait(a->epoll_fd, events, EVENT_BATCH, may_sleep ? -1 : 0);
	if (count < 0 && errno != EINTR)
		loop_die("epoll_wait", -errno);
	return MAX(count, 0);
}

static void aio_turn(struct loop *loop, bool may_sleep)
{
	struct aio *a = aio_of(loop);
	struct epoll_event events[EVENT_BATCH];
	struct list ready = LIST_INIT(ready);
	if (aio_submit_ios(a) || !list_empty(&a->ready) || a->events_left)
		may_sleep = false; /* callbacks may have asked for anything */
	int count = aio_wait(a, events, may_sleep);
	for (int i = 0; i < count; i++) {
		if (events[i].data.ptr)
			file_event(a, events[i].data.ptr, events[i].events);
		else
			a->events_left = true;
	}
	if (a->events_left)
		aio_reap(a);
	list_splice_back(&ready, &a->ready);
	struct list *node;
	while ((node = list_pop_front(&ready)))
		op_run(a, CONTAINER_OF(node, struct net_op, link));
}

/* R3: one io_submit per turn; sockets are tried in the turn, too. */
static void aio_submit_now(struct loop *loop)
{
	(void)loop;
}

const struct engine_ops engine_aio = {
	.name = "libaio",
	.create = aio_create,
	.destroy = aio_destroy,
	.turn = aio_turn,
	.submit_now = aio_submit_now,
	.file_add = aio_file_add,
	.file_remove = aio_file_remove,
	.op_submit = aio_op_submit,
	.op_cancel = aio_op_cancel,
	.disk_add = aio_disk_add,
	.disk_remove = aio_disk_remove,
	.io_submit = aio_io_submit,
	.buf_add = aio_buf_add,
	.buf_remove = aio_buf_remove,
};
