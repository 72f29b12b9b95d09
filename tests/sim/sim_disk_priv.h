/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated disk's own types: sim_medium.c (contents) and sim_disk.c (operations). */
#ifndef HF_TESTS_SIM_SIM_DISK_PRIV_H
#define HF_TESTS_SIM_SIM_DISK_PRIV_H

#include "tests/sim/sim_priv.h"

#define FAULTS_MAX 16

struct cached {
	struct list link;
	uint64_t block_index;
	uint64_t order;
	struct sim_block *block;
};

struct sim_disk {
	struct list link;
	struct sim *sim;
	uint64_t id;
	char path[128];
	uint64_t size_bytes;
	struct sim_rng rng;
	struct sim_disk_profile profile;
	struct sim_image *current;
	struct sim_image *durable;
	struct sim_image *previous; /* for stale reads; NULL until they are wanted */
	struct list cached;
	size_t cached_count;
	uint64_t order; /* completed writes so far */
	uint64_t submitted[ENV_IO_FLUSH + 1];
	struct list ops;
	struct list held; /* disk_op.event.link while stalled */
	bool is_stalled;
	bool is_gone;
	unsigned readers; /* locks */
	bool has_writer;
	struct sim_disk_fault fault[FAULTS_MAX];
	unsigned fault_count;
	struct sim_record *record;
};

/* A handle. */
struct env_disk {
	struct sim_disk *disk;
	struct sim_process *process;
	struct list process_link;
	uint32_t flags;
	unsigned in_flight;
	bool is_dead; /* the process was killed */
	struct env_close *close;
	struct sim_event close_event;
};

struct disk_op {
	struct sim_event event; /* first: DISK_DO, then DISK_DONE */
	struct list link;       /* disk->ops until its effect is there */
	struct env_disk *handle;
	struct env_io *io;
	enum env_io_op op;
	uint32_t flags;
	uint64_t block_index;
	uint32_t block_count;
	struct sim_block **block; /* a write's data */
	uint64_t order;           /* FLUSH: what it covers */
	uint32_t record_index;
	int status;
	bool is_decided; /* effect done */
};

void sim_cache_clear(struct sim_disk *disk);
/* One block as a completed write leaves it (D1); disk->order is the write's. */
void sim_medium_put(struct sim_disk *disk, uint64_t block_index, struct sim_block *block,
		    bool is_durable);
/* Makes durable what was cached at or before order (D2). */
void sim_medium_flush(struct sim_disk *disk, uint64_t order);
/* What a failed flush covered is durable or will never be: a later flush does not try again. */
void sim_medium_flush_failed(struct sim_disk *disk, uint64_t order);
/* How likely a block survives this crash or error, in millionths: some keep nearly all, some nearly
 * nothing, some a coin toss per block. */
uint32_t sim_medium_survival(struct sim_disk *disk);
/* The subset of cached and in-flight blocks that a power cut leaves. */
void sim_medium_power_cut(struct sim_disk *disk);

#endif
