/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The batch engine: operations that wait together become one durable write.
 *
 *   FORMED --submit--> IN FLIGHT --all I/O done (and the flush)--> DURABLE --all before it too--> STABLE
 *                                                                                   |
 *                      a later durable batch carries durable_prefix >= its number --> WITNESSED
 *
 * R1 Batches get their numbers and ring positions in the order of submission, without gaps in number.
 * R2 Records take effect, and operations are answered, when their batch is stable, in order (P1).
 *    PROMISE, ADOPT, LEASE and ACCEPT_LOSS are answered once witnessed: then recovery finds the batch in the
 *    part that was stable, whatever else the crash took.
 * R3 A batch is written only where ring_reuse_start() allows: nothing that the durable root's
 *    recovery, or a read under way, needs is overwritten.
 * R4 A batch never straddles the ring's end, nor holds a block of the bad-block list.
 * R5 A batch of one piece is a DSYNC write; of several, plain writes and a FLUSH that began after all of them were
 *    done. One such FLUSH at a time, for all batches that were written when it began. (DSYNC writes of
 *    several pieces each bring a flush of their own.)
 * R6 Nothing here allocates: batches, I/Os and vectors are there since open.
 * R7 After a failure nothing is submitted; what is in flight ends with -EIO when its I/O has ended.
 * R8 Payload goes inline when the store is idle, which is one durable write at once, and to the data area when batches
 *    are in flight: what is inline is read and written once more by the checkpoint.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

/* ---- positions ---- */

uint64_t ring_reuse_start(const struct store *store)
{
	if (list_empty(&store->reads_active))
		return store->ring_start;
	struct read_job *oldest =
		CONTAINER_OF(store->reads_active.next, struct read_job, active_link);
	return MIN(store->ring_start, oldest->ring_pinned);
}

uint64_t ring_used_blocks(const struct store *store)
{
	return store->ring_head - ring_reuse_start(store);
}

uint64_t ring_place_batch(const struct store *store, uint64_t head, uint32_t blocks)
{
	for (;;) {
		uint64_t room = store->ring_blocks - head % store->ring_blocks;
		if (blocks > room)
			head += room;
		uint64_t next = bad_ring_skip(store, head, blocks);
		if (next == head)
			return head; /* bad_load() saw to it that there is such a place */
		head = next;
	}
}

static bool ring_has_room(const struct store *store, uint32_t blocks)
{
	uint64_t end = ring_place_batch(store, store->ring_head, blocks) + blocks;
	return end - ring_reuse_start(store) <= store->ring_blocks;
}

/* ---- choosing what goes in ---- */

struct selection {
	uint32_t op_count;
	uint32_t payload_blocks;
	uint32_t desc_upper; /* descriptor blocks at most */
	uint32_t desc_used;  /* bytes in the last of them */
	bool is_inline;
};

static uint32_t op_payload_blocks(struct store_op *op)
{
	struct op_private *p = op_private(op);
	return p->kind == OP_APPEND && p->entry->op == LOG_WRITE ? p->entry->crc_count : 0;
}

/* Bytes of the operation's record, at most. */
static size_t op_record_bytes(struct store_op *op)
{
	struct op_private *p = op_private(op);
	switch ((enum op_kind)p->kind) {
	case OP_APPEND:
		return record_bytes(p->entry->crc_count, p->entry->crc_count, 0);
	case OP_FILL:
		return record_bytes(p->entry->crc_count, p->entry->extent_count,
				    RECORD_FILL_BITMAP_BYTES);
	case OP_CREATE:
		return record_bytes(0, 0, sizeof(struct record_create));
	case OP_REPAIR:
		return record_bytes(1, 1, sizeof(struct record_repair_body));
	default:
		return record_bytes(0, 0, 16);
	}
}

