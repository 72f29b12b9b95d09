/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verify and repair: the gateway that has the volume does the work; a volume that nobody has is
 * attached for the duration.
 *
 * Both are streams. A thread of its own reads it from the gateway and writes it to the caller,
 * because both ends wait. The thread touches the relay, the call and the stream only; the job is
 * the loop's.
 *
 * R1  At most RELAYS_MAX threads.
 * R2  The caller going away (or the manager stopping) cancels the gateway's stream, so the thread
 *     ends soon. `stream` is shared between the two under the mutex.
 * R3  The thread posts to the loop as its last act; the loop joins it, releases what was bound,
 *     and then answers.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define RELAYS_MAX 4

struct relay {
	struct manager_job *job;
	struct manager_gateway *gateway;
	struct rpc_call *call;
	pthread_t thread;
	struct loop *loop;
	struct loop_msg msg;
	char volume[NAME_BYTES];
	char node[NAME_BYTES];
	bool is_repair;
	struct err err;
	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t cond;
	struct rpc_stream *stream;
	bool is_cancelled;
	bool is_writable; /* since the last attempt to send */
};

/* ---- the thread ---- */

static int relay_open(struct relay *relay, struct rpc_stream **ret)
{
	Holdfast__V1__ReplicaVerifyRequest verify = HOLDFAST__V1__REPLICA_VERIFY_REQUEST__INIT;
	Holdfast__V1__ReplicaRepairRequest repair = HOLDFAST__V1__REPLICA_REPAIR_REQUEST__INIT;
	verify.volume = repair.volume = relay->volume;
	repair.node = relay->node;
	const struct rpc_request request = {
		.service = &holdfast__v1__gateway__descriptor,
		.method = relay->is_repair ? "Repair" : "Verify",
		.message = relay->is_repair ? &repair.base : &verify.base,
	};
	struct rpc_stream *stream = NULL;
	int rc = rpc_stream_open(relay->gateway->client, &request, &stream, &relay->err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&relay->mutex);
	relay->stream = stream;
	if (relay->is_cancelled)
		rpc_stream_cancel(stream);
	pthread_mutex_unlock(&relay->mutex);
	*ret = stream;
	return 0;
}

/* Waits while the caller's window is full. */
static int relay_send(struct relay *relay, const ProtobufCMessage *message)
{
	for (;;) {
		pthread_mutex_lock(&relay->mutex);
		relay->is_writable = false;
		pthread_mutex_unlock(&relay->mutex);
		int rc = rpc_call_send(relay->call, message);
		if (rc != -EAGAIN)
			return rc;
		pthread_mutex_lock(&relay->mutex);
		while (!relay->is_writable && !relay->is_cancelled)
			pthread_cond_wait(&relay->cond, &relay->mutex);
		bool is_cancelled = relay->is_cancelled;
		pthread_mutex_unlock(&relay->mutex);
		if (is_cancelled)
			return -ECANCELED;
	}
}

static void *relay_main(void *arg)
{
	struct relay *relay = arg;
	struct rpc_stream *stream = NULL;
	int rc = relay_open(relay, &stream);
	while (rc == 0) {
		ProtobufCMessage *message = NULL;
		rc = rpc_stream_next(stream, &message, &relay->err);
		if (rc <= 0)
			break;
		rc = relay_send(relay, message);
		rpc_message_free(message);
		if (rc < 0)
			err_set(&relay->err, rc, "sending progress: %s", strerror(-rc));
	}
	pthread_mutex_lock(&relay->mutex);
	relay->stream = NULL;
	pthread_mutex_unlock(&relay->mutex);
	rpc_stream_close(stream);
	loop_post(relay->loop, &relay->msg);
	return NULL;
}

/* ---- the loop's side ---- */

static void relay_cancel(void *ctx, struct rpc_call *call)
{
	struct relay *relay = ctx;
	(void)call;
	pthread_mutex_lock(&relay->mutex);
	relay->is_cancelled = true;
	if (relay->stream != NULL)
		rpc_stream_cancel(relay->stream);
	pthread_cond_signal(&relay->cond);
	pthread_mutex_unlock(&relay->mutex);
}

