/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is there: nodes and gateways register by their first heartbeat and are online while they keep
 * sending them.
 *
 * H1  A name belongs to the uuid that registered it first; another process under the same name is
 *     refused and changes nothing.
 * H2  A process of another cluster is refused, so that it never gets work of this one.
 * H3  A node's record is written when something in it changed that matters (not for each
 *     heartbeat), from the newest state, one write at a time.
 * H4  Gateways are known in memory only: a new manager learns them within one heartbeat, and what
 *     they should serve is in the volumes' records.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

ProtobufCMessage *message_copy(const ProtobufCMessage *message)
{
	size_t bytes = protobuf_c_message_get_packed_size(message);
	uint8_t *packed = malloc(MAX(bytes, (size_t)1));
	if (packed == NULL)
		return NULL;
	protobuf_c_message_pack(message, packed);
	ProtobufCMessage *copy =
		protobuf_c_message_unpack(message->descriptor, NULL, bytes, packed);
	free(packed);
	return copy;
}

void call_fail(struct rpc_call *call, const struct err *err)
{
	rpc_call_fail_err(call, err);
}

struct manager_node *manager_node_find(struct manager *m, const char *name)
{
	list_for_each (n, &m->nodes) {
		struct manager_node *node = CONTAINER_OF(n, struct manager_node, link);
		if (strcmp(node->record.name, name) == 0)
			return node;
	}
	return NULL;
}

struct manager_node *manager_node_add(struct manager *m, const struct node_record *record)
{
	struct manager_node *node = calloc(1, sizeof(*node));
	if (node == NULL)
		return NULL;
	node->record = *record;
	node->manager = m;
	struct list *at = m->nodes.next;
	while (at != &m->nodes &&
	       strcmp(CONTAINER_OF(at, struct manager_node, link)->record.name, record->name) < 0)
		at = at->next;
	list_push_back(at, &node->link);
	m->node_count++;
	return node;
}

struct manager_gateway *manager_gateway_find(struct manager *m, const char *name)
{
	list_for_each (n, &m->gateways) {
		struct manager_gateway *gateway = CONTAINER_OF(n, struct manager_gateway, link);
		if (strcmp(gateway->name, name) == 0)
			return gateway;
	}
	return NULL;
}

struct manager_gateway *manager_gateway_any(struct manager *m)
{
	struct manager_gateway *best = NULL;
	list_for_each (n, &m->gateways) {
		struct manager_gateway *gateway = CONTAINER_OF(n, struct manager_gateway, link);
		if (gateway->online && (best == NULL || strcmp(gateway->name, best->name) < 0))
			best = gateway;
	}
	return best;
}

/* ---- saving a node's record ---- */

static void node_save(struct manager_node *node);

static void node_saved(struct meta_txn *txn, int status)
{
	struct manager_node *node = CONTAINER_OF(txn, struct manager_node, txn);
	free(node->saving_text);
	node->saving_text = NULL;
	node->is_saving = false;
	if (status < 0)
		log_event(LOG_WARN, "manager", "node_not_saved", "node=%s error=%s",
			  node->record.name, err_name(status));
	if (node->must_save && !node->manager->is_stopping)
		node_save(node);
}

static void node_save(struct manager_node *node)
{
	struct err err = {0};
	node->must_save = true;
	if (node->is_saving)
		return;
	node->must_save = false;
	if (node_record_encode(&node->record, &node->saving_text, &err) < 0) {
		log_event(LOG_ERROR, "manager", "node_not_saved", "node=%s error=%s",
			  node->record.name, LOG_Q(err_text(&err)));
		return;
	}
	node->is_saving = true;
	node_key(node->record.name, node->key);
	node->change = meta_do_put(node->key, node->saving_text, strlen(node->saving_text), 0);
	node->txn =
		(struct meta_txn){.success = &node->change, .success_count = 1, .done = node_saved};
	meta_txn(node->manager->meta, &node->txn);
}

/* ---- heartbeats of nodes ---- */

static int field_copy(char *to, size_t to_bytes, const char *field, const char *from,
		      struct err *err)
{
	if (strlen(from) >= to_bytes)
		return err_set(err, -EINVAL, "%s '%.40s...': longer than %zu bytes", field, from,
			       to_bytes - 1);
	snprintf(to, to_bytes, "%s", from);
	return 0;
}

static int cluster_check(struct manager *m, const char *name, const char *cluster, struct err *err)
{
	char own[UUID_TEXT_BYTES];
	uuid_format(&m->daemon->cluster_uuid, own);
	if (cluster[0] == '\0' || strcmp(cluster, own) == 0)
		return 0;
	return err_set(err, -EBUSY, "'%s' belongs to cluster %.40s; this is cluster %s", name,
		       cluster, own);
}

