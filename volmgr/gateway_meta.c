/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct coordinator_meta over the Meta service of the manager.
 *
 *   acquire   Range(/volumes/NAME), Range(/nodes/), Txn: if the record is as read, epoch + 1 and we
 *   opened    Range(/volumes/NAME), Txn: if the record is as read and has our epoch, opened_epoch
 *
 * G1  The record is changed only by a compare-and-swap on the revision that was read, and taken only
 *     while lifecycle_attach_allowed() holds for the intent that we were told of (lifecycle.h, E2).
 * G2  An outcome that is unknown is -EAGAIN: the coordinator asks for yet another epoch, which is
 *     always safe; opened is idempotent.
 * G3  A record that another coordinator took is -ESHUTDOWN, for good.
 * G4  One call at a time; calls begin from a timer, because the coordinator asks on the small stack
 *     of a coroutine.
 */
#include "volmgr/gateway.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "volmgr/lifecycle.h"

#define CALL_TIMEOUT_MS     3000
#define OPENED_ATTEMPTS_MAX 8
#define NODES_LIMIT         1000

enum { COMPARE_MOD_REVISION = 2, RELATION_EQUAL = 0, OP_PUT = 0 };

static void meta_done(struct rpc_async *async);

static void meta_end(struct gateway_meta *meta, int status)
{
	bool is_take = meta->phase <= META_WRITE_TAKE;

	meta->phase = META_IDLE;
	if (meta->volume->is_ending && status != 0)
		status = -ESHUTDOWN;
	if (is_take)
		meta->taken(meta->done_ctx, status, meta->record.epoch, &meta->coordinator_volume);
	else
		meta->opened(meta->done_ctx, status);
	if (meta->volume->is_ending)
		gateway_volume_step_soon(meta->volume);
}

static void meta_call(struct gateway_meta *meta, const char *method,
		      const ProtobufCMessage *message)
{
	const struct rpc_request request = {
		.service = &holdfast__v1__meta__descriptor,
		.method = method,
		.message = message,
		.timeout_ms = CALL_TIMEOUT_MS,
	};
	struct gateway *g = meta->volume->gateway;

	meta->async = (struct rpc_async){.loop = g->daemon->loop, .done = meta_done};
	meta->is_running = true;
	rpc_client_start(g->client, &request, &meta->async);
}

/* ---- reading ---- */

static void range_send(struct gateway_meta *meta, const char *key, bool is_prefix)
{
	Holdfast__V1__MetaRangeRequest request = HOLDFAST__V1__META_RANGE_REQUEST__INIT;

	request.key.data = (uint8_t *)key;
	request.key.len = strlen(key);
	request.prefix = is_prefix;
	request.limit = is_prefix ? NODES_LIMIT : 1;
	meta_call(meta, "Range", &request.base);
}

static void volume_read(struct gateway_meta *meta)
{
	char key[RECORD_KEY_BYTES];

	volume_key(meta->volume->name, key);
	range_send(meta, key, false);
}

/* 0 and the record, or -errno for the coordinator. */
static int volume_decode(struct gateway_meta *meta, const Holdfast__V1__MetaRangeReply *reply)
{
	struct err err = {0};
	int rc;

	if (reply->n_kvs != 1)
		return -ESHUTDOWN; /* the volume was deleted */
	rc = volume_record_decode(reply->kvs[0]->value.data, reply->kvs[0]->value.len,
				  &meta->record, &err);
	if (rc < 0) {
		log_event(LOG_ERROR, "gateway", "record_bad", "vol=%s error=%s", meta->volume->name,
			  LOG_Q(err_text(&err)));
		return rc;
	}
	meta->mod_revision = reply->kvs[0]->mod_revision;
	return 0;
}

static void member_fill(struct coordinator_volume *volume, const struct record_member *from,
			bool is_voter)
{
	struct coordinator_member *member = &volume->members[volume->member_count++];

	*member = (struct coordinator_member){
		.replica_uuid = from->replica_uuid,
		.store_uuid = from->store_uuid,
		.voter = is_voter,
	};
	static_assert(sizeof(member->node_name) == sizeof(from->node), "both hold a name");
	memcpy(member->node_name, from->node, sizeof(member->node_name));
}

