/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk: two images, a cache of what lies between them, and faults.
 *
 * D1  `current` holds completed writes; reads see nothing else. `durable` is what a power cut is
 *     sure to leave. `cached` lists, in completion order, the completed blocks that are not
 *     durable; current == durable with `cached` applied in order (but for what a failed flush
 *     gave up).
 * D2  FLUSH moves to durable what had completed when it was submitted, at its completion; a DSYNC
 *     write moves its own blocks and cancels older cached versions of them.
 * D3  A write's data is taken at submission; a caller that changes the buffer before done() is
 *     caught by an assert. A read's buffer is filled with 0xa5 at submission and with data at
 *     completion.
 * D4  Effect and callback are two events: the first belongs to the world and survives a pause of
 *     the process, the second does not.
 * D5  A kill resolves every operation in flight at once (a kernel finishes or drops them before it
 *     gives the lock back), so a lock that is free means that no write is under way.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/sim_disk_priv.h"

#define POISON       0xa5
#define POISON_BYTES 256

const struct sim_disk_profile sim_disk_profile_default = {
	.latency_min_ns = 20 * SIM_US,
	.latency_max_ns = 120 * SIM_US,
};

/* ---- operations ---- */

static struct disk_op *event_op(struct sim_event *event)
{
	return (struct disk_op *)event;
}

static void op_free(struct disk_op *op)
{
	sim_event_remove(op->handle->disk->sim, &op->event);
	list_remove(&op->link);
	for (uint32_t i = 0; op->block && i < op->block_count; i++)
		sim_block_put(op->block[i]);
	free(op->block);
	free(op);
}

static uint64_t latency_draw(struct sim_disk *disk)
{
	const struct sim_disk_profile *profile = &disk->profile;
	uint64_t span_ns = profile->latency_max_ns > profile->latency_min_ns
				   ? profile->latency_max_ns - profile->latency_min_ns
				   : 0;
	uint64_t ns = profile->latency_min_ns + sim_rng_below(&disk->rng, span_ns + 1);
	return ns * (profile->slow_factor ? profile->slow_factor : 1);
}

static bool fault_matches(const struct sim_disk_fault *fault, const struct disk_op *op)
{
	if (fault->op != op->op)
		return false;
	if (fault->length_bytes == 0 || op->op == ENV_IO_FLUSH)
		return true;
	uint64_t begin = op->block_index * BLOCK_BYTES;
	uint64_t end = begin + (uint64_t)op->block_count * BLOCK_BYTES;
	return begin < fault->offset_bytes + fault->length_bytes && fault->offset_bytes < end;
}

/* The status that a caller-made fault or the profile gives this operation. */
static int fault_draw(struct sim_disk *disk, const struct disk_op *op)
{
	for (unsigned i = 0; i < disk->fault_count; i++) {
		struct sim_disk_fault *fault = &disk->fault[i];
		if (!fault_matches(fault, op) || fault->count == 0)
			continue;
		if (fault->skip_count != 0) {
			fault->skip_count--;
			continue;
		}
		if (fault->count != UINT64_MAX)
			fault->count--;
		return fault->status;
	}
	const uint32_t ppm[] = {
		[ENV_IO_READ] = disk->profile.read_eio_ppm,
		[ENV_IO_WRITE] = disk->profile.write_eio_ppm,
		[ENV_IO_FLUSH] = disk->profile.flush_eio_ppm,
	};
	return sim_rng_chance(&disk->rng, ppm[op->op]) ? -EIO : 0;
}

static void read_block(struct sim_disk *disk, uint64_t block_index, uint8_t *to)
{
	struct sim_image *image = disk->current;
	if (disk->previous && sim_rng_chance(&disk->rng, disk->profile.stale_read_ppm)) {
		disk->sim->mark[SIM_MARK_DISK_STALE_READ]++;
		image = disk->previous;
	}
	sim_image_read(image, block_index * BLOCK_BYTES, to, BLOCK_BYTES);
	if (sim_rng_chance(&disk->rng, disk->profile.read_flip_ppm)) {
		disk->sim->mark[SIM_MARK_DISK_FLIP]++;
		to[sim_rng_below(&disk->rng, BLOCK_BYTES)] ^=
			(uint8_t)(1u << sim_rng_below(&disk->rng, 8));
	}
}

