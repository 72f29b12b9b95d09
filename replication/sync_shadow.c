/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resync by pages, when nobody's log reaches back far enough: the live stream goes into a hidden
 * shadow from T + 1 on, chunks with versions above the member's commit point are copied beside it,
 * and one ADOPT flips.
 *
 * Y2  A shadow is adopted only when its log reaches X, and X is not below any commit point that a
 *     chunk was read at. Chunks are read as committed, so what a later recovery may drop is only in
 *     the shadow's log, which can be cut. Nobody has to wait for X to be committed: when this member
 *     is what the quorum lacks, X is committed by its adoption.
 * Y4  A chunk is listed and read in one life of one source: a source that came back may know less.
 *     Another source may go on with the next chunk, as the commit point of each chunk is looked at.
 * Y5  The stream goes first: while it lags by a quarter of what a member may pin (W3), nothing is
 *     copied. So only a member that is slower than the writers falls out of the window; then its
 *     shadow is fed from a log.
 * Y6  What was settled may have left no trace in the source (PROTO-16): a member whose commit point is
 *     below that, or that lost data, gets every chunk of the source, and zeros for each that it alone has.
 *     No source is taken that may lack traces of what came after `since`.
 */
#include <errno.h>

#include "base/crc32c.h"
#include "replication/sync_impl.h"

#define SOURCE_WAIT_NS 5000000000ull

static int source_take(struct member *m)
{
	struct member *source = source_for(m);
	if (source == NULL)
		return -EAGAIN;
	m->job->source = source;
	m->job->source_life = source->life;
	return 0;
}

static bool source_lost(const struct member *m)
{
	const struct member *source = m->job->source;
	return source->life != m->job->source_life || !source->bulk_ready;
}

/* Y6 */
static bool source_has_traces(const struct member *m)
{
	const struct sync_job *job = m->job;
	return job->all || MAX(job->source->settled_seq, m->co->settled_seq) <= job->since;
}

/* After a failure: true when the copy may go on, with less at once or with another source. */
static bool copy_again(struct member *m, int rc)
{
	if (sync_still(m, m->resync_chunks_done) < 0)
		return false;
	if (rc == -EBUSY) {
		m->sync_batch = MAX(m->sync_batch / 2, 1u);
		co_sleep(m->sync, COMMIT_IDLE_NS);
		return true;
	}
	if (++m->job->copy_tries > m->co->member_count)
		return false;
	m->source_turn++;
	return source_take(m) == 0 && source_has_traces(m);
}

/* What the member itself knows to be committed: the copy is of what came after that. */
static int position_ask(struct member *m)
{
	struct call *call = &m->job->calls[0];
	call_payload_drop(call);
	struct wire_target *target = (struct wire_target *)call->body;
	*target = (struct wire_target){.volume_uuid = m->co->volume.volume_uuid,
				       .replica_uuid = m->info.replica_uuid};
	call_start(call, m, WIRE_STATUS, sizeof(*target));
	int rc = calls_wait(m, 1);
	const struct wire_promise *p = (const struct wire_promise *)call->body;
	if (rc == 0 && call->body_bytes != sizeof(*p))
		rc = -EPROTO;
	if (rc == 0)
		m->commit_seq = MAX(m->commit_seq, le64_get(p->commit_seq));
	return rc;
}

static int shadow_begin(struct member *m, uint64_t first_seq, uint64_t prev_hash,
			uint64_t settled_seq, bool drop)
{
	struct call *call = &m->job->calls[0];
	call_payload_drop(call);
	struct wire_shadow *shadow = (struct wire_shadow *)call->body;
	*shadow = (struct wire_shadow){
		.epoch = le64_make(m->co->epoch),
		.first_seq = le64_make(first_seq),
		.prev_hash = le64_make(prev_hash),
		.settled_seq = le64_make(settled_seq),
		.size_blocks = le64_make(m->job->size_blocks),
		.drop = le32_make(drop),
	};
	call_start(call, m, WIRE_SHADOW, sizeof(*shadow));
	return calls_wait(m, 1);
}

/* The next chunk that changed, as of a commit point that is not below the cut; -ENODATA at the end
 * (which too is only true as of the commit point that comes with it). */
static int chunk_next(struct member *m)
{
	struct call *call = &m->job->calls[0];
	uint64_t until_ns = env_now_ns(m->co->env) + SOURCE_WAIT_NS;
	for (;;) {
		call_payload_drop(call);
		struct wire_changes *changes = (struct wire_changes *)call->body;
		*changes = (struct wire_changes){
			.epoch = le64_make(m->co->epoch),
			.since_seq = le64_make(m->job->since),
			.chunk_cursor = le64_make(m->resync_chunks_done),
		};
		call_start(call, m->job->source, WIRE_CHANGES, sizeof(*changes));
		int rc = calls_wait(m, 1);
		if (rc < 0 && rc != -ENODATA)
			return rc;
		if (source_lost(m))
			return -EAGAIN; /* Y4 */
		const struct wire_chunk *chunk = (const struct wire_chunk *)call->body;
		uint32_t tail_bytes = rc == 0 ? STORE_CHUNK_BLOCKS * 5 : 0;
		if (call->body_bytes != sizeof(*chunk) + tail_bytes)
			return -EPROTO;
		if (le64_get(chunk->commit_seq) >= m->job->cut)
			return rc;
		/* its commit point is on the way */
		if (sync_gone(m))
			return -ECANCELED;
		if (env_now_ns(m->co->env) > until_ns)
			return -EAGAIN;
		co_sleep(m->sync, COMMIT_IDLE_NS);
	}
}

