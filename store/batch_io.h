/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many I/Os at once for one coroutine, and a writer that gathers blocks into large writes.
 * Private to store/. Memory is taken at creation (address space only, until it is used).
 */
#ifndef HF_STORE_BATCH_IO_H
#define HF_STORE_BATCH_IO_H

#include "base/co.h"
#include "store/device.h"
#include "store/format.h"

/* ---- address space that is backed when touched ---- */

/* Zeroed, page-aligned; NULL when refused. bytes > 0. */
void *lazy_alloc(size_t bytes);
void lazy_free(void *memory, size_t bytes);
/* Gives the pages back; they read as zero again. */
void lazy_clear(void *memory, size_t bytes);

/* ---- batch: one coroutine at a time ---- */

struct batch_io;

struct batch_io_part {
	uint64_t place;
	uint32_t block_count;
	void *buf;   /* contiguous, 4096-aligned, valid until done */
	int *status; /* set when done; NULL: nobody asks */
};

/* depth: I/Os in flight at most. NULL when memory is out. */
struct batch_io *batch_io_create(struct device *device, uint32_t depth);
/* Only when nothing is in flight, or when the env can no longer call back. NULL is fine. */
void batch_io_destroy(struct batch_io *batch);
/* Submits a READ or WRITE; waits for a slot when all are taken. */
void batch_io_submit(struct co *co, struct batch_io *batch, enum env_io_op op,
		     const struct batch_io_part *part);
/* Waits until at most in_flight_max are in flight; the first error since the last call, or 0. */
int batch_io_wait(struct co *co, struct batch_io *batch, uint32_t in_flight_max);
/* Blocks submitted so far, reads and writes. */
uint64_t batch_io_blocks(const struct batch_io *batch);

/* ---- writer: one coroutine at a time ---- */

#define WRITER_RUN_BLOCKS 64u

struct writer;

struct writer *writer_create(struct device *device);
void writer_destroy(struct writer *writer);
/* *ret_buf: zeroed memory for the block at place, to be filled before the next call on writer.
 * Blocks at ascending places go out as one write. 0, or -EIO once a write has failed. */
int writer_next(struct co *co, struct writer *writer, uint64_t place, void **ret_buf);
/* Everything is written (not flushed). 0 or -errno; clears the error. */
int writer_finish(struct co *co, struct writer *writer);
/* Blocks submitted so far. */
uint64_t writer_blocks(const struct writer *writer);

#endif
