/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device is one lazily populated mapping plus a state byte per 4096-byte block.
 *
 * M1  A block whose state is HOLE or ZERO is all zeroes in the mapping.
 * M2  Requests wait in `queue` in submission order and run from a timer, so done() never runs
 *     inside submit. Without shuffle all of them run on the next turn, in order.
 * M3  With shuffle a request runs only when no earlier overlapping change is queued (B2), but
 *     otherwise in any order; reads run at any time while they are in flight together with a
 *     change, as B2 allows.
 */
#include "volmgr/blockdev_mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum block_state { BLOCK_HOLE, BLOCK_DATA, BLOCK_ZERO };

struct blockdev_mem {
	struct blockdev dev;
	struct env *env;
	struct blockdev_mem_config config;
	struct blockdev_info info;
	uint8_t *bytes;  /* mapping of config.size_bytes */
	uint8_t *states; /* enum block_state per block */
	uint64_t used_blocks;
	struct list queue;
	uint32_t queued;
	uint64_t seen[BLOCKDEV_OPS];
	bool held;
	struct env_timer timer;
};

static struct blockdev_req *req_of(struct list *link)
{
	return CONTAINER_OF(link, struct blockdev_req, link);
}

static void state_set(struct blockdev_mem *mem, uint64_t block, enum block_state state)
{
	mem->used_blocks -= mem->states[block] != BLOCK_HOLE;
	mem->used_blocks += state != BLOCK_HOLE;
	mem->states[block] = (uint8_t)state;
}

static void write_bytes(struct blockdev_mem *mem, const struct blockdev_req *req)
{
	uint64_t end = req->offset_bytes + req->length_bytes;
	memcpy(mem->bytes + req->offset_bytes, req->buf, req->length_bytes);
	for (uint64_t block = req->offset_bytes / BLOCK_BYTES; block < DIV_UP(end, BLOCK_BYTES);
	     block++)
		state_set(mem, block, BLOCK_DATA);
}

/* Whole blocks take the state; of partial ones only the bytes are cleared, and not by TRIM. */
static void clear_bytes(struct blockdev_mem *mem, const struct blockdev_req *req,
			enum block_state state)
{
	uint64_t end = req->offset_bytes + req->length_bytes;
	uint64_t first = DIV_UP(req->offset_bytes, BLOCK_BYTES), last = end / BLOCK_BYTES;
	if (req->op == BLOCKDEV_ZERO && (first > last || first * BLOCK_BYTES > end)) {
		memset(mem->bytes + req->offset_bytes, 0, req->length_bytes);
		return;
	}
	if (req->op == BLOCKDEV_ZERO) {
		memset(mem->bytes + req->offset_bytes, 0, first * BLOCK_BYTES - req->offset_bytes);
		memset(mem->bytes + last * BLOCK_BYTES, 0, end - last * BLOCK_BYTES);
	}
	for (uint64_t block = first; block < last; block++) {
		if (mem->states[block] == BLOCK_DATA)
			memset(mem->bytes + block * BLOCK_BYTES, 0, BLOCK_BYTES);
		state_set(mem, block, state);
	}
}

static uint32_t extent_flags(uint8_t state)
{
	if (state == BLOCK_HOLE)
		return BLOCKDEV_EXTENT_HOLE | BLOCKDEV_EXTENT_ZERO;
	return state == BLOCK_ZERO ? BLOCKDEV_EXTENT_ZERO : 0;
}

static void report_status(struct blockdev_mem *mem, struct blockdev_req *req)
{
	uint64_t at = req->offset_bytes, end = at + req->length_bytes;
	uint32_t max = req->flags & BLOCKDEV_REQ_ONE ? 1 : req->extents_max;
	req->extents_count = 0;
	while (at < end) {
		uint64_t block = at / BLOCK_BYTES;
		uint64_t next = MIN((block + 1) * BLOCK_BYTES, end);
		uint32_t flags = extent_flags(mem->states[block]);
		struct blockdev_extent *last = req->extents + req->extents_count - 1;
		if (req->extents_count > 0 && last->flags == flags) {
			last->length_bytes += next - at;
		} else {
			if (req->extents_count == max)
				return;
			req->extents[req->extents_count++] =
				(struct blockdev_extent){next - at, flags};
		}
		at = next;
	}
}