static void op_read(struct disk_op *op)
{
	struct sim_disk *disk = op->handle->disk;
	uint64_t block_index = op->block_index;
	for (uint32_t v = 0; v < op->io->iov_count; v++) {
		uint8_t *to = op->io->iov[v].iov_base;
		for (size_t done = 0; done < op->io->iov[v].iov_len; done += BLOCK_BYTES)
			read_block(disk, block_index++, to + done);
	}
}

static void write_flip(struct sim_disk *disk, struct disk_op *op)
{
	for (uint32_t i = 0; i < op->block_count; i++) {
		if (!sim_rng_chance(&disk->rng, disk->profile.write_flip_ppm))
			continue;
		uint8_t bytes[BLOCK_BYTES] = {0};
		if (op->block[i])
			memcpy(bytes, op->block[i]->bytes, BLOCK_BYTES);
		bytes[sim_rng_below(&disk->rng, BLOCK_BYTES)] ^=
			(uint8_t)(1u << sim_rng_below(&disk->rng, 8));
		disk->sim->mark[SIM_MARK_DISK_FLIP]++;
		sim_block_put(op->block[i]);
		op->block[i] = sim_block_create(bytes);
	}
}

/* A write with an error leaves any subset of its blocks, cached. */
static void op_write_failed(struct disk_op *op)
{
	struct sim_disk *disk = op->handle->disk;
	uint32_t keep_ppm = sim_medium_survival(disk);
	disk->order++;
	for (uint32_t i = 0; i < op->block_count; i++)
		if (sim_rng_chance(&disk->rng, keep_ppm))
			sim_medium_put(disk, op->block_index + i, op->block[i], false);
}

static void op_write(struct disk_op *op)
{
	struct sim_disk *disk = op->handle->disk;
	const struct sim_disk_profile *profile = &disk->profile;
	bool is_durable = op->flags & ENV_IO_DSYNC;
	uint64_t block_index = op->block_index;
	disk->order++;
	if (sim_rng_chance(&disk->rng, profile->lost_write_ppm)) {
		disk->sim->mark[SIM_MARK_DISK_LOST_WRITE]++;
		return;
	}
	if (sim_rng_chance(&disk->rng, profile->misdirected_write_ppm)) {
		disk->sim->mark[SIM_MARK_DISK_MISDIRECTED_WRITE]++;
		uint64_t places = disk->size_bytes / BLOCK_BYTES - op->block_count + 1;
		block_index = sim_rng_below(&disk->rng, places);
	}
	if (is_durable && sim_rng_chance(&disk->rng, profile->lying_flush_ppm)) {
		disk->sim->mark[SIM_MARK_DISK_LYING_FLUSH]++;
		is_durable = false;
	}
	write_flip(disk, op);
	for (uint32_t i = 0; i < op->block_count; i++)
		sim_medium_put(disk, block_index + i, op->block[i], is_durable);
}

static void op_flush(struct disk_op *op)
{
	struct sim_disk *disk = op->handle->disk;
	if (sim_rng_chance(&disk->rng, disk->profile.lying_flush_ppm)) {
		disk->sim->mark[SIM_MARK_DISK_LYING_FLUSH]++;
		return;
	}
	sim_medium_flush(disk, op->order);
}

/* D3: the caller kept the buffer as it was. */
static void op_write_verify(const struct disk_op *op)
{
	static const uint8_t zeros[BLOCK_BYTES];
	uint32_t i = 0;
	for (uint32_t v = 0; v < op->io->iov_count; v++) {
		const uint8_t *from = op->io->iov[v].iov_base;
		for (size_t done = 0; done < op->io->iov[v].iov_len; done += BLOCK_BYTES, i++) {
			const uint8_t *was = op->block[i] ? op->block[i]->bytes : zeros;
			assert(memcmp(was, from + done, BLOCK_BYTES) == 0);
		}
	}
}

static void op_done_run(struct sim_event *event);

static void op_decide(struct disk_op *op)
{
	struct sim_disk *disk = op->handle->disk;
	uint64_t end = op->block_index + op->block_count;
	if (op->op == ENV_IO_WRITE)
		op_write_verify(op);
	if (disk->is_gone) {
		op->status = -ENODEV;
		disk->sim->mark[SIM_MARK_DISK_VANISHED]++;
	} else if (end > disk->size_bytes / BLOCK_BYTES) {
		op->status = op->op == ENV_IO_WRITE ? -ENOSPC : -EIO;
	} else {
		op->status = fault_draw(disk, op);
		if (op->status != 0)
			disk->sim->mark[SIM_MARK_DISK_READ_EIO + op->op]++;
		if (op->status != 0 && op->op == ENV_IO_WRITE)
			op_write_failed(op);
		else if (op->status != 0 && op->op == ENV_IO_FLUSH)
			sim_medium_flush_failed(disk, op->order);
	}
	if (op->status == 0 && op->op == ENV_IO_READ)
		op_read(op);
	else if (op->status == 0 && op->op == ENV_IO_WRITE)
		op_write(op);
	else if (op->status == 0)
		op_flush(op);
	if (disk->record && op->op != ENV_IO_READ)
		sim_record_complete(disk->record, op->record_index, op->status);
	op->is_decided = true;
	list_remove(&op->link);
}