static int stores_read(struct node_record *record, const Holdfast__V1__NodeInfo *info,
		       struct err *err)
{
	if (info->n_stores > NODE_STORES_MAX)
		return err_set(err, -EINVAL, "stores: %zu, at most %d", info->n_stores,
			       NODE_STORES_MAX);
	for (size_t i = 0; i < info->n_stores; i++) {
		const Holdfast__V1__StoreInfo *in = info->stores[i];
		struct record_store *store = &record->stores[record->store_count];
		if (in->uuid[0] == '\0')
			continue; /* could not be opened: nobody knows which it is */
		*store = (struct record_store){
			.capacity_bytes = in->capacity_bytes,
			.used_bytes = MIN(in->used_bytes, in->capacity_bytes),
			.state = strcmp(in->state, "ok") == 0 ? STORE_OK : STORE_FAILED,
		};
		if (uuid_parse(in->uuid, &store->uuid) < 0 || uuid_is_zero(&store->uuid))
			return err_set(err, -EINVAL, "stores[%zu].uuid '%.40s' is no uuid", i,
				       in->uuid);
		if (in->type[0] != '\0' && !label_is_valid(in->type))
			return err_set(err, -EINVAL, "stores[%zu].type '%.40s' is no label", i,
				       in->type);
		store->label_count = in->type[0] != '\0';
		if (store->label_count > 0) {
			snprintf(store->labels[0].key, sizeof(store->labels[0].key), "type");
			snprintf(store->labels[0].value, LABEL_BYTES, "%s", in->type);
		}
		record->store_count++;
	}
	return 0;
}

/* The record that the heartbeat describes. */
static int node_read(const Holdfast__V1__NodeInfo *info, struct node_record *record,
		     struct err *err)
{
	*record = (struct node_record){.online = true};
	int rc = name_check("node name", info->name, err);
	if (rc == 0)
		rc = field_copy(record->name, sizeof(record->name), "name", info->name, err);
	if (rc == 0 && (uuid_parse(info->uuid, &record->uuid) < 0 || uuid_is_zero(&record->uuid)))
		rc = err_set(err, -EINVAL, "uuid '%.40s' is no uuid", info->uuid);
	if (rc == 0)
		rc = field_copy(record->address, 108, "address", info->address, err);
	if (rc == 0)
		rc = field_copy(record->admin_address, sizeof(record->admin_address),
				"admin_address", info->admin_address, err);
	if (rc == 0)
		rc = field_copy(record->zone, sizeof(record->zone), "zone", info->zone, err);
	if (rc == 0)
		rc = field_copy(record->rack, sizeof(record->rack), "rack", info->rack, err);
	if (rc == 0)
		rc = field_copy(record->host, sizeof(record->host), "host", info->host, err);
	return rc == 0 ? stores_read(record, info, err) : rc;
}

/* Worth writing down: anything but what changes all the time. */
static bool node_differs(const struct node_record *a, const struct node_record *b)
{
	if (a->online != b->online || a->store_count != b->store_count ||
	    strcmp(a->address, b->address) != 0 || strcmp(a->zone, b->zone) != 0 ||
	    strcmp(a->admin_address, b->admin_address) != 0 || strcmp(a->rack, b->rack) != 0 ||
	    strcmp(a->host, b->host) != 0)
		return true;
	for (uint32_t i = 0; i < a->store_count; i++)
		if (!uuid_equal(&a->stores[i].uuid, &b->stores[i].uuid) ||
		    a->stores[i].state != b->stores[i].state ||
		    strcmp(store_label(&a->stores[i], "type"),
			   store_label(&b->stores[i], "type")) != 0 ||
		    a->stores[i].capacity_bytes != b->stores[i].capacity_bytes)
			return true;
	return false;
}

/* Somebody is back: what waited for it may be tried at once. */
static void resume_soon(struct manager *m)
{
	list_for_each (n, &m->volumes)
		CONTAINER_OF(n, struct manager_volume, link)->resume_after_ns = 0;
}

static void node_events(struct manager *m, const struct node_record *before,
			const struct node_record *now)
{
	char object[96];
	snprintf(object, sizeof(object), "node/%s", now->name);
	if (!before->online)
		resume_soon(m);
	if (!before->online)
		manager_event(m, EVENT_INFO, object, "NodeOnline", "serves on %.150s",
			      now->address);
	for (uint32_t i = 0; i < now->store_count; i++) {
		bool was_ok = i >= before->store_count || before->stores[i].state == STORE_OK;
		char uuid[UUID_TEXT_BYTES];
		uuid_format(&now->stores[i].uuid, uuid);
		if (was_ok && now->stores[i].state == STORE_FAILED)
			manager_event(m, EVENT_ERROR, object, "StoreFailed", "store %s", uuid);
		if (!was_ok && now->stores[i].state == STORE_OK)
			manager_event(m, EVENT_INFO, object, "StoreBack", "store %s", uuid);
	}
}

