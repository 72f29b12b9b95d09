/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads: from one replica, verified here, answered under leases.
 *
 * A read waits while an uncommitted write overlaps it, then goes to one of the live voters that hold every
 * committed entry of its range (D4). Each block is checked against the crc32c that the coordinator once made. A
 * block that is bad there comes from another replica, and the good copy is written back (REPAIR).
 *
 * D1  Checked after the data came and before the reply (invariant PROTO-7): leases of voters - q + 1
 *     voters hold, so no newer coordinator has opened; a pause in between is harmless.
 * D3  What a replica returned may hold a write that was issued meanwhile and is not committed: the answer
 *     waits until it is, so nothing is seen that a later open may drop.
 * D4  To the nearest: reads go to the voter whose reads take least, the one on this machine unless others take
 *     less than a quarter of it. What is known of a voter is halved for every READ_FORGET_NS in which it is not
 *     read from, so that one read now and then finds out whether a slow one still is. A voter that does not
 *     answer is as slow as it has not answered for.
 * D2  Data that matched no crc is never returned: with no good copy the read fails with -EIO and says which block.
 */
#include <errno.h>

#include "base/crc32c.h"
#include "replication/coordinator_impl.h"

#define READ_UNKNOWN_NS 1000000ull /* assumed of a voter that was never read from */
#define READ_FORGET_NS  8000000000ull

/* ---- where to read ---- */

/* Checked (invariant PROTO-22): a voter. */
bool member_readable(const struct member *m, uint64_t address_blocks, uint64_t length_blocks)
{
	struct coordinator *co = m->co;
	if (!m->info.voter || m->state != REPLICA_LIVE || !m->up || !m->adopted || m->stream_shadow)
		return false;
	return m->acked_seq >= co->commit_seq ||
	       !window_overlaps(co, m->acked_seq, co->commit_seq, address_blocks, length_blocks);
}

/* D4. Lower is better. */
static uint64_t read_cost_ns(const struct member *m, uint64_t now_ns)
{
	uint64_t quiet_ns = now_ns - MIN(now_ns, m->read_moved_ns);
	uint64_t cost_ns = m->read_ns != 0 ? m->read_ns : READ_UNKNOWN_NS;
	if (m->reads_out > 0)
		cost_ns = MAX(cost_ns, quiet_ns);
	else
		cost_ns >>= MIN(quiet_ns / READ_FORGET_NS, 63u);
	return m->is_local ? cost_ns / 4 : cost_ns;
}

static struct member *pick_source(struct coordinator *co, const struct coordinator_request *r,
				  uint32_t tried)
{
	uint64_t now_ns = env_now_ns(co->env), best_ns = 0;
	struct member *best = NULL;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		if ((tried >> i & 1) != 0 ||
		    !member_readable(m, r->address_blocks, r->length_blocks))
			continue;
		uint64_t cost_ns = read_cost_ns(m, now_ns);
		if (m == co->reader)
			cost_ns -=
				cost_ns / 4; /* who is no better than that is no reason to change */
		if (best == NULL || cost_ns < best_ns) {
			best = m;
			best_ns = cost_ns;
		}
	}
	return best;
}

/* D4 */
static void slot_asks(struct read_slot *slot, struct member *m)
{
	struct coordinator *co = slot->co;
	slot->member = m;
	slot->tried |= 1u << m->index;
	slot->sent_ns = env_now_ns(co->env);
	co->reader = m;
	if (m->reads_out++ == 0)
		m->read_moved_ns = slot->sent_ns;
}

static void slot_is_back(struct read_slot *slot, int status)
{
	struct member *m = slot->member;
	uint64_t now_ns = env_now_ns(slot->co->env), took_ns = now_ns - slot->sent_ns;
	m->reads_out--;
	m->read_moved_ns = now_ns;
	bool is_read = slot->io->op == COORDINATOR_READ;
	if (!is_read || (status != 0 && status != -EBADMSG && status != -ETIMEDOUT))
		return; /* it says nothing of the disk */
	if (m->read_ns == 0)
		m->read_ns = took_ns;
	else
		m->read_ns = m->read_ns - m->read_ns / 8 + took_ns / 8;
	m->read_ns = MAX(m->read_ns, 1u);
}

/* ---- leases ---- */

static bool lease_holds(const struct coordinator *co)
{
	uint64_t now_ns = env_now_ns(co->env);
	uint32_t voters = 0, granted = 0;
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		if (!m->info.voter)
			continue;
		voters++;
		/* After an error of its stream nobody knows what its node still honours. */
		granted += m->promised && m->stream_error == 0 && m->peer != NULL &&
			   peer_lease_until_ns(m->peer) > now_ns;
	}
	return granted >= voters - co->quorum + 1;
}

