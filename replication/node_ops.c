/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a session: each becomes one store operation and one reply (APPEND: the cumulative ACK).
 *
 * Lengths are checked here against the frame before anything is copied; what the operation may do
 * (epoch, order, hashes, bounds of the volume, space) the store decides. A fenced session gets
 * ESTALE for everything (R1), also when it was fenced while its read was under way.
 */
#include "replication/node_impl.h"

#include <errno.h>

#include "base/crc32c.h"

static void done_reply(struct node_op *op, int status)
{
	node_reply(op, WIRE_DONE, status, 0);
}

static void op_done(struct store_op *store_op, int status)
{
	done_reply(CONTAINER_OF(store_op, struct node_op, u.op), status);
}

/* ---- entries: APPEND and STAGE ---- */

static int entry_decode(struct node_op *op, const struct link_frame *frame, struct log_entry *entry)
{
	const struct wire_entry *wire = frame->body;
	if (frame->body_bytes < sizeof(*wire))
		return -EINVAL;
	uint32_t crc_count = le32_get(wire->crc_count);
	if (crc_count > STORE_ENTRY_BLOCKS_MAX ||
	    frame->body_bytes != sizeof(*wire) + ALIGN_UP(crc_count * 4, 8) ||
	    frame->payload_bytes != crc_count * BLOCK_BYTES)
		return -EINVAL;
	memcpy(op->crcs, wire + 1, crc_count * 4);
	*entry = (struct log_entry){
		.epoch = le64_get(wire->epoch),
		.seq = le64_get(wire->seq),
		.prev_hash = le64_get(wire->prev_hash),
		.commit_seq = le64_get(wire->commit_seq),
		.time_ms = le64_get(wire->time_ms),
		.op = wire->op,
		.flags = wire->flags,
		.address_blocks = le64_get(wire->address_blocks),
		.length_blocks = le64_get(wire->length_blocks),
		.crc32c = op->crcs,
	};
	if ((entry->op == LOG_WRITE) != (crc_count > 0) ||
	    (entry->op == LOG_WRITE && entry->length_blocks != crc_count))
		return -EINVAL;
	const uint8_t *payload = frame->payload;
	for (uint32_t i = 0; i < crc_count; i++)
		if (crc32c(payload + (size_t)i * BLOCK_BYTES, BLOCK_BYTES) != op->crcs[i])
			return -EBADMSG;
	return 0;
}

static int payload_keep(struct node_op *op, const struct link_frame *frame)
{
	if (frame->payload_bytes == 0)
		return 0;
	op->buf = bufpool_get(op->node->bufs, frame->payload_bytes);
	if (op->buf == NULL)
		return -EBUSY;
	op->buf_bytes = frame->payload_bytes;
	memcpy(op->buf, frame->payload, frame->payload_bytes);
	op->iov[0] = (struct iovec){op->buf, frame->payload_bytes};
	return 0;
}

/* The stream is broken: nothing after this entry can be taken. The coordinator attaches anew. */
static void stream_broken(struct node_session *session, int status)
{
	if (session->stream_status == 0)
		session->stream_status = status;
	node_ack_later(session);
}

/* A commit point speaks of the epoch's log: a replica with another log (behind a shadow, or not adopted
 * yet) must not apply it to its own entries (PROTO-3). */
static void commit_take(struct node_session *session, uint64_t commit_seq)
{
	if (store_replica_log_epoch(session->nr->replica) == session->epoch)
		store_commit(session->nr->replica, commit_seq);
}

static void append_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.append.op);
	struct node_session *session = op->session;
	const struct store_append *append = &op->u.append;
	node_append_over(session);
	if (status < 0) {
		/* That a newer epoch was promised the fence says; here the log or the shadow is
		 * another one. */
		stream_broken(session, status == -ESTALE ? -EILSEQ : status);
	} else {
		if (append->shadow)
			session->shadow_last_seq = append->entry.seq;
		else
			session->last_seq = append->entry.seq;
		node_ack_later(session);
	}
	node_op_put(op);
}

static void do_append(struct node_op *op, const struct link_frame *frame)
{
	struct node_session *session = op->session;
	if (session->stream_status != 0) { /* already told, or about to be */
		node_op_put(op);
		return;
	}
	op->u.append = (struct store_append){.op.done = append_done};
	int rc = entry_decode(op, frame, &op->u.append.entry);
	if (rc == 0)
		rc = payload_keep(op, frame);
	if (rc < 0) {
		stream_broken(session, rc);
		node_op_put(op);
		return;
	}
	op->u.append.shadow = le16_get(frame->header->status) == WIRE_APPEND_SHADOW;
	op->u.append.iov = op->iov;
	op->u.append.iov_count = op->buf != NULL ? 1 : 0;
	session->appends++;
	if (!op->u.append.shadow)
		commit_take(session, op->u.append.entry.commit_seq);
	store_append(session->nr->replica, &op->u.append);
}

