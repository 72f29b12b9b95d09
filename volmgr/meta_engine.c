/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the metadata store means, over an ordered map of bytes.
 *
 * The map's keys begin with a letter:
 *   C<name>              configuration: format, revision, compact
 *   K<key>               the current value: struct value_head, then the bytes
 *   H<revision><index>   history: struct event_head, key, value; both numbers big-endian
 *   L<lease>             struct lease_body
 *   X<lease><key>        the key is attached to the lease
 *
 * Invariants:
 * N1  One operation is one transaction of the map: K, H, L, X and C agree at every commit.
 * N2  H holds exactly the events of the revisions in [compact, revision].
 * N3  X holds (lease, key) exactly when K's head of that key names the lease, and L holds it.
 * N4  What is kept in memory (revision, compact, sizes, leases) changes only after the commit.
 * N5  A commit whose outcome is unknown fails the engine for good: what is on disk is read again
 *     at the next open, never guessed.
 *
 * Lease deadlines are in memory only: after an open every lease has its whole time again, so a
 * restart can prolong a lease but never cut one short.
 */
#include <stdlib.h>

#include "base/log.h"
#include "volmgr/meta_layout.h"

/* ---- values ---- */

/* Splits a K value. 0 or -EBADMSG. */
static int value_split(struct meta_bytes raw, struct value_head *head, struct meta_bytes *body)
{
	if (raw.bytes < sizeof(*head))
		return -EBADMSG;
	memcpy(head, raw.data, sizeof(*head));
	body->data = (const char *)raw.data + sizeof(*head);
	body->bytes = raw.bytes - sizeof(*head);
	return 0;
}

/* The current value of a key; a zero head and -ENOENT when there is none. */
static int value_get(struct meta_engine *e, const char *path, struct value_head *head,
		     struct meta_bytes *body)
{
	struct table_key key;
	struct meta_bytes raw;
	*head = (struct value_head){0};
	*body = (struct meta_bytes){"", 0};
	key_path(&key, path);
	int rc = table_get(e, &key, &raw);
	return rc < 0 ? rc : value_split(raw, head, body);
}

/* ---- one change: what is written so far ---- */

struct change {
	struct meta_engine *engine;
	int64_t revision;
	uint32_t event_count;
	size_t history_added_bytes;
	size_t history_freed_bytes;
	int64_t compact_revision;
	uint32_t deleted_count;
};

static int change_begin(struct meta_engine *e, struct change *change)
{
	*change = (struct change){
		.engine = e,
		.revision = e->revision + 1,
		.compact_revision = e->compact_revision,
	};
	return e->table->ops->begin(e->table, true);
}

static int history_put(struct change *change, const struct event_head *head, const void *path,
		       struct meta_bytes value)
{
	size_t path_bytes = le32_get(head->key_bytes);
	size_t bytes = sizeof(*head) + path_bytes + value.bytes;
	char *buf = malloc(bytes);
	if (buf == NULL)
		return -ENOMEM;
	memcpy(buf, head, sizeof(*head));
	memcpy(buf + sizeof(*head), path, path_bytes);
	if (value.bytes)
		memcpy(buf + sizeof(*head) + path_bytes, value.data, value.bytes);
	struct table_key key;
	key_history(&key, (uint64_t)change->revision, change->event_count);
	int rc = table_put(change->engine, &key, buf, bytes);
	free(buf);
	if (rc < 0)
		return rc;
	change->event_count++;
	change->history_added_bytes += bytes;
	return 0;
}

/* Moves a key from one lease to another (0: none). */
static int lease_move(struct meta_engine *e, const char *path, uint64_t from, uint64_t to)
{
	struct table_key key;
	if (from == to)
		return 0;
	if (from) {
		key_attached(&key, from, path, strlen(path));
		int rc = table_del(e, &key);
		if (rc < 0)
			return rc == -ENOENT ? -EBADMSG : rc;
	}
	if (to == 0)
		return 0;
	key_attached(&key, to, path, strlen(path));
	return table_put(e, &key, "", 0);
}

static struct meta_lease_state *lease_find(struct meta_engine *e, uint64_t lease_id)
{
	for (uint32_t i = 0; i < e->lease_count; i++)
		if (e->leases[i].lease_id == lease_id)
			return &e->leases[i];
	return NULL;
}

