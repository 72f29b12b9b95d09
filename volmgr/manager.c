/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The role manager: owns the metadata, decides where volumes live, answers the admin service.
 *
 * M1  One thread, one loop; no handler blocks. Metadata commits block the loop for the time of an
 *     fdatasync (meta.h); the data path never comes here.
 * M2  The cluster's uuid is made once, by a compare-and-swap, and bound to this manager's
 *     directory: metadata that is empty or of another cluster is refused, not adopted.
 * M3  The records are the truth. Everything else in memory is what nodes and gateways said lately,
 *     and a cache; a manager that was killed at any point loses nothing but that, and finishes
 *     what the records say was begun (manager_job.c).
 * M4  With the manager away, volumes that are attached go on.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"

#define CLUSTER_KEY "/cluster"
#define TICK_NS     250000000ull
#define DRAIN_MS    3000

static const struct config_option manager_option_list[] = {
	DAEMON_OPTIONS("manager"),
	{.name = "listen",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct manager_options, listen),
	 .max = 107,
	 .metavar = "ADDRESS",
	 .help = "A second address for the admin service, loopback only: tcp:127.0.0.1:PORT"},
};
static int manager_options_check(const void *config, struct err *err)
{
	const struct manager_options *options = config;
	int rc = daemon_options_check(&options->daemon, err);
	return rc == 0 ? daemon_listen_check("listen", options->listen, false, err) : rc;
}

static const struct config_table manager_table = {
	.usage = "holdfastd manager [FLAGS]",
	.options = manager_option_list,
	.option_count = ARRAY_LEN(manager_option_list),
	.check = manager_options_check,
};

/* ---- the cluster's identity ---- */

struct cluster_txn {
	struct meta_txn txn;
	struct meta_compare compare;
	struct meta_do put, get;
	char text[128];
	struct uuid uuid; /* out */
	int status;
	bool is_over;
};

static int cluster_parse(const struct meta_kv *kv, struct uuid *ret)
{
	char text[128], uuid[40] = "";
	if (kv->key == NULL || kv->value_bytes >= sizeof(text))
		return -EBADMSG;
	memcpy(text, kv->value, kv->value_bytes);
	text[kv->value_bytes] = '\0';
	if (sscanf(text, "{\"version\":1,\"kind\":\"cluster\",\"uuid\":\"%36[0-9a-f-]\"}", uuid) !=
		    1 ||
	    uuid_parse(uuid, ret) < 0)
		return -EBADMSG;
	return 0;
}

static void cluster_done(struct meta_txn *txn, int status)
{
	struct cluster_txn *ct = CONTAINER_OF(txn, struct cluster_txn, txn);
	ct->status = status;
	if (status == 0 && !txn->succeeded)
		ct->status = cluster_parse(&txn->results[0], &ct->uuid);
	ct->is_over = true;
}

/* Reads the cluster's uuid, or makes it when `fresh` is not NULL. */
static int cluster_ask(struct manager *m, const struct uuid *fresh, struct uuid *ret)
{
	struct cluster_txn ct = {.compare = meta_if_absent(CLUSTER_KEY),
				 .get = meta_do_get(CLUSTER_KEY)};
	char uuid[UUID_TEXT_BYTES];
	ct.txn = (struct meta_txn){.compares = &ct.compare,
				   .compare_count = 1,
				   .failure = &ct.get,
				   .failure_count = 1,
				   .done = cluster_done};
	if (fresh != NULL) {
		ct.uuid = *fresh;
		uuid_format(fresh, uuid);
		int length = snprintf(ct.text, sizeof(ct.text),
				      "{\"version\":1,\"kind\":\"cluster\",\"uuid\":\"%s\"}", uuid);
		ct.put = meta_do_put(CLUSTER_KEY, ct.text, (size_t)length, 0);
		ct.txn.success = &ct.put;
		ct.txn.success_count = 1;
	}
	meta_txn(m->meta, &ct.txn);
	loop_run_until(m->daemon->loop, &ct.is_over, 0);
	if (ct.status == 0)
		*ret = ct.uuid; /* zero: there is none */
	return ct.status;
}