static void relay_writable(void *ctx, struct rpc_call *call)
{
	struct relay *relay = ctx;
	(void)call;
	pthread_mutex_lock(&relay->mutex);
	relay->is_writable = true;
	pthread_cond_signal(&relay->cond);
	pthread_mutex_unlock(&relay->mutex);
}

static void relay_answer(struct manager_job *job)
{
	if (job->err.code < 0)
		call_fail(job->call, &job->err);
	else
		rpc_call_finish(job->call);
	job_free(job);
}

static void relay_over(struct loop_msg *msg)
{
	struct relay *relay = CONTAINER_OF(msg, struct relay, msg);
	struct manager_job *job = relay->job;
	pthread_join(relay->thread, NULL);
	relay->gateway->users--;
	job->manager->relay_count--;
	job->err = relay->err;
	/* No callback of the call may find the relay any more. */
	rpc_call_on_cancel(job->call, NULL, NULL);
	rpc_call_on_writable(job->call, NULL, NULL);
	pthread_cond_destroy(&relay->cond);
	pthread_mutex_destroy(&relay->mutex);
	free(relay);
	job_unbind(job, relay_answer);
}

static int relay_start(struct manager_job *job, struct err *err)
{
	struct manager *m = job->manager;
	struct manager_gateway *gateway = manager_gateway_find(m, job->gateway);
	if (gateway == NULL || !gateway->online)
		return err_set(err, -EBUSY, "gateway '%s' is offline", job->gateway);
	struct relay *relay = calloc(1, sizeof(*relay));
	if (relay == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	*relay = (struct relay){.job = job,
				.gateway = gateway,
				.call = job->call,
				.loop = m->daemon->loop,
				.msg = {.run = relay_over}};
	memcpy(relay->volume, job->name, sizeof(relay->volume));
	memcpy(relay->node, job->repair_node, sizeof(relay->node));
	relay->is_repair = job->is_repair;
	pthread_mutex_init(&relay->mutex, NULL);
	pthread_cond_init(&relay->cond, NULL);
	/* Before the thread: a message that it sends at once must not find no callback. */
	rpc_call_on_writable(job->call, relay_writable, relay);
	int rc = pthread_create(&relay->thread, NULL, relay_main, relay);
	if (rc != 0) {
		rpc_call_on_writable(job->call, NULL, NULL);
		pthread_cond_destroy(&relay->cond);
		pthread_mutex_destroy(&relay->mutex);
		free(relay);
		return err_set(err, -rc, "a thread for the stream: %s", strerror(rc));
	}
	gateway->users++;
	m->relay_count++;
	rpc_call_on_cancel(job->call, relay_cancel, relay);
	return 0;
}

static void relay_bound(struct manager_job *job)
{
	if (job->err.code == 0)
		relay_start(job, &job->err);
	if (job->err.code < 0)
		job_unbind(job, relay_answer);
}

static void relay_job_start(struct manager *m, struct rpc_call *call, const char *what,
			    const char *volume, const char *repair_node)
{
	if (m->relay_count >= RELAYS_MAX) {
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED,
			      "%u verifications and repairs are under way, at most %d",
			      m->relay_count, RELAYS_MAX);
		return;
	}
	struct manager_job *job = job_start(m, call, what, volume);
	if (job == NULL)
		return;
	job->is_repair = repair_node != NULL;
	if (job->is_repair)
		snprintf(job->repair_node, sizeof(job->repair_node), "%s", repair_node);
	job_bind(job, relay_bound);
}

void manager_replica_verify(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__ReplicaVerifyRequest *request =
		(const Holdfast__V1__ReplicaVerifyRequest *)rpc_call_request(call);
	relay_job_start(ctx, call, "verify", request->volume, NULL);
}

void manager_replica_repair(void *ctx, struct rpc_call *call)
{
	const Holdfast__V1__ReplicaRepairRequest *request =
		(const Holdfast__V1__ReplicaRepairRequest *)rpc_call_request(call);
	struct err err = {0};
	if (request->node[0] != '\0' && name_check("node name", request->node, &err) < 0)
		call_fail(call, &err);
	else
		relay_job_start(ctx, call, "repair", request->volume, request->node);
}