/* blocks: of the chunk, within the volume. */
static uint32_t chunk_runs(struct sync_job *job, const uint8_t *states, uint64_t blocks)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS && i < blocks; i++) {
		if (states[i] & STORE_BLOCK_OLD)
			continue;
		if (count > 0 && job->runs[count - 1].count < SYNC_RUN_BLOCKS_MAX &&
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

static int runs_copy(struct member *m, uint64_t chunk_block, uint64_t at_seq, uint32_t first_run,
		     uint32_t count)
{
	struct sync_job *job = m->job;
	for (uint32_t i = 0; i < count; i++) {
		struct call *call = &job->calls[i];
		call_payload_drop(call);
		struct wire_read *read = (struct wire_read *)call->body;
		*read = (struct wire_read){
			.epoch = le64_make(m->co->epoch),
			.address_blocks = le64_make(chunk_block + job->runs[first_run + i].first),
			.length_blocks = le64_make(job->runs[first_run + i].count),
			.flags = le32_make(WIRE_READ_COMMITTED),
		};
		call_start(call, job->source, WIRE_READ, sizeof(*read));
	}
	int rc = calls_wait(m, count);
	if (rc == 0 && sync_gone(m))
		rc = -ECANCELED;
	if (rc == 0 && source_lost(m))
		rc = -EAGAIN; /* Y4 */
	if (rc < 0)
		return rc;
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

/* ---- what the member alone has (Y6) ---- */

/* One chunk of the member becomes zeros as of the cut. */
static int chunk_zero(struct member *m, uint64_t chunk)
{
	struct call *call = &m->job->calls[0];
	uint64_t first = chunk * STORE_CHUNK_BLOCKS;
	uint32_t length = (uint32_t)MIN(m->job->size_blocks - first, (uint64_t)STORE_CHUNK_BLOCKS);
	call_payload_drop(call);
	struct wire_fill *fill = (struct wire_fill *)call->body;
	*fill = (struct wire_fill){
		.epoch = le64_make(m->co->epoch),
		.at_seq = le64_make(m->job->cut),
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
		MIN(MIN(end * STORE_CHUNK_BLOCKS, m->size_blocks), m->job->size_blocks);
	while (at < end_block) {
		call_payload_drop(call);
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
		if (sync_gone(m))
			return -ECANCELED;
	}
	return -ENODATA;
}

/* The source has nothing in chunks [from, to) as of the cut or later. */
static int gap_zero(struct member *m, uint64_t from, uint64_t to)
{
	to = MIN(to, DIV_UP(m->job->size_blocks, STORE_CHUNK_BLOCKS));
	for (uint64_t chunk = from; m->job->all && chunk < to; chunk++) {
		int rc = chunk_own_next(m, &chunk, to);
		if (rc == -ENODATA)
			return 0;
		if (rc == 0)
			rc = chunk_zero(m, chunk);
		if (rc < 0 || sync_gone(m))
			return rc < 0 ? rc : -ECANCELED;
	}
	return 0;
}

/* ---- the stream beside the copy ---- */

/* The stream fell out of the window: entries from a log until the window has what comes next. */
static int shadow_feed(struct member *m)
{
	struct coordinator *co = m->co;
	int rc;
	/* What the pump sent must be answered first, or it would be sent twice. */
	sync_moved(m);
	while ((rc = sync_still(m, m->shadow_acked)) == 0 && m->shadow_acked + 1 < m->next_seq)
		sync_wait(m);
	uint64_t to;
	while (rc == 0 && (to = MIN(co->last_seq, m->stop_seq)) > m->shadow_acked &&
	       window_find(co, m->shadow_acked + 1) == NULL)
		rc = feed(m, to, true);
	if (rc < 0)
		return rc == -ENODATA ? -EAGAIN : rc; /* from the start, at a later T */
	m->next_seq = m->shadow_acked + 1;
	m->inflight_bytes = 0;
	m->streaming = true;
	member_pump(m);
	return 0;
}

/* Y5: until the shadow's log lacks at most lag_max of the live stream's entries. */
static int shadow_keep_up(struct member *m, uint64_t lag_max)
{
	struct coordinator *co = m->co;
	int rc;
	sync_moved(m);
	while ((rc = sync_still(m, m->shadow_acked)) == 0 && co->open) {
		if (!m->streaming) {
			rc = shadow_feed(m);
			if (rc < 0)
				return rc;
			continue;
		}
		if (m->shadow_acked + lag_max >= MIN(co->last_seq, m->stop_seq) &&
		    (lag_max == 0 || m->inflight_bytes <= co->config.window_bytes / 8))
			break;
		sync_wait(m);
	}
	return rc;
}

/* The next chunk. -ENODATA: there is none. */
static int chunk_copy(struct member *m)
{
	struct coordinator *co = m->co;
	struct sync_job *job = m->job;
	int rc = shadow_keep_up(m, co->window_count / 8);
	if (rc == 0)
		rc = chunk_next(m);
	if (rc == -ENODATA) {
		int gap_rc = gap_zero(m, m->resync_chunks_done, UINT64_MAX);
		return gap_rc < 0 ? gap_rc : -ENODATA;
	}
	if (rc < 0)
		return rc;
	const struct wire_chunk *head = (const struct wire_chunk *)job->calls[0].body;
	uint64_t chunk = le64_get(head->chunk), at_seq = le64_get(head->commit_seq);
	uint64_t first_block = chunk * STORE_CHUNK_BLOCKS;
	uint64_t blocks = job->size_blocks - MIN(job->size_blocks, first_block);
	uint32_t runs =
		chunk_runs(job, (const uint8_t *)(head + 1) + STORE_CHUNK_BLOCKS * 4, blocks);
	for (uint32_t i = 0, count; rc == 0 && i < runs; i += count) {
		count = MIN(runs - i, m->sync_batch);
		rc = runs_copy(m, first_block, at_seq, i, count);
		if (rc == 0)
			rc = shadow_keep_up(m, co->window_count / 8);
	}
	if (rc == 0)
		rc = gap_zero(m, m->resync_chunks_done, chunk);
	if (rc == 0)
		m->resync_chunks_done = chunk + 1;
	return rc;
}

static int shadow_copy(struct member *m)
{
	m->resync_chunks_done = 0;
	m->resync_chunks_total = DIV_UP(m->job->size_blocks, STORE_CHUNK_BLOCKS);
	for (;;) {
		int rc = chunk_copy(m);
		if (rc == -ENODATA)
			return 0;
		if (rc == 0)
			m->job->copy_tries = 0;
		else if (!copy_again(m, rc))
			return rc;
	}
}

/* Y2: X is the end of the log now, after every chunk was read. */
static int shadow_adopt(struct member *m)
{
	struct coordinator *co = m->co;
	uint64_t last_seq = co->last_seq, last_hash = co->last_hash;
	m->stop_seq = last_seq;
	int rc;
	m->job->copy_tries = 0;
	do
		rc = co->open ? shadow_keep_up(m, 0) : feed(m, last_seq, true);
	while (rc < 0 && copy_again(m, rc));
	if (rc < 0)
		return rc == -ENODATA ? -EAGAIN : rc;
	m->streaming = false;
	const struct wire_adopt adopt = {
		.epoch = le64_make(co->epoch),
		.base_seq = le64_make(last_seq),
		.last_seq = le64_make(last_seq),
		.last_hash = le64_make(last_hash),
		.commit_seq = le64_make(co->open ? MIN(co->commit_seq, last_seq) : 0),
		.shadow = le32_make(1),
	};
	rc = adopt_send(m, &adopt);
	if (rc == 0)
		adopted(m, last_seq, le64_get(adopt.commit_seq));
	return rc;
}

int sync_shadow(struct member *m)
{
	struct coordinator *co = m->co;
	m->streaming = false;
	m->adopted = false; /* what it acknowledged in an earlier stream no longer counts here */
	int rc = m->refill ? 0 : position_ask(m);
	if (rc == 0)
		rc = source_take(m);
	if (rc < 0)
		return rc;
	const struct member *source = m->job->source;
	uint64_t cut = co->open ? co->commit_seq : source->commit_seq;
	uint64_t cut_hash = co->open ? co->commit_hash : source->commit_hash;
	uint64_t settled = MAX(source->settled_seq, co->settled_seq);
	uint64_t since = MIN(m->commit_seq, cut);
	struct sync_job *job = m->job;
	job->cut = cut;
	job->all = m->refill || since < settled; /* Y6 */
	job->since = job->all ? 0 : since;
	/* A resize that was committed may not be in the metadata yet. */
	job->size_blocks = MAX(co->volume.size_blocks, source->size_blocks);
	member_state(m, REPLICA_SYNCING, "copying what changed");
	coordinator_event(co, "resync_start", "node=%s source=%s since=%lu cut=%lu",
			  m->info.node_name, source->info.node_name, job->since, cut);
	rc = shadow_begin(m, cut + 1, cut_hash, settled, false);
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
	job->copy_tries = 0;
	sync_moved(m);
	rc = shadow_copy(m);
	if (rc == 0)
		rc = shadow_adopt(m);
	m->streaming = false;
	m->stream_shadow = false;
	if (rc == 0) {
		coordinator_event(co, "resync_done", "node=%s bytes=%lu", m->info.node_name,
				  m->resync_bytes);
	} else if (!sync_gone(m)) {
		(void)shadow_begin(m, 0, 0, 0, true);
	}
	return rc;
}
