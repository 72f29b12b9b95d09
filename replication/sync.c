/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing a member into the stream: one coroutine per member, beside live I/O.
 *
 *   adopt    its log is of an older epoch: what it lacks of the settled log is staged above a base that both
 *            share, then one atomic ADOPT switches. Never truncate first and refill later.
 *   feed     its log is ours but short, and the window no longer has what it needs: entries are read from
 *            another replica's log and appended.
 *   shadow   nobody's log reaches back far enough: the live stream goes into a hidden shadow from T + 1 on,
 *            chunks with versions above its commit point are copied beside it, and one ADOPT flips.
 *
 * Y1  The base of an adoption lies in the common prefix: its length when its log is of the epoch that the
 *     open settled on (cut at what was settled), else its commit point.
 * Y2  A shadow is adopted only when its log reaches X, X was committed (or, before the open, all others that
 *     make the quorum have adopted it), and every chunk was read before X was chosen: what a later
 *     recovery may drop is not in it.
 * Y3  Every wait ends when the member, its connection or the coordinator goes.
 * Y4  What was settled may have left no trace in the source: a member whose commit point is below that, or that lost
 *     data, gets every chunk of the source, and zeros for each that it alone has.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "replication/coordinator_impl.h"

#define REPLY_BYTES 4096u
#define RUN_BLOCKS_MAX 32u
#define CALL_TIMEOUT_NS 15000000000ull

struct call {
	struct peer_request request;
	struct member *owner; /* whose coroutine waits */
	bool busy;
	int status;
	uint64_t body[REPLY_BYTES / 8]; /* what is asked, then what was answered */
	uint32_t body_bytes;
	void *payload; /* bufpool: sent or received */
	uint32_t payload_bytes;
	uint32_t payload_room;
};

struct sync_job {
	struct call calls[SYNC_BATCH];
	struct {
		uint32_t first, count;
	} runs[STORE_CHUNK_BLOCKS / 2 + STORE_CHUNK_BLOCKS / RUN_BLOCKS_MAX + 1];
};

static bool gone(const struct member *m)
{
	return m->co->ended || m->co->stopping || !m->up || !m->promised || !m->bulk_ready ||
	       m->life != m->sync_life;
}

static void wait_event(struct member *m)
{
	m->sync_waiting = true;
	co_suspend(m->sync);
}

void sync_wake(struct member *m)
{
	if (!m->sync_waiting)
		return;
	m->sync_waiting = false;
	co_resume(m->sync);
}

/* ---- calls ---- */

static void payload_drop(struct call *call)
{
	bufpool_put(call->owner->co->bufs, call->payload, call->payload_room);
	call->payload = NULL;
	call->payload_bytes = call->payload_room = 0;
}

static int payload_room(struct call *call, uint32_t bytes)
{
	if (call->payload != NULL)
		payload_drop(call);
	struct coordinator *co = call->owner->co;
	/* entries that are kept for those who are away make room, as they do for writes */
	while ((call->payload = bufpool_get(co->bufs, bytes)) == NULL && window_evict(co))
		;
	if (call->payload == NULL)
		return -EBUSY;
	call->payload_room = bytes;
	return 0;
}

static void call_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct call *call = CONTAINER_OF(request, struct call, request);
	call->busy = false;
	call->status = status;
	call->body_bytes = 0;
	if (frame != NULL && frame->body_bytes <= sizeof(call->body)) {
		memcpy(call->body, frame->body, frame->body_bytes);
		call->body_bytes = frame->body_bytes;
		if (frame->payload_bytes > 0) {
			if (payload_room(call, frame->payload_bytes) < 0)
				call->status = -EBUSY;
			else
				memcpy(call->payload, frame->payload, frame->payload_bytes);
			call->payload_bytes = call->payload == NULL ? 0 : frame->payload_bytes;
		}
	}
	sync_wake(call->owner);
}

