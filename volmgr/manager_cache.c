/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the manager knows of the records: every volume and export, read once and then kept by
 * watches, so that status and checks need no reads.
 *
 * K1  The cache is for showing and for refusing early. Whatever changes a record does so by
 *     compare-and-swap on what it read itself (lifecycle.h).
 * K2  A record in the cache never goes back to an older revision: an operation that knows a newer
 *     one than the watch has told puts it in at once, so a reply never shows less than the last.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

struct manager_volume *manager_volume_find(struct manager *m, const char *name)
{
	list_for_each (n, &m->volumes) {
		struct manager_volume *volume = CONTAINER_OF(n, struct manager_volume, link);
		if (strcmp(volume->record.name, name) == 0)
			return volume;
	}
	return NULL;
}

static void volume_insert(struct manager *m, struct manager_volume *volume)
{
	struct list *at = m->volumes.next;
	while (at != &m->volumes) {
		struct manager_volume *other = CONTAINER_OF(at, struct manager_volume, link);
		if (strcmp(other->record.name, volume->record.name) > 0)
			break;
		at = at->next;
	}
	list_push_back(at, &volume->link); /* before `at` */
	m->volume_count++;
}

struct manager_volume *manager_volume_put(struct manager *m, const struct volume_record *record,
					  int64_t mod_revision)
{
	struct manager_volume *volume = manager_volume_find(m, record->name);
	if (volume == NULL) {
		volume = calloc(1, sizeof(*volume));
		if (volume == NULL)
			return NULL;
		volume->record = *record;
		volume->mod_revision = mod_revision;
		volume_insert(m, volume);
		return volume;
	}
	if (mod_revision < volume->mod_revision)
		return volume;
	if (record->intent_id != volume->record.intent_id) {
		volume->resume_after_ns = 0;
		volume->resume_failures = 0;
	}
	if (record->state == VOLUME_BOUND && volume->record.state != VOLUME_BOUND)
		volume->bound_ns = env_now_ns(m->env);
	volume->record = *record;
	volume->mod_revision = mod_revision;
	return volume;
}

void manager_volume_gone(struct manager *m, const char *name, int64_t revision)
{
	struct manager_volume *volume = manager_volume_find(m, name);
	if (volume == NULL || revision < volume->mod_revision)
		return;
	list_remove(&volume->link);
	m->volume_count--;
	rpc_message_free((ProtobufCMessage *)volume->report);
	free(volume);
}

void manager_cache_free(struct manager *m)
{
	while (!list_empty(&m->volumes)) {
		struct manager_volume *volume =
			CONTAINER_OF(m->volumes.next, struct manager_volume, link);
		list_remove(&volume->link);
		rpc_message_free((ProtobufCMessage *)volume->report);
		free(volume);
	}
}

/* ---- taking keys in ---- */

