/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front of the metadata interface: checks every request once, so that all back ends refuse
 * the same ones, and calls the back end. What is malformed still completes through done() (M2).
 */
#include <errno.h>
#include <stdlib.h>

#include "volmgr/meta.h"

int meta_key_check(const char *key, struct err *err)
{
	if (key == NULL || key[0] != '/')
		return err_set(err, -EINVAL, "key '%.64s' does not start with '/'", key ? key : "");
	size_t bytes = strnlen(key, META_KEY_MAX + 1);
	if (bytes > META_KEY_MAX)
		return err_set(err, -EINVAL, "key '%.64s...' is longer than %d bytes", key,
			       META_KEY_MAX);
	return 0;
}

static int key_order(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Refuses a branch in which two writes meet the same key, as etcd does. */
static int branch_check_overlap(const struct meta_do *ops, uint32_t count)
{
	const char *keys[META_TXN_OPS_MAX];
	size_t key_count = 0;
	for (uint32_t i = 0; i < count; i++)
		if (ops[i].action == META_PUT || ops[i].action == META_DELETE)
			keys[key_count++] = ops[i].key;
	qsort(keys, key_count, sizeof(keys[0]), key_order);
	for (size_t i = 1; i < key_count; i++)
		if (strcmp(keys[i - 1], keys[i]) == 0)
			return -EINVAL;
	for (uint32_t p = 0; p < count; p++) {
		if (ops[p].action != META_DELETE_PREFIX)
			continue;
		size_t bytes = strlen(ops[p].key);
		for (uint32_t i = 0; i < count; i++) {
			if (i == p || ops[i].action == META_GET)
				continue;
			size_t common = bytes;
			if (ops[i].action == META_DELETE_PREFIX)
				common = MIN(bytes, strlen(ops[i].key));
			if (strncmp(ops[i].key, ops[p].key, common) == 0)
				return -EINVAL;
		}
	}
	return 0;
}

static int branch_check(const struct meta_do *ops, uint32_t count, size_t *value_bytes)
{
	if (count > META_TXN_OPS_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++) {
		if (meta_key_check(ops[i].key, NULL) < 0 || (unsigned)ops[i].action > META_GET)
			return -EINVAL;
		if (ops[i].action != META_PUT)
			continue;
		if (ops[i].value_bytes > META_VALUE_MAX - *value_bytes)
			return -EINVAL;
		*value_bytes += ops[i].value_bytes;
	}
	return branch_check_overlap(ops, count);
}

static int txn_check(const struct meta_txn *op)
{
	if (op->compare_count > META_TXN_OPS_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < op->compare_count; i++) {
		const struct meta_compare *c = &op->compares[i];
		if (meta_key_check(c->key, NULL) < 0 || (unsigned)c->target > META_VALUE ||
		    (unsigned)c->relation > META_GREATER)
			return -EINVAL;
	}
	size_t success_bytes = 0, failure_bytes = 0;
	int rc = branch_check(op->success, op->success_count, &success_bytes);
	if (rc == 0)
		rc = branch_check(op->failure, op->failure_count, &failure_bytes);
	return rc;
}

static void submit(struct meta *meta, struct meta_req *req, enum meta_kind kind, int status)
{
	req->kind = kind;
	req->status = status;
	req->result = NULL;
	req->phase = 0;
	meta->ops->submit(meta, req);
}

void meta_range(struct meta *meta, struct meta_range *op)
{
	int status = meta_key_check(op->key, NULL);
	size_t bytes = strnlen(op->continue_key, sizeof(op->continue_key));
	if (bytes > META_KEY_MAX)
		status = -EINVAL;
	/* A continue key from elsewhere would read outside of the prefix. */
	if (status == 0 && bytes > 0 &&
	    (!op->is_prefix || strncmp(op->continue_key, op->key, strlen(op->key)) != 0))
		status = -EINVAL;
	op->more = false;
	op->kvs = NULL;
	op->kv_count = 0;
	submit(meta, &op->req, META_RANGE, status);
}

void meta_txn(struct meta *meta, struct meta_txn *op)
{
	op->succeeded = false;
	op->results = NULL;
	op->result_count = 0;
	op->deleted_count = 0;
	submit(meta, &op->req, META_TXN, txn_check(op));
}

void meta_lease_grant(struct meta *meta, struct meta_lease *op)
{
	bool ok = op->ttl_ms >= META_LEASE_TTL_MIN_MS && op->ttl_ms <= META_LEASE_TTL_MAX_MS;
	submit(meta, &op->req, META_LEASE_GRANT, ok ? 0 : -EINVAL);
}

void meta_lease_keepalive(struct meta *meta, struct meta_lease *op)
{
	submit(meta, &op->req, META_LEASE_KEEPALIVE, op->lease_id ? 0 : -EINVAL);
}

void meta_lease_revoke(struct meta *meta, struct meta_lease *op)
{
	submit(meta, &op->req, META_LEASE_REVOKE, op->lease_id ? 0 : -EINVAL);
}

void meta_compact(struct meta *meta, struct meta_compact *op)
{
	submit(meta, &op->req, META_COMPACT, op->revision >= 0 ? 0 : -EINVAL);
}

void meta_watch_start(struct meta *meta, struct meta_watch *watch)
{
	assert(meta_key_check(watch->key, NULL) == 0);
	assert(watch->changed && watch->ended && watch->from_revision >= 0);
	assert(watch->meta == NULL);
	watch->meta = meta;
	watch->status = 0;
	watch->compact_revision = 0;
	meta->ops->watch_start(meta, watch);
}

void meta_watch_stop(struct meta_watch *watch)
{
	struct meta *meta = watch->meta;
	if (meta == NULL)
		return;
	meta->ops->watch_stop(meta, watch);
	watch->meta = NULL;
}

void meta_close(struct meta *meta, struct meta_close *close)
{
	meta->ops->close(meta, close);
}

void meta_req_done(struct meta_req *req)
{
	switch (req->kind) {
	case META_RANGE: {
		struct meta_range *op = CONTAINER_OF(req, struct meta_range, req);
		op->done(op, req->status);
		return;
	}
	case META_TXN: {
		struct meta_txn *op = CONTAINER_OF(req, struct meta_txn, req);
		op->done(op, req->status);
		return;
	}
	case META_COMPACT: {
		struct meta_compact *op = CONTAINER_OF(req, struct meta_compact, req);
		op->done(op, req->status);
		return;
	}
	case META_LEASE_GRANT:
	case META_LEASE_KEEPALIVE:
	case META_LEASE_REVOKE: {
		struct meta_lease *op = CONTAINER_OF(req, struct meta_lease, req);
		op->done(op, req->status);
		return;
	}
	}
	assert(!"unknown kind of request");
}