static void call_start(struct call *call, struct member *to, enum wire_type type,
		       uint32_t body_bytes)
{
	uint32_t padded = (uint32_t)ALIGN_UP(body_bytes, 8);
	memset((uint8_t *)call->body + body_bytes, 0, padded - body_bytes);
	call->busy = true;
	call->request.out.header = (struct wire_header){
		.type = le16_make(type),
		.session = le32_make(to->session.id),
	};
	call->request.out.iov[1] = (struct iovec){call->body, padded};
	call->request.out.iov_count = 2;
	if (call->payload_bytes > 0) {
		call->request.out.iov[2] = (struct iovec){call->payload, call->payload_bytes};
		call->request.out.iov_count = 3;
	}
	call->request.timeout_ns = CALL_TIMEOUT_NS;
	call->request.done = call_done;
	/* ADOPT and SHADOW go in the order of the stream; the rest must not delay it. */
	bool in_stream = type == WIRE_ADOPT || type == WIRE_SHADOW || type == WIRE_STAGE;
	peer_request(to->peer, in_stream ? WIRE_KIND_CLIENT : WIRE_KIND_BULK, &call->request);
}

/* Waits for the first count calls; the first error among them. */
static int calls_wait(struct member *m, uint32_t count)
{
	int rc = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct call *call = &m->job->calls[i];
		while (call->busy)
			wait_event(m);
		if (rc == 0)
			rc = call->status;
	}
	return rc;
}

/* ---- sources ---- */

static struct member *source_for(struct member *m)
{
	struct coordinator *co = m->co;
	if (!co->open)
		return co->open_source != m && co->open_source->bulk_ready ? co->open_source : NULL;
	struct member *behind = NULL;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *s = &co->members[(i + m->source_turn) % co->member_count];
		if (s == m || s->state != REPLICA_LIVE || !s->adopted || !s->up)
			continue;
		if (s->acked_seq >= co->commit_seq)
			return s;
		behind = s;
	}
	return behind;
}

/* ---- log entries from the window or from a source's log, into a call as an entry frame ---- */

static int entry_from_window(struct call *call, const struct window_entry *e)
{
	memcpy(call->body, &e->body, e->body_bytes);
	call->body_bytes = e->body_bytes;
	if (e->payload_bytes == 0) {
		payload_drop(call);
		return 0;
	}
	int rc = payload_room(call, e->payload_bytes);
	if (rc < 0)
		return rc;
	memcpy(call->payload, e->payload, e->payload_bytes);
	call->payload_bytes = e->payload_bytes;
	return 0;
}

/* Fills calls[0..count) with the entries from..from+count-1. -ENODATA: nobody has them as log any more. */
static int entries_fetch(struct member *m, uint64_t from, uint32_t count)
{
	struct coordinator *co = m->co;
	struct member *source = NULL;
	for (uint32_t i = 0; i < count; i++) {
		struct call *call = &m->job->calls[i];
		call->status = 0;
		const struct window_entry *e = window_find(co, from + i);
		if (e != NULL) {
			int rc = entry_from_window(call, e);
			if (rc < 0) {
				(void)calls_wait(m, i); /* those before it are under way */
				return rc;
			}
			continue;
		}
		if (source == NULL)
			source = source_for(m);
		if (source == NULL) {
			(void)calls_wait(m, i);
			return -EAGAIN;
		}
		payload_drop(call);
		struct wire_log_read *read = (struct wire_log_read *)call->body;
		*read = (struct wire_log_read){le64_make(co->epoch), le64_make(from + i)};
		call_start(call, source, WIRE_LOG_READ, sizeof(*read));
	}
	return calls_wait(m, count);
}

/* ---- adopt ---- */

static int adopt_send(struct member *m, const struct wire_adopt *adopt)
{
	struct call *call = &m->job->calls[0];
	payload_drop(call);
	memcpy(call->body, adopt, sizeof(*adopt));
	call_start(call, m, WIRE_ADOPT, sizeof(*adopt));
	return calls_wait(m, 1);
}

static void adopted(struct member *m, uint64_t last_seq)
{
	m->adopted = true;
	m->refill = false;
	m->log_epoch = m->co->epoch;
	m->acked_seq = m->acked_max = last_seq;
	m->last_seq = last_seq;
	m->stream_shadow = false;
	m->streaming = false;
	m->next_seq = last_seq + 1;
	m->stop_seq = UINT64_MAX;
	m->inflight_bytes = 0;
	coordinator_wake_opener(m->co);
}

static uint64_t adopt_base(const struct member *m, uint64_t last_seq)
{
	const struct coordinator *co = m->co;
	uint64_t base = m->commit_seq;
	if (m->log_epoch == co->open_log_epoch)
		base = MIN(m->last_seq, co->open_last_seq);
	return MIN(base, last_seq);
}

