/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes: the window, the streams to the replicas, the commit point.
 *
 * A write gets its seq, its checksums and a copy of its payload in one pass, and is sent to every replica
 * that streams. The copy is what lets the request complete at the quorum while a slow replica still has its
 * bytes in a socket. Slots stay readable after the commit, oldest first out, so that a replica that was
 * away for a moment catches up from memory.
 *
 * W1  seq has no gaps; prev_hash chains; what was sent under a seq never changes.
 * W2  commit_seq is the quorum-th largest acked_seq among voters that adopted this epoch.
 * W3  A member may pin at most half of the window (entries and bytes): beyond, it is not sent to until
 *     it acknowledges, and when what it needs has left the window it resyncs. Others never wait for it.
 */
#include <errno.h>

#include "base/crc32c.h"
#include "replication/coordinator_impl.h"

/* ---- window ---- */

struct window_entry *window_find(struct coordinator *co, uint64_t seq)
{
	struct window_entry *e = co->by_seq[seq % WINDOW_SEQ_MAP];
	return e != NULL && e->entry.seq == seq ? e : NULL;
}

static void window_release(struct window_entry *e)
{
	struct coordinator *co = e->co;
	if (co->by_seq[e->entry.seq % WINDOW_SEQ_MAP] == e)
		co->by_seq[e->entry.seq % WINDOW_SEQ_MAP] = NULL;
	bufpool_put(co->bufs, e->payload, e->payload_bytes);
	e->payload = NULL;
	list_remove(&e->link);
	list_push_front(&co->window_free, &e->link);
}

/* Gives back the oldest committed entry that nothing is sending. False when there is none. */
bool window_evict(struct coordinator *co)
{
	list_for_each (n, &co->window_used) {
		struct window_entry *e = CONTAINER_OF(n, struct window_entry, link);
		if (e->entry.seq > co->commit_seq)
			return false;
		if (e->sends_out == 0 && e->request == NULL) {
			window_release(e);
			return true;
		}
	}
	return false;
}

void coordinator_idle(struct coordinator *co)
{
	bool is_idle = co->open && co->idle_seq == co->last_seq && co->commit_seq == co->last_seq;
	co->idle_seq = co->last_seq;
	for (uint32_t i = 0; i < co->member_count; i++)
		if (co->members[i].up && co->members[i].acked_seq < co->last_seq)
			is_idle = false; /* it is fed from the window */
	if (!is_idle)
		return;
	while (window_evict(co))
		;
	bufpool_trim(co->bufs);
}

static struct window_entry *window_slot(struct coordinator *co)
{
	for (;;) {
		struct list *n = list_pop_front(&co->window_free);
		if (n != NULL)
			return CONTAINER_OF(n, struct window_entry, link);
		if (co->window_fresh < co->window_count)
			return &co->window[co->window_fresh++];
		if (!window_evict(co))
			return NULL;
	}
}

bool window_overlaps(struct coordinator *co, uint64_t above_seq, uint64_t upto_seq,
		     uint64_t address_blocks, uint64_t length_blocks)
{
	for (uint64_t seq = upto_seq; seq > above_seq; seq--) {
		const struct window_entry *e = window_find(co, seq);
		if (e == NULL)
			return true; /* no longer known: assume it does */
		const struct log_entry *l = &e->entry;
		if ((l->op == LOG_WRITE || l->op == LOG_ZERO) &&
		    l->address_blocks < address_blocks + length_blocks &&
		    address_blocks < l->address_blocks + l->length_blocks)
			return true;
	}
	return false;
}

/* ---- making an entry ---- */

static void copy_payload(struct window_entry *e, const struct coordinator_request *request)
{
	uint8_t *to = e->payload;
	for (uint32_t i = 0; i < request->iov_count; i++) {
		memcpy(to, request->iov[i].iov_base, request->iov[i].iov_len);
		to += request->iov[i].iov_len;
	}
	const uint8_t *from = e->payload;
	for (uint32_t i = 0; i < request->length_blocks; i++) {
		e->crc32c[i] = crc32c(from + (size_t)i * BLOCK_BYTES, BLOCK_BYTES);
		e->body.crcs[i] = le32_make(e->crc32c[i]);
	}
}

