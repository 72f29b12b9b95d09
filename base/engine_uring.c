/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The io_uring engine: one ring per loop.
 *
 * Operations become entries of the submission queue as they are asked for; one io_uring_enter
 * per turn submits them all and sleeps. A full queue is submitted on the spot; should the kernel
 * not take it, operations wait on a list and go first in the next turn.
 *
 * R1 user_data is a net_op (low bit 0), an env_io (low bit 1), or 0 for answers nobody waits for.
 *    Each entry gives one completion, and each completion is dispatched once.
 * R2 The ring is created disabled and enabled by the first turn, whose thread becomes the single
 *    issuer. Entries may be prepared before that, not submitted.
 * R3 Registration (files, buffers) is an optimisation: where it is refused, the plain form of the
 *    operation is used.
 * R4 Buffers are matched whole: a single iovec inside one registered piece goes fixed; any other
 *    goes plain. A piece has at most 1 GiB, the kernel's limit.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/loop_int.h"

#define SQ_ENTRIES      512
#define CQ_ENTRIES      4096
#define FILE_SLOTS      64
#define BUF_SLOTS       64
#define BUF_PIECE_BYTES ((size_t)1 << 30)
#define TAG_IO          1u

struct buf_piece {
	char *start;
	size_t bytes; /* 0: the slot is free */
};

struct uring {
	struct io_uring ring;
	bool enabled;
	bool files_registered;
	bool bufs_registered;
	bool file_used[FILE_SLOTS];
	struct buf_piece bufs[BUF_SLOTS];
	uint32_t buf_last;       /* where the last match was */
	struct list ops_waiting; /* net_op.link: no entry was free */
	struct list ios_waiting; /* env_io.link */
};

static struct uring *uring_of(struct loop *loop)
{
	return loop->engine;
}

/* ---- life ---- */

static int uring_setup(struct io_uring *ring)
{
	static const unsigned flag_sets[] = {
		IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN |
			IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_R_DISABLED,
	};
	int rc = -EINVAL;
	for (size_t i = 0; i < ARRAY_LEN(flag_sets) && rc == -EINVAL; i++) {
		struct io_uring_params params = {.flags = flag_sets[i] | IORING_SETUP_CQSIZE,
						 .cq_entries = CQ_ENTRIES};
		rc = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
	}
	return rc;
}

static int uring_create(struct loop *loop, struct err *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	if (!u)
		return err_set(err, -ENOMEM, "io_uring: out of memory");
	int rc = uring_setup(&u->ring);
	if (rc < 0) {
		free(u);
		return err_set(err, rc, "io_uring is refused: %s", strerror(-rc));
	}
	const unsigned need = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
	if ((u->ring.features & need) != need) {
		io_uring_queue_exit(&u->ring);
		free(u);
		return err_set(err, -ENOTSUP,
			       "io_uring of this kernel is too old (Linux 5.5 needed)");
	}
	(void)io_uring_ring_dontfork(&u->ring);
	u->files_registered = io_uring_register_files_sparse(&u->ring, FILE_SLOTS) == 0;
	u->bufs_registered = io_uring_register_buffers_sparse(&u->ring, BUF_SLOTS) == 0;
	list_init(&u->ops_waiting);
	list_init(&u->ios_waiting);
	loop->engine = u;
	return 0;
}

static void uring_destroy(struct loop *loop)
{
	struct uring *u = uring_of(loop);
	io_uring_queue_exit(&u->ring);
	free(u);
	loop->engine = NULL;
}

static void uring_enable(struct uring *u)
{
	if (u->enabled)
		return;
	/* liburing 2.3 declares io_uring_enable_rings() and does not export it. */
	if (syscall(__NR_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
		    0) < 0)
		loop_die("io_uring_register", -errno);
	u->enabled = true;
}

static void uring_submit_now(struct loop *loop)
{
	struct uring *u = uring_of(loop);
	if (u->enabled)
		(void)io_uring_submit(&u->ring); /* what it does not take stays queued */
}

/* A free entry, or NULL when the queue is full and cannot be submitted now. */
static struct io_uring_sqe *uring_sqe(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	if (sqe || !u->enabled)
		return sqe;
	(void)io_uring_submit(&u->ring);
	return io_uring_get_sqe(&u->ring);
}

/* ---- net operations ---- */

static void op_prepare(struct io_uring_sqe *sqe, struct net_op *op)
{
	int fd = op->file->fd;
	switch (op->kind) {
	case NET_POLL_IN:
		io_uring_prep_poll_add(sqe, fd, POLLIN);
		break;
	case NET_ACCEPT:
		io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case NET_RECV:
		io_uring_prep_recv(sqe, fd, op->buf, op->buf_bytes, 0);
		break;
	case NET_CONNECT:
		io_uring_prep_connect(sqe, fd, op->address, op->address_bytes);
		break;
	case NET_SEND:
		io_uring_prep_sendmsg(sqe, fd, op->msg, MSG_NOSIGNAL);
		break;
	}
	io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)op);
	op->submitted = true;
}

