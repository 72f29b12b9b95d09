/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Superblock and checkpoint roots.
 *
 * R1 A root of generation g is in slot g % 2, twice. It is written copy by copy, each durable before
 *    the next, so a crash leaves at most one bad copy in a slot; the other still holds
 *    generation g - 2, or g already.
 * R2 Hence both copies of a slot bad is never a crash. It may have been the newest root: the
 *    store is lost, never an older state taken for the newest (reliability.md: "an older root
 *    never votes").
 * R3 The superblock holds constants, hints and the bad-block list; the copy with the higher update counts.
 * R4 Before recovery writes anything else, both copies of the newest root are made good and durable: the
 *    next root overwrites the older generation, and were the newest left with one copy, a crash and one rot
 *    after it would bring an older root back.
 */
#include "store/internal.h"

#include <errno.h>

uint64_t root_place(const struct store *store, uint32_t slot, uint32_t copy)
{
	return copy == 0 ? PLACE_ROOT_0 + slot : PLACE_RING + store->ring_blocks + slot;
}

static int super_check(const struct superblock *sb, uint64_t device_blocks, struct err *err)
{
	uint64_t size = le64_get(sb->size_blocks), ring = le64_get(sb->ring_blocks);
	if (size > device_blocks)
		return err_set(err, -EUCLEAN,
			       "superblock: the store has %llu blocks, the device only %llu",
			       (unsigned long long)size, (unsigned long long)device_blocks);
	if (ring < 4 * BATCH_BLOCKS_MAX || ring > size ||
	    le64_get(sb->data_start) != PLACE_RING + ring + RING_TRAILER_BLOCKS ||
	    le64_get(sb->data_start) >= size || le32_get(sb->segment_blocks) != SEGMENT_BLOCKS ||
	    le32_get(sb->bad_count) > ARRAY_LEN(sb->bad))
		return err_set(err, -EUCLEAN, "superblock: its geometry does not add up");
	for (uint32_t i = 0; i < le32_get(sb->bad_count); i++) {
		uint64_t place = le64_get(sb->bad[i]);
		if (place == 0 || place >= size || (i > 0 && place <= le64_get(sb->bad[i - 1])))
			return err_set(err, -EUCLEAN,
				       "superblock: its bad-block list does not add up at entry %u",
				       i);
	}
	return 0;
}

/* 1: this block is a usable superblock; 0: it is not; -EPROTO: of a newer version. */
static int super_try(const void *block, struct err *err)
{
	const struct superblock *sb = block;
	if (le32_get(sb->h.magic) != MAGIC_SUPERBLOCK)
		return 0;
	if (block_crc(block) != le32_get(sb->h.crc32c))
		return 0;
	if (le16_get(sb->h.version) != STORE_FORMAT_VERSION)
		return err_set(err, -EPROTO, "store format version %u; this program knows %u",
			       le16_get(sb->h.version), STORE_FORMAT_VERSION);
	return 1;
}

static int super_adopt(struct store *store, const void *block, uint64_t device_blocks,
		       struct err *err)
{
	const struct superblock *sb = block;
	int rc = super_check(sb, device_blocks, err);
	if (rc < 0)
		return rc;
	memcpy(store->super, block, BLOCK_BYTES);
	store->uuid = sb->h.store_uuid;
	store->size_blocks = le64_get(sb->size_blocks);
	store->ring_blocks = le64_get(sb->ring_blocks);
	store->data_start = le64_get(sb->data_start);
	return 0;
}

/* Copy 1 is where the ring ends, which copy 0 would tell: without it, look at every place that a ring
 * size allows (whole MiB). */
static int super_search(struct co *co, struct store *store, uint64_t device_blocks, struct err *err)
{
	char *block = store->checkpoint.block;
	uint64_t ring_max = MIN(device_blocks, (2ull << 30) / BLOCK_BYTES);
	for (uint64_t ring = 256; ring < ring_max; ring += 256) {
		uint64_t place = PLACE_RING + ring + 2;
		if (place >= device_blocks)
			break;
		int rc = store_io(co, store, ENV_IO_READ, 0, place, block, 1);
		if (rc < 0)
			continue; /* an unreadable block is not the copy */
		rc = super_try(block, err);
		if (rc < 0)
			return rc;
		if (rc == 1 && le64_get(((struct superblock *)block)->ring_blocks) == ring)
			return super_adopt(store, block, device_blocks, err);
	}
	return err_set(err, -ENODEV, "not a store: no superblock");
}

/* Copy 0 is adopted: is copy 1 newer? R3 */
static int super_newer(struct co *co, struct store *store, uint64_t device_blocks, struct err *err)
{
	char *block = store->checkpoint.block;
	const struct superblock *sb = (const struct superblock *)block;
	struct err ignored = {0};
	int rc = store_io(co, store, ENV_IO_READ, 0, PLACE_RING + store->ring_blocks + 2, block, 1);
	if (rc < 0 || super_try(block, &ignored) != 1 ||
	    !uuid_equal(&sb->h.store_uuid, &store->uuid) ||
	    le64_get(sb->update) <= le64_get(store->super->update))
		return 0;
	return super_adopt(store, block, device_blocks, err);
}

int super_read(struct co *co, struct store *store, struct err *err)
{
	struct env_disk_info info;
	env_disk_info(store->env, store->disk, &info);
	uint64_t device_blocks = info.size_bytes / BLOCK_BYTES;
	char *block = store->checkpoint.block;
	if (device_blocks < PLACE_RING + 512)
		return err_set(err, -ENODEV, "not a store: %llu bytes are too few",
			       (unsigned long long)info.size_bytes);
	int rc = store_io(co, store, ENV_IO_READ, 0, PLACE_SUPER_0, block, 1);
	if (rc == 0) {
		rc = super_try(block, err);
		if (rc < 0)
			return rc;
		if (rc == 1) {
			rc = super_adopt(store, block, device_blocks, err);
			return rc < 0 ? rc : super_newer(co, store, device_blocks, err);
		}
	}
	return super_search(co, store, device_blocks, err);
}

int super_write(struct co *co, struct store *store)
{
	struct superblock *sb = store->super;
	uint64_t places[] = {PLACE_SUPER_0, PLACE_RING + store->ring_blocks + 2};
	int good = 0, rc = 0;
	sb->update = le64_make(le64_get(sb->update) + 1);
	block_seal(sb, MAGIC_SUPERBLOCK, 0, 0, &store->uuid);
	store->checkpoint.dio.expendable = true; /* one copy is enough */
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		int status =
			store_io_always(co, store, ENV_IO_WRITE, ENV_IO_DSYNC, places[i], sb, 1);
		good += status == 0;
		rc = status < 0 ? status : rc;
	}
	store->checkpoint.dio.expendable = false;
	return good > 0 ? 0 : rc;
}