static void slot_free(struct read_slot *slot)
{
	struct coordinator *co = slot->co;
	slot->io = NULL;
	co->reads_out--;
	list_push_front(&co->read_free, &slot->link);
	if (!list_empty(&co->reads_waiting))
		coordinator_kick(co);
	coordinator_shutdown_check(co);
}

static void slot_finish(struct read_slot *slot, int status)
{
	struct coordinator_request *io = slot->io;
	slot->io = NULL;
	io->done(io, status);
	slot_free(slot); /* last: a shutdown may end with it */
}

/* D3: a write that overlaps may have been issued while the read was under way, and its data may be in the
 * reply. */
static void slot_came(struct read_slot *slot)
{
	struct coordinator *co = slot->co;
	const struct coordinator_request *io = slot->io;
	slot->barrier_seq = window_overlaps(co, co->commit_seq, co->last_seq, io->address_blocks,
					    io->length_blocks)
				    ? co->last_seq
				    : 0;
}

static void slot_answer(struct read_slot *slot)
{
	struct coordinator *co = slot->co;
	bool committed = co->commit_seq >= slot->barrier_seq; /* D3 */
	if (committed && lease_holds(co)) {                   /* D1 */
		slot_finish(slot, 0);
		return;
	}
	list_push_back(&co->lease_waiting, &slot->link);
	if (!env_timer_armed(&co->lease_timer))
		env_timer_after(co->env, &co->lease_timer, LEASE_POLL_NS);
}

void lease_fire(struct env_timer *timer)
{
	struct coordinator *co = CONTAINER_OF(timer, struct coordinator, lease_timer);
	struct list all;
	list_init(&all);
	list_splice_back(&all, &co->lease_waiting);
	struct list *n;
	while ((n = list_pop_front(&all)) != NULL)
		slot_answer(CONTAINER_OF(n, struct read_slot, link));
}

uint32_t reads_held(const struct coordinator *co)
{
	uint32_t count = 0;
	if (list_empty(&co->lease_waiting) || lease_holds(co))
		return 0;
	list_for_each (n, &co->lease_waiting)
		count += CONTAINER_OF(n, struct read_slot, link)->barrier_seq <= co->commit_seq;
	return count;
}

void lease_waiting_fail(struct coordinator *co, int status)
{
	struct list all;
	list_init(&all);
	list_splice_back(&all, &co->lease_waiting);
	struct list *n;
	while ((n = list_pop_front(&all)) != NULL)
		slot_finish(CONTAINER_OF(n, struct read_slot, link), status);
}

void reads_fail_all(struct coordinator *co, int status)
{
	lease_waiting_fail(co, status);
	struct list all;
	list_init(&all);
	struct list *n;
	list_splice_back(&all, &co->reads_waiting);
	while ((n = list_pop_front(&all)) != NULL) {
		struct coordinator_request *r = CONTAINER_OF(n, struct coordinator_request, link);
		bool impossible = r->op != COORDINATOR_FLUSH && r->length_blocks == 0;
		r->done(r, impossible && !co->ended ? -EINVAL : status);
	}
}

/* ---- repair ---- */

static void repair_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	(void)frame;
	struct repair_slot *slot = CONTAINER_OF(request, struct repair_slot, request);
	struct coordinator *co = slot->co;
	if (status == 0) {
		co->counters.repairs++;
		coordinator_event(co, "repaired", "node=%s block=%lu", slot->member->info.node_name,
				  slot->block);
	}
	bufpool_put(co->bufs, slot->buf, BLOCK_BYTES);
	slot->buf = NULL;
	slot->busy = false;
	coordinator_shutdown_check(co);
}

