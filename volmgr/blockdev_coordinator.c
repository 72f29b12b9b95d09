/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of coordinator requests, one per request of the layer above.
 *
 * V1  The pool is as large as what the layer above may have below: a request always finds an op.
 * V2  What is refused here is completed by a timer, never inside submit.
 * V3  After close() nothing reaches the coordinator; what it had already it completes itself.
 */
#include "volmgr/blockdev_coordinator.h"

#include <errno.h>
#include <stdlib.h>

#define EXTENTS_MAX    64
#define SPAN_MAX_BYTES (1ull << 40) /* of one zero entry */

struct op {
	struct coordinator_request request;
	struct blockdev_coordinator *dev;
	struct blockdev_req *upper;
	struct list link;
	struct iovec iov;
	struct coordinator_extent extents[EXTENTS_MAX];
};

struct blockdev_coordinator {
	struct blockdev dev;
	struct env *env;
	struct coordinator *coordinator;
	struct blockdev_info info;
	struct blockdev_coordinator_counts counts;
	struct op *ops;
	struct list free_ops;
	struct list refused; /* blockdev_req; engine[0] is the status */
	struct env_timer timer;
	bool is_closed;
};

static void refused_run(struct env_timer *timer)
{
	struct blockdev_coordinator *dev = CONTAINER_OF(timer, struct blockdev_coordinator, timer);
	struct list now;
	struct list *link;

	list_init(&now);
	list_splice_back(&now, &dev->refused);
	while ((link = list_pop_front(&now))) {
		struct blockdev_req *req = CONTAINER_OF(link, struct blockdev_req, link);
		req->done(req, (int)(int64_t)req->engine[0]);
	}
}

static void refuse(struct blockdev_coordinator *dev, struct blockdev_req *req, int status)
{
	req->engine[0] = (uint64_t)(int64_t)status;
	list_push_back(&dev->refused, &req->link);
	if (!env_timer_armed(&dev->timer))
		env_timer_after(dev->env, &dev->timer, 0);
}

static void extents_give(struct op *op)
{
	struct blockdev_req *req = op->upper;
	uint32_t max = req->flags & BLOCKDEV_REQ_ONE ? 1 : req->extents_max;
	uint64_t left_bytes = req->length_bytes;
	uint32_t count = 0;

	for (uint32_t i = 0; i < op->request.extents_count && left_bytes > 0; i++) {
		const struct coordinator_extent *from = &op->extents[i];
		uint64_t bytes = MIN(from->length_blocks * BLOCK_BYTES, left_bytes);
		uint32_t flags = from->data ? 0 : BLOCKDEV_EXTENT_HOLE | BLOCKDEV_EXTENT_ZERO;
		if (bytes == 0)
			continue;
		if (count > 0 && req->extents[count - 1].flags == flags) {
			req->extents[count - 1].length_bytes += bytes;
		} else {
			if (count == max)
				break;
			req->extents[count++] = (struct blockdev_extent){bytes, flags};
		}
		left_bytes -= bytes;
	}
	req->extents_count = count;
}

static void count_done(struct blockdev_coordinator *dev, const struct blockdev_req *req, int status)
{
	if (status < 0) {
		metric_inc(&dev->counts.errors, 1);
	} else if (req->op == BLOCKDEV_READ) {
		metric_inc(&dev->counts.reads, 1);
		metric_inc(&dev->counts.read_bytes, req->length_bytes);
	} else if (req->op == BLOCKDEV_WRITE) {
		metric_inc(&dev->counts.writes, 1);
		metric_inc(&dev->counts.written_bytes, req->length_bytes);
	}
}

static void op_done(struct coordinator_request *request, int status)
{
	struct op *op = CONTAINER_OF(request, struct op, request);
	struct blockdev_req *req = op->upper;

	if (status == 0 && req->op == BLOCKDEV_STATUS) {
		extents_give(op);
		status = req->extents_count > 0 ? 0 : -EIO;
	}
	count_done(op->dev, req, status);
	op->upper = NULL;
	list_push_back(&op->dev->free_ops, &op->link);
	req->done(req, status);
}

