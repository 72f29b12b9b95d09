/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comparing replicas, chunk by chunk, while the volume is in use.
 *
 * For each chunk: writes to it wait, those under way are committed, every voter has acknowledged
 * them; then each reads its payloads, checks them against its crcs, and answers crcs and states;
 * these are compared with each other. Then the chunk is released. Reads are never held.
 *
 * A repair rewrites what it finds through the log, while the chunk is held: the good copy is read
 * from a replica that has it and written again, like any write, so that every replica gets it in
 * the same place of the order. That heals rotten payloads, rotten pages of a map and contents that
 * differ, by one mechanism; a second look at the chunk says whether it did.
 *
 * V1  A chunk is held only while all replicas are there, and for SETTLE_NS plus the calls' time
 *     at most.
 * V2  Every wait has a bound: a replica that is not there to compare ends it with -EAGAIN after
 *     CHUNK_NS, a call after CALL_NS, an open that does not come after OPEN_NS. Where it does
 *     not wait for a call it sees a cancellation within POLL_NS.
 * V3  A write of a repair that gets no outcome in time is left to the log; its request belongs
 *     to the job and is not used again before it has one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "replication/coordinator_impl.h"

#define SECOND_NS 1000000000ull
#define CALL_NS   (10 * SECOND_NS)
#define OPEN_NS   (30 * SECOND_NS)
#define CHUNK_NS  (10 * SECOND_NS)
#define SETTLE_NS (2 * SECOND_NS)
#define POLL_NS   2000000ull

enum block_verdict { BLOCK_GOOD, BLOCK_ROTTEN, BLOCK_DIFFERS };

struct verify_call {
	struct peer_request request;
	struct coordinator *co;
	struct wire_read body;
	bool busy;
	int status;
	uint32_t crcs[STORE_CHUNK_BLOCKS];
	uint8_t states[STORE_CHUNK_BLOCKS];
};

/* The good copy of one block, and its way back into the log. */
struct verify_rewrite {
	struct peer_request request;
	struct wire_read body;
	struct coordinator *co;
	bool read_busy;
	int read_status;
	uint32_t crc32c; /* wanted */
	struct coordinator_request write;
	struct iovec iov;
	bool write_busy;
	int write_status;
	_Alignas(BLOCK_BYTES) uint8_t block[BLOCK_BYTES];
};

struct verify_job {
	struct verify_rewrite rewrite;
	struct verify_call calls[COORDINATOR_REPLICAS_MAX];
	struct env_timer wait_timer;
	struct coordinator *co;
	uint64_t deadline_ns; /* of the chunk */
	uint8_t verdicts[COORDINATOR_REPLICAS_MAX][STORE_CHUNK_BLOCKS];
	uint8_t before[COORDINATOR_REPLICAS_MAX][STORE_CHUNK_BLOCKS]; /* the rewriting */
	int8_t base[STORE_CHUNK_BLOCKS]; /* the member whose copy is right, or -1 */
};

static void wait_turn(struct coordinator *co)
{
	co->verifier_waiting = true;
	co_suspend(co->verifier);
	co->verifier_waiting = false;
}

static void verify_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct verify_call *call = CONTAINER_OF(request, struct verify_call, request);
	call->busy = false;
	call->status = status;
	const struct wire_data *data = frame != NULL ? frame->body : NULL;
	uint32_t length = (uint32_t)le64_get(call->body.length_blocks);
	if (status == 0 || status == -EBADMSG) {
		if (data == NULL || frame->body_bytes != ALIGN_UP(sizeof(*data) + length * 5, 8)) {
			call->status = -EPROTO;
		} else {
			memcpy(call->crcs, data + 1, length * 4);
			memcpy(call->states, (const uint8_t *)(data + 1) + length * 4, length);
		}
	}
	coordinator_kick(call->co);
}

