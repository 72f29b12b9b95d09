/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of the manager: what create refuses, how status is merged, restart delays. */
#include "tests/unit/test.h"

#include <errno.h>

#include "volmgr/manager.h"
#include "volmgr/node_role.h"

#define MIB ((uint64_t)1 << 20)

struct create_case {
	Holdfast__V1__VolumeCreateRequest request;
	struct volume_record draft;
	struct class_settings settings;
	struct err err;
};

static int create(struct create_case *c, const char *name, uint64_t size_bytes, uint32_t replicas)
{
	holdfast__v1__volume_create_request__init(&c->request);
	c->request.name = (char *)name;
	c->request.size_bytes = size_bytes;
	c->request.replicas = replicas;
	return create_check(&c->request, &c->draft, &c->settings, &c->err);
}

TEST(create, takes_defaults_from_the_class)
{
	struct create_case c = {0};
	CHECK(create(&c, "db1", 64 * MIB, 0) == 0);
	CHECK(c.draft.rf == 3 && c.draft.quorum == 2);
	CHECK(strcmp(c.draft.name, "db1") == 0 && c.draft.size_bytes == 64 * MIB);
}

TEST(create, names_the_bad_size)
{
	struct create_case c = {0};
	CHECK(create(&c, "db1", 4097, 3) == -EINVAL);
	CHECK(strstr(c.err.text, "4097") != NULL);
	CHECK(create(&c, "db1", 0, 3) == -EINVAL);
	CHECK(create(&c, "db1", UINT64_MAX, 3) == -EINVAL);
}

TEST(create, names_the_bad_name)
{
	struct create_case c = {0};
	CHECK(create(&c, "-db", 64 * MIB, 3) == -EINVAL);
	CHECK(strstr(c.err.text, "-db") != NULL);
	CHECK(create(&c, "", 64 * MIB, 3) == -EINVAL);
}

TEST(create, names_the_limit_of_replicas)
{
	struct create_case c = {0};
	CHECK(create(&c, "db1", 64 * MIB, 6) == -EINVAL);
	CHECK(strstr(c.err.text, "6") != NULL && strstr(c.err.text, "5") != NULL);
}

static int create_with_param(struct create_case *c, const char *key, const char *value,
			     uint32_t replicas)
{
	Holdfast__V1__Param param = HOLDFAST__V1__PARAM__INIT;
	Holdfast__V1__Param *params[] = {&param};
	param.key = (char *)key;
	param.value = (char *)value;
	holdfast__v1__volume_create_request__init(&c->request);
	c->request.name = (char *)"db1";
	c->request.size_bytes = 64 * MIB;
	c->request.replicas = replicas;
	c->request.params = params;
	c->request.n_params = 1;
	return create_check(&c->request, &c->draft, &c->settings, &c->err);
}

TEST(create, takes_replicas_from_the_parameter)
{
	struct create_case c = {0};
	CHECK(create_with_param(&c, "replicationFactor", "1", 0) == 0);
	CHECK(c.draft.rf == 1 && c.draft.quorum == 1);
}

TEST(create, refuses_replicas_that_contradict_the_parameter)
{
	struct create_case c = {0};
	CHECK(create_with_param(&c, "replicationFactor", "2", 3) == -EINVAL);
	CHECK(strstr(c.err.text, "replicationFactor") != NULL);
}

TEST(create, names_an_unknown_parameter)
{
	struct create_case c = {0};
	CHECK(create_with_param(&c, "colour", "blue", 3) == -EINVAL);
	CHECK(strstr(c.err.text, "colour") != NULL);
}

TEST(create, refuses_a_parameter_that_does_not_fit)
{
	struct create_case c = {0};
	char value[LABEL_BYTES + 1];
	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	CHECK(create_with_param(&c, "type", value, 3) == -EINVAL);
	CHECK(strstr(c.err.text, "type") != NULL);
}

TEST(create, again_with_the_same_is_the_same)
{
	struct create_case a = {0}, b = {0};
	struct err err = {0};
	CHECK(create(&a, "db1", 64 * MIB, 3) == 0 && create(&b, "db1", 64 * MIB, 0) == 0);
	CHECK(create_compare(&a.draft, &b.draft, &err) == 0);
}

