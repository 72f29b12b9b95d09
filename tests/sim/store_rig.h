/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store, a few replicas and a model of their logs, for the store's own tests in the simulator.
 *
 * Every entry that a test appends is remembered: its payload is a function of (replica, seq, version), so
 * what a log prefix must read as is known. Header only; one test binary, one rig.
 */
#ifndef HF_TESTS_SIM_STORE_RIG_H
#define HF_TESTS_SIM_STORE_RIG_H

#include <errno.h>
#include <stdlib.h>

#include "base/co.h"
#include "base/crc32c.h"
#include "store/desc.h"
#include "store/store.h"
#include "tests/sim/sim_disk.h"
#include "tests/unit/test.h"

#define RIG_PATH     "/store"
#define RIG_LIMIT_NS (600 * SIM_S)
#define RIG_BLOCKS   64u /* of a volume, as the model keeps them */
#define RIG_ENTRIES  4096u
#define RIG_CALLS    256u

struct rig_entry {
	uint64_t hash; /* after it */
	uint64_t epoch;
	uint64_t address, length;
	uint32_t version; /* tells apart entries that once had the same seq */
	uint8_t op;
};

struct rig_volume {
	struct uuid uuid;
	struct store_replica *replica;
	uint64_t epoch;
	uint64_t last_seq;                     /* issued */
	uint64_t acked_seq;                    /* acknowledged */
	struct rig_entry entries[RIG_ENTRIES]; /* by seq */
};

struct rig_call {
	union {
		struct store_op op;
		struct store_read read;
		struct store_create create;
		struct store_append append;
		struct store_promise promise;
		struct store_adopt adopt;
		struct store_lease lease;
		struct store_accept_loss loss;
		struct store_log_read log_read;
		struct store_repair repair;
		struct store_extents extents;
		struct store_changes changes;
		struct store_shadow shadow;
		struct store_fill fill;
	} u;
	struct rig *rig;
	struct rig_volume *volume;
	uint64_t seq;
	bool is_busy;
	bool is_done;
	int status;
	struct iovec iov;
	uint32_t crcs[STORE_ENTRY_BLOCKS_MAX];
	char *payload; /* STORE_ENTRY_BLOCKS_MAX blocks */
};

struct rig {
	struct sim *sim;
	struct sim_process *process;
	struct env *env;
	struct sim_disk *disk;
	struct co *co;
	struct store *store;
	struct store *opening;
	struct store_config config;
	struct store_params params;
	struct err err;
	bool is_done;
	int status;
	int failed_status;
	unsigned failed_count;
	uint32_t version_next;
	bool no_commit; /* entries carry K = 0 */
	struct rig_volume volumes[2];
	struct rig_call calls[RIG_CALLS];
	struct rig_call sync;
	char *buf; /* STORE_READ_BLOCKS_MAX blocks */
	uint32_t crcs[STORE_READ_BLOCKS_MAX];
	uint8_t states[STORE_READ_BLOCKS_MAX];
};

static inline void rig_failed(void *ctx, int status, const char *what)
{
	struct rig *rig = ctx;
	fprintf(stderr, "store failed: %s: %d\n", what, status);
	rig->failed_status = status;
	rig->failed_count++;
}

static inline struct rig *rig_create(uint64_t seed)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	rig->sim = sim_create(seed);
	rig->process = sim_process_create(rig->sim, "node");
	rig->env = sim_process_env(rig->process);
	rig->disk = sim_disk_create(rig->sim, RIG_PATH, STORE_SIZE_MIN_BYTES, NULL);
	rig->co = co_create(rig->env, 256 << 10);
	store_config_default(&rig->config);
	rig->config.cache_bytes = 1 << 20;
	rig->config.delta_bytes = 2 << 20;
	rig->config.log_records_max = 4096;
	rig->config.fold_entries = (const uint32_t[]){32, 1, 4}[seed % 3];
	rig->config.failed = rig_failed;
	rig->config.opening = &rig->opening;
	rig->config.ctx = rig;
	rig->params.ring_bytes = 2 << 20;
	rig->version_next = 1;
	size_t bytes = (size_t)STORE_ENTRY_BLOCKS_MAX * BLOCK_BYTES;
	rig->buf = aligned_alloc(BLOCK_BYTES, bytes);
	rig->sync.payload = aligned_alloc(BLOCK_BYTES, bytes);
	for (unsigned i = 0; i < 2; i++)
		rig->volumes[i].uuid.bytes[0] = (uint8_t)(i + 1);
	return rig;
}

static inline void rig_run(struct rig *rig, void (*job)(struct co *co, void *arg))
{
	rig->is_done = false;
	rig->err = (struct err){0};
	co_start(rig->co, job, rig);
	CHECK_EQ(sim_run_flag(rig->sim, &rig->is_done, RIG_LIMIT_NS), 0);
}