/* op is linked: an operation or a cancellation that found no entry. False: again no entry. */
static bool op_retry(struct uring *u, struct net_op *op)
{
	if (op->cancel && !op->submitted) {
		list_remove(&op->link);
		net_op_finish(op, -ECANCELED);
		return true;
	}
	struct io_uring_sqe *sqe = uring_sqe(u);
	if (!sqe)
		return false;
	list_remove(&op->link);
	if (op->submitted) {
		io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)op, 0);
		io_uring_sqe_set_data64(sqe, 0);
	} else {
		op_prepare(sqe, op);
	}
	return true;
}

static void uring_op_submit(struct loop *loop, struct net_op *op)
{
	struct uring *u = uring_of(loop);
	struct io_uring_sqe *sqe = list_empty(&u->ops_waiting) ? uring_sqe(u) : NULL;
	if (sqe)
		op_prepare(sqe, op);
	else
		list_push_back(&u->ops_waiting, &op->link);
}

static void uring_op_cancel(struct loop *loop, struct net_op *op)
{
	struct uring *u = uring_of(loop);
	op->cancel = true;
	/* Never finished here: the caller's callback must not run inside its own call. */
	if (!list_linked(&op->link))
		list_push_back(&u->ops_waiting, &op->link);
}

static int uring_file_add(struct loop *loop, struct net_file *file)
{
	(void)loop;
	(void)file;
	return 0;
}

static void uring_file_remove(struct loop *loop, struct net_file *file)
{
	(void)loop;
	(void)file;
}

/* ---- disks and buffers ---- */

static void uring_disk_add(struct loop *loop, struct env_disk *disk)
{
	struct uring *u = uring_of(loop);
	for (int i = 0; u->files_registered && i < FILE_SLOTS; i++) {
		if (u->file_used[i])
			continue;
		if (io_uring_register_files_update(&u->ring, (unsigned)i, &disk->fd, 1) == 1) {
			u->file_used[i] = true;
			disk->slot = i;
		}
		return;
	}
}

static void uring_disk_remove(struct loop *loop, struct env_disk *disk)
{
	struct uring *u = uring_of(loop);
	int none = -1;
	if (disk->slot < 0)
		return;
	/* Kept in the table, the file would stay open and its lock held. */
	int rc = io_uring_register_files_update(&u->ring, (unsigned)disk->slot, &none, 1);
	if (rc != 1)
		loop_die("io_uring_register_files_update", rc);
	u->file_used[disk->slot] = false;
	disk->slot = -1;
}

static void uring_buf_add(struct loop *loop, void *buf, size_t bytes)
{
	struct uring *u = uring_of(loop);
	char *start = buf;
	for (unsigned i = 0; u->bufs_registered && i < BUF_SLOTS && bytes > 0; i++) {
		if (u->bufs[i].bytes > 0)
			continue;
		struct iovec iov = {start, MIN(bytes, BUF_PIECE_BYTES)};
		if (io_uring_register_buffers_update_tag(&u->ring, i, &iov, NULL, 1) != 1)
			return; /* R3: above the memlock limit, most likely */
		u->bufs[i] = (struct buf_piece){start, iov.iov_len};
		start += iov.iov_len;
		bytes -= iov.iov_len;
	}
}

static void uring_buf_remove(struct loop *loop, void *buf, size_t bytes)
{
	struct uring *u = uring_of(loop);
	char *start = buf;
	for (unsigned i = 0; i < BUF_SLOTS; i++) {
		struct buf_piece *piece = &u->bufs[i];
		if (piece->bytes == 0 || piece->start < start || piece->start >= start + bytes)
			continue;
		struct iovec none = {0};
		int rc = io_uring_register_buffers_update_tag(&u->ring, i, &none, NULL, 1);
		if (rc != 1) /* the pages would stay pinned, and a new mapping here go wrong */
			loop_die("io_uring_register_buffers_update", rc);
		*piece = (struct buf_piece){0};
	}
}

/* R4: the slot that holds all of iov, or -1. */
static int buf_slot(struct uring *u, const struct iovec *iov)
{
	const char *start = iov->iov_base;
	for (uint32_t n = 0; n < BUF_SLOTS; n++) {
		uint32_t i = (u->buf_last + n) % BUF_SLOTS;
		const struct buf_piece *piece = &u->bufs[i];
		if (piece->bytes == 0 || start < piece->start || iov->iov_len > piece->bytes ||
		    (size_t)(start - piece->start) > piece->bytes - iov->iov_len)
			continue;
		u->buf_last = i;
		return (int)i;
	}
	return -1;
}

