/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Meta service: the metadata store's ranges and transactions, for gateways.
 *
 * T1  Everything is checked before it is passed on: counts, keys (no zero byte), enumerations.
 * T2  A transaction's reply means it is durable; no reply means its outcome is unknown to the
 *     caller (meta.h, M6), who reads again.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct meta_call {
	struct rpc_call *call;
	struct arena arena;
	struct meta_range range;
	struct meta_txn txn;
};

static void meta_call_free(struct meta_call *mc)
{
	arena_free(&mc->arena);
	free(mc);
}

static struct meta_call *meta_call_new(struct rpc_call *call)
{
	struct meta_call *mc = calloc(1, sizeof(*mc));
	if (mc == NULL)
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED, "out of memory");
	else
		mc->call = call;
	return mc;
}

static int key_read(const ProtobufCBinaryData *in, const char *what, struct arena *arena,
		    const char **ret, struct err *err)
{
	if (in->len == 0 || in->len > META_KEY_MAX || memchr(in->data, 0, in->len) != NULL)
		return err_set(err, -EINVAL,
			       "%s: %zu bytes; a key has 1 to %d and no zero byte among them", what,
			       in->len, META_KEY_MAX);
	char *key = arena_alloc(arena, in->len + 1);
	memcpy(key, in->data, in->len);
	int rc = meta_key_check(key, err);
	if (rc == 0)
		*ret = key;
	return rc;
}

static ProtobufCBinaryData bytes_copy(struct arena *arena, const void *data, size_t bytes)
{
	ProtobufCBinaryData out = {.len = bytes, .data = arena_alloc(arena, bytes)};
	if (bytes > 0)
		memcpy(out.data, data, bytes);
	return out;
}

static Holdfast__V1__MetaKeyValue *kv_message(const struct meta_kv *kv, struct arena *arena)
{
	Holdfast__V1__MetaKeyValue *out = ARENA_MESSAGE(arena, MetaKeyValue, meta_key_value);
	out->key = bytes_copy(arena, kv->key, strlen(kv->key));
	out->value = bytes_copy(arena, kv->value, kv->value_bytes);
	out->create_revision = (uint64_t)kv->create_revision;
	out->mod_revision = (uint64_t)kv->mod_revision;
	out->version = (uint64_t)kv->version;
	out->lease = kv->lease_id;
	return out;
}

static void meta_call_fail(struct meta_call *mc, int status)
{
	rpc_call_fail(mc->call, rpc_code_of_errno(status), "the metadata store: %s",
		      strerror(-status));
	meta_call_free(mc);
}

/* ---- Range ---- */

static void range_done(struct meta_range *range, int status)
{
	struct meta_call *mc = CONTAINER_OF(range, struct meta_call, range);
	if (status < 0) {
		meta_call_fail(mc, status);
		return;
	}
	Holdfast__V1__MetaRangeReply *reply =
		ARENA_MESSAGE(&mc->arena, MetaRangeReply, meta_range_reply);
	reply->revision = (uint64_t)range->revision;
	reply->more = range->more;
	reply->kvs = ARENA_ARRAY(&mc->arena, Holdfast__V1__MetaKeyValue *, range->kv_count);
	for (uint32_t i = 0; i < range->kv_count; i++)
		reply->kvs[reply->n_kvs++] = kv_message(&range->kvs[i], &mc->arena);
	(void)rpc_call_reply(mc->call, &reply->base); /* a failure was answered as INTERNAL */
	meta_call_free(mc);
}

static int range_read(struct meta_call *mc, const Holdfast__V1__MetaRangeRequest *request,
		      struct err *err)
{
	const char *after = NULL;
	mc->range = (struct meta_range){.is_prefix = request->prefix,
					.limit = MIN(request->limit, META_RANGE_LIMIT_MAX),
					.done = range_done};
	int rc = key_read(&request->key, "key", &mc->arena, &mc->range.key, err);
	if (rc < 0 || request->after.len == 0)
		return rc;
	rc = key_read(&request->after, "after", &mc->arena, &after, err);
	if (rc < 0)
		return rc;
	if (strlen(after) + 1 > META_KEY_MAX)
		return err_set(err, -EINVAL, "after: longer than %d bytes", META_KEY_MAX - 1);
	/* Keys hold no zero byte, so this is the least key above it. */
	snprintf(mc->range.continue_key, sizeof(mc->range.continue_key), "%s\x01", after);
	return 0;
}

static void handle_range(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct err err = {0};
	struct meta_call *mc = meta_call_new(call);
	if (mc == NULL)
		return;
	if (range_read(mc, (const Holdfast__V1__MetaRangeRequest *)rpc_call_request(call), &err) <
	    0) {
		call_fail(call, &err);
		meta_call_free(mc);
		return;
	}
	meta_range(m->meta, &mc->range);
}

/* ---- Txn ---- */