/* ---- roots ---- */

enum root_copy { ROOT_BAD, ROOT_GOOD };

static int root_copy_read(struct co *co, struct store *store, uint32_t slot, uint32_t copy,
			  struct root *ret, enum root_copy *state, struct err *err)
{
	char *block = store->checkpoint.block;
	*state = ROOT_BAD;
	int rc = store_io(co, store, ENV_IO_READ, 0, root_place(store, slot, copy), block, 1);
	const struct root *root = (const struct root *)block;
	if (rc < 0 || le32_get(root->h.magic) != MAGIC_ROOT ||
	    block_crc(block) != le32_get(root->h.crc32c) ||
	    !uuid_equal(&root->h.store_uuid, &store->uuid) ||
	    le64_get(root->generation) % 2 != slot)
		return 0;
	if (le16_get(root->h.version) != STORE_FORMAT_VERSION)
		return err_set(err, -EPROTO, "root format version %u; this program knows %u",
			       le16_get(root->h.version), STORE_FORMAT_VERSION);
	*state = ROOT_GOOD;
	*ret = *root;
	return 0;
}

int root_pick(struct co *co, struct store *store, struct root *ret, struct err *err)
{
	bool any = false;
	for (uint32_t slot = 0; slot < 2; slot++) {
		uint32_t good = 0;
		for (uint32_t copy = 0; copy < 2; copy++) {
			struct root root;
			enum root_copy state;
			int rc = root_copy_read(co, store, slot, copy, &root, &state, err);
			if (rc < 0)
				return rc;
			if (state == ROOT_BAD)
				continue;
			good++;
			if (!any || le64_get(root.generation) > le64_get(ret->generation))
				*ret = root;
			any = true;
		}
		if (good == 0) /* R2 */
			return store_lost(err, slot == 0 ? "both copies of root slot 0 are bad"
							 : "both copies of root slot 1 are bad");
	}
	uint32_t unknown = le32_get(ret->feature_required) & ~FEATURES_KNOWN;
	if (unknown)
		return err_set(err, -EPROTO, "the store uses %s%s%s%s: needs a newer version",
			       unknown & FEATURE_SEALED_PAGES ? "sealed pages " : "",
			       unknown & FEATURE_DEDUP ? "deduplication " : "",
			       unknown & FEATURE_SNAPSHOTS ? "snapshots " : "",
			       unknown > 7 ? "unknown features" : "");
	return 0;
}

int root_repair(struct co *co, struct store *store, const struct root *root)
{
	uint32_t slot = (uint32_t)(le64_get(root->generation) % 2);
	for (uint32_t copy = 0; copy < 2; copy++) {
		struct root there;
		enum root_copy state;
		int rc = root_copy_read(co, store, slot, copy, &there, &state, NULL);
		if (rc == 0 && state == ROOT_GOOD && there.generation.raw == root->generation.raw)
			continue;
		char *block = store->checkpoint.block;
		memset(block, 0, BLOCK_BYTES);
		memcpy(block, root, sizeof(*root));
		block_seal(block, MAGIC_ROOT, 0, 0, &store->uuid);
		rc = store_io(co, store, ENV_IO_WRITE, ENV_IO_DSYNC, root_place(store, slot, copy),
			      block, 1);
		if (rc < 0)
			return rc;
	}
	/* What was read may have been in the drive's cache only. */
	return store_io(co, store, ENV_IO_FLUSH, 0, 0, NULL, 0);
}

int root_write(struct co *co, struct store *store, struct root *root)
{
	char *block = store->checkpoint.block;
	uint32_t slot = (uint32_t)(le64_get(root->generation) % 2);
	memset(block, 0, BLOCK_BYTES);
	memcpy(block, root, sizeof(*root));
	block_seal(block, MAGIC_ROOT, 0, 0, &store->uuid);
	for (uint32_t copy = 0; copy < 2; copy++) {
		int rc = store_io(co, store, ENV_IO_WRITE, ENV_IO_DSYNC,
				  root_place(store, slot, copy), block, 1);
		if (rc < 0)
			return rc;
	}
	return 0;
}
