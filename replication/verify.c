/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comparing replicas, chunk by chunk, while the volume is in use.
 *
 * For each chunk: writes to it wait, those under way are committed, every live replica has acknowledged
 * them; then each reads its payloads, checks them against its crcs, and answers crcs and states; these are
 * compared with the first replica's. Then the chunk is released. Reads are never held.
 */
#include <errno.h>
#include <stdlib.h>

#include "replication/coordinator_impl.h"

#define VERIFY_TIMEOUT_NS 30000000000ull
#define VERIFY_POLL_NS 2000000ull

struct verify_call {
	struct peer_request request;
	struct coordinator *co;
	struct wire_read body;
	bool busy;
	int status;
	uint32_t crcs[STORE_CHUNK_BLOCKS];
	uint8_t states[STORE_CHUNK_BLOCKS];
};

struct verify_job {
	struct verify_call calls[COORDINATOR_REPLICAS_MAX];
	struct env_timer wait_timer;
	struct coordinator *co;
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
		if (data == NULL ||
		    frame->body_bytes != ALIGN_UP(sizeof(*data) + length * 5, 8)) {
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
	call->request.timeout_ns = VERIFY_TIMEOUT_NS;
	call->request.done = verify_done;
	/* On the stream's connection: behind every append that was sent before. */
	peer_request(m->peer, WIRE_KIND_CLIENT, &call->request);
}

static bool comparable(const struct member *m)
{
	return m->state == REPLICA_LIVE && m->adopted && m->up && !m->stream_shadow;
}

static bool settled(const struct coordinator *co, uint64_t seq)
{
	if (co->commit_seq < seq)
		return false;
	for (uint32_t i = 0; i < co->member_count; i++)
		if (comparable(&co->members[i]) && co->members[i].acked_seq < seq)
			return false;
	return true;
}

static void finding(struct coordinator_verify *verify, struct member *m, uint64_t block,
		    const char *what)
{
	verify->findings++;
	verify->finding(verify, &m->info, block, what);
}

static void compare(struct coordinator *co, struct coordinator_verify *verify, uint64_t block,
		    uint32_t length, uint32_t asked)
{
	struct verify_job *job = (struct verify_job *)co->verify_job;
	for (uint32_t b = 0; b < length; b++) {
		int base = -1; /* the first replica whose copy of this block is good */
		for (uint32_t i = 0; i < co->member_count; i++) {
			const struct verify_call *call = &job->calls[i];
			if ((asked >> i & 1) == 0)
				continue;
			if (call->states[b] == STORE_BLOCK_BAD)
				finding(verify, &co->members[i], block + b,
					"the stored copy does not match its checksum");
			else if (base < 0)
				base = (int)i;
			else if (call->states[b] != job->calls[base].states[b] ||
				 call->crcs[b] != job->calls[base].crcs[b])
				finding(verify, &co->members[i], block + b,
					"contents differ from the first replica's");
		}
	}
}

static int verify_chunk(struct coordinator *co, struct coordinator_verify *verify, uint64_t block,
			uint32_t length)
{
	struct verify_job *job = (struct verify_job *)co->verify_job;
	uint64_t seq = co->last_seq;
	uint64_t until_ns = env_now_ns(co->env) + VERIFY_TIMEOUT_NS;
	while (!settled(co, seq) && !co->ended && !verify->cancel) {
		if (env_now_ns(co->env) > until_ns)
			return -ETIMEDOUT; /* writes to the chunk wait meanwhile */
		co_sleep(co->verifier, VERIFY_POLL_NS);
	}
	uint32_t asked = 0, count = 0;
	for (uint32_t i = 0; i < co->member_count && !co->ended; i++) {
		if (!comparable(&co->members[i]))
			continue;
		asked |= 1u << i;
		count++;
		call_send(&job->calls[i], &co->members[i], block, length);
	}
	int rc = count < co->member_count ? -EAGAIN : 0;
	for (uint32_t i = 0; i < co->member_count; i++) {
		while (job->calls[i].busy)
			wait_turn(co);
		if ((asked >> i & 1) && job->calls[i].status < 0 &&
		    job->calls[i].status != -EBADMSG) {
			asked &= ~(1u << i);
			rc = job->calls[i].status == -EBUSY ? -EBUSY : -EAGAIN;
		}
	}
	if (rc != -EBUSY)
		compare(co, verify, block, length, asked);
	return rc;
}

static int verify_all(struct coordinator *co, struct coordinator_verify *verify)
{
	uint64_t blocks = co->volume.size_blocks;
	verify->chunks_total = DIV_UP(blocks, STORE_CHUNK_BLOCKS);
	int worst = 0;
	for (uint64_t chunk = 0; chunk < verify->chunks_total;) {
		if (co->ended)
			return -ESHUTDOWN;
		if (verify->cancel)
			return -ECANCELED;
		uint64_t block = chunk * STORE_CHUNK_BLOCKS;
		co->verify_chunk = chunk;
		int rc = verify_chunk(co, verify, block,
				      (uint32_t)MIN(blocks - block, (uint64_t)STORE_CHUNK_BLOCKS));
		co->verify_chunk = UINT64_MAX;
		coordinator_kick(co);
		if (rc == -EBUSY) { /* a node had no buffer just now */
			co_sleep(co->verifier, 5000000);
			continue;
		}
		if (rc == -ETIMEDOUT)
			return -EAGAIN; /* no quorum: the other chunks would wait as long */
		if (rc < 0)
			worst = rc;
		verify->chunks_done = ++chunk;
	}
	return verify->findings > 0 ? -EUCLEAN : worst;
}

static void verifier_run(struct co *self, void *arg)
{
	struct coordinator *co = arg;
	(void)self;
	while (!list_empty(&co->verifies)) {
		struct coordinator_verify *verify =
			CONTAINER_OF(co->verifies.next, struct coordinator_verify, link);
		while (!co->open && !co->ended && !verify->cancel)
			co_sleep(co->verifier, VERIFY_POLL_NS);
		int rc = verify_all(co, verify);
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
	verify->chunks_done = verify->chunks_total = verify->findings = 0;
	if (co->verify_job == NULL) {
		struct verify_job *job = calloc(1, sizeof(*job));
		co->verifier = co_create(co->env, 64 * 1024);
		if (job == NULL || co->verifier == NULL) {
			free(job);
			verify->done(verify, -ENOMEM);
			return;
		}
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
