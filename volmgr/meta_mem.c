/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata store in plain memory: a sorted array of entries beneath the common engine.
 *
 * It plays the metadata server of a simulated cluster: it outlives its clients, so a client that
 * dies and comes back finds what it had committed. Transactions undo by a log of old entries.
 *
 * Y1  entries[] is sorted by key, without duplicates.
 * Y2  Inside a transaction undo[] holds, newest last, what each change replaced; bytes that were
 *     handed out stay valid until the transaction ends.
 */
#include <errno.h>
#include <stdlib.h>

#include "volmgr/meta_engine.h"

struct entry {
	struct meta_bytes key;
	struct meta_bytes value;
	char data[];
};

struct undo {
	struct entry *added; /* NULL: deleted only */
	struct entry *removed;
};

struct mem_table {
	struct meta_table table;
	struct entry **entries;
	size_t entry_count;
	size_t entry_max;
	struct undo *undo;
	size_t undo_count;
	size_t undo_max;
	bool is_open; /* a transaction is */
};

struct meta_mem {
	struct meta_engine engine;
	struct mem_table table;
};

static struct mem_table *mem_of(struct meta_table *table)
{
	return CONTAINER_OF(table, struct mem_table, table);
}

static int bytes_compare(struct meta_bytes a, struct meta_bytes b)
{
	int order = memcmp(a.data, b.data, MIN(a.bytes, b.bytes));
	return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

/* The index of the first entry that is not below the key. */
static size_t entry_index(const struct mem_table *t, struct meta_bytes key, bool *found)
{
	size_t low = 0, high = t->entry_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (bytes_compare(t->entries[middle]->key, key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*found = low < t->entry_count && bytes_compare(t->entries[low]->key, key) == 0;
	return low;
}

static int array_reserve(void **array, size_t *max, size_t count, size_t item_bytes)
{
	if (count < *max)
		return 0;
	size_t new_max = *max ? *max * 2 : 64;
	void *grown = realloc(*array, new_max * item_bytes);
	if (grown == NULL)
		return -ENOMEM;
	*array = grown;
	*max = new_max;
	return 0;
}

static void entry_insert(struct mem_table *t, size_t index, struct entry *entry)
{
	memmove(&t->entries[index + 1], &t->entries[index],
		(t->entry_count - index) * sizeof(struct entry *));
	t->entries[index] = entry;
	t->entry_count++;
}

static void entry_remove(struct mem_table *t, size_t index)
{
	t->entry_count--;
	memmove(&t->entries[index], &t->entries[index + 1],
		(t->entry_count - index) * sizeof(struct entry *));
}

static int mem_begin(struct meta_table *table, bool is_write)
{
	struct mem_table *t = mem_of(table);
	(void)is_write;
	assert(!t->is_open && t->undo_count == 0);
	t->is_open = true;
	return 0;
}

static int mem_get(struct meta_table *table, struct meta_bytes key, struct meta_bytes *ret)
{
	bool found;
	size_t index = entry_index(mem_of(table), key, &found);
	if (!found)
		return -ENOENT;
	*ret = mem_of(table)->entries[index]->value;
	return 0;
}

static int mem_put(struct meta_table *table, struct meta_bytes key, struct meta_bytes value)
{
	struct mem_table *t = mem_of(table);
	assert(t->is_open);
	if (array_reserve((void **)&t->entries, &t->entry_max, t->entry_count,
			  sizeof(*t->entries)) ||
	    array_reserve((void **)&t->undo, &t->undo_max, t->undo_count, sizeof(*t->undo)))
		return -ENOMEM;
	struct entry *entry = malloc(sizeof(*entry) + key.bytes + value.bytes);
	if (entry == NULL)
		return -ENOMEM;
	memcpy(entry->data, key.data, key.bytes);
	if (value.bytes)
		memcpy(entry->data + key.bytes, value.data, value.bytes);
	entry->key = (struct meta_bytes){entry->data, key.bytes};
	entry->value = (struct meta_bytes){entry->data + key.bytes, value.bytes};
	bool found;
	size_t index = entry_index(t, entry->key, &found);
	t->undo[t->undo_count++] = (struct undo){entry, found ? t->entries[index] : NULL};
	if (found)
		t->entries[index] = entry;
	else
		entry_insert(t, index, entry);
	return 0;
}

static int mem_del(struct meta_table *table, struct meta_bytes key)
{
	struct mem_table *t = mem_of(table);
	bool found;
	size_t index = entry_index(t, key, &found);
	assert(t->is_open);
	if (!found)
		return -ENOENT;
	if (array_reserve((void **)&t->undo, &t->undo_max, t->undo_count, sizeof(*t->undo)))
		return -ENOMEM;
	t->undo[t->undo_count++] = (struct undo){NULL, t->entries[index]};
	entry_remove(t, index);
	return 0;
}

static int mem_seek(struct meta_table *table, struct meta_bytes key, struct meta_bytes *ret_key,
		    struct meta_bytes *ret_value)
{
	struct mem_table *t = mem_of(table);
	bool found;
	size_t index = entry_index(t, key, &found);
	if (index == t->entry_count)
		return -ENOENT;
	*ret_key = t->entries[index]->key;
	*ret_value = t->entries[index]->value;
	return 0;
}

static int mem_commit(struct meta_table *table)
{
	struct mem_table *t = mem_of(table);
	assert(t->is_open);
	while (t->undo_count)
		free(t->undo[--t->undo_count].removed);
	t->is_open = false;
	return 0;
}

static void mem_abort(struct meta_table *table)
{
	struct mem_table *t = mem_of(table);
	assert(t->is_open);
	while (t->undo_count) {
		struct undo undo = t->undo[--t->undo_count];
		bool found;
		struct meta_bytes key = undo.added ? undo.added->key : undo.removed->key;
		size_t index = entry_index(t, key, &found);
		assert(found == (undo.added != NULL));
		if (undo.added && undo.removed)
			t->entries[index] = undo.removed;
		else if (undo.added)
			entry_remove(t, index);
		else
			entry_insert(t, index, undo.removed); /* room: it was there before */
		free(undo.added);
	}
	t->is_open = false;
}

static int mem_grow(struct meta_table *table)
{
	(void)table;
	return -ENOSPC; /* never asked for: put says -ENOMEM */
}

static void mem_close(struct meta_table *table)
{
	struct mem_table *t = mem_of(table);
	for (size_t i = 0; i < t->entry_count; i++)
		free(t->entries[i]);
	free(t->entries);
	free(t->undo);
}

static const struct meta_table_ops mem_table_ops = {
	.begin = mem_begin,
	.get = mem_get,
	.put = mem_put,
	.del = mem_del,
	.seek = mem_seek,
	.commit = mem_commit,
	.abort = mem_abort,
	.grow = mem_grow,
	.close = mem_close,
};

static const struct meta_ops mem_ops = {
	.submit = meta_client_submit,
	.watch_start = meta_client_watch_start,
	.watch_stop = meta_client_watch_stop,
	.close = meta_client_close,
};

struct meta_mem *meta_mem_create(struct env *env, const struct meta_mem_config *config)
{
	struct meta_mem *mem = calloc(1, sizeof(*mem));
	if (mem == NULL)
		return NULL;
	mem->table.table.ops = &mem_table_ops;
	if (config) {
		mem->engine.history_revisions_max = config->history_revisions_max;
		mem->engine.history_bytes_max = config->history_bytes_max;
	}
	if (meta_engine_open(&mem->engine, env, &mem->table.table, NULL) < 0) {
		mem_close(&mem->table.table);
		free(mem);
		return NULL;
	}
	return mem;
}

void meta_mem_destroy(struct meta_mem *mem)
{
	if (mem == NULL)
		return;
	assert(list_empty(&mem->engine.clients));
	meta_engine_close(&mem->engine);
	free(mem);
}

struct meta *meta_mem_open(struct meta_mem *mem, struct env *env)
{
	struct meta_client *client = meta_client_create(env, &mem->engine, &mem_ops);
	return client ? &client->meta : NULL;
}

void meta_mem_faults_set(struct meta *handle, const struct meta_mem_faults *faults)
{
	struct meta_client *client = CONTAINER_OF(handle, struct meta_client, meta);
	assert(handle->ops == &mem_ops && faults->delay_min_ns <= faults->delay_max_ns);
	client->faults = *faults;
	meta_client_wake(client);
}

void meta_mem_abandon(struct meta *handle)
{
	assert(handle->ops == &mem_ops);
	meta_client_abandon(CONTAINER_OF(handle, struct meta_client, meta));
}
