/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Create, delete and resize.
 *
 * V1  A create that fails leaves nothing behind: the volume it began is deleted again, and what
 *     of that does not get through now is finished later from the record.
 * V2  The same create again (name, size, replicas, parameters) is a success; any difference is
 *     named and refused.
 * V3  A delete is done when the record says so; replicas on nodes that are away go when they
 *     return.
 * V4  A resize changes the record first. A gateway that has the volume is told then; one that
 *     attaches it later sees the record. Repeating it is safe at any point.
 */
#include "replication/placement.h"
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define RESIZE_TIMEOUT_MS 10000

/* ---- checking what was asked for ---- */

static int params_take(const Holdfast__V1__VolumeCreateRequest *request,
		       struct volume_record *draft, struct err *err)
{
	if (request->n_params > VOLUME_PARAMS_MAX)
		return err_set(err, -EINVAL, "params: %zu given, at most %d", request->n_params,
			       VOLUME_PARAMS_MAX);
	for (size_t i = 0; i < request->n_params; i++) {
		const Holdfast__V1__Param *in = request->params[i];
		struct record_param *param = &draft->params[draft->param_count];
		if (strlen(in->key) >= sizeof(param->key))
			return err_set(err, -EINVAL, "parameter '%.40s...': not known", in->key);
		if (strlen(in->value) >= sizeof(param->value))
			return err_set(err, -EINVAL,
				       "parameter '%s': value '%.40s...' is longer than %zu bytes",
				       in->key, in->value, sizeof(param->value) - 1);
		snprintf(param->key, sizeof(param->key), "%s", in->key);
		snprintf(param->value, sizeof(param->value), "%s", in->value);
		draft->param_count++;
	}
	return 0;
}

static int rf_take(const Holdfast__V1__VolumeCreateRequest *request, struct volume_record *draft,
		   const struct class_settings *settings, struct err *err)
{
	bool is_named = false;
	for (uint32_t i = 0; i < draft->param_count; i++)
		is_named |= strcmp(draft->params[i].key, "replicationFactor") == 0;
	if (request->replicas > VOLUME_RF_MAX)
		return err_set(err, -EINVAL, "replicas %u: must be between 1 and %d",
			       request->replicas, VOLUME_RF_MAX);
	if (request->replicas != 0 && is_named && request->replicas != settings->rf)
		return err_set(err, -EINVAL, "replicas %u: the parameter replicationFactor says %u",
			       request->replicas, settings->rf);
	draft->rf = request->replicas != 0 ? request->replicas : settings->rf;
	draft->quorum = draft->rf / 2 + 1;
	return 0;
}

int create_check(const Holdfast__V1__VolumeCreateRequest *request, struct volume_record *draft,
		 struct class_settings *settings, struct err *err)
{
	int rc = name_check("volume name", request->name, err);
	if (rc == 0)
		rc = volume_size_check(request->size_bytes, err);
	if (rc < 0)
		return rc;
	snprintf(draft->name, sizeof(draft->name), "%s", request->name);
	draft->size_bytes = request->size_bytes;
	rc = params_take(request, draft, err);
	if (rc == 0)
		rc = class_params_parse(draft->params, draft->param_count, settings, err);
	return rc == 0 ? rf_take(request, draft, settings, err) : rc;
}

static const char *param_value(const struct volume_record *record, const char *key)
{
	for (uint32_t i = 0; i < record->param_count; i++)
		if (strcmp(record->params[i].key, key) == 0)
			return record->params[i].value;
	return NULL;
}

int create_compare(const struct volume_record *have, const struct volume_record *want,
		   struct err *err)
{
	if (have->size_bytes != want->size_bytes)
		return err_set(err, -EEXIST, "volume '%s' exists with size %lu, not %lu",
			       have->name, (unsigned long)have->size_bytes,
			       (unsigned long)want->size_bytes);
	if (have->rf != want->rf)
		return err_set(err, -EEXIST, "volume '%s' exists with %u replicas, not %u",
			       have->name, have->rf, want->rf);
	for (int side = 0; side < 2; side++) {
		const struct volume_record *a = side == 0 ? have : want;
		const struct volume_record *b = side == 0 ? want : have;
		for (uint32_t i = 0; i < a->param_count; i++) {
			const char *value = param_value(b, a->params[i].key);
			if (value != NULL && strcmp(value, a->params[i].value) == 0)
				continue;
			return err_set(err, -EEXIST,
				       "volume '%s' exists with another value of parameter '%s'",
				       have->name, a->params[i].key);
		}
	}
	return 0;
}

