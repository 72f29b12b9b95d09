/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks of the production loop: opening, checking, completing; and I/O memory.
 *
 * R1 One process at a time writes a disk: an exclusive flock on it, and O_EXCL for a block device
 *    (which refuses a mounted one). Readers share.
 * R2 A transfer that the kernel cut short is continued from the last whole block, one iovec at a
 *    time; one that makes no progress is -EIO. done() sees all or an error, never a part.
 * R3 Nothing reaches past size_bytes: such an operation is refused before the kernel sees it.
 * R4 A closing disk waits for every operation the kernel has, because the kernel owns their
 *    memory; they report -ECANCELED, since nobody can say any more what they did.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop_int.h"

/* ---- opening ---- */

static int disk_open_existing(const char *path, uint32_t flags, struct err *err)
{
	struct stat st;
	bool read_only = flags & ENV_DISK_RDONLY;
	int mode = (read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC;
	if (stat(path, &st) < 0)
		return err_set(err, -errno, "disk '%s': %s", path, strerror(errno));
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL,
			       "disk '%s' is neither a block device nor a regular file", path);
	if (S_ISBLK(st.st_mode) && !read_only)
		mode |= O_EXCL;
	int fd = open(path, mode);
	if (fd >= 0)
		return fd;
	if (errno == EBUSY)
		return err_set(err, -EBUSY,
			       "disk '%s' is in use: it is mounted, or another process or device "
			       "holds it",
			       path);
	if (errno == EINVAL)
		return err_set(err, -ENOTSUP, "disk '%s': its file system refuses O_DIRECT", path);
	return err_set(err, -errno, "disk '%s': %s", path, strerror(errno));
}

/* Makes the new directory entry durable. */
static int disk_sync_parent(const char *path)
{
	char copy[4096];
	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return -ENAMETOOLONG;
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

/* The descriptor, -EEXIST when there is something already, or -errno. */
static int disk_create_file(const char *path, uint64_t create_bytes, struct err *err)
{
	if (create_bytes < BLOCK_BYTES || create_bytes % BLOCK_BYTES || create_bytes > INT64_MAX)
		return err_set(err, -EINVAL,
			       "disk '%s': size %llu bytes is not a positive multiple of %u", path,
			       (unsigned long long)create_bytes, BLOCK_BYTES);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		return -EEXIST;
	int rc = fd < 0 ? -errno : 0;
	if (rc == 0 && (flock(fd, LOCK_EX | LOCK_NB) < 0 ||
			ftruncate(fd, (off_t)create_bytes) < 0 || fsync(fd) < 0))
		rc = -errno;
	if (rc == 0)
		rc = disk_sync_parent(path);
	if (rc == 0)
		return fd;
	if (fd >= 0) {
		(void)unlink(path); /* ours, and not usable */
		close(fd);
	}
	if (rc == -EINVAL) {
		(void)unlink(path); /* open made it before it refused O_DIRECT */
		return err_set(err, -ENOTSUP, "disk '%s': its file system refuses O_DIRECT", path);
	}
	return err_set(err, rc, "disk '%s': create with %llu bytes: %s", path,
		       (unsigned long long)create_bytes, strerror(-rc));
}

static int disk_lock(int fd, const char *path, bool read_only, struct err *err)
{
	if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return err_set(err, -errno, "disk '%s': lock: %s", path, strerror(errno));
	return err_set(err, -EBUSY, "disk '%s' is locked by another process%s", path,
		       read_only ? " that writes it" : "");
}

static int disk_measure(int fd, const char *path, struct env_disk_info *ret, struct err *err)
{
	struct stat st;
	uint64_t size_bytes;
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "disk '%s': %s", path, strerror(errno));
	size_bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode)) {
		int sector_bytes = 0;
		if (ioctl(fd, BLKGETSIZE64, &size_bytes) < 0 ||
		    ioctl(fd, BLKSSZGET, &sector_bytes) < 0)
			return err_set(err, -errno, "disk '%s': size: %s", path, strerror(errno));
		if (sector_bytes > (int)BLOCK_BYTES)
			return err_set(err, -ENOTSUP,
				       "disk '%s': its sectors have %d bytes, the limit is %u",
				       path, sector_bytes, BLOCK_BYTES);
	}
	if (size_bytes < BLOCK_BYTES)
		return err_set(err, -EINVAL, "disk '%s': %llu bytes are less than one block of %u",
			       path, (unsigned long long)size_bytes, BLOCK_BYTES);
	*ret = (struct env_disk_info){
		.size_bytes = size_bytes - size_bytes % BLOCK_BYTES,
		.is_block_device = S_ISBLK(st.st_mode),
		.is_file_sparse_capable = S_ISREG(st.st_mode),
	};
	return 0;
}

static void disk_settle(struct defer *defer);

int disk_open(struct env *env, const char *path, uint32_t flags, uint64_t create_bytes,
	      struct env_disk **ret, struct err *err)
{
	struct loop *loop = loop_of(env);
	bool read_only = flags & ENV_DISK_RDONLY;
	assert(!(read_only && (flags & ENV_DISK_CREATE)));
	int fd = -EEXIST;
	struct env_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return err_set(err, -ENOMEM, "disk '%s': out of memory", path);
	if ((flags & ENV_DISK_CREATE) && access(path, F_OK) < 0 && errno == ENOENT)
		fd = disk_create_file(path, create_bytes, err);
	if (fd == -EEXIST)
		fd = disk_open_existing(path, flags, err);
	int rc = fd < 0 ? fd : disk_lock(fd, path, read_only, err);
	if (rc == 0)
		rc = disk_measure(fd, path, &disk->info, err);
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		free(disk);
		return rc;
	}
	disk->loop = loop;
	disk->fd = fd;
	disk->slot = -1;
	disk->read_only = read_only;
	disk->defer.run = disk_settle;
	list_init(&disk->refused);
	loop->engine_ops->disk_add(loop, disk);
	loop->disk_count++;
	*ret = disk;
	return 0;
}