static int stage_range(struct member *m, uint64_t from, uint64_t to)
{
	while (from <= to) {
		uint32_t count = (uint32_t)MIN(to - from + 1, (uint64_t)m->sync_batch);
		int rc = entries_fetch(m, from, count);
		if (rc < 0)
			return rc;
		if (gone(m))
			return -ECANCELED;
		for (uint32_t i = 0; i < count; i++) {
			struct call *call = &m->job->calls[i];
			m->resync_bytes += call->payload_bytes;
			call_start(call, m, WIRE_STAGE, call->body_bytes);
		}
		rc = calls_wait(m, count);
		if (rc < 0)
			return rc;
		from += count;
	}
	return 0;
}

static int sync_adopt(struct member *m)
{
	struct coordinator *co = m->co;
	uint64_t last_seq = co->open ? co->commit_seq : co->last_seq;
	uint64_t last_hash = co->open ? co->commit_hash : co->last_hash;
	uint64_t base = adopt_base(m, last_seq);
	int rc = base < last_seq ? stage_range(m, base + 1, last_seq) : 0;
	if (rc < 0)
		return rc;
	const struct wire_adopt adopt = {
		.epoch = le64_make(co->epoch),
		.base_seq = le64_make(base),
		.last_seq = le64_make(last_seq),
		.last_hash = le64_make(last_hash),
		.commit_seq = le64_make(co->open ? last_seq : 0),
	};
	rc = adopt_send(m, &adopt);
	if (rc == 0)
		adopted(m, last_seq);
	return rc;
}

/* ---- feed: appends that the window does not have ---- */

static void feed_sent(struct link_send *out, int status)
{
	struct call *call = CONTAINER_OF(out, struct call, request.out);
	call->busy = false;
	call->status = status;
	sync_wake(call->owner);
}

static void feed_send(struct member *m, struct call *call, bool shadow)
{
	m->resync_bytes += call->payload_bytes;
	call->busy = true;
	call->request.out.header = (struct wire_header){
		.type = le16_make(WIRE_APPEND),
		.status = le16_make(shadow ? WIRE_APPEND_SHADOW : 0),
		.session = le32_make(m->session.id),
	};
	call->request.out.iov[1] = (struct iovec){call->body, call->body_bytes};
	call->request.out.iov[2] = (struct iovec){call->payload, call->payload_bytes};
	call->request.out.iov_count = call->payload_bytes > 0 ? 3 : 2;
	call->request.out.done = feed_sent;
	peer_send(m->peer, WIRE_KIND_CLIENT, &call->request.out);
}

static int feed(struct member *m, uint64_t to, bool shadow)
{
	uint64_t *acked = shadow ? &m->shadow_acked : &m->acked_seq;
	while (*acked < to) {
		uint64_t from = *acked + 1;
		uint32_t count = (uint32_t)MIN(to - from + 1, (uint64_t)m->sync_batch);
		int rc = entries_fetch(m, from, count);
		if (rc < 0)
			return rc;
		if (gone(m))
			return -ECANCELED;
		for (uint32_t i = 0; i < count; i++)
			feed_send(m, &m->job->calls[i], shadow);
		rc = calls_wait(m, count); /* the slots are ours again */
		if (rc < 0)
			return rc;
		while (*acked < from + count - 1 && m->stream_error == 0 && !gone(m))
			wait_event(m);
		if (m->stream_error != 0)
			return m->stream_error;
		if (gone(m))
			return -ECANCELED;
	}
	return 0;
}

/* In our epoch's log: from the window when it reaches back, else by feeding. */
static int sync_stream(struct member *m)
{
	struct coordinator *co = m->co;
	m->stream_shadow = false;
	/* What the pump sent before it met a gap must be answered first, or it would be sent twice. */
	while (m->acked_seq < m->sent_seq && m->stream_error == 0 && !gone(m))
		wait_event(m);
	if (m->stream_error != 0 || gone(m))
		return -ECANCELED;
	while (m->acked_seq < co->last_seq && window_find(co, m->acked_seq + 1) == NULL) {
		/* feed() tracks acknowledgements while the pump is off */
		int rc = feed(m, MIN(m->acked_seq + SYNC_BATCH, co->last_seq), false);
		if (rc < 0)
			return rc;
	}
	m->next_seq = m->acked_seq + 1;
	m->stop_seq = UINT64_MAX;
	m->inflight_bytes = 0;
	m->streaming = true;
	member_state(m, REPLICA_LIVE, "");
	member_pump(m);
	commit_advance(co);
	/* It must hear the commit point also when nothing is written, and others may wait to read here. */
	if (!env_timer_armed(&co->commit_timer))
		env_timer_after(co->env, &co->commit_timer, COMMIT_IDLE_NS);
	coordinator_kick(co);
	return 0;
}