static void volume_fill(struct gateway_meta *meta)
{
	const struct volume_record *record = &meta->record;
	struct coordinator_volume *volume = &meta->coordinator_volume;

	*volume = (struct coordinator_volume){
		.volume_uuid = record->uuid,
		.size_blocks = record->size_bytes / BLOCK_BYTES,
		.quorum = record->quorum,
	};
	snprintf(volume->name, sizeof(volume->name), "%s", record->name);
	struct class_settings settings;
	if (class_params_parse(record->params, record->param_count, &settings, NULL) == 0)
		volume->no_quorum_timeout_ns = settings.no_quorum_timeout_ms * 1000000;
	for (uint32_t i = 0; i < record->voter_count; i++)
		member_fill(volume, &record->voters[i], true);
	for (uint32_t i = 0; i < record->learner_count; i++)
		member_fill(volume, &record->learners[i], false);
}

/* Node uuids and addresses of the members from a page of /nodes/. */
static int nodes_fill(struct gateway_meta *meta, const Holdfast__V1__MetaRangeReply *reply)
{
	struct coordinator_volume *volume = &meta->coordinator_volume;
	struct node_record *node = calloc(1, sizeof(*node));

	if (!node)
		return -ENOMEM;
	for (size_t i = 0; i < reply->n_kvs; i++) {
		const Holdfast__V1__MetaKeyValue *kv = reply->kvs[i];
		if (memchr(kv->key.data + strlen(NODES_PREFIX), '/',
			   kv->key.len - MIN(kv->key.len, strlen(NODES_PREFIX))) ||
		    node_record_decode(kv->value.data, kv->value.len, node, NULL) < 0)
			continue; /* a lease's key, or for another reader */
		for (uint32_t j = 0; j < volume->member_count; j++) {
			struct coordinator_member *member = &volume->members[j];
			if (strcmp(member->node_name, node->name) != 0)
				continue;
			member->node_uuid = node->uuid;
			snprintf(member->address, sizeof(member->address), "%.107s", node->address);
		}
	}
	free(node);
	for (uint32_t j = 0; j < volume->member_count; j++)
		if (uuid_is_zero(&volume->members[j].node_uuid))
			return -EAGAIN; /* the node will have to register first */
	return 0;
}

/* ---- writing ---- */

static int record_write(struct gateway_meta *meta)
{
	Holdfast__V1__MetaCompare compare = HOLDFAST__V1__META_COMPARE__INIT;
	Holdfast__V1__MetaOp put = HOLDFAST__V1__META_OP__INIT;
	Holdfast__V1__MetaTxnRequest request = HOLDFAST__V1__META_TXN_REQUEST__INIT;
	Holdfast__V1__MetaCompare *compares[] = {&compare};
	Holdfast__V1__MetaOp *puts[] = {&put};
	char key[RECORD_KEY_BYTES];
	char *text = NULL;
	struct err err = {0};

	if (volume_record_encode(&meta->record, &text, &err) < 0) {
		log_event(LOG_ERROR, "gateway", "record_refused", "vol=%s error=%s",
			  meta->volume->name, LOG_Q(err_text(&err)));
		return err.code;
	}
	volume_key(meta->volume->name, key);
	compare.key.data = put.key.data = (uint8_t *)key;
	compare.key.len = put.key.len = strlen(key);
	compare.target = COMPARE_MOD_REVISION;
	compare.relation = RELATION_EQUAL;
	compare.number = meta->mod_revision;
	put.kind = OP_PUT;
	put.value.data = (uint8_t *)text;
	put.value.len = strlen(text);
	request.compares = compares;
	request.n_compares = 1;
	request.success = puts;
	request.n_success = 1;
	meta_call(meta, "Txn", &request.base);
	free(text); /* the request is packed by now */
	return 0;
}

static int take_write(struct gateway_meta *meta)
{
	struct gateway *g = meta->volume->gateway;
	struct volume_record *record = &meta->record;

	record->epoch++;
	record->coordinator_boot_id = g->daemon->boot_id & INT64_MAX; /* JSON integers are signed */
	snprintf(record->coordinator_node, sizeof(record->coordinator_node), "%s", g->daemon->name);
	return record_write(meta);
}

/* ---- the two sequences ---- */

static int volume_was_read(struct gateway_meta *meta, const void *reply)
{
	struct gateway_volume *v = meta->volume;
	int rc = volume_decode(meta, reply);

	if (rc < 0)
		return rc;
	if (!lifecycle_attach_allowed(&meta->record, v->gateway->daemon->name, v->intent_id))
		return -ESHUTDOWN; /* G1 */
	volume_fill(meta);
	meta->phase = META_READ_NODES;
	range_send(meta, NODES_PREFIX, true);
	return -EINPROGRESS;
}