static void call_send(struct verify_call *call, struct member *m, uint64_t block, uint32_t length)
{
	call->co = m->co;
	call->busy = true;
	call->status = 0;
	call->body = (struct wire_read){
		.epoch = le64_make(m->co->epoch),
		.address_blocks = le64_make(block),
		.length_blocks = le64_make(length),
		.flags = le32_make(WIRE_READ_VERIFY),
	};
	call->request.out.header = (struct wire_header){
		.type = le16_make(WIRE_READ),
		.session = le32_make(m->session.id),
	};
	call->request.out.iov[1] = (struct iovec){&call->body, sizeof(call->body)};
	call->request.out.iov_count = 2;
	call->request.timeout_ns = CALL_NS;
	call->request.done = verify_done;
	/* On the stream's connection: behind every append that was sent before. */
	peer_request(m->peer, WIRE_KIND_CLIENT, &call->request);
}

/* Checked (invariant PROTO-22): voters are compared. A learner may be in the middle of a copy, and what is on it
 * must not outvote them. */
static bool is_compared(const struct coordinator *co, uint32_t index)
{
	return co->members[index].info.voter;
}

static bool comparable(const struct member *m)
{
	return m->state == REPLICA_LIVE && m->adopted && m->up && !m->stream_shadow;
}

static struct verify_job *job_of(const struct coordinator *co)
{
	return co->verify_job;
}

/* 0, or why the comparison goes no further. */
static int interrupted(const struct coordinator *co, const struct coordinator_verify *verify)
{
	if (co->ended)
		return -ESHUTDOWN;
	return verify->cancel ? -ECANCELED : 0;
}

/* ---- holding a chunk ---- */

static bool all_comparable(const struct coordinator *co)
{
	for (uint32_t i = 0; i < co->member_count; i++)
		if (is_compared(co, i) && !comparable(&co->members[i]))
			return false;
	return true;
}

static bool settled(const struct coordinator *co, uint64_t seq)
{
	if (co->commit_seq < seq)
		return false;
	for (uint32_t i = 0; i < co->member_count; i++)
		if (is_compared(co, i) && co->members[i].acked_seq < seq)
			return false;
	return true;
}

/* Until everything issued so far is on all voters. 0, -EAGAIN, or as interrupted(). */
static int settle(struct coordinator *co, const struct coordinator_verify *verify)
{
	uint64_t seq = co->last_seq, until_ns = env_now_ns(co->env) + SETTLE_NS;
	for (;;) {
		int rc = interrupted(co, verify);
		if (rc < 0)
			return rc;
		if (!all_comparable(co) || env_now_ns(co->env) >= until_ns)
			return -EAGAIN;
		if (settled(co, seq))
			return 0;
		co_sleep(co->verifier, POLL_NS);
	}
}

static void chunk_release(struct coordinator *co)
{
	co->verify_chunk = UINT64_MAX;
	co->verify_write = NULL;
	coordinator_kick(co);
}

/* V1: waits for the replicas first, then holds. */
static int chunk_hold(struct coordinator *co, const struct coordinator_verify *verify,
		      uint64_t chunk)
{
	while (!all_comparable(co)) {
		int rc = interrupted(co, verify);
		if (rc < 0)
			return rc;
		if (env_now_ns(co->env) >= job_of(co)->deadline_ns)
			return -EAGAIN;
		co_sleep(co->verifier, POLL_NS);
	}
	co->verify_chunk = chunk;
	co->verify_write = &job_of(co)->rewrite.write;
	int rc = settle(co, verify);
	if (rc < 0)
		chunk_release(co);
	return rc;
}

/* ---- what the replicas have ---- */

/* 0, -EBUSY (a node had no buffer), -EAGAIN (one did not answer). */
static int chunk_ask(struct coordinator *co, uint64_t block, uint32_t length)
{
	struct verify_job *job = job_of(co);
	int rc = 0;
	for (uint32_t i = 0; i < co->member_count; i++)
		if (is_compared(co, i))
			call_send(&job->calls[i], &co->members[i], block, length);
	for (uint32_t i = 0; i < co->member_count; i++) {
		if (!is_compared(co, i))
			continue;
		while (job->calls[i].busy)
			wait_turn(co);
		int status = job->calls[i].status;
		if (status < 0 && status != -EBADMSG)
			rc = status == -EBUSY && rc == 0 ? -EBUSY : -EAGAIN;
	}
	return rc;
}

static bool same_copy(const struct verify_call *a, const struct verify_call *b, uint32_t index)
{
	return a->states[index] == b->states[index] && a->crcs[index] == b->crcs[index];
}

