/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block cache.
 *
 *   get --hit--> frame
 *    '--miss--> read slot with that key, or a free one, or the queue --> verified --> frame +
 * ready()
 *
 * C1  A frame holds only bytes that were verified against the crc it is filed under, and at most
 *     one frame holds a place.
 * C2  Reads land in the slot's own buffer, so frames have no "being read" state and are never
 *     pinned: nobody keeps a pointer into the cache across a suspension.
 * C3  A slot is released after its waiters ran; those waiters may ask for more, which queues
 *     when no slot is left. Reads in flight are bounded by SLOTS.
 */
#include "store/cache.h"

#include <errno.h>
#include <stdlib.h>

#include "store/batch_io.h"
#include "store/meta_block.h"

#define SLOTS      64u
#define FRAMES_MIN 64u
#define NONE       UINT32_MAX

struct frame {
	uint64_t place; /* 0: free */
	uint32_t crc32c;
	uint32_t next; /* of its hash chain */
	bool recent;   /* clock */
};

struct slot {
	struct device_io dio;
	struct iovec iov;
	struct cache *cache;
	struct cache_key key;
	struct list waiters;
	bool busy;
	bool reading; /* busy and not yet delivering: can be joined */
};

struct cache {
	struct device *device;
	struct uuid store_uuid;
	uint32_t frame_count;
	uint32_t hash_mask;
	uint32_t hand;
	struct frame *frames;
	uint32_t *hash;  /* head of each chain */
	uint8_t *memory; /* frame_count blocks, then SLOTS read buffers */
	struct list starved;
	uint64_t blocks_read;
	struct slot slots[SLOTS];
};

static uint64_t memory_bytes(const struct cache *cache)
{
	return (uint64_t)(cache->frame_count + SLOTS) * BLOCK_BYTES;
}

struct cache *cache_create(struct device *device, uint64_t cache_bytes_max,
			   const struct uuid *store_uuid)
{
	struct cache *cache = calloc(1, sizeof(*cache));
	if (!cache)
		return NULL;
	cache->device = device;
	cache->store_uuid = *store_uuid;
	cache->frame_count =
		(uint32_t)MAX(MIN(cache_bytes_max / BLOCK_BYTES, 1ull << 28), FRAMES_MIN);
	uint32_t hash_size = 1;
	while (hash_size < cache->frame_count)
		hash_size *= 2;
	cache->hash_mask = hash_size - 1;
	cache->frames = calloc(cache->frame_count, sizeof(cache->frames[0]));
	cache->hash = malloc(hash_size * sizeof(cache->hash[0]));
	cache->memory = lazy_alloc(memory_bytes(cache));
	list_init(&cache->starved);
	for (uint32_t i = 0; i < SLOTS; i++) {
		cache->slots[i].cache = cache;
		list_init(&cache->slots[i].waiters);
	}
	if (!cache->frames || !cache->hash || !cache->memory) {
		cache_destroy(cache);
		return NULL;
	}
	memset(cache->hash, 0xff, hash_size * sizeof(cache->hash[0]));
	return cache;
}

void cache_destroy(struct cache *cache)
{
	if (!cache)
		return;
	free(cache->frames);
	free(cache->hash);
	lazy_free(cache->memory, memory_bytes(cache));
	free(cache);
}

uint64_t cache_bytes(const struct cache *cache)
{
	return (uint64_t)cache->frame_count * BLOCK_BYTES;
}

/* ---- frames ---- */

static uint32_t *chain_of(struct cache *cache, uint64_t place)
{
	uint64_t mixed = place * 0x9e3779b97f4a7c15ull;
	return &cache->hash[(uint32_t)(mixed >> 32) & cache->hash_mask];
}

static uint32_t frame_find(struct cache *cache, uint64_t place)
{
	uint32_t i = *chain_of(cache, place);
	while (i != NONE && cache->frames[i].place != place)
		i = cache->frames[i].next;
	return i;
}

static void *frame_block(const struct cache *cache, uint32_t i)
{
	return cache->memory + (size_t)i * BLOCK_BYTES;
}

static void frame_unlink(struct cache *cache, uint32_t i)
{
	uint32_t *link = chain_of(cache, cache->frames[i].place);
	while (*link != i)
		link = &cache->frames[*link].next;
	*link = cache->frames[i].next;
	cache->frames[i].place = 0;
}

static uint32_t frame_take(struct cache *cache)
{
	for (;;) {
		uint32_t i = cache->hand;
		struct frame *frame = &cache->frames[i];
		cache->hand = (i + 1) % cache->frame_count;
		if (frame->place == 0)
			return i;
		if (!frame->recent) {
			frame_unlink(cache, i);
			return i;
		}
		frame->recent = false;
	}
}

