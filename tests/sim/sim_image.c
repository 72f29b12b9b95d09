/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images: a table of chunks of blocks, both counted references.
 *
 * M1  A chunk or block with more than one reference is never written; a writer first takes its own.
 * M2  A block of zeros is NULL, a chunk without blocks may be NULL, so images stay sparse and
 *     equal contents have equal digests.
 */
#include <stdlib.h>

#include "tests/sim/sim_priv.h"

#define CHUNK_BLOCKS 256u
#define SECTOR_BYTES 512u

struct chunk {
	uint32_t refs;
	struct sim_block *block[CHUNK_BLOCKS];
};

struct sim_image {
	uint64_t size_bytes;
	uint32_t chunk_count;
	struct chunk *chunk[];
};

static const uint8_t zero_bytes[BLOCK_BYTES];

struct sim_block *sim_block_create(const void *bytes)
{
	if (memcmp(bytes, zero_bytes, BLOCK_BYTES) == 0)
		return NULL;
	struct sim_block *block = malloc(sizeof(*block));
	assert(block != NULL);
	block->refs = 1;
	memcpy(block->bytes, bytes, BLOCK_BYTES);
	return block;
}

void sim_block_put(struct sim_block *block)
{
	if (block && --block->refs == 0)
		free(block);
}

struct sim_block *sim_block_tear(const struct sim_block *old, const struct sim_block *fresh,
				 uint8_t sector_mask)
{
	uint8_t bytes[BLOCK_BYTES];
	memcpy(bytes, old ? old->bytes : zero_bytes, BLOCK_BYTES);
	for (unsigned i = 0; i < BLOCK_BYTES / SECTOR_BYTES; i++) {
		const uint8_t *from = (fresh ? fresh->bytes : zero_bytes) + i * SECTOR_BYTES;
		if (sector_mask >> i & 1)
			memcpy(bytes + i * SECTOR_BYTES, from, SECTOR_BYTES);
	}
	return sim_block_create(bytes);
}

static void chunk_put(struct chunk *chunk)
{
	if (!chunk || --chunk->refs != 0)
		return;
	for (unsigned i = 0; i < CHUNK_BLOCKS; i++)
		sim_block_put(chunk->block[i]);
	free(chunk);
}

/* The chunk, owned by this image alone (M1). */
static struct chunk *chunk_own(struct sim_image *image, uint64_t chunk_index)
{
	struct chunk *old = image->chunk[chunk_index];
	if (old && old->refs == 1)
		return old;
	struct chunk *chunk = sim_alloc(sizeof(*chunk));
	chunk->refs = 1;
	if (old) {
		for (unsigned i = 0; i < CHUNK_BLOCKS; i++)
			chunk->block[i] = sim_block_get(old->block[i]);
		old->refs--;
	}
	image->chunk[chunk_index] = chunk;
	return chunk;
}

struct sim_image *sim_image_create(uint64_t size_bytes)
{
	uint64_t chunk_count = DIV_UP(size_bytes, (uint64_t)CHUNK_BLOCKS * BLOCK_BYTES);
	struct sim_image *image = sim_alloc(sizeof(*image) + chunk_count * sizeof(image->chunk[0]));
	image->size_bytes = size_bytes;
	image->chunk_count = (uint32_t)chunk_count;
	return image;
}

struct sim_image *sim_image_clone(struct sim_image *image)
{
	struct sim_image *clone = sim_image_create(image->size_bytes);
	for (uint32_t i = 0; i < image->chunk_count; i++) {
		clone->chunk[i] = image->chunk[i];
		if (clone->chunk[i])
			clone->chunk[i]->refs++;
	}
	return clone;
}

void sim_image_free(struct sim_image *image)
{
	if (!image)
		return;
	for (uint32_t i = 0; i < image->chunk_count; i++)
		chunk_put(image->chunk[i]);
	free(image);
}

uint64_t sim_image_size_bytes(const struct sim_image *image)
{
	return image->size_bytes;
}