static void entry_fill(struct window_entry *e, const struct coordinator_request *request)
{
	static const uint8_t ops[] = {
		[COORDINATOR_WRITE] = LOG_WRITE,
		[COORDINATOR_ZERO] = LOG_ZERO,
		[COORDINATOR_RESIZE] = LOG_RESIZE,
	};
	struct coordinator *co = e->co;
	e->entry = (struct log_entry){
		.epoch = co->epoch,
		.seq = co->last_seq + 1,
		.prev_hash = co->last_hash,
		.commit_seq = co->commit_seq,
		.time_ms = env_wall_ms(co->env),
		.op = ops[request->op],
		.address_blocks = request->address_blocks,
		.length_blocks = request->op == COORDINATOR_RESIZE ? 0 : request->length_blocks,
		.crc32c = e->crc32c,
	};
	uint32_t crc_count =
		request->op == COORDINATOR_WRITE ? (uint32_t)request->length_blocks : 0;
	if (crc_count > 0)
		copy_payload(e, request);
	if (crc_count % 2 == 1)
		e->body.crcs[crc_count] = le32_make(0); /* padding */
	e->hash = log_entry_hash(&e->entry);
	e->body_bytes = (uint32_t)(sizeof(e->body.wire) + ALIGN_UP(crc_count * 4, 8));
	e->body.wire = (struct wire_entry){
		.epoch = le64_make(e->entry.epoch),
		.seq = le64_make(e->entry.seq),
		.prev_hash = le64_make(e->entry.prev_hash),
		.commit_seq = le64_make(e->entry.commit_seq),
		.time_ms = le64_make(e->entry.time_ms),
		.address_blocks = le64_make(e->entry.address_blocks),
		.length_blocks = le64_make(e->entry.length_blocks),
		.crc_count = le32_make(crc_count),
		.op = e->entry.op,
	};
}

static bool space_for(const struct coordinator *co, uint64_t blocks)
{
	uint32_t with_room = 0;
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		if (m->info.voter && m->adopted && m->free_blocks >= blocks)
			with_room++;
	}
	return with_room >= co->quorum;
}

static void member_free_blocks_take(struct coordinator *co, uint64_t blocks)
{
	for (uint32_t i = 0; i < co->member_count; i++)
		co->members[i].free_blocks -= MIN(co->members[i].free_blocks, blocks);
}

/* True: the request has a seq, or ended with an error. False: it has to wait. */
bool write_try(struct coordinator *co, struct coordinator_request *request)
{
	uint64_t chunk = co->verify_chunk;
	if (!co->open || !co->have_quorum)
		return false;
	if (request->op == COORDINATOR_FLUSH) { /* every write before it now has a seq or an end */
		request->barrier_seq = co->last_seq;
		list_push_back(&co->flushes, &request->link);
		coordinator_kick(co);
		return true;
	}
	if (chunk != UINT64_MAX && request->op != COORDINATOR_RESIZE &&
	    request != co->verify_write &&
	    request->address_blocks < (chunk + 1) * STORE_CHUNK_BLOCKS &&
	    chunk * STORE_CHUNK_BLOCKS < request->address_blocks + request->length_blocks)
		return false; /* a comparison reads there: verify.c */
	if (request->op == COORDINATOR_WRITE && !space_for(co, request->length_blocks)) {
		request->done(request, -ENOSPC);
		return true;
	}
	/* Checked again: it may have come before the size was known, or behind another resize. No replica would
	 * take such an entry. */
	if (request->op == COORDINATOR_RESIZE
		    ? request->address_blocks < co->size_issued
		    : request->address_blocks + request->length_blocks > co->volume.size_blocks) {
		request->done(request, -EINVAL);
		return true;
	}
	struct window_entry *e = window_slot(co);
	if (e == NULL)
		return false;
	e->co = co;
	e->payload = NULL;
	e->payload_bytes = 0;
	if (request->op == COORDINATOR_WRITE) {
		uint32_t bytes = (uint32_t)request->length_blocks * BLOCK_BYTES;
		while ((e->payload = bufpool_get(co->bufs, bytes)) == NULL && window_evict(co))
			;
		if (e->payload == NULL) {
			list_push_front(&co->window_free, &e->link);
			return false;
		}
		e->payload_bytes = bytes;
		member_free_blocks_take(co, request->length_blocks);
		co->counters.writes++;
		co->counters.write_blocks += request->length_blocks;
	}
	entry_fill(e, request);
	e->request = request;
	e->sends_out = 0;
	co->last_seq = e->entry.seq;
	co->last_hash = e->hash;
	if (request->op == COORDINATOR_RESIZE)
		co->size_issued = request->address_blocks;
	co->by_seq[e->entry.seq % WINDOW_SEQ_MAP] = e;
	list_push_back(&co->window_used, &e->link);
	for (uint32_t i = 0; i < co->member_count; i++)
		member_pump(&co->members[i]);
	return true;
}