/* The good copy that most replicas have, the first of those that as many have; -1: there is none.
 */
static int base_of(const struct coordinator *co, uint32_t index)
{
	const struct verify_job *job = job_of(co);
	uint32_t most = 0;
	int base = -1;
	for (uint32_t i = 0; i < co->member_count; i++) {
		uint32_t votes = 0;
		if (!is_compared(co, i) || job->calls[i].states[index] == STORE_BLOCK_BAD)
			continue;
		for (uint32_t k = 0; k < co->member_count; k++)
			votes += is_compared(co, k) &&
				 same_copy(&job->calls[i], &job->calls[k], index);
		if (votes > most) {
			most = votes;
			base = (int)i;
		}
	}
	return base;
}

/* Fills verdicts and base; true when something is wrong. */
static bool chunk_judge(struct coordinator *co, const struct coordinator_verify *verify,
			uint32_t length)
{
	struct verify_job *job = job_of(co);
	bool any = false;
	for (uint32_t b = 0; b < length; b++) {
		job->base[b] = (int8_t)base_of(co, b);
		for (uint32_t i = 0; i < co->member_count; i++) {
			const struct verify_call *call = &job->calls[i];
			enum block_verdict verdict = BLOCK_GOOD;
			if (!is_compared(co, i))
				verdict = BLOCK_GOOD;
			else if (call->states[b] == STORE_BLOCK_BAD)
				verdict = BLOCK_ROTTEN;
			else if (!same_copy(call, &job->calls[job->base[b]], b))
				verdict = BLOCK_DIFFERS;
			if (verify->node != NULL &&
			    strcmp(verify->node, co->members[i].info.node_name) != 0)
				verdict = BLOCK_GOOD; /* not asked about */
			job->verdicts[i][b] = (uint8_t)verdict;
			any = any || verdict != BLOCK_GOOD;
		}
	}
	return any;
}

static void finding(struct coordinator *co, struct coordinator_verify *verify, uint32_t member,
		    uint64_t block, uint32_t index, const char *outcome)
{
	struct verify_job *job = job_of(co);
	bool rotten = job->before[member][index] == BLOCK_ROTTEN;
	int base = job->base[index];
	char what[96];
	if (rotten)
		snprintf(what, sizeof(what), "the stored copy does not match its checksum%s",
			 outcome);
	else
		snprintf(what, sizeof(what), "contents differ from those on %.30s%s",
			 base >= 0 ? co->members[base].info.node_name : "others", outcome);
	verify->finding(verify, &co->members[member].info, block + index, what);
}

/* ---- repair ---- */

static void rewrite_read_done(struct peer_request *request, int status,
			      const struct link_frame *frame)
{
	struct verify_rewrite *rewrite = CONTAINER_OF(request, struct verify_rewrite, request);
	rewrite->read_busy = false;
	rewrite->read_status = status < 0 ? status : -EPROTO;
	if (status == 0 && frame != NULL && frame->payload_bytes == BLOCK_BYTES) {
		memcpy(rewrite->block, frame->payload, BLOCK_BYTES);
		rewrite->read_status =
			crc32c(rewrite->block, BLOCK_BYTES) == rewrite->crc32c ? 0 : -EBADMSG;
	}
	coordinator_kick(rewrite->co);
}

static int rewrite_read(struct coordinator *co, struct member *from, uint64_t block, uint32_t crc)
{
	struct verify_rewrite *rewrite = &job_of(co)->rewrite;
	rewrite->co = co;
	rewrite->read_busy = true;
	rewrite->crc32c = crc;
	rewrite->body = (struct wire_read){
		.epoch = le64_make(co->epoch),
		.address_blocks = le64_make(block),
		.length_blocks = le64_make(1),
	};
	rewrite->request.out.header = (struct wire_header){
		.type = le16_make(WIRE_READ),
		.session = le32_make(from->session.id),
	};
	rewrite->request.out.iov[1] = (struct iovec){&rewrite->body, sizeof(rewrite->body)};
	rewrite->request.out.iov_count = 2;
	rewrite->request.timeout_ns = CALL_NS;
	rewrite->request.done = rewrite_read_done;
	peer_request(from->peer, WIRE_KIND_CLIENT, &rewrite->request);
	while (rewrite->read_busy)
		wait_turn(co);
	return rewrite->read_status;
}