static int execute(struct blockdev_mem *mem, struct blockdev_req *req)
{
	int rc = blockdev_req_check(&mem->info, req);
	if (rc == 0 && mem->config.fail)
		rc = mem->config.fail(mem->config.fail_ctx, req);
	if (rc < 0)
		return rc;
	if (blockdev_op_changes(req->op) && mem->config.read_only)
		return -EROFS;
	switch (req->op) {
	case BLOCKDEV_READ:
		memcpy(req->buf, mem->bytes + req->offset_bytes, req->length_bytes);
		return 0;
	case BLOCKDEV_WRITE:
		write_bytes(mem, req);
		return 0;
	case BLOCKDEV_TRIM:
		clear_bytes(mem, req, BLOCK_HOLE);
		return 0;
	case BLOCKDEV_ZERO:
		if ((req->flags & BLOCKDEV_FAST_ZERO) && mem->config.no_fast_zero)
			return -ENOTSUP;
		clear_bytes(mem, req, req->flags & BLOCKDEV_NO_HOLE ? BLOCK_ZERO : BLOCK_HOLE);
		return 0;
	case BLOCKDEV_STATUS:
		report_status(mem, req);
		return 0;
	case BLOCKDEV_FLUSH:
		return 0;
	}
	return -EINVAL;
}

/* M3: is there an earlier queued change that overlaps this change? */
static bool must_wait(struct blockdev_mem *mem, const struct blockdev_req *req)
{
	if (!blockdev_op_changes(req->op))
		return false;
	list_for_each (link, &mem->queue) {
		const struct blockdev_req *other = req_of(link);
		if (other == req)
			return false;
		if (blockdev_op_changes(other->op) &&
		    other->offset_bytes < req->offset_bytes + req->length_bytes &&
		    req->offset_bytes < other->offset_bytes + other->length_bytes)
			return true;
	}
	return false;
}

static void run_queue(struct env_timer *timer)
{
	struct blockdev_mem *mem = CONTAINER_OF(timer, struct blockdev_mem, timer);
	struct list ready;
	list_init(&ready);
	if (mem->held)
		return;
	list_for_each_safe (link, &mem->queue) {
		struct blockdev_req *req = req_of(link);
		if (mem->config.shuffle && (env_random(mem->env) % 3 == 0 || must_wait(mem, req)))
			continue;
		list_remove(link);
		mem->queued--;
		req->engine[0] = (uint64_t)(int64_t)execute(mem, req);
		if (mem->config.shuffle && env_random(mem->env) % 2)
			list_push_front(&ready, link);
		else
			list_push_back(&ready, link);
	}
	if (mem->queued > 0)
		env_timer_after(mem->env, &mem->timer, 0);
	struct list *link;
	while ((link = list_pop_front(&ready)) != NULL)
		req_of(link)->done(req_of(link), (int)(int64_t)req_of(link)->engine[0]);
}

static void mem_submit(struct blockdev *dev, struct blockdev_req *req)
{
	struct blockdev_mem *mem = CONTAINER_OF(dev, struct blockdev_mem, dev);
	assert((unsigned)req->op < BLOCKDEV_OPS);
	mem->seen[req->op]++;
	mem->queued++;
	list_push_back(&mem->queue, &req->link);
	if (!mem->held && !env_timer_armed(&mem->timer))
		env_timer_after(mem->env, &mem->timer, 0);
}

static void mem_info(struct blockdev *dev, struct blockdev_info *ret)
{
	*ret = CONTAINER_OF(dev, struct blockdev_mem, dev)->info;
}

