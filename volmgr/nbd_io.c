/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests: header, check, memory, payload, device.
 *
 * R1  A request is checked whole before anything is taken for it. The payload of a refused WRITE
 *     is skipped before the error is replied, so the stream stays in step and no client sees a
 *     reply to a request that it still sends.
 * R2  Errors: writing to a read-only export is EPERM; outside the export is ENOSPC for WRITE and
 *     WRITE_ZEROES and EINVAL for the others; EOVERFLOW only for a READ with DF that is too
 *     long; everything else that is wrong with a request is EINVAL.
 * R3  Data lies in its first page as its offset lies in its block (B1 of blockdev.h).
 */
#include "volmgr/nbd_int.h"

#include <errno.h>

struct command_rule {
	uint16_t flags; /* allowed, besides FUA */
	bool known;
	bool changes;
	bool has_range;
	bool has_payload_limit;
	enum nbd_errno range_error;
	enum blockdev_op op;
};

static const struct command_rule rules[] = {
	[NBD_CMD_READ] = {NBD_CMD_FLAG_DF, true, false, true, true, NBD_EINVAL, BLOCKDEV_READ},
	[NBD_CMD_WRITE] = {0, true, true, true, true, NBD_ENOSPC, BLOCKDEV_WRITE},
	[NBD_CMD_DISC] = {0},
	[NBD_CMD_FLUSH] = {0, true, false, false, false, NBD_EINVAL, BLOCKDEV_FLUSH},
	[NBD_CMD_TRIM] = {0, true, true, true, false, NBD_EINVAL, BLOCKDEV_TRIM},
	[NBD_CMD_CACHE] = {0, true, false, true, false, NBD_EINVAL, BLOCKDEV_READ},
	[NBD_CMD_WRITE_ZEROES] = {NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, true, true,
				  false, NBD_ENOSPC, BLOCKDEV_ZERO},
	[NBD_CMD_BLOCK_STATUS] = {NBD_CMD_FLAG_REQ_ONE, true, false, true, false, NBD_EINVAL,
				  BLOCKDEV_STATUS},
};