/* Best effort: when no slot is free the block is repaired by the next read or by a scrub. */
static void repair_send(struct coordinator *co, struct member *m, uint64_t block, uint32_t crc,
			const void *data)
{
	struct repair_slot *slot = NULL;
	for (size_t i = 0; i < ARRAY_LEN(co->repairs) && slot == NULL; i++)
		if (!co->repairs[i].busy)
			slot = &co->repairs[i];
	if (slot == NULL || !m->up)
		return;
	slot->buf = bufpool_get(co->bufs, BLOCK_BYTES);
	if (slot->buf == NULL)
		return;
	memcpy(slot->buf, data, BLOCK_BYTES);
	slot->co = co;
	slot->busy = true;
	slot->block = block;
	slot->member = m;
	slot->body = (struct wire_repair){
		.epoch = le64_make(co->epoch),
		.address_blocks = le64_make(block),
		.expected_crc32c = le32_make(crc),
		.crc32c = le32_make(crc),
	};
	slot->request.out.header = (struct wire_header){
		.type = le16_make(WIRE_REPAIR),
		.session = le32_make(m->session.id),
	};
	slot->request.out.iov[1] = (struct iovec){&slot->body, sizeof(slot->body)};
	slot->request.out.iov[2] = (struct iovec){slot->buf, BLOCK_BYTES};
	slot->request.out.iov_count = 3;
	slot->request.timeout_ns = 10000000000ull;
	slot->request.done = repair_done;
	peer_request(m->peer, WIRE_KIND_BULK, &slot->request);
}

/* ---- the reply ---- */

struct iov_cursor {
	const struct iovec *iov;
	size_t offset;
};

static void cursor_put(struct iov_cursor *cursor, const void *data)
{
	size_t left = BLOCK_BYTES;
	const uint8_t *from = data;
	while (left > 0) {
		size_t room = cursor->iov->iov_len - cursor->offset;
		size_t n = MIN(left, room);
		uint8_t *to = (uint8_t *)cursor->iov->iov_base + cursor->offset;
		if (from != NULL) {
			memcpy(to, from, n);
			from += n;
		} else {
			memset(to, 0, n);
		}
		left -= n;
		cursor->offset += n;
		if (cursor->offset == cursor->iov->iov_len) {
			cursor->iov++;
			cursor->offset = 0;
		}
	}
}

/* Copies and checks. 0, -EBADMSG with io->bad_block (a copy is bad), -EPROTO. */
static int take_data(struct read_slot *slot, const struct link_frame *frame)
{
	struct coordinator_request *io = slot->io;
	const struct wire_data *data = frame->body;
	uint32_t length = (uint32_t)io->length_blocks;
	if (frame->body_bytes != ALIGN_UP(sizeof(*data) + length * 5, 8) ||
	    le32_get(data->length_blocks) != length ||
	    frame->payload_bytes != le32_get(data->data_blocks) * BLOCK_BYTES)
		return -EPROTO;
	const uint8_t *crcs = (const uint8_t *)(data + 1);
	const uint8_t *states = crcs + length * 4;
	const uint8_t *payload = frame->payload;
	const uint8_t *payload_end = payload + frame->payload_bytes;
	struct iov_cursor cursor = {io->iov, 0};
	int rc = 0;
	for (uint32_t i = 0; i < length; i++) {
		uint32_t crc;
		memcpy(&crc, crcs + i * 4, 4);
		const uint8_t *block = NULL;
		bool good = states[i] == STORE_BLOCK_ZERO;
		if (states[i] == STORE_BLOCK_DATA) {
			if (payload == payload_end)
				return -EPROTO;
			block = payload;
			payload += BLOCK_BYTES;
			good = crc32c(block, BLOCK_BYTES) == crc;
		}
		if (!good && rc == 0) {
			rc = -EBADMSG;
			io->bad_block = io->address_blocks + i;
		}
		/* A good copy heals the replicas that were bad before: they check that it still fits. */
		if (good && block != NULL && slot->bad_member_bits != 0)
			for (uint32_t m = 0; m < slot->co->member_count; m++)
				if (slot->bad_member_bits >> m & 1 &&
				    io->address_blocks + i == slot->co->members[m].bad_block)
					repair_send(slot->co, &slot->co->members[m],
						    io->address_blocks + i, crc, block);
		cursor_put(&cursor, block);
	}
	return rc;
}

static void slot_send(struct read_slot *slot, struct member *m);

/* Back to the queue, looked at again after a while at the latest. */
static void slot_wait(struct read_slot *slot, uint64_t delay_ns)
{
	struct coordinator *co = slot->co;
	struct coordinator_request *io = slot->io;
	list_push_back(&co->reads_waiting, &io->link);
	slot->io = NULL;
	if (!env_timer_armed(&co->kick))
		env_timer_after(co->env, &co->kick, delay_ns);
	co->reads_out--;
	list_push_front(&co->read_free, &slot->link);
	coordinator_shutdown_check(co);
}

