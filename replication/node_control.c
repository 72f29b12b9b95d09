/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of a manager's control connection: create, delete, list replicas; checkpoint a store. */
#include "replication/node_impl.h"

#include <errno.h>

static struct store *store_by_uuid(struct node *node, const struct uuid *uuid)
{
	for (uint32_t i = 0; i < node->store_count; i++) {
		struct store_info info;
		store_info(node->stores[i], &info);
		if (uuid_equal(&info.uuid, uuid))
			return node->stores[i];
	}
	return NULL;
}

static void create_done(struct store_op *store_op, int status)
{
	node_reply(CONTAINER_OF(store_op, struct node_op, u.create.op), WIRE_DONE, status, 0);
}

static void do_create(struct node_op *op, const struct link_frame *frame)
{
	struct wire_create create;
	struct store *store = NULL;
	if (frame->body_bytes == sizeof(create)) {
		memcpy(&create, frame->body, sizeof(create));
		store = store_by_uuid(op->node, &create.target.store_uuid);
	}
	if (store == NULL) {
		node_reply(op, WIRE_DONE, frame->body_bytes == sizeof(create) ? -ENOENT : -EINVAL,
			   0);
		return;
	}
	op->u.create = (struct store_create){
		.op.done = create_done,
		.spec =
			{
				.volume_uuid = create.target.volume_uuid,
				.replica_uuid = create.target.replica_uuid,
				.shard = le32_get(create.target.shard),
				.size_blocks = le64_get(create.size_blocks),
			},
	};
	store_replica_create(store, &op->u.create);
}

static void delete_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.op);
	node_reply(op, WIRE_DONE, status, 0);
}

static void do_delete(struct node_op *op, const struct link_frame *frame)
{
	struct wire_target target;
	if (frame->body_bytes != sizeof(target)) {
		node_reply(op, WIRE_DONE, -EINVAL, 0);
		return;
	}
	memcpy(&target, frame->body, sizeof(target));
	struct node_replica *nr =
		node_replica_find(op->node, &target.volume_uuid, le32_get(target.shard));
	if (nr == NULL) { /* gone already: deleting twice is deleting once */
		node_reply(op, WIRE_DONE, 0, 0);
		return;
	}
	struct store_replica_info info;
	store_replica_info(nr->replica, &info);
	if (!uuid_equal(&info.spec.replica_uuid, &target.replica_uuid)) {
		node_reply(op, WIRE_DONE, -EEXIST, 0); /* another replica of that volume */
		return;
	}
	struct store_replica *replica = nr->replica;
	nr->deleting = true;
	node_replica_fence(nr, UINT64_MAX, -ENOENT);
	node_replica_drop(nr);
	op->u.op.done = delete_done;
	store_replica_delete(replica, &op->u.op);
}

struct list_walk {
	struct wire_replica_info *out;
	uint32_t first, room, index, count;
	struct store *store;
	struct uuid store_uuid;
};

static void list_one(void *ctx, struct store_replica *replica)
{
	struct list_walk *walk = ctx;
	uint32_t index = walk->index++;
	if (index < walk->first || walk->count == walk->room)
		return;
	struct store_replica_info info;
	store_replica_info(replica, &info);
	struct wire_replica_info *out = &walk->out[walk->count++];
	*out = (struct wire_replica_info){
		.target =
			{
				.volume_uuid = info.spec.volume_uuid,
				.replica_uuid = info.spec.replica_uuid,
				.store_uuid = walk->store_uuid,
				.shard = le32_make(info.spec.shard),
			},
	};
	node_position(replica, walk->store, &out->position);
}

static void store_line(const struct store_info *info, struct wire_store_info *out)
{
	*out = (struct wire_store_info){
		.store_uuid = info->uuid,
		.capacity_blocks = le64_make(info->capacity_blocks),
		.used_blocks = le64_make(info->used_blocks),
		.reserved_blocks = le64_make(info->reserved_blocks),
		.root_generation = le64_make(info->root_generation),
		.incarnation = le64_make(info->incarnation),
		.failed = le32_make(info->failed),
		.replica_count = le32_make(info->replica_count),
	};
	const uint64_t counters[12] = {
		info->batches,     info->batches_inline, info->records,        info->payload_blocks,
		info->pieces,      info->checkpoints,    info->blocks_written, info->reads,
		info->read_blocks, info->crc_errors,     info->io_slow,        0,
	};
	for (int i = 0; i < 12; i++)
		out->counters[i] = le64_make(counters[i]);
}

/* Stores first (all, up to what fits), then replicas from first_replica on. */
static void do_list(struct node_op *op, const struct link_frame *frame)
{
	struct node *node = op->node;
	struct wire_list list;
	if (frame->body_bytes != sizeof(list)) {
		node_reply(op, WIRE_LISTED, -EINVAL, 0);
		return;
	}
	memcpy(&list, frame->body, sizeof(list));
	struct wire_listed *listed = (struct wire_listed *)op->body;
	struct wire_store_info *stores = (struct wire_store_info *)(listed + 1);
	uint32_t store_count =
		MIN(node->store_count, (NODE_REPLY_BODY_BYTES / 2) / (uint32_t)sizeof(*stores));
	for (uint32_t i = 0; i < store_count; i++) {
		struct store_info info;
		store_info(node->stores[i], &info);
		store_line(&info, &stores[i]);
	}
	struct list_walk walk = {
		.out = (struct wire_replica_info *)(stores + store_count),
		.first = le32_get(list.first_replica),
	};
	size_t used = (size_t)((uint8_t *)walk.out - (uint8_t *)op->body);
	walk.room = (uint32_t)((NODE_REPLY_BODY_BYTES - used) / sizeof(*walk.out));
	for (uint32_t i = 0; i < node->store_count; i++) {
		struct store_info info;
		store_info(node->stores[i], &info);
		walk.store = node->stores[i];
		walk.store_uuid = info.uuid;
		store_replica_each(node->stores[i], list_one, &walk);
	}
	*listed = (struct wire_listed){
		.store_count = le32_make(store_count),
		.replica_count = le32_make(walk.count),
		.replica_total = le32_make(walk.index),
		.first_replica = list.first_replica,
	};
	node_reply(op, WIRE_LISTED, 0,
		   (uint32_t)(used + walk.count * sizeof(struct wire_replica_info)));
}

static void checkpoint_done(struct store_op *store_op, int status)
{
	node_reply(CONTAINER_OF(store_op, struct node_op, u.op), WIRE_DONE, status, 0);
}

static void do_checkpoint(struct node_op *op, const struct link_frame *frame)
{
	struct wire_target target;
	struct store *store = NULL;
	if (frame->body_bytes == sizeof(target)) {
		memcpy(&target, frame->body, sizeof(target));
		store = store_by_uuid(op->node, &target.store_uuid);
	}
	if (store == NULL) {
		node_reply(op, WIRE_DONE, -ENOENT, 0);
		return;
	}
	op->u.op.done = checkpoint_done;
	store_checkpoint(store, &op->u.op);
}

void node_control_frame(struct node_conn *conn, const struct link_frame *frame)
{
	struct node_op *op = node_op_get(conn, NULL, frame);
	switch (le16_get(frame->header->type)) {
	case WIRE_CREATE:
		do_create(op, frame);
		return;
	case WIRE_DELETE:
		do_delete(op, frame);
		return;
	case WIRE_LIST:
		do_list(op, frame);
		return;
	case WIRE_CHECKPOINT:
		do_checkpoint(op, frame);
		return;
	default:
		node_reply(op, WIRE_DONE, -ENOTSUP, 0);
	}
}