static int node_admit(struct manager *m, const struct node_record *record,
		      struct manager_node **ret, struct err *err)
{
	struct manager_node *node = manager_node_find(m, record->name);
	if (node != NULL && !uuid_equal(&node->record.uuid, &record->uuid)) {
		char text[UUID_TEXT_BYTES];
		uuid_format(&node->record.uuid, text);
		return err_set(err, -EEXIST, "node '%s' is registered with uuid %s", record->name,
			       text);
	}
	if (node == NULL && m->node_count == MANAGER_NODES_MAX)
		return err_set(err, -ENOSPC, "node '%s': there are %d nodes, which is the limit",
			       record->name, MANAGER_NODES_MAX);
	if (node == NULL) {
		struct node_record fresh = *record;
		fresh.online = false;
		node = manager_node_add(m, &fresh);
	}
	if (node == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	*ret = node;
	return 0;
}

static int node_take(struct manager *m, const Holdfast__V1__NodeHeartbeat *beat, struct err *err)
{
	struct node_record record;
	struct manager_node *node = NULL;
	if (beat->node == NULL)
		return err_set(err, -EINVAL, "node: missing");
	int rc = node_read(beat->node, &record, err);
	if (rc == 0)
		rc = cluster_check(m, record.name, beat->cluster_uuid, err);
	if (rc == 0)
		rc = node_admit(m, &record, &node, err);
	ProtobufCMessage *copy = rc == 0 ? message_copy(&beat->base) : NULL;
	if (rc == 0 && copy == NULL)
		rc = err_set(err, -ENOMEM, "out of memory");
	if (rc < 0)
		return rc;
	record.cordoned = node->record.cordoned;
	record.last_seen_ms = env_wall_ms(m->env);
	bool differs = node_differs(&node->record, &record);
	node_events(m, &node->record, &record);
	node->record = record;
	node->seen_ns = env_now_ns(m->env);
	rpc_message_free((ProtobufCMessage *)node->report);
	node->report = (Holdfast__V1__NodeHeartbeat *)copy;
	node->peer = peers_get(m->peers, &record.uuid, record.address);
	if (differs)
		node_save(node);
	manager_orphans_note(m, node);
	return 0;
}

static char *cluster_text(struct manager *m, struct arena *arena)
{
	return arena_uuid(arena, &m->daemon->cluster_uuid);
}

void manager_heartbeat_node(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct err err = {0};
	struct arena arena = {0};
	int rc = node_take(m, (const Holdfast__V1__NodeHeartbeat *)rpc_call_request(call), &err);
	if (rc < 0) {
		call_fail(call, &err);
		return;
	}
	Holdfast__V1__NodeHeartbeatReply *reply =
		ARENA_MESSAGE(&arena, NodeHeartbeatReply, node_heartbeat_reply);
	reply->interval_ms = BEAT_INTERVAL_MS;
	reply->cluster_uuid = cluster_text(m, &arena);
	(void)rpc_call_reply(call, &reply->base);
	arena_free(&arena);
}

/* ---- heartbeats of gateways ---- */

static int gateway_client(struct manager_gateway *gateway, const char *address, struct err *err)
{
	if (gateway->client != NULL && strcmp(gateway->admin_address, address) == 0)
		return 0;
	if (gateway->users > 0)
		return 0; /* calls are under way at the old one: with a later heartbeat */
	const struct rpc_client_config config = {.address = address};
	struct rpc_client *client = NULL;
	int rc = field_copy(gateway->admin_address, sizeof(gateway->admin_address), "admin_address",
			    address, err);
	if (rc == 0)
		rc = rpc_client_create(&config, &client, err);
	if (rc < 0)
		return rc;
	rpc_client_destroy(gateway->client);
	gateway->client = client;
	return 0;
}

static int gateway_admit(struct manager *m, const Holdfast__V1__GatewayHeartbeat *beat,
			 struct manager_gateway **ret, struct err *err)
{
	struct uuid uuid;
	const char *name = beat->gateway != NULL ? beat->gateway->name : "";
	int rc = name_check("gateway name", name, err);
	if (rc == 0)
		rc = cluster_check(m, name, beat->cluster_uuid, err);
	if (rc == 0 && uuid_parse(beat->uuid, &uuid) < 0)
		rc = err_set(err, -EINVAL, "uuid '%.40s' is no uuid", beat->uuid);
	if (rc < 0)
		return rc;
	struct manager_gateway *gateway = manager_gateway_find(m, name);
	if (gateway != NULL && gateway->online && strcmp(gateway->uuid, beat->uuid) != 0)
		return err_set(err, -EEXIST, "gateway '%s' is registered with uuid %s", name,
			       gateway->uuid);
	if (gateway == NULL && m->gateway_count == MANAGER_GATEWAYS_MAX)
		return err_set(err, -ENOSPC,
			       "gateway '%s': there are %d gateways, which is the limit", name,
			       MANAGER_GATEWAYS_MAX);
	if (gateway == NULL) {
		gateway = calloc(1, sizeof(*gateway));
		if (gateway == NULL)
			return err_set(err, -ENOMEM, "out of memory");
		snprintf(gateway->name, sizeof(gateway->name), "%s", name);
		list_push_back(&m->gateways, &gateway->link);
		m->gateway_count++;
	}
	memcpy(gateway->uuid, beat->uuid, sizeof(gateway->uuid));
	*ret = gateway;
	return 0;
}

static enum event_level level_of(const char *text)
{
	return strcmp(text, "error") == 0  ? EVENT_ERROR
	       : strcmp(text, "warn") == 0 ? EVENT_WARN
					   : EVENT_INFO;
}

/* What it says about its volumes and what it wants journaled. */
static void gateway_report(struct manager *m, struct manager_gateway *gateway,
			   const Holdfast__V1__GatewayHeartbeat *beat)
{
	for (size_t i = 0; i < beat->n_events; i++) {
		const Holdfast__V1__Event *event = beat->events[i];
		manager_event(m, level_of(event->level), event->object, event->kind, "%s",
			      event->text);
	}
	for (size_t i = 0; i < beat->n_volumes; i++) {
		struct manager_volume *volume = manager_volume_find(m, beat->volumes[i]->name);
		if (volume == NULL || strcmp(volume->record.target_node, gateway->name) != 0)
			continue; /* late news about what it has no more */
		ProtobufCMessage *copy = message_copy(&beat->volumes[i]->base);
		if (copy == NULL)
			continue;
		rpc_message_free((ProtobufCMessage *)volume->report);
		volume->report = (Holdfast__V1__VolumeInfo *)copy;
		memcpy(volume->report_gateway, gateway->name, NAME_BYTES);
	}
}

static int gateway_take(struct manager *m, const Holdfast__V1__GatewayHeartbeat *beat,
			struct manager_gateway **ret, struct err *err)
{
	struct manager_gateway *gateway = NULL;
	int rc = gateway_admit(m, beat, &gateway, err);
	if (rc == 0)
		rc = gateway_client(gateway, beat->gateway->admin_address, err);
	ProtobufCMessage *copy = rc == 0 ? message_copy(&beat->base) : NULL;
	if (rc == 0 && copy == NULL)
		rc = err_set(err, -ENOMEM, "out of memory");
	if (rc < 0)
		return rc;
	char object[96];
	snprintf(object, sizeof(object), "gateway/%s", gateway->name);
	if (!gateway->online)
		manager_event(m, EVENT_INFO, object, "GatewayOnline", "serves on %.150s",
			      beat->nbd_address);
	else if (gateway->report->boot_id != beat->boot_id)
		manager_event(m, EVENT_WARN, object, "GatewayRestarted", "pid %ld",
			      (long)beat->gateway->pid);
	if (!gateway->online)
		resume_soon(m);
	rpc_message_free((ProtobufCMessage *)gateway->report);
	gateway->report = (Holdfast__V1__GatewayHeartbeat *)copy;
	gateway->online = true;
	gateway->seen_ns = env_now_ns(m->env);
	gateway_report(m, gateway, beat);
	*ret = gateway;
	return 0;
}

static void reply_volume(const struct manager_volume *volume, struct arena *arena,
			 Holdfast__V1__GatewayHeartbeatReply *reply)
{
	const struct volume_record *record = &volume->record;
	Holdfast__V1__Attachment *attachment = ARENA_MESSAGE(arena, Attachment, attachment);
	attachment->volume = arena_copy(arena, record->name);
	attachment->intent_id = record->intent_id;
	reply->attachments[reply->n_attachments++] = attachment;
	if (record->state != VOLUME_BOUND || !volume->has_export)
		return;
	Holdfast__V1__ExportInfo *export = ARENA_MESSAGE(arena, ExportInfo, export_info);
	export->volume = attachment->volume;
	export->gateway = arena_copy(arena, volume->export.gateway);
	export->listen = arena_copy(arena, volume->export.address);
	export->read_only = volume->export.read_only;
	reply->exports[reply->n_exports++] = export;
}

static void reply_fill(struct manager *m, const struct manager_gateway *gateway,
		       struct arena *arena, Holdfast__V1__GatewayHeartbeatReply *reply)
{
	reply->interval_ms = BEAT_INTERVAL_MS;
	reply->cluster_uuid = cluster_text(m, arena);
	reply->exports = ARENA_ARRAY(arena, Holdfast__V1__ExportInfo *, m->volume_count);
	reply->attachments = ARENA_ARRAY(arena, Holdfast__V1__Attachment *, m->volume_count);
	list_for_each (n, &m->volumes) {
		const struct manager_volume *volume = CONTAINER_OF(n, struct manager_volume, link);
		enum volume_state state = volume->record.state;
		if ((state == VOLUME_BOUND || state == VOLUME_BINDING) &&
		    strcmp(volume->record.target_node, gateway->name) == 0)
			reply_volume(volume, arena, reply);
	}
	reply->nodes = ARENA_ARRAY(arena, Holdfast__V1__NodeInfo *, m->node_count);
	list_for_each (n, &m->nodes) {
		const struct manager_node *node = CONTAINER_OF(n, struct manager_node, link);
		Holdfast__V1__NodeInfo *info = ARENA_MESSAGE(arena, NodeInfo, node_info);
		info->name = arena_copy(arena, node->record.name);
		info->uuid = arena_uuid(arena, &node->record.uuid);
		info->address = arena_copy(arena, node->record.address);
		info->state = arena_copy(arena, node->record.online ? "online" : "offline");
		reply->nodes[reply->n_nodes++] = info;
	}
}

void manager_heartbeat_gateway(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct err err = {0};
	struct arena arena = {0};
	struct manager_gateway *gateway = NULL;
	if (gateway_take(m, (const Holdfast__V1__GatewayHeartbeat *)rpc_call_request(call),
			 &gateway, &err) < 0) {
		call_fail(call, &err);
		return;
	}
	Holdfast__V1__GatewayHeartbeatReply *reply =
		ARENA_MESSAGE(&arena, GatewayHeartbeatReply, gateway_heartbeat_reply);
	reply_fill(m, gateway, &arena, reply);
	(void)rpc_call_reply(call, &reply->base);
	arena_free(&arena);
}

/* ---- silence ---- */

void manager_gateway_silent(struct manager *m, struct manager_gateway *gateway, const char *why)
{
	char object[96];
	if (!gateway->online)
		return;
	gateway->online = false;
	snprintf(object, sizeof(object), "gateway/%s", gateway->name);
	manager_event(m, EVENT_WARN, object, "GatewayOffline", "%s", why);
}

void manager_nodes_check(struct manager *m)
{
	uint64_t now_ns = env_now_ns(m->env);
	char object[96], why[48];
	snprintf(why, sizeof(why), "no heartbeat for %d s", (int)(OFFLINE_AFTER_NS / 1000000000));
	list_for_each (n, &m->nodes) {
		struct manager_node *node = CONTAINER_OF(n, struct manager_node, link);
		if (!node->record.online || now_ns < node->seen_ns + OFFLINE_AFTER_NS)
			continue;
		node->record.online = false;
		snprintf(object, sizeof(object), "node/%s", node->record.name);
		manager_event(m, EVENT_WARN, object, "NodeOffline", "%s", why);
		node_save(node);
	}
	list_for_each (n, &m->gateways) {
		struct manager_gateway *gateway = CONTAINER_OF(n, struct manager_gateway, link);
		if (now_ns >= gateway->seen_ns + OFFLINE_AFTER_NS)
			manager_gateway_silent(m, gateway, why);
	}
}

void manager_nodes_free(struct manager *m)
{
	while (!list_empty(&m->nodes)) {
		struct manager_node *node = CONTAINER_OF(m->nodes.next, struct manager_node, link);
		list_remove(&node->link);
		rpc_message_free((ProtobufCMessage *)node->report);
		free(node->saving_text);
		free(node);
	}
	while (!list_empty(&m->gateways)) {
		struct manager_gateway *gateway =
			CONTAINER_OF(m->gateways.next, struct manager_gateway, link);
		list_remove(&gateway->link);
		rpc_message_free((ProtobufCMessage *)gateway->report);
		rpc_client_destroy(gateway->client);
		free(gateway);
	}
}