static const struct blockdev_ops mem_ops = {.submit = mem_submit, .info = mem_info};

static int config_check(const struct blockdev_mem_config *config, struct err *err)
{
	if (config->size_bytes == 0 || config->size_bytes % BLOCK_BYTES != 0)
		return err_set(err, -EINVAL, "size %llu is not a positive multiple of %u bytes",
			       (unsigned long long)config->size_bytes, BLOCK_BYTES);
	if (config->block_min_bytes != 1 && config->block_min_bytes != BLOCK_BYTES)
		return err_set(err, -EINVAL, "minimum block %u is neither 1 nor %u bytes",
			       config->block_min_bytes, BLOCK_BYTES);
	if (strlen(config->name) > BLOCKDEV_NAME_MAX)
		return err_set(err, -EINVAL, "name is longer than %u bytes", BLOCKDEV_NAME_MAX);
	return 0;
}

int blockdev_mem_create(struct env *env, const struct blockdev_mem_config *config,
			struct blockdev_mem **ret, struct err *err)
{
	int rc = config_check(config, err);
	if (rc < 0)
		return rc;
	struct blockdev_mem *mem = calloc(1, sizeof(*mem));
	if (!mem)
		return err_set(err, -ENOMEM, "no memory for a device");
	mem->dev.ops = &mem_ops;
	mem->env = env;
	mem->config = *config;
	list_init(&mem->queue);
	mem->timer.fire = run_queue;
	mem->states = calloc(config->size_bytes / BLOCK_BYTES, 1);
	mem->bytes = mmap(NULL, config->size_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->bytes == MAP_FAILED || !mem->states) {
		if (mem->bytes == MAP_FAILED)
			mem->bytes = NULL;
		blockdev_mem_destroy(mem);
		return err_set(err, -ENOMEM, "no memory for %llu bytes",
			       (unsigned long long)config->size_bytes);
	}
	mem->info = (struct blockdev_info){
		.size_bytes = config->size_bytes,
		.block_min_bytes = config->block_min_bytes,
		.block_preferred_bytes = BLOCK_BYTES,
		.payload_max_bytes =
			config->payload_max_bytes ? config->payload_max_bytes : 32u << 20,
		.span_max_bytes = UINT64_MAX,
		.read_only = config->read_only,
		.can_multi_conn = true,
		.can_fast_zero = true,
	};
	(void)snprintf(mem->info.name, sizeof(mem->info.name), "%s", config->name);
	(void)snprintf(mem->info.description, sizeof(mem->info.description), "%s",
		       config->description ? config->description : "");
	*ret = mem;
	return 0;
}

void blockdev_mem_destroy(struct blockdev_mem *mem)
{
	if (!mem)
		return;
	assert(mem->queued == 0);
	env_timer_cancel(mem->env, &mem->timer);
	if (mem->bytes)
		(void)munmap(mem->bytes, mem->config.size_bytes);
	free(mem->states);
	free(mem);
}

struct blockdev *blockdev_mem_dev(struct blockdev_mem *mem)
{
	return &mem->dev;
}

void blockdev_mem_hold(struct blockdev_mem *mem, bool hold)
{
	mem->held = hold;
	if (!hold && mem->queued > 0)
		env_timer_after(mem->env, &mem->timer, 0);
}

uint32_t blockdev_mem_queued(const struct blockdev_mem *mem)
{
	return mem->queued;
}

uint64_t blockdev_mem_seen(const struct blockdev_mem *mem, enum blockdev_op op)
{
	return mem->seen[op];
}

uint64_t blockdev_mem_used_bytes(const struct blockdev_mem *mem)
{
	return mem->used_blocks * BLOCK_BYTES;
}

void blockdev_mem_resize(struct blockdev_mem *mem, uint64_t size_bytes)
{
	assert(size_bytes <= mem->config.size_bytes && size_bytes % BLOCK_BYTES == 0);
	mem->info.size_bytes = size_bytes;
}