static void op_do_run(struct sim_event *event)
{
	struct disk_op *op = event_op(event);
	struct sim_disk *disk = op->handle->disk;
	if (disk->is_stalled) {
		list_push_back(&disk->held, &event->link);
		return;
	}
	op_decide(op);
	/* E3: a closed handle's operations may say so instead of how they ended. */
	if (op->handle->close && sim_rng_below(&disk->rng, 2))
		op->status = -ECANCELED;
	event->run = op_done_run;
	event->process = op->handle->process;
	event->kind = SIM_EV_DISK_DONE;
	sim_event_queue(disk->sim, event, disk->sim->now_ns);
}

static void handle_free(struct env_disk *handle)
{
	struct sim_disk *disk = handle->disk;
	if (!handle->is_dead) {
		if (handle->flags & ENV_DISK_RDONLY)
			disk->readers--;
		else
			disk->has_writer = false;
	}
	sim_event_remove(disk->sim, &handle->close_event);
	list_remove(&handle->process_link);
	free(handle);
}

static void close_event_run(struct sim_event *event)
{
	struct env_disk *handle = CONTAINER_OF(event, struct env_disk, close_event);
	struct env_close *close = handle->close;
	handle_free(handle);
	close->done(close);
}

static void close_progress(struct env_disk *handle)
{
	struct sim *sim = handle->disk->sim;
	if (handle->close && handle->in_flight == 0 && !sim_event_pending(&handle->close_event))
		sim_event_queue(sim, &handle->close_event, sim->now_ns);
}

static void op_done_run(struct sim_event *event)
{
	struct disk_op *op = event_op(event);
	struct env_disk *handle = op->handle;
	struct env_io *io = op->io;
	int status = op->status;
	op_free(op);
	handle->in_flight--;
	close_progress(handle);
	io->done(io, status);
}

/* ---- the env's side ---- */

static int open_check(struct sim_disk *disk, const char *path, uint32_t flags, struct err *err)
{
	if (!disk || disk->is_gone)
		return err_set(err, -ENOENT, "disk '%s': no such file", path);
	if (disk->has_writer || (disk->readers != 0 && !(flags & ENV_DISK_RDONLY)))
		return err_set(err, -EBUSY, "disk '%s' is locked by another process", path);
	return 0;
}

int sim_env_disk_open(struct env *env, const char *path, uint32_t flags, uint64_t create_bytes,
		      struct env_disk **ret, struct err *err)
{
	struct sim_process *process = (struct sim_process *)env;
	assert(process->is_alive);
	struct sim_disk *disk = sim_disk_find(process->sim, path);
	if (!disk && (flags & ENV_DISK_CREATE) && !(flags & ENV_DISK_RDONLY))
		disk = sim_disk_create(process->sim, path, create_bytes, NULL);
	int rc = open_check(disk, path, flags, err);
	if (rc < 0)
		return rc;
	struct env_disk *handle = sim_alloc(sizeof(*handle));
	handle->disk = disk;
	handle->process = process;
	handle->flags = flags;
	handle->close_event.run = close_event_run;
	handle->close_event.process = process;
	handle->close_event.kind = SIM_EV_DISK_CLOSED;
	handle->close_event.id = disk->id;
	list_push_back(&process->disks, &handle->process_link);
	if (flags & ENV_DISK_RDONLY)
		disk->readers++;
	else
		disk->has_writer = true;
	*ret = handle;
	return 0;
}

void sim_env_disk_info(struct env_disk *handle, struct env_disk_info *ret)
{
	*ret = (struct env_disk_info){
		.size_bytes = handle->disk->size_bytes,
		.is_block_device = handle->disk->profile.is_block_device,
		.is_file_sparse_capable = !handle->disk->profile.is_block_device,
	};
}

