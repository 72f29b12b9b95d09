/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log entry memory.
 *
 * R1 A chunk is on exactly one list: free (nothing lives in it), partial[class] (has room), or none
 *    (full).
 * R2 A free cell's first two bytes link it to the next free cell of its chunk.
 * R3 Untouched memory stays untouched: cells are carved in order, so a store that keeps few entries
 *    does not fault the region in.
 */
#include "store/entry_pool.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK_BYTES (64u << 10)

static const uint16_t class_bytes[ENTRY_POOL_CLASSES] = {160, 256, 512, 1024, 2048, 3072, 4096};

int entry_pool_init(struct entry_pool *a, size_t bytes)
{
	memset(a, 0, sizeof(*a));
	list_init(&a->free_chunks);
	for (uint32_t i = 0; i < ENTRY_POOL_CLASSES; i++)
		list_init(&a->partial[i]);
	a->chunk_count = (uint32_t)MAX(DIV_UP(bytes, CHUNK_BYTES), (size_t)ENTRY_POOL_CLASSES * 2);
	a->bytes = (size_t)a->chunk_count * CHUNK_BYTES;
	a->chunks = calloc(a->chunk_count, sizeof(*a->chunks));
	void *base = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	a->base = base == MAP_FAILED ? NULL : base;
	if (!a->chunks || !a->base) {
		entry_pool_free(a);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < a->chunk_count; i++)
		list_push_back(&a->free_chunks, &a->chunks[i].link);
	return 0;
}

void entry_pool_free(struct entry_pool *a)
{
	if (a->base)
		munmap(a->base, a->bytes);
	free(a->chunks);
	memset(a, 0, sizeof(*a));
}

bool entry_pool_owns(const struct entry_pool *a, const void *cell)
{
	const char *p = cell;
	return a->base && p >= a->base && p < a->base + a->bytes;
}

static char *chunk_base(struct entry_pool *a, const struct entry_pool_chunk *chunk)
{
	return a->base + (size_t)(chunk - a->chunks) * CHUNK_BYTES;
}

void *entry_pool_take(struct entry_pool *a, size_t bytes)
{
	assert(bytes <= ENTRY_POOL_CELL_BYTES_MAX);
	uint32_t class = 0;
	while (class_bytes[class] < bytes)
		class ++;
	struct list *partial = &a->partial[class];
	if (list_empty(partial)) {
		struct list *link = list_pop_front(&a->free_chunks);
		if (!link)
			return NULL;
		struct entry_pool_chunk *fresh = CONTAINER_OF(link, struct entry_pool_chunk, link);
		fresh->class = (uint16_t) class;
		fresh->live = fresh->carved = fresh->free_head = 0;
		list_push_back(partial, link);
	}
	struct entry_pool_chunk *chunk = CONTAINER_OF(partial->next, struct entry_pool_chunk, link);
	uint32_t cells = CHUNK_BYTES / class_bytes[class];
	uint32_t index;
	if (chunk->free_head) {
		index = chunk->free_head - 1u;
		memcpy(&chunk->free_head, chunk_base(a, chunk) + (size_t)index * class_bytes[class],
		       sizeof(chunk->free_head));
	} else {
		index = chunk->carved++;
	}
	chunk->live++;
	if (!chunk->free_head && chunk->carved == cells)
		list_remove(&chunk->link); /* full */
	a->used_bytes += class_bytes[class];
	return chunk_base(a, chunk) + (size_t)index * class_bytes[class];
}

void entry_pool_give(struct entry_pool *a, void *cell)
{
	assert(entry_pool_owns(a, cell));
	size_t offset = (size_t)((char *)cell - a->base);
	struct entry_pool_chunk *chunk = &a->chunks[offset / CHUNK_BYTES];
	uint32_t cell_bytes = class_bytes[chunk->class];
	uint32_t index = (uint32_t)(offset % CHUNK_BYTES) / cell_bytes;
	assert(chunk->live > 0 && offset % CHUNK_BYTES % cell_bytes == 0);
	bool was_full = !chunk->free_head && chunk->carved == CHUNK_BYTES / cell_bytes;
	memcpy(cell, &chunk->free_head, sizeof(chunk->free_head));
	chunk->free_head = (uint16_t)(index + 1);
	a->used_bytes -= cell_bytes;
	chunk->live--;
	if (chunk->live == 0) {
		list_remove(&chunk->link);
		list_push_front(&a->free_chunks, &chunk->link);
	} else if (was_full) {
		list_push_back(&a->partial[chunk->class], &chunk->link);
	}
}
