/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reading side of the metadata engine: results, history for watches, and opening a table.
 * Purpose and invariants are in meta_engine.c; H entries are checked before any length in them is
 * used, since a disk may hold anything.
 */
#include <stdio.h>
#include <stdlib.h>

#include "volmgr/meta_layout.h"

#define FORMAT_NAME      "holdfast-metadata"
#define FORMAT_VERSION   1
#define HISTORY_SCAN_MAX 256

const char meta_format_key[7] = {'C', 'f', 'o', 'r', 'm', 'a', 't'};

/* ---- results ---- */

struct meta_chunk {
	struct meta_chunk *next;
	char data[];
};

struct meta_result *meta_result_create(void)
{
	return calloc(1, sizeof(struct meta_result));
}

void meta_result_free(struct meta_result *result)
{
	if (result == NULL)
		return;
	while (result->chunks) {
		struct meta_chunk *chunk = result->chunks;
		result->chunks = chunk->next;
		free(chunk);
	}
	free(result->kvs);
	free(result);
}

/* Appends a key and value, copied; key NULL appends "no such key". 0 or -ENOMEM. */
int meta_result_add(struct meta_result *result, struct meta_bytes key,
		    const struct value_head *head, struct meta_bytes value)
{
	if (result->kv_count == result->kv_max) {
		uint32_t max = result->kv_max ? result->kv_max * 2 : 8;
		struct meta_kv *kvs = realloc(result->kvs, max * sizeof(*kvs));
		if (kvs == NULL)
			return -ENOMEM;
		result->kvs = kvs;
		result->kv_max = max;
	}
	struct meta_kv *kv = &result->kvs[result->kv_count];
	*kv = (struct meta_kv){0};
	if (key.data) {
		size_t bytes = key.bytes + 1 + value.bytes;
		struct meta_chunk *chunk = malloc(sizeof(*chunk) + bytes);
		if (chunk == NULL)
			return -ENOMEM;
		chunk->next = result->chunks;
		result->chunks = chunk;
		memcpy(chunk->data, key.data, key.bytes);
		chunk->data[key.bytes] = 0;
		if (value.bytes)
			memcpy(chunk->data + key.bytes + 1, value.data, value.bytes);
		kv->key = chunk->data;
		kv->value = chunk->data + key.bytes + 1;
		kv->value_bytes = value.bytes;
		kv->create_revision = (int64_t)le64_get(head->create_revision);
		kv->mod_revision = (int64_t)le64_get(head->mod_revision);
		kv->version = (int64_t)le64_get(head->version);
		kv->lease_id = le64_get(head->lease_id);
		result->bytes += bytes;
	}
	result->kv_count++;
	return 0;
}

/* ---- history ---- */

/* Splits an H entry. 0 or -EBADMSG. */
static int event_split(struct meta_bytes key, struct meta_bytes raw, struct event_head *head,
		       struct meta_bytes *path, struct meta_bytes *value)
{
	if (key.bytes != 1 + 8 + 4 || raw.bytes < sizeof(*head))
		return -EBADMSG;
	memcpy(head, raw.data, sizeof(*head));
	path->bytes = le32_get(head->key_bytes);
	if (path->bytes > META_KEY_MAX || path->bytes > raw.bytes - sizeof(*head))
		return -EBADMSG;
	path->data = (const char *)raw.data + sizeof(*head);
	value->data = (const char *)path->data + path->bytes;
	value->bytes = raw.bytes - sizeof(*head) - path->bytes;
	return 0;
}

static bool watch_matches(const struct meta_watch *watch, struct meta_bytes path)
{
	size_t bytes = strlen(watch->key);
	if (watch->is_prefix ? path.bytes < bytes : path.bytes != bytes)
		return false;
	return memcmp(path.data, watch->key, bytes) == 0;
}