static void rewrite_written(struct coordinator_request *request, int status)
{
	struct verify_rewrite *rewrite = CONTAINER_OF(request, struct verify_rewrite, write);
	rewrite->write_busy = false;
	rewrite->write_status = status;
}

/* V3. 0, or why it is not known to be written. */
static int rewrite_write(struct coordinator *co, const struct coordinator_verify *verify,
			 uint64_t block, bool is_zero)
{
	struct verify_rewrite *rewrite = &job_of(co)->rewrite;
	rewrite->iov = (struct iovec){rewrite->block, BLOCK_BYTES};
	rewrite->write = (struct coordinator_request){
		.op = is_zero ? COORDINATOR_ZERO : COORDINATOR_WRITE,
		.address_blocks = block,
		.length_blocks = 1,
		.iov = &rewrite->iov,
		.iov_count = is_zero ? 0 : 1,
		.done = rewrite_written,
	};
	bool taken = false;
	rewrite->write_busy = true;
	while (rewrite->write_busy) {
		int rc = interrupted(co, verify);
		if (rc == 0 && env_now_ns(co->env) >= job_of(co)->deadline_ns)
			rc = -EAGAIN;
		if (rc < 0) {
			rewrite->write_busy = taken;
			return rc;
		}
		taken = taken || write_try(co, &rewrite->write);
		if (rewrite->write_busy)
			co_sleep(co->verifier, POLL_NS);
	}
	return rewrite->write_status;
}

static int block_rewrite(struct coordinator *co, const struct coordinator_verify *verify,
			 uint64_t block, uint32_t index)
{
	struct verify_job *job = job_of(co);
	int base = job->base[index];
	bool is_zero = job->calls[base].states[index] == STORE_BLOCK_ZERO;
	if (!is_zero &&
	    rewrite_read(co, &co->members[base], block + index, job->calls[base].crcs[index]) < 0)
		return -EAGAIN; /* it went away, or has rotted by now: looked at anew */
	job->deadline_ns = env_now_ns(co->env) + CHUNK_NS;
	int rc = rewrite_write(co, verify, block + index, is_zero);
	if (rc == -EAGAIN || rc == -ECANCELED || rc == -ESHUTDOWN)
		return rc;
	return 0; /* no space, say: the second look shows that it is as it was */
}

static bool block_is_wrong(const struct coordinator *co, uint32_t index)
{
	for (uint32_t i = 0; i < co->member_count; i++)
		if (job_of(co)->verdicts[i][index] != BLOCK_GOOD)
			return true;
	return false;
}

/* Rewrites what has a good copy, and looks again. */
static int chunk_repair(struct coordinator *co, struct coordinator_verify *verify, uint64_t block,
			uint32_t length)
{
	int rc = 0;
	if (job_of(co)->rewrite.write_busy)
		return -EAGAIN; /* of a former attempt */
	for (uint32_t b = 0; b < length && rc == 0; b++)
		if (block_is_wrong(co, b) && job_of(co)->base[b] >= 0)
			rc = block_rewrite(co, verify, block, b);
	if (rc == 0)
		rc = settle(co, verify);
	if (rc == 0)
		rc = chunk_ask(co, block, length);
	if (rc == 0)
		(void)chunk_judge(co, verify, length);
	return rc;
}

/* ---- a chunk, all of them ---- */

static void chunk_report(struct coordinator *co, struct coordinator_verify *verify, uint64_t block,
			 uint32_t length)
{
	struct verify_job *job = job_of(co);
	for (uint32_t b = 0; b < length; b++) {
		for (uint32_t i = 0; i < co->member_count; i++) {
			bool is_healed = job->verdicts[i][b] == BLOCK_GOOD;
			if (job->before[i][b] == BLOCK_GOOD)
				continue;
			verify->findings += !is_healed;
			verify->repaired += is_healed;
			finding(co, verify, i, block, b,
				is_healed          ? "; rewritten"
				: !verify->repair  ? ""
				: job->base[b] < 0 ? "; no replica has a good copy"
						   : "; it could not be rewritten");
		}
	}
}