static int compares_read(struct meta_call *mc, const Holdfast__V1__MetaTxnRequest *request,
			 struct err *err)
{
	struct meta_compare *compares =
		ARENA_ARRAY(&mc->arena, struct meta_compare, request->n_compares);
	for (size_t i = 0; i < request->n_compares; i++) {
		const Holdfast__V1__MetaCompare *in = request->compares[i];
		if (in->target > META_VALUE || in->relation > META_GREATER ||
		    in->number > INT64_MAX)
			return err_set(err, -EINVAL,
				       "compares[%zu]: target %u, relation %u, number %lu: the "
				       "largest are %d, %d, %ld",
				       i, in->target, in->relation, (unsigned long)in->number,
				       META_VALUE, META_GREATER, (long)INT64_MAX);
		compares[i] = (struct meta_compare){.target = (enum meta_target)in->target,
						    .relation = (enum meta_relation)in->relation,
						    .number = (int64_t)in->number,
						    .value = in->value.data,
						    .value_bytes = in->value.len};
		int rc = key_read(&in->key, "compares.key", &mc->arena, &compares[i].key, err);
		if (rc < 0)
			return rc;
	}
	mc->txn.compares = compares;
	mc->txn.compare_count = (uint32_t)request->n_compares;
	return 0;
}

static int op_read(struct meta_call *mc, const Holdfast__V1__MetaOp *in, struct meta_do *out,
		   struct err *err)
{
	if (in->kind > 2)
		return err_set(err, -EINVAL, "operation kind %u: must be 0, 1 or 2", in->kind);
	if (in->lease != 0)
		return err_set(err, -EINVAL, "lease %lu: leases are not served",
			       (unsigned long)in->lease);
	static const enum meta_action actions[] = {META_PUT, META_DELETE, META_GET};
	*out = (struct meta_do){.action = in->kind == 1 && in->prefix ? META_DELETE_PREFIX
								      : actions[in->kind],
				.value = in->value.data,
				.value_bytes = in->value.len};
	return key_read(&in->key, "operation key", &mc->arena, &out->key, err);
}

static int ops_read(struct meta_call *mc, Holdfast__V1__MetaOp **in, size_t count,
		    const struct meta_do **ret, struct err *err)
{
	struct meta_do *ops = ARENA_ARRAY(&mc->arena, struct meta_do, count);
	for (size_t i = 0; i < count; i++) {
		int rc = op_read(mc, in[i], &ops[i], err);
		if (rc < 0)
			return rc;
	}
	*ret = ops;
	return 0;
}

static void txn_done(struct meta_txn *txn, int status)
{
	struct meta_call *mc = CONTAINER_OF(txn, struct meta_call, txn);
	if (status < 0) {
		meta_call_fail(mc, status);
		return;
	}
	Holdfast__V1__MetaTxnReply *reply = ARENA_MESSAGE(&mc->arena, MetaTxnReply, meta_txn_reply);
	reply->succeeded = txn->succeeded;
	reply->revision = (uint64_t)txn->revision;
	reply->replies = ARENA_ARRAY(&mc->arena, Holdfast__V1__MetaRangeReply *, txn->result_count);
	for (uint32_t i = 0; i < txn->result_count; i++) {
		Holdfast__V1__MetaRangeReply *one =
			ARENA_MESSAGE(&mc->arena, MetaRangeReply, meta_range_reply);
		one->revision = reply->revision;
		reply->replies[reply->n_replies++] = one;
		if (txn->results[i].key == NULL)
			continue;
		one->kvs = ARENA_ARRAY(&mc->arena, Holdfast__V1__MetaKeyValue *, 1);
		one->kvs[one->n_kvs++] = kv_message(&txn->results[i], &mc->arena);
	}
	(void)rpc_call_reply(mc->call, &reply->base); /* a failure was answered as INTERNAL */
	meta_call_free(mc);
}

static int txn_read(struct meta_call *mc, const Holdfast__V1__MetaTxnRequest *request,
		    struct err *err)
{
	if (request->n_compares > META_TXN_OPS_MAX || request->n_success > META_TXN_OPS_MAX ||
	    request->n_failure > META_TXN_OPS_MAX)
		return err_set(err, -EINVAL,
			       "%zu compares, %zu and %zu operations: at most %d of each",
			       request->n_compares, request->n_success, request->n_failure,
			       META_TXN_OPS_MAX);
	int rc = compares_read(mc, request, err);
	if (rc == 0)
		rc = ops_read(mc, request->success, request->n_success, &mc->txn.success, err);
	if (rc == 0)
		rc = ops_read(mc, request->failure, request->n_failure, &mc->txn.failure, err);
	mc->txn.success_count = (uint32_t)request->n_success;
	mc->txn.failure_count = (uint32_t)request->n_failure;
	mc->txn.done = txn_done;
	return rc;
}

static void handle_txn(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct err err = {0};
	struct meta_call *mc = meta_call_new(call);
	if (mc == NULL)
		return;
	/* Values stay in the request, which lives until the answer. */
	if (txn_read(mc, (const Holdfast__V1__MetaTxnRequest *)rpc_call_request(call), &err) < 0) {
		call_fail(call, &err);
		meta_call_free(mc);
		return;
	}
	meta_txn(m->meta, &mc->txn);
}

const struct rpc_method manager_meta_methods[] = {
	{"Range", handle_range, 0}, {"Txn", handle_txn, 0}, {0}};