static void slot_retry(struct read_slot *slot)
{
	struct coordinator *co = slot->co;
	struct coordinator_request *io = slot->io;
	struct member *m = pick_source(co, io, slot->tried);
	if (m != NULL && !co->ended) {
		co->counters.read_retries++;
		slot_send(slot, m);
		return;
	}
	if (co->ended) {
		slot_finish(slot, -ESHUTDOWN);
	} else if (slot->bad_member_bits != 0 && slot->bad_member_bits == slot->tried) {
		slot_finish(slot, -EIO); /* D2 */
	} else {                         /* nobody can be asked now: wait for a replica */
		slot_wait(slot, 100000000ull);
	}
}

static void read_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct read_slot *slot = CONTAINER_OF(request, struct read_slot, request);
	struct coordinator *co = slot->co;
	slot_is_back(slot, status);
	if (co->ended) {
		slot_finish(slot, -ESHUTDOWN);
		return;
	}
	if ((status == 0 || status == -EBADMSG) && frame != NULL) {
		int rc = take_data(slot, frame);
		if (rc == 0) {
			slot_came(slot);
			slot_answer(slot);
			return;
		}
		if (rc == -EBADMSG) {
			co->counters.crc_errors++;
			slot->bad_member_bits |= 1u << slot->member->index;
			slot->member->bad_block = slot->io->bad_block;
			coordinator_event(co, "bad_block", "node=%s block=%lu",
					  slot->member->info.node_name, slot->io->bad_block);
		}
	}
	if (status == -EBUSY) { /* it has no buffer just now: ask it again unless another can */
		slot_wait(slot, 1000000);
		return;
	}
	slot_retry(slot);
}

static void extents_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct read_slot *slot = CONTAINER_OF(request, struct read_slot, request);
	struct coordinator_request *io = slot->io;
	slot_is_back(slot, status);
	if (slot->co->ended) {
		slot_finish(slot, -ESHUTDOWN);
		return;
	}
	if (status < 0 || frame == NULL || frame->body_bytes % sizeof(struct wire_extent) != 0 ||
	    frame->body_bytes == 0) {
		slot_retry(slot);
		return;
	}
	const struct wire_extent *in = frame->body;
	uint32_t count = MIN(frame->body_bytes / (uint32_t)sizeof(*in), io->extents_max);
	for (uint32_t i = 0; i < count; i++)
		io->extents[i] = (struct coordinator_extent){
			.length_blocks = le64_get(in[i].length_blocks),
			.data = le32_get(in[i].data) != 0,
		};
	io->extents_count = count;
	slot_came(slot);
	slot_answer(slot);
}

static void slot_send(struct read_slot *slot, struct member *m)
{
	struct coordinator_request *io = slot->io;
	bool extents = io->op == COORDINATOR_EXTENTS;
	slot_asks(slot, m);
	slot->body = (struct wire_read){
		.epoch = le64_make(slot->co->epoch),
		.address_blocks = le64_make(io->address_blocks),
		.length_blocks = le64_make(io->length_blocks),
	};
	slot->request.out.header = (struct wire_header){
		.type = le16_make(extents ? WIRE_EXTENTS : WIRE_READ),
		.session = le32_make(m->session.id),
	};
	slot->request.out.iov[1] = (struct iovec){&slot->body, sizeof(slot->body)};
	slot->request.out.iov_count = 2;
	slot->request.timeout_ns = 30000000000ull;
	slot->request.done = extents ? extents_done : read_done;
	peer_request(m->peer, WIRE_KIND_CLIENT, &slot->request);
}

/* True: it was sent or ended. False: it has to wait. */
bool read_try(struct coordinator *co, struct coordinator_request *r)
{
	if (r->length_blocks == 0 ||
	    (co->open && r->address_blocks + r->length_blocks > co->volume.size_blocks)) {
		r->done(r, -EINVAL);
		return true;
	}
	if (!co->open ||
	    window_overlaps(co, co->commit_seq, co->last_seq, r->address_blocks, r->length_blocks))
		return false;
	struct member *m = pick_source(co, r, 0);
	if (m == NULL || list_empty(&co->read_free))
		return false;
	struct read_slot *slot =
		CONTAINER_OF(list_pop_front(&co->read_free), struct read_slot, link);
	slot->io = r;
	slot->tried = slot->bad_member_bits = 0;
	co->reads_out++;
	co->counters.reads++;
	co->counters.read_blocks += r->length_blocks;
	slot_send(slot, m);
	return true;
}

void read_submit(struct coordinator *co, struct coordinator_request *request)
{
	if (request->length_blocks == 0 || !read_try(co, request))
		list_push_back(&co->reads_waiting, &request->link);
}