static uint64_t io_length_check(const struct env_io *io)
{
	uint64_t length_bytes = 0;
	assert(io->op == ENV_IO_FLUSH ? io->iov_count == 0 : io->iov_count >= 1);
	assert(io->iov_count <= ENV_IO_IOV_MAX);
	assert(io->offset_bytes % BLOCK_BYTES == 0 || io->op == ENV_IO_FLUSH);
	for (uint32_t v = 0; v < io->iov_count; v++) {
		assert((uintptr_t)io->iov[v].iov_base % BLOCK_BYTES == 0);
		assert(io->iov[v].iov_len % BLOCK_BYTES == 0 && io->iov[v].iov_len != 0);
		length_bytes += io->iov[v].iov_len;
	}
	return length_bytes;
}

static void op_take_data(struct sim_disk *disk, struct disk_op *op)
{
	struct sim *sim = disk->sim;
	uint64_t hash = op->block_index;
	uint32_t i = 0;
	op->block = sim_alloc(op->block_count * sizeof(op->block[0]));
	for (uint32_t v = 0; v < op->io->iov_count; v++) {
		const uint8_t *from = op->io->iov[v].iov_base;
		hash = sim_hash_bytes(hash, from, op->io->iov[v].iov_len);
		for (size_t done = 0; done < op->io->iov[v].iov_len; done += BLOCK_BYTES)
			op->block[i++] = sim_block_create(from + done);
	}
	sim_trace(sim, SIM_EV_WRITE, op->handle->process, op->event.id, hash);
}

/* Nobody may look at a read's buffer before it is done. The head of each block shows it, and costs less than all of it
 * in tests that read megabytes. */
static void buffer_poison(char *buf, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += BLOCK_BYTES)
		memset(buf + at, POISON, MIN(bytes - at, (size_t)POISON_BYTES));
}

void sim_env_disk_submit(struct env_disk *handle, struct env_io *io)
{
	struct sim_disk *disk = handle->disk;
	struct sim *sim = disk->sim;
	if (handle->is_dead)
		return;
	assert(!handle->close);
	assert(io->op != ENV_IO_WRITE || !(handle->flags & ENV_DISK_RDONLY));
	struct disk_op *op = sim_alloc(sizeof(*op));
	op->handle = handle;
	op->io = io;
	op->op = io->op;
	op->flags = io->flags;
	op->block_count = (uint32_t)(io_length_check(io) / BLOCK_BYTES);
	op->block_index = io->op == ENV_IO_FLUSH ? 0 : io->offset_bytes / BLOCK_BYTES;
	op->order = disk->order;
	op->event.run = op_do_run;
	op->event.kind = SIM_EV_DISK_DO;
	op->event.id = sim->next_id++;
	io->disk = handle;
	handle->in_flight++;
	disk->submitted[io->op]++;
	list_push_back(&disk->ops, &op->link);
	if (io->op == ENV_IO_WRITE)
		op_take_data(disk, op);
	for (uint32_t v = 0; io->op == ENV_IO_READ && v < io->iov_count; v++)
		buffer_poison(io->iov[v].iov_base, io->iov[v].iov_len);
	if (disk->record && io->op == ENV_IO_WRITE)
		op->record_index = sim_record_write(disk->record, op->block_index, op->block,
						    op->block_count, io->flags & ENV_IO_DSYNC);
	else if (disk->record && io->op == ENV_IO_FLUSH)
		op->record_index = sim_record_flush(disk->record);
	sim_event_queue(sim, &op->event, sim->now_ns + latency_draw(disk));
}

void sim_env_disk_close(struct env_disk *handle, struct env_close *close)
{
	if (handle->is_dead)
		return;
	assert(!handle->close);
	handle->close = close;
	close_progress(handle);
}

/* ---- kill ---- */

/* D5. Operations of one handle end now: writes leave any subset of their blocks. */
static void handle_ops_end(struct env_disk *handle)
{
	struct sim_disk *disk = handle->disk;
	list_for_each_safe (node, &disk->ops) {
		struct disk_op *op = CONTAINER_OF(node, struct disk_op, link);
		if (op->handle != handle)
			continue;
		if (op->op == ENV_IO_WRITE && !disk->is_gone &&
		    op->block_index + op->block_count <= disk->size_bytes / BLOCK_BYTES)
			op_write_failed(op);
		op_free(op);
	}
}

