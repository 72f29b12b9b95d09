/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_format: an empty store on a device or file.
 *
 * R1 Nothing is written before everything that could refuse has been looked at.
 * R2 The ring is zeroed, so that no descriptor of an older store at this place can be met. Of another
 *    store's: it has another uuid.
 * R3 Order: zeros, roots, flush, superblock copy 1, copy 0. A format that was cut short leaves no
 *    superblock, or a whole store.
 * R4 Both root slots are written (generations 0 and 1), so that from the first day a slot without a good copy
 *    means loss, never "not used yet".
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#define LOOK_BLOCKS         256u /* the first MiB */
#define RING_BYTES_MIN      (2ull << 20)
#define RING_BYTES_AUTO_MIN (16ull << 20)
#define RING_BYTES_MAX      (1ull << 30)

/* ---- what is there ---- */

static bool bytes_at(const char *buf, size_t offset, const char *magic, size_t length)
{
	return memcmp(buf + offset, magic, length) == 0;
}

/* Names what the first MiB holds; NULL: all zeros. */
static const char *foreign_data(const char *buf)
{
	uint32_t magic;
	memcpy(&magic, buf, sizeof(magic));
	if (magic == MAGIC_SUPERBLOCK)
		return "a Holdfast store";
	if (bytes_at(buf, 1024 + 56, "\x53\xef", 2))
		return "an ext2, ext3 or ext4 filesystem";
	if (bytes_at(buf, 0, "XFSB", 4))
		return "an XFS filesystem";
	if (bytes_at(buf, 65536 + 64, "_BHRfS_M", 8))
		return "a btrfs filesystem";
	if (bytes_at(buf, 0, "LUKS\xba\xbe", 6))
		return "a LUKS volume";
	if (bytes_at(buf, 512, "LABELONE", 8) || bytes_at(buf, 0, "LABELONE", 8))
		return "an LVM physical volume";
	if (bytes_at(buf, 4096, "\xfc\x4e\x2b\xa9", 4) || bytes_at(buf, 0, "\xfc\x4e\x2b\xa9", 4))
		return "a member of an MD RAID";
	if (bytes_at(buf, 4086, "SWAPSPACE2", 10))
		return "swap space";
	if (bytes_at(buf, 512, "EFI PART", 8))
		return "a GPT partition table";
	if (bytes_at(buf, 510, "\x55\xaa", 2))
		return "an MBR partition table or boot sector";
	for (size_t i = 0; i < LOOK_BLOCKS * BLOCK_BYTES; i++) {
		if (buf[i])
			return "data that is not zero";
	}
	return NULL;
}

/* ---- one job ---- */

struct format {
	struct co *co;
	struct env *env;
	struct env_disk *disk;
	const char *path;
	struct store_params params;
	struct err *err;
	char *buf; /* LOOK_BLOCKS blocks */
	struct env_io io;
	struct iovec iov;
	uint64_t size_blocks;
	uint64_t ring_blocks;
};

static int format_io(struct format *f, enum env_io_op op, uint32_t flags, uint64_t place,
		     uint32_t blocks)
{
	f->iov = (struct iovec){.iov_base = f->buf, .iov_len = (size_t)blocks * BLOCK_BYTES};
	memset(&f->io, 0, sizeof(f->io));
	f->io.op = op;
	f->io.flags = flags;
	f->io.offset_bytes = place * BLOCK_BYTES;
	f->io.iov = &f->iov;
	f->io.iov_count = op == ENV_IO_FLUSH ? 0 : 1;
	int rc = co_disk_io(f->co, f->disk, &f->io);
	if (rc < 0)
		return err_set(f->err, rc, "I/O at block %llu failed: %s",
			       (unsigned long long)place, err_name(rc));
	return 0;
}

static int format_geometry(struct format *f)
{
	struct env_disk_info info;
	env_disk_info(f->env, f->disk, &info);
	uint64_t size = info.size_bytes;
	if (size < STORE_SIZE_MIN_BYTES)
		return err_set(f->err, -EINVAL, "size is %llu bytes; a store needs at least %llu",
			       (unsigned long long)size, (unsigned long long)STORE_SIZE_MIN_BYTES);
	uint64_t ring = f->params.ring_bytes;
	if (ring == 0) {
		ring = size / 16 / (1u << 20) * (1u << 20);
		ring = MIN(MAX(ring, RING_BYTES_AUTO_MIN), RING_BYTES_MAX);
	}
	if (ring % (1u << 20) != 0 || ring < RING_BYTES_MIN || ring > RING_BYTES_MAX ||
	    ring > size / 2)
		return err_set(f->err, -EINVAL,
			       "ring_bytes is %llu; whole MiB from %llu to half the store's "
			       "size and at most %llu are possible",
			       (unsigned long long)ring, (unsigned long long)RING_BYTES_MIN,
			       (unsigned long long)RING_BYTES_MAX);
	f->size_blocks = size / BLOCK_BYTES;
	f->ring_blocks = ring / BLOCK_BYTES;
	return 0;
}

