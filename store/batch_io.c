/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parallel I/O for coroutines.
 *
 * A device_io lives in a slot of the batch, never on a stack. The coroutine suspends only inside
 * batch_io_submit() (no slot free) and batch_io_wait(); a completion resumes it only when the
 * condition it waits for holds.
 *
 * I1  in_flight counts slots that the device holds; busy slots are never reused.
 * I2  A writer's run is contiguous on disk and in memory; its buffer is one of a ring of RUNS,
 * taken again only when the batch has at most RUNS - 1 writes in flight *and* that slot's write is
 * done.
 */
#include "store/batch_io.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- lazy memory ---- */

void *lazy_alloc(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

void lazy_free(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, bytes);
}

void lazy_clear(void *memory, size_t bytes)
{
	if (madvise(memory, bytes, MADV_DONTNEED) < 0)
		memset(memory, 0, bytes);
}

/* ---- batch ---- */

struct slot {
	struct device_io dio;
	struct iovec iov;
	struct batch_io *batch;
	int *status;
	bool busy;
};

struct batch_io {
	struct device *device;
	struct co *waiter;
	uint32_t waiter_limit; /* resume when in_flight is at most this */
	uint32_t in_flight;
	uint32_t depth;
	uint32_t hand;
	int first_error;
	uint64_t blocks; /* submitted */
	struct slot slots[];
};

struct batch_io *batch_io_create(struct device *device, uint32_t depth)
{
	struct batch_io *batch = calloc(1, sizeof(*batch) + depth * sizeof(batch->slots[0]));
	if (!batch)
		return NULL;
	batch->device = device;
	batch->depth = depth;
	return batch;
}

void batch_io_destroy(struct batch_io *batch)
{
	free(batch);
}

static void slot_done(struct device_io *dio, int status)
{
	struct slot *slot = CONTAINER_OF(dio, struct slot, dio);
	struct batch_io *batch = slot->batch;

	slot->busy = false;
	batch->in_flight--;
	if (slot->status)
		*slot->status = status;
	if (status < 0 && batch->first_error == 0)
		batch->first_error = status;
	if (batch->waiter && batch->in_flight <= batch->waiter_limit) {
		struct co *co = take(batch->waiter);
		co_resume(co);
	}
}

static void batch_wait_limit(struct co *co, struct batch_io *batch, uint32_t limit)
{
	assert(!batch->waiter);
	while (batch->in_flight > limit) {
		batch->waiter = co;
		batch->waiter_limit = limit;
		co_suspend(co);
	}
}

void batch_io_submit(struct co *co, struct batch_io *batch, enum env_io_op op,
		     const struct batch_io_part *part)
{
	batch_wait_limit(co, batch, batch->depth - 1);
	while (batch->slots[batch->hand].busy)
		batch->hand = (batch->hand + 1) % batch->depth;
	struct slot *slot = &batch->slots[batch->hand];

	slot->busy = true;
	slot->batch = batch;
	slot->status = part->status;
	slot->iov = (struct iovec){part->buf, (size_t)part->block_count * BLOCK_BYTES};
	slot->dio.done = slot_done;
	slot->dio.io = (struct env_io){.op = op,
				       .offset_bytes = part->place * BLOCK_BYTES,
				       .iov = &slot->iov,
				       .iov_count = 1};
	batch->in_flight++;
	batch->blocks += part->block_count;
	device_submit(batch->device, &slot->dio);
}

int batch_io_wait(struct co *co, struct batch_io *batch, uint32_t in_flight_max)
{
	batch_wait_limit(co, batch, in_flight_max);
	int status = batch->first_error;
	batch->first_error = 0;
	return status;
}

uint64_t batch_io_blocks(const struct batch_io *batch)
{
	return batch->blocks;
}

/* ---- writer ---- */

#define RUNS 8u

struct writer {
	struct batch_io *batch;
	uint8_t *memory;      /* RUNS * WRITER_RUN_BLOCKS blocks */
	int run_status[RUNS]; /* 1: in flight, 0 or -errno: done */
	uint32_t run;         /* being filled */
	uint32_t run_blocks;  /* filled */
	uint64_t run_place;
	int error;
};

#define WRITER_BYTES ((size_t)RUNS * WRITER_RUN_BLOCKS * BLOCK_BYTES)

struct writer *writer_create(struct device *device)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	if (!writer)
		return NULL;
	writer->batch = batch_io_create(device, RUNS);
	writer->memory = lazy_alloc(WRITER_BYTES);
	if (!writer->batch || !writer->memory) {
		writer_destroy(writer);
		return NULL;
	}
	return writer;
}

void writer_destroy(struct writer *writer)
{
	if (!writer)
		return;
	batch_io_destroy(writer->batch);
	lazy_free(writer->memory, WRITER_BYTES);
	free(writer);
}

static void *run_block(struct writer *writer, uint32_t block)
{
	return writer->memory + ((size_t)writer->run * WRITER_RUN_BLOCKS + block) * BLOCK_BYTES;
}

/* Sends the run that is being filled and finds the next free one. */
static void run_submit(struct co *co, struct writer *writer)
{
	if (writer->run_blocks == 0)
		return;
	uint32_t run = writer->run;
	struct batch_io_part part = {.place = writer->run_place,
				     .block_count = writer->run_blocks,
				     .buf = run_block(writer, 0),
				     .status = &writer->run_status[run]};

	writer->run_status[run] = 1;
	batch_io_submit(co, writer->batch, ENV_IO_WRITE, &part);
	int status = batch_io_wait(co, writer->batch, RUNS - 1);
	if (status < 0 && writer->error == 0)
		writer->error = status;
	while (writer->run_status[writer->run] == 1)
		writer->run = (writer->run + 1) % RUNS;
	writer->run_blocks = 0;
}

int writer_next(struct co *co, struct writer *writer, uint64_t place, void **ret_buf)
{
	if (writer->run_blocks == WRITER_RUN_BLOCKS ||
	    place != writer->run_place + writer->run_blocks)
		run_submit(co, writer);
	if (writer->error < 0)
		return writer->error;
	if (writer->run_blocks == 0)
		writer->run_place = place;
	*ret_buf = run_block(writer, writer->run_blocks++);
	memset(*ret_buf, 0, BLOCK_BYTES);
	return 0;
}

int writer_finish(struct co *co, struct writer *writer)
{
	run_submit(co, writer);
	int status = batch_io_wait(co, writer->batch, 0);
	if (writer->error == 0)
		writer->error = status;
	status = writer->error;
	writer->error = 0;
	return status;
}

uint64_t writer_blocks(const struct writer *writer)
{
	return batch_io_blocks(writer->batch);
}
