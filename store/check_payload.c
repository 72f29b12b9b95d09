/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deep check's payload: gathered, read many at once, compared with the crc that the map or the log
 * keeps. A block whose reading fails is a finding like one that does not match.
 */
#include <errno.h>

#include "base/crc32c.h"
#include "store/check_impl.h"

#define PAYLOAD_DEPTH 32u

int check_payload_init(struct check *c)
{
	struct offline *o = c->offline;

	if (!c->deep)
		return 0;
	c->reads = batch_io_create(&o->device, PAYLOAD_DEPTH);
	c->payload_memory = env_buf_alloc(o->env, (size_t)CHECK_PAYLOAD_BLOCKS * BLOCK_BYTES);
	return c->reads && c->payload_memory ? 0 : -ENOMEM;
}

void check_payload_free(struct check *c)
{
	batch_io_destroy(c->reads);
	if (c->payload_memory)
		env_buf_free(c->offline->env, c->payload_memory,
			     (size_t)CHECK_PAYLOAD_BLOCKS * BLOCK_BYTES);
	c->reads = NULL;
	c->payload_memory = NULL;
}

void check_payload_flush(struct check *c)
{
	for (uint32_t i = 0; i < c->payload_count; i++) {
		struct batch_io_part part = {.place = c->payloads[i].place,
					     .block_count = 1,
					     .buf = c->payload_memory + (size_t)i * BLOCK_BYTES,
					     .status = &c->payloads[i].status};
		batch_io_submit(c->co, c->reads, ENV_IO_READ, &part);
	}
	if (c->payload_count > 0)
		(void)batch_io_wait(c->co, c->reads, 0); /* each has its own status */
	for (uint32_t i = 0; i < c->payload_count; i++) {
		const struct check_payload *p = &c->payloads[i];
		const char *bytes = c->payload_memory + (size_t)i * BLOCK_BYTES;
		if (p->status < 0)
			check_find(c, "block %llu: its payload at place %llu cannot be read",
				   (unsigned long long)p->block, (unsigned long long)p->place);
		else if (crc32c(bytes, BLOCK_BYTES) != p->crc32c)
			check_find(c,
				   "block %llu: its payload at place %llu does not match its crc",
				   (unsigned long long)p->block, (unsigned long long)p->place);
	}
	c->payload_count = 0;
}

void check_payload_add(struct check *c, uint64_t place, uint64_t block, uint32_t crc)
{
	if (!c->deep || place >= c->offline->size_blocks)
		return;
	if (c->payload_count == CHECK_PAYLOAD_BLOCKS)
		check_payload_flush(c);
	c->payloads[c->payload_count++] =
		(struct check_payload){.place = place, .block = block, .crc32c = crc};
}