/* ---- placement ---- */

static uint32_t stores_gather(struct manager *m, struct placement_store *stores)
{
	uint32_t count = 0;
	list_for_each (n, &m->nodes) {
		const struct manager_node *node = CONTAINER_OF(n, struct manager_node, link);
		const struct node_record *record = &node->record;
		for (uint32_t i = 0; i < record->store_count; i++) {
			const struct record_store *store = &record->stores[i];
			stores[count++] = (struct placement_store){
				.store_uuid = store->uuid,
				.node = record->name,
				.zone = record->zone,
				.rack = record->rack,
				.host = record->host,
				.type = store_label(store, "type"),
				.capacity_bytes = store->capacity_bytes,
				.used_bytes = store->used_bytes,
				.node_is_offline = !record->online,
				.node_is_cordoned = record->cordoned,
				.is_failed = store->state == STORE_FAILED,
				.is_draining = store->state == STORE_DRAINING,
			};
		}
	}
	return count;
}

static void voters_write(struct manager *m, struct volume_record *draft,
			 const struct placement_store *stores, const uint32_t *chosen)
{
	for (uint32_t i = 0; i < draft->rf; i++) {
		const struct placement_store *store = &stores[chosen[i]];
		struct record_member *voter = &draft->voters[i];
		env_random_uuid(m->env, &voter->replica_uuid);
		voter->store_uuid = store->store_uuid;
		snprintf(voter->node, sizeof(voter->node), "%s", store->node);
		placement_domain(store, voter->domain, sizeof(voter->domain));
	}
	draft->voter_count = draft->rf;
}

int create_place(struct manager *m, struct volume_record *draft,
		 const struct class_settings *settings, struct err *err)
{
	size_t room = (size_t)m->node_count * NODE_STORES_MAX;
	struct placement_store *stores = calloc(MAX(room, (size_t)1), sizeof(*stores));
	uint32_t chosen[PLACEMENT_REPLICAS_MAX];
	const struct placement_request request = {
		.volume_uuid = draft->uuid,
		.rf = draft->rf,
		.need_bytes = VOLUME_SIZE_MIN, /* thin: space is taken as it is written */
		.type = settings->type,
		.distinct = PLACEMENT_HOST,
	};
	int rc = -ENOMEM;
	if (stores == NULL) {
		err_set(err, rc, "out of memory");
	} else {
		uint32_t count = stores_gather(m, stores);
		rc = placement_choose(&request, stores, count, chosen, err);
	}
	if (rc == 0)
		voters_write(m, draft, stores, chosen);
	free(stores);
	return rc < 0 ? err_wrap(err, rc, "volume '%s'", draft->name) : 0;
}

/* ---- create ---- */

static void create_undone(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	(void)status; /* what is left is in the record, and taken up again (B3) */
	job_op_seen(job);
	job_reply(job, NULL);
}

/* The name exists: the same create again, or a conflict. */
static void create_exists(struct manager_job *job)
{
	const struct volume_record *have = &job->op.record;
	job->err = (struct err){0};
	if (create_compare(have, &job->record, &job->err) == 0 &&
	    (have->state == VOLUME_PENDING || have->state == VOLUME_PROVISIONING ||
	     have->state == VOLUME_FAILED || have->state == VOLUME_DELETED))
		err_set(&job->err, have->state == VOLUME_DELETED ? -EBUSY : -EAGAIN,
			"volume '%s' exists and is %s", have->name, volume_state_name(have->state));
	job_reply_volume(job);
}