TEST(create, again_with_another_parameter_is_a_conflict_both_ways)
{
	struct create_case a = {0}, b = {0};
	struct err err = {0};
	CHECK(create(&a, "db1", 64 * MIB, 3) == 0);
	CHECK(create_with_param(&b, "readLease", "on", 3) == 0);
	CHECK(create_compare(&a.draft, &b.draft, &err) == -EEXIST);
	CHECK(create_compare(&b.draft, &a.draft, &err) == -EEXIST);
	CHECK(strstr(err.text, "readLease") != NULL);
}

/* ---- status ---- */

struct world {
	struct manager m;
	struct arena arena;
	struct manager_node *nodes[2];
	struct manager_volume *volume;
};

static void world_open(struct world *w)
{
	struct volume_record record = {.name = "db1",
				       .size_bytes = 64 * MIB,
				       .rf = 2,
				       .quorum = 2,
				       .state = VOLUME_AVAILABLE,
				       .voter_count = 2};
	list_init(&w->m.volumes);
	list_init(&w->m.nodes);
	list_init(&w->m.gateways);
	for (uint32_t i = 0; i < 2; i++) {
		struct node_record node = {.online = true, .store_count = 1};
		snprintf(node.name, sizeof(node.name), "n%u", i + 1);
		node.stores[0].uuid.bytes[0] = (uint8_t)(i + 1);
		w->nodes[i] = manager_node_add(&w->m, &node);
		record.voters[i].store_uuid = node.stores[0].uuid;
		record.voters[i].replica_uuid.bytes[1] = (uint8_t)(i + 1);
		snprintf(record.voters[i].node, NAME_BYTES, "n%u", i + 1);
		/* the node lists it, at seq 7 */
		Holdfast__V1__NodeHeartbeat *beat =
			ARENA_MESSAGE(&w->arena, NodeHeartbeat, node_heartbeat);
		beat->node = ARENA_MESSAGE(&w->arena, NodeInfo, node_info);
		beat->node->last_seen_ms = 1000000;
		beat->replicas = ARENA_ARRAY(&w->arena, Holdfast__V1__ReplicaInfo *, 1);
		beat->replicas[0] = ARENA_MESSAGE(&w->arena, ReplicaInfo, replica_info);
		beat->replicas[0]->replica_uuid =
			arena_uuid(&w->arena, &record.voters[i].replica_uuid);
		beat->replicas[0]->seq = 7;
		beat->n_replicas = 1;
		w->nodes[i]->report = beat;
	}
	w->volume = manager_volume_put(&w->m, &record, 1);
}

static void world_close(struct world *w)
{
	for (uint32_t i = 0; i < 2; i++)
		w->nodes[i]->report = NULL; /* the arena's */
	w->volume->report = NULL;
	manager_cache_free(&w->m);
	manager_nodes_free(&w->m);
	arena_free(&w->arena);
}

TEST(status, shows_idle_replicas_where_their_nodes_say)
{
	struct world w = {0};
	world_open(&w);
	Holdfast__V1__VolumeInfo *info = status_volume(&w.m, w.volume, &w.arena);
	CHECK(info->n_replica == 2 && info->n_conditions == 0);
	CHECK(strcmp(info->replica[0]->state, "idle") == 0 && info->replica[0]->seq == 7);
	CHECK(strcmp(info->state, "available") == 0 && info->gateway[0] == '\0');
	world_close(&w);
}

TEST(status, shows_a_silent_node_as_offline_and_the_volume_without_quorum)
{
	struct world w = {0};
	world_open(&w);
	w.nodes[1]->record.online = false;
	Holdfast__V1__VolumeInfo *info = status_volume(&w.m, w.volume, &w.arena);
	CHECK(strcmp(info->replica[1]->state, "offline") == 0);
	CHECK(info->n_conditions == 1 && strstr(info->conditions[0], "NoQuorum: 1 of 2") != NULL);
	world_close(&w);
}

TEST(status, shows_a_replica_that_its_node_does_not_have_as_lost)
{
	struct world w = {0};
	world_open(&w);
	w.nodes[0]->report->n_replicas = 0;
	Holdfast__V1__VolumeInfo *info = status_volume(&w.m, w.volume, &w.arena);
	CHECK(strcmp(info->replica[0]->state, "lost") == 0);
	world_close(&w);
}

