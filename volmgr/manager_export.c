/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Export and unexport: attach to a gateway through the lifecycle, then serve.
 *
 * O1  The export's record is written after the volume is bound and before the gateway serves it, so
 *     what a gateway serves is always on record and a gateway that was restarted is told.
 * O2  Unexport deletes the record first, then releases. A crash between the two leaves a volume
 *     that is bound for nobody, which is released (manager_job.c, B4). Forced, the release does
 *     not need the gateway's answer (lifecycle.h, E5), and it also ends a binding or a release
 *     that waits for it.
 * O3  The same export again is answered with the same URI; a different one is refused.
 * O4  An export that the gateway refuses (its address is taken, say) is taken off the record again.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT_TIMEOUT_MS 20000

/* ---- attaching for a job ---- */

static void bind_done(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	job_op_seen(job);
	job->bound_here = status == 0;
	if (status < 0)
		job->err = op->err;
	job->next(job);
}

void job_bind(struct manager_job *job, void (*next)(struct manager_job *job))
{
	struct manager *m = job->manager;
	const struct manager_volume *volume = manager_volume_find(m, job->name);
	job->next = next;
	if (volume != NULL && volume->record.state == VOLUME_BOUND) {
		memcpy(job->gateway, volume->record.target_node, sizeof(job->gateway));
		next(job);
		return;
	}
	const struct manager_gateway *gateway = job->gateway[0] != '\0'
							? manager_gateway_find(m, job->gateway)
							: manager_gateway_any(m);
	if (volume == NULL)
		err_set(&job->err, -ENOENT, "volume '%s' does not exist", job->name);
	else if (job->gateway[0] != '\0' && gateway == NULL)
		err_set(&job->err, -ENOENT, "volume '%s': gateway '%s' does not exist", job->name,
			job->gateway);
	else if (gateway != NULL && !gateway->online)
		err_set(&job->err, -EBUSY, "volume '%s': gateway '%s' is offline", job->name,
			job->gateway);
	else if (gateway == NULL)
		err_set(&job->err, -EBUSY, "volume '%s': no gateway is online that could attach it",
			job->name);
	if (job->err.code < 0) {
		next(job);
		return;
	}
	memcpy(job->gateway, gateway->name, sizeof(job->gateway));
	job_lifecycle(job, LIFECYCLE_BIND, bind_done);
}

static void unbind_done(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	(void)status; /* what is left is in the record, and taken up again (B3) */
	job_op_seen(job);
	job->next(job);
}

void job_unbind(struct manager_job *job, void (*next)(struct manager_job *job))
{
	job->next = next;
	if (!job->bound_here) {
		next(job);
		return;
	}
	job->bound_here = false;
	job_lifecycle(job, LIFECYCLE_RELEASE, unbind_done);
}

static void job_answer_error(struct manager_job *job)
{
	job_reply(job, NULL);
}

/* ---- the export's record ---- */

static void record_swap(struct manager_job *job, struct meta_do change,
			void (*done)(struct meta_txn *txn, int status))
{
	job->change = change;
	job->txn = (struct meta_txn){.success = &job->change, .success_count = 1, .done = done};
	meta_txn(job->manager->meta, &job->txn);
}

/* ---- export ---- */

/* O4 */
static void export_undone(struct meta_txn *txn, int status)
{
	struct manager_job *job = CONTAINER_OF(txn, struct manager_job, txn);
	struct manager_volume *volume = manager_volume_find(job->manager, job->name);
	if (status == 0 && volume != NULL)
		volume->has_export = false;
	job_unbind(job, job_answer_error);
}

/* The gateway said no; what was lost on the way, or came too late, may have been done. */
static bool is_refusal(const struct gateway_call *call)
{
	int code = call->async.err.code;
	return call->gateway != NULL && code != -ETIMEDOUT && code != -ENOTCONN &&
	       code != -ECANCELED && code != -EAGAIN;
}

static void export_told(struct gateway_call *call)
{
	struct manager_job *job = CONTAINER_OF(call, struct manager_job, gateway_call);
	if (call->async.err.code == 0) {
		job_reply(job, call->async.response);
		return;
	}
	job->err = call->async.err;
	if (job->is_new && is_refusal(call))
		record_swap(job, meta_do_delete(job->key), export_undone);
	else
		job_reply(job, NULL); /* the record stays: the gateway is told with its next beat */
}

static void export_tell(struct manager_job *job)
{
	Holdfast__V1__AttachRequest export = HOLDFAST__V1__ATTACH_REQUEST__INIT;
	export.volume = job->name;
	export.read_only = job->export.read_only;
	export.listen = job->export.address;
	const struct rpc_request request = {
		.service = &holdfast__v1__gateway__descriptor,
		.method = "Export",
		.message = &export.base,
		.timeout_ms = EXPORT_TIMEOUT_MS,
	};
	job->gateway_call.done = export_told;
	gateway_call_start(job->manager, job->gateway, &request, &job->gateway_call);
}

static void export_recorded(struct meta_txn *txn, int status)
{
	struct manager_job *job = CONTAINER_OF(txn, struct manager_job, txn);
	struct manager_volume *volume = manager_volume_find(job->manager, job->name);
	if (status < 0) {
		err_set(&job->err, status, "volume '%s': recording the export: %s", job->name,
			strerror(-status));
		job_unbind(job, job_answer_error);
		return;
	}
	if (volume != NULL) {
		volume->has_export = true;
		volume->export = job->export;
	}
	job->is_new = true;
	export_tell(job);
}

