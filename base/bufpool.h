/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payload buffers: contiguous, 4096-aligned, 4 KiB to 1 MiB, in power-of-two classes.
 *
 * Address space is reserved at creation; memory is touched on first use and reused last-in
 * first-out, so the resident size follows what is really in flight. One thread. get and put are O(1)
 * and allocate nothing.
 */
#ifndef HF_BASE_BUFPOOL_H
#define HF_BASE_BUFPOOL_H

#include "base/types.h"

struct bufpool;

#define BUFPOOL_BUF_BYTES_MAX (1024u * 1024u)

/* bytes_max: sum of the buffers that are out at once. NULL when address space is out. */
struct bufpool *bufpool_create(size_t bytes_max);
/* Every buffer is back, or nobody will use one again. NULL is fine. */
void bufpool_destroy(struct bufpool *pool);
/* A buffer of at least bytes (1..BUFPOOL_BUF_BYTES_MAX), uninitialised; NULL when the bound is reached. */
void *bufpool_get(struct bufpool *pool, size_t bytes);
/* The same bytes as in get. NULL buf is fine. */
void bufpool_put(struct bufpool *pool, void *buf, size_t bytes);
size_t bufpool_used_bytes(const struct bufpool *pool);
/* Gives untouched-for-long memory back to the kernel (idle time). */
void bufpool_trim(struct bufpool *pool);

#endif