TEST(status, shows_a_replica_in_a_failed_store_as_lost)
{
	struct world w = {0};
	world_open(&w);
	w.nodes[0]->record.stores[0].state = STORE_FAILED;
	Holdfast__V1__VolumeInfo *info = status_volume(&w.m, w.volume, &w.arena);
	CHECK(strcmp(info->replica[0]->state, "lost") == 0);
	CHECK(strstr(info->replica[0]->note, "failed") != NULL);
	world_close(&w);
}

/* A gateway that has the volume and says that its first replica is the primary. */
static void gateway_speak(struct world *w, struct manager_gateway *gateway, bool online)
{
	snprintf(gateway->name, sizeof(gateway->name), "g1");
	gateway->online = online;
	gateway->report = ARENA_MESSAGE(&w->arena, GatewayHeartbeat, gateway_heartbeat);
	Holdfast__V1__VolumeInfo *told = ARENA_MESSAGE(&w->arena, VolumeInfo, volume_info);
	told->name = arena_copy(&w->arena, "db1");
	told->replica = ARENA_ARRAY(&w->arena, Holdfast__V1__ReplicaInfo *, 1);
	told->replica[0] = ARENA_MESSAGE(&w->arena, ReplicaInfo, replica_info);
	told->replica[0]->replica_uuid =
		arena_uuid(&w->arena, &w->volume->record.voters[0].replica_uuid);
	told->replica[0]->state = arena_copy(&w->arena, "primary");
	told->replica[0]->seq = 9;
	told->n_replica = 1;
	gateway->report->volumes = ARENA_ARRAY(&w->arena, Holdfast__V1__VolumeInfo *, 1);
	gateway->report->volumes[0] = told;
	gateway->report->n_volumes = 1;
	list_push_back(&w->m.gateways, &gateway->link);
	w->volume->report = told;
	snprintf(w->volume->report_gateway, NAME_BYTES, "g1");
	w->volume->record.state = VOLUME_BOUND;
	snprintf(w->volume->record.target_node, NAME_BYTES, "g1");
}

TEST(status, believes_the_gateway_that_has_the_volume)
{
	struct world w = {0};
	struct manager_gateway gateway = {0};
	world_open(&w);
	gateway_speak(&w, &gateway, true);
	Holdfast__V1__VolumeInfo *info = status_volume(&w.m, w.volume, &w.arena);
	CHECK(strcmp(info->replica[0]->state, "primary") == 0 && info->replica[0]->seq == 9);
	CHECK(strcmp(info->gateway, "g1") == 0 && info->n_conditions == 0);
	list_remove(&gateway.link);
	world_close(&w);
}

TEST(status, does_not_show_as_current_what_a_silent_gateway_said)
{
	struct world w = {0};
	struct manager_gateway gateway = {0};
	world_open(&w);
	gateway_speak(&w, &gateway, false);
	Holdfast__V1__VolumeInfo *info = status_volume(&w.m, w.volume, &w.arena);
	CHECK(strcmp(info->replica[0]->state, "idle") == 0 && info->replica[0]->seq == 7);
	CHECK(info->n_conditions == 1 && strstr(info->conditions[0], "NoGateway") != NULL);
	list_remove(&gateway.link);
	world_close(&w);
}

TEST(cache, never_goes_back_to_an_older_record)
{
	struct world w = {0};
	world_open(&w);
	struct volume_record record = w.volume->record;
	record.size_bytes = 128 * MIB;
	manager_volume_put(&w.m, &record, 5);
	record.size_bytes = 64 * MIB;
	manager_volume_put(&w.m, &record, 4);
	CHECK(w.volume->record.size_bytes == 128 * MIB && w.volume->mod_revision == 5);
	manager_volume_gone(&w.m, "db1", 4); /* an older life's end */
	CHECK(manager_volume_find(&w.m, "db1") == w.volume);
	world_close(&w);
}

/* ---- placement ---- */

