/* SPDX-License-Identifier: Apache-2.0 */
/* Disks on both engines: what is written is read, what cannot be is refused, locks, closing. */
#include "tests/unit/base_loop.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/co.h"
#include "base/loop_int.h"

struct op {
	struct env_io io;
	struct iovec iov[4];
	int status;
	bool done;
};

static void op_done(struct env_io *io, int status)
{
	struct op *op = CONTAINER_OF(io, struct op, io);
	CHECK(!op->done);
	op->status = status;
	op->done = true;
}

static void op_start(struct world *w, struct env_disk *disk, struct op *op)
{
	op->done = false;
	op->io.done = op_done;
	if (!op->io.iov)
		op->io.iov = op->iov;
	env_disk_submit(w->env, disk, &op->io);
	CHECK(!op->done); /* E2 */
}

static int op_run(struct world *w, struct env_disk *disk, enum env_io_op kind,
		  uint64_t offset_bytes, void *buf, size_t bytes, uint32_t flags)
{
	struct op op = {.io = {.op = kind, .flags = flags, .offset_bytes = offset_bytes}};
	op.iov[0] = (struct iovec){buf, bytes};
	op.io.iov_count = kind == ENV_IO_FLUSH ? 0 : 1;
	op_start(w, disk, &op);
	world_wait(w, &op.done);
	return op.status;
}

static struct env_disk *disk_make(struct world *w, uint64_t bytes)
{
	char path[128];
	struct err err = {0};
	struct env_disk *disk = NULL;
	snprintf(path, sizeof(path), "%s/disk", w->dir);
	CHECK(env_disk_open(w->env, path, ENV_DISK_CREATE, bytes, &disk, &err) == 0, "%s",
	      err_text(&err));
	return disk;
}

LOOP_TEST(disk, reads_back_what_was_written)
{
	struct env_disk *disk = disk_make(w, 1 << 20);
	struct env_disk_info info;
	env_disk_info(w->env, disk, &info);
	CHECK_EQ(info.size_bytes, 1 << 20);
	CHECK(!info.is_block_device && info.is_file_sparse_capable);
	uint8_t *buf = aligned_alloc(4096, 65536);
	for (size_t i = 0; i < 65536; i++)
		buf[i] = (uint8_t)(i * 31 + i / 4096);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 8192, buf, 32768, 0), 0);
	CHECK_EQ(op_run(w, disk, ENV_IO_FLUSH, 0, NULL, 0, 0), 0);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 8192 + 32768, buf + 32768, 32768, ENV_IO_DSYNC), 0);
	uint8_t *back = aligned_alloc(4096, 65536);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 8192, back, 65536, 0), 0);
	CHECK(memcmp(buf, back, 65536) == 0);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 0, back, 4096, 0), 0);
	CHECK(back[0] == 0 && memcmp(back, back + 1, 4095) == 0);
	world_close_disk(w, disk);
	free(buf);
	free(back);
}

LOOP_TEST(disk, vectored_operations_keep_order)
{
	struct env_disk *disk = disk_make(w, 1 << 20);
	uint8_t *buf = aligned_alloc(4096, 32768);
	for (size_t i = 0; i < 32768; i++)
		buf[i] = (uint8_t)(i / 4096 + 1);
	struct op op = {.io = {.op = ENV_IO_WRITE, .offset_bytes = 4096, .iov_count = 3}};
	op.iov[0] = (struct iovec){buf + 8192, 4096};
	op.iov[1] = (struct iovec){buf, 8192};
	op.iov[2] = (struct iovec){buf + 28672, 4096};
	op_start(w, disk, &op);
	world_wait(w, &op.done);
	CHECK_EQ(op.status, 0);
	uint8_t *back = aligned_alloc(4096, 16384);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 4096, back, 16384, 0), 0);
	CHECK(back[0] == 3 && back[4096] == 1 && back[8192] == 2 && back[12288] == 8);
	op.io.op = ENV_IO_READ;
	op_start(w, disk, &op);
	world_wait(w, &op.done);
	CHECK_EQ(op.status, 0);
	world_close_disk(w, disk);
	free(buf);
	free(back);
}