static void stage_done(struct store_op *store_op, int status)
{
	done_reply(CONTAINER_OF(store_op, struct node_op, u.append.op), status);
}

static void do_stage(struct node_op *op, const struct link_frame *frame)
{
	op->u.append = (struct store_append){
		.op.done = stage_done,
		.staged = true,
		.stage_epoch = op->session->epoch,
	};
	int rc = entry_decode(op, frame, &op->u.append.entry);
	if (rc == 0)
		rc = payload_keep(op, frame);
	if (rc < 0) {
		done_reply(op, rc);
		return;
	}
	op->u.append.iov = op->iov;
	op->u.append.iov_count = op->buf != NULL ? 1 : 0;
	store_append(op->session->nr->replica, &op->u.append);
}

static void do_commit(struct node_op *op, const struct link_frame *frame)
{
	struct wire_commit commit;
	if (frame->body_bytes == sizeof(commit)) {
		memcpy(&commit, frame->body, sizeof(commit));
		if (le64_get(commit.epoch) == op->session->epoch) {
			commit_take(op->session, le64_get(commit.commit_seq));
			store_settle(op->session->nr->replica, le64_get(commit.settled_seq));
		}
	}
	node_op_put(op);
}

static void adopt_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.adopt.op);
	struct node_session *session = op->session;
	if (status == 0) {
		/* From here on the session's stream continues after the adopted log. */
		session->last_seq = session->acked_seq = op->u.adopt.last_seq;
		session->stream_status = 0;
		session->stream_status_told = false;
	}
	done_reply(op, status);
}

static void do_adopt(struct node_op *op, const struct link_frame *frame)
{
	struct wire_adopt adopt;
	if (frame->body_bytes != sizeof(adopt)) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&adopt, frame->body, sizeof(adopt));
	op->u.adopt = (struct store_adopt){
		.op.done = adopt_done,
		.epoch = le64_get(adopt.epoch),
		.base_seq = le64_get(adopt.base_seq),
		.last_seq = le64_get(adopt.last_seq),
		.last_hash = le64_get(adopt.last_hash),
		.commit_seq = le64_get(adopt.commit_seq),
		.shadow = le32_get(adopt.shadow) != 0,
	};
	store_adopt(op->session->nr->replica, &op->u.adopt);
}

/* ---- reading ---- */

/* DATA blocks of op->buf that are adjacent become one piece; more pieces than the reply has room for
 * are moved together. Returns the number of DATA blocks. */
static uint32_t gather_payload(struct node_op *op, uint32_t length_blocks)
{
	uint8_t *buf = op->buf;
	uint32_t data_blocks = 0;
	for (uint32_t i = 0; i < length_blocks; i++) {
		if (op->states[i] != STORE_BLOCK_DATA)
			continue;
		if (i != data_blocks)
			memmove(buf + (size_t)data_blocks * BLOCK_BYTES,
				buf + (size_t)i * BLOCK_BYTES, BLOCK_BYTES);
		data_blocks++;
	}
	if (data_blocks > 0) {
		op->out.iov[2] = (struct iovec){buf, (size_t)data_blocks * BLOCK_BYTES};
		op->out.iov_count = 3;
	}
	return data_blocks;
}

/* Reads leave a quarter of the pool to entries: a read that is refused is asked again, a stream
 * breaks. */
static int reply_buf(struct node_op *op, uint32_t bytes)
{
	struct node *node = op->node;
	if (bufpool_used_bytes(node->bufs) > node->config.payload_bytes_max / 4 * 3)
		return -EBUSY;
	op->buf = bufpool_get(node->bufs, bytes);
	op->buf_bytes = bytes;
	return op->buf == NULL ? -EBUSY : 0;
}