static void io_prepare_rw(struct loop *loop, struct io_uring_sqe *sqe, struct env_io *io)
{
	const struct iovec *iov;
	uint64_t offset;
	uint32_t count = io_vector(io, &iov, &offset);
	int fd = io->disk->fd;
	bool read = io->op == ENV_IO_READ;
	int slot = count == 1 ? buf_slot(uring_of(loop), iov) : -1;
	unsigned length = count == 1 ? (unsigned)MIN(iov->iov_len, BUF_PIECE_BYTES) : 0;
	if (slot >= 0 && read)
		io_uring_prep_read_fixed(sqe, fd, iov->iov_base, length, offset, slot);
	else if (slot >= 0)
		io_uring_prep_write_fixed(sqe, fd, iov->iov_base, length, offset, slot);
	else if (count == 1 && read)
		io_uring_prep_read(sqe, fd, iov->iov_base, length, offset);
	else if (count == 1)
		io_uring_prep_write(sqe, fd, iov->iov_base, length, offset);
	else if (read)
		io_uring_prep_readv(sqe, fd, iov, count, offset);
	else
		io_uring_prep_writev(sqe, fd, iov, count, offset);
	if (!read && (io->flags & ENV_IO_DSYNC))
		sqe->rw_flags = RWF_DSYNC;
	loop->fixed_io_count += slot >= 0;
}

static bool io_try(struct loop *loop, struct env_io *io)
{
	struct io_uring_sqe *sqe = uring_sqe(uring_of(loop));
	if (!sqe)
		return false;
	if (io->op == ENV_IO_FLUSH)
		io_uring_prep_fsync(sqe, io->disk->fd, IORING_FSYNC_DATASYNC);
	else
		io_prepare_rw(loop, sqe, io);
	if (io->disk->slot >= 0) {
		sqe->fd = io->disk->slot;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)io | TAG_IO);
	return true;
}

static void uring_io_submit(struct loop *loop, struct env_io *io)
{
	struct uring *u = uring_of(loop);
	if (!list_empty(&u->ios_waiting) || !io_try(loop, io))
		list_push_back(&u->ios_waiting, &io->link);
	else if (io_uring_sq_ready(&u->ring) >= LOOP_EAGER)
		uring_submit_now(loop);
}

/* ---- turns ---- */

/* Gives entries to what waits. True when callbacks of cancelled operations may
 * have run or something still waits: then the turn must not sleep. */
static bool uring_retry(struct loop *loop)
{
	struct uring *u = uring_of(loop);
	struct list ops = LIST_INIT(ops);
	bool busy = !list_empty(&u->ops_waiting);
	list_splice_back(&ops, &u->ops_waiting);
	while (!list_empty(&ops)) {
		if (!op_retry(u, CONTAINER_OF(ops.next, struct net_op, link))) {
			list_splice_back(&ops, &u->ops_waiting); /* the older go first */
			list_splice_back(&u->ops_waiting, &ops);
			break;
		}
	}
	while (!list_empty(&u->ios_waiting)) {
		struct env_io *io = CONTAINER_OF(u->ios_waiting.next, struct env_io, link);
		if (!io_try(loop, io))
			return true;
		list_remove(&io->link);
	}
	return busy;
}

static void uring_enter(struct uring *u, bool may_sleep)
{
	int rc = may_sleep ? io_uring_submit_and_wait(&u->ring, 1)
			   : io_uring_submit_and_get_events(&u->ring);
	/* EBUSY, EAGAIN: the kernel wants completions taken first, which is what comes next. */
	if (rc < 0 && rc != -EINTR && rc != -EBUSY && rc != -EAGAIN)
		loop_die("io_uring_enter", rc);
}

static void uring_dispatch(uint64_t user_data, int result)
{
	if (user_data == 0)
		return;
	if (user_data & TAG_IO) {
		io_complete((struct env_io *)(uintptr_t)(user_data & ~(uint64_t)TAG_IO), result);
		return;
	}
	struct net_op *op = (struct net_op *)(uintptr_t)user_data;
	list_remove(&op->link); /* a cancellation that is not needed any more */
	net_op_finish(op, result);
}

static void uring_turn(struct loop *loop, bool may_sleep)
{
	struct uring *u = uring_of(loop);
	uring_enable(u);
	uring_enter(u, !uring_retry(loop) && may_sleep);
	for (int i = 0; i < LOOP_BATCH; i++) {
		struct io_uring_cqe *cqe;
		if (io_uring_peek_cqe(&u->ring, &cqe) < 0)
			break;
		uint64_t user_data = cqe->user_data;
		int result = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		uring_dispatch(user_data, result);
	}
}

const struct engine_ops engine_uring = {
	.name = "io_uring",
	.create = uring_create,
	.destroy = uring_destroy,
	.turn = uring_turn,
	.submit_now = uring_submit_now,
	.file_add = uring_file_add,
	.file_remove = uring_file_remove,
	.op_submit = uring_op_submit,
	.op_cancel = uring_op_cancel,
	.disk_add = uring_disk_add,
	.disk_remove = uring_disk_remove,
	.io_submit = uring_io_submit,
	.buf_add = uring_buf_add,
	.buf_remove = uring_buf_remove,
};
