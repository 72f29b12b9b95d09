/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions, promises and leases of the replica side.
 *
 * A session binds (connection, number) to a replica under one epoch. PREPARE(e) makes it:
 *   1. e below P, or below an epoch somebody already asked for: refused with ESTALE.
 *   2. Every session of the replica with a lower epoch is fenced at once: nothing of it is applied
 *      any more, and the grants it got so far are the last ones that cover it (a fenced coordinator
 *      learns it in stream order, before any later grant: the ACK that says so is sent first).
 *   3. The promise waits until the last lease that may cover a fenced session has run out (R3).
 *   4. PROMISE(e) is made durable and witnessed; before the first session of this boot gets its answer,
 *      LEASE is recorded, so that a restarted node knows that a lease may be out.
 *   5. e equal to P is the same coordinator coming back: its session on this kind of connection is
 *      replaced, and the positions are answered at once.
 */
#include "replication/node_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

/* ---- replicas ---- */

static struct store_replica *find_in_stores(struct node *node, const struct uuid *volume_uuid,
					    uint32_t shard, uint32_t *ret_index)
{
	for (uint32_t i = 0; i < node->store_count; i++) {
		struct store_replica *replica =
			store_replica_find(node->stores[i], volume_uuid, shard);
		if (replica != NULL) {
			*ret_index = i;
			return replica;
		}
	}
	return NULL;
}

struct node_replica *node_replica_find(struct node *node, const struct uuid *volume_uuid,
				       uint32_t shard)
{
	uint32_t index = 0;
	struct store_replica *replica = find_in_stores(node, volume_uuid, shard, &index);
	if (replica == NULL)
		return NULL;
	list_for_each (n, &node->replicas) {
		struct node_replica *nr = CONTAINER_OF(n, struct node_replica, link);
		/* A deleted replica's handle may be a new one's by now. */
		if (nr->replica == replica && !nr->deleting)
			return nr;
	}
	struct node_replica *nr = calloc(1, sizeof(*nr)); /* once per replica, not per request */
	if (nr == NULL)
		return NULL;
	struct store_replica_info info;
	store_replica_info(replica, &info);
	nr->node = node;
	nr->store = node->stores[index];
	nr->replica = replica;
	nr->volume_uuid = *volume_uuid;
	nr->promising = info.promised;
	list_init(&nr->sessions);
	/* A lease of an earlier boot, or of an earlier life of the store, may still be out: it was granted
	 * before the store came to us. */
	if (info.lease_term_ns > 0)
		nr->lease_block_ns = node->stores_added_ns[index] + info.lease_term_ns;
	list_push_back(&node->replicas, &nr->link);
	return nr;
}

void node_replica_drop(struct node_replica *nr)
{
	if (!nr->deleting || !list_empty(&nr->sessions))
		return;
	list_remove(&nr->link);
	free(nr);
}

/* ---- acknowledgements ---- */

static void ack_send(struct node_session *session);

static void ack_sent(struct link_send *send, int status)
{
	(void)status;
	struct node_session *session = CONTAINER_OF(send, struct node_session, ack);
	session->ack_busy = false;
	session->ops--;
	if (!session->dead)
		ack_send(session);
	node_session_unref(session);
}

static void ack_send(struct node_session *session)
{
	struct node_conn *conn = session->conn;
	if (session->fenced)
		return; /* its last word is the fence's */
	bool shadow = session->shadow_last_seq > session->acked_shadow_seq;
	bool position = shadow || session->last_seq > session->acked_seq;
	bool trouble = session->stream_status != 0 && !session->stream_status_told;
	if (session->ack_busy || session->dead || conn->io == NULL || (!position && !trouble))
		return;
	session->ack_body = (struct wire_ack){
		.epoch = le64_make(session->epoch),
		.last_seq = le64_make(shadow ? session->shadow_last_seq : session->last_seq),
		.free_blocks = le64_make(store_free_blocks(session->nr->store)),
		.shadow = le32_make(shadow),
		.status = le32_make(wire_status_from(session->stream_status)),
		.checkpoint_seq = le64_make(store_replica_checkpoint_seq(session->nr->replica)),
	};
	if (shadow)
		session->acked_shadow_seq = session->shadow_last_seq;
	else
		session->acked_seq = session->last_seq;
	session->stream_status_told = session->stream_status != 0;
	session->ack_busy = true;
	session->ops++;
	session->ack.header = (struct wire_header){
		.type = le16_make(WIRE_ACK),
		.session = le32_make(session->id),
	};
	session->ack.iov[1] = (struct iovec){&session->ack_body, sizeof(session->ack_body)};
	session->ack.iov_count = 2;
	session->ack.done = ack_sent;
	conn->node->counters.frames_out++;
	link_send(conn->io, &session->ack);
}