static int format_refuse(struct format *f)
{
	int rc = format_io(f, ENV_IO_READ, 0, 0, LOOK_BLOCKS);
	if (rc < 0 || f->params.force)
		return rc;
	const char *found = foreign_data(f->buf);
	if (found)
		return err_set(f->err, -EEXIST, "it holds %s; force overwrites it", found);
	return 0;
}

static int format_zero(struct format *f)
{
	uint64_t end = PLACE_RING + f->ring_blocks + RING_TRAILER_BLOCKS;
	memset(f->buf, 0, (size_t)LOOK_BLOCKS * BLOCK_BYTES);
	for (uint64_t place = 0; place < end;) {
		uint32_t n = (uint32_t)MIN((uint64_t)LOOK_BLOCKS, end - place);
		int rc = format_io(f, ENV_IO_WRITE, 0, place, n);
		if (rc < 0)
			return rc;
		place += n;
	}
	return 0;
}

static int format_roots(struct format *f)
{
	struct root *root = (struct root *)f->buf;
	uint64_t salt = env_random(f->env);
	for (uint32_t slot = 0; slot < 2; slot++) {
		memset(f->buf, 0, BLOCK_BYTES);
		root->generation = le64_make(slot);
		root->incarnation = le64_make(1);
		root->salt = le64_make(salt);
		root->batch_no = le64_make(1);
		root->time_ms = le64_make(env_wall_ms(f->env));
		root->node_next = le64_make(1);
		block_seal(f->buf, MAGIC_ROOT, 0, 0, &f->params.uuid);
		for (uint32_t copy = 0; copy < 2; copy++) {
			uint64_t place = copy == 0 ? PLACE_ROOT_0 + slot
						   : PLACE_RING + f->ring_blocks + slot;
			int rc = format_io(f, ENV_IO_WRITE, 0, place, 1);
			if (rc < 0)
				return rc;
		}
	}
	return format_io(f, ENV_IO_FLUSH, 0, 0, 0);
}

static int format_super(struct format *f)
{
	struct superblock *sb = (struct superblock *)f->buf;
	memset(f->buf, 0, BLOCK_BYTES);
	sb->size_blocks = le64_make(f->size_blocks);
	sb->ring_blocks = le64_make(f->ring_blocks);
	sb->data_start = le64_make(PLACE_RING + f->ring_blocks + RING_TRAILER_BLOCKS);
	sb->created_ms = le64_make(env_wall_ms(f->env));
	sb->segment_blocks = le32_make(SEGMENT_BLOCKS);
	block_seal(f->buf, MAGIC_SUPERBLOCK, 0, 0, &f->params.uuid);
	int rc = format_io(f, ENV_IO_WRITE, ENV_IO_DSYNC, PLACE_RING + f->ring_blocks + 2, 1);
	if (rc == 0)
		rc = format_io(f, ENV_IO_WRITE, ENV_IO_DSYNC, PLACE_SUPER_0, 1);
	return rc;
}

static int format_run(struct format *f)
{
	int rc = format_geometry(f);
	if (rc == 0)
		rc = format_refuse(f);
	if (rc == 0)
		rc = format_zero(f);
	if (rc == 0)
		rc = format_roots(f);
	if (rc == 0)
		rc = format_super(f);
	return rc;
}

int store_format(struct co *co, struct env *env, const char *path,
		 const struct store_params *params, struct err *err)
{
	struct format *f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(err, -ENOMEM, "store '%s': out of memory", path);
	*f = (struct format){.co = co, .env = env, .path = path, .params = *params, .err = err};
	if (uuid_is_zero(&f->params.uuid))
		env_random_uuid(env, &f->params.uuid);
	int rc = 0;
	if (params->size_bytes && params->size_bytes < STORE_SIZE_MIN_BYTES)
		rc = err_set(err, -EINVAL, "size is %llu bytes; a store needs at least %llu",
			     (unsigned long long)params->size_bytes,
			     (unsigned long long)STORE_SIZE_MIN_BYTES);
	if (rc == 0)
		rc = env_disk_open(env, path, params->size_bytes ? ENV_DISK_CREATE : 0,
				   params->size_bytes, &f->disk, err);
	if (rc == 0) {
		f->buf = env_buf_alloc(env, (size_t)LOOK_BLOCKS * BLOCK_BYTES);
		rc = f->buf ? format_run(f) : err_set(err, -ENOMEM, "out of memory");
		store_disk_close(co, env, f->disk);
	}
	if (f->buf)
		env_buf_free(env, f->buf, (size_t)LOOK_BLOCKS * BLOCK_BYTES);
	free(f);
	return rc < 0 ? err_wrap(err, rc, "store '%s'", path) : 0;
}