/* Completions that were decided and wait for the process. */
static void done_events_drop(struct sim_process *process)
{
	struct sim_heap *heap = &process->sim->heap;
	for (uint32_t i = 1; i <= heap->count;) {
		struct sim_event *event = heap->at[i];
		if (event->process == process && event->kind == SIM_EV_DISK_DONE) {
			op_free(event_op(event));
			i = 1; /* removal moves others */
		} else {
			i++;
		}
	}
	list_for_each_safe (node, &process->parked) {
		struct sim_event *event = CONTAINER_OF(node, struct sim_event, link);
		if (event->kind == SIM_EV_DISK_DONE)
			op_free(event_op(event));
	}
}

void sim_disks_process_killed(struct sim_process *process, enum sim_kill how)
{
	done_events_drop(process);
	list_for_each (node, &process->disks) {
		struct env_disk *handle = CONTAINER_OF(node, struct env_disk, process_link);
		if (handle->is_dead)
			continue;
		struct sim_disk *disk = handle->disk;
		if (how == SIM_KILL_POWER && !disk->is_gone)
			sim_medium_power_cut(disk);
		if (how == SIM_KILL_POWER)
			disk->is_stalled = false;
		list_for_each_safe (op_node, &disk->ops) {
			struct disk_op *op = CONTAINER_OF(op_node, struct disk_op, link);
			if (how == SIM_KILL_POWER && op->handle == handle)
				op_free(op);
		}
		handle_ops_end(handle);
		sim_event_remove(disk->sim, &handle->close_event);
		handle->is_dead = true;
		if (handle->flags & ENV_DISK_RDONLY)
			disk->readers--;
		else
			disk->has_writer = false;
	}
}

void sim_disks_power_cut(struct sim_process *process)
{
	list_for_each (node, &process->disks) {
		struct env_disk *handle = CONTAINER_OF(node, struct env_disk, process_link);
		if (!sim_disk_is_open(handle->disk))
			sim_medium_power_cut(handle->disk);
	}
}

void sim_disks_process_swept(struct sim_process *process)
{
	while (!list_empty(&process->disks)) {
		struct env_disk *handle =
			CONTAINER_OF(process->disks.next, struct env_disk, process_link);
		assert(handle->is_dead);
		handle_free(handle);
	}
}

void sim_disks_destroy(struct sim *sim)
{
	struct list *node;
	while ((node = list_pop_front(&sim->disks)) != NULL) {
		struct sim_disk *disk = CONTAINER_OF(node, struct sim_disk, link);
		assert(list_empty(&disk->ops));
		sim_cache_clear(disk);
		sim_image_free(disk->current);
		sim_image_free(disk->durable);
		sim_image_free(disk->previous);
		free(disk);
	}
}

/* ---- the test's side ---- */

struct sim_disk *sim_disk_create(struct sim *sim, const char *path, uint64_t size_bytes,
				 const struct sim_disk_profile *profile)
{
	struct sim_disk *disk = sim_alloc(sizeof(*disk));
	assert(strlen(path) < sizeof(disk->path) && !sim_disk_find(sim, path));
	memcpy(disk->path, path, strlen(path) + 1);
	disk->sim = sim;
	disk->id = sim->next_id++;
	disk->size_bytes = size_bytes / BLOCK_BYTES * BLOCK_BYTES;
	disk->profile = profile ? *profile : sim_disk_profile_default;
	disk->current = sim_image_create(disk->size_bytes);
	disk->durable = sim_image_create(disk->size_bytes);
	sim_rng_seed(&disk->rng, sim->seed, (uint64_t)1 << 48 | disk->id);
	list_init(&disk->cached);
	list_init(&disk->ops);
	list_init(&disk->held);
	list_push_back(&sim->disks, &disk->link);
	return disk;
}

struct sim_disk *sim_disk_find(struct sim *sim, const char *path)
{
	list_for_each (node, &sim->disks) {
		struct sim_disk *disk = CONTAINER_OF(node, struct sim_disk, link);
		if (strcmp(disk->path, path) == 0)
			return disk;
	}
	return NULL;
}

struct sim_disk_profile *sim_disk_profile(struct sim_disk *disk)
{
	return &disk->profile;
}

uint64_t sim_disk_size_bytes(const struct sim_disk *disk)
{
	return disk->size_bytes;
}

bool sim_disk_is_open(const struct sim_disk *disk)
{
	return disk->has_writer || disk->readers != 0;
}

struct sim_image *sim_disk_current(struct sim_disk *disk)
{
	return disk->current;
}