static int cluster_open(struct manager *m, struct err *err)
{
	struct uuid uuid, fresh;
	char own[UUID_TEXT_BYTES];
	int rc = cluster_ask(m, NULL, &uuid);
	bool is_empty = rc == 0 && uuid_is_zero(&uuid);
	if (is_empty && !uuid_is_zero(&m->daemon->cluster_uuid)) {
		uuid_format(&m->daemon->cluster_uuid, own);
		return err_set(
			err, -ENODATA,
			"the metadata is empty, but this manager belongs to cluster %s: bring "
			"its metadata directory back",
			own);
	}
	if (is_empty) {
		env_random_uuid(m->env, &fresh);
		rc = cluster_ask(m, &fresh, &uuid);
	}
	if (rc < 0)
		return err_set(err, rc, "reading the cluster's record: %s", strerror(-rc));
	rc = daemon_cluster_set(m->daemon, &uuid, err);
	return rc < 0 ? err_wrap(err, rc, "the metadata is of another cluster") : 0;
}

/* ---- the tick ---- */

static void metrics_update(struct manager *m);

static void tick(struct env_timer *timer)
{
	struct manager *m = CONTAINER_OF(timer, struct manager, tick);
	if (m->is_stopping)
		return;
	manager_nodes_check(m);
	manager_jobs_check(m);
	manager_orphans_check(m);
	metrics_update(m);
	env_timer_after(m->env, &m->tick, TICK_NS);
}

/* ---- metrics ---- */

static const struct metric_desc manager_descs[] = {
	{"holdfast_manager_volumes", "Volumes on record", METRIC_GAUGE, false},
	{"holdfast_manager_nodes", "Nodes on record", METRIC_GAUGE, false},
	{"holdfast_manager_nodes_online", "Nodes that send heartbeats", METRIC_GAUGE, false},
	{"holdfast_manager_gateways_online", "Gateways that send heartbeats", METRIC_GAUGE, false},
	{"holdfast_manager_jobs", "Admin operations under way", METRIC_GAUGE, false},
	{"holdfast_manager_events_total", "Events given to the journal", METRIC_COUNTER, false},
};

static int metrics_register(struct manager *m, struct err *err)
{
	static_assert(ARRAY_LEN(manager_descs) == ARRAY_LEN(m->metrics), "one metric each");
	for (size_t i = 0; i < ARRAY_LEN(manager_descs); i++) {
		int rc = metric_add(m->daemon->metrics, &m->metrics[i], &manager_descs[i], NULL, 0);
		if (rc < 0)
			return err_set(err, rc, "metrics: %s", strerror(-rc));
	}
	return 0;
}

static void metrics_update(struct manager *m)
{
	int64_t nodes_online = 0, gateways_online = 0;
	list_for_each (n, &m->nodes)
		nodes_online += CONTAINER_OF(n, struct manager_node, link)->record.online;
	list_for_each (n, &m->gateways)
		gateways_online += CONTAINER_OF(n, struct manager_gateway, link)->online;
	metric_set(&m->metrics[0], m->volume_count);
	metric_set(&m->metrics[1], m->node_count);
	metric_set(&m->metrics[2], nodes_online);
	metric_set(&m->metrics[3], gateways_online);
	metric_set(&m->metrics[4], m->job_count);
	metric_set(&m->metrics[5], (int64_t)m->event_seq);
}

/* ---- the services ---- */

static const struct rpc_method manager_methods[] = {
	{"Status", manager_status, 0},
	{"NodeList", manager_node_list, 0},
	{"VolumeCreate", manager_volume_create, 0},
	{"VolumeList", manager_volume_list, 0},
	{"VolumeGet", manager_volume_get, 0},
	{"VolumeDelete", manager_volume_delete, 0},
	{"VolumeResize", manager_volume_resize, 0},
	{"VolumeExport", manager_volume_export, 0},
	{"VolumeUnexport", manager_volume_unexport, 0},
	{"ReplicaList", manager_replica_list, 0},
	{"ReplicaRepair", manager_replica_repair, RPC_METHOD_STREAM},
	{"ReplicaVerify", manager_replica_verify, RPC_METHOD_STREAM},
	{"Events", manager_events, 0},
	{"HeartbeatNode", manager_heartbeat_node, 0},
	{"HeartbeatGateway", manager_heartbeat_gateway, 0},
	{0},
};