static void ack_fire(struct env_timer *timer)
{
	ack_send(CONTAINER_OF(timer, struct node_session, ack_timer));
}

/* All entries of a batch become stable in one turn of the loop; one ACK tells them all. */
void node_ack_later(struct node_session *session)
{
	if (!session->dead && !session->ack_busy && !env_timer_armed(&session->ack_timer))
		env_timer_set(session->conn->node->env, &session->ack_timer, 0);
}

/* ---- sessions ---- */

struct node_session *node_session_find(struct node_conn *conn, uint32_t id)
{
	struct node_session *session = conn->sessions[id % NODE_SESSIONS_PER_CONN_MAX];
	return session != NULL && session->id == id ? session : NULL;
}

void node_session_unref(struct node_session *session)
{
	if (!session->dead || session->ops > 0)
		return;
	struct node_replica *nr = session->nr;
	list_remove(&session->replica_link);
	free(session);
	node_replica_drop(nr);
}

/*
 * Late frames of a session that was replaced are answered, not punished. Those of the stream have
 * no reply, but silence would be taken for a slow disk: an ACK says that nobody listens.
 */
void node_session_missing(struct node_conn *conn, const struct link_frame *frame)
{
	struct node_op *op = node_op_get(conn, NULL, frame);
	le64 epoch; /* what the bodies of APPEND and COMMIT begin with */
	if ((op->type != WIRE_APPEND && op->type != WIRE_COMMIT) ||
	    frame->body_bytes < sizeof(epoch)) {
		node_reply(op, WIRE_DONE, -ESTALE, 0);
		return;
	}
	memcpy(&epoch, frame->body, sizeof(epoch));
	struct wire_ack *ack = (struct wire_ack *)op->body;
	*ack = (struct wire_ack){.epoch = epoch, .status = le32_make(WIRE_ENOENT)};
	op->request_id = 0;
	node_reply(op, WIRE_ACK, 0, sizeof(*ack));
}

static void session_kill(struct node_session *session)
{
	if (session->dead)
		return;
	struct node_conn *conn = session->conn;
	env_timer_cancel(conn->node->env, &session->ack_timer);
	if (conn->sessions[session->id % NODE_SESSIONS_PER_CONN_MAX] == session)
		conn->sessions[session->id % NODE_SESSIONS_PER_CONN_MAX] = NULL;
	session->dead = true;
	session->fenced = true;
	node_session_unref(session);
}

static uint64_t session_lease_ns(const struct node_session *session)
{
	if (session->conn->kind != WIRE_KIND_CLIENT)
		return 0;
	return session->fenced ? session->lease_until_ns : session->conn->lease_until_ns;
}

static void fence_sent(struct link_send *send, int status)
{
	(void)status;
	struct node_session *session = CONTAINER_OF(send, struct node_session, fence_ack);
	session->ops--;
	node_session_unref(session);
}

/* Told at once, in stream order, before any later lease grant on this connection. */
/* status: what the coordinator is told; ESTALE ends it, EIO only this replica of it. */
static void session_fence(struct node_session *session, int status)
{
	if (session->fenced)
		return;
	session->lease_until_ns = session_lease_ns(session);
	session->fenced = true;
	if (session->conn->io == NULL)
		return;
	session->fence_ack_body = (struct wire_ack){
		.epoch = le64_make(session->epoch),
		.last_seq = le64_make(session->acked_seq),
		.status = le32_make(wire_status_from(status)),
	};
	session->ops++;
	session->fence_ack.header = (struct wire_header){
		.type = le16_make(WIRE_ACK),
		.session = le32_make(session->id),
	};
	session->fence_ack.iov[1] =
		(struct iovec){&session->fence_ack_body, sizeof(session->fence_ack_body)};
	session->fence_ack.iov_count = 2;
	session->fence_ack.done = fence_sent;
	session->conn->node->counters.frames_out++;
	link_send(session->conn->io, &session->fence_ack);
}

void node_replica_fence(struct node_replica *nr, uint64_t below_epoch, int status)
{
	list_for_each_safe (n, &nr->sessions) {
		struct node_session *session = CONTAINER_OF(n, struct node_session, replica_link);
		if (session->epoch < below_epoch && !session->dead)
			session_fence(session, status);
	}
}

void node_sessions_end(struct node_conn *conn, bool clean)
{
	for (uint32_t i = 0; i < NODE_SESSIONS_PER_CONN_MAX; i++) {
		struct node_session *session = conn->sessions[i];
		if (session == NULL)
			continue;
		if (!clean)
			session->nr->lease_block_ns =
				MAX(session->nr->lease_block_ns, session_lease_ns(session));
		session_kill(session);
	}
}

