/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator over a list of chunks; large pieces get a chunk of their own. */
#include "volmgr/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define CHUNK_BYTES 4096u

struct arena_chunk {
	struct arena_chunk *next;
	size_t used_bytes;
	size_t size_bytes;
	uint64_t reserved; /* keeps data 16-aligned */
	uint8_t data[];
};

void *arena_alloc(struct arena *arena, size_t bytes)
{
	size_t need = ALIGN_UP(MAX(bytes, (size_t)1), (size_t)16);
	struct arena_chunk *chunk = arena->chunks;
	if (chunk == NULL || chunk->size_bytes - chunk->used_bytes < need) {
		size_t size = MAX(need, (size_t)CHUNK_BYTES - sizeof(*chunk));
		chunk = calloc(1, sizeof(*chunk) + size);
		if (chunk == NULL) {
			log_event(LOG_ERROR, "volmgr", "out_of_memory", "bytes=%zu", size);
			abort();
		}
		chunk->size_bytes = size;
		chunk->next = arena->chunks;
		arena->chunks = chunk;
	}
	void *piece = chunk->data + chunk->used_bytes;
	chunk->used_bytes += need;
	return piece;
}

char *arena_copy(struct arena *arena, const char *text)
{
	size_t bytes = strlen(text) + 1;
	return memcpy(arena_alloc(arena, bytes), text, bytes);
}

char *arena_text(struct arena *arena, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int length = vsnprintf(NULL, 0, format, args);
	va_end(args);
	char *text = arena_alloc(arena, (size_t)MAX(length, 0) + 1);
	va_start(args, format);
	vsnprintf(text, (size_t)MAX(length, 0) + 1, format, args);
	va_end(args);
	return text;
}

char *arena_uuid(struct arena *arena, const struct uuid *uuid)
{
	char text[UUID_TEXT_BYTES];
	uuid_format(uuid, text);
	return arena_copy(arena, text);
}

void arena_free(struct arena *arena)
{
	while (arena->chunks != NULL) {
		struct arena_chunk *next = arena->chunks->next;
		free(arena->chunks);
		arena->chunks = next;
	}
}