static const enum coordinator_op coordinator_ops[BLOCKDEV_OPS] = {
	[BLOCKDEV_READ] = COORDINATOR_READ,   [BLOCKDEV_WRITE] = COORDINATOR_WRITE,
	[BLOCKDEV_TRIM] = COORDINATOR_ZERO,   [BLOCKDEV_ZERO] = COORDINATOR_ZERO,
	[BLOCKDEV_FLUSH] = COORDINATOR_FLUSH, [BLOCKDEV_STATUS] = COORDINATOR_EXTENTS,
};

static void coordinator_dev_submit(struct blockdev *blockdev, struct blockdev_req *req)
{
	struct blockdev_coordinator *dev = CONTAINER_OF(blockdev, struct blockdev_coordinator, dev);
	struct list *link;
	struct op *op;
	int rc = dev->is_closed ? -ESHUTDOWN : blockdev_req_check(&dev->info, req);

	if (rc == 0 && dev->info.read_only && blockdev_op_changes(req->op))
		rc = -EROFS;
	if (rc < 0) {
		refuse(dev, req, rc);
		return;
	}
	link = list_pop_front(&dev->free_ops);
	assert(link); /* V1 */
	op = CONTAINER_OF(link, struct op, link);
	op->upper = req;
	op->iov = (struct iovec){req->buf, req->length_bytes};
	op->request = (struct coordinator_request){
		.op = coordinator_ops[req->op],
		.address_blocks = req->offset_bytes / BLOCK_BYTES,
		.length_blocks = req->length_bytes / BLOCK_BYTES,
		.iov = &op->iov,
		.iov_count = 1,
		.extents = op->extents,
		.extents_max = EXTENTS_MAX,
		.done = op_done,
	};
	coordinator_submit(dev->coordinator, &op->request);
}

static void coordinator_dev_info(struct blockdev *blockdev, struct blockdev_info *ret)
{
	*ret = CONTAINER_OF(blockdev, struct blockdev_coordinator, dev)->info;
}

static const struct blockdev_ops dev_ops = {
	.submit = coordinator_dev_submit,
	.info = coordinator_dev_info,
};

struct blockdev_coordinator *blockdev_coordinator_create(
	struct env *env, struct coordinator *coordinator,
	const struct blockdev_coordinator_config *config)
{
	struct blockdev_coordinator *dev = calloc(1, sizeof(*dev));

	if (dev)
		dev->ops = calloc(config->requests_max, sizeof(*dev->ops));
	if (!dev || !dev->ops) {
		free(dev);
		return NULL;
	}
	dev->dev.ops = &dev_ops;
	dev->env = env;
	dev->coordinator = coordinator;
	dev->timer.fire = refused_run;
	list_init(&dev->free_ops);
	list_init(&dev->refused);
	for (uint32_t i = 0; i < config->requests_max; i++) {
		dev->ops[i].dev = dev;
		list_push_back(&dev->free_ops, &dev->ops[i].link);
	}
	dev->info = (struct blockdev_info){
		.size_bytes = config->size_bytes,
		.block_min_bytes = BLOCK_BYTES,
		.block_preferred_bytes = BLOCK_BYTES,
		.payload_max_bytes = STORE_ENTRY_BLOCKS_MAX * BLOCK_BYTES,
		.span_max_bytes = SPAN_MAX_BYTES,
		.read_only = config->read_only,
		.can_multi_conn = true,
		.can_fast_zero = true,
	};
	snprintf(dev->info.name, sizeof(dev->info.name), "%s", config->name);
	return dev;
}

void blockdev_coordinator_destroy(struct blockdev_coordinator *dev)
{
	if (!dev)
		return;
	assert(list_empty(&dev->refused));
	env_timer_cancel(dev->env, &dev->timer);
	free(dev->ops);
	free(dev);
}

struct blockdev *blockdev_coordinator_dev(struct blockdev_coordinator *dev)
{
	return &dev->dev;
}

struct blockdev_coordinator_counts *blockdev_coordinator_counts(struct blockdev_coordinator *dev)
{
	return &dev->counts;
}

void blockdev_coordinator_size_set(struct blockdev_coordinator *dev, uint64_t size_bytes)
{
	dev->info.size_bytes = size_bytes;
}

void blockdev_coordinator_read_only_set(struct blockdev_coordinator *dev, bool read_only)
{
	dev->info.read_only = read_only;
}

void blockdev_coordinator_close(struct blockdev_coordinator *dev)
{
	dev->is_closed = true;
}