struct sim_image *sim_disk_durable(struct sim_disk *disk)
{
	return disk->durable;
}

size_t sim_disk_in_flight(const struct sim_disk *disk)
{
	size_t count = 0;
	list_for_each (node, &disk->ops)
		count++;
	return count;
}

uint64_t sim_disk_submitted(const struct sim_disk *disk, enum env_io_op op)
{
	return disk->submitted[op];
}

size_t sim_disk_cached_blocks(const struct sim_disk *disk)
{
	return disk->cached_count;
}

void sim_disk_image_set(struct sim_disk *disk, struct sim_image *image)
{
	assert(list_empty(&disk->ops) && !disk->record);
	struct sim_image *current = sim_image_clone(image);
	struct sim_image *durable = sim_image_clone(image);
	sim_cache_clear(disk);
	sim_image_free(disk->current);
	sim_image_free(disk->durable);
	sim_image_free(disk->previous);
	disk->previous = NULL;
	disk->current = current;
	disk->durable = durable;
	disk->size_bytes = sim_image_size_bytes(image) / BLOCK_BYTES * BLOCK_BYTES;
}

void sim_disk_swap(struct sim_disk *a, struct sim_disk *b)
{
	assert(a->size_bytes == b->size_bytes);
	struct sim_image *image_a = sim_image_clone(a->current);
	struct sim_image *image_b = sim_image_clone(b->current);
	sim_disk_image_set(a, image_b);
	sim_disk_image_set(b, image_a);
	sim_image_free(image_a);
	sim_image_free(image_b);
}

void sim_disk_flip(struct sim_disk *disk, uint64_t offset_bytes, unsigned bit)
{
	uint64_t block_index = offset_bytes / BLOCK_BYTES;
	struct sim_block *before = sim_image_block(disk->current, block_index);
	bool is_clean = before == sim_image_block(disk->durable, block_index);
	disk->sim->mark[SIM_MARK_DISK_FLIP]++;
	sim_image_flip(disk->current, offset_bytes, bit);
	struct sim_block *after = sim_image_block(disk->current, block_index);
	if (is_clean)
		sim_image_block_set(disk->durable, block_index, after);
	struct cached *newest = NULL;
	list_for_each (node, &disk->cached) {
		struct cached *cached = CONTAINER_OF(node, struct cached, link);
		if (cached->block_index == block_index)
			newest = cached;
	}
	if (newest) {
		sim_block_put(newest->block);
		newest->block = sim_block_get(after);
	}
}

void sim_disk_power_cut(struct sim_disk *disk)
{
	sim_medium_power_cut(disk);
	list_for_each_safe (node, &disk->ops) {
		struct disk_op *op = CONTAINER_OF(node, struct disk_op, link);
		sim_event_remove(disk->sim, &op->event);
		list_remove(&op->link);
		op->status = -EIO;
		op->is_decided = true;
		op->event.run = op_done_run;
		op->event.process = op->handle->process;
		op->event.kind = SIM_EV_DISK_DONE;
		sim_event_queue(disk->sim, &op->event, disk->sim->now_ns);
	}
}

void sim_disk_stall(struct sim_disk *disk, bool is_stalled)
{
	struct list *node;
	disk->is_stalled = is_stalled;
	disk->sim->mark[SIM_MARK_DISK_STALLED] += is_stalled;
	while (!is_stalled && (node = list_pop_front(&disk->held)) != NULL)
		sim_event_queue(disk->sim, CONTAINER_OF(node, struct sim_event, link),
				disk->sim->now_ns + latency_draw(disk));
}

void sim_disk_vanish(struct sim_disk *disk, bool is_gone)
{
	disk->is_gone = is_gone;
}

void sim_disk_fail(struct sim_disk *disk, const struct sim_disk_fault *fault)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < disk->fault_count; i++)
		if (disk->fault[i].count != 0)
			disk->fault[kept++] = disk->fault[i];
	assert(kept < FAULTS_MAX && fault->status < 0);
	disk->fault[kept++] = *fault;
	disk->fault_count = kept;
}

void sim_disk_fail_none(struct sim_disk *disk)
{
	disk->fault_count = 0;
}

struct sim_record *sim_disk_record(struct sim_disk *disk)
{
	assert(list_empty(&disk->ops));
	disk->record = sim_record_create(disk->current);
	return disk->record;
}

void sim_disk_record_stop(struct sim_disk *disk)
{
	disk->record = NULL;
}
