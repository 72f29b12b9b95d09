/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a store that nobody runs.
 *
 * F1 Nothing is written and nothing that was read is trusted: geometry is checked before it is used,
 *    a block that cannot be read counts as zeros, which no check accepts.
 * F2 Which batches follow a root is told by uuid, incarnation, salt, position, number and the crc of
 *    the one before; the highest durable_prefix anywhere in the ring tells whether the end is an end
 *    or a hole. Unlike recovery, the whole ring is looked at: time is no concern here.
 */
#include "store/offline.h"

#include <errno.h>
#include <stdlib.h>

#include "store/meta_block.h"

#define RING_STEP_BLOCKS 256u /* rings are whole MiB */
#define RING_BLOCKS_MAX  ((2ull << 30) / BLOCK_BYTES)

/* ---- blocks ---- */

int offline_read(struct offline *o, uint64_t place, void *buf, uint32_t blocks)
{
	if (place >= o->device_blocks || blocks > o->device_blocks - place)
		return -EIO;
	o->iov = (struct iovec){.iov_base = buf, .iov_len = (size_t)blocks * BLOCK_BYTES};
	o->dio.io = (struct env_io){.op = ENV_IO_READ,
				    .offset_bytes = place * BLOCK_BYTES,
				    .iov = &o->iov,
				    .iov_count = 1};
	return device_io_co(o->co, &o->device, &o->dio);
}

int offline_table(struct offline *o, const struct block_ptr *at, enum table_kind kind)
{
	uint32_t crc = le32_get(at->crc32c);
	const struct block_header *h = (const struct block_header *)o->block;

	int rc = offline_read(o, le64_get(at->place), o->block, 1);
	if (rc == 0)
		rc = meta_block_check(o->block, MAGIC_TABLE, &o->uuid, &crc);
	return rc == 0 && le16_get(h->kind) != kind ? -EBADMSG : rc;
}

uint64_t offline_super_place(const struct offline *o, uint32_t copy)
{
	return copy == 0 ? PLACE_SUPER_0 : PLACE_RING + o->ring_blocks + 2;
}

uint64_t offline_root_place(const struct offline *o, uint32_t slot, uint32_t copy)
{
	return copy == 0 ? PLACE_ROOT_0 + slot : PLACE_RING + o->ring_blocks + slot;
}

static void window_load(struct offline *o, uint64_t position)
{
	uint64_t room = o->ring_blocks - position % o->ring_blocks;
	uint32_t blocks = (uint32_t)MIN((uint64_t)OFFLINE_WINDOW_BLOCKS, room);
	uint64_t place = PLACE_RING + position % o->ring_blocks;

	o->window_start = position;
	o->window_blocks = blocks;
	if (offline_read(o, place, o->window, blocks) == 0)
		return;
	for (uint32_t i = 0; i < blocks; i++) { /* the good ones around a bad sector */
		char *block = o->window + (size_t)i * BLOCK_BYTES;
		if (offline_read(o, place + i, block, 1) < 0)
			memset(block, 0, BLOCK_BYTES);
	}
}

const char *offline_ring_block(struct offline *o, uint64_t position)
{
	if (position < o->window_start || position >= o->window_start + o->window_blocks)
		window_load(o, position);
	return o->window + (size_t)(position - o->window_start) * BLOCK_BYTES;
}

/* ---- superblocks ---- */

static bool bad_list_valid(const struct superblock *sb)
{
	uint64_t before = 0;

	if (le32_get(sb->bad_count) > ARRAY_LEN(sb->bad))
		return false;
	for (uint32_t i = 0; i < le32_get(sb->bad_count); i++) {
		uint64_t place = le64_get(sb->bad[i]);
		if (place <= before || place >= le64_get(sb->size_blocks))
			return false;
		before = place;
	}
	return true;
}

static bool geometry_valid(const struct offline *o, const struct superblock *sb)
{
	uint64_t ring = le64_get(sb->ring_blocks), size = le64_get(sb->size_blocks);

	return ring >= 4 * BATCH_BLOCKS_MAX && ring <= RING_BLOCKS_MAX &&
	       size <= o->device_blocks &&
	       le64_get(sb->data_start) == PLACE_RING + ring + RING_TRAILER_BLOCKS &&
	       le64_get(sb->data_start) < size && le32_get(sb->segment_blocks) == SEGMENT_BLOCKS &&
	       bad_list_valid(sb);
}

static void super_adopt(struct offline *o, const struct superblock *sb)
{
	o->uuid = sb->h.store_uuid;
	o->size_blocks = le64_get(sb->size_blocks);
	o->ring_blocks = le64_get(sb->ring_blocks);
	o->data_start = le64_get(sb->data_start);
}

/* 0: a good copy is in *ret; -EBADMSG: it is not one; -EPROTO. */
static int super_load(struct offline *o, uint64_t place, struct superblock *ret)
{
	int rc = offline_read(o, place, o->block, 1);
	if (rc == 0)
		rc = meta_block_check(o->block, MAGIC_SUPERBLOCK, NULL, NULL);
	if (rc < 0)
		return rc == -EPROTO ? rc : -EBADMSG;
	memcpy(ret, o->block, sizeof(*ret));
	return geometry_valid(o, ret) ? 0 : -EBADMSG;
}