void write_submit(struct coordinator *co, struct coordinator_request *request)
{
	/* Behind others that wait: writes keep their order. A refusal comes on the next turn. */
	if (list_empty(&co->writes_waiting) && request->op != COORDINATOR_RESIZE &&
	    (request->op != COORDINATOR_WRITE || space_for(co, request->length_blocks)) &&
	    write_try(co, request))
		return;
	list_push_back(&co->writes_waiting, &request->link);
	if (co->open)
		coordinator_kick(co);
}

/* ---- streams ---- */

static void entry_sent(struct link_send *out, int status)
{
	(void)status; /* a failed send ends the connection, which tells the member */
	struct window_send *send = CONTAINER_OF(out, struct window_send, out);
	struct window_entry *e = send->entry;
	struct coordinator *co = e->co;
	send->busy = false;
	e->sends_out--;
	if (co->stopping || co->ended) {
		if (e->sends_out == 0 && e->request == NULL)
			window_release(e);
		coordinator_shutdown_check(co);
	} else if (e->sends_out == 0 && !list_empty(&co->writes_waiting)) {
		coordinator_kick(co);
	}
}

static bool entry_send(struct member *m, struct window_entry *e)
{
	struct window_send *send = &e->sends[m->index];
	if (send->busy)
		return false;
	send->busy = true;
	send->entry = e;
	send->out.header = (struct wire_header){
		.type = le16_make(WIRE_APPEND),
		.status = le16_make(m->stream_shadow ? WIRE_APPEND_SHADOW : 0),
		.session = le32_make(m->session.id),
	};
	send->out.iov[1] = (struct iovec){&e->body, e->body_bytes};
	send->out.iov_count = 2;
	if (e->payload_bytes > 0) {
		send->out.iov[2] = (struct iovec){e->payload, e->payload_bytes};
		send->out.iov_count = 3;
	}
	send->out.done = entry_sent;
	e->sends_out++;
	m->inflight_bytes += e->payload_bytes + sizeof(struct window_entry);
	peer_send(m->peer, WIRE_KIND_CLIENT, &send->out);
	return true;
}

static uint64_t member_acked(const struct member *m)
{
	return m->stream_shadow ? m->shadow_acked : m->acked_seq;
}

void member_pump(struct member *m)
{
	struct coordinator *co = m->co;
	if (!m->streaming || !m->up)
		return;
	m->next_seq = MAX(m->next_seq, member_acked(m) + 1);
	while (m->next_seq <= co->last_seq && m->next_seq <= m->stop_seq) {
		if (m->next_seq - member_acked(m) > co->window_count / 2 ||
		    m->inflight_bytes > co->config.window_bytes / 4)
			return; /* W3 */
		struct window_entry *e = window_find(co, m->next_seq);
		if (e == NULL) {
			m->streaming = false; /* it left the window: read it from a replica's log */
			sync_start(m);
			return;
		}
		if (!entry_send(m, e)) {
			env_timer_after(co->env, &m->retry, 1000000);
			return;
		}
		if (!m->stream_shadow)
			m->sent_seq = m->next_seq;
		m->next_seq++;
	}
}

/* ---- acknowledgements ---- */

static void request_complete(struct coordinator *co, struct window_entry *e, int status)
{
	struct coordinator_request *request = e->request;
	e->request = NULL;
	if (status == 0 && e->entry.op == LOG_RESIZE)
		co->volume.size_blocks = e->entry.address_blocks;
	if (request == NULL)
		return;
	request->done(request, status);
}

static uint64_t quorum_seq(const struct coordinator *co)
{
	uint64_t acked[COORDINATOR_REPLICAS_MAX];
	uint32_t count = 0;
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		if (!m->info.voter || !m->adopted)
			continue;
		uint32_t at = count++;
		while (at > 0 && acked[at - 1] < m->acked_seq) {
			acked[at] = acked[at - 1];
			at--;
		}
		acked[at] = m->acked_seq;
	}
	return count >= co->quorum ? acked[co->quorum - 1] : 0;
}