LOOP_TEST(disk, many_more_operations_than_the_queue_holds)
{
	enum { COUNT = 3000 };
	struct env_disk *disk = disk_make(w, COUNT * 4096);
	struct op *ops = calloc(COUNT, sizeof(*ops));
	uint8_t *buf = aligned_alloc(4096, COUNT * 4096);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < COUNT; i++) {
			ops[i].io = (struct env_io){.op = round ? ENV_IO_READ : ENV_IO_WRITE,
						    .offset_bytes = (uint64_t)i * 4096,
						    .iov_count = 1};
			memset(buf + i * 4096, round ? 0 : (i % 251) + 1, 4096);
			ops[i].iov[0] = (struct iovec){buf + i * 4096, 4096};
			op_start(w, disk, &ops[i]);
		}
		for (int i = 0; i < COUNT; i++) {
			world_wait(w, &ops[i].done);
			CHECK_EQ(ops[i].status, 0);
			CHECK_EQ(buf[i * 4096], (i % 251) + 1);
		}
	}
	world_close_disk(w, disk);
	free(buf);
	free(ops);
}

LOOP_TEST(disk, past_the_end_is_eio_and_the_file_does_not_grow)
{
	struct env_disk *disk = disk_make(w, 65536);
	uint8_t *buf = aligned_alloc(4096, 8192);
	memset(buf, 1, 8192);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 65536, buf, 4096, 0), -EIO);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 65536 - 4096, buf, 8192, 0), -EIO);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 65536, buf, 4096, 0), -EIO);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, (uint64_t)-4096, buf, 8192, 0), -EIO);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 65536 - 4096, buf, 4096, 0), 0);
	world_close_disk(w, disk);
	char path[128];
	struct stat st;
	snprintf(path, sizeof(path), "%s/disk", w->dir);
	CHECK_EQ(stat(path, &st), 0);
	CHECK_EQ(st.st_size, 65536);
	CHECK_EQ(st.st_mode & 0777, 0600);
	free(buf);
}

LOOP_TEST(disk, a_transfer_cut_short_is_eio_without_progress_and_complete_otherwise)
{
	struct env_disk *disk = disk_make(w, 65536);
	char path[128];
	snprintf(path, sizeof(path), "%s/disk", w->dir);
	uint8_t *buf = aligned_alloc(4096, 65536);
	memset(buf, 7, 65536);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 0, buf, 65536, 0), 0);
	/* Somebody cuts the file behind our back: the kernel gives less than was asked for. */
	CHECK_EQ(truncate(path, 16384), 0);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 0, buf, 16384, 0), 0);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 8192, buf, 16384, 0), -EIO);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 32768, buf, 4096, 0), -EIO);
	world_close_disk(w, disk);
	free(buf);
}

/* Fails without R2 of loop_disk.c: the continuation would read the wrong place. */
LOOP_TEST(disk, the_rest_of_a_short_transfer_goes_where_it_belongs)
{
	struct env_disk *disk = disk_make(w, 65536);
	uint8_t *buf = aligned_alloc(4096, 65536);
	for (size_t i = 0; i < 65536; i++)
		buf[i] = (uint8_t)(i / 4096 + 1);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 0, buf, 65536, 0), 0);
	memset(buf, 0, 65536);
	struct op op = {.io = {.op = ENV_IO_READ, .iov_count = 2, .done = op_done}};
	op.iov[0] = (struct iovec){buf, 8192};
	op.iov[1] = (struct iovec){buf + 32768, 16384};
	op.io.iov = op.iov;
	/* As if the kernel had read 5000 bytes of 24576: from 4096 on it must be read again. */
	op.io.disk = disk;
	op.io.length_bytes = 24576;
	disk->inflight++;
	io_complete(&op.io, 5000);
	CHECK(!op.done);
	world_wait(w, &op.done);
	CHECK_EQ(op.status, 0);
	CHECK(buf[0] == 0 && buf[4096] == 2 && buf[32768] == 3 && buf[32768 + 12288] == 6);
	world_close_disk(w, disk);
	free(buf);
}

