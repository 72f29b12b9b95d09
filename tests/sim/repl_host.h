/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes of a simulated cluster, over the fake store (tests/sim/store_fake.h) or, with
 * SIM_REAL_STORE defined, over the real one on simulated disks that lose at a power cut what was
 * not durable.
 *
 * A host is created with the list of the volumes that it has a replica of. It can be killed,
 * stopped cleanly and started again at any time; a kill during either is fine.
 */
#ifndef HF_TESTS_SIM_REPL_HOST_H
#define HF_TESTS_SIM_REPL_HOST_H

#include "replication/node.h"
#include "tests/sim/repl_history.h"
#include "tests/sim/sim_net.h"
#ifdef SIM_REAL_STORE
#include <errno.h>

#include "base/co.h"
#include "tests/sim/sim_disk.h"
#else
#include "tests/sim/store_fake.h"
#endif

#define HOST_REPLICAS_MAX 4

struct host {
	struct sim *sim;
	struct sim_rng *rng;
	struct sim_process *process;
	struct store *store;
	struct node *node;
	struct uuid uuid;
	char address[64];
	bool is_up, is_stopping;
	struct store_replica_spec specs[HOST_REPLICAS_MAX];
	uint32_t replica_count;
#ifdef SIM_REAL_STORE
	struct store *opening;
	struct co *opener;
	bool is_formatted;
	uint32_t created;
	struct store_create creates[HOST_REPLICAS_MAX];
	struct store_op checkpoint;
	bool is_checkpointing;
#else
	struct fake_device device;
#endif
};

static void host_serve(struct host *h)
{
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.node_uuid = h->uuid;
	config.listen = h->address;
	snprintf(config.name, sizeof(config.name), "%s", sim_process_name(h->process));
	struct err err;
	repl_must(node_create(sim_process_env(h->process), &config, &h->node, &err) == 0,
		  "no node");
	repl_must(node_add_store(h->node, h->store, &err) == 0, "no store");
}

#ifdef SIM_REAL_STORE
static void host_path(const struct host *h, char path[32])
{
	snprintf(path, 32, "/disk/%u", h->uuid.bytes[0]);
}

static void replica_created(struct store_op *op, int status)
{
	(void)op;
	repl_must(status == 0, "no replica");
}

static void host_format(struct co *co, struct host *h, const char *path)
{
	const struct store_params params = {.uuid = h->uuid};
	struct err err = {0};
	int rc = store_format(co, sim_process_env(h->process), path, &params, &err);
	repl_must(rc == 0, err_text(&err));
}

static void host_open(struct co *co, void *arg)
{
	struct host *h = arg;
	struct env *env = sim_process_env(h->process);
	struct err err = {0};
	char path[32];
	host_path(h, path);
	if (!h->is_formatted)
		host_format(co, h, path);
	struct store_config config;
	store_config_default(&config);
	config.opening = &h->opening;
	struct store *store = NULL;
	int rc = store_open(co, env, path, &config, &store, &err);
	repl_must(rc == 0, err_text(&err));
	h->opening = NULL;
	h->store = store;
	if (!h->is_formatted) {
		for (uint32_t i = 0; i < h->replica_count; i++) {
			h->creates[i] = (struct store_create){.op.done = replica_created,
							      .spec = h->specs[i]};
			store_replica_create(h->store, &h->creates[i]);
		}
		co_sleep(co, 200 * SIM_MS);
		h->is_formatted = true;
	}
	host_serve(h);
}

static void host_start(struct host *h)
{
	h->opener = co_create(sim_process_env(h->process), 256 * 1024);
	h->is_up = true;
	co_start(h->opener, host_open, h);
}

static void host_store_gone(struct host *h)
{
	co_destroy(h->opener);
	h->opener = NULL;
	if (h->store != NULL || h->opening != NULL)
		store_discard(h->store != NULL ? h->store : h->opening);
	h->opening = NULL;
	h->is_checkpointing = false;
}

static bool host_can_be_killed(const struct host *h)
{
	return h->is_up && h->is_formatted;
}

static void checkpointed(struct store_op *op, int status)
{
	(void)status;
	CONTAINER_OF(op, struct host, checkpoint)->is_checkpointing = false;
}

__attribute__((unused)) static void host_checkpoint(struct host *h)
{
	if (h->store == NULL || h->is_checkpointing)
		return;
	h->is_checkpointing = true;
	h->checkpoint = (struct store_op){.done = checkpointed};
	store_checkpoint(h->store, &h->checkpoint);
}

static void host_medium_create(struct host *h)
{
	char path[32];
	host_path(h, path);
	repl_must(sim_disk_create(h->sim, path, STORE_SIZE_MIN_BYTES, &sim_disk_profile_default) !=
			  NULL,
		  "no disk");
}

static void host_medium_free(struct host *h)
{
	host_store_gone(h);
}
#else
static void host_start(struct host *h)
{
	h->store = fake_open(sim_process_env(h->process), &h->device);
	h->is_up = true;
	host_serve(h);
}

static void host_store_gone(struct host *h)
{
	fake_crash(h->store);
}

static bool host_can_be_killed(const struct host *h)
{
	return h->is_up;
}

__attribute__((unused)) static void host_checkpoint(struct host *h)
{
	for (uint32_t i = 0; i < h->replica_count; i++)
		fold_to(&h->device.replicas[i],
			MAX(h->device.replicas[i].commit_seq, h->device.replicas[i].log.base_seq));
}

static void host_medium_create(struct host *h)
{
	h->device.uuid = h->uuid;
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++)
		h->device.replicas[i].device = &h->device;
	for (uint32_t i = 0; i < h->replica_count; i++) {
		h->device.replicas[i].used = true;
		h->device.replicas[i].spec = h->specs[i];
	}
}

static void host_medium_free(struct host *h)
{
	fake_crash(h->store);
	fake_free(&h->device);
}
#endif

static void host_gone(struct host *h, enum sim_kill how)
{
	sim_process_kill(h->process, how);
	host_store_gone(h);
	node_destroy(h->node);
	h->store = NULL;
	h->node = NULL;
	h->is_up = h->is_stopping = false;
}

__attribute__((unused)) static void host_kill(struct host *h)
{
	static const enum sim_kill hows[] = {SIM_KILL_PROCESS, SIM_KILL_SILENT, SIM_KILL_POWER};
	if (host_can_be_killed(h))
		host_gone(h, hows[sim_rng_below(h->rng, 3)]);
}

static void host_stopped_fire(void *ctx)
{
	struct host *h = ctx;
	if (h->is_stopping)
		host_gone(h, SIM_KILL_PROCESS);
}

static void host_stopped(void *ctx)
{
	struct host *h = ctx;
	sim_call_after(h->sim, 0, host_stopped_fire, h);
}

/* Cleanly: the process is gone some time later. */
__attribute__((unused)) static void host_stop(struct host *h)
{
	if (!host_can_be_killed(h) || h->node == NULL || h->is_stopping)
		return;
	h->is_stopping = true;
	node_shutdown(h->node, host_stopped, h);
}

static void host_restart(struct host *h)
{
	if (h->is_stopping)
		host_gone(h, SIM_KILL_PROCESS);
	if (h->is_up)
		return;
	sim_process_restart(h->process);
	host_start(h);
}

#endif