/* Records do not cross blocks, and less bytes never need more blocks: an upper bound stays one. */
static bool select_op(struct selection *s, struct store_op *op, uint32_t target_blocks)
{
	uint32_t payload = op_payload_blocks(op);
	if (s->op_count > 0 && s->payload_blocks + payload > target_blocks)
		return false;
	if (s->op_count == BATCH_RECORDS_MAX)
		return false;
	size_t bytes = op_record_bytes(op);
	uint32_t blocks = s->desc_upper, used = s->desc_used;
	if (blocks == 0 || used + bytes > DESC_RECORD_BYTES) {
		blocks++;
		used = 0;
	}
	if (blocks > DESC_BLOCKS_MAX)
		return false;
	s->desc_upper = blocks;
	s->desc_used = used + (uint32_t)bytes;
	s->op_count++;
	s->payload_blocks += payload;
	return true;
}

static struct selection ring_select(struct store *store)
{
	struct selection s = {0};
	uint32_t target = store->config.batch_payload_bytes / BLOCK_BYTES;
	list_for_each (link, &store->waiting) {
		if (!select_op(&s, op_of(link), target))
			break;
	}
	if (s.desc_upper == 0)
		s.desc_upper = 1; /* a seal */
	/* R8 */
	s.is_inline = store->in_flight == 0 &&
		      s.payload_blocks * BLOCK_BYTES <= store->config.inline_payload_bytes;
	return s;
}

/* ---- encoding ---- */

struct encoder {
	struct store *store;
	struct batch *batch;
	uint32_t used[DESC_BLOCKS_MAX];
	uint32_t records[DESC_BLOCKS_MAX];
	uint32_t block; /* the one being filled */
	/* where payload goes: runs that were allocated, or the place behind the descriptors */
	struct space_extent runs[BATCH_PAYLOAD_BLOCKS_MAX];
	uint32_t run_count, run, run_used;
};

static void encode_record(struct encoder *enc, const struct log_record *record)
{
	size_t bytes = record_bytes(record->crc_count, record->extent_count, record->body_bytes);
	if (enc->used[enc->block] + bytes > DESC_RECORD_BYTES)
		enc->block++;
	assert(enc->block < DESC_BLOCKS_MAX);
	char *at = enc->batch->desc + (size_t)enc->block * BLOCK_BYTES + sizeof(struct desc_block) +
		   enc->used[enc->block];
	enc->used[enc->block] += (uint32_t)record_encode(record, at);
	enc->records[enc->block]++;
}

/* Gives the entry the next blocks of the runs. */
static void encode_places(struct encoder *enc, struct entry *e)
{
	uint64_t *extents = entry_extents(e);
	uint32_t left = e->crc_count;
	e->extent_count = 0;
	while (left > 0) {
		assert(enc->run < enc->run_count);
		struct space_extent *run = &enc->runs[enc->run];
		uint32_t n = MIN(left, run->length_blocks - enc->run_used);
		extents[e->extent_count++] = extent_pack(run->place + enc->run_used, n);
		enc->run_used += n;
		left -= n;
		if (enc->run_used == run->length_blocks) {
			enc->run++;
			enc->run_used = 0;
		}
	}
	if (enc->batch->is_inline)
		e->state |= ENTRY_INLINE;
}

union record_body {
	struct record_create create;
	struct record_adopt_body adopt;
	struct record_lease_body lease;
	struct record_loss_body loss;
	struct record_repair_body repair;
	struct record_shadow_body shadow;
};

