/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads: of the volume's newest stable state, and of single log entries.
 *
 *   wait for overlapping entries issued before -> take a token -> tail, then map -> I/O -> verify
 *
 * R1  Only stable state is looked at, and every overlapping entry that was issued before the
 *     read is stable first: nothing is seen that a recovery may drop, nothing acknowledged is
 *     missed. A read of what is committed looks at the map alone, which holds nothing else, and
 *     waits for nobody.
 * R2  The tail (entries that are not in the map) is copied before the map is asked. An entry
 *     that moves to the map in between is found twice, never missed.
 * R3  From the token on, neither a place nor a ring block that the look-up may return is reused
 *     (space_read_begin, ring_reuse_start).
 * R4  Data is returned only when it matches its crc. On a mismatch or a read error everything is
 *     looked up again and read block by block; what is bad then too is bad (P3).
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

static void read_start(struct read_job *job);
static void read_dispatch(struct read_job *job);

/* ---- jobs ---- */

int read_init(struct store *store)
{
	store->read_jobs = calloc(READS_MAX, sizeof(*store->read_jobs));
	if (!store->read_jobs)
		return -ENOMEM;
	for (uint32_t i = 0; i < READS_MAX; i++)
		list_push_back(&store->reads_free, &store->read_jobs[i].link);
	return 0;
}

void read_free(struct store *store)
{
	free(store->read_jobs);
	store->read_jobs = NULL;
}

void replica_job_end(struct store_replica *r)
{
	if (--r->jobs > 0 || !r->delete_op)
		return;
	op_finish(r->store, r->delete_op, 0);
	r->delete_op = NULL;
}

static void job_take(struct store *store, struct store_op *op)
{
	struct read_job *job =
		CONTAINER_OF(list_pop_front(&store->reads_free), struct read_job, link);
	job->store = store;
	job->op = op;
	job->replica = op->replica;
	job->replica->jobs++;
	job->attempt = 0;
	job->bad_count = 0;
	job->ios_pending = 0;
	job->in_call = true;
	job->length_blocks = 0;
	job->committed = false;
	if (op_private(op)->kind == OP_READ) {
		struct store_read *read = CONTAINER_OF(op, struct store_read, op);
		job->address_blocks = read->address_blocks;
		job->length_blocks = read->length_blocks;
		job->buf = read->buf;
		job->crcs = read->crc32c;
		job->states = read->block_state;
		job->committed = read->committed;
	}
	read_start(job);
	job->in_call = false;
}

static void job_end(struct read_job *job, int status)
{
	struct store *store = job->store;
	struct store_op *op = job->op;
	if (list_linked(&job->active_link)) {
		list_remove(&job->active_link);
		space_read_end(store->space, job->token);
	}
	job->op = NULL;
	list_push_back(&store->reads_free, &job->link);
	replica_job_end(job->replica);
	status = store->failed && status == 0 ? -EIO : status;
	if (job->in_call)
		op_finish(store, op, status);
	else
		op->done(op, status);
	if (!list_empty(&store->reads_queue) && !store->failed)
		job_take(store, op_of(list_pop_front(&store->reads_queue)));
}

static void read_submit(struct store *store, struct store_op *op)
{
	if (store->failed || !store->open) {
		op_finish(store, op, -EIO);
		return;
	}
	if (op->replica->closing) {
		op_finish(store, op, -ECANCELED);
		return;
	}
	op_private(op)->ticket = store->ticket_next++;
	if (list_empty(&store->reads_free))
		list_push_back(&store->reads_queue, &op->link);
	else
		job_take(store, op);
}

/* ---- R1 ---- */

static bool queue_overlaps(const struct store_replica *r, struct list *queue, uint64_t ticket,
			   uint64_t address, uint64_t length)
{
	list_for_each (link, queue) {
		struct store_op *op = op_of(link);
		if (op->replica != r || op_private(op)->kind != OP_APPEND)
			continue;
		const struct store_append *a = CONTAINER_OF(op, struct store_append, op);
		if (op_private(op)->ticket < ticket && !a->staged && !a->shadow &&
		    a->entry.address_blocks < address + length &&
		    address < a->entry.address_blocks + a->entry.length_blocks)
			return true;
	}
	return false;
}