static int volume_take(struct manager *m, const struct meta_kv *kv, struct err *err)
{
	struct volume_record record;
	struct err why = {0};
	int rc = volume_record_decode(kv->value, kv->value_bytes, &record, &why);
	if (rc == -ENOTSUP)
		return err_set(err, rc, "'%.100s': %.300s", kv->key, err_text(&why));
	if (rc < 0) {
		m->records_bad = true;
		log_event(LOG_ERROR, "manager", "record_bad", "key=%s error=%s", LOG_Q(kv->key),
			  LOG_Q(err_text(&why)));
		return 0;
	}
	if (manager_volume_put(m, &record, kv->mod_revision) == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	return 0;
}

static void export_take(struct manager *m, const struct meta_kv *kv)
{
	struct export_record record;
	struct err why = {0};
	if (export_record_decode(kv->value, kv->value_bytes, &record, &why) < 0) {
		log_event(LOG_ERROR, "manager", "record_bad", "key=%s error=%s", LOG_Q(kv->key),
			  LOG_Q(err_text(&why)));
		return;
	}
	struct manager_volume *volume = manager_volume_find(m, record.volume);
	if (volume == NULL)
		return; /* left behind by a crash; its volume is gone */
	volume->has_export = true;
	volume->export = record;
}

static int node_take(struct manager *m, const struct meta_kv *kv, struct err *err)
{
	struct node_record record;
	struct err why = {0};
	int rc = node_record_decode(kv->value, kv->value_bytes, &record, &why);
	if (rc < 0)
		return err_set(err, rc, "'%.100s': %.300s", kv->key, err_text(&why));
	record.online = false; /* until it is heard */
	return manager_node_add(m, &record) == NULL ? err_set(err, -ENOMEM, "out of memory") : 0;
}

static int event_take(struct manager *m, const struct meta_kv *kv)
{
	struct event_record record;
	if (event_record_decode(kv->value, kv->value_bytes, &record, NULL) == 0)
		m->event_seq = MAX(m->event_seq, record.seq);
	return 0;
}

/* ---- reading all ---- */

struct load {
	struct meta_range range;
	struct manager *m;
	struct err *err;
	int64_t first_revision;
	int rc;
	bool is_over;
};

static int load_take(struct load *load, const struct meta_kv *kv)
{
	struct manager *m = load->m;
	if (strcmp(load->range.key, VOLUMES_PREFIX) == 0)
		return volume_take(m, kv, load->err);
	if (strcmp(load->range.key, NODES_PREFIX) == 0)
		return node_take(m, kv, load->err);
	if (strcmp(load->range.key, EXPORTS_PREFIX) == 0)
		export_take(m, kv);
	else
		event_take(m, kv);
	return 0;
}

static void load_done(struct meta_range *range, int status)
{
	struct load *load = CONTAINER_OF(range, struct load, range);
	if (status < 0)
		load->rc = err_set(load->err, status, "reading '%s': %s", range->key,
				   strerror(-status));
	if (load->first_revision < 0)
		load->first_revision = range->revision;
	for (uint32_t i = 0; load->rc == 0 && i < range->kv_count; i++)
		load->rc = load_take(load, &range->kvs[i]);
	if (load->rc == 0 && range->more)
		meta_range(load->m->meta, range);
	else
		load->is_over = true;
}

static int load_prefix(struct manager *m, const char *prefix, int64_t *ret_revision,
		       struct err *err)
{
	struct load load = {.m = m, .err = err, .first_revision = -1};
	load.range = (struct meta_range){.key = prefix, .is_prefix = true, .done = load_done};
	meta_range(m->meta, &load.range);
	loop_run_until(m->daemon->loop, &load.is_over, 0);
	if (load.rc == 0 && ret_revision != NULL)
		*ret_revision = load.first_revision;
	return load.rc;
}

/* ---- watches ---- */

static void watch_failed(struct manager *m, int status)
{
	if (m->is_stopping)
		return;
	log_event(LOG_ERROR, "manager", "watch_ended", "error=%s", err_name(status));
	m->failure = status;
	daemon_stop(m->daemon);
}

static void volumes_changed(struct meta_watch *watch, int64_t revision,
			    const struct meta_event *events, uint32_t event_count)
{
	struct manager *m = CONTAINER_OF(watch, struct manager, volume_watch);
	for (uint32_t i = 0; i < event_count; i++) {
		struct err err = {0};
		if (events[i].is_delete)
			manager_volume_gone(m, events[i].kv.key + strlen(VOLUMES_PREFIX), revision);
		else if (volume_take(m, &events[i].kv, &err) < 0)
			watch_failed(m, err.code);
	}
}

static void volumes_ended(struct meta_watch *watch, int status)
{
	watch_failed(CONTAINER_OF(watch, struct manager, volume_watch), status);
}

static void exports_changed(struct meta_watch *watch, int64_t revision,
			    const struct meta_event *events, uint32_t event_count)
{
	struct manager *m = CONTAINER_OF(watch, struct manager, export_watch);
	(void)revision;
	for (uint32_t i = 0; i < event_count; i++) {
		const struct meta_kv *kv = &events[i].kv;
		if (!events[i].is_delete) {
			export_take(m, kv);
			continue;
		}
		struct manager_volume *volume =
			manager_volume_find(m, kv->key + strlen(EXPORTS_PREFIX));
		if (volume != NULL)
			volume->has_export = false;
	}
}

static void exports_ended(struct meta_watch *watch, int status)
{
	watch_failed(CONTAINER_OF(watch, struct manager, export_watch), status);
}

int manager_load(struct manager *m, struct err *err)
{
	int64_t volumes_revision = 0, exports_revision = 0;
	int rc = load_prefix(m, NODES_PREFIX, NULL, err);
	if (rc == 0)
		rc = load_prefix(m, VOLUMES_PREFIX, &volumes_revision, err);
	if (rc == 0)
		rc = load_prefix(m, EXPORTS_PREFIX, &exports_revision, err);
	if (rc == 0)
		rc = load_prefix(m, EVENTS_PREFIX, NULL, err);
	if (rc < 0)
		return rc;
	m->volume_watch = (struct meta_watch){.key = VOLUMES_PREFIX,
					      .is_prefix = true,
					      .from_revision = volumes_revision + 1,
					      .changed = volumes_changed,
					      .ended = volumes_ended};
	m->export_watch = (struct meta_watch){.key = EXPORTS_PREFIX,
					      .is_prefix = true,
					      .from_revision = exports_revision + 1,
					      .changed = exports_changed,
					      .ended = exports_ended};
	meta_watch_start(m->meta, &m->volume_watch);
	meta_watch_start(m->meta, &m->export_watch);
	return 0;
}