/* The record points into the operation and to *body. */
static void op_record(struct store_op *op, struct log_record *r, union record_body *body)
{
	struct op_private *p = op_private(op);
	const struct store_replica_spec *spec = &op->replica->spec;
	const struct store_adopt *adopt = CONTAINER_OF(op, struct store_adopt, op);
	const struct store_lease *lease = CONTAINER_OF(op, struct store_lease, op);
	const struct store_accept_loss *loss = CONTAINER_OF(op, struct store_accept_loss, op);
	const struct store_repair *repair = CONTAINER_OF(op, struct store_repair, op);
	const struct store_shadow *shadow = CONTAINER_OF(op, struct store_shadow, op);
	*r = (struct log_record){
		.slot = op->replica->slot,
		.shard = spec->shard,
		.node = op->replica->head_node,
		.time_ms = env_wall_ms(op->replica->store->env),
		.body = body,
	};
	switch ((enum op_kind)p->kind) {
	case OP_APPEND:
	case OP_FILL:
		entry_record(p->entry, r);
		break;
	case OP_CREATE:
		r->op = RECORD_CREATE;
		body->create.volume_uuid = spec->volume_uuid;
		body->create.replica_uuid = spec->replica_uuid;
		body->create.size_blocks = le64_make(spec->size_blocks);
		r->body_bytes = sizeof(body->create);
		break;
	case OP_DELETE:
		r->op = RECORD_DELETE;
		break;
	case OP_PROMISE:
		r->op = RECORD_PROMISE;
		r->epoch = CONTAINER_OF(op, struct store_promise, op)->epoch;
		break;
	case OP_ADOPT:
		r->op = RECORD_ADOPT;
		r->epoch = adopt->epoch;
		r->address_blocks = adopt->shadow ? 0 : adopt->base_seq;
		r->seq = adopt->last_seq;
		r->commit_seq = adopt->commit_seq;
		r->flags = adopt->shadow ? RECORD_SHADOW : 0;
		body->adopt.last_hash = le64_make(adopt->last_hash);
		r->body_bytes = sizeof(body->adopt);
		break;
	case OP_LEASE:
		r->op = RECORD_LEASE;
		body->lease.boot_id = le64_make(lease->boot_id);
		body->lease.term_ns = le64_make(lease->term_ns);
		r->body_bytes = sizeof(body->lease);
		break;
	case OP_ACCEPT_LOSS:
		r->op = RECORD_ACCEPT_LOSS;
		body->loss.suspect_after = le64_make(loss->suspect_after);
		body->loss.suspect_until = le64_make(loss->suspect_until);
		r->body_bytes = sizeof(body->loss);
		break;
	case OP_REPAIR:
		r->op = RECORD_REPAIR;
		r->address_blocks = repair->address_blocks;
		r->length_blocks = 1;
		r->crc_count = 1;
		r->crcs = &repair->expected_crc32c;
		r->extent_count = 1;
		r->extents = ((struct bulk *)p->aux)->extents;
		body->repair.old_place = le64_make(((struct bulk *)p->aux)->old_place);
		r->body_bytes = sizeof(body->repair);
		break;
	case OP_SHADOW_BEGIN:
		r->op = RECORD_SHADOW_BEGIN;
		r->node = (uint32_t)p->number;
		r->epoch = shadow->epoch;
		r->seq = shadow->first_seq;
		r->length_blocks = shadow->size_blocks;
		r->commit_seq = shadow->settled_seq;
		body->shadow.prev_hash = le64_make(shadow->prev_hash);
		r->body_bytes = sizeof(body->shadow);
		break;
	case OP_SHADOW_DROP:
		r->op = RECORD_SHADOW_DROP;
		break;
	default:
		assert(!"an operation without a record is in a batch");
	}
}

static void encode_op(struct encoder *enc, struct store_op *op)
{
	struct op_private *p = op_private(op);
	struct log_record record;
	union record_body body;
	if (p->kind == OP_APPEND && p->entry->op == LOG_WRITE)
		encode_places(enc, p->entry);
	if (p->kind == OP_SHADOW_BEGIN)
		p->number = enc->store->node_next++; /* its node */
	op_record(op, &record, &body);
	encode_record(enc, &record);
}

/* ---- I/O of a batch ---- */

static void batch_io_add(struct batch *b, uint64_t place, void *base, size_t bytes)
{
	struct env_io *io = b->io_count ? &b->ios[b->io_count - 1].dio.io : NULL;
	bool follows = io && io->offset_bytes + io->length_bytes == place * BLOCK_BYTES;
	struct iovec *last = b->iov_count ? &b->iovs[b->iov_count - 1] : NULL;
	if (follows && (char *)last->iov_base + last->iov_len == (char *)base) {
		last->iov_len += bytes;
		io->length_bytes += bytes;
		return;
	}
	assert(b->iov_count < BATCH_IOVS_MAX);
	struct iovec *iov = &b->iovs[b->iov_count++];
	*iov = (struct iovec){.iov_base = base, .iov_len = bytes};
	if (follows && io->iov_count < ENV_IO_IOV_MAX) {
		io->iov_count++;
		io->length_bytes += bytes;
		return;
	}
	assert(b->io_count < BATCH_IOS_MAX);
	io = &b->ios[b->io_count++].dio.io;
	memset(io, 0, sizeof(*io));
	io->op = ENV_IO_WRITE;
	io->offset_bytes = place * BLOCK_BYTES;
	io->iov = iov;
	io->iov_count = 1;
	io->length_bytes = bytes;
}