static bool read_must_wait(struct read_job *job)
{
	struct store_replica *r = job->replica;
	uint64_t ticket = op_private(job->op)->ticket;
	list_for_each (link, &r->issued_entries) {
		const struct entry *e = entry_of(link);
		if (e->ticket < ticket && !(e->state & (ENTRY_STAGED | ENTRY_SHADOW)) &&
		    entry_overlaps(e, job->address_blocks, job->length_blocks))
			return true;
	}
	return queue_overlaps(r, &job->store->incoming, ticket, job->address_blocks,
			      job->length_blocks);
}

void read_kick(struct store_replica *r)
{
	if (list_empty(&r->reads_waiting))
		return;
	struct list again = LIST_INIT(again);
	list_splice_back(&again, &r->reads_waiting);
	while (!list_empty(&again))
		read_start(CONTAINER_OF(list_pop_front(&again), struct read_job, link));
}

/* ---- resolving ---- */

/* R2: the newest of the tail for each block. */
static uint32_t read_tail(struct read_job *job)
{
	struct replica_log *log = &job->replica->head;
	uint32_t found = 0;
	memset(job->in_tail, 0, job->length_blocks);
	for (struct list *l = log->entries.prev; l != &log->entries && found < job->length_blocks;
	     l = l->prev) {
		struct entry *e = entry_of(l);
		if (e->seq <= log->applied_seq)
			break;
		if (!entry_overlaps(e, job->address_blocks, job->length_blocks))
			continue;
		uint64_t first = MAX(e->address_blocks, job->address_blocks);
		uint64_t end = MIN(e->address_blocks + e->length_blocks,
				   job->address_blocks + job->length_blocks);
		const uint64_t *extents = entry_extents(e);
		uint64_t at = e->address_blocks;
		uint32_t piece = 0;
		for (uint64_t block = first; block < end; block++) {
			uint32_t i = (uint32_t)(block - job->address_blocks);
			struct map_version v = {.seq = e->seq, .crc32c = CRC32C_ZERO_BLOCK};
			if (job->in_tail[i])
				continue;
			if (e->op == LOG_WRITE) {
				while (at + extent_length(extents[piece]) <= block)
					at += extent_length(extents[piece++]);
				v.place = extent_place(extents[piece]) + (block - at);
				v.crc32c = entry_crcs(e)[block - e->address_blocks];
			}
			job->tail[i] = v;
			job->in_tail[i] = 1;
			found++;
		}
	}
	return found;
}

static void read_resolved(struct read_job *job, int status)
{
	if (status < 0 || job->store->failed) {
		job_end(job, status < 0 ? status : -EIO);
		return;
	}
	for (uint32_t i = 0; i < job->length_blocks; i++) {
		if (job->in_tail[i])
			job->versions[i] = job->tail[i];
		const struct map_version *v = &job->versions[i];
		job->crcs[i] = v->place || v->bad_page ? v->crc32c : CRC32C_ZERO_BLOCK;
		job->states[i] = v->bad_page ? STORE_BLOCK_BAD
				 : v->place  ? STORE_BLOCK_DATA
					     : STORE_BLOCK_ZERO;
	}
	job->next_block = 0;
	job->bad_count = 0;
	read_dispatch(job);
}

static void read_looked_up(struct map_lookup *lookup, int status)
{
	read_resolved(CONTAINER_OF(lookup, struct read_job, lookup), status);
}