LOOP_TEST(disk, lock_is_exclusive_and_says_so)
{
	struct env_disk *disk = disk_make(w, 65536);
	char path[128];
	struct env_disk *second = NULL;
	struct err err = {0};
	snprintf(path, sizeof(path), "%s/disk", w->dir);
	CHECK_EQ(env_disk_open(w->env, path, 0, 0, &second, &err), -EBUSY);
	CHECK(strstr(err_text(&err), path) && strstr(err_text(&err), "locked by another process"),
	      "%s", err_text(&err));
	CHECK_EQ(env_disk_open(w->env, path, ENV_DISK_RDONLY, 0, &second, &err), -EBUSY);
	world_close_disk(w, disk);
	/* Released by close, also from the ring's table; readers share. */
	CHECK_EQ(env_disk_open(w->env, path, ENV_DISK_RDONLY, 0, &disk, &err), 0);
	CHECK_EQ(env_disk_open(w->env, path, ENV_DISK_RDONLY, 0, &second, &err), 0);
	uint8_t *buf = aligned_alloc(4096, 4096);
	memset(buf, 0, 4096);
	CHECK_EQ(op_run(w, second, ENV_IO_READ, 0, buf, 4096, 0), 0);
	CHECK_EQ(op_run(w, second, ENV_IO_WRITE, 0, buf, 4096, 0), -EBADF);
	world_close_disk(w, second);
	CHECK_EQ(env_disk_open(w->env, path, 0, 0, &second, &err), -EBUSY);
	world_close_disk(w, disk);
	free(buf);
}

LOOP_TEST(disk, open_refuses_with_a_sentence)
{
	struct env_disk *disk = NULL;
	struct err err = {0};
	char path[128];
	snprintf(path, sizeof(path), "%s/none", w->dir);
	CHECK_EQ(env_disk_open(w->env, path, 0, 0, &disk, &err), -ENOENT);
	CHECK(strstr(err_text(&err), path) != NULL);
	CHECK_EQ(env_disk_open(w->env, w->dir, 0, 0, &disk, &err), -EINVAL);
	CHECK(strstr(err_text(&err), "neither a block device nor a regular file") != NULL);
	CHECK_EQ(env_disk_open(w->env, path, ENV_DISK_CREATE, 4095, &disk, &err), -EINVAL);
	CHECK(strstr(err_text(&err), "4095") != NULL);
	CHECK(access(path, F_OK) < 0);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	CHECK_EQ(write(fd, "x", 1), 1);
	close(fd);
	CHECK_EQ(env_disk_open(w->env, path, 0, 0, &disk, &err), -EINVAL);
	CHECK(strstr(err_text(&err), "less than one block") != NULL);
	CHECK(disk == NULL);
}

LOOP_TEST(disk, create_keeps_what_is_there)
{
	struct env_disk *disk = disk_make(w, 65536);
	uint8_t *buf = aligned_alloc(4096, 4096);
	memset(buf, 9, 4096);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 0, buf, 4096, 0), 0);
	world_close_disk(w, disk);
	disk = disk_make(w, 1 << 20);
	struct env_disk_info info;
	env_disk_info(w->env, disk, &info);
	CHECK_EQ(info.size_bytes, 65536);
	memset(buf, 0, 4096);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 0, buf, 4096, 0), 0);
	CHECK_EQ(buf[4095], 9);
	world_close_disk(w, disk);
	free(buf);
}

LOOP_TEST(disk, close_completes_everything_then_says_so)
{
	enum { COUNT = 200 };
	struct env_disk *disk = disk_make(w, COUNT * 4096);
	static struct op ops[COUNT];
	memset(ops, 0, sizeof(ops));
	uint8_t *buf = aligned_alloc(4096, COUNT * 4096);
	memset(buf, 3, COUNT * 4096);
	for (int i = 0; i < COUNT; i++) {
		ops[i].io = (struct env_io){
			.op = ENV_IO_WRITE, .offset_bytes = (uint64_t)i * 4096, .iov_count = 1};
		/* Some are refused before the kernel sees them. */
		if (i % 10 == 0)
			ops[i].io.offset_bytes += COUNT * 4096;
		ops[i].iov[0] = (struct iovec){buf + i * 4096, 4096};
		op_start(w, disk, &ops[i]);
	}
	world_close_disk(w, disk);
	for (int i = 0; i < COUNT; i++) {
		CHECK(ops[i].done);
		CHECK_EQ(ops[i].status, -ECANCELED);
	}
	free(buf);
}