void commit_advance(struct coordinator *co)
{
	uint64_t seq = quorum_seq(co); /* W2, checked (invariant PROTO-2) */
	if (!co->open || seq <= co->commit_seq)
		return;
	uint64_t from = co->commit_seq + 1;
	co->commit_seq = seq;
	for (uint64_t s = from; s <= seq; s++) {
		struct window_entry *e = window_find(co, s);
		if (e == NULL)
			continue; /* settled by the open */
		co->commit_hash = e->hash;
		request_complete(co, e, 0);
	}
	if (!list_empty(&co->writes_waiting) || !list_empty(&co->reads_waiting) ||
	    !list_empty(&co->flushes) || !list_empty(&co->lease_waiting) || co->verifier_waiting)
		coordinator_kick(co);
	if (!env_timer_armed(&co->commit_timer))
		env_timer_after(co->env, &co->commit_timer, COMMIT_IDLE_NS);
}

void member_ack(struct member *m, const struct wire_ack *ack)
{
	struct coordinator *co = m->co;
	uint64_t seq = le64_get(ack->last_seq);
	int status = wire_status_to((uint16_t)le32_get(ack->status));
	if (le64_get(ack->epoch) != co->epoch || seq > co->last_seq)
		return;
	if (status == 0)
		m->free_blocks = le64_get(ack->free_blocks);
	m->checkpoint_seq = MAX(m->checkpoint_seq, le64_get(ack->checkpoint_seq));
	uint64_t *acked = le32_get(ack->shadow) != 0 ? &m->shadow_acked : &m->acked_seq;
	for (uint64_t s = *acked + 1; s <= seq; s++) {
		const struct window_entry *e = window_find(co, s);
		uint64_t bytes = sizeof(struct window_entry) + (e != NULL ? e->payload_bytes : 0);
		m->inflight_bytes -= MIN(m->inflight_bytes, bytes);
	}
	*acked = MAX(*acked, seq);
	if (m->stream_shadow ? m->next_seq <= m->shadow_acked + 1 : m->next_seq <= m->acked_seq + 1)
		m->inflight_bytes = 0;
	m->acked_max = MAX(m->acked_max, m->acked_seq);
	if (status == -ESTALE) {
		coordinator_end(co, -ESHUTDOWN, "a replica follows a newer epoch");
		return;
	}
	if (status < 0 && m->stream_error == 0) {
		m->streaming = false;
		m->stream_error = status;
		member_state(m, REPLICA_SYNCING, err_name(status));
		/* then attach anew; at once when it only lost the session */
		env_timer_after(co->env, &m->retry, status == -ENOENT ? 0 : 500000000ull);
	}
	commit_advance(co);
	if (co->ended)
		return;
	if (!list_empty(&co->reads_waiting) || co->verifier_waiting)
		coordinator_kick(co); /* this replica may be what they wait for */
	member_pump(m);
	if (m->sync_waiting)
		sync_wake(m);
}

/* ---- the idle commit ---- */

static void commit_sent(struct link_send *out, int status)
{
	(void)status;
	struct member *m = CONTAINER_OF(out, struct member, commit_out);
	m->commit_busy = false;
	coordinator_shutdown_check(m->co);
}

/* PROTO-16: what a voter says of itself stays true while it is away; one that was not heard, or that lost data, holds
 * it back. */
static void settle_advance(struct coordinator *co)
{
	uint64_t settled = UINT64_MAX;
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		if (m->info.voter)
			settled = MIN(settled, m->refill ? 0 : m->checkpoint_seq);
	}
	if (settled != UINT64_MAX)
		co->settled_seq = MAX(co->settled_seq, settled);
}

void commit_fire(struct env_timer *timer)
{
	struct coordinator *co = CONTAINER_OF(timer, struct coordinator, commit_timer);
	bool again = false;
	if (co->ended)
		return;
	settle_advance(co);
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		if (!m->up || !m->adopted || !m->streaming)
			continue;
		again = again || m->commit_busy;
		if (m->commit_busy)
			continue;
		m->commit_busy = true;
		m->commit_body = (struct wire_commit){
			.epoch = le64_make(co->epoch),
			.commit_seq = le64_make(co->commit_seq),
			.settled_seq = le64_make(co->settled_seq),
		};
		m->commit_out.header = (struct wire_header){
			.type = le16_make(WIRE_COMMIT),
			.session = le32_make(m->session.id),
		};
		m->commit_out.iov[1] = (struct iovec){&m->commit_body, sizeof(m->commit_body)};
		m->commit_out.iov_count = 2;
		m->commit_out.done = commit_sent;
		peer_send(m->peer, WIRE_KIND_CLIENT, &m->commit_out);
	}
	if (again)
		env_timer_after(co->env, &co->commit_timer, COMMIT_IDLE_NS);
}