/* Fills versions from one entry of the log. */
static int read_entry(struct read_job *job)
{
	struct store_log_read *read = CONTAINER_OF(job->op, struct store_log_read, op);
	struct store_replica *r = job->replica;
	struct replica_log *log = &r->head;
	if (read->seq <= log->floor_seq || read->seq > log->last_seq)
		return -ENODATA;
	struct list *l = r->log_cursor ? &r->log_cursor->link : log->entries.next;
	while (entry_of(l)->seq < read->seq)
		l = l->next;
	while (entry_of(l)->seq > read->seq)
		l = l->prev;
	struct entry *e = entry_of(l);
	r->log_cursor = e;
	read->entry = (struct log_entry){
		.epoch = e->epoch,
		.seq = e->seq,
		.prev_hash = e->prev_hash,
		.commit_seq = e->commit_seq,
		.time_ms = e->time_ms,
		.op = e->op,
		.flags = e->log_flags,
		.address_blocks = e->address_blocks,
		.length_blocks = e->length_blocks,
	};
	job->address_blocks = e->address_blocks;
	job->length_blocks = 0;
	if (e->op != LOG_WRITE)
		return 0;
	if (e->crc_count > read->buf_blocks)
		return -EMSGSIZE;
	read->entry.crc32c = read->crc32c_buf;
	job->length_blocks = e->crc_count;
	job->buf = read->buf;
	job->crcs = read->crc32c_buf;
	uint32_t at = 0;
	const uint64_t *extents = entry_extents(e);
	for (uint32_t i = 0; i < e->extent_count; i++) {
		for (uint32_t k = 0; k < extent_length(extents[i]); k++, at++) {
			job->tail[at] = (struct map_version){.place = extent_place(extents[i]) + k,
							     .seq = e->seq,
							     .crc32c = entry_crcs(e)[at]};
			job->in_tail[at] = 1;
		}
	}
	job->states = job->own_states;
	return 0;
}

static void read_resolve(struct read_job *job)
{
	if (op_private(job->op)->kind == OP_LOG_READ) {
		int rc = read_entry(job);
		if (rc < 0 || job->length_blocks == 0)
			job_end(job, rc);
		else
			read_resolved(job, 0);
		return;
	}
	if (job->committed) {
		memset(job->in_tail, 0, job->length_blocks);
	} else if (read_tail(job) == job->length_blocks) {
		read_resolved(job, 0);
		return;
	}
	job->lookup = (struct map_lookup){
		.done = read_looked_up,
		.map = job->replica->map,
		.which = MAP_HEAD,
		.address_blocks = job->address_blocks,
		.length_blocks = job->length_blocks,
		.versions = job->versions,
	};
	if (map_lookup(&job->lookup))
		read_resolved(job, 0);
}

static void read_start(struct read_job *job)
{
	struct store *store = job->store;
	struct store_replica *r = job->replica;
	bool log_read = op_private(job->op)->kind == OP_LOG_READ;
	if (store->failed) {
		job_end(job, -EIO);
		return;
	}
	if (!log_read) {
		uint64_t size = r->issued.size_blocks;
		if (job->length_blocks == 0 || job->length_blocks > STORE_READ_BLOCKS_MAX ||
		    job->address_blocks > size || job->length_blocks > size - job->address_blocks) {
			job_end(job, -EINVAL);
			return;
		}
		if (!job->committed && read_must_wait(job)) {
			list_push_back(&r->reads_waiting, &job->link);
			return;
		}
	}
	job->token = space_read_begin(store->space);
	job->ring_pinned = store->ring_start;
	list_push_back(&store->reads_active, &job->active_link);
	read_resolve(job);
}

/* ---- I/O ---- */

static void read_mark_bad(struct read_job *job, uint32_t i)
{
	if (job->states[i] == STORE_BLOCK_BAD)
		return;
	job->states[i] = STORE_BLOCK_BAD;
	job->bad_count++;
}

