/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for messages: many small pieces that live as long as one request or reply.
 *
 * Any thread, one at a time. Pieces are zeroed and never move. When memory is out the process ends
 * (a control-plane message is a few KiB; a daemon that cannot get that cannot say so either).
 */
#ifndef HF_VOLMGR_ARENA_H
#define HF_VOLMGR_ARENA_H

#include "base/types.h"

struct arena_chunk;

/* Zero before use. */
struct arena {
	struct arena_chunk *chunks;
};

/* 16-aligned, zeroed; bytes may be 0. */
void *arena_alloc(struct arena *arena, size_t bytes);
char *arena_copy(struct arena *arena, const char *text);
char *arena_text(struct arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);
char *arena_uuid(struct arena *arena, const struct uuid *uuid);
/* Frees all pieces; the arena may be used again. */
void arena_free(struct arena *arena);

#define ARENA_NEW(arena, type)          ((type *)arena_alloc((arena), sizeof(type)))
#define ARENA_ARRAY(arena, type, count) ((type *)arena_alloc((arena), sizeof(type) * (count)))

/* A message of protobuf-c: ARENA_MESSAGE(arena, NodeInfo, node_info). */
#define ARENA_MESSAGE(arena, type, init)                                                   \
	({                                                                                 \
		Holdfast__V1__##type *message_ = ARENA_NEW((arena), Holdfast__V1__##type); \
		holdfast__v1__##init##__init(message_);                                    \
		message_;                                                                  \
	})

#endif
