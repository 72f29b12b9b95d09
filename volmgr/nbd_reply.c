/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replies: each is one send that gathers headers and data, and frees its request when it is out.
 *
 * With structured replies READ and BLOCK_STATUS answer in chunks, errors carry a text, and
 * everything else is a simple reply, which the protocol allows and costs less. Blocks of a READ
 * that are all zeroes go as hole chunks: looking costs a few instructions for data, since the
 * first bytes of a block of data are rarely zero, and saves sending the block when it is not.
 *
 * P1  A READ makes at most NBD_CHUNKS_MAX chunks; the last takes all that is left.
 * P2  With DF a READ makes exactly one chunk.
 */
#include "volmgr/nbd_int.h"

static void send_done(struct env_send *send, int status)
{
	struct nbd_req *req = CONTAINER_OF(send, struct nbd_req, send);
	struct nbd_conn *conn = req->conn;
	conn->sending--;
	conn->progress_ns = env_now_ns(conn->server->env);
	if (status < 0 && !conn->closing)
		nbd_conn_kill(conn, "sending failed");
	nbd_req_free(req);
}

static void reply_send(struct nbd_req *req, uint32_t iov_count)
{
	struct nbd_conn *conn = req->conn;
	req->send.iov = req->iov;
	req->send.iov_count = iov_count;
	req->send.done = send_done;
	if (conn->sending++ == 0)
		conn->progress_ns = env_now_ns(conn->server->env);
	env_conn_send(conn->server->env, conn->env_conn, &req->send);
}

static void simple_head(struct nbd_req *req, uint32_t error)
{
	be32_put(req->head, NBD_MAGIC_SIMPLE_REPLY);
	be32_put(req->head + 4, error);
	be64_put(req->head + 8, req->cookie);
	req->iov[0] = (struct iovec){req->head, NBD_SIMPLE_REPLY_BYTES};
}

static void chunk_head(const struct nbd_req *req, uint8_t *p, enum nbd_chunk type,
		       uint32_t length_bytes)
{
	be32_put(p, NBD_MAGIC_CHUNK);
	be16_put(p + 4, 0);
	be16_put(p + 6, (uint16_t)type);
	be64_put(p + 8, req->cookie);
	be32_put(p + 16, length_bytes);
}

void nbd_reply_done(struct nbd_req *req)
{
	simple_head(req, 0);
	reply_send(req, 1);
}

void nbd_reply_error(struct nbd_req *req, enum nbd_errno error, const char *text)
{
	uint32_t text_bytes = (uint32_t)strlen(text);
	assert(text_bytes <= NBD_ERROR_TEXT_MAX);
	req->conn->server->stats.errors++;
	if (!req->conn->structured) {
		simple_head(req, error);
		reply_send(req, 1);
		return;
	}
	uint8_t *p = req->head;
	chunk_head(req, p, NBD_CHUNK_ERROR, 6 + text_bytes);
	be16_put(p + 4, NBD_CHUNK_FLAG_DONE);
	be32_put(p + NBD_CHUNK_BYTES, error);
	be16_put(p + NBD_CHUNK_BYTES + 4, (uint16_t)text_bytes);
	memcpy(p + NBD_CHUNK_BYTES + 6, text, text_bytes);
	req->iov[0] = (struct iovec){p, NBD_CHUNK_BYTES + 6 + text_bytes};
	reply_send(req, 1);
}

/* ---- READ ---- */

static bool all_zero(const uint8_t *p, size_t bytes)
{
	return p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0;
}

/* How far the block of the export at data[at] reaches. */
static uint32_t block_end(const struct nbd_req *req, uint32_t at)
{
	uint64_t offset = req->offset_bytes + at;
	uint64_t end = at + (BLOCK_BYTES - offset % BLOCK_BYTES);
	return (uint32_t)MIN(end, (uint64_t)req->length_bytes);
}

/* The run of blocks from `at` that are alike; *zero says how. */
static uint32_t run_end(const struct nbd_req *req, uint32_t at, bool *zero)
{
	uint32_t end = block_end(req, at);
	*zero = all_zero(req->data + at, end - at);
	while (end < req->length_bytes) {
		uint32_t next = block_end(req, end);
		if (all_zero(req->data + end, next - end) != *zero)
			break;
		end = next;
	}
	return end;
}

/* One chunk for data[at, end); returns the iovs used. */
static uint32_t read_chunk(struct nbd_req *req, uint8_t *p, struct iovec *iov, bool zero,
			   uint32_t at, uint32_t end)
{
	be64_put(p + NBD_CHUNK_BYTES, req->offset_bytes + at);
	if (zero) {
		chunk_head(req, p, NBD_CHUNK_OFFSET_HOLE, 12);
		be32_put(p + NBD_CHUNK_BYTES + 8, end - at);
		iov[0] = (struct iovec){p, NBD_CHUNK_BYTES + 12};
		return 1;
	}
	chunk_head(req, p, NBD_CHUNK_OFFSET_DATA, 8 + end - at);
	iov[0] = (struct iovec){p, NBD_CHUNK_BYTES + 8};
	iov[1] = (struct iovec){req->data + at, end - at};
	return 2;
}

static void reply_read_chunks(struct nbd_req *req)
{
	uint32_t at = 0, chunks = 0, iovs = 0, length = req->length_bytes;
	uint32_t chunks_max = req->flags & NBD_CMD_FLAG_DF ? 1 : NBD_CHUNKS_MAX;
	uint8_t *p = NULL;
	while (at < length) {
		bool zero;
		uint32_t end = run_end(req, at, &zero);
		p = req->head + chunks * (NBD_CHUNK_BYTES + 12);
		if (++chunks == chunks_max && end < length) {
			zero = false;
			end = length;
		}
		iovs += read_chunk(req, p, req->iov + iovs, zero, at, end);
		at = end;
	}
	be16_put(p + 4, NBD_CHUNK_FLAG_DONE);
	reply_send(req, iovs);
}

void nbd_reply_read(struct nbd_req *req)
{
	if (req->conn->structured) {
		reply_read_chunks(req);
		return;
	}
	simple_head(req, 0);
	req->iov[1] = (struct iovec){req->data, req->length_bytes};
	reply_send(req, 2);
}

/* ---- BLOCK_STATUS ---- */

void nbd_reply_status(struct nbd_req *req)
{
	uint32_t count = req->io.extents_count;
	uint8_t *wire = req->pages + NBD_EXTENTS_MAX * sizeof(struct blockdev_extent);
	assert(count > 0 && count <= NBD_EXTENTS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		const struct blockdev_extent *extent = req->io.extents + i;
		/* The bits of base:allocation are those of blockdev. */
		static_assert(BLOCKDEV_EXTENT_HOLE == 1 && BLOCKDEV_EXTENT_ZERO == 2,
			      "wire values");
		be32_put(wire + 8 * i, (uint32_t)extent->length_bytes);
		be32_put(wire + 8 * i + 4, extent->flags);
	}
	chunk_head(req, req->head, NBD_CHUNK_BLOCK_STATUS, 4 + 8 * count);
	be16_put(req->head + 4, NBD_CHUNK_FLAG_DONE);
	be32_put(req->head + NBD_CHUNK_BYTES, NBD_CONTEXT_ALLOCATION_ID);
	req->iov[0] = (struct iovec){req->head, NBD_CHUNK_BYTES + 4};
	req->iov[1] = (struct iovec){wire, 8 * count};
	reply_send(req, 2);
}