static void read_finish(struct read_job *job)
{
	struct store *store = job->store;
	if (job->bad_count > 0 && job->attempt == 0 && !store->failed) {
		job->attempt = 1; /* R4 */
		read_resolve(job);
		return;
	}
	bool bad = false;
	for (uint32_t i = 0; i < job->length_blocks; i++)
		bad = bad || job->states[i] == STORE_BLOCK_BAD;
	store->counters.crc_errors += job->bad_count;
	store->counters.reads++;
	store->counters.read_blocks += job->length_blocks;
	job_end(job, bad ? -EBADMSG : 0);
}

static void read_io_done(struct device_io *dio, int status)
{
	struct read_io *rio = CONTAINER_OF(dio, struct read_io, dio);
	struct read_job *job = rio->job;
	for (uint32_t i = rio->first_block; i < rio->first_block + rio->length_blocks; i++) {
		const char *data = (const char *)job->buf + (size_t)i * BLOCK_BYTES;
		if (status < 0 || crc32c(data, BLOCK_BYTES) != job->versions[i].crc32c)
			read_mark_bad(job, i);
		if (job->attempt > 0 && device_medium_error(status)) /* alone, and again */
			bad_read(job->store, job->versions[i].place);
	}
	rio->busy = false;
	job->ios_pending--;
	if (job->ios_pending == 0 || job->next_block < job->length_blocks)
		read_dispatch(job);
}

static void read_io_submit(struct read_job *job, struct read_io *rio, uint32_t first,
			   uint32_t length)
{
	rio->job = job;
	rio->busy = true;
	rio->first_block = first;
	rio->length_blocks = length;
	rio->iov.iov_base = (char *)job->buf + (size_t)first * BLOCK_BYTES;
	rio->iov.iov_len = (size_t)length * BLOCK_BYTES;
	rio->dio.done = read_io_done;
	rio->dio.io = (struct env_io){.op = ENV_IO_READ,
				      .offset_bytes = job->versions[first].place * BLOCK_BYTES,
				      .iov = &rio->iov,
				      .iov_count = 1};
	job->ios_pending++;
	device_submit(&job->store->device, &rio->dio);
}

static struct read_io *read_io_free(struct read_job *job)
{
	for (uint32_t i = 0; i < READ_IOS; i++) {
		if (!job->ios[i].busy)
			return &job->ios[i];
	}
	return NULL;
}

/* Runs of contiguous places with one I/O each; single blocks on the second attempt. */
static void read_dispatch(struct read_job *job)
{
	while (job->next_block < job->length_blocks && job->buf && !job->store->failed) {
		uint32_t first = job->next_block;
		if (job->states[first] != STORE_BLOCK_DATA) {
			memset((char *)job->buf + (size_t)first * BLOCK_BYTES, 0, BLOCK_BYTES);
			job->next_block++;
			continue;
		}
		struct read_io *rio = read_io_free(job);
		if (!rio)
			return;
		uint32_t length = 1;
		while (job->attempt == 0 && first + length < job->length_blocks &&
		       job->states[first + length] == STORE_BLOCK_DATA &&
		       job->versions[first + length].place == job->versions[first].place + length)
			length++;
		job->next_block = first + length;
		read_io_submit(job, rio, first, length);
	}
	if (job->ios_pending == 0)
		read_finish(job);
}

/* ---- interface ---- */

void store_read(struct store_replica *replica, struct store_read *read)
{
	op_init(&read->op, replica, OP_READ);
	read_submit(replica->store, &read->op);
}

void store_log_read(struct store_replica *replica, struct store_log_read *read)
{
	op_init(&read->op, replica, OP_LOG_READ);
	read_submit(replica->store, &read->op);
}

/* P4: what has no I/O under way ends now, the rest when its I/O has ended. */
void read_fail_all(struct store *store)
{
	while (!list_empty(&store->reads_queue))
		op_finish(store, op_of(list_pop_front(&store->reads_queue)), -EIO);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		while (r && !list_empty(&r->reads_waiting))
			job_end(CONTAINER_OF(list_pop_front(&r->reads_waiting), struct read_job,
					     link),
				-EIO);
	}
}