static void read_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.read.op);
	const struct store_read *read = &op->u.read;
	uint32_t length = read->length_blocks;
	if (op->session->fenced)
		status = -ESTALE;
	if (status < 0 && status != -EBADMSG) {
		done_reply(op, status);
		return;
	}
	bool with_payload = (op->flags & (WIRE_READ_MAP_ONLY | WIRE_READ_VERIFY)) == 0;
	struct wire_data *data = (struct wire_data *)op->body;
	uint32_t data_blocks = with_payload ? gather_payload(op, length) : 0;
	*data = (struct wire_data){
		.address_blocks = le64_make(read->address_blocks),
		.length_blocks = le32_make(length),
		.data_blocks = le32_make(data_blocks),
	};
	uint8_t *tail = (uint8_t *)(data + 1);
	memcpy(tail, op->crcs, length * 4);
	memcpy(tail + length * 4, op->states, length);
	node_reply(op, WIRE_DATA, status, (uint32_t)(sizeof(*data) + length * 5));
}

static void do_read(struct node_op *op, const struct link_frame *frame)
{
	struct wire_read read;
	if (frame->body_bytes != sizeof(read)) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&read, frame->body, sizeof(read));
	uint64_t length = le64_get(read.length_blocks);
	if (length == 0 || length > STORE_READ_BLOCKS_MAX) {
		done_reply(op, -EINVAL);
		return;
	}
	op->flags = le32_get(read.flags);
	if ((op->flags & WIRE_READ_MAP_ONLY) == 0 &&
	    reply_buf(op, (uint32_t)length * BLOCK_BYTES) < 0) {
		done_reply(op, -EBUSY);
		return;
	}
	op->u.read = (struct store_read){
		.op.done = read_done,
		.address_blocks = le64_get(read.address_blocks),
		.length_blocks = (uint32_t)length,
		.buf = op->buf,
		.crc32c = op->crcs,
		.block_state = op->states,
		.committed = (op->flags & WIRE_READ_COMMITTED) != 0,
	};
	store_read(op->session->nr->replica, &op->u.read);
}

#define LOG_READ_BLOCKS   8u
#define EXTENTS_PER_REPLY (NODE_REPLY_BODY_BYTES / sizeof(struct wire_extent))

static void extents_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.extents.op);
	if (op->session->fenced)
		status = -ESTALE;
	if (status < 0) {
		done_reply(op, status);
		return;
	}
	const struct store_extents *extents = &op->u.extents;
	struct wire_extent *out = (struct wire_extent *)op->body;
	for (uint32_t i = 0; i < extents->extents_count; i++)
		out[i] = (struct wire_extent){
			.length_blocks = le64_make(extents->extents[i].length_blocks),
			.data = le32_make(extents->extents[i].data),
		};
	node_reply(op, WIRE_EXTENT_LIST, 0,
		   extents->extents_count * (uint32_t)sizeof(struct wire_extent));
}

static void do_extents(struct node_op *op, const struct link_frame *frame)
{
	struct wire_read read;
	if (frame->body_bytes != sizeof(read)) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&read, frame->body, sizeof(read));
	if (reply_buf(op, EXTENTS_PER_REPLY * sizeof(struct store_extent)) < 0) {
		done_reply(op, -EBUSY);
		return;
	}
	op->u.extents = (struct store_extents){
		.op.done = extents_done,
		.address_blocks = le64_get(read.address_blocks),
		.length_blocks = le64_get(read.length_blocks),
		.extents = op->buf,
		.extents_max = EXTENTS_PER_REPLY,
	};
	store_extents(op->session->nr->replica, &op->u.extents);
}

static void log_read_done(struct store_op *store_op, int status);

/* Most entries are small; the few that are not are read a second time. */
static void log_read_start(struct node_op *op, uint64_t seq, uint32_t buf_blocks)
{
	bufpool_put(op->node->bufs, op->buf, op->buf_bytes);
	op->buf = NULL;
	if (reply_buf(op, buf_blocks * BLOCK_BYTES) < 0) {
		done_reply(op, -EBUSY);
		return;
	}
	op->u.log_read.op.done = log_read_done;
	op->u.log_read.seq = seq;
	op->u.log_read.buf = op->buf;
	op->u.log_read.buf_blocks = buf_blocks;
	store_log_read(op->session->nr->replica, &op->u.log_read);
}

