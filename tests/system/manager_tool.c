/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the daemons: formats stores and calls the manager's admin service.
 *   manager_tool format PATH BYTES
 *   manager_tool ADDRESS create NAME BYTES RF | delete NAME | resize NAME BYTES | get NAME
 *                        export NAME [LISTEN] | unexport NAME | nodes | events
 * Prints one line per thing. Exit code: 0, or the gRPC code of the failure with its text on stderr.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/co.h"
#include "base/loop.h"
#include "base/rpc/rpc.h"
#include "store/store.h"
#include "volmgr/holdfast.pb-c.h"

static int fail(const struct err *err)
{
	fprintf(stderr, "%s\n", err_text(err));
	return (int)rpc_code_of_errno(err->code);
}

struct format_job {
	struct env *env;
	const char *path;
	struct store_params params;
	struct err err;
	bool is_over;
};

static void format_run(struct co *co, void *arg)
{
	struct format_job *job = arg;
	store_format(co, job->env, job->path, &job->params, &job->err);
	job->is_over = true;
}

static int format(const char *path, const char *bytes)
{
	struct loop *loop = NULL;
	struct format_job job = {.path = path, .params.size_bytes = strtoull(bytes, NULL, 10)};
	if (loop_create(LOOP_ENGINE_AUTO, &loop, &job.err) < 0)
		return fail(&job.err);
	job.env = loop_env(loop);
	struct co *co = co_create(job.env, (size_t)256 << 10);
	if (co != NULL) {
		co_start(co, format_run, &job);
		loop_run_until(loop, &job.is_over, 0);
	}
	co_destroy(co);
	loop_destroy(loop);
	return job.err.code < 0 ? fail(&job.err) : 0;
}

static void volume_print(const Holdfast__V1__VolumeInfo *volume)
{
	printf("volume %s state=%s size=%lu rf=%u gateway=%s\n", volume->name, volume->state,
	       (unsigned long)volume->size_bytes, volume->replicas, volume->gateway);
	for (size_t i = 0; i < volume->n_replica; i++)
		printf("replica %s state=%s epoch=%lu seq=%lu\n", volume->replica[i]->node,
		       volume->replica[i]->state, (unsigned long)volume->replica[i]->epoch,
		       (unsigned long)volume->replica[i]->seq);
	for (size_t i = 0; i < volume->n_conditions; i++)
		printf("condition %s\n", volume->conditions[i]);
}

static void reply_print(const ProtobufCMessage *reply)
{
	if (reply->descriptor == &holdfast__v1__volume_info__descriptor)
		volume_print((const Holdfast__V1__VolumeInfo *)reply);
	if (reply->descriptor == &holdfast__v1__export_info__descriptor)
		printf("%s\n", ((const Holdfast__V1__ExportInfo *)reply)->uri);
	if (reply->descriptor == &holdfast__v1__status_reply__descriptor) {
		const Holdfast__V1__StatusReply *status = (const Holdfast__V1__StatusReply *)reply;
		for (size_t i = 0; i < status->n_nodes; i++)
			printf("node %s state=%s replicas=%u\n", status->nodes[i]->name,
			       status->nodes[i]->state,
			       status->nodes[i]->n_stores > 0
				       ? status->nodes[i]->stores[0]->replica_count
				       : 0);
	}
	if (reply->descriptor == &holdfast__v1__events_reply__descriptor) {
		const Holdfast__V1__EventsReply *events = (const Holdfast__V1__EventsReply *)reply;
		for (size_t i = 0; i < events->n_events; i++)
			printf("event %lu %s %s %s\n", (unsigned long)events->events[i]->seq,
			       events->events[i]->object, events->events[i]->kind,
			       events->events[i]->text);
	}
}

static int call(const char *address, const char *method, const ProtobufCMessage *message)
{
	struct err err = {0};
	struct rpc_client *client = NULL;
	ProtobufCMessage *reply = NULL;
	const struct rpc_client_config config = {.address = address};
	const struct rpc_request request = {.service = &holdfast__v1__manager__descriptor,
					    .method = method,
					    .message = message,
					    .timeout_ms = 30000};
	int rc = rpc_client_create(&config, &client, &err);
	if (rc == 0)
		rc = rpc_client_call(client, &request, &reply, &err);
	if (rc == 0)
		reply_print(reply);
	rpc_message_free(reply);
	rpc_client_destroy(client);
	return rc < 0 ? fail(&err) : 0;
}

/* argv: verb, name, ... */
static int volume_verb(const char *address, int argc, char **argv)
{
	Holdfast__V1__VolumeName name = HOLDFAST__V1__VOLUME_NAME__INIT;
	Holdfast__V1__VolumeCreateRequest create = HOLDFAST__V1__VOLUME_CREATE_REQUEST__INIT;
	Holdfast__V1__VolumeResizeRequest resize = HOLDFAST__V1__VOLUME_RESIZE_REQUEST__INIT;
	Holdfast__V1__VolumeExportRequest export = HOLDFAST__V1__VOLUME_EXPORT_REQUEST__INIT;
	Holdfast__V1__VolumeUnexportRequest unexport = HOLDFAST__V1__VOLUME_UNEXPORT_REQUEST__INIT;
	unexport.name = argv[1];
	create.name = resize.name = export.name = name.name = argv[1];
	if (argc > 2)
		create.size_bytes = resize.size_bytes = strtoull(argv[2], NULL, 10);
	if (argc > 2)
		export.listen = argv[2];
	if (argc > 3)
		create.replicas = (uint32_t)strtoul(argv[3], NULL, 10);
	if (strcmp(argv[0], "create") == 0)
		return call(address, "VolumeCreate", &create.base);
	if (strcmp(argv[0], "resize") == 0)
		return call(address, "VolumeResize", &resize.base);
	if (strcmp(argv[0], "export") == 0)
		return call(address, "VolumeExport", &export.base);
	if (strcmp(argv[0], "unexport") == 0)
		return call(address, "VolumeUnexport", &unexport.base);
	if (strcmp(argv[0], "delete") == 0)
		return call(address, "VolumeDelete", &name.base);
	if (strcmp(argv[0], "get") == 0)
		return call(address, "VolumeGet", &name.base);
	return 2;
}

int main(int argc, char **argv)
{
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	Holdfast__V1__EventsRequest events = HOLDFAST__V1__EVENTS_REQUEST__INIT;
	if (argc == 4 && strcmp(argv[1], "format") == 0)
		return format(argv[2], argv[3]);
	if (argc == 3 && strcmp(argv[2], "nodes") == 0)
		return call(argv[1], "NodeList", &empty.base);
	if (argc == 3 && strcmp(argv[2], "events") == 0)
		return call(argv[1], "Events", &events.base);
	if (argc >= 4)
		return volume_verb(argv[1], argc - 2, argv + 2);
	fprintf(stderr, "usage: see the head of tests/system/manager_tool.c\n");
	return 2;
}