struct sim_block *sim_image_block(const struct sim_image *image, uint64_t block_index)
{
	assert(block_index < image->size_bytes / BLOCK_BYTES);
	struct chunk *chunk = image->chunk[block_index / CHUNK_BLOCKS];
	return chunk ? chunk->block[block_index % CHUNK_BLOCKS] : NULL;
}

void sim_image_block_set(struct sim_image *image, uint64_t block_index, struct sim_block *block)
{
	struct sim_block *old = sim_image_block(image, block_index);
	if (old == block)
		return;
	sim_block_get(block);
	struct chunk *chunk = chunk_own(image, block_index / CHUNK_BLOCKS);
	sim_block_put(chunk->block[block_index % CHUNK_BLOCKS]);
	chunk->block[block_index % CHUNK_BLOCKS] = block;
}

void sim_image_read(const struct sim_image *image, uint64_t offset_bytes, void *buf,
		    size_t length_bytes)
{
	assert(offset_bytes + length_bytes <= image->size_bytes);
	uint8_t *to = buf;
	while (length_bytes != 0) {
		size_t skip = offset_bytes % BLOCK_BYTES;
		size_t n = MIN(length_bytes, BLOCK_BYTES - skip);
		struct sim_block *block = sim_image_block(image, offset_bytes / BLOCK_BYTES);
		memcpy(to, (block ? block->bytes : zero_bytes) + skip, n);
		to += n;
		offset_bytes += n;
		length_bytes -= n;
	}
}

void sim_image_write(struct sim_image *image, uint64_t offset_bytes, const void *buf,
		     size_t length_bytes)
{
	assert(offset_bytes + length_bytes <= image->size_bytes);
	const uint8_t *from = buf;
	while (length_bytes != 0) {
		size_t skip = offset_bytes % BLOCK_BYTES;
		size_t n = MIN(length_bytes, BLOCK_BYTES - skip);
		uint8_t bytes[BLOCK_BYTES];
		sim_image_read(image, offset_bytes - skip, bytes, BLOCK_BYTES);
		memcpy(bytes + skip, from, n);
		struct sim_block *block = sim_block_create(bytes);
		sim_image_block_set(image, offset_bytes / BLOCK_BYTES, block);
		sim_block_put(block);
		from += n;
		offset_bytes += n;
		length_bytes -= n;
	}
}

void sim_image_flip(struct sim_image *image, uint64_t offset_bytes, unsigned bit)
{
	uint8_t byte;
	sim_image_read(image, offset_bytes, &byte, 1);
	byte ^= (uint8_t)(1u << bit);
	sim_image_write(image, offset_bytes, &byte, 1);
}

static bool block_equal(const struct sim_block *a, const struct sim_block *b)
{
	if (a == b)
		return true;
	return a && b && memcmp(a->bytes, b->bytes, BLOCK_BYTES) == 0;
}

bool sim_image_equal(const struct sim_image *a, const struct sim_image *b)
{
	if (a->size_bytes != b->size_bytes)
		return false;
	for (uint64_t i = 0; i < a->size_bytes / BLOCK_BYTES; i++) {
		if (i % CHUNK_BLOCKS == 0 &&
		    a->chunk[i / CHUNK_BLOCKS] == b->chunk[i / CHUNK_BLOCKS]) {
			i += CHUNK_BLOCKS - 1;
			continue;
		}
		if (!block_equal(sim_image_block(a, i), sim_image_block(b, i)))
			return false;
	}
	return true;
}

uint64_t sim_image_digest(const struct sim_image *image)
{
	uint64_t hash = image->size_bytes;
	for (uint32_t c = 0; c < image->chunk_count; c++) {
		struct chunk *chunk = image->chunk[c];
		for (unsigned i = 0; chunk && i < CHUNK_BLOCKS; i++) {
			if (!chunk->block[i])
				continue;
			uint64_t index = (uint64_t)c * CHUNK_BLOCKS + i;
			hash = sim_hash_bytes(hash, &index, sizeof(index));
			hash = sim_hash_bytes(hash, chunk->block[i]->bytes, BLOCK_BYTES);
		}
	}
	return hash;
}