/* The caller's pieces of one WRITE, cut where its places are. */
static void batch_payload_add(struct batch *b, const struct store_append *a, struct entry *e)
{
	const uint64_t *extents = entry_extents(e);
	uint32_t piece = 0, done = 0;
	for (uint32_t i = 0; i < a->iov_count; i++) {
		char *base = a->iov[i].iov_base;
		uint32_t left = (uint32_t)(a->iov[i].iov_len / BLOCK_BYTES);
		while (left > 0) {
			uint32_t n = MIN(left, extent_length(extents[piece]) - done);
			batch_io_add(b, extent_place(extents[piece]) + done, base,
				     (size_t)n * BLOCK_BYTES);
			base += (size_t)n * BLOCK_BYTES;
			left -= n;
			done += n;
			if (done == extent_length(extents[piece])) {
				piece++;
				done = 0;
			}
		}
	}
}

static void batch_io_done(struct device_io *dio, int status);

static void batch_submit(struct store *store, struct batch *b)
{
	b->dsync = b->io_count == 1; /* R5 */
	b->state = BATCH_WRITING;
	b->ios_pending = b->io_count;
	for (uint32_t i = 0; i < b->io_count; i++) {
		struct device_io *dio = &b->ios[i].dio;
		dio->io.flags = b->dsync ? ENV_IO_DSYNC : 0;
		dio->done = batch_io_done;
		store->counters.blocks_written += dio->io.length_bytes / BLOCK_BYTES;
		device_submit(&store->device, dio);
	}
}

/* ---- forming ---- */

/* Returns the block's crc. */
static uint32_t encode_header(struct encoder *enc, uint32_t index)
{
	struct store *store = enc->store;
	struct batch *b = enc->batch;
	struct desc_header h = {
		.store_uuid = store->uuid,
		.incarnation = store->incarnation,
		.salt = store->salt,
		.batch_no = b->number,
		.position = b->position + index,
		.root_generation = store->root_generation,
		.durable_prefix = b->durable_prefix,
		.time_ms = env_wall_ms(store->env),
		.prev_crc32c = store->prev_crc32c,
		.desc_index = index,
		.desc_count = b->desc_count,
		.batch_blocks = b->desc_count + (b->is_inline ? b->payload_blocks : 0),
		.record_count = enc->records[index],
		.record_bytes = enc->used[index],
	};
	return desc_encode(&h, b->desc + (size_t)index * BLOCK_BYTES);
}

/* Descriptor blocks that an inline batch takes: its records have one extent each. */
static uint32_t inline_desc_count(struct store *store, uint32_t op_count)
{
	uint32_t blocks = 1, used = 0, seen = 0;
	list_for_each (link, &store->waiting) {
		if (seen++ == op_count)
			break;
		struct op_private *p = op_private(op_of(link));
		size_t bytes = op_record_bytes(op_of(link));
		if (p->kind == OP_APPEND)
			bytes = record_bytes(p->entry->crc_count, p->entry->crc_count ? 1 : 0, 0);
		else if (p->kind != OP_FILL && p->kind != OP_CREATE && p->kind != OP_REPAIR)
			bytes = record_bytes(0, 0, 16);
		if (used + bytes > DESC_RECORD_BYTES) {
			blocks++;
			used = 0;
		}
		used += (uint32_t)bytes;
	}
	return blocks;
}

/* Places for the payload: behind the descriptors, or in the data area. False: no room now. */
static bool batch_place(struct store *store, struct encoder *enc, const struct selection *s)
{
	struct batch *b = enc->batch;
	if (s->payload_blocks == 0)
		return true;
	if (b->is_inline) {
		b->desc_count = inline_desc_count(store, s->op_count);
		uint32_t blocks = b->desc_count + s->payload_blocks;
		b->position = ring_place_batch(store, store->ring_head, blocks);
		enc->runs[0].place = ring_physical(store, b->position) + b->desc_count;
		enc->runs[0].length_blocks = s->payload_blocks;
		enc->run_count = 1;
		return true;
	}
	return space_alloc(store->space, SPACE_INTERNAL, s->payload_blocks, enc->runs,
			   BATCH_PAYLOAD_BLOCKS_MAX, &enc->run_count) == 0;
}