static void log_read_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.log_read.op);
	if (op->session->fenced)
		status = -ESTALE;
	if (status == -EMSGSIZE && op->u.log_read.buf_blocks < STORE_ENTRY_BLOCKS_MAX) {
		log_read_start(op, op->u.log_read.seq, STORE_ENTRY_BLOCKS_MAX);
		return;
	}
	if (status < 0) {
		done_reply(op, status);
		return;
	}
	const struct log_entry *entry = &op->u.log_read.entry;
	uint32_t crc_count = entry->op == LOG_WRITE ? (uint32_t)entry->length_blocks : 0;
	struct wire_entry *wire = (struct wire_entry *)op->body;
	*wire = (struct wire_entry){
		.epoch = le64_make(entry->epoch),
		.seq = le64_make(entry->seq),
		.prev_hash = le64_make(entry->prev_hash),
		.commit_seq = le64_make(entry->commit_seq),
		.time_ms = le64_make(entry->time_ms),
		.address_blocks = le64_make(entry->address_blocks),
		.length_blocks = le64_make(entry->length_blocks),
		.crc_count = le32_make(crc_count),
		.op = entry->op,
		.flags = entry->flags,
	};
	if (crc_count > 0) {
		memcpy(wire + 1, entry->crc32c, crc_count * 4);
		op->out.iov[2] = (struct iovec){op->buf, (size_t)crc_count * BLOCK_BYTES};
		op->out.iov_count = 3;
	}
	node_reply(op, WIRE_LOG_ENTRY, 0, (uint32_t)(sizeof(*wire) + crc_count * 4));
}

static void do_log_read(struct node_op *op, const struct link_frame *frame)
{
	struct wire_log_read read;
	if (frame->body_bytes != sizeof(read)) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&read, frame->body, sizeof(read));
	log_read_start(op, le64_get(read.seq), LOG_READ_BLOCKS);
}

/* ---- resync and repair ---- */

static void changes_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.changes.op);
	if (op->session->fenced)
		status = -ESTALE;
	const struct store_changes *changes = &op->u.changes;
	struct wire_chunk *chunk = (struct wire_chunk *)op->body;
	*chunk = (struct wire_chunk){
		.chunk = le64_make(status < 0 ? 0 : changes->chunk),
		.commit_seq = le64_make(changes->commit_seq),
	};
	if (status < 0) {
		node_reply(op, WIRE_CHUNK, status, status == -ENODATA ? sizeof(*chunk) : 0);
		return;
	}
	uint8_t *tail = (uint8_t *)(chunk + 1);
	memcpy(tail, changes->crc32c, sizeof(changes->crc32c));
	memcpy(tail + sizeof(changes->crc32c), changes->block_state, sizeof(changes->block_state));
	node_reply(op, WIRE_CHUNK, 0, (uint32_t)(sizeof(*chunk) + STORE_CHUNK_BLOCKS * 5));
}

static void do_changes(struct node_op *op, const struct link_frame *frame)
{
	struct wire_changes changes;
	if (frame->body_bytes != sizeof(changes)) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&changes, frame->body, sizeof(changes));
	op->u.changes.op.done = changes_done;
	op->u.changes.commit_seq = 0;
	op->u.changes.since_seq = le64_get(changes.since_seq);
	op->u.changes.chunk_cursor = le64_get(changes.chunk_cursor);
	store_changes(op->session->nr->replica, &op->u.changes);
}

static void shadow_done(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.shadow.op);
	if (status == 0) {
		op->session->shadow_last_seq = op->session->acked_shadow_seq =
			op->u.shadow.first_seq - 1;
		op->session->stream_status = 0;
		op->session->stream_status_told = false;
	}
	done_reply(op, status);
}

static void do_shadow(struct node_op *op, const struct link_frame *frame)
{
	struct wire_shadow shadow;
	if (frame->body_bytes != sizeof(shadow)) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&shadow, frame->body, sizeof(shadow));
	if (le32_get(shadow.drop) != 0) {
		op->u.op.done = op_done;
		store_shadow_drop(op->session->nr->replica, &op->u.op);
		return;
	}
	op->u.shadow = (struct store_shadow){
		.op.done = shadow_done,
		.epoch = le64_get(shadow.epoch),
		.first_seq = le64_get(shadow.first_seq),
		.prev_hash = le64_get(shadow.prev_hash),
		.settled_seq = le64_get(shadow.settled_seq),
		.size_blocks = le64_get(shadow.size_blocks),
	};
	store_shadow_begin(op->session->nr->replica, &op->u.shadow);
}

static void fill_done(struct store_op *store_op, int status)
{
	done_reply(CONTAINER_OF(store_op, struct node_op, u.fill.op), status);
}

