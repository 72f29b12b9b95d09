/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nine classes, 4 KiB << 0..8. Each class reserves bytes_max of address space and hands it out from
 * the front (`fresh`), later from a stack of returned buffers that is threaded through the buffers
 * themselves. The bound counts class sizes over all classes.
 */
#include "base/bufpool.h"

#include <stdlib.h>
#include <sys/mman.h>

#define CLASSES 9u
static_assert((BLOCK_BYTES << (CLASSES - 1)) == BUFPOOL_BUF_BYTES_MAX, "classes cover the maximum");

struct bufpool_class {
	uint8_t *base;
	size_t fresh_bytes; /* handed out from the front so far */
	void *returned;     /* stack */
	size_t out_count;
};

struct bufpool {
	size_t bytes_max;
	size_t used_bytes;
	struct bufpool_class classes[CLASSES];
};

static unsigned class_of(size_t bytes)
{
	unsigned class = 0;
	while (((size_t)BLOCK_BYTES << class) < bytes)
		class ++;
	return class;
}

struct bufpool *bufpool_create(size_t bytes_max)
{
	struct bufpool *pool = calloc(1, sizeof(*pool));
	if (pool == NULL)
		return NULL;
	pool->bytes_max = MAX(ALIGN_UP(bytes_max, BUFPOOL_BUF_BYTES_MAX), BUFPOOL_BUF_BYTES_MAX);
	for (unsigned i = 0; i < CLASSES; i++) {
		void *base = mmap(NULL, pool->bytes_max, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (base == MAP_FAILED) {
			bufpool_destroy(pool);
			return NULL;
		}
		pool->classes[i].base = base;
	}
	return pool;
}

void bufpool_destroy(struct bufpool *pool)
{
	if (pool == NULL)
		return;
	for (unsigned i = 0; i < CLASSES; i++)
		if (pool->classes[i].base != NULL)
			munmap(pool->classes[i].base, pool->bytes_max);
	free(pool);
}

void *bufpool_get(struct bufpool *pool, size_t bytes)
{
	assert(bytes > 0 && bytes <= BUFPOOL_BUF_BYTES_MAX);
	unsigned class = class_of(bytes);
	size_t class_bytes = (size_t)BLOCK_BYTES << class;
	struct bufpool_class *c = &pool->classes[class];
	if (pool->used_bytes + class_bytes > pool->bytes_max)
		return NULL;
	void *buf = c->returned;
	if (buf != NULL) {
		memcpy(&c->returned, buf, sizeof(c->returned));
	} else {
		assert(c->fresh_bytes + class_bytes <= pool->bytes_max);
		buf = c->base + c->fresh_bytes;
		c->fresh_bytes += class_bytes;
	}
	c->out_count++;
	pool->used_bytes += class_bytes;
	return buf;
}

void bufpool_put(struct bufpool *pool, void *buf, size_t bytes)
{
	if (buf == NULL)
		return;
	unsigned class = class_of(bytes);
	struct bufpool_class *c = &pool->classes[class];
	assert(c->out_count > 0);
	memcpy(buf, &c->returned, sizeof(c->returned));
	c->returned = buf;
	c->out_count--;
	pool->used_bytes -= (size_t)BLOCK_BYTES << class;
}

size_t bufpool_used_bytes(const struct bufpool *pool)
{
	return pool->used_bytes;
}

void bufpool_trim(struct bufpool *pool)
{
	for (unsigned i = 0; i < CLASSES; i++) {
		struct bufpool_class *c = &pool->classes[i];
		if (c->out_count > 0 || c->fresh_bytes == 0)
			continue;
		(void)madvise(c->base, c->fresh_bytes, MADV_DONTNEED); /* best effort */
		c->fresh_bytes = 0;
		c->returned = NULL;
	}
}