/* Collects into the result; is_delete is kept in kv.version 0 until the events are made. */
static int history_scan(struct meta_engine *e, const struct meta_watch *watch,
			int64_t *next_revision, struct meta_event_batch *batch)
{
	struct table_key key;
	key_history(&key, (uint64_t)*next_revision, 0);
	for (uint32_t scanned = 0;; scanned++) {
		struct meta_bytes found, raw, path, value;
		struct event_head head;
		int rc = table_seek(e, &key, &found, &raw);
		if (rc == -ENOENT || (rc == 0 && !key_has(found, 'H', "", 0))) {
			*next_revision = e->revision + 1;
			return 0;
		}
		if (rc == 0)
			rc = event_split(found, raw, &head, &path, &value);
		if (rc < 0)
			return rc;
		int64_t revision = (int64_t)u64_at((const char *)found.data + 1);
		bool is_new = revision >= *next_revision;
		if (is_new && (batch->result->kv_count || scanned >= HISTORY_SCAN_MAX)) {
			*next_revision = revision;
			return 0;
		}
		*next_revision = revision + 1;
		if (watch_matches(watch, path)) {
			struct value_head value_head = {head.create_revision,
							le64_make((uint64_t)revision), head.version,
							head.lease_id};
			batch->revision = revision;
			rc = meta_result_add(batch->result, path, &value_head, value);
			if (rc < 0)
				return rc;
		}
		key_start(&key, 'H');
		key_add(&key, (const char *)found.data + 1, found.bytes - 1);
		key_add(&key, "", 1);
	}
}

int meta_engine_history(struct meta_engine *e, const struct meta_watch *watch,
			int64_t *next_revision, struct meta_event_batch *ret)
{
	*ret = (struct meta_event_batch){0};
	if (e->failed)
		return e->failed;
	if (*next_revision < e->compact_revision)
		return -ESTALE;
	if (*next_revision > e->revision)
		return 0;
	ret->result = meta_result_create();
	int rc = ret->result ? e->table->ops->begin(e->table, false) : -ENOMEM;
	if (rc == 0) {
		rc = history_scan(e, watch, next_revision, ret);
		e->table->ops->abort(e->table);
	}
	if (rc == 0 && ret->result->kv_count) {
		ret->events = calloc(ret->result->kv_count, sizeof(*ret->events));
		rc = ret->events ? 0 : -ENOMEM;
	}
	if (rc < 0) {
		meta_event_batch_free(ret);
		return rc;
	}
	ret->event_count = ret->result->kv_count;
	for (uint32_t i = 0; i < ret->event_count; i++) {
		ret->events[i].kv = ret->result->kvs[i];
		ret->events[i].is_delete = ret->result->kvs[i].version == 0;
	}
	return 0;
}

void meta_event_batch_free(struct meta_event_batch *batch)
{
	meta_result_free(batch->result);
	free(batch->events);
	*batch = (struct meta_event_batch){0};
}

/* ---- open, close ---- */

int meta_format_check(const void *text, size_t bytes, struct err *err)
{
	char copy[64] = "";
	unsigned version = 0;
	char end = 0;
	if (bytes < sizeof(copy))
		memcpy(copy, text, bytes);
	if (sscanf(copy, FORMAT_NAME " %u%c", &version, &end) != 1)
		return err_set(err, -EBADMSG, "it holds another program's data");
	if (version > FORMAT_VERSION)
		return err_set(err, -ENOTSUP,
			       "its format is version %u, this program knows up to version %d",
			       version, FORMAT_VERSION);
	if (version < 1)
		return err_set(err, -EBADMSG, "its format is version %u, which never was", version);
	return 0;
}

static int engine_load_leases(struct meta_engine *e)
{
	struct table_key key;
	key_start(&key, 'L');
	for (;;) {
		struct meta_bytes found, value;
		int rc = table_seek(e, &key, &found, &value);
		if (rc == -ENOENT || (rc == 0 && !key_has(found, 'L', "", 0)))
			return 0;
		if (rc < 0)
			return rc;
		struct lease_body body;
		if (found.bytes != 9 || value.bytes != sizeof(body) ||
		    e->lease_count >= META_LEASES_MAX)
			return -EBADMSG;
		memcpy(&body, value.data, sizeof(body));
		uint64_t lease_id = u64_at((const char *)found.data + 1);
		if (le64_get(body.ttl_ms) > META_LEASE_TTL_MAX_MS || lease_id >= INT64_MAX)
			return -EBADMSG;
		rc = meta_lease_add(e, lease_id, le64_get(body.ttl_ms));
		if (rc < 0)
			return rc;
		key_lease(&key, lease_id + 1);
	}
}