static void batch_write(struct store *store, struct encoder *enc, const struct selection *s)
{
	struct batch *b = enc->batch;
	for (uint32_t i = 0; i < s->op_count; i++) {
		struct list *link = list_pop_front(&store->waiting);
		encode_op(enc, op_of(link));
		list_push_back(&b->ops, link);
	}
	if (s->op_count == 0)
		encode_record(enc, &(struct log_record){.op = RECORD_SEAL});
	uint32_t desc_count = enc->block + 1;
	assert(!b->is_inline || s->payload_blocks == 0 || desc_count <= b->desc_count);
	if (!b->is_inline || s->payload_blocks == 0) {
		b->desc_count = desc_count;
		b->position = ring_place_batch(store, store->ring_head, desc_count);
	}
	uint32_t blocks = b->desc_count + (b->is_inline ? s->payload_blocks : 0);
	b->end_position = b->position + blocks;
	uint32_t first_crc = encode_header(enc, 0);
	for (uint32_t i = 1; i < b->desc_count; i++)
		encode_header(enc, i);
	store->prev_crc32c = first_crc;
	batch_io_add(b, ring_physical(store, b->position), b->desc,
		     (size_t)b->desc_count * BLOCK_BYTES);
	list_for_each (link, &b->ops) {
		struct store_op *op = op_of(link);
		if (op_payload_blocks(op) > 0)
			batch_payload_add(b, CONTAINER_OF(op, struct store_append, op),
					  op_private(op)->entry);
	}
}

/* False: nothing was formed, for want of room; a checkpoint has been asked for. */
static bool batch_form(struct store *store)
{
	struct selection s = ring_select(store);
	if (!ring_has_room(store, s.desc_upper + (s.is_inline ? s.payload_blocks : 0))) {
		checkpoint_request(store);
		return false;
	}
	struct batch *b = &store->batches[store->batch_next % BATCHES_IN_FLIGHT_MAX];
	struct encoder enc = {.store = store, .batch = b};
	assert(b->state == BATCH_IDLE && list_empty(&b->ops));
	b->is_inline = s.is_inline;
	b->payload_blocks = s.payload_blocks;
	if (!batch_place(store, &enc, &s)) {
		checkpoint_request(store);
		return false;
	}
	memset(b->desc, 0, (size_t)s.desc_upper * BLOCK_BYTES);
	b->number = store->batch_next++;
	b->durable_prefix = store->batch_stable;
	b->io_count = b->iov_count = 0;
	batch_write(store, &enc, &s);
	store->ring_head = b->end_position;
	store->prefix_sent = b->durable_prefix;
	store->in_flight++;
	if (s.op_count > 0) {
		store->batch_real = b->number;
		env_timer_after(store->env, &store->seal_timer, SEAL_DELAY_NS);
	}
	struct store_info *c = &store->counters;
	c->batches++;
	c->batches_inline += b->is_inline && b->payload_blocks > 0;
	c->records += s.op_count;
	c->payload_blocks += b->payload_blocks;
	c->pieces += b->io_count;
	batch_submit(store, b);
	return true;
}

/* ---- seals ---- */

static bool seal_due(struct store *store)
{
	if (store->seal_now && store->prefix_sent < store->batch_real &&
	    store->batch_real <= store->batch_stable)
		return true;
	if (list_empty(&store->unwitnessed))
		return false;
	struct store_op *last = op_of(store->unwitnessed.prev);
	return op_private(last)->number > store->prefix_sent;
}

static void seal_timer_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, seal_timer);
	if (store->failed || store->prefix_sent >= store->batch_real)
		return;
	if (store->batch_real > store->batch_stable) {
		env_timer_after(store->env, timer, SEAL_DELAY_NS);
		return;
	}
	store->seal_now = true;
	ring_run(store);
}