static int take_was_written(struct gateway_meta *meta, const void *message)
{
	const Holdfast__V1__MetaTxnReply *reply = message;

	if (!reply->succeeded)
		return -EAGAIN;
	return gateway_volume_taken(meta->volume, meta->record.size_bytes);
}

static int opened_was_read(struct gateway_meta *meta, const void *reply)
{
	int rc = volume_decode(meta, reply);

	if (rc < 0)
		return rc;
	if (meta->record.epoch != meta->epoch)
		return -ESHUTDOWN; /* G3 */
	meta->record.opened_epoch = meta->epoch;
	meta->phase = META_WRITE_OPENED;
	rc = record_write(meta);
	return rc < 0 ? rc : -EINPROGRESS;
}

static int opened_was_written(struct gateway_meta *meta, const void *message)
{
	const Holdfast__V1__MetaTxnReply *reply = message;

	if (reply->succeeded)
		return 0;
	if (++meta->attempts >= OPENED_ATTEMPTS_MAX)
		return -EAGAIN;
	meta->phase = META_READ_OPENED; /* something else in the record changed: again */
	volume_read(meta);
	return -EINPROGRESS;
}

static int nodes_were_read(struct gateway_meta *meta, const void *reply)
{
	int rc = nodes_fill(meta, reply);

	if (rc < 0)
		return rc;
	meta->phase = META_WRITE_TAKE;
	rc = take_write(meta);
	return rc < 0 ? rc : -EINPROGRESS;
}

/* 0 or -errno: it is over; -EINPROGRESS: the next call is under way. */
static int reply_take(struct gateway_meta *meta, const ProtobufCMessage *reply)
{
	switch (meta->phase) {
	case META_READ_VOLUME:
		return volume_was_read(meta, reply);
	case META_READ_NODES:
		return nodes_were_read(meta, reply);
	case META_WRITE_TAKE:
		return take_was_written(meta, reply);
	case META_READ_OPENED:
		return opened_was_read(meta, reply);
	case META_WRITE_OPENED:
		return opened_was_written(meta, reply);
	case META_IDLE:
		break;
	}
	return -EIO;
}

static void meta_done(struct rpc_async *async)
{
	struct gateway_meta *meta = CONTAINER_OF(async, struct gateway_meta, async);
	ProtobufCMessage *response = async->response;
	int rc = async->err.code < 0 ? -EAGAIN : 0; /* G2 */

	meta->is_running = false;
	async->response = NULL;
	if (rc == 0 && meta->volume->is_ending)
		rc = -ESHUTDOWN;
	if (rc == 0)
		rc = reply_take(meta, response);
	rpc_message_free(response);
	if (rc != -EINPROGRESS)
		meta_end(meta, rc);
}

static void meta_start(struct env_timer *timer)
{
	struct gateway_meta *meta = CONTAINER_OF(timer, struct gateway_meta, start);

	if (meta->volume->is_ending) {
		meta->is_running = false;
		meta_end(meta, -ESHUTDOWN);
		return;
	}
	volume_read(meta);
}

static void meta_begin(struct gateway_meta *meta, int phase)
{
	meta->phase = phase;
	meta->is_running = true;
	meta->attempts = 0;
	env_timer_set(meta->volume->gateway->daemon->env, &meta->start, 0);
}

static void meta_acquire(void *ctx,
			 void (*done)(void *ctx2, int status, uint64_t epoch,
				      const struct coordinator_volume *volume),
			 void *ctx2)
{
	struct gateway_meta *meta = ctx;

	meta->taken = done;
	meta->done_ctx = ctx2;
	meta_begin(meta, META_READ_VOLUME);
}

static void meta_opened(void *ctx, uint64_t epoch, void (*done)(void *ctx2, int status), void *ctx2)
{
	struct gateway_meta *meta = ctx;

	meta->epoch = epoch;
	meta->opened = done;
	meta->done_ctx = ctx2;
	meta_begin(meta, META_READ_OPENED);
}

void gateway_meta_init(struct gateway_meta *meta, struct gateway_volume *volume)
{
	meta->volume = volume;
	meta->start.fire = meta_start;
	meta->table = (struct coordinator_meta){
		.acquire = meta_acquire,
		.opened = meta_opened,
		.ctx = meta,
	};
}

void gateway_meta_cancel(struct gateway_meta *meta)
{
	if (meta->is_running && !env_timer_armed(&meta->start))
		rpc_async_cancel(&meta->async);
}