/* Copy 1 alone: every place that a ring size allows. */
static int super_search(struct offline *o)
{
	for (uint64_t ring = RING_STEP_BLOCKS; ring <= RING_BLOCKS_MAX; ring += RING_STEP_BLOCKS) {
		uint64_t place = PLACE_RING + ring + 2;
		if (place >= o->device_blocks)
			break;
		int rc = super_load(o, place, &o->super[1]);
		if (rc == -EPROTO)
			return rc;
		if (rc == 0 && le64_get(o->super[1].ring_blocks) == ring)
			return 0;
	}
	return -ENODEV;
}

static int supers_load(struct offline *o, struct err *err)
{
	int rc = super_load(o, PLACE_SUPER_0, &o->super[0]);
	if (rc == 0) {
		o->super_good[0] = true;
		super_adopt(o, &o->super[0]);
		o->super_good[1] = super_load(o, offline_super_place(o, 1), &o->super[1]) == 0;
		return 0;
	}
	if (rc != -EPROTO)
		rc = super_search(o);
	if (rc == -EPROTO)
		return err_set(err, rc, "the store's format is newer than version %u",
			       STORE_FORMAT_VERSION);
	if (rc < 0)
		return err_set(err, rc, "not a store: no superblock");
	o->super_good[1] = true;
	super_adopt(o, &o->super[1]);
	return 0;
}

/* ---- roots ---- */

static void roots_load(struct offline *o)
{
	for (uint32_t slot = 0; slot < 2; slot++) {
		for (uint32_t copy = 0; copy < 2; copy++) {
			struct root *root = &o->root[slot][copy];
			if (offline_read(o, offline_root_place(o, slot, copy), o->block, 1) < 0 ||
			    meta_block_check(o->block, MAGIC_ROOT, &o->uuid, NULL) < 0)
				continue;
			memcpy(root, o->block, sizeof(*root));
			o->root_good[slot][copy] = le64_get(root->generation) % 2 == slot;
		}
	}
}

const struct root *offline_newest_root(const struct offline *o)
{
	const struct root *newest = NULL;

	for (uint32_t i = 0; i < 4; i++) {
		const struct root *root = &o->root[i / 2][i % 2];
		if (!o->root_good[i / 2][i % 2])
			continue;
		if (!newest || le64_get(root->generation) > le64_get(newest->generation))
			newest = root;
	}
	return newest;
}

/* ---- open and close ---- */

struct closer {
	struct env_close close;
	struct co *co;
	bool is_done;
	bool is_waiting;
};

static void closer_done(struct env_close *close)
{
	struct closer *closer = CONTAINER_OF(close, struct closer, close);

	closer->is_done = true;
	if (closer->is_waiting)
		co_resume(closer->co);
}

static void disk_close(struct offline *o)
{
	/* On the heap: the coroutine may be destroyed meanwhile. */
	struct closer *closer = calloc(1, sizeof(*closer));

	if (!closer)
		return; /* the descriptor stays open: better than a callback into freed memory */
	closer->co = o->co;
	closer->close.done = closer_done;
	env_disk_close(o->env, o->disk, &closer->close);
	while (!closer->is_done) {
		closer->is_waiting = true;
		co_suspend(o->co);
		closer->is_waiting = false;
	}
	free(closer);
}

void offline_close(struct offline *o)
{
	if (!o)
		return;
	if (o->disk)
		disk_close(o);
	if (o->block)
		env_buf_free(o->env, o->block, BLOCK_BYTES);
	if (o->window)
		env_buf_free(o->env, o->window, (size_t)OFFLINE_WINDOW_BLOCKS * BLOCK_BYTES);
	free(o);
}

static int offline_load(struct offline *o, const char *path, struct err *err)
{
	struct env_disk_info info;

	o->block = env_buf_alloc(o->env, BLOCK_BYTES);
	o->window = env_buf_alloc(o->env, (size_t)OFFLINE_WINDOW_BLOCKS * BLOCK_BYTES);
	if (!o->block || !o->window)
		return err_set(err, -ENOMEM, "out of memory");
	int rc = env_disk_open(o->env, path, ENV_DISK_RDONLY, 0, &o->disk, err);
	if (rc < 0)
		return rc;
	device_init(&o->device, o->env, o->disk);
	env_disk_info(o->env, o->disk, &info);
	o->device_blocks = info.size_bytes / BLOCK_BYTES;
	rc = supers_load(o, err);
	if (rc == 0)
		roots_load(o);
	return rc;
}

int offline_open(struct co *co, struct env *env, const char *path, struct offline **ret,
		 struct err *err)
{
	struct offline *o = calloc(1, sizeof(*o));

	if (!o)
		return err_set(err, -ENOMEM, "store '%s': out of memory", path);
	o->co = co;
	o->env = env;
	int rc = offline_load(o, path, err);
	if (rc < 0) {
		offline_close(o);
		return err_wrap(err, rc, "store '%s'", path);
	}
	*ret = o;
	return 0;
}