static void create_done(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	job_op_seen(job);
	if (status == -EEXIST && !uuid_equal(&op->record.uuid, &job->record.uuid)) {
		create_exists(job);
	} else if (status < 0) {
		job->err = op->err;
		job->err.code = status == LIFECYCLE_NEVER ? -EBUSY : status;
		if (op->mod_revision == 0)
			job_reply(job, NULL);
		else
			job_lifecycle(job, LIFECYCLE_DELETE, create_undone); /* V1 */
	} else {
		job_reply_volume(job);
	}
}

void manager_volume_create(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	const Holdfast__V1__VolumeCreateRequest *request =
		(const Holdfast__V1__VolumeCreateRequest *)rpc_call_request(call);
	struct manager_job *job = job_start(m, call, "create", request->name);
	if (job == NULL)
		return;
	struct class_settings settings;
	struct volume_record *draft = &job->record;
	int rc = create_check(request, draft, &settings, &job->err);
	const struct manager_volume *known = manager_volume_find(m, job->name);
	if (rc == 0 && known != NULL) {
		job->op.record = known->record;
		create_exists(job); /* before placement: a repetition needs no room */
		return;
	}
	if (rc == 0 && m->volume_count >= MANAGER_VOLUMES_MAX)
		rc = err_set(&job->err, -ENOSPC,
			     "volume '%s': there are %u volumes, which is the limit", job->name,
			     m->volume_count);
	env_random_uuid(m->env, &draft->uuid);
	draft->family_uuid = draft->uuid;
	draft->created_ms = env_wall_ms(m->env);
	if (rc == 0)
		rc = create_place(m, draft, &settings, &job->err);
	if (rc < 0) {
		job_reply(job, NULL);
		return;
	}
	job->op.record = *draft;
	job_lifecycle(job, LIFECYCLE_CREATE, create_done);
}

/* ---- delete ---- */

static void delete_done(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	struct manager *m = job->manager;
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	job_op_seen(job);
	bool is_decided = op->mod_revision != 0 && op->record.state == VOLUME_DELETED;
	if (status < 0 && is_decided) {
		char object[96];
		snprintf(object, sizeof(object), "volume/%s", job->name);
		manager_event(m, EVENT_WARN, object, "CleanupPending", "%.240s",
			      err_text(&op->err));
	} else if (status < 0) {
		job->err = op->err;
	}
	job_reply(job, &empty.base);
}

static int delete_check(const struct manager_volume *volume, struct err *err)
{
	const struct volume_record *record = &volume->record;
	if (volume->has_export && record->state == VOLUME_BOUND)
		return err_set(err, -EBUSY,
			       "volume '%s' is exported by gateway '%s': unexport it first",
			       record->name, record->target_node);
	if (record->state == VOLUME_BOUND || record->state == VOLUME_BINDING ||
	    record->state == VOLUME_RELEASING)
		return err_set(err, -EBUSY, "volume '%s' is attached to gateway '%s' (%s)",
			       record->name, record->target_node, volume_state_name(record->state));
	return 0;
}

void manager_volume_delete(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	const Holdfast__V1__VolumeName *request =
		(const Holdfast__V1__VolumeName *)rpc_call_request(call);
	struct manager_job *job = job_start(m, call, "delete", request->name);
	if (job == NULL)
		return;
	const struct manager_volume *volume = manager_volume_find(m, job->name);
	if (volume != NULL && delete_check(volume, &job->err) < 0) {
		job_reply(job, NULL);
		return;
	}
	job_lifecycle(job, LIFECYCLE_DELETE, delete_done);
}

/* ---- resize ---- */

static void resize_told(struct gateway_call *call)
{
	struct manager_job *job = CONTAINER_OF(call, struct manager_job, gateway_call);
	if (call->async.err.code < 0) {
		job->err = call->async.err;
		err_wrap(&job->err, job->err.code,
			 "volume '%s': its record has the new size, its gateway not yet; try again",
			 job->name);
	}
	job_reply_volume(job);
}