static void export_bound(struct manager_job *job)
{
	if (job->err.code < 0) {
		job_reply(job, NULL);
		return;
	}
	memcpy(job->export.volume, job->name, sizeof(job->export.volume));
	memcpy(job->export.gateway, job->gateway, sizeof(job->export.gateway));
	if (export_record_encode(&job->export, &job->text, &job->err) < 0) {
		job_unbind(job, job_answer_error);
		return;
	}
	export_key(job->name, job->key);
	record_swap(job, meta_do_put(job->key, job->text, strlen(job->text), 0), export_recorded);
}

/* 1: it is exported already, just like this; 0: it is not; or -EBUSY. */
static int export_compare(const struct manager_volume *volume, struct manager_job *job)
{
	const struct export_record *have = &volume->export;
	if (volume->record.state != VOLUME_BOUND)
		return 0;
	if (job->gateway[0] != '\0' && strcmp(job->gateway, volume->record.target_node) != 0)
		return err_set(
			&job->err, -EBUSY,
			"volume '%s' is attached to gateway '%s', not '%s': unexport it first",
			job->name, volume->record.target_node, job->gateway);
	if (!volume->has_export)
		return 0;
	bool same_listen =
		job->export.address[0] == '\0' || strcmp(job->export.address, have->address) == 0;
	if (!same_listen)
		return err_set(&job->err, -EBUSY,
			       "volume '%s' is exported on %s: unexport it before exporting on %s",
			       job->name,
			       have->address[0] != '\0' ? have->address : "its gateway's socket",
			       job->export.address);
	if (have->read_only != job->export.read_only)
		return err_set(&job->err, -EBUSY, "volume '%s' is exported %s: unexport it first",
			       job->name, have->read_only ? "read-only" : "for writing");
	job->export = *have;
	return 1;
}

void manager_volume_export(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	const Holdfast__V1__VolumeExportRequest *request =
		(const Holdfast__V1__VolumeExportRequest *)rpc_call_request(call);
	struct manager_job *job = job_start(m, call, "export", request->name);
	if (job == NULL)
		return;
	const struct manager_volume *volume = manager_volume_find(m, job->name);
	int rc = 0;
	if (volume == NULL)
		rc = err_set(&job->err, -ENOENT, "volume '%s' does not exist", job->name);
	else if (strlen(request->listen) >= sizeof(job->export.address))
		rc = err_set(&job->err, -EINVAL, "listen '%.40s...': longer than %zu bytes",
			     request->listen, sizeof(job->export.address) - 1);
	else if (request->gateway[0] != '\0')
		rc = name_check("gateway", request->gateway, &job->err);
	if (rc == 0) {
		snprintf(job->gateway, sizeof(job->gateway), "%s", request->gateway);
		snprintf(job->export.address, sizeof(job->export.address), "%s", request->listen);
		job->export.read_only = request->read_only;
		rc = export_compare(volume, job);
	}
	if (rc < 0) {
		job_reply(job, NULL);
	} else if (rc == 1) {
		memcpy(job->gateway, job->export.gateway, sizeof(job->gateway));
		export_tell(job);
	} else {
		job_bind(job, export_bound);
	}
}

/* ---- unexport ---- */

static void unexport_done(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	job_op_seen(job);
	if (status < 0)
		job->err = op->err;
	job_reply(job, &empty.base);
}

static void unexport_recorded(struct meta_txn *txn, int status)
{
	struct manager_job *job = CONTAINER_OF(txn, struct manager_job, txn);
	struct manager_volume *volume = manager_volume_find(job->manager, job->name);
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	if (status < 0) {
		err_set(&job->err, status, "volume '%s': deleting the export's record: %s",
			job->name, strerror(-status));
		job_reply(job, NULL);
		return;
	}
	if (volume != NULL)
		volume->has_export = false;
	if (volume == NULL || volume->record.state == VOLUME_AVAILABLE) {
		job_reply(job, &empty.base); /* nobody had it */
		return;
	}
	bool is_releasing = volume->record.intent != INTENT_NONE;
	enum lifecycle_goal goal = is_releasing ? LIFECYCLE_RESUME : LIFECYCLE_RELEASE;
	job_lifecycle(job, job->is_forced ? LIFECYCLE_ABANDON : goal, unexport_done);
}

void manager_volume_unexport(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	const Holdfast__V1__VolumeUnexportRequest *request =
		(const Holdfast__V1__VolumeUnexportRequest *)rpc_call_request(call);
	struct manager_job *job = job_start(m, call, "unexport", request->name);
	if (job == NULL)
		return;
	job->is_forced = request->force;
	const struct manager_volume *volume = manager_volume_find(m, job->name);
	enum volume_state state = volume != NULL ? volume->record.state : VOLUME_STATES;
	if (volume == NULL)
		err_set(&job->err, -ENOENT, "volume '%s' does not exist", job->name);
	else if (state != VOLUME_BOUND && state != VOLUME_RELEASING && state != VOLUME_AVAILABLE &&
		 !(job->is_forced && state == VOLUME_BINDING))
		err_set(&job->err, -EBUSY, "volume '%s' is %s: it is not exported", job->name,
			volume_state_name(state));
	if (job->err.code < 0) {
		job_reply(job, NULL);
		return;
	}
	export_key(job->name, job->key);
	record_swap(job, meta_do_delete(job->key), unexport_recorded);
}