void ring_run(struct store *store)
{
	while (!store->failed && store->open &&
	       store->in_flight < store->config.batches_in_flight_max) {
		if (list_empty(&store->waiting) && !seal_due(store))
			return;
		if (!batch_form(store))
			return;
		store->seal_now = false;
	}
}

/* ---- stable ---- */

static void apply_append(struct store *store, struct store_op *op)
{
	struct entry *e = op_private(op)->entry;
	op_private(op)->entry = NULL;
	list_remove(&e->link);
	if (e->op == LOG_WRITE) {
		store->reserved_blocks -= e->crc_count;
		if (e->state & ENTRY_INLINE)
			store->inline_active += e->crc_count;
	}
	replica_apply_append(op->replica, e);
	read_kick(op->replica);
}

/* Recovery, later, applies the same record. */
static void apply_shadow_begin(struct store_op *op)
{
	struct log_record record;
	union record_body body;
	op_record(op, &record, &body);
	int rc = replica_apply_shadow_begin(op->replica, &record);
	if (rc < 0) {
		op->replica->issued.shadow = false;
		op->replica->head_frozen = false;
	}
	op->done(op, rc);
}

/* The same; the issued state has made sure that it fits. */
static void apply_adopt(struct store_op *op)
{
	struct log_record record;
	union record_body body;
	op_record(op, &record, &body);
	bool fits = replica_apply_adopt(op->replica, &record);
	assert(fits);
	(void)fits;
	read_kick(op->replica);
}

static void await_witness(struct store *store, struct store_op *op, uint64_t number)
{
	op_private(op)->number = number;
	list_push_back(&store->unwitnessed, &op->link);
}

static void op_apply(struct store *store, struct store_op *op, uint64_t number)
{
	struct store_replica *r = op->replica;
	struct entry *e;
	switch ((enum op_kind)op_private(op)->kind) {
	case OP_APPEND:
		apply_append(store, op);
		op->done(op, 0);
		return;
	case OP_CREATE:
		r->visible = true;
		store->replica_count++;
		CONTAINER_OF(op, struct store_create, op)->ret_replica = r;
		op->done(op, 0);
		return;
	case OP_DELETE:
		replica_apply_delete(r);
		store->replica_count--;
		if (r->jobs > 0)
			r->delete_op = op;
		else
			op->done(op, 0);
		return;
	case OP_PROMISE:
		replica_apply_promise(r, CONTAINER_OF(op, struct store_promise, op)->epoch);
		await_witness(store, op, number);
		return;
	case OP_ADOPT:
		apply_adopt(op);
		await_witness(store, op, number);
		return;
	case OP_LEASE:
		replica_apply_lease(r, CONTAINER_OF(op, struct store_lease, op)->boot_id,
				    CONTAINER_OF(op, struct store_lease, op)->term_ns);
		await_witness(store, op, number);
		return;
	case OP_ACCEPT_LOSS:
		replica_apply_accept_loss(
			r, CONTAINER_OF(op, struct store_accept_loss, op)->suspect_after,
			CONTAINER_OF(op, struct store_accept_loss, op)->suspect_until);
		await_witness(store, op, number);
		return;
	case OP_SHADOW_BEGIN:
		apply_shadow_begin(op);
		return;
	case OP_SHADOW_DROP:
		replica_apply_shadow_drop(r);
		op->done(op, 0);
		return;
	case OP_FILL:
		e = op_private(op)->entry;
		op_private(op)->entry = NULL;
		list_remove(&e->link);
		replica_apply_fill(r, e);
		op->done(op, 0);
		return;
	case OP_REPAIR:
		/* Stable: what is left is the map, which may read a page. */
		op_private(op)->number = 1;
		store->query.repairs++;
		query_submit(store, op);
		return;
	default:
		assert(!"an operation without a record is in a batch");
	}
}