/* ---- shadow ---- */

static int shadow_begin(struct member *m, uint64_t first_seq, uint64_t prev_hash,
			uint64_t settled_seq, bool drop)
{
	struct call *call = &m->job->calls[0];
	payload_drop(call);
	struct wire_shadow *shadow = (struct wire_shadow *)call->body;
	*shadow = (struct wire_shadow){
		.epoch = le64_make(m->co->epoch),
		.first_seq = le64_make(first_seq),
		.prev_hash = le64_make(prev_hash),
		.settled_seq = le64_make(settled_seq),
		.drop = le32_make(drop),
	};
	call_start(call, m, WIRE_SHADOW, sizeof(*shadow));
	return calls_wait(m, 1);
}

/* The next chunk that changed above since; -ENODATA at the end. What the source says is of min_commit or later. */
static int chunk_next(struct member *m, struct member *source, uint64_t since, uint64_t cursor,
		      uint64_t min_commit)
{
	struct call *call = &m->job->calls[0];
	for (;;) {
		payload_drop(call);
		struct wire_changes *changes = (struct wire_changes *)call->body;
		*changes = (struct wire_changes){
			.epoch = le64_make(m->co->epoch),
			.since_seq = le64_make(since),
			.chunk_cursor = le64_make(cursor),
		};
		call_start(call, source, WIRE_CHANGES, sizeof(*changes));
		int rc = calls_wait(m, 1);
		if (rc < 0 && rc != -ENODATA)
			return rc;
		const struct wire_chunk *chunk = (const struct wire_chunk *)call->body;
		if (call->body_bytes != sizeof(*chunk) + (rc == 0 ? STORE_CHUNK_BLOCKS * 5 : 0))
			return -EPROTO;
		if (le64_get(chunk->commit_seq) >= min_commit)
			return rc;
		co_sleep(m->sync, COMMIT_IDLE_NS); /* its commit point is on the way */
		if (gone(m))
			return -ECANCELED;
	}
}

/* blocks: of the chunk, within the volume. */
static uint32_t chunk_runs(struct sync_job *job, const uint8_t *states, uint64_t blocks)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS && i < blocks; i++) {
		if (states[i] & STORE_BLOCK_OLD)
			continue;
		if (count > 0 && job->runs[count - 1].count < RUN_BLOCKS_MAX &&
		    job->runs[count - 1].first + job->runs[count - 1].count == i) {
			job->runs[count - 1].count++;
		} else {
			job->runs[count].first = i;
			job->runs[count++].count = 1;
		}
	}
	return count;
}

static int run_to_fill(struct call *call, uint32_t length, uint64_t epoch, uint64_t at_seq,
		       uint64_t address)
{
	const struct wire_data *data = (const struct wire_data *)call->body;
	if (call->body_bytes < sizeof(*data) || le32_get(data->length_blocks) != length ||
	    call->body_bytes != ALIGN_UP(sizeof(*data) + length * 5, 8))
		return -EPROTO;
	uint8_t tail[STORE_CHUNK_BLOCKS * 5];
	memcpy(tail, data + 1, length * 5);
	uint32_t data_blocks = le32_get(data->data_blocks);
	struct wire_fill *fill = (struct wire_fill *)call->body;
	*fill = (struct wire_fill){
		.epoch = le64_make(epoch),
		.at_seq = le64_make(at_seq),
		.address_blocks = le64_make(address),
		.length_blocks = le32_make(length),
		.data_blocks = le32_make(data_blocks),
	};
	memcpy(fill + 1, tail, length * 5);
	call->body_bytes = (uint32_t)sizeof(*fill) + length * 5;
	return 0;
}