void disk_info(struct env_disk *disk, struct env_disk_info *ret)
{
	*ret = disk->info;
}

/* ---- operations ---- */

static int disk_check(const struct env_disk *disk, const struct env_io *io)
{
	if (io->op == ENV_IO_FLUSH)
		return 0;
	if (io->op == ENV_IO_WRITE && disk->read_only)
		return -EBADF;
	if (io->offset_bytes > disk->info.size_bytes ||
	    io->length_bytes > disk->info.size_bytes - io->offset_bytes)
		return -EIO;
	return 0;
}

static void io_measure(struct env_io *io)
{
	io->length_bytes = 0;
	if (io->op == ENV_IO_FLUSH)
		return;
	assert(io->iov_count >= 1 && io->iov_count <= ENV_IO_IOV_MAX);
	assert(io->offset_bytes % BLOCK_BYTES == 0);
	for (uint32_t i = 0; i < io->iov_count; i++) {
		assert((uintptr_t)io->iov[i].iov_base % BLOCK_BYTES == 0);
		assert(io->iov[i].iov_len % BLOCK_BYTES == 0);
		io->length_bytes += io->iov[i].iov_len;
	}
	assert(io->length_bytes > 0);
}

void disk_submit(struct env_disk *disk, struct env_io *io)
{
	assert(!disk->closing);
	io->disk = disk;
	io_measure(io);
	*io_state(io) = (struct io_state){.status = disk_check(disk, io)};
	disk->inflight++;
	if (io_state(io)->status == 0) {
		disk->loop->engine_ops->io_submit(disk->loop, io);
		return;
	}
	list_push_back(&disk->refused, &io->link);
	loop_defer(disk->loop, &disk->defer);
}

static void io_finish(struct env_io *io, int status)
{
	struct env_disk *disk = io->disk;
	assert(disk->inflight > 0);
	disk->inflight--;
	if (disk->closing) {
		status = -ECANCELED;
		loop_defer(disk->loop, &disk->defer);
	}
	io->done(io, status);
}

/* R2: the rest of the iovec that holds the first byte that is not done. */
static struct iovec io_rest(const struct env_io *io, uint64_t done_bytes)
{
	uint32_t i = 0;
	while (done_bytes >= io->iov[i].iov_len)
		done_bytes -= io->iov[i++].iov_len;
	return (struct iovec){(char *)io->iov[i].iov_base + done_bytes,
			      io->iov[i].iov_len - done_bytes};
}

void io_complete(struct env_io *io, int64_t result)
{
	if (result < 0) {
		io_finish(io, (int)result);
		return;
	}
	struct io_state *state = io_state(io);
	uint64_t progress = (uint64_t)result - (uint64_t)result % BLOCK_BYTES;
	if (io->op == ENV_IO_FLUSH || progress == io->length_bytes - state->done_bytes) {
		io_finish(io, 0);
		return;
	}
	if (progress == 0 || progress > io->length_bytes - state->done_bytes) {
		io_finish(io, -EIO);
		return;
	}
	state->done_bytes += progress;
	state->rest = io_rest(io, state->done_bytes);
	io->disk->loop->engine_ops->io_submit(io->disk->loop, io);
}

/* Deferred: completes refused operations; ends a closing disk once the kernel holds nothing. */
static void disk_settle(struct defer *defer)
{
	struct env_disk *disk = CONTAINER_OF(defer, struct env_disk, defer);
	struct list refused = LIST_INIT(refused);
	list_splice_back(&refused, &disk->refused);
	struct list *node;
	while ((node = list_pop_front(&refused))) {
		struct env_io *io = CONTAINER_OF(node, struct env_io, link);
		io_finish(io, (int)io_state(io)->status);
	}
	if (!disk->closing || disk->inflight > 0)
		return;
	struct loop *loop = disk->loop;
	struct env_close *done = disk->close;
	list_remove(&disk->defer.link);
	loop->engine_ops->disk_remove(loop, disk);
	close(disk->fd);
	free(disk);
	loop->disk_count--;
	done->done(done);
}

void disk_close(struct env_disk *disk, struct env_close *done)
{
	assert(!disk->closing);
	disk->closing = true;
	disk->close = done;
	loop_defer(disk->loop, &disk->defer);
}

/* ---- memory ---- */

void *loop_buf_alloc(struct env *env, size_t bytes)
{
	struct loop *loop = loop_of(env);
	assert(bytes > 0);
	size_t map_bytes = ALIGN_UP(bytes, (size_t)BLOCK_BYTES);
	void *buf = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buf == MAP_FAILED)
		return NULL;
	loop->engine_ops->buf_add(loop, buf, map_bytes);
	return buf;
}

void loop_buf_free(struct env *env, void *buf, size_t bytes)
{
	if (!buf)
		return;
	struct loop *loop = loop_of(env);
	size_t map_bytes = ALIGN_UP(bytes, (size_t)BLOCK_BYTES);
	loop->engine_ops->buf_remove(loop, buf, map_bytes);
	munmap(buf, map_bytes);
}