/* Everything that is stable now, in order; then what is witnessed. */
static void ring_settle(struct store *store)
{
	while (store->in_flight > 0 && !store->failed) {
		struct batch *b =
			&store->batches[(store->batch_stable + 1) % BATCHES_IN_FLIGHT_MAX];
		if (b->state != BATCH_DURABLE)
			break;
		store->batch_stable = b->number;
		store->stable_end = b->end_position;
		store->in_flight--;
		b->state = BATCH_IDLE;
		struct list ops = LIST_INIT(ops);
		list_splice_back(&ops, &b->ops);
		uint64_t number = b->number;
		while (!list_empty(&ops))
			op_apply(store, op_of(list_pop_front(&ops)), number);
	}
	while (!list_empty(&store->unwitnessed)) {
		struct store_op *op = op_of(store->unwitnessed.next);
		if (op_private(op)->number > store->batch_witnessed || store->failed)
			break;
		list_remove(&op->link);
		op->done(op, 0);
	}
	checkpoint_consider(store);
	accept_kick(store);
}

/* R7 */
static void batch_failed_done(struct batch *b)
{
	b->state = BATCH_IDLE;
	while (!list_empty(&b->ops))
		op_finish(b->store, op_of(list_pop_front(&b->ops)), -EIO);
}

static void batch_durable(struct store *store, struct batch *b)
{
	b->state = BATCH_DURABLE;
	store->batch_witnessed = MAX(store->batch_witnessed, b->durable_prefix);
}

static void flush_run(struct store *store);

static void flush_done(struct device_io *dio, int status)
{
	struct store *store = CONTAINER_OF(dio, struct store, batch_flush);
	(void)status; /* the store has failed then (device.h) */
	store->batch_flush_busy = false;
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++) {
		struct batch *b = &store->batches[i];
		if (store->failed && (b->state == BATCH_FLUSHING || b->state == BATCH_WRITTEN))
			batch_failed_done(b);
		else if (b->state == BATCH_FLUSHING)
			batch_durable(store, b);
	}
	if (store->failed)
		return;
	flush_run(store); /* before the settling, which may take long */
	ring_settle(store);
}

static void flush_run(struct store *store)
{
	bool wanted = false;
	if (store->batch_flush_busy)
		return;
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++) {
		struct batch *b = &store->batches[i];
		if (b->state != BATCH_WRITTEN)
			continue;
		b->state = BATCH_FLUSHING;
		wanted = true;
	}
	if (!wanted)
		return;
	store->batch_flush_busy = true;
	store->batch_flush.io = (struct env_io){.op = ENV_IO_FLUSH};
	store->batch_flush.done = flush_done;
	device_submit(&store->device, &store->batch_flush);
}

static void batch_io_done(struct device_io *dio, int status)
{
	struct batch *b = CONTAINER_OF(dio, struct batch_io, dio)->batch;
	struct store *store = b->store;
	(void)status; /* the store has failed then (device.h) */
	if (--b->ios_pending > 0)
		return;
	if (store->failed) {
		batch_failed_done(b);
		return;
	}
	if (!b->dsync) {
		b->state = BATCH_WRITTEN;
		flush_run(store);
		return;
	}
	batch_durable(store, b);
	ring_settle(store);
}

/* Batches whose I/O has ended and that no other one will settle. */
void ring_fail_all(struct store *store)
{
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++)
		if (store->batches[i].state == BATCH_DURABLE)
			batch_failed_done(&store->batches[i]);
}

/* ---- life ---- */

int ring_init(struct store *store)
{
	store->seal_timer.fire = seal_timer_fire;
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++) {
		struct batch *b = &store->batches[i];
		b->store = store;
		list_init(&b->ops);
		b->desc = env_buf_alloc(store->env, DESC_BLOCKS_MAX * BLOCK_BYTES);
		b->ios = calloc(BATCH_IOS_MAX, sizeof(*b->ios));
		b->iovs = calloc(BATCH_IOVS_MAX, sizeof(*b->iovs));
		if (!b->desc || !b->ios || !b->iovs)
			return -ENOMEM;
		for (uint32_t k = 0; k < BATCH_IOS_MAX; k++)
			b->ios[k].batch = b;
	}
	return 0;
}

void ring_free(struct store *store)
{
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++) {
		struct batch *b = &store->batches[i];
		if (b->desc)
			env_buf_free(store->env, b->desc, DESC_BLOCKS_MAX * BLOCK_BYTES);
		free(b->ios);
		free(b->iovs);
	}
}