static int runs_copy(struct member *m, struct member *source, uint64_t chunk_block, uint64_t at_seq,
		     uint32_t first_run, uint32_t count)
{
	struct sync_job *job = m->job;
	for (uint32_t i = 0; i < count; i++) {
		struct call *call = &job->calls[i];
		payload_drop(call);
		struct wire_read *read = (struct wire_read *)call->body;
		*read = (struct wire_read){
			.epoch = le64_make(m->co->epoch),
			.address_blocks = le64_make(chunk_block + job->runs[first_run + i].first),
			.length_blocks = le64_make(job->runs[first_run + i].count),
		};
		call_start(call, source, WIRE_READ, sizeof(*read));
	}
	int rc = calls_wait(m, count);
	if (rc < 0 || gone(m))
		return rc < 0 ? rc : -ECANCELED;
	for (uint32_t i = 0; i < count; i++) {
		struct call *call = &job->calls[i];
		rc = run_to_fill(call, job->runs[first_run + i].count, m->co->epoch, at_seq,
				 chunk_block + job->runs[first_run + i].first);
		if (rc < 0) {
			(void)calls_wait(m, i);
			return rc;
		}
		m->resync_bytes += call->payload_bytes;
		call_start(call, m, WIRE_FILL, call->body_bytes);
	}
	return calls_wait(m, count);
}

/* One chunk of the member becomes zeros as of at_seq. */
static int chunk_zero(struct member *m, uint64_t chunk, uint64_t at_seq)
{
	struct call *call = &m->job->calls[0];
	uint64_t first = chunk * STORE_CHUNK_BLOCKS;
	uint32_t length =
		(uint32_t)MIN(m->co->volume.size_blocks - first, (uint64_t)STORE_CHUNK_BLOCKS);
	payload_drop(call);
	struct wire_fill *fill = (struct wire_fill *)call->body;
	*fill = (struct wire_fill){
		.epoch = le64_make(m->co->epoch),
		.at_seq = le64_make(at_seq),
		.address_blocks = le64_make(first),
		.length_blocks = le32_make(length),
	};
	le32 *crcs = (le32 *)(fill + 1);
	for (uint32_t i = 0; i < length; i++)
		crcs[i] = le32_make(CRC32C_ZERO_BLOCK);
	memset(crcs + length, STORE_BLOCK_ZERO, length);
	call_start(call, m, WIRE_FILL, (uint32_t)sizeof(*fill) + length * 5);
	return calls_wait(m, 1);
}

/* The first chunk in [*chunk, end) where the member itself has data. 0 and *chunk, or -ENODATA. */
static int chunk_own_next(struct member *m, uint64_t *chunk, uint64_t end)
{
	struct call *call = &m->job->calls[0];
	uint64_t at = *chunk * STORE_CHUNK_BLOCKS;
	uint64_t end_block =
		MIN(MIN(end * STORE_CHUNK_BLOCKS, m->size_blocks), m->co->volume.size_blocks);
	while (at < end_block) {
		payload_drop(call);
		struct wire_read *read = (struct wire_read *)call->body;
		*read = (struct wire_read){
			.epoch = le64_make(m->co->epoch),
			.address_blocks = le64_make(at),
			.length_blocks = le64_make(end_block - at),
		};
		call_start(call, m, WIRE_EXTENTS, sizeof(*read));
		int rc = calls_wait(m, 1);
		if (rc < 0)
			return rc;
		const struct wire_extent *extents = (const struct wire_extent *)call->body;
		uint64_t before = at;
		for (uint32_t i = 0; i < call->body_bytes / sizeof(*extents); i++) {
			if (le32_get(extents[i].data) != 0) {
				*chunk = at / STORE_CHUNK_BLOCKS;
				return at < end_block ? 0 : -ENODATA;
			}
			at += MIN(le64_get(extents[i].length_blocks), end_block - at);
		}
		if (at == before)
			return -EPROTO;
		if (gone(m))
			return -ECANCELED;
	}
	return -ENODATA;
}

/* Y4: the source has nothing in chunks [from, to); it was asked when it held min_commit. */
static int gap_zero(struct member *m, uint64_t from, uint64_t to, uint64_t min_commit)
{
	for (uint64_t chunk = from; chunk < to; chunk++) {
		int rc = chunk_own_next(m, &chunk, to);
		if (rc == -ENODATA)
			return 0;
		if (rc == 0)
			rc = chunk_zero(m, chunk, min_commit);
		if (rc < 0 || gone(m))
			return rc < 0 ? rc : -ECANCELED;
	}
	return 0;
}

struct copy {
	uint64_t since;      /* chunks with a version above it */
	uint64_t min_commit; /* the cut */
	bool full;           /* Y4; since is 0 */
};

