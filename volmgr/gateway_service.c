/* SPDX-License-Identifier: Apache-2.0 */
/* The Gateway service: each method finds its volume, acts, and answers now or when it is done. */
#include "volmgr/gateway.h"

#include <errno.h>

static struct gateway_volume *volume_of(struct gateway *g, struct rpc_call *call, const char *name)
{
	struct gateway_volume *v = gateway_volume_find(g, name);

	if (v && !v->is_ending)
		return v;
	rpc_call_fail(call, RPC_NOT_FOUND, "volume '%.63s' is not attached to gateway '%s'", name,
		      g->daemon->name);
	return NULL;
}

static void handle_status(void *ctx, struct rpc_call *call)
{
	struct gateway *g = ctx;
	struct arena arena = {0};
	Holdfast__V1__GatewayStatus *out = ARENA_MESSAGE(&arena, GatewayStatus, gateway_status);

	out->process = gateway_report_process(g, &arena);
	out->volumes = ARENA_ARRAY(&arena, Holdfast__V1__VolumeInfo *, g->volume_count);
	out->exports = ARENA_ARRAY(&arena, Holdfast__V1__ExportInfo *, g->volume_count);
	list_for_each (link, &g->volumes) {
		struct gateway_volume *v = CONTAINER_OF(link, struct gateway_volume, link);
		out->volumes[out->n_volumes++] = gateway_report_volume(v, &arena);
		if (v->is_exported)
			out->exports[out->n_exports++] = gateway_report_export(v, &arena);
	}
	(void)rpc_call_reply(call, &out->base);
	arena_free(&arena);
}

static void handle_attach(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__AttachRequest *request = (void *)rpc_call_request(call);
	struct gateway *g = ctx;
	struct gateway_volume *v;
	struct err err = {0};

	g->attach_generation++;
	if (name_check("volume", request->volume, &err) < 0 ||
	    gateway_volume_attach(g, request->volume, request->intent_id, &v, &err) < 0) {
		rpc_call_fail_err(call, &err);
		return;
	}
	v->generation = g->attach_generation;
	gateway_volume_wait(v, call, WAIT_OPEN);
}

static void handle_detach(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__DetachRequest *request = (void *)rpc_call_request(call);
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	struct gateway_volume *v = gateway_volume_find(ctx, request->volume);

	if (!v || v->intent_id > request->intent_id) { /* what was meant is not there */
		(void)rpc_call_reply(call, &empty.base);
		return;
	}
	gateway_volume_end(v, 0);
	gateway_volume_wait(v, call, WAIT_END);
}

static void handle_export(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__AttachRequest *request = (void *)rpc_call_request(call);
	struct gateway *g = ctx;
	struct gateway_volume *v = volume_of(g, call, request->volume);
	struct arena arena = {0};
	struct err err = {0};

	if (!v)
		return;
	v->generation = ++g->attach_generation;
	if (gateway_volume_export(v, request->listen, request->read_only, &err) < 0)
		rpc_call_fail_err(call, &err);
	else
		(void)rpc_call_reply(call, &gateway_report_export(v, &arena)->base);
	arena_free(&arena);
}

static void handle_unexport(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__DetachRequest *request = (void *)rpc_call_request(call);
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	struct gateway_volume *v = volume_of(ctx, call, request->volume);

	if (!v)
		return;
	if (v->intent_id > request->intent_id) { /* a later attachment is not meant */
		(void)rpc_call_reply(call, &empty.base);
		return;
	}
	gateway_volume_unexport(v);
	gateway_volume_wait(v, call, WAIT_UNEXPORT);
}

/* ---- resize ---- */

static void handle_resize(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__VolumeResizeRequest *request = (void *)rpc_call_request(call);
	struct gateway_volume *v = volume_of(ctx, call, request->name);
	struct coordinator_info info;
	struct err err = {0};

	if (!v)
		return;
	coordinator_info(v->coordinator, &info);
	if (volume_size_check(request->size_bytes, &err) < 0) {
		rpc_call_fail_err(call, &err);
		return;
	}
	if (request->size_bytes / BLOCK_BYTES < info.size_blocks) {
		rpc_call_fail(call, RPC_INVALID_ARGUMENT,
			      "volume '%s' has %lu bytes and cannot shrink to %lu", v->name,
			      (unsigned long)(info.size_blocks * BLOCK_BYTES),
			      (unsigned long)request->size_bytes);
		return;
	}
	if (v->is_growing) {
		rpc_call_fail(call, RPC_ABORTED, "volume '%s': a resize is under way", v->name);
		return;
	}
	gateway_volume_grow(v, request->size_bytes);
	gateway_volume_wait(v, call, WAIT_GROWN);
}

static void handle_repair(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__ReplicaRepairRequest *request = (void *)rpc_call_request(call);
	struct gateway_volume *v = volume_of(ctx, call, request->volume);
	struct coordinator_info info;
	bool is_known = !*request->node;

	if (!v)
		return;
	coordinator_info(v->coordinator, &info);
	for (uint32_t i = 0; i < info.replica_count; i++)
		is_known =
			is_known || strcmp(info.replicas[i].member.node_name, request->node) == 0;
	if (!is_known)
		rpc_call_fail(call, RPC_NOT_FOUND, "volume '%s' has no replica on node '%.63s'",
			      v->name, request->node);
	else
		gateway_verify_start(v, call, true, request->node);
}

static void handle_verify(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__ReplicaVerifyRequest *request = (void *)rpc_call_request(call);
	struct gateway_volume *v = volume_of(ctx, call, request->volume);

	if (v)
		gateway_verify_start(v, call, false, "");
}

const struct rpc_method gateway_methods[] = {
	{"Status", handle_status, 0},
	{"Attach", handle_attach, 0},
	{"Detach", handle_detach, 0},
	{"Export", handle_export, 0},
	{"Unexport", handle_unexport, 0},
	{"Resize", handle_resize, 0},
	{"Repair", handle_repair, RPC_METHOD_STREAM},
	{"Verify", handle_verify, RPC_METHOD_STREAM},
	{0},
};
