/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing out a regular file ahead of the allocator, so that a durable write into it changes no
 * filesystem metadata.
 *
 *   idle --timer, fewer than AHEAD free segments--> writing (1 MiB pieces) --segment done--> timer
 *
 * W1  The segment being written is UNWRITTEN and WRITING: in no bucket, and not to be taken by
 *     space_alloc(), so zeros never meet data.
 * W2  A failed write ends prewriting; it changed nothing that anyone relies on. The store's own
 * writes will meet the disk's trouble and answer for it.
 * W3  When that segment is all that is left, the allocator gets it at once (a checkpoint of a full store
 *     must not fail for it): only the blocks under the write in flight stay taken until it ends.
 */
#include <stdlib.h>

#include "base/log.h"
#include "store/space_impl.h"

#define PIECE_BYTES    (SEGMENT_BLOCKS / 4 * BLOCK_BYTES)
#define AHEAD_SEGMENTS 64u
#define BUSY_PAUSE_NS  (4ull * 1000 * 1000)
#define IDLE_PAUSE_NS  (200ull * 1000 * 1000)

static void prewrite_fire(struct env_timer *timer);

static void prewrite_after(struct space *space, uint64_t delay_ns)
{
	space->prewrite.timer.fire = prewrite_fire;
	env_timer_after(space->device->env, &space->prewrite.timer, delay_ns);
}

static bool enough_ahead(const struct space *space)
{
	uint32_t n = 0;
	for (uint32_t i = space->bucket_head[0]; i != SEGMENT_NONE; i = space->segments[i].next) {
		if (++n >= AHEAD_SEGMENTS)
			return true;
	}
	return false;
}

static void prewrite_stopped(struct space *space)
{
	struct co *co = take(space->prewrite.stopper);
	if (co)
		co_resume(co);
}

/* After a piece. */
static void prewrite_next(struct space *space, int status)
{
	struct space_prewrite *pre = &space->prewrite;

	if (status < 0) {
		log_event(LOG_WARN, "store", "prewrite_failed", "status=%d action=off", status);
		pre->failed = true;
	}
	if (!pre->running)
		prewrite_stopped(space);
	else if (!pre->failed)
		prewrite_after(space, BUSY_PAUSE_NS);
}

static void prewrite_done(struct device_io *dio, int status)
{
	struct space_prewrite *pre = CONTAINER_OF(dio, struct space_prewrite, dio);
	struct space *space = CONTAINER_OF(pre, struct space, prewrite);

	pre->busy = false;
	if (pre->held_count > 0) { /* W3 */
		space_cancel(space, space->data_start + pre->held_block, pre->held_count);
		pre->held_count = 0;
		pre->segment = SEGMENT_NONE;
		prewrite_next(space, status);
		return;
	}
	pre->written_bytes += PIECE_BYTES;
	bool whole = pre->written_bytes >= space_segment_blocks(space, pre->segment) * BLOCK_BYTES;
	pre->failed |= status < 0;
	if (whole || pre->failed || !pre->running)
		space->segments[pre->segment].flags &= (uint16_t)~SEGMENT_WRITING;
	if (whole && !pre->failed)
		space_segment_written(space, pre->segment);
	prewrite_next(space, status);
}

/* W3 */
bool space_prewrite_yield(struct space *space)
{
	struct space_prewrite *pre = &space->prewrite;
	uint32_t i = pre->segment;

	if (!pre->running || pre->held_count > 0 || i >= space->segment_count ||
	    !(space->segments[i].flags & SEGMENT_WRITING))
		return false;
	if (pre->busy) {
		pre->held_block = (uint64_t)i * SEGMENT_BLOCKS + pre->written_bytes / BLOCK_BYTES;
		pre->held_count = (uint32_t)(pre->iov.iov_len / BLOCK_BYTES);
	} else {
		pre->segment = SEGMENT_NONE;
	}
	for (uint32_t b = 0; b < pre->held_count; b++)
		bit_set(space->allocated, pre->held_block + b);
	space->allocated_count += pre->held_count;
	space->segments[i].live = (uint16_t)(space->segments[i].live + pre->held_count);
	space_segment_written(space, i);
	return true;
}

static void prewrite_piece(struct space *space)
{
	struct space_prewrite *pre = &space->prewrite;
	uint64_t block = (uint64_t)pre->segment * SEGMENT_BLOCKS + pre->written_bytes / BLOCK_BYTES;
	uint32_t left =
		space_segment_blocks(space, pre->segment) * BLOCK_BYTES - pre->written_bytes;

	pre->iov = (struct iovec){pre->zeros, MIN(PIECE_BYTES, left)};
	pre->dio.done = prewrite_done;
	pre->dio.expendable = true; /* W2; and the place may be in use by the time somebody looks */
	pre->dio.io = (struct env_io){.op = ENV_IO_WRITE,
				      .offset_bytes = (space->data_start + block) * BLOCK_BYTES,
				      .iov = &pre->iov,
				      .iov_count = 1};
	pre->busy = true;
	device_submit(space->device, &pre->dio);
}

static void prewrite_fire(struct env_timer *timer)
{
	struct space_prewrite *pre = CONTAINER_OF(timer, struct space_prewrite, timer);
	struct space *space = CONTAINER_OF(pre, struct space, prewrite);

	assert(pre->running && !pre->busy);
	if (pre->segment != SEGMENT_NONE &&
	    (space->segments[pre->segment].flags & SEGMENT_WRITING)) {
		prewrite_piece(space);
		return;
	}
	if (space->unwritten_next == space->segment_count)
		return; /* the whole file is written */
	if (enough_ahead(space)) {
		prewrite_after(space, IDLE_PAUSE_NS);
		return;
	}
	pre->segment = space->unwritten_next;
	pre->written_bytes = 0;
	space->segments[pre->segment].flags |= SEGMENT_WRITING;
	prewrite_piece(space);
}

void space_prewrite_start(struct space *space)
{
	struct space_prewrite *pre = &space->prewrite;

	if (pre->running || space->unwritten_next == space->segment_count)
		return;
	if (!pre->zeros)
		pre->zeros = lazy_alloc(PIECE_BYTES);
	if (!pre->zeros)
		return; /* works without, only slower */
	pre->running = true;
	pre->segment = SEGMENT_NONE;
	prewrite_after(space, 0);
}

void space_prewrite_stop(struct co *co, struct space *space)
{
	struct space_prewrite *pre = &space->prewrite;

	env_timer_cancel(space->device->env, &pre->timer);
	pre->running = false;
	if (pre->busy) {
		pre->stopper = co;
		co_suspend(co);
	}
	if (pre->segment != SEGMENT_NONE && pre->segment < space->segment_count)
		space->segments[pre->segment].flags &= (uint16_t)~SEGMENT_WRITING;
}