/* Chunks [from, to) of the source are as they were. */
static int copy_gap(struct member *m, const struct copy *copy, uint64_t from, uint64_t to)
{
	uint64_t chunks = DIV_UP(m->co->volume.size_blocks, STORE_CHUNK_BLOCKS);
	return copy->full ? gap_zero(m, from, MIN(to, chunks), copy->min_commit) : 0;
}

static int shadow_copy(struct member *m, struct member *source, const struct copy *copy)
{
	struct coordinator *co = m->co;
	uint64_t cursor = 0;
	m->resync_chunks_done = 0;
	m->resync_chunks_total = DIV_UP(co->volume.size_blocks, STORE_CHUNK_BLOCKS);
	for (;;) {
		int rc = chunk_next(m, source, copy->since, cursor, copy->min_commit);
		if (rc == -ENODATA)
			return copy_gap(m, copy, cursor, UINT64_MAX);
		if (rc < 0)
			return rc;
		const struct wire_chunk *head = (const struct wire_chunk *)m->job->calls[0].body;
		uint64_t chunk = le64_get(head->chunk), at_seq = le64_get(head->commit_seq);
		uint32_t runs = chunk_runs(m->job, (const uint8_t *)(head + 1) + STORE_CHUNK_BLOCKS * 4,
					   co->volume.size_blocks -
						   MIN(co->volume.size_blocks,
						       chunk * STORE_CHUNK_BLOCKS));
		for (uint32_t i = 0; i < runs; i += m->sync_batch) {
			rc = runs_copy(m, source, chunk * STORE_CHUNK_BLOCKS, at_seq, i,
				       MIN(runs - i, m->sync_batch));
			if (rc < 0)
				return rc;
			if (gone(m) || m->stream_error != 0 || (co->open && !m->streaming))
				return -ECANCELED;
		}
		rc = copy_gap(m, copy, cursor, chunk);
		if (rc < 0)
			return rc;
		cursor = chunk + 1;
		m->resync_chunks_done = cursor;
	}
}

static uint32_t others_adopted(const struct member *m)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < m->co->member_count; i++)
		count += &m->co->members[i] != m && m->co->members[i].info.voter &&
			 m->co->members[i].adopted;
	return count;
}

/* Y2: the stream stops at X, X is acknowledged and committed, then the flip. */
static int shadow_adopt(struct member *m)
{
	struct coordinator *co = m->co;
	uint64_t last_seq = co->last_seq, last_hash = co->last_hash;
	if (!co->open) {
		int rc = feed(m, last_seq, true);
		if (rc < 0)
			return rc;
		/* Y2: with the source and q - 1 in all adopted, this adoption itself settles X. */
		if (!co->open_source->adopted || others_adopted(m) + 1 < co->quorum)
			return -EAGAIN;
	}
	m->stop_seq = last_seq;
	member_pump(m);
	while ((m->shadow_acked < last_seq || (co->open && co->commit_seq < last_seq)) &&
	       m->stream_error == 0 && !gone(m) && (m->streaming || !co->open))
		co_sleep(m->sync, COMMIT_IDLE_NS); /* acknowledgements and commit come by others too */
	if (gone(m) || m->stream_error != 0 || (co->open && !m->streaming))
		return -ECANCELED;
	const struct wire_adopt adopt = {
		.epoch = le64_make(co->epoch),
		.base_seq = le64_make(last_seq),
		.last_seq = le64_make(last_seq),
		.last_hash = le64_make(last_hash),
		.commit_seq = le64_make(co->open ? last_seq : 0),
		.shadow = le32_make(1),
	};
	m->streaming = false;
	int rc = adopt_send(m, &adopt);
	if (rc == 0)
		adopted(m, last_seq);
	return rc;
}

