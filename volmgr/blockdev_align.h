/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any byte offset and length over a device of whole 4096-byte blocks.
 *
 * Unaligned WRITE and ZERO read the blocks at their edges, complete them and write them back,
 * ordered against every overlapping change in flight. Requests longer than what the lower device
 * takes are split. An unaligned TRIM trims the whole blocks inside. All memory is taken at
 * creation; when it is used up requests wait in order.
 */
#ifndef HF_VOLMGR_BLOCKDEV_ALIGN_H
#define HF_VOLMGR_BLOCKDEV_ALIGN_H

#include "base/env.h"
#include "volmgr/blockdev.h"

struct blockdev_align;

#define BLOCKDEV_ALIGN_PIECES 4 /* requests of one upper request that are below at a time */

struct blockdev_align_config {
	uint32_t ops_max;           /* upper requests that are worked on at a time; default 256 */
	uint32_t edges_max;         /* of those, unaligned changes; default 32 */
	uint32_t payload_max_bytes; /* longest upper READ or WRITE; default 32 MiB */
};
void blockdev_align_config_default(struct blockdev_align_config *config);

/*
 * The lower device never sees more than ops_max * BLOCKDEV_ALIGN_PIECES requests; it must outlive
 * this one. config may be NULL. 0 and *ret, or -EINVAL or -ENOMEM with a sentence.
 */
int blockdev_align_create(struct env *env, struct blockdev *lower,
			  const struct blockdev_align_config *config, struct blockdev_align **ret,
			  struct err *err);
/* No request may be in flight. NULL is fine. */
void blockdev_align_destroy(struct blockdev_align *align);
struct blockdev *blockdev_align_dev(struct blockdev_align *align);

#endif
