/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the engine's state lies in the ordered map: shared by meta_engine.c (changes) and
 * meta_history.c (history, results, opening). The layout is told in meta_engine.c.
 */
#ifndef HF_VOLMGR_META_LAYOUT_H
#define HF_VOLMGR_META_LAYOUT_H

#include <endian.h>
#include <errno.h>

#include "volmgr/meta_engine.h"

struct value_head {
	le64 create_revision;
	le64 mod_revision;
	le64 version;
	le64 lease_id;
};
static_assert(sizeof(struct value_head) == 32, "value_head is disk format");

struct event_head {
	le64 create_revision;
	le64 version;
	le64 lease_id;
	le32 is_delete;
	le32 key_bytes;
};
static_assert(sizeof(struct event_head) == 32, "event_head is disk format");

struct lease_body {
	le64 ttl_ms;
};
static_assert(sizeof(struct lease_body) == 8, "lease_body is disk format");

struct table_key {
	size_t bytes;
	uint8_t data[META_TABLE_KEY_MAX];
};

/* ---- keys of the map ---- */

static inline struct meta_bytes key_bytes(const struct table_key *key)
{
	return (struct meta_bytes){key->data, key->bytes};
}

static inline void key_start(struct table_key *key, char letter)
{
	key->data[0] = (uint8_t)letter;
	key->bytes = 1;
}

static inline void key_add(struct table_key *key, const void *data, size_t bytes)
{
	assert(bytes <= sizeof(key->data) - key->bytes);
	memcpy(key->data + key->bytes, data, bytes);
	key->bytes += bytes;
}

static inline void key_add_u64(struct table_key *key, uint64_t number)
{
	uint64_t big = htobe64(number);
	key_add(key, &big, sizeof(big));
}

static inline void key_path(struct table_key *key, const char *path)
{
	key_start(key, 'K');
	key_add(key, path, strlen(path));
}

static inline void key_history(struct table_key *key, uint64_t revision, uint32_t index)
{
	uint32_t big = htobe32(index);
	key_start(key, 'H');
	key_add_u64(key, revision);
	key_add(key, &big, sizeof(big));
}

static inline void key_lease(struct table_key *key, uint64_t lease_id)
{
	key_start(key, 'L');
	key_add_u64(key, lease_id);
}

static inline void key_attached(struct table_key *key, uint64_t lease_id, const void *path,
				size_t bytes)
{
	key_start(key, 'X');
	key_add_u64(key, lease_id);
	key_add(key, path, bytes);
}

static inline uint64_t u64_at(const void *data)
{
	uint64_t big;
	memcpy(&big, data, sizeof(big));
	return be64toh(big);
}

/* Whether the map's key has the letter, and the prefix right behind it. */
static inline bool key_has(struct meta_bytes key, char letter, const void *prefix, size_t bytes)
{
	const uint8_t *data = key.data;
	return key.bytes >= 1 + bytes && data[0] == (uint8_t)letter &&
	       memcmp(data + 1, prefix, bytes) == 0;
}

/* ---- the map, in short ---- */

static inline int table_get(struct meta_engine *e, const struct table_key *key,
			    struct meta_bytes *ret)
{
	return e->table->ops->get(e->table, key_bytes(key), ret);
}

static inline int table_put(struct meta_engine *e, const struct table_key *key, const void *data,
			    size_t bytes)
{
	return e->table->ops->put(e->table, key_bytes(key), (struct meta_bytes){data, bytes});
}

static inline int table_del(struct meta_engine *e, const struct table_key *key)
{
	return e->table->ops->del(e->table, key_bytes(key));
}

static inline int table_seek(struct meta_engine *e, const struct table_key *key,
			     struct meta_bytes *ret_key, struct meta_bytes *ret_value)
{
	return e->table->ops->seek(e->table, key_bytes(key), ret_key, ret_value);
}

static inline int config_put(struct meta_engine *e, const char *name, int64_t number)
{
	struct table_key key;
	le64 value = le64_make((uint64_t)number);
	key_start(&key, 'C');
	key_add(&key, name, strlen(name));
	return table_put(e, &key, &value, sizeof(value));
}

static inline int config_get(struct meta_engine *e, const char *name, int64_t *ret)
{
	struct table_key key;
	struct meta_bytes value;
	le64 number;
	key_start(&key, 'C');
	key_add(&key, name, strlen(name));
	int rc = table_get(e, &key, &value);
	if (rc < 0)
		return rc == -ENOENT ? -EBADMSG : rc;
	if (value.bytes != sizeof(number))
		return -EBADMSG;
	memcpy(&number, value.data, sizeof(number));
	if (le64_get(number) > INT64_MAX)
		return -EBADMSG;
	*ret = (int64_t)le64_get(number);
	return 0;
}

/* meta_history.c: appends a key and value, copied; key.data NULL appends "no such key". */
int meta_result_add(struct meta_result *result, struct meta_bytes key,
		    const struct value_head *head, struct meta_bytes value);
/* meta_engine.c: room for a lease that runs from now. 0 or -ENOMEM. */
int meta_lease_add(struct meta_engine *engine, uint64_t lease_id, uint64_t ttl_ms);
void meta_lease_timer_arm(struct meta_engine *engine);
void meta_lease_timer_fire(struct env_timer *timer);

#endif
