/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replicas that no record names: left by a create or delete that was cut off.
 *
 * A record names a replica before it is created, and its uuid is never used twice (lifecycle.h,
 * E1), so a replica that a complete reading of all records does not name is nobody's for ever.
 *
 * G1  Nothing is deleted because metadata is missing or unreadable: every record was read, in a
 *     scan that began after the node reported the replica, and every one of them could be
 *     decoded.
 * G2  It must have been an orphan for GRACE_NS without a break, so that an operator who started
 *     a manager on the wrong (an old) metadata directory can stop it; the journal says what is
 *     coming.
 * G3  The delete names the replica's uuid: a node never removes another replica of that volume.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define GRACE_NS    30000000000ull
#define FRESH_NS    5000000000ull
#define ORPHANS_MAX 256

static bool record_names(const struct volume_record *record, const struct uuid *replica_uuid)
{
	for (uint32_t i = 0; i < record->voter_count; i++)
		if (uuid_equal(&record->voters[i].replica_uuid, replica_uuid))
			return true;
	for (uint32_t i = 0; i < record->learner_count; i++)
		if (uuid_equal(&record->learners[i].replica_uuid, replica_uuid))
			return true;
	return false;
}

static bool cache_names(struct manager *m, const struct uuid *replica_uuid)
{
	list_for_each (n, &m->volumes)
		if (record_names(&CONTAINER_OF(n, struct manager_volume, link)->record,
				 replica_uuid))
			return true;
	return false;
}

static struct manager_orphan *orphan_find(struct manager *m, const struct uuid *replica_uuid)
{
	list_for_each (n, &m->orphans) {
		struct manager_orphan *orphan = CONTAINER_OF(n, struct manager_orphan, link);
		if (uuid_equal(&orphan->replica_uuid, replica_uuid))
			return orphan;
	}
	return NULL;
}

static void orphan_drop(struct manager *m, struct manager_orphan *orphan)
{
	list_remove(&orphan->link);
	m->orphan_count--;
	free(orphan);
}

static void orphan_add(struct manager *m, const struct manager_node *node,
		       const Holdfast__V1__ReplicaInfo *listed, const struct uuid *replica_uuid)
{
	struct manager_orphan *orphan =
		m->orphan_count < ORPHANS_MAX ? calloc(1, sizeof(*orphan)) : NULL;
	if (orphan == NULL)
		return; /* with a later report */
	orphan->manager = m;
	orphan->replica_uuid = *replica_uuid;
	if (uuid_parse(listed->volume, &orphan->volume_uuid) < 0 ||
	    uuid_parse(listed->store_uuid, &orphan->store_uuid) < 0) {
		free(orphan);
		return;
	}
	memcpy(orphan->node, node->record.name, sizeof(orphan->node));
	orphan->since_ns = orphan->told_ns = env_now_ns(m->env);
	list_push_back(&m->orphans, &orphan->link);
	m->orphan_count++;
	char object[96];
	snprintf(object, sizeof(object), "node/%s", node->record.name);
	manager_event(m, EVENT_WARN, object, "OrphanFound",
		      "replica %s of volume %s is in no record; it is deleted in %d s",
		      listed->replica_uuid, listed->volume, (int)(GRACE_NS / 1000000000));
}

void manager_orphans_note(struct manager *m, struct manager_node *node)
{
	for (size_t i = 0; i < node->report->n_replicas; i++) {
		const Holdfast__V1__ReplicaInfo *listed = node->report->replicas[i];
		struct uuid replica_uuid;
		if (uuid_parse(listed->replica_uuid, &replica_uuid) < 0 ||
		    cache_names(m, &replica_uuid))
			continue;
		struct manager_orphan *orphan = orphan_find(m, &replica_uuid);
		if (orphan != NULL)
			orphan->told_ns = env_now_ns(m->env);
		else
			orphan_add(m, node, listed, &replica_uuid);
	}
}

/* ---- deleting ---- */