static inline void rig_format_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	rig->status = store_format(co, rig->env, RIG_PATH, &rig->params, &rig->err);
	rig->is_done = true;
}

static inline int rig_format(struct rig *rig)
{
	rig_run(rig, rig_format_job);
	return rig->status;
}

static inline void rig_open_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	rig->status = store_open(co, rig->env, RIG_PATH, &rig->config, &rig->store, &rig->err);
	rig->is_done = true;
}

static inline void rig_find_volumes(struct rig *rig)
{
	for (unsigned i = 0; i < 2; i++)
		rig->volumes[i].replica = store_replica_find(rig->store, &rig->volumes[i].uuid, 0);
}

static inline int rig_open(struct rig *rig)
{
	rig->failed_status = 0;
	rig->failed_count = 0;
	rig_run(rig, rig_open_job);
	if (rig->status == 0)
		rig_find_volumes(rig);
	return rig->status;
}

static inline void rig_close_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	store_close(co, rig->store);
	rig->store = NULL;
	rig->is_done = true;
}

static inline void rig_close(struct rig *rig)
{
	rig_run(rig, rig_close_job);
}

static inline void rig_crash(struct rig *rig, enum sim_kill how)
{
	sim_process_kill(rig->process, how);
	co_destroy(rig->co);
	if (rig->store)
		store_discard(rig->store);
	if (rig->opening)
		store_discard(rig->opening);
	rig->store = rig->opening = NULL;
	sim_process_restart(rig->process);
	rig->co = co_create(rig->env, 256 << 10);
	for (unsigned i = 0; i < RIG_CALLS; i++)
		rig->calls[i].is_busy = false;
}

static inline void rig_destroy(struct rig *rig)
{
	rig_crash(rig, SIM_KILL_PROCESS);
	co_destroy(rig->co);
	sim_destroy(rig->sim);
	free(rig->buf);
	free(rig->sync.payload);
	for (unsigned i = 0; i < RIG_CALLS; i++)
		free(rig->calls[i].payload);
	free(rig);
}

/* ---- operations that are waited for ---- */

static inline void rig_sync_done(struct store_op *op, int status)
{
	struct rig_call *call = CONTAINER_OF(op, struct rig_call, u.op);
	call->status = status;
	call->is_done = true;
}

static inline struct rig_call *rig_sync(struct rig *rig)
{
	memset(&rig->sync.u, 0, sizeof(rig->sync.u));
	rig->sync.u.op.done = rig_sync_done;
	rig->sync.is_done = false;
	return &rig->sync;
}

static inline int rig_wait(struct rig *rig)
{
	CHECK(!rig->sync.is_done, "done() ran inside the call");
	CHECK_EQ(sim_run_flag(rig->sim, &rig->sync.is_done, RIG_LIMIT_NS), 0);
	return rig->sync.status;
}

static inline int rig_create_replica(struct rig *rig, unsigned volume, uint64_t size_blocks)
{
	struct rig_call *c = rig_sync(rig);
	c->u.create.spec.volume_uuid = rig->volumes[volume].uuid;
	c->u.create.spec.replica_uuid.bytes[0] = 9;
	c->u.create.spec.size_blocks = size_blocks;
	store_replica_create(rig->store, &c->u.create);
	int rc = rig_wait(rig);
	if (rc == 0)
		rig->volumes[volume].replica = c->u.create.ret_replica;
	return rc;
}

static inline int rig_promise(struct rig *rig, unsigned volume, uint64_t epoch)
{
	struct rig_call *c = rig_sync(rig);
	c->u.promise.epoch = epoch;
	store_promise(rig->volumes[volume].replica, &c->u.promise);
	return rig_wait(rig);
}

static inline int rig_adopt(struct rig *rig, unsigned volume, uint64_t epoch, uint64_t base,
			    uint64_t last, uint64_t last_hash)
{
	struct rig_call *c = rig_sync(rig);
	c->u.adopt.epoch = epoch;
	c->u.adopt.base_seq = base;
	c->u.adopt.last_seq = last;
	c->u.adopt.last_hash = last_hash;
	store_adopt(rig->volumes[volume].replica, &c->u.adopt);
	return rig_wait(rig);
}

static inline int rig_checkpoint(struct rig *rig)
{
	struct rig_call *c = rig_sync(rig);
	store_checkpoint(rig->store, &c->u.op);
	return rig_wait(rig);
}

static inline struct store_replica_info rig_info(struct rig *rig, unsigned volume)
{
	struct store_replica_info info;
	store_replica_info(rig->volumes[volume].replica, &info);
	return info;
}