/* When the last lease that may cover another session of this replica has run out; 0: none is out. */
static uint64_t lease_block_ns(struct node_replica *nr, uint64_t epoch)
{
	uint64_t until_ns = nr->lease_block_ns;
	list_for_each (n, &nr->sessions) {
		const struct node_session *session =
			CONTAINER_OF(n, struct node_session, replica_link);
		if (session->epoch < epoch && !session->dead)
			until_ns = MAX(until_ns, session_lease_ns(session));
	}
	return until_ns;
}

static struct node_session *session_create(struct node_conn *conn, struct node_replica *nr,
					   uint32_t id, uint64_t epoch)
{
	struct node_session *session = calloc(1, sizeof(*session)); /* per attach, not per I/O */
	if (session == NULL)
		return NULL;
	session->conn = conn;
	session->nr = nr;
	session->id = id;
	session->epoch = epoch;
	session->ack_timer.fire = ack_fire;
	list_push_back(&nr->sessions, &session->replica_link);
	conn->sessions[id % NODE_SESSIONS_PER_CONN_MAX] = session;
	return session;
}

/* ---- PREPARE ---- */

void node_position(struct store_replica *replica, struct store *store, struct wire_promise *ret)
{
	struct store_replica_info r;
	store_replica_info(replica, &r);
	*ret = (struct wire_promise){
		.promised = le64_make(r.promised),
		.log_epoch = le64_make(r.log_epoch),
		.last_seq = le64_make(r.last_seq),
		.last_hash = le64_make(r.last_hash),
		.commit_seq = le64_make(r.commit_seq),
		.commit_hash = le64_make(r.commit_hash),
		.floor_seq = le64_make(r.floor_seq),
		.suspect_after = le64_make(r.suspect ? r.suspect_after : 0),
		.suspect_until = le64_make(r.suspect ? r.suspect_until : 0),
		.size_blocks = le64_make(r.spec.size_blocks),
		.free_blocks = le64_make(store_free_blocks(store)),
		.used_blocks = le64_make(r.used_blocks),
		.shadow_last_seq = le64_make(r.shadow ? r.shadow_last_seq : 0),
		.checkpoint_seq = le64_make(r.checkpoint_seq),
		.settled_seq = le64_make(r.settled_seq),
	};
}

static void answer_promise(struct node_op *op, struct node_replica *nr, int status)
{
	struct wire_promise *promise = (struct wire_promise *)op->body;
	if (nr != NULL)
		node_position(nr->replica, nr->store, promise);
	else
		memset(promise, 0, sizeof(*promise));
	node_reply(op, WIRE_PROMISE, status, sizeof(*promise));
}

/* Appends of sessions that ended, still in the store's hands. */
static bool dead_appends(const struct node_replica *nr)
{
	list_for_each (n, &nr->sessions) {
		const struct node_session *session =
			CONTAINER_OF(n, struct node_session, replica_link);
		if (session->dead && session->appends > 0)
			return true;
	}
	return false;
}

void node_append_over(struct node_session *session)
{
	struct node *node = session->conn->node;
	session->appends--;
	if (session->dead && session->appends == 0 && !list_empty(&node->waiting) &&
	    (!env_timer_armed(&node->wait_timer) ||
	     node->wait_timer.deadline_ns > env_now_ns(node->env)))
		env_timer_set(node->env, &node->wait_timer, 0);
}