static void orphan_deleted(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct manager_orphan *orphan = CONTAINER_OF(request, struct manager_orphan, request);
	struct manager *m = orphan->manager;
	(void)frame;
	orphan->is_deleting = false;
	if (status < 0)
		return; /* tried again by the next scan */
	char object[96], uuid[UUID_TEXT_BYTES];
	uuid_format(&orphan->replica_uuid, uuid);
	snprintf(object, sizeof(object), "node/%s", orphan->node);
	manager_event(m, EVENT_INFO, object, "OrphanDeleted", "replica %s", uuid);
	orphan_drop(m, orphan);
}

static void orphan_delete(struct manager *m, struct manager_orphan *orphan)
{
	struct manager_node *node = manager_node_find(m, orphan->node);
	if (node == NULL || node->peer == NULL || !node->record.online)
		return;
	orphan->is_deleting = true;
	orphan->body = (struct wire_target){.volume_uuid = orphan->volume_uuid,
					    .replica_uuid = orphan->replica_uuid,
					    .store_uuid = orphan->store_uuid};
	orphan->request.done = orphan_deleted;
	orphan->request.timeout_ns = 2000000000ull;
	orphan->request.out.header = (struct wire_header){.type = le16_make(WIRE_DELETE)};
	orphan->request.out.iov[1] = (struct iovec){&orphan->body, sizeof(orphan->body)};
	orphan->request.out.iov_count = 2;
	peer_request(node->peer, WIRE_KIND_CONTROL, &orphan->request);
}

/* ---- the scan (G1) ---- */

/* Takes back whoever this record names. */
static int scan_record(struct manager *m, const struct meta_kv *kv)
{
	struct volume_record record;
	int rc = volume_record_decode(kv->value, kv->value_bytes, &record, NULL);
	if (rc < 0)
		return rc;
	list_for_each_safe (n, &m->orphans) {
		struct manager_orphan *orphan = CONTAINER_OF(n, struct manager_orphan, link);
		if (!orphan->is_deleting && record_names(&record, &orphan->replica_uuid))
			orphan_drop(m, orphan);
	}
	return 0;
}

static bool orphan_is_due(const struct manager *m, const struct manager_orphan *orphan,
			  uint64_t now_ns)
{
	return !orphan->is_deleting && orphan->told_ns <= m->orphan_scan_ns &&
	       orphan->told_ns + FRESH_NS > now_ns && now_ns >= orphan->since_ns + GRACE_NS;
}

static void scan_done(struct meta_range *range, int status)
{
	struct manager *m = CONTAINER_OF(range, struct manager, orphan_range);
	for (uint32_t i = 0; status == 0 && i < range->kv_count; i++)
		status = scan_record(m, &range->kvs[i]);
	if (status == 0 && range->more) {
		meta_range(m->meta, range);
		return;
	}
	uint64_t now_ns = env_now_ns(m->env);
	list_for_each (n, &m->orphans) {
		struct manager_orphan *orphan = CONTAINER_OF(n, struct manager_orphan, link);
		if (status == 0 && !m->records_bad && !m->is_stopping &&
		    orphan_is_due(m, orphan, now_ns))
			orphan_delete(m, orphan);
	}
	m->orphan_scan_ns = 0;
	if (status < 0)
		log_event(LOG_WARN, "manager", "orphan_scan_failed", "error=%s", err_name(status));
}

void manager_orphans_check(struct manager *m)
{
	uint64_t now_ns = env_now_ns(m->env);
	bool any_due = false;
	if (m->orphan_scan_ns != 0 || m->records_bad)
		return;
	list_for_each_safe (n, &m->orphans) {
		struct manager_orphan *orphan = CONTAINER_OF(n, struct manager_orphan, link);
		if (!orphan->is_deleting && now_ns > orphan->told_ns + FRESH_NS)
			orphan_drop(m, orphan); /* not reported any more */
		else if (!orphan->is_deleting && now_ns >= orphan->since_ns + GRACE_NS)
			any_due = true;
	}
	if (!any_due)
		return;
	m->orphan_scan_ns = now_ns;
	m->orphan_range =
		(struct meta_range){.key = VOLUMES_PREFIX, .is_prefix = true, .done = scan_done};
	meta_range(m->meta, &m->orphan_range);
}