static int change_put(struct change *change, const struct meta_do *op)
{
	struct meta_engine *e = change->engine;
	struct value_head head;
	struct meta_bytes old;
	if (op->lease_id && lease_find(e, op->lease_id) == NULL)
		return -ENOENT;
	int rc = value_get(e, op->key, &head, &old);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	uint64_t old_lease_id = le64_get(head.lease_id);
	if (rc == -ENOENT)
		head.create_revision = le64_make((uint64_t)change->revision);
	head.mod_revision = le64_make((uint64_t)change->revision);
	head.version = le64_make(le64_get(head.version) + 1);
	head.lease_id = le64_make(op->lease_id);

	char *buf = malloc(sizeof(head) + op->value_bytes);
	if (buf == NULL)
		return -ENOMEM;
	memcpy(buf, &head, sizeof(head));
	if (op->value_bytes)
		memcpy(buf + sizeof(head), op->value, op->value_bytes);
	struct table_key key;
	key_path(&key, op->key);
	rc = table_put(e, &key, buf, sizeof(head) + op->value_bytes);
	free(buf);
	if (rc == 0)
		rc = lease_move(e, op->key, old_lease_id, op->lease_id);
	if (rc < 0)
		return rc;
	struct event_head event = {
		.create_revision = head.create_revision,
		.version = head.version,
		.lease_id = head.lease_id,
		.key_bytes = le32_make((uint32_t)strlen(op->key)),
	};
	return history_put(change, &event, op->key,
			   (struct meta_bytes){op->value, op->value_bytes});
}

/* Deletes one key; one that is not there is no change. */
static int change_delete(struct change *change, const char *path)
{
	struct meta_engine *e = change->engine;
	struct value_head head;
	struct meta_bytes old;
	int rc = value_get(e, path, &head, &old);
	if (rc == -ENOENT)
		return 0;
	struct table_key key;
	key_path(&key, path);
	if (rc == 0)
		rc = table_del(e, &key);
	if (rc == 0)
		rc = lease_move(e, path, le64_get(head.lease_id), 0);
	if (rc < 0)
		return rc;
	change->deleted_count++;
	struct event_head event = {
		.is_delete = le32_make(1),
		.key_bytes = le32_make((uint32_t)strlen(path)),
	};
	return history_put(change, &event, path, (struct meta_bytes){"", 0});
}

/* Copies the path of a K or X key. 0 or -EBADMSG. */
static int path_copy(struct meta_bytes key, size_t skip, char path[META_KEY_MAX + 1])
{
	if (key.bytes < skip || key.bytes - skip > META_KEY_MAX)
		return -EBADMSG;
	memcpy(path, (const char *)key.data + skip, key.bytes - skip);
	path[key.bytes - skip] = 0;
	return 0;
}

static int change_delete_prefix(struct change *change, const char *prefix)
{
	struct meta_engine *e = change->engine;
	for (;;) {
		struct table_key key;
		struct meta_bytes found, value;
		char path[META_KEY_MAX + 1];
		key_path(&key, prefix);
		int rc = table_seek(e, &key, &found, &value);
		if (rc == -ENOENT || (rc == 0 && !key_has(found, 'K', prefix, strlen(prefix))))
			return 0;
		if (rc == 0)
			rc = path_copy(found, 1, path);
		if (rc == 0)
			rc = change_delete(change, path);
		if (rc < 0)
			return rc;
	}
}

/* Forgets the oldest revisions until the history is within its bounds, or below `until`. */
static int change_trim(struct change *change, int64_t until)
{
	struct meta_engine *e = change->engine;
	int64_t last = change->event_count ? change->revision : e->revision;
	for (;;) {
		int64_t oldest = change->compact_revision;
		size_t bytes = e->history_bytes + change->history_added_bytes -
			       change->history_freed_bytes;
		bool over =
			last - oldest >= e->history_revisions_max || bytes > e->history_bytes_max;
		if (oldest >= last || (!over && oldest >= until))
			return 0;
		for (uint32_t index = 0;; index++) {
			struct table_key key;
			struct meta_bytes value;
			key_history(&key, (uint64_t)oldest, index);
			int rc = table_get(e, &key, &value);
			if (rc == -ENOENT)
				break;
			if (rc < 0)
				return rc;
			change->history_freed_bytes += value.bytes;
			rc = table_del(e, &key);
			if (rc < 0)
				return rc;
		}
		change->compact_revision++;
	}
}