/* The promise is durable: bind the session and answer. */
static void promise_finish(struct node_op *op)
{
	struct node_conn *conn = op->conn;
	struct node_replica *nr = node_replica_find(op->node, &op->prepare.target.volume_uuid,
						    le32_get(op->prepare.target.shard));
	uint64_t epoch = le64_get(op->prepare.epoch);
	uint32_t id = le32_get(op->prepare.session);
	if (nr == NULL || conn->io == NULL || op->node->stopping) {
		answer_promise(op, NULL, -ENOENT);
		return;
	}
	if (nr->promising != epoch) { /* somebody higher came while we worked */
		answer_promise(op, nr, -ESTALE);
		return;
	}
	/* The same coordinator again on this kind of connection: its old session is void, but what it
	 * sent may still become stable: the positions are only final when nothing of it is under way. */
	list_for_each_safe (n, &nr->sessions) {
		struct node_session *old = CONTAINER_OF(n, struct node_session, replica_link);
		if (old->dead || old->conn->kind != conn->kind || old->epoch != epoch)
			continue;
		if (old->conn == conn && (int32_t)(old->id - id) > 0) {
			answer_promise(op, nr,
				       -ESTALE); /* it was asked again before we came to this */
			return;
		}
		session_kill(old); /* may free it */
	}
	if (dead_appends(nr)) {
		list_push_back(&op->node->waiting, &op->link); /* node_append_over() wakes it */
		return;
	}
	struct node_session *stale = conn->sessions[id % NODE_SESSIONS_PER_CONN_MAX];
	if (stale != NULL && stale->fenced) { /* left behind by a volume that moved on */
		stale->nr->lease_block_ns = MAX(stale->nr->lease_block_ns, session_lease_ns(stale));
		session_kill(stale);
	}
	if (conn->sessions[id % NODE_SESSIONS_PER_CONN_MAX] != NULL) {
		answer_promise(op, nr, -EBUSY);
		return;
	}
	struct node_session *session = session_create(conn, nr, id, epoch);
	if (session == NULL) {
		answer_promise(op, nr, -EBUSY);
		return;
	}
	struct store_replica_info info;
	store_replica_info(nr->replica, &info);
	session->last_seq = session->acked_seq = info.last_seq;
	session->shadow_last_seq = session->acked_shadow_seq = info.shadow_last_seq;
	answer_promise(op, nr, 0);
}

static void lease_logged(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.lease.op);
	struct node_replica *nr = node_replica_find(op->node, &op->prepare.target.volume_uuid,
						    le32_get(op->prepare.target.shard));
	if (status < 0) {
		answer_promise(op, nr, status);
		return;
	}
	if (nr != NULL)
		nr->lease_logged = true;
	promise_finish(op);
}

static void lease_log(struct node_op *op, struct node_replica *nr)
{
	if (nr->lease_logged || op->conn->kind != WIRE_KIND_CLIENT) {
		promise_finish(op);
		return;
	}
	op->u.lease = (struct store_lease){
		.op.done = lease_logged,
		.boot_id = op->node->boot_id,
		.term_ns = NODE_LEASE_TERM_NS,
	};
	store_lease(nr->replica, &op->u.lease);
}

static void promise_durable(struct store_op *store_op, int status)
{
	struct node_op *op = CONTAINER_OF(store_op, struct node_op, u.promise.op);
	struct node_replica *nr = node_replica_find(op->node, &op->prepare.target.volume_uuid,
						    le32_get(op->prepare.target.shard));
	if (status < 0 || nr == NULL) {
		answer_promise(op, nr, nr == NULL ? -ENOENT : status);
		return;
	}
	lease_log(op, nr);
}

/* Runs again whenever a lease it waits for may be over. */
static void prepare_try(struct node_op *op)
{
	struct node *node = op->node;
	uint64_t epoch = le64_get(op->prepare.epoch);
	struct node_replica *nr = node_replica_find(node, &op->prepare.target.volume_uuid,
						    le32_get(op->prepare.target.shard));
	if (nr == NULL) {
		answer_promise(op, NULL, -ENOENT);
		return;
	}
	if (epoch < nr->promising) {
		answer_promise(op, nr, -ESTALE);
		return;
	}
	struct store_replica_info info;
	store_replica_info(nr->replica, &info);
	if (epoch == info.promised) {
		lease_log(op, nr);
		return;
	}
	nr->promising = epoch;
	node_replica_fence(nr, epoch, -ESTALE);
	uint64_t until_ns = lease_block_ns(nr, epoch);
	if (until_ns > env_now_ns(node->env)) {
		op->wait_until_ns = until_ns;
		list_push_back(&node->waiting, &op->link);
		if (!env_timer_armed(&node->wait_timer) || node->wait_timer.deadline_ns > until_ns)
			env_timer_set(node->env, &node->wait_timer, until_ns);
		return;
	}
	op->u.promise = (struct store_promise){.op.done = promise_durable, .epoch = epoch};
	store_promise(nr->replica, &op->u.promise);
}

void node_waiting_check(struct node *node)
{
	if (node->stopping)
		return;
	struct list retry;
	list_init(&retry);
	list_splice_back(&retry, &node->waiting);
	struct list *n;
	while ((n = list_pop_front(&retry)) != NULL)
		prepare_try(CONTAINER_OF(n, struct node_op, link)); /* may put itself back */
}

