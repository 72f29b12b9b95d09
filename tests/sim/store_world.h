/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One store on one simulated machine, with calls that run the world until they are done. For tests
 * of the store; one world is one life of the store on one disk image.
 */
#ifndef HF_TESTS_SIM_STORE_WORLD_H
#define HF_TESTS_SIM_STORE_WORLD_H

#include "base/co.h"
#include "store/store.h"
#include "tests/sim/sim_disk.h"

#define STORE_WORLD_PATH       "/store"
#define STORE_WORLD_BYTES      STORE_SIZE_MIN_BYTES
#define STORE_WORLD_RING_BYTES (2ull << 20)

struct store_world {
	struct sim *sim;
	struct sim_process *process;
	struct env *env;
	struct sim_disk *disk;
	struct co *co;
	struct store *store; /* NULL while closed */
	struct store *opening;
	struct store_config config;
	struct err err;   /* of the last call that failed */
	char report[512]; /* first findings of a check */
	uint64_t findings;
	int failed_status; /* the store said that it failed; 0: not */
	/* the job at hand */
	int status;
	bool is_done;
	bool is_deep;
};

/* A machine with a disk of these contents (a clone is taken); NULL: an empty one. Owned by the
 * caller until store_world_destroy(). */
struct store_world *store_world_create(uint64_t seed, struct sim_image *image);
/* Whatever state it is in: kills the process and discards the store. NULL is fine. */
void store_world_destroy(struct store_world *world);
/* 0 or -errno with world->err; -ETIMEDOUT when the job did not end within a simulated hour. */
int store_world_format(struct store_world *world);
int store_world_open(struct store_world *world);
/* Clean. */
int store_world_close(struct store_world *world);
/* Kills the process, drops the store; the disk stays and can be opened again. */
void store_world_crash(struct store_world *world, enum sim_kill how);
/* The store must be closed. 0, or -EUCLEAN with world->report. */
int store_world_check(struct store_world *world, bool is_deep);
/* Runs until the disk is idle for a while (seals written, background work done). */
void store_world_settle(struct store_world *world);

/* Operations that run to their end; each returns its status (-ETIMEDOUT when it has none). */
int store_world_read(struct store_world *world, struct store_replica *replica,
		     struct store_read *read);
int store_world_create_replica(struct store_world *world, const struct store_replica_spec *spec,
			       struct store_replica **ret);
int store_world_append(struct store_world *world, struct store_replica *replica,
		       struct store_append *append);
int store_world_promise(struct store_world *world, struct store_replica *replica, uint64_t epoch);
int store_world_adopt(struct store_world *world, struct store_replica *replica,
		      struct store_adopt *adopt);
int store_world_checkpoint(struct store_world *world);

#endif