/* The chunk is held. */
static int chunk_look(struct coordinator *co, struct coordinator_verify *verify, uint64_t block,
		      uint32_t length)
{
	struct verify_job *job = job_of(co);
	int rc = chunk_ask(co, block, length);
	if (rc < 0 || !chunk_judge(co, verify, length))
		return rc;
	memcpy(job->before, job->verdicts, sizeof(job->before));
	if (verify->repair)
		rc = chunk_repair(co, verify, block, length);
	if (rc == 0)
		chunk_report(co, verify, block, length);
	return rc;
}

static int verify_chunk(struct coordinator *co, struct coordinator_verify *verify, uint64_t chunk)
{
	uint64_t block = chunk * STORE_CHUNK_BLOCKS;
	uint32_t length =
		(uint32_t)MIN(co->volume.size_blocks - block, (uint64_t)STORE_CHUNK_BLOCKS);
	job_of(co)->deadline_ns = env_now_ns(co->env) + CHUNK_NS;
	for (;;) {
		int rc = chunk_hold(co, verify, chunk);
		if (rc == 0) {
			rc = chunk_look(co, verify, block, length);
			chunk_release(co);
		}
		if (rc != -EBUSY && rc != -EAGAIN)
			return rc;
		if (env_now_ns(co->env) >= job_of(co)->deadline_ns)
			return -EAGAIN; /* V2 */
		co_sleep(co->verifier, POLL_NS);
	}
}

static int verify_all(struct coordinator *co, struct coordinator_verify *verify)
{
	verify->chunks_total = DIV_UP(co->volume.size_blocks, STORE_CHUNK_BLOCKS);
	for (uint64_t chunk = 0; chunk < verify->chunks_total; chunk++) {
		int rc = interrupted(co, verify);
		if (rc == 0)
			rc = verify_chunk(co, verify, chunk);
		if (rc < 0)
			return rc;
		verify->chunks_done = chunk + 1;
	}
	return verify->findings > 0 ? -EUCLEAN : 0;
}

static int wait_open(struct coordinator *co, const struct coordinator_verify *verify)
{
	uint64_t until_ns = env_now_ns(co->env) + OPEN_NS;
	int rc = interrupted(co, verify);
	while (rc == 0 && !co->open) {
		if (env_now_ns(co->env) >= until_ns)
			return -EAGAIN;
		co_sleep(co->verifier, POLL_NS);
		rc = interrupted(co, verify);
	}
	return rc;
}

static void verifier_run(struct co *self, void *arg)
{
	struct coordinator *co = arg;
	(void)self;
	while (!list_empty(&co->verifies)) {
		struct coordinator_verify *verify =
			CONTAINER_OF(co->verifies.next, struct coordinator_verify, link);
		int rc = wait_open(co, verify);
		if (rc == 0)
			rc = verify_all(co, verify);
		list_remove(&verify->link);
		verify->done(verify, rc);
	}
	coordinator_kick(co);
}

static void verify_start(struct env_timer *timer)
{
	struct verify_job *job = CONTAINER_OF(timer, struct verify_job, wait_timer);
	if (!co_running(job->co->verifier))
		co_start(job->co->verifier, verifier_run, job->co);
}

void coordinator_verify(struct coordinator *co, struct coordinator_verify *verify)
{
	verify->chunks_done = verify->chunks_total = verify->findings = verify->repaired = 0;
	if (co->verify_job == NULL) {
		struct verify_job *job = aligned_alloc(BLOCK_BYTES, sizeof(*job));
		co->verifier = co_create(co->env, 64 * 1024);
		if (job == NULL || co->verifier == NULL) {
			free(job);
			verify->done(verify, -ENOMEM);
			return;
		}
		memset(job, 0, sizeof(*job));
		job->co = co;
		job->wait_timer.fire = verify_start;
		co->verify_job = job;
	}
	list_push_back(&co->verifies, &verify->link);
	env_timer_set(co->env, &((struct verify_job *)co->verify_job)->wait_timer, 0);
}

void verify_free(struct coordinator *co)
{
	co_destroy(co->verifier);
	free(co->verify_job);
}