static int sync_shadow(struct member *m)
{
	struct coordinator *co = m->co;
	struct member *source = source_for(m);
	if (source == NULL)
		return -EAGAIN;
	m->streaming = false;
	m->adopted = false; /* what it acknowledged in an earlier stream no longer counts here */
	uint64_t cut = co->open ? co->commit_seq : source->commit_seq;
	uint64_t cut_hash = co->open ? co->commit_hash : source->commit_hash;
	uint64_t since = MIN(m->commit_seq, cut),
		 settled = MAX(source->settled_seq, co->settled_seq);
	struct copy copy = {
		.since = since, .min_commit = cut, .full = m->refill || since < settled};
	if (copy.full)
		copy.since = 0;
	member_state(m, REPLICA_SYNCING, "copying what changed");
	coordinator_event(co, "resync_start", "node=%s source=%s since=%lu cut=%lu",
			  m->info.node_name, source->info.node_name, copy.since, cut);
	int rc = shadow_begin(m, cut + 1, cut_hash, settled, false);
	if (rc == -EBUSY) { /* one of an earlier attempt */
		rc = shadow_begin(m, 0, 0, 0, true);
		return rc < 0 ? rc : -EAGAIN;
	}
	if (rc < 0)
		return rc;
	m->stream_shadow = true;
	m->shadow_acked = cut;
	m->next_seq = cut + 1;
	m->stop_seq = UINT64_MAX;
	m->inflight_bytes = 0;
	if (co->open) {
		m->streaming = true;
		member_pump(m);
	}
	rc = shadow_copy(m, source, &copy);
	if (rc == 0)
		rc = shadow_adopt(m);
	m->streaming = false;
	m->stream_shadow = false;
	if (rc == 0) {
		coordinator_event(co, "resync_done", "node=%s bytes=%lu", m->info.node_name,
				  m->resync_bytes);
	} else if (!gone(m)) {
		(void)shadow_begin(m, 0, 0, 0, true);
	}
	return rc;
}

/* ---- the coroutine ---- */

static int sync_once(struct member *m)
{
	int rc = 0;
	if (m->streaming && m->state == REPLICA_LIVE)
		return 0;
	if (m->refill) {
		rc = sync_shadow(m);
	} else if (!m->adopted) {
		rc = sync_adopt(m);
		if (rc == -ENODATA)
			rc = sync_shadow(m);
	}
	if (rc < 0 || gone(m))
		return rc;
	rc = sync_stream(m);
	if (rc == -ENODATA)
		rc = sync_shadow(m) == 0 ? sync_stream(m) : -EAGAIN;
	return rc;
}

static bool sync_turn(struct co *self, struct member *m)
{
	m->sync_wanted = false;
	m->sync_life = m->life;
	int rc = gone(m) ? 0 : sync_once(m);
	if (m->co->ended || m->co->stopping)
		return false;
	if (rc < 0 && !gone(m)) {
		m->source_turn++;
		m->sync_batch = rc == -EBUSY ? MAX(m->sync_batch / 2, 1u) : SYNC_BATCH;
		coordinator_event(m->co, "resync_retry", "node=%s status=%s", m->info.node_name,
				  err_name(rc));
		if (rc != -EAGAIN && rc != -EBUSY) { /* its positions are in doubt: ask anew */
			m->streaming = false;
			m->stream_error = rc;
			env_timer_after(m->co->env, &m->retry, 100000000ull);
			return m->sync_wanted;
		}
		co_sleep(self, 20000000ull);
		return true;
	}
	return m->sync_wanted;
}

static void sync_run(struct co *self, void *arg)
{
	struct member *m = arg;
	m->resync_bytes = 0;
	m->sync_batch = SYNC_BATCH;
	while (sync_turn(self, m))
		;
	m->resync_bytes_last = m->resync_bytes;
	for (uint32_t i = 0; i < SYNC_BATCH; i++)
		payload_drop(&m->job->calls[i]);
	/* The last step of the coroutine: whoever waits for it looks again on the next turn. */
	if (m->co->ended || m->co->stopping)
		coordinator_kick(m->co);
	else
		coordinator_wake_opener(m->co);
}

static void sync_fire(struct env_timer *timer)
{
	struct member *m = CONTAINER_OF(timer, struct member, sync_timer);
	if (!m->co->ended && !co_running(m->sync))
		co_start(m->sync, sync_run, m);
}

void sync_start(struct member *m)
{
	m->sync_wanted = true;
	if (m->sync == NULL)
		m->sync = co_create(m->co->env, 64 * 1024);
	if (m->job == NULL) {
		m->job = calloc(1, sizeof(*m->job));
		if (m->job != NULL)
			for (uint32_t i = 0; i < SYNC_BATCH; i++)
				m->job->calls[i].owner = m;
	}
	if (m->sync == NULL || m->job == NULL) {
		env_timer_after(m->co->env, &m->retry, 1000000000ull);
		return;
	}
	m->sync_timer.fire = sync_fire;
	if (!co_running(m->sync))
		env_timer_set(m->co->env, &m->sync_timer, 0);
}

void sync_free(struct member *m)
{
	co_destroy(m->sync);
	free(m->job);
}
