/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comparison of a volume's replicas, and their repair, told as a stream.
 *
 * A repair first waits for replicas that catch up, as long as they do, and AWAY_NS for one that is
 * not there. The coordinator works at its own pace; ten times a second what is new is sent.
 * Findings that the caller does not take fast enough are counted, not kept: the memory is bounded.
 */
#include "volmgr/gateway.h"

#include <errno.h>
#include <stdlib.h>

#define TICK_NS     100000000ull
#define AWAY_NS     10000000000ull
#define CHUNK_BYTES ((uint64_t)STORE_CHUNK_BLOCKS * BLOCK_BYTES)

struct finding {
	uint64_t offset_bytes;
	char what[96];
	char node[NAME_BYTES];
	struct uuid replica_uuid;
};

struct gateway_verify {
	struct coordinator_verify verify;
	struct gateway_volume *volume;
	struct rpc_call *call; /* NULL once it was answered */
	struct env_timer tick;
	struct finding findings[GATEWAY_FINDINGS_MAX];
	uint32_t finding_count;
	uint64_t dropped_count;
	char node[NAME_BYTES]; /* repair: only this one; or empty */
	char waiting[160];
	uint64_t away_since_ns; /* repair: a replica is not even catching up; 0: none */
	bool is_started;
	bool is_done;
	int status;
};

static void verify_finding(struct coordinator_verify *verify,
			   const struct coordinator_member *member, uint64_t block,
			   const char *what)
{
	struct gateway_verify *gv = CONTAINER_OF(verify, struct gateway_verify, verify);
	struct finding *finding;

	if (gv->finding_count == GATEWAY_FINDINGS_MAX) {
		gv->dropped_count++;
		return;
	}
	finding = &gv->findings[gv->finding_count++];
	*finding = (struct finding){
		.offset_bytes = block * BLOCK_BYTES,
		.replica_uuid = member->replica_uuid,
	};
	snprintf(finding->node, sizeof(finding->node), "%s", member->node_name);
	snprintf(finding->what, sizeof(finding->what), "%s", what);
}

static Holdfast__V1__VerifyProgress *progress_make(struct gateway_verify *gv, struct arena *arena)
{
	Holdfast__V1__VerifyProgress *out = ARENA_MESSAGE(arena, VerifyProgress, verify_progress);

	out->bytes_done = gv->verify.chunks_done * CHUNK_BYTES;
	out->bytes_total = gv->verify.chunks_total * CHUNK_BYTES;
	out->finished = gv->is_done;
	out->equal = gv->is_done && gv->status == 0;
	out->repaired = gv->verify.repaired;
	out->waiting = arena_copy(arena, gv->waiting);
	out->findings = ARENA_ARRAY(arena, Holdfast__V1__VerifyFinding *, gv->finding_count + 1);
	for (uint32_t i = 0; i < gv->finding_count; i++) {
		const struct finding *from = &gv->findings[i];
		Holdfast__V1__VerifyFinding *f =
			ARENA_MESSAGE(arena, VerifyFinding, verify_finding);
		f->volume = arena_copy(arena, gv->volume->name);
		f->node = arena_copy(arena, from->node);
		f->replica_uuid = arena_uuid(arena, &from->replica_uuid);
		f->offset_bytes = from->offset_bytes;
		f->what = arena_copy(arena, from->what);
		out->findings[out->n_findings++] = f;
	}
	if (gv->dropped_count) {
		Holdfast__V1__VerifyFinding *f =
			ARENA_MESSAGE(arena, VerifyFinding, verify_finding);
		f->volume = arena_copy(arena, gv->volume->name);
		f->what = arena_text(arena, "and %lu more that are not listed",
				     (unsigned long)gv->dropped_count);
		out->findings[out->n_findings++] = f;
	}
	return out;
}

static void verify_free(struct gateway_verify *gv)
{
	struct gateway_volume *v = gv->volume;

	env_timer_cancel(v->gateway->daemon->env, &gv->tick);
	v->verify = NULL;
	free(gv);
	gateway_volume_step_soon(v);
}

/* The comparison is over and everything was sent. */
static void verify_answer(struct gateway_verify *gv)
{
	struct rpc_call *call = gv->call;

	gv->call = NULL;
	if (gv->status == -EAGAIN)
		rpc_call_fail(call, RPC_FAILED_PRECONDITION,
			      "volume '%s': not all replicas are live; 'replica list' shows which",
			      gv->volume->name);
	else if (gv->status < 0 && gv->status != -EUCLEAN)
		rpc_call_fail(call, rpc_code_of_errno(gv->status),
			      "volume '%s': the %s was broken off: %s", gv->volume->name,
			      gv->verify.repair ? "repair" : "comparison", err_name(gv->status));
	else
		rpc_call_finish(call);
	verify_free(gv);
}