TEST(disk, registered_buffers_are_used_when_one_iovec_lies_within)
{
	struct world world, *w = &world;
	world_open(w, LOOP_ENGINE_URING);
	struct env_disk *disk = disk_make(w, 1 << 20);
	uint8_t *arena = env_buf_alloc(w->env, 1 << 20);
	CHECK(arena && (uintptr_t)arena % 4096 == 0 && arena[12345] == 0);
	memset(arena, 5, 1 << 20);
	CHECK_EQ(op_run(w, disk, ENV_IO_WRITE, 0, arena, 1 << 20, ENV_IO_DSYNC), 0);
	CHECK_EQ(w->loop->fixed_io_count, 1);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 4096, arena + 8192, 4096, 0), 0);
	CHECK_EQ(w->loop->fixed_io_count, 2);
	CHECK_EQ(arena[8192], 5);
	uint8_t *other = aligned_alloc(4096, 4096);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 4096, other, 4096, 0), 0);
	CHECK_EQ(other[0], 5);
	CHECK_EQ(w->loop->fixed_io_count, 2);
	env_buf_free(w->env, arena, 1 << 20);
	/* New memory at what may be the same address is registered anew. */
	arena = env_buf_alloc(w->env, 1 << 20);
	CHECK_EQ(op_run(w, disk, ENV_IO_READ, 0, arena, 1 << 20, 0), 0);
	CHECK_EQ(w->loop->fixed_io_count, 3);
	CHECK_EQ(arena[99999], 5);
	env_buf_free(w->env, arena, 1 << 20);
	world_close_disk(w, disk);
	world_close(w);
	free(other);
}

/* ---- coroutines ---- */

struct job {
	struct world *w;
	struct env_disk *disk;
	struct env_io io;
	struct iovec iov;
	uint64_t slept_ns;
	int rounds;
	bool done;
};

static void job_run(struct co *co, void *arg)
{
	struct job *job = arg;
	uint8_t *buf = job->iov.iov_base;
	for (int i = 0; i < 10; i++) {
		job->io = (struct env_io){
			.op = i % 2 ? ENV_IO_READ : ENV_IO_WRITE, .iov = &job->iov, .iov_count = 1};
		memset(buf, i % 2 ? 0 : i + 1, 4096);
		CHECK_EQ(co_disk_io(co, job->disk, &job->io), 0);
		CHECK_EQ(buf[100], i % 2 ? i : i + 1);
		job->rounds++;
	}
	uint64_t start_ns = env_now_ns(job->w->env);
	co_sleep(co, 2000000);
	job->slept_ns = env_now_ns(job->w->env) - start_ns;
	job->done = true;
}

LOOP_TEST(co, reads_writes_and_sleeps_like_a_procedure)
{
	struct job job = {.w = w, .disk = disk_make(w, 65536)};
	job.iov = (struct iovec){aligned_alloc(4096, 4096), 4096};
	struct co *co = co_create(w->env, 0);
	CHECK(!co_running(co));
	for (int again = 0; again < 2; again++) {
		job.done = false;
		co_start(co, job_run, &job);
		CHECK(co_running(co));
		world_wait(w, &job.done);
		CHECK(!co_running(co));
		CHECK(job.slept_ns >= 2000000);
	}
	CHECK_EQ(job.rounds, 20);
	co_destroy(co);
	co_destroy(NULL);
	world_close_disk(w, job.disk);
	free(job.iov.iov_base);
}

LOOP_TEST(co, destroyed_while_it_waits_leaves_the_io_to_finish)
{
	struct job job = {.w = w, .disk = disk_make(w, 65536)};
	job.iov = (struct iovec){aligned_alloc(4096, 4096), 4096};
	struct co *co = co_create(w->env, 100000);
	co_start(co, job_run, &job);
	co_destroy(co);
	world_close_disk(w, job.disk);
	CHECK_EQ(job.rounds, 0);
	free(job.iov.iov_base);
}

static void sleep_run(struct co *co, void *arg)
{
	co_sleep(co, 1000 * SECOND_NS);
	*(int *)arg = 1;
}

LOOP_TEST(co, destroyed_while_it_sleeps_never_wakes)
{
	int woke = 0;
	struct co *co = co_create(w->env, 0);
	co_start(co, sleep_run, &woke);
	co_destroy(co);
	bool never = false;
	CHECK_EQ(loop_run_until(w->loop, &never, env_now_ns(w->env) + 1000000), -ETIMEDOUT);
	CHECK_EQ(woke, 0);
}