void node_prepare(struct node_conn *conn, const struct link_frame *frame)
{
	struct node_op *op = node_op_get(conn, NULL, frame);
	if (frame->body_bytes != sizeof(op->prepare) || frame->payload_bytes != 0) {
		node_reply(op, WIRE_PROMISE, -EINVAL, 0);
		return;
	}
	memcpy(&op->prepare, frame->body, sizeof(op->prepare));
	struct node_replica *nr = node_replica_find(conn->node, &op->prepare.target.volume_uuid,
						    le32_get(op->prepare.target.shard));
	struct store_replica_info info;
	if (nr != NULL)
		store_replica_info(nr->replica, &info);
	if (nr == NULL || !uuid_equal(&info.spec.replica_uuid, &op->prepare.target.replica_uuid)) {
		answer_promise(op, NULL, -ENOENT); /* a reformatted store is nobody */
		return;
	}
	if (le64_get(op->prepare.epoch) == 0 || le32_get(op->prepare.session) == 0) {
		answer_promise(op, nr, -EINVAL);
		return;
	}
	prepare_try(op);
}

void node_status(struct node_conn *conn, const struct link_frame *frame)
{
	struct node_op *op = node_op_get(conn, NULL, frame);
	struct wire_target target;
	if (frame->body_bytes != sizeof(target)) {
		node_reply(op, WIRE_PROMISE, -EINVAL, 0);
		return;
	}
	memcpy(&target, frame->body, sizeof(target));
	struct node_replica *nr =
		node_replica_find(conn->node, &target.volume_uuid, le32_get(target.shard));
	answer_promise(op, nr, nr == NULL ? -ENOENT : 0);
}

/* ---- the clean stop ---- */

struct lease_walk {
	struct node *node;
	uint64_t until_ns;
};

static struct node_replica *leased_replica(struct node *node, struct store_replica *replica)
{
	struct store_replica_info info;
	store_replica_info(replica, &info);
	return info.lease_term_ns == 0
		       ? NULL
		       : node_replica_find(node, &info.spec.volume_uuid, info.spec.shard);
}

static void lease_until(void *ctx, struct store_replica *replica)
{
	struct lease_walk *walk = ctx;
	const struct node_replica *nr = leased_replica(walk->node, replica);
	if (nr != NULL)
		walk->until_ns = MAX(walk->until_ns, nr->lease_block_ns);
}

uint64_t node_leases_until_ns(struct node *node)
{
	struct lease_walk walk = {node, 0};
	for (uint32_t i = 0; i < node->store_count; i++)
		store_replica_each(node->stores[i], lease_until, &walk);
	return walk.until_ns;
}

/* A store that refuses has failed: its LEASE stands, and its next life waits. */
static void lease_none_done(struct store_op *op, int status)
{
	(void)status;
	struct store_lease *lease = CONTAINER_OF(op, struct store_lease, op);
	struct node_replica *nr = CONTAINER_OF(lease, struct node_replica, lease_none);
	if (--nr->node->leases_none_out == 0)
		node_leases_ended(nr->node);
}

static void lease_none(void *ctx, struct store_replica *replica)
{
	struct node *node = ctx;
	struct node_replica *nr = leased_replica(node, replica);
	if (nr == NULL || nr->lease_none_tried)
		return;
	nr->lease_none_tried = true;
	nr->lease_none = (struct store_lease){.op.done = lease_none_done};
	node->leases_none_out++;
	store_lease(replica, &nr->lease_none);
}

bool node_leases_end(struct node *node)
{
	for (uint32_t i = 0; i < node->store_count; i++)
		store_replica_each(node->stores[i], lease_none, node);
	return node->leases_none_out == 0;
}

/* Renews (or with term 0 releases) the read lease of everything that this connection attached. */
void node_lease(struct node_conn *conn, const struct link_frame *frame)
{
	struct node_op *op = node_op_get(conn, NULL, frame);
	struct wire_lease lease;
	if (frame->body_bytes != sizeof(lease) || conn->kind != WIRE_KIND_CLIENT) {
		node_reply(op, WIRE_DONE, -EINVAL, 0);
		return;
	}
	memcpy(&lease, frame->body, sizeof(lease));
	uint64_t term_ns = le64_get(lease.term_ns);
	if (term_ns > NODE_LEASE_TERM_NS) {
		node_reply(op, WIRE_DONE, -EINVAL, 0);
		return;
	}
	conn->lease_until_ns = term_ns == 0 ? 0 : env_now_ns(conn->node->env) + term_ns;
	if (term_ns == 0) {
		/* The coordinator gave up reading under it: also what fenced sessions were granted. */
		for (uint32_t i = 0; i < NODE_SESSIONS_PER_CONN_MAX; i++)
			if (conn->sessions[i] != NULL)
				conn->sessions[i]->lease_until_ns = 0;
	}
	node_reply(op, WIRE_DONE, 0, 0);
	if (term_ns == 0)
		node_waiting_check(conn->node);
}