/* Writes the counters and commits; memory follows only then (N4). */
static int change_commit(struct change *change, int64_t compact_until)
{
	struct meta_engine *e = change->engine;
	int rc = change_trim(change, compact_until);
	if (rc == 0 && change->event_count)
		rc = config_put(e, "revision", change->revision);
	if (rc == 0 && change->compact_revision != e->compact_revision)
		rc = config_put(e, "compact", change->compact_revision);
	if (rc < 0) {
		e->table->ops->abort(e->table);
		return rc;
	}
	rc = e->table->ops->commit(e->table);
	if (rc == -EXFULL || rc == -ENOSPC || rc == -ENOMEM)
		return rc;
	if (rc < 0) {
		e->failed = -EIO;
		log_event(LOG_ERROR, "meta", "commit_failed",
			  "errno=%s effect='metadata is refused until it is opened again'",
			  err_name(rc));
		return -ETIMEDOUT;
	}
	e->compact_revision = change->compact_revision;
	e->history_bytes += change->history_added_bytes - change->history_freed_bytes;
	if (change->event_count == 0)
		return 0;
	e->revision = change->revision;
	list_for_each (pos, &e->clients)
		meta_client_wake(CONTAINER_OF(pos, struct meta_client, engine_link));
	return 0;
}

/* ---- range and transaction ---- */

static int apply_range(struct meta_engine *e, struct meta_range *op, struct meta_result *result)
{
	uint32_t limit = op->limit ? MIN(op->limit, META_RANGE_LIMIT_MAX) : META_RANGE_LIMIT_MAX;
	size_t prefix_bytes = strlen(op->key);
	struct table_key key;
	key_path(&key, op->continue_key[0] ? op->continue_key : op->key);
	op->more = false;
	for (;;) {
		struct meta_bytes found, raw, body;
		struct value_head head;
		int rc = table_seek(e, &key, &found, &raw);
		if (rc == -ENOENT || (rc == 0 && !key_has(found, 'K', op->key, prefix_bytes)) ||
		    (rc == 0 && !op->is_prefix && found.bytes != prefix_bytes + 1)) {
			op->continue_key[0] = 0;
			return 0;
		}
		if (rc == 0)
			rc = value_split(raw, &head, &body);
		if (rc < 0)
			return rc;
		if (result->kv_count == limit ||
		    (result->kv_count && result->bytes + body.bytes > META_RANGE_BYTES_MAX)) {
			op->more = true;
			return path_copy(found, 1, op->continue_key);
		}
		struct meta_bytes path = {(const char *)found.data + 1, found.bytes - 1};
		if (path.bytes > META_KEY_MAX)
			return -EBADMSG;
		rc = meta_result_add(result, path, &head, body);
		if (rc < 0 || !op->is_prefix)
			return rc;
		/* the least key above this one */
		key_start(&key, 'K');
		key_add(&key, path.data, path.bytes);
		key_add(&key, "", 1);
	}
}

static bool relation_holds(enum meta_relation relation, int order)
{
	switch (relation) {
	case META_EQUAL:
		return order == 0;
	case META_NOT_EQUAL:
		return order != 0;
	case META_GREATER:
		return order > 0;
	case META_LESS:
		return order < 0;
	}
	return false;
}

static int number_order(le64 have, int64_t want)
{
	int64_t number = (int64_t)le64_get(have);
	return number < want ? -1 : number > want;
}

static int bytes_order(struct meta_bytes a, const void *data, size_t bytes)
{
	size_t common = MIN(a.bytes, bytes);
	int order = common ? memcmp(a.data, data, common) : 0;
	if (order == 0)
		order = a.bytes < bytes ? -1 : a.bytes > bytes;
	return order;
}

/* 1: holds, 0: does not, or -errno. */
static int compare_eval(struct meta_engine *e, const struct meta_compare *c)
{
	struct value_head head;
	struct meta_bytes body;
	int rc = value_get(e, c->key, &head, &body);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	switch (c->target) {
	case META_VERSION:
		return relation_holds(c->relation, number_order(head.version, c->number));
	case META_CREATE_REVISION:
		return relation_holds(c->relation, number_order(head.create_revision, c->number));
	case META_MOD_REVISION:
		return relation_holds(c->relation, number_order(head.mod_revision, c->number));
	case META_VALUE:
		return rc == 0 &&
		       relation_holds(c->relation, bytes_order(body, c->value, c->value_bytes));
	}
	return -EINVAL;
}

static int change_get(struct meta_engine *e, const char *path, struct meta_result *result)
{
	struct value_head head;
	struct meta_bytes body;
	int rc = value_get(e, path, &head, &body);
	if (rc == -ENOENT)
		return meta_result_add(result, (struct meta_bytes){0}, NULL, body);
	if (rc < 0)
		return rc;
	return meta_result_add(result, (struct meta_bytes){path, strlen(path)}, &head, body);
}