uint16_t nbd_transmission_flags(const struct blockdev_info *info, bool structured)
{
	uint32_t flags =
		NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
	if (info->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	else
		flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
	if (info->can_fast_zero && !info->read_only)
		flags |= NBD_FLAG_SEND_FAST_ZERO;
	if (info->can_multi_conn)
		flags |= NBD_FLAG_CAN_MULTI_CONN;
	if (structured)
		flags |= NBD_FLAG_SEND_DF;
	return (uint16_t)flags;
}

/* ---- check ---- */

static void refuse(struct nbd_req *req, enum nbd_errno error, const char *text)
{
	req->error = error;
	req->error_text = text;
}

static void check_flags(const struct nbd_conn *conn, struct nbd_req *req,
			const struct command_rule *rule)
{
	if (req->flags & ~(rule->flags | NBD_CMD_FLAG_FUA))
		refuse(req, NBD_EINVAL, "this command does not know these flags");
	else if ((req->flags & NBD_CMD_FLAG_DF) && !conn->structured)
		refuse(req, NBD_EINVAL, "DF without structured replies");
	else if ((req->flags & NBD_CMD_FLAG_FAST_ZERO) && !conn->info.can_fast_zero)
		refuse(req, NBD_EINVAL, "FAST_ZERO was not offered");
	else if (req->command == NBD_CMD_BLOCK_STATUS && !conn->meta)
		refuse(req, NBD_EINVAL, "no metadata context was chosen");
}

static void check_range(const struct nbd_conn *conn, struct nbd_req *req,
			const struct command_rule *rule)
{
	uint32_t max = MIN(conn->info.payload_max_bytes, conn->server->config.request_max_bytes);
	if (req->length_bytes == 0)
		refuse(req, NBD_EINVAL, "the length is zero");
	else if (req->offset_bytes > conn->info.size_bytes ||
		 req->length_bytes > conn->info.size_bytes - req->offset_bytes)
		refuse(req, rule->range_error, "the range is not within the export");
	else if (rule->has_payload_limit && req->length_bytes > max)
		refuse(req, req->flags & NBD_CMD_FLAG_DF ? NBD_EOVERFLOW : NBD_EINVAL,
		       "the length is over the maximum block size of the export");
}

/* R2. req->error is 0 when the request is fine. */
static void check(const struct nbd_conn *conn, struct nbd_req *req)
{
	req->error = 0;
	if (req->command >= ARRAY_LEN(rules) || !rules[req->command].known) {
		refuse(req, NBD_EINVAL, "this server does not know this command");
		return;
	}
	const struct command_rule *rule = &rules[req->command];
	check_flags(conn, req, rule);
	if (!req->error && rule->changes && conn->info.read_only)
		refuse(req, NBD_EPERM, "the export is read-only");
	if (!req->error && rule->has_range)
		check_range(conn, req, rule);
}

/* ---- device ---- */

static enum nbd_errno errno_to_nbd(int status)
{
	switch (-status) {
	case EPERM:
	case EROFS:
	case EACCES:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case ENOTSUP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}

static void io_done(struct blockdev_req *io, int status)
{
	struct nbd_req *req = CONTAINER_OF(io, struct nbd_req, io);
	struct nbd_stats *stats = &req->conn->server->stats;
	if (req->conn->closing) {
		nbd_req_free(req);
		return;
	}
	if (status < 0) {
		nbd_reply_error(req, errno_to_nbd(status), "the volume failed the request");
		return;
	}
	if (io->op == BLOCKDEV_READ) {
		stats->read_bytes += req->length_bytes;
		nbd_reply_read(req);
	} else if (io->op == BLOCKDEV_STATUS) {
		nbd_reply_status(req);
	} else {
		stats->written_bytes += io->op == BLOCKDEV_WRITE ? req->length_bytes : 0;
		nbd_reply_done(req);
	}
}

static uint32_t io_flags(uint16_t flags)
{
	uint32_t ret = 0;
	if (flags & NBD_CMD_FLAG_FUA)
		ret |= BLOCKDEV_FUA;
	if (flags & NBD_CMD_FLAG_NO_HOLE)
		ret |= BLOCKDEV_NO_HOLE;
	if (flags & NBD_CMD_FLAG_FAST_ZERO)
		ret |= BLOCKDEV_FAST_ZERO;
	if (flags & NBD_CMD_FLAG_REQ_ONE)
		ret |= BLOCKDEV_REQ_ONE;
	return ret;
}

static void io_submit(struct nbd_conn *conn)
{
	struct nbd_req *req = take(conn->req);
	const struct command_rule *rule = rules + req->command;
	conn->phase = NBD_PHASE_REQUEST;
	req->io = (struct blockdev_req){
		.op = rule->op,
		.flags = io_flags(req->flags),
		.offset_bytes = rule->has_range ? req->offset_bytes : 0,
		.length_bytes = rule->has_range ? req->length_bytes : 0,
		.buf = req->data,
		.done = io_done,
	};
	if (rule->op == BLOCKDEV_STATUS) {
		req->io.buf = NULL;
		req->io.extents = (struct blockdev_extent *)req->pages;
		req->io.extents_max = req->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : NBD_EXTENTS_MAX;
	}
	conn->server->stats.requests[rule->op]++;
	blockdev_submit(conn->dev, &req->io);
}

/* ---- steps ---- */

static uint32_t pages_needed(const struct nbd_req *req)
{
	if (req->command == NBD_CMD_BLOCK_STATUS)
		return NBD_STATUS_PAGES;
	if (req->command != NBD_CMD_READ && req->command != NBD_CMD_WRITE)
		return 0;
	return (uint32_t)DIV_UP(req->offset_bytes % BLOCK_BYTES + req->length_bytes, BLOCK_BYTES);
}

static enum nbd_step reply_at_once(struct nbd_conn *conn)
{
	struct nbd_req *req = take(conn->req);
	conn->phase = NBD_PHASE_REQUEST;
	if (req->error)
		nbd_reply_error(req, req->error, req->error_text);
	else
		nbd_reply_done(req);
	return NBD_STEP_AGAIN;
}

static enum nbd_step request_begin(struct nbd_conn *conn)
{
	struct nbd_req *req = conn->req;
	check(conn, req);
	if (req->error && req->command == NBD_CMD_WRITE) {
		conn->skip_bytes = req->length_bytes;
		conn->phase = NBD_PHASE_PAYLOAD_SKIP;
		return NBD_STEP_AGAIN;
	}
	if (req->error || req->command == NBD_CMD_CACHE) /* CACHE: advice; there is no cache here */
		return reply_at_once(conn);
	req->page_count = pages_needed(req);
	if (req->page_count == 0) {
		io_submit(conn);
		return NBD_STEP_AGAIN;
	}
	conn->phase = NBD_PHASE_PAGES;
	return nbd_pages_get(conn) ? NBD_STEP_AGAIN : NBD_STEP_WAIT;
}

enum nbd_step nbd_step_request(struct nbd_conn *conn)
{
	if (nbd_conn_have(conn) < NBD_REQUEST_BYTES)
		return NBD_STEP_MORE;
	if (list_empty(&conn->free_reqs))
		return NBD_STEP_WAIT;
	const uint8_t *p = conn->buf + conn->pos;
	conn->pos += NBD_REQUEST_BYTES;
	if (be32_at(p) != NBD_MAGIC_REQUEST) {
		nbd_conn_kill(conn, "no request where one should be");
		return NBD_STEP_WAIT;
	}
	if (be16_at(p + 6) == NBD_CMD_DISC) {
		nbd_conn_drain(conn, "the client disconnected");
		return NBD_STEP_WAIT;
	}
	conn->req = CONTAINER_OF(list_pop_front(&conn->free_reqs), struct nbd_req, link);
	conn->inflight++;
	conn->req->flags = be16_at(p + 4);
	conn->req->command = be16_at(p + 6);
	conn->req->cookie = be64_at(p + 8);
	conn->req->offset_bytes = be64_at(p + 16);
	conn->req->length_bytes = be32_at(p + 24);
	conn->req->page_count = 0;
	conn->req->data = NULL;
	return request_begin(conn);
}

enum nbd_step nbd_step_pages(struct nbd_conn *conn)
{
	if (!conn->req->pages)
		return NBD_STEP_WAIT;
	if (conn->req->command == NBD_CMD_WRITE) {
		conn->payload_done_bytes = 0;
		conn->progress_ns = env_now_ns(conn->server->env);
		conn->phase = NBD_PHASE_PAYLOAD;
	} else {
		io_submit(conn);
	}
	return NBD_STEP_AGAIN;
}

enum nbd_step nbd_step_payload(struct nbd_conn *conn)
{
	struct nbd_req *req = conn->req;
	uint32_t left = req->length_bytes - conn->payload_done_bytes;
	uint32_t now = MIN(left, nbd_conn_have(conn));
	memcpy(req->data + conn->payload_done_bytes, conn->buf + conn->pos, now);
	conn->pos += now;
	conn->payload_done_bytes += now;
	if (now < left)
		return NBD_STEP_MORE;
	io_submit(conn);
	return NBD_STEP_AGAIN;
}

enum nbd_step nbd_step_payload_skip(struct nbd_conn *conn)
{
	uint32_t now = (uint32_t)MIN(conn->skip_bytes, (uint64_t)nbd_conn_have(conn));
	conn->pos += now;
	conn->skip_bytes -= now;
	return conn->skip_bytes > 0 ? NBD_STEP_MORE : reply_at_once(conn);
}