static void resize_tell(struct manager_job *job)
{
	const struct volume_record *record = &job->record;
	if (record->state != VOLUME_BOUND) {
		job_reply_volume(job);
		return;
	}
	Holdfast__V1__VolumeResizeRequest resize = HOLDFAST__V1__VOLUME_RESIZE_REQUEST__INIT;
	resize.name = job->name;
	resize.size_bytes = record->size_bytes;
	const struct rpc_request request = {
		.service = &holdfast__v1__gateway__descriptor,
		.method = "Resize",
		.message = &resize.base,
		.timeout_ms = RESIZE_TIMEOUT_MS,
	};
	job->gateway_call.done = resize_told;
	gateway_call_start(job->manager, record->target_node, &request, &job->gateway_call);
}

static void resize_written(struct meta_txn *txn, int status)
{
	struct manager_job *job = CONTAINER_OF(txn, struct manager_job, txn);
	char object[96];
	if (status == 0 && txn->succeeded) {
		manager_volume_put(job->manager, &job->record, txn->revision);
		snprintf(object, sizeof(object), "volume/%s", job->name);
		manager_event(job->manager, EVENT_INFO, object, "VolumeResized", "%lu bytes",
			      (unsigned long)job->record.size_bytes);
		resize_tell(job);
		return;
	}
	if (status < 0)
		err_set(&job->err, status, "volume '%s': the metadata store: %s", job->name,
			strerror(-status));
	else
		err_set(&job->err, -EAGAIN, "volume '%s' was changed meanwhile: try again",
			job->name);
	job_reply(job, NULL);
}

static int resize_check(struct manager_job *job, uint64_t size_bytes)
{
	const struct volume_record *record = &job->record;
	if (record->state != VOLUME_AVAILABLE && record->state != VOLUME_BOUND)
		return err_set(&job->err, -EBUSY,
			       "volume '%s' is %s: it can be resized when available or bound",
			       job->name, volume_state_name(record->state));
	if (size_bytes < record->size_bytes)
		return err_set(
			&job->err, -EINVAL, "size %lu: volume '%s' has %lu bytes and cannot shrink",
			(unsigned long)size_bytes, job->name, (unsigned long)record->size_bytes);
	return 0;
}

static void resize_read(struct meta_range *range, int status)
{
	struct manager_job *job = CONTAINER_OF(range, struct manager_job, range);
	uint64_t size_bytes = job->size_bytes;
	if (status < 0)
		err_set(&job->err, status, "volume '%s': the metadata store: %s", job->name,
			strerror(-status));
	else if (range->kv_count == 0)
		status = err_set(&job->err, -ENOENT, "volume '%s' does not exist", job->name);
	else
		status = volume_record_decode(range->kvs[0].value, range->kvs[0].value_bytes,
					      &job->record, &job->err);
	if (status == 0)
		status = resize_check(job, size_bytes);
	if (status < 0) {
		job_reply(job, NULL);
		return;
	}
	if (size_bytes == job->record.size_bytes) { /* V4: again */
		resize_tell(job);
		return;
	}
	job->record.size_bytes = size_bytes;
	status = volume_record_encode(&job->record, &job->text, &job->err);
	if (status < 0) {
		job_reply(job, NULL);
		return;
	}
	job->compare = meta_if_unchanged(job->key, range->kvs[0].mod_revision);
	job->change = meta_do_put(job->key, job->text, strlen(job->text), 0);
	job->txn = (struct meta_txn){.compares = &job->compare,
				     .compare_count = 1,
				     .success = &job->change,
				     .success_count = 1,
				     .done = resize_written};
	meta_txn(job->manager->meta, &job->txn);
}

void manager_volume_resize(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	const Holdfast__V1__VolumeResizeRequest *request =
		(const Holdfast__V1__VolumeResizeRequest *)rpc_call_request(call);
	struct manager_job *job = job_start(m, call, "resize", request->name);
	if (job == NULL)
		return;
	if (volume_size_check(request->size_bytes, &job->err) < 0) {
		job_reply(job, NULL);
		return;
	}
	job->size_bytes = request->size_bytes;
	volume_key(job->name, job->key);
	job->range = (struct meta_range){.key = job->key, .done = resize_read};
	meta_range(m->meta, &job->range);
}
