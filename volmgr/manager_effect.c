/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The side effects of the lifecycle, as lifecycle.h asks for them (E1 to E4 there).
 *
 * Provisioning and clean-up ask every member's node at once and try again what did not get through,
 * until a deadline; both are idempotent on the node (the replica's uuid says which one is meant).
 * Attaching and detaching are calls to the gateway that the record names. Abandoning is detaching,
 * but a gateway that does not answer counts as gone: it is not asked for anything until it reports
 * again.
 *
 * X1  An effect reports success only when every part of it was confirmed.
 * X2  Every request slot is embedded in the effect's run, which lives until all of them came back.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MEMBERS_MAX        (VOLUME_VOTERS_MAX + VOLUME_LEARNERS_MAX)
#define REQUEST_TIMEOUT_NS 2000000000ull
#define EFFECT_DEADLINE_NS 5000000000ull
#define RETRY_NS           50000000ull
#define ATTACH_TIMEOUT_MS  20000
#define DETACH_TIMEOUT_MS  10000
#define ABANDON_TIMEOUT_MS 2000

/* ---- calls to a gateway ---- */

static void gateway_answered(struct rpc_async *async)
{
	struct gateway_call *call = CONTAINER_OF(async, struct gateway_call, async);
	if (call->gateway != NULL)
		call->gateway->users--;
	call->done(call);
	rpc_message_free(async->response);
	async->response = NULL;
}

static void gateway_refused(struct loop_msg *msg)
{
	gateway_answered(CONTAINER_OF(msg, struct rpc_async, msg));
}

void gateway_call_start(struct manager *m, const char *gateway, const struct rpc_request *request,
			struct gateway_call *call)
{
	call->gateway = manager_gateway_find(m, gateway);
	call->async = (struct rpc_async){.loop = m->daemon->loop, .done = gateway_answered};
	if (call->gateway == NULL || !call->gateway->online) {
		err_set(&call->async.err, -EBUSY, "gateway '%s' is offline", gateway);
		call->gateway = NULL;
		call->async.msg.run = gateway_refused;
		loop_post(m->daemon->loop, &call->async.msg);
		return;
	}
	call->gateway->users++;
	rpc_client_start(call->gateway->client, request, &call->async);
}

/* ---- attach, detach ---- */

struct effect_run;

struct effect_member {
	struct effect_run *run;
	const struct record_member *member;
	struct peer_request request;
	struct env_timer retry;
	struct wire_create body; /* its head is the target */
	bool is_done;
};

struct effect_run {
	struct manager *m;
	struct lifecycle_effect *effect;
	struct gateway_call call;
	uint64_t deadline_ns;
	uint32_t pending;
	int status; /* the first failure */
	char reason[SENTENCE_BYTES];
	struct effect_member members[MEMBERS_MAX];
	uint32_t member_count;
	bool is_unexported;
};

static void run_end(struct effect_run *run)
{
	struct lifecycle_effect *effect = run->effect;
	effect->done(effect, run->status, run->status < 0 ? run->reason : NULL);
	free(run);
}

static void attach_done(struct gateway_call *call)
{
	struct effect_run *run = CONTAINER_OF(call, struct effect_run, call);
	run->status = call->async.err.code;
	snprintf(run->reason, sizeof(run->reason), "%.250s", err_text(&call->async.err));
	run_end(run);
}

static void run_attach(struct effect_run *run)
{
	const struct volume_record *record = run->effect->record;
	Holdfast__V1__AttachRequest attach = HOLDFAST__V1__ATTACH_REQUEST__INIT;
	attach.volume = (char *)record->name;
	attach.intent_id = record->intent_id;
	const struct rpc_request request = {
		.service = &holdfast__v1__gateway__descriptor,
		.method = "Attach",
		.message = &attach.base,
		.timeout_ms = ATTACH_TIMEOUT_MS,
	};
	run->call.done = attach_done;
	gateway_call_start(run->m, record->target_node, &request, &run->call);
}

static void detach_next(struct effect_run *run);

/* E5: what the gateway did not confirm is said, and enough. */
static void abandon_unheard(struct effect_run *run, const struct err *err)
{
	const struct volume_record *record = run->effect->record;
	struct manager_gateway *gateway = manager_gateway_find(run->m, record->target_node);
	char object[96];
	snprintf(object, sizeof(object), "volume/%s", record->name);
	manager_event(run->m, EVENT_WARN, object, "Abandoned",
		      "released without gateway '%s' (%.120s); the next epoch fences it",
		      record->target_node, err_text(err));
	if (gateway != NULL)
		manager_gateway_silent(run->m, gateway, "it did not answer");
}

static void detach_done(struct gateway_call *call)
{
	struct effect_run *run = CONTAINER_OF(call, struct effect_run, call);
	int status = call->async.err.code;
	if (status == -ENOENT)
		status = 0; /* it has no such volume: that is what is wanted */
	if (status == 0 && !run->is_unexported) {
		run->is_unexported = true;
		detach_next(run);
		return;
	}
	if (status < 0 && run->effect->kind == INTENT_ABANDON) {
		abandon_unheard(run, &call->async.err);
		status = 0;
	}
	run->status = status;
	snprintf(run->reason, sizeof(run->reason), "%.250s", err_text(&call->async.err));
	run_end(run);
}

static void detach_next(struct effect_run *run)
{
	const struct volume_record *record = run->effect->record;
	Holdfast__V1__DetachRequest detach = HOLDFAST__V1__DETACH_REQUEST__INIT;
	detach.volume = (char *)record->name;
	detach.intent_id = record->intent_id;
	const struct rpc_request request = {
		.service = &holdfast__v1__gateway__descriptor,
		.method = run->is_unexported ? "Detach" : "Unexport",
		.message = &detach.base,
		.timeout_ms = run->effect->kind == INTENT_ABANDON ? ABANDON_TIMEOUT_MS
								  : DETACH_TIMEOUT_MS,
	};
	run->call.done = detach_done;
	gateway_call_start(run->m, record->target_node, &request, &run->call);
}

/* ---- provision, clean up ---- */

static void member_send(struct effect_member *em);

static void member_end(struct effect_member *em, int status, const char *what)
{
	struct effect_run *run = em->run;
	em->is_done = true;
	if (status < 0 && run->status == 0) {
		run->status = status;
		snprintf(run->reason, sizeof(run->reason), "node '%s': %.150s", em->member->node,
			 what);
	}
	if (--run->pending == 0)
		run_end(run);
}

static void member_retry(struct env_timer *timer)
{
	member_send(CONTAINER_OF(timer, struct effect_member, retry));
}

static void member_again(struct effect_member *em, int status)
{
	struct env *env = em->run->m->env;
	const struct manager_node *node = manager_node_find(em->run->m, em->member->node);
	if (node == NULL || !node->record.online) { /* resume tries when it is back */
		member_end(em, -EAGAIN, "it is offline");
		return;
	}
	if (env_now_ns(env) >= em->run->deadline_ns || em->run->m->is_stopping) {
		member_end(em, -EAGAIN,
			   status == -ETIMEDOUT ? "it does not answer" : "it is not connected");
		return;
	}
	em->retry.fire = member_retry;
	env_timer_after(env, &em->retry, RETRY_NS);
}

static const char *create_refusal(int status)
{
	switch (status) {
	case -EEXIST:
		return "it has another replica of this volume";
	case -ENOENT:
		return "it does not serve the store that was chosen";
	case -ENOSPC:
		return "its store has no room for another replica";
	default:
		return strerror(-status);
	}
}

static void member_replied(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct effect_member *em = CONTAINER_OF(request, struct effect_member, request);
	bool is_cleanup = em->run->effect->kind == INTENT_CLEANUP;
	(void)frame;
	if (status == -ENOTCONN || status == -ECANCELED || status == -ETIMEDOUT)
		member_again(em, status);
	else if (is_cleanup && (status == -ENOENT || status == -EEXIST))
		member_end(em, 0, ""); /* the replica that was meant is not there */
	else
		member_end(em, status, create_refusal(status));
}

static void member_send(struct effect_member *em)
{
	struct effect_run *run = em->run;
	struct manager_node *node = manager_node_find(run->m, em->member->node);
	if (node == NULL || node->peer == NULL) {
		member_again(em, -ENOTCONN);
		return;
	}
	bool is_cleanup = run->effect->kind == INTENT_CLEANUP;
	em->request.done = member_replied;
	em->request.timeout_ns = REQUEST_TIMEOUT_NS;
	em->request.out.header =
		(struct wire_header){.type = le16_make(is_cleanup ? WIRE_DELETE : WIRE_CREATE)};
	em->request.out.iov[1] =
		(struct iovec){&em->body, is_cleanup ? sizeof(em->body.target) : sizeof(em->body)};
	em->request.out.iov_count = 2;
	peer_request(node->peer, WIRE_KIND_CONTROL, &em->request);
}

static void member_add(struct effect_run *run, const struct record_member *member)
{
	struct effect_member *em = &run->members[run->member_count++];
	const struct volume_record *record = run->effect->record;
	em->run = run;
	em->member = member;
	em->body = (struct wire_create){
		.target = {.volume_uuid = record->uuid,
			   .replica_uuid = member->replica_uuid,
			   .store_uuid = member->store_uuid},
		.size_blocks = le64_make(record->size_bytes / BLOCK_BYTES),
	};
}

static void members_start(struct env_timer *timer)
{
	struct effect_member *first = CONTAINER_OF(timer, struct effect_member, retry);
	struct effect_run *run = first->run;
	for (uint32_t i = 0; i < run->member_count; i++)
		member_send(&run->members[i]);
	if (--run->pending == 0) /* this function's own */
		run_end(run);
}

static void run_members(struct effect_run *run)
{
	const struct volume_record *record = run->effect->record;
	run->deadline_ns = env_now_ns(run->m->env) + EFFECT_DEADLINE_NS;
	for (uint32_t i = 0; i < record->voter_count; i++)
		member_add(run, &record->voters[i]);
	for (uint32_t i = 0; i < record->learner_count; i++)
		member_add(run, &record->learners[i]);
	run->pending = run->member_count + 1;
	/* From a timer: done() must not run inside start(). */
	run->members[0].run = run;
	run->members[0].retry.fire = members_start;
	env_timer_set(run->m->env, &run->members[0].retry, 0);
}

/* ---- the table that the lifecycle calls ---- */

static void effect_start(void *ctx, struct lifecycle_effect *effect)
{
	struct effect_run *run = calloc(1, sizeof(*run));
	assert(run != NULL); /* a few KiB of control plane: out of memory ends the process */
	run->m = ctx;
	run->effect = effect;
	switch (effect->kind) {
	case INTENT_PROVISION:
	case INTENT_CLEANUP:
		run_members(run);
		break;
	case INTENT_ATTACH:
		run_attach(run);
		break;
	case INTENT_DETACH:
	case INTENT_ABANDON:
		detach_next(run);
		break;
	case INTENT_NONE:
	case INTENTS:
		assert(!"no intent");
	}
}

static void volume_changed(void *ctx, const struct volume_record *record, enum volume_state from,
			   enum volume_state to)
{
	struct manager *m = ctx;
	char object[96];
	snprintf(object, sizeof(object), "volume/%s", record->name);
	if (to == VOLUME_STATES)
		manager_event(m, EVENT_INFO, object, "VolumeRemoved", "uuid and replicas are gone");
	else if (from == VOLUME_STATES)
		manager_event(m, EVENT_INFO, object, "VolumePending", "%lu bytes, %u replicas",
			      (unsigned long)record->size_bytes, record->rf);
	else
		manager_event(m, to == VOLUME_FAILED ? EVENT_WARN : EVENT_INFO, object,
			      "VolumeState", "%s -> %s", volume_state_name(from),
			      volume_state_name(to));
}

const struct lifecycle_ops manager_lifecycle_ops = {
	.start = effect_start,
	.changed = volume_changed,
};