/* Takes the volume: promise and adopt what is there. */
static inline void rig_take(struct rig *rig, unsigned volume, uint64_t epoch)
{
	struct rig_volume *v = &rig->volumes[volume];
	CHECK_EQ(rig_promise(rig, volume, epoch), 0);
	struct store_replica_info info = rig_info(rig, volume);
	CHECK_EQ(rig_adopt(rig, volume, epoch, info.last_seq, info.last_seq, info.last_hash), 0);
	v->epoch = epoch;
	v->last_seq = v->acked_seq = info.last_seq;
}

/* Format, open, both volumes created and taken at epoch 1. */
static inline struct rig *rig_start(uint64_t seed)
{
	struct rig *rig = rig_create(seed);
	CHECK_EQ(rig_format(rig), 0);
	CHECK_EQ(rig_open(rig), 0);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(rig_create_replica(rig, i, RIG_BLOCKS), 0);
		rig_take(rig, i, 1);
	}
	return rig;
}

/* ---- entries ---- */

static inline void rig_fill_block(char *block, uint32_t version, uint64_t index)
{
	uint64_t x = (uint64_t)version << 32 | index | 1ull << 63;
	for (size_t i = 0; i < BLOCK_BYTES / 8; i++) {
		memcpy(block + i * 8, &x, 8);
		x = x * 6364136223846793005u + 1442695040888963407u;
	}
}

static inline uint64_t rig_last_hash(struct rig_volume *v)
{
	return v->last_seq ? v->entries[v->last_seq].hash : 0;
}

/* Fills the append for the volume's next entry and notes it. */
static inline void rig_prepare(struct rig *rig, struct rig_call *call, struct rig_volume *v,
			       uint8_t op, uint64_t address, uint64_t length)
{
	struct rig_entry *e = &v->entries[v->last_seq + 1];
	CHECK(v->last_seq + 1 < RIG_ENTRIES);
	*e = (struct rig_entry){.epoch = v->epoch,
				.address = address,
				.length = length,
				.version = rig->version_next++,
				.op = op};
	memset(&call->u, 0, sizeof(call->u));
	struct store_append *a = &call->u.append;
	a->entry = (struct log_entry){.epoch = v->epoch,
				      .seq = v->last_seq + 1,
				      .prev_hash = rig_last_hash(v),
				      .commit_seq = rig->no_commit ? 0 : v->acked_seq,
				      .op = op,
				      .address_blocks = address,
				      .length_blocks = length,
				      .crc32c = call->crcs};
	if (op == LOG_WRITE) {
		for (uint64_t i = 0; i < length; i++) {
			rig_fill_block(call->payload + i * BLOCK_BYTES, e->version, i);
			call->crcs[i] = crc32c(call->payload + i * BLOCK_BYTES, BLOCK_BYTES);
		}
		call->iov = (struct iovec){call->payload, length * BLOCK_BYTES};
		a->iov = &call->iov;
		a->iov_count = 1;
	}
	e->hash = log_entry_hash(&a->entry);
	v->last_seq++;
	call->seq = v->last_seq;
	call->volume = v;
}

static inline int rig_write(struct rig *rig, unsigned volume, uint8_t op, uint64_t address,
			    uint64_t length)
{
	struct rig_volume *v = &rig->volumes[volume];
	struct rig_call *c = rig_sync(rig);
	rig_prepare(rig, c, v, op, address, length);
	c->u.op.done = rig_sync_done;
	store_append(v->replica, &c->u.append);
	int rc = rig_wait(rig);
	if (rc == 0)
		v->acked_seq = c->seq;
	else
		v->last_seq--;
	return rc;
}

static inline void rig_append_done(struct store_op *op, int status)
{
	struct rig_call *call = CONTAINER_OF(op, struct rig_call, u.op);
	CHECK(call->is_busy, "answered twice");
	call->is_busy = false;
	call->status = status;
	if (status == 0) {
		CHECK_EQ(call->seq, call->volume->acked_seq + 1);
		call->volume->acked_seq = call->seq;
	}
}

/* Without waiting; false when every call is busy. */
static inline bool rig_write_async(struct rig *rig, unsigned volume, uint8_t op, uint64_t address,
				   uint64_t length)
{
	for (unsigned i = 0; i < RIG_CALLS; i++) {
		struct rig_call *c = &rig->calls[i];
		if (c->is_busy)
			continue;
		if (!c->payload)
			c->payload = aligned_alloc(BLOCK_BYTES, RIG_BLOCKS * BLOCK_BYTES);
		rig_prepare(rig, c, &rig->volumes[volume], op, address, length);
		c->is_busy = true;
		c->u.op.done = rig_append_done;
		store_append(rig->volumes[volume].replica, &c->u.append);
		return true;
	}
	return false;
}