static int services_open(struct manager *m, struct err *err)
{
	const char *addresses[2] = {m->daemon->admin_address, m->options->listen};
	bool has_second = m->options->listen != NULL && m->options->listen[0] != '\0';
	const struct rpc_server_config config = {.addresses = addresses,
						 .address_count = has_second ? 2 : 1,
						 .loop = m->daemon->loop};
	struct daemon_wait wait = {0};
	int rc;
	do
		rc = rpc_server_create(&config, &m->server, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	if (rc == 0)
		rc = rpc_server_register(m->server, &holdfast__v1__manager__descriptor,
					 manager_methods, m, err);
	if (rc == 0)
		rc = rpc_server_register(m->server, &holdfast__v1__meta__descriptor,
					 manager_meta_methods, m, err);
	return rc == 0 ? rpc_server_start(m->server, err) : rc;
}

/* ---- start and end ---- */

static int parts_open(struct manager *m, struct err *err)
{
	char path[DAEMON_PATH_BYTES];
	const struct meta_lmdb_config lmdb = {.path = daemon_path(m->daemon, "meta", path)};
	struct daemon_wait wait = {0};
	int rc;
	do
		rc = meta_lmdb_open(m->env, &lmdb, &m->meta, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	if (rc == 0)
		rc = cluster_open(m, err);
	if (rc < 0)
		return rc;
	struct peers_config peers;
	peers_config_default(&peers);
	peers.cluster_uuid = m->daemon->cluster_uuid;
	peers.sender_uuid = m->daemon->uuid;
	memcpy(peers.name, m->daemon->name, sizeof(peers.name));
	peers.boot_id = m->daemon->boot_id;
	peers.control = true;
	m->peers = peers_create(m->env, &peers);
	m->lifecycle = lifecycle_create(m->env, m->meta, &manager_lifecycle_ops, m);
	if (m->peers == NULL || m->lifecycle == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	rc = manager_load(m, err);
	if (rc == 0)
		rc = metrics_register(m, err);
	return rc == 0 ? services_open(m, err) : rc;
}

static void stop_meta_done(struct meta_close *close)
{
	struct manager *m = CONTAINER_OF(close, struct manager, meta_close);
	daemon_stopped(m->daemon);
}

static void stop_peers_done(void *ctx)
{
	struct manager *m = ctx;
	m->meta_close.done = stop_meta_done;
	meta_close(m->meta, &m->meta_close);
}

static void stop_admin_done(struct rpc_stop *stop)
{
	struct manager *m = CONTAINER_OF(stop, struct manager, rpc_stop);
	env_timer_cancel(m->env, &m->tick);
	meta_watch_stop(&m->volume_watch);
	meta_watch_stop(&m->export_watch);
	peers_shutdown(m->peers, stop_peers_done, m);
}

/* Jobs that nobody waits for may still run; what they leave is on record (M3). */
static void manager_stop(void *ctx)
{
	struct manager *m = ctx;
	m->is_stopping = true;
	m->rpc_stop = (struct rpc_stop){.loop = m->daemon->loop, .done = stop_admin_done};
	if (rpc_server_stop_start(m->server, DRAIN_MS, &m->rpc_stop) < 0)
		stop_admin_done(&m->rpc_stop);
}

static void manager_free(struct manager *m)
{
	rpc_server_destroy(m->server);
	for (size_t i = 0; i < ARRAY_LEN(m->metrics); i++)
		metric_remove(&m->metrics[i]);
	manager_nodes_free(m);
	manager_cache_free(m);
	peers_destroy(m->peers);
	lifecycle_destroy(m->lifecycle);
	for (uint32_t i = 0; i < MANAGER_EVENTS_BATCH; i++)
		free(m->event_texts[i]);
	free(m);
}

static int manager_run(struct daemon *daemon, const void *options, struct err *err)
{
	struct manager *m = calloc(1, sizeof(*m));
	if (m == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	m->daemon = daemon;
	m->options = options;
	m->env = daemon->env;
	list_init(&m->volumes);
	list_init(&m->nodes);
	list_init(&m->gateways);
	list_init(&m->jobs);
	list_init(&m->orphans);
	int rc = parts_open(m, err);
	if (rc < 0)
		return rc; /* the process ends */
	m->tick.fire = tick;
	env_timer_after(m->env, &m->tick, TICK_NS);
	daemon_ready(daemon);
	daemon_run(daemon, manager_stop, m);
	rc = m->failure;
	if (rc < 0)
		return err_set(err, rc, "the metadata store failed: %s", strerror(-rc));
	if (!list_empty(&m->jobs))
		_exit(DAEMON_EXIT_OK); /* their timers and requests are still on the loop */
	manager_free(m);
	return 0;
}

const struct role manager_role = {
	.name = "manager",
	.table = &manager_table,
	.options_bytes = sizeof(struct manager_options),
	.run = manager_run,
};