TEST(create_place, writes_members_with_node_store_and_fresh_uuids)
{
	struct world w = {0};
	struct create_case c = {0};
	struct loop *loop = NULL;
	struct err err = {0};
	world_open(&w);
	CHECK(loop_create(LOOP_ENGINE_AUTO, &loop, &err) == 0);
	w.m.env = loop_env(loop);
	for (uint32_t i = 0; i < 2; i++)
		w.nodes[i]->record.stores[0].capacity_bytes = 1024 * MIB;
	CHECK(create(&c, "db2", 64 * MIB, 2) == 0);
	CHECK(create_place(&w.m, &c.draft, &c.settings, &err) == 0);
	CHECK(c.draft.voter_count == 2);
	CHECK(strcmp(c.draft.voters[0].node, c.draft.voters[1].node) != 0);
	CHECK(!uuid_is_zero(&c.draft.voters[0].replica_uuid));
	CHECK(!uuid_equal(&c.draft.voters[0].replica_uuid, &c.draft.voters[1].replica_uuid));
	c.draft.rf = 3;
	CHECK(create_place(&w.m, &c.draft, &c.settings, &err) == -ENOSPC);
	CHECK(strstr(err.text, "3") != NULL && strstr(err.text, "2 nodes") != NULL);
	loop_destroy(loop);
	world_close(&w);
}

TEST(create_place, takes_only_stores_of_the_type_that_is_asked_for)
{
	struct world w = {0};
	struct create_case c = {0};
	struct loop *loop = NULL;
	struct err err = {0};
	world_open(&w);
	CHECK(loop_create(LOOP_ENGINE_AUTO, &loop, &err) == 0);
	w.m.env = loop_env(loop);
	for (uint32_t i = 0; i < 2; i++)
		w.nodes[i]->record.stores[0].capacity_bytes = 1024 * MIB;
	struct record_store *second = &w.nodes[1]->record.stores[0];
	second->label_count = 1;
	strcpy(second->labels[0].key, "type");
	strcpy(second->labels[0].value, "nvme-ssd");
	CHECK(create_with_param(&c, "type", "nvme-ssd", 1) == 0);
	for (int i = 0; i < 20; i++) {
		c.draft.uuid.bytes[0] = (uint8_t)i;
		CHECK(create_place(&w.m, &c.draft, &c.settings, &err) == 0);
		CHECK(strcmp(c.draft.voters[0].node, "n2") == 0);
	}
	c.draft.rf = 2;
	CHECK(create_place(&w.m, &c.draft, &c.settings, &err) == -ENOSPC);
	CHECK(strstr(err.text, "1 of 2 stores have the type 'nvme-ssd'") != NULL);
	loop_destroy(loop);
	world_close(&w);
}

/* ---- store labels ---- */

TEST(store_option, is_a_path_and_perhaps_a_type)
{
	static char path[STORE_PATH_BYTES], type[LABEL_BYTES];
	struct err err = {0};
	CHECK(store_option_parse("/dev/vdb", path, type, &err) == 0);
	CHECK(strcmp(path, "/dev/vdb") == 0 && type[0] == '\0');
	CHECK(store_option_parse("/srv/a,b.img,type=nvme-ssd", path, type, &err) == 0);
	CHECK(strcmp(path, "/srv/a,b.img") == 0 && strcmp(type, "nvme-ssd") == 0);
	CHECK(store_option_parse("/srv/a,b.img", path, type, &err) == 0);
	CHECK(strcmp(path, "/srv/a,b.img") == 0 && type[0] == '\0');
	CHECK(store_option_parse("/dev/vdb,colour=red", path, type, &err) == -EINVAL);
	CHECK(strstr(err.text, "colour=red") != NULL);
	CHECK(store_option_parse("/dev/vdb,type=", path, type, &err) == -EINVAL);
	CHECK(store_option_parse("/dev/vdb,type=a b", path, type, &err) == -EINVAL);
	CHECK(store_option_parse(",type=hdd", path, type, &err) == -EINVAL);
}

/* ---- supervision ---- */

TEST(supervise, delays_double_up_to_two_seconds)
{
	CHECK(supervise_delay_ms(1) == 100);
	CHECK(supervise_delay_ms(2) == 200);
	CHECK(supervise_delay_ms(5) == 1600);
	CHECK(supervise_delay_ms(6) == 2000);
	CHECK(supervise_delay_ms(UINT32_MAX) == 2000);
}