static inline unsigned rig_busy(const struct rig *rig)
{
	unsigned n = 0;
	for (unsigned i = 0; i < RIG_CALLS; i++)
		n += rig->calls[i].is_busy;
	return n;
}

static inline void rig_drain(struct rig *rig)
{
	for (unsigned i = 0; rig_busy(rig) > 0; i++) {
		CHECK(i < 1000000, "appends do not end");
		sim_run_for(rig->sim, SIM_MS);
	}
}

/* ---- reading against the model ---- */

static inline int rig_read(struct rig *rig, unsigned volume, uint64_t address, uint32_t length)
{
	struct rig_call *c = rig_sync(rig);
	c->u.read.address_blocks = address;
	c->u.read.length_blocks = length;
	c->u.read.buf = rig->buf;
	c->u.read.crc32c = rig->crcs;
	c->u.read.block_state = rig->states;
	memset(rig->buf, 0xee, (size_t)length * BLOCK_BYTES);
	store_read(rig->volumes[volume].replica, &c->u.read);
	return rig_wait(rig);
}

/* What block reads as after entries 1..seq: version and index of its payload; version 0 is zeros. */
static inline uint32_t rig_expect(struct rig_volume *v, uint64_t seq, uint64_t block,
				  uint64_t *index)
{
	for (; seq > 0; seq--) {
		struct rig_entry *e = &v->entries[seq];
		if (block < e->address || block >= e->address + e->length)
			continue;
		if (e->op == LOG_ZERO)
			return 0;
		if (e->op != LOG_WRITE)
			continue;
		*index = block - e->address;
		return e->version;
	}
	return 0;
}

/* The volume reads exactly as entries 1..seq. */
static inline void rig_check_volume(struct rig *rig, unsigned volume, uint64_t seq)
{
	struct rig_volume *v = &rig->volumes[volume];
	char want[BLOCK_BYTES];
	CHECK_EQ(rig_read(rig, volume, 0, RIG_BLOCKS), 0);
	for (uint64_t b = 0; b < RIG_BLOCKS; b++) {
		uint64_t index = 0;
		uint32_t version = rig_expect(v, seq, b, &index);
		memset(want, 0, sizeof(want));
		if (version)
			rig_fill_block(want, version, index);
		CHECK(memcmp(rig->buf + b * BLOCK_BYTES, want, BLOCK_BYTES) == 0,
		      "volume %u block %llu is not as entries 1..%llu left it", volume,
		      (unsigned long long)b, (unsigned long long)seq);
		CHECK_EQ(rig->states[b], version ? STORE_BLOCK_DATA : STORE_BLOCK_ZERO);
		CHECK_EQ(rig->crcs[b], crc32c(want, BLOCK_BYTES));
	}
}

/* After a crash: a prefix with everything acknowledged (P2). */
static inline void rig_check_prefix(struct rig *rig, unsigned volume)
{
	struct rig_volume *v = &rig->volumes[volume];
	struct store_replica_info info = rig_info(rig, volume);
	CHECK(!info.suspect);
	CHECK(info.last_seq >= v->acked_seq, "L is %llu, %llu was acknowledged",
	      (unsigned long long)info.last_seq, (unsigned long long)v->acked_seq);
	CHECK(info.last_seq <= v->last_seq);
	CHECK(info.last_hash == (info.last_seq ? v->entries[info.last_seq].hash : 0));
	CHECK(info.promised >= v->epoch);
	CHECK(info.log_epoch >= v->epoch);
	rig_check_volume(rig, volume, info.last_seq);
	v->last_seq = v->acked_seq = info.last_seq;
}

/* Place of the newest descriptor that holds a record of this kind (0: any append) of the slot. */
static inline uint64_t rig_find_record(struct rig *rig, uint8_t op, uint64_t seq)
{
	struct store_info info;
	store_info(rig->store, &info);
	_Alignas(8) static char block[BLOCK_BYTES];
	for (uint64_t place = 16; place < 16 + info.ring_blocks; place++) {
		struct desc_header h;
		sim_image_read(sim_disk_current(rig->disk), place * BLOCK_BYTES, block,
			       BLOCK_BYTES);
		if (!desc_decode(block, &info.uuid, &h) || h.incarnation != info.incarnation)
			continue;
		const char *at = block + sizeof(struct desc_block);
		for (uint32_t i = 0, left = h.record_bytes; i < h.record_count; i++) {
			struct log_record record;
			size_t bytes;
			CHECK_EQ(record_decode(at, left, &record, &bytes, NULL), 0);
			if (record.op == op && record.seq == seq && record.slot == 0)
				return place;
			at += bytes;
			left -= (uint32_t)bytes;
		}
	}
	CHECK(false, "no such record in the ring");
	return 0;
}

#endif
