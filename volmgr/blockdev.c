/* SPDX-License-Identifier: Apache-2.0 */
/* What every device checks of a request before it does anything with it (B4). */
#include "volmgr/blockdev.h"

#include <errno.h>

int blockdev_req_check(const struct blockdev_info *info, const struct blockdev_req *req)
{
	if (req->op == BLOCKDEV_FLUSH)
		return 0;
	if (req->length_bytes == 0 || req->offset_bytes > info->size_bytes ||
	    req->length_bytes > info->size_bytes - req->offset_bytes)
		return -EINVAL;
	if (((req->offset_bytes | req->length_bytes) & (info->block_min_bytes - 1)) != 0)
		return -EINVAL;
	if (req->op == BLOCKDEV_READ || req->op == BLOCKDEV_WRITE)
		return req->length_bytes > info->payload_max_bytes ? -EINVAL : 0;
	if (req->op == BLOCKDEV_STATUS)
		return req->extents_max == 0 ? -EINVAL : 0;
	return req->length_bytes > info->span_max_bytes ? -EINVAL : 0;
}