static int branch_apply(struct change *change, const struct meta_do *ops, uint32_t count,
			struct meta_result *result)
{
	for (uint32_t i = 0; i < count; i++) {
		int rc = 0;
		if (ops[i].action == META_PUT)
			rc = change_put(change, &ops[i]);
		else if (ops[i].action == META_DELETE)
			rc = change_delete(change, ops[i].key);
		else if (ops[i].action == META_DELETE_PREFIX)
			rc = change_delete_prefix(change, ops[i].key);
		if (rc == 0 && ops[i].action == META_GET)
			rc = change_get(change->engine, ops[i].key, result);
		else if (rc == 0)
			rc = meta_result_add(result, (struct meta_bytes){0}, NULL,
					     (struct meta_bytes){0});
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int apply_txn(struct meta_engine *e, struct meta_txn *op, struct meta_result *result)
{
	struct change change;
	int rc = change_begin(e, &change);
	if (rc < 0)
		return rc;
	bool holds = true;
	for (uint32_t i = 0; i < op->compare_count && holds && rc >= 0; i++) {
		rc = compare_eval(e, &op->compares[i]);
		holds = rc > 0;
	}
	if (rc >= 0)
		rc = branch_apply(&change, holds ? op->success : op->failure,
				  holds ? op->success_count : op->failure_count, result);
	if (rc < 0 || change.event_count == 0)
		e->table->ops->abort(e->table);
	else
		rc = change_commit(&change, 0);
	if (rc < 0)
		return rc;
	op->succeeded = holds;
	op->revision = e->revision;
	op->deleted_count = change.deleted_count;
	return 0;
}

/* ---- leases ---- */

/* A linear search: expiry is rare, and the number is bounded. */
void meta_lease_timer_arm(struct meta_engine *e)
{
	uint64_t first_ns = UINT64_MAX;
	for (uint32_t i = 0; i < e->lease_count; i++)
		first_ns = MIN(first_ns, e->leases[i].deadline_ns);
	if (first_ns == UINT64_MAX)
		env_timer_cancel(e->env, &e->lease_timer);
	else
		env_timer_set(e->env, &e->lease_timer, first_ns);
}

int meta_lease_add(struct meta_engine *e, uint64_t lease_id, uint64_t ttl_ms)
{
	if (e->lease_count == e->lease_max) {
		uint32_t max = e->lease_max ? e->lease_max * 2 : 16;
		struct meta_lease_state *leases = realloc(e->leases, max * sizeof(*leases));
		if (leases == NULL)
			return -ENOMEM;
		e->leases = leases;
		e->lease_max = max;
	}
	e->leases[e->lease_count++] = (struct meta_lease_state){
		.lease_id = lease_id,
		.ttl_ms = ttl_ms,
		.deadline_ns = env_now_ns(e->env) + ttl_ms * 1000000,
	};
	return 0;
}

static int apply_lease_grant(struct meta_engine *e, struct meta_lease *op)
{
	if (e->lease_count >= META_LEASES_MAX)
		return -ENOSPC;
	uint64_t lease_id = op->lease_id;
	while (lease_id == 0 || (op->lease_id == 0 && lease_find(e, lease_id)))
		lease_id = env_random(e->env) & INT64_MAX;
	if (lease_id > INT64_MAX || lease_find(e, lease_id))
		return -EINVAL;
	int rc = meta_lease_add(e, lease_id, op->ttl_ms); /* room first: it can fail */
	if (rc < 0)
		return rc;
	struct change change;
	struct table_key key;
	struct lease_body body = {le64_make(op->ttl_ms)};
	key_lease(&key, lease_id);
	rc = change_begin(e, &change);
	if (rc == 0) {
		rc = table_put(e, &key, &body, sizeof(body));
		if (rc < 0)
			e->table->ops->abort(e->table);
		else
			rc = change_commit(&change, 0);
	}
	if (rc < 0) {
		e->lease_count--;
		return rc;
	}
	op->lease_id = lease_id;
	meta_lease_timer_arm(e);
	return 0;
}

static int apply_lease_keepalive(struct meta_engine *e, struct meta_lease *op)
{
	struct meta_lease_state *lease = lease_find(e, op->lease_id);
	if (lease == NULL)
		return -ENOENT;
	lease->deadline_ns = env_now_ns(e->env) + lease->ttl_ms * 1000000;
	op->ttl_ms = lease->ttl_ms;
	meta_lease_timer_arm(e);
	return 0;
}

/* Deletes the keys of a lease and the lease, one transaction. */
static int lease_end(struct meta_engine *e, struct meta_lease_state *lease)
{
	struct change change;
	int rc = change_begin(e, &change);
	if (rc < 0)
		return rc;
	uint64_t big = htobe64(lease->lease_id);
	struct table_key key;
	for (;;) {
		struct meta_bytes found, value;
		char path[META_KEY_MAX + 1];
		key_attached(&key, lease->lease_id, "", 0);
		rc = table_seek(e, &key, &found, &value);
		if (rc == -ENOENT || (rc == 0 && !key_has(found, 'X', &big, sizeof(big))))
			break;
		if (rc == 0)
			rc = path_copy(found, 1 + sizeof(big), path);
		uint32_t before = change.deleted_count;
		if (rc == 0)
			rc = change_delete(&change, path);
		if (rc == 0 && change.deleted_count == before)
			rc = -EBADMSG; /* N3 broken on disk: never loop */
		if (rc < 0) {
			e->table->ops->abort(e->table);
			return rc;
		}
	}
	key_lease(&key, lease->lease_id);
	rc = table_del(e, &key);
	if (rc < 0) {
		e->table->ops->abort(e->table);
		return rc == -ENOENT ? -EBADMSG : rc;
	}
	rc = change_commit(&change, 0);
	if (rc == 0)
		*lease = e->leases[--e->lease_count];
	return rc;
}

static int apply_lease_revoke(struct meta_engine *e, struct meta_lease *op)
{
	struct meta_lease_state *lease = lease_find(e, op->lease_id);
	if (lease == NULL)
		return -ENOENT;
	int rc = lease_end(e, lease);
	meta_lease_timer_arm(e);
	return rc;
}

void meta_lease_timer_fire(struct env_timer *timer)
{
	struct meta_engine *e = CONTAINER_OF(timer, struct meta_engine, lease_timer);
	uint64_t now_ns = env_now_ns(e->env);
	for (uint32_t i = e->lease_count; i-- > 0;) {
		struct meta_lease_state *lease = &e->leases[i];
		if (lease->deadline_ns > now_ns || e->failed)
			continue;
		int rc = lease_end(e, lease);
		if (rc == -EXFULL && e->table->ops->grow(e->table) == 0)
			rc = lease_end(e, lease);
		if (rc < 0) {
			lease->deadline_ns = now_ns + 1000000000ull;
			log_event(LOG_WARN, "meta", "lease_expiry_failed",
				  "lease=%llx errno=%s retry_ms=1000",
				  (unsigned long long)lease->lease_id, err_name(rc));
		}
	}
	if (!e->failed)
		meta_lease_timer_arm(e);
}

/* ---- compaction, dispatch ---- */

static int apply_compact(struct meta_engine *e, struct meta_compact *op)
{
	if (op->revision > e->revision)
		return -EINVAL;
	struct change change;
	int rc = change_begin(e, &change);
	return rc < 0 ? rc : change_commit(&change, op->revision);
}

static int apply_once(struct meta_engine *e, struct meta_req *req, struct meta_result *result)
{
	switch (req->kind) {
	case META_RANGE: {
		struct meta_range *op = CONTAINER_OF(req, struct meta_range, req);
		int rc = e->table->ops->begin(e->table, false);
		if (rc < 0)
			return rc;
		rc = apply_range(e, op, result);
		e->table->ops->abort(e->table);
		op->revision = e->revision;
		op->kvs = result->kvs;
		op->kv_count = rc == 0 ? result->kv_count : 0;
		return rc;
	}
	case META_TXN: {
		struct meta_txn *op = CONTAINER_OF(req, struct meta_txn, req);
		int rc = apply_txn(e, op, result);
		op->results = result->kvs;
		op->result_count = rc == 0 ? result->kv_count : 0;
		return rc;
	}
	case META_LEASE_GRANT:
		return apply_lease_grant(e, CONTAINER_OF(req, struct meta_lease, req));
	case META_LEASE_KEEPALIVE:
		return apply_lease_keepalive(e, CONTAINER_OF(req, struct meta_lease, req));
	case META_LEASE_REVOKE:
		return apply_lease_revoke(e, CONTAINER_OF(req, struct meta_lease, req));
	case META_COMPACT:
		return apply_compact(e, CONTAINER_OF(req, struct meta_compact, req));
	}
	return -EINVAL;
}

void meta_engine_apply(struct meta_engine *e, struct meta_req *req)
{
	int rc;
	do {
		meta_result_free(req->result);
		req->result = meta_result_create();
		rc = req->result == NULL ? -ENOMEM : e->failed;
		if (rc == 0)
			rc = apply_once(e, req, req->result);
		if (rc == -EXFULL) {
			int grown = e->table->ops->grow(e->table);
			rc = grown < 0 ? grown : -EXFULL;
		}
	} while (rc == -EXFULL);
	req->status = rc;
}