/* The payload has the DATA blocks only; the store wants them at their positions. */
static int fill_decode(struct node_op *op, const struct link_frame *frame,
		       const struct wire_fill *fill)
{
	uint32_t length = le32_get(fill->length_blocks);
	if (length == 0 || length > STORE_CHUNK_BLOCKS ||
	    frame->body_bytes != ALIGN_UP(sizeof(*fill) + length * 5, 8))
		return -EINVAL;
	const uint8_t *tail = (const uint8_t *)frame->body + sizeof(*fill);
	memcpy(op->crcs, tail, length * 4);
	memcpy(op->states, tail + length * 4, length);
	uint32_t data_blocks = 0;
	for (uint32_t i = 0; i < length; i++) {
		if (op->states[i] > STORE_BLOCK_DATA)
			return -EINVAL;
		data_blocks += op->states[i];
	}
	if (frame->payload_bytes != data_blocks * BLOCK_BYTES ||
	    le32_get(fill->data_blocks) != data_blocks)
		return -EINVAL;
	op->buf_bytes = length * BLOCK_BYTES;
	op->buf = bufpool_get(op->node->bufs, op->buf_bytes);
	if (op->buf == NULL)
		return -EBUSY;
	const uint8_t *from = frame->payload;
	for (uint32_t i = 0; i < length; i++) {
		if (op->states[i] != STORE_BLOCK_DATA)
			continue;
		if (crc32c(from, BLOCK_BYTES) != op->crcs[i])
			return -EBADMSG;
		memcpy((uint8_t *)op->buf + (size_t)i * BLOCK_BYTES, from, BLOCK_BYTES);
		from += BLOCK_BYTES;
	}
	return 0;
}

static void do_fill(struct node_op *op, const struct link_frame *frame)
{
	struct wire_fill fill;
	int rc = -EINVAL;
	if (frame->body_bytes >= sizeof(fill)) {
		memcpy(&fill, frame->body, sizeof(fill));
		rc = fill_decode(op, frame, &fill);
	}
	if (rc < 0) {
		done_reply(op, rc);
		return;
	}
	op->u.fill = (struct store_fill){
		.op.done = fill_done,
		.at_seq = le64_get(fill.at_seq),
		.address_blocks = le64_get(fill.address_blocks),
		.length_blocks = le32_get(fill.length_blocks),
		.crc32c = op->crcs,
		.block_state = op->states,
		.buf = op->buf,
	};
	store_shadow_fill(op->session->nr->replica, &op->u.fill);
}

static void repair_done(struct store_op *store_op, int status)
{
	done_reply(CONTAINER_OF(store_op, struct node_op, u.repair.op), status);
}

static void do_repair(struct node_op *op, const struct link_frame *frame)
{
	struct wire_repair repair;
	if (frame->body_bytes != sizeof(repair) || frame->payload_bytes != BLOCK_BYTES) {
		done_reply(op, -EINVAL);
		return;
	}
	memcpy(&repair, frame->body, sizeof(repair));
	uint32_t crc = le32_get(repair.crc32c);
	int rc = 0;
	if (crc != le32_get(repair.expected_crc32c) || crc32c(frame->payload, BLOCK_BYTES) != crc)
		rc = -EBADMSG;
	if (rc == 0)
		rc = payload_keep(op, frame);
	if (rc < 0) {
		done_reply(op, rc);
		return;
	}
	op->u.repair = (struct store_repair){
		.op.done = repair_done,
		.address_blocks = le64_get(repair.address_blocks),
		.expected_crc32c = crc,
		.buf = op->buf,
	};
	store_repair(op->session->nr->replica, &op->u.repair);
}

/* ---- dispatch ---- */

static void (*handler_of(uint16_t type))(struct node_op *op, const struct link_frame *frame)
{
	switch (type) {
	case WIRE_APPEND:
		return do_append;
	case WIRE_COMMIT:
		return do_commit;
	case WIRE_STAGE:
		return do_stage;
	case WIRE_ADOPT:
		return do_adopt;
	case WIRE_READ:
		return do_read;
	case WIRE_EXTENTS:
		return do_extents;
	case WIRE_LOG_READ:
		return do_log_read;
	case WIRE_CHANGES:
		return do_changes;
	case WIRE_SHADOW:
		return do_shadow;
	case WIRE_FILL:
		return do_fill;
	case WIRE_REPAIR:
		return do_repair;
	default:
		return NULL;
	}
}

void node_session_frame(struct node_session *session, const struct link_frame *frame)
{
	struct node_op *op = node_op_get(session->conn, session, frame);
	void (*handler)(struct node_op *, const struct link_frame *) =
		handler_of(le16_get(frame->header->type));
	if (handler == NULL)
		done_reply(op, -ENOTSUP);
	else if (session->fenced)
		done_reply(op, -ESTALE);
	else
		handler(op, frame);
}