static int engine_load_history(struct meta_engine *e)
{
	struct table_key key;
	key_start(&key, 'H');
	for (;;) {
		struct meta_bytes found, raw, path, value;
		struct event_head head;
		int rc = table_seek(e, &key, &found, &raw);
		if (rc == -ENOENT || (rc == 0 && !key_has(found, 'H', "", 0)))
			return 0;
		if (rc == 0)
			rc = event_split(found, raw, &head, &path, &value);
		if (rc < 0)
			return rc;
		e->history_bytes += raw.bytes;
		key_start(&key, 'H');
		key_add(&key, (const char *)found.data + 1, found.bytes - 1);
		key_add(&key, "", 1);
	}
}

/* An empty table becomes a store; anything else must be one. */
static int engine_load(struct meta_engine *e, struct err *err)
{
	struct meta_bytes text, found, value;
	int rc = e->table->ops->get(
		e->table, (struct meta_bytes){meta_format_key, sizeof(meta_format_key)}, &text);
	if (rc == -ENOENT) {
		rc = e->table->ops->seek(e->table, (struct meta_bytes){"", 1}, &found, &value);
		if (rc != -ENOENT)
			return rc < 0 ? err_set(err, rc, "cannot be read: %s", strerror(-rc))
				      : err_set(err, -EBADMSG, "it holds another program's data");
		char format[64];
		int n = snprintf(format, sizeof(format), FORMAT_NAME " %d", FORMAT_VERSION);
		rc = e->table->ops->put(
			e->table, (struct meta_bytes){meta_format_key, sizeof(meta_format_key)},
			(struct meta_bytes){format, (size_t)n});
		if (rc == 0)
			rc = config_put(e, "revision", e->revision);
		if (rc == 0)
			rc = config_put(e, "compact", e->compact_revision);
		return rc < 0 ? err_set(err, rc, "cannot be written: %s", strerror(-rc)) : 0;
	}
	if (rc < 0)
		return err_set(err, rc, "cannot be read: %s", strerror(-rc));
	rc = meta_format_check(text.data, text.bytes, err);
	if (rc < 0)
		return rc;
	rc = config_get(e, "revision", &e->revision);
	if (rc == 0)
		rc = config_get(e, "compact", &e->compact_revision);
	if (rc == 0)
		rc = engine_load_leases(e);
	if (rc == 0)
		rc = engine_load_history(e);
	if (rc == 0 && e->compact_revision > e->revision + 1)
		rc = -EBADMSG;
	return rc < 0 ? err_set(err, rc, "its contents cannot be read: %s", strerror(-rc)) : 0;
}

int meta_engine_open(struct meta_engine *e, struct env *env, struct meta_table *table,
		     struct err *err)
{
	e->env = env;
	e->table = table;
	e->revision = 1;
	e->compact_revision = 1;
	e->lease_timer = (struct env_timer){.fire = meta_lease_timer_fire};
	list_init(&e->clients);
	if (e->history_revisions_max == 0)
		e->history_revisions_max = 10000;
	if (e->history_bytes_max == 0)
		e->history_bytes_max = 64u << 20;
	int rc = table->ops->begin(table, true);
	if (rc < 0)
		return err_set(err, rc, "cannot be opened: %s", strerror(-rc));
	rc = engine_load(e, err);
	if (rc < 0)
		table->ops->abort(table);
	else
		rc = table->ops->commit(table);
	if (rc < 0) {
		free(e->leases);
		return err && err->code ? rc : err_set(err, rc, "cannot be written");
	}
	meta_lease_timer_arm(e);
	return 0;
}

void meta_engine_close(struct meta_engine *e)
{
	env_timer_cancel(e->env, &e->lease_timer);
	e->table->ops->close(e->table);
	free(e->leases);
}