static void verify_begin(struct gateway_verify *gv)
{
	gv->is_started = true;
	gv->waiting[0] = 0;
	coordinator_verify(gv->volume->coordinator, &gv->verify);
}

/* Before a repair: 0 when all replicas are in the stream, -EINPROGRESS, -EAGAIN, -ESHUTDOWN. */
static int replicas_wait(struct gateway_verify *gv)
{
	struct gateway_volume *v = gv->volume;
	uint64_t now_ns = env_now_ns(v->gateway->daemon->env);
	const struct coordinator_replica_info *lag = NULL;
	struct coordinator_info info;
	bool is_away = false;

	coordinator_info(v->coordinator, &info);
	for (uint32_t i = 0; i < info.replica_count; i++) {
		enum replica_state state = info.replicas[i].state;
		if (state != REPLICA_LIVE)
			lag = &info.replicas[i];
		is_away = is_away || state == REPLICA_DOWN || state == REPLICA_LOST;
	}
	if (v->is_ending)
		return -ESHUTDOWN;
	if (!lag && info.open)
		return 0;
	gv->away_since_ns = !is_away ? 0 : gv->away_since_ns ? gv->away_since_ns : now_ns;
	snprintf(gv->waiting, sizeof(gv->waiting), "%.63s: %.90s",
		 lag ? lag->member.node_name : "volume", lag ? lag->note : "it is being opened");
	return is_away && now_ns - gv->away_since_ns >= AWAY_NS ? -EAGAIN : -EINPROGRESS;
}

static void replicas_check(struct gateway_verify *gv)
{
	int rc = rpc_call_is_cancelled(gv->call) ? -ECANCELED : replicas_wait(gv);

	if (rc == 0)
		verify_begin(gv);
	gv->is_done = rc < 0 && rc != -EINPROGRESS;
	gv->status = gv->is_done ? rc : 0;
}

static void verify_tick(struct env_timer *timer)
{
	struct gateway_verify *gv = CONTAINER_OF(timer, struct gateway_verify, tick);
	bool is_result;
	struct arena arena = {0};
	int rc = 0;

	if (!gv->is_started)
		replicas_check(gv);
	is_result = !gv->is_done || gv->status == 0 || gv->status == -EUCLEAN;
	if (rpc_call_is_cancelled(gv->call))
		gv->verify.cancel = true;
	else if (is_result)
		rc = rpc_call_send(gv->call, &progress_make(gv, &arena)->base);
	arena_free(&arena);
	if (rc == 0) {
		gv->finding_count = 0;
		gv->dropped_count = 0;
	}
	if (gv->is_done && (rc != -EAGAIN || rpc_call_is_cancelled(gv->call))) {
		verify_answer(gv);
		return;
	}
	env_timer_after(gv->volume->gateway->daemon->env, &gv->tick, TICK_NS);
}

static void verify_done(struct coordinator_verify *verify, int status)
{
	struct gateway_verify *gv = CONTAINER_OF(verify, struct gateway_verify, verify);

	gv->is_done = true;
	gv->status = status;
	env_timer_set(gv->volume->gateway->daemon->env, &gv->tick, 0);
}

void gateway_verify_start(struct gateway_volume *v, struct rpc_call *call, bool repair,
			  const char *node)
{
	struct gateway_verify *gv;

	if (v->verify) {
		rpc_call_fail(call, RPC_FAILED_PRECONDITION,
			      "volume '%s': a comparison or repair is under way", v->name);
		return;
	}
	gv = calloc(1, sizeof(*gv));
	if (!gv) {
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	gv->volume = v;
	gv->call = call;
	gv->tick.fire = verify_tick;
	gv->verify.finding = verify_finding;
	gv->verify.done = verify_done;
	v->verify = gv;
	gv->verify.repair = repair;
	snprintf(gv->node, sizeof(gv->node), "%s", node);
	gv->verify.node = *gv->node ? gv->node : NULL;
	env_timer_after(v->gateway->daemon->env, &gv->tick, repair ? 0 : TICK_NS);
	if (!repair)
		verify_begin(gv);
}