const void *cache_peek(struct cache *cache, const struct cache_key *key)
{
	uint32_t i = frame_find(cache, key->place);

	if (i == NONE || cache->frames[i].crc32c != key->crc32c)
		return NULL;
	const struct block_header *h = frame_block(cache, i);
	if (le32_get(h->magic) != key->magic)
		return NULL;
	cache->frames[i].recent = true;
	return h;
}

void cache_put(struct cache *cache, const struct cache_key *key, const void *block)
{
	uint32_t i = frame_find(cache, key->place);

	if (i == NONE) {
		i = frame_take(cache);
		uint32_t *chain = chain_of(cache, key->place);
		cache->frames[i].next = *chain;
		*chain = i;
	}
	cache->frames[i].place = key->place;
	cache->frames[i].crc32c = key->crc32c;
	cache->frames[i].recent = true;
	memcpy(frame_block(cache, i), block, BLOCK_BYTES);
}

void cache_drop(struct cache *cache, uint64_t place)
{
	uint32_t i = frame_find(cache, place);
	if (i != NONE)
		frame_unlink(cache, i);
}

/* ---- reads ---- */

static void slot_done(struct device_io *dio, int status);

static bool key_equal(const struct cache_key *a, const struct cache_key *b)
{
	return a->place == b->place && a->crc32c == b->crc32c && a->magic == b->magic;
}

static void *slot_block(struct cache *cache, const struct slot *slot)
{
	return frame_block(cache, cache->frame_count + (uint32_t)(slot - cache->slots));
}

static void slot_start(struct cache *cache, struct slot *slot, const struct cache_key *key)
{
	cache->blocks_read++;
	slot->busy = true;
	slot->reading = true;
	slot->key = *key;
	slot->iov = (struct iovec){slot_block(cache, slot), BLOCK_BYTES};
	slot->dio.done = slot_done;
	slot->dio.io = (struct env_io){.op = ENV_IO_READ,
				       .offset_bytes = key->place * BLOCK_BYTES,
				       .iov = &slot->iov,
				       .iov_count = 1};
	device_submit(cache->device, &slot->dio);
}

/* Joins a read of the same block, starts one, or queues. */
static void wait_enqueue(struct cache *cache, struct cache_wait *wait)
{
	struct slot *free_slot = NULL;

	for (uint32_t i = 0; i < SLOTS; i++) {
		struct slot *slot = &cache->slots[i];
		if (!slot->busy) {
			free_slot = slot;
		} else if (slot->reading && key_equal(&slot->key, &wait->key)) {
			list_push_back(&slot->waiters, &wait->link);
			return;
		}
	}
	if (!free_slot) {
		list_push_back(&cache->starved, &wait->link);
		return;
	}
	list_push_back(&free_slot->waiters, &wait->link);
	slot_start(cache, free_slot, &wait->key);
}

static void slot_done(struct device_io *dio, int status)
{
	struct slot *slot = CONTAINER_OF(dio, struct slot, dio);
	struct cache *cache = slot->cache;
	const void *block = slot_block(cache, slot);
	struct list waiters, *node;

	slot->reading = false;
	if (status == 0)
		status = meta_block_check(block, slot->key.magic, &cache->store_uuid,
					  &slot->key.crc32c);
	if (status == 0)
		cache_put(cache, &slot->key, block);
	list_init(&waiters);
	list_splice_back(&waiters, &slot->waiters);
	while ((node = list_pop_front(&waiters))) {
		struct cache_wait *wait = CONTAINER_OF(node, struct cache_wait, link);
		wait->ready(wait, status == 0 ? block : NULL, status);
	}
	slot->busy = false;
	struct list starved;
	list_init(&starved);
	list_splice_back(&starved, &cache->starved);
	while ((node = list_pop_front(&starved)))
		wait_enqueue(cache, CONTAINER_OF(node, struct cache_wait, link));
}

const void *cache_get(struct cache *cache, const struct cache_key *key, struct cache_wait *wait)
{
	const void *block = cache_peek(cache, key);
	if (block)
		return block;
	wait->key = *key;
	wait_enqueue(cache, wait);
	return NULL;
}

/* ---- coroutines ---- */

struct cache_co {
	struct cache_wait wait;
	struct co *co;
	void *copy;
	int status;
	bool done;
};

static void cache_co_ready(struct cache_wait *wait, const void *block, int status)
{
	struct cache_co *self = CONTAINER_OF(wait, struct cache_co, wait);

	self->status = status;
	self->done = true;
	if (block)
		memcpy(self->copy, block, BLOCK_BYTES);
	co_resume(self->co);
}

int cache_read(struct co *co, struct cache *cache, const struct cache_key *key, void *copy)
{
	struct cache_co self = {.wait.ready = cache_co_ready, .co = co, .copy = copy};
	const void *block = cache_get(cache, key, &self.wait);

	if (block) {
		memcpy(copy, block, BLOCK_BYTES);
		return 0;
	}
	while (!self.done)
		co_suspend(co);
	return self.status;
}

uint64_t cache_blocks_read(const struct cache *cache)
{
	return cache->blocks_read;
}
